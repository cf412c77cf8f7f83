"""What all figures share: their keywords, the axes they draw in, and the caption below."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ParamSpec, TypedDict, TypeVar, cast

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from infoplane.core.text import printable
from infoplane.plots._picture import PictureFigure
from infoplane.plots.style import FAINT, MM_PER_INCH, rc_context, small_size, style_of
from infoplane.plots.text import wrap
from infoplane.results.views import Selection

P = ParamSpec("P")
R = TypeVar("R")

CAPTION_LABEL = "_infoplane_caption"
"""Label of the artist whose text says what was measured; `save` copies it into the file's metadata."""


class Look(TypedDict, total=False):
    """How a figure looks; see `infoplane.plots.plane`."""

    caption: bool
    style: str
    width: float | None


class Options(Selection, Look, total=False):
    """The keywords of a figure: what to show of the table, and how it looks."""


DEFAULTS: Mapping[str, Any] = {"against": "step", "caption": True, "style": "screen"}
"""Of the shared keywords; that of the others is None."""


def keywords(shared: type, *, without: Sequence[str] = ()) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorator: `**options` are the keys of `shared`, listed in the signature, all given, and no others taken."""
    hints = {name: hint for name, hint in shared.__annotations__.items() if name not in without}
    defaults = {name: DEFAULTS.get(name) for name in hints}

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)
        known = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        for name, hint in hints.items():
            words = getattr(hint, "__forward_arg__", hint)
            known.append(
                inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=defaults[name], annotation=words)
            )
        signature = signature.replace(parameters=known)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            for name in kwargs:
                if name not in signature.parameters:
                    raise TypeError(f"{function.__name__}() got an unexpected keyword argument {name!r}")
            return function(*args, **cast(Any, {**defaults, **kwargs}))

        # What help() shows, and what `draw_file` checks options of the command line against.
        cast(Any, call).__signature__ = signature
        return call

    return decorate


def selected(options: Options) -> Selection:
    """The keywords that say what to show, without those of the look."""
    return cast(Selection, {name: value for name, value in options.items() if name in Selection.__annotations__})


@contextlib.contextmanager
def canvas(ax: Axes | None, caption: Sequence[str], look: Look, *, aspect: float = 0.75) -> Iterator[Axes]:
    """The axes to draw in: the caller's, under the caller's own settings, or new ones in the given style."""
    with panels(ax, caption, look, aspect=aspect) as (axes,):
        yield axes


@contextlib.contextmanager
def panels(
    ax: Axes | None, caption: Sequence[str], look: Look, *, heights: Sequence[float] = (1.0,), aspect: float = 0.75
) -> Iterator[list[Axes]]:
    """As `canvas`, with new axes one below the other that share their x axis, which the last of them names."""
    if ax is not None:
        with rc_context({"text.usetex": False}):
            if look["caption"]:
                add_caption(ax, caption, own=False)
            keep_tick_style(ax)
            yield [ax]
        return
    with figure_canvas(look, aspect=aspect) as figure:
        grid: Any = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)
        axes: list[Axes] = list(grid[:, 0])
        add_caption(axes[-1], caption, own=True, shown=look["caption"])
        for axis in axes:
            keep_tick_style(axis)
        for axis in axes[:-1]:
            axis.tick_params(labelbottom=False)
        yield axes


@contextlib.contextmanager
def figure_canvas(look: Look, *, aspect: float = 0.75) -> Iterator[Figure]:
    """A figure of its own, outside pyplot, with the style in force until the block ends.

    `width` in millimetres replaces that of the style; `aspect` is height over width.
    """
    usual, settings = style_of(look["style"])
    width = usual if look["width"] is None else look["width"]
    if not 20 <= width <= 2000:
        raise ValueError(f"width must be between 20 and 2000 mm, got {width}")
    inches = width / MM_PER_INCH
    with rc_context(settings):
        yield PictureFigure(figsize=(inches, inches * aspect), layout="constrained")


def figure_of(ax: Axes) -> Figure:
    """The figure that the axes stand in, also where that is a part of another."""
    figure = ax.get_figure(root=True)
    if figure is None:
        raise ValueError("the axes belong to no figure")
    return figure


def keep_tick_style(ax: Axes) -> None:
    """Write the tick settings into the axes: ticks are made late, when the style is no longer in force."""
    params: Any = mpl.rcParams
    for axis, name in ((ax.xaxis, "xtick"), (ax.yaxis, "ytick")):
        look = {"labelsize": params[f"{name}.labelsize"], "color": params[f"{name}.color"]}
        for which in ("major", "minor"):
            size = {"width": params[f"{name}.{which}.width"], "length": params[f"{name}.{which}.size"]}
            axis.set_tick_params(which=which, **look, **size)


def add_caption(ax: Axes, parts: Sequence[str], *, own: bool, shown: bool = True) -> None:
    """Write estimator, settings and N under the axes, or keep them unseen for the file's metadata.

    `own` says that the figure is ours: the caption then runs over its whole width.
    """
    figure, size = figure_of(ax), small_size()
    look: dict[str, Any] = {"ha": "left", "fontsize": size, "color": FAINT}
    label: Text
    if not shown:
        label = ax.text(0, 0, "  ·  ".join(parts), visible=False)
    elif own:
        points = figure.get_figwidth() * 72
        label = figure.supxlabel(wrap(parts, points - 8, size), x=4 / points, **look)
    else:
        text = wrap(parts, max(ax.get_window_extent().width * 72 / figure.dpi, 72.0), size)
        below: Any = ("axes fraction", ax.xaxis.label)
        look |= {"va": "top", "annotation_clip": False}
        label = ax.annotate(text, (0.0, 0.0), (0, -3), below, "offset points", **look)
    label.set_label(CAPTION_LABEL)


def described(figure: Figure) -> str:
    """The captions of a figure in one line, for the metadata of its file."""
    texts = [a for a in figure.findobj(Text) if isinstance(a, Text) and a.get_label() == CAPTION_LABEL]
    return printable(" | ".join(" ".join(text.get_text().split()) for text in texts)).replace(r"\$", "$")
