"""The information plane: I(T;Y) against I(X;T) for every layer, over training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, Unpack

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.lines import Line2D

from infoplane.core.records import BoolArray, FloatArray
from infoplane.core.text import listed
from infoplane.plots._about import about, axis_label, doubtful, dpi_words
from infoplane.plots._artists import (
    LEGEND_SHARE,
    OPEN,
    WIDE_SHARE,
    Label,
    direct_labels,
    draw_ceilings,
    end_of,
    free_places,
    highest,
    key,
    leader_length,
    legend,
    limits,
    measured,
    step_colorbar,
)
from infoplane.plots._figure import Look, Options, canvas, figure_of, is_own, keywords, selected, slot_width
from infoplane.plots._layers import LayerLook, layer_looks, tag
from infoplane.plots.style import INK, step_colormap, step_norm
from infoplane.plots.text import safe_text, text_width
from infoplane.results import Plane, ResultTable
from infoplane.results.limits import HUGE
from infoplane.results.views import Selection, Series, choose

I_XT, I_TY = "I(X;T)", "I(T;Y)"


END_MARKERS = {"first": "o", "last": "s"}
"""Marks of the first and the last step of a trajectory."""

PlaneData = Plane
"""The arrays that `plane` draws, (steps, layers)."""


@keywords(Selection)
def plane_data(table: ResultTable, **select: Unpack[Selection]) -> Plane:
    """Return the points of one run in one estimator's plane, as arrays (S, L); see `plane` for the parameters."""
    return series_plane(choose(table, **select))


def series_plane(series: Series) -> Plane:
    """Return the points of a series as arrays (S, L), with the labels, the ceilings and the caption of their figure.

    Numbers too large to draw become NaN, and the caption counts them. ValueError where there is no point.
    """
    xt, ty, data = series.grid(I_XT), series.grid(I_TY), series.plane()
    if not data.present.any():
        have = ", ".join(sorted(series.quantities))
        raise ValueError(f"{series.estimator} gave no pair of {I_XT} and {I_TY} to draw; the table has {have}")
    huge = (np.abs(xt.value) > HUGE) | (np.abs(ty.value) > HUGE)
    i_xt, i_ty = np.where(huge, np.nan, data.i_xt), np.where(huge, np.nan, data.i_ty)
    data = replace(data, i_xt=i_xt, i_ty=i_ty)
    total, saturated = int(data.present.sum()), int(data.saturated.sum())
    caption = about(series, (xt, ty)) + dpi_words(series) + doubtful(saturated, total, "saturated", "hollow")
    if chance := int((ty.flag("below_null") & data.present).sum()):
        caption.append(f"I(T;Y) no more than chance in {chance} of {total}")
    lost = int((xt.flag("nonfinite") | ty.flag("nonfinite") | huge).sum())
    return replace(
        data,
        ceiling_xt=xt.named_ceiling(),
        ceiling_ty=ty.named_ceiling(),
        labels=(axis_label(I_XT, xt.unit), axis_label(I_TY, ty.unit)),
        caption=caption + doubtful(lost, total + lost, "not finite", "not drawn"),
        marks=series.marks(I_XT, I_TY),
    )


