"""Spectral clustering of inputs: groups that stay the same for every snapshot of a run."""

from __future__ import annotations

import numpy as np
import scipy.linalg
import scipy.sparse
import scipy.sparse.linalg
import torch
from torch import Tensor

NEIGHBORS = 10
_BLOCK = 512
_DENSE = 512


def spectral_clusters(x: Tensor, count: int) -> Tensor:
    """Groups (N,) int64 of the rows of `x` (N, F), at most `count` of them.

    Eigenvectors of the normalised graph of ten nearest neighbours, assigned by a pivoted QR factorisation
    (Damle, Minden and Ying, "Simple, direct and efficient multi-way spectral clustering", 2019), which has
    no random start.
    """
    rows = x.detach().double().cpu()
    count = min(count, len(rows))
    if count < 2 or bool((rows == rows[:1]).all()):
        return torch.zeros(len(rows), dtype=torch.int64, device=x.device)
    graph = _neighbor_graph(rows)
    degree = np.asarray(graph.sum(1)).ravel()
    half = scipy.sparse.diags(1.0 / np.sqrt(degree))
    matrix = half @ graph @ half
    if len(rows) <= max(_DENSE, 2 * count):
        vectors = scipy.linalg.eigh(matrix.toarray())[1][:, -count:]
    else:
        start = np.sqrt(degree) + np.cos(np.arange(len(rows)))
        vectors = scipy.sparse.linalg.eigsh(matrix, k=count, which="LA", v0=start)[1]
    pivots = scipy.linalg.qr(vectors.T, pivoting=True, mode="r")[1][:count]
    left, _, right = scipy.linalg.svd(vectors[pivots].T)
    labels = np.abs(vectors @ (left @ right)).argmax(1)
    return torch.from_numpy(labels.astype(np.int64)).to(x.device)


def _neighbor_graph(rows: Tensor) -> scipy.sparse.csr_matrix:
    """Symmetric weights: 1 where each is among the other's ten nearest, 1/2 where one is; itself included."""
    samples = len(rows)
    k = min(NEIGHBORS, samples)
    size = rows.abs().max()
    z = rows / (size if size > 0 else 1.0)
    z = z - z.mean(0)
    norms = z.square().sum(1)
    nearest = []
    for i in range(0, samples, _BLOCK):
        squared = norms - 2 * z[i : i + _BLOCK] @ z.T
        own = torch.arange(i, min(i + _BLOCK, samples))
        squared[own - i, own] = -torch.inf
        nearest.append(squared.topk(k, largest=False).indices)
    columns = torch.cat(nearest).numpy().ravel()
    ones = scipy.sparse.csr_matrix(
        (np.ones(samples * k), (np.repeat(np.arange(samples), k), columns)), shape=(samples, samples)
    )
    return (0.5 * (ones + ones.T)).tocsr()
