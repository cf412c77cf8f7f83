"""Matrix-based Renyi entropy: block and circulant kernels in closed form, dense reference, published rules."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from infoplane.estimators import parse
from infoplane.estimators.renyi import MatrixRenyi


def random_layer(seed=0, samples=40, units=4):
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(3, (samples,), generator=g)
    t = torch.randn(2, samples, units, generator=g, dtype=torch.float64)
    t[..., 0] += 1.5 * y
    return t, y


def renyi(p, alpha):
    p = np.asarray(p, dtype=float)
    p = p[p > 1e-15]
    p = p / p.sum()
    return float(-(p * np.log2(p)).sum()) if alpha == 1 else float(np.log2((p**alpha).sum()) / (1 - alpha))


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.01, 2.0])
def test_ceiling_of_distant_clusters(alpha):
    sizes = [10, 20, 30, 40]
    y = torch.repeat_interleave(torch.arange(4), torch.tensor(sizes))
    t = 1e3 * torch.nn.functional.one_hot(y).double()[None]
    found = MatrixRenyi(alpha=alpha, width=1.0, standardize=False).estimate(t, y)
    assert float(found["Renyi I(T;Y)"].ceiling) == pytest.approx(renyi(sizes, alpha), abs=1e-9)
    assert found["Renyi S(T)"].unit == "Renyi bit"


def gram(a, sigma):
    d2 = ((a[:, None] - a[None]) ** 2).sum(2)
    return np.exp(-d2 / (2 * sigma**2))


@pytest.mark.parametrize("alpha", [1.0, 1.01])
def test_slow_reference(alpha):
    """Joint entropies from the full Hadamard product, not class by class."""
    t, y = random_layer()
    x = torch.randn(40, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = MatrixRenyi(alpha=alpha).estimate(t, y, x=x)
    for s in range(2):
        z = ((t[s] - t[s].mean(0)) / t[s].std(0, correction=0)).numpy()
        zx = ((x - x.mean(0)) / x.std(0, correction=0)).numpy()
        k, kx = gram(z, 2 * 40 ** (-1 / 8)), gram(zx, math.sqrt(5) * 40 ** (-1 / 9))
        ky = (y[:, None] == y[None]).numpy().astype(float)
        value = [renyi(np.linalg.eigvalsh(m), alpha) for m in (k, ky, k * ky, kx, k * kx)]
        assert float(found["Renyi S(T)"].value[s]) == pytest.approx(value[0], abs=1e-8)
        assert float(found["Renyi I(T;Y)"].value[s]) == pytest.approx(value[0] + value[1] - value[2], abs=1e-8)
        assert float(found["Renyi I(X;T)"].value[s]) == pytest.approx(value[0] + value[3] - value[4], abs=1e-8)


def test_real_targets_use_a_gaussian_kernel():
    t, _ = random_layer()
    y = t[0, :, :2].clone()
    found = MatrixRenyi().estimate(t[:1], y)
    z = ((y - y.mean(0)) / y.std(0, correction=0)).numpy()
    zt = ((t[0] - t[0].mean(0)) / t[0].std(0, correction=0)).numpy()
    k, ky = gram(zt, 2 * 40 ** (-1 / 8)), gram(z, math.sqrt(2) * 40 ** (-1 / 6))
    value = [renyi(np.linalg.eigvalsh(m), 1.01) for m in (k, ky, k * ky)]
    assert float(found["Renyi I(T;Y)"].value) == pytest.approx(value[0] + value[1] - value[2], abs=1e-8)


def test_informations_keep_to_their_bounds():
    """0 <= I <= min(S(T), S(Y)): the Hadamard product of kernels never has less entropy than either (Giraldo)."""
    for seed in range(5):
        t, y = random_layer(seed)
        found = MatrixRenyi().estimate(t, y)
        i, s = found["Renyi I(T;Y)"], found["Renyi S(T)"]
        assert (i.value > -1e-9).all()
        assert (i.value <= torch.minimum(i.ceiling, s.value) + 1e-9).all()
        assert (s.value <= s.ceiling + 1e-9).all()


def test_alignment_takes_the_best_of_its_grid():
    t, y = random_layer()
    found = MatrixRenyi(alpha=1.0, width="alignment", standardize=False).estimate(t, y)
    ky = (y[:, None] == y[None]).numpy().astype(float)
    for s in range(2):
        d = np.sqrt(((t[s, :, None] - t[s, None]) ** 2).sum(2).numpy())
        grid = np.linspace(0.1, 10, 300) * d.mean()
        scores = [(k := np.exp(-(d**2) / (2 * g**2)), (k * ky).sum() / np.linalg.norm(k))[1] for g in grid]
        assert float(found["kernel width"].value[s]) == pytest.approx(grid[int(np.argmax(scores))], rel=1e-6)
    assert found["kernel width"].unit == "units of T"


def test_narrow_kernels_saturate_and_say_so():
    t, y = random_layer()
    found = MatrixRenyi(width=1e-3).estimate(t, y)
    assert found["Renyi S(T)"].flags["saturated"].all()
    assert float(found["Renyi I(T;Y)"].value[0]) == pytest.approx(renyi(torch.bincount(y), 1.01), abs=1e-6)


def test_scale_free_when_standardised():
    t, y = random_layer()
    here, there = (MatrixRenyi().estimate(a, y)["Renyi I(T;Y)"].value for a in (t, 1e3 * t + 5))
    torch.testing.assert_close(here, there, atol=1e-8, rtol=0)


def test_presets_and_bad_settings():
    assert parse("renyi@wickstrom-2019").x_width == pytest.approx(8 / math.sqrt(2))
    assert parse("renyi@ipdl").gamma == 0.8
    assert parse("renyi@tapia-2020").alpha == 1.01
    with pytest.raises(ValueError, match="alpha must be positive and finite, got 0"):
        MatrixRenyi(alpha=0)
    with pytest.raises(ValueError, match="width must be a positive number, 'silverman' or 'alignment', got 'wide'"):
        MatrixRenyi(width="wide")


def test_subsample():
    t, y = random_layer(samples=80)
    found = MatrixRenyi(max_samples=50).estimate(t, y)["Renyi S(T)"]
    assert float(found.ceiling) == math.log2(50)
