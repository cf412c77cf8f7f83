"""Shrinkage canonical correlations of two blocks of columns, their bias, and checks of the Gaussian model on held-out
rows: whether a pair of blocks, or classes, follow what was fitted to them."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from infoplane.estimators._checks import content_halves
from infoplane.estimators._neighbor_formulas import class_information, pair_information
from infoplane.estimators._scaling import zscore

LEAST_SHRINKAGE = 1e-6
CROWDED = 0.1
"""Effective dimensions of one side, as a share of N, that are let in: beyond, correlations are mostly chance."""

LEAST_SAMPLES = 64
"""Below, the checks cannot tell a misfit from chance."""
TEST_ROWS, ROWS_OF_A_CLASS = 700, 50
"""Rows that a check is made on, and how many of them a class should have."""
LEADING = 3
"""Canonical or principal directions in which `knn` looks for what the Gaussian model leaves."""
PAIR_NEIGHBORS, CLASS_NEIGHBORS = 10, 5
SPREAD_CLASSES, SPREAD_UNITS = 8, 256
"""Classes whose spreads are compared, and directions that they are compared in, at most."""

OVERSHOOT = 0.5
"""Z in nats: Gaussian pairs of up to 64 units reach 0.35."""
CLASS_OVERSHOOT = 0.15
"""Nats by which the classes' mixture may differ from one Gaussian."""
LEFT_OVER = 0.06
"""Nats that may be left between u and the residual of v on it."""
MISSED = 0.15
"""Nats that `knn` may find beyond the value."""

Shrinkage = float | Literal["auto"]


