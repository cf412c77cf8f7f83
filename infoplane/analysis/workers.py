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
        """Run the task now; the future that is returned is done."""
        return done(fn(*args, **kwargs))


def done(result: T) -> Future[T]:
    """A result that is there already, in the place of one that a task will give."""
    future: Future[T] = Future()
    future.set_result(result)
    return future


@contextmanager
def executor_of(jobs: int | Executor) -> Iterator[tuple[Executor, int]]:
    """Yield the executor and how many tasks to keep in flight.

    Processes of our own are spawned, with one torch thread each, and end with the analysis. An executor
    that was given stays open.

    Raises
    ------
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
        yield pool, 2 * jobs  # so that each process finds its next task at hand
    except BaseException as error:
        # What is running may take minutes; the rows that are written stay, the rest is done again anyway.
        pool.end(now=True)
        if isinstance(error, BrokenProcessPool):
            error.add_note("a worker process died, perhaps out of memory: try fewer jobs or smaller block_bytes")
        raise
    pool.end()


class _Waiting(NamedTuple):
    """A task without a process: the future that was promised, the call, and how many more processes it may lose."""

    promised: Future[Any]
    call: Callable[[], Any]
    lives: int


class _Processes(Executor):
    """Spawned processes, each a pool of its own: one that dies takes no other with it, and its task is done again."""

    def __init__(self, jobs: int) -> None:
        """Start `jobs` processes, all of them idle."""
        self._idle = [self._start() for _ in range(jobs)]
        self._all = set(self._idle)
        self._waiting: deque[_Waiting] = deque()
        self._lock = threading.RLock()  # a task that is done at once comes back while it is handed out
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
            # A future that is running cannot be cancelled, so that its result always has a place.
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
        """A new process in the place of one that died, whose broken pool cleans up by itself."""
        self._all.discard(dead)
        self._all.add(pool := self._start())
        return pool

    def _take_back(self, task: _Waiting, pool: ProcessPoolExecutor, done: Future[Any]) -> None:
        """Hand the result to who waits for it, or the task of a process that died to another process."""
        with self._lock:
            error = None if done.cancelled() else done.exception()
            died = isinstance(error, BrokenProcessPool)
            if self._ended or done.cancelled():
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
        """End the processes, and with `now` what they are doing."""
        with self._lock:
            self._ended = True
        for pool in self._all:
            processes = list((getattr(pool, "_processes", None) or {}).values())
            pool.shutdown(wait=not now, cancel_futures=now)
            for process in processes if now else ():
                process.terminate()


def _start_worker() -> None:
    """Prepare a worker: Ctrl-C is left to the parent, and one thread a process is twice as fast as two."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    single_thread()


class _Lines:
    """A stream that gets whole lines: a bar fills a log file with copies of itself."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> None:
        """Write the text as one line, unless it is blank."""
        if text.strip():
            self._file.write(text.strip() + "\n")

    def flush(self) -> None:
        self._file.flush()


class _Cell:
    """A stream that shows its last line in the output of a notebook's cell; a saved notebook holds no more."""

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
    """Yield a bar, on a terminal or in a notebook, else a line a minute on stderr; for False it shows nothing."""
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
