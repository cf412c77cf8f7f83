"""From snapshots to published shards, one after the other, in whichever thread calls."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infoplane import __version__
from infoplane.core import files
from infoplane.core.records import Snapshot
from infoplane.core.steps import step_words
from infoplane.core.strict import canonical_json
from infoplane.store._directory import Opened, now, write_session
from infoplane.store._frames import Frame
from infoplane.store._records import ManifestEntry, SessionRecord, ShardMeta, load_json
from infoplane.store._shard import encode_shard
from infoplane.store.layout import SHARDS_DIR, ShardName, dropped_file, manifest_file

INDEX_ALLOWANCE = 16 << 20
"""Room kept under the limit of a file for the records of its layers and HDF5's own."""


@dataclass
class _Batch:
    """The frames of one shard on their way to the disk, and the snapshots that hold their memory."""

    frames: list[Frame]
    snapshots: list[Snapshot]
    failed_at: float | None = None

    @property
    def nbytes(self) -> int:
        return sum(frame.nbytes for frame in self.frames)

    @property
    def steps(self) -> list[int]:
        return [frame.step for frame in self.frames]


class Sealer:
    """Collects frames of one rank and session and publishes them.

    A shard that a write error stopped stays in memory and is written again with the next one, or at once where
    the caller waits for the disk. Only what fails twice is dropped: many errors pass, and no more than one shard waits.

    Attributes
    ----------
    dropped : dict of int to str
        Steps that could not be written, with the reason.
    uncertain : bool
        A published file may not survive a power failure: its directory could not be synced.
    error : OSError, MemoryError or None
        The write error that last cost something, for a caller that wants it raised.
    mark : str
        Name of the empty file that says which steps were dropped while the session's file cannot be written.
    pending_bytes, bytes_written : int
    """

    def __init__(
        self,
        path: Path,
        opened: Opened,
        *,
        samples: int,
        world_size: int,
        settings: Mapping[str, Any],
        seal_bytes: int,
        seal_seconds: float,
        max_file_bytes: int,
        release: Callable[[Snapshot], None] | None,
    ) -> None:
        self.path = path
        self._shards = path / SHARDS_DIR
        self._samples = samples
        self._seal_bytes, self._seal_seconds = seal_bytes, seal_seconds
        self._max_bytes = max(max_file_bytes - INDEX_ALLOWANCE, max_file_bytes // 2)
        self._release = release
        self._frames: list[Frame] = []
        self._snapshots: list[Snapshot] = []
        self._publishing: list[int] = []
        self._held: _Batch | None = None
        self._first_at = 0.0
        self._start_step = -1
        self._unlisted: list[bytes] = []
        self._session_changed = False
        self._session_lock = threading.Lock()
        self._fresh_bytes = 0  # of the frames that nobody has tried to write
        self.pending_bytes = 0
        self.bytes_written = 0
        self.mark = ""
        self.dropped: dict[int, str] = {}
        self.uncertain = False
        self.error: OSError | MemoryError | None = None
        self.record = SessionRecord(
            run_id=opened.run_id,
            session=opened.session,
            rank=opened.rank,
            world_size=world_size,
            created=now(),
            pid=os.getpid(),
            host=socket.gethostname(),
            resumed_from=opened.last_step,
            settings=load_json(canonical_json(dict(settings), "settings")),
        )
        self._journal = files.Journal(path / manifest_file(self.record.rank))
        write_session(path, self.record, first=True)

    @property
    def max_sample_bytes(self) -> int:
        """Bytes of one sample that still fit into a file."""
        return self._max_bytes

    @property
    def unlisted(self) -> bool:
        """Whether manifest lines wait for the disk to work again."""
        return bool(self._unlisted)

    @property
    def unsaved(self) -> bool:
        """Whether the session's file waits for the disk to work again."""
        return self._session_changed

    def unsaved_words(self) -> str:
        """What the directory does not say because the session's file could not be written at the end."""
        what = f"the session's file could not be written ({self.error}): "
        if not self.dropped:
            return what + "it reads as if the session had not been closed, which costs nothing"
        steps, were = step_words(self.dropped), "was" if len(self.dropped) == 1 else "were"
        if self.mark:
            return what + f"that {steps} {were} dropped is only in the name of {self.mark}; leave it there"
        return what + f"nothing in the directory says that {steps} {were} dropped; make a note of it"

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
        full = self._fresh_bytes + frame.nbytes > self._max_bytes
        if self._frames and (full or not self._frames[0].belongs_with(frame)):
            self.seal()
        if not self._frames:
            self._first_at = time.monotonic()
        self._frames.append(frame)
        self._snapshots.append(snapshot)
        self._fresh_bytes += frame.nbytes
        self.pending_bytes += frame.nbytes
        _ = frame.digests, frame.nonfinite  # spreads that work over the time between the seals
        due = self.due_in()
        if self._fresh_bytes >= self._seal_bytes or (due is not None and due <= 0):
            self.seal()

    def due_in(self) -> float | None:
        """Seconds until the pending snapshots are to be sealed; None when there are none."""
        began = [self._first_at] if self._frames else []
        if self._held is not None and self._held.failed_at is not None:
            began.append(self._held.failed_at)
        return min(began) + self._seal_seconds - time.monotonic() if began else None

    def seal(self, *, wait: bool = False) -> None:
        """Publish what is pending. With `wait` nothing stays for a later attempt: it is published or dropped."""
        batches = [self._held] if self._held is not None else []
        if self._frames:
            batches.append(_Batch(self._frames, self._snapshots))
        self._publishing = [step for batch in batches for step in batch.steps]
        self._held, self._frames, self._snapshots, self._fresh_bytes = None, [], [], 0
        try:
            while batches:
                if not self._done(batches[0], wait=wait):
                    self._held = batches[0]
                del batches[0]
        except BaseException as error:
            for batch in batches:
                self._drop(batch.steps, error)
            self._let_go(snapshot for batch in batches[1:] for snapshot in batch.snapshots)
            raise
        finally:
            self._publishing = []
            self.pending_bytes = self._held.nbytes if self._held is not None else 0
        self._save_bookkeeping()

    def _done(self, batch: _Batch, *, wait: bool) -> bool:
        """Publish a batch or, when it has failed twice, drop it; False where it is to be tried again later."""
        try:
            while True:
                try:
                    self._publish(batch.frames)
                    break
                except (OSError, MemoryError) as error:
                    if batch.failed_at is not None:
                        self.error = error
                        self._drop(batch.steps, error)
                        break
                    batch.failed_at = time.monotonic()
                    if not wait:
                        return False
        except BaseException:
            self._let_go(batch.snapshots)
            raise
        self._let_go(batch.snapshots)
        return True

    def _let_go(self, snapshots: Iterable[Snapshot]) -> None:
        if self._release is not None:
            for snapshot in snapshots:
                self._release(snapshot)

    def _waiting(self) -> list[int]:
        """Steps that were handed over and are not on the disk."""
        held = self._held.steps if self._held is not None else []
        return [*self._publishing, *held, *(snapshot.step for snapshot in self._snapshots)]

    def give_up(self, queued: Iterable[Snapshot], error: BaseException) -> None:
        """List everything that waits as dropped."""
        self.abandon(queued, error)
        self._held, self._frames, self._snapshots = None, [], []
        self._fresh_bytes = self.pending_bytes = 0

    def abandon(self, queued: Iterable[Snapshot], error: BaseException) -> None:
        """List everything that is not published as dropped, while another thread may still be at it."""
        self._drop([*self._waiting(), *(snapshot.step for snapshot in queued)], error)
        self._save_session()

    def _drop(self, steps: Iterable[int], error: BaseException) -> None:
        self.dropped = self.dropped | {step: f"{type(error).__name__}: {error}" for step in steps}
        self._session_changed = True

    def annotate(self, notes: Mapping[str, Any]) -> None:
        """Add notes to the session's file and write it, now or when writing works again."""
        with self._session_lock:
            self.record.notes = self.record.notes | load_json(canonical_json(dict(notes), "notes"))
            self._session_changed = True
        self._save_session()

    def finish(self, stalled_seconds: float) -> None:
        """Publish what is pending and write the last state of the session."""
        self.seal(wait=True)
        self.record.closed = True
        self.record.stalled_seconds = round(stalled_seconds, 3)
        self._session_changed = True
        self._save_bookkeeping()

    def _publish(self, frames: list[Frame]) -> None:
        parts = frames[0].split(self._max_bytes) if len(frames) == 1 else []
        groups = [[part] for part in parts] if len(parts) > 1 else [frames]
        metrics = tuple(sorted({pair for frame in frames for pair in frame.metrics}))
        lines, names = [], []
        try:
            for part, group in enumerate(groups):
                name = ShardName(
                    frames[0].step,
                    frames[-1].step,
                    self.record.session,
                    self.record.rank,
                    part if len(groups) > 1 else None,
                )
                meta = ShardMeta(
                    run_id=self.record.run_id,
                    session=self.record.session,
                    start_step=self._start_step,
                    rank=self.record.rank,
                    world_size=self.record.world_size,
                    part=part,
                    parts=len(groups),
                    layers=frames[0].layers,
                    metrics=metrics,
                    writer=f"infoplane {__version__}",
                )
                pieces, _ = encode_shard(meta, group)
                try:
                    size, digest = files.publish(self._shards, str(name), pieces)
                except files.NotDurable as error:
                    self.uncertain, self.error = True, error
                    size, digest = error.size, error.digest
                names.append(name)
                self.bytes_written += size
                entry = ManifestEntry(
                    name=str(name),
                    size=size,
                    xxh3_128=digest,
                    rank=name.rank,
                    session=name.session,
                    steps=tuple(frame.step for frame in group),
                )
                lines.append(entry.line())
        except BaseException:
            # Parts of a snapshot that cannot be completed were never acknowledged.
            for name in names:
                with contextlib.suppress(OSError):
                    (self._shards / str(name)).unlink()
            raise
        self._unlisted += lines

    def _save_bookkeeping(self) -> None:
        """Manifest lines and the session's file. Shards are valid without them: after an error they wait."""
        try:
            if self._unlisted:
                self._journal.append(self._unlisted)
                self._unlisted = []
        except OSError as error:
            self.error = error
        self._save_session()

    def _save_session(self) -> None:
        with self._session_lock:
            if not self._session_changed:
                return
            self.record.dropped = [{"step": s, "reason": why} for s, why in self.dropped.items()]
            try:
                write_session(self.path, self.record, first=False)
            except OSError as error:
                self.error = error
                self._set_mark()
            else:
                self._session_changed = False
                self._remove_mark("")

    def _set_mark(self) -> None:
        """Say in the name of an empty file that steps were dropped: a full disk still takes a name."""
        if not self.dropped:
            return
        name = dropped_file(self.record.session, self.record.rank, min(self.dropped), max(self.dropped))
        if name != self.mark:
            with contextlib.suppress(OSError):
                files.touch(self.path / name)
                self._remove_mark(name)

    def _remove_mark(self, new: str) -> None:
        old, self.mark = self.mark, new
        if old:
            with contextlib.suppress(OSError):
                (self.path / old).unlink()
