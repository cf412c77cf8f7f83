"""Warnings that name the user's own line."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

_PACKAGE = str(Path(__file__).parents[1])


def warn(text: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the user's line that called into the package, however deep inside it, or in a forward pass, this is."""
    # Walk to the outermost frame of the package on the stack: its caller is the user. Depths are counted as by
    # `stacklevel`: 1 is this function, 2 the one that called it; `entered` is that of the frame found so far.
    frame, depth, entered = sys._getframe(1), 2, 1
    while (caller := frame.f_back) is not None:
        if frame.f_code.co_filename.startswith(_PACKAGE):
            entered = depth
        frame, depth = caller, depth + 1
    warnings.warn(text, category, stacklevel=entered + 1)
