"""Rows given several times without ids are noticed; layers whose rows meet by themselves are left alone."""

from __future__ import annotations

import math

import pytest
import torch

from infoplane.estimators import available, parse
from infoplane.estimators._checks import copied_inputs

SPECS = {
    "noise": "noise:std=0.5",
    "kde": "kde:variance=0.25",
    "dimension": "dimension:halvings=1",
    "dse": "dse:sigma=0.5",
    "compressed": "compressed:dims=2",
    "auto": "auto:effort=low",
    "critic": "critic:steps=25",
    "flow": "flow:steps=0",
}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def once(samples: int = 120, units: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """A wide layer that tells inputs apart, and labels that are chance."""
    t = 3.0 * torch.randn(1, samples, units, generator=generator(0))
    return t, torch.randint(0, 3, (samples,), generator=generator(1))


def given(times: str, samples: int) -> torch.Tensor:
    """Which input each row is."""
    inputs = torch.arange(samples)
    if times == "twice":
        return inputs.repeat(2)
    if times == "ten times in any order":
        return inputs.repeat(10)[torch.randperm(10 * samples, generator=generator(2))]
    return torch.cat([inputs, inputs[: samples * 3 // 5]])  # three fifths of them twice


def raised(q) -> set[str]:
    return {flag for flag, on in q.flags.items() if bool(on.any())}


TIMES = ["twice", pytest.param("ten times in any order", marks=pytest.mark.slow), "most of them twice"]


@pytest.mark.usefixtures("short_trainings")
@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("name", sorted(available()))
def test_copies_are_noticed_and_keep_the_flags_of_ceilings(name, times):
    t, y = once()
    t = t.softmax(2) if name == "softmax" else t
    rows = given(times, t.shape[1])
    estimator = parse(SPECS.get(name, name))
    y = y if "discrete" in estimator.targets else t[0, :, 0].double()
    plain, found = estimator.estimate(t, y), estimator.estimate(t[:, rows], y[rows])
    named = estimator.estimate(t[:, rows], y[rows], x_ids=rows)
    for quantity, q in found.items():
        assert "ties" in raised(q), quantity
        assert raised(plain[quantity]) & {"saturated", "degenerate"} <= raised(q), quantity
        # What is noticed is what is said with ids; their order decides the shuffles and folds.
        if times == "twice" or quantity in ("I(X;T)", "H(T)"):
            torch.testing.assert_close(q.value, named[quantity].value, equal_nan=True)
        if q.ceiling is not None:
            torch.testing.assert_close(q.ceiling.reshape(-1), named[quantity].ceiling.reshape(-1))


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize(
    "spec", ["binning", "kde:variance=0.25", "hsic", "knn+null", "gaussian+null", "binning+interval"]
)
def test_chance_stays_within_the_null(spec, times):
    t, y = once()
    rows = given(times, t.shape[1])
    found = parse(spec).estimate(t[:, rows], y[rows])
    name = "nHSIC(T;Y)" if spec == "hsic" else "I(T;Y)"
    value, null = (float(found[f"{name}{end}"].value) for end in ("", " null"))
    assert null > 0.8 * value or value < 0.1


def test_ceiling_is_that_of_the_inputs():
    t, y = once()
    rows = given("twice", 120)
    q = parse("binning").estimate(t[:, rows], y[rows])["I(X;T)"]
    assert float(q.ceiling) == pytest.approx(math.log2(120))
    assert {"saturated", "ties"} <= raised(q)


def natural(kind: str) -> torch.Tensor:
    g = generator(3)
    normal = torch.randn(2000, 4, generator=g)
    return {
        "continuous": normal,
        "rectified": (normal - 1).relu(),
        "dead": torch.zeros(2000, 4),
        "twelve bits": torch.randint(0, 2, (2000, 12), generator=g).float(),
        "eleven bits": torch.randint(0, 2, (2000, 11), generator=g).float(),
        "a byte": (normal[:, :1] * 40).round(),
        "ratings": torch.randint(1, 6, (2000, 2), generator=g).float(),
        "tokens": torch.randn(500, 8, generator=g)[(500 * torch.rand(2000, generator=g) ** 3).long()],
        "labels": (torch.arange(2000) % 10)[:, None].float(),
    }[kind]


@pytest.mark.parametrize(
    "kind", ["continuous", "rectified", "dead", "twelve bits", "eleven bits", "a byte", "ratings", "tokens", "labels"]
)
def test_layers_whose_rows_meet_are_left_alone(kind):
    t = natural(kind)
    y = (t.sum(1) > t.sum(1).median()).long()
    assert copied_inputs(t, y) is None
    if kind != "tokens":
        assert "ties" not in raised(parse("binning").estimate(t[None], y)["I(T;Y)"])


def test_inputs_that_differ_or_are_named_are_taken_at_their_word():
    t, y = once()
    rows = given("twice", 120)
    t, y = t[:, rows], y[rows]
    estimate = parse("binning").estimate
    assert "ties" in raised(estimate(t, y)["I(X;T)"])
    assert "ties" in raised(estimate(t, y, x_ids=torch.arange(240))["I(X;T)"])
    assert "ties" not in raised(estimate(t, y, x=torch.randn(240, 3, generator=generator(4)))["I(X;T)"])
    assert "ties" not in raised(estimate(t, y, x_ids=rows)["I(X;T)"])
    noisy = t + torch.randn(t.shape, generator=generator(5))
    x = torch.randn(120, 3, generator=generator(6))[rows]
    assert "ties" in raised(estimate(noisy, y, x=x)["I(X;T)"])
    assert "ties" not in raised(estimate(t, torch.randint(0, 3, (240,), generator=generator(7)))["I(X;T)"])


def test_each_snapshot_is_judged_by_itself():
    t, y = once()
    rows = given("twice", 120)
    block = torch.cat([t[:, rows], torch.randn(1, 240, 6, generator=generator(8)), t[:, rows]])
    estimator = parse("binning:width=1.0")
    found = estimator.estimate(block, y[rows])
    assert found["I(X;T)"].flags["ties"].tolist() == [True, False, True]
    for i in range(3):
        one = estimator.estimate(block[i : i + 1], y[rows])
        for name, q in one.items():
            assert float(q.value) == float(found[name].value[i])
            assert raised(q) == {flag for flag, on in found[name].flags.items() if bool(on[i])}


@pytest.mark.parametrize("times", [1, 2])
def test_whole_numbers_beyond_float64_are_compared_as_they_are(times):
    """200 inputs 3 apart from 2**60 on, where float64 holds one number in 256, each given once or twice."""
    t = (torch.arange(200) * 3 + 2**60).repeat(times)[None, :, None]
    y = (torch.arange(200) % 2).repeat(times)
    found = parse("binning:width=1").estimate(t, y)["I(X;T)"]
    assert float(found.value) == pytest.approx(math.log2(200), abs=1e-9)
    assert bool(found.flags.get("ties", torch.tensor([False]))) is (times == 2)
