"""Text on figures: names from strangers made safe, labels kept apart, captions wrapped.

Layer, run and metric names are data. Matplotlib reads `$` as mathematics, drops legend labels that begin
with an underscore, and cannot draw control characters; a name must neither lose the figure nor act.
"""

from __future__ import annotations

import functools
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.textpath import TextPath

from infoplane.core.text import printable, shorten

WITH = " with "
"""What joins the names of a pair of layers."""
_FONT = ("family", "sans-serif", "serif", "monospace", "cursive", "fantasy", "style", "variant", "weight", "stretch")
"""The settings `font.family` and so on that say which font text is in."""


def safe_text(text: object, *, limit: int = 32, legend: bool = False) -> str:
    """Return an untrusted string as text for Matplotlib in which every character is shown and none has an effect.

    Parameters
    ----------
    limit : int
        Longest text shown; the middle of a longer one is left out.
    legend : bool
        The text becomes the label of an artist, where a leading underscore means "not in the legend": a
        space is put before it.

    Returns
    -------
    str
        One line in which `$` is escaped; never empty.
    """
    # Shortened twice: first so that a huge text takes no time, then since escapes have made the text longer.
    shown = shorten(printable(shorten(str(text), 4 * limit)), limit).strip() or "(no name)"
    return (" " if legend and shown.startswith("_") else "") + shown.replace("$", r"\$")


def safe_names(names: Iterable[str], *, limit: int = 32, legend: bool = False) -> dict[str, str]:
    """Return {name: its `safe_text`}; where shortening or escaping made two texts equal, the later one is numbered."""
    out: dict[str, str] = {}
    used: Counter[str] = Counter()
    for name in dict.fromkeys(names):
        shown = safe_text(name, limit=limit, legend=legend)
        used[shown] += 1
        out[name] = shown if used[shown] == 1 else f"{shown} ({used[shown]})"
    return out


def fitted_names(names: Iterable[str], width: float, size: float, *, most: int = 20) -> dict[str, str]:
    """Return {name: text to show}, each text at most `most` letters long and, if possible, at most `width` points wide.

    These are tried in turn: the full names, the names without the parts that all share, their last two parts, and names
    with letters left out. Different names keep different texts. `size` is that of the font, in points.
    """
    full = list(dict.fromkeys(names))
    if not full:
        return {}
    without_shared = shortened(without_shared_parts, full)
    last_two = shortened(lambda dotted: [".".join(name.split(".")[-2:]) for name in dotted], full)
    tries = [(one, most) for one in (full, without_shared, last_two) if len(max(one, key=len)) <= most]
    shortest = min(without_shared, last_two, key=lambda one: len(max(one, key=len)))
    tries += [(shortest, limit) for limit in range(most, 5, -1)]
    shown: dict[str, str] = {}
    for candidate, limit in tries:
        if shown and len({safe_text(name, limit=limit) for name in candidate}) < len(full):
            break  # two names would become equal: keep the wider texts that were tried before
        shown = dict(zip(full, safe_names(candidate, limit=limit).values(), strict=True))
        if max(text_width(text, size) for text in shown.values()) <= width:
            break
    return shown


def shortened(shorten_all: Callable[[Sequence[str]], list[str]], names: Sequence[str]) -> list[str]:
    """Return the names shortened by the function `shorten_all`, or unchanged where it would make two of them equal.

    In the name of a pair of layers, `fc1 with fc4`, both parts are shortened.
    """
    pairs = [name.split(WITH) for name in names]
    layers = list(dict.fromkeys(layer for pair in pairs for layer in pair))
    short = shorten_all(layers)
    text_of = dict(zip(layers, short if len(set(short)) == len(layers) else layers, strict=True))
    return [WITH.join(text_of[layer] for layer in pair) for pair in pairs]


def without_shared_parts(names: Sequence[str]) -> list[str]:
    """Return dotted names without the parts that all begin or end with: `encoder.3` of `bert.encoder.3.output`.

    One shared part before the first difference stays, since a number alone says little.
    """
    parts = [name.split(".") for name in names]
    dotted = [p for p in parts if len(p) > 1]
    # How many parts all names share at their beginnings and at their ends (`commonprefix` also takes lists, of which
    # it compares the entries).
    ahead, behind = (len(os.path.commonprefix([p[::turn] for p in dotted])) for turn in (1, -1))  # noqa: RUF071
    return [".".join(p[max(ahead - 1, 0) : len(p) - behind] or p) if len(p) > 1 else p[0] for p in parts]


def text_width(text: str, size: float) -> float:
    """Return the width in points of text of one or more lines, in the font of the current settings."""
    settings: Any = mpl.rcParams
    font = tuple(str(settings[f"font.{name}"]) for name in _FONT)
    return max((_line_width(line, size, font) for line in text.split("\n") if line.strip()), default=0.0)


# Cached, since each panel measures the same names and words, and tries several lengths of them.
@functools.lru_cache(maxsize=4096)
def _line_width(line: str, size: float, font: tuple[str, ...]) -> float:
    """Return the width of one line in points, in the font of the current settings.

    `font` is not used: as an argument it keeps the cache from returning the width in another font.
    """
    x = TextPath((0, 0), line, size=size).vertices[:, 0]  # control points enclose the curves, within a per cent
    return float(x.max() - x.min())


def wrap(parts: Sequence[str], width: float, size: float, *, joint: str = "  ·  ") -> str:
    """Return `parts` joined by `joint`, broken into lines of at most `width` points in a font of `size` points.

    Lines are broken between parts. A part too long for one line is broken at spaces, but not within `name = value`.
    """
    lines: list[str] = []
    for part in parts:
        joined = joint.join([*lines[-1:], part])
        if text_width(joined, size) <= width:
            lines[-1:] = [joined]
            continue
        lines.append("")
        for word in re.split(r"(?<! =) (?!= )", part):
            longer = f"{lines[-1]} {word}" if lines[-1] else word
            if lines[-1] and text_width(longer, size) > width:
                lines.append(word)
            else:
                lines[-1] = longer
    return "\n".join(lines)
