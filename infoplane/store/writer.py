"""Writing a run: snapshots are handed over at once, sealed into shards by a background thread."""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

from infoplane import __version__
from infoplane.core import files
from infoplane.core.errors import StoreError
from infoplane.core.interrupts import checkpoint
from infoplane.core.records import Probe, Snapshot
from infoplane.core.steps import describe_steps, step_words
from infoplane.core.warn import warn
from infoplane.store import _signals
from infoplane.store._directory import Ledger, open_directory
from infoplane.store._records import ManifestEntry, ShardMeta
from infoplane.store._shard import Frame, check_probe, encode_shard
from infoplane.store.layout import MAX_FILE_BYTES, MAX_RANKS, SEAL_BYTES, SEAL_SECONDS, SHARDS_DIR

DEFAULT_QUEUE_BYTES = 1 << 30
_OVERHEAD = 4096  # of a waiting snapshot, beside its arrays
_INDEX_ALLOWANCE = 16 << 20  # under the limit of a file, for the records of its layers and HDF5's own
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
        self._reported = False
        self._began = time.monotonic()
        self._worker = _Worker(
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

        Returns False when some of it had to be dropped, now or before.
        """
        self._ready()
        self._worker.flush()
        self._report()
        return not self._ledger.dropped and not self._ledger.uncertain

    @_signals.guarded
    def close(self) -> None:
        """Publish what waits, finish the session's file and release the lock. Safe to call again."""
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
        self._report(final=True)

    @property
    def mine(self) -> bool:
        """Whether this process opened it; a forked child must leave it alone."""
        return os.getpid() == self._pid

    def abandon(self, error: Exception) -> None:
        """List what is not published yet as dropped, for this reason, in the session's file; the end is near."""
        self._worker.abandon(error)

    # Checks and reports

    def _ready(self) -> None:
        if not self.mine:
            raise RuntimeError(
                f"this writer belongs to process {self._pid} and cannot be used in its child {os.getpid()}"
            )
        if self._closed:
            raise ValueError(f"the writer of {self.path} is closed")
        self._raise_failure()

    def _raise_failure(self) -> None:
        failure = self._worker.failure
        if failure is not None:
            raise StoreError(
                f"recording into {self.path} has stopped: {type(failure).__name__}: {failure}"
            ) from failure

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
            rate = self._worker.bytes_written / elapsed / 1e6
            self._warn(
                f"training waited {self.stalled_s:.1f} s of {elapsed:.1f} s for the disk ({rate:.0f} MB/s "
                "written); record fewer layers or steps, or use a faster disk"
            )
        self._raise_error()

    def _warn(self, text: str) -> None:
        warn(f"{self.path}: {text}", RuntimeWarning)


class _Worker:
    """Takes frames one after the other and publishes them as shards, in a thread of its own or in that of the caller.

    A shard that a write error stopped stays in memory and is written again with the next one, or at once where
    the caller waits for the disk. Only what fails twice is dropped: many errors pass, and no more than one shard waits.

    Attributes
    ----------
    max_sample_bytes : int
        Bytes of one sample that still fit into a file.
    last_step : int or None
        The step handed over last.
    waiting_bytes, bytes_written : int
        What is not published yet, and what is.
    stalled_s : float
        Seconds that `put` waited for room.
    failure : exception or None
        A fault of the program that ended the thread: nothing more can be recorded.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        seal_bytes: int,
        seal_seconds: float,
        max_file_bytes: int,
        queue_bytes: int | None,
        release: Callable[[Snapshot], None] | None,
    ) -> None:
        self._ledger, self._release = ledger, release
        self._shards = ledger.path / SHARDS_DIR
        self._seal_bytes, self._seal_seconds, self._queue_bytes = seal_bytes, seal_seconds, queue_bytes
        self.max_sample_bytes = max(max_file_bytes - _INDEX_ALLOWANCE, max_file_bytes // 2)
        self._queue: deque[Frame | threading.Event] = deque()  # an event asks for a seal and is set after it
        self._fresh: list[Frame] = []  # taken; nobody has tried to write them
        self._fresh_bytes = 0
        self._held: list[Frame] = []  # a write error stopped their shard once
        self._publishing: list[int] = []  # steps of the shards that are on their way right now
        self._due_at = 0.0
        self._start_step = -1
        self._largest = 0
        self.last_step: int | None = None
        self.waiting_bytes = self.bytes_written = 0
        self.stalled_s = 0.0
        self._changed = threading.Condition()
        self._stopping = False
        self.failure: BaseException | None = None
        self._thread: threading.Thread | None = None

    # Called by the writer

    def start(self, name: str) -> None:
        """From now on work in a thread."""
        thread = threading.Thread(target=self._run, name=name, daemon=True)
        thread.start()
        self._thread = thread

    def put(self, frame: Frame) -> bool:
        """Hand over a frame, waiting for room where there is none; False after `stop`."""
        size = frame.nbytes + _OVERHEAD
        self._largest = max(self._largest, size)
        budget = self._queue_bytes or max(DEFAULT_QUEUE_BYTES, 2 * self._largest)
        with self._changed:
            if self._thread is not None and self._occupied() + size > budget:
                self._wait_for_room(budget - size)
            if self._stopping:
                return False
            self.last_step = frame.step
            if self._thread is not None:
                self._queue.append(frame)
            # After the frame: an interrupt in between leaves too low a count, which nobody waits for.
            self.waiting_bytes += frame.nbytes
            self._changed.notify_all()
        if self._thread is None:
            self._take(frame)
        return True

    def _occupied(self) -> int:
        return self.waiting_bytes + _OVERHEAD * len(self._queue)

    def _wait_for_room(self, allowed: int) -> None:
        """Called with the condition held. A frame larger than the budget waits until nothing else does."""
        began = time.monotonic()
        self._queue.append(threading.Event())  # seals what is pending, so that its bytes become free
        self._changed.notify_all()
        while self._occupied() > max(allowed, 0) and self.failure is None and not _signals.pending():
            self._changed.wait(0.5)
            checkpoint()
        self.stalled_s += time.monotonic() - began

    def flush(self) -> None:
        """Return when everything handed over so far is published or dropped."""
        if self._thread is None:
            self.seal(wait=True)
            return
        done = threading.Event()
        with self._changed:
            self._queue.append(done)
            self._changed.notify_all()
        while not done.wait(0.5) and self._thread.is_alive() and not _signals.pending():
            checkpoint()

    def stop(self) -> bool:
        """End the thread when it has taken what is queued; False where a signal cannot wait for that."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        while self._thread is not None and self._thread.is_alive():
            self._thread.join(0.5)
            checkpoint()
            if _signals.pending():
                return False
        return True

    def abandon(self, error: BaseException) -> None:
        """List everything that is not published as dropped, while another thread may still be at it."""
        queued = [item for item in list(self._queue) if isinstance(item, Frame)]
        waiting = [frame.step for frame in [*self._held, *self._fresh, *queued]]
        self._ledger.drop([*self._publishing, *waiting], error)
        self._ledger.save()

    # The thread

    def _run(self) -> None:
        try:
            while self._work():
                pass
        except BaseException as error:  # a fault of the program: nothing more can be recorded, and it is said
            with self._changed:
                self.abandon(error)
                self._queue.clear()
                self._held, self._fresh, self.waiting_bytes = [], [], 0
                self.failure = error
                self._changed.notify_all()

    def _work(self) -> bool:
        """Take one item of the queue, or seal when it is time; False when all is done."""
        with self._changed:
            while not self._queue and not self._stopping:
                wait = self._due_in()
                if wait is not None and wait <= 0:
                    break
                self._changed.wait(None if wait is None else min(wait, 3600.0))
            # It stays in the queue until it is taken, so that `abandon` finds it.
            item = self._queue[0] if self._queue else None
            stopping = self._stopping
        if isinstance(item, Frame):
            self._take(item)
        else:
            self.seal(wait=item is not None)
        with self._changed:
            if item is not None:
                self._queue.popleft()
            self._changed.notify_all()
        if isinstance(item, threading.Event):
            item.set()
        return item is not None or not stopping

    def _take(self, frame: Frame) -> None:
        """Add a frame, sealing before it or after it where that is due."""
        try:
            frame.snapshot.wait()
        except BaseException:
            self.seal()  # what came before is whole
            raise
        if self._start_step < 0:
            self._start_step = frame.step
        full = self._fresh_bytes + frame.nbytes > self.max_sample_bytes
        if self._fresh and (full or not self._fresh[0].belongs_with(frame)):
            self.seal()
        if not (self._fresh or self._held):
            self._due_at = time.monotonic() + self._seal_seconds
        self._fresh.append(frame)
        self._fresh_bytes += frame.nbytes
        _ = frame.digests, frame.nonfinite  # spreads that work over the time between the seals
        due = self._due_in()
        if self._fresh_bytes >= self._seal_bytes or (due is not None and due <= 0):
            self.seal()

    def _due_in(self) -> float | None:
        """Seconds until the pending snapshots are to be sealed; None when there are none."""
        return self._due_at - time.monotonic() if self._fresh or self._held else None

    def seal(self, *, wait: bool = False) -> None:
        """Publish what is pending. With `wait` nothing stays for a later attempt: it is published or dropped."""
        shards = [frames for frames in (self._held, self._fresh) if frames]
        attempts = 1 if self._held else 2  # left to the first of them
        self._publishing = [frame.step for frames in shards for frame in frames]
        self._held, self._fresh, self._fresh_bytes = [], [], 0
        try:
            while shards:
                if not self._written(shards[0], attempts, wait=wait):
                    self._held, self._due_at = shards[0], time.monotonic() + self._seal_seconds
                del shards[0]
                attempts = 2
        except BaseException as error:
            for frames in shards:
                self._ledger.drop([frame.step for frame in frames], error)
                self._let_go(frames)
            raise
        finally:
            self._publishing = []
        self._ledger.list_shards()

    def _written(self, frames: list[Frame], attempts: int, *, wait: bool) -> bool:
        """Publish one shard, or drop it at its last attempt; False where that comes later."""
        for left in reversed(range(attempts)):
            try:
                self._publish(frames)
                break
            except (OSError, MemoryError) as error:
                if left == 0:
                    self._ledger.error = error
                    self._ledger.drop([frame.step for frame in frames], error)
                elif not wait:
                    return False
        self._let_go(frames)
        return True

    def _let_go(self, frames: list[Frame]) -> None:
        with self._changed:
            self.waiting_bytes -= sum(frame.nbytes for frame in frames)
        if self._release is not None:
            for frame in frames:
                self._release(frame.snapshot)

    def _publish(self, frames: list[Frame]) -> None:
        """Write one shard; one snapshot that is too large for a file becomes several."""
        parts = frames[0].split(self.max_sample_bytes) if len(frames) == 1 else []
        groups = [[part] for part in parts] if len(parts) > 1 else [frames]
        record = self._ledger.record
        meta = ShardMeta(
            run_id=record.run_id,
            session=record.session,
            start_step=self._start_step,
            rank=record.rank,
            world_size=record.world_size,
            part=0,
            parts=len(groups),
            layers=frames[0].layers,
            metrics=tuple(sorted({pair for frame in frames for pair in frame.metrics})),
            writer=f"infoplane {__version__}",
        )
        published = []
        try:
            for part, group in enumerate(groups):
                published.append(self._publish_file(replace(meta, part=part), group))
        except BaseException:
            # Parts of a snapshot that cannot be completed were never acknowledged.
            for entry in published:
                with contextlib.suppress(OSError):
                    (self._shards / entry.name).unlink()
            raise
        self._ledger.unlisted += [entry.line() for entry in published]

    def _publish_file(self, meta: ShardMeta, frames: list[Frame]) -> ManifestEntry:
        steps = tuple(frame.step for frame in frames)
        name = str(meta.shard_name(steps[0], steps[-1]))
        try:
            size, digest = files.publish(self._shards, name, encode_shard(meta, frames))
        except files.NotDurable as error:
            self._ledger.uncertain, self._ledger.error = True, error
            size, digest = error.size, error.digest
        self.bytes_written += size
        return ManifestEntry(name=name, size=size, xxh3_128=digest, rank=meta.rank, session=meta.session, steps=steps)


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
    """What was never closed is closed when the interpreter ends."""
    with contextlib.ExitStack() as stack:
        for writer in list(_signals.open_writers):
            stack.callback(writer.close)
