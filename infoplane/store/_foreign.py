"""The arrays of plain numbers in HDF5 and MATLAB files of other programs, found before any of them is read.

Everything here runs in a child with limits. The walk through an HDF5 file follows no link out of it; `.mat` files up to
version 7 are read by way of scipy. What is no array of plain numbers is left out and named; an array of numbers that
cannot be had as it was meant is refused.
"""

from __future__ import annotations

import itertools
import math
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import IO, Any, NoReturn

import h5py
import numpy as np
import numpy.typing as npt
from h5py import h5, h5a, h5d, h5f, h5fd, h5g, h5l, h5o, h5p, h5s, h5t, h5z

from infoplane.core.errors import StoreError
from infoplane.core.files import MIB
from infoplane.core.text import shorten

Key = tuple[str, ...]
"""Names of the groups around an array, and its own."""
Block = tuple[Sequence[int], npt.NDArray[Any]]
"""Part of an array, after the place of its first element."""
Skipped = list[tuple[Key, str]]
"""What is left out, with the reason."""

NUMBERS = frozenset(["b1", "f2", "f4", "f8", *(f"{sign}{size}" for sign in "iu" for size in (1, 2, 4, 8))])
"""The types of arrays that are read, as kind and bytes."""
_MATLAB: dict[str, np.dtype[Any]] = {f"{s}int{n}": np.dtype(f"{s}int{n}") for s in ("", "u") for n in (8, 16, 32, 64)}
_MATLAB |= {"double": np.dtype("f8"), "single": np.dtype("f4"), "logical": np.dtype(bool)}
_FILTERS = {h5z.FILTER_DEFLATE, h5z.FILTER_SHUFFLE, h5z.FILTER_FLETCHER32}
_LAYOUTS = {h5d.COMPACT, h5d.CONTIGUOUS, h5d.CHUNKED}
_MAX_OBJECTS = 10_000
_DEEPEST = 20  # groups, one in another
_MAX_CHUNK = 512 * MIB
_BLOCK = 32 * MIB  # read at once, or one chunk where that is larger
_OWN = {"#refs#", "#subsystem#"}  # where MATLAB keeps what its cells and objects point to


@dataclass(frozen=True)
class PlainArray:
    """An array that may be read.

    Attributes
    ----------
    key : Key
    shape : tuple of int
    dtype : dtype
        In the byte order of this machine.
    blocks : function
        Yields the whole array in blocks, each after the index of its first element; axes in the order of the file.
    reversed : bool
        Whether the file has the axes in the opposite order of `shape`.
    """

    key: Key
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    blocks: Callable[[], Iterator[Block]]
    reversed: bool = False

    @property
    def nbytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape)


def named(key: Key) -> str:
    """Return a key as messages show it."""
    return repr(shorten("/".join(map(str, key)), 80))


def refuse_complex(key: Key) -> NoReturn:
    """Raise StoreError for an array of complex numbers."""
    raise StoreError(f"{named(key)} holds complex numbers; save its real and imaginary parts, or its modulus")


def refuse_sparse(key: Key) -> NoReturn:
    """Raise StoreError for a sparse array of MATLAB's."""
    raise StoreError(f"{named(key)} is sparse; save full({shorten(key[-1], 40)})")


def not_plain(kind: str) -> str:
    """Return what messages call a MATLAB variable of class `kind`, which is left out: `text`, `a cell array`."""
    if kind == "struct":
        return "a struct; save(..., '-struct', ...) saves its fields as variables"
    return {"char": "text", "cell": "a cell array"}.get(kind, f"of class {shorten(kind, 32)}")


def find_in_hdf5(stream: IO[bytes]) -> tuple[list[PlainArray], Skipped]:
    """Return the arrays of an HDF5 file that may be read, and what is left out; StoreError for a refused array."""
    stream.seek(0)
    matlab = stream.read(10) == b"MATLAB 7.3"
    access = h5p.create(h5p.FILE_ACCESS)
    # The library reads from the open file. Given a name it might open a pipe, and wait for ever.
    access.set_fileobj_driver(h5fd.fileobj_driver, stream)
    root = h5g.open(h5f.open(b"foreign", h5f.ACC_RDONLY, fapl=access), b"/")
    walk = _Walk(h5o.get_info(root).addr, matlab=matlab)
    walk.group((), root)
    return walk.found, walk.skipped


