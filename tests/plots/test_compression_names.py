"""Runs in the figure of compression scores are called as everywhere."""

from __future__ import annotations

import pytest
from synthetic import layer_rows

from infoplane import plots
from infoplane.results import ResultTable


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["runs/seed-0", "runs/seed-1"], ["seed-0", "seed-1"]),
        (["tanh/seed-0", "relu/seed-0"], ["tanh/seed-0", "relu/seed-0"]),
        (["runs/seed-0", ""], ["seed-0", "b2"]),
    ],
    ids=["each its own", "shared", "unknown"],
)
def test_runs_are_named_by_their_directories(paths, names):
    runs = dict(zip(("a1", "b2"), paths, strict=True))
    rows = [row for i, run in enumerate(runs) for row in layer_rows(run=run, seed=i)]
    table = ResultTable.from_rows(rows, {"runs": {run: {"path": path} for run, path in runs.items()}})
    assert list(plots.compression_data(table).names.values()) == names
    shown = [text.get_text() for text in plots.compression(table).get_legend().get_texts()]
    assert [name for name in shown if not name.startswith(("mean", "was"))] == names
