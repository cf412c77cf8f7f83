"""Columns of any kind as a CSV that a spreadsheet may open: exact numbers, and texts that are no formulas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from infoplane.results._csv import format_float, format_text


def csv_bytes(columns: Mapping[str, Sequence[object]]) -> bytes:
    """Return equally long columns as the bytes of a CSV with a header.

    None and NaN are empty cells; texts are written as in a results table.
    """
    lines = [map(format_text, columns), *(map(_cell, row) for row in zip(*columns.values(), strict=True))]
    return "".join(",".join(line) + "\n" for line in lines).encode()


def _cell(value: object) -> str:
    """Return the text of one cell: a float that is a whole number without its ".0", a bool as True or False."""
    if value is None:
        return ""
    if isinstance(value, float | np.floating):
        return format_float(float(value)).removesuffix(".0")
    return format_text(str(value)) if isinstance(value, str) else str(value)
