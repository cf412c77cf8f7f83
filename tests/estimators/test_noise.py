"""Sample propagation: quadrature, Gaussian channels, network noise, and its statistics."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from infoplane.core import Noise
from infoplane.core.units import BITS_PER_NAT
from infoplane.estimators import config_json, parse
from infoplane.estimators._channel import AdditiveChannel, MultiplicativeChannel, propagate, weigh_draws
from infoplane.estimators._labels import class_spans
from infoplane.estimators._pairwise import CentredRows
from infoplane.estimators.kde import KDE
from infoplane.estimators.noise import SamplePropagation, rms_deviation

LN2 = math.log(2)
Z_999 = 4.9  # standard errors: a correct interval misses once in a million


class Run:
    """A whole run in memory, as `prepare` reads it."""

    def __init__(self, t, noise=None, passes=None):
        self.t, self.noise = t, noise
        if passes is not None:
            self.passes = passes

    def __iter__(self):
        return iter(self.t.split(2))


def mixture_information_bits(centres, std, n=200_001):
    """I(X; X + std Z) for X uniform on numbers, by the trapezoid rule."""
    grid = torch.linspace(min(centres) - 9 * std, max(centres) + 9 * std, n, dtype=torch.float64)
    c = torch.tensor(centres, dtype=torch.float64)[:, None]
    p = (torch.exp(-((grid - c) ** 2) / (2 * std**2)) / (std * math.sqrt(2 * math.pi))).mean(0)
    h = float(torch.trapezoid(-torch.special.xlogy(p, p), grid)) / LN2
    return h - 0.5 * math.log2(2 * math.pi * math.e * std**2)


def slow_sums(t, std, z):
    """log2 sum_j p_j(t_i + std z_i) / p_i(t_i + std z_i) for every draw of z (M, n, d)."""
    samples = t[None] + std * z
    square = (samples[:, :, None] - t[None, None]).square().sum(3)
    own = (std * z).square().sum(2)
    return torch.logsumexp((own[:, :, None] - square) / (2 * std**2), dim=2) / LN2


def within(quantity, truth, slack=0.0):
    """Truth within 4.9 standard errors of the value."""
    half = (quantity.high - quantity.value) / 1.96 * Z_999
    return bool((abs(quantity.value - truth) <= half + slack).all())


def random_problem(n=200, d=3, classes=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, classes, (n,), generator=generator)
    means = torch.randn(classes, d, generator=generator, dtype=torch.float64)
    noise = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return torch.tanh(means[y] + 0.5 * noise)[None], y


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("n", "d"), [(70, 3), (30, 90)])
def test_sums_equal_the_plain_ones(n, d, dtype):
    """Every draw against all N x N x D differences; 90 units of 30 rows are rotated into their span."""
    t, _ = random_problem(n, d)
    rows = t[0]
    channel = AdditiveChannel(rows, 0.5, 3, dtype=getattr(torch, dtype))
    spans = class_spans([n], 32)
    found = propagate(channel, spans, torch.zeros(n, dtype=torch.int64), torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    centred = CentredRows(rows, 0.5, rotate=True)
    basis = centred.take(slice(0, n)) / math.sqrt(BITS_PER_NAT) * 0.5
    direct = "donot_use_mm_for_euclid_dist"
    distances = torch.cdist(basis, basis, compute_mode=direct)
    torch.testing.assert_close(distances, torch.cdist(rows, rows, compute_mode=direct), rtol=0, atol=1e-12)
    z = torch.cat([torch.randn(3, len(s), basis.shape[1], generator=generator) for s in spans], 1).double()
    signed = torch.stack([z, -z], 1).flatten(0, 1)
    expected = slow_sums(basis, 0.5, signed)
    torch.testing.assert_close(found.whole, expected, rtol=0, atol=1e-9 if dtype == "float64" else 2e-4)


def test_rows_made_anew_for_each_block_give_the_same_values(monkeypatch):
    t, y = random_problem(150, 6)
    estimator = SamplePropagation(std=0.3, null_draws=3)
    expected = estimator.estimate(t, y)
    monkeypatch.setattr("infoplane.estimators._pairwise.CACHED_BYTES", 0)
    for key, quantity in estimator.estimate(t, y).items():
        torch.testing.assert_close(quantity.value, expected[key].value, rtol=0, atol=1e-12)


def test_rotation_changes_no_information():
    """Ten units in three hundred: the same mixture, told apart by the interval only."""
    generator = torch.Generator().manual_seed(0)
    t, y = random_problem(60, 10)
    turn = torch.linalg.qr(torch.randn(300, 10, generator=generator, dtype=torch.float64)).Q
    plain = SamplePropagation(std=0.5, n_draws=32).estimate(t, y)
    wide = SamplePropagation(std=0.5, n_draws=32).estimate(t @ turn.T, y)
    for key in ("I(X;T)", "I(T;Y)"):
        half = (plain[key].high - plain[key].low) + (wide[key].high - wide[key].low)
        assert abs(float(plain[key].value - wide[key].value)) < 1.25 * float(half)


@pytest.mark.parametrize("std", [0.05, 0.2, 0.8])
@pytest.mark.parametrize("d", [1, 3, 40])
def test_kde_bounds_hold_it_between_them(d, std):
    t, y = random_problem(150, d, 3)
    found = SamplePropagation(std=std, null_draws=0).estimate(t, y)
    bounds = KDE(variance=std**2, null_draws=0).estimate(t, y)
    for key in ("I(X;T)", "I(X;T|Y)"):
        q = found[key]
        low, high = (float(torch.where(end.isnan(), q.value, end)) for end in (q.low, q.high))  # saturated: no interval
        assert high > float(bounds[f"{key} lower"].value) - 1e-12
        assert low < float(bounds[key].value) + 1e-12


def test_limits_of_the_noise():
    """s -> 0: log2 of the distinct rows; s -> infinity: 0; falling between."""
    t, y = random_problem(100, 3)
    values = [
        float(SamplePropagation(std=s, null_draws=0).estimate(t, y)["I(X;T)"].value)
        for s in (1e-4, 0.03, 0.1, 0.3, 1.0, 3.0, 1e4)
    ]
    assert values == sorted(values, reverse=True)
    assert values[0] == pytest.approx(math.log2(100), abs=1e-9)
    assert values[-1] == pytest.approx(0, abs=1e-6)


def chain(n, m, n_x, seed=0):
    """T1 = X + Z1 and its repeated passes: X ~ N(0, 1), Z1 ~ N(0, 1/4); rows 0..n-1 are the first pass."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, generator=generator, dtype=torch.float64)
    x = torch.cat([x, x[:m].repeat(n_x)])
    ids = torch.cat([torch.arange(n), torch.arange(m).repeat(n_x)])
    z = torch.randn(len(x), generator=generator, dtype=torch.float64)
    return x, x + 0.5 * z, ids


