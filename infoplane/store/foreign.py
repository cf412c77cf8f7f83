"""HDF5 and MATLAB files of other programs: read in a child with limits, handed over as numpy files.

A library that follows links and trusts sizes meets a stranger's file here, so it does so in the limited child only
(`unpack`), and behind a whitelist: plain numbers, stored in the file itself. The parent (`read_foreign`) never opens
such a file.
"""

from __future__ import annotations

import errno
import math
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from infoplane.core import limited
from infoplane.core.errors import StoreError
from infoplane.core.files import MIB, opened, write_all
from infoplane.core.text import listed, printable
from infoplane.core.warn import warn
from infoplane.store._foreign import Key, PlainArray, find_in_hdf5, find_in_mat, named

FOREIGN = (".h5", ".hdf5", ".mat")
_SMALLEST_ROOM = 256 * MIB
# The arrays may take so many times the size of the file. The compressed activations of a dead layer reach it; a file
# of zeros that is made to fill the memory has ten times that.
_MOST_EXPANSION = 100
_FREE_SHARE = 0.9
_BYTES_PER_SECOND = 2 * MIB  # that a slow disk reads, with the compression undone
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_PLACES = (0, *(1 << n for n in range(9, 21)))  # where the signature may begin: HDF5 allows other content before it


def read_foreign(file: str | os.PathLike[str], limits: limited.Limits | None = None) -> dict[Key, npt.NDArray[Any]]:
    """Return the arrays of plain numbers in an HDF5 or MATLAB file, by the names of their groups and their own.

    A child process with limits reads the file, which costs about half a second. Text, objects and links are left out
    and named in a warning. MATLAB's arrays have the axes that MATLAB shows.

    Parameters
    ----------
    file : path
        `.h5`, `.hdf5` or `.mat`, of every version.
    limits : Limits, optional
        What the child may use; by default it grows with the file.

    Raises
    ------
    StoreError
        The file is no such file, or holds numbers that are refused: complex, sparse, stored elsewhere, compressed by
        other filters than gzip and shuffle, written in part; or more of them than 100 times the file (256 MiB for a
        small one) or than the free space of the folder for temporary files; or it makes its child crash.
    OSError
        The file cannot be read.
    """
    file = Path(file).resolve(strict=True)
    with tempfile.TemporaryDirectory(prefix="infoplane-") as folder:
        words = ["unpack", "--", str(file), folder]
        answer = limited.ask(words, limits or _limits(file.stat().st_size, folder), file.name, "file")
        said = enumerate(answer["arrays"])
        arrays = {tuple(one["key"]): _load(file, Path(folder, f"{number}.npy"), one) for number, one in said}
    left_out = [f"{named(tuple(key))} ({why})" for key, why in answer["skipped"]]
    if left_out:
        warn(printable(f"{file.name}: left out {listed(left_out, 5)}"))
    if not arrays:
        raise StoreError(f"{file.name} holds no array of plain numbers")
    return arrays


