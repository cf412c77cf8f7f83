"""What all figures share: their keywords, the axes they draw in, and the caption below."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ParamSpec, TypedDict, TypeVar, cast

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.ticker import ScalarFormatter

from infoplane.core.text import printable
from infoplane.plots._picture import PictureFigure
from infoplane.plots.style import FAINT, MM_PER_INCH, points_of, rc_context, small_size, style_of
from infoplane.plots.text import safe_text, wrap
from infoplane.results.views import Selection

P = ParamSpec("P")
R = TypeVar("R")

CAPTION_LABEL = "_infoplane_caption"
"""Label of the artist whose text says what was measured; `save` copies it into the file's metadata."""
SHOWN_CAPTION = "infoplane_caption"
"""Id of the caption below axes of the caller's."""


class Look(TypedDict, total=False):
    """How a figure looks; see `infoplane.plots.plane`."""

    caption: bool
    style: str
    width: float | None
    title: str | None
    colors: Sequence[Any] | Mapping[str, Any] | None
    markers: Sequence[Any] | Mapping[str, Any] | None
    labels: Sequence[str] | Mapping[str, str] | None
    cmap: str | Colormap | None
    legend: bool | str
    colorbar: bool


class Options(Selection, Look, total=False):
    """The keywords of a figure: what to show of the table, and how it looks."""


DEFAULTS: Mapping[str, Any] = {"against": "step", "caption": True, "style": "screen", "legend": True, "colorbar": True}
"""The defaults of the shared keywords; that of a keyword that is not here is None."""


