"""Pieces that several figures draw: captions, ceilings, direct labels, the colour bar of the steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Normalize, SymLogNorm
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from matplotlib.transforms import ScaledTranslation

from infoplane.plots.style import FAINT, number, smallest_positive, step_colormap, step_ticks, text_color
from infoplane.plots.text import text_width, wrap

FloatArray = npt.NDArray[np.float64]

END_GAP = 11.0
"""Points between the axes and labels written at their right edge."""

CEILING_LABEL = "_infoplane_ceiling"
CAPTION_LABEL = "_infoplane_caption"
"""Label of the artist whose text says what was measured; `save` copies it into the file's metadata."""


def small_size() -> float:
    return float(mpl.rcParams["font.size"]) - 1.2


def add_caption(ax: Axes, parts: Sequence[str], *, own: bool, shown: bool = True) -> None:
    """Write estimator, settings and N under the axes, or keep them unseen for the file's metadata.

    `own` says that the figure is ours: the caption then runs over its whole width.
    """
    figure = ax.get_figure(root=True)
    if figure is None:
        raise ValueError("the axes belong to no figure")
    size = small_size()
    if not shown:
        ax.text(0, 0, "  ·  ".join(parts), visible=False).set_label(CAPTION_LABEL)
    elif own:
        width = figure.get_figwidth() * 72 - 8
        label = figure.supxlabel(
            wrap(parts, width, size), x=4 / (figure.get_figwidth() * 72), ha="left", fontsize=size, color=FAINT
        )
        label.set_label(CAPTION_LABEL)
    else:
        width = max(ax.get_window_extent().width * 72 / figure.dpi, 72.0)
        ax.annotate(
            wrap(parts, width, size),
            xy=(0.0, 0.0),
            xycoords=("axes fraction", ax.xaxis.label),
            xytext=(0, -3),
            textcoords="offset points",
            ha="left",
            va="top",
            fontsize=size,
            color=FAINT,
            annotation_clip=False,
        ).set_label(CAPTION_LABEL)


def captions(figure: Figure) -> list[str]:
    """What the captions of a figure say, in one line each."""
    texts = [a for a in figure.findobj(Text) if isinstance(a, Text) and a.get_label() == CAPTION_LABEL]
    return [" ".join(text.get_text().split()) for text in texts]


def step_colorbar(
    ax: Axes | Sequence[Axes], norm: Normalize, steps: FloatArray, label: str, *, aspect: float = 28
) -> Colorbar:
    """The colour bar of the steps, ticked at 0 and the decades where the scale is logarithmic."""
    figure = (ax if isinstance(ax, Axes) else ax[0]).get_figure(root=True)
    if figure is None:
        raise ValueError("the axes belong to no figure")
    bar = figure.colorbar(ScalarMappable(norm=norm, cmap=step_colormap()), ax=ax, aspect=aspect, pad=0.02)
    bar.set_label(label)
    bar.outline.set_linewidth(0.4)
    axis = bar.ax.yaxis if bar.orientation == "vertical" else bar.ax.xaxis
    room = 1.4 * float(mpl.rcParams["font.size"]) / (0.7 * figure.get_figheight() * 72)
    ticks = apart(step_ticks(steps, isinstance(norm, SymLogNorm)), lambda t: float(norm(t)), room)
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    axis.set_minor_locator(NullLocator())
    return bar


def apart(ticks: Sequence[float], place: Callable[[float], float], gap: float) -> list[float]:
    """The ticks without those nearer than `gap` to the one before, by where each is placed."""
    kept: list[float] = []
    for tick in ticks:
        if not kept or place(tick) - place(kept[-1]) >= gap:
            kept.append(tick)
    return kept


def step_axis(ax: Axes, steps: FloatArray, *, log: bool) -> None:
    """Put the steps on the x axis; the logarithmic scale is linear below the first step, so 0 is shown."""
    if steps.size == 0:
        raise ValueError("no steps to draw")
    low, high = float(steps.min()), float(steps.max())
    if log:
        ax.set_xscale("symlog", linthresh=smallest_positive(steps), linscale=0.4, base=10)
        ax.xaxis.set_major_locator(FixedLocator(step_ticks(steps, True)))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xlim(low - (0.08 * smallest_positive(steps) if low <= 0 else 0.03 * low), high * 1.12 if high else 1.0)
    else:
        pad = 0.02 * (high - low) or 0.5
        ax.set_xlim(low - pad, high + pad)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))


