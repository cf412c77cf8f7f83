"""The report in headless Chromium: it loads from disk, asks nobody, and does what the page offers."""

from __future__ import annotations

import csv
import io
import re
from xml.etree import ElementTree

import chromium
import numpy as np
import pytest
import report_table
from chromium import Opened

from infoplane import _watch, plots
from infoplane.plots._figure import DEFAULTS, Options
from infoplane.plots.animation import Film
from infoplane.report import write_report
from infoplane.report.doubts import PLAIN_FLAGS
from infoplane.results import ResultTable

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser():
    pytest.importorskip("playwright.sync_api", reason="needs the extra 'browser' (playwright)")
    if chromium.found() is None:
        pytest.skip("no Chromium on the PATH")
    with chromium.launched() as launched:
        yield launched


@pytest.fixture(scope="module")
def source():
    return report_table.table()


@pytest.fixture(scope="module")
def path(source, tmp_path_factory):
    return write_report(source, tmp_path_factory.mktemp("report") / "report.html")


@pytest.fixture
def opened(browser, path):
    one = Opened(browser, path)
    yield one
    one.page.close()


def values(source, quantity, step, run="first", n_bins=30):
    return source.select(quantity=quantity, step=step, run=run, config=f"*{n_bins}*")["value"].tolist()


def test_loads_from_disk_without_errors_or_network(opened, path):
    assert opened.said == []
    assert opened.asked == [path.as_uri()]
    assert opened.page.title() == "Information plane"
    first = opened.page.locator("main section").first
    assert first.get_attribute("id") == "warnings"
    assert "its ceiling" in first.text_content()


def test_the_slider_moves_the_points(opened, source):
    opened.slide(0)
    assert opened.page.text_content("#now") == "step 0"
    assert opened.points() == 2 * 3
    assert opened.now()["x"] == pytest.approx(values(source, "I(X;T)", 0), rel=1e-6)
    opened.slide(3)
    assert opened.page.text_content("#now") == "step 100, epoch 10"
    assert opened.points() == 2 * 3 * 4
    assert opened.now()["y"] == pytest.approx(values(source, "I(T;Y)", 100), rel=1e-6)


def test_keys_move_the_slider(opened):
    opened.slide(0)
    opened.page.focus("#step")
    opened.page.keyboard.press("ArrowRight")
    opened.page.wait_for_timeout(300)
    assert opened.page.text_content("#now") == "step 1, epoch 0.1"


def test_play_runs_to_the_end_and_can_be_paused(opened):
    opened.slide(0)
    opened.page.click("#play")
    assert opened.page.get_attribute("#play", "aria-label") == "Pause"
    opened.page.click("#play")
    assert opened.page.get_attribute("#play", "aria-label") == "Play"
    opened.page.click("#play")
    opened.page.wait_for_selector("#play[aria-label=Play]", timeout=60_000)
    assert opened.page.text_content("#now").startswith("step 1000")


def test_toggles_hide_layers_and_runs(opened):
    opened.slide(4)
    assert opened.points() == 2 * 3 * 5
    opened.page.uncheck("#layers input[data-index='1']")
    assert opened.points() == 2 * 2 * 5
    assert len(opened.now()["x"]) == 2
    opened.page.uncheck("#runs input[data-index='1']")
    assert opened.points() == 2 * 5
    opened.page.check("#layers input[data-index='1']")
    assert opened.points() == 3 * 5


def test_estimates_can_be_switched(opened, source):
    opened.slide(2)
    opened.page.select_option("#estimate", label="binning, n_bins = 60")
    assert opened.page.text_content("#now").startswith("step 10")
    assert opened.now()["x"] == pytest.approx(values(source, "I(X;T)", 10, n_bins=60), rel=1e-6)
    assert opened.page.text_content("#caption").startswith("binning, n_bins = 60. N = 4096.")


def test_paths_can_be_shown_instead_of_lines_per_step(opened):
    opened.page.select_option("#mode", "layers")
    modes = opened.page.evaluate("document.getElementById('plane').data.map((t) => t.mode)")
    assert modes.count("lines+markers") == 2 * 3 + 2  # paths and the current lines
    opened.page.select_option("#axis", "linear")
    opened.page.select_option("#quantity", "I(X;T)")
    assert opened.page.evaluate("document.getElementById('curves').layout.yaxis.title.text") == "I(X;T) [bits]"
    assert opened.said == []