def keywords(shared: type, *, without: Sequence[str] = ()) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator for a function that takes the keys of the TypedDict `shared` as keywords, `**options`.

    The decorated function has them in its signature, but for those in `without`. It passes all of them on: one that
    the caller left out gets its default from `DEFAULTS`, or None. Any other keyword is a TypeError.
    """
    hints = {name: hint for name, hint in shared.__annotations__.items() if name not in without}
    defaults = {name: DEFAULTS.get(name) for name in hints}

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        """Return the function with these keywords in its signature; one left out of a call gets its default."""
        signature = inspect.signature(function)
        parameters = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        for name, hint in hints.items():
            # Annotations of the TypedDict are ForwardRef objects: the signature shows their text.
            described = {"default": defaults[name], "annotation": getattr(hint, "__forward_arg__", hint)}
            parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, **described))
        signature = signature.replace(parameters=parameters)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            """Call the function with all shared keywords, given or default; TypeError for an unknown keyword."""
            for name in kwargs:
                if name not in signature.parameters:
                    raise TypeError(f"{function.__name__}() got an unexpected keyword argument {name!r}")
            return function(*args, **cast(Any, {**defaults, **kwargs}))

        # What help() shows, and what `draw_file` checks options of the command line against.
        cast(Any, call).__signature__ = signature
        return call

    return decorate


def selected(options: Options) -> Selection:
    """Return only those keywords of a figure that choose rows of the table; those of its look are left out."""
    return cast(Selection, {name: value for name, value in options.items() if name in Selection.__annotations__})


@contextlib.contextmanager
def canvas(ax: Axes | None, caption: Sequence[str], look: Look, *, aspect: float = 0.75) -> Iterator[Axes]:
    """Yield the axes to draw in, with `caption` below: the caller's `ax`, or the axes of a new figure if it is None.

    A new figure is `aspect` times as high as wide, and Matplotlib has the settings of the style in `look` until the
    block ends. In the caller's axes the caller's settings hold.
    """
    with panels(ax, caption, look, aspect=aspect) as (axes,):
        yield axes


@contextlib.contextmanager
def panels(
    ax: Axes | Sequence[Axes] | None,
    caption: Sequence[str],
    look: Look,
    *,
    heights: Sequence[float] = (1.0,),
    aspect: float = 0.75,
    shows: Sequence[str] = (),
) -> Iterator[list[Axes]]:
    """Yield a list of axes: the caller's, or those of a new figure, below each other with one x axis for all.

    There is one for each of `heights`, which are the ratios of their heights. ValueError where the caller gave another
    number of axes; the error lists `shows`, the names of what the panels show. Settings are as in `canvas`.
    """
    if ax is not None:
        with rc_context({"text.usetex": False}):
            yield given_axes(ax, len(heights), caption, look, shows)
        return
    with figure_canvas(look, aspect=aspect) as figure:
        axes: list[Axes] = [*figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights).flat]
        add_caption(axes[-1], caption, own=True, shown=look["caption"])
        for panel in axes:
            keep_tick_style(panel)
        yield axes


def given_axes(
    ax: Axes | Sequence[Axes], count: int, caption: Sequence[str], look: Look, shows: Sequence[str]
) -> list[Axes]:
    """Return the caller's axes as a list, with title and caption; ValueError unless there are `count` of them.

    The error lists `shows`, the names of what the panels show.
    """
    axes = [ax] if isinstance(ax, Axes) else list(ax)
    if len(axes) != count:
        needed = f": one for each of {', '.join(shows)}; draw fewer, or leave ax out" if shows else ""
        raise ValueError(f"this figure has {count} panels, so ax must be as many axes; got {len(axes)}{needed}")
    add_caption(axes[-1], caption, own=False, shown=look["caption"])
    if look["title"] is not None:
        axes[0].set_title(safe_text(look["title"], limit=200))
    for panel in axes:
        keep_tick_style(panel)
    return axes


@contextlib.contextmanager
def figure_canvas(look: Look, *, aspect: float = 0.75) -> Iterator[Figure]:
    """Yield a new figure outside pyplot, with the settings of the style that `look` names until the block ends.

    `look["width"]` in millimetres replaces that of the style; `aspect` is height over width.
    """
    style_width, settings = style_of(look["style"])
    width = style_width if look["width"] is None else look["width"]
    if not 20 <= width <= 2000:
        raise ValueError(f"width must be between 20 and 2000 mm, got {width}")
    inches = width / MM_PER_INCH
    with rc_context(settings):
        figure = PictureFigure(figsize=(inches, inches * aspect), layout="constrained")
        if look["title"] is not None:
            size = points_of(mpl.rcParams["figure.titlesize"])
            # The title keeps four points clear of both edges; the figure's width is 72 points an inch.
            text = wrap([safe_text(look["title"], limit=200)], inches * 72 - 8, size)
            figure.suptitle(text, x=4 / (inches * 72), ha="left")
            grow(figure, 1.6 * size * (text.count("\n") + 1))
        yield figure


@contextlib.contextmanager
def multiples(
    titles: Sequence[str], caption: Sequence[str], look: Look, *, across: int, height: float
) -> Iterator[list[Axes]]:
    """Yield the panels of a new figure row by row, one for each title, all with the same size and limits.

    `across` panels stand in a row; `height` is that of a row as a share of the figure's width. There is one caption.
    """
    down = -(-len(titles) // across)  # rounded up
    with figure_canvas(look, aspect=height * down) as figure:
        axes: list[Axes] = list(figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).flat)
        # The last row may have more places than there are panels left.
        for unused in axes[len(titles) :]:
            unused.set_visible(False)
        for panel, title in zip(axes, titles, strict=False):
            panel.set_title(title)
            keep_tick_style(panel)
        add_caption(axes[0], caption, own=True, shown=look["caption"])
        yield axes[: len(titles)]


def outer_labels(axes: Sequence[Axes], across: int) -> None:
    """Keep the labels of y axes in the first column only, and those of x axes in the last row only.

    Each row has `across` panels, the last may have fewer. A panel above an empty place keeps the numbers of its x
    axis, since no panel below shows them.
    """
    last_row = len(axes) - (len(axes) % across or across)  # the number of its first panel
    for i, panel in enumerate(axes):
        if i % across:
            panel.set_ylabel("")
        if i < last_row:
            panel.set_xlabel("")
            panel.tick_params(labelbottom=i + across >= len(axes))


def grow(figure: Figure, points: float) -> None:
    """Make a figure `points` higher, to make room for text above or below the axes without making the axes lower."""
    figure.set_figheight(figure.get_figheight() + points / 72)


def is_own(ax: Axes) -> bool:
    """Return whether the axes are those of a figure that was made here, and not the caller's."""
    return isinstance(figure_of(ax), PictureFigure)


