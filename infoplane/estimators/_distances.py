"""Distances between the rows of one block, approximate for all pairs and exact for the few that matter.

Keys (squares of Euclidean distances, or max-norm distances) come in blocks of rows against all, from float32
products or differences in 16 bits, with a bound of their rounding error; pairs that the bound leaves undecided are
measured again in float64, from the rows themselves. No N x N array exists.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from infoplane.core.device import on_accelerator
from infoplane.estimators._counting.counts import Scratch

Metric = Literal["euclidean", "max"]

TIE = 1e-9
"""Two distances are equal, a tie, where they differ by less than this, relative."""

_BLOCK_ELEMENTS, _CUDA_BLOCK_ELEMENTS = 1 << 19, 1 << 25
"""Keys of a block on a CPU, where it stays in the cache, and on an accelerator."""
_PRODUCT_ROWS = 256
"""Rows of a block of products on a CPU at most: what is written stays in the nearer cache."""
_GROUPS, _MEMBERS = 64, 32
"""Columns come in an odd multiple of so many groups, which vectors take at once, of about so many members at most."""
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
_FOUR_ONES = 0x0001_0001_0001_0001  # as a factor it adds four 16-bit numbers in the highest of them
_FOUR_LANES = 1 << 16  # columns below which a sum of ones fits into 16 bits


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
    """Return whether distances of rows (N, D) may be whole steps of `scale` / 10922: twice as fast as floats on a CPU.

    On a GPU they may not, nor where an outlier sets `scale`: steps so coarse leave a hundredth of the pairs undecided.
    The root mean square of the deviations from the mean must be above a twentieth of it.
    """
    return not on_accelerator(rows.device) and float(((rows - rows.mean(0)) / scale).square().mean().sqrt()) > _COARSE


class Keys:
    """Approximate keys of pairs of rows, block by block: the square of their distance, or the distance (max norm).

    The error of a key is at most the `bound` (N, 1) of its row; `exact` measures single pairs in float64.
    """

    def __init__(self, rows: Tensor, metric: Metric, scale: float | None = None, whole: bool | None = None) -> None:
        """Prepare rows (N, D) for products (Euclidean) or differences (max norm).

        `scale` divides the rows, by default their largest deviation from the mean. `whole` asks for keys of the max
        norm in whole 16-bit steps, by default where `integers_serve`.
        """
        self.metric, self.squared = metric, metric == "euclidean"
        # On a GPU a float32 product may be rounded to TF32, and a float64 one costs no more.
        self.dtype = torch.float64 if on_accelerator(rows.device) else torch.float32
        roundoff = torch.finfo(self.dtype).eps / 2
        centred = rows - rows.mean(0)
        self.scale = scale or extent(rows) or 1.0  # 1 where all rows are equal
        self._rows = centred / self.scale  # (N, D) in [-1, 1]: no square leaves the range
        self._steps, self.whole = 1.0, False
        self.count, self.units = n, units = self._rows.shape
        # Padding beyond the last row is infinitely far. A part of the columns may need more of it than all together.
        fill = 2 * groups_of(n)
        if self.squared:
            v = self._rows.to(self.dtype)
            norm = v.double().square().sum(1, keepdim=True)
            square = norm.to(self.dtype)
            # Their product is |a|^2 - 2 a b + |b|^2.
            self._left = torch.cat([-2.0 * v, square, torch.ones_like(square)], dim=1)
            self._right = v.new_zeros(n + fill, units + 2)
            self._right[:n, :units], self._right[:n, units], self._right[:n, -1] = v, 1.0, square[:, 0]
            self._right[n:, -1] = math.inf
            # Rounding of the inputs and of a product of length D + 2 whose terms sum to at most 2 (|a|^2 + |b|^2).
            self.bound = 2.0 * (units + 8) * roundoff * (norm + norm.max())
        else:
            self.whole = integers_serve(rows, self.scale) if whole is None else whole
            self._steps = _STEPS if self.whole else 1.0
            columns = (self._rows.T * self._steps).contiguous()  # (D, N)
            columns = columns.round_().to(torch.int16) if self.whole else columns.to(self.dtype)
            self._columns = torch.nn.functional.pad(columns, (0, fill), value=self.far)  # (D, more than N)
            # Two values are rounded to half a step each; floats by the roundoff of both and of their difference.
            self.bound = torch.full_like(rows[:, :1], 1.001 if self.whole else 8.0 * roundoff)
        self._scratch = Scratch()

    @property
    def far(self) -> float:
        """Return a key, which is also a value of a unit in whole steps, that is larger than all others."""
        return 32_767 if self.whole else math.inf

    def tiles(self, own: Tensor, width: int) -> tuple[Tensor, ...]:
        """Cut the rows `own` (n,) into parts, each so many that their keys against `width` columns make one block."""
        if on_accelerator(own.device):
            return torch.split(own, max(1, _CUDA_BLOCK_ELEMENTS // width))
        rows = max(1, _BLOCK_ELEMENTS // width)
        return torch.split(own, min(rows, _PRODUCT_ROWS) if self.squared else rows)

    def _space(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return a buffer of this shape, which the next call with the same name overwrites."""
        return self._scratch.view(shape, dtype, self._rows.device, name)

    def between(self, own: Tensor, columns: slice) -> Tensor:
        """Return keys (n, w) of rows `own` (n,) against rows `columns`; `far` where these reach beyond the last one."""
        shape = len(own), columns.stop - columns.start
        if self.squared:
            return torch.mm(self._left[own], self._right[columns].T, out=self._space("keys", shape, self.dtype))
        out = self._space("keys", shape, self._columns.dtype)
        return self._largest_gap(self._columns[:, own, None], self._columns[:, None, columns], out)

    def larger(self, keys: Tensor, others: Tensor, keep: bool) -> Tensor:
        """Return the larger of two blocks of keys (n, w), written over `keys` unless these are to be kept (`keep`)."""
        out = self._space("larger", tuple(keys.shape), keys.dtype) if keep else keys
        return torch.maximum(keys, others, out=out)

    def key(self, distance: Tensor) -> Tensor:
        """Return the exact key (float64) of a distance in the units of the rows."""
        scaled = distance / self.scale
        return scaled.square() if self.squared else scaled * self._steps

    def exact(self, own: Tensor, index: Tensor) -> Tensor:
        """Return distances (n, c) of the rows `own` (n,) to the rows `index` (n, c), float64."""
        return lengths(self._rows, own, index, self.metric).mul_(self.scale)

    def exact_to_all(self, own: Tensor, columns: slice = ALL) -> Tensor:
        """Return distances (n, w), float64, of the rows `own` (n,) to rows `columns`, by differences; 0 to itself."""
        return lengths_to_all(self._rows, own, self.metric, columns).mul_(self.scale)

    def limits(self, radius: Tensor, own: Tensor | slice = ALL) -> tuple[Tensor, Tensor]:
        """Return two keys (n, 1) for the `radius` (n,) of the rows `own` (n,): a low and a high limit.

        Pairs with a key below the low limit are surely closer than the radius, those above the high one surely farther.
        Between them are ties, and pairs that the error of a key leaves undecided.
        """
        low = self.key(radius * (1.0 - TIE))[:, None] - self.bound[own]
        high = self.key(radius * (1.0 + TIE))[:, None] + self.bound[own]
        if self.whole:  # keys of rows are whole numbers from 0 to 2 _STEPS; only padding has a larger one
            low, high = low.ceil().clamp_(-1.0, 2.0 * _STEPS + 1.0), high.floor().clamp_(-1.0, 2.0 * _STEPS)
            return low.to(torch.int16), high.to(torch.int16)
        # Thresholds are rounded outwards: what float32 calls below `low` is below it.
        low, high = low.to(self.dtype), high.to(self.dtype)
        most = torch.full_like(low, math.inf)
        return torch.nextafter(low, -most), torch.nextafter(high, most)

    def tally(self, key: Tensor, limits: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return how many keys (..., n, w) are below the low limit (..., n, 1), and up to the high one, as (..., n)."""
        flags = self._space("flags", tuple(key.shape), key.dtype)
        opened = sums(torch.lt(key, limits[0], out=flags))
        return opened, sums(torch.le(key, limits[1], out=flags))

    def cells(self, count: int, size: int) -> tuple[Tensor, Tensor]:
        """Return `own` and `others` of `between_cells`: rows in `count` cells of `size`; `others` has one more."""
        # The further cell is far from all rows: it pads lists of cells of unequal length.
        fill = torch.nn.functional.pad
        if self.squared:
            own, other = fill(self._left, (0, 0, 0, count * size - self.count)), self._right[: self.count]
            other = fill(other, (0, 0, 0, (count + 1) * size - self.count))
            other[self.count :, -1] = self.far
            return own.view(count, size, -1), other.view(count + 1, size, -1)
        columns = self._columns[:, : self.count]
        others = fill(columns, (0, (count + 1) * size - self.count), value=self.far)
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


def padded(count: int) -> int:
    """Return the width of a block for `count` columns, padded to groups of equal size."""
    groups = groups_of(count)
    members = -(-count // groups)
    # Rows a multiple of 2 KiB apart would share a few lines of the cache: products take four times as long.
    return groups * (members + (members % 8 == 0))


def groups_of(count: int) -> int:
    """Return how many groups `count` columns make; group g has the columns g, g + groups, g + 2 groups, ..."""
    return _GROUPS * (-(-count // (_GROUPS * _MEMBERS)) | 1)


def counts_in_blocks(keys: Keys, radius: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many other rows lie within `radius` (N,) of each row, by all pairs: with ties and without, (N,) int64.

    `known` (N,) says how many ties, rows at just this distance, each row is known to have.
    """
    counts = counts_by_limits(keys, radius, torch.arange(keys.count, device=radius.device))
    return decided_counts(keys, radius, known, counts)


def counts_by_limits(keys: Keys, radius: Tensor, own: Tensor) -> Tensor:
    """Return how many rows are surely within `radius` (N,) of each of the rows `own` (n,), and may be: (2, n) int64.

    A row counts itself.
    """
    columns, found = slice(0, padded(keys.count)), [own.new_zeros(2, 0)]
    for part in keys.tiles(own, columns.stop) if len(own) else ():
        found.append(torch.stack(keys.tally(keys.between(part, columns), keys.limits(radius[part], part))))
    return torch.cat(found, 1)


def decided_counts(keys: Keys, radius: Tensor, known: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Return what `counts_in_blocks` does, from the `counts` (2, N) that `counts_by_limits` gives for all rows."""
    columns, pairs = slice(0, padded(keys.count)), []
    # Keys between the limits may be ties or not. Where they are as many as the known ties, they are these ties. The
    # others (`pairs`) are measured at the end, and until then count as farther than the radius.
    left = (counts[1] - counts[0] != known).nonzero()[:, 0]
    for part in keys.tiles(left, columns.stop) if len(left) else ():
        key, (low, high) = keys.between(part, columns), keys.limits(radius[part], part)
        row, column = ((key >= low) & (key <= high)).nonzero(as_tuple=True)
        if len(row) > key.numel() // _MANY:  # all distances of these rows are measured at once
            counts[:, part] = _within(keys.exact_to_all(part), radius[part, None]).sum(2)
        else:
            counts[1, part] = counts[0, part]
            pairs.append(torch.stack([part[row], column]))
    return counts_after_measuring(keys, radius, counts, pairs)


def sums(flags: Tensor) -> Tensor:
    """Return sums (..., n), int64, of zeros and ones (..., n, w) over the last axis, w a multiple of 4."""
    if flags.dtype != torch.int16 or flags.shape[-1] >= _FOUR_LANES:
        return flags.sum(-1, dtype=torch.int64 if flags.dtype == torch.int16 else None).long()
    # Four flags of 16 bits are read as one number: these are summed, then the product adds the four sums in one.
    return ((flags.view(torch.int64).sum(-1) * _FOUR_ONES) >> 48) & 0xFFFF


def counts_after_measuring(keys: Keys, radius: Tensor, found: Tensor, pairs: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Return how many other rows lie within `radius` (N,) of each row: with ties, and without, (N,) int64 each.

    `found` (2, N) are the counts so far: without ties, and with. `pairs`, each (2, n) row numbers, are not in them:
    these are measured exactly and added.
    """
    if pairs:
        own, other = torch.cat(pairs, 1)
        inside = _within(keys.exact(own, other[:, None])[:, 0], radius[own])
        found.index_add_(1, own, inside.to(found.dtype))
    without_ties, with_ties = (found - torch.stack([radius > 0, radius >= 0]).to(found.dtype)).long()  # less itself
    return with_ties, without_ties


def _within(distance: Tensor, radius: Tensor) -> Tensor:
    """Return (2, ...) bool: whether distances are below a radius, without ties, and up to it, with ties."""
    return torch.stack([distance < radius * (1.0 - TIE), distance <= radius * (1.0 + TIE)])
