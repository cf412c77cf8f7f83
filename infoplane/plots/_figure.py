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
    """A decorator: `**options` are the keys of `shared`, listed in the signature, all given, no others taken."""
    hints = {name: hint for name, hint in shared.__annotations__.items() if name not in without}
    defaults = {name: DEFAULTS.get(name) for name in hints}

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        """The function with these keywords in its signature; those left out of a call get their default."""
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
            """Call the function with the defaults of all keywords; TypeError for a keyword that it has not."""
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
    """Yield the axes to draw in: the caller's, under the caller's own settings, or new ones in the given style."""
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
    """Yield axes as `canvas` does, one for each of `shows`; new ones stand below each other and share the x axis."""
    if ax is not None:
        with rc_context({"text.usetex": False}):
            yield given_axes(ax, len(heights), caption, look, shows)
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


def given_axes(
    ax: Axes | Sequence[Axes], count: int, caption: Sequence[str], look: Look, shows: Sequence[str]
) -> list[Axes]:
    """The caller's axes, one for each of `count` panels, with title and caption."""
    axes = [ax] if isinstance(ax, Axes) else list(ax)
    if len(axes) != count:
        of = f": one for each of {', '.join(shows)}; draw fewer, or leave ax out" if shows else ""
        raise ValueError(f"this figure has {count} panels, so ax must be as many axes; got {len(axes)}{of}")
    add_caption(axes[-1], caption, own=False, shown=look["caption"])
    if look["title"] is not None:
        axes[0].set_title(safe_text(look["title"], limit=200))
    for axis in axes:
        keep_tick_style(axis)
    return axes


@contextlib.contextmanager
def figure_canvas(look: Look, *, aspect: float = 0.75) -> Iterator[Figure]:
    """Yield a figure of its own, outside pyplot, with the style in force until the block ends.

    `width` in millimetres replaces that of the style; `aspect` is height over width.
    """
    usual, settings = style_of(look["style"])
    width = usual if look["width"] is None else look["width"]
    if not 20 <= width <= 2000:
        raise ValueError(f"width must be between 20 and 2000 mm, got {width}")
    inches = width / MM_PER_INCH
    with rc_context(settings):
        figure = PictureFigure(figsize=(inches, inches * aspect), layout="constrained")
        if look["title"] is not None:
            size = points_of(mpl.rcParams["figure.titlesize"])
            text = wrap([safe_text(look["title"], limit=200)], inches * 72 - 8, size)
            figure.suptitle(text, x=4 / (inches * 72), ha="left")
            grow(figure, 1.6 * size * (text.count("\n") + 1))
        yield figure


