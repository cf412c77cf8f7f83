"""Every test starts with the signals of a program started by hand, and ends without a process of its own.

A pytest plugin without torch or infoplane, which conftest.py loads.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator, Set
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

PROC = Path("/proc")
GRACE_SECONDS = 2.0  # for what is on its way out when the test ends
SHARED = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")  # one of a whole session, ends with it
PR_SET_CHILD_SUBREAPER = 36


def pytest_configure() -> None:
    """As from a terminal: under nohup, or in the background of a script, ignored signals would reach every child."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGTERM) is signal.SIG_IGN:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.platform == "linux":  # the child of a child that has ended becomes ours, so that it is found and ended, too
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def pytest_unconfigure() -> None:
    end_new_processes(set(), grace=0)


def has_children() -> bool:
    """At the price of one system call."""
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return True
    return False


def present() -> set[int]:
    """Every process of the machine; none where this one has no child, so that whatever comes later is new."""
    if not has_children() or not PROC.exists():
        return set()
    return {int(name) for name in os.listdir(PROC) if name.isdecimal()}  # noqa: PTH208 - a path each would cost more


def state_and_parent(pid: int) -> tuple[str, int]:
    with contextlib.suppress(OSError):
        state, parent, *_ = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        return state, int(parent)
    return "X", 0


def descendants(but: Set[int] = frozenset()) -> dict[int, str]:
    """The state letter of every process that comes from this one, but those; none where there is no /proc."""
    look, found = functools.cache(state_and_parent), {}
    for pid in present() - but:  # a stranger of before does not become ours, so that few files are read
        above = look(pid)[1]
        while above not in (0, os.getpid()):
            above = look(above)[1]
        if above:
            found[pid] = look(pid)[0]
    return found


def command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return ""


def left_behind(before: set[int]) -> dict[int, str]:
    """Process id and command of what runs now and did not before."""
    new = {pid: command(pid) for pid, state in descendants(before).items() if state not in "ZX"}
    return {pid: words for pid, words in new.items() if not any(name in words for name in SHARED)}


def end_new_processes(before: set[int], grace: float = GRACE_SECONDS) -> dict[int, str]:
    """Kill what is left behind and say what that was, after a moment for what ends by itself."""
    until = time.monotonic() + grace
    try:
        while (found := left_behind(before)) and time.monotonic() < until:
            time.sleep(0.02)
    finally:  # Ctrl-C, or the time limit of the test, may come meanwhile
        _kill_new(before)
    return found


def _kill_new(before: set[int]) -> None:
    while left := left_behind(before):  # again for the children that a killed one hands over
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    for pid, state in descendants(before).items():
        if state == "Z":
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def fork_server() -> ForkServerContext:
    """Processes from a server that has imported torch once in the session: most of a child's time was its imports."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch.distributed", "infoplane.analysis", "infoplane.estimators", "infoplane.cli"])
    return context


@pytest.fixture
def warm_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers of `analyze` forked by that server; one test starts them as users have them, from nothing."""
    context = fork_server()
    monkeypatch.setattr(multiprocessing, "get_context", lambda method=None: context)


@pytest.fixture(autouse=True)
def _no_process_left_behind() -> Iterator[None]:
    before = present()
    yield
    found = end_new_processes(before)
    if found:
        pytest.fail(f"left running, and killed now: {found}", pytrace=False)
