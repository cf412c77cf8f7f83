"""I(T;Y) under shuffled labels, for all snapshots of a group and all draws.

A shuffled label sequence meets the codes only through the counts n(t), so the rows may be put in any order
that depends on these counts alone: codes in falling order of their count, codes seen once left out (they
add nothing). The result is then the same whatever the order of samples, units and codes. Since every
snapshot sees the same shuffles, the class counts of a code are differences of one table of running counts.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from infoplane.estimators._counts import Group, Labels
from infoplane.estimators._runs import Runs, find_runs, lookup, segment_sums, sort_rows, weigh

_TABLE_BYTES = 40 * 2**20
_TABLE_CLASSES = 16


@functools.lru_cache(maxsize=2)
def _shuffles(samples: int, draws: int, seed: int) -> Tensor:
    """(draws, samples) int64 permutations."""
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(samples, generator=generator) for _ in range(draws)])


class ShuffledLabels:
    """Sums of c log2 c over n(t, y) for `draws` shuffles of the labels.

    Labels are shuffled between inputs where every input has the same number of rows and one label (repeated
    noisy passes), between rows otherwise.
    """

    def __init__(self, labels: Labels, draws: int, seed: int, table: Tensor) -> None:
        self.labels, self.draws, self.table = labels, draws, table
        device = labels.y.device
        self.by_input = not labels.distinct and labels.label_of_input is not None and labels.uniform
        source = labels.label_of_input if self.by_input else None
        if source is None:
            source = torch.arange(labels.classes, device=device).repeat_interleave(labels.class_counts)
        self.drawn = source[_shuffles(len(source), draws, seed).to(device)]  # (draws, inputs or samples)
        self.running: Tensor | None = None
        size = 4 * (labels.samples + 1) * draws * (labels.classes - 1)
        if not self.by_input and 2 <= labels.classes <= _TABLE_CLASSES and size <= _TABLE_BYTES:
            # (N + 1, draws, K - 1): how often each class occurs among the first n shuffled labels.
            self.running = torch.zeros(
                (labels.samples + 1, draws, labels.classes - 1), dtype=torch.int32, device=device
            )
            for k in range(labels.classes - 1):
                torch.cumsum(self.drawn.T.eq(k), 0, dtype=torch.int32, out=self.running[1:, :, k])

    def joint_sums(self, group: Group) -> Tensor:
        """(G, draws) int64 sums of the table over n(t, y)."""
        if self.labels.classes == 1:
            same: Tensor = weigh(group.t.tensors(), self.table)
            return same[:, None].expand(-1, self.draws)
        if self.by_input:
            return self._by_sorting_inputs(group)
        runs = _by_falling_count(group.t, self.labels.samples)
        if self.running is not None:
            return self._by_running_counts(runs)
        return self._by_sorting(runs)

    def _by_running_counts(self, runs: Runs) -> Tensor:
        assert self.running is not None
        lengths, total = runs.lengths, torch.cumsum(runs.lengths, 0)
        base = torch.cat([total.new_zeros(1), total])[runs.offsets[:-1]]
        ends = total - base[runs.snapshot_of_run()]
        width = self.labels.classes - 1
        out = []
        table = self.running.view(len(self.running), -1)
        step = max(1, 2**19 // (self.draws * width))
        for a in range(0, len(lengths), step):
            part = slice(a, a + step)
            counts = table.index_select(0, ends[part]) - table.index_select(0, ends[part] - lengths[part])
            counts = counts.view(-1, self.draws, width)
            last = lengths[part, None] - counts.sum(2)
            out.append(lookup(self.table, counts.to(torch.int64)).sum(2) + lookup(self.table, last))
        values = torch.cat(out) if out else lengths.new_zeros((0, self.draws))
        sums: Tensor = segment_sums(values, runs.offsets)
        return sums

    def _by_sorting(self, runs: Runs) -> Tensor:
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

    def _by_sorting_inputs(self, group: Group) -> Tensor:
        assert group.ids is not None
        assert group.order is not None
        input_of_row = self.labels.x_ids[group.order]
        out = []
        for drawn in self.drawn:
            joint = group.ids * self.labels.classes + drawn[input_of_row]
            out.append(weigh(find_runs(sort_rows(joint)).tensors(), self.table))
        return torch.stack(out, dim=1)


def _by_falling_count(runs: Runs, samples: int) -> Runs:
    """The counts of at least 2 of each snapshot, in falling order."""
    runs = runs.repeated()
    key = runs.snapshot_of_run() * (samples + 1) + (samples - runs.lengths)
    lengths = samples - sort_rows(key[None])[0].remainder_(samples + 1)
    return Runs(lengths, runs.offsets, runs.codes)
