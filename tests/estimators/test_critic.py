"""Trained critics against pairs of known information."""

from __future__ import annotations

import math

import pytest
import torch

import infoplane
from infoplane.core.device import accelerator_branches
from infoplane.core.records import Noise
from infoplane.core.units import BITS_PER_NAT
from infoplane.estimators import config_json, parse
from infoplane.estimators._canonical import gaussian_log_ratio
from infoplane.estimators._critics import LOSSES, LossOfProducts, infonce, log_mean_apart, own, smile
from infoplane.estimators.critic import Critic
from infoplane.testing import InMemory

QUICK = Critic(steps=100)
slow, full = pytest.mark.slow, pytest.mark.full


def generator(seed):
    return torch.Generator().manual_seed(seed)


def pair(dims, nats, samples=2000, seed=0):
    """Gaussian pairs of so many coordinates that share the information evenly."""
    g = generator(seed)
    rho = math.sqrt(1 - math.exp(-2 * nats / dims))
    x = torch.randn(samples, dims, generator=g)
    return x, rho * x + math.sqrt(1 - rho**2) * torch.randn(samples, dims, generator=g)


def turns(units, g):
    """Two random rotations."""
    return [torch.linalg.qr(torch.randn(units, units, generator=g))[0] for _ in range(2)]


def nats(estimator, t, y, name="I(T;Y)"):
    return float(estimator.estimate(t[None], y)[name].value) / BITS_PER_NAT


# Truths, in nats ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dims", "truth"),
    [
        (4, 3.0),
        *(pytest.param(d, n, marks=slow) for d in (1, 4, 20) for n in (0.0, 1.0, 3.0, 5.0)),
    ],
)
def test_gaussian_pairs(dims, truth):
    """Exact from step 0 but for the sample's own correlations, whose error is sqrt(dims / N) and less."""
    t, y = pair(dims, truth)
    found = QUICK.estimate(t[None], y)
    middle, lower = (float(found[name].value) / BITS_PER_NAT for name in ("I(T;Y)", "I(T;Y) lower"))
    if found["I(T;Y)"].flags["saturated"]:
        assert truth >= 5
        assert abs(middle - truth) < 1
    else:
        assert abs(middle - truth) < max(0.1, 0.05 * truth)
    # The sample's own correlations: their information scatters by sqrt(dims / N) and a half.
    assert lower <= truth + 0.05 + 1.5 * math.sqrt(dims / len(y))
    if truth < 0.7 * math.log(400):
        assert lower >= 0.8 * truth - 0.02


@slow
def test_increasing_maps_of_units_change_nothing():
    t, y = pair(4, 3.0)
    assert abs(nats(QUICK, t**3, y**3) - nats(QUICK, t, y)) < 0.02


@pytest.mark.parametrize("truth", [pytest.param(1.0, marks=slow), 3.0])
def test_many_units_of_few_latents_are_not_overshot(truth):
    """tanh of 3 latents in 32 units on both sides, where a Gaussian of all units reads three times too much."""
    x, y = pair(3, truth, seed=1)
    g = generator(2)
    wide = [torch.tanh(side @ torch.randn(3, 32, generator=g)) for side in (x, y)]
    assert 0.8 * truth < nats(QUICK, *wide) < 1.15 * truth


def test_one_latent_among_units_of_noise_is_read_whole():
    """Twelve turned normal units a side; their ranks would read 2.5 of 3 nats, with no flag."""
    x, y = pair(1, 3.0, samples=1000)
    g = generator(1)
    turned = [
        torch.cat([z, torch.randn(1000, 11, generator=g)], 1) @ turn
        for z, turn in zip((x, y), turns(12, g), strict=True)
    ]
    # The sample's correlation alone scatters by 0.03.
    assert abs(nats(Critic(steps=25), *turned) - 3.0) < 0.15


@slow
def test_two_independent_copies_have_twice_the_information():
    (a, b), (c, d) = pair(2, 1.0, seed=3), pair(2, 1.0, seed=4)
    one, both = nats(Critic(), a, b), nats(Critic(), torch.cat([a, c], 1), torch.cat([b, d], 1))
    assert abs(both - 2 * one) < 0.2


