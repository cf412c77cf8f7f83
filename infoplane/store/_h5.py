"""The HDF5 files of a run: a new one is laid out with the HDF5 library, an existing one is parsed without it.

HDF5 never touches a disk here and never reads or writes an array. To write, it lays out the objects in
memory and says where each array belongs; the bytes go to the disk from Python, so a full disk is an
OSError and not a crash inside the library. To read, the metadata are decoded in Python (`_objects`, `_links`)
by a whitelist that says where the arrays lie: the library never sees a file that somebody else may have made.
"""

from __future__ import annotations

import functools
import io
import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from h5py import h5d, h5f, h5fd, h5g, h5p, h5s, h5t

from infoplane.core.errors import StoreError
from infoplane.core.text import shorten
from infoplane.store._links import links
from infoplane.store._objects import (
    DATASPACE,
    DATATYPE,
    EXTERNAL,
    FILTERS,
    LAYOUT,
    UNDEFINED,
    Fields,
    Header,
    MetadataBlocks,
    Source,
    read_header,
    shown,
)
from infoplane.store.layout import ACTS, MAX_LAYERS, act_name

__all__ = ["TYPES", "Extent", "FileLayout", "Source", "parse", "plan"]

ALIGNMENT = 64
"""Arrays begin at multiples of so many bytes."""

MAX_OBJECTS = 64  # at the root of a file
_MAX_RANK = 32  # axes of an array
_MAX_ELEMENTS = 1 << 50


def _bfloat16() -> Any:
    """Return a 16-bit float type of 8 exponent and 7 mantissa bits: any HDF5 reader decodes the exact values."""
    # Sign at bit 15, exponent from bit 7 with 8 bits, mantissa from bit 0 with 7 bits.
    kind = h5t.IEEE_F16LE.copy()
    kind.set_fields(15, 7, 8, 0, 7)
    kind.set_ebias(127)
    kind.lock()
    return kind


_NUMBERS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")
TYPES: dict[str, Any] = {kind: h5t.py_create(np.dtype(f"<{kind}")) for kind in _NUMBERS} | {"bfloat16": _bfloat16()}
"""The whole list of element types that a file may hold; nothing else is accepted."""


# A datatype message: version (high) and class (low half of the first byte), then bytes that are the same in each
# version. `encode` puts two bytes of its own in front.
_ENCODED = {(kind.encode()[2] & 15, kind.encode()[3:]): name for name, kind in TYPES.items()}


@dataclass(frozen=True)
class Extent:
    """The place of one contiguous array in its file."""

    offset: int
    shape: tuple[int, ...]
    type: str

    @property
    def nbytes(self) -> int:
        return int(TYPES[self.type].get_size()) * math.prod(self.shape)

    def read(self, source: Source) -> bytes:
        """Return the bytes of the array from the file that `source` reads."""
        return source.read(self.offset, self.nbytes)


class _Image(io.BytesIO):
    """A file in memory that keeps the metadata of what HDF5 writes; the arrays come from elsewhere."""

    # Simpler would be `h5py.File(BytesIO())`, which holds the arrays too. It takes 10 ms in place of 0.1 for a shard of
    # 1 MB and 158 ms in place of 28 for one of 67 MB, with the digest and without the disk.

    size = 0
    metadata_end = 1 << 62  # set by `plan`: what is written from there on is arrays

    def write(self, data: Any) -> int:
        """Keep what is metadata; for what belongs to an array only move on by as many bytes."""
        if self.tell() < self.metadata_end:
            return super().write(data)
        self.seek(len(data), io.SEEK_CUR)
        return len(data)

    def truncate(self, size: int | None = None) -> int:
        """Note and return the size of the whole file, arrays included; no memory is taken for it."""
        self.size = self.tell() if size is None else size
        return self.size

    def slice(self, start: int, stop: int) -> bytes:
        """Return the bytes from `start` to `stop` of the metadata; zeros where HDF5 has written none."""
        return bytes(self.getbuffer()[start:stop]).ljust(stop - start, b"\0")


def _create_hdf5(image: _Image) -> Any:
    """Return an empty HDF5 file, open for writing, that h5py writes into `image` and never on a disk."""
    access = h5p.create(h5p.FILE_ACCESS)
    access.set_fileobj_driver(h5fd.fileobj_driver, image)
    access.set_fclose_degree(h5f.CLOSE_STRONG)  # closing the file closes all that is open in it
    access.set_libver_bounds(h5f.LIBVER_V110, h5f.LIBVER_V110)  # readable from HDF5 1.10 on
    access.set_alignment(1, ALIGNMENT)
    return h5f.create(b"image", h5f.ACC_TRUNC, fapl=access)


