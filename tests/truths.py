"""Samples and distributions with a known number of bits, and slow references, for every test of an estimator."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from infoplane import datasets

# I(T;Y) in bits of the 12-bit problem, T the first or the last k columns, k = 1..12.
FIRST_COLUMNS = (
    0.0339062579, 0.0709404345, 0.1108190831, 0.1591223431, 0.2091849754, 0.2608961427,
    0.3201247040, 0.3966851003, 0.4957202553, 0.6209631208, 0.7833368084, 0.9991571209,
)  # fmt: skip
LAST_COLUMNS = (
    0.0339062579, 0.0704015965, 0.1106783704, 0.1545979932, 0.2061546427, 0.2608961427,
    0.3314076839, 0.4081496914, 0.5010927264, 0.6235433027, 0.7833368084, 0.9991571209,
)  # fmt: skip
TWELVE_BIT_H_Y = 0.9991571208502711
BINOMIAL_H = 2.838528743648605
BINOMIAL_I_TY = 0.627641239216


def twelve_bit() -> tuple[Tensor, Tensor]:
    """(4096, 12) float64 words in counting order, first column the most significant bit, and their labels."""
    words = (torch.arange(4096)[:, None] >> torch.arange(11, -1, -1)) & 1
    return words.double(), torch.as_tensor(np.asarray(datasets.twelve_bit().y)).long()


def random_layer(
    seed: int, snapshots: int = 2, samples: int = 200, units: int = 3, classes: int = 3
) -> tuple[Tensor, Tensor]:
    """A tanh layer (S, N, U) float32 that knows something of the labels (N,)."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, classes, (samples,), generator=g)
    centres = torch.randn(classes, units, generator=g)
    noise = torch.randn(snapshots, samples, units, generator=g)
    return torch.tanh(centres[y] + 0.7 * noise), y


def tied_layer(seed: int, snapshots: int = 2, samples: int = 200, units: int = 3, classes: int = 3, step: float = 0.5):
    """The same with values rounded to multiples of `step`: many equal rows and ties."""
    t, y = random_layer(seed, snapshots, samples, units, classes)
    return torch.round(t / step) * step, y


def copied_label(samples: int = 1000, classes: int = 4) -> tuple[Tensor, Tensor, float]:
    """T = Y: (1, N, 1), labels, and I(T;Y) = H(Y) = log2 of the classes (which divide the samples)."""
    y = torch.arange(samples) % classes
    return y.double()[None, :, None], y, math.log2(classes)


def exclusive_or(samples: int = 1000) -> tuple[Tensor, Tensor]:
    """Two fair bits (1, N, 2) and their exclusive or: each unit alone has 0 bits about it, both have 1."""
    index = torch.arange(samples)
    bits = torch.stack([index & 1, (index >> 1) & 1], dim=1)
    return bits.double()[None], bits[:, 0] ^ bits[:, 1]


def from_counts(counts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """T (1, N, 1) and Y (N,) with the given contingency table counts[t][y]."""
    t = [a for a, row in enumerate(counts) for b, n in enumerate(row) for _ in range(n)]
    y = [b for a, row in enumerate(counts) for b, n in enumerate(row) for _ in range(n)]
    return torch.tensor(t).double()[None, :, None], torch.tensor(y)


def gaussian_channel(
    seed: int, samples: int, units: int, signal: float = 1.0, noise: float = 0.25
) -> tuple[Tensor, Tensor, float]:
    """X ~ N(0, signal I), T = X + N(0, noise I): both (N, U) float64, and I(X;T) in bits."""
    g = torch.Generator().manual_seed(seed)
    x = math.sqrt(signal) * torch.randn(samples, units, generator=g, dtype=torch.float64)
    t = x + math.sqrt(noise) * torch.randn(samples, units, generator=g, dtype=torch.float64)
    return x, t, units / 2 * math.log2(1 + signal / noise)


def correlated_gaussians(seed: int, samples: int, rho: float, units: int = 1) -> tuple[Tensor, Tensor, float]:
    """Pairs (N, U) with correlation rho in each unit, and their mutual information in bits."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, units, generator=g, dtype=torch.float64)
    z = torch.randn(samples, units, generator=g, dtype=torch.float64)
    return x, rho * x + math.sqrt(1 - rho**2) * z, -units / 2 * math.log2(1 - rho**2)


def slow_entropy_bits(values: Iterable[object]) -> float:
    """Plug-in entropy of hashable values."""
    values = list(values)
    n = len(values)
    return -sum(k / n * math.log2(k / n) for k in Counter(values).values())


def slow_information_bits(a: Sequence[object], b: Sequence[object]) -> float:
    """Plug-in mutual information of two sequences of hashable values."""
    return slow_entropy_bits(a) + slow_entropy_bits(b) - slow_entropy_bits(zip(a, b, strict=True))


def rows_as_tuples(codes: np.ndarray | Tensor) -> list[tuple[float, ...]]:
    """One hashable tuple per row of (N, U)."""
    return [tuple(row) for row in np.asarray(codes).tolist()]
