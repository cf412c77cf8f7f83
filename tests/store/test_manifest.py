"""Manifests from anywhere: what can be used is used, and time, memory and words are bounded for the rest."""

from __future__ import annotations

import json
import os
import time
import tracemalloc
from pathlib import Path

import pytest
import xxhash
from store_cases import check, check_clean, record, shards, writer
from test_hostile import array_change, rebuild

from infoplane.core import StoreError
from infoplane.core.files import Journal
from infoplane.store import open_run
from infoplane.store._records import load_sealed, read_manifest, seal_json
from infoplane.store.layout import MAX_MANIFEST_BYTES, MAX_MANIFEST_DAMAGE, MAX_MANIFEST_LINE

WITHOUT = "the shards are read without it"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    record(tmp_path / "run", [[0, 1], [5, 6]])
    return tmp_path / "run"


def sealed(body: bytes) -> bytes:
    """An object as it stands, with the checksum that belongs to it."""
    return body[:-1] + f',"check":"{xxhash.xxh3_64(body).hexdigest()}"}}'.encode()


def entry(first: int, **changes: object) -> dict[str, object]:
    name = f"{first:08d}-{first:08d}.s0001.r000.h5"
    return {"name": name, "bytes": 1, "rank": 0, "session": 1, "steps": [first], "xxh3_128": "0" * 32} | changes


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"not a line", f"line 3: it does not match its checksum; it was cut short or altered; {WITHOUT}"),
        (sealed(b'{"a":[' + b"[" * 50_000 + b"}"), "line 3: not valid JSON: "),
        (seal_json(entry(9, steps=["x" * 100_000])), f"line 3: field 'steps' must be a list of integers; {WITHOUT}"),
    ],
    ids=["no checksum", "deep", "long"],
)
def test_a_hundred_thousand_bad_lines_are_a_few_lines_of_complaint(run, line, said):
    path = run / "manifest.jsonl"
    count = min(100_000, 100 * 2**20 // len(line))
    with path.open("ab") as file:
        file.writelines([line + b"\n"] * count)
    began = time.perf_counter()
    store = open_run(run)
    assert time.perf_counter() - began < 10  # 0.1 to 1 s on an idle machine
    check(store, [0, 1, 5, 6])
    said_of_it = [problem.what for problem in store.problems]
    assert len(said_of_it) == 11
    assert said_of_it[0].startswith(said)
    assert said_of_it[-1] == (
        f"more than {MAX_MANIFEST_DAMAGE} damaged or empty lines; the rest is not used, and {WITHOUT}"
        if count > MAX_MANIFEST_DAMAGE
        else f"{count - 10} more lines are damaged; {WITHOUT}"
    )
    assert all(len(what) < 300 for what in said_of_it)
    writer(run, resume=True).close()
    check_clean(run, [0, 1, 5, 6])


@pytest.mark.parametrize("filler", [b"x", b"\0", b"["], ids=repr)
def test_one_giant_line_costs_no_more_than_its_limit(run, filler):
    path = run / "manifest.jsonl"
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + filler * (100 * 2**20) + b"\n" + second)
    tracemalloc.start()
    began = time.perf_counter()
    found = read_manifest(path)
    assert time.perf_counter() - began < 10  # 0.2 s
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 6 * MAX_MANIFEST_LINE
    assert len(found.entries) == 2
    assert found.complaints == [f"line 2: more than {MAX_MANIFEST_LINE} bytes; {WITHOUT}"]
    assert not found.clean


def test_empty_lines_and_sizes_have_limits(run):
    path = run / "manifest.jsonl"
    good = path.read_bytes()
    path.write_bytes(b"\n" + good + b"\n\n")  # what a torn line may leave behind is not worth a word
    assert open_run(run).problems == ()
    path.write_bytes(good + b"\n" * 50 * 2**20)
    began = time.perf_counter()
    (what,) = (problem.what for problem in open_run(run).problems)
    assert time.perf_counter() - began < 10  # 0.02 s
    assert what == f"more than {MAX_MANIFEST_DAMAGE} damaged or empty lines; the rest is not used, and {WITHOUT}"
    os.truncate(path, 2**40)
    (what,) = (problem.what for problem in open_run(run).problems)
    assert what == f"{2**40} bytes, at most {MAX_MANIFEST_BYTES} expected; {WITHOUT}"
    writer(run, resume=True).close()
    check_clean(run, [0, 1, 5, 6])


def test_shards_that_never_were_are_counted(run):
    with (run / "manifest.jsonl").open("ab") as file:
        file.writelines(seal_json(entry(step)) + b"\n" for step in range(100, 5100))
    problems = open_run(run).problems
    assert len(problems) == 101
    assert problems[-1].what == "4900 more shards: missing, though the manifest lists it"
    assert len(problems[-1].steps) == 4900
    assert len(str(problems[-1])) < 200