@keywords(Options)
def plane(
    table: ResultTable,
    *,
    ax: Axes | None = None,
    by: Literal["step", "layer"] = "step",
    log: bool | None = None,
    **options: Unpack[Options],
) -> Axes:
    """Draw the information plane of one run.

    The canonical form (`by="step"`, after Shwartz-Ziv and Tishby, 2017) has one thin line per step that
    joins the layers in the order of the forward pass; colour is the step, the marker's shape the layer. With
    `by="layer"` the points of each layer are joined in step order instead, from a circle at the first step to a
    square at the last, arrows along the way. Hollow marks are saturated; a layer that is so throughout has one mark and
    its name in the legend.

    Parameters
    ----------
    table : ResultTable
    ax : Axes, optional
        Where to draw; a figure of several panels takes as many. Without it a figure is made outside pyplot:
        `save(ax, path)` writes it, and in a notebook what is returned shows it.
    by : {"step", "layer"}
    estimator, settings, run, subset, layers
        What to draw where the table has several; see `infoplane.results.views.Selection`.
    against : {"step", "epoch"}
        Which column the colours show.
    log : bool, optional
        Logarithmic colour scale, on which step 0 has its place; by default where steps span over two decades.
    caption : bool
        Show the line that says estimator, settings and N. Without it the labels of the axes name the estimator and
        its scale, `infoplane.plots.caption(ax)` returns the line, and `save` still puts it into the file.
    style : {"screen", "column", "page"}
        Text size and width: for the screen, one column (85 mm) or the full page (170 mm) of a paper.
    width : float, optional
        Millimetres, instead of the style's.
    title : str, optional
    colors, markers, labels : sequence, or mapping from layer to one, optional
        Of the layers (or of what else a figure tells apart by them: groups, runs, steps), in the order in which they
        are drawn; a mapping names only those that differ, by key or glob. `labels` are the names shown.
    cmap : str or Colormap, optional
        Of Matplotlib, for the steps (in a heat map for the values).
    legend : bool or str
        Without a legend, or with one at a place inside the axes that Matplotlib knows, such as "lower right".
    colorbar : bool

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If the table has no such points, or leaves a choice that was not made.

    Notes
    -----
    Of a deterministic network the plane shows the estimator as much as the network: I(X;T) is set by the bin
    width or noise, and hollow points carry no more than "all inputs are told apart". Dotted lines are
    ceilings: H(X), or log2 N where the sample sets it, and H(Y).
    """
    if by not in ("step", "layer"):
        raise ValueError(f"by must be 'step' or 'layer', got {by!r}")
    data = plane_data(table, **selected(options))
    with canvas(ax, data.caption, options) as axes:
        frame(axes, [data], options)
        usual = [INK] * len(data.layers) if by == "step" else None
        looks = layer_looks(axes, data.layers, options, share=NAME_SHARE, colors=usual, marks=data.marks)
        if by == "step":
            norm = step_norm(data.times, log)
            draw_steps(axes, data, norm, looks, options)
            step_colorbar(axes, norm, data.times, options, options["against"])
        else:
            draw_trajectories(axes, data, looks)
        name_layers(axes, data, looks, options, ends=by == "layer")
    return axes


def frame(ax: Axes, planes: Sequence[Plane], look: Look, *, panel: int = 0) -> None:
    """Set the labels of the axes and limits that hold the points of all `planes`, and draw ceilings.

    These are the ceilings of plane number `panel`, which the axes show. They get their names unless they are the same
    as in the panel before.
    """
    points = np.concatenate([p.points for p in planes])
    x, y = highest(p.ceiling_xt for p in planes), highest(p.ceiling_ty for p in planes)
    across = measured(planes[0].labels[0], planes[0].caption, look, LEGEND_SHARE * slot_width(ax))
    ax.set(xlabel=across, ylabel=planes[0].labels[1])
    ax.set(xlim=limits(points[:, 0], x), ylim=limits(points[:, 1], y))
    ceilings = [(p.ceiling_xt, p.ceiling_ty) for p in planes[: panel + 1]]
    words = [[*map(str, each)] for each in ceilings]  # compared as text: estimators round one number differently
    x_ceiling, y_ceiling = ceilings[panel]
    # The slice holds the words of the panel before, or nothing for the first panel.
    draw_ceilings(ax, x=x_ceiling, y=y_ceiling, named=words[panel] not in words[panel - 1 : panel])


