"""The further static figures: their numbers, their artists, and that each is reachable by name."""

from __future__ import annotations

import inspect
import pydoc

import numpy as np
import pytest
import synthetic
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure

from infoplane import plots
from infoplane.plots.compare import ellipse_steps
from infoplane.plots.heatmap import spans
from infoplane.results import ResultTable

STEPS = [0, 1, 10, 100, 1000]
SEEDS = ("seed0", "seed1", "seed2")


@pytest.fixture(scope="module")
def table() -> ResultTable:
    rows = synthetic.layer_rows(steps=STEPS) + synthetic.metric_rows(steps=STEPS, layers=synthetic.LAYERS)
    return ResultTable.from_rows(rows, synthetic.about_runs("a1b2c3"))


@pytest.fixture(scope="module")
def seeds() -> ResultTable:
    rows = [row for i, run in enumerate(SEEDS) for row in synthetic.layer_rows(run=run, seed=i, steps=STEPS)]
    return ResultTable.from_rows(rows, synthetic.about_runs(*SEEDS))


@pytest.fixture(scope="module")
def settings() -> ResultTable:
    rows = [row for n in (30, 60) for row in synthetic.layer_rows(steps=STEPS, config={"n_bins": n}, seed=n)]
    rows += synthetic.layer_rows(steps=STEPS, estimator="kde", config={"noise_std": 0.1}, bounds=True)
    return ResultTable.from_rows(rows, synthetic.about_runs("a1b2c3"))


def visible(ax):
    return [a for a in ax.figure.axes if a.get_visible() and not hasattr(a, "_colorbar")]


# Grid


def test_grid_has_a_panel_per_layer_with_shared_limits(table):
    data = plots.plane_grid_data(table)
    whole = plots.plane_data(table)
    assert list(data) == list(synthetic.LAYERS)
    for i, panel in enumerate(data.values()):
        np.testing.assert_array_equal(panel.i_xt[:, 0], whole.i_xt[:, i])
    panels = visible(plots.plane_grid(table))
    assert [p.get_title(loc="left") for p in panels] == list(synthetic.LAYERS)
    assert len({(p.get_xlim(), p.get_ylim()) for p in panels}) == 1


def test_grid_by_run_estimator_and_settings(seeds, settings):
    assert list(plots.plane_grid_data(seeds, by="run")) == list(SEEDS)
    one_each = settings.select(settings=['{"n_bins":30}', '{"noise_std":0.1}'])
    assert list(plots.plane_grid_data(one_each, by="estimator")) == ["binning", "kde"]
    titles = [p.get_title(loc="left") for p in visible(plots.plane_grid(settings, by="settings", estimator="binning"))]
    assert titles == ["n_bins = 30", "n_bins = 60"]


def test_grid_refuses_what_it_cannot_show(table, settings):
    with pytest.raises(ValueError, match="2 settings of binning"):
        plots.plane_grid(settings, by="estimator")
    with pytest.raises(
        ValueError, match="by='run' makes a panel of each run, so it cannot be chosen; got run='a1b2c3'"
    ):
        plots.plane_grid(table, by="run", run="a1b2c3")
    with pytest.raises(ValueError, match="by must be layer, estimator, run, subset or settings, got 'colour'"):
        plots.plane_grid(table, by="colour")
    many = synthetic.table(layers=tuple(f"block{i}" for i in range(31)), steps=[0, 1], null=False)
    with pytest.raises(ValueError, match=r"31 panels are more than a page holds \(30\); choose with layers="):
        plots.plane_grid(many)


# Several runs


def test_compare_summarises_over_runs(seeds):
    data = plots.compare_data(seeds, spread="minmax")
    (group,) = data.groups
    stack = np.stack([plots.plane_data(seeds, run=run).i_xt for run in SEEDS])
    np.testing.assert_allclose(group.summaries["I(X;T)"].mean, stack.mean(axis=0), rtol=1e-14)
    np.testing.assert_array_equal(group.summaries["I(X;T)"].low, stack.min(axis=0))
    np.testing.assert_array_equal(group.summaries["I(X;T)"].high, stack.max(axis=0))
    assert data.words == "mean of 3 runs, band: smallest to largest"
    assert "3 runs" in data.caption


