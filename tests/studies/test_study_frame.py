"""Many runs as one frame: summaries, gaps, hyper-parameters, and layers that are called alike."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from many_runs import a_run
from torch import nn

import infoplane
from infoplane import cli
from infoplane.results import ResultTable
from infoplane.studies import study

FALLING = [1.0, 3.0, 3.0, 2.0]


def two(**more):
    """Two runs of two layers with losses and accuracies."""
    metrics = {"train loss": [2, 1, 0.5, 0.1], "test loss": [2, 1.5, 0.9, 1.2],
               "train accuracy": [0.1, 0.5, 0.9, 1.0], "test accuracy": [0.1, 0.4, 0.8, 0.75]}  # fmt: skip
    curves = {("fc", "I(X;T)"): FALLING, ("out", "I(X;T)"): [0, 1, 2, 3]}
    return [a_run(name, curves, metrics=metrics, about={"lr": lr}, **more) for name, lr in (("a", 0.1), ("b", 0.2))]


def test_a_row_has_what_each_curve_comes_to():
    found = study(two())
    (row, _) = found.frame.to_dict("records")
    name = "I(X;T) of fc, binning, n_bins = 30: "
    assert {key.removeprefix(name): value for key, value in row.items() if key.startswith(name)} == {
        "final": 2.0,
        "max": 3.0,
        "max_step": 1.0,
        "fall": 1.0,
        "fall_share": pytest.approx(1 / 3),
        # log(1 + step) is 0, 1, 2, 3 times log 2: trapezoids 2, 3, 2.5 over a range of 3
        "area": pytest.approx(7.5 / 3),
    }
    assert found.measures[name + "max_step"].unit == "step"
    assert found.measures[name + "fall"].unit == "bit"
    assert found.frame.index.tolist() == ["a", "b"]
    assert found["lr"].tolist() == [0.1, 0.2]


def test_values_without_a_number_are_passed_over():
    found = study([a_run(name, {("fc", "I(X;T)"): [math.nan, 1.0, 2.0, math.nan]}) for name in "ab"])
    assert [found[f"I(X;T) of fc, binning, n_bins = 30: {s}"][0] for s in ("final", "area")] == [2.0, 1.5]


def test_the_gap_is_of_the_moment_that_was_asked_for():
    final, best = study(two()), study(two(), at="best")
    assert final["gap"][0] == pytest.approx(1.1)
    assert final["error_gap"][0] == pytest.approx(0.25)
    assert (best["gap"][0], best["error_gap"][0], best["gap_step"][0]) == (pytest.approx(0.4), pytest.approx(0.1), 3)
    assert final.gaps == {"gap": "test loss - train loss, final", "error_gap": "train accuracy - test accuracy, final"}
    assert (final["test loss_final"][0], final["test loss_best"][0], final["test accuracy_best"][0]) == (1.2, 0.9, 0.8)


@pytest.mark.parametrize(
    ("names", "gap"),
    [
        (("loss", "val_loss"), 1.0),
        (("train/loss", "eval/loss"), 1.0),
        (("trainLoss", "loss"), None),
        (("loss", "accuracy"), None),
    ],
)
def test_metrics_are_known_by_words_in_their_names(names, gap):
    found = study(a_run("a", {("fc", "I(X;T)"): FALLING}, metrics={names[0]: [1] * 4, names[1]: [2] * 4}))
    assert found.columns.get("gap", [None])[0] == gap


def test_of_several_metrics_the_pair_is_chosen():
    metrics = {f"{part} loss {k}": [i + k] * 4 for i, part in enumerate(("train", "test")) for k in (1, 2)}
    run = a_run("a", {("fc", "I(X;T)"): FALLING}, metrics=metrics)
    with pytest.raises(ValueError, match=r"several pairs .*'test loss 1' and 'train loss 1'.*choose with gap="):
        study(run)
    assert study(run, gap=("test loss 2", "train loss 1"))["gap"].tolist() == [2.0]
    with pytest.raises(ValueError, match="no recorded metric 'test los'; closest: test loss"):
        study(run, gap=("test los", "train loss 1"))


def test_layers_share_columns_by_name_place_or_role():
    short = a_run("a", {("fc1", "I(X;T)"): FALLING, ("out", "I(X;T)"): FALLING})
    deep = a_run("b", {(f"act{i}", "I(X;T)"): FALLING for i in (1, 2)} | {("out", "I(X;T)"): FALLING})

    def shared(by):
        found = study([short, deep], by=by)
        return [m.layer for c, m in found.measures.items() if m.summary == "final" and np.isfinite(found[c]).all()]

    assert shared("name") == ["out"]
    assert shared("depth") == ["layer -2", "layer -1"]
    assert shared("role") == ["activation -1", "output"]
    with pytest.raises(ValueError, match=r"no two runs .* \(layers fc1, fc2\); by='depth'"):
        study([a_run(run, {(layer, "I(X;T)"): FALLING}) for run, layer in (("a", "fc1"), ("b", "fc2"))])


def test_settings_that_few_words_do_not_tell_apart_are_all_said():
    runs = [a_run("a", {("fc", "I(X;T)"): FALLING}, config=f'{{"n_bins":30,"seed":{seed}}}') for seed in (0, 1)]
    names = list(study(ResultTable.concat(runs)).measures)
    assert len(names) == len(set(names)) == 12
    assert names[0] == "I(X;T) of fc, binning, n_bins = 30, seed = 0: final"


def test_flags_and_losses_are_counted():
    saturated = a_run("a", {("fc", "I(X;T)"): FALLING}, lost=[{"file": "shards/x", "what": "gone", "steps": [2]}])
    columns = {name: saturated[name] for name in infoplane.results.COLUMNS}
    columns["flags"] = np.array(["saturated", "", "", ""], dtype=object)
    found = study([ResultTable(columns, saturated.meta), a_run("b", {("fc", "I(X;T)"): FALLING})])
    name = "I(X;T) of fc, binning, n_bins = 30: "
    assert (found.flags[name + "fall"]["saturated"], found.flags[name + "final"]["saturated"]) == (1, 0)
    assert found.lost == ("a",)


@pytest.mark.parametrize(
    ("runs", "more", "said"),
    [
        ([], {}, "at least one run, got none"),
        (two()[:1] * 2, {}, "the run a comes twice"),
        (two(), {"by": "size"}, "by must be name, depth or role, got 'size'"),
        (two(), {"at": "first"}, "at must be final or best, got 'first'"),
        (two(), {"layers": ["cf"]}, "no layer of the table matches 'cf'; closest: fc"),
        ([a_run("a", {}, metrics={"loss": [1] * 4})], {}, "no estimates"),
        ([a_run("a", {("fc", "I(X;T)"): FALLING}, about={"id": 1})], {}, "'id' has the name of another column"),
        ([a_run("a", {("fc", "I(X;T)"): FALLING}, about={"lr": [1]})], {}, "about: lr must be a number"),
    ],
)
def test_what_is_no_study_is_said(runs, more, said):
    with pytest.raises((ValueError, TypeError), match=said):
        study(runs, **more)


def test_runs_whose_gaps_mean_different_things_are_refused():
    curve = {("fc", "I(X;T)"): FALLING}
    runs = [a_run(p, curve, metrics={"train loss": [1] * 4, f"{p} loss": [2] * 4}) for p in ("test", "val")]
    with pytest.raises(ValueError, match="gap is test loss - train loss, final in one run and val loss"):
        study(runs)


def test_the_frame_is_written_as_a_spreadsheet_may_open_it(tmp_path):
    run = a_run("=1+1", {("fc", "I(X;T)"): FALLING}, about={"net": "=cmd", "lr": 0.1, "width": 10, "bn": True})
    path = study([run]).write(tmp_path / "study.csv")
    head, row, *rest = path.read_text().splitlines()
    assert rest == []
    assert head.startswith("run,id,net,lr,width,bn,")
    assert row.startswith("""\"'=1+1","'=1+1","'=cmd",0.1,10,True,2,3,1,1,""")
    with pytest.raises(ValueError, match=r"ends in \.csv, got 'a\.xlsx'"):
        study([run]).write(tmp_path / "a.xlsx")


def test_the_command_line_associates_and_claims(tmp_path):
    random = np.random.default_rng(0)
    for i, fall in enumerate(random.random(8)):
        curve = {("fc", "I(X;T)"): [1, 3, 3, 3 - fall]}
        metrics = {"train loss": [0] * 4, "test loss": [2 - fall + 0.1 * random.random()] * 4}
        a_run(f"r{i}", curve, metrics=metrics, about={"n_weights": i}).write(tmp_path / f"r{i}.csv")
    words = ["-q", "study", *sorted(map(str, tmp_path.glob("r*.csv"))), "--with", "gap", "--control", "n_weights"]
    result = CliRunner().invoke(
        cli.main, [*words, "--summary", "fall", "--claim", "-", "--map", str(tmp_path / "m.png")]
    )
    assert result.exit_code == 0, result.output
    assert (tmp_path / "m.png").read_bytes().startswith(b"\x89PNG")
    lines = result.output.splitlines()
    assert lines[6].startswith("negative association with gap: the sign holds in 1 of 1 settings (100%)")
    assert " ".join(lines[8].split()) == "spearman 95 % p adjusted given n_weights 95 % p adjusted doubts"
    assert lines[9].startswith("I(X;T) of fc, binning, n_bins = 30: fall  -")
    assert "1 column tried on 8 runs" in lines
    failed = CliRunner().invoke(cli.main, [*words[:3], "--with", "gap"])
    assert failed.exit_code == 2
    assert "at least 5 configurations with all numbers, got 1 in 1 runs" in failed.output


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 2))


def record(run, about, **more):
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    options = {"schedule": 1, "quiet": True, "about": about, **more}
    with infoplane.Recorder(net(), (x, torch.arange(20) % 2), run, **options) as recorder:
        for epoch in range(2):
            recorder.snapshot(epoch, metrics={"train loss": 1.0, "test loss": 2.0 + epoch})


def test_hyper_parameters_go_from_the_recorder_to_the_frame(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for run, about in (("a", {"lr": np.float64(0.1), "width": torch.tensor(10)}), ("b", {"lr": 0.2, "net": "mlp"})):
        record(run, about)
    infoplane.analyze(["a", "b"])
    result = CliRunner().invoke(cli.main, ["-q", "study", "a", "b", "-o", "s.csv", "--by", "role", "-l", "1"])
    assert result.exit_code == 0, result.output
    assert "hyper-parameters  lr, width, net\n" in result.output
    assert result.output.endswith("s.csv: 2 rows\n")
    frame = infoplane.study(["a", "b"], by="role", layers=["1"]).frame
    assert frame[["lr", "gap"]].to_dict("index") == {"a": {"lr": 0.1, "gap": 2.0}, "b": {"lr": 0.2, "gap": 2.0}}
    assert (frame["width"]["a"], frame["net"]["b"]) == (10, "mlp")
    assert frame.isna()[["width", "net"]].to_numpy().tolist() == [[False, True], [True, False]]
    assert (tmp_path / "s.csv").read_text().splitlines()[1].startswith("a,")
    with pytest.raises(infoplane.StoreError, match=r"about.lr = 0.1, now it is 0.3"):
        record("a", {"lr": 0.3, "width": 10}, resume=True)
    assert "about    lr = 0.2, net = mlp" in str(infoplane.store.summarize(infoplane.open_run("b")))


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ([0.1], "about must be a mapping"),
        ({"lr": [0.1]}, "about: lr must be a number, a text, a bool or None, got list"),
        ({"lr": math.inf}, "about: lr must be finite, got inf"),
        ({"n": 2**60}, r"about: n must lie within 2\*\*53"),
        ({"a" * 300: 1}, "names must have 1 to 200 characters"),
        ({1: 1}, "names must be text, got 1"),
        ({"t": "x" * 300}, "about: t must have at most 200 characters, got 300"),
        ({str(i): 1 for i in range(300)}, "at most 200 names, got 300"),
        ([{"lr": 1}, {"lr": 2}], "about takes one mapping; got 2"),
    ],
)
def test_hyper_parameters_are_plain_scalars(about, said, tmp_path):
    with pytest.raises((ValueError, TypeError), match=said):
        record(tmp_path / "run", about)
    assert not (tmp_path / "run").exists()
