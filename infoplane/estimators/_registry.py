"""Names of estimators and their pages.

A spec is a name `binning`, a preset `binning@saxe-2018`, settings `binning:n_bins=60`, or wrapped: `knn+null`.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any, TypeVar

from infoplane.core.errors import choices, closest
from infoplane.estimators._checks import checked
from infoplane.estimators._settings import own_settings

_ESTIMATORS: dict[str, type[Any]] = {}
_PRESETS: dict[str, dict[str, dict[str, Any]]] = {}
_WRAPPERS: dict[str, type[Any]] = {}
_BUILT_IN = "infoplane.estimators."
_RESERVED = ("recorded",)
T = TypeVar("T", bound=type[Any])


def register(cls: T) -> T:
    """Class decorator: make an estimator reachable by its `name`.

    Its `estimate` then leaves `low` and `high` empty (NaN) where a flag says that sampling is not the error to fear,
    and takes rows that look given several times, without `x_ids`, as one input each (flag `ties`).

    Raises
    ------
    TypeError
        A member of the protocol is missing.
    ValueError
        The name is that of another estimator, built in or registered before, or no name a spec can hold. The same
        class of the same module may come again, as when a notebook cell is run twice.
    """
    for member in ("name", "targets", "guarantees", "bytes_per_snapshot", "estimate"):
        if not hasattr(cls, member):
            raise TypeError(f"{cls.__name__} is no estimator: it lacks {member!r}")
    check_name("an estimator's name", cls.name)
    if not cls.__module__.startswith(_BUILT_IN):
        _load()  # first the built-in ones, lest a class that is registered before them take one of their names
    known = _ESTIMATORS.get(cls.name)
    if known is not None and not _same_class(known, cls):
        kind = "a built-in" if known.__module__.startswith(_BUILT_IN) else "another"
        raise ValueError(
            f"{cls.name!r} is the name of {kind} estimator ({known.__module__}.{known.__qualname__}); "
            f"give {cls.__module__}.{cls.__qualname__} a name of its own"
        )
    cls.estimate = checked(cls.estimate)
    _ESTIMATORS[cls.name] = cls
    return cls


def _same_class(known: type[Any], cls: type[Any]) -> bool:
    """Return whether both classes have one module and name: one piece of code, perhaps run twice as in a notebook."""
    return (known.__module__, known.__qualname__) == (cls.__module__, cls.__qualname__)


def check_name(what: str, name: object) -> None:
    """Raise ValueError for a name that a spec cannot hold, or that stands for something else in the results table."""
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_](?:[\w.-]*\w)?", name):
        raise ValueError(f"{what} must be letters, digits, '-', '_' and '.', as 'my-method', got {name!r}")
    if name in _RESERVED:
        raise ValueError(f"{what} must not be {name!r}, which stands for training metrics in the results table")


def register_wrapper(suffix: str) -> Callable[[T], T]:
    """Class decorator: make a class with the field `estimator` reachable as `+suffix` behind any estimator."""

    def decorate(cls: T) -> T:
        """Register the class under the suffix and return it; ValueError if another class has the suffix."""
        check_name("a wrapper's suffix", suffix)
        known = _WRAPPERS.get(suffix)
        if known is not None and not _same_class(known, cls):
            raise ValueError(f"'+{suffix}' is {known.__module__}.{known.__qualname__}; choose another suffix")
        cls.estimate = checked(cls.estimate)
        _WRAPPERS[suffix] = cls
        return cls

    return decorate


def wrapper(suffix: str) -> type[Any]:
    """Return the wrapper class registered under `suffix`; ValueError for an unknown suffix."""
    if suffix not in _WRAPPERS:
        raise ValueError(f"no wrapper named {suffix!r}; {choices(suffix, sorted(_WRAPPERS))}")
    return _WRAPPERS[suffix]


def preset(estimator: str, name: str, **fields: Any) -> None:
    """Register `estimator@name` for published settings; ValueError if the name stands for other settings already."""
    known = _PRESETS.setdefault(estimator, {}).setdefault(name, fields)
    if known != fields:
        raise ValueError(f"{estimator}@{name} stands for {known} already; give {fields} a name of its own")


@functools.cache
def _load() -> None:
    """Import all public modules of this package, which registers their estimators."""
    package = importlib.import_module("infoplane.estimators")
    for module in pkgutil.iter_modules(package.__path__):
        if not module.name.startswith("_"):
            importlib.import_module(f"infoplane.estimators.{module.name}")


def available() -> dict[str, type[Any]]:
    """Return all registered estimators by name. Third-party ones appear once they were named."""
    _load()
    return dict(sorted(_ESTIMATORS.items()))


def presets(estimator: str) -> Mapping[str, Mapping[str, Any]]:
    """Return the presets of one estimator: name -> fields."""
    _load()
    return dict(_PRESETS.get(estimator, {}))


def get(name: str) -> type[Any]:
    """Return the estimator class registered under `name`; a plug-in's entry point is loaded only when named.

    Raises
    ------
    ValueError
        Unknown name; the line lists the closest ones.
    """
    _load()
    if name not in _ESTIMATORS:
        point = next(iter(entry_points(group="infoplane.estimators", name=name)), None)
        if point is None:
            near = ", ".join(closest(name, _ESTIMATORS))
            raise ValueError(f"no estimator named {name!r}; closest: {near}; 'infoplane estimators' lists all")
        cls = point.load()
        if (given := getattr(cls, "name", None)) != name:
            raise ValueError(f"the plug-in {point.value} gives an estimator {given!r}, its entry point says {name!r}")
        register(cls)
    return _ESTIMATORS[name]


def parse(spec: str) -> Any:
    """Build an estimator from `name[@preset][:field=value,field=value]`, then `+wrapper[:field=value,...]`.

    Values are Python literals; anything else is taken as a string (`range=layer`). Commas inside brackets
    belong to the value (`range=(-1,1)`).

    >>> parse("binning:n_bins=60").n_bins
    60
    >>> parse("knn:n_neighbors=5+null:draws=50").draws
    50
    """
    spec, *wrappers = re.split(r"\+(?=[A-Za-z_])", spec)  # 1e+3 is a number
    estimator = _parse_plain(spec)
    for part in wrappers:
        suffix, _, settings = part.partition(":")
        fields = _fields(part, settings)
        if "estimator" in fields:
            raise ValueError(f"the estimator stands before the wrapper, as in 'knn+{suffix}', got {part!r}")
        estimator = build(wrapper(suffix.strip()), {**fields, "estimator": estimator})
    return estimator


def _parse_plain(spec: str) -> Any:
    """Build an estimator from a spec without wrappers, `name[@preset][:field=value,...]`."""
    head, _, settings = spec.partition(":")
    name, _, preset_name = head.partition("@")
    cls = get(name.strip())
    known = {"": {}, **presets(cls.name)}  # without a preset no field is given
    if preset_name not in known:
        raise ValueError(f"{cls.name} has no preset {preset_name!r}; {choices(preset_name, sorted(presets(cls.name)))}")
    return build(cls, {**known[preset_name], **_fields(spec, settings)})


def _fields(spec: str, settings: str) -> dict[str, Any]:
    """Return settings written as `field=value,field=value` as a dict; a ValueError for other text quotes `spec`."""
    fields: dict[str, Any] = {}
    for item in _split(settings):
        key, equals, text = item.partition("=")
        if not equals:
            raise ValueError(f"expected field=value in {spec!r}, got {item!r}")
        fields[key.strip()] = _literal(text.strip())
    return fields


def build(cls: type[Any], fields: Mapping[str, Any]) -> Any:
    """Construct `cls(**fields)`; ValueError with the names that there are for an unknown field."""
    names = [f.name for f in own_settings(cls)]
    for key in fields:
        if key not in names:
            raise ValueError(f"{cls.name} has no field {key!r}; {choices(key, names)}")
    return cls(**fields)


def build_named(settings: Mapping[str, Any]) -> Any:
    """Construct an estimator from its settings and its "name", as a wrapper's configuration records the one inside."""
    fields = dict(settings)
    name = str(fields.pop("name", ""))
    _, plus, suffix = name.rpartition("+")  # of "knn+null" the estimator itself is in the settings
    return build(wrapper(suffix) if plus else get(name), fields)


