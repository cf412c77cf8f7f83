"""k nearest neighbours and counts within a radius, the same numbers from a tree or from blocked products.

Few units on a CPU: a k-d tree, in the more units the more rows there are. Otherwise blocks of approximate distances
whose undecided pairs are measured again (`_distances`), so that both paths give the float64 answer.
"""

from __future__ import annotations

import functools
import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from infoplane.core.device import on_accelerator
from infoplane.estimators._cells import counts_within
from infoplane.estimators._distances import (
    COLUMN_GROUP,
    NORM,
    TIE,
    Keys,
    Metric,
    Within,
    extent,
    integers_serve,
    lengths,
    lengths_to_all,
)

Array = npt.NDArray[Any]
Counted = Literal["open", "closed", "rectangle"]

TREE_UNITS = {"euclidean": 5, "max": 4}
"""A tree is faster up to so many units at 1,000 rows, and one more each time these double; measured on one core."""
_PAIR_UNITS = 12
"""The same for the nearest in a joint space, for which blocks take three times as long."""
_CUBE_UNITS = 2
"""A cube holds two discs with less to spare than an ellipsoid does."""
_DOUBTED = 8
"""Blocks take over where a list leaves more than one row in so many open."""
_CHUNK = 1 << 20
"""Numbers that are held at a time where rows ask a tree or all others."""

_GROUPED_COLUMNS = 1024
"""Columns from which candidates are looked for in groups first."""
_PACKED_COLUMNS = 512
"""Columns up to which a key and its column are packed into one number."""
_SPARE = 12
"""Candidates more than neighbours in the second try."""


