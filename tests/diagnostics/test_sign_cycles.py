"""A square wave is counted exactly, noise is within its null."""

from __future__ import annotations

import numpy as np
import pytest

from infoplane.diagnostics import Place, sign_cycles


def wave(period, points, noise=0.1):
    """A square wave of .8 that begins above 0."""
    noisy = noise * np.random.default_rng(0).normal(size=points).clip(-2, 2)
    return np.where(np.arange(points) // (period // 2) % 2 == 0, 0.8, -0.8) + noisy


def test_a_square_wave_under_noise_is_found_exactly():
    found = sign_cycles(wave(40, 820), block=1)
    assert found.cycles == 20
    assert found.signs.tolist() == [1, -1] * 20 + [1]
    # The mean of .9 crosses 0 within about 7 points of a change.
    lag = found.turns - 20 * np.arange(41)
    assert lag.min() >= 0
    assert lag.max() <= 9
    assert found.flags == ()
    assert found.null.min() > 20


def test_slow_cycles_are_told_from_noise_with_a_memory_and_those_of_four_blocks_are_not():
    slow = sign_cycles(wave(200, 2100))
    assert (slow.cycles, slow.flags) == (10, ())
    assert sign_cycles(wave(40, 820)).flags == ("below_null",)


def test_white_noise_is_within_its_null():
    """Of 60 series at 5 % each, more than 9 outside happen once in a thousand."""
    series = 0.2 * np.random.default_rng(0).normal(size=(60, 400)).clip(-3, 3)
    assert sum("below_null" not in sign_cycles(c, null_draws=40).flags for c in series) <= 9


def test_the_dead_band_has_no_sign():
    c = np.array([0.5, 0.04, -0.04, 0.5, -0.5, 0.04, -0.5, 0.5])
    found = sign_cycles(c, decay=0.0, block=1, null_draws=5)
    assert (found.turns.tolist(), found.signs.tolist(), found.cycles) == ([0, 4, 7], [1, -1, 1], 1)
    assert found.smoothed.tolist() == c.tolist()
    assert sign_cycles(np.full(40, 0.01), dead_band=0.05).cycles == 0


def test_the_mean_as_written_out():
    c = 0.3 * np.random.default_rng(0).normal(size=50).clip(-3, 3)
    smoothed, m = [], c[0]
    for value in c:
        m = 0.8 * m + 0.2 * value
        smoothed.append(m)
    assert sign_cycles(c, decay=0.8).smoothed == pytest.approx(smoothed)


def test_rows():
    count, null = sign_cycles(wave(40, 100)).rows(Place(step=99))
    assert (count.quantity, count.value, count.unit, count.flags) == (
        "sign cycles",
        2,
        "cycles",
        "below_null;few_samples",
    )
    assert null.low <= null.value <= null.high
    assert count.config == '{"block":10,"dead_band":0.05,"decay":0.9,"null_draws":100,"seed":0}'


@pytest.mark.parametrize(
    ("cosines", "settings", "message"),
    [
        ([0.5] * 19, {}, r"two blocks of 10 or more, got \(19,\)"),
        ([0.5] * 30 + [1.5], {}, "from -1 to 1, got 0.5 to 1.5"),
        ([0.5] * 30 + [np.nan], {}, "cosines have 1 non-finite"),
        ([0.5] * 30, {"decay": 1.0}, "got 1.0, 0.05, 100"),
        ([0.5] * 30, {"null_draws": 1}, "null_draws at least 5"),
    ],
)
def test_bad_input(cosines, settings, message):
    with pytest.raises(ValueError, match=message):
        sign_cycles(cosines, **settings)
