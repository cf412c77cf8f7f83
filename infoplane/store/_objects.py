"""HDF5's own objects, decoded here in Python: superblock, object headers, their messages, their checksums.

A file from somewhere is never handed to the HDF5 library. What it would do with tables, cycles and sizes that
somebody made up is unknown (crashes and endless loops are known of it); what this module does with them can be
read below. It knows the few kinds of block that `docs/format.md` allows and refuses every other, by name.
Layouts follow the "HDF5 File Format Specification Version 3.0", sections II, III.A, III.G and IV.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from infoplane.core.errors import StoreError
from infoplane.core.text import shorten

UNDEFINED = 2**64 - 1
"""The address of what is not there."""

MAX_METADATA_BYTES = 16 << 20
"""The most that all blocks of a file may have together: it bounds the time, and 10,000 layers need a quarter of it."""

MAX_BLOCK_BYTES = 1 << 16
_MAX_CONTINUATIONS = 16
_SUPERBLOCK = 48
_SIGNATURE = b"\x89HDF\r\n\x1a\n"

# The kinds of messages in a header that are known, and their names.
_KNOWN = (0, 1, 2, 3, 5, 6, 7, 8, 10, 11, 12, 16, 17, 21, 22)
NIL, DATASPACE, LINK_INFO, DATATYPE, FILL_VALUE, LINK, EXTERNAL, LAYOUT = _KNOWN[:8]
GROUP_INFO, FILTERS, ATTRIBUTE, CONTINUATION, SYMBOL_TABLE, ATTRIBUTE_INFO, LINKS_TO_IT = _KNOWN[8:]
_ONCE = {DATASPACE, LINK_INFO, DATATYPE, LAYOUT, GROUP_INFO}
_SHARED = 2  # bit of a message's flags: its content lies elsewhere


class Source(Protocol):
    """Random access to the bytes of one file, each of them read at most once."""

    size: int

    def read(self, offset: int, n: int) -> bytes:
        """Return `n` bytes from byte `offset` on, fewer where the file ends before."""


def checksum(data: bytes) -> int:
    """Return the checksum that HDF5 keeps of a block: Jenkins's `hashlittle` of lookup3 (2006), started at 0."""
    mask = 0xFFFFFFFF  # the sums are those of 32-bit numbers, which wrap around
    a = b = c = (0xDEADBEEF + len(data)) & mask
    if not data:
        return c
    tail = (len(data) - 1) // 12 * 3  # 32-bit words before the last 1 to 12 bytes, which are mixed in another way
    words: tuple[int, ...] = struct.unpack(f"<{tail + 3}I", data.ljust((tail + 3) * 4, b"\0"))
    for i in range(0, tail, 3):
        a, b, c = (a + words[i]) & mask, (b + words[i + 1]) & mask, (c + words[i + 2]) & mask
        for turn in (4, 6, 8, 16, 19, 4):  # a = (a - c) ^ (c turned left), c = c + b; then the three take turns
            a, b, c = b, (c + b) & mask, ((a - c) & mask) ^ (c << turn & mask | c >> (32 - turn))
    a, b, c = (a + words[tail]) & mask, (b + words[tail + 1]) & mask, (c + words[tail + 2]) & mask
    for turn in (14, 11, 25, 16, 4, 14, 24):  # c = (c ^ b) - (b turned left), and the three take turns
        c = ((c ^ b) - (b << turn & mask | b >> (32 - turn))) & mask
        a, b, c = b, c, a
    return b


def shown(name: str) -> str:
    """Return a name from a file as errors show it: quoted, and short enough for one line."""
    return repr(shorten(name, 60))


class Fields:
    """The fields of a block, read one after the other; a field beyond its end is a StoreError, never a guess."""

    def __init__(self, data: bytes, what: str, at: int = 0) -> None:
        """Read `data` from byte `at` on; `what` names the block in errors."""
        self.data, self.what, self.at = data, what, at

    def take(self, n: int) -> bytes:
        """Return the next `n` bytes and move on behind them; StoreError where the block ends before."""
        if self.at + n > len(self.data):
            raise StoreError(f"{self.what} is cut short")
        self.at += n
        return self.data[self.at - n : self.at]

    def number(self, n: int) -> int:
        """Return the next `n` bytes as a whole number, least significant byte first."""
        return int.from_bytes(self.take(n), "little")

    def expect(self, n: int, *allowed: int, name: str) -> int:
        """Return the next `n` bytes as a number; StoreError, which calls it `name`, unless it is one of `allowed`."""
        found = self.number(n)
        if found not in allowed:
            raise StoreError(f"{self.what}: {name} {' or '.join(map(str, allowed))} expected, got {found}")
        return found


