"""Writing a run: snapshots are handed over at once, sealed into shards by a background thread."""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from infoplane.core.errors import StoreError
from infoplane.core.interrupts import checkpoint, deferred
from infoplane.core.records import Probe, Snapshot
from infoplane.core.steps import describe_steps, step_words
from infoplane.core.warn import warn
from infoplane.store import _signals
from infoplane.store._directory import open_directory
from infoplane.store._frames import check_snapshot, snapshot_bytes
from infoplane.store._sealer import Sealer
from infoplane.store._shard import check_probe
from infoplane.store.layout import MAX_FILE_BYTES, MAX_RANKS, SEAL_BYTES, SEAL_SECONDS

DEFAULT_QUEUE_BYTES = 1 << 30
_OVERHEAD = 4096  # of a waiting snapshot, beside its arrays
_STALL_SHARE = 0.05  # of the run's time; beyond it, the wait for the disk is worth a warning


class StoreWriter:
    """Write snapshots into a run directory. A sink: `writer(snapshot)`.

    A call only checks the snapshot and queues it. The arrays belong to the writer from then on and must
    not be changed; where a device is still filling them, the writer waits (`Snapshot.wait`). `release`, if
    given, is called with the snapshot when they are no longer needed. A background thread digests them and
    publishes shards: at `seal_bytes`, `seal_seconds` after the first waiting snapshot, at `flush` and
    `close`, and when the layers, shapes or dtypes change. What has been published survives the end of the
    process at any instant; what waits does not.

    While a writer is open, SIGTERM first closes it: what waits is published, or listed as dropped in the
    session's file where the disk does not take it in time, within 10 s of the moment at which the main
    thread runs Python code again. The process then ends of the signal as it would have. This holds for
    writers of the main thread, where the signal has its default effect; a handler of the caller's own
    is never replaced and should call `close`.

    Parameters
    ----------
    path : path
        The run directory; made if it does not exist.
    probe : Probe
        The rows on which every snapshot is taken; written once.
    settings : mapping
        What the recorder wants remembered in run.json, JSON values only. A resumed run must agree in
        all of them but the top-level ones in `may_differ`.
    rank, world_size : int
        Every rank writes files of its own. Rank 0 creates the run, the others wait for it.
    resume : bool
        Continue the run that is there, in a new session. Steps of earlier sessions from the first step
        of this one on are superseded, not deleted. Without a run there, a new one is made.
    session : int, optional
        For ranks above 0: the session of rank 0 (its `session`), where the launcher can tell; found in
        the directory otherwise.
    queue_bytes : int, optional
        Bytes that may wait in memory, default 1 GiB or two snapshots, whichever is larger. When they
        are used up, the call waits (counted in `stalled_s`).
    on_error : "warn" or "raise"
        A shard that a write error stopped is written again from memory, with the next one or at `flush` and
        `close`; when that fails too, its steps are dropped. "warn": this never reaches training; the steps are
        listed in `dropped`, reported by one warning and again at `close`, and recording goes on. "raise": the
        error is raised at the next call, `flush` or `close`.
    background : bool
        False writes in the calling thread.

    Attributes
    ----------
    run_id : str
    session : int
    last_step : int or None
        On resume, the last complete step of the run so far.
    dropped : dict of int to str
        Steps that could not be written, with the reason.
    stalled_s : float
        Seconds that calls waited for the disk.

    Raises
    ------
    StoreError
        When the directory holds another run, differs in a setting, or is being written by a living
        process.
    OSError
        When the directory cannot be made or written.
    """

    reads_later = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        probe: Probe,
        settings: Mapping[str, Any],
        rank: int = 0,
        world_size: int = 1,
        resume: bool = False,
        session: int | None = None,
        seal_bytes: int = SEAL_BYTES,
        seal_seconds: float = SEAL_SECONDS,
        max_file_bytes: int = MAX_FILE_BYTES,
        queue_bytes: int | None = None,
        on_error: Literal["warn", "raise"] = "warn",
        background: bool = True,
        may_differ: Collection[str] = ("versions",),
        join_seconds: float = 60.0,
        release: Callable[[Snapshot], None] | None = None,
    ) -> None:
        if not 0 <= rank < world_size <= MAX_RANKS:
            raise ValueError(f"rank must lie in 0..world_size-1, got rank {rank} of {world_size}")
        if on_error not in ("warn", "raise"):
            raise ValueError(f"on_error must be 'warn' or 'raise', got {on_error!r}")
        if not 0 < max_file_bytes <= MAX_FILE_BYTES:
            raise ValueError(f"max_file_bytes must lie in 1..{MAX_FILE_BYTES}, got {max_file_bytes}")
        self.path = Path(path).absolute()
        self.rank, self.world_size, self.on_error = rank, world_size, on_error
        self._samples = probe.samples
        self._pid = os.getpid()
        self._closed = True
        self._ledger = open_directory(
            self.path,
            probe=probe,
            settings=settings,
            rank=rank,
            world_size=world_size,
            resume=resume,
            session=session,
            may_differ=may_differ,
            join_seconds=join_seconds,
        )
        record = self._ledger.record
        self.run_id, self.session, self.last_step = record.run_id, record.session, record.resumed_from
        self._step: int | None = None
        self._queue: deque[tuple[Snapshot | threading.Event, int]] = deque()
        self._queued_bytes = 0
        self._queue_bytes = queue_bytes
        self._largest = 0
        self._changed = threading.Condition()
        self._stop = False
        self._failure: BaseException | None = None
        self._reported = False
        self._began = time.monotonic()
        self.stalled_s = 0.0
        self._thread: threading.Thread | None = None
        self._sealer = Sealer(
            self._ledger,
            samples=probe.samples,
            seal_bytes=min(seal_bytes, max_file_bytes),
            seal_seconds=seal_seconds,
            max_file_bytes=max_file_bytes,
            release=release,
        )
        if background:
            thread = threading.Thread(target=self._run, name=f"infoplane writer {self.path}", daemon=True)
            try:
                thread.start()
            except BaseException:
                self._ledger.lock.release()
                raise
            self._thread = thread
        self._closed = False
        _signals.watch(self)

    @property
    def dropped(self) -> dict[int, str]:
        return dict(self._ledger.dropped)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @deferred
    @_signals.guarded
    def __call__(self, snapshot: Snapshot, /) -> None:
        """Queue a snapshot.

        Raises
        ------
        ValueError
            For a step that is not above the last one, or arrays that do not fit their Layer; nothing
            is recorded then.
        """
        self._ready()
        self._raise_error()
        check_snapshot(
            snapshot,
            samples=self._samples,
            last_step=self._step,
            max_sample_bytes=self._sealer.max_sample_bytes,
        )
        if self._thread is None:
            self._step = snapshot.step
            self._sealer.take(snapshot)
        else:
            self._enqueue(snapshot, snapshot_bytes(snapshot) + _OVERHEAD)
        self._report()

    @deferred
    @_signals.guarded
    def annotate(self, **notes: Any) -> None:
        """Add JSON values to this session's file, at once."""
        self._ready()
        self._ledger.annotate(notes)

    @deferred
    @_signals.guarded
    def flush(self) -> bool:
        """Wait until everything handed over so far is on the disk.

        Returns False when some of it had to be dropped, now or before.
        """
        self._ready()
        if self._thread is None:
            self._sealer.seal(wait=True)
        else:
            done = threading.Event()
            with self._changed:
                self._queue.append((done, 0))
                self._changed.notify_all()
            while not done.wait(0.5) and self._thread.is_alive() and not _signals.pending():
                checkpoint()
        self._report()
        return not self._ledger.dropped and not self._ledger.uncertain

    @deferred
    @_signals.guarded
    def close(self) -> None:
        """Publish what waits, finish the session's file and release the lock. Safe to call again."""
        if self._closed or os.getpid() != self._pid:
            return
        if self._thread is not None:
            with self._changed:
                self._stop = True
                self._changed.notify_all()
            while self._thread.is_alive():
                self._thread.join(0.5)
                checkpoint()
                if _signals.pending():
                    return
        self._closed = True
        _signals.unwatch(self)
        try:
            if self._failure is None:
                self._sealer.seal(wait=True)
                self._ledger.close(self.stalled_s)
        finally:
            self._ledger.lock.release()
        self._report(final=True)

    @property
    def mine(self) -> bool:
        """Whether this process opened it; a forked child must leave it alone."""
        return os.getpid() == self._pid

    def abandon(self, error: Exception) -> None:
        """List what is not published yet as dropped, for this reason, in the session's file; the end is near."""
        self._sealer.abandon([item for item, _ in list(self._queue) if isinstance(item, Snapshot)], error)

    # The queue and its thread

    def _enqueue(self, snapshot: Snapshot, nbytes: int) -> None:
        self._largest = max(self._largest, nbytes)
        budget = self._queue_bytes or max(DEFAULT_QUEUE_BYTES, 2 * self._largest)
        with self._changed:
            if self._waiting() + nbytes > budget:
                self._wait_for_room(budget - nbytes)
            if self._stop:
                raise ValueError(f"the writer of {self.path} is closed")
            self._step = snapshot.step
            self._queued_bytes += nbytes
            self._queue.append((snapshot, nbytes))
            self._changed.notify_all()

    def _waiting(self) -> int:
        return self._queued_bytes + self._sealer.pending_bytes

    def _wait_for_room(self, allowed: int) -> None:
        """Called with the condition held. A snapshot larger than the budget waits until nothing else does."""
        began = time.monotonic()
        self._queue.append((threading.Event(), 0))  # seals what is pending, so that its bytes become free
        self._changed.notify_all()
        while self._waiting() > max(allowed, 0) and self._failure is None and not _signals.pending():
            self._changed.wait(0.5)
            checkpoint()
        self.stalled_s += time.monotonic() - began

    def _run(self) -> None:
        try:
            while self._work():
                pass
        except BaseException as error:  # a fault of the program: nothing more can be recorded, and it is said
            with self._changed:
                queued = [item for item, _ in self._queue if isinstance(item, Snapshot)]
                self._queue.clear()
                self._sealer.give_up(queued, error)
                self._failure = error
                self._changed.notify_all()

    def _work(self) -> bool:
        """Take one item of the queue, or seal when it is time; False when all is done."""
        with self._changed:
            while not self._queue and not self._stop:
                self._queued_bytes = 0  # an interrupt may have come between a count and its entry
                wait = self._sealer.due_in()
                if wait is not None and wait <= 0:
                    break
                self._changed.wait(None if wait is None else min(wait, 3600.0))
            item, nbytes = self._queue[0] if self._queue else (None, 0)
            stopping = self._stop
        if isinstance(item, Snapshot):
            self._sealer.take(item)
        else:
            self._sealer.seal(wait=item is not None)
        with self._changed:
            if item is not None:
                self._queue.popleft()
                self._queued_bytes -= nbytes
            self._changed.notify_all()
        if isinstance(item, threading.Event):
            item.set()
        return item is not None or not stopping

    # Checks and reports

    def _ready(self) -> None:
        if os.getpid() != self._pid:
            raise RuntimeError(
                f"this writer belongs to process {self._pid} and cannot be used in its child {os.getpid()}"
            )
        if self._closed:
            raise ValueError(f"the writer of {self.path} is closed")
        self._raise_failure()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise StoreError(
                f"recording into {self.path} has stopped: {type(self._failure).__name__}: {self._failure}"
            ) from self._failure

    def _raise_error(self) -> None:
        error = self._ledger.error
        if error is not None and self.on_error == "raise":
            self._ledger.error = None
            error.add_note(f"steps not written: {describe_steps(self._ledger.dropped) or 'none'}")
            raise error

    def _report(self, final: bool = False) -> None:
        """Tell the caller about errors: raised or warned, in the caller's thread."""
        self._raise_failure()
        if not final:
            self._raise_error()
        dropped = self.dropped
        if dropped and (final or (self.on_error == "warn" and not self._reported)):
            self._reported = True
            self._warn(
                f"{step_words(dropped)} could not be written ({next(reversed(dropped.values()))}); "
                + (
                    f"{len(dropped)} in all, training was not affected"
                    if final
                    else "training goes on, and recording with it once writing works again"
                )
            )
        if not final:
            return
        for text in self._ledger.losses():
            self._warn(text)
        elapsed = time.monotonic() - self._began
        if self.stalled_s > max(1.0, _STALL_SHARE * elapsed):
            rate = self._sealer.bytes_written / elapsed / 1e6
            self._warn(
                f"training waited {self.stalled_s:.1f} s of {elapsed:.1f} s for the disk ({rate:.0f} MB/s "
                "written); record fewer layers or steps, or use a faster disk"
            )
        self._raise_error()

    def _warn(self, text: str) -> None:
        warn(f"{self.path}: {text}", RuntimeWarning)


def check_run(probe: Probe, snapshots: Sequence[Snapshot]) -> None:
    """Check a whole run that is in memory.

    Raises
    ------
    ValueError, TypeError
        What `StoreWriter` would raise for its probe, or for the first of the snapshots that it would not take.
    """
    check_probe(probe)
    last: int | None = None
    for snapshot in snapshots:
        check_snapshot(snapshot, samples=probe.samples, last_step=last, max_sample_bytes=MAX_FILE_BYTES)
        last = snapshot.step


@atexit.register
def _close_open_writers() -> None:
    """What was never closed is closed when the interpreter ends."""
    with contextlib.ExitStack() as stack:
        for writer in list(_signals.open_writers):
            stack.callback(writer.close)
