"""Peaks along tokens against planted ones and against Tukey's rule written out."""

from __future__ import annotations

import numpy as np
import pytest

from infoplane import diagnostics
from infoplane.results import ResultTable, Row


def table(values, step=5, quantity="nHSIC(T;Y)", layer="block"):
    return ResultTable.from_rows(
        Row(run="r", step=step, epoch=1.0, layer=f"{layer}[token={k}]", depth=1, subset="all", estimator="hsic",
            config="{}", n_samples=50, n_units=4, quantity=quantity, value=float(v), unit="nHSIC", source="0" * 32)
        for k, v in enumerate(values)
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(20))
def test_a_spike_planted_in_a_random_walk_is_the_only_peak(seed):
    rng = np.random.default_rng(seed)
    walk = np.abs((rng.normal(0, 1.0, 64).cumsum() + 1) % 2 - 1)  # reflected at 0 and 1
    walk[40] = 3.0
    found = diagnostics.token_peaks(table(walk))
    assert found.select(quantity="peak *").layer.tolist() == ["block[token=40]"]
    assert found.select(quantity="peak *").value.tolist() == [3.0]
    assert found.select(quantity="peaks *").value.tolist() == [1.0]


def test_the_threshold_is_the_upper_quartile_and_one_and_a_half_ranges():
    found = diagnostics.token_peaks(table([0.0, 1.0, 2.0, 3.0, 4.0, 9.0, 9.1]))
    low, high = 1.5, 6.5
    assert found.select(quantity="threshold *", layer="block").value.tolist() == [high + 1.5 * (high - low)]
    assert len(found.select(quantity="peak *")) == 0
    close = diagnostics.token_peaks(table([0.0, 1.0, 2.0, 3.0, 4.0, 9.0, 9.1]), whisker=0.5)
    assert close.select(quantity="peak *").layer.tolist() == ["block[token=6]"]


def test_equal_positions_have_no_peak_and_steps_are_apart():
    both = ResultTable.concat([table([1.0] * 8, step=0), table([1.0] * 7 + [2.0], step=1)])
    found = diagnostics.token_peaks(both)
    assert found.select(quantity="peaks *", step=0).value.tolist() == [0.0]
    assert found.select(quantity="peak *", step=1).layer.tolist() == ["block[token=7]"]


def test_missing_positions_are_left_out_and_too_few_are_refused():
    found = diagnostics.token_peaks(table([0.1, np.nan, 0.1, 0.12, 0.11, 5.0]))
    assert found.select(quantity="peak *").layer.tolist() == ["block[token=5]"]
    with pytest.raises(ValueError, match=r"3 positions with .* quartiles need 4"):
        diagnostics.token_peaks(table([0.1, 0.2, 0.3]))
    with pytest.raises(ValueError, match="the table has no quantity 'dHSIC'; closest: nHSIC"):
        diagnostics.token_peaks(table([0.1] * 6), "dHSIC")
    with pytest.raises(ValueError, match="whisker must not be negative, got -1"):
        diagnostics.token_peaks(table([0.1] * 6), whisker=-1)