class Basis(NamedTuple):
    """White directions of one side: combinations of its units that are uncorrelated and of variance 1.

    Attributes
    ----------
    columns : (N, r)
        The rows along each direction, over sqrt(N): the singular values of the product of two sides' columns are their
        canonical correlations.
    own : (r,)
        Share of the shrunk variance of each direction that is the sample's own, not added by shrinkage; 1 without it.
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
        """Return the effective number of directions."""
        return float(self.own.sum())


def white_basis(z: Tensor, shrinkage: Shrinkage) -> Basis:
    """Return white directions of z-scored rows (N, U), from their correlation matrix shrunk towards the identity.

    `shrinkage` is the weight of the identity; "auto" takes the least that leaves 0.1 N effective directions at most.
    """
    n, all_units = z.shape
    varies = (z != 0).any(0)
    z = z[:, varies]
    units = z.shape[1]
    if units == 0:
        return Basis(z, z.new_zeros(0), 0.0, z.new_zeros(all_units, 0))
    # The smaller of the two Gram matrices; both have the same eigenvalues that are not 0.
    values, vectors = torch.linalg.eigh(z.T @ z / n if units <= n else z @ z.T / n)
    kept = values > 1e-12 * values[-1]
    values, vectors = values[kept], vectors[:, kept]
    share = least_shrinkage(values, CROWDED * n) if shrinkage == "auto" else float(shrinkage)
    # C becomes (1 - share) C + share I; `own` is the part of the variance along each eigenvector that is the sample's.
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
    """Return an orthonormal basis (N, K - 1) of the class indicators less their mean: exact, with nothing to shrink.

    `counts` (K,) may be zero for some classes.
    """
    n = len(y)
    lengths = counts.double().clamp(min=0.5).sqrt()
    mean = lengths / lengths.square().sum().sqrt()  # of unit length in the coordinates indicator / sqrt(count)
    # Householder reflection that takes the mean to the first coordinate, which is dropped.
    v = mean.clone()
    v[0] += 1.0
    # (K, K - 1): the coordinates of a row of each class.
    table = torch.diag(1.0 / lengths)
    table = table - (table @ v)[:, None] * v * (2.0 / (v @ v))
    table = table[:, 1:]
    return Basis(table[y], torch.ones_like(table[0]), 0.0, table * math.sqrt(n))


class Canonical(NamedTuple):
    """Canonical directions (r_a, r), (r_b, r) of two bases, correlations (r,), and `most`, the largest possible (r,).

    `most` is below 1 with shrinkage, which keeps even a side and itself from a correlation of 1.
    """

    left: Tensor
    right: Tensor
    correlations: Tensor
    most: Tensor


def canonical(a: Basis, b: Basis) -> Canonical:
    """Return the canonical directions and correlations of two sides, those of the largest correlation first."""
    left, found, right = torch.linalg.svd(a.columns.T @ b.columns, full_matrices=False)
    right = right.T
    most = [(own.sqrt()[:, None] * side).square().sum(0).sqrt() for own, side in ((a.own, left), (b.own, right))]
    return Canonical(left, right, found, most[0] * most[1])


def canonical_nats(correlations: Tensor) -> Tensor:
    """Return -1/2 log det(I - R^2) in nats, the information of Gaussians with canonical correlations R (r,)."""
    return -0.5 * torch.log1p(-correlations.square().clamp(max=1 - 1e-12)).sum()


def independent_nats(p: float, q: float, n: int) -> float:
    """Return the expected -1/2 log det(I - R^2) of independent Gaussians of p and q dimensions in n samples.

    det(I - R^2) has the law of Wilks' Lambda, a product of independent beta variables Beta((m - p - i + 1)/2, p/2),
    i = 1 .. q, m = n - 1; the determinants of Wishart matrices make it the bias of dependent Gaussians too. Between
    whole dimensions it is interpolated. It grows without bound as p + q nears m + 1: from p + q = m - 1 on the first
    order p q / 2n is taken instead.
    """
    # E log Beta(a, b) = psi(a) - psi(a + b). The law is symmetric in p and q; the smaller one counts the factors, and
    # a last factor of weight q - floor(q) interpolates.
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
    """Return the smallest shrinkage lambda, at least 1e-6, that leaves at most `limit` effective directions.

    `values` (r,) are the positive eigenvalues of the correlation matrix, in any order.
    """

    # sum (1 - lambda) v / ((1 - lambda) v + lambda) = sum v / (v + ridge) with ridge = lambda / (1 - lambda): it falls
    # as the ridge grows, so the ridge's logarithm is found by halving an interval.
    def size(log_ridge: float) -> float:
        """Return the effective number of directions with the ridge e^`log_ridge`."""
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


class HeldOut(NamedTuple):
    """Canonical coordinates (n, r) of rows that the directions were not fitted on, and the correlations (r,).

    `fitted` (m, d) and `white` (n, d) are T in white coordinates: on the m rows that were fitted, and on these n rows.
    """

    u: Tensor
    v: Tensor
    correlations: Tensor
    fitted: Tensor
    white: Tensor


def held_out(z: Tensor, y: Tensor, fit: Tensor, test: Tensor, shrinkage: Shrinkage) -> HeldOut | None:
    """Fit canonical directions to the rows `fit` of z (N, U) and y; return the rows `test` along these directions.

    `y` are classes (N,) or real targets (N, k). Returns None if a side is constant on the rows `fit`.
    """
    rows, new = rescaled(z, fit, test)
    a = white_basis(rows, shrinkage)
    if y.is_floating_point():
        targets, new_targets = rescaled(y, fit, test)
        b = white_basis(targets, shrinkage)
        second = new_targets @ b.axes
    else:
        b = class_basis(y[fit], torch.bincount(y[fit], minlength=int(y.max()) + 1))
        second = b.axes[y[test]]
    if a.size == 0 or b.size == 0:
        return None
    found = canonical(a, b)
    # What chance adds to correlations is taken off, as it is from the value whose Gaussian model is checked.
    correlations = corrected(found.correlations, len(fit), a.size, b.size)
    white = new @ a.axes
    return HeldOut(white @ found.left, second @ found.right, correlations, a.columns * math.sqrt(len(fit)), white)


def corrected(correlations: Tensor, n: int, p: float, q: float) -> Tensor:
    """Return correlations (r,) of n rows less what chance adds between p and q dimensions; at least 0 and below 1."""
    # As adjusted R^2: 1 - (1 - rho^2) (n - 1) / (n - 1 - (p + q - 1)).
    free = max(n - 1 - (p + q - 1), 1.0)
    return (1 - (1 - correlations.square()) * (n - 1) / free).clamp(min=0, max=1 - 1e-9).sqrt()


def rescaled(z: Tensor, fit: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows `fit` and `test` of z (N, U), both scaled by mean and std of `fit`; units constant there become 0."""
    rows = z[fit]
    mean, std = rows.mean(0), rows.std(0, correction=0)
    varies = std > 1e-6
    scale = torch.where(varies, 1.0 / torch.where(varies, std, 1.0), 0.0)
    return (rows - mean) * scale, (z[test] - mean) * scale


