"""Measures of the weights of a layer alone: condition number, volume, entropy of the output for Gaussian inputs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from infoplane.core.records import FloatArray
from infoplane.core.units import BIT, BITS_PER_NAT
from infoplane.diagnostics._place import Entry, Measured, digest, finite_float64, raised, rounding


@dataclass(frozen=True, eq=False, kw_only=True)
class WeightSpectrum(Measured):
    """Singular values of a weight matrix and what follows from them.

    Its rows: "condition number", "weight volume", "weight rank", and "h(WX), X standard normal" where W has no more
    rows than columns.

    Attributes
    ----------
    singular_values : (min(out, in),) float64
        In falling order.
    condition : float
        Largest over smallest; infinite for a matrix of lower rank.
    log2_volume : float
        Sum of log2 of the singular values: by how much the map stretches volume, on log scale; -infinity at lower rank.
    output_entropy : float
        Differential entropy in bits of W x for x ~ N(0, I); NaN where W has more rows than columns or lower rank, since
        W x then has no density.
    rank : int
        Singular values above max(out, in) eps times the largest, with the eps of the weights' own type.
    shape : (int, int)
        Rows and columns of the matrix.
    flags : tuple of str
        `degenerate` for lower rank, which leaves the values of all rows but that of the rank empty.
    """

    estimator: ClassVar[str] = "weights"

    singular_values: FloatArray
    condition: float
    log2_volume: float
    output_entropy: float
    rank: int
    shape: tuple[int, int]

    def _entries(self) -> list[Entry]:
        """Return condition number, log volume and rank; the output entropy if there are no more outputs than inputs."""
        flags = self.flags
        entries = [
            Entry("condition number", self.condition, "1", flags=flags),
            Entry("weight volume", self.log2_volume, "log2 volume", flags=flags),
            Entry("weight rank", float(self.rank), "dimensions", flags=flags),
        ]
        if self.shape[0] <= self.shape[1]:
            entries.append(Entry("h(WX), X standard normal", self.output_entropy, BIT, flags=flags))
        return entries


def weight_spectrum(weight: npt.ArrayLike) -> WeightSpectrum:
    """Condition number and log volume of a weight matrix, and the entropy of its output for Gaussian inputs.

    How it misleads: the condition number does not change when the weights are rescaled, so it does not see growth of
    the norm. It uses no data: a high value is a hint of selective encoding, no measure of information, and one nearly
    dependent pair of rows is enough for it. The output entropy is exact for white Gaussian inputs, which hardly any
    layer but the first has.

    Parameters
    ----------
    weight : (out, in, ...) array
        Trailing axes (the taps of a convolution) are flattened into `in`.

    Raises
    ------
    ValueError
        For fewer than two axes, no entries, or entries that are not finite.

    References
    ----------
    Ludwig, "The condition number as a scale-invariant proxy for information encoding in neural units", 2025.

    Examples
    --------
    >>> found = weight_spectrum([[3.0, 0.0], [0.0, 1.0]])
    >>> found.condition, round(found.log2_volume, 6)
    (3.0, 1.584963)
    """
    raw = np.asarray(weight)
    if raw.ndim < 2 or raw.size == 0:
        raise ValueError(f"weight must have shape (out, in, ...), got {raw.shape}")
    w = finite_float64(raw, "weight has").reshape(len(raw), -1)
    s = np.asarray(np.linalg.svd(w, compute_uv=False), dtype=np.float64)
    rank = int((s > max(w.shape) * rounding(raw) * s[0]).sum())
    full = rank == len(s)
    volume = float(np.log2(s).sum()) if full else -math.inf
    out, inputs = w.shape
    # h(WX) = log2 |det WW'| / 2 + (out / 2) log2 (2 pi e), and log2 |det WW'| / 2 is the volume.
    entropy = volume + 0.5 * out * math.log(2 * math.pi * math.e) * BITS_PER_NAT if full and out <= inputs else math.nan
    return WeightSpectrum(
        singular_values=s,
        condition=float(s[0] / s[-1]) if full else math.inf,
        log2_volume=volume,
        output_entropy=entropy,
        rank=rank,
        shape=(out, inputs),
        flags=raised(degenerate=not full),
        n_units=out,
        source=digest(raw),
    )
