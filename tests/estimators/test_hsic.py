"""HSIC: population values of Gaussian pairs in closed form, dense reference, exact permutation means."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from infoplane.estimators import parse
from infoplane.estimators.hsic import Hsic


def test_nothing_stays_within_three_times_its_null():
    g = torch.Generator().manual_seed(0)
    y = torch.randn(1000, generator=g, dtype=torch.float64)
    t = torch.randn(1000, generator=g, dtype=torch.float64)[None, :, None]
    found = Hsic(sigma=1.0).estimate(t, y)
    assert 0 < float(found["HSIC(T;Y)"].value) < 3 * float(found["HSIC(T;Y) null"].value)


def test_ceiling_of_a_label_as_layer():
    classes, epsilon = 5, 0.01
    y = torch.arange(classes).repeat(20)
    t = 1e3 * torch.nn.functional.one_hot(y)[None].double()
    ceiling = Hsic(sigma=1.0, epsilon=epsilon).estimate(t, y)["nHSIC(T;Y)"].ceiling
    assert float(ceiling) == pytest.approx((classes - 1) / (1 + epsilon * classes), abs=1e-9)


def dense(t, other, epsilon):
    n = len(t)
    h = np.eye(n) - 1 / n
    k, low = h @ t @ h, h @ other @ h
    r, q = (m @ np.linalg.inv(m + epsilon * n * np.eye(n)) for m in (k, low))
    return np.trace(r @ q), np.trace(k @ low) / (n - 1) ** 2


def kernel(a, sigma):
    return np.exp(-((a[:, None] - a[None]) ** 2).sum(2) / (2 * sigma**2))


def random_case(samples=30):
    g = torch.Generator().manual_seed(1)
    t = torch.randn(2, samples, 3, generator=g, dtype=torch.float64)
    return t, torch.randint(3, (samples,), generator=g), torch.randn(samples, 4, generator=g, dtype=torch.float64)


def test_slow_reference():
    """A fixed sigma is in units of sqrt(units), as in Qian et al."""
    t, y, x = random_case()
    found = Hsic(sigma=0.8, epsilon=1e-3).estimate(t, y, x=x)
    for s in range(2):
        k = kernel(t[s].numpy(), 0.8 * math.sqrt(3))
        for pair, other in (("T;Y", (y[:, None] == y).numpy() * 1.0), ("X;T", kernel(x.numpy(), 0.8 * 2))):
            normalised, plain = dense(k, other, 1e-3)
            assert float(found[f"nHSIC({pair})"].value[s]) == pytest.approx(normalised, abs=1e-8)
            assert float(found[f"HSIC({pair})"].value[s]) == pytest.approx(plain, abs=1e-10)


def test_null_is_the_mean_over_all_permutations():
    """Six samples: all 720 permutations of the labels."""
    t, _, _ = random_case(6)
    y = torch.tensor([0, 0, 1, 1, 2, 0])
    estimator = Hsic(sigma=0.7, epsilon=0.01)
    once = estimator.estimate(t, y)
    values = [estimator.estimate(t, y[list(p)]) for p in itertools.permutations(range(6))]
    for name in ("nHSIC(T;Y)", "HSIC(T;Y)"):
        mean = torch.stack([v[name].value for v in values]).mean(0)
        torch.testing.assert_close(once[f"{name} null"].value, mean, atol=1e-10, rtol=0)


def test_narrow_kernels_leave_no_room_above_chance():
    t, y, _ = random_case(60)
    found = Hsic(sigma=0.01).estimate(t, y)["nHSIC(T;Y)"]
    assert found.flags["saturated"].all()
    assert not Hsic(sigma=3.0, epsilon=0.01).estimate(t, y)["nHSIC(T;Y)"].flags["saturated"].any()


def test_median_is_frozen_and_regression_works():
    t, _, x = random_case(50)
    y = x[:, 0]
    t[1] *= 5
    ready = Hsic().prepare([t], y)
    assert ready.run_sigma == pytest.approx(float(torch.pdist(t[1]).median()), rel=1e-9)
    found = ready.estimate(t, y)
    assert torch.equal(found["HSIC(T;Y)"].value[:1], ready.estimate(t[:1], y)["HSIC(T;Y)"].value)
    assert (found["nHSIC(T;Y)"].value >= 0).all()


def test_bad_settings_and_preset():
    assert parse("hsic@qian-2025").sigma == 50.0
    with pytest.raises(ValueError, match="epsilon must be between 0 and 1, got 0"):
        Hsic(epsilon=0)
    with pytest.raises(ValueError, match="max_samples must be at least 3, got 2"):
        Hsic(max_samples=2)
