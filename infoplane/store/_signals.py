"""SIGTERM while recording: what waits is published, or listed as dropped, before the process ends of the signal."""

from __future__ import annotations

import contextlib
import functools
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from types import FrameType
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from infoplane.core.interrupts import deferred, in_main_thread

if TYPE_CHECKING:
    from infoplane.store.writer import StoreWriter

CLOSE_SECONDS = 8.0
"""Time for publishing what waits."""
LIST_SECONDS = 1.5
"""Time after that for listing the rest as dropped."""

P = ParamSpec("P")
R = TypeVar("R")


open_writers: weakref.WeakSet[StoreWriter] = weakref.WeakSet()
_busy = 0  # methods under way in the main thread that hold locks
_deferred = False  # whether a signal waits for their end


def watch(writer: StoreWriter) -> None:
    """Close this writer at SIGTERM. Where the caller handles or ignores the signal, that is left alone."""
    open_writers.add(writer)
    if in_main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        with contextlib.suppress(ValueError):  # a sub-interpreter, which can handle no signals
            signal.signal(signal.SIGTERM, _handle)


def unwatch(writer: StoreWriter) -> None:
    """Forget a closed writer; after the last one SIGTERM is as it was."""
    open_writers.discard(writer)
    if not open_writers and in_main_thread() and signal.getsignal(signal.SIGTERM) is _handle:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def guarded(method: Callable[P, R]) -> Callable[P, R]:
    """Decorate a method that holds locks: a SIGTERM or SIGINT that comes while it runs acts when it ends.

    Where one such method calls another, the signal acts when the outer one ends. SIGINT also acts at a `checkpoint`.
    """

    @functools.wraps(method)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        """Call the method; at the end of the outermost one act on a SIGTERM that came meanwhile."""
        global _busy
        if not in_main_thread():
            return method(*args, **kwargs)
        _busy += 1
        try:
            return method(*args, **kwargs)
        finally:
            _busy -= 1
            if _deferred and not _busy:
                _terminate()

    return deferred(run)


def pending() -> bool:
    """Whether a guarded method of the main thread should stop waiting, because a signal waits for it."""
    return _deferred and in_main_thread()


def _handle(number: int, frame: FrameType | None) -> None:
    """Handle SIGTERM: close at once, or after the guarded method that runs."""
    global _deferred
    if _busy:
        _deferred = True
    else:
        _terminate()


def _terminate() -> None:
    """Close all writers in threads, so that a stuck disk cannot hold the process, then end it by SIGTERM."""
    global _deferred
    _deferred = False
    try:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the signal again changes nothing
        writers = [writer for writer in open_writers if writer.mine]
        late = _run_all({writer: writer.close for writer in writers}, CLOSE_SECONDS)
        if late:
            error = TimeoutError(f"stopped by SIGTERM, and the disk did not take it within {CLOSE_SECONDS:g} s")
            _run_all({writer: functools.partial(writer.abandon, error) for writer in late}, LIST_SECONDS)
        sys.stderr.flush()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTERM)


def _run_all(jobs: dict[StoreWriter, Callable[[], None]], seconds: float) -> Iterable[StoreWriter]:
    """Run each writer's job in a thread; return the writers whose job has not ended after so many seconds."""
    deadline = time.monotonic() + seconds
    threads = {writer: threading.Thread(target=job, daemon=True) for writer, job in jobs.items()}
    with contextlib.ExitStack() as stack:
        for writer, thread in threads.items():
            try:
                thread.start()
            except RuntimeError:  # the interpreter is ending and starts no thread: the stack runs the job at its end
                stack.callback(jobs[writer])
    for thread in threads.values():
        if thread.ident is not None:
            thread.join(max(0.0, deadline - time.monotonic()))
    return [writer for writer, thread in threads.items() if thread.is_alive()]