def test_hover_shows_the_value_in_the_table(opened, source):
    opened.slide(3)
    opened.page.uncheck("#runs input[data-index='1']")
    spot = opened.page.evaluate(
        "(() => { const g = document.getElementById('plane'), l = g._fullLayout, b = g.getBoundingClientRect(),"
        " t = g.data.find((t) => (t.name || '').startsWith('now'));"
        " return [b.left + l.xaxis._offset + l.xaxis.l2p(t.x[2]), b.top + l.yaxis._offset + l.yaxis.l2p(t.y[2])]; })()"
    )
    opened.page.mouse.move(spot[0] - 30, spot[1] - 30)
    opened.page.mouse.move(*spot, steps=4)
    opened.page.wait_for_selector("#plane .hoverlayer .hovertext", timeout=10_000)
    said = " ".join(opened.page.locator("#plane .hoverlayer .hovertext").all_text_contents())
    xt = source.select(quantity="I(X;T)", step=100, run="first", layer="out", config="*30*")["value"][0]
    ty = source.select(quantity="I(T;Y)", step=100, run="first", layer="out", config="*30*")["value"][0]
    assert f"I(X;T) = {xt:.5g} bits, ceiling 12" in said
    assert f"I(T;Y) = {ty:.5g} bits [{ty - 0.01:.5g}, {ty + 0.01:.5g}], ceiling 0.99916" in said
    assert "I(T;Y) null = 0.1 bits [0.08, 0.12]" in said
    assert "out" in said
    assert "run first" in said
    assert "step 100, epoch 10" in said


def test_the_cursor_stands_at_the_step_in_both_panels(opened):
    opened.slide(2)
    places = []
    for panel in ("curves", "metrics"):
        places.append(opened.page.evaluate(
            "(id) => { const g = document.getElementById(id), l = g._fullLayout;"
            " const left = parseFloat(g.querySelector('.cursor').style.left);"
            " const tick = l.xaxis.tickvals[l.xaxis.ticktext.indexOf('10')];"
            " return [left - l.xaxis._offset, l.xaxis.l2p(tick)]; }",
            panel))  # fmt: skip
    for found, wanted in places:
        assert found == pytest.approx(wanted, abs=0.5)


def test_names_from_strangers_do_nothing(browser, tmp_path):
    names = ("</script><script>window.hacked=1</script>", "<img src=x onerror='window.hacked=1'>",
             "<a href='javascript:window.hacked=1'>x</a>", "\x00\u202e$x$")  # fmt: skip
    every = report_table.rows(layers=names, run="<b>run</b>") + [
        row._replace(quantity="<i>loss</i>") for row in report_table.metric_rows(run="<b>run</b>")[:1]
    ]
    table = ResultTable.from_rows(every, report_table.meta("<b>run</b>", layers=names))
    opened = Opened(browser, write_report(table, tmp_path / "report.html", title="<script>window.hacked=1</script>"))
    labels = opened.page.locator("#layers label").all_text_contents()
    assert labels[:3] == list(names[:3])
    assert labels[3] == "\\x00\\u202e$x$"
    opened.slide(1)
    assert opened.page.evaluate("window.hacked") is None
    assert opened.page.locator("#plane a[href], #metrics i, #layers img").count() == 0
    assert opened.said == []
    assert len(opened.asked) == 1
    opened.page.close()


def test_ten_layers_a_thousand_steps_and_four_settings_stay_usable(browser, tmp_path):
    layers, steps = tuple(f"layer{i}" for i in range(10)), tuple(range(0, 2000, 2))
    every = [row for n in (10, 20, 30, 60) for row in report_table.rows(layers=layers, steps=steps, n_bins=n)]
    table = ResultTable.from_rows(every, report_table.meta("first", layers=layers))
    opened = Opened(browser, write_report(table, tmp_path / "report.html"))
    opened.slide(700)
    assert opened.page.text_content("#now") == "step 1400, epoch 140"
    assert opened.now()["x"] == pytest.approx(values(table, "I(X;T)", 1400, n_bins=10), rel=1e-6)
    # The trail is thinned and says so; the current line is exact at every step.
    assert opened.points() <= 10 * 120
    assert "at most 120 of 1000 snapshots" in opened.page.text_content("#caption")
    assert opened.said == []
    opened.page.close()


