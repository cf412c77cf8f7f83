"""Text on figures: names from strangers made safe, labels kept apart, captions wrapped.

Layer, run and metric names are data. Matplotlib reads `$` as mathematics, drops legend labels that begin
with an underscore, and cannot draw control characters; a name must neither lose the figure nor act.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import takewhile
from typing import Any

import matplotlib as mpl
from matplotlib.textpath import TextPath

from infoplane.core.text import printable, shorten

WITH = " with "
"""What joins the names of a pair of layers."""
_FONT: tuple[Any, ...] = (
    "font.family", "font.sans-serif", "font.serif", "font.monospace", "font.cursive", "font.fantasy", "font.style",
    "font.variant", "font.weight", "font.stretch",
)  # fmt: skip


def safe_text(text: object, *, limit: int = 32, legend: bool = False) -> str:
    """A string from a stranger as Matplotlib text that shows itself.

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
    # Shortened twice: the first bounds the work, the second what escapes have added.
    shown = shorten(printable(shorten(str(text), 4 * limit)), limit).strip() or "(no name)"
    if legend and shown.startswith("_"):
        shown = " " + shown
    return shown.replace("$", r"\$")


def safe_names(names: Iterable[str], *, limit: int = 32, legend: bool = False) -> dict[str, str]:
    """`safe_text` of each name, numbered where shortening or escaping made two of them equal."""
    out: dict[str, str] = {}
    taken: dict[str, int] = {}
    for name in dict.fromkeys(names):
        shown = safe_text(name, limit=limit, legend=legend)
        taken[shown] = taken.get(shown, 0) + 1
        out[name] = shown if taken[shown] == 1 else f"{shown} ({taken[shown]})"
    return out


def fitted_names(names: Iterable[str], width: float, size: float, *, most: int = 20) -> dict[str, str]:
    """`safe_names` at most `width` points wide: in full, else without the parts that all share, else shortened.

    Of dotted names the last parts are kept, as long as they tell them apart: "layer.3" says more than "bert....yer.3".
    """
    whole = list(dict.fromkeys(names))
    tries = [(whole, most)] if fits(whole, most) else []
    # Two ways to leave parts out, then the shorter of both cut letter by letter.
    both = of_sides(unshared, whole), of_sides(lambda names: last_parts(names, 2), whole)
    tries += [(shorter, most) for shorter in both if fits(shorter, most)]
    tries += (
        [(min(both, key=lambda names: max(map(len, names))), limit) for limit in range(most, 5, -1)] if whole else []
    )
    shown: dict[str, str] = {}
    for shorter, limit in tries:
        if shown and len({safe_text(name, limit=limit) for name in shorter}) < len(whole):
            break  # shortened further, names would be taken for one another
        shown = dict(zip(whole, safe_names(shorter, limit=limit).values(), strict=True))
        if max((text_width(text, size) for text in shown.values()), default=0.0) <= width:
            break
    return shown


def of_sides(shorter: Callable[[Sequence[str]], list[str]], names: Sequence[str]) -> list[str]:
    """The names that `shorter` makes of these; of a pair of layers, `fc1 with fc4`, each of both names is shortened."""
    parted = [name.split(WITH) for name in names]
    sides = list(dict.fromkeys(side for both in parted for side in both))
    short = dict(zip(sides, shorter(sides), strict=True))
    return [WITH.join(short[side] for side in both) for both in parted]


def unshared(names: Sequence[str]) -> list[str]:
    """Dotted names without the parts that all begin or end with, but for the one just before they differ."""
    parts = [name.split(".") for name in names]
    several = [p for p in parts if len(p) > 1]
    ahead, behind = (shared_ahead([p[::turn] for p in several]) for turn in (1, -1))
    out = [".".join(p[max(ahead - 1, 0) : len(p) - behind] or p) if len(p) > 1 else p[0] for p in parts]
    return out if len(set(out)) == len(set(names)) else list(names)


def last_parts(names: Sequence[str], count: int) -> list[str]:
    """Dotted names with so many of their parts, from the end; as they are where that makes two equal."""
    out = [".".join(name.split(".")[-count:]) for name in names]
    return out if len(set(out)) == len(set(names)) else list(names)


def fits(names: Sequence[str], limit: int) -> bool:
    """Whether no name has more than `limit` letters."""
    return all(len(name) <= limit for name in names)


def shared_ahead(parts: Sequence[Sequence[str]]) -> int:
    """How many parts all names have in common, counted from the first."""
    equal = (len(set(column)) == 1 for column in zip(*parts, strict=False))
    return sum(1 for _ in takewhile(bool, equal))


def text_width(text: str, size: float) -> float:
    """Width in points of text of one or more lines, in the font now set."""
    font = tuple(str(mpl.rcParams[key]) for key in _FONT)
    return max((_line_width(line, size, font) for line in text.split("\n") if line.strip()), default=0.0)


# Names and the words of captions are tried in many lengths, and come again in every panel.
@functools.lru_cache(maxsize=4096)
def _line_width(line: str, size: float, font: tuple[str, ...]) -> float:
    """Width of one line in points; `font` is for the cache alone, since the path reads the font by itself."""
    x = TextPath((0, 0), line, size=size).vertices[:, 0]  # control points enclose the curves, within a per cent
    return float(x.max() - x.min())


def wrap(parts: Sequence[str], width: float, size: float, *, joint: str = "  ·  ") -> str:
    """Join `parts` into lines of at most `width` points, broken between parts and, within one, at spaces.

    A setting, `name = value`, stays together.
    """
    lines: list[str] = []
    line = ""
    for part in parts:
        joined = f"{line}{joint}{part}" if line else part
        if text_width(joined, size) <= width:
            line = joined
            continue
        if line:
            lines.append(line)
        line = ""
        for word in re.split(r"(?<! =) (?!= )", part):
            longer = f"{line} {word}" if line else word
            if line and text_width(longer, size) > width:
                lines.append(line)
                line = word
            else:
                line = longer
    return "\n".join([*lines, line] if line else lines)
