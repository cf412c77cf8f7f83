"""k nearest neighbours and counts within a radius, the same numbers from a tree or from blocked products.

Few units on a CPU: a k-d tree, in the more units the more rows there are. Otherwise blocks of approximate distances
whose undecided pairs are measured again (`_distances`), so that both paths give the float64 answer.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from infoplane.core.device import on_accelerator
from infoplane.core.records import Array
from infoplane.estimators._cells import all_pairs_are_sooner, counts_within
from infoplane.estimators._distances import (
    NORM,
    TIE,
    Keys,
    Metric,
    counts_by_limits,
    decided_counts,
    extent,
    groups_of,
    integers_serve,
    lengths,
    lengths_to_all,
    padded,
)

Counted = Literal["open", "closed", "rectangle"]
Look = Callable[[Tensor, list[Tensor], Tensor], None]
"""Takes rows (n,), their keys (n, w) in every space, and their candidates (n, c)."""

TREE_UNITS = {"euclidean": 5, "max": 5.5}
"""A tree is faster up to so many units, and from 1,000 rows on one more each time these double; on one core."""
_FEW = 50
"""Classes of fewer rows on average take one tree: blocks come class by class."""
_CLASS_UNITS = {"euclidean": 3, "max": 2.5}
"""As `TREE_UNITS`, for 1,000 rows a class."""
_PAIR_UNITS = 5.5
"""The same for lists in a joint space."""
_CUBE_UNITS = 2
"""A cube holds two discs with less to spare than an ellipsoid does."""
_DOUBTED = 8
"""Blocks take over where a list leaves more than one row in so many open."""
_CHUNK = 1 << 20
"""Numbers that are held at a time where rows ask a tree or all others."""

_GROUPED_MEMBERS = 4
"""Members of a group from which candidates are looked for in groups first."""
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

    def prefers_tree(self, limit: float, units: int, parts: int = 1) -> bool:
        """Return the caller's wish, else whether a tree of `units` coordinates is faster than blocks.

        `limit` is the number of units up to which it is for 1,000 rows a part; each doubling of the rows adds one.
        Blocks compare rows only within each of `parts`.
        """
        if self.wish is not None:
            return self.wish
        return units <= limit + max(0.0, math.log2(max(self.count, 1) / (1000 * parts)))

    @functools.cached_property
    def tree(self) -> cKDTree:
        """Return a tree of all rows, made once."""
        return cKDTree(self.rows.cpu().numpy(), leafsize=4 * (self.units + 1))

    @functools.cached_property
    def line(self) -> tuple[Tensor, Tensor]:
        """Return the values (N,) of the only unit, ascending, and the row numbers (N,) that have them."""
        value, order = self.rows[:, 0].sort()
        return value, order

    def in_tree(self, k: int) -> tuple[Array, Array]:
        """Return distances and indices (N, k) of the k nearest rows by the tree; the row itself is one of them."""
        order = self.tree.indices  # rows that are near each other ask for the same part of the tree
        distance, index = np.empty((self.count, k)), np.empty((self.count, k), order.dtype)
        distance[order], index[order] = self.tree.query(self.tree.data[order], k=k, p=NORM[self.metric])
        return distance, index

    def distances(self, k: int) -> Tensor:
        """Return distances (N, k), ascending, to the k nearest others; ValueError unless k is below N."""
        _check_k(k, self.count)
        if not self.uses_tree or self.units == 1:
            return self.nearest(k)[0]
        return torch.from_numpy(self.in_tree(k + 1)[0])[:, 1:]  # the first is 0, of the row itself or of an equal

    def nearest(self, k: int) -> tuple[Tensor, Tensor]:
        """Return distances (N, k), ascending, to the k nearest others, and indices (N, k); ValueError unless k < N."""
        _check_k(k, self.count)
        if self.units == 1:
            return self._nearest_on_a_line(k)
        if self.uses_tree:
            return _without_self(*map(torch.from_numpy, self.in_tree(k + 1)))
        return _nearest_by_blocks([Keys(self.rows, self.metric)], k)

    def _nearest_on_a_line(self, k: int) -> tuple[Tensor, Tensor]:
        """Return distances and indices (N, k) of the nearest others, for rows of one unit."""
        value, order = self.line
        distance, place = torch.topk(_around(value, k), k, dim=1, largest=False, sorted=True)
        index = order[place + torch.arange(-k, self.count - k, device=place.device)[:, None]]
        return torch.empty_like(distance).index_copy_(0, order, distance), index.index_copy(0, order, index)

    def distances_in_classes(self, y: Tensor, counts: Tensor, k: int) -> Tensor:
        """Return distances (N, k), ascending, to the k nearest others of the same class; infinite where it has fewer.

        `y` (N,) are the classes, from 0, and `counts` (C,) their sizes.
        """
        few = self.wish is None and not on_accelerator(y.device) and self.count < _FEW * len(counts)
        if self.units > 1 and (few or self.prefers_tree(_CLASS_UNITS[self.metric], self.units, len(counts))):
            # One tree finds the neighbours of all classes where these lie far apart in one more coordinate.
            far = 5.0 * math.sqrt(self.units) * float(self.rows.abs().max()) + 1.0
            apart = Points(torch.cat([self.rows, far * y[:, None]], dim=1), self.metric, tree=True)
            distance = torch.from_numpy(apart.in_tree(k + 1)[0])[:, 1:]
            return distance.masked_fill_(distance > 0.5 * far, math.inf)
        if self.units == 1:
            value, order = self.line
            by_class = y[order].argsort(stable=True)
            order = order[by_class]
            distance = _smallest_of_few(_around(value[by_class], k, y[order]), k)
        else:
            order = y.argsort(stable=True)
            centre = self.rows.new_zeros(len(counts), self.units).index_add_(0, y, self.rows) / counts[:, None]
            space = Keys((self.rows - centre[y])[order], self.metric)
            distance = _nearest_by_blocks([space], k, counts.tolist())[0]
        return torch.empty_like(distance).index_copy_(0, order, distance)

    def within(self, radius: Tensor, known: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return how many others lie within `radius` (N,) of each row: with ties, and without, (N,) int64 each.

        A tie is a row at just this distance. `known` (N,) says how many ties each row is known to have, which saves
        measuring them; 0 by default.
        """
        if self.units == 1:
            return self._within_on_a_line(radius * (1.0 + TIE), radius * (1.0 - TIE))
        return counts_within(self.rows, radius, self.metric, torch.zeros_like(radius) if known is None else known)

    def _within_on_a_line(self, closed: Tensor, opened: Tensor) -> tuple[Tensor, Tensor]:
        """Return how many others lie up to `closed` (N,) away, and how many closer than `opened` (N,), in one unit."""
        value, ordered = self.rows[:, 0].contiguous(), self.line[0]
        right = torch.searchsorted(ordered, value + closed, right=True)
        inside = right - torch.searchsorted(ordered, value - closed)
        # The open interval never contains its ends: with radius 0 it is empty.
        strict = torch.searchsorted(ordered, value + opened) - torch.searchsorted(ordered, value - opened, right=True)
        return inside - 1, (strict - 1).where(opened > 0, 0)  # a row is no neighbour of itself