LONG = "encoder.layers.11.self_attention.output.dense_with_a_long_name"
CROWDED = {
    "two runs": lambda: report_table.rows() + report_table.rows(run="second"),
    "one layer": lambda: report_table.rows(layers=("a",)),
    "three runs": lambda: three(),
    "twelve layers": lambda: report_table.rows(layers=tuple(f"{LONG}.{i}" for i in range(12))),
    "many doubts": lambda: [
        row._replace(flags=";".join(PLAIN_FLAGS), bound="upper") for row in three(n_bins=60) + three()
    ],
}


def three(**how):
    return [row for run in "abc" for row in report_table.rows(run=run, **how) + report_table.metric_rows(run=run)]


def test_ten_layers_stand_in_full_on_a_narrow_page(browser, tmp_path):
    names = ["stem", *(f"stages.{i // 2}.{i % 2}" for i in range(8)), "fc"]
    table = ResultTable.from_rows(report_table.rows(layers=names))
    opened = Opened(browser, write_report(table, tmp_path / "report.html"), viewport={"width": 390, "height": 844})
    cut = "Math.max(...[...document.querySelectorAll('fieldset')].map((f) => f.scrollHeight - f.clientHeight))"
    assert opened.page.evaluate(cut) <= 0
    opened.page.close()


@pytest.mark.parametrize("size", [(1280, 800), (390, 844)], ids=lambda size: str(size[0]))
@pytest.mark.parametrize("what", CROWDED)
def test_plane_and_controls_are_in_the_first_screen(browser, tmp_path, what, size):
    table = ResultTable.from_rows(CROWDED[what]())
    viewport = {"width": size[0], "height": size[1]}
    opened = Opened(browser, write_report(table, tmp_path / "report.html"), viewport=viewport)
    opened.check_first_screen()
    for summary in opened.page.locator("#warnings summary").all():  # every doubt opened, too
        summary.click()
    opened.page.click("#theme")
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= size[0]
    assert opened.said == []
    opened.page.close()


def rgb(text: str) -> float:
    """The mean channel of a colour in CSS."""
    return sum(map(float, re.findall("[0-9.]+", text)[:3])) / 3


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_light_or_dark_as_the_reader_asks(browser, path, scheme):
    opened = Opened(browser, path, color_scheme=scheme)

    def looks():
        return opened.page.evaluate(
            "(() => { const s = getComputedStyle(document.body), p = document.getElementById('plane');"
            " return [s.color, s.backgroundColor, p.layout.paper_bgcolor, p.layout.font.color,"
            " ...p.data.filter((t) => t.mode === 'lines').map((t) => t.line.color),"
            " ...document.getElementById('curves').data.filter((t) => t.hoverinfo === 'text')"
            ".map((t) => t.line.color)]; })()"
        )

    def hex_or_rgb(text):
        return sum(int(text[k : k + 2], 16) for k in (1, 3, 5)) / 3 if text.startswith("#") else rgb(text)

    for dark in (scheme == "dark", scheme != "dark"):
        ink, page, paper, font, *lines = looks()
        assert (rgb(page) < 60) == dark
        assert (rgb(ink) < 60) != dark
        assert (paper, font) == (page, ink)
        assert all(abs(hex_or_rgb(line) - rgb(page)) > 40 for line in lines)
        opened.page.click("#theme")
    assert opened.said == []
    opened.page.close()


def test_the_data_shown_can_be_saved(opened, source):
    opened.page.uncheck("#layers input[data-index='1']")
    opened.page.uncheck("#runs input[data-index='1']")
    found = list(csv.DictReader(io.StringIO(opened.saved("data"))))
    assert {row["layer"] for row in found} == {"act1", "out"}
    assert {row["run"] for row in found} == {"first"}
    for quantity in ("I(X;T)", "I(T;Y)", "I(T;Y) null"):
        want = source.select(run="first", layer=["act1", "out"], quantity=quantity, config="*30*")
        mine = {(row["layer"], int(row["step"])): row for row in found if row["quantity"] == quantity}
        assert len(mine) == len(want) == 10
        for row in want:
            one = mine[row.layer, row.step]
            assert float(one["value"]) == pytest.approx(row.value, rel=1e-6)
            assert float(one["ceiling"]) == pytest.approx(row.ceiling, rel=1e-6)
            assert one["flags"] == row.flags
            assert (one["low"] == "") == (row.low != row.low)
    assert opened.said == []
    assert len(opened.asked) == 1


