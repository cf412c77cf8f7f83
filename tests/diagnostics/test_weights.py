"""Condition number, volume and Gaussian-input entropy of weights."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.special
from scipy.spatial import cKDTree

from infoplane.diagnostics import Place, weight_spectrum


def test_known_spectrum():
    rng = np.random.default_rng(0)
    q, p = np.linalg.qr(rng.normal(size=(3, 3)))[0], np.linalg.qr(rng.normal(size=(5, 5)))[0]
    w = q @ np.diag([4.0, 2.0, 0.5]) @ p[:3]
    found = weight_spectrum(w)
    assert found.condition == pytest.approx(8.0, rel=1e-12)
    assert found.log2_volume == pytest.approx(2.0, abs=1e-12)
    logdet = np.linalg.slogdet(w @ w.T)[1]
    assert found.log2_volume == pytest.approx(0.5 * logdet / math.log(2), abs=1e-12)
    assert found.output_entropy == pytest.approx(0.5 * math.log2((2 * math.pi * math.e) ** 3) + 2.0, abs=1e-12)


@pytest.mark.parametrize("scale", [1e-30, 3.0, 1e30])
def test_condition_is_scale_free(scale):
    w = np.random.default_rng(1).normal(size=(4, 7))
    assert weight_spectrum(scale * w).condition == pytest.approx(weight_spectrum(w).condition, rel=1e-10)
    assert weight_spectrum(w.T).condition == pytest.approx(weight_spectrum(w).condition, rel=1e-10)


def test_output_entropy_against_a_nearest_neighbour_estimate():
    """Kozachenko-Leonenko on 20,000 outputs: within 2 %."""
    rng = np.random.default_rng(2)
    w = rng.normal(size=(2, 6))
    z = rng.normal(size=(20_000, 6)) @ w.T
    radius = cKDTree(z).query(z, k=4)[0][:, 3]
    nats = scipy.special.digamma(20_000) - scipy.special.digamma(3) + math.log(math.pi) + 2 * np.log(radius).mean()
    assert weight_spectrum(w).output_entropy == pytest.approx(nats / math.log(2), rel=0.02)


def test_lower_rank_is_said():
    w = np.ones((3, 4), dtype=np.float32)
    found = weight_spectrum(w)
    assert found.rank == 1
    assert math.isinf(found.condition)
    rows = found.rows(Place(layer="fc1"))
    assert all(r.flags == "degenerate" for r in rows)
    assert [math.isnan(r.value) for r in rows] == [True, True, False, True]


def test_convolutions_are_flattened_and_tall_matrices_have_no_output_density():
    w = np.random.default_rng(3).normal(size=(8, 3, 3, 3))
    np.testing.assert_allclose(weight_spectrum(w).singular_values, np.linalg.svd(w.reshape(8, 27))[1])
    tall = weight_spectrum(np.random.default_rng(4).normal(size=(5, 2)))
    assert math.isnan(tall.output_entropy)
    assert [r.quantity for r in tall.rows(Place())] == ["condition number", "weight volume", "weight rank"]


def test_bad_weights():
    with pytest.raises(ValueError, match=r"shape \(out, in, ...\), got \(3,\)"):
        weight_spectrum(np.ones(3))
    with pytest.raises(ValueError, match="1 non-finite entries"):
        weight_spectrum([[1.0, np.inf]])
