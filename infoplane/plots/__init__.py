"""Figures from a results table: each function draws in given axes, or in a figure of its own, and returns the axes.

The module needs matplotlib and numpy, neither torch nor h5py: a figure can be drawn again on any machine
that has the table. No function touches pyplot, a global setting or a file; `save` writes files. Without
`ax` the figure lives outside pyplot, so it needs no display; in a notebook, `ax.figure` shows it. Beside each
`name(table)` stands `name_data(table)`, the numbers that it draws.
"""

from infoplane.plots.curves import curve_data, curves
from infoplane.plots.plane import plane, plane_data
from infoplane.plots.saving import save
from infoplane.plots.text import safe_text

__all__ = ["curve_data", "curves", "plane", "plane_data", "safe_text", "save"]
