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
_WINDOW_ELEMENTS = 1 << 17
_WINDOW_ROWS = 32, 256
"""Fewer rows at a time are all calls, more have a wide window."""
_LOOKED_AT = 8, 128
"""Units and rows that say along which unit windows are narrow."""
_STEPS = 16_383.0
"""Whole steps that the largest deviation has in 15-bit keys."""
_COARSE = 0.05
"""Root mean square deviation over the largest one from which such steps are fine enough."""
_DIRECT_ELEMENTS = 1 << 18
_MANY = 32
"""Where more than one pair in this many is undecided, all pairs of these rows are measured."""
_DIRECT = "donot_use_mm_for_euclid_dist"


NORM = {"euclidean": 2.0, "max": math.inf}
ALL = slice(None)


def lengths(rows: Tensor, own: Tensor, index: Tensor, metric: Metric) -> Tensor:
    """Distances (n, c) of the rows `own` (n,) of (N, D) to the rows `index` (n, c), float64."""
    out = torch.empty(index.shape, dtype=torch.float64, device=index.device)
    step = max(1, _DIRECT_ELEMENTS // (rows.shape[1] * index.shape[1]))
    for start in range(0, len(index), step):
        part = slice(start, start + step)
        gap = rows[index[part]].sub_(rows[own[part], None])
        out[part] = torch.linalg.vector_norm(gap, dim=-1) if metric == "euclidean" else gap.abs_().amax(-1)
    return out


def lengths_to_all(rows: Tensor, own: Tensor, metric: Metric, columns: slice = ALL) -> Tensor:
    """Distances (n, w) of the rows `own` (n,) of (N, D) to some of them, float64; 0 to themselves."""
    return torch.cdist(rows[own], rows[columns], p=NORM[metric], compute_mode=_DIRECT)


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
        self._steps, self.whole = 1.0, False
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
            self.whole = integers_serve(rows, self.scale) if whole is None else whole
            self._steps = _STEPS if self.whole else 1.0
            columns = (self._rows.T * self._steps).contiguous()  # (D, N)
            self._columns = columns.round_().to(torch.int16) if self.whole else columns.to(self.dtype)
            self.bound = torch.full_like(rows[:, :1], 1.001 if self.whole else 8.0 * roundoff)
        limit = _CUDA_BLOCK_ELEMENTS if on_accelerator(rows.device) else _BLOCK_ELEMENTS
        self.height = max(1, min(n, limit // n))
        self.width = -(-n // COLUMN_GROUP) * COLUMN_GROUP
        self._held: dict[str, Tensor] = {}

    def spans(self) -> Iterator[slice]:
        """The rows of each block, from the first."""
        for start in range(0, self.count, self.height):
            yield slice(start, min(start + self.height, self.count))

    def _space(self, name: str, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
        """A buffer of this shape, kept by name for the next call: fresh memory costs more than the arithmetic."""
        flat, size = self._held.get(name), shape[0] * shape[1]
        if flat is None or len(flat) < size:
            flat = self._held[name] = torch.empty(size, dtype=dtype, device=self._rows.device)
        return flat[:size].view(shape)

    def block(self, rows: slice) -> Tensor:
        """Keys (n, width) of some rows against all; infinite on the row itself and beyond the last column."""
        whole = self._space("block", (rows.stop - rows.start, self.width), self.dtype)
        whole[:, self.count :] = math.inf
        out = whole[:, : self.count]
        tile = len(out) if self.squared or on_accelerator(out.device) else max(1, _TILE_ELEMENTS // self.count)
        for start in range(0, len(out), tile):  # a few rows at a time, so that all stays in the cache
            part = out[start : start + tile]
            self.between(slice(rows.start + start, rows.start + start + len(part)), slice(0, self.count), part)
        out.diagonal(rows.start).fill_(math.inf)
        return whole

    def between(self, rows: slice, columns: slice, out: Tensor | None = None) -> Tensor:
        """Keys (n, w) of some rows against some, in the type they are computed in or written to `out`."""
        shape = rows.stop - rows.start, columns.stop - columns.start
        if self.squared:
            out = self._space("keys", shape, self.dtype) if out is None else out
            return torch.mm(self._left[rows], self._right[columns].T, out=out)
        own, others = self._columns[:, rows, None], self._columns[:, columns]
        largest, gap = (self._space(name, shape, others.dtype) for name in ("keys", "gap"))
        torch.sub(own[0], others[0], out=largest).abs_()
        for u in range(1, self.units):
            torch.sub(own[u], others[u], out=gap).abs_()
            torch.maximum(largest, gap, out=largest)
        return largest if out is None else out.copy_(largest)

    def key(self, distance: Tensor) -> Tensor:
        """The key of a distance, float64."""
        scaled = distance / self.scale
        return scaled.square() if self.squared else scaled * self._steps

    def exact(self, own: Tensor, index: Tensor) -> Tensor:
        """Distances (n, c) of the rows `own` (n,) to the rows `index` (n, c), float64."""
        return lengths(self._rows, own, index, self.metric).mul_(self.scale)

    def exact_to_all(self, own: Tensor, columns: slice = ALL) -> Tensor:
        """Distances (n, w) of the rows `own` (n,) to some or all, measured directly; 0 to themselves."""
        return lengths_to_all(self._rows, own, self.metric, columns).mul_(self.scale)

    def limits(self, radius: Tensor, rows: slice = ALL) -> tuple[Tensor, Tensor]:
        """Keys (n, 1): pairs below the first are surely closer than `radius` (n,), those above the second farther."""
        low = self.key(radius * (1.0 - TIE))[:, None] - self.bound[rows]
        high = self.key(radius * (1.0 + TIE))[:, None] + self.bound[rows]
        if self.whole:  # keys are whole numbers from 0 to 2 _STEPS, so one beyond either end means none or all
            low, high = (limit.clamp_(-1.0, 2.0 * _STEPS + 1.0) for limit in (low.ceil(), high.floor()))
            return low.to(torch.int16), high.to(torch.int16)
        # Thresholds are rounded outwards: what float32 calls below `low` is below it.
        low, high = low.to(self.dtype), high.to(self.dtype)
        most = torch.full_like(low, math.inf)
        return torch.nextafter(low, -most), torch.nextafter(high, most)

    def counted(self, key: Tensor, limits: tuple[Tensor, Tensor], out: Tensor) -> tuple[Tensor, Tensor]:
        """Count the keys (n, w) that are below the first limit, and up to the second, into `out` (2, n).

        Returns which they are, (n, w) of 0 and 1, until the next call.
        """
        below, upto = (self._space(name, (len(key), key.shape[1]), key.dtype) for name in ("below", "upto"))
        torch.sum(torch.lt(key, limits[0], out=below), 1, dtype=out.dtype, out=out[0])
        torch.sum(torch.le(key, limits[1], out=upto), 1, dtype=out.dtype, out=out[1])
        return below, upto


class Within:
    """How many others lie within `radius` (N,) of each row, from keys that come block by block.

    `known` (N,) of the others are known to be ties. Both may be filled in while blocks are added.
    """

    def __init__(self, keys: Keys, radius: Tensor, known: Tensor) -> None:
        self.keys, self.radius, self.known = keys, radius, known
        # Counts of floats are floats, the fastest sums.
        dtype = torch.int32 if keys.whole else keys.dtype
        self._found = torch.empty(2, keys.count, dtype=dtype, device=radius.device)
        self._pairs: list[Tensor] = []

    def add(self, part: slice, columns: slice, key: Tensor) -> None:
        """Count in keys (n, w) of some rows against all within reach of them, themselves included."""
        found = self._found[:, part]
        below, upto = self.keys.counted(key, self.keys.limits(self.radius[part], part), found)
        # Where as many lie between as are known to be ties, these are they.
        left = (found[1] - found[0] != self.known[part]).nonzero()[:, 0]
        if len(left) == 0:
            return
        own = left + part.start
        row, column = (upto[left] != below[left]).nonzero(as_tuple=True)
        if len(row) > below.numel() // _MANY:
            distance = self.keys.exact_to_all(own, columns)
            found[:, left] = _within(distance, self.radius[own, None]).sum(2).to(found.dtype)
        else:
            found[1, left] = found[0, left]
            self._pairs.append(torch.stack([own[row], column + columns.start]))

    def counts(self) -> tuple[Tensor, Tensor]:
        """Others within the radius, ties included, and left out, (N,) int64."""
        found, radius = self._found, self.radius
        if self._pairs:
            own, other = torch.cat(self._pairs, 1)
            inside = _within(self.keys.exact(own, other[:, None])[:, 0], radius[own])
            found.index_add_(1, own, inside.to(found.dtype))
        opened, closed = (found - torch.stack([radius > 0, radius >= 0]).to(found.dtype)).long()  # less the row itself
        return closed, opened


def counts_within(rows: Tensor, radius: Tensor, metric: Metric, known: Tensor) -> tuple[Tensor, Tensor]:
    """How many others lie within `radius` (N,) of each of `rows` (N, D): ties included, and left out, (N,) int64.

    `known` (N,) of the others are known to be ties. Rows come in the order of one unit, so that consecutive ones meet
    no others than those in a window of it.
    """
    value, order = rows[:, _narrow_unit(rows, radius)].sort()
    keys = Keys(rows[order], metric)
    within = Within(keys, radius[order], known[order])
    for part, columns in _windows(value, within.radius):
        within.add(part, columns, keys.between(part, columns))
    closed, opened = (torch.empty_like(found).index_copy_(0, order, found) for found in within.counts())
    return closed, opened


def _within(distance: Tensor, radius: Tensor) -> Tensor:
    """Whether distances are below a radius, and up to it, ties included, (2, ...) bool."""
    return torch.stack([distance < radius * (1.0 - TIE), distance <= radius * (1.0 + TIE)])


def _windows(value: Tensor, radius: Tensor) -> Iterator[tuple[slice, slice]]:
    """Yields stretches of ascending values (N,), each with the stretch of those within `radius` (N,) of any of them."""
    count, reach = len(value), radius * (1.0 + 2.0 * TIE)
    if on_accelerator(value.device):  # a look at the values would take longer than what they spare
        height = max(1, _CUDA_BLOCK_ELEMENTS // count)
        yield from ((slice(i, min(i + height, count)), slice(0, count)) for i in range(0, count, height))
        return
    ordered, low, high = value.numpy(), (value - reach).numpy(), (value + reach).numpy()
    some = slice(None, None, -(-count // _LOOKED_AT[1]))
    width = int((np.searchsorted(ordered, high[some]) - np.searchsorted(ordered, low[some])).max())
    height = min(max(_WINDOW_ELEMENTS // max(1, width), _WINDOW_ROWS[0]), _WINDOW_ROWS[1])
    starts = np.arange(0, count, height)
    first = np.searchsorted(ordered, np.minimum.reduceat(low, starts)).tolist()
    last = np.searchsorted(ordered, np.maximum.reduceat(high, starts), side="right").tolist()
    for start, left, right in zip(starts.tolist(), first, last, strict=True):
        yield slice(start, min(start + height, count)), slice(left, right)


def _narrow_unit(rows: Tensor, radius: Tensor) -> int:
    """The unit of (N, D) along which the fewest rows lie within `radius` (N,), judged by some units and some rows."""
    units, few = _LOOKED_AT
    step = -(-len(rows) // few)
    value, reach = rows[::step, :units].T, radius[::step, None]
    return int(((value[:, :, None] - value[:, None]).abs() <= reach).sum((1, 2)).argmin())


def _places(flags: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns of the few entries of (n, N) that are not 0; numpy is seven times faster at it."""
    if on_accelerator(flags.device):
        row, column = flags.nonzero(as_tuple=True)
        return row, column
    flat = torch.from_numpy(np.flatnonzero(flags.bool().numpy()))
    return torch.div(flat, flags.shape[1], rounding_mode="floor"), flat % flags.shape[1]