class Points:
    """Rows (N, D) float64 under one norm, to be asked for neighbours. A row is no neighbour of itself.

    `tree` says whether a tree answers; by default it does where that is the faster way.
    """

    def __init__(self, rows: Tensor, metric: Metric = "euclidean", *, tree: bool | None = None) -> None:
        """Keep rows (N, D) and decide between a tree and blocks; ValueError for an unknown metric."""
        if metric not in NORM:
            raise ValueError(f"metric must be 'euclidean' or 'max', got {metric!r}")
        self.rows, self.metric = rows.double(), metric
        self.count, self.units = self.rows.shape
        self.wish = False if on_accelerator(rows.device) else tree
        self.uses_tree = self.prefers_tree(TREE_UNITS[metric], self.units)

    def prefers_tree(self, limit: int, units: int) -> bool:
        """The caller's wish, else whether a tree is sooner in `units` coordinates; `limit` is that for 1,000 rows."""
        return units <= limit + math.log2(max(self.count, 1) / 1000) if self.wish is None else self.wish

    @functools.cached_property
    def tree(self) -> cKDTree:
        """A tree of all rows."""
        return cKDTree(self.rows.cpu().numpy(), leafsize=4 * (self.units + 1))

    @functools.cached_property
    def line(self) -> tuple[Tensor, Tensor]:
        """The values (N,) of the only unit, ascending, and their rows (N,)."""
        value, order = self.rows[:, 0].sort()
        return value, order

    def in_tree(self, k: int) -> tuple[Array, Array]:
        """Distances and indices (N, k) of the k nearest rows by the tree; each row is among its own."""
        order = self.tree.indices  # rows that are near each other ask for the same part of the tree
        distance, index = np.empty((self.count, k)), np.empty((self.count, k), order.dtype)
        distance[order], index[order] = self.tree.query(self.tree.data[order], k=k, p=NORM[self.metric])
        return distance, index

    def distances(self, k: int) -> Tensor:
        """Distances (N, k), ascending, to the k nearest others."""
        _check_k(k, self.count)
        if not self.uses_tree or self.units == 1:
            return self.nearest(k)[0]
        return torch.from_numpy(self.in_tree(k + 1)[0])[:, 1:]  # the first is 0, of the row itself or of an equal

    def nearest(self, k: int) -> tuple[Tensor, Tensor]:
        """Distances (N, k), ascending, to the k nearest others, and their indices (N, k)."""
        _check_k(k, self.count)
        if self.units == 1:
            return self._nearest_on_a_line(k)
        if self.uses_tree:
            return _without_self(*map(torch.from_numpy, self.in_tree(k + 1)))
        return _nearest_by_blocks(Keys(self.rows, self.metric), k)

    def _nearest_on_a_line(self, k: int) -> tuple[Tensor, Tensor]:
        """Distances and indices (N, k) of the nearest others in one unit."""
        value, order = self.line
        # The k nearest are among the k before and the k after.
        around = torch.nn.functional.pad(value, (k, k), value=math.inf).unfold(0, 2 * k + 1, 1)
        gap = (around - value[:, None]).abs_()
        gap[:, k] = math.inf
        distance, place = torch.topk(gap, k, dim=1, largest=False, sorted=True)
        index = order[place + torch.arange(-k, self.count - k, device=place.device)[:, None]]
        return torch.empty_like(distance).index_copy_(0, order, distance), index.index_copy(0, order, index)

    def within(self, radius: Tensor, known: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """How many others lie within `radius` (N,): ties with it included, and left out. Both (N,) int64.

        `known` (N,) of them are known to be ties, which saves measuring them; 0 by default.
        """
        if self.units == 1:
            return self._within_on_a_line(radius * (1.0 + TIE), radius * (1.0 - TIE))
        return counts_within(self.rows, radius, self.metric, torch.zeros_like(radius) if known is None else known)

    def _within_on_a_line(self, closed: Tensor, opened: Tensor) -> tuple[Tensor, Tensor]:
        """How many others lie closer than `closed`, ties included, and than `opened`, both (N,), in one unit."""
        value, ordered = self.rows[:, 0].contiguous(), self.line[0]
        right = torch.searchsorted(ordered, value + closed, right=True)
        inside = right - torch.searchsorted(ordered, value - closed)
        # The open interval never contains its ends: with radius 0 it is empty.
        strict = torch.searchsorted(ordered, value + opened) - torch.searchsorted(ordered, value - opened, right=True)
        return inside - 1, (strict - 1).where(opened > 0, 0)  # a row is no neighbour of itself


def _check_k(k: int, count: int) -> None:
    """Raise ValueError unless k is from 1 to count - 1."""
    if not 1 <= k < count:
        raise ValueError(f"n_neighbors must be at least 1 and below the number of samples ({count}), got {k}")


def _without_self(distance: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """The k + 1 nearest less each row's own index, (N, k); where equal rows have crowded it out, the last goes."""
    own = index == torch.arange(len(index), device="cpu")[:, None]
    if bool(own[:, 0].all()):
        return distance[:, 1:], index[:, 1:]
    own[~own.any(1), -1] = True
    shape = len(index), index.shape[1] - 1
    return distance[~own].view(shape), index[~own].view(shape)


def _nearest_by_blocks(space: Keys, k: int) -> tuple[Tensor, Tensor]:
    """Distances and indices (N, k) of the k nearest others, from blocks of keys."""
    found = [_nearest_in_block([space], rows, space.block(rows), k) for rows in space.spans()]
    return torch.cat([distance for distance, _ in found]), torch.cat([index for _, index in found])


def _nearest_in_block(spaces: list[Keys], rows: slice, block: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Distances and indices (n, k) of the k nearest others of some rows, in the largest distance over `spaces`."""
    # `block` holds the keys of these rows. The k smallest are taken where the next one is larger beyond rounding; else
    # some more distances are measured, and all of them where that does not decide.
    most = spaces[0].count - 1
    own = torch.arange(rows.start, rows.stop, device=block.device)
    distance, index, unsafe = _proven(spaces, own, block, k, k)
    if len(unsafe):
        more = min(k + _SPARE, most)
        distance[unsafe], index[unsafe], left = _proven(spaces, own[unsafe], block[unsafe], k, more)
        unsafe = unsafe[left]
    for few in torch.split(unsafe, spaces[0].height):
        whole = functools.reduce(torch.maximum, [space.exact_to_all(own[few]) for space in spaces])
        distance[few], index[few] = _nearest_of_all(whole, own[few], k)
    return distance, index


def _nearest_of_all(distance: Tensor, own: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k smallest of all distances (n, N) of the rows `own` (n,), those to themselves left out."""
    found = torch.topk(distance.scatter_(1, own[:, None], math.inf), k, dim=1, largest=False, sorted=True)
    return found.values, found.indices


def _proven(spaces: list[Keys], own: Tensor, block: Tensor, k: int, wanted: int) -> tuple[Tensor, Tensor, Tensor]:
    """Distances, indices (n, k) of the nearest of `wanted` candidates, and the rows in which others may be nearer."""
    index, limit = _candidates(block, wanted)
    distance = functools.reduce(torch.maximum, [space.exact(own, index) for space in spaces])
    distance, order = distance.sort(dim=1, stable=True)
    distance, index = distance[:, :k].contiguous(), index.gather(1, order[:, :k])
    # All other pairs have keys of at least `limit`, less the error.
    safe = [space.key(distance[:, -1]) < limit.double() - space.bound[own, 0] for space in spaces]
    return distance, index, (~torch.stack(safe).all(0)).nonzero()[:, 0]


def _candidates(block: Tensor, wanted: int) -> tuple[Tensor, Tensor]:
    """Columns (n, wanted) with the smallest keys of a block (n, w), and a key (n,) that no other column is below."""
    width = block.shape[1]
    if width < _GROUPED_COLUMNS or wanted > width // COLUMN_GROUP // 2:
        key, index = torch.topk(block, min(wanted + 1, width), dim=1, largest=False)
        if key.shape[1] <= wanted:  # nothing is left out
            return index, torch.full_like(key[:, 0], math.inf)
        return index[:, :wanted], key[:, wanted]
    # Columns in groups of 32: the groups with the smallest minima hold the smallest keys. `others` is the smallest
    # minimum that was left out, `rest` the smallest key left out within the groups.
    groups = width // COLUMN_GROUP
    group, others = _smallest(block.view(len(block), COLUMN_GROUP, groups).amin(1), wanted)
    # Group g has the columns g, g + groups, g + 2 groups, ...
    member = (group[:, :, None] + groups * torch.arange(COLUMN_GROUP, device=block.device)).flatten(1)
    place, rest = _smallest(block.gather(1, member), wanted)
    return member.gather(1, place), torch.minimum(others, rest)


def _smallest(keys: Tensor, wanted: int) -> tuple[Tensor, Tensor]:
    """Columns (n, wanted) of the smallest keys (n, w), in any order, and a number (n,) that no other is below."""
    width = keys.shape[1]
    if on_accelerator(keys.device) or width > _PACKED_COLUMNS:
        key, index = torch.topk(keys, wanted + 1, dim=1, largest=False)
        return index[:, :wanted], key[:, wanted]
    # Bits of floats that are not negative are ordered as they are. The last bits make room for the column's number, so
    # that numpy's partition, several times faster than one that moves indices along, finds it too.
    room = (1 << (width - 1).bit_length()) - 1
    packed = keys.clamp(min=0.0).view(torch.int32).bitwise_and_(~room)
    packed.bitwise_or_(torch.arange(width, dtype=torch.int32, device="cpu"))
    parted = torch.from_numpy(np.partition(packed.numpy(), wanted, axis=1))
    return (parted[:, :wanted] & room).long(), (parted[:, wanted] & ~room).view(torch.float32)


def pair_counts(x: Points, y: Points, k: int, counted: Counted = "open") -> tuple[Tensor, Tensor, Tensor]:
    """Distances (N, k), ascending, to the nearest in the joint space of `x` and `y`, and counts (N,) int64 in each.

    Parameters
    ----------
    counted : {"open", "closed", "rectangle"}
        Which others are counted in a block: those closer there than the k-th neighbour is in the joint space; those
        as close; those as close there as the farthest of the k neighbours, which is the second estimator of Kraskov
        et al. (2004).
    """
    if x.metric != y.metric or x.count != y.count:
        raise ValueError(f"both blocks need one metric and as many rows, got {x.count} and {y.count}")
    _check_k(k, x.count)
    one_norm = x.metric == "max" or x.units == y.units == 1
    which = 1 if counted == "open" else 0
    # Which of several tied neighbours are taken decides a rectangle: there blocks do it, as a tree has other orders.
    nearest = None if counted == "rectangle" and not one_norm else _nearest_in_both(x, y, k)
    if nearest is None:
        distance, found = _in_blocks(x, y, k, counted)
        return distance, found[0][which], found[1][which]
    distance, index = nearest
    own, counts = torch.arange(x.count, device=index.device), []
    for points in (x, y):
        radius, known = _reach(points, own, index, distance, counted)
        counts.append(points.within(radius, known)[which])
    return distance, counts[0], counts[1]


def _reach(points: Points, own: Tensor, index: Tensor, distance: Tensor, counted: Counted) -> tuple[Tensor, Tensor]:
    """The radius (n,) within which others are counted, and how many of the neighbours (n, k) are ties with it."""
    apart = lengths(points.rows, own, index, points.metric)
    radius = apart.amax(1) if counted == "rectangle" else distance[:, -1]
    return radius, (apart >= radius[:, None] * (1.0 - TIE)).sum(1)


def _in_blocks(x: Points, y: Points, k: int, counted: Counted) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Distances (N, k) in the joint space, and the counts with and without ties in x and in y, from blocks of keys."""
    scale = max(extent(x.rows), extent(y.rows)) or 1.0  # the keys of both are compared with each other
    whole = all(integers_serve(p.rows, scale) for p in (x, y))
    spaces = [Keys(p.rows, p.metric, scale, whole) for p in (x, y)]
    distance = torch.empty(x.count, k, dtype=torch.float64, device=x.rows.device)
    within = [Within(space, torch.empty_like(distance[:, 0]), torch.empty_like(distance[:, 0])) for space in spaces]
    for rows in spaces[0].spans():
        blocks = [space.block(rows) for space in spaces]
        distance[rows], index = _nearest_in_block(spaces, rows, torch.maximum(*blocks), k)
        own = torch.arange(rows.start, rows.stop, device=index.device)
        for points, block, each in zip((x, y), blocks, within, strict=True):
            each.radius[rows], each.known[rows] = _reach(points, own, index, distance[rows], counted)
            block.diagonal(rows.start).zero_()  # the row itself counts until the end
            each.add(rows, block[:, : x.count])
    return distance, [each.counts() for each in within]


def _nearest_in_both(x: Points, y: Points, k: int) -> tuple[Tensor, Tensor] | None:
    """Distances and indices (N, k) of the nearest in the joint space, from a tree; None where blocks are better."""
    if not (x.prefers_tree(_PAIR_UNITS, x.units + y.units) and y.prefers_tree(_PAIR_UNITS, x.units + y.units)):
        return None
    if x.metric == "max" or x.units == y.units == 1:
        return Points(torch.cat([x.rows, y.rows], dim=1), "max", tree=True).nearest(k)
    tree, share = _enclosing_tree(x, y)
    distance = torch.empty(x.count, k, dtype=torch.float64, device="cpu")
    index = torch.empty(x.count, k, dtype=torch.int64, device="cpu")
    left = torch.from_numpy(tree.tree.indices)
    # Rows ask for longer and longer lists until their k nearest are certain.
    for wanted in (2 * k + 3, 5 * k + 3, 8 * k + 17):
        unsafe = []
        for few in torch.split(left, max(1, _CHUNK // (wanted * (x.units + y.units)))):
            asked = tree.rows.numpy()[few.numpy()]
            near = tree.tree.query(asked, k=min(wanted, x.count), p=NORM[tree.metric])
            length, found = (torch.from_numpy(a) for a in near)
            both = torch.maximum(*(lengths(p.rows, few, found, p.metric) for p in (x, y)))
            both, order = both.masked_fill_(found == few[:, None], math.inf).sort(dim=1, stable=True)
            distance[few], index[few] = both[:, :k], found.gather(1, order[:, :k])
            # All others are at least as far as this; none is left where the list holds all rows.
            beyond = length[:, -1] * share
            unsafe.append(few[both[:, k - 1] > beyond] if wanted < x.count else few[:0])
        left = torch.cat(unsafe)
    if len(left) > x.count // _DOUBTED:
        return None
    for few in torch.split(left, max(1, _CHUNK // x.count)):
        whole = torch.maximum(*(lengths_to_all(p.rows, few, p.metric) for p in (x, y)))
        distance[few], index[few] = _nearest_of_all(whole, few, k)
    return distance, index


def _enclosing_tree(x: Points, y: Points) -> tuple[Points, float]:
    """A joint space of x and y, and a factor: a length there times it is at most the larger one in x and y."""
    if max(x.units, y.units) <= _CUBE_UNITS:
        return Points(torch.cat([x.rows, y.rows], dim=1), "max", tree=True), 1.0 - 1e-12  # less what is rounding
    # Of units times sqrt(D) the Euclidean length is at most sqrt(D + D') times the larger length of both blocks; with
    # these weights the ellipsoid that holds all pairs of blocks within r is the smallest, two to three times theirs.
    weighted = torch.cat([x.rows * math.sqrt(x.units), y.rows * math.sqrt(y.units)], dim=1)
    return Points(weighted, tree=True), (1.0 - 1e-12) / math.sqrt(x.units + y.units)


def intrinsic_dimension(distances: Tensor) -> float:
    """Dimension from distances (N, k), ascending, to the k nearest: Levina and Bickel (2004), k at least 2.

    The inverse of the mean of log(r_k / r_j) over rows and j < k; 0 where no row has distinct neighbours.
    """
    last, inner = distances[:, -1:], distances[:, :-1]
    ratio = (last / inner)[(inner > 0).all(1) & (last[:, 0] > inner[:, 0])]
    if ratio.numel() == 0:
        return 0.0
    return float(1.0 / ratio.log().mean())
