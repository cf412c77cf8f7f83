"""What a person may choose of a figure, and what becomes of it in axes of their own."""

from __future__ import annotations

import io

import matplotlib as mpl
import numpy as np
import pytest
import synthetic
from matplotlib.artist import Artist
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

from infoplane import plots
from infoplane.core.palette import VIRIDIS, along, block_colors, layer_colors, places_in_blocks
from infoplane.plots._layers import gid_of
from infoplane.plots.style import MARKERS, text_color
from infoplane.results import ResultTable
from infoplane.results.limits import axis_limits

STEPS = [0, 1, 10, 100, 1000]
BY_LAYER = {"plane": {"by": "layer"}}
"""Options with which the layers of a figure have colours."""


@pytest.fixture(scope="module")
def table() -> ResultTable:
    return synthetic.table(steps=STEPS)


def drawn_by(figure, layer: str) -> list[Artist]:
    return [a for a in figure.findobj(Artist) if str(a.get_gid() or "").startswith(gid_of(layer, ""))]


def color_of(artist) -> str:
    found = artist.get_facecolor() if hasattr(artist, "get_facecolor") else artist.get_color()
    return to_hex(np.atleast_2d(mpl.colors.to_rgba_array(found))[0, :3])


@pytest.mark.parametrize("kind", ["curves", "compare", "plane", "snr"])
def test_colours_markers_and_names_are_those_asked_for(kind, table):
    how = {"colors": {"act3": "#ff0000"}, "markers": {"act3": "*"}, "labels": {"act3": "third", "out": "last"}}
    ax = plots.FIGURES[kind](table, **how, **BY_LAYER.get(kind, {}))
    ours = drawn_by(ax.figure, "act3")
    names = [a for a in ours if isinstance(a, Text) and a.get_text()]
    assert {a.get_text() for a in names} == {"third"}
    assert {color_of(a) for a in ours if not isinstance(a, Text)} <= {"#ff0000", "#ffffff"}
    assert {"third", "last", "act1"} <= {t.get_text() for t in ax.figure.findobj(Text)}
    assert {to_hex(a.get_color()) for a in names} == {to_hex(text_color("#ff0000"))}


def test_looks_in_order_and_looks_that_fit_nothing(table):
    ax = plots.curves(table, quantity="I(X;T)", colors=["k", "r", "b", "g", "c", "m"], labels=list("uvwxyz"))
    assert [t.get_text() for t in ax.texts if t.get_text() in "uvwxyz"] == list("uvwxyz")
    assert color_of(drawn_by(ax.figure, "act2")[0]) == "#ff0000"
    with pytest.raises(ValueError, match="colors has 2 entries for 6: act1, act2, act3, act4, act5, out"):
        plots.curves(table, colors=["k", "r"])
    with pytest.raises(ValueError, match="labels names 'akt3', which is not drawn; closest: act3; available: act1"):
        plots.plane(table, labels={"akt3": "third"})
    with pytest.raises(ValueError, match="no colour map 'viridi'; closest: viridis"):
        plots.plane(table, cmap="viridi")


def test_the_map_of_the_steps_and_the_bar_are_chosen(table):
    ax = plots.plane(table, cmap="cividis", colorbar=False, legend=False, title="One run")
    assert len(ax.figure.axes) == 1
    (lines,) = [c for c in ax.collections if isinstance(c, LineCollection)]
    assert to_hex(lines.get_colors()[0]) == to_hex(mpl.colormaps["cividis"](0.0))
    assert ax.figure.get_suptitle() == "One run"
    assert plots.heatmap(table, cmap="magma").collections[0].get_cmap().name == "magma"
    inside = plots.curves(table, quantity="I(T;Y)", legend="lower right").get_legend()
    assert inside._loc == mpl.legend.Legend.codes["lower right"]


