"""Share of data-processing violations: a check of the estimates against what no true value can do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np
from matplotlib.axes import Axes

from infoplane.core.palette import OKABE_ITO
from infoplane.plots._about import lost_words
from infoplane.plots._artists import ROW_SHARE, row_axis
from infoplane.plots._figure import Options, canvas, figure_of, grow, is_own, keywords, selected, slot_width
from infoplane.plots._layers import LayerLook, chosen, tag
from infoplane.plots.style import FAINT, number, small_size
from infoplane.plots.text import safe_text, wrap
from infoplane.results import DataProcessing, ResultTable, run_names
from infoplane.results.views import Selection, by_looking, settings_words

Chain = Sequence[str] | Mapping[str, Sequence[str]]


@dataclass(frozen=True, eq=False)
class DpiData:
    """One row per run, estimator, settings and subset, named by what tells them apart."""

    names: list[str]
    rows: list[DataProcessing]
    caption: list[str]


ALL_TOGETHER = ("settings", "layers", "against")
"""No choices here: all settings have a row, the chain says which layers, and steps are counted together."""


@keywords(Selection, without=ALL_TOGETHER)
def dpi_data(
    table: ResultTable, *, chain: Chain | None = None, slack: float = 0.02, **select: Unpack[Selection]
) -> DpiData:
    """Counts of violations; see `infoplane.results.ResultTable.dpi`."""
    estimator = select["estimator"]
    wanted = {**select, "estimator": estimator and estimator.partition(":")[0]}
    rows = [r for r in table.dpi(chain, slack) if all(v in (None, getattr(r, name)) for name, v in wanted.items())]
    if not rows:
        raise ValueError(
            "no run of the table is known to be a chain of layers, where the inequality must hold; "
            "say which layers form one: chain=['fc1', 'fc2', ...]"
        )
    called = run_names(table)
    columns = [[f"run {called[row.run]}" for row in rows], estimates(rows), [row.subset for row in rows]]
    varying = [column for column in columns if len(set(column)) > 1] or [columns[1]]
    fixed = [column[0] for column in columns if len(set(column)) == 1 and column not in varying]
    full = dict.fromkeys(
        ", ".join(
            [row.estimator, *settings_words(row.settings), *by_looking(table, row.estimator, row.settings, [row.run])]
        )
        for row in rows
    )
    caption = [
        f"data-processing inequality: violated where I(X;T) rises by more than {slack:g} bits to the next layer",
        *(safe_text(text, limit=60) for text in fixed),
        *(safe_text(text, limit=200) for text in full),
        *lost_words(table, dict.fromkeys(row.run for row in rows)),
    ]
    return DpiData(names=[" · ".join(parts) for parts in zip(*varying, strict=True)], rows=rows, caption=caption)


def estimates(rows: Sequence[DataProcessing]) -> list[str]:
    """Each row's estimator, with the settings in which the rows of one estimator differ."""
    words = [settings_words(row.settings) for row in rows]
    shared: dict[str, set[str]] = {}
    for row, own in zip(rows, words, strict=True):
        shared[row.estimator] = shared.get(row.estimator, set(own)) & set(own)
    return [
        ", ".join([row.estimator, *(w for w in own if w not in shared[row.estimator])])
        for row, own in zip(rows, words, strict=True)
    ]


@keywords(Options, without=ALL_TOGETHER)
def dpi(
    table: ResultTable,
    *,
    ax: Axes | None = None,
    chain: Chain | None = None,
    slack: float = 0.02,
    **options: Unpack[Options],
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
    data = dpi_data(table, chain=chain, slack=slack, **selected(options))
    count = len(data.rows)
    with canvas(ax, data.caption, options, aspect=min(1.6, 0.22 + 0.09 * count)) as axes:
        shares = np.array([100 * row.share for row in data.rows])
        looks = estimate_looks(axes, data, options)
        if is_own(axes):
            lines = max(of.name.count("\n") for of in looks)
            grow(figure_of(axes), 1.1 * lines * small_size() * count)
        row_axis(axes, looks)
        for i, (share, of) in enumerate(zip(shares, looks, strict=True)):
            tag(axes.barh(i + 0.15, share, height=0.4, color=of.color).patches, of.key, "share")
        axes.set_xlim(0, max(5.0, float(shares.max()) * 1.05))
        for i, row in enumerate(data.rows):
            write_counts(axes, row, i)
        axes.set_xlabel("DPI violations [%]")
    return axes


def estimate_looks(ax: Axes, data: DpiData, look: Options) -> list[LayerLook]:
    """The rows, by name: what tells estimates apart is a sentence, which is broken rather than cut."""
    names = [f"{i}" for i in range(len(data.rows))] if len(set(data.names)) < len(data.names) else data.names
    texts = chosen("labels", names, look["labels"], [safe_text(name, limit=80) for name in data.names])
    colors = chosen("colors", names, look["colors"], [OKABE_ITO[0]] * len(names))
    wide = ROW_SHARE * slot_width(ax)
    broken = [wrap(text.split(" · "), wide, small_size(0.5), joint=" · ") for text in texts]
    return [LayerLook(*each, "", "-") for each in zip(names, broken, colors, strict=True)]


def write_counts(ax: Axes, row: DataProcessing, i: int) -> None:
    """How many violations and how large, above the bar: beside or within it there is not always room."""
    rise = f"largest rise {row.worst:.2g} bits" if row.worst > 0 else "no rise"
    text = f"{number(row.violations)} of {number(row.pairs)}, {rise}"
    look: dict[str, Any] = {"va": "bottom", "color": FAINT, "fontsize": small_size(), "textcoords": "offset points"}
    ax.annotate(text, (0, i - 0.05), xytext=(2, 0.5), **look)
