"""Pieces that several figures draw: axes, ceilings, markers, legends, direct labels, the colour bar of the steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Normalize, SymLogNorm
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from matplotlib.transforms import ScaledTranslation

from infoplane.core.records import Array, BoolArray, FloatArray
from infoplane.core.units import BIT
from infoplane.plots._figure import Look, figure_of, grow, is_own, lower_caption, slot_width
from infoplane.plots._layers import LayerLook, tag
from infoplane.plots.style import (
    CHANCE,
    DOTTED,
    FAINT,
    number,
    points_of,
    small_size,
    smallest_positive,
    spans_decades,
    step_colormap,
    step_ticks,
    text_color,
)
from infoplane.plots.text import safe_text, text_width, wrap
from infoplane.results.limits import axis_limits
from infoplane.results.trajectories import Ceiling

Box = tuple[float, float, float, float]
"""Left, lower, right and upper edge."""

END_GAP = 11.0
"""Points between the axes and labels written at their right edge."""

CEILING_LABEL = "_infoplane_ceiling"
"""Label by which the names of ceilings are found again: direct labels must not cover them."""


def step_colorbar(
    ax: Axes | Sequence[Axes], norm: Normalize, steps: FloatArray, look: Look, label: str, *, aspect: float = 28
) -> None:
    """Draw the colour bar of the steps beside `ax`, with `label` beside the bar.

    On a logarithmic scale the ticks are at 0 and at powers of ten. `aspect` is the least length of the bar as a
    multiple of its width.
    """
    bar = colorbar(ax, ScalarMappable(norm=norm, cmap=step_colormap(look["cmap"])), look, label, aspect=aspect)
    if bar is None:
        return
    bar.outline.set_linewidth(0.4)
    # Ticks stand at least 1.4 font sizes apart, here as a share of the bar, which has about 0.7 of the figure's height.
    room = 1.4 * float(mpl.rcParams["font.size"]) / (0.7 * figure_of(bar.ax).get_figheight() * 72)
    ticks = apart(step_ticks(steps, isinstance(norm, SymLogNorm)), lambda t: float(norm(t)), room)
    bar.set_ticks(ticks, labels=list(map(number, ticks)))
    bar.minorticks_off()


def colorbar(
    ax: Axes | Sequence[Axes], drawn: ScalarMappable, look: Look, label: str, *, aspect: float
) -> Colorbar | None:
    """Draw the colour bar of what was `drawn`, and return it; None where `look` asks for no colour bar.

    `aspect` is the least length of the bar as a multiple of its width.
    """
    if not look["colorbar"]:
        return None
    first = ax if isinstance(ax, Axes) else ax[0]
    figure = figure_of(first)
    # Beside panels one above the other a bar is long: this keeps it from being wider than 1.3 font sizes.
    aspect = max(aspect, 0.7 * figure.get_figheight() * 72 / (1.3 * float(mpl.rcParams["font.size"])))
    if is_own(first) or figure.get_layout_engine() is None or not isinstance(ax, Axes):
        bar = figure.colorbar(drawn, ax=ax, aspect=aspect, pad=0.02)
    else:
        # Bound to the caller's axes: a layout that moves them or changes their shape takes the bar along.
        bar = figure.colorbar(drawn, cax=first.inset_axes((1.03, 0.0, 1 / aspect, 1.0)))
    bar.set_label(label)
    return bar


def apart(ticks: Sequence[float], place: Callable[[float], float], gap: float) -> list[float]:
    """Return the ticks without those that stand nearer than `gap` to the last one kept.

    `place` gives the position of a tick, in the unit of `gap`; ticks are ascending.
    """
    chosen: list[float] = []
    for tick in ticks:
        if not chosen or place(tick) - place(chosen[-1]) >= gap:
            chosen.append(tick)
    return chosen


def step_axis(ax: Axes, steps: FloatArray, *, log: bool | None) -> None:
    """Set scale, limits and ticks of the x axis for these steps; ValueError where there are none.

    The axis is logarithmic or linear as `log` says; with None it is logarithmic where the steps span over two decades.
    A logarithmic axis is linear from 0 to the first positive step, so that it has room for step 0.
    """
    if steps.size == 0:
        raise ValueError("no steps to draw")
    low, high = float(steps.min()), float(steps.max())
    if spans_decades(steps) if log is None else log:
        first = smallest_positive(steps)
        # The linear piece from 0 to the first step is 0.4 of a decade wide.
        ax.set_xscale("symlog", linthresh=first, linscale=0.4, base=10)
        ax.xaxis.set_major_locator(FixedLocator(step_ticks(steps, True)))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xlim(low - (0.08 * first if low <= 0 else 0.03 * low), high * 1.12 if high else 1.0)
    else:
        pad = 0.02 * (high - low) or 0.5  # a single step stands in the middle
        ax.set_xlim(low - pad, high + pad)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))


ROW_SHARE = 0.26
"""Share of a figure's width that names of rows may take."""
MOST_NAMES = 32
"""Rows or columns that have room for a name each."""


