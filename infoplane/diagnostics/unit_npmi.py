"""Normalised pointwise information of "this unit is active" and "this is class c"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from infoplane.core.records import FloatArray, IntArray
from infoplane.diagnostics._codes import same_samples
from infoplane.diagnostics._place import Entry, Measured, digest, raised, units_float64

LEAST_COUNT = 5
"""Samples in which unit and class must meet, or be expected to, for a value without the flag `few_samples`."""


@dataclass(frozen=True, eq=False, kw_only=True)
class UnitNPMI(Measured):
    """Normalised pointwise information (nPMI) of units and classes.

    Its rows, for the best unit of each class: "nPMI class c" and "unit of nPMI class c".

    Attributes
    ----------
    value : (D, C) float64
        1 where unit and class always come together, 0 where they are independent, -1 where they never meet.
    count : (D, C) int64
        Samples of the class for which the unit is active.
    classes : (C,) array
    rare : (D, C) bool
        Where the flag `few_samples` is up: both the count and the count expected for independent events are below 5, or
        the expected one is below 1.
    """

    estimator: ClassVar[str] = "unit-npmi"

    value: FloatArray
    count: IntArray
    classes: npt.NDArray[Any]
    rare: npt.NDArray[np.bool_]

    def _entries(self) -> list[Entry]:
        """Return for each class the largest nPMI of any unit, and the number of that unit."""
        entries = []
        for c, best in enumerate(self.value.argmax(0).tolist()):
            flags = raised(few_samples=self.rare[best, c])
            name = f"nPMI class {self.classes[c]}"
            entries.append(Entry(name, float(self.value[best, c]), "nPMI", ceiling=1.0, flags=flags))
            entries.append(Entry(f"unit of {name}", float(best), "unit", flags=flags))
        return entries


def unit_npmi(t: npt.ArrayLike, y: npt.ArrayLike, *, quantile: float | None = 0.9, threshold: float = 0.0) -> UnitNPMI:
    """nPMI = log(p(a, b) / p(a) p(b)) / -log p(a, b) of a = "unit active" and b = "class", for all units and classes.

    A unit is active above its own `quantile` over the samples, or, with `quantile=None`, above `threshold` (0 for ReLU
    units). The choice between them decides the numbers and stands in the settings.

    How it misleads: where events are rare (flag `few_samples`) the best of D units is high by chance alone; for a test
    over units see the estimators' `+units`. A quantile makes every unit active equally often, even a dead one that
    varies by rounding alone.

    Parameters
    ----------
    t : (N, D) array
        Further axes are flattened.
    y : (N,) array
        Classes.
    quantile : float between 0 and 1, or None
        Share of the samples at which a unit is not active.
    threshold : float
        Value above which a unit is active, without `quantile`.

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
    # Samples sorted by class, so that the active ones of each class are one sum per stretch.
    order, size = np.argsort(labels, kind="stable"), np.bincount(labels)
    count = np.add.reduceat(active[order].astype(np.int64), np.cumsum(size) - size, axis=0).T
    expected = np.outer(active.mean(0), size)
    return UnitNPMI(
        value=_npmi(count / len(units), expected / len(units)),
        count=count,
        classes=np.unique(np.asarray(y)),
        # Few: both the count and what independence would give are small, or hardly any are expected at all.
        rare=(count < LEAST_COUNT) & (expected < LEAST_COUNT) | (expected < LEAST_COUNT / 5),
        n_samples=len(units),
        n_units=units.shape[1],
        config={"quantile": quantile, "threshold": threshold if quantile is None else None},
        source=digest(units, labels),
    )


def _npmi(joint: FloatArray, apart: FloatArray) -> FloatArray:
    """Return log(p(a, b) / p(a) p(b)) / -log p(a, b), with `joint` = p(a, b) and `apart` = p(a) p(b), all (D, C)."""
    # Where the formula is 0 / 0 its limits count: -1 where the events never meet, 1 where both always happen.
    defined = (joint > 0) & (joint < 1)
    p = np.where(defined, joint, 0.5)  # 0.5 stands where the formula is not used
    value = np.log(p / np.where(defined, apart, 0.5)) / -np.log(p)
    return np.where(defined, value, np.where(joint >= 1, 1.0, -1.0))