class _Walk:
    """Visits every object of a file once, by hard links alone: arrays to read go to `found`, all else to `skipped`."""

    def __init__(self, root: int, *, matlab: bool) -> None:
        """Note the address of the root group, `root`, and whether MATLAB wrote the file; `group` starts the walk."""
        self.matlab = matlab
        self.found: list[PlainArray] = []
        self.skipped: Skipped = []
        self._seen: dict[int, Key] = {root: ("/",)}

    def group(self, key: Key, group: Any) -> None:
        """Visit everything below `group`, which has the names `key`; StoreError where it is too deep or too much.

        The order is that of creation where the file keeps it, else that of the names.
        """
        if len(key) > _DEEPEST:
            raise StoreError(f"{named(key)} lies more than {_DEEPEST} groups deep")
        if len(self._seen) + group.get_num_objs() > _MAX_OBJECTS:
            raise StoreError(f"it holds more than {_MAX_OBJECTS:,} objects")
        for raw in _links(group):
            name = _text(raw)
            if self.matlab and name in _OWN:
                continue
            inner = (*key, name or ascii(raw))
            why = self._link(inner, group, raw) if name else "a name that is no text"
            if why:
                self.skipped.append((inner, why))

    def _link(self, key: Key, group: Any, raw: bytes) -> str:
        """Visit what the link named `raw` in a group leads to; return why that is left out, or "" where it is not."""
        kind = group.links.get_info(raw).type
        if kind != h5l.TYPE_HARD:
            words = {h5l.TYPE_SOFT: "a soft link", h5l.TYPE_EXTERNAL: "a link to another file"}
            return words.get(kind, "a link of its own kind")
        info = h5o.get_info(group, raw)
        if info.addr in self._seen:
            return f"another name of {named(self._seen[info.addr])}"
        self._seen[info.addr] = key
        if info.type == h5o.TYPE_GROUP:
            return self._open_group(key, h5g.open(group, raw))
        return self._dataset(key, h5d.open(group, raw)) if info.type == h5o.TYPE_DATASET else "a named type"

    def _open_group(self, key: Key, group: Any) -> str:
        """Visit what is in a group and return ""; where the group is one MATLAB variable, only return what that is."""
        if h5a.exists(group, b"MATLAB_sparse"):
            refuse_sparse(key)
        kind = _matlab_class(group)
        if kind is not None:
            return not_plain(kind)
        self.group(key, group)
        return ""

    def _dataset(self, key: Key, dataset: Any) -> str:
        """Add one dataset to `found` and return "", or return why it is left out; StoreError for refused numbers."""
        kind = _matlab_class(dataset)
        if kind is not None and kind not in _MATLAB:
            return not_plain(kind)
        if kind is not None and h5a.exists(dataset, b"MATLAB_empty"):
            return "empty"
        dtype = _dtype(key, dataset.get_type())
        if isinstance(dtype, str):
            return dtype
        creation = dataset.get_create_plist()
        _check_storage(key, creation)  # before its shape is asked for: that of a virtual one lies in other files
        space = dataset.get_space()
        if space.get_simple_extent_type() == h5s.NULL:
            return "empty"
        # MATLAB stores the axes of its arrays in the opposite order.
        shape, turned = tuple(map(int, space.shape)), self.matlab or kind is not None
        chunk = _chunk(key, creation, dataset, shape, dtype)
        meant = np.dtype(bool) if kind == "logical" else dtype  # MATLAB stores booleans as bytes
        blocks = partial(_blocks, dataset, shape, chunk, dtype, meant)
        self.found.append(PlainArray(key, shape[::-1] if turned else shape, meant, blocks, reversed=turned))
        return ""


def _links(group: Any) -> list[bytes]:
    """Return the names of a group's links, in the order of creation where the file keeps it, else sorted."""
    names: list[bytes] = []
    tracked = group.get_create_plist().get_link_creation_order() & h5p.CRT_ORDER_TRACKED
    group.links.iterate(names.append, idx_type=h5.INDEX_CRT_ORDER if tracked else h5.INDEX_NAME)
    return names if tracked else sorted(names, key=_with_numbers)


def _with_numbers(name: bytes) -> list[tuple[int, int, bytes]]:
    """Return a key for sorting that puts `fc2` before `fc10`."""
    return [(0, int(part), b"") if part.isdigit() else (1, 0, part) for part in re.findall(rb"\d{1,18}|\D+", name)]


