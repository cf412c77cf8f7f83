"""I(T;Y) under shuffled labels, for all snapshots of a group and all draws.

A shuffled label sequence meets the codes only through the counts n(t), so the rows may be put in any order
that depends on these counts alone: codes in falling order of their count, codes seen once left out (they
add nothing). The result is then the same whatever the order of samples, units and codes. Since every
snapshot sees the same shuffles, the class counts of a code are differences of one table of running counts.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

from infoplane.estimators._counting.counts import Group, Labels, Runs, find_runs, lookup, segment_sums, sort_rows, weigh
from infoplane.estimators._labels import permutations, shuffle_labels

_TABLE_BYTES, _TABLE_CLASSES = 40 * 2**20, 16
"""Size and classes up to which a table of running counts is made."""
_CACHED = 2**17
"""Counts looked up at a time, so that they stay in the cache."""


@functools.lru_cache(maxsize=1)
def _running_counts(class_counts: tuple[int, ...], draws: int, seed: int, device: torch.device) -> Tensor:
    """Return counts (N + 1, draws * (K - 1)) int32: row n has those of each class among the first n shuffled labels.

    The last of the K classes is left out.
    """
    # Kept from call to call (`lru_cache`): all layers and steps of a run share their labels.
    drawn = _shuffled(torch.tensor(class_counts, device="cpu"), draws, seed).numpy()
    running = np.zeros((draws, len(class_counts) - 1, drawn.shape[1] + 1), dtype=np.int32)
    for k in range(running.shape[1]):
        np.cumsum(drawn == k, axis=1, dtype=np.int32, out=running[:, k, 1:])
    return torch.from_numpy(running).flatten(0, 1).T.contiguous().to(device)


def _shuffled(class_counts: Tensor, draws: int, seed: int) -> Tensor:
    """Return labels (draws, N) with this many rows of each class, in random orders."""
    labels = torch.arange(len(class_counts), device=class_counts.device).repeat_interleave(class_counts)
    return labels[permutations(len(labels), draws, seed).to(labels.device)]


class ShuffledLabels:
    """Sums of c log2 c over n(t, y) for `draws` shuffles of the labels.

    Labels are shuffled between inputs with the same number of rows, those of all rows of an input (duplicates,
    repeated noisy passes) together.
    """

    def __init__(self, labels: Labels, draws: int, seed: int, table: Tensor) -> None:
        """Shuffle the labels; `table` (N + 1,) holds c log2 c. Where it is small, make the table of running counts."""
        self.labels, self.draws, self.table = labels, draws, table
        self.running: Tensor | None = None
        if labels.classes == 1:  # every shuffle leaves the labels as they are
            return
        if not labels.distinct:
            self.drawn = shuffle_labels(labels.y, labels.x_ids, draws, seed)  # (draws, N)
            return
        size = 4 * (labels.samples + 1) * draws * (labels.classes - 1)
        if labels.classes <= _TABLE_CLASSES and size <= _TABLE_BYTES:
            counts = tuple(labels.class_counts.tolist())
            self.running = _running_counts(counts, draws, seed, labels.y.device)
        else:
            self.drawn = _shuffled(labels.class_counts, draws, seed)

    def joint_sums(self, group: Group) -> Tensor:
        """Return sums (G, draws) int64 of c log2 c over the counts n(t, y) of codes and shuffled labels."""
        if self.labels.classes == 1:
            return weigh(group.t, self.table)[:, None].expand(-1, self.draws)
        if group.ids is not None and group.order is not None:
            joint = (group.ids * self.labels.classes + drawn[group.order] for drawn in self.drawn)
            return torch.stack([weigh(find_runs(sort_rows(keys)), self.table) for keys in joint], dim=1)
        runs = _by_falling_count(group.t, self.labels.samples)
        return self._by_sorting(runs) if self.running is None else self._by_running_counts(runs, self.running)

    def _by_running_counts(self, runs: Runs, running: Tensor) -> Tensor:
        """Return what `joint_sums` does: class counts of a code are differences of running counts."""
        lengths, total = runs.lengths, torch.cumsum(runs.lengths, 0)
        # `ends` (M,): where the rows of each code end, counted from the first row of its snapshot.
        base = torch.cat([total.new_zeros(1), total])[runs.offsets[:-1]]
        ends = total - base[runs.snapshot_of_run()]
        width = self.labels.classes - 1
        out = [lengths.new_zeros((0, self.draws))]
        step = max(1, _CACHED // (self.draws * width))
        for a in range(0, len(lengths), step):
            end, length = ends[a : a + step], lengths[a : a + step]
            # (M, draws, K - 1) in int64, which indexes the table.
            counts = running.index_select(0, end).sub_(running.index_select(0, end - length)).to(torch.int64)
            counts = counts.view(-1, self.draws, width)
            # The class left out of `running` has the rest of the code's rows.
            last = length[:, None] - (counts[:, :, 0] if width == 1 else counts.sum(2))
            known = lookup(self.table, counts)
            out.append((known[:, :, 0] if width == 1 else known.sum(2)).add_(lookup(self.table, last)))
        return segment_sums(torch.cat(out), runs.offsets)

    def _by_sorting(self, runs: Runs) -> Tensor:
        """Return what `joint_sums` does, by sorting the pairs (code, shuffled label) of each draw: for many classes."""
        # `code` and `place` are (rows,): the code of each row, and its place in its snapshot, where its label is found.
        lengths, owner = runs.lengths, runs.snapshot_of_run()
        code = torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths)
        rows = segment_sums(lengths, runs.offsets)
        first = torch.cumsum(rows, 0) - rows
        place = torch.arange(len(code), device=lengths.device) - first[owner[code]]
        out = []
        for drawn in self.drawn:
            joint = sort_rows((code * self.labels.classes + drawn[place])[None])[0]
            pairs, counts = torch.unique_consecutive(joint, return_counts=True)
            sums = torch.zeros(len(runs.codes), dtype=torch.int64, device=lengths.device)
            owners = owner[torch.div(pairs, self.labels.classes, rounding_mode="floor")]
            out.append(sums.index_add_(0, owners, lookup(self.table, counts)))
        return torch.stack(out, dim=1)


def _by_falling_count(runs: Runs, samples: int) -> Runs:
    """Return the runs with each snapshot's counts in falling order, counts of 1 left out; `samples` is N."""
    runs = runs.repeated()
    # One number for snapshot and count, which rises as the count falls.
    key = runs.snapshot_of_run() * (samples + 1) + (samples - runs.lengths)
    lengths = samples - sort_rows(key[None])[0].remainder_(samples + 1)
    return Runs(lengths, runs.offsets, runs.codes)
