"""Names from strangers: every figure is drawn, nothing acts, nothing vanishes."""

from __future__ import annotations

import warnings

import pytest
import synthetic
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matplotlib.cbook import is_math_text
from matplotlib.figure import Figure

from infoplane import plots
from infoplane.core.text import printable, shorten
from infoplane.plots.text import fitted_names, safe_names, safe_text, wrap
from infoplane.results import ResultTable

HOSTILE = [
    "$\\frac{$", "a$b$c", "\\$x$", "_hidden", "<script>alert(1)</script>", "</text><a href='javascript:x'>",
    "\x00\x1b[31m", "\u202eabc", "\ud800", "x" * 300, "", "  ", "a\nb\tc", "%s {0} \\n", "^{_}", "\ufffe", "=cmd()",
]  # fmt: skip


@given(st.text(st.characters(), max_size=400))
@settings(max_examples=400, deadline=None)
def test_safe_text_is_short_plain_and_in_one_line(text):
    shown = safe_text(text, legend=True)
    assert shown
    assert not shown.startswith("_")
    assert len(shown.replace(r"\$", "$")) <= 33
    assert not is_math_text(shown)
    assert shown.isprintable()


@pytest.mark.slow
@given(st.text(st.characters(), max_size=40) | st.sampled_from(HOSTILE))
@settings(max_examples=10_000, deadline=None)
def test_ten_thousand_names_show_themselves(text):
    shown = safe_text(text, limit=400)
    assert not is_math_text(shown)
    assert shown.isprintable()
    assert shown.replace(r"\$", "$") == (printable(text).strip() or "(no name)")


@pytest.mark.parametrize("text", HOSTILE)
def test_escaped_text_shows_itself(text):
    """What Matplotlib draws of an escaped short name is the printable name, dollars included."""
    drawn, math = Figure().text(0, 0, safe_text(text))._preprocess_math(safe_text(text))
    assert math is False
    assert drawn == (shorten(printable(shorten(text, 128))).strip() or "(no name)")


def test_shortened_names_stay_apart():
    names = ["encoder." + "x" * 80 + ".a", "encoder." + "x" * 80 + ".a ", "encoder." + "x" * 70 + ".a"]
    shown = safe_names(names)
    assert len(set(shown.values())) == len(names)
    assert all(len(s) <= 36 for s in shown.values())


def test_shorten_keeps_both_ends_and_refuses_nonsense():
    assert shorten("abcdefghij", 5) == "ab…ij"
    assert shorten("abc", 5) == "abc"
    with pytest.raises(ValueError, match="at least 3 characters, got 2"):
        shorten("abc", 2)


def test_names_of_layers_keep_their_last_parts():
    layers = ["bert.embeddings", *(f"bert.encoder.layer.{i}" for i in range(4)), "classifier"]
    short = ["bert.embeddings", "layer.0", "layer.1", "layer.2", "layer.3", "classifier"]
    assert list(fitted_names(layers, 200.0, 8.0).values()) == layers
    assert list(fitted_names(layers, 72.0, 8.0).values()) == short
    assert list(fitted_names(layers, 55.0, 8.0).values()) == ["bert.…ddings", *short[1:]]
    assert all("…" in name for name in fitted_names(["a.first.layer.0", "b.second.layer.0"], 30.0, 8.0).values())


def test_of_a_pair_both_names_are_shortened():
    pairs = [f"bert.encoder.layer.0 with bert.encoder.layer.{i}" for i in (1, 2)]
    assert list(fitted_names(pairs, 100.0, 8.0).values()) == ["layer.0 with layer.1", "layer.0 with layer.2"]


def test_wrap_breaks_between_parts_first():
    lines = wrap(["one", "two", "three four five"], 60, 7).split("\n")
    assert lines[0].startswith("one")
    assert " ".join(lines).split() == ["one", "·", "two", "three", "four", "five"]


def test_wrap_keeps_a_setting_together():
    assert all(
        line.count("=") == line.count(" = ") for line in wrap(["kde, noise_std = 0.1, rule = max"], 50, 7).split("\n")
    )


def rename(table: ResultTable, names: dict[str, str], run: str) -> ResultTable:
    rows = [row._replace(layer=names.get(row.layer, row.layer), run=run) for row in table]
    return ResultTable.from_rows(rows)


@pytest.mark.slow
@pytest.mark.parametrize("draw", [plots.plane, plots.curves])
@given(
    layers=st.lists(st.text(min_size=1, max_size=40), min_size=2, max_size=2, unique=True), run=st.text(max_size=320)
)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_names_are_drawn(draw, layers, run, tmp_path_factory):
    base = synthetic.table(layers=("a", "b"), steps=[0, 1, 10])
    table = rename(base, dict(zip("ab", layers, strict=True)), run)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # the font's limit, not the text's
        path = plots.save(draw(table, style="column"), tmp_path_factory.mktemp("any") / "figure.svg")
    assert b"</svg>" in path.read_bytes()


@pytest.mark.parametrize(("draw", "kind"), synthetic.EVERY_FORMAT)
def test_hostile_names_are_drawn_and_do_nothing(draw, kind, tmp_path):
    names = dict(zip("abcdefghijklmnopq", HOSTILE, strict=True))
    base = synthetic.table(layers=tuple(names), steps=[0, 3, 40], null=False)
    table = rename(base, names, "run $x$ <b>" + "y" * 300)
    # An empty layer name stands for the whole model in a table, and is not a layer.
    path = plots.save(draw(table, layers=[n for n in HOSTILE if n], style="page"), tmp_path / f"figure.{kind}", dpi=60)
    content = path.read_bytes()
    assert content
    if kind == "svg":
        assert b"<script>" not in content
        assert b"<a href" not in content
        assert b"&lt;script" in content
