from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import synthetic
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import SymLogNorm
from matplotlib.figure import Figure

from infoplane import plots
from infoplane.plots.plane import arrow_spans, plane_data
from infoplane.results import ResultTable

STEPS = [0, 1, 10, 100, 1000]


@pytest.fixture(scope="module")
def table() -> ResultTable:
    return synthetic.table(steps=STEPS)


def test_data_are_the_rows_of_the_table(table):
    data = plane_data(table)
    assert data.layers == list(synthetic.LAYERS)
    assert data.times.tolist() == STEPS
    for quantity, got in (("I(X;T)", data.i_xt), ("I(T;Y)", data.i_ty)):
        for row in table.select(quantity=quantity):
            assert got[STEPS.index(row.step), data.layers.index(row.layer)] == row.value
    assert data.saturated[:, 0].all()
    assert not data.saturated[:, 1:].any()
    assert (data.ceiling_xt.value, data.ceiling_xt.name) == (12.0, "log₂ N")
    assert (data.ceiling_ty.value, data.ceiling_ty.name) == (synthetic.H_Y, "H(Y)")


def test_ceiling_is_called_h_x_where_the_sample_does_not_set_it(table):
    rows = [row._replace(ceiling=3.25 if row.quantity == "I(X;T)" else row.ceiling) for row in table]
    assert plane_data(ResultTable.from_rows(rows)).ceiling_xt.name == "H(X)"


def test_caption_says_what_was_measured_and_what_to_doubt(table):
    caption = plane_data(table).caption
    assert caption[0] == "binning, n_bins = 30, range = layer"
    assert caption[1:4] == ["N = 4096", "run a1b2c3", "I(X;T): binned"]
    dpi = table.dpi()[0]
    assert f"DPI violated in {100 * dpi.share:.3g} % of {dpi.pairs} pairs" in caption
    assert "5 of 30 points saturated (hollow)" in caption


def test_points_at_chance_are_counted(table):
    rows = [row._replace(flags="below_null") if row.quantity == "I(T;Y)" and row.step < 5 else row for row in table]
    assert "I(T;Y) no more than chance in 12 of 30" in plane_data(ResultTable.from_rows(rows)).caption


def test_meanings_that_agree_are_said_once(table):
    rows = [row._replace(estimand="binned") for row in table]
    assert "I(X;T), I(T;Y): binned" in plane_data(ResultTable.from_rows(rows)).caption


def test_an_upper_bound_and_a_subset_are_named():
    table = synthetic.table(steps=STEPS, bounds=True, subset="test", estimator="kde", config={"noise_std": 0.1})
    caption = plane_data(table).caption
    assert caption[0] == "kde, noise_std = 0.1"
    assert "N = 4096 (test)" in caption
    assert "I(X;T): binned, upper bound" in caption


def test_default_layers_are_activations_and_output():
    table = synthetic.table(steps=STEPS)
    table.meta["runs"]["a1b2c3"]["layers"][1]["role"] = "other"
    assert plane_data(table).layers == ["act1", "act3", "act4", "act5", "out"]
    assert plane_data(table, layers=["act[12]"]).layers == ["act1", "act2"]
    table.meta.clear()
    assert plane_data(table).layers == list(synthetic.LAYERS)
    with pytest.raises(ValueError, match=r"no layer of the table matches 'akt1'; closest: act1"):
        plane_data(table, layers=["akt1"])


def test_missing_and_enormous_points_are_left_out_and_counted(table, tmp_path):
    rows = []
    for row in table:
        if (row.layer, row.step, row.quantity) == ("act3", 10, "I(X;T)"):
            row = row._replace(value=math.nan, flags="nonfinite")
        if (row.layer, row.step, row.quantity) == ("act2", 1, "I(T;Y)"):
            row = row._replace(value=1e308)
        rows.append(row)
    damaged = ResultTable.from_rows(rows)
    data = plane_data(damaged)
    assert data.present.sum() == 28
    assert "2 of 30 points not finite (not drawn)" in data.caption
    assert plots.save(plots.plane(damaged), tmp_path / "plane.png", dpi=60).stat().st_size > 1000