@pytest.mark.parametrize("kind", ["plane", "curves", "compare", "snr"])
def test_a_layer_is_recoloured_with_all_that_is_its_own(kind, table):
    ax = plots.FIGURES[kind](table, **BY_LAYER.get(kind, {}))
    others = [color_of(a) for a in drawn_by(ax.figure, "act4")]
    plots.recolor(ax, "act3", "#123456")
    ours = drawn_by(ax.figure, "act3")
    parts = {str(a.get_gid()).rpartition(":")[2] for a in ours}
    assert {"mean", "name"} <= parts
    assert "band" in parts or kind in ("plane", "snr", "compare")
    assert {color_of(a) for a in ours if not isinstance(a, Text)} <= {"#123456", "#ffffff"}
    assert all(a.get_alpha() is None or a.get_alpha() < 1 for a in ours if isinstance(a, PolyCollection))
    assert [color_of(a) for a in drawn_by(ax.figure, "act4")] == others
    with pytest.raises(ValueError, match="the figure draws no 'act33'; closest: act3; available: act1, act2"):
        plots.recolor(ax.figure, "act33", "k")


def test_ids_stand_in_the_file(table, tmp_path):
    svg = plots.save(plots.curves(table), tmp_path / "curves.svg").read_text()
    assert 'id="infoplane:act3:mean"' in svg
    assert 'id="infoplane:act3:band"' in svg


def test_a_figure_saved_by_matplotlib_keeps_text_as_text(table):
    out = io.BytesIO()
    plots.plane(table).figure.savefig(out, format="pdf")
    assert b"/CIDFontType2" in out.getvalue()
    assert b"/Type3" not in out.getvalue()


# Without a caption


def test_without_a_caption_the_axes_say_estimator_and_scale(table):
    said = "binning, n_bins = 30, range = layer"
    assert plots.plane(table, caption=False).get_xlabel() == f"I(X;T) [bits]\n{said}"
    for kind in ("curves", "compare", "null", "heatmap", "compression"):
        figure = plots.FIGURES[kind](table, caption=False).figure
        labels = [label() for ax in figure.axes for label in (ax.get_xlabel, ax.get_ylabel)]
        assert any(said in label.replace("\n", " ") for label in labels), kind
        assert not any("N = 4096" in t.get_text() for t in figure.findobj(Text) if t.get_visible())
        assert plots.caption(figure).startswith(f"{said} · N = 4096")
    assert plots.caption(plots.plane(table)) == plots.caption(plots.plane(table, caption=False))


# In the caller's axes

IN_AXES = {"curves": {"quantity": "I(T;Y)"}, "compare": {"quantity": "I(T;Y)"}, "plane": {"by": "layer"}}


@pytest.mark.parametrize("kind", ["plane", "curves", "compare", "null", "compression", "snr"])
def test_nothing_covers_a_title(kind, table):
    figure = Figure(figsize=(5, 4), layout="constrained")
    ax = figure.subplots()
    ax.set_title("mine", loc="left")
    plots.FIGURES[kind](table, ax=ax, **IN_AXES.get(kind, {}))
    figure.draw_without_rendering()
    title = ax.title if ax.title.get_text() else ax._left_title
    for text in [*ax.texts, *(ax.get_legend().get_texts() if ax.get_legend() else [])]:
        assert not text.get_window_extent().overlaps(title.get_window_extent()), text.get_text()


@pytest.mark.parametrize("layout", ["constrained", "tight", None])
def test_a_colour_bar_stays_with_its_axes(layout, table):
    figure = Figure(figsize=(8, 3), layout=layout)
    ax = figure.subplots()
    plots.plane(table, ax=ax)
    ax.set_box_aspect(1)
    figure.draw_without_rendering()
    bar = [*ax.child_axes, *figure.axes[1:]][0].get_window_extent()
    assert 0 <= bar.x0 - ax.get_window_extent().x1 <= 0.1 * figure.bbox.width
    assert bar.height == pytest.approx(ax.get_window_extent().height, rel=0.1)


def test_several_panels_take_as_many_axes(table):
    left, right = Figure(figsize=(8, 4)).subplots(1, 2)
    assert plots.curves(table, ax=[left, right], title="mine") is left
    assert [a.get_ylabel() for a in (left, right)] == ["I(X;T) [bits]", "I(T;Y) [bits]"]
    assert left.get_title() == "mine"
    with pytest.raises(ValueError, match="this figure has 2 panels, so ax must be as many axes; got 1"):
        plots.curves(table, ax=[left])


# Limits


def flat(value: float, fall: float = 2e-5) -> ResultTable:
    rows = synthetic.layer_rows(steps=STEPS, null=False)
    return ResultTable.from_rows(
        row._replace(value=value - fall * (row.step > 5), low=np.nan, high=np.nan, flags="") for row in rows
    )


