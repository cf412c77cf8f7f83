"""Do two networks have the same units? Matching of units by correlation or information on shared inputs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from infoplane.core.records import FloatArray, IntArray
from infoplane.core.units import BITS_PER_NAT
from infoplane.diagnostics._place import Entry, Measured, digest, raised, scaled, units_float64


@dataclass(frozen=True, eq=False, kw_only=True)
class Matching(Measured):
    """How the units of layer A match those of layer B.

    Its rows: "matched units", "best units", "chance best units" and "span".

    Attributes
    ----------
    similarity : (A, B) float64
        Absolute correlation, or information in bits, of every pair of units.
    pairs : (P, 2) int64
        Unit of A and unit of B for each pair of the one-to-one matching with the largest total similarity,
        P = min(A, B).
    matched : (P,) float64
        Similarities of these pairs.
    best : (A,) float64
        Similarity of each unit of A to its best partner, which several units may share (semi-matching).
    chance : float
        Mean of `best` when the samples of B are shuffled: what the search over B units gives by itself.
    span : float
        Mean share of the variance of B's units that all of A predicts linearly, corrected for the number of
        units; NaN unless there are more samples than units of A by two.
    measure : str
        The measure that was used.
    """

    estimator: ClassVar[str] = "unit-matching"

    similarity: FloatArray
    pairs: IntArray
    matched: FloatArray
    best: FloatArray
    chance: float
    span: float
    measure: str

    def _entries(self) -> list[Entry]:
        """Return the mean similarity of matched, of best and of shuffled units, and the span of the layers."""
        unit = "bit" if self.measure == "information" else "correlation"
        few = raised(few_samples=not math.isfinite(self.span))
        return [
            Entry("matched units", float(self.matched.mean()), unit),
            Entry("best units", float(self.best.mean()), unit),
            Entry("chance best units", self.chance, unit),
            Entry("span", self.span, "share", ceiling=1.0, flags=few),
        ]


def match_units(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    *,
    measure: Literal["correlation", "information"] = "correlation",
    n_bins: int = 10,
    seed: int = 0,
) -> Matching:
    """Match the units of two layers recorded on the same inputs in the same order.

    Two trainings of one architecture share subspaces more than single units: `span` is then high while `matched` is
    low. A unit that is constant matches nothing (0).

    How it misleads: the search for the best partner lifts the mean over many units, so read it against `chance`.

    Parameters
    ----------
    a, b : (N, A), (N, B) array
        Activations; further axes are flattened.
    measure : "correlation" or "information"
        Absolute correlation, or plug-in information of the binned units in bits, which is too high by about
        (n_bins - 1)^2 / (2 N ln 2).
    n_bins : int
        Equal-width bins of each unit, for "information"; at least 2.
    seed : int
        Seeds the shuffle behind `chance`.

    Raises
    ------
    ValueError
        For different numbers of samples, fewer than two, non-finite values, or an unknown measure.

    References
    ----------
    Li, Yosinski, Clune, Lipson and Hopcroft, "Convergent learning: do different neural networks learn the same
    representations?", 2016.

    Examples
    --------
    >>> a = np.random.default_rng(0).normal(size=(100, 5))
    >>> match_units(a, a[:, [3, 1, 4, 0, 2]]).pairs[:, 1].tolist()
    [3, 1, 4, 0, 2]
    """
    if measure not in ("correlation", "information"):
        raise ValueError(f"measure must be 'correlation' or 'information', got {measure!r}")
    if n_bins < 2:
        raise ValueError(f"n_bins must be at least 2, got {n_bins}")
    left, right = _same_samples(a, b)
    standardized = compared = _standardized(left), _standardized(right)
    compare = _correlation
    if measure == "information":
        compared = _one_hot(left, n_bins), _one_hot(right, n_bins)
        compare = _information
    similarity = compare(*compared)
    of_a, of_b = linear_sum_assignment(-similarity)  # the assignment with the least cost
    shuffled = np.random.default_rng(seed).permutation(len(right))
    return Matching(
        similarity=similarity,
        pairs=np.stack([of_a, of_b], axis=1).astype(np.int64),
        matched=similarity[of_a, of_b],
        best=similarity.max(axis=1),
        chance=float(compare(compared[0], compared[1][shuffled]).max(axis=1).mean()),
        span=_span(*standardized),
        measure=measure,
        n_samples=len(left),
        n_units=left.shape[1],
        config={"measure": measure, "n_bins": n_bins if measure == "information" else None, "seed": seed},
        source=digest(left, right),
    )


def _same_samples(a: npt.ArrayLike, b: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Return both layers as (N, units), checked to have the same number of samples."""
    left, right = units_float64(a, "a"), units_float64(b, "b")
    if len(left) != len(right):
        raise ValueError(f"both layers must see the same samples, got {len(left)} and {len(right)}")
    if len(left) < 2:
        raise ValueError(f"unit matching needs at least 2 samples, got {len(left)}")
    return left, right


def _standardized(a: FloatArray) -> FloatArray:
    """Return the columns of (N, units) with mean 0 and length 1; all 0 for a unit that is constant."""
    z = scaled(a, axis=0)
    z = z - z.mean(axis=0)
    length = np.linalg.norm(z, axis=0)
    varies = length > 1e-12 * math.sqrt(len(a))
    return np.where(varies, z / np.where(varies, length, 1.0), 0.0)


def _correlation(a: FloatArray, b: FloatArray) -> FloatArray:
    """Return absolute correlations (A, B) of standardized columns (N, A) and (N, B): their inner products."""
    return np.asarray(np.abs(a.T @ b))


def _one_hot(a: FloatArray, n_bins: int) -> FloatArray:
    """Return (N, units, n_bins): 1 for the bin that holds the value, with equal-width bins over each unit's range."""
    low, high = a.min(axis=0), a.max(axis=0)
    spread = np.where(high > low, high - low, 1.0)
    cell = np.minimum((n_bins * ((a - low) / spread)).astype(np.int64), n_bins - 1)  # the maximum is in the last bin
    return np.asarray(np.eye(n_bins)[cell])


def _information(a: FloatArray, b: FloatArray) -> FloatArray:
    """Return plug-in information (A, B) in bits from one-hot cells (N, A, bins) and (N, B, bins)."""
    samples, units, bins = a.shape
    joint = (a.reshape(samples, -1).T @ b.reshape(samples, -1)).reshape(units, bins, -1, bins) / samples
    p, q = joint.sum(axis=3, keepdims=True), joint.sum(axis=1, keepdims=True)
    ratio = np.divide(joint, p * q, out=np.ones_like(joint), where=joint > 0)
    return np.asarray((joint * np.log(ratio)).sum(axis=(1, 3)) * BITS_PER_NAT)


def _span(a: FloatArray, b: FloatArray) -> float:
    """Return the mean adjusted R2 of linear fits of columns of b by all columns of a; constant ones do not count."""
    a, b = a[:, a.any(axis=0)], b[:, b.any(axis=0)]
    samples, rank = len(a), int(np.linalg.matrix_rank(a)) if a.size else 0
    if samples <= rank + 2 or not b.size:  # too few samples for the correction, or nothing to predict
        return math.nan
    if rank == 0:  # nothing to predict from
        return 0.0
    # R2 of a column is the squared length of its projection, since columns have length 1 or are 0.
    basis = np.linalg.svd(a, full_matrices=False)[0][:, :rank]
    explained = np.square(basis.T @ b).sum(axis=0)
    return float((1.0 - (1.0 - explained) * (samples - 1) / (samples - rank - 1)).mean())
