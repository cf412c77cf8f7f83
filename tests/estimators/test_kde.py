"""KDE bounds: closed forms, quadrature, properties, the inputs that break other codes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from truths_table import MIXTURES

from infoplane.estimators import build, config_json, get, parse
from infoplane.estimators.kde import KDE

LN2 = math.log(2)


def one_snapshot(values):
    return torch.tensor(values, dtype=torch.float64).reshape(1, len(values), -1)


def mixture_entropy_bits(centres, std, n=60_001):
    """h of a 1-D Gaussian mixture by the trapezoid rule over +-9 std beyond the centres."""
    grid = torch.linspace(min(centres) - 9 * std, max(centres) + 9 * std, n, dtype=torch.float64)
    c = torch.tensor(centres, dtype=torch.float64)[:, None]
    p = (torch.exp(-((grid - c) ** 2) / (2 * std**2)) / (std * math.sqrt(2 * math.pi))).mean(0)
    return float(torch.trapezoid(-torch.special.xlogy(p, p), grid)) / LN2


def slow_bound_bits(t, variance):
    """-mean log2 mean exp(-d^2 / 2 variance), written plainly."""
    square = (t[:, None] - t[None]).square().sum(2)
    return float(-torch.exp(-square / (2 * variance)).mean(1).log2().mean())


def slow_bounds(t, y, variance):
    """I(X;T) and I(T;Y) from the upper and from the lower bound, in bits."""
    out = []
    for v in (variance, 4 * variance):
        whole = slow_bound_bits(t, v)
        parts = sum(float((y == k).double().mean()) * slow_bound_bits(t[y == k], v) for k in y.unique())
        out.append((whole, whole - parts))
    return out


def random_problem(n=150, d=4, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, classes, (n,), generator=generator)
    means = torch.randn(classes, d, generator=generator, dtype=torch.float64)
    noise = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return torch.tanh(means[y] + 0.5 * noise)[None], y


@pytest.mark.parametrize(("centres", "variance", "exact"), [(c, v, exact) for c, v, _, exact, _ in MIXTURES])
def test_the_stated_information_is_that_of_quadrature(centres, variance, exact):
    """One unit; the bounds of these rows are in truths_table.py."""
    found = KDE(variance=variance, null_draws=0).estimate(one_snapshot(centres), torch.arange(len(centres)) % 2)
    noise_entropy = 0.5 * math.log2(2 * math.pi * math.e * variance)
    truth = mixture_entropy_bits(centres, math.sqrt(variance)) - noise_entropy
    assert truth == pytest.approx(exact, abs=1e-5)
    assert found["I(X;T)"].bound == "upper"
    assert found["I(X;T) lower"].bound == "lower"
    assert {found[key].bound for key in ("I(T;Y)", "I(T;Y) lower")} == {"point"}
    assert {found[key].estimand for key in ("I(X;T)", "I(T;Y)")} == {"noisy-finite"}


def test_the_stated_information_about_halves_of_a_line_is_that_of_quadrature():
    parts = 0.5 * mixture_entropy_bits([-3, -1], 1) + 0.5 * mixture_entropy_bits([1, 3], 1)
    assert mixture_entropy_bits([-3, -1, 1, 3], 1) - parts == pytest.approx(0.733469, abs=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("n", "d", "classes"), [(150, 4, 3), (40, 60, 2), (700, 2, 11)])
def test_equal_to_the_plain_formulas(n, d, classes, dtype):
    t, y = random_problem(n, d, classes)
    found = KDE(variance=0.1, null_draws=0, dtype=dtype).estimate(t, y)
    (upper, upper_y), (lower, lower_y) = slow_bounds(t[0], y, 0.1)
    tolerance = 1e-12 if dtype == "float64" else 1e-5
    assert float(found["I(X;T)"].value) == pytest.approx(upper, abs=tolerance)
    assert float(found["I(X;T) lower"].value) == pytest.approx(lower, abs=tolerance)
    assert float(found["I(T;Y)"].value) == pytest.approx(upper_y, abs=tolerance)
    assert float(found["I(T;Y) lower"].value) == pytest.approx(lower_y, abs=tolerance)
    assert float(found["I(X;T|Y)"].value) == pytest.approx(upper - upper_y, abs=tolerance)
    assert float(found["I(X;T|Y) lower"].value) == pytest.approx(lower - lower_y, abs=tolerance)


def test_offset_float32_rows_never_exceed_log_n():
    """The Gram trick without centring reads 7.298 nats here, above ln 1000 = 6.908."""
    rows = np.random.default_rng(0).random((1000, 20))
    y = torch.arange(1000) % 2
    found = KDE(variance=0.05, null_draws=0).estimate(torch.from_numpy(rows)[None], y)
    assert float(found["I(X;T)"].value) * LN2 == pytest.approx(6.907569, abs=1e-6)
    assert float(found["I(X;T) lower"].value) * LN2 == pytest.approx(5.975120, abs=1e-6)
    for variance in (0.05, 1e-3):
        shifted = torch.from_numpy(rows + 100).to(torch.float32)
        shifted = KDE(variance=variance, null_draws=0).estimate(shifted[None], y)
        assert float(shifted["I(X;T)"].value) <= math.log2(1000) + 1e-12


@pytest.mark.parametrize("target", ["classes", "numbers"])
def test_constant_layer_is_exactly_zero_and_says_so(target):
    t = torch.full((2, 60, 3), 1.1e8, dtype=torch.float32)
    y = torch.arange(60) % 3
    found = KDE(variance=1e-3).estimate(t, y if target == "classes" else y.double())
    for key in ("I(X;T)", "I(X;T) lower", "I(T;Y)", "I(T;Y) lower", "I(T;Y) null"):
        assert found[key].value.tolist() == [0.0, 0.0]
        assert found[key].flags["degenerate"].all()
    adaptive = KDE().estimate(torch.zeros(1, 60, 3), y)
    assert float(adaptive["I(X;T)"].value) == 0.0
    assert float(adaptive["noise std"].value) == 0.0


def test_far_points_saturate_and_shuffled_labels_read_the_same():
    """At vanishing noise every layer reads (log2 N, H(Y)), for true labels and for shuffled ones."""
    t, y = random_problem()
    found = KDE(variance=1e-8).estimate(t, y)
    h_y = float(found["I(T;Y)"].ceiling)
    assert float(found["I(X;T)"].value) == pytest.approx(math.log2(150), abs=1e-9)
    assert float(found["I(T;Y)"].value) == pytest.approx(h_y, abs=1e-9)
    assert float(found["I(T;Y) null"].value) == pytest.approx(h_y, abs=1e-9)
    assert found["I(X;T)"].flags["saturated"].all()
    assert found["I(T;Y)"].flags["saturated"].all()
    assert found["I(T;Y)"].flags["below_null"].all()


def test_separated_classes_carry_h_y_without_saturation():
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(200) % 4
    t = 3.0 * y.double()[:, None] + 0.05 * torch.randn(200, 2, generator=generator, dtype=torch.float64)
    found = KDE(variance=0.04).estimate(t[None], y)
    assert float(found["I(T;Y)"].value) == pytest.approx(2.0, abs=1e-6)
    assert not found["I(T;Y)"].flags["saturated"].any()
    assert not found["I(T;Y)"].flags["below_null"].any()


@pytest.mark.parametrize("columns", [True, False])
@pytest.mark.parametrize("classes", [2, 9])
def test_null_is_the_mean_over_shuffled_labels(classes, columns, monkeypatch):
    """Both ways to it (indicator columns, pairs within shuffled classes) equal shuffling by hand."""
    monkeypatch.setattr("infoplane.estimators.kde.columns_pay", lambda *_: columns)
    t, y = random_problem(120, 3, classes)
    found = KDE(variance=0.05, null_draws=8, seed=3).estimate(t, y)["I(T;Y) null"]
    generator = torch.Generator().manual_seed(3)
    draws = [y[torch.randperm(120, generator=generator)] for _ in range(8)]
    by_hand = torch.tensor([slow_bounds(t[0], labels, 0.05)[0][1] for labels in draws])
    assert float(found.value) == pytest.approx(float(by_hand.mean()), abs=1e-6)
    assert float(found.low) == pytest.approx(float(by_hand.double().quantile(0.025)), abs=1e-6)
    assert float(found.high) == pytest.approx(float(by_hand.double().quantile(0.975)), abs=1e-6)


def test_labels_that_mean_nothing_are_below_their_null():
    t, _ = random_problem(200, 2, 2)
    y = torch.randint(0, 2, (200,), generator=torch.Generator().manual_seed(9))
    labelled = random_problem(200, 2, 2)[1]
    assert KDE(variance=0.1).estimate(t, y)["I(T;Y)"].flags["below_null"].all()
    assert not KDE(variance=0.1).estimate(t, labelled)["I(T;Y)"].flags["below_null"].any()


def test_duplicated_inputs_carry_one_share_of_information():
    """Every row twice under one id: the mixture is the same, and H(X) is that of the single rows."""
    t, y = random_problem(60, 3, 2)
    single = KDE(variance=0.1).estimate(t, y)
    ids = torch.arange(60)
    double = KDE(variance=0.1).estimate(torch.cat([t, t], 1), torch.cat([y, y]), x_ids=torch.cat([ids, ids]))
    for key in ("I(X;T)", "I(X;T) lower", "I(T;Y)", "I(T;Y) lower", "I(X;T|Y)", "I(X;T|Y) lower"):
        assert float(double[key].value) == pytest.approx(float(single[key].value), abs=1e-12)
        assert float(double[key].ceiling) == pytest.approx(float(single[key].ceiling), abs=1e-12)
    assert float(double["I(X;T)"].ceiling) == pytest.approx(math.log2(60), abs=1e-12)


def test_noisy_rows_of_one_input_count_as_noise():
    """Four far cells, two inputs, each in two cells: 2 bits of entropy, 1 of them about the input."""
    t = one_snapshot([0.0, 10.0, 20.0, 30.0])
    found = KDE(variance=0.01).estimate(t, torch.tensor([0, 0, 1, 1]), x_ids=torch.tensor([0, 0, 1, 1]))
    assert float(found["I(X;T)"].value) == pytest.approx(1.0, abs=1e-9)
    assert float(found["I(X;T) lower"].value) == pytest.approx(1.0, abs=1e-9)
    assert float(found["I(X;T|Y)"].value) == pytest.approx(0.0, abs=1e-9)
    assert float(found["I(T;Y)"].value) == pytest.approx(1.0, abs=1e-9)


def test_rows_of_one_input_weigh_by_their_number():
    """Four far cells, two of them of one input: 2 bits of entropy, of which half the rows take 1 bit for noise."""
    t = one_snapshot([0.0, 10.0, 20.0, 30.0])
    found = KDE(variance=0.01).estimate(t, torch.tensor([0, 0, 1, 1]), x_ids=torch.tensor([0, 0, 1, 2]))
    for name in ("I(X;T)", "I(X;T) lower"):
        assert float(found[name].value) == pytest.approx(1.5, abs=1e-9)


def test_labels_that_differ_between_rows_of_one_input():
    """X in two cells, each with both labels: I(T;Y) = 0, and given Y the input is still one bit."""
    t = one_snapshot([0.0, 0.0, 9.0, 9.0])
    found = KDE(variance=0.01).estimate(t, torch.tensor([0, 1, 0, 1]), x_ids=torch.tensor([0, 0, 1, 1]))
    assert float(found["I(T;Y)"].value) == pytest.approx(0.0, abs=1e-9)
    assert float(found["I(X;T|Y)"].value) == pytest.approx(1.0, abs=1e-9)
    assert float(found["I(X;T|Y)"].ceiling) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("rule", ["max", "std", "iqr"])
def test_adaptive_noise_follows_the_layer_and_is_recorded(rule):
    t, y = random_problem(200, 3)
    snapshots = torch.cat([t, 7 * t, 1e300 * t, 1e-307 * t])
    found = KDE(rule=rule, scale=0.05).estimate(snapshots, y)
    flat = t.flatten().sort().values
    expected = {
        "max": float(flat.abs().max()),
        "std": float(flat.std(correction=0)),
        "iqr": float(flat[3 * 599 // 4] - flat[599 // 4]),
    }[rule]
    assert found["noise std"].unit == "units of T"
    assert float(found["noise std"].value[0]) == pytest.approx(0.05 * expected, rel=1e-12)
    assert float(found["noise std"].value[1]) == pytest.approx(0.35 * expected, rel=1e-12)
    for key in ("I(X;T)", "I(X;T) lower", "I(T;Y)", "I(T;Y) null"):
        value = found[key].value
        torch.testing.assert_close(value, value[:1].expand(4), rtol=1e-9, atol=1e-9)


def test_no_spread_in_the_middle_half_is_the_limit_of_no_noise():
    t = torch.zeros(1, 100, 1)
    t[0, :10, 0] = torch.arange(10.0)
    found = KDE(rule="iqr").estimate(t, torch.arange(100) % 2)
    p = torch.tensor([0.91] + [0.01] * 9, dtype=torch.float64)
    assert float(found["I(X;T)"].value) == pytest.approx(float(-(p * p.log2()).sum()), abs=1e-9)
    assert found["I(X;T)"].flags["degenerate"].all()


@pytest.mark.parametrize("factor", [1e300, 1e-310, 1e38, 1e-40])
def test_extreme_values_are_finite_and_ordinary(factor):
    t, y = random_problem(80, 2)
    found = KDE().estimate(factor * t, y)
    plain = KDE().estimate(t, y)
    for key in ("I(X;T)", "I(T;Y)"):
        assert float(found[key].value) == pytest.approx(float(plain[key].value), abs=1e-3)
    fixed = KDE(variance=0.1).estimate(factor * t, y)["I(X;T)"].value
    assert 0 <= float(fixed) <= math.log2(80) + 1e-9


@pytest.mark.parametrize("scale", [0.5, 0.1])
def test_numbers_as_targets_use_the_joint_mixture(scale):
    """I(T+Z;Y+W), bound by bound, against the plain formula over rows (t / s, y / w)."""
    t, _ = random_problem(90, 2)
    y = t[0, :, 0] * 3 + 5
    found = KDE(variance=0.1, target_scale=scale, null_draws=4).estimate(t, y)
    targets = (y / (scale * y.std(correction=0)))[:, None]
    rows = t[0] / math.sqrt(0.1)
    for key, v in (("I(T;Y)", 1.0), ("I(T;Y) lower", 4.0)):
        joint = slow_bound_bits(torch.cat([rows, targets], 1), v)
        expected = slow_bound_bits(rows, v) + slow_bound_bits(targets, v) - joint
        assert float(found[key].value) == pytest.approx(expected, abs=1e-9)
    assert float(found["I(T;Y)"].ceiling) == pytest.approx(slow_bound_bits(targets, 1.0), abs=1e-9)
    generator = torch.Generator().manual_seed(0)
    by_hand = []
    for _ in range(4):
        drawn = targets[torch.randperm(90, generator=generator)]
        joint = slow_bound_bits(torch.cat([rows, drawn], 1), 1.0)
        by_hand.append(slow_bound_bits(rows, 1.0) + slow_bound_bits(targets, 1.0) - joint)
    assert float(found["I(T;Y) null"].value) == pytest.approx(sum(by_hand) / 4, abs=1e-6)
    assert not found["I(T;Y)"].flags["below_null"].any()


def test_numbers_and_classes_are_never_mistaken():
    t, y = random_problem(60, 2, 3)
    estimator = KDE(variance=0.1, target_scale=1.0, null_draws=0)
    classes = estimator.estimate(t, y)
    relabelled = estimator.estimate(t, (y * 7919) % 5)
    numbers = estimator.estimate(t, y.double())
    assert float(classes["I(T;Y)"].value) == pytest.approx(float(relabelled["I(T;Y)"].value), abs=1e-12)
    assert abs(float(classes["I(T;Y)"].value - numbers["I(T;Y)"].value)) > 1e-3
    assert "I(X;T|Y)" not in numbers


def test_targets_of_two_columns_ignore_a_constant_one():
    t, _ = random_problem(50, 2)
    y = torch.stack([t[0, :, 0], torch.full((50,), 4.0, dtype=torch.float64)], dim=1)
    both = KDE(variance=0.1, null_draws=2).estimate(t, y)
    alone = KDE(variance=0.1, null_draws=2).estimate(t, y[:, 0])
    assert float(both["I(T;Y)"].value) == float(alone["I(T;Y)"].value)
    none = KDE(variance=0.1).estimate(t, y[:, 1])
    assert float(none["I(T;Y)"].value) == 0.0
    assert none["I(T;Y)"].flags["single_class"].all()


def test_one_class_and_one_class_per_row_are_flagged():
    t, _ = random_problem(50, 2)
    single = KDE(variance=0.1).estimate(t, torch.zeros(50, dtype=torch.int64))
    assert float(single["I(T;Y)"].value) == 0.0
    assert single["I(T;Y)"].flags["single_class"].all()
    assert float(single["I(T;Y) null"].value) == 0.0
    each = KDE(variance=0.1).estimate(t, torch.arange(50))
    assert each["I(T;Y)"].flags["saturated"].all()
    assert each["I(T;Y)"].flags["few_samples"].all()


def test_wide_brackets_are_called_unreliable():
    generator = torch.Generator().manual_seed(0)
    t = torch.randn(1, 300, 50, generator=generator, dtype=torch.float64)
    y = torch.arange(300) % 2
    wide = KDE(variance=4.0, null_draws=0).estimate(t, y)
    narrow = KDE(variance=1e-3, null_draws=0).estimate(t, y)
    assert wide["I(X;T)"].flags["unreliable"].all()
    assert not narrow["I(X;T)"].flags["unreliable"].any()


def test_snapshots_alone_or_together_are_equal_bit_for_bit():
    t = torch.cat([random_problem(130, 6, seed=s)[0] for s in range(4)]).to(torch.float32)
    y = random_problem(130, 6)[1]
    together = KDE(variance=0.1).estimate(t, y)
    for s in range(4):
        alone = KDE(variance=0.1).estimate(t[s : s + 1], y)
        for key, quantity in together.items():
            assert torch.equal(quantity.value[s : s + 1], alone[key].value), key


def test_more_noise_never_carries_more():
    """Both bounds fall with the variance, as does the information that they hold."""
    t, y = random_problem()
    variances = (1e-3, 1e-2, 0.1, 1.0, 10.0)
    for key in ("I(X;T)", "I(X;T) lower"):
        values = [float(KDE(variance=v, null_draws=0).estimate(t, y)[key].value) for v in variances]
        assert values == sorted(values, reverse=True)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"variance": 0.0}, "variance must be positive"),
        ({"variance": math.inf}, "variance must be positive"),
        ({"scale": -1.0}, "scale must be positive"),
        ({"rule": "mean"}, "rule must be"),
        ({"variance": "small"}, "variance must be positive and finite, or None, got 'small'"),
        ({"variance": 0.1, "rule": "std"}, "give one or the other"),
        ({"variance": 0.1, "scale": 0.2}, "give one or the other"),
        ({"null_draws": -1}, "null_draws must be a whole number of 0 or more, got -1"),
        ({"dtype": "float16"}, "dtype must be one of"),
    ],
)
def test_fields_out_of_their_domain_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        build(get("kde"), fields)


def test_presets_and_configuration():
    assert parse("kde@saxe-2018").variance == 1e-3
    assert parse("kde@saxe-2018-mnist:null_draws=0") == KDE(variance=0.1, null_draws=0)
    assert '"variance":null' in config_json(parse("kde"))
