"""HDF5's own blocks, decoded in Python: the same places as the library finds, and one error for every other file."""

from __future__ import annotations

import os
import re
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from hostile_files import OLD_TREES, SHARD, Held, blocks_of, changed_blocks, fit, lookup3, old_tree
from limited_calls import LimitedCalls
from store_cases import check, layer, record, shards, snapshot, writer
from test_hostile import rebuild

from infoplane.core import StoreError
from infoplane.core.limited import Limits
from infoplane.store import _h5, open_run
from infoplane.store._objects import checksum

HERE = Path(__file__).parent
FORMAT_1 = sorted((HERE.parent / "data/format-1/run").rglob("*.h5"))
LIMITS = Limits(memory_bytes=256 << 20, cpu_seconds=10, wall_seconds=20)


def test_the_checksum_is_lookup3():
    random = np.random.default_rng(0)
    assert checksum(b"") == 0xDEADBEEF
    assert checksum(b"Four score and seven years ago") == 0x17770551  # of the author's own self-test
    for n in [*range(1, 40), 255, 4096, 65_535]:
        data = random.bytes(n)
        assert checksum(data) == lookup3(data), n


def places(data: bytes) -> dict[str, tuple[int, tuple[int, ...], str]]:
    _h5._known.clear()
    extents, _ = _h5.parse(Held(data), lambda text: {})
    return {name: (e.offset, e.shape, e.type) for name, e in extents.items()}


def places_by_h5py(path: Path) -> dict[str, tuple[int, tuple[int, ...], str]]:
    with h5py.File(path) as file:
        names = [n for n in file if n != "acts"] + [f"acts/{n}" for n in file.get("acts", ())]
        kind = {n: next(k for k, t in _h5.TYPES.items() if file[n].id.get_type().equal(t)) for n in names}
        return {n: (file[n].id.get_offset() or 0, file[n].shape, kind[n]) for n in names}


@pytest.mark.parametrize("path", FORMAT_1, ids=lambda path: path.name)
def test_places_in_released_files_are_those_that_hdf5_finds(path):
    assert places(path.read_bytes()) == places_by_h5py(path)


@pytest.mark.parametrize("count", [0, 1, 8, 9, 45, 46, 130, 1500])
def test_places_are_those_that_hdf5_finds_however_many_layers(tmp_path, count):
    """From links in the header to a tree of depth 2 over a heap with tables: all that the writer makes."""
    layers = tuple(layer(f"block{i}." + "x" * 300, (1 + i % 3,), ("float32", "bool", "bfloat16")[i % 3], i)
                   for i in range(count))  # fmt: skip
    with writer(tmp_path / "run") as out:
        for step in range(2):
            out(snapshot(step, layers))
    (path,) = shards(tmp_path / "run")
    assert places(path.read_bytes()) == places_by_h5py(path)
    assert places((tmp_path / "run/probe.h5").read_bytes()) == places_by_h5py(tmp_path / "run/probe.h5")
    store = open_run(tmp_path / "run")
    assert store.problems == ()
    assert len(store.layers) == count


@pytest.mark.parametrize("low", ["v108", "v110", "latest"])
def test_places_are_those_that_hdf5_finds_in_files_of_h5py(tmp_path, low):
    """Other programs may write shards by the format page: objects in another order, some made twice, with dates."""
    record(tmp_path / "run", [[0, 1], [5, 6]])
    path = tmp_path / "run" / SHARD

    def again(file: h5py.File) -> None:
        for name in ("seal", "acts/0001", "step"):
            kind, data = file[name].id.get_type(), np.zeros(file[name].shape, "u2")
            if name != "acts/0001":
                data = file[name][...]
            else:
                file[name].id.read(h5py.h5s.ALL, h5py.h5s.ALL, data, mtype=kind)
            del file[name]
            made = h5py.h5d.create(file.id, name.encode(), kind, h5py.h5s.create_simple(data.shape))
            made.write(h5py.h5s.ALL, h5py.h5s.ALL, data, mtype=kind)

    (tmp_path / "run/manifest.jsonl").unlink()
    rebuild(path, after=again, libver=(low, "v110" if low != "latest" else "latest"))
    assert places(path.read_bytes()) == places_by_h5py(path)
    check(open_run(tmp_path / "run"), [0, 1, 5, 6])


