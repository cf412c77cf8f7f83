"""Settings of an estimator: fields that say which values they may have, and their form in the results table."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

from infoplane.core.strict import canonical_json


@dataclass(frozen=True)
class Domain:
    """Which values a setting may have: numbers from `least` to `most`, and some words or None.

    Attributes
    ----------
    words : str
        How an error and the page of the estimator say it, behind "must be".
    least, most : float or None
        None as `least` means that no number is allowed.
    open : bool
        Whether the ends are left out.
    named : tuple of str, bool or None
        Words that are allowed; None in it where the setting may be left out, True and False for a switch.
    whole : bool
        Whether the numbers are integers.
    """

    words: str
    least: float | None = None
    most: float = math.inf
    open: bool = False
    named: tuple[str | bool | None, ...] = ()
    whole: bool = False

    def holds(self, value: object) -> bool:
        """Return whether the value is allowed."""
        # True and False are numbers to Python, but no numbers of a setting.
        if value is None or isinstance(value, str | bool):
            return value in self.named
        if self.least is None or not isinstance(value, int if self.whole else Real):  # None: words only, no number
            return False
        number = float(value)
        return self.least < number < self.most if self.open else self.least <= number <= self.most


POSITIVE = Domain("positive and finite", 0.0, open=True)
POSITIVE_OR_NONE = Domain("positive and finite, or None", 0.0, open=True, named=(None,))
SWITCH = Domain("True or False", named=(True, False))
COUNT = Domain("a whole number of 0 or more", 0, whole=True)


def at_least(least: int) -> Domain:
    """Return the domain of numbers from `least` on."""
    return Domain(f"at least {least}", least)


def between(least: float, most: float, *, open: bool = False) -> Domain:
    """Return the domain of numbers from `least` to `most`, both included unless it is `open`."""
    return Domain(f"between {least} and {most}", least, most, open)


def one_of(*named: str) -> Domain:
    """Return the domain of these words, which an error lists as `'a', 'b' or 'c'`."""
    return Domain(either([repr(name) for name in named]), named=named)


def listed(*named: str) -> Domain:
    """Return the domain of these words, which an error lists as `one of a, b, c`."""
    return Domain(f"one of {', '.join(named)}", named=named)


def positive_or(*named: str) -> Domain:
    """Return the domain of positive finite numbers and these words."""
    return Domain(either(("a positive number", *map(repr, named))), 0.0, open=True, named=named)


def either(words: Sequence[str]) -> str:
    """Return the words joined as in "a, b or c"; a single one as it is."""
    return " or ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]


def setting(default: Any, domain: Domain) -> Any:
    """Return a dataclass field with its default and the values it may have, which `check_settings` looks at."""
    return field(default=default, metadata={"domain": domain})


def added(default: Any, domain: Domain) -> Any:
    """Return a field that a later release added, left out of the recorded configuration while it has its default.

    Rows that were estimated before the setting existed so keep their key.
    """
    return field(default=default, metadata={"domain": domain, "added": True})


def prepared(default: Any = None, *, recorded: bool = True) -> Any:
    """Return a dataclass field that `prepare` fills, no setting of the user.

    It is part of the recorded configuration, and of equality, unless `recorded` is false: for tensors too large to be
    written down, of which another field holds the digest.
    """
    metadata = {"prepared": True, "recorded": recorded}
    return field(default=default, compare=recorded, repr=recorded, metadata=metadata)


def own_settings(cls: Any) -> list[dataclasses.Field[Any]]:
    """Return the fields that a user may set."""
    return [f for f in dataclasses.fields(cls) if not f.metadata.get("prepared")]


def check_settings(estimator: Any) -> None:
    """Raise ValueError for the first field with a value outside its domain."""
    for f in dataclasses.fields(estimator):
        domain = f.metadata.get("domain")
        value = getattr(estimator, f.name)
        if domain is not None and not domain.holds(value):
            raise ValueError(f"{f.name} must be {domain.words}, got {value!r}")


def _plain(value: Any) -> Any:
    """Return the value of a field as JSON can hold it, sets sorted; TypeError for a value that no field can have."""
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    if isinstance(value, frozenset | set):
        return sorted(_plain(v) for v in value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"an estimator field must be a number, string, None or tuple of these, got {value!r}")


def config_json(estimator: Any) -> str:
    """Return the estimator's fields as canonical JSON: sorted keys, no spaces, seeds included.

    What `prepare` found is under "prepared", so that the user's own settings can be told from it. An estimator in
    a field of another (a wrapper) is written as its settings with its name.
    """
    settings, found = _settings_and_found(estimator)
    if found:
        settings["prepared"] = found
    return canonical_json(settings, "config").decode()


def _settings_and_found(estimator: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the user's settings, and what `prepare` found, as JSON values; those of an estimator inside are nested."""
    settings: dict[str, Any] = {}
    found: dict[str, Any] = {}
    for f in dataclasses.fields(estimator) if dataclasses.is_dataclass(estimator) else ():
        value = getattr(estimator, f.name) if f.metadata.get("recorded", True) else None
        if f.metadata.get("added") and value == f.default:
            continue
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            inner, inner_found = _settings_and_found(value)
            settings[f.name] = {"name": getattr(value, "name", type(value).__name__), **inner}
            if inner_found:
                found[f.name] = inner_found
        elif not f.metadata.get("prepared"):
            settings[f.name] = _plain(value)
        elif value is not None:
            found[f.name] = _plain(value)
    return settings, found