@contextlib.contextmanager
def multiples(
    titles: Sequence[str], caption: Sequence[str], look: Look, *, across: int, height: float
) -> Iterator[list[Axes]]:
    """Yield the panels of a figure, equal in size and limits, row by row, each with its title, `height` a row's.

    Heights are shares of the width. There is one caption for all.
    """
    down = -(-len(titles) // across)
    with figure_canvas(look, aspect=height * down) as figure:
        grid: Any = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
        axes: list[Axes] = list(grid.flat)
        for ax in axes[len(titles) :]:
            ax.set_visible(False)
        for ax, title in zip(axes, titles, strict=False):
            ax.set_title(title)
            keep_tick_style(ax)
        add_caption(axes[0], caption, own=True, shown=look["caption"])
        yield axes[: len(titles)]


def outer_labels(axes: Sequence[Axes], across: int) -> None:
    """Keep axis labels at the left and bottom only; a panel with none below it keeps the numbers of its ticks."""
    below = len(axes) - (len(axes) % across or across)  # the first panel of the last row
    for i, ax in enumerate(axes):
        if i % across:
            ax.set_ylabel("")
        if i < below:
            ax.set_xlabel("")
            ax.tick_params(labelbottom=i + across >= len(axes))


def grow(figure: Figure, points: float) -> None:
    """Make a figure higher by what stands beside the data, so that these keep their room."""
    figure.set_figheight(figure.get_figheight() + points / 72)


def is_own(ax: Axes) -> bool:
    """Whether the axes are of a figure that was made here, and not the caller's."""
    return isinstance(figure_of(ax), PictureFigure)


def slot_width(ax: Axes) -> float:
    """The width in points that the axes and what stands beside them have in their figure."""
    # Axes that were placed freely: Matplotlib's default gives axes 0.775 of a figure's width.
    spec, whole = ax.get_subplotspec(), ax.figure.bbox.width * 72 / figure_of(ax).dpi
    if spec is None:
        return float(ax.get_window_extent().width * 72 / figure_of(ax).dpi) / 0.775
    return float(whole * len(spec.colspan) / spec.get_gridspec().ncols)


def figure_of(drawn: Axes | Figure) -> Figure:
    """The figure that the axes stand in, also where that is a part of another; a figure itself."""
    figure = drawn if isinstance(drawn, Figure) else drawn.get_figure(root=True)
    if figure is None:
        raise ValueError("the axes belong to no figure")
    return figure


def panel_height(ax: Axes) -> float:
    """The height of the axes in points: the room that the label of their y axis has."""
    return float(ax.get_window_extent().height * 72 / figure_of(ax).dpi)


def keep_tick_style(ax: Axes) -> None:
    """Write the tick settings into the axes: ticks are made late, when the style is no longer in force."""
    params: Any = mpl.rcParams
    plain_numbers(ax)
    for axis, name in ((ax.xaxis, "xtick"), (ax.yaxis, "ytick")):
        look = {"labelsize": params[f"{name}.labelsize"], "color": params[f"{name}.color"]}
        for which in ("major", "minor"):
            size = {"width": params[f"{name}.{which}.width"], "length": params[f"{name}.{which}.size"]}
            axis.set_tick_params(which=which, **look, **size)


def plain_numbers(ax: Axes) -> None:
    """Make ticks say their whole value: "0.02" on the axis and "+9.96" at its end would be read as 0.02."""
    for axis in (ax.xaxis, ax.yaxis):
        formatter = axis.get_major_formatter()
        if isinstance(formatter, ScalarFormatter):
            formatter.set_useOffset(False)
            formatter.set_powerlimits((-6, 9))


def add_caption(ax: Axes, parts: Sequence[str], *, own: bool, shown: bool = True) -> None:
    """Write estimator, settings and N under the axes, or keep them unseen for the file's metadata.

    `own` says that the figure is ours: the caption then runs over its whole width.
    """
    figure, size = figure_of(ax), small_size()
    look: dict[str, Any] = {"ha": "left", "fontsize": size, "color": FAINT}
    # Unseen and unbroken: what `caption` returns and the file's metadata say.
    figure.text(0, 0, "  ·  ".join(parts), visible=False, label=CAPTION_LABEL)
    if not shown:
        return
    if own:
        points = figure.get_figwidth() * 72
        text = wrap(parts, 0.97 * points - 8, size)  # at few pixels letters are wider than their outlines
        figure.supxlabel(text, x=4 / points, **look)
        grow(figure, 1.25 * size * max(0, text.count("\n") - 1))
    else:
        text = wrap(parts, max(ax.get_window_extent().width * 72 / figure.dpi, 72.0), size)
        below: Any = ("axes fraction", ax.xaxis.label)
        look |= {"va": "top", "annotation_clip": False}
        ax.annotate(text, (0.0, 0.0), (0, -3), below, "offset points", gid=SHOWN_CAPTION, **look)


def lower_caption(ax: Axes, points: float) -> None:
    """Move the caption of the caller's axes down, by so many points."""
    for text in ax.texts:
        if isinstance(text, Annotation) and text.get_gid() == SHOWN_CAPTION:
            text.xyann = (0.0, text.xyann[1] - points)


def caption(figure: Axes | Figure) -> str:
    """What was measured, in one line: the caption of a figure, also of one that does not show it.

    Parameters
    ----------
    figure : Axes or Figure
        What a plot function returned.
    """
    texts = [a for a in figure_of(figure).findobj(Text) if isinstance(a, Text) and a.get_label() == CAPTION_LABEL]
    return printable(" | ".join(" ".join(text.get_text().split()) for text in texts)).replace(r"\$", "$")
