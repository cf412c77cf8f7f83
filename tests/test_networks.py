"""Networks as people have them: the lines of the README record their blocks, and the plane shows something."""

import re
import runpy
from pathlib import Path

import pytest
import torch
from torch import nn

import infoplane
from infoplane.plots import plane, plane_data
from infoplane.store import open_run

SPEC = "noise:relative_std=1.0"
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
    pytest.importorskip("transformers")
    ids, y = text()
    mask = (torch.arange(12) < torch.randint(6, 13, (len(ids), 1))).long()
    blocks = [f"bert.encoder.layer.{i}" for i in range(4)]
    x = {"input_ids": ids, "attention_mask": mask}
    return NETWORKS["bert"](20, 12, 3), (x, y), ["bert.embeddings", *blocks, "classifier"]


def gpt2():
    pytest.importorskip("transformers")
    ids, y = text()
    blocks = [f"transformer.h.{i}" for i in range(4)]
    return NETWORKS["gpt2"](20, 12, 3), ({"input_ids": ids}, y), ["transformer.wte", *blocks, "@out"]


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
