"""Each quantity against the training step, with its null, its ceiling and its uncertainty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from infoplane.core.deprecation import renamed
from infoplane.core.errors import choices
from infoplane.core.palette import layer_colors
from infoplane.plots._about import about, axis_label, times
from infoplane.plots._artists import Ceiling, Label, add_caption, draw_ceilings, end_labels, limits, step_axis
from infoplane.plots.style import (
    FAINT,
    canvas,
    drawable,
    figure_canvas,
    keep_tick_style,
    layer_line,
    layer_marker,
    spans_decades,
)
from infoplane.plots.text import safe_names, safe_text
from infoplane.results import ResultTable
from infoplane.results.series import Series, ceiling_name, choose, grid
from infoplane.results.series import metrics as recorded_metrics

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class CurveData:
    """One quantity against training, as (S, L) arrays with NaN where a number is missing.

    Attributes
    ----------
    value, low, high
        The estimate and the 95 % interval of its sampling error.
    other_bound : (S, L) or None
        The opposite bound, where the estimator gives both: the ribbon between them holds the quantity.
    null, null_low, null_high : (S, L) or None
        Mean over shuffled labels and the 2.5 and 97.5 % points.
    saturated : (S, L) bool
    """

    quantity: str
    label: str
    layers: list[str]
    times: FloatArray
    value: FloatArray
    low: FloatArray
    high: FloatArray
    other_bound: FloatArray | None
    null: FloatArray | None
    null_low: FloatArray | None
    null_high: FloatArray | None
    saturated: npt.NDArray[np.bool_]
    ceiling: Ceiling | None
    caption: list[str]


def curve_data(
    table: ResultTable,
    quantity: str = "I(T;Y)",
    *,
    estimator: str | None = None,
    settings: Mapping[str, Any] | str | None = None,
    run: str | None = None,
    subset: str | None = None,
    layers: Sequence[str] | None = None,
    against: Literal["step", "epoch"] = "step",
) -> CurveData:
    """One quantity of one run, as arrays; see `curves` for the parameters."""
    series = choose(
        table, estimator=estimator, settings=settings, run=run, subset=subset, layers=layers, against=against
    )
    return series_curve(series, quantity, against=against)


def series_curve(series: Series, quantity: str, *, against: Literal["step", "epoch"] = "step") -> CurveData:
    """`curve_data` of a series chosen before."""
    have = list(dict.fromkeys(str(q) for q in series.table["quantity"]))
    if quantity not in have:
        raise ValueError(f"{series.estimator} has no quantity {quantity!r} in this table; available: {', '.join(have)}")
    main = grid(series, quantity)

    def clean(values: FloatArray) -> FloatArray:
        return drawable(values)

    other = next((grid(series, f"{quantity} {b}") for b in ("lower", "upper") if f"{quantity} {b}" in have), None)
    null = grid(series, f"{quantity} null") if f"{quantity} null" in have else None
    return CurveData(
        quantity=quantity,
        label=axis_label(quantity, main.unit),
        layers=main.layers,
        times=times(main, against),
        value=clean(main.value),
        low=clean(main.low),
        high=clean(main.high),
        other_bound=None if other is None else clean(other.value),
        null=None if null is None else clean(null.value),
        null_low=None if null is None else clean(null.low),
        null_high=None if null is None else clean(null.high),
        saturated=main.flag("saturated"),
        ceiling=None if main.top is None else Ceiling(main.top, ceiling_name(main, series.n_samples)),
        caption=about(series, (main,)),
    )


@renamed("quantities", "quantity")
def curves(
    table: ResultTable,
    *,
    ax: Axes | None = None,
    quantity: Sequence[str] | str | None = None,
    metrics: Sequence[str] | str | bool = False,
    estimator: str | None = None,
    settings: Mapping[str, Any] | str | None = None,
    run: str | None = None,
    subset: str | None = None,
    layers: Sequence[str] | None = None,
    against: Literal["step", "epoch"] = "step",
    log: bool | None = None,
    caption: bool = True,
    style: str = "screen",
    width: float | None = None,
) -> Axes:
    """Draw quantities against the training step, one line per layer.

    A band is the estimator's 95 % interval of sampling error, left out where a flag says that another error matters;
    a hatched ribbon spans a lower and an upper bound (pairwise KDE); the faint dotted line with its band is the same
    quantity on shuffled labels, mean and 95 %: a value inside it is no more than chance. Open markers are saturated.
    The dotted horizontal line is the ceiling.

    Parameters
    ----------
    quantity : str or sequence of str, optional
        One panel each; by default I(X;T) and I(T;Y) as far as the table has them.
    metrics : bool, str or sequence of str
        Recorded training metrics in further panels below: all with True, or those named.
    ax : Axes, optional
        Takes one quantity only. Without it a figure is made; the first of its panels is returned, and
        `ax.figure` has all.
    log : bool, optional
        Logarithmic step axis on which 0 has its place; by default where steps span over two decades.
    table, estimator, settings, run, subset, layers, against, caption, style, width
        As in `infoplane.plots.plane`.

    Raises
    ------
    ValueError
        If the table lacks what is asked for, or leaves a choice that was not made.
    """
    series = choose(
        table, estimator=estimator, settings=settings, run=run, subset=subset, layers=layers, against=against
    )
    names = [quantity] if isinstance(quantity, str) else list(quantity or default_quantities(series))
    shown = [series_curve(series, name, against=against) for name in names]
    recorded = chosen_metrics(table, series.runs[0], metrics, against)
    if ax is not None and (len(shown) > 1 or recorded):
        raise ValueError(
            f"ax takes one quantity and no metrics, got {', '.join(names)}; pass quantity='I(T;Y)', or no ax"
        )
    parts = about(series, [grid(series, name) for name in names])
    if ax is not None:
        with canvas(ax):
            draw_curve(ax, shown[0], log=log, against=against)
            if caption:
                add_caption(ax, parts, own=False)
        return ax
    heights = [1.0] * len(shown) + [0.5] * len(recorded)
    with figure_canvas(style=style, width=width, aspect=0.12 + 0.42 * sum(heights)) as figure:
        axes: Any = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
        axes[-1].set_xlabel(against)
        add_caption(axes[-1], parts, own=True, shown=caption)
        for axis, data in zip(axes, shown, strict=False):
            draw_curve(axis, data, log=log, against="")
        for axis, (group, members) in zip(axes[len(shown) :], recorded.items(), strict=True):
            draw_metrics(axis, group, members)
        for axis in axes[:-1]:
            axis.tick_params(labelbottom=False)
        for axis in axes:
            keep_tick_style(axis)
    first: Axes = axes[0]
    return first


def default_quantities(series: Series) -> list[str]:
    have = list(dict.fromkeys(str(q) for q in series.table["quantity"]))
    known: list[str] = [q for q in ("I(X;T)", "I(T;Y)") if q in have]
    side = ("null", "lower", "upper")
    return known or [q for q in have if q.rpartition(" ")[2] not in side][:2]


def chosen_metrics(
    table: ResultTable, run: str, wanted: Sequence[str] | str | bool, against: str = "step"
) -> dict[str, dict[str, tuple[FloatArray, FloatArray]]]:
    """Recorded metrics by panel: shares such as accuracy apart from losses, whose scale has no end."""
    if wanted is False:
        return {}
    known = recorded_metrics(table, run=run, against=against)
    if wanted is not True:
        names = [wanted] if isinstance(wanted, str) else list(wanted)
        for name in names:
            if name not in known:
                raise ValueError(f"run {run} recorded no metric {name!r}; {choices(name, known)}")
        known = {name: known[name] for name in names}
    out: dict[str, dict[str, tuple[FloatArray, FloatArray]]] = {}
    for name, series in known.items():
        group = "accuracy" if "acc" in name.lower() else "loss" if "loss" in name.lower() else name
        out.setdefault(group, {})[name] = series
    return out


def draw_curve(ax: Axes, data: CurveData, *, log: bool | None, against: str) -> None:
    """One panel."""
    colors = layer_colors(len(data.layers))
    names = safe_names(data.layers, limit=18)
    everything = [data.value, *(a for a in (data.other_bound, data.null_low) if a is not None)]
    ax.set_ylabel(data.label)
    ax.set_ylim(limits(np.concatenate([a.ravel() for a in everything]), data.ceiling.value if data.ceiling else None))
    step_axis(ax, data.times, log=spans_decades(data.times) if log is None else log)
    if against:
        ax.set_xlabel(against)
    ends = []
    for i, layer in enumerate(data.layers):
        color = colors[i]
        keep = np.isfinite(data.value[:, i])
        if not keep.any():
            continue
        x, y = data.times[keep], data.value[keep, i]
        ax.plot(x, y, color=color, linestyle=layer_line(i // 8 if len(data.layers) > 8 else 0), zorder=3)
        draw_band(ax, x, data.low[keep, i], data.high[keep, i], color=color, alpha=0.25)
        if data.other_bound is not None:
            draw_band(ax, x, data.other_bound[keep, i], y, color=color, alpha=0.12, hatch="////")
        if data.null is not None and data.null_low is not None and data.null_high is not None:
            ax.plot(data.times, data.null[:, i], color=color, linewidth=0.8, linestyle=(0, (1, 1.5)), zorder=2)
            drawn = np.isfinite(data.null[:, i])
            low, high = data.null_low[drawn, i], data.null_high[drawn, i]
            draw_band(ax, data.times[drawn], low, high, color=color, alpha=0.15)
        hollow = data.saturated[keep, i]
        every = max(1, x.size // 7)
        marked = np.zeros(x.size, dtype=bool)
        marked[(i * every // max(1, len(colors))) % every :: every] = True
        marked[-1] = True
        for open_marker in (False, True):
            at = marked & (hollow == open_marker)
            if not at.any():  # an unclipped line without points would stretch the layout to the figure's corner
                continue
            ax.plot(
                x[at], y[at], linestyle="none", marker=layer_marker(i), color=color, zorder=4, clip_on=False,
                markerfacecolor="white" if open_marker else color, markeredgewidth=0.7,
            )  # fmt: skip
        ends.append(Label(float(x[-1]), float(y[-1]), names[layer], color))
    draw_ceilings(ax, x=None, y=data.ceiling)
    handles: list[Any] = []
    if np.isfinite(data.low).any():
        handles.append(Patch(color=FAINT, alpha=0.3, linewidth=0, label="95 %, of sampling only"))
    if data.other_bound is not None:
        handles.append(Patch(facecolor="0.9", edgecolor=FAINT, hatch="////", linewidth=0, label="lower to upper bound"))
    if data.null is not None:
        handles.append(
            Line2D([], [], color=FAINT, linewidth=0.8, linestyle=(0, (1, 1.5)), label="shuffled labels, mean and 95 %")
        )
    if data.saturated.any():
        handles.append(
            Line2D([], [], color=FAINT, marker="o", markerfacecolor="white", linestyle="none", label="saturated")
        )
    if handles:
        ax.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=len(handles), labelcolor=FAINT,
                  columnspacing=1.0, handletextpad=0.4, borderaxespad=0.1)  # fmt: skip
    end_labels(ax, ends)


def draw_band(ax: Axes, x: FloatArray, low: FloatArray, high: FloatArray, **look: Any) -> None:
    """The band at the points of a line; where one of them has none, neither has the line there."""
    keep = np.isfinite(low) & np.isfinite(high)
    if keep.any():
        color = look.pop("color")
        hatch = look.pop("hatch", None)
        ax.fill_between(x, low, high, where=keep, facecolor=color, edgecolor=color if hatch else "none",
                        linewidth=0, hatch=hatch, zorder=1.8, **look)  # fmt: skip


def draw_metrics(ax: Axes, group: str, members: Mapping[str, tuple[FloatArray, FloatArray]]) -> None:
    """Training metrics of one scale in one panel."""
    names = safe_names(members, limit=18)
    ax.set_ylabel(safe_text(group, limit=24))
    labels = []
    for i, (name, (x, y)) in enumerate(members.items()):
        shade = str(0.15 + 0.35 * (i % 2))
        keep = np.isfinite(drawable(y))
        if not keep.any():
            continue
        ax.plot(x[keep], y[keep], color=shade, linestyle=layer_line(i), zorder=3)
        labels.append(Label(float(x[keep][-1]), float(y[keep][-1]), names[name], shade))
    values = np.concatenate([y for _, y in members.values()])
    ax.set_ylim(limits(drawable(values), None))
    end_labels(ax, labels)