@slow
def test_half_of_the_units_know_no_more():
    t, y = pair(6, 3.0, seed=5)
    assert nats(QUICK, t[:, :3], y) <= nats(QUICK, t, y) + 0.05


@pytest.mark.parametrize(
    "loss", [each if each == "infonce" else pytest.param(each, marks=slow) for each in sorted(LOSSES)]
)
def test_shuffled_pairs_say_nothing(loss):
    t, y = pair(4, 3.0, samples=1000)
    y = y[torch.randperm(1000, generator=generator(6))]
    found = Critic(loss=loss, steps=100).estimate(t[None], y)
    assert abs(float(found["I(T;Y)"].value)) / BITS_PER_NAT <= 0.05
    assert float(found["I(T;Y) lower"].value) / BITS_PER_NAT <= 0.02


@slow
def test_what_is_not_gaussian_is_learned():
    """A product hides from correlations: y = x1 x2 + noise, truth by the critic's own lower bound above 0.3 nat."""
    g = generator(7)
    x = torch.randn(4000, 2, generator=g)
    y = x[:, 0] * x[:, 1] + 0.3 * torch.randn(4000, generator=g)
    found = Critic().estimate(x[None], y)
    assert float(found["I(T;Y) lower"].value) / BITS_PER_NAT > 0.3
    assert abs(nats(parse("gaussian"), x, y)) < 0.02


@pytest.mark.parametrize(
    "rho", [pytest.param(rho, marks=slow if rho == 0.9 else full) for rho in (0.0, 0.5, 0.9, 0.99)]
)
def test_mine_as_published(rho):
    """10,000 pairs of numbers with correlation rho, at most 2,000 steps: within 0.1 nat, and its scatter is given."""
    g = generator(8)
    x = torch.randn(10_000, 1, generator=g)
    y = rho * x + math.sqrt(1 - rho**2) * torch.randn(10_000, 1, generator=g)
    found = parse("critic@mine-2018:steps=2000").estimate(x[None], y)
    assert abs(float(found["I(T;Y)"].value) / BITS_PER_NAT + 0.5 * math.log(1 - rho**2)) < 0.1
    assert 0 < float(found["running std"].value) < 1


# I(X;T) ------------------------------------------------------------------------------------------------


def test_a_noisy_layer_and_its_inputs():
    """T = X + Z in two units, noise of variance 1/4: log 5 nats. Class labels do not stop it, and have no I(T;Y)."""
    g = generator(9)
    x = torch.randn(2000, 2, generator=g)
    t = x + 0.5 * torch.randn(2000, 2, generator=g)
    ready = QUICK.prepare(Noisy(t[None]), torch.arange(2000) % 2, x)
    found = ready.estimate(t[None], torch.arange(2000) % 2, x=x)
    assert set(found) == {"I(X;T)", "I(X;T) lower"}
    assert abs(float(found["I(X;T)"].value) / BITS_PER_NAT - math.log(5)) < 0.05 * math.log(5)
    assert found["I(X;T)"].estimand == "noisy-population"
    assert '"network_std":0.5' in config_json(ready)


class Noisy(InMemory):
    noise = Noise(std=0.5, clean=False)


def test_classes_and_deterministic_layers_are_refused():
    t, y = pair(2, 1.0, samples=200)
    with pytest.raises(ValueError, match="critic"):
        QUICK.estimate(t[None], torch.arange(200) % 3)
    ids = torch.arange(200) // 2
    with pytest.raises(ValueError, match="the layer is deterministic"):
        Critic(noise="recorded").estimate(t[::2].repeat_interleave(2, 0)[None], y, x=t, x_ids=ids)
    with pytest.raises(ValueError, match="needs the inputs x"):
        Critic(noise="recorded").estimate(t[None], y)


# Losses and readings -------------------------------------------------------------------------------------


