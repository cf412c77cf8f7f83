"""Files that a stranger might hand over: changed by chance, changed with all checksums made to fit, or made anew."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from test_damage import mutations
from test_hostile import BAD, INDEXES, OBJECTS, arrays_of, rebuild

from infoplane.core import StoreError
from infoplane.core.files import digest
from infoplane.core.files import fingerprint as table_digest
from infoplane.store import _h5
from infoplane.store._objects import MetadataBlocks
from infoplane.store._records import load_sealed, seal_json
from infoplane.store._shard import decode_probe
from infoplane.store.layout import PROBE_INDEX, SHARD_INDEX

SHARD = f"shards/{BAD}"
FILES = ("run.json", "probe.h5", "manifest.jsonl", "sessions/0001.json", SHARD, "results.csv", "results.json")
Change = tuple[str, str, Callable[[Path], None]]  # kind, file of the run, what to do to it

VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**62, 2**63, -(2**63), 10**30, 0.5, -0.0, 1e308, "", "x", "é\u202e\x1b[31m\n",
    "x" * 5000, "../../etc/passwd", "/dev/zero", "\ud800", [], {}, [[]], [0], [-1, 2**62], ["a", "a"], {"a": {"b": []}},
    [0] * 3000, [[[[[[[[[[]]]]]]]]]],
)  # fmt: skip


def corpus(trap: Path) -> Iterator[Change]:
    """Everything of `test_hostile` that is a file, and what stands in the place of one."""
    for case in [*OBJECTS, *INDEXES]:
        change, after = INDEXES.get(case, (None,))[0], OBJECTS.get(case, (None,))[0]
        yield "corpus", SHARD, lambda path, c=change, a=after: rebuild(path, c, a)
    for damage in OLD_TREES:
        for name in (SHARD, "probe.h5"):
            yield "corpus", name, lambda path, d=damage: old_tree(path, d)
    for name in FILES[:5]:
        yield "corpus", name, lambda path: replace_by(path, lambda: path.symlink_to(trap))
        yield "corpus", name, lambda path: replace_by(path, lambda: path.symlink_to("/dev/zero"))
        yield "corpus", name, lambda path: replace_by(path, lambda: os.mkfifo(path))
        yield "corpus", name, lambda path: replace_by(path, path.mkdir)
    for name in FILES:
        yield "corpus", name, lambda path: os.truncate(path, 0)
        yield "corpus", name, lambda path: os.truncate(path, 1 << 33)  # mostly a hole


def spoil(run: Path, name: str, change: Callable[[Path], None]) -> None:
    """Apply a change as a stranger would, who leaves out the manifest that would give it away by its size."""
    change(run / name)
    if name == SHARD:
        (run / "manifest.jsonl").unlink()


def restore(good: Path, run: Path) -> None:
    """Undo a change: every file of the run as it is in the good one."""
    for name in FILES:
        path = run / name
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        path.unlink(missing_ok=True)
        shutil.copyfile(good / name, path)


def replace_by(path: Path, make: Callable[[], Any]) -> None:
    path.unlink()
    make()


def changed_bytes(run: Path, random: np.random.Generator, count: int) -> Iterator[Change]:
    """About `count` of the damages of `test_damage`, over all files."""
    each = {kind: -(-count // (6 * len(FILES))) for kind in ("flip", "truncate", "zero", "append", "move", "random")}
    for name in FILES:
        for _, data in mutations((run / name).read_bytes(), random, each):
            yield "bytes", name, lambda path, data=data: path.write_bytes(data)


def changed_json(run: Path, random: np.random.Generator, count: int) -> Iterator[Change]:
    """Values exchanged anywhere in a JSON object, sealed again."""
    lines = (run / "manifest.jsonl").read_bytes().splitlines()
    table = (run / "results.csv").read_bytes()
    for _ in range(count):
        name = ("run.json", "manifest.jsonl", "sessions/0001.json", "results.json", SHARD, "probe.h5")[
            int(random.integers(6))
        ]
        path = run / name
        if name.endswith(".h5"):
            yield "fields", name, lambda path, seed=int(random.integers(2**32)): reindex(path, seed, meta_only=True)  # noqa: B008
            continue
        if name == "manifest.jsonl":
            data = b"".join(seal_json(disturb(load_sealed(line), random)) + b"\n" for line in lines)
        elif name == "results.json":
            meta = disturb(json.loads(path.read_bytes()), random)
            if random.random() < 0.7:
                meta["table"] = {"bytes": len(table), "blake2b": table_digest(table)}
            data = json.dumps(meta).encode()
        else:
            data = seal_json(disturb(load_sealed(path.read_bytes()), random)) + b"\n"
        yield "fields", name, lambda path, data=data: path.write_bytes(data)


def disturb(tree: dict[str, Any], random: np.random.Generator) -> dict[str, Any]:
    """One to three places anywhere in the tree get another value, lose theirs or gain one."""
    tree = copy.deepcopy(tree)
    for _ in range(int(random.integers(1, 4))):
        at: Any = tree
        while True:
            keys = list(at) if isinstance(at, dict) else list(range(len(at)))
            if not keys:
                break
            key = keys[int(random.integers(len(keys)))]
            if isinstance(at[key], dict | list) and at[key] and random.random() < 0.8:
                at = at[key]
                continue
            value = copy.deepcopy(VALUES[int(random.integers(len(VALUES)))])
            action = random.random()
            if action < 0.7:
                at[key] = value
            elif action < 0.85:
                del at[key]
            elif isinstance(at, dict):
                at[f"{key}2"] = value
            else:
                at.append(value)
            break
    return tree


def changed_index(run: Path, random: np.random.Generator, count: int) -> Iterator[Change]:
    """The arrays of a shard or of the probe with other numbers, types or shapes, and the seal made to fit."""
    for _ in range(count):
        name = SHARD if random.random() < 0.7 else "probe.h5"
        yield "index", name, lambda path, seed=int(random.integers(2**32)): reindex(path, seed)  # noqa: B008


KINDS = [np.dtype(kind) for kind in ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8")]


def reindex(path: Path, seed: int, *, meta_only: bool = False) -> None:
    random = np.random.default_rng(seed)
    arrays = arrays_of_any(path)
    index = SHARD_INDEX if "step" in arrays else PROBE_INDEX
    names = ["meta"] if meta_only else list(arrays)
    for _ in range(1 if meta_only else int(random.integers(1, 4))):
        name = names[int(random.integers(len(names)))]
        if name == "meta":
            meta = disturb(json.loads(arrays[name].tobytes()), random)
            arrays[name] = np.frombuffer(json.dumps(meta).encode(), np.uint8)
        else:
            arrays[name] = other_array(arrays[name], random)
    arrays["seal"] = np.frombuffer(digest(*(arrays[name].tobytes() for name in index)), np.uint8)
    path.unlink()
    with h5py.File(path, "w", libver=("v110", "v110")) as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array)
    if index == PROBE_INDEX:
        recognise(path)


def recognise(probe: Path) -> None:
    """Where the probe can be read at all, let run.json have its digest."""
    path = probe.with_name("run.json")
    record = load_sealed(path.read_bytes())
    fd = os.open(probe, os.O_RDONLY)
    try:
        _, record["probe_digest"] = decode_probe(fd, record["run_id"])
    except StoreError:
        return
    finally:
        os.close(fd)
    path.write_bytes(seal_json(record) + b"\n")


def arrays_of_any(path: Path) -> dict[str, np.ndarray]:
    with h5py.File(path) as file:
        names = [n for n in file if n != "acts"] + [f"acts/{n}" for n in file.get("acts", ())]
        return {name: file[name][...] for name in names}


def other_array(array: np.ndarray, random: np.random.Generator) -> np.ndarray:
    choice = int(random.integers(6))
    if choice == 0:
        with np.errstate(all="ignore"):
            return array.astype(KINDS[int(random.integers(len(KINDS)))])
    if choice == 1:
        return array.reshape(-1)[: int(random.integers(array.size + 1))]
    if choice == 2:
        return np.concatenate([array, array]) if array.ndim else array
    if choice == 3:
        return array[..., None]
    if choice == 4:
        return np.zeros((0, *array.shape[1:]), array.dtype)
    array = array.copy()
    if array.size and array.dtype.kind in "iu":
        low, high = np.iinfo(array.dtype).min, np.iinfo(array.dtype).max
        extremes = [low, high, 0, 1, high // 2, low // 2]
        array.reshape(-1)[int(random.integers(array.size))] = extremes[int(random.integers(len(extremes)))]
    elif array.size:
        extremes = [np.nan, np.inf, -np.inf, 0.0, 6e4]
        array.reshape(-1)[int(random.integers(array.size))] = extremes[int(random.integers(len(extremes)))]
    return array


def changed_blocks(good: bytes, blocks: list[tuple[bytes, int, int]], random: np.random.Generator) -> bytes:
    """One to three places of one block with other bits, bytes, pieces or addresses of other blocks."""
    data = bytearray(good)
    kind, start, stop = blocks[int(random.integers(len(blocks)))]
    for _ in range(int(random.integers(1, 4))):
        at = int(random.integers(start, stop))
        choice = random.random()
        _, other, end = blocks[int(random.integers(len(blocks)))]
        if choice < 0.35:
            data[at] ^= 1 << int(random.integers(8))
        elif choice < 0.7:
            data[at] = int(random.choice([0, 1, 2, 3, 4, 8, 16, 127, 128, 254, 255, random.integers(256)]))
        elif choice < 0.85:
            at = min(at, stop - 8)
            data[at : at + 8] = struct.pack("<Q", other)
        else:
            source = int(random.integers(other, end))
            n = min(int(random.integers(1, 24)), end - source, stop - at)
            data[at : at + n] = good[source : source + n]
    fit(data, kind, start, stop)
    return bytes(data)


def old_tree(path: Path, damage: str) -> None:
    """The arrays of a file again as HDF5 1.6 would store them, below a superblock of version 2 with a fitting checksum.

    Groups are symbol tables: a B-tree of version 1 (TREE) over nodes of names (SNOD) and a heap of text (HEAP), none
    of it with checksums. `damage` names what is done to them.
    """
    arrays = arrays_of_any(path)
    path.unlink()
    with h5py.File(path, "w", libver=("earliest", "v108")) as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array)
    data = bytearray(path.read_bytes())
    (root,) = struct.unpack_from("<Q", data, 64)  # of the root group's header, in its symbol table entry
    place = {kind: [m.start() for m in re.finditer(kind, data)] for kind in (b"TREE", b"SNOD", b"HEAP")}
    if damage == "tree within itself":
        for tree in place[b"TREE"]:
            data[tree + 5] = 1  # a level higher: its children are trees, of which it is one itself
            struct.pack_into("<Q", data, tree + 32, tree)
    elif damage == "neighbours in a ring":
        for tree in place[b"TREE"]:
            struct.pack_into("<QQ", data, tree + 8, tree, tree)
    elif damage == "very high tree":
        for tree in place[b"TREE"]:
            data[tree + 5] = 255
    elif damage == "names without end":
        for heap in place[b"HEAP"]:
            struct.pack_into("<Q", data, heap + 8, 2**40)
    elif damage == "many names":
        for node in place[b"SNOD"]:
            struct.pack_into("<H", data, node + 6, 0xFFFF)
    elif damage == "names far away":
        for node in place[b"SNOD"]:
            struct.pack_into("<Q", data, node + 8, 2**60)
    elif damage == "header that goes on in itself":
        struct.pack_into("<HHBxxxQQ", data, root + 16, 16, 16, 0, root, 2**16)
    data[:48] = (
        b"\x89HDF\r\n\x1a\n" + bytes([2, 8, 8, 0]) + struct.pack("<QQQQ", 0, 2**64 - 1, len(data), root) + bytes(4)
    )
    data[44:48] = struct.pack("<I", lookup3(bytes(data[:44])))
    path.write_bytes(data)


OLD_TREES = ("none", "tree within itself", "neighbours in a ring", "very high tree", "names without end", "many names",
             "names far away", "header that goes on in itself")  # fmt: skip


def changed_metadata(run: Path, random: np.random.Generator, count: int) -> Iterator[Change]:
    """Bytes of HDF5's own object headers changed and their checksums made to fit, so that the library takes them."""
    originals = {name: (run / name).read_bytes() for name in (SHARD, "probe.h5")}
    blocks = {name: blocks_of(data) for name, data in originals.items()}
    for _ in range(count):
        name = SHARD if random.random() < 0.7 else "probe.h5"
        data = changed_blocks(originals[name], blocks[name], random)
        yield "metadata", name, lambda path, data=bytes(data): path.write_bytes(data)


