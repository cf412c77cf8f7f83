"""Globs over dotted names of layers: the same in the recorder, the analysis, the table of results and the figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase


def name_matches(name: str, pattern: str) -> bool:
    """Whether a dotted name fits a glob.

    `*` and `?` stay within one part of a name, and `**` as a part of its own stands for any number of parts, none
    included: `encoder.*.act`, `**.act`, `encoder.**`.
    """
    return _parts_match(name.split("."), pattern.split("."))


def _parts_match(name: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether the parts of a name fit those of a glob, one after the other."""
    if not pattern:
        return not name
    if pattern[0] == "**":
        return any(_parts_match(name[i:], pattern[1:]) for i in range(len(name) + 1))
    return bool(name) and fnmatchcase(name[0], pattern[0]) and _parts_match(name[1:], pattern[1:])


def across_parts(pattern: str, names: Iterable[str]) -> str:
    """Return the end of an error line about a glob that fits none of `names`: what to write where `*` meant dots too.

    "" where no name would fit with that either.
    """
    names = list(names)
    meant = [name for name in names if fnmatchcase(name, pattern)]
    if not meant:
        return ""
    # Globs with ** that the user may have meant; the first that fits exactly the names in `meant` is offered.
    tries = ("**",) if pattern == "*" else (f"{pattern}.**", f"**.{pattern.removeprefix('*.')}", f"**.{pattern}")
    fits = (one for one in tries if [name for name in names if name_matches(name, one)] == meant)
    return f"; * stays within one part of a dotted name and ** stands for any number: {next(fits, '**')!r}"
