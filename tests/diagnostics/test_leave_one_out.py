"""Leave-one-out bounds against the closed form of additive Gaussian channels."""

from __future__ import annotations

import math

import numpy as np
import pytest

from infoplane.diagnostics import Place, leave_one_out


def normal(samples, units, seed):
    return np.random.default_rng(seed).normal(size=(samples, units))


def test_the_truth_lies_between_in_the_mean():
    """Eight samples of 2 units at 1.61 nats: within four standard errors below and above, and near to it."""
    truth = math.log2(1 + 4)
    found = [leave_one_out(normal(1000, 2, seed), 0.5, seed=seed) for seed in range(8)]
    lower, upper = (np.array([getattr(each, name) for each in found]) for name in ("lower", "upper"))
    error = 4 * upper.std(ddof=1) / math.sqrt(8)
    assert lower.mean() - error < truth < upper.mean() + error
    assert 0 < upper.mean() - lower.mean() < 0.05
    assert sum(each.lower - each.lower_half < truth < each.upper + each.upper_half for each in found) >= 7


def test_much_information_opens_a_gap_around_it():
    """5 units at 6.24 nats: 5.58 and 7.10 nats of 1,000 rows in another implementation."""
    found = leave_one_out(normal(1000, 5, 0), 0.3)
    nats = math.log(2)
    assert found.lower * nats == pytest.approx(5.58, abs=0.2)
    assert found.upper * nats == pytest.approx(7.10, abs=0.5)
    assert found.lower < 2.5 * math.log2(1 + 1 / 0.09) < found.upper


def test_as_written_out():
    """Every density by itself, with the noise that the function drew, in pieces of the rows as well."""
    t, std = normal(40, 2, 1), np.array([0.5, 2.0])
    noise = np.random.default_rng([1_000_003, 7]).normal(size=(40, 2))
    density = np.exp(-0.5 * np.square(((t + noise * std)[:, None] - t[None]) / std).sum(2))
    own = np.diag(density)
    upper = np.log2(own / ((density.sum(1) - own) / 39)).mean()
    found = leave_one_out(t, std, seed=7)
    assert found.upper == pytest.approx(upper)
    assert found.lower == pytest.approx(np.log2(own / density.mean(1)).mean())


def test_inputs_of_the_same_seed_are_not_their_own_noise():
    assert leave_one_out(normal(1000, 2, 0), 0.5, seed=0).upper == pytest.approx(math.log2(5), abs=0.25)


def test_rows():
    upper, lower = leave_one_out(normal(50, 3, 0), 1e-3).rows(Place(layer="fc1"))
    assert (upper.quantity, upper.bound, upper.estimand) == ("I(X;T) leave-one-out", "upper", "noisy-population")
    assert (lower.bound, lower.flags, lower.config) == ("lower", "saturated", '{"seed":0,"std":0.001}')
    assert lower.value == pytest.approx(math.log2(50))
    assert lower.ceiling == pytest.approx(math.log2(50))


@pytest.mark.parametrize("std", [0.0, -1.0, math.nan, [0.5, 0.0]])
def test_a_std_that_is_none(std):
    with pytest.raises(ValueError, match="std must be positive"):
        leave_one_out(normal(10, 2, 0), std)


def test_too_few_rows():
    with pytest.raises(ValueError, match=r"3 rows or more, got std 1\.0 and 2 rows"):
        leave_one_out(normal(2, 2, 0), 1.0)