def blocks_of(data: bytes) -> list[tuple[bytes, int, int]]:
    """(kind, first byte, end) of the superblock and of every block that describes the file."""
    blocks = MetadataBlocks(Held(data))
    _h5._walk(blocks, lambda text: {})
    return [(block[:4], at, at + len(block)) for at, block in blocks.trace.items()]


def fit(data: bytearray, kind: bytes, start: int, stop: int) -> None:
    """Write the checksum that belongs to a block: at its end, in the blocks of a heap behind the head."""
    at = start + 17 if kind == b"FHDB" else stop - 4
    block = data[start:at] + (bytes(4) + data[at + 4 : stop] if kind == b"FHDB" else b"")
    data[at : at + 4] = struct.pack("<I", lookup3(bytes(block)))


class Held:
    """Bytes as a source of the parser."""

    def __init__(self, data: bytes) -> None:
        self.data, self.size = data, len(data)

    def read(self, offset: int, n: int) -> bytes:
        return self.data[offset : offset + n]


def lookup3(data: bytes) -> int:
    """The checksum of HDF5's metadata: `hashlittle` of Jenkins's lookup3 (2006, public domain), from 0."""
    mask = 0xFFFFFFFF
    a = b = c = 0xDEADBEEF + len(data) & mask

    def rotate(x: int, n: int) -> int:
        return (x << n | x >> (32 - n)) & mask

    at = 0
    while len(data) - at > 12:
        x, y, z = struct.unpack_from("<III", data, at)
        a, b, c = a + x & mask, b + y & mask, c + z & mask
        a = (a - c & mask) ^ rotate(c, 4)
        c = c + b & mask
        b = (b - a & mask) ^ rotate(a, 6)
        a = a + c & mask
        c = (c - b & mask) ^ rotate(b, 8)
        b = b + a & mask
        a = (a - c & mask) ^ rotate(c, 16)
        c = c + b & mask
        b = (b - a & mask) ^ rotate(a, 19)
        a = a + c & mask
        c = (c - b & mask) ^ rotate(b, 4)
        b = b + a & mask
        at += 12
    if at == len(data):
        return c
    x, y, z = struct.unpack("<III", data[at:].ljust(12, b"\0"))
    a, b, c = a + x & mask, b + y & mask, c + z & mask
    c = (c ^ b) - rotate(b, 14) & mask
    a = (a ^ c) - rotate(c, 11) & mask
    b = (b ^ a) - rotate(a, 25) & mask
    c = (c ^ b) - rotate(b, 16) & mask
    a = (a ^ c) - rotate(c, 4) & mask
    b = (b ^ a) - rotate(a, 14) & mask
    return (c ^ b) - rotate(b, 24) & mask