def slot_width(ax: Axes) -> float:
    """Return the width, in points, of the column of the figure's grid in which the axes stand.

    It holds the axes and what stands beside them, such as the names of rows and a legend.
    """
    to_points = 72 / figure_of(ax).dpi
    spec = ax.get_subplotspec()
    if spec is None:  # axes outside a grid: they are taken for 0.775 of the width, as by Matplotlib's default margins
        return float(ax.get_window_extent().width * to_points) / 0.775
    return float(ax.figure.bbox.width * to_points * len(spec.colspan) / spec.get_gridspec().ncols)


def figure_of(drawn: Axes | Figure) -> Figure:
    """Return the whole figure that the axes belong to, or the figure itself; ValueError for axes without a figure."""
    figure = drawn if isinstance(drawn, Figure) else drawn.get_figure(root=True)
    if figure is None:
        raise ValueError("the axes belong to no figure")
    return figure


def panel_height(ax: Axes) -> float:
    """Return the height of the axes in points, which is the room that the label of their y axis has."""
    return float(ax.get_window_extent().height * 72 / figure_of(ax).dpi)


def keep_tick_style(ax: Axes) -> None:
    """Fix the look of the axes' ticks to that of the current style, and make their labels show the whole value.

    Matplotlib creates ticks only when a figure is drawn, and by then the settings of the style are no longer in force.
    """
    params: Any = mpl.rcParams
    plain_numbers(ax)
    for axis, name in ((ax.xaxis, "xtick"), (ax.yaxis, "ytick")):
        text = {"labelsize": params[f"{name}.labelsize"], "color": params[f"{name}.color"]}
        for which in ("major", "minor"):
            size = {"width": params[f"{name}.{which}.width"], "length": params[f"{name}.{which}.size"]}
            axis.set_tick_params(which=which, **text, **size)


def plain_numbers(ax: Axes) -> None:
    """Make tick labels show their whole value.

    By default Matplotlib may write "0.02" at a tick and an offset of "+9.96" at the end of the axis, which is easily
    read as 0.02.
    """
    for axis in (ax.xaxis, ax.yaxis):
        formatter = axis.get_major_formatter()
        if isinstance(formatter, ScalarFormatter):
            formatter.set_useOffset(False)
            formatter.set_powerlimits((-6, 9))


def add_caption(ax: Axes, parts: Sequence[str], *, own: bool, shown: bool = True) -> None:
    """Write a caption, joined from its `parts`, below the axes if it is to be `shown`.

    In any case the figure also holds it as an invisible text, which the function `caption` finds. `own` says that the
    figure was made here, and not by the caller: its caption is as wide as the figure.
    """
    figure, size = figure_of(ax), small_size()
    text_style: dict[str, Any] = {"ha": "left", "fontsize": size, "color": FAINT}
    # The invisible text, in one line: `caption` returns it, and `save` writes it into the metadata of the file.
    figure.text(0, 0, "  ·  ".join(parts), visible=False, label=CAPTION_LABEL)
    if not shown:
        return
    if own:
        points = figure.get_figwidth() * 72
        text = wrap(parts, 0.97 * points - 8, size)  # at few pixels letters are wider than their outlines
        figure.supxlabel(text, x=4 / points, **text_style)
        grow(figure, 1.25 * size * max(0, text.count("\n") - 1))  # the figure has room for the first two lines
    else:
        # As wide as the axes, but at least an inch.
        text = wrap(parts, max(ax.get_window_extent().width * 72 / figure.dpi, 72.0), size)
        below_label: Any = ("axes fraction", ax.xaxis.label)
        text_style |= {"va": "top", "annotation_clip": False}
        ax.annotate(text, (0.0, 0.0), (0, -3), below_label, "offset points", gid=SHOWN_CAPTION, **text_style)


def lower_caption(ax: Axes, points: float) -> None:
    """Move the caption that stands below the caller's axes down by `points`, to make room for a legend above it."""
    for text in ax.texts:
        if isinstance(text, Annotation) and text.get_gid() == SHOWN_CAPTION:
            text.xyann = (0.0, text.xyann[1] - points)


def caption(figure: Axes | Figure) -> str:
    """Return the caption of a figure in one line, which says what was measured; also where the figure does not show it.

    Parameters
    ----------
    figure : Axes or Figure
        What a plot function returned.
    """
    texts = [t for t in figure_of(figure).findobj(Text) if isinstance(t, Text) and t.get_label() == CAPTION_LABEL]
    return printable(" | ".join(" ".join(text.get_text().split()) for text in texts)).replace(r"\$", "$")
