"""Phases of a training run, read off how the effective rank of a layer moves."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from infoplane.core.records import FloatArray
from infoplane.diagnostics._place import Entry, Place, digest, quantities, rows
from infoplane.results import Curve, ResultTable, Row

ESTIMATOR = "phases"
Label = Literal["warm-up", "entropy-seeking", "compression-seeking", "mixed", "flat"]


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A stretch in which the effective rank moves one way.

    Attributes
    ----------
    label : str
        "warm-up": the rank falls from the start on; "entropy-seeking": it rises; "compression-seeking": it falls after
        a peak; "mixed": the decay exponent does not move the opposite way; "flat": the rank does not move.
    start, stop : int
        First and last step; the last step of a phase is the first step of the next.
    rank_change, alpha_change : float
        Changes of the smoothed curves; NaN for the exponent where it was not given or has fewer than two values.
    """

    label: Label
    start: int
    stop: int
    rank_change: float
    alpha_change: float


def label_phases(
    step: npt.ArrayLike,
    rank: npt.ArrayLike,
    alpha: npt.ArrayLike | None = None,
    *,
    prominence: float = 0.05,
    window: int = 3,
) -> list[Phase]:
    """Cut a run into phases at the extrema of its effective rank.

    Both curves are smoothed by a centred mean of `window` captures, which for log-spaced captures is smoothing in
    log step. An extremum counts when the rank moves away from it, on either side, by `prominence` times the range of
    the whole curve. A compact spectrum has a steep decay, so the exponent must move against the rank; where it does
    not, the two disagree on what happened and the phase is "mixed".

    How it misleads: the choice of the rank decides. RankMe and the exponential of the von Neumann entropy may turn at
    different steps, and one of them may not turn at all.

    Parameters
    ----------
    step : (C,) integers, ascending
    rank : (C,) float
        RankMe, or another effective rank.
    alpha : (C,) float or None
        Decay exponent (alpha-ReQ), NaN where there is none.
    prominence : float
        Between 0 and 1.
    window : int
        Odd; 1 does not smooth. Near the ends and beside gaps fewer captures are averaged, equally many on both sides.

    Raises
    ------
    ValueError
        For fewer than two captures, lengths that differ, steps that do not ascend, or ranks that are not finite.

    References
    ----------
    Li et al., "Tracing the representation geometry of language models from pretraining to post-training", 2025; the
    rule for extrema is ours.

    Examples
    --------
    >>> [p.label for p in label_phases([0, 10, 100, 1000], [9.0, 5.0, 12.0, 10.0], window=1)]
    ['warm-up', 'entropy-seeking', 'compression-seeking']
    """
    steps, values = np.asarray(step), np.asarray(rank, dtype=np.float64)
    exponents = np.full(len(values), math.nan) if alpha is None else np.asarray(alpha, dtype=np.float64)
    _check_captures(steps, values, exponents)
    if not 0 < prominence < 1:
        raise ValueError(f"prominence must be between 0 and 1, got {prominence}")
    if window < 1 or window % 2 == 0:
        raise ValueError(f"window must be odd and positive, got {window}")
    smooth, smooth_alpha = _smoothed(values, window), _smoothed(exponents, window)
    span = float(np.ptp(smooth))
    if span == 0.0:
        return [Phase(label="flat", start=int(steps[0]), stop=int(steps[-1]), rank_change=0.0, alpha_change=math.nan)]
    found = []
    for a, b in itertools.pairwise(_turning_points(smooth, prominence * span)):
        change, alpha_change = float(smooth[b] - smooth[a]), _change(smooth_alpha[a : b + 1])
        start, stop, label = int(steps[a]), int(steps[b]), _label(change, alpha_change, first=a == 0)
        found.append(Phase(label=label, start=start, stop=stop, rank_change=change, alpha_change=alpha_change))
    return found


def _check_captures(steps: npt.NDArray[Any], rank: FloatArray, alpha: FloatArray) -> None:
    """Raise ValueError unless steps, ranks and exponents have one value for each capture, in order of the steps."""
    if rank.ndim != 1 or len(rank) < 2 or steps.shape != rank.shape or alpha.shape != rank.shape:
        shapes = f"{steps.shape}, {rank.shape}, {alpha.shape}"
        raise ValueError(f"step, rank and alpha must have one value for each of at least 2 captures, got {shapes}")
    if not (np.diff(steps) > 0).all():
        raise ValueError("steps must ascend")
    if not np.isfinite(rank).all():
        raise ValueError(f"rank has {int((~np.isfinite(rank)).sum())} values that are not finite; leave these out")


