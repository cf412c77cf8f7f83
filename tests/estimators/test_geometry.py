"""Spectral geometry: spectra built to order, dense singular value decompositions as reference."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from infoplane.estimators.geometry import Geometry


def with_spectrum(values, samples=600, seed=0, mean=0.0):
    """Rows whose centred singular values are `values` exactly."""
    g = torch.Generator().manual_seed(seed)
    d = len(values)
    a = torch.randn(samples, d, generator=g, dtype=torch.float64)
    left = torch.linalg.qr(a - a.mean(0))[0]
    right = torch.linalg.qr(torch.randn(d, d, generator=g, dtype=torch.float64))[0]
    return (left * torch.as_tensor(values, dtype=torch.float64) @ right.T + mean)[None]


def labels(samples):
    return torch.arange(samples) % 3


def test_power_laws_are_reliable_and_ranks_have_their_ceiling():
    """The values of such spectra are in truths_table.py."""
    laws = torch.cat([with_spectrum([i ** (-a / 2) for i in range(1, 121)]) for a in (0.3, 1.0, 2.5)])
    assert not Geometry().estimate(laws, labels(600))["alpha-ReQ"].flags["unreliable"].any()
    found = Geometry().estimate(with_spectrum([3.0] * 7 + [0.0] * 43), labels(600))
    for name, q in found.items():
        if name.startswith("RankMe") or name == "participation ratio":
            assert q.unit == "dimensions"
            assert float(q.ceiling) == 50


def test_alpha_req_against_weighted_least_squares():
    t = torch.randn(1, 300, 40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    t = t * torch.linspace(0.2, 3, 40, dtype=torch.float64)
    values = np.linalg.eigvalsh(np.cov(t[0].numpy().T))[::-1]
    rank = np.arange(6, 41)
    slope, _ = np.polyfit(np.log(rank), np.log(values[5:40]), 1, w=np.sqrt(1 / rank))
    fit = np.average(np.log(values[5:40]), weights=1 / rank)
    line = np.polyval(np.polyfit(np.log(rank), np.log(values[5:40]), 1, w=np.sqrt(1 / rank)), np.log(rank))
    r2 = 1 - np.average((np.log(values[5:40]) - line) ** 2, weights=1 / rank) / np.average(
        (np.log(values[5:40]) - fit) ** 2, weights=1 / rank
    )
    found = Geometry().estimate(t, labels(300))
    assert float(found["alpha-ReQ R2"].value) == pytest.approx(r2, abs=1e-9)
    if r2 >= 0.8:
        assert float(found["alpha-ReQ"].value) == pytest.approx(-slope, abs=1e-9)


def test_no_exponent_where_there_is_no_power_law():
    step = Geometry().estimate(with_spectrum([1.0] * 60 + [1e-3] * 60), labels(600))
    assert step["alpha-ReQ"].flags["unreliable"].all()
    assert math.isnan(float(step["alpha-ReQ"].value))
    assert float(step["alpha-ReQ R2"].value) < 0.8
    assert "alpha-ReQ" not in Geometry().estimate(with_spectrum([1.0] * 11), labels(600))
    flat = Geometry().estimate(with_spectrum([1.0] * 30), labels(600))
    assert float(flat["alpha-ReQ"].value) == pytest.approx(0.0, abs=1e-9)


def test_isotropic_gaussian_has_nearly_all_its_units():
    t = torch.randn(1, 10_000, 64, generator=torch.Generator().manual_seed(2))
    found = Geometry().estimate(t, labels(10_000))
    for name in ("RankMe", "RankMe (eigen, centred)"):
        assert float(found[name].value) == pytest.approx(64, rel=0.02)


@pytest.mark.parametrize("shape", [(40, 12), (12, 40)])
def test_every_variant_against_its_formula(shape):
    t = torch.randn(1, *shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64) + 1.5
    a = t[0].numpy()
    found = Geometry(alpha=2.0, top=3).estimate(t, labels(shape[0]))

    def rank(s):
        p = s / s.sum()
        p = p[p > 1e-14]
        return math.exp(-(p * np.log(p)).sum())

    raw, centred = np.linalg.svd(a)[1], np.linalg.svd(a - a.mean(0))[1]
    assert float(found["RankMe"].value) == pytest.approx(rank(raw), rel=1e-6)
    assert float(found["RankMe (singular, centred)"].value) == pytest.approx(rank(centred), rel=1e-6)
    assert float(found["RankMe (eigen, uncentred)"].value) == pytest.approx(rank(raw**2), rel=1e-9)
    assert float(found["RankMe (eigen, centred)"].value) == pytest.approx(rank(centred**2), rel=1e-9)
    assert float(found["von Neumann entropy"].value) == pytest.approx(math.log2(rank(centred**2)), abs=1e-9)
    q = raw**2 / (raw**2).sum()
    assert float(found["matrix-based entropy"].value) == pytest.approx(-math.log2((q**2).sum()), abs=1e-9)
    c = centred**2
    assert float(found["participation ratio"].value) == pytest.approx(c.sum() ** 2 / (c**2).sum(), rel=1e-9)
    assert float(found["top-3 variance share"].value) == pytest.approx(c[:3].sum() / c.sum(), rel=1e-9)


def test_matrix_based_entropy_of_orthonormal_and_identical_rows():
    y = torch.zeros(16, dtype=torch.long)
    assert float(Geometry().estimate(torch.eye(16)[None], y)["matrix-based entropy"].value) == pytest.approx(4.0)
    same = Geometry().estimate(torch.ones(1, 16, 16), y)
    assert float(same["matrix-based entropy"].value) == pytest.approx(0.0, abs=1e-9)
    assert same["matrix-based entropy"].flags["degenerate"].all()


def test_nuclear_norms():
    """Classes collapsed on orthonormal directions reach the ceiling; the norm inside such a class is 1."""
    y = torch.arange(60) % 4
    t = 7.0 * torch.nn.functional.one_hot(y, 6)[None].double()
    collapsed = Geometry().estimate(t, y)
    assert float(collapsed["centroid nuclear norm"].value) == pytest.approx(4.0, abs=1e-9)
    assert float(collapsed["centroid nuclear norm"].ceiling) == 4.0
    assert float(collapsed["class nuclear norm"].value) == pytest.approx(1.0, abs=1e-9)
    noisy = t + torch.randn(1, 60, 6, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    found = Geometry().estimate(noisy, y)
    z = (noisy[0] / noisy[0].norm(dim=1, keepdim=True)).numpy()
    centroids = np.stack([z[(y == k).numpy()].mean(0) for k in range(4)])
    assert float(found["centroid nuclear norm"].value) == pytest.approx(np.linalg.norm(centroids, "nuc"), rel=1e-7)
    within = np.mean([np.linalg.norm(z[(y == k).numpy()], "nuc") / math.sqrt(15) for k in range(4)])
    assert float(found["class nuclear norm"].value) == pytest.approx(within, rel=1e-7)
    assert "class nuclear norm" not in Geometry().estimate(noisy, y.double())


def test_class_distance_ratio_against_all_pairs():
    """Classes of unequal size, more rows than a block holds: the mean over every pair, one by one."""
    g = torch.Generator().manual_seed(8)
    y = torch.tensor([0] * 300 + [1] * 200 + [2] * 200)[torch.randperm(700, generator=g)]
    t = torch.randn(2, 700, 3, generator=g, dtype=torch.float64) + y[:, None]
    found = Geometry().estimate(t, y)["class distance ratio"]
    for values, ratio in zip(t.numpy(), found.value, strict=True):
        distance = np.linalg.norm(values[:, None] - values[None], axis=2)
        same = (y[:, None] == y[None]).numpy()
        other = ~np.eye(700, dtype=bool)
        assert float(ratio) == pytest.approx(distance[same & other].mean() / distance[~same].mean(), rel=1e-9)
    drawn = Geometry(pair_samples=350).estimate(t, y)["class distance ratio"].value
    assert not torch.equal(drawn, found.value)
    torch.testing.assert_close(drawn, found.value, rtol=0.1, atol=0)


@pytest.mark.parametrize("apart", [1.0, 10.0, *(pytest.param(apart, marks=pytest.mark.slow) for apart in (0.0, 3.0))])
def test_class_distance_ratio_of_two_normal_laws(apart):
    """E|N(m, 2)| = 2/sqrt(pi) exp(-m^2/4) + m erf(m/2), at m = 0 within and m = `apart` between classes."""
    g = torch.Generator().manual_seed(10)
    y = torch.arange(4000) % 2
    t = torch.randn(20, 4000, 1, generator=g, dtype=torch.float64) + apart * y[:, None]
    within = 2 / math.sqrt(math.pi)
    between = within * math.exp(-(apart**2) / 4) + apart * math.erf(apart / 2)
    found = Geometry(pair_samples=4000).estimate(t, y)["class distance ratio"].value
    # The mean of 20 independent snapshots lies within four standard errors, from their own spread.
    assert abs(float(found.mean()) - within / between) < 4 * float(found.std()) / math.sqrt(20)
    assert float(found.std()) < 0.01


def test_class_distance_ratio_at_its_ends():
    y = torch.arange(60) % 4
    points = 7.0 * torch.nn.functional.one_hot(y, 6)[None].double() + 100.0
    assert float(Geometry().estimate(points, y)["class distance ratio"].value) == pytest.approx(0.0, abs=1e-6)
    alike = torch.randn(1, 600, 4, generator=torch.Generator().manual_seed(9))
    assert float(Geometry().estimate(alike, torch.arange(600) % 4)["class distance ratio"].value) == pytest.approx(
        1.0, abs=0.01
    )
    constant = Geometry().estimate(torch.ones(1, 60, 6), y)["class distance ratio"]
    assert float(constant.value) == 1.0
    assert constant.flags["degenerate"].all()
    for single in (torch.zeros(60, dtype=torch.long), torch.arange(60)):
        assert "class distance ratio" not in Geometry().estimate(points, single)


def test_rotation_and_scale_change_nothing():
    g = torch.Generator().manual_seed(5)
    t = torch.randn(1, 100, 20, generator=g, dtype=torch.float64) * torch.linspace(0.1, 2, 20, dtype=torch.float64)
    q = torch.linalg.qr(torch.randn(20, 20, generator=g, dtype=torch.float64))[0]
    here, there = (Geometry().estimate(a, labels(100)) for a in (t, 1e160 * (t @ q)))
    for name in here:
        torch.testing.assert_close(here[name].value, there[name].value, atol=1e-6, rtol=1e-6, equal_nan=True)


def test_large_layers_are_sampled():
    t = torch.randn(1, 90, 80, generator=torch.Generator().manual_seed(6))
    found = Geometry(max_samples=50).estimate(t, labels(90))
    assert float(found["RankMe"].ceiling) == 50
    assert float(Geometry(max_samples=80).estimate(t, labels(90))["RankMe"].ceiling) == 80


def test_few_samples_and_bad_settings():
    t = torch.randn(1, 50, 40, generator=torch.Generator().manual_seed(7))
    assert Geometry().estimate(t, labels(50))["RankMe"].flags["few_samples"].all()
    with pytest.raises(ValueError, match="alpha must be positive and finite, got -1"):
        Geometry(alpha=-1)
    with pytest.raises(ValueError, match="top must be at least 1, got 0"):
        Geometry(top=0)
    with pytest.raises(ValueError, match="pair_samples must be at least 2, got 1"):
        Geometry(pair_samples=1)


@pytest.mark.slow
def test_centroid_nuclear_norm_rises_while_digits_are_learned():
    from infoplane import datasets

    x, y = (torch.from_numpy(a) for a in datasets.digits())
    x = x.float() / x.max()
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    values = []
    for _ in range(40):
        with torch.no_grad():
            values.append(float(Geometry().estimate(net(x)[None], y)["centroid nuclear norm"].value))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    assert values[-1] > values[0] + 1
