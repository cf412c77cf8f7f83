from __future__ import annotations

import inspect

import numpy as np
import pytest
import synthetic
from matplotlib.figure import Figure
from matplotlib.text import Text

from infoplane import plots
from infoplane.plots._layers import LayerLook
from infoplane.plots.curves import curve_data, draw_band
from infoplane.results import ResultTable, Row

STEPS = [0, 1, 10, 100, 1000]


@pytest.fixture(scope="module")
def table() -> ResultTable:
    return synthetic.table(steps=STEPS)


def test_data_hold_value_interval_null_and_ceiling(table):
    data = curve_data(table, "I(T;Y)")
    null = table.select(quantity="I(T;Y) null", layer="act3")
    at = data.layers.index("act3")
    np.testing.assert_array_equal(data.null[:, at], null["value"])
    np.testing.assert_array_equal(data.null_low[:, at], null["low"])
    np.testing.assert_array_equal(data.null_high[:, at], null["high"])
    np.testing.assert_array_equal(data.low, data.value - 0.02)
    assert data.ceiling.value == synthetic.H_Y
    assert data.label == "I(T;Y) [bits]"
    assert data.other_bound is None


def test_long_labels_have_two_lines_and_weights_no_number_of_samples():
    common = {"run": "a", "epoch": 0.0, "layer": "fc", "depth": 0, "subset": "all", "estimator": "e", "config": "{}"}
    values = [
        Row(**common, step=s, n_samples=n, n_units=4, quantity=name, value=1.0 + s, unit=unit, ceiling=3.0)
        for s in range(2)
        for n, name, unit in ((0, "weight rank", "dimensions"), (0, "median top-frequency share", "share"))
    ]
    ax = plots.curves(ResultTable.from_rows(values), quantity=["weight rank", "median top-frequency share"])
    labels = [a.get_ylabel() for a in ax.figure.axes]
    assert labels == ["weight rank [dimensions]", "median top-frequency share\n[share]"]
    data = curve_data(ResultTable.from_rows(values), "weight rank")
    assert data.caption == ["e", "run a"]
    assert data.ceiling.name == "maximum"


def test_a_ribbon_between_no_bounds_is_not_said_to_be_one():
    rows = [
        row._replace(bound="point") if row.quantity.startswith("I(X;T)") else row
        for row in synthetic.layer_rows(steps=STEPS, bounds=True, estimator="kde")
    ]
    ax = plots.curves(ResultTable.from_rows(rows), quantity="I(X;T)")
    assert "to I(X;T) lower" in [t.get_text() for t in ax.get_legend().get_texts()]


def test_the_opposite_bound_makes_a_ribbon():
    table = synthetic.table(steps=STEPS, bounds=True, estimator="kde")
    data = curve_data(table, "I(X;T)")
    np.testing.assert_array_equal(data.other_bound[:, 2], table.select(quantity="I(X;T) lower", layer="act3")["value"])
    ax = plots.curves(table, quantity="I(X;T)")
    assert "lower to upper bound" in [t.get_text() for t in ax.get_legend().get_texts()]
    ribbons = [c for c in ax.collections if c.get_hatch()]
    assert len(ribbons) == len(data.layers)
    extent = ribbons[2].get_paths()[0].get_extents()
    assert extent.y0 == pytest.approx(data.other_bound[:, 2].min())
    assert extent.y1 == pytest.approx(data.value[:, 2].max())


@pytest.mark.parametrize("draw", [plots.curves, plots.compare, plots.compare_data])
def test_the_old_keyword_draws_the_same_and_warns(table, draw):
    with pytest.warns(DeprecationWarning, match=f"^{draw.__name__}: quantities= is now quantity=") as seen:
        old = draw(table, quantities="I(X;T)", estimator="binning")
    assert seen[0].filename == __file__
    new = draw(table, quantity="I(X;T)", estimator="binning")
    assert getattr(old, "get_ylabel", lambda: old.labels)() == getattr(new, "get_ylabel", lambda: new.labels)()
    with pytest.raises(TypeError, match=r"takes quantity='I\(T;Y\)' or the old quantities=, not both"):
        draw(table, quantities="I(X;T)", quantity="I(T;Y)")