@pytest.mark.parametrize("form", ["curves", "plane"])
def test_the_legend_says_what_the_band_is(seeds, form):
    ax = plots.compare(seeds, form=form)
    assert ax.get_legend().get_texts()[0].get_text() == "mean of 3 runs, band: 95 % CI of the mean (Student t)"
    single = plots.compare(seeds.select(run="seed0"), form=form)
    assert single.get_legend().get_texts()[0].get_text() == "mean of 1 run"


def test_ellipses_have_the_widths_of_the_bands(seeds):
    ax = plots.compare(seeds, form="plane", spread="sd")
    group = plots.compare_data(seeds, spread="sd").groups[0]
    found = [c for c in ax.collections if isinstance(c, EllipseCollection)]
    assert len(found) == len(group.layers)
    xt, ty = group.summaries["I(X;T)"], group.summaries["I(T;Y)"]
    at = ellipse_steps(xt.mean[:, 3], ty.mean[:, 3])
    assert at[0] == 0
    assert at[-1] == group.times.size - 1
    np.testing.assert_allclose(2 * found[3]._widths, (xt.high - xt.low)[at, 3])
    np.testing.assert_allclose(2 * found[3]._heights, (ty.high - ty.low)[at, 3])


def test_bands_that_would_fill_the_plane_stand_at_the_last_step_alone(seeds):
    """The interval of a mean of three runs that differ is four standard deviations wide."""
    far = [
        r._replace(value=0.7 * r.value) if r.run == "seed1" and r.quantity in ("I(X;T)", "I(T;Y)") else r for r in seeds
    ]
    table = ResultTable.from_rows(far, seeds.meta)
    for runs, each in ((table, 1), (seeds, 3)):
        ax = plots.compare(runs, form="plane", layers=["act2", "act3"])
        found = [c for c in ax.collections if isinstance(c, EllipseCollection)]
        assert [len(c.get_offsets()) for c in found] == [each, each]
        assert ("bands at the last step alone" in plots.caption(ax)) == (each == 1)
    group = plots.compare_data(table, layers=["act2", "act3"]).groups[0]
    last = plots.compare(table, form="plane", layers=["act2", "act3"]).collections[0].get_offsets()[0]
    np.testing.assert_array_equal(last, [group.summaries[q].mean[-1, 0] for q in ("I(X;T)", "I(T;Y)")])


def test_ellipses_stand_at_equal_shares_of_the_path():
    x = np.array([0.0, 1.0, 2.0, 3.0, 4.0])
    assert ellipse_steps(x, 0 * x).tolist() == [0, 1, 2, 3, 4]
    assert ellipse_steps(np.linspace(0, 1, 101), np.linspace(0, 2, 101)).tolist() == [0, 25, 50, 75, 100]
    assert ellipse_steps(np.ones(7), np.ones(7)).tolist() == [0, 6]
    assert ellipse_steps(np.ones(1), np.ones(1)).tolist() == [0]


@pytest.mark.parametrize("form", ["curves", "plane"])
def test_a_band_wider_than_the_quantity_can_be_does_not_set_the_axes(form):
    far = [
        row._replace(run="far", value=0.4 * row.value) if row.quantity == "I(T;Y)" else
        row._replace(run="far")
        for row in synthetic.layer_rows(steps=STEPS)
    ]  # fmt: skip
    both = ResultTable.from_rows(synthetic.layer_rows(steps=STEPS) + far, synthetic.about_runs("a1b2c3", "far"))
    ax = plots.compare(both, form=form, quantity=None if form == "plane" else "I(T;Y)", spread="ci95")
    band = plots.compare_data(both, spread="ci95").groups[0].summaries["I(T;Y)"]
    assert np.nanmax(band.high) > 2
    assert ax.get_ylim()[1] < 1.2
    assert ax.get_ylim()[0] > -0.2


