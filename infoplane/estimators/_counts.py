"""Rows of cells -> counts of codes, jointly with classes and inputs, for a block of snapshots at once.

Cells of a chunk that stays in cache, 64-bit row keys (`_keys`), the class label in the low bits, one sort per
snapshot, run lengths (`_runs`). Runs of the whole key are the joint counts n(t, y), runs of the key without
its low bits are n(t): one sort serves both.

Memory beyond the block: one group of snapshots at a time (256 Ki rows on a CPU), a few 64-bit numbers per row
of the group, and one scratch chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from infoplane.core.device import on_accelerator
from infoplane.estimators._keys import OneHash, RowKeys, label_bits, row_keys
from infoplane.estimators._runs import Runs, argsort_rows, find_runs, joint_runs, sort_rows

GROUP_ROWS = 262_144
CHUNK_ELEMENTS = 262_144
_CUDA_FACTOR = 64
_JOINT_CLASSES = 256
EARLY_UNITS = 64


class Stretches:
    """Two stretches of sixteen units of each row, far apart.

    Apart, because neighbours may be dead together; stretches, because memory comes in cache lines.
    """

    units = 32

    def __init__(self, units: int) -> None:
        self.half = units // 2
        self.start = (self.half - 16) // 2

    def of(self, a: Tensor) -> Tensor:
        """View (..., 2, 16) of `a` (..., U), or (..., 1, 1) of (..., 1)."""
        if a.shape[-1] == 1:
            return a[..., None]
        halves = torch.unflatten(a[..., : 2 * self.half], -1, (2, self.half))
        return halves[..., self.start : self.start + 16]


class Digitizer(Protocol):
    """Maps values to cells: whole numbers in [low, low + radix).

    The bounds may widen during a call, when values beyond them turn up; groups counted before stay right.
    """

    low: int
    radix: int
    digits: int

    def __call__(self, values: Tensor, first: int, units: Stretches | None) -> Tensor:
        """Cells of `values` (s, n, U), or of `units.of(values)`, in any dtype; may be scratch of the digitizer.

        `values` begins at snapshot `first` of the block. The last axis of the result is `digits` times longer.
        """
        ...

    def inspect(self, values: Tensor, first: int) -> None:
        """See to non-finite and out-of-range values of whole snapshots whose cells may not all be asked for."""
        ...


@dataclass(frozen=True)
class Labels:
    """What every snapshot of a block shares: classes and input ids, renumbered from 0.

    Attributes
    ----------
    y, x_ids : (N,) int64
    samples, classes, inputs : int
    class_counts : (K,) int64
    label_of_input : (inputs,) int64, or None where rows of one input differ in their label or every row has
        its own input
    uniform : bool
        Every input has the same number of rows.
    """

    y: Tensor
    x_ids: Tensor
    samples: int
    classes: int
    inputs: int
    class_counts: Tensor
    label_of_input: Tensor | None
    uniform: bool

    @classmethod
    def of(cls, y: Tensor, x_ids: Tensor) -> Labels:
        class_counts = torch.bincount(y)
        samples, classes, inputs = y.shape[0], class_counts.shape[0], int(x_ids.max()) + 1
        if inputs == samples:
            # As many inputs as rows: each has one row, and which is which plays no part.
            return cls(y, x_ids, samples, classes, inputs, class_counts, label_of_input=None, uniform=True)
        input_counts = torch.bincount(x_ids)
        label_of_input = torch.zeros_like(input_counts).scatter_(0, x_ids, y)
        one_label = bool((label_of_input[x_ids] == y).all())
        return cls(
            y,
            x_ids,
            samples,
            classes,
            inputs,
            class_counts,
            label_of_input=label_of_input if one_label else None,
            uniform=bool((input_counts == input_counts[0]).all()),
        )

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
    snapshots, samples, units = t.shape
    factor = _CUDA_FACTOR if on_accelerator(t.device) else 1
    size = min(max(1, GROUP_ROWS * factor // samples), max(snapshots, 1))
    if units >= EARLY_UNITS and samples * units >= CHUNK_ELEMENTS:
        size = 1
    chunk = min(CHUNK_ELEMENTS * factor, t.numel() * digitize.digits)
    counter = _Counter(t, labels, digitize, chunk, size)
    for start in range(0, snapshots, size):
        yield counter.count(slice(start, min(start + size, snapshots)))


def _chunks(block: Tensor, out: Tensor, limit: int) -> Iterator[tuple[int, int, Tensor, Tensor]]:
    """Pieces of at most `limit` rows: snapshot and row they begin at, values, place of the keys."""
    samples = block.shape[1]
    step = max(1, limit // samples)
    for k, (values, target) in enumerate(zip(torch.split(block, step), torch.split(out, step), strict=True)):
        if samples <= limit:
            yield k * step, 0, values, target.view(-1)
        else:
            pieces = zip(torch.split(values, limit, 1), torch.split(target, limit, 1), strict=True)
            for j, (some, place) in enumerate(pieces):
                yield k * step, j * limit, some, place[0]


class _Wider(Exception):
    """Cells beyond the bounds turned up: the keys of the group must be made anew."""


class _Counter:
    def __init__(self, t: Tensor, labels: Labels, digitize: Digitizer, chunk: int, size: int) -> None:
        self.t, self.labels, self.digitize = t, labels, digitize
        self.joint = labels.distinct and labels.classes <= _JOINT_CLASSES
        self.bits = label_bits(labels.classes) if self.joint else 0
        self.chunk = chunk
        self.size = size
        self.label = labels.y if self.joint else torch.zeros_like(labels.y)
        # Rows that differ on a few units differ: where those tell all rows apart, the other units are not read.
        early = self.joint and size == 1 and t.shape[2] >= EARLY_UNITS
        self.probed = Stretches(t.shape[2]) if early else None
        self._build()

    def _build(self) -> None:
        """Everything that depends on the bounds of the cells."""
        self.built = self._bounds()
        low, radix, digits = self.built
        device, units = self.t.device, self.t.shape[2] * digits
        self.keys_of = row_keys(units, radix, low, self.bits, device)
        # A chunk is of whole rows: at least one, of however many units.
        self.chunk = max(self.chunk, units)
        self.scratch: dict[torch.dtype, Tensor] = {}
        self.views: dict[tuple[torch.dtype, torch.Size], tuple[Tensor, Tensor]] = {}
        # Short keys sort twice as fast.
        short = self.keys_of.bits <= 31 and not on_accelerator(self.t.device)
        dtype = torch.int32 if short else torch.int64
        self.buffer = torch.empty((self.size, self.labels.samples), dtype=dtype, device=device)
        # What the keys of a chunk of whole snapshots start from.
        self.base = self.keys_of.base(self.label).repeat(max(1, self.chunk // units // self.labels.samples))
        if self.probed:
            self.probe_keys = OneHash(self.probed.units * digits, radix, low, device)
            self.probe_base = self.probe_keys.base(torch.zeros_like(self.labels.y))

    def _bounds(self) -> tuple[int, int, int]:
        return self.digitize.low, self.digitize.radix, self.digitize.digits

    def count(self, snapshots: slice) -> Group:
        while True:
            try:
                return self._count(snapshots)
            except _Wider:
                self._build()

    def _count(self, snapshots: slice) -> Group:
        block, first = self.t[snapshots], snapshots.start
        if self.probed:
            self.digitize.inspect(block, first)
            early = self._count_early(block, first)
            if early is not None:
                return early
        keys = self._keys(block, first, self.keys_of, self.base, None, self.buffer[: len(block)])
        if self.joint:
            return Group(snapshots, *joint_runs(sort_rows(keys), self.bits))
        return self._count_ranked(keys, snapshots)

    def _keys(
        self, block: Tensor, first: int, keys_of: RowKeys, base: Tensor, units: Stretches | None, out: Tensor
    ) -> Tensor:
        """Write to `out` (G, N) the keys of rows of `block` (G, N, U), which starts at snapshot `first`."""
        for at, row, values, target in _chunks(block, out, self.chunk // keys_of.units):
            cells = self.digitize(values, first + at, units)
            if self._bounds() != self.built:
                raise _Wider
            if cells.dtype == keys_of.dtype and cells.is_contiguous():
                rows = cells.view(-1, keys_of.units)
            else:
                shaped, rows = self._views(keys_of, cells.shape)
                shaped.copy_(cells)
            size = len(target)
            keys_of(rows, base if len(base) == size else base[row : row + size], target)
        return out

    def _views(self, keys_of: RowKeys, shape: torch.Size) -> tuple[Tensor, Tensor]:
        """Scratch in `shape` and as (rows, units); making views costs more than arithmetic."""
        dtype = keys_of.dtype
        if (dtype, shape) not in self.views:
            if dtype not in self.scratch:
                self.scratch[dtype] = torch.empty(self.chunk, dtype=dtype, device=self.t.device)
            flat = self.scratch[dtype][: shape.numel()]
            self.views[dtype, shape] = flat.view(shape), flat.view(-1, keys_of.units)
        return self.views[dtype, shape]

    def _count_early(self, block: Tensor, first: int) -> Group | None:
        """Exact counts of one snapshot from a few units where they separate nearly all rows, else None."""
        snapshots, samples = slice(first, first + 1), self.labels.samples
        keys = self._keys(block, first, self.probe_keys, self.probe_base, self.probed, self.buffer[:1])
        ordered = sort_rows(keys.clone())[0]
        repeated = ordered[1:][ordered[1:] == ordered[:-1]]
        if len(repeated) == 0:
            runs = Runs.singletons(1, samples, block.device)
            return Group(snapshots, runs, runs)
        tied = torch.isin(keys[0], torch.unique_consecutive(repeated)).nonzero()[:, 0]
        if len(tied) > samples // 4:
            return None
        found = torch.empty((1, len(tied)), dtype=torch.int64, device=block.device)
        base = self.keys_of.base(self.label[tied])
        self._keys(block.index_select(1, tied), first, self.keys_of, base, None, found)
        t, ty = joint_runs(sort_rows(found), self.bits)
        alone = samples - len(tied)
        return Group(snapshots, t.with_singletons(alone), ty.with_singletons(alone))

    def _count_ranked(self, keys: Tensor, snapshots: slice) -> Group:
        """Codes numbered first, then joined exactly with classes and inputs."""
        labels = self.labels
        order = argsort_rows(keys)
        ordered = keys.gather(1, order)
        ids = torch.zeros(ordered.shape, dtype=torch.int64, device=ordered.device)
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
