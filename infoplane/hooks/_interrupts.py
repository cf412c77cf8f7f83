"""Ctrl-C while a model is being prepared for the probe pass or put back: it acts when that is done.

Two measures, since each has a gap. What a pass changes is noted before the first change and put back twice over
(`surely`): one exception at any line leaves nothing behind. And SIGINT waits while code of ours is at it
(`deferred`), so that no second one comes, nor one inside the code of torch that is called there. The user's own
code, a forward pass or a sink, stays open to it (`interruptible`): a pass of minutes can be stopped.
"""

from __future__ import annotations

import functools
import signal
import threading
import weakref
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_guarded: set[CodeType] = {weakref.finalize.__call__.__code__}  # where an exception would be lost
_open: set[CodeType] = set()
_previous: Any = signal.default_int_handler
_pending = False


def surely(undo: Callable[[], None], work: Callable[[], R]) -> R:
    """`work()`, then `undo()`, which an interrupt may cut short: it is called again, and has to bear that."""
    try:
        try:
            return work()
        finally:
            undo()
    finally:
        undo()


def deferred(method: Callable[P, R]) -> Callable[P, R]:
    """A method in which SIGINT waits, but for what is `interruptible`; at the end it acts as it would have.

    Signals reach the main thread alone, and a handler that is not Python's is left in place.
    """

    @functools.wraps(method)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        global _previous, _pending
        previous = signal.getsignal(signal.SIGINT) if _in_main_thread() else None
        if not callable(previous) or previous is _handle:
            return method(*args, **kwargs)
        _previous, _pending = previous, False
        return surely(functools.partial(_leave, previous), functools.partial(_entered, method, *args, **kwargs))

    _guarded.add(_code(run))
    return run


def interruptible(function: Callable[P, R]) -> Callable[P, R]:
    """A function in which SIGINT acts at once, also one that waited before."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        global _pending
        if _pending and _in_main_thread():
            _pending = False
            _previous(signal.SIGINT, None)
        return function(*args, **kwargs)

    _open.add(_code(run))
    return run


def _code(function: Any) -> CodeType:
    code: CodeType = function.__code__
    return code


def _entered(method: Callable[..., R], *args: Any, **kwargs: Any) -> R:
    signal.signal(signal.SIGINT, _handle)
    return method(*args, **kwargs)


def _leave(previous: Callable[..., Any]) -> None:
    global _pending
    if signal.getsignal(signal.SIGINT) is _handle:
        signal.signal(signal.SIGINT, previous)
    if _pending:
        _pending = False
        previous(signal.SIGINT, None)


def _handle(number: int, frame: FrameType | None) -> None:
    global _pending
    at = frame
    while at is not None and at.f_code not in _open:
        if at.f_code in _guarded or at.f_code.co_name == "__del__":  # an exception would be lost there
            _pending = True
            return
        at = at.f_back
    _previous(number, frame)


def _in_main_thread() -> bool:
    return threading.get_ident() == threading.main_thread().ident