def test_files_that_do_not_belong_and_reasons_without_number_are_counted(run):
    for i in range(300):
        (run / f"shards/{i}.txt").touch()
        (run / f"sessions/{i}.txt").touch()
    session = run / "sessions/0001.json"
    good = session.read_bytes()
    lost = [{"step": 10 + i, "reason": f"reason {i}"} for i in range(50_000)]
    body = load_sealed(good) | {"dropped": lost}
    session.write_bytes(seal_json(body))
    began = time.perf_counter()
    problems = open_run(run).problems
    assert time.perf_counter() - began < 10  # 0.5 s
    assert len(problems) == 303
    texts = [str(problem) for problem in problems]
    assert "shards: 200 more files: not a shard of this format" in texts
    assert "sessions: 200 more files: not a session of this format" in texts
    assert texts[-1] == (
        "sessions/0001.json: 49900 more reasons why steps were not written while recording (steps 110-50009)"
    )
    body = load_sealed(good) | {
        "notes": {"problems": [{"what": f"w{i}", "steps": [i], "note": False} for i in range(9000)]}
    }
    session.write_bytes(seal_json(body))
    found = open_run(run).unrecorded
    assert len(found) == 2001
    assert found[-1].what == "7000 more things that could not be recorded"


def test_a_key_that_is_there_twice_is_refused_wherever_json_is_read(run):
    line = seal_json(entry(9))
    twice = line[: line.rindex(b',"check"')] + b',"name":"00000005-00000006.s0001.r000.h5"}'
    with (run / "manifest.jsonl").open("ab") as file:
        file.write(sealed(twice) + b"\n")
    (what,) = (problem.what for problem in open_run(run).problems)
    assert what == f"line 3: not valid JSON: the key 'name' is there twice; {WITHOUT}"
    (run / "manifest.jsonl").unlink()

    session = run / "sessions/0001.json"
    good = session.read_bytes()
    body = json.dumps(load_sealed(good)).encode()
    session.write_bytes(sealed(body[:-1] + b', "closed": false}') + b"\n")
    (problem,) = open_run(run).problems
    assert str(problem) == "sessions/0001.json: not valid JSON: the key 'closed' is there twice"
    session.write_bytes(good)

    meta = open_run(run).valid_shards()[0].meta.to_json()
    text = json.dumps(meta, default=list).replace('"role":', '"key": "fc9", "role":', 1)
    import numpy as np

    rebuild(shards(run)[0], array_change("meta", np.frombuffer(text.encode(), np.uint8)))
    (problem,) = open_run(run).problems
    assert problem.what == "not valid JSON: the key 'key' is there twice"

    data = (run / "run.json").read_bytes()
    body = json.dumps(load_sealed(data)).encode()
    (run / "run.json").write_bytes(sealed(body[:-1] + b', "samples": 5}') + b"\n")
    with pytest.raises(StoreError, match=r"^run\.json: not valid JSON: the key 'samples' is there twice$"):
        open_run(run)


def test_lines_that_contradict_each_other_are_both_left_out(run):
    path = run / "manifest.jsonl"
    good = path.read_bytes()
    first = good.splitlines(keepends=True)[0]
    path.write_bytes(good + first)  # the same again: written twice around a fault of the disk
    assert open_run(run).problems == ()
    other = load_sealed(first) | {"xxh3_128": "0" * 32}
    path.write_bytes(good + (seal_json(other) + b"\n") * 2)
    store = open_run(run)
    check(store, [0, 1, 5, 6])
    name = other["name"]
    assert [problem.what for problem in store.problems] == [
        f"line {n}: it contradicts line 1 on {name}; {WITHOUT}" for n in (3, 4)
    ]
    assert set(read_manifest(path).entries) == {"00000005-00000006.s0001.r000.h5"}
    writer(run, resume=True).close()
    check_clean(run, [0, 1, 5, 6])


def test_a_shard_or_a_probe_beyond_the_sizes_of_the_format_is_not_opened(run):
    (run / "manifest.jsonl").unlink()
    shard = shards(run)[1]
    good = shard.read_bytes()
    os.truncate(shard, 256 * 2**20 + 1)  # mostly a hole
    (problem,) = open_run(run).problems
    assert problem.what == f"{256 * 2**20 + 1} bytes, a shard has at most {256 * 2**20}"
    shard.write_bytes(good)
    os.truncate(run / "probe.h5", 2**33)
    with pytest.raises(StoreError, match=rf"^probe\.h5: {2**33} bytes, at most {2**32} expected$"):
        open_run(run)


def test_rows_that_are_listed_again_and_again_are_refused_by_their_number(run):
    """A shard without layers has no array that would hold the number of its rows down."""
    import numpy as np

    from infoplane.core import Snapshot

    with writer(run, resume=True) as out:
        out(Snapshot(step=9, epoch=0.0, time=0.0, layers=(), arrays={}, metrics={"loss": 1.0}))
    assert open_run(run).problems == ()
    (run / "manifest.jsonl").unlink()
    path = shards(run)[-1]
    rebuild(path, array_change("rows", np.tile([[0, 24]], (500_000, 1))))
    began = time.perf_counter()
    (problem,) = open_run(run).problems
    assert time.perf_counter() - began < 5
    assert problem.what == "it lists more rows than the 24 of the probe"


def test_lines_are_synced_when_append_returns(tmp_path, monkeypatch):
    seen, write = [], os.write
    monkeypatch.setattr(os, "write", lambda fd, data: seen.append("write") or write(fd, data))
    monkeypatch.setattr(os, "fsync", lambda fd: seen.append("sync"))
    Journal(tmp_path / "lines").append([b"one", b"two"])
    assert seen == ["write", "sync"]
    assert (tmp_path / "lines").read_bytes() == b"one\ntwo\n"
