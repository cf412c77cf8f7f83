"""Edges from all snapshots of a run together, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from infoplane.estimators._edges import Rule, row_edges

# Values held at a time. A run with more is read again, once for every further range of values.
LIMIT = 2**24

Read = Callable[[], Iterator[Tensor]]


def run_edges(read: Read, low: float | None, rule: Rule, per_unit: bool) -> Tensor:
    """(1 or U, E) rising edges; the first is the sentinel or the minimum, the last just above the maximum.

    `read()` iterates the blocks (S, N, U) of the run, finite and widened, as often as it is called.
    """
    rows, units, width = 0, 0, 0
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
        return lambda: (block[:, :, k : k + 1] for block in read())

    return torch.cat([_edges_by_ranges(unit(k), low, rule) for k in range(units)])


def _collect(read: Read, start: int, stop: int) -> Tensor:
    return torch.cat([block[:, :, start:stop].reshape(-1, stop - start) for block in read()])


def _edges_of(values: Tensor, low: float | None, rule: Rule) -> Tensor:
    found = row_edges(values.contiguous(), low, rule)
    return _framed(found.edges, found.sentinel if rule.distinct else found.least, found.most, rule)


def _framed(edges: Tensor, first: Tensor, most: Tensor, rule: Rule) -> Tensor:
    above = torch.nextafter(most, torch.full_like(most, torch.inf))
    parts = [edges, above[:, None]] if rule.distinct else [first[:, None], edges, above[:, None]]
    # Padding with +inf stands before the frame: put it behind.
    return torch.cat(parts, dim=1).sort(dim=1).values


def _edges_by_ranges(read: Read, low: float | None, rule: Rule) -> Tensor:
    """The same for one row that does not fit: count range by range, then read those that hold an edge again."""
    bounds, counts = [-np.inf], []
    least, most = np.inf, -np.inf
    dtype = torch.float32
    for block in read():
        dtype = block.dtype
        if block.numel():
            lo, hi = torch.aminmax(block)
            least, most = min(least, float(lo)), max(most, float(hi))
    sentinel = least if low is None else float(torch.tensor(low, dtype=dtype))
    if rule.distinct:
        bounds = [sentinel]
    while bounds[-1] < most:
        _, weights, upper = _values_between(read, bounds[-1], np.inf, rule.distinct)
        counts.append(int(weights.sum()))
        bounds.append(upper)
    total = int(sum(counts))
    ranks = rule.ranks(np.array([total]), np.array([least > sentinel]))[0]
    edges = np.full(ranks.shape, np.inf)
    before = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    owner = np.searchsorted(before, ranks, side="right") - 1
    for p in np.unique(owner[ranks >= 0]):
        values, weights, _ = _values_between(read, bounds[p], bounds[p + 1], rule.distinct)
        here = (owner == p) & (ranks >= 0)
        edges[here] = values[np.searchsorted(np.cumsum(weights), ranks[here] - before[p], side="right")]
    found = torch.from_numpy(edges).to(dtype)[None]
    first = torch.tensor([sentinel if rule.distinct else least], dtype=dtype)
    if rule.distinct:
        found = torch.cat([first[:, None], found], dim=1)
    return _framed(found, first, torch.tensor([most], dtype=dtype), rule)


def _values_between(read: Read, lower: float, upper: float, distinct: bool) -> tuple[np.ndarray, np.ndarray, float]:
    """Sorted values in (lower, upper], how often each counts, and the upper end where memory ran out before."""
    values, weights = np.empty(0), np.empty(0, dtype=np.int64)
    for block in read():
        flat = block.reshape(-1).double().cpu().numpy()
        new, often = np.unique(flat[(flat > lower) & (flat <= upper)], return_counts=True)
        merged, place = np.unique(np.concatenate([values, new]), return_inverse=True)
        total = np.bincount(place, np.concatenate([weights, often]), minlength=len(merged))
        values, weights = merged, total.astype(np.int64)
        if len(values) > LIMIT:
            upper = float(values[LIMIT // 2])
            values, weights = values[: LIMIT // 2 + 1], weights[: LIMIT // 2 + 1]
    return values, np.ones_like(weights) if distinct else weights, upper
