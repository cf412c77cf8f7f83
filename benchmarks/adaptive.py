"""A1 and A2: entropy-based adaptive binning against the authors' algorithm in numpy, own code: no package has it."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch

from benchmarks._data import labels, tanh_network
from benchmarks._harness import Case, copy_ms
from infoplane.estimators import assume_finite
from infoplane.estimators.adaptive import Adaptive

BINS = 30
LOW = -1.000001
TOLERANCE = 1e-9


def chelombiev(t: np.ndarray, members: list[np.ndarray]) -> tuple[float, float]:
    """I(X;T) and I(T;Y) in bits of one snapshot (N, U): edges from np.unique, codes by np.digitize."""
    u = np.unique(t)
    u = u[u != np.float32(LOW)]
    picked = [u[k * len(u) // BINS] for k in range(BINS)]
    edges = np.array([LOW, *picked, u[-1]], dtype=np.float32)
    binned = edges[np.digitize(t.reshape(-1), edges) - 1].reshape(t.shape)

    def entropy(part: np.ndarray) -> float:
        rows = np.ascontiguousarray(part).view(np.dtype((np.void, part.dtype.itemsize * part.shape[1])))
        counts = np.unique(rows, return_counts=True)[1]
        p = counts / counts.sum()
        return float(-np.sum(p * np.log(p)))

    h = entropy(binned)
    conditional = sum(m.mean() * entropy(binned[m]) for m in members)
    return h / math.log(2), (h - conditional) / math.log(2)


def case(
    id: str, samples: int, units: int, classes: int, snapshots: int, dtype: torch.dtype, must: float, aim: float,
    rounds: int,
) -> Case:  # fmt: skip
    (t,) = tanh_network(samples, (units,), snapshots)
    t = t.to(dtype)
    y = labels(samples, classes)
    members = [(y == k).numpy() for k in range(classes)]
    wide = [snapshot.float().numpy() for snapshot in t]
    estimator = Adaptive(n_bins=BINS, low=LOW, null_draws=0)
    some = range(0, snapshots, max(1, snapshots // 8))

    def check() -> None:
        found = estimator.estimate(t, y)
        for s in (0, snapshots - 1):
            for name, want in zip(("I(X;T)", "I(T;Y)"), chelombiev(wide[s], members), strict=True):
                gap = abs(want - float(found[name].value[s]))
                if gap > TOLERANCE:
                    raise AssertionError(f"{name} differs from the reference by {gap} bits at snapshot {s}")

    def candidate() -> None:
        with assume_finite():
            estimator.estimate(t, y)

    def reference() -> None:
        for s in some:
            chelombiev(wide[s], members)

    name = f"{samples}x{units} x {snapshots} {dtype}".replace("torch.", "")
    return Case(
        id=id, case=name, against="np.unique, np.digitize (own code)", must=must, aim=aim, candidate=candidate,
        reference=reference, check=check, rounds=rounds, scale=snapshots / len(some),
        limit=lambda ms: (ms / copy_ms(t.view(torch.uint8).numpy()), "copies"),
    )  # fmt: skip


def cases(quick: bool = False) -> Iterator[Case]:
    rounds = 3 if quick else 5
    yield case("A1", 4096, 10, 2, 20 if quick else 100, torch.float32, 3.0, 8.0, rounds)
    if quick:
        return
    yield case("A1", 4096, 10, 2, 100, torch.float16, 3.0, 8.0, rounds)
    yield case("A2", 10_000, 1024, 10, 2, torch.float32, 5.0, 9.0, 3)
    yield case("A2", 10_000, 1024, 10, 2, torch.float16, 14.0, 30.0, 3)
