"""Uniformity and alignment: how evenly directions fill the sphere, and how near two views of one input are on it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from scipy.special import hyp0f1

from infoplane.core.records import FloatArray
from infoplane.diagnostics._place import Entry, Measured, digest, raised, scaled, units_float64

BLOCK = 1 << 22
"""Pairs of rows that are held in memory at a time."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Uniformity(Measured):
    """Uniformity and alignment of rows scaled to length 1.

    Its rows: "uniformity", "uniformity of a sphere", "rows without direction", and with a second view "alignment" and
    "alignment null".

    Attributes
    ----------
    uniformity : float
        log mean_{i != j} exp(-2 |z_i - z_j|^2) in nats: 0 where all rows have one direction, and the lower the more
        evenly directions are spread.
    uniform : float
        The value of evenly spread directions in D units, -4 + log 0F1(; D/2; 4): the smallest for many rows.
    alignment : float
        Mean squared distance of the two views of an input, 0 to 4; NaN without a second view.
    shuffled : float
        The same mean over all pairs of rows of the two views: the value of unrelated views.
    dropped : int
        Rows left out since they are zero in one of the views and have no direction.
    flags : tuple of str
        `out_of_domain` where rows were left out.
    """

    estimator: ClassVar[str] = "uniformity"

    uniformity: float
    uniform: float
    alignment: float
    shuffled: float
    dropped: int

    def _entries(self) -> list[Entry]:
        """Return uniformity beside that of a sphere, rows left out, and with two views alignment and its null."""
        flags = self.flags
        entries = [
            Entry("uniformity", self.uniformity, "log mean potential", ceiling=0.0, flags=flags),
            Entry("uniformity of a sphere", self.uniform, "log mean potential", ceiling=0.0),
            Entry("rows without direction", float(self.dropped), "rows"),
        ]
        if not math.isnan(self.alignment):
            below = flags + raised(below_null=self.alignment >= self.shuffled)
            entries.append(Entry("alignment", self.alignment, "squared distance", ceiling=4.0, flags=below))
            entries.append(Entry("alignment null", self.shuffled, "squared distance", ceiling=4.0, flags=flags))
        return entries


def uniformity(z: npt.ArrayLike, second: npt.ArrayLike | None = None) -> Uniformity:
    """Uniformity of the rows of a layer on the unit sphere and, with a second view of the inputs, their alignment.

    How it misleads: the length of rows is ignored, so a layer whose rows differ in length alone reads as collapsed, and
    one with a large mean (after a ReLU) as nearly collapsed: take the mean off first where that is not meant. A pair of
    a row with itself would add a bias of order 1 / N and is left out. Alignment is low, which is called good, in a
    collapsed layer as well: read both. Rows of zeros have no direction; they are left out and counted (flag
    `out_of_domain`).

    Parameters
    ----------
    z, second : (N, D) array
        Activations of two views of the same inputs in the same order; further axes are flattened.

    Raises
    ------
    ValueError
        For views of different shape, values that are not finite, or fewer than two rows with a direction.

    References
    ----------
    Wang and Isola, "Understanding contrastive representation learning through alignment and uniformity on the
    hypersphere", 2020; Fahim, Murphy and Fyshe, "It's not a modality gap", 2024.

    Examples
    --------
    >>> corners = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    >>> found = uniformity(corners, 3.0 * corners)
    >>> round(found.uniformity, 3), found.alignment, found.shuffled
    (-4.396, 0.0, 2.0)
    """
    first = units_float64(z, "z")
    views = [first] if second is None else [first, units_float64(second, "second")]
    if views[-1].shape != first.shape:
        raise ValueError(f"both views must have one shape, got {first.shape} and {views[-1].shape}")
    lengths = [np.linalg.norm(scaled(view, axis=1), axis=1) for view in views]
    kept = np.logical_and.reduce([length > 0 for length in lengths])
    if kept.sum() < 2:
        raise ValueError(f"need at least 2 rows with a direction, got {int(kept.sum())} of {len(kept)}")
    unit = [scaled(view, axis=1)[kept] / length[kept, None] for view, length in zip(views, lengths, strict=True)]
    a, b = unit[0], unit[-1]
    return Uniformity(
        uniformity=_uniformity(a),
        # For random directions u, v: E exp(-2 |u - v|^2) = exp(-4) E exp(4 u.v), and E exp(4 u.v) = 0F1(units / 2; 4).
        uniform=-4.0 + math.log(float(hyp0f1(first.shape[1] / 2.0, 4.0))),
        alignment=math.nan if second is None else float(np.square(a - b).sum(axis=1).mean()),
        # |a - b|^2 = 2 - 2 a.b, and the mean of a.b over all pairs is that of the means.
        shuffled=math.nan if second is None else float(2.0 - 2.0 * a.mean(axis=0) @ b.mean(axis=0)),
        dropped=int((~kept).sum()),
        flags=raised(out_of_domain=not kept.all()),
        n_samples=len(a),
        n_units=first.shape[1],
        source=digest(*views),
    )


def _uniformity(unit: FloatArray) -> float:
    """Return the log of the mean over pairs i != j of exp(-2 |z_i - z_j|^2), for rows (N, D) of length 1."""
    n, total = len(unit), 0.0
    height = max(1, BLOCK // n)
    for start in range(0, n, height):
        cosines = np.minimum(unit[start : start + height] @ unit.T, 1.0)
        # A row with itself: exp(-infinity) adds nothing.
        cosines[np.arange(len(cosines)), start + np.arange(len(cosines))] = -np.inf
        # For rows of length 1, |z_i - z_j|^2 = 2 - 2 cos.
        total += float(np.exp(4.0 * cosines - 4.0).sum())
    return math.log(total / (n * (n - 1)))
