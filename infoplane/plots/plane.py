"""The information plane: I(T;Y) against I(X;T) for every layer, over training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.lines import Line2D

from infoplane.core.palette import layer_colors
from infoplane.plots._about import about, axis_label, doubtful, dpi_words, times
from infoplane.plots._artists import (
    Ceiling,
    Label,
    add_caption,
    direct_labels,
    draw_ceilings,
    legend_above,
    limits,
    step_colorbar,
)
from infoplane.plots.style import HUGE, INK, canvas, keep_tick_style, layer_marker, step_colormap, step_norm
from infoplane.plots.text import safe_names, text_width
from infoplane.results import ResultTable
from infoplane.results.series import Series, ceiling_name, choose, grid

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

I_XT, I_TY = "I(X;T)", "I(T;Y)"


@dataclass(frozen=True, eq=False)
class PlaneData:
    """What `plane` draws.

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
        return np.isfinite(self.i_xt) & np.isfinite(self.i_ty)


def plane_data(
    table: ResultTable,
    *,
    estimator: str | None = None,
    settings: Mapping[str, Any] | str | None = None,
    run: str | None = None,
    subset: str | None = None,
    layers: Sequence[str] | None = None,
    against: Literal["step", "epoch"] = "step",
) -> PlaneData:
    """The points of one run in one estimator's plane, as arrays; see `plane` for the parameters."""
    return series_plane(
        choose(table, estimator=estimator, settings=settings, run=run, subset=subset, layers=layers, against=against),
        against=against,
    )


def series_plane(series: Series, *, against: Literal["step", "epoch"] = "step") -> PlaneData:
    """`plane_data` of a series chosen before."""
    xt, ty = grid(series, I_XT), grid(series, I_TY)
    i_xt, i_ty = xt.value.copy(), ty.value.copy()
    if not (np.isfinite(i_xt) & np.isfinite(i_ty)).any():
        have = ", ".join(sorted({str(q) for q in series.table["quantity"]}))
        raise ValueError(f"{series.estimator} gave no pair of {I_XT} and {I_TY} to draw; the table has {have}")
    huge = (np.abs(i_xt) > HUGE) | (np.abs(i_ty) > HUGE)
    i_xt[huge] = np.nan
    i_ty[huge] = np.nan
    present = np.isfinite(i_xt) & np.isfinite(i_ty)
    saturated = (xt.flag("saturated") | ty.flag("saturated")) & present
    caption = about(series, (xt, ty)) + dpi_words(series)
    caption += doubtful(int(saturated.sum()), int(present.sum()), "saturated", "hollow")
    chance = int((ty.flag("below_null") & present).sum())
    if chance:
        caption.append(f"I(T;Y) no more than chance in {chance} of {int(present.sum())}")
    lost = int((xt.flag("nonfinite") | ty.flag("nonfinite") | huge).sum())
    caption += doubtful(lost, int(present.sum()) + lost, "not finite", "not drawn")
    return PlaneData(
        layers=xt.layers,
        steps=xt.steps,
        times=times(xt, against),
        i_xt=i_xt,
        i_ty=i_ty,
        saturated=saturated,
        ceiling_xt=None if xt.top is None else Ceiling(xt.top, ceiling_name(xt, series.n_samples)),
        ceiling_ty=None if ty.top is None else Ceiling(ty.top, ceiling_name(ty, series.n_samples)),
        labels=(axis_label(I_XT, xt.unit), axis_label(I_TY, ty.unit)),
        caption=caption,
    )


