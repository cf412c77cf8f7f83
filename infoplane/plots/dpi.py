"""Share of data-processing violations: a check of the estimates against what no true value can do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

from matplotlib.axes import Axes

from infoplane.core.brief import Brief
from infoplane.core.palette import OKABE_ITO
from infoplane.plots._about import lost_words
from infoplane.plots._artists import ROW_SHARE, row_axis
from infoplane.plots._figure import (
    Options,
    canvas,
    figure_of,
    grow,
    is_own,
    keywords,
    multiples,
    outer_labels,
    selected,
    slot_width,
)
from infoplane.plots._layers import LayerLook, chosen, tag
from infoplane.plots.style import FAINT, number, small_size
from infoplane.plots.text import safe_names, safe_text, wrap
from infoplane.results import DataProcessing, ResultTable, run_names
from infoplane.results.names import runs_called
from infoplane.results.overview import shared_words
from infoplane.results.views import Selection, advice_words, settings_words

Chain = Sequence[str] | Mapping[str, Sequence[str]] | None


@dataclass(frozen=True, eq=False)
class DpiData(Brief):
    """Counts of violations: a row for each run, estimator, settings and subset, and lists with an entry for each row.

    `names` has what tells a row from all others, `runs` the name of its run, `estimates` what tells it from the other
    rows of its run.
    """

    names: list[str]
    rows: list[DataProcessing]
    caption: list[str]
    runs: list[str]
    estimates: list[str]


MAX_ROWS = 40
"""Estimates that one panel holds."""

ALL_TOGETHER = ("settings", "layers", "against")
"""Keywords that this figure does not take: all settings have a row, `chain` names layers, all steps are counted."""


@keywords(Selection, without=ALL_TOGETHER)
def dpi_data(table: ResultTable, *, chain: Chain = None, slack: float = 0.02, **select: Unpack[Selection]) -> DpiData:
    """Count the violations of each estimate of each run, and name the rows; see `infoplane.results.ResultTable.dpi`.

    ValueError where no run that was asked for is known to be a chain of layers.
    """
    estimator, subset = select["estimator"], select["subset"]
    run_ids = runs_called(table, select["run"] or "*")
    rows = [r for r in table.dpi(chain, slack) if r.run in run_ids and subset in (None, r.subset)]
    rows = [r for r in rows if estimator is None or r.estimator == estimator.partition(":")[0]]
    if not rows:
        raise ValueError(
            "no run of the table is known to be a chain of layers, where the inequality must hold (pooled layers, and "
            "those beside a skip connection, are none); to name one, in Python: plots.dpi(table, chain=['fc1', 'fc2'])"
        )
    run_name = run_names(table)
    runs = [run_name[row.run] for row in rows]
    words = [(row.estimator, settings_words(row.settings)) for row in rows]
    shared = shared_words(words)
    # For each row, its estimator with those settings in which rows of this estimator differ, and with those they share.
    differing, common = (
        [", ".join([name, *(word for word in each if (word in shared[name]) is in_common)]) for name, each in words]
        for in_common in (False, True)
    )
    columns = [[f"run {name}" for name in runs], differing, [row.subset for row in rows]]
    # Columns in which rows differ name the rows; what all rows have in common goes into the caption.
    naming = [column for column in columns if len(set(column)) > 1] or [differing]
    naming_in_run = [column for column in naming if column is not columns[0]] or [differing]
    fixed = [column[0] for column in columns if column not in naming and column[0] != "all"]
    choices = [word for row in rows for word in advice_words(table, row.estimator, row.settings, [row.run])]
    used = set(zip(table.estimator, table.quantity, table.branch, strict=True))
    n_branches = Counter(estimator for estimator, quantity, _ in used if quantity == "I(X;T)")
    caption = [
        f"data-processing inequality: violated where I(X;T) rises by more than {slack:g} bits to the next layer",
        *(["pairs of layers by two methods are not counted"] if any(n_branches[r.estimator] > 1 for r in rows) else []),
        *(safe_text(text, limit=60) for text in fixed),
        *(safe_text(text, limit=200) for text in dict.fromkeys([*common, *choices])),
        *lost_words(table, dict.fromkeys(row.run for row in rows)),
    ]
    names, estimates = ([" · ".join(parts) for parts in zip(*by, strict=True)] for by in (naming, naming_in_run))
    # Rows of one run whose names are still alike are numbered from the second on: (2), (3), ...
    keys = list(zip(runs, estimates, strict=True))
    marks = [f" ({keys[:i].count(key) + 1})" if key in keys[:i] else "" for i, key in enumerate(keys)]
    names, estimates = ([n + mark for n, mark in zip(of, marks, strict=True)] for of in (names, estimates))
    return DpiData(names=names, rows=rows, caption=caption, runs=runs, estimates=estimates)


@keywords(Options, without=ALL_TOGETHER)
def dpi(
    table: ResultTable, *, ax: Axes | None = None, chain: Chain = None, slack: float = 0.02, **options: Unpack[Options]
) -> Axes:
    """Draw the share of neighbouring layers between which I(X;T) rises, per estimator and settings.

    Several runs have a panel each, with the same rows. Above each bar stand the counts and the largest rise.

    In a chain of deterministic layers no true I(X;T) rises; where estimates do, they are not estimates of
    one common quantity, or err by more than `slack`.

    Parameters
    ----------
    chain : sequence of layer keys, or one such sequence per run, optional
        By default the runs that were recorded as plain chains.
    slack : float
        Rise that still counts as none, in bits.
    table, ax, estimator, run, subset, caption, style, width
        As in `infoplane.plots.plane`.
    """
    data = dpi_data(table, chain=chain, slack=slack, **selected(options))
    runs = list(dict.fromkeys(data.runs))
    if len(data.rows) > MAX_ROWS * len(runs):
        raise ValueError(
            f"{len(data.rows)} estimates are more than a page holds; choose with estimator=... or subset=..."
        )
    # In per cent, with a little room beyond the longest bar.
    top = max(5.0, 105 * max(row.share for row in data.rows))
    if ax is not None or len(runs) == 1:
        with canvas(ax, data.caption, options, aspect=0.15) as axes:
            draw_shares(axes, data.names, dict(zip(data.names, data.rows, strict=True)), top, options)
        return axes
    across = min({"column": 1, "screen": 2}.get(options["style"], 3), len(runs))
    names = list(dict.fromkeys(data.estimates))
    titles, down = list(safe_names(runs, limit=40).values()), -(-len(runs) // across)
    with multiples(titles, data.caption, options, across=across, height=0.1 / down) as panels:  # rows make it higher
        for panel, run in zip(panels, runs, strict=True):
            rows = zip(data.estimates, data.rows, data.runs, strict=True)
            draw_shares(panel, names, {name: row for name, row, run_of_row in rows if run_of_row == run}, top, options)
        outer_labels(panels, across)
    return panels[0]


def draw_shares(ax: Axes, names: Sequence[str], rows: Mapping[str, DataProcessing], top: float, look: Options) -> None:
    """Draw a bar for each estimate, the share of violations in per cent, with the counts above it.

    `names` are those of the figure's rows; one that is not in `rows` has no bar. The x axis ends at `top` per cent.
    (Beside a bar, or within it, there is not always room for the counts.)
    """
    looks = estimate_looks(ax, names, look)
    if is_own(ax) and ax.get_subplotspec().is_first_col():  # type: ignore[union-attr]
        # Make the figure as high as its rows need, in lines of text: 2.8 for a bar and its counts, or the lines of a
        # longer name; 3.5 more for the title above and the axis below. Only the first panel of each row does this.
        tall = max(2.8, *(1.2 * (2 + estimate.name.count("\n")) for estimate in looks))
        grow(figure_of(ax), small_size() * (tall * len(looks) + 3.5))
    row_axis(ax, looks)
    ax.set_xlim(0, top)
    ax.set_xlabel("DPI violations [%]")
    style: dict[str, Any] = {"va": "bottom", "color": FAINT, "fontsize": small_size(), "textcoords": "offset points"}
    for i, estimate in enumerate(looks):
        if (row := rows.get(estimate.key)) is not None:
            tag(ax.barh(i + 0.15, 100 * row.share, height=0.4, color=estimate.color).patches, estimate.key, "share")
            rise = f", up to {row.worst:.2g} bits" if row.violations else ""
            text = f"{number(row.violations)} of {number(row.pairs)}{rise}"
            ax.annotate(text, (0, i - 0.05), xytext=(2, 0.5), **style)


def estimate_looks(ax: Axes, names: Sequence[str], look: Options) -> list[LayerLook]:
    """Return the look of each row: its name, broken into lines but never shortened, and its colour.

    A shortened name might no longer tell two estimates apart.
    """
    texts = chosen("labels", names, look["labels"], [safe_text(name, limit=80) for name in names])
    colors = chosen("colors", names, look["colors"], [OKABE_ITO[0]] * len(names))
    wide = ROW_SHARE * figure_of(ax).get_figwidth() * 72 if is_own(ax) else ROW_SHARE * slot_width(ax)
    broken = [wrap(text.split(" · "), wide, small_size(0.5), joint=" · ") for text in texts]
    return [LayerLook(*each, "", "-") for each in zip(names, broken, colors, strict=True)]
