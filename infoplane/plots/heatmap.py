"""One quantity over layer and step as a heat map: the view for deep networks, where curves would tangle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Unpack

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from infoplane.plots._about import Shown, doubtful, shown
from infoplane.plots._artists import apart
from infoplane.plots._figure import Options, canvas, figure_of, keywords, selected
from infoplane.plots.style import drawable, number, spans_decades, step_ticks
from infoplane.plots.text import safe_names
from infoplane.results import ResultTable
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
    with canvas(ax, data.caption, options, aspect=min(1.4, 0.28 + 0.05 * rows)) as axes:
        x, y = np.arange(columns + 1) - 0.5, np.arange(rows + 1) - 0.5
        value, raster = np.ma.masked_invalid(data.value), rows * columns > 5000
        mesh = axes.pcolormesh(x, y, value, cmap="viridis", rasterized=raster)
        for row, first, count in spans(data.saturated):
            corner = (first - 0.5, row - 0.5)
            axes.add_patch(Rectangle(corner, count, 1, fill=False, hatch="////", edgecolor="0.25", linewidth=0))
        label_cells(axes, data)
        axes.set_xlabel(options["against"])
        axes.spines[:].set_visible(False)
        bar = figure_of(axes).colorbar(mesh, ax=axes, pad=0.02, aspect=22)
        bar.set_label(data.label)
        bar.outline.set_visible(False)
    return axes


def label_cells(ax: Axes, data: HeatmapData) -> None:
    """Names of layers down, as many as there is room for, and round steps across."""
    rows, columns = data.value.shape
    names = safe_names(data.layers, limit=20)
    every = -(-rows // MOST_NAMES)
    ax.set_ylim(rows - 0.5, -0.5)
    ax.set_yticks(range(0, rows, every), [names[layer] for layer in data.layers[::every]])
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
