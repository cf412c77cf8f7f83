"""The links of a group: messages in its header or, where there are many, a B-tree of names over a heap.

Old groups (symbol tables) are refused. See `_objects` for the reason why this is not left to the HDF5 library.
"""

from __future__ import annotations

from collections.abc import Iterator

from infoplane.core.errors import StoreError
from infoplane.store._objects import (
    GROUP_INFO,
    LINK,
    LINK_INFO,
    MAX_BLOCK_BYTES,
    SYMBOL_TABLE,
    UNDEFINED,
    Fields,
    Header,
    MetadataBlocks,
    verify,
)

_NAMES = 5  # kind of a B-tree that finds links by the hash of their name
_RECORD = 11  # its records: hash (4), heap identifier (7)
_MAX_DEPTH = 8
_MAX_NAME = 1 << 12


Link = tuple[str, int | None]
"""One name in a group and the address of the object's header; None for everything but a hard link."""


def links(blocks: MetadataBlocks, group: Header, limit: int) -> dict[str, int | None]:
    """Name -> address of the object's header; None for a link of another kind, which the caller refuses."""
    if SYMBOL_TABLE in group.messages or LINK_INFO not in group.messages:
        raise StoreError(f"{group.what} is a group of the old kind (symbol table); only new ones are allowed")
    info = group.one(LINK_INFO)
    info.expect(1, 0, name="version of the link info")
    info.take(8 if info.expect(1, 0, 1, 2, 3, name="flags of the link info") & 1 else 0)
    heap, names = info.number(8), info.number(8)
    if group.shared(GROUP_INFO) or group.shared(LINK):
        raise StoreError(f"{group.what} shares its description with another object; that is not allowed")
    found = [_link(Fields(message.data, group.what)) for message in group.messages.get(LINK, ())]
    if heap != UNDEFINED:
        found += _dense(blocks, heap, names, group.what, limit)
    if len(found) > limit:
        raise StoreError(f"{len(found)} objects in one group, at most {limit} allowed")
    if len(dict(found)) < len(found):
        raise StoreError(f"{group.what} has two objects of one name")
    return dict(found)


def _link(fields: Fields) -> Link:
    """A link message, of a header or of a heap."""
    fields.expect(1, 1, name="version of a link")
    flags = fields.number(1)
    kind = fields.number(1) if flags & 8 else 0
    fields.take((8 if flags & 4 else 0) + (1 if flags & 16 else 0))  # order of creation, character set
    size = fields.number(1 << (flags & 3))
    if size > _MAX_NAME:
        raise StoreError(f"{fields.what} has a name of {size} bytes")
    name = fields.take(size).decode("ascii", "replace")
    return name, fields.number(8) if kind == 0 else None


def _dense(blocks: MetadataBlocks, heap: int, names: int, what: str, limit: int) -> list[Link]:
    tree = NameTree(blocks, names, what)
    if tree.count > limit:
        raise StoreError(f"{tree.count} objects in one group, at most {limit} allowed")
    store = Heap(blocks, heap, what)
    return [_link(Fields(store.object(record[4:]), f"a link of {what}")) for record in tree.records()]


def _width(limit: int) -> int:
    """Bytes that a number up to `limit` takes in a node."""
    return (max(limit, 1).bit_length() + 7) // 8


