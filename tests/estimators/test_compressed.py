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
from infoplane.estimators._codes import principal_code
from infoplane.estimators._network_noise import with_noise
from infoplane.estimators.compressed import Compressed
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
    noisy = with_noise(torch.tensor([[0.0, 1.0], [0.0, -200.0]]), ready)
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


def nats_of(q):
    return float(q.value) * LN2


def estimate(t, y, **settings):
    t = torch.as_tensor(np.asarray(t, np.float64).reshape(len(t), -1))
    return Compressed(**settings).estimate(t[None], torch.as_tensor(y))["I(T;Y)"]


def correlated(samples, rho, seed, dims=1):
    """Gaussian pairs (N, dims) of correlation rho, and their information in nats."""
    a, z = np.random.default_rng(seed).standard_normal((2, samples, dims))
    return a, rho * a + math.sqrt(1 - rho**2) * z, -0.5 * dims * math.log(1 - rho**2)


def cell_nats(rho, edges):
    """I of a Gaussian variable with the cell of another, of correlation rho: by quadrature."""
    a = np.linspace(-8, 8, 3201)
    ends = np.r_[-np.inf, edges, np.inf]
    cut = np.vectorize(lambda v: 0.5 * math.erfc(-v / math.sqrt(2)))
    mass = np.diff(cut((ends - rho * a[:, None]) / math.sqrt(1 - rho**2)), axis=1)
    weight = np.exp(-0.5 * a**2) / math.sqrt(2 * math.pi) * (a[1] - a[0])
    terms = mass * np.log(np.maximum(mass, 1e-300) / np.maximum(np.diff(cut(ends)), 1e-300))
    return float(weight @ terms.sum(1))


def test_ties_are_counted_and_said():
    rng = np.random.default_rng(4)
    y = rng.integers(2, size=2000)
    t = np.round(rng.standard_normal((2000, 1)) + 2 * y[:, None])
    table = np.zeros((20, 2))
    np.add.at(table, (t[:, 0].astype(int) + 8, y), 1 / 2000)
    q = estimate(t, y)
    # The tails, rarer than an atom, are ranked.
    assert float(q.value) == pytest.approx(datasets.table_information(table), abs=0.05)
    assert bool(q.flags["ties"])
    assert not bool(q.flags["unreliable"])


@pytest.mark.parametrize("levels", [2, 5, 10])
def test_ratings_as_targets(levels):
    rng = np.random.default_rng(7)
    y = rng.integers(1, levels + 1, 2000).astype(float)
    known = datasets.gaussian_classes(10, means=np.arange(levels, dtype=float))
    q = estimate(y + rng.standard_normal(2000), y)
    assert float(q.value) == pytest.approx(known.bits, abs=0.1)
    assert not bool(q.flags["unreliable"])


def test_ratings_of_five_steps():
    """The value given for them in bits, T = Y + N(0, 1)."""
    assert datasets.gaussian_classes(10, means=[1.0, 2, 3, 4, 5]).bits == pytest.approx(0.774, abs=1e-3)


@pytest.mark.parametrize("step", [1.0, 0.25, 0.05])
@pytest.mark.parametrize("units", [1, 16])
def test_rounded_targets(step, units):
    """From a few atoms to a grid of rare values, in one unit and copied into many."""
    a, b, _ = correlated(2000, 0.9, 3)
    edges = (np.arange(-math.ceil(7 / step), math.ceil(7 / step)) + 0.5) * step
    y = np.round(b / step) * step * np.linspace(1, 2, units)
    q = estimate(a, y)
    assert nats_of(q) == pytest.approx(cell_nats(0.9, edges), abs=0.1)
    assert not bool(q.flags["unreliable"])


def test_grids_in_the_plane_are_spread():
    a, b, nats = correlated(3000, 0.7, 5, dims=2)
    q = estimate(np.round(a / 0.2) * 0.2, np.round(b / 0.2) * 0.2)
    assert nats_of(q) == pytest.approx(nats, abs=0.1)


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3])
def test_an_atom_beside_a_density(share):
    """A share of the targets at one value that knows nothing of T, the rest continuous: I = H of which + (1 - s) I."""
    rng = np.random.default_rng(8)
    a, b, nats = correlated(4000, 0.8, 9)
    at = rng.random(4000) < share
    y = np.where(at[:, None], 0.5, b)
    t = np.where(at[:, None], rng.standard_normal((4000, 1)), a)
    assert nats_of(estimate(t, y)) == pytest.approx((1 - share) * nats, abs=0.06)
    # from the side of T
    assert nats_of(estimate(y, t)) == pytest.approx((1 - share) * nats, abs=0.06)


@pytest.mark.parametrize(("levels_t", "levels_y"), [(3, 3), (2, 10), (40, 40)])
@pytest.mark.parametrize("labels", [False, True])
def test_independent_values_that_repeat(levels_t, levels_y, labels):
    rng = np.random.default_rng(9)
    t, y = rng.integers(levels_t, size=2000), rng.integers(levels_y, size=2000)
    q = estimate(t, y if labels else y.astype(float))
    assert abs(nats_of(q)) < 0.08


def test_nothing_drawn_for_one_side_is_drawn_for_the_other():
    """Independent fine grids of equal shape: with one generator for both, the places in their cells would agree."""
    rng = np.random.default_rng(10)
    t, y, x = rng.integers(200, size=(3, 1500)).astype(float)
    found = Compressed(noise="recorded").estimate(
        torch.tensor(t)[None, :, None], torch.tensor(y), x=torch.tensor(x)[:, None]
    )
    assert abs(nats_of(found["I(T;Y)"])) < 0.1
    assert abs(nats_of(found["I(X;T)"])) < 0.1


