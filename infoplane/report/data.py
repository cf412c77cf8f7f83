"""The numbers that the page holds, as plain lists: one entry per run and way of estimating."""

from __future__ import annotations

import base64
import html
import json
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from infoplane.core.palette import EMBERS, OKABE_ITO, VIRIDIS, along, block_colors, blocks_of, places_in_blocks
from infoplane.core.records import FloatArray
from infoplane.core.text import printable, shorten
from infoplane.core.units import BIT
from infoplane.report.doubts import estimate_name, estimates, short_names
from infoplane.report.mean import grids_of, mean_grids, mean_metrics, mean_words
from infoplane.results import ResultTable, run_names
from infoplane.results.limits import FILL, HUGE, LEAST_BITS, LEAST_SHARE, NEAR_ZERO, PAD, PAD_ABOVE
from infoplane.results.trajectories import Grid
from infoplane.results.views import (
    Series,
    advice_words,
    default_layers,
    is_in,
    metric_group,
    metrics,
    of_layers,
    ordered_layers,
)

DIGITS = 7
"""Significant digits of a number on the page."""
STEP_SHADES = 24
"""Colours for the course of training."""
METRIC_COLORS = OKABE_ITO[:4]
"""Colours of the lines of recorded metrics."""
AXES = {
    "bits": LEAST_BITS,
    "share": LEAST_SHARE,
    "below": PAD,
    "above": PAD_ABOVE,
    "near_zero": NEAR_ZERO,
    "fill": FILL,
}
"""The rule for the limits of axes, which follow what a reader chooses to see."""
LEAST_LUMA = 120
"""The darkest that lines on a dark page may be, of 255."""


def page_data(table: ResultTable) -> dict[str, Any]:
    """Return all data that the script of the page draws, in types that JSON has; ValueError without any estimates.

    Numbers have seven significant digits, missing ones are None.
    """
    table = table.current()
    whole = of_layers(table)
    if len(whole) == 0:
        raise ValueError("the table has no estimates to report; run infoplane.analyze(run) first")
    runs = list(dict.fromkeys(table["run"].tolist()))
    layers = ordered_layers(whole)
    place = {layer: i for i, layer in enumerate(layers)}
    shown = default_layers(whole)
    looks = layer_looks(layers, shown)
    names = run_names(table)
    ways = list(estimates(table))
    recorded = [metrics(table, run=run) for run in runs]
    return {
        "runs": [display(names[run]) for run in runs],
        "layers": [display(layer) for layer in layers],
        "shown": [layer in shown for layer in layers],
        "colors": themes([looks[layer][0] for layer in layers]),
        "marks": [looks[layer][1] for layer in layers],
        "axes": AXES,
        "metric_colors": themes(METRIC_COLORS),
        "shades": themes([along(VIRIDIS, i / (STEP_SHADES - 1)) for i in range(STEP_SHADES)]),
        "estimates": [
            {"short": short, **estimate_data(series, runs, place)}
            for series, short in zip(ways, short_names(ways), strict=True)
        ],
        "metrics": [
            {display(name): metric_data(name, x, epochs_at(table, run, x), y) for name, (x, y) in of_run.items()}
            for run, of_run in zip(runs, recorded, strict=True)
        ],
        "mean_metrics": {
            display(name): metric_data(name, x, epochs_at(table, runs[0], x), y.mean, y.low, y.high)
            for name, (x, y) in mean_metrics(recorded).items()
        },
    }


def estimate_data(series: Series, runs: list[str], place: Mapping[str, int]) -> dict[str, Any]:
    """Return what the page holds of one estimate: its name, N, the name of its ceiling, and its numbers for each run.

    With three or more runs it holds their mean, too. `runs` are all runs of the page; `place` has the number of each
    layer.
    """
    grids = {run: grids_of(series.of_run(run)) for run in series.runs}
    mean = mean_grids(series)
    words = advice_words(series.table, series.estimator, series.settings, series.runs)
    words += [*map(printable, series.method_words()), *series.unlabelled]
    return {
        "name": estimate_name(series),
        "looked": ", ".join(words),
        "n": series.n_samples,
        "methods": {place[layer]: mark for layer, mark in series.marks().items()},
        "ceiling": series.of_run(series.runs[0]).grid("I(X;T)").ceiling_name(series.n_samples),
        "parts": [{"run": runs.index(run), **part_data(of_run, place)} for run, of_run in grids.items()],
        "mean": {"run": -1, "words": mean_words(series), **part_data(mean, place)} if mean else None,
    }


def part_data(grids: Mapping[str, Grid], place: Mapping[str, int]) -> dict[str, Any]:
    """Return what the page holds of one run, or of the mean over runs: layers, times and every quantity.

    `grids` has the quantities by name, `place` the number that each layer has on the page.
    """
    first = next(iter(grids.values()))
    return {
        "layers": [place[layer] for layer in first.layers],
        "steps": numbers(first.steps),
        "epochs": numbers(first.epochs),
        "quantities": {quantity: quantity_data(grid) for quantity, grid in grids.items()},
    }


def metric_data(name: str, steps: FloatArray, epochs: FloatArray, values: FloatArray, *band: FloatArray) -> Any:
    """Return what the page holds of a recorded metric; for a mean over runs, `band` is its lower and upper edge."""
    columns = {"steps": steps, "epochs": epochs, "values": values, **dict(zip(("low", "high"), band, strict=False))}
    return {"group": metric_group(name)} | {column: numbers(cells) for column, cells in columns.items()}