def _text(raw: bytes) -> str:
    """Return a name as text; "" where it is not UTF-8."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return ""


def _matlab_class(thing: Any) -> str | None:
    """Return the class that MATLAB gave an object; None where it was not MATLAB's, "unknown" for an odd attribute."""
    if not h5a.exists(thing, b"MATLAB_class"):
        return None
    attribute = h5a.open(thing, b"MATLAB_class")
    kind = attribute.get_type()
    # A text of variable length is not read: it is a pointer, and a made-up file could let it point anywhere.
    plain = kind.get_class() == h5t.STRING and not kind.is_variable_str() and 0 < kind.get_size() <= 64
    if not plain or attribute.get_space().get_simple_extent_npoints() != 1:
        return "unknown"
    value = np.zeros((), f"S{kind.get_size()}")
    attribute.read(value)
    return bytes(value.item()).rstrip(b"\0").decode("ascii", "replace")


# Words for what is no array of numbers.
_WORDS = {h5t.STRING: "text", h5t.REFERENCE: "references", h5t.COMPOUND: "records", h5t.ARRAY: "records"}
_WORDS |= {h5t.VLEN: "rows of different lengths", h5t.OPAQUE: "bytes without a type", h5t.BITFIELD: "bits"}


def _dtype(key: Key, kind: Any) -> np.dtype[Any] | str:
    """Return the numpy type, in this machine's byte order, of an HDF5 type of plain numbers.

    For any other HDF5 type return a string that says what it is; StoreError for complex numbers and unusual sizes.
    """
    group = kind.get_class()
    if _is_complex(kind):
        refuse_complex(key)
    if group not in (h5t.INTEGER, h5t.FLOAT, h5t.ENUM):
        return str(_WORDS.get(group, "of a type without numbers"))
    try:
        dtype: np.dtype[Any] = np.dtype(kind.dtype).newbyteorder("=")
    except (TypeError, ValueError):
        dtype = np.dtype("V1")  # numpy has no such type: refused below
    if group == h5t.ENUM and dtype != np.dtype(bool):
        return "an enumeration"
    if f"{dtype.kind}{dtype.itemsize}" not in NUMBERS:
        raise StoreError(f"{named(key)} holds numbers of an unusual type; save them as float or int of 8 to 64 bits")
    return dtype


def _is_complex(kind: Any) -> bool:
    """Whether a type is complex, as h5py and MATLAB write it or as HDF5 2 has it."""
    if kind.get_class() != h5t.COMPOUND:
        return bool(kind.get_class() == getattr(h5t, "COMPLEX", object()))
    # A third name is looked at so that records of three do not pass.
    members = [kind.get_member_name(i).lower() for i in range(min(kind.get_nmembers(), 3))]
    return members in ([b"r", b"i"], [b"real", b"imag"])


def _check_storage(key: Key, creation: Any) -> None:
    """Raise StoreError unless the numbers lie in the file itself, behind filters that every HDF5 library has."""
    if creation.get_layout() not in _LAYOUTS:
        raise StoreError(f"{named(key)} is virtual, its numbers lie in other files; save a copy of them")
    if creation.get_external_count():
        raise StoreError(f"{named(key)} lies in other files (external storage); save a copy of it")
    filters = [creation.get_filter(i) for i in range(creation.get_nfilters())]
    odd = next((one for one in filters if one[0] not in _FILTERS), None)
    if odd is not None or len({one[0] for one in filters}) < len(filters):
        name = shorten((odd or filters[0])[3].decode("ascii", "replace"), 30)
        advice = "expected gzip, shuffle and fletcher32 at most, each once: save it with compression='gzip', or without"
        raise StoreError(f"{named(key)} has the filter {name!r}; {advice}")


