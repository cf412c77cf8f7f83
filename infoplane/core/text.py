"""Names from strangers, shown: layer, run and metric names are data wherever they are printed or drawn."""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Sequence

# Control and format characters (bidirectional overrides among them), surrogates, private use, unassigned,
# line and paragraph separators: nothing that a reader could see as itself.
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def printable(text: object) -> str:
    """Return `text` in one line, with every character that shows nothing of itself as its escape (`\\x1b`)."""
    return "".join(map(_seen, str(text)))


@functools.cache
def _seen(char: str) -> str:
    """Return the character; a space for line breaks, tabs and other blanks, an escape for what shows nothing."""
    if char in "\n\r\t" or unicodedata.category(char) == "Zs":
        return " "
    return char.encode("unicode_escape").decode("ascii") if unicodedata.category(char) in _UNSEEN else char


def shorten(text: str, limit: int = 32) -> str:
    """Shorten a text to `limit` characters by leaving out its middle: names of layers differ at their ends."""
    if limit < 3:
        raise ValueError(f"limit must be at least 3 characters, got {limit}")
    if len(text) <= limit:
        return text
    head = (limit - 1) // 2
    return text[:head] + "…" + text[len(text) - (limit - 1 - head) :]


def listed(names: Sequence[str], most: int, what: str = "") -> str:
    """Return `a, b and 3 more layers`: the first `most` names, then how many more there are and the word `what`."""
    more = f" and {len(names) - most} more {what}".rstrip() if len(names) > most else ""
    return ", ".join(names[:most]) + more


def first_lines(lines: Sequence[str], others: str, most: int = 10) -> list[str]:
    """Return the first `most` lines; for any more, one line: `others`, in which `{}` stands for their number."""
    return [*lines[:most], others.format(len(lines) - most)] if len(lines) > most else list(lines)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a line for each row, with the cells of a column below one another; control characters are escaped."""
    shown = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in shown]