@pytest.mark.parametrize("told", [False, True])
def test_second_noisy_layer_is_resampled(told):
    """I(X;T2) = log2(1 + 1 / 0.5) / 2 = 0.792481; the noise entropy alone would give 1.292481.

    800 inputs and 80 of them with 200 passes give +-0.04; `told` says that there are passes.
    """
    first, second, ids = chain(800, 80, 200)
    y = (first > 0).long()
    noise = Noise(std=0.5)
    ready = SamplePropagation(null_draws=0).prepare(Run(second[None, :, None], noise, 200 if told else None), y)
    assert ready.network_std == 0.5
    found = ready.estimate(second[None, :, None], y, x_ids=ids)["I(X;T)"]
    assert found.bound == "point"
    assert float(found.value) == pytest.approx(0.792481, abs=0.06)
    assert not found.flags["unreliable"].any()
    # The first noisy layer, whose recorded values are the same in all passes, has exactly the noise's entropy.
    passes = ready.estimate(first[None, :, None], y, x_ids=ids)["I(X;T)"]
    single = SamplePropagation(std=0.5, null_draws=0).estimate(first[None, :800, None], y[:800])["I(X;T)"]
    assert float(passes.value) == pytest.approx(float(single.value), abs=1e-12)
    assert float(passes.value) == pytest.approx(1.160964, abs=0.06)


