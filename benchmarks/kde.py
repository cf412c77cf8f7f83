"""K1 to K6: pairwise-distance bounds against the N x N formulas of kde.py (Saxe et al.), and their accuracy.

The opponent is own code, in torch and in numpy: no package has these bounds.
"""

from __future__ import annotations

import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from scipy.special import logsumexp
from torch import Tensor

from benchmarks._data import labels, tanh_network
from benchmarks._harness import Case, Row, compare, holder, median_ms
from infoplane.estimators.kde import KDE

Bounds = tuple[float, float, float, float]
VARIANCE = 0.1


def plain_torch(t: Tensor, variance: float) -> float:
    """Upper bound of the entropy in nats less that of the noise, as the kde.py of Saxe et al. computes it."""
    square = (t**2).sum(1, keepdim=True)
    distances = square + square.T - 2 * t @ t.T
    return float(-(torch.logsumexp(-(distances / (2 * variance)), dim=1) - math.log(len(t))).mean())


def plain_numpy(t: np.ndarray, variance: float) -> float:
    square = (t**2).sum(1, keepdims=True)
    distances = square + square.T - 2 * t @ t.T
    return float(-(logsumexp(-(distances / (2 * variance)), axis=1) - math.log(len(t))).mean())


def by_calls(bound: Callable[..., float], t: object, members: list[object]) -> Bounds:
    """Upper and lower I(X;T) and I(T;Y) in bits: one call per bound and subset of the rows."""
    out: list[float] = []
    for variance in (VARIANCE, 4 * VARIANCE):
        whole = bound(t, variance)
        parts = sum(len(part) / len(t) * bound(part, variance) for part in members)  # type: ignore[arg-type]
        out += [whole / math.log(2), (whole - parts) / math.log(2)]
    return out[0], out[1], out[2], out[3]


def ours(estimator: KDE, t: Tensor, y: Tensor) -> Bounds:
    found = estimator.estimate(t[None], y)
    keys = ("I(X;T)", "I(T;Y)", "I(X;T) lower", "I(T;Y) lower")
    a, b, c, d = (float(found[key].value) for key in keys)
    return a, b, c, d


def limit_ms(samples: int, units: int, dtype: torch.dtype) -> float:
    """The product and the exponential of every pair once, in blocks that stay in cache."""
    v = torch.randn(512, units + 2, dtype=dtype)
    out, w = torch.empty(512, 512, dtype=dtype), -torch.rand(512, 512, dtype=dtype)
    once = median_ms(lambda: torch.mm(v, v.T, out=out), 15) + median_ms(lambda: torch.exp2(w, out=out), 15)
    return once * samples**2 / 2 / 512**2


def against_plain(
    id: str, samples: int, units: int, classes: int, dtype: str, reference: str, must: float, aim: float, rounds: int
) -> Case:
    """One snapshot, both bounds of I(X;T) and I(T;Y), without the null, which the references do not have."""
    kind = getattr(torch, dtype)
    t = tanh_network(samples, (units,), 1)[0][0].to(kind)
    y = labels(samples, classes)
    estimator = KDE(variance=VARIANCE, null_draws=0, dtype=dtype)  # type: ignore[arg-type]
    parts = [t[y == k] for k in range(classes)]

    def plain() -> Bounds:
        if reference == "numpy":
            return by_calls(plain_numpy, t.numpy(), [part.numpy() for part in parts])
        return by_calls(plain_torch, t, list(parts))

    def check() -> None:
        gap = max(abs(a - b) for a, b in zip(ours(estimator, t, y), plain(), strict=True))
        if gap > (1e-3 if dtype == "float32" else 1e-9):
            raise AssertionError(f"{id}: bounds differ by {gap} bit from the plain ones")

    return Case(
        id=id, case=f"{samples}x{units}, {classes} classes, {dtype}", against=f"{reference} N x N (own code)",
        must=must, aim=aim, candidate=lambda: ours(estimator, t, y), reference=plain, check=check, rounds=rounds,
        limit=lambda ms: (ms / limit_ms(samples, units, kind), "product + exp"),
    )  # fmt: skip


def null_cost(classes: int, rounds: int) -> Case:
    """Twenty shuffles against none."""
    t, y = tanh_network(4096, (10,), 1)[0], labels(4096, classes)
    without, with_null = (KDE(variance=VARIANCE, null_draws=n, dtype="float32") for n in (0, 20))

    def measure(case: Case) -> Iterator[Row]:
        timing = compare(lambda: with_null.estimate(t, y), lambda: without.estimate(t, y), rounds=rounds)
        times = {"candidate_ms": timing.candidate_ms, "reference_ms": timing.reference_ms}
        yield case.row(value=f"{1 / timing.ratio:.2g} times", met=True, **times)

    name = f"4096x10, {classes} classes, 20 label shuffles"
    return Case(id="K6", case=name, against="none", candidate=lambda: with_null.estimate(t, y), measure=measure)


