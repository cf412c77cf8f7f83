"""B1 to B7: counting against what its users run today."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator

import joblib
import numpy as np
import torch

from benchmarks._data import labels, tanh_network
from benchmarks._harness import Row, compare, copy_ms, wall_ms
from infoplane.estimators import assume_finite
from infoplane.estimators._counting import counts as counting
from infoplane.estimators.binning import Binning

WIDTH = 0.07
TOLERANCE = 1e-9


def entropy_by_void_view(codes: np.ndarray) -> float:
    """Entropy in nats of the rows: np.unique on their bytes, as the ibsgd notebooks of Saxe et al. do."""
    rows = np.ascontiguousarray(codes).view(np.dtype((np.void, codes.dtype.itemsize * codes.shape[1])))
    counts = np.unique(rows, return_counts=True)[1]
    p = counts / counts.sum()
    return float(-np.sum(p * np.log(p)))


def saxe(t: np.ndarray, members: list[np.ndarray]) -> tuple[float, float]:
    """I(X;T) and I(T;Y) in bits of one snapshot (N, U): floor(t / width), class by class, each binned again."""

    def entropy(part: np.ndarray) -> float:
        return entropy_by_void_view(np.floor(part / WIDTH).astype("int"))

    h = entropy(t)
    conditional = sum(m.mean() * entropy(t[m]) for m in members)
    return h / math.log(2), (h - conditional) / math.log(2)


def by_rows(t: np.ndarray, members: list[np.ndarray]) -> tuple[float, float]:
    """The same with np.unique(axis=0), as the code of Lorenzen et al. does."""

    def entropy(codes: np.ndarray) -> float:
        counts = np.unique(codes, axis=0, return_counts=True)[1]
        p = counts / counts.sum()
        return float(-np.sum(p * np.log2(p)))

    codes = np.floor(t / WIDTH).astype("int")
    h = entropy(codes)
    return h, h - sum(m.mean() * entropy(codes[m]) for m in members)


def tishby(t: np.ndarray, y: np.ndarray, x_ids: np.ndarray) -> tuple[float, float]:
    """I(X;T) and I(T;Y) in bits, one joblib task with a np.unique for every distinct input and label, as IDNNs does."""
    edges = np.linspace(-1, 1, 30).astype(np.float32)
    left = edges[np.digitize(t.reshape(-1), edges) - 1].reshape(t.shape)

    def entropy(part: np.ndarray, weight: float) -> float:
        rows = np.ascontiguousarray(part).view(np.dtype((np.void, part.dtype.itemsize * part.shape[1])))
        counts = np.unique(rows, return_inverse=True, return_counts=True)[2]
        p = np.asarray(counts / float(sum(counts)))
        return float(weight * -np.sum(p * np.log2(p)))

    def conditional(given: np.ndarray) -> float:
        _, inverse, counts = np.unique(given, return_inverse=True, return_counts=True)
        p = counts / counts.sum()
        tasks = (joblib.delayed(entropy)(left[inverse == i, :], p[i]) for i in range(len(p)))
        return float(np.sum(np.array(joblib.Parallel(n_jobs=os.cpu_count())(tasks))))

    h = entropy(left, 1.0)
    return h - conditional(x_ids), h - conditional(y)


def check(estimator: Binning, t: torch.Tensor, y: torch.Tensor, reference, *args) -> None:
    """Both give the same numbers on the first and the last snapshot, or the benchmark stops."""
    found = estimator.estimate(t, y)
    for s in (0, len(t) - 1):
        i_xt, i_ty = reference(t[s].numpy(), *args)
        gap = max(abs(i_xt - float(found["I(X;T)"].value[s])), abs(i_ty - float(found["I(T;Y)"].value[s])))
        if gap > TOLERANCE:
            raise AssertionError(f"binning and its reference differ by {gap} bits at snapshot {s}")


def against_saxe(
    id: str, samples: int, units: int, classes: int, must: float | str, aim: float | str, *,
    snapshots: int, rounds: int, early: bool = True, checked: bool = False, case: str = "",
) -> Row:  # fmt: skip
    (t,) = tanh_network(samples, (units,), snapshots)
    y = labels(samples, classes)
    members = [(y == k).numpy() for k in range(classes)]
    estimator = Binning(width=WIDTH, null_draws=0)
    with every_unit_read(not early), assume_finite() if checked else contextlib.nullcontext():
        check(estimator, t, y, saxe, members)
        some = range(0, snapshots, max(1, snapshots // 20))

        def reference() -> None:
            for s in some:
                saxe(t[s].numpy(), members)

        timing = compare(lambda: estimator.estimate(t, y), reference, rounds=rounds, scale=snapshots / len(some))
    return Row(
        id=id, case=case or f"{samples}x{units} x {snapshots}", against="ibsgd", must=must, aim=aim,
        limit=timing.candidate_ms / copy_ms(t.numpy()), limit_of="copies", **vars(timing),
    )  # fmt: skip


@contextlib.contextmanager
def every_unit_read(on: bool) -> Iterator[None]:
    """Switch the early exit for wide layers off, to time the path that reads everything."""
    kept = counting.EARLY_UNITS
    if on:
        counting.EARLY_UNITS = 2**62
    try:
        yield
    finally:
        counting.EARLY_UNITS = kept


def plane(snapshots: int, rounds: int) -> Row:
    """B1: the six layers of the 12-10-7-5-4-3-2 network."""
    layers = tanh_network(4096, (10, 7, 5, 4, 3, 2), snapshots)
    y = labels(4096, 2)
    members = [(y == k).numpy() for k in range(2)]
    estimator = Binning(width=WIDTH, null_draws=0)
    for t in layers:
        check(estimator, t, y, saxe, members)
    some = range(0, snapshots, max(1, snapshots // 10))

    def reference() -> None:
        for s in some:
            for t in layers:
                saxe(t[s].numpy(), members)

    def candidate() -> None:
        for t in layers:
            estimator.estimate(t, y)

    timing = compare(candidate, reference, rounds=rounds, scale=snapshots / len(some))
    limit = timing.candidate_ms / sum(copy_ms(t.numpy()) for t in layers)
    return Row(
        id="B1", case=f"plane 4096x(10,7,5,4,3,2) x {snapshots}", against="ibsgd", must=18.0, aim=30.0,
        limit=limit, limit_of="copies", **vars(timing),
    )  # fmt: skip


def one_snapshot(rounds: int) -> Row:
    """B3: one snapshot against the loop over every distinct input, in wall time: that one uses all cores."""
    (t,) = tanh_network(4096, (10,), 1)
    y, ids = labels(4096, 2), torch.arange(4096)
    estimator = Binning(n_bins=29, range=(-1.0, 1.0), top="open", null_draws=0)
    check(estimator, t, y, tishby, y.numpy(), ids.numpy())
    timing = compare(
        lambda: estimator.estimate(t, y),
        lambda: tishby(t[0].numpy(), y.numpy(), ids.numpy()),
        rounds=rounds,
        clock=wall_ms,
    )
    return Row(id="B3", case="4096x10, one snapshot", against="IDNNs", must=300.0, aim=1000.0, **vars(timing))


def against_rows(snapshots: int, rounds: int) -> Row:
    """B7: against np.unique(axis=0)."""
    (t,) = tanh_network(4096, (10,), snapshots)
    y = labels(4096, 2)
    members = [(y == k).numpy() for k in range(2)]
    estimator = Binning(width=WIDTH, null_draws=0)
    check(estimator, t, y, by_rows, members)
    some = range(0, snapshots, max(1, snapshots // 5))

    def reference() -> None:
        for s in some:
            by_rows(t[s].numpy(), members)

    timing = compare(lambda: estimator.estimate(t, y), reference, rounds=rounds, scale=snapshots / len(some))
    return Row(id="B7", case=f"4096x10 x {snapshots}", against="np.unique(axis=0)", must=40.0, aim=60.0, **vars(timing))


def rows(quick: bool = False) -> Iterator[Row]:
    rounds = 3 if quick else 7
    yield plane(20 if quick else 100, rounds)
    yield against_saxe("B2", 4096, 10, 2, 18.0, 30.0, snapshots=100 if quick else 1000, rounds=rounds)
    yield one_snapshot(rounds)
    yield against_rows(20 if quick else 100, rounds)
    if quick:
        return
    yield against_saxe(
        "B4", 10_000, 1024, 10, 6.0, 15.0, snapshots=2, rounds=5, early=False,
        case="10000x1024 x 2, every unit read",
    )  # fmt: skip
    # `analyze` has looked for non-finite values when it calls an estimator; a direct call reads all for that.
    yield against_saxe(
        "B5", 10_000, 1024, 10, 50.0, 150.0, snapshots=4, rounds=5, checked=True,
        case="10000x1024 x 4, early exit",
    )  # fmt: skip
    yield against_saxe(
        "B5", 10_000, 1024, 10, "-", "-", snapshots=4, rounds=5,
        case="10000x1024 x 4, early exit, checks for NaN",
    )  # fmt: skip
    yield against_saxe(
        "B6", 50_000, 128, 10, 10.0, 25.0, snapshots=2, rounds=5, early=False,
        case="50000x128 x 2, two hashes",
    )  # fmt: skip
