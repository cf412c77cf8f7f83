"""What a notebook shows of runs, numbers, tables, figures, animations and pages."""

from __future__ import annotations

import base64
import html
import io
import re
import sys
from types import SimpleNamespace

import kernel
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

import infoplane
from infoplane import plots
from infoplane.analysis import workers
from infoplane.core import shown
from infoplane.estimators import Quantity, parse


def test_a_run_shows_its_layers_escaped(tmp_path):
    arrays = {0: {"<script>alert(1)</script>": np.zeros((12, 2), np.float32)}}
    store = infoplane.from_arrays(tmp_path / "run", arrays, np.arange(12) % 2)
    assert repr(store).endswith("1 layers, 1 steps)")
    page = store._repr_html_()
    assert "12 rows" in page
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_an_estimate_shows_all_that_belongs_to_the_number():
    y = torch.arange(40) % 2
    found = parse("binning:n_bins=2").estimate(y.double()[None, :, None], y)
    page = found["I(T;Y)"]._repr_html_()
    for word in ("1", "point", "bit", "ceiling"):
        assert word in page
    assert found["I(T;Y) null"].rows()[0][1].startswith("[")
    many = Quantity(value=torch.zeros(25, dtype=torch.float64), unit="<b>")
    assert "5 snapshots" in many._repr_html_()
    assert "<td><b>" not in many._repr_html_()
    assert many.rows()[0][3] == ""
    with pytest.raises(AttributeError):
        many.value = None


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    rng = np.random.default_rng(0)
    y = np.arange(60) % 3
    acts = {step: {"a": rng.normal(size=(60, 3)) + step * y[:, None], "b": y[:, None] + 0.0} for step in range(3)}
    run = tmp_path_factory.mktemp("shown") / "run"
    infoplane.from_arrays(run, acts, y)
    return infoplane.analyze(run, "kde", progress=False)


@pytest.mark.parametrize("draw", [plots.plane, plots.plane_grid, plots.curves, plots.null, plots.heatmap])
def test_a_figure_is_shown_at_its_size_with_what_was_drawn_later(table, draw):
    axes = draw(table, **({"quantity": "I(T;Y)"} if draw in (plots.null, plots.heatmap) else {}))
    png, size = axes._repr_png_()
    pixels = Image.open(io.BytesIO(png)).size
    np.testing.assert_allclose([size["width"], size["height"]], np.array(pixels) / 1.5, atol=1)
    assert size["width"] == round(170 / 25.4 * 96)
    axes.plot(axes.get_xlim(), axes.get_ylim(), color="red", linewidth=8)
    assert axes._repr_png_()[0] != png
    assert axes.figure._repr_png_()[1] == size


def test_axes_of_the_user_stay_what_they_are(table):
    ax = Figure().subplots()
    assert plots.plane(table, ax=ax) is ax
    assert not hasattr(ax, "_repr_png_")


