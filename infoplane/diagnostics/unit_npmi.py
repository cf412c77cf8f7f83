"""Normalised pointwise information of "this unit is active" and "this is class c"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from infoplane.core.brief import Brief
from infoplane.diagnostics._codes import FloatArray, same_samples
from infoplane.diagnostics._place import Entry, Place, digest, rows, units_float64
from infoplane.results import Row

ESTIMATOR = "unit-npmi"
LEAST_COUNT = 5


@dataclass(frozen=True, eq=False, kw_only=True)
class UnitNPMI(Brief):
    """nPMI of units and classes.

    Attributes
    ----------
    value : (D, C) float64
        1 where unit and class always come together, 0 where they are independent, -1 where they never meet.
    count : (D, C) int64
        Samples of the class at which the unit is active.
    classes : (C,) array
    rare : (D, C) bool
        Fewer than 5 samples both met and expected, or fewer than 1 expected: the flag `few_samples`.
    """

    value: FloatArray
    count: npt.NDArray[np.int64]
    classes: npt.NDArray[Any]
    rare: npt.NDArray[np.bool_]
    n_samples: int
    config: dict[str, Any]
    source: str

    def rows(self, where: Place) -> list[Row]:
        """For each class its best unit: "nPMI class c" and "unit of nPMI class c"."""
        entries = []
        for c, best in enumerate(self.value.argmax(0).tolist()):
            flags = ("few_samples",) * bool(self.rare[best, c])
            name = f"nPMI class {self.classes[c]}"
            entries.append(Entry(name, float(self.value[best, c]), "nPMI", ceiling=1.0, flags=flags))
            entries.append(Entry(f"unit of {name}", float(best), "unit", flags=flags))
        size = {"n_samples": self.n_samples, "n_units": len(self.value)}
        return rows(where, ESTIMATOR, self.config, entries, source=self.source, **size)


def unit_npmi(t: npt.ArrayLike, y: npt.ArrayLike, *, quantile: float | None = 0.9, threshold: float = 0.0) -> UnitNPMI:
    """nPMI = log(p(a, b) / p(a) p(b)) / -log p(a, b) of a = "unit active" and b = "class", for all units and classes.

    Active is above the unit's own `quantile` over the samples, or, with `quantile=None`, above `threshold` (0 for ReLU
    units). Which of the two decides the numbers, and stands in the settings.

    How it misleads: the best of D units is high by chance alone where events are rare (flag `few_samples` where fewer
    than 5 samples are both met and expected); for a test over units see the estimators' `+units`. A quantile makes
    every unit active equally often, also one that is dead but for rounding.

    Parameters
    ----------
    t : (N, D) array
        Further axes are flattened.
    y : (N,) array
        Classes.
    quantile : float between 0 and 1, or None
    threshold : float

    Raises
    ------
    ValueError
        Different numbers of samples, non-finite values, or a quantile out of its domain.

    References
    ----------
    Bouma, "Normalized (pointwise) mutual information in collocation extraction", 2009.

    Examples
    --------
    >>> y = np.repeat([0, 1], 50)
    >>> unit_npmi(y[:, None], y, quantile=None).value.round(3).tolist()
    [[-1.0, 1.0]]
    """
    if quantile is not None and not 0 < quantile < 1:
        raise ValueError(f"quantile must be between 0 and 1, or None for a threshold, got {quantile}")
    units = units_float64(t, "t")
    if np.ndim(y) != 1:
        raise ValueError(f"y must have shape (samples,), got {np.shape(y)}")
    labels, _ = same_samples({"y": y, "t": units[:, 0]})
    active = units > (threshold if quantile is None else np.quantile(units, quantile, axis=0))
    order, size = np.argsort(labels, kind="stable"), np.bincount(labels)
    count = np.add.reduceat(active[order].astype(np.int64), np.cumsum(size) - size, axis=0).T
    expected = np.outer(active.mean(0), size)
    return UnitNPMI(
        value=_npmi(count / len(units), expected / len(units)),
        count=count,
        classes=np.unique(np.asarray(y)),
        rare=(count < LEAST_COUNT) & (expected < LEAST_COUNT) | (expected < LEAST_COUNT / 5),
        n_samples=len(units),
        config={"quantile": quantile, "threshold": threshold if quantile is None else None},
        source=digest(units, labels),
    )


def _npmi(joint: FloatArray, apart: FloatArray) -> FloatArray:
    """log(p(a, b) / p(a) p(b)) / -log p(a, b), with `apart` = p(a) p(b)."""
    # Its limits are -1 where the events never meet and 1 where both always happen.
    some = (joint > 0) & (joint < 1)
    safe = np.where(some, joint, 0.5)
    value = np.log(safe / np.where(some, apart, 0.5)) / -np.log(safe)
    return np.where(some, value, np.where(joint >= 1, 1.0, -1.0))
