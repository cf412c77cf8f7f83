"""The certificate says what is known of the estimators, and notices one that is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch

from infoplane import certify
from infoplane.estimators import Quantity, register
from infoplane.estimators._registry import _ESTIMATORS


def verdicts(spec, **sizes):
    return {(f.quantity, f.check): f.holds for f in certify.certify([spec], **{"samples": 300, **sizes})}


def test_adaptive_bins_survive_every_increasing_map_of_the_layer():
    found = verdicts("adaptive:low=min,null_draws=0")
    assert found["I(X;T)", "monotone map"]
    assert found["I(X;T)", "scale x1000"]
    assert not found["I(X;T)", "monotone map per unit"]


def test_mixture_bounds_of_fixed_noise_survive_rotations_and_no_rescaling():
    found = verdicts("kde:variance=0.01,null_draws=0")
    assert found["I(X;T)", "rotation"]
    assert not found["I(X;T)", "scale x1000"]


def test_memorisation_is_seen_and_a_lower_bound_is_not_accused_of_it():
    assert not verdicts("binning:null_draws=0", units=6)["I(T;Y)", "permuted labels"]
    assert verdicts("probe")["I(T;Y)", "permuted labels"]


def test_sampled_entropy_lies_between_its_bounds():
    assert certify.sandwich(samples=200).holds


@pytest.fixture
def wrong():
    @register
    @dataclass(frozen=True, kw_only=True)
    class Wrong:
        """Answers one bit to everything."""

        name: ClassVar[str] = "wrong"
        targets: ClassVar[frozenset[str]] = frozenset({"discrete"})
        guarantees: ClassVar[frozenset[str]] = frozenset()

        def bytes_per_snapshot(self, samples, units):
            return 8

        def estimate(self, t, y, *, x=None, x_ids=None):
            return {"I(T;Y)": Quantity(value=torch.ones(len(t), dtype=torch.float64))}

    yield "wrong"
    del _ESTIMATORS["wrong"]


def test_a_constant_answer_fails_where_there_is_nothing_to_know(wrong):
    found = verdicts(wrong)
    failed = {check for (_, check), holds in found.items() if not holds}
    assert failed == {"constant layer", "independent noise", "permuted labels", "additivity"}


def test_both_prints_show_every_row(wrong):
    findings = certify.certify([wrong], samples=100)
    assert certify.to_text(findings).count("wrong") == len(findings)
    (row,) = [line for line in certify.to_markdown(findings).splitlines() if "`wrong`" in line]
    assert row.count("**fails**") == 4


def test_a_constant_answer_is_off_where_the_information_is_known_and_nothing_flags_it(wrong):
    findings = certify.known([wrong], samples=300)
    near = {f.check for f in findings if abs(1.0 - float(f.expected)) <= certify.OFF}
    assert {"wide: one bit in 64 units", "wide: exclusive or in 20 units"} <= near != {f.check for f in findings}
    assert {f.check for f in findings if f.holds} == near
    assert all(f.flagged == "" for f in findings)
    assert certify.to_markdown(findings).count("| **fails** | - |") == len(findings) - len(near)
    assert "FAILS" in certify.to_text(findings)


def test_problems_of_every_kind_with_classes_and_targets():
    kinds = {label.partition(":")[0] for label in certify.PROBLEMS}
    assert kinds == {"curved", "tied", "atomic", "wide"}
    known = [make(50, 3) for make in certify.PROBLEMS.values()]
    assert all(len(k.t) == len(k.y) == 50 and k.bits > 0 for k in known)
    assert {k.y.dtype.kind for k in known} == {"i", "f"}


def test_ratings_rise_with_what_they_are_about():
    for seed in range(4):
        problem = certify.PROBLEMS["tied: ratings as targets"](500, seed)
        assert np.abs(problem.t[:, 0] - problem.t.mean() - (problem.y - 3)).mean() < 1.2
        assert problem.bits == pytest.approx(0.774, abs=1e-3)


@pytest.mark.parametrize("spec", ["gaussian", "knn", "compressed"])
def test_what_is_off_in_curved_and_wide_layers_is_flagged(spec):
    for f in certify.known([spec], samples=600):
        if f.check.startswith(("curved", "wide")) and not f.holds:
            assert set(f.flagged.split(", ")) & {"unreliable", "out_of_domain", "saturated", "few_samples"}, f


def test_flags_stand_beside_the_verdict():
    found = {
        f.check: f for f in certify.certify(["binning:null_draws=5"], samples=300, units=6) if f.quantity == "I(T;Y)"
    }
    assert found["constant layer"].flagged == "below_null, degenerate"
    assert "saturated" in found["permuted labels"].flagged
    assert ", flagged" in certify.to_markdown(list(found.values()))
