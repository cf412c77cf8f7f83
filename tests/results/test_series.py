from __future__ import annotations

import numpy as np
import pytest

from infoplane.results import ResultTable, Row
from infoplane.results.views import (
    choose,
    is_in,
    metrics,
    options,
    ordered_layers,
    parse_settings,
    settings_words,
)


def row(**changed) -> Row:
    base = {"run": "a", "step": 0, "epoch": 0.0, "layer": "fc1", "depth": 1, "subset": "all", "estimator": "binning",
            "config": '{"n_bins":30,"prepared":{"low":-1},"range":[-1.0,1.0]}', "n_samples": 16, "n_units": 2,
            "quantity": "I(X;T)", "value": 1.0, "ceiling": 4.0}  # fmt: skip
    return Row(**{**base, **changed})


def test_a_grid_has_steps_down_and_layers_across_in_forward_order():
    table = ResultTable.from_rows(
        [row(step=5, layer="out", depth=3, value=7.0, flags="saturated;ties"), row(step=2, value=3.0), row(step=5)]
    )
    one = choose(table).grid("I(X;T)")
    assert one.layers == ["fc1", "out"]
    assert one.steps.tolist() == [2, 5]
    np.testing.assert_array_equal(one.value, [[3.0, np.nan], [1.0, 7.0]])
    assert one.flag("ties").tolist() == [[False, False], [False, True]]
    assert not one.flag("below_null").any()
    assert one.top == 4.0
    assert one.ceiling_name([16]) == "log₂ N"
    assert one.ceiling_name([17]) == "H(X)"


def test_a_ceiling_that_is_not_in_bits_is_no_entropy():
    table = ResultTable.from_rows([row(quantity="RankMe", unit="dimensions", ceiling=4.0)])
    assert choose(table).grid("RankMe").ceiling_name() == "maximum"
    assert choose(table).grid("RankMe").ceiling_name([0]) == "maximum"


def test_the_ceiling_of_information_about_real_targets_is_no_entropy_of_them():
    rows = [row(quantity="I(T;Y)")]
    run = str(ResultTable.from_rows(rows)["run"][0])
    for target, name in (("continuous", "largest estimate"), ("discrete", "H(Y)")):
        table = ResultTable.from_rows(rows, {"runs": {run: {"target": target}}})
        assert choose(table).grid("I(T;Y)").ceiling_name() == name


def test_what_prepare_found_is_no_choice():
    rows = [row(), row(layer="fc2", depth=2, config='{"n_bins":30,"prepared":{"low":-7},"range":[-1.0,1.0]}')]
    assert choose(ResultTable.from_rows(rows)).layers == ["fc1", "fc2"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("n_bins=30", {"n_bins": 30}),
        ("n_bins=30,range=layer", {"n_bins": 30, "range": "layer"}),
        ("range=(-1, 1),n_bins=5", {"range": [-1, 1], "n_bins": 5}),
        ('{"n_bins":30}', {"n_bins": 30}),
        ({"range": (-1, 1)}, {"range": [-1, 1]}),
        (None, {}),
        ("", {}),
    ],
)
def test_settings_are_read(text, wanted):
    assert parse_settings(text) == wanted


def test_settings_choose_by_value():
    rows = [row(), row(config='{"n_bins":60,"range":[-1.0,1.0]}', value=2.0)]
    table = ResultTable.from_rows(rows)
    assert choose(table, settings="range=[-1,1],n_bins=60").table["value"].tolist() == [2.0]
    assert choose(table, estimator="binning:n_bins=30").table["value"].tolist() == [1.0]
    with pytest.raises(ValueError, match=r"has no binning with n_bins=90; available: n_bins=30; n_bins=60"):
        choose(table, settings="n_bins=90")
    with pytest.raises(ValueError, match="settings read name=value, separated by commas; got 'n_bins'"):
        choose(table, settings="n_bins")


def test_what_is_unset_is_chosen_as_the_error_names_it():
    rows = [row(config='{"std":1}'), row(config='{"population":true,"std":1}', value=2.0)]
    table = ResultTable.from_rows(rows)
    with pytest.raises(ValueError, match="population=null; population=true"):
        choose(table)
    for unset in ("population=null", "population=false"):
        assert choose(table, settings=unset).table["value"].tolist() == [1.0]
    assert choose(table, settings="population=true").table["value"].tolist() == [2.0]


