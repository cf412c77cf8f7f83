"""The report in headless Chromium: it loads from disk, asks nobody, and does what the page offers."""

from __future__ import annotations

import shutil

import pytest
import report_table

from infoplane.report import write_report
from infoplane.results import ResultTable

pytestmark = pytest.mark.browser

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
SIZE = {"width": 1280, "height": 1400}


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="needs the extra 'browser' (playwright)")
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium on the PATH")
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield chromium
        chromium.close()


class Opened:
    """A page with all that it said and asked for."""

    def __init__(self, browser, path) -> None:
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page = browser.new_page(viewport=SIZE)
        self.page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("body[data-ready]", timeout=60_000)

    def points(self) -> int:
        """Points of the layers' own traces in the plane, as far as the slider shows them."""
        return self.page.evaluate(
            "document.getElementById('plane').data.filter((t) => t.mode === 'markers' && t.hoverinfo === 'text')"
            ".reduce((n, t) => n + t.x.length, 0)"
        )

    def now(self) -> dict:
        """The current line of the first run."""
        return self.page.evaluate(
            "(() => { const t = document.getElementById('plane').data.find((t) => (t.name || '').startsWith('now'));"
            " return {x: t.x, y: t.y}; })()"
        )

    def slide(self, index: int) -> None:
        self.page.evaluate(
            "(i) => { const s = document.getElementById('step'); s.value = i; s.dispatchEvent(new Event('input'));"
            " return new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))); }",
            index,
        )


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
    assert "step 100, epoch 10" in said


def test_the_cursor_stands_at_the_step_in_both_panels(opened):
    opened.slide(2)
    places = []
    for panel in ("curves", "metrics"):
        places.append(opened.page.evaluate(
            "(id) => { const g = document.getElementById(id), l = g._fullLayout;"
            " const left = parseFloat(g.querySelector('.cursor').style.left);"
            " return [left - l.xaxis._offset, l.xaxis.l2p(Math.log2(11))]; }",
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
    assert [label[1:] for label in labels][:3] == list(names[:3])
    assert labels[3][1:] == "\\x00\\u202e$x$"
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
