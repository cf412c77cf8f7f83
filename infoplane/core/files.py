"""Files that appear whole or not at all, have one writer at a time, and are read without trusting their names."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import socket
import stat
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import xxhash

from infoplane.core.errors import StoreError
from infoplane.core.strict import canonical_json, load_object

MIB = 1 << 20
MAX_JSON_BYTES = 64 * MIB
_PAGE = 1 << 16  # bytes that are read at once of an index; a lock file has fewer
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL  # fails where the file is there already
# What file systems answer that cannot sync a directory, and those that have no hard links.
_NO_DIRECTORY_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EBADF}
_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS}
# .NAME.PID.tmp
_TEMPORARY = re.compile(r"\.(.+)\.(\d{1,10})\.tmp", re.ASCII | re.DOTALL)


def digest(*buffers: Any) -> bytes:
    """Return the XXH3-128 of the buffers one after the other, 16 bytes, most significant first."""
    state = xxhash.xxh3_128()
    for buffer in buffers:
        state.update(buffer)
    return state.digest()


def fingerprint(*buffers: Any, method: str = "blake2b") -> str:
    """Return a digest of the buffers one after the other, 32 hexadecimal digits, as results tables hold them."""
    # Tables that were written with either method are in use, and rows are found by these digits: both must stay.
    state = hashlib.sha256() if method == "sha256" else hashlib.blake2b(digest_size=16)
    for buffer in buffers:
        state.update(buffer)
    return state.hexdigest()[:32]


def temporary_name(name: str, pid: int) -> str:
    """Return the name under which a process writes a file before it is whole."""
    return f".{name}.{pid}.tmp"


def parse_temporary(name: str) -> tuple[str, int] | None:
    """Return (final name, pid) from the name of a temporary file; None for other names."""
    match = _TEMPORARY.fullmatch(name)
    return None if match is None else (match.group(1), int(match.group(2)))


class NotDurable(OSError):
    """A file is in place and whole, but its directory could not be synced."""

    # Size and digest of the file, as `publish` would have returned them.
    size = 0
    digest = ""


def _gather(pieces: Iterable[Any], block: int = MIB) -> Iterator[Any]:
    """Yield the bytes of `pieces` in blocks of about `block` bytes: small pieces joined, large ones as they are."""
    small: list[Any] = []
    size = 0
    for piece in pieces:
        large = len(piece) >= block // 4  # joining copies, which costs more than one write saves
        if small and (large or size >= block):
            yield b"".join(small)
            small, size = [], 0
        if large:
            yield piece
        else:
            small.append(piece)
            size += len(piece)
    if small:
        yield b"".join(small)


def write_all(fd: int, data: Any) -> None:
    """Write every byte of `data`, however few the system takes at a time."""
    view = memoryview(data).cast("B")
    while len(view):
        n = os.write(fd, view)
        if n <= 0:
            raise OSError(errno.EIO, "write accepted no bytes")
        view = view[n:]


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable; NotDurable where that fails, unless its file system never can do it."""
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


def publish(
    directory: Path, name: str, pieces: Iterable[Any], *, replace: bool = True, sync: bool = True
) -> tuple[int, str]:
    """Write a file under a temporary name, sync it, then give it its name; return (bytes, XXH3-128).

    A failure before the name is given removes the temporary file and leaves everything as it was. With
    `replace=False` an existing file of that name is a FileExistsError. Raises NotDurable when only the
    last step, syncing the directory, failed: the file is there and whole. `sync=False` is for what
    need not outlive a power failure.
    """
    temporary, final = directory / temporary_name(name, os.getpid()), directory / name
    state = xxhash.xxh3_128()
    size = 0
    try:
        fd = os.open(temporary, _NEW, 0o666)
    except FileExistsError:  # left by a dead process with the same pid as ours, as happens in containers
        temporary.unlink()
        fd = os.open(temporary, _NEW, 0o666)
    try:
        try:
            for block in _gather(pieces):
                write_all(fd, block)
                state.update(block)
                size += len(block)
            if sync:
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
        if sync:
            sync_directory(directory)
    except NotDurable as error:
        error.size, error.digest = size, state.hexdigest()
        raise
    return size, state.hexdigest()


def _link(temporary: Path, final: Path) -> None:
    """Give a temporary file its final name; FileExistsError where that name is taken."""
    try:
        os.link(temporary, final)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        # A file system without hard links: to look and to rename are two steps, and another process may come between.
        if final.exists():
            raise FileExistsError(errno.EEXIST, "file exists", str(final)) from error
        os.replace(temporary, final)  # noqa: PTH105
        return
    temporary.unlink()