def test_groups_are_averaged_apart(seeds):
    data = plots.compare_data(seeds, groups={"first": "seed0", "rest": ["seed1", "seed[2-9]"]})
    assert [g.runs for g in data.groups] == [["seed0"], ["seed1", "seed2"]]
    np.testing.assert_array_equal(data.groups[0].summaries["I(T;Y)"].mean, plots.plane_data(seeds, run="seed0").i_ty)
    with pytest.raises(ValueError, match="group 'none' matches no run; available: seed0, seed1, seed2"):
        plots.compare_data(seeds, groups={"none": "x*"})


def test_runs_that_do_not_match_are_refused(seeds):
    other = ResultTable.from_rows(synthetic.layer_rows(run="wide", layers=("a", "b"), steps=STEPS))
    with pytest.raises(
        ValueError, match=r"runs of a group must have the same layers; seed0 has act1, .*common to all are none"
    ):
        plots.compare(ResultTable.concat([seeds, other]))
    late = ResultTable.from_rows(synthetic.layer_rows(run="late", steps=[7, 70]))
    with pytest.raises(ValueError, match="no step in common"):
        plots.compare(ResultTable.concat([ResultTable.from_rows(list(seeds)), late]))
    with pytest.raises(ValueError, match=r"spread must be one of auto, ci95, sd, se, .*minmax or None, got 'iqr'"):
        plots.compare(seeds, spread="iqr")


def test_common_steps_alone_are_averaged(seeds):
    fewer = ResultTable.from_rows([r for r in seeds if not (r.run == "seed1" and r.step == 10)], seeds.meta)
    assert plots.compare_data(fewer).groups[0].times.tolist() == [0, 1, 100, 1000]


# Null


def test_null_is_read_at_first_and_last_step(table):
    data = plots.null_data(table)
    assert data.times.tolist() == [0, 1000]
    rows = table.select(quantity="I(T;Y) null", step=1000)
    np.testing.assert_array_equal(data.null[1], rows["value"])
    np.testing.assert_array_equal(data.above_chance[1], data.value[1] > rows["high"])
    below = sum(
        v.value <= n.high
        for v, n in zip(table.select(quantity="I(T;Y)"), table.select(quantity="I(T;Y) null"), strict=True)
    )
    assert f"no more than chance in {below} of 30 points, all steps" in data.caption


def test_null_marks_what_is_not_above_chance(table):
    rows = [row._replace(high=9.0) if (row.layer, row.quantity) == ("act2", "I(T;Y) null") else row for row in table]
    ax = plots.null(ResultTable.from_rows(rows))
    hollow = [line for line in ax.lines if line.get_markerfacecolor() == "white"]
    assert sorted(round(float(y)) for line in hollow for y in line.get_ydata()) == [1, 1]


def test_null_says_what_is_missing(table):
    with pytest.raises(ValueError, match="no null at step 11; nearest are 0, 1, 10"):
        plots.null(table, steps=[11])
    with pytest.raises(ValueError, match=r"no 'I\(T;Y\)' null of binning; estimate it with null_draws=20"):
        plots.null(synthetic.table(steps=STEPS, null=False))


# Compression


def test_compression_scores_are_those_of_the_curves(seeds):
    data = plots.compression_data(seeds)
    for run in SEEDS:
        curve = seeds.select(run=run, layer="act4", quantity="I(X;T)")["value"]
        middle = [curve[0], *(np.median(curve[i : i + 3]) for i in range(3)), curve[-1]]
        assert data.scores[run, "act4"].fall == pytest.approx(max(middle) - curve[-1])
    assert data.scores["seed0", "act1"].saturated == 1
    assert data.falls("seed1").shape == (6,)


