"""Making room for a run: the files of one that was closed are removed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from infoplane.core import files
from infoplane.core.errors import StoreError
from infoplane.store._records import RunRecord, SessionRecord
from infoplane.store.layout import (
    MAX_RANKS,
    PROBE_FILE,
    RUN_FILE,
    SESSIONS_DIR,
    SHARDS_DIR,
    ShardName,
    is_manifest_file,
    lock_file,
    parse_dropped_file,
    parse_session_file,
)

RESULTS = ("results.csv", "results.json")
"""Of the analysis of a run; they are about its activations alone."""

LOST = "to go on with it pass resume=True; to give it up delete the directory yourself"


def remove_run(path: Path) -> None:
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
    """Whether every rank of the newest session was closed; an older one may have been killed and gone on with."""
    found = [(place[0], entry) for entry in sessions.iterdir() if (place := parse_session_file(entry.name))]
    newest = max((session for session, _ in found), default=0)
    last = [entry for session, entry in found if session == newest]
    return all(SessionRecord.load(files.read_file(entry), entry.name).closed for entry in last)


def _remove(directory: Path, ours: Callable[[str], bool]) -> None:
    """Remove the files of these names in their order: run.json after probe.h5."""
    for entry in sorted(directory.iterdir()):
        if ours(entry.name):
            entry.unlink()
