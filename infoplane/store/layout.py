"""Every name, limit and type of the activation store: `docs/format.md` in code."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from infoplane.core.files import MIB
from infoplane.core.steps import MAX_STEP as MAX_STEP

FORMAT_VERSION = 2
"""The newest version of the run directory and of the files in it. Readers take all versions up to their own."""

FIRST_VERSION = 1
"""Version of every file but `run.json` and `probe.h5` of a run with labels for each position."""

RUN_FILE = "run.json"
PROBE_FILE = "probe.h5"
SESSIONS_DIR = "sessions"
SHARDS_DIR = "shards"

SEAL_BYTES = 64 * MIB
SEAL_SECONDS = 2.0
"""A shard is written when so many bytes wait, or the first of them for so long."""

MAX_FILE_BYTES = 256 * MIB
"""No published file is larger; a snapshot beyond it is split by samples."""

MAX_INPUT_BYTES = 256 * MIB
"""Probe inputs beyond this are not kept; an estimator that needs them says so."""

# What is larger than the format allows is taken for damaged, and not read.
MAX_PROBE_FILE_BYTES = 1 << 32
MAX_MANIFEST_BYTES = 128 * MIB
MAX_MANIFEST_LINE = 8 * MIB
MAX_MANIFEST_LINES = 1_000_000
MAX_MANIFEST_DAMAGE = 1000
"""Damaged or empty lines after which a manifest is read no further: the shards say the same again."""

MAX_INDEX_BYTES = 256 * MIB
MAX_LAYERS = 10_000
MAX_RANKS = 1000
MAX_PARTS = 1000
MAX_SESSIONS = 9999

# Root objects of a shard besides the group `acts`, in the order in which the seal digests them.
SHARD_INDEX = ("meta", "step", "epoch", "time", "rows", "metrics", "recorded", "digests", "nonfinite")
PROBE_INDEX = ("meta", "sample_ids", "input_ids", "repeats", "part", "labels")
SEAL = "seal"
ACTS = "acts"
INPUTS = "inputs"

# Floats that numpy has not: their bits.
_BITS = {"bfloat16": "u2", "float8_e4m3fn": "u1", "float8_e5m2": "u1"}
_FLOATS = ("float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "float8_e5m2")
_INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")

# Logical dtype (torch's name) -> numpy dtype of the arrays that writer and reader exchange.
ARRAY_DTYPES: dict[str, np.dtype[Any]] = {
    name: np.dtype(_BITS.get(name, name)).newbyteorder("<") for name in (*_FLOATS, *_INTEGERS, "bool")
}

# Narrow floats: a value is NaN or infinite when (bits & mask) == mask.
NONFINITE_MASKS: dict[str, int] = {"float16": 0x7C00, "bfloat16": 0x7F80, "float8_e5m2": 0x7C, "float8_e4m3fn": 0x7F}


def type_name(dtype: np.dtype[Any]) -> str:
    """Return the name of a numpy type in `_h5.TYPES`, "f4" for float32; for a big-endian type, a name not in it."""
    return dtype.str.lstrip("<|")


def file_type(dtype: str) -> str:
    """Return the name that `_h5.TYPES` has for the type in which a layer of this dtype (torch's name) is stored."""
    # Booleans are stored as bytes, and numpy, unlike HDF5, has no bfloat16.
    return {"bfloat16": "bfloat16", "bool": "u1"}.get(dtype) or type_name(ARRAY_DTYPES[dtype])


def act_name(index: int) -> str:
    """Return the name of the dataset that holds the activations of layer number `index` of the shard."""
    return f"{ACTS}/{index:04d}"


def count_nonfinite(array: npt.NDArray[Any], dtype: str) -> int:
    """Return how many values of an array, which holds numbers of this dtype (torch's name), are NaN or infinite."""
    mask = NONFINITE_MASKS.get(dtype)
    if mask is not None:  # a narrow float, of which the array may have the bits alone
        bits = array.reshape(-1).view(f"u{array.itemsize}")
        block = 1 << 16  # stays in the cache; the whole array at once is three times slower
        parts = (bits[start : start + block] for start in range(0, bits.size, block))
        return sum(int(np.count_nonzero((part & mask) == mask)) for part in parts)
    with np.errstate(all="ignore"):
        # NaN and infinity survive a sum, which is 20 times faster than a look at every value.
        if array.dtype.kind != "f" or np.isfinite(array.sum()):
            return 0
    return int(array.size - np.count_nonzero(np.isfinite(array)))


def row_ranges(rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Turn row numbers (N,) into half-open ranges (R, 2) that list the same rows in the same order."""
    # A range begins where the row before is not one lower, and ends where the next row is not one higher.
    first = np.flatnonzero(np.diff(rows, prepend=rows[:1]) != 1)
    last = np.flatnonzero(np.diff(rows, append=rows[-1:]) != 1)
    return np.stack([rows[first], rows[last] + 1], axis=1)


def ranges_size(ranges: npt.NDArray[np.int64]) -> int:
    """Return how many rows the half-open ranges (R, 2) list together."""
    return int((ranges[:, 1] - ranges[:, 0]).sum())


def listed_rows(ranges: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Turn half-open ranges (R, 2) into the row numbers (N,) that they list."""
    return np.concatenate([np.empty(0, np.int64), *(np.arange(start, stop) for start, stop in ranges.tolist())])


def cut_ranges(ranges: npt.NDArray[np.int64], start: int, stop: int) -> npt.NDArray[np.int64]:
    """Return ranges (R, 2) for a part of the rows that `ranges` lists: those at places `start` to `stop`, excluded."""
    return row_ranges(listed_rows(ranges)[start:stop])


_SHARD = re.compile(r"(\d{8,19})-(\d{8,19})\.s(\d{4})\.r(\d{3})(?:\.p(\d{2,3}))?\.h5", re.ASCII)
_SESSION = re.compile(r"(\d{4})(?:\.r(\d{3}))?\.json", re.ASCII)
_MANIFEST = re.compile(r"manifest(?:\.r\d{3})?\.jsonl", re.ASCII)
_DROPPED = re.compile(r"dropped\.s(\d{4})\.r(\d{3})\.(\d{8,19})-(\d{8,19})", re.ASCII)


@dataclass(frozen=True, order=True)
class ShardName:
    """`00000128-00000191.s0001.r000.h5`: first and last step, session, rank and, where split, part."""

    first: int
    last: int
    session: int
    rank: int
    part: int | None = None

    def __str__(self) -> str:
        part = "" if self.part is None else f".p{self.part:02d}"
        return f"{self.first:08d}-{self.last:08d}.s{self.session:04d}.r{self.rank:03d}{part}.h5"

    @classmethod
    def parse(cls, name: str) -> Self | None:
        """Return what a file's name says; None where it is not the name of a shard."""
        match = _SHARD.fullmatch(name)
        shard = match and cls(*(int(number) for number in match.groups() if number is not None))
        return shard if str(shard) == name else None  # not for a name with other leading zeros


def session_file(session: int, rank: int) -> str:
    """Return the name of the file of one process: of this rank, in this session."""
    return f"{session:04d}.json" if rank == 0 else f"{session:04d}.r{rank:03d}.json"


def parse_session_file(name: str) -> tuple[int, int] | None:
    """Return (session, rank) from the name of a session's file; None for other names."""
    match = _SESSION.fullmatch(name)
    return match and (int(match[1]), int(match[2] or 0))  # the name of a file of rank 0 has no rank in it


def manifest_file(rank: int) -> str:
    """Return the name of the file that lists the shards that the process of this rank wrote."""
    return "manifest.jsonl" if rank == 0 else f"manifest.r{rank:03d}.jsonl"


def is_manifest_file(name: str) -> bool:
    """Whether a file of this name lists the shards of some rank."""
    return _MANIFEST.fullmatch(name) is not None


def dropped_file(session: int, rank: int, first: int, last: int) -> str:
    """Return the name of an empty file about steps that were dropped, some of those from `first` to `last`.

    It is made where the session's file, which lists such steps, could not be written.
    """
    return f"dropped.s{session:04d}.r{rank:03d}.{first:08d}-{last:08d}"


def parse_dropped_file(name: str) -> tuple[int, int, int, int] | None:
    """Return (session, rank, first step, last step) from the name of a file about dropped steps; None for others."""
    match = _DROPPED.fullmatch(name)
    return match and (int(match[1]), int(match[2]), int(match[3]), int(match[4]))


def lock_file(rank: int) -> str:
    """Return the name of the lock file that a process of this rank holds while it writes."""
    return f"writer.r{rank:03d}.lock"
