"""Files made by a stranger: each is named and skipped, nothing outside the run is touched, the rest is read."""

from __future__ import annotations

import ast
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from store_cases import check, record, shards, writer

import infoplane
from infoplane.core import StoreError
from infoplane.core.files import digest
from infoplane.store import _h5, _shard, layout, open_run
from infoplane.store.layout import SHARD_INDEX

GOOD, BAD = "00000000-00000001.s0001.r000.h5", "00000005-00000006.s0001.r000.h5"
PACKAGE = Path(infoplane.__file__).parent
F4, I8, U1 = h5py.h5t.IEEE_F32LE, h5py.h5t.STD_I64LE, h5py.h5t.STD_U8LE


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Two shards, one of which is to be replaced; the manifest is gone, as from a stranger."""
    record(tmp_path / "run", [[0, 1], [5, 6]])
    (tmp_path / "run/manifest.jsonl").unlink()
    return tmp_path / "run"


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    """A pipe without a writer: whoever opens it waits for good, and the test's time limit tells."""
    os.mkfifo(tmp_path / "trap")
    return tmp_path / "trap"


Arrays = dict[str, tuple[Any, np.ndarray]]  # name -> HDF5 type, stored numbers


def arrays_of(path: Path) -> Arrays:
    out: Arrays = {}
    with h5py.File(path) as file:
        names = [n for n in file if n != "acts"] + [f"acts/{n}" for n in file.get("acts", ())]
        for name in names:
            kind = file[name].id.get_type()
            raw = np.empty(
                file[name].shape, f"u{kind.get_size()}" if file[name].dtype.kind == "f" else file[name].dtype
            )
            if raw.size:
                file[name].id.read(h5py.h5s.ALL, h5py.h5s.ALL, raw, mtype=kind)
            out[name] = kind.copy(), raw
    return out


def rebuild(
    path: Path,
    change: Callable[[dict[str, np.ndarray]], None] | None = None,
    after: Callable[[h5py.File], None] | None = None,
    **options: Any,
) -> None:
    """The shard again, written by h5py itself, with something changed and the seal made to fit."""
    arrays = arrays_of(path)
    if change is not None:
        changed = {name: array for name, (_, array) in arrays.items()}
        change(changed)
        for name, array in changed.items():
            if array is not arrays[name][1]:
                arrays[name] = h5py.h5t.py_create(array.dtype), array
        seal = digest(*(arrays[name][1].tobytes() for name in SHARD_INDEX))
        arrays["seal"] = U1, np.frombuffer(seal, np.uint8)
    path.unlink()
    with h5py.File(path, "w", **({"libver": ("v110", "v110")} | options)) as file:
        file.create_group("acts")
        for name, (kind, array) in arrays.items():
            made = h5py.h5d.create(file.id, name.encode(), kind, h5py.h5s.create_simple(array.shape))
            if array.size:
                made.write(h5py.h5s.ALL, h5py.h5s.ALL, np.ascontiguousarray(array), mtype=kind)
        if after is not None:
            after(file)


def complaint(run: Path) -> str:
    """What is said of the bad shard, while the good one is read in full."""
    store = open_run(run)
    check(store, [0, 1])
    assert [problem.file for problem in store.problems] == [f"shards/{BAD}"]
    assert store.problems[0].steps == (5, 6)
    return store.problems[0].what


def test_a_shard_that_h5py_wrote_by_the_format_page_is_read(run):
    rebuild(run / "shards" / BAD)
    store = open_run(run)
    assert store.problems == ()
    check(store, [0, 1, 5, 6])
    assert store.verify() == []


def replace(name: str, make: Callable[[h5py.File, str, np.ndarray], Any]) -> Callable[[h5py.File], None]:
    def run(file: h5py.File) -> None:
        data = file[name][...]
        del file[name]
        make(file, name, data)

    return run


