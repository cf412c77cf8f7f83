"""Sizes, colours, markers and scales shared by all figures; nothing global is touched.

A layer has a colour and a marker or line style, a step has a place on a sequential map: no message is
carried by colour alone, and the maps keep their order in grey.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize, SymLogNorm, to_rgb
from matplotlib.font_manager import FontProperties
from matplotlib.path import Path
from matplotlib.ticker import MaxNLocator

from infoplane.core.errors import choices
from infoplane.core.palette import VIRIDIS
from infoplane.core.records import FloatArray

MM_PER_INCH = 25.4

# Twenty that can be open or filled; a tuple is a star of so many points, turned; a path is half a disc.
MARKERS: tuple[Any, ...] = (
    *("o", "s", "^", "D", "v", "P", "<", "X", ">", "p", "h", "*", "d"),
    *((4, 1, 0), (4, 1, 45), (3, 1, 0), (3, 1, 180), (6, 1, 0)),
    *(Path.wedge(0, 180), Path.wedge(180, 360)),
)
LINES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)), (0, (3, 1, 1, 1, 1, 1)))
DOTTED, CHANCE = (0, (1, 2)), (0, (1, 1.5))
"""Lines of ceilings, and of what shuffled labels give."""

INK = "0.15"
"""Grey of axes and text: nearly black."""
FAINT = "0.45"
"""Grey of captions, ceilings and whatever says nothing of a single layer."""

FILES: Mapping[str, Any] = {
    "text.usetex": False,  # names from strangers are no TeX
    "svg.fonttype": "none",
    "svg.hashsalt": "infoplane",
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
}
"""In every file text stays text, and repetition gives the same bytes."""

_BASE: Mapping[str, Any] = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlelocation": "left",
    "axes.unicode_minus": True,
    "axes.formatter.useoffset": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "legend.frameon": False,
    "legend.borderaxespad": 0.3,
    "legend.handlelength": 1.8,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "hatch.linewidth": 0.35,
    **FILES,
}


def _sized(size: float, line: float) -> dict[str, Any]:
    """Return Matplotlib settings with text of `size` points and lines `line` times as thick as in a column."""
    ticks = {"major.width": 0.6, "minor.width": 0.4, "major.size": 2.5, "minor.size": 1.5}
    return {
        "font.size": size,
        "axes.labelsize": size,
        "axes.titlesize": size,
        "xtick.labelsize": size - 0.5,
        "ytick.labelsize": size - 0.5,
        "legend.fontsize": size - 0.5,
        "figure.titlesize": size + 1,
        "axes.linewidth": 0.6 * line,
        **{f"{axis}tick.{name}": points * line for axis in "xy" for name, points in ticks.items()},
        "lines.linewidth": 1.1 * line,
        "lines.markersize": 3.4 * line,
        "figure.dpi": 150,
        "savefig.dpi": 300,
    }


STYLES: Mapping[str, tuple[float, Mapping[str, Any]]] = {
    "column": (85.0, {**_BASE, **_sized(7.0, 1.0)}),
    "page": (170.0, {**_BASE, **_sized(8.0, 1.15)}),
    "screen": (170.0, {**_BASE, **_sized(10.0, 1.4)}),
}
"""Width in millimetres and settings: one column and the full width of a paper, printed at size; a screen."""


def style_of(style: str) -> tuple[float, Mapping[str, Any]]:
    """Return the width in millimetres and the Matplotlib settings of a style; ValueError for an unknown name."""
    if style not in STYLES:
        raise ValueError(f"unknown style {style!r}; {choices(style, STYLES)}")
    return STYLES[style]


def points_of(size: Any) -> float:
    """Return a font size in points; `size` is a number of points or one of Matplotlib's words, such as "medium"."""
    return float(FontProperties(size=size).get_size_in_points())


LEAST_SIZE = 6.5
"""Points: smaller type is not read on paper."""


def small_size(less: float = 1.2) -> float:
    """Return the font size of captions and remarks: `less` points smaller than the rest, but readable on paper."""
    size = float(mpl.rcParams["font.size"])
    return max(size - less, min(size, LEAST_SIZE))


