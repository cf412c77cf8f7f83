from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import brentq

from infoplane.datasets import twelve_bit
from infoplane.diagnostics import ib_frontier
from infoplane.results import ResultTable


def h2(p):
    return 0.0 if p in (0.0, 1.0) else -p * math.log2(p) - (1 - p) * math.log2(1 - p)


def entropy(p):
    p = np.asarray(p, dtype=np.float64)
    p = p[p > 0]
    return float(-(p * np.log2(p)).sum())


@pytest.mark.parametrize("delta", [0.02, 0.11, 0.3])
def test_binary_symmetric_channel_against_mrs_gerber(delta):
    """X fair, Y = X flipped with delta: at I(X;T) = 1 - h(a) no T keeps more than 1 - h(a * delta)."""
    frontier = ib_frontier([[1 - delta, delta], [delta, 1 - delta]])
    assert frontier.converged
    assert not frontier.exact
    assert frontier.h_x == pytest.approx(1.0, abs=1e-12)
    assert frontier.i_xy == pytest.approx(1 - h2(delta), abs=1e-12)
    for rate in np.linspace(0, 1, 41):
        a = brentq(lambda q, r=rate: 1 - h2(q) - r, 0.0, 0.5) if 0 < rate < 1 else (0.5 if rate == 0 else 0.0)
        truth = 1 - h2(a * (1 - delta) + (1 - a) * delta)
        found = float(frontier.at(rate))
        # Chords lie below a concave curve; 240 multipliers leave less than 2e-4 bit.
        assert truth - 2e-4 <= found <= truth + 1e-7
    between = (frontier.beta > 1.2) & (frontier.beta < 900)
    for rate, kept in zip(frontier.i_xt[between], frontier.i_ty[between], strict=True):
        a = brentq(lambda q, r=rate: 1 - h2(q) - r, 0.0, 0.5)
        assert kept == pytest.approx(1 - h2(a * (1 - delta) + (1 - a) * delta), abs=2e-6)


@pytest.mark.parametrize("erased", [0.25, 0.7])
def test_erasure_channel_is_a_straight_line(erased):
    """Y is X or an erasure: I(T;Y) = (1 - e) I(X;T) for every T."""
    p_x = np.array([0.5, 0.3, 0.2])
    p = np.column_stack([np.diag(p_x * (1 - erased)), p_x * erased])
    frontier = ib_frontier(p)
    rates = np.linspace(0, entropy(p_x), 9)
    np.testing.assert_allclose(frontier.at(rates), (1 - erased) * rates, atol=1e-9)


def test_labels_that_are_a_function_of_the_input_give_two_lines():
    _, y = twelve_bit()
    joint = np.zeros((4096, 2))
    joint[np.arange(4096), y] = 1.0
    frontier = ib_frontier(joint)
    h_y = 0.9991571208502711
    assert frontier.exact
    np.testing.assert_allclose(frontier.i_xt, [0.0, h_y, 12.0], atol=1e-12)
    np.testing.assert_allclose(frontier.i_ty, [0.0, h_y, h_y], atol=1e-12)
    rates = np.array([0.0, 0.4, 0.9991, 3.0, 12.0, 20.0])
    np.testing.assert_allclose(frontier.at(rates), np.minimum(rates, h_y), atol=1e-12)


def test_the_iteration_tends_to_the_two_lines_as_the_noise_goes():
    labels = np.array([0, 0, 1, 1, 1, 2, 2, 2])
    gaps = []
    for noise in (0.1, 0.01, 0.001):
        joint = np.full((8, 3), noise / 2)
        joint[np.arange(8), labels] = 1 - noise
        frontier = ib_frontier(joint)
        h_y = entropy(np.bincount(labels) / 8)
        rates = np.linspace(0, 3, 31)
        gaps.append(float(np.abs(frontier.at(rates) - np.minimum(rates, h_y)).max()))
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 0.03


