"""SIGTERM at a random moment of a real recording: what was handed over is on the disk, or listed as dropped."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from recording_process import LAYERS, Recorder
from store_cases import bits, check_clean, snapshot, values, writer

from infoplane.store import _signals, open_run


def dropped_steps(store) -> set[int]:
    return {item["step"] for session in store.sessions for item in session["dropped"]}


def terminate_often(directory: Path, signals: int) -> tuple[int, int, float]:
    """(steps handed over, of which listed as dropped, longest time to the end in seconds)."""
    choose = random.Random(15)
    total = lost = 0
    slowest = 0.0
    with Recorder() as recorder:
        for number in range(signals):
            samples, path = choose.choice([64, 2000]), directory / str(number)
            flushes = choose.randrange(2) == 1
            background = choose.randrange(4) > 0
            pid, _ = recorder.start(path, resume=False, samples=samples, background=background, flushes=flushes)
            said = [recorder.said()]
            time.sleep(choose.random() * 0.3)
            began = time.monotonic()
            os.kill(pid, signal.SIGTERM)
            more, status = recorder.end()
            slowest = max(slowest, time.monotonic() - began)
            assert status == -signal.SIGTERM
            store = open_run(path)
            steps, gone = store.steps(), dropped_steps(store)
            assert set(range(1, max(said + more) + 1)) <= set(steps) | gone, "a step is unaccounted for"
            assert [p for p in store.problems if not set(p.steps) <= gone] == []
            for spec in LAYERS:
                got = store.read(spec.key, steps)
                assert [bits(a) for a in got] == [bits(values(spec, step, samples)) for step in steps]
            assert store.sessions[0]["closed"]
            assert not (path / "writer.r000.lock").exists()
            assert not [p for p in path.rglob(".*.tmp") if p.is_file()]
            total, lost = total + len(steps) + len(gone), lost + len(gone)
    return total, lost, slowest


def shown(capsys, signals: int, figures: tuple[int, int, float]) -> None:
    total, lost, slowest = figures
    with capsys.disabled():
        print(f"\n  SIGTERM {signals}/{signals}: {total} steps handed over, {lost} listed as dropped, unaccounted 0, "
              f"torn 0; slowest end {slowest:.2f} s")  # fmt: skip
    assert slowest < 10


@pytest.mark.parametrize("signals", [3, pytest.param(22, marks=pytest.mark.slow)])
def test_a_terminated_recording_accounts_for_every_step(tmp_path, capsys, signals):
    shown(capsys, signals, terminate_often(tmp_path, signals))


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_two_hundred_terminations(tmp_path, capsys):
    shown(capsys, 200, terminate_often(tmp_path, 200))


def run_child(code: str, *args: object) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    head = "import os, signal, sys, time, threading, store_cases as c\nfrom infoplane.core import files\n"
    head += "from infoplane.store import _signals\n"
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", head + code, *map(str, args)],
        env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


STUCK = """
real = files.publish
def publish(directory, name, pieces, **options):
    if name.endswith(".h5") and name != "probe.h5":
        time.sleep(100)
    return real(directory, name, pieces, **options)
files.publish = publish
_signals.CLOSE_SECONDS = 0.5
"""


@pytest.mark.parametrize(
    "then",
    ["time.sleep(50)", "out.flush()", "out.close()", "[out(c.snapshot(s)) for s in range(3, 50)]"],
)
def test_what_a_stuck_disk_does_not_take_is_listed(tmp_path, then):
    """Whatever the main thread waits for at that moment."""
    code = STUCK + (
        "out = c.writer(sys.argv[1], background=True, seal_bytes=1, queue_bytes=20_000)\n"
        "for step in range(3): out(c.snapshot(step))\n"
        f"threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()\n{then}\n"
    )
    began = time.monotonic()
    done = run_child(code, tmp_path / "run")
    assert (done.returncode, done.stderr) == (-signal.SIGTERM, "")
    assert time.monotonic() - began < 30
    store = open_run(tmp_path / "run")
    assert store.steps() == []
    assert dropped_steps(store) == set(range(4 if "range" in then else 3))
    assert {item["reason"] for item in store.sessions[0]["dropped"]} == {
        "TimeoutError: stopped by SIGTERM, and the disk did not take it within 0.5 s"
    }


def test_all_writers_are_closed_and_a_child_leaves_them_alone(tmp_path):
    code = (
        "outs = [c.writer(f'{sys.argv[1]}/{i}', background=i > 0) for i in range(3)]\n"
        "for out in outs: out(c.snapshot(0))\n"
        "child = os.fork()\n"
        "if child == 0: time.sleep(50)\n"
        "time.sleep(0.2)\n"
        "os.kill(child, signal.SIGTERM)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM\n"
        "for out in outs: out(c.snapshot(1))\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
        "time.sleep(50)\n"
    )
    done = run_child(code, tmp_path)
    assert (done.returncode, done.stderr) == (-signal.SIGTERM, "")
    for i in range(3):
        check_clean(tmp_path / str(i), [0, 1])


def test_the_signal_while_the_interpreter_ends(tmp_path):
    code = (
        "import atexit\n"
        "outs = [c.writer(f'{sys.argv[1]}/{i}', background=i > 0) for i in range(2)]\n"
        "for out in outs: out(c.snapshot(0))\n"
        "@atexit.register\n"
        "def end():\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(50)\n"
    )
    done = run_child(code, tmp_path)
    assert (done.returncode, done.stderr) == (-signal.SIGTERM, "")
    for i in range(2):
        check_clean(tmp_path / str(i), [0])


@pytest.mark.parametrize("own", [signal.SIG_IGN, lambda number, frame: None])
def test_a_handler_of_the_caller_is_left_alone(tmp_path, own):
    before = signal.signal(signal.SIGTERM, own)
    try:
        with writer(tmp_path / "run") as out:
            assert signal.getsignal(signal.SIGTERM) is own
            out(snapshot(0))
            signal.raise_signal(signal.SIGTERM)
            out(snapshot(1))
        assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)
    check_clean(tmp_path / "run", [0, 1])


def test_the_disposition_is_as_before_when_the_last_writer_closes(tmp_path):
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    first, second = writer(tmp_path / "a"), writer(tmp_path / "b")
    assert signal.getsignal(signal.SIGTERM) is _signals._handle
    first.close()
    assert signal.getsignal(signal.SIGTERM) is _signals._handle
    second.close()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_handler_set_while_recording_stays(tmp_path):
    def own(number, frame):
        raise AssertionError

    with writer(tmp_path / "run"):
        signal.signal(signal.SIGTERM, own)
    assert signal.signal(signal.SIGTERM, signal.SIG_DFL) is own


def test_a_writer_of_another_thread_leaves_the_signal_alone(tmp_path):
    seen = []

    def work():
        with writer(tmp_path / "run") as out:
            out(snapshot(0))
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.SIG_DFL]
    check_clean(tmp_path / "run", [0])
