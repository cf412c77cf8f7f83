"""One quantity over layer and step as a heat map: the view for deep networks, where curves would tangle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Unpack

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from infoplane.core.records import BoolArray, FloatArray
from infoplane.plots._about import Shown, doubtful, shown
from infoplane.plots._artists import MOST_NAMES, apart, colorbar, measured, name_rows
from infoplane.plots._figure import (
    Look,
    Options,
    canvas,
    is_own,
    keywords,
    multiples,
    outer_labels,
    panel_height,
    plain_numbers,
    selected,
)
from infoplane.plots._layers import END_SHARE, layer_looks
from infoplane.plots._panels import panel_texts, panels_by
from infoplane.plots.style import number, spans_decades, step_ticks
from infoplane.results import ResultTable
from infoplane.results.limits import drawable, widened
from infoplane.results.views import Selection, choose

MOST_VECTORS = 5000
"""Cells beyond which a vector file would open slowly: they become a picture."""

By = Literal["estimator", "run", "subset", "settings"] | None


@dataclass(frozen=True, eq=False, kw_only=True)
class HeatmapData(Shown):
    """Arrays (L, S), with layers down and steps across: values, NaN where one is missing, and which are saturated."""

    times: FloatArray
    value: FloatArray
    saturated: BoolArray


@keywords(Selection)
def heatmap_data(table: ResultTable, quantity: str = "I(X;T)", **select: Unpack[Selection]) -> HeatmapData:
    """Return one quantity of one run as arrays (layers, steps); ValueError where the table has no number of it."""
    series = choose(table, shows=quantity, **select)
    one = series.grid(quantity)
    value = drawable(one.value)
    known = np.isfinite(value)
    if not known.any():
        have = ", ".join(series.quantities)
        raise ValueError(f"{series.estimator} has no {quantity!r} in this table; available: {have}")
    saturated = one.flag("saturated") & known
    doubts = doubtful(int(saturated.sum()), int(known.sum()), "saturated", "hatched")
    doubts += doubtful(int((~known).sum()), value.size, "without a number", "white")
    return HeatmapData(**shown(series, one, *doubts), times=one.times, value=value.T, saturated=saturated.T)


@keywords(Options)
def heatmap(
    table: ResultTable, *, ax: Axes | None = None, by: By = None, quantity: str = "I(X;T)", **options: Unpack[Options]
) -> Axes:
    """Draw one quantity as a heat map, layers in the order of the forward pass from top to bottom.

    Every snapshot has a column of the same width: log-spaced snapshots give a logarithmic axis. Hatched cells
    are saturated, white ones have no number. The colour scale is that of the values, without the ceiling.

    Parameters
    ----------
    by : {"estimator", "run", "subset", "settings"}, optional
        A panel of equal size for each, with one colour scale; they must have the same layers and steps.
    quantity : str
    table, ax, estimator, settings, run, subset, layers, against, caption, style, width
        As in `infoplane.plots.plane`.
    """
    if by is None:
        data = heatmap_data(table, quantity, **selected(options))
        with canvas(ax, data.caption, options, aspect=aspect_of(data)) as axes:
            mesh = draw_heatmap(axes, data, options, color_limits([data]))
            label = measured(data.label, data.caption, options, panel_height(axes))
            draw_scale([axes], mesh, options, label)
        return axes
    if ax is not None:
        raise ValueError(f"by={by!r} makes a figure of several panels, so it takes no ax")
    several = panels_by(table, by, partial(heatmap_data, table, quantity), selected(options), shows=quantity)
    if len({(tuple(one.layers), tuple(one.times.tolist())) for one in several.values()}) > 1:
        raise ValueError(f"the panels of by={by!r} have not the same layers and steps; choose with layers=[...]")
    first, *_ = several.values()
    titles, caption = panel_texts({name: one.caption for name, one in several.items()}, by)
    across = min(len(several), 1 if options["style"] == "column" else 2)
    ends = color_limits(list(several.values()))
    with multiples(titles, caption, options, across=across, height=aspect_of(first) / across) as panels:
        for panel, one in zip(panels, several.values(), strict=True):
            mesh = draw_heatmap(panel, one, options, ends)
        outer_labels(panels, across)
        draw_scale(panels, mesh, options, first.label)
    return panels[0]


def aspect_of(data: HeatmapData) -> float:
    """Return the height of a map as a multiple of its width, which grows with the number of layers."""
    return min(1.4, max(0.42, 0.28 + 0.05 * len(data.layers)))


def color_limits(data: Sequence[HeatmapData]) -> tuple[float, float]:
    """Return the ends (low, high) of the one colour scale of these maps."""
    values = np.concatenate([one.value.ravel() for one in data])
    tops = [one.ceiling.value for one in data if one.ceiling is not None]
    return widened(float(np.nanmin(values)), float(np.nanmax(values)), max(tops, default=None), unit=data[0].unit)


def draw_heatmap(ax: Axes, data: HeatmapData, options: Options, ends: tuple[float, float]) -> Any:
    """Draw the cells of one map with the names of layers and steps; return the mesh of cells, for the colour bar.

    `ends` are the lowest and the highest value of the colour scale.
    """
    spec = ax.get_subplotspec()
    # Of several panels in a row only the first has names, which may take the share of the whole figure's width.
    share = END_SHARE * (spec.get_gridspec().ncols if is_own(ax) and spec is not None else 1)
    mesh = draw_cells(ax, data.value, data.saturated, options, ends)
    name_rows(ax, layer_looks(ax, data.layers, options, share=share, marks=data.marks), most=MOST_NAMES)
    ax.set_xticks(*round_steps(data.times))
    ax.set_xlabel(options["against"])
    return mesh


def draw_cells(
    ax: Axes, value: FloatArray, hatched: BoolArray, look: Look, ends: tuple[float, float], *, hatch: str = "0.25"
) -> Any:
    """Draw `value` (rows, columns) as coloured cells, the first row on top; return the mesh of cells.

    Cells where `hatched` (rows, columns) is true are hatched in the colour `hatch`; those that are NaN stay white.
    `ends` are the lowest and the highest value of the colour scale.
    """
    rows, columns = value.shape
    x, y = np.arange(columns + 1) - 0.5, np.arange(rows + 1) - 0.5
    cmap = "viridis" if look["cmap"] is None else look["cmap"]
    how: dict[str, Any] = {"cmap": cmap, "vmin": ends[0], "vmax": ends[1], "rasterized": value.size > MOST_VECTORS}
    mesh = ax.pcolormesh(x, y, np.ma.masked_invalid(value), **how)
    for row, first, count in spans(hatched):
        corner = (first - 0.5, row - 0.5)
        ax.add_patch(Rectangle(corner, count, 1, fill=False, hatch="////", edgecolor=hatch, linewidth=0))
    ax.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5))
    ax.spines[:].set_visible(False)
    return mesh


def round_steps(times: FloatArray) -> tuple[list[float], list[str]]:
    """Return the positions and the names of ticks at round steps, on an axis with one column for each of `times` (S,).

    Positions count columns from 0. A round step that is none of `times` has its tick between two columns.
    """
    columns = np.arange(times.size, dtype=np.float64)
    wanted = step_ticks(times, spans_decades(times))
    ticks = apart(wanted, lambda t: float(np.interp(t, times, columns)), 0.05 * times.size)
    return np.interp(ticks, times, columns).tolist(), [number(t) for t in ticks]


def draw_scale(axes: Sequence[Axes], mesh: Any, options: Look, label: str) -> None:
    """Draw one colour bar for all these axes, with `label`, unless `options` ask for no colour bar.

    `mesh` is what has the colours.
    """
    if bar := colorbar(axes[0] if len(axes) == 1 else axes, mesh, options, label, aspect=22):
        plain_numbers(bar.ax)
        bar.outline.set_visible(False)


def spans(mask: BoolArray) -> list[tuple[int, int, int]]:
    """Return (row, first column, number of columns) of every unbroken run of True in a mask (rows, columns)."""
    change = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8))  # 1 where a run begins, -1 behind its end
    rows, first = np.nonzero(change == 1)
    end = np.nonzero(change == -1)[1]
    return list(zip(rows.tolist(), first.tolist(), (end - first).tolist(), strict=True))