@dataclass(frozen=True)
class FileLayout:
    """A file laid out but not written: the metadata, and the place of every array."""

    image: _Image
    extents: Mapping[str, Extent]

    def pieces(self, contents: Mapping[str, Sequence[Any]]) -> Iterator[memoryview]:
        """Yield the bytes of the file in order; ValueError where an array has more or fewer bytes than planned.

        `contents` holds for the name of each array the buffers that make it up, one after the other.
        """
        at = 0  # how many bytes of the file have been yielded
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
        yield memoryview(self.image.slice(at, self.image.size))


@functools.lru_cache(maxsize=8)  # most shards of a run have the layout of the one before
def plan(*named: tuple[str, tuple[str, tuple[int, ...]]]) -> FileLayout:
    """Lay out a file with the arrays `named`, (name, (type, shape)) each: in one piece, behind the metadata."""
    arrays = dict(named)
    image = _Image()
    file = _create_hdf5(image)
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
    # The flush gives all metadata their place. HDF5 chooses the place of an array when its first element is written.
    h5f.flush(file)
    image.metadata_end = len(image.getbuffer())
    extents = {}
    one_element, zero = h5s.create_simple((1,)), np.zeros(1, np.int64)
    for name, dataset in datasets.items():
        kind, shape = arrays[name]
        if all(shape):
            space = dataset.get_space()
            space.select_elements(np.zeros((1, len(shape)), np.int64))
            dataset.write(one_element, space, zero, mtype=h5t.NATIVE_INT64)
        extents[name] = Extent(dataset.get_offset() or 0, shape, kind)  # an array without elements has no offset
    del dataset, datasets  # close the datasets before their file
    file.close()
    return FileLayout(image, extents)


# Layouts that `parse` has accepted: size of the file, its blocks of metadata by their offset, place of each array.
_known: deque[tuple[int, dict[int, bytes], dict[str, Extent]]] = deque(maxlen=16)


def parse(source: Source, check_meta: Callable[[bytes], dict[str, Any]]) -> tuple[dict[str, Extent], dict[str, Any]]:
    """Return the place of every array by name, and what `check_meta` makes of the bytes of the array `meta`.

    `meta` is looked at first, so that a newer format is recognised whatever else it holds. Nothing that
    the walk has not accepted is read. Raises StoreError with the reason; the caller names the file.

    The last accepted layouts are remembered, for most shards of a run have the same one. The places depend on nothing
    but the size of the file and the blocks of metadata: where these are those of a known layout, its places are
    returned without another walk.
    """
    for size, trace, extents in reversed(_known):
        if size == source.size and all(source.read(at, len(data)) == data for at, data in trace.items()):
            return extents, check_meta(extents["meta"].read(source))
    blocks = MetadataBlocks(source)
    extents, meta = _walk(blocks, check_meta)
    _check_disjoint(blocks, extents)
    _known.append((source.size, blocks.trace, extents))
    return extents, meta


def _walk(
    blocks: MetadataBlocks, check_meta: Callable[[bytes], dict[str, Any]]
) -> tuple[dict[str, Extent], dict[str, Any]]:
    """Read all metadata; return each array's place by name, and the checked `meta`; StoreError for a foreign file."""
    root = read_header(blocks, blocks.superblock(), "the root group")
    found = links(blocks, root, MAX_OBJECTS)  # name -> address
    if "meta" not in found:
        raise StoreError("no object 'meta' in it; not a file of this format")
    extents = {"meta": _dataset(blocks, "meta", _object(blocks, "meta", found.pop("meta")))}
    if extents["meta"].type != "u1":
        raise StoreError(f"'meta' must be bytes, got {extents['meta'].type}")
    meta = check_meta(extents["meta"].read(blocks.source))
    if root.has_attributes:
        raise StoreError("attributes are not allowed")
    for name, address in found.items():
        header = _object(blocks, name, address)
        if name == ACTS:
            extents |= _acts(blocks, header)
        else:
            extents[name] = _dataset(blocks, name, header)
    return extents, meta


def _object(blocks: MetadataBlocks, name: str, address: int | None) -> Header:
    """Return the header of an object in a group; StoreError for no address: the link is not a hard one."""
    if address is None:
        raise StoreError(f"{shown(name)} is not a hard link")
    return read_header(blocks, address, shown(name))