@pytest.mark.parametrize(("value", "quantity"), [(0.9, "I(T;Y)"), (11.9, "I(X;T)"), (0.0, "I(T;Y)")])
def test_a_fall_of_a_hundred_thousandth_of_a_bit_looks_flat(value, quantity):
    ax = plots.curves(flat(value), quantity=quantity)
    low, high = ax.get_ylim()
    assert high - low >= max(0.05, 0.02 * (12 if quantity == "I(X;T)" else synthetic.H_Y))
    ax.figure.draw_without_rendering()
    assert ax.yaxis.get_offset_text().get_text() == ""
    bar = plots.heatmap(flat(value), quantity=quantity).collections[0].get_clim()
    assert bar[1] - bar[0] >= 0.05


def test_ticks_say_their_whole_value(table):
    rows = [row._replace(value=1e4 + row.value / 100) for row in table if row.quantity == "I(X;T)"]
    ax = plots.curves(ResultTable.from_rows(row._replace(unit="units", ceiling=np.nan, flags="") for row in rows))
    ax.figure.draw_without_rendering()
    assert ax.yaxis.get_offset_text().get_text() == ""
    assert all(float(t.get_text().replace("−", "-")) > 9000 for t in ax.get_yticklabels() if t.get_text())


@pytest.mark.parametrize("wide", [0.3, 3.0])
def test_limits_hold_the_bands_which_stop_at_the_ceiling(wide, table):
    rows = [
        row._replace(low=row.value - wide, high=row.value + wide) if row.quantity == "I(T;Y)" else row for row in table
    ]
    ax = plots.curves(ResultTable.from_rows(rows), quantity="I(T;Y)")
    bands = [c.get_datalim(ax.transData) for c in ax.collections if isinstance(c, PolyCollection)]
    low, high = ax.get_ylim()
    assert low < min(b.y0 for b in bands) and max(b.y1 for b in bands) < high  # noqa: PT018
    assert max(b.y1 for b in bands) <= max(synthetic.H_Y, max(r.value for r in rows if r.quantity == "I(T;Y)")) + 1e-9


def test_limits_by_hand():
    assert axis_limits(np.array([0.0, 1.0]), 1.0) == pytest.approx((-0.05, 1.1))
    assert axis_limits(np.array([0.1, 1.0]), 12.0) == pytest.approx((-0.05, 1.1))  # begins near 0, so at 0
    low, high = axis_limits(np.array([9.0, 9.0]), 10.0)
    assert high - low == pytest.approx(1.15 * 0.2)
    assert axis_limits(np.array([0.01]))[0] == pytest.approx(-0.0025)  # no room below 0 but for the pad
    assert axis_limits(np.array([3.0, 3.03]), unit="dimensions")[1] < 3.1
    assert axis_limits(np.array([np.nan]))[1] > 1


def test_means_are_marked_where_a_run_is_saturated_or_no_better_than_chance():
    runs = ("seed-0", "seed-1")
    rows = [row for i, run in enumerate(runs) for row in synthetic.layer_rows(run=run, seed=i, steps=STEPS)]
    rows = [row._replace(flags="below_null") if (row.quantity, row.step) == ("I(T;Y)", 1) else row for row in rows]
    both = ResultTable.from_rows(rows, synthetic.about_runs(*runs))
    caption = plots.compare_data(both).caption
    assert "5 of 30 points of I(X;T) saturated in some run (hollow)" in caption
    assert "6 of 30 points of I(T;Y) no more than chance in some run (crossed)" in caption
    ax = plots.compare(both, quantity="I(X;T)")
    hollow = [line for line in drawn_by(ax.figure, "act1") if getattr(line, "get_markerfacecolor", str)() == "white"]
    assert sum(len(line.get_xdata()) for line in hollow) == 5
    crossed = [line for line in plots.compare(both, quantity="I(T;Y)").lines if line.get_marker() == "x"]
    assert {x for line in crossed for x in line.get_xdata()} == {1}


# Planes


