"""A bound on the generalisation gap from losses alone: which of two examples was trained on?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from infoplane.core.records import FloatArray, IntArray
from infoplane.core.units import BIT, BITS_PER_NAT
from infoplane.diagnostics._codes import codes, information_bits, joint_counts
from infoplane.diagnostics._place import Entry, Measured, around, digest, finite_float64, mean_and_half, raised
from infoplane.diagnostics._samples import LEAST_DRAWS, null_entry

LEAST_TRAININGS = 30
"""Trainings below which the result is flagged `few_samples`."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Supersample(Measured):
    """A bound on the generalisation gap, and the gap itself.

    Its rows: "supersample information", "gap bound", its " null", "generalisation gap", and "interpolating test error"
    where it has a meaning.

    Attributes
    ----------
    information : (n,) float64
        I(difference of losses; selector) of each pair in bits, with Miller and Madow's correction; one number (1,) for
        all pairs together where they were pooled. The selector says which of the pair was trained on.
    bound : float
        Mean over pairs of sqrt(2 I), I in nats, which the expected gap does not exceed.
    null : (null_draws,) float64
        The bound where the selectors are shuffled over the trainings.
    gap, gap_half : float
        Mean loss of the examples left out minus that of the examples trained on, and half the width of its 95 %
        interval over trainings.
    interpolating : bool
        Whether every training loss is 0 and every loss 0 or 1: the test error then is the mean information in bits.
    flags : tuple of str
        `few_samples` for fewer than 30 trainings.
    n_samples : int
        Trainings.
    """

    estimator: ClassVar[str] = "supersample"

    information: FloatArray
    bound: float
    null: FloatArray
    gap: float
    gap_half: float
    interpolating: bool
    n_trainings: int

    def _entries(self) -> list[Entry]:
        """Return the information, the bound with its null, the gap, and the test error if training losses are all 0."""
        bits, few = float(self.information.mean()), self.flags
        entries = [
            Entry("supersample information", bits, BIT, flags=few),
            Entry("gap bound", self.bound, "loss", bound="upper", flags=few),
            null_entry("gap bound", self.null, "loss"),
            Entry("generalisation gap", self.gap, "loss", *around(self.gap, self.gap_half)),
        ]
        if self.interpolating:
            entries.append(Entry("interpolating test error", bits, "error", flags=few))
        return entries


