"""What a writer does in a run directory besides shards: make, replace, join or continue a run, keep its records."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
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
"""Files that an analysis leaves in the run directory. They describe its activations, and are removed with them."""

LOST = "to go on with it pass resume=True; to give it up delete the directory yourself"
"""Advice about a run that was not closed, which overwrite=True does not replace."""


class Ledger:
    """Keeps the manifest and the session's file of one writer up to date.

    What a write error kept off the disk stays in memory and is written later. Shards can be read without it.

    Attributes
    ----------
    dropped : dict of int to str
        Steps that could not be written, with the reason.
    error : OSError, MemoryError or None
        The last write error, for StoreWriter to raise. One after which a shard is tried again is not kept.
    uncertain : bool
        A published file may not survive a power failure: its directory could not be synced.
    unlisted : list of bytes
        Manifest lines that are not on the disk yet.
    unsaved : bool
        The session's file on the disk is out of date.
    mark : str
        Name of the empty file that says which steps were dropped while the session's file cannot be written; or "".
    """

    def __init__(self, path: Path, lock: files.PidLock, record: SessionRecord) -> None:
        """Write the session's file, of which `record` is the content; the writer releases `lock` when it is closed."""
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
        """Write the session's file; without `replace`, raise FileExistsError where another process wrote it already."""
        name = session_file(self.record.session, self.record.rank)
        files.publish(self.path / SESSIONS_DIR, name, [self.record.dump()], replace=replace)

    def drop(self, steps: Iterable[int], error: BaseException) -> None:
        """Note in memory that these steps are lost, and the error that lost them; `save` writes that to the disk."""
        # A new dictionary: another thread may be reading the old one.
        self.dropped = self.dropped | {step: f"{type(error).__name__}: {error}" for step in steps}
        self.unsaved = True

    def annotate(self, notes: Mapping[str, Any]) -> None:
        """Add notes to the session's file and write it, now or when writing works again."""
        with self._saving:
            # By way of JSON: what cannot be written is refused here, and tuples become lists, as they will be read.
            self.record.notes = self.record.notes | load_json(canonical_json(dict(notes), "notes"))
            self.unsaved = True
        self.save()

    def close(self, stalled_seconds: float) -> None:
        """Note that the session was closed and how long training waited for the disk; write what is not yet written."""
        self.record.closed = True
        self.record.stalled_seconds = round(stalled_seconds, 3)
        self.unsaved = True
        self.list_shards()

    def list_shards(self) -> None:
        """Append the lines in `unlisted` to the manifest, and write the session's file if it changed."""
        try:
            if self.unlisted:
                self._journal.append(self.unlisted)
                self.unlisted = []
        except OSError as error:  # the lines stay in `unlisted`, for the next call
            self.error = error
        self.save()

    def save(self) -> None:
        """Write the session's file if it changed; if that fails, make an empty file named after the lost steps."""
        with self._saving:
            if not self.unsaved:
                return
            self.record.dropped = [{"step": s, "reason": why} for s, why in self.dropped.items()]
            mark = ""
            try:
                self._write()
                self.unsaved = False
            except OSError as error:
                self.error = error
                if self.dropped:  # a full disk still takes an empty file, whose name says which steps are lost
                    steps = min(self.dropped), max(self.dropped)
                    mark = dropped_file(self.record.session, self.record.rank, *steps)
            self._set_mark(mark)

    def _set_mark(self, name: str) -> None:
        """Make an empty file of this name and remove the one made before; with "" only remove that."""
        if name == self.mark:
            return
        with contextlib.suppress(OSError):
            if name:
                files.touch(self.path / name)
            old, self.mark = self.mark, name
            if old:
                (self.path / old).unlink()

    def losses(self) -> list[str]:
        """Return a sentence for a warning on each thing that is still not written when the session ends."""
        out = []
        if self.uncertain:
            out.append(f"what was written may not survive a power failure ({self.error})")
        if self.unlisted:
            advice = "opening the run with resume=True makes up for it"
            out.append(f"the shards are whole, but not the manifest ({self.error}); {advice}")
        if self.unsaved:
            out.append(f"the session's file could not be written ({self.error}): {self._cost_of_unsaved()}")
        return out

    def _cost_of_unsaved(self) -> str:
        """Return words for a warning: what a reader of the run will not know without the session's file."""
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
    """Begin a session of one rank: lock the directory, make, replace or check its run, and write the session's file.

    Return the ledger that keeps that file. The parameters are those of StoreWriter.
    """
    check_probe(probe)
    settings = load_json(canonical_json(dict(settings), "settings"))  # tuples as lists, as they will be read
    digest = probe_digest(probe, inputs_digest(probe))
    if rank > 0:
        late = f"no {RUN_FILE} in {path} after {join_seconds:g} s; open the writer of rank 0 first"
        _wait_for((path / RUN_FILE).exists, join_seconds, late)
    else:
        path.mkdir(parents=True, exist_ok=True)
    lock = _lock(path, rank)
    try:
        for name in (SESSIONS_DIR, SHARDS_DIR):
            (path / name).mkdir(exist_ok=True)
        _sweep(path, rank)  # after the lock is taken, so that no file of a living writer is removed
        if overwrite and rank == 0 and (path / RUN_FILE).exists():
            _remove_run(path)
        last = None  # the last step of the run that is continued
        if (path / RUN_FILE).exists():
            run = RunRecord.load(files.read_file(path / RUN_FILE), RUN_FILE)
            if rank == 0 and not resume:
                advice = "pass resume=True to continue it, overwrite=True to replace it, or choose another directory"
                raise StoreError(f"{path} already holds a run of {run.created}; {advice}")
            _check_same(path, run, settings, digest, may_differ)
            if resume:
                store = ActivationStore(path)
                _rebuild_manifest(store, rank)
                last = max(store.steps(), default=None)
        else:
            run = _create(path, probe, settings, digest)
        number = _session_number(path, rank, session, join_seconds)
        record = SessionRecord(
            run_id=run.run_id, session=number, rank=rank, world_size=world_size, resumed_from=last, settings=settings
        )
        return Ledger(path, lock, record)
    except BaseException:
        lock.release()
        raise


