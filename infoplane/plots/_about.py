"""The words of a caption on the numbers: estimator, settings, N, bound, doubtful points."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from infoplane.core.brief import Brief
from infoplane.core.text import listed
from infoplane.core.tokens import token_position
from infoplane.plots.style import number
from infoplane.plots.text import safe_text
from infoplane.results import ResultTable
from infoplane.results.losses import loss_words, losses
from infoplane.results.overview import FLAG_WORDS
from infoplane.results.trajectories import Ceiling, Grid
from infoplane.results.views import Series, advice_words

UNMARKED = ("degenerate", "few_samples", "out_of_domain", "unreliable")
"""Flags of doubtful values that no mark in a figure shows: the caption counts them."""
LONG_LABEL, MOST_HIDDEN, MOST_NAMED = 30, 3, 2
"""Letters from which on a label has two lines; hidden layers, and panels, that a caption names."""


COUNT = re.compile(r"(?<![\w.=-])\d[\d\u202f]*(?:\.\d+)?(?![\w.-])")
"""A number in a caption that is no part of a name."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Shown(Brief):
    """What the figures of one quantity have in common.

    Attributes
    ----------
    label : str
        The quantity and its unit, as an axis names them.
    unit : str
    layers : list of str, L of them, in the order of the forward pass
    ceiling : Ceiling or None
    caption : list of str
    marks : mapping from layer to mark
        Of layers by another method than most.
    """

    label: str
    unit: str
    layers: list[str]
    ceiling: Ceiling | None
    caption: list[str]
    marks: Mapping[str, str] = field(default_factory=dict)


def shown(series: Series, grid: Grid, *more: str, steps: ArrayLike | None = None) -> dict[str, Any]:
    """Return the fields of `Shown`, as {name: value}, for the quantity in `grid`.

    The caption ends with the parts `more`. It counts the doubtful values at these `steps` (by default at all).
    """
    caption = [*about(series, (grid,), steps=steps), *more]
    common = {"label": axis_label(grid.quantity, grid.unit), "unit": grid.unit, "layers": grid.layers}
    return common | {"ceiling": grid.named_ceiling(), "caption": caption, "marks": series.marks(grid.quantity)}


def axis_label(quantity: str, unit: str) -> str:
    """Return the label of an axis, such as "I(X;T) [bits]"; where it would be long, the unit is on a second line."""
    name = safe_text(quantity, limit=60)
    if not unit:
        return name
    in_brackets = f"[{'bits' if unit in ('bit', 'bits') else safe_text(unit)}]"
    between = " " if len(name) + len(in_brackets) < LONG_LABEL else "\n"
    return f"{name}{between}{in_brackets}"


def about(
    series: Series, grids: Sequence[Grid], *, drawn: Iterable[Grid] | None = None, steps: ArrayLike | None = None
) -> list[str]:
    """Return the parts of a caption: how the numbers in `grids` came about, then how many of them are doubtful.

    Doubtful values are counted in the grids that are `drawn` (by default `grids`) at these `steps` (by default all).
    """
    parts = [", ".join([safe_text(series.estimator), *(safe_text(words, limit=48) for words in series.words)])]
    parts += advice_words(series.table, series.estimator, series.settings, series.runs)
    parts += series.method_words(*(grid.quantity for grid in grids))
    sizes = series.n_samples
    if sizes[-1] > 0:  # estimates from the weights alone use no samples, and their N is 0
        n = number(sizes[0]) if len(sizes) == 1 else f"{number(sizes[0])} to {number(sizes[-1])}"
        parts.append(f"N = {n}" + ("" if series.subset == "all" else f" ({safe_text(series.subset)})"))
    parts += series.unlabelled
    parts.append(run_words(series.name(series.runs[0])) if len(series.runs) == 1 else f"{len(series.runs)} runs")
    if series.left_out:
        parts.append(f"snapshots without an epoch, not drawn: {series.left_out}")
    parts += hidden_words(series)
    parts += lost_words(series.table, series.runs)
    meanings: dict[str, list[str]] = {}
    for grid in grids:
        bounds = [f"{bound} bound" for bound in sorted(grid.bounds) if bound in ("upper", "lower")]
        if meaning := [safe_text(estimand) for estimand in sorted(grid.estimands)] + bounds:
            meanings.setdefault(", ".join(meaning), []).append(safe_text(grid.quantity))
    parts += [f"{', '.join(quantities)}: {meaning}" for meaning, quantities in meanings.items()]
    return parts + doubt_words(grids if drawn is None else drawn, steps)


