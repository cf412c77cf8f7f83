"""Neural collapse of a simplex, directions spread evenly or not at all, and paths of known curvature."""

from __future__ import annotations

import math

import numpy as np
import pytest

from infoplane.diagnostics import Place, curvature, neural_collapse, uniformity


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


# Neural collapse


def simplex(classes, units, seed=0):
    """The corners of a simplex frame, rotated into more units."""
    rotation = np.linalg.qr(normal(units, units, seed=seed))[0]
    return (np.eye(classes) - 1.0 / classes) @ rotation[:classes]


def test_a_simplex_has_collapsed():
    corners, y = simplex(4, 7), np.arange(80) % 4
    found = neural_collapse(5.0 * corners[y] + 3.0, y, 2.0 * corners, corners[y] @ corners.T)
    zeros = found.within, found.norms, found.angles, found.duality, found.nearest
    np.testing.assert_allclose(zeros, 0.0, atol=1e-12)
    assert found.flags == ()
    named = [row.quantity for row in found.rows(Place(layer="fc"))]
    assert named == ["NC1", "NC2 norms", "NC2 angles", "NC3", "NC4"]
    assert [row.quantity for row in neural_collapse(corners[y], y).rows(Place())] == named[:3]


def test_each_property_by_its_formula_with_unequal_classes():
    y = np.repeat([0, 1, 2], [30, 10, 20])
    h = normal(3, 5)[y] + 0.3 * normal(60, 5, seed=1)
    weight, logits = normal(3, 5, seed=2), normal(60, 3, seed=3)
    found = neural_collapse(h, y, weight, logits)
    mu = np.stack([h[y == c].mean(0) for c in range(3)])
    m = mu - mu.mean(0)
    rest = h - mu[y]
    within, between = rest.T @ rest / 60, m.T @ m / 3
    assert found.within == pytest.approx(np.trace(within @ np.linalg.pinv(between, rcond=1e-10)) / 3)
    lengths = np.linalg.norm(m, axis=1)
    assert found.norms == pytest.approx(lengths.std() / lengths.mean())
    cosines = [m[a] @ m[b] / lengths[a] / lengths[b] for a, b in ((0, 1), (0, 2), (1, 2))]
    assert found.angles == pytest.approx(np.mean([abs(c + 0.5) for c in cosines]))
    assert found.duality == pytest.approx(np.linalg.norm(weight / np.linalg.norm(weight) - m / np.linalg.norm(m)))
    nearest = np.linalg.norm(h[:, None] - mu, axis=2).argmin(1)
    assert found.nearest == pytest.approx((nearest != logits.argmax(1)).mean())
    assert neural_collapse(1e200 * h, y).within == pytest.approx(found.within)


def test_what_cannot_collapse_is_flagged():
    y = np.arange(40) % 4
    assert neural_collapse(normal(40, 2), y).flags == ("out_of_domain",)
    rows = {row.quantity: row for row in neural_collapse(normal(40, 2), y).rows(Place())}
    assert (rows["NC2 angles"].flags, rows["NC1"].flags) == ("out_of_domain", "")
    assert neural_collapse(normal(4, 6), np.arange(4)).flags == ("few_samples",)
    constant = neural_collapse(np.ones((40, 6)), y)
    assert constant.flags == ("degenerate",)
    assert math.isnan(constant.within)


def test_collapse_refuses_what_does_not_belong_together():
    y = np.arange(40) % 4
    with pytest.raises(ValueError, match="at least 2 classes, got 1"):
        neural_collapse(normal(40, 2), 0 * y)
    with pytest.raises(ValueError, match=r"weight must have shape \(classes, units\) \(4, 6\), got \(6, 4\)"):
        neural_collapse(normal(40, 6), y, normal(6, 4))
    with pytest.raises(ValueError, match=r"logits must have shape \(samples, classes\) \(40, 4\), got \(40, 5\)"):
        neural_collapse(normal(40, 6), y, logits=normal(40, 5))


# Uniformity and alignment


@pytest.mark.parametrize(("units", "known"), [(2, -1.575), (3, -2.080), (16, -3.513), (128, -3.938)])
def test_even_directions_have_the_value_in_closed_form(units, known):
    found = uniformity(normal(1500, units))
    assert found.uniform == pytest.approx(known, abs=5e-4)
    assert found.uniformity == pytest.approx(found.uniform, abs=0.01)


