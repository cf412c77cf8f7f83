"""N1 to N5: neighbours from blocked products against a tree, KSG against NPEET, classes and targets of any width.

N4 and N5 are against the fastest of what can do the case: scikit-learn and ennemi (one unit), npeet-plus and
infomeasure (targets, largest norm), and vectorised queries of scikit-learn's trees, which is own code: no package has
Ross's estimate for several units. The flags of `knn` are switched off, as none of these has any.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from scipy.spatial import cKDTree
from scipy.special import digamma
from sklearn.feature_selection import mutual_info_classif, mutual_info_regression
from sklearn.neighbors import BallTree, KDTree

from benchmarks._harness import ENVIRONMENT, Case, Row, compare, cpu_ms, holder, package
from infoplane.estimators._protocol import values_only
from infoplane.estimators.knn import KNN

K = 3


def layer(samples: int, units: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A tanh layer (samples, units) and its 12 normal inputs, both float64 with variance 1 in every unit."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, 12, generator=g, dtype=torch.float64)
    t = torch.tanh(x @ torch.randn(12, units, generator=g, dtype=torch.float64) / 12**0.5)
    return tuple((v - v.mean(0)) / v.std(0, correction=0) for v in (t, x))  # type: ignore[return-value]


def npeet(x: np.ndarray, y: np.ndarray) -> float:
    """KSG 1 in bits as NPEET computes it, less its jitter: trees in the max norm, one for each space."""

    def tree(points: np.ndarray) -> BallTree | KDTree:
        return (BallTree if points.shape[1] >= 20 else KDTree)(points, metric="chebyshev")

    points = np.hstack((x, y))
    radius = tree(points).query(points, k=K + 1)[0][:, K] - 1e-15
    counts = (tree(p).query_radius(p, radius, count_only=True) for p in (x, y))
    mean = sum(np.mean(digamma(c)) for c in counts)
    return float((digamma(K) + digamma(len(x)) - mean) / np.log(2))


def by_npeet_plus(x: np.ndarray, y: np.ndarray) -> float:
    """KSG 1 in bits from npeet-plus, which has its own noise of 1e-10."""
    import npeet_plus

    return float(npeet_plus.mi(x, y, k=K))


def neighbours(id: str, samples: int, units: int, must: float, aim: float, rounds: int) -> Case:
    """All k nearest neighbours: the way `Points` chooses against a tree, both from the bare rows."""
    rows, _ = layer(samples, units)
    array, points = rows.numpy(), holder("Points").Points

    def reference() -> np.ndarray:
        return cKDTree(array).query(array, k=K + 1)[0][:, 1:]

    def check() -> None:
        gap = float(np.abs(points(rows).nearest(K)[0].numpy() - reference()).max())
        if gap > 1e-9:
            raise AssertionError(f"distances from blocks and from a tree differ by {gap}")

    return Case(
        id=id, case=f"{samples}x{units}, k={K}", against=f"cKDTree, {package('scipy')}", must=must, aim=aim,
        candidate=lambda: points(rows).nearest(K), reference=reference, check=check, rounds=rounds,
    )  # fmt: skip


def ksg(metric: str, must: float, aim: float, rounds: int) -> Case:
    t, x = layer(4096, 10)
    estimator = KNN(n_neighbors=K, metric=metric, jitter=0.0)

    def check() -> None:
        found = float(estimator.estimate(t[None], x)["I(T;Y)"].value)
        # In the Euclidean norm it is another estimate of the same information.
        gap = abs(found - by_npeet_plus(t.numpy(), x.numpy())) if metric == "max" else 0.0
        if gap > 1e-6:
            raise AssertionError(f"ksg and NPEET differ by {gap} bits")

    return Case(
        id="N3", case=f"KSG 4096x10, 12 inputs, {metric}", against=package("npeet-plus"), must=must, aim=aim,
        candidate=lambda: estimator.estimate(t[None], x), reference=lambda: by_npeet_plus(t.numpy(), x.numpy()),
        check=check, rounds=rounds,
    )  # fmt: skip


def ross_by_trees(t: np.ndarray, y: np.ndarray, metric: str) -> float:
    """Ross in bits from one tree for each class and one for all, for rows without ties."""
    radius, counts = np.empty(len(t)), np.bincount(y)
    for label in range(len(counts)):
        own = t[y == label]
        radius[y == label] = KDTree(own, metric=metric).query(own, k=K + 1)[0][:, K]
    inside = KDTree(t, metric=metric).query_radius(t, radius * (1 + 1e-9), count_only=True) - 1
    terms = digamma(len(t)) + digamma(K) - digamma(counts[y]) - digamma(inside)
    return float(terms.mean() / np.log(2))


def infomeasure_ksg(t: np.ndarray, y: np.ndarray) -> float:
    """KSG 1 in bits from infomeasure, in the largest norm, without the noise it adds."""
    import infomeasure

    return float(infomeasure.mutual_information(t, y, approach="metric", k=K, noise_level=0, base=2))


def by_scikit_learn(t: np.ndarray, y: np.ndarray, classes: int) -> float:
    of = mutual_info_classif if classes else mutual_info_regression
    return float(of(t, y, discrete_features=False, n_neighbors=K, random_state=0)[0] / np.log(2))


def by_ennemi(t: np.ndarray, y: np.ndarray, classes: int) -> float:
    import ennemi

    return float(ennemi.estimate_mi(y, t, k=K, discrete_y=bool(classes), preprocess=False)[0, 0] / np.log(2))


def references(t: np.ndarray, y: np.ndarray, classes: int, metric: str) -> dict[str, Callable[[], float]]:
    """What users run in the place of `knn`, in bits, by the name the table shows."""
    out: dict[str, Callable[[], float]] = {}
    if t.shape[1] == 1:
        out[package("scikit-learn")] = lambda: by_scikit_learn(t, y, classes)
        out[package("ennemi")] = lambda: by_ennemi(t, y, classes)
    if classes:
        norm = "chebyshev" if metric == "max" else metric
        return {**out, "vectorised trees (own code)": lambda: ross_by_trees(t, y, norm)}
    out["vectorised trees (own code)"] = lambda: npeet(t, y[:, None])
    out[package("npeet-plus")] = lambda: by_npeet_plus(t, y[:, None])
    return {**out, package("infomeasure"): lambda: infomeasure_ksg(t, y[:, None])}


def fastest(others: dict[str, Callable[[], float]]) -> str:
    """The second call counts: the first may compile or import."""
    for other in others.values():
        other()
    return min(others, key=lambda name: cpu_ms(others[name]))


def problem(samples: int, units: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A layer (samples, units), and classes of equal size or with 0 of them a target, of its first input and noise."""
    t, x = layer(samples, units)
    signal = x[:, 0] + 0.5 * torch.randn(samples, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    if classes:
        return t, signal.argsort().argsort() * classes // samples
    return t, (signal - signal.mean()) / signal.std(correction=0)


def value_of(t: torch.Tensor, y: torch.Tensor, metric: str) -> Callable[[], float]:
    """The call that is timed: `knn` without its flags, in bits."""
    estimator = KNN(n_neighbors=K, metric=metric, jitter=0.0)

    def candidate() -> float:
        with values_only():
            return float(estimator.estimate(t[None], y)["I(T;Y)"].value)

    return candidate


def any_width(samples: int, units: int, classes: int, metric: str, rounds: int) -> Case:
    """Classes, or with 0 of them a target, against the fastest of `references`."""
    t, y = problem(samples, units, classes)
    candidate = value_of(t, y, metric)

    def measure(case: Case) -> Iterator[Row]:
        others = references(t.numpy(), y.numpy(), classes, metric)
        against = fastest(others)
        # The two of one unit add noise, and the others have the largest norm only for targets: other estimates.
        other = against.startswith(("scikit", "ennemi")) or (metric == "euclidean" and not classes)
        gap = abs(candidate() - others[against]())
        if gap > (0.2 if other and units <= 2 else 1.0 if other else 1e-6):  # of 1e8 pairs one may be a tie
            raise AssertionError(f"knn and {against} differ by {gap} bits")
        yield case.row(against=against, **vars(compare(candidate, others[against], rounds=rounds)))

    what = f"{classes} classes" if classes else "target"
    case, id = f"{samples}x{units}, {what}, {metric}", "N4" if classes else "N5"
    return Case(id=id, case=case, against="the fastest", aim=1.0, candidate=candidate, measure=measure)


def cases(quick: bool = False) -> Iterator[Case]:
    rounds = 3 if quick else 5
    yield neighbours("N1", 4096, 128, 15.0, 30.0, rounds)
    yield neighbours("N2", 4096, 2, 1 / 1.2, 1.0, max(rounds, 5))
    yield ksg("max", 2.0, 4.0, rounds)
    yield ksg("euclidean", 2.0, 4.0, rounds)
    sizes = [(n, units) for n in (1000, 4000, 10_000) for units in (1, 2, 5, 10, 32, 64)]
    for samples, units in sizes[:4] if quick else [*sizes, (50_000, 2), (50_000, 10)]:
        for classes in (10, 0) if samples * units > 10_000 else (2, 10, 0):
            for metric in ("euclidean", "max"):
                yield any_width(samples, units, classes, metric, 3 if samples > 1000 else rounds)


SIZES, UNITS, SLOW_MS = (1000, 4000, 10_000, 50_000), (1, 2, 5, 10, 32, 64), 2000.0
"""The grid, and from where an opponent is called once only."""


def point(samples: int, units: int, classes: int, metric: str) -> tuple[float, float, float, str]:
    """The least milliseconds of `knn` and of the fastest opponent in rounds, their ratio, and who that was."""
    t, y = problem(samples, units, classes)
    candidate, others = value_of(t, y, metric), references(t.numpy(), y.numpy(), classes, metric)
    # npeet-plus and ennemi are slower than their tree, and so is infomeasure beyond 10 units or 10,000 samples.
    dropped = ("npeet", "ennemi", "infomeasure") if samples > 10_000 or units > 10 else ("npeet", "ennemi")
    others = {name: call for name, call in others.items() if not name.startswith(dropped)}
    first = {name: cpu_ms(call) for name, call in others.items()}
    if min(first.values()) > SLOW_MS:
        name = min(first, key=lambda name: first[name])
        candidate()
        own = cpu_ms(candidate)
        return own, first[name], first[name] / own, name
    name = fastest(others)
    pairs = []
    for _ in range(15 if samples <= 1000 else 7 if samples <= 4000 else 3):
        pairs.append((cpu_ms(candidate), cpu_ms(others[name])))
    own, other = (min(each) for each in zip(*pairs, strict=True))  # what a loaded machine adds is not the code's
    return own, other, other / own, name


def grid(sizes: Sequence[int], units: Sequence[int]) -> None:
    """Print every point of the grid, then the median of the ratios, the lowest, and how many lie below 0.9."""
    torch.set_num_threads(1)
    ratios = []
    for samples, width in itertools.product(sizes, units):
        for classes, metric in itertools.product((10, 0), ("euclidean", "max")):
            own, other, ratio, name = point(samples, width, classes, metric)
            what = "classes" if classes else "target"
            print(f"{samples}x{width} {what} {metric}: {own:.4g} ms, {name} {other:.4g} ms, x{ratio:.3g}", flush=True)
            ratios.append(ratio)
    below = sum(ratio < 0.9 for ratio in ratios)
    print(
        f"{len(ratios)} points: median x{statistics.median(ratios):.3g}, lowest x{min(ratios):.3g}, {below} below 0.9"
    )


def main() -> None:
    """`python -m benchmarks.knn [--samples N ...] [--units D ...]`: the grid, with the environment of the harness."""
    if any(os.environ.get(name) != value for name, value in ENVIRONMENT.items()):
        os.environ.update(ENVIRONMENT)
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks.knn", *sys.argv[1:]])
    parser = argparse.ArgumentParser(prog="python -m benchmarks.knn", description=grid.__doc__)
    parser.add_argument("--samples", type=int, nargs="+", default=SIZES)
    parser.add_argument("--units", type=int, nargs="+", default=UNITS)
    options = parser.parse_args()
    grid(options.samples, options.units)


if __name__ == "__main__":
    main()
