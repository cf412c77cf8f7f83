"""Which layers a figure draws where nobody chose any, what it says of the others, and how violations are counted."""

from __future__ import annotations

import json

import pytest
import torch
from synthetic import LAYERS, table
from torch import nn

from infoplane import Recorder, analyze, plots, read_table
from infoplane.report import doubts
from infoplane.results import ResultTable
from infoplane.results.views import choose, default_layers

X, Y = torch.randn(60, 3, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 2


def record(run, layers=None):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    with Recorder(model, (X, Y), run, layers=layers, quiet=True) as recorder:
        recorder.snapshot(0)
    return analyze(run, "binning:n_bins=4", progress=False)


@pytest.mark.parametrize(
    ("layers", "drawn", "said"),
    [
        (None, ["1", "3", "4"], "2 of 5 layers not drawn: 0, 2"),
        (["0", "2"], ["0", "2", "4"], ""),
        (nn.Linear, ["0", "2", "4"], ""),
        (["0", "1"], ["0", "1", "4"], ""),
    ],
)
def test_layers_that_were_named_are_drawn(tmp_path, layers, drawn, said):
    found = record(tmp_path / "run", layers)
    assert default_layers(found) == drawn
    for data in (
        plots.plane_data(found),
        plots.curve_data(found),
        plots.heatmap_data(found),
        plots.compare_data(found),
    ):
        assert [part for part in data.caption if "not drawn" in part] == ([said] if said else [])
    assert not [part for part in plots.plane_data(found, layers=drawn[:1]).caption if "not drawn" in part]


def test_a_run_that_does_not_tell_how_layers_were_chosen_is_drawn_by_roles(tmp_path):
    record(tmp_path / "run", ["0", "1"])
    about = json.loads((tmp_path / "run" / "results.json").read_text())
    for known in about["runs"].values():
        assert known["settings"].pop("selection") == "named"
    (tmp_path / "run" / "results.json").write_text(json.dumps(about))
    assert default_layers(read_table(tmp_path / "run")) == ["1", "4"]


def test_violations_are_counted_over_one_chain_everywhere():
    """The chain has layers that the figure leaves out; the count is that of the table."""
    rows = [r._replace(value=r.value + 3 * (r.layer == "act4")) if r.quantity == "I(X;T)" else r for r in table()]
    whole = ResultTable.from_rows(rows, table().meta)
    (row,) = whole.dpi()
    assert row.pairs == (len(LAYERS) - 1) * len(set(whole.step))
    few = {"layers": ["act1", "act4"]}
    assert choose(whole, **few).dpi() == [row]
    (said,) = (part for part in plots.plane_data(whole, **few).caption if part.startswith("DPI"))
    assert said == f"DPI violated in {100 * row.share:.3g} % of {row.pairs} pairs"
    assert plots.dpi_data(whole).rows == [row]
    (line,) = (line for line in repr(whole).splitlines() if "data processing" in line)
    assert line.startswith(f"I(X;T) rises to the next layer in {row.violations} of {row.pairs} pairs")
    (doubt,) = (doubt.text for doubt in doubts(whole) if doubt.kind == "dpi")
    assert f"{row.violations} of {row.pairs} pairs" in doubt