def test_an_animation_and_a_page_are_shown_with_a_link(table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    film = plots.animate(table, "a b#.gif", dpi=40)
    found = re.search(r'<img src="data:image/gif;base64,([^"]+)"', film._repr_html_())
    assert base64.b64decode(found[1]) == film.read_bytes()
    assert 'href="a%20b%23.gif"' in film._repr_html_()
    page = infoplane.report.write_report(table, "<r>.html", title="</iframe>")
    (frame, source), *more = re.findall(r'(<iframe srcdoc="([^"]*)"[^>]*>)', page._repr_html_())
    assert not more
    assert html.unescape(source) == page.read_text()
    assert 'sandbox="allow-scripts allow-downloads"' in frame
    assert "<r>" not in page._repr_html_()
    assert 'href="%3Cr%3E.html"' in page._repr_html_()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    there = shown.ShownFile(tmp_path / "a b#.gif")
    assert f'href="{(tmp_path / "a b#.gif").as_uri()}"' in there._repr_html_()
    monkeypatch.setattr(shown, "MOST_BYTES", 10)
    assert there._repr_html_() is None
    assert there.parent._repr_html_() is None


def stopped_at_a_quarter():
    with workers.progress_bar(None) as bar:
        bar.total, bar.delay = 4.0, 0.0
        bar.update(1.0)
        bar.refresh()
        raise KeyboardInterrupt


def test_a_bar_leaves_its_last_line(monkeypatch):
    """As IPython has it: `display` makes an output and gives a handle that changes it."""
    outputs = []

    class Handle:
        def update(self, data, *, raw):
            outputs[-1] = data["text/plain"]

    def display(data, *, raw, display_id):
        outputs.append(data["text/plain"])
        return Handle()

    cell = workers._Cell(display)
    cell.write("\r  3%|  ")
    cell.write("\r100%|██")
    cell.write("\n")
    assert outputs == ["100%|██"]
    assert not workers.in_notebook()
    monkeypatch.setattr(workers, "in_notebook", lambda: True)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(display=SimpleNamespace(display=display)))
    with pytest.raises(KeyboardInterrupt):
        stopped_at_a_quarter()
    assert len(outputs) == 2
    assert re.fullmatch(r"estimating stopped at 25 % after 00:0\d", outputs[1])


CELLS = [
    """
import time, torch, infoplane
from infoplane import plots
x, y = (torch.from_numpy(a)[:300] for a in infoplane.datasets.digits())
model = torch.nn.Sequential(torch.nn.Linear(64, 8), torch.nn.Tanh(), torch.nn.Linear(8, 10))
optimizer = torch.optim.Adam(model.parameters(), 1e-2)
with infoplane.Recorder(model, (x, y), "runs/a", schedule=[2, 4, 8], quiet=True) as recorder:
    for epoch in range(8):
        loss = torch.nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        recorder.snapshot(epoch, metrics={"loss": loss})
class Slow(type(infoplane.estimators.parse("noise"))):
    name = "slow"
    def estimate(self, *args, **kwargs):
        time.sleep(0.4)
        return super().estimate(*args, **kwargs)
""",
    'table = infoplane.analyze("runs/a", [Slow(relative_std=0.5)])\ntable',
    "plots.plane(table)",
    "plots.curves(table)",
    "plots.plane_grid(table)",
    'plots.animate(table, "a.gif", dpi=50)',
    'infoplane.report.write_report(table, "r.html")',
    'infoplane.advise("runs/a", "binning", progress=False)',
    'import sys\n"matplotlib.pyplot" in sys.modules',
]
PICTURE = "image/png"


@pytest.mark.extra
@pytest.mark.filterwarnings("ignore")
def test_a_fresh_kernel_shows_everything(tmp_path, monkeypatch):
    for module in ("nbclient", "nbformat", "ipykernel"):
        pytest.importorskip(module)
    monkeypatch.delenv("MPLBACKEND", raising=False)
    recorded, estimated, *shown_cells, state = kernel.outputs(CELLS, tmp_path)
    assert recorded == []
    bar, rows = estimated
    assert bar.data["text/plain"].startswith("estimating 100%|█")
    assert "<table>" in rows.data["text/html"]
    assert all(len(outputs) == 1 for outputs in shown_cells)
    data = [outputs[0].data for outputs in shown_cells]
    assert [PICTURE in each for each in data] == [True] * 3 + [False] * 3
    assert all(Image.open(io.BytesIO(base64.b64decode(each[PICTURE]))).width > 900 for each in data[:3])
    film, page, advice = (each["text/html"] for each in data[3:])
    assert film.startswith('<img src="data:image/gif;base64,')
    assert page.startswith('<iframe srcdoc="&lt;!DOCTYPE html&gt;')
    assert '<a href="r.html"' in page
    assert advice.startswith("<pre>")
    assert state[0].data["text/plain"] == "False"
