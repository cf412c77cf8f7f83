"""Names of estimators: `binning`, presets `binning@saxe-2018`, settings `binning:n_bins=60`."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import pkgutil
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any, TypeVar

from infoplane.core.errors import closest

_ESTIMATORS: dict[str, type[Any]] = {}
_PRESETS: dict[str, dict[str, dict[str, Any]]] = {}
_loaded = False
T = TypeVar("T", bound=type[Any])


def register(cls: T) -> T:
    """Class decorator: make an estimator reachable by its `name`."""
    for member in ("name", "targets", "guarantees", "bytes_per_snapshot", "estimate"):
        if not hasattr(cls, member):
            raise TypeError(f"{cls.__name__} is no estimator: it lacks {member!r}")
    known = _ESTIMATORS.get(cls.name)
    if known is not None and known.__qualname__ != cls.__qualname__:
        raise ValueError(f"an estimator named {cls.name!r} exists already ({known.__module__})")
    _ESTIMATORS[cls.name] = cls
    return cls


def preset(estimator: str, name: str, **fields: Any) -> None:
    """Register `estimator@name` for a published choice of settings."""
    _PRESETS.setdefault(estimator, {})[name] = fields


def _load() -> None:
    global _loaded
    if _loaded:
        return
    package = importlib.import_module("infoplane.estimators")
    for module in pkgutil.iter_modules(package.__path__):
        if not module.name.startswith("_"):
            importlib.import_module(f"infoplane.estimators.{module.name}")
    _loaded = True


def available() -> dict[str, type[Any]]:
    """All registered estimators by name. Third-party ones appear once they were named."""
    _load()
    return dict(sorted(_ESTIMATORS.items()))


def presets(estimator: str) -> Mapping[str, Mapping[str, Any]]:
    """The presets of one estimator: name -> fields."""
    _load()
    return dict(_PRESETS.get(estimator, {}))


def get(name: str) -> type[Any]:
    """The estimator class registered under `name`; a plug-in's entry point is loaded only when named.

    Raises
    ------
    ValueError
        Unknown name; the line lists the closest ones.
    """
    _load()
    if name not in _ESTIMATORS:
        for point in entry_points(group="infoplane.estimators", name=name):
            cls = point.load()
            if getattr(cls, "name", None) != name:
                raise ValueError(
                    f"the plug-in {point.value} gives an estimator named {getattr(cls, 'name', None)!r}, "
                    f"its entry point says {name!r}"
                )
            register(cls)
            break
        else:
            raise ValueError(
                f"no estimator named {name!r}; closest: {', '.join(closest(name, _ESTIMATORS))}; "
                "'infoplane estimators' lists all"
            )
    return _ESTIMATORS[name]


def parse(spec: str) -> Any:
    """Build an estimator from `name[@preset][:field=value,field=value]`.

    Values are Python literals; anything else is taken as a string (`range=layer`). Commas inside brackets
    belong to the value (`range=(-1,1)`).

    >>> parse("binning:n_bins=60").n_bins
    60
    """
    head, _, tail = spec.partition(":")
    name, _, preset_name = head.partition("@")
    cls = get(name.strip())
    fields: dict[str, Any] = {}
    if preset_name:
        known = presets(cls.name)
        if preset_name not in known:
            raise ValueError(
                f"{cls.name} has no preset {preset_name!r}; available: {', '.join(sorted(known)) or 'none'}"
            )
        fields.update(known[preset_name])
    for item in _split(tail):
        key, equals, text = item.partition("=")
        if not equals:
            raise ValueError(f"expected field=value in {spec!r}, got {item!r}")
        fields[key.strip()] = _literal(text.strip())
    return build(cls, fields)


def build(cls: type[Any], fields: Mapping[str, Any]) -> Any:
    """Construct `cls(**fields)`, with one clear line for an unknown field."""
    names = [f.name for f in dataclasses.fields(cls) if not f.metadata.get("prepared")]
    for key in fields:
        if key not in names:
            raise ValueError(f"{cls.name} has no field {key!r}; available: {', '.join(names) or 'none'}")
    return cls(**fields)


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return {"true": True, "false": False, "none": None}.get(text.lower(), text)


def _split(text: str) -> list[str]:
    parts, depth, start = [], 0, 0
    for i, c in enumerate(text):
        depth += (c in "([{") - (c in ")]}")
        if c == "," and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    parts.append(text[start:])
    return [p for p in (p.strip() for p in parts) if p]