def test_names_are_no_formulas_in_a_saved_table(browser, tmp_path):
    table = ResultTable.from_rows(report_table.rows(layers=("=1+1", 'a,"b"', "c")))
    opened = Opened(browser, write_report(table, tmp_path / "report.html"))
    assert {row["layer"] for row in csv.DictReader(io.StringIO(opened.saved("data")))} == {"'=1+1", 'a,"b"', "c"}
    opened.page.close()


def marks(svg: str, kind: str) -> int:
    """Elements of a class in a saved figure; it must be well-formed."""
    return sum(kind in (element.get("class") or "").split() for element in ElementTree.fromstring(svg).iter())


def test_the_figures_can_be_saved(opened):
    plane, curves, metrics = (opened.saved(panel) for panel in ("plane", "curves", "metrics"))
    assert marks(plane, "point") >= 2 * 3 * 5 + 2 * 3
    for words in ("I(X;T) [bits]", "I(T;Y) [bits]", "act1, first", "out, second", "binning, n_bins = 30", "N = 4096"):
        assert words in plane
    assert "H(Y) = 0.99916" in curves
    assert marks(curves, "js-line") >= 2 * 3
    assert "accuracy" in metrics
    assert not re.search("<script|https?://(?!www.w3.org)", plane + curves + metrics)
    assert opened.said == []
    assert len(opened.asked) == 1


def test_of_three_runs_the_mean_is_shown_first(browser, tmp_path):
    table = ResultTable.from_rows(three(), report_table.meta("a", "b", "c"))
    opened = Opened(browser, write_report(table, tmp_path / "report.html"))
    means = [sum(values(table, "I(X;T)", 10, run)[k] for run in "abc") / 3 for k in range(3)]
    opened.slide(2)
    assert opened.points() == 3 * 3
    assert opened.now()["x"] == pytest.approx(means, rel=1e-6)
    bands = "document.getElementById('curves').data.filter((t) => t.fill === 'toself').map((t) => t.opacity)"
    assert opened.page.evaluate(bands) == [0.18, 0.1] * 3  # the mean's, and that of shuffled labels
    assert opened.page.evaluate("document.getElementById('metrics').data.filter((t) => t.fill).length") == 2
    labels = opened.page.locator("#runs label").all_text_contents()
    assert labels == ["mean and band", "a", "b", "c"]
    dashes = opened.page.locator("#runs svg path").evaluate_all(
        "all => all.map((p) => p.getAttribute('stroke-dasharray'))"
    )
    assert len(set(dashes)) == 4
    opened.page.check("#runs input[data-index='1']")
    assert opened.points() == 2 * 3 * 3
    opened.page.uncheck("#runs input[data-index='mean']")
    assert opened.points() == 3 * 3
    assert opened.now()["x"] == pytest.approx(values(table, "I(X;T)", 10, "b"), rel=1e-6)
    drawn = opened.page.evaluate(
        "document.getElementById('curves').data.filter((t) => t.hoverinfo === 'text').map((t) => t.line.dash)"
    )
    assert {dash.replace("px", "") for dash in drawn} == {dashes[2]}
    opened.page.uncheck("#runs input[data-index='1']")
    assert opened.page.text_content("#no-plane") == "No run is chosen."
    assert opened.said == []
    opened.page.close()


def test_an_estimate_without_a_plane_says_so(browser, tmp_path):
    every = report_table.rows() + [r for r in report_table.rows(n_bins=5, run="second") if r.quantity == "I(X;T)"]
    opened = Opened(browser, write_report(ResultTable.from_rows(every), tmp_path / "report.html"))
    assert opened.page.is_hidden("#no-plane")
    assert opened.page.is_disabled("#runs input[data-index='1']")
    opened.page.select_option("#estimate", label="binning, n_bins = 5")
    assert "gives no pair of I(X;T) and I(T;Y)" in opened.page.text_content("#no-plane")
    assert opened.page.is_hidden("#plane")
    opened.slide(1)
    opened.page.select_option("#estimate", label="binning, n_bins = 30")
    assert opened.page.is_visible("#plane")
    assert opened.points() == 3 * 2
    assert opened.said == []
    opened.page.close()