def row_axis(ax: Axes, rows: Sequence[LayerLook]) -> None:
    """Set up the y axis for a row for each layer, from top to bottom, with their names."""
    # Rows stand at 0, 1, ...: a little room beyond both ends, and row 0 on top.
    ax.set_ylim(len(rows) - 0.4, -0.6)
    name_rows(ax, rows)


def name_rows(ax: Axes, rows: Sequence[LayerLook], *, most: int | None = None) -> None:
    """Write the names of rows on the y axis, at most `most` of them (by default all).

    Of more rows only every second, third, ... is named.
    """
    every = -(-len(rows) // (most or len(rows)))  # rounded up
    ax.set_yticks(range(0, len(rows), every), [row.name for row in rows[::every]])
    ax.tick_params(axis="y", length=0)
    for row, text in zip(rows[::every], ax.get_yticklabels(), strict=False):  # panels beside others have none
        tag(text, row.key, "name")


def beside_rows(ax: Axes) -> float:
    """Return the share of the figure's width that is left beside the names on the y axis."""
    widest = max(text_width(text.get_text(), small_size(0.5)) for text in ax.get_yticklabels())
    return 0.9 - widest / slot_width(ax)  # a tenth is left to the margins


def measured(label: str, caption: Sequence[str], look: Look, width: float) -> str:
    """Return the label of an axis; in a figure that shows no caption, with estimator and settings on further lines.

    These stand in the first part of `caption`. Lines are broken at `width` points.
    """
    if look["caption"] or not caption:
        return label
    return "\n".join([label, wrap([caption[0]], width, points_of(mpl.rcParams["axes.labelsize"]))])


def highest(ceilings: Iterable[Ceiling | None]) -> Ceiling | None:
    """Return the largest of several ceilings, None where none is known."""
    return max((c for c in ceilings if c is not None), key=lambda c: c.value, default=None)


def draw_ceilings(ax: Axes, *, x: Ceiling | None = None, y: Ceiling | None = None, named: bool = True) -> None:
    """Draw a dotted line at the ceilings of the x and y axis, where they are within the limits.

    If `named`, write the name of each, also of one beyond the limits: that stands at the edge of the axes, with an
    arrow. Call this when the limits are final.
    """
    line: dict[str, Any] = {"color": FAINT, "linewidth": 0.7, "linestyle": DOTTED, "zorder": 1}
    for upright, ceiling in ((True, x), (False, y)):
        if ceiling is None:
            continue
        inside = ceiling.value <= (ax.get_xlim() if upright else ax.get_ylim())[1]
        if inside:
            (ax.axvline if upright else ax.axhline)(ceiling.value, **line)
        if named:
            name_ceiling(ax, ceiling, upright=upright, inside=inside)


def name_ceiling(ax: Axes, ceiling: Ceiling, *, upright: bool, inside: bool) -> None:
    """Write the name of a ceiling at its line if that is `inside` the limits, else at the edge beyond which it lies.

    The line of a ceiling of the x axis is `upright`; that of the y axis is not.
    """
    at, unit = (ceiling.value, "data") if inside else (1.0, "axes fraction")
    style: dict[str, Any] = {"textcoords": "offset points", "fontsize": small_size(), "color": FAINT, "zorder": 1.5}
    if upright:
        style |= {"xytext": (-2, 0), "rotation": 90 if inside else 0, "ha": "right", "va": "bottom"}
    else:
        style |= {"xytext": (0, 1.5) if inside else (0, -2), "ha": "left", "va": "bottom" if inside else "top"}
    place, units = ((at, 0.02), (unit, "axes fraction")) if upright else ((0.01, at), ("axes fraction", unit))
    text = str(ceiling) if inside else f"{ceiling} {'→' if upright else '↑'}"
    ax.annotate(text, place, xycoords=units, label=CEILING_LABEL, **style)


def draw_points(ax: Axes, x: Array, y: FloatArray, hollow: BoolArray, layer: LayerLook, **style: Any) -> None:
    """Draw markers at x, y (P,) with the looks of a layer, open where `hollow` (P,) is true."""
    style = {"color": layer.color, "marker": layer.marker, "linestyle": "none", "zorder": 4, "clip_on": False, **style}
    for open_marker in (False, True):
        at = hollow == open_marker
        if at.any():  # without points nothing is drawn: the layout would make room for an unclipped empty line
            face = "white" if open_marker else layer.color
            tag(ax.plot(x[at], y[at], markerfacecolor=face, **style), layer.key, "points")


WIDE_SHARE, LEGEND_SHARE = 0.81, 0.62
"""Shares of a figure's width that a legend may take: up to its right edge, and up to what stands beside the axes."""

OPEN: dict[str, Any] = {"marker": "o", "markerfacecolor": "white", "linestyle": "none"}
"""An open circle, in a legend."""


def key(label: str, **style: Any) -> Line2D:
    """Return a legend entry: a line or marker in this `style` (keywords of Matplotlib's Line2D), by default grey."""
    return Line2D([], [], **{"color": FAINT, **style}, label=label)


def legend(
    ax: Axes,
    handles: Sequence[Any],
    look: Look,
    *,
    labels: Sequence[str] | None = None,
    title: str | None = None,
    share: float = WIDE_SHARE,
) -> Any:
    """Draw and return a legend at most `share` of the figure's width wide; None where the figure is to have none.

    In a figure that was made here the legend stands above the axes, and the figure becomes higher by as much. In the
    caller's figure it stands below the axes, or inside them where the figure has no layout that makes room for it.
    A place that `look` names comes first. `labels` are by default those of the handles.
    """
    if not handles or look["legend"] is False:
        return None
    own, size = is_own(ax), points_of(mpl.rcParams["legend.fontsize"])
    wide = share * slot_width(ax)
    names = [str(handle.get_label()) for handle in handles] if labels is None else list(labels)
    names = [wrap([name], wide - 2 * size, size) for name in names]
    # Beside its name an entry has a handle of 1.5 and gaps of 0.4 and 1.0 font sizes: 2.9 in all.
    columns = most_columns([text_width(name, size) + 2.9 * size for name in names], wide + size)
    how: dict[str, Any] = {"labelcolor": FAINT, "handlelength": 1.5, "handletextpad": 0.4, "columnspacing": 1.0}
    heading = [] if title is None else [wrap([title], wide, size)]
    how |= {"ncols": columns, "alignment": "left", "title": heading[0] if heading else None}
    rows = [heading, *(names[first : first + columns] for first in range(0, len(names), columns))]
    lines = sum(max((text.count("\n") + 1 for text in row), default=0) for row in rows)
    if isinstance(look["legend"], str) or (not own and figure_of(ax).get_layout_engine() is None):
        place = look["legend"] if isinstance(look["legend"], str) else "best"
        how |= {"loc": place, "frameon": True, "framealpha": 0.8, "edgecolor": "none"}
    elif own:
        how |= {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.1}
        grow(figure_of(ax), 1.35 * size * lines)
    else:  # below, where it covers neither a title nor the data
        how |= {"loc": "upper left", "bbox_to_anchor": (0, 0), "borderaxespad": 0.1, "frameon": False}
        how |= {"bbox_transform": ax.transAxes + below_label(ax)}
        lower_caption(ax, 1.8 * size * lines)
    # Matplotlib fills column by column; entries are to be read row by row.
    by_rows = [i for column in range(columns) for i in range(column, len(names), columns)]
    shown = ax.legend([handles[i] for i in by_rows], [names[i] for i in by_rows], **how)
    shown.get_title().set_color(FAINT)
    return shown


def below_label(ax: Axes) -> ScaledTranslation:
    """Return a translation by the height of what stands below the axes: ticks, their numbers, the label of the x axis.

    A legend that is placed at the lower edge of the axes is moved down by it.
    """
    ticks, label = (points_of(mpl.rcParams[name]) for name in ("xtick.labelsize", "axes.labelsize"))
    lines = ax.get_xlabel().count("\n") + 1 if ax.get_xlabel() else 0
    # In points: ticks and gaps, then a line of numbers and the lines of the label, 1.3 font sizes each.
    down = 8 + 1.3 * ticks + 1.3 * label * lines + float(mpl.rcParams["axes.labelpad"])
    return ScaledTranslation(0, -down / 72, figure_of(ax).dpi_scale_trans)


def most_columns(widths: Sequence[float], room: float) -> int:
    """Return the largest number of columns that fit into `room`, at least 1.

    Entries of these `widths` fill the columns row by row; a column is as wide as its widest entry.
    """
    counts = range(len(widths), 1, -1)
    return next((n for n in counts if sum(max(widths[column::n]) for column in range(n)) <= room), 1)


def limits(values: FloatArray, ceiling: Ceiling | None, *, unit: str = BIT) -> tuple[float, float]:
    """Return limits (low, high) that hold these values, and the ceiling where values then still fill 2/5 of the axis.

    `unit` is that of the values; a span in bits has a least size.
    """
    return axis_limits(values, None if ceiling is None else ceiling.value, unit=unit)


def cut(band: FloatArray, values: FloatArray, ceiling: Ceiling | None) -> FloatArray:
    """Return one edge of a band, clipped to the range from 0 to the ceiling; without a ceiling unchanged.

    Where `values`, around which the band is drawn, leave this range, it is widened to hold them. The interval of a
    mean of two runs can be many times wider than the range of the quantity: unclipped, it would set the limits of the
    axis.
    """
    known = values[np.isfinite(values)]
    if ceiling is None or not known.size:  # nothing says where to cut
        return band
    return np.clip(band, min(0.0, float(known.min())), max(ceiling.value, float(known.max())))


@dataclass(frozen=True)
class Label:
    """A label written beside the point (x, y), in data coordinates; `key` is that of the layer it names, if any."""

    x: float
    y: float
    text: str
    color: Any = "0.15"
    key: str = ""


def end_of(x: Array, y: FloatArray, layer: LayerLook) -> Label:
    """Return a label with the name of the layer at the last point of its line."""
    return Label(float(x[-1]), float(y[-1]), layer.name, layer.color, layer.key)


def draw_line(
    ax: Axes, x: Array, y: FloatArray, layer: LayerLook, *, part: str = "mean", marked: bool = False, **style: Any
) -> list[Label]:
    """Draw a line through the points whose y is finite, and return its label as a list: [] where no y is finite.

    If `marked`, the last point gets a marker. `part` is the last part of the id by which the line is found again.
    """
    known = np.isfinite(y)
    if not known.any():
        return []
    x, y = x[known], y[known]
    style = {"color": layer.color, "zorder": 3, "linestyle": layer.line, **style}
    tag(ax.plot(x, y, label=safe_text(layer.name, limit=60, legend=True), **style), layer.key, part)
    if marked:
        last = {"color": layer.color, "marker": layer.marker, "linestyle": "none", "zorder": 4, "clip_on": False}
        tag(ax.plot(x[-1:], y[-1:], **last), layer.key, "last")
    return [end_of(x, y, layer)]


def draw_null(ax: Axes, x: Array, null: FloatArray, layer: LayerLook) -> None:
    """Draw a thin dotted line through the `null` of a layer: the same quantity on shuffled labels."""
    tag(ax.plot(x, null, color=layer.color, linewidth=0.8, linestyle=CHANCE, zorder=2), layer.key, "null")


GAPS = (4.0, 7.0, 11.0, 16.0, 23.0, 32.0, 44.0, 60.0)
"""Points between a point and its label, from near to far."""


def place_labels(
    anchors: FloatArray, sizes: FloatArray, obstacles: FloatArray, frame: Box, *, radius: float = 1.0
) -> FloatArray:
    """Return offsets (L, 2) from the anchor to the centre of each label; NaN for a label without a free place.

    Labels are placed one after the other. Each takes the cheapest of the candidates in 16 directions and at 8
    distances that lie within the frame and cover neither an obstacle nor a label placed before. A candidate costs more
    the further away it is, and where its leader crosses that of another label. All lengths are in points.

    Parameters
    ----------
    anchors, sizes : (L, 2)
        The point that each label names; the label's width and height.
    obstacles : (M, 2)
        Points that stay uncovered, with `radius` around them.
    frame : (x0, y0, x1, y1)
        What labels stay within.
    """
    # Candidates: 16 directions around each point, at each of the gaps.
    angles = np.arange(16) * (2 * np.pi / 16)
    around = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    gaps, directions = np.repeat(GAPS, 16), np.tile(around, (len(GAPS), 1))  # (C,), (C, 2)
    placed: list[Box] = []
    leaders: list[tuple[FloatArray, FloatArray]] = []
    out = np.full_like(anchors, np.nan)
    for i, anchor in enumerate(anchors):
        half = sizes[i] / 2
        # The label's edge, not its centre, keeps the gap.
        offsets = directions * (gaps + np.abs(directions) @ half)[:, None]
        low, high = anchor + offsets - half, anchor + offsets + half
        free = is_free(low, high, placed, obstacles, frame, radius)
        ends = anchor + directions * gaps[:, None]
        crossed = [sum(_cross(anchor, end, *line) for line in leaders) for end in ends]
        # Crossing another label's leader costs as much as standing 24 points further away.
        cost = 0.25 * gaps + 6 * np.array(crossed)
        if free.any():
            best = int(np.argmin(np.where(free, cost, np.inf)))
            out[i] = offsets[best]
            placed.append((low[best, 0], low[best, 1], high[best, 0], high[best, 1]))
            leaders.append((anchor, anchor + offsets[best]))
    return out


def is_free(
    low: FloatArray, high: FloatArray, placed: Sequence[Box], obstacles: FloatArray, frame: Box, radius: float
) -> BoolArray:
    """Return a mask (C,) of the boxes that lie within the frame and cover neither obstacles nor `placed` labels.

    `low` and `high` (C, 2) are the lower left and upper right corners of the boxes; obstacles (M, 2) are points, and
    `radius` around each of them is kept free, too.
    """
    free = np.all((low >= frame[:2]) & (high <= frame[2:]), axis=1)
    for other in placed:  # labels keep 5 points apart side by side, 1 above each other
        right = low >= np.add(other[2:], (5.0, 1.0))
        left = high <= np.subtract(other[:2], (5.0, 1.0))
        free &= np.any(right | left, axis=1)
    covered = (low[:, None] - radius < obstacles) & (high[:, None] + radius > obstacles)  # (C, M, 2)
    return np.asarray(free & ~np.any(np.all(covered, axis=2), axis=1))


def _cross(a: FloatArray, b: FloatArray, c: FloatArray, d: FloatArray) -> bool:
    """Return whether the segment from a to b crosses that from c to d, each a point (2,)."""

    def side(p: FloatArray, q: FloatArray, r: FloatArray) -> float:
        """Return twice the signed area of the triangle pqr: its sign says on which side of pq the point r lies."""
        return float((q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0]))

    return side(a, b, c) * side(a, b, d) < 0 and side(c, d, a) * side(c, d, b) < 0


