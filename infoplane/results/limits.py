"""How far an axis reaches: one rule for figures, animations and the report."""

from __future__ import annotations

import math

import numpy as np

from infoplane.core.records import FloatArray
from infoplane.core.units import BIT

LEAST_BITS, LEAST_SHARE = 0.05, 0.02
"""The least that an axis spans: so many bits, and this share of the ceiling (or of the largest value, without one)."""
PAD, PAD_ABOVE = 0.05, 0.1
"""Shares of the span that are left free below and above."""
NEAR_ZERO = 0.25
"""An axis that would begin below this share of its end begins at 0."""
FILL = 0.4
"""The share of the axis that the values fill at least where it reaches up to the ceiling."""


HUGE = 1e15
"""Numbers beyond this are drawn by no axis; they are left out."""


def drawable(values: FloatArray) -> FloatArray:
    """Return the values with NaN in place of those too large to draw."""
    return np.where(np.abs(values) <= HUGE, values, np.nan)


def axis_limits(values: FloatArray, ceiling: float | None = None, *, unit: str = BIT) -> tuple[float, float]:
    """Return limits (low, high) of an axis that hold all `values`, with a little room beyond them.

    They hold the ceiling, too, where the values then still fill two fifths of the axis. An axis spans at least the
    larger of 0.05 bit and 2 % of the ceiling, so that a fall of 2e-5 bit looks flat. An axis that would begin near 0
    begins at 0, so that a fall is seen in proportion to the value.

    Parameters
    ----------
    values : array of any shape
        Everything that is drawn, bands too; what is not finite is left out.
    ceiling : float, optional
        The largest value the quantity can take.
    unit : str
        "bit" (the default) or that of the values.

    Returns
    -------
    (float, float)
    """
    known = values[np.isfinite(values)]
    top = None if ceiling is None or not math.isfinite(ceiling) else ceiling
    if known.size:
        low, high = float(known.min()), float(known.max())
    else:
        low, high = 0.0, 1.0 if top is None else top
    if 0 < low < NEAR_ZERO * high:
        low = 0.0
    if top is not None and top > high and high - low >= FILL * (top - low):
        high = top
    low, high = widened(low, high, top, unit=unit)
    span = high - low
    return low - PAD * span, high + PAD_ABOVE * span


def widened(low: float, high: float, ceiling: float | None = None, *, unit: str = BIT) -> tuple[float, float]:
    """Return the limits, moved apart where they are nearer to each other than an axis is to span at least.

    The least span is 2 % of the ceiling (without one, of the larger limit), and 0.05 if the unit is bits. Limits of
    values that are not negative are not moved below 0.
    """
    largest = max(abs(low), abs(high)) or 1.0
    least = max(LEAST_SHARE * (largest if ceiling is None else ceiling), LEAST_BITS if unit == BIT else 0.0)
    if high - low >= least:
        return low, high
    low = 0.0 if low >= 0 and low + high < least else (low + high - least) / 2
    return low, low + least
