from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import subprocess
import sys
import zlib
from html.parser import HTMLParser

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from report_table import meta, metric_rows, rows, table

from infoplane import plots
from infoplane.core import palette
from infoplane.report import page, report_html, write_report
from infoplane.report.data import embed, page_data, themes
from infoplane.results import ResultTable, summarize

PACKED = "application/octet-stream"


def unpacked(text):
    """The data of a page."""
    return json.loads(zlib.decompress(base64.b64decode(text, validate=True)))


class Page(HTMLParser):
    """The elements of a page, the texts of its scripts, and every attribute that could load or run something."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.scripts: list[tuple[dict, str]] = []
        self.risky: list[tuple[str, str, str]] = []
        self.policy = ""
        self.open: dict | None = None
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        given = dict(attrs)
        if tag == "script":
            self.open = given
            self.scripts.append((given, ""))
        if tag == "meta" and given.get("http-equiv"):
            self.policy = given["content"]
        for name, value in attrs:
            if name.startswith("on") or name in ("src", "href", "action", "srcdoc", "style", "formaction"):
                self.risky.append((tag, name, value))

    def handle_endtag(self, tag):
        if tag == "script":
            self.open = None

    def handle_data(self, data):
        if self.open is None:
            self.words.append(data)
        else:
            given, text = self.scripts[-1]
            self.scripts[-1] = (given, text + data)

    @property
    def data(self):
        return unpacked(next(text for given, text in self.scripts if given.get("type") == PACKED))


@pytest.fixture(scope="module")
def html():
    return report_html(table(), title="Two runs")


def test_the_page_loads_nothing_and_runs_only_its_own_scripts(html):
    parsed = Page(html)
    assert parsed.risky == []
    assert not {"link", "img", "iframe", "object", "embed", "form", "base"} & set(parsed.tags)
    run = [text for given, text in parsed.scripts if given.get("type") != PACKED]
    assert len(run) == 2
    for text in run:
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in parsed.policy
    assert parsed.policy.startswith("default-src 'none'; ")
    assert "unsafe-eval" not in parsed.policy
    assert "http" not in parsed.policy
    assert html.count("plotly.js (basic - minified) v") == 1


def test_warnings_come_first_and_settings_last(html):
    words = Page(html).words
    at = {text: next(i for i, w in enumerate(words) if text in w) for text in
          ("What not to believe", "its ceiling", "Layers", "Settings and versions", "2.13.0")}  # fmt: skip
    assert list(at.values()) == sorted(at.values())
    assert {"n_bins = 30, null_draws = 20, seed = 0", "first", "5 (0 to 1000)"} <= set(words)
    assert not any("runs/first" in word for word in words)
    assert any("Numbers have 7 digits here" in word for word in words)


def test_the_same_table_gives_the_same_bytes(html, tmp_path):
    path = write_report(table(), tmp_path / "report.html", title="Two runs")
    assert path.read_bytes() == html.encode()


def test_numbers_are_those_of_the_table(html):
    source, data = table(), Page(html).data
    assert data["runs"] == ["first", "second"]
    assert [e["name"] for e in data["estimates"]] == ["binning, n_bins = 30", "binning, n_bins = 60"]
    for e, config in zip(data["estimates"], ("*30*", "*60*"), strict=True):
        for part in e["parts"]:
            for name, q in part["quantities"].items():
                for i, layer in enumerate(part["layers"]):
                    want = source.select(run=data["runs"][part["run"]], layer=data["layers"][layer], quantity=name,
                                         config=config)  # fmt: skip
                    assert part["steps"] == want["step"].tolist()
                    assert q["value"][i] == pytest.approx(want["value"].tolist(), rel=1e-6)
    first = data["estimates"][0]["parts"][0]["quantities"]
    assert first["I(X;T)"]["ceiling"] == 12
    assert first["I(X;T)"]["flags"]["names"] == ["saturated", ""]
    assert first["I(X;T)"]["flags"]["codes"] == [[0] * 5, [1] * 5, [1] * 5]
    assert first["I(T;Y)"]["low"][1][0] == pytest.approx(first["I(T;Y)"]["value"][1][0] - 0.01, abs=1e-6)
    assert "flags" not in first["I(T;Y)"]
    loss = pytest.approx([0.7, 0.35, 0.7 / 11, 0.7 / 101, 0.7 / 1001], rel=1e-6)
    times = {"steps": [0, 1, 10, 100, 1000], "epochs": [0, 0.1, 1, 10, 100]}
    assert data["metrics"][0]["loss"] == {"group": "loss", **times, "values": loss}


def test_missing_and_enormous_numbers_are_null():
    every = [
        row._replace(value=math.nan if row.step == 0 else 1e300 if row.step == 1 else row.value)
        for row in rows()
        if row.quantity == "I(X;T)"
    ]
    value = page_data(ResultTable.from_rows(every))["estimates"][0]["parts"][0]["quantities"]["I(X;T)"]["value"]
    assert [v[:2] for v in value] == [[None, None]] * 3


def test_layers_without_a_role_start_hidden():
    about = meta("first")
    about["runs"]["first"]["layers"][1]["role"] = "other"
    assert page_data(ResultTable.from_rows(rows(), about))["shown"] == [True, False, True]


def test_subsets_are_estimates_of_their_own():
    both = ResultTable.from_rows(rows() + rows(subset="test"))
    assert [e["name"] for e in page_data(both)["estimates"]] == ["binning, n_bins = 30", "binning, n_bins = 30 (test)"]


def other(step=0, **changes):
    """A number of an estimator that knows no Shannon information."""
    base = rows(steps=(step,), layers=("act1",))[0]._replace(estimator="geometry", config="{}", quantity="RankMe")
    return base._replace(**{"unit": "dimensions", "ceiling": math.nan, "flags": "", "value": 3.0, **changes})


UNEVEN = {
    "a setting on fewer subsets": rows(subset="train") + rows(subset="val") + rows(subset="val", n_bins=5),
    "a setting on fewer runs": rows() + rows(run="second") + rows(run="second", n_bins=5),
    "another subset in each run": rows(subset="train") + rows(run="second", subset="val", n_bins=5),
    "a setting that others hold": rows() + [r._replace(config=r.config[:-1] + ',"zeta":1}') for r in rows()],
    "a layer in one estimate only": rows() + rows(n_bins=5, layers=("act2",)),
    "layers of one run only": rows() + rows(run="second", layers=("other", "out")),
    "other steps in each run": rows(steps=(0, 1)) + rows(run="second", steps=(5, 7)) + rows(run="b", steps=(9,)),
    "no labels": [r for r in rows() if r.quantity == "I(X;T)"],
    "no labels in one estimate": rows() + [r for r in rows(n_bins=5) if r.quantity == "I(X;T)"],
    "no Shannon information": [other(step) for step in (0, 1, 2)],
    "one step": rows(steps=(7,)),
    "one step of one run": rows() + rows(run="second", steps=(7,)),
    "no number anywhere": [r._replace(value=math.nan, low=math.nan, high=math.nan, flags="nonfinite") for r in rows()],
    "no flag and no number": [r._replace(value=math.nan, ceiling=math.nan, flags="") for r in rows()],
    "a run with metrics alone": rows() + metric_rows() + metric_rows(run="second"),
    "layers named as globs": rows(layers=("a[b]", "*", "a?")),
}


@pytest.mark.parametrize("what", UNEVEN)
def test_every_uneven_table_has_a_page(what):
    """What was estimated here and not there is shown where it is, and nothing else goes."""
    source = ResultTable.from_rows(UNEVEN[what], meta("first"))
    data = Page(report_html(source)).data
    shown = sum(
        len(column) for e in data["estimates"] for part in e["parts"] for q in part["quantities"].values()
        for column in q["value"]
    )  # fmt: skip
    estimated = source.take(source["estimator"] != "recorded")
    ways = set(zip(*(estimated[c] for c in ("estimator", "settings", "subset")), strict=True))
    assert len(data["estimates"]) == len(ways)
    assert len(data["runs"]) == len(set(source["run"]))
    assert shown >= len(estimated)


def test_nothing_to_report_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no estimates"):
        write_report(ResultTable.from_rows(metric_rows()), tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_run_directories_are_read(tmp_path):
    (tmp_path / "a").mkdir()
    table().write(tmp_path / "a" / "results.csv")
    path = write_report([tmp_path / "a"], tmp_path / "report.html")
    assert b"binning, n_bins = 30" in path.read_bytes()


HOSTILE = [
    "</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>", "\"' onmouseover=alert(1) x='", "<!--data-->",
    "<!--provenance-->", "javascript:alert(1)", "&lt;b&gt;", "\x00\x1b[31m", "\u202e\ud800", "{{7*7}}", "$x$",
    "x" * 300, "",
]  # fmt: skip


@pytest.fixture
def _no_plotly(monkeypatch):
    """The library is constant and 1.2 MB: parsing it in every example would be all that the test does."""
    monkeypatch.setattr(page, "LIBRARY", "vendor/plotly-LICENSE.txt")


@pytest.mark.usefixtures("_no_plotly")
@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_stay_text(text):
    check_inert(text)


@pytest.mark.usefixtures("_no_plotly")
@given(st.text(st.characters(), max_size=60))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_names_stay_text(text):
    check_inert(text)


@pytest.mark.slow
@pytest.mark.usefixtures("_no_plotly")
@given(st.text(st.characters(), max_size=60) | st.sampled_from(HOSTILE))
@settings(max_examples=2_000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_two_thousand_names_stay_text(text):
    check_inert(text)


def check_inert(text: str) -> None:
    layers = (text or "x", "plain")
    every = [r._replace(subset=text or "all") for r in rows(run=text, layers=layers, steps=(0, 1))]
    every += [r._replace(quantity=text, run=text) for r in metric_rows(steps=(0, 1))[:1]]
    about = meta(text, layers=layers)
    about["versions"] = {text: text}
    about["runs"][text]["path"] = text
    parsed = Page(report_html(ResultTable.from_rows(every, about), title=text))
    assert parsed.risky == []
    assert parsed.tags.count("script") == 3
    assert parsed.tags.count("img") == 0
    assert "Settings and versions" in " ".join(parsed.words)
    assert len(parsed.data["layers"]) == 2


@given(
    st.recursive(st.text(st.characters()) | st.floats(allow_nan=False, allow_infinity=False), st.lists, max_leaves=8)
)
@settings(deadline=None)
def test_embedded_data_come_back_and_hold_no_markup(value):
    text = embed(value)
    assert re.fullmatch("[A-Za-z0-9+/=]*", text)
    assert unpacked(text) == value


def test_the_report_needs_neither_torch_nor_matplotlib(tmp_path):
    table().write(tmp_path / "results.csv")
    code = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {'torch', 'h5py', 'matplotlib', 'plotly'}:
            raise ImportError(name + ' is blocked')
sys.meta_path.insert(0, Blocked())
from infoplane.report import write_report
write_report(sys.argv[1], sys.argv[2])
"""
    target = tmp_path / "report.html"
    subprocess.run([sys.executable, "-W", "error", "-c", code, tmp_path / "results.csv", target], check=True)
    assert target.stat().st_size > 10**6


