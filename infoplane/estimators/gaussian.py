"""Information of the Gaussian with the same covariance: shrinkage canonical correlations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from infoplane.core.units import BITS_PER_NAT
from infoplane.estimators._canonical import (
    LEAST_SAMPLES,
    LEAST_SHRINKAGE,
    TEST_ROWS,
    Canonical,
    Shrinkage,
    Side,
    canonical,
    canonical_nats,
    class_basis,
    classes_off_ground,
    independent_nats,
    pairs_off_ground,
    side,
    white_basis,
)
from infoplane.estimators._checks import repeated_entropy_nats
from infoplane.estimators._driver import Given, Method, Number, Problem, report
from infoplane.estimators._labels import entropy_of_counts
from infoplane.estimators._protocol import Quantity, only_values
from infoplane.estimators._registry import register
from infoplane.estimators._scaling import zscore
from infoplane.estimators._settings import Domain, setting

STRONG, HIDDEN = 0.9, 0.1
"""Correlation above which one is strong, and nats of strong ones that shrinkage may hide."""
SINGULAR = 1e-9
"""1 - rho^2 from which T and Y are functions of each other: 10 nats in one direction."""


@register
@dataclass(frozen=True, kw_only=True)
class Gaussian(Method):
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
    had to be shrunk, or where it hides more than 0.1 nat of correlations above 0.9 (one pair of units cannot show more
    than about 6.5 nats).

    Classes enter as indicator columns. For Gaussian classes of one covariance the value bounds I(T;Y) from
    above, since no density has more entropy than the Gaussian of its covariance; it grows without end
    as classes move apart.

    **Its own ground**: jointly Gaussian pairs, also few latents turned into many units, and Gaussian classes of one
    covariance that overlap, about one standard deviation apart. `out_of_domain` says that the data have left it:

    - a canonical correlation is 1, or the value is above H(Y), or above H(T) or H(Y) of values that mostly repeat;
    - *pairs*, directions fitted on some rows, at most 700 others looked at: the log-mean of the fitted density ratio
      over pairs that do not belong together, 0 for a true density, is above 0.5 nat (overshoot: curved layers, heavy
      tails); or the `knn` information between the three leading canonical u and what is left of v beside them, 0 for
      Gaussians, is above 0.06 nat and above 1.1 / sqrt(rows);
    - *classes*, likewise: the mixture of the fitted classes lies more than 0.15 nat (KL) from one Gaussian, which is
      by how much the value is then too high;
    - the `knn` information of both in three principal components (classes: also in canonical and in spread
      coordinates, the length and the two directions whose variance differs most between classes) is more than
      0.15 nat above the value.

    So bounded pairs, ratings and heavy tails are often flagged though the value is right: the price. The checks take
    20 to 70 ms a snapshot (2,000 samples, one core): three to five times the value's own time at 128 units, about
    that time from 500 on. Within `+null` and `+interval` they run once. Below 64 samples they do not run:
    `few_samples`. They miss heavy-tailed or unequal classes in eight units and more (0.4 nat too low), bounded pairs
    of 32 units and more (0.3 to 0.6 too low), parity of two among 20 units and more from fewer than about 60 samples a
    unit, and other dependence that only shows in many units at once.

    I(X;T) is not offered: for a deterministic layer it would measure how far the layer is from linear, and call
    it bits.

    :measures: canonical correlations with shrinkage
    :assumes: (T, Y) jointly Gaussian
    :errs: blind to what is not linear: down there, up for separate classes and curved layers
    :cost: N D² + D³
    :memory: N D + D²
    :gives: I(T;Y)
    :unit: bit
    :ceiling: H(Y)
    :source: Gelfand and Yaglom 1957

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
    guarantees: ClassVar[frozenset[str]] = frozenset({"blocks", "sample_order", "unit_order", "constant_zero"})
    min_samples = 4

    shrinkage: Shrinkage = setting("auto", Domain("'auto' or between 0 and 1", 0, 1, named=("auto",)))
    corrected: bool = True

    def bytes_per_snapshot(self, samples: int, units: int) -> int:
        """Return the bytes of the scaled snapshot and its parts, Gram matrices, eigenvectors and ratios of pairs."""
        return 64 * samples * units + 64 * min(samples, units) ** 2 + 32 * min(samples // 2, TEST_ROWS) ** 2

    def start(self, given: Given) -> _Correlations:
        """Return the problem of one call, with white directions of the labels or targets."""
        return _Correlations(self, given)


class _Correlations(Problem):
    """Canonical correlations of each snapshot with one Y."""

    config: Gaussian

    def __init__(self, config: Gaussian, given: Given) -> None:
        """Find the white directions of Y (uncorrelated, of variance 1), and its entropy."""
        super().__init__(config, given)
        self.side: Side | None = None  # only for real targets
        self.ceiling: Tensor | None = None  # H(Y) in bits, only for classes
        # h_y is H(Y) in nats, infinite where most targets differ.
        if self.continuous:
            columns = self.y.reshape(len(self.y), -1)
            z = zscore(columns)
            self.basis = white_basis(z, config.shrinkage)
            self.h_y = repeated_entropy_nats(columns)
            self.side = side(columns, z, self.basis)
        else:
            counts = torch.bincount(self.y)
            self.basis = class_basis(self.y, counts)
            self.ceiling = entropy_of_counts(counts)
            self.h_y = float(self.ceiling) / BITS_PER_NAT

    def finish(self, found: dict[str, Tensor]) -> dict[str, Quantity]:
        """Return I(T;Y) in bits with its flags, and the shrinkage of T."""
        single = self.side is None and self.basis.size == 0  # one class leaves no direction
        flags: dict[str, Tensor | bool] = {name: found[name] for name in ("degenerate", "unreliable", "out_of_domain")}
        flags |= {"degenerate": found["degenerate"] & (not single), "few_samples": len(self.y) < LEAST_SAMPLES}
        if self.ceiling is not None:
            flags["single_class"] = single
        out = report("I(T;Y)", found["nats"] * BITS_PER_NAT, ceiling=self.ceiling, flags=flags)
        return out | report("shrinkage", found["shrinkage"], unit="share")

    def snapshot(self, layer: Tensor) -> dict[str, Number]:
        """Return I(T;Y) in nats, the shrinkage of T and flags, for one layer (N, U)."""
        z = zscore(layer)
        basis = white_basis(z, self.config.shrinkage)
        # Shrunk by more than the least share: more directions than N / 10.
        crowded = self.config.shrinkage == "auto" and basis.shrinkage > 2 * LEAST_SHRINKAGE
        out: dict[str, Number] = {"shrinkage": basis.shrinkage, "unreliable": crowded, "out_of_domain": False}
        if basis.size == 0 or self.basis.size == 0:  # T or Y is constant
            return out | {"nats": z.new_zeros(()), "degenerate": True}
        found = canonical(basis, self.basis)
        nats = canonical_nats(found.correlations)
        if self.config.corrected:
            nats = nats - independent_nats(basis.size, self.basis.size, len(z))
        out["unreliable"] = crowded or shrunk_away(found) > HIDDEN
        out["out_of_domain"] = self._leaves_ground(side(layer, z, basis), found, float(nats))
        return out | {"nats": nats, "degenerate": False}

    def _leaves_ground(self, t: Side, found: Canonical, nats: float) -> bool:
        """Return whether the value is not to be trusted: more than it can be, or T and Y are not jointly Gaussian."""
        # With a correlation of 1 the information is infinite; with more than the entropy of a side it is none.
        if bool((1 - strong_unshrunk(found).square() < SINGULAR).any()):
            return True
        if nats > min(self.h_y, repeated_entropy_nats(t.raw)):
            return True
        if len(t.z) < LEAST_SAMPLES or only_values():
            return False
        if self.side is None:
            return classes_off_ground(t, self.y, nats, self.h_y, self.config.shrinkage)
        return pairs_off_ground(t, self.side, nats, self.config.shrinkage)


def strong_unshrunk(found: Canonical) -> Tensor:
    """Return the canonical correlations above 0.9, divided by `found.most`, the largest that shrinkage allows.

    Lower ones are left out: in directions of small variance chance and dependence look alike.
    """
    strong = found.correlations > STRONG
    return (found.correlations[strong] / found.most[strong]).clamp(max=1.0)


def shrunk_away(found: Canonical) -> float:
    """Return the nats that shrinkage hides: those of strong correlations without it, less those of the same with it."""
    shown = found.correlations[found.correlations > STRONG]
    return float(canonical_nats(strong_unshrunk(found)) - canonical_nats(shown))