def low_level(kind: Any, shape: tuple[int, ...], setup: Callable[[Any], None] | None = None) -> Any:
    def make(file: h5py.File, name: str, data: np.ndarray) -> None:
        creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        if setup is not None:
            setup(creation)
        space = h5py.h5s.create_simple(shape) if shape else h5py.h5s.create(h5py.h5s.SCALAR)
        h5py.h5d.create(file.id, name.encode(), kind, space, dcpl=creation)

    return make


def named(file: h5py.File, dtype: np.dtype) -> h5py.Datatype:
    file["epoch_type"] = dtype
    return file["epoch_type"]


def filtered(creation: Any) -> None:
    creation.set_chunk((2,))
    creation.set_filter(32099, h5py.h5z.FLAG_OPTIONAL, ())


OBJECTS: dict[str, tuple[Callable[[h5py.File], Any], str]] = {
    "soft link": (replace("step", lambda f, n, d: f.__setitem__(n, h5py.SoftLink("/epoch"))), "not a hard link"),
    "dangling link": (lambda f: f.__setitem__("x", h5py.SoftLink("/nowhere")), "'x' is not a hard link"),
    "second name of an array": (replace("acts/0001", lambda f, n, d: f.__setitem__(n, f["acts/0000"])),
                                "'0001' is reached twice"),
    "group in itself": (lambda f: f["acts"].__setitem__("0003", f["acts"]), "'0003' is reached twice"),
    "acts is the root": (replace("acts/0000", lambda f, n, d: (f.__delitem__("acts"), f.__setitem__("acts", f["/"]))),
                         "'acts' is reached twice"),
    "acts is an array": (lambda f: (f.__delitem__("acts"), f.create_dataset("acts", data=[1])), "acts must be a group"),
    "one group more": (lambda f: f.create_group("more"), "'more' is not a dataset"),
    "one array more": (lambda f: f.create_dataset("more", data=np.zeros(3)), "unexpected object 'more'"),
    "named type": (lambda f: f.__setitem__("kind", np.dtype("f4")), "'kind' is not a dataset"),
    "of a named type": (replace("epoch", lambda f, n, d: f.create_dataset(n, data=d, dtype=named(f, d.dtype))),
                        "'epoch' has an element type"),
    "many objects": (lambda f: [f.create_group(str(i)) for i in range(99)], "objects in one group, at most 64"),
    "deep groups": (lambda f: f.create_group("/".join("g" * 300)), "'g' is not a dataset"),
    "no meta": (lambda f: f.__delitem__("meta"), "no object 'meta' in it"),
    "no seal": (lambda f: f.__delitem__("seal"), "object 'seal' is missing"),
    "no index": (lambda f: f.__delitem__("digests"), "object 'digests' is missing"),
    "no layer": (lambda f: f.__delitem__("acts/0002"), "acts/0002 must be"),
    "attribute of the root": (lambda f: f.attrs.__setitem__("a", 1), "attributes are not allowed"),
    "attribute of a group": (lambda f: f["acts"].attrs.__setitem__("a", "text"), "attributes are not allowed"),
    "attribute of an array": (lambda f: f["step"].attrs.__setitem__("a", "text"), "'step' has attributes"),
    "chunks": (replace("acts/0000", lambda f, n, d: f.create_dataset(n, data=d, chunks=True)), "not contiguous"),
    "gzip": (replace("acts/0000", lambda f, n, d: f.create_dataset(n, data=d, compression="gzip")), "not contiguous"),
    "checksum filter": (replace("step", lambda f, n, d: f.create_dataset(n, data=d, fletcher32=True)),
                        "not contiguous"),
    "unknown filter": (replace("step", low_level(I8, (2,), filtered)), "not contiguous"),
    "compact": (replace("step", low_level(I8, (2,), lambda c: c.set_layout(h5py.h5d.COMPACT))), "not contiguous"),
    "resizable": (replace("step", lambda f, n, d: f.create_dataset(n, data=d, maxshape=(None,))), "not contiguous"),
    "text": (replace("meta", lambda f, n, d: f.create_dataset(n, data="{}")), "'meta' has an element type"),
    "fixed text": (replace("meta", lambda f, n, d: f.create_dataset(n, data=np.bytes_("{}"))), "element type"),
    "variable length": (replace("acts/0000", lambda f, n, d: f.create_dataset(n, (2,), h5py.vlen_dtype(np.float32))),
                        "element type"),
    "records": (replace("step", lambda f, n, d: f.create_dataset(n, data=np.zeros(2, "i4,f4"))), "element type"),
    "opaque": (replace("step", lambda f, n, d: f.create_dataset(n, data=np.zeros(2, "V8"))), "element type"),
    "enum": (replace("step", lambda f, n, d: f.create_dataset(n, data=np.zeros(2, bool))), "element type"),
    "object references": (replace("step", lambda f, n, d: f.create_dataset(n, (2,), h5py.ref_dtype)),
        "element type"),
    "region references": (replace("step", lambda f, n, d: f.create_dataset(n, (2,), h5py.regionref_dtype)),
        "element type"),
    "arrays of arrays": (replace("step", lambda f, n, d: f.create_dataset(n, (2,), np.dtype(("i8", (2,))))),
        "element type"),
    "bit field": (replace("step", low_level(h5py.h5t.STD_B64LE, (2,))), "element type"),
    "big endian": (replace("step", low_level(h5py.h5t.STD_I64BE, (2,))), "element type"),
    "long double": (replace("epoch", low_level(h5py.h5t.IEEE_F128LE, (2,))), "element type"),
    "scalar": (replace("step", low_level(I8, ())), "no simple shape"),
    "null space": (replace("step", lambda f, n, d: f.create_dataset(n, dtype="i8")), "no simple shape"),
    "never stored": (replace("acts/0000", low_level(F4, (10**7, 10**5, 10**3))), "does not fit into the file's"),
    "long meta": (replace("meta", low_level(U1, (2**40,))), "does not fit into the file's"),
    "giant beside nothing": (replace("digests", low_level(U1, (0, 2**62, 16))), "'digests' has a shape that no array"),
    "meta of numbers": (replace("meta", lambda f, n, d: f.create_dataset(n, data=np.zeros(3))),
                        "'meta' must be bytes, got f8"),
}  # fmt: skip