class NameTree:
    """A version 2 B-tree over the hashes of link names."""

    def __init__(self, blocks: MetadataBlocks, address: int, what: str) -> None:
        self.blocks, self.what = blocks, f"the index of {what}"
        head = Fields(blocks.checked(address, 38, self.what, head=b"BTHD"), self.what, 4)
        head.expect(1, 0, name="version")
        head.expect(1, _NAMES, name="kind")
        self.node_bytes = head.number(4)
        head.expect(2, _RECORD, name="bytes of a record")
        self.depth = head.number(2)
        head.take(2)  # when nodes are split and merged
        self.root, self.root_count, self.count = head.number(8), head.number(2), head.number(8)
        if self.depth > _MAX_DEPTH or not 64 <= self.node_bytes <= MAX_BLOCK_BYTES:
            raise StoreError(f"{self.what} has depth {self.depth} and nodes of {self.node_bytes} bytes")
        # What a node of each depth can hold, which decides how wide the counts in the nodes above are.
        self.most = [(self.node_bytes - 10) // _RECORD]
        self.below = [self.most[0]]
        for depth in range(1, self.depth + 1):
            pointer = self._pointer(depth)
            self.most.append((self.node_bytes - 10 - pointer) // (_RECORD + pointer))
            self.below.append((self.most[depth] + 1) * self.below[-1] + self.most[depth])

    def _pointer(self, depth: int) -> int:
        """Bytes of a child's address and counts in a node of this depth."""
        return 8 + _width(self.most[0]) + (_width(self.below[depth - 1]) if depth > 1 else 0)

    def records(self) -> list[bytes]:
        found = list(self._node(self.root, self.root_count, self.depth)) if self.count else []
        if len(found) != self.count:
            raise StoreError(f"{self.what} counts {self.count} links and holds {len(found)}")
        return found

    def _node(self, address: int, count: int, depth: int) -> Iterator[bytes]:
        if not 0 < count <= self.most[depth]:
            raise StoreError(f"{self.what} has a node of {count} records")
        size = 6 + count * _RECORD + ((count + 1) * self._pointer(depth) if depth else 0) + 4
        node = Fields(
            self.blocks.checked(address, size, f"a node of {self.what}", head=b"BTIN" if depth else b"BTLF"),
            self.what,
            4,
        )
        node.expect(1, 0, name="version")
        node.expect(1, _NAMES, name="kind")
        yield from (node.take(_RECORD) for _ in range(count))
        for _ in range(count + 1 if depth else 0):
            child, held = node.number(8), node.number(_width(self.most[0]))
            node.take(_width(self.below[depth - 1]) if depth > 1 else 0)
            yield from self._node(child, held, depth - 1)


class Heap:
    """A fractal heap whose objects lie in its own blocks, without filters."""

    def __init__(self, blocks: MetadataBlocks, address: int, what: str) -> None:
        self.blocks, self.address, self.what = blocks, address, f"the heap of {what}"
        head = Fields(blocks.checked(address, 146, self.what, head=b"FRHP"), self.what, 4)
        head.expect(1, 0, name="version")
        head.expect(2, 7, name="bytes of an identifier")
        head.expect(2, 0, name="bytes of filters")
        self.with_checksum = bool(head.expect(1, 0, 2, name="flags") & 2)
        head.take(4 + 8 + 8 + 8 + 8)  # limits and places of objects and free space, found otherwise
        head.take(8 * 8)  # counts and sizes
        self.columns, self.first, self.largest = head.number(2), head.number(8), head.number(8)
        self.offset_bytes = (head.expect(2, 32, name="bits of an offset") + 7) // 8
        head.take(2)
        self.root, self.rows = head.number(8), head.number(2)
        sizes = (self.first, self.largest)
        if (
            self.columns != 4
            or any(n & (n - 1) or not 64 <= n <= MAX_BLOCK_BYTES for n in sizes)
            or sizes[0] > sizes[1]
        ):
            raise StoreError(f"{self.what} has {self.columns} columns and blocks of {sizes[0]} to {sizes[1]} bytes")
        self.direct_rows = (self.largest // self.first).bit_length() + 1
        self._direct: dict[int, tuple[int, bytes]] = {}
        self._indirect: dict[int, list[int]] = {}

    def object(self, identifier: bytes) -> bytes:
        """The bytes that an identifier names: kind and version 0, offset (4), length (2)."""
        if identifier[0] != 0:
            raise StoreError(f"{self.what} keeps an object outside its blocks")
        offset, size = int.from_bytes(identifier[1:5], "little"), int.from_bytes(identifier[5:7], "little")
        start, data = self._block(offset)
        if offset - start + size > len(data):
            raise StoreError(f"{self.what} has an object beyond its block")
        return data[offset - start : offset - start + size]

    def _size(self, row: int) -> int:
        """Bytes of heap that one entry of a row covers: 1, 1, 2, 4, ... times those of the first block."""
        return self.first << max(row - 1, 0)

    def _block(self, offset: int) -> tuple[int, bytes]:
        """The direct block that holds an offset of the heap, with its first offset."""
        if not self.rows:
            return self._read_direct(self.root, 0, self.first)
        address, start, rows = self.root, 0, self.rows
        while True:
            entries = self._read_indirect(address, start, rows)
            row, begin = 0, start
            while row < rows and offset >= begin + self.columns * self._size(row):
                begin += self.columns * self._size(row)
                row += 1
            if row == rows:
                raise StoreError(f"{self.what} has an object beyond its end")
            column = (offset - begin) // self._size(row)
            address, start = entries[row * self.columns + column], begin + column * self._size(row)
            if row < self.direct_rows:
                return self._read_direct(address, start, self._size(row))
            # A block of rows again, as many as make up the size of this entry: smaller than the one around it.
            rows = (self._size(row) // (self.first * self.columns)).bit_length()

    def _read_direct(self, address: int, start: int, size: int) -> tuple[int, bytes]:
        if start not in self._direct:
            what = f"a block of {self.what}"
            data = self.blocks.read(address, size, what, head=b"FHDB")
            end = self._check_start(data, start, what)
            if self.with_checksum:
                verify(data[:end] + bytes(4) + data[end + 4 :], data[end : end + 4], what)
            self._direct[start] = start, data
        return self._direct[start]

    def _read_indirect(self, address: int, start: int, rows: int) -> list[int]:
        if start not in self._indirect:
            what = f"a table of {self.what}"
            head = 4 + 1 + 8 + self.offset_bytes
            if rows > 32:
                raise StoreError(f"{what} has {rows} rows")
            data = self.blocks.checked(address, head + 8 * rows * self.columns + 4, what, head=b"FHIB")
            self._check_start(data, start, what)
            fields = Fields(data, what, head)
            self._indirect[start] = [fields.number(8) for _ in range(rows * self.columns)]
        return self._indirect[start]

    def _check_start(self, data: bytes, start: int, what: str) -> int:
        """The head of a block: its heap, and where it begins there; how many bytes it takes."""
        fields = Fields(data, what, 4)
        fields.expect(1, 0, name="version")
        fields.expect(8, self.address, name="heap")
        fields.expect(self.offset_bytes, start, name="offset")
        return fields.at
