"""Distances between the rows of one block, approximate for all pairs and exact for the few that matter.

Keys (squares of Euclidean distances, or max-norm distances) come in blocks of rows against all, from float32
products or 15-bit differences, with a bound of their rounding error; pairs that the bound leaves undecided are
measured again in float64, from the rows themselves. No N x N array exists.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from infoplane.core.device import on_accelerator

Metric = Literal["euclidean", "max"]

TIE = 1e-9
"""Two distances are equal, a tie, where they differ by less than this, relative."""
COLUMN_GROUP = 32
"""The width of a block is a multiple of this."""

_BLOCK_ELEMENTS = 1 << 21
_CUDA_BLOCK_ELEMENTS = 1 << 25
_TILE_ELEMENTS = 1 << 17
_STEPS = 16_383.0
_COARSE = 0.05
_DIRECT_ELEMENTS = 1 << 18
_MANY = 32
DIRECT = "donot_use_mm_for_euclid_dist"


def extent(rows: Tensor) -> float:
    """The largest deviation of a value of (N, D) from the mean of its unit."""
    return float((rows - rows.mean(0)).abs().max())


def integers_serve(rows: Tensor, scale: float) -> bool:
    """Whether 15-bit steps of `scale` / 16383 are fine for rows (N, D): twice as fast as floats on a CPU.

    They leave a hundredth of the pairs at a distance undecided where an outlier sets the scale; not so where
    the root mean square is a twentieth of it.
    """
    return not on_accelerator(rows.device) and float(((rows - rows.mean(0)) / scale).square().mean().sqrt()) > _COARSE


class Keys:
    """Approximate keys of pairs, block by block: the square of the distance, or the distance (max norm).

    The error of a key is at most `margin`; `exact` measures single pairs in float64.
    """

    def __init__(self, rows: Tensor, metric: Metric, scale: float | None = None, whole: bool | None = None) -> None:
        self.squared = metric == "euclidean"
        # On a GPU a float32 product may be rounded to TF32, and a float64 one costs no more.
        self.dtype = torch.float64 if on_accelerator(rows.device) else torch.float32
        roundoff = torch.finfo(self.dtype).eps / 2
        centred = rows - rows.mean(0)
        self.scale = scale or extent(rows) or 1.0
        self._rows = centred / self.scale  # (N, D) in [-1, 1]: no square leaves the range
        self._steps = 1.0
        self.count, self.units = n, units = self._rows.shape
        if self.squared:
            v = self._rows.to(self.dtype)
            norm = v.double().square().sum(1, keepdim=True)
            square, one = norm.to(self.dtype), torch.ones_like(norm).to(self.dtype)
            self._left = torch.cat([-2.0 * v, square, one], dim=1)
            self._right = torch.cat([v, one, square], dim=1)
            # Rounding of the inputs and of a product of length D + 2 whose terms sum to at most 2 (|a|^2 + |b|^2).
            self._bound = 2.0 * (units + 8) * roundoff * (norm + norm.max())
        else:
            whole = integers_serve(rows, self.scale) if whole is None else whole
            self._steps = _STEPS if whole else 1.0
            columns = (self._rows.T * self._steps).contiguous()  # (D, N)
            self._columns = columns.round_().to(torch.int16) if whole else columns.to(self.dtype)
            self._bound = torch.full_like(rows[:, :1], 1.001 if whole else 8.0 * roundoff)
        limit = _CUDA_BLOCK_ELEMENTS if on_accelerator(rows.device) else _BLOCK_ELEMENTS
        self.height = max(1, min(n, limit // n))
        self.width = -(-n // COLUMN_GROUP) * COLUMN_GROUP
        self._buffer = torch.empty(self.height, self.width, dtype=self.dtype, device=rows.device)
        self._buffer[:, n:] = math.inf
        self._flags = torch.empty(2, self.height, n, dtype=self.dtype, device=rows.device)

    def spans(self) -> Iterator[slice]:
        for start in range(0, self.count, self.height):
            yield slice(start, min(start + self.height, self.count))

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """All rows and their keys, block by block from the first."""
        for rows in self.spans():
            yield rows, self.block(rows)

    def block(self, rows: slice) -> Tensor:
        """Keys (n, width) of some rows against all; infinite on the row itself and beyond the last column."""
        count = self.count
        whole = self._buffer[: rows.stop - rows.start]
        out = whole[:, :count]
        if self.squared:
            torch.mm(self._left[rows], self._right.T, out=out)
        else:
            self._largest_gaps(rows, out)
        out.diagonal(rows.start).fill_(math.inf)
        return whole

    def _largest_gaps(self, rows: slice, out: Tensor) -> None:
        """Keys under the max norm, a few rows at a time so that all stays in the cache."""
        columns = self._columns
        tile = len(out) if on_accelerator(out.device) else max(1, _TILE_ELEMENTS // out.shape[1])
        largest, gap = torch.empty(2, min(tile, len(out)), out.shape[1], dtype=columns.dtype, device=out.device)
        for start in range(0, len(out), tile):
            stop = min(start + tile, len(out))
            own = columns[:, rows.start + start : rows.start + stop, None]
            top, scratch = largest[: stop - start], gap[: stop - start]
            torch.sub(own[0], columns[0], out=top).abs_()
            for u in range(1, self.units):
                torch.sub(own[u], columns[u], out=scratch).abs_()
                torch.maximum(top, scratch, out=top)
            out[start:stop].copy_(top)

    def margin(self, rows: slice | Tensor) -> Tensor:
        return self._bound[rows]

    def key(self, distance: Tensor) -> Tensor:
        """The key of a distance, float64."""
        scaled = distance / self.scale
        return scaled.square() if self.squared else scaled * self._steps

    def exact(self, i: Tensor, j: Tensor) -> Tensor:
        """Distances (n,) of the pairs (i, j), float64."""
        out = torch.empty(len(i), dtype=torch.float64, device=i.device)
        step = max(1, _DIRECT_ELEMENTS // self.units)
        for start in range(0, len(i), step):
            part = slice(start, start + step)
            out[part] = self._length(self._rows[j[part]].sub_(self._rows[i[part]]))
        return out

    def exact_from(self, rows: slice | Tensor, index: Tensor) -> Tensor:
        """Distances (n, c) of some rows to the rows `index` (n, c), float64."""
        out = torch.empty(index.shape, dtype=torch.float64, device=index.device)
        step = max(1, _DIRECT_ELEMENTS // (self.units * index.shape[1]))
        for start in range(0, len(index), step):
            part = slice(start, start + step)
            own = self._rows[rows][part, None]
            out[part] = self._length(self._rows[index[part]].sub_(own))
        return out

    def _length(self, gap: Tensor) -> Tensor:
        length: Tensor = torch.linalg.vector_norm(gap, 2.0 if self.squared else math.inf, dim=-1)
        return length.mul_(self.scale)

    def exact_to_all(self, rows: slice | Tensor) -> Tensor:
        """Distances (n, N) of some rows to all, measured directly."""
        norm = 2.0 if self.squared else math.inf
        return torch.cdist(self._rows[rows], self._rows, p=norm, compute_mode=DIRECT) * self.scale

    def count_within(self, rows: slice, block: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
        """Others within `radius` (n,) of the rows of a block, ties included and left out, (n,) int64."""
        margin = self.margin(rows)
        high = self.key(radius * (1.0 + TIE))[:, None] + margin
        low = self.key(radius * (1.0 - TIE))[:, None] - margin
        block = block[:, : self.count]
        # Thresholds are rounded outwards: what float32 calls below `low` is below it.
        low, high = _round(low, self.dtype, up=False), _round(high, self.dtype, up=True)
        below, undecided = self._flags[:, : len(block)]
        opened = torch.lt(block, low, out=below).sum(1).long()
        torch.le(block, high, out=undecided).sub_(below)
        closed = opened.clone()
        if float(undecided.sum()) > block.numel() // _MANY:
            distance = self.exact_to_all(rows)
            distance.diagonal(rows.start).fill_(math.inf)
            bound = radius[:, None]
            return (distance <= bound * (1.0 + TIE)).sum(1), (distance < bound * (1.0 - TIE)).sum(1)
        row, column = _places(undecided)
        distance = self.exact(row + rows.start, column)
        closed.index_add_(0, row, (distance <= radius[row] * (1.0 + TIE)).long())
        opened.index_add_(0, row, (distance < radius[row] * (1.0 - TIE)).long())
        return closed, opened


def _places(flags: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns of the few entries of (n, N) that are not 0; numpy is seven times faster at it."""
    if on_accelerator(flags.device):
        row, column = flags.nonzero(as_tuple=True)
        return row, column
    flat = torch.from_numpy(np.flatnonzero(flags.bool().numpy()))
    return torch.div(flat, flags.shape[1], rounding_mode="floor"), flat % flags.shape[1]


def _round(value: Tensor, dtype: torch.dtype, *, up: bool) -> Tensor:
    """Cast a float64 threshold so that it does not move inwards."""
    cast = value.to(dtype)
    if dtype == torch.float64:
        return cast
    edge = torch.full_like(cast, math.inf if up else -math.inf)
    return torch.nextafter(cast, edge)
