"""A planted dip is found by a window that holds it, and missed by evaluations that are further apart."""

from __future__ import annotations

import numpy as np
import pytest

from infoplane.diagnostics import Place, stability_gap

STEPS = np.arange(0, 301)
ENDS = (100, 200, 300)


def tasks():
    """Three tasks of 100 steps; the first falls by .4 within 5 steps of the second, and is back 5 later."""
    dip = np.interp(STEPS, [0, 50, 101, 106, 111, 300], [0.1, 0.9, 0.9, 0.5, 0.9, 0.85])
    second = np.interp(STEPS, [0, 100, 150, 300], [0.1, 0.1, 0.8, 0.7])
    third = np.interp(STEPS, [0, 200, 250, 300], [0.1, 0.1, 1.0, 1.0])
    return np.stack([dip, second, third], axis=1)


def test_a_planted_dip_is_found():
    found = stability_gap(STEPS, tasks(), ENDS, window=5)
    assert found.lowest == pytest.approx([0.5, 0.7])
    assert found.min_acc == pytest.approx(0.6)
    assert found.wc_acc == pytest.approx(1 / 3 + 2 / 3 * 0.6)
    assert found.final == pytest.approx((0.85 + 0.7 + 1) / 3)
    assert found.forgetting == pytest.approx([0.4, 0.1 * 5 / 150, 0])
    assert found.flags == ()
    assert {row.quantity: (row.bound, row.unit) for row in found.rows(Place(step=300))} == {
        "min-ACC": ("point", "accuracy"), "WC-ACC": ("point", "accuracy"), "windowed forgetting": ("point", "accuracy"),
    }  # fmt: skip


@pytest.mark.parametrize(("window", "fall"), [(1, 0.08), (2, 0.16), (4, 0.32), (5, 0.4), (50, 0.4)])
def test_a_window_that_is_shorter_than_the_dip_sees_part_of_it(window, fall):
    assert stability_gap(STEPS, tasks(), ENDS, window=window).forgetting[0] == pytest.approx(fall)


def test_evaluations_that_are_further_apart_miss_it_and_say_so():
    found = stability_gap(STEPS[::20], tasks()[::20], ENDS, window=5)
    assert found.lowest[0] == pytest.approx(0.85)
    assert found.forgetting.max() == 0
    assert (found.widest, found.flags) == (20, ("few_samples",))
    assert [row.bound for row in found.rows(Place())] == ["upper", "upper", "lower"]


def test_uneven_steps_as_written_out():
    """Every pair of evaluations, one by one."""
    rng = np.random.default_rng(0)
    steps = np.unique(rng.integers(0, 200, 60))
    accuracy = rng.random((len(steps), 2))
    found = stability_gap(steps, accuracy, [100, int(steps[-1])], window=12)
    for task in range(2):
        pairs = [(m, n) for m in range(len(steps)) for n in range(m + 1, len(steps)) if steps[n] <= steps[m] + 12]
        assert found.forgetting[task] == max(accuracy[m, task] - accuracy[n, task] for m, n in pairs)
    assert found.lowest[0] == accuracy[steps > 100, 0].min()


def test_what_comes_after_the_last_task_is_left_out():
    longer = np.vstack([tasks(), np.zeros((5, 3))])
    assert stability_gap(np.arange(306), longer, ENDS).wc_acc == stability_gap(STEPS, tasks(), ENDS).wc_acc


@pytest.mark.parametrize(
    ("steps", "accuracy", "ends", "message"),
    [
        ([0, 1, 2], np.zeros((3, 1)), [2], "two at least"),
        ([0, 1, 2], np.zeros((3, 3)), [1, 2], r"2 tasks in ends.*got \(3, 3\)"),
        ([0, 2, 1], np.zeros((3, 2)), [1, 2], "steps must rise"),
        ([0, 10, 20], np.zeros((3, 2)), [10, 15], r"an evaluation between its start and its end, got ends \[10, 15\]"),
        ([0, 1, 2], [[0, np.nan]] * 3, [1, 2], "accuracy has 3 non-finite"),
    ],
)
def test_bad_input(steps, accuracy, ends, message):
    with pytest.raises(ValueError, match=message):
        stability_gap(steps, accuracy, ends)
