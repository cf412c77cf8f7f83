"""Results on disk: a CSV under an exclusive lock, appended and synced task by task, and its JSON beside it."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from infoplane.core.files import Locked, PidLock, fingerprint, publish, sync_directory
from infoplane.core.records import Array
from infoplane.core.strict import load_object
from infoplane.results._csv import HEADER, Row, format_rows, parse_table, whole_lines, with_added_columns
from infoplane.results.names import placed, with_paths

MAX_META_BYTES = 256 << 20
"""Largest size of the JSON beside a table: far more than the settings of thousands of runs take."""


def csv_path(path: str | os.PathLike[str]) -> Path:
    """Return `path` itself, or the path of `results.csv` in it where it is a directory, that of a run."""
    path = Path(path)
    return path / "results.csv" if path.is_dir() else path


def meta_path(table: Path) -> Path:
    """Return the path of the JSON beside a table: `results.json` for `results.csv`."""
    return table.with_suffix(".json")


def write_meta(path: Path, meta: Mapping[str, Any]) -> None:
    """Write `meta` as strict JSON, replacing the file atomically; ValueError for NaN and infinities."""
    text = json.dumps(meta, indent=1, sort_keys=True, ensure_ascii=True, allow_nan=False)
    publish(path.parent, path.name, [text.encode() + b"\n"])


def read_meta(path: Path) -> dict[str, Any]:
    """Return the content of the JSON beside a table, {} where there is no such file.

    Raises
    ------
    ValueError
        The file is no JSON object.
    """
    try:
        data = _content(path, MAX_META_BYTES)
    except FileNotFoundError:
        return {}
    try:
        return load_object(data)
    except ValueError as error:
        raise ValueError(
            f"{path}: {error}; delete it, and analyse again for the settings and the losses that it told"
        ) from None


def _content(path: Path, limit: int | None = None) -> bytes:
    """Return the bytes of a file; ValueError for one of more than `limit` bytes, and for what is no regular file.

    To read a pipe could wait forever, and a device may have no end.
    """
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is not a regular file")
    if limit is not None and path.stat().st_size > limit:
        raise ValueError(f"{path} has {path.stat().st_size} bytes, at most {limit} expected; delete it")
    return path.read_bytes()


def check_digest(data: bytes, meta: Mapping[str, Any], path: Path) -> None:
    """Raise ValueError if `data`, the bytes of a table, were changed since its JSON was written.

    `meta` has the length and the digest of the bytes that the table had then. Rows appended later may follow these. A
    shorter table is no error: it was cut off, and an analysis computes the missing rows again.
    """
    sealed = meta.get("table")
    if not isinstance(sealed, Mapping):
        return
    size, expected = sealed.get("bytes"), sealed.get("blake2b")
    if isinstance(size, int) and (len(data) < size or fingerprint(data[:size]) == expected):
        return
    beside = meta_path(path).name
    raise ValueError(
        f"{path} was changed after it was written: its first {size!r:.20} bytes do not match the digest in {beside}; "
        f"delete both and analyse again, or read it as it is: delete {beside} alone, in Python verify=False"
    )


def read_files(path: Path, *, verify: bool = True) -> tuple[dict[str, Array], dict[str, Any]]:
    """Return the columns and the meta of a table on disk; the errors are those of `ResultTable.read`."""
    try:
        data = _content(path)
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, "no results table; analyse the run first", str(path)) from None
    meta = read_meta(meta_path(path))
    if verify:
        check_digest(data, meta, path)
    return parse_table(data, path), placed(meta, path)


def write_files(path: Path, rows: bytes, meta: Mapping[str, Any]) -> None:
    """Replace a table and its JSON, holding the lock of the table.

    The JSON gets the digest last: a process that is stopped in between leaves a JSON without one, not a wrong one.
    """
    plain = with_paths(meta, lambda run: os.path.relpath(run, path.parent))
    data = HEADER + rows
    with contextlib.ExitStack() as stack:
        stack.callback(lock_table(path).release)
        _replace(path, data, plain)
        write_meta(meta_path(path), {**plain, "table": {"bytes": len(data), "blake2b": fingerprint(data)}})


def _replace(path: Path, data: bytes, meta: Mapping[str, Any]) -> None:
    """Replace the table and write its JSON without a digest; the caller holds the lock.

    The JSON is written first, since the old digest would not fit the new rows.
    """
    write_meta(meta_path(path), {name: value for name, value in meta.items() if name != "table"})
    publish(path.parent, path.name, [data])


def _opened(path: Path) -> BinaryIO:
    """Open the file of a table for reading and writing, and return it; where there is none, an empty one is made."""
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666), "r+b")


class TableWriter(contextlib.AbstractContextManager["TableWriter"]):
    """Appends rows to one table as its only writer.

    Opening takes the lock, checks header and digest, and cuts off an incomplete last line; a table of an earlier
    release is replaced by one with the columns that it lacks. `columns` and `meta` hold what the table has then. When
    `append` returns, the rows are on the disk. Closing writes `meta` and the digest.

    Parameters
    ----------
    path : path of the CSV; made where it does not exist.

    Attributes
    ----------
    unsealed : bool
        The table has not the length that the JSON says: its last writer was killed, or the file was cut off, so that
        the last rows may be only a part of what was to be written together.

    Raises
    ------
    BlockingIOError
        Another process is writing this table.
    ValueError
        The file is no results table, or was altered.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Lock and check the table, cut off an incomplete last line, and add the columns that an old table lacks."""
        self.path = csv_path(path)
        with contextlib.ExitStack() as stack:
            stack.callback(lock_table(self.path).release)
            self._file = stack.enter_context(_opened(self.path))
            data = self._file.read()
            self.meta = read_meta(meta_path(self.path))
            kept = whole_lines(data)
            check_digest(data, self.meta, self.path)
            self.columns = parse_table(kept, self.path)
            fresh = with_added_columns(kept)
            if fresh and not fresh.startswith(HEADER):
                raise ValueError(
                    f"{self.path} has other columns or another order than this release writes; "
                    "move it away, or convert it with ResultTable.read(path).write(path)"
                )
            sealed = self.meta.get("table")
            self.unsealed = not isinstance(sealed, dict) or len(kept) != sealed.get("bytes")
            if len(fresh) > len(kept):  # the table was of an earlier release: replace it by the one with all columns
                self._file.close()
                _replace(self.path, fresh, self.meta)
                self._file = stack.enter_context(_opened(self.path))
            elif len(kept) < len(data):  # a torn last line
                self._file.truncate(len(kept))
            self._file.seek(len(fresh))
            self._hash = hashlib.blake2b(fresh, digest_size=16)
            self._size = len(fresh)
            if not fresh:
                self._write(HEADER)
                sync_directory(self.path.parent)
            # No error can occur any more: keep the lock and the file open until `close` releases them.
            self._open = stack.pop_all()

    def append(self, rows: Iterable[Row]) -> None:
        """Add rows at the end; they are synced to the disk on return."""
        if data := format_rows(rows):
            self._write(data)

    def _write(self, data: bytes) -> None:
        """Append bytes, and return when they are on the disk."""
        self._file.write(data)
        self._file.flush()
        os.fsync(self._file.fileno())
        # Counted only after success: the digest is to cover no piece that a failed write has left.
        self._hash.update(data)
        self._size += len(data)

    def close(self) -> None:
        """Write the JSON beside the table, with the digest, and release the lock; a second call does nothing."""
        if self._file.closed:
            return
        try:
            self.meta["table"] = {"bytes": self._size, "blake2b": self._hash.hexdigest()}
            write_meta(meta_path(self.path), self.meta)
        finally:
            self._open.close()

    def __exit__(self, *_: object) -> None:
        self.close()


def lock_table(path: Path) -> PidLock:
    """Take the lock of a table, a file beside it, and return it.

    BlockingIOError where another process writes the table; FileNotFoundError where the directory does not exist.
    """
    try:
        return PidLock(path.with_name(path.name + ".lock"))
    except Locked as held:
        text = f"{held.owner} is writing this results table; {held}"
        raise BlockingIOError(errno.EAGAIN, text, str(path)) from None
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, "no such directory", str(path.parent)) from None