def test_network_noise_without_repeated_passes_is_an_upper_bound_that_says_so():
    _, second, _ = chain(400, 1, 1)
    t, y = second[None, :400, None], (second[:400] > 0).long()
    ready = SamplePropagation().prepare(Run(t, Noise(std=0.5)), y)
    found = ready.estimate(t, y)
    assert found["I(X;T)"].bound == "upper"
    assert found["I(X;T)"].flags["unreliable"].all()
    assert float(found["I(X;T)"].value) > 0.792481
    assert found["I(T;Y)"].bound == "point"
    assert not found["I(T;Y)"].flags["unreliable"].any()


def test_too_few_passes_to_overlap_are_unreliable():
    """Three far passes of each input look like three inputs: h(T|X) is at its own ceiling."""
    generator = torch.Generator().manual_seed(0)
    t = 50 * torch.randn(1, 120, 4, generator=generator, dtype=torch.float64)
    ids = torch.arange(40).repeat(3)
    y = ids % 2
    ready = SamplePropagation().prepare(Run(t, Noise(std=0.1), 2), y)
    found = ready.estimate(t, y, x_ids=ids)
    assert found["I(X;T)"].flags["unreliable"].all()


def test_layer_behind_the_noise_is_resampled_too():
    """No noise of its own, but passes that differ: rows after the first pass never enter the mixture of T."""
    _, second, ids = chain(500, 50, 100)
    t, y = second[None, :, None], (second > 0).long()
    ready = SamplePropagation(std=0.5, null_draws=0).prepare(Run(t, None, 100), y)
    noisy = SamplePropagation(null_draws=0).prepare(Run(t, Noise(std=0.5), 100), y)
    one, other = ready.estimate(t, y, x_ids=ids), noisy.estimate(t, y, x_ids=ids)
    for key in ("I(X;T)", "I(T;Y)"):
        assert float(one[key].value) == float(other[key].value)
    assert float(one["I(X;T)"].ceiling) == pytest.approx(math.log2(500), abs=1e-12)


def test_interval_of_few_repeated_inputs_covers_their_choice():
    """h(T|X) differs between inputs: ten of two hundred must widen the interval, all of them not."""
    generator = torch.Generator().manual_seed(0)
    spread = torch.rand(200, generator=generator, dtype=torch.float64)
    widths = []
    for m in (10, 200):
        z = torch.randn(30, m, generator=generator, dtype=torch.float64)
        t = torch.cat([torch.arange(200.0).double(), (torch.arange(float(m)) + spread[:m] * z).flatten()])
        ids = torch.cat([torch.arange(200), torch.arange(m).repeat(30)])
        ready = SamplePropagation(null_draws=0).prepare(Run(t[None, :, None], Noise(std=0.2), 30), ids % 2)
        found = ready.estimate(t[None, :, None], ids % 2, x_ids=ids)["I(X;T)"]
        widths.append(float(found.high - found.low))
    assert widths[0] > 5 * widths[1]


def test_multiplicative_noise_equals_quadrature():
    """T = x (1 + s Z) for two positive numbers: integral of p log p with two widths."""
    centres, std = torch.tensor([1.0, 1.5], dtype=torch.float64), 0.2
    grid = torch.linspace(-2, 5, 200_001, dtype=torch.float64)
    sigma = (std * centres)[:, None]
    parts = torch.exp(-((grid - centres[:, None]) ** 2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))

    def entropy(p):
        return float(torch.trapezoid(-torch.special.xlogy(p, p), grid)) / LN2

    truth = entropy(parts.mean(0)) - 0.5 * (entropy(parts[0]) + entropy(parts[1]))
    t, ids = centres[None, :, None], torch.arange(2)
    noise = Noise(std=std, kind="multiplicative")
    ready = SamplePropagation(null_draws=0, n_draws=4000).prepare(Run(t, noise), ids)
    assert ready.network_kind == "multiplicative"
    found = ready.estimate(t, ids, x_ids=ids)
    for q in (found["I(X;T)"], found["I(T;Y)"]):
        assert float(q.value) == pytest.approx(truth, abs=0.015)
        # One pass of each input, one sample of each class: what other draws would say is not what may be wrong.
        assert bool(q.low.isnan() & q.high.isnan())
    assert found["noise std"].unit == "relative to T"
    # Any scale, any signs: the noise is relative.
    other = ready.estimate(-1e-200 * t, ids, x_ids=ids)
    assert float(other["I(X;T)"].value) == pytest.approx(float(found["I(X;T)"].value), abs=1e-9)