def draw_steps(
    ax: Axes, data: Plane, norm: Normalize, looks: Sequence[LayerLook], look: Look, *, crowd: float | None = None
) -> None:
    """Draw one line per step through the layers, and a marker per layer, coloured by step.

    `crowd` is the size of the markers as a share of the usual; by default it follows from the number of steps.
    """
    colors = step_colormap(look["cmap"])(norm(data.times))
    scale = float(mpl.rcParams["lines.markersize"])
    if crowd is None:
        crowd = 0.85 if data.steps.size <= 80 else 0.7
    # A vector file with more markers than this opens slowly.
    raster = data.present.sum() > 6000
    lines: dict[str, Any] = {"linewidths": 0.35 * scale / 3.4, "alpha": 0.75, "zorder": 2, "rasterized": raster}
    ax.add_collection(LineCollection(data.paths, colors=colors, **lines), autolim=False)
    for i, layer in enumerate(looks):
        # Pointed and crossed markers have less ink than round ones of their width.
        size = (crowd * scale * (1.0 if layer.marker in ("o", "s", "D", "p", "h") else 1.25)) ** 2
        at = np.flatnonzero(data.drawn[:, i])
        # The marker of a layer's last step is drawn above the earlier steps of all layers.
        for part, steps, zorder in (("points", at[:-1], 3.0), ("last", at[-1:], 3.5)):
            for hollow in (False, True):
                keep = steps[data.saturated[steps, i] == hollow]
                style: dict[str, Any] = {"facecolors": colors[keep], "edgecolors": "white", "linewidths": 0.25}
                if hollow:
                    style = {"facecolors": "white", "edgecolors": colors[keep], "linewidths": 0.6}
                style |= {"s": size, "marker": layer.marker, "zorder": zorder, "clip_on": False, "rasterized": raster}
                if keep.size:
                    tag(ax.scatter(data.i_xt[keep, i], data.i_ty[keep, i], **style), layer.key, part)


def draw_trajectories(ax: Axes, data: Plane, looks: Sequence[LayerLook]) -> None:
    """Draw the path of each layer over training: a line with small markers, marks at both ends, and arrows along it.

    Markers of saturated points are hollow.
    """
    size = float(mpl.rcParams["lines.markersize"])
    arrow = {"arrowstyle": "-|>", "linewidth": 0.8, "mutation_scale": 2.2 * size, "shrinkA": 0, "shrinkB": 0}
    for i, layer in enumerate(looks):
        x, y, hollow = data.path(i)
        if x.size == 0:
            continue
        line: dict[str, Any] = {"linewidth": 0.8, "alpha": 0.9, "zorder": 2, "solid_joinstyle": "round"}
        tag(ax.plot(x, y, color=layer.color, label=safe_text(layer.name, legend=True), **line), layer.key, "mean")
        faces = np.array(["white" if h else layer.color for h in hollow[1:-1]], dtype=object)
        dots: dict[str, Any] = {"edgecolors": [layer.color], "linewidths": 0.6, "zorder": 2.5, "marker": layer.marker}
        if faces.size:
            tag(ax.scatter(x[1:-1], y[1:-1], s=(0.6 * size) ** 2, facecolors=list(faces), **dots), layer.key, "points")
        draw_ends(ax, x, y, hollow, layer, markersize=1.4 * size, markeredgewidth=0.8)
        for start, stop in arrow_spans(ax, x, y):
            head = ax.annotate("", xy=stop, xytext=start, zorder=3, arrowprops={**arrow, "color": layer.color})
            tag(head, layer.key, "arrow")


def draw_ends(ax: Axes, x: FloatArray, y: FloatArray, hollow: BoolArray, layer: LayerLook, **style: Any) -> None:
    """Draw a circle at the first and a square at the last point of a path x, y (P,), open where `hollow` (P,) is true.

    They stand above all paths; of a path of one point only the square is drawn.
    """
    for part, at, zorder in (("first", 0, 4), ("last", x.size - 1, 5)):
        if part == "last" or x.size > 1:
            face, edge = ("white", layer.color) if hollow[at] else (layer.color, "white")
            style |= {"marker": END_MARKERS[part], "markerfacecolor": face, "markeredgecolor": edge, "zorder": zorder}
            tag(ax.plot(x[at], y[at], linestyle="none", color=layer.color, **style), layer.key, part)


def path_ends(hollow: bool) -> list[Line2D]:
    """Return the legend entries of the marks at both ends of a trajectory, and of open marks if some are `hollow`."""
    ends = [key(f"{name} step", color=INK, marker=marker, linestyle="none") for name, marker in END_MARKERS.items()]
    return [*ends, key("saturated", **OPEN)] if hollow else ends