@pytest.mark.parametrize("name", ["curves", "compare", "compare_data", "heatmap", "null", "tokens", "curve_data"])
def test_every_figure_calls_a_quantity_by_one_name(name):
    taken = inspect.signature(getattr(plots, name)).parameters
    assert "quantity" in taken
    assert "quantities" not in taken


def test_unknown_quantity_names_what_there_is(table):
    with pytest.raises(
        ValueError, match=r"no quantity 'H\(T\)' in this table; available: I\(X;T\), I\(T;Y\), I\(T;Y\) null"
    ):
        plots.curves(table, quantity="H(T)")


def test_panels_hold_the_quantities_then_the_metrics(table):
    ax = plots.curves(table, metrics=True)
    assert [a.get_ylabel() for a in ax.figure.axes] == ["I(X;T) [bits]", "I(T;Y) [bits]", "loss", "accuracy"]
    assert ax is ax.figure.axes[0]
    assert ax.figure.axes[-1].get_xlabel() == "step"
    np.testing.assert_array_equal(
        ax.figure.axes[2].lines[0].get_ydata(), table.select(estimator="recorded", quantity="loss")["value"]
    )
    with pytest.raises(
        ValueError, match="recorded no metric 'los'; closest: loss; available: loss, train accuracy, test"
    ):
        plots.curves(table, metrics="los")


def test_lines_follow_the_table(table):
    ax = plots.curves(table, quantity=["I(X;T)"])
    for layer in synthetic.LAYERS:
        rows = table.select(quantity="I(X;T)", layer=layer)
        assert any(np.array_equal(line.get_ydata(), rows["value"]) for line in ax.lines), layer


def test_step_axis_is_logarithmic_beyond_two_decades_and_shows_zero(table):
    ax = plots.curves(table)
    assert ax.get_xscale() == "symlog"
    assert ax.get_xlim()[0] < 0
    assert ax.get_xticks().tolist() == [0, 1, 10, 100, 1000]
    assert plots.curves(table, log=False).get_xscale() == "linear"
    assert plots.curves(synthetic.table(steps=[0, 5, 10])).get_xscale() == "linear"


def test_own_axes_take_one_quantity(table):
    ax = Figure().add_subplot()
    with pytest.raises(ValueError, match=r"2 panels, so ax .* got 1: one for each of I\(X;T\), I\(T;Y\); draw fewer"):
        plots.curves(table, ax=ax)
    assert plots.curves(table, ax=ax, quantity="I(T;Y)") is ax
    assert ax.get_xlabel() == "step"


def test_ends_are_labelled_without_overlap(table):
    ax = plots.curves(table, quantity="I(T;Y)", style="column")
    ax.figure.draw_without_rendering()
    boxes = [Text.get_window_extent(t) for t in ax.texts if t.get_text() in synthetic.LAYERS]
    assert len(boxes) == len(synthetic.LAYERS)
    centres = sorted((b.y0 + b.y1) / 2 for b in boxes)
    assert min(np.diff(centres)) >= 0.99 * boxes[0].height


def test_a_quantity_with_its_own_unit_keeps_it(table):
    rows = [row._replace(quantity="DSMI", unit="nats of order 2") for row in table if row.quantity == "I(X;T)"]
    assert plots.curves(ResultTable.from_rows(rows)).get_ylabel() == "DSMI [nats of order 2]"


def test_bands_are_interrupted_where_a_value_has_no_interval():
    """Value at five steps, the interval of the third empty: a band on either side, none across."""
    ax = Figure().subplots()
    low = np.array([0.0, 0.0, np.nan, 0.0, 0.0])
    of = LayerLook("act1", "act1", "k", "o", "-")
    draw_band(ax, np.arange(5.0), low, low + 1, of, "band")
    (band,) = ax.collections
    spans = sorted((float(p.vertices[:, 0].min()), float(p.vertices[:, 0].max())) for p in band.get_paths())
    assert spans == [(0.0, 1.0), (3.0, 4.0)]
    draw_band(ax, np.arange(5.0), np.full(5, np.nan), np.full(5, np.nan), of, "band")
    assert len(ax.collections) == 1