def log_ratio(h: HeldOut) -> Tensor:
    """Return (n, n) log q(u_i, v_j) / q(u_i) q(v_j), nats, of the fitted Gaussian, for all pairs of held-out rows."""
    # float32 takes a third of the time, and what is read of these is compared with tenths of a nat.
    return gaussian_log_ratio(h.u.float(), h.v.float(), h.correlations.float())


class RatioTerms(NamedTuple):
    """A Gaussian log ratio as `scaled`_i . v_j - `of_u`_i - `of_v`_j - `constant`, for rows u (n, r) and v (m, r)."""

    # Shapes (..., n, r), (..., n), (..., m) and (...).

    scaled: Tensor
    of_u: Tensor
    of_v: Tensor
    constant: Tensor


def ratio_terms(u: Tensor, v: Tensor, correlations: Tensor) -> RatioTerms:
    """Return the terms of `gaussian_log_ratio` for u (..., n, r), v (..., m, r) and correlations (..., r)."""
    # log q(u, v) / q(u) q(v) = sum_i [rho u v - rho^2 (u^2 + v^2) / 2] / (1 - rho^2) - log(1 - rho^2) / 2.
    rho = correlations[..., None, :]
    rest = 1 - rho.square()
    weight = 0.5 * rho.square() / rest
    of_u, of_v = ((side.square() * weight).sum(-1) for side in (u, v))
    return RatioTerms(u * (rho / rest), of_u, of_v, 0.5 * rest.log().sum(-1)[..., 0])


def gaussian_log_ratio(u: Tensor, v: Tensor, correlations: Tensor) -> Tensor:
    """Return log q(u_i, v_j) / q(u_i) q(v_j) in nats, (..., n, m), of Gaussian rows u (..., n, r) and v (..., m, r).

    Each coordinate of u has its correlation, of `correlations` (..., r), with the same coordinate of v.
    """
    terms = ratio_terms(u, v, correlations)
    out = terms.scaled @ v.mT
    out -= terms.of_u[..., :, None]
    out -= terms.of_v[..., None, :]
    return out - terms.constant[..., None, None]


def z_of_shuffled(ratio: Tensor) -> float:
    """Return the log of the mean density ratio over pairs i != j, from log ratios (n, n): 0 for the true density."""
    n = len(ratio)
    apart = ratio.clone()
    apart.fill_diagonal_(-math.inf)
    return float(apart.flatten().logsumexp(0)) - math.log(n * (n - 1))


def marginal_misfit(ratio: Tensor) -> float:
    """Return the KL divergence of the mixture of fitted classes from one Gaussian, in nats, by log ratios (n, n)."""
    # mean_i log mean_j of the ratios.
    return float(ratio.logsumexp(1).mean()) - math.log(ratio.shape[1])


