"""Whatever a test does, no process of it outlives it; an ignored Ctrl-C of the caller reaches no child."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from processes import descendants, end_new_processes, left_behind

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")

SLEEP = "import time; time.sleep(600)"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEP
ORPHAN = f"import subprocess, sys; subprocess.Popen([sys.executable, '-S', '-c', {SLEEP!r}], start_new_session=True)"


def lives(pid: int) -> bool:
    return descendants().get(pid, "X") not in "ZX"


def test_what_is_left_behind_is_found_and_killed():
    """A child, one that no polite signal stops, and the child of a child that has ended, in a session of its own."""
    before = set(descendants())
    kept = subprocess.Popen([sys.executable, "-S", "-c", SLEEP])
    before.add(kept.pid)
    children = [subprocess.Popen([sys.executable, "-S", "-c", code]) for code in (SLEEP, STUBBORN)]
    subprocess.run([sys.executable, "-S", "-c", ORPHAN], check=True)
    found = end_new_processes(before, grace=0.1)
    assert len(found) == 3
    assert {child.pid for child in children} < set(found)
    assert not any(map(lives, found))
    for child in children:
        child.wait()
    assert lives(kept.pid)
    kept.kill()
    kept.wait()
    assert left_behind(before) == {}


def test_what_ends_by_itself_is_no_fault():
    before = set(descendants())
    child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(0.2)"])
    assert end_new_processes(before, grace=20) == {}
    child.wait()


CASES = f"""
import os, signal, subprocess, sys, time

children = []

def start(code, name):
    children.append(child := subprocess.Popen([sys.executable, "-S", "-c", code]))
    open(name, "w").write(str(child.pid))
    return child

def test_fails():
    start({SLEEP!r}, "failed")
    assert False

def test_passes():
    start({SLEEP!r}, "passed")

def test_is_timed_out():
    start({SLEEP!r}, "late").wait()

def test_ctrl_c_reaches_a_child():
    child = subprocess.Popen([sys.executable, "-S", "-c", "print('go', flush=True); " + {SLEEP!r}],
                             stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    child.stdout.readline()
    child.send_signal(signal.SIGINT)
    assert child.wait(20) == -signal.SIGINT
    child.stdout.close()
"""


@pytest.mark.slow
def test_a_failing_test_leaves_nothing_also_where_signals_are_ignored(tmp_path):
    """A whole session of pytest with three tests that leave a child, started as by nohup."""
    (tmp_path / "test_cases.py").write_text(CASES)
    options = ["-p", "processes", "-p", "no:cacheprovider", "--timeout=4", "-q", "-rN", "-c", os.devnull, "--rootdir=."]
    done = subprocess.run(
        ["sh", "-c", "trap '' INT TERM; exec \"$@\"", "sh", sys.executable, "-m", "pytest", *options, "test_cases.py"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert "2 failed, 2 passed, 3 errors" in done.stdout, done.stdout
    assert done.stdout.count("left running, and killed now: {") == 3
    for name in ("failed", "passed", "late"):
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / name).read_text()), signal.SIGTERM)