def test_collapsed_directions_and_views():
    z = normal(400, 64)
    one = np.outer(np.arange(1.0, 401.0), np.ones(64))
    assert uniformity(one).uniformity == pytest.approx(0.0, abs=1e-12)
    found = uniformity(z, normal(400, 64, seed=1))
    assert found.alignment == pytest.approx(2.0, abs=4 * 2 / math.sqrt(64 * 400))
    pairs = [np.linalg.norm(a / np.linalg.norm(a) - b / np.linalg.norm(b)) ** 2 for a in z[:20] for b in one[:20]]
    assert uniformity(z[:20], one[:20]).shuffled == pytest.approx(np.mean(pairs))
    same = uniformity(z, 3.0 * z)
    assert same.alignment == pytest.approx(0.0, abs=1e-12)
    assert "below_null" not in {row.quantity: row.flags for row in same.rows(Place())}["alignment"]


def test_pairs_of_a_row_with_itself_are_left_out():
    z = normal(50, 3) * 1e-200
    unit = z / 1e-200 / np.linalg.norm(z / 1e-200, axis=1, keepdims=True)
    squares = [np.sum((unit[i] - unit[j]) ** 2) for i in range(50) for j in range(50) if i != j]
    assert uniformity(z).uniformity == pytest.approx(np.log(np.mean(np.exp(-2 * np.array(squares)))))


def test_rows_of_zeros_are_counted():
    z = normal(50, 3)
    z[:5] = 0.0
    found = uniformity(z, normal(50, 3, seed=1))
    assert (found.dropped, found.n_samples) == (5, 45)
    assert found.rows(Place())[0].flags == "out_of_domain"
    with pytest.raises(ValueError, match="at least 2 rows with a direction, got 0 of 4"):
        uniformity(np.zeros((4, 2)))
    with pytest.raises(ValueError, match="both views must have one shape"):
        uniformity(z, z[:, :2])


# Curvature


def polygon(corners, units=5):
    turn = 2 * math.pi * np.arange(corners + 3) / corners
    flat = np.stack([np.cos(turn), np.sin(turn)], 1)
    return (flat @ np.linalg.qr(normal(units, 2))[0].T)[None]


def test_paths_of_known_curvature():
    line = np.arange(9.0)[:, None] * normal(1, 6)
    assert curvature(line[None]).mean == pytest.approx(0.0, abs=1e-6)
    assert curvature(np.array([[[0.0], [1.0], [0.0], [1.0]]])).mean == 180.0
    for corners in (3, 4, 8, 360):
        assert curvature(1e200 * polygon(corners)).mean == pytest.approx(360 / corners)
    steps = normal(40, 20, 1000)
    walk, independent = curvature(np.cumsum(steps, axis=1)), curvature(steps)
    assert walk.mean == pytest.approx(90.0, abs=0.5)
    assert independent.mean == pytest.approx(120.0, abs=0.5)
    assert walk.low < walk.mean < walk.high


def test_padding_and_repeated_tokens_are_left_out():
    z = np.concatenate([polygon(4), 100.0 * normal(1, 4, 5)], axis=1)
    mask = np.r_[np.ones(7), np.zeros(4)][None]
    found = curvature(z, mask)
    assert found.mean == pytest.approx(90.0)
    assert (found.angles, found.dropped) == (5, 0)
    again = curvature(np.repeat(polygon(4), 2, axis=1)[:, :6])  # a a b b c c
    assert (again.angles, again.dropped) == (0, 4)
    row = again.rows(Place())[0]
    assert math.isnan(row.value)
    assert row.flags == "degenerate;ties"


@pytest.mark.parametrize(
    ("z", "mask", "said"),
    [
        (normal(3, 2, 4), None, "with at least 3 tokens, got"),
        (normal(3, 4), None, "must have shape"),
        (normal(3, 4, 2), np.ones((3, 3)), r"mask must have shape \(samples, tokens\) \(3, 4\), got \(3, 3\)"),
    ],
)
def test_curvature_refuses(z, mask, said):
    with pytest.raises(ValueError, match=said):
        curvature(z, mask)


def test_a_class_in_the_middle_has_no_direction():
    h = np.array([[-1.0, -1.0], [0.0, 0.0], [1.0, 1.0]])
    found = neural_collapse(np.repeat(h, 2, axis=0), [0, 0, 1, 1, 2, 2])
    assert [(row.quantity, row.flags) for row in found.rows(Place())][2] == ("NC2 angles", "degenerate")
    assert math.isnan(found.angles)


@pytest.mark.parametrize(
    ("values", "kind"), [(np.array([["a"], ["b"]]), "<U1"), (np.ones((2, 2), complex), "complex128")]
)
def test_what_is_no_real_number_is_named(values, kind):
    with pytest.raises(ValueError, match=f"z must hold real numbers, got {kind}"):
        uniformity(values)
