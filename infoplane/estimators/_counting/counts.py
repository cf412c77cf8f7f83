"""Rows of cells -> counts of codes, jointly with classes and inputs, for a block of snapshots at once.

Cells of a chunk that stays in cache, 64-bit row keys (`keys`), the class label in the low bits, one sort per
snapshot, run lengths. Runs of the whole key are the joint counts n(t, y), runs of the key without its low bits
are n(t): one sort serves both.

Memory beyond the block: one group of snapshots at a time (256 Ki rows on a CPU), a few 64-bit numbers per row
of the group, and one scratch chunk.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from infoplane.core.device import on_accelerator
from infoplane.estimators._counting.keys import OneHash, RowKeys, label_bits, row_keys

GROUP_ROWS = CHUNK_ELEMENTS = 262_144
"""Rows that are counted together, and cells made at a time so that they stay in the cache, on a CPU."""
_ACCELERATOR_FACTOR = 64
"""How many times as much an accelerator takes at a time."""
_JOINT_CLASSES = 256
"""Classes up to which the label is part of the key."""
EARLY_UNITS, PROBED = 64, 32
"""Units from which a few are looked at first, and how many these are."""


# --- sorting and run lengths: numpy on CPU memory sorts integers 5 to 8 times faster than torch, finds non-zeros
# 6 times faster, and costs a third as much per call


@dataclass(frozen=True)
class Runs:
    """The counts of the codes of each of G snapshots.

    Attributes
    ----------
    lengths : (M,) int64
        Counts, snapshot after snapshot. Codes seen once may be left out.
    offsets : (G + 1,) int64
        Where the lengths of each snapshot begin.
    codes : (G,) int64
        Number of different codes; those not listed in `lengths` were seen once.
    """

    lengths: Tensor
    offsets: Tensor
    codes: Tensor

    @property
    def singles(self) -> Tensor:
        """Return how many codes were seen once, (G,)."""
        return self.codes - segment_sums(self.lengths > 1, self.offsets)

    @classmethod
    def of_counts(cls, counts: Tensor) -> Runs:
        """Return the runs of one snapshot from its counts (C,) int64, zeros allowed."""
        lengths = counts[counts > 0]
        offsets = torch.tensor([0, len(lengths)], device=counts.device)
        return cls(lengths, offsets, offsets[1:])

    def with_singletons(self, count: int) -> Runs:
        """Return these runs and `count` more codes that were seen once."""
        return replace(self, codes=self.codes + count)

    def repeated(self) -> Runs:
        """Return the same counts, with the codes that were seen once left out of `lengths`, but still in `codes`."""
        several = self.lengths > 1
        offsets = torch.zeros_like(self.offsets)
        torch.cumsum(segment_sums(several, self.offsets), 0, out=offsets[1:])
        return Runs(self.lengths[several], offsets, self.codes)

    def snapshot_of_run(self) -> Tensor:
        """Return the snapshot that each length belongs to, (M,)."""
        snapshots = torch.arange(len(self.codes), device=self.codes.device)
        return snapshots.repeat_interleave(self.offsets.diff())


def sort_rows(keys: Tensor) -> Tensor:
    """Sort each row of contiguous `keys` (G, N) in place and return it."""
    if on_accelerator(keys.device):
        return keys.copy_(torch.sort(keys, dim=1).values)
    keys.numpy().sort(axis=1)
    return keys


def argsort_rows(keys: Tensor) -> Tensor:
    """Return the order (G, N) that sorts each row of `keys` (G, N)."""
    if on_accelerator(keys.device):
        return torch.argsort(keys, dim=1)
    return torch.from_numpy(np.argsort(keys.numpy(), axis=1))


def find_runs(ordered: Tensor) -> Runs:
    """Return the counts of equal keys in each row of sorted `ordered` (G, N)."""
    return joint_runs(ordered, 0)[0]


def joint_runs(ordered: Tensor, bits: int) -> tuple[Runs, Runs]:
    """Return the counts of keys without their `bits` low bits, the label, and those of whole keys.

    Each row of `ordered` (G, N) has the keys of one snapshot, sorted.
    """
    # Both libraries have these calls; those of numpy cost a third.
    lib: Any = torch if on_accelerator(ordered.device) else np
    keys, flag = (ordered, torch.bool) if lib is torch else (ordered.numpy(), bool)
    new = lib.ones_like(keys, dtype=flag)  # the first key of a row is new
    changed = lib.bitwise_xor(keys[:, 1:], keys[:, :-1])
    # Neighbours that differ above the low bits have a difference of at least 2**bits under exclusive or.
    lib.greater_equal(changed, 1 << bits, out=new[:, 1:])
    runs = _runs_from(new)
    if bits == 0:  # the keys hold no label
        return runs, runs
    new[:, 0] = True
    lib.not_equal(changed, 0, out=new[:, 1:])
    return runs, _runs_from(new)


def _runs_from(new: np.ndarray | Tensor) -> Runs:
    """Return the runs, the stretches of equal keys, that begin where `new` (G, N) is True; `new` is overwritten."""
    if not isinstance(new, Tensor):
        return Runs(*map(torch.from_numpy, _runs_from_numpy(new)))
    offsets = torch.zeros(len(new) + 1, dtype=torch.int64, device=new.device)
    torch.cumsum(new.sum(dim=1), 0, out=offsets[1:])
    starts = new.view(-1).nonzero()[:, 0]
    return Runs(torch.diff(starts, append=starts.new_tensor([new.numel()])), offsets, offsets.diff())


def _runs_from_numpy(new: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return lengths, offsets, codes (see `Runs`) of the runs that begin where `new` (G, N) is True; overwrite it."""
    count, samples = new.shape
    flat, rows = new.reshape(-1), np.arange(0, (count + 1) * samples, samples)
    # Only the rarer of "new" and "repeated" rows is listed: up to three times faster than always the first.
    if 2 * np.count_nonzero(flat) <= flat.size:
        starts = flat.nonzero()[0]
        offsets = starts.searchsorted(rows)
        return np.diff(starts, append=flat.size), offsets, offsets[1:] - offsets[:-1]
    # Rows that repeat the one before come in stretches: one row more than such a stretch is a code's count.
    repeated = np.logical_not(flat, out=flat).nonzero()[0]
    places = repeated.searchsorted(rows)
    # The first row of a snapshot is never repeated, so a run cannot reach into the next snapshot.
    first = np.empty(repeated.size, dtype=bool)
    first[:1] = True
    np.greater(repeated[1:] - repeated[:-1], 1, out=first[1:])
    starts = first.nonzero()[0]
    lengths = np.diff(starts, append=repeated.size)
    lengths += 1
    return lengths, starts.searchsorted(places), samples - (places[1:] - places[:-1])