@pytest.mark.parametrize("case", OBJECTS)
def test_an_object_that_does_not_belong_is_refused(run, case):
    after, message = OBJECTS[case]
    rebuild(run / "shards" / BAD, after=after)
    assert message in complaint(run)


@pytest.mark.timeout(60)
def test_nothing_outside_is_opened(run, trap, monkeypatch):
    """External links, storage and virtual sources all lead to a pipe that would hold the reader for good."""
    target = run / "shards" / BAD

    def external_storage(creation: Any) -> None:
        creation.set_external(str(trap).encode(), 0, h5py.h5f.UNLIMITED)

    def virtual(file: h5py.File, name: str, data: np.ndarray) -> None:
        made = h5py.VirtualLayout(data.shape, data.dtype)
        made[...] = h5py.VirtualSource(str(trap), "x", data.shape)
        file.create_virtual_dataset(name, made)

    def filter_plugin(file: h5py.File, name: str, data: np.ndarray) -> None:
        low_level(I8, (2,), filtered)(file, name, data)

    monkeypatch.setenv("HDF5_PLUGIN_PATH", str(trap.parent))
    original = target.read_bytes()
    cases = {
        "not a hard link": lambda f: f.__setitem__("epoch2", h5py.ExternalLink(str(trap), "/x")),
        "external storage": replace("step", low_level(I8, (2,), external_storage)),
        "not contiguous": replace("acts/0000", virtual),
        "'step' is not contiguous": replace("step", filter_plugin),
        "'more' is not a dataset": lambda f: f.__setitem__("more/x", h5py.ExternalLink(str(trap), "/x")),
    }  # fmt: skip
    for message, after in cases.items():
        target.write_bytes(original)
        rebuild(target, after=after)
        assert message in complaint(run)


