"""Many runs: memory that does not grow with their number, and the same bytes whoever does the work."""

from __future__ import annotations

import gc
import weakref

import pytest
from analysis_cases import make_run

import infoplane
from benchmarks import scale
from infoplane import analysis
from infoplane.analysis import analyze_each
from infoplane.results import ResultTable


@pytest.fixture
def runs(tmp_path):
    return [make_run(tmp_path / f"run{i:02}", seed=i, steps=range(3), units=(2,)) for i in range(12)]


def test_runs_that_are_done_are_forgotten(runs, monkeypatch):
    """Of twelve runs two are held from the first look on, then the one in hand alone, and no table but the last."""
    stores, tables = weakref.WeakSet(), weakref.WeakSet()

    def opened(path):
        stores.add(store := infoplane.open_run(path))
        return store

    monkeypatch.setattr(analysis, "HELD_RUNS", 2)
    monkeypatch.setattr(analysis, "open_run", opened)
    found = []
    for i, table in enumerate(analyze_each(runs, "binning:n_bins=4", progress=False)):
        tables.add(table)
        gc.collect(1)
        assert len(stores) <= max(2, 4 - i)
        assert len(tables) <= 2
        found.append(table.run[0])
    assert found == [infoplane.open_run(run).run_id for run in runs]


def test_what_is_wrong_with_a_run_is_said_before_any_is_estimated(runs, tmp_path):
    (tmp_path / "empty").mkdir()
    for bad in (tmp_path / "empty", make_run(tmp_path / "other", units=(2, 2))):
        with pytest.raises((ValueError, infoplane.core.errors.StoreError)):
            analyze_each([*runs, bad], "binning", layers=["fc0", "fc1"])
    assert not any((run / "results.csv").exists() for run in runs)


def test_one_table_for_all_gives_each_run_its_rows(runs, tmp_path):
    each = list(analyze_each(runs, "binning:n_bins=4", table=tmp_path / "all.csv", progress=False))
    assert [set(table.run) for table in each] == [{infoplane.open_run(run).run_id} for run in runs]
    together = infoplane.analyze(runs, "binning:n_bins=4", table=tmp_path / "all.csv", progress=False)
    read = ResultTable.read(tmp_path / "all.csv")
    assert [row[:13] for row in together] == [row[:13] for row in read] == [row[:13] for table in each for row in table]


@pytest.mark.slow
@pytest.mark.extra
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("warm_workers")
def test_twenty_runs_from_processes_and_from_a_cluster_that_loses_a_worker(tmp_path, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr(scale, "LAYERS", 4)
    monkeypatch.setattr(scale, "STEPS", 10)
    for i in range(20):
        scale.make_run(tmp_path / f"run{i:02}", i)
    found = [scale.measure(tmp_path, 20, way) for way in ("jobs", "dask")]
    assert found[0]["rows"] == 20
    assert [each["frame"] for each in found] == [found[0]["frame"]] * 2
    assert [each["tables"] for each in found] == [found[0]["tables"]] * 2
