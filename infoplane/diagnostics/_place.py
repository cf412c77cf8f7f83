"""Where a diagnostic belongs in the results table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from infoplane.core.files import fingerprint
from infoplane.core.strict import canonical_json
from infoplane.results import Curve, Row


@dataclass(frozen=True, kw_only=True)
class Place:
    """Run, step and layer that a diagnostic was computed for; `layer` is a `Layer.key`, "" the whole model."""

    run: str = ""
    step: int = 0
    epoch: float = math.nan
    layer: str = ""
    depth: int = -1
    subset: str = "all"
    estimand: str = ""

    @classmethod
    def of(cls, curve: Curve, at: int) -> Self:
        """That of one point of a curve."""
        return cls(
            run=curve.run,
            step=int(curve.step[at]),
            epoch=float(curve.epoch[at]),
            layer=curve.layer,
            depth=curve.depth,
            subset=curve.subset,
            estimand=curve.estimand,
        )


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One quantity: value, 95 % interval of its sampling error, unit, ceiling and flags."""

    quantity: str
    value: float
    unit: str
    low: float = math.nan
    high: float = math.nan
    ceiling: float = math.nan
    flags: tuple[str, ...] = ()


def rows(
    where: Place,
    estimator: str,
    config: Mapping[str, Any],
    entries: Iterable[Entry],
    *,
    n_samples: int = 0,
    n_units: int = 0,
    source: str = "",
) -> list[Row]:
    """Rows of a results table; a value that is not finite becomes an empty one, for which the flags stand."""
    return [
        Row(
            run=where.run,
            step=where.step,
            epoch=where.epoch,
            layer=where.layer,
            depth=where.depth,
            subset=where.subset,
            estimator=estimator,
            config=canonical_json(config, "config").decode(),
            n_samples=n_samples,
            n_units=n_units,
            quantity=e.quantity,
            estimand=where.estimand,
            value=e.value if math.isfinite(e.value) else math.nan,
            low=e.low,
            high=e.high,
            ceiling=e.ceiling,
            unit=e.unit,
            flags=";".join(sorted(e.flags)),
            source=source,
        )
        for e in entries
    ]


def digest(*arrays: npt.ArrayLike) -> str:
    """Content digest of arrays, for the column `source`."""
    contents = [np.ascontiguousarray(array) for array in arrays]
    return fingerprint(*(part for a in contents for part in (f"{a.dtype.str}{a.shape}".encode(), a.tobytes())))
