"""Gradients over training: size of the mean, size of the fluctuation, and their ratio."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from infoplane.core.palette import layer_colors
from infoplane.plots._about import lost_words
from infoplane.plots._artists import Label, add_caption, end_labels, step_axis
from infoplane.plots.style import FAINT, canvas, figure_canvas, keep_tick_style, layer_marker, spans_decades
from infoplane.plots.text import safe_names, safe_text
from infoplane.results import ResultTable
from infoplane.results.series import RECORDED, layer_metrics, match_layers

FloatArray = npt.NDArray[np.float64]
MEAN, STD, WEIGHT = "gradient_mean_norm", "gradient_std_norm", "weight_norm"


@dataclass(frozen=True, eq=False)
class SnrData:
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


def snr_data(
    table: ResultTable,
    *,
    run: str | None = None,
    layers: Sequence[str] | None = None,
    against: Literal["step", "epoch"] = "step",
) -> SnrData:
    """Recorded gradient moments of one run; see `snr`."""
    run, times, known, moments = layer_metrics(table, (MEAN, STD, WEIGHT), run=run, against=against)
    if not known or not np.isfinite(moments[MEAN]).any() or not np.isfinite(moments[STD]).any():
        rows = table.select(estimator=RECORDED)
        have = ", ".join(dict.fromkeys(str(q) for q in rows["quantity"])) or "none"
        raise ValueError(
            f"the table has no recorded gradient moments ({MEAN}, {STD}); recorded are {have}; "
            "let the recorder take gradient statistics"
        )
    keep = [known.index(layer) for layer in (match_layers(layers, known) if layers else known)]
    mean, std, weight = (moments[name][:, keep] for name in (MEAN, STD, WEIGHT))
    relative = bool(np.isfinite(weight).any())
    ratio = np.divide(mean, std, out=np.full(mean.shape, np.nan), where=std > 0)
    if relative:
        mean, std = (np.divide(a, weight, out=np.full(a.shape, np.nan), where=weight > 0) for a in (mean, std))
    return SnrData(
        layers=[known[i] for i in keep],
        times=times,
        mean=mean,
        std=std,
        ratio=ratio,
        relative=relative,
        caption=[
            f"run {safe_text(run, limit=24)}",
            "gradients over batches" + (", divided by the weight norm" if relative else ""),
            "ratio below 1: fluctuation exceeds drift",
            *lost_words(table, [run]),
        ],
    )


def snr(
    table: ResultTable,
    *,
    ax: Axes | None = None,
    run: str | None = None,
    layers: Sequence[str] | None = None,
    against: Literal["step", "epoch"] = "step",
    log: bool | None = None,
    caption: bool = True,
    style: str = "screen",
    width: float | None = None,
) -> Axes:
    """Draw the gradients' mean and standard deviation over batches, and below their ratio, per parameter.

    Shwartz-Ziv and Tishby (2017) read the step where the ratio falls below 1 as the change from drift to
    diffusion; Saxe et al. (2018) found it in networks that do not compress as well.

    Parameters
    ----------
    ax : Axes, optional
        Takes the ratio alone. Without it a figure of both panels is made and the first returned.
    table, run, layers, against, log, caption, style, width
        As in `infoplane.plots.plane`; layers are the names under which gradients were recorded.
    """
    data = snr_data(table, run=run, layers=layers, against=against)
    if ax is not None:
        with canvas(ax):
            draw_ratio(ax, data, log=log)
            ax.set_xlabel(against)
            if caption:
                add_caption(ax, data.caption, own=False)
        return ax
    with figure_canvas(style=style, width=width, aspect=0.95) as figure:
        grid: Any = figure.subplots(2, 1, sharex=True)
        upper, lower = grid
        lower.set_xlabel(against)
        add_caption(lower, data.caption, own=True, shown=caption)
        draw_moments(upper, data, log=log)
        draw_ratio(lower, data, log=log)
        upper.tick_params(labelbottom=False)
        for axis in (upper, lower):
            keep_tick_style(axis)
    first: Axes = upper
    return first


def draw_moments(ax: Axes, data: SnrData, *, log: bool | None) -> None:
    """Mean solid, standard deviation dashed, one colour per layer."""
    ax.set_ylabel("gradient / weight" if data.relative else "gradient norm")
    ends = draw_lines(ax, data, data.mean, log=log)
    draw_lines(ax, data, data.std, log=log, linestyle=(0, (4, 1.5)))
    handles = [
        Line2D([], [], color=FAINT, label="mean over batches"),
        Line2D([], [], color=FAINT, linestyle=(0, (4, 1.5)), label="standard deviation"),
    ]
    ax.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, labelcolor=FAINT, borderaxespad=0.1)
    end_labels(ax, ends)


def draw_ratio(ax: Axes, data: SnrData, *, log: bool | None) -> None:
    ax.set_ylabel("mean / std")
    ends = draw_lines(ax, data, data.ratio, log=log)
    low, high = ax.get_ylim()
    if low < 1 < high:
        ax.axhline(1.0, color=FAINT, linewidth=0.7, linestyle=(0, (1, 2)), zorder=1)
    end_labels(ax, ends)


def draw_lines(ax: Axes, data: SnrData, values: FloatArray, *, log: bool | None, linestyle: Any = "-") -> list[Label]:
    """Lines on a logarithmic axis; zeros have no place there and are left out."""
    names = safe_names(data.layers, limit=18)
    step_axis(ax, data.times, log=spans_decades(data.times) if log is None else log)
    ax.set_yscale("log")
    ends = []
    for i, (layer, color) in enumerate(zip(data.layers, layer_colors(len(data.layers)), strict=True)):
        keep = np.isfinite(values[:, i]) & (values[:, i] > 0) & (values[:, i] < 1e300)
        if keep.any():
            x, y = data.times[keep], values[keep, i]
            ax.plot(x, y, color=color, linestyle=linestyle, zorder=3)
            ax.plot(x[-1:], y[-1:], color=color, marker=layer_marker(i), linestyle="none", zorder=4, clip_on=False)
            ends.append(Label(float(x[-1]), float(y[-1]), names[layer], color))
    return ends
