"""What estimators and other packages say of the generated problems, kept in a file that a stopped run goes on from.

A line of the file is one estimator on one problem, as JSON: what it said in nats, flags, bound, CPU seconds. Truths,
errors and bars are computed from the problems when the lines are read, so they can change without an estimate.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import multiprocessing
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks._opponents import OPPONENTS
from benchmarks._problems import Problem, problem
from infoplane.core.records import Noise
from infoplane.core.units import BITS_PER_NAT
from infoplane.estimators import parse

Line = dict[str, Any]


class Task(NamedTuple):
    """One estimator on one problem."""

    seed: int
    family: str
    i: int
    spec: str


class Blocks:
    """One snapshot as a whole run; with noise in the network, each input was passed a second time."""

    def __init__(self, t: torch.Tensor, noise: Noise | None) -> None:
        self.t, self.noise, self.passes = t, noise, int(noise is not None)

    def __iter__(self) -> Iterator[torch.Tensor]:
        yield self.t


@functools.lru_cache(maxsize=2)
def made(seed: int, family: str, i: int) -> Problem:
    """A problem, kept for the next estimator."""
    return problem(seed, family, i)


def said(problem: Problem, spec: str) -> Iterator[Line]:
    """What an estimator of this package says in bits of information, as nats."""
    noise = None if problem.noise_std is None else Noise(std=problem.noise_std)
    estimator = parse(spec)
    t, y, ids = problem.t[None], problem.y, problem.x_ids
    if noise and ids is not None and hasattr(estimator, "uses_repeats"):
        t, y, ids = t.repeat(1, 2, 1), y.repeat(2), ids.repeat(2)
    if hasattr(estimator, "prepare"):
        estimator = estimator.prepare(Blocks(t, noise), y, problem.x)
    for quantity, q in estimator.estimate(t, y, x=problem.x, x_ids=ids).items():
        flags = sorted(flag for flag, up in q.flags.items() if bool(up.expand(1)[0]))
        if q.unit == "bit" and "null" not in quantity:
            nats = float(q.value[0]) / BITS_PER_NAT
            yield {"quantity": quantity, "value": nats, "bound": q.bound, "flags": flags}


def said_elsewhere(problem: Problem, package: str) -> Iterator[Line]:
    """What another package says; nothing where it refuses."""
    nats = OPPONENTS[package].nats(problem)
    if math.isfinite(nats):
        yield {"quantity": "I(T;Y)", "value": nats, "bound": "point", "flags": []}


def alone() -> None:
    """What a process does before its first estimate: one thread, and flags instead of warnings."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")


def estimate(task: Task) -> Line:
    asked = made(*task[:3])
    say = said_elsewhere if task.spec in OPPONENTS else said
    start = time.process_time()
    values = list(say(asked, task.spec))
    return {**task._asdict(), "seconds": round(time.process_time() - start, 3), "values": values}


def read(path: Path | None) -> dict[Task, Line]:
    """Lines that are whole; one that a stop tore is estimated again."""
    found: dict[Task, Line] = {}
    for text in path.read_text().splitlines() if path and path.exists() else ():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        found[Task(*(line[name] for name in Task._fields))] = line
    return found


def estimates(tasks: Sequence[Task], jobs: int, path: Path | None) -> dict[Task, Line]:
    """The lines of all tasks: read from `path` where they stand there, else estimated and written to it one by one.

    `jobs` 0 estimates in this process.
    """
    lines = read(path)
    todo = [task for task in tasks if task not in lines]
    if path and path.exists() and not path.read_bytes().endswith(b"\n"):
        path.write_text(path.read_text() + "\n")  # a torn line ends here, so that the next one stands alone
    with contextlib.ExitStack() as stack:
        pool = jobs and stack.enter_context(multiprocessing.get_context("spawn").Pool(jobs, alone))
        for task, line in zip(todo, pool.imap(estimate, todo) if pool else map(estimate, todo), strict=True):
            lines[task] = line
            if path:
                with path.open("a") as file:
                    file.write(json.dumps(line) + "\n")
    return {task: lines[task] for task in tasks}
