"""Failures in a snapshot while training went on: one place that catches it, one list of all of it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import torch

from infoplane.core.text import listed, printable
from infoplane.core.warn import warn
from infoplane.store import Problem

T = TypeVar("T")

KEPT_STEPS = 1000
"""Steps of one problem that the session's file names; all of them are counted."""
MOST_PROBLEMS = 1000
"""Different ones that are listed apart; later ones are counted together."""
SAVE_SECONDS = 2.0
"""A list that grows is saved as often as waiting snapshots are."""


class NonFiniteError(ValueError):
    """NaN or infinite values where the user asked for an exception (`nonfinite="raise"`)."""


class NotCalled(RuntimeError):
    """A recorded layer ran less or more often than when the run began."""

    def __init__(self, text: str, short: str) -> None:
        """`text` is the message; `short` stands for the layer where one message is about several."""
        super().__init__(text)
        self.short = short


class PeerError(Exception):
    """Another rank could not go on; all ranks raise this, or go on, together."""

    def __init__(self, text: str, *, ends: bool = False) -> None:
        """`ends` says that the recording has to end with it on every rank."""
        super().__init__(text)
        self.ends = ends


@dataclass(frozen=True)
class Failed:
    """An exception that was caught."""

    error: Exception


def outcome(work: Callable[[], T]) -> T | Failed:
    """Return the result of `work()`, or its exception as Failed: the one place where the recorder catches to go on.

    Raised, not caught, are: out of memory; errors of the accelerator, after which nothing on it can be trusted;
    warnings that a filter of the user's turned into exceptions; and whatever is no `Exception` (Ctrl-C, SystemExit).
    This holds too where one of them is the cause, the context or a group member of the exception that came.
    """
    try:
        return work()
    except Exception as error:
        failed = error
    if (end := ending(failed)) is not None:
        raise end
    return Failed(failed)


def ending(error: BaseException | None) -> BaseException | None:
    """Return the exception to raise because `error` must end the recording; None where `error` may be caught.

    Looks at `error` and at all behind it: cause, context and members of a group. Where one of these is no `Exception`,
    as Ctrl-C, that one is returned. Where another of them ends the recording (`_ends`), `error` itself is.
    """
    seen: list[BaseException] = []  # they may refer to one another in a circle
    todo = [error]
    while todo:
        current = todo.pop()
        if current is None or current in seen:
            continue
        seen.append(current)
        if not isinstance(current, Exception):
            return current
        if _ends(current):
            return error
        todo += [current.__cause__, None if current.__suppress_context__ else current.__context__]
        todo += getattr(current, "exceptions", ())
    return None


# Older releases of torch lack them.
_BROKEN: tuple[type[BaseException], ...] = tuple(
    filter(None, [getattr(torch, "AcceleratorError", None), getattr(torch.distributed, "DistError", None)])
)
_MEMORY = (MemoryError, torch.OutOfMemoryError)
# Older releases, and some libraries, raise plain RuntimeErrors with these words.
_BROKEN_WORDS = re.compile(
    r"\b(CUDA|HIP|XPU|MPS|NPU|NCCL|RCCL|cuDNN|MIOpen)( driver| kernel| backend)? error"
    r"|CU(BLAS|DNN|SOLVER|SPARSE|FFT)_STATUS|device-side assert|gloo/transport|Connection (closed|reset) by peer",
    re.IGNORECASE,
)
_MEMORY_WORDS = re.compile(r"out of memory|DefaultCPUAllocator", re.IGNORECASE)


def _ends(error: Exception) -> bool:
    """Whether an error has to end the recording: no memory, a broken device, or an error that the user asked for."""
    if isinstance(error, PeerError):
        return error.ends
    no_memory = _is_a(error, _MEMORY, _MEMORY_WORDS)
    return no_memory or isinstance(error, NonFiniteError | Warning) or is_broken(error)  # warnings: by a user's filter


def is_broken(error: BaseException) -> bool:
    """Whether an error comes from the accelerator or the process group, which cannot be used after it."""
    return _is_a(error, _BROKEN, _BROKEN_WORDS)


def _is_a(error: BaseException, types: tuple[type[BaseException], ...], words: re.Pattern[str]) -> bool:
    """Whether an error is of one of these types, or a RuntimeError that has one of these words."""
    return isinstance(error, types) or (isinstance(error, RuntimeError) and words.search(str(error)) is not None)


def say(error: BaseException) -> str:
    """An exception on one line of bounded length: its type and message, or the message alone for our own."""
    text = " ".join(str(error).split())[:300]
    kind = "" if isinstance(error, NotCalled | PeerError) else type(error).__name__
    return ": ".join(filter(None, [kind, text]))


@dataclass
class _Listed:
    """One problem: its text, how often and at which steps it arose.

    `note` is true where the model just did not call a layer: `verify` counts a run with such problems alone as clean.
    """

    what: str
    note: bool
    count: int = 0
    steps: list[int] = field(default_factory=list)

    def problem(self) -> Problem:
        """The problem as `Recorder.problems` and `verify` show it."""
        # The list of steps tells how often, unless the problem arose several times at a step, or without a step.
        often = f", {self.count} times" if self.count > max(1, len(self.steps)) else ""
        return Problem("", self.what + often, tuple(self.steps), note=self.note)

    def to_json(self) -> dict[str, Any]:
        """The problem as the session's file holds it."""
        problem = self.problem()
        cut = f", {len(self.steps)} steps, of which the first are named" if len(self.steps) > KEPT_STEPS else ""
        return {"what": problem.what + cut, "steps": self.steps[:KEPT_STEPS], "note": self.note}


