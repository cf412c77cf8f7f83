"""Live estimation: the numbers of `analyze`, without stored activations."""

import numpy as np
import pytest
import torch
from analysis_cases import Together
from torch import nn

import infoplane
from infoplane import live
from infoplane.hooks import Recorder, every
from infoplane.results import read_table

X = torch.randn(120, 4, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long() + (X[:, 1] > 0).long()
ESTIMATORS = ["binning:n_bins=8,range=snapshot", "kde"]


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def train(model, recorder, epochs=3):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for epoch in range(epochs):
        loss = nn.functional.cross_entropy(model(X), Y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        recorder.snapshot(epoch, metrics={"loss": loss})


def run(path, sink, probe=(X, Y), epochs=3, model=None, **options):
    model = model or net()
    options = {"schedule": every(1), "quiet": True, "keep_activations": False, **options}
    with Recorder(model, probe, path, sinks=[sink], **options) as recorder:
        train(model, recorder, epochs)
    return sink


def comparable(table):
    columns = ("step", "layer", "depth", "subset", "estimator", "config", "n_samples", "n_units", "quantity",
               "estimand", "value", "low", "high", "bound", "ceiling", "unit", "flags", "source")  # fmt: skip
    return {tuple(repr(getattr(row, c)) for c in columns) for row in table}


def test_the_same_rows_as_an_analysis_of_the_stored_run(tmp_path):
    probe = {"train": (X[:80], Y[:80]), "test": (X[80:], Y[80:])}
    sink = live(ESTIMATORS, subsets=("all", "test", "class=1"), table=tmp_path / "live.csv")
    run(tmp_path / "a", sink, probe, keep_activations=True)
    subsets = ("all", "test", "class=1")
    table = infoplane.analyze(tmp_path / "a", ESTIMATORS, subsets=subsets, device="cpu", progress=False)
    assert comparable(read_table(tmp_path / "live.csv")) == comparable(table)
    assert len(table) > 200
    assert set(sink.table.run) == {infoplane.open_run(tmp_path / "a").run_id}


def test_a_later_analysis_finds_the_rows(tmp_path):
    run(tmp_path / "a", live(ESTIMATORS[0]), keep_activations=True)
    before = (tmp_path / "a" / "results.csv").read_bytes()
    infoplane.analyze(tmp_path / "a", ESTIMATORS[0], device="cpu", progress=False)
    assert (tmp_path / "a" / "results.csv").read_bytes() == before


def test_without_activations_only_the_table_is_written(tmp_path):
    run(tmp_path / "a", live("kde"))
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["results.csv", "results.json"]
    table = read_table(tmp_path / "a")
    assert sorted(set(table.step.tolist())) == [0, 1, 2, 3]
    assert set(table.layer) == {"", "0", "1", "2"}
    loss = table.select(estimator="recorded", quantity="loss")
    assert loss.value[-1] < loss.value[0]
    (meta,) = table.meta["runs"].values()
    assert [la["key"] for la in meta["layers"]] == ["0", "1", "2"]
    assert (meta["n"], meta["chain"], meta["live"]) == (120, True, True)
    assert meta["steps"] == {"count": 4, "first": 0, "last": 3}


@pytest.mark.parametrize("resume", [True, False])
def test_a_restarted_training(tmp_path, resume):
    model = net()
    run(tmp_path / "a", live("kde"), epochs=2, model=model)
    sink = live("kde")
    with Recorder(
        model, (X, Y), tmp_path / "a", sinks=[sink], schedule=every(1), keep_activations=False, resume=resume
    ) as recorder:
        recorder.snapshot(2)
    table = read_table(tmp_path / "a")
    if resume:
        assert sorted(set(table.step.tolist())) == [0, 1, 2, 3]
    assert len(set(table.run)) == (1 if resume else 2)


def test_estimators_that_need_the_run(tmp_path):
    message = r"binning with .*\"range\":\"layer\".* has to see the whole run .*prepare='first'"
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "a", live("binning"))
    table = run(tmp_path / "b", live("binning", prepare="first")).table
    ranges = {c for layer, c in zip(table.layer, table.config, strict=True) if layer == "0"}
    assert len(ranges) == 1
    assert "prepared" in ranges.pop()
    with pytest.raises(ValueError, match="prepare must be 'refuse' or 'first', got 'last'"):
        live("kde", prepare="last")


def test_estimators_of_several_snapshots_at_once_are_for_recorded_runs():
    with pytest.raises(ValueError, match="together estimates 4 snapshots together, live has one at a time"):
        live(Together())


def test_bad_snapshots_get_a_row_without_a_value(tmp_path):
    model = net()
    with torch.no_grad():
        model[2].weight[0, 0] = torch.inf
    with pytest.warns(UserWarning, match="layer '2' has"):
        sink = run(tmp_path / "a", live("kde"), model=model, epochs=0)
    bad = sink.table.select(layer="2", estimator="kde")
    assert bad.flags.tolist() == ["nonfinite"]
    assert np.isnan(bad.value).all()
    assert not sink.table.select(layer="1", estimator="kde").flag("nonfinite").any()


def test_what_an_estimator_refuses_is_listed_and_the_rest_goes_on(tmp_path, caplog):
    targets = torch.randn(120, generator=torch.Generator().manual_seed(1))
    sink = run(tmp_path / "a", live(["binning:range=snapshot", "kde"]), (X, targets))
    (entry,) = sink.table.meta["runs"].values()
    assert {e["estimator"] for e in entry["skipped"]} == {"binning"}
    assert len(entry["skipped"]) == 3
    assert set(sink.table.estimator) == {"kde", "recorded"}
    assert "binning is not estimated on layer 0" in caplog.text


def test_needs_a_place_and_a_recorder(tmp_path):
    with pytest.raises(RuntimeError, match="used through a recorder"):
        live("kde")(None)
    with pytest.raises(ValueError, match="live needs table=PATH"):
        Recorder(net(), (X, Y), sinks=[live("kde")], keep_activations=False).start()
