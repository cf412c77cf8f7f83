"""What the diagnostics share: results that give rows of the results table, their place in it, checks of inputs."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from infoplane.core.brief import Brief
from infoplane.core.exact import exact_float64
from infoplane.core.files import fingerprint
from infoplane.core.records import FloatArray
from infoplane.core.strict import canonical_json
from infoplane.core.units import Z_95
from infoplane.results import Curve, ResultTable, Row


@dataclass(frozen=True, kw_only=True)
class Place:
    """Run, step and layer that a diagnostic was computed for; `layer` is a `Layer.key`, "" the whole model.

    `partner` names the second layer, step or view where a number is of two of them.
    """

    run: str = ""
    step: int = 0
    epoch: float = math.nan
    layer: str = ""
    depth: int = -1
    subset: str = "all"
    estimand: str = ""
    partner: str = ""

    @classmethod
    def of(cls, curve: Curve, at: int) -> Self:
        """Return the place (run, layer, step, ...) of point number `at` of a curve."""
        named = {name: getattr(curve, name) for name in ("run", "layer", "depth", "subset", "estimand")}
        return cls(step=int(curve.step[at]), epoch=float(curve.epoch[at]), **named)


@dataclass(frozen=True)
class Entry:
    """One quantity: value, unit, 95 % interval of its sampling error, bound, ceiling and flags."""

    quantity: str
    value: float
    unit: str
    low: float = math.nan
    high: float = math.nan
    bound: str = "point"
    ceiling: float = math.nan
    flags: tuple[str, ...] = ()


def rows(
    where: Place, estimator: str, config: Mapping[str, Any], entries: Iterable[Entry], **columns: int | str
) -> list[Row]:
    """Return rows of the results table at one place, with further `columns`; a value that is not finite stays empty."""
    shared: dict[str, Any] = {"n_samples": 0, "n_units": 0, **columns}
    shared |= {"estimator": estimator, "config": canonical_json(config, "config").decode()}
    # Places and entries name their fields as the table names its columns.
    found = (Row(**vars(where), **shared, **vars(entry)) for entry in entries)
    finite = (row if math.isfinite(row.value) else row._replace(value=math.nan) for row in found)
    return [row._replace(flags=";".join(sorted(row.flags))) for row in finite]


@dataclass(frozen=True, eq=False, kw_only=True)
class Measured(Brief, ABC):
    """What a diagnostic has found: the base of its results.

    Attributes
    ----------
    flags : tuple of str
        Warnings that hold for the whole result.
    n_samples, n_units : int
        As the rows have them; 0 where they mean nothing.
    config : dict
        The settings that the numbers depend on.
    source : str
        Digest of the arrays that the numbers were computed from.
    """

    estimator: ClassVar[str]

    flags: tuple[str, ...] = ()
    n_samples: int = 0
    n_units: int = 0
    config: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""

    @abstractmethod
    def _entries(self) -> list[Entry]:
        """Return the quantities, in the order of their rows."""

    def rows(self, where: Place) -> list[Row]:
        """Rows of the results table at this place, one for each quantity."""
        columns: dict[str, int | str] = {"n_samples": self.n_samples, "n_units": self.n_units, "source": self.source}
        return rows(where, self.estimator, self.config, self._entries(), **columns)


def raised(**flags: object) -> tuple[str, ...]:
    """Return the names of the flags that are up."""
    return tuple(name for name, up in flags.items() if up)


def mean_and_half(values: npt.NDArray[Any]) -> tuple[float, float]:
    """Return the mean of independent values and half the width of its 95 % interval; NaN where they are too few."""
    if len(values) < 2:
        return (float(values[0]) if len(values) else math.nan), math.nan
    return float(values.mean()), Z_95 * float(values.std(ddof=1)) / math.sqrt(len(values))


def around(value: float, half: float) -> tuple[float, float]:
    """Return both ends of an interval around a value: `low` and `high` of an entry."""
    return value - half, value + half


def digest(*arrays: npt.ArrayLike) -> str:
    """Return a digest of the contents of arrays, for the column `source`."""
    contents = [np.ascontiguousarray(array) for array in arrays]
    return fingerprint(*(part for a in contents for part in (f"{a.dtype.str}{a.shape}".encode(), a.tobytes())))


def finite_float64(values: npt.ArrayLike, has: str, what: str = "entries") -> FloatArray:
    """Return numbers as float64; ValueError where they are not real or not finite.

    `has` begins the line of the error, as "weight has" in "weight has 3 non-finite entries"; `what` ends it.
    """
    given = np.asarray(values)
    if given.dtype.kind in "cmMSU":
        raise ValueError(f"{has.split()[0]} must hold real numbers, got {given.dtype}")
    array = exact_float64(given, has.split()[0])
    bad = int((~np.isfinite(array)).sum())
    if bad:
        raise ValueError(f"{has} {bad} non-finite {what}; did training diverge?")
    return array


def units_float64(values: npt.ArrayLike, name: str) -> FloatArray:
    """Return a layer's activations (samples, ...) as finite float64 (samples, units), or raise ValueError."""
    array = finite_float64(values, f"{name} has", "values")
    if array.ndim < 2 or array.size == 0:
        raise ValueError(f"{name} must have shape (samples, units), got {array.shape}")
    return array.reshape(len(array), -1)


def class_labels(labels: npt.ArrayLike, count: int, name: str) -> npt.NDArray[Any]:
    """Return the class of each of `count` rows; raise ValueError unless they are whole numbers or booleans."""
    found = np.asarray(labels)
    if found.shape != (count,) or found.dtype.kind not in "iub":
        raise ValueError(f"{name} must be {count} integers, one for each row, got {found.dtype} {found.shape}")
    return found


def scaled(values: FloatArray, axis: int | None = None) -> FloatArray:
    """Return values divided by their largest magnitude, in all or along `axis`: no square overflows, and 0 stays 0."""
    largest = np.abs(values).max(axis=axis, initial=0.0, keepdims=True)
    return np.asarray(values / np.where(largest > 0, largest, 1.0))


def centred(rows: FloatArray, axis: int | None = None) -> FloatArray:
    """Return rows (N, units) less their mean, scaled to a largest magnitude of 1: of all units, or with axis=0 of each.

    What does not vary is 0.
    """
    # Scaled before the mean is taken and after, so that no square of an entry leaves the range.
    z = scaled(rows, axis)
    z = z - z.mean(axis=0)
    spread = np.abs(z).max(axis=axis, initial=0.0)
    varies = spread > 1e-12
    return np.asarray(np.where(varies, z / np.where(varies, spread, 1.0), 0.0))


def rounding(array: npt.NDArray[Any]) -> float:
    """Return the relative rounding error (eps) of the numbers' type; for whole numbers that of float64."""
    return float(np.finfo(array.dtype if array.dtype.kind == "f" else np.float64).eps)


def quantities(table: ResultTable) -> str:
    """Return the names of the quantities that a table has, for the end of an error line."""
    return ", ".join(dict.fromkeys(table["quantity"].tolist())) or "none"