@dataclass(frozen=True)
class Ceiling:
    """The largest value a quantity can take here, and what it is called."""

    value: float
    name: str


def draw_ceilings(ax: Axes, *, x: Ceiling | None, y: Ceiling | None, named: bool = True) -> None:
    """Dotted lines at the ceilings within the limits; one beyond them is named at the edge it lies past."""
    style: dict[str, Any] = {
        "textcoords": "offset points", "fontsize": small_size(), "color": FAINT, "zorder": 1.5, "label": CEILING_LABEL,
    }  # fmt: skip
    line: dict[str, Any] = {"color": FAINT, "linewidth": 0.7, "linestyle": (0, (1, 2)), "zorder": 1}
    if x is not None:
        text, inside = f"{x.name} = {x.value:.3g}", x.value <= ax.get_xlim()[1]
        if inside:
            ax.axvline(x.value, **line)
        if named and inside:
            ax.annotate(text, (x.value, 0.02), xycoords=("data", "axes fraction"), xytext=(-2, 0), ha="right",
                        va="bottom", rotation=90, **style)  # fmt: skip
        elif named:
            ax.annotate(text + " →", (1.0, 0.02), xycoords="axes fraction", xytext=(-2, 0), ha="right", va="bottom",
                        **style)  # fmt: skip
    if y is not None:
        text, inside = f"{y.name} = {y.value:.3g}", y.value <= ax.get_ylim()[1]
        if inside:
            ax.axhline(y.value, **line)
        if named and inside:
            ax.annotate(text, (0.01, y.value), xycoords=("axes fraction", "data"), xytext=(0, 1.5), ha="left",
                        va="bottom", **style)  # fmt: skip
        elif named:
            ax.annotate(text + " ↑", (0.01, 1.0), xycoords="axes fraction", xytext=(0, -2), ha="left", va="top",
                        **style)  # fmt: skip


