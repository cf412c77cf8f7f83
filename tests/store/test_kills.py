"""SIGKILL at a random moment of a real recording, with real syncs, again and again on the same run."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from recording_process import LAYERS, Recorder
from store_cases import bits, check, values

from infoplane.store import open_run


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    with Recorder() as out:
        yield out


def kill(recorder: Recorder, pid: int, after: float) -> list[int]:
    """The steps acknowledged before the kill, of which there is at least one."""
    acked = [recorder.said()]
    time.sleep(after)
    os.kill(pid, signal.SIGKILL)
    said, status = recorder.end()
    assert status == -signal.SIGKILL
    return acked + said


def kill_often(recorder: Recorder, directory: Path, kills: int, samples: int) -> tuple[int, int]:
    """(steps seen beyond the acknowledged, temporary files left); asserts that no step was lost or torn."""
    choose = random.Random(samples)
    beyond = leftovers = 0
    for number in range(kills):
        path = directory / f"{samples}-{number // 10}"
        resume = number % 10 > 0
        background = choose.randrange(2) == 1
        before = set(open_run(path).steps()) if resume else set()
        pid, last = recorder.start(path, resume=resume, samples=samples, background=background)
        assert last == max(before, default=None)
        first = (last or 0) + 1
        acked = before | set(range(first, max(kill(recorder, pid, choose.random() * 0.1)) + 1))
        leftovers += sum(1 for p in path.rglob(".*.tmp") if p.is_file())
        store = open_run(path)
        assert store.problems == ()
        assert acked <= set(store.steps()), "an acknowledged step is lost"
        newest = [step for step in store.steps() if step >= first]
        for spec in LAYERS:
            got = store.read(spec.key, newest)
            assert [bits(a) for a in got] == [bits(values(spec, step, samples)) for step in newest]
        beyond += len(set(store.steps()) - acked)
        if number % 10 == 9:
            check(store, store.steps(), LAYERS)
            assert store.verify() == []
    return beyond, leftovers


@pytest.mark.parametrize("samples", [64, 2000])
@pytest.mark.parametrize("kills", [5, pytest.param(35, marks=pytest.mark.slow)])
def test_killed_recordings_lose_nothing_acknowledged(recorder, tmp_path, capsys, samples, kills):
    beyond, leftovers = kill_often(recorder, tmp_path, kills, samples)
    with capsys.disabled():
        print(f"\n  kills {kills} ({samples} samples): acknowledged lost 0, torn 0; {beyond} steps were written "
              f"but not yet acknowledged, {leftovers} temporary files left")  # fmt: skip


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("samples", [64, 2000])
def test_a_thousand_kills(recorder, tmp_path, capsys, samples):
    beyond, leftovers = kill_often(recorder, tmp_path, 500, samples)
    with capsys.disabled():
        print(f"\n  kills 500 ({samples} samples): acknowledged lost 0, torn 0; {beyond} unacknowledged steps seen, "
              f"{leftovers} temporary files left")  # fmt: skip
