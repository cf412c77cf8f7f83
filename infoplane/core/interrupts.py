"""Ctrl-C while a model is being prepared for the probe pass, runs it or is put back, and while locks are taken.

Python raises KeyboardInterrupt between any two instructions: inside the code of torch that enters a mode, after a lock
was taken and before `with` knows of it, or in a finalizer, where it is lost. No care taken around such code mends that.
So SIGINT waits (`deferred`) and is acted on at places that are written to be left by an exception: at the end, at every
`checkpoint`, and anywhere in the user's own code that runs with nothing changed (`interruptible`: a sink).

The forward pass of the model is in between (`stepwise`): it may take minutes, and modes are on. There the signal acts
at the next checkpoint (the next module, the next chunk), and one that comes again acts at once.

What a pass changes is, besides, noted before the first change and put back twice over (`surely`): an exception at any
line leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import functools
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from types import CodeType, FrameType
from typing import Any, ParamSpec, TypeVar, cast

P = ParamSpec("P")
R = TypeVar("R")

AGAIN_SECONDS = 1.0
"""What comes within this time is the same press: a key that repeats, a launcher that passes the signal on."""


class _Manner(Enum):
    """How code takes SIGINT: what a signal does while that code is the innermost marked one on the stack."""

    HELD = "waits"
    STEPWISE = "waits for a checkpoint; again, it acts at once"
    OPEN = "acts at once"


# The innermost of these on the stack decides. An exception would be lost in a finalizer.
_manners: dict[CodeType, _Manner] = {weakref.finalize.__call__.__code__: _Manner.HELD}
_previous: Any = signal.default_int_handler  # the handler of SIGINT outside of deferred methods
_pending = False  # whether a SIGINT waits
_since = 0.0  # when it came, on the monotonic clock


def surely(undo: Callable[[], None], work: Callable[[], R]) -> R:
    """Call `work()`, then `undo()` twice, even if it raises; return the result of `work`.

    An interrupt may cut the first `undo` short.
    """
    try:
        try:
            return work()
        finally:
            undo()
    finally:
        undo()


def deferred(method: Callable[P, R]) -> Callable[P, R]:
    """Decorate a method in which SIGINT waits for the method's end, a `checkpoint`, or code that is `interruptible`.

    Signals reach the main thread alone, and a handler that is not Python's is left in place.
    """

    @functools.wraps(method)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        """Call the method while SIGINT waits, and let it act at the end."""
        global _previous, _pending
        previous = signal.getsignal(signal.SIGINT) if in_main_thread() else None
        if previous is _handle:  # inside another deferred method, which puts the handler back
            return surely(_act_where_open, functools.partial(method, *args, **kwargs))
        if not callable(previous):  # another thread, or SIGINT is ignored or handled outside Python
            return method(*args, **kwargs)
        _previous, _pending = previous, False
        return surely(functools.partial(_leave, previous), functools.partial(_entered, method, *args, **kwargs))

    return _marked(run, _Manner.HELD)


def interruptible(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function in which SIGINT acts at once; one that waited before acts when the function is called."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        """Let a SIGINT that waits act, then call the function."""
        checkpoint()
        return function(*args, **kwargs)

    return _marked(run, _Manner.OPEN)


def stepwise(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function that SIGINT ends at its start, its end or a `checkpoint` inside; a second one at once."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function between two checkpoints."""
        checkpoint()
        result = function(*args, **kwargs)
        checkpoint()
        return result

    return _marked(run, _Manner.STEPWISE)


def _marked(run: Callable[P, R], manner: _Manner) -> Callable[P, R]:
    """Note how a function takes SIGINT, under its code object, by which `_manner` knows its stack frames; return it."""
    _manners[cast(Any, run).__code__] = manner
    return run


def checkpoint() -> None:
    """Mark a place that may be left by an exception: a SIGINT that waits acts here."""
    global _pending
    if _pending and in_main_thread():
        _pending = False
        _previous(signal.SIGINT, None)


def _entered(method: Callable[..., R], *args: Any, **kwargs: Any) -> R:
    """Put our handler of SIGINT in place, call a method and return its result; `_leave` takes the handler away."""
    signal.signal(signal.SIGINT, _handle)
    return method(*args, **kwargs)


def _leave(previous: Callable[..., Any]) -> None:
    """Put the earlier handler of SIGINT back, and let a SIGINT that waited act."""
    if signal.getsignal(signal.SIGINT) is _handle:
        signal.signal(signal.SIGINT, previous)
    checkpoint()


def _act_where_open() -> None:
    """When a method ends, act on a SIGINT that waits, if the method that called it lets interrupts in at once.

    Otherwise it goes on waiting, for the end of the calling method.
    """
    # skip=1: the innermost marked function on the stack is still the method that has just ended, the next its caller.
    if _pending and _manner(sys._getframe().f_back, skip=1) is _Manner.OPEN:
        checkpoint()


def _handle(number: int, frame: FrameType | None) -> None:
    """Handle SIGINT: pass it on where the code may be left at once, else let it wait."""
    global _pending, _since
    manner = _manner(frame)
    pressed_again = _pending and time.monotonic() - _since > AGAIN_SECONDS
    if manner is _Manner.OPEN or (manner is _Manner.STEPWISE and pressed_again):
        _pending = False
        _previous(number, frame)
    elif not _pending:
        _since = time.monotonic()
        _pending = True


def _manner(frame: FrameType | None, *, skip: int = 0) -> _Manner:
    """Return how the innermost marked function on the stack takes SIGINT, not counting the first `skip` marked ones.

    Where none is marked, the signal acts at once.
    """
    while frame is not None:
        # A finalizer counts as marked: an exception raised in it would be lost.
        manner = _Manner.HELD if frame.f_code.co_name == "__del__" else _manners.get(frame.f_code)
        if manner is not None and skip == 0:
            return manner
        skip -= manner is not None
        frame = frame.f_back
    return _Manner.OPEN


@contextlib.contextmanager
def handled(numbers: Iterable[signal.Signals], handler: Callable[[int, Any], Any]) -> Iterator[None]:
    """Let `handler` take these signals until the block ends; in any thread but the main one nothing is changed."""
    before = {number: signal.signal(number, handler) for number in numbers} if in_main_thread() else {}
    try:
        yield
    finally:
        for number, usual in before.items():
            signal.signal(number, usual)


def in_main_thread() -> bool:
    """Whether this is the thread that signals reach."""
    return threading.get_ident() == threading.main_thread().ident
