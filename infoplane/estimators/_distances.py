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
_DIRECT = "donot_use_mm_for_euclid_dist"


NORM = {"euclidean": 2.0, "max": math.inf}


def lengths(rows: Tensor, own: Tensor, index: Tensor, metric: Metric) -> Tensor:
    """Distances (n, c) of the rows `own` (n,) of (N, D) to the rows `index` (n, c), float64."""
    out = torch.empty(index.shape, dtype=torch.float64, device=index.device)
    step = max(1, _DIRECT_ELEMENTS // (rows.shape[1] * index.shape[1]))
    for start in range(0, len(index), step):
        part = slice(start, start + step)
        gap = rows[index[part]].sub_(rows[own[part], None])
        out[part] = torch.linalg.vector_norm(gap, NORM[metric], dim=-1)
    return out


def lengths_to_all(rows: Tensor, own: Tensor, metric: Metric) -> Tensor:
    """Distances (n, N) of the rows `own` (n,) of (N, D) to all others, float64; infinite to themselves."""
    return torch.cdist(rows[own], rows, p=NORM[metric], compute_mode=_DIRECT).scatter_(1, own[:, None], math.inf)


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

    The error of a key is at most the `bound` (N, 1) of its row; `exact` measures single pairs in float64.
    """

    def __init__(self, rows: Tensor, metric: Metric, scale: float | None = None, whole: bool | None = None) -> None:
        self.metric, self.squared = metric, metric == "euclidean"
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
            self.bound = 2.0 * (units + 8) * roundoff * (norm + norm.max())
        else:
            whole = integers_serve(rows, self.scale) if whole is None else whole
            self._steps = _STEPS if whole else 1.0
            columns = (self._rows.T * self._steps).contiguous()  # (D, N)
            self._columns = columns.round_().to(torch.int16) if whole else columns.to(self.dtype)
            self.bound = torch.full_like(rows[:, :1], 1.001 if whole else 8.0 * roundoff)
        limit = _CUDA_BLOCK_ELEMENTS if on_accelerator(rows.device) else _BLOCK_ELEMENTS
        self.height = max(1, min(n, limit // n))
        self.width = -(-n // COLUMN_GROUP) * COLUMN_GROUP
        self._buffer = torch.empty(self.height, self.width, dtype=self.dtype, device=rows.device)
        self._buffer[:, n:] = math.inf
        self._flags = torch.empty(2, self.height, n, dtype=self.dtype, device=rows.device)

    def spans(self) -> Iterator[slice]:
        """The rows of each block, from the first."""
        for start in range(0, self.count, self.height):
            yield slice(start, min(start + self.height, self.count))

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

    def key(self, distance: Tensor) -> Tensor:
        """The key of a distance, float64."""
        scaled = distance / self.scale
        return scaled.square() if self.squared else scaled * self._steps

    def exact(self, own: Tensor, index: Tensor) -> Tensor:
        """Distances (n, c) of the rows `own` (n,) to the rows `index` (n, c), float64."""
        return lengths(self._rows, own, index, self.metric).mul_(self.scale)

    def exact_to_all(self, own: Tensor) -> Tensor:
        """Distances (n, N) of the rows `own` (n,) to all others, measured directly; infinite to themselves."""
        return lengths_to_all(self._rows, own, self.metric).mul_(self.scale)

    def count_within(self, rows: slice, block: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
        """Others within `radius` (n,) of the rows of a block, ties included and left out, (n,) int64."""
        block, bound = block[:, : self.count], self.bound[rows]
        high = (self.key(radius * (1.0 + TIE))[:, None] + bound).to(self.dtype)
        low = (self.key(radius * (1.0 - TIE))[:, None] - bound).to(self.dtype)
        # Thresholds are rounded outwards: what float32 calls below `low` is below it.
        high = torch.nextafter(high, high.new_full((), math.inf))
        low = torch.nextafter(low, low.new_full((), -math.inf))
        below, undecided = self._flags[:, : len(block)]
        opened = torch.lt(block, low, out=below).sum(1).long()
        torch.le(block, high, out=undecided).sub_(below)
        if float(undecided.sum()) > block.numel() // _MANY:
            distance = self.exact_to_all(torch.arange(rows.start, rows.stop, device=block.device))
            bound = radius[:, None]
            return (distance <= bound * (1.0 + TIE)).sum(1), (distance < bound * (1.0 - TIE)).sum(1)
        row, column = _places(undecided)
        distance = self.exact(row + rows.start, column[:, None])[:, 0]
        closed = opened.index_add(0, row, (distance <= radius[row] * (1.0 + TIE)).long())
        return closed, opened.index_add_(0, row, (distance < radius[row] * (1.0 - TIE)).long())


def _places(flags: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns of the few entries of (n, N) that are not 0; numpy is seven times faster at it."""
    if on_accelerator(flags.device):
        row, column = flags.nonzero(as_tuple=True)
        return row, column
    flat = torch.from_numpy(np.flatnonzero(flags.bool().numpy()))
    return torch.div(flat, flags.shape[1], rounding_mode="floor"), flat % flags.shape[1]
