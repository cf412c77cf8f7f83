"""Cells run in a fresh kernel, as somebody who opens a notebook has it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def outputs(cells: Sequence[str], folder: Path) -> list[list[Any]]:
    """What stands below each of the cells after all were run in `folder`."""
    import nbclient
    import nbformat

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    nbclient.NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": str(folder)}}).execute()
    return [cell.outputs for cell in notebook.cells]
