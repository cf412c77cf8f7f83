"""Examples stay short, use public names alone, and fail where there is nothing to find."""

from __future__ import annotations

import argparse
import ast
import json
import re
import runpy
import shutil
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = sorted(EXAMPLES.glob("e[0-9]*.py"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.stem)
def test_an_example_is_short_public_and_says_what_to_look_for(path):
    text = path.read_text()
    tree = ast.parse(text)
    assert len(text.splitlines()) < 120
    words = ast.get_docstring(tree) or ""
    assert "Look for" in words
    assert "falsified" in words
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            assert node.module == "__future__" or not any(name.startswith("_") for name in names)
        if isinstance(node, ast.Attribute):
            assert not node.attr.startswith("_") or node.attr.startswith("__")


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # as where a person starts it
@pytest.mark.parametrize("name", [path.stem for path in SCRIPTS if path.stem != "e12_certificate"])  # it has no labels
def test_shuffled_labels_fail_the_quick_assertions_and_what_still_holds_is_said_not_to_be_about_y(
    name, tmp_path, monkeypatch, capsys
):
    """In this process: `all.py` starts each in one of its own."""
    script = EXAMPLES / f"{name}.py"
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setattr(sys, "argv", [str(script), "--quick", "--shuffle", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert ended.value.code == 1
    assert "FAILS" in capsys.readouterr().out
    outcomes = json.loads((tmp_path / "outcomes.json").read_text())["outcomes"]
    assert [o["claim"] for o in outcomes if o["holds"]] == [o["claim"] for o in outcomes if not o["about_y"]]


ABSENT = """\"\"\"An example without its data.\"\"\"
import sys
sys.path.insert(0, {folder!r})
import common

def run(options):
    raise common.DataAbsent("no images; get them with 'apt-get install images'")

common.main(run, __doc__)
"""


@pytest.mark.slow
def test_an_example_whose_data_are_absent_is_skipped_in_one_line(tmp_path):
    script, out = tmp_path / "e99_absent.py", tmp_path / "out"
    script.write_text(ABSENT.format(folder=str(EXAMPLES)))
    everything = runpy.run_path(str(EXAMPLES / "all.py"))
    given = argparse.Namespace(out=out, reuse=False, quick=False)
    record = everything["outcome"](script, given)
    assert record["skipped"] == "skipped: no images; get them with 'apt-get install images'"
    everything["write"](tmp_path / "page.md", out, [(script, record)], False)
    assert "Not run here, skipped: no images" in (tmp_path / "page.md").read_text()


def test_the_page_says_which_lines_are_not_about_y_and_has_the_tables(tmp_path):
    script = tmp_path / "e99_made.py"
    script.write_text('"""A title.\n\nLook for: a | b.\n"""\n')
    line = {"measured": "1", "reference": "-", "holds": True}
    outcomes = [{**line, "claim": "a", "about_y": True}, {**line, "claim": "b", "about_y": False}]
    record = {"seconds": 60, "outcomes": outcomes, "figures": [], "tables": ["| c |\n| --- |\n| d |"]}
    runpy.run_path(str(EXAMPLES / "all.py"))["write"](tmp_path / "page.md", tmp_path, [(script, record)], False)
    page = (tmp_path / "page.md").read_text()
    assert "| **holds** | a | 1 | - |\n| **holds**, not about Y | b | 1 | - |\n\n| c |\n| --- |\n| d |\n" in page


def test_a_gallery_without_its_runs_leaves_the_page_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    (tmp_path / "gallery").mkdir()
    (tmp_path / "gallery" / "plane.png").touch()
    monkeypatch.setattr(
        sys, "argv", ["gallery.py", "--out", str(tmp_path / "no"), "--write", str(tmp_path / "gallery.md")]
    )
    with pytest.raises(SystemExit, match=r"e01_tanh_compression/results.csv is missing: run the examples first"):
        runpy.run_path(str(EXAMPLES / "gallery.py"))["main"]()
    assert (tmp_path / "gallery" / "plane.png").exists()


def test_the_pages_name_every_example_and_have_their_pictures():
    """The words of every script stand in docs/experiments.md, and every picture that a page shows is there."""
    docs = EXAMPLES.parent / "docs"
    experiments = (docs / "experiments.md").read_text()
    for script in SCRIPTS:
        words = ast.get_docstring(ast.parse(script.read_text()), clean=False)
        title, _, text = words.partition("\n")
        assert f"## {title.rstrip('.')}" in experiments
        assert text.strip() in experiments
    for page in (docs / "experiments.md", docs / "gallery.md"):
        shown = re.findall(r"\]\(([^)]+\.(?:png|gif))\)", page.read_text())
        assert len(shown) > 10
        assert [name for name in shown if not (docs / name).exists()] == []