def _literal(text: str) -> Any:
    """Return a value in a spec: a Python literal, true, false or none in any capitals, else the text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        if text[:1] in "([" and text[-1:] in ")]" and len(text) > 1:  # words need no quotes: (miller-madow,jackknife)
            return tuple(_literal(word) for word in _split(text[1:-1]))
        return {"true": True, "false": False, "none": None}.get(text.lower(), text)


def _split(text: str) -> list[str]:
    """Return the parts of a text between the commas that stand outside brackets, without empty parts."""
    parts, depth = [""], 0
    for c in text:
        depth += (c in "([{") - (c in ")]}")  # brackets that are open at this place
        if c == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += c
    return [part.strip() for part in parts if part.strip()]


def describe(name: str | None = None) -> str:
    """Return the list of all estimators, or the page of one: what it measures, how it misleads, its settings."""
    if name is None:
        rows = [(key, ", ".join(sorted(cls.targets)), _first_line(cls)) for key, cls in available().items()]
        width = max(len(key) for key, _, _ in rows)
        lines = [f"{key.ljust(width)}  {line} [{targets}]" for key, targets, line in rows]
        return "\n".join([*lines, "", "infoplane estimators NAME shows the page of one, with its settings and presets"])
    cls = get(name)
    lines = [f"{cls.name}: {inspect.getdoc(cls) or ''}", "", "Settings and defaults"]
    lines += [f"  {f.name} = {_default(f)!r}{_allowed(f)}" for f in own_settings(cls)]
    known = presets(cls.name)
    lines += ["", "Presets"] if known else []
    for key, fields in sorted(known.items()):
        lines.append(f"  {cls.name}@{key}: " + ", ".join(f"{field}={value!r}" for field, value in fields.items()))
    guarantees = ", ".join(sorted(cls.guarantees)) or "none"
    lines += ["", f"Targets: {', '.join(sorted(cls.targets))}. Guarantees held by the contract suite: {guarantees}."]
    return "\n".join(lines)


def _first_line(cls: type) -> str:
    """Return the first paragraph of a class's docstring as one line, or the name of a class without docstring."""
    return (inspect.getdoc(cls) or cls.__name__).split("\n\n")[0].replace("\n", " ")


def _default(f: dataclasses.Field[object]) -> object:
    """Return the default of a setting, or the word "required"."""
    if f.default is not dataclasses.MISSING:
        return f.default
    return f.default_factory() if f.default_factory is not dataclasses.MISSING else "required"


def _allowed(f: dataclasses.Field[object]) -> str:
    """Return words for the values that a setting may have, in brackets; "" where it does not say."""
    return f" ({f.metadata['domain'].words})" if "domain" in f.metadata else ""
