"""SIGKILL at a random moment of a real recording, with real syncs, again and again on the same run."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from recording_process import LAYERS
from store_cases import bits, check, values

from infoplane.store import open_run


class Recorder:
    """The process that forks recording children."""

    def __init__(self) -> None:
        here = Path(__file__).parent
        path = os.pathsep.join([str(here), os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(here / "recording_process.py")],
            env={**os.environ, "PYTHONPATH": path}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def start(self, path: Path, *, resume: bool, samples: int, background: bool) -> tuple[int, int | None]:
        self.process.stdin.write(f"{path} {int(resume)} {samples} {int(background)}\n")
        self.process.stdin.flush()
        word, pid, last = self.process.stdout.readline().split()
        assert word == "go"
        return int(pid), None if last == "None" else int(last)

    def kill(self, pid: int, after: float) -> list[int]:
        """The steps acknowledged before the kill, of which there is at least one."""
        acked = [int(self.process.stdout.readline())]
        time.sleep(after)
        os.kill(pid, signal.SIGKILL)
        while (line := self.process.stdout.readline().strip()) != "dead":
            acked.append(int(line))
        return acked


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    out = Recorder()
    yield out
    out.process.stdin.close()
    out.process.wait(60)
    out.process.stdout.close()


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
        acked = before | set(range(first, max(recorder.kill(pid, choose.random() * 0.1)) + 1))
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
def test_killed_recordings_lose_nothing_acknowledged(recorder, tmp_path, capsys, samples):
    kills = 30
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
