"""A quantity against the scale it was estimated at: what depends on the number of bins or on the noise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import chain
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from infoplane.core.records import FloatArray
from infoplane.plots._about import Shown, about, axis_label
from infoplane.plots._artists import (
    OPEN,
    Label,
    apart,
    cut,
    draw_ceilings,
    draw_line,
    draw_null,
    draw_points,
    end_labels,
    highest,
    key,
    legend,
    limits,
    measured,
)
from infoplane.plots._figure import Look, Options, keywords, panel_height, panels, selected
from infoplane.plots._layers import LayerLook, layer_looks
from infoplane.plots.curves import default_quantities, draw_band
from infoplane.plots.style import CHANCE, FAINT, layer_line, number
from infoplane.plots.text import safe_text
from infoplane.results import ResultTable
from infoplane.results.limits import drawable
from infoplane.results.scales import by_scale
from infoplane.results.trajectories import Grid
from infoplane.results.views import Selection, Series, settings_words

WORDS: Mapping[str, str] = {
    "n_bins": "bins per unit",
    "width": "bin width [units of T]",
    "std": "noise std [units of T]",
    "variance": "noise variance",
    "scale": "noise std / scale of the layer",
    "relative_std": "noise std / root mean square of the layer",
    "n_neighbors": "neighbours",
}
MOST_STEPS = 4
"""Steps of which a panel has a line for each layer."""


@dataclass(frozen=True, eq=False, kw_only=True)
class SensitivityData(Shown):
    """One quantity at several settings, arrays (steps, settings, layers) with NaN where a number is missing.

    Attributes
    ----------
    quantity, scale : str
        `scale` is the setting on the axis, such as `n_bins`.
    scales : (K,) float64, ascending
    steps : (S,) float64
    value, null, null_low, null_high : (S, K, L) float64
        The null is NaN where the table has none.
    saturated : (S, K, L) bool
    """

    quantity: str
    scale: str
    scales: FloatArray
    steps: FloatArray
    value: FloatArray
    null: FloatArray
    null_low: FloatArray
    null_high: FloatArray
    saturated: npt.NDArray[np.bool_]


@keywords(Selection, without=["against"])
def sensitivity_data(
    table: ResultTable,
    quantity: str = "I(X;T)",
    *,
    scale: str | None = None,
    steps: Sequence[int] | int | None = None,
    **select: Unpack[Selection],
) -> SensitivityData:
    """Return one quantity of one run at every setting of an estimator; see `sensitivity` for the parameters."""
    name, found = by_scale(table, scale, **select)
    return series_sensitivity(name, found, quantity, steps)


def series_sensitivity(
    scale: str, found: Mapping[float, Series], quantity: str, steps: Sequence[int] | int | None
) -> SensitivityData:
    """Return one quantity at every setting as arrays (steps, settings, layers).

    `found` has, by the value of the setting `scale`, the series estimated with it. ValueError where the estimator does
    not give the quantity, and for `steps` that a setting lacks.
    """
    first, *_ = found.values()
    if quantity not in first.quantities:
        have = ", ".join(first.quantities)
        raise ValueError(f"{first.estimator} has no quantity {quantity!r} in this table; available: {have}")
    grids = [series.grid(quantity) for series in found.values()]
    nulls = [series.grid(f"{quantity} null") for series in found.values()]
    at = chosen_steps(grids, steps)
    rows = [np.searchsorted(one.steps, at) for one in grids]  # also the rows of the null, which has the same steps

    def stacked(arrays: Iterable[npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """Return one array (S, K, L) of the K given ones, each (steps, L) for one setting, at the S chosen steps."""
        return np.stack([of_grid[row] for of_grid, row in zip(arrays, rows, strict=True)], axis=1)

    return SensitivityData(
        label=axis_label(quantity, grids[0].unit),
        unit=grids[0].unit,
        layers=first.layers,
        ceiling=highest(one.named_ceiling() for one in grids),
        caption=caption_of(list(found.values()), [quantity], at),
        quantity=quantity,
        scale=scale,
        scales=np.array(list(found)),
        steps=at,
        value=drawable(stacked(one.value for one in grids)),
        null=drawable(stacked(one.value for one in nulls)),
        null_low=drawable(stacked(one.low for one in nulls)),
        null_high=drawable(stacked(one.high for one in nulls)),
        saturated=stacked(one.flag("saturated") for one in grids),
    )


def chosen_steps(grids: Sequence[Grid], steps: Sequence[int] | int | None) -> FloatArray:
    """Return the steps asked for in ascending order, by default the last one that all grids have.

    ValueError for more than four, for a step that a grid lacks, and for grids without a common step.
    """
    common = reduce(np.intersect1d, [one.steps for one in grids])
    if common.size == 0:
        raise ValueError("the settings have no step in common; estimate them on the same snapshots")
    if steps is None:
        return np.asarray(common[-1:])
    wanted = np.unique(np.atleast_1d(np.asarray(steps, dtype=np.float64)))
    if not 1 <= wanted.size <= MOST_STEPS:
        raise ValueError(f"steps must name one to {MOST_STEPS} steps, got {wanted.size}")
    if missing := [s for s in wanted if s not in common]:
        near = sorted(sorted(common, key=lambda s: abs(s - missing[0]))[:3])
        raise ValueError(f"no step {number(missing[0])} at every setting; nearest are {', '.join(map(number, near))}")
    return wanted


def caption_of(series: Sequence[Series], names: Sequence[str], steps: FloatArray) -> list[str]:
    """Return the parts of the caption: as in other figures, but with only those settings that all `series` share.

    After these come the steps, and a note that changes along the axis are not learned. `names` are quantities.
    """
    words = [settings_words(one.settings) for one in series]
    shared = [safe_text(word, limit=48) for word in words[0] if all(word in of_one for of_one in words)]
    grids = [[one.grid(name) for name in names] for one in series]
    return [
        ", ".join([safe_text(series[0].estimator), *shared]),
        *about(series[0], grids[0], drawn=chain(*grids), steps=steps)[1:],
        ("at step " if steps.size == 1 else "at steps ") + ", ".join(map(number, steps)),
        "what changes along the axis is chosen with the scale, not learned",
    ]


@keywords(Options, without=["against"])
def sensitivity(
    table: ResultTable,
    *,
    ax: Axes | Sequence[Axes] | None = None,
    quantity: Sequence[str] | str | None = None,
    scale: str | None = None,
    steps: Sequence[int] | int | None = None,
    log: bool | None = None,
    **options: Unpack[Options],
) -> Axes:
    """Draw a quantity against the scale that it was estimated at, such as a number of bins, with a line per layer.

    In a deterministic network I(X;T) belongs to the bins or the noise as much as to the layer: this shows by how much,
    from a scale too coarse to see anything to one that tells all inputs apart. Hollow points are saturated; the
    dotted line of a layer is the same quantity on shuffled labels at the last of the steps.

    Parameters
    ----------
    quantity : str or sequence of str, optional
        One panel each; by default I(X;T) and I(T;Y) as far as the table has them.
    scale : str, optional
        The setting on the axis (`n_bins`, `relative_std`); by default the one number in which settings differ.
    steps : int or sequence of int, optional
        At most four, each with a line of its own; by default the last that every setting has.
    ax : Axes or sequence of Axes, optional
        As many as there are quantities. Without it a figure is made; the first of its panels is returned.
    log : bool, optional
        Logarithmic axis; by default where the scales span a factor of ten.
    table, estimator, settings, run, subset, layers, caption, style, width
        As in `infoplane.plots.plane`, and so are the keywords of the look that follow; `settings` fixes what does not
        stand on the axis.

    Raises
    ------
    ValueError
        If the table has one setting only, or several in which more than the scale differs.
    """
    name, found = by_scale(table, scale, **selected(options))
    first = next(iter(found.values()))
    names = [quantity] if isinstance(quantity, str) else list(quantity or default_quantities(first))
    data = [series_sensitivity(name, found, one, steps) for one in names]
    caption = caption_of(list(found.values()), names, data[0].steps)
    heights = [1.0] * len(data)
    with panels(ax, caption, options, heights=heights, aspect=0.12 + 0.42 * len(data), shows=names) as axes:
        axes[-1].set_xlabel(WORDS.get(name, safe_text(name)))
        for axis, one in zip(axes, data, strict=True):
            draw_scales(axis, one, options, log=log)
    return axes[0]


def draw_scales(ax: Axes, data: SensitivityData, look: Look, *, log: bool | None) -> None:
    """Draw one panel: a line for each layer with its null at the last step, the ceiling, the legend and the names."""
    ax.set_ylabel(measured(data.label, data.caption, look, panel_height(ax)))
    edges = {side: cut(getattr(data, f"null_{side}")[-1], data.value, data.ceiling) for side in ("low", "high")}
    everything = np.concatenate([a.ravel() for a in (data.value, *edges.values())])
    ax.set_ylim(limits(everything, data.ceiling, unit=data.unit))
    scale_axis(ax, data.scales, log=log)
    ends: list[Label] = []
    for i, layer in enumerate(layer_looks(ax, data.layers, look, marks=data.marks)):
        ends += draw_layer(ax, data, i, layer)
        known = np.isfinite(data.null[-1, :, i])
        if known.any():
            draw_null(ax, data.scales[known], data.null[-1, known, i], layer)
            draw_band(ax, data.scales, edges["low"][:, i], edges["high"][:, i], layer, "null", alpha=0.15)
    draw_ceilings(ax, y=data.ceiling)
    legend(ax, keys_of(data), look)
    end_labels(ax, ends)


def scale_axis(ax: Axes, scales: FloatArray, *, log: bool | None) -> None:
    """Set up the x axis for the values `scales` (K,) of the setting, with ticks at as many of them as have room.

    The axis is logarithmic or linear as `log` says; with None it is logarithmic where the values span a factor of ten.
    """
    low, high = float(scales.min()), float(scales.max())
    if (low > 0 and high >= 10 * low) if log is None else log:
        ax.set_xscale("log")
    ax.set_xlim((low / 1.08, high * 1.08) if ax.get_xscale() == "log" else (low - 0.03 * (high - low), high * 1.03))
    across = np.log(scales) if ax.get_xscale() == "log" else scales
    place = dict(zip(scales.tolist(), (across - across[0]) / (np.ptp(across) or 1.0), strict=True))
    ax.xaxis.set_major_locator(FixedLocator(apart(scales.tolist(), place.__getitem__, 0.05)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))


def draw_layer(ax: Axes, data: SensitivityData, i: int, layer: LayerLook) -> list[Label]:
    """Draw the lines of layer number `i`, one for each step; return a list with the label at the end of the last one.

    Of several steps the last has a solid line. The list is empty where the layer has no number.
    """
    end: list[Label] = []
    for s in range(data.steps.size):
        y, known = data.value[s, :, i], np.isfinite(data.value[s, :, i])
        line = layer.line if data.steps.size == 1 else layer_line(data.steps.size - 1 - s)
        end = draw_line(ax, data.scales, y, layer, linestyle=line) or end
        draw_points(ax, data.scales[known], y[known], data.saturated[s, known, i], layer, markeredgewidth=0.7)
    return end


def keys_of(data: SensitivityData) -> list[Any]:
    """Return the entries of the legend: steps if there are several, the null and open marks if the panel has them."""
    last = data.steps.size - 1
    keys = [key(f"step {number(at)}", linestyle=layer_line(last - s)) for s, at in enumerate(data.steps) if last]
    if np.isfinite(data.null[-1]).any():
        keys.append(key("shuffled labels, mean and 95 %", linewidth=0.8, linestyle=CHANCE, color=FAINT))
    if data.saturated.any():
        keys.append(key("saturated", **OPEN))
    return keys
