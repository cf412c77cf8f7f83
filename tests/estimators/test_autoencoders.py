"""`compressed:code=autoencoder`: codes that curve, or keep what tells of the other side, read on other rows."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import infoplane
from infoplane.core.device import accelerator_branches
from infoplane.core.records import Noise
from infoplane.estimators import _autoencoders, config_json, parse
from infoplane.estimators.compressed import Compressed
from infoplane.testing import check_estimator

slow = pytest.mark.slow
FEW = {"code": "autoencoder", "dims": 2, "steps": 50}


def pair(nats, samples, dims, seed):
    """Gaussian vectors (N, dims) that share this information in nats."""
    a, z = np.random.default_rng(seed).standard_normal((2, samples, dims))
    rho = math.sqrt(1 - math.exp(-2 * nats / dims))
    return a, rho * a + math.sqrt(1 - rho**2) * z


def spread(latent, units, seed, noise=0.01):
    """Latents (N, d) as so many units, in axes of their own."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.standard_normal((units, latent.shape[1])))[0]
    return latent @ axes.T + noise * rng.standard_normal((len(latent), units))


def estimate(layers, y, **settings):
    return Compressed(**settings).estimate(torch.as_tensor(np.stack(layers)), torch.as_tensor(y))


def nats_of(q):
    return [v * math.log(2) for v in q.value.tolist()]


def raised(q, s=0):
    return {name for name, flag in q.flags.items() if bool(flag[s])}


@slow
def test_linear_layers_as_by_principal_components():
    """Four latents in 64 units and a little noise: components are the best code, and training leaves them alone."""
    b = np.random.default_rng(0).standard_normal((5000, 4))
    z = np.random.default_rng(1).standard_normal((5000, 4))
    rho = [math.sqrt(1 - math.exp(-nats / 2)) for nats in (0.0, 2.0, 5.0)]
    layers = [spread(r * b + math.sqrt(1 - r * r) * z, 64, 2) for r in rho]
    y = spread(b, 64, 3)
    found, known = estimate(layers, y, code="autoencoder"), estimate(layers, y)["I(T;Y)"]
    assert nats_of(found["I(T;Y)"]) == pytest.approx(nats_of(known), rel=0.05, abs=0.05)
    assert found["reconstruction kept"].value.min() > 0.99


@slow
def test_curved_layers_of_which_components_lose_a_quarter():
    """Four latents behind tanh in 64 units on both sides; shuffled pairs read no more than 0.05."""
    a, b = pair(2.0, 3000, 4, seed=3)
    mix = np.random.default_rng(2).standard_normal((2, 4, 64)) / 2
    t, y = np.tanh(a @ mix[0]), np.tanh(b @ mix[1])
    layers = [t, np.random.default_rng(4).permutation(t)]
    value, nothing = nats_of(estimate(layers, y, code="autoencoder")["I(T;Y)"])
    assert value == pytest.approx(2.0, rel=0.15)
    assert nothing <= 0.05
    assert nats_of(estimate(layers[:1], y)["I(T;Y)"])[0] < 1.6


@slow
def test_what_is_loud_and_silent_hides_nothing_across():
    """As single units and as directions of all units: components read nothing of 2 nats; a fifth may be lost."""
    a, b = pair(2.0, 3000, 4, seed=5)
    loud = 3 * np.random.default_rng(6).standard_normal((3000, 4))
    directions = np.hstack([spread(a, 64, 7) + spread(loud, 64, 8, noise=0.0), np.zeros((3000, 4))])
    layers = [np.hstack([spread(a, 64, 7), loud]), directions, np.random.default_rng(9).permutation(directions)]
    found = estimate(layers, b, code="autoencoder", cross=True)["I(T;Y)"]
    units, turned, nothing = nats_of(found)
    assert not raised(found)
    assert min(units, turned) >= 0.8 * 2.0
    assert max(units, turned) <= 2.1
    assert nothing <= 0.05
    assert max(nats_of(estimate(layers, b)["I(T;Y)"])) < 0.05


