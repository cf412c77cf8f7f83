"""Compression and nearest-neighbour entropies: written out, against closed forms, and where it must refuse."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from infoplane import datasets
from infoplane.core.records import Noise
from infoplane.estimators import config_json
from infoplane.estimators.compressed import Compressed, principal_code
from infoplane.estimators.knn import ksg

LN2 = math.log(2)


class Blocks:
    def __init__(self, t, noise=None):
        self.t, self.noise = t, noise

    def __iter__(self):
        yield self.t


def psi(n: int) -> float:
    return -0.5772156649015329 + sum(1 / j for j in range(1, n))


def slow_entropy(rows: np.ndarray, k: int) -> float:
    """Kozachenko-Leonenko in nats: every distance, one row at a time, in coordinates whitened by Cholesky."""
    n, d = rows.shape
    root = np.linalg.cholesky(np.atleast_2d(np.cov(rows.T, bias=True)))
    white = np.linalg.solve(root, (rows - rows.mean(0)).T).T
    total = 0.0
    for i in range(n):
        nearest = sorted(math.dist(white[i], white[j]) for j in range(n) if j != i)[k - 1]
        total += math.log(nearest)
    volume = 0.5 * d * math.log(math.pi) - math.lgamma(0.5 * d + 1)
    return psi(n) - psi(k) + volume + d * total / n + np.log(np.diag(root)).sum()


def slow_code(rows: np.ndarray, dims: int) -> np.ndarray:
    centred = rows - rows.mean(0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    return (u * s)[:, :dims]


@pytest.fixture
def layer():
    rng = np.random.default_rng(0)
    y = rng.integers(3, size=90)
    x = rng.standard_normal((90, 5)) * np.array([3, 2, 1, 0.5, 0.1])
    t = (x[:, :3] + 0.7 * y[:, None] + 0.3 * rng.standard_normal((90, 3))) @ rng.standard_normal((3, 12))
    return t, y, x


def test_as_written_out(layer):
    t, y, x = layer
    code, other = slow_code(t, 2), slow_code(x, 2)
    h = slow_entropy(code, 4)
    i_ty = h - sum((y == c).mean() * slow_entropy(code[y == c], 4) for c in range(3))
    i_xt = h + slow_entropy(other, 4) - slow_entropy(np.concatenate([code, other], 1), 4)
    found = Compressed(dims=2, n_neighbors=4, noise="recorded").estimate(
        torch.tensor(t)[None], torch.tensor(y), x=torch.tensor(x)
    )
    assert float(found["I(T;Y)"].value) == pytest.approx(i_ty / LN2, abs=1e-9)
    assert float(found["I(X;T)"].value) == pytest.approx(i_xt / LN2, abs=1e-9)
    variance = np.var(slow_code(t, 12), axis=0)
    assert float(found["variance kept"].value) == pytest.approx(variance[:2].sum() / variance.sum(), abs=1e-9)


def test_targets_as_written_out(layer):
    t, _, x = layer
    target = x[:, 0] + 0.2 * x[:, 1]
    code, other = slow_code(t, 3), target[:, None]
    expected = slow_entropy(code, 5) + slow_entropy(other, 5) - slow_entropy(np.concatenate([code, other], 1), 5)
    found = Compressed(dims=3).estimate(torch.tensor(t)[None], torch.tensor(target))
    assert float(found["I(T;Y)"].value) == pytest.approx(expected / LN2, abs=1e-9)


@pytest.mark.parametrize("nats", [0.0, 1.0, 2.0, 3.5, 5.0])
def test_rotated_gaussians_within_ten_percent(nats):
    """4-dimensional pairs turned into 64 units with a little noise; raw nearest neighbours lose most of it."""
    known = datasets.gaussian_pair(5000, bits=nats / LN2, dims=4, units=64, noise=0.01, seed=1)
    found = Compressed(noise="recorded").estimate(
        torch.tensor(known.t)[None], torch.zeros(5000, dtype=torch.long), x=torch.tensor(known.y)
    )["I(X;T)"]
    # Absolute 0.1 at zero, as the standard error is 0.02 nats.
    assert float(found.value) * LN2 == pytest.approx(known.bits * LN2, rel=0.1, abs=0.1)
    assert found.estimand == "noisy-population"


def test_uncompressed_neighbours_fail_there():
    known = datasets.gaussian_pair(1000, bits=3.5 / LN2, dims=4, units=64, noise=0.3, seed=1)
    found = Compressed(noise="recorded").estimate(
        torch.tensor(known.t)[None], torch.zeros(1000, dtype=torch.long), x=torch.tensor(known.y)
    )["I(X;T)"]
    assert ksg(known.t, known.y) < float(found.value) - 0.5


def test_network_noise_is_drawn_and_recorded():
    """T = S + Z with the std that the recorder saw: I = d/2 log2 (1 + P/s^2) for a Gaussian layer."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(3000, 3, generator=g)
    clean = (x @ torch.linalg.qr(torch.randn(3, 3, generator=g))[0])[None]
    y = torch.zeros(3000, dtype=torch.long)
    plain = Compressed()
    assert set(plain.prepare(Blocks(clean), y).estimate(clean, y, x=x)) == {"I(T;Y)", "variance kept"}
    ready = plain.prepare(Blocks(clean, Noise(std=0.5)), y)
    assert '"prepared":{"network_clean":true,"network_kind":"additive","network_std":0.5}' in config_json(ready)
    found = ready.estimate(clean, y, x=x)["I(X;T)"]
    assert float(found.value) == pytest.approx(1.5 * math.log2(5), abs=0.15)
    assert float(dataclasses.replace(ready, seed=1).estimate(clean, y, x=x)["I(X;T)"].value) != float(found.value)
    off = dataclasses.replace(ready, noise="off").estimate(clean, y, x=x)
    assert "I(X;T)" not in off


