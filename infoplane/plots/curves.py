"""Each quantity against the training step, with its null, its ceiling and its uncertainty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from infoplane.core.deprecation import renamed
from infoplane.core.errors import choices
from infoplane.core.records import FloatArray
from infoplane.plots._about import Shown, about, shown
from infoplane.plots._artists import (
    OPEN,
    Label,
    cut,
    draw_ceilings,
    draw_line,
    draw_null,
    draw_points,
    end_labels,
    key,
    legend,
    limits,
    measured,
    step_axis,
)
from infoplane.plots._figure import Look, Options, keywords, panel_height, panels, selected, slot_width
from infoplane.plots._layers import END_SHARE, LayerLook, layer_looks, tag
from infoplane.plots.style import CHANCE, FAINT, layer_line, small_size
from infoplane.plots.text import fitted_names, safe_text
from infoplane.results import ResultTable
from infoplane.results.limits import drawable
from infoplane.results.trajectories import Grid
from infoplane.results.views import Selection, Series, choose, metric_group

Metrics = dict[str, dict[str, tuple[FloatArray, FloatArray]]]
"""The times and the values of each metric, by panel and name."""


@dataclass(frozen=True, eq=False, kw_only=True)
class CurveData(Shown):
    """One quantity against training, as (S, L) arrays with NaN where a number is missing.

    Attributes
    ----------
    value, low, high
        The estimate and the 95 % interval of its sampling error.
    other_bound : (S, L) or None
        The other end of a ribbon, `I(X;T) lower` beside I(X;T).
    between : str
        What the ribbon is: where its ends are a lower and an upper bound, it holds the quantity.
    null, null_low, null_high : (S, L) or None
        Mean over shuffled labels and the 2.5 and 97.5 % points.
    saturated : (S, L) bool
    """

    quantity: str
    times: FloatArray
    value: FloatArray
    low: FloatArray
    high: FloatArray
    other_bound: FloatArray | None
    between: str
    null: FloatArray | None
    null_low: FloatArray | None
    null_high: FloatArray | None
    saturated: npt.NDArray[np.bool_]

    @property
    def bands(self) -> dict[str, FloatArray | None]:
        """The edges (S, L) of all bands by name, None for a band that there is not."""
        interval = {"low": self.low, "high": self.high, "other": self.other_bound}
        return {**interval, "null_low": self.null_low, "null_high": self.null_high}


@keywords(Selection)
def curve_data(table: ResultTable, quantity: str = "I(T;Y)", **select: Unpack[Selection]) -> CurveData:
    """Return one quantity of one run as arrays (S, L); see `curves` for the parameters."""
    return series_curve(choose(table, shows=quantity, **select), quantity)


def series_curve(series: Series, quantity: str) -> CurveData:
    """Return one quantity of a series as arrays (S, L); ValueError where the series does not have the quantity."""
    have = series.quantities
    if quantity not in have:
        raise ValueError(f"{series.estimator} has no quantity {quantity!r} in this table; available: {', '.join(have)}")
    main = series.grid(quantity)
    names = {side: f"{quantity} {side}" for side in ("lower", "upper", "null")}
    known = {side: series.grid(name) for side, name in names.items() if name in have}
    other, null = known.get("lower", known.get("upper")), known.get("null")
    sides: dict[str, Any] = {side: drawable(getattr(main, side)) for side in ("value", "low", "high")}
    chance = {"null": "value", "null_low": "low", "null_high": "high"}
    nulls: dict[str, Any] = {n: None if null is None else drawable(getattr(null, side)) for n, side in chance.items()}
    return CurveData(
        **shown(series, main),
        **sides,
        **nulls,
        quantity=quantity,
        times=main.times,
        other_bound=None if other is None else drawable(other.value),
        between="" if other is None else ribbon_words(main, other),
        saturated=main.flag("saturated"),
    )


def ribbon_words(main: Grid, other: Grid) -> str:
    """Return the legend's words for the area between two estimates of a quantity.

    These are "lower to upper bound" where one grid holds lower and the other upper bounds, else "to ..." with the name
    of the other.
    """
    held = {"lower", "upper"} <= main.bounds | other.bounds
    return "lower to upper bound" if held else f"to {safe_text(other.quantity, limit=40)}"


@renamed("quantities", "quantity")
@keywords(Options)
def curves(
    table: ResultTable,
    *,
    ax: Axes | Sequence[Axes] | None = None,
    quantity: Sequence[str] | str | None = None,
    metrics: Sequence[str] | str | bool = False,
    log: bool | None = None,
    **options: Unpack[Options],
) -> Axes:
    """Draw quantities against the training step, one line per layer.

    A band is the estimator's 95 % interval of sampling error, left out where a flag says that another error matters;
    a hatched ribbon spans a lower and an upper bound (pairwise KDE); the faint dotted line with its band is the same
    quantity on shuffled labels (of a quantity without labels, its own null), mean and 95 %: a value inside it is no
    more than chance. Open markers are saturated. The dotted horizontal line is the ceiling.

    Parameters
    ----------
    quantity : str or sequence of str, optional
        One panel each; by default I(X;T) and I(T;Y) as far as the table has them.
    metrics : bool, str or sequence of str
        Recorded training metrics in further panels below: all with True, or those named.
    ax : Axes or sequence of Axes, optional
        As many as there are panels. Without it a figure is made; the first of its panels is returned, and
        `ax.figure` has all.
    log : bool, optional
        Logarithmic step axis on which 0 has its place; by default where steps span over two decades.
    table, estimator, settings, run, subset, layers, against, caption, style, width
        As in `infoplane.plots.plane`, and so are the keywords of the look that follow.

    Raises
    ------
    ValueError
        If the table lacks what is asked for, or leaves a choice that was not made.
    """
    series = choose(table, shows=quantity, **selected(options))
    names = [quantity] if isinstance(quantity, str) else list(quantity or default_quantities(series))
    marks = series.marks(*names)  # one for a layer in all panels, as the one caption has it
    data = [replace(series_curve(series, name), marks=marks) for name in names]
    recorded = chosen_metrics(series, metrics)
    parts = about(series, [series.grid(name) for name in names])
    heights = [1.0] * len(data) + [0.5] * len(recorded)
    shows = [*names, *recorded]
    with panels(ax, parts, options, heights=heights, aspect=0.12 + 0.42 * sum(heights), shows=shows) as axes:
        axes[-1].set_xlabel(options["against"])
        for axis, one in zip(axes, data, strict=False):
            draw_curve(axis, one, options, log=log)
        for axis, (group, members) in zip(axes[len(data) :], recorded.items(), strict=True):
            draw_metrics(axis, group, members)
    return axes[0]


def default_quantities(series: Series) -> list[str]:
    """Return I(X;T) and I(T;Y) as far as the series has them, else its first two that are no null and no bound."""
    have = series.quantities
    known: list[str] = [q for q in ("I(X;T)", "I(T;Y)") if q in have]
    return known or [q for q in have if q.rpartition(" ")[2] not in ("null", "lower", "upper")][:2]


def chosen_metrics(series: Series, wanted: Sequence[str] | str | bool) -> Metrics:
    """Return the recorded metrics by panel: accuracies in one, losses in another, any other in a panel of its own.

    `wanted` is True for all, False for none, or the names of some; ValueError for a metric that was not recorded.
    """
    if wanted is False:
        return {}
    known = series.metrics()
    if wanted is True:
        names: Sequence[str] = list(known)
    else:
        names = [wanted] if isinstance(wanted, str) else wanted
    out: Metrics = {}
    for name in names:
        if name not in known:
            raise ValueError(f"run {series.name(series.runs[0])} recorded no metric {name!r}; {choices(name, known)}")
        out.setdefault(metric_group(name), {})[name] = known[name]
    return out


def draw_curve(ax: Axes, data: CurveData, look: Look, *, log: bool | None) -> None:
    """Draw one panel: a line for each layer with its bands and null, the ceiling, the legend and the names.

    `log` chooses a logarithmic axis of steps; with None it is logarithmic where the steps span over two decades.
    """
    bands = {n: cut(edge, data.value, data.ceiling) for n, edge in data.bands.items() if edge is not None}
    everything = [a.ravel() for a in (data.value, data.null, *bands.values()) if a is not None]
    ax.set_ylabel(measured(data.label, data.caption, look, panel_height(ax)))
    ax.set_ylim(limits(np.concatenate(everything), data.ceiling, unit=data.unit))
    step_axis(ax, data.times, log=log)
    ends = []
    for i, layer in enumerate(layer_looks(ax, data.layers, look, marks=data.marks)):
        ends += draw_layer(ax, data, bands, i, layer)
    draw_ceilings(ax, y=data.ceiling)
    legend(ax, curve_keys(data), look)
    end_labels(ax, ends)


def draw_layer(ax: Axes, data: CurveData, bands: Mapping[str, FloatArray], i: int, layer: LayerLook) -> list[Label]:
    """Draw the line of layer number `i` with its bands, its null and a few markers; return its label in a list.

    `bands` are the edges (S, L) of `data.bands`, clipped to the values that the quantity can have. For a layer without
    a number nothing is drawn, and the list is empty.
    """
    keep = np.isfinite(data.value[:, i])
    x, y = data.times[keep], data.value[keep, i]
    if not (end := draw_line(ax, x, y, layer)):
        return []
    edges = {name: band[:, i] for name, band in bands.items()}
    draw_band(ax, x, edges["low"][keep], edges["high"][keep], layer, "band", alpha=0.25)
    if "other" in edges:
        draw_band(ax, x, edges["other"][keep], y, layer, "bounds", edgecolor=layer.color, alpha=0.12, hatch="////")
    if data.null is not None:
        draw_null(ax, data.times, data.null[:, i], layer)
        known = np.isfinite(data.null[:, i])
        low, high = edges["null_low"][known], edges["null_high"][known]
        draw_band(ax, data.times[known], low, high, layer, "null", alpha=0.15)
    marked = turns(x.size, i, len(data.layers))
    draw_points(ax, x[marked], y[marked], data.saturated[keep, i][marked], layer, markeredgewidth=0.7)
    return end


def turns(points: int, i: int, layers: int) -> npt.NDArray[np.bool_]:
    """Return a mask (points,) of the points of a line that get a marker: about seven, and the last.

    The line is that of layer number `i` of `layers`. Each layer's markers begin a little later than those of the layer
    before, so that few of them coincide.
    """
    every = max(1, points // 7)
    marked = np.zeros(points, dtype=bool)
    marked[(i * every // max(1, layers)) % every :: every] = True
    marked[-1:] = True
    return marked


def curve_keys(data: CurveData) -> list[Any]:
    """Return the entries of the legend: bands, null and open marks, as far as the panel has them."""
    keys: list[Any] = []
    if np.isfinite(data.low).any():
        keys.append(Patch(color=FAINT, alpha=0.3, linewidth=0, label="95 %, of sampling only"))
    if data.other_bound is not None:
        keys.append(Patch(facecolor="0.9", edgecolor=FAINT, hatch="////", linewidth=0, label=data.between))
    if data.null is not None:
        # Of a quantity without Y no labels are shuffled: what is shuffled instead depends on the estimator.
        shuffled = "shuffled labels" if "Y" in data.quantity else "null"
        keys.append(key(f"{shuffled}, mean and 95 %", linewidth=0.8, linestyle=CHANCE))
    if data.saturated.any():
        keys.append(key("saturated", **OPEN))
    return keys


def draw_band(
    ax: Axes, x: FloatArray, low: FloatArray, high: FloatArray, layer: LayerLook, part: str, **style: Any
) -> None:
    """Draw a band between `low` and `high` (P,), with a gap where either has no number.

    `part` is the last part of the id by which the band is found again.
    """
    keep = np.isfinite(low) & np.isfinite(high)
    if keep.any():
        style = {"facecolor": layer.color, "edgecolor": "none", **style}
        tag(ax.fill_between(x, low, high, where=keep, linewidth=0, zorder=1.8, **style), layer.key, part)


def draw_metrics(ax: Axes, group: str, members: Mapping[str, tuple[FloatArray, FloatArray]]) -> None:
    """Draw the training metrics of one panel: `members` has their (times, values) by name, `group` names the y axis."""
    # The label of the axis is `group`, such as "accuracy": the lines are named without it.
    short = {name: name.removesuffix(f" {group}") for name in members}
    fitted = fitted_names(short.values(), END_SHARE * slot_width(ax), small_size(0.8))
    ax.set_ylabel(safe_text(group, limit=24))
    labels = []
    for i, (name, (x, y)) in enumerate(members.items()):
        layer = LayerLook(name, fitted[short[name]], str(0.15 + 0.35 * (i % 2)), "", layer_line(i))
        labels += draw_line(ax, x, drawable(y), layer)
    ax.set_ylim(limits(drawable(np.concatenate([y for _, y in members.values()])), None, unit=group))
    end_labels(ax, labels)
