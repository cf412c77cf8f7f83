"""The Gaussian formula says where the data are not Gaussian, and keeps quiet where they are."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from infoplane import datasets
from infoplane.estimators import parse
from infoplane.estimators._canonical import HeldOut, log_ratio, residual_nats, spread_features, z_of_shuffled
from infoplane.estimators._checks import content_halves, repeated_entropy_nats
from infoplane.estimators._protocol import values_only
from infoplane.estimators.gaussian import Gaussian

NAT = 1 / math.log(2)


def of(t, y, **settings):
    """Value in nats, and the flags that are up."""
    t, y = torch.as_tensor(t), torch.as_tensor(y)
    q = Gaussian(**settings).estimate((t[:, None] if t.ndim == 1 else t)[None], y)["I(T;Y)"]
    return float(q.value) / NAT, {name for name, on in q.flags.items() if bool(on)}


def latents(nats, dims, samples=2000, seed=0):
    known = datasets.gaussian_pair(samples, bits=nats * NAT, dims=dims, seed=seed)
    return known.t, known.y


def swirled(a, turn):
    r = np.hypot(a[:, 0], a[:, 1]) * turn
    return np.stack([np.cos(r) * a[:, 0] - np.sin(r) * a[:, 1], np.sin(r) * a[:, 0] + np.cos(r) * a[:, 1]], 1)


@pytest.mark.parametrize("nats", [1, 3, 5, 8])
def test_few_latents_behind_tanh(nats):
    """3 latents in 32 units on both sides: 1.7, 10.5, 20.8, 34.4 nats for these."""
    rng = np.random.default_rng(nats)
    t, y = (np.tanh(a @ rng.standard_normal((3, 32))) for a in latents(nats, 3, seed=nats))
    value, flags = of(t, y)
    assert value > 1.4 * nats
    assert "out_of_domain" in flags


@pytest.mark.parametrize("nats", [1, 2, 3])
def test_planes_that_are_swirled(nats):
    """Dependence that correlation does not see: .60, 1.41, 2.36 nats for these."""
    t, y = latents(nats, 2, seed=nats)
    value, flags = of(swirled(t, 1.0), swirled(y, -1.0))
    assert value < nats - 0.3
    assert "out_of_domain" in flags


@pytest.mark.parametrize("turned", [False, True])
def test_cubes(turned):
    rng = np.random.default_rng(0)
    t, y = (a**3 @ (np.linalg.qr(rng.standard_normal((4, 4)))[0] if turned else np.eye(4)) for a in latents(3, 4))
    assert "out_of_domain" in of(t, y)[1]


def test_folded_latents_in_many_units():
    """|a| in 32 units and a target that follows a: nothing linear to see."""
    t, y = latents(3, 2, samples=4000)
    folded = np.abs(t) @ datasets.orthonormal(2, 32, np.random.default_rng(1))
    value, flags = of(folded, y)
    assert abs(value) < 0.05
    assert "out_of_domain" in flags


@pytest.mark.parametrize("samples", [500, 2000, 8000])
def test_gaussian_pairs_are_not_flagged(samples):
    """At most one in ten of these; the value within four standard errors."""
    flagged = 0
    for i, (nats, dims) in enumerate([(0, 1), (3, 1), (0, 4), (1, 4), (8, 4), (2, 20), (6, 20)]):
        t, y = latents(nats, dims, samples, seed=i)
        value, flags = of(t, y)
        assert value == pytest.approx(nats, abs=4 * math.sqrt(dims / samples) + 0.05)
        flagged += bool(flags)
    assert flagged <= 1


@pytest.mark.parametrize("units", [8, 64])
def test_latents_turned_into_many_units_are_not_flagged(units):
    rng = np.random.default_rng(units)
    t, y = (a @ datasets.orthonormal(3, units, rng) for a in latents(5, 3))
    value, flags = of(t, y)
    assert value == pytest.approx(5, abs=0.2)
    assert not flags


def test_gaussian_classes_that_overlap_are_not_flagged():
    flagged = [
        of(known.t, known.y)[1]
        for seed in range(4)
        for units in (1, 16)
        if (known := datasets.gaussian_classes(2000, means=[-1.0, 0.0, 1.0], units=units, seed=seed))
    ]
    assert sum(map(bool, flagged)) <= 1


@pytest.mark.parametrize("shrinkage", ["auto", 0.0])
def test_a_correlation_of_one(shrinkage):
    """T holds a function of Y: infinite information."""
    rng = np.random.default_rng(3)
    y = rng.standard_normal((2000, 2))
    t = rng.standard_normal((2000, 5))
    assert not of(t, y, shrinkage=shrinkage)[1]
    t[:, 0] = y @ [0.3, -2.0]
    assert "out_of_domain" in of(t, y, shrinkage=shrinkage)[1]
    mixed = t @ rng.standard_normal((5, 5))
    assert "out_of_domain" in of(mixed, y, shrinkage=shrinkage)[1]
    assert "out_of_domain" in of(y[:, 0].astype(np.float32), y[:, 0], shrinkage=shrinkage)[1]


def test_what_shrinkage_hides_is_said():
    """No pair of units can show more than 6.6 nats."""
    t, y = latents(8, 1)
    value, flags = of(t, y)
    assert value < 7
    assert "unreliable" in flags
    assert of(t, y, shrinkage=0.0) == (pytest.approx(8, abs=0.2), set())


@pytest.mark.parametrize("levels", [2, 5])
def test_no_value_above_the_entropy_of_targets_that_repeat(levels):
    """Ratings as real targets, or as a layer, have no more than log(levels)."""
    rng = np.random.default_rng(levels)
    ratings = rng.integers(1, levels + 1, 2000).astype(float)
    other = ratings + 0.01 * rng.standard_normal(2000)
    for t, y in ((other, ratings), (ratings, other)):
        value, flags = of(t, y)
        assert value > math.log(levels)
        assert "out_of_domain" in flags
    assert "out_of_domain" in of(other, ratings.astype(np.int64))[1]


def shells():
    known = datasets.gaussian_shells(2000, stds=[1.0, 3.0], dims=2, seed=1)
    return known.t, known.y


def shells_in_many_units():
    known = datasets.gaussian_shells(4000, stds=[1.0, 2.0], dims=16, seed=2)
    return known.t, known.y


def parity():
    t = np.random.default_rng(3).standard_normal((4000, 20))
    return t, ((t[:, 0] > 0) ^ (t[:, 1] > 0)).astype(np.int64)


def xor_corners():
    rng = np.random.default_rng(4)
    bits = rng.integers(2, size=(4000, 2))
    t = np.concatenate([2.0 * bits - 1 + 0.3 * rng.standard_normal((4000, 2)), rng.standard_normal((4000, 30))], 1)
    return t @ np.linalg.qr(rng.standard_normal((32, 32)))[0], bits[:, 0] ^ bits[:, 1]


def ring():
    rng = np.random.default_rng(5)
    angle, y = rng.uniform(0, 2 * math.pi, 2000), rng.integers(2, size=2000)
    return ((1 + y) * np.stack([np.cos(angle), np.sin(angle)])).T + 0.2 * rng.standard_normal((2000, 2)), y


@pytest.mark.parametrize("problem", [shells, shells_in_many_units, parity, xor_corners, ring])
def test_classes_that_no_line_tells_apart(problem):
    value, flags = of(*problem())
    assert abs(value) < 0.05
    assert "out_of_domain" in flags


@pytest.mark.parametrize(("classes", "scale"), [(4, 2.5), (12, 4.0)])
def test_classes_that_are_separate_overshoot_below_their_entropy(classes, scale):
    """In a plane of many classes the value passes the information long before it passes H(Y)."""
    rng = np.random.default_rng(1)
    known = datasets.gaussian_classes(2000, means=scale * rng.standard_normal((classes, 2)), seed=2)
    value, flags = of(known.t, known.y)
    assert value > known.bits / NAT + 0.2
    assert "out_of_domain" in flags


def test_ratio_of_a_true_density_is_normalised():
    """Z is 0 and the residual knows nothing where the correlations are those of the law; a false one overshoots."""
    g = torch.Generator().manual_seed(0)
    rho = torch.tensor([0.9, 0.5, 0.2], dtype=torch.float64)
    u, e = torch.randn(2, 1000, 3, generator=g, dtype=torch.float64)
    v = rho * u + (1 - rho.square()).sqrt() * e
    true = HeldOut(u, v, rho, u, u)
    assert abs(z_of_shuffled(log_ratio(true))) < 0.1
    assert float(log_ratio(true).diagonal().mean()) == pytest.approx(-0.5 * math.log(0.19 * 0.75 * 0.96), abs=0.15)
    assert abs(residual_nats(true)) < 0.04
    assert z_of_shuffled(log_ratio(true._replace(u=2 * u, v=2 * v))) > 0.5
    assert residual_nats(true._replace(v=u**3)) > 0.3


def test_halves_follow_the_content_of_rows():
    rng = np.random.default_rng(0)
    t, y = torch.from_numpy(rng.integers(3, size=(500, 4))).double(), torch.from_numpy(rng.integers(2, size=500))
    rows, units = torch.from_numpy(rng.permutation(500)), torch.from_numpy(rng.permutation(4))

    def parts(t, y, back):
        whole = torch.cat([t[:, back], y[:, None]], 1)
        return [sorted(map(tuple, whole[p].tolist())) for p in content_halves(t, y, 100)]

    same = torch.arange(4)
    found = parts(t, y, same)
    assert [len(p) for p in found] == [400, 100]
    assert parts(t[rows], y[rows], same) == found
    assert parts(t[rows][:, units], y[rows], units.argsort()) == found


def test_equal_rows_fall_into_both_halves():
    t = torch.arange(4).repeat(100).double()[:, None]
    fit, test = content_halves(t, torch.zeros(400), 1000)
    assert torch.bincount(t[test, 0].long()).tolist() == torch.bincount(t[fit, 0].long()).tolist() == [50] * 4


@pytest.mark.parametrize("kind", ["pairs", "classes"])
def test_flags_do_not_depend_on_the_order_of_samples_and_units(kind):
    rng = np.random.default_rng(7)
    t, y = latents(2, 2, 1000)
    t = np.tanh(2 * t @ rng.standard_normal((2, 6)))
    if kind == "classes":
        y = (y[:, 0] > 0).astype(np.int64) ^ (y[:, 1] > 0)
    rows, units = rng.permutation(1000), rng.permutation(6)
    value, flags = of(t, y)
    assert flags == {"out_of_domain"}
    for other in (of(t[rows], y[rows]), of(t[:, units], y)):
        assert other == (pytest.approx(value, abs=1e-9), flags)


def test_entropy_of_rows_that_repeat():
    rows = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).repeat(50, 1)
    assert repeated_entropy_nats(rows) == pytest.approx(math.log(2))
    assert repeated_entropy_nats(torch.randn(100, 2, generator=torch.Generator().manual_seed(0))) == math.inf


@pytest.mark.parametrize("labels", [torch.arange(200), torch.arange(200) // 2, torch.arange(200) % 199])
def test_as_many_classes_as_samples(labels):
    t = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    value, flags = of(t, labels)
    assert value <= math.log(200) or "out_of_domain" in flags
    h = HeldOut(t, t, torch.full((3,), 0.5), t.double(), t.double())
    assert spread_features(h, labels).shape == (200, 3)


def test_spread_of_many_classes_in_a_wide_layer():
    """50 classes in 700 units: some hundred covariances of 700 by 700 would not do, the largest classes will."""
    g = torch.Generator().manual_seed(0)
    y = torch.arange(1500) % 50
    t = torch.randn(1500, 700, generator=g) * (1 + (y % 2))[:, None]
    value, flags = of(t, y)
    assert abs(value) < 0.1 * math.log(50)
    assert flags == {"out_of_domain", "unreliable"}


def test_few_samples_are_said_to_be_unchecked():
    t, y = latents(1, 1, 63)
    assert of(t, y)[1] == {"few_samples"}


def test_nulls_and_intervals_check_once(monkeypatch):
    t, y = latents(1, 1, 400)
    calls = []
    monkeypatch.setattr("infoplane.estimators.gaussian.pairs_off_ground", lambda *_: bool(calls.append(1)))
    parse("gaussian+null+interval").estimate(torch.from_numpy(t)[None], torch.from_numpy(y))
    assert len(calls) == 1
    with values_only():
        Gaussian().estimate(torch.from_numpy(t)[None], torch.from_numpy(y))
    assert len(calls) == 1
