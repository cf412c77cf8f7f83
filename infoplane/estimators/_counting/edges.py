"""Bin edges at equal counts of the values of each row, and the cells they make.

A row is whatever shares its edges: a snapshot of a layer, or one unit of it. Edges are values that occur, in
the type of the values, so a strictly increasing map takes the edges with it and changes no cell.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from infoplane.core.device import on_accelerator
from infoplane.estimators._counting.counts import Scratch, far_apart, sort_rows

# Elements sorted at a time, and compared with every edge while they stay in cache.
SORT_ELEMENTS = 2**20
COMPARE_ELEMENTS = 2**15
# Edges up to which comparing each value with all of them beats a binary search.
_COMPARED_EDGES = 96
# 16-bit values that are marked as seen at a time.
_MARKED = 2**16
# Values whose first occurrences are counted together.
_BLOCK = 64
# Values of a run held at a time. A run with more is read again, once for every further range of values.
LIMIT = 2**24

Read = Callable[[], Iterator[Tensor]]


class Rule(NamedTuple):
    """Which order statistics become edges.

    Attributes
    ----------
    n_bins : int
    distinct : bool
        Every value counts once, however often it occurs; the first edge is then the sentinel, a number that values
        should not lie below, such as 0 after a ReLU, and the last edge is the maximum. Otherwise values count as often
        as they occur, and there is no sentinel.
    separate : bool
        The smallest value, too, has a cell of its own, and neither it nor the largest counts for the others.
    """

    n_bins: int
    distinct: bool = True
    separate: bool = False

    @property
    def edges(self) -> int:
        """Return how many edges a row has, the sentinel included."""
        return self.n_bins + 2 + int(self.separate) if self.distinct else self.n_bins - 1

    def ranks(self, count: Tensor, alone: Tensor) -> Tensor:
        """Return the ranks (R, E), from 0, at which sorted values become edges (the sentinel aside); -1 for no edge.

        `count` (R,) is how many values each row has; with `distinct` how many different ones above the sentinel, and
        `alone` (R,) tells whether the first of these is the smallest value of its row: no value lies at the sentinel.
        """
        count, last = count[:, None], count[:, None] - 1
        k = torch.arange(self.n_bins, device=count.device)
        if not self.distinct:
            return k[1:] * count // self.n_bins
        parts = [k * count // self.n_bins, last]
        if self.separate:
            # The smallest value has rank 0 and the largest the last; the others are cut into n_bins.
            first = alone[:, None].to(torch.int64)  # rank of the first of them: 0 if the smallest is no value here
            others = last - first
            parts = [0 * count, torch.where(others > 0, first + k * others // self.n_bins, last), last]
        return torch.where(count > 0, torch.cat(parts, dim=1), -1)


class Edges(NamedTuple):
    """Edges of R rows.

    Attributes
    ----------
    edges : (R, E)
        Rising, in the type of the values; +inf where a row has fewer.
    number : (R,) int64
        Values above the sentinel (distinct ones where the rule says so).
    least, most : (R,)
        Extremes of the row; not finite where a value of the row is not.
    sentinel : (R,)
        The number that was given for it, or the minimum of the row.
    """

    edges: Tensor
    number: Tensor
    least: Tensor
    most: Tensor
    sentinel: Tensor


def row_edges(values: Tensor, low: float | None, rule: Rule) -> Edges:
    """Return the edges of each row of `values` (R, M); the sentinel is `low`, or the row's own minimum for None."""
    step = len(values) if on_accelerator(values.device) else SORT_ELEMENTS // max(values.shape[1], 1)
    parts = [_edges_of_rows(part, low, rule) for part in torch.split(values, max(step, 1))]
    return Edges(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _edges_of_rows(values: Tensor, low: float | None, rule: Rule) -> Edges:
    """Return what `row_edges` does, for rows few enough to be sorted together: the edges of each row (R, M)."""
    ordered = sort_rows(values.clone(memory_format=torch.contiguous_format))
    least, most = ordered[:, 0].clone(), ordered[:, -1].clone()
    sentinel = least if low is None else torch.full_like(least, low)
    if not rule.distinct:
        count = torch.full((len(ordered),), ordered.shape[1], device=values.device)
        return Edges(ordered.gather(1, rule.ranks(count, count > 0)), count, least, most, sentinel)
    new, found = _first_occurrences(ordered, sentinel)
    upto = torch.cumsum(found, 1)
    count = upto[:, -1].clone()
    ranks = rule.ranks(count, least > sentinel)
    # Find the block that holds each rank, then its place in the block: a running count of all values takes longer.
    block = torch.searchsorted(upto, ranks.clamp(min=0), right=True).clamp_(max=upto.shape[1] - 1)
    rank_within = ranks - (upto - found).gather(1, block)
    rows = torch.arange(len(ordered), device=values.device)[:, None]
    within = (torch.cumsum(new[rows, block], 2) > rank_within[:, :, None]).byte().argmax(2)
    place = (block * _BLOCK + within).clamp_(max=ordered.shape[1] - 1)
    edges = torch.where(ranks >= 0, ordered.gather(1, place), torch.inf)
    return Edges(torch.cat([sentinel[:, None], edges], 1), count, least, most, sentinel)


def _first_occurrences(ordered: Tensor, sentinel: Tensor) -> tuple[Tensor, Tensor]:
    """Mark where sorted rows (R, M) have a value above `sentinel` (R,) for the first time; return marks and counts.

    Rows are cut into blocks of `_BLOCK` values: the marks are (R, blocks, `_BLOCK`) bool, the counts of marks
    in each block (R, blocks) int64.
    """
    rows, width = ordered.shape
    new = torch.zeros((rows, -(-width // _BLOCK), _BLOCK), dtype=torch.bool, device=ordered.device)
    # Both libraries have these calls; those of numpy are up to ten times faster on a CPU.
    lib: Any = torch if on_accelerator(ordered.device) else np
    arrays: list[Any] = [a if lib is torch else a.numpy() for a in (ordered, sentinel, new)]
    values, low, flags = arrays
    line = flags.reshape(rows, -1)[:, :width]
    line[:, :1] = True
    lib.not_equal(values[:, 1:], values[:, :-1], out=line[:, 1:])
    if rows == 1 and lib is np:  # a search in one long row is faster than comparing all its values
        line[0, : values[0].searchsorted(low[0], side="right")] = False
    else:
        line &= values > low[:, None]
    found = flags.view(lib.uint8).sum(2, dtype=lib.int32)
    return new, (found if lib is torch else torch.from_numpy(found)).to(torch.int64)


def edges_at_or_below(values: Tensor, edges: Tensor, out: Tensor) -> Tensor:
    """Return the cell of each value (R, M): how many of the rising edges (R or 1, E) of its row are at or below it.

    `out` (R, M) uint8 is filled and returned for few edges on a CPU, where comparing beats searching; else it is not
    used.
    """
    if on_accelerator(values.device) or edges.shape[1] > _COMPARED_EDGES:
        full = edges.expand(len(values), -1).contiguous()
        return torch.searchsorted(full, values.contiguous(), right=True, out_int32=True)
    x, e, count = values.numpy(), edges.numpy(), out.numpy()
    rows, width = x.shape
    count[...] = 0
    # Blocks of `step` whole rows, or equal pieces of one row.
    step = max(1, COMPARE_ELEMENTS // max(width, 1))
    piece = -(-width // max(1, -(-width // COMPARE_ELEMENTS)))
    mask = np.empty(min(step, rows) * piece, dtype=bool)
    for r in range(0, rows, step):
        of_rows = e[r : r + step] if len(e) > 1 else e
        # Infinite edges, which only fill a row, need no comparison.
        used = int(np.isfinite(of_rows).sum(axis=1).max(initial=0))
        columns = [of_rows[:, k : k + 1] for k in range(used)]
        for a in range(0, width, max(piece, 1)):
            part, total = x[r : r + step, a : a + piece], count[r : r + step, a : a + piece]
            above = mask[: part.size].reshape(part.shape)
            as_count = above.view(np.uint8)
            for column in columns:
                np.greater_equal(part, column, out=above)
                np.add(total, as_count, out=total)
    return out


class EdgeCells:
    """Digitizer: the number of edges at or below a value.

    Parameters
    ----------
    edges : (1 or S, 1 or U, E)
        Of every snapshot together or apart, and of all units together or apart.
    """

    def __init__(self, edges: Tensor) -> None:
        """Keep the edges. Cells are 0, below all edges, to E, at or above all of them."""
        self.edges = edges.contiguous()
        self.low, self.radix, self.digits = 0, edges.shape[2] + 1, 1
        self.scratch = Scratch()

    def __call__(self, values: Tensor, first: int, probing: bool) -> Tensor:
        """Return the cells of `values` (s, n, U), from snapshot `first` on; `probing`: of few units (`far_apart`)."""
        edges = self.edges[first : first + len(values)] if len(self.edges) > 1 else self.edges
        if probing and edges.shape[1] > 1:
            edges = far_apart(edges, 1)
        # Values that have their edges in common make a row: whole snapshots, or single units of a snapshot.
        if edges.shape[1] == 1:
            rows = values.reshape(len(values), -1)
            return self._count(rows, edges[:, 0]).view(values.shape)
        columns = values.transpose(1, 2)
        rows = columns.reshape(-1, columns.shape[2])
        of_rows = edges.expand(len(values), -1, -1).reshape(len(rows), -1)
        return self._count(rows, of_rows).view(columns.shape).transpose(1, 2)

    def _count(self, rows: Tensor, edges: Tensor) -> Tensor:
        """Return `edges_at_or_below`, written to memory that the next call overwrites."""
        return edges_at_or_below(rows, edges, self.scratch.view(tuple(rows.shape), torch.uint8, rows.device))

    def inspect(self, values: Tensor, first: int) -> None:
        """Nothing to do: all values were looked at when the edges were made."""


@functools.lru_cache(maxsize=2)
def _patterns(dtype: torch.dtype) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return all finite 16-bit patterns in rising order of value, their values (float32), and which are finite."""
    # The third part is bool (65536,), by pattern.
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32, device="cpu").to(torch.int16)
    values = bits.view(dtype).to(torch.float32).numpy()
    finite = np.isfinite(values)
    order = np.flatnonzero(finite)[np.argsort(values[finite], kind="stable")]
    patterns = bits.numpy().view(np.uint16)[order]
    keep = patterns != 0x8000  # -0.0 counts as 0.0
    mask = np.zeros(2**16, dtype=bool)
    mask[patterns] = True
    return patterns[keep], values[order][keep], mask


class HalfCells:
    """Digitizer for wide float16 and bfloat16 layers with pooled edges: a table over all 65,536 values.

    The distinct values are the patterns that occur, so nothing is sorted.
    """

    def __init__(self, t: Tensor, low: float | None, rule: Rule) -> None:
        """Find the edges of all snapshots of `t` (S, N, U), `found`, and make their tables; `low` as in `row_edges`."""
        self.t, self.low, self.radix, self.digits = t, 0, rule.edges + 1, 1
        self.tables = np.zeros((len(t), 2**16), dtype=np.uint8)
        # Used for one piece of a snapshot after the other, to mark the values in it as seen.
        self.index = torch.empty(_MARKED, dtype=torch.int64, device="cpu")
        self.ones = torch.ones(_MARKED, dtype=torch.bool, device="cpu")
        parts = [self._table(i, low, rule) for i in range(len(t))]
        self.found = Edges(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def _table(self, i: int, low: float | None, rule: Rule) -> Edges:
        """Return the edges of snapshot `i`, and write its table from every 16-bit pattern to a cell."""
        flat = self.t[i].reshape(-1).view(torch.int16).numpy().view(np.uint16)
        seen = np.zeros(2**16, dtype=bool)
        mark = torch.from_numpy(seen)
        for a in range(0, len(flat), _MARKED):
            part = flat[a : a + _MARKED]
            np.copyto(self.index[: len(part)].numpy(), part)
            mark.scatter_(0, self.index[: len(part)], self.ones[: len(part)])
        seen[0] |= seen[0x8000]  # 0x8000 is -0
        patterns, values, finite = _patterns(self.t.dtype)
        present = seen[patterns]
        distinct = values[present]
        # Each distinct value once: the same edges as from all of them.
        found = row_edges(torch.from_numpy(distinct[None].copy()), low, rule)
        self.tables[i, patterns[present]] = np.searchsorted(found.edges[0].numpy(), distinct, side="right")
        self.tables[i, 0x8000] = self.tables[i, 0]
        # An extreme that is NaN says that some value is not finite.
        return found._replace(least=torch.full_like(found.least, torch.nan)) if seen[~finite].any() else found

    def __call__(self, values: Tensor, first: int, probing: bool) -> Tensor:
        """Return the cells of `values` (s, n, U), from snapshot `first` on, by the tables of the block."""
        bits = values.reshape(len(values), -1).view(torch.int16).numpy().view(np.uint16)
        cells = np.empty(bits.shape, dtype=np.uint8)
        for i, row in enumerate(bits):
            np.take(self.tables[first + i], row, out=cells[i], mode="clip")  # no bounds to check: it is faster
        return torch.from_numpy(cells).view(values.shape)

    def inspect(self, values: Tensor, first: int) -> None:
        """Nothing to do: all values were looked at when the tables were made."""


# --- edges of a whole run, in bounded memory


def run_edges(read: Read, low: float | None, rule: Rule, per_unit: bool) -> Tensor:
    """Return bin edges that hold for a whole run, rising, found in bounded memory: (1, E), or (U, E) with `per_unit`.

    The first edge is the sentinel or the minimum, the last lies just above the maximum. The sentinel is `low`, or the
    minimum for None. `read()` iterates the blocks (S, N, U) of the run, finite and widened, as often as it is called:
    more than once where they exceed the memory.
    """
    rows, units, width = 0, 0, 0  # `width`: values of one unit over the run
    for block in read():
        rows, units = rows + len(block), block.shape[2]
        width += block.shape[0] * block.shape[1]
    if rows == 0:
        raise ValueError("adaptive found no finite snapshot in the run; did training diverge?")
    if not per_unit:
        if width * units <= LIMIT:
            return _edges_of(_collect(read, 0, units).view(1, -1), low, rule)
        return _edges_by_ranges(read, low, rule)
    step = LIMIT // width
    if step:
        parts = [_collect(read, a, min(a + step, units)).T for a in range(0, units, step)]
        return torch.cat([_edges_of(part, low, rule) for part in parts])

    def unit(k: int) -> Read:
        """Return a function that reads unit `k` alone."""
        return lambda: (block[:, :, k : k + 1] for block in read())

    return torch.cat([_edges_by_ranges(unit(k), low, rule) for k in range(units)])


def _collect(read: Read, start: int, stop: int) -> Tensor:
    """Return all values of the units from `start` to `stop`, (samples of all snapshots, units)."""
    return torch.cat([block[:, :, start:stop].reshape(-1, stop - start) for block in read()])


def _edges_of(values: Tensor, low: float | None, rule: Rule) -> Tensor:
    """Return the edges (R, E) of rows `values` (R, M) that fit in memory, those at both ends of the run included."""
    found = row_edges(values.contiguous(), low, rule)
    return _framed(found.edges, found.sentinel if rule.distinct else found.least, found.most, rule)


def _framed(edges: Tensor, first: Tensor, most: Tensor, rule: Rule) -> Tensor:
    """Return rising edges (R, E'): those given, one just above the maximum `most` (R,), and `first` (R,) if missing.

    `first` is the lowest edge, which edges of distinct values have already.
    """
    above = torch.nextafter(most, torch.full_like(most, torch.inf))
    parts = [edges, above[:, None]] if rule.distinct else [first[:, None], edges, above[:, None]]
    # Rows with fewer edges have been filled up with +inf: sorting puts these behind the last edge.
    return torch.cat(parts, dim=1).sort(dim=1).values


def _edges_by_ranges(read: Read, low: float | None, rule: Rule) -> Tensor:
    """Return the edges (1, E) of all values of a run that has too many for the memory.

    The run is read once for its extremes, and then range by range of values, twice: to count the values, and to take
    the edges. `low` is the sentinel, or None for the minimum.
    """
    least, most, dtype = np.inf, -np.inf, torch.float32
    for block in read():
        dtype = block.dtype
        if block.numel():
            lo, hi = torch.aminmax(block)
            least, most = min(least, float(lo)), max(most, float(hi))
    sentinel = least if low is None else float(torch.tensor(low, dtype=dtype, device="cpu"))
    start = sentinel if rule.distinct else -np.inf
    count = torch.tensor([sum(int(w.sum()) for _, w in _ranges(read, start, most, rule.distinct))], device="cpu")
    # The edges are the values at certain ranks, which follow from the number of values.
    ranks = rule.ranks(count, torch.tensor([least > sentinel], device="cpu"))[0].numpy()
    edges, before = np.full(ranks.shape, np.inf), 0  # `before`: values in the ranges before this one
    for values, weights in _ranges(read, start, most, rule.distinct):
        upto = before + np.cumsum(weights)
        here = (ranks >= before) & (ranks < upto[-1])
        edges[here] = values[np.searchsorted(upto, ranks[here], side="right")]
        before = int(upto[-1])
    first = torch.tensor([sentinel if rule.distinct else least], dtype=dtype, device="cpu")
    found = torch.from_numpy(edges).to(dtype)[None]
    found = torch.cat([first[:, None], found], dim=1) if rule.distinct else found
    return _framed(found, first, torch.tensor([most], dtype=dtype, device="cpu"), rule)


def _ranges(read: Read, lower: float, most: float, distinct: bool) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the different values from `lower` (left out) to `most`, and how often each counts, range by range.

    Both are arrays (n,), the values rising, at most `LIMIT` of them. With `distinct` each value counts once. Every
    range takes one reading of the run.
    """
    # When there are too many values, the larger half is dropped. `upper` then says up to where this range is complete,
    # and the next one begins there.
    while lower < most:
        values, weights, upper = np.empty(0), np.empty(0, dtype=np.int64), np.inf
        for block in read():
            flat = block.reshape(-1).double().cpu().numpy()
            new, often = np.unique(flat[(flat > lower) & (flat <= upper)], return_counts=True)
            merged, place = np.unique(np.concatenate([values, new]), return_inverse=True)
            total = np.bincount(place, np.concatenate([weights, often]), minlength=len(merged))
            values, weights = merged, total.astype(np.int64)
            if len(values) > LIMIT:
                upper = float(values[LIMIT // 2])
                values, weights = values[: LIMIT // 2 + 1], weights[: LIMIT // 2 + 1]
        yield values, np.ones_like(weights) if distinct else weights
        lower = upper
