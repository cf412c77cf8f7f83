"""Where tasks run (in this process, in spawned ones, in any executor of the user's), and how far they are."""

from __future__ import annotations

import logging
import multiprocessing
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO, TypeVar

from infoplane.analysis.tasks import single_thread

if TYPE_CHECKING:
    from tqdm import tqdm

T = TypeVar("T")
LINE_SECONDS = 60.0
"""Time between two lines of progress, where there is no terminal."""
MAX_DEATHS = 3
"""Processes that one task may take down before it is given up, as in Dask."""
_log = logging.getLogger("infoplane")


class _Here(Executor):
    """Runs a task at once, in this process."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Run the task now and return a finished future; an error of the task is raised here."""
        return done(fn(*args, **kwargs))


def done(result: T) -> Future[T]:
    """Return a finished future that holds `result`, for where the future of a task is expected."""
    future: Future[T] = Future()
    future.set_result(result)
    return future


@contextmanager
def executor_of(jobs: int | Executor) -> Iterator[tuple[Executor, int]]:
    """Yield the executor and how many tasks to keep in flight.

    For a number of `jobs` above 1, that many processes are spawned, with one torch thread each; they end with the
    block. For 1, tasks run in this process. An executor that was given stays open.

    Raises
    ------
    TypeError
        For `jobs` that are neither a whole number nor an executor.
    ValueError
        For less than one job, and for a pool of forked processes: torch hangs in those.
    """
    if isinstance(jobs, Executor):
        context = getattr(jobs, "_mp_context", None) if isinstance(jobs, ProcessPoolExecutor) else None
        if context is not None and context.get_start_method() == "fork":
            raise ValueError(
                "torch hangs in forked processes; make the pool with "
                "ProcessPoolExecutor(mp_context=multiprocessing.get_context('spawn'))"
            )
        yield jobs, 64  # how many such an executor runs at once is not known
        return
    if isinstance(jobs, bool) or not isinstance(jobs, int):
        raise TypeError(f"jobs must be a number of processes or a concurrent.futures.Executor, got {jobs!r}")
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}")
    if jobs == 1:
        yield _Here(), 1
        return
    pool = _Processes(jobs)
    try:
        yield pool, 2 * jobs  # so that a next task is waiting for each process
    except BaseException as error:
        # Running tasks may take minutes and are not waited for: written rows are kept, the next analysis does the rest.
        pool.end(now=True)
        if isinstance(error, BrokenProcessPool):
            error.add_note("a worker process died, perhaps out of memory: try fewer jobs or smaller block_bytes")
        raise
    pool.end()


class _Waiting(NamedTuple):
    """A task that waits for a process: the future that its caller holds, and the call to make.

    `lives` is how many more times the task is run again when a process has died with it.
    """

    promised: Future[Any]
    call: Callable[[], Any]
    lives: int


