"""D1 to D8: probe, spectral, kernel and geometry estimators, one snapshot at a time.

D1 and D2 are against scikit-learn's logistic regression, D3 against the authors' dse-dsmi. For the others there is no
package: own dense code in numpy, as the formulas read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from benchmarks._data import labels, tanh_network
from benchmarks._harness import Case, holder, package
from infoplane.estimators.cs_qmi import CauchySchwarz
from infoplane.estimators.dse import DiffusionSpectralEntropy
from infoplane.estimators.geometry import Geometry
from infoplane.estimators.hsic import Hsic
from infoplane.estimators.probe import LinearProbe
from infoplane.estimators.renyi import MatrixRenyi
from infoplane.estimators.softmax import SoftmaxOutput

Array = np.ndarray
RIDGES = (100.0, 10.0, 1.0, 0.1, 0.01, 0.001)


def entropy(p: Array) -> float:
    p = p[p > 0]
    return float(-(p * np.log2(p)).sum())


def gram(t: Array, sigma: float) -> Array:
    squared = ((t**2).sum(1)[:, None] + (t**2).sum(1) - 2 * t @ t.T).clip(min=0)
    return np.exp(-squared / (2 * sigma**2))


def zscore(t: Array) -> Array:
    std = t.std(0)
    return (t - t.mean(0)) / np.where(std > 0, std, 1)


def plain_probe(t: Array, y: Array, folds: int, seed: int) -> float:
    """Nested cross-fit with scikit-learn on our folds, every ridge of every fold from scratch."""
    fold = holder("fold_of_row").fold_of_row(torch.arange(len(y)), folds, seed).numpy()
    z, k = zscore(t) / math.sqrt(t.shape[1]), int(y.max()) + 1
    nats = 0.0

    def predict(ridge: float, rows: Array, test: Array) -> float:
        model = LogisticRegression(C=1 / ridge, max_iter=1000, tol=1e-5).fit(z[rows], y[rows])
        p = np.full((int(test.sum()), k), 1e-300)
        p[:, model.classes_] = model.predict_proba(z[test])
        n = len(y)
        return float(-np.log((1 - 1 / n) * p[np.arange(len(p)), y[test]] + 1 / (n * k)).sum())

    for f in range(folds):
        rest, valid = fold != f, fold == (f + 1) % folds
        best, chosen = math.inf, RIDGES[0]
        for ridge in RIDGES:
            loss = predict(ridge, rest & ~valid, valid)
            if loss >= best:
                break
            best, chosen = loss, ridge
        nats += predict(chosen, rest, fold == f)
    return entropy(np.bincount(y) / len(y)) - nats / len(y) / math.log(2)


def by_dse_dsmi(t: Array, y: Array, sigma: float) -> float:
    """DSE, and DSMI(T;Y) with its five random subsets of each class's size."""
    import dse_dsmi

    dse_dsmi.diffusion_spectral_mutual_information(t, y, gaussian_kernel_sigma=sigma)
    return float(dse_dsmi.diffusion_spectral_entropy(t, gaussian_kernel_sigma=sigma))


def plain_renyi(t: Array, y: Array) -> float:
    def s(a: Array) -> float:
        q = np.linalg.eigvalsh(a / np.trace(a)).clip(min=0)
        return float(np.log2((q**1.01).sum()) / -0.01)

    k = gram(zscore(t), math.sqrt(t.shape[1]) * len(t) ** (-1 / (4 + t.shape[1])))
    same = (y[:, None] == y).astype(float)
    return s(k) + s(same) - s(k * same)


def plain_hsic(t: Array, y: Array, sigma: float) -> float:
    n = len(t)
    h = np.eye(n) - 1 / n
    k, low = h @ gram(t, sigma) @ h, h @ (y[:, None] == y).astype(float) @ h
    r, q = (m @ np.linalg.inv(m + 1e-5 * n * np.eye(n)) for m in (k, low))
    return float(np.trace(r @ q))


def plain_cs(t: Array, y: Array, sigma: float) -> float:
    k, low = gram(zscore(t), sigma), (y[:, None] == y).astype(float)

    def information(a: Array, b: Array) -> float:
        joint, apart = np.log2((a * b).mean()), np.log2(a.mean() * b.mean())
        return float(joint + apart - 2 * np.log2((a.mean(1) * b.mean(1)).mean()))

    # The estimator also returns the normalised form.
    information(k, k), information(low, low)
    return information(k, low)


