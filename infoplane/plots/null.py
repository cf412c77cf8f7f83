"""I(T;Y) beside what chance gives: the same estimate on shuffled labels, and the ceiling H(Y)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from infoplane.core.palette import OKABE_ITO
from infoplane.plots._about import about, axis_label, times
from infoplane.plots._artists import Ceiling, add_caption, draw_ceilings, limits
from infoplane.plots.style import FAINT, canvas, keep_tick_style, number
from infoplane.plots.text import safe_names
from infoplane.results import ResultTable
from infoplane.results.series import ceiling_name, choose, grid

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class NullData:
    """A quantity and its null at few steps, arrays (steps, layers).

    Attributes
    ----------
    times : (S,) float64
    value, null, null_low, null_high : (S, L) float64
    """

    label: str
    layers: list[str]
    times: FloatArray
    value: FloatArray
    null: FloatArray
    null_low: FloatArray
    null_high: FloatArray
    ceiling: Ceiling | None
    caption: list[str]

    @property
    def above_chance(self) -> npt.NDArray[np.bool_]:
        """(S, L): the value lies above the 97.5 % point of the null."""
        return np.asarray(self.value > self.null_high)


def null_data(
    table: ResultTable,
    quantity: str = "I(T;Y)",
    *,
    steps: Sequence[int] | None = None,
    estimator: str | None = None,
    settings: Mapping[str, Any] | str | None = None,
    run: str | None = None,
    subset: str | None = None,
    layers: Sequence[str] | None = None,
    against: Literal["step", "epoch"] = "step",
) -> NullData:
    """A quantity and its null at the given steps; see `null` for the parameters."""
    series = choose(
        table, estimator=estimator, settings=settings, run=run, subset=subset, layers=layers, against=against
    )
    main, chance = grid(series, quantity), grid(series, f"{quantity} null")
    if not np.isfinite(chance.value).any():
        raise ValueError(f"the table has no {quantity!r} null of {series.estimator}; estimate it with null_draws=20")
    known = np.isfinite(chance.value).any(axis=1)
    if steps is None:
        both = main.steps[known]
        steps = list(dict.fromkeys([int(both[0]), int(both[-1])]))
    missing = [s for s in steps if s not in main.steps[known]]
    if missing:
        near = sorted(main.steps[known], key=lambda s: abs(s - missing[0]))[:3]
        raise ValueError(f"no null at step {missing[0]}; nearest are {', '.join(number(s) for s in sorted(near))}")
    at = [int(np.searchsorted(main.steps, s)) for s in steps]
    below = int((main.value <= chance.high)[known].sum())
    of = int((np.isfinite(main.value) & np.isfinite(chance.high)).sum())
    return NullData(
        label=axis_label(quantity, main.unit),
        layers=main.layers,
        times=times(main, against)[at],
        value=main.value[at],
        null=chance.value[at],
        null_low=chance.low[at],
        null_high=chance.high[at],
        ceiling=None if main.top is None else Ceiling(main.top, ceiling_name(main, series.n_samples)),
        caption=[*about(series, (main,)), f"no more than chance in {below} of {of} points, all steps"],
    )


def null(
    table: ResultTable,
    *,
    ax: Axes | None = None,
    quantity: str = "I(T;Y)",
    steps: Sequence[int] | None = None,
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
    data = null_data(
        table, quantity, steps=steps, estimator=estimator, settings=settings, run=run, subset=subset, layers=layers,
        against=against,
    )  # fmt: skip
    count = len(data.layers)
    with canvas(ax, style=style, width=width, aspect=min(1.6, 0.3 + 0.075 * count)) as axes:
        if caption or ax is None:
            add_caption(axes, data.caption, own=ax is None, shown=caption)
        everything = np.concatenate([data.value.ravel(), data.null_low.ravel(), data.null_high.ravel()])
        axes.set_xlim(limits(everything, data.ceiling.value if data.ceiling else None))
        axes.set_ylim(count - 0.4, -0.6)
        axes.set_xlabel(data.label)
        names = safe_names(data.layers, limit=20)
        axes.set_yticks(range(count), [names[layer] for layer in data.layers])
        axes.tick_params(axis="y", length=0)
        above = data.above_chance
        handles: list[Any] = []
        shift = np.linspace(-0.2, 0.2, len(data.times)) if len(data.times) > 1 else np.zeros(1)
        for s, when in enumerate(data.times):
            color, marker = OKABE_ITO[s], "osD^"[s]
            y = np.arange(count) + shift[s]
            axes.hlines(y, data.null[s], data.value[s], color=color, linewidth=0.7, linestyle=(0, (1, 1.5)), zorder=2)
            axes.hlines(y, data.null_low[s], data.null_high[s], color=color, linewidth=4, alpha=0.3, zorder=2)
            axes.plot(data.null[s], y, "|", color=color, markersize=6, zorder=3)
            for open_marker in (False, True):
                at = np.isfinite(data.value[s]) & (above[s] != open_marker)
                if at.any():
                    axes.plot(
                        data.value[s][at], y[at], marker, color=color, zorder=4, clip_on=False,
                        markerfacecolor="white" if open_marker else color,
                    )  # fmt: skip
            handles.append(
                Line2D([], [], color=color, marker=marker, linestyle="none", label=f"{against} {number(when)}")
            )
        handles.append(Patch(color=FAINT, alpha=0.35, linewidth=0, label="shuffled labels, 95 %"))
        handles.append(
            Line2D([], [], color=FAINT, marker="o", markerfacecolor="white", linestyle="none", label="not above chance")
        )
        draw_ceilings(axes, x=data.ceiling, y=None, named=False)
        if data.ceiling is not None:
            text = f"{data.ceiling.name} = {data.ceiling.value:.3g}"
            handles.append(Line2D([], [], color=FAINT, linewidth=0.7, linestyle=(0, (1, 2)), label=text))
        axes.legend(
            handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, labelcolor=FAINT, columnspacing=1.0,
            handletextpad=0.5, borderaxespad=0.1,
        )  # fmt: skip
        keep_tick_style(axes)
        axes.tick_params(axis="y", length=0)
    return axes
