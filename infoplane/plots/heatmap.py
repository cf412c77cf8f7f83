"""One quantity over layer and step as a heat map: the view for deep networks, where curves would tangle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from infoplane.plots._about import about, axis_label, doubtful, times
from infoplane.plots._artists import add_caption, apart
from infoplane.plots.style import canvas, drawable, keep_tick_style, number, spans_decades, step_ticks
from infoplane.plots.text import safe_names
from infoplane.results import ResultTable
from infoplane.results.series import choose, grid

FloatArray = npt.NDArray[np.float64]
MOST_NAMES = 32


@dataclass(frozen=True, eq=False)
class HeatmapData:
    """(L, S) values with layers down and steps across, NaN where a number is missing."""

    label: str
    layers: list[str]
    times: FloatArray
    value: FloatArray
    saturated: npt.NDArray[np.bool_]
    caption: list[str]


def heatmap_data(
    table: ResultTable,
    quantity: str = "I(X;T)",
    *,
    estimator: str | None = None,
    settings: Mapping[str, Any] | str | None = None,
    run: str | None = None,
    subset: str | None = None,
    layers: Sequence[str] | None = None,
    against: Literal["step", "epoch"] = "step",
) -> HeatmapData:
    """One quantity of one run as (layers, steps)."""
    series = choose(
        table, estimator=estimator, settings=settings, run=run, subset=subset, layers=layers, against=against
    )
    one = grid(series, quantity)
    value = drawable(one.value)
    if not np.isfinite(value).any():
        have = ", ".join(dict.fromkeys(str(q) for q in series.table["quantity"]))
        raise ValueError(f"{series.estimator} has no {quantity!r} in this table; available: {have}")
    saturated = one.flag("saturated") & np.isfinite(value)
    return HeatmapData(
        label=axis_label(quantity, one.unit),
        layers=one.layers,
        times=times(one, against),
        value=value.T,
        saturated=saturated.T,
        caption=[
            *about(series, (one,)),
            *doubtful(int(saturated.sum()), int(np.isfinite(value).sum()), "saturated", "hatched"),
            *doubtful(int((~np.isfinite(value)).sum()), value.size, "without a number", "white"),
        ],
    )


def heatmap(
    table: ResultTable,
    *,
    ax: Axes | None = None,
    quantity: str = "I(X;T)",
    estimator: str | None = None,
    settings: Mapping[str, Any] | str | None = None,
    run: str | None = None,
    subset: str | None = None,
    layers: Sequence[str] | None = None,
    against: Literal["step", "epoch"] = "step",
    caption: bool = True,
    style: str = "screen",
    width: float | None = None,
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
    data = heatmap_data(
        table, quantity, estimator=estimator, settings=settings, run=run, subset=subset, layers=layers, against=against
    )
    rows, columns = data.value.shape
    with canvas(ax, style=style, width=width, aspect=min(1.4, 0.28 + 0.05 * rows)) as axes:
        if caption or ax is None:
            add_caption(axes, data.caption, own=ax is None, shown=caption)
        edges = np.arange(columns + 1) - 0.5
        mesh = axes.pcolormesh(
            edges,
            np.arange(rows + 1) - 0.5,
            np.ma.masked_invalid(data.value),
            cmap="viridis",
            rasterized=rows * columns > 5000,
        )
        for row, first, count in spans(data.saturated):
            axes.add_patch(
                Rectangle((first - 0.5, row - 0.5), count, 1, fill=False, hatch="////", edgecolor="0.25", linewidth=0)
            )
        axes.set_ylim(rows - 0.5, -0.5)
        names = safe_names(data.layers, limit=20)
        every = -(-rows // MOST_NAMES)
        axes.set_yticks(range(0, rows, every), [names[layer] for layer in data.layers[::every]])
        wanted = step_ticks(data.times, spans_decades(data.times))
        # Columns are snapshots: a round step lies between the columns of its neighbours.
        columns_at = np.arange(columns, dtype=np.float64)
        ticks = apart(wanted, lambda t: float(np.interp(t, data.times, columns_at)), 0.05 * columns)
        axes.set_xticks(np.interp(ticks, data.times, columns_at), [number(t) for t in ticks])
        axes.set_xlabel(against)
        for spine in axes.spines.values():
            spine.set_visible(False)
        figure = axes.get_figure(root=True)
        bar = figure.colorbar(mesh, ax=axes, pad=0.02, aspect=22)  # type: ignore[union-attr]
        bar.set_label(data.label)
        bar.outline.set_visible(False)
        keep_tick_style(axes)
    return axes


def spans(mask: npt.NDArray[np.bool_]) -> list[tuple[int, int, int]]:
    """(row, first column, length) of every unbroken run of True."""
    out = []
    for row, line in enumerate(mask):
        change = np.diff(np.concatenate([[0], line.astype(np.int8), [0]]))
        for first, end in zip(np.flatnonzero(change == 1), np.flatnonzero(change == -1), strict=True):
            out.append((row, int(first), int(end - first)))
    return out
