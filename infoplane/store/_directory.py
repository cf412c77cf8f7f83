"""Creating a run directory, joining it as a further rank, and continuing it in a new session."""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from infoplane.core import files
from infoplane.core.errors import StoreError
from infoplane.core.records import Probe
from infoplane.core.strict import canonical_json
from infoplane.core.warn import warn
from infoplane.store._ledger import Ledger
from infoplane.store._records import Manifest, ManifestEntry, RunRecord, SessionRecord, load_json, read_manifest
from infoplane.store._shard import check_probe, encode_probe, inputs_digest, probe_digest
from infoplane.store.layout import (
    MAX_SESSIONS,
    PROBE_FILE,
    RUN_FILE,
    SESSIONS_DIR,
    SHARDS_DIR,
    ShardName,
    lock_file,
    manifest_file,
    parse_session_file,
)
from infoplane.store.reader import ActivationStore

POLL_SECONDS = 0.05


def open_directory(
    path: Path,
    *,
    probe: Probe,
    settings: Mapping[str, Any],
    rank: int,
    world_size: int,
    resume: bool,
    session: int | None,
    may_differ: Collection[str],
    join_seconds: float,
) -> Ledger:
    """Lock the directory for this rank, then create the run or check that it is the same one."""
    check_probe(probe)
    settings = load_json(canonical_json(dict(settings), "settings"))  # tuples as lists, as they will be read
    found = probe_digest(probe, inputs_digest(probe))
    if rank > 0:
        _wait_for_run(path, join_seconds)
    else:
        path.mkdir(parents=True, exist_ok=True)
    lock = _lock(path, rank)
    try:
        for name in (SESSIONS_DIR, SHARDS_DIR):
            (path / name).mkdir(exist_ok=True)
        _sweep(path, rank)
        last_step = None
        if (path / RUN_FILE).exists():
            run = RunRecord.load(files.read_file(path / RUN_FILE), RUN_FILE)
            if rank == 0 and not resume:
                raise StoreError(
                    f"{path} already holds run {run.run_id} of {run.created}; pass resume=True to "
                    "continue it, or choose another directory"
                )
            _check_same(run, settings, found, may_differ)
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
    """The lock of one rank: every rank has one writer."""
    try:
        lock = files.PidLock(path / lock_file(rank), rank=rank)
    except files.Locked as held:
        raise StoreError(f"{path} is being written by {held.owner}; {held}") from None
    if lock.taken_over:
        warn(f"{path}: took over the lock of {lock.taken_over}, which has ended", RuntimeWarning)
    return lock


def _create(path: Path, probe: Probe, settings: dict[str, Any], found: str) -> RunRecord:
    if any((path / SHARDS_DIR).iterdir()):
        raise StoreError(f"{path} has shards but no {RUN_FILE}; choose another directory, or put the file back")
    record = RunRecord(
        run_id=uuid.uuid4().hex[:12],
        created=_now(),
        probe_digest=found,
        samples=probe.samples,
        settings=settings,
    )
    files.publish(path, PROBE_FILE, encode_probe(probe, record.run_id))
    files.sync_directory(path.parent)
    # Written last: a directory with run.json has everything that a reader needs.
    files.publish_bytes(path, RUN_FILE, record.dump(), replace=False)
    return record


def _check_same(record: RunRecord, settings: Mapping[str, Any], found: str, may_differ: Collection[str]) -> None:
    """The run on disk and the one that is to be recorded must agree; the first difference is named."""
    if record.probe_digest != found:
        raise StoreError(
            f"run {record.run_id} was recorded with another probe: digest {record.probe_digest} there, {found} now"
        )
    old = {k: v for k, v in record.settings.items() if k not in may_differ}
    new = {k: v for k, v in settings.items() if k not in may_differ}
    difference = _first_difference(old, new, "")
    if difference is not None:
        field, a, b = difference
        raise StoreError(
            f"run {record.run_id} was recorded with {field} = {a!r:.200}, now it is {b!r:.200}; "
            "use the old value or record into another directory"
        )


