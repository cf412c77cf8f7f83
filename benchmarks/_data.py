"""Activations like those of the field's experiments, made from a seed."""

from __future__ import annotations

import torch
from torch import Tensor


def patterns(samples: int) -> Tensor:
    """(samples, 12) the 12-bit words in counting order as -1 and 1, repeated where more are asked for."""
    words = torch.arange(samples)[:, None] % 4096
    return 2.0 * ((words >> torch.arange(11, -1, -1)) & 1).float() - 1.0


def tanh_network(samples: int, widths: tuple[int, ...], snapshots: int, seed: int = 0) -> list[Tensor]:
    """One (snapshots, samples, width) float32 tensor per layer of a random tanh network whose gain grows."""
    g = torch.Generator().manual_seed(seed)
    inputs = patterns(samples)
    if samples > 4096:
        inputs = inputs + 0.3 * torch.randn(samples, 12, generator=g)
    weights, fan_in = [], inputs.shape[1]
    for width in widths:
        weights.append(torch.randn(fan_in, width, generator=g) / fan_in**0.5)
        fan_in = width
    layers = [torch.empty(snapshots, samples, width) for width in widths]
    for s in range(snapshots):
        gain = 1.0 + 2.0 * s / max(snapshots - 1, 1)
        h = inputs
        for layer, weight in zip(layers, weights, strict=True):
            h = torch.tanh(gain * (h @ weight))
            layer[s] = h
    return layers


def labels(samples: int, classes: int, seed: int = 1) -> Tensor:
    """(samples,) classes that depend on the inputs, with a tenth of them redrawn."""
    g = torch.Generator().manual_seed(seed)
    score = patterns(samples) @ torch.randn(12, classes, generator=g)
    noise = torch.randint(0, classes, (samples,), generator=g)
    return torch.where(torch.rand(samples, generator=g) < 0.1, noise, score.argmax(1))
