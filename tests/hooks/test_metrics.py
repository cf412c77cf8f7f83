"""Gradient moments and norms against their definition."""

import math

import pytest
import torch
from recording import recorder
from torch import nn

from infoplane.hooks import GradientMoments, every
from infoplane.hooks.metrics import weight_norms

G = torch.Generator().manual_seed(0)
X, Y = torch.randn(64, 4, generator=G), torch.randint(0, 2, (64,), generator=G)


def net():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))
    model[2].bias.requires_grad_(False)
    return model


def steps(model, optimizer, batches, each=lambda: None):
    gradients = []
    for rows in batches:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X[rows]), Y[rows]).backward()
        each()
        gradients.append([None if p.grad is None else p.grad.clone().double() for p in model.parameters()])
        optimizer.step()
    return gradients


def expected(gradients, which):
    stacked = [torch.stack([g[i] for g in gradients]) for i in which]
    mean = math.sqrt(sum(float(s.mean(0).square().sum()) for s in stacked))
    std = math.sqrt(sum(float(s.var(0).sum()) for s in stacked))
    return mean, std


@pytest.mark.parametrize("with_optimizer", [False, True])
def test_against_stored_gradients(with_optimizer):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    batches = torch.arange(64).split(8)
    with GradientMoments(model, optimizer if with_optimizer else None) as moments:
        for _ in range(2):
            gradients = steps(model, optimizer, batches)
            taken = moments.take()
            for name, which in (("0", (0, 1)), ("2", (2,))):
                mean, std = expected(gradients, which)
                assert float(taken[name, "gradient_mean_norm"]) == pytest.approx(mean, rel=1e-5)
                assert float(taken[name, "gradient_std_norm"]) == pytest.approx(std, rel=1e-5)
                assert float(taken[name, "gradient_steps"]) == 8
            assert len(taken) == 6
    steps(model, optimizer, batches)
    assert moments.take() == {}


def test_a_large_mean_does_not_swamp_a_small_spread():
    """Sums of squares in float32 would lose it: mean 1e4, std 1e-1."""
    w = nn.Linear(1, 1, bias=False)
    values = 1e4 + 0.1 * torch.randn(200, generator=G)
    with GradientMoments(w) as moments:
        for v in values:
            w.zero_grad()
            w(v[None, None]).sum().backward()
    assert float(moments.take()["@out", "gradient_std_norm"]) == pytest.approx(float(values.double().std()), rel=1e-2)


def test_with_an_optimizer_clipped_gradients_count():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    with GradientMoments(model, optimizer) as moments:
        gradients = steps(
            model, optimizer, torch.arange(64).split(16), lambda: nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
        )
    mean, _ = expected(gradients, (0, 1))
    assert mean < 1e-3
    assert float(moments.take()["0", "gradient_mean_norm"]) == pytest.approx(mean, rel=1e-5)


def test_one_step_has_no_spread():
    model = net()
    with GradientMoments(model) as moments:
        steps(model, torch.optim.SGD(model.parameters(), lr=0.1), [slice(0, 8)])
    taken = moments.take()
    assert ("0", "gradient_std_norm") not in taken
    assert float(taken["0", "gradient_steps"]) == 1


def test_weight_norms():
    model = net()
    norms = weight_norms(model)
    assert list(norms) == [("0", "weight_norm"), ("2", "weight_norm")]
    value = torch.cat([p.detach().flatten() for p in model[0].parameters()]).norm()
    assert float(norms["0", "weight_norm"]) == pytest.approx(float(value), rel=1e-6)
    model[2].weight = model[0].weight  # a shared parameter counts once, for the first
    assert weight_norms(model)["2", "weight_norm"] == model[2].bias.detach().norm()


def test_snapshots_carry_the_steps_since_the_call_before():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    kept = []
    with GradientMoments(model, optimizer) as moments:
        rec, sink = recorder(model, (X, Y), schedule=every(2), gradients=moments)
        with rec:
            for epoch in range(1, 6):
                kept.append(steps(model, optimizer, torch.arange(64).split(16)))
                rec.snapshot(epoch)
    assert sink.steps == [0, 2, 4, 5]
    assert set(sink.snapshots[0].layer_metrics) == {("0", "weight_norm"), ("2", "weight_norm")}
    for snapshot in sink.snapshots[1:]:
        mean, std = expected(kept[snapshot.step - 1], (0, 1))
        assert snapshot.layer_metrics["0", "gradient_mean_norm"] == pytest.approx(mean, rel=1e-5)
        assert snapshot.layer_metrics["0", "gradient_std_norm"] == pytest.approx(std, rel=1e-5)
        assert snapshot.layer_metrics["0", "gradient_steps"] == 4
    assert sink.snapshots[-1].layer_metrics["2", "weight_norm"] == pytest.approx(
        float(weight_norms(model)["2", "weight_norm"])
    )
