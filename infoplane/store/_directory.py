"""A session's place in a run directory: made, replaced, joined as a further rank or continued, and kept up to date."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from infoplane.core import files
from infoplane.core.errors import StoreError
from infoplane.core.records import Probe
from infoplane.core.steps import step_words
from infoplane.core.strict import canonical_json
from infoplane.core.warn import warn
from infoplane.store._records import Manifest, ManifestEntry, RunRecord, SessionRecord, load_json, read_manifest
from infoplane.store._shard import Shard, check_probe, encode_probe, inputs_digest, probe_digest, version_of
from infoplane.store.layout import (
    MAX_RANKS,
    MAX_SESSIONS,
    PROBE_FILE,
    RUN_FILE,
    SESSIONS_DIR,
    SHARDS_DIR,
    ShardName,
    dropped_file,
    is_manifest_file,
    lock_file,
    manifest_file,
    parse_dropped_file,
    parse_session_file,
    session_file,
)
from infoplane.store.reader import ActivationStore

POLL_SECONDS = 0.05

RESULTS = ("results.csv", "results.json")
"""Files of the analysis of a run, which is about its activations alone: they go where the run is replaced."""

LOST = "to go on with it pass resume=True; to give it up delete the directory yourself"


class Ledger:
    """Keeps the manifest and the session's file of one writer. After a write error they wait: shards do without.

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
        """Write the session's file for the first time; the writer releases `lock` when it is closed."""
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
        """Write the session's file; without `replace`, FileExistsError where another process has this session."""
        name = session_file(self.record.session, self.record.rank)
        files.publish(self.path / SESSIONS_DIR, name, [self.record.dump()], replace=replace)

    def drop(self, steps: Iterable[int], error: BaseException) -> None:
        """Note that these steps are lost, and why."""
        self.dropped = self.dropped | {step: f"{type(error).__name__}: {error}" for step in steps}
        self.unsaved = True

    def annotate(self, notes: Mapping[str, Any]) -> None:
        """Add notes to the session's file and write it, now or when writing works again."""
        with self._saving:
            self.record.notes = self.record.notes | load_json(canonical_json(dict(notes), "notes"))
            self.unsaved = True
        self.save()

    def close(self, stalled_seconds: float) -> None:
        """Note that the session was closed, and write what is not written yet."""
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
                # A full disk still takes a name.
                steps = (min(self.dropped), max(self.dropped)) if self.dropped else None
                self._set_mark(dropped_file(self.record.session, self.record.rank, *steps) if steps else "")
            else:
                self.unsaved = False
                self._set_mark("")

    def _set_mark(self, name: str) -> None:
        """Leave an empty file of this name in the place of the one before; "" only removes that one."""
        if name == self.mark:
            return
        with contextlib.suppress(OSError):
            if name:
                files.touch(self.path / name)
            old, self.mark = self.mark, name
            if old:
                (self.path / old).unlink()

    def losses(self) -> list[str]:
        """Words for everything that is still not written at the end of the session."""
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
        """Words for the harm done where the session's file could not be written at the end."""
        if not self.dropped:
            return "it reads as if the session had not been closed, which costs nothing"
        steps, were = step_words(self.dropped), "was" if len(self.dropped) == 1 else "were"
        if self.mark:
            return f"that {steps} {were} dropped is only in the name of {self.mark}; leave it there"
        return f"nothing in the directory says that {steps} {were} dropped; make a note of it"


def open_directory(
    path: Path,
    *,
    probe: Probe,
    settings: Mapping[str, Any],
    rank: int,
    world_size: int,
    resume: bool,
    overwrite: bool,
    session: int | None,
    may_differ: Collection[str],
    join_seconds: float,
) -> Ledger:
    """A new session in a directory: locked for this rank, its run made, replaced, or checked to be the same one."""
    check_probe(probe)
    settings = load_json(canonical_json(dict(settings), "settings"))  # tuples as lists, as they will be read
    found = probe_digest(probe, inputs_digest(probe))
    if rank > 0:
        none = f"no {RUN_FILE} in {path} after {join_seconds:g} s; open the writer of rank 0 first"
        _wait_for((path / RUN_FILE).exists, join_seconds, none)
    else:
        path.mkdir(parents=True, exist_ok=True)
    lock = _lock(path, rank)
    try:
        for name in (SESSIONS_DIR, SHARDS_DIR):
            (path / name).mkdir(exist_ok=True)
        _sweep(path, rank)  # only after the lock: no living writer's files go
        if overwrite and rank == 0 and (path / RUN_FILE).exists():
            _remove_run(path)
        last_step = None
        if (path / RUN_FILE).exists():
            run = RunRecord.load(files.read_file(path / RUN_FILE), RUN_FILE)
            if rank == 0 and not resume:
                raise StoreError(
                    f"{path} already holds a run of {run.created}; pass resume=True to "
                    "continue it, overwrite=True to replace it, or choose another directory"
                )
            _check_same(path, run, settings, found, may_differ)
            if resume:
                last_step = _recover(path, rank)
        else:
            run = _create(path, probe, settings, found)
        record = SessionRecord(
            run_id=run.run_id,
            session=_number(path, rank, session, join_seconds),
            rank=rank,
            world_size=world_size,
            created=_now(),
            pid=os.getpid(),
            host=socket.gethostname(),
            resumed_from=last_step,
            settings=settings,
        )
        return Ledger(path, lock, record)
    except BaseException:
        lock.release()
        raise


