"""From snapshots to published shards, one after the other, in whichever thread calls."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from infoplane import __version__
from infoplane.core import files
from infoplane.core.records import Snapshot
from infoplane.store._frames import Frame
from infoplane.store._ledger import Ledger
from infoplane.store._records import ManifestEntry, ShardMeta
from infoplane.store._shard import encode_shard
from infoplane.store.layout import SHARDS_DIR

INDEX_ALLOWANCE = 16 << 20
"""Room kept under the limit of a file for the records of its layers and HDF5's own."""


class Sealer:
    """Collects frames of one session and publishes them.

    A shard that a write error stopped stays in memory and is written again with the next one, or at once where
    the caller waits for the disk. Only what fails twice is dropped: many errors pass, and no more than one shard waits.

    Attributes
    ----------
    max_sample_bytes : int
        Bytes of one sample that still fit into a file.
    pending_bytes, bytes_written : int
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        samples: int,
        seal_bytes: int,
        seal_seconds: float,
        max_file_bytes: int,
        release: Callable[[Snapshot], None] | None,
    ) -> None:
        self._ledger, self._samples, self._release = ledger, samples, release
        self._shards = ledger.path / SHARDS_DIR
        self._seal_bytes, self._seal_seconds = seal_bytes, seal_seconds
        self.max_sample_bytes = max(max_file_bytes - INDEX_ALLOWANCE, max_file_bytes // 2)
        self._fresh: list[Frame] = []  # nobody has tried to write them
        self._fresh_bytes = 0
        self._held: list[Frame] = []  # a write error stopped their shard once
        self._publishing: list[int] = []  # steps of the shards that are on their way right now
        self._due_at = 0.0
        self._start_step = -1
        self.pending_bytes = 0
        self.bytes_written = 0

    def take(self, snapshot: Snapshot) -> None:
        """Add a snapshot, sealing before it or after it where that is due."""
        try:
            snapshot.wait()
        except BaseException:
            self.seal()  # what came before is whole
            raise
        frame = Frame.of(snapshot, self._samples)
        if self._start_step < 0:
            self._start_step = frame.step
        full = self._fresh_bytes + frame.nbytes > self.max_sample_bytes
        if self._fresh and (full or not self._fresh[0].belongs_with(frame)):
            self.seal()
        if not (self._fresh or self._held):
            self._due_at = time.monotonic() + self._seal_seconds
        self._fresh.append(frame)
        self._fresh_bytes += frame.nbytes
        self.pending_bytes += frame.nbytes
        _ = frame.digests, frame.nonfinite  # spreads that work over the time between the seals
        due = self.due_in()
        if self._fresh_bytes >= self._seal_bytes or (due is not None and due <= 0):
            self.seal()

    def due_in(self) -> float | None:
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
            self.pending_bytes = sum(frame.nbytes for frame in self._held)
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
        if self._release is not None:
            for frame in frames:
                self._release(frame.snapshot)

    def give_up(self, queued: Iterable[Snapshot], error: BaseException) -> None:
        """List everything that waits as dropped."""
        self.abandon(queued, error)
        self._held, self._fresh = [], []
        self._fresh_bytes = self.pending_bytes = 0

    def abandon(self, queued: Iterable[Snapshot], error: BaseException) -> None:
        """List everything that is not published as dropped, while another thread may still be at it."""
        waiting = [frame.step for frame in [*self._held, *self._fresh]]
        self._ledger.drop([*self._publishing, *waiting, *(snapshot.step for snapshot in queued)], error)
        self._ledger.save()

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
