"""Diffusion spectral entropy: circulant and block kernels have their spectra in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from infoplane import datasets
from infoplane.estimators import bin_targets, get, parse
from infoplane.estimators.dse import DiffusionSpectralEntropy
from infoplane.testing import InMemory


def blobs(sizes, gap=1e3):
    y = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    return gap * torch.nn.functional.one_hot(y).double()[None], y


def entropy(p):
    p = np.asarray(p)[np.asarray(p) > 1e-300]
    return float(-(p * np.log2(p)).sum())


def test_unit_and_ceiling():
    found = DiffusionSpectralEntropy(sigma=0.5).estimate(*blobs((30, 10)))["DSE"]
    assert found.unit == "spectral bit"
    assert float(found.ceiling) == math.log2(40)


def test_identical_points_have_none():
    found = DiffusionSpectralEntropy(sigma=1.0).estimate(torch.full((1, 20, 3), 0.3), torch.arange(20) % 2)
    assert float(found["DSE"].value) == pytest.approx(0.0, abs=1e-9)
    assert float(found["DSMI(T;Y)"].value) == pytest.approx(0.0, abs=1e-9)
    assert found["DSE"].flags["degenerate"].all()


def slow_dse(t, sigma, normalization, power):
    n = len(t)
    g = [[math.exp(-sum((a - b) ** 2 for a, b in zip(u, v, strict=True)) / (2 * sigma**2)) for v in t] for u in t]
    k = np.array(g)
    if normalization == "anisotropic":
        d = k.sum(1)
        k = np.array([[k[i, j] / math.sqrt(d[i] * d[j]) for j in range(n)] for i in range(n)])
    walk = k / k.sum(1, keepdims=True)  # not symmetric: the general solver
    q = np.abs(np.linalg.eigvals(walk)) ** power
    return entropy(q / q.sum())


@pytest.mark.parametrize("normalization", ["rw", "anisotropic"])
def test_slow_reference(normalization):
    """DSE and DSMI with every subset written out; the two normalisations differ."""
    g = torch.Generator().manual_seed(0)
    t = torch.randn(1, 24, 3, generator=g, dtype=torch.float64)
    y = torch.arange(24) % 3
    t[0, :, 0] += 2 * y
    found = DiffusionSpectralEntropy(sigma=1.3, normalization=normalization).estimate(t, y)
    rows = t[0].numpy()
    assert float(found["DSE"].value) == pytest.approx(slow_dse(rows, 1.3, normalization, 1), abs=1e-9)
    draw = torch.Generator().manual_seed(0)
    subsets = [torch.randperm(24, generator=draw)[:8].numpy() for _ in range(5)]
    mean = np.mean([slow_dse(rows[s], 1.3, normalization, 1) for s in subsets])
    own = np.mean([slow_dse(rows[(y == k).numpy()], 1.3, normalization, 1) for k in range(3)])
    assert float(found["DSMI(T;Y)"].value) == pytest.approx(mean - own, abs=1e-9)
    other = DiffusionSpectralEntropy(sigma=1.3, normalization="rw" if normalization != "rw" else "anisotropic")
    assert abs(float(other.estimate(t, y)["DSE"].value - found["DSE"].value)) > 1e-3


def test_scale_matters_unless_the_width_follows():
    g = torch.Generator().manual_seed(1)
    one = torch.randn(1, 100, 5, generator=g, dtype=torch.float64)
    t, y = torch.cat([0.03 * one, one, 30 * one]), torch.arange(100) % 2
    fixed = DiffusionSpectralEntropy(sigma=10.0).estimate(t, y)["DSE"]
    assert float(fixed.value[0]) < 0.1 < 2 < float(fixed.value[2])
    assert fixed.flags["out_of_domain"].tolist() == [True, False, False] or fixed.flags["out_of_domain"][0]
    own = DiffusionSpectralEntropy(sigma="snapshot").estimate(t, y)["DSE"].value
    torch.testing.assert_close(own, own[:1].expand(3), atol=1e-9, rtol=0)


def test_median_is_frozen_at_the_last_snapshot():
    g = torch.Generator().manual_seed(2)
    t, y = torch.randn(4, 60, 3, generator=g) * torch.tensor([1.0, 2.0, 3.0, 4.0])[:, None, None], torch.arange(60) % 2
    ready = DiffusionSpectralEntropy().prepare(InMemory(t), y)
    same = DiffusionSpectralEntropy(sigma=ready.run_sigma)
    torch.testing.assert_close(ready.estimate(t, y)["DSE"].value, same.estimate(t, y)["DSE"].value, atol=0, rtol=0)
    torch.testing.assert_close(ready.estimate(t[:1], y)["DSE"].value, same.estimate(t[:1], y)["DSE"].value)
    assert ready.run_sigma == pytest.approx(float(torch.pdist(t[3].double()).median()), rel=1e-9)


def test_rotation_and_shift_change_nothing():
    g = torch.Generator().manual_seed(3)
    t, y = torch.randn(1, 80, 6, generator=g, dtype=torch.float64), torch.arange(80) % 4
    q = torch.linalg.qr(torch.randn(6, 6, generator=g, dtype=torch.float64))[0]
    here, there = (DiffusionSpectralEntropy(sigma=1.0).estimate(a, y) for a in (t, t @ q + 7))
    for name in ("DSE", "DSMI(T;Y)"):
        torch.testing.assert_close(here[name].value, there[name].value, atol=1e-6, rtol=0)


def test_clusters_of_inputs_are_found_once():
    x, y = (torch.from_numpy(a[:200]) for a in datasets.digits())
    t = x.double()[None]
    ready = DiffusionSpectralEntropy().prepare(InMemory(t), y, x)
    prepared, fresh = ready.estimate(t, y, x=x), DiffusionSpectralEntropy().estimate(t, y, x=x)
    assert ready.x_clusters.startswith("sha256:")
    assert torch.equal(prepared["DSMI(X;T)"].value, fresh["DSMI(X;T)"].value)
    half = torch.arange(0, 200, 2)
    assert "DSMI(X;T)" in ready.estimate(t[:, half], y[half], x=x[half])
    assert "DSMI(X;T)" not in ready.estimate(t, y)


def test_targets_are_grouped_by_equal_width():
    g = torch.Generator().manual_seed(4)
    t, y = torch.randn(1, 90, 3, generator=g, dtype=torch.float64), torch.randn(90, generator=g).double()
    estimator = DiffusionSpectralEntropy(sigma=1.0, clusters=4)
    scalar = estimator.estimate(t, y)["DSMI(T;Y)"].value
    assert torch.equal(scalar, estimator.estimate(t, bin_targets(y, 4, rule="width"))["DSMI(T;Y)"].value)
    vector = estimator.estimate(t, torch.stack([y, y**2], 1))["DSMI(T;Y)"].value
    assert torch.isfinite(vector).all()


def test_subsample_is_seeded_and_stated():
    g = torch.Generator().manual_seed(5)
    t, y = torch.randn(1, 150, 3, generator=g), torch.arange(150) % 2
    small = DiffusionSpectralEntropy(sigma=1.0, max_samples=100)
    found = small.estimate(t, y)["DSE"]
    assert float(found.ceiling) == math.log2(100)
    assert torch.equal(found.value, small.estimate(t, y)["DSE"].value)
    other = DiffusionSpectralEntropy(sigma=1.0, max_samples=100, seed=1).estimate(t, y)["DSE"].value
    assert not torch.equal(found.value, other)


def test_flags():
    t, y = blobs((50,) * 40)
    saturated = DiffusionSpectralEntropy(sigma=1.0).estimate(t[:, ::50], y[::50])
    assert saturated["DSE"].flags["saturated"].all()
    assert saturated["DSMI(T;Y)"].flags["few_samples"].all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sigma": -1.0}, "sigma must be a positive number"),
        ({"normalization": "none"}, "got 'none'"),
        ({"power": 0}, "power must be at least 1, got 0"),
        ({"clusters": 1}, "clusters must be at least 2, got 1"),
    ],
)
def test_bad_settings(fields, message):
    with pytest.raises(ValueError, match=message):
        DiffusionSpectralEntropy(**fields)


def test_registered():
    assert get("dse") is DiffusionSpectralEntropy
    assert parse("dse@liao-2024").sigma == 10.0


def digits_run(seed, shuffled):
    """Penultimate layer of a 64-64-32-10 network on 600 held-out digits, after 0, 8 and 64 epochs."""
    x, y = (torch.from_numpy(a) for a in datasets.digits())
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    x, y = x[order].float() / x.max(), y[order]
    torch.manual_seed(seed)
    net = torch.nn.Sequential(
        torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10)
    )
    labels = y[600:][torch.randperm(1197)] if shuffled else y[600:]
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    snapshots = []
    for epoch in range(65):
        if epoch in (0, 8, 64):
            with torch.no_grad():
                snapshots.append(net[:4](x[:600]))
        for batch in torch.randperm(1197).split(64):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(x[600:][batch]), labels[batch]).backward()
            optimizer.step()
    return torch.stack(snapshots), y[:600]


@pytest.mark.slow
def test_digits_with_true_and_with_shuffled_labels():
    """Liao et al.'s contrast, over 3 seeds. With the frozen width DSE rises in both and DSMI(T;Y) ends at least twice
    as high for true labels; with the width of each snapshot, DSE of true labels falls."""
    final = {True: 0.0, False: 0.0}
    for seed in range(3):
        for shuffled in (False, True):
            t, y = digits_run(seed, shuffled)
            found = DiffusionSpectralEntropy().prepare(InMemory(t), y).estimate(t, y)
            assert float(found["DSE"].value[-1]) > float(found["DSE"].value[0]) + 1
            final[shuffled] += float(found["DSMI(T;Y)"].value[-1])
            if not shuffled:
                own = DiffusionSpectralEntropy(sigma="snapshot").estimate(t, y)["DSE"].value
                assert float(own[1]) < float(own[0])
    assert final[False] > 2 * final[True]
