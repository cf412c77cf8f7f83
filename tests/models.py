"""Networks as people have them, small: a model, its probe, and the layers that are recorded where nobody chose."""

import runpy
from pathlib import Path

import torch
from torch import nn

import infoplane

NETWORKS = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "networks.py"))


def resnet():
    x, y = map(torch.from_numpy, infoplane.datasets.digits())
    images = nn.functional.interpolate(x[:300].reshape(-1, 1, 8, 8), size=32).repeat(1, 3, 1, 1)
    blocks = [f"layer{stage}.{i}" for stage in (1, 2, 3, 4) for i in (0, 1)]
    return NETWORKS["ResNet18"](8), (images, y[:300]), ["relu", *blocks, "fc"]


def text(samples=300, tokens=12):
    """Sequences of which the class is that of most of their tokens."""
    y = torch.arange(samples) % 3
    ids = 2 + torch.where(torch.rand(samples, tokens) < 0.6, y[:, None], torch.randint(0, 3, (samples, tokens)))
    return ids + 3 * torch.randint(0, 4, (samples, tokens)), y


def bert():
    ids, y = text()
    mask = (torch.arange(12) < torch.randint(6, 13, (len(ids), 1))).long()
    blocks = [f"bert.encoder.layer.{i}" for i in range(4)]
    x = {"input_ids": ids, "attention_mask": mask}
    return NETWORKS["bert"](20, 12, 3), (x, y), ["bert.embeddings", *blocks, "classifier"]


def gpt2():
    ids, y = text()
    blocks = [f"transformer.h.{i}" for i in range(4)]
    return NETWORKS["gpt2"](20, 12, 3), ({"input_ids": ids}, y), ["transformer.wte", *blocks, "@out"]
