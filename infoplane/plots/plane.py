"""The information plane: I(T;Y) against I(X;T) for every layer, over training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Unpack

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.lines import Line2D

from infoplane.core.palette import layer_colors
from infoplane.plots._about import about, axis_label, doubtful, dpi_words
from infoplane.plots._artists import (
    OPEN,
    Ceiling,
    Label,
    by_rows,
    ceiling_of,
    direct_labels,
    draw_ceilings,
    end_of,
    highest,
    key,
    legend,
    limits,
    step_colorbar,
)
from infoplane.plots._figure import Options, canvas, figure_of, keywords, selected
from infoplane.plots.style import HUGE, INK, layer_marker, step_colormap, step_norm
from infoplane.plots.text import safe_names, text_width
from infoplane.results import ResultTable
from infoplane.results.views import Selection, Series, choose

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

I_XT, I_TY = "I(X;T)", "I(T;Y)"


@dataclass(frozen=True, eq=False)
class PlaneData:
    """The arrays that `plane` draws.

    Attributes
    ----------
    layers : list of str, L of them, in the order of the forward pass
    steps, times : (S,) float64
        `times` is the column that colours: the steps or the epochs.
    i_xt, i_ty : (S, L) float64
        Bits, NaN where a point is missing.
    saturated : (S, L) bool
        Points at which either number is only its ceiling.
    ceiling_xt, ceiling_ty : Ceiling or None
    caption : list of str
    """

    layers: list[str]
    steps: FloatArray
    times: FloatArray
    i_xt: FloatArray
    i_ty: FloatArray
    saturated: BoolArray
    ceiling_xt: Ceiling | None
    ceiling_ty: Ceiling | None
    labels: tuple[str, str]
    caption: list[str]

    @property
    def present(self) -> BoolArray:
        """(S, L): where there is a point."""
        return np.isfinite(self.i_xt) & np.isfinite(self.i_ty)

    @property
    def points(self) -> FloatArray:
        """(P, 2): all points."""
        return np.column_stack([self.i_xt[self.present], self.i_ty[self.present]])

    @property
    def paths(self) -> list[FloatArray]:
        """(k, 2) for each step: its points in the order of the layers."""
        return [np.column_stack([self.i_xt[s, at], self.i_ty[s, at]]) for s, at in enumerate(self.present)]

    def path(self, layer: int) -> tuple[FloatArray, FloatArray, BoolArray]:
        """The points of a layer in step order, and which of them are saturated."""
        at = self.present[:, layer]
        return self.i_xt[at, layer], self.i_ty[at, layer], self.saturated[at, layer]

    def end(self, layer: int, text: str, color: Any) -> Label:
        """A label at the last point of a layer."""
        x, y, _ = self.path(layer)
        return end_of(x, y, text, color)


@keywords(Selection)
def plane_data(table: ResultTable, **select: Unpack[Selection]) -> PlaneData:
    """The points of one run in one estimator's plane, as arrays; see `plane` for the parameters."""
    return series_plane(choose(table, **select))


