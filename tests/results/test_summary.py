from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from infoplane.results import ResultTable, Row
from infoplane.results.summary import compression, over_runs, student_t, summarize


@pytest.mark.parametrize("df", [1, 2, 3, 4, 7, 8, 30, 101])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
def test_student_quantiles(df, level):
    assert student_t(df, level) == pytest.approx(stats.t.ppf(0.5 + level / 2, df), rel=1e-10)


def test_student_needs_a_degree_of_freedom():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        student_t(0)


@pytest.mark.parametrize("spread", ["ci95", "sd", "se", "quartiles", "minmax"])
def test_spread_against_numpy_and_scipy(spread):
    values = np.random.default_rng(0).normal(size=(6, 3, 2))
    got = over_runs(values, spread)
    mean, sd = values.mean(axis=0), values.std(axis=0, ddof=1)
    low, high = {
        "ci95": stats.t.interval(0.95, 5, loc=mean, scale=sd / np.sqrt(6)),
        "sd": (mean - sd, mean + sd),
        "se": (mean - sd / np.sqrt(6), mean + sd / np.sqrt(6)),
        "quartiles": np.quantile(values, [0.25, 0.75], axis=0),
        "minmax": (values.min(axis=0), values.max(axis=0)),
    }[spread]
    np.testing.assert_allclose(got.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(got.low, low, rtol=1e-9)
    np.testing.assert_allclose(got.high, high, rtol=1e-9)
    assert (got.count == 6).all()


def test_the_spread_of_two_runs_is_their_range():
    values = np.random.default_rng(0).normal(size=(3, 4))
    for runs, spread in ((2, "minmax"), (3, "ci95")):
        got, wanted = over_runs(values[:runs], "auto"), over_runs(values[:runs], spread)
        assert got.words == wanted.words
        np.testing.assert_array_equal([got.low, got.high], [wanted.low, wanted.high])


@pytest.mark.parametrize("spread", ["ci95", "sd", "se", "quartiles", "minmax", None])
def test_missing_runs_do_not_count(spread):
    values = np.array([[1.0, 2.0, np.nan], [3.0, np.nan, np.nan]])
    got = over_runs(values, spread)
    np.testing.assert_array_equal(got.mean, [2.0, 2.0, np.nan])
    assert got.count.tolist() == [2, 1, 0]
    assert np.isnan(got.low[2])
    if spread is None:
        assert np.isnan(got.low).all()
        assert got.words == "mean of 2 runs"
    elif spread == "quartiles":
        np.testing.assert_array_equal(got.low, [1.5, 2.0, np.nan])
        np.testing.assert_array_equal(got.high, [2.5, 2.0, np.nan])
    elif spread == "minmax":
        assert got.low.tolist()[:2] == [1.0, 2.0]
    else:
        assert got.low[0] < 2 < got.high[0]
        assert np.isnan(got.low[1])  # one run has no spread


def test_values_have_a_run_axis():
    with pytest.raises(ValueError, match=r"at least one run, got shape \(0, 3\)"):
        over_runs(np.zeros((0, 3)))


def test_compression_is_the_fall_from_the_filtered_maximum():
    steps = [0, 1, 10, 100, 1000, 5000]
    score = compression(steps, [2.0, 5.0, 6.0, 7.0, 4.0, 3.0], [False, True, False, False, False, False])
    assert (score.fall, score.at) == (3.0, 10.0)  # medians of three: 5, 6, 6, 4
    assert score.share == pytest.approx(0.5)
    assert score.saturated == pytest.approx(1 / 6)


def test_one_odd_snapshot_makes_no_maximum():
    assert compression([0, 1, 2, 3, 4], [1.0, 1.0, 9.0, 1.0, 1.0]).fall == 0.0


def test_compression_of_rising_and_short_and_broken_curves():
    assert compression([0, 1, 2], [1.0, 2.0, 3.0]).fall == 0.0
    assert compression([5], [2.0]).fall == 0.0
    assert compression([0, 1, 2], [np.nan, 3.0, 1.0]).fall == 2.0
    assert np.isnan(compression([0, 1], [0.0, 0.0]).share)
    with pytest.raises(ValueError, match="at least one finite value"):
        compression([0], [np.nan])
    with pytest.raises(ValueError, match="equally long"):
        compression([0, 1], [1.0])


def recorded(run, values, first=0, layer="fc1"):
    for step, value in enumerate(values, first):
        yield Row(
            run=run, step=step, epoch=float(step), layer=layer, depth=0, subset="all", estimator="binning", config="{}",
            n_samples=8, n_units=1, quantity="I(X;T)", value=value,
        )  # fmt: skip


def test_runs_are_averaged_at_the_steps_they_share():
    table = ResultTable.from_rows(
        [
            *recorded("a", [1.0, 2.0, 3.0, 4.0]),
            *recorded("b", [4.0, np.nan, 6.0], first=1),
            *recorded("a", [7.0], layer="fc2"),
        ]
    )
    first, second = summarize(table, spread="minmax")
    assert (first.layer, first.runs, first.unit) == ("fc1", ("a", "b"), "bit")
    assert first.step.tolist() == [1, 2, 3]
    assert first.summary.mean.tolist() == [3.0, 3.0, 5.0]
    assert first.summary.count.tolist() == [2, 1, 2]
    assert first.summary.high.tolist() == [4.0, 3.0, 6.0]
    assert (second.layer, second.runs) == ("fc2", ("a",))
    with pytest.raises(ValueError, match="the table has no layer 'fc9'; closest: fc2, fc1"):
        summarize(table, layer="fc9")


def test_the_printed_line_says_what_is_in_doubt():
    rows = [*recorded("a", [1.0, 2.0]), *recorded("b", [1.0, 4.0])]
    rows = [row._replace(flags="below_null;saturated" if (row.run, row.step) == ("b", 1) else "") for row in rows]
    (one,) = summarize(ResultTable.from_rows(rows))
    assert {flag: count.tolist() for flag, count in one.flags.items()} == {"saturated": [0, 1], "below_null": [0, 1]}
    assert str(one).endswith("; saturated in 1 of 2 runs; no better than shuffled labels in 1 of 2 runs")


def test_runs_without_a_common_step_have_no_mean():
    table = ResultTable.from_rows([*recorded("a", [1.0]), *recorded("b", [1.0], first=5)])
    with pytest.raises(ValueError, match="runs a, b have no step in common for layer 'fc1'"):
        summarize(table)
