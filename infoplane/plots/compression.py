"""The compression score: how far I(X;T) of each layer ends below its own maximum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from infoplane.core.brief import Brief
from infoplane.core.palette import OKABE_ITO
from infoplane.plots._about import about
from infoplane.plots._artists import LEGEND_SHARE, OPEN, ROW_SHARE, beside_rows, key, legend, limits, measured, row_axis
from infoplane.plots._figure import Options, canvas, keywords, selected, slot_width
from infoplane.plots._layers import LayerLook, own_looks, row_looks, tag
from infoplane.plots.style import FAINT, layer_marker
from infoplane.plots.text import safe_names
from infoplane.results import ResultTable
from infoplane.results.summary import Compression, over_runs
from infoplane.results.summary import compression as score
from infoplane.results.views import Selection, choose

MAX_NAMED_RUNS = 8
"""Runs up to which each has a colour and a marker of its own."""


@dataclass(frozen=True, eq=False)
class CompressionData(Brief):
    """Scores by run and layer; a layer that a run does not have is absent.

    Attributes
    ----------
    layers, runs : list of str
    scores : mapping from (run, layer) to Compression
    names : mapping from run to what it is called
    marks : mapping from layer to mark
        Of layers by another method than most.
    """

    layers: list[str]
    runs: list[str]
    scores: Mapping[tuple[str, str], Compression]
    caption: list[str]
    names: Mapping[str, str]
    marks: Mapping[str, str] = field(default_factory=dict)

    @property
    def named(self) -> bool:
        """Whether the runs are few enough for a colour and a marker each."""
        return 1 < len(self.runs) <= MAX_NAMED_RUNS

    def falls(self, run: str) -> npt.NDArray[np.float64]:
        """Return the fall in every layer of a run, (L,) in bits; NaN where the run lacks the layer."""
        return np.array([self.scores[run, k].fall if (run, k) in self.scores else np.nan for k in self.layers])


@keywords(Selection, without=["against"])
def compression_data(table: ResultTable, **select: Unpack[Selection]) -> CompressionData:
    """Return the score of each layer of each run, as `infoplane.results.summary.compression` defines it.

    ValueError where the table has no I(X;T) of the estimator.
    """
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
    caption = about(series, [grids[series.runs[0]]], drawn=grids.values())
    caption.append("fall = maximum - end, after a median filter of 3 points")
    names = {run: series.name(run) for run in series.runs}
    return CompressionData(series.layers, series.runs, scores, caption, names, series.marks("I(X;T)"))


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
        label = "fall of I(X;T) from its maximum [bits]"
        axes.set_xlabel(measured(label, data.caption, options, LEGEND_SHARE * slot_width(axes)))
        row_axis(axes, row_looks(axes, data.layers, options, share=ROW_SHARE, marks=data.marks))
        runs = run_looks(axes, data, options)
        for r, run in enumerate(runs):
            draw_run(axes, data, r, run)
        keys: list[Any] = []
        if len(data.runs) > 1:
            rows, mean = np.arange(len(data.layers)), over_runs(falls, None).mean
            axes.vlines(mean, rows - 0.32, rows + 0.32, color="0.2", linewidth=1.2, zorder=4)
            keys.append(key(f"mean of {len(data.runs)} runs", color="0.2", marker="|", markersize=8, linestyle="none"))
        if data.named:
            keys += [key(run.name, color=run.color, marker=run.marker, linestyle="none") for run in runs]
        if any(found.saturated for found in data.scores.values()):
            keys.append(key("was saturated", **OPEN))
        legend(axes, keys, options, share=beside_rows(axes))
    return axes


def run_looks(ax: Axes, data: CompressionData, look: Options) -> list[LayerLook]:
    """Return one LayerLook for each run: with its own colour and marker if runs are few, else all with the same."""
    places = [number if data.named else 0 for number in range(len(data.runs))]  # in the lists of colours and markers
    shown = safe_names(data.names.values(), limit=16, legend=True)
    names, markers = [shown[data.names[run]] for run in data.runs], [layer_marker(place) for place in places]
    return own_looks(data.runs, names, look, [OKABE_ITO[place] for place in places], markers)


def draw_run(ax: Axes, data: CompressionData, number: int, run: LayerLook) -> None:
    """Draw the fall of run number `number` in the row of each layer, a little above or below those of other runs.

    If there is only one run, a line leads from 0 to each point.
    """
    alone = len(data.runs) == 1
    # Rows are 1 apart: the runs of one layer stay nearer to each other than to the next layer.
    shift = 0.0 if alone else np.linspace(-0.22, 0.22, len(data.runs))[number]
    style: dict[str, Any] = {"linestyle": "none", "marker": run.marker, "color": run.color}
    style |= {"alpha": 1.0 if data.named or alone else 0.6, "zorder": 3, "clip_on": False}
    for i, layer in enumerate(data.layers):
        result = data.scores.get((run.key, layer))
        if result is not None:
            face = "white" if result.saturated else run.color
            tag(ax.plot(result.fall, i + shift, markerfacecolor=face, **style), run.key, "points")
            if alone:
                tag(ax.hlines(i, 0, result.fall, color=run.color, linewidth=0.8, zorder=2), run.key, "fall")