@pytest.mark.timeout(60)
def test_only_regular_files_are_opened(run, trap, tmp_path):
    target = run / "shards" / BAD
    aside = tmp_path / "aside.h5"
    target.rename(aside)
    os.mkfifo(target)
    assert complaint(run) == "not a regular file"
    target.unlink()
    target.symlink_to(aside)
    assert complaint(run) == "a symbolic link, not a regular file"
    target.unlink()
    target.mkdir()
    assert complaint(run) == "not a regular file"
    target.rmdir()
    (run / "shards").rename(tmp_path / "real")
    (run / "shards").symlink_to(tmp_path / "real")
    store = open_run(run)
    assert store.steps() == []
    assert [str(p) for p in store.problems] == ["shards: a symbolic link, not a directory"]


def test_bytes_before_the_signature_are_refused(run):
    target = run / "shards" / BAD
    rebuild(target, userblock_size=512)
    assert complaint(run) == "not an HDF5 file (no signature at byte 0)"
    with target.open("r+b") as file:
        file.write(b"<html></html>")
    assert complaint(run) == "not an HDF5 file (no signature at byte 0)"


def test_an_old_file_format_without_checksums_is_refused(run):
    rebuild(run / "shards" / BAD, libver=("earliest", "v110"))
    assert complaint(run) == "superblock version 2 or 3 expected, got 0"


@pytest.mark.parametrize("content", [b"", b"\x89HDF\r\n\x1a\n", b"not HDF5" * 100, b"PK\x03\x04" + bytes(1000)])
def test_something_else_under_the_name_of_a_shard(run, content):
    (run / "shards" / BAD).write_bytes(content)
    assert "HDF5" in complaint(run)


def test_a_foreign_hdf5_file_and_other_files_are_named(run):
    (run / "shards" / BAD).unlink()
    with h5py.File(run / "shards/weights.h5", "w") as file:
        file["w"] = np.zeros(3)
    (run / "shards/00000005-00000006.s0001.r000 (copy).h5").write_bytes(b"x")
    (run / "shards/notes.txt").write_text("x")
    store = open_run(run)
    check(store, [0, 1])
    assert {p.file for p in store.problems} == {
        "shards/weights.h5", "shards/00000005-00000006.s0001.r000 (copy).h5", "shards/notes.txt",
    }  # fmt: skip
    assert {p.what for p in store.problems} == {"not a shard of this format"}


def meta_change(**fields: Any) -> Callable[[dict[str, np.ndarray]], None]:
    def change(arrays: dict[str, np.ndarray]) -> None:
        meta = json.loads(arrays["meta"].tobytes()) | fields
        arrays["meta"] = np.frombuffer(json.dumps(meta).encode(), np.uint8)

    return change


def array_change(name: str, value: Any) -> Callable[[dict[str, np.ndarray]], None]:
    return lambda arrays: arrays.__setitem__(name, np.asarray(value))


