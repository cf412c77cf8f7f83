"""N1 to N5: neighbours from blocked products against a tree, KSG against NPEET, classes and targets of any width.

The trees here are own code in the place of their users' code: vectorised queries of scikit-learn's trees, as NPEET and
`mutual_info_classif` have them. N4 and N5 are against the fastest of these, of scikit-learn (one unit) and, where it is
installed, of infomeasure (targets). The flags of `knn` are switched off, as none of these has any.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator

import numpy as np
import torch
from scipy.spatial import cKDTree
from scipy.special import digamma
from sklearn.feature_selection import mutual_info_classif, mutual_info_regression
from sklearn.neighbors import BallTree, KDTree

from benchmarks._harness import Row, compare, cpu_ms
from infoplane.estimators._neighbors import Points
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


def neighbours(id: str, samples: int, units: int, must: float, aim: float, rounds: int) -> Row:
    """All k nearest neighbours: the way `Points` chooses against a tree, both from the bare rows."""
    rows, _ = layer(samples, units)
    array = rows.numpy()

    def reference() -> np.ndarray:
        return cKDTree(array).query(array, k=K + 1)[0][:, 1:]

    gap = float(np.abs(Points(rows).nearest(K)[0].numpy() - reference()).max())
    if gap > 1e-9:
        raise AssertionError(f"distances from blocks and from a tree differ by {gap}")
    timing = compare(lambda: Points(rows).nearest(K), reference, rounds=rounds)
    return Row(id=id, case=f"{samples}x{units}, k={K}", against="cKDTree", must=must, aim=aim, **vars(timing))


def ksg(metric: str, must: float, aim: float, rounds: int) -> Row:
    t, x = layer(4096, 10)
    estimator = KNN(n_neighbors=K, metric=metric, jitter=0.0)
    found = float(estimator.estimate(t[None], x)["I(T;Y)"].value)
    # In the Euclidean norm it is another estimate of the same information.
    gap = abs(found - npeet(t.numpy(), x.numpy())) if metric == "max" else 0.0
    if gap > 1e-9:
        raise AssertionError(f"ksg and NPEET differ by {gap} bits")
    timing = compare(lambda: estimator.estimate(t[None], x), lambda: npeet(t.numpy(), x.numpy()), rounds=rounds)
    return Row(id="N3", case=f"KSG 4096x10, 12 inputs, {metric}", against="NPEET", must=must, aim=aim, **vars(timing))


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


def references(t: np.ndarray, y: np.ndarray, classes: int, metric: str) -> dict[str, Callable[[], float]]:
    """What users run in the place of `knn`, in bits, by name."""
    out: dict[str, Callable[[], float]] = {}
    if t.shape[1] == 1:
        of = mutual_info_classif if classes else mutual_info_regression
        options = {"discrete_features": False, "n_neighbors": K, "random_state": 0}
        out["scikit-learn"] = lambda: float(of(t, y, **options)[0] / np.log(2))
    if classes:
        out["vectorised trees"] = lambda: ross_by_trees(t, y, "chebyshev" if metric == "max" else metric)
        return out
    out["vectorised trees"] = lambda: npeet(t, y[:, None])
    if importlib.util.find_spec("infomeasure"):
        out["infomeasure"] = lambda: infomeasure_ksg(t, y[:, None])
    return out


def any_width(samples: int, units: int, classes: int, metric: str, rounds: int) -> Row:
    """Classes, or with 0 of them a target, against the fastest of `references`."""
    t, x = layer(samples, units)
    signal = x[:, 0] + 0.5 * torch.randn(samples, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = (
        signal.argsort().argsort() * classes // samples
        if classes
        else (signal - signal.mean()) / signal.std(correction=0)
    )
    estimator = KNN(n_neighbors=K, metric=metric, jitter=0.0)

    def candidate() -> float:
        with values_only():
            return float(estimator.estimate(t[None], y)["I(T;Y)"].value)

    others = references(t.numpy(), y.numpy(), classes, metric)
    against = min(others, key=lambda name: cpu_ms(others[name]))
    # scikit-learn adds noise, and the others have the largest norm only for targets: another estimate of the same.
    other = against == "scikit-learn" or (metric == "euclidean" and not classes)
    gap = abs(candidate() - others[against]())
    if gap > (0.2 if other and units <= 2 else 1.0 if other else 1e-6):  # of 1e8 pairs one may be a tie
        raise AssertionError(f"knn and {against} differ by {gap} bits")
    what = f"{classes} classes" if classes else "target"
    timing = compare(candidate, others[against], rounds=rounds)
    case, id = f"{samples}x{units}, {what}, {metric}", "N4" if classes else "N5"
    return Row(id=id, case=case, against=against, must="-", aim=1.0, **vars(timing))


def rows(quick: bool = False) -> Iterator[Row]:
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