def plane(
    table: ResultTable,
    *,
    ax: Axes | None = None,
    by: Literal["step", "layer"] = "step",
    estimator: str | None = None,
    settings: Mapping[str, Any] | str | None = None,
    run: str | None = None,
    subset: str | None = None,
    layers: Sequence[str] | None = None,
    against: Literal["step", "epoch"] = "step",
    log: bool | None = None,
    caption: bool = True,
    style: str = "screen",
    width: float | None = None,
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
        notebook `ax.figure` shows it.
    by : {"step", "layer"}
    estimator, settings, run, subset, layers
        What to draw where the table has several; see `infoplane.results.series.choose`.
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
    data = plane_data(
        table, estimator=estimator, settings=settings, run=run, subset=subset, layers=layers, against=against
    )
    with canvas(ax, style=style, width=width) as axes:
        norm = step_norm(data.times, log)
        frame(axes, [data])
        if caption or ax is None:
            add_caption(axes, data.caption, own=ax is None, shown=caption)
        if by == "step":
            draw_steps(axes, data, norm)
            step_colorbar(axes, norm, data.times, against)
        else:
            draw_trajectories(axes, data)
        keep_tick_style(axes)
        name_layers(
            axes, data, ink=None if by == "step" else layer_colors(len(data.layers)), ends=by == "layer", own=ax is None
        )
    return axes


def only_layers(data: PlaneData, layers: Sequence[str]) -> PlaneData:
    """The same plane with fewer layers."""
    at = [data.layers.index(layer) for layer in layers]
    return replace(
        data, layers=list(layers), i_xt=data.i_xt[:, at], i_ty=data.i_ty[:, at], saturated=data.saturated[:, at]
    )


def frame(ax: Axes, planes: Sequence[PlaneData], *, named: bool = True) -> None:
    """Axis labels, limits from the points of all `planes`, and the ceilings, by name where `named`."""
    x = np.concatenate([p.i_xt[p.present] for p in planes])
    y = np.concatenate([p.i_ty[p.present] for p in planes])
    tops = [max((c for c in cs if c is not None), key=lambda c: c.value, default=None)
            for cs in ([p.ceiling_xt for p in planes], [p.ceiling_ty for p in planes])]  # fmt: skip
    ax.set_xlabel(planes[0].labels[0])
    ax.set_ylabel(planes[0].labels[1])
    ax.set_xlim(limits(x, tops[0].value if tops[0] else None))
    ax.set_ylim(limits(y, tops[1].value if tops[1] else None))
    draw_ceilings(ax, x=tops[0], y=tops[1], named=named)


def draw_steps(ax: Axes, data: PlaneData, norm: Normalize, *, crowd: float | None = None) -> None:
    """One line per step through the layers, a marker per layer, coloured by step."""
    colors = step_colormap()(norm(data.times))
    scale = float(mpl.rcParams["lines.markersize"])
    if crowd is None:
        crowd = 0.85 if data.steps.size <= 80 else 0.7
    raster = data.present.sum() > 6000
    paths = [np.column_stack([data.i_xt[s, keep], data.i_ty[s, keep]]) for s, keep in enumerate(data.present)]
    ax.add_collection(
        LineCollection(paths, colors=colors, linewidths=0.35 * scale / 3.4, alpha=0.75, zorder=2, rasterized=raster),
        autolim=False,
    )
    for i in range(len(data.layers)):
        marker = layer_marker(i)
        for hollow in (False, True):
            keep = data.present[:, i] & (data.saturated[:, i] == hollow)
            if keep.any():
                ax.scatter(
                    data.i_xt[keep, i],
                    data.i_ty[keep, i],
                    s=(crowd * scale * (1.25 if marker in "PX*<>^v" else 1.0)) ** 2,
                    marker=marker,
                    facecolors="white" if hollow else colors[keep],
                    edgecolors=colors[keep] if hollow else "white",
                    linewidths=0.6 if hollow else 0.25,
                    zorder=3,
                    clip_on=False,
                    rasterized=raster,
                )


def draw_trajectories(ax: Axes, data: PlaneData, *, colors: Sequence[Any] | None = None) -> None:
    """The path of each layer over training, with its start, its end and its direction."""
    colors = layer_colors(len(data.layers)) if colors is None else colors
    size = float(mpl.rcParams["lines.markersize"])
    for i, color in enumerate(colors):
        keep = data.present[:, i]
        x, y = data.i_xt[keep, i], data.i_ty[keep, i]
        hollow = data.saturated[keep, i]
        if x.size == 0:
            continue
        ax.plot(x, y, color=color, linewidth=0.8, alpha=0.9, zorder=2, solid_joinstyle="round")
        ax.scatter(
            x, y, s=(0.55 * size) ** 2, marker=layer_marker(i), zorder=2.5, linewidths=0.5,
            facecolors=["white" if h else color for h in hollow], edgecolors=[color],
        )  # fmt: skip
        ax.plot(x[:1], y[:1], marker="o", markersize=1.5 * size, markerfacecolor="white", markeredgecolor=color,
                markeredgewidth=1.0, linestyle="none", zorder=4)  # fmt: skip
        ax.plot(x[-1:], y[-1:], marker="s", markersize=1.35 * size, color=color, markeredgecolor="white",
                markeredgewidth=0.5, linestyle="none", zorder=5)  # fmt: skip
        for start, end in arrow_spans(ax, x, y):
            ax.annotate(
                "", xy=end, xytext=start, zorder=3,
                arrowprops={"arrowstyle": "-|>", "color": color, "linewidth": 0.8, "mutation_scale": 2.2 * size,
                            "shrinkA": 0, "shrinkB": 0},
            )  # fmt: skip


def path_ends() -> list[Line2D]:
    """Legend entries for the marks at the start and the end of a trajectory."""
    return [
        Line2D([], [], marker="o", markerfacecolor="white", markeredgecolor=INK, linestyle="none", label="first step"),
        Line2D([], [], marker="s", color=INK, linestyle="none", label="last step"),
    ]


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


def name_layers(ax: Axes, data: PlaneData, *, ink: Sequence[Any] | None, ends: bool = False, own: bool) -> None:
    """Each layer's name beside its last point; in a legend of the markers where names would hide the points.

    A figure of our `own` grows by what the legend takes.

    Call it last: the axes' limits and layout must be final.
    """
    figure = ax.get_figure(root=True)
    if figure is None:
        raise ValueError("the axes belong to no figure")
    names = safe_names(data.layers, limit=20)
    colors = [INK] * len(data.layers) if ink is None else list(ink)
    last = {i: np.flatnonzero(data.present[:, i])[-1] for i in range(len(data.layers)) if data.present[:, i].any()}
    size = float(mpl.rcParams["font.size"])
    widths = [text_width(names[data.layers[i]], size) for i in last]
    box = ax.get_window_extent()
    area = box.width * box.height * (72 / figure.dpi) ** 2
    crowded = len(last) > MOST_DIRECT or sum(widths) * 1.2 * size > LABEL_SHARE * area
    handles = path_ends() if ends else []
    if crowded:
        handles = [
            Line2D([], [], color=colors[i], marker=layer_marker(i), linestyle="none", label=names[data.layers[i]])
            for i in last
        ] + handles
    if handles:
        across = box.width * 72 / figure.dpi
        columns = max(1, int(across // (max([*widths, 5.0 * size]) + 2.0 * size)))
        legend_above(ax, handles, columns)
        if own:
            figure.set_figheight(figure.get_figheight() + 1.55 * size / 72 * -(-len(handles) // columns))
    shown = [min(last), max(last)] if crowded and len(last) > 1 else list(last)
    labels = [
        Label(float(data.i_xt[last[i], i]), float(data.i_ty[last[i], i]), names[data.layers[i]], colors[i])
        for i in shown
    ]
    direct_labels(ax, labels, np.column_stack([data.i_xt[data.present], data.i_ty[data.present]]))