def lookup(table: Tensor, index: Tensor) -> Tensor:
    """Return table[index] of `table` (M,) and `index` (...), by gather: its fastest form on a CPU."""
    return table.gather(0, index.reshape(-1)).view(index.shape)


def segment_sums(values: Tensor, offsets: Tensor) -> Tensor:
    """Return int64 sums (G, ...) of `values` (M, ...) between consecutive `offsets` (G + 1,)."""
    if on_accelerator(values.device):
        # Running sums may wrap in int64; their differences are right all the same.
        total = torch.zeros((len(values) + 1, *values.shape[1:]), dtype=torch.int64, device=values.device)
        torch.cumsum(values, 0, dtype=torch.int64, out=total[1:])
        return total.index_select(0, offsets).diff(dim=0)
    starts, ends = offsets.numpy()[:-1], offsets.numpy()[1:]
    filled = ends > starts
    if filled.all():
        return torch.from_numpy(np.add.reduceat(values.numpy(), starts, axis=0, dtype=np.int64))
    # reduceat takes no empty segment
    sums = np.zeros((len(starts), *values.shape[1:]), dtype=np.int64)
    if filled.any():
        sums[filled] = np.add.reduceat(values.numpy(), starts[filled], axis=0, dtype=np.int64)
    return torch.from_numpy(sums)


