"""The one exception type of our own; everything else is a builtin."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from infoplane.core.text import printable


class StoreError(Exception):
    """A run directory or one of its files cannot be read or written."""


def closest(name: str, known: Iterable[str], n: int = 5) -> list[str]:
    """The `n` names most like `name`, printable, for the end of an error line."""
    known = list(known)
    found = difflib.get_close_matches(name.replace("*", ""), known, n=n, cutoff=0.3)
    return [printable(shown) for shown in found or known[:n]]
