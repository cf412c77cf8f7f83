"""Every figure by name, and figures to files: the same bytes on repetition, with the caption in the metadata."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from infoplane.core.errors import choices
from infoplane.plots._figure import caption, figure_of
from infoplane.plots.compare import compare
from infoplane.plots.compression import compression
from infoplane.plots.curves import curves
from infoplane.plots.dpi import dpi as dpi_plot
from infoplane.plots.heatmap import heatmap
from infoplane.plots.null import null
from infoplane.plots.plane import plane
from infoplane.plots.plane_grid import plane_grid
from infoplane.plots.sensitivity import sensitivity
from infoplane.plots.similarity import similarity
from infoplane.plots.snr import snr
from infoplane.plots.style import FILES, rc_context
from infoplane.plots.tokens import tokens
from infoplane.results import read_table

FORMATS: tuple[str, ...] = ("png", "svg", "pdf")
"""Suffixes of a figure."""

_ALL = (plane, plane_grid, curves, compare, null, compression, heatmap, sensitivity, similarity, snr, dpi_plot, tokens)
FIGURES: Mapping[str, Callable[..., Axes]] = {draw.__name__: draw for draw in _ALL}
"""Every static figure by its name."""


def save(
    figure: Axes | Figure,
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    dpi: float = 300,
    title: str = "Information plane",
) -> Path:
    """Write a figure as PNG, SVG or PDF.

    Text stays text: TrueType (Type 42) fonts in PDF, which venues ask for, and `<text>` elements in SVG.
    The file holds no date, so drawing the same table again gives the same bytes; its metadata carry the
    caption (estimator, settings, N), also where the caption is not shown.

    Parameters
    ----------
    figure : Axes or Figure
        What a plot function returned.
    path : path
        The suffix names the format, unless `format` does.
    format : {"png", "svg", "pdf"}, optional
    dpi : float
        Pixels per inch of PNG and of what is rasterised in the others.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    ValueError
        For a format other than these three.
    OSError
        If the file cannot be written.
    """
    target = Path(path)
    kind = (format or target.suffix.lstrip(".")).lower()
    if kind not in FORMATS:
        raise ValueError(f"format must be {', '.join(FORMATS)}, got {kind!r}; name the file like plane.svg")
    if not 1 <= dpi <= 4800:
        raise ValueError(f"dpi must be between 1 and 4800, got {dpi}")
    about = caption(figure)
    about_file: dict[str, dict[str, Any]] = {
        "png": {"Title": title, "Description": about, "Software": "infoplane"},
        "svg": {"Title": title, "Description": about, "Creator": "infoplane", "Date": None},
        "pdf": {"Title": title, "Subject": about, "Creator": "infoplane", "CreationDate": None},
    }
    with rc_context(FILES):
        figure_of(figure).savefig(target, format=kind, dpi=dpi, metadata=about_file[kind])
    return target


def draw_file(
    runs: Sequence[str | os.PathLike[str]],
    kind: str,
    out: str | os.PathLike[str],
    *,
    dpi: float = 200,
    format: str | None = None,
    **options: Any,
) -> Path:
    """Draw the figure named `kind` from the results of run directories or CSV files, and write it to `out`.

    `options` are keywords of the figure; those that are None or empty are left out. `quantity` may be a list of names;
    a list of one also fits a figure that draws a single quantity.

    Raises
    ------
    ValueError
        Unknown figure or option, or a choice that the table leaves open.
    """
    if kind not in FIGURES:
        raise ValueError(f"no figure named {kind!r}; {choices(kind, FIGURES)}")
    taken = list(inspect.signature(FIGURES[kind]).parameters)[1:]
    given = {name: value for name, value in options.items() if value not in (None, (), [], "")}
    for name in given:
        if name not in taken:
            have = ", ".join(f"{one}=" for one in [one for one in taken if one in options] or taken)
            raise ValueError(f"the figure {kind!r} takes no {name}=; it takes {have}")
    if not isinstance(names := given.get("quantity", ""), str) and len(names) == 1:
        given["quantity"] = names[0]
    return save(FIGURES[kind](read_table(list(runs)), **given), out, format=format, dpi=dpi)