@pytest.mark.parametrize("style", ["column", "page", "screen"])
@pytest.mark.parametrize("by", ["step", "layer"])
def test_names_stand_on_no_point(style, by, table):
    ax = plots.plane(table, style=style, by=by)
    ax.figure.draw_without_rendering()
    points = ax.transData.transform(plots.plane_data(table).points)
    for text in ax.texts:
        if text.get_text() in synthetic.LAYERS:
            box = Text.get_window_extent(text)
            assert not any(box.contains(x, y) for x, y in points), text.get_text()


@pytest.mark.parametrize("by", ["step", "layer"])
def test_a_last_step_stands_above_every_first_one(by, table):
    ax = plots.plane(table, by=by)
    last = [a for a in ax.get_children() if str(a.get_gid()).endswith(":last")]
    rest = [a for a in ax.get_children() if str(a.get_gid()).endswith((":points", ":first"))]
    assert len(last) == 6
    assert min(a.get_zorder() for a in last) > max(a.get_zorder() for a in rest)


def test_hollow_means_saturated_in_a_plane_by_layer(table):
    ax = plots.plane(table, by="layer")
    white = {a.get_gid() for a in ax.lines if a.get_marker() in "os" and to_hex(a.get_markerfacecolor()) == "#ffffff"}
    assert white == {"infoplane:act1:first", "infoplane:act1:last"}
    (points,) = [c for c in ax.collections if c.get_gid() == "infoplane:act1:points"]
    assert np.allclose(points.get_facecolor()[:, :3], 1)


@pytest.mark.parametrize("by", ["step", "layer"])
def test_layers_that_are_saturated_throughout_are_one_line(by, table):
    dead = [row._replace(flags="saturated") if row.layer in ("act1", "act2") else row for row in table]
    ax = plots.plane(ResultTable.from_rows(dead), by=by)
    assert "saturated throughout: act1, act2" in [t.get_text() for t in ax.get_legend().get_texts()]
    assert not {"act1", "act2"} & {t.get_text() for t in ax.texts}
    marks = [a for a in drawn_by(ax.figure, "act2") if str(a.get_gid()).rpartition(":")[2] in ("points", "last")]
    assert len(marks) == 1
    assert plots.plane_data(ResultTable.from_rows(dead)).present.sum() == 30


# Palettes


def test_layers_share_no_colour_with_the_steps():
    steps = [to_rgb(along(VIRIDIS, share)) for share in np.linspace(0, 1, 60)]
    for color in layer_colors(12)[1:]:
        assert min(np.abs(np.subtract(to_rgb(color), step)).max() for step in steps) > 0.1


def test_markers_are_twenty_and_blocks_share_a_colour():
    assert len({str(m.vertices.tolist()) if hasattr(m, "vertices") else m for m in MARKERS}) == len(MARKERS) == 20
    few = [f"layer{i}" for i in range(20)]
    assert places_in_blocks(few) == list(range(20))
    assert len(set(block_colors(few))) == 20
    many = [
        f"layer{stage}.{block}.{part}" for stage in range(1, 5) for block in range(6) for part in ("conv1", "conv2")
    ]
    colors = dict(zip(many, block_colors(many), strict=True))
    assert colors["layer2.1.conv1"] == colors["layer2.5.conv2"] != colors["layer3.1.conv1"]
    pairs = list(zip(block_colors(many), places_in_blocks(many), strict=True))
    assert len(set(pairs)) == len(many)
    assert len(set(block_colors([f"h{i}" for i in range(60)]))) == 20


def test_a_grid_takes_axes_and_gives_them_its_titles(table):
    axes = list(Figure(figsize=(8, 5)).subplots(2, 3).flat)
    assert plots.plane_grid(table, ax=axes) is axes[0]
    assert [ax.get_title() for ax in axes] == list(synthetic.LAYERS)


def test_a_caption_says_that_the_scale_was_chosen_by_looking(table):
    config = table.select(estimator="binning").settings[0]
    about = {"settings": [{"estimator": "binning", "config": config}]}
    meta = {"runs": {"a1b2c3": {**table.meta["runs"]["a1b2c3"], "advice": [about]}}}
    advised = ResultTable.from_rows(table, meta)
    assert "scale chosen by looking" in plots.caption(plots.plane(advised))
    assert "scale chosen by looking" in plots.caption(plots.dpi(advised))
    assert "looking" not in plots.caption(plots.plane(table))