def series_plane(series: Series) -> PlaneData:
    """`plane_data` of a series chosen before."""
    xt, ty = series.grid(I_XT), series.grid(I_TY)
    if not (np.isfinite(xt.value) & np.isfinite(ty.value)).any():
        have = ", ".join(sorted(series.quantities))
        raise ValueError(f"{series.estimator} gave no pair of {I_XT} and {I_TY} to draw; the table has {have}")
    huge = (np.abs(xt.value) > HUGE) | (np.abs(ty.value) > HUGE)
    i_xt, i_ty = np.where(huge, np.nan, xt.value), np.where(huge, np.nan, ty.value)
    present = np.isfinite(i_xt) & np.isfinite(i_ty)
    saturated = (xt.flag("saturated") | ty.flag("saturated")) & present
    of = int(present.sum())
    caption = about(series, (xt, ty)) + dpi_words(series) + doubtful(int(saturated.sum()), of, "saturated", "hollow")
    chance = int((ty.flag("below_null") & present).sum())
    if chance:
        caption.append(f"I(T;Y) no more than chance in {chance} of {of}")
    lost = int((xt.flag("nonfinite") | ty.flag("nonfinite") | huge).sum())
    return PlaneData(
        layers=xt.layers,
        steps=xt.steps,
        times=xt.times,
        i_xt=i_xt,
        i_ty=i_ty,
        saturated=saturated,
        ceiling_xt=ceiling_of(xt),
        ceiling_ty=ceiling_of(ty),
        labels=(axis_label(I_XT, xt.unit), axis_label(I_TY, ty.unit)),
        caption=caption + doubtful(lost, of + lost, "not finite", "not drawn"),
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
    `by="layer"` the points of each layer are joined in step order instead, from an open circle at the first
    step to a filled square at the last, arrows along the way.

    Parameters
    ----------
    table : ResultTable
    ax : Axes, optional
        Where to draw. Without it a figure is made outside pyplot: `save(ax, path)` writes it, and in a
        notebook what is returned shows it.
    by : {"step", "layer"}
    estimator, settings, run, subset, layers
        What to draw where the table has several; see `infoplane.results.views.Selection`.
    against : {"step", "epoch"}
        Which column the colours show.
    log : bool, optional
        Logarithmic colour scale, on which step 0 has its place; by default where steps span over two decades.
    caption : bool
        Show the line that says estimator, settings and N; without it `save` still puts it into the file.
    style : {"screen", "column", "page"}
        Text size and width: for the screen, one column (85 mm) or the full page (170 mm) of a paper.
    width : float, optional
        Millimetres, instead of the style's.

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
        frame(axes, [data])
        if by == "step":
            norm = step_norm(data.times, log)
            draw_steps(axes, data, norm)
            step_colorbar(axes, norm, data.times, options["against"])
            name_layers(axes, data, [INK] * len(data.layers), own=ax is None)
        else:
            colors = layer_colors(len(data.layers))
            draw_trajectories(axes, data, colors)
            name_layers(axes, data, colors, ends=True, own=ax is None)
    return axes


def only_layers(data: PlaneData, layers: Sequence[str]) -> PlaneData:
    """The same plane with fewer layers."""
    at = [data.layers.index(layer) for layer in layers]
    fewer = {name: getattr(data, name)[:, at] for name in ("i_xt", "i_ty", "saturated")}
    return replace(data, layers=list(layers), **fewer)


def frame(ax: Axes, planes: Sequence[PlaneData], *, named: bool = True) -> None:
    """Axis labels, limits from the points of all `planes`, and the ceilings, by name where `named`."""
    points = np.concatenate([p.points for p in planes])
    x, y = highest(p.ceiling_xt for p in planes), highest(p.ceiling_ty for p in planes)
    ax.set(xlabel=planes[0].labels[0], ylabel=planes[0].labels[1])
    ax.set(xlim=limits(points[:, 0], x), ylim=limits(points[:, 1], y))
    draw_ceilings(ax, x=x, y=y, named=named)


def draw_steps(ax: Axes, data: PlaneData, norm: Normalize, *, crowd: float | None = None) -> None:
    """One line per step through the layers, a marker per layer, coloured by step."""
    colors = step_colormap()(norm(data.times))
    scale = float(mpl.rcParams["lines.markersize"])
    if crowd is None:
        crowd = 0.85 if data.steps.size <= 80 else 0.7
    # A vector file with more markers than this opens slowly.
    raster = data.present.sum() > 6000
    lines: dict[str, Any] = {"linewidths": 0.35 * scale / 3.4, "alpha": 0.75, "zorder": 2, "rasterized": raster}
    ax.add_collection(LineCollection(data.paths, colors=colors, **lines), autolim=False)
    for i in range(len(data.layers)):
        marker = layer_marker(i)
        # Pointed and crossed markers have less ink than round ones of their width.
        size = (crowd * scale * (1.25 if marker in "PX*<>^v" else 1.0)) ** 2
        for hollow in (False, True):
            keep = data.present[:, i] & (data.saturated[:, i] == hollow)
            look: dict[str, Any] = {"facecolors": colors[keep], "edgecolors": "white", "linewidths": 0.25}
            if hollow:
                look = {"facecolors": "white", "edgecolors": colors[keep], "linewidths": 0.6}
            if keep.any():
                x, y = data.i_xt[keep, i], data.i_ty[keep, i]
                ax.scatter(x, y, s=size, marker=marker, zorder=3, clip_on=False, rasterized=raster, **look)


def draw_trajectories(ax: Axes, data: PlaneData, colors: Sequence[Any]) -> None:
    """The path of each layer over training, with its start, its end and its direction."""
    size = float(mpl.rcParams["lines.markersize"])
    arrow = {"arrowstyle": "-|>", "linewidth": 0.8, "mutation_scale": 2.2 * size, "shrinkA": 0, "shrinkB": 0}
    first: dict[str, Any] = {**OPEN, "markersize": 1.5 * size, "markeredgewidth": 1.0, "zorder": 4}
    last: dict[str, Any] = {"marker": "s", "markersize": 1.35 * size, "markeredgewidth": 0.5, "zorder": 5}
    for i, color in enumerate(colors):
        x, y, hollow = data.path(i)
        if x.size == 0:
            continue
        faces = ["white" if h else color for h in hollow]
        dots: dict[str, Any] = {"facecolors": faces, "edgecolors": [color], "linewidths": 0.5, "zorder": 2.5}
        ax.plot(x, y, color=color, linewidth=0.8, alpha=0.9, zorder=2, solid_joinstyle="round")
        ax.scatter(x, y, s=(0.55 * size) ** 2, marker=layer_marker(i), **dots)
        ax.plot(x[:1], y[:1], markeredgecolor=color, **first)
        ax.plot(x[-1:], y[-1:], color=color, markeredgecolor="white", linestyle="none", **last)
        for start, end in arrow_spans(ax, x, y):
            ax.annotate("", xy=end, xytext=start, zorder=3, arrowprops={**arrow, "color": color})


def path_ends() -> list[Line2D]:
    """Legend entries for the marks at the start and the end of a trajectory."""
    return [key("first step", color=INK, **OPEN), key("last step", color=INK, marker="s", linestyle="none")]


def arrow_spans(
    ax: Axes, x: FloatArray, y: FloatArray, *, shares: Sequence[float] = (0.35, 0.75)
) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """Short pieces of a path at the given shares of its drawn length, to carry arrow heads.

    Measured in axes fractions of the current limits; a path too short to show a direction has none.
    """
    (x0, x1), (y0, y1) = ax.get_xlim(), ax.get_ylim()
    u = np.column_stack([(x - x0) / (x1 - x0), (y - y0) / (y1 - y0)])
    lengths = np.hypot(*np.diff(u, axis=0).T)
    run = np.concatenate([[0.0], np.cumsum(lengths)])
    if run[-1] < 0.08:
        return []
    out = []
    for share in shares:
        at = share * run[-1]
        ends = [(float(np.interp(s, run, x)), float(np.interp(s, run, y))) for s in (at - 0.012, at + 0.012)]
        if ends[0] != ends[1]:
            out.append((ends[0], ends[1]))
    return out


MOST_DIRECT = 8
LABEL_SHARE = 0.06


def name_layers(ax: Axes, data: PlaneData, colors: Sequence[Any], *, ends: bool = False, own: bool) -> None:
    """Each layer's name beside its last point; in a legend of the markers where names would hide the points.

    A figure of our `own` grows by what the legend takes.

    Call it last: the axes' limits and layout must be final.
    """
    figure = figure_of(ax)
    names = list(safe_names(data.layers, limit=20).values())
    drawn = [i for i in range(len(data.layers)) if data.present[:, i].any()]
    size = float(mpl.rcParams["font.size"])
    widths = [text_width(names[i], size) for i in drawn]
    across, up = np.array(ax.get_window_extent().size) * 72 / figure.dpi
    crowded = len(drawn) > MOST_DIRECT or sum(widths) * 1.2 * size > LABEL_SHARE * across * up
    handles = path_ends() if ends else []
    if crowded:
        marks = [key(names[i], color=colors[i], marker=layer_marker(i), linestyle="none") for i in drawn]
        handles = marks + handles
    if handles:
        columns = min(len(handles), max(1, int(across // (max([*widths, 5.0 * size]) + 2.0 * size))))
        legend(ax, by_rows(handles, columns), columns, columnspacing=1.0, handlelength=1.0, handletextpad=0.3)
        if own:
            figure.set_figheight(figure.get_figheight() + 1.55 * size / 72 * -(-len(handles) // columns))
    shown = [drawn[0], drawn[-1]] if crowded and len(drawn) > 1 else drawn
    direct_labels(ax, [data.end(i, names[i], colors[i]) for i in shown], data.points)
