"""Partial information against laws whose parts are known, and against a slow minimum."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from infoplane.diagnostics import Place, partial_information
from infoplane.diagnostics._codes import information_bits
from infoplane.diagnostics.partial_information import least_joint_information

BITS = np.array(list(itertools.product((0, 1), repeat=2))).repeat(20, axis=0)
A, B = BITS.T


@pytest.mark.parametrize(
    ("sources", "y", "parts"),
    [
        ((A, B), A ^ B, (0, 0, 0, 1)),
        ((A, A), A, (1, 0, 0, 0)),
        ((A, B), A, (0, 1, 0, 0)),
        ((A, B), B, (0, 0, 1, 0)),
        ((A, B), A & B, (0.311278, 0, 0, 0.5)),
        ((A, B), 0 * A, (0, 0, 0, 0)),
    ],
    ids=["xor", "copy", "unique 1", "unique 2", "and", "one class"],
)
def test_known_laws(sources, y, parts):
    found = partial_information(*sources, y, null_draws=0)
    np.testing.assert_allclose(found.parts, parts, atol=1e-6)
    assert found.gap < 1e-7


def slow_least(p):
    """The minimum of I_Q(Y;X1 X2), by turns: the mixture over y, then the nearest law of each y with its margins."""
    of_y = p.sum((0, 1))
    one, two = p.sum(1) / of_y, p.sum(0) / of_y
    q = one[:, None] * two[None]
    for _ in range(300):
        q = np.repeat((q * of_y).sum(2, keepdims=True), len(of_y), axis=2)
        for _ in range(30):
            q *= (one / q.sum(1))[:, None]
            q *= (two / q.sum(0))[None]
    return information_bits(q * of_y)


@pytest.mark.parametrize("seed", range(3))
def test_minimum_of_random_laws(seed):
    p = np.random.default_rng(seed).gamma(0.7, size=(3, 2, 3))
    p /= p.sum()
    value, gap = least_joint_information(p)
    assert value == pytest.approx(slow_least(p), abs=1e-3)
    assert 0 <= gap < 1e-7


def test_parts_add_up_and_a_source_takes_the_place_of_the_other():
    rng = np.random.default_rng(1)
    x1, x2 = rng.integers(0, 4, (2, 500))
    y = (x1 + x2 * rng.integers(0, 2, 500)) % 3
    one, two = partial_information(x1, x2, y, null_draws=0), partial_information(x2, x1, y, null_draws=0)
    table = np.zeros((4, 4, 3))
    np.add.at(table, (x1, x2, y), 1)
    assert sum(one.parts) == pytest.approx(information_bits(table), abs=1e-9)
    assert one.redundancy + one.unique1 == pytest.approx(information_bits(table.sum(1)), abs=1e-9)
    np.testing.assert_allclose(one.parts, np.array(two.parts)[[0, 2, 1, 3]], atol=1e-6)


def test_the_bias_of_few_samples_is_seen_in_the_null():
    rng = np.random.default_rng(2)
    x1, x2, y = rng.integers(0, 6, (3, 200))
    found = partial_information(x1, x2, y)
    assert found.synergy > 0.3
    assert "few_samples" in found.flags
    row = next(r for r in found.rows(Place(layer="fc1")) if r.quantity == "synergy (X1,X2;Y)")
    assert "below_null" in row.flags
    assert row.unit == "bit"


def test_what_is_refused():
    with pytest.raises(ValueError, match="x1 4, x2 4, y 3"):
        partial_information([0, 1, 0, 1], [0, 1, 1, 0], [0, 1, 1])
    many = np.arange(3000)
    with pytest.raises(ValueError, match=r"at most 4000 pairs.*fewer bins"):
        partial_information(many, many, many % 2)
    with pytest.raises(ValueError, match="null_draws must be 0 or at least 5, got 2"):
        partial_information(A, B, A, null_draws=2)


def test_continuous_values_are_refused_before_their_table_is_made():
    x = np.random.default_rng(0).normal(size=(3, 3000))
    with pytest.raises(ValueError, match="at most 4000 pairs of a source's and Y's values, got 18000000"):
        partial_information(*x)