class Problems:
    """Decides for one recorder whether a failure is raised or forgiven, and lists those that were forgiven.

    Until `begun`, and always under `on_error="raise"`, a failure is raised to the caller. Otherwise it is forgiven:
    listed, with a warning of the first, 10th, 100th ... failure of its kind.
    """

    def __init__(self, on_error: Literal["warn", "raise"]) -> None:
        """`on_error` says what happens to a failure once the recording has begun."""
        self._on_error = on_error
        self.begun = False
        self._entries: dict[str, _Listed] = {}  # by kind and name
        self._kinds: dict[str, int] = {}  # how often a problem of each kind arose
        self.save_with: Callable[[list[dict[str, Any]]], None] | None = None
        """Where the list goes when it has grown: into the session's file."""
        self._saved_at = -SAVE_SECONDS
        self._unsaved = False
        self._unsaid: list[str] = []  # warnings that are given when the snapshot is over

    @property
    def listed(self) -> tuple[Problem, ...]:
        """All problems so far, in the order in which they first arose."""
        return tuple(entry.problem() for entry in self._entries.values())

    @property
    def forgiving(self) -> bool:
        """Whether a failure is listed and warned of from now on, not raised."""
        return self.begun and self._on_error == "warn"

    def attempt(self, what: str, work: Callable[[], T], step: int | None = None) -> T | None:
        """Return the result of `work()`. If it fails, list `what` as missing and return None, or raise its error."""
        found = outcome(work)
        if not isinstance(found, Failed):
            return found
        self.refuse({what: found.error}, step)
        return None

    def refuse(self, missing: Mapping[str, Exception], step: int | None) -> None:
        """List and count what is `missing` (name -> error); where failures are not forgiven, raise the first."""
        if not self.forgiving:
            raise_any(missing)
        kinds: dict[str, dict[str, Exception]] = {}  # one warning for each kind of problem
        for what, error in missing.items():
            kind = _kind(what, error)
            kinds.setdefault(kind, {})[what] = error
            self._list(f"{kind} {what}", f"{what}: {say(error)}", step, note=isinstance(error, NotCalled))
        for kind, errors in kinds.items():
            self._count(kind, errors, step)
        if missing:
            self.save()

    def note(self, what: str, step: int) -> None:
        """List a problem at a step, without a warning, since the caller has given one."""
        self._list(what, what, step, note=False)

    def _list(self, key: str, what: str, step: int | None, *, note: bool) -> None:
        """Enter the problem `key`, with its text `what`, and its step; a new one beyond `MOST_PROBLEMS` as `others`."""
        if key not in self._entries and len(self._entries) >= MOST_PROBLEMS:
            key, what, note = "others", "further problems of other kinds", False
        entry = self._entries.setdefault(key, _Listed(what, note))
        entry.count += 1
        if step is not None and entry.steps[-1:] != [step]:
            entry.steps.append(step)
        self._unsaved = True

    def _count(self, kind: str, errors: Mapping[str, Exception], step: int | None) -> None:
        """Count one more problem of this kind; prepare a warning of its `errors` (by name) at the 1st, 10th, 100th."""
        count = self._kinds[kind] = self._kinds.get(kind, 0) + 1
        if count != 10 ** (len(str(count)) - 1):  # the power of ten with as many digits
            return
        at = "" if step is None else f" at step {step}"
        again = f" (for the {count}th time)" if count > 1 else ""
        self._saved_at = -SAVE_SECONDS  # makes the next `save` write at once
        self._unsaid.append(
            f"not recorded{at}{again}: {listed(list(errors), 5)}: {say(next(iter(errors.values())))}; training goes "
            'on, and all that is missing stands in recorder.problems (on_error="raise" stops instead)'
        )

    def warn_of_new(self) -> None:
        """Give the warnings that wait. Called after the snapshot, since a user's filter may make one an exception."""
        unsaid, self._unsaid = self._unsaid, []
        for text in unsaid:
            warn(printable(text))

    def save(self, *, now: bool = False) -> None:
        """Give the list to `save_with` if it grew; at most once in two seconds, except for `now` or a new warning."""
        save = self.save_with
        if save is None or not self._unsaved or not (now or time.monotonic() - self._saved_at >= SAVE_SECONDS):
            return
        self._saved_at = time.monotonic()
        saved = outcome(lambda: save([entry.to_json() for entry in self._entries.values()]))
        if isinstance(saved, Failed):
            self._list("save", f"the session's list of problems: {say(saved.error)}", None, note=False)
        self._unsaved = False


def _kind(what: str, error: Exception) -> str:
    """Return the text that tells kinds of problems apart: place and message, with numbers and quoted names as #."""
    return re.sub(r"'[^']*'|\"[^\"]*\"|[-+]?\d[\d.e+-]*", "#", f"{what}: {say(error)}")


def raise_any(missing: Mapping[str, Exception]) -> None:
    """Raise the first of the errors, if there are any; layers that did not run as before are named together."""
    for first in missing.values():  # the body always raises, so that it runs for the first of them alone
        if not isinstance(first, NotCalled):
            raise first
        short = [error.short for error in missing.values() if isinstance(error, NotCalled)]
        raise RuntimeError(
            f"{len(short)} recorded layers were called another number of times than in the first probe pass: "
            f"{', '.join(short[:5])}; the forward pass must take the same way at every snapshot"
        )
