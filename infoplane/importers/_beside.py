"""What stands in small files beside the activations: names of parts and classes, metrics."""

from __future__ import annotations

import csv
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from infoplane.core.labels import as_array
from infoplane.core.strict import load_object
from infoplane.core.warn import warn
from infoplane.importers._read import KINDS, read_entries

Metrics = dict[int, dict[str, float]]
Row = tuple[str, str, Mapping[str, Any]]
"""Where it stands, for messages; the step, as it is written; and its numbers by name."""


def names_in(file: str | os.PathLike[str]) -> list[str]:
    """The names in a file: the lines of a text, or the values of the one array in a file of arrays."""
    file = Path(file)
    if file.suffix.lower() not in KINDS:
        return _text(file).splitlines()
    arrays = list(read_entries(file).values())
    values = as_array(arrays[0], file.name) if len(arrays) == 1 else None
    if values is None or values.size != max(values.shape, default=0):
        raise ValueError(f"{file.name} should hold one array with one name or number for each row")
    # A whole number is a name without a point, as "3" for 3.0.
    return [str(int(v)) if isinstance(v, float) and v.is_integer() else str(v) for v in values.reshape(-1).tolist()]


def metrics_in(file: str | os.PathLike[str]) -> Metrics:
    """The metrics of each step in a CSV file with a column `step`, or in JSON `{step: {name: number}}`.

    Empty cells are left out.

    Raises
    ------
    ValueError
        For a file of another form, a step that is no whole number or comes twice, and a cell that is no number.
    """
    file = Path(file)
    found: Metrics = {}
    for where, step, numbers in (_json_rows if file.suffix.lower() == ".json" else _csv_rows)(file):
        if not step.isdecimal():
            raise ValueError(f"{where}: a step must be a whole number from 0, got {step!r:.40}")
        if int(step) in found:
            raise ValueError(f"{where}: step {int(step)} comes twice")
        found[int(step)] = {name: _number(where, name, value) for name, value in numbers.items()}
    return found


def _csv_rows(file: Path) -> Iterator[Row]:
    """Yield the rows of a CSV file; ValueError unless it begins with names, and each row has as many cells."""
    rows = list(csv.reader(_text(file).splitlines()))
    head = [name.strip() for name in rows[0]] if rows else []
    if head.count("step") != 1 or len(set(head)) < len(head):
        raise ValueError(f"{file.name} should begin with a line of names, each once, and step among them; got {head}")
    for line, row in enumerate(rows[1:], start=2):
        where = f"{file.name}, line {line}"
        if len(row) != len(head):
            raise ValueError(f"{where}: expected {len(head)} cells, got {len(row)}")
        cells = {name: cell.strip() for name, cell in zip(head, row, strict=True) if cell.strip()}
        yield where, cells.pop("step", ""), cells


def _json_rows(file: Path) -> Iterator[Row]:
    """Yield the entries of a JSON file `{step: {name: number}}`; ValueError for another form."""
    try:
        content = load_object(_text(file).encode())
    except ValueError as error:
        raise ValueError(f"{file.name}: {error}") from error
    for step, numbers in content.items():
        if not isinstance(numbers, dict):
            raise ValueError(f"{file.name}: expected {{step: {{name: number}}}}, got {numbers!r:.40} for {step!r:.40}")
        yield file.name, step, numbers


def _text(file: Path) -> str:
    """The content of a text file; ValueError where it is not UTF-8."""
    try:
        return file.read_text(encoding="utf-8-sig")  # with or without the mark that spreadsheets put in front
    except UnicodeDecodeError as error:
        raise ValueError(f"{file.name} is no text in UTF-8") from error


def _number(where: str, name: str, value: Any) -> float:
    """A value of a metric as a float; ValueError, with its place `where`, for what is no number."""
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {name!r:.40} must be a number, got {value!r:.40}") from error


def without_files(options: Mapping[str, Any], steps: Collection[int]) -> dict[str, Any]:
    """The options with each file of names or metrics replaced by what it holds; of metrics only the given steps."""
    read = dict(options)
    for name in ("parts", "label_names"):
        if isinstance(options.get(name), str | os.PathLike):
            read[name] = names_in(options[name])
    file = options.get("metrics")
    if isinstance(file, str | os.PathLike):
        found = metrics_in(file)
        read["metrics"] = {step: numbers for step, numbers in found.items() if step in steps}
        missing = len(found) - len(read["metrics"])  # a log of the training has more steps than were saved
        if missing:
            warn(f"{Path(file).name}: {missing} of {len(found)} steps have no activations and are left out")
    return read
