"""The words of a caption on the numbers: estimator, settings, N, bound, doubtful points."""

from __future__ import annotations

import re
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
from infoplane.results.views import Series, by_looking

UNMARKED = ("degenerate", "few_samples", "out_of_domain", "unreliable")
"""Flags of wrong values that figures do not mark, and so count in words."""
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


def shown(series: Series, one: Grid, *more: str, steps: ArrayLike | None = None) -> dict[str, Any]:
    """The fields of `Shown` as keywords, for one quantity of a series; `more` stands at the end of the caption."""
    label, ceiling, caption = (
        axis_label(one.quantity, one.unit),
        one.named_ceiling(),
        about(series, (one,), steps=steps),
    )
    same = {"label": label, "unit": one.unit, "layers": one.layers, "ceiling": ceiling, "caption": [*caption, *more]}
    return same | {"marks": series.marks(one.quantity)}


def axis_label(quantity: str, unit: str) -> str:
    """A label such as "I(X;T) [bits]"; the unit goes to a second line where a panel is lower than the words."""
    name = safe_text(quantity, limit=60)
    if not unit:
        return name
    words = f"[{'bits' if unit in ('bit', 'bits') else safe_text(unit)}]"
    between = " " if len(name) + len(words) < LONG_LABEL else "\n"
    return f"{name}{between}{words}"


def about(
    series: Series, grids: Sequence[Grid], *, drawn: Iterable[Grid] | None = None, steps: ArrayLike | None = None
) -> list[str]:
    """The parts of the caption: how the numbers came about, then what is doubtful in those `drawn` at these steps."""
    words = [safe_text(w, limit=48) for w in series.words]
    parts = [", ".join([safe_text(series.estimator), *words])]
    parts += by_looking(series.table, series.estimator, series.settings, series.runs)
    parts += series.method_words(*(grid.quantity for grid in grids))
    sizes = series.n_samples
    if sizes[-1] > 0:  # what weights alone say has no samples
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
        bound = [f"{b} bound" for b in sorted(grid.bounds) if b in ("upper", "lower")]
        if said := [safe_text(e) for e in sorted(grid.estimands)] + bound:
            meanings.setdefault(", ".join(said), []).append(safe_text(grid.quantity))
    parts += [f"{', '.join(names)}: {said}" for said, names in meanings.items()]
    return parts + doubt_words(grids if drawn is None else drawn, steps)


def doubt_words(grids: Iterable[Grid], steps: ArrayLike | None = None) -> list[str]:
    """Words on how many of the values at these steps have a flag that no mark in the figure shows."""
    found, of = dict.fromkeys(UNMARKED, 0), 0
    for grid in grids:
        at = np.isin(grid.steps, grid.steps if steps is None else steps)
        flags = {flag: grid.flag(flag)[at] for flag in UNMARKED}
        of += int(np.logical_or.reduce([np.isfinite(grid.value[at]), *flags.values()]).sum())
        for flag, raised in flags.items():
            found[flag] += int(raised.sum())
    return [f"{FLAG_WORDS[flag]}: {count} of {of} values" for flag, count in found.items() if count]


def run_words(run: str) -> str:
    """The name of the only run of a figure, for its caption."""
    return f"run {safe_text(run, limit=24)}"


def hidden_words(series: Series) -> list[str]:
    """Words on the layers that are left out by default; an empty list where none is."""
    names = [safe_text(layer, limit=24) for layer in series.hidden]
    of = len(names) + len(series.layers)
    return [f"{len(names)} of {of} layers not drawn: {listed(names, MOST_HIDDEN)}"] if names else []


def lost_words(table: ResultTable, runs: Iterable[str]) -> list[str]:
    """Words on what is missing or damaged in the runs and layers of a figure."""
    found = losses(table, list(runs), set(table["layer"].tolist()))
    return [safe_text(words, limit=300) for words in loss_words(found)]


def merged(captions: Mapping[str, Sequence[str]]) -> list[str]:
    """One caption for several panels: common parts once, counts as their range, other parts with their panels."""
    found: dict[str, dict[str, list[str]]] = {}
    # Parts that differ in their numbers alone become one, with {} in the place of each number.
    for panel, parts in captions.items():
        for part in parts:
            found.setdefault(COUNT.sub("{}", part.replace("{", "{{").replace("}", "}}")), {})[panel] = COUNT.findall(
                part
            )
    out = []
    for words, counts in found.items():
        ends = [sorted(set(column), key=_value) for column in zip(*counts.values(), strict=True)]
        text = words.format(*(known[0] if len(known) == 1 else f"{known[0]} to {known[-1]}" for known in ends))
        where = ", ".join(counts) if len(counts) <= MOST_NAMED else f"{len(counts)} of {len(captions)} panels"
        out.append(text if len(counts) == len(captions) else f"{text} ({where})")
    return out


def _value(count: str) -> float:
    """The number that a caption writes as `count`."""
    return float(count.replace("\u202f", ""))


def doubtful(flagged: int, of: int, name: str, mark: str) -> list[str]:
    """Words on how many points are not to be believed and how the figure marks them; empty where there are none."""
    return [f"{flagged} of {of} points {name} ({mark})"] if flagged else []


def dpi_words(series: Series) -> list[str]:
    """Words on the share of violations of the data-processing inequality, or why the drawn layers have none."""
    apart = " of one method" if len(series.by_method("I(X;T)")) > 1 else ""
    words = [f"DPI violated in {100 * row.share:.3g} % of {number(row.pairs)} pairs{apart}" for row in series.dpi()]
    known = [layer for run in series.runs for layer in series.table.meta.get("runs", {}).get(run, {}).get("layers", ())]
    pooled = {str(layer["key"]) for layer in known if str(layer.get("reduction", "")).startswith("mean over")}
    if not words and pooled.intersection(series.layers):
        words.append("no data-processing share: pooled layers are no chain")
    elif not words and any(token_position(layer) is not None for layer in series.layers):
        words.append("no data-processing share: single positions are no chain")
    return words