def direct_labels(ax: Axes, labels: Sequence[Label], obstacles: FloatArray) -> list[Label]:
    """Write each label beside its point, with a thin leader where it is far away; return the labels that had no room.

    `obstacles` (M, 2), in data coordinates, are points that no label may cover. Call this last: the limits and the
    layout of the axes must be final.
    """
    offsets, size = free_places(ax, labels, obstacles)
    leader = {"arrowstyle": "-", "linewidth": 0.5, "color": FAINT, "shrinkA": 0, "shrinkB": 2}
    patch = {"boxstyle": "square,pad=0.08", "facecolor": "white", "edgecolor": "none", "alpha": 0.75}
    for label, offset in zip(labels, offsets, strict=True):
        if np.isfinite(offset).all():
            far = leader_length(label, offset, size) > 6  # points beyond which a label needs a leader
            style = {"va": "center", "zorder": 6, "bbox": patch, "arrowprops": leader if far else None}
            write_label(ax, label, tuple(offset.tolist()), "offset points", ha="center", fontsize=size, **style)
    return [label for label, offset in zip(labels, offsets, strict=True) if not np.isfinite(offset).all()]


def label_size(label: Label, size: float) -> FloatArray:
    """Return width and height (2,) of a label in points, in a font of `size` points."""
    return np.array([text_width(label.text, size) + 2, 1.25 * size])


