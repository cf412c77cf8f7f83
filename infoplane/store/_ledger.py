"""One session while it is written: its lock, its file, its manifest lines, and the steps that it had to drop."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from infoplane.core import files
from infoplane.core.steps import step_words
from infoplane.core.strict import canonical_json
from infoplane.store._records import SessionRecord, load_json
from infoplane.store.layout import SESSIONS_DIR, dropped_file, manifest_file, session_file


class Ledger:
    """What a writer tells the directory besides the shards. After a write error all of it waits: shards do without.

    Attributes
    ----------
    dropped : dict of int to str
        Steps that could not be written, with the reason.
    error : OSError, MemoryError or None
        The write error that last cost something, for a caller that wants it raised.
    uncertain : bool
        A published file may not survive a power failure: its directory could not be synced.
    unlisted : list of bytes
        Manifest lines that are not on the disk yet.
    unsaved : bool
        The session's file waits for the disk to work again.
    mark : str
        Name of the empty file that says which steps were dropped while the session's file cannot be written.
    """

    def __init__(self, path: Path, lock: files.PidLock, record: SessionRecord) -> None:
        self.path, self.lock, self.record = path, lock, record
        self.dropped: dict[int, str] = {}
        self.error: OSError | MemoryError | None = None
        self.uncertain = False
        self.unlisted: list[bytes] = []
        self.unsaved = False
        self.mark = ""
        self._saving = threading.Lock()  # an annotation comes from the training thread
        self._journal = files.Journal(path / manifest_file(record.rank))
        self._write(replace=False)

    def _write(self, *, replace: bool = True) -> None:
        name = session_file(self.record.session, self.record.rank)
        files.publish_bytes(self.path / SESSIONS_DIR, name, self.record.dump(), replace=replace)

    def drop(self, steps: Iterable[int], error: BaseException) -> None:
        """Note that these steps are lost."""
        self.dropped = self.dropped | {step: f"{type(error).__name__}: {error}" for step in steps}
        self.unsaved = True

    def annotate(self, notes: Mapping[str, Any]) -> None:
        """Add notes to the session's file and write it, now or when writing works again."""
        with self._saving:
            self.record.notes = self.record.notes | load_json(canonical_json(dict(notes), "notes"))
            self.unsaved = True
        self.save()

    def close(self, stalled_seconds: float) -> None:
        """Write the last state."""
        self.record.closed = True
        self.record.stalled_seconds = round(stalled_seconds, 3)
        self.unsaved = True
        self.list_shards()

    def list_shards(self) -> None:
        """Append what waits for the manifest, and write the session's file where it changed."""
        try:
            if self.unlisted:
                self._journal.append(self.unlisted)
                self.unlisted = []
        except OSError as error:
            self.error = error
        self.save()

    def save(self) -> None:
        """Write the session's file where it changed."""
        with self._saving:
            if not self.unsaved:
                return
            self.record.dropped = [{"step": s, "reason": why} for s, why in self.dropped.items()]
            try:
                self._write()
            except OSError as error:
                self.error = error
                self._set_mark()
            else:
                self.unsaved = False
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

    def losses(self) -> list[str]:
        """What the end of the session could not put right, in words."""
        out = []
        if self.uncertain:
            out.append(f"what was written may not survive a power failure ({self.error})")
        if self.unlisted:
            out.append(
                f"the shards are whole, but not the manifest ({self.error}); "
                "opening the run with resume=True makes up for it"
            )
        if self.unsaved:
            out.append(f"the session's file could not be written ({self.error}): {self._cost_of_unsaved()}")
        return out

    def _cost_of_unsaved(self) -> str:
        if not self.dropped:
            return "it reads as if the session had not been closed, which costs nothing"
        steps, were = step_words(self.dropped), "was" if len(self.dropped) == 1 else "were"
        if self.mark:
            return f"that {steps} {were} dropped is only in the name of {self.mark}; leave it there"
        return f"nothing in the directory says that {steps} {were} dropped; make a note of it"
