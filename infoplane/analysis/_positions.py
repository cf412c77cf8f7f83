"""Which layers, and which positions along their token axis, an analysis estimates on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from infoplane.core.errors import closest
from infoplane.core.records import Layer
from infoplane.core.tokens import split_token, token_key, token_range
from infoplane.store import ActivationStore


def token_units(layer: Layer) -> dict[int, slice]:
    """Position -> its units in the flattened layer; empty where what was recorded has no axis of tokens."""
    kept: Sequence[int]
    if len(layer.unit_shape) > 1:
        kept = range(layer.unit_shape[0])
    elif layer.reduction == "flatten" and len(layer.raw_shape) > 1:
        kept = range(layer.raw_shape[0])
    elif layer.reduction.startswith("tokens ") and layer.raw_shape:
        kept = [int(p) % layer.raw_shape[0] for p in layer.reduction.removeprefix("tokens ").split(",")]
    else:
        return {}
    width = math.prod(layer.unit_shape) // max(1, len(kept))
    return {position: slice(i * width, (i + 1) * width) for i, position in enumerate(kept)}


def at_token(layer: Layer, position: int | None) -> Layer:
    """The record of one position of a layer, of the whole layer for None."""
    if position is None:
        return layer
    units = token_units(layer)[position]
    return replace(layer, key=token_key(layer.key, position), unit_shape=(units.stop - units.start,))


def choose_layers(store: ActivationStore, wanted: str | Sequence[str] | None) -> list[tuple[str, int | None]]:
    """Layer and position (None: the whole layer) in forward order, from names, globs and `layer[token=...]`.

    Raises
    ------
    ValueError
        Nothing matches, the layer has no axis of tokens, or it has no such position.
    """
    known = [layer.key for layer in store.layers]
    if wanted is None:
        return [(key, None) for key in known]
    found: set[tuple[str, int | None]] = set()
    for pattern in [wanted] if isinstance(wanted, str) else list(wanted):
        name, which = (pattern, None) if pattern in known else split_token(pattern)
        hits = [name] if name in known else [key for key in known if fnmatchcase(key, name)]
        if not hits:
            raise ValueError(
                f"no layer of {store.path} matches {pattern!r}; closest: {', '.join(closest(name, known))}"
            )
        found.update([(key, None) for key in hits] if which is None else _positions(store, pattern, hits, which))
    if not found:
        raise ValueError("layers must name at least one layer, got none; leave it out for all")
    order = {key: i for i, key in enumerate(known)}
    return sorted(found, key=lambda each: (order[each[0]], -1 if each[1] is None else each[1]))


def _positions(store: ActivationStore, pattern: str, keys: Sequence[str], which: str) -> list[tuple[str, int | None]]:
    """Positions of those of the layers that have tokens, of which there must be one."""
    found: list[tuple[str, int | None]] = []
    for key in keys:
        layer = store.layer(key)
        units = token_units(layer)
        if not units:
            continue
        count = max(units) + 1 if len(layer.raw_shape) < 2 else layer.raw_shape[0]
        chosen = [p for p in token_range(which, count) if p in units]
        if not chosen:
            raise ValueError(f"layer {key!r} was recorded at tokens {', '.join(map(str, units))}, none of {pattern!r}")
        found += [(key, position) for position in chosen]
    if not found:
        layer = store.layer(keys[0])
        raise ValueError(
            f"{pattern!r} needs a layer with an axis of tokens; {layer.key!r} was recorded as "
            f"{layer.reduction!r} with shape {layer.unit_shape}: use reduce='flatten' or tokens([...])"
        )
    return found