def touch(path: Path) -> None:
    """Make an empty file, unless it is there already, and sync its directory."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o666))
    sync_directory(path.parent)


class Journal:
    """An append-only text file whose lines are on disk before `append` returns.

    A line that could not be written whole is cut off again; where even that fails, the next line starts
    on a line of its own.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # Whether the file ends in the middle of a line, as after a crash.
        self._torn = path.exists() and last_byte(path) not in (b"", b"\n")

    def append(self, lines: Iterable[bytes]) -> None:
        """Append lines and sync them; after a failed write the file is cut back to what it was."""
        data = b"".join(line + b"\n" for line in lines)
        fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            size = os.fstat(fd).st_size
            try:
                # After a torn line a new one begins, so that only the torn one is lost.
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


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    """Open a regular file for a block, as its descriptor; StoreError for a symbolic link, a pipe or the like."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        fd = os.open(path, flags)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise StoreError("a symbolic link, not a regular file") from error
        raise
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise StoreError("not a regular file")
        yield fd
    finally:
        os.close(fd)


def last_byte(path: Path) -> bytes:
    """Return the last byte of a regular file; b"" where it is empty."""
    with opened(path) as fd:
        return os.pread(fd, 1, max(os.fstat(fd).st_size - 1, 0))


def byte_view(array: npt.NDArray[Any]) -> memoryview:
    """Return the memory of a contiguous array, writable where the array is."""
    return memoryview(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]


def read_into(fd: int, target: memoryview, offset: int) -> None:
    """Fill `target` from the file; StoreError where the file ends before."""
    while len(target):
        n = os.preadv(fd, [target], offset)
        if n == 0:
            raise StoreError(f"the file ends {len(target)} bytes early")
        target, offset = target[n:], offset + n


def read_file(path: Path, limit: int = MAX_JSON_BYTES) -> bytes:
    """Return the bytes of a regular file; StoreError where there are more than `limit`."""
    with opened(path) as fd:
        size = os.fstat(fd).st_size
        if size > limit:
            raise StoreError(f"{size} bytes, at most {limit} expected")
        out = bytearray(size)
        read_into(fd, memoryview(out), 0)
        return bytes(out)


class PagedFile:
    """Bytes of an open file, read in pages and kept, at most `limit` in all: what was checked is never read anew."""

    def __init__(self, fd: int, limit: int) -> None:
        """Read from the open file `fd`, which the caller closes."""
        self.size = os.fstat(fd).st_size
        self._fd, self._limit = fd, limit
        self._pages: dict[int, bytes] = {}

    def read(self, offset: int, n: int) -> bytes:
        """Return `n` bytes from `offset` on, fewer where the file ends before."""
        stop = min(offset + n, self.size)
        first, last = offset // _PAGE, (stop - 1) // _PAGE
        joined = b"".join([self._page(page) for page in range(first, last + 1)])
        return joined[offset - first * _PAGE : stop - first * _PAGE]

    def _page(self, page: int) -> bytes:
        """Return the bytes of page number `page`, read when first asked for; StoreError beyond `limit` bytes in all."""
        if page not in self._pages:
            if (len(self._pages) + 1) * _PAGE > self._limit:
                raise StoreError(f"its index needs more than {self._limit} bytes")
            out = bytearray(min(_PAGE, self.size - page * _PAGE))
            read_into(self._fd, memoryview(out), page * _PAGE)
            self._pages[page] = bytes(out)
        return self._pages[page]


def file_digest(fd: int, offset: int = 0, length: int = sys.maxsize) -> tuple[int, str]:
    """Return (bytes, XXH3-128) of an open file from `offset` on, of at most `length` bytes."""
    state, size = xxhash.xxh3_128(), 0
    view = memoryview(bytearray(min(length, 4 * MIB)))
    while size < length and (n := os.preadv(fd, [view[: length - size]], offset + size)):
        state.update(view[:n])
        size += n
    return size, state.hexdigest()


def remove_leftovers(directory: Path, dead: Callable[[str, int], bool]) -> None:
    """Remove the temporary files of which `dead(final name, pid)` says that nobody will finish them."""
    for entry in list(directory.iterdir()):
        found = parse_temporary(entry.name)
        if found is not None and dead(*found):
            entry.unlink(missing_ok=True)


def process_start(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot, to tell processes of one pid apart; None if unknown."""
    try:
        # Field 22 of proc(5). The name of the program, field 2, may hold spaces and ends with the last bracket.
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return None


def alive(pid: int, started: int | None = None) -> bool:
    """Whether a process of this host runs and, with `started` (see `process_start`), is the one that started then."""
    try:
        os.kill(pid, 0)  # signal 0 changes nothing: it asks whether there is such a process
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it runs, for another user
    now = process_start(pid)
    return started is None or now is None or started == now


class Locked(Exception):
    """A lock is held by `owner`; the message says what can be done about it."""

    def __init__(self, owner: str, advice: str) -> None:
        super().__init__(advice)
        self.owner = owner


