"""Rows of a layer: units on one scale, rows drawn with a recorded seed, which rows are equal, and spectra in float64.

Shapes: S snapshots, N samples, U or D units.
Dense eigenvalues cost order n^3 operations and n^2 numbers: whoever asks for them keeps n at a few thousand, by a limit
on the samples that it states.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from infoplane.core.units import BITS_PER_NAT


def zscore(t: Tensor) -> Tensor:
    """Return a float64 copy of `t` (..., N, U) with mean 0 and standard deviation 1 for every unit over the samples.

    A unit whose spread is no more than rounding of its own type (4 eps of its largest value) is constant: 0.
    """
    double = t.dtype == torch.float64 or not t.is_floating_point()  # integers are rounded to float64 only
    eps = torch.finfo(torch.float64 if double else torch.float32).eps
    z = t.double()
    largest = z.abs().amax(-2, keepdim=True)
    # Division before anything is squared: 1e300 and 1e-300 are ordinary values.
    z = z / torch.where(largest > 0, largest, torch.ones_like(largest))
    z = z - z.mean(-2, keepdim=True)
    z = z - z.mean(-2, keepdim=True)  # again, for what rounding of a large mean has left
    std = z.square().mean(-2, keepdim=True).sqrt()
    varies = std > 4 * eps
    return torch.where(varies, z / torch.where(varies, std, torch.ones_like(std)), torch.zeros_like(z))


def is_constant(t: Tensor) -> Tensor:
    """Return whether all samples of each snapshot of `t` (S, N, U) are equal, (S,) bool."""
    return (t.amax(1) == t.amin(1)).all(1)


def drawn_rows(samples: int, limit: int, seed: int) -> Tensor | None:
    """Return sorted indices (limit,) of samples drawn without repetition, or None if there are no more than `limit`."""
    if samples <= limit:
        return None
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(samples, generator=generator, device="cpu")[:limit].sort().values


def normal_numbers(shape: Sequence[int], source: torch.Generator | int, device: torch.device | str = "cpu") -> Tensor:
    """Draw standard normal numbers (`shape`), float64, the same on every device; `source` is a generator or a seed."""
    generator = torch.Generator().manual_seed(source) if isinstance(source, int) else source
    return torch.randn(shape, generator=generator, device="cpu", dtype=torch.float64).to(device)


def equal_rows(rows: Tensor) -> Tensor:
    """Return how many other rows equal each row of `rows` (N, D) float64, (N,) int64."""
    number, counts = numbered_rows(rows)
    others: Tensor = counts[number] - 1
    return others


def numbered_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Number the K distinct rows of `rows` (N, D): return each row's number (N,) and how many have each (K,), int64."""
    bits = bits_of(rows) if rows.is_floating_point() else rows.to(torch.int64)  # exact beyond 2**53, too
    # Rows are told apart by a 64-bit hash. Floats such as 0.5, 1 and 2 differ in their high bits only, and a product
    # carries upwards: bring them down first. The factor is 2**64 over the golden ratio, as int64: odd, its bits mixed.
    key = (bits ^ (bits >> 32)) * -7046029254386353131
    key = ((key ^ (key >> 29)) * odd_numbers(rows.shape[1]).to(rows.device)).sum(1)
    number, counts = torch.unique(key, return_inverse=True, return_counts=True)[1:]
    return number, counts


def first_rows(number: Tensor, count: int) -> Tensor:
    """Return for each of the numbers 0, 1, ... count - 1 the first row that has it in `number` (N,); N if none has."""
    first = torch.full((count,), len(number), device=number.device)
    return first.scatter_reduce_(0, number, torch.arange(len(number), device=number.device), "amin")


def bits_of(rows: Tensor) -> Tensor:
    """Return the 64 bits of every value as float64, as int64 of the shape of `rows`; -0 has those of 0."""
    return (rows.double() + 0.0).contiguous().view(torch.int64)


def odd_numbers(count: int) -> Tensor:
    """Return random odd numbers (count,) int64, the same at every call: multiplying by them loses no bit."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(-(2**62), 2**62, (count,), generator=generator, device="cpu") * 2 + 1


ROTATION_LIMIT = 2048
"""Samples or units up to which `principal_coordinates` turns rows."""


def eigenvalues(matrix: Tensor) -> Tensor:
    """Return the eigenvalues (..., n) of symmetric matrices (..., n, n) in ascending order, float64."""
    found: Tensor = torch.linalg.eigvalsh(matrix.double())
    return found


def positive_part(values: Tensor) -> Tensor:
    """Return eigenvalues (..., n) of positive semidefinite matrices with those within rounding of zero set to zero."""
    least = values.shape[-1] * torch.finfo(values.dtype).eps * values.amax(-1, keepdim=True)
    return torch.where(values > least, values, 0.0)


def shares(weights: Tensor) -> Tensor:
    """Return `weights` (..., n) >= 0 divided by their sum; all 0 where the sum is 0."""
    total = weights.sum(-1, keepdim=True)
    return weights / torch.where(total > 0, total, torch.ones_like(total))


def shannon_bits(p: Tensor) -> Tensor:
    """Return the Shannon entropy -sum p log2 p over the last axis of `p` (..., n), with 0 log 0 = 0."""
    nats: Tensor = -torch.special.xlogy(p, p).sum(-1)
    return nats * BITS_PER_NAT


def renyi_bits(p: Tensor, alpha: float) -> Tensor:
    """Return the Renyi entropy log2(sum p^alpha) / (1 - alpha) over the last axis of `p` (..., n).

    At alpha = 1 it is its limit, the Shannon entropy -sum p log2 p.
    """
    if abs(alpha - 1.0) < 1e-9:
        return shannon_bits(p)
    return torch.log2(p.pow(alpha).sum(-1)) / (1.0 - alpha)


def principal_coordinates(z: Tensor) -> tuple[Tensor, Tensor]:
    """Rotate rows `z` (S, N, U) into the axes of their own Gram matrix, their principal coordinates.

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