def test_noise_that_was_recorded_is_not_drawn_again():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 1, generator=g)
    t = (x + 0.5 * torch.randn(2000, 1, generator=g))[None]
    y = torch.zeros(2000, dtype=torch.long)
    seen = Compressed().prepare(Blocks(t, Noise(std=0.5, clean=False)), y).estimate(t, y, x=x)["I(X;T)"]
    assert float(seen.value) == pytest.approx(0.5 * math.log2(5), abs=0.12)


def test_multiplicative_noise_leaves_zeros():
    ready = Compressed().prepare(Blocks(torch.zeros(1), Noise(std=0.1, kind="multiplicative")), torch.zeros(1))
    noisy = ready._with_noise(torch.tensor([[0.0, 1.0], [0.0, -200.0]]))
    assert noisy[:, 0].tolist() == [0, 0]
    assert 0 < abs(float(noisy[0, 1]) - 1) < 0.5
    assert 1 < abs(float(noisy[1, 1]) + 200) < 100


def test_deterministic_layers_are_refused_with_the_reason():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(20, 3, generator=g).repeat(2, 1)
    ids, y = torch.arange(20).repeat(2), torch.arange(40) % 2
    estimator = Compressed(noise="recorded")
    with pytest.raises(ValueError, match="rows of the same input are equal: the layer is deterministic"):
        estimator.estimate(torch.tanh(x)[None], y, x=x, x_ids=ids)
    noisy = torch.tanh(x)[None] + 0.1 * torch.randn(1, 40, 3, generator=g)
    assert "I(X;T)" in estimator.estimate(noisy, y, x=x, x_ids=ids)
    with pytest.raises(ValueError, match=r"needs the inputs x .* or set noise='off'"):
        estimator.estimate(noisy, y)


def test_classes_in_closed_form():
    known = datasets.gaussian_classes(3000, means=[-1.0, 0.5, 2.0], units=30, seed=2)
    signal = np.array([known.t[known.y == c].mean(0) for c in range(3)])
    axis = signal[2] - signal[0]
    stretched = known.t + 4 * np.outer(known.t @ axis, axis) / (axis @ axis)
    q = Compressed().estimate(torch.tensor(stretched)[None], torch.tensor(known.y))["I(T;Y)"]
    assert float(q.value) == pytest.approx(known.bits, abs=0.1)
    assert float(q.low) < float(q.value) < float(q.high)


