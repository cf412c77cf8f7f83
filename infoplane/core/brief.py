"""What a notebook prints of objects that hold arrays: sizes and ranges, not the numbers."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from infoplane.core.text import aligned, listed, printable, shorten

MOST_NAMES, MOST_CHARACTERS = 4, 60


class Brief:
    """A base of dataclasses of arrays, which are printed as a line for each field, arrays by shape and range."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Give the subclass this `__repr__` before `dataclass` would make one."""
        super().__init_subclass__(**kwargs)
        # `dataclass` leaves a __repr__ alone that the class itself has.
        if "__repr__" not in vars(cls):
            cls.__repr__ = Brief.__repr__  # type: ignore[method-assign]

    def __repr__(self) -> str:
        """Return the name of the class, then a line for each field."""
        # Only the subclasses are dataclasses.
        names = [field.name for field in fields(self)]  # type: ignore[arg-type]
        # Fields that a base has come last, and those of them that are empty are left out.
        declared = inspect.get_annotations(type(self))  # by this class itself
        names = [n for n in names if n in declared] + [n for n in names if n not in declared and getattr(self, n)]
        rows = [(name, brief(getattr(self, name))) for name in names]
        return "\n".join([type(self).__name__, *(f"  {line}" for line in aligned(rows))])


def brief(value: Any) -> str:
    """Return a value in a few words: `(50, 5), 2.1 to 10.8`, `12 of 250`, `fc1, fc2, fc3, fc4 and 8 more`."""
    if isinstance(value, np.ndarray):
        return f"({', '.join(map(str, value.shape))}){_range(value)}"
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        words = [str(each) for each in value if isinstance(each, str)]
        return (_names(words) if len(words) == len(value) else f"{len(value)} entries") or "none"
    if value is None:
        return "none"
    return shorten(printable(value if isinstance(value, str) else repr(value).partition("\n")[0]), MOST_CHARACTERS)


def _range(values: np.ndarray[Any, Any]) -> str:
    """Return what follows a shape: the extremes of numbers, how many booleans are true, or the different texts."""
    if values.dtype == bool:
        return f", {int(values.sum())} of {values.size} true"
    if values.dtype.kind not in "fiu":
        return f", {_names(list(dict.fromkeys(map(str, values.ravel().tolist()))))}".removesuffix(", ")
    known = values[np.isfinite(values)]
    return (f", {span(known)}" if known.size else ", no number") if values.size else ""


def span(values: np.ndarray[Any, Any]) -> str:
    """Return the range of the finite values, `2.1 to 10.8`, or the one value; `no value` where there are none."""
    known = values[np.isfinite(values)]
    low, high = (f"{end:.4g}" for end in (known.min(), known.max())) if known.size else ("no value",) * 2
    return low if low == high else f"{low} to {high}"


def _names(words: list[str]) -> str:
    """Return the first four texts, shortened, and how many others there are."""
    return listed([shorten(printable(word), MOST_CHARACTERS // 2) for word in words], MOST_NAMES)
