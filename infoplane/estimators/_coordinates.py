"""The coordinates in which trained estimators see a pair: ranks, principal components, canonical coordinates.

Every map is fitted to some rows and applied to all; only the ranks, which see one side alone, use every row.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from infoplane.estimators._canonical import corrected, rescaled
from infoplane.estimators._checks import normal_scores
from infoplane.estimators._scaling import zscore

ATOMS = 0.05
"""Share of repeated values from which a unit is scaled only: the ranks of a ReLU's zeros cost accuracy."""
LEAST_VARIANCE = 1e-3
"""Principal variances are taken to be at least this share of the largest: what is smaller is not blown up further."""
NORMAL, FEW_UNITS = 0.99, 4
"""Correlation of a unit with its normal scores from which it is scaled only, where there are more units than so few."""
NEAR = 1.0
"""Nats below log n from which the ranks of n rows no longer tell how close a pair of coordinates is."""
FACTORS = 16
"""Leading coordinates of one side whose products are looked for in the other."""
EDGE_MARGIN = 1.15
"""Times the edge of what chance has: products of normal coordinates reached 1.14 in 360 draws of 300 rows and more."""
_RANK = 1e-12
"""Share of the largest principal variance below which one counts as 0."""


class Marginal(NamedTuple):
    """One side, prepared without a look at the other: columns (N, D), none constant, each z-scored or normal scores.

    `tied` says whether some unit has atoms, that is, values that many rows share.
    """

    columns: Tensor
    tied: bool

    @classmethod
    def of(cls, block: Tensor, seed: int, *, ranks: bool = True, all_ranks: bool = True) -> Marginal:
        """Replace each unit of a block (N, D) or (N,) by its normal scores, or scale it where it has atoms.

        Ties get random places from `seed`, which must differ between two sides. Without `ranks` every unit is scaled
        only; without `all_ranks` also those that are normal already, if there are more than `FEW_UNITS` units.
        """
        rows = zscore(block.reshape(len(block), -1))
        rows = rows[:, (rows != 0).any(0)]
        scores, repeated = normal_scores(rows, torch.Generator().manual_seed(seed))
        atoms = repeated.double().mean(0) > ATOMS  # (D,) whether a unit has many repeated values
        columns = torch.where(atoms, rows, scores) if ranks else rows
        if not all_ranks and rows.shape[1] > FEW_UNITS:
            columns = scaled_where_normal(columns, rows)
        return cls(columns, bool(atoms.any()))


def scaled_where_normal(ranked: Tensor, scaled: Tensor) -> Tensor:
    """Return for each unit its `scaled` values if they are normal already, else its normal scores `ranked`, (N, D)."""
    # Ranks err by about 1 / sqrt(N) in each unit, and many units add that up: 3 nats of one latent in 12 turned units
    # would read 2.5.
    normal = (ranked * scaled).mean(0) > NORMAL * ranked.square().mean(0).sqrt()
    return torch.where(normal, scaled, ranked)


def is_steep(correlations: Tensor, rows: int) -> Tensor:
    """Return (...) whether one of r pairs of coordinates has nearly the most information that `rows` ranks can show."""
    return (pair_nats(correlations) > math.log(rows) - NEAR).any(-1)


def pair_nats(correlations: Tensor) -> Tensor:
    """Return the nats of each pair of Gaussian coordinates with these correlations, in the same shape."""
    return -0.5 * (1 - correlations.square()).log()