def _around(value: Tensor, k: int, y: Tensor | None = None) -> Tensor:
    """Return distances (N, 2 k + 1) of ascending values (N,) to the k before and the k after, infinite to itself.

    The k nearest are among these. With classes `y` (N,), values come by class, ascending in each, and those of another
    class are infinitely far.
    """
    pad, width = torch.nn.functional.pad, 2 * k + 1
    gap = (pad(value, (k, k), value=math.inf).unfold(0, width, 1) - value[:, None]).abs_()
    if y is not None:
        gap.masked_fill_(pad(y, (k, k), value=-1).unfold(0, width, 1) != y[:, None], math.inf)
    gap[:, k] = math.inf
    return gap


def _smallest_of_few(distance: Tensor, k: int) -> Tensor:
    """Return the k smallest (n, k), ascending, of each row of distances (n, w), where w is small."""
    if on_accelerator(distance.device):
        return torch.topk(distance, k, dim=1, largest=False, sorted=True).values
    return torch.from_numpy(np.sort(distance.numpy(), axis=1)[:, :k])


def _check_k(k: int, count: int) -> None:
    """Raise ValueError unless k is from 1 to count - 1."""
    if not 1 <= k < count:
        raise ValueError(f"n_neighbors must be at least 1 and below the number of samples ({count}), got {k}")


