"""Files that appear whole or not at all, and files that are read without trusting their names."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from infoplane.core.errors import StoreError
from infoplane.store.layout import MAX_JSON_BYTES, MIB, parse_temporary, temporary_name

_PAGE = 1 << 16
_NO_DIRECTORY_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EBADF}


class NotDurable(OSError):
    """A file is in place and whole, but its directory could not be synced."""

    size = 0
    digest = ""


def _gather(pieces: Iterable[memoryview], block: int = MIB) -> Iterator[Any]:
    """Small pieces joined to blocks, large ones passed on as they are."""
    small: list[memoryview] = []
    size = 0
    for piece in pieces:
        if len(piece) >= block // 4:
            if small:
                yield b"".join(small)
                small, size = [], 0
            yield piece
            continue
        small.append(piece)
        size += len(piece)
        if size >= block:
            yield b"".join(small)
            small, size = [], 0
    if small:
        yield b"".join(small)


def write_all(fd: int, data: Any) -> None:
    view = memoryview(data).cast("B")
    while len(view):
        n = os.write(fd, view)
        if n <= 0:
            raise OSError(errno.EIO, "write accepted no bytes")
        view = view[n:]


def sync_directory(directory: Path) -> None:
    """Make names durable. File systems that cannot sync a directory are left alone."""
    try:
        fd = os.open(directory, os.O_RDONLY)
    except OSError as error:
        raise NotDurable(error.errno, f"cannot open the directory to sync it: {directory}") from error
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in _NO_DIRECTORY_SYNC:
            raise NotDurable(error.errno, f"cannot sync the directory {directory}") from error
    finally:
        os.close(fd)


def publish(directory: Path, name: str, pieces: Iterable[memoryview], *, replace: bool = True) -> tuple[int, str]:
    """Write a file under a temporary name, sync it, then give it its name; (bytes, XXH3-128).

    A failure before the name is given removes the temporary file and leaves everything as it was. With
    `replace=False` an existing file of that name is a FileExistsError. Raises NotDurable when only the
    last step, syncing the directory, failed: the file is there and whole.
    """
    temporary, final = directory / temporary_name(name, os.getpid()), directory / name
    state = xxhash.xxh3_128()
    size = 0
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
    try:
        fd = os.open(temporary, flags, 0o666)
    except FileExistsError:  # left by a dead process that had our number, as in a container
        temporary.unlink()
        fd = os.open(temporary, flags, 0o666)
    try:
        try:
            for block in _gather(pieces):
                write_all(fd, block)
                state.update(block)
                size += len(block)
            os.fsync(fd)
        finally:
            os.close(fd)
        if replace:
            os.replace(temporary, final)  # noqa: PTH105 (one system call, seen by the fault tests)
        else:
            _link(temporary, final)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    try:
        sync_directory(directory)
    except NotDurable as error:
        error.size, error.digest = size, state.hexdigest()
        raise
    return size, state.hexdigest()


def _link(temporary: Path, final: Path) -> None:
    """Give a file its name only if the name is free."""
    try:
        os.link(temporary, final)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS):
            raise
        if final.exists():  # a file system without hard links
            raise FileExistsError(errno.EEXIST, "file exists", str(final)) from error
        os.replace(temporary, final)  # noqa: PTH105
        return
    temporary.unlink()


def touch(path: Path) -> None:
    """An empty file, unless it is there already."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666))
    sync_directory(path.parent)


def publish_bytes(directory: Path, name: str, data: bytes, *, replace: bool = True) -> tuple[int, str]:
    return publish(directory, name, [memoryview(data)], replace=replace)


