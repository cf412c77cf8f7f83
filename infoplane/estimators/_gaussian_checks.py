"""Whether a pair of blocks, or classes, follow the Gaussian model that was fitted to them: checks on held-out rows."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from infoplane.estimators._canonical import Basis, Shrinkage, canonical, class_basis, white_basis
from infoplane.estimators._checks import content_halves
from infoplane.estimators._neighbor_formulas import class_information, pair_information
from infoplane.estimators._scaling import zscore

LEAST_SAMPLES = 64
"""Below, the checks cannot tell a misfit from chance."""
TEST_ROWS, ROWS_OF_A_CLASS = 700, 50
LEADING = 3
PAIR_NEIGHBORS, CLASS_NEIGHBORS = 10, 5
SPREAD_CLASSES, SPREAD_UNITS = 8, 256

OVERSHOOT = 0.5
"""Z in nats: Gaussian pairs of up to 64 units reach 0.35."""
CLASS_OVERSHOOT = 0.15
LEFT_OVER = 0.06
MISSED = 0.15


class HeldOut(NamedTuple):
    """Canonical coordinates (n, r) of rows that the directions were not fitted on, and the correlations (r,).

    `fitted` (m, d) and `white` (n, d) are T in white coordinates, of the rows that were fitted and of these.
    """

    u: Tensor
    v: Tensor
    correlations: Tensor
    fitted: Tensor
    white: Tensor


def held_out(z: Tensor, y: Tensor, fit: Tensor, test: Tensor, shrinkage: Shrinkage) -> HeldOut | None:
    """Directions fitted on the rows `fit` of z-scored (N, U) and targets (N, k) or classes (N,); None if constant."""
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
    # The correlations of the value that is reported: what chance adds in so many dimensions is taken off.
    m = len(fit) - 1
    free = max(m - (a.size + b.size - 1), 1.0)
    correlations = (1 - (1 - found.correlations.square()) * m / free).clamp(min=0, max=1 - 1e-9).sqrt()
    white = new @ a.axes
    return HeldOut(white @ found.left, second @ found.right, correlations, a.columns * math.sqrt(len(fit)), white)


def rescaled(z: Tensor, fit: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Both parts of z-scored rows with mean and variance of the first; units that are constant there are 0."""
    mean, std = z[fit].mean(0), z[fit].std(0, correction=0)
    varies = std > 1e-6
    scale = torch.where(varies, 1.0 / torch.where(varies, std, 1.0), 0.0)
    return (z[fit] - mean) * scale, (z[test] - mean) * scale


def log_ratio(h: HeldOut) -> Tensor:
    """(n, n) log q(u_i, v_j) / q(u_i) q(v_j) of the Gaussian with these canonical correlations, in nats."""
    rho = h.correlations
    rest = 1 - rho.square()
    out = (h.u * (rho / rest)) @ h.v.T
    out -= 0.5 * (h.u.square() @ (rho.square() / rest))[:, None]
    out -= 0.5 * (h.v.square() @ (rho.square() / rest))[None]
    return out - 0.5 * rest.log().sum()


def z_of_shuffled(ratio: Tensor) -> float:
    """Log-mean of the ratio (n, n) over pairs that do not belong together: 0 for the true density."""
    n = len(ratio)
    apart = ratio.clone()
    apart.fill_diagonal_(-math.inf)
    return float(apart.flatten().logsumexp(0)) - math.log(n * (n - 1))


def marginal_misfit(ratio: Tensor) -> float:
    """Mean over t of log E_y q(t|y) / q(t) for a ratio (n, n): KL of the mixture of the classes from one Gaussian."""
    return float(ratio.logsumexp(1).mean()) - math.log(ratio.shape[1])