def plain_geometry(t: Array, y: Array) -> float:
    """Singular values of raw and centred rows, of every class and of the centroids."""
    raw, spread = (np.linalg.svd(a, compute_uv=False) for a in (t, t - t.mean(0)))
    z = t / np.linalg.norm(t, axis=1, keepdims=True)
    classes = [z[y == k] for k in range(y.max() + 1)]
    np.linalg.svd(np.stack([c.mean(0) for c in classes]), compute_uv=False)
    for c in classes:
        np.linalg.svd(c, compute_uv=False)
    entropy(spread**2 / (spread**2).sum())
    return float(2 ** entropy(raw / raw.sum()))


def plain_softmax(t: Array, y: Array) -> float:
    p = np.exp(t - t.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    q = np.stack([p[y == k].mean(0) for k in range(y.max() + 1)])
    for row in p:
        entropy(row)
    return entropy(p.mean(0)) - float(np.mean([entropy(q[k]) for k in y]))


def case(
    id: str,
    estimator: object,
    quantity: str,
    plain: Callable[..., float],
    t: Tensor,
    y: Tensor,
    *more: object,
    tolerance: float,
    **options: object,
) -> Case:
    """Both agree on the first and the last snapshot, then both are timed on all."""
    arrays, classes = [s.double().numpy() for s in t], y.numpy()
    some = arrays[:: max(1, len(arrays) // 4)]

    def check() -> None:
        found = estimator.estimate(t, y)[quantity].value
        for s in (0, len(t) - 1):
            gap = abs(plain(arrays[s], classes, *more) - float(found[s]))
            if not gap <= tolerance:
                raise AssertionError(f"{quantity} and its plain form differ by {gap} at snapshot {s}")

    snapshots, samples, units = t.shape
    return Case(
        id=id, case=f"{estimator.name}, {snapshots} x {samples} x {units}, {int(y.max()) + 1} classes",
        candidate=lambda: estimator.estimate(t, y), reference=lambda: [plain(a, classes, *more) for a in some],
        check=check, scale=len(arrays) / len(some), **options,
    )  # fmt: skip


def cases(quick: bool = False) -> Iterator[Case]:
    """`quick` takes smaller layers and three rounds."""
    rounds = 3 if quick else 5
    samples, wide = (400, 64) if quick else (1000, 256)
    narrow, middle, layer = tanh_network(samples, (10, 64, wide), 4 if quick else 8)
    (logits,) = tanh_network(4096, (10,), 8)
    y2, y10 = labels(samples, 2), labels(samples, 10)
    probe = LinearProbe()
    folds, own = (probe.folds, probe.seed), (math.sqrt(wide),)
    nested = f"{package('scikit-learn')}, nested folds"
    authors, (spectra, sums, by_row) = package("dse-dsmi"), (f"{w} (own code)" for w in ("spectra", "sums", "by rows"))
    dse = DiffusionSpectralEntropy(sigma=2.0)
    table = (
        ("D1", probe, "I(T;Y)", plain_probe, narrow, y2, folds, nested, 5.0, 1e-2),
        ("D2", probe, "I(T;Y)", plain_probe, middle[:2], y10, folds, nested, 5.0, 2e-2),
        ("D3", dse, "DSE", by_dse_dsmi, layer, y10, (2.0,), authors, 3.0, 1e-6),
        ("D4", MatrixRenyi(), "Renyi I(T;Y)", plain_renyi, layer, y10, (), spectra, 2.0, 1e-6),
        ("D5", Hsic(sigma=1.0), "nHSIC(T;Y)", plain_hsic, layer, y10, own, "inverses (own code)", 3.0, 1e-6),
        ("D6", CauchySchwarz(sigma=9.0), "CS-QMI(T;Y)", plain_cs, layer, y10, (9.0,), sums, 1.5, 1e-9),
        ("D7", Geometry(), "RankMe", plain_geometry, layer, y10, (), spectra, 2.0, 1e-3),
        ("D8", SoftmaxOutput(), "I(T;Y)", plain_softmax, logits, labels(4096, 10), (), by_row, 10.0, 1e-9),
    )
    for id, estimator, quantity, plain, t, y, more, against, aim, tolerance in table:
        options = {"against": against, "must": 1.0, "aim": aim, "rounds": 3 if estimator is probe else rounds}
        yield case(id, estimator, quantity, plain, t, y, *more, tolerance=tolerance, **options)
