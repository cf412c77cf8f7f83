"""The user's own function that makes a model and its probe, named as `module:function` on the command line."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

_EXPECTED = "(model, probe) or (model, probe, options), where probe is (x, y) or {'train': (x, y), 'test': (x, y)}"


def from_factory(spec: str) -> tuple[nn.Module, Any, dict[str, Any]]:
    """Model, probe and options of `Recorder` from what `module:function` or `file.py:function` returns.

    The module is looked for in the current directory first. Its code is run.

    Raises
    ------
    ValueError
        There is no such module or function, or it returns something else.
    """
    name, _, function = spec.rpartition(":")
    if not name or not function:
        raise ValueError(f"expected module:factory, as in train:make or train.py:make, got {spec!r}")
    factory = getattr(_module(name), function, None)
    if not callable(factory):
        raise ValueError(f"{name} has no function {function!r}")
    made = factory()
    items = made if isinstance(made, tuple) else (made,)
    options = items[2] if len(items) == 3 else {}
    if len(items) not in (2, 3) or not isinstance(items[0], nn.Module) or not isinstance(options, Mapping):
        got = ", ".join(type(item).__name__ for item in items)
        raise ValueError(f"{spec} must return {_EXPECTED}; got ({got})")
    return items[0], items[1], dict(options)


def _module(name: str) -> ModuleType:
    """The module of this name, or in this file; ValueError where there is none."""
    if name.endswith(".py"):
        return _of_file(Path(name))
    if (here := os.getcwd()) not in sys.path:  # noqa: PTH109 - as `python -m` does; a program's path is its own folder
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # the module is there, and what is missing is another one that it imports
        raise ValueError(
            f"no module {name!r}, neither in {here} nor installed; a file is named train.py:make"
        ) from error


def _of_file(file: Path) -> ModuleType:
    """The module that a file holds; ValueError where there is no such file."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None or not file.is_file():
        raise ValueError(f"no file {str(file)!r}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module  # dataclasses and pickles look for the module of their class there
    sys.path.insert(0, str(file.parent.absolute()))  # its neighbours can be imported, as for a script
    spec.loader.exec_module(module)
    return module
