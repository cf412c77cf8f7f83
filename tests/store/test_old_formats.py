"""A run of every released format stays readable, to the last bit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from make_format_run import describe, make
from store_cases import probe, record

from infoplane.core import StoreError
from infoplane.store import FORMAT_VERSION, open_run, summarize

DATA = Path(__file__).parent.parent / "data"


@pytest.mark.parametrize("version", range(1, FORMAT_VERSION + 1))
def test_a_run_of_an_old_format_is_read(version):
    path = DATA / f"format-{version}"
    store = open_run(path / "run")
    assert describe(store) == json.loads((path / "expected.json").read_text())
    assert store.problems == ()
    assert store.verify() == []
    raw = json.loads((path / "run/run.json").read_bytes())
    assert raw["format_version"] == version


@pytest.mark.parametrize("version", range(1, FORMAT_VERSION + 1))
def test_the_kept_run_has_what_it_is_kept_for(version, tmp_path):
    """A run made now has the same shape; the numbers of the kept one may come from another numpy."""
    make(tmp_path, version)
    assert open_run(tmp_path / "run").format_version == version
    now = json.loads((tmp_path / "expected.json").read_text())
    kept = json.loads((DATA / f"format-{version}/expected.json").read_text())
    for what in ("layers", "steps", "metrics", "sessions", "settings", "labels", "parts", "problems"):
        assert now[what] == kept[what], what
    names = sorted(p.name for p in (tmp_path / "run/shards").iterdir())
    assert names == sorted(p.name for p in (DATA / f"format-{version}/run/shards").iterdir())
    assert sum("p0" in name for name in names) > 1
    assert {spec["dtype"] for spec in now["layers"]} == {"float32", "bfloat16", "bool", "int64", "float16"}


def test_labels_for_each_position_need_version_2():
    store = open_run(DATA / "format-2/run")
    assert store.probe.positions == 2
    assert store.probe.labels[4].tolist() == [1, -100]
    versions = {name: json.loads((DATA / "format-2/run" / name).read_bytes())["format_version"]
                for name in ("run.json", "sessions/0001.json", "sessions/0002.json")}  # fmt: skip
    assert list(versions.values()) == [2, 1, 1]
    assert summarize(store).to_json()["format_version"] == 2
    assert "3 classes, a label for each of 2 positions, 3 of 20 without (-100)" in str(summarize(store))


@pytest.mark.parametrize(
    ("labels", "version"),
    [(np.arange(24), 1), (np.linspace(0, 1, 24), 1), (np.ones((24, 2)), 1), (np.ones((24, 2), int), 2)],
)
def test_a_run_has_the_lowest_version_that_holds_its_labels(labels, version, tmp_path):
    record(tmp_path / "run", [[0, 1]], probe=probe(labels=labels, label_names=()))
    assert open_run(tmp_path / "run").format_version == version
    assert json.loads((tmp_path / "run/run.json").read_bytes())["format_version"] == version
    assert f'"format_version":{version}'.encode() in (tmp_path / "run/probe.h5").read_bytes()


def test_labels_for_each_position_in_a_file_of_version_1_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("infoplane.store._shard.version_of", lambda probe: 1)
    record(tmp_path / "run", [[0, 1]], probe=probe(labels=np.ones((24, 2), int)))
    monkeypatch.undo()
    with pytest.raises(StoreError, match=r"probe\.h5: labels \(24, 2\) for each position need format_version 2"):
        open_run(tmp_path / "run")
