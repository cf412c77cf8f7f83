"""Writing a run: snapshots are handed over at once, sealed into shards by a background thread."""

from __future__ import annotations

import atexit
import contextlib
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from infoplane.core.errors import StoreError
from infoplane.core.records import Probe, Snapshot
from infoplane.core.steps import describe_steps, step_words
from infoplane.core.warn import warn
from infoplane.store import _signals
from infoplane.store._directory import open_directory
from infoplane.store._shard import Frame, check_probe
from infoplane.store._worker import Worker
from infoplane.store.layout import MAX_FILE_BYTES, MAX_RANKS, SEAL_BYTES, SEAL_SECONDS

_STALL_SHARE = 0.05  # share of the run's time from which on waiting for the disk is worth a warning


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
    overwrite : bool
        Replace the run that is there: its files and its results are removed, other files stay. Only a run that was
        closed and that no process writes is replaced. Without a run there, a new one is made.
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
        overwrite: bool = False,
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
        if resume and overwrite:
            raise ValueError("resume goes on with a run and overwrite replaces it; pass one of them")
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
            overwrite=overwrite,
            session=session,
            may_differ=may_differ,
            join_seconds=join_seconds,
        )
        record = self._ledger.record
        self.run_id, self.session, self.last_step = record.run_id, record.session, record.resumed_from
        self._reported = False
        self._began = time.monotonic()
        self._worker = Worker(
            self._ledger,
            seal_bytes=min(seal_bytes, max_file_bytes),
            seal_seconds=seal_seconds,
            max_file_bytes=max_file_bytes,
            queue_bytes=queue_bytes,
            release=release,
        )
        if background:
            try:
                self._worker.start(f"infoplane writer {self.path}")
            except BaseException:
                self._ledger.lock.release()
                raise
        self._closed = False
        _signals.watch(self)

    @property
    def dropped(self) -> dict[int, str]:
        return dict(self._ledger.dropped)

    @property
    def stalled_s(self) -> float:
        return self._worker.stalled_s

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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
        limit = self._worker.max_sample_bytes
        frame = Frame.of(snapshot, samples=self._samples, last_step=self._worker.last_step, max_sample_bytes=limit)
        if not self._worker.put(frame):
            raise ValueError(f"the writer of {self.path} is closed")
        self._report()

    @_signals.guarded
    def annotate(self, **notes: Any) -> None:
        """Add JSON values to this session's file, at once."""
        self._ready()
        self._ledger.annotate(notes)

    @_signals.guarded
    def flush(self) -> bool:
        """Wait until everything handed over so far is on the disk.

        Returns False when some of it had to be dropped, now or before, or may not survive a power failure.
        """
        self._ready()
        self._worker.flush()
        self._report()
        return not self._ledger.dropped and not self._ledger.uncertain

    @_signals.guarded
    def close(self) -> None:
        """Publish what waits, finish the session's file and release the lock. Safe to call again.

        A SIGTERM that comes meanwhile ends the wait, and its handler then closes the writer.
        """
        if self._closed or not self.mine or not self._worker.stop():
            return
        self._closed = True
        _signals.unwatch(self)
        try:
            if self._worker.failure is None:
                self._worker.seal(wait=True)
                self._ledger.close(self.stalled_s)
        finally:
            self._ledger.lock.release()
        self._report_end()

    @property
    def mine(self) -> bool:
        """Whether this process opened it; a forked child must leave it alone."""
        return os.getpid() == self._pid

    def abandon(self, error: Exception) -> None:
        """List every step that is not published yet as dropped through `error`, before the process ends."""
        self._worker.abandon(error)

    # Checks and reports

    def _ready(self) -> None:
        """Raise RuntimeError in a forked child, ValueError once closed, StoreError where the thread has failed."""
        if not self.mine:
            raise RuntimeError(f"this writer belongs to process {self._pid}, and cannot be used in child {os.getpid()}")
        if self._closed:
            raise ValueError(f"the writer of {self.path} is closed")
        self._raise_failure()

    def _raise_failure(self) -> None:
        """Raise StoreError where a fault has ended the background thread."""
        failure = self._worker.failure
        if failure is not None:
            why = f"{type(failure).__name__}: {failure}"
            raise StoreError(f"recording into {self.path} has stopped: {why}") from failure

    def _raise_error(self) -> None:
        """Raise the last write error, once, where `on_error` is "raise"."""
        error = self._ledger.error
        if error is not None and self.on_error == "raise":
            self._ledger.error = None
            error.add_note(f"steps not written: {describe_steps(self._ledger.dropped) or 'none'}")
            raise error

    def _report(self) -> None:
        """Raise or warn of what the background thread could not write, here in the caller's thread."""
        self._raise_failure()
        self._raise_error()
        if self.on_error == "warn" and not self._reported:
            self._report_dropped("training goes on, and recording with it once writing works again")

    def _report_dropped(self, what_now: str) -> None:
        """Warn of the steps that could not be written, if there are any; the warning ends in `what_now`."""
        dropped = self.dropped
        if dropped:
            self._reported = True
            self._warn(f"{step_words(dropped)} could not be written ({next(reversed(dropped.values()))}); {what_now}")

    def _report_end(self) -> None:
        """Warn of all that was lost, and of a long wait for the disk."""
        self._raise_failure()
        self._report_dropped(f"{len(self.dropped)} in all, training was not affected")
        for text in self._ledger.losses():
            self._warn(text)
        elapsed = time.monotonic() - self._began
        if self.stalled_s > max(1.0, _STALL_SHARE * elapsed):
            rate = self._worker.bytes_written / elapsed / 1e6
            self._warn(
                f"training waited {self.stalled_s:.1f} s of {elapsed:.1f} s for the disk ({rate:.0f} MB/s "
                "written); record fewer layers or steps, or use a faster disk"
            )
        self._raise_error()

    def _warn(self, text: str) -> None:
        """Warn, with the run's directory in front."""
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
        last = Frame.of(snapshot, samples=probe.samples, last_step=last, max_sample_bytes=MAX_FILE_BYTES).step


@atexit.register
def _close_open_writers() -> None:
    """Close, when the interpreter ends, the writers that were never closed."""
    with contextlib.ExitStack() as stack:
        for writer in list(_signals.open_writers):
            stack.callback(writer.close)
