"""How similar every two layers, or every two steps of one layer, are: a square map."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self, Unpack

import numpy as np
from matplotlib.axes import Axes

from infoplane.core.records import BoolArray, FloatArray
from infoplane.core.text import listed
from infoplane.plots._about import Shown, doubtful, run_words, shown
from infoplane.plots._artists import MOST_NAMES, measured, name_rows
from infoplane.plots._figure import Options, canvas, keywords, panel_height, selected
from infoplane.plots._layers import END_SHARE, row_looks
from infoplane.plots.heatmap import draw_cells, draw_scale, round_steps
from infoplane.plots.style import number
from infoplane.plots.text import WITH, safe_text
from infoplane.plots.tokens import row_of
from infoplane.results import ResultTable, run_names
from infoplane.results.limits import drawable
from infoplane.results.trajectories import Grid
from infoplane.results.views import Selection, choose, match_layers

Names = list[str] | list[int]
Cell = tuple[str | int, str | int]
"""The names of the row and the column of a cell."""
Places = dict[Cell, tuple[int, int]]
"""For each cell of the map, the indices (step, column) of its number in a grid."""
_STEP, _RUN, CALIBRATED = re.compile(r"step=(\d+)"), "@run=", " calibrated"
"""Parts of a partner's name that is a step or a layer of another run, and the end of a calibrated quantity's name."""


@dataclass(frozen=True, eq=False, kw_only=True)
class SimilarityData(Shown):
    """One number for every two layers at one step, or for every two steps of one layer.

    Attributes
    ----------
    down, across : list of layers, A and B of them, or list of steps
    value : (A, B) float64
        NaN where the table has none; 1 of each with itself.
    weak : (A, B) bool
        No more than permuted rows give.
    of : str
        The layer whose steps are compared; "" for layers.
    other : str
        The run that stands across; "" for the same.
    """

    down: Names
    across: Names
    value: FloatArray
    weak: BoolArray
    of: str
    other: str


@keywords(Selection, without=["against"])
def similarity_data(
    table: ResultTable, quantity: str | None = None, *, step: int | None = None, **select: Unpack[Selection]
) -> SimilarityData:
    """Return the similarities within one run, or of one run with another, as a matrix; see `similarity`."""
    quantity = only_quantity(table) if quantity is None else quantity
    wanted, select["layers"] = select["layers"], None
    series = choose(table, shows=quantity, quantity=[quantity], **select)
    one = series.grid(quantity)
    pairs = of_layers([Pair.of(name, at) for at, name in enumerate(one.layers)], wanted)
    of, other = one_layer(pairs), pairs[0].other
    places: Places = {}
    if of:
        places = {(int(s), p.step): (row, p.at) for row, s in enumerate(one.steps) for p in pairs if p.step is not None}
        where = f"layer {safe_text(of, limit=24)}"
    else:
        row = row_of(one.steps, one.value[:, [pair.at for pair in pairs]], step, quantity)
        places = {(pair.layer, pair.partner): (row, pair.at) for pair in pairs}
        where = f"step {number(one.steps[row])}"
    down, across = sides(list(places), square=not other)
    value, weak = filled(one, places, down, across, square=not other)
    doubts = doubtful(int(weak.sum()), int(np.isfinite(value).sum()), "no better than permuted rows", "hatched")
    across_words = [f"across: {run_words(run_names(series.whole).get(other, other))}"] if other else []
    return SimilarityData(
        **shown(series, one, where, *across_words, *doubts) | {"layers": [str(name) for name in down]},
        down=down,
        across=across,
        value=value,
        weak=weak,
        of=of,
        other=other,
    )


class Pair(NamedTuple):
    """What a layer of the table is compared with, and where the number is.

    `partner` is another layer, or "step=9" for the same layer at that `step`; otherwise `step` is None. `other` is the
    id of the partner's run, "" for the same run; `at` is the column of the pair in the grid.
    """

    layer: str
    partner: str
    step: int | None
    other: str
    at: int

    @classmethod
    def of(cls, name: str, at: int) -> Self:
        """Return the pair in column `at` from its name: `fc1 with fc4`, `fc1 with step=9`, `fc1 with fc4@run=ID`."""
        layer, _, partner = name.partition(WITH)
        partner, _, other = partner.partition(_RUN)
        step = _STEP.fullmatch(partner)
        return cls(layer, partner, None if step is None else int(step[1]), other, at)


def only_quantity(table: ResultTable) -> str:
    """Return the name of the only calibrated similarity in a table; ValueError unless there is exactly one."""
    known = list(dict.fromkeys(q for q in table["quantity"].tolist() if q.endswith(CALIBRATED)))
    if len(known) != 1:
        got = f"several, choose with quantity=...: {listed(known, 6)}" if known else "none"
        raise ValueError(f"expected one calibrated similarity, as from diagnostics.run_similarity; the table has {got}")
    return str(known[0])


def of_layers(pairs: list[Pair], wanted: Sequence[str] | None) -> list[Pair]:
    """Return the pairs whose layers both match one of the patterns `wanted`, by default all.

    Of a pair of steps, its one layer must match. ValueError where these pairs have partners in different runs.
    """
    known = {name for pair in pairs for name in (pair.layer, pair.partner) if pair.step is None or name == pair.layer}
    fit = match_layers(wanted or ["**"], sorted(known))
    kept = [pair for pair in pairs if pair.layer in fit and (pair.step is not None or pair.partner in fit)]
    if len(runs := sorted({pair.other for pair in kept})) != 1:
        raise ValueError(f"the pairs must be of one other run, got {listed([run or 'the same' for run in runs], 6)}")
    return kept


def one_layer(pairs: list[Pair]) -> str:
    """Return the layer whose steps are compared, or "" where layers are compared with each other.

    ValueError where pairs compare steps of several layers, or both kinds occur.
    """
    layers = sorted({pair.layer for pair in pairs if pair.step is not None})
    if not layers:
        return ""
    if len(layers) > 1 or any(pair.step is None for pair in pairs):
        raise ValueError(f"the table compares steps of {listed(layers, 6)}; choose one with layers=[...]")
    return layers[0]


def sides(cells: Sequence[Cell], *, square: bool) -> tuple[Names, Names]:
    """Return the names of the rows and of the columns of the map, from its cells.

    Steps are sorted. Layers stand in the order of the table; columns begin with the layers that are rows, too. With
    `square` rows and columns are the same.
    """
    down, across = (list(dict.fromkeys(side)) for side in zip(*cells, strict=True))
    if square:
        down = across = list(dict.fromkeys([*down, *across]))
    else:
        across = [*(name for name in down if name in across), *(name for name in across if name not in down)]
    if isinstance(down[0], int):
        down, across = sorted(down), sorted(across)
    return down, across


def filled(grid: Grid, places: Places, down: Names, across: Names, *, square: bool) -> tuple[FloatArray, BoolArray]:
    """Return the values (A, B) of the map, NaN where the grid has none, and a mask (A, B) of those below their null.

    `places` has the index of each cell in `grid`. A `square` map is symmetric: each value also stands in the cell with
    row and column exchanged. Its diagonal is 1 where the grid has no value for it, unless the quantity is a null.
    """
    value, weak = np.full((len(down), len(across)), np.nan), np.zeros((len(down), len(across)), np.bool_)
    numbers, flag = drawable(grid.value), grid.flag("below_null")
    if square and not grid.quantity.endswith(" null"):
        np.fill_diagonal(value, 1.0)
    row, column = ({name: i for i, name in enumerate(names)} for names in (down, across))
    for (a, b), at in places.items():
        spots = [(row[a], column[b])] + ([(row[b], column[a])] if square else [])
        for spot in spots if np.isfinite(numbers[at]) else ():
            value[spot], weak[spot] = numbers[at], flag[at]
    return value, weak


@keywords(Options, without=["against", "colors", "markers"])
def similarity(
    table: ResultTable,
    *,
    ax: Axes | None = None,
    quantity: str | None = None,
    step: int | None = None,
    **options: Unpack[Options],
) -> Axes:
    """Draw how similar every two layers of a run are at one step, or every two steps of one layer.

    From the rows of `infoplane.diagnostics.run_similarity`. Of two runs, the layers of the second stand across.
    Hatched cells are no larger than what permuted rows give, white ones have no number.

    Parameters
    ----------
    quantity : str, optional
        By default the one calibrated similarity that the table has, such as "CKA(T;T') calibrated": 0 is what
        permuted rows give, 1 what equal layers give.
    step : int, optional
        Of layers; by default the last.
    layers : names or globs, optional
        Of both sides. Where the table compares steps of several layers, one of them.
    table, ax, estimator, settings, run, subset, caption, style, width
        As in `infoplane.plots.plane`.

    Raises
    ------
    ValueError
        If the table has no similarities, lacks what is asked for, or leaves a choice that was not made.
    """
    data = similarity_data(table, quantity, step=step, **selected(options))
    ends = min(0.0, float(np.nanmin(data.value))), max(1.0, float(np.nanmax(data.value)))
    with canvas(ax, data.caption, options, aspect=0.8) as axes:
        # Hatched cells are at the dark end of the scale.
        mesh = draw_cells(axes, data.value, data.weak, options, ends, hatch="0.75")
        if data.of:
            name_steps(axes, data)
        else:
            name_layers(axes, data, options)
        draw_scale([axes], mesh, options, measured(data.label, data.caption, options, panel_height(axes)))
    return axes


def name_steps(ax: Axes, data: SimilarityData) -> None:
    """Write round steps at the ticks of both axes."""
    for axis, steps in ((ax.yaxis, data.down), (ax.xaxis, data.across)):
        axis.set_ticks(*round_steps(np.asarray(steps, dtype=np.float64)))
        axis.set_label_text("step")


def name_layers(ax: Axes, data: SimilarityData, look: Options) -> None:
    """Write the names of the layers beside the rows and, turned upright, below the columns.

    Where there are many, only every second, third, ... is named.
    """
    down, across = (row_looks(ax, list(map(str, side)), look, share=END_SHARE) for side in (data.down, data.across))
    name_rows(ax, down, most=MOST_NAMES)
    every = -(-len(across) // MOST_NAMES)
    ax.set_xticks(range(0, len(across), every), [layer.name for layer in across[::every]], rotation=90)
    ax.tick_params(axis="x", length=0)