def _acts(blocks: MetadataBlocks, group: Header) -> dict[str, Extent]:
    """Return the places of the arrays in the group of activations by name; StoreError unless named 0000, 0001, ..."""
    if not group.is_group:
        raise StoreError(f"{ACTS} must be a group")
    if group.has_attributes:
        raise StoreError("attributes are not allowed")
    found = links(blocks, group, MAX_LAYERS)
    expected = [act_name(i) for i in range(len(found))]
    if sorted(f"{ACTS}/{name}" for name in found) != expected:
        got = [shorten(name, 60) for name in sorted(found)[:5]]
        raise StoreError(f"{ACTS} must hold datasets named 0000, 0001, ..., got {got}")
    return {f"{ACTS}/{name}": _dataset(blocks, name, _object(blocks, name, found[name])) for name in sorted(found)}


def _dataset(blocks: MetadataBlocks, name: str, header: Header) -> Extent:
    """Return the place of an array; StoreError unless it is in one piece, of a known type, and within the file."""
    if header.is_group or not {DATASPACE, DATATYPE, LAYOUT} <= header.messages.keys():
        raise StoreError(f"{shown(name)} is not a dataset")
    if header.has_attributes:
        raise StoreError(f"{shown(name)} has attributes; none are allowed")
    layout = header.one(LAYOUT)
    version, kind = layout.number(1), layout.number(1)
    if version not in (3, 4) or kind != 1:  # 1: all in one piece
        raise StoreError(f"{shown(name)} is not contiguous")
    if EXTERNAL in header.messages or FILTERS in header.messages:
        raise StoreError(f"{shown(name)} has external storage or filters; neither is allowed")
    offset, stored = layout.number(8), layout.number(8)
    # The type is found by comparison with the whole list. The first byte has the version (1 to 3) and the class.
    described = header.one(DATATYPE).data
    known = described and described[0] >> 4 in (1, 2, 3)
    element_type = _ENCODED.get((described[0] & 15, described[1:])) if known else None
    if element_type is None:
        raise StoreError(f"{shown(name)} has an element type that is not allowed")
    extent = Extent(0 if offset == UNDEFINED else offset, _shape(name, header.one(DATASPACE)), element_type)
    # The first 48 bytes are the superblock.
    if extent.nbytes and not 48 <= extent.offset <= blocks.source.size - extent.nbytes:
        raise StoreError(f"{shown(name)} {extent.shape} does not fit into the file's {blocks.source.size} bytes")
    if extent.nbytes and stored != extent.nbytes:
        raise StoreError(f"{shown(name)} {extent.shape} has {extent.nbytes} bytes, its record says {stored}")
    return extent


def _shape(name: str, space: Fields) -> tuple[int, ...]:
    """Return the shape of an array from its message `space`; StoreError if it may grow, or no array can have it."""
    space.expect(1, 2, name="version of the shape")
    rank, with_limits, kind = space.number(1), space.expect(1, 0, 1, name="flags of the shape"), space.number(1)
    if kind != 1 or rank == 0:  # 0: a single value, 2: nothing; every array here has axes
        raise StoreError(f"{shown(name)} has no simple shape")
    shape = tuple(space.number(8) for _ in range(rank))
    # Limits to which the axes may grow follow: an array cannot grow where they are its shape.
    if with_limits and shape != tuple(space.number(8) for _ in range(rank)):
        raise StoreError(f"{shown(name)} is resizable")
    # An array with a length of 0 has no bytes in the file, whatever its other lengths. They are bounded all the same,
    # for numpy refuses lengths that are too large.
    if rank > _MAX_RANK or math.prod(max(n, 1) for n in shape) > _MAX_ELEMENTS:
        raise StoreError(f"{shown(name)} has a shape that no array can have")
    return shape


def _check_disjoint(blocks: MetadataBlocks, extents: Mapping[str, Extent]) -> None:
    """Raise StoreError if two arrays share bytes, or an array shares some with the metadata."""
    spans = [(e.offset, e.offset + e.nbytes, shown(name)) for name, e in extents.items() if e.nbytes]
    spans += [(at, at + len(data), "the file's own index") for at, data in blocks.trace.items()]
    for (_, stop, before), (start, _, name) in itertools.pairwise(sorted(spans)):
        if start < stop:
            raise StoreError(f"{name} and {before} overlap")
