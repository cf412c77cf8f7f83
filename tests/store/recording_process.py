"""Forks a recording child for every directory named on standard input; the parent's imports are paid once.

The child says "go" and its pid, then the last step of each acknowledged shard, until it is killed. With
`flushes` off it says each step as soon as it is handed over and leaves the sealing to the writer.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Self

from store_cases import layer, probe, snapshot

from infoplane.store import StoreWriter

LAYERS = (layer("fc1", (8,)), layer("fc2", (4,), "bfloat16", 1))


class Recorder:
    """The process that forks recording children."""

    def __init__(self) -> None:
        here = Path(__file__).parent
        path = os.pathsep.join([str(here), os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(here / "recording_process.py")],
            env={**os.environ, "PYTHONPATH": path}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()

    def start(
        self, path: Path, *, resume: bool, samples: int, background: bool, flushes: bool = True
    ) -> tuple[int, int | None]:
        """(pid of the child, last step of the run so far)."""
        self.process.stdin.write(f"{path} {int(resume)} {samples} {int(background)} {int(flushes)}\n")
        self.process.stdin.flush()
        word, pid, last = self.process.stdout.readline().split()
        assert word == "go"
        return int(pid), None if last == "None" else int(last)

    def said(self) -> int:
        """The next step that the child reports."""
        return int(self.process.stdout.readline())

    def end(self) -> tuple[list[int], int]:
        """What a child that was sent a signal had still said, and its exit status."""
        said = []
        while not (line := self.process.stdout.readline()).startswith("dead"):
            said.append(int(line))
        return said, int(line.split()[1])


def say(step: int) -> None:
    """In one system call, so that no signal comes between a number and its line end."""
    os.write(1, f"{step}\n".encode())


def record(path: Path, resume: bool, samples: int, background: bool, flushes: bool) -> None:
    writer = StoreWriter(
        path, probe=probe(samples), settings={}, resume=resume, background=background, seal_bytes=1 << 18
    )
    print(f"go {os.getpid()} {writer.last_step}", flush=True)
    step = (writer.last_step or 0) + 1
    while True:
        for _ in range(3):
            writer(snapshot(step, LAYERS, samples))
            if not flushes:
                say(step)
            step += 1
        if flushes and writer.flush():
            say(step - 1)


def main() -> None:
    for line in sys.stdin:
        path, resume, samples, background, flushes = line.split()
        if os.fork() == 0:
            record(Path(path), resume == "1", int(samples), background == "1", flushes == "1")
        _, status = os.wait()
        print(f"dead {os.waitstatus_to_exitcode(status)}", flush=True)


if __name__ == "__main__":
    main()
