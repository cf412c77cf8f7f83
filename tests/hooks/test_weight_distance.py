"""The distance of the weights from their start, recorded live, from checkpoints, and over a resumed run."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import infoplane
from infoplane.hooks import CollectionRecorder, Recorder, replay
from infoplane.plots import curves

X, Y = torch.randn(32, 4, generator=torch.Generator().manual_seed(0)), torch.arange(32) % 2


def net() -> nn.Sequential:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2))
    model[2].requires_grad_(False)
    return model


def train(model, run, steps, *, folder=None, **options):
    """Distances by layer at steps 0, 1, ... of a training, with checkpoints; the weights of the start."""
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    by_hand = []
    with Recorder(model, (X, Y), run, schedule=1, quiet=True, **{"weight_distance": True, **options}) as recorder:
        for step in steps:
            if step:
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(X), Y).backward()
                optimizer.step()
                recorder.snapshot(step)
            moved = [p.detach() - start[n] for n, p in model.named_parameters() if p.requires_grad]
            by_hand.append(float(torch.cat([m.flatten() for m in moved]).norm()))
            if folder is not None:
                torch.save(model.state_dict(), folder / f"step-{step}.pt")
    return start, by_hand


def recorded(run, layer=""):
    found = [
        (s, v) for s, _, name, of, v in infoplane.open_run(run).metrics() if (name, of) == ("weight_distance", layer)
    ]
    return dict(sorted(found))


def test_live_and_from_checkpoints(tmp_path):
    """Trained parameters alone: neither the frozen layer nor the buffers of the norm. Replay gives the same."""
    _, by_hand = train(net(), tmp_path / "live", range(4), folder=tmp_path)
    found = recorded(tmp_path / "live")
    assert list(found.values()) == pytest.approx(by_hand, rel=1e-6)
    assert found[0] == 0 < found[3]
    layers = [recorded(tmp_path / "live", layer)[3] for layer in ("0", "1", "4")]
    assert np.linalg.norm(layers) == pytest.approx(found[3])
    assert recorded(tmp_path / "live", "2") == {}
    files = sorted(tmp_path.glob("*.pt"))
    for series, new in ((files[:2], (0, 1)), (files, (2, 3)), (files, ())):  # each goes on where the last one ended
        again = replay(net(), (X, Y), tmp_path / "replayed", series, weight_distance=True, quiet=True, progress=False)
        assert again.recorded == new
    assert recorded(tmp_path / "replayed") == found
    table = infoplane.analyze(tmp_path / "live", "binning", progress=False)
    assert curves(table, quantity="I(X;T)", metrics="weight_distance").figure.axes[1].get_ylabel() == "weight_distance"


def test_a_run_that_goes_on_is_given_the_weights_of_its_start(tmp_path):
    model = net()
    start, _ = train(model, tmp_path / "run", range(3))
    with pytest.raises(ValueError, match="this run goes on after step 2; give those of its start"):
        train(model, tmp_path / "run", range(3, 5), resume=True)
    train(model, tmp_path / "run", range(3, 5), resume=True, weight_distance=start)
    train(net(), tmp_path / "whole", range(5))
    assert recorded(tmp_path / "run") == pytest.approx(recorded(tmp_path / "whole"), rel=1e-6)


def test_training_goes_on_as_without(tmp_path):
    with_it, without = net(), net()
    train(with_it, tmp_path / "a", range(3))
    train(without, tmp_path / "b", range(3), weight_distance=False)
    assert recorded(tmp_path / "b") == {}
    assert all(torch.equal(p, q) for p, q in zip(with_it.parameters(), without.parameters(), strict=True))


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"0.weigt": torch.zeros(3, 4)}, ValueError, "no start of parameter '0.weight'; closest: 0.weigt"),
        ({"0.weight": torch.zeros(4, 3)}, ValueError, r"'0.weight' of shape \(4, 3\), the model \(3, 4\)"),
        (1, TypeError, "must be True, or the weights of the start by parameter name, got int"),
    ],
)
def test_what_is_refused_before_anything_is_written(given, error, message, tmp_path):
    with pytest.raises(error, match=message), Recorder(net(), (X, Y), tmp_path / "run", weight_distance=given):
        pass
    assert not (tmp_path / "run").exists()


def test_collections_and_frozen_models_are_refused(tmp_path):
    with pytest.raises(ValueError, match="of one network"):
        CollectionRecorder(
            nn.Linear(4, 2), (X, Y), tmp_path / "run{member}", members=2, member_dim=0, weight_distance=True
        )
    with (
        pytest.raises(ValueError, match="none of the model is"),
        Recorder(net().requires_grad_(False), (X, Y), tmp_path / "run", weight_distance=True),
    ):
        pass