def test_a_quiet_signal_among_loud_directions_is_found_across():
    """One signal of 0.8 nat, two loud directions, 16 units, a code of two: what a plain code loses is flagged."""
    a, b = pair(0.83, 600, 1, seed=11)
    loud = spread(3 * np.random.default_rng(12).standard_normal((600, 2)), 16, 13)
    t = loud + spread(a, 16, 14)
    layers = [t, np.random.default_rng(15).permutation(t)]
    found = estimate(layers, b, code="autoencoder", dims=2, cross=True, steps=100)["I(T;Y)"]
    value, nothing = nats_of(found)
    assert 0.8 * 0.83 <= value <= 0.9
    assert nothing <= 0.05
    plain = estimate(layers[:1], b, **{**FEW, "steps": 0})["I(T;Y)"]
    assert nats_of(plain)[0] < 0.2
    assert "unreliable" in raised(plain)


def test_classes_are_told_across():
    """Labels in the place of targets: a decoder of their members."""
    rng = np.random.default_rng(16)
    y = rng.integers(3, size=600)
    signal = np.eye(3)[y] * 4 + rng.standard_normal((600, 3))
    t = spread(20 * rng.standard_normal((600, 2)), 12, 17) + spread(signal, 12, 18)
    found = estimate([t], y, code="autoencoder", dims=2, cross=True, steps=100)["I(T;Y)"]
    few = estimate([t], y, **{**FEW, "steps": 0})["I(T;Y)"]
    assert float(found.value) > float(few.value) + 0.5
    assert float(found.ceiling) == pytest.approx(math.log2(3), abs=0.01)


