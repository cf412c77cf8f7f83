"""Peaks of a dependence along the tokens of a sequence, as rows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from infoplane.core.tokens import split_token, token_position
from infoplane.diagnostics._place import Entry, Place, digest, rows
from infoplane.results import Curve, ResultTable, Row
from infoplane.results.summary import LEAST_FENCED, upper_fence

ESTIMATOR = "token-peaks"


def token_peaks(
    table: ResultTable, quantity: str = "nHSIC(T;Y)", *, whisker: float = 1.5, **select: Any
) -> ResultTable:
    """Positions at which a quantity stands out from the other positions of its layer, at each step.

    A peak lies above the upper quartile of the positions by more than `whisker` interquartile ranges (linear
    interpolation between order statistics). Neighbouring peaks are not joined.

    How it misleads: the rule has no null. Of 64 independent normal values one in 300 is a peak, heavy tails give many,
    and where most positions have nearly the same value a tiny deviation is one. A peak says that the quantity is large
    there, not that the token causes anything.

    Parameters
    ----------
    table : ResultTable
        Estimates of single positions, from `analyze(..., layers=["block2[token=*]"])`.
    quantity : str
        Name of a quantity.
    whisker : float
        Interquartile ranges above the upper quartile from which a value is a peak; 1.5 in the paper, not negative.
    **select
        `estimator`, `subset`, `layer`, `run`, `settings` as in `ResultTable.curves`; subset "all" by default.

    Returns
    -------
    ResultTable
        Rows of estimator "token-peaks". For each layer and step, with the layer's own name: "threshold [quantity]" in
        its unit and "peaks [quantity]", their number; for each peak, with the name of its position: "peak [quantity]",
        the value there.

    Raises
    ------
    ValueError
        No single positions of `quantity`, fewer than four finite ones at a step, or a negative `whisker`.

    References
    ----------
    Qian et al., "Demystifying reasoning dynamics with mutual information: thinking tokens are information peaks in LLM
    reasoning", 2025.
    """
    families: dict[tuple[str, ...], list[Curve]] = {}
    for curve in table.curves(quantity, **select):
        if token_position(curve.layer) is not None:
            layer = split_token(curve.layer)[0]
            families.setdefault((curve.run, layer, curve.subset, curve.estimator, curve.settings), []).append(curve)
    if not families:
        raise ValueError(f"the table has no {quantity} of single positions; analyze with layers=['LAYER[token=*]']")
    found = (row for curves in families.values() for row in _rows(curves, whisker))
    return ResultTable.from_rows(found, table.meta)


def _rows(curves: list[Curve], whisker: float) -> Iterator[Row]:
    """Yield rows of threshold and peaks at every step, from the curves of all positions of one layer."""
    curves = sorted(curves, key=lambda curve: token_position(curve.layer) or 0)
    first = curves[0]
    config = {"estimator": first.estimator, "settings": json.loads(first.settings)}
    config |= {"positions": len(curves), "whisker": whisker}
    for step in np.unique(np.concatenate([curve.step for curve in curves])):
        # The positions that have this step, and where it stands in their curves; then those with a value there.
        recorded = [(curve, int(i)) for curve in curves for i in np.flatnonzero(curve.step == step)[:1]]
        known = [(curve, i) for curve, i in recorded if np.isfinite(curve.value[i])]
        if len(known) < LEAST_FENCED:
            raise ValueError(
                f"{split_token(first.layer)[0]!r} of run {first.name!r} has {len(known)} positions with "
                f"{first.quantity} at step {step}; quartiles need {LEAST_FENCED}"
            )
        values = np.array([curve.value[i] for curve, i in known])
        samples = int(known[0][0].n_samples[known[0][1]])
        for where, entry in _entries(known, values, whisker):
            yield from rows(where, ESTIMATOR, config, [entry], n_samples=samples, source=digest(values))


def _entries(
    known: Sequence[tuple[Curve, int]], values: npt.NDArray[np.float64], whisker: float
) -> Iterator[tuple[Place, Entry]]:
    """Yield threshold and number of peaks at the place of the layer, then each peak at the place of its position."""
    places = [Place.of(curve, i) for curve, i in known]
    whole = replace(places[0], layer=split_token(places[0].layer)[0])
    quantity, unit = known[0][0].quantity, known[0][0].unit
    threshold = upper_fence(values, whisker)
    peaks = np.flatnonzero(values > threshold).tolist()
    yield whole, Entry(f"threshold {quantity}", threshold, unit)
    yield whole, Entry(f"peaks {quantity}", float(len(peaks)), "positions")
    yield from ((places[k], Entry(f"peak {quantity}", float(values[k]), unit)) for k in peaks)
