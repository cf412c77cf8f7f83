"""The nearest-neighbour formulas: Ross (2014), Kraskov et al. (2004) and Gao et al. (2017) for scaled rows, in nats."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from infoplane.estimators._distances import TIE, Metric
from infoplane.estimators._neighbors import Points, intrinsic_dimension, pair_counts
from infoplane.estimators._scaling import zscore
from infoplane.estimators._ties import equal_rows, mean_digamma_of_rank

Formula = Literal["auto", "ross", "ksg1", "ksg2", "gao"]
Scale = Literal["unit", "block"]
_REPEATED = 0.01


class NeighborValue(NamedTuple):
    """One value in nats, the share of tied rows, the intrinsic dimension seen, and nats that the formula lacks."""

    nats: Tensor
    tied: float = 0.0
    dimension: float = 0.0
    degenerate: bool = False
    short: float = 0.0


def scaled_block(block: Tensor, scale: Scale) -> Tensor:
    """The varying units of a block (N, U), centred, each or all together of variance 1, float64."""
    z = zscore(block)
    varies = (z != 0).any(0)
    if scale == "unit" or not bool(varies.any()):
        return z[:, varies]
    chosen = block[:, varies].double()
    chosen = chosen / chosen.abs().max()
    chosen = chosen - chosen.mean(0)
    return chosen / chosen.square().mean().sqrt()


def class_information(
    rows: Tensor, y: Tensor, k: int, metric: Metric = "euclidean", *, mixed: bool = False
) -> NeighborValue:
    """Ross (2014), or with `mixed` Gao et al. (2017), for scaled rows (N, D) and classes (N,) from 0."""
    whole, n, short = Points(rows, metric), len(rows), 0.0
    radius = torch.zeros(n, dtype=torch.float64, device=rows.device)
    neighbors = torch.zeros(n, dtype=torch.int64, device=rows.device)
    counts = torch.bincount(y)
    alone = counts[y] == 1
    # Others of the own class within the radius, ties included and left out.
    own_closed, own_open = torch.zeros_like(neighbors), torch.zeros_like(neighbors)
    distances, tied = [], torch.zeros_like(alone)
    for label in range(len(counts)):
        members = (y == label).nonzero()[:, 0]
        kk = min(k, len(members) - 1)
        if kk == 0:
            continue
        points = Points(rows[members], metric, tree=whole.uses_tree)
        found = points.nearest(min(kk + 1, len(members) - 1))[0]
        radius[members], neighbors[members] = found[:, kk - 1], kk
        if kk == k > 1:
            distances.append(found[:, :k])
        here = found[:, kk - 1]
        repeated = (found[:, 1:] <= found[:, :-1] * (1 + TIE)).any(1)
        own_closed[members], own_open[members] = kk, kk - 1
        if bool(repeated.any()):
            own_closed[members], own_open[members] = points.within(here)
            tied[members] = repeated
    closed, opened = whole.within(radius)
    in_class = counts[y]
    if mixed:
        equal = (radius == 0) & ~alone
        kept = torch.where(equal, own_closed, neighbors)
        local = kept.clamp(min=1).double().digamma() + math.log(n)
        local = local - in_class.double().log() - (closed + 1).double().log()
        # log(m + 1) in the place of psi(m): a bias that no number of samples takes away.
        short = float(((closed + 1).double().log() - closed.clamp(min=1).double().digamma()).mean())
    else:
        # Among the tied samples, those of the own class fill the places up to k in any order.
        rank = mean_digamma_of_rank(opened, closed - opened, own_closed - own_open, neighbors - own_open)
        local = neighbors.clamp(min=1).double().digamma() - rank
        local = local + float(digamma(n)) - in_class.double().digamma()
    nats = torch.where(alone, torch.zeros_like(local), local).sum() / n
    if len(counts) == 1:
        nats = torch.zeros_like(nats)
    equal_share = max(float((equal_rows(rows) > 0).double().mean()), float(tied.double().mean()))
    dimension = intrinsic_dimension(torch.cat(distances)) if distances else 0.0
    return NeighborValue(nats=nats, tied=equal_share, dimension=dimension, short=short)


def pair_information(
    a: Tensor, b: Tensor, k: int, metric: Metric, *, formula: Formula, jitter: float, seed: int
) -> NeighborValue:
    """Kraskov et al. (2004) or Gao et al. (2017) for two scaled blocks (N, D), (N, D')."""
    n = len(a)
    equal = max(float((equal_rows(rows) > 0).double().mean()) for rows in (a, b))
    if formula != "gao" and jitter > 0 and max(repeated_share(a), repeated_share(b)) > _REPEATED:
        generator = torch.Generator().manual_seed(seed)
        a, b = (rows + jitter * _normal(rows, generator) for rows in (a, b))
    found = pair_counts(Points(a, metric), Points(b, metric), k, rectangle=formula == "ksg2", ties=formula == "gao")
    if formula == "gao":
        kept = torch.full_like(found.x_closed, k)
        at_atom = found.distances[:, -1] == 0
        kept = torch.where(at_atom, equal_rows(torch.cat([a, b], dim=1)), kept)
        local = kept.double().digamma() + math.log(n)
        local = local - (found.x_closed + 1).double().log() - (found.y_closed + 1).double().log()
    elif formula == "ksg2":
        local = float(digamma(k)) - 1.0 / k + float(digamma(n)) - found.x_rectangle.double().digamma()
        local = local - found.y_rectangle.double().digamma()
    else:
        local = float(digamma(k)) + float(digamma(n)) - (found.x_open + 1).double().digamma()
        local = local - (found.y_open + 1).double().digamma()
    dimension = intrinsic_dimension(found.distances) if k > 1 else 0.0
    return NeighborValue(nats=local.mean(), tied=equal, dimension=dimension)


def repeated_share(rows: Tensor) -> float:
    """The largest share, over the units of (N, D), of samples whose value another sample has as well."""
    ordered = rows.sort(dim=0).values
    same = ordered[1:] == ordered[:-1]
    edge = torch.zeros_like(same[:1])
    return float((torch.cat([same, edge]) | torch.cat([edge, same])).double().mean(0).max())


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, device="cpu", dtype=torch.float64).to(like.device)


def digamma(n: int) -> Tensor:
    return torch.tensor(float(n), dtype=torch.float64, device="cpu").digamma()
