"""k nearest neighbours and counts within a radius, the same numbers from a tree or from blocked products.

Few units on a CPU: a k-d tree. Otherwise approximate keys for a block of rows against all (float32 products
for the Euclidean norm, a running maximum for the max norm), with a bound of their rounding error: pairs that
the bound leaves undecided are measured again in float64, from the rows themselves. So both paths return the
float64 answer, and no N x N array exists.

Two distances are equal, a tie, where they differ by less than `TIE` relative.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

Metric = Literal["euclidean", "max"]

TIE = 1e-9
TREE_UNITS = 10
"""Up to here a tree is faster, measured at 4,096 and 10,000 rows on one core."""

_BLOCK_ELEMENTS = 1 << 20
_CUDA_BLOCK_ELEMENTS = 1 << 25
_GROUPED_COLUMNS = 1024
_GROUP = 32
_SPARE = 3
_DIRECT_ELEMENTS = 1 << 18
_MANY = 32
_DIRECT = "donot_use_mm_for_euclid_dist"


class Points:
    """Rows (N, D) float64 under one norm, to be asked for neighbours. A row is no neighbour of itself."""

    def __init__(self, rows: Tensor, metric: Metric = "euclidean", *, tree: bool | None = None) -> None:
        if metric not in ("euclidean", "max"):
            raise ValueError(f"metric must be 'euclidean' or 'max', got {metric!r}")
        self.rows, self.metric = rows.double(), metric
        self.count, self.units = self.rows.shape
        self.uses_tree = (self.units <= TREE_UNITS and not rows.is_cuda) if tree is None else tree
        self._tree: cKDTree | None = None
        self._sorted: Tensor | None = None

    @property
    def norm(self) -> float:
        return 2.0 if self.metric == "euclidean" else math.inf

    def tree(self) -> cKDTree:
        if self._tree is None:
            self._tree = cKDTree(self.rows.cpu().numpy())
        return self._tree

    def nearest(self, k: int) -> tuple[Tensor, Tensor]:
        """Distances (N, k), ascending, to the k nearest others, and their indices (N, k)."""
        _check_k(k, self.count)
        if self.uses_tree:
            distance, index = self.tree().query(self.rows.cpu().numpy(), k=k + 1, p=self.norm)
            return _without_self(torch.from_numpy(distance), torch.from_numpy(index), self.rows.device)
        out = torch.empty(self.count, k, dtype=torch.float64, device=self.rows.device)
        found = torch.empty(self.count, k, dtype=torch.int64, device=self.rows.device)
        keys = Keys(self)
        for rows, block in keys.blocks():
            out[rows], found[rows] = nearest_in_block([keys], rows, block, k)
        return out, found

    def within(self, radius: Tensor) -> tuple[Tensor, Tensor]:
        """How many others lie within `radius` (N,): ties with it included, and left out. Both (N,) int64."""
        closed, opened = radius * (1.0 + TIE), radius * (1.0 - TIE)
        if self.units == 1:
            return self._within_on_a_line(closed, opened)
        if self.uses_tree:
            return self._count_in_tree(closed) - 1, (self._count_in_tree(opened) - 1).where(radius > 0, 0)
        counts = [torch.empty(self.count, dtype=torch.int64, device=radius.device) for _ in range(2)]
        keys = Keys(self)
        for rows, block in keys.blocks():
            both = keys.count(rows, block, radius[rows])
            for out, part in zip(counts, both, strict=True):
                out[rows] = part
        return counts[0], counts[1]

    def _count_in_tree(self, radius: Tensor) -> Tensor:
        rows = self.rows.cpu().numpy()
        found = self.tree().query_ball_point(rows, radius.cpu().numpy(), p=self.norm, return_length=True)
        return torch.from_numpy(np.asarray(found, np.int64)).to(radius.device)

    def _within_on_a_line(self, closed: Tensor, opened: Tensor) -> tuple[Tensor, Tensor]:
        value = self.rows[:, 0].contiguous()
        if self._sorted is None:
            self._sorted = value.sort().values
        ordered = self._sorted
        right = torch.searchsorted(ordered, value + closed, right=True)
        inside = right - torch.searchsorted(ordered, value - closed)
        # The open interval never contains its ends: with radius 0 it is empty.
        strict = torch.searchsorted(ordered, value + opened) - torch.searchsorted(ordered, value - opened, right=True)
        return inside - 1, (strict - 1).where(opened > 0, 0)


def _check_k(k: int, count: int) -> None:
    if not 1 <= k < count:
        raise ValueError(f"n_neighbors must be at least 1 and below the number of samples ({count}), got {k}")


def _without_self(distance: Tensor, index: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Drop each row's own index from its k + 1 nearest; among many equal rows it may be missing: then the last."""
    own = index == torch.arange(len(index))[:, None]
    own[~own.any(1), -1] = True
    keep = ~own
    shape = len(index), index.shape[1] - 1
    return distance[keep].view(shape).to(device), index[keep].view(shape).to(device)