def test_assets_end_no_element_early():
    for name in ("report.js", "report.css"):
        assert not re.search("</(script|style)|<!--|<script", page._asset(name), re.IGNORECASE)


def test_the_library_is_named_with_its_version_and_licence():
    text = page._asset(page.LIBRARY)
    # As published under that version: nobody has changed it, no checkout has changed its line ends.
    published = "99784e3abfb07b142a15e521a439e6d9addceadb3f79553fd24c72774f0649ba"
    assert hashlib.sha256(text.encode()).hexdigest() == published
    assert text[:200].count(f"plotly.js (basic - minified) v{re.search('[0-9.]+[0-9]', page.LIBRARY)[0]}") == 1
    assert "MIT" in page._asset("vendor/plotly-LICENSE.txt")


def test_a_usual_run_has_at_most_two_megabytes():
    """Three seeds, ten layers, fifty snapshots, two estimates on two subsets."""
    every = [
        row for run in ("a", "b", "c") for n in (20, 30) for subset in ("train", "test")
        for row in rows(run=run, n_bins=n, subset=subset, layers=tuple(f"layer{i}" for i in range(10)), steps=range(50))
    ]  # fmt: skip
    assert len(report_html(ResultTable.from_rows(every))) < 2_000_000
    assert len(report_html(ResultTable.from_rows(rows(steps=range(50))))) < 1_300_000


