"""The links of a group: messages in its header or, where there are many, a B-tree of names over a heap.

Old groups (symbol tables) are refused. See `_objects` for the reason why this is not left to the HDF5 library.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator

from infoplane.core.errors import StoreError
from infoplane.store._objects import (
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
_COLUMNS = 4  # of a heap's tables, always
_MAX_DEPTH = 8
_MAX_NAME = 1 << 12


def links(blocks: MetadataBlocks, group: Header, limit: int) -> dict[str, int | None]:
    """Return the address of every object in a group by its name; None for a link that is not a hard one.

    StoreError for more than `limit` objects, and for what the format does not allow.
    """
    if SYMBOL_TABLE in group.messages or LINK_INFO not in group.messages:
        raise StoreError(f"{group.what} is a group of the old kind (symbol table); only new ones are allowed")
    info = group.one(LINK_INFO)
    info.expect(1, 0, name="version of the link info")
    # Bit 0 of the flags: the highest number of the order of creation stands here.
    info.take(8 if info.expect(1, 0, 1, 2, 3, name="flags of the link info") & 1 else 0)
    heap_address, tree_address = info.number(8), info.number(8)
    found = [_link(Fields(message, group.what)) for message in group.messages.get(LINK, ())]
    if heap_address != UNDEFINED:  # many links: a tree whose records say where in the heap each link lies
        tree, heap = NameTree(blocks, tree_address, group.what), Heap(blocks, heap_address, group.what)
        _check_count(tree.count, limit)  # before so many are read
        found += [_link(Fields(heap[record[4:]], f"a link of {group.what}")) for record in tree.records()]
    _check_count(len(found), limit)
    if len(dict(found)) < len(found):
        raise StoreError(f"{group.what} has two objects of one name")
    return dict(found)


def _link(fields: Fields) -> tuple[str, int | None]:
    """Read a link's message: return the name, and the address of the object, None unless it is a hard link."""
    fields.expect(1, 1, name="version of a link")
    # Bits 0 and 1: bytes of the length of the name (1, 2, 4, 8); 2: order of creation; 3: kind; 4: character set.
    flags = fields.number(1)
    kind = fields.number(1) if flags & 8 else 0
    fields.take((8 if flags & 4 else 0) + (1 if flags & 16 else 0))  # order of creation, character set
    size = fields.number(1 << (flags & 3))
    if size > _MAX_NAME:
        raise StoreError(f"{fields.what} has a name of {size} bytes")
    name = fields.take(size).decode("ascii", "replace")
    return name, fields.number(8) if kind == 0 else None


def _check_count(count: int, limit: int) -> None:
    """Raise StoreError for more objects in one group than allowed."""
    if count > limit:
        raise StoreError(f"{count} objects in one group, at most {limit} allowed")


def _width(largest: int) -> int:
    """Return how many bytes HDF5 takes in a node of a B-tree for a count of at most `largest`."""
    return (largest.bit_length() + 7) // 8