def test_compression_draws_a_point_per_run_and_their_mean(seeds):
    ax = plots.compression(seeds)
    xs = {round(float(line.get_xdata()[0]), 9) for line in ax.lines if len(line.get_xdata()) == 1}
    falls = plots.compression_data(seeds).falls("seed2")
    assert {round(float(f), 9) for f in falls} <= xs
    assert ax.get_legend().get_texts()[0].get_text() == "mean of 3 runs"


# Heat map


def test_heatmap_is_layer_by_step(table):
    data = plots.heatmap_data(table, "I(T;Y)")
    assert data.value.shape == (6, 5)
    np.testing.assert_array_equal(data.value[2], table.select(layer="act3", quantity="I(T;Y)")["value"])
    ax = plots.heatmap(table)
    np.testing.assert_array_equal(ax.collections[0].get_array().reshape(6, 5), plots.heatmap_data(table).value)
    assert len([p for p in ax.patches if p.get_hatch()]) == 1  # the first layer, saturated throughout
    assert [t.get_text() for t in ax.get_xticklabels()] == ["0", "1", "10", "100", "1000"]
    with pytest.raises(ValueError, match=r"no 'H\(T\)' in this table"):
        plots.heatmap(table, quantity="H(T)")


def test_spans_are_the_unbroken_runs():
    mask = np.array([[0, 1, 1, 0, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], dtype=bool)
    assert spans(mask) == [(0, 1, 2), (0, 4, 1), (2, 0, 5)]


# Gradients


def test_snr_divides_mean_by_std_and_both_by_the_weights(table):
    data = plots.snr_data(table)
    recorded = table.select(estimator="recorded", layer="act3")
    mean, std, weight = (
        recorded.select(quantity=q)["value"] for q in ("gradient_mean_norm", "gradient_std_norm", "weight_norm")
    )
    np.testing.assert_allclose(data.ratio[:, 2], mean / std)
    np.testing.assert_allclose(data.mean[:, 2], mean / weight)
    assert data.relative
    assert [a.get_ylabel() for a in plots.snr(table).figure.axes] == ["gradient / weight", "mean / std"]


def test_snr_names_numbers_within_one_decade_and_begins_where_gradients_do(table):
    rows = [r for r in table if r.step > 0 or "gradient" not in r.quantity]
    mean = {layer: 0.2 * (i + 1) for i, layer in enumerate(synthetic.LAYERS)}
    rows = [r._replace(value=mean[r.layer]) if r.quantity == "gradient_mean_norm" else r for r in rows]
    rows = [r._replace(value=0.6) if r.quantity == "gradient_std_norm" else r for r in rows]
    ax = plots.snr(ResultTable.from_rows(rows, table.meta)).figure.axes[1]
    ax.figure.draw_without_rendering()
    low, high = ax.get_ylim()
    shown = [float(t.get_text()) for which in ("major", "minor") for t in ax.yaxis.get_ticklabels(which=which)
             if t.get_text() and low <= t.get_position()[1] <= high]  # fmt: skip
    assert sorted(shown) == [0.5, 1, 2]
    assert ax.get_xlim()[0] > 0.5


def test_snr_needs_recorded_gradients(table):
    with pytest.raises(
        ValueError, match=r"no recorded gradient moments .* recorded are loss, train accuracy, test accuracy"
    ):
        plots.snr(ResultTable.from_rows(synthetic.layer_rows(steps=STEPS) + synthetic.metric_rows(steps=STEPS)))
    zero = [row._replace(value=0.0) if row.quantity == "gradient_std_norm" and row.step == 1 else row for row in table]
    assert np.isnan(plots.snr_data(ResultTable.from_rows(zero)).ratio[1]).all()


# Data processing


def test_dpi_shows_the_share_of_each_estimate(settings):
    rows = [
        row._replace(value=11.9) if (row.quantity, row.layer, row.estimator) == ("I(X;T)", "out", "kde") else row
        for row in settings
    ]
    broken = ResultTable.from_rows(rows, settings.meta)
    data = plots.dpi_data(broken)
    assert data.names == ["binning, n_bins = 30", "binning, n_bins = 60", "kde"]
    assert data.caption[-1] == "kde, noise_std = 0.1"
    assert data.rows[2].violations == 5
    ax = plots.dpi(broken)
    assert [p.get_width() for p in ax.patches] == [100 * row.share for row in data.rows]
    with pytest.raises(ValueError, match="no run of the table is known to be a chain"):
        plots.dpi(ResultTable.from_rows(rows))
    assert plots.dpi_data(ResultTable.from_rows(rows), chain=["act1", "act2"]).rows[0].pairs == 5


# All


def at_tokens(table: ResultTable) -> ResultTable:
    """The layers as positions of one layer."""
    return ResultTable.from_rows(row._replace(layer=f"act[token={row.depth}]", depth=0) for row in table)


def fit_for(kind: str, table: ResultTable) -> ResultTable:
    """What a figure needs that the others do not: positions, or several scales."""
    if kind == "sensitivity":
        more = [row._replace(config=row.config.replace("30", "8")) for row in table if row.estimator != "recorded"]
        return ResultTable.from_rows([*table, *more], table.meta)
    if kind == "similarity":
        return synthetic.as_pairs(table)
    return at_tokens(table) if kind == "tokens" else table


@pytest.mark.parametrize("kind", list(plots.FIGURES))
@pytest.mark.parametrize(
    "style", ["column", *(pytest.param(style, marks=pytest.mark.slow) for style in ("page", "screen"))]
)
def test_every_figure_is_drawn_by_name(kind, style, table, tmp_path):
    (tmp_path / "run").mkdir()
    fit_for(kind, table).write(tmp_path / "run" / "results.csv")
    options = {"estimator": None, "layers": (), "subset": None, "groups": (), "style": style}
    path = plots.draw_file([tmp_path / "run"], kind, tmp_path / f"{kind}.svg", **options)
    text = path.read_text()
    assert "a1b2c3" in text or "1 run" in text
    width = float(text.partition('width="')[2].partition("pt")[0])
    assert width == pytest.approx({"column": 85, "page": 170, "screen": 170}[style] / 25.4 * 72, rel=1e-3)


def test_draw_file_names_the_figures(tmp_path, table):
    table.write(tmp_path / "results.csv")
    with pytest.raises(ValueError, match=r"no figure named 'planes'; closest: plane.*; available: plane, plane_grid"):
        plots.draw_file([tmp_path / "results.csv"], "planes", tmp_path / "a.png")
    with pytest.raises(ValueError, match="the figure 'null' takes no by=; it takes ax=, quantity=, steps="):
        plots.draw_file([tmp_path / "results.csv"], "null", tmp_path / "a.png", by="layer")
    with pytest.raises(ValueError, match="unknown style 'poster'; available: column, page, screen"):
        plots.plane(table, style="poster")
    with pytest.raises(ValueError, match="width must be between 20 and 2000 mm, got 5"):
        plots.plane(table, width=5)


@pytest.mark.parametrize("kind", [k for k in plots.FIGURES if k != "plane_grid"])
def test_figures_go_into_given_axes(kind, table):
    one, other = Figure(figsize=(8, 4)).subplots(1, 2)
    options = {"quantity": "I(T;Y)"} if kind in ("curves", "compare", "sensitivity") else {}
    assert plots.FIGURES[kind](fit_for(kind, table), ax=one, **options) is one
    assert not other.has_data()


def test_repetition_gives_the_same_bytes(seeds, tmp_path):
    for name in ("compare", "compression"):
        first = plots.save(plots.FIGURES[name](seeds), tmp_path / "a.svg").read_bytes()
        assert plots.save(plots.FIGURES[name](seeds), tmp_path / "b.svg").read_bytes() == first


@pytest.mark.parametrize("style", ["screen", "column"])
def test_panels_keep_their_room_under_long_captions(style):
    many = {"n_bins": 30, "range": "layer", "rounding": "floor", "top": "closed", "separate_saturated": False}
    rows = synthetic.layer_rows(steps=STEPS, config=many)
    rows += synthetic.layer_rows(steps=STEPS, estimator="kde", config={"noise_std": 0.1}, bounds=True)
    rows += synthetic.layer_rows(steps=STEPS, estimator="adaptive", config={**many, "quantile": "distinct"})
    ax = plots.plane_grid(ResultTable.from_rows(rows, synthetic.about_runs("a1b2c3")), by="estimator", style=style)
    ax.figure.draw_without_rendering()
    for panel in visible(ax):
        box = panel.get_position()
        assert box.height * ax.figure.get_figheight() > 0.7
        assert box.width * ax.figure.get_figwidth() > 0.7


# Keywords


def test_help_shows_the_keywords_that_all_figures_share():
    shared = ["estimator", "settings", "run", "subset", "layers", "against", "caption", "style", "width"]
    shared += ["title", "colors", "markers", "labels", "cmap", "legend", "colorbar"]
    assert list(inspect.signature(plots.plane).parameters) == ["table", "ax", "by", "log", *shared]
    assert inspect.signature(plots.plane).parameters["against"].default == "step"
    assert "run" not in inspect.signature(plots.compare).parameters
    assert "layers: 'Sequence[str] | None' = None" in pydoc.render_doc(plots.heatmap, renderer=pydoc.plaintext)


@pytest.mark.parametrize("draw", [*plots.FIGURES.values(), plots.plane_data, plots.compare_data])
def test_an_unknown_keyword_is_refused_by_the_name_of_the_figure(draw, table):
    with pytest.raises(TypeError, match=rf"^{draw.__name__}\(\) got an unexpected keyword argument 'layer'$"):
        draw(table, layer="act1")


# Values that an estimator itself holds for wrong


def test_captions_count_what_no_mark_shows():
    def doubted(row):
        return row._replace(flags="unreliable") if row.quantity == "I(T;Y)" and row.step == 10 else row

    runs = [[doubted(r) for r in synthetic.layer_rows(run=run, steps=STEPS, config={"n_bins": 5})] for run in SEEDS]
    finer = [r._replace(flags="") for r in synthetic.layer_rows(run=SEEDS[0], steps=STEPS, config={"n_bins": 9})]
    one = ResultTable.from_rows(runs[0], synthetic.about_runs(SEEDS[0]))
    all_runs = ResultTable.from_rows([r for run in runs for r in run], synthetic.about_runs(*SEEDS))
    two = ResultTable.from_rows(runs[0] + finer, synthetic.about_runs(SEEDS[0]))
    layers, steps = len(synthetic.LAYERS), len(STEPS)
    values = layers * steps
    said = {
        f"unreliable: {layers} of {2 * values} values": [plots.plane_data(one), plots.curves(one)],
        f"unreliable: {layers} of {values} values": [plots.heatmap_data(one, quantity="I(T;Y)")],
        f"unreliable: {3 * layers} of {6 * values} values": [plots.compare_data(all_runs)],
        f"unreliable: {layers} of {2 * layers} values": [plots.sensitivity_data(two, "I(T;Y)", steps=10)],
    }
    for words, figures in said.items():
        for figure in figures:
            caption = plots.caption(figure) if hasattr(figure, "figure") else "; ".join(figure.caption)
            assert words in " ".join(caption.split()), caption
    quiet = [plots.sensitivity_data(two, "I(T;Y)", steps=1), plots.plane_data(two, settings="n_bins=9")]
    assert not any("unreliable" in "; ".join(figure.caption) for figure in quiet)