LAYER = {"key": "fc1", "name": "fc1", "depth": 0, "unit_shape": [5], "dtype": "float32"}
INDEXES: dict[str, tuple[Callable[[dict[str, np.ndarray]], None], str]] = {
    "newer": (meta_change(format_version=3),
              f"{BAD} has format_version 3, this release reads up to 2; upgrade infoplane"),
    "no version": (meta_change(format_version=None), f"{BAD} has no format_version"),
    "version true": (meta_change(format_version=True), f"{BAD} has no format_version"),
    "kind": (meta_change(kind="weights"), "kind 'activations' expected, got 'weights'"),
    "run": (meta_change(run_id="other"), "it belongs to run other, this is run"),
    "session": (meta_change(session=2), "its content belongs to 00000005-00000006.s0002.r000.h5"),
    "rank": (meta_change(rank=1, world_size=2), "its content belongs to 00000005-00000006.s0001.r001.h5"),
    "rank of none": (meta_change(rank=4), "field 'rank' must lie in 0..0, got 4"),
    "parts": (meta_change(parts=0), "field 'parts' must lie in 1..1000, got 0"),
    "start": (meta_change(start_step="5"), "field 'start_step' must be int, got '5'"),
    "layers": (meta_change(layers={}), "field 'layers' must be list"),
    "no layer": (meta_change(layers=[{}]), "a layer's record is not valid"),
    "layer shape": (meta_change(layers=[LAYER | {"unit_shape": [6]}, LAYER | {"key": "b"}, LAYER | {"key": "c"}]),
                    "acts/0000 must be f4 (2, 24, 6)"),
    "negative shape": (meta_change(layers=[LAYER | {"unit_shape": [-5]}]), "has the shape (-5,)"),
    "layer dtype": (meta_change(layers=[LAYER | {"dtype": "object"}]), "has the unknown dtype 'object'"),
    "two layers": (meta_change(layers=[LAYER, LAYER]), "two layers have the same key"),
    "metrics": (meta_change(metrics=[["loss"]]), "field 'metrics' must be a list of [name, layer]"),
    "not JSON": (array_change("meta", np.frombuffer(b"{", np.uint8)), "not valid JSON"),
    "not an object": (array_change("meta", np.frombuffer(b"[1]", np.uint8)), "a JSON object expected, got list"),
    "not UTF-8": (array_change("meta", np.frombuffer(b'{"a":"\xff"}', np.uint8)), "not valid JSON"),
    "NaN": (array_change("meta", np.frombuffer(b'{"a":NaN}', np.uint8)), "NaN is not JSON"),
    "deep JSON": (array_change("meta", np.frombuffer(b"[" * 100_000, np.uint8)), "not valid JSON"),
    "huge number": (array_change("meta", np.frombuffer(b'{"a":' + b"9" * 10_000 + b"}", np.uint8)), "not valid JSON"),
    "steps": (array_change("step", np.array([6, 5])), "'step' must ascend"),
    "step count": (array_change("step", np.array([5, 6, 7])), "'epoch' must be f8 (3,), got f8 (2,)"),
    "step type": (array_change("step", np.array([5.0, 6.0])), "'step' must be i8 (2,), got f8 (2,)"),
    "other steps": (array_change("step", np.array([0, 1])), "its content belongs to 00000000-00000001.s0001.r000.h5"),
    "rows": (array_change("rows", np.array([[0, 99]])), "acts/0000 must be f4 (2, 99, 5)"),
    "rows beyond": (array_change("rows", np.array([[24, 48]])), "row 47, but the probe has 24"),
    "rows backwards": (array_change("rows", np.array([[24, 0]])), "'rows' must list half-open ranges"),
    "no rows": (array_change("rows", np.zeros((0, 2), np.int64)), "'rows' must list half-open ranges"),
    "flat rows": (array_change("rows", np.array([0, 24])), "'rows' must be i8 (2, 2), got i8 (2,)"),
    "huge rows": (array_change("rows", np.array([[0, 2**62]] * 5)), "acts/0000 must be"),
    "digests": (array_change("digests", np.zeros((2, 3, 15), np.uint8)), "'digests' must be u1 (2, 3, 16)"),
    "scalar index": (array_change("nonfinite", np.zeros((2, 3), np.int8)), "'nonfinite' has the type i1"),
}  # fmt: skip


@pytest.mark.parametrize("case", INDEXES)
def test_an_index_that_contradicts_itself_is_refused(run, case):
    change, message = INDEXES[case]
    rebuild(run / "shards" / BAD, change)
    assert message in complaint(run)


