"""The numbers that the page holds, as plain lists: one entry per run and way of estimating."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from infoplane.core.palette import VIRIDIS, along, layer_colors
from infoplane.core.text import printable, shorten
from infoplane.report.doubts import estimate_name
from infoplane.results import ResultTable
from infoplane.results.views import (
    Grid,
    Selection,
    ceiling_name,
    choose,
    default_layers,
    grid,
    metrics,
    options,
    ordered_layers,
)

DIGITS = 7
STEP_SHADES = 24


def page_data(table: ResultTable) -> dict[str, Any]:
    """Everything that the script draws, in JSON's types; numbers with seven digits, missing ones as None."""
    table = table.current()
    estimates: list[dict[str, Any]] = []
    runs = options(table, "run")
    if not runs:
        raise ValueError("the table has no estimates to report; run infoplane.analyze(run) first")
    whole = table.take((table["estimator"] != "recorded") & (table["layer"] != ""))
    layers = ordered_layers(whole)
    shown = set(default_layers(whole))
    place = {layer: i for i, layer in enumerate(layers)}
    for estimator in options(table, "estimator"):
        for settings in options(table, "settings", estimator=estimator):
            for subset in options(table, "subset", estimator=estimator, settings=settings):
                chosen: Selection = {"estimator": estimator, "settings": settings, "subset": subset, "layers": ["*"]}
                everything = choose(table, **chosen, several_runs=True)
                parts = []
                for run in everything.runs:
                    series = everything.of_run(run)
                    have = [q for q in dict.fromkeys(str(q) for q in series.table["quantity"])]
                    grids = {q: grid(series, q) for q in have}
                    first = next(iter(grids.values()))
                    parts.append(
                        {
                            "run": runs.index(run),
                            "layers": [place[layer] for layer in first.layers],
                            "steps": numbers(first.steps),
                            "epochs": numbers(first.epochs),
                            "quantities": {q: quantity_data(g) for q, g in grids.items()},
                        }
                    )
                g = grid(everything.of_run(everything.runs[0]), "I(X;T)")
                estimates.append(
                    {
                        "name": estimate_name(estimator, settings, subset),
                        "n": everything.n_samples,
                        "ceiling": ceiling_name(g, everything.n_samples),
                        "parts": parts,
                    }
                )
    return {
        "runs": [display(run) for run in runs],
        "layers": [display(layer) for layer in layers],
        "shown": [layer in shown for layer in layers],
        "colors": layer_colors(len(layers)),
        "shades": [along(VIRIDIS, i / (STEP_SHADES - 1)) for i in range(STEP_SHADES)],
        "estimates": estimates,
        "metrics": [
            {
                display(name): {"steps": numbers(x), "values": numbers(y)}
                for name, (x, y) in metrics(table, run=run).items()
            }
            for run in runs
        ],
    }


def quantity_data(one: Grid) -> dict[str, Any]:
    """Value, interval, ceiling and flags of one quantity, layer by layer."""
    flag_sets: list[str] = []
    codes: list[list[int]] = []
    names = list(one.flags)
    for i in range(len(one.layers)):
        column = []
        for s in range(one.steps.size):
            text = ", ".join(name for name in names if one.flags[name][s, i])
            if text not in flag_sets:
                flag_sets.append(text)
            column.append(flag_sets.index(text))
        codes.append(column)
    out: dict[str, Any] = {"value": columns(one.value), "unit": "bits" if one.unit == "bit" else display(one.unit)}
    for name, values in (("low", one.low), ("high", one.high)):
        if np.isfinite(values).any():
            out[name] = columns(values)
    known = one.ceiling[np.isfinite(one.ceiling)]
    if known.size:
        out["ceiling"] = numbers(known[:1])[0] if np.all(known == known[0]) else columns(one.ceiling)
    if flag_sets not in ([], [""]):
        out["flags"] = {"names": flag_sets, "codes": codes}
    bounds = sorted(one.bounds - {"point"})
    if bounds:
        out["bound"] = " and ".join(bounds) + " bound"
    return out


def display(text: str) -> str:
    return shorten(printable(text), 60) or "(no name)"


def numbers(values: npt.NDArray[Any]) -> list[float | int | None]:
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
