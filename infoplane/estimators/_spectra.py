"""Spectra of symmetric matrices in float64, batched over snapshots, and what is read off them.

Dense eigenvalues cost order n^3 operations and n^2 numbers: whoever calls this keeps n at a few thousand, by
a limit on the samples that it states.
"""

from __future__ import annotations

import torch
from torch import Tensor

from infoplane.core.units import BITS_PER_NAT

ROTATION_LIMIT = 2048


def eigenvalues(matrix: Tensor) -> Tensor:
    """Eigenvalues (..., n) in ascending order of symmetric `matrix` (..., n, n), float64."""
    found: Tensor = torch.linalg.eigvalsh(matrix.double())
    return found


def positive_part(values: Tensor) -> Tensor:
    """Eigenvalues (..., n) of a positive semidefinite matrix, those within rounding of zero set to zero."""
    least = values.shape[-1] * torch.finfo(values.dtype).eps * values.amax(-1, keepdim=True)
    return torch.where(values > least, values, 0.0)


def shares(weights: Tensor) -> Tensor:
    """`weights` (..., n) >= 0 divided by their sum; all 0 where the sum is 0."""
    total = weights.sum(-1, keepdim=True)
    return weights / torch.where(total > 0, total, torch.ones_like(total))


def shannon_bits(p: Tensor) -> Tensor:
    """-sum p log2 p over the last axis, with 0 log 0 = 0."""
    nats: Tensor = -torch.special.xlogy(p, p).sum(-1)
    return nats * BITS_PER_NAT


def renyi_bits(p: Tensor, alpha: float) -> Tensor:
    """log2(sum p^alpha) / (1 - alpha) over the last axis; its limit -sum p log2 p at alpha = 1."""
    if abs(alpha - 1.0) < 1e-9:
        return shannon_bits(p)
    return torch.log2(p.pow(alpha).sum(-1)) / (1.0 - alpha)


def principal_coordinates(z: Tensor) -> tuple[Tensor, Tensor]:
    """Rotate rows `z` (S, N, U) into the axes of their own Gram matrix.

    Returns
    -------
    coordinates : (S, N, r) float64, r = min(N, U)
        Inner products of rows are those of `z`; columns are orthogonal.
    squares : (S, r)
        Squared norms of the columns.

    Where both N and U exceed `ROTATION_LIMIT` the rows come back as they are, with the squared norms of their
    columns: no matrix of that size is ever formed.
    """
    samples, units = z.shape[1:]
    z = z.double()
    if min(samples, units) > ROTATION_LIMIT:
        return z, z.square().sum(1)
    if units <= samples:
        vectors = torch.linalg.eigh(z.mT @ z)[1]
        coordinates = z @ vectors
    else:
        values, vectors = torch.linalg.eigh(z @ z.mT)
        coordinates = vectors * positive_part(values).sqrt()[:, None, :]
    return coordinates, coordinates.square().sum(1)
