"""Rajski distance: a metric of codes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from infoplane.diagnostics import Place, rajski_distance


def test_bijections_are_one_point_and_independence_is_the_farthest():
    a, b = np.array(list(itertools.product(range(3), repeat=2))).repeat(4, axis=0).T
    assert rajski_distance(a, 7 - 2 * a).distance == pytest.approx(0.0, abs=1e-12)
    assert rajski_distance(a, b).distance == pytest.approx(1.0, abs=1e-12)
    # H(S,T) = log2 9, I = log2 3
    assert rajski_distance(a, np.stack([a, b], 1)).distance == pytest.approx(0.5, abs=1e-12)


def test_triangles():
    codes = np.random.default_rng(0).integers(0, 4, (6, 60))
    d = np.array([[rajski_distance(s, t).distance for t in codes] for s in codes])
    np.testing.assert_allclose(d, d.T, atol=1e-12)
    assert all(d[i, k] <= d[i, j] + d[j, k] + 1e-12 for i, j, k in itertools.product(range(6), repeat=3))


def test_codes_that_tell_every_sample_apart_say_so():
    rng = np.random.default_rng(0)
    found = rajski_distance(rng.normal(size=(5000, 8)), rng.normal(size=(5000, 3)))
    assert found.distance == pytest.approx(0.0, abs=1e-12)
    assert found.flags == ("saturated",)
    constant = rajski_distance(np.zeros(5), np.ones(5))
    assert constant.distance == 0.0
    assert constant.flags == ("degenerate",)
    (row,) = found.rows(Place(layer="fc1", partner="fc2"))
    assert (row.quantity, row.unit, row.flags) == ("Rajski distance(T;T')", "distance", "saturated")
