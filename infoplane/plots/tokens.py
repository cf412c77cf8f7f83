"""One quantity along the tokens of a sequence, with the positions that stand out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from infoplane.core.palette import layer_colors
from infoplane.core.tokens import split_token, token_position
from infoplane.plots._about import about, axis_label
from infoplane.plots._artists import Ceiling, Label, add_caption, draw_ceilings, end_labels, limits
from infoplane.plots.style import FAINT, canvas, drawable, keep_tick_style, layer_line, layer_marker, number
from infoplane.plots.text import safe_names
from infoplane.results import ResultTable
from infoplane.results.series import ceiling_name, choose, grid
from infoplane.results.summary import upper_fence

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class TokensData:
    """One quantity at one step as (L, P) arrays over layers and positions, NaN where a number is missing.

    Attributes
    ----------
    positions : (P,) int64
    null : (L, P) or None
        Mean over shuffled labels, where the estimator gives it.
    threshold : (L,)
        Upper quartile of the layer's positions and `whisker` interquartile ranges; NaN for fewer than four positions.
    peak : (L, P) bool
        Values above it.
    """

    label: str
    step: int
    layers: list[str]
    positions: npt.NDArray[np.int64]
    value: FloatArray
    null: FloatArray | None
    threshold: FloatArray
    peak: npt.NDArray[np.bool_]
    whisker: float
    ceiling: Ceiling | None
    caption: list[str]


def tokens_data(
    table: ResultTable,
    quantity: str | None = None,
    *,
    step: int | None = None,
    whisker: float = 1.5,
    estimator: str | None = None,
    settings: Mapping[str, Any] | str | None = None,
    run: str | None = None,
    subset: str | None = None,
    layers: Sequence[str] | None = None,
) -> TokensData:
    """One quantity of one run along its positions; see `tokens`."""
    if not any(token_position(layer) is not None for layer in set(table["layer"].tolist())):
        raise ValueError("the table has no single positions; analyze with layers=['LAYER[token=*]'] first")
    wanted = [layers] if isinstance(layers, str) else list(layers or ["*"])
    series = choose(
        table, estimator=estimator, settings=settings, run=run, subset=subset,
        layers=[f"{layer}[token=*]" for layer in wanted],
    )  # fmt: skip
    have = list(dict.fromkeys(str(q) for q in series.table["quantity"]))
    if quantity is None:
        quantity = next((q for q in ("nHSIC(T;Y)", "I(T;Y)") if q in have), have[0])
    if quantity not in have:
        raise ValueError(f"{series.estimator} has no {quantity!r} in this table; available: {', '.join(have)}")
    main = grid(series, quantity)
    steps = main.steps[np.isfinite(main.value).any(axis=1)].astype(np.int64).tolist()
    at = step if step is not None else steps[-1] if steps else None
    if at not in steps:
        raise ValueError(f"no {quantity} at step {step}; the table has {', '.join(map(str, steps)) or 'none'}")
    row = int(np.flatnonzero(main.steps == at)[0])
    names = list(dict.fromkeys(split_token(key)[0] for key in main.layers))
    places = [(names.index(split_token(key)[0]), token_position(key) or 0) for key in main.layers]
    positions = np.unique([position for _, position in places])

    def along(values: FloatArray) -> FloatArray:
        out = np.full((len(names), positions.size), np.nan)
        for (i, position), value in zip(places, values, strict=True):
            out[i, np.searchsorted(positions, position)] = value
        return drawable(out)

    value = along(main.value[row])
    null = along(grid(series, f"{quantity} null").value[row]) if f"{quantity} null" in have else None
    threshold = np.array([upper_fence(line, whisker) for line in value])
    return TokensData(
        label=axis_label(quantity, main.unit),
        step=int(main.steps[row]),
        layers=names,
        positions=positions,
        value=value,
        null=null,
        threshold=threshold,
        peak=value > threshold[:, None],
        whisker=whisker,
        ceiling=None if main.top is None else Ceiling(main.top, ceiling_name(main, series.n_samples)),
        caption=[*about(series, (main,)), f"step {number(main.steps[row])}"],
    )


def tokens(
    table: ResultTable,
    *,
    ax: Axes | None = None,
    quantity: str | None = None,
    step: int | None = None,
    whisker: float = 1.5,
    estimator: str | None = None,
    settings: Mapping[str, Any] | str | None = None,
    run: str | None = None,
    subset: str | None = None,
    layers: Sequence[str] | None = None,
    caption: bool = True,
    style: str = "screen",
    width: float | None = None,
) -> Axes:
    """Draw one quantity against the position in the sequence, one line per layer, at one step of training.

    A marker stands where the value lies above the upper quartile of the layer's positions by more than `whisker`
    interquartile ranges, the dashed line; see `infoplane.diagnostics.token_peaks`. The rule compares positions with
    each other, not with chance: for that there is the dotted line, the same quantity on shuffled labels.

    Parameters
    ----------
    quantity : str, optional
        By default nHSIC(T;Y) or I(T;Y), whichever the estimator gives.
    step : int, optional
        By default the last.
    whisker : float
    layers : names or globs of whole layers, optional
        "block*" for all positions of those blocks.
    table, ax, estimator, settings, run, subset, caption, style, width
        As in `infoplane.plots.plane`.

    Raises
    ------
    ValueError
        If the table has no single positions, lacks what is asked for, or leaves a choice that was not made.
    """
    data = tokens_data(
        table, quantity, step=step, whisker=whisker, estimator=estimator, settings=settings, run=run, subset=subset,
        layers=layers,
    )  # fmt: skip
    with canvas(ax, style=style, width=width, aspect=0.55) as axes:
        if caption or ax is None:
            add_caption(axes, data.caption, own=ax is None, shown=caption)
        draw(axes, data)
        keep_tick_style(axes)
    return axes


def draw(ax: Axes, data: TokensData) -> None:
    colors, names = layer_colors(len(data.layers)), safe_names(data.layers, limit=18)
    drawn = [data.value, data.threshold] + ([] if data.null is None else [data.null])
    ax.set_ylim(limits(np.concatenate([a.ravel() for a in drawn]), data.ceiling.value if data.ceiling else None))
    first, last = int(data.positions[0]), int(data.positions[-1])
    pad = 0.02 * (last - first) or 0.5
    ax.set_xlim(first - pad, last + pad)
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    ax.set_xlabel("token")
    ax.set_ylabel(data.label)
    ends = []
    for i, layer in enumerate(data.layers):
        known = np.isfinite(data.value[i])
        if not known.any():
            continue
        x, y, peak = data.positions[known], data.value[i, known], data.peak[i, known]
        line = layer_line(i // 8 if len(data.layers) > 8 else 0)
        ax.plot(x, y, color=colors[i], linestyle=line, linewidth=1.0, zorder=3)
        if np.isfinite(data.threshold[i]):
            ax.axhline(data.threshold[i], color=colors[i], linewidth=0.7, linestyle=(0, (5, 3)), alpha=0.7, zorder=1.6)
        if data.null is not None:
            ax.plot(data.positions, data.null[i], color=colors[i], linewidth=0.8, linestyle=(0, (1, 1.5)), zorder=2)
        if peak.any():
            ax.plot(x[peak], y[peak], linestyle="none", marker=layer_marker(i), color=colors[i], zorder=4)
        ends.append(Label(float(x[-1]), float(y[-1]), names[layer], colors[i]))
    draw_ceilings(ax, x=None, y=data.ceiling)
    handles = [
        Line2D([], [], color=FAINT, linewidth=0.7, linestyle=(0, (5, 3)), label=f"Q₃ + {data.whisker:g} IQR"),
        Line2D([], [], color=FAINT, marker="o", linestyle="none", label="above it"),
    ]
    if data.null is not None:
        handles.append(Line2D([], [], color=FAINT, linewidth=0.8, linestyle=(0, (1, 1.5)), label="shuffled labels"))
    ax.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, labelcolor=FAINT, borderaxespad=0.1)
    end_labels(ax, ends)
