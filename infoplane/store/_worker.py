"""The queue between training and the disk, and the thread that seals what comes through it into shards."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from infoplane import __version__
from infoplane.core import files
from infoplane.core.interrupts import checkpoint
from infoplane.core.records import Snapshot
from infoplane.store import _signals
from infoplane.store._directory import Ledger
from infoplane.store._records import ManifestEntry, ShardMeta
from infoplane.store._shard import Frame, encode_shard
from infoplane.store.layout import SHARDS_DIR

DEFAULT_QUEUE_BYTES = 1 << 30
_OVERHEAD = 4096  # bytes that a waiting snapshot takes beside its arrays
_INDEX_ALLOWANCE = 16 << 20  # bytes of a file that are left for the records of its layers and of HDF5


class _Seal:
    """An entry of the queue that asks for everything before it to be written as shards."""


class Worker:
    """Takes frames one after the other and publishes them as shards, in a thread of its own or in that of the caller.

    To seal is to write the frames that wait as a shard.

    A shard that a write error stopped stays in memory and is written again with the next one, or at once where
    the caller waits for the disk. Only what fails twice is dropped: many errors pass, and no more than one shard waits.

    Attributes
    ----------
    max_sample_bytes : int
        The most bytes that one sample may have, so that a file has room for it and its index.
    last_step : int or None
        The step handed over last.
    waiting_bytes, bytes_written : int
        Bytes that are not published yet, and bytes that are.
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
        """Settings are those of StoreWriter; `release` gets each snapshot that is written or dropped."""
        self._ledger, self._release = ledger, release
        self._shards = ledger.path / SHARDS_DIR
        self._seal_bytes, self._seal_seconds, self._queue_bytes = seal_bytes, seal_seconds, queue_bytes
        # Where files are very small, half of one is for the index.
        self.max_sample_bytes = max(max_file_bytes - _INDEX_ALLOWANCE, max_file_bytes // 2)
        self._queue: deque[Frame | _Seal] = deque()
        self._fresh: list[Frame] = []  # taken from the queue; nobody has tried to write them
        self._fresh_bytes = 0
        self._held: list[Frame] = []  # a write error stopped their shard once
        self._publishing: list[int] = []  # steps of the shards that are on their way right now
        self._due_at = 0.0  # when the frames that wait are to be sealed, on the monotonic clock
        self._start_step = -1  # the first step of this session; -1 before there is one
        self._largest = 0  # bytes of the largest frame so far
        self.last_step: int | None = None
        self.waiting_bytes = self.bytes_written = 0
        self.stalled_s = 0.0
        self._changed = threading.Condition()
        self._stopping = False
        self.failure: BaseException | None = None
        self._thread: threading.Thread | None = None

    # Called by the writer

    def start(self, name: str) -> None:
        """Work in a thread from now on."""
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
                began = time.monotonic()
                # A frame larger than the budget waits until nothing else does.
                self._have_sealed(max(budget - size, 0))
                self.stalled_s += time.monotonic() - began
            if self._stopping:
                return False
            self.last_step = frame.step
            if self._thread is not None:
                self._queue.append(frame)
            # Counted after the frame is queued: an interrupt in between leaves too low a count, and too high a one
            # would make later calls wait for nothing.
            self.waiting_bytes += frame.nbytes
            self._changed.notify_all()
        if self._thread is None:
            self._take(frame)
        return True

    def _occupied(self) -> int:
        """Return how many bytes the waiting snapshots take in memory."""
        return self.waiting_bytes + _OVERHEAD * len(self._queue)

    def flush(self) -> None:
        """Return when everything handed over so far is published or dropped."""
        if self._thread is None:
            self.seal(wait=True)
            return
        with self._changed:
            self._have_sealed(-1)  # the bytes that wait are never that few: return when everything is sealed

    def _have_sealed(self, enough: int) -> None:
        """Ask the thread to seal; return when it has, when at most `enough` bytes wait, or when a signal is pending.

        The caller holds the condition.
        """
        if self._stopping:
            return
        request = _Seal()
        self._queue.append(request)  # the thread takes every entry before it ends, and a fault clears the queue
        self._changed.notify_all()
        while request in self._queue and self._occupied() > enough and not _signals.pending():
            self._changed.wait(0.5)  # wakes up every half second to see whether a signal has come
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
        """List every step that is not published yet as dropped through `error`; the thread may still be at work."""
        queued = [item for item in list(self._queue) if isinstance(item, Frame)]
        waiting = [frame.step for frame in [*self._held, *self._fresh, *queued]]
        self._ledger.drop([*self._publishing, *waiting], error)
        self._ledger.save()

    # The thread

    def _run(self) -> None:
        """Work until there is nothing left. An error of the program ends the recording, and is kept for the caller."""
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
                # `seal_seconds` may be infinite, a wait may not.
                self._changed.wait(None if wait is None else min(wait, 3600.0))
            # The item stays in the queue while it is worked on: `abandon` finds it there, and `_have_sealed` sees from
            # the queue whether its request is done.
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
        return item is not None or not stopping

    def _take(self, frame: Frame) -> None:
        """Add a frame to those that wait, and seal them where they are enough or cannot share a shard with it."""
        try:
            frame.snapshot.wait()
        except BaseException:
            self.seal()  # the frames before it are whole
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
        """Return the seconds until the waiting frames are to be sealed; None when there are none."""
        return self._due_at - time.monotonic() if self._fresh or self._held else None

    def seal(self, *, wait: bool = False) -> None:
        """Publish the frames that wait. With `wait` none stays for a later attempt: each is published or dropped."""
        shards = [frames for frames in (self._held, self._fresh) if frames]
        attempts = 1 if self._held else 2  # that the first of `shards` has left: a held one has failed once
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
        """Publish one shard, or drop it when the last attempt fails; False where another attempt is left for later."""
        for left in reversed(range(attempts)):  # attempts that are left after this one
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
        """Count frames that are written or dropped as waiting no longer, and hand their snapshots to `release`."""
        with self._changed:
            self.waiting_bytes -= sum(frame.nbytes for frame in frames)
        if self._release is not None:
            for frame in frames:
                self._release(frame.snapshot)

    def _publish(self, frames: list[Frame]) -> None:
        """Write one shard; a single snapshot that is too large for a file becomes several."""
        groups = [[part] for part in frames[0].split(self.max_sample_bytes)] if len(frames) == 1 else [frames]
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
            # Without its other parts a part is of no use: remove those written, which no manifest lists yet.
            for entry in published:
                with contextlib.suppress(OSError):
                    (self._shards / entry.name).unlink()
            raise
        self._ledger.unlisted += [entry.line() for entry in published]

    def _publish_file(self, meta: ShardMeta, frames: list[Frame]) -> ManifestEntry:
        """Write one shard under its name, and return its entry for the manifest."""
        steps = tuple(frame.step for frame in frames)
        name = str(meta.shard_name(steps[0], steps[-1]))
        try:
            size, digest = files.publish(self._shards, name, encode_shard(meta, frames))
        except files.NotDurable as error:
            self._ledger.uncertain, self._ledger.error = True, error
            size, digest = error.size, error.digest
        self.bytes_written += size
        return ManifestEntry(name=name, size=size, xxh3_128=digest, rank=meta.rank, session=meta.session, steps=steps)