def _chunk(key: Key, creation: Any, dataset: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[int, ...]:
    """Return the shape of the smallest block of an array that can be read without reading any part twice.

    That is one chunk, or one element of an array stored in one piece. StoreError where a chunk was never written, or
    is too large.
    """
    if not math.prod(shape):
        return shape
    # An array in one piece counts as one chunk, which is there or not (`there` of `all_of`).
    chunk, there, all_of = tuple(1 for _ in shape), int(dataset.get_storage_size() > 0), 1
    if creation.get_layout() == h5d.CHUNKED:
        chunk = tuple(map(int, creation.get_chunk()))
        there, all_of = dataset.get_num_chunks(), math.prod(-(-n // c) for n, c in zip(shape, chunk, strict=True))
    if math.prod(chunk) * dtype.itemsize > _MAX_CHUNK:
        raise StoreError(f"{named(key)} has chunks {chunk}; expected at most {_MAX_CHUNK // MIB} MiB in one")
    if there < all_of:
        advice = "HDF5 would give its fill value for the rest: cut it to what was written"
        raise StoreError(f"{named(key)} {shape} was written in part, {there} of {all_of} chunks; {advice}")
    return chunk


def _blocks(
    dataset: Any, shape: tuple[int, ...], chunk: tuple[int, ...], dtype: np.dtype[Any], meant: np.dtype[Any]
) -> Iterator[Block]:
    """Yield a dataset in blocks of about 32 MiB, of whole chunks, so that none is decompressed twice.

    `dtype` is the type of the numbers as stored, `meant` that of the blocks: both are the same, or `meant` is bool.
    """
    if not math.prod(shape):
        return
    size = list(chunk)  # of a block: as many chunks as fit along the last axis, then along those before it
    for axis in reversed(range(len(shape))):
        more = max(1, _BLOCK // (math.prod(size) * dtype.itemsize))
        size[axis] = min(shape[axis], chunk[axis] * more)
    array = h5py.Dataset(dataset).astype(dtype)
    for start in itertools.product(*(range(0, n, s) for n, s in zip(shape, size, strict=True))):
        block = np.asarray(array[tuple(slice(i, i + n) for i, n in zip(start, size, strict=True))])
        # The bytes of stored booleans may be other numbers than 0 and 1: all but 0 become True.
        bits = block.view(np.uint8) if dtype.kind == "b" else block
        yield start, bits != 0 if meant.kind == "b" else block


def find_in_mat(stream: IO[bytes]) -> tuple[list[PlainArray], Skipped]:
    """Return what may be read of a `.mat` up to version 7, and what is left out; StoreError for a refused array."""
    from scipy.io import whosmat
    from scipy.io.matlab import MatReadError, matfile_version

    stream.seek(0)
    try:
        version, _ = matfile_version(stream)
        variables = whosmat(stream, appendmat=False)
    except MatReadError as error:
        raise StoreError(f"it is no .mat file: {error}") from error
    if len(variables) > _MAX_OBJECTS:
        raise StoreError(f"it holds more than {_MAX_OBJECTS:,} variables")
    found: list[PlainArray] = []
    skipped: Skipped = []
    for name, shape, kind in variables:
        key = (str(name),)
        if kind == "sparse":
            refuse_sparse(key)
        if kind in _MATLAB:
            # Version 4 knows doubles alone; whole numbers among them are stored as shorter ones.
            dtype = _MATLAB["double"] if version == 0 else _MATLAB[kind]
            found.append(PlainArray(key, tuple(map(int, shape)), dtype, partial(_variable, stream, key, shape, dtype)))
        elif not name.startswith("__"):  # such names are scipy's own, as `__function_workspace__`
            skipped.append((key, not_plain(kind)))
    twice = next((key for key, count in Counter(one.key for one in found).items() if count > 1), None)
    if twice is not None:
        raise StoreError(f"it holds {named(twice)} twice")
    return found, skipped


def _variable(stream: IO[bytes], key: Key, shape: Sequence[int], dtype: np.dtype[Any]) -> Iterator[Block]:
    """Yield a variable of a `.mat` up to version 7 as one block: none is larger than 2 GiB.

    StoreError where it is complex, sparse, or of another shape than `shape`.
    """
    from scipy.io import loadmat
    from scipy.sparse import issparse

    stream.seek(0)
    try:
        # MATLAB stores doubles that are whole numbers as bytes; with mat_dtype they are doubles again. It would also
        # make complex numbers real, with a warning, which is turned into an error here.
        with warnings.catch_warnings(action="error", category=np.exceptions.ComplexWarning):
            array = loadmat(stream, variable_names=list(key), mat_dtype=True, appendmat=False).get(key[0])
    except np.exceptions.ComplexWarning:
        refuse_complex(key)
    if issparse(array):  # booleans, which the list of variables calls logical
        refuse_sparse(key)
    if not isinstance(array, np.ndarray) or array.shape != tuple(shape):
        raise StoreError(f"{named(key)} cannot be read as an array {tuple(shape)}")
    if array.dtype.kind == "c":
        refuse_complex(key)
    yield (0,) * array.ndim, array.astype(dtype)
