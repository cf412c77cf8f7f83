"""Forks a recording child for every directory named on standard input; the parent's imports are paid once.

The child says "go" and its pid, then the last step of each acknowledged shard, until it is killed.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from store_cases import layer, probe, snapshot

from infoplane.store import StoreWriter

LAYERS = (layer("fc1", (8,)), layer("fc2", (4,), "bfloat16", 1))


def record(path: Path, resume: bool, samples: int, background: bool) -> None:
    writer = StoreWriter(
        path, probe=probe(samples), settings={}, resume=resume, background=background, seal_bytes=1 << 18
    )
    print(f"go {os.getpid()} {writer.last_step}", flush=True)
    step = (writer.last_step or 0) + 1
    while True:
        for _ in range(3):
            writer(snapshot(step, LAYERS, samples))
            step += 1
        if writer.flush():
            print(step - 1, flush=True)


def main() -> None:
    for line in sys.stdin:
        path, resume, samples, background = line.split()
        if os.fork() == 0:
            record(Path(path), resume == "1", int(samples), background == "1")
        os.wait()
        print("dead", flush=True)


if __name__ == "__main__":
    main()