def _lock(path: Path, rank: int) -> files.PidLock:
    """Take the lock of one rank, and warn where a dead process left it; StoreError where a living process holds it."""
    try:
        lock = files.PidLock(path / lock_file(rank), rank=rank)
    except files.Locked as held:
        raise StoreError(f"{path} is being written by {held.owner}; {held}") from None
    if lock.taken_over:
        warn(f"{path}: took over the lock of {lock.taken_over}, which has ended", RuntimeWarning)
    return lock


def _create(path: Path, probe: Probe, settings: dict[str, Any], digest: str) -> RunRecord:
    """Write probe.h5 and then run.json of a new run, and return its record; StoreError where there are shards."""
    if any((path / SHARDS_DIR).iterdir()):
        raise StoreError(f"{path} has shards but no {RUN_FILE}; choose another directory, or put the file back")
    version = version_of(probe)
    record = RunRecord(format_version=version, probe_digest=digest, samples=probe.samples, settings=settings)
    files.publish(path, PROBE_FILE, encode_probe(probe, record.run_id))
    files.sync_directory(path.parent)
    # Written last: a directory with run.json has everything that a reader needs.
    files.publish(path, RUN_FILE, [record.dump()], replace=False)
    return record


def _check_same(
    path: Path, record: RunRecord, settings: Mapping[str, Any], digest: str, may_differ: Collection[str]
) -> None:
    """Raise StoreError if the run on disk has another probe, or a setting that differs and is not in `may_differ`."""
    if record.probe_digest != digest:
        raise StoreError(f"{path} was recorded with another probe: digest {record.probe_digest} there, {digest} now")
    old, new = ({n: v for n, v in s.items() if n not in may_differ} for s in (record.settings, settings))
    for field, before, now in _differences(old, new):  # raises for the first one
        advice = "use the old value or record into another directory"
        raise StoreError(f"{path} was recorded with {field} = {before!r:.200}, now it is {now!r:.200}; {advice}")


