"""Several runs or seeds: the mean over runs and a band whose meaning the figure states."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from infoplane.core.deprecation import renamed
from infoplane.core.palette import layer_colors
from infoplane.plots._about import about, axis_label, folders, times
from infoplane.plots._artists import (
    Ceiling,
    Label,
    add_caption,
    direct_labels,
    draw_ceilings,
    end_labels,
    limits,
    step_axis,
)
from infoplane.plots.style import (
    FAINT,
    INK,
    canvas,
    drawable,
    figure_canvas,
    keep_tick_style,
    layer_line,
    layer_marker,
    spans_decades,
)
from infoplane.plots.text import safe_names, safe_text
from infoplane.results import ResultTable
from infoplane.results.series import Grid, ceiling_name, choose, grid
from infoplane.results.summary import Summary, over_runs

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


@dataclass(frozen=True, eq=False)
class CompareData:
    groups: list[GroupData]
    labels: Mapping[str, str]
    ceilings: Mapping[str, Ceiling | None]
    caption: list[str]

    @property
    def words(self) -> str:
        """What lines and bands mean, for the legend."""
        return next(iter(self.groups[0].summaries.values())).words

    @property
    def coloured_by_group(self) -> bool:
        """Whether there are several groups of one layer, so that colours can tell groups apart."""
        return len(self.groups) > 1 and len({layer for g in self.groups for layer in g.layers}) == 1


@renamed("quantities", "quantity")
def compare_data(
    table: ResultTable,
    quantity: Sequence[str] | str = ("I(X;T)", "I(T;Y)"),
    *,
    spread: str | None = "ci95",
    groups: Mapping[str, Sequence[str] | str] | None = None,
    estimator: str | None = None,
    settings: Mapping[str, Any] | str | None = None,
    subset: str | None = None,
    layers: Sequence[str] | None = None,
    against: Literal["step", "epoch"] = "step",
) -> CompareData:
    """Mean and band over the runs of each group; see `compare` for the parameters."""
    quantities = [quantity] if isinstance(quantity, str) else list(quantity)
    everything = choose(
        table, estimator=estimator, settings=settings, subset=subset, layers=layers, several_runs=True, against=against
    )
    members = group_runs(everything.runs, groups, folders(table))
    out, caption_grids = [], []
    tops: dict[str, list[Grid]] = {q: [] for q in quantities}
    for name, runs in members.items():
        per_run = {}
        for run in runs:
            series = everything.of_run(run)
            have = {str(layer) for layer in series.table["layer"]}
            missing = [layer for layer in everything.layers if layer not in have]
            per_run[run] = ([layer for layer in everything.layers if layer in have], series, missing)
        kept = [layer for layer in everything.layers if all(layer in per_run[run][0] for run in runs)]
        odd = [run for run in runs if per_run[run][0] != kept]
        if odd or not kept:
            raise ValueError(
                f"the runs of a group must have the same layers; {odd[0] if odd else runs[0]} has "
                f"{', '.join(per_run[odd[0] if odd else runs[0]][0])}, common to all are {', '.join(kept) or 'none'}; "
                "choose layers=[...], or give groups={name: [run, ...]}"
            )
        grids = {q: [grid(s.with_layers(kept), q) for _, s, _ in per_run.values()] for q in quantities}
        steps = grids[quantities[0]][0].steps
        for g in grids[quantities[0]][1:]:
            steps = np.intersect1d(steps, g.steps)
        if steps.size == 0:
            raise ValueError(f"runs {', '.join(runs)} have no step in common, so there is no mean to draw")
        summaries = {}
        for q in quantities:
            stacked = np.stack([g.value[np.searchsorted(g.steps, steps)] for g in grids[q]])
            summaries[q] = over_runs(drawable(stacked), spread)
            tops[q] += grids[q]
        first = grids[quantities[0]][0]
        when = times(first, against)[np.searchsorted(first.steps, steps)]
        out.append(GroupData(name=name, runs=runs, layers=kept, times=when, summaries=summaries))
        caption_grids += [grids[q][0] for q in quantities]
    ceilings = {}
    for q, gs in tops.items():
        known = [g for g in gs if g.top is not None]
        best = max(known, key=lambda g: g.top or 0.0, default=None)
        ceilings[q] = (
            None if best is None else Ceiling(float(best.top or 0.0), ceiling_name(best, everything.n_samples))
        )
    caption = list(dict.fromkeys(about(everything, caption_grids[: len(quantities)])))
    if len(out) > 1 and len(names := {layer for group in out for layer in group.layers}) == 1:
        caption.insert(1, f"layer {safe_text(names.pop(), limit=24)}")
    return CompareData(
        groups=out,
        labels={q: axis_label(q, gs[0].unit) for q, gs in tops.items()},
        ceilings=ceilings,
        caption=caption,
    )


def group_runs(
    runs: Sequence[str], groups: Mapping[str, Sequence[str] | str] | None, named: Mapping[str, str] | None = None
) -> dict[str, list[str]]:
    """Which runs belong together: all, or as `groups` says by ids, names of the directories, or globs of either."""
    named = named or {}
    if not groups:
        return {"": list(runs)}
    out: dict[str, list[str]] = {}
    for name, patterns in groups.items():
        wanted = [patterns] if isinstance(patterns, str) else list(patterns)
        hits = [
            run for run in runs
            if any(p in (run, named.get(run)) or fnmatch.fnmatchcase(known, p)
                   for p in wanted for known in (run, named.get(run, run)))
        ]  # fmt: skip
        if not hits:
            raise ValueError(
                f"group {name!r} matches no run; available: {', '.join(named.get(run) or run for run in runs)}"
            )
        out[name] = hits
    return out


@renamed("quantities", "quantity")
def compare(
    table: ResultTable,
    *,
    ax: Axes | None = None,
    form: Literal["curves", "plane"] = "curves",
    quantity: Sequence[str] | str | None = None,
    spread: str | None = "ci95",
    groups: Mapping[str, Sequence[str] | str] | None = None,
    estimator: str | None = None,
    settings: Mapping[str, Any] | str | None = None,
    subset: str | None = None,
    layers: Sequence[str] | None = None,
    against: Literal["step", "epoch"] = "step",
    log: bool | None = None,
    caption: bool = True,
    style: str = "screen",
    width: float | None = None,
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
    pair = ["I(X;T)", "I(T;Y)"]
    names = [quantity] if isinstance(quantity, str) else list(quantity or pair)
    if form == "plane" and len(names) != 2:
        raise ValueError(f"the plane takes two quantities, got {', '.join(names)}")
    data = compare_data(
        table, names, spread=spread, groups=groups, estimator=estimator, settings=settings, subset=subset,
        layers=layers, against=against,
    )  # fmt: skip
    if form == "plane":
        with canvas(ax, style=style, width=width) as axes:
            if caption or ax is None:
                add_caption(axes, data.caption, own=ax is None, shown=caption)
            draw_mean_plane(axes, data)
            keep_tick_style(axes)
        return axes
    if ax is not None:
        if len(names) > 1:
            raise ValueError(f"ax takes one quantity, got {', '.join(names)}; pass quantity='I(T;Y)', or no ax")
        with canvas(ax):
            draw_mean_curve(ax, data, names[0], log=log, against=against)
            if caption:
                add_caption(ax, data.caption, own=False)
        return ax
    with figure_canvas(style=style, width=width, aspect=0.12 + 0.42 * len(names)) as figure:
        column: Any = figure.subplots(len(names), 1, sharex=True, squeeze=False)
        panels: list[Axes] = list(column[:, 0])
        add_caption(panels[-1], data.caption, own=True, shown=caption)
        for i, (axis, name) in enumerate(zip(panels, names, strict=True)):
            last = i == len(names) - 1
            draw_mean_curve(axis, data, name, log=log, against=against if last else "", legend=i == 0)
            if not last:
                axis.tick_params(labelbottom=False)
            keep_tick_style(axis)
    return panels[0]


def legend_of(ax: Axes, data: CompareData, *, ends: bool = False) -> None:
    """What the lines are, one entry per group, and what the band is; `ends` adds the first and last step.

    What all groups share stands once, above them.
    """
    named = safe_names([g.name for g in data.groups], limit=20)
    handles: list[Any] = []
    labels: list[str] = []
    same = len(data.groups) > 1 and len({next(iter(g.summaries.values())).words for g in data.groups}) == 1
    for i, group in enumerate(data.groups):
        words = next(iter(group.summaries.values())).words
        color = looks(data, i, 0)[0] if data.coloured_by_group else FAINT
        line = Line2D([], [], color=color, linestyle=layer_line(i))
        handles.append((Patch(color=color, alpha=0.25, linewidth=0), line) if "band" in words else line)
        name = f" {named[group.name]}"
        labels.append(words if not group.name else name if same else f"{name}: {words}")
    if ends:
        handles.append(Line2D([], [], marker="o", markerfacecolor="white", color=INK, linestyle="none"))
        handles.append(Line2D([], [], marker="s", color=INK, linestyle="none"))
        labels += ["first step", "last step"]
    columns = max(1, min(len(labels), 60 // (max(map(len, labels)) + 6))) if same else 1
    legend = ax.legend(handles, labels, loc="lower left", bbox_to_anchor=(0, 1), labelcolor=FAINT, borderaxespad=0.1,
                       ncols=columns, alignment="left", title=data.words if same else None)  # fmt: skip
    legend.get_title().set_color(FAINT)


def looks(data: CompareData, group: int, layer: int) -> tuple[str, str]:
    """Colour and marker of a path: those of its layer, or of its group where one layer is drawn."""
    if data.coloured_by_group:
        return layer_colors(len(data.groups))[group], layer_marker(group)
    return layer_colors(max(len(g.layers) for g in data.groups))[layer], layer_marker(layer)


def draw_mean_curve(
    ax: Axes, data: CompareData, quantity: str, *, log: bool | None, against: str, legend: bool = True
) -> None:
    """One panel: a line per layer and group, with its band."""
    everything = np.concatenate([g.times for g in data.groups])
    ceiling = data.ceilings[quantity]
    ax.set_ylabel(data.labels[quantity])
    ax.set_ylim(band_limits(data, quantity))
    step_axis(ax, everything, log=spans_decades(everything) if log is None else log)
    if against:
        ax.set_xlabel(against)
    ends = []
    for number, group in enumerate(data.groups):
        shown = safe_names(group.layers, limit=16)
        summary = group.summaries[quantity]
        for i, layer in enumerate(group.layers):
            mean = summary.mean[:, i]
            keep = np.isfinite(mean)
            if not keep.any():
                continue
            color, marker = looks(data, number, i)
            ax.plot(group.times[keep], mean[keep], color=color, linestyle=layer_line(number), zorder=3)
            ax.plot(group.times[keep][-1:], mean[keep][-1:], color=color, marker=marker, clip_on=False,
                    linestyle="none", zorder=4)  # fmt: skip
            band = np.isfinite(summary.low[:, i])
            if band.any():
                ax.fill_between(group.times[band], summary.low[band, i], summary.high[band, i], color=color,
                                alpha=0.18, linewidth=0, zorder=2)  # fmt: skip
            text = path_name(data, group, shown[layer])
            ends.append(Label(float(group.times[keep][-1]), float(mean[keep][-1]), text, color))
    draw_ceilings(ax, x=None, y=ceiling)
    if legend:
        legend_of(ax, data)
    end_labels(ax, ends)


def path_name(data: CompareData, group: GroupData, layer: str) -> str:
    """What stands at the end of a path: the layer, the group, or both where both vary."""
    if not group.name:
        return layer
    name = safe_text(group.name, limit=12)
    return name if data.coloured_by_group else f"{layer}, {name}"


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
    return limits(np.concatenate([means, bands]), None if ceiling is None else ceiling.value)


def ellipse_steps(x: FloatArray, y: FloatArray, *, ellipses: int = 5) -> npt.NDArray[np.int64]:
    """Which points of a path carry an ellipse: the ends, and points at equal shares of its length between."""
    spans = [float(np.ptp(v)) or 1.0 for v in (x, y)]
    length = np.concatenate([[0.0], np.cumsum(np.hypot(np.diff(x) / spans[0], np.diff(y) / spans[1]))])
    at = np.searchsorted(length, np.linspace(0.0, (1 - 1e-9) * length[-1], ellipses))
    return np.unique(np.minimum([*at[:-1], x.size - 1], x.size - 1))


def draw_mean_plane(ax: Axes, data: CompareData) -> None:
    """The mean trajectory of each layer, ellipses of the band's half-axes along it."""
    across, up = data.labels
    ax.set_xlabel(data.labels[across])
    ax.set_ylabel(data.labels[up])
    ax.set_xlim(band_limits(data, across))
    ax.set_ylim(band_limits(data, up))
    draw_ceilings(ax, x=data.ceilings[across], y=data.ceilings[up])
    labels, points = [], []
    for number, group in enumerate(data.groups):
        shown = safe_names(group.layers, limit=16)
        xt, ty = group.summaries[across], group.summaries[up]
        for i, layer in enumerate(group.layers):
            color, _ = looks(data, number, i)
            x, y = xt.mean[:, i], ty.mean[:, i]
            keep = np.isfinite(x) & np.isfinite(y)
            if not keep.any():
                continue
            wide, tall = (xt.high - xt.low)[keep, i], (ty.high - ty.low)[keep, i]
            if np.isfinite(wide).any() and np.isfinite(tall).any():
                at = ellipse_steps(x[keep], y[keep])
                ax.add_collection(
                    EllipseCollection(
                        np.nan_to_num(wide[at]), np.nan_to_num(tall[at]), np.zeros(at.size), units="xy",
                        offsets=np.column_stack([x[keep][at], y[keep][at]]), offset_transform=ax.transData,
                        facecolors=[color], alpha=0.13, linewidths=0, zorder=1.5,
                    ),
                    autolim=False,
                )  # fmt: skip
            ax.plot(x[keep], y[keep], color=color, linestyle=layer_line(number), linewidth=1.0, zorder=3)
            ax.plot(x[keep][:1], y[keep][:1], marker="o", markerfacecolor="white", color=color, linestyle="none",
                    zorder=4)  # fmt: skip
            ax.plot(x[keep][-1:], y[keep][-1:], marker="s", color=color, linestyle="none", zorder=4)
            labels.append(Label(float(x[keep][-1]), float(y[keep][-1]), path_name(data, group, shown[layer]), color))
            points.append(np.column_stack([x[keep], y[keep]]))
    legend_of(ax, data, ends=True)
    direct_labels(ax, labels, np.concatenate(points))
