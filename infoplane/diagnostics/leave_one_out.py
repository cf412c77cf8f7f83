"""Bounds of I(X;T) from both sides where the noise of T is known, for X from its law."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist
from scipy.special import logsumexp

from infoplane.core.brief import Brief
from infoplane.core.units import BIT, BITS_PER_NAT
from infoplane.diagnostics._place import Entry, Place, around, digest, mean_and_half, rows, units_float64
from infoplane.results import Row

ESTIMATOR = "leave-one-out"
ROWS_AT_ONCE = 1000
NEAR_CEILING = 0.9
_STREAM = 1_000_003
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class LeaveOneOut(Brief):
    """A lower and an upper bound of I(X;T) in bits, each in expectation.

    Attributes
    ----------
    lower, upper : float
    lower_half, upper_half : float
        Half of the 95 % interval of each, of the scatter between rows.
    flags : tuple of str
        `saturated` where the lower one is above .9 log2 N, which it cannot pass.
    """

    lower: float
    upper: float
    lower_half: float
    upper_half: float
    flags: tuple[str, ...]
    n_samples: int
    n_units: int
    config: dict[str, Any]
    source: str

    def rows(self, where: Place) -> list[Row]:
        """Rows "I(X;T) leave-one-out" and "I(X;T) leave-one-out lower", of the estimand noisy-population."""
        name = "I(X;T) leave-one-out"
        entries = [
            Entry(name, self.upper, BIT, *around(self.upper, self.upper_half), bound="upper"),
            Entry(
                f"{name} lower",
                self.lower,
                BIT,
                *around(self.lower, self.lower_half),
                bound="lower",
                ceiling=math.log2(self.n_samples),
                flags=self.flags,
            ),
        ]
        place = replace(where, estimand="noisy-population")
        size = {"n_samples": self.n_samples, "n_units": self.n_units}
        return rows(place, ESTIMATOR, self.config, entries, source=self.source, **size)


def leave_one_out(t: npt.ArrayLike, std: npt.ArrayLike, *, seed: int = 0) -> LeaveOneOut:
    """I(X;T+Z) from both sides, Z Gaussian of known std: the own input among the others, and left out.

    With one noisy value z_i of each row, the mean over i of

        log p(z_i|x_i) - log 1/(N - 1) sum_{j != i} p(z_i|x_j)

    is an upper bound, and with j = i in the sum and N in place of N - 1 a lower one, at most log2 N. Where both agree,
    the rows are dense enough for the noise, and `noise` may be trusted beyond the probe.

    How it misleads: they are bounds in expectation over rows and noise, so of one sample either may lie on the wrong
    side by its error. Both need the true law of T given X: a std that the network does not have is an answer to another
    question, and dropout or multiplicative noise has another law. The gap opens with the information: of 1,000 normal
    rows 1.6 nats in 2 units are held to .01, 6.2 nats in 5 units between 5.6 and 7.2. Rows have to be independent draws
    of X: an input that stands twice draws the upper one down.

    Parameters
    ----------
    t : (N, units) array
        Values before their noise, as a recorder keeps them.
    std : float or (units,)
        Of the additive noise.
    seed : int
        Of the noise that is drawn.

    Raises
    ------
    ValueError
        For fewer than three rows, or a std that is not positive.

    References
    ----------
    Poole, Ozair, van den Oord, Alemi and Tucker, "On variational bounds of mutual information", 2019.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(2000, 1))
    >>> found = leave_one_out(x, 0.5)                    # half of log2(1 + 4) = 1.161 bits
    >>> abs(found.lower - 1.161) < 0.05, abs(found.upper - 1.161) < 0.05
    (True, True)
    """
    units = units_float64(t, "t")
    wide = np.broadcast_to(np.asarray(std, np.float64), units.shape[1:])
    if len(units) < 3 or not ((wide > 0) & np.isfinite(wide)).all():
        raise ValueError(f"std must be positive and t have 3 rows or more, got std {std!r} and {len(units)} rows")
    # A stream of its own: inputs that were drawn from the same small seed would be their own noise.
    rng = np.random.default_rng([_STREAM, seed])
    terms = np.hstack(list(_terms(units / wide, rng))) * BITS_PER_NAT
    (lower, lower_half), (upper, upper_half) = map(mean_and_half, terms)
    return LeaveOneOut(
        lower=lower,
        upper=upper,
        lower_half=lower_half,
        upper_half=upper_half,
        flags=("saturated",) * (lower > NEAR_CEILING * math.log2(len(units))),
        n_samples=len(units),
        n_units=units.shape[1],
        config={"seed": seed, "std": np.asarray(std, np.float64).tolist()},
        source=digest(units),
    )


def _terms(scaled: FloatArray, rng: np.random.Generator) -> Iterator[FloatArray]:
    """Both terms (2, rows) in nats of some rows at a time, for noise of std 1."""
    count = len(scaled)
    for start in range(0, count, ROWS_AT_ONCE):
        own = np.arange(start, min(start + ROWS_AT_ONCE, count))
        noise = rng.normal(size=(len(own), scaled.shape[1]))
        logs = -0.5 * cdist(scaled[own] + noise, scaled, "sqeuclidean")  # (rows, N)
        at_home = logs[own - start, own].copy()
        together = logsumexp(logs, axis=1) - math.log(count)
        logs[own - start, own] = -np.inf
        yield np.stack([at_home - together, at_home - logsumexp(logs, axis=1) + math.log(count - 1)])