def pair_nats(a: Tensor, b: Tensor) -> float:
    """Return the `knn` information in nats between rows (n, d) and (n, d') of few dimensions, columns of variance 1.

    Between independent variables it is 0 within 0.003 on average (measured for 32 to 1000 rows, 1 to 3 dimensions),
    so no mean of shuffles is taken off; its standard deviation there is 0.36 / sqrt(n).
    """
    k = min(PAIR_NEIGHBORS, len(a) // 3)
    a, b = zscore(a), zscore(b)
    return float(pair_information(a, b, k, "max", formula="ksg1", jitter=1e-4, seed=0).nats)


def class_nats(rows: Tensor, y: Tensor) -> float:
    """Return the `knn` information in nats between rows (n, d) of few dimensions, of variance 1, and classes (n,)."""
    labels = torch.unique(y, return_inverse=True)[1]
    return float(class_information(zscore(rows), labels, CLASS_NEIGHBORS, "euclidean").nats)


def residual_nats(h: HeldOut) -> float:
    """Return the `knn` information in nats between the leading canonical coordinates u and the residuals of v on them.

    Between Gaussians there is none.
    """
    u, v = (rows[:, :LEADING] - rows[:, :LEADING].mean(0) for rows in (h.u, h.v))
    # The slope of these rows rather than rho: the error of a fitted rho in many units is no misfit of the model.
    return pair_nats(u, v - u @ (torch.linalg.pinv(u) @ v))


def chance(rows: int) -> float:
    """Return the nats that `knn` may show between independent variables in so many rows: 3 standard deviations."""
    # Measured for k = 10 and up to 3 dimensions.
    return 1.1 / math.sqrt(rows)


class Side(NamedTuple):
    """One side of the value to be checked: as it came, (N, U); z-scored; its leading principal components (N, 3)."""

    raw: Tensor
    z: Tensor
    leading: Tensor


def side(raw: Tensor, z: Tensor, basis: Basis) -> Side:
    """Return what the checks need of a block (N, U), its z-scores, and the white directions found in all of it."""
    return Side(raw, z, basis.columns[:, -LEADING:])


def misfits(h: HeldOut) -> tuple[bool, bool]:
    """Return whether the Gaussian model that was fitted to other rows fails the first, and the second, check on these.

    The first fails where the density ratio has a mean far above 1 over pairs that do not belong together; the second,
    made only if the first has passed, where u has information about the residuals of v.
    """
    overshoot = z_of_shuffled(log_ratio(h)) > OVERSHOOT
    return overshoot, not overshoot and residual_nats(h) > max(LEFT_OVER, chance(len(h.u)))


def pairs_off_ground(t: Side, y: Side, nats: float, shrinkage: Shrinkage) -> bool:
    """Return whether a layer and real targets fail a check of the Gaussian model, whose information is `nats`."""
    fit, test = content_halves(t.raw, y.raw, TEST_ROWS)
    h = held_out(t.z, y.z, fit, test, shrinkage)
    if h is None:  # nothing varies in the rows to fit on
        return False
    if any(misfits(h)):
        return True
    # `knn` must not find more in few principal components than the value has of all units.
    few = test[: len(test) // 2]
    return pair_nats(t.leading[few], y.leading[few]) > nats + MISSED + chance(len(few))


def classes_off_ground(t: Side, y: Tensor, nats: float, entropy_nats: float, shrinkage: Shrinkage) -> bool:
    """Return whether a layer and classes (N,) fail a check of the Gaussian model, whose information is `nats`."""
    fit, test = content_halves(t.raw, y, TEST_ROWS)
    h = held_out(t.z, y, fit, test, shrinkage)
    if h is None:  # nothing varies in the rows to fit on
        return False
    if marginal_misfit(log_ratio(h)) > CLASS_OVERSHOOT:
        return True
    few = min(len(test), max(TEST_ROWS // 2, ROWS_OF_A_CLASS * len(torch.unique(y))))
    limit, labels = nats + MISSED + chance(few), y[test[:few]]
    if limit >= entropy_nats:  # `knn` cannot find more than the entropy of the classes
        return False
    # `knn` must not find more in few directions, canonical, principal, or those in which spreads differ.
    if any(class_nats(view[:few], labels) > limit for view in (h.u[:, :1], h.u[:, :LEADING], t.leading[test])):
        return True
    shape = spread_features(h, y[fit])
    return any(class_nats(view[:few], labels) > limit for view in (shape, torch.cat([h.u[:, :1], shape[:, :2]], 1)))


def spread_features(h: HeldOut, y: Tensor) -> Tensor:
    """Return features (n, 3) of held-out rows that tell classes apart by their spread.

    They are the log of a row's squared length, and its coordinates along the two directions whose variances differ most
    between classes.
    """
    # `y` (m,) are the classes of the fitted rows. With C_k their covariances in white coordinates, the directions are
    # the leading eigenvectors of sum_k p_k (C_k - C)^2. The largest classes and, of many white coordinates, those of
    # largest variance keep the cost within bounds.
    counts = torch.bincount(y)
    largest = counts.argsort(descending=True, stable=True)[:SPREAD_CLASSES]
    fitted, new = h.fitted[:, -SPREAD_UNITS:], h.white[:, -SPREAD_UNITS:]  # eigenvalues rise
    covariances = fitted.new_zeros(len(largest), fitted.shape[1], fitted.shape[1])
    for k, label in enumerate(largest):
        members = fitted[y == label]
        members = members - members.mean(0)
        covariances[k] = members.T @ members / len(members)
    p = (counts[largest] / counts[largest].sum()).double()[:, None, None]
    apart = covariances - (p * covariances).sum(0)
    directions = torch.linalg.eigh((p * (apart @ apart)).sum(0))[1][:, -2:].flip(1)
    length = h.white.square().sum(1, keepdim=True).clamp(min=1e-30).log()  # of a row of zeros, too
    return torch.cat([length, new @ directions], 1)
