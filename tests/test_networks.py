"""Networks as people have them: the lines of the README record their blocks, and the plane shows something."""

import re

import pytest
import torch
from torch import nn

import infoplane
from infoplane.plots import plane, plane_data
from infoplane.store import open_run

SPEC = "noise:relative_std=1.0"


class Block(nn.Module):
    """Two 3 x 3 convolutions and the way around them; one ReLU serves twice, as in torchvision."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.relu, self.downsample = nn.ReLU(inplace=True), None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


class ResNet18(nn.Module):
    """He et al. (2016), Table 1, with a stem for 32 x 32 images; `width` channels in the first stage."""

    def __init__(self, width):
        super().__init__()
        self.conv1, self.bn1, self.relu = nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        for stage in range(4):
            wide = width << stage
            first = Block(max(width, wide // 2), wide, 2 if stage else 1)
            self.add_module(f"layer{stage + 1}", nn.Sequential(first, Block(wide, wide, 1)))
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(8 * width, 10)

    def forward(self, x):
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def resnet():
    x, y = map(torch.from_numpy, infoplane.datasets.digits())
    images = nn.functional.interpolate(x[:300].reshape(-1, 1, 8, 8), size=32).repeat(1, 3, 1, 1)
    blocks = [f"layer{stage}.{i}" for stage in (1, 2, 3, 4) for i in (0, 1)]
    return ResNet18(8), (images, y[:300]), ["relu", *blocks, "fc"]


def text(samples=300, tokens=12):
    """Sequences of which the class is that of most of their tokens."""
    y = torch.arange(samples) % 3
    ids = 2 + torch.where(torch.rand(samples, tokens) < 0.6, y[:, None], torch.randint(0, 3, (samples, tokens)))
    return ids + 3 * torch.randint(0, 4, (samples, tokens)), y


def bert():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=24, num_hidden_layers=4, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=16, num_labels=3, hidden_dropout_prob=0.0,
    )  # fmt: skip
    ids, y = text()
    mask = (torch.arange(12) < torch.randint(6, 13, (len(ids), 1))).long()
    blocks = [f"bert.encoder.layer.{i}" for i in range(4)]
    x = {"input_ids": ids, "attention_mask": mask}
    return transformers.BertForSequenceClassification(config), (x, y), ["bert.embeddings", *blocks, "classifier"]


def gpt2():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=20, n_embd=24, n_layer=4, n_head=4, n_positions=16, num_labels=3, pad_token_id=0,
        bos_token_id=1, eos_token_id=1, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    ids, y = text()
    blocks = [f"transformer.h.{i}" for i in range(4)]
    return (
        transformers.GPT2ForSequenceClassification(config),
        ({"input_ids": ids}, y),
        ["transformer.wte", *blocks, "@out"],
    )


@pytest.mark.parametrize(
    ("make", "lr"),
    [
        (resnet, 1e-2),
        pytest.param(bert, 3e-3, marks=pytest.mark.extra),
        pytest.param(gpt2, 3e-3, marks=pytest.mark.extra),
    ],
)
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
def test_the_lines_of_the_readme_show_the_blocks(tmp_path, capfd, make, lr):
    torch.manual_seed(0)
    model, (x, y), layers = make()
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    with infoplane.Recorder(model, probe=(x, y), run=tmp_path / "run") as recorder:
        for epoch in range(4):
            out = model(**x) if isinstance(x, dict) else model(x)
            loss = nn.functional.cross_entropy(getattr(out, "logits", out), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            recorder.snapshot(epoch, metrics={"loss": loss.item()})
    said = capfd.readouterr().err
    assert re.search(r"layers: \d+ \w+, and the last layer before.*maps and sequences as means", said)
    assert [layer.key for layer in recorder.layers] == layers
    assert {la.reduction.split()[0] for la in recorder.layers[:-1]} == {"mean"}
    assert recorder.chain is False
    store = open_run(tmp_path / "run")
    assert store.settings["chain"] is False
    assert store.settings["selection"] == "blocks"
    table = infoplane.analyze(tmp_path / "run", SPEC, progress=False)
    data = plane_data(table)
    assert data.layers == layers
    assert data.present.all()
    assert data.saturated.mean() < 0.2
    assert "no data-processing share: pooled layers are no chain" in data.caption
    plane(table)