def leader_length(label: Label, offset: FloatArray, size: float) -> float:
    """Return the distance from a label's point to the nearest edge of its text, in points.

    `offset` (2,) leads from the point to the centre of the text, which is written in a font of `size` points.
    """
    return float(np.hypot(*np.maximum(np.abs(offset) - label_size(label, size) / 2, 0)))


RIM = 3.0
"""Points between the sides of the axes and names inside."""


def free_places(ax: Axes, labels: Sequence[Label], obstacles: FloatArray) -> tuple[FloatArray, float]:
    """Return offsets (L, 2) from each label's point to its centre, NaN where there is no room, and the font size.

    Both are in points; `obstacles` (M, 2), in data coordinates, stay uncovered.
    """
    size = small_size(0.5)
    if not labels:
        return np.empty((0, 2)), size
    figure = figure_of(ax)
    figure.draw_without_rendering()
    to_points = 72.0 / figure.dpi
    anchors = ax.transData.transform([(label.x, label.y) for label in labels]) * to_points
    taken = [artist.get_window_extent() for artist in ax.texts if artist.get_label() == CEILING_LABEL]
    # Labels must not cover the name of a ceiling: 8 x 8 points over its text become obstacles.
    boxes = [np.stack(np.meshgrid(*np.linspace(b.min, b.max, 8).T), axis=-1).reshape(-1, 2) for b in taken]
    points = np.concatenate([ax.transData.transform(obstacles.reshape(-1, 2)), *boxes]) * to_points
    # Obstacles that coincide to a third of a point are counted once, which saves time.
    points = np.unique(np.round(points * 3), axis=0) / 3
    sizes = np.array([label_size(label, size) for label in labels])
    x0, y0, x1, y1 = (float(edge) * to_points for edge in ax.get_window_extent().extents)
    # Labels at the rim have the least room: they choose first.
    order = np.argsort(-np.abs(anchors - [(x0 + x1) / 2, (y0 + y1) / 2]).max(axis=1), kind="stable")
    offsets = np.empty_like(anchors)
    radius = 0.6 * float(mpl.rcParams["lines.markersize"])
    frame = (x0 + RIM, y0, x1 - RIM, y1)
    offsets[order] = place_labels(anchors[order], sizes[order], points, frame, radius=radius)
    return offsets, size