NAN = float("nan")
POOR = {
    "one step": report_table.rows(steps=(7,)),
    "no number": [r._replace(value=NAN, low=NAN, high=NAN, flags="nonfinite") for r in report_table.rows()],
    "no Shannon information": [
        r._replace(quantity="RankMe", unit="dimensions", ceiling=NAN)
        for r in report_table.rows() if r.quantity == "I(X;T)"
    ],
}  # fmt: skip


@pytest.mark.parametrize("what", POOR)
def test_poor_tables_are_shown_without_errors(browser, tmp_path, what):
    opened = Opened(browser, write_report(ResultTable.from_rows(POOR[what]), tmp_path / "report.html"))
    opened.page.select_option("#axis", "log")
    opened.page.select_option("#mode", "layers")
    opened.page.click("#play")
    opened.saved("data")
    opened.saved("curves")
    assert opened.said == []
    opened.page.close()


def test_a_fall_of_no_consequence_looks_flat(browser, tmp_path):
    """Axes span the larger of 0.05 bit and 2 % of the ceiling."""
    still = [
        r._replace(value=6 - 2e-5 * r.step / 1000, low=float("nan"), high=float("nan")) if r.quantity == "I(X;T)"
        else r._replace(value=0.5, low=float("nan"), high=float("nan"))
        for r in report_table.rows(layers=("a",)) if r.quantity != "I(T;Y) null"
    ]  # fmt: skip
    opened = Opened(browser, write_report(ResultTable.from_rows(still), tmp_path / "report.html"))
    spans = opened.page.evaluate(
        "['xaxis', 'yaxis'].map((a) => document.getElementById('plane').layout[a].range).map((r) => r[1] - r[0])"
    )
    assert spans[0] >= 0.02 * 12
    assert spans[1] >= 0.05
    assert opened.page.evaluate("document.getElementById('curves').layout.yaxis.exponentformat") == "none"
    opened.page.close()


def test_the_time_axis_is_logarithmic_beyond_two_decades_as_in_the_figures(browser, tmp_path):
    for last, want in ((100, "linear"), (101, "log")):
        table = ResultTable.from_rows(report_table.rows(steps=(0, 1, last)))
        opened = Opened(browser, write_report(table, tmp_path / "report.html"))
        assert opened.page.input_value("#axis") == want
        opened.page.close()


def uneven(scale: int, **fields):
    """Rows whose values lie anywhere below, at and beyond a ceiling, or nowhere."""
    rng = np.random.default_rng(scale)
    start, span = rng.choice([-0.2, 0, 0.3, 5, 11.9]), rng.choice([1e-6, 0.01, 0.3, 3, 9])
    out = []
    for row in report_table.rows(n_bins=scale, steps=range(12), layers=("a", "b"), **fields):
        share = row.ceiling / 12
        value = share * (start + span * rng.random()) if rng.random() < 0.95 else float("nan")
        wide = rng.choice([0, 0.5]) * rng.random()
        top = float("nan") if scale % 4 == 0 else row.ceiling
        out.append(row._replace(value=value, low=value - wide, high=value + wide, ceiling=top))
    return out


def ranges(opened, panel):
    """What the axes of a panel span."""
    return opened.page.evaluate(
        "(id) => Object.fromEntries(Object.entries(document.getElementById(id).layout)"
        ".filter(([name, axis]) => /^[xy]axis/.test(name)).map(([name, axis]) => [name, axis.range]))",
        panel,
    )


