"""I(T;Y) beside what chance gives: the same estimate on shuffled labels, and the ceiling H(Y)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.patches import Patch

from infoplane.core.records import FloatArray
from infoplane.plots._about import Shown, shown
from infoplane.plots._artists import (
    LEGEND_SHARE,
    OPEN,
    ROW_SHARE,
    beside_rows,
    cut,
    draw_ceilings,
    draw_points,
    key,
    legend,
    limits,
    measured,
    row_axis,
)
from infoplane.plots._figure import Options, canvas, keywords, selected, slot_width
from infoplane.plots._layers import LayerLook, own_looks, row_looks, tag
from infoplane.plots.style import CHANCE, DOTTED, FAINT, number, step_colormap
from infoplane.results import ResultTable
from infoplane.results.views import Selection, choose


@dataclass(frozen=True, eq=False, kw_only=True)
class NullData(Shown):
    """A quantity and its null at few steps, arrays (steps, layers).

    Attributes
    ----------
    times : (S,) float64
    value, null, null_low, null_high : (S, L) float64
    """

    times: FloatArray
    value: FloatArray
    null: FloatArray
    null_low: FloatArray
    null_high: FloatArray

    @property
    def above_chance(self) -> npt.NDArray[np.bool_]:
        """(S, L): the value lies above the 97.5 % point of the null."""
        return np.asarray(self.value > self.null_high)


@keywords(Selection)
def null_data(
    table: ResultTable, quantity: str = "I(T;Y)", *, steps: Sequence[int] | None = None, **select: Unpack[Selection]
) -> NullData:
    """Return a quantity and its null at the given steps; see `null` for the parameters.

    ValueError where the table has no null of the quantity, or none at one of the steps.
    """
    series = choose(table, **select)
    main, chance = series.grid(quantity), series.grid(f"{quantity} null")
    known = np.isfinite(chance.value).any(axis=1)
    if not known.any():
        raise ValueError(f"the table has no {quantity!r} null of {series.estimator}; estimate it with null_draws=20")
    have = main.steps[known]
    if steps is None:
        steps = list(dict.fromkeys([int(have[0]), int(have[-1])]))
    if missing := [s for s in steps if s not in have]:
        near = sorted(have, key=lambda s: abs(s - missing[0]))[:3]
        raise ValueError(f"no null at step {missing[0]}; nearest are {', '.join(number(s) for s in sorted(near))}")
    at = [int(np.searchsorted(main.steps, s)) for s in steps]
    below = int((main.value <= chance.high)[known].sum())
    total = int((np.isfinite(main.value) & np.isfinite(chance.high)).sum())
    return NullData(
        **shown(series, main, f"no more than chance in {below} of {total} points, all steps"),
        times=main.times[at],
        value=main.value[at],
        null=chance.value[at],
        null_low=chance.low[at],
        null_high=chance.high[at],
    )


@keywords(Options)
def null(
    table: ResultTable,
    *,
    ax: Axes | None = None,
    quantity: str = "I(T;Y)",
    steps: Sequence[int] | None = None,
    **options: Unpack[Options],
) -> Axes:
    """Draw each layer's value beside the same estimate on shuffled labels.

    A filled marker lies above the 95 % interval of the null, an open one does not: then the layer need not
    carry anything about the label. A null near the ceiling says that the estimator can tell all samples
    apart and would find any labelling.

    Parameters
    ----------
    quantity : str
        One that has a "... null" in the table.
    steps : sequence of int, optional
        At most four; by default the first and the last.
    table, ax, estimator, settings, run, subset, layers, against, caption, style, width
        As in `infoplane.plots.plane`.
    """
    if steps is not None and not 1 <= len(steps) <= 4:
        raise ValueError(f"steps must name one to four steps, got {len(steps)}")
    data = null_data(table, quantity, steps=steps, **selected(options))
    with canvas(ax, data.caption, options, aspect=min(1.6, 0.3 + 0.075 * len(data.layers))) as axes:
        everything = np.concatenate([data.value, data.null, data.null_low, data.null_high]).ravel()
        axes.set_xlim(limits(everything, data.ceiling, unit=data.unit))
        axes.set_xlabel(measured(data.label, data.caption, options, LEGEND_SHARE * slot_width(axes)))
        row_axis(axes, row_looks(axes, data.layers, options, share=ROW_SHARE, marks=data.marks))
        keys: list[Any] = [draw_step(axes, data, i, step) for i, step in enumerate(step_looks(data, options))]
        draw_ceilings(axes, x=data.ceiling, named=False)
        band = Patch(color=FAINT, alpha=0.35, linewidth=0, label="shuffled labels, 95 %")
        keys += [band, key("not above chance", **OPEN)]
        if data.ceiling is not None:
            keys.append(key(str(data.ceiling), linewidth=0.7, linestyle=DOTTED))
        legend(axes, keys, options, share=beside_rows(axes))
    return axes


def step_looks(data: NullData, look: Options) -> list[LayerLook]:
    """Return one LayerLook for each step, such as "step 100", by default in a colour of the colour map."""
    names = [f"{look['against']} {number(time)}" for time in data.times]
    shades = step_colormap(look["cmap"])(np.linspace(0.1, 0.8, len(names)))
    return own_looks(names, names, look, list(map(to_hex, shades)), list("osD^")[: len(names)])


def draw_step(ax: Axes, data: NullData, number: int, step: LayerLook) -> Any:
    """Draw the values at step number `number` and their null in the rows of the layers; return the legend entry."""
    count = len(data.times)
    # Rows are 1 apart: the steps of one layer stay nearer to each other than to the next layer.
    y = np.arange(len(data.layers)) + (np.linspace(-0.2, 0.2, count)[number] if count > 1 else 0.0)
    color, value, null = step.color, data.value[number], data.null[number]
    low, high = (cut(edge, data.value, data.ceiling)[number] for edge in (data.null_low, data.null_high))
    tag(ax.hlines(y, null, value, color=color, linewidth=0.7, linestyle=CHANCE, zorder=2), step.key, "null")
    tag(ax.hlines(y, low, high, color=color, linewidth=4, alpha=0.3, zorder=2), step.key, "null")
    tag(ax.plot(null, y, "|", color=color, markersize=6, zorder=3), step.key, "null")
    at = np.isfinite(value)
    draw_points(ax, value[at], y[at], ~data.above_chance[number][at], step)
    return key(step.name, color=color, marker=step.marker, linestyle="none")
