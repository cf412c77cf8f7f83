"""What a reader might do to its process when a file gets the better of it."""

from __future__ import annotations

import os
import signal
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


def fail(path: str) -> None:
    raise ZeroDivisionError


def write(path: str) -> None:
    (Path(path) / "left").write_bytes(b"x" * 100)


def echo(path: str) -> list[object]:
    return [path, sys.flags.safe_path]


def parent(path: str) -> int:
    return os.getppid()


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


def read_table(path: str) -> list[str]:
    table = ResultTable.read(path)
    table.plane()
    return []
