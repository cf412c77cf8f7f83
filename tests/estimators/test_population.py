"""`noise:population=true`: Gaussian channels in closed form, labels by quadrature, and who is refused."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from scipy.special import ndtr, xlogy
from truths import twelve_bit

from infoplane import datasets
from infoplane.core.records import Noise
from infoplane.core.units import BITS_PER_NAT
from infoplane.estimators import build, config_json, parse
from infoplane.estimators.noise import SamplePropagation
from infoplane.testing import InMemory, check_estimator


def normal(samples: int, dims: int, seed: int, snapshots: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(snapshots, samples, dims, generator=generator, dtype=torch.float64)


def of_a_sign(std: float) -> float:
    """I(X + std Z; sign of X) in bits for X ~ N(0, 1), by the trapezoid: P(X > 0 | t) = Phi(u / std), u ~ N(0, 1)."""
    u = np.linspace(-9, 9, 40_001)
    p = ndtr(u / std)
    open_bits = -(xlogy(p, p) + xlogy(1 - p, 1 - p)) / math.log(2)
    return 1.0 - float(np.trapezoid(open_bits * np.exp(-(u**2) / 2) / math.sqrt(2 * math.pi), u))


def test_values_as_written_out():
    """Both halves of four splits; the interval from their differences and twice the Monte Carlo error."""
    x = normal(300, 2, 0)
    y = (x[0, :, 0] > 0).long()
    plain = SamplePropagation(std=0.8, null_draws=0, seed=3)
    found = dataclasses.replace(plain, population=True).estimate(x, y)
    whole, generator = plain.estimate(x, y), torch.Generator().manual_seed(3)
    for_each = []
    for _ in range(4):
        order = torch.randperm(300, generator=generator)
        halves = (order[:150].sort().values, order[150:].sort().values)
        for_each.append([plain.estimate(x[:, rows], y[rows]) for rows in halves])
    assert found.keys() == whole.keys()
    for name in ("I(X;T)", "I(T;Y)", "I(X;T|Y)"):
        of_halves = np.array([[float(half[name].value) for half in split] for split in for_each])
        q, of_all = found[name], float(whole[name].value)
        assert float(q.value) == pytest.approx(2 * of_all - of_halves.mean(), abs=1e-12)
        sampling = np.square(of_halves[:, 0] - of_halves[:, 1]).mean() / 4
        drawn = 2 * (float(whole[name].high) - of_all)
        half = math.sqrt(2.7764451**2 * sampling + drawn**2)
        assert float(q.high - q.value) == pytest.approx(half, abs=1e-6)
        assert float(q.value - q.low) == pytest.approx(half, abs=1e-6)
        assert (q.estimand, whole[name].estimand) == ("noisy-population", "noisy-finite")
    assert found["I(X;T)"].ceiling is None
    assert found["I(X;T|Y)"].ceiling is None
    assert float(found["I(T;Y)"].ceiling) == pytest.approx(float(whole["I(T;Y)"].ceiling))
    assert torch.equal(found["noise std"].value, whole["noise std"].value)


def test_the_error_of_a_gaussian_channel_halves():
    """4 units, s = 0.5: 3.22 nats, log N = 6.68. Of 0.07 nat of error half is left, of which most is the sample's own.

    One value scatters by 0.035 nat; the difference of the two by less, so the mean over 10 holds it.
    """
    truth = 2.0 * math.log2(1 + 1 / 0.25)
    far, plain, held = [], [], []
    for seed in range(10):
        x = normal(800, 4, seed)
        y = torch.arange(800) % 2
        for spec, errors in (
            ("noise:std=0.5,null_draws=0,population=true", far),
            ("noise:std=0.5,null_draws=0", plain),
        ):
            q = parse(spec).estimate(x, y, x=x[0])["I(X;T)"]
            errors.append((float(q.value) - truth) / BITS_PER_NAT)
            if errors is far:
                held.append(bool(q.low <= truth <= q.high))
    print(
        f"mean absolute error {np.mean(np.abs(plain)):.3f} -> {np.mean(np.abs(far)):.3f} nats, held {sum(held)} of 10"
    )
    assert np.mean(np.abs(far)) < 0.7 * np.mean(np.abs(plain))
    assert abs(np.mean(far)) < 0.5 * abs(np.mean(plain))
    assert sum(held) >= 8


def test_labels_by_quadrature():
    """I(T;Y) of the sign of one of three coordinates: 0.02 bit of scatter for one of 8 samples of 800."""
    truth = of_a_sign(0.5)
    values = []
    for seed in range(8):
        x = normal(800, 3, seed)
        q = parse("noise:std=0.5,population=true").estimate(x, (x[0, :, 0] > 0).long())["I(T;Y)"]
        values.append(float(q.value))
        assert not bool(q.flags["below_null"])
    assert np.mean(values) == pytest.approx(truth, abs=0.02)


def test_a_large_sample_is_the_truth_of_its_parts():
    """A tanh layer that has no closed form: seven parts of 400 rows against all 2,800, whose choice they share."""
    t = torch.tanh(normal(2800, 3, 1000) @ normal(3, 5, 99)[0])
    y = torch.arange(2800) % 2
    plain = parse("noise:std=0.3,null_draws=0,n_draws=4")
    continued = dataclasses.replace(plain, population=True)
    truth = float(continued.estimate(t, y)["I(X;T)"].value)
    off, far = (
        np.mean([float(e.estimate(t[:, s::7], y[s::7])["I(X;T)"].value) for s in range(7)]) - truth
        for e in (plain, continued)
    )
    print(f"{off:+.3f} becomes {far:+.3f} bit")
    assert off < -0.03
    assert abs(far) < 0.5 * abs(off)


def test_near_log_n_the_row_says_that_nothing_is_known():
    """Ten units at s = 0.2 hold 23.5 bits, 400 samples at most 8.6; twice that less 7.6 would be 9.6."""
    x = torch.cat([normal(400, 10, 0), torch.zeros(1, 400, 10)])
    found = parse("noise:std=0.2,population=true").estimate(x, (x[0, :, 0] > 0).long())
    for name in ("I(X;T)", "I(T;Y)", "I(X;T|Y)"):
        q = found[name]
        assert q.value.isnan().tolist() == [True, False]
        assert q.flags["saturated"].tolist() == [True, False]
        assert float(q.value[1]) == 0.0
        assert bool(q.low.isnan().all())
    # Half way there, below 99 % of log2 N, halves tell.
    q = parse("noise:std=0.5,population=true").estimate(normal(400, 6, 0), torch.arange(400) % 2)["I(X;T)"]
    assert bool(q.flags["saturated"])
    assert not bool(
        parse("noise:std=0.5").estimate(normal(400, 6, 0), torch.arange(400) % 2)["I(X;T)"].flags["saturated"]
    )


def test_targets():
    """Two jointly Gaussian numbers with noise on both: -log2(1 - rho^2) / 2."""
    pair = normal(900, 2, 0)
    y = 0.8 * pair[0, :, 0] + 0.6 * pair[0, :, 1]
    q = parse("noise:std=0.5,target_scale=0.5,population=true").estimate(pair[:, :, :1], y)["I(T;Y)"]
    assert float(q.value) == pytest.approx(-0.5 * math.log2(1 - 0.64**2), abs=0.06)
    assert q.ceiling is None


def test_the_null_is_of_all_samples_unless_it_is_made_around():
    x = normal(300, 2, 0)
    y = torch.randint(0, 2, (300,), generator=torch.Generator().manual_seed(1))
    found = parse("noise:std=0.8,population=true").estimate(x, y)
    assert "I(T;Y) null" not in found
    assert bool(found["I(T;Y)"].flags["below_null"]) == bool(
        parse("noise:std=0.8").estimate(x, y)["I(T;Y)"].flags["below_null"]
    )
    wrapped = parse("noise:std=0.8,population=true+null:draws=8").estimate(x, y)
    null = wrapped["I(T;Y) null"]
    assert null.estimand == "noisy-population"
    assert abs(float(null.value)) < 0.02  # of all samples alone it is 0.02


def test_repeated_inputs_are_refused():
    x, y = normal(100, 2, 0), torch.arange(100) % 2
    estimator = parse("noise:std=0.5,population=true")
    with pytest.raises(ValueError, match="takes every input once, got 100 samples of 50 inputs"):
        estimator.estimate(x, y, x_ids=torch.arange(50).repeat(2))
    with pytest.raises(ValueError, match="takes every input once, got 100 samples of 50 inputs"):
        estimator.estimate(x, y, x=normal(50, 3, 1)[0].repeat(2, 1))
    few = torch.cat([normal(199, 3, 1)[0], normal(199, 3, 1)[0][:1]])  # one of two hundred is an accident
    estimator.estimate(normal(200, 2, 0), torch.arange(200) % 2, x=few)
    noisy = estimator.prepare(_with_passes(x), y)
    with pytest.raises(ValueError, match="takes every input once"):
        noisy.estimate(x, y, x_ids=torch.arange(50).repeat(2))


def _with_passes(t):
    run = InMemory(t)
    run.noise, run.passes = Noise(std=0.5), 1
    return run


def test_the_whole_population_is_refused():
    words, y = twelve_bit()
    estimator = parse("noise:std=5.0,population=true")
    with pytest.raises(ValueError, match="4096 of at most 4096 inputs that the features can make"):
        estimator.estimate(words[None], y, x=words)
    some = torch.randperm(4096, generator=torch.Generator().manual_seed(0))[:1000]
    with pytest.raises(ValueError, match="1000 of at most 4096 inputs"):
        estimator.estimate(words[None, some], y[some], x=words[some])


@pytest.mark.parametrize("kind", ["digits", "rounded", "one number", "unknown", "many words"])
def test_samples_are_taken(kind):
    """Pixels of few levels, numbers to two places, one feature that never repeats, no inputs, 300 of 2^20 words."""
    digits = torch.as_tensor(datasets.digits().x)
    x = {
        "digits": digits[:300],
        "rounded": (100 * normal(300, 2, 0)[0]).round() / 100,
        "one number": normal(300, 1, 0)[0, :, 0],
        "unknown": None,
        "many words": torch.randint(0, 2, (300, 20), generator=torch.Generator().manual_seed(0)),
    }[kind]
    found = parse("noise:std=1.0,population=true,null_draws=0").estimate(normal(300, 2, 1), torch.arange(300) % 2, x=x)
    assert bool(found["I(X;T)"].value.isfinite())


def test_the_setting_is_in_no_older_key():
    """Results that were written before there was this setting are found again."""
    assert "population" not in json.loads(config_json(SamplePropagation(std=0.5)))
    settings = json.loads(config_json(parse("noise:std=0.5,population=true")))
    assert settings["population"] is True
    assert build(SamplePropagation, settings).population
    with pytest.raises(ValueError, match="population must be True or False, got 1"):
        SamplePropagation(population=1)


def test_snapshots_alone_give_the_same_bits():
    t, y = normal(200, 3, 0, snapshots=3), torch.arange(200) % 3
    estimator = parse("noise:std=0.9,population=true")
    whole = estimator.estimate(t, y)
    for i in range(3):
        for name, q in estimator.estimate(t[i : i + 1], y).items():
            assert torch.equal(q.value, whole[name].value[i : i + 1]), name


@pytest.mark.slow
def test_it_keeps_the_contract():
    check_estimator(SamplePropagation, std=4.0, population=True, null_draws=2, n_draws=2)


@pytest.mark.slow
def test_intervals_cover_the_truth():
    """Nominal 95 %: of 100 samples 88 or more with probability 0.998."""
    truth, held = 1.5 * math.log2(1 + 1 / 0.25), 0
    for seed in range(100):
        x = normal(800, 3, seed)
        q = parse("noise:std=0.5,null_draws=0,population=true").estimate(x, torch.arange(800) % 2)["I(X;T)"]
        held += bool(q.low <= truth <= q.high)
    print(f"held {held} of 100")
    assert held >= 88


def bracket(x: torch.Tensor, spec: str, noise: Noise | None = None) -> dict:
    """Quantities with the bounds of the law, of normal labels that nobody asks for."""
    run, y = InMemory(x), torch.arange(x.shape[1]) % 2
    run.noise = noise
    estimator = parse(f"noise:population=true,bracket=true,null_draws=0,{spec}").prepare(run, y)
    return estimator.estimate(x, y)


@pytest.mark.parametrize(
    ("dims", "std", "nats", "upper", "lower"), [(2, 0.5, 1.609, 1.623, 1.606), (5, 0.3, 6.235, 7.10, 5.58)]
)
def test_the_bracket_of_a_gaussian_channel(dims, std, nats, upper, lower):
    """D/2 log(1 + 1/s^2) nats, and the bounds that an independent program found; sd of one sample 0.026 and 0.11."""
    values, inside = {"upper": [], "lower": []}, 0
    for seed in range(4):
        found = bracket(normal(1000, dims, seed), f"std={std},n_draws=2,seed={seed}")
        for bound, of in values.items():
            q = found[f"I(X;T) {bound}"]
            assert (q.bound, q.estimand, q.unit) == (bound, "noisy-population", "bit")
            of.append(float(q.value) / BITS_PER_NAT)
            inside += bool(q.low < np.mean([upper, lower][bound == "lower"]) * BITS_PER_NAT < q.high)
    mean = {bound: np.mean(of) for bound, of in values.items()}
    assert dims / 2 * math.log(1 + 1 / std**2) == pytest.approx(nats, abs=0.01)
    for bound, reference in (("upper", upper), ("lower", lower)):
        assert mean[bound] == pytest.approx(reference, abs=4 * {2: 0.026, 5: 0.11}[dims] / math.sqrt(4))
    assert mean["lower"] < mean["upper"]
    if dims == 5:  # many standard deviations apart
        assert max(values["lower"]) < nats < min(values["upper"])
        assert bool(found["I(X;T)"].flags["saturated"])
    assert inside >= 5  # of 8 intervals of 95 %


def test_the_lower_bound_is_the_value_of_the_probe():
    """I(N), of the same noise without its control variate: to the Monte Carlo error of that."""
    x = normal(300, 2, 0)
    plain = SamplePropagation(std=0.8, null_draws=0).estimate(x, torch.arange(300) % 2)["I(X;T)"]
    found = bracket(x, "std=0.8")
    assert float(found["I(X;T) lower"].value) == pytest.approx(float(plain.value), abs=0.05)
    assert float(found["I(X;T) lower"].ceiling) == pytest.approx(math.log2(300))
    assert found["I(X;T) upper"].ceiling is None


def test_the_bracket_is_that_of_every_density_by_itself():
    """Written out with one noisy value a row: equal to the error of both."""
    x = normal(600, 3, 5)
    t, found = x[0].numpy(), bracket(x, "std=0.4")
    noisy = t + 0.4 * np.random.default_rng(7).normal(size=t.shape)
    density = np.exp(-0.5 * np.square((noisy[:, None] - t[None]) / 0.4).sum(2))
    own = np.diag(density)
    slow = {"upper": np.log2(own / ((density.sum(1) - own) / 599)), "lower": np.log2(own / density.mean(1))}
    for bound, terms in slow.items():
        q = found[f"I(X;T) {bound}"]
        error = float(q.high - q.value) + 1.96 * terms.std() / math.sqrt(600)
        assert float(q.value) == pytest.approx(terms.mean(), abs=error)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_far_apart_leave_the_upper_bound_open(dtype):
    """Neighbours 100 std apart: log2(N - 1) + 100^2 / 2 nats less what two of them add, not cut where numbers end."""
    x = 100.0 * torch.arange(50, dtype=dtype)[None, :, None]
    found = bracket(x, "std=1.0")
    expected = math.log2(49) + 5000 * BITS_PER_NAT
    assert float(found["I(X;T) upper"].value) == pytest.approx(expected, rel=0.05)
    assert float(found["I(X;T) lower"].value) == pytest.approx(math.log2(50))
    assert bool(found["I(X;T) lower"].flags["saturated"])


def test_equal_rows_know_nothing_in_both_bounds():
    found = bracket(torch.ones(1, 40, 3), "std=1.0")
    assert [float(found[f"I(X;T) {b}"].value) for b in ("upper", "lower")] == pytest.approx([0.0, 0.0], abs=1e-12)


def test_a_row_that_no_other_meets_has_no_upper_bound():
    """Multiplicative noise leaves zeros: the one row whose second unit is zero is known for sure."""
    x = normal(40, 2, 0).abs() + 1.0
    x[0, 3, 1] = 0.0
    found = bracket(x, "n_draws=2", Noise(std=0.5, kind="multiplicative"))
    assert bool(found["I(X;T) upper"].value.isnan())
    assert bool(found["I(X;T) upper"].flags["saturated"])


def test_recorded_noise_has_the_upper_bound_only():
    """A later layer may hold earlier noise, of which the recorded std says nothing: h(T|X) is at least that of it."""
    x = normal(200, 2, 0)
    found, stated = bracket(x, "seed=0", Noise(std=0.5)), bracket(x, "std=0.5")
    assert torch.equal(found["I(X;T) upper"].value, stated["I(X;T) upper"].value)
    assert "I(X;T) lower" in stated
    assert "I(X;T) lower" not in found


def test_a_bracket_without_known_noise_is_refused():
    with pytest.raises(ValueError, match=r"needs noise that is recorded with the network or stated, .*give std="):
        bracket(normal(50, 2, 0), "relative_std=0.2")
    with pytest.raises(ValueError, match=r"got population=False; give population=True, too"):
        parse("noise:std=1.0,bracket=true")
    assert "bracket" not in json.loads(config_json(parse("noise:std=0.5,population=true")))