def slow_losses(f):
    """The formulas, pair by pair, of one matrix of scores."""
    n = len(f)
    off = [f[i, j] for i in range(n) for j in range(n) if i != j]
    mean_exp = sum(math.exp(v) for v in off) / len(off)
    diagonal = sum(f[i, i] for i in range(n)) / n
    rows = sum(math.log(sum(math.exp(f[i, j]) for j in range(n))) - f[i, i] for i in range(n)) / n
    columns = sum(math.log(sum(math.exp(f[j, i]) for j in range(n))) - f[i, i] for i in range(n)) / n
    nu = 16.0
    first = sum(math.log(nu + sum(math.exp(f[i, j]) for j in range(n))) - f[i, i] for i in range(n)) / n
    rest = [sum(math.exp(f[i, j]) for j in range(n) if j != i) for i in range(n)]
    second = sum(math.log(nu + n / (n - 1) * each) - math.log(nu) for each in rest) / n
    return {
        "infonce": 0.5 * (rows + columns),
        "anchor": n / (n + nu) * first + nu / (n + nu) * second,
        "js": sum(math.log1p(math.exp(-f[i, i])) for i in range(n)) / n
        + sum(math.log1p(math.exp(v)) for v in off) / len(off),
        "nwj": -(diagonal - mean_exp / math.e),
        "dv": -(diagonal - math.log(mean_exp)),
    }


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_losses_are_their_formulas(loss):
    f = torch.randn(2, 6, 6, generator=generator(10), dtype=torch.float64)
    want = torch.tensor([slow_losses(each)[loss] for each in f.unbind()], dtype=torch.float64)
    torch.testing.assert_close(LOSSES[loss](f), want, atol=1e-12, rtol=0)


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_of_products_are_those_of_scores(loss, monkeypatch):
    """With the same slopes on both sides, however many slices are taken at a time."""
    sides = [torch.randn(5, 3, 7, generator=generator(s), dtype=torch.float64, requires_grad=True) for s in (1, 2)]
    weight = torch.randn(5, generator=generator(3), dtype=torch.float64)
    want = LOSSES[loss](sides[0].mT @ sides[1])
    slopes = torch.autograd.grad((weight * want).sum(), sides)
    for few in (1, 2, 9):
        monkeypatch.setattr("infoplane.estimators._critics.CACHE", few * 7 * 7 * 8)
        got = LossOfProducts.apply(*sides, loss)
        torch.testing.assert_close(got, want, atol=1e-12, rtol=0)
        found = torch.autograd.grad((weight * got).sum(), sides)
        torch.testing.assert_close(found, slopes, atol=1e-12, rtol=0)


