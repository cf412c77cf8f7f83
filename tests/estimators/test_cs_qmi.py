"""Cauchy-Schwarz quadratic mutual information: Gaussian pairs and classes in closed form, slow reference."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from truths_table import gaussian_cs

from infoplane.estimators import parse
from infoplane.estimators.cs_qmi import CauchySchwarz


def test_nothing_is_near_zero_and_inputs_that_are_the_target_say_the_same():
    t = torch.randn(1200, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = CauchySchwarz(sigma=1.0).estimate(t[None, :, 1:], t[:, 0], x=t[:, :1])
    assert 0 <= float(found["CS-QMI(T;Y)"].value) < 5 / 1200
    assert torch.equal(found["CS-QMI(X;T)"].value, found["CS-QMI(T;Y)"].value)
    assert found["CS-QMI(T;Y)"].unit == "CS bit"


def test_published_scale_of_a_strong_correlation():
    """Correlation 0.9 at width 1 is 0.19 CS bit, where Shannon's is 1.2 bit."""
    assert gaussian_cs(0.9) == pytest.approx(0.19, abs=0.005)


def kernel(a, b, sigma):
    return np.exp(-((a[:, None] - b[None]) ** 2).sum(2) / (2 * sigma**2))


def slow(k, low):
    n = len(k)
    joint = sum(k[i, j] * low[i, j] for i in range(n) for j in range(n)) / n**2
    cross = sum(k[i].sum() * low[i].sum() for i in range(n)) / n**3
    return math.log2(joint) + math.log2(k.sum() * low.sum() / n**4) - 2 * math.log2(cross)


def random_case(samples=30, units=3):
    g = torch.Generator().manual_seed(1)
    x = torch.randn(samples, 4, generator=g, dtype=torch.float64)
    t = torch.randn(2, samples, units, generator=g, dtype=torch.float64) + x[:, :1]
    return t, torch.randint(3, (samples,), generator=g), x


def test_slow_reference():
    t, y, x = random_case()
    found = CauchySchwarz(sigma=1.2, standardize=False).estimate(t, y, x=x)
    for s in range(2):
        k, kx = kernel(t[s].numpy(), t[s].numpy(), 1.2), kernel(x.numpy(), x.numpy(), 1.2)
        ky = (y[:, None] == y).numpy() * 1.0
        assert float(found["CS-QMI(T;Y)"].value[s]) == pytest.approx(slow(k, ky), abs=1e-10)
        ratio = slow(k, kx) / math.sqrt(slow(k, k) * slow(kx, kx))
        assert float(found["normalized CS-QMI(X;T)"].value[s]) == pytest.approx(ratio, abs=1e-10)


def test_conditional_divergence_against_double_sums():
    t, _, x = random_case(units=2)
    y = x[:, :2] + 0.1
    found = CauchySchwarz(sigma=0.9, standardize=False).estimate(t, y, x=x)["conditional CS divergence"]
    kx = kernel(x.numpy(), x.numpy(), 0.9)
    yy = kernel(y.numpy(), y.numpy(), 0.9)
    for s in range(2):
        tt, yt = kernel(t[s].numpy(), t[s].numpy(), 0.9), kernel(y.numpy(), t[s].numpy(), 0.9)
        a, b, c = (
            sum(sum(kx[j, i] * m[j, i] for i in range(30)) / kx[j].sum() ** 2 for j in range(30)) for m in (yy, tt, yt)
        )
        assert float(found.value[s]) == pytest.approx(math.log2(a) + math.log2(b) - 2 * math.log2(c), abs=1e-10)


def test_conditional_divergence_of_a_perfect_output_is_zero_and_grows_with_error():
    g = torch.Generator().manual_seed(2)
    x = torch.randn(200, 3, generator=g, dtype=torch.float64)
    y = x[:, :1] * 2
    error = torch.randn(200, 1, generator=g, dtype=torch.float64)
    t = torch.stack([y + e * error for e in (0.0, 0.3, 1.0, 3.0)])
    value = CauchySchwarz(sigma=1.0).estimate(t, y, x=x)["conditional CS divergence"].value
    assert float(value[0]) == pytest.approx(0.0, abs=1e-12)
    assert (value.diff() > 0).all()
    lost = CauchySchwarz(sigma=1e-4).estimate(t + 100, y, x=x)["conditional CS divergence"]
    assert lost.flags["out_of_domain"].all()
    assert torch.isfinite(lost.value).all()
    # Only the output of a regression has one.
    assert "conditional CS divergence" not in CauchySchwarz().estimate(t.repeat(1, 1, 2), y, x=x)


def test_never_negative():
    """Cauchy-Schwarz itself: the joint and product embeddings have a cosine of at most 1."""
    for seed in range(5):
        g = torch.Generator().manual_seed(seed)
        t, y = torch.randn(3, 40, 2, generator=g), torch.randint(2, (40,), generator=g)
        assert (CauchySchwarz().estimate(t, y)["CS-QMI(T;Y)"].value > -1e-12).all()


def test_width_rules_and_flags():
    t, y, _ = random_case(50)
    ready = CauchySchwarz().prepare([t], y)
    z = (t[1] - t[1].mean(0)) / t[1].std(0, correction=0)
    assert ready.run_sigma == pytest.approx(float(torch.pdist(z).median()), rel=1e-9)
    assert torch.equal(
        ready.estimate(t, y)["CS-QMI(T;Y)"].value,
        CauchySchwarz(sigma=ready.run_sigma).estimate(t, y)["CS-QMI(T;Y)"].value,
    )
    assert CauchySchwarz(sigma=1e-3).estimate(t, y)["CS-QMI(T;Y)"].flags["saturated"].all()
    assert parse("cs-qmi@yu-2024").sigma == 1.0
    with pytest.raises(ValueError, match="max_samples must be at least 2, got 1"):
        CauchySchwarz(max_samples=1)