def supersample_bound(
    losses: npt.ArrayLike,
    trained_on: npt.ArrayLike,
    *,
    levels: int | None = None,
    pooled: bool = False,
    null_draws: int = 20,
    seed: int = 0,
) -> Supersample:
    """Bound the generalisation gap by what the losses of two examples say about which of them was trained on.

    In every training a coin decides for each of n pairs which of its two examples is trained on.

    How it misleads: the bound holds for the expectation over trainings, so it needs many of them (at least 30, flag
    `few_samples`), and the plug-in information of few trainings is high by chance: see the null. A bound is not the
    gap, which stands beside it.

    Parameters
    ----------
    losses : (trainings, n, 2) array
        Loss of both examples of each pair after training, from 0 to 1, such as the 0-1 error.
    trained_on : (trainings, n) array
        0 or 1: which example of the pair was trained on.
    levels : int, optional
        Round losses to this many values from 0 to 1. The bound is then one on the gap of the rounded losses, which
        differs from the gap by at most 1 / (levels - 1). By default losses must be 0 or 1.
    pooled : bool
        One information of all pairs together. For pairs that are not exchangeable it is too low.
    null_draws : int
        Shuffles of the selectors, at least 5.
    seed : int
        Seeds the shuffles.

    Raises
    ------
    ValueError
        For fewer than two trainings, losses outside 0 to 1, or, without `levels`, losses other than 0 and 1.

    References
    ----------
    Wang and Mao, "Tighter information-theoretic generalization bounds from supersamples", 2023.
    """
    given, selectors = finite_float64(losses, "losses has", "values"), np.asarray(trained_on)
    if given.ndim != 3 or given.shape[2] != 2 or len(given) < 2 or not given.shape[1]:
        raise ValueError(f"losses must have shape (trainings, pairs, 2) of at least 2 trainings, got {given.shape}")
    if selectors.shape != given.shape[:2]:
        raise ValueError(f"trained_on must hold 0 and 1 in the shape {given.shape[:2]}, got {selectors.shape}")
    if not (binary := np.isin(selectors, (0, 1))).all():
        raise ValueError(f"trained_on must hold 0 and 1, got {selectors[~binary][0]}")
    if null_draws < LEAST_DRAWS:
        raise ValueError(f"null_draws must be at least {LEAST_DRAWS}, got {null_draws}")
    rounded, selectors = _rounded(given, levels), selectors.astype(np.int64)
    difference = rounded[:, :, 1] - rounded[:, :, 0]
    rng = np.random.default_rng(seed)
    information = _information(difference, selectors, pooled)
    null = [_bound(_information(difference, rng.permuted(selectors, axis=0), pooled)) for _ in range(null_draws)]
    trained = np.take_along_axis(given, selectors[:, :, None], axis=2)[:, :, 0]
    gaps = (given.sum(axis=2) - 2 * trained).mean(axis=1)  # the example left out minus the one trained on
    gap, half = mean_and_half(gaps)
    return Supersample(
        information=information,
        bound=_bound(information),
        null=np.array(null),
        gap=gap,
        gap_half=half,
        interpolating=not trained.any() and bool(np.isin(given, (0, 1)).all()),
        n_trainings=len(given),
        flags=raised(few_samples=len(given) < LEAST_TRAININGS),
        n_samples=len(given),
        config={"levels": levels, "null_draws": null_draws, "pooled": pooled, "seed": seed},
        source=digest(given, selectors),
    )


def _rounded(losses: FloatArray, levels: int | None) -> IntArray:
    """Round losses to whole numbers from 0 to levels - 1; to 0 and 1 without levels.

    ValueError for losses outside 0 to 1 and, without levels, for those between.
    """
    if levels is not None and levels < 2:
        raise ValueError(f"levels must be at least 2, got {levels}")
    if losses.min() < 0 or losses.max() > 1:
        raise ValueError(f"losses must lie in 0 to 1, got {losses.min():.6g} to {losses.max():.6g}; clip or scale them")
    if levels is None and not np.isin(losses, (0, 1)).all():
        raise ValueError("losses must be 0 or 1; for others give levels=3 or more, to which they are rounded")
    return np.asarray(np.rint(losses * ((levels or 2) - 1)), dtype=np.int64)


def _information(difference: IntArray, selectors: IntArray, pooled: bool) -> FloatArray:
    """Return the bits between loss difference and selector: (n,) for each pair, or (1,) for all together."""
    # (trainings, n) become one row for each pair, or a single row.
    by_pair = ((a.reshape(1, -1) if pooled else a.T) for a in (difference, selectors))
    return np.array([_corrected_bits(*pair) for pair in zip(*by_pair, strict=True)])


def _corrected_bits(difference: IntArray, selectors: IntArray) -> float:
    """Return plug-in information in bits less its bias by Miller and Madow, (cells - rows - columns + 1) / 2N nats."""
    # The table has a row for each difference that occurs: with many levels most do not.
    table = joint_counts(codes(difference, "a difference"), selectors)
    filled = table > 0
    excess_cells = int(filled.sum() - filled.any(axis=0).sum() - filled.any(axis=1).sum()) + 1
    return information_bits(table) - excess_cells / (2 * len(selectors)) * BITS_PER_NAT


def _bound(bits: FloatArray) -> float:
    """Return the mean over pairs of sqrt(2 I), I in nats."""
    # A negative estimate has no root; taken as 0 it can only raise the mean, so that it stays a bound.
    return float(np.sqrt(2 * np.maximum(bits, 0) / BITS_PER_NAT).mean())