def test_a_long_run_has_little_more():
    """Three seeds, twelve layers, five hundred snapshots: its numbers take about as much as the library."""
    layers = tuple(f"layer{i}" for i in range(12))
    every = [row for run in "abc" for row in rows(run=run, layers=layers, steps=range(500))]
    assert len(report_html(ResultTable.from_rows(every))) < 2_500_000


def test_runs_of_one_name_are_told_apart():
    about = meta("first", "second")
    about["runs"]["first"]["path"], about["runs"]["second"]["path"] = "/home/me/tanh/seed-1", "/home/me/relu/seed-1"
    text = page._provenance(ResultTable.from_rows(rows() + rows(run="second"), about))
    assert "<td>tanh/seed-1</td>" in text
    assert "<td>relu/seed-1</td>" in text
    assert "/home/me" not in text


def test_doubts_are_one_list_each_once_and_folded_beyond_five():
    every = [r._replace(bound="upper") if r.quantity == "I(X;T)" else r for r in rows() + rows(n_bins=60)]
    flags = {"act2": "ties;few_samples;unreliable", "out": "out_of_range;degenerate"}
    every = [r._replace(flags=flags[r.layer]) if r.quantity == "I(T;Y)" and r.layer in flags else r for r in every]
    text = page._warnings(ResultTable.from_rows(every, meta("first")))
    heads = re.findall("<summary><b>(.*?)</b>", text)
    assert len(heads) == len(set(heads)) == 8
    assert heads[0] == "I(X;T) is at its ceiling"
    assert "10 of 30 values: binning, n_bins = 30, binning, n_bins = 60" in text
    before, _, after = text.partition("<summary>3 more</summary>")
    assert before.count("<b>binning, n_bins = 30</b>: ") == 5
    assert after.count("<li data-kind=") == 3
    assert text.count("<b>binning, n_bins = 60</b>: layer act2 (5 of 5) had equal values") == 1


