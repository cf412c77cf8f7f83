"""The nearest-neighbour formulas: Ross (2014), Kraskov et al. (2004) and Gao et al. (2017) for scaled rows, in nats."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from infoplane.core.device import on_accelerator
from infoplane.estimators._distances import TIE, Metric
from infoplane.estimators._neighbors import Counted, Points, intrinsic_dimension, pair_counts
from infoplane.estimators._scaling import equal_rows, normal_numbers, zscore

Formula = Literal["auto", "ross", "ksg1", "ksg2", "gao"]
Scale = Literal["unit", "block"]
_COUNTED: dict[str, Counted] = {"ksg2": "rectangle", "gao": "closed"}
_REPEATED = 0.01
"""Share of samples that repeat a value of their unit from which units are jittered."""
_TERMS = 1 << 20
"""Terms of means over ranks held at a time."""


class NeighborValue(NamedTuple):
    """One value in nats, and what there is to doubt about it."""

    nats: Tensor
    tied: float = 0.0  # share of rows with an equal or a tied neighbour
    dimension: float = 0.0  # intrinsic dimension by the same distances
    degenerate: bool = False  # a side is constant
    short: float = 0.0  # nats that the formula is too low by, as far as known


def scaled_block(block: Tensor, scale: Scale) -> Tensor:
    """Return the varying units of a block (N, U), centred, float64; each ("unit") or all together with variance 1."""
    z = zscore(block)
    varies = (z != 0).any(0)
    if scale == "unit" or not bool(varies.any()):
        return z[:, varies]
    chosen = block[:, varies].double()
    chosen = chosen / chosen.abs().max()  # so that no square leaves the range
    chosen = chosen - chosen.mean(0)
    return chosen / chosen.square().mean().sqrt()


class _OwnClass(NamedTuple):
    """The neighbours of each row (N,) in its own class."""

    radius: Tensor  # distance to the last of the neighbours
    neighbors: Tensor  # how many there are: k, or all others of a smaller class
    closed: Tensor  # how many others of the class are within the radius, ties with it included
    opened: Tensor  # the same without ties
    tied: Tensor  # whether two neighbours lie at one distance
    dimension: float  # intrinsic dimension of the classes; 0 where k is 1


def _own_class(points: Points, y: Tensor, counts: Tensor, k: int) -> _OwnClass:
    """Find the k nearest of each row in its own class of `y` (N,), or all others of a smaller class.

    `counts` (C,) are the sizes of the classes.
    """
    found = points.distances_in_classes(y, counts, k + 1)  # one more than k shows whether the k-th is tied with it
    neighbors = (counts[y] - 1).clamp(max=k)
    radius = found.gather(1, (neighbors - 1).clamp(min=0)[:, None])[:, 0].where(neighbors > 0, 0.0)
    # Without ties the radius has the k neighbours, the last of them on its edge. Only with ties are they counted.
    closed, opened = neighbors.clone(), (neighbors - 1).clamp(min=0)
    tied = ((found[:, 1:] <= found[:, :-1] * (1 + TIE)) & (found[:, 1:] < math.inf)).any(1)
    if bool(tied.any()):
        for members in torch.split(y.argsort(stable=True), counts.tolist()):
            if bool(tied[members].any()):
                own = Points(points.rows[members], points.metric)
                closed[members], opened[members] = own.within(radius[members])
    whole = found if bool(counts.min() > k) else found[neighbors == k]
    dimension = intrinsic_dimension(whole[:, :k]) if k > 1 else 0.0
    return _OwnClass(radius, neighbors, closed, opened, tied, dimension)


def class_information(rows: Tensor, y: Tensor, k: int, metric: Metric, *, mixed: bool = False) -> NeighborValue:
    """Return the information between scaled rows (N, D) and classes `y` (N,), counted from 0, by k nearest neighbours.

    The formula is that of Ross (2014), or with `mixed` that of Gao et al. (2017).
    """
    whole, n, counts, short = Points(rows, metric), len(rows), torch.bincount(y), 0.0
    own = _own_class(whole, y, counts, k)
    closed, opened = whole.within(own.radius, own.closed - own.opened)
    in_class = counts[y]
    if mixed:
        kept = torch.where(own.radius == 0, own.closed, own.neighbors)  # all equal rows, at an atom
        inside = (closed + 1).double().log()
        local = kept.clamp(min=1).double().digamma() + math.log(n) - in_class.double().log() - inside
        # log(m + 1) in the place of psi(m): a bias that no number of samples takes away.
        short = float((inside - closed.clamp(min=1).double().digamma()).mean())
    else:
        # Among the tied samples, those of the own class fill the places up to k in any order.
        rank = mean_digamma_of_rank(opened, closed - opened, own.closed - own.opened, own.neighbors - own.opened)
        # Looked up for each class, not computed for each row.
        taken = (counts - 1).clamp(1, k).double().digamma()
        local = taken[y] - rank + digamma(n) - counts.double().digamma()[y]
    if bool((counts == 1).any()):
        local = torch.where(in_class == 1, 0.0, local)  # a class of one says nothing
    nats = local.sum() / n if len(counts) > 1 else local.new_zeros(())
    tied = max(_equal_share(rows), float(own.tied.double().mean()))
    return NeighborValue(nats=nats, tied=tied, dimension=own.dimension, short=short)


def pair_information(
    a: Tensor, b: Tensor, k: int, metric: Metric, *, formula: Formula, jitter: float, seed: int
) -> NeighborValue:
    """Return the information between two scaled blocks (N, D) and (N, D') by k nearest neighbours.

    `formula` is that of Kraskov et al. (2004), "ksg2" or, for any other word, the first; or "gao", that of Gao et al.
    (2017). Except for "gao", blocks with many repeated values get noise of standard deviation `jitter`, by `seed`.
    """
    n = len(a)
    equal = max(map(_equal_share, (a, b)))
    if formula != "gao" and jitter > 0 and max(repeated_share(a), repeated_share(b)) > _REPEATED:
        generator = torch.Generator().manual_seed(seed)
        a, b = (rows + jitter * normal_numbers(rows.shape, generator, rows.device) for rows in (a, b))
    counted = _COUNTED.get(formula, "open")
    distances, in_a, in_b = pair_counts(Points(a, metric), Points(b, metric), k, counted)
    if formula == "gao":
        at_atom = distances[:, -1] == 0
        kept = torch.where(at_atom, equal_rows(torch.cat([a, b], dim=1)), k)
        local = kept.double().digamma() + math.log(n) - (in_a + 1).double().log() - (in_b + 1).double().log()
    elif formula == "ksg2":
        local = digamma(k) - 1.0 / k + digamma(n) - in_a.double().digamma() - in_b.double().digamma()
    else:
        local = digamma(k) + digamma(n) - (in_a + 1).double().digamma() - (in_b + 1).double().digamma()
    dimension = intrinsic_dimension(distances) if k > 1 else 0.0
    return NeighborValue(nats=local.mean(), tied=equal, dimension=dimension)


def _equal_share(rows: Tensor) -> float:
    """Return the share of the rows (N, D) that another row equals."""
    if not on_accelerator(rows.device):
        ordered = np.sort(rows[:, 0].numpy())
        if (ordered[1:] > ordered[:-1]).all():  # one unit tells all rows apart
            return 0.0
    return float((equal_rows(rows) > 0).double().mean())


def repeated_share(rows: Tensor) -> float:
    """Return, of that unit of (N, D) where it is largest, the share of samples whose value another sample has."""
    # A value is repeated if it equals the one before or behind it in ascending order.
    ordered = rows.sort(dim=0).values
    same = ordered[1:] == ordered[:-1]
    edge = torch.zeros_like(same[:1])
    return float((torch.cat([same, edge]) | torch.cat([edge, same])).double().mean(0).max())


def digamma(n: int) -> Tensor:
    """Return psi(n), () float64 on the CPU, which can be combined with tensors on every device."""
    return torch.tensor(float(n), dtype=torch.float64, device="cpu").digamma()


def mean_digamma_of_rank(inside: Tensor, shell: Tensor, own: Tensor, place: Tensor) -> Tensor:
    """Return E psi(m) for the rank m, among all samples, of a neighbour of the own class that may have ties.

    `inside` samples are closer than it. The shell, all samples at its distance, has `shell` samples, `own` of them of
    the own class, in random order; the neighbour is the `place`-th of these. So m = inside + M, with M negative
    hypergeometric:

        P(M = x) = C(x - 1, place - 1) C(shell - x, own - place) / C(shell, own).

    With nothing inside the mean is psi(place) + psi(shell + 1) - psi(own + 1): for M-th of n uniform order
    statistics u, E[log u | M] = psi(M) - psi(n + 1), and E[log u] = psi(place) - psi(own + 1).

    All arguments (N,) int64; returns (N,) float64. Rows with an empty shell (no neighbour) give 0.
    """
    # A place outside of the own part of the shell (rounding of a distance) counts as its nearest end.
    place = torch.minimum(place, own).clamp(min=1)
    some = (shell > 0) & (own > 0)
    single = some & (shell == own)  # the places are the ranks
    if bool(single.all()):
        return (inside + place).double().digamma()
    out = torch.zeros(len(shell), dtype=torch.float64, device=shell.device)
    out[single] = (inside + place)[single].double().digamma()
    first = some & ~single & (inside == 0)
    if bool(first.any()):
        s, o, p = (v[first].double() for v in (shell, own, place))
        out[first] = p.digamma() + (s + 1).digamma() - (o + 1).digamma()
    rest = (some & ~single & (inside > 0)).nonzero()[:, 0]
    if len(rest) == 0:
        return out
    cases = torch.stack([v[rest] for v in (inside, shell, own, place)], dim=1)
    cases, number = torch.unique(cases, dim=0, return_inverse=True)
    values = torch.empty(len(cases), dtype=torch.float64, device=out.device)
    widest = int((cases[:, 1] - cases[:, 2]).max()) + 1
    step = max(1, _TERMS // widest)
    for start in range(0, len(cases), step):
        values[start : start + step] = _by_terms(cases[start : start + step])  # each different case once
    out[rest] = values[number]
    return out


def _by_terms(cases: Tensor) -> Tensor:
    """Return E psi(inside + M) (n,) of cases (n, 4) = (inside, shell, own, place): see `mean_digamma_of_rank`."""
    inside, shell, own, place = (c[:, None].double() for c in cases.T)
    others = shell - own
    # How many samples of the shell, of the other classes, come before the neighbour: M = place + before.
    before = torch.arange(int(others.max()) + 1, device=cases.device).double()
    valid = before <= others
    x = place + torch.minimum(before, others)
    log_p = _log_choose(x - 1, place - 1) + _log_choose(shell - x, own - place) - _log_choose(shell, own)
    p = torch.where(valid, log_p.exp(), 0.0)
    return torch.sum(p * (inside + x).digamma(), 1)


def _log_choose(n: Tensor, k: Tensor) -> Tensor:
    """Return the logs of the binomial coefficients C(n, k), elementwise."""
    return torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