def test_settings_in_words_leave_out_what_means_nothing():
    config = '{"corrections":[],"n_bins":30,"null_draws":20,"range":[-1.0,1.0],"scale":0.5,"seed":0,"width":null}'
    assert settings_words(config) == ["n_bins = 30", "range = (-1, 1)", "scale = 0.5"]
    assert settings_words("") == []


def test_options_respect_the_other_choices():
    rows = [row(), row(estimator="kde", config='{"std":1}', run="b"), row(subset="test", config='{"n_bins":60}')]
    table = ResultTable.from_rows([*rows, row(estimator="recorded", layer="", quantity="loss")])
    assert options(table, "estimator") == ["binning", "kde"]
    assert options(table, "run", estimator="kde") == ["b"]
    assert options(table, "settings", estimator="binning") == ['{"n_bins":30,"range":[-1.0,1.0]}', '{"n_bins":60}']
    assert options(table, "subset", settings="n_bins=60") == ["test"]
    assert options(table, "settings", estimator="binning:n_bins=60") == ['{"n_bins":60}']


def test_layers_are_chosen_by_role_of_their_own_run():
    about = {"runs": {"a": {"layers": [{"key": "fc1", "role": "other"}, {"key": "relu", "role": "activation"}]}}}
    rows = [row(), row(layer="relu", depth=2), row(run="b", layer="x", depth=0)]
    table = ResultTable.from_rows(rows, about)
    assert choose(table, run="a").layers == ["relu"]
    assert choose(table, run="b").layers == ["x"]
    assert choose(table, several_runs=True).layers == ["x", "relu"]
    assert choose(table, run="a", layers=["*"]).layers == ["fc1", "relu"]
    assert ordered_layers(table) == ["x", "fc1", "relu"]


def test_names_with_trailing_nul_are_told_apart():
    names = np.array(["a", "a\x00", "b"], dtype=object)
    assert is_in(names, ["a\x00"]).tolist() == [False, True, False]
    table = ResultTable.from_rows([row(layer="a"), row(layer="a\x00", depth=2, value=5.0)])
    assert choose(table, layers=["a\x00"]).grid("I(X;T)").value.tolist() == [[5.0]]


def test_metrics_come_in_step_order():
    recorded = {"estimator": "recorded", "layer": "", "config": "{}"}
    table = ResultTable.from_rows(
        [row(step=9, quantity="loss", value=1.0, **recorded), row(step=2, quantity="loss", value=3.0, **recorded)]
    )
    steps, values = metrics(table)["loss"]
    assert (steps.tolist(), values.tolist()) == ([2, 9], [3.0, 1.0])
    assert metrics(table, run="b") == {}


def test_a_grid_needs_one_run_and_one_unit():
    table = ResultTable.from_rows([row(), row(run="b")])
    with pytest.raises(ValueError, match="holds one run, got 2: a, b"):
        choose(table, several_runs=True).grid("I(X;T)")
    mixed = ResultTable.from_rows([row(unit="bit"), row(step=1, unit="nat")])
    with pytest.raises(ValueError, match=r"I\(X;T\) has several units in this table: bit, nat"):
        choose(mixed).grid("I(X;T)")


def test_recorded_metrics_of_layers_are_chosen_as_estimates_are():
    recorded = {"estimator": "recorded", "config": "{}", "quantity": "gradient_mean_norm", "unit": ""}
    rows = [row(), row(layer="w1", value=2.0, **recorded), row(layer="w1", step=1, value=3.0, **recorded)]
    table = ResultTable.from_rows([*rows, row(layer="", quantity="loss", estimator="recorded", config="{}")])
    series = choose(table, estimator="recorded", quantity=["gradient_mean_norm"], layers=["*"])
    assert (series.layers, series.quantities) == (["w1"], ["gradient_mean_norm"])
    assert series.grid("gradient_mean_norm").value.tolist() == [[2.0], [3.0]]
    assert list(choose(table).metrics()) == ["loss"]
    assert (series.runs, series.grid("gradient_mean_norm").times.tolist()) == (["a"], [0.0, 1.0])
    assert np.isnan(series.grid("weight_norm").value).all()
    with pytest.raises(ValueError, match="no estimates"):
        choose(table, estimator="recorded", quantity=["other"])


def test_a_grid_has_the_time_that_was_asked_for():
    table = ResultTable.from_rows([row(epoch=float("nan")), row(step=10, epoch=2.0)])
    assert choose(table).grid("I(X;T)").times.tolist() == [0.0, 10.0]
    series = choose(table, against="epoch")
    assert (series.left_out, series.grid("I(X;T)").times.tolist()) == (1, [2.0])