def epochs_at(table: ResultTable, run: str, steps: FloatArray) -> FloatArray:
    """Return the epochs (S,) of a run at these steps (S,), NaN where its loop counted none."""
    rows = table.take(is_in(table["run"], [run]))
    known = dict(zip(rows["step"].tolist(), rows["epoch"].tolist(), strict=True))
    return np.array([known[step] for step in steps.tolist()])


def quantity_data(one: Grid) -> dict[str, Any]:
    """Return what the page holds of one quantity, in JSON's types: value, interval, ceiling and flags by layer.

    Intervals, ceilings and flags are left out where no value has them. A ceiling that is the same for all values is one
    number.
    """
    up = [name for name, mask in one.flags.items() if mask.any()]
    steps, layers = map(range, one.value.shape)
    texts = [[", ".join(name for name in up if one.flags[name][s, i]) for s in steps] for i in layers]
    # Most values have one of a few sets of flags: the page holds each set once, and for each value its number.
    flag_sets = list(dict.fromkeys(text for column in texts for text in column))
    out: dict[str, Any] = {"value": columns(one.value), "unit": "bits" if one.unit == BIT else display(one.unit)}
    for name, values in (("low", one.low), ("high", one.high)):
        if np.isfinite(values).any():
            out[name] = columns(values)
    known = one.ceiling[np.isfinite(one.ceiling)]
    if known.size:
        out["ceiling"] = numbers(known[:1])[0] if np.all(known == known[0]) else columns(one.ceiling)
    if flag_sets not in ([], [""]):
        codes = [[flag_sets.index(text) for text in column] for column in texts]
        out["flags"] = {"names": flag_sets, "codes": codes}
    if bounds := sorted(one.bounds - {"point"}):
        out["bound"] = " and ".join(bounds) + " bound"
    return out


def layer_looks(layers: Sequence[str], shown: Sequence[str]) -> dict[str, tuple[str, int]]:
    """Return {layer: (colour, number of its marker)} for all `layers`.

    The layers in `shown` look as in a figure. Of up to twenty layers each other one gets a colour that is left. Of
    more, it gets that of its block, such as `layer4` of `layer4.1`, which a shown layer of the block may already have.
    """
    others = [layer for layer in layers if layer not in shown]
    all_blocks = dict(zip(layers, blocks_of(layers), strict=True))
    own = dict(zip(shown, block_colors(shown), strict=True))
    colors = {all_blocks[layer]: color for layer, color in own.items()}
    new = list(dict.fromkeys(all_blocks[layer] for layer in others if all_blocks[layer] not in colors))
    few = len(shown) + len(new) <= len(OKABE_ITO)
    left = OKABE_ITO[len(shown) :] if few else [along(EMBERS, i / len(new)) for i in range(len(new))]
    colors |= dict(zip(new, left, strict=False))
    return {layer: (own[layer], mark) for layer, mark in zip(shown, places_in_blocks(shown), strict=True)} | {
        layer: (colors[all_blocks[layer]], len(shown) + i) for i, layer in enumerate(others)
    }


def themes(colors: Sequence[str]) -> dict[str, list[str]]:
    """Return {"light": the colours, "dark": the same, with dark ones lightened}, for a light and a dark page."""
    return {"light": list(colors), "dark": [on_dark(color) for color in colors]}


def on_dark(color: str) -> str:
    """Return a colour "#rrggbb" mixed with just so much white that it is light enough for a dark page."""
    channels = [int(color[k : k + 2], 16) for k in (1, 3, 5)]
    # The perceived lightness of the colour, from 0 to 255 (Rec. 601).
    luma = sum(weight * c for weight, c in zip((0.299, 0.587, 0.114), channels, strict=True))
    white = max(0.0, (LEAST_LUMA - luma) / (255 - luma)) if luma < 255 else 0.0
    return "#" + "".join(f"{round(c + white * (255 - c)):02x}" for c in channels)


def display(text: str) -> str:
    """Return a name as the page shows it: printable, and at most 60 letters long."""
    return shorten(printable(text), 60) or "(no name)"


def escaped(value: object, limit: int = 400) -> str:
    """Return a value as HTML text in which nothing acts as a tag; one of more than `limit` letters is shortened."""
    return html.escape(shorten(printable(value), limit))


def html_table(head: Iterable[Any], rows: Iterable[Iterable[Any]]) -> str:
    """Return a table in HTML, which scrolls where it is wider than the page."""
    top = "".join(f"<th>{escaped(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escaped(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def numbers(values: npt.NDArray[Any]) -> list[float | int | None]:
    """Return the values (n,) as a list of numbers with seven digits; None for those not finite or too large to draw."""
    out: list[float | int | None] = []
    for value in np.asarray(values, dtype=np.float64).tolist():
        if not math.isfinite(value) or abs(value) > HUGE:
            out.append(None)
        elif value == int(value):
            out.append(int(value))
        else:
            out.append(float(f"{value:.{DIGITS}g}"))
    return out


def columns(values: npt.NDArray[Any]) -> list[list[float | int | None]]:
    """Return an array (S, L) as L lists of S numbers, one for each layer."""
    return [numbers(values[:, i]) for i in range(values.shape[1])]


def embed(data: Any) -> str:
    """Return the data as text in the page: compressed JSON in base64, which has no characters special to HTML."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return base64.b64encode(zlib.compress(text.encode())).decode()
