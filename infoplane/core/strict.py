"""JSON in one form: written with sorted keys and no spaces, read so that no two readers can take it differently."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from infoplane.core.text import shorten


def canonical_json(data: Any, what: str = "value") -> bytes:
    """Return data as ASCII JSON with sorted keys and no spaces; ValueError for NaN or infinity, TypeError for others.

    Others are values of types that JSON does not have. `what` names the data in the error.
    """
    try:
        return json.dumps(data, ensure_ascii=True, allow_nan=False, sort_keys=True, separators=(",", ":")).encode()
    except (ValueError, TypeError, RecursionError) as error:
        raise type(error)(f"{what} cannot be written as JSON: {error}") from error


def load_object(data: bytes) -> dict[str, Any]:
    """Return a JSON object: UTF-8, no NaN or infinity, no key twice in any object.

    Raises
    ------
    ValueError
        With the reason.
    """
    try:
        out = json.loads(data.decode("utf-8"), parse_constant=_refuse, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not valid JSON: {error}") from error
    if not isinstance(out, dict):
        raise ValueError(f"a JSON object expected, got {type(out).__name__}")
    return out


def _refuse(token: str) -> Any:
    """Raise ValueError for NaN and Infinity, which Python reads and JSON does not have."""
    raise ValueError(f"{token} is not JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the JSON object of these pairs; ValueError where a key is there twice, for readers take either value."""
    out = dict(pairs)
    if len(out) < len(pairs):
        twice = next(name for name, n in Counter(name for name, _ in pairs).items() if n > 1)
        raise ValueError(f"the key {shorten(twice, 40)!r} is there twice")
    return out
