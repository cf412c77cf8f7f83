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
    """The counts of each of G snapshots, without those equal to 1.

    Attributes
    ----------
    lengths : (M,) int64
        Counts of at least 2, snapshot after snapshot.
    offsets : (G + 1,) int64
        Where the lengths of each snapshot begin.
    singles : (G,) int64
        Codes seen once.
    """

    lengths: Tensor
    offsets: Tensor
    singles: Tensor

    @property
    def codes(self) -> Tensor:
        """(G,) number of different codes."""
        return self.singles + self.offsets.diff()

    @classmethod
    def singletons(cls, snapshots: int, samples: int, device: torch.device) -> Runs:
        """All rows differ."""
        empty = torch.empty(0, dtype=torch.int64, device=device)
        offsets = torch.zeros(snapshots + 1, dtype=torch.int64, device=device)
        return cls(empty, offsets, torch.full((snapshots,), samples, dtype=torch.int64, device=device))

    @classmethod
    def of_counts(cls, counts: Tensor) -> Runs:
        """One snapshot from its counts (C,) int64, zeros allowed."""
        lengths = counts[counts > 1]
        offsets = torch.tensor([0, len(lengths)], device=counts.device)
        return cls(lengths, offsets, (counts == 1).sum()[None])

    def with_singletons(self, count: int) -> Runs:
        return Runs(self.lengths, self.offsets, self.singles + count)

    def snapshot_of_run(self) -> Tensor:
        """(M,) the snapshot each length belongs to."""
        snapshots = torch.arange(len(self.singles), device=self.lengths.device)
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
    """Run lengths of sorted keys (G, N)."""
    return _find_runs_torch(ordered) if ordered.is_cuda else _find_runs_numpy(ordered.numpy())


def _find_runs_numpy(ordered: np.ndarray) -> Runs:
    count, samples = ordered.shape
    new = np.empty((count, samples), dtype=bool)
    new[:, 0] = True
    np.not_equal(ordered[:, 1:], ordered[:, :-1], out=new[:, 1:])
    codes = np.count_nonzero(new, axis=1)
    flat = new.reshape(-1)
    offsets = np.zeros(count + 1, dtype=np.int64)
    # Only the rarer of "new" and "repeated" rows is listed: up to three times faster than listing starts always.
    if 2 * int(codes.sum()) <= flat.size:
        lengths = np.diff(np.flatnonzero(flat), append=flat.size)
        several = lengths > 1
        first = np.zeros(count, dtype=np.int64)
        np.cumsum(codes[:-1], out=first[1:])
        np.cumsum(np.add.reduceat(several, first, dtype=np.int64), out=offsets[1:])
        lengths = lengths[several]
    else:
        np.logical_not(flat, out=flat)
        repeated = np.flatnonzero(flat)
        # The first row of a snapshot is never repeated, so a run cannot reach into the next snapshot.
        starts = np.flatnonzero(np.diff(repeated, prepend=-1) != 1) if repeated.size else repeated
        lengths = np.diff(starts, append=repeated.size) + 1
        offsets[:] = np.searchsorted(repeated[starts], np.arange(count + 1) * samples)
    singles = codes - np.diff(offsets)
    return Runs(torch.from_numpy(lengths), torch.from_numpy(offsets), torch.from_numpy(singles))


def _find_runs_torch(ordered: Tensor) -> Runs:
    count, samples = ordered.shape
    new = torch.ones((count, samples), dtype=torch.bool, device=ordered.device)
    torch.ne(ordered[:, 1:], ordered[:, :-1], out=new[:, 1:])
    codes = new.sum(dim=1)
    starts = new.view(-1).nonzero()[:, 0]
    lengths = torch.diff(starts, append=starts.new_tensor([count * samples]))
    several = lengths > 1
    owner = torch.div(starts[several], samples, rounding_mode="floor")
    offsets = torch.zeros(count + 1, dtype=torch.int64, device=ordered.device)
    torch.cumsum(torch.bincount(owner, minlength=count), 0, out=offsets[1:])
    return Runs(lengths[several], offsets, codes - offsets.diff())


def lookup(table: Tensor, index: Tensor) -> Tensor:
    """table[index]; gather is the fastest form on a CPU."""
    return table.gather(0, index.reshape(-1)).view(index.shape)


def segment_sums(values: Tensor, offsets: Tensor) -> Tensor:
    """(G, ...) sums of int64 values (M, ...) between consecutive offsets (G + 1,)."""
    # Running sums may wrap in int64; their differences are right all the same.
    total = torch.zeros((len(values) + 1, *values.shape[1:]), dtype=torch.int64, device=values.device)
    torch.cumsum(values, 0, out=total[1:])
    return total.index_select(0, offsets).diff(dim=0)


def weigh(runs: Runs, table: Tensor) -> Tensor:
    """(G,) sum of table[c] over the counts c of each snapshot; `table` is (N + 1,) int64."""
    sums = segment_sums(lookup(table, runs.lengths), runs.offsets)
    single = int(table[1]) if len(table) > 1 else 0
    return sums + runs.singles * single if single else sums
