"""How many rows lie within a radius of each, cell against cell: rows that are near each other meet the same others.

Rows come in the order of a k-d tree, a few of them a cell. A cell meets those whose boxes its rows reach; cells that
meet about as many are one product, or one pass over differences. Counts are those of float64 distances (`Keys`).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from infoplane.core.device import on_accelerator
from infoplane.core.records import Array
from infoplane.estimators._distances import TIE, Keys, Metric, counts_after_measuring, counts_in_blocks

_CELL_ROWS, _WIDE_ROWS, _FEW_UNITS = 16, 32, 5
"""Rows of a cell up to so many units, and beyond, where cells meet nearly all others."""
_ALL_PAIRS = 500  # rows, times the units, up to which cells spare less than they take: all pairs are compared
_MOST_CELLS = 2048  # which cells meet is a square of so many at most
_UNITS_LOOKED_AT = 8  # units that the tree and the boxes are made from
_ELEMENTS = 1 << 18  # pairs of rows in a batch


def all_pairs_are_sooner(rows: Tensor) -> bool:
    """Return whether comparing all pairs of rows (N, D) takes less time than looking for the cells that they reach."""
    # On a GPU it always does: waiting for values that decide which cells meet takes longer than that spares.
    return on_accelerator(rows.device) or len(rows) <= _ALL_PAIRS * rows.shape[1]


def counts_within(rows: Tensor, radius: Tensor, metric: Metric, known: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many other rows lie within `radius` (N,) of each of `rows` (N, D): (N,) int64 with ties, and without.

    A tie is a row at a distance that equals the radius but for rounding. `known` (N,) says how many ties each row is
    known to have.
    """
    n, units = rows.shape
    if all_pairs_are_sooner(rows):
        return counts_in_blocks(Keys(rows, metric), radius, known)
    size = _CELL_ROWS if units <= _FEW_UNITS else _WIDE_ROWS
    size *= -(-n // (size * _MOST_CELLS))
    # The leaves of a tree, one after the other: rows that are near each other come together.
    order = torch.from_numpy(cKDTree(rows[:, :_UNITS_LOOKED_AT].numpy(), size, compact_nodes=False).indices)
    found = _CountsWithin(rows[order], radius[order], metric, known[order], size).counts()
    closed, opened = (torch.empty_like(each).index_copy_(0, order, each) for each in found)
    return closed, opened


class _CountsWithin:
    """Counts neighbours of rows (N, D) cell by cell; `size` consecutive rows are a cell, of which there are M."""

    def __init__(self, rows: Tensor, radius: Tensor, metric: Metric, known: Tensor, size: int) -> None:
        """Find which cells meet, and limits of keys (approximate distances) by cell; `radius`, `known` are (N,)."""
        self.keys, self.radius, self.size, self.count = Keys(rows, metric), radius, size, len(rows)
        self.met = _boxes_within_reach(rows.numpy()[:, :_UNITS_LOOKED_AT], radius.numpy(), size)
        cells = len(self.met)
        self.own, self.others = self.keys.cells(cells, size)
        # Rows that only fill the last cell have limits of -1: no row is within them.
        fill = (0, 0, 0, cells * size - self.count)
        low, high = (torch.nn.functional.pad(limit, fill, value=-1) for limit in self.keys.limits(radius))
        self.low, self.high = low.view(cells, size, 1), high.view(cells, size, 1)
        self.known = np.pad(known.numpy().astype(np.int64), fill[2:]).reshape(cells, size)
        self.found = np.empty((2, cells, size), np.int64)  # without ties, and with
        self.pairs: list[Array] = []

    def counts(self) -> tuple[Tensor, Tensor]:
        """Return how many other rows lie within the radius of each row, with ties and without, (N,) int64 each."""
        for cells, met in self._batches():
            self._count(cells, met)
        found = torch.from_numpy(self.found.reshape(2, -1)[:, : self.count])
        pairs = [torch.from_numpy(pair) for pair in self.pairs]
        return counts_after_measuring(self.keys, self.radius, found, pairs)

    def _batches(self) -> Iterator[tuple[Array, Array]]:
        """Yield cells (B,), and the cells that each of them meets (B, W), padded with M: a cell far from all rows."""
        # Cells are taken in the order of how many they meet, so that little is filled up.
        most = self.met.sum(1)
        order = np.argsort(most, kind="stable")
        cell, first = np.nonzero(self.met)[1], np.cumsum(most) - most
        rows = self.size * self.size * most[order]
        start = 0
        while start < len(order):
            # The last cell of a batch meets the most, and decides how many pairs of rows all of them have.
            batch = np.arange(1, len(order) - start + 1) * rows[start:] <= _ELEMENTS
            stop = start + max(1, int(batch.sum()))
            cells = order[start:stop]
            span = np.arange(most[cells[-1]])
            place = np.minimum(first[cells, None] + span, len(cell) - 1)
            yield cells, np.where(span < most[cells, None], cell[place], len(self.met))
            start = stop

    def _count(self, cells: Array, met: Array) -> None:
        """Count the rows of the cells `met` (B, W) within reach of those of `cells` (B,), themselves included."""
        key = self.keys.between_cells(self.own, self.others, torch.from_numpy(cells), torch.from_numpy(met))
        low, high = self.low[cells], self.high[cells]
        opened, closed = (each.numpy() for each in self.keys.tally(key, (low, high)))
        self.found[0, cells], self.found[1, cells] = opened, closed
        # Rows between the two limits may be ties or not. Where they are as many as the known ties, they are these ties.
        # Else they count as farther than the radius for now, and the pairs are noted, to be measured exactly.
        left = np.flatnonzero(closed - opened != self.known[cells])
        if not len(left):
            return
        few = key.flatten(0, 1).numpy()[left]
        within = (few >= low.flatten().numpy()[left, None]) & (few <= high.flatten().numpy()[left, None])
        row, column = np.divmod(np.flatnonzero(within), few.shape[1])
        cell, row = np.divmod(left[row], self.size)
        self.found[1, cells[cell], row] = opened[cell, row]
        other = met[cell, column // self.size] * self.size + column % self.size
        self.pairs.append(np.stack([cells[cell] * self.size + row, other]))


def _boxes_within_reach(rows: Array, radius: Array, size: int) -> Array:
    """Return (M, M) whether some row of the first cell may have a row of the second one within its `radius` (N,).

    It may where the box of the second cell's rows meets the box of the first cell's rows with their radius around them.
    """
    start, reach = np.arange(0, len(rows), size), radius[:, None] * (1.0 + 2.0 * TIE)
    low, high = np.minimum.reduceat(rows, start).T, np.maximum.reduceat(rows, start).T
    least, most = np.minimum.reduceat(rows - reach, start).T, np.maximum.reduceat(rows + reach, start).T
    met = np.ones((len(start), len(start)), bool)
    for unit in range(len(low)):
        met &= low[unit] <= most[unit, :, None]
        met &= high[unit] >= least[unit, :, None]
    return met