def test_units_that_are_zero_are_atoms_under_multiplicative_noise():
    """(1, 0), (0, 1), (1, 1) have different zeros and never meet, whatever the noise; (0, 0) is one point."""
    rows = torch.tensor([[1.0, 0], [0, 1], [1, 1], [0, 0], [0, 0]], dtype=torch.float64)
    channel = MultiplicativeChannel(rows, 5.0, 4)
    found = propagate(channel, class_spans([5], 8), torch.zeros(5, dtype=torch.int64), torch.Generator().manual_seed(0))
    expected = torch.tensor([0.0, 0, 0, 1, 1], dtype=torch.float64).expand(8, 5)
    torch.testing.assert_close(found.whole, expected, rtol=0, atol=1e-12)


def test_multiplicative_sums_equal_the_plain_ones():
    rows = random_problem(40, 3)[0][0] + 2
    channel = MultiplicativeChannel(rows, 0.3, 2)
    label = torch.zeros(40, dtype=torch.int64)
    found = propagate(channel, class_spans([40], 64), label, torch.Generator().manual_seed(5))
    z = torch.randn(2, 40, 3, generator=torch.Generator().manual_seed(5)).double()
    for m in range(2):
        for k, sign in enumerate((1, -1)):
            sample = rows * (1 + sign * 0.3 * z[m])
            normal = torch.distributions.Normal(rows[None], 0.3 * rows[None].abs())
            log_p = normal.log_prob(sample[:, None]).sum(2)
            expected = (torch.logsumexp(log_p, 1) - log_p.diagonal()) / LN2
            torch.testing.assert_close(found.whole[2 * m + k], expected, rtol=0, atol=1e-9)


def test_recorded_after_its_noise_is_refused():
    run = Run(torch.zeros(1, 10, 1), Noise(std=0.1, clean=False))
    with pytest.raises(ValueError, match="recorded after its noise"):
        SamplePropagation().prepare(run, torch.zeros(10, dtype=torch.int64))


def test_scale_is_that_of_the_last_finite_snapshot():
    t, y = random_problem(50, 4)
    diverged = torch.full_like(t, math.nan)
    run = torch.cat([t, 3 * t + 100, diverged])
    ready = SamplePropagation(relative_std=0.2).prepare(Run(run), y)
    rms = float((3 * (t - t.mean(1, keepdim=True))).square().mean().sqrt())
    assert ready.reference_rms == pytest.approx(rms, rel=1e-12)
    assert ready.noise_std() == pytest.approx(0.2 * rms, rel=1e-12)
    assert json.loads(config_json(ready))["prepared"] == {"reference_rms": ready.reference_rms}
    assert float(ready.estimate(t, y)["noise std"].value) == ready.noise_std()
    assert SamplePropagation(std=0.3).prepare(Run(run), y).reference_rms is None
    with pytest.raises(ValueError, match="call prepare"):
        SamplePropagation().estimate(t, y)


def test_layer_that_ends_constant_is_measured_without_noise():
    t, y = random_problem(50, 2)
    ready = SamplePropagation().prepare(Run(torch.cat([t, torch.zeros_like(t)])), y)
    found = ready.estimate(torch.cat([t, torch.zeros_like(t)]), y)
    assert float(found["I(X;T)"].value[0]) == pytest.approx(math.log2(50), abs=1e-9)
    assert float(found["I(X;T)"].value[1]) == 0.0
    assert found["I(X;T)"].flags["degenerate"].all()