def write_label(ax: Axes, label: Label, place: tuple[float, float], coords: Any, **style: Any) -> None:
    """Write the text of a label at `place`, which may lie outside the axes.

    `coords` are the coordinates of `place`, as Matplotlib's `textcoords`.
    """
    style |= {"textcoords": coords, "color": text_color(label.color), "annotation_clip": False}
    text = ax.annotate(label.text, (label.x, label.y), place, **style)
    if label.key:
        tag(text, label.key, "name")


def spread(positions: FloatArray, gap: float, low: float, high: float) -> FloatArray:
    """Return the positions (L,) moved as little as possible so that neighbours are `gap` apart, within [low, high].

    Where there is no room for that, they are spaced evenly over the range.
    """
    n, order = positions.size, np.argsort(positions, kind="stable")
    out = np.empty(n)
    if (n - 1) * gap >= high - low:
        out[order] = np.linspace(low, high, n) if n > 1 else (low + high) / 2
        return out
    # With i * gap taken off the i-th position, "at least `gap` apart" becomes "ascending". Neighbours that are not
    # ascending are pooled, and each pool stands at the mean of its members (isotonic regression).
    pools: list[tuple[float, int]] = []
    for wanted in np.clip(positions[order], low, high) - gap * np.arange(n):
        pools.append((float(wanted), 1))  # the mean and the number of its members
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (b, nb), (a, na) = pools.pop(), pools.pop()
            pools.append(((a * na + b * nb) / (na + nb), na + nb))
    flat = np.repeat([mean for mean, _ in pools], [count for _, count in pools])
    out[order] = np.clip(flat, low, high - gap * (n - 1)) + gap * np.arange(n)
    return out


