"""Information planes of neural networks: capture, estimate, draw, and say what is wrong with the number.

A training loop is watched through hooks, activations go to immutable HDF5 shards, estimators turn them
into a results table, and plots read that table alone. This module imports none of it: names are loaded
when they are used, so `import infoplane` needs no torch.
"""

from __future__ import annotations

import importlib
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
_MODULES = frozenset(
    {
        "analysis",
        "certify",
        "core",
        "datasets",
        "diagnostics",
        "estimators",
        "hooks",
        "importers",
        "integrations",
        "plots",
        "report",
        "results",
        "store",
        "studies",
        "testing",
    }
)

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
    if name in _LAZY:
        value = getattr(importlib.import_module(_LAZY[name]), name)
        globals()[name] = value
        return value
    if name in _MODULES:
        return importlib.import_module(f"infoplane.{name}")
    raise AttributeError(f"module 'infoplane' has no attribute {name!r}; available: {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
