"""Multi-information against closed forms and its definition as a divergence."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from infoplane.diagnostics import Place, multi_information

A, B, C = np.array(list(itertools.product((0, 1), repeat=3))).repeat(20, axis=0).T


@pytest.mark.parametrize(
    ("variables", "together", "pairs"),
    [([A, B, C], 0, 0), ([A, B, A ^ B], 1, 0), ([A, A, A], 2, 3), ([A, A, B], 1, 1)],
    ids=["independent", "xor", "copies", "a pair and another"],
)
def test_bits(variables, together, pairs):
    assert multi_information(variables).value == pytest.approx(together, abs=1e-12)
    assert multi_information(variables, groups=2).value == pytest.approx(pairs, abs=1e-12)


def test_the_divergence_of_a_table_of_three_bits():
    """sum p log2 p / (p1 p2 p3) of a random law, whose counts the samples have exactly."""
    counts = np.random.default_rng(0).integers(1, 30, (2, 2, 2))
    samples = np.array([cell for cell in np.ndindex(2, 2, 2) for _ in range(counts[cell])]).T
    p = counts / counts.sum()
    ends = [p.sum(axis=tuple(j for j in range(3) if j != i)) for i in range(3)]
    truth = sum(
        p[cell] * math.log2(p[cell] / math.prod(ends[i][cell[i]] for i in range(3))) for cell in np.ndindex(2, 2, 2)
    )
    found = multi_information(list(samples))
    assert found.value == pytest.approx(truth, abs=1e-12)
    assert multi_information(list(samples), groups=[(0, 1), (1, 2)]).parts == pytest.approx(
        [multi_information(samples[[0, 1]]).value, multi_information(samples[[1, 2]]).value]
    )


def test_few_samples_read_above_zero_as_their_null_does():
    rng = np.random.default_rng(1)
    found = multi_information(list(rng.integers(0, 5, (4, 100))))
    assert found.value > 1
    assert found.null.min() < found.value < found.null.max() + 0.1
    assert found.flags == ("few_samples",)
    assert "below_null" in found.rows(Place())[0].flags
    alone = multi_information(list(rng.normal(size=(3, 50))))
    assert alone.value == pytest.approx(2 * math.log2(50))
    assert alone.flags == ("saturated", "few_samples")


def test_the_row_has_the_groups():
    found = multi_information([A, B, A ^ B], groups=2)
    value, null, excess = found.rows(Place(layer="fc1"))
    assert (value.quantity, value.unit, value.n_samples) == ("multi-information", "bit", 160)
    assert (null.quantity, excess.quantity) == ("multi-information null", "multi-information excess")
    assert '"groups":[[0,1],[0,2],[1,2]]' in value.config


@pytest.mark.parametrize(
    ("variables", "groups", "message"),
    [
        ([A], None, "at least 2 variables, got 1"),
        ([A, B[1:]], None, "same samples, got variable 0 160, variable 1 159"),
        ([A, B], 1, "2 or more different places from 0 to 1, got 1"),
        ([A, B], 3, "got 3"),
        ([A, B], [(0, 2)], r"got \[\(0, 2\)\]"),
        ([A, B], [(0, 0)], "different places"),
        ([A] * 50, 5, "1 to 1000"),
    ],
)
def test_bad_input(variables, groups, message):
    with pytest.raises(ValueError, match=message):
        multi_information(variables, groups=groups)