def unpack(file: str | os.PathLike[str], folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Write the arrays of a file into a folder as `0.npy`, `1.npy`, ...; return their keys and what was left out.

    Raises
    ------
    StoreError
        As `read_foreign`, and in any process but a child with limits.
    """
    own = limited.limits_of_this_process()
    if own is None:
        raise StoreError("files of other programs are read in a child with limits; use infoplane import")
    file, folder = Path(file), Path(folder)
    os.environ["HDF5_PLUGIN_PRELOAD"] = "::"  # no library is loaded for a filter that the file names
    limited.take(own)
    with warnings.catch_warnings(action="ignore"), opened(file) as fd, os.fdopen(os.dup(fd), "rb") as stream:
        try:
            found, skipped = (find_in_hdf5 if _is_hdf5(file, stream) else find_in_mat)(stream)
            _check_room(found, os.fstat(fd).st_size, folder)
            for number, one in enumerate(found):
                _write(folder / f"{number}.npy", one)
        except StoreError as error:
            raise StoreError(f"{file.name}: {error}") from error
        except Exception as error:  # whatever the libraries raise for a damaged file
            if limited.ran_out_of_memory(error):
                raise
            if isinstance(error, OSError) and error.errno in _NO_ROOM:
                where = "the folder for temporary files (TMPDIR)"
                raise StoreError(f"{file.name}: no room for its arrays in {where}: {error.strerror}") from error
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise StoreError(f"{file.name} is damaged, or no file of its kind: {reason}") from error
    arrays = [{"key": one.key, "shape": one.shape, "dtype": one.dtype.str} for one in found]
    return {"arrays": arrays, "skipped": skipped}


def _limits(size: int, folder: str) -> limited.Limits:
    """Return limits for the child that reads a file of `size` bytes and writes its arrays into `folder`."""
    room, base = _room(size, Path(folder)), limited.Limits().longer(size / _BYTES_PER_SECOND)
    # Of a .mat up to version 7 scipy holds an array twice, as stored and as meant; each ends at 2 GiB.
    memory = base.memory_bytes + min(3 * room, 4096 * MIB)
    return replace(base, memory_bytes=memory, file_bytes=room + MIB)


def _room(size: int, folder: Path) -> int:
    """Return how many bytes the arrays of a file of `size` bytes may take together."""
    return min(max(_SMALLEST_ROOM, _MOST_EXPANSION * size), int(_FREE_SHARE * shutil.disk_usage(folder).free))


def _check_room(found: Sequence[PlainArray], size: int, folder: Path) -> None:
    """Raise StoreError where the arrays of a file of `size` bytes take more than may be read."""
    room, needed = _room(size, folder), sum(one.nbytes for one in found)
    if needed > room:
        largest = max(found, key=lambda one: one.nbytes)
        raise StoreError(
            f"its arrays take {needed / MIB:,.0f} MiB, {named(largest.key)} {largest.shape} the most; at most "
            f"{room / MIB:,.0f} MiB are read, {_MOST_EXPANSION} times the file or {_FREE_SHARE:.0%} of what is free "
            "for temporary files (TMPDIR); save it in parts or without compression"
        )


def _is_hdf5(file: Path, stream: IO[bytes]) -> bool:
    """Whether a file is HDF5, by its signature; StoreError where it is not, and is no older `.mat` either."""
    for place in _PLACES:
        stream.seek(place)
        if stream.read(len(_SIGNATURE)) == _SIGNATURE:
            return True
    if file.suffix.lower() != ".mat":
        raise StoreError("it is no HDF5 file")
    return False


def _write(file: Path, one: PlainArray) -> None:
    """Save an array as a `.npy`, block by block.

    One whose axes the other file has reversed is saved in the order of Fortran, in which its numbers lie there.
    """
    stored = one.shape[::-1] if one.reversed else one.shape
    header = {"descr": np.lib.format.dtype_to_descr(one.dtype), "fortran_order": one.reversed, "shape": one.shape}
    with file.open("xb") as out:
        np.lib.format.write_array_header_1_0(out, header)
        begin = out.tell()
        for start, block in one.blocks():
            for place, run in _runs(stored, start, block):
                out.seek(begin + place * one.dtype.itemsize)
                out.flush()  # before `write_all`, which goes past the buffer of `out`
                write_all(out.fileno(), np.ascontiguousarray(run).reshape(-1).view(np.uint8))


def _runs(
    shape: Sequence[int], start: Sequence[int], block: npt.NDArray[Any]
) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """Cut a block into runs that lie in one piece in the whole array; yield (place of its first element, run).

    `shape` is that of the whole array, `start` the index of the block in it. Places count elements from 0.
    """
    axis = block.ndim  # from this axis on the block is as long as the array; on the one before it may be shorter
    while axis and block.shape[axis - 1] == shape[axis - 1]:
        axis -= 1
    strides = [math.prod(shape[i + 1 :]) for i in range(len(shape))]
    first = sum(s * n for s, n in zip(start, strides, strict=True))
    for index in np.ndindex(block.shape[: max(axis - 1, 0)]):
        yield first + sum(i * n for i, n in zip(index, strides, strict=False)), block[index]


def _load(file: Path, path: Path, said: dict[str, Any]) -> npt.NDArray[Any]:
    """Return the array that the child wrote to `path`; StoreError where shape or type are not those that it `said`."""
    try:
        # A large file is mapped: its pages are read when they are used, also after the folder was removed.
        array = np.load(path, mmap_mode="c" if path.stat().st_size > MIB else None, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise StoreError(f"{file.name}: reading it gave no array for {named(tuple(said['key']))}") from error
    if (list(array.shape), array.dtype.str) != (said["shape"], said["dtype"]):
        raise StoreError(f"{file.name}: reading it gave another array for {named(tuple(said['key']))} than it said")
    return np.asarray(array)
