"""The tables of estimators in the pages are what the estimators declare."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from docs import tables
from infoplane.estimators import available, parse
from infoplane.estimators._registry import _ESTIMATORS

TOY = '''
"""A toy."""
from dataclasses import dataclass
from typing import ClassVar

from infoplane.estimators import Quantity, check_inputs, register


@register
@dataclass(frozen=True, kw_only=True)
class Toy:
    """Number of samples.

    :measures: how many samples
        there are
    :errs: never | nowhere
    :unit: samples
    """

    name: ClassVar[str] = "toy-of-the-tables"
    targets: ClassVar[frozenset[str]] = frozenset({"discrete"})
    guarantees: ClassVar[frozenset[str]] = frozenset({"blocks"})

    def bytes_per_snapshot(self, samples, units):
        return samples

    def estimate(self, t, y, *, x=None, x_ids=None):
        t, y, x_ids = check_inputs(t, y, x_ids, targets=self.targets, name=self.name)
        return {"samples": Quantity(value=t.new_full((len(t),), t.shape[1]), unit="samples")}
'''


@pytest.mark.parametrize("page", tables.PAGES)
def test_tables_are_as_the_estimators_declare(page):
    text = (tables.ROOT / page).read_text(encoding="utf-8")
    assert "<!-- table: " in text
    assert text == tables.with_tables(text, tables.own()), f"{page} is stale; run: python -m docs.tables"


@pytest.mark.parametrize("name", sorted(tables.own()))
def test_every_estimator_declares_every_cell(name):
    found = tables.declared(available()[name])
    wanted = {key for columns in tables.COLUMNS.values() for key in columns.values()}
    assert set(found) == wanted, f"the docstring of {name} must have a line for each of {sorted(wanted)}"


def test_one_file_is_enough_for_a_row_in_every_table(tmp_path: Path):
    path = tmp_path / "toy.py"
    path.write_text(TOY, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("toy", path)
    try:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
        assert parse("toy-of-the-tables").name == "toy-of-the-tables"
        page = "".join(f"<!-- table: {t} -->\n<!-- end of table -->\n" for t in [*tables.COLUMNS, "guarantees"])
        rows = [line for line in tables.with_tables(page, available()).splitlines() if "toy-of-the-tables" in line]
    finally:
        _ESTIMATORS.pop("toy-of-the-tables", None)
    assert rows == [
        "| `toy-of-the-tables` | how many samples there are |",
        "| `toy-of-the-tables` | how many samples there are |  |  |",
        "| `toy-of-the-tables` |  | samples | never \\| nowhere |  |  |  |",
        "| `toy-of-the-tables` | discrete | yes |  |  |  |  |",
    ]