@pytest.mark.parametrize(("bits", "std"), [(4, 0.5), (2, 0.25), (1, 1.0)])
def test_inputs_of_few_values_with_network_noise(bits, std):
    x = torch.randint(2, (2000, bits), generator=torch.Generator().manual_seed(0)).float()
    y = x[:, 0].long()
    ready = Compressed().prepare(Blocks(x[None], Noise(std=std)), y)
    q = ready.estimate(x[None], y, x=x)["I(X;T)"]
    # Corners 0 and 1 are half of those at -1 and 1.
    assert float(q.value) == pytest.approx(bits * datasets.binary_channel(2 * std), abs=0.15)
    assert not bool(q.flags["unreliable"])


def isotropic(seed):
    a, b, _ = correlated(2000, math.sqrt(1 - math.exp(-2 * 3.86 / 12)), seed, dims=12)
    return a, b


def parity(seed):
    t = np.random.default_rng(seed).standard_normal((2000, 20))
    return t, ((t[:, 0] > 0) ^ (t[:, 1] > 0)).astype(int)


def shells(seed):
    known = datasets.gaussian_shells(2000, stds=[1.0, 2.0], dims=16, seed=seed)
    return known.t, known.y


def quiet_signal(seed):
    a, b, _ = correlated(2000, 0.9, seed)
    return np.concatenate([10 * np.random.default_rng(seed + 50).standard_normal((2000, 4)), a], 1), b


def quiet_target(seed):
    t, y = quiet_signal(seed)
    return y, t


@pytest.mark.parametrize("problem", [isotropic, parity, shells, quiet_signal, quiet_target])
def test_information_outside_the_kept_components_is_flagged(problem):
    for seed in range(2):
        assert bool(estimate(*problem(seed)).flags["unreliable"])


def test_noise_outside_the_kept_components_is_not():
    """Directions that know nothing of Y, and curved functions of those that are kept, cost nothing."""
    rng = np.random.default_rng(11)
    a, b, nats = correlated(2000, 0.9, 11)
    small = 0.05 * rng.standard_normal((2000, 8))
    curves = 0.01 * np.concatenate([a**2, a**3], 1)
    loud = 3 * np.concatenate([a, rng.standard_normal((2000, 3))], 1)
    q = estimate(np.concatenate([loud, small, curves], 1), b)
    assert nats_of(q) == pytest.approx(nats, abs=0.2)
    assert not bool(q.flags["unreliable"])


def test_rows_given_many_times_are_flagged():
    """Each pair eight times: no atoms, no grid, and as much information as there are pairs."""
    a, b, _ = correlated(250, 0.5, 17, dims=2)
    q = estimate(np.repeat(a, 8, 0), np.repeat(b, 8, 0))
    assert bool(torch.isfinite(q.value))
    assert bool(q.flags["unreliable"])


def circle(b):
    return np.concatenate([np.cos(2 * b), np.sin(2 * b)], 1)


def parabola(b):
    return np.concatenate([b, b**2], 1)


def tanh_units(b):
    return np.tanh(b @ np.random.default_rng(1).standard_normal((b.shape[1], 16)))


@pytest.mark.parametrize("fold", [circle, parabola, tanh_units])
@pytest.mark.parametrize("rho", [0.0, 0.8])
def test_folded_sides_are_unreliable(fold, rho):
    a, b, _ = correlated(1500, rho, 12)
    assert bool(estimate(a, fold(b)).flags["unreliable"])
    assert bool(estimate(fold(a), b).flags["unreliable"])


def test_values_below_zero_by_more_than_their_interval_are_unreliable():
    """Independent uniform cubes: entropies lose at the edges, most in the joint one."""
    t, y = np.random.default_rng(13).random((2, 500, 3))
    q = Compressed().estimate(torch.tensor(t)[None], torch.tensor(y))["I(T;Y)"]
    assert float(q.value) < -0.1
    assert bool(q.flags["unreliable"])


def test_heavy_tails_are_unreliable_where_they_make_the_interval_wide():
    """Cubes of a Gaussian pair: the entropies of their tails err by more than the information."""
    a, b, _ = correlated(1000, 0.5, 15)
    assert bool(estimate(a**3, b**3).flags["unreliable"])
    assert not bool(estimate(a[:120], b[:120]).flags["unreliable"])


def test_all_units_of_a_wide_layer_can_be_kept():
    a, b, _ = correlated(300, 0.9, 16)
    wide = np.concatenate([a, np.random.default_rng(0).standard_normal((300, 119))], 1)
    q = estimate(wide, b, dims=100)
    assert bool(torch.isfinite(q.value))
    assert bool(q.flags["unreliable"])


@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("nats", [0.0, 1.0, 2.0])
def test_its_own_ground_is_not_flagged(dims, nats):
    a, b, _ = correlated(2000, math.sqrt(1 - math.exp(-2 * nats / dims)), 14, dims)
    q = estimate(a @ datasets.orthonormal(dims, 32, np.random.default_rng(0)), b)
    assert nats_of(q) == pytest.approx(nats, abs=0.15)
    assert not bool(q.flags["unreliable"])
    assert not bool(q.flags["ties"])


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
    monkeypatch.setattr("infoplane.estimators._codes.DENSE", 20)
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