def test_limits_are_those_of_the_figures_and_of_the_animation(browser, tmp_path):
    scales = range(2, 10)
    metrics = [r._replace(value=r.value * 7 - 1) for r in report_table.metric_rows(steps=range(12))]
    table = ResultTable.from_rows([row for n in scales for row in uneven(n)] + metrics)
    look = {name: DEFAULTS.get(name) for name in Options.__annotations__}
    planes, curves = {}, {}
    for n in scales:
        film = Film(plots.plane_data(table, settings={"n_bins": n}), {}, look, log=None, dpi=110)
        planes[n] = [plots.plane(table, settings={"n_bins": n}), film.plane]
        for quantity in ("I(X;T)", "I(T;Y)"):
            curves[n, quantity] = plots.curves(table, settings={"n_bins": n}, quantity=quantity)
    panels = plots.curves(table, settings={"n_bins": 2}, metrics=True).figure.axes
    opened = Opened(browser, write_report(table, tmp_path / "report.html"))
    for n in scales:
        opened.page.select_option("#estimate", label=f"binning, n_bins = {n}")
        found = ranges(opened, "plane")
        for axes in planes[n]:
            assert found["xaxis"] == pytest.approx(axes.get_xlim(), rel=1e-6, abs=1e-6), n
            assert found["yaxis"] == pytest.approx(axes.get_ylim(), rel=1e-6, abs=1e-6), n
        for quantity in ("I(X;T)", "I(T;Y)"):
            opened.page.select_option("#quantity", quantity)
            want = pytest.approx(curves[n, quantity].get_ylim(), rel=1e-6, abs=1e-6)
            assert ranges(opened, "curves")["yaxis"] == want, (n, quantity)
    want = {axes.get_ylabel(): pytest.approx(axes.get_ylim(), rel=1e-6) for axes in panels}
    found = ranges(opened, "metrics")
    assert (found["yaxis"], found["yaxis2"]) == (want["loss"], want["accuracy"])
    assert opened.said == []
    opened.page.close()


def test_limits_of_two_runs_are_those_of_their_panels(browser, tmp_path):
    table = ResultTable.from_rows(uneven(5) + [r._replace(value=r.value / 2) for r in uneven(5, run="second")])
    opened = Opened(browser, write_report(table, tmp_path / "report.html"))
    axes = plots.plane_grid(table, by="run").figure.axes[0]
    assert ranges(opened, "plane")["xaxis"] == pytest.approx(axes.get_xlim(), rel=1e-6)
    assert ranges(opened, "plane")["yaxis"] == pytest.approx(axes.get_ylim(), rel=1e-6)
    opened.page.close()


@pytest.mark.parametrize("scale", ["log", "linear"])
@pytest.mark.parametrize("against", ["step", "epoch"])
def test_times_stand_where_the_figures_have_them(browser, tmp_path, against, scale):
    """Steps or epochs, on either scale; what has no epoch is left out, and that is said."""
    steps = (0, 1, 3, 40, 700)
    every = report_table.rows(steps=steps) + report_table.metric_rows(steps=steps)
    lost = [r._replace(epoch=float("nan")) if r.step == 0 else r for r in every]
    table = ResultTable.from_rows(lost, report_table.meta("first"))
    opened = Opened(browser, write_report(table, tmp_path / "report.html"))
    opened.page.select_option("#axis", scale)
    opened.page.select_option("#against", against)
    axes = plots.curves(table, quantity="I(T;Y)", against=against, log=scale == "log")
    times = np.array([0, 1, 3, 40, 700] if against == "step" else [0.1, 0.3, 4, 70])
    want = axes.transData.transform(np.column_stack([times, 0.5 * np.ones(times.size)]))[:, 0]
    for panel, kind in (("curves", "lines+markers"), ("metrics", "lines")):
        found = np.array(opened.page.evaluate(
            "([id, kind]) => document.getElementById(id).data.find((t) => t.mode === kind && t.hoverinfo === 'text').x",
            [panel, kind],
        ))  # fmt: skip
        assert (found - found[0]) / np.ptp(found) == pytest.approx((want - want[0]) / np.ptp(want), abs=1e-6)
        title = f"document.getElementById('{panel}').layout.xaxis.title.text"
        assert opened.page.evaluate(title) == against == axes.get_xlabel()
    caption = opened.page.text_content("#caption")
    assert ("Snapshots without an epoch, not drawn: 1." in caption) == (against == "epoch")
    opened.slide(1)
    assert opened.page.text_content("#now") == ("step 1, epoch 0.1" if against == "step" else "step 3, epoch 0.3")
    rows = list(csv.DictReader(io.StringIO(opened.saved("data"))))
    assert {row["step"] for row in rows} == {"1", "3", "40", "700"} | ({"0"} if against == "step" else set())
    assert opened.said == []
    opened.page.close()


