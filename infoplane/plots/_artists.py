"""Pieces that several figures draw: axes, ceilings, markers, legends, direct labels, the colour bar of the steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Normalize, SymLogNorm
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from matplotlib.transforms import ScaledTranslation

from infoplane.plots._figure import figure_of
from infoplane.plots.style import (
    DOTTED,
    FAINT,
    number,
    small_size,
    smallest_positive,
    spans_decades,
    step_colormap,
    step_ticks,
    text_color,
)
from infoplane.plots.text import safe_names, text_width
from infoplane.results.trajectories import Grid

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Box = tuple[float, float, float, float]
"""Left, lower, right and upper edge."""

END_GAP = 11.0
"""Points between the axes and labels written at their right edge."""

CEILING_LABEL = "_infoplane_ceiling"


def step_colorbar(
    ax: Axes | Sequence[Axes], norm: Normalize, steps: FloatArray, label: str, *, aspect: float = 28
) -> Colorbar:
    """The colour bar of the steps, ticked at 0 and the decades where the scale is logarithmic."""
    figure = figure_of(ax if isinstance(ax, Axes) else ax[0])
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


def step_axis(ax: Axes, steps: FloatArray, *, log: bool | None) -> None:
    """Put the steps on the x axis; the logarithmic scale is linear below the first step, so 0 is shown."""
    if steps.size == 0:
        raise ValueError("no steps to draw")
    low, high = float(steps.min()), float(steps.max())
    if spans_decades(steps) if log is None else log:
        first = smallest_positive(steps)
        ax.set_xscale("symlog", linthresh=first, linscale=0.4, base=10)
        ax.xaxis.set_major_locator(FixedLocator(step_ticks(steps, True)))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xlim(low - (0.08 * first if low <= 0 else 0.03 * low), high * 1.12 if high else 1.0)
    else:
        pad = 0.02 * (high - low) or 0.5
        ax.set_xlim(low - pad, high + pad)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))


def row_axis(ax: Axes, names: Sequence[str], *, limit: int = 20) -> None:
    """A row for each name on the y axis, from top to bottom, without tick marks."""
    shown = safe_names(names, limit=limit)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.set_yticks(range(len(names)), [shown[name] for name in names])
    ax.tick_params(axis="y", length=0)


@dataclass(frozen=True)
class Ceiling:
    """The largest value a quantity can take here, and what it is called."""

    value: float
    name: str

    def __str__(self) -> str:
        return f"{self.name} = {self.value:.3g}"


def ceiling_of(one: Grid) -> Ceiling | None:
    """The ceiling of a quantity, where its rows have one."""
    return None if one.top is None else Ceiling(one.top, one.ceiling_name())


def highest(ceilings: Iterable[Ceiling | None]) -> Ceiling | None:
    """The largest of several ceilings, where any is known."""
    return max((c for c in ceilings if c is not None), key=lambda c: c.value, default=None)


def draw_ceilings(ax: Axes, *, x: Ceiling | None = None, y: Ceiling | None = None, named: bool = True) -> None:
    """Dotted lines at the ceilings within the limits; one beyond them is named at the edge it lies past."""
    line: dict[str, Any] = {"color": FAINT, "linewidth": 0.7, "linestyle": DOTTED, "zorder": 1}
    if x is not None:
        inside = x.value <= ax.get_xlim()[1]
        if inside:
            ax.axvline(x.value, **line)
        if named:
            text, at, unit = (str(x), x.value, "data") if inside else (f"{x} →", 1.0, "axes fraction")
            turned = {"rotation": 90 if inside else 0, "ha": "right", "va": "bottom"}
            name_ceiling(ax, text, (at, 0.02), (unit, "axes fraction"), (-2, 0), **turned)
    if y is not None:
        inside = y.value <= ax.get_ylim()[1]
        if inside:
            ax.axhline(y.value, **line)
        if named:
            text, at, unit = (str(y), y.value, "data") if inside else (f"{y} ↑", 1.0, "axes fraction")
            offset, va = ((0, 1.5), "bottom") if inside else ((0, -2), "top")
            name_ceiling(ax, text, (0.01, at), ("axes fraction", unit), offset, ha="left", va=va)


def name_ceiling(
    ax: Axes, text: str, at: tuple[float, float], coords: Any, offset: tuple[float, float], **look: Any
) -> None:
    """The name of a ceiling, `offset` points from a place on its line; direct labels keep clear of it."""
    look |= {"textcoords": "offset points", "fontsize": small_size(), "color": FAINT, "zorder": 1.5}
    ax.annotate(text, at, offset, xycoords=coords, label=CEILING_LABEL, **look)


def draw_points(ax: Axes, x: FloatArray, y: FloatArray, hollow: BoolArray, *, color: Any, **look: Any) -> None:
    """Markers, open where `hollow`."""
    for open_marker in (False, True):
        at = hollow == open_marker
        if at.any():  # an unclipped line without points would stretch the layout to the figure's corner
            look |= {"markerfacecolor": "white" if open_marker else color}
            ax.plot(x[at], y[at], color=color, linestyle="none", zorder=4, clip_on=False, **look)


OPEN: dict[str, Any] = {"marker": "o", "markerfacecolor": "white", "linestyle": "none"}
"""An open circle, in a legend."""


def key(label: str, **look: Any) -> Line2D:
    """An entry of a legend: a line or a marker as `look` says, grey where it gives no colour."""
    return Line2D([], [], **{"color": FAINT, **look}, label=label)


def legend(
    ax: Axes, handles: Sequence[Any], columns: int | None = None, labels: Sequence[str] | None = None, **look: Any
) -> Any:
    """A legend on top of the axes, where it hides nothing; in one row unless `columns` says otherwise."""
    if not handles:
        return None
    names = [str(handle.get_label()) for handle in handles] if labels is None else labels
    look = {"labelcolor": FAINT, "borderaxespad": 0.1, **look}
    return ax.legend(handles, names, loc="lower left", bbox_to_anchor=(0, 1), ncols=columns or len(names), **look)


def by_rows(handles: Sequence[Any], columns: int) -> list[Any]:
    """The entries of a legend in the order in which it is to be read row by row."""
    if len(handles) % columns:
        return list(handles)
    # Matplotlib fills column by column.
    return [handle for c in range(columns) for handle in handles[c::columns]]


def limits(values: FloatArray, ceiling: Ceiling | None, *, pad: float = 0.05) -> tuple[float, float]:
    """Limits from the data, and the ceiling too where the data then still fill two fifths of the axis."""
    top = None if ceiling is None else ceiling.value
    shown = values[np.isfinite(values)]
    if shown.size == 0:
        low, high = 0.0, 1.0 if top is None else top
    else:
        low, high = float(shown.min()), float(shown.max())
    # An axis that begins near 0 begins at 0: what is lost is then seen against what there was.
    if 0 < low < 0.25 * high:
        low = 0.0
    if top is not None and math.isfinite(top) and top > high and high - low >= 0.4 * (top - low):
        high = top
    extent = high - low
    # Equal values need an axis, too, on which their rounding does not look like change.
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


def end_of(x: npt.NDArray[Any], y: FloatArray, text: str, color: Any) -> Label:
    """A label at the last point of a line."""
    return Label(float(x[-1]), float(y[-1]), text, color)


def draw_line(
    ax: Axes, x: npt.NDArray[Any], y: FloatArray, name: str, color: Any, marker: str = "", **look: Any
) -> list[Label]:
    """A line through the points that have a number, with a marker at the last of them; its label, if there are any."""
    known = np.isfinite(y)
    if not known.any():
        return []
    x, y = x[known], y[known]
    ax.plot(x, y, color=color, zorder=3, **look)
    if marker:
        ax.plot(x[-1:], y[-1:], color=color, marker=marker, linestyle="none", zorder=4, clip_on=False)
    return [end_of(x, y, name, color)]


def place_labels(anchors: FloatArray, sizes: FloatArray, obstacles: FloatArray, frame: Box) -> FloatArray:
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
    placed: list[Box] = []
    leaders: list[tuple[FloatArray, FloatArray]] = []
    out = np.zeros_like(anchors)
    for i, anchor in enumerate(anchors):
        half = sizes[i] / 2
        best, best_cost = np.zeros(2), math.inf
        for gap in (4.0, 7.0, 11.0, 16.0, 23.0, 32.0, 44.0):
            for direction in directions:
                # The label's edge, not its centre, keeps the gap.
                offset = direction * (gap + np.abs(direction) @ half)
                cost = 0.25 * gap + box_cost(box_at(anchor + offset, half), placed, obstacles, frame)
                if cost < best_cost:
                    end = anchor + direction * gap
                    cost += 6 * sum(_cross(anchor, end, a, b) for a, b in leaders)
                if cost < best_cost:
                    best, best_cost = offset, cost
        out[i] = best
        placed.append(box_at(anchor + best, half))
        leaders.append((anchor, anchor + best))
    return out


def box_at(centre: FloatArray, half: FloatArray) -> Box:
    """The box of a label, from its centre and half its size."""
    return (centre[0] - half[0], centre[1] - half[1], centre[0] + half[0], centre[1] + half[1])


def box_cost(box: Box, placed: Sequence[Box], obstacles: FloatArray, frame: Box) -> float:
    """The cost of a label there: points outside the frame, overlap with other labels, obstacles covered."""
    cost = 0.0
    cost += 4 * sum(max(frame[k] - box[k], 0) + max(box[k + 2] - frame[k + 2], 0) for k in (0, 1))
    for other in placed:
        over_x = min(box[2], other[2]) - max(box[0], other[0]) + 1.5
        over_y = min(box[3], other[3]) - max(box[1], other[1]) + 1.0
        # Of two labels on top of each other neither can be read.
        if over_x > 0 and over_y > 0:
            cost += 20 + over_x * over_y
    covered = np.all((obstacles > np.subtract(box[:2], 1)) & (obstacles < np.add(box[2:], 1)), axis=1)
    return cost + 0.8 * min(int(covered.sum()), 12)


def _cross(a: FloatArray, b: FloatArray, c: FloatArray, d: FloatArray) -> bool:
    """Whether the segments ab and cd cross."""

    def side(p: FloatArray, q: FloatArray, r: FloatArray) -> float:
        return float((q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0]))

    return side(a, b, c) * side(a, b, d) < 0 and side(c, d, a) * side(c, d, b) < 0


def direct_labels(ax: Axes, labels: Sequence[Label], obstacles: FloatArray) -> None:
    """Write each label beside its point, with a thin leader where it had to move away.

    Call it last: the axes' limits and layout must be final.
    """
    if not labels:
        return
    figure = figure_of(ax)
    figure.draw_without_rendering()
    size = float(mpl.rcParams["font.size"]) - 0.5
    to_points = 72.0 / figure.dpi
    anchors = ax.transData.transform([(label.x, label.y) for label in labels]) * to_points
    taken = [artist.get_window_extent() for artist in ax.texts if artist.get_label() == CEILING_LABEL]
    boxes = [np.linspace((b.x0, (b.y0 + b.y1) / 2), (b.x1, (b.y0 + b.y1) / 2), 8) for b in taken]
    points = np.concatenate([ax.transData.transform(obstacles.reshape(-1, 2)), *boxes]) * to_points
    sizes = np.array([[text_width(label.text, size) + 2, 1.25 * size] for label in labels])
    x0, y0, x1, y1 = (float(edge) * to_points for edge in ax.get_window_extent().extents)
    # Labels at the rim have the least room: they choose first.
    middle = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
    order = np.argsort(-np.abs(anchors - middle).max(axis=1), kind="stable")
    offsets = np.empty_like(anchors)
    offsets[order] = place_labels(anchors[order], sizes[order], points, (x0, y0, x1, y1))
    leader = {"arrowstyle": "-", "linewidth": 0.5, "color": FAINT, "shrinkA": 0, "shrinkB": 2}
    patch = {"boxstyle": "square,pad=0.08", "facecolor": "white", "edgecolor": "none", "alpha": 0.75}
    for label, offset, extent in zip(labels, offsets, sizes, strict=True):
        far = float(np.hypot(*(np.maximum(np.abs(offset) - extent / 2, 0)))) > 6
        look = {"va": "center", "zorder": 6, "bbox": patch, "arrowprops": leader if far else None}
        write_label(ax, label, tuple(offset.tolist()), "offset points", ha="center", fontsize=size, **look)


def write_label(ax: Axes, label: Label, place: tuple[float, float], coords: Any, **look: Any) -> None:
    """The text of a label at `place`, which may lie outside the axes."""
    color = text_color(label.color)
    ax.annotate(label.text, (label.x, label.y), place, textcoords=coords, color=color, annotation_clip=False, **look)


def spread(positions: FloatArray, gap: float, low: float, high: float) -> FloatArray:
    """Positions moved as little as an even hand can so that neighbours are `gap` apart, within [low, high].

    Where there is no room for that, they are spaced evenly over the range.
    """
    n, order = positions.size, np.argsort(positions, kind="stable")
    out = np.empty(n)
    if (n - 1) * gap >= high - low:
        out[order] = np.linspace(low, high, n) if n > 1 else (low + high) / 2
        return out
    # Pool neighbours that are too close, each pool centred on the mean of where its members want to be.
    pools: list[tuple[float, int]] = []
    for wish in np.clip(positions[order], low, high) - gap * np.arange(n):
        pools.append((float(wish), 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (b, nb), (a, na) = pools.pop(), pools.pop()
            pools.append(((a * na + b * nb) / (na + nb), na + nb))
    flat = np.repeat([mean for mean, _ in pools], [count for _, count in pools])
    out[order] = np.clip(flat, low, high - gap * (n - 1)) + gap * np.arange(n)
    return out


def end_labels(ax: Axes, labels: Sequence[Label]) -> None:
    """Write each label at the right edge, at the height of its line's end, moved apart where they are close."""
    if not labels:
        return
    figure = figure_of(ax)
    size = float(mpl.rcParams["font.size"]) - 0.8
    # An unseen text as wide as the widest label makes the layout leave the room before heights are measured.
    widest = max(labels, key=lambda label: text_width(label.text, size))
    unseen: dict[str, Any] = {"textcoords": "offset points", "alpha": 0.0, "annotation_clip": False}
    room = ax.annotate(widest.text, (1.0, 0.5), (END_GAP, 0), xycoords="axes fraction", fontsize=size, **unseen)
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
        leader = {"arrowstyle": "-", "linewidth": 0.4, "color": label.color, "shrinkA": 0.5, "shrinkB": 1.5}
        leader["relpos"] = (0.0, 0.5)
        place = (1.0, (height - box.y0 * to_points) / (box.height * to_points))
        write_label(ax, label, place, beside, ha="left", va="center", fontsize=size, arrowprops=leader)
