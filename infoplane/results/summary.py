"""Over runs: mean and spread. Over training: how far a curve has fallen from its own maximum."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt

from infoplane.core.brief import Brief
from infoplane.core.records import FloatArray
from infoplane.core.text import printable
from infoplane.results.names import pair_name, run_names
from infoplane.results.overview import FLAG_WORDS, PLANE
from infoplane.results.table import ResultTable
from infoplane.results.trajectories import Curve

Steps = npt.NDArray[Any]

SPREADS: dict[str, str] = {
    "ci95": "95 % CI of the mean (Student t)",
    "sd": "standard deviation",
    "se": "standard error of the mean",
    "quartiles": "lower to upper quartile",
    "minmax": "smallest to largest",
}
AUTO, FEW = "auto", 2
"""The spread that is chosen by the number of runs, and up to how many runs it is not the 95 % interval."""


@dataclass(frozen=True, eq=False)
class Summary(Brief):
    """Mean over runs and the band around it, with the shape of one run's array.

    Attributes
    ----------
    mean, low, high : array
        NaN where no run has a value; `low` and `high` also where the spread needs two and there is one.
    count : int array
        Runs with a finite value.
    words : str
        What the lines and bands are: "mean of 5 runs, band: standard deviation".
    """

    mean: FloatArray
    low: FloatArray
    high: FloatArray
    count: npt.NDArray[np.int64]
    words: str


def over_runs(values: FloatArray, spread: str | None = "ci95") -> Summary:
    """Summarise (runs, ...) over the first axis; NaN counts as missing.

    Parameters
    ----------
    values : (R, ...) float64
    spread : {"ci95", "sd", "se", "quartiles", "minmax", "auto"} or None
        `ci95` is the confidence interval of the mean under normal errors (Student, 1908), wide for few
        runs; `sd` has the sample's n - 1; `quartiles` holds the middle half of the runs (linear interpolation);
        `minmax` is their range. `auto` is `ci95` from three runs on; of two it is `minmax`, since their `ci95` is 12.7
        times as wide and fills any figure. None draws no band.
    """
    if spread not in (None, AUTO, *SPREADS):
        raise ValueError(f"spread must be one of {AUTO}, {', '.join(SPREADS)} or None, got {spread!r}")
    if values.ndim == 0 or values.shape[0] == 0:
        raise ValueError(f"values must be (runs, ...) with at least one run, got shape {values.shape}")
    if spread == AUTO:
        spread = "ci95" if values.shape[0] > FEW else "minmax"
    known = np.isfinite(values)
    count = known.sum(axis=0)
    some = np.maximum(count, 1)  # the divisor where no run has a value, so that nothing is divided by 0
    mean = np.where(count > 0, np.where(known, values, 0.0).sum(axis=0) / some, np.nan)
    if spread in ("minmax", "quartiles"):
        tail = 0.0 if spread == "minmax" else 0.25
        low, high = (_quantile(values, q, count) for q in (tail, 1 - tail))
    else:
        squares = np.where(known, values - mean, 0.0) ** 2
        half = _factor(spread, count) * np.sqrt(squares.sum(axis=0) / np.maximum(count - 1, 1))
        low, high = mean - half, mean + half
    runs = values.shape[0]
    words = f"mean of {runs} run{'' if runs == 1 else 's'}"
    if spread is not None and runs > 1:
        words += f", band: {SPREADS[spread]}"
    return Summary(mean=mean, low=low, high=high, count=count, words=words)


def _factor(spread: str | None, count: npt.NDArray[np.int64]) -> FloatArray:
    """Return half the width of the band as a multiple of the standard deviation over runs, for each entry of `count`.

    `count` has the number of runs with a value. The factor is NaN where there are fewer than two, and everywhere with
    `spread=None`.
    """
    # factor[n] is the factor for n runs.
    factor = np.full(int(count.max(initial=1)) + 1, np.nan)
    for n in range(2, factor.size if spread is not None else 0):
        errors = student_t(n - 1) if spread == "ci95" else 1.0
        factor[n] = 1.0 if spread == "sd" else errors / math.sqrt(n)
    return factor[count]


def _quantile(values: FloatArray, q: float, count: npt.NDArray[np.int64]) -> FloatArray:
    """Return quantile `q` of the finite values (runs, ...) over the first axis; NaN where none is finite.

    `count` has the number of finite values. (numpy's `nanquantile` is slow, and warns where there are none.)
    """
    # Missing values become infinite, which sorts them behind the `count` finite ones.
    ordered = np.sort(np.where(np.isfinite(values), values, np.inf), axis=0)
    last = np.maximum(count - 1, 0)
    place = q * last
    below = np.floor(place).astype(np.int64)
    a = np.take_along_axis(ordered, below[None], axis=0)[0]
    b = np.take_along_axis(ordered, np.minimum(below + 1, last)[None], axis=0)[0]
    with np.errstate(invalid="ignore"):
        return np.where(count > 0, a + (place - below) * (b - a), np.nan)


LEAST_FENCED = 4
"""Values below which quartiles say nothing of the spread."""


def upper_fence(values: FloatArray, whisker: float = 1.5) -> float:
    """Return the upper quartile plus `whisker` interquartile ranges (Tukey, 1977); NaN for fewer than four values.

    Only finite values count. Quartiles are interpolated linearly between order statistics.

    Raises
    ------
    ValueError
        For a negative `whisker`.
    """
    if not whisker >= 0:
        raise ValueError(f"whisker must not be negative, got {whisker}")
    known = values[np.isfinite(values)]
    if known.size < LEAST_FENCED:
        return math.nan
    low, high = np.quantile(known, (0.25, 0.75))
    return float(high + whisker * (high - low))


def student_t(df: int, level: float = 0.95) -> float:
    """Return the t for which a variable of Student's distribution lies between -t and t with probability `level`.

    `df` are its degrees of freedom, a whole number from 1 on (Abramowitz and Stegun, 1964, 26.7.3-4).
    """
    if df < 1:
        raise ValueError(f"degrees of freedom must be at least 1, got {df}")

    def inside(t: float) -> float:
        """Return the probability that a variable of Student's distribution lies between -t and t."""
        angle, odd = math.atan2(t, math.sqrt(df)), df % 2
        term = total = math.cos(angle) if odd else 1.0
        for k in range(2 + odd, df - 1, 2):
            term *= (k - 1) / k * math.cos(angle) ** 2
            total += term
        total *= math.sin(angle) if df > 1 else 0.0
        return 2 / math.pi * (angle + total) if odd else total

    low, high = 0.0, 1.0
    while inside(high) < level:
        high *= 2
    # Bisect until no float64 lies between both ends.
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if inside(middle) < level else (low, middle)
    return middle


@dataclass(frozen=True, eq=False, kw_only=True)
class CurveSummary(Brief):
    """One quantity of one layer (or pair: `partner`) over several runs, at the steps that all of them have.

    Attributes
    ----------
    runs : tuple of str
    step : (S,) int64
    summary : Summary of (S,)
    flags : mapping from flag to (S,) int64
        In how many of the runs the value carries it.
    """

    layer: str
    depth: int
    subset: str
    estimator: str
    settings: str
    quantity: str
    unit: str
    runs: tuple[str, ...]
    step: npt.NDArray[np.int64]
    summary: Summary
    flags: Mapping[str, npt.NDArray[np.int64]]
    partner: str = ""

    def __str__(self) -> str:
        """Return the value at the last common step, with its band and the flags raised there, in one line."""
        band = self.summary
        spread = "" if math.isnan(band.low[-1]) else f" [{band.low[-1]:.3f}, {band.high[-1]:.3f}]"
        doubts = [f"; {FLAG_WORDS[f]} in {n[-1]} of {len(self.runs)} runs" for f, n in self.flags.items() if n[-1]]
        what = f"{printable(pair_name(self.layer, self.partner))} {self.quantity} of {printable(self.estimator)}"
        value = f"{band.mean[-1]:.3f}{spread} {self.unit} at step {self.step[-1]} ({band.words})"
        return f"{what}, {printable(self.subset)}: {value}{''.join(doubts)}"


def summarize(
    table: ResultTable, quantity: str | Sequence[str] = PLANE, *, spread: str | None = AUTO, **select: Any
) -> list[CurveSummary]:
    """Return mean and spread over the runs of a table, for each layer, subset, estimator, settings and quantity.

    Values are averaged at equal steps only: a mean over other runs at each step would move when one of them ends.
    A refused snapshot (NaN) is left out of its step and shows in `summary.count`.

    Parameters
    ----------
    table : ResultTable
        As a rule several runs, `read_table([run, ...])`.
    spread
        See `over_runs`.
    **select
        `estimator`, `subset`, `layer`, `run`, `settings` as in `ResultTable.curves`; subset "all" by default.

    Raises
    ------
    ValueError
        Runs of one layer have no step in common.
    """
    alike = ("layer", "subset", "estimator", "settings", "quantity", "partner")
    groups: dict[tuple[str, ...], list[Curve]] = {}
    for curve in table.curves(quantity, **select):
        groups.setdefault(tuple(getattr(curve, name) for name in alike), []).append(curve)
    out = []
    for key, curves in groups.items():
        first = curves[0]
        steps, values = at_common_steps([curve.step for curve in curves], [curve.value for curve in curves])
        if steps.size == 0:
            called = run_names(table)
            raise ValueError(
                f"runs {', '.join(called[c.run] for c in curves)} have no step in common for layer {first.layer!r}, so "
                "they have no mean; record them with the same schedule"
            )
        out.append(
            CurveSummary(
                **dict(zip(alike, key, strict=True)),
                depth=first.depth,
                unit=first.unit,
                runs=tuple(c.run for c in curves),
                step=steps,
                summary=over_runs(values, spread),
                flags=flag_counts(curves),
            )
        )
    return out


def flag_counts(curves: Sequence[Curve]) -> dict[str, npt.NDArray[np.int64]]:
    """Return {flag: in how many runs it is raised, (S,)}, at the steps that all runs have.

    There is one curve for each run; flags that are never raised are left out.
    """
    steps = [curve.step for curve in curves]
    counts = {}
    for flag in FLAG_WORDS:
        raised = [np.array([flag in text.split(";") for text in curve.flags.tolist()]) for curve in curves]
        counts[flag] = at_common_steps(steps, raised)[1].sum(axis=0).astype(np.int64)
    return {flag: count for flag, count in counts.items() if count.any()}


def at_common_steps(steps: Sequence[Steps], values: Sequence[FloatArray]) -> tuple[Steps, FloatArray]:
    """Return the steps that all runs have, and the values (runs, common steps, ...) at these.

    `steps` has the steps (S,) of each run in ascending order, `values` its values (S, ...).
    """
    common = reduce(np.intersect1d, steps)
    return common, np.stack([run[np.searchsorted(at, common)] for at, run in zip(steps, values, strict=True)])


@dataclass(frozen=True)
class Compression:
    """How far I(X;T) of one layer ends below its own maximum.

    Attributes
    ----------
    fall : float
        Bits between the maximum and the last value, both after a median filter of three points.
    share : float
        `fall` over the maximum; NaN where the maximum is not positive.
    at : float
        Step of the maximum, the first where several are equal.
    saturated : float
        Share of the points that are only their ceiling. A layer that starts there may have fallen from
        more than the estimator can see: `fall` is then a lower bound.
    """

    fall: float
    share: float
    at: float
    saturated: float


def compression(
    steps: Sequence[float] | FloatArray,
    values: Sequence[float] | FloatArray,
    saturated: Sequence[bool] | npt.NDArray[np.bool_] | None = None,
) -> Compression:
    """Return the compression score: the fall of a curve from its own maximum to its end, in the curve's unit.

    After the reading of Chelombiev, Houghton and O'Donnell ("Adaptive estimators show information
    compression in deep neural networks", 2019), who give no formula; the median filter keeps one odd
    snapshot from making a maximum. It is a property of the estimator as much as of the network: fixed bins
    under a growing activation saturate, and rescaling a layer under fixed noise looks like compression.

    Raises
    ------
    ValueError
        If no value is finite, or the lengths differ.
    """
    x, y = np.asarray(steps, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if x.shape != y.shape or y.ndim != 1:
        raise ValueError(f"steps and values must be equally long, got shapes {x.shape} and {y.shape}")
    known = np.isfinite(y)
    if not known.any():
        raise ValueError("a compression score needs at least one finite value")
    x, y = x[known], y[known]
    smooth = y.copy()
    if y.size > 2:
        smooth[1:-1] = np.median(np.stack([y[:-2], y[1:-1], y[2:]]), axis=0)
    top = int(np.argmax(smooth))
    fall = float(smooth[top] - smooth[-1])
    return Compression(
        fall=fall,
        share=fall / float(smooth[top]) if smooth[top] > 0 else math.nan,
        at=float(x[top]),
        saturated=float(np.mean(np.asarray(saturated)[known])) if saturated is not None else 0.0,
    )
