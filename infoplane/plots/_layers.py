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
    """One layer in a figure: its key in the table, its name as shown, and its looks."""

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
    """The looks of layers (or of groups, runs): as asked for, else `colors`, else those of the palette.

    Names take at most `share` of the width of the figure; behind them stand the `marks` of layers.
    """
    shown = chosen("labels", layers, look["labels"], layers)
    width, size = share * slot_width(ax), small_size(0.6)
    most = 20 if look["labels"] is None else 60
    names = [fitted_names(map(str, shown), width, size, most=most)[str(name)] for name in shown]
    names = [name + (marks or {}).get(layer, "") for layer, name in zip(layers, names, strict=True)]
    markers = [layer_marker(place) for place in places_in_blocks(layers)]
    found = own_looks(layers, names, look, block_colors(layers) if colors is None else colors, markers)
    # Where there are many layers each eight share a line style, which tells colours apart that come again.
    return [replace(of, line=layer_line(i // 8 if len(layers) > 8 else 0)) for i, of in enumerate(found)]


def own_looks(
    keys: Sequence[str], names: Sequence[str], look: Look, colors: Sequence[Any], markers: Sequence[Any]
) -> list[LayerLook]:
    """The looks of layers, runs or steps with these names: as asked for, else these colours and markers."""
    hues, shapes = chosen("colors", keys, look["colors"], colors), chosen("markers", keys, look["markers"], markers)
    return [LayerLook(*each, "-") for each in zip(keys, names, hues, shapes, strict=True)]


def row_looks(
    ax: Axes, layers: Sequence[str], look: Look, *, share: float, marks: Mapping[str, str] | None = None
) -> list[LayerLook]:
    """The looks of layers that are rows: only their names are chosen, since colours and markers mean something else."""
    return layer_looks(ax, layers, {**look, "colors": None, "markers": None}, share=share, marks=marks)


def chosen(
    what: str, keys: Sequence[str], wanted: Sequence[Any] | Mapping[str, Any] | None, usual: Sequence[Any]
) -> list[Any]:
    """One entry for each key: of a sequence in order, of a mapping by name or glob, else the usual ones."""
    if wanted is None:
        return list(usual)
    if isinstance(wanted, Mapping):
        for pattern in wanted:
            if not any(layer_matches(key, pattern) for key in keys):
                raise ValueError(f"{what} names {pattern!r}, which is not drawn; {choices(pattern, keys)}")
        own = [[value for pattern, value in wanted.items() if layer_matches(key, pattern)] for key in keys]
        return [found[-1] if found else default for found, default in zip(own, usual, strict=True)]
    entries = [wanted] * len(keys) if isinstance(wanted, str) else list(wanted)
    if len(entries) < len(keys):
        raise ValueError(f"{what} has {len(entries)} entries for {len(keys)}: {', '.join(map(printable, keys))}")
    return entries[: len(keys)]


def gid_of(layer: str, part: str) -> str:
    """The id by which an artist is found again, "infoplane:LAYER:PART", such as "infoplane:layer4.1:mean"."""
    name = re.sub(r"\s", "_", printable(layer))
    return f"{PREFIX}{name}:{part}"


def tag(artists: Any, layer: str, part: str) -> Any:
    """Give an artist, or each of several, the id of its layer and part."""
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
    found = [a for a in tagged if str(a.get_gid()).startswith(gid_of(layer, ""))]
    if not found:
        known = dict.fromkeys(str(a.get_gid()).removeprefix(PREFIX).rpartition(":")[0] for a in tagged)
        raise ValueError(f"the figure draws no {layer!r}; {choices(layer, known)}")
    for artist in found:
        paint(artist, color)


def paint(artist: Artist, color: Any) -> None:
    """Paint an artist in a new colour; what is white (open markers, rims) stays white."""
    if isinstance(artist, Text):
        artist.set_color(text_color(color))
        if isinstance(artist, Annotation) and artist.arrow_patch is not None:
            artist.arrow_patch.set_color(color)
    elif isinstance(artist, Line2D):
        face, edge = (is_white(c) for c in (artist.get_markerfacecolor(), artist.get_markeredgecolor()))
        artist.set_color(color)
        artist.set_markerfacecolor("white" if face else color)
        artist.set_markeredgecolor("white" if edge else color)
    elif isinstance(artist, Collection | Patch):
        drawn: Any = artist
        for get, put in ((drawn.get_facecolor, drawn.set_facecolor), (drawn.get_edgecolor, drawn.set_edgecolor)):
            old = to_rgba_array(get())
            new = np.tile(to_rgba_array(color)[:1], (len(old), 1))
            new[:, 3] = old[:, 3]
            painted = np.where(np.all(old[:, :3] == 1, axis=1, keepdims=True), old, new)
            put(painted if isinstance(artist, Collection) else tuple(painted[0]))


def is_white(color: Any) -> bool:
    """Whether a colour is white, in any form that Matplotlib takes."""
    rgba = to_rgba_array(color)
    return bool(len(rgba) and np.all(rgba[:, :3] == 1))
