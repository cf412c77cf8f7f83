"""Every figure by name, from results on disk to a file: what the command line and the report call."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from infoplane.core.errors import choices
from infoplane.plots.compare import compare
from infoplane.plots.compression import compression
from infoplane.plots.curves import curves
from infoplane.plots.dpi import dpi as dpi_figure
from infoplane.plots.heatmap import heatmap
from infoplane.plots.null import null
from infoplane.plots.plane import plane
from infoplane.plots.plane_grid import plane_grid
from infoplane.plots.saving import save
from infoplane.plots.snr import snr
from infoplane.plots.tokens import tokens
from infoplane.results import read_table

FIGURES: Mapping[str, Callable[..., Axes]] = {
    "plane": plane,
    "plane_grid": plane_grid,
    "curves": curves,
    "compare": compare,
    "null": null,
    "compression": compression,
    "heatmap": heatmap,
    "snr": snr,
    "dpi": dpi_figure,
    "tokens": tokens,
}
"""Every static figure by its name."""


def figures() -> dict[str, Callable[..., Axes]]:
    """Name -> function of a results table, for every static figure of `infoplane.plots`."""
    return dict(FIGURES)


def draw_file(
    runs: Sequence[str | os.PathLike[str]],
    kind: str,
    out: str | os.PathLike[str],
    *,
    dpi: float = 200,
    format: str | None = None,
    **options: Any,
) -> Path:
    """Draw the figure `kind` from the results of run directories or CSV files, and write it to `out`.

    Options that are None or empty are left out; one that the figure does not take is an error. A `quantity` may be
    one name or several, in a figure that draws several.

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
            raise ValueError(f"the figure {kind!r} takes no {name!r}; it takes {', '.join(taken)}")
    if not isinstance(names := given.get("quantity", ""), str) and len(names) == 1:
        given["quantity"] = names[0]
    return save(FIGURES[kind](read_table(list(runs)), **given), out, format=format, dpi=dpi)