class PidLock:
    """An exclusive lock file with the host and the process of its owner, held from construction to `release`.

    The file of a process of this host that has ended is taken over; `taken_over` then says whose it was, and is ""
    otherwise. `more` are further fields of the file, for people who look into it. No `flock`: some file systems do not
    know it, and over the network some grant it twice.

    Raises
    ------
    Locked
        Another process, or another lock of this one, holds it.
    """

    _starting = threading.Lock()
    # Weak references: a lock that nobody holds any more, after an interrupt, is collected and drops out of here. Its
    # file can then be taken over.
    _of_this_process: ClassVar[weakref.WeakValueDictionary[Path, PidLock]] = weakref.WeakValueDictionary()

    def __init__(self, path: Path, **more: Any) -> None:
        """Write the lock file, once more where that of a process that has ended stood in its place."""
        self.path = path.absolute()
        self.taken_over = ""
        self._pid, self._host = os.getpid(), socket.gethostname()
        owner = {"host": self._host, "pid": self._pid, "started": process_start(self._pid)}
        self._content = canonical_json(owner | more)
        with PidLock._starting:
            try:
                self._create()
            except FileExistsError:
                self._take_over()
                self._create(again=True)

    def _create(self, *, again: bool = False) -> None:
        """Write the lock file; FileExistsError where there is one. The second try (`again`) raises Locked instead."""
        try:
            publish(self.path.parent, self.path.name, [self._content], replace=False, sync=False)
        except (FileExistsError, FileNotFoundError) as error:
            # In the second try the file is there again: another process took the lock after we had removed the old one.
            # Not found: another process took our temporary file for a leftover of a dead one, and removed it.
            if again or (isinstance(error, FileNotFoundError) and self.path.parent.is_dir()):
                raise self._raced() from None
            raise
        PidLock._of_this_process[self.path] = self

    def _raced(self) -> Locked:
        """Return the error, to be raised, for a lock that another process took at the same moment."""
        return Locked("another process", f"{self.path} was taken by another process at the same moment")

    def _take_over(self) -> None:
        """Remove the lock file of an owner that has ended; Locked where it lives, or another process was faster."""
        content = _content_of(self.path)
        if content is None:  # released since we found it
            return
        owner = read_owner(content)  # None where a power failure cut the file short: then no owner lives
        if owner is not None:
            self._refuse_living(*owner)
        aside = self.path.with_name(temporary_name(self.path.name, self._pid))
        try:
            self.path.rename(aside)
        except FileNotFoundError:
            return
        # The file that we moved is read again: another process may have taken the lock in between, and gets it back.
        if _content_of(aside) != content:
            with contextlib.suppress(FileExistsError):
                os.link(aside, self.path)
            aside.unlink(missing_ok=True)
            raise self._raced()
        aside.unlink(missing_ok=True)
        self.taken_over = f"process {owner[0] if owner else None}"

    def _refuse_living(self, pid: int, host: str, started: int | None) -> None:
        """Raise Locked unless the owner that the lock file names has ended."""
        if host != self._host:
            advice = f"if that process has ended, remove {self.path.name} and try again"
            raise Locked(f"process {pid} on host {host}", advice)
        if pid == self._pid:
            # A lock with our pid that no lock object of ours holds was left by a dead process that had the same pid.
            if self.path in PidLock._of_this_process:
                raise Locked(f"another writer of this process ({pid})", "close it first")
        elif alive(pid, started):
            raise Locked(f"process {pid}", "wait for it, stop it, or write elsewhere")

    def release(self) -> None:
        """Remove the lock file if it is still ours."""
        if os.getpid() == self._pid and _content_of(self.path) == self._content:
            PidLock._of_this_process.pop(self.path, None)
            self.path.unlink(missing_ok=True)


def read_owner(content: bytes) -> tuple[int, str, int | None] | None:
    """Return (pid, host, start) of the owner in a lock file; None where it names none, as after a power failure."""
    try:
        owner = load_object(content)
    except ValueError:
        return None
    pid, host, started = owner.get("pid"), owner.get("host"), owner.get("started")
    if not isinstance(pid, int) or pid < 1 or not isinstance(host, str):
        return None
    return pid, host, started if isinstance(started, int) else None


def is_held(path: Path) -> bool:
    """Whether the lock file at `path` names a living process of this host, or any process of another."""
    try:
        owner = read_owner(_content_of(path) or b"")
    except (OSError, StoreError):
        return False
    # Whether a process of another host lives cannot be seen from here, so it counts as alive.
    return owner is not None and (owner[1] != socket.gethostname() or alive(owner[0], owner[2]))


def _content_of(path: Path) -> bytes | None:
    """Return the bytes of a lock file; None where there is none."""
    try:
        return read_file(path, _PAGE)
    except FileNotFoundError:
        return None
