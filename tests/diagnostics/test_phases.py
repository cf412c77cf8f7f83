"""Phase labels: curves with known turning points."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest

from infoplane.diagnostics import label_phases, phases
from infoplane.results import ResultTable, Row


def curve(*knots, per=10):
    """Straight lines between (value) knots."""
    parts = [np.linspace(a, b, per, endpoint=False) for a, b in itertools.pairwise(knots)]
    return np.append(np.concatenate(parts), knots[-1])


def test_three_phases_of_pretraining():
    rank = curve(144.8, 134.6, 182.7, 160.0)
    alpha = curve(1.18, 1.36, 0.58, 0.8)
    found = label_phases(np.arange(31), rank, alpha, window=1)
    assert [p.label for p in found] == ["warm-up", "entropy-seeking", "compression-seeking"]
    assert [(p.start, p.stop) for p in found] == [(0, 10), (10, 20), (20, 30)]
    assert [round(p.rank_change, 1) for p in found] == [-10.2, 48.1, -22.7]


def test_a_rank_that_turns_alone_is_mixed():
    """Modular addition, p = 31: RankMe falls at the end while the exponent goes on falling."""
    steps = [0, 39, 1035, 12_000]
    found = label_phases(steps, [144.8, 134.6, 182.7, 176.5], [1.18, 1.36, 0.7, 0.58], window=1)
    assert [p.label for p in found] == ["warm-up", "entropy-seeking", "mixed"]
    assert [p.stop for p in found] == [39, 1035, 12_000]
    # Without the exponent nothing contradicts the rank.
    assert label_phases(steps, [144.8, 134.6, 182.7, 176.5], window=1)[-1].label == "compression-seeking"


def test_wiggles_below_the_prominence_do_not_count():
    rng = np.random.default_rng(0)
    rank = curve(10.0, 5.0, 20.0, per=40) + rng.uniform(-0.3, 0.3, size=81)  # 0.6 of a range of 15 is 4 %
    found = label_phases(np.arange(81), rank, window=1)
    assert [p.label for p in found] == ["warm-up", "entropy-seeking"]
    assert abs(found[0].stop - 40) <= 3
    assert len(label_phases(np.arange(81), rank, prominence=0.01, window=1)) > 2


def test_smoothing_keeps_a_straight_line():
    found = label_phases(np.arange(11), np.linspace(0, 10, 11), window=5)
    assert [p.label for p in found] == ["entropy-seeking"]
    assert found[0].rank_change == pytest.approx(10.0)
    spike = np.full(11, 1.0)
    spike[5] = 4.0
    assert label_phases(np.arange(11), spike, window=3)[0].rank_change == pytest.approx(1.0)


def test_flat_and_unknown_exponents():
    flat = label_phases([0, 1, 2], [3.0, 3.0, 3.0])
    assert [(p.label, p.start, p.stop) for p in flat] == [("flat", 0, 2)]
    found = label_phases([0, 1, 2], [3.0, 2.0, 1.0], [math.nan, 0.5, math.nan], window=1)
    assert found[0].label == "warm-up"
    assert math.isnan(found[0].alpha_change)


def test_smoothing_does_not_reach_across_a_gap():
    """A mean over the one known neighbour would take the exponent's later fall into the first phase."""
    rank, alpha = [9.0, 8.0, 6.0, 4.0, 5.0, 9.0, 12.0], [1.0, 1.2, math.nan, 1.25, 0.9, 0.6, 0.5]
    found = label_phases(np.arange(7), rank, alpha)
    assert [(p.label, p.start, p.stop) for p in found] == [("warm-up", 0, 3), ("entropy-seeking", 3, 6)]
    assert found[0].alpha_change == pytest.approx(0.25)
    alone = label_phases(np.arange(7), rank, [math.nan] * 3 + alpha[3:])
    assert alone[0].label == "warm-up"
    assert math.isnan(alone[0].alpha_change)


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        (([0], [1.0]), {}, "at least 2 captures"),
        (([0, 1], [1.0, 2.0, 3.0]), {}, r"got \(2,\), \(3,\)"),
        (([1, 0], [1.0, 2.0]), {}, "steps must ascend"),
        (([0, 1], [1.0, math.nan]), {}, "1 values that are not finite"),
        (([0, 1], [1.0, 2.0]), {"prominence": 0.0}, "between 0 and 1, got 0.0"),
        (([0, 1], [1.0, 2.0]), {"window": 2}, "odd and positive, got 2"),
    ],
)
def test_bad_input(arguments, settings, message):
    with pytest.raises(ValueError, match=message):
        label_phases(*arguments, **settings)


def test_phases_of_a_table():
    rank, alpha = curve(9.0, 5.0, 12.0), curve(1.0, 1.5, 0.5)
    rows = [
        Row(
            run="a", step=10 * s, epoch=float(s), layer=layer, depth=k, subset="all", estimator="geometry", config="{}",
            n_samples=100, n_units=20, quantity=name, value=float(values[s]), unit=unit,
        )
        for k, layer in enumerate(("fc1", "fc2"))
        for s in range(21)
        for name, values, unit in (("RankMe", rank, "dimensions"), ("alpha-ReQ", alpha, "exponent"))
    ]  # fmt: skip
    table = phases(ResultTable.from_rows(rows), window=1)
    assert table["quantity"].tolist() == ["phase 1: warm-up", "phase 2: entropy-seeking"] * 2
    assert table["layer"].tolist() == ["fc1", "fc1", "fc2", "fc2"]
    assert table["step"].tolist() == [100, 200] * 2
    assert table["epoch"].tolist() == [10.0, 20.0] * 2
    assert table["value"].tolist() == pytest.approx([-4.0, 7.0] * 2)
    assert json.loads(table["config"][1])["start"] == 100
    with pytest.raises(ValueError, match="the table has no quantity 'effective rank'; closest: RankMe"):
        phases(ResultTable.from_rows(rows), rank="effective rank")
