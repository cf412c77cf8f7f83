"""Panels of one figure: of equal size, under one caption that says what each of them would."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest
import synthetic

from infoplane import plots
from infoplane.plots._about import merged
from infoplane.plots._figure import CAPTION_LABEL
from infoplane.results import ResultTable

STEPS = synthetic.log_steps(12, 400)


def captions(figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(lambda a: a.get_label() == CAPTION_LABEL)]


def sizes(figure) -> set[tuple[float, float]]:
    figure.draw_without_rendering()
    boxes = [ax.get_position() for ax in figure.axes if ax.get_visible() and ax.get_label() != "<colorbar>"]
    return {(round(box.width, 4), round(box.height, 4)) for box in boxes}


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ([["N = 300"], ["N = 300"]], ["N = 300"]),
        ([["8 of 24 points saturated"], ["12 of 24 points saturated"]], ["8 to 12 of 24 points saturated"]),
        ([["9 %"], ["10.5 %"], ["0.2 %"]], ["0.2 to 10.5 % (a, b, c)"]),
        ([["in 1\u202f200"], ["in 900"]], ["in 900 to 1\u202f200"]),
        ([["x"], []], ["x (a)"]),
        ([["x"], ["x"], ["x"], []], ["x (3 of 4 panels)"]),
        ([["lost of layer4.1, seed-1"], ["lost of layer4.2, seed-1"]],
         ["lost of layer4.1, seed-1 (a)", "lost of layer4.2, seed-1 (b)"]),
        ([["a {b} 3"], ["a {b} 4"]], ["a {b} 3 to 4"]),
    ],
)  # fmt: skip
def test_captions_are_merged_into_one(parts, said):
    panels = dict(zip("abcd", parts, strict=False))
    found = merged(panels)
    assert found == [text.replace(" (a, b, c)", "") for text in said]


STYLES = ["column", "page", "screen"]
BY = ["layer", "run", "settings"]


@pytest.mark.parametrize(
    ("by", "style"),
    [
        pytest.param(by, style, marks=[] if BY.index(by) == STYLES.index(style) else pytest.mark.slow)
        for by, style in itertools.product(BY, STYLES)
    ],
)
def test_planes_are_of_one_size_under_one_caption(by, style):
    runs = [f"seed-{i}" for i in range(5)]
    if by == "settings":
        rows = [
            row for bins in (4, 8, 30) for row in synthetic.layer_rows(steps=STEPS, config={"n_bins": bins}, seed=bins)
        ]
        runs = ["a1b2c3"]
    else:
        rows = [r for i, run in enumerate(runs) for r in synthetic.layer_rows(run=run, steps=STEPS, seed=i)]
    table = ResultTable.from_rows(rows, synthetic.about_runs(*runs))
    figure = plots.plane_grid(table, by=by, style=style, **({"run": "seed-1"} if by == "layer" else {})).figure
    assert len(sizes(figure)) == 1
    (caption,) = captions(figure)
    assert "DPI violated in" in caption
    assert len([ax for ax in figure.axes if ax.get_title(loc="left")]) == {"layer": 6, "run": 5, "settings": 3}[by]


@pytest.fixture(scope="module")
def seeds() -> ResultTable:
    runs = [f"seed-{i}" for i in range(3)]
    rows = [r for i, run in enumerate(runs) for r in synthetic.layer_rows(run=run, steps=STEPS, seed=i)]
    config = {"n_bins": 8, "range": "layer"}
    more = [r for i in range(2) for r in synthetic.layer_rows(run=runs[i], steps=STEPS, seed=i, config=config)]
    return ResultTable.from_rows(rows + more, synthetic.about_runs(*runs))


def titles(figure) -> list[str]:
    return [text for ax in figure.axes if ax.get_visible() and (text := ax.get_title(loc="left"))]


@pytest.mark.parametrize("style", ["column", "page", "screen"])
def test_violations_have_a_panel_for_each_run_with_the_same_rows(seeds, style):
    ax = plots.dpi(seeds, style=style, slack=-1.0)
    figure = ax.figure
    assert len(sizes(figure)) == 1
    assert titles(figure) == ["seed-0", "seed-1", "seed-2"]
    data = plots.dpi_data(seeds, slack=-1.0)
    assert data.runs == ["seed-0", "seed-1", "seed-2", "seed-0", "seed-1"]
    assert dict.fromkeys(data.estimates) == dict.fromkeys(["binning, n_bins = 30", "binning, n_bins = 8"])
    counts = [t.get_text() for a in figure.axes for t in a.texts]
    assert counts == [
        f"{r.violations} of {r.pairs}, up to {r.worst:.2g} bits" for r in sorted(data.rows, key=lambda r: r.run)
    ]
    assert captions(figure)[0].count("binning, range = layer") == 1
    one = plots.dpi(seeds, run="seed-1", style=style)
    assert [bar.get_width() for bar in one.patches] == [100 * r.share for r in plots.dpi_data(seeds, run="seed-1").rows]


@pytest.mark.parametrize("style", ["column", "page", "screen"])
@pytest.mark.parametrize("run", [None, "seed-1"])
def test_counts_of_violations_stand_clear_of_the_bars(seeds, style, run):
    figure = plots.dpi(seeds, run=run, style=style, slack=-1.0).figure
    figure.draw_without_rendering()
    for ax in [ax for ax in figure.axes if ax.get_visible()]:
        texts, bars = ([artist.get_window_extent() for artist in of] for of in (ax.texts, ax.patches))
        assert texts
        assert not any(text.overlaps(bar) for text in texts for bar in bars)
    assert "·  all" not in captions(figure)[0]


def test_more_estimates_than_a_page_holds_are_refused(monkeypatch, seeds):
    monkeypatch.setattr(sys.modules["infoplane.plots.dpi"], "MAX_ROWS", 1)
    with pytest.raises(
        ValueError, match=r"5 estimates are more than a page holds; choose with estimator=\.\.\. or sub"
    ):
        plots.dpi(seeds)


@pytest.mark.parametrize("style", ["column", "page", "screen"])
def test_maps_share_their_size_and_colour_scale(seeds, style):
    figure = plots.heatmap(seeds, by="run", settings="n_bins=30", style=style).figure
    assert len(sizes(figure)) == 1
    assert titles(figure) == ["seed-0", "seed-1", "seed-2"]
    meshes = [mesh for ax in figure.axes if ax.get_label() != "<colorbar>" for mesh in ax.collections]
    assert len({mesh.get_clim() for mesh in meshes}) == 1
    (caption,) = captions(figure)
    assert "saturated (hatched)" in caption
    assert "run seed" not in caption


def test_maps_of_other_layers_are_no_panels_of_one_figure(seeds):
    rows = [row for row in seeds if row.run != "seed-1" or row.layer != "act2"]
    fewer = ResultTable.from_rows(rows, seeds.meta)
    with pytest.raises(ValueError, match="the panels of by='run' have not the same layers and steps"):
        plots.heatmap(fewer, by="run", settings="n_bins=30")
    with pytest.raises(ValueError, match="by must be estimator, run, subset or settings, got 'layer'"):
        plots.heatmap(seeds, by="layer")


@pytest.mark.parametrize(
    ("title", "style"),
    [
        (None, "column"),
        ("All seeds", "page"),
        *(
            pytest.param(*more, marks=pytest.mark.slow)
            for more in [("All seeds", "column"), (None, "page"), (None, "screen"), ("All seeds", "screen")]
        ),
    ],
)
def test_means_have_a_panel_for_each_layer_and_one_legend(seeds, style, title):
    groups = {"first": ["seed-0", "seed-1"], "last": "seed-2"}
    options = {"settings": "n_bins=30", "style": style, "title": title}
    figure = plots.compare(seeds, by="layer", groups=groups, **options).figure
    assert len(sizes(figure)) == 1
    assert titles(figure) == list(synthetic.LAYERS)
    assert len({(ax.get_xlim(), ax.get_ylim()) for ax in figure.axes if ax.get_visible()}) == 1
    (legend,) = figure.legends
    assert [text.get_text().partition(":")[0] for text in legend.get_texts()][:2] == ["first", "last"]
    assert legend.get_title().get_text() == (title or "")
    figure.draw_without_rendering()
    assert legend.get_window_extent().x1 <= figure.bbox.x1
    data = plots.compare_data(seeds, "I(X;T)", groups=groups, settings="n_bins=30")
    mean = data.groups[0].summaries["I(X;T)"].mean[:, 2]
    assert any(np.array_equal(line.get_ydata(), mean) for line in figure.axes[2].get_lines())
    with pytest.raises(ValueError, match="by='layer' makes a figure of curves of one quantity, got by='run'"):
        plots.compare(seeds, by="run")


def test_rows_of_panels_have_no_tick_marks_and_a_bar_is_no_thicker_beside_many(seeds):
    bars = []
    for runs in (["seed-0", "seed-1"], ["seed-0", "seed-1", "seed-2"]):
        figure = plots.heatmap(seeds.select(run=runs), by="run", settings="n_bins=30", style="column").figure
        figure.draw_without_rendering()
        (bar,) = [ax for ax in figure.axes if ax.get_label() == "<colorbar>"]
        bars.append(bar.get_window_extent().width)
        names = [ax.yaxis for ax in figure.axes if ax is not bar]
        assert {tick.tick1line.get_markersize() for axis in names for tick in axis.get_major_ticks()} == {0}
    assert bars[1] <= 1.2 * bars[0]
    bars = plots.dpi(seeds, slack=-1.0)
    assert {tick.tick1line.get_markersize() for tick in bars.yaxis.get_major_ticks()} == {0}


def test_a_subset_is_named_by_its_panel_alone():
    """Also where the caption says how the scale was chosen."""
    rows = [r for part in ("train", "test") for r in synthetic.layer_rows(steps=STEPS, subset=part)]
    about = synthetic.about_runs("a1b2c3")
    about["runs"]["a1b2c3"]["advice"] = [{"settings": [{"estimator": "binning", "config": rows[0].config}]}]
    figure = plots.plane_grid(ResultTable.from_rows(rows, about), by="subset").figure
    assert titles(figure) == ["train", "test"]
    (caption,) = captions(figure)
    assert "scale chosen by looking" in caption
    assert "N = 4096  ·" in caption
    assert "(train)" not in caption


def test_layers_that_say_nothing_have_no_name_in_a_panel(seeds):
    rows = [r._replace(value=r.ceiling, flags="saturated") if r.layer == "act1" and "null" not in r.quantity else r
            for r in seeds if '"n_bins":30' in r.config]  # fmt: skip
    figure = plots.plane_grid(ResultTable.from_rows(rows, seeds.meta), by="run").figure
    names = [text.get_text() for ax in figure.axes for text in ax.texts]
    assert [name for name in names if name in synthetic.LAYERS] == ["act2", "out"] * 3
    assert "saturated throughout: act1" in captions(figure)[0]


@pytest.mark.parametrize("kind", ["plane_grid", "heatmap"])
def test_a_table_without_estimates_has_no_panels(kind):
    table = ResultTable.from_rows(synthetic.metric_rows(steps=STEPS), synthetic.about_runs("a1b2c3"))
    with pytest.raises(ValueError, match="the table has no estimates"):
        plots.FIGURES[kind](table, by="run")


def test_planes_of_subsets_have_their_own_ceilings_and_sizes():
    """A part of the probe cannot reach the ceiling of the whole."""
    sizes_of = {"all": (4096, 12.0), "train": (1024, 10.0), "test": (512, 9.0)}
    rows = [
        row._replace(n_samples=n, ceiling=top if row.quantity == "I(X;T)" else row.ceiling, value=row.value * top / 12)
        for subset, (n, top) in sizes_of.items()
        for row in synthetic.layer_rows(steps=STEPS, subset=subset)
    ]
    meta = synthetic.about_runs("a1b2c3")
    meta["runs"]["a1b2c3"]["advice"] = [{"settings": [{"estimator": rows[0].estimator, "config": rows[0].config}]}]
    figure = plots.plane_grid(ResultTable.from_rows(rows, meta), by="subset").figure
    drawn = dict(zip(titles(figure), [ax for ax in figure.axes if ax.get_label() != "<colorbar>"], strict=True))
    for subset, (n, top) in sizes_of.items():
        upright = {float(line.get_xdata()[0]) for line in drawn[subset].lines if len(set(line.get_xdata())) == 1}
        assert top in upright, subset
        assert upright <= {top}, subset
        assert f"log₂ N = {np.log2(n):.3g}" in [text.get_text() for text in drawn[subset].texts], subset
    (caption,) = captions(figure)
    assert "scale chosen by looking" in caption
    assert "N = 512 to 4" in caption.replace("\n", " ")
    assert "(train)" not in caption


def test_a_ceiling_that_differs_in_its_last_bit_is_named_once(seeds):
    rows = [r._replace(ceiling=np.nextafter(r.ceiling, 0)) if r.run == "seed-1" else r for r in seeds]
    rows = [r for r in rows if '"n_bins":30' in r.config and r.run != "seed-2"]
    figure = plots.plane_grid(ResultTable.from_rows(rows, seeds.meta), by="run").figure
    texts = [text.get_text() for ax in figure.axes for text in ax.texts]
    assert [text for text in texts if text.startswith(("H(Y)", "log"))] == ["log₂ N = 12", "H(Y) = 0.999"]
