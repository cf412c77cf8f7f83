"""Neural collapse: do the features of a class fall onto its mean, and the means onto a simplex?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from infoplane.core.records import FloatArray
from infoplane.diagnostics._place import (
    Entry,
    Measured,
    class_labels,
    digest,
    finite_float64,
    raised,
    scaled,
    units_float64,
)

CUT = 1e-10
"""Directions between classes with less than this share of the largest variance are rounding errors."""


@dataclass(frozen=True, eq=False, kw_only=True)
class NeuralCollapse(Measured):
    """How far the four properties are from holding: each is 0 where it holds, and NaN where it has no meaning.

    Its rows: "NC1", "NC2 norms", "NC2 angles", and "NC3" and "NC4" where weights or logits were given.

    Attributes
    ----------
    within : float
        NC1, variation within classes over that between them: tr(S_W S_B^+) / C.
    norms : float
        NC2, standard deviation over mean of the distances of the class means from their common mean.
    angles : float
        NC2, mean over pairs of classes of |cos + 1 / (C - 1)|; NaN where a class mean is the common mean.
    duality : float
        NC3, distance of the weights from the class means, both scaled to length 1; NaN without weights.
    nearest : float
        NC4, share of rows whose largest logit is not that of the nearest class mean; NaN without logits.
    flags : tuple of str
        `degenerate`: all classes have one mean. `few_samples`: some class has a single row, which cannot vary.
        `out_of_domain`: fewer units than C - 1, in which the angles of a simplex do not fit.
    """

    estimator: ClassVar[str] = "neural-collapse"

    within: float
    norms: float
    angles: float
    duality: float
    nearest: float

    def _entries(self) -> list[Entry]:
        """Return NC1 and both parts of NC2, then NC3 and NC4 where weights and logits were given."""
        # Too few units matter to the angles alone, and so does a single class mean that has no direction.
        flags = tuple(flag for flag in self.flags if flag != "out_of_domain")
        undirected = raised(degenerate=math.isnan(self.angles) and "degenerate" not in self.flags)
        optional = [
            Entry("NC3", self.duality, "distance", ceiling=2.0, flags=flags),
            Entry("NC4", self.nearest, "share", ceiling=1.0, flags=flags),
        ]
        return [
            Entry("NC1", self.within, "ratio", flags=flags),
            Entry("NC2 norms", self.norms, "ratio", flags=flags),
            Entry("NC2 angles", self.angles, "cosine", flags=(*self.flags, *undirected)),
            *(entry for entry in optional if not math.isnan(entry.value)),
        ]


def neural_collapse(
    features: npt.ArrayLike,
    labels: npt.ArrayLike,
    weight: npt.ArrayLike | None = None,
    logits: npt.ArrayLike | None = None,
) -> NeuralCollapse:
    """The four measures of neural collapse of the features that the last linear layer reads, on training rows.

    With class means mu_c, their mean mu, M with the rows mu_c - mu, S_W = mean (h - mu_c)(h - mu_c)' and S_B = M'M / C.
    For classes of unequal size mu is the mean of the class means, not of the rows.

    How it misleads: it is defined at zero training error, and on test rows it is another quantity. NC1 is a ratio,
    which also falls where classes move apart without shrinking. The angles cannot fall to 0 in fewer than C - 1 units
    (flag `out_of_domain`).

    Parameters
    ----------
    features : (N, D) array
        Input of the last linear layer; further axes are flattened.
    labels : (N,) integers
    weight : (C, D) array, optional
        Weights of the last linear layer, a row for each class in the order of the labels.
    logits : (N, C) array, optional
        Outputs of the last linear layer.

    Raises
    ------
    ValueError
        For fewer than two classes, shapes that do not belong together, or values that are not finite.

    References
    ----------
    Papyan, Han and Donoho, "Prevalence of neural collapse during the terminal phase of deep learning training", 2020.

    Examples
    --------
    >>> corners = np.eye(3) - 1 / 3                            # a simplex of three classes
    >>> y = np.arange(30) % 3
    >>> found = neural_collapse(corners[y], y, 2.0 * corners, corners[y])
    >>> [round(x, 9) for x in (found.within, found.norms, found.angles, found.duality, found.nearest)]
    [0.0, 0.0, 0.0, 0.0, 0.0]
    """
    h = units_float64(features, "features")
    y = class_labels(labels, len(h), "labels")
    known, index, counts = np.unique(y, return_inverse=True, return_counts=True)
    if len(known) < 2:
        raise ValueError(f"neural collapse needs at least 2 classes, got {len(known)}")
    h = scaled(h)
    means = np.stack([h[index == c].mean(axis=0) for c in range(len(known))])
    centre = means.mean(axis=0)
    between = means - centre
    lengths = np.linalg.norm(between, axis=1)
    apart = bool(lengths.max() > 1e-12)  # of features up to 1: means that are nearer differ by rounding
    return NeuralCollapse(
        within=_within(h - means[index], between) if apart else math.nan,
        norms=float(lengths.std() / lengths.mean()) if apart else math.nan,
        angles=_angles(between, lengths) if lengths.min() > 1e-12 else math.nan,
        duality=math.nan if weight is None or not apart else _duality(weight, between),
        nearest=math.nan if logits is None else _nearest(logits, known, h - centre, between),
        flags=raised(degenerate=not apart, few_samples=counts.min() < 2, out_of_domain=h.shape[1] < len(known) - 1),
        n_samples=len(h),
        n_units=h.shape[1],
        source=digest(h, y, *(np.asarray(a) for a in (weight, logits) if a is not None)),
    )


def _within(rest: FloatArray, between: FloatArray) -> float:
    """Return tr(S_W S_B^+) / C from rows less their class means (`rest`) and class means less their own mean."""
    # S_B = V s^2 V' / C, so that the trace is C sum_k mean_i (rest_i v_k)^2 / s_k^2. C centred means span at most C - 1
    # directions: what the last one has is rounding.
    _, s, v = np.linalg.svd(between, full_matrices=False)
    kept = (s * s > CUT * s[0] * s[0]) & (np.arange(len(s)) < len(between) - 1)
    return float((np.square(rest @ v[kept].T).mean(axis=0) / np.square(s[kept])).sum())


def _angles(between: FloatArray, lengths: FloatArray) -> float:
    """Return the mean over pairs of class means of how far their cosine is from -1 / (C - 1), that of a simplex."""
    unit = between / lengths[:, None]
    cosines = (unit @ unit.T)[np.triu_indices(len(unit), 1)]
    return float(np.abs(cosines + 1.0 / (len(unit) - 1)).mean())


def _duality(weight: npt.ArrayLike, means: FloatArray) -> float:
    """Return the distance of the weights (C, D) from the centred class means (C, D), both with Frobenius norm 1."""
    w = finite_float64(weight, "weight has")
    if w.shape != means.shape:
        raise ValueError(f"weight must have shape (classes, units) {means.shape}, got {w.shape}")
    w = scaled(w)  # the squares of very large or small weights would leave the range of floats
    length = np.linalg.norm(w) or 1.0  # weights that are all 0 stay so
    return float(np.linalg.norm(w / length - means / np.linalg.norm(means)))


def _nearest(logits: npt.ArrayLike, known: npt.NDArray[np.generic], h: FloatArray, means: FloatArray) -> float:
    """Return the share of rows whose largest logit belongs to another class than the nearest class mean."""
    scores = finite_float64(logits, "logits have")
    if scores.shape != (len(h), len(known)):
        raise ValueError(f"logits must have shape (samples, classes) {(len(h), len(known))}, got {scores.shape}")
    # |h - mu|^2 less |h|^2, which does not depend on the class.
    far = np.square(means).sum(axis=1) - 2.0 * h @ means.T
    return float((scores.argmax(axis=1) != far.argmin(axis=1)).mean())