def two(table, **changed):
    return ResultTable.concat([table, ResultTable.from_rows([row._replace(**changed) for row in table])])


@pytest.mark.parametrize(
    ("changed", "message", "choice"),
    [
        ({"estimator": "kde"}, "has 2 estimators, choose one with estimator=...: binning, kde", {"estimator": "kde"}),
        ({"run": "second"}, "has 2 runs, choose one with run=...: a1b2c3, second", {"run": "second"}),
        (
            {"config": '{"n_bins":60}'},
            r"2 settings of binning, choose with settings=...: n_bins=30,.*; n_bins=60",
            {"settings": "n_bins=60"},
        ),
        ({"config": '{"n_bins":60}'}, "2 settings of binning", {"estimator": "binning:n_bins=60"}),
        ({"config": '{"n_bins":60}'}, "2 settings of binning", {"settings": {"n_bins": 60}}),
    ],
)
def test_a_choice_left_open_is_an_error_that_names_it(table, changed, message, choice):
    rows = table.select(estimator="binning")
    both = two(rows, **changed)
    with pytest.raises(ValueError, match=message):
        plane_data(both)
    np.testing.assert_array_equal(plane_data(both, **choice).i_xt, plane_data(table).i_xt)


def test_the_whole_probe_is_taken_where_there_are_subsets(table):
    assert plane_data(two(table, subset="test")).caption[1] == "N = 4096"
    with pytest.raises(ValueError, match="has no subset 'train'; available: all, test"):
        plane_data(two(table, subset="test"), subset="train")


def test_recorded_metrics_alone_are_no_plane():
    with pytest.raises(ValueError, match="no estimates"):
        plane_data(ResultTable.from_rows(synthetic.metric_rows()))
    with pytest.raises(ValueError, match=r"no pair of I\(X;T\) and I\(T;Y\).*has I\(T;Y\), I\(T;Y\) null"):
        plane_data(synthetic.table(steps=STEPS).select(quantity=["I(T;Y)", "I(T;Y) null"]))
    with pytest.raises(ValueError, match="no setting 'bins'; it has n_bins"):
        plane_data(synthetic.table(steps=STEPS), settings="bins=3")


def test_canonical_form_has_a_line_per_step_through_the_layers(table):
    ax = plots.plane(table)
    data = plane_data(table)
    (lines,) = [c for c in ax.collections if isinstance(c, LineCollection)]
    assert len(lines.get_segments()) == len(STEPS)
    np.testing.assert_array_equal(lines.get_segments()[2], np.column_stack([data.i_xt[2], data.i_ty[2]]))
    dots = [c for c in ax.collections if isinstance(c, PathCollection)]
    assert sum(len(c.get_offsets()) for c in dots) == data.present.sum()
    hollow = [c for c in dots if np.allclose(c.get_facecolor(), 1)]
    assert sum(len(c.get_offsets()) for c in hollow) == data.saturated.sum()
    assert ax.get_xlabel() == "I(X;T) [bits]"
    assert ax.get_ylabel() == "I(T;Y) [bits]"
    bar = ax.figure.axes[-1]
    assert bar.get_ylabel() == "step"
    assert isinstance(bar._colorbar.norm, SymLogNorm)
    assert bar._colorbar.norm.vmin == 0


def test_limits_hold_data_and_ceilings(table):
    ax = plots.plane(table)
    data = plane_data(table)
    for (low, high), values, top in (
        (ax.get_xlim(), data.i_xt, data.ceiling_xt), (ax.get_ylim(), data.i_ty, data.ceiling_ty),
    ):  # fmt: skip
        assert low < np.nanmin(values)
        assert high > top.value


def test_a_distant_ceiling_is_named_and_does_not_squeeze_the_data(table):
    rows = [row._replace(value=row.value / 40) if row.quantity == "I(X;T)" else row for row in table]
    ax = plots.plane(ResultTable.from_rows(rows))
    assert ax.get_xlim()[1] < 0.5
    assert "log₂ N = 12 →" in [t.get_text() for t in ax.texts]


