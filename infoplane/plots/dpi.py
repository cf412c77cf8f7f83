"""Share of data-processing violations: a check of the estimates against what no true value can do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from infoplane.core.palette import OKABE_ITO
from infoplane.plots._about import lost_words
from infoplane.plots._artists import add_caption
from infoplane.plots.style import FAINT, canvas, keep_tick_style, number
from infoplane.plots.text import safe_names, safe_text
from infoplane.results import DataProcessing, ResultTable
from infoplane.results.series import settings_words


@dataclass(frozen=True, eq=False)
class DpiData:
    """One row per run, estimator, settings and subset, named by what tells them apart."""

    names: list[str]
    rows: list[DataProcessing]
    caption: list[str]


def dpi_data(
    table: ResultTable,
    *,
    chain: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    slack: float = 0.02,
    estimator: str | None = None,
    run: str | None = None,
    subset: str | None = None,
) -> DpiData:
    """Counts of violations; see `infoplane.results.ResultTable.dpi`."""
    rows = [
        row
        for row in table.dpi(chain, slack)
        if (estimator is None or row.estimator == estimator.partition(":")[0])
        and (run is None or row.run == run)
        and (subset is None or row.subset == subset)
    ]
    if not rows:
        raise ValueError(
            "no run of the table is known to be a chain of layers, where the inequality must hold; "
            "say which layers form one: chain=['fc1', 'fc2', ...]"
        )
    columns = [[row.run for row in rows], estimates(rows), [row.subset for row in rows]]
    varying = [column for column in columns if len(set(column)) > 1] or [columns[1]]
    names = [" · ".join(parts) for parts in zip(*varying, strict=True)]
    fixed = [column[0] for column in columns if len(set(column)) == 1 and column not in varying]
    caption = [
        f"data-processing inequality: violated where I(X;T) rises by more than {slack:g} bits to the next layer",
        *(safe_text(text, limit=60) for text in fixed),
        *(safe_text(text, limit=200) for text in dict.fromkeys(map(full_words, rows))),
        *lost_words(table, list(dict.fromkeys(row.run for row in rows))),
    ]
    return DpiData(names=names, rows=rows, caption=caption)


def full_words(row: DataProcessing) -> str:
    return ", ".join([row.estimator, *settings_words(row.settings)])


def estimates(rows: Sequence[DataProcessing]) -> list[str]:
    """Each row's estimator, with the settings in which the rows of one estimator differ."""
    words: dict[str, list[list[str]]] = {}
    for row in rows:
        words.setdefault(row.estimator, []).append(settings_words(row.settings))
    return [
        ", ".join(
            [row.estimator, *(w for w in settings_words(row.settings) if not all(w in o for o in words[row.estimator]))]
        )
        for row in rows
    ]


def dpi(
    table: ResultTable,
    *,
    ax: Axes | None = None,
    chain: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    slack: float = 0.02,
    estimator: str | None = None,
    run: str | None = None,
    subset: str | None = None,
    caption: bool = True,
    style: str = "screen",
    width: float | None = None,
) -> Axes:
    """Draw the share of neighbouring layers between which I(X;T) rises, per run, estimator and settings.

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
    data = dpi_data(table, chain=chain, slack=slack, estimator=estimator, run=run, subset=subset)
    count = len(data.rows)
    with canvas(ax, style=style, width=width, aspect=min(1.6, 0.22 + 0.06 * count)) as axes:
        if caption or ax is None:
            add_caption(axes, data.caption, own=ax is None, shown=caption)
        shares = np.array([100 * row.share for row in data.rows])
        axes.barh(range(count), shares, height=0.6, color=OKABE_ITO[0])
        for i, (row, share) in enumerate(zip(data.rows, shares, strict=True)):
            axes.annotate(
                f"{number(row.violations)} of {number(row.pairs)}"
                + (f", largest rise {row.worst:.2g} bits" if row.worst > 0 else ", no rise"),
                (share, i), xytext=(3, 0), textcoords="offset points", va="center", color=FAINT,
                fontsize="small",
            )  # fmt: skip
        axes.set_xlim(0, max(5.0, float(shares.max()) * 1.05))
        axes.set_ylim(count - 0.4, -0.6)
        shown = safe_names(data.names, limit=44)
        axes.set_yticks(range(count), [shown[name] for name in data.names])
        axes.set_xlabel("DPI violations [%]")
        keep_tick_style(axes)
        axes.tick_params(axis="y", length=0)
    return axes