@pytest.fixture(scope="module")
def calls() -> Iterator[LimitedCalls]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]))
        with LimitedCalls() as made:
            yield made


@pytest.mark.parametrize("damage", OLD_TREES)
@pytest.mark.timeout(90)
def test_an_old_tree_below_a_new_superblock_is_refused_in_no_time(tmp_path, calls, damage):
    """HDF5 itself reads some of them for ever, and takes those without a fault for good ones."""
    record(tmp_path / "run", [[0, 1], [5, 6]])
    (tmp_path / "run/manifest.jsonl").unlink()
    old_tree(tmp_path / "run" / SHARD, damage)
    found = calls.call("untrusted_jobs:read_run", tmp_path / "run", LIMITS)
    assert "the header of the root group is not one of version 2" in found[0]
    check(open_run(tmp_path / "run"), [0, 1])
    with writer(tmp_path / "run", resume=True) as out:
        assert out.last_step == 1
    old_tree(tmp_path / "run/probe.h5", damage)
    with pytest.raises(StoreError, match=r"probe\.h5: the header of the root group is not one of version 2"):
        calls.call("untrusted_jobs:read_run", tmp_path / "run", LIMITS)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A shard with every kind of block: 130 layers."""
    path = tmp_path_factory.mktemp("objects") / "run"
    with writer(path) as out:
        out(snapshot(0, tuple(layer(f"l{i}", (1,), depth=i) for i in range(130))))
    return shards(path)[0].read_bytes()


def u8(value: int) -> bytes:
    return struct.pack("<Q", value)


LAYOUT = re.compile(rb"\x08\x12\x00\x00[\x03\x04]\x01", re.DOTALL)  # version 3 or 4, as HDF5 1.14 and 2.0 write it
SIZE = re.compile(LAYOUT.pattern + rb".{8}", re.DOTALL)
SPACE, TYPE, FILL = (re.compile(re.escape(text)) for text in (b"\1\x14\0\0", b"\3\x0c\0", b"\5\2\0\1"))
DIMENSIONS = re.compile(SPACE.pattern + b"\2")
Where = dict[bytes, list[int]]
# Kind of block and which of that kind (header 0 is of the root group, 1 of `meta`); where in it, or behind which
# bytes; the new bytes, or what they are when one knows where the blocks lie; what is said.
FAULTS: dict[str, tuple[bytes, int, int | re.Pattern[bytes], bytes | Callable[[Where], bytes], str]] = {
    "root is a tree": (b"\x89HDF", 0, 36, lambda w: u8(w[b"BTHD"][0]), "root group is not one of version 2"),
    "root beyond the file": (b"\x89HDF", 0, 36, u8(2**63), "the root group is cut short"),
    "open for writing": (b"\x89HDF", 0, 11, b"\1", "was not closed by the program"),
    "old group in a new header": (b"OHDR", 0, 23, b"\x11", "is a group of the old kind"),
    "unknown message": (b"OHDR", 0, 23, b"\x63", "message of kind 99, which the format does not know"),
    "message beyond its header": (b"OHDR", 0, 24, b"\xff\xff", "the header of the root group is cut short"),
    "header goes on in itself": (b"OHDR", 0, 23, lambda w: b"\x10\x10\0\0" + u8(w[b"OHDR"][0]) + u8(256),
                                 "a continuation of the header of the root group is reached twice"),
    "index in itself": (b"OHDR", 0, 37, lambda w: u8(w[b"OHDR"][0]), "the index of the root group is reached twice"),
    "index beyond the file": (b"OHDR", 0, 37, u8(2**62), "the index of the root group does not lie within"),
    "heap is an index": (b"OHDR", 0, 29, lambda w: u8(w[b"BTHD"][0]), "the heap of the root group is reached twice"),
    "array beyond the file": (b"OHDR", 1, LAYOUT, u8(2**40), r"'meta' \(\d+,\) does not fit into the file's"),
    "array over the index": (b"OHDR", 1, LAYOUT, u8(64), "'meta' and the file's own index overlap"),
    "size that contradicts": (b"OHDR", 1, SIZE, b"\1", "its record says"),
    "many dimensions": (b"OHDR", 1, DIMENSIONS, b"\xff", "is cut short"),
    "no dimensions": (b"OHDR", 1, DIMENSIONS, b"\0", "'meta' has no simple shape"),
    "type of its own": (b"OHDR", 1, TYPE, b"\3", "'meta' has an element type"),
    "node is its own child": (b"BTIN", 0, 28, lambda w: u8(w[b"BTIN"][0]) + b"\1", "is reached twice"),
    "more links than nodes": (b"BTHD", 0, 26, u8(60), "counts 60 links and holds 11"),
    "very many links": (b"BTHD", 0, 26, u8(2**40), "objects in one group, at most 64"),
    "very high tree": (b"BTHD", 0, 12, b"\xff\xff", "has depth 65535"),
    "records of another size": (b"BTHD", 0, 10, b"\x0c", "bytes of a record 11 expected, got 12"),
    "no records in a node": (b"BTHD", 0, 24, b"\0", "has a node of 0 records"),
    "one object twice": (b"BTLF", 0, 6 + 11, lambda w: b"\0\0\0\0\0\x15\0\0\0\x0f\0", "two objects of one name|holds"),
    "object outside the heap": (b"BTLF", 0, 6 + 4, b"\x10", "keeps an object outside its blocks"),
    "object beyond its block": (b"BTLF", 0, 6 + 5, b"\xff\xff\xff\x7f", "has an object beyond its"),
    "heap with filters": (b"FRHP", 0, 7, b"\x08", "bytes of filters 0 expected, got 8"),
    "heap of giant blocks": (b"FRHP", 0, 118, u8(2**40), "columns and blocks of"),
    "heap in itself": (b"FRHP", 1, 132, lambda w: u8(w[b"FRHP"][1]), "is reached twice"),
    "table in itself": (b"FHIB", 0, 17, lambda w: u8(w[b"FHIB"][0]), "is reached twice"),
    "block of another heap": (b"FHDB", 0, 5, lambda w: u8(w[b"FRHP"][1]), "heap .* expected, got"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_blocks_that_contradict_each_other_are_refused_whatever_their_checksums_say(good, fault):
    kind, number, place, new, message = FAULTS[fault]
    blocks = blocks_of(good)
    where: Where = {}
    for name, start, _ in blocks:
        where.setdefault(name, []).append(start)
    start, stop = next((a, b) for name, a, b in blocks if a == where[kind][number])
    data = bytearray(good)
    at = start + place if isinstance(place, int) else place.search(good, start, stop).end()
    new = new(where) if callable(new) else new
    data[at : at + len(new)] = new
    fit(data, kind, start, stop)
    with pytest.raises(StoreError, match=message):
        places(bytes(data))


@pytest.mark.parametrize("message", [5, 7, 11, 12], ids=["fill value", "external files", "filters", "attribute"])
def test_what_an_array_must_not_have_is_found_in_its_header(good, message):
    kind, start, stop = [block for block in blocks_of(good) if block[0] == b"OHDR"][1]
    data = bytearray(good)
    at = FILL.search(good, start, stop).start()
    assert data[at] == 5
    data[at] = message
    fit(data, kind, start, stop)
    if message == 5:
        assert places(bytes(data)) == places(good)
        return
    with pytest.raises(StoreError, match=r"'meta' has (attributes|external storage or filters)"):
        places(bytes(data))


@pytest.mark.parametrize("count", [200, pytest.param(1600, marks=pytest.mark.slow)])
def test_changed_blocks_with_fitting_checksums_end_in_places_within_the_file_or_one_error(good, count):
    random = np.random.default_rng(4)
    blocks = blocks_of(good)
    # As many of each kind as there are headers, which would else be nearly all.
    others = [block for block in blocks if block[0] != b"OHDR"]
    blocks += others * (len(blocks) // len(others))
    slowest, refusals = 0.0, []
    for _ in range(count):
        data = changed_blocks(good, blocks, random)
        began = time.perf_counter()
        try:
            found = places(data)
        except StoreError as error:
            refusals.append(str(error))
        else:
            assert all(offset <= len(data) for offset, _, _ in found.values())
        slowest = max(slowest, time.perf_counter() - began)
    assert len(refusals) > count // 3
    assert all("\n" not in text and len(text) < 300 for text in refusals)
    assert slowest < 5  # 0.05 s on an idle machine


def test_blocks_have_a_limit_together(good, monkeypatch):
    monkeypatch.setattr("infoplane.store._objects.MAX_METADATA_BYTES", 10_000)
    with pytest.raises(StoreError, match="larger than anything that the format needs"):
        places(good)