def _lock(path: Path, rank: int) -> files.PidLock:
    """The lock of one rank, which has one writer; StoreError where another process holds it."""
    try:
        lock = files.PidLock(path / lock_file(rank), rank=rank)
    except files.Locked as held:
        raise StoreError(f"{path} is being written by {held.owner}; {held}") from None
    if lock.taken_over:
        warn(f"{path}: took over the lock of {lock.taken_over}, which has ended", RuntimeWarning)
    return lock


def _create(path: Path, probe: Probe, settings: dict[str, Any], found: str) -> RunRecord:
    """The record of a new run, once its probe and then run.json are written; StoreError where shards are there."""
    if any((path / SHARDS_DIR).iterdir()):
        raise StoreError(f"{path} has shards but no {RUN_FILE}; choose another directory, or put the file back")
    record = RunRecord(
        format_version=version_of(probe),
        run_id=uuid.uuid4().hex[:12],
        created=_now(),
        probe_digest=found,
        samples=probe.samples,
        settings=settings,
    )
    files.publish(path, PROBE_FILE, encode_probe(probe, record.run_id))
    files.sync_directory(path.parent)
    # Written last: a directory with run.json has everything that a reader needs.
    files.publish(path, RUN_FILE, [record.dump()], replace=False)
    return record


def _check_same(
    path: Path, record: RunRecord, settings: Mapping[str, Any], found: str, may_differ: Collection[str]
) -> None:
    """Raise StoreError with the first difference between the run on disk and the one that is to be recorded."""
    if record.probe_digest != found:
        raise StoreError(f"{path} was recorded with another probe: digest {record.probe_digest} there, {found} now")
    old = {k: v for k, v in record.settings.items() if k not in may_differ}
    new = {k: v for k, v in settings.items() if k not in may_differ}
    for field, a, b in _differences(old, new):  # the first of them is said
        raise StoreError(
            f"{path} was recorded with {field} = {a!r:.200}, now it is {b!r:.200}; "
            "use the old value or record into another directory"
        )


