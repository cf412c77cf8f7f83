"""Distances between the rows of one block, approximate for all pairs and exact for the few that matter.

Keys (squares of Euclidean distances, or max-norm distances) come in blocks of rows against all, from float32
products or differences in 16 bits, with a bound of their rounding error; pairs that the bound leaves undecided are
measured again in float64, from the rows themselves. No N x N array exists.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from infoplane.core.device import on_accelerator
from infoplane.estimators._counting.counts import Scratch

Metric = Literal["euclidean", "max"]

TIE = 1e-9
"""Two distances are equal, a tie, where they differ by less than this, relative."""
COLUMN_GROUP = 32
"""The width of a block is a multiple of this."""

_BLOCK_ELEMENTS = 1 << 21
_CUDA_BLOCK_ELEMENTS = 1 << 25
_TILE_ELEMENTS = 1 << 17
"""Keys of a block on a CPU, on an accelerator, and of a part of a block that stays in the cache."""
_STEPS = 10_922.0
"""Whole steps of the largest deviation in 16-bit keys: what differs from 32,767 is farther than all, even wrapped."""
_COARSE = 0.05
"""Root mean square deviation over the largest one from which such steps are fine enough."""
_DIRECT_ELEMENTS = 1 << 18
"""Differences that are held at a time where pairs are measured one by one."""
_MANY = 32
"""Where more than one pair in this many is undecided, all pairs of these rows are measured."""
_DIRECT = "donot_use_mm_for_euclid_dist"
"""Mode of `torch.cdist` that takes differences, not products."""

NORM = {"euclidean": 2.0, "max": math.inf}
ALL = slice(None)


def lengths(rows: Tensor, own: Tensor, index: Tensor, metric: Metric) -> Tensor:
    """Return distances (n, c), float64, of the rows `own` (n,) of `rows` (N, D) to the rows `index` (n, c)."""
    out = torch.empty(index.shape, dtype=torch.float64, device=index.device)
    step = max(1, _DIRECT_ELEMENTS // (rows.shape[1] * index.shape[1]))
    for start in range(0, len(index), step):
        part = slice(start, start + step)
        gap = rows[index[part]].sub_(rows[own[part], None])
        out[part] = torch.linalg.vector_norm(gap, dim=-1) if metric == "euclidean" else gap.abs_().amax(-1)
    return out


def lengths_to_all(rows: Tensor, own: Tensor, metric: Metric, columns: slice = ALL) -> Tensor:
    """Return distances (n, w), float64, of the rows `own` (n,) of `rows` (N, D) to `columns` of them; 0 to itself."""
    return torch.cdist(rows[own], rows[columns], p=NORM[metric], compute_mode=_DIRECT)


def extent(rows: Tensor) -> float:
    """Return the largest deviation of a value of `rows` (N, D) from the mean of its unit."""
    return float((rows - rows.mean(0)).abs().max())


def integers_serve(rows: Tensor, scale: float) -> bool:
    """Whether distances of rows (N, D) may be whole steps of `scale` / 10922: twice as fast as floats on a CPU.

    They leave a hundredth of the pairs undecided where an outlier sets the scale; not so where the root mean square of
    the deviations is a twentieth of it.
    """
    return not on_accelerator(rows.device) and float(((rows - rows.mean(0)) / scale).square().mean().sqrt()) > _COARSE


class Keys:
    """Approximate keys of pairs, block by block: the square of the distance, or the distance (max norm).

    The error of a key is at most the `bound` (N, 1) of its row; `exact` measures single pairs in float64.
    """

    def __init__(self, rows: Tensor, metric: Metric, scale: float | None = None, whole: bool | None = None) -> None:
        """Prepare rows (N, D); `scale`, and `whole` for keys in whole steps of 16 bits, are chosen unless given."""
        self.metric, self.squared = metric, metric == "euclidean"
        # On a GPU a float32 product may be rounded to TF32, and a float64 one costs no more.
        self.dtype = torch.float64 if on_accelerator(rows.device) else torch.float32
        roundoff = torch.finfo(self.dtype).eps / 2
        centred = rows - rows.mean(0)
        self.scale = scale or extent(rows) or 1.0  # 1 where all rows are equal
        self._rows = centred / self.scale  # (N, D) in [-1, 1]: no square leaves the range
        self._steps, self.whole = 1.0, False
        self.count, self.units = n, units = self._rows.shape
        if self.squared:
            v = self._rows.to(self.dtype)
            norm = v.double().square().sum(1, keepdim=True)
            square, one = norm.to(self.dtype), torch.ones_like(norm).to(self.dtype)
            # Their product is |a|^2 - 2 a b + |b|^2.
            self._left = torch.cat([-2.0 * v, square, one], dim=1)
            self._right = torch.cat([v, one, square], dim=1)
            # Rounding of the inputs and of a product of length D + 2 whose terms sum to at most 2 (|a|^2 + |b|^2).
            self.bound = 2.0 * (units + 8) * roundoff * (norm + norm.max())
        else:
            self.whole = integers_serve(rows, self.scale) if whole is None else whole
            self._steps = _STEPS if self.whole else 1.0
            columns = (self._rows.T * self._steps).contiguous()  # (D, N)
            self._columns = columns.round_().to(torch.int16) if self.whole else columns.to(self.dtype)
            # Two values are rounded to half a step each; floats by the roundoff of both and of their difference.
            self.bound = torch.full_like(rows[:, :1], 1.001 if self.whole else 8.0 * roundoff)
        limit = _CUDA_BLOCK_ELEMENTS if on_accelerator(rows.device) else _BLOCK_ELEMENTS
        self.height = max(1, min(n, limit // n))
        self.width = -(-n // COLUMN_GROUP) * COLUMN_GROUP
        self._scratch = Scratch()

    def spans(self) -> Iterator[slice]:
        """Yields the rows of each block, one block after the other."""
        for start in range(0, self.count, self.height):
            yield slice(start, min(start + self.height, self.count))

    def _space(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return a buffer of this shape, which the next call with the same name overwrites."""
        return self._scratch.view(shape, dtype, self._rows.device, name)

    def block(self, rows: slice) -> Tensor:
        """Return keys (n, width) of some rows against all, infinite to the row itself and in columns that fill up."""
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
        """Return keys (n, w) of `rows` against `columns`: in the type they are computed in, or written to `out`."""
        shape = rows.stop - rows.start, columns.stop - columns.start
        if self.squared:
            out = self._space("keys", shape, self.dtype) if out is None else out
            return torch.mm(self._left[rows], self._right[columns].T, out=out)
        largest = self._space("keys", shape, self._columns.dtype)
        self._largest_gap(self._columns[:, rows, None], self._columns[:, columns], largest)
        return largest if out is None else out.copy_(largest)

    def key(self, distance: Tensor) -> Tensor:
        """Return the exact key (float64) of a distance."""
        scaled = distance / self.scale
        return scaled.square() if self.squared else scaled * self._steps

    def exact(self, own: Tensor, index: Tensor) -> Tensor:
        """Return distances (n, c) of the rows `own` (n,) to the rows `index` (n, c), float64."""
        return lengths(self._rows, own, index, self.metric).mul_(self.scale)

    def exact_to_all(self, own: Tensor, columns: slice = ALL) -> Tensor:
        """Return distances (n, w) of the rows `own` (n,) to some or all, measured directly; 0 to themselves."""
        return lengths_to_all(self._rows, own, self.metric, columns).mul_(self.scale)

    def limits(self, radius: Tensor, rows: slice = ALL) -> tuple[Tensor, Tensor]:
        """Return keys (n, 1): below the first a pair is surely closer than `radius` (n,), above the second farther."""
        low = self.key(radius * (1.0 - TIE))[:, None] - self.bound[rows]
        high = self.key(radius * (1.0 + TIE))[:, None] + self.bound[rows]
        if self.whole:  # keys are whole numbers from 0 to 2 _STEPS, and farther is what fills a cell
            low, high = low.ceil().clamp_(-1.0, 2.0 * _STEPS + 1.0), high.floor().clamp_(-1.0, 2.0 * _STEPS)
            return low.to(torch.int16), high.to(torch.int16)
        # Thresholds are rounded outwards: what float32 calls below `low` is below it.
        low, high = low.to(self.dtype), high.to(self.dtype)
        most = torch.full_like(low, math.inf)
        return torch.nextafter(low, -most), torch.nextafter(high, most)

    def flags(self, key: Tensor, limits: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return which keys are below the first limit, which up to the second: 0 or 1, overwritten by the next call."""
        below, upto = (self._space(name, key.shape, key.dtype) for name in ("below", "upto"))
        return torch.lt(key, limits[0], out=below), torch.le(key, limits[1], out=upto)

    def cells(self, count: int, size: int) -> tuple[Tensor, Tensor]:
        """Return `own` and `others` for `between_cells`: `count` cells of `size` rows, and one far off in `others`."""
        far = 32_767 if self.whole else math.inf
        fill = torch.nn.functional.pad
        if self.squared:
            own, other = fill(self._left, (0, 0, 0, count * size - self.count)), self._right
            other = fill(other, (0, 0, 0, (count + 1) * size - self.count))
            other[self.count :, -1] = far
            return own.view(count, size, -1), other.view(count + 1, size, -1)
        columns = self._columns
        others = fill(columns, (0, (count + 1) * size - self.count), value=far)
        own = fill(columns, (0, count * size - self.count))
        return own.view(self.units, count, size), others.view(self.units, count + 1, size)

    def between_cells(self, own: Tensor, others: Tensor, cells: Tensor, met: Tensor) -> Tensor:
        """Return keys (B, H, W H) of the H rows of each of `cells` (B,) against all rows of its cells `met` (B, W)."""
        size, (count, width) = own.shape[1] if self.squared else own.shape[2], met.shape
        shape = count, size, width * size
        out = self._space("keys", shape, own.dtype)
        if self.squared:
            other = others.index_select(0, met.flatten()).view(count, width * size, -1)
            return torch.bmm(own[cells], other.mT, out=out)
        other = others.index_select(1, met.flatten()).view(self.units, count, 1, width * size)
        return self._largest_gap(own.index_select(1, cells)[..., None], other, out)

    def _largest_gap(self, own: Tensor, others: Tensor, out: Tensor) -> Tensor:
        """Write to `out` the largest absolute difference over the units, the first axis of `own` and `others`."""
        gap = self._space("gap", out.shape, out.dtype)
        torch.sub(own[0], others[0], out=out).abs_()
        for u in range(1, self.units):
            torch.sub(own[u], others[u], out=gap).abs_()
            torch.maximum(out, gap, out=out)
        return out


class Within:
    """How many others lie within `radius` (N,) of each row, from keys that come block by block.

    `known` (N,) of the others are known to be ties. Both may be filled in while blocks are added.
    """

    def __init__(self, keys: Keys, radius: Tensor, known: Tensor) -> None:
        """Make room for the counts: without ties, and with."""
        self.keys, self.radius, self.known = keys, radius, known
        # Counts of floats are floats, the fastest sums.
        dtype = torch.int32 if keys.whole else keys.dtype
        self._found = torch.empty(2, keys.count, dtype=dtype, device=radius.device)
        self._pairs: list[Tensor] = []

    def add(self, part: slice, key: Tensor) -> None:
        """Count, for the rows `part`, in their keys (n, N) against all rows, themselves included."""
        found = self._found[:, part]
        below, upto = self.keys.flags(key, self.keys.limits(self.radius[part], part))
        for flags, out in ((below, found[0]), (upto, found[1])):
            torch.sum(flags, 1, dtype=out.dtype, out=out)
        # Keys between the limits may be ties or not. Where they are as many as are known to be ties, they are these.
        left = (found[1] - found[0] != self.known[part]).nonzero()[:, 0]
        if len(left) == 0:
            return
        own = left + part.start
        row, column = (upto[left] != below[left]).nonzero(as_tuple=True)
        # Many undecided pairs: all distances of these rows are measured at once. Few: they are noted and measured at
        # the end, and until then count as farther than the radius.
        if len(row) > below.numel() // _MANY:
            inside = _within(self.keys.exact_to_all(own), self.radius[own, None])
            found[:, left] = inside.sum(2).to(found.dtype)
        else:
            found[1, left] = found[0, left]
            self._pairs.append(torch.stack([own[row], column]))

    def counts(self) -> tuple[Tensor, Tensor]:
        """Return how many other rows lie within the radius of each, with ties and without, (N,) int64 each."""
        return settled(self.keys, self.radius, self._found, self._pairs)


def settled(keys: Keys, radius: Tensor, found: Tensor, pairs: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Return counts (N,) of other rows within `radius` (N,), with ties and without, once `pairs` are measured."""
    # `found` (2, N) are the counts without ties, and with; each of `pairs` is (2, n): rows that may be within.
    if pairs:
        own, other = torch.cat(pairs, 1)
        inside = _within(keys.exact(own, other[:, None])[:, 0], radius[own])
        found.index_add_(1, own, inside.to(found.dtype))
    without_ties, with_ties = (found - torch.stack([radius > 0, radius >= 0]).to(found.dtype)).long()  # less itself
    return with_ties, without_ties


def _within(distance: Tensor, radius: Tensor) -> Tensor:
    """Return (2, ...) bool: whether distances are below a radius, without ties, and up to it, with ties."""
    return torch.stack([distance < radius * (1.0 - TIE), distance <= radius * (1.0 + TIE)])
