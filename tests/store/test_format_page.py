"""A reader written from docs/format.md alone: h5py, json and xxhash, nothing of the package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import xxhash
from store_cases import LAYERS, bits, record, shards, values

from infoplane.store import layout, open_run

PAGE = (Path(__file__).parents[2] / "docs/format.md").read_text()


def checked(data: bytes) -> dict[str, Any]:
    head, _, tail = data.rstrip(b"\n").rpartition(b',"check":"')
    assert xxhash.xxh3_64(head + b"}").hexdigest().encode() + b'"}' == tail
    return json.loads(head + b"}")


def compact(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    record(tmp_path / "run", [[0, 3], [4]])
    return tmp_path / "run"


def test_json_files_and_their_checks(run):
    main = checked((run / "run.json").read_bytes())
    assert set(main) == {"kind", "format_version", "run_id", "created", "samples", "probe_digest", "settings"}
    session = checked((run / "sessions/0001.json").read_bytes())
    assert set(session) == {
        "kind", "format_version", "run_id", "session", "rank", "world_size", "created", "host", "pid",
        "resumed_from", "settings", "notes", "dropped", "closed", "stalled_seconds",
    }  # fmt: skip
    for line, path in zip((run / "manifest.jsonl").read_bytes().splitlines(), shards(run), strict=True):
        entry = checked(line)
        assert set(entry) == {"bytes", "name", "rank", "session", "steps", "xxh3_128"}
        assert entry["name"] == path.name
        assert entry["bytes"] == path.stat().st_size
        assert entry["xxh3_128"] == xxhash.xxh3_128(path.read_bytes()).hexdigest()


def test_the_probe_and_its_digests(run):
    with h5py.File(run / "probe.h5") as file:
        index = ["meta", "sample_ids", "input_ids", "repeats", "part", "labels"]
        assert set(file) == {*index, "seal", "inputs"}
        arrays = [file[name][...].tobytes() for name in index]
        assert xxhash.xxh3_128(b"".join(arrays)).digest() == file["seal"][...].tobytes()
        meta = json.loads(arrays[0])
        inputs = file["inputs"][...]
        head = compact([inputs.dtype.str[1:], list(inputs.shape)])
        assert meta["inputs_digest"] == xxhash.xxh3_128(head + inputs.tobytes()).hexdigest()
        labels = [file["labels"].dtype.str[1:], list(file["labels"].shape)]
        names = {"label_names": meta["label_names"], "part_names": meta["part_names"]}
        head = compact({"inputs": meta["inputs_digest"], "labels": labels, **names})
        found = xxhash.xxh3_128(head + b"".join(arrays[1:])).hexdigest()
    assert found == checked((run / "run.json").read_bytes())["probe_digest"]


def test_a_shard_and_its_digests(run):
    path = shards(run)[0]
    data = path.read_bytes()
    with h5py.File(path) as file:
        index = ["meta", "step", "epoch", "time", "rows", "metrics", "recorded", "digests", "nonfinite"]
        assert set(file) == {*index, "seal", "acts"}
        assert xxhash.xxh3_128(b"".join(file[n][...].tobytes() for n in index)).digest() == file["seal"][...].tobytes()
        meta = json.loads(file["meta"][...].tobytes())
        assert (
            path.name == f"{file['step'][0]:08d}-{file['step'][-1]:08d}.s{meta['session']:04d}.r{meta['rank']:03d}.h5"
        )
        for i, spec in enumerate(meta["layers"]):
            acts = file[f"acts/{i:04d}"]
            size = acts.id.get_storage_size() // 2
            for s, step in enumerate((0, 3)):
                start = acts.id.get_offset() + s * size
                slab = data[start : start + size]
                assert slab == bits(values(LAYERS[i], step))
                assert xxhash.xxh3_128(slab).digest() == file["digests"][s, i].tobytes()
            assert acts.shape == (2, 24, *spec["unit_shape"])


def test_the_page_names_what_the_files_hold(run):
    """Every field, object and dtype of a real run stands on the page."""
    words = set(layout.ARRAY_DTYPES) - {"int16", "int32", "uint16", "uint32"}
    with h5py.File(shards(run)[0]) as file:
        meta = json.loads(file["meta"][...].tobytes())
        words |= set(file) | set(meta) | set(meta["layers"][0])
    with h5py.File(run / "probe.h5") as file:
        words |= set(file) | set(json.loads(file["meta"][...].tobytes()))
    for name in ("run.json", "sessions/0001.json", "manifest.jsonl"):
        words |= set(checked((run / name).read_bytes().splitlines()[0]))
    missing = {word for word in words if f"`{word}`" not in PAGE and f'"{word}"' not in PAGE}
    assert missing == set()
    assert f"format version {layout.FORMAT_VERSION}" in PAGE
    assert f"larger than {layout.MAX_FILE_BYTES >> 20} MiB" in PAGE
    assert f"at most {layout.SEAL_BYTES >> 20} MiB or {layout.SEAL_SECONDS:g} seconds" in PAGE


def test_files_by_other_hands_are_as_good(run):
    """Readers take what the page allows: the arrays may lie in any order in the file."""
    path = shards(run)[1]
    with h5py.File(path) as file:
        arrays = {name: (file[name][...], file[name].id.get_type().copy()) for name in file if name != "acts"}
        acts = [(file[f"acts/{i:04d}"], file[f"acts/{i:04d}"].id.get_type().copy()) for i in range(3)]
        raw = []
        for dataset, kind in acts:
            out = np.empty(dataset.shape, f"u{kind.get_size()}")
            dataset.id.read(h5py.h5s.ALL, h5py.h5s.ALL, out, mtype=kind)
            raw.append((out, kind))
    (run / "manifest.jsonl").unlink()
    path.unlink()
    with h5py.File(path, "w", libver=("v110", "v110")) as file:
        file.create_group("acts")
        everything = {f"acts/{i:04d}": pair for i, pair in enumerate(raw)} | arrays
        for name, (array, kind) in everything.items():
            made = h5py.h5d.create(file.id, name.encode(), kind, h5py.h5s.create_simple(array.shape))
            made.write(h5py.h5s.ALL, h5py.h5s.ALL, np.ascontiguousarray(array), mtype=kind)
    store = open_run(run)
    assert store.problems == ()
    assert bits(store.read("fc2", [4])[0]) == bits(values(LAYERS[1], 4))
