"""Shrinkage canonical correlations of two blocks of columns, and their bias."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

LEAST_SHRINKAGE = 1e-6
CROWDED = 0.1
"""Effective dimensions of one side, as a share of N, that are let in: beyond, correlations are mostly chance."""

Shrinkage = float | Literal["auto"]


class Basis(NamedTuple):
    """White directions of one side.

    Attributes
    ----------
    columns : (N, r)
        Their inner products with those of another side are canonical correlations after a rotation.
    own : (r,)
        The sample's own part of the variance of each shrunk direction.
    shrinkage : float
    axes : (U, r), or (K, r) for classes
        Rows times `axes` (for classes: the row of the class) are the columns times sqrt(N).
    """

    columns: Tensor
    own: Tensor
    shrinkage: float
    axes: Tensor

    @property
    def size(self) -> float:
        """The effective number of directions."""
        return float(self.own.sum())


def white_basis(z: Tensor, shrinkage: Shrinkage) -> Basis:
    """White directions of the shrunk correlation matrix of z-scored (N, U)."""
    n, all_units = z.shape
    varies = (z != 0).any(0)
    z = z[:, varies]
    units = z.shape[1]
    if units == 0:
        return Basis(z, z.new_zeros(0), 0.0, z.new_zeros(all_units, 0))
    values, vectors = torch.linalg.eigh(z.T @ z / n if units <= n else z @ z.T / n)
    kept = values > 1e-12 * values[-1]
    values, vectors = values[kept], vectors[:, kept]
    share = least_shrinkage(values, CROWDED * n) if shrinkage == "auto" else float(shrinkage)
    own = (1 - share) * values / ((1 - share) * values + share)
    # Columns of length 1: for more units than samples the eigenvectors are these columns already.
    scale = (own / values).sqrt()
    axes = z.new_zeros(all_units, len(values))
    if units <= n:
        axes[varies] = vectors * scale
        return Basis(z @ axes[varies] / math.sqrt(n), own, share, axes)
    axes[varies] = z.T @ vectors * (scale / (n * values).sqrt())
    return Basis(vectors * own.sqrt(), own, share, axes)


def class_basis(y: Tensor, counts: Tensor) -> Basis:
    """An orthonormal basis (N, K - 1) of the class indicators less their mean: exact, with nothing to shrink.

    `counts` (K,) may be zero for some classes.
    """
    n = len(y)
    lengths = counts.double().clamp(min=0.5).sqrt()
    mean = lengths / lengths.square().sum().sqrt()  # of unit length in the coordinates indicator / sqrt(count)
    # Householder reflection that takes the mean to the first coordinate, which is dropped.
    v = mean.clone()
    v[0] += 1.0
    table = torch.diag(1.0 / lengths)
    table = table - (table @ v)[:, None] * v * (2.0 / (v @ v))
    table = table[:, 1:]
    return Basis(table[y], torch.ones_like(table[0]), 0.0, table * math.sqrt(n))


class Canonical(NamedTuple):
    """Canonical directions (r_a, r), (r_b, r) of two bases, correlations (r,), and the most shrinkage allows."""

    left: Tensor
    right: Tensor
    correlations: Tensor
    most: Tensor


def canonical(a: Basis, b: Basis) -> Canonical:
    """Canonical correlations of two sides, the largest first."""
    left, found, right = torch.linalg.svd(a.columns.T @ b.columns, full_matrices=False)
    right = right.T
    most = [(own.sqrt()[:, None] * side).square().sum(0).sqrt() for own, side in ((a.own, left), (b.own, right))]
    return Canonical(left, right, found, most[0] * most[1])


def canonical_nats(correlations: Tensor) -> Tensor:
    """-1/2 log det(I - R^2) in nats."""
    return -0.5 * torch.log1p(-correlations.square().clamp(max=1 - 1e-12)).sum()


def independent_nats(p: float, q: float, n: int) -> float:
    """Expected -1/2 log det(I - R^2) of independent Gaussians of p and q dimensions in n samples.

    1 - R^2 has the law of Wilks' Lambda, a product of independent beta variables Beta((m - p - i + 1)/2, p/2),
    i = 1 .. q, m = n - 1; the determinants of Wishart matrices make it the bias of dependent Gaussians too. Between
    whole dimensions it is interpolated; from p + q = m on there is none, and the first order p q / 2n is taken.
    """
    p, q = max(p, q), min(p, q)
    m, whole = n - 1, math.floor(q)
    if p + q + 1 >= m:
        return 0.5 * p * q / n
    i = torch.arange(1, whole + 2, dtype=torch.float64, device="cpu")
    weight = torch.ones_like(i)
    weight[-1] = q - whole
    terms = ((m - i + 1) / 2).digamma() - ((m - p - i + 1) / 2).digamma()
    return 0.5 * float((weight * terms).sum())


def least_shrinkage(values: Tensor, limit: float) -> float:
    """The smallest lambda, at least 1e-6, at which sum of (1 - lambda) v / ((1 - lambda) v + lambda) <= limit."""

    def size(log_ridge: float) -> float:
        return float((values / (values + math.exp(log_ridge))).sum())

    low = math.log(LEAST_SHRINKAGE)
    if size(low) > limit:
        high = math.log(float(values.sum()) / limit)  # sum v / (v + ridge) is below sum v / ridge
        for _ in range(60):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if size(middle) > limit else (low, middle)
        low = high
    ridge = math.exp(low)
    return ridge / (1.0 + ridge)
