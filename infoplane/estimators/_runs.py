"""Sorting of row keys and the lengths of runs of equal keys, on CPU memory by numpy, on CUDA by torch.

numpy sorts int64 in CPU memory 5 to 8 times faster than torch and finds non-zeros 6 times faster, on the same
memory and without a copy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


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
        """(G,) codes seen once."""
        return self.codes - segment_sums((self.lengths > 1).to(torch.int64), self.offsets)

    @classmethod
    def singletons(cls, snapshots: int, samples: int, device: torch.device) -> Runs:
        """All rows differ."""
        empty = torch.empty(0, dtype=torch.int64, device=device)
        offsets = torch.zeros(snapshots + 1, dtype=torch.int64, device=device)
        return cls(empty, offsets, torch.full((snapshots,), samples, dtype=torch.int64, device=device))

    @classmethod
    def of_counts(cls, counts: Tensor) -> Runs:
        """One snapshot from its counts (C,) int64, zeros allowed."""
        lengths = counts[counts > 0]
        offsets = torch.tensor([0, len(lengths)], device=counts.device)
        return cls(lengths, offsets, offsets[1:])

    def with_singletons(self, count: int) -> Runs:
        return Runs(self.lengths, self.offsets, self.codes + count)

    def repeated(self) -> Runs:
        """The same with codes seen once left out of `lengths`."""
        several = self.lengths > 1
        offsets = torch.zeros_like(self.offsets)
        torch.cumsum(segment_sums(several.to(torch.int64), self.offsets), 0, out=offsets[1:])
        return Runs(self.lengths[several], offsets, self.codes)

    def snapshot_of_run(self) -> Tensor:
        """(M,) the snapshot each length belongs to."""
        snapshots = torch.arange(len(self.codes), device=self.lengths.device)
        return snapshots.repeat_interleave(self.offsets.diff())


def sort_rows(keys: Tensor) -> Tensor:
    """Sort each row of contiguous `keys` (G, N) int64 in place and return it."""
    if keys.is_cuda:
        return keys.copy_(torch.sort(keys, dim=1).values)
    keys.numpy().sort(axis=1)
    return keys


def argsort_rows(keys: Tensor) -> Tensor:
    """(G, N) order that sorts each row."""
    if keys.is_cuda:
        return torch.argsort(keys, dim=1)
    return torch.from_numpy(np.argsort(keys.numpy(), axis=1))


def find_runs(ordered: Tensor) -> Runs:
    """Counts of equal keys in each row of sorted `ordered` (G, N) int64."""
    return joint_runs(ordered, 0)[0]


def joint_runs(ordered: Tensor, bits: int) -> tuple[Runs, Runs]:
    """Counts of the keys without their `bits` low bits, and of the whole keys; `ordered` (G, N) >= 0 is sorted."""
    if ordered.is_cuda:
        return _joint_runs_torch(ordered, bits)
    keys = ordered.numpy()
    new = np.empty(keys.shape, dtype=bool)
    new[:, 0] = True
    # Neighbours that differ above the low bits have a difference of at least 2**bits under exclusive or.
    changed = np.bitwise_xor(keys[:, 1:], keys[:, :-1])
    np.greater_equal(changed, 1 << bits, out=new[:, 1:])
    runs = _runs_of(new)
    if bits == 0:
        return runs, runs
    new[:, 0] = True
    np.not_equal(changed, 0, out=new[:, 1:])
    return runs, _runs_of(new)


def _runs_of(new: np.ndarray) -> Runs:
    """Runs that begin where `new` (G, N) is set, which is overwritten."""
    count, samples = new.shape
    flat, rows = new.reshape(-1), np.arange(count + 1) * samples
    # Only the rarer of "new" and "repeated" rows is listed: up to three times faster than always the first.
    if 2 * np.count_nonzero(flat) <= flat.size:
        starts = np.flatnonzero(flat)
        lengths = _gaps(starts, flat.size)
        offsets = np.searchsorted(starts, rows)
        codes = np.diff(offsets)
    else:
        repeated = np.flatnonzero(np.logical_not(flat, out=flat))
        codes = samples - np.diff(np.searchsorted(repeated, rows))
        # The first row of a snapshot is never repeated, so a run cannot reach into the next snapshot.
        first = np.empty(repeated.size, dtype=bool)
        first[:1] = True
        np.greater(repeated[1:] - repeated[:-1], 1, out=first[1:])
        starts = np.flatnonzero(first)
        lengths = _gaps(starts, repeated.size)
        lengths += 1
        offsets = np.searchsorted(repeated[starts], rows)
    return Runs(torch.from_numpy(lengths), torch.from_numpy(offsets), torch.from_numpy(codes))


def _gaps(starts: np.ndarray, end: int) -> np.ndarray:
    gaps = np.empty_like(starts)
    np.subtract(starts[1:], starts[:-1], out=gaps[:-1])
    gaps[-1:] = end - starts[-1:]
    return gaps


def _joint_runs_torch(ordered: Tensor, bits: int) -> tuple[Runs, Runs]:
    runs = _runs_of_torch(ordered >> bits)
    return runs, _runs_of_torch(ordered) if bits else runs


def _runs_of_torch(ordered: Tensor) -> Runs:
    count, samples = ordered.shape
    new = torch.ones((count, samples), dtype=torch.bool, device=ordered.device)
    torch.ne(ordered[:, 1:], ordered[:, :-1], out=new[:, 1:])
    offsets = torch.zeros(count + 1, dtype=torch.int64, device=ordered.device)
    torch.cumsum(new.sum(dim=1), 0, out=offsets[1:])
    starts = new.view(-1).nonzero()[:, 0]
    lengths = torch.diff(starts, append=starts.new_tensor([count * samples]))
    return Runs(lengths, offsets, offsets.diff())


def lookup(table: Tensor, index: Tensor) -> Tensor:
    """table[index]; gather is the fastest form on a CPU."""
    return table.gather(0, index.reshape(-1)).view(index.shape)


def segment_sums(values: Tensor, offsets: Tensor) -> Tensor:
    """(G, ...) sums of int64 values (M, ...) between consecutive offsets (G + 1,)."""
    if values.is_cuda:
        # Running sums may wrap in int64; their differences are right all the same.
        total = torch.zeros((len(values) + 1, *values.shape[1:]), dtype=torch.int64, device=values.device)
        torch.cumsum(values, 0, out=total[1:])
        return total.index_select(0, offsets).diff(dim=0)
    starts, filled = offsets[:-1].numpy(), offsets.diff().numpy() > 0
    sums = np.zeros((len(starts), *values.shape[1:]), dtype=np.int64)
    if filled.any():
        sums[filled] = np.add.reduceat(values.numpy(), starts[filled], axis=0)
    return torch.from_numpy(sums)


def weigh(runs: Runs, table: Tensor) -> Tensor:
    """(G,) sum of table[c] over the counts c of each snapshot; `table` is (N + 1,) int64."""
    sums = segment_sums(lookup(table, runs.lengths), runs.offsets)
    if len(table) > 1 and int(table[1]) != 0:
        sums = sums + (runs.codes - runs.offsets.diff()) * int(table[1])
    return sums
