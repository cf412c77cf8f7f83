"""Networks as people have them: the lines of the README record their blocks, and the plane shows something."""

import re

import models
import pytest
import torch
from torch import nn

import infoplane
from infoplane.plots import plane, plane_data
from infoplane.store import open_run

SPEC = "noise:relative_std=1.0"


@pytest.mark.parametrize(
    ("make", "lr"),
    [
        pytest.param(models.resnet, 1e-2, marks=pytest.mark.slow),
        pytest.param(models.bert, 3e-3, marks=pytest.mark.extra),
        pytest.param(models.gpt2, 3e-3, marks=pytest.mark.extra),
    ],
)
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
def test_the_lines_of_the_readme_show_the_blocks(tmp_path, capfd, make, lr):
    if make is not models.resnet:
        pytest.importorskip("transformers")
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