def arrow_spans(
    ax: Axes, x: FloatArray, y: FloatArray, *, shares: Sequence[float] = (0.35, 0.75)
) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """Return (start, end) of short pieces of a path x, y (P,), on which arrow heads show its direction.

    They lie at `shares` of the length that the path has as drawn, in fractions of the axes with their present limits.
    A path too short to show a direction gets none.
    """
    (x0, x1), (y0, y1) = ax.get_xlim(), ax.get_ylim()
    u = np.column_stack([(x - x0) / (x1 - x0), (y - y0) / (y1 - y0)])
    run = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(u, axis=0).T))])
    if run[-1] < 0.08:  # of the axes: shorter than an arrow head needs to show a direction
        return []
    out = []
    for share in shares:
        at = share * run[-1]
        ends = [(float(np.interp(s, run, x)), float(np.interp(s, run, y))) for s in (at - 0.012, at + 0.012)]
        if ends[0] != ends[1]:
            out.append((ends[0], ends[1]))
    return out


MOST_DIRECT = 8
"""Layers that are named beside their points; more are named in a legend."""
LABEL_SHARE, NAME_SHARE = 0.06, 0.3
"""Shares: of the area of the axes that names inside may take, and of its width that one of them may."""
STEP_SHARE = 0.48
"""Share of a figure's width that a legend may take beside the step."""
FAR = 30.0
"""Points from a name to its point beyond which a reader follows a line across others."""


def name_layers(
    ax: Axes, data: Plane, looks: Sequence[LayerLook], look: Look, *, ends: bool = False, beside: bool = True
) -> None:
    """Write each layer's name beside its last point, or in a legend of the markers where names would hide the points.

    `ends` adds the marks of first and last points to the legend. With `beside=False`, for points that move in a film,
    names are in the legend if the figure may have one. Layers that are saturated throughout share one entry of it.

    Call this last: the limits and the layout of the axes must be final.
    """
    drawn = [i for i in range(len(looks)) if data.present[:, i].any() and not data.cornered[i]]
    labels = [last_name(data, i, looks[i]) for i in drawn]
    # In the caller's axes names go into the legend: where there is room beside points is not known until the caller's
    # figure is complete.
    crowded = look["legend"] is not False and (not (beside and is_own(ax)) or is_crowded(ax, data, labels))
    handles = [key(looks[i].name, color=looks[i].color, marker=looks[i].marker, linestyle="none") for i in drawn]
    handles = (handles if crowded else []) + (path_ends(bool(data.saturated.any())) if ends else [])
    if data.cornered.any():
        names = [layer.name for layer, cornered in zip(looks, data.cornered, strict=True) if cornered]
        handles.append(key(f"saturated throughout: {listed(names, MOST_DIRECT)}", **OPEN))
    legend(ax, handles, look, share=WIDE_SHARE if ends else LEGEND_SHARE if beside else STEP_SHARE)
    if not crowded:
        direct_labels(ax, labels, data.points)


def last_name(data: Plane, layer: int, look: LayerLook) -> Label:
    """Return a label with the name of layer number `layer`, at the last of its points that are drawn."""
    x, y, _ = data.path(layer)
    return end_of(x, y, look)


def is_crowded(ax: Axes, data: Plane, labels: Sequence[Label]) -> bool:
    """Return whether names would take too much of the axes, or one of them has no free place near its point."""
    size = float(mpl.rcParams["font.size"])
    across, up = np.array(ax.get_window_extent().size) * 72 / figure_of(ax).dpi
    area = sum(text_width(label.text, size) for label in labels) * 1.2 * size
    if len(labels) > MOST_DIRECT or area > LABEL_SHARE * across * up:
        return True
    offsets, size = free_places(ax, labels, data.points)
    gaps = [leader_length(label, offset, size) for label, offset in zip(labels, offsets, strict=True)]
    return not all(gap < FAR for gap in gaps)  # the gap is NaN, and not below FAR, where there is no free place
