"""One position along the token axis of a layer, as a layer of its own: `block2[token=17]`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from infoplane.core.globs import name_matches
from infoplane.core.records import Layer, Probe
from infoplane.core.text import listed, printable

_KEY = re.compile(r"(?P<layer>.+)\[token=(?P<which>[^\[\]]*)\]", re.DOTALL)
_WHICH = re.compile(r"-?\d+|-?\d*:-?\d*(:[1-9]\d*)?")


def token_key(layer: str, position: int) -> str:
    """Return the name of one position of a layer, counted from 0."""
    return f"{layer}[token={position}]"


def split_token(key: str) -> tuple[str, str | None]:
    """Return the layer and what stands in `[token=...]`; None where the name is that of a whole layer."""
    found = _KEY.fullmatch(key)
    return (key, None) if found is None else (found["layer"], found["which"])


def token_position(key: str) -> int | None:
    """Return the position that a layer's name states, None for a whole layer."""
    which = split_token(key)[1]
    return int(which) if which is not None and which.isdecimal() else None


def token_range(which: str, count: int) -> range:
    """Return the positions out of `count` that `which` stands for: `*`, an integer, or `start:stop:step`.

    Negative numbers count from the end.

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
    if position is None or "-" in which or not name_matches(name, layer):  # a minus counts from the end
        return False
    # Without a minus, positions after this one do not matter: the layer may as well end behind it.
    try:
        return position in token_range(which, position + 1)
    except ValueError:  # no such position, or no form of one
        return False


def token_units(layer: Layer) -> dict[int, slice]:
    """Return the units of each position in the flattened layer; {} where what was recorded has no axis of tokens."""
    kept: Sequence[int]  # positions in the order in which their units lie
    if len(layer.unit_shape) > 1:  # (tokens, width)
        kept = range(layer.unit_shape[0])
    elif layer.reduction == "flatten" and len(layer.raw_shape) > 1:  # was (tokens, width)
        kept = range(layer.raw_shape[0])
    elif layer.reduction.startswith("tokens ") and layer.raw_shape:  # "tokens 0,-1": some positions of (tokens, width)
        kept = [int(p) % layer.raw_shape[0] for p in layer.reduction.removeprefix("tokens ").split(",")]
    else:
        return {}
    width = math.prod(layer.unit_shape) // max(1, len(kept))
    return {position: slice(i * width, (i + 1) * width) for i, position in enumerate(kept)}


def token_count(layer: Layer) -> int:
    """Return how many positions a layer's output has, also where the recorded values keep none; 0 without an axis."""
    if len(layer.unit_shape) > 1:
        return layer.unit_shape[0]
    has_axis = len(layer.raw_shape) > 1 or bool(token_units(layer))
    return layer.raw_shape[0] if has_axis else 0


def fitting_count(layer: Layer, probe: Probe) -> int:
    """Return how many positions a layer has; ValueError where the probe has labels for another number of them."""
    count = token_count(layer)
    if probe.positions not in (None, count):
        raise ValueError(
            f"layer {layer.key!r} has {count} positions, the probe has labels for {probe.positions}: expected labels "
            f"of shape ({probe.samples}, {count}), got {probe.labels.shape}"
        )
    return count


def doubt_positions(probe: Probe, layers: Iterable[Layer]) -> list[str]:
    """Return warnings, a line each, about labels for each position that do not fit these layers.

    Raises
    ------
    ValueError
        When no layer has as many positions as the labels.
    """
    if probe.positions is None:
        return []
    known = list(layers)
    fitting = [layer for layer in known if token_count(layer) == probe.positions]
    if not fitting:
        counts = listed([f"{printable(la.key)} {token_count(la) or 'none'}" for la in known], 4)
        raise ValueError(
            f"labels {probe.labels.shape} are one for each of {probe.positions} positions, and no layer has as many "
            f"({counts}); of several labels per sample pass one column, y[:, j]"
        )
    if any(token_units(layer) for layer in fitting):
        return []
    return [
        f"the labels are one for each of {probe.positions} positions, and no layer keeps them "
        f"({printable(fitting[0].key)}: {fitting[0].reduction}), so there will be no I(T;Y); record with "
        "reduce='flatten' or tokens([...])"
    ]
