"""The one place where HDF5 is opened: laying out a new file, and the guarded parse of an existing one.

HDF5 never touches a disk here and never reads or writes an array. To write, it lays out the objects in
memory and says where each array belongs; the bytes go to the disk from Python, so a full disk is an
OSError and not a crash inside the library. To read, it decodes the metadata of pages that were read
already, and a walk over a whitelist says where the arrays lie. No filter runs, so no plug-in is loaded.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from h5py import h5a, h5d, h5f, h5fd, h5g, h5l, h5o, h5p, h5s, h5t

from infoplane.core.errors import StoreError
from infoplane.core.text import shorten
from infoplane.store.layout import ACTS, MAX_LAYERS, act_name

ALIGNMENT = 64
MAX_OBJECTS = 64
_PAGE = 1 << 16
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_UNDEFINED = 2**64 - 1
_HDF5_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError)


def _bfloat16() -> Any:
    """A 16-bit float with 8 exponent and 7 mantissa bits: any HDF5 reader decodes the exact values."""
    kind = h5t.IEEE_F16LE.copy()
    kind.set_fields(15, 7, 8, 0, 7)
    kind.set_ebias(127)
    kind.lock()
    return kind


TYPES: dict[str, Any] = {
    "f2": h5t.IEEE_F16LE,
    "f4": h5t.IEEE_F32LE,
    "f8": h5t.IEEE_F64LE,
    "bfloat16": _bfloat16(),
    "i1": h5t.STD_I8LE,
    "i2": h5t.STD_I16LE,
    "i4": h5t.STD_I32LE,
    "i8": h5t.STD_I64LE,
    "u1": h5t.STD_U8LE,
    "u2": h5t.STD_U16LE,
    "u4": h5t.STD_U32LE,
    "u8": h5t.STD_U64LE,
}
"""The whole list of element types that a file may hold; nothing else is accepted."""


@dataclass(frozen=True)
class Extent:
    """Where one contiguous array lies in its file."""

    offset: int
    shape: tuple[int, ...]
    type: str

    @property
    def itemsize(self) -> int:
        return int(TYPES[self.type].get_size())

    @property
    def nbytes(self) -> int:
        out = self.itemsize
        for n in self.shape:
            out *= n
        return out


class Source(Protocol):
    """Random access to the bytes of one file, each of them read at most once."""

    size: int

    def read(self, offset: int, n: int) -> bytes: ...


class _FileObject:
    """What HDF5's file-object driver needs of a Python file."""

    def __init__(self) -> None:
        self.position = 0
        self.size = 0

    def seek(self, offset: int, whence: int = 0) -> int:
        self.position = offset + (0, self.position, self.size)[whence]
        return self.position

    def tell(self) -> int:
        return self.position

    def flush(self) -> None:
        pass


