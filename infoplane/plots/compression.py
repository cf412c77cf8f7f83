"""The compression score: how far I(X;T) of each layer ends below its own maximum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from infoplane.core.palette import OKABE_ITO
from infoplane.plots._about import about
from infoplane.plots._artists import OPEN, key, legend, limits, row_axis
from infoplane.plots._figure import Options, canvas, keywords, selected
from infoplane.plots.style import FAINT, layer_marker
from infoplane.plots.text import safe_names
from infoplane.results import ResultTable
from infoplane.results.summary import Compression
from infoplane.results.summary import compression as score
from infoplane.results.views import Selection, choose

MAX_NAMED_RUNS = 8


@dataclass(frozen=True, eq=False)
class CompressionData:
    """Scores by run and layer; a layer that a run does not have is absent.

    Attributes
    ----------
    layers, runs : list of str
    scores : mapping from (run, layer) to Compression
    names : mapping from run to what it is called
    """

    layers: list[str]
    runs: list[str]
    scores: Mapping[tuple[str, str], Compression]
    caption: list[str]
    names: Mapping[str, str]

    @property
    def named(self) -> bool:
        """Whether the runs are few enough for a colour and a marker each."""
        return 1 < len(self.runs) <= MAX_NAMED_RUNS

    def falls(self, run: str) -> npt.NDArray[np.float64]:
        """(L,) bits, NaN where the run lacks the layer."""
        return np.array([self.scores[run, k].fall if (run, k) in self.scores else np.nan for k in self.layers])


@keywords(Selection, without=["against"])
def compression_data(table: ResultTable, **select: Unpack[Selection]) -> CompressionData:
    """The score of each layer of each run; see `infoplane.results.summary.compression`."""
    series = choose(table, several_runs=True, **select)
    grids = {run: series.of_run(run).grid("I(X;T)") for run in series.runs}
    scores = {
        (run, layer): score(one.steps, one.value[:, i], one.flag("saturated")[:, i])
        for run, one in grids.items()
        for i, layer in enumerate(one.layers)
        if np.isfinite(one.value[:, i]).any()
    }
    if not scores:
        raise ValueError(f"the table has no I(X;T) of {series.estimator}")
    caption = [*about(series, [grids[series.runs[0]]]), "fall = maximum - end, after a median filter of 3 points"]
    names = {run: series.name(run) for run in series.runs}
    return CompressionData(layers=series.layers, runs=series.runs, scores=scores, caption=caption, names=names)


@keywords(Options, without=["against"])
def compression(table: ResultTable, *, ax: Axes | None = None, **options: Unpack[Options]) -> Axes:
    """Draw the fall of I(X;T) from its own maximum, per layer, one point per run and their mean.

    Open markers belong to layers that were at their ceiling at some step: their maximum may be higher than
    the estimator can show. Score, and what misleads in it: `infoplane.results.summary.compression`.

    Parameters
    ----------
    table, ax, estimator, settings, run, subset, layers, caption, style, width
        As in `infoplane.plots.plane`; several runs may stay.
    """
    data = compression_data(table, **selected(options))
    with canvas(ax, data.caption, options, aspect=min(1.6, 0.3 + 0.07 * len(data.layers))) as axes:
        falls = np.stack([data.falls(run) for run in data.runs])
        axes.set_xlim(limits(np.append(falls.ravel(), 0.0), None))
        axes.axvline(0, color=FAINT, linewidth=0.6, zorder=1)
        axes.set_xlabel("fall of I(X;T) from its maximum [bits]")
        row_axis(axes, data.layers)
        for r, run in enumerate(data.runs):
            draw_run(axes, data, r, run)
        keys: list[Any] = []
        if len(data.runs) > 1:
            known, rows = np.isfinite(falls), np.arange(len(data.layers))
            mean = np.where(known, falls, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
            axes.vlines(mean, rows - 0.32, rows + 0.32, color="0.2", linewidth=1.2, zorder=4)
            bar: dict[str, Any] = {"color": "0.2", "marker": "|", "markersize": 8, "linestyle": "none"}
            keys.append(key(f"mean of {len(data.runs)} runs", **bar))
        if data.named:
            shown = safe_names(data.names.values(), limit=16, legend=True)
            texts = [shown[data.names[run]] for run in data.runs]
            keys += [key(t, color=OKABE_ITO[r], marker=layer_marker(r), linestyle="none") for r, t in enumerate(texts)]
        if any(found.saturated for found in data.scores.values()):
            keys.append(key("was saturated", **OPEN))
        legend(axes, keys, 3, columnspacing=1.0, handletextpad=0.3)
    return axes


def draw_run(ax: Axes, data: CompressionData, r: int, run: str) -> None:
    """The falls of one run, in rows a little apart from those of other runs; lines from 0 where it is the only one."""
    alone = len(data.runs) == 1
    shift = 0.0 if alone else np.linspace(-0.22, 0.22, len(data.runs))[r]
    color = OKABE_ITO[r if data.named else 0]
    look: dict[str, Any] = {"linestyle": "none", "marker": layer_marker(r if data.named else 0), "color": color}
    look |= {"alpha": 1.0 if data.named or alone else 0.6, "zorder": 3, "clip_on": False}
    for i, layer in enumerate(data.layers):
        found = data.scores.get((run, layer))
        if found is not None:
            ax.plot(found.fall, i + shift, markerfacecolor="white" if found.saturated else color, **look)
            if alone:
                ax.hlines(i, 0, found.fall, color=color, linewidth=0.8, zorder=2)