@pytest.mark.parametrize("seed", range(3))
def test_no_encoder_lies_above(seed):
    """Random p(t|x) of a random p(x, y): the frontier bounds them all; it is concave and ends at I(X;Y)."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(15, 0.3)).reshape(5, 3)
    frontier = ib_frontier(p, np.geomspace(1, 300, 60))
    assert (np.diff(frontier.i_xt) > 0).all()
    slopes = np.diff(frontier.i_ty) / np.diff(frontier.i_xt)
    assert (np.diff(slopes) <= 1e-9).all()
    assert slopes[0] <= 1 + 1e-9
    assert frontier.i_ty[-1] == pytest.approx(frontier.i_xy)
    p_x = p.sum(axis=1)
    for _ in range(300):
        encoder = rng.dirichlet(np.full(4, rng.choice([0.05, 0.3, 2.0])), size=5)
        joint_xt = encoder * p_x[:, None]
        joint_ty = encoder.T @ p
        i_xt = entropy(p_x) + entropy(joint_xt.sum(0)) - entropy(joint_xt.ravel())
        i_ty = entropy(p.sum(0)) + entropy(joint_ty.sum(1)) - entropy(joint_ty.ravel())
        assert i_ty <= float(frontier.at(max(i_xt, 0.0))) + 2e-3


def test_inputs_with_the_same_conditional_are_one():
    p = np.array([[0.3, 0.1], [0.1, 0.3], [0.15, 0.05]])
    merged = np.array([[0.45, 0.15], [0.1, 0.3]])
    a, b = ib_frontier(p), ib_frontier(merged)
    rates = np.linspace(0, b.h_x, 20)
    np.testing.assert_allclose(a.at(rates), b.at(rates), atol=1e-9)
    assert a.h_x == pytest.approx(entropy(p.sum(1)))
    assert a.i_xt[-1] == pytest.approx(a.h_x)


@pytest.mark.parametrize("p", [[[1.0]], [[0.5], [0.5]], [[0.25, 0.25], [0.25, 0.25]]])
def test_nothing_to_keep(p):
    frontier = ib_frontier(p)
    np.testing.assert_allclose(frontier.at([0.0, 0.5, 1.0]), 0.0, atol=1e-12)


def test_rows_draw_as_a_plane():
    frontier = ib_frontier([[0.4, 0.1], [0.1, 0.4]])
    plane = ResultTable.from_rows(frontier.rows()).plane("ib-frontier")
    assert plane.i_xt.tolist() == frontier.i_xt.tolist()
    assert plane.i_ty.tolist() == frontier.i_ty.tolist()
    assert set(plane.i_ty_bound) == {"lower"}
    assert set(plane.i_ty_ceiling) == {frontier.i_xy}
    unfinished = ib_frontier([[0.4, 0.1], [0.1, 0.4]], [2.9], max_iter=2)
    assert {row.flags for row in unfinished.rows()} == {"unreliable"}


@pytest.mark.parametrize(
    ("p", "betas", "message"),
    [
        ([0.5, 0.5], None, r"shape \(X, Y\), got \(2,\)"),
        ([[0.5, -0.1]], None, "nonnegative with a positive sum, got a smallest entry of -0.1"),
        ([[0.0, 0.0]], None, "positive sum"),
        ([[0.4, 0.1], [0.1, 0.4]], [0.5, 2.0], "betas must be finite numbers of at least 1"),
        ([[0.4, 0.1], [0.1, 0.4]], [], "betas must be finite numbers"),
    ],
)
def test_bad_distributions_are_refused(p, betas, message):
    with pytest.raises(ValueError, match=message):
        ib_frontier(p, betas)


def test_negative_rate_is_refused():
    with pytest.raises(ValueError, match=r"must not be negative, got -0\.5"):
        ib_frontier([[0.4, 0.1], [0.1, 0.4]]).at([0.1, -0.5])