def rc_context(settings: Any) -> contextlib.AbstractContextManager[None]:
    """Return a context in which Matplotlib has these settings; at its end the old ones are back."""
    return mpl.rc_context(dict(settings))


def step_colormap(wanted: str | Colormap | None = None) -> Colormap:
    """Return the colour map `wanted`, by default viridis without its palest end, in which thin lines would be lost."""
    if isinstance(wanted, Colormap):
        return wanted
    if wanted is None:
        return LinearSegmentedColormap.from_list("infoplane_steps", list(VIRIDIS))
    if wanted not in mpl.colormaps:
        raise ValueError(f"no colour map {wanted!r}; {choices(wanted, mpl.colormaps)}")
    return mpl.colormaps[wanted]


def spans_decades(steps: Sequence[float] | FloatArray) -> bool:
    """Return whether the last step is over 100 times the first positive one, so that a logarithmic scale is needed."""
    return float(np.max(steps)) > 100 * smallest_positive(steps)


def smallest_positive(steps: Sequence[float] | FloatArray) -> float:
    """Return the smallest step above 0, or 1 where there is none."""
    values = np.asarray(steps, dtype=np.float64)
    return float(values[values > 0].min()) if (values > 0).any() else 1.0


def step_norm(steps: Sequence[float] | FloatArray, log: bool | None = None) -> Normalize:
    """Return the norm that maps steps to [0, 1] for a colour map; ValueError where there are no steps.

    A logarithmic norm is linear from 0 to the smallest positive step, so that step 0 has a colour, too. With `log=None`
    the norm is logarithmic where the steps span over two decades.
    """
    values = np.asarray(steps, dtype=np.float64)
    if values.size == 0:
        raise ValueError("no steps to colour")
    low, high = float(values.min()), float(values.max())
    if high == low:  # a norm must have a width; the only step is in its middle
        return Normalize(low - 0.5, high + 0.5)
    if spans_decades(values) if log is None else log:
        return SymLogNorm(linthresh=smallest_positive(values), linscale=0.4, base=10, vmin=low, vmax=high)
    return Normalize(low, high)


def step_ticks(steps: Sequence[float] | FloatArray, log: bool) -> list[float]:
    """Return a few round steps for ticks: whole numbers, or on a logarithmic scale (`log`) 0 and powers of ten.

    Steps within a single decade get ticks at 1, 2 and 5 times its power of ten.
    """
    values = np.asarray(steps, dtype=np.float64)
    low, high = float(values.min()), float(values.max())
    if not log:
        return [float(t) for t in MaxNLocator(5, integer=True).tick_values(low, high) if low <= t <= high]
    first = smallest_positive(values)
    decades = np.arange(np.floor(np.log10(first)), np.floor(np.log10(max(high, first))) + 1)
    stride = max(1, int(np.ceil(len(decades) / 6)))  # six decades are named at most
    digits = (1.0, 2.0, 5.0) if len(decades) == 1 else (1.0,)
    ticks = [float(digit * 10.0**d) for d in decades[::stride] for digit in digits if first <= digit * 10.0**d <= high]
    return [0.0, *ticks] if low <= 0 else ticks


def number(value: float) -> str:
    """Return a step, count or setting as text; from 10 000 on a thin space stands between thousands."""
    if value != int(value):
        return f"{value:g}"
    return f"{value:,.0f}".replace(",", "\u202f" if abs(value) >= 10_000 else "")


def text_color(color: Any) -> tuple[float, float, float]:
    """Return a colour in which text on white can be read: `color` itself, or a darker shade where it is light."""
    r, g, b = to_rgb(color)
    # Relative luminance, as screens define it, says which colours are light.
    dark = 0.72 if 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.35 else 1.0
    return (r * dark, g * dark, b * dark)


def layer_marker(index: int) -> Any:
    """Return the marker of layer number `index`, from 0; layers beyond the twentieth get the same markers again."""
    return MARKERS[index % len(MARKERS)]


def layer_line(index: int) -> Any:
    """Return line style number `index`, from 0; numbers beyond the fifth get the same styles again."""
    return LINES[index % len(LINES)]
