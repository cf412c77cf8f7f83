"""What a reader might do to its process when a file gets the better of it; without the imports of a reader."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path


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
    kept = [bytes(range(256)) * (1 << 12) for _ in range(700)]
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
