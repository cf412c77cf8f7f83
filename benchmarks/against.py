"""Another checkout against this one, row by row: `python -m benchmarks.against OLD [module ...]`.

The benchmarks of this checkout run on both packages, each in a process of its own; the calls alternate, one thread, CPU
time, and a row is the median of the rounds' ratios, old over new. A row below `SPEED` is measured once more with three
times the rounds. Memory is measured in a second pair of processes, whose heap gives its pages back: the growth of the
resident memory from before the first call to the peak of two. What earlier rows have left to the heap counts for
nothing there, so a row that needs more is measured once more in a pair that has run no other. Exit code 1 where a row
is below `SPEED` or needs more than `MEMORY` times the memory.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks import _harness

SPEED, MEMORY = 0.85, 1.1
SLACK = 1.0
"""MiB by which two measurements of one memory peak differ."""
SAMPLE_MS, ROW_MS, ROUNDS = 30.0, 6_000.0, (3, 9)
"""Least time of one sample, most of a row in all, and least and most rounds."""
HERE = Path(__file__).parents[1]
# The package comes from one checkout, the benchmarks from the other.
START = """
import sys
sys.path.insert(0, sys.argv[1])
import infoplane
assert infoplane.__file__.startswith(sys.argv[1]), infoplane.__file__
sys.path[0] = sys.argv[2]
from benchmarks.against import worker
worker(sys.argv[3], sys.argv[4] == "quick", sys.argv[5])
"""


def resident(name: str) -> float:
    """VmRSS or VmHWM of this process in MiB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


def growth_mib(call: Callable[[], Any]) -> float:
    """From before the first of two calls to the peak of both."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
    before = resident("VmRSS")
    call()
    call()
    return resident("VmHWM") - before


def answer(case: _harness.Case, command: str, count: int) -> float:
    """CPU milliseconds of one call, of `count` in a row, or MiB."""
    assert case.candidate is not None
    if command == "memory":
        return growth_mib(case.candidate)
    return _harness.cpu_ms(lambda: [case.candidate() for _ in range(count)]) / count


def worker(module: str, quick: bool, only: str) -> None:
    """Say the name of each row with `only` in it, then answer to lines of [command, count] until the next is due."""
    # Whatever else prints must not come between.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    torch.set_num_threads(1)

    def say(**message: Any) -> None:
        print(json.dumps(message), file=out, flush=True)

    seen = set()
    try:
        for case in importlib.import_module(f"benchmarks.{module}").cases(quick=quick):
            # Rows of one case differ in their opponents only.
            name = f"{case.id} {case.case}"
            if case.candidate is None or case.case in seen or only not in name:
                continue
            seen.add(case.case)
            say(name=name)
            for command, count in map(json.loads, sys.stdin):
                if command == "next":
                    break
                say(value=answer(case, command, count))
    except Exception as error:  # the parent names the row that is missing
        say(error=f"{type(error).__name__}: {error}")
    say(name="")


class Worker:
    """A process with one checkout's package that stands at a row."""

    def __init__(self, checkout: Path, module: str, quick: bool, only: str, memory: bool) -> None:
        kept = _harness.ONE_THREAD if memory else _harness.ENVIRONMENT
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "PYTHONPATH"))}
        words = [str(checkout), str(HERE), module, "quick" if quick else "all", only]
        self.process = subprocess.Popen(
            [sys.executable, "-c", START, *words], env=environment | kept | extra_path(), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def ask(self, command: str, count: int = 1) -> float:
        self.send(command, count)
        return float(self.read("value"))

    def send(self, command: str, count: int = 1) -> None:
        assert self.process.stdin is not None
        print(json.dumps([command, count]), file=self.process.stdin, flush=True)

    def read(self, what: str) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        message = json.loads(line) if line else {"error": f"ended with {self.process.wait()}"}
        if "error" in message:
            raise RuntimeError(message["error"])
        return message[what]

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def extra_path() -> dict[str, str]:
    """PYTHONPATH less the two checkouts, which the worker puts in front itself."""
    kept = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p and Path(p).resolve() != HERE]
    return {"PYTHONPATH": os.pathsep.join(kept)} if kept else {}


