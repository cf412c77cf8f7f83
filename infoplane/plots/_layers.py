"""How each layer looks in a figure, and how it is found again there: colours, markers, names, ids of artists."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import Collection
from matplotlib.colors import to_rgba_array
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Annotation, Text

from infoplane.core.errors import choices
from infoplane.core.palette import block_colors, places_in_blocks
from infoplane.core.text import printable
from infoplane.core.tokens import layer_matches
from infoplane.plots._figure import Look, figure_of, slot_width
from infoplane.plots.style import layer_line, layer_marker, small_size, text_color
from infoplane.plots.text import fitted_names

PREFIX = "infoplane:"
"""What the ids of all artists of a layer begin with."""
END_SHARE = 0.17
"""Share of a figure's width that names beside the axes may take."""


@dataclass(frozen=True)
class LayerLook:
    """One layer in a figure: its key in the table, its name as shown, its colour, marker and line style."""

    key: str
    name: str
    color: Any
    marker: Any
    line: Any


def layer_looks(
    ax: Axes,
    layers: Sequence[str],
    look: Look,
    *,
    share: float = END_SHARE,
    colors: Sequence[Any] | None = None,
    marks: Mapping[str, str] | None = None,
) -> list[LayerLook]:
    """Return one LayerLook for each layer (or group, or run), in order: what `look` asks for, else the usual.

    The usual colours are `colors`, by default those of the palette. Names are shortened to `share` of the figure's
    width; `marks`, {layer: mark}, are put behind the names.
    """
    labels = chosen("labels", layers, look["labels"], layers)
    width, size = share * slot_width(ax), small_size(0.6)
    most = 20 if look["labels"] is None else 60  # letters; what the user wrote is kept longer
    fitted = fitted_names(map(str, labels), width, size, most=most)
    names = [fitted[str(label)] + (marks or {}).get(layer, "") for layer, label in zip(layers, labels, strict=True)]
    markers = [layer_marker(place) for place in places_in_blocks(layers)]
    looks = own_looks(layers, names, look, block_colors(layers) if colors is None else colors, markers)
    # Colours repeat after eight layers. Each further eight get another line style, which tells them apart.
    return [replace(one, line=layer_line(i // 8 if len(layers) > 8 else 0)) for i, one in enumerate(looks)]


def own_looks(
    keys: Sequence[str], names: Sequence[str], look: Look, colors: Sequence[Any], markers: Sequence[Any]
) -> list[LayerLook]:
    """Return one LayerLook for each of `keys` (layers, runs or steps), with the name that the figure shows of it.

    Colours and markers are those that `look` asks for, else `colors` and `markers`; all lines are solid.
    """
    colors, markers = chosen("colors", keys, look["colors"], colors), chosen("markers", keys, look["markers"], markers)
    return [LayerLook(*fields, "-") for fields in zip(keys, names, colors, markers, strict=True)]


def row_looks(
    ax: Axes, layers: Sequence[str], look: Look, *, share: float, marks: Mapping[str, str] | None = None
) -> list[LayerLook]:
    """Return the looks of layers that are the rows of a figure, as `layer_looks` does.

    Only the labels of `look` are used: in such figures colours and markers do not stand for layers.
    """
    return layer_looks(ax, layers, {**look, "colors": None, "markers": None}, share=share, marks=marks)


def chosen(
    what: str, keys: Sequence[str], wanted: Sequence[Any] | Mapping[str, Any] | None, usual: Sequence[Any]
) -> list[Any]:
    """Return one entry (a colour, marker or name) for each key, as a list: what the user `wanted`, else the `usual`.

    `wanted` is a sequence in the order of the keys, or a mapping from keys or globs; where several globs match a key
    the last one counts. ValueError where a glob matches no key, or the sequence is shorter than the keys; `what` is
    the name of the keyword for that error.
    """
    if wanted is None:
        return list(usual)
    if isinstance(wanted, Mapping):
        for pattern in wanted:
            if not any(layer_matches(key, pattern) for key in keys):
                raise ValueError(f"{what} names {pattern!r}, which is not drawn; {choices(pattern, keys)}")
        fitting = [[value for pattern, value in wanted.items() if layer_matches(key, pattern)] for key in keys]
        return [values[-1] if values else default for values, default in zip(fitting, usual, strict=True)]
    # A string is one entry for all, not a sequence of letters.
    entries = [wanted] * len(keys) if isinstance(wanted, str) else list(wanted)
    if len(entries) < len(keys):
        raise ValueError(f"{what} has {len(entries)} entries for {len(keys)}: {', '.join(map(printable, keys))}")
    return entries[: len(keys)]


def gid_of(layer: str, part: str) -> str:
    """Return the id by which an artist is found again, "infoplane:LAYER:PART", such as "infoplane:layer4.1:mean"."""
    name = re.sub(r"\s", "_", printable(layer))
    return f"{PREFIX}{name}:{part}"


def tag(artists: Any, layer: str, part: str) -> Any:
    """Set the id of an artist, or of each in a list, to that of this layer and part; return `artists`."""
    for artist in artists if isinstance(artists, list | tuple) else [artists]:
        artist.set_gid(gid_of(layer, part))
    return artists


def recolor(figure: Axes | Figure, layer: str, color: Any) -> None:
    """Give one layer another colour in a finished figure: its line, points, band and name.

    Parameters
    ----------
    figure : Axes or Figure
        What a plot function returned.
    layer : str
        Its key in the table. In figures of several runs, the name of the run or group where these have the colours.
    color : color
        Of Matplotlib.

    Raises
    ------
    ValueError
        If no artist is that of the layer.
    """
    tagged = [a for a in figure_of(figure).findobj(Artist) if str(a.get_gid() or "").startswith(PREFIX)]
    of_layer = [a for a in tagged if str(a.get_gid()).startswith(gid_of(layer, ""))]
    if not of_layer:
        known = dict.fromkeys(str(a.get_gid()).removeprefix(PREFIX).rpartition(":")[0] for a in tagged)
        raise ValueError(f"the figure draws no {layer!r}; {choices(layer, known)}")
    for artist in of_layer:
        paint(artist, color)


def paint(artist: Artist, color: Any) -> None:
    """Give an artist a new colour; what is white in it (the face of open markers, the edge of others) stays white."""
    if isinstance(artist, Text):
        artist.set_color(text_color(color))
        if isinstance(artist, Annotation) and artist.arrow_patch is not None:
            artist.arrow_patch.set_color(color)
    elif isinstance(artist, Line2D):
        # Read both before setting the colour of the line, which may change that of its markers, too.
        white_face, white_edge = is_white(artist.get_markerfacecolor()), is_white(artist.get_markeredgecolor())
        artist.set_color(color)
        artist.set_markerfacecolor("white" if white_face else color)
        artist.set_markeredgecolor("white" if white_edge else color)
    elif isinstance(artist, Collection | Patch):
        shape: Any = artist
        for get, put in ((shape.get_facecolor, shape.set_facecolor), (shape.get_edgecolor, shape.set_edgecolor)):
            old = to_rgba_array(get())  # (n, 4): red, green, blue and opacity; the opacity is kept
            new = np.tile(to_rgba_array(color)[:1], (len(old), 1))
            new[:, 3] = old[:, 3]
            painted = np.where(np.all(old[:, :3] == 1, axis=1, keepdims=True), old, new)
            put(painted if isinstance(artist, Collection) else tuple(painted[0]))


def is_white(color: Any) -> bool:
    """Return whether a colour, in any form that Matplotlib takes, is white; "none" is not."""
    rgba = to_rgba_array(color)  # no rows for "none"
    return bool(len(rgba) and np.all(rgba[:, :3] == 1))