def test_every_layer_is_named_once(table):
    for by in ("step", "layer"):
        texts = [t.get_text() for t in plots.plane(table, by=by).texts]
        assert [texts.count(layer) for layer in synthetic.LAYERS] == [1] * len(synthetic.LAYERS)
    with pytest.raises(ValueError, match="by must be 'step' or 'layer', got 'epoch'"):
        plots.plane(table, by="epoch")


def test_trajectories_start_and_end_at_the_first_and_last_step(table):
    ax = plots.plane(table, by="layer")
    data = plane_data(table)
    starts = {
        tuple(line.get_xydata()[0]) for line in ax.lines if line.get_marker() == "o" and len(line.get_xydata()) == 1
    }
    assert starts >= {(x, y) for x, y in zip(data.i_xt[0], data.i_ty[0], strict=True)}
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["first step", "last step", "saturated"]


def test_arrows_point_along_the_path():
    ax = Figure().add_subplot()
    spans = arrow_spans(ax, np.array([0.0, 0.5, 1.0]), np.array([0.0, 0.0, 0.0]), shares=[0.5])
    ((x0, y0), (x1, y1)) = spans[0]
    assert x0 < 0.5 < x1
    assert y0 == y1 == 0
    assert arrow_spans(ax, np.array([0.5, 0.51]), np.array([0.5, 0.5])) == []


def test_epochs_can_colour(table):
    rows = [row._replace(epoch=row.step / 10) for row in table]
    data = plane_data(ResultTable.from_rows(rows), against="epoch")
    assert data.times.tolist() == [0, 0.1, 1, 10, 100]
    assert plots.plane(ResultTable.from_rows(rows), against="epoch").figure.axes[-1].get_ylabel() == "epoch"


def test_snapshots_without_an_epoch_are_left_out_of_a_figure_by_epoch(table):
    rows = [row._replace(epoch=math.nan if row.step == 0 else row.step - 1.0) for row in table]
    data = plane_data(ResultTable.from_rows(rows), against="epoch")
    assert data.times.tolist() == [0, 9, 99, 999]
    assert "snapshots without an epoch, not drawn: 1" in data.caption
    assert (
        plots.curves(ResultTable.from_rows(rows), against="epoch", metrics=True).figure.axes[-1].get_xlabel() == "epoch"
    )
    with pytest.raises(ValueError, match=r"recorded no epochs.*use against='step'"):
        plane_data(ResultTable.from_rows([row._replace(epoch=math.nan) for row in table]), against="epoch")
    with pytest.raises(ValueError, match=r"against must be step or epoch, got 'time'"):
        plane_data(table, against="time")


def test_own_axes_are_drawn_in_and_nothing_else_changes(table):
    figure = Figure(layout="constrained")
    left, right = figure.subplots(1, 2)
    assert plots.plane(table, ax=left) is left
    assert not right.has_data()
    assert len(figure.axes) == 2
    assert [bar.get_ylabel() for bar in left.child_axes] == ["step"]  # the colour bar goes where the axes go


def test_a_hidden_caption_still_reaches_the_file(table, tmp_path):
    ax = plots.plane(table, caption=False)
    assert not any("binning" in t.get_text() for t in ax.figure.texts if t.get_visible())
    assert b"binning, n_bins = 30" in plots.save(ax, tmp_path / "a.svg").read_bytes()


@pytest.mark.parametrize("layers", [2, 12, 17])
def test_many_layers_are_all_drawn_and_named(layers):
    names = tuple(f"layer{i}" for i in range(layers))
    ax = plots.plane(synthetic.table(layers=names, steps=[0, 1, 10]))
    texts = [t.get_text() for t in (ax.get_legend().get_texts() if layers > 8 else ax.texts)]
    assert all(texts.count(name) == 1 for name in names)


def test_names_that_would_lie_far_from_their_points_stand_in_a_legend(monkeypatch, table):
    def texts(ax):
        return [] if ax.get_legend() is None else [text.get_text() for text in ax.get_legend().get_texts()]

    assert "out" not in texts(plots.plane(table))
    monkeypatch.setattr(sys.modules["infoplane.plots.plane"], "FAR", 0.0)
    assert "out" in texts(plots.plane(table))