GROWTH = """
import resource, torch
torch.set_num_threads(1)
from infoplane.estimators.kde import KDE
estimator = KDE(variance=0.1, dtype={dtype!r})
estimator.estimate(torch.randn(1, 600, {units}), torch.arange(600) % 2)
t, y = torch.randn(1, {samples}, {units}).tanh_(), torch.arange({samples}) % 2
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
estimator.estimate(t, y)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def growth_mib(samples: int, units: int, dtype: str) -> float:
    """Growth of the peak resident memory of a fresh process, null included."""
    code = GROWTH.format(samples=samples, units=units, dtype=dtype)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout) / 1024


def many_rows() -> Case:
    """K4: a number of rows whose N x N matrix would take 10 GB."""
    samples = 50_000
    t, y = tanh_network(samples, (10,), 1)[0], labels(samples, 2)
    estimator = KDE(variance=VARIANCE, null_draws=0, dtype="float32")

    def measure(case: Case) -> Iterator[Row]:
        start = time.process_time()
        estimator.estimate(t, y)
        ms = 1e3 * (time.process_time() - start)
        pair, limit = 1e6 * ms / samples**2, ms / limit_ms(samples, 10, torch.float32)
        yield case.row(candidate_ms=ms, limit=limit, limit_of="product + exp", value=f"{pair:.2g} ns", met=pair <= 2)

    return Case(
        id="K4", case="50000x10, 2 classes, float32", against="blocked limit", must="2 ns per pair", aim="1 ns",
        candidate=lambda: estimator.estimate(t, y), measure=measure,
    )  # fmt: skip


def memory(id: str, samples: int, units: int, most: int) -> Case:
    def measure(case: Case) -> Iterator[Row]:
        mib = growth_mib(samples, units, "float32")
        yield case.row(value=f"{mib:.0f} MiB", met=mib < most)

    name = f"kde, {samples}x{units}, memory"
    return Case(id=id, case=name, against="rows", must=f"{most} MiB", aim="20 MiB", measure=measure)


def accuracy(case: Case) -> Iterator[Row]:
    """K5: the precision that is chosen, against distances taken directly in float64, in nats."""
    pairwise = holder("kernel_sums")
    g = torch.Generator().manual_seed(0)
    worst = 0.0
    for kind, units, variance in (
        ("spread", 10, 0.1), ("saturated", 1024, 0.1), ("saturated", 1024, 1e-3), ("saturated", 4096, 1e-3),
        ("relu", 128, 1e-3), ("relu", 1024, 1e-3), ("relu", 4096, 1e-3), ("near", 1024, 1e-3),
    ):  # fmt: skip
        centre, noise = (torch.randn(n, units, generator=g) for n in (16, 1024))
        centre = centre.repeat(64, 1)
        t = {
            "spread": torch.tanh(noise),
            "saturated": torch.tanh(5 * centre + 0.02 * noise),
            "relu": torch.relu(centre + 0.02 * noise) + 10,
            "near": 1 + 1e-3 * noise,
        }[kind]
        found = pairwise.kernel_sums(pairwise.CentredRows(t, math.sqrt(variance), wide=True), [512, 512])
        square = torch.cdist(t.double(), t.double(), compute_mode="donot_use_mm_for_euclid_dist").square()
        same = (torch.arange(1024) // 512)[:, None] == (torch.arange(1024) // 512)[None]
        narrow, wide = torch.exp(-square / (2 * variance)), torch.exp(-square / (8 * variance))
        for part, kernel in (
            (found.narrow, narrow), (found.wide, wide),
            (found.narrow_within, narrow * same), (found.wide_within, wide * same),
        ):  # fmt: skip
            worst = max(worst, abs(float(part.log().mean() - kernel.sum(1).log().mean())))
    yield case.row(value=f"{worst:.1g} nats", met=worst < 1e-3)


def cases(quick: bool = False) -> Iterator[Case]:
    rounds = 3 if quick else 7
    yield against_plain("K1", 4096, 10, 2, "float32", "torch", 25.0, 45.0, rounds)
    yield against_plain("K2", 4096, 10, 2, "float64", "numpy", 25.0, 60.0, rounds)
    yield null_cost(2, rounds)
    yield null_cost(10, rounds)
    yield Case(
        id="K5", case="accuracy, 8 layers of 1024 rows", against="float64, direct", must="1e-3 nats", aim="1e-4",
        measure=accuracy,
    )  # fmt: skip
    if quick:
        return
    yield against_plain("K3", 10_000, 1024, 10, "float32", "torch", 5.0, 10.0, 5)
    yield against_plain("K3", 10_000, 1024, 10, "float64", "torch", 2.5, 5.0, 5)
    yield many_rows()
    yield memory("K4", 50_000, 10, 100)
    yield memory("M1", 10_000, 1024, 64)
