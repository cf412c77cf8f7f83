"""Information of the Gaussian with the same covariance: shrinkage canonical correlations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from infoplane.core.units import BITS_PER_NAT
from infoplane.estimators._mixture import entropy_of_counts
from infoplane.estimators._protocol import Quantity, check_inputs
from infoplane.estimators._registry import register
from infoplane.estimators._scaling import zscore

LEAST_SHRINKAGE = 1e-6
CROWDED = 0.1
"""Effective dimensions of one side, as a share of N, that are let in: beyond, correlations are mostly chance."""


@register
@dataclass(frozen=True, kw_only=True)
class Gaussian:
    """-1/2 log2 det(I - R^2) with the canonical correlations R of T and Y: exact for linear Gaussian channels.

    Correlation matrices of T and of Y are shrunk towards the identity before they are inverted,
    C* = (1 - lambda) C + lambda I. Without that, more units than samples give hundreds of nats of nothing. What
    independent Gaussians of as many effective dimensions would show is taken off (`corrected`): without
    shrinkage that is the exact bias for Gaussians of any correlation, with it about so. Slightly
    negative values are returned as they are.

    **It is blind to everything but linear dependence**: classes that differ in spread, rings, XOR, a parabola
    all read 0. The value belongs to the Gaussian with this covariance, not to the data: for jointly Gaussian
    T and Y it is I(T;Y), otherwise it can err to both sides. It depends on the choice of coordinates, and
    shrinkage hides what lies in directions of small variance: `unreliable` where more than N / 10 dimensions
    had to be shrunk.

    Classes enter as indicator columns. For Gaussian classes of one covariance the value bounds I(T;Y) from
    above, since no density has more entropy than the Gaussian of its covariance; it grows without end
    as classes move apart. Above H(Y), the ceiling, it is no information any more: flag `out_of_domain`.

    I(X;T) is not offered: for a deterministic layer it would measure how far the layer is from linear, and call
    it bits.

    Parameters
    ----------
    shrinkage : "auto" or float
        lambda in [0, 1]. "auto", for T and for Y apart: the least value, from 1e-6, that leaves at most N / 10
        effective dimensions, sum of (1 - lambda) v / ((1 - lambda) v + lambda) over the eigenvalues v of C. The
        quantity `shrinkage` is that of T.
    corrected : bool
        Whether the value expected of independent variables is taken off.

    Raises
    ------
    ValueError
        If a parameter is out of its domain, or the inputs do not fit.

    References
    ----------
    Kay, "Feature discovery under contextual supervision using mutual information", 1992 (Gaussian information
    from canonical correlations).
    Vinod, "Canonical ridge and econometrics of joint production", 1976 (shrunk canonical correlations).
    Anderson, "An Introduction to Multivariate Statistical Analysis", 2003 (law of Wilks' Lambda).

    Examples
    --------
    >>> g = torch.Generator().manual_seed(0)
    >>> y = torch.randn(4000, generator=g)
    >>> t = (y + torch.randn(4000, generator=g))[None, :, None]
    >>> abs(float(Gaussian().estimate(t, y)["I(T;Y)"].value) - 0.5) < 0.05
    True
    """

    name: ClassVar[str] = "gaussian"
    targets: ClassVar[frozenset[str]] = frozenset({"discrete", "continuous"})
    guarantees: ClassVar[frozenset[str]] = frozenset({"blocks", "sample_order", "unit_order", "constant_zero"})

    shrinkage: float | Literal["auto"] = "auto"
    corrected: bool = True

    def __post_init__(self) -> None:
        if self.shrinkage != "auto" and not (isinstance(self.shrinkage, int | float) and 0 <= self.shrinkage <= 1):
            raise ValueError(f"shrinkage must be 'auto' or between 0 and 1, got {self.shrinkage!r}")

    def bytes_per_snapshot(self, samples: int, units: int) -> int:
        """The scaled snapshot in float64, and the smaller of its two Gram matrices with its eigenvectors."""
        return 24 * samples * units + 24 * min(samples, units) ** 2

    def estimate(
        self, t: Tensor, y: Tensor, *, x: Tensor | None = None, x_ids: Tensor | None = None
    ) -> dict[str, Quantity]:
        """The Gaussian I(T;Y) of every snapshot of `t` (S, N, U)."""
        t, y, _ = check_inputs(t, y, x_ids, targets=self.targets, name=self.name, min_samples=4)
        counts = None
        if y.is_floating_point():
            target = self._basis(zscore(y[:, None] if y.ndim == 1 else y))
        else:
            counts = torch.bincount(y)
            target = _indicators(y, counts)
        nats, degenerate, shrunk = [], [], []
        for layer in t:
            basis = self._basis(zscore(layer))
            degenerate.append(basis.size == 0 or target.size == 0)
            shrunk.append(basis.shrinkage)
            nats.append(self._information(basis, target, len(y)))
        value = torch.stack(nats) * BITS_PER_NAT
        forced = [self.shrinkage == "auto" and s > 2 * LEAST_SHRINKAGE for s in shrunk]
        flags = {
            "degenerate": torch.tensor(degenerate, device=t.device),
            "unreliable": torch.tensor(forced, device=t.device),
        }
        ceiling = None
        if counts is not None:
            ceiling = entropy_of_counts(counts)
            flags["degenerate"] = torch.tensor([b and len(counts) > 1 for b in degenerate], device=t.device)
            flags["single_class"] = torch.full_like(flags["degenerate"], len(counts) == 1)
            flags["out_of_domain"] = (value > ceiling) & (ceiling > 0)
        shrinkage = torch.tensor(shrunk, dtype=torch.float64, device=t.device)
        return {
            "I(T;Y)": Quantity(value=value, ceiling=ceiling, flags=flags),
            "shrinkage": Quantity(value=shrinkage, unit="share"),
        }

    def _basis(self, z: Tensor) -> _Basis:
        """White directions of the shrunk correlation matrix of z-scored (N, U)."""
        z = z[:, (z != 0).any(0)]
        n, units = z.shape
        if units == 0:
            return _Basis(z, 0.0, 0.0)
        values, vectors = torch.linalg.eigh(z.T @ z / n if units <= n else z @ z.T / n)
        kept = values > 1e-12 * values[-1]
        values, vectors = values[kept], vectors[:, kept]
        # Columns of length 1: for more units than samples the eigenvectors are these columns already.
        columns = z @ vectors / (n * values).sqrt() if units <= n else vectors
        share = least_shrinkage(values, CROWDED * n) if self.shrinkage == "auto" else float(self.shrinkage)
        # The sample's own part of the variance of a shrunk direction.
        own = (1 - share) * values / ((1 - share) * values + share)
        return _Basis(columns * own.sqrt(), float(own.sum()), share)

    def _information(self, a: _Basis, b: _Basis, n: int) -> Tensor:
        if a.size == 0 or b.size == 0:
            return a.columns.new_zeros(())
        correlations = torch.linalg.svdvals(a.columns.T @ b.columns)
        nats = -0.5 * torch.log1p(-correlations.square().clamp(max=1 - 1e-12)).sum()
        return nats - independent_nats(a.size, b.size, n) if self.corrected else nats


class _Basis(NamedTuple):
    """Columns (N, r) whose inner products are canonical correlations; their effective number; the shrinkage."""

    columns: Tensor
    size: float
    shrinkage: float


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
    i = torch.arange(1, whole + 2, dtype=torch.float64)
    weight = torch.ones_like(i)
    weight[-1] = q - whole
    terms = ((m - i + 1) / 2).digamma() - ((m - p - i + 1) / 2).digamma()
    return 0.5 * float((weight * terms).sum())


def _indicators(y: Tensor, counts: Tensor) -> _Basis:
    """An orthonormal basis (N, K - 1) of the class indicators less their mean: exact, with nothing to shrink."""
    columns = torch.nn.functional.one_hot(y).double() / counts.double().sqrt()
    mean = (counts.double() / len(y)).sqrt()  # of unit length in these coordinates
    # Householder reflection that takes the mean to the first coordinate, which is dropped.
    v = mean.clone()
    v[0] += 1.0
    turned = columns - (columns @ v)[:, None] * v * (2.0 / (v @ v))
    return _Basis(turned[:, 1:], float(len(counts) - 1), 0.0)


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
