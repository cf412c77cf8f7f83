"""Several runs or seeds: the mean over runs and a band whose meaning the figure states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Unpack

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from matplotlib.colors import to_rgba
from matplotlib.patches import Patch, Rectangle

from infoplane.core.brief import Brief
from infoplane.core.deprecation import renamed
from infoplane.core.records import BoolArray, FloatArray
from infoplane.plots._about import about, axis_label, doubtful
from infoplane.plots._artists import (
    LEGEND_SHARE,
    OPEN,
    Label,
    cut,
    direct_labels,
    draw_ceilings,
    draw_line,
    draw_points,
    end_labels,
    end_of,
    highest,
    key,
    legend,
    limits,
    measured,
    step_axis,
)
from infoplane.plots._figure import (
    Look,
    Options,
    figure_of,
    grow,
    is_own,
    keywords,
    multiples,
    outer_labels,
    panel_height,
    panels,
    selected,
    slot_width,
)
from infoplane.plots._layers import END_SHARE, LayerLook, layer_looks, tag
from infoplane.plots.curves import draw_band, turns
from infoplane.plots.plane import NAME_SHARE, draw_ends
from infoplane.plots.style import FAINT, INK, layer_line, points_of
from infoplane.plots.text import safe_names, safe_text
from infoplane.results import ResultTable
from infoplane.results.limits import drawable
from infoplane.results.names import runs_called
from infoplane.results.summary import Summary, at_common_steps, over_runs
from infoplane.results.trajectories import Ceiling, Grid
from infoplane.results.views import Selection, Series, choose

FLAGS = ("saturated", "below_null")
"""Flags that marks on a mean show: where any run has them."""


@dataclass(frozen=True, eq=False)
class GroupData(Brief):
    """Runs summarised together.

    Attributes
    ----------
    name : str
    runs, layers : list of str
    times : (S,) float64
        Steps (or epochs) that all runs of the group have.
    summaries : mapping from quantity to Summary of (S, L)
    flags : mapping from quantity and flag ("saturated", "below_null") to (S, L) bool
        Where any of the runs has the flag: a mean over values of which one is only a ceiling is no estimate.
    """

    name: str
    runs: list[str]
    layers: list[str]
    times: FloatArray
    summaries: Mapping[str, Summary]
    flags: Mapping[tuple[str, str], BoolArray]

    @property
    def words(self) -> str:
        """The meaning of its lines and bands, for the legend."""
        return next(iter(self.summaries.values())).words


@dataclass(frozen=True, eq=False)
class CompareData(Brief):
    """Groups of runs, with the label and the ceiling of each quantity, and marks of layers by another method."""

    groups: list[GroupData]
    labels: Mapping[str, str]
    units: Mapping[str, str]
    ceilings: Mapping[str, Ceiling | None]
    caption: list[str]
    marks: Mapping[str, str] = field(default_factory=dict)

    @property
    def words(self) -> str:
        """The meaning of lines and bands, for the legend."""
        return self.groups[0].words

    @property
    def layers(self) -> list[str]:
        """The layers that any group has, each once."""
        return list(dict.fromkeys(layer for group in self.groups for layer in group.layers))

    @property
    def coloured_by_group(self) -> bool:
        """Whether there are several groups of one layer, so that colours can tell groups apart."""
        return len(self.groups) > 1 and len(self.layers) == 1


@renamed("quantities", "quantity")
@keywords(Selection, without=["run"])
def compare_data(
    table: ResultTable,
    quantity: Sequence[str] | str = ("I(X;T)", "I(T;Y)"),
    *,
    spread: str | None = "auto",
    groups: Mapping[str, Sequence[str] | str] | None = None,
    **select: Unpack[Selection],
) -> CompareData:
    """Return the mean and the band over the runs of each group; see `compare` for the parameters."""
    quantities = [quantity] if isinstance(quantity, str) else list(quantity)
    everything = choose(table, several_runs=True, shows=quantities, **select)
    out: list[GroupData] = []
    grids: dict[str, list[Grid]] = {q: [] for q in quantities}
    for name, runs in group_runs(everything, groups).items():
        per_run = [everything.of_run(run, common_layers(everything, runs)) for run in runs]
        found = {q: [series.grid(q) for series in per_run] for q in quantities}
        out.append(summarised(name, per_run, found, spread))
        for q in quantities:
            grids[q] += found[q]
    drawn = [grid for gs in grids.values() for grid in gs]
    caption = list(dict.fromkeys(about(everything, [gs[0] for gs in grids.values()], drawn=drawn)))
    labels = {q: axis_label(q, gs[0].unit) for q, gs in grids.items()}
    ceilings = {q: highest(one.named_ceiling(everything.n_samples) for one in gs) for q, gs in grids.items()}
    units = {q: gs[0].unit for q, gs in grids.items()}
    caption += flag_words(out, quantities)
    marks = everything.marks(*quantities)
    data = CompareData(groups=out, labels=labels, units=units, ceilings=ceilings, caption=caption, marks=marks)
    if data.coloured_by_group:
        caption.insert(1, f"layer {safe_text(data.layers[0], limit=24)}")
    return data


def common_layers(everything: Series, runs: Sequence[str]) -> list[str]:
    """Return the layers of these runs, which must have the same ones; ValueError where they differ or there are none.

    `everything` is the series of all runs.
    """
    per_run = everything.layers_of_runs
    common = [layer for layer in everything.layers if all(layer in per_run[run] for run in runs)]
    odd = next((run for run in runs if per_run[run] != common), runs[0])
    if per_run[odd] != common or not common:
        raise ValueError(
            f"the runs of a group must have the same layers; {everything.name(odd)} has {', '.join(per_run[odd])}, "
            f"common to all are {', '.join(common) or 'none'}; choose layers=[...], or give groups={{name: [run, ...]}}"
        )
    return common


def summarised(name: str, per_run: list[Series], grids: Mapping[str, list[Grid]], spread: str | None) -> GroupData:
    """Return the group `name`: each quantity summarised over its runs, at the steps that all of them have.

    `per_run` has a series for each run; `grids` has, by quantity, a grid for each run, in the same order. ValueError
    where the runs have no step in common. `spread` is the kind of band, as in `over_runs`.
    """
    summaries, flags = {}, {}
    runs = [series.runs[0] for series in per_run]
    for quantity, found in grids.items():
        steps, stacked = at_common_steps([one.steps for one in found], [one.value for one in found])  # (runs, S, L)
        if steps.size == 0:
            names = ", ".join(series.name(run) for series, run in zip(per_run, runs, strict=True))
            raise ValueError(f"runs {names} have no step in common, so there is no mean to draw")
        summaries[quantity] = over_runs(drawable(stacked), spread)
        for flag in FLAGS:
            raised = at_common_steps([one.steps for one in found], [one.flag(flag).astype(float) for one in found])[1]
            flags[quantity, flag] = np.asarray(raised.any(axis=0))
        first = found[0]
    times = first.times[np.searchsorted(first.steps, steps)]
    return GroupData(name=name, runs=runs, layers=first.layers, times=times, summaries=summaries, flags=flags)


def flag_words(groups: Sequence[GroupData], quantities: Sequence[str]) -> list[str]:
    """Return parts of a caption that count the means in which some run is saturated, or no more than chance."""
    out = []
    for quantity in quantities:
        name = safe_text(quantity, limit=40)
        total = sum(int(np.isfinite(group.summaries[quantity].mean).sum()) for group in groups)
        saturated, chance = (sum(int(group.flags[quantity, flag].sum()) for group in groups) for flag in FLAGS)
        out += doubtful(saturated, total, f"of {name} saturated in some run", "hollow")
        out += doubtful(chance, total, f"of {name} no more than chance in some run", "crossed")
    return out


def group_runs(series: Series, groups: Mapping[str, Sequence[str] | str] | None) -> dict[str, list[str]]:
    """Return {name of a group: ids of its runs}; without `groups` all runs are one group, named "".

    `groups` gives the runs of each group by name, id or glob; ValueError for a group without runs.
    """
    if not groups:
        return {"": series.runs}
    out = {name: runs_called(series.table, wanted) for name, wanted in groups.items()}
    for name, runs in out.items():
        if not runs:
            raise ValueError(f"group {name!r} matches no run; available: {', '.join(map(series.name, series.runs))}")
    return out


@renamed("quantities", "quantity")
@keywords(Options, without=["run"])
def compare(
    table: ResultTable,
    *,
    ax: Axes | Sequence[Axes] | None = None,
    form: Literal["curves", "plane"] = "curves",
    by: Literal["layer"] | None = None,
    quantity: Sequence[str] | str | None = None,
    spread: str | None = "auto",
    groups: Mapping[str, Sequence[str] | str] | None = None,
    log: bool | None = None,
    **options: Unpack[Options],
) -> Axes:
    """Draw the mean over several runs, and their spread as a band that the legend explains.

    Between runs that differ in the seed alone, information curves vary much (Saxe et al., 2018; Chelombiev
    et al., 2019): a single run shows a single initialisation.

    Parameters
    ----------
    form : {"curves", "plane"}
        Each quantity against the step, or the mean trajectory of each layer in the plane with five ellipses
        along it, or fewer where they would fill the plane, whose half-axes are the bands of the two quantities.
    by : "layer", optional
        A panel of equal size and limits for each layer, in which the groups have the colours; of one quantity, by
        default I(X;T).
    spread : {"auto", "ci95", "sd", "se", "quartiles", "minmax"} or None
        What the band is: by default the 95 % interval of the mean, of two runs the two; see
        `infoplane.results.summary.over_runs`.
    groups : mapping from name to runs or globs, optional
        Runs to average separately, such as {"tanh": "tanh-*", "ReLU": "relu-*"}, by id or by the name of the run's
        directory; each has its line style, or its colour where one layer is drawn.
    quantity : str or sequence of str, optional
        One panel each, or the two axes of the plane; by default I(X;T) and I(T;Y).
    table, ax, estimator, settings, subset, layers, against, log, caption, style, width
        As in `infoplane.plots.curves`.

    Raises
    ------
    ValueError
        If runs averaged together differ in their layers or have no step in common.
    """
    if form not in ("curves", "plane"):
        raise ValueError(f"form must be 'curves' or 'plane', got {form!r}")
    names = [quantity] if isinstance(quantity, str) else list(quantity or ["I(X;T)", "I(T;Y)"])
    if by is not None:
        names = names[:1] if quantity is None else names
        if by != "layer" or form != "curves" or len(names) > 1 or ax is not None:
            raise ValueError(f"by='layer' makes a figure of curves of one quantity, got by={by!r}, {', '.join(names)}")
    elif form == "plane" and len(names) != 2:
        raise ValueError(f"the plane takes two quantities, got {', '.join(names)}")
    data = compare_data(table, names, spread=spread, groups=groups, **selected(options))
    if by is not None:
        return draw_layers(data, names[0], options, log=log)
    if form == "plane":
        ellipses = ellipse_count(data)
        few = ["bands at the last step alone, since more of them would fill the plane"] if ellipses == 1 else []
        with panels(ax, [*data.caption, *few], options) as (axes,):
            draw_mean_plane(axes, data, options, ellipses)
        return axes
    heights = [1.0] * len(names)
    with panels(ax, data.caption, options, heights=heights, aspect=0.12 + 0.42 * len(names), shows=names) as column:
        column[-1].set_xlabel(options["against"])
        for i, (axis, name) in enumerate(zip(column, names, strict=True)):
            draw_mean_curve(axis, data, name, options, log=log, named=i == 0)
    return column[0]


def legend_entries(data: CompareData, paths: Sequence[Path], *, ends: bool = False) -> dict[str, Any]:
    """Return the keywords `handles`, `labels` and `title` of a legend: an entry for each group, and for marks.

    `paths` are the lines that were drawn, which have the colours. `ends` adds the marks of the first and the last step.
    The title says what lines and bands are ("mean of 5 runs, ..."); it is None, and each entry says it, where there is
    one group or groups differ in it.
    """
    named = safe_names([g.name for g in data.groups], limit=20)
    same = len(data.groups) > 1 and len({g.words for g in data.groups}) == 1
    handles: list[Any] = []
    labels: list[str] = []
    colors = {path.group: path.look.color for path in paths}
    for i, group in enumerate(data.groups):
        color = colors.get(i, FAINT) if data.coloured_by_group else FAINT
        line = key("", color=color, linestyle=layer_line(i))
        handles.append((Patch(color=color, alpha=0.25, linewidth=0), line) if "band" in group.words else line)
        name = named[group.name]
        labels.append(group.words if not group.name else name if same else f"{name}: {group.words}")
    if ends:
        handles += [key("", color=INK, marker=marker, linestyle="none") for marker in "os"]
        labels += ["first step", "last step"]
    for flag, text, mark in zip(FLAGS, ("saturated", "no more than chance"), (OPEN, CROSS), strict=True):
        if any(group.flags[name, flag].any() for group in data.groups for name in data.labels):
            handles.append(key("", **mark))
            labels.append(text)
    return {"handles": handles, "labels": labels, "title": data.words if same else None}


CROSS: dict[str, Any] = {"marker": "x", "linestyle": "none"}
"""The mark of a point no better than chance."""


@dataclass(frozen=True)
class Path:
    """One layer of one group, both by number, and its look: that of the group where only one layer is drawn."""

    group: int
    layer: int
    look: LayerLook


def mean_paths(ax: Axes, data: CompareData, look: Look, *, share: float) -> list[Path]:
    """Return a Path for each layer of each group: its line style stands for the group, its colour for the layer.

    Where there is only one layer and several groups, colours stand for the groups. Names of layers take up to `share`
    of the figure's width.
    """
    by_group = data.coloured_by_group
    keys = [g.name for g in data.groups] if by_group else data.layers
    looks = layer_looks(ax, keys, look, share=share, marks={} if by_group else data.marks)
    names = safe_names([g.name for g in data.groups], limit=12)
    out = []
    for number, group in enumerate(data.groups):
        for i, layer in enumerate(group.layers):
            layer_look = looks[number if by_group else data.layers.index(layer)]
            with_group = group.name and not by_group
            name = f"{layer_look.name}, {names[group.name]}" if with_group else layer_look.name
            gid = f"{group.name}:{layer}" if with_group else layer_look.key
            out.append(Path(number, i, replace(layer_look, name=name, key=gid, line=layer_line(number))))
    return out


def draw_layers(data: CompareData, quantity: str, look: Options, *, log: bool | None) -> Axes:
    """Draw a figure with a panel for each layer, all with the same limits, and return the first of them.

    It has one legend and one caption.
    """
    layers, entries = data.layers, dict[str, Any]()
    across = min(len(layers), 2 if look["style"] == "column" else 3)
    # The title of the figure becomes that of the legend, since both above the panels would overlap.
    above: Options = {**look, "title": None} if look["legend"] else look
    names, height = list(safe_names(layers, limit=28).values()), 0.1 / -(-len(layers) // across) + 0.75 / across
    with multiples(names, data.caption, above, across=across, height=height) as axes:
        for ax, layer in zip(axes, layers, strict=True):
            one = of_layer(data, layer)
            own = legend_entries(one, draw_means(ax, one, quantity, look, log=log)[0])
            entries |= dict(zip(own["labels"], own["handles"], strict=True))
            ax.set_ylim(band_limits(data, quantity))
            draw_ceilings(ax, y=data.ceilings[quantity], named=ax is axes[0])
            ax.set(xlabel=look["against"], ylabel=measured(data.labels[quantity], data.caption, look, panel_height(ax)))
        outer_labels(axes, across)
        if look["legend"]:
            titles = [safe_text(text, limit=200) for text in (look["title"], own["title"]) if text]
            how: dict[str, Any] = {"alignment": "left", "labelcolor": FAINT, "title": "\n".join(titles) or None}
            figure = figure_of(axes[0])
            figure.legend(list(entries.values()), list(entries), loc="outside upper left", **how)
            grow(figure, 1.5 * points_of(mpl.rcParams["legend.fontsize"]) * (len(entries) + len(titles)))
    return axes[0]


def of_layer(data: CompareData, layer: str) -> CompareData:
    """Return the data of one layer only; the arrays of a group that lacks the layer become (S, 0)."""
    groups = []
    for group in data.groups:
        at = [i for i, name in enumerate(group.layers) if name == layer]  # its column, if there is one
        parts = {
            name: replace(one, **{side: getattr(one, side)[:, at] for side in ("mean", "low", "high", "count")})
            for name, one in group.summaries.items()
        }
        flags = {flag: raised[:, at] for flag, raised in group.flags.items()}
        groups.append(replace(group, layers=[layer] * len(at), summaries=parts, flags=flags))
    return replace(data, groups=groups)


def draw_mean_curve(ax: Axes, data: CompareData, quantity: str, look: Look, *, log: bool | None, named: bool) -> None:
    """Draw one panel: a line per layer and group with its band, the ceiling, and if `named` the legend."""
    ax.set_ylabel(measured(data.labels[quantity], data.caption, look, panel_height(ax)))
    ax.set_ylim(band_limits(data, quantity))
    paths, ends = draw_means(ax, data, quantity, look, log=log)
    draw_ceilings(ax, y=data.ceilings[quantity])
    if named:
        legend(ax, look=look, **legend_entries(data, paths))
    end_labels(ax, ends)


def draw_means(
    ax: Axes, data: CompareData, quantity: str, look: Look, *, log: bool | None
) -> tuple[list[Path], list[Label]]:
    """Draw a line per layer and group, with band and markers; return the paths and the labels for the ends of lines."""
    step_axis(ax, np.concatenate([g.times for g in data.groups]), log=log)
    ends, paths = [], mean_paths(ax, data, look, share=END_SHARE)
    for path in paths:
        group, i, layer = data.groups[path.group], path.layer, path.look
        low, high = bands(data, group.summaries[quantity], quantity)
        ends += draw_line(ax, group.times, group.summaries[quantity].mean[:, i], layer)
        draw_band(ax, group.times, low[:, i], high[:, i], layer, "band", alpha=0.18)
        draw_marks(ax, group, quantity, path, len(group.layers))
    return paths, ends


def draw_marks(ax: Axes, group: GroupData, quantity: str, path: Path, layers: int) -> None:
    """Draw markers on a mean: hollow where some run is saturated, crossed where some run is no more than chance.

    `layers` is the number of layers of the group.
    """
    mean = group.summaries[quantity].mean[:, path.layer]
    known = np.isfinite(mean)
    x, y = group.times[known], mean[known]
    saturated, chance = (group.flags[quantity, flag][known, path.layer] for flag in FLAGS)
    marked = turns(x.size, path.layer, layers)
    draw_points(ax, x[marked], y[marked], saturated[marked], path.look, markeredgewidth=0.7)
    at = marked & chance
    if at.any():
        tag(ax.plot(x[at], y[at], color=INK, zorder=5, clip_on=False, **CROSS), path.look.key, "chance")


def bands(data: CompareData, summary: Summary, quantity: str) -> tuple[FloatArray, FloatArray]:
    """Return the lower and the upper edge (S, L) of a summary's bands, cut at 0 and at the quantity's ceiling."""
    means = np.concatenate([g.summaries[quantity].mean.ravel() for g in data.groups])
    low, high = (cut(edge, means, data.ceilings[quantity]) for edge in (summary.low, summary.high))
    return low, high


def band_limits(data: CompareData, quantity: str) -> tuple[float, float]:
    """Return limits (low, high) of an axis that hold the means and the bands of all groups as they are drawn."""
    summaries = [g.summaries[quantity] for g in data.groups]
    drawn = [a.ravel() for summary in summaries for a in (summary.mean, *bands(data, summary, quantity))]
    return limits(np.concatenate(drawn), data.ceilings[quantity], unit=data.units[quantity])


ELLIPSES = (5, 3, 1)
"""How many ellipses a path may carry: the most that do not fill the plane."""
MOST_COVERED = 0.3
"""Share of the plane that the rectangles around all ellipses may add up to."""


def ellipse_steps(x: FloatArray, y: FloatArray, *, ellipses: int = 5) -> npt.NDArray[np.int64]:
    """Return the indices of the points of a path x, y (P,) that get an ellipse: both ends and others between them.

    They divide the length of the path about evenly, as measured with both axes scaled to the range of the path. Fewer
    than `ellipses` are returned where they coincide.
    """
    spans = [float(np.ptp(v)) or 1.0 for v in (x, y)]  # 1 along an axis on which the path does not move
    length = np.concatenate([[0.0], np.cumsum(np.hypot(np.diff(x) / spans[0], np.diff(y) / spans[1]))])
    # Stop just short of the whole length: rounding could put it beyond the last point.
    at = np.searchsorted(length, np.linspace(0.0, (1 - 1e-9) * length[-1], ellipses))
    return np.unique(np.minimum([*at[:-1], x.size - 1], x.size - 1))


def mean_way(data: CompareData, group: GroupData, i: int) -> tuple[BoolArray, FloatArray, FloatArray]:
    """Return where the mean path of layer number `i` of a group runs in the plane of the two quantities of `data`.

    These are a mask (S,) of the P steps at which both quantities have a mean, the means (P, 2) at these steps, and the
    widths (P, 2) of their bands from edge to edge, 0 where there is no band.
    """
    both = [group.summaries[quantity] for quantity in data.labels]
    mean = np.stack([summary.mean[:, i] for summary in both], axis=1)
    widths = np.stack([(summary.high - summary.low)[:, i] for summary in both], axis=1)
    keep = np.asarray(np.isfinite(mean).all(axis=1))
    return keep, mean[keep], np.nan_to_num(widths[keep])


def ellipse_count(data: CompareData) -> int:
    """Return how many ellipses each path gets: five, or fewer where they would fill the plane.

    That happens with the wide bands of few runs.
    """
    across, up = (band_limits(data, quantity) for quantity in data.labels)
    whole = np.array([across[1] - across[0], up[1] - up[0]])
    for count in ELLIPSES:
        ways = [mean_way(data, group, i)[1:] for group in data.groups for i in range(len(group.layers))]
        shares = [np.minimum(wide[ellipse_steps(*way.T, ellipses=count)] / whole, 1) for way, wide in ways if len(way)]
        if sum(float(share.prod(axis=1).sum()) for share in shares) <= MOST_COVERED:
            return count
    return ELLIPSES[-1]


def draw_mean_plane(ax: Axes, data: CompareData, look: Look, ellipses: int) -> None:
    """Draw the mean trajectory of each layer in the plane of two quantities, with `ellipses` ellipses along it.

    An ellipse is as wide and as tall as the bands of the two quantities.
    """
    across, up = data.labels
    ax.set(xlabel=measured(data.labels[across], data.caption, look, LEGEND_SHARE * slot_width(ax)))
    ax.set(ylabel=data.labels[up], xlim=band_limits(data, across), ylim=band_limits(data, up))
    draw_ceilings(ax, x=data.ceilings[across], y=data.ceilings[up])
    labels, points, paths = [], [], mean_paths(ax, data, look, share=NAME_SHARE)
    for path in paths:
        group, i, layer = data.groups[path.group], path.layer, path.look
        keep, mean, widths = mean_way(data, group, i)
        if not keep.any():
            continue
        draw_ellipses(ax, data, mean, widths, layer, ellipses)
        saturated, chance = ((group.flags[across, flag] | group.flags[up, flag])[keep, i] for flag in FLAGS)
        draw_way(ax, mean, saturated, chance, layer)
        labels.append(end_of(mean[:, 0], mean[:, 1], layer))
        points.append(mean)
    legend(ax, look=look, **legend_entries(data, paths, ends=True))
    end_labels(ax, direct_labels(ax, labels, np.concatenate(points)) if is_own(ax) else labels)


def draw_way(ax: Axes, mean: FloatArray, saturated: BoolArray, chance: BoolArray, layer: LayerLook) -> None:
    """Draw a mean path (P, 2) with marks at both ends: hollow if `saturated` there, crossed if `chance` there.

    Both are masks (P,), true where some run is saturated or no more than chance.
    """
    x, y = mean.T
    name = safe_text(layer.name, limit=60, legend=True)
    tag(ax.plot(x, y, color=layer.color, linestyle=layer.line, linewidth=1.0, zorder=3, label=name), layer.key, "mean")
    size = float(mpl.rcParams["lines.markersize"])
    draw_ends(ax, x, y, saturated, layer, markersize=1.3 * size, markeredgewidth=0.8)
    for at in np.flatnonzero(chance)[[0, -1]] if chance.any() else []:
        if at in (0, x.size - 1):  # a path is crossed at its ends alone
            tag(ax.plot(x[at], y[at], color=INK, zorder=5, **CROSS), layer.key, "chance")


def draw_ellipses(
    ax: Axes, data: CompareData, mean: FloatArray, widths: FloatArray, layer: LayerLook, count: int
) -> None:
    """Draw `count` ellipses along a mean path (P, 2), as wide and as tall as its bands (P, 2), cut at the ceilings."""
    if not widths.any():  # a single run has no bands
        return
    at = ellipse_steps(*mean.T, ellipses=count)
    place: dict[str, Any] = {"units": "xy", "offsets": mean[at], "offset_transform": ax.transData, "zorder": 1.5}
    # A thin rim tells one from the next where several lie on each other.
    place |= {"facecolors": [to_rgba(layer.color, 0.1)], "edgecolors": [to_rgba(layer.color, 0.45)], "linewidths": 0.5}
    drawn = EllipseCollection(widths[at, 0], widths[at, 1], np.zeros(at.size), **place)
    tops = [np.inf if c is None else c.value for c in data.ceilings.values()]
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    within = Rectangle((left, low), min(right, tops[0]) - left, min(high, tops[1]) - low, transform=ax.transData)
    ax.add_collection(tag(drawn, layer.key, "band"), autolim=False)
    drawn.set_clip_path(within)
