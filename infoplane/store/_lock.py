"""One writer for each rank of a run: a lock file with the owner's host and process."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from pathlib import Path
from typing import Any

from infoplane.core.errors import StoreError
from infoplane.core.warn import warn
from infoplane.store import _files
from infoplane.store._records import dump_json, load_json
from infoplane.store.layout import lock_file


def process_start(pid: int) -> int | None:
    """Start of a process in clock ticks since boot, which tells a reused pid; None where unknown."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return None


def alive(pid: int, started: int | None = None) -> bool:
    """Whether a process of this host runs (and, where known, is the one that started then)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    now = process_start(pid)
    return started is None or now is None or started == now


class RankLock:
    """Held from construction to `release`. Raises StoreError when another process holds it."""

    def __init__(self, directory: Path, rank: int) -> None:
        self.path = directory / lock_file(rank)
        self.rank = rank
        self._pid = os.getpid()
        self._host = socket.gethostname()
        self._content = dump_json(
            {"host": self._host, "pid": self._pid, "started": process_start(self._pid), "rank": rank}
        )
        try:
            try:
                self._create()
            except FileExistsError:
                self._take_over()
                self._create()
        except (FileExistsError, FileNotFoundError):
            raise StoreError(f"{self.path} was taken by another process at the same moment") from None

    def _create(self) -> None:
        with contextlib.suppress(_files.NotDurable):  # a lock need not outlive a power failure
            _files.publish_bytes(self.path.parent, self.path.name, self._content, replace=False)

    def _take_over(self) -> None:
        """Move a dead owner's lock aside. What was moved is looked at again: it may be a new owner's."""
        content = self._read(self.path)
        if content is None:
            return
        self._refuse_living(content)
        aside = self.path.with_name(f".{self.path.name}.{self._pid}.tmp")
        try:
            self.path.rename(aside)
        except FileNotFoundError:
            return
        if self._read(aside) != content:
            with contextlib.suppress(FileExistsError):
                os.link(aside, self.path)
            aside.unlink(missing_ok=True)
            raise StoreError(f"{self.path} was taken by another process at the same moment")
        aside.unlink(missing_ok=True)
        owner = _owner(content)
        warn(f"{self.path.parent}: took over the lock of process {owner.get('pid')}, which has ended", RuntimeWarning)

    def _refuse_living(self, content: bytes) -> None:
        owner = _owner(content)
        pid, host, started = owner.get("pid"), owner.get("host"), owner.get("started")
        if not isinstance(pid, int) or pid < 1 or not isinstance(host, str):
            return  # cut short by a power failure
        if host != self._host:
            raise StoreError(
                f"{self.path.parent} is being written by process {pid} on host {host}; "
                f"if that process has ended, remove {self.path.name} and try again"
            )
        if pid == self._pid:
            raise StoreError(
                f"{self.path.parent} is being written by another writer of this process ({pid}); close it first"
            )
        if alive(pid, started if isinstance(started, int) else None):
            raise StoreError(
                f"{self.path.parent} is being written by process {pid}; "
                "wait for it, stop it, or choose another directory"
            )

    @staticmethod
    def _read(path: Path) -> bytes | None:
        try:
            return _files.read_file(path, 1 << 16)
        except FileNotFoundError:
            return None

    def release(self) -> None:
        """Remove the lock file if it is still ours."""
        if os.getpid() == self._pid and self._read(self.path) == self._content:
            self.path.unlink(missing_ok=True)


def _owner(content: bytes) -> dict[str, Any]:
    try:
        return load_json(content)
    except (StoreError, json.JSONDecodeError):
        return {}


def holder(directory: Path, rank: int) -> bool:
    """Whether some living process, or one of another host, holds the lock of this rank."""
    try:
        owner = _owner(_files.read_file(directory / lock_file(rank), 1 << 16))
    except (OSError, StoreError):
        return False
    pid, started = owner.get("pid"), owner.get("started")
    if not isinstance(pid, int) or pid < 1:
        return False
    if owner.get("host") != socket.gethostname():
        return True
    return alive(pid, started if isinstance(started, int) else None)
