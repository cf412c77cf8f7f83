"""Rows of cells -> counts of codes, jointly with classes and inputs, for a block of snapshots at once.

Cells of a chunk that stays in cache, 64-bit row keys (`_keys`), the class label in the low bits, one sort per
snapshot, run lengths (`_runs`). Runs of the whole key are the joint counts n(t, y), runs of the key without
its low bits are n(t): one sort serves both.

Memory beyond the block: one group of snapshots at a time (64 Ki rows on a CPU), a few 64-bit numbers per row
of the group, and one scratch chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from infoplane.estimators._keys import RowKeys, label_bits
from infoplane.estimators._runs import Runs, argsort_rows, find_runs, sort_rows

GROUP_ROWS = 65_536
CHUNK_ELEMENTS = 131_072
_CUDA_FACTOR = 128
_JOINT_CLASSES = 256
_PROBE_UNITS = 32


class Digitizer(Protocol):
    """Maps values to cells: whole numbers in [low, low + radix)."""

    low: int
    radix: int
    digits: int

    def __call__(self, values: Tensor, snapshots: slice, units: slice) -> Tensor:
        """Cells (s, n, u * digits) of `values` (s, n, u), in any dtype; may be scratch of the digitizer."""
        ...


@dataclass(frozen=True)
class Labels:
    """What every snapshot of a block shares: classes and input ids, renumbered from 0.

    Attributes
    ----------
    y, x_ids : (N,) int64
    classes, inputs : int
    class_counts : (K,) int64
    label_of_input : (inputs,) int64, or None where rows of one input differ in their label
    uniform : bool
        Every input has the same number of rows.
    """

    y: Tensor
    x_ids: Tensor
    classes: int
    inputs: int
    class_counts: Tensor
    label_of_input: Tensor | None
    uniform: bool

    @classmethod
    def of(cls, y: Tensor, x_ids: Tensor) -> Labels:
        class_counts, input_counts = torch.bincount(y), torch.bincount(x_ids)
        label_of_input = torch.zeros_like(input_counts).scatter_(0, x_ids, y)
        one_label = bool((label_of_input[x_ids] == y).all())
        return cls(
            y=y,
            x_ids=x_ids,
            classes=len(class_counts),
            inputs=len(input_counts),
            class_counts=class_counts,
            label_of_input=label_of_input if one_label else None,
            uniform=bool((input_counts == input_counts[0]).all()),
        )

    @property
    def samples(self) -> int:
        return len(self.y)

    @property
    def distinct(self) -> bool:
        """No two rows share an input."""
        return self.inputs == self.samples

    def pairs(self) -> tuple[Tensor, int]:
        """(N,) numbers of the pairs (input, label), and how many there are."""
        found, ids = torch.unique(self.x_ids * self.classes + self.y, return_inverse=True)
        return ids, len(found)


@dataclass
class Group:
    """Run lengths of some snapshots: codes, codes with labels, and what duplicated inputs need."""

    snapshots: slice
    t: Runs
    ty: Runs
    tx: Runs | None = None
    txy: Runs | None = None
    order: Tensor | None = None  # (G, N) rows sorted by code, only where rows share inputs
    ids: Tensor | None = None  # (G, N) code numbers of the sorted rows


def groups(t: Tensor, labels: Labels, digitize: Digitizer) -> Iterator[Group]:
    """Count the codes of a block (S, N, U), a bounded number of snapshots at a time."""
    snapshots, samples, _ = t.shape
    factor = _CUDA_FACTOR if t.is_cuda else 1
    counter = _Counter(t, labels, digitize, CHUNK_ELEMENTS * factor)
    size = max(1, GROUP_ROWS * factor // samples)
    for start in range(0, snapshots, size):
        yield counter.count(slice(start, min(start + size, snapshots)))


class _Counter:
    def __init__(self, t: Tensor, labels: Labels, digitize: Digitizer, chunk: int) -> None:
        self.t, self.labels, self.digitize, self.chunk = t, labels, digitize, chunk
        self.units = t.shape[2] * digitize.digits
        self.joint = labels.distinct and labels.classes <= _JOINT_CLASSES
        self.bits = label_bits(labels.classes) if self.joint else 0
        self.keys_of = self._row_keys(self.units)
        rows = max(1, chunk // self.units)
        self.cells = torch.empty(rows * self.units, dtype=torch.float64, device=t.device)
        # Rows that differ on a few units differ: where those tell all rows apart, the other units are not read.
        self.stride = 0
        if self.joint and t.shape[2] >= 2 * _PROBE_UNITS and t.shape[1] * self.units >= chunk:
            self.stride = t.shape[2] // _PROBE_UNITS
            self.probe_keys = self._row_keys(len(range(0, t.shape[2], self.stride)) * digitize.digits)

    def _row_keys(self, units: int) -> RowKeys:
        return RowKeys(units, self.digitize.radix, self.digitize.low, self.bits, self.t.device)

    def count(self, snapshots: slice) -> Group:
        block, first = self.t[snapshots], snapshots.start
        if self.stride and len(block) == 1:
            early = self._count_early(block, first)
            if early is not None:
                return early
        keys = self._keys(block, first, self.keys_of)
        if self.joint:
            return Group(snapshots, *self._joint_runs(keys, self.labels.y))
        return self._count_ranked(keys, snapshots)

    def _joint_runs(self, keys: Tensor, y: Tensor) -> tuple[Runs, Runs]:
        if self.bits == 0:
            runs = find_runs(sort_rows(keys))
            return runs, runs
        ty = find_runs(sort_rows(keys.bitwise_left_shift_(self.bits).bitwise_or_(y)))
        return find_runs(keys.bitwise_right_shift_(self.bits)), ty

    def _keys(self, block: Tensor, first: int, keys_of: RowKeys, units: slice = slice(None)) -> Tensor:
        """(G, N) keys of the rows of `block` (G, N, U), which starts at snapshot `first`."""
        count, samples, _ = block.shape
        keys = torch.empty((count, samples), dtype=torch.int64, device=block.device)
        width = keys_of.units
        rows = max(1, len(self.cells) // width)
        step, height = max(1, rows // samples), min(rows, samples)
        for s in range(0, count, step):
            for n in range(0, samples, height):
                values = block[s : s + step, n : n + height, units]
                cells = self.digitize(values, slice(first + s, first + s + len(values)), units)
                target = keys[s : s + step, n : n + height].view(-1)
                wide = self.cells[: len(target) * width].view(-1, width)
                keys_of(wide.copy_(cells.reshape(-1, width)), target)
        return keys

    def _count_early(self, block: Tensor, first: int) -> Group | None:
        """Exact counts from a few units where they separate nearly all rows, else None."""
        keys = self._keys(block, first, self.probe_keys, slice(None, None, self.stride))
        ordered = sort_rows(keys.clone())[0]
        repeated = ordered[1:][ordered[1:] == ordered[:-1]]
        snapshots, samples = slice(first, first + 1), self.labels.samples
        if len(repeated) == 0:
            runs = Runs.singletons(1, samples, block.device)
            return Group(snapshots, runs, runs)
        tied = torch.isin(keys[0], torch.unique_consecutive(repeated)).nonzero()[:, 0]
        if len(tied) > samples // 4:
            return None
        tied_keys = self._keys(block.index_select(1, tied), first, self.keys_of)
        t, ty = self._joint_runs(tied_keys, self.labels.y[tied])
        alone = samples - len(tied)
        return Group(snapshots, t.with_singletons(alone), ty.with_singletons(alone))

    def _count_ranked(self, keys: Tensor, snapshots: slice) -> Group:
        """Codes numbered first, then joined exactly with classes and inputs."""
        labels = self.labels
        order = argsort_rows(keys)
        ordered = keys.gather(1, order)
        ids = torch.zeros_like(ordered)
        torch.cumsum(ordered[:, 1:] != ordered[:, :-1], dim=1, out=ids[:, 1:])
        t = find_runs(ordered)

        def joint(other: Tensor, count: int) -> Runs:
            return find_runs(sort_rows(ids * count + other[order]))

        ty = joint(labels.y, labels.classes)
        if labels.distinct:
            return Group(snapshots, t, ty)
        tx = joint(labels.x_ids, labels.inputs)
        txy = tx if labels.label_of_input is not None else joint(*labels.pairs())
        return Group(snapshots, t, ty, tx, txy, order, ids)
