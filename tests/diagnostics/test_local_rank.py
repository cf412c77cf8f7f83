"""Local rank: a linear map has the rank of its matrix, exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from infoplane import datasets
from infoplane.diagnostics import Place, local_rank


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_linear_network(rank):
    rng = np.random.default_rng(0)
    w = rng.normal(size=(8, rank)) @ rng.normal(size=(rank, 6))
    found = local_rank(np.broadcast_to(w, (20, 8, 6)))
    assert found.ranks.tolist() == [rank] * 20
    assert found.mean == found.low == found.high == rank
    assert found.limit == 6


def test_threshold_is_relative_to_the_largest_of_each_sample():
    diagonal = np.array([1.0, 0.1, 1e-4])
    jacobians = np.stack([np.diag(s * diagonal) for s in (1e-8, 1.0, 1e8)])
    assert local_rank(jacobians, epsilon=1e-3).ranks.tolist() == [2, 2, 2]
    assert local_rank(jacobians, epsilon=1e-5).ranks.tolist() == [3, 3, 3]
    assert local_rank(jacobians, epsilon=0.5).ranks.tolist() == [1, 1, 1]


def test_relu_layer_has_the_rank_of_its_active_units():
    """J = diag(w x > 0) w: as many independent rows as there are active units."""
    rng = np.random.default_rng(1)
    w, x = rng.normal(size=(5, 9)), rng.normal(size=(50, 9))
    active = x @ w.T > 0
    found = local_rank(active[:, :, None] * w)
    assert found.ranks.tolist() == active.sum(1).tolist()
    half = 1.959963984540054 * active.sum(1).std(ddof=1) / np.sqrt(50)
    assert (found.low, found.high) == pytest.approx((found.mean - half, found.mean + half))


def test_batches_are_one_sample():
    rng = np.random.default_rng(2)
    a = rng.normal(size=(10, 3, 4))
    whole, parts, generator = local_rank(a), local_rank([a[:4], a[4:]]), local_rank(b for b in (a[:1], a[1:]))
    assert whole.ranks.tolist() == parts.ranks.tolist() == generator.ranks.tolist()
    assert whole.source == parts.source == generator.source


def test_rows():
    row = local_rank(np.zeros((3, 2, 2))).rows(Place(run="a", step=4, layer="fc1", depth=1))[0]
    assert (row.run, row.step, row.layer, row.quantity, row.value) == ("a", 4, "fc1", "local rank", 0.0)
    assert row.config == '{"epsilon":0.001}'
    assert row.flags == "degenerate"
    assert (row.unit, row.ceiling, row.n_samples) == ("dimensions", 2.0, 3)


@pytest.mark.parametrize(
    ("jacobians", "epsilon", "message"),
    [
        (np.zeros((2, 2)), 1e-3, r"shape \(samples, outputs, inputs\), got \(2, 2\)"),
        (np.zeros((2, 2, 2)), 0.0, "between 0 and 1, got 0.0"),
        (np.full((2, 2, 2), np.nan), 1e-3, "8 non-finite entries"),
        (np.zeros((0, 2, 2)), 1e-3, "at least one Jacobian"),
        ([np.zeros((1, 2, 2)), np.zeros((1, 3, 3))], 1e-3, r"must agree in shape, got \(3, 3\)"),
    ],
)
def test_bad_input(jacobians, epsilon, message):
    with pytest.raises(ValueError, match=message):
        local_rank(jacobians, epsilon)


@pytest.mark.slow
def test_weight_decay_lowers_the_rank_late_in_training():
    """Digits with weight decay: the mean local rank ends below its maximum in at least 4 of 5 seeds (Patel and
    Shwartz-Ziv)."""
    x, y = (torch.from_numpy(a) for a in datasets.digits())
    x = x.float() / x.max()
    fallen = 0
    for seed in range(5):
        torch.manual_seed(seed)
        net = torch.nn.Sequential(
            torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10)
        )
        optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=0.3)
        means = []
        for epoch in range(301):
            if epoch % 60 == 0:
                jacobian = torch.func.vmap(torch.func.jacrev(net[:3]))
                means.append(local_rank(jacobian(x[:100]).detach().numpy(), epsilon=1e-2).mean)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(x), y).backward()
            optimizer.step()
        fallen += means[-1] < max(means)
    assert fallen >= 4
