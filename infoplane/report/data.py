"""The numbers that the page holds, as plain lists: one entry per run and way of estimating."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from infoplane.core.palette import VIRIDIS, along, layer_colors
from infoplane.core.text import printable, shorten
from infoplane.report.doubts import estimate_name, estimates
from infoplane.results import ResultTable, run_names
from infoplane.results.trajectories import Grid
from infoplane.results.views import Series, default_layers, metrics, of_layers, ordered_layers

DIGITS = 7
STEP_SHADES = 24


def page_data(table: ResultTable) -> dict[str, Any]:
    """Everything that the script draws, in JSON's types; numbers with seven digits, missing ones as None."""
    table = table.current()
    whole = of_layers(table)
    if len(whole) == 0:
        raise ValueError("the table has no estimates to report; run infoplane.analyze(run) first")
    runs = list(dict.fromkeys(table["run"].tolist()))
    layers = ordered_layers(whole)
    place = {layer: i for i, layer in enumerate(layers)}
    names = run_names(table)
    shown = set(default_layers(whole))
    return {
        "runs": [display(names[run]) for run in runs],
        "layers": [display(layer) for layer in layers],
        "shown": [layer in shown for layer in layers],
        "colors": layer_colors(len(layers)),
        "shades": [along(VIRIDIS, i / (STEP_SHADES - 1)) for i in range(STEP_SHADES)],
        "estimates": [estimate_data(series, runs, place) for series in estimates(table)],
        "metrics": [metric_data(table, run) for run in runs],
    }


def estimate_data(series: Series, runs: list[str], place: Mapping[str, int]) -> dict[str, Any]:
    """One way of estimating: its name, N, the ceiling's name, and its numbers run by run."""
    parts = []
    for run in series.runs:
        one = series.of_run(run)
        grids = {quantity: one.grid(quantity) for quantity in one.quantities}
        first = next(iter(grids.values()))
        part: dict[str, Any] = {"run": runs.index(run), "layers": [place[layer] for layer in first.layers]}
        part |= {"steps": numbers(first.steps), "epochs": numbers(first.epochs)}
        parts.append(part | {"quantities": {quantity: quantity_data(g) for quantity, g in grids.items()}})
    ceiling = series.of_run(series.runs[0]).grid("I(X;T)").ceiling_name(series.n_samples)
    return {"name": estimate_name(series), "n": series.n_samples, "ceiling": ceiling, "parts": parts}


def metric_data(table: ResultTable, run: str) -> dict[str, Any]:
    """The recorded metrics of a run, by name."""
    known = metrics(table, run=run)
    return {display(name): {"steps": numbers(x), "values": numbers(y)} for name, (x, y) in known.items()}


def quantity_data(one: Grid) -> dict[str, Any]:
    """Value, interval, ceiling and flags of one quantity, layer by layer."""
    texts = [
        [", ".join(name for name, mask in one.flags.items() if mask[s, i]) for s in range(one.steps.size)]
        for i in range(len(one.layers))
    ]
    # Most values have the same few sets of flags: the page names each once.
    flag_sets = list(dict.fromkeys(text for column in texts for text in column))
    out: dict[str, Any] = {"value": columns(one.value), "unit": "bits" if one.unit == "bit" else display(one.unit)}
    for name, values in (("low", one.low), ("high", one.high)):
        if np.isfinite(values).any():
            out[name] = columns(values)
    known = one.ceiling[np.isfinite(one.ceiling)]
    if known.size:
        out["ceiling"] = numbers(known[:1])[0] if np.all(known == known[0]) else columns(one.ceiling)
    if flag_sets not in ([], [""]):
        codes = [[flag_sets.index(text) for text in column] for column in texts]
        out["flags"] = {"names": flag_sets, "codes": codes}
    bounds = sorted(one.bounds - {"point"})
    if bounds:
        out["bound"] = " and ".join(bounds) + " bound"
    return out


def display(text: str) -> str:
    """A name as the page shows it."""
    return shorten(printable(text), 60) or "(no name)"


def numbers(values: npt.NDArray[Any]) -> list[float | int | None]:
    """The values in JSON's types, None for those that no axis could draw."""
    out: list[float | int | None] = []
    for value in np.asarray(values, dtype=np.float64).tolist():
        if not math.isfinite(value) or abs(value) > 1e15:
            out.append(None)
        elif value == int(value):
            out.append(int(value))
        else:
            out.append(float(f"{value:.{DIGITS}g}"))
    return out


def columns(values: npt.NDArray[Any]) -> list[list[float | int | None]]:
    """(S, L) as one list per layer."""
    return [numbers(values[:, i]) for i in range(values.shape[1])]


def embed(data: Any) -> str:
    """JSON that may stand in a script element: no character ends it or begins mark-up."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
