"""Usable information: against closed forms, a slow reference, and what the flags promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import torch

from infoplane.estimators import bin_targets
from infoplane.estimators._labels import fold_of_row
from infoplane.estimators.probe import LinearProbe


def generator(seed):
    return torch.Generator().manual_seed(seed)


def gaussian_classes_bits(means):
    """I(T;Y) of equally likely classes with T|Y=k ~ N(means[k], 1), by quadrature."""

    def density(t):
        return [math.exp(-((t - m) ** 2) / 2) / math.sqrt(2 * math.pi) / len(means) for m in means]

    def integrand(t):
        parts = density(t)
        return sum(p * math.log2(p * len(means) / sum(parts)) for p in parts if p > 0)

    return scipy.integrate.quad(integrand, min(means) - 9, max(means) + 9, limit=500)[0]


def gaussian_classes(means, samples, seed, noise_units=0):
    g = generator(seed)
    y = torch.randint(len(means), (samples,), generator=g)
    t = torch.tensor(means, dtype=torch.float64)[y] + torch.randn(samples, generator=g, dtype=torch.float64)
    extra = torch.randn(samples, noise_units, generator=g, dtype=torch.float64)
    return torch.cat([t[:, None], extra], 1)[None], y


@pytest.mark.parametrize("means", [(-1.0, 1.0), (-0.3, 0.3), (0.0, 2.0, 5.0)])
def test_equal_variances_are_its_own_ground(means):
    """log p(y|t) is linear in t, so the bound is tight: the values are in truths_table.py."""
    found = LinearProbe().estimate(*gaussian_classes(means, 1000, seed=0))["I(T;Y)"]
    assert found.bound == "lower"
    assert not found.flags["unreliable"].any()


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_an_increasing_map_of_a_target_changes_nothing(rho):
    """Normal scores depend on ranks alone."""
    y = normal(1000, 1, seed=1)[:, 0]
    t = (rho * y + math.sqrt(1 - rho**2) * normal(1000, 1, seed=2)[:, 0])[None, :, None]
    here, there = (LinearProbe().estimate(t, target)["I(T;Y)"].value for target in (y, torch.exp(3 * y)))
    assert torch.equal(here, there)


def many_gaussian_layers(count, samples, seed, noise_units=0):
    """`count` draws of T for the same labels."""
    g = generator(seed)
    y = torch.arange(samples) % 2
    t = torch.randn(count, samples, 1 + noise_units, generator=g, dtype=torch.float64)
    t[..., 0] += 2.0 * y - 1.0
    return t, y


def test_in_expectation_a_lower_bound_and_its_interval():
    """Over 60 samples of 200: the mean is under the truth within its error, and at least 51 intervals of 60 hold
    the truth (57 expected at 95 %, 51 is beyond 3 standard deviations; the bias of -0.02 bit is included)."""
    truth = gaussian_classes_bits((-1.0, 1.0))
    found = LinearProbe().estimate(*many_gaussian_layers(60, 200, seed=0))["I(T;Y)"]
    assert float(found.value.mean()) < truth + 3 * float(found.value.std()) / math.sqrt(60)
    assert float(found.value.mean()) > truth - 0.05
    assert int(((found.low <= truth) & (truth <= found.high)).sum()) >= 51


def test_vector_target():
    """Two independent pairs: informations add. A repeated target adds nothing."""
    g = generator(2)
    y = torch.randn(4000, 2, generator=g, dtype=torch.float64)
    t = (y * 0.8 + 0.6 * torch.randn(4000, 2, generator=g, dtype=torch.float64))[None]
    found = LinearProbe().estimate(t, y)["I(T;Y)"]
    assert found.bound == "lower"
    assert float(found.value) == pytest.approx(-math.log2(1 - 0.64), abs=0.08)  # 4 standard errors of about 0.02
    again = LinearProbe().estimate(t, torch.cat([y, 2 * y[:, :1]], 1))["I(T;Y)"]
    assert float(again.value) == pytest.approx(float(found.value), abs=0.02)


def joined(w, powers):
    return torch.cat([w**p for p in powers], 1)


@pytest.mark.parametrize("powers", [(1, 2), (1, 2, 3), (1, 2, 3, 4, 5)])
def test_targets_that_bend_around_one_another_are_no_lower_bound(powers):
    """Y on a curve has less entropy than its Gaussian, and the value exceeds I(T;Y): no bound, and out of domain."""
    u, e = normal(2000, 1, seed=22), normal(2000, 1, seed=23)
    found = LinearProbe().estimate(joined(u, powers)[None], joined(0.9 * u + 0.19**0.5 * e, powers))["I(T;Y)"]
    assert float(found.value) > -0.5 * math.log2(0.19) + 0.3
    assert found.bound == "point"
    assert found.flags["out_of_domain"].all()


@pytest.mark.parametrize("nats", [1.0, 3.0, 5.0])
def test_few_latents_in_many_targets_stay_below_their_information(nats):
    """Three latents behind tanh in 32 units on both sides, by 0.2 nats too high before."""
    kept = math.exp(-2 * nats / 3)
    u, e, a, b = (normal(n, k, seed) for n, k, seed in ((2000, 3, 24), (2000, 3, 25), (3, 32, 26), (3, 32, 27)))
    w = (1 - kept) ** 0.5 * u + kept**0.5 * e
    found = LinearProbe().estimate(torch.tanh(u @ a)[None], torch.tanh(w @ b))["I(T;Y)"]
    assert 0.7 * nats < float(found.value) * math.log(2) < nats
    assert found.bound == "lower"


@pytest.mark.parametrize("atoms", [2, 5, 9])
def test_tied_targets_keep_the_bound(atoms):
    """Atoms have no Gaussian scores of their own: 2.3 nats of two classes apart, where 0.69 are to be had."""
    y = torch.randint(atoms, (2000,), generator=generator(28)).double()
    for spread in (0.05, 0.5):
        t = (y[:, None] + spread * normal(2000, 1, seed=29))[None]
        found = LinearProbe().estimate(t, y)["I(T;Y)"]
        assert 0.2 < float(found.value) < math.log2(atoms)
        assert found.bound == "lower"
        assert found.flags["ties"].all()


def slow_value(t, y, fold, ridge):
    """One fold after the other, coefficients by BFGS on the standardised units, no rotation."""
    n, units = t.shape
    k = int(y.max()) + 1
    z = (t - t.mean(0)) / t.std(0) / math.sqrt(units)
    z = np.hstack([z, np.ones((n, 1))])
    penalty = np.append(np.full(units, ridge), 0.01)
    onehot = np.eye(k)[y]
    total = 0.0
    for f in range(int(fold.max()) + 1):
        a, b = z[fold != f], onehot[fold != f]

        def objective(flat, a=a, b=b):
            w = flat.reshape(k, -1)
            s = a @ w.T
            m = s.max(1, keepdims=True)
            e = np.exp(s - m)
            loss = (np.log(e.sum(1)) + m[:, 0] - (s * b).sum(1)).sum() + 0.5 * (penalty * w**2).sum()
            return loss, ((e / e.sum(1, keepdims=True) - b).T @ a + penalty * w).ravel()

        w = scipy.optimize.minimize(
            objective,
            np.zeros(k * (units + 1)),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": 5000, "ftol": 1e-15, "gtol": 1e-9},
        ).x.reshape(k, -1)
        s = z[fold == f] @ w.T
        p = np.exp(s - s.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        own = p[np.arange(len(s)), y[fold == f]]
        total -= np.log2((1 - 1 / n) * own + 1 / (n * k)).sum()
    q = np.bincount(y) / n
    return -(q * np.log2(q)).sum() - total / n


@pytest.mark.parametrize("units", [3, 90])
def test_slow_reference(units):
    """Fewer and more units than samples (two routes to the principal coordinates)."""
    t, y = gaussian_classes((0.0, 1.0, 3.0), 60, seed=3, noise_units=units - 1)
    probe = LinearProbe(ridge=0.5)
    found = probe.estimate(t, y)["I(T;Y)"].value
    fold = fold_of_row(torch.arange(60), probe.folds, probe.seed).numpy()
    assert float(found) == pytest.approx(slow_value(t[0].numpy(), y.numpy(), fold, 0.5), abs=1e-4)


def test_random_labels_carry_nothing():
    for units in (2, 200):
        t = torch.randn(8, 300, units, generator=generator(4))
        y = torch.randint(2, (300,), generator=generator(5))
        value = LinearProbe().estimate(t, y)["I(T;Y)"].value
        assert float(value.mean()) < 0.01
        assert float(value.max()) < 0.05


def test_same_inputs_stay_in_one_fold():
    """Every input twice, labels random: a probe that had seen the other copy would know the label."""
    g = generator(6)
    half = torch.randn(1, 100, 300, generator=g)
    y = torch.randint(2, (100,), generator=g).repeat(2)
    t = torch.cat([half, half], dim=1)
    honest = LinearProbe().estimate(t, y, x_ids=torch.arange(100).repeat(2))["I(T;Y)"].value
    leaking = LinearProbe().estimate(t, y, x_ids=torch.arange(200))["I(T;Y)"]
    assert float(honest) < 0.05
    # Copies that nobody names are noticed; passes that differ by a little noise can only be named.
    assert bool(leaking.flags["ties"])
    assert float(leaking.value) == pytest.approx(float(honest), abs=0.05)
    nearly = t + 1e-3 * torch.randn(t.shape, generator=g)
    assert float(LinearProbe().estimate(nearly, y)["I(T;Y)"].value) > 0.3


def test_xor_is_missed_and_said_so():
    g = generator(7)
    bits = torch.randint(2, (1000, 2), generator=g)
    t = (2.0 * bits - 1 + 0.2 * torch.randn(1000, 2, generator=g))[None]
    y = bits[:, 0] ^ bits[:, 1]
    plain = LinearProbe().estimate(t, y)["I(T;Y)"]
    assert abs(float(plain.value)) < 0.03
    assert plain.flags["unreliable"].all()
    richer = LinearProbe(random_features=200).estimate(t, y)["I(T;Y)"]
    assert float(richer.value) > 0.95
    assert not richer.flags["unreliable"].any()


def normal(samples, units, seed):
    return torch.randn(samples, units, generator=generator(seed), dtype=torch.float64)


def parity(t, units):
    return (t[:, units] > 0).sum(1) % 2


@pytest.mark.parametrize(
    ("samples", "units", "target"),
    [
        (2000, 20, lambda t: parity(t, [0, 1])),
        (500, 20, lambda t: parity(t, [3, 17])),
        (2000, 100, lambda t: ((t[:, 0] + t[:, 1] > 0) ^ (t[:, 0] - t[:, 1] > 0)).long()),
        (2000, 256, lambda t: (t[:, 5].abs() > 0.67).long()),
        (2000, 20, lambda t: t[:, 2] * t[:, 9]),
    ],
    ids=["XOR", "XOR of 500", "XOR at 45 degrees", "spread of one unit", "product as target"],
)
def test_what_two_units_say_together_among_many_is_missed_and_said_so(samples, units, target):
    t = normal(samples, units, seed=20)
    found = LinearProbe().estimate(t[None], target(t))["I(T;Y)"]
    assert float(found.value) < 0.05
    assert found.flags["unreliable"].all()
    assert found.estimand == "linear-probe"


def test_the_row_says_which_family_read():
    t, y = gaussian_classes((-1.0, 1.0), 200, seed=0)
    assert LinearProbe(random_features=10).estimate(t, y)["I(T;Y)"].estimand == "feature-probe"


def test_no_false_alarm_among_many_units_of_heavy_tails():
    """Products of tails are of any size: what is compared is their own scatter."""
    y = torch.randint(4, (500,), generator=generator(21))
    t = torch.stack([normal(500, 40, seed) ** (1 + 2 * (seed % 2)) for seed in range(10)])
    assert not LinearProbe().estimate(t, y)["I(T;Y)"].flags["unreliable"].any()


def test_non_monotone_regression_is_flagged():
    x = torch.randn(1000, generator=generator(8), dtype=torch.float64)
    found = LinearProbe().estimate(x[None, :, None], x**2)["I(T;Y)"]
    assert found.flags["unreliable"].all()


def test_no_false_alarm_where_the_model_is_right():
    found = LinearProbe().estimate(*many_gaussian_layers(40, 500, seed=1, noise_units=5))["I(T;Y)"]
    assert not found.flags["unreliable"].any()


def test_overfit_is_flagged():
    t, y = gaussian_classes((-1.5, 1.5), 60, seed=9, noise_units=400)
    found = LinearProbe().estimate(t, y)["I(T;Y)"]
    assert found.flags["unreliable"].all()
    assert float(found.value) < gaussian_classes_bits((-1.5, 1.5))


@pytest.mark.parametrize("y", [torch.arange(200) % 3, torch.linspace(-2, 3, 200)], ids=["classes", "targets"])
def test_units_may_be_rescaled_and_reordered(y):
    t = torch.randn(2, 200, 5, generator=generator(10), dtype=torch.float64)
    t[..., 0] += y
    value = LinearProbe().estimate(t, y)["I(T;Y)"].value
    scale = torch.tensor([1e-200, -3.0, 1.0, 1e150, 7.0], dtype=torch.float64)
    moved = (t * scale + 2 * scale)[..., [4, 2, 0, 1, 3]]
    torch.testing.assert_close(LinearProbe().estimate(moved, y)["I(T;Y)"].value, value, atol=1e-4, rtol=0)
    assert not torch.equal(value[0], value[1])
    alone = torch.cat([LinearProbe().estimate(part, y)["I(T;Y)"].value for part in t.split(1)])
    torch.testing.assert_close(alone, value, atol=1e-9, rtol=0)


def test_many_classes_go_fold_by_fold(monkeypatch):
    """Less room for scores: the same numbers."""
    t, y = gaussian_classes((0.0, 1.0, 3.0), 300, seed=16, noise_units=3)
    found = LinearProbe(code_length=True).estimate(t.repeat(2, 1, 1), y)
    monkeypatch.setattr("infoplane.estimators.probe._SCORE_BYTES", 1)
    again = LinearProbe(code_length=True).estimate(t.repeat(2, 1, 1), y)
    for name, q in found.items():
        torch.testing.assert_close(again[name].value, q.value, atol=1e-9, rtol=0)


def test_float32_with_an_offset():
    t, y = gaussian_classes((-1.0, 1.0), 500, seed=11)
    value = LinearProbe().estimate(t, y)["I(T;Y)"].value
    torch.testing.assert_close(LinearProbe().estimate((t + 100).float(), y)["I(T;Y)"].value, value, atol=1e-3, rtol=0)


def test_degenerate_inputs():
    y = torch.arange(50) % 2
    constant = LinearProbe().estimate(torch.full((1, 50, 3), 0.1), y)["I(T;Y)"]
    assert constant.flags["degenerate"].all()
    assert -0.05 < float(constant.value) <= 0
    single = LinearProbe().estimate(torch.randn(1, 50, 3, generator=generator(0)), torch.zeros(50, dtype=torch.long))[
        "I(T;Y)"
    ]
    assert single.flags["single_class"].all()
    assert float(single.value) == 0.0
    flat = LinearProbe().estimate(torch.randn(1, 50, 3, generator=generator(0)), torch.zeros(50))["I(T;Y)"]
    assert flat.flags["degenerate"].all()
    assert float(flat.value) == 0.0
    tied = LinearProbe().estimate(torch.randn(1, 50, 3, generator=generator(0)), (y + 0.0))["I(T;Y)"]
    assert tied.flags["ties"].all()
    few = LinearProbe().estimate(torch.randn(1, 50, 3, generator=generator(0)), torch.arange(50) // 2)["I(T;Y)"]
    assert few.flags["few_samples"].all()


def test_a_class_outside_the_fitted_rows_stays_finite():
    y = torch.zeros(40, dtype=torch.long)
    y[7] = 1
    t = 10.0 * y[None, :, None].double()
    value = LinearProbe().estimate(t, y)["I(T;Y)"].value
    assert torch.isfinite(value).all()
    assert float(value) > -math.log2(40 * 2)


def test_code_length_of_separable_classes():
    """256 samples: 16 coded uniformly at log2 3 bits, the rest nearly free."""
    y = torch.arange(256) % 3
    t = torch.nn.functional.one_hot(y, 3).double()[None] * 10
    found = LinearProbe(code_length=True).estimate(t, y)["prequential code length"]
    assert found.unit == "bit/label"
    assert found.bound == "upper"
    assert float(found.value) == pytest.approx(16 * math.log2(3) / 256, abs=0.03)
    assert float(found.value) > 16 * math.log2(3) / 256


def test_code_length_of_random_labels_is_their_entropy_and_the_price_of_learning_nothing():
    y = torch.randint(2, (512,), generator=generator(12))
    t = torch.randn(1, 512, 10, generator=generator(13))
    value = float(LinearProbe(code_length=True).estimate(t, y)["prequential code length"].value)
    assert 0.98 < value < 1.1
    assert "prequential code length" not in LinearProbe(code_length=True).estimate(t, y.double())


def test_code_length_exceeds_conditional_entropy():
    means = (-1.0, 1.0)
    t, y = gaussian_classes(means, 2048, seed=14)
    found = LinearProbe(code_length=True).estimate(t, y)
    length = float(found["prequential code length"].value)
    conditional = 1 - gaussian_classes_bits(means)
    assert conditional - 0.03 < length < conditional + 0.06  # sampling error of H(Y|T) at N = 2048 is 0.01


def test_targets_may_be_binned_instead():
    x = torch.randn(600, generator=generator(15), dtype=torch.float64)
    binned = LinearProbe().estimate(x[None, :, None], bin_targets(x, 4))["I(T;Y)"]
    assert 1.5 < float(binned.value) <= 2.0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"folds": 2}, "folds must be at least 3, got 2"),
        ({"ridge": 0.0}, "ridge must be a positive number or 'auto', got 0.0"),
        ({"ridge": "small"}, "got 'small'"),
        ({"random_features": -1}, "random_features must be 0 or more, got -1"),
    ],
)
def test_bad_settings(fields, message):
    with pytest.raises(ValueError, match=message):
        LinearProbe(**fields)


def test_too_few_inputs():
    with pytest.raises(ValueError, match="5 folds needs as many different inputs, got 2"):
        LinearProbe().estimate(torch.randn(1, 20, 2), torch.arange(20) % 2, x_ids=torch.arange(20) % 2)