def _differences(old: Any, new: Any, field: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield (field, old value, new value) wherever two JSON values differ.

    A field inside another one is named `outer.inner`. One that is missing counts as None.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        for key in old | new:
            yield from _differences(old.get(key), new.get(key), f"{field}.{key}" if field else str(key))
    elif type(old) is not type(new) or old != new:  # True == 1, but they are different settings
        yield field, old, new


def _rebuild_manifest(store: ActivationStore, rank: int) -> None:
    """Write the manifest of one rank anew if lines of it are damaged, or shards of that rank are not listed."""
    path, old = store.path / manifest_file(rank), Manifest()
    if path.exists() or path.is_symlink():
        try:
            old = read_manifest(path)
        except StoreError:  # not a regular file, or too large: the new manifest takes its place
            old.clean = False
    unlisted = [s for s in store.valid_shards() if s.name.rank == rank and str(s.name) not in old.lines]
    lines = [*old.lines.values(), *(_line(store.path, shard) for shard in unlisted)]
    if unlisted or not old.clean:
        files.publish(store.path, path.name, [b"".join(line + b"\n" for line in lines)])


def _line(path: Path, shard: Shard) -> bytes:
    """Return the manifest's line about a shard, with the size and digest of the file as it is now."""
    name, rank, session, steps = str(shard.name), shard.name.rank, shard.name.session, tuple(shard.step.tolist())
    with files.opened(path / SHARDS_DIR / name) as fd:
        size, digest = files.file_digest(fd)
    return ManifestEntry(name=name, size=size, xxh3_128=digest, rank=rank, session=session, steps=steps).line()


def _sweep(path: Path, rank: int) -> None:
    """Remove temporary files that earlier writers of this rank left. The caller holds its lock, so they have ended."""

    def dead(name: str, pid: int) -> bool:
        """Whether process `pid`, whose temporary file was to become `name`, was a writer of this rank and has ended."""
        if (writer := _writer_of(name)) is not None:
            return writer[1] == rank
        if name in (RUN_FILE, PROBE_FILE):  # which rank 0 writes
            return rank == 0
        if name == lock_file(rank):  # a living process may be trying to take the lock right now
            return not files.alive(pid)
        return name == manifest_file(rank)

    for directory in (path, path / SESSIONS_DIR, path / SHARDS_DIR):
        files.remove_leftovers(directory, dead)


def _writer_of(name: str) -> tuple[int, int] | None:
    """Return (session, rank) of the process that wrote a shard or a session's file, from its name; None for others."""
    shard = ShardName.parse(name)
    return parse_session_file(name) if shard is None else (shard.session, shard.rank)


def _ranks_by_session(path: Path) -> dict[int, set[int]]:
    """Return, for the number of each session, the ranks that have written a file in it."""
    ranks: dict[int, set[int]] = {}
    entries = itertools.chain((path / SESSIONS_DIR).iterdir(), (path / SHARDS_DIR).iterdir())
    for session, rank in filter(None, (_writer_of(entry.name) for entry in entries)):
        ranks.setdefault(session, set()).add(rank)
    return ranks


def _session_number(path: Path, rank: int, told: int | None, join_seconds: float) -> int:
    """Return the number of the session that begins.

    For rank 0 it is a new one. Any other rank joins a session of rank 0: number `told`, or the newest where it is None.
    It waits for that session; StoreError after `join_seconds`, or where there are too many sessions.
    """

    def joinable() -> int:
        """Return the session of rank 0 that this rank can join; 0 where there is none yet."""
        ranks = _ranks_by_session(path)
        newest = max((number for number in ranks if 0 in ranks[number]), default=0)
        number = newest if told is None else told
        if 0 not in ranks.get(number, ()) or rank in ranks[number]:
            return 0
        # The newest session may have ended, so it counts only while rank 0 holds its lock; one told of always counts.
        return number if told is not None or files.is_held(path / lock_file(0)) else 0

    late = f"rank {rank} found no session of rank 0 to join in {path} within {join_seconds:g} s; start rank 0 first"
    number = max(_ranks_by_session(path), default=0) + 1 if rank == 0 else _wait_for(joinable, join_seconds, late)
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
    strange = [entry.name for entry in (path / SHARDS_DIR).iterdir() if ShardName.parse(entry.name) is None]
    if strange:
        raise StoreError(f"{path / SHARDS_DIR} holds {strange[0]!r}, which is no shard; move it away first")
    if not _is_closed(path / SESSIONS_DIR):
        raise StoreError(f"the run in {path} was not closed, so overwrite=True does not replace it; {LOST}")
    others = [lock_file(rank) for rank in range(1, MAX_RANKS)] + [f"{RESULTS[0]}.lock"]
    held = next((name for name in others if files.is_held(path / name)), None)
    if held is not None:
        raise StoreError(f"{path} is being written ({held} is held); wait for it, or stop it")
    # run.json is removed last: while it is there, the directory is a run, and a removal that was cut short can be
    # made again.
    _remove(path / SHARDS_DIR, ShardName.parse)
    _remove(path, lambda name: name in RESULTS or is_manifest_file(name) or parse_dropped_file(name))
    _remove(path / SESSIONS_DIR, parse_session_file)
    _remove(path, lambda name: name in (PROBE_FILE, RUN_FILE))
    files.sync_directory(path)


def _is_closed(sessions: Path) -> bool:
    """Whether every rank of the newest session was closed.

    `sessions` is the folder of the sessions' files. Older sessions may have been killed before the run was resumed.
    """
    found = [(parsed[0], entry) for entry in sessions.iterdir() if (parsed := parse_session_file(entry.name))]
    newest = max((session for session, _ in found), default=0)
    last = [entry for session, entry in found if session == newest]
    return all(SessionRecord.load(files.read_file(entry), entry.name).closed for entry in last)


def _remove(directory: Path, is_ours: Callable[[str], object]) -> None:
    """Remove the files for whose names `is_ours` is true, in the order of their names: run.json after probe.h5."""
    for entry in sorted(directory.iterdir()):
        if is_ours(entry.name):
            entry.unlink()


def _wait_for(find: Callable[[], int], seconds: float, message: str) -> int:
    """Call `find` again and again until its result is true; return that; StoreError with `message` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (result := find()):
        if time.monotonic() > deadline:
            raise StoreError(message)
        time.sleep(POLL_SECONDS)
    return result