def pairs(old: Path, module: str, quick: bool, only: str, memory: bool = False) -> Iterator[tuple[str, Worker, Worker]]:
    """Each row's name with both workers standing at it."""
    with contextlib.ExitStack() as stack:
        both = []
        for checkout in (old, HERE):
            both.append(Worker(checkout, module, quick, only, memory))
            stack.callback(both[-1].close)
        while True:
            names = [one.read("name") for one in both]
            if names[0] != names[1]:
                raise RuntimeError(f"the workers stand at different rows: {names}")
            if not names[0]:
                return
            yield names[0], both[0], both[1]
            for one in both:
                one.send("next")


def speed(old: Worker, new: Worker) -> tuple[float, float, list[float]]:
    """Median milliseconds of both, and the ratios of the rounds."""
    once = max(old.ask("time"), new.ask("time"))
    count = max(1, round(SAMPLE_MS / max(once, 1e-3)))
    rounds = int(min(max(ROW_MS / (2 * max(once, SAMPLE_MS)), ROUNDS[0]), ROUNDS[1]))
    times = alternate(old, new, count, rounds)
    if statistics.median(a / b for a, b in times) < SPEED:
        times = alternate(old, new, count, 3 * rounds)
    return statistics.median(a for a, _ in times), statistics.median(b for _, b in times), [a / b for a, b in times]


def alternate(old: Worker, new: Worker, count: int, rounds: int) -> list[tuple[float, float]]:
    """The one that goes first changes with each round."""
    out = []
    for i in range(rounds):
        first = (old if i % 2 else new).ask("time", count)
        second = (new if i % 2 else old).ask("time", count)
        out.append((first, second) if i % 2 else (second, first))
    return out


def compare(old: Path, module: str, quick: bool, only: str) -> Iterator[bool]:
    """Print a line for each row; yield whether it holds."""
    for name, a, b in pairs(old, module, quick, only):
        before, after, ratios = speed(a, b)
        ratio = statistics.median(ratios)
        held = ratio >= SPEED
        figures = f"{before:10.2f} {after:10.2f} ms   x{ratio:<6.3f} {min(ratios):.2f}-{max(ratios):.2f}"
        print(f"{name:<50} {figures}{'' if held else '  SLOWER'}", flush=True)
        yield held
    for name, a, b in pairs(old, module, quick, only, memory=True):
        before, after = a.ask("memory"), b.ask("memory")
        if after > MEMORY * before + SLACK:
            before, after = alone(old, module, quick, name)
        held = after <= MEMORY * before + SLACK
        print(f"{name:<50} {before:10.1f} {after:10.1f} MiB{'' if held else '  MORE'}", flush=True)
        yield held


def alone(old: Path, module: str, quick: bool, name: str) -> tuple[float, float]:
    """MiB of both in processes that run this row only."""
    for found, a, b in pairs(old, module, quick, name, memory=True):
        if found == name:
            return a.ask("memory"), b.ask("memory")
    raise RuntimeError(f"no row is named {name}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.against", description=__doc__)
    parser.add_argument("old", type=Path, help="a checkout of the older package")
    parser.add_argument("module", nargs="*", help=f"out of {', '.join(_harness.modules())}; all by default")
    parser.add_argument("--quick", action="store_true", help="the small cases only")
    parser.add_argument("--only", default="", metavar="TEXT", help="rows with this in their name")
    options = parser.parse_intermixed_args()
    old = options.old.resolve()
    if not (old / "infoplane").is_dir():
        parser.error(f"{options.old} has no folder infoplane; give the top of a checkout")
    held = True
    for module in options.module or _harness.modules():
        try:
            held &= all(list(compare(old, module, options.quick, options.only)))
        except RuntimeError as error:
            print(f"{module}: the rest was not measured: {error}", flush=True)
            held = False
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
