"""Reading a manifest: what its lines say, and what is wrong with them, in bounded time, memory and words."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from infoplane.core import files
from infoplane.core.errors import StoreError
from infoplane.core.files import MIB
from infoplane.store._records import ManifestEntry
from infoplane.store.layout import MAX_MANIFEST_BYTES, MAX_MANIFEST_DAMAGE, MAX_MANIFEST_LINE, MAX_MANIFEST_LINES

_NAMED = 10
_WITHOUT = "the shards are read without it"


@dataclass
class Manifest:
    """The lines of one manifest that can be used.

    Attributes
    ----------
    entries : dict of shard name to ManifestEntry
    lines : dict of shard name to bytes
        The line as it stands in the file, without its end.
    complaints : list of str
        What is wrong with other lines: the first ten by number, then how many more.
    clean : bool
        Whether there is nothing in the file but these lines.
    """

    entries: dict[str, ManifestEntry] = field(default_factory=dict)
    lines: dict[str, bytes] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)
    clean: bool = True

    def add(self, line: bytes | None, numbers: dict[str, int], number: int) -> None:
        """Take one line. Raises StoreError with the reason why it cannot be used."""
        if line is None:
            raise StoreError(f"more than {MAX_MANIFEST_LINE} bytes")
        entry = ManifestEntry.parse(line)
        first = numbers.setdefault(entry.name, number)
        if first == number:
            self.entries[entry.name], self.lines[entry.name] = entry, line
        elif self.entries.pop(entry.name, entry) != entry or entry.name not in self.lines:
            self.lines.pop(entry.name, None)  # nobody can say which of the two is right
            raise StoreError(f"it contradicts line {first} on {entry.name}")
        else:
            self.entries[entry.name], self.clean = entry, False


def read_manifest(path: Path) -> Manifest:
    """The usable lines of a manifest; OSError or StoreError where the file as a whole cannot be read."""
    found, numbers, bad, blank = Manifest(), dict[str, int](), 0, 0
    for number, line in _lines(path):
        if line == b"":  # what a torn line leaves behind; not worth a word, but not for ever either
            blank += 1
        else:
            try:
                found.add(line, numbers, number)
            except StoreError as error:
                bad += 1
                if bad <= _NAMED:
                    found.complaints.append(f"line {number}: {error}; {_WITHOUT}")
        too_many = _too_many(bad + blank, number)
        if too_many:
            found.complaints.append(f"{too_many}; the rest is not used, and {_WITHOUT}")
            break
    else:
        if bad > _NAMED:
            found.complaints.append(f"{bad - _NAMED} more lines are damaged; {_WITHOUT}")
    found.clean = found.clean and not (bad or blank) and _ends_whole(path)
    return found


def _too_many(useless: int, lines: int) -> str:
    if useless > MAX_MANIFEST_DAMAGE:
        return f"more than {MAX_MANIFEST_DAMAGE} damaged or empty lines"
    return f"more than {MAX_MANIFEST_LINES} lines" if lines > MAX_MANIFEST_LINES else ""


def _lines(path: Path) -> Iterator[tuple[int, bytes | None]]:
    """Number and content of every whole line, None for one that is too long.

    What follows the last line end was cut off by a kill, and is left out.
    """
    fd = files.open_regular(path)
    try:
        size = os.fstat(fd).st_size
        if size > MAX_MANIFEST_BYTES:
            raise StoreError(f"{size} bytes, at most {MAX_MANIFEST_BYTES} expected")
        number, rest, too_long = 0, b"", False
        for at in range(0, size, MIB):
            *whole, rest = (rest + os.pread(fd, MIB, at)).split(b"\n")
            for line in whole:
                number += 1
                yield number, None if too_long or len(line) > MAX_MANIFEST_LINE else line
                too_long = False
            if len(rest) > MAX_MANIFEST_LINE:  # its bytes are not needed to call it too long
                rest, too_long = b"", True
    finally:
        os.close(fd)


def _ends_whole(path: Path) -> bool:
    return files.last_byte(path) in (b"", b"\n")
