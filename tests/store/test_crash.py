"""Kills and power cuts, replayed at every system call: nothing acknowledged is lost, nothing torn is seen."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from disk_log import DiskLog, killed, power_cut
from store_cases import check, check_clean, layer, shards, snapshot, writer

from infoplane.core import StoreError, files
from infoplane.store import layout, open_run

# Wide enough for several pages and several write calls in a shard.
WIDE = (layer("fc1", (300,)), layer("fc2", (4,), "bfloat16", 1))
GROUPS = [[0, 1], [2], [3, 4, 5]]


def log_of(root: Path, *, resume: bool = True) -> DiskLog:
    """A run in three shards, closed, and continued from step 4 on in a second session."""
    log = DiskLog(root)
    with log.watching():
        with writer(root) as out:
            for group in GROUPS:
                for step in group:
                    out(snapshot(step, WIDE))
                assert out.flush()
                log.ack(group)
        if resume:
            with writer(root, resume=True) as out:
                out(snapshot(6, WIDE))
                assert out.flush()
                log.ack([6])
    return log


def look(path: Path, acked: list[int]) -> None:
    """What a reader sees must be whole, must hold all that was acknowledged, and be without complaint."""
    if not (path / "run.json").exists():
        assert not acked
        return
    store = open_run(path)
    assert store.problems == ()
    assert set(acked) <= set(store.steps())
    check(store, store.steps(), WIDE)
    assert store.verify() == []


@pytest.fixture(scope="module")
def log(tmp_path_factory) -> DiskLog:
    return log_of(tmp_path_factory.mktemp("log") / "run")


def crash_points(log: DiskLog) -> list[tuple[int, float]]:
    out = []
    for at in range(1, len(log.ops) + 1):
        out += [(at, f) for f in ((0.3, 0.99, 1.0) if log.ops[at - 1].kind == "write" else (1.0,))]
    return out


def test_every_prefix_of_the_writes_is_a_good_run(log, tmp_path, capsys):
    points = crash_points(log)
    for number, (at, fraction) in enumerate(points):
        disk, acked = killed(log.ops, at, fraction)
        look(disk.build(tmp_path / str(number)), acked)
    with capsys.disabled():
        print(f"\n  kill points {len(points)}: acknowledged lost 0, torn 0, complaints 0")


def test_recording_goes_on_after_every_prefix(log, tmp_path):
    """The lock of the dead process is taken over, its leftovers go, and the manifest is whole again."""
    for number, (at, fraction) in enumerate(crash_points(log)[::3]):
        disk, acked = killed(log.ops, at, fraction)
        path = disk.build(tmp_path / str(number))
        lock = path / layout.lock_file(0)
        if lock.exists():
            lock.write_bytes(b'{"host":"%s","pid":%d}' % (os.uname().nodename.encode(), dead_process()))
            with pytest.warns(RuntimeWarning, match="took over the lock of process"):
                out = writer(path, resume=True)
        else:
            out = writer(path, resume=True)
        with out:
            assert (out.last_step or 0) >= max(acked, default=0)
            out(snapshot(9, WIDE))
        look(path, [*acked, 9])
        assert not [p for p in path.rglob(".*.tmp") if p.is_file()]
        listed = (path / "manifest.jsonl").read_bytes().count(b"\n")
        assert listed == len(shards(path))


def dead_process() -> int:
    import subprocess

    child = subprocess.Popen(["true"])
    child.wait()
    return child.pid


@pytest.mark.parametrize("count", [400, pytest.param(10_000, marks=[pytest.mark.full, pytest.mark.timeout(1800)])])
def test_a_power_cut_loses_nothing_acknowledged(log, tmp_path, capsys, count):
    seen = 0
    points = np.random.default_rng(0).integers(1, len(log.ops) + 1, count)
    for number, at in enumerate(points.tolist()):
        disk, acked = power_cut(log.ops, at, number)
        path = disk.build(tmp_path / str(number))
        if acked or (path / "run.json").exists():
            seen += 1
            store = open_run(path)
            assert set(acked) <= set(store.steps()), (number, at)
            check(store, store.steps(), WIDE)
        shutil.rmtree(path)
    with capsys.disabled():
        print(f"\n  power cuts {count} ({seen} with a run): acknowledged lost 0")


# The tests above must notice when what they guard is taken away.


def replay_fails(tmp_path: Path, cut: bool) -> int:
    """Crash points at which the promises are broken."""
    log = log_of(tmp_path / "run", resume=False)
    broken = 0
    for number, (at, fraction) in enumerate(crash_points(log)):
        disk, acked = power_cut(log.ops, at, number) if cut else killed(log.ops, at, fraction)
        path = disk.build(tmp_path / f"{number}")
        try:
            look(path, acked)
        except (AssertionError, StoreError):
            broken += 1
    return broken


def test_a_writer_without_rename_is_caught(tmp_path, monkeypatch):
    def in_place(directory, name, pieces, *, replace=True, sync=True):
        fd = os.open(directory / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        data = [bytes(piece) for piece in pieces]
        for piece in files._gather(map(memoryview, data)):
            files.write_all(fd, piece)
        os.fsync(fd)
        os.close(fd)
        files.sync_directory(directory)
        return len(b"".join(data)), files.digest(*data).hex()

    assert replay_fails(tmp_path / "whole", cut=False) == 0
    monkeypatch.setattr(files, "publish", in_place)
    assert replay_fails(tmp_path / "mutant", cut=False) > 0


@pytest.mark.parametrize("forgets", ["file", "directory"])
def test_a_writer_without_sync_is_caught(tmp_path, monkeypatch, forgets):
    if forgets == "directory":
        monkeypatch.setattr(files, "sync_directory", lambda directory: None)
    else:
        source = Path(files.__file__).read_text()
        synced = "            if sync:\n                os.fsync(fd)\n        finally:"
        assert source.count(synced) == 1
        changed = source.replace(synced, "        finally:")
        namespace = {"__name__": "infoplane.core.files"}
        exec(compile(changed, "_files_without_sync", "exec"), namespace)
        monkeypatch.setattr(files, "publish", namespace["publish"])
    assert replay_fails(tmp_path / "mutant", cut=True) > 0


def test_the_replay_of_power_cuts_passes_the_real_writer(tmp_path):
    assert replay_fails(tmp_path / "whole", cut=True) == 0


def test_a_reader_meanwhile_sees_only_whole_snapshots(tmp_path):
    """Reading at every point of a recording, in the same directory."""
    real, seen = os.replace, []

    def replace(a, b):
        if (tmp_path / "run/run.json").exists():
            store = open_run(tmp_path / "run")
            assert store.problems == ()
            check(store, store.steps())
            seen.append(len(store.steps()))
        real(a, b)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with writer(tmp_path / "run") as out:
            for step in range(5):
                out(snapshot(step))
                assert out.flush()
    assert sorted(set(seen)) == [0, 1, 2, 3, 4, 5]
    check_clean(tmp_path / "run", list(range(5)))
