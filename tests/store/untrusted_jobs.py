"""What a reader might do to its process when a file gets the better of it."""

from __future__ import annotations

import json  # noqa: F401 (for the command line of the tests)
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

from infoplane.core import StoreError
from infoplane.results import ResultTable
from infoplane.store import open_run, summarize


def abort(path: str) -> None:
    os.abort()


def fault(path: str) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def allocate(path: str) -> int:
    kept = []
    for _ in range(4096):
        kept.append(bytes(1 << 20))
    return len(kept)


def sleep(path: str) -> None:
    time.sleep(100)


def close_and_sleep(path: str) -> None:
    os.close(1)
    time.sleep(100)


def spin(path: str) -> None:
    while True:
        pass


def talk(path: str) -> None:
    block = b"x" * (1 << 20)
    while True:
        os.write(1, block)


def babble(path: str) -> None:
    os.write(1, b"[" * 100_000)
    os._exit(0)


def silent(path: str) -> None:
    os._exit(0)


def hoard(path: str) -> None:
    """More memory than a limit that only the parent knows."""
    most = resource.getrlimit(resource.RLIMIT_AS)[1]
    assert most == resource.RLIM_INFINITY
    kept = [bytes(range(256)) * (1 << 12) for _ in range(900)]
    time.sleep(100 + len(kept))


def start_another(path: str) -> None:
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    Path(path + "~").write_text(str(other.pid))
    Path(path + "~").replace(path)
    time.sleep(100)


def write(path: str) -> None:
    (Path(path) / "left").write_bytes(b"x" * 100)


def echo(path: str) -> list[object]:
    return [path, sys.flags.safe_path]


def read_run(path: str) -> list[str]:
    """Everything that a reader can ask for; what is wrong."""
    store = open_run(path)
    str(summarize(store))
    for layer in store.layers:
        for step in store.steps(layer.key):
            try:
                store.read(layer.key, [step])
            except StoreError:
                assert store.problems
    return [str(problem) for problem in [*store.problems, *store.verify()]]


def verify(path: str) -> list[str]:
    return [str(problem) for problem in open_run(path).verify()]


def read_table(path: str) -> list[str]:
    table = ResultTable.read(path)
    table.plane()
    return []
