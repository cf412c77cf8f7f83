"""What goes with the gap, in the report of many runs."""

from __future__ import annotations

import re

import numpy as np
import pytest
from many_runs import a_run

from infoplane.report import report_html
from infoplane.report.associations import associated, section
from infoplane.results import ResultTable


def runs(count: int = 8, **gap: str) -> ResultTable:
    """Runs whose first layer falls as far as the gap is small; one has a name that is mark-up."""
    random, tables = np.random.default_rng(0), []
    for i, fall in enumerate(random.random(count)):
        curves = {("<fc>", "I(X;T)"): [1, 3, 3, 3 - fall], ("out", "I(X;T)"): [0, 1, 2, random.random()]}
        metrics = {"train loss": [0] * 4, "test loss": [2 - fall] * 4} | {name: [0] * 4 for name in gap}
        tables.append(a_run(f"r{i}<b>", curves, metrics=metrics, about={"n_weights": i % 3, "lr": i}))
    return ResultTable.concat(tables)


def test_the_section_has_map_points_and_numbers():
    page = report_html(runs())
    text = page[page.index('<section id="study"') : page.index('<section id="provenance"')]
    assert '<h2 id="study-title">Spearman with gap, over 8 runs</h2>' in text
    assert len(re.findall("<circle", text)) == 8
    assert "<title>r0&lt;b&gt;</title>" in text
    assert "&lt;fc&gt;, fall: -1.000" in text
    assert "8 columns tried on 8 runs" in text
    assert "<b>" not in text
    assert "style=" not in text
    assert report_html(runs()) == page


def test_a_control_goes_into_the_table():
    text = section(associated(runs(), "gap", "n_weights"))
    assert "Spearman with gap, given n_weights, over 8 runs" in text
    assert "<th>given n_weights</th>" in text


def test_where_nobody_would_look_there_is_none():
    assert section(associated(runs(4), None, None)) == ""
    without = runs().take(np.array([q != "train loss" for q in runs().quantity.tolist()]))
    assert section(associated(without, None, None)) == ""
    assert '<section id="study"' not in report_html(runs(4))


def test_why_there_is_none_is_said_or_raised_where_it_was_asked_for():
    several = runs(**{"train loss 2": "", "test loss 2": ""})
    assert "No association over the runs: several pairs fit a gap of loss" in section(associated(several, None, None))
    with pytest.raises(ValueError, match="no column 'gab'; closest: gap"):
        report_html(runs(), target="gab")
    with pytest.raises(ValueError, match="at least 5 configurations"):
        report_html(runs(4), control="n_weights")
