"""Steps that come from outside: which whole number a value is, and which one the names of files tell."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import Any

MAX_STEP = 2**62
REMEDY = "name the files like step-0100, or put a number 'steps' into each"

# A number as it stands in a name; with a point, an exponent or a unit (1.5, 1e3, 100k) it is no step, nor cut into two.
_NUMBER = re.compile(r"\d+(?:\.\d+)*(?:(?:[eE][+-]?\d+|[kKmMbBgG])(?![a-zA-Z0-9]))?", re.ASCII)
# The end of the text before a number where its hyphen may be a minus: at the start of the name, or after =, _ or -.
_SIGN = re.compile(r"(?:^|[=_-])-$")
# Numbers that follow one of these words count training, and the first goes before the others. In the plural they mostly
# state a setting: warmup_steps=500.
_COUNTERS = (re.compile(r"step[-_=. ]*$", re.I), re.compile(r"(?:epoch|iter(?:ation)?|checkpoint|ckpt)[-_=. ]*$", re.I))

_SUFFIX = re.compile(r"\.(?!steps?\d|epochs?\d|iter)[a-zA-Z]+\d?$")  # .npz, .h5, but not the end of epoch_1.step2

Numbers = list[tuple[str, str]]  # the text before each number of a name, and the number


def whole_step(value: Any) -> int:
    """Return the step that a value states: an integer of any kind, 3.0, or an array or tensor with one such number.

    Raises
    ------
    TypeError
        For what is no single number.
    ValueError
        For a number that is not whole, below 0 or above 2**62.
    """
    number = value.item() if hasattr(value, "item") and math.prod(value.shape) == 1 else value
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise TypeError(f"a step must be a whole number from 0, got {value!r:.60}")
    if not math.isfinite(number) or number != int(number) or not 0 <= number <= MAX_STEP:
        raise ValueError(f"a step must be a whole number from 0 to 2**62, got {number!r:.60}")
    return int(number)


def steps_of_files(files: Sequence[PurePath]) -> list[int]:
    """Return the step of each file, from its name and those folders in which the files differ.

    The number after the word "step" counts, or else after "epoch", "iter", "iteration", "checkpoint" or "ckpt", where
    every name has one; or else the number that varies between the names, or the only one there is.

    Raises
    ------
    ValueError
        Where a name has no number, several could be the step, the names are not alike, or the number is not whole.
    """
    names = _names(files)
    found = {name: _numbers(name) for name in names}
    without = next((name for name in found if not found[name]), None)
    if without is not None:
        raise ValueError(f"{without!r} tells no step; {REMEDY}")
    # Which of its numbers is the step: the one after a word like "epoch", else the one that varies from name to name.
    place = _named_place(found) or _varying_place(found)
    return [_whole(name, found[name], place[name]) for name in names]


def _names(files: Sequence[PurePath]) -> list[str]:
    """Return the path of each file from the first folder on in which they differ; its bare name where none differs."""
    shared = len(os.path.commonprefix([file.parent.parts for file in files]))  # noqa: RUF071 - of tuples, whole parts
    return ["/".join(file.parts[shared:]) for file in files]


def counts_steps(name: str) -> bool:
    """Whether a number in the name follows a word that counts training: step, epoch, iter, checkpoint."""
    return any(counter.search(text) for text, _ in _numbers(name) for counter in _COUNTERS)


def without_counts(name: str) -> str:
    """Return the name with `#` for each number after a word like step: equal for `epoch_1/fc` and `epoch_2/fc`."""

    def mark(match: re.Match[str]) -> str:
        return "#" if any(counter.search(name[: match.start()]) for counter in _COUNTERS) else match.group()

    return _NUMBER.sub(mark, name)


def _numbers(name: str) -> Numbers:
    """Return the numbers in a name before its suffix, each with the text in front of it."""
    out, start, name = [], 0, _SUFFIX.sub("", name)
    for match in _NUMBER.finditer(name):
        out.append((name[start : match.start()], match.group()))
        start = match.end()
    return out


def _named_place(found: dict[str, Numbers]) -> dict[str, int] | None:
    """Return {name: index of its number after `step`}, or else after `epoch` or such; None unless each has one."""
    for counter in _COUNTERS:
        places = {name: [i for i, (text, _) in enumerate(ns) if counter.search(text)] for name, ns in found.items()}
        if all(len(p) == 1 for p in places.values()):
            return {name: p[0] for name, p in places.items()}
    return None


def _varying_place(found: dict[str, Numbers]) -> dict[str, int]:
    """Return {name: index of the number that varies from name to name}; ValueError where several vary differently."""
    first = next(iter(found))
    texts = [text for text, _ in found[first]]
    other = next((name for name, ns in found.items() if [text for text, _ in ns] != texts), None)
    if other is not None:
        raise ValueError(f"{first!r} and {other!r} do not tell their steps in one way; {REMEDY}")
    columns = [tuple(_value(ns[i][1]) for ns in found.values()) for i in range(len(texts))]
    varying = [i for i, column in enumerate(columns) if len(set(column)) > 1] or list(range(len(columns)))
    # Several that vary alike, as in `step5/model-5`, are one and the same.
    if len({columns[i] for i in varying}) > 1:
        shown = " or ".join(found[first][i][1] for i in varying)
        raise ValueError(f"{first!r} does not tell which number is its step, {shown}; {REMEDY}")
    return dict.fromkeys(found, varying[0])


def _value(number: str) -> str:
    """Return a number as it stands in a name without its leading zeros: `7` and `007` are then equal."""
    return number.lstrip("0") if number.isdecimal() else number


def _whole(name: str, numbers: Sequence[tuple[str, str]], place: int) -> int:
    """Return the step that number `place` of a name states; ValueError where it is not whole, below 0 or too large."""
    text, number = numbers[place]
    # A hyphen alone between two numbers (v73-0) joins them; it is a sign ahead of the first.
    sign = "-" if _SIGN.search(text) and (place == 0 or text != "-") else ""
    # int() refuses thousands of digits with an error of its own.
    if not number.isdecimal() or sign or len(number) > 30 or int(number) > MAX_STEP:
        got = f"{sign}{number:.40}"
        raise ValueError(f"the step of {name!r} must be a whole number from 0 to 2**62, got {got}; {REMEDY}")
    return int(number)


def step_words(steps: Iterable[int]) -> str:
    """Return `step 3`, `steps 3, 5-8` or `no steps`, for a message."""
    several = set(steps)
    return f"step{'' if len(several) == 1 else 's'} {describe_steps(several)}" if several else "no steps"


def describe_steps(steps: Iterable[int], limit: int = 6) -> str:
    """Return `3, 5, 8-12, ...` for a message, of at most `limit` ranges; "" where there are no steps."""
    ranges: list[list[int]] = []
    for step in sorted(set(steps)):
        if ranges and step == ranges[-1][1] + 1:
            ranges[-1][1] = step
        else:
            ranges.append([step, step])
    words = [str(a) if a == b else f"{a}-{b}" for a, b in ranges[:limit]]
    return ", ".join(words) + (", ..." if len(ranges) > limit else "")