def end_labels(ax: Axes, labels: Sequence[Label]) -> None:
    """Write each label beside the right edge of the axes, at the height of its point; close ones are moved apart.

    Where there is no room for all labels, some are left out.
    """
    if not labels:
        return
    figure = figure_of(ax)
    size = small_size(0.8)
    # The layout is to leave room for the labels before heights are measured: an invisible text of the width of the
    # widest label is laid out, and taken away again.
    widest = max(labels, key=lambda label: text_width(label.text, size))
    unseen: dict[str, Any] = {"textcoords": "offset points", "alpha": 0.0, "annotation_clip": False}
    room = ax.annotate(widest.text, (1.0, 0.5), (END_GAP, 0), xycoords="axes fraction", fontsize=size, **unseen)
    figure.draw_without_rendering()
    room.remove()
    to_points = 72.0 / figure.dpi
    box = ax.get_window_extent()
    # Where there is no room for all, some are named: the first, the last and others at equal distances.
    most = max(2, int(box.height * to_points / (1.1 * size)))
    if len(labels) > most:
        labels = [labels[i] for i in np.unique(np.linspace(0, len(labels) - 1, most).round().astype(int))]
    heights = ax.transData.transform([(label.x, label.y) for label in labels])[:, 1] * to_points
    low, high = box.y0 * to_points + size * 0.3, box.y1 * to_points - size * 0.3
    # In a figure of the caller's the axes may become lower later: labels then come nearer to each other.
    gap = (1.15 if is_own(ax) else 1.5) * size
    # Positions grow upwards and `spread` keeps the order of equal ones: reversed, the first label stays on top.
    placed = spread(np.round(heights)[::-1], gap, low, high)[::-1]
    beside = ax.transAxes + ScaledTranslation(END_GAP / 72, 0, figure.dpi_scale_trans)
    for label, height in zip(labels, placed, strict=True):
        leader = {"arrowstyle": "-", "linewidth": 0.4, "color": label.color, "shrinkA": 0.5, "shrinkB": 1.5}
        leader["relpos"] = (0.0, 0.5)
        place = (1.0, (height - box.y0 * to_points) / (box.height * to_points))
        write_label(ax, label, place, beside, ha="left", va="center", fontsize=size, arrowprops=leader)