def _without_self(distance: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Return distances and indices (N, k): those given, (N, k + 1), without the row itself.

    Where equal rows have left no place for the row itself, the last one is taken out instead.
    """
    own = index == torch.arange(len(index), device="cpu")[:, None]
    if bool(own[:, 0].all()):
        return distance[:, 1:], index[:, 1:]
    own[~own.any(1), -1] = True
    shape = len(index), index.shape[1] - 1
    return distance[~own].view(shape), index[~own].view(shape)


def _nearest_by_blocks(
    spaces: list[Keys], k: int, sizes: Sequence[int] = (), look: Look | None = None
) -> tuple[Tensor, Tensor]:
    """Return distances, ascending, and indices (N, k) of the nearest others, by the largest distance over `spaces`.

    With `sizes` the rows come in parts of so many, each searched alone; where it has too few, distances are infinite.
    `look` is called for every block, with its keys in each space, before the next block takes their place.
    """
    # Keys are approximate distances. The rows with the k smallest keys are the nearest if the next key is larger by
    # more than rounding. Else some more distances are measured, and all of them where that does not decide.
    stops = list(itertools.accumulate(sizes or [spaces[0].count]))
    parts = [slice(stop - size, stop) for stop, size in zip(stops, sizes or stops, strict=True)]
    own = torch.arange(stops[-1], device=spaces[0].bound.device)
    found = (_candidates(spaces, own[part], part, k, look) for part in parts)
    index, limit = (torch.cat(each) for each in zip(*found, strict=True))
    distance, index, unsafe = _proven(spaces, own, index, limit, k)
    if len(unsafe) * len(own) <= _CHUNK:  # all distances of a few rows take less time than part by part
        distance[unsafe], index[unsafe] = _nearest_of_all(spaces, unsafe, parts, k)
        return distance, index
    for part in parts:
        few = unsafe[(unsafe >= part.start) & (unsafe < part.stop)] if sizes else unsafe
        distance[few], index[few] = _measured(spaces, few, part, k)
    return distance, index


def _measured(spaces: list[Keys], own: Tensor, part: slice, k: int) -> tuple[Tensor, Tensor]:
    """Return distances and indices (n, k) of the k nearest in `part` to the rows `own` (n,), which keys left open.

    More candidates are measured, and where they do not decide, all rows.
    """
    distance, index, left = _proven(spaces, own, *_candidates(spaces, own, part, k + _SPARE), k)
    for few in torch.split(left, max(1, _CHUNK // spaces[0].count)) if len(left) else ():
        at = torch.searchsorted(own, few)
        distance[at], index[at] = _nearest_of_all(spaces, few, [part], k)
    return distance, index


def _nearest_of_all(spaces: list[Keys], own: Tensor, parts: list[slice], k: int) -> tuple[Tensor, Tensor]:
    """Return distances and indices (n, k) of the k nearest to the rows `own` (n,) in their own part, by all distances.

    `parts` are consecutive, and the rows `own` are in them.
    """
    first = parts[0].start
    whole = functools.reduce(torch.maximum, [s.exact_to_all(own, slice(first, parts[-1].stop)) for s in spaces])
    whole.scatter_(1, own[:, None] - first, math.inf)
    if len(parts) > 1:
        stops = torch.tensor([part.stop for part in parts], device="cpu").to(own.device)
        number = torch.bucketize(torch.arange(whole.shape[1], device=own.device), stops, right=True)
        whole.masked_fill_(number != number[own, None], math.inf)
    distance, index = torch.topk(whole, k, dim=1, largest=False)
    return distance, index + first


def _proven(spaces: list[Keys], own: Tensor, index: Tensor, limit: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return distances and indices (n, k) of the nearest candidates, and the rows of `own` that may have nearer ones.

    Candidates of the rows `own` (n,) are `index` (n, c), -1 for none; other rows have keys of at least `limit` (n,).
    """
    distance, index = _nearest_of(spaces, own, index, k)
    # A key errs by `bound` at most. Where a candidate is missing (-1), all rows of the part were candidates.
    safe = [space.key(distance[:, -1]) < limit - space.bound[own, 0] for space in spaces]
    return distance, index, own[~(torch.stack(safe).all(0) | (index[:, -1] < 0))]


def _nearest_of(spaces: list[Keys], own: Tensor, index: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return exact distances, ascending, and indices (n, k) of the nearest among the candidates `index` (n, c)."""
    distance = functools.reduce(torch.maximum, [space.exact(own, index) for space in spaces])
    distance, order = distance.masked_fill_(index < 0, math.inf).sort(dim=1)
    return distance[:, :k].contiguous(), index.gather(1, order[:, :k])


def _candidates(
    spaces: list[Keys], own: Tensor, part: slice, wanted: int, look: Look | None = None
) -> tuple[Tensor, Tensor]:
    """Return the rows (n, wanted) of `part` with the smallest keys to the rows `own`, and a limit (n,) for other keys.

    No other row of the part has a key below the limit. Where the part has fewer others, -1 stands for what is missing.
    `look` is as in `_nearest_by_blocks`.
    """
    count = part.stop - part.start
    most, columns = min(wanted, count - 1), slice(part.start, part.start + padded(count))
    chosen, limit = own.new_full((len(own), wanted), -1), spaces[0].bound.new_full((len(own),), math.inf)
    start = 0
    for few in spaces[0].tiles(own, columns.stop - columns.start) if most > 0 else ():
        keys = [space.between(few, columns) for space in spaces]
        block = keys[0] if len(keys) == 1 else spaces[0].larger(keys[0], keys[1], keep=look is not None)
        if part.stop < spaces[0].count:
            block[:, count:] = spaces[0].far  # rows of the next parts
        block.scatter_(1, few[:, None] - part.start, spaces[0].far)  # the row itself
        rows = slice(start, start + len(few))
        found, limit[rows] = _smallest_keys(block, groups_of(count), most)
        chosen[rows, :most] = found + part.start
        if look is not None:
            look(few, keys, chosen[rows])
        start = rows.stop
    return chosen, limit


def _smallest_keys(block: Tensor, groups: int, wanted: int) -> tuple[Tensor, Tensor]:
    """Return columns (n, wanted) with the smallest keys of a block (n, w), and a key (n,) that no other one is below.

    Columns g, g + groups, g + 2 groups, ... are group g.
    """
    members = block.shape[1] // groups
    if members < _GROUPED_MEMBERS or wanted > groups // 2:
        return _smallest(block, wanted)
    # The groups with the smallest minima hold the smallest keys. `others` is the smallest minimum that was left out,
    # `rest` the smallest key left out within the groups.
    group, others = _smallest(block.view(len(block), members, groups).amin(1), wanted)
    member = (group[:, :, None] + groups * torch.arange(members, device=block.device)).flatten(1)
    place, rest = _smallest(block.gather(1, member), wanted)
    return member.gather(1, place), torch.minimum(others, rest)


def _smallest(keys: Tensor, wanted: int) -> tuple[Tensor, Tensor]:
    """Return columns (n, wanted) of the smallest keys (n, w), in any order, and a key (n,) that no other is below."""
    width = keys.shape[1]
    if on_accelerator(keys.device) or width > _PACKED_COLUMNS:
        key, index = torch.topk(keys, min(wanted + 1, width), dim=1, largest=False)
        return index[:, :wanted], key[:, -1].double()
    # Bits of floats that are not negative are ordered as they are. The last bits make room for the column's number, so
    # that numpy's partition, several times faster than one that moves indices along, finds it too. Keys of 16 bits
    # leave as much room.
    whole = keys.dtype == torch.int16
    room = (1 << 16 if whole else 1 << (width - 1).bit_length()) - 1
    packed = keys.to(torch.int32) << 16 if whole else keys.clamp(min=0.0).view(torch.int32).bitwise_and_(~room)
    packed.bitwise_or_(torch.arange(width, dtype=torch.int32, device="cpu"))
    parted = torch.from_numpy(np.partition(packed.numpy(), wanted, axis=1))
    last = parted[:, wanted]
    return (parted[:, :wanted] & room).long(), (last >> 16 if whole else (last & ~room).view(torch.float32)).double()


def pair_counts(x: Points, y: Points, k: int, counted: Counted = "open") -> tuple[Tensor, Tensor, Tensor]:
    """Return distances (N, k), ascending, to the nearest in the joint space of two blocks, and counts (N,) in each.

    The distance in the joint space is the larger one of those in `x` and in `y`.

    Parameters
    ----------
    counted : {"open", "closed", "rectangle"}
        Which others are counted in a block: those closer there than the k-th neighbour is in the joint space; also
        those just as close; or those at most as far there as the farthest of the k neighbours is there, which is for
        the second estimator of Kraskov et al. (2004).

    Raises
    ------
    ValueError
        Blocks of different metrics or numbers of rows, or k not from 1 to N - 1.
    """
    if x.metric != y.metric or x.count != y.count:
        raise ValueError(f"both blocks need one metric and as many rows, got {x.count} and {y.count}")
    _check_k(k, x.count)
    which = 1 if counted == "open" else 0
    # A rectangle depends on which of several tied neighbours are taken, and a list has them in an order of its own.
    found = _nearest_from_tree(x, y, k, listed=counted != "rectangle")
    if found is None:
        return _counted_in_blocks(x, y, k, counted)
    distance, index = found
    own = torch.arange(x.count, device=index.device)
    in_x, in_y = (p.within(*_reach(p, own, index, distance, counted))[which] for p in (x, y))
    return distance, in_x, in_y


def _counted_in_blocks(x: Points, y: Points, k: int, counted: Counted) -> tuple[Tensor, Tensor, Tensor]:
    """Return what `pair_counts` does, by blocks of keys that find the neighbours, and on a wide side also count."""
    scale = max(extent(p.rows) for p in (x, y))  # the keys of both are compared with each other
    whole = x.metric == "max" and all(integers_serve(p.rows, scale) for p in (x, y))
    sides = [(p, Keys(p.rows, p.metric, scale, whole)) for p in (x, y)]
    spaces, own = [space for _, space in sides], torch.arange(x.count, device=x.rows.device)
    wide = [i for i, p in enumerate((x, y)) if p.units > 1 and all_pairs_are_sooner(p.rows)]
    tally = own.new_zeros(2, 2, x.count)  # by side: how many are surely within, and may be within, its radius
    radius = x.rows.new_full((2, x.count), math.nan)

    def count(few: Tensor, keys: list[Tensor], candidates: Tensor) -> None:
        """Count on the wide sides by the keys of the rows `few` (n,), with radii from their best candidates.

        These are nearly always the true neighbours; the few other rows are counted again below.
        """
        distance, index = _nearest_of(spaces, few, candidates, k)
        for i in wide:
            points, space = sides[i]
            radius[i, few] = _reach(points, few, index, distance, counted)[0]
            tally[i][:, few] = torch.stack(space.tally(keys[i], space.limits(radius[i, few], few)))

    distance, index = _nearest_by_blocks(spaces, k, look=count if wide else None)
    counts = []
    for i, (points, space) in enumerate(sides):
        within, known = _reach(points, own, index, distance, counted)
        if i in wide:
            moved = (within != radius[i]).nonzero()[:, 0]  # their neighbours took longer to find
            tally[i][:, moved] = counts_by_limits(space, within, moved)
            found = decided_counts(space, within, known, tally[i])
        else:
            found = points.within(within, known)
        counts.append(found[0 if counted != "open" else 1])
    return distance, counts[0], counts[1]


def _reach(points: Points, own: Tensor, index: Tensor, distance: Tensor, counted: Counted) -> tuple[Tensor, Tensor]:
    """Return the radius (n,) around rows `own` within which others are counted, and how many neighbours are ties.

    `index` and `distance` (n, k) are the neighbours in the joint space; a tie with the radius lies just at it.
    """
    apart = lengths(points.rows, own, index, points.metric)
    radius = apart.amax(1) if counted == "rectangle" else distance[:, -1]
    return radius, (apart >= radius[:, None] * (1.0 - TIE)).sum(1)


def _nearest_from_tree(x: Points, y: Points, k: int, listed: bool) -> tuple[Tensor, Tensor] | None:
    """Return distances and indices (N, k) of the nearest in the joint space; None where blocks find them sooner.

    If no tree has the norm of the joint space, a tree gives lists of candidates, but only where `listed` allows it.
    """
    # The norm of the joint space is the max norm if that is the norm of both blocks; in one unit all norms are alike.
    if x.metric == "max" or x.units == y.units == 1:
        joint = Points(torch.cat([x.rows, y.rows], dim=1), "max", tree=x.wish)
        return joint.nearest(k) if joint.uses_tree else None
    if listed and all(points.prefers_tree(_PAIR_UNITS, x.units + y.units) for points in (x, y)):
        return _nearest_in_list(x, y, k)
    return None


def _nearest_in_list(x: Points, y: Points, k: int) -> tuple[Tensor, Tensor] | None:
    """Return distances and indices (N, k) of the nearest in the joint space, from lists of candidates by a tree.

    Returns None where lists leave too many rows undecided.
    """
    tree, share = _enclosing_tree(x, y)
    distance = torch.empty(x.count, k, dtype=torch.float64, device="cpu")
    index = torch.empty(x.count, k, dtype=torch.int64, device="cpu")
    left = torch.from_numpy(tree.tree.indices)
    # Rows ask for longer and longer lists until their k nearest are certain.
    for wanted in (2 * k + (1 if tree.metric == "max" else 3), 5 * k + 3, 8 * k + 17):
        unsafe = []
        for few in torch.split(left, max(1, _CHUNK // (wanted * (x.units + y.units)))):
            asked = tree.rows.numpy()[few.numpy()]
            near = tree.tree.query(asked, k=min(wanted, x.count), p=NORM[tree.metric])
            length, found = (torch.from_numpy(a) for a in near)
            both = torch.maximum(*(lengths(p.rows, few, found, p.metric) for p in (x, y)))
            both, order = both.masked_fill_(found == few[:, None], math.inf).sort(dim=1, stable=True)
            distance[few], index[few] = both[:, :k], found.gather(1, order[:, :k])
            # Rows that are not in the list are at least this far. Where it holds all rows, none is left.
            beyond = length[:, -1] * share
            unsafe.append(few[both[:, k - 1] > beyond] if wanted < x.count else few[:0])
        left = torch.cat(unsafe)
    if len(left) > x.count // _DOUBTED:
        return None
    for few in torch.split(left, max(1, _CHUNK // x.count)):
        whole = torch.maximum(*(lengths_to_all(p.rows, few, p.metric) for p in (x, y)))
        distance[few], index[few] = torch.topk(whole.scatter_(1, few[:, None], math.inf), k, dim=1, largest=False)
    return distance, index


def _enclosing_tree(x: Points, y: Points) -> tuple[Points, float]:
    """Return a tree of the joint rows, and a factor: a length there times it is at most the larger one in x and y."""
    if max(x.units, y.units) <= _CUBE_UNITS:
        return Points(torch.cat([x.rows, y.rows], dim=1), "max", tree=True), 1.0 - 1e-12  # less what is rounding
    # Of units times sqrt(D) the Euclidean length is at most sqrt(D + D') times the larger length of both blocks; with
    # these weights the ellipsoid that holds all pairs of blocks within r is the smallest, two to three times theirs.
    weighted = torch.cat([x.rows * math.sqrt(x.units), y.rows * math.sqrt(y.units)], dim=1)
    return Points(weighted, tree=True), (1.0 - 1e-12) / math.sqrt(x.units + y.units)


def intrinsic_dimension(distances: Tensor) -> float:
    """Return the dimension by distances (N, k), ascending, to the k nearest: Levina and Bickel (2004), k at least 2.

    The inverse of the mean of log(r_k / r_j) over rows and j < k; 0 where no row has distinct neighbours.
    """
    last, inner = distances[:, -1:], distances[:, :-1]
    ratio = last / inner
    valid = (inner[:, 0] > 0) & (last[:, 0] > inner[:, 0])
    if not bool(valid.all()):
        ratio = ratio[valid]
    return float(1.0 / ratio.log_().mean()) if ratio.numel() else 0.0