def three(**how):
    return [row for run in ("a", "b", "c") for row in rows(run=run, **how)]


def test_of_three_runs_there_is_a_mean_with_a_band():
    source = ResultTable.from_rows(three() + [r for run in "abc" for r in metric_rows(run=run)])
    data = page_data(source)
    mean = data["estimates"][0]["mean"]
    assert mean["words"] == "mean of 3 runs, band: 95 % CI of the mean (Student t)"
    for quantity in ("I(X;T)", "I(T;Y)"):
        for summary in summarize(source, quantity):
            i = data["layers"].index(summary.layer)
            for name, want in (("value", summary.summary.mean), ("low", summary.summary.low)):
                assert mean["quantities"][quantity][name][i] == pytest.approx(want.tolist(), rel=1e-6)
    assert mean["quantities"]["I(X;T)"]["flags"]["names"] == ["saturated in 3 of 3 runs", ""]
    assert data["mean_metrics"]["loss"]["values"] == data["metrics"][0]["loss"]["values"]


def test_the_mean_is_of_layers_and_steps_that_all_runs_have():
    every = three() + rows(run="d", layers=("act1", "out"), steps=(1, 10, 11))
    mean = page_data(ResultTable.from_rows(every))["estimates"][0]["mean"]
    assert mean["words"].startswith("mean of 4 runs")
    assert (mean["layers"], mean["steps"]) == ([0, 2], [1, 10])
    assert page_data(ResultTable.from_rows(rows() + rows(run="second")))["estimates"][0]["mean"] is None
    apart = three() + rows(run="d", steps=(5,))
    assert page_data(ResultTable.from_rows(apart))["estimates"][0]["mean"] is None


def test_a_mean_over_fewer_runs_says_so():
    every = [r._replace(value=math.nan) if (r.run, r.step) == ("b", 10) else r for r in three()]
    found = page_data(ResultTable.from_rows(every))["estimates"][0]["mean"]["quantities"]["I(T;Y)"]["flags"]
    assert found["names"][found["codes"][1][2]] == "mean of 2 of 3 runs"


def test_colours_on_a_dark_page_are_light_enough():
    found = themes(["#000000", "#440154", "#F0E442", "#FFFFFF"])
    assert found["light"] == ["#000000", "#440154", "#F0E442", "#FFFFFF"]
    assert found["dark"][0] == "#787878"
    assert found["dark"][2:] == ["#f0e442", "#ffffff"]
    assert found["dark"][1] > "#8"


@pytest.mark.parametrize("n", [3, 8, 12, 30, 45])
def test_layers_look_as_in_the_figures(n):
    """The layers that are shown have the colours of a figure of them; no two look the same."""
    layers = [f"block{i // 2}.{i % 2}" for i in range(n)]
    about = meta("first", layers=layers)
    for i, layer in enumerate(about["runs"]["first"]["layers"]):
        layer["role"] = "other" if i % 3 == 0 else "activation"
    table = ResultTable.from_rows(rows(layers=layers, steps=(0, 1)), about)
    data, figure = page_data(table), plots.plane(table, by="layer")
    drawn = dict(colors_in(figure))
    shown = [layer for layer, on in zip(data["layers"], data["shown"], strict=True) if on]
    looks = dict(zip(data["layers"], zip(data["colors"]["light"], data["marks"], strict=True), strict=True))
    assert {layer: looks[layer][0].lower() for layer in shown} == drawn
    if n <= 20:
        assert len(set(looks.values())) == n
        assert len(set(data["marks"])) == n
    else:
        blocks = dict(zip(layers, palette.blocks_of(layers), strict=True))
        for hidden in set(layers) - set(shown):
            assert looks[hidden][0] in {looks[layer][0] for layer in shown if blocks[layer] == blocks[hidden]}


def colors_in(figure):
    """Layer and colour of each path of a plane."""
    for line in figure.lines:
        name = str(line.get_gid() or "")
        if name.startswith("infoplane:") and len(line.get_xdata()) > 1:
            yield name.split(":")[1], to_hex(line.get_color())
