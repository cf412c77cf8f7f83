"""The pages of the documentation: every public name has its place, every notebook is clean, every page is listed."""

import importlib
import json
from pathlib import Path

import pytest

import infoplane

DOCS = Path(__file__).parents[1] / "docs"
PARTS = [p for p in infoplane.__all__ if hasattr(getattr(infoplane, p, None), "__path__")]
# Values, not functions or classes: their meaning stands where they are used.
CONSTANTS = {"ALL_GUARANTEES", "FLAGS", "VOIDING", "COLUMNS", "KEY", "FIGURES", "FOREIGN", "FORMAT_VERSION"}


@pytest.mark.parametrize("part", PARTS)
def test_every_public_name_is_in_the_reference(part):
    listed = {}
    module = ""
    for line in (DOCS / "api" / "index.md").read_text().splitlines():
        if line.startswith(".. currentmodule:: "):
            module = line.split()[-1]
        elif line.startswith("   ") and not line.strip().startswith(":"):
            listed.setdefault(module, set()).add(line.strip())
    names = set(getattr(importlib.import_module(f"infoplane.{part}"), "__all__", ())) - CONSTANTS
    missing = sorted(names - listed.get(f"infoplane.{part}", set()))
    assert not missing, f"docs/api/index.md lists no {', '.join(missing)} under infoplane.{part}"


@pytest.mark.parametrize("path", sorted((DOCS / "notebooks").glob("*.ipynb")), ids=lambda p: p.stem)
def test_notebooks_hold_no_outputs(path):
    """The build runs them: an output in the repository could be an old one."""
    cells = [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
    assert cells
    assert all(not c["outputs"] and c["execution_count"] is None for c in cells)