class _Image(_FileObject):
    """A sparse file in memory that takes what HDF5 writes: the metadata."""

    def __init__(self) -> None:
        super().__init__()
        self._pages: dict[int, bytearray] = {}

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        at, done = self.position, 0
        while done < len(view):
            page, start = divmod(at + done, _PAGE)
            n = min(len(view) - done, _PAGE - start)
            self._pages.setdefault(page, bytearray(_PAGE))[start : start + n] = view[done : done + n]
            done += n
        self.position = at + done
        self.size = max(self.size, self.position)
        return done

    def readinto(self, target: Any) -> int:
        view = memoryview(target).cast("B")
        view[:] = self.slice(self.position, self.position + len(view))
        self.position += len(view)
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        self.size = self.position if size is None else size
        return self.size

    def slice(self, start: int, stop: int) -> bytes:
        out = bytearray(stop - start)
        for page in range(start // _PAGE, -(-stop // _PAGE)):
            data = self._pages.get(page)
            if data is not None:
                a, b = max(start, page * _PAGE), min(stop, (page + 1) * _PAGE)
                out[a - start : b - start] = data[a - page * _PAGE : b - page * _PAGE]
        return bytes(out)


class _Pages(_FileObject):
    """A source seen as a file, with a record of what HDF5 asked for and was given."""

    def __init__(self, source: Source) -> None:
        super().__init__()
        self.source, self.size = source, source.size
        self.trace: list[tuple[int, bytes]] = []
        self.failure: OSError | StoreError | None = None

    def readinto(self, target: Any) -> int:
        view = memoryview(target).cast("B")
        try:
            data = self.source.read(self.position, len(view))
        except (OSError, StoreError) as error:  # must not pass through HDF5; raised when it has returned
            self.failure, data = error, b""
        self.trace.append((self.position, data))
        view[: len(data)] = data
        view[len(data) :] = bytes(len(view) - len(data))
        self.position += len(view)
        return len(view)


def _open_hdf5(image: _FileObject, *, create: bool) -> Any:
    """Every HDF5 file of the package is opened by this call, on bytes in memory."""
    access = h5p.create(h5p.FILE_ACCESS)
    access.set_fileobj_driver(h5fd.fileobj_driver, image)
    access.set_fclose_degree(h5f.CLOSE_STRONG)
    if not create:
        return h5f.open(b"image", flags=h5f.ACC_RDONLY, fapl=access)
    access.set_libver_bounds(h5f.LIBVER_V110, h5f.LIBVER_V110)
    access.set_alignment(1, ALIGNMENT)
    return h5f.create(b"image", h5f.ACC_TRUNC, fapl=access)


@dataclass(frozen=True)
class Plan:
    """A file laid out but not written: the metadata, and the place of every array."""

    image: _Image
    extents: Mapping[str, Extent]
    size: int

    def pieces(self, contents: Mapping[str, Sequence[Any]]) -> Iterator[memoryview]:
        """The bytes of the file in order; `contents` gives the buffers of every array, in order."""
        at = 0
        for name, extent in sorted(self.extents.items(), key=lambda item: item[1].offset):
            if not extent.nbytes:
                continue
            yield memoryview(self.image.slice(at, extent.offset))
            at = extent.offset
            for buffer in contents[name]:
                view = memoryview(buffer).cast("B")
                at += len(view)
                yield view
            if at != extent.offset + extent.nbytes:
                raise ValueError(f"{name} has {extent.nbytes} bytes, got {at - extent.offset}")
        yield memoryview(self.image.slice(at, self.size))


def plan(arrays: Mapping[str, tuple[str, tuple[int, ...]]]) -> Plan:
    """Lay out a file with these arrays (name -> type, shape), all contiguous, metadata at the front."""
    return _plan(tuple(arrays.items()))


@functools.lru_cache(maxsize=8)  # most shards of a run have the layout of the one before
def _plan(items: tuple[tuple[str, tuple[str, tuple[int, ...]]], ...]) -> Plan:
    arrays = dict(items)
    image = _Image()
    file = _open_hdf5(image, create=True)
    creation = h5p.create(h5p.DATASET_CREATE)
    creation.set_layout(h5d.CONTIGUOUS)
    creation.set_fill_time(h5d.FILL_TIME_NEVER)
    creation.set_alloc_time(h5d.ALLOC_TIME_LATE)
    creation.set_obj_track_times(False)
    datasets = {}
    if any(name.startswith(f"{ACTS}/") for name in arrays):
        h5g.create(file, ACTS.encode())
    for name, (kind, shape) in arrays.items():
        datasets[name] = h5d.create(file, name.encode(), TYPES[kind], h5s.create_simple(shape), dcpl=creation)
    # All metadata get their place now; writing one element of an array then makes HDF5 choose the array's.
    h5f.flush(file)
    extents = {}
    scalar, zero = h5s.create_simple((1,)), np.zeros(1, np.int64)
    for name, dataset in datasets.items():
        kind, shape = arrays[name]
        if all(shape):
            space = dataset.get_space()
            space.select_elements(np.zeros((1, len(shape)), np.int64))
            dataset.write(scalar, space, zero, mtype=h5t.NATIVE_INT64)
        extents[name] = Extent(dataset.get_offset() or 0, shape, kind)
    del dataset, datasets
    file.close()
    return Plan(image, extents, image.size)


_known: list[tuple[int, list[tuple[int, bytes]], dict[str, Extent]]] = []
_REMEMBERED = 16


def parse(source: Source, check_meta: Callable[[bytes], dict[str, Any]]) -> tuple[dict[str, Extent], dict[str, Any]]:
    """The place of every array by name, and what `check_meta` makes of the bytes of `meta`.

    `meta` is looked at first, so that a newer format is recognised whatever else it holds. Nothing that
    the walk has not accepted is read. Raises StoreError with the reason; the caller names the file.

    The last accepted layouts are remembered. The outcome of the walk depends on nothing but the size of
    the file and the bytes that HDF5 asked for, and the shards of a run mostly agree in all of them: for
    most of them a comparison of bytes is enough.
    """
    global _known
    for size, trace, extents in reversed(_known):
        if size == source.size and all(source.read(at, len(data)) == data for at, data in trace):
            return extents, check_meta(_read(source, extents["meta"]))
    pages = _Pages(source)
    extents, meta = _parse(source, pages, check_meta)
    _known = [*_known[1 - _REMEMBERED :], (source.size, pages.trace, extents)]
    return extents, meta


def _read(source: Source, extent: Extent) -> bytes:
    return source.read(extent.offset, extent.nbytes)


def _parse(
    source: Source, pages: _Pages, check_meta: Callable[[bytes], dict[str, Any]]
) -> tuple[dict[str, Extent], dict[str, Any]]:
    pages.trace.append((0, _check_superblock(source)))
    try:
        file = _open_hdf5(pages, create=False)
        try:
            extents, meta = _walk(file, source, check_meta)
        finally:
            file.close()
    except _HDF5_ERRORS as error:
        raise pages.failure or StoreError(f"HDF5 cannot read it: {_one_line(error)}") from error
    if pages.failure is not None:
        raise pages.failure
    _check_disjoint(extents)
    return extents, meta


def _walk(
    file: Any, source: Source, check_meta: Callable[[bytes], dict[str, Any]]
) -> tuple[dict[str, Extent], dict[str, Any]]:
    root = h5g.open(file, b"/")
    if not root.links.exists(b"meta"):
        raise StoreError("no object 'meta' in it; not a file of this format")
    extents = {"meta": _dataset(root, "meta", source)}
    if extents["meta"].type != "u1":
        raise StoreError(f"'meta' must be bytes, got {extents['meta'].type}")
    meta = check_meta(_read(source, extents["meta"]))
    for name in _links(root, MAX_OBJECTS):
        if name == ACTS:
            extents |= _acts(root, source)
        elif name != "meta":
            extents[name] = _dataset(root, name, source)
    return extents, meta


def _check_superblock(source: Source) -> bytes:
    head = source.read(0, 48)
    if len(head) < 48 or head[:8] != _SIGNATURE:
        raise StoreError("not an HDF5 file (no signature at byte 0)")
    if head[8] not in (2, 3) or head[9:11] != b"\x08\x08":
        raise StoreError(f"superblock version 2 or 3 expected, got {head[8]}")
    base, extension, end = struct.unpack("<QQQ", head[12:36])
    if base != 0 or extension != _UNDEFINED:
        raise StoreError("the superblock has a base address or an extension; neither is allowed")
    if end != source.size:
        raise StoreError(f"{end} bytes expected, got {source.size}")
    return head


def shown(name: str) -> str:
    """A name from a file, short enough for one line."""
    return repr(shorten(name, 60))


def _links(group: Any, limit: int) -> list[str]:
    count = group.get_num_objs()
    if count > limit:
        raise StoreError(f"{count} objects in one group, at most {limit} allowed")
    if h5a.get_num_attrs(group):
        raise StoreError("attributes are not allowed")
    found: list[tuple[bytes, int]] = []
    group.links.iterate(lambda name, info: found.append((bytes(name), info.type)), info=True)
    names = []
    for name, kind in found:
        text = name.decode("ascii", "replace")
        if kind != h5l.TYPE_HARD:
            raise StoreError(f"{shown(text)} is not a hard link")
        names.append(text)
    return names


def _acts(root: Any, source: Source) -> dict[str, Extent]:
    if h5o.get_info(root, ACTS.encode()).type != h5o.TYPE_GROUP:
        raise StoreError(f"{ACTS} must be a group")
    group = h5g.open(root, ACTS.encode())
    names = _links(group, MAX_LAYERS)
    expected = [act_name(i) for i in range(len(names))]
    if sorted(f"{ACTS}/{name}" for name in names) != expected:
        raise StoreError(
            f"{ACTS} must hold datasets named 0000, 0001, ..., got {[shorten(n, 60) for n in sorted(names)[:5]]}"
        )
    return {f"{ACTS}/{name}": _dataset(group, name, source) for name in names}


def _dataset(group: Any, name: str, source: Source) -> Extent:
    link = name.encode()
    if group.links.get_info(link).type != h5l.TYPE_HARD:
        raise StoreError(f"{shown(name)} is not a hard link")
    if h5o.get_info(group, link).type != h5o.TYPE_DATASET:
        raise StoreError(f"{shown(name)} is not a dataset")
    dataset = h5d.open(group, link)
    if h5a.get_num_attrs(dataset):
        raise StoreError(f"{shown(name)} has attributes; none are allowed")
    creation = dataset.get_create_plist()
    if creation.get_layout() != h5d.CONTIGUOUS:
        raise StoreError(f"{shown(name)} is not contiguous")
    if creation.get_external_count() or creation.get_nfilters():
        raise StoreError(f"{shown(name)} has external storage or filters; neither is allowed")
    kind = dataset.get_type()
    if kind.get_class() not in (h5t.INTEGER, h5t.FLOAT) or kind.committed():
        raise StoreError(f"{shown(name)} has an element type that is not allowed")
    known = next((key for key, value in TYPES.items() if kind.equal(value)), None)
    if known is None:
        raise StoreError(f"{shown(name)} has an element type that is not allowed")
    space = dataset.get_space()
    if space.get_simple_extent_type() != h5s.SIMPLE:
        raise StoreError(f"{shown(name)} has no simple shape")
    shape = space.get_simple_extent_dims()
    if space.get_simple_extent_dims(maxdims=True) != shape:
        raise StoreError(f"{shown(name)} is resizable")
    extent = Extent(dataset.get_offset() or 0, tuple(int(n) for n in shape), known)
    if extent.nbytes and not 48 <= extent.offset <= source.size - extent.nbytes:
        raise StoreError(f"{shown(name)} {extent.shape} does not fit into the file's {source.size} bytes")
    return extent


def _check_disjoint(extents: Mapping[str, Extent]) -> None:
    end, last = 0, ""
    for name, extent in sorted(extents.items(), key=lambda item: item[1].offset):
        if not extent.nbytes:
            continue
        if extent.offset < end:
            raise StoreError(f"{shown(name)} and {shown(last)} overlap")
        end, last = extent.offset + extent.nbytes, name


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
