"""Files that a notebook shows by what is in them."""

from __future__ import annotations

import base64
import html
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    _Path = Path
else:
    _Path = type(Path())  # Path itself takes no subclass before Python 3.12

KINDS = {".gif": "image/gif", ".webp": "image/webp", ".apng": "image/apng", ".png": "image/png", ".mp4": "video/mp4"}
MOST_BYTES = 50_000_000
"""A larger file would make the notebook unusable: it is shown by its path."""


class ShownFile(_Path):
    """The path of a page, an animation or a video, which a notebook shows in place.

    What is shown is part of the saved notebook. A page stands in a frame without the rights of the notebook's own.
    """

    def _repr_html_(self) -> str | None:
        """Return HTML that shows the file in a notebook, with a link to it; None for another kind or a large file."""
        kind = KINDS.get(self.suffix.lower(), "")
        if not (kind or self.suffix.lower() == ".html") or not self.is_file() or self.stat().st_size > MOST_BYTES:
            return None
        name, where = html.escape(self.name), html.escape(_address(self))
        link = f'<p><a href="{where}" target="_blank" rel="noopener">{name}</a></p>'
        if not kind:
            page = html.escape(self.read_text(encoding="utf-8"))
            frame = 'sandbox="allow-scripts allow-downloads" style="width:100%;height:46em;border:1px solid #ccc"'
            return f'<iframe srcdoc="{page}" title="{name}" {frame}></iframe>{link}'
        data = f"data:{kind};base64,{base64.b64encode(self.read_bytes()).decode()}"
        if kind.startswith("video"):
            return f'<video src="{data}" controls autoplay loop muted style="max-width:100%"></video>{link}'
        return f'<img src="{data}" alt="{name}" style="max-width:100%">{link}'


def _address(path: Path) -> str:
    """Return the URL of a link to a file: relative to the working folder, or absolute where the file lies elsewhere."""
    here = os.path.relpath(path)
    # as_uri writes escapes, and takes absolute paths only.
    return path.absolute().as_uri() if here.startswith("..") else Path("/", here).as_uri().removeprefix("file:///")
