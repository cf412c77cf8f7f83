"""What goes with the gap over many runs: every summary of every layer as a map, and one of them run by run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes

from infoplane.core.brief import Brief
from infoplane.core.errors import choices
from infoplane.core.palette import OKABE_ITO
from infoplane.core.records import FloatArray
from infoplane.plots._about import axis_label
from infoplane.plots._artists import ROW_SHARE, Label, direct_labels, measured, name_rows
from infoplane.plots._figure import Look, canvas, figure_of, grow, is_own, keywords, panel_height
from infoplane.plots._layers import row_looks
from infoplane.plots.heatmap import draw_cells, draw_scale
from infoplane.plots.style import INK, points_of, small_size, step_colormap
from infoplane.plots.text import safe_names, safe_text, text_width, wrap
from infoplane.studies import Association, AssociationMap

MOST_ACROSS, MOST_NAMES = 40, 24
"""Columns of a map, and runs that are named in a scatter plot by default, at most."""


@dataclass(frozen=True, eq=False, kw_only=True)
class ScatterData(Brief):
    """One summary and the target of every run.

    Attributes
    ----------
    x, y : (R,) float64
    z : (R,) float64 or None
        The control.
    runs : tuple of str
    x_label, y_label, z_label : str
    caption : list of str
    """

    x: FloatArray
    y: FloatArray
    z: FloatArray | None
    runs: tuple[str, ...]
    x_label: str
    y_label: str
    z_label: str
    caption: list[str]


def association_data(found: Association) -> AssociationMap:
    """Return the correlations as arrays (layers, columns); a column is a summary of a quantity that was tried.

    Raises
    ------
    ValueError
        More than 40 things were tried of a layer.
    """
    data = found.layer_map()
    if len(data.across) > MOST_ACROSS:
        raise ValueError(
            f"{len(data.across)} things were tried of each layer, a map has room for {MOST_ACROSS}; "
            "choose them in study.association(summary=..., quantity=..., settings=...)"
        )
    return data


@keywords(Look, without=["colors", "markers", "legend"])
def association(found: Association, *, ax: Axes | None = None, **look: Unpack[Look]) -> Axes:
    """Draw every correlation of an association: a row for each layer, a column for each summary that was tried of it.

    Hatched cells have an adjusted p of 0.05 or more, white ones were not tried. With a control, the correlations are
    those given it.

    Parameters
    ----------
    found : Association
        What `study.association(...)` returned.
    ax, caption, style, width, title, labels, cmap, colorbar
        As in `infoplane.plots.plane`.

    Raises
    ------
    ValueError
        More than 40 things were tried of a layer.
    """
    data = association_data(found)
    hatched = f"{int(data.weak.sum())} of {len(found.measures)} with an adjusted p of 0.05 or more (hatched)"
    caption = [safe_text(line, limit=300) for line in (", ".join(data.alike), hatched, *found.words) if line]
    with canvas(ax, caption, look, aspect=min(1.2, 0.34 + 0.035 * len(data.layers))) as axes:
        draw_map(axes, data, look, safe_text(found.label, limit=80), caption)
    return axes


def draw_map(ax: Axes, data: AssociationMap, look: Look, label: str, caption: Sequence[str]) -> None:
    """Draw the map: cells with numbers or signs, hatches over weak ones, names of rows and columns, the colour bar.

    `label` is the label of the colour bar.
    """
    mesh = draw_cells(ax, data.value, data.weak, {**look, "cmap": look["cmap"] or "RdBu_r"}, (-1, 1))
    name_rows(ax, row_looks(ax, data.layers, look, share=ROW_SHARE))
    name_columns(ax, data)
    # Long names below may have made the axes lower: lay the figure out, so that the label is wrapped to their height.
    figure_of(ax).draw_without_rendering()
    label = wrap([label], 0.9 * panel_height(ax), points_of(mpl.rcParams["axes.labelsize"]))
    draw_scale([ax], mesh, look, measured(label, caption, look, panel_height(ax)))
    write_numbers(ax, data, mesh)


def name_columns(ax: Axes, data: AssociationMap) -> None:
    """Write the names of the columns below them, upright where there is little room.

    A figure that was made here becomes higher by the length of upright names.
    """
    names = list(safe_names(data.across, limit=36).values())
    size = points_of(mpl.rcParams["xtick.labelsize"])
    width = max(text_width(name, size) for name in names)
    upright = width > 0.7 * panel_width(ax) / len(names)
    ax.set_xticks(range(len(names)), names, rotation=90 if upright else 0)
    ax.tick_params(axis="x", length=0)
    if upright and is_own(ax):
        grow(figure_of(ax), width)


def panel_width(ax: Axes) -> float:
    """Return the width of the axes in points."""
    return float(ax.get_window_extent().width * 72 / figure_of(ax).dpi)


def write_numbers(ax: Axes, data: AssociationMap, mesh: Any) -> None:
    """Write into each cell its number, or only its sign where cells are too narrow for numbers.

    In grey print the colours of `mesh` would not show the sign. Nothing is written where rows are lower than a line of
    text.
    """
    size = small_size(1.5)
    figure_of(ax).draw_without_rendering()  # the layout gives the axes their final size
    rows, columns = data.value.shape
    if 1.4 * size > panel_height(ax) / rows:
        return
    wide = text_width("-0.00", size) + 4 < panel_width(ax) / columns
    colors = mesh.to_rgba(np.ma.masked_invalid(data.value))
    for row, column in np.argwhere(np.isfinite(data.value)).tolist():
        value, color = data.value[row, column], colors[row, column]
        text = f"{value:+.2f}".replace("-", "\u2212")
        patch = {"boxstyle": "square,pad=0.12", "facecolor": color, "edgecolor": "none"}
        style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": size, "bbox": patch}
        # The relative luminance of the cell, as sRGB defines it: text on dark cells is white.
        dark = 0.2126 * color[0] + 0.7152 * color[1] + 0.0722 * color[2] < 0.45
        ax.text(column, row, text if wide else text[0], color="white" if dark else INK, **style)


def association_scatter_data(found: Association, column: str | None = None) -> ScatterData:
    """Return the values of one summary and of the target for every run.

    `column` names the summary, by default the one with the least adjusted p; ValueError for one that was not tried.
    """
    if column is not None and column not in found.measures:
        raise ValueError(f"{column!r} was not tried; {choices(column, found.measures)}")
    place = found.strongest()[0] if column is None else found.columns.index(column)
    measure = found.measures[found.columns[place]]
    caption = [found.value_words(place), f"layer {measure.layer}, {measure.way}", *found.words]
    summary = f"{measure.what} of {measure.quantity}, {safe_text(measure.layer, limit=24)}"
    return ScatterData(
        x=found.x[:, place],
        y=found.y,
        z=found.z,
        runs=found.runs,
        x_label=axis_label(summary, "" if measure.unit in ("step", "1") else measure.unit),
        y_label=safe_text(found.target),
        z_label=safe_text(found.control),
        caption=[safe_text(line, limit=300) for line in caption],
    )


@keywords(Look, without=["colors", "markers", "labels", "legend"])
def association_scatter(
    found: Association,
    column: str | None = None,
    *,
    ax: Axes | None = None,
    names: bool | None = None,
    **look: Unpack[Look],
) -> Axes:
    """Draw one summary of each run against the target, with a point for each run.

    Parameters
    ----------
    found : Association
        What `study.association(...)` returned. With a control its value is the colour of a point.
    column : str, optional
        One of `found.columns`; by default the one of the least adjusted p.
    names : bool, optional
        Whether points have their run's name, as far as there is room; by default up to 24 runs.
    ax, caption, style, width, title, cmap, colorbar
        As in `infoplane.plots.plane`.

    Raises
    ------
    ValueError
        The column was not tried.
    """
    data = association_scatter_data(found, column)
    with canvas(ax, data.caption, look) as axes:
        draw_runs(axes, data, look)
        if len(data.runs) <= MOST_NAMES if names is None else names:
            shown = safe_names(data.runs, limit=24)
            labels = [Label(x, y, shown[run]) for x, y, run in zip(data.x, data.y, data.runs, strict=True)]
            direct_labels(axes, labels, np.stack([data.x, data.y], axis=1))
    return axes


def draw_runs(ax: Axes, data: ScatterData, look: Look) -> None:
    """Draw a point for each run, coloured by the control where there is one."""
    ax.set_xlabel(data.x_label)
    ax.set_ylabel(measured(data.y_label, data.caption, look, panel_height(ax)))
    for values, limit in ((data.x, ax.set_xlim), (data.y, ax.set_ylim)):
        room = 0.06 * float(np.ptp(values))
        limit(float(values.min()) - room, float(values.max()) + room)
    shared: dict[str, Any] = {"s": 5 * float(mpl.rcParams["lines.markersize"]), "linewidths": 0.4, "zorder": 3}
    if data.z is None:
        ax.scatter(data.x, data.y, color=OKABE_ITO[0], edgecolors="white", **shared)
        return
    drawn = ax.scatter(data.x, data.y, c=data.z, cmap=step_colormap(look["cmap"]), edgecolors="white", **shared)
    draw_scale([ax], drawn, look, data.z_label)
