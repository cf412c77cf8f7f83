"""Five measures of similarity: each makes one matrix of a layer, and one number of two matrices.

Linear and kernel CKA, mutual neighbours and RSA are inner products of N x N matrices of length 1. Permuting the rows of
a layer permutes rows and columns of its matrix, so that nothing else has to be computed again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple, TypedDict

import numpy as np
from scipy.stats import rankdata

from infoplane.core.records import FloatArray, IntArray
from infoplane.diagnostics._place import raised

Measure = Literal["cka", "kernel-cka", "knn", "rsa", "svcca"]

TIE = 1e-9
"""Two squared distances are equal where they differ by less than this, relative."""
ROUNDING = 32 * float(np.finfo(np.float64).eps)
"""Squared distances and variances below this share of the largest are nothing but rounding."""
PER_DIRECTION = 5
"""Rows that SVCCA needs for each kept direction; with fewer it is flagged `few_samples`."""


class MeasureSettings(TypedDict, total=False):
    """The settings of all measures, of which each reads its own."""

    scale: float
    n_neighbors: int
    variance: float


DEFAULTS: MeasureSettings = {"scale": 1.0, "n_neighbors": 10, "variance": 0.99}


class Side(NamedTuple):
    """One layer as a measure compares it: its matrix, its flags, and a number that was found on the way, if any."""

    matrix: FloatArray
    flags: frozenset[str] = frozenset()
    found: float = math.nan


class Kind(NamedTuple):
    """A measure: its name in tables, its unit, the names of its settings, and the function that makes the matrix."""

    title: str
    unit: str
    settings: tuple[str, ...]
    side: Callable[[FloatArray, MeasureSettings], Side]


def squared_distances(gram: FloatArray) -> FloatArray:
    """Return squared distances (N, N) from the inner products of centred rows; 0 between equal rows."""
    norms = np.diag(gram)
    squared = norms[:, None] + norms[None, :] - 2.0 * gram
    squared[squared <= ROUNDING * norms.max(initial=0.0)] = 0.0
    np.fill_diagonal(squared, 0.0)
    return np.asarray(squared)


def cka_side(rows: FloatArray, settings: MeasureSettings) -> Side:
    """Return the U-centred linear Gram matrix (N, N) of length 1: the matrix of linear CKA."""
    return _unit(_u_centred(rows @ rows.T))


def kernel_cka_side(rows: FloatArray, settings: MeasureSettings) -> Side:
    """Return the U-centred Gaussian kernel matrix (N, N) of length 1; `found` is its bandwidth, in units of `rows`."""
    squared = squared_distances(rows @ rows.T)
    apart = squared[squared > 0]
    width = settings["scale"] * (float(np.median(np.sqrt(apart))) if apart.size else 1.0)
    return _unit(_u_centred(np.exp(squared / (-2.0 * width * width))))._replace(found=width)


def knn_side(rows: FloatArray, settings: MeasureSettings) -> Side:
    """Return the matrix (N, N) that marks the k nearest other rows of each row, scaled to length 1."""
    k, n = settings["n_neighbors"], len(rows)
    if not 1 <= k < n - 1:
        raise ValueError(f"n_neighbors must be at least 1 and below the number of other samples ({n - 1}), got {k}")
    squared = squared_distances(rows @ rows.T)
    np.fill_diagonal(squared, np.inf)
    nearest = np.argpartition(squared, (k - 1, k), axis=1)
    last, beyond = (np.take_along_axis(squared, nearest[:, i : i + 1], 1) for i in (k - 1, k))
    matrix = np.zeros((n, n))
    # The inner product of two such matrices is the share of neighbours that they have in common.
    np.put_along_axis(matrix, nearest[:, :k], 1.0 / math.sqrt(n * k), 1)
    # Where neighbour k + 1 is as near as neighbour k, it is arbitrary which of them is taken.
    tied = bool((beyond - last <= TIE * beyond).any())
    return _side(matrix, not rows.any(), raised(ties=tied))


def rsa_side(rows: FloatArray, settings: MeasureSettings) -> Side:
    """Return the matrix (N, N) of the ranks of all pairwise distances, centred and of length 1."""
    squared = squared_distances(rows @ rows.T)
    pairs = np.triu_indices(len(rows), 1)
    ranks = _tied_ranks(squared[pairs])
    matrix = np.zeros_like(squared)
    matrix[pairs] = ranks - ranks.mean()
    return _unit(matrix + matrix.T)


def svcca_side(rows: FloatArray, settings: MeasureSettings) -> Side:
    """Return orthonormal coordinates (N, r) of the directions of largest variance; `found` is their number r."""
    values, vectors = np.linalg.eigh(rows @ rows.T)
    values, vectors = values[::-1], vectors[:, ::-1]
    values = np.where(values > ROUNDING * max(values[0], 0.0), values, 0.0)
    total = np.cumsum(values)
    # Never more directions than vary: for variance=1 the last ones that count would be rounding.
    kept = min(int((total < settings["variance"] * total[-1]).sum()) + 1, max(int((values > 0).sum()), 1))
    few = raised(few_samples=len(rows) < PER_DIRECTION * kept)
    return _side(np.ascontiguousarray(vectors[:, :kept]), not rows.any(), few, float(kept))


KINDS: dict[Measure, Kind] = {
    "cka": Kind("CKA", "CKA", (), cka_side),
    "kernel-cka": Kind("kernel CKA", "CKA", ("scale",), kernel_cka_side),
    "knn": Kind("mutual kNN", "share of neighbours", ("n_neighbors",), knn_side),
    "rsa": Kind("RSA", "rank correlation", (), rsa_side),
    "svcca": Kind("SVCCA", "canonical correlation", ("variance",), svcca_side),
}


def compared(measure: Measure, a: FloatArray, b: FloatArray) -> float:
    """Return the similarity of two layers from their matrices: inner product, or mean canonical correlation."""
    if measure != "svcca":
        return float(np.vdot(a, b))
    if np.isnan(a).any() or np.isnan(b).any():
        return math.nan
    return float(np.linalg.svd(a.T @ b, compute_uv=False).mean())


def permuted(measure: Measure, matrix: FloatArray, order: IntArray) -> FloatArray:
    """Return the matrix of the same layer with its rows in another order; coordinates (N, r) have rows alone."""
    return matrix[order] if measure == "svcca" else matrix[order][:, order]


def _tied_ranks(values: FloatArray) -> FloatArray:
    """Return the ranks (P,) of values (P,); values that differ by rounding alone share their mean rank."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    differs = np.diff(ordered) > TIE * ordered[1:] + ROUNDING * ordered[-1]  # from the value before
    groups = np.empty(len(values), dtype=np.int64)
    groups[order] = np.concatenate([[0], np.cumsum(differs)])  # equal values have one number
    return np.asarray(rankdata(groups))


def _u_centred(gram: FloatArray) -> FloatArray:
    """U-centre a Gram matrix (Szekely and Rizzo 2014): HSIC_u is the inner product of two, over N (N - 3)."""
    n = len(gram)
    np.fill_diagonal(gram, 0.0)
    sums = gram.sum(axis=1) / (n - 2)
    gram = gram - sums[:, None] - sums[None, :] + sums.sum() / (n - 1)
    np.fill_diagonal(gram, 0.0)
    return np.asarray(gram)


def _unit(matrix: FloatArray) -> Side:
    """Return the matrix scaled to length 1; NaN with the flag `degenerate` where it is 0, as for a constant layer."""
    length = float(np.linalg.norm(matrix))
    constant = length <= 1e-12
    return _side(matrix / (1.0 if constant else length), constant)


def _side(matrix: FloatArray, constant: bool, flags: tuple[str, ...] = (), found: float = math.nan) -> Side:
    """Return the matrix with its flags; for a `constant` layer NaN, with the flag `degenerate`."""
    values = np.full_like(matrix, np.nan) if constant else matrix
    return Side(values, frozenset(flags + raised(degenerate=constant)), found)