def _change(values: FloatArray) -> float:
    """Return the change from the first known value to the last; NaN where fewer than two are known."""
    known = values[np.isfinite(values)]
    return float(known[-1] - known[0]) if len(known) > 1 else math.nan


def _label(change: float, alpha_change: float, *, first: bool) -> Label:
    """Return the name of a phase in which rank and exponent change by this much; `first` for the first of the run."""
    # A compact spectrum decays steeply: rank and exponent move in opposite ways. With NaN it is not mixed.
    if alpha_change * change >= 0:
        return "mixed"
    if change > 0:
        return "entropy-seeking"
    return "warm-up" if first else "compression-seeking"


def phases(
    table: ResultTable,
    rank: str = "RankMe",
    alpha: str | None = "alpha-ReQ",
    *,
    prominence: float = 0.05,
    window: int = 3,
    **select: Any,
) -> ResultTable:
    """`label_phases` of every layer and run of a table that has the estimator `geometry`.

    Parameters
    ----------
    rank, alpha : str
        Names of the quantities; None leaves the exponent out.
    prominence, window
        As for `label_phases`.
    **select
        `layer`, `run`, `subset`, `settings` as in `ResultTable.curves`.

    Returns
    -------
    ResultTable
        For each phase a row of estimator "phases" at its last step: quantity "phase 1: warm-up", value the change
        of the rank, in its unit. `config` has the first step.

    Raises
    ------
    ValueError
        The table has no such curve of at least two values.
    """
    curves = [c for c in table.curves(rank, **select) if np.isfinite(c.value).sum() > 1]
    if not curves:
        raise ValueError(f"no curve of {rank!r} with two values; the table has {quantities(table)}")
    exponents = {_key(c): c for c in table.curves(alpha, **select)} if alpha is not None else {}
    config = {"alpha": alpha, "prominence": prominence, "rank": rank, "window": window}
    out = [row for curve in curves for row in _rows(curve, exponents.get(_key(curve)), config)]
    return ResultTable.from_rows(out, table.meta)


def _rows(curve: Curve, exponent: Curve | None, config: dict[str, Any]) -> Iterator[Row]:
    """Yield a row for each phase of one curve, at its last step."""
    kept = np.isfinite(curve.value)
    step, values = curve.step[kept], curve.value[kept]
    by_step = {} if exponent is None else dict(zip(exponent.step.tolist(), exponent.value.tolist(), strict=True))
    alpha = np.array([by_step.get(s, math.nan) for s in step.tolist()])
    found = label_phases(step, values, alpha, prominence=config["prominence"], window=config["window"])
    samples, source = int(curve.n_samples[-1]), digest(step, values, alpha)
    for number, phase in enumerate(found, start=1):
        entry = Entry(f"phase {number}: {phase.label}", phase.rank_change, curve.unit)
        where = Place.of(curve, int(np.flatnonzero(curve.step == phase.stop)[0]))
        settings = config | {"settings": curve.settings, "start": phase.start}
        yield from rows(where, ESTIMATOR, settings, [entry], n_samples=samples, source=source)


def _key(curve: Curve) -> tuple[str, str, str, str, str]:
    """Return what a curve of the rank has in common with the curve of the exponent that belongs to it."""
    return curve.run, curve.layer, curve.subset, curve.estimator, curve.settings


def _smoothed(values: FloatArray, window: int) -> FloatArray:
    """Return the centred mean over `window` values; over fewer, as many on either side, near ends and gaps (NaN)."""
    out = np.full(len(values), math.nan)
    for i in np.flatnonzero(np.isfinite(values)).tolist():
        half = min(window // 2, i, len(values) - 1 - i)
        while not np.isfinite(values[i - half : i + half + 1]).all():
            half -= 1
        out[i] = values[i - half : i + half + 1].mean()
    return out


def _turning_points(values: FloatArray, least: float) -> list[int]:
    """Return the indices of the first value, of maxima and minima in turn that differ by `least`, and of the last."""
    turns, direction = [0], 0
    low = high = extreme = 0
    # `direction` is 0 until values have moved by `least`, then 1 while they rise and -1 while they fall; an extreme is
    # one for certain once they have moved back by `least`.
    for i, value in enumerate(values):
        if direction == 0:
            low = i if value < values[low] else low
            high = i if value > values[high] else high
            if value - values[low] >= least:
                direction, extreme = 1, i
            elif values[high] - value >= least:
                direction, extreme = -1, i
        elif direction * (value - values[extreme]) >= 0:
            extreme = i
        elif direction * (values[extreme] - value) >= least:
            turns.append(extreme)
            direction, extreme = -direction, i
    return [*turns, len(values) - 1]
