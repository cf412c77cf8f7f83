"""Which method a value is by, where its estimator chose between several: what `prepare` noted of it in `config`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from infoplane.results.table import ResultTable

MARKS = "†‡§¶"
"""Marks in figures, for layers that are by another method than most."""


def choice_of(config: str, quantity: str) -> tuple[str, str]:
    """Return the method that an estimator chose for a quantity, and the reason; both "" where it does not choose.

    `config` is a cell of the table, the JSON text in which the estimator noted its choice.
    """
    if '"branch"' not in config:
        return "", ""
    # An estimator may choose one method for I(X;T), noted as `branch_xt`, and another for what is about labels.
    noted, suffix = prepared_fields(config), "_xt" if "(X;T" in quantity else ""
    branch, reason = noted.get(f"branch{suffix}"), noted.get(f"reason{suffix}")
    return (branch, reason if isinstance(reason, str) else "") if isinstance(branch, str) else ("", "")


def prepared_fields(config: str) -> dict[str, Any]:
    """Return what the estimator's `prepare` noted in `config`, a JSON text; {} where it noted nothing.

    Of a wrapper around an estimator it is what the innermost one noted.
    """
    found = json.loads(config).get("prepared")
    while isinstance(found, dict) and isinstance(found.get("estimator"), dict):
        found = found["estimator"]
    return found if isinstance(found, dict) else {}


def by_method(table: ResultTable, quantities: Iterable[str] | None = None) -> dict[str, list[str]]:
    """Return {words for the methods: the layers with these}, the one with most layers first.

    Words are `knn`, or `I(X;T) by flow, I(T;Y) by knn` where the methods of a layer differ between quantities. Only
    these `quantities` count, by default all. {} where no estimator chose between methods.
    """
    wanted = None if quantities is None else set(quantities)
    of_layer: dict[str, dict[tuple[str, str], None]] = {}
    rows = zip(table.layer.tolist(), table.quantity.tolist(), table.branch.tolist(), strict=True)
    for layer, quantity, branch in dict.fromkeys(rows):
        # All quantities means those whose name ends in ")": names of nulls and bounds end in a word, as " null".
        if branch and (quantity in wanted if wanted is not None else quantity.endswith(")")):
            of_layer.setdefault(layer, {})[quantity, branch] = None
    found: dict[str, list[str]] = {}
    for layer, pairs in of_layer.items():
        branches = list(dict.fromkeys(branch for _, branch in pairs))
        words = branches[0] if len(branches) == 1 else ", ".join(f"{q} by {branch}" for q, branch in pairs)
        found.setdefault(words, []).append(layer)
    return dict(sorted(found.items(), key=lambda each: -len(each[1])))
