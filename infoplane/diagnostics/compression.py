"""The compression score, how far a curve has fallen from its maximum, of every layer and run, as rows."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

from infoplane.diagnostics._place import Entry, Place, digest, quantities, raised, rows
from infoplane.results import Curve, ResultTable, Row
from infoplane.results.summary import compression

ESTIMATOR = "compression"


def compression_score(
    table: ResultTable, quantity: str = "I(X;T)", *, end: int | None = None, **select: Any
) -> ResultTable:
    """How far each curve of `table` has fallen from its own maximum, per run, layer, subset and estimate.

    C = max_{e' <= e} I'(e') - I'(e), with I' the median of each capture point and its two neighbours, and e the last
    step (or the last up to `end`).

    How it misleads: the score belongs to the estimator as much as to the network. Fixed bins under growing activations
    saturate, and a layer rescaled under fixed noise seems to compress. It is never negative, so a curve that only
    fluctuates scores above 0: compare with the spread over seeds.

    Parameters
    ----------
    table : ResultTable
    quantity : str
        Name of a quantity.
    end : int, optional
        Last step that counts.
    **select
        `estimator`, `subset`, `layer`, `run`, `settings` as in `ResultTable.curves`; subset "all" by default.

    Returns
    -------
    ResultTable
        Rows of estimator "compression" at step e, three for each curve: "C [quantity]" in the unit of the quantity;
        "C/max [quantity]", its share of the maximum, empty where that is not positive; "argmax [quantity]", the step
        of the maximum. `config` names the estimator and its settings. The flag `saturated` says that some values are
        at their ceiling: C is then a lower bound.

    Raises
    ------
    ValueError
        Nothing matches, or a curve has no value up to `end`.

    References
    ----------
    Read off by eye in Chelombiev, Houghton and O'Donnell, "Adaptive estimators show information compression in deep
    neural networks", 2019; the formula is ours.
    """
    curves = table.curves(quantity, **select)
    if not curves:
        raise ValueError(f"no {quantity} matches; the table has {quantities(table)}")
    return ResultTable.from_rows((row for curve in curves for row in _rows(curve, end)), table.meta)


def _rows(curve: Curve, end: int | None) -> list[Row]:
    """Return the rows "C", "C/max" and "argmax" of one curve, whose values after step `end` do not count."""
    kept = np.isfinite(curve.value) & (True if end is None else curve.step <= end)
    if not kept.any():
        until = "" if end is None else f" up to step {end}"
        raise ValueError(f"layer {curve.layer!r} of run {curve.name!r} has no value of {curve.quantity}{until}")
    saturated = ["saturated" in flags.split(";") for flags in curve.flags[kept].tolist()]
    found = compression(curve.step[kept].astype(np.float64), curve.value[kept], saturated)
    full = found.saturated > 0
    parts = (("C", found.fall, curve.unit), ("C/max", found.share, "1"), ("argmax", found.at, "step"))
    entries = [
        Entry(f"{name} {curve.quantity}", value, unit, flags=raised(saturated=full, degenerate=math.isnan(value)))
        for name, value, unit in parts
    ]
    last = int(np.flatnonzero(kept)[-1])
    config = {"end": end, "estimator": curve.estimator, "settings": json.loads(curve.settings), "window": 3}
    samples, source = int(curve.n_samples[last]), digest(curve.step[kept], curve.value[kept])
    return rows(Place.of(curve, last), ESTIMATOR, config, entries, n_samples=samples, source=source)
