"""The information plane in panels with shared limits: one per layer, estimator, run, subset or setting."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, Literal, Unpack

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from infoplane.core.text import listed
from infoplane.plots._artists import direct_labels, step_colorbar
from infoplane.plots._figure import (
    Look,
    Options,
    keywords,
    multiples,
    outer_labels,
    selected,
)
from infoplane.plots._figure import panels as panels_of
from infoplane.plots._layers import LayerLook, layer_looks
from infoplane.plots._panels import KINDS, check_count, panel_texts, panels_by
from infoplane.plots.plane import MOST_DIRECT, draw_steps, frame, last_name, plane_data
from infoplane.plots.style import INK, step_colormap, step_norm
from infoplane.plots.text import safe_text
from infoplane.results import Plane, ResultTable
from infoplane.results.views import Selection

PANEL_SHARE = 0.4
"""Share of a panel's width that a name in it may take."""

By = Literal["layer", "estimator", "run", "subset", "settings"]


@keywords(Selection)
def plane_grid_data(table: ResultTable, *, by: By = "layer", **select: Unpack[Selection]) -> dict[str, Plane]:
    """Return {name of a panel: its points}; see `plane_grid` for the parameters."""
    if by not in ("layer", *KINDS):
        raise ValueError(f"by must be layer, estimator, run, subset or settings, got {by!r}")
    if by != "layer":
        return panels_by(table, by, lambda **one: plane_data(table, **one), select)
    data = plane_data(table, **select)
    check_count(data.layers, "layers=[...]")
    return {layer: data.only_layers([layer]) for layer in data.layers}


@keywords(Options)
def plane_grid(
    table: ResultTable,
    *,
    ax: Sequence[Axes] | None = None,
    by: By = "layer",
    log: bool | None = None,
    columns: int | None = None,
    **options: Unpack[Options],
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
    ax : sequence of Axes, optional
        As many as there are panels. Without it a figure is made.
    table, estimator, settings, run, subset, layers, against, log, caption, style, width
        As in `infoplane.plots.plane`.

    Returns
    -------
    Axes
        The first panel; `.figure` has all.
    """
    panels = plane_grid_data(table, by=by, **selected(options))
    across = min(len(panels), columns or (2 if options["style"] == "column" else 3))
    planes = list(panels.values())
    times = np.concatenate([p.times for p in planes])
    norm = step_norm(times, log)
    titles, caption = panel_texts({name: [*p.caption, *cornered_words(p)] for name, p in panels.items()}, by)
    everywhere = list(dict.fromkeys(layer for p in planes for layer in p.layers))
    with grid_axes(ax, titles, caption, options, across) as axes:
        for i, (panel, data) in enumerate(zip(axes, planes, strict=True)):
            panel.set_title(titles[i])
            frame(panel, planes, options, panel=i)
            panel.locator_params(axis="both", nbins=4)
            if by == "layer":
                draw_path(panel, data, norm, options)
            looks = looks_of(panel, data, everywhere, options)
            draw_steps(panel, data, norm, looks, options, crowd=0.7 if by == "layer" else 0.65)
        if ax is None:
            outer_labels(axes, across)
        step_colorbar(axes, norm, times, options, options["against"], aspect=35)
        if by != "layer":
            for panel, data in zip(axes, planes, strict=True):
                name_ends(panel, data, looks_of(panel, data, everywhere, options))
    return axes[0]


def grid_axes(
    ax: Sequence[Axes] | None, titles: Sequence[str], caption: Sequence[str], look: Options, across: int
) -> contextlib.AbstractContextManager[list[Axes]]:
    """Return a context manager that gives the panels of a figure, one for each title.

    These are the caller's `ax`, or without it the axes of a new figure with `across` panels in a row.
    """
    if ax is not None:
        return panels_of(ax, caption, look, heights=[1.0] * len(titles))
    down = -(-len(titles) // across)  # rounded up
    return multiples(titles, caption, look, across=across, height=0.08 / down + 0.86 / across)


def draw_path(ax: Axes, data: Plane, norm: Any, look: Look) -> None:
    """Draw a line through the points of a single layer in step order, coloured by step, with rings at both ends."""
    points, colors = data.points, step_colormap(look["cmap"])(norm(data.times[data.present[:, 0]]))
    if len(points) > 1:
        pieces = np.stack([points[:-1], points[1:]], axis=1)
        ax.add_collection(LineCollection(list(pieces), colors=colors[1:], linewidths=0.8, zorder=2), autolim=False)
    ring: dict[str, Any] = {"s": 26, "facecolors": "none", "edgecolors": INK, "linewidths": 0.7, "zorder": 5}
    for ends, shape in ((points[:1], "o"), (points[-1:], "s")):
        ax.scatter(ends[:, 0], ends[:, 1], marker=shape, **ring)


def cornered_words(data: Plane) -> list[str]:
    """Return ["saturated throughout: fc1, fc2"], or [] where no layer is; in the panels these layers have no names."""
    names = [safe_text(layer, limit=24) for layer, cornered in zip(data.layers, data.cornered, strict=True) if cornered]
    return [f"saturated throughout: {listed(names, MOST_DIRECT)}"] if names else []


def looks_of(ax: Axes, data: Plane, everywhere: Sequence[str], look: Look) -> list[LayerLook]:
    """Return the looks of the layers of one panel.

    `everywhere` are the layers of all panels: markers are given out among these, so that a layer has the same in each.
    """
    looks = layer_looks(ax, everywhere, look, share=PANEL_SHARE, colors=[INK] * len(everywhere), marks=data.marks)
    return [layer for layer in looks if layer.key in data.layers]


def name_ends(ax: Axes, data: Plane, looks: Sequence[LayerLook]) -> None:
    """Write the names of the first and the last layer with points that are not saturated throughout.

    The others lie between them, in the order of the forward pass.
    """
    shown = [i for i in range(len(data.layers)) if data.present[:, i].any() and not data.cornered[i]]
    direct_labels(ax, [last_name(data, i, looks[i]) for i in dict.fromkeys([*shown[:1], *shown[-1:]])], data.points)