def test_intervals_cover_the_truth():
    """Two-dimensional classes, where the bias is small: a conservative interval misses at most 1 of 30."""
    hits = 0
    for seed in range(30):
        known = datasets.gaussian_classes(600, means=[[0, 0], [1.5, 0], [0, 1.5]], seed=seed)
        q = Compressed().estimate(torch.tensor(known.t)[None], torch.tensor(known.y))["I(T;Y)"]
        hits += float(q.low) <= known.bits <= float(q.high)
    assert hits >= 29


def test_principal_components_keep_variance_not_signal():
    """The stated way to mislead: a large silent direction hides a small telling one."""
    rng = np.random.default_rng(3)
    y = rng.integers(2, size=800)
    t = np.stack([100 * rng.standard_normal(800), 3.0 * y + 0.3 * rng.standard_normal(800)], 1)
    found = Compressed(dims=1).estimate(torch.tensor(t)[None], torch.tensor(y))
    assert abs(float(found["I(T;Y)"].value)) < 0.1
    assert float(found["variance kept"].value) > 0.999
    assert float(Compressed(dims=2).estimate(torch.tensor(t)[None], torch.tensor(y))["I(T;Y)"].value) > 0.8


def test_collapsed_classes_are_unreliable():
    y = torch.arange(60) % 3
    g = torch.Generator().manual_seed(0)
    t = torch.eye(3)[y] + 1e-9 * torch.randn(60, 3, generator=g).double()
    q = Compressed().estimate(t[None], y)["I(T;Y)"]
    assert bool(torch.isfinite(q.value).all())
    assert bool(q.flags["unreliable"])


def test_codes_without_a_density_are_unreliable():
    """Two ReLU units: half of the rows lie on the axes, where entropies in two dimensions are off by a bit."""
    relu = datasets.zero_inflated(1000, means=[-1.0, 0.0, 1.0], units=2, seed=3)
    plain = datasets.gaussian_classes(1000, means=[-1.0, 0.0, 1.0], units=2, seed=3)
    flags = [
        bool(Compressed().estimate(torch.tensor(k.t)[None], torch.tensor(k.y))["I(T;Y)"].flags["unreliable"])
        for k in (relu, plain)
    ]
    assert flags == [True, False]


def test_ties_are_jittered_and_flagged():
    rng = np.random.default_rng(4)
    y = rng.integers(2, size=400)
    t = np.round(rng.standard_normal((400, 1)) + 2 * y[:, None])
    q = Compressed().estimate(torch.tensor(t)[None], torch.tensor(y))["I(T;Y)"]
    table = np.zeros((20, 2))
    np.add.at(table, (t[:, 0].astype(int) + 8, y), 1 / 400)
    assert float(q.value) == pytest.approx(datasets.table_information(table), abs=0.25)
    assert bool(q.flags["ties"])
    assert bool(q.flags["unreliable"])


def test_scales_do_not_matter():
    known = datasets.gaussian_classes(300, means=[0.0, 2.0], units=6, seed=5)
    one, other = (
        float(Compressed().estimate(torch.tensor(known.t * f)[None], torch.tensor(known.y))["I(T;Y)"].value)
        for f in (1.0, 1e200)
    )
    assert other == pytest.approx(one, abs=1e-9)


def test_large_layers_by_subspace_iteration(monkeypatch):
    rng = np.random.default_rng(6)
    rows = rng.standard_normal((120, 60)) * np.r_[[9.0, 7, 5, 4], np.full(56, 0.5)]
    dense, share = principal_code(torch.tensor(rows), 4)
    monkeypatch.setattr("infoplane.estimators.compressed._DENSE", 20)
    iterated, same = principal_code(torch.tensor(rows), 4)
    # Up to a sign of each component.
    assert torch.allclose((dense.T @ iterated / 120).abs(), torch.eye(4, dtype=torch.float64), atol=1e-6)
    assert same == pytest.approx(share, rel=1e-9)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dims": 0}, "dims must be at least 1, got 0"),
        ({"n_neighbors": 0}, "n_neighbors must be at least 1, got 0"),
        ({"noise": "some"}, "noise must be 'network', 'recorded' or 'off', got 'some'"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        Compressed(**settings)
