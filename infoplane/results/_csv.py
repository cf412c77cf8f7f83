"""The text form of the results table: one physical line a row, every number and name exact.

A name may hold anything, and a torn file must be recognisable by its last byte. So control and direction
characters, lone surrogates and the backslash are written as backslash escapes, and a row never spans two
lines. A cell of text that a spreadsheet would run as a formula (leading = + - @) is written behind an
apostrophe, which reading takes off again; a text that begins with an apostrophe gets a second one.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from infoplane.core.records import Array

NAN = float("nan")


class Row(NamedTuple):
    """One quantity of one layer at one step; the fields are the columns of the table, in order."""

    run: str
    step: int
    epoch: float
    layer: str
    depth: int
    subset: str
    estimator: str
    config: str
    n_samples: int
    n_units: int
    quantity: str
    estimand: str = ""
    value: float = NAN
    low: float = NAN
    high: float = NAN
    bound: str = "point"
    ceiling: float = NAN
    unit: str = "bit"
    flags: str = ""
    source: str = ""
    partner: str = ""


COLUMNS: tuple[str, ...] = Row._fields
KEY: tuple[str, ...] = ("run", "step", "layer", "subset", "estimator", "config", "quantity", "source", "partner")
"""Columns that together tell one row from every other."""
INTEGERS: frozenset[str] = frozenset({"step", "depth", "n_samples", "n_units"})
"""Columns of whole numbers."""
FLOATS: frozenset[str] = frozenset({"epoch", "value", "low", "high", "ceiling"})
"""Columns of real numbers; all columns that are neither hold text."""
_TYPES: dict[str, Any] = {**dict.fromkeys(INTEGERS, np.int64), **dict.fromkeys(FLOATS, np.float64)}
HEADER: bytes = (",".join(COLUMNS) + "\n").encode()
ADDED: tuple[str, ...] = ("partner",)
"""Last columns that tables of earlier releases have not: read as empty texts."""
OLD_HEADER: bytes = (",".join(c for c in COLUMNS if c not in ADDED) + "\n").encode()

# Control characters, the backslash, marks that hide or turn around text, and halves of surrogate pairs.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\\\\\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
_ESCAPE = re.compile(r"\\(n|r|t|\\|x[0-9a-f]{2}|u[0-9a-f]{4})")
# Escapes of one letter, written and read.
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\\": "\\\\"}
_LONG = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\"}
# With these a spreadsheet begins a formula; the apostrophe is the mark that says "text".
_FORMULA = frozenset("=+-@'＝＋－＠")
# Texts that are quoted: with a separator of any spreadsheet, a quote, or a space at an end.
_QUOTED = re.compile("[\",;'|]|^ | $")
_DAMAGED = "the table is damaged: delete it and analyse again"


def visible(text: str) -> str:
    """Return the text with control characters, invisible marks and backslashes written as backslash escapes.

    A terminal or a spreadsheet could act on such characters, and a line break would end the row.
    """
    return _UNSAFE.sub(_escape_one, text)


def _escape_one(match: re.Match[str]) -> str:
    """Return the backslash escape of the character that was matched."""
    c = match.group()
    return _SHORT.get(c) or (f"\\x{ord(c):02x}" if ord(c) < 256 else f"\\u{ord(c):04x}")


def _unescape_one(match: re.Match[str]) -> str:
    """Return the character that the matched backslash escape stands for."""
    code = match.group(1)
    return _LONG.get(code) or chr(int(code[1:], 16))


def format_text(text: str) -> str:
    """Return a text as one cell, escaped and quoted where it must be; `parse_text` gives it back exactly."""
    text = visible(text)
    if text and text[0] in _FORMULA:
        text = "'" + text
    return '"' + text.replace('"', '""') + '"' if _QUOTED.search(text) else text


def parse_text(cell: str) -> str:
    """Return the text that `format_text` has written as this cell: undo escapes, and remove a leading apostrophe.

    The CSV reader has removed the quotes of the cell already. The apostrophe keeps spreadsheets from running a formula.
    """
    if cell[:1] == "'":
        cell = cell[1:]
    return _ESCAPE.sub(_unescape_one, cell) if "\\" in cell else cell


def format_float(value: float) -> str:
    """Return the shortest decimal text that reads back as the same float64; "" for NaN."""
    return "" if value != value else repr(float(value))


def format_rows(rows: Iterable[Row]) -> bytes:
    """Return the rows as lines of the table, without its header."""
    # Column by column, since the function for a column keeps the texts of cells that occur again.
    columns = zip(COLUMNS, zip(*rows, strict=True), strict=False)  # without rows `zip` gives no columns
    cells = [list(map(_writer(name), column)) for name, column in columns]
    return "".join(",".join(line) + "\n" for line in zip(*cells, strict=True)).encode()


def _writer(column: str) -> Callable[[Any], str]:
    """Return the function that writes a value of this column as the text of a cell."""
    if column in FLOATS:
        return format_float
    # `int`, so that a bool is written as 0 or 1.
    return cache((lambda value: str(int(value))) if column in INTEGERS else format_text)


def with_added_columns(data: bytes) -> bytes:
    """Bring a table written by an older release up to date: add the columns that it lacks, with empty cells.

    `data` must hold complete lines; a table that has all columns is returned as it is.
    """
    if not data.startswith(OLD_HEADER):
        return data
    # Each line is one row: a comma before its end adds an empty cell.
    return HEADER + data[len(OLD_HEADER) :].replace(b"\n", b"," * len(ADDED) + b"\n")


def whole_lines(data: bytes) -> bytes:
    """Return `data` up to and with its last line break: a last line without one was not written completely."""
    return data[: data.rfind(b"\n") + 1]


def parse_table(data: bytes, path: Path) -> dict[str, Array]:
    """Return the columns of a table file as arrays (rows,); an incomplete last line is dropped.

    Columns may stand in any order, and unknown ones are ignored. Where `partner` is missing, as in tables of earlier
    releases, it is "". `path` is for errors.

    Raises
    ------
    ValueError
        A column is missing, or a line does not have as many fields as the header or holds no number
        where one belongs; the line says which.
    """
    try:
        text = whole_lines(data).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 at byte {error.start}; is it a results table?") from None
    if "\0" in text:
        at = text.count("\n", 0, text.index("\0")) + 1
        raise ValueError(f"{path} line {at} holds a NUL character; {_DAMAGED}")
    reader = csv.reader(text.split("\n")[:-1], strict=True)
    try:
        return typed_columns(_columns(reader, path))
    except csv.Error as error:
        raise ValueError(f"{path} line {reader.line_num}: {error}; {_DAMAGED}") from None


def _columns(lines: Iterator[list[str]], path: Path) -> dict[str, list[Any]]:
    """Return {column: list of its values} from the lines, each a list of cells; the first line is the header.

    ValueError for a missing column, a line with more or fewer fields than the header, and a cell that cannot be read.
    """
    header = next(lines, list(COLUMNS))
    check_header(header, path)
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    readers = {name: _reader(name) for name in COLUMNS}
    # 256 lines at a time: so few stay in the processor's cache, which makes turning rows into columns fast.
    while piece := list(islice(lines, 256)):
        widths = list(map(len, piece))
        if set(widths) != {len(header)}:
            at = next(i for i, width in enumerate(widths) if width != len(header))
            line = len(columns["run"]) + at + 2  # the header is line 1
            raise ValueError(f"{path} line {line} has {widths[at]} fields, expected {len(header)}; {_DAMAGED}")
        cells = list(zip(*piece, strict=True))
        for name, column in columns.items():
            try:
                column += map(readers[name], cells[header.index(name)] if name in header else [""] * len(piece))
            except ValueError as error:
                # `+=` has added the cells before the bad one, so that the length of the column says which line it is.
                raise ValueError(f"{path} line {len(column) + 2}: {name} {error}") from None
    return columns


def check_header(line: Sequence[str], path: Path) -> None:
    """Raise ValueError if the header `line` lacks a column, other than those added since earlier releases."""
    if missing := [c for c in COLUMNS if c not in line and c not in ADDED]:
        raise ValueError(
            f"{path} is no results table: column{'s' * (len(missing) > 1)} {', '.join(missing)} missing, "
            f"got {visible(', '.join(line))[:200]}; expected {', '.join(COLUMNS)}"
        )


class _Memo(dict[str, Any]):
    """Values of cells by their text: `read` is called once for each distinct text, since most cells repeat."""

    # A dictionary takes half as long as `functools.cache` to find a text that was read before.
    def __init__(self, read: Callable[[str], Any]) -> None:
        self.read = read

    def __missing__(self, cell: str) -> Any:
        """Read a cell that is met for the first time, and keep its value."""
        value = self[cell] = self.read(cell)
        return value


def _reader(column: str) -> Callable[[str], Any]:
    """Return the function that reads the text of a cell of this column."""
    if column in ("value", "low", "high"):  # hardly any two are equal: remembering them would not pay
        return _float
    return _Memo(_int64 if column in INTEGERS else _float if column in FLOATS else parse_text).__getitem__


def by_value(cells: Sequence[Any], function: Callable[[Any], Any], dtype: Any = object) -> Array:
    """Return an array (rows,) of `function(cell)` for every cell; it is called once for each distinct cell."""
    found = {cell: function(cell) for cell in set(cells)}
    out = np.empty(len(cells), dtype)
    out[:] = [found[cell] for cell in cells]
    return out


def typed_columns(columns: Mapping[str, Any]) -> dict[str, Array]:
    """Return the columns as arrays (rows,) of the table's types; ValueError unless all are as long as `run`.

    A column that earlier releases did not have may be missing: it gets empty texts.
    """
    added = {c: [""] * len(columns["run"]) for c in ADDED if c not in columns}
    arrays = {c: np.asarray(added[c] if c in added else columns[c], dtype=_TYPES.get(c, object)) for c in COLUMNS}
    rows = arrays["run"].shape[:1]
    for name, array in arrays.items():
        if array.shape != rows:
            raise ValueError(f"column {name} must have shape {rows} as run has, got {array.shape}")
    return arrays


def _float(cell: str) -> float:
    """Return the number in a cell, NaN for an empty one; ValueError for anything else."""
    if not cell:
        return NAN
    try:
        return float(cell)
    except ValueError:
        raise ValueError(f"must be a number, got {visible(cell)[:40]!r}") from None


def _int64(cell: str) -> int:
    """Return the whole number in a cell; ValueError where there is none, or it needs more than 64 bits."""
    try:
        number = int(cell)
    except ValueError:
        raise ValueError(f"must be an integer, got {visible(cell)[:40]!r}") from None
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"must fit 64 bits, got {number}")
    return number