def weigh(runs: Runs, table: Tensor) -> Tensor:
    """Return the sum (G,), over the codes of each snapshot, of `table` (N + 1,) int64 at their counts."""
    if on_accelerator(table.device):
        values = lookup(table, runs.lengths)
    else:
        values = torch.from_numpy(table.numpy().take(runs.lengths.numpy()))
    sums = segment_sums(values, runs.offsets)
    single = int(table[1]) if len(table) > 1 else 0  # of the codes seen once that `lengths` leaves out
    return sums + (runs.codes - runs.offsets.diff()) * single if single else sums


# --- from values to keys


def far_apart(a: Tensor, axis: int = -1) -> Tensor:
    """Return a copy of `a` with `PROBED` (32) of its units along `axis`, in two stretches, one from either half.

    They are apart, because neighbours may be dead together; in stretches, because memory comes in cache lines.
    """
    half = a.shape[axis] // 2
    first = (half - PROBED // 2) // 2
    return torch.cat([a.narrow(axis, start, PROBED // 2) for start in (first, first + half)], axis)


class Digitizer(Protocol):
    """Maps values to cells: whole numbers in [low, low + radix).

    The bounds may widen during a call, when values beyond them turn up; groups counted before stay right.
    """

    low: int
    radix: int
    digits: int

    def __call__(self, values: Tensor, first: int, probing: bool) -> Tensor:
        """Return the cells of `values` (s, n, U), in any dtype, as (s, n, U * `digits`).

        `values` begins at snapshot `first` of the block; with `probing` it has only the units that `far_apart` takes.
        The next call may overwrite the result.
        """
        ...

    def inspect(self, values: Tensor, first: int) -> None:
        """Look for non-finite and out-of-range values in whole snapshots, whose cells may not all be asked for."""
        ...


class Scratch:
    """Reused buffers: fresh large allocations cost more than the arithmetic, and so do views of small ones."""

    def __init__(self) -> None:
        """Begin without memory: one buffer for each name and type is made when it is asked for."""
        self.buffers: dict[tuple[str, torch.dtype], Tensor] = {}
        self.views: dict[tuple[str, torch.dtype, tuple[int, ...]], Tensor] = {}

    def view(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, name: str = "") -> Tensor:
        """Return an array of this shape and type, which the next call for the same name and type overwrites."""
        view = self.views.get((name, dtype, shape))
        if view is None:
            size, buffer = math.prod(shape), self.buffers.get((name, dtype))
            if buffer is None or buffer.numel() < size:
                buffer = self.buffers[name, dtype] = torch.empty(size, dtype=dtype, device=device)
                self.views.clear()  # they hold the memory of the smaller buffer
            view = self.views[name, dtype, shape] = buffer[:size].view(shape)
        return view


class Labels:
    """Classes and input ids, renumbered from 0, which all snapshots of a block share.

    Attributes
    ----------
    y, x_ids : (N,) int64
    samples, classes, inputs : int
    class_counts : (K,) int64
    one_label : bool
        No two rows of one input differ in their label.
    uniform : bool
        Every input has the same number of rows.
    """

    def __init__(self, y: Tensor, x_ids: Tensor) -> None:
        """Count classes `y` (N,) and inputs `x_ids` (N,), and see which inputs have several rows or labels."""
        self.y, self.x_ids, self.class_counts = y, x_ids, torch.bincount(y)
        self.samples, self.classes, self.inputs = len(y), len(self.class_counts), int(x_ids.max()) + 1
        self.one_label = self.uniform = True
        # With as many inputs as rows, each has one row, and which is which plays no part.
        if not self.distinct:
            rows = torch.bincount(x_ids)
            label = torch.zeros_like(rows).scatter_(0, x_ids, y)
            self.one_label, self.uniform = bool((label[x_ids] == y).all()), bool((rows == rows[0]).all())

    @property
    def distinct(self) -> bool:
        """Return whether no two rows share an input."""
        return self.inputs == self.samples

    def pairs(self) -> tuple[Tensor, int]:
        """Return the number (N,) of each row's pair (input, label), and how many pairs there are."""
        found, ids = torch.unique(self.x_ids * self.classes + self.y, return_inverse=True)
        return ids, len(found)


# --- counting


@dataclass
class Group:
    """Counts of G snapshots: of codes `t`, of pairs of code and label `ty`, and what inputs with several rows need.

    For these, `tx` are counts of pairs of code and input, `txy` of code, input and label.
    """

    t: Runs
    ty: Runs
    tx: Runs | None = None
    txy: Runs | None = None
    order: Tensor | None = None  # (G, N) rows sorted by code, only where rows share inputs
    ids: Tensor | None = None  # (G, N) code numbers of the sorted rows


def groups(t: Tensor, labels: Labels, digitize: Digitizer) -> Iterator[Group]:
    """Yield the counts of the codes of a block (S, N, U), a bounded number of snapshots at a time."""
    counter = _Counter(t, labels, digitize)
    for start in range(0, len(t), counter.size):
        yield counter.count(start)


def _pieces(snapshots: int, samples: int, limit: int) -> Iterator[tuple[slice, slice]]:
    """Yield slices of snapshots and rows of at most `limit` rows: some whole snapshots, or some rows of one."""
    step = max(1, limit // samples)
    for first in range(0, snapshots, step):
        for row in range(0, samples, limit):
            yield slice(first, first + step), slice(row, row + limit)


class _Wider(Exception):
    """A value lay beyond the bounds of the cells: the keys of the group must be made anew."""


class _Counter:
    """Counts the codes of one block, group by group of snapshots, with keys and buffers that serve all groups."""

    def __init__(self, t: Tensor, labels: Labels, digitize: Digitizer) -> None:
        """Choose how many snapshots make a group, and whether the label is in the keys and few units come first."""
        self.t, self.labels, self.digitize, self.scratch = t, labels, digitize, Scratch()
        snapshots, samples, units = t.shape
        factor = _ACCELERATOR_FACTOR if on_accelerator(t.device) else 1
        # Snapshots counted together: as many as their keys leave room for, but one of a layer so wide that a look at a
        # few of its units is worth it.
        wide = units >= EARLY_UNITS and samples * units >= CHUNK_ELEMENTS
        self.size = 1 if wide else min(max(1, GROUP_ROWS * factor // samples), max(snapshots, 1))
        self.chunk = min(CHUNK_ELEMENTS * factor, t.numel() * digitize.digits)
        # Joint: the label is in the low bits of the key, so that one sort counts codes with and without it.
        self.joint = labels.distinct and labels.classes <= _JOINT_CLASSES
        self.bits = label_bits(labels.classes) if self.joint else 0
        self.label = labels.y if self.joint else torch.zeros_like(labels.y)
        # Rows that differ on a few units differ: where those tell all rows apart, the other units are not read.
        self.early = self.joint and self.size == 1 and units >= EARLY_UNITS
        self._build()

    @property
    def _bounds(self) -> tuple[int, int, int]:
        """Return lowest cell, number of cells and digits of the digitizer as they are now: keys depend on them."""
        return self.digitize.low, self.digitize.radix, self.digitize.digits

    def _build(self) -> None:
        """Make what depends on the bounds of the cells: keys, their buffer and what they start from."""
        self.built = low, radix, digits = self._bounds
        device, units = self.t.device, self.t.shape[2] * digits
        self.keys_of = row_keys(units, radix, low, self.bits, device)
        # A chunk is of whole rows: at least one, of however many units.
        self.chunk = max(self.chunk, units)
        # Short keys sort twice as fast.
        short = self.keys_of.bits <= 31 and not on_accelerator(device)
        dtype = torch.int32 if short else torch.int64
        self.buffer = torch.empty((self.size, self.labels.samples), dtype=dtype, device=device)
        # What the keys of a chunk of whole snapshots start from.
        self.base = self.keys_of.base(self.label).repeat(max(1, self.chunk // units // self.labels.samples))
        if self.early:
            self.probe_keys = OneHash(PROBED * digits, radix, low, device)
            self.probe_base = self.probe_keys.base(torch.zeros_like(self.labels.y))

    def count(self, first: int) -> Group:
        """Return the counts of the group that begins at snapshot `first`."""
        block = self.t[first : first + self.size]
        # Counted anew with wider keys for as long as values beyond the bounds of the cells turn up.
        while True:
            try:
                early = self._count_early(block, first) if self.early else None
                if early is not None:
                    return early
                keys = self._keys(block, first, self.keys_of, self.base, self.buffer[: len(block)])
                return Group(*joint_runs(sort_rows(keys), self.bits)) if self.joint else self._count_ranked(keys)
            except _Wider:
                self._build()

    def _keys(
        self, block: Tensor, first: int, keys_of: RowKeys, base: Tensor, out: Tensor, probing: bool = False
    ) -> Tensor:
        """Write to `out` (G, N) the keys of the rows of `block` (G, N, U), which starts at snapshot `first`."""
        # `base` holds the label of each row, from which its key starts; `probing`: only units of `far_apart`.
        for snapshots, rows in _pieces(len(block), block.shape[1], self.chunk // keys_of.units):
            cells = self.digitize(block[snapshots, rows], first + snapshots.start, probing)
            # Values beyond all earlier ones widen the bounds: keys made for narrower ones could coincide.
            if self._bounds != self.built:
                raise _Wider
            if cells.dtype != keys_of.dtype or not cells.is_contiguous():
                cells = self.scratch.view(cells.shape, keys_of.dtype, cells.device).copy_(cells)
            target = out[snapshots, rows].view(-1)
            size = len(target)
            # A chunk is of whole snapshots, for which `base` is repeated, or of some rows of one.
            keys_of(cells.view(size, -1), base if len(base) == size else base[rows.start : rows.start + size], target)
        return out

    def _count_early(self, block: Tensor, first: int) -> Group | None:
        """Return the exact counts of one snapshot if a few of its units tell most rows apart; else None.

        Only rows that are equal on these units, up to a quarter of all, are then looked at in all units.
        """
        self.digitize.inspect(block, first)
        samples = self.labels.samples
        some = far_apart(block)
        keys = self._keys(some, first, self.probe_keys, self.probe_base, self.buffer[:1], probing=True)
        ordered = sort_rows(keys.clone())[0]
        repeated = ordered[1:][ordered[1:] == ordered[:-1]]
        tied = torch.isin(keys[0], torch.unique_consecutive(repeated)).nonzero()[:, 0]
        # `tied`: rows that equal another on the few units, which have to be told apart by all units.
        if len(tied) > samples // 4:
            return None
        if not len(tied):
            all_differ = Runs.of_counts(tied).with_singletons(samples)
            return Group(all_differ, all_differ)
        found = torch.empty((1, len(tied)), dtype=torch.int64, device=block.device)
        self._keys(block.index_select(1, tied), first, self.keys_of, self.keys_of.base(self.label[tied]), found)
        t, ty = joint_runs(sort_rows(found), self.bits)
        alone = samples - len(tied)
        return Group(t.with_singletons(alone), ty.with_singletons(alone))

    def _count_ranked(self, keys: Tensor) -> Group:
        """Return counts for keys without labels: codes are numbered first, then joined with classes and inputs."""
        labels = self.labels
        order = argsort_rows(keys)
        ordered = keys.gather(1, order)
        ids = torch.zeros(ordered.shape, dtype=torch.int64, device=ordered.device)
        torch.cumsum(ordered[:, 1:] != ordered[:, :-1], dim=1, out=ids[:, 1:])
        t = find_runs(ordered)

        def joint(other: Tensor, count: int) -> Runs:
            """Return counts of the pairs of code and `other` (N,), numbers below `count`."""
            return find_runs(sort_rows(ids * count + other[order]))

        ty = joint(labels.y, labels.classes)
        if labels.distinct:
            return Group(t, ty)
        tx = joint(labels.x_ids, labels.inputs)
        txy = tx if labels.one_label else joint(*labels.pairs())
        return Group(t, ty, tx, txy, order, ids)