class Coordinates(NamedTuple):
    """Canonical coordinates of all rows, fitted to some.

    Attributes
    ----------
    u : (N, p) float64
    v : (N, q) float64
        Of variance 1 or less on the fitted rows. Column i of one goes with column i of the other alone.
    correlations : (min(p, q),)
        Canonical correlations, less what chance adds in so many dimensions.
    kept : (float, float)
        Share of the variance of each side that is in its coordinates.
    found : (min(p, q),)
        Canonical correlations of the fitted rows, not corrected.
    """

    u: Tensor
    v: Tensor
    correlations: Tensor
    kept: tuple[float, float]
    found: Tensor

    @classmethod
    def of(
        cls, t: Marginal, y: Marginal, fitted: Tensor, most: tuple[int, int], seen: int | None = None
    ) -> Coordinates:
        """Fit to the rows `fitted` (n,) int64, with at most `most` dimensions of each side.

        With `seen`, if a side has more coordinates than that, those without a partner on the other side are ordered by
        how much they follow products of the other's coordinates, and 0 where they follow no more than chance would.
        """
        # Each side white, then both turned so that coordinates go in pairs.
        u, share_u = _principal(t.columns, fitted, most[0])
        v, share_v = _principal(y.columns, fitted, most[1])
        # u and v are white but for components of small variance: canonical directions are singular vectors of their
        # covariance.
        left, found, right = torch.linalg.svd(u[fitted].T @ v[fitted] / len(fitted))
        rho = corrected(found, len(fitted), u.shape[1], v.shape[1])
        u, v, pairs = u @ left, v @ right.T, len(found)
        if seen is not None and max(u.shape[1], v.shape[1]) > seen:
            # The larger side has coordinates that no line of the other follows, in no order, most of them noise.
            u, v = _leading(u, v, pairs, fitted), _leading(v, u, pairs, fitted)
        return cls(u, v, rho, (share_u, share_v), found)


def _leading(own: Tensor, other: Tensor, pairs: int, fitted: Tensor) -> Tensor:
    """Rotate the coordinates of `own` (N, p) beyond `pairs`, so that those that follow products of `other` come first.

    `other` is (N, q). Coordinates that follow its products no more than chance would are set to 0.
    """
    rest, factors = own[:, pairs:], other[fitted][:, :FACTORS]
    if rest.shape[1] == 0 or pairs == 0:  # no coordinate is left over, or none to follow
        return own
    i, j = torch.triu_indices(factors.shape[1], factors.shape[1], device=factors.device)
    products = zscore(factors[:, i] * factors[:, j])
    turn, found, _ = torch.linalg.svd(rest[fitted].T @ products / len(fitted))
    # Singular values of the covariance of independent white (n, p) and (n, m) lie below (sqrt p + sqrt m) / sqrt n.
    edge = (math.sqrt(rest.shape[1]) + math.sqrt(products.shape[1])) / math.sqrt(len(fitted))
    follow = int((found > EDGE_MARGIN * edge).sum())
    return torch.cat([own[:, :pairs], rest @ turn[:, :follow], torch.zeros_like(rest[:, follow:])], 1)


def _principal(columns: Tensor, fitted: Tensor, most: int) -> tuple[Tensor, float]:
    """Return up to `most` principal coordinates (N, k), of variance 1 on `fitted`, and their share of the variance."""
    if columns.shape[1] == 0:
        return columns, 0.0
    everything = torch.arange(len(columns), device=columns.device)
    rows, whole = rescaled(columns, fitted, everything)
    n, units = rows.shape
    # Axes from the smaller of two matrices: eigenvectors w of R R'/n give those of R'R/n as R'w / sqrt(n value).
    if units <= n:
        values, vectors = torch.linalg.eigh(rows.T @ rows / n)
    else:
        values, inner = torch.linalg.eigh(rows @ rows.T / n)
        vectors = rows.T @ inner / (n * values.clamp(min=1e-300)).sqrt()
    if float(values[-1]) <= 0:  # nothing varies on the rows `fitted`
        return whole[:, :0], 0.0
    # `eigh` gives ascending order; here the largest come first.
    kept = torch.nonzero(values > _RANK * values[-1])[:, 0].flip(0)[:most]
    variances = values[kept]
    axes = vectors[:, kept] / variances.clamp(min=LEAST_VARIANCE * float(variances[0])).sqrt()
    return whole @ axes, float(variances.sum() / values.sum())