def test_rms_of_any_scale():
    layer = random_problem(30, 4)[0][0]
    expected = float((layer - layer.mean(0)).square().mean().sqrt())
    for factor in (1.0, 1e300, 1e-300):
        assert rms_deviation(factor * layer) == pytest.approx(factor * expected, rel=1e-9)


@pytest.mark.parametrize("classes", [2, 16])
def test_null_of_meaningless_labels_covers_them(classes):
    """Both ways to the null: indicator columns, and masks for many classes."""
    t, _ = random_problem(300, 2)
    y = torch.randint(0, classes, (300,), generator=torch.Generator().manual_seed(7))
    found = SamplePropagation(std=0.3).estimate(t, y)
    assert abs(float(found["I(T;Y)"].value - found["I(T;Y) null"].value)) < 0.03 * classes
    assert float(found["I(T;Y) null"].low) <= float(found["I(T;Y) null"].value)


def test_null_is_the_mean_over_shuffled_labels():
    """Against plain sums of the first draw for each shuffle by hand, less what that draw errs by."""
    t, y = random_problem(90, 2, 3)
    found = SamplePropagation(std=0.4, null_draws=5, seed=2).estimate(t, y)["I(T;Y) null"]
    order = torch.argsort(y, stable=True)
    rows = t[0, order]
    spans = class_spans(torch.bincount(y).tolist(), 512)
    noise = torch.Generator().manual_seed(2)
    z = torch.cat([torch.randn(4, len(s), 2, generator=noise) for s in spans], 1).double()
    z = torch.stack([z, -z], 1).flatten(0, 1)
    sums = slow_sums(rows, 0.4, z)
    whole = sums[0]
    shuffles = torch.Generator().manual_seed(2)
    values, by_row = [], torch.zeros(90, dtype=torch.float64)
    for _ in range(5):
        labels = y[torch.randperm(90, generator=shuffles)][order]
        own = torch.zeros(90, dtype=torch.float64)
        for k in range(3):
            mask = labels == k
            own[mask] = math.log2(int(mask.sum())) - slow_sums(rows[mask], 0.4, z[:1, mask])[0]
        by_row += (math.log2(90) - whole - own) / 5
        values.append(float((math.log2(90) - whole - own).mean()))
    # A sum within the mixture enters I with a minus.
    off = (sums.mean(0) - whole).numpy()
    error = np.polyfit(off, by_row.numpy(), 1)[0] * off.mean()
    assert abs(error) > 1e-3
    assert float(found.value) == pytest.approx(sum(values) / 5 - error, abs=1e-6)


def test_flags_of_saturation_and_of_meaning():
    t, y = random_problem(200, 3)
    tiny = SamplePropagation(std=1e-5).estimate(t, y)
    assert tiny["I(X;T)"].flags["saturated"].all()
    assert tiny["I(T;Y)"].flags["saturated"].all()
    assert tiny["I(T;Y)"].flags["below_null"].all()
    useful = SamplePropagation(std=0.3).estimate(t, y)
    assert not any(bool(mask.any()) for mask in useful["I(T;Y)"].flags.values())
    single = SamplePropagation(std=0.3).estimate(t, torch.zeros(200, dtype=torch.int64))
    assert float(single["I(T;Y)"].value) == 0.0
    assert single["I(T;Y)"].flags["single_class"].all()


def test_duplicated_inputs_share_their_information():
    t, y = random_problem(60, 2)
    ids = torch.arange(60)
    double = SamplePropagation(std=0.3, n_draws=32, null_draws=0).estimate(
        torch.cat([t, t], 1), torch.cat([y, y]), x_ids=torch.cat([ids, ids])
    )
    single = SamplePropagation(std=0.3, n_draws=32, null_draws=0).estimate(t, y)
    for key in ("I(X;T)", "I(T;Y)", "I(X;T|Y)"):
        width = float(double[key].high - double[key].low + single[key].high - single[key].low)
        assert abs(float(double[key].value - single[key].value)) < 1.25 * width
        assert float(double[key].ceiling) == pytest.approx(float(single[key].ceiling), abs=1e-12)