def test_without_epochs_there_is_no_choice_of_them(browser, tmp_path):
    none = [r._replace(epoch=float("nan")) for r in report_table.rows()]
    opened = Opened(browser, write_report(ResultTable.from_rows(none), tmp_path / "report.html"))
    assert opened.page.is_hidden("#against")
    opened.page.close()
    dateless = [r._replace(epoch=float("nan")) for r in report_table.rows(n_bins=5)]
    some = ResultTable.from_rows(report_table.rows() + dateless)
    opened = Opened(browser, write_report(some, tmp_path / "report.html"))
    opened.page.select_option("#against", "epoch")
    opened.page.select_option("#estimate", label="binning, n_bins = 5")
    assert opened.page.input_value("#against") == "step"
    assert opened.page.is_disabled("#against")
    assert opened.said == []
    opened.page.close()


def test_a_watched_page_takes_the_newer_one_and_keeps_what_was_chosen(browser, tmp_path):
    def grown(last):
        every = [
            row for run in "ab" for n in (30, 60) for row in report_table.rows(run=run, n_bins=n, steps=range(last))
        ]
        return ResultTable.from_rows(every, report_table.meta("a", "b"))

    with _watch.serving() as server:
        server.publish("run is being recorded", None, 0.2)
        page = browser.new_page(viewport=chromium.SIZE)
        said = []
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(server.url)
        assert "run is being recorded; as of" in page.text_content("#watched")
        server.publish("run is being recorded", grown(3), 0.2)
        page.wait_for_selector("body[data-ready]", timeout=60_000)
        page.select_option("#estimate", label="binning, n_bins = 60")
        page.select_option("#quantity", "I(X;T)")
        page.select_option("#mode", "layers")
        page.select_option("#against", "epoch")
        page.select_option("#axis", "log")
        page.uncheck("#layers input[data-index='1']")
        page.uncheck("#runs input[data-index='0']")
        page.click("#theme")
        page.locator("#warnings summary").first.click()
        dark = page.evaluate("document.documentElement.dataset.theme")
        server.publish("run is closed", grown(5), 0.2)
        page.wait_for_selector("body[data-number='3'][data-ready]", timeout=60_000)
        assert page.input_value("#step") == "4"  # it stood at the end, and does
        assert page.locator("#estimate option:checked").text_content() == "binning, n_bins = 60"
        chosen = [page.input_value(f"#{name}") for name in ("quantity", "mode", "against", "axis")]
        assert chosen == ["I(X;T)", "layers", "epoch", "log"]
        boxes = "(id) => [...document.querySelectorAll(`#${id} input`)].map((box) => box.checked)"
        assert page.evaluate(boxes, "layers") == [True, False, True]
        assert page.evaluate(boxes, "runs") == [False, True]
        assert page.evaluate("document.documentElement.dataset.theme") == dark
        assert page.locator("#warnings details").first.get_attribute("open") is not None
        page.locator("#step").fill("2")
        server.publish("run is closed", grown(6), 0.2)
        page.wait_for_selector("body[data-number='4'][data-ready]", timeout=60_000)
        assert page.input_value("#step") == "2"
    page.get_by_text("Nobody watches the run any more: this is the last page.").wait_for()
    assert said == []
    page.close()


def test_panels_follow_the_window(opened):
    for width, height in ((800, 600), (1200, 900), (390, 844)):
        opened.page.set_viewport_size({"width": width, "height": height})
        opened.page.wait_for_timeout(500)
        for panel in ("plane", "curves", "metrics"):
            box = opened.page.locator(f"#{panel}").bounding_box()
            drawn = opened.page.evaluate(
                "(id) => (({width, height}) => [width, height])(document.getElementById(id)._fullLayout)", panel
            )
            assert drawn == [pytest.approx(box["width"], abs=1), pytest.approx(box["height"], abs=1)]
    assert opened.said == []


def test_no_button_sends_anything(opened, path):
    """The library has a button that shares a chart on a server; the page has none of it."""
    titles = opened.page.locator(".modebar-btn").evaluate_all("all => all.map((button) => button.dataset.title)")
    assert set(titles) == {"Zoom", "Pan", "Zoom in", "Zoom out", "Reset axes"}
    for button in opened.page.locator("#plane .modebar-btn").all():
        button.click(force=True)
    opened.page.wait_for_timeout(300)
    assert opened.asked == [path.as_uri()]
    assert len(opened.page.context.pages) == 1
    assert opened.said == []
