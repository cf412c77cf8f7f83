"""Colours of layers, the same in every figure and in the report."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Okabe and Ito, "Color universal design", 2008; yellow last, for it is faint on white.
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9", "#F0E442")

# Viridis (van der Walt and Smith, 2015) at equal distances up to 0.92: its palest end is lost on white.
VIRIDIS = ("#440154", "#482979", "#3e4c8a", "#2f6b8e", "#24868e", "#1fa287", "#3fbc73", "#7fd34e", "#cae11f")

# Dark red to pale orange, lighter with every step: no colour of it lies on the map of the steps, viridis.
EMBERS = ("#2d0a12", "#5c1220", "#8f1d22", "#bf3a1e", "#dd6425", "#ee9144", "#f6bb78")

MOST_COLORS = 20
"""Layers beyond which the layers of a block share a colour."""


def layer_colors(n: int) -> list[str]:
    """Return a colour for each of `n` layers: Okabe and Ito's for up to eight, else dark red to pale orange."""
    if n <= len(OKABE_ITO):
        return list(OKABE_ITO[:n])
    return [along(EMBERS, i / (n - 1)) for i in range(n)]


def block_colors(layers: Sequence[str]) -> list[str]:
    """Return a colour for each layer; layers of one block (see `blocks_of`) share a colour."""
    blocks = blocks_of(layers)
    shared = list(dict.fromkeys(blocks))
    colors = dict(zip(shared, layer_colors(len(shared)), strict=True))
    return [colors[block] for block in blocks]


def blocks_of(layers: Sequence[str]) -> list[str]:
    """Return the name of the block of each layer.

    Up to twenty layers are blocks of their own. Of more, a block is all layers whose dotted names begin with the same
    parts, "layer4" of "layer4.1.relu": as many parts as leave at most twenty blocks.
    """
    if len(layers) <= MOST_COLORS:
        return list(layers)
    for parts in range(max(layer.count(".") for layer in layers), 0, -1):
        blocks = [".".join(layer.split(".")[:parts]) for layer in layers]
        if len(set(blocks)) <= MOST_COLORS:
            return blocks
    # Even the first parts of the names are more than twenty: each twentieth of the layers, in order, is a block.
    return [str(i * MOST_COLORS // len(layers)) for i in range(len(layers))]


def places_in_blocks(layers: Sequence[str]) -> list[int]:
    """Return the place of each layer in its block, from 0; where every layer is its own block, its place among all."""
    blocks = blocks_of(layers)
    alone = blocks == list(layers)
    return [i if alone else blocks[:i].count(block) for i, block in enumerate(blocks)]


def along(colors: tuple[str, ...], share: float) -> str:
    """Return the colour at `share` (0 to 1) of the way through `colors`, interpolated in sRGB, as `#rrggbb`."""
    channels = np.array([list(bytes.fromhex(color[1:])) for color in colors]).T  # (3, colours): red, green, blue
    place = share * (len(colors) - 1)
    return "#" + bytes(round(float(np.interp(place, range(len(colors)), channel))) for channel in channels).hex()