def test_same_input_in_two_states_carries_one_bit():
    t = torch.tensor([0.0, 10.0, 20.0, 20.0]).double()[None, :, None]
    ids = torch.tensor([0, 0, 1, 1])
    found = SamplePropagation(std=0.1, null_draws=0).estimate(t, ids, x_ids=ids)["I(X;T)"]
    assert float(found.value) == pytest.approx(1.0, abs=1e-9)


def test_numbers_as_targets_of_a_gaussian_pair():
    """T + Z and Y + W are jointly Gaussian: -log2(1 - rho^2) / 2, and 1500 samples give +-0.05."""
    generator = torch.Generator().manual_seed(0)
    pair = torch.randn(1500, 2, generator=generator, dtype=torch.float64)
    y = 0.8 * pair[:, 0] + 0.6 * pair[:, 1]
    found = SamplePropagation(std=0.5, target_scale=0.5, null_draws=5).estimate(pair[None, :, :1], y)
    rho = 0.8 / 1.25
    assert float(found["I(T;Y)"].value) == pytest.approx(-0.5 * math.log2(1 - rho**2), abs=0.05)
    assert float(found["I(T;Y)"].ceiling) == pytest.approx(0.5 * math.log2(5), abs=0.05)
    assert not found["I(T;Y)"].flags["below_null"].any()
    # Chance structure of 1500 points leaves a little in shuffled pairs, never what the pairs have.
    assert 0 < float(found["I(T;Y) null"].value) < 0.1
    constant = SamplePropagation(std=0.5).estimate(pair[None, :, :1], torch.full((1500,), 3.0))
    assert float(constant["I(T;Y)"].value) == 0.0
    assert constant["I(T;Y)"].flags["single_class"].all()


@pytest.mark.parametrize("n_draws", [2, 8])
def test_intervals_cover_the_truth(n_draws):
    """Nominal 95 %: of 100 seeds 88 or more hold, the mean is unbiased (2.0 * 0.7 standard errors)."""
    t = torch.tensor([-1.0, 1.0]).double().repeat(100)[None, :, None]
    ids = torch.arange(2).repeat(100)
    truth = mixture_information_bits([-1, 1], 1.0)
    held, values = 0, []
    for seed in range(100):
        found = SamplePropagation(std=1.0, n_draws=n_draws, null_draws=0, seed=seed).estimate(t, ids, x_ids=ids)
        quantity = found["I(X;T)"]
        values.append(float(quantity.value))
        held += bool(quantity.low <= truth <= quantity.high)
    error = torch.tensor(values, dtype=torch.float64).std() / 10
    assert held >= 88
    assert abs(sum(values) / 100 - truth) < 3.5 * float(error)


def test_control_variates_and_opposite_pairs_cut_the_error():
    """Values that are c itself have no error left; without the control their spread is that of |z|^2 / 2."""
    generator = torch.Generator().manual_seed(0)
    c = torch.randn(3, 50, generator=generator, dtype=torch.float64)
    value, error = weigh_draws(5 + c.repeat_interleave(2, 0), c[None])
    assert float(value) == pytest.approx(5.0, abs=1e-12)
    assert float(error) == pytest.approx(0.0, abs=1e-12)
    odd = torch.stack([c, -c], 1).flatten(0, 1)
    assert float(weigh_draws(odd, c[None])[1]) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("factor", [1e300, 1e-310, 1e38])
def test_extreme_values_are_finite_and_ordinary(factor):
    t, y = random_problem(60, 2)
    plain = SamplePropagation().prepare(Run(t), y).estimate(t, y)
    found = SamplePropagation().prepare(Run(factor * t), y).estimate(factor * t, y)
    for key in ("I(X;T)", "I(T;Y)"):
        assert float(found[key].value) == pytest.approx(float(plain[key].value), abs=1e-3)
    fixed = SamplePropagation(std=0.1).estimate(factor * t, y)["I(X;T)"].value
    assert -1e-9 <= float(fixed) <= math.log2(60) + 1e-9


