"""What a notebook prints of objects that hold arrays: a line or a small table, never the arrays."""

from __future__ import annotations

import dataclasses
import importlib
import json
import pkgutil

import numpy as np
import pytest

import infoplane
from infoplane import diagnostics, plots
from infoplane.core.brief import brief
from infoplane.results import ResultTable, Row, over_runs, summarize
from infoplane.results.views import choose

LAYERS = [f"layer{i}" for i in range(12)]
STEPS = range(60)


@pytest.fixture(scope="module")
def table():
    common = {"subset": "all", "estimator": "binning", "config": json.dumps({"n_bins": 30}), "n_samples": 64}
    common |= {"n_units": 2, "source": "s"}
    rows = [
        Row(run=run, step=step, epoch=step / 2, layer=layer, depth=i, quantity=quantity, value=value, ceiling=6.0,
            flags="saturated" if (quantity, step) == ("I(X;T)", 3) else "", **common)
        for run in ("a" * 32, "b" * 32) for step in STEPS for i, layer in enumerate(LAYERS)
        for quantity, value in (("I(X;T)", 5 - 0.1 * i + 0.001 * step), ("I(T;Y)", 1 + 0.01 * i),
                                ("I(T;Y) null", 0.1))
    ]  # fmt: skip
    runs = {"a" * 32: {"path": "runs/seed-1", "chain": True}, "b" * 32: {"path": "runs/seed-2", "chain": True}}
    return ResultTable.from_rows(rows, {"runs": runs})


def test_a_plane_says_what_it_holds(table):
    text = repr(table.plane())
    assert text.splitlines() == [
        "Plane: 1440 points of 2 runs, steps 0 to 59; binning, n_bins = 30; "
        "layers layer0, layer1, layer2, layer3, layer4, layer5 and 6 more",
        "I(X;T) 3.9 to 5.059 bits, I(T;Y) 1 to 1.11 bits; 24 points saturated",
    ]


def test_fields_of_a_base_come_last_and_only_where_they_hold_something():
    """A distance of codes has no units, no settings and, here, no flags."""
    text = repr(diagnostics.rajski_distance([0, 1, 1], [1, 0, 1]))
    assert [line.split()[0] for line in text.splitlines()] == ["Rajski", "distance", "n_samples", "source"]


def test_counts_and_curves_are_a_line_each(table):
    first = table.dpi()[0]
    assert repr(first) == (
        "DataProcessing(run seed-1, binning, n_bins = 30: 0 of 660 pairs rise by more than 0.02 bits, worst -0.1)"
    )
    assert first == dataclasses.replace(first, name="another")
    assert repr(table.curves()[0]) == (
        "Curve(I(X;T) of layer0, run seed-1, binning, n_bins = 30: 60 steps 0 to 59, 5 to 5.059 bit)"
    )


def test_the_arrays_of_a_figure_are_shapes_and_ranges(table):
    lines = repr(plots.heatmap_data(table, run="seed-1")).splitlines()
    assert lines[0] == "HeatmapData"
    assert "  layers     layer0, layer1, layer2, layer3 and 8 more" in lines
    assert "  value      (12, 60), 3.9 to 5.059" in lines
    assert "  saturated  (12, 60), 12 of 720 true" in lines


def test_the_plane_of_a_figure_says_what_that_of_a_table_says(table):
    assert repr(plots.plane_data(table, run="seed-1")) == repr(table.plane(run="seed-1"))


@pytest.mark.parametrize(
    "make",
    [
        lambda t: t.plane(),
        lambda t: t.take([0, 1]).plane(),
        lambda t: t.dpi()[0],
        lambda t: t.curves()[0],
        lambda t: plots.plane_data(t, run="seed-1"),
        lambda t: plots.curve_data(t, run="seed-1"),
        lambda t: plots.heatmap_data(t, run="seed-1"),
        lambda t: plots.null_data(t, run="seed-1"),
        lambda t: plots.compare_data(t),
        lambda t: plots.dpi_data(t),
        lambda t: choose(t, run="seed-1"),
        lambda t: choose(t, run="seed-1").grid("I(X;T)"),
        lambda t: summarize(t)[0],
        lambda t: over_runs(np.zeros((3, 400, 12))),
    ],
)
def test_nothing_prints_more_than_a_screen(table, make):
    text = repr(make(table))
    assert len(text.splitlines()) <= 20
    assert max(map(len, text.splitlines())) <= 200
    assert "array(" not in text
    assert "a" * 32 not in text


def test_every_class_of_arrays_is_printed_so():
    """Of those that cannot be compared, since they hold arrays."""
    for part in (infoplane.results, infoplane.plots, infoplane.diagnostics):
        for found in pkgutil.iter_modules(part.__path__):
            module = importlib.import_module(f"{part.__name__}.{found.name}")
            for one in vars(module).values():
                if dataclasses.is_dataclass(one) and one.__eq__ is object.__eq__:
                    # What `dataclass` makes is wrapped.
                    assert not hasattr(one.__repr__, "__wrapped__"), one


def test_values_in_a_few_words():
    assert brief(np.array([])) == "(0)"
    assert brief(np.array([np.nan, np.nan])) == "(2), no number"
    assert brief(np.array([[2.5]])) == "(1, 1), 2.5"
    assert brief(np.array(["x", "x", "y\x1b"], dtype=object)) == "(3), x, y\\x1b"
    assert brief([]) == "none"
    assert brief([1, 2]) == "2 entries"
    assert brief(None) == "none"
    assert brief("x" * 500) == "x" * 29 + "…" + "x" * 30
