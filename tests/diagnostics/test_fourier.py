"""Fourier features of input weights: pure modes, Parseval, white weights, silent units."""

from __future__ import annotations

import math

import numpy as np
import pytest

from infoplane.diagnostics import Place, fourier_features


def mode(period, frequency, phase=0.0):
    return np.cos(2 * np.pi * frequency * np.arange(period) / period + phase)


def test_pure_modes_of_two_operands():
    w = np.stack([np.concatenate([mode(31, k, 0.3), 2 + mode(31, k, 1.1)]) for k in (1, 5, 15, 5)])
    found = fourier_features(w, 31)
    assert found.frequency.tolist() == [1, 5, 15, 5]
    assert found.share == pytest.approx(np.ones(4), abs=1e-12)
    assert found.median_share == pytest.approx(1.0, abs=1e-12)
    # Histogram 1/4, 1/2, 1/4: 1.5 bits.
    assert found.frequencies_used == pytest.approx(2**1.5)


def test_operands_with_different_frequencies_are_not_one_feature():
    found = fourier_features(np.concatenate([mode(11, 2), mode(11, 3)])[None], 11)
    assert found.share[0] == pytest.approx(0.5)
    assert found.power[0, [1, 2]] == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("period", [8, 9])
def test_powers_are_shares_of_the_variance(period):
    """Parseval: the amplitudes a_k of cosines have power a_k^2 / 2, that of half the period a^2."""
    rng = np.random.default_rng(0)
    amplitudes = rng.uniform(0.5, 2.0, size=period // 2)
    w = sum(a * mode(period, k, 0.0) for k, a in enumerate(amplitudes, 1))
    expected = amplitudes**2 / 2
    if period % 2 == 0:
        expected[-1] *= 2
    assert expected.sum() == pytest.approx(np.var(w))
    assert fourier_features(w[None], period).power[0] == pytest.approx(expected / expected.sum())


def test_white_weights_have_the_stated_top_share():
    """The largest of K exponentials has mean share H_K / K, here 0.2212, with std 0.07 and so 0.0007 for 10,000."""
    w = np.random.default_rng(1).normal(size=(10_000, 31))
    found = fourier_features(w, 31)
    assert found.share.mean() == pytest.approx(sum(1 / k for k in range(1, 16)) / 15, abs=0.004)
    assert found.frequencies_used == pytest.approx(15.0, abs=0.05)
    assert fourier_features(np.random.default_rng(2).normal(size=(10_000, 62)), 31).share.mean() < 0.19


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scale_and_shift_of_the_input_do_not_matter(scale):
    w = np.random.default_rng(3).normal(size=(20, 14))
    expected = fourier_features(w, 7)
    shifted = np.roll(w.reshape(20, 2, 7), 3, axis=2).reshape(20, 14) + 5.0
    np.testing.assert_allclose(fourier_features(scale * shifted, 7).power, expected.power, rtol=1e-9)


def test_silent_units_are_left_out():
    w = np.stack([mode(7, 2), np.full(7, 3.0), np.zeros(7), mode(7, 3)]).astype(np.float32)
    w[2] += 1e-9 * mode(7, 1).astype(np.float32)
    found = fourier_features(w, 7)
    assert found.silent == 2
    assert found.frequency.tolist() == [2, 0, 0, 3]
    assert np.isnan(found.share).tolist() == [False, True, True, False]
    assert found.median_share == pytest.approx(1.0, abs=1e-6)
    assert found.frequencies_used == pytest.approx(2.0)


def test_rows():
    found = fourier_features(np.stack([mode(5, 1), mode(5, 2)]), 5)
    first, second = found.rows(Place(run="a", step=7, layer="hidden"))
    assert (first.quantity, first.unit, first.ceiling) == ("median top-frequency share", "share", 1.0)
    assert (second.quantity, second.unit, second.ceiling) == ("frequencies used", "frequencies", 2.0)
    assert (first.value, second.value) == (pytest.approx(1.0), pytest.approx(2.0))
    assert (first.estimator, first.config, first.n_units, first.step) == ("fourier", '{"period":5}', 2, 7)
    none = fourier_features(np.zeros((3, 5)), 5).rows(Place())
    assert [r.flags for r in none] == ["degenerate"] * 2
    assert all(math.isnan(r.value) for r in none)


@pytest.mark.parametrize(
    ("weight", "period", "message"),
    [
        (np.ones((2, 10)), 7, r"shape \(units, operands \* 7\), got \(2, 10\)"),
        (np.ones(7), 7, r"got \(7,\)"),
        (np.ones((2, 4)), 2, "period must be at least 3, got 2"),
        (np.full((1, 5), np.nan), 5, "5 non-finite entries"),
    ],
)
def test_bad_weights(weight, period, message):
    with pytest.raises(ValueError, match=message):
        fourier_features(weight, period)