def test_a_newer_shard_is_recognised_whatever_else_it_holds(run):
    def after(file: h5py.File) -> None:
        meta_change(format_version=3)(arrays := {"meta": file["meta"][...]})
        for name in list(file):
            del file[name]
        file["meta"] = arrays["meta"]
        file["new"] = h5py.SoftLink("/meta")

    rebuild(run / "shards" / BAD, after=after)
    assert complaint(run) == f"{BAD} has format_version 3, this release reads up to 2; upgrade infoplane"


def test_contents_are_data_and_never_paths(run):
    """A manifest cannot lead out of the directory."""
    from infoplane.store._records import ManifestEntry, seal_json

    fields = {"bytes": 1, "rank": 0, "session": 1, "steps": [0], "xxh3_128": "0" * 32}
    for name in (
        "../../etc/passwd",
        "/etc/passwd",
        "shards/x",
        f"../{GOOD}",
        f"{GOOD}\n",
        "٠٠٠٠٠٠٠٠-00000001.s0001.r000.h5",
    ):
        with pytest.raises(StoreError, match="is not a shard's name"):
            ManifestEntry.parse(seal_json(fields | {"name": name}))
    (run / "manifest.jsonl").write_bytes(seal_json(fields | {"name": "../run.json"}) + b"\n")
    store = open_run(run)
    check(store, [0, 1, 5, 6])
    assert [str(p) for p in store.problems] == [
        "manifest.jsonl: line 1: '../run.json' is not a shard's name; the shards are read without it"
    ]


@pytest.mark.parametrize(
    "fields",
    [{"name": 3}, {"bytes": 0}, {"bytes": "1"}, {"rank": -1}, {"session": 0}, {"steps": []}, {"steps": ["1"]},
     {"steps": [True]}, {"xxh3_128": "0" * 31}, {"xxh3_128": "G" * 32}],
)  # fmt: skip
def test_a_manifest_line_is_checked_field_by_field(fields):
    from infoplane.store._records import ManifestEntry, seal_json

    good = {"name": GOOD, "bytes": 1, "rank": 0, "session": 1, "steps": [0], "xxh3_128": "0" * 32}
    assert ManifestEntry.parse(seal_json(good)).name == GOOD
    with pytest.raises(StoreError, match=next(iter(fields))):
        ManifestEntry.parse(seal_json(good | fields))


@pytest.mark.parametrize(
    ("file", "fields", "message"),
    [
        ("run.json", {"format_version": 3}, r"^run\.json has format_version 3, this release reads up to 2"),
        ("run.json", {"kind": "session"}, r"^run\.json: kind 'run' expected, got 'session'"),
        ("run.json", {"settings": []}, r"^run\.json: field 'settings' must be dict"),
        ("run.json", {"run_id": "x"}, r"^probe\.h5: it is not the probe of run x"),
        ("run.json", {"probe_digest": "0" * 32}, r"^probe\.h5 has the digest .*, run\.json says 0000"),
    ],
)
def test_a_run_file_that_is_wrong_stops_the_reader(run, file, fields, message):
    from infoplane.store._records import load_sealed, seal_json

    data = load_sealed((run / file).read_bytes()) | fields
    (run / file).write_bytes(seal_json(data))
    with pytest.raises(StoreError, match=message):
        open_run(run)


def test_a_session_file_that_is_wrong_is_named(run):
    from infoplane.store._records import load_sealed, seal_json

    path = run / "sessions/0001.json"
    data = load_sealed(path.read_bytes())
    cases = {
        "field 'dropped' must be list": {"dropped": 1},
        "list of objects": {"dropped": [1]},
        "field 'step' must be int": {"dropped": [{"reason": "x"}]},
        "it belongs to session 2": {"session": 2},
        "field 'closed' must be bool": {"closed": 1},
        "field 'notes' must be dict": {"notes": None},
        "field 'stalled_seconds' must be a number of seconds, got []": {"stalled_seconds": []},
        "field 'stalled_seconds' must be a number of seconds, got 'x": {"stalled_seconds": "x" * 5000},
        "field 'stalled_seconds' must be a number of seconds, got 9": {"stalled_seconds": 10**400 - 1},
        "0001.json has format_version 9": {"format_version": 9},
    }
    for message, fields in cases.items():
        path.write_bytes(seal_json(data | fields))
        store = open_run(run)
        check(store, [0, 1, 5, 6])
        assert [p.file for p in store.problems] == ["sessions/0001.json"]
        assert message in store.problems[0].what