class NameTree:
    """A B-tree of version 2, in which HDF5 finds a link by the hash of its name.

    Each record is 4 bytes of hash and 7 that say where in the heap the link lies.
    """

    def __init__(self, blocks: MetadataBlocks, address: int, what: str) -> None:
        """Read the head of the tree at `address`; `what` names its group in errors."""
        self.blocks, self.what = blocks, f"the index of {what}"
        # 38 bytes: the head of a tree in a file with addresses of 8.
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
        # By depth, 0 for leaves: the records that a node can hold, and the bytes of its pointer to a child. A pointer
        # is address (8), records in the child, and, unless that is a leaf, records below it; a count is as wide as
        # the largest one needs.
        room = self.node_bytes - 10  # signature (4), version, kind, checksum (4)
        self.most_records, self.pointer_bytes = [room // _RECORD], [0]
        below = self.most_records[0]  # the most records of a subtree
        self.count_bytes = _width(below)
        for depth in range(1, self.depth + 1):
            pointer = 8 + self.count_bytes + (_width(below) if depth > 1 else 0)
            most = (room - pointer) // (_RECORD + pointer)
            below = (most + 1) * below + most
            self.most_records.append(most)
            self.pointer_bytes.append(pointer)

    def records(self) -> list[bytes]:
        """Return the records of the whole tree; StoreError unless there are as many as its head says."""
        found = list(self._node(self.root, self.root_count, self.depth)) if self.count else []
        if len(found) != self.count:
            raise StoreError(f"{self.what} counts {self.count} links and holds {len(found)}")
        return found

    def _node(self, address: int, count: int, depth: int) -> Iterator[bytes]:
        """Yield the `count` records of the node at `address`, then those of its children; leaves have depth 0."""
        if not 0 < count <= self.most_records[depth]:
            raise StoreError(f"{self.what} has a node of {count} records")
        # signature (4), version, kind; records; pointers; checksum (4)
        size = 6 + count * _RECORD + (count + 1) * self.pointer_bytes[depth] + 4
        head = b"BTIN" if depth else b"BTLF"
        node = Fields(self.blocks.checked(address, size, f"a node of {self.what}", head=head), self.what, 4)
        node.expect(1, 0, name="version")
        node.expect(1, _NAMES, name="kind")
        yield from (node.take(_RECORD) for _ in range(count))
        for _ in range(count + 1 if depth else 0):
            child, child_count = node.number(8), node.number(self.count_bytes)
            node.take(self.pointer_bytes[depth] - 8 - self.count_bytes)  # records below the child, counted there
            yield from self._node(child, child_count, depth - 1)


class Heap:
    """A "fractal heap": blocks that together hold the links of a group; `heap[identifier]` gives the bytes of one.

    A table lists the blocks, small ones first. The last entries of a large table are tables again.
    """

    def __init__(self, blocks: MetadataBlocks, address: int, what: str) -> None:
        """Read the whole heap whose head is at `address`; `what` names its group in errors."""
        self.blocks, self.address, self.what = blocks, address, f"the heap of {what}"
        # 146 bytes: the head of a heap without filters in a file with addresses of 8.
        head = Fields(blocks.checked(address, 146, self.what, head=b"FRHP"), self.what, 4)
        head.expect(1, 0, name="version")
        head.expect(2, 7, name="bytes of an identifier")
        head.expect(2, 0, name="bytes of filters")
        self.with_checksum = bool(head.expect(1, 0, 2, name="flags") & 2)  # bit 1: blocks have a checksum
        head.take(4 + 8 + 8 + 8 + 8)  # limits and places of objects and free space, not needed
        head.take(8 * 8)  # counts and sizes, not needed
        columns, self.first, largest = head.number(2), head.number(8), head.number(8)
        self.offset_bytes = (head.expect(2, 32, name="bits of an offset") + 7) // 8
        head.take(2)  # rows that the root had when it was made
        root, rows = head.number(8), head.number(2)
        powers_of_two = all(64 <= n <= MAX_BLOCK_BYTES and not n & (n - 1) for n in (self.first, largest))
        if columns != _COLUMNS or not powers_of_two or self.first > largest:
            raise StoreError(f"{self.what} has {columns} columns and blocks of {self.first} to {largest} bytes")
        # Rows of a table whose entries are blocks; those of further rows are tables.
        self.direct_rows = (largest // self.first).bit_length() + 1
        found = dict(self._content(root, 0, self.first, rows))
        self.starts, self.contents = list(found), list(found.values())

    def __getitem__(self, identifier: bytes) -> bytes:
        """Return the bytes of the object that `identifier` names; StoreError where it does not lie in a block.

        An identifier is a byte of version and kind, both 0, the object's offset in the heap (4) and its length (2).
        """
        if identifier[0] != 0:
            raise StoreError(f"{self.what} keeps an object outside its blocks")
        offset, size = int.from_bytes(identifier[1:5], "little"), int.from_bytes(identifier[5:7], "little")
        number = bisect.bisect(self.starts, offset) - 1  # of the block; -1 before the first one
        begin = offset - self.starts[number] if number >= 0 else 0
        if number < 0 or begin + size > len(self.contents[number]):
            raise StoreError(f"{self.what} has an object beyond its blocks")
        return self.contents[number][begin : begin + size]

    def _content(self, address: int, start: int, size: int, rows: int) -> Iterator[tuple[int, bytes]]:
        """Yield (offset in the heap, bytes) of the block at `address`, or of each block in the table there.

        `rows` is 0 for a block, of `size` bytes, and else the number of the table's rows; `start` is the offset in the
        heap at which it begins.
        """
        if not rows:
            yield start, self._block(address, start, size)
            return
        for i, child in enumerate(self._table(address, start, rows)):
            # Entries of the rows cover 1, 1, 2, 4, ... times the bytes of the first block. Those beyond the largest
            # block are tables again, of as many rows as make up their size: fewer than the table around them.
            row = i // _COLUMNS
            size = self.first << max(row - 1, 0)
            child_rows = 0 if row < self.direct_rows else (size // (self.first * _COLUMNS)).bit_length()
            if child != UNDEFINED:  # an entry that is not used yet has no address, but its offsets count
                yield from self._content(child, start, size, child_rows)
            start += size

    def _block(self, address: int, start: int, size: int) -> bytes:
        """Return `size` bytes at `address`; StoreError unless they are the heap's block at offset `start`."""
        what = f"a block of {self.what}"
        data = self.blocks.read(address, size, what, head=b"FHDB")
        end = self._check_start(data, start, what)
        if self.with_checksum:
            # The checksum of a block counts its own four bytes as zeros.
            verify(data[:end] + bytes(4) + data[end + 4 :], data[end : end + 4], what)
        return data

    def _table(self, address: int, start: int, rows: int) -> list[int]:
        """Return the addresses of the blocks and tables that a table lists, row by row."""
        what, entries = f"a table of {self.what}", rows * _COLUMNS
        if rows > 32:  # rows double in size, and offsets have 32 bits
            raise StoreError(f"{what} has {rows} rows")
        size = 4 + 1 + 8 + self.offset_bytes + 8 * entries + 4  # signature, version, heap, offset, entries, checksum
        data = self.blocks.checked(address, size, what, head=b"FHIB")
        fields = Fields(data, what, self._check_start(data, start, what))
        return [fields.number(8) for _ in range(entries)]

    def _check_start(self, data: bytes, start: int, what: str) -> int:
        """Return the length of a block's or table's head; StoreError unless it names this heap and offset `start`."""
        fields = Fields(data, what, 4)
        fields.expect(1, 0, name="version")
        fields.expect(8, self.address, name="heap")
        fields.expect(self.offset_bytes, start, name="offset")
        return fields.at
