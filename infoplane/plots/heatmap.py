"""One quantity over layer and step as a heat map: the view for deep networks, where curves would tangle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from infoplane.plots._about import Shown, doubtful, shown
from infoplane.plots._artists import apart, colorbar, measured, row_axis
from infoplane.plots._figure import Options, canvas, keywords, panel_height, plain_numbers, selected
from infoplane.plots._layers import END_SHARE, layer_looks
from infoplane.plots.style import drawable, number, spans_decades, step_ticks
from infoplane.results import ResultTable
from infoplane.results.limits import widened
from infoplane.results.views import Selection, choose

FloatArray = npt.NDArray[np.float64]
MOST_NAMES = 32


@dataclass(frozen=True, eq=False, kw_only=True)
class HeatmapData(Shown):
    """(L, S) values with layers down and steps across, NaN where a number is missing."""

    times: FloatArray
    value: FloatArray
    saturated: npt.NDArray[np.bool_]


@keywords(Selection)
def heatmap_data(table: ResultTable, quantity: str = "I(X;T)", **select: Unpack[Selection]) -> HeatmapData:
    """One quantity of one run as (layers, steps)."""
    series = choose(table, **select)
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
    table: ResultTable, *, ax: Axes | None = None, quantity: str = "I(X;T)", **options: Unpack[Options]
) -> Axes:
    """Draw one quantity as a heat map, layers in the order of the forward pass from top to bottom.

    Every snapshot has a column of the same width: log-spaced snapshots give a logarithmic axis. Hatched cells
    are saturated, white ones have no number. The colour scale is that of the values, without the ceiling.

    Parameters
    ----------
    quantity : str
    table, ax, estimator, settings, run, subset, layers, against, caption, style, width
        As in `infoplane.plots.plane`.
    """
    data = heatmap_data(table, quantity, **selected(options))
    rows, columns = data.value.shape
    with canvas(ax, data.caption, options, aspect=min(1.4, max(0.42, 0.28 + 0.05 * rows))) as axes:
        x, y = np.arange(columns + 1) - 0.5, np.arange(rows + 1) - 0.5
        value, raster = np.ma.masked_invalid(data.value), rows * columns > 5000
        top = None if data.ceiling is None else data.ceiling.value
        low, high = widened(float(value.min()), float(value.max()), top, unit=data.unit)
        scale: dict[str, Any] = {
            "cmap": "viridis" if options["cmap"] is None else options["cmap"],
            "vmin": low,
            "vmax": high,
        }
        mesh = axes.pcolormesh(x, y, value, rasterized=raster, **scale)
        for row, first, count in spans(data.saturated):
            corner = (first - 0.5, row - 0.5)
            axes.add_patch(Rectangle(corner, count, 1, fill=False, hatch="////", edgecolor="0.25", linewidth=0))
        label_cells(axes, data, options)
        axes.set_xlabel(options["against"])
        axes.spines[:].set_visible(False)
        label = measured(data.label, data.caption, options, panel_height(axes))
        if bar := colorbar(axes, mesh, options, label, aspect=22):
            plain_numbers(bar.ax)
            bar.outline.set_visible(False)
    return axes


def label_cells(ax: Axes, data: HeatmapData, look: Options) -> None:
    """Names of layers down, as many as there is room for, and round steps across."""
    rows, columns = data.value.shape
    row_axis(ax, layer_looks(ax, data.layers, look, share=END_SHARE), every=-(-rows // MOST_NAMES))
    ax.set_ylim(rows - 0.5, -0.5)
    # Columns are snapshots: a round step lies between the columns of its neighbours.
    at = np.arange(columns, dtype=np.float64)
    wanted = step_ticks(data.times, spans_decades(data.times))
    ticks = apart(wanted, lambda t: float(np.interp(t, data.times, at)), 0.05 * columns)
    ax.set_xticks(np.interp(ticks, data.times, at), [number(t) for t in ticks])


def spans(mask: npt.NDArray[np.bool_]) -> list[tuple[int, int, int]]:
    """(row, first column, length) of every unbroken run of True."""
    out = []
    for row, line in enumerate(mask):
        change = np.diff(np.concatenate([[0], line.astype(np.int8), [0]]))
        for first, end in zip(np.flatnonzero(change == 1), np.flatnonzero(change == -1), strict=True):
            out.append((row, int(first), int(end - first)))
    return out
