"""Figures from a results table: each function draws in given axes, or in a figure of its own, and returns the axes.

The module needs matplotlib and numpy, neither torch nor h5py: a figure can be drawn again on any machine
that has the table. No function touches pyplot, a global setting or a file; `save` writes files. Without
`ax` the figure lives outside pyplot, so it needs no display; a notebook shows the axes that are returned as the
picture of their figure. Beside each `name(table)` stands `name_data(table)`, the numbers that it draws.
"""

from infoplane.plots._figure import caption
from infoplane.plots._layers import recolor
from infoplane.plots.animation import animate
from infoplane.plots.association import association, association_data, association_scatter, association_scatter_data
from infoplane.plots.compare import compare, compare_data
from infoplane.plots.compression import compression, compression_data
from infoplane.plots.curves import curve_data, curves
from infoplane.plots.dpi import dpi, dpi_data
from infoplane.plots.figures import FIGURES, draw_file, save
from infoplane.plots.heatmap import heatmap, heatmap_data
from infoplane.plots.null import null, null_data
from infoplane.plots.plane import plane, plane_data
from infoplane.plots.plane_grid import plane_grid, plane_grid_data
from infoplane.plots.sensitivity import sensitivity, sensitivity_data
from infoplane.plots.similarity import similarity, similarity_data
from infoplane.plots.snr import snr, snr_data
from infoplane.plots.text import safe_text
from infoplane.plots.tokens import tokens, tokens_data

__all__ = [
    "FIGURES",
    "animate",
    "association",
    "association_data",
    "association_scatter",
    "association_scatter_data",
    "caption",
    "compare",
    "compare_data",
    "compression",
    "compression_data",
    "curve_data",
    "curves",
    "dpi",
    "dpi_data",
    "draw_file",
    "heatmap",
    "heatmap_data",
    "null",
    "null_data",
    "plane",
    "plane_data",
    "plane_grid",
    "plane_grid_data",
    "recolor",
    "safe_text",
    "save",
    "sensitivity",
    "sensitivity_data",
    "similarity",
    "similarity_data",
    "snr",
    "snr_data",
    "tokens",
    "tokens_data",
]
