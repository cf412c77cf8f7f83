"""Networks as people have them, at the smallest size, and what they read: images for ResNet-18, words for the rest."""

from __future__ import annotations

import re
from collections import Counter

import torch
from torch import Tensor, nn

import infoplane

WORDS = 12
Inputs = Tensor | dict[str, Tensor]


class Block(nn.Module):
    """Two 3 x 3 convolutions and the way around them; one ReLU serves twice, as in torchvision."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.relu, self.downsample = nn.ReLU(inplace=True), None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


class ResNet18(nn.Module):
    """He et al. (2016), Table 1, with a stem for 32 x 32 images; `width` channels in the first stage."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu = nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        for stage in range(4):
            wide = width << stage
            first = Block(max(width, wide // 2), wide, 2 if stage else 1)
            self.add_module(f"layer{stage + 1}", nn.Sequential(first, Block(wide, wide, 1)))
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(8 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def bert(words: int, tokens: int, classes: int, width: int = 24) -> nn.Module:
    """Devlin et al. (2019) with four layers; word 0 is padding."""
    import transformers

    config = transformers.BertConfig(
        vocab_size=words, hidden_size=width, num_hidden_layers=4, num_attention_heads=4, intermediate_size=2 * width,
        max_position_embeddings=tokens, num_labels=classes,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config)


def gpt2(words: int, tokens: int, classes: int, width: int = 24) -> nn.Module:
    """Radford et al. (2019) with four layers; word 0 is padding, and the last other word is what the head reads."""
    import transformers

    config = transformers.GPT2Config(
        vocab_size=words, n_embd=width, n_layer=4, n_head=4, n_positions=tokens, num_labels=classes,
        pad_token_id=0, bos_token_id=1, eos_token_id=1,
    )  # fmt: skip
    return transformers.GPT2ForSequenceClassification(config)


def at(x: Inputs, rows: Tensor | slice) -> Inputs:
    """Some of the samples."""
    return {name: one[rows] for name, one in x.items()} if isinstance(x, dict) else x[rows]


def mixed(x: Inputs, y: Tensor) -> tuple[Inputs, Tensor]:
    """The samples in another order."""
    order = torch.randperm(len(y))
    return at(x, order), y[order]


def images() -> tuple[Inputs, Tensor]:
    """The digits at 32 x 32 pixels, three channels alike."""
    x, y = map(torch.from_numpy, infoplane.datasets.digits())
    x = nn.functional.interpolate(x.reshape(-1, 1, 8, 8), size=32, mode="bilinear").repeat(1, 3, 1, 1)
    return mixed(x, y)


def sentences() -> tuple[Inputs, Tensor, int]:
    """Up to twelve words of speech (1) or narration (0), as numbers from 1 on, 0 for padding; how many numbers."""
    parts = re.split(r"`(.*?)'(?![a-z])", infoplane.datasets.text(), flags=re.S)
    runs = [(re.findall(r"[a-z]+(?:'[a-z]+)?", part.lower()), i % 2) for i, part in enumerate(parts)]
    cut = [(words[i : i + WORDS], spoken) for words, spoken in runs for i in range(0, len(words), WORDS)]
    cut = [(words, spoken) for words, spoken in cut if len(words) >= WORDS // 2]
    known = [word for word, times in Counter(word for words, _ in cut for word in words).items() if times >= 5]
    number = {word: i for i, word in enumerate(known, 2)}
    ids = torch.zeros(len(cut), WORDS, dtype=torch.long)
    for row, (words, _) in zip(ids, cut, strict=True):
        row[: len(words)] = torch.tensor([number.get(word, 1) for word in words])
    x = {"input_ids": ids, "attention_mask": (ids > 0).long()}
    return *mixed(x, torch.tensor([spoken for _, spoken in cut])), len(known) + 2
