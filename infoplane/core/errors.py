"""The one exception type of our own; everything else is a builtin."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from infoplane.core.text import printable


class StoreError(Exception):
    """A run directory or one of its files cannot be read or written."""


def closest(name: str, known: Iterable[str], n: int = 5) -> list[str]:
    """Return the `n` known names most like `name`, printable, for the end of an error line.

    Capitals do not count. Where no name is like it, the first `n` are returned.
    """
    known = list(known)
    return [printable(shown) for shown in (_near(name, known, cutoff=0.3) or known)[:n]]


def choices(name: str, known: Iterable[str]) -> str:
    """Return the end of an error line like "no preset 'saxe'; ...": the nearest name, if one is near, and all names."""
    known = list(known)
    near = "".join(f"closest: {printable(one)}; " for one in _near(name, known, cutoff=0.5)[:1])
    return f"{near}available: {', '.join(map(printable, known)) or 'none'}"


def _near(name: str, known: list[str], cutoff: float) -> list[str]:
    """Return up to five known names like `name`, the nearest first; names that differ in capitals alone count once.

    `cutoff` is the least likeness, 0 to 1. Asterisks in `name`, which may be a glob, do not count.
    """
    folded: dict[str, list[str]] = {}  # lower-case name -> the names that differ from it in capitals alone
    for one in known:
        folded.setdefault(one.casefold(), []).append(one)
    wanted = name.replace("*", "").casefold()
    return [one for key in difflib.get_close_matches(wanted, folded, n=5, cutoff=cutoff) for one in folded[key]]
