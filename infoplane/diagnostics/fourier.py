"""Single-frequency units: how much of a unit's input weights over a cyclic group is one Fourier mode."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from infoplane.core.records import FloatArray, IntArray
from infoplane.diagnostics._place import Entry, Measured, digest, finite_float64, raised, rounding, scaled


@dataclass(frozen=True, eq=False, kw_only=True)
class FourierFeatures(Measured):
    """Frequencies in the input weights of each unit.

    Its rows: "median top-frequency share" and "frequencies used".

    Attributes
    ----------
    power : (units, period // 2) float64
        Share of the power that varies with the input in frequency 1, 2, ...; NaN for a silent unit.
    share : (units,) float64
        The largest of these shares.
    frequency : (units,) int64
        The frequency that has it; 0 for a silent unit.
    median_share : float
        Median over the units that are not silent; NaN where all are.
    frequencies_used : float
        2^H of the histogram of `frequency`: an effective number of frequencies.
    silent : int
        Units whose weights vary by no more than the rounding error of the largest weights.
    flags : tuple of str
        `degenerate` where all units are silent.
    """

    estimator: ClassVar[str] = "fourier"

    period: int
    power: FloatArray
    share: FloatArray
    frequency: IntArray
    median_share: float
    frequencies_used: float
    silent: int

    def _entries(self) -> list[Entry]:
        """Return the median share of a unit's strongest frequency, and how many frequencies the units use."""
        most, flags = float(self.period // 2), self.flags
        return [
            Entry("median top-frequency share", self.median_share, "share", ceiling=1.0, flags=flags),
            Entry("frequencies used", self.frequencies_used, "frequencies", ceiling=most, flags=flags),
        ]


def fourier_features(weight: npt.ArrayLike, period: int) -> FourierFeatures:
    """Share of each unit's input power in its strongest frequency, for one-hot inputs of a cyclic group.

    The weights of a unit are one function on Z_period for each operand; powers are summed over the operands, and the
    constant part is left out. In networks that have grokked modular addition each unit has one frequency.

    How it misleads: the top share is never zero. With H_K = 1 + 1/2 + ... + 1/K, white weights of one operand have
    H_K / K on average for odd period and K = (period - 1) / 2, which is 0.22 at period 31; summing over two operands
    makes it less. A unit with hardly any weight counts as much as any other. That units have single frequencies does
    not say that the network uses them to add.

    Parameters
    ----------
    weight : (units, operands * period) array
        Weights of the first layer, with one block of columns for each one-hot operand.
    period : int
        Order of the group, at least 3.

    Raises
    ------
    ValueError
        For another shape, or entries that are not finite.

    References
    ----------
    Nanda et al., "Progress measures for grokking via mechanistic interpretability", 2023.
    He, Wang, Chen and Yang, "On the mechanism and dynamics of modular addition: Fourier features, lottery ticket, and
    grokking", 2026.

    Examples
    --------
    >>> angle = 2 * np.pi * np.arange(7) / 7
    >>> found = fourier_features([np.cos(2 * angle), 1 + np.cos(angle) + np.cos(3 * angle)], 7)
    >>> found.frequency.tolist()[0], found.share.round(6).tolist()
    (2, [1.0, 0.5])
    """
    raw = np.asarray(weight)
    if period < 3:
        raise ValueError(f"period must be at least 3, got {period}")
    if raw.ndim != 2 or raw.size == 0 or raw.shape[1] % period:
        raise ValueError(f"weight must have shape (units, operands * {period}), got {raw.shape}")
    w = scaled(finite_float64(raw, "weight has")).reshape(len(raw), -1, period)
    power = np.square(np.abs(np.fft.rfft(w, axis=2))).sum(1)[:, 1:]  # (units, period // 2)
    # A real signal has each frequency twice, as k and -k, but that of half the period once.
    power[:, : (period - 1) // 2] *= 2
    total = power.sum(1)
    # The largest weight is 1 here: less power than this is the rounding of the given numbers.
    silent = total <= w.shape[1] * (period * rounding(raw)) ** 2
    shares = np.where(silent[:, None], math.nan, power / np.where(silent, 1.0, total)[:, None])
    frequency = np.where(silent, 0, power.argmax(1) + 1)
    share = shares.max(1)
    all_silent = bool(silent.all())
    return FourierFeatures(
        period=period,
        power=shares,
        share=share,
        frequency=frequency,
        median_share=math.nan if all_silent else float(np.median(share[~silent])),
        frequencies_used=_effective_number(frequency[~silent]),
        silent=int(silent.sum()),
        flags=raised(degenerate=all_silent),
        n_units=len(raw),
        config={"period": period},
        source=digest(raw),
    )


def _effective_number(values: IntArray) -> float:
    """Return how many different values there are effectively: 2^H of their histogram; NaN without values."""
    counts = np.unique(values, return_counts=True)[1]
    share = counts / counts.sum()
    return float(np.exp2(-(share * np.log2(share)).sum())) if len(share) else math.nan