def legend_above(ax: Axes, handles: Sequence[Any], columns: int, labels: Sequence[str] | None = None) -> None:
    """A legend on top of the axes, where it hides nothing; read row by row."""
    names = [str(handle.get_label()) for handle in handles] if labels is None else list(labels)
    columns = min(columns, len(names))
    rows = -(-len(names) // columns)
    # Matplotlib fills column by column.
    order = [i for c in range(columns) for i in range(c, len(names), columns)]
    if rows > 1 and len(names) % columns:
        order = list(range(len(names)))
    ax.legend(
        [handles[i] for i in order], [names[i] for i in order], loc="lower left", bbox_to_anchor=(0, 1), ncols=columns,
        labelcolor=FAINT, columnspacing=1.0, handlelength=1.0, handletextpad=0.3, borderaxespad=0.1,
    )  # fmt: skip


def limits(values: FloatArray, ceiling: float | None, *, pad: float = 0.05) -> tuple[float, float]:
    """Limits from the data, and the ceiling too where the data then still fill two fifths of the axis."""
    shown = values[np.isfinite(values)]
    if shown.size == 0:
        low, high = 0.0, 1.0 if ceiling is None else ceiling
    else:
        low, high = float(shown.min()), float(shown.max())
    if 0 < low < 0.25 * high:
        low = 0.0
    if ceiling is not None and math.isfinite(ceiling) and ceiling > high and high - low >= 0.4 * (ceiling - low):
        high = ceiling
    extent = high - low
    if extent <= 1e-9 * max(abs(low), abs(high), 1e-300):
        extent = max(0.1 * abs(high), 0.1)
    return low - pad * extent, high + (pad + 0.03) * extent


@dataclass(frozen=True)
class Label:
    """A direct label: text that belongs to a point, in data coordinates."""

    x: float
    y: float
    text: str
    color: Any = "0.15"


def place_labels(
    anchors: FloatArray, sizes: FloatArray, obstacles: FloatArray, frame: tuple[float, float, float, float]
) -> FloatArray:
    """Offsets (L, 2), from anchor to the centre of each label, that keep labels clear of each other and of points.

    Greedy: for each label the candidate of least cost among 16 directions and 7 distances. All in points.

    Parameters
    ----------
    anchors, sizes : (L, 2)
        Where each label belongs; its width and height.
    obstacles : (M, 2)
        Points better left uncovered.
    frame : (x0, y0, x1, y1)
        What labels should stay within.
    """
    angles = np.arange(16) * (2 * np.pi / 16)
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    placed: list[tuple[float, float, float, float]] = []
    leaders: list[tuple[FloatArray, FloatArray]] = []
    out = np.zeros_like(anchors)
    x0, y0, x1, y1 = frame
    for i, anchor in enumerate(anchors):
        half = sizes[i] / 2
        best, best_cost = np.zeros(2), math.inf
        for gap in (4.0, 7.0, 11.0, 16.0, 23.0, 32.0, 44.0):
            for direction in directions:
                # The label's edge, not its centre, keeps the gap.
                offset = direction * (gap + np.abs(direction) @ half)
                cx, cy = anchor + offset
                box = (cx - half[0], cy - half[1], cx + half[0], cy + half[1])
                cost = 0.25 * gap
                outside = max(x0 - box[0], 0) + max(box[2] - x1, 0) + max(y0 - box[1], 0) + max(box[3] - y1, 0)
                cost += 4 * outside
                for other in placed:
                    over_x = min(box[2], other[2]) - max(box[0], other[0]) + 1.5
                    over_y = min(box[3], other[3]) - max(box[1], other[1]) + 1.0
                    if over_x > 0 and over_y > 0:
                        cost += 20 + over_x * over_y
                inside = (
                    (obstacles[:, 0] > box[0] - 1) & (obstacles[:, 0] < box[2] + 1)
                    & (obstacles[:, 1] > box[1] - 1) & (obstacles[:, 1] < box[3] + 1)
                )  # fmt: skip
                cost += 0.8 * min(int(inside.sum()), 12)
                if cost < best_cost and leaders:
                    end = anchor + direction * gap
                    cost += 6 * sum(_cross(anchor, end, a, b) for a, b in leaders)
                if cost < best_cost:
                    best, best_cost = offset, cost
        out[i] = best
        centre = anchor + best
        placed.append((centre[0] - half[0], centre[1] - half[1], centre[0] + half[0], centre[1] + half[1]))
        leaders.append((anchor, centre))
    return out


def _cross(a: FloatArray, b: FloatArray, c: FloatArray, d: FloatArray) -> bool:
    """Whether the segments ab and cd cross."""

    def side(p: FloatArray, q: FloatArray, r: FloatArray) -> float:
        return float((q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0]))

    return side(a, b, c) * side(a, b, d) < 0 and side(c, d, a) * side(c, d, b) < 0


def direct_labels(ax: Axes, labels: Sequence[Label], obstacles: FloatArray) -> None:
    """Write each label beside its point, with a thin leader where it had to move away.

    Call it last: the axes' limits and layout must be final.
    """
    figure = ax.get_figure(root=True)
    if not labels or figure is None:
        return
    figure.draw_without_rendering()
    size = float(mpl.rcParams["font.size"]) - 0.5
    to_points = 72.0 / figure.dpi
    anchors = ax.transData.transform([(label.x, label.y) for label in labels]) * to_points
    taken = [artist.get_window_extent() for artist in ax.texts if artist.get_label() == CEILING_LABEL]
    boxes = [np.linspace((b.x0, (b.y0 + b.y1) / 2), (b.x1, (b.y0 + b.y1) / 2), 8) for b in taken]
    points = np.concatenate([ax.transData.transform(obstacles.reshape(-1, 2)), *boxes]) * to_points
    sizes = np.array([[text_width(label.text, size) + 2, 1.25 * size] for label in labels])
    box = ax.get_window_extent()
    frame = (box.x0 * to_points, box.y0 * to_points, box.x1 * to_points, box.y1 * to_points)
    # Labels at the rim have the least room: they choose first.
    middle = np.array([(frame[0] + frame[2]) / 2, (frame[1] + frame[3]) / 2])
    order = np.argsort(-np.abs(anchors - middle).max(axis=1), kind="stable")
    offsets = np.empty_like(anchors)
    offsets[order] = place_labels(anchors[order], sizes[order], points, frame)
    for label, offset, extent in zip(labels, offsets, sizes, strict=True):
        far = float(np.hypot(*(np.maximum(np.abs(offset) - extent / 2, 0)))) > 6
        ax.annotate(
            label.text,
            xy=(label.x, label.y),
            xytext=(float(offset[0]), float(offset[1])),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=size,
            color=text_color(label.color),
            zorder=6,
            bbox={"boxstyle": "square,pad=0.08", "facecolor": "white", "edgecolor": "none", "alpha": 0.75},
            arrowprops={"arrowstyle": "-", "linewidth": 0.5, "color": FAINT, "shrinkA": 0, "shrinkB": 2}
            if far
            else None,
            annotation_clip=False,
        )


