"""`auto` over recorded runs: one method a layer at every step, the same bytes after a stop, pairs step by step."""

from __future__ import annotations

import pytest
import torch
from analysis_cases import make_run
from torch import nn

import infoplane
from infoplane.estimators.auto import Auto, Branch
from infoplane.hooks import NoiseInjection, Recorder
from infoplane.results import ResultTable
from infoplane.store import open_run


def estimate(run, estimators="auto:effort=low", **asked):
    return infoplane.analyze(run, estimators, progress=False, **asked)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A layer of four units and one of two, at six steps, which are more than one chunk."""
    run = make_run(tmp_path_factory.mktemp("auto") / "run")
    return run, estimate(run, table=run / "whole.csv").select(estimator="auto")


def test_no_curve_changes_its_method_between_steps(whole):
    _, table = whole
    found = {layer: set(table.select(layer=layer).branch) for layer in ("fc0", "fc1")}
    assert found == {"fc0": {"probe:family=mlp"}, "fc1": {"knn"}}
    assert set(table.select(layer="fc1").reason) == {"at most 2 units vary"}
    for layer in found:
        assert len(set(table.select(layer=layer).config)) == 1
    assert {len(curve) for curve in table.curves("I(T;Y)")} == {6}


def test_the_values_are_those_of_the_method(whole):
    run, table = whole
    knn = estimate(run, "knn", layers="fc1", table=run / "knn.csv").select(quantity="I(T;Y)")
    assert table.select(layer="fc1", quantity="I(T;Y)").value.tolist() == knn.value.tolist()


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_a_stopped_analysis_goes_on_to_the_same_bytes(whole, share, tmp_path):
    run, _ = whole
    text = (run / "whole.csv").read_bytes()
    (tmp_path / "t.csv").write_bytes(text[: int(share * len(text))])
    estimate(run, table=tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_bytes() == text


def test_a_run_that_grew_keeps_its_rows_where_the_branch_stays(whole, tmp_path):
    _, before = whole
    run = make_run(tmp_path / "run", steps=range(4))
    estimate(run, layers="fc1")
    first = ResultTable.read(run)
    make_run(run, steps=range(4, 6), resume=True)
    estimate(run, layers="fc1")
    after = ResultTable.read(run).select(layer="fc1", estimator="auto")
    assert len(after) == len(before.select(layer="fc1")) == 6
    assert after.value[:4].tolist() == first.select(layer="fc1", estimator="auto").value.tolist()


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """Three linear layers of two units with noise on the first, whose weights stay."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(3)))
    x = torch.randn(300, 2)
    path = tmp_path_factory.mktemp("noisy") / "run"
    with (
        NoiseInjection(model, "0", std=1.0),
        Recorder(model, (x, (x[:, 0] > 0).long()), path, quiet=True, schedule=[0, 5, 7]) as recorder,
    ):
        for step in (5, 7):
            recorder.snapshot(step)
    return path


@pytest.mark.parametrize(
    "asked", [{"pairs": [("0", "2")]}, {"layers": "2", "against": "previous"}], ids=["layer", "step"]
)
def test_pairs_take_the_branch_of_the_pair(noisy, asked, tmp_path, monkeypatch):
    """The facts are those of a layer at a step beside its own partner."""
    seen = []
    told = Branch("knn", "told so")
    monkeypatch.setattr(Auto, "_choice", lambda self, t, y: seen.append((t, y)) or told)
    rows = estimate(noisy, Auto(effort="low"), table=tmp_path / "t.csv", **asked).select(quantity="I(T;T')")
    steps = rows.step.tolist()
    assert set(rows.branch) == {"knn"}
    assert set(rows.partner) == ({"2"} if "pairs" in asked else {"2@step=0", "2@step=5"})
    store = open_run(noisy)
    for step, (t, y) in zip(steps, seen, strict=True):
        own, other = ("0", "2") if "pairs" in asked else ("2", "2")
        before = step if "pairs" in asked else {5: 0, 7: 5}[step]
        assert torch.equal(t, torch.from_numpy(store.read(own, [step])[0].copy()))
        assert torch.equal(y, torch.from_numpy(store.read(other, [before])[0].copy()).to(y.dtype))


def test_steps_that_are_not_finite_are_left_out_of_the_choice(tmp_path):
    run = make_run(tmp_path / "run", steps=range(3), units=(4,), bad=[(0, 0), (0, 2)])
    rows = estimate(run).select(estimator="auto", quantity="I(T;Y)")
    assert set(rows.branch) == {"probe:family=mlp"}
    assert rows.flags.tolist()[::2] == ["nonfinite"] * 2
