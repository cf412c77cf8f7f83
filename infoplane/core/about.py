"""What a user says about a run beside its data: hyper-parameters by name, scalars that JSON keeps exactly."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from infoplane.core.exact import fits_float64
from infoplane.core.text import printable, shorten

Scalar = bool | int | float | str | None
MOST_NAMES, MOST_CHARACTERS = 200, 200


def plain_about(about: object) -> dict[str, Scalar]:
    """Return the mapping with plain values: bool, int, float, str or None; a numpy or torch scalar as its number.

    Raises
    ------
    TypeError
        It is no mapping, a name is no text, or a value is of another kind.
    ValueError
        There are too many names, a text is empty or too long, or a number is not finite or beyond 2**53.
    """
    if not isinstance(about, Mapping):
        raise TypeError(f"about must be a mapping such as {{'lr': 0.1, 'width': 10}}, got {type(about).__name__}")
    if len(about) > MOST_NAMES:
        raise ValueError(f"about takes at most {MOST_NAMES} names, got {len(about)}")
    return {_name(name): _scalar(name, value) for name, value in about.items()}


def _name(name: object) -> str:
    """Return the name itself; TypeError where it is no text, ValueError unless it has 1 to 200 characters."""
    if not isinstance(name, str):
        raise TypeError(f"about: names must be text, got {name!r:.60}")
    if not 0 < len(name) <= MOST_CHARACTERS:
        raise ValueError(f"about: names must have 1 to {MOST_CHARACTERS} characters, got {shorten(repr(name), 60)}")
    return name


def _scalar(name: str, value: Any) -> Scalar:
    """Return a value as the scalar that JSON gives back; TypeError or ValueError where JSON would not keep it exactly.

    `name` is for the error. A value of a subclass, as of `str`, becomes one of the plain type.
    """
    if getattr(value, "ndim", None) == 0:  # numpy and torch scalars
        value = value.item()
    called = f"about: {shorten(printable(name), 60)}"
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        if len(value) > MOST_CHARACTERS:
            raise ValueError(f"{called} must have at most {MOST_CHARACTERS} characters, got {len(value)}")
        return str.__str__(value)
    if isinstance(value, int):
        if not fits_float64(value, value):
            raise ValueError(f"{called} must lie within 2**53 of 0, got {shorten(hex(value), 60)}; write it as text")
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{called} must be finite, got {value}; write it as text, or None")
        return float(value)
    raise TypeError(f"{called} must be a number, a text, a bool or None, got {type(value).__name__}")
