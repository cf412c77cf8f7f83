"""The figure along tokens: its numbers are those of the table, and its marks those of the diagnostic."""

from __future__ import annotations

import numpy as np
import pytest

from infoplane import diagnostics, plots
from infoplane.results import ResultTable, Row

POSITIONS = [0, 1, 2, 4, 8, 16, 17, 18]


def rows(layer, depth, values, step, quantity="nHSIC(T;Y)"):
    return [
        Row(run="r", step=step, epoch=1.0, layer=f"{layer}[token={k}]", depth=depth, subset="all", estimator="hsic",
            config='{"sigma":1.0}', n_samples=50, n_units=4, quantity=quantity, value=float(v), ceiling=5.0,
            unit="nHSIC", source="0" * 32)
        for k, v in zip(POSITIONS, values, strict=True)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    out = []
    for step in (0, 10):
        for depth, layer in enumerate(("first", "second")):
            values = rng.uniform(1.0, 1.2, len(POSITIONS))
            if step and layer == "second":
                values[[4, 7]] = 2.0, 3.0
            out += rows(layer, depth, values, step) + rows(layer, depth, values / 2, step, "nHSIC(T;Y) null")
    return ResultTable.from_rows(out)


def test_the_numbers_are_those_of_the_table_in_the_order_of_the_positions(table):
    shuffled = table.take(np.random.default_rng(1).permutation(len(table)))
    data = plots.tokens_data(shuffled)
    assert (data.layers, data.positions.tolist(), data.step) == (["first", "second"], POSITIONS, 10)
    for i, layer in enumerate(data.layers):
        chosen = table.select(layer=f"{layer}[token=*]", step=10)
        np.testing.assert_array_equal(data.value[i], chosen.select(quantity="nHSIC(T;Y)").value)
        np.testing.assert_array_equal(data.null[i], chosen.select(quantity="nHSIC(T;Y) null").value)


@pytest.mark.parametrize("whisker", [0.5, 1.5])
def test_marks_are_the_peaks_of_the_diagnostic(table, whisker):
    data = plots.tokens_data(table, whisker=whisker)
    found = diagnostics.token_peaks(table, whisker=whisker).select(step=10)
    for i, layer in enumerate(data.layers):
        peaks = [f"{layer}[token={p}]" for p in data.positions[data.peak[i]]]
        assert peaks == found.select(quantity="peak *", layer=f"{layer}[token=*]").layer.tolist()
        assert data.threshold[i] == found.select(quantity="threshold *", layer=layer).value[0]
    assert data.positions[data.peak[1]].tolist() == [8, 18]


def test_the_axes_show_lines_marks_and_thresholds(table):
    ax = plots.tokens(table)
    data = plots.tokens_data(table)
    marked = [line for line in ax.lines if line.get_linestyle() == "None"]
    assert [line.get_xdata().tolist() for line in marked] == [[8, 18]]
    level = [line.get_ydata()[0] for line in ax.lines if len(set(line.get_ydata())) == 1 and len(line.get_ydata()) == 2]
    assert set(data.threshold) <= set(level)
    assert ax.get_xlabel() == "token"
    assert ax.get_ylabel() == "nHSIC(T;Y) [nHSIC]"
    words = [text.get_text() for text in ax.get_legend().get_texts()]
    assert words == ["Q₃ + 1.5 IQR", "above it", "shuffled labels"]


def test_a_threshold_above_the_ceiling_is_not_drawn():
    low, high = np.linspace(0.0, 0.1, 4).tolist(), [4.9, 4.8, 4.7, 4.6]
    ax = plots.tokens(ResultTable.from_rows(rows("fc", 1, low + high, 0)))
    assert plots.tokens_data(ResultTable.from_rows(rows("fc", 1, low + high, 0))).threshold[0] > 5.0
    assert ax.get_ylim()[1] < 6.0
    assert not [line for line in ax.lines if line.get_gid() == "infoplane:fc:threshold"]
    assert ax.get_legend() is None


def test_without_a_name_the_dependence_on_y_is_drawn(table):
    renamed = [row._replace(quantity=row.quantity.replace("nHSIC", "I")) for row in table]
    other = [row._replace(quantity=row.quantity.replace("nHSIC(T;Y)", "H(T)")) for row in table]
    assert plots.tokens(ResultTable.from_rows([*other, *renamed])).get_ylabel().startswith("I(T;Y)")
    assert plots.tokens(ResultTable.from_rows([*other, *renamed, *table])).get_ylabel().startswith("nHSIC(T;Y)")
    assert plots.tokens(ResultTable.from_rows(other)).get_ylabel().startswith("H(T)")


def test_step_and_layers_are_chosen(table):
    data = plots.tokens_data(table, step=0, layers="sec*")
    assert (data.layers, data.step) == (["second"], 0)
    assert not data.peak.any()
    with pytest.raises(ValueError, match=r"no nHSIC\(T;Y\) at step 5; the table has 0, 10"):
        plots.tokens(table, step=5)
    with pytest.raises(ValueError, match="hsic has no 'MI' in this table; available: nHSIC"):
        plots.tokens(table, quantity="MI")
    with pytest.raises(ValueError, match=r"no layer of the table matches 'third\[token=\*\]'"):
        plots.tokens(table, layers=["third"])


def test_missing_positions_break_nothing(table):
    holes = ResultTable.from_rows(
        row._replace(value=np.nan) if row.layer == "first[token=2]" else row
        for row in table
        if row.layer != "second[token=4]" and not (row.layer.startswith("first") and row.step == 10)
    )
    data = plots.tokens_data(holes, step=0)
    assert np.isnan(data.value[0]).tolist() == [p == 2 for p in POSITIONS]
    assert np.isnan(data.value[1]).tolist() == [p == 4 for p in POSITIONS]
    last = plots.tokens_data(holes)
    assert np.isnan(last.threshold).tolist() == [True, False]
    plots.tokens(holes)


def test_a_table_of_whole_layers_is_refused():
    whole = ResultTable.from_rows(row._replace(layer="first") for row in rows("first", 0, [1.0] * 8, 0)[:1])
    with pytest.raises(ValueError, match=r"no single positions; analyze with layers=\['LAYER\[token=\*\]'\]"):
        plots.tokens(whole)
