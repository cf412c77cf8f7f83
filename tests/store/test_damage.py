"""Bytes that change on the disk: every change is named, or changes nothing that a reader gets."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from store_cases import LAYERS, check, copy_run, record, shards, values

from infoplane.core import StoreError
from infoplane.store import ActivationStore, Problem, _shard, open_run, reader

FILES = ("run.json", "probe.h5", "manifest.jsonl", "sessions/0001.json", "shards/00000000-00000001.s0001.r000.h5")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("damage") / "run"
    record(path, [[0, 1], [2, 3]])
    return path


def everything(store: ActivationStore) -> dict[str, Any]:
    """All that a reader can ask for, but for the activations."""
    probe = store.probe
    arrays = (probe.sample_ids, probe.input_ids, probe.repeats, probe.labels, probe.part, probe.inputs)
    return {
        "run": (store.run_id, store.created, store.settings, store.probe_digest),
        "probe": ([a.tobytes() for a in arrays], probe.part_names, probe.label_names),
        "sessions": store.sessions,
        "layers": store.layers,
        "metrics": store.metrics(),
        "steps": [(s, store.epoch(s), store.time(s), store.session(s)) for s in store.steps()],
        "sources": [(key.key, s, store.source(key.key, s), store.nonfinite(key.key, s))
                    for key in LAYERS for s in store.steps()],
    }  # fmt: skip


def outcome(path: Path, truth: dict[str, Any]) -> str:
    """ "refused", "named" or "harmless"; an AssertionError for anything silently wrong."""
    try:
        store = open_run(path)
    except StoreError:
        return "refused"
    found = everything(store)
    lost = set()
    for spec in LAYERS:
        for step in store.steps():
            try:
                got = store.read(spec.key, [step])
            except StoreError:
                lost.add(step)
            else:
                assert got.tobytes() == values(spec, step).tobytes(), (spec.key, step)
    named = {step for problem in store.problems for step in problem.steps}
    assert lost <= named
    assert {0, 1, 2, 3} - set(store.steps()) <= named, "a step is gone and nothing says so"
    for what, value in truth.items():
        if what in ("metrics", "steps", "sources"):
            assert set(map(str, found[what])) <= set(map(str, value)), what
        elif what != "sessions" or not any(p.file.startswith("sessions") for p in store.problems):
            assert found[what] == value, what
    return "named" if store.problems else "harmless"


def mutations(data: bytes, random: np.random.Generator, counts: dict[str, int]) -> Iterator[tuple[str, bytes]]:
    n = len(data)
    for _ in range(counts["flip"]):
        at, bit = int(random.integers(n)), int(random.integers(8))
        yield "flip", data[:at] + bytes([data[at] ^ (1 << bit)]) + data[at + 1 :]
    for _ in range(counts["truncate"]):
        yield "truncate", data[: int(random.integers(n))]
    for _ in range(counts["zero"]):
        at, size = int(random.integers(n)), int(random.choice([2, 16, 512, 4096]))
        size = min(size, n - at)
        yield "zero", data[:at] + bytes(size) + data[at + size :]
    for _ in range(counts["append"]):
        yield "append", data + random.bytes(int(random.integers(1, 200)))
    for _ in range(counts["move"]):
        a, b = sorted(random.integers(0, n, 2).tolist())
        yield "move", data[:a] + data[b:] + data[a:b]
    for _ in range(counts["random"]):
        at = int(random.integers(n))
        size = int(random.integers(1, 64))
        yield "random", (data[:at] + random.bytes(size) + data[at + size :])[:n]


def damage(run: Path, path: Path, files: tuple[str, ...], scale: int, *, manifest: bool = True) -> Counter[str]:
    copy_run(run, path)
    if not manifest:
        (path / "manifest.jsonl").unlink()
    truth = everything(open_run(run))
    counts = {"flip": 8, "truncate": 3, "zero": 3, "append": 1, "move": 1, "random": 2}
    seen: Counter[str] = Counter()
    for number, name in enumerate(files):
        data = (path / name).read_bytes()
        random = np.random.default_rng([number, manifest])
        per_file = {kind: count * scale for kind, count in counts.items()}
        for kind, changed in mutations(data, random, per_file):
            (path / name).write_bytes(changed)
            seen[outcome(path, truth)] += 1
            seen[kind] += 1
        (path / name).write_bytes(data)
    return seen


def report(capsys, seen: Counter[str]) -> None:
    total = seen["refused"] + seen["named"] + seen["harmless"]
    with capsys.disabled():
        print(f"\n  damaged files {total}: silently wrong 0, crash 0; named {seen['named']}, "
              f"run refused {seen['refused']}, harmless {seen['harmless']}")  # fmt: skip


def test_damage_is_named_or_harmless(run, tmp_path, capsys):
    seen = damage(run, tmp_path / "run", FILES, 4)
    report(capsys, seen)
    assert seen["named"] > 50
    assert seen["refused"] > 50


def test_a_shard_notices_damage_without_the_manifest(run, tmp_path, capsys):
    seen = damage(run, tmp_path / "run", FILES[-1:], 15, manifest=False)
    report(capsys, seen)
    assert seen["named"] > 100
    assert seen["refused"] == 0


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_much_damage_is_named_or_harmless(run, tmp_path, capsys):
    seen = damage(run, tmp_path / "a", FILES, 380)
    seen += damage(run, tmp_path / "b", FILES[-1:], 900, manifest=False)
    report(capsys, seen)


# The test must notice when the checks are taken away.


class Anything:
    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False


@pytest.mark.parametrize("module", [reader, _shard], ids=["content", "index"])
def test_a_reader_without_digests_is_caught(run, tmp_path, monkeypatch, module):
    real = module.digest
    monkeypatch.setattr(module, "digest", lambda *buffers: Anything() if _checks(module) else real(*buffers))
    with pytest.raises(AssertionError):
        damage(run, tmp_path / "run", FILES[-1:], 90, manifest=False)


def _checks(module: Any) -> bool:
    """Whether the digest is being compared, and not computed for a source or a probe."""
    import sys

    caller = sys._getframe(2).f_code.co_name
    return caller == {"infoplane.store.reader": "_read_shard", "infoplane.store._shard": "_read_index"}[module.__name__]


# Single faults


def test_damage_that_shows_on_reading_withdraws_the_step_and_leaves_the_rest(run, tmp_path):
    path = copy_run(run, tmp_path / "run")
    store = open_run(path)
    shard = store.valid_shards()[0]
    file = path / "shards" / str(shard.name)
    data = bytearray(file.read_bytes())
    data[shard.acts[1].offset] ^= 1  # layer fc2, step 0
    file.write_bytes(data)
    store = open_run(path)
    assert store.problems == ()
    with pytest.raises(
        StoreError, match=r"layer 'fc2' cannot be read at step 0: shards/0+-0+1.*does not match its digest"
    ):
        store.read("fc2", store.steps("fc2"))
    assert store.steps("fc2") == store.steps() == [1, 2, 3]
    assert store.steps("fc1") == [0, 1, 2, 3]
    assert store.read("fc2", store.steps("fc2")).shape == (3, 24, 2, 3)
    (problem,) = store.problems
    assert (problem.file, problem.steps) == (f"shards/{shard.name}", (0,))
    assert open_run(path).verify() == [
        Problem(f"shards/{shard.name}", "layer 'fc2': the content does not match its digest", (0,))
    ]


def test_a_shard_that_is_gone_or_changed_after_opening(run, tmp_path):
    path = copy_run(run, tmp_path / "run")
    store = open_run(path)
    first, second = shards(path)
    first.unlink()
    second.write_bytes(second.read_bytes()[:-3])
    with pytest.raises(StoreError, match=r"at steps 0-3: .*No such file or directory"):
        store.read("fc1", [0, 1, 2, 3])
    assert store.steps("fc1") == []
    assert {p.steps for p in store.problems} == {(0,), (1,), (2,), (3,)}
    assert any("bytes expected, got" in p.what for p in store.problems)


def test_a_shard_of_another_run_is_named(run, tmp_path):
    path = copy_run(run, tmp_path / "run")
    record(tmp_path / "other", [[7]])
    foreign = shards(tmp_path / "other")[0]
    os.link(foreign, path / "shards" / foreign.name)
    store = open_run(path)
    check(store, [0, 1, 2, 3])
    (problem,) = store.problems
    assert problem.what == f"it belongs to run {open_run(tmp_path / 'other').run_id}, this is run {store.run_id}"


def test_a_shard_under_another_name_is_named(run, tmp_path):
    path = copy_run(run, tmp_path / "run")
    (path / "manifest.jsonl").unlink()
    first, second = shards(path)
    first.rename(path / "shards/00000000-00000001.s0001.r001.h5")
    store = open_run(path)
    check(store, [2, 3])
    assert store.problems[0].what.startswith("its content belongs to 00000000-00000001.s0001.r000.h5")
    second.rename(first)  # in the place of another
    assert open_run(path).steps() == []


def test_the_message_of_a_truncated_shard(run, tmp_path):
    path = copy_run(run, tmp_path / "run")
    first = shards(path)[0]
    size = first.stat().st_size
    first.write_bytes(first.read_bytes()[: size // 2])
    (problem,) = open_run(path).problems
    assert str(problem) == f"shards/{first.name}: {size} bytes expected, got {size // 2} (steps 0-1)"
    (path / "manifest.jsonl").unlink()
    (problem,) = open_run(path).problems
    assert str(problem) == f"shards/{first.name}: {size} bytes expected, got {size // 2} (steps 0-1)"


def test_a_whole_file_digest_finds_what_no_reader_would_see(run, tmp_path):
    """Bytes between the arrays belong to nobody; verify reads them all the same."""
    path = copy_run(run, tmp_path / "run")
    store = open_run(path)
    shard = store.valid_shards()[0]
    used = np.zeros(shard.size, bool)
    from infoplane.core import files
    from infoplane.store import _h5

    with files.opened(path / "shards" / str(shard.name)) as fd:
        extents, _ = _h5.parse(files.PagedFile(fd, 1 << 30), lambda text: {})
    first = min(e.offset for e in extents.values() if e.nbytes)
    for extent in extents.values():
        used[extent.offset : extent.offset + extent.nbytes] = True
    gap = first + int(np.argmin(used[first:]))
    file = path / "shards" / str(shard.name)
    data = bytearray(file.read_bytes())
    data[gap] ^= 255
    file.write_bytes(data)
    check(open_run(path), [0, 1, 2, 3])
    (problem,) = open_run(path).verify()
    assert problem.what.startswith("digest ")
    assert ", got " in problem.what


def test_a_problem_is_shown_without_control_characters(run, tmp_path):
    path = copy_run(run, tmp_path / "run")
    (path / "shards/\x1b[31mred\n.h5").write_bytes(b"")
    (problem,) = open_run(path).problems
    assert problem.file == "shards/\x1b[31mred\n.h5"
    assert str(problem) == "shards/\\x1b[31mred .h5: not a shard of this format"
