"""The information plane in panels with shared limits: one per layer, estimator, run, subset or setting."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from infoplane.core.text import shorten
from infoplane.plots._artists import Label, add_caption, direct_labels, small_size, step_colorbar
from infoplane.plots.plane import PlaneData, draw_steps, frame, only_layers, plane_data
from infoplane.plots.style import FAINT, INK, figure_canvas, keep_tick_style, step_colormap, step_norm
from infoplane.plots.text import safe_names, wrap
from infoplane.results import ResultTable
from infoplane.results.series import options

MAX_PANELS = 30
BAR_POINTS = 60
"""What the colour bar and its label take of the width."""


def plane_grid_data(
    table: ResultTable,
    *,
    by: Literal["layer", "estimator", "run", "subset", "settings"] = "layer",
    estimator: str | None = None,
    settings: Mapping[str, Any] | str | None = None,
    run: str | None = None,
    subset: str | None = None,
    layers: Sequence[str] | None = None,
    against: Literal["step", "epoch"] = "step",
) -> dict[str, PlaneData]:
    """The points of each panel, by the panel's name; see `plane_grid` for the parameters."""
    chosen: dict[str, Any] = {
        "estimator": estimator, "settings": settings, "run": run, "subset": subset, "layers": layers,
    }  # fmt: skip
    if by == "layer":
        data = plane_data(table, **chosen, against=against)
        panels = {layer: only_layers(data, [layer]) for layer in data.layers}
    elif by in chosen:
        if chosen[by] is not None:
            raise ValueError(f"by={by!r} makes a panel of each {by}, so it cannot be chosen; got {by}={chosen[by]!r}")
        panels = {}
        for value in options(table, by, **{k: v for k, v in chosen.items() if k not in (by, "layers")}):
            panels[value] = plane_data(table, **{**chosen, by: value}, against=against)
    else:
        raise ValueError(f"by must be layer, estimator, run, subset or settings, got {by!r}")
    if len(panels) > MAX_PANELS:
        what = "layers=[...]" if by == "layer" else "a smaller table"
        raise ValueError(f"{len(panels)} panels are more than a page holds ({MAX_PANELS}); choose with {what}")
    return panels


def plane_grid(
    table: ResultTable,
    *,
    by: Literal["layer", "estimator", "run", "subset", "settings"] = "layer",
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
    columns: int | None = None,
) -> Axes:
    """Draw one information plane per layer, estimator, run, subset or setting, all with the same limits.

    A panel of one layer joins its points in step order; the others have the canonical form. All share one
    colour scale.

    Parameters
    ----------
    by : {"layer", "estimator", "run", "subset", "settings"}
        What the panels differ in; the other choices must be made where the table leaves them open.
    columns : int, optional
        Panels in a row; by default 2 in the style "column", else 3.
    table, estimator, settings, run, subset, layers, against, log, caption, style, width
        As in `infoplane.plots.plane`.

    Returns
    -------
    Axes
        The first panel; `.figure` has all.
    """
    panels = plane_grid_data(
        table, by=by, estimator=estimator, settings=settings, run=run, subset=subset, layers=layers, against=against
    )
    across = min(len(panels), columns or (2 if style == "column" else 3))
    down = math.ceil(len(panels) / across)
    everything = list(panels.values())
    times = np.concatenate([p.times for p in everything])
    norm = step_norm(times, log)
    titles, own, shared = panel_texts(panels, by)
    with figure_canvas(style=style, width=width, aspect=0.08 + 0.86 * down / across) as figure:
        below = [wrap(parts, (figure.get_figwidth() * 72 - BAR_POINTS) * 0.82 / across, small_size()) for parts in own]
        lines = [text.count("\n") + 1 if text else 0 for text in below]
        tallest = sum(max(lines[row : row + across]) for row in range(0, len(lines), across))
        figure.set_figheight(figure.get_figheight() + 1.25 * small_size() * tallest / 72)
        grid: Any = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
        axes: list[Axes] = list(grid.flat)
        for ax in axes[len(panels) :]:
            ax.set_visible(False)
        for i, (ax, data) in enumerate(zip(axes, everything, strict=False)):
            frame(ax, everything, named=i == 0)
            ax.set_title(titles[i], pad=9 + small_size() * (1.25 * lines[i] + (lines[i] > 0) * 0.6))
            if below[i]:
                ax.annotate(
                    below[i], (0, 1), xycoords="axes fraction", xytext=(0, 4 + small_size()),
                    textcoords="offset points", fontsize=small_size(), color=FAINT, va="bottom", linespacing=1.15,
                    in_layout=False,
                )  # fmt: skip
            ax.locator_params(axis="both", nbins=4)
            if i % across:
                ax.set_ylabel("")
            if i + across < len(panels):
                ax.set_xlabel("")
            else:
                ax.tick_params(labelbottom=True)
            if by == "layer":
                draw_path(ax, data, norm)
            else:
                draw_steps(ax, data, norm, crowd=0.65)
            keep_tick_style(ax)
        step_colorbar(axes[: len(panels)], norm, times, against, aspect=35)
        add_caption(axes[0], shared, own=True, shown=caption)
        if by != "layer":
            for ax, data in zip(axes, everything, strict=False):
                name_ends(ax, data)
    return axes[0]


def panel_texts(panels: Mapping[str, PlaneData], by: str) -> tuple[list[str], list[list[str]], list[str]]:
    """Titles, what else a panel's caption has of its own, and the caption that all share."""
    captions = [list(p.caption) for p in panels.values()]
    titles = list(safe_names(panels, limit=28).values())
    if by == "settings":
        words = [caption[0].split(", ") for caption in captions]
        common = [w for w in words[0] if all(w in ws for ws in words)]
        titles = [", ".join(w for w in ws if w not in common) or "default" for ws in words]
        captions = [[", ".join(common), *caption[1:]] for caption in captions]
    elif by == "run":
        captions = [[part for part in caption if not part.startswith("run ")] for caption in captions]
    shared = [part for part in captions[0] if all(part in caption for caption in captions)]
    return titles, [[part for part in caption if part not in shared] for caption in captions], shared


def draw_path(ax: Axes, data: PlaneData, norm: Any) -> None:
    """The points of a single layer joined in step order, coloured by step."""
    keep = data.present[:, 0]
    points = np.column_stack([data.i_xt[keep, 0], data.i_ty[keep, 0]])
    colors = step_colormap()(norm(data.times[keep]))
    if len(points) > 1:
        pieces = np.stack([points[:-1], points[1:]], axis=1)
        ax.add_collection(LineCollection(list(pieces), colors=colors[1:], linewidths=0.8, zorder=2), autolim=False)
    draw_steps(ax, data, norm, crowd=0.7)
    if len(points):
        for end, shape in ((0, "o"), (-1, "s")):
            ax.scatter(
                points[end, 0],
                points[end, 1],
                s=26,
                marker=shape,
                facecolors="none",
                edgecolors=INK,
                linewidths=0.7,
                zorder=5,
            )


def name_ends(ax: Axes, data: PlaneData) -> None:
    """First and last layer named in each panel; between them the order is that of the forward pass."""
    names = safe_names((shorten(layer, 14) for layer in data.layers), limit=14)
    labels = []
    for i in sorted({0, len(data.layers) - 1}):
        seen = np.flatnonzero(data.present[:, i])
        if seen.size:
            at = seen[-1]
            labels.append(Label(float(data.i_xt[at, i]), float(data.i_ty[at, i]), list(names.values())[i], INK))
    direct_labels(ax, labels, np.column_stack([data.i_xt[data.present], data.i_ty[data.present]]))