def spread(positions: FloatArray, gap: float, low: float, high: float) -> FloatArray:
    """Positions moved as little as an even hand can so that neighbours are `gap` apart, within [low, high].

    Where there is no room for that, they are spaced evenly over the range.
    """
    n = positions.size
    if n == 0:
        return positions
    if (n - 1) * gap >= high - low:
        even = np.linspace(low, high, n) if n > 1 else np.array([(low + high) / 2])
        out = np.empty(n)
        out[np.argsort(positions, kind="stable")] = even
        return out
    order = np.argsort(positions, kind="stable")
    # Pool neighbours that are too close, each pool centred on the mean of where its members want to be.
    pools: list[tuple[float, int]] = []
    for wish in np.clip(positions[order], low, high) - gap * np.arange(n):
        pools.append((float(wish), 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (b, nb), (a, na) = pools.pop(), pools.pop()
            pools.append(((a * na + b * nb) / (na + nb), na + nb))
    flat = np.concatenate([np.full(count, mean) for mean, count in pools])
    out = np.empty(n)
    out[order] = np.clip(flat, low, high - gap * (n - 1)) + gap * np.arange(n)
    return out


def end_labels(ax: Axes, labels: Sequence[Label]) -> None:
    """Write each label at the right edge, at the height of its line's end, moved apart where they are close."""
    figure = ax.get_figure(root=True)
    if not labels or figure is None:
        return
    size = float(mpl.rcParams["font.size"]) - 0.8
    # An unseen text as wide as the widest label makes the layout leave the room before heights are measured.
    room = ax.annotate(
        max(labels, key=lambda label: text_width(label.text, size)).text, (1.0, 0.5), xycoords="axes fraction",
        xytext=(END_GAP, 0), textcoords="offset points", fontsize=size, alpha=0.0, annotation_clip=False,
    )  # fmt: skip
    figure.draw_without_rendering()
    room.remove()
    to_points = 72.0 / figure.dpi
    box = ax.get_window_extent()
    heights = ax.transData.transform([(label.x, label.y) for label in labels])[:, 1] * to_points
    low, high = box.y0 * to_points + size * 0.3, box.y1 * to_points - size * 0.3
    # Of labels at one height the first stays on top: positions grow upwards, so the last is placed first.
    placed = spread(np.round(heights)[::-1], 1.15 * size, low, high)[::-1]
    beside = ax.transAxes + ScaledTranslation(END_GAP / 72, 0, figure.dpi_scale_trans)
    for label, height in zip(labels, placed, strict=True):
        ax.annotate(
            label.text,
            xy=(label.x, label.y),
            xytext=(1.0, (height - box.y0 * to_points) / (box.height * to_points)),
            textcoords=beside,
            ha="left",
            va="center",
            fontsize=size,
            color=text_color(label.color),
            arrowprops={
                "arrowstyle": "-",
                "linewidth": 0.4,
                "color": label.color,
                "shrinkA": 0.5,
                "shrinkB": 1.5,
                "relpos": (0.0, 0.5),
            },
            annotation_clip=False,
        )