def changed_cells(run: Path, random: np.random.Generator, count: int) -> Iterator[Change]:
    """A table whose cells hold anything, with the digest beside it made to fit."""
    lines = [line.split(",") for line in (run / "results.csv").read_text().splitlines()]
    meta = json.loads((run / "results.json").read_bytes())
    cells = [*(str(v) for v in VALUES), '"', '""', "nan", "inf", "1e400", "9" * 5000, "\0", "\r", "=1+1", "1,2", "\\x"]
    for _ in range(count):
        rows = [list(line) for line in lines]
        for _ in range(int(random.integers(1, 6))):
            row = rows[int(random.integers(len(rows)))]
            row[int(random.integers(len(row)))] = cells[int(random.integers(len(cells)))]
        data = "".join(",".join(row) + "\n" for row in rows).encode("utf-8", "surrogatepass")
        sealed = json.dumps(meta | {"table": {"bytes": len(data), "blake2b": table_digest(data)}})

        def change(path: Path, data: bytes = data, sealed: str = sealed) -> None:
            path.write_bytes(data)
            path.with_suffix(".json").write_text(sealed)

        yield "cells", "results.csv", change


def made_hdf5(random: np.random.Generator, count: int) -> Iterator[Change]:
    """HDF5 files that the library calls valid and the contract does not know, as a shard or as the probe."""
    for _ in range(count):
        name = SHARD if random.random() < 0.7 else "probe.h5"
        yield "made", name, lambda path, seed=int(random.integers(2**32)): make_hdf5(path, seed)  # noqa: B008


