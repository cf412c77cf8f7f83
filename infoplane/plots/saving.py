"""Figures to files that say what was measured and that come out equal, byte for byte, on repetition."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from infoplane.core.text import printable
from infoplane.plots._artists import captions
from infoplane.plots.style import rc_context

FORMATS: tuple[str, ...] = ("png", "svg", "pdf")


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
    drawn = figure.get_figure(root=True) if isinstance(figure, Axes) else figure
    if drawn is None:
        raise ValueError("the axes belong to no figure")
    about = printable(" | ".join(captions(drawn))).replace(r"\$", "$")
    about_file: dict[str, dict[str, Any]] = {
        "png": {"Title": title, "Description": about, "Software": "infoplane"},
        "svg": {"Title": title, "Description": about, "Creator": "infoplane", "Date": None},
        "pdf": {"Title": title, "Subject": about, "Creator": "infoplane", "CreationDate": None},
    }
    fixed = {"svg.hashsalt": "infoplane", "svg.fonttype": "none", "pdf.fonttype": 42, "ps.fonttype": 42}
    with rc_context({**fixed, "text.usetex": False}):
        drawn.savefig(target, format=kind, dpi=dpi, metadata=about_file[kind])
    return target
