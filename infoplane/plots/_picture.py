"""The figures that plots make of their own: a notebook shows them, and their axes, as a picture."""

from __future__ import annotations

import io
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from infoplane.plots.style import FILES, rc_context

CSS_PIXELS = 96
"""Pixels in an inch of a page, as browsers count them."""
SHARPNESS = 1.5
"""Pixels of a picture along one pixel of the page, since many screens have more pixels than browsers count."""

Png = tuple[bytes, dict[str, int]]
"""A picture as a notebook takes it: its bytes, and width and height in pixels of the page."""


class PictureAxes(Axes):
    """Axes that a notebook shows as the picture of their whole figure, without a magic line and without pyplot."""

    def _repr_png_(self) -> Png | None:
        figure = self.get_figure(root=True)
        return None if figure is None else picture(figure)


class PictureFigure(Figure):
    """A figure that a notebook shows, whose axes are shown as the figure, and whose text stays text in every file."""

    def savefig(self, fname: Any, **how: Any) -> None:
        """Save the figure as `Figure` does, with TrueType fonts (Type 42) in PDF and the same bytes every time."""
        # The layout starts from the present places of the axes, and its result differs in the last bits when these do.
        # To write the same bytes each time, put the axes back where they stood before the first file. Axes that the
        # caller has placed since are no longer in the layout, and stay.
        self._begin = getattr(self, "_begin", None) or {ax: ax.get_position(original=True) for ax in self.axes}
        for ax, place in self._begin.items():
            if ax.get_in_layout():
                ax.set_position(place)
                ax.set_in_layout(True)
        with rc_context(FILES):
            super().savefig(fname, **how)

    def add_subplot(self, *args: Any, **kwargs: Any) -> Any:
        """Add axes as `Figure` does: `PictureAxes`, unless the arguments ask for another kind."""
        if not {"projection", "polar", "axes_class"} & kwargs.keys():
            kwargs["axes_class"] = PictureAxes
        return super().add_subplot(*args, **kwargs)

    def _repr_png_(self) -> Png:
        return picture(self)


def picture(figure: Figure | SubFigure) -> Png:
    """Return a figure as the bytes of a PNG, and the width and height, in pixels, at which a page shows it.

    These are the figure's own size in inches.
    """
    whole: Any = figure
    out = io.BytesIO()
    with rc_context({**FILES, "savefig.bbox": None}):
        whole.savefig(out, format="png", dpi=SHARPNESS * CSS_PIXELS)
    width, height = whole.get_size_inches() * CSS_PIXELS
    return out.getvalue(), {"width": round(width), "height": round(height)}
