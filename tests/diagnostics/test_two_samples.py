"""Train against test: distances of shifted rows are the shift, of one law they are no more than their null."""

from __future__ import annotations

import math

import numpy as np
import pytest

from infoplane.diagnostics import Place, class_divergence, funnel_layer, wasserstein
from infoplane.plots import curve_data, curves
from infoplane.results import ResultTable

ZEROS = np.zeros(9, int)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize("units", [1, 10, 50])
def test_the_same_rows_moved(units):
    """The exact distance is the shift; the sliced one within 3 % (256 directions)."""
    a, shift = normal(200, units), np.zeros(units)
    shift[0] = 2.0
    found = wasserstein(a, a + shift, null_draws=5)
    assert found.exact == pytest.approx(2.0, abs=1e-9)
    assert found.sliced == pytest.approx(2.0, rel=0.03)
    assert wasserstein(a, a, null_draws=5).exact == 0


def test_two_samples_of_one_law():
    """500 normal rows in 2, 10 and 50 units are 0.2, 2.2 and 7.7 apart; so is their null, and the excess is about 0."""
    for units, distance, within in ((2, 0.21, 0.04), (10, 2.2, 0.05), (50, 7.7, 0.1)):
        a, b = normal(2, 500, units)
        found = wasserstein(a, b, null_draws=5, directions=64)
        assert found.exact == pytest.approx(distance, abs=within)
        assert found.exact - found.exact_null.mean() == pytest.approx(0, abs=within)
        assert found.sliced == pytest.approx(found.sliced_null.mean(), abs=4 * found.sliced_null.std() + 0.02)


def test_the_null_covers_equal_laws_and_the_excess_finds_a_shift():
    below = sum(
        "below_null" in wasserstein(*normal(2, 60, 3, seed=s), exact_rows=0, directions=32).rows(Place())[0].flags
        for s in range(40)
    )
    assert below >= 34  # the 97.5 % point of 20 draws is near their maximum, which 1 of 21 exceeds: 38 +- 1.4
    a, b = normal(2, 200, 10)
    rows = {row.quantity: row for row in wasserstein(a, b + 0.5, null_draws=5).rows(Place(layer="fc1"))}
    assert list(rows) == [f"{kind}{name}" for kind in ("W1", "sliced W1") for name in ("", " null", " excess")]
    assert rows["W1 excess"].value > 0.1
    assert rows["W1"].value - rows["W1 null"].value == pytest.approx(rows["W1 excess"].value)
    assert not any(row.flags for row in rows.values())
    assert {row.unit for row in rows.values()} == {"distance in T"}


def test_unequal_numbers_of_rows():
    found = wasserstein(normal(300, 4), normal(100, 4, seed=1), exact_rows=50)
    assert found.n_samples == 100
    assert found.exact > found.sliced  # of 50 rows: more than of 100
    assert math.isnan(wasserstein(normal(9, 2), normal(9, 2, seed=1), exact_rows=0).exact)


def test_spread_is_the_root_mean_square_distance():
    a = normal(20, 3)
    squares = [np.square(p - q).sum() for i, p in enumerate(a) for q in a[:i]]
    assert wasserstein(a[:10], a[10:]).spread == pytest.approx(math.sqrt(np.mean(squares)))


def test_the_funnel_layer_is_the_one_without_a_shift_whatever_its_scale():
    """A small and a narrow layer have smaller distances, and are not named for it."""
    a, b = normal(2, 300, 8)
    moved = b + np.eye(8)[0]
    layers = {
        "wide": (a, moved),
        "same": (50 * a[:, 1:], 50 * b[:, 1:]),
        "small": (0.01 * a[:, :2], 0.01 * moved[:, :2]),
    }
    for exact in (False, True):
        found = funnel_layer(layers, exact=exact, draws=20, null_draws=5)
        assert found.layer == "same"
        assert found.share.tolist() == [0, 1, 0]
        assert found.low[1] < 0.02
        assert found.high[1] < found.low[0] < found.low[2]
    rows = found.rows(Place(run="a", step=3))
    assert [(row.layer, row.depth) for row in rows[::2]] == [("wide", 0), ("same", 1), ("small", 2)]
    assert {row.quantity for row in rows} == {"scaled W1 excess", "funnel share"}
    assert rows[0].low == found.low[0]


def test_no_layer_stands_out_where_all_are_alike():
    """Layers that are rotations of one another tie: the share is spread."""
    a, b = normal(2, 100, 3)
    share = funnel_layer(
        {str(s): (a + normal(100, 3, seed=s), b + normal(100, 3, seed=s + 9)) for s in range(1, 4)}
    ).share
    assert share.max() < 0.9
    constant = funnel_layer({"a": (a, b), "b": (np.ones((100, 2)), np.ones((100, 2)))}, draws=20)
    assert constant.layer == "a"
    assert constant.share.tolist() == [1, 0]
    assert constant.rows(Place())[-1].flags == "degenerate"


