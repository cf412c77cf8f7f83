"""Measures a figure as it is laid out: its axes keep three fifths of the width, no text is cut, none is too small."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from unittest import mock

import numpy as np
from matplotlib.axes import Axes
from matplotlib.text import Text

STYLES = ("column", "page", "screen")
SLACK = 0.75
"""Points by which a glyph may stand out of the box that its font states."""


@contextlib.contextmanager
def texts_drawn() -> Iterator[list[Text]]:
    """The texts that are really drawn: Matplotlib keeps others, such as labels of ticks beyond the limits."""
    seen: list[Text] = []
    draw = Text.draw

    def noted(self: Text, renderer: object) -> object:
        if self.get_visible() and self.get_text().strip() and self.get_alpha() != 0:
            seen.append(self)
        return draw(self, renderer)

    with mock.patch.object(Text, "draw", noted):
        yield seen


def check(ax: Axes, written: list[Text], style: str, share: float = 0.6) -> None:
    """The promises, measured on the laid-out figure."""
    figure = ax.figure
    written.clear()
    figure.draw_without_rendering()
    panels = [a for a in figure.axes if a.get_visible() and not hasattr(a, "_colorbar")]
    boxes = np.array([a.get_position().extents for a in panels])
    first = boxes[np.isclose(boxes[:, 1], boxes[0, 1])]  # the panels of the first row
    assert (first[:, 2] - first[:, 0]).sum() >= share * (1 if len(first) == 1 else 0.9), "the axes are too narrow"
    slack = SLACK * figure.dpi / 72
    for text in dict.fromkeys(written):
        box = text.get_window_extent()
        low, high = np.min([box.x0, box.y0]), np.max([box.x1 - figure.bbox.x1, box.y1 - figure.bbox.y1])
        assert low >= -slack, f"{text.get_text()!r} is cut"
        assert high <= slack, f"{text.get_text()!r} is cut"
        if style == "column":
            assert text.get_fontsize() >= 6.5, f"{text.get_text()!r} has {text.get_fontsize()} points"