class _Processes(Executor):
    """Spawned processes, each in a pool of its own, so that one that dies ends no other; its task is run again."""

    def __init__(self, jobs: int) -> None:
        """Start `jobs` processes, all of them idle."""
        self._idle = [self._start() for _ in range(jobs)]
        self._all = set(self._idle)
        self._waiting: deque[_Waiting] = deque()
        self._lock = threading.RLock()  # reentrant: a task done at once calls `_take_back` within `_hand_out`
        self._ended = False

    @staticmethod
    def _start() -> ProcessPoolExecutor:
        """A new pool of one spawned process."""
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(1, mp_context=context, initializer=_start_worker)

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Put the task at the end of the queue; return the future of its result."""
        promised: Future[T] = Future()
        with self._lock:
            self._waiting.append(_Waiting(promised, partial(fn, *args, **kwargs), MAX_DEATHS - 1))
            self._hand_out()
        return promised

    def _hand_out(self) -> None:
        """Give waiting tasks to idle processes, while there are both."""
        while self._idle and self._waiting and not self._ended:
            task = self._waiting.popleft()
            # Skip a task that its caller has cancelled. Marking the future as running stops later cancellation; a task
            # handed out again after its process died is marked already.
            if not task.promised.running() and not task.promised.set_running_or_notify_cancel():
                continue
            pool = self._idle.pop()
            try:
                done = pool.submit(task.call)
            except BrokenProcessPool:  # it died while it had nothing to do
                pool = self._another(pool)
                done = pool.submit(task.call)
            done.add_done_callback(partial(self._take_back, task, pool))

    def _another(self, dead: ProcessPoolExecutor) -> ProcessPoolExecutor:
        """Return a new process in the place of one that died, whose broken pool cleans up by itself."""
        self._all.discard(dead)
        self._all.add(pool := self._start())
        return pool

    def _take_back(self, task: _Waiting, pool: ProcessPoolExecutor, done: Future[Any]) -> None:
        """Pass the result or error of `done` on to the future that the caller holds; the process is idle again.

        If the process died, the task is queued to run again, until it has no `lives` left.
        """
        with self._lock:
            error = None if done.cancelled() else done.exception()
            died = isinstance(error, BrokenProcessPool)
            if self._ended or done.cancelled():  # nobody waits for results any more
                return
            self._idle.append(self._another(pool) if died else pool)
            if died and task.lives:
                _log.warning("a worker process died; its task is done again")
                self._waiting.appendleft(task._replace(lives=task.lives - 1))
            self._hand_out()
        if error is None:
            task.promised.set_result(done.result())
        elif not died or not task.lives:
            task.promised.set_exception(error)

    def end(self, *, now: bool = False) -> None:
        """End the processes, at once with `now`, else after their present tasks; no future gets a result after this."""
        with self._lock:
            self._ended = True
        for pool in self._all:
            processes = list((getattr(pool, "_processes", None) or {}).values())
            pool.shutdown(wait=not now, cancel_futures=now)
            for process in processes if now else ():
                process.terminate()


def _start_worker() -> None:
    """Prepare a worker process: it ignores Ctrl-C, which the parent handles, and uses one torch thread.

    With two threads each, processes are half as fast.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    single_thread()


class _Lines:
    """A stream that writes each text as a line of its own: a bar that redraws itself would clutter a log file."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> None:
        """Write the text as one line, unless it is blank."""
        if text.strip():
            self._file.write(text.strip() + "\n")

    def flush(self) -> None:
        self._file.flush()


class _Cell:
    """A stream that shows only its latest line in the output of a notebook's cell; so a saved notebook has one line."""

    # The bars that tqdm makes for notebooks need ipywidgets, and are lost or stand still in a saved notebook.
    encoding = "utf-8"  # for a bar of blocks

    def __init__(self, display: Callable[..., Any]) -> None:
        self._display = display
        self._shown: Any = None

    def write(self, text: str) -> None:
        """Show the text in the cell, in place of the text before."""
        if line := text.strip():
            words = {"text/plain": line}
            if self._shown is None:
                self._shown = self._display(words, raw=True, display_id=True)
            else:
                self._shown.update(words, raw=True)

    def flush(self) -> None:
        """Do nothing: no line is kept back."""


@contextmanager
def progress_bar(wanted: bool | None) -> Iterator[tqdm[Any]]:
    """Yield a progress bar: drawn on a terminal or in a notebook, else a line a minute on stderr.

    If `wanted` is False, it shows nothing; True is the same as None.
    """
    from tqdm import tqdm as bar

    look: dict[str, Any] = {"bar_format": "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"}
    if in_notebook():
        look |= {"file": _Cell(sys.modules["IPython"].display.display), "ncols": 80, "mininterval": 0.5, "delay": 1.0}
    elif not sys.stderr.isatty():
        look = {"bar_format": "{desc} {percentage:.0f} %, {remaining} left{postfix}", "file": _Lines(sys.stderr)}
        look |= {"mininterval": LINE_SECONDS, "delay": LINE_SECONDS, "miniters": 0, "smoothing": 0}
    with bar(total=0.0, desc="estimating", disable=wanted is False, **look) as shown:
        try:
            yield shown
        except BaseException:
            shown.bar_format = "{desc} stopped at {percentage:.0f} % after {elapsed}"
            raise


def in_notebook() -> bool:
    """Whether a notebook's kernel runs this code."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")
