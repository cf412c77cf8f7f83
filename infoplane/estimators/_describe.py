"""The pages of the estimators, from their own docstrings and fields."""

from __future__ import annotations

import dataclasses
import inspect

from infoplane.estimators._registry import available, get, presets


def describe(name: str | None = None) -> str:
    """The list of all estimators, or the page of one: what it measures, how it misleads, its settings."""
    if name is None:
        rows = [(key, ", ".join(sorted(cls.targets)), _first_line(cls)) for key, cls in available().items()]
        width = max(len(key) for key, _, _ in rows)
        lines = [f"{key.ljust(width)}  {line} [{targets}]" for key, targets, line in rows]
        return "\n".join([*lines, "", "infoplane estimators NAME shows the page of one, with its settings and presets"])
    cls = get(name)
    lines = [f"{cls.name}: {inspect.getdoc(cls) or ''}", "", "Settings and defaults"]
    lines += [f"  {f.name} = {_default(f)!r}" for f in dataclasses.fields(cls) if not f.metadata.get("prepared")]
    known = presets(cls.name)
    if known:
        lines += ["", "Presets"]
        lines += [
            f"  {cls.name}@{key}: " + ", ".join(f"{field}={value!r}" for field, value in fields.items())
            for key, fields in sorted(known.items())
        ]
    guarantees = ", ".join(sorted(cls.guarantees)) or "none"
    lines += ["", f"Targets: {', '.join(sorted(cls.targets))}. Guarantees held by the contract suite: {guarantees}."]
    return "\n".join(lines)


def _first_line(cls: type) -> str:
    return (inspect.getdoc(cls) or cls.__name__).split("\n\n")[0].replace("\n", " ")


def _default(f: dataclasses.Field[object]) -> object:
    if f.default is not dataclasses.MISSING:
        return f.default
    return f.default_factory() if f.default_factory is not dataclasses.MISSING else "required"
