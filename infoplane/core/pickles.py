"""Torch files that loading of weights alone refuses: why, in one line. A pickle is looked through, never executed."""

from __future__ import annotations

import io
import itertools
import pickletools
import re
import zipfile
from pathlib import Path
from typing import IO, Any

from infoplane.core.text import printable

_ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_PICKLE_BYTES = 64 << 20  # a larger pickle is not looked through


def refuse_compressed(file: Path) -> None:
    """Raise ValueError for a torch file with compressed entries: torch writes none, and one could hold any size."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            packed = next((n for n in archive.infolist() if n.compress_type != zipfile.ZIP_STORED), None)
        if packed is not None:
            raise ValueError(f"its entry {printable(packed.filename)} is compressed, as torch.save never writes it")


def why_refused(file: Path, error: Exception) -> str | None:
    """Return why `torch.load(weights_only=True)` refused a file: which object, and its key; None for other errors."""
    refused = re.search(r"GLOBAL (\S+)", str(error))
    if refused is None and "Unsupported operand" in str(error):
        return "it is a pickle of Python objects, which only executing it reads; save tensors with torch.save"
    if refused is None:
        return None
    what, remedy = f"a {refused[1]}", "tensors only"
    if refused[1].startswith("numpy."):
        what, remedy = "numpy arrays", "torch.from_numpy(...), or use numpy.savez"
    key = _key_before(file, refused[1])
    where = "it" if key is None else f"{key!r:.60}"
    return f"{where} holds {what}, which loading of weights alone does not read; save {remedy}"


def one_line(error: Exception) -> str:
    """Return the reason that an error gives, a sentence without escape codes and torch's advice to trust the file."""
    if isinstance(error, EOFError):
        return "the file ends too early"
    text = _ESCAPES.sub("", str(error)).rpartition("WeightsUnpickler error: ")[2].strip()
    return printable(text.splitlines()[0].partition(". ")[0])[:300] if text else type(error).__name__


def _key_before(file: Path, name: str) -> str | None:
    """Return the key of the object `name` in a torch file, the last string before it; None where none is found."""
    # The file is only looked through, never executed.
    try:
        with _pickles(file) as stream:
            found = (_search(stream, name) for _ in range(5))  # files of before 2020 hold several pickles
            return next((key for key in found if key is not None), None)
    except (OSError, ValueError, IndexError, KeyError, zipfile.BadZipFile):
        return None


def _pickles(file: Path) -> IO[bytes]:
    """Return the stream of pickles in a torch file, new or old."""
    if not zipfile.is_zipfile(file):
        return file.open("rb")
    with zipfile.ZipFile(file) as archive:
        inner = [n for n in archive.infolist() if n.filename.endswith("data.pkl") and n.file_size <= _PICKLE_BYTES]
        return io.BytesIO(archive.read(inner[0]))


def _search(stream: IO[bytes], name: str) -> str | None:
    """Return the last string before one pickle asks for the object `name`; None where it does not."""
    strings: list[str] = []
    memo: dict[Any, str] = {}  # strings that the pickle keeps to name them again
    last: Any = None  # the value of the last opcode
    for code, value, _ in itertools.islice(pickletools.genops(stream), 1_000_000):
        # An old opcode names its object itself, a newer one by the two strings before it: module and name.
        if code.name.startswith(("GLOBAL", "INST")) and str(value).replace(" ", ".") == name:
            return strings[-1] if strings else None
        if code.name == "STACK_GLOBAL" and ".".join(strings[-2:]) == name:
            return strings[-3] if len(strings) > 2 else None
        if code.name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            if isinstance(last, str):
                memo[len(memo) if value is None else value] = last
            continue
        last = memo.get(value) if code.name in ("GET", "BINGET", "LONG_BINGET") else value
        if isinstance(last, str) and "GLOBAL" not in code.name:
            strings.append(last)
    return None
