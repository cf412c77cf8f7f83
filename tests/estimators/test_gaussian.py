"""Canonical correlations: determinants written out, closed forms, the exact bias, and what it cannot see."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from infoplane import datasets
from infoplane.estimators._canonical import independent_nats, least_shrinkage
from infoplane.estimators.gaussian import Gaussian


def estimate(t, y, **settings):
    t = torch.as_tensor(t)
    return Gaussian(**settings).estimate((t[:, None] if t.ndim == 1 else t)[None], torch.as_tensor(y))


def value(t, y, **settings) -> float:
    return float(estimate(t, y, **settings)["I(T;Y)"].value)


def slow_bits(t: np.ndarray, y: np.ndarray, share: float) -> float:
    """From determinants of the shrunk joint correlation matrix; Y is not shrunk where `y` has the indicators."""
    n, p = t.shape
    z = np.concatenate([t, y], 1)
    z = (z - z.mean(0)) / z.std(0)
    c = (1 - share) * z.T @ z / n + share * np.eye(z.shape[1])
    det = [np.linalg.slogdet(m)[1] for m in (c[:p, :p], c[p:, p:], c)]
    return 0.5 * (det[0] + det[1] - det[2]) / math.log(2)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.7])
@pytest.mark.parametrize("units", [3, 80])
def test_determinants_written_out(share, units):
    rng = np.random.default_rng(units)
    y = rng.standard_normal((60, 2))
    t = y @ rng.standard_normal((2, units)) + rng.standard_normal((60, units)) * 2
    if units > 60 and share == 0:
        t = t[:, :20]
    assert value(t, y, shrinkage=share, corrected=False) == pytest.approx(slow_bits(t, y, share), abs=1e-9)


def test_classes_as_indicator_columns():
    rng = np.random.default_rng(0)
    y = rng.integers(4, size=200)
    t = rng.standard_normal((200, 3)) + np.stack([y == 1, y == 2, y == 0], 1)
    indicators = np.stack([y == 0, y == 1, y == 3], 1).astype(float)  # any K - 1 of them span the same
    assert value(t, y, shrinkage=0.0, corrected=False) == pytest.approx(slow_bits(t, indicators, 0.0), abs=1e-9)


@pytest.mark.parametrize(("p", "q", "n"), [(1, 1, 20), (5, 2, 60), (30, 40, 200)])
def test_the_bias_of_independent_gaussians_is_exact(p, q, n):
    rng = np.random.default_rng(p)
    runs = [
        value(rng.standard_normal((n, p)), rng.standard_normal((n, q)), shrinkage=0.0, corrected=False)
        for _ in range(60)
    ]
    # lambda = 0 and no correction against the expectation of Wilks' Lambda, 4 standard errors.
    expected = independent_nats(p, q, n) / math.log(2)
    assert np.mean(runs) == pytest.approx(expected, abs=4 * np.std(runs) / math.sqrt(60))
    assert independent_nats(p, q, n) == pytest.approx(independent_nats(q, p, n))


def test_the_bias_is_interpolated_between_whole_dimensions():
    three, half, four = (independent_nats(9, q, 100) for q in (3, 3.5, 4))
    assert half == pytest.approx(0.5 * (three + four))
    assert independent_nats(80, 30, 100) == 0.5 * 80 * 30 / 100


@pytest.mark.parametrize(("samples", "units"), [(2000, 256), (200, 256), (100, 1000)])
def test_more_units_than_samples_show_nothing_without_dependence(samples, units):
    """Unshrunk: 27 bits, and thousands where the matrix has no inverse."""
    rng = np.random.default_rng(units)
    found = estimate(rng.standard_normal((samples, units)), rng.standard_normal((samples, units)))["I(T;Y)"]
    assert abs(float(found.value)) < 0.5
    assert bool(found.flags["unreliable"])


def test_shrinkage_leaves_the_stated_dimensions():
    values = torch.linspace(0.01, 4, 300, dtype=torch.float64)
    share = least_shrinkage(values, 25.0)
    assert float(((1 - share) * values / ((1 - share) * values + share)).sum()) == pytest.approx(25, rel=1e-6)
    assert least_shrinkage(values, 400.0) == pytest.approx(1e-6, rel=1e-3)


def test_blind_to_spread_and_curvature():
    shells = datasets.gaussian_shells(4000, stds=[0.3, 1.0, 3.0], dims=3, seed=4)
    assert shells.bits > 0.8
    assert abs(value(shells.t, shells.y)) < 0.02
    t = np.random.default_rng(5).standard_normal(4000)
    assert abs(value(t, t**2)) < 0.02


def test_classes_are_bounded_from_above_and_flagged_beyond_their_entropy():
    near = datasets.gaussian_classes(4000, means=[-0.8, 0.8], seed=6)
    assert near.bits < value(near.t, near.y) < near.bits + 0.1
    far = datasets.gaussian_classes(500, means=[-50.0, 50.0], seed=7)
    q = estimate(far.t, far.y)["I(T;Y)"]
    assert float(q.value) > float(q.ceiling)
    assert bool(q.flags["out_of_domain"])


def test_scales_offsets_and_linear_maps():
    known = datasets.gaussian_pair(500, bits=1.0, dims=2, seed=8)
    plain = value(known.t, known.y, shrinkage=0.0)
    assert value(known.t * np.array([1e-9, 1e200]), known.y - 1e4, shrinkage=0.0) == pytest.approx(plain, abs=1e-8)
    mixed = known.t @ np.array([[1.0, 2.0], [-0.5, 3.0]])
    assert value(mixed, known.y, shrinkage=0.0) == pytest.approx(plain, abs=1e-9)


def test_constant_sides():
    g = torch.Generator().manual_seed(0)
    t = torch.randn(2, 30, 2, generator=g)
    t[1] = 3.0
    q = Gaussian().estimate(t, torch.randn(30, generator=g))["I(T;Y)"]
    assert q.flags["degenerate"].tolist() == [False, True]
    assert float(q.value[1]) == 0
    assert value(t[0], torch.full((30,), 2.0)) == 0


@pytest.mark.parametrize("shrinkage", [-0.1, 1.5, "strong"])
def test_bad_shrinkage_is_named(shrinkage):
    with pytest.raises(ValueError, match=f"shrinkage must be 'auto' or between 0 and 1, got {shrinkage!r}"):
        Gaussian(shrinkage=shrinkage)
