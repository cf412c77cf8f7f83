"""Networks with a noisy code that learn five overlapping classes in the plane from 50 points."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import common
import torch
from torch import Tensor, nn

from infoplane.hooks import CollectionRecorder, NoiseInjection

WIDTHS = {"wide": (256, 256, 128, 128), "narrow": (32, 32, 16, 16)}
DECAYS, CODE, NOISE = (0.0, 0.01, 0.1), "linear3", 1.0


def blobs(samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """Five Gaussian classes of std 0.7 at the corners of a pentagon: (samples, 2) and labels."""
    y = torch.arange(samples) % 5
    angle = 2.0 * math.pi * y / 5
    noise = 0.7 * torch.randn(samples, 2, generator=torch.Generator().manual_seed(seed))
    return 2.0 * torch.stack([angle.cos(), angle.sin()], 1) + noise, y


def train(out: Path, width: str, draw: int, seeds: int, *, shuffle: bool) -> list[Path]:
    """Every weight decay and seed of one network and one draw of the points, in one program."""
    (x, y), (test_x, test_y) = blobs(50, draw), blobs(250, 1000 + draw)
    if shuffle:
        y = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(0))]
    each = list(itertools.product(DECAYS, range(seeds)))
    decay = torch.tensor([d for d, _ in each])
    model = common.stacked_mlp((2, *WIDTHS[width], 5), nn.ReLU, 2.0**0.5, [10 * draw + seed for _, seed in each])
    weights = sum(p.numel() for p in model.parameters()) // len(each)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    runs = [out / f"{width}-{draw}-{d:g}-{seed}" for d, seed in each]
    about = [{"weights": weights, "draw": draw, "decay": d, "seed": seed} for d, seed in each]
    every = torch.cat([x, test_x]), torch.cat([y, test_y])
    parts = {"train": torch.arange(50).expand(len(each), -1), "test": torch.arange(50, 300).expand(len(each), -1)}
    with (
        NoiseInjection(model, CODE, std=NOISE, seed=draw),
        CollectionRecorder(
            model,
            (x, y),
            runs,
            member_dim=0,
            members=len(each),
            layers=[CODE],
            quiet=True,
            about=about,
            repeats=(5, 2),
        ) as recorder,
    ):
        for _ in range(300):
            loss = common.member_loss(model(x), y.expand(len(each), -1))
            loss = loss + sum(0.5 * decay @ p.square().flatten(1).sum(1) for p in model.parameters())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        ten = [common.accuracy_and_loss(model, *every, parts) for _ in range(10)]
        recorder.snapshot(300, metrics={k: torch.stack([t[k] for t in ten]).mean(0) for k in ten[0]}, force=True)
    return runs
