"""Paired, interleaved timing and the rows it ends in."""

from __future__ import annotations

import statistics
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


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
