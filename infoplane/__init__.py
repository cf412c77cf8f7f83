"""Information planes of neural networks: capture, estimate, draw, and say what is wrong with the number.

A training loop is watched through hooks, activations go to immutable HDF5 shards, estimators turn them
into a results table, and plots read that table alone. This module imports none of it: names are loaded
when they are used, so `import infoplane` needs no torch.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_LAZY = {
    "Recorder": "infoplane.hooks",
    "layers": "infoplane.hooks",
    "live": "infoplane._live",
    "open_run": "infoplane.store",
    "StoreError": "infoplane.core.errors",
    "advise": "infoplane.analysis",
    "analyze": "infoplane.analysis",
    "from_arrays": "infoplane.importers",
    "ResultTable": "infoplane.results",
    "read_table": "infoplane.results",
    "study": "infoplane.studies",
}
# The parts are packages, but for `certify`; other modules of this folder are reached by commands alone.
_MODULES = {each.name for each in pkgutil.iter_modules(__path__) if each.ispkg or each.name == "certify"}

__all__ = ["__version__", *_LAZY, *sorted(_MODULES)]

if TYPE_CHECKING:
    from infoplane._live import live as live
    from infoplane.analysis import advise as advise
    from infoplane.analysis import analyze as analyze
    from infoplane.core.errors import StoreError as StoreError
    from infoplane.hooks import Recorder as Recorder
    from infoplane.hooks import layers as layers
    from infoplane.importers import from_arrays as from_arrays
    from infoplane.results import ResultTable as ResultTable
    from infoplane.results import read_table as read_table
    from infoplane.store import open_run as open_run
    from infoplane.studies import study as study


def __getattr__(name: str) -> Any:
    """Return a public name or part, imported now; AttributeError with the names there are for any other."""
    if name in _LAZY:
        # Kept, so that this function is asked once for each name.
        value = globals()[name] = getattr(importlib.import_module(_LAZY[name]), name)
        return value
    if name in _MODULES:
        return importlib.import_module(f"infoplane.{name}")
    raise AttributeError(f"module 'infoplane' has no attribute {name!r}; available: {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
