from __future__ import annotations

import math

import pytest
from report_table import meta, rows, table

from infoplane.report import doubts
from infoplane.results import ResultTable


def changed(change, *, where=lambda row: True, **how) -> ResultTable:
    return ResultTable.from_rows([change(row) if where(row) else row for row in rows(**how)], meta("first"))


def texts(table: ResultTable, kind: str) -> list[str]:
    return [d.text for d in doubts(table) if d.kind == kind]


def test_saturated_layers_are_named_with_their_ceiling():
    (text,) = texts(ResultTable.from_rows(rows(), meta("first")), "saturated")
    assert text.startswith("I(X;T) is at its ceiling (12 bits = log₂ N) in layer act1 (5 of 5)")


def test_each_estimate_has_its_own():
    found = [d.estimate for d in doubts(table()) if d.kind == "saturated"]
    assert found == ["binning, n_bins = 30", "binning, n_bins = 60"]


def test_chance_and_a_high_null_are_told_apart():
    below = changed(
        lambda r: r._replace(flags="below_null"), where=lambda r: (r.layer, r.quantity) == ("out", "I(T;Y)")
    )
    (text,) = texts(below, "below_null")
    assert text.endswith("in layer out (5 of 5).")
    assert texts(below, "high_null") == []
    high = changed(lambda r: r._replace(value=0.6), where=lambda r: r.quantity == "I(T;Y) null" and r.layer == "act2")
    assert "over 50% of H(Y) in layer act2 (5 of 5)" in texts(high, "high_null")[0]


def test_refused_snapshots_are_counted():
    lost = changed(
        lambda r: r._replace(value=math.nan, flags="nonfinite"), where=lambda r: r.layer == "act2" and r.step >= 100
    )
    assert "layer act2 (2 of 5)" in texts(lost, "nonfinite")[0]


def test_violations_of_data_processing_are_said_with_their_size():
    rising = changed(lambda r: r._replace(value=11.5), where=lambda r: r.quantity == "I(X;T)" and r.layer == "out")
    (text,) = texts(rising, "dpi")
    assert "In run first, 5 of 10 pairs of neighbouring layers violate the data-processing inequality" in text
    assert texts(ResultTable.from_rows(rows(), meta("first")), "dpi") == []


def test_bounds_and_single_runs():
    upper = changed(lambda r: r._replace(bound="upper"), where=lambda r: r.quantity == "I(X;T)")
    assert texts(upper, "bound")[0].startswith("I(X;T) is an upper bound.")
    assert len(texts(upper, "one_run")) == 1
    assert texts(table(), "one_run") == []


@pytest.mark.parametrize(
    "flag", ["out_of_range", "ties", "degenerate", "single_class", "few_samples", "out_of_domain", "unreliable"]
)
def test_every_flag_has_a_sentence(flag):
    flagged = changed(lambda r: r._replace(flags=flag), where=lambda r: r.layer in ("act2", "out"))
    (text,) = texts(flagged, flag)
    assert text.startswith("layers act2 (5 of 5), out (5 of 5) ")


def test_long_lists_of_layers_are_cut():
    many = tuple(f"layer{i}" for i in range(9))
    every = [row._replace(flags="ties") for row in rows(layers=many)]
    assert texts(ResultTable.from_rows(every), "ties")[0].split(" had ")[0].endswith("and 3 more")