class Journal:
    """An append-only text file whose lines are on disk before `append` returns.

    A line that could not be written whole is cut off again; where even that fails, the next line starts
    on a line of its own.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._torn = path.exists() and last_byte(path) not in (b"", b"\n")

    def append(self, lines: Iterable[bytes]) -> None:
        data = b"".join(line + b"\n" for line in lines)
        fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0), 0o666)
        try:
            size = os.fstat(fd).st_size
            try:
                write_all(fd, b"\n" + data if self._torn else data)
                os.fsync(fd)
            except OSError:
                self._torn = True
                with contextlib.suppress(OSError):
                    os.ftruncate(fd, size)
                    self._torn = False
                raise
            self._torn = False
        finally:
            os.close(fd)


def open_regular(path: Path) -> int:
    """A descriptor of a regular file, never through a symbolic link and never waiting on a pipe."""
    flags = os.O_RDONLY
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC"):
        flags |= getattr(os, name, 0)
    try:
        fd = os.open(path, flags)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise StoreError("a symbolic link, not a regular file") from error
        raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise StoreError("not a regular file")
    return fd


def last_byte(path: Path) -> bytes:
    """Of a regular file; nothing of an empty one."""
    fd = open_regular(path)
    try:
        return os.pread(fd, 1, max(os.fstat(fd).st_size - 1, 0))
    finally:
        os.close(fd)


def byte_view(array: npt.NDArray[Any]) -> memoryview:
    """The memory of a contiguous array, writable where the array is."""
    return memoryview(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]


def read_into(fd: int, target: memoryview, offset: int) -> None:
    """Fill `target` from the file; StoreError where the file ends before."""
    while len(target):
        n = os.preadv(fd, [target], offset)
        if n == 0:
            raise StoreError(f"the file ends {len(target)} bytes early")
        target, offset = target[n:], offset + n


def read_file(path: Path, limit: int = MAX_JSON_BYTES) -> bytes:
    fd = open_regular(path)
    try:
        size = os.fstat(fd).st_size
        if size > limit:
            raise StoreError(f"{size} bytes, at most {limit} expected")
        out = bytearray(size)
        read_into(fd, memoryview(out), 0)
        return bytes(out)
    finally:
        os.close(fd)


class PagedFile:
    """Bytes of an open file, fetched in pages and kept: what was checked is what is used."""

    def __init__(self, fd: int, limit: int) -> None:
        self.size = os.fstat(fd).st_size
        self._fd, self._limit = fd, limit
        self._pages: dict[int, bytes] = {}

    def read(self, offset: int, n: int) -> bytes:
        stop = min(offset + n, self.size)
        if offset >= stop:
            return b""
        first, last = offset // _PAGE, (stop - 1) // _PAGE
        parts = [self._page(page) for page in range(first, last + 1)]
        joined = parts[0] if len(parts) == 1 else b"".join(parts)
        return joined[offset - first * _PAGE : stop - first * _PAGE]

    def _page(self, page: int) -> bytes:
        if page not in self._pages:
            if (len(self._pages) + 1) * _PAGE > self._limit:
                raise StoreError(f"its index needs more than {self._limit} bytes")
            out = bytearray(min(_PAGE, self.size - page * _PAGE))
            read_into(self._fd, memoryview(out), page * _PAGE)
            self._pages[page] = bytes(out)
        return self._pages[page]


def file_digest(fd: int, offset: int = 0, length: int | None = None) -> tuple[int, str]:
    """(bytes, XXH3-128) of an open file, or of `length` bytes from `offset`."""
    state = xxhash.xxh3_128()
    view = memoryview(bytearray(4 * MIB if length is None else min(length, 4 * MIB)))
    size = 0
    while length is None or size < length:
        room = len(view) if length is None else min(len(view), length - size)
        n = os.preadv(fd, [view[:room]], offset + size)
        if n == 0:
            break
        state.update(view[:n])
        size += n
    return size, state.hexdigest()


def remove_leftovers(directory: Path, dead: Callable[[str, int], bool]) -> list[str]:
    """Remove temporary files; `dead(final name, pid)` says which nobody will finish."""
    removed = []
    for entry in sorted(directory.iterdir()):
        found = parse_temporary(entry.name)
        if found is not None and dead(*found):
            entry.unlink(missing_ok=True)
            removed.append(entry.name)
    return removed
