from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import pytest
import synthetic
from PIL import Image

from infoplane import plots

STEPS = [0, 1, 10, 100, 1000]


@pytest.fixture(scope="module")
def table():
    return synthetic.table(steps=STEPS)


@pytest.mark.parametrize(("draw", "kind"), synthetic.EVERY_FORMAT)
def test_drawing_again_gives_the_same_bytes(draw, kind, table, tmp_path):
    first = plots.save(draw(table), tmp_path / f"a.{kind}", dpi=80).read_bytes()
    assert plots.save(draw(table), tmp_path / f"b.{kind}", dpi=80).read_bytes() == first


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_a_figure_saved_again_gives_the_same_bytes(kind, table, tmp_path):
    """Also where it was saved at another size between."""
    drawn = plots.plane(table)
    first, *again = (plots.save(drawn, tmp_path / f"a.{kind}", dpi=dpi).read_bytes() for dpi in (80, 80, 200, 80))
    assert [again[0], again[2]] == [first, first]


@pytest.mark.slow
def test_the_bytes_do_not_depend_on_the_process_or_the_clock(table, tmp_path):
    table.write(tmp_path / "results.csv")
    code = (
        "import sys; from infoplane import plots, ResultTable; "
        "plots.save(plots.plane(ResultTable.read(sys.argv[1])), sys.argv[2])"
    )
    written = []
    for i in range(2):
        target = tmp_path / f"plane{i}.svg"
        env = {**os.environ, "PYTHONHASHSEED": str(i), "SOURCE_DATE_EPOCH": str(10**9 * (i + 1))}
        subprocess.run([sys.executable, "-c", code, tmp_path / "results.csv", target], check=True, env=env)
        written.append(target.read_bytes())
    assert written[0] == written[1]


def test_text_stays_text(table, tmp_path):
    svg = plots.save(plots.plane(table), tmp_path / "plane.svg").read_text()
    assert re.search(r"<text[^>]*>I\(X;T\) \[bits\]</text>", svg)
    assert "<dc:date>" not in svg
    pdf = plots.save(plots.plane(table), tmp_path / "plane.pdf").read_bytes()
    assert b"/Type3" not in pdf
    assert b"/CIDFontType2" in pdf
    assert b"CreationDate" not in pdf


def test_metadata_say_what_was_measured(table, tmp_path):
    said = "binning, n_bins = 30, range = layer · N = 4096"
    with Image.open(plots.save(plots.plane(table), tmp_path / "plane.png", dpi=60)) as image:
        assert said in image.text["Description"]
    assert said in plots.save(plots.plane(table), tmp_path / "plane.svg").read_text()
    pdf = plots.save(plots.plane(table), tmp_path / "plane.pdf").read_bytes()
    assert said.encode("utf-16-be").replace(b"(", rb"\(") in pdf


def test_format_and_resolution_are_checked(table, tmp_path):
    ax = plots.plane(table)
    with pytest.raises(ValueError, match="format must be png, svg, pdf, got 'jpg'"):
        plots.save(ax, tmp_path / "plane.jpg")
    with pytest.raises(ValueError, match="dpi must be between 1 and 4800, got 0"):
        plots.save(ax, tmp_path / "plane.png", dpi=0)
    assert plots.save(ax.figure, tmp_path / "plane", format="svg").read_bytes().startswith(b"<?xml")


def test_nothing_global_is_touched(table, tmp_path):
    before = dict(mpl.rcParams)
    plots.save(plots.plane(table, style="column"), tmp_path / "a.pdf")
    plots.curves(table, metrics=True)
    assert dict(mpl.rcParams) == before


def test_figures_need_neither_torch_nor_h5py_nor_pyplot(table, tmp_path):
    table.write(tmp_path / "results.csv")
    code = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {'torch', 'h5py', 'plotly', 'scipy'}:
            raise ImportError(name + ' is blocked')
sys.meta_path.insert(0, Blocked())
from infoplane import plots, results
table = results.read_table(sys.argv[1])
plots.save(plots.plane(table), sys.argv[2])
plots.curves(table)
assert "matplotlib.pyplot" not in sys.modules
"""
    files = [tmp_path / "results.csv", tmp_path / "plane.png"]
    subprocess.run([sys.executable, "-W", "error", "-c", code, *files], check=True)
    assert Path(tmp_path / "plane.png").stat().st_size > 10_000
