"""Rows of a layer: units on one scale, rows drawn with a recorded seed, and which rows are equal."""

from __future__ import annotations

import torch
from torch import Tensor


def zscore(t: Tensor) -> Tensor:
    """Float64 copy of `t` (..., N, U) with mean 0 and standard deviation 1 for every unit over the samples.

    A unit whose spread is no more than rounding of its own type (4 eps of its largest value) is constant: 0.
    """
    exact = t.dtype == torch.float64 or not t.is_floating_point()
    eps = torch.finfo(torch.float64 if exact else torch.float32).eps
    z = t.double()
    largest = z.abs().amax(-2, keepdim=True)
    # Division before anything is squared: 1e300 and 1e-300 are ordinary values.
    z = z / torch.where(largest > 0, largest, torch.ones_like(largest))
    z = z - z.mean(-2, keepdim=True)
    z = z - z.mean(-2, keepdim=True)
    std = z.square().mean(-2, keepdim=True).sqrt()
    varies = std > 4 * eps
    return torch.where(varies, z / torch.where(varies, std, torch.ones_like(std)), torch.zeros_like(z))


def is_constant(t: Tensor) -> Tensor:
    """(S,) whether all samples of a snapshot of `t` (S, N, U) are equal."""
    return (t.amax(1) == t.amin(1)).all(1)


def drawn_rows(samples: int, limit: int, seed: int) -> Tensor | None:
    """Sorted indices (limit,) of a random subset without repetition, or None where all `samples` fit."""
    if samples <= limit:
        return None
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(samples, generator=generator, device="cpu")[:limit].sort().values


def equal_rows(rows: Tensor) -> Tensor:
    """How many other rows equal each row of `rows` (N, D) float64, (N,) int64."""
    number, counts = numbered_rows(rows)
    others: Tensor = counts[number] - 1
    return others


def numbered_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """A number (N,) int64 for each row of `rows` (N, D), the same for equal rows, and how often each comes."""
    bits = bits_of(rows) if rows.is_floating_point() else rows.to(torch.int64)  # exact beyond 2**53, too
    # Round numbers differ in their high bits only: brought down before they are multiplied.
    key = (bits ^ (bits >> 32)) * -7046029254386353131
    key = ((key ^ (key >> 29)) * odd_numbers(rows.shape[1]).to(rows.device)).sum(1)
    number, counts = torch.unique(key, return_inverse=True, return_counts=True)[1:]
    return number, counts


def bits_of(rows: Tensor) -> Tensor:
    """The 64 bits of every value as float64, int64 of the shape of `rows`; -0 has those of 0."""
    return (rows.double() + 0.0).contiguous().view(torch.int64)


def odd_numbers(count: int) -> Tensor:
    """(count,) int64 random odd numbers, the same at every call: multiplying by them loses no bit."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(-(2**62), 2**62, (count,), generator=generator, device="cpu") * 2 + 1
