"""Values of several methods under one estimator: named, marked in figures, and never compared for data processing."""

from __future__ import annotations

import json

import pytest

from infoplane import plots
from infoplane.report.data import page_data
from infoplane.report.doubts import doubts
from infoplane.results import ResultTable, Row
from infoplane.results.branches import choice_of
from infoplane.results.views import choose

KNN = {"branch": "knn", "reason": "at most 2 units vary"}
MLP = {"branch": "probe:family=mlp", "reason": "more than 2 units vary"}
OF_X = {"branch_xt": "critic", "reason_xt": "the Gaussian model passes both checks"}


def config(found, *, wrapped=False):
    settings = {"effort": "full", "noise": "network", "seed": 0}
    if wrapped:
        return json.dumps({"estimator": {"name": "auto", **settings}, "draws": 20, "prepared": {"estimator": found}})
    return json.dumps({**settings, "prepared": found})


def table(layers, *, xt=(3.0, 2.0, 2.5), steps=(0, 10)):
    """A chain of layers, each with what `prepare` found of it; I(X;T) is the same at each step."""
    rows = []
    for step in steps:
        for depth, (layer, found) in enumerate(layers.items()):
            same = {
                "run": "r", "step": step, "epoch": float(step), "layer": layer, "depth": depth, "subset": "all",
                "estimator": "auto", "config": config(found), "n_samples": 300, "n_units": 4, "source": "0" * 32,
            }  # fmt: skip
            rows.append(Row(**same, quantity="I(X;T)", value=xt[depth], estimand="noisy-population"))
            rows.append(Row(**same, quantity="I(T;Y)", value=0.5 + 0.1 * depth, ceiling=1.0))
    return ResultTable.from_rows(rows, {"runs": {"r": {"path": "runs/r", "chain": True}}})


MIXED = {"fc1": MLP | OF_X, "fc2": MLP | OF_X, "out": KNN | {"branch_xt": "flow", "reason_xt": "told so"}}
ALIKE = {"fc1": MLP | OF_X, "fc2": MLP | OF_X, "out": KNN | OF_X}


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_table_says_which_method_and_why(wrapped):
    text = config(MLP | OF_X, wrapped=wrapped)
    assert choice_of(text, "I(T;Y) null") == (MLP["branch"], MLP["reason"])
    assert choice_of(text, "I(X;T) lower") == (OF_X["branch_xt"], OF_X["reason_xt"])
    assert choice_of(config(KNN), "I(X;T)") == ("", "")


@pytest.mark.parametrize("text", ["{}", '{"prepared":["branch"]}', '{"prepared":{"branch":3}}', '{"branch":"knn"}'])
def test_other_configs_name_none(text):
    assert choice_of(text, "I(T;Y)") == ("", "")


def test_columns_of_the_choice():
    mixed = table(MIXED)
    assert mixed.branch.tolist()[:6] == ["critic", "probe:family=mlp"] * 2 + ["flow", "knn"]
    assert mixed["reason"][5] == KNN["reason"]
    assert len(mixed.settings) == len(mixed)
    assert set(mixed.settings) == {json.dumps(json.loads(config({})) | {}, separators=(",", ":")).replace(
        ',"prepared":{}', "")}  # fmt: skip
    lines = repr(mixed).splitlines()
    assert "by knn: at most 2 units vary" in lines
    assert any(line.startswith("out") and line.rstrip().endswith("I(X;T) flow, I(T;Y) knn") for line in lines)


def test_no_violation_is_counted_between_methods():
    """From 2.0 to 2.5 bits I(X;T) rises, by another method; where all layers are by one it is a violation."""
    (mixed,) = table(MIXED).dpi()
    assert (mixed.pairs, mixed.violations) == (2, 0)
    (alike,) = table(ALIKE).dpi()
    assert (alike.pairs, alike.violations) == (4, 2)
    apart = {"fc1": MLP | OF_X, "out": MIXED["out"]}
    assert table(apart).dpi() == []
    assert [d.kind for d in doubts(table(MIXED)) if d.kind in ("dpi", "methods")] == ["methods"]
    assert [d.kind for d in doubts(table(ALIKE)) if d.kind in ("dpi", "methods")] == ["dpi", "methods"]
    assert page_data(table(MIXED))["estimates"][0]["methods"] == {2: "†"}
    (words,) = (d.text for d in doubts(table(MIXED)) if d.kind == "methods")
    assert "out (I(X;T) by flow, I(T;Y) by knn)" in words


def test_figures_mark_the_layers_of_another_method():
    mixed = table(MIXED)
    data = plots.plane_data(mixed)
    assert data.marks == {"out": "†"}
    line = "I(X;T) by critic, I(T;Y) by probe:family=mlp; † I(X;T) by flow, I(T;Y) by knn"
    assert line in data.caption
    assert "DPI violated in 0 % of 2 pairs of one method" in data.caption
    assert plots.curve_data(mixed, "I(T;Y)").marks == {"out": "†"}
    assert "by probe:family=mlp; † by knn" in plots.curve_data(mixed, "I(T;Y)").caption
    assert plots.curve_data(table(ALIKE), "I(X;T)").marks == {}
    assert "by critic" in plots.curve_data(table(ALIKE), "I(X;T)").caption
    said = "pairs of layers by two methods are not counted"
    assert [said in plots.dpi_data(each).caption for each in (mixed, table(ALIKE))] == [True, False]
    assert choose(table({"fc1": {}, "out": {}}, xt=(1.0, 1.0))).by_method() == {}


@pytest.mark.parametrize("figure", [plots.plane, plots.curves, plots.heatmap])
def test_the_mark_stands_behind_the_name(figure):
    ax = figure(table(MIXED))
    texts = [text.get_text() for text in ax.figure.findobj(lambda artist: hasattr(artist, "get_text"))]
    assert any(text == "out†" for text in texts)
    assert not any(text == "fc1†" for text in texts)