class Keys:
    """Approximate keys of pairs, block by block: the square of the distance, or the distance (max norm).

    The error of a key is at most `margin`; `exact` measures single pairs in float64.
    """

    def __init__(self, points: Points, scale: float | None = None) -> None:
        self.points = points
        rows, self.squared = points.rows, points.metric == "euclidean"
        # On a GPU a float32 product may be rounded to TF32, and a float64 one costs no more.
        self.dtype = torch.float64 if rows.is_cuda else torch.float32
        roundoff = torch.finfo(self.dtype).eps / 2
        centred = rows - rows.mean(0)
        self.scale = scale or float(centred.abs().max()) or 1.0
        self._rows = centred / self.scale  # (N, D) in [-1, 1]: no square leaves the range
        n, units = self._rows.shape
        if self.squared:
            v = self._rows.to(self.dtype)
            norm = v.double().square().sum(1, keepdim=True)
            square, one = norm.to(self.dtype), torch.ones_like(norm).to(self.dtype)
            self._left = torch.cat([-2.0 * v, square, one], dim=1)
            self._right = torch.cat([v, one, square], dim=1)
            # Rounding of the inputs and of a product of length D + 2 whose terms sum to at most 2 (|a|^2 + |b|^2).
            self._bound = 2.0 * (units + 8) * roundoff * (norm + norm.max())
        else:
            self._columns = self._rows.T.contiguous().to(self.dtype)  # (D, N)
            self._bound = torch.full_like(rows[:, :1], 8.0 * roundoff)
        limit = _CUDA_BLOCK_ELEMENTS if rows.is_cuda else _BLOCK_ELEMENTS
        self.height = max(1, min(n, limit // n))
        self.width = -(-n // _GROUP) * _GROUP
        self._buffer = torch.full((self.height, self.width), math.inf, dtype=self.dtype, device=rows.device)
        self._flags = torch.empty(2, self.height, n, dtype=self.dtype, device=rows.device)

    def spans(self) -> Iterator[slice]:
        for start in range(0, self.points.count, self.height):
            yield slice(start, min(start + self.height, self.points.count))

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        for rows in self.spans():
            yield rows, self.block(rows)

    def block(self, rows: slice) -> Tensor:
        """Keys (n, width) of some rows against all; infinite on the row itself and beyond the last column."""
        n, count = rows.stop - rows.start, self.points.count
        whole = self._buffer[:n]
        out = whole[:, :count]
        if self.squared:
            torch.mm(self._left[rows], self._right.T, out=out)
        else:
            scratch = self._flags[0, :n]
            for u, column in enumerate(self._columns):
                target = scratch if u else out
                torch.sub(column[rows, None], column[None], out=target).abs_()
                if u:
                    torch.maximum(out, scratch, out=out)
        out.diagonal(rows.start).fill_(math.inf)
        return whole

    def margin(self, rows: slice) -> Tensor:
        return self._bound[rows]

    def key(self, distance: Tensor) -> Tensor:
        """The key of a distance, float64."""
        scaled = distance / self.scale
        return scaled.square() if self.squared else scaled

    def exact(self, i: Tensor, j: Tensor) -> Tensor:
        """Distances (n,) of the pairs (i, j), float64."""
        out = torch.empty(len(i), dtype=torch.float64, device=i.device)
        step = max(1, _DIRECT_ELEMENTS // self.points.units)
        for start in range(0, len(i), step):
            part = slice(start, start + step)
            out[part] = self._length(self._rows[j[part]].sub_(self._rows[i[part]]))
        return out

    def exact_from(self, rows: slice, index: Tensor) -> Tensor:
        """Distances (n, c) of consecutive rows to the rows `index` (n, c), float64."""
        out = torch.empty(index.shape, dtype=torch.float64, device=index.device)
        step = max(1, _DIRECT_ELEMENTS // (self.points.units * index.shape[1]))
        for start in range(0, len(index), step):
            part = slice(start, start + step)
            own = self._rows[rows][part, None]
            out[part] = self._length(self._rows[index[part]].sub_(own))
        return out

    def _length(self, gap: Tensor) -> Tensor:
        return torch.linalg.vector_norm(gap, 2.0 if self.squared else math.inf, dim=-1).mul_(self.scale)

    def exact_to_all(self, rows: slice | Tensor) -> Tensor:
        """Distances (n, N) of some rows to all, measured directly."""
        norm = 2.0 if self.squared else math.inf
        return torch.cdist(self._rows[rows], self._rows, p=norm, compute_mode=_DIRECT) * self.scale

    def count(self, rows: slice, block: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
        """Others within `radius` (n,) of the rows of a block, ties included and left out, (n,) int64."""
        margin = self.margin(rows)
        high = self.key(radius * (1.0 + TIE))[:, None] + margin
        low = self.key(radius * (1.0 - TIE))[:, None] - margin
        block = block[:, : self.points.count]
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
        row, column = undecided.nonzero(as_tuple=True)
        distance = self.exact(row + rows.start, column)
        closed.index_add_(0, row, (distance <= radius[row] * (1.0 + TIE)).long())
        opened.index_add_(0, row, (distance < radius[row] * (1.0 - TIE)).long())
        return closed, opened


def _round(value: Tensor, dtype: torch.dtype, *, up: bool) -> Tensor:
    """Cast a float64 threshold so that it does not move inwards."""
    cast = value.to(dtype)
    if dtype == torch.float64:
        return cast
    edge = torch.full_like(cast, math.inf if up else -math.inf)
    return torch.nextafter(cast, edge)


def nearest_in_block(spaces: list[Keys], rows: slice, block: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k nearest others of the rows of a block in the largest of the distances in `spaces`.

    `block` (n, width) holds the largest of their keys. Candidates come from the approximate keys; a row whose
    candidates cannot be proven to hold the nearest ones is measured as a whole.
    """
    n = rows.stop - rows.start
    index, limit = _candidates(block, min(k + _SPARE, spaces[0].points.count - 1))
    distance = spaces[0].exact_from(rows, index)
    for space in spaces[1:]:
        distance = torch.maximum(distance, space.exact_from(rows, index))
    distance, order = distance.sort(dim=1, stable=True)
    distance, index = distance[:, :k].contiguous(), index.gather(1, order[:, :k])
    # All other pairs have keys of at least `limit`, less the error.
    safe = torch.ones(n, dtype=torch.bool, device=block.device)
    for space in spaces:
        safe &= space.key(distance[:, -1]) < limit.double() - space.margin(rows)[:, 0]
    unsafe = (~safe).nonzero()[:, 0]
    for part in torch.split(unsafe, spaces[0].height):
        whole = spaces[0].exact_to_all(part + rows.start)
        for space in spaces[1:]:
            whole = torch.maximum(whole, space.exact_to_all(part + rows.start))
        whole.scatter_(1, (part + rows.start)[:, None], math.inf)
        distance[part], index[part] = torch.topk(whole, k, dim=1, largest=False, sorted=True)
    return distance, index


def _candidates(block: Tensor, wanted: int) -> tuple[Tensor, Tensor]:
    """Columns (n, wanted) with the smallest keys, and a key (n,) that all others reach."""
    width = block.shape[1]
    if width < _GROUPED_COLUMNS or wanted > width // _GROUP // 2:
        key, index = torch.topk(block, min(wanted + 1, width), dim=1, largest=False)
        if key.shape[1] <= wanted:  # nothing is left out
            return index, torch.full_like(key[:, 0], math.inf)
        return index[:, :wanted], key[:, wanted]
    # A column that is among the nearest makes its group's minimum at least as small.
    groups = width // _GROUP
    minima = block.view(len(block), _GROUP, groups).amin(1)
    best, group = torch.topk(minima, wanted + 1, dim=1, largest=False)
    member = group[:, :wanted, None] + groups * torch.arange(_GROUP, device=block.device)
    member = member.flatten(1)
    key, order = torch.topk(block.gather(1, member), wanted + 1, dim=1, largest=False)
    return member.gather(1, order[:, :wanted]), torch.minimum(best[:, wanted], key[:, wanted])


@dataclass
class PairCounts:
    """For every row, around which two blocks of coordinates are counted apart.

    Attributes
    ----------
    distances : (N, k) float64, ascending
        To the k nearest in the joint space: the larger of the distances in both blocks.
    x_closed, x_open, y_closed, y_open : (N,) int64
        Others within the k-th distance in each block, ties included and left out.
    x_rectangle, y_rectangle : (N,) int64
        Others within the largest distance, in that block, of the k neighbours; ties included.
    """

    distances: Tensor
    x_closed: Tensor
    x_open: Tensor
    y_closed: Tensor
    y_open: Tensor
    x_rectangle: Tensor
    y_rectangle: Tensor


def pair_counts(x: Points, y: Points, k: int, *, rectangle: bool = False) -> PairCounts:
    """Neighbours in the joint space of `x` and `y`, and counts in each.

    The rectangle counts are those of the second estimator of Kraskov et al. (2004); without `rectangle` they
    repeat the closed ones.
    """
    if x.metric != y.metric or x.count != y.count:
        raise ValueError(f"both blocks need one metric and as many rows, got {x.count} and {y.count}")
    _check_k(k, x.count)
    one_norm = x.metric == "max" or x.units == y.units == 1
    if one_norm and x.units + y.units <= TREE_UNITS and not x.rows.is_cuda:
        joint = Points(torch.cat([x.rows, y.rows], dim=1), "max", tree=True)
        distance, index = joint.nearest(k)
        radius = distance[:, -1]
        x_both, y_both = x.within(radius), y.within(radius)
        x_rect, y_rect = x_both[0], y_both[0]
        if rectangle:
            x_rect, y_rect = (p.within(_reach(p, index))[0] for p in (x, y))
        return PairCounts(distance, *x_both, *y_both, x_rect, y_rect)
    a = Keys(x)
    b = Keys(y, a.scale)  # keys of both are compared with each other
    distances = torch.empty(x.count, k, dtype=torch.float64, device=x.rows.device)
    out = torch.empty(6, x.count, dtype=torch.int64, device=x.rows.device)
    for rows in a.spans():
        block_x, block_y = a.block(rows), b.block(rows)
        distances[rows], index = nearest_in_block([a, b], rows, torch.maximum(block_x, block_y), k)
        radius = distances[rows, -1]
        out[0, rows], out[1, rows] = a.count(rows, block_x, radius)
        out[2, rows], out[3, rows] = b.count(rows, block_y, radius)
        out[4, rows], out[5, rows] = out[0, rows], out[2, rows]
        if rectangle:
            out[4, rows] = a.count(rows, block_x, a.exact_from(rows, index).amax(1))[0]
            out[5, rows] = b.count(rows, block_y, b.exact_from(rows, index).amax(1))[0]
    return PairCounts(distances, *out)


def _reach(points: Points, index: Tensor) -> Tensor:
    """The largest distance (N,) to the rows `index` (N, k)."""
    gap = points.rows[:, None] - points.rows[index]  # (N, k, D)
    each = gap.square().sum(2).sqrt() if points.metric == "euclidean" else gap.abs().amax(2)
    return each.amax(1)


def equal_rows(rows: Tensor) -> Tensor:
    """How many other rows equal each row of `rows` (N, D) float64, (N,) int64."""
    bits = (rows + 0.0).contiguous().view(torch.int64)  # one zero
    generator = torch.Generator().manual_seed(0)
    odd = torch.randint(-(2**62), 2**62, (rows.shape[1],), generator=generator).to(rows.device) * 2 + 1
    # Round numbers differ in their high bits only: brought down before they are multiplied.
    key = (bits ^ (bits >> 32)) * -7046029254386353131
    key = ((key ^ (key >> 29)) * odd).sum(1)
    number, counts = torch.unique(key, return_inverse=True, return_counts=True)[1:]
    return counts[number] - 1


def intrinsic_dimension(distances: Tensor) -> float:
    """Dimension from distances (N, k), ascending, to the k nearest: Levina and Bickel (2004), k at least 2.

    The inverse of the mean of log(r_k / r_j) over rows and j < k; 0 where no row has distinct neighbours.
    """
    last, inner = distances[:, -1:], distances[:, :-1]
    ratio = (last / inner)[(inner > 0).all(1) & (last[:, 0] > inner[:, 0])]
    if ratio.numel() == 0:
        return 0.0
    return float(1.0 / ratio.log().mean())
