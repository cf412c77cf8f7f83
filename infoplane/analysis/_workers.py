"""Where tasks run: in this process, in spawned processes, or in any executor of the user's."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

from infoplane.analysis._tasks import single_thread


class _Here(Executor):
    """Runs a task when its result is asked for: nothing is computed ahead of what is written."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return _Later(lambda: fn(*args, **kwargs))


class _Later(Future[Any]):
    def __init__(self, call: Callable[[], Any]) -> None:
        super().__init__()
        self._call: Callable[[], Any] | None = call

    def result(self, timeout: float | None = None) -> Any:
        if self._call is not None:
            call, self._call = self._call, None
            self.set_result(call())
        return super().result(timeout)


@contextmanager
def executor_of(jobs: int | Executor) -> Iterator[tuple[Executor, int]]:
    """The executor and how many tasks to keep in flight.

    Processes of our own are spawned, with one torch thread each, and end with the analysis. An executor
    that was given stays open.

    Raises
    ------
    ValueError
        For less than one job, and for a pool of forked processes: torch hangs in those.
    """
    if isinstance(jobs, Executor):
        if isinstance(jobs, ProcessPoolExecutor):
            context = getattr(jobs, "_mp_context", None)
            if context is not None and context.get_start_method() == "fork":
                raise ValueError(
                    "torch hangs in forked processes; make the pool with "
                    "ProcessPoolExecutor(mp_context=multiprocessing.get_context('spawn'))"
                )
        yield jobs, 64
        return
    if isinstance(jobs, bool) or not isinstance(jobs, int):
        raise TypeError(f"jobs must be a number of processes or a concurrent.futures.Executor, got {jobs!r}")
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}")
    if jobs == 1:
        yield _Here(), 1
        return
    pool = ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_start_worker)
    try:
        yield pool, 2 * jobs
    except BaseException as error:
        # What is running may take minutes; the rows that are written stay, the rest is done again anyway.
        processes = list((getattr(pool, "_processes", None) or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()
        if isinstance(error, concurrent.futures.process.BrokenProcessPool):
            error.add_note("a worker process died, perhaps out of memory: try fewer jobs or smaller block_bytes")
        raise
    pool.shutdown()


def _start_worker() -> None:
    """Ctrl-C is the parent's business, and one thread a process is twice as fast as two on as many cores."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    single_thread()
