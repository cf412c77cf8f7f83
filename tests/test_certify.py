"""The certificate says what is known of the estimators, and notices one that is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

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
