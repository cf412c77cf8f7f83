"""Curvature of a sequence along its tokens: by how much its path turns from one token to the next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from infoplane.core.records import FloatArray
from infoplane.diagnostics._place import Entry, Measured, around, digest, finite_float64, mean_and_half, raised, scaled


@dataclass(frozen=True, eq=False, kw_only=True)
class Curvature(Measured):
    """Angles between consecutive steps of each sequence.

    Its rows: "curvature" in degrees, and "angles left out".

    Attributes
    ----------
    each : (N,) float64
        Mean angle of each sequence in degrees; NaN where it has none.
    mean, low, high : float
        Mean over sequences and its 95 % interval.
    angles : int
        How many angles there are.
    dropped : int
        Angles between three tokens, none of them padding, that do not exist since two neighbours have equal vectors.
    flags : tuple of str
        `degenerate` where there is no angle, `ties` where some were left out.
    n_samples : int
        Sequences that have an angle.
    """

    estimator: ClassVar[str] = "curvature"

    each: FloatArray
    mean: float
    low: float
    high: float
    angles: int
    dropped: int

    def _entries(self) -> list[Entry]:
        """Return the mean angle with its interval, and how many angles were left out."""
        return [
            Entry("curvature", self.mean, "degrees", self.low, self.high, ceiling=180.0, flags=self.flags),
            Entry("angles left out", float(self.dropped), "angles"),
        ]


def curvature(z: npt.ArrayLike, mask: npt.ArrayLike | None = None) -> Curvature:
    """Mean angle between consecutive steps v_k = z_{k+1} - z_k of a sequence of token vectors.

    A straight path has 0 degrees and a random walk in many units 90. Tokens that know nothing of their neighbours have
    120, since the step to a token and the step from it share that token: 90 is no sign of chance, nor 120 of order.

    How it misleads: padding counts as tokens unless it is masked. Where neighbouring tokens have equal vectors there is
    no step between them; these angles are left out and counted (flag `ties`). Position embeddings bend all sequences
    in the same way.

    Parameters
    ----------
    z : (N, tokens, D) array
        At least three tokens.
    mask : (N, tokens) array, optional
        True (1) where a token is no padding: the tokenizer's attention mask.

    Raises
    ------
    ValueError
        For other shapes, or values that are not finite.

    References
    ----------
    Henaff, Goris and Simoncelli, "Perceptual straightening of natural videos", 2019; Skean et al., "Layer by layer:
    uncovering hidden representations in language models", 2025.

    Examples
    --------
    >>> turn = 2 * np.pi * np.arange(7) / 6                                       # corners of a hexagon
    >>> round(curvature(np.stack([np.cos(turn), np.sin(turn)], 1)[None]).mean, 6)
    60.0
    """
    a = finite_float64(z, "z has", "values")
    if a.ndim != 3 or a.shape[1] < 3 or a.size == 0:
        raise ValueError(f"z must have shape (samples, tokens, units) with at least 3 tokens, got {a.shape}")
    real = np.ones(a.shape[:2], np.bool_) if mask is None else np.asarray(mask).astype(np.bool_)
    if real.shape != a.shape[:2]:
        raise ValueError(f"mask must have shape (samples, tokens) {a.shape[:2]}, got {real.shape}")
    steps = np.diff(scaled(a), axis=1)  # (N, tokens - 1, D)
    length = np.linalg.norm(steps, axis=2)
    moved = length > 1e-12
    unit = steps / np.where(moved, length, 1.0)[..., None]
    # Each angle needs three tokens that are no padding, and two steps that are not 0.
    three = real[:, :-2] & real[:, 1:-1] & real[:, 2:]
    known = three & moved[:, :-1] & moved[:, 1:]
    before, after = unit[:, :-1], unit[:, 1:]
    # tan(angle / 2) = |u - v| / |u + v| for unit vectors: exact at 0 and 180, where the arc cosine loses half of its
    # digits.
    half = np.arctan2(np.linalg.norm(before - after, axis=2), np.linalg.norm(before + after, axis=2))
    counts = known.sum(axis=1)
    total = np.where(known, np.degrees(2.0 * half), 0.0).sum(axis=1)
    each = np.where(counts > 0, total / np.maximum(counts, 1), np.nan)
    mean, half_width = mean_and_half(each[counts > 0])
    low, high = around(mean, half_width)
    angles, dropped = int(counts.sum()), int((three & ~known).sum())
    return Curvature(
        each=each,
        mean=mean,
        low=low,
        high=high,
        angles=angles,
        dropped=dropped,
        flags=raised(degenerate=not angles, ties=dropped),
        n_samples=int((counts > 0).sum()),
        n_units=a.shape[2],
        source=digest(a, real),
    )