def test_divergence_of_a_shift():
    """N(0,1) moved by 1 in one coordinate: 0.5 nat, read low in many units; of one law 0. Mean of 4: +- 0.04 nat."""
    for rows, units, nats in ((1000, 1, 0.5), (1000, 2, 0.47), (300, 10, 0.3)):
        zeros, found = np.zeros(rows, int), []
        for seed in range(4):
            a, b = normal(2, rows, units, seed=seed)
            found.append(class_divergence(a, zeros, b + np.eye(units)[0], zeros, null_draws=5).value)
        assert np.mean(found) * math.log(2) == pytest.approx(nats, abs=0.1)
    one = class_divergence(a, zeros, b, zeros)
    assert one.value == pytest.approx(0, abs=4 * one.null.std())


def test_a_shift_within_classes_is_seen_and_other_shares_of_classes_are_not():
    """Classes far apart, more of one of them in Q: nothing within a class has changed."""
    labels, others = np.repeat([0, 1], [600, 200]), np.repeat([0, 1], [100, 700])
    a, b = normal(800, 2) + 9 * labels[:, None], normal(800, 2, seed=1) + 9 * others[:, None]
    same = class_divergence(a, labels, b, others)
    assert "below_null" in same.rows(Place())[0].flags
    moved = class_divergence(a, labels, b + others[:, None] * [1.0, 0], others)
    assert moved.by_class[1] > 0.3
    assert moved.value == pytest.approx(0.75 * moved.by_class[0] + 0.25 * moved.by_class[1])


def test_small_classes_and_equal_rows_are_said():
    a, b, labels = normal(200, 2), normal(200, 2, seed=1), np.repeat([3, 7], [160, 40])
    found = class_divergence(a, labels, b, labels)
    row = found.rows(Place())[0]
    assert (found.classes.tolist(), found.left_out, found.n_samples) == ([3], [7], 160)
    assert '"left_out":["7"]' in row.config
    assert row.flags in ("few_samples", "below_null;few_samples")
    tied = class_divergence(np.repeat(a[:100], 2, axis=0), labels, b, labels)
    assert tied.ties == 160
    assert "ties" in tied.rows(Place())[0].flags


def test_a_sheet_needs_its_own_dimension():
    """A line in 10 units: a formula of 10 dimensions reads ten times the divergence."""
    line, zeros = np.eye(10)[:1], np.zeros(1000, int)
    a, b = normal(1000, 1) @ line, (normal(1000, 1, seed=1) + 1) @ line
    wrong, right = (class_divergence(a, zeros, b, zeros, dimension=d).value for d in (None, 1))
    assert right * math.log(2) == pytest.approx(0.5, abs=0.15)
    assert wrong == pytest.approx(10 * right, rel=0.01)


def test_rows_are_drawn_as_they_are():
    """Over steps and layers the distance stands beside its null."""
    table = ResultTable.from_rows(
        row
        for step in (0, 10)
        for layer, depth in (("fc1", 0), ("fc2", 1))
        for row in wasserstein(*normal(2, 40, 2, seed=step + depth)).rows(
            Place(run="r", step=step, layer=layer, depth=depth)
        )
    )
    drawn = curve_data(table, "W1")
    assert drawn.layers == ["fc1", "fc2"]
    assert np.isfinite(drawn.null_high).all()
    assert curve_data(table, "W1 excess").value == pytest.approx(drawn.value - drawn.null)
    legend = curves(table, quantity="W1").get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["null, mean and 95 %"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: wasserstein(normal(9, 2), normal(9, 3)), "of one layer, got 2 and 3 units"),
        (lambda: wasserstein(normal(1, 2), normal(9, 2)), "at least 2 rows each, got 1 and 9"),
        (lambda: wasserstein(normal(9, 2), normal(9, 2), exact_rows=2000), "got 2000, 256, 20"),
        (lambda: funnel_layer({"a": (normal(9, 2), normal(9, 2))}), r"one of several layers .* got {'a': \(9, 9\)}"),
        (lambda: wasserstein(1e200 * normal(9, 2), normal(9, 2)), "whose squares float64 cannot hold"),
        (lambda: funnel_layer({}, directions=0), "directions must be at least 1, got 0"),
        (lambda: funnel_layer({}, draws=5), "draws must be at least 20 .* got 5, 20"),
        (lambda: class_divergence(normal(9, 2), ZEROS, normal(9, 2), ZEROS), "has 50 rows on both"),
        (lambda: class_divergence(normal(9, 2), ZEROS[:8], normal(9, 2), ZEROS), "p_labels must be 9"),
    ],
)  # fmt: skip
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_null_is_that_of_splits_one_after_the_other():
    """Numbers that stood before the splits were made one at a time."""
    rng = np.random.default_rng(0)
    found = wasserstein(rng.normal(size=(30, 2)), rng.normal(size=(40, 2)), null_draws=5, exact_rows=10)
    assert found.exact_null.shape == found.sliced_null.shape == (5,)
    np.testing.assert_allclose([found.exact, found.exact_null[0]], [0.9427734058049382, 0.865449840185035], rtol=1e-12)
    assert wasserstein(np.eye(4), np.eye(4), null_draws=5, exact_rows=0).exact_null.size == 0