def make_hdf5(path: Path, seed: int) -> None:
    """Up to six odd objects, in a file of their own or in the one that stands there."""
    random = np.random.default_rng(seed)
    if random.random() < 0.6:
        add_objects_to(path, random)
        return
    path.unlink()
    low = ("earliest", "v108", "v110", "v112", "v114", "latest")[int(random.integers(6))]
    options: dict[str, Any] = {"libver": (low, "latest")}
    if random.random() < 0.1:
        options["userblock_size"] = 512
    elif random.random() < 0.2:
        options |= {"fs_strategy": "page", "fs_persist": bool(random.integers(2))}
    with h5py.File(path, "w", track_order=bool(random.integers(2)), **options) as file:
        add_objects(file, random)


def add_objects_to(path: Path, random: np.random.Generator) -> None:
    arrays = arrays_of(path) if "shards" in path.parts else {n: (None, a) for n, a in arrays_of_any(path).items()}
    path.unlink()
    with h5py.File(path, "w", libver=("v110", "v110")) as file:
        for name, (kind, array) in arrays.items():
            if kind is None:
                file.create_dataset(name, data=array)
                continue
            file.require_group("acts")
            made = h5py.h5d.create(file.id, name.encode(), kind, h5py.h5s.create_simple(array.shape))
            if array.size:
                made.write(h5py.h5s.ALL, h5py.h5s.ALL, np.ascontiguousarray(array), mtype=kind)
        add_objects(file, random)


