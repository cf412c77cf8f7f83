"""Gradients over training: size of the mean, size of the fluctuation, and their ratio."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from infoplane.core.brief import Brief
from infoplane.core.records import FloatArray
from infoplane.plots._about import lost_words, run_words
from infoplane.plots._artists import Label, draw_line, end_labels, key, legend, step_axis
from infoplane.plots._figure import Look, Options, keywords, panels, selected
from infoplane.plots._layers import layer_looks
from infoplane.plots.style import DOTTED, FAINT
from infoplane.results import ResultTable
from infoplane.results.views import RECORDED, Selection, choose

MEAN, STD, WEIGHT = "gradient_mean_norm", "gradient_std_norm", "weight_norm"
"""Names of the recorded metrics that the figure reads."""
DASHED = (0, (4, 1.5))


@dataclass(frozen=True, eq=False)
class SnrData(Brief):
    """Gradient moments of one run, arrays (S, L), NaN where none was recorded.

    Attributes
    ----------
    mean, std : (S, L)
        Norm of the mean gradient and of its standard deviation over batches, divided by the weight norm
        where `relative`.
    ratio : (S, L)
        mean / std, the signal-to-noise ratio; NaN where std is 0.
    relative : bool
    """

    layers: list[str]
    times: FloatArray
    mean: FloatArray
    std: FloatArray
    ratio: FloatArray
    relative: bool
    caption: list[str]


ONE_ESTIMATOR = ("estimator", "settings", "subset")
"""Keywords that this figure does not take: recorded metrics have no estimator, settings or subset to choose."""


@keywords(Selection, without=ONE_ESTIMATOR)
def snr_data(table: ResultTable, **select: Unpack[Selection]) -> SnrData:
    """Return the recorded gradient moments of one run as arrays (S, L); ValueError where the table has none."""
    check_recorded(table)
    chosen: Selection = {**select, "estimator": RECORDED, "layers": select["layers"] or ["**"]}
    series = choose(table, quantity=(MEAN, STD, WEIGHT), **chosen)
    grids = [series.grid(name) for name in (MEAN, STD, WEIGHT)]
    mean, std, weight = (one.value for one in grids)
    relative = bool(np.isfinite(weight).any())
    ratio = divided(mean, std)
    if relative:
        mean, std = divided(mean, weight), divided(std, weight)
    return SnrData(
        layers=series.layers,
        times=grids[0].times,
        mean=mean,
        std=std,
        ratio=ratio,
        relative=relative,
        caption=[
            run_words(series.name(series.runs[0])),
            "gradients over batches" + (", divided by the weight norm" if relative else ""),
            "ratio below 1: fluctuation exceeds drift",
            *lost_words(table, series.runs),
        ],
    )


def check_recorded(table: ResultTable) -> None:
    """Raise ValueError where the table has no mean or no standard deviation of any layer's gradients."""
    rows = table.take(table["estimator"] == RECORDED)
    known = rows.take(np.isfinite(rows["value"]) & (rows["layer"] != ""))
    if not {MEAN, STD} <= set(known["quantity"]):
        have = ", ".join(dict.fromkeys(rows["quantity"].tolist())) or "none"
        raise ValueError(
            f"the table has no recorded gradient moments ({MEAN}, {STD}); recorded are {have}; "
            "let the recorder take gradient statistics"
        )


def divided(a: FloatArray, b: FloatArray) -> FloatArray:
    """Return a / b, NaN where b is not positive."""
    return np.asarray(np.divide(a, b, out=np.full(a.shape, np.nan), where=b > 0))


@keywords(Options, without=ONE_ESTIMATOR)
def snr(
    table: ResultTable, *, ax: Axes | Sequence[Axes] | None = None, log: bool | None = None, **options: Unpack[Options]
) -> Axes:
    """Draw the gradients' mean and standard deviation over batches, and below their ratio, per parameter.

    Shwartz-Ziv and Tishby (2017) read the step where the ratio falls below 1 as the change from drift to
    diffusion; Saxe et al. (2018) found it in networks that do not compress as well.

    Parameters
    ----------
    ax : Axes or two of them, optional
        One takes the ratio alone. Without it a figure of both panels is made and the first returned.
    table, run, layers, against, log, caption, style, width
        As in `infoplane.plots.plane`; layers are the names under which gradients were recorded.
    """
    data = snr_data(table, **selected(options))
    heights = [1.0] if isinstance(ax, Axes) else [1.0, 1.0]
    with panels(ax, data.caption, options, heights=heights, aspect=0.95) as axes:
        axes[-1].set_xlabel(options["against"])
        if len(axes) == 2:
            draw_moments(axes[0], data, options, log=log)
        draw_ratio(axes[-1], data, options, log=log)
    return axes[0]


def draw_moments(ax: Axes, data: SnrData, look: Look, *, log: bool | None) -> None:
    """Draw the norm of the mean gradient as solid and that of its standard deviation as dashed lines, one per layer."""
    ax.set_ylabel("gradient / weight" if data.relative else "gradient norm")
    labels = draw_lines(ax, data, data.mean, look, "mean", log=log)
    draw_lines(ax, data, data.std, look, "std", log=log, linestyle=DASHED)
    legend(ax, [key("mean over batches"), key("standard deviation", linestyle=DASHED)], look)
    end_labels(ax, labels)


def draw_ratio(ax: Axes, data: SnrData, look: Look, *, log: bool | None) -> None:
    """Draw the ratio of mean to standard deviation, a line for each layer, and a dotted line at 1 if it is in view."""
    ax.set_ylabel("mean / std")
    labels = draw_lines(ax, data, data.ratio, look, "ratio", log=log)
    low, high = ax.get_ylim()
    if low < 1 < high:
        ax.axhline(1.0, color=FAINT, linewidth=0.7, linestyle=DOTTED, zorder=1)
    end_labels(ax, labels)


def log_axis(ax: Axes) -> None:
    """Make the y axis logarithmic, with numbers at powers of ten.

    An axis that holds fewer than two powers of ten also has numbers at 2 and 5 times a power.
    """

    def between(value: float, _: int) -> str:
        """Return the text of a minor tick: the value at 2 and 5 times a power of ten on a short axis, else ""."""
        low, high = np.log10(ax.get_ylim())
        return f"{value:g}" if np.floor(high) <= np.ceil(low) and f"{value:e}"[0] in "25" else ""

    ax.set_yscale("log")
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(FuncFormatter(between))


def draw_lines(
    ax: Axes, data: SnrData, values: FloatArray, look: Look, part: str, *, log: bool | None, linestyle: Any = "-"
) -> list[Label]:
    """Draw `values` (S, L) on a logarithmic axis, a line for each layer, and return the labels at their ends.

    `part` is the last part of the id by which a line is found again. Numbers that a logarithmic axis cannot show are
    left out: 0 and those near the largest float.
    """
    # The x axis holds the steps with gradients: before training there are none, and step 0 needs no room.
    known = np.isfinite(np.concatenate([data.mean, data.std], axis=1)).any(axis=1)
    step_axis(ax, data.times[known] if known.any() else data.times, log=log)
    log_axis(ax)
    drawn = np.where((values > 0) & (values < 1e300), values, np.nan)
    ends = []
    for i, layer in enumerate(layer_looks(ax, data.layers, look)):
        ends += draw_line(ax, data.times, drawn[:, i], layer, part=part, marked=True, linestyle=linestyle)
    return ends
