"""The compression score: how far I(X;T) of each layer ends below its own maximum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from infoplane.core.palette import OKABE_ITO
from infoplane.plots._about import about, folders
from infoplane.plots._artists import add_caption, limits
from infoplane.plots.style import FAINT, canvas, keep_tick_style, layer_marker
from infoplane.plots.text import safe_names
from infoplane.results import ResultTable
from infoplane.results.series import choose, grid
from infoplane.results.summary import Compression
from infoplane.results.summary import compression as score

MAX_NAMED_RUNS = 8


@dataclass(frozen=True, eq=False)
class CompressionData:
    """Scores by run and layer; a layer that a run does not have is absent.

    Attributes
    ----------
    layers, runs : list of str
    scores : mapping from (run, layer) to Compression
    names : mapping from run to the name of its directory, or to the run itself where that is unknown or shared
    """

    layers: list[str]
    runs: list[str]
    scores: Mapping[tuple[str, str], Compression]
    caption: list[str]
    names: Mapping[str, str]

    def falls(self, run: str) -> npt.NDArray[np.float64]:
        """(L,) bits, NaN where the run lacks the layer."""
        return np.array([self.scores[run, k].fall if (run, k) in self.scores else np.nan for k in self.layers])


def compression_data(
    table: ResultTable,
    *,
    estimator: str | None = None,
    settings: Mapping[str, Any] | str | None = None,
    run: str | None = None,
    subset: str | None = None,
    layers: Sequence[str] | None = None,
) -> CompressionData:
    """The score of each layer of each run; see `infoplane.results.summary.compression`."""
    series = choose(
        table, estimator=estimator, settings=settings, run=run, subset=subset, layers=layers, several_runs=True
    )
    scores, grids = {}, []
    for name in series.runs:
        one = grid(series.of_run(name), "I(X;T)")
        grids.append(one)
        for i, layer in enumerate(one.layers):
            if np.isfinite(one.value[:, i]).any():
                scores[name, layer] = score(one.steps, one.value[:, i], one.flag("saturated")[:, i])
    if not scores:
        raise ValueError(f"the table has no I(X;T) of {series.estimator}")
    caption = [*about(series, grids[:1]), "fall = maximum - end, after a median filter of 3 points"]
    known = folders(table)
    names = {name: known.get(name, "") for name in series.runs}
    if "" in names.values() or len(set(names.values())) < len(names):
        names = {name: name for name in series.runs}
    return CompressionData(layers=series.layers, runs=series.runs, scores=scores, caption=caption, names=names)


def compression(
    table: ResultTable,
    *,
    ax: Axes | None = None,
    estimator: str | None = None,
    settings: Mapping[str, Any] | str | None = None,
    run: str | None = None,
    subset: str | None = None,
    layers: Sequence[str] | None = None,
    caption: bool = True,
    style: str = "screen",
    width: float | None = None,
) -> Axes:
    """Draw the fall of I(X;T) from its own maximum, per layer, one point per run and their mean.

    Open markers belong to layers that were at their ceiling at some step: their maximum may be higher than
    the estimator can show. Score, and what misleads in it: `infoplane.results.summary.compression`.

    Parameters
    ----------
    table, ax, estimator, settings, run, subset, layers, caption, style, width
        As in `infoplane.plots.plane`; several runs may stay.
    """
    data = compression_data(table, estimator=estimator, settings=settings, run=run, subset=subset, layers=layers)
    count = len(data.layers)
    with canvas(ax, style=style, width=width, aspect=min(1.6, 0.3 + 0.07 * count)) as axes:
        if caption or ax is None:
            add_caption(axes, data.caption, own=ax is None, shown=caption)
        falls = np.stack([data.falls(name) for name in data.runs])
        axes.set_xlim(limits(np.append(falls.ravel(), 0.0), None))
        axes.set_ylim(count - 0.4, -0.6)
        axes.axvline(0, color=FAINT, linewidth=0.6, zorder=1)
        axes.set_xlabel("fall of I(X;T) from its maximum [bits]")
        names = safe_names(data.layers, limit=20)
        axes.set_yticks(range(count), [names[layer] for layer in data.layers])
        several = len(data.runs) > 1
        named = several and len(data.runs) <= MAX_NAMED_RUNS
        shift = np.linspace(-0.22, 0.22, len(data.runs)) if several else np.zeros(1)
        for r, name in enumerate(data.runs):
            for i, layer in enumerate(data.layers):
                found = data.scores.get((name, layer))
                if found is None:
                    continue
                color = OKABE_ITO[r] if named or not several else OKABE_ITO[0]
                axes.plot(
                    found.fall, i + shift[r], linestyle="none", marker=layer_marker(r if named else 0), color=color,
                    markerfacecolor="white" if found.saturated else color, alpha=1.0 if named or not several else 0.6,
                    zorder=3, clip_on=False,
                )  # fmt: skip
                if not several:
                    axes.hlines(i, 0, found.fall, color=color, linewidth=0.8, zorder=2)
        handles: list[Any] = []
        if several:
            known = np.isfinite(falls)
            mean = np.where(known, falls, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
            axes.vlines(mean, np.arange(count) - 0.32, np.arange(count) + 0.32, color="0.2", linewidth=1.2, zorder=4)
            handles.append(Line2D([], [], color="0.2", marker="|", markersize=8, linestyle="none",
                                  label=f"mean of {len(data.runs)} runs"))  # fmt: skip
        if named:
            shown = safe_names(data.names.values(), limit=16, legend=True)
            handles += [
                Line2D(
                    [], [], color=OKABE_ITO[r], marker=layer_marker(r), linestyle="none", label=shown[data.names[name]]
                )
                for r, name in enumerate(data.runs)
            ]
        if any(found.saturated for found in data.scores.values()):
            handles.append(Line2D([], [], color=FAINT, marker="o", markerfacecolor="white", linestyle="none",
                                  label="was saturated"))  # fmt: skip
        if handles:
            axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, labelcolor=FAINT,
                        columnspacing=1.0, handletextpad=0.3, borderaxespad=0.1)  # fmt: skip
        keep_tick_style(axes)
        axes.tick_params(axis="y", length=0)
    return axes
