"""Units of a layer on one scale, and rows drawn with a recorded seed."""

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