def test_infonce_of_a_column_that_lies_far_below_the_others():
    """The exponentials of rows do not serve for it: they are 0 there."""
    sides = [torch.randn(2, 3, 7, generator=generator(s), dtype=torch.float64) for s in (1, 2)]
    sides[0][:, 0], sides[1][:, 0], sides[1][:, 0, 2] = 1.0, 0.0, -2000.0
    sides = [side.requires_grad_() for side in sides]
    want = infonce(sides[0].mT @ sides[1])
    slopes = torch.autograd.grad(want.sum(), sides)
    got = LossOfProducts.apply(*sides, "infonce")
    torch.testing.assert_close(got, want, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(torch.autograd.grad(got.sum(), sides), slopes, atol=1e-9, rtol=1e-12)


def test_readings_of_a_true_ratio():
    """Of the true log ratio the strangers' log-mean is 0, and every reading is the information."""
    t, y = pair(1, 1.0, samples=3000, seed=11)
    rho = torch.tensor([math.sqrt(1 - math.exp(-2.0))])
    f = gaussian_log_ratio(t[None], y[None], rho[None])
    assert abs(float(log_mean_apart(f))) < 0.05
    assert abs(float(own(f).mean()) - 1.0) < 0.06
    assert abs(float(smile(f, 5.0)) - 1.0) < 0.1
    assert abs(math.log(3000) - float(infonce(f)) - 1.0) < 0.1


def test_combinations_that_mean_nothing_are_refused():
    with pytest.raises(
        ValueError, match=r"reading='smile' means nothing of a critic trained by 'infonce'.*'anchor' or 'js'"
    ):
        Critic(reading="smile")
    with pytest.raises(ValueError, match=r"reading='dv' means nothing of a critic trained by 'nwj'.*loss='dv'"):
        Critic(loss="nwj", reading="dv")


def test_what_stands_in_the_row():
    t, y = pair(2, 1.0, samples=300)
    found = QUICK.estimate(t[None], y)
    assert (found["I(T;Y)"].bound, found["I(T;Y) lower"].bound) == ("point", "lower")
    assert float(found["I(T;Y) lower"].ceiling) == math.log2(60)
    assert "I(T;Y) ratio" in Critic(loss="anchor", steps=25).estimate(t[None], y)
    assert Critic(loss="nwj", steps=25).estimate(t[None], y)["I(T;Y) lower"].ceiling is None
    smile_2020 = parse("critic@smile-2020:steps=25,hidden=16")
    assert (smile_2020.loss, smile_2020.reading, smile_2020.base) == ("js", "smile", "off")


# Flags and edges ---------------------------------------------------------------------------------------


def test_flags():
    t, y = pair(1, 7.0, samples=800)
    assert QUICK.estimate(t[None], y)["I(T;Y) lower"].flags["saturated"].all()
    wide, other = pair(60, 1.0, samples=300)
    assert Critic(steps=25).estimate(wide[None], other)["I(T;Y)"].flags["few_samples"].all()
    assert Critic(steps=25).estimate(torch.relu(t)[None], y)["I(T;Y)"].flags["ties"].all()
    x, z = pair(2, 2.0)
    angle = 2 * x.square().sum(1, keepdim=True)
    swirl = torch.cat(
        [x[:, :1] * angle.cos() - x[:, 1:] * angle.sin(), x[:, :1] * angle.sin() + x[:, 1:] * angle.cos()], 1
    )
    assert QUICK.estimate(swirl[None], z)["I(T;Y)"].flags["out_of_domain"].all()
    assert not Critic(steps=25).estimate(x[None], z)["I(T;Y)"].flags["out_of_domain"].any()


def test_a_constant_layer_and_a_constant_target():
    t, y = pair(2, 1.0, samples=200)
    both = torch.stack([t, torch.full_like(t, 0.3)])
    critic = Critic(steps=25)
    found = critic.estimate(both, y)["I(T;Y)"]
    assert found.flags["degenerate"].tolist() == [False, True]
    assert float(found.value[1]) == 0.0
    none = critic.estimate(t[None], torch.ones(200))["I(T;Y)"]
    assert none.flags["degenerate"].all()
    assert float(none.value) == 0.0


def test_alone_as_among_others():
    t, y = pair(3, 2.0, samples=300)
    others = torch.randn(2, 300, 3, generator=generator(12))
    critic = Critic(steps=50)
    together = critic.estimate(torch.stack([others[0], t, others[1]]), y)
    alone = critic.estimate(t[None], y)
    for name, q in alone.items():
        assert abs(float(q.value) - float(together[name].value[1])) < 0.02
    with accelerator_branches():
        forced = critic.estimate(t[None], y)
    assert abs(float(forced["I(T;Y)"].value) - float(alone["I(T;Y)"].value)) < 0.02


def test_a_stopped_analysis_goes_on_to_the_same_bytes(tmp_path):
    t, y = pair(2, 1.0, samples=100)
    noise = torch.randn(6, 100, 2, generator=generator(13))
    run = tmp_path / "run"
    infoplane.from_arrays(
        run, {step: {"layer": (t + each).numpy()} for step, each in enumerate(noise)}, labels=y.numpy()
    )
    critic = Critic(steps=25)
    infoplane.analyze(run, critic, progress=False, table=tmp_path / "whole.csv")
    whole = (tmp_path / "whole.csv").read_bytes()
    cut = tmp_path / "cut.csv"
    cut.write_bytes(whole[: len(whole) // 2])
    infoplane.analyze(run, critic, progress=False, table=cut)
    assert cut.read_bytes() == whole
