"""`auto`: which branch each kind of layer is given, that it is kept, and that the branch's own numbers come out."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch

from benchmarks import branches
from infoplane.core.records import Noise
from infoplane.estimators import auto as module
from infoplane.estimators import config_json, extrapolate, parse
from infoplane.estimators._protocol import values_only
from infoplane.estimators._registry import wrapper
from infoplane.estimators.auto import BRANCHES, Auto
from infoplane.testing import InMemory


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """What `effort=low` trains is cut down further: these tests are of what is chosen."""
    monkeypatch.setitem(module.LOW, "flow", {"steps": 50, "folds": 2})


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pairs(dims, nats, samples=600, seed=0):
    """Gaussian vectors (N, dims) of correlated pairs with this information in nats."""
    a, z = normal(samples, dims, seed=seed), normal(samples, dims, seed=seed + 1)
    rho = math.sqrt(1 - math.exp(-2 * nats / dims))
    return a, rho * a + math.sqrt(1 - rho**2) * z


def swirled(z, turn=1.0):
    r = turn * z.norm(dim=1)
    return torch.stack([r.cos() * z[:, 0] - r.sin() * z[:, 1], r.sin() * z[:, 0] + r.cos() * z[:, 1]], 1)


def behind_tanh(z, units, seed=9):
    return torch.tanh(z @ normal(z.shape[1], units, seed=seed))


A1, B1 = pairs(1, 1.0)
A3, B3 = pairs(3, 2.0)
A2, B2 = pairs(2, 2.0, 1000)
LABELS = torch.arange(600) % 3
CHOICES = {
    "one unit": (A1, LABELS, "knn"),
    "two units": (A3[:, :2], LABELS, "knn"),
    "three units": (A3, LABELS, "probe:family=mlp"),
    "three units of which one is dead": (torch.cat([A3[:, :2], torch.zeros(600, 1)], 1), LABELS, "knn"),
    "one unit and one target": (A1, B1, "knn"),
    "5 nats of one unit": (*pairs(1, 5.0), "knn"),
    "one latent in 8 units": (behind_tanh(A1, 8), B1, "knn"),
    "three Gaussian pairs": (A3, B3, "flow"),
    "the same, independent": (A3, B3.roll(1, 0), "flow"),
    "the same, 8 nats": (*pairs(3, 8.0), "flow"),
    "cubes of units": (A3**3, B3, "flow"),
    "swirls": (swirled(A2), swirled(B2, -1.0), "flow"),
    "swirls of 4 nats": (*map(swirled, pairs(2, 4.0)), "flow"),
    "two latents in 16 units": (behind_tanh(A2, 16), behind_tanh(B2, 16, seed=8), "flow"),
    "few samples": (A3[:50], B3[:50], "flow"),
    "a constant layer": (torch.ones(600, 4), B3, "knn"),
    "a constant target": (A3, torch.ones(600), "knn"),
}


@pytest.mark.parametrize("case", CHOICES)
def test_the_branch_follows_from_what_the_layer_is(case):
    t, y, branch = CHOICES[case]
    found = Auto().settled(t[None], y)
    assert found.branch == branch
    assert found.reason
    assert found.branch_xt is None
    assert found.settled(t[None], y) is found
    # Neither the scale of either side nor a shift is a fact.
    other = y if not y.is_floating_point() else 100.0 * y - 3.0
    assert Auto().settled(1e-3 * t[None] + 7.0, other).branch == branch


@pytest.mark.parametrize(
    ("case", "spec"),
    [
        ("two units", "knn"),
        ("three units", "probe:family=mlp,folds=3"),
        ("one unit and one target", "knn"),
        ("three Gaussian pairs", "flow:noise=off,steps=50,folds=2"),
        ("swirls", "flow:noise=off,steps=50,folds=2"),
    ],
)
def test_the_numbers_are_those_of_the_branch(case, spec):
    t, y, branch = CHOICES[case]
    t, y = t[None, :100], y[:100]
    with values_only():
        found, want = Auto(effort="low", branch=branch).estimate(t, y), parse(spec).estimate(t, y)
    assert found.keys() == want.keys()
    for name, q in want.items():
        for part in ("value", "low", "high", "ceiling"):
            a, b = getattr(found[name], part), getattr(q, part)
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
        assert (found[name].bound, found[name].estimand, found[name].unit) == (q.bound, q.estimand, q.unit)
        assert {flag for flag, up in found[name].flags.items() if up} == {flag for flag, up in q.flags.items() if up}


def test_full_effort_is_the_defaults_of_the_branches():
    for branch in BRANCHES:
        want = parse(branch)
        found = Auto(seed=5).method(branch)
        same = {"seed": 5} | ({"noise": "off"} if hasattr(want, "noise") else {})
        assert found == dataclasses.replace(want, **same)


def test_classes_of_few_units_are_the_mean_over_several_numbers_of_neighbours():
    t, y, _ = CHOICES["two units"]
    t = torch.stack([t[:200], t[:200].flip(0), torch.zeros_like(t[:200])])
    found = Auto(branch="knn").estimate(t, y[:200])["I(T;Y)"]
    each = [parse(f"knn:n_neighbors={k}").estimate(t, y[:200])["I(T;Y)"] for k in (2, 3, 4, 5)]
    torch.testing.assert_close(found.value, torch.stack([q.value for q in each]).mean(0), rtol=0, atol=1e-12)
    assert not torch.equal(each[0].value, each[3].value)
    assert {name: flag.tolist() for name, flag in found.flags.items()} == {
        name: flag.tolist() for name, flag in each[1].flags.items()
    }


TWO, FOUR = A1[:300].expand(-1, 3), A3[:300]  # with one target: two dimensions together, and four
NAN = torch.full_like(FOUR, torch.nan)
RUNS = {
    "the middle one": ([TWO, FOUR, TWO], "flow"),
    "the last one": ([TWO, TWO, TWO, FOUR], "flow"),
    "the first one": ([FOUR, TWO], "flow"),
    "none of the three": ([TWO, FOUR, TWO, TWO, FOUR, TWO], "knn"),
    "finite ones alone": ([NAN, TWO, FOUR, NAN, TWO], "flow"),
    "nothing finite": ([NAN], "knn"),
}


@pytest.mark.parametrize("case", RUNS)
def test_a_run_takes_the_later_branch_of_its_first_middle_and_last_snapshot(case):
    snapshots, branch = RUNS[case]
    t, y = torch.stack(snapshots), B1[:300]
    found = Auto().prepare(InMemory(t), y)
    assert found.branch == branch
    if case == "finite ones alone":
        return
    assert "prepared" in config_json(found)
    again = json.loads(config_json(found))["prepared"]
    assert again == {"branch": found.branch, "reason": found.reason}
    if case != "nothing finite":  # a call of all snapshots decides likewise, and once
        assert Auto().settled(t, y) == found


def test_labels_decide_by_units_of_any_of_the_three():
    flat = torch.cat([FOUR[:, :1], torch.zeros(300, 2)], 1)
    found = Auto().prepare(InMemory(torch.stack([flat, FOUR, flat])), LABELS[:300])
    assert (found.branch, found.reason) == ("probe:family=mlp", "more than 2 units vary")


def test_a_second_array_that_changes_with_the_step_is_read_beside_its_own():
    class Pairs(InMemory):
        def with_targets(self):
            yield A2[None], A2 + 1.0  # of one surface: two dimensions
            yield swirled(A2)[None], swirled(B2, -1.0)

    whole = torch.stack([A2, swirled(A2)])
    assert Auto().prepare(Pairs(whole), A2).branch == "flow"
    assert Auto().prepare(Pairs(whole[:1]), A2).branch == "flow"


WRAPPERS = {"null": {"draws": 2}, "interval": {"draws": 5}, "units": {"draws": 5}, "synergy": {}}


@pytest.mark.parametrize("suffix", WRAPPERS)
def test_shuffles_and_parts_keep_the_branch(suffix, monkeypatch):
    """Shuffled swirls would pass for Gaussian, a part of 40 samples for too few, a unit alone for two dimensions."""

    def wrap(estimator):
        return wrapper(suffix)(estimator=estimator, **WRAPPERS[suffix])

    seen = []
    monkeypatch.setattr(Auto, "_choice", lambda self, t, y: seen.append(len(t)) or module.Branch("knn", "told so"))
    t, y, _ = CHOICES["swirls"]
    found = wrap(Auto(effort="low")).estimate(t[None, :80], y[:80])
    assert seen == [80]
    assert "I(T;Y)" in found or "units above null" in found
    ready = wrap(Auto()).prepare(InMemory(t[None, :80]), y[:80])
    assert ready.estimator.branch == "knn"


def test_it_is_not_extrapolated():
    with pytest.raises(ValueError, match=r"auto is not extrapolated: its branch may be `flow`.*knn[+]extrapolate"):
        extrapolate("auto")


# I(X;T)


class Noisy(InMemory):
    noise = Noise(std=0.5)


def test_a_noisy_layer_has_both_informations_each_by_its_own_branch():
    x = A1[:300]
    t = x[None].repeat(2, 1, 3)
    labels = (x[:, 0] > 0).long()
    ready = Auto(effort="low").prepare(Noisy(t), labels, x)
    assert (ready.branch, ready.branch_xt) == ("probe:family=mlp", "flow")
    assert json.loads(config_json(ready))["prepared"]["reason_xt"] == ready.reason_xt
    found = ready.estimate(t, labels, x=x)
    assert {"I(X;T)", "variance kept", "I(T;Y)", "I(T;Y) lower", "gain over linear"} == set(found)
    assert found["I(X;T)"].estimand == "noisy-population"
    assert found["I(T;Y)"].estimand == "mlp-probe"
    # T + Z in three units with independent noise: one Gaussian channel of three times the signal.
    truth = 0.5 * math.log2(1 + 3 * float(x.var()) / 0.25)
    assert found["I(X;T)"].value.tolist() == pytest.approx([truth] * 2, abs=4 / math.sqrt(300) / math.log(2))


def test_without_noise_there_is_no_information_on_the_inputs():
    x, y = A1[:100], LABELS[:100]
    assert set(Auto().prepare(InMemory(x[None]), y, x).estimate(x[None], y, x=x)) == {"I(T;Y)"}
    told = Auto(noise="recorded")
    with pytest.raises(ValueError, match="auto needs the inputs x for I"):
        told.estimate(x[None], y)
    twice, ids = x[:50].repeat(2, 1), torch.arange(50).repeat(2)
    with pytest.raises(ValueError, match=r"the layer is deterministic, and its I.*use noise='off', or the estimator"):
        told.estimate(twice[None], y, x=twice, x_ids=ids)


def test_too_few_samples_are_refused():
    with pytest.raises(ValueError, match="auto needs at least 20 samples, got 19"):
        Auto().estimate(A3[None, :19], LABELS[:19])


def test_memory_is_that_of_the_branch_once_it_is_known():
    whole = Auto().bytes_per_snapshot(1000, 8)
    each = [Auto(branch=branch).bytes_per_snapshot(1000, 8) for branch in BRANCHES]
    assert whole == max(each) > min(each)


def test_the_benchmark_of_branches_measures_all_that_are_possible():
    t, y = A1[:100], LABELS[:100]
    problem = branches.Problem(kind="classes", family="none", settings={}, t=t, y=y, nats=0.0)
    branch, off = branches.errors(problem, "low")
    assert (branch, set(off)) == ("knn", {"knn", "probe:family=mlp"})
    line = branches.table([("classes", branch, off)]).splitlines()[2]
    assert line.startswith("| classes, knn | 1 | 0.")