def _differences(old: Any, new: Any, field: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield (field, old value, new value) wherever two JSON values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in old | new:
            yield from _differences(old.get(key), new.get(key), f"{field}.{key}" if field else str(key))
    elif type(old) is not type(new) or old != new:
        yield field, old, new


def _recover(path: Path, rank: int) -> int | None:
    """Rebuild this rank's manifest where it and the shards disagree; return the last complete step, None for none."""
    store = ActivationStore(path)
    _rebuild_manifest(store, rank)
    steps = store.steps()
    return steps[-1] if steps else None


def _rebuild_manifest(store: ActivationStore, rank: int) -> None:
    """Write the manifest of one rank anew when lines are damaged or shards are not listed."""
    path, old = store.path / manifest_file(rank), Manifest()
    if path.exists() or path.is_symlink():
        try:
            old = read_manifest(path)
        except StoreError:  # no regular file, or beyond all sizes: another one takes its place
            old.clean = False
    unlisted = [s for s in store.valid_shards() if s.name.rank == rank and str(s.name) not in old.lines]
    lines = [*old.lines.values(), *(_line(store.path, shard) for shard in unlisted)]
    if unlisted or not old.clean:
        files.publish(store.path, path.name, [b"".join(line + b"\n" for line in lines)])


def _line(path: Path, shard: Shard) -> bytes:
    """The manifest's line about a shard, made from the file itself."""
    name, rank, session, steps = str(shard.name), shard.name.rank, shard.name.session, tuple(shard.step.tolist())
    with files.opened(path / SHARDS_DIR / name) as fd:
        size, found = files.file_digest(fd)
    return ManifestEntry(name=name, size=size, xxh3_128=found, rank=rank, session=session, steps=steps).line()


def _sweep(path: Path, rank: int) -> None:
    """Remove unfinished files of earlier writers of this rank. The caller holds its lock, so these have ended."""

    def dead(name: str, pid: int) -> bool:
        """Whether an unfinished file of this name and process was left by a dead writer of this rank."""
        if (writer := _writer_of(name)) is not None:
            return writer[1] == rank
        if name in (RUN_FILE, PROBE_FILE):
            return rank == 0
        if name == lock_file(rank):  # another process that is alive is about to find the lock taken
            return not files.alive(pid)
        return name == manifest_file(rank)

    for directory in (path, path / SESSIONS_DIR, path / SHARDS_DIR):
        files.remove_leftovers(directory, dead)


def _writer_of(name: str) -> tuple[int, int] | None:
    """The session and rank that wrote a shard or a session's file, going by its name; None for other files."""
    shard = ShardName.parse(name)
    return parse_session_file(name) if shard is None else (shard.session, shard.rank)


def _sessions(path: Path) -> dict[int, set[int]]:
    """Session number -> ranks that have a file in it."""
    out: dict[int, set[int]] = {}
    for directory in (SESSIONS_DIR, SHARDS_DIR):
        for entry in (path / directory).iterdir():
            if (writer := _writer_of(entry.name)) is not None:
                out.setdefault(writer[0], set()).add(writer[1])
    return out


def _number(path: Path, rank: int, session: int | None, join_seconds: float) -> int:
    """The number of this session: rank 0 takes a new one; the others wait for that of rank 0, or raise StoreError."""

    def joined() -> int:
        """The session of rank 0 that this rank can join; 0 where there is none yet."""
        known = _sessions(path)
        number = max((s for s, ranks in known.items() if 0 in ranks), default=0)
        if session is not None:
            number = session if 0 in known.get(session, set()) else 0
        found = number and rank not in known[number] and (session is not None or files.is_held(path / lock_file(0)))
        return number if found else 0

    none = (
        f"rank {rank} found no session of rank 0 to join in {path} within {join_seconds:g} s; "
        "open the writer of rank 0 first"
    )
    number = max(_sessions(path), default=0) + 1 if rank == 0 else _wait_for(joined, join_seconds, none)
    if number > MAX_SESSIONS:
        raise StoreError(f"{path} has {MAX_SESSIONS} sessions already; record into another directory")
    return number


def _remove_run(path: Path) -> None:
    """Remove the files of a closed run, and no others. The caller holds the lock of rank 0, so nobody goes on with it.

    Raises
    ------
    StoreError
        If run.json is not that of a run, a session was not closed, or a process writes there: nothing is removed then.
    """
    RunRecord.load(files.read_file(path / RUN_FILE), RUN_FILE)
    for name in (SESSIONS_DIR, SHARDS_DIR):
        if (path / name).is_symlink():
            raise StoreError(f"{path / name} is a link, and overwrite=True removes nothing outside of {path}")
    strange = [e.name for e in (path / SHARDS_DIR).iterdir() if not _is_shard(e.name)]
    if strange:
        raise StoreError(f"{path / SHARDS_DIR} holds {strange[0]!r}, which is no shard; move it away first")
    if not _is_closed(path / SESSIONS_DIR):
        raise StoreError(f"the run in {path} was not closed, so overwrite=True does not replace it; {LOST}")
    others = [lock_file(rank) for rank in range(1, MAX_RANKS)] + [f"{RESULTS[0]}.lock"]
    held = next((name for name in others if files.is_held(path / name)), None)
    if held is not None:
        raise StoreError(f"{path} is being written ({held} is held); wait for it, or stop it")
    # The order lets a removal that was cut short be made again: with run.json in its place this still is a run.
    _remove(path / SHARDS_DIR, _is_shard)
    _remove(path, lambda name: name in RESULTS or is_manifest_file(name) or parse_dropped_file(name) is not None)
    _remove(path / SESSIONS_DIR, lambda name: parse_session_file(name) is not None)
    _remove(path, lambda name: name in (PROBE_FILE, RUN_FILE))
    files.sync_directory(path)


def _is_shard(name: str) -> bool:
    return ShardName.parse(name) is not None


def _is_closed(sessions: Path) -> bool:
    """Whether every rank of the newest session was closed; older ones may have been killed, with the run resumed."""
    found = [(place[0], entry) for entry in sessions.iterdir() if (place := parse_session_file(entry.name))]
    newest = max((session for session, _ in found), default=0)
    last = [entry for session, entry in found if session == newest]
    return all(SessionRecord.load(files.read_file(entry), entry.name).closed for entry in last)


def _remove(directory: Path, ours: Callable[[str], bool]) -> None:
    """Remove the files whose names `ours` accepts, in the order of their names: run.json after probe.h5."""
    for entry in sorted(directory.iterdir()):
        if ours(entry.name):
            entry.unlink()


def _wait_for(found: Callable[[], int], join_seconds: float, otherwise: str) -> int:
    """Call `found` until its result is not 0, and return that; StoreError where none comes in time."""
    deadline = time.monotonic() + join_seconds
    while not (result := found()):
        if time.monotonic() > deadline:
            raise StoreError(otherwise)
        time.sleep(POLL_SECONDS)
    return result


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
