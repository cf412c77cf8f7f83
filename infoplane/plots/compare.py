"""Several runs or seeds: the mean over runs and a band whose meaning the figure states."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Unpack

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from matplotlib.patches import Patch

from infoplane.core.deprecation import renamed
from infoplane.core.palette import layer_colors
from infoplane.plots._about import about, axis_label
from infoplane.plots._artists import (
    OPEN,
    Ceiling,
    direct_labels,
    draw_ceilings,
    draw_line,
    end_labels,
    end_of,
    highest,
    key,
    legend,
    limits,
    step_axis,
)
from infoplane.plots._figure import Options, canvas, keywords, panels, selected
from infoplane.plots.style import FAINT, INK, drawable, layer_line, layer_marker
from infoplane.plots.text import safe_names, safe_text
from infoplane.results import ResultTable
from infoplane.results.names import runs_called
from infoplane.results.summary import Summary, at_common_steps, over_runs
from infoplane.results.trajectories import Grid
from infoplane.results.views import Selection, Series, choose

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class GroupData:
    """Runs summarised together.

    Attributes
    ----------
    name : str
    runs, layers : list of str
    times : (S,) float64
        Steps (or epochs) that all runs of the group have.
    summaries : mapping from quantity to Summary of (S, L)
    """

    name: str
    runs: list[str]
    layers: list[str]
    times: FloatArray
    summaries: Mapping[str, Summary]

    @property
    def words(self) -> str:
        """The meaning of its lines and bands, for the legend."""
        return next(iter(self.summaries.values())).words


@dataclass(frozen=True, eq=False)
class CompareData:
    """Groups of runs, with the label and the ceiling of each quantity."""

    groups: list[GroupData]
    labels: Mapping[str, str]
    ceilings: Mapping[str, Ceiling | None]
    caption: list[str]

    @property
    def words(self) -> str:
        """The meaning of lines and bands, for the legend."""
        return self.groups[0].words

    @property
    def layers(self) -> set[str]:
        """The layers of any group."""
        return {layer for group in self.groups for layer in group.layers}

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
    spread: str | None = "ci95",
    groups: Mapping[str, Sequence[str] | str] | None = None,
    **select: Unpack[Selection],
) -> CompareData:
    """Mean and band over the runs of each group; see `compare` for the parameters."""
    quantities = [quantity] if isinstance(quantity, str) else list(quantity)
    everything = choose(table, several_runs=True, **select)
    out: list[GroupData] = []
    grids: dict[str, list[Grid]] = {q: [] for q in quantities}
    for name, runs in group_runs(everything, groups).items():
        per_run = [everything.of_run(run, common_layers(everything, runs)) for run in runs]
        found = {q: [series.grid(q) for series in per_run] for q in quantities}
        out.append(summarised(name, per_run, found, spread))
        for q in quantities:
            grids[q] += found[q]
    caption = list(dict.fromkeys(about(everything, [gs[0] for gs in grids.values()])))
    labels = {q: axis_label(q, gs[0].unit) for q, gs in grids.items()}
    ceilings = {q: highest_ceiling(gs, everything.n_samples) for q, gs in grids.items()}
    data = CompareData(groups=out, labels=labels, ceilings=ceilings, caption=caption)
    if data.coloured_by_group:
        caption.insert(1, f"layer {safe_text(next(iter(data.layers)), limit=24)}")
    return data


def common_layers(everything: Series, runs: Sequence[str]) -> list[str]:
    """The layers of the runs of a group, which must have the same."""
    rows = set(zip(everything.table["run"].tolist(), everything.table["layer"].tolist(), strict=True))
    per_run = {run: [layer for layer in everything.layers if (run, layer) in rows] for run in runs}
    kept = [layer for layer in everything.layers if all(layer in layers for layers in per_run.values())]
    odd = next((run for run in runs if per_run[run] != kept), runs[0])
    if per_run[odd] != kept or not kept:
        raise ValueError(
            f"the runs of a group must have the same layers; {everything.name(odd)} has {', '.join(per_run[odd])}, "
            f"common to all are {', '.join(kept) or 'none'}; choose layers=[...], or give groups={{name: [run, ...]}}"
        )
    return kept


def summarised(
    name: str, per_run: Sequence[Series], grids: Mapping[str, Sequence[Grid]], spread: str | None
) -> GroupData:
    """The summary of each quantity over the runs of a group, at the steps that all of them have."""
    summaries, runs = {}, [series.runs[0] for series in per_run]
    for quantity, found in grids.items():
        steps, stacked = at_common_steps([one.steps for one in found], [one.value for one in found])  # (runs, S, L)
        if steps.size == 0:
            names = ", ".join(series.name(run) for series, run in zip(per_run, runs, strict=True))
            raise ValueError(f"runs {names} have no step in common, so there is no mean to draw")
        summaries[quantity] = over_runs(drawable(stacked), spread)
        first = found[0]
    times = first.times[np.searchsorted(first.steps, steps)]
    return GroupData(name=name, runs=runs, layers=first.layers, times=times, summaries=summaries)


def highest_ceiling(grids: Iterable[Grid], n_samples: list[int]) -> Ceiling | None:
    """The largest ceiling of a quantity over runs, where any has one."""
    return highest(Ceiling(one.top, one.ceiling_name(n_samples)) for one in grids if one.top is not None)


def group_runs(series: Series, groups: Mapping[str, Sequence[str] | str] | None) -> dict[str, list[str]]:
    """The runs of each group: all, or as `groups` says by names, ids, or globs of either."""
    if not groups:
        return {"": series.runs}
    out = {name: runs_called(series.table, wanted) for name, wanted in groups.items()}
    for name, runs in out.items():
        if not runs:
            have = ", ".join(map(series.name, series.runs))
            raise ValueError(f"group {name!r} matches no run; available: {have}")
    return out


@renamed("quantities", "quantity")
@keywords(Options, without=["run"])
def compare(
    table: ResultTable,
    *,
    ax: Axes | None = None,
    form: Literal["curves", "plane"] = "curves",
    quantity: Sequence[str] | str | None = None,
    spread: str | None = "ci95",
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
        along it whose half-axes are the bands of the two quantities.
    spread : {"ci95", "sd", "se", "minmax"} or None
        What the band is; see `infoplane.results.summary.over_runs`.
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
    if form == "plane" and len(names) != 2:
        raise ValueError(f"the plane takes two quantities, got {', '.join(names)}")
    data = compare_data(table, names, spread=spread, groups=groups, **selected(options))
    if form == "plane":
        with canvas(ax, data.caption, options) as axes:
            draw_mean_plane(axes, data)
        return axes
    if ax is not None and len(names) > 1:
        raise ValueError(f"ax takes one quantity, got {', '.join(names)}; pass quantity='I(T;Y)', or no ax")
    heights = [1.0] * len(names)
    with panels(ax, data.caption, options, heights=heights, aspect=0.12 + 0.42 * len(names)) as column:
        column[-1].set_xlabel(options["against"])
        for i, (axis, name) in enumerate(zip(column, names, strict=True)):
            draw_mean_curve(axis, data, name, log=log, named=i == 0)
    return column[0]


def legend_of(ax: Axes, data: CompareData, *, ends: bool = False) -> None:
    """An entry for the line and the band of each group; `ends` adds the first and last step.

    What all groups share stands once, above them.
    """
    named = safe_names([g.name for g in data.groups], limit=20)
    same = len(data.groups) > 1 and len({g.words for g in data.groups}) == 1
    handles: list[Any] = []
    labels: list[str] = []
    for i, group in enumerate(data.groups):
        color = looks(data, i, 0)[0] if data.coloured_by_group else FAINT
        line = key("", color=color, linestyle=layer_line(i))
        handles.append((Patch(color=color, alpha=0.25, linewidth=0), line) if "band" in group.words else line)
        name = f" {named[group.name]}"
        labels.append(group.words if not group.name else name if same else f"{name}: {group.words}")
    if ends:
        handles += [key("", color=INK, **OPEN), key("", color=INK, marker="s", linestyle="none")]
        labels += ["first step", "last step"]
    columns = max(1, min(len(labels), 60 // (max(map(len, labels)) + 6))) if same else 1
    shown = legend(ax, handles, columns, labels, alignment="left", title=data.words if same else None)
    shown.get_title().set_color(FAINT)


def looks(data: CompareData, group: int, layer: int) -> tuple[str, str]:
    """Colour and marker of a path: those of its layer, or of its group where one layer is drawn."""
    if data.coloured_by_group:
        return layer_colors(len(data.groups))[group], layer_marker(group)
    return layer_colors(max(len(g.layers) for g in data.groups))[layer], layer_marker(layer)


def draw_mean_curve(ax: Axes, data: CompareData, quantity: str, *, log: bool | None, named: bool) -> None:
    """One panel: a line per layer and group, with its band; the legend where `named`."""
    ax.set_ylabel(data.labels[quantity])
    ax.set_ylim(band_limits(data, quantity))
    step_axis(ax, np.concatenate([g.times for g in data.groups]), log=log)
    ends = []
    for number, i, name, color, marker in paths(data):
        group = data.groups[number]
        summary = group.summaries[quantity]
        ends += draw_line(ax, group.times, summary.mean[:, i], name, color, marker, linestyle=layer_line(number))
        band = np.isfinite(summary.low[:, i])
        if band.any():
            edges = summary.low[band, i], summary.high[band, i]
            ax.fill_between(group.times[band], *edges, color=color, alpha=0.18, linewidth=0, zorder=2)
    draw_ceilings(ax, y=data.ceilings[quantity])
    if named:
        legend_of(ax, data)
    end_labels(ax, ends)


def paths(data: CompareData) -> Iterator[tuple[int, int, str, str, str]]:
    """Each group and layer by number, with the name at the end of its path, its colour and its marker."""
    for number, group in enumerate(data.groups):
        shown, of_group = safe_names(group.layers, limit=16), safe_text(group.name, limit=12)
        for i, layer in enumerate(group.layers):
            name = shown[layer] if not group.name else f"{shown[layer]}, {of_group}"
            # Where one layer is drawn, the group alone tells the paths apart.
            yield number, i, of_group if data.coloured_by_group and group.name else name, *looks(data, number, i)


def band_limits(data: CompareData, quantity: str) -> tuple[float, float]:
    """Limits that hold the means, and of the bands what lies between 0 and the ceiling.

    The interval of a mean of two runs is many times wider than anything the quantity can be; the axes cut it off.
    """
    summaries = [g.summaries[quantity] for g in data.groups]
    means = np.concatenate([s.mean.ravel() for s in summaries])
    bands = np.concatenate([a.ravel() for s in summaries for a in (s.low, s.high)])
    ceiling = data.ceilings[quantity]
    known = means[np.isfinite(means)]
    if ceiling is not None and known.size:
        bands = np.clip(bands, min(0.0, float(known.min())), max(ceiling.value, float(known.max())))
    return limits(np.concatenate([means, bands]), ceiling)


def ellipse_steps(x: FloatArray, y: FloatArray, *, ellipses: int = 5) -> npt.NDArray[np.int64]:
    """Which points of a path carry an ellipse: the ends, and points at equal shares of its length between."""
    spans = [float(np.ptp(v)) or 1.0 for v in (x, y)]
    length = np.concatenate([[0.0], np.cumsum(np.hypot(np.diff(x) / spans[0], np.diff(y) / spans[1]))])
    # A little short of the end, which rounding could put beyond the last point.
    at = np.searchsorted(length, np.linspace(0.0, (1 - 1e-9) * length[-1], ellipses))
    return np.unique(np.minimum([*at[:-1], x.size - 1], x.size - 1))


def draw_mean_plane(ax: Axes, data: CompareData) -> None:
    """The mean trajectory of each layer, ellipses of the band's half-axes along it."""
    across, up = data.labels
    ax.set(xlabel=data.labels[across], ylabel=data.labels[up])
    ax.set(xlim=band_limits(data, across), ylim=band_limits(data, up))
    draw_ceilings(ax, x=data.ceilings[across], y=data.ceilings[up])
    labels, points = [], []
    for number, i, name, color, _ in paths(data):
        xt, ty = (data.groups[number].summaries[quantity] for quantity in (across, up))
        keep = np.isfinite(xt.mean[:, i]) & np.isfinite(ty.mean[:, i])
        if not keep.any():
            continue
        path = np.column_stack([xt.mean[keep, i], ty.mean[keep, i]])
        draw_ellipses(ax, path, (xt.high - xt.low)[keep, i], (ty.high - ty.low)[keep, i], color)
        x, y = path.T
        ax.plot(x, y, color=color, linestyle=layer_line(number), linewidth=1.0, zorder=3)
        ax.plot(x[:1], y[:1], color=color, zorder=4, **OPEN)
        ax.plot(x[-1:], y[-1:], marker="s", color=color, linestyle="none", zorder=4)
        labels.append(end_of(x, y, name, color))
        points.append(path)
    legend_of(ax, data, ends=True)
    direct_labels(ax, labels, np.concatenate(points))


def draw_ellipses(ax: Axes, path: FloatArray, wide: FloatArray, tall: FloatArray, color: Any) -> None:
    """Ellipses along a path (S, 2), as wide and as tall as the bands of the two quantities."""
    if not (np.isfinite(wide).any() and np.isfinite(tall).any()):
        return
    at = ellipse_steps(*path.T)
    sizes = np.nan_to_num(wide[at]), np.nan_to_num(tall[at]), np.zeros(at.size)
    place: dict[str, Any] = {"units": "xy", "offsets": path[at], "offset_transform": ax.transData}
    ellipses = EllipseCollection(*sizes, **place, facecolors=[color], alpha=0.13, linewidths=0, zorder=1.5)
    ax.add_collection(ellipses, autolim=False)
