"""Every figure in every style: its axes keep three fifths of the width, no text is cut, none is too small."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator

import pytest
import synthetic
from extents import STYLES, check, texts_drawn
from matplotlib.text import Text

from infoplane import plots
from infoplane.results import ResultTable

STEPS = [0, 1, 3, 10, 30, 100, 1000]


@functools.cache
def table(kind: str, count: int) -> ResultTable:
    """`count` layers with names as long as those of a transformer; several runs where the figure takes them."""
    count += kind == "dpi" and count == 1  # a share of neighbours needs two
    layers = tuple(f"encoder.layer.{i}.output" for i in range(count))
    runs = ("seed-0", "seed-1", "seed-2") if kind in ("compare", "compression") else ("seed-0",)
    if kind == "sensitivity":
        how = {"layers": layers, "steps": STEPS}
        rows = [row for n in (3, 10, 30, 100) for row in synthetic.layer_rows(config={"n_bins": n}, seed=n, **how)]
        return ResultTable.from_rows(rows, synthetic.about_runs("a1b2c3", layers=layers))
    rows = []
    for seed, run in enumerate(runs):
        rows += synthetic.layer_rows(run=run, layers=layers, steps=STEPS, seed=seed, estimator="kde", bounds=True)
        rows += synthetic.metric_rows(run=run, steps=STEPS, layers=layers)
    if kind == "sensitivity":
        rows += [row._replace(config=row.config.replace("30", "300")) for row in rows if row.estimator == "kde"]
    if kind == "tokens":
        rows = [
            row._replace(layer=f"{row.layer}[token={p}]", value=row.value * (1 + p / 9))
            for row, p in itertools.product(rows, range(5))
            if row.step == 1000 and row.layer and row.estimator == "kde"
        ]
    made = ResultTable.from_rows(rows, synthetic.about_runs(*runs, layers=layers))
    return synthetic.as_pairs(made) if kind == "similarity" else made


@pytest.fixture(autouse=True)
def written() -> Iterator[list[Text]]:
    with texts_drawn() as seen:
        yield seen


def drawn(kind: str, style: str, count: int, metrics: bool = False):
    options = {"metrics": True} if metrics else {}
    return plots.FIGURES[kind](table(kind, count), style=style, **options)


EVERY = [(kind, False) for kind in plots.FIGURES] + [("curves", True)]


@pytest.mark.parametrize(("kind", "metrics"), EVERY)
def test_nothing_is_squeezed_or_cut(kind, metrics, written):
    check(drawn(kind, "column", 12, metrics), written, "column")


@pytest.mark.parametrize("kind", ["heatmap", "snr", "curves"])
def test_a_single_layer_keeps_its_room(kind, written):
    check(drawn(kind, "column", 1), written, "column")


# The most layers in every style, and fewer in one style each; the rest of the grid at full count.
GRID = [
    pytest.param(style, count, marks=pytest.mark.slow if count == 12 or fewer else pytest.mark.full)
    for count in range(1, 13)
    for i, style in enumerate(STYLES)
    for fewer in [count in (1, 2, 3, 6, 9) and i == (count == 3) + count // 2 % 3]
]


@pytest.mark.parametrize(("kind", "metrics"), EVERY)
@pytest.mark.parametrize(("style", "count"), GRID)
def test_nothing_is_squeezed_or_cut_on_the_whole_grid(kind, metrics, style, count, written):
    count = max(count, 2) if kind == "similarity" else count  # one layer has no pair
    check(drawn(kind, style, count, metrics), written, style)