def test_noisy_layers_have_both_and_inputs_are_coded_once():
    """T = X + Z of two units behind 12: I(X;T) = log2 (1 + 1/s²)."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(1000, 2, generator=g)
    wide = x @ torch.linalg.qr(torch.randn(12, 2, generator=g))[0].T
    y = (x[:, 0] > 0).long()
    few = {**FEW, "steps": 0}
    config = Compressed(noise="recorded", **few)
    noisy = (x + 0.5 * torch.randn(1000, 2, generator=g)) @ torch.linalg.qr(torch.randn(12, 2, generator=g))[0].T
    found = config.estimate(noisy[None], y, x=wide)
    assert set(found) == {"I(T;Y)", "I(X;T)", "reconstruction kept"}
    assert float(found["I(X;T)"].value) == pytest.approx(math.log2(5), abs=0.2)
    assert found["I(X;T)"].estimand == "noisy-population"
    assert set(config.estimate(noisy[None], x, x=wide)) == set(found)

    class Run:
        noise = Noise(std=0.5)

    drawn = Compressed(**few).prepare(Run(), y).estimate(wide[None], y, x=wide)
    assert 0 < float(drawn["I(X;T)"].value) < math.log2(5)
    assert set(Compressed(**few).estimate(wide[None], y, x=wide)) == {"I(T;Y)", "reconstruction kept"}


def test_alone_as_among_others_and_on_the_branches_of_an_accelerator():
    """A constant layer and one of two live units, which needs no code, stand in between."""
    a, b = (torch.from_numpy(side) for side in pair(1.0, 200, 3, seed=19))
    t = a @ torch.randn(3, 6, generator=torch.Generator().manual_seed(1)).double()
    narrow = torch.cat([a[:, :2], torch.zeros(200, 4)], 1)
    config = Compressed(**FEW, cross=True)
    y = torch.cat([b, b.square()], 1)
    found = config.estimate(torch.stack([t.cos(), torch.ones_like(t), t, narrow]), y)["I(T;Y)"]
    assert float(found.value[1]) == 0.0
    assert "degenerate" in raised(found, 1)
    for s, layer in ((2, t), (3, narrow)):
        assert abs(float(config.estimate(layer[None], y)["I(T;Y)"].value - found.value[s])) < 0.02
    with accelerator_branches():
        assert abs(float(config.estimate(t[None], y)["I(T;Y)"].value - found.value[2])) < 0.02


def test_rows_that_repeat_are_counted():
    """Six different rows in eight units: each is one point of the code, whichever rows are coded together."""
    rng = np.random.default_rng(20)
    which = rng.integers(6, size=1200)
    t = np.random.default_rng(21).standard_normal((6, 8))[which]
    y = np.where(rng.random(1200) < 0.8, which % 3, rng.integers(3, size=1200))
    table = np.zeros((6, 3))
    np.add.at(table, (which, y), 1 / 1200)
    found = estimate([t], y, **FEW)["I(T;Y)"]
    assert float(found.value) == pytest.approx(infoplane.datasets.table_information(table), abs=0.03)
    assert "ties" in raised(found)


@slow
def test_it_keeps_the_contract():
    outcome = check_estimator(Compressed, **{**FEW, "steps": 0})
    assert set(outcome.values()) <= {"passed", "not promised", "needs a GPU"}
    assert outcome["constant_zero"] == "passed"


def test_networks_that_diverge_stay_as_they_began_and_say_so(monkeypatch):
    t, y = (spread(side, 8, 22) for side in pair(1.0, 200, 2, seed=23))
    start = estimate([t], y, **{**FEW, "steps": 0})["I(T;Y)"]
    monkeypatch.setattr(_autoencoders, "RATE", 1e30)
    found = estimate([t], y, **FEW)["I(T;Y)"]
    assert float(found.value) == float(start.value)
    assert "unreliable" in raised(found)


def test_a_stopped_analysis_goes_on_to_the_same_bytes(tmp_path):
    a, b = pair(1.0, 60, 3, seed=24)
    layers = {step: {"layer": np.hstack([a, (a + step) ** 2])} for step in range(10)}
    infoplane.from_arrays(tmp_path / "run", layers, labels=b[:, 0])
    config = Compressed(**FEW)
    infoplane.analyze(tmp_path / "run", config, progress=False, table=tmp_path / "whole.csv")
    whole = (tmp_path / "whole.csv").read_bytes()
    assert whole.count(b"I(T;Y)") == 10
    (tmp_path / "cut.csv").write_bytes(whole[: len(whole) // 3])
    infoplane.analyze(tmp_path / "run", config, progress=False, table=tmp_path / "cut.csv")
    assert (tmp_path / "cut.csv").read_bytes() == whole


def test_a_caller_who_forbids_gradients_gets_the_same():
    t, y = (torch.from_numpy(spread(side, 6, 25)) for side in pair(1.0, 60, 2, seed=26))
    config = Compressed(**FEW, cross=True)

    def value(t, y):
        return float(config.estimate(t[None], y)["I(T;Y)"].value)

    plain = value(t, y)
    with torch.inference_mode(), torch.autocast("cpu"):
        assert value(t + 0, y + 0) == plain
    with torch.no_grad():
        assert value(t.clone().requires_grad_(), y.clone().requires_grad_()) == plain


def test_bad_input_and_settings():
    t, y = (torch.from_numpy(spread(side, 6, 27)) for side in pair(1.0, 70, 2, seed=28))
    assert "few_samples" in raised(Compressed(**FEW).estimate(t[None], y)["I(T;Y)"])
    assert "few_samples" not in raised(Compressed(**FEW).estimate(t[None, :, :2], y[:, 0])["I(T;Y)"])
    one = Compressed(**FEW, cross=True).estimate(t[None], torch.zeros(70, dtype=torch.long))["I(T;Y)"]
    assert float(one.value) == 0.0
    assert "single_class" in raised(one)
    same = Compressed(**FEW).estimate(t[None], torch.ones(70).double())["I(T;Y)"]
    assert float(same.value) == 0.0
    assert "degenerate" in raised(same)
    with pytest.raises(ValueError, match="compressed needs at least 20 samples, got 12"):
        Compressed(**FEW).estimate(t[None, :12], y[:12])
    with pytest.raises(ValueError, match="over 10 folds needs as many different inputs, got 7"):
        Compressed(**FEW).estimate(t[None], y, x_ids=torch.arange(70) % 7)
    with pytest.raises(ValueError, match=r"t\b.*(nan|NaN|finite)"):
        Compressed(**FEW).estimate(t[None].log(), y)
    with pytest.raises(ValueError, match="cross=True needs code='autoencoder'"):
        Compressed(cross=True)
    with pytest.raises(ValueError, match="codes of few rows are worse"):
        parse("compressed:code=autoencoder+extrapolate")
    assert "code" not in config_json(Compressed())
    assert '"code":"autoencoder","cross":true' in config_json(parse("compressed:code=autoencoder,cross=true"))
