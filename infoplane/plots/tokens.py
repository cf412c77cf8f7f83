"""One quantity along the tokens of a sequence, with the positions that stand out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from infoplane.core.records import FloatArray
from infoplane.core.tokens import split_token, token_position
from infoplane.plots._about import Shown, shown
from infoplane.plots._artists import (
    Label,
    draw_ceilings,
    draw_line,
    draw_null,
    end_labels,
    key,
    legend,
    limits,
    measured,
)
from infoplane.plots._figure import Look, Options, canvas, keywords, panel_height, selected
from infoplane.plots._layers import LayerLook, layer_looks, tag
from infoplane.plots.style import CHANCE, number
from infoplane.results import ResultTable
from infoplane.results.limits import drawable
from infoplane.results.summary import upper_fence
from infoplane.results.views import Selection, choose

DASHED = (0, (5, 3))


@dataclass(frozen=True, eq=False, kw_only=True)
class TokensData(Shown):
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

    step: int
    positions: npt.NDArray[np.int64]
    value: FloatArray
    null: FloatArray | None
    threshold: FloatArray
    peak: npt.NDArray[np.bool_]
    whisker: float

    @property
    def fence(self) -> FloatArray:
        """(L,): the threshold of each layer, NaN where it lies above the ceiling, so that no value can pass it."""
        top = np.inf if self.ceiling is None else self.ceiling.value
        return np.where(self.threshold <= top, self.threshold, np.nan)


@keywords(Selection, without=["against"])
def tokens_data(
    table: ResultTable,
    quantity: str | None = None,
    *,
    step: int | None = None,
    whisker: float = 1.5,
    **select: Unpack[Selection],
) -> TokensData:
    """Return one quantity of one run at one step, as arrays over layers and positions; see `tokens`."""
    if not any(token_position(layer) is not None for layer in set(table["layer"].tolist())):
        raise ValueError("the table has no single positions; analyze with layers=['LAYER[token=*]'] first")
    layers = select["layers"] or ["**"]
    wanted = [layers] if isinstance(layers, str) else list(layers)
    select["layers"] = [f"{layer}[token=*]" for layer in wanted]
    series = choose(table, **select)
    have = series.quantities
    if quantity is None:
        quantity = next((q for q in ("nHSIC(T;Y)", "I(T;Y)") if q in have), have[0])
    if quantity not in have:
        raise ValueError(f"{series.estimator} has no {quantity!r} in this table; available: {', '.join(have)}")
    main = series.grid(quantity)
    row = row_of(main.steps, main.value, step, quantity)
    names, positions, value = along(main.layers, main.value[row])
    null = along(main.layers, series.grid(f"{quantity} null").value[row])[2] if f"{quantity} null" in have else None
    threshold = np.array([upper_fence(line, whisker) for line in value])
    return TokensData(
        **shown(series, main, f"step {number(main.steps[row])}", steps=main.steps[row]) | {"layers": names},
        step=int(main.steps[row]),
        positions=positions,
        value=value,
        null=null,
        threshold=threshold,
        peak=value > threshold[:, None],
        whisker=whisker,
    )


def row_of(steps: FloatArray, values: FloatArray, step: int | None, quantity: str) -> int:
    """Return the number of the row of `values` (S, L) at `step`, by default at the last step that has a number.

    ValueError where there is no number at that step, or at any. `quantity` is the name of the values, for the error.
    """
    have = steps[np.isfinite(values).any(axis=1)].astype(np.int64).tolist()
    wanted = step if step is not None else have[-1] if have else None
    if wanted not in have:
        raise ValueError(f"no {quantity} at step {step}; the table has {', '.join(map(str, have)) or 'none'}")
    return int(np.flatnonzero(steps == wanted)[0])


def along(keys: list[str], values: FloatArray) -> tuple[list[str], npt.NDArray[np.int64], FloatArray]:
    """Return the names of the L layers, the positions (P,), and the values as (L, P), NaN where a number is missing.

    `keys` are names of layers with a position, such as `block1[token=3]`; `values` has a number for each of them.
    """
    names = list(dict.fromkeys(split_token(key)[0] for key in keys))
    places = np.array([token_position(key) or 0 for key in keys], dtype=np.int64)
    positions = np.unique(places)
    out = np.full((len(names), positions.size), np.nan)
    out[[names.index(split_token(key)[0]) for key in keys], np.searchsorted(positions, places)] = values
    return names, positions, drawable(out)


@keywords(Options, without=["against"])
def tokens(
    table: ResultTable,
    *,
    ax: Axes | None = None,
    quantity: str | None = None,
    step: int | None = None,
    whisker: float = 1.5,
    **options: Unpack[Options],
) -> Axes:
    """Draw one quantity against the position in the sequence, one line per layer, at one step of training.

    A marker stands where the value lies above the upper quartile of the layer's positions by more than `whisker`
    interquartile ranges, the dashed line; see `infoplane.diagnostics.token_peaks`. The rule compares positions with
    each other, not with chance: for that there is the dotted line, the same quantity on shuffled labels. A line that
    would lie above the ceiling is left out, since no value can pass it.

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
    data = tokens_data(table, quantity, step=step, whisker=whisker, **selected(options))
    with canvas(ax, data.caption, options, aspect=0.55) as axes:
        draw(axes, data, options)
    return axes


def draw(ax: Axes, data: TokensData, look: Look) -> None:
    """Set up the axes, and draw a line for each layer and the legend."""
    drawn = [a.ravel() for a in (data.value, data.fence, data.null) if a is not None]
    ax.set_ylim(limits(np.concatenate(drawn), data.ceiling, unit=data.unit))
    first, last = int(data.positions[0]), int(data.positions[-1])
    pad = 0.02 * (last - first) or 0.5
    ax.set_xlim(first - pad, last + pad)
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    ax.set_xlabel("token")
    ax.set_ylabel(measured(data.label, data.caption, look, panel_height(ax)))
    ends = []
    for i, layer in enumerate(layer_looks(ax, data.layers, look, marks=data.marks)):
        ends += draw_layer(ax, data, i, layer)
    draw_ceilings(ax, y=data.ceiling)
    keys = []
    if np.isfinite(data.fence).any():
        keys.append(key(f"Q₃ + {data.whisker:g} IQR", linewidth=0.7, linestyle=DASHED))
        keys.append(key("above it", marker="o", linestyle="none"))
    if data.null is not None:
        keys.append(key("shuffled labels", linewidth=0.8, linestyle=CHANCE))
    legend(ax, keys, look)
    end_labels(ax, ends)


def draw_layer(ax: Axes, data: TokensData, i: int, layer: LayerLook) -> list[Label]:
    """Draw the line of layer number `i`, its threshold, its null, and markers at values above the threshold.

    Return its label in a list, which is empty where the layer has no number.
    """
    peak, color = data.peak[i], layer.color
    end = draw_line(ax, data.positions, data.value[i], layer, linewidth=1.0)
    if np.isfinite(data.fence[i]):
        style: dict[str, Any] = {"linewidth": 0.7, "linestyle": DASHED, "alpha": 0.7, "zorder": 1.6}
        tag(ax.axhline(data.fence[i], color=color, **style), layer.key, "threshold")
    if data.null is not None and end:
        draw_null(ax, data.positions, data.null[i], layer)
    if peak.any():
        x, y = data.positions[peak], data.value[i, peak]
        tag(ax.plot(x, y, linestyle="none", marker=layer.marker, color=color, zorder=4), layer.key, "points")
    return end