def pair_nats(a: Tensor, b: Tensor) -> float:
    """`knn` information in nats of (n, d) and (n, d') in a few dimensions, every column to variance 1.

    Between independent variables it is 0 within 0.003 on average (measured for 32 to 1000 rows, 1 to 3 dimensions),
    so no mean of shuffles is taken off; its standard deviation there is 0.36 / sqrt(n).
    """
    k = min(PAIR_NEIGHBORS, len(a) // 3)
    a, b = zscore(a), zscore(b)
    return float(pair_information(a, b, k, "max", formula="ksg1", jitter=1e-4, seed=0).nats)


def class_nats(rows: Tensor, y: Tensor) -> float:
    """`knn` information in nats of (n, d), in a few dimensions, and classes (n,), every column to variance 1."""
    labels = torch.unique(y, return_inverse=True)[1]
    return float(class_information(zscore(rows), labels, CLASS_NEIGHBORS).nats)


def residual_nats(h: HeldOut) -> float:
    """`knn` information between the leading u and what is left of v beside them: 0 where (u, v) are Gaussian."""
    u, v = (rows[:, :LEADING] - rows[:, :LEADING].mean(0) for rows in (h.u, h.v))
    # The slope of these rows rather than rho: the error of a fitted rho in many units is no misfit of the model.
    return pair_nats(u, v - u @ (torch.linalg.pinv(u) @ v))


def chance(rows: int) -> float:
    """Three standard deviations of `knn` between independent variables of up to 3 dimensions, k = 10, in nats."""
    return 1.1 / math.sqrt(rows)


class Side(NamedTuple):
    """One side of the value to be checked: as it came, (N, U); z-scored; its leading principal components (N, 3)."""

    raw: Tensor
    z: Tensor
    leading: Tensor


def side(raw: Tensor, z: Tensor, basis: Basis) -> Side:
    """What the checks need of a block and of the white directions found in all of it."""
    return Side(raw, z, basis.columns[:, -LEADING:])


def pairs_off_ground(t: Side, y: Side, nats: float, shrinkage: Shrinkage) -> bool:
    """Whether a layer and real targets leave the ground; `nats` is the value."""
    fit, test = content_halves(t.raw, y.raw, TEST_ROWS)
    h = held_out(t.z, y.z, fit, test, shrinkage)
    if h is None:
        return False
    if z_of_shuffled(log_ratio(h)) > OVERSHOOT:
        return True
    if residual_nats(h) > max(LEFT_OVER, chance(len(test))):
        return True
    few = test[: len(test) // 2]
    return pair_nats(t.leading[few], y.leading[few]) > nats + MISSED + chance(len(few))


def classes_off_ground(t: Side, y: Tensor, nats: float, entropy_nats: float, shrinkage: Shrinkage) -> bool:
    """Whether a layer and classes (N,) of this entropy leave the ground; `nats` is the value."""
    fit, test = content_halves(t.raw, y, TEST_ROWS)
    h = held_out(t.z, y, fit, test, shrinkage)
    if h is None:
        return False
    if marginal_misfit(log_ratio(h)) > CLASS_OVERSHOOT:
        return True
    few = min(len(test), max(TEST_ROWS // 2, ROWS_OF_A_CLASS * len(torch.unique(y))))
    limit, labels = nats + MISSED + chance(few), y[test[:few]]
    if limit >= entropy_nats:  # so much cannot be missed
        return False
    for view in (h.u[:, :1], h.u[:, :LEADING], t.leading[test]):
        if class_nats(view[:few], labels) > limit:
            return True
    shape = spread_features(h, y[fit])
    return any(class_nats(view[:few], labels) > limit for view in (shape, torch.cat([h.u[:, :1], shape[:, :2]], 1)))


def spread_features(h: HeldOut, y: Tensor) -> Tensor:
    """(n, 3) what tells classes apart by their spread: log length, and the two directions whose variances differ most.

    `y` (m,) are the classes of the fitted rows. With their class covariances C_k in white coordinates the directions
    are the leading eigenvectors of sum_k p_k (C_k - C)^2. Bounded in cost: the largest classes, and of many white
    coordinates those of largest variance.
    """
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
    length = h.white.square().sum(1, keepdim=True).clamp(min=1e-30).log()
    return torch.cat([length, new @ directions], 1)