def _first_difference(old: Any, new: Any, field: str) -> tuple[str, Any, Any] | None:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(k for k in new if k not in old)]:
            found = _first_difference(old.get(key), new.get(key), f"{field}.{key}" if field else str(key))
            if found is not None:
                return found
        return None
    if type(old) is type(new) and old == new:
        return None
    return field, old, new


def _recover(path: Path, rank: int) -> int | None:
    """Last complete step; the manifest of this rank is rebuilt where it and the shards disagree."""
    store = ActivationStore(path)
    rebuild_manifest(store, rank)
    steps = store.steps()
    return steps[-1] if steps else None


def rebuild_manifest(store: ActivationStore, rank: int) -> int:
    """Write the manifest of one rank anew when lines are damaged or shards are not listed; lines added."""
    path = store.path / manifest_file(rank)
    old, rewrite = Manifest(), False
    if path.exists() or path.is_symlink():
        try:
            old = read_manifest(path)
        except StoreError:  # no regular file, or beyond all sizes: another one takes its place
            rewrite = True
    lines = list(old.lines.values())
    added = 0
    for shard in store.valid_shards():
        name = str(shard.name)
        if shard.name.rank != rank or name in old.lines:
            continue
        fd = files.open_regular(store.path / SHARDS_DIR / name)
        try:
            size, found = files.file_digest(fd)
        finally:
            os.close(fd)
        entry = ManifestEntry(
            name=name,
            size=size,
            xxh3_128=found,
            rank=rank,
            session=shard.name.session,
            steps=tuple(shard.step.tolist()),
        )
        lines.append(entry.line())
        added += 1
    if added or rewrite or not old.clean:
        files.publish_bytes(store.path, path.name, b"".join(line + b"\n" for line in lines))
    return added


def _sweep(path: Path, rank: int) -> None:
    """Remove what a dead writer of this rank left unfinished; the lock says that it is dead."""

    def dead(name: str, pid: int) -> bool:
        shard, session = ShardName.parse(name), parse_session_file(name)
        if shard is not None:
            return shard.rank == rank
        if session is not None:
            return session[1] == rank
        if name in (RUN_FILE, PROBE_FILE):
            return rank == 0
        if name == lock_file(rank):  # of another process that is about to find the lock taken
            return not files.alive(pid)
        return name == manifest_file(rank)

    for directory in (path, path / SESSIONS_DIR, path / SHARDS_DIR):
        files.remove_leftovers(directory, dead)


def _sessions(path: Path) -> dict[int, set[int]]:
    """Session number -> ranks that have a file in it."""
    out: dict[int, set[int]] = {}
    for directory in (SESSIONS_DIR, SHARDS_DIR):
        for entry in (path / directory).iterdir():
            place = parse_session_file(entry.name)
            shard = ShardName.parse(entry.name)
            if place is not None:
                out.setdefault(place[0], set()).add(place[1])
            elif shard is not None:
                out.setdefault(shard.session, set()).add(shard.rank)
    return out


def _number(path: Path, rank: int, session: int | None, join_seconds: float) -> int:
    """The number of this session: a new one for rank 0, that of rank 0 for the others."""
    if rank == 0:
        number = max(_sessions(path), default=0) + 1
    else:
        deadline = time.monotonic() + join_seconds
        while True:
            known = _sessions(path)
            number = max((s for s, ranks in known.items() if 0 in ranks), default=0)
            if session is not None:
                number = session if 0 in known.get(session, set()) else 0
            if number and rank not in known[number] and (session is not None or files.is_held(path / lock_file(0))):
                break
            if time.monotonic() > deadline:
                raise StoreError(
                    f"rank {rank} found no session of rank 0 to join in {path} within {join_seconds:g} s; "
                    "open the writer of rank 0 first"
                )
            time.sleep(POLL_SECONDS)
    if number > MAX_SESSIONS:
        raise StoreError(f"{path} has {MAX_SESSIONS} sessions already; record into another directory")
    return number


def _wait_for_run(path: Path, join_seconds: float) -> None:
    deadline = time.monotonic() + join_seconds
    while not (path / RUN_FILE).exists():
        if time.monotonic() > deadline:
            raise StoreError(f"no {RUN_FILE} in {path} after {join_seconds:g} s; open the writer of rank 0 first")
        time.sleep(POLL_SECONDS)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
