"""One position along the token axis of a layer, as a layer of its own: `block2[token=17]`."""

from __future__ import annotations

import re

from infoplane.core.globs import name_matches

_KEY = re.compile(r"(?P<layer>.+)\[token=(?P<which>[^\[\]]*)\]", re.DOTALL)
_WHICH = re.compile(r"-?\d+|-?\d*:-?\d*(:[1-9]\d*)?")


def token_key(layer: str, position: int) -> str:
    """The name of one position of a layer, counted from 0."""
    return f"{layer}[token={position}]"


def split_token(key: str) -> tuple[str, str | None]:
    """The layer and what stands in `[token=...]`; None where the name is that of a whole layer."""
    found = _KEY.fullmatch(key)
    return (key, None) if found is None else (found["layer"], found["which"])


def token_position(key: str) -> int | None:
    """The position that a layer's name states, None for a whole layer."""
    which = split_token(key)[1]
    return int(which) if which is not None and which.isdecimal() else None


def token_range(which: str, count: int) -> range:
    """Positions out of `count` that `*`, an integer or `start:stop:step` stands for; negative ones from the end.

    Raises
    ------
    ValueError
        For another form, or when there is no such position.
    """
    if which == "*":
        which = ":"
    if not _WHICH.fullmatch(which):
        raise ValueError(f"a position is an integer, *, or start:stop:step, got [token={which}]")
    if ":" in which:
        found = range(*slice(*(int(part) if part else None for part in which.split(":"))).indices(count))
    else:
        at = int(which)
        found = range(at % count, at % count + 1) if -count <= at < count else range(0)
    if not found:
        raise ValueError(f"there is no position [token={which}] among {count} tokens")
    return found


def layer_matches(key: str, pattern: str) -> bool:
    """Whether a layer's name is `pattern` or matches it as a glob, in which `[token=...]` stands for positions.

    Positions are counted from the start: how many tokens the layer has is not known here.
    """
    if key == pattern:
        return True
    layer, which = split_token(pattern)
    if which is None:
        return name_matches(key, pattern)
    name, position = split_token(key)[0], token_position(key)
    if position is None or not name_matches(name, layer):
        return False
    if which == "*":
        return True
    if "-" in which:
        return False
    try:
        return position in token_range(which, position + 1)
    except ValueError:
        return False
