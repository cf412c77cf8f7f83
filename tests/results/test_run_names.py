"""Runs are called as their users or directories are, are asked for by these names, and no id is shown."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from infoplane import Recorder, analyze, cli, plots, read_table
from infoplane.hooks import CollectionRecorder
from infoplane.importers import from_arrays
from infoplane.report import report_html
from infoplane.results import ResultTable, run_names
from infoplane.results.names import names_of
from infoplane.store import open_run

X, Y = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 2


def record(run: Path, **options) -> str:
    """A run of two snapshots with results; its id."""
    torch.manual_seed(len(str(run)))
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    with Recorder(model, (X, Y), run, quiet=True, **options) as recorder:
        recorder.snapshot(0)
    analyze(run, "binning:n_bins=4", progress=False)
    return open_run(run).run_id


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[Path, dict[str, Path], dict[str, str]]:
    """Two runs called by their directories, one by its user; their directories and ids by name."""
    folder = tmp_path_factory.mktemp("runs")
    paths = {"seed-1": folder / "seed-1", "seed-2": folder / "seed-2", "the third": folder / "x"}
    ids = {name: record(path, name=name if name == "the third" else None) for name, path in paths.items()}
    return folder, paths, ids


@pytest.mark.parametrize(
    ("paths", "given", "names"),
    [
        (["runs/seed-0", "runs/seed-1"], [None, None], ["seed-0", "seed-1"]),
        (["tanh/seed-0", "relu/seed-0"], [None, None], ["tanh/seed-0", "relu/seed-0"]),
        (["a/b/run", "a/c/run", "a/c/other"], [None] * 3, ["b/run", "c/run", "other"]),
        (["runs/a", "runs/b"], ["one", None], ["one", "b"]),
        (["runs/a", "runs/b"], ["same", "same"], ["a/same", "b/same"]),
        (["runs/a", "runs/a"], [None, None], ["a", "a (2)"]),
        (["", None], [None, None], ["id0", "id1"]),
        ([7, ["a"]], [3, {}], ["id0", "id1"]),
    ],
)
def test_a_name_is_as_short_as_tells_runs_apart(paths, given, names):
    about = {
        f"id{i}": {"path": path, "settings": {} if name is None else {"name": name}}
        for i, (path, name) in enumerate(zip(paths, given, strict=True))
    }
    assert list(names_of(about, about).values()) == names


def test_a_table_knows_its_runs_wherever_it_is_read_from(runs, monkeypatch, tmp_path):
    folder, paths, ids = runs
    wanted = {ids[name]: name for name in paths}
    assert run_names(read_table(list(paths.values()))) == wanted
    monkeypatch.chdir(paths["seed-1"])
    assert list(run_names(read_table(".")).values()) == ["seed-1"]
    assert list(run_names(read_table("results.csv")).values()) == ["seed-1"]
    monkeypatch.chdir(folder)
    table = read_table(["seed-1", "x"])
    assert table.meta["runs"][ids["seed-1"]]["path"] == "seed-1"
    table.write(tmp_path / "all.csv")  # elsewhere: paths on the disk begin at the table
    stored = json.loads((tmp_path / "all.json").read_text())["runs"][ids["seed-1"]]["path"]
    assert (tmp_path / stored).resolve() == paths["seed-1"].resolve()
    assert list(run_names(ResultTable.read(tmp_path / "all.csv")).values()) == ["seed-1", "the third"]


def test_what_analysis_gives_back_is_called_alike(runs):
    _, paths, ids = runs
    table = analyze(paths["seed-2"], "binning:n_bins=4", progress=False)
    assert run_names(table) == {ids["seed-2"]: "seed-2"}
    assert table.meta["runs"][ids["seed-2"]] == ResultTable.read(paths["seed-2"]).meta["runs"][ids["seed-2"]]


@pytest.mark.parametrize("asked", ["seed-1", "*-1", ["seed-1"], "path", "id"])
def test_a_run_is_asked_for_by_name_glob_path_or_id(runs, asked):
    _, paths, ids = runs
    table = read_table(list(paths.values()))
    asked = {"path": str(paths["seed-1"]), "id": ids["seed-1"]}.get(asked, asked) if isinstance(asked, str) else asked
    assert set(table.select(run=asked).run) == {ids["seed-1"]}
    assert set(table.plane(run=asked).run) == {ids["seed-1"]}
    assert {curve.run for curve in table.curves(run=asked)} == {ids["seed-1"]}
    if isinstance(asked, str):
        assert plots.plane_data(table, run=asked).caption[2] == "run seed-1"
    assert plots.compare_data(table, groups={"a": asked, "b": "seed-2"}).groups[0].runs == [ids["seed-1"]]


def test_an_unknown_run_is_an_error_with_the_closest_name(runs):
    _, paths, _ = runs
    table = read_table(list(paths.values()))
    for ask in (table.select, table.curves, table.plane, lambda run: plots.plane(table, run=run)):
        with pytest.raises(ValueError, match="the table has no run 'sed-1'; closest: seed-1"):
            ask(run="sed-1")
    with pytest.raises(
        ValueError, match=r"the table has 3 runs, choose one with run=\.\.\.: seed-1, seed-2, the third"
    ):
        plots.plane(table)
    with pytest.raises(ValueError, match=r"2 runs that match 'seed-\*', choose one"):
        plots.plane(table, run="seed-*")
    with pytest.raises(ValueError, match="'b' matches no run; available: seed-1, seed-2, the third"):
        plots.compare(table, groups={"b": "relu-*"})
    assert len(table.select(run="relu-*")) == 0


def test_no_id_is_where_a_person_looks(runs, tmp_path):
    _, paths, ids = runs
    table = read_table(list(paths.values()))
    shown = [repr(table), table._repr_html_(), report_html(table)]
    for draw in (plots.compare, plots.compression, plots.dpi, lambda t: plots.plane_grid(t, by="run")):
        shown += [text.get_text() for text in draw(table).figure.findobj(lambda a: hasattr(a, "get_text"))]
    for words in (["info", paths["seed-1"]], ["compare", *paths.values(), "-o", tmp_path / "c.png"]):
        shown.append(CliRunner().invoke(cli.main, list(map(str, words))).output)
    text = "\n".join(shown)
    assert not [run for run in ids.values() if run in text]
    assert all(re.search(rf"\b{name}\b", text) for name in paths)


def test_a_collection_names_its_members(tmp_path):
    models = [nn.Linear(3, 2) for _ in range(2)]
    state = torch.func.stack_module_state(models)
    options = {"state": state, "name": "net {member}", "quiet": True, "initial": False}
    with CollectionRecorder(models[0], (X, Y), tmp_path / "m{member}", **options) as recorder:
        recorder.snapshot(0)
    assert [open_run(tmp_path / f"m{i}").settings["name"] for i in range(2)] == ["net 0", "net 1"]


def test_a_name_may_change_when_a_run_goes_on(tmp_path):
    record(tmp_path / "run", name="before")
    record(tmp_path / "run", name="after", resume=True)
    assert open_run(tmp_path / "run").settings["name"] == "before"
    with pytest.raises(ValueError, match="name is what figures call the run, a text such as 'seed 1', got ''"):
        Recorder(nn.Linear(3, 2), (X, Y), tmp_path / "b", name="")


def test_arrays_from_elsewhere_have_a_name(tmp_path):
    from_arrays(tmp_path / "run", {0: {"fc": np.random.default_rng(0).normal(size=(40, 3))}}, Y.numpy(), name="theirs")
    analyze(tmp_path / "run", "binning:n_bins=4", progress=False)
    assert list(run_names(read_table(tmp_path / "run")).values()) == ["theirs"]
    assert os.fspath(tmp_path) not in repr(read_table(tmp_path / "run"))
