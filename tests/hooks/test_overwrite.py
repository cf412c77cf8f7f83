"""A cell that runs again: a closed run is replaced, or the next one gets a number; nothing else is ever removed."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import infoplane
from infoplane.cli import main
from infoplane.core.errors import StoreError
from infoplane.core.files import PidLock
from infoplane.hooks import CollectionRecorder, Recorder, every
from infoplane.importers import from_arrays
from infoplane.store import open_run
from infoplane.store._records import load_sealed, seal_json

X = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
Y = torch.arange(12) % 2
ARRAYS = {0: {"fc": np.ones((12, 2), np.float32)}, 1: {"fc": np.zeros((12, 2), np.float32)}}


def recording(run, steps=2, **options):
    options = {"schedule": every(1), "quiet": True, "initial": False} | options
    with Recorder(nn.Sequential(nn.Linear(3, 2), nn.Tanh()), (X, Y), run, **options) as recorder:
        for step in range(steps):
            recorder.snapshot(step)
    return recorder


def tree(path):
    return {str(p.relative_to(path)): p.read_bytes() if p.is_file() else b"" for p in sorted(path.rglob("*"))}


def test_a_closed_run_is_replaced_with_its_results_and_nothing_else(tmp_path):
    run = tmp_path / "run"
    recording(run, steps=4)
    first = open_run(run).run_id
    infoplane.analyze(run, "binning", progress=False)
    (run / "plane.pdf").write_bytes(b"mine")
    (run / "figures").mkdir()
    with pytest.raises(StoreError, match=r"already holds a run .*overwrite=True to replace it"):
        recording(run)
    recording(run, steps=2, overwrite=True)
    store = open_run(run)
    assert store.run_id != first
    assert store.steps() == [0, 1]
    assert store.verify() == []
    assert not (run / "results.csv").exists()
    assert not (run / "results.json").exists()
    assert (run / "plane.pdf").read_bytes() == b"mine"
    assert (run / "figures").is_dir()
    assert set(infoplane.analyze(run, "binning", progress=False).run) == {store.run_id}


def test_without_a_run_there_one_is_made(tmp_path):
    recording(tmp_path / "a" / "b", overwrite=True)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "config.yaml").write_text("mine")
    recording(tmp_path / "c", overwrite=True)
    assert open_run(tmp_path / "c").steps() == [0, 1]
    assert (tmp_path / "c" / "config.yaml").read_text() == "mine"


def test_what_cannot_be_recorded_removes_nothing(tmp_path):
    recording(tmp_path / "run")
    before = tree(tmp_path)
    with pytest.raises(ValueError, match="no layer"):
        recording(tmp_path / "run", overwrite=True, layers="none")
    assert tree(tmp_path) == before


def not_a_run(run):
    (run / "run.json").write_text('{"name": "a web page"}')


def newer(run):
    text = (run / "run.json").read_bytes()
    (run / "run.json").write_bytes(text.replace(b'"format_version":1', b'"format_version":9'))


def linked(run):
    (run / "shards").rename(run.parent / "elsewhere")
    (run / "shards").symlink_to(run.parent / "elsewhere")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (not_a_run, "run.json"),
        (newer, "run.json"),
        (linked, "shards is a link, and overwrite=True removes nothing outside"),
        (lambda run: (run / "sessions" / "0001.json").write_text("{}"), "0001.json"),
        (lambda run: (run / "shards" / "notes.txt").write_text("mine"), "shards holds 'notes.txt', which is no shard"),
    ],
)
def test_other_folders_are_left_alone(tmp_path, change, message):
    recording(tmp_path / "run")
    change(tmp_path / "run")
    before = tree(tmp_path)
    with pytest.raises(StoreError, match=message):
        recording(tmp_path / "run", overwrite=True)
    assert tree(tmp_path) == before
    with pytest.raises(StoreError, match=message):
        from_arrays(tmp_path / "run", ARRAYS, Y.numpy(), overwrite=True)
    assert tree(tmp_path) == before


def test_a_run_that_is_being_written_is_left_alone(tmp_path):
    run = tmp_path / "run"
    with Recorder(nn.Linear(3, 2), (X, Y), run, quiet=True) as recorder:
        with pytest.raises(StoreError, match="still recorded into by a recorder of this process"):
            recording(run, overwrite=True)
        with pytest.raises(StoreError, match="is being written by another writer of this process"):
            from_arrays(run, ARRAYS, Y.numpy(), overwrite=True)
        recorder.snapshot(0)
    assert open_run(run).steps() == [0, 1]
    lock = PidLock(run / "results.csv.lock")
    with pytest.raises(StoreError, match=r"is being written \(results.csv.lock is held\); wait for it"):
        recording(run, overwrite=True)
    lock.release()
    recording(run, overwrite=True)


WRITES = """
import sys, time, torch
from infoplane.hooks import Recorder
r = Recorder(torch.nn.Linear(3, 2), (torch.randn(12, 3), torch.arange(12) % 2), sys.argv[1], quiet=True).start()
r.flush()
print("ready", flush=True)
time.sleep(100)
"""


def test_another_process_and_one_that_was_killed(tmp_path):
    run = tmp_path / "run"
    child = subprocess.Popen([sys.executable, "-c", WRITES, str(run)], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline() == "ready\n"
        with pytest.raises(StoreError, match=f"is being written by process {child.pid}"):
            recording(run, overwrite=True)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.communicate()
    with (
        pytest.warns(RuntimeWarning, match="took over the lock"),
        pytest.raises(StoreError, match=r"was not closed, so overwrite=True does not replace it; .*resume=True"),
    ):
        recording(run, overwrite=True)
    assert open_run(run).steps() == [0]


def test_a_run_that_was_killed_and_gone_on_with_counts_as_closed(tmp_path):
    recording(tmp_path / "run")
    path = tmp_path / "run" / "sessions" / "0001.json"
    path.write_bytes(seal_json(load_sealed(path.read_bytes()) | {"closed": False}))
    with pytest.raises(StoreError, match="was not closed"):
        recording(tmp_path / "run", overwrite=True)
    recording(tmp_path / "run", resume=True, initial=True)
    recording(tmp_path / "run", overwrite=True)


def test_imports_replace_runs(tmp_path):
    run = tmp_path / "run"
    recording(run)
    with pytest.raises(StoreError, match="replaces with overwrite=True"):
        from_arrays(run, ARRAYS, Y.numpy())
    assert from_arrays(run, ARRAYS, Y.numpy(), overwrite=True).settings["imported"] is True
    np.savez(tmp_path / "acts-0000.npz", fc=ARRAYS[0]["fc"], labels=Y.numpy())
    line = ["import", str(tmp_path / "acts-0000.npz"), "-o", str(run)]
    assert "overwrite" in CliRunner().invoke(main, line).output
    assert CliRunner().invoke(main, [*line, "--overwrite"]).exit_code == 0
    assert open_run(run).steps() == [0]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.txt").write_text("mine")
    with pytest.raises(StoreError, match=r"is not empty, it holds 'a.txt'"):
        from_arrays(tmp_path / "other", ARRAYS, Y.numpy(), overwrite=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"overwrite": True, "resume": True}, "leave it out beside resume"),
        ({"overwrite": True, "number": True}, "leave it out beside number"),
        ({"overwrite": True, "keep_activations": False, "sinks": [print]}, "beside keep_activations=False"),
        ({"number": True, "run": None}, "number counts the runs of a name; pass run='runs/digits'"),
    ],
)
def test_what_does_not_go_together(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        recording(**({"run": tmp_path / "run"} | options))
    assert list(tmp_path.iterdir()) == []


def test_numbered_runs(tmp_path, capsys):
    for name in ("digits-002", "digits-x", "digits-7", "digits", "other-009"):
        (tmp_path / name).mkdir()
    assert recording(tmp_path / "digits", number=True, quiet=False).run == tmp_path / "digits-003"
    assert f"recording into {tmp_path / 'digits-003'}" in capsys.readouterr().err
    second = recording(tmp_path / "digits", number=True)
    assert second.run == tmp_path / "digits-004"
    with pytest.raises(ValueError, match="no layer"):
        recording(tmp_path / "digits", number=True, layers="none")
    assert recording(tmp_path / "new" / "digits", number=True).run == tmp_path / "new" / "digits-001"
    again = recording(tmp_path / "digits", number=True, resume=True, initial=True)
    assert again.run == second.run
    assert again.layers == second.layers
    assert open_run(again.run).steps() == [0, 1, 2]
    assert recording(tmp_path / "fresh", number=True, resume=True).run == tmp_path / "fresh-001"


def test_collections_replace_every_run(tmp_path):
    models = [nn.Linear(3, 2) for _ in range(2)]
    state = torch.func.stack_module_state(models)

    def record(**options):
        given = {"state": state, "quiet": True, "initial": True, **options}
        with CollectionRecorder(nn.Linear(3, 2), (X, Y), str(tmp_path / "seed-{member}"), **given):
            pass
        return [open_run(tmp_path / f"seed-{i}").run_id for i in range(2)]

    first = record()
    assert not set(first) & set(record(overwrite=True))
    with pytest.raises(TypeError, match="takes no 'number'"):
        record(number=True)