def doubt_words(grids: Iterable[Grid], steps: ArrayLike | None = None) -> list[str]:
    """Return parts of a caption such as "too few samples: 3 of 60 values", one for each flag of `UNMARKED` that occurs.

    Only values at these `steps` (by default all) are counted.
    """
    raised, total = Counter[str](), 0
    for grid in grids:
        chosen = np.isin(grid.steps, grid.steps if steps is None else steps)
        flags = {flag: grid.flag(flag)[chosen] for flag in UNMARKED}
        # The total counts values that were estimated: a NaN without a flag was not.
        total += int(np.logical_or.reduce([np.isfinite(grid.value[chosen]), *flags.values()]).sum())
        raised.update({flag: int(mask.sum()) for flag, mask in flags.items()})
    return [f"{FLAG_WORDS[flag]}: {count} of {total} values" for flag, count in raised.items() if count]


def run_words(run: str) -> str:
    """Return the words by which a caption names the only run of its figure: `run seed-0`."""
    return f"run {safe_text(run, limit=24)}"


def hidden_words(series: Series) -> list[str]:
    """Return ["2 of 5 layers not drawn: fc1, fc2"], which names the layers left out by default, or [] for none."""
    names = [safe_text(layer, limit=24) for layer in series.hidden]
    total = len(names) + len(series.layers)
    return [f"{len(names)} of {total} layers not drawn: {listed(names, MOST_HIDDEN)}"] if names else []


def lost_words(table: ResultTable, runs: Iterable[str]) -> list[str]:
    """Return parts of a caption that say which recorded steps of these runs, and of the table's layers, are lost."""
    found = losses(table, list(runs), set(table["layer"].tolist()))
    return [safe_text(words, limit=300) for words in loss_words(found)]


def merged(captions: Mapping[str, Sequence[str]]) -> list[str]:
    """Return one caption for several panels, from {panel: parts of its caption}.

    A part that all have stands once, with numbers that differ as their range: `N = 80 to 120`. A part that some have
    is followed by the names of their panels.
    """
    # Parts that differ only in their numbers become one pattern, with {} in the place of each number.
    numbers_by_pattern: dict[str, dict[str, list[str]]] = {}
    for panel, parts in captions.items():
        for part in parts:
            pattern = COUNT.sub("{}", part.replace("{", "{{").replace("}", "}}"))
            numbers_by_pattern.setdefault(pattern, {})[panel] = COUNT.findall(part)
    out = []
    for pattern, numbers in numbers_by_pattern.items():
        places = zip(*numbers.values(), strict=True)  # for each {}, the number that each panel has there
        known = [sorted(set(place), key=lambda text: float(text.replace("\u202f", ""))) for place in places]
        text = pattern.format(*(each[0] if len(each) == 1 else f"{each[0]} to {each[-1]}" for each in known))
        where = ", ".join(numbers) if len(numbers) <= MOST_NAMED else f"{len(numbers)} of {len(captions)} panels"
        out.append(text if len(numbers) == len(captions) else f"{text} ({where})")
    return out


def doubtful(flagged: int, total: int, name: str, mark: str) -> list[str]:
    """Return ["3 of 60 points saturated (hollow)"], or [] where `flagged` is 0.

    `name` is the doubt in words, `mark` how the figure marks such points.
    """
    return [f"{flagged} of {total} points {name} ({mark})"] if flagged else []


def dpi_words(series: Series) -> list[str]:
    """Return parts of a caption: how often the estimate violates the data-processing inequality, or why none is given.

    Violations are counted in pairs of neighbouring layers at the same step.
    """
    methods = " of one method" if len(series.by_method("I(X;T)")) > 1 else ""
    words = [f"DPI violated in {100 * row.share:.3g} % of {number(row.pairs)} pairs{methods}" for row in series.dpi()]
    about_runs = series.table.meta.get("runs", {})
    about_layers = [layer for run in series.runs for layer in about_runs.get(run, {}).get("layers", ())]
    pooled = {str(layer["key"]) for layer in about_layers if str(layer.get("reduction", "")).startswith("mean over")}
    if not words and pooled.intersection(series.layers):
        words.append("no data-processing share: pooled layers are no chain")
    elif not words and any(token_position(layer) is not None for layer in series.layers):
        words.append("no data-processing share: single positions are no chain")
    return words
