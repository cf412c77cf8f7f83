"""The map of similarities: its cells are the rows of the table, mirrored, with ones between."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from infoplane import plots
from infoplane.results import ResultTable, Row

LAYERS = ["act1", "act2", "act10"]
STEPS = [0, 1, 10, 100]


def row(layer, partner, value, step=0, quantity="CKA(T;T') calibrated", **changes):
    depth = LAYERS.index(layer)
    cells = {"run": "r", "step": step, "epoch": 1.0, "layer": layer, "depth": depth, "subset": "all", "n_samples": 50}
    cells |= {"estimator": "similarity", "config": '{"measure":"cka"}', "n_units": 4, "quantity": quantity}
    return Row(**cells | changes, value=value, ceiling=1.0, unit="CKA above null", partner=partner)


def of_layers(steps=(0,)):
    pairs = itertools.combinations(LAYERS, 2)
    return [row(a, b, i / 4 + step / 1000, step) for i, (a, b) in enumerate(pairs) for step in steps]


def of_steps(layer="act1"):
    return [row(layer, f"step={b}", a / 1000 + b / 500, a) for a, b in itertools.combinations(STEPS, 2)]


def test_layers_down_and_across_are_mirrored():
    data = plots.similarity_data(ResultTable.from_rows(of_layers(steps=(0, 100))))
    assert data.down == data.across == LAYERS
    expected = np.array([[1.0, 0.1, 0.35], [0.1, 1.0, 0.6], [0.35, 0.6, 1.0]])
    np.testing.assert_allclose(data.value, expected)
    first = plots.similarity_data(ResultTable.from_rows(of_layers(steps=(0, 100))), step=0, layers=["act1*"])
    assert first.down == ["act1", "act10"]
    np.testing.assert_allclose(first.value, [[1.0, 0.25], [0.25, 1.0]])


def test_steps_of_a_layer():
    table = ResultTable.from_rows([*of_steps(), *of_steps("act2")])
    data = plots.similarity_data(table, layers=["act2"])
    assert (data.down, data.across, data.of) == (STEPS, STEPS, "act2")
    assert data.value[1, 3] == data.value[3, 1] == pytest.approx(1 / 1000 + 100 / 500)
    assert np.diag(data.value).tolist() == [1.0] * 4
    ax = plots.similarity(table, layers=["act2"])
    named = {text.get_text(): text.get_position()[0] for text in ax.get_xticklabels()}
    assert (named["0"], named["100"]) == (0.0, 3.0)
    with pytest.raises(ValueError, match="compares steps of act1, act2; choose one with layers="):
        plots.similarity(table)


def test_another_run_stands_across():
    rows = [row(a, f"{b}@run=s", i / 9) for i, (a, b) in enumerate(itertools.product(LAYERS, LAYERS[::-1]))]
    data = plots.similarity_data(ResultTable.from_rows(rows, {"runs": {"s": {"path": "/runs/seed-1"}}}))
    assert (data.down, data.across, data.other) == (LAYERS, LAYERS, "s")
    np.testing.assert_allclose(data.value[0], [2 / 9, 1 / 9, 0.0])
    assert "across: run seed-1" in data.caption


def test_what_is_no_better_than_permuted_rows_is_hatched_and_counted():
    rows = [one._replace(flags="below_null") if one.partner == "act2" else one for one in of_layers()]
    ax = plots.similarity(ResultTable.from_rows(rows))
    assert len([patch for patch in ax.patches if patch.get_hatch()]) == 2
    assert "2 of 9 points no better than permuted rows (hatched)" in plots.caption(ax)
    assert [text.get_text() for text in ax.get_xticklabels()] == LAYERS


@pytest.mark.parametrize(
    ("rows", "how", "said"),
    [
        ([row("act1", "", 0.5, quantity="I(X;T)")], {}, "the table has none"),
        (
            [*of_layers(), row("act1", "act2", 0.1, quantity="RSA(T;T') calibrated")],
            {},
            "several, choose with quantity",
        ),
        (of_layers(), {"layers": ["conv"]}, "no layer of the table matches 'conv'"),
        (of_layers(), {"step": 7}, "at step 7; the table has 0"),
        ([*of_layers(), row("act1", "act2@run=s", 0.1)], {}, "of one other run, got the same, s"),
    ],
)
def test_choices_that_are_left_open(rows, how, said):
    with pytest.raises(ValueError, match=said):
        plots.similarity(ResultTable.from_rows(rows), **how)