def test_far_twins_are_measured_from_their_distance():
    """Twins 1e-6 apart at noise 1e-6, a thousand from their likes: log2 20 plus the two-point channel."""
    centres = 1e3 * random_problem(20, 4)[0][0]
    step = torch.tensor([1e-6, 0, 0, 0], dtype=torch.float64)
    far = torch.cat([centres, centres + step])[None]
    truth = math.log2(20) + mixture_information_bits([0.0, 1.0], 1.0)
    found = SamplePropagation(std=1e-6, n_draws=64, null_draws=0).estimate(far, torch.arange(40) % 2)["I(X;T)"]
    assert within(found, truth, slack=1e-3)


def test_snapshots_alone_or_together_are_equal_bit_for_bit():
    t = torch.cat([random_problem(130, 6, seed=s)[0] for s in range(3)]).to(torch.float32)
    y = random_problem(130, 6)[1]
    estimator = SamplePropagation(std=0.2)
    together = estimator.estimate(t, y)
    for s in range(3):
        for key, quantity in estimator.estimate(t[s : s + 1], y).items():
            assert torch.equal(together[key].value[s : s + 1], quantity.value), key


MEMORY = """
import resource, torch
torch.set_num_threads(1)
from infoplane.estimators.noise import SamplePropagation
SamplePropagation(std=1.0).estimate(torch.randn(1, 64, 128), torch.arange(64) % 2)
t, y = torch.randn(1, {n}, {d}), torch.arange({n}) % 2
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
SamplePropagation(std={std}, n_draws={draws}).estimate(t, y)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize(("n", "d", "std", "draws"), [(500, 5000, 9.0, 8), (2200, 1024, 0.1, 2)])
@pytest.mark.slow
def test_memory_beyond_the_rows_stays_under_64_mib(n, d, std, draws):
    """Rotated rows, and rows in float64 that are made anew for each block."""
    code = MEMORY.format(n=n, d=d, std=std, draws=draws)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 64 * 1024


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"std": 0.0}, "std must be positive"),
        ({"relative_std": math.nan}, "relative_std must be positive"),
        ({"n_draws": 3}, "n_draws must be even"),
        ({"n_draws": 4.0}, r"n_draws must be even and at least 2, got 4\.0"),
        ({"std": 0.5, "relative_std": 0.2}, "give one or the other"),
        ({"null_draws": -2}, "null_draws must be a whole number of 0 or more, got -2"),
        ({"dtype": "half"}, "dtype must be one of"),
    ],
)
def test_fields_out_of_their_domain_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        SamplePropagation(**fields)


def test_presets_and_prepared_fields():
    assert parse("noise@goldfeld-2019").std == 0.005
    found = {f.name for f in dataclasses.fields(SamplePropagation) if f.metadata.get("prepared")}
    assert found == {"reference_rms", "network_std", "network_kind", "passes"}


def test_null_of_a_class_for_every_row_is_the_value():
    """Every shuffle says what the labels say, whatever the noise."""
    t = torch.randn(1, 60, 3, generator=torch.Generator().manual_seed(0))
    found = SamplePropagation(std=0.3).estimate(t, torch.arange(60))
    value, null = found["I(T;Y)"], found["I(T;Y) null"]
    assert null.value.item() == pytest.approx(value.value.item(), abs=1e-9)
    assert bool(value.flags["below_null"])


def test_null_is_as_precise_as_it_is_compared():
    """A hundred classes of random labels: with the bare first draw a quarter of them would exceed the null."""
    t = torch.randn(1, 200, 3, generator=torch.Generator().manual_seed(5))
    y = torch.randint(0, 100, (200,), generator=torch.Generator().manual_seed(6))
    nulls = [
        float(SamplePropagation(std=0.3, null_draws=3, seed=s).estimate(t, y)["I(T;Y) null"].value) for s in range(16)
    ]
    assert float(np.std(nulls)) < 0.07
