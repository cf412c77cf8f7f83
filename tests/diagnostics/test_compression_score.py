from __future__ import annotations

import math

import pytest

from infoplane.diagnostics import compression_score
from infoplane.results import ResultTable, Row


def rows(values, *, layer="fc1", run="a", quantity="I(X;T)", flags=None, **changes):
    for i, value in enumerate(values):
        fields = {"subset": "all", "estimator": "binning", "n_samples": 64, "n_units": 2, "source": "s", "depth": 0}
        yield Row(
            **{**fields, **changes},
            run=run,
            step=10 * i,
            epoch=float(i),
            layer=layer,
            config='{"n_bins":30,"prepared":{"run_range":[0.0,1.0]}}',
            quantity=quantity,
            value=value,
            flags=(flags or {}).get(i, ""),
        )


def scores(table, **arguments):
    found = compression_score(table, **arguments)
    return {(r.run, r.layer, r.quantity): r for r in found}


def test_fall_from_the_filtered_maximum():
    # Filtered: 1, 2, 3, 4, 4, 3, 2. The spike of 9 is one odd snapshot.
    table = ResultTable.from_rows(rows([1.0, 2.0, 3.0, 9.0, 4.0, 3.0, 2.0]))
    found = scores(table)
    assert found["a", "fc1", "C I(X;T)"].value == 2.0
    assert found["a", "fc1", "C/max I(X;T)"].value == 0.5
    assert found["a", "fc1", "argmax I(X;T)"].value == 30.0
    assert [r.unit for r in found.values()] == ["bit", "1", "step"]
    assert {r.step for r in found.values()} == {60}
    assert {r.estimator for r in found.values()} == {"compression"}
    assert '"settings":{"n_bins":30}' in next(iter(found.values())).config


def test_end_counts_up_to_a_step():
    table = ResultTable.from_rows(rows([1.0, 3.0, 3.0, 2.0, 5.0, 5.0]))
    assert scores(table, end=30)["a", "fc1", "C I(X;T)"].value == 1.0
    assert scores(table, end=30)["a", "fc1", "C I(X;T)"].step == 30
    assert scores(table)["a", "fc1", "C I(X;T)"].value == 0.0


def test_each_run_and_layer_has_a_score_of_its_own():
    table = ResultTable.from_rows(
        [
            *rows([3.0, 2.0], layer="fc1", run="a"),
            *rows([3.0, 1.0], layer="fc2", run="a"),
            *rows([3.0, 0.5], layer="fc1", run="b"),
            *rows([3.0, 0.0], layer="fc1", run="b", quantity="I(T;Y)"),
        ]
    )
    found = scores(table)
    assert {k[:2]: r.value for k, r in found.items() if k[2] == "C I(X;T)"} == {
        ("a", "fc1"): 1.0,
        ("a", "fc2"): 2.0,
        ("b", "fc1"): 2.5,
    }
    assert scores(table, quantity="I(T;Y)")["b", "fc1", "C I(T;Y)"].value == 3.0
    assert set(compression_score(table, layer="fc2").layer) == {"fc2"}


def test_saturated_points_make_it_a_lower_bound():
    table = ResultTable.from_rows(rows([6.0, 6.0, 4.0, 3.0], flags={0: "below_null;saturated"}))
    assert all(r.flags == "saturated" for r in scores(table).values())


def test_refused_snapshots_are_passed_over():
    table = ResultTable.from_rows(rows([3.0, math.nan, 3.0, 1.0, math.nan], flags={1: "nonfinite", 4: "nonfinite"}))
    found = scores(table)["a", "fc1", "C I(X;T)"]
    assert (found.value, found.step, found.flags) == (2.0, 30, "")


def test_share_of_nothing_is_empty_and_flagged():
    found = scores(ResultTable.from_rows(rows([0.0, 0.0, 0.0])))
    assert math.isnan(found["a", "fc1", "C/max I(X;T)"].value)
    assert found["a", "fc1", "C/max I(X;T)"].flags == "degenerate"
    assert found["a", "fc1", "C I(X;T)"].flags == ""


def test_other_data_have_another_source(tmp_path):
    first = compression_score(ResultTable.from_rows(rows([3.0, 2.0])))
    other = compression_score(ResultTable.from_rows(rows([3.0, 1.0])))
    assert set(first.source).isdisjoint(other.source)
    first.write(tmp_path / "c.csv")
    assert list(map(repr, ResultTable.read(tmp_path / "c.csv"))) == list(map(repr, first))


def test_bad_requests_are_one_clear_line():
    table = ResultTable.from_rows(rows([3.0, 2.0]))
    with pytest.raises(ValueError, match=r"the table has no quantity 'H\(T\)'; closest: I\(X;T\)"):
        compression_score(table, "H(T)")
    with pytest.raises(ValueError, match=r"layer 'fc1' of run 'a' has no value of I\(X;T\) up to step -1"):
        compression_score(table, end=-1)
