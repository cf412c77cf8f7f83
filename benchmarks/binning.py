"""B1 to B8: counting against what its users run today.

The first three opponents are own code, written from what the authors' notebooks do around `np.unique` and joblib: no
package has it. The last is infomeasure's discrete entropy, on the codes that are ready made.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator

import joblib
import numpy as np
from torch import Tensor

from benchmarks._data import labels, tanh_network
from benchmarks._harness import Case, copy_ms, holder, package, wall_ms
from infoplane.estimators import assume_finite
from infoplane.estimators.binning import Binning

WIDTH = 0.07
TOLERANCE = 1e-9
SAXE = Binning(width=WIDTH, null_draws=0)


Bits = tuple[float, float]
"""I(X;T) and I(T;Y)."""


def entropy_by_void_view(codes: np.ndarray) -> float:
    """Entropy in nats of the rows: np.unique on their bytes, as the ibsgd notebooks of Saxe et al. do."""
    rows = np.ascontiguousarray(codes).view(np.dtype((np.void, codes.dtype.itemsize * codes.shape[1])))
    counts = np.unique(rows, return_counts=True)[1]
    p = counts / counts.sum()
    return float(-np.sum(p * np.log(p)))


def saxe(t: np.ndarray, members: list[np.ndarray]) -> Bits:
    """I(X;T) and I(T;Y) in bits of one snapshot (N, U): floor(t / width), class by class, each binned again."""

    def entropy(part: np.ndarray) -> float:
        return entropy_by_void_view(np.floor(part / WIDTH).astype("int"))

    h = entropy(t)
    conditional = sum(m.mean() * entropy(t[m]) for m in members)
    return h / math.log(2), (h - conditional) / math.log(2)


def by_rows(t: np.ndarray, members: list[np.ndarray]) -> Bits:
    """The same with np.unique(axis=0), as the code of Lorenzen et al. does."""

    def entropy(codes: np.ndarray) -> float:
        counts = np.unique(codes, axis=0, return_counts=True)[1]
        p = counts / counts.sum()
        return float(-np.sum(p * np.log2(p)))

    codes = np.floor(t / WIDTH).astype("int")
    h = entropy(codes)
    return h, h - sum(m.mean() * entropy(codes[m]) for m in members)


def tishby(t: np.ndarray, y: np.ndarray, x_ids: np.ndarray) -> Bits:
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


def by_infomeasure(t: np.ndarray, y: np.ndarray) -> Bits:
    """From the entropies of the codes, alone and with the label as one more column."""
    import infomeasure

    def entropy(codes: np.ndarray) -> float:
        return float(infomeasure.entropy(codes, approach="discrete", base=2))

    codes = np.floor(t / WIDTH).astype("int")
    h = entropy(codes)
    return h, h + entropy(y) - entropy(np.column_stack([codes, y]))


def compared(estimator: Binning, t: Tensor, y: Tensor, reference: Callable[[np.ndarray], Bits]) -> None:
    """Both give the same numbers on the first and the last snapshot, or the benchmark stops."""
    found = estimator.estimate(t, y)
    for s in (0, len(t) - 1):
        i_xt, i_ty = reference(t[s].numpy())
        gap = max(abs(i_xt - float(found["I(X;T)"].value[s])), abs(i_ty - float(found["I(T;Y)"].value[s])))
        if gap > TOLERANCE:
            raise AssertionError(f"binning and its reference differ by {gap} bits at snapshot {s}")


def members_of(y: Tensor) -> list[np.ndarray]:
    return [(y == k).numpy() for k in range(int(y.max()) + 1)]


def paired(
    id: str, layers: list[Tensor], y: Tensor, reference: Callable[[np.ndarray], Bits], *, case: str,
    against: str, must: float | str = "-", aim: float | str = "-", rounds: int = 7, every: int = 1,
    clock: Callable | None = None, estimator: Binning = SAXE,
) -> Case:  # fmt: skip
    """All snapshots of every layer in one call for each layer; the reference does one snapshot in `every`."""
    some = range(0, len(layers[0]), every)

    def candidate() -> None:
        for t in layers:
            estimator.estimate(t, y)

    def by_snapshots() -> None:
        for s in some:
            for t in layers:
                reference(t[s].numpy())

    def limit(ms: float) -> tuple[float, str]:
        return ms / sum(copy_ms(t.numpy()) for t in layers), "copies"

    def check() -> None:
        for t in layers:
            compared(estimator, t, y, reference)

    timed = {"clock": clock} if clock else {}
    return Case(
        id=id, case=case, against=against, must=must, aim=aim, candidate=candidate, reference=by_snapshots,
        check=check, limit=limit, rounds=rounds, scale=len(layers[0]) / len(some), **timed,
    )  # fmt: skip


@contextlib.contextmanager
def every_unit_read() -> Iterator[None]:
    """Switch the early exit for wide layers off, to time the path that reads everything."""
    counting = holder("EARLY_UNITS")
    kept, counting.EARLY_UNITS = counting.EARLY_UNITS, 2**62
    try:
        yield
    finally:
        counting.EARLY_UNITS = kept


def narrow(quick: bool) -> Iterator[Case]:
    rounds, snapshots = (3, 20) if quick else (7, 100)
    y = labels(4096, 2)
    members = members_of(y)
    void, axis0, own = "void view, np.unique (own code)", f"np.unique(axis=0), {package('numpy')}", {"rounds": rounds}
    plane, (many,) = tanh_network(4096, (10, 7, 5, 4, 3, 2), snapshots), tanh_network(4096, (10,), snapshots)

    def by_void(t: np.ndarray) -> Bits:
        return saxe(t, members)

    case = f"plane 4096x(10,7,5,4,3,2) x {snapshots}"
    yield paired(
        "B1", plane, y, by_void, case=case, against=void, must=12.0, aim=30.0, every=max(1, snapshots // 10), **own
    )
    count = 100 if quick else 1000
    (t,) = tanh_network(4096, (10,), count)
    yield paired(
        "B2", [t], y, by_void, case=f"4096x10 x {count}", against=void, must=12.0, aim=30.0, every=count // 20, **own
    )
    ids, (one,) = np.arange(4096), tanh_network(4096, (10,), 1)
    yield paired(
        "B3", [one], y, lambda t: tishby(t, y.numpy(), ids), case="4096x10, one snapshot, wall time",
        against=f"loop over inputs, {package('joblib')} (own code)", must=300.0, aim=1000.0, clock=wall_ms,
        estimator=Binning(n_bins=29, range=(-1.0, 1.0), top="open", null_draws=0), **own,
    )  # fmt: skip
    case, some = f"4096x10 x {snapshots}", max(1, snapshots // 5)
    yield paired(
        "B7", [many], y, lambda t: by_rows(t, members), case=case, against=axis0, must=40.0, aim=60.0, every=some, **own
    )
    yield paired(
        "B8", [many], y, lambda t: by_infomeasure(t, y.numpy()), case=case, against=package("infomeasure"), every=some,
        **own,
    )  # fmt: skip


def wide() -> Iterator[Case]:
    y, void = labels(10_000, 10), "void view, np.unique (own code)"
    members = members_of(y)

    def case(id: str, snapshots: int, name: str, must: float | str, aim: float | str) -> Case:
        (t,) = tanh_network(10_000, (1024,), snapshots)
        name = f"10000x1024 x {snapshots}, {name}"
        return paired(id, [t], y, lambda a: saxe(a, members), case=name, against=void, must=must, aim=aim, rounds=5)

    with every_unit_read():
        yield case("B4", 2, "every unit read", 6.0, 15.0)
    # `analyze` has looked for non-finite values when it calls an estimator; a direct call reads all for that.
    with assume_finite():
        yield case("B5", 4, "early exit", 50.0, 150.0)
    yield case("B5", 4, "early exit, checks for NaN", "-", "-")
    (t,), y6 = tanh_network(50_000, (128,), 2), labels(50_000, 10)
    six = members_of(y6)
    with every_unit_read():
        yield paired(
            "B6", [t], y6, lambda a: saxe(a, six), case="50000x128 x 2, two hashes", against=void, must=10.0, aim=25.0,
            rounds=5,
        )  # fmt: skip


def cases(quick: bool = False) -> Iterator[Case]:
    yield from narrow(quick)
    if not quick:
        yield from wide()