class MetadataBlocks:
    """The blocks of metadata of one file. Each is read once, lies within the file, and all together are bounded."""

    def __init__(self, source: Source) -> None:
        """Read from `source`, of which nothing has been read so far."""
        self.source = source
        self.trace: dict[int, bytes] = {}  # offset -> content of every block that was read
        self._room = MAX_METADATA_BYTES  # bytes that may still be read

    def read(self, offset: int, n: int, what: str, *, head: bytes = b"") -> bytes:
        """Return the block of `n` bytes at `offset`; StoreError if it was read before or does not begin with `head`."""
        if offset in self.trace:
            raise StoreError(f"{what} is reached twice: more than one link to it, or a circle")
        if not _SUPERBLOCK <= offset <= self.source.size - n:
            raise StoreError(f"{what} does not lie within the file's {self.source.size} bytes")
        self._room -= n
        if n > MAX_BLOCK_BYTES or self._room < 0:
            raise StoreError(f"{what} is larger than anything that the format needs")
        data = self.source.read(offset, n)
        if not data.startswith(head):
            raise StoreError(f"{what} expected at byte {offset}, found something else")
        self.trace[offset] = data
        return data

    def checked(self, offset: int, n: int, what: str, *, head: bytes) -> bytes:
        """Return a block of `n` bytes without its last four, its checksum; StoreError where that does not match."""
        data = self.read(offset, n, what, head=head)
        verify(data[:-4], data[-4:], what)
        return data[:-4]

    def superblock(self) -> int:
        """Read the file's first block and return the address of the root group; StoreError if the block is damaged."""
        data = self.source.read(0, _SUPERBLOCK)
        if len(data) < _SUPERBLOCK or data[:8] != _SIGNATURE:
            raise StoreError("not an HDF5 file (no signature at byte 0)")
        if data[8] not in (2, 3) or data[9:11] != b"\x08\x08":
            raise StoreError(f"superblock version 2 or 3 expected, got {data[8]}")
        verify(data[:-4], data[-4:], "the superblock")
        # Bytes 9 to 11: sizes of addresses and of lengths (8 each), flags (0 once the file was closed).
        base, extension, end, root = struct.unpack("<QQQQ", data[12:44])
        if base != 0 or extension != UNDEFINED:
            raise StoreError("the superblock has a base address or an extension; neither is allowed")
        if data[11] != 0:
            raise StoreError("the file was not closed by the program that wrote it")
        if end != self.source.size:
            raise StoreError(f"{end} bytes expected, got {self.source.size}")
        self.trace[0] = data
        return int(root)


def verify(data: bytes, stored: bytes, what: str) -> None:
    """Raise StoreError if the checksum of `data` is not the 4 bytes `stored`; `what` names the block in the error."""
    if checksum(data).to_bytes(4, "little") != stored:
        raise StoreError(f"{what} does not match its checksum; the file was altered")


@dataclass(frozen=True)
class Header:
    """The header of one object, a group or an array: the contents of its messages by kind. Errors call it `what`."""

    what: str
    messages: Mapping[int, list[bytes]]

    def one(self, kind: int) -> Fields:
        """Return the fields of the only message of this kind; `read_header` has refused a second one."""
        (message,) = self.messages[kind]
        return Fields(message, self.what)

    @property
    def is_group(self) -> bool:
        """Whether the object has a message that only groups have."""
        return bool(self.messages.keys() & {LINK_INFO, LINK, GROUP_INFO, SYMBOL_TABLE})

    @property
    def has_attributes(self) -> bool:
        """Whether the object has attributes: in messages of their own or, where they are many, in a heap."""
        for message in self.messages.get(ATTRIBUTE_INFO, ()):
            fields = Fields(message, self.what)
            fields.expect(1, 0, name="version of the attribute info")
            # Bit 0 of the flags: two bytes with the highest order of creation stand before the heap's address.
            fields.take(2 if fields.expect(1, 0, 1, 2, 3, name="flags of the attribute info") & 1 else 0)
            if fields.number(8) != UNDEFINED:
                return True
        return ATTRIBUTE in self.messages


def read_header(blocks: MetadataBlocks, address: int, what: str) -> Header:
    """Return the messages of the object at `address`, which errors call `what`; StoreError for headers of old files."""
    header = f"the header of {what}"
    start = Fields(blocks.source.read(address, 34), header)  # what precedes the messages has at most 34 bytes
    if start.take(4) != b"OHDR":
        raise StoreError(f"{header} is not one of version 2 (with a checksum), the only one allowed")
    start.expect(1, 2, name="version")
    # Bits 0 and 1: bytes of the size (1, 2, 4, 8); 2: messages have an order; 4: limits of attributes; 5: times.
    flags = start.number(1)
    if flags & 0xC0:
        raise StoreError(f"{header} has the unknown flags {flags:#x}")
    start.take((16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0))  # times, limits of attributes
    size = start.number(1 << (flags & 3))
    data = blocks.checked(address, start.at + size + 4, header, head=b"OHDR")  # with a checksum of 4 bytes
    messages: dict[int, list[bytes]] = {}
    chunks = [data[start.at :]]
    for chunk in chunks:  # grows by the continuations that are found
        for kind, message in _messages(chunk, header, ordered=bool(flags & 4)):
            if kind != CONTINUATION:
                messages.setdefault(kind, []).append(message)
                continue
            if len(chunks) > _MAX_CONTINUATIONS:
                raise StoreError(f"{header} has more than {_MAX_CONTINUATIONS} continuations")
            place = Fields(message, header)
            more = blocks.checked(place.number(8), place.number(8), f"a continuation of {header}", head=b"OCHK")
            chunks.append(more[4:])  # behind the signature
    for kind in _ONCE & messages.keys():
        if len(messages[kind]) > 1:
            raise StoreError(f"{header} has {len(messages[kind])} messages of kind {kind}, one allowed")
    return Header(what, messages)


def _messages(chunk: bytes, what: str, *, ordered: bool) -> Iterator[tuple[int, bytes]]:
    """Yield (kind, content) of the messages in one piece of a header; with `ordered` each has a number of its order."""
    fields = Fields(chunk, what)
    while len(chunk) - fields.at >= (6 if ordered else 4):  # fewer bytes than the head of a message are a gap
        kind, size, flags = fields.number(1), fields.number(2), fields.number(1)
        fields.take(2 if ordered else 0)  # its number, which is not needed
        if kind not in _KNOWN:
            raise StoreError(f"{what} has a message of kind {kind}, which the format does not know")
        content = fields.take(size)
        if flags & _SHARED and kind != DATATYPE:
            raise StoreError(f"{what} shares its description with another object; that is not allowed")
        yield kind, b"" if flags & _SHARED else content  # a type that lies elsewhere: b"" is no allowed type
