"""A logarithm is found exactly, a random walk is told from it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import infoplane
from infoplane.diagnostics import Place, log_time_fit

STEPS = np.unique(np.geomspace(1, 10000, 40).astype(int))


def test_a_logarithm():
    found = log_time_fit(np.concatenate([[0], STEPS]), np.concatenate([[0], 1 + 2 * np.log(STEPS)]), window=(1, 10000))
    assert (found.intercept, found.slope, found.r2) == pytest.approx((1, 2, 1))
    assert found.r2_root < 0.8
    rows = found.rows(Place(run="a", step=10000))
    assert [(row.quantity, row.flags) for row in rows] == [
        ("log-time slope", ""), ("log-time R2", ""), ("root-time R2", "")
    ]  # fmt: skip
    assert rows[0].config == '{"window":[1,10000]}'


def test_a_random_walk_is_no_logarithm():
    """In 2000 dimensions the distance is sqrt(t) within 1 / sqrt(4000) of itself: its fit is the better one."""
    walk = np.cumsum(np.random.default_rng(0).normal(size=(1000, 2000)), axis=0)
    found = log_time_fit(np.arange(1, 1001), np.linalg.norm(walk, axis=1), window=(1, 1000))
    assert found.r2_root > 0.999 > found.r2
    assert [row.flags for row in found.rows(Place())] == ["unreliable", "unreliable", ""]


def test_the_window_is_what_is_fitted():
    distance = np.where(STEPS < 100, 5.0, 5 + np.log(STEPS / 100))
    found = log_time_fit(STEPS, distance, window=(100, 10000))
    assert (found.slope, found.r2) == pytest.approx((1, 1))
    assert found.steps.min() >= 100
    few = log_time_fit([1, 10, 100], [0.0, 1.0, 2.0], window=(1, 100))
    assert "few_samples" in few.rows(Place())[0].flags


def test_a_high_learning_rate_moves_the_weights_with_the_logarithm_of_time():
    """Digits, SGD at 0.5: R2 is at least .95 from step 10 on, and that of the root lower (Hoffer et al.)."""
    x, y = map(torch.from_numpy, infoplane.datasets.digits())
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    start = torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    distance = []
    for batch in [b for _ in range(8) for b in torch.randperm(1200).split(32)]:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
        optimizer.step()
        distance.append(float((torch.nn.utils.parameters_to_vector(model.parameters()).detach() - start).norm()))
    found = log_time_fit(np.arange(1, len(distance) + 1), distance, window=(10, len(distance)))
    assert found.r2 >= 0.95 > found.r2_root


@pytest.mark.parametrize(
    ("steps", "distance", "window", "message"),
    [
        ([0, 1, 2], [0, 1, 2], (0, 2), r"from 1 on, since log 0 is not finite; got \(0, 2\)"),
        ([1, 2, 3], [0, 1, 2], (2, 3), "at least 3 points that differ, got 2 from step 2 to 3"),
        ([1, 2, 3], [1, 1, 1], (1, 3), "that differ"),
        ([1, 2, 3], [0, 1, 2], (1,), r"got \(1,\)"),
        ([5, 5, 5], [1, 2, 3], (1, 9), "at least 3 points that differ, got 1 from"),
        ([1, 2, 3], [1, 1], (1, 3), r"got \(3,\) and \(2,\)"),
        ([1, 2, 3], [1, np.nan, 2], (1, 3), "distance has 1 non-finite"),
    ],
)
def test_bad_input(steps, distance, window, message):
    with pytest.raises(ValueError, match=message):
        log_time_fit(steps, distance, window=window)