def add_objects(file: h5py.File, random: np.random.Generator) -> None:
    names = [
        *SHARD_INDEX,
        *PROBE_INDEX,
        "seal",
        "acts",
        "acts/0000",
        "acts/0001",
        "inputs",
        "a/b/c",
        "é\u202e",
        "x" * 900,
    ]
    for _ in range(int(random.integers(1, 7))):
        name = names[int(random.integers(len(names)))]
        try:
            if name in file and random.random() < 0.8:
                del file[name]
            add_object(file, name, random)
        except (ValueError, TypeError, OSError, RuntimeError, KeyError):
            continue  # not every type goes with every layout, and a name may lead through an array or in circles


def add_object(file: h5py.File, name: str, random: np.random.Generator) -> None:
    kind = int(random.integers(8))
    if kind == 0:
        links = h5py.SoftLink("/step"), h5py.SoftLink(f"/{name}"), h5py.ExternalLink("/dev/zero", "/x"), file["/"]
        file[name] = links[int(random.integers(len(links)))]
    elif kind == 1:
        file.create_group(name, track_order=bool(random.integers(2)))
    elif kind == 2:
        file[name] = types(random)
    elif kind == 3:
        target = file[next(iter(file))] if len(file) and random.random() < 0.5 else file
        target.attrs[name[:20]] = [1, "text", np.zeros(3), np.bytes_("x")][int(random.integers(4))]
    else:
        shape = tuple(random.choice([0, 1, 2, 3, 16, 24, 1000], int(random.integers(0, 4))).tolist())
        if random.random() < 0.1:
            shape = tuple(int(n) for n in 10 ** random.integers(0, 9, int(random.integers(1, 5))))
        options: dict[str, Any] = {}
        if shape and random.random() < 0.4 and np.prod(shape) < 10**6:
            options = {"chunks": True}
            extra = [{}, {"compression": "gzip"}, {"compression": "lzf"}, {"fletcher32": True}, {"shuffle": True},
                     {"scaleoffset": 0}, {"maxshape": (None,) * len(shape)}]  # fmt: skip
            options |= extra[int(random.integers(len(extra)))]
        elif random.random() < 0.1:
            options = {"external": [("/dev/zero", 0, h5py.h5f.UNLIMITED)]}
        file.create_dataset(name, shape, types(random), **options)


def types(random: np.random.Generator) -> np.dtype:
    odd = [
        h5py.string_dtype(), h5py.string_dtype(length=7), h5py.vlen_dtype(np.int32), h5py.ref_dtype,
        h5py.regionref_dtype,
        h5py.enum_dtype({"a": 1, "b": 2}), np.dtype("V5"), np.dtype("i4,f8"), np.dtype(("f4", (2, 3))), np.dtype("c8"),
        np.dtype(bool), np.dtype(">i4"), np.dtype(">f8"), np.dtype("g"),
        np.dtype([("a", "i8"), ("b", h5py.string_dtype())]),
    ]  # fmt: skip
    choices = KINDS * 2 + odd
    return choices[int(random.integers(len(choices)))]


def everything(run: Path, trap: Path, count: int) -> Iterator[Change]:
    """The corpus and about `count` other files, in the same order each time."""
    random = np.random.default_rng(count)
    yield from corpus(trap)
    yield from changed_bytes(run, random, count * 25 // 100)
    yield from changed_json(run, random, count * 20 // 100)
    yield from changed_index(run, random, count * 15 // 100)
    yield from changed_metadata(run, random, count * 20 // 100)
    yield from changed_cells(run, random, count * 5 // 100)
    yield from made_hdf5(random, count * 15 // 100)
