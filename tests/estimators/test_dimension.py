"""Intrinsic dimension: cubes, noise at the small scale, equal rows, and the formulas beside a loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from infoplane.estimators import parse
from infoplane.estimators.dimension import NAMES, Dimension


def estimate(rows, **settings):
    t = torch.as_tensor(np.asarray(rows))[None]
    return Dimension(**settings).estimate(t, torch.arange(t.shape[1]) % 2)


def value(found, name):
    return float(found[name].value)


def cube(n, d, seed=0):
    return np.random.default_rng(seed).uniform(size=(n, d))


@pytest.mark.parametrize(("d", "within"), [(1, 0.1), (2, 0.1), (5, 0.2), (10, 0.25)])
def test_cubes_read_their_dimension(d, within):
    """2000 rows: 10 % up to dimension 2, 20 % at 5 and 25 % at 10, where the boundary is near to every row."""
    found = estimate(cube(2000, d), halvings=1)
    for name in NAMES:
        assert value(found, name) == pytest.approx(d, rel=within)
        assert bool(found[name].flags["few_samples"]) == (d == 10)
    assert (value(found, "equal rows"), bool(found["ML dimension"].flags["ties"])) == (0.0, False)


def test_both_are_their_formulas():
    rows = cube(120, 3)
    r = np.sort(np.linalg.norm(rows[:, None] - rows[None, :], axis=-1), axis=1)[:, 1:21]
    inverse = [sum(math.log(each[19] / each[j]) for j in range(19)) / 18 for each in r]
    x = np.sort(np.log(r[:, 1] / r[:, 0]))[:108]
    y = -np.log(1 - np.arange(1, 109) / 120)
    found = estimate(rows)
    assert value(found, "ML dimension") == pytest.approx(1 / np.mean(inverse))
    assert value(found, "TwoNN dimension") == pytest.approx((x * y).sum() / (x * x).sum())


def test_noise_is_seen_at_the_small_scale_only():
    """A plane with noise .01 in 10 units: the fewer rows, the nearer to 2."""
    sheet = np.concatenate([cube(2000, 2), np.zeros((2000, 8))], 1)
    found = estimate(sheet + 0.01 * np.random.default_rng(1).normal(size=sheet.shape))
    curve = [value(found, f"ML dimension{scale}") for scale in ("", " at N/2", " at N/4", " at N/8")]
    assert curve == sorted(curve, reverse=True)
    assert curve[0] > 3.2
    assert curve[-1] == pytest.approx(2.0, rel=0.15)
    assert list(estimate(cube(100, 2), halvings=3)) == [
        "TwoNN dimension", "ML dimension", "TwoNN dimension at N/2", "ML dimension at N/2", "equal rows"
    ]  # fmt: skip


def test_equal_rows_are_left_out_counted_and_flagged():
    rows = cube(500, 2)
    whole = value(estimate(rows), "ML dimension")
    found = estimate(np.concatenate([rows, rows[:20]]))
    assert value(found, "equal rows") == 40.0
    assert all(q.flags["ties"] for q in found.values())
    assert value(found, "ML dimension") == pytest.approx(whole, rel=0.1)
    grid = estimate(np.stack(np.meshgrid(np.arange(20.0), np.arange(20.0)), -1).reshape(-1, 2))
    assert grid["TwoNN dimension"].flags["ties"]
    assert value(grid, "equal rows") == 0.0


def test_a_constant_layer_has_dimension_zero():
    found = estimate(np.full((60, 3), 1e300))
    for name in NAMES:
        assert value(found, name) == 0.0
        assert found[name].flags["degenerate"]


def test_the_scale_of_units_does_not_matter():
    rows = cube(300, 3)
    small, large = (value(estimate(rows * size), "TwoNN dimension") for size in (1e-200, 1e200))
    assert small == pytest.approx(large)


def test_settings_by_name():
    assert parse("dimension:n_neighbors=5,halvings=0").n_neighbors == 5
    with pytest.raises(ValueError, match="n_neighbors must be at least 3, got 2"):
        Dimension(n_neighbors=2)
    with pytest.raises(ValueError, match="samples"):
        estimate(cube(3, 2))