def test_a_hostile_probe_stops_the_reader_in_one_line(run):
    path = run / "probe.h5"
    original = path.read_bytes()
    path.write_bytes(b"")
    with pytest.raises(StoreError, match=r"^probe\.h5: not an HDF5 file"):
        open_run(run)
    path.unlink()
    with pytest.raises(StoreError, match=r"^probe\.h5 is missing$"):
        open_run(run)
    path.symlink_to(run / "run.json")
    with pytest.raises(StoreError, match=r"^probe\.h5: a symbolic link"):
        open_run(run)
    path.unlink()
    path.write_bytes(original)
    with h5py.File(path, "r+") as file:
        file["link"] = h5py.SoftLink("/meta")
    with pytest.raises(StoreError, match=r"^probe\.h5: 'link' is not a hard link"):
        open_run(run)


def test_a_bool_that_is_neither_is_refused(run):
    """numpy may do anything with a bool that is not 0 or 1."""
    from store_cases import layer, snapshot

    spec = layer("b", (3,), "bool")
    with writer(run, resume=True) as out:
        out(snapshot(9, (spec,)))
    path = shards(run)[-1]

    def change(arrays: dict[str, np.ndarray]) -> None:
        arrays["acts/0000"] = arrays["acts/0000"].copy()
        arrays["acts/0000"][0, 0, 0] = 7
        arrays["digests"] = np.frombuffer(digest(arrays["acts/0000"].tobytes()), np.uint8).reshape(1, 1, 16)

    (run / "manifest.jsonl").unlink()
    rebuild(path, change)
    with pytest.raises(StoreError, match="layer 'b' cannot be read at step 9"):
        open_run(run).read("b", [9])


def test_the_index_has_a_limit(run, monkeypatch):
    monkeypatch.setattr("infoplane.store._scan.MAX_INDEX_BYTES", 100)
    store = open_run(run)
    assert {p.what for p in store.problems} == {"its index needs more than 100 bytes"}


def test_hdf5_lays_out_files_in_one_place_and_opens_strangers_in_the_limited_child_alone():
    """A grep over the package: one call that creates; one that opens files of other programs, in `unpack`'s child."""
    found = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                if name.split(".")[-1] == "File" or name in ("h5f.open", "h5f.create", "h5py.h5f.open", "h5f.mount"):
                    found.append((path.name, name))
            if isinstance(node, ast.Import | ast.ImportFrom) and "h5py" in ast.unparse(node):
                assert path.name in ("_h5.py", "_foreign.py")
            assert not (isinstance(node, ast.Attribute) and node.attr in ("read", "write_direct_chunk")
                        and ast.unparse(node.value) in ("dataset.id", "h5d"))  # fmt: skip
            if isinstance(node, ast.ImportFrom) and "store._foreign" in f"{node.module}.{node.names[0].name}":
                assert path.name == "foreign.py"  # whose `unpack` refuses to run elsewhere: see test_foreign.py
    assert sorted(found) == [("_foreign.py", "h5f.open"), ("_h5.py", "h5f.create")]


def test_names_in_the_code_are_those_of_the_format():
    assert set(SHARD_INDEX) | {"seal"} == {
        "meta", "step", "epoch", "time", "rows", "metrics", "recorded", "digests", "nonfinite", "seal",
    }  # fmt: skip
    assert set(_h5.TYPES) == {layout.file_type(dtype) for dtype in layout.ARRAY_DTYPES} | {"u4", "u8"}
    assert _shard.SHARD_INDEX == SHARD_INDEX
