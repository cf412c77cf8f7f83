"""Paired, interleaved timing and the rows it ends in."""

from __future__ import annotations

import pkgutil
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
# A heap that keeps its pages: else page faults on fresh arrays flatter every ratio.
ENVIRONMENT = ONE_THREAD | {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}

# They have commands of their own: errors, the code's size, one network as a whole, another checkout, many runs.
COMMANDS = ("against", "branches", "mist", "resnet", "scale", "silent", "size")


def modules() -> list[str]:
    """The modules with rows."""
    found = (m.name for m in pkgutil.iter_modules([str(Path(__file__).parent)]))
    return sorted(name for name in found if not name.startswith("_") and name not in COMMANDS)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table.

    `ratio` is reference time over candidate time (larger is better), with the smallest and largest of the
    rounds. `limit` is candidate time over the time of a measured machine limit named by `limit_of`. Where a
    figure is no ratio, `value` holds it in words and `met` says whether it reaches `must`.
    """

    id: str
    case: str
    against: str
    must: float | str
    aim: float | str
    candidate_ms: float = float("nan")
    reference_ms: float = float("nan")
    ratio: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")
    limit: float = float("nan")
    limit_of: str = ""
    value: str = ""
    met: bool | None = None

    @property
    def ok(self) -> bool:
        if self.met is not None:
            return self.met
        return isinstance(self.must, str) or self.ratio >= self.must


@dataclass(frozen=True)
class Timing:
    candidate_ms: float
    reference_ms: float
    ratio: float
    low: float
    high: float


def nothing() -> None:
    pass


def cpu_ms(call: Callable[[], Any]) -> float:
    """CPU milliseconds of this process for one call."""
    start = time.process_time()
    call()
    return 1e3 * (time.process_time() - start)


def wall_ms(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - start)


def compare(
    candidate: Callable[[], Any],
    reference: Callable[[], Any],
    *,
    rounds: int = 5,
    scale: float = 1.0,
    clock: Callable[[Callable[[], Any]], float] = cpu_ms,
) -> Timing:
    """Time both in turn. `scale` multiplies the reference's time where it does a part of the work."""
    torch.set_num_threads(1)
    candidate()
    pairs = []
    for _ in range(rounds):
        pairs.append((clock(candidate), scale * clock(reference)))
    ratios = [r / c for c, r in pairs]
    return Timing(
        candidate_ms=statistics.median(c for c, _ in pairs),
        reference_ms=statistics.median(r for _, r in pairs),
        ratio=statistics.median(ratios),
        low=min(ratios),
        high=max(ratios),
    )


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row before it is measured.

    `check` raises where candidate and reference disagree. `reference_ms` of the row is `scale` times what `reference`
    takes, where it does a part of the work. `limit`, where there is one, is called with the candidate's milliseconds
    and returns the last two fields of the row about limits. `measure` replaces all of this for a row that is no ratio
    of two calls. `benchmarks.against` runs `candidate` alone; without one the row says nothing of speed.
    """

    id: str
    case: str
    against: str
    must: float | str = "-"
    aim: float | str = "-"
    candidate: Callable[[], Any] | None = None
    reference: Callable[[], Any] = nothing
    check: Callable[[], None] = nothing
    rounds: int = 5
    scale: float = 1.0
    clock: Callable[[Callable[[], Any]], float] = cpu_ms
    limit: Callable[[float], tuple[float, str]] | None = None
    measure: Callable[[Case], Iterable[Row]] | None = None

    def rows(self) -> Iterable[Row]:
        if self.measure is not None:
            return self.measure(self)
        assert self.candidate is not None
        self.check()
        timing = compare(self.candidate, self.reference, rounds=self.rounds, scale=self.scale, clock=self.clock)
        limit, limit_of = self.limit(timing.candidate_ms) if self.limit else (float("nan"), "")
        return [self.row(**vars(timing), limit=limit, limit_of=limit_of)]

    def row(self, **measured: Any) -> Row:
        named = {name: getattr(self, name) for name in ("id", "case", "against", "must", "aim")}
        return Row(**(named | measured))


def package(name: str) -> str:
    """Name and version of an opponent, as the table shows it."""
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return f"{name} (not installed)"


def holder(name: str) -> ModuleType:
    """The imported module of infoplane that holds `name`; in older checkouts it may be another one."""
    return next(m for key, m in sorted(sys.modules.items()) if key.startswith("infoplane.") and name in vars(m))


def median_ms(call: Callable[[], Any], rounds: int = 5) -> float:
    """Median CPU milliseconds of `rounds` calls after one to warm up."""
    torch.set_num_threads(1)
    call()
    return statistics.median(cpu_ms(call) for _ in range(rounds))


def copy_ms(array: np.ndarray) -> float:
    """CPU milliseconds to copy `array` once to memory that is there already: the bandwidth limit."""
    target = np.empty_like(array)
    return median_ms(lambda: np.copyto(target, array))


def peak_mib(call: Callable[[], Any]) -> float:
    """Largest growth of numpy's and Python's allocations during `call`; torch's own are not seen."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


def table(rows: Sequence[Row]) -> str:
    """The rows as text."""
    head = ("id", "case", "against", "ms", "reference ms", "ratio", "range", "must", "aim", "limit", "")
    lines = [head]
    for r in rows:
        ratio = r.value or f"x{r.ratio:.3g}"
        spread = "" if r.value or np.isnan(r.low) else f"{r.low:.3g}-{r.high:.3g}"
        limit = "" if np.isnan(r.limit) else f"{r.limit:.3g} {r.limit_of}"
        must, aim = (m if isinstance(m, str) else f"x{m:g}" for m in (r.must, r.aim))
        times = ("" if np.isnan(ms) else f"{ms:.4g}" for ms in (r.candidate_ms, r.reference_ms))
        lines.append((r.id, r.case, r.against, *times, ratio, spread, must, aim, limit, "ok" if r.ok else "BELOW"))
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)
