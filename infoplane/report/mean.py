"""The mean over runs and its band, for the report: at the layers and steps that all runs have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from infoplane.core.records import FloatArray
from infoplane.results import Summary, over_runs
from infoplane.results.limits import drawable
from infoplane.results.summary import at_common_steps
from infoplane.results.trajectories import Grid
from infoplane.results.views import Series

Metrics = Mapping[str, tuple[FloatArray, FloatArray]]
"""The times and the values of each metric, by name."""

LEAST_MEAN = 3
"""Runs of which a mean and a band say something."""


def grids_of(series: Series) -> dict[str, Grid]:
    """Return {quantity: its grid} of the only run of a series."""
    return {quantity: series.grid(quantity) for quantity in series.quantities}


def mean_grids(series: Series) -> dict[str, Grid]:
    """Return {quantity: its mean over runs, with a band}, at the layers and steps that all runs have.

    {} for fewer than three runs, and where they have no layer or no step in common.
    """
    has = series.layers_of_runs
    common = [layer for layer in series.layers if all(layer in has[run] for run in series.runs)]
    if len(series.runs) < LEAST_MEAN or not common:
        return {}
    per_run = [grids_of(series.of_run(run, common)) for run in series.runs]
    grids = [[of_run[q] for of_run in per_run] for q in per_run[0] if all(q in of_run for of_run in per_run)]
    found = {of_runs[0].quantity: mean_grid(of_runs) for of_runs in grids}
    return found if any(grid.steps.size for grid in found.values()) else {}


def mean_words(series: Series) -> str:
    """Return what the mean and its band are, in words: `mean of 3 runs, band: 95 % CI of the mean (Student t)`."""
    return over_runs(np.zeros((len(series.runs), 1))).words


def mean_grid(grids: Sequence[Grid]) -> Grid:
    """Return the mean of a quantity over runs as a grid; there is one grid for each run, with the same layers.

    `low` and `high` of the mean are the edges of its band. Its flags say of how many runs it is the mean, where some
    lack a value, and in how many runs a flag is raised. Its ceiling is the largest of the runs.
    """
    each = [one.steps for one in grids]
    steps, values = at_common_steps(each, [drawable(one.value) for one in grids])
    first, of = grids[0], len(grids)
    summary = over_runs(values)
    flags = {f"mean of {k} of {of} runs": summary.count == k for k in range(1, of)}
    for name in sorted({name for one in grids for name in one.flags}):
        up = at_common_steps(each, [one.flag(name).astype(np.float64) for one in grids])[1].sum(axis=0)
        flags |= {f"{name} in {k} of {of} runs": up == k for k in range(1, of + 1)}
    tops = at_common_steps(each, [np.nan_to_num(one.ceiling, nan=-np.inf) for one in grids])[1].max(axis=0)
    return replace(
        first,
        steps=steps,
        epochs=first.epochs[np.searchsorted(first.steps, steps)],
        value=summary.mean,
        low=summary.low,
        high=summary.high,
        ceiling=tops,
        flags=flags,
        bounds=frozenset().union(*(one.bounds for one in grids)),
    )


def mean_metrics(known: Sequence[Metrics]) -> dict[str, tuple[FloatArray, Summary]]:
    """Return {metric: (times, mean and band over runs)} for the metrics that all runs have.

    `known` has the metrics of each run; of fewer than three runs {} is returned.
    """
    out = {}
    for name in known[0] if len(known) >= LEAST_MEAN else ():
        if all(name in of_run for of_run in known):
            times, values = zip(*(of_run[name] for of_run in known), strict=True)
            steps, stacked = at_common_steps(times, values)
            out[name] = steps, over_runs(drawable(stacked))
    return out
