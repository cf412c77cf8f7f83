"""From run directories or tables on disk to a figure file: what the command line calls."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from infoplane.plots.compare import compare
from infoplane.plots.compression import compression
from infoplane.plots.curves import curves
from infoplane.plots.dpi import dpi
from infoplane.plots.heatmap import heatmap
from infoplane.plots.null import null
from infoplane.plots.plane import plane
from infoplane.plots.plane_grid import plane_grid
from infoplane.plots.saving import save
from infoplane.plots.snr import snr
from infoplane.results import read_table

FIGURES: Mapping[str, Callable[..., Axes]] = {
    draw.__name__: draw for draw in (plane, plane_grid, curves, compare, null, compression, heatmap, snr, dpi)
}
"""Every static figure by its name."""


def draw_file(
    runs: Sequence[str | os.PathLike[str]] | str | os.PathLike[str],
    kind: str,
    out: str | os.PathLike[str],
    *,
    dpi: float = 200,
    format: str | None = None,
    **options: Any,
) -> Path:
    """Read the results of the runs, draw the figure `kind`, write it to `out`.

    `options` go to the figure; one that is None, empty or unknown to it is left out, so that one command can
    offer what only some figures take.

    Raises
    ------
    ValueError
        If there is no such figure, or the table leaves a choice open.
    """
    if kind not in FIGURES:
        raise ValueError(f"no figure {kind!r}; available: {', '.join(FIGURES)}")
    draw = FIGURES[kind]
    known = inspect.signature(draw).parameters
    given = {name: value for name, value in options.items() if name in known and value not in (None, (), [], "")}
    table = read_table([runs] if isinstance(runs, str | os.PathLike) else list(runs))
    return save(draw(table, **given), out, format=format, dpi=dpi)
