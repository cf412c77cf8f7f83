"""Whatever the bytes of a file, reading it ends in a result or one line of error, in set time and memory."""

from __future__ import annotations

import os
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import pytest
from hostile_files import everything, restore, spoil
from limited_calls import LimitedCalls
from store_cases import copy_run, record

from infoplane.core import StoreError
from infoplane.core.limited import Limits
from infoplane.results import ResultTable, Row

HERE = Path(__file__).parent
LIMITS = Limits(memory_bytes=256 << 20, cpu_seconds=10, wall_seconds=40)
WORKERS = 2


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "good"
    record(path, [[0, 1], [5, 6]])
    rows = [
        Row(run="run", step=step, epoch=step / 2, layer=layer, depth=depth, subset="all", estimator="binning",
            config='{"n_bins":30}', n_samples=24, n_units=3, quantity=quantity, value=1.5, source="aa")
        for step in (0, 1, 5, 6) for depth, layer in enumerate(("fc1", "fc2")) for quantity in ("I(X;T)", "I(T;Y)")
    ]  # fmt: skip
    ResultTable.from_rows(rows, {"runs": {"run": {"layers": ["fc1", "fc2"]}}}).write(path / "results.csv")
    os.mkfifo(tmp_path / "trap")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]))
    return path


def read_all(run: Path, copy: Path, trap: Path, count: int, worker: int, workers: int) -> tuple[Counter[str], float]:
    """How every `workers`-th file ends, and the longest time that one took."""
    copy_run(run, copy)
    seen: Counter[str] = Counter()
    slowest = 0.0
    with LimitedCalls() as calls:
        assert calls.call("untrusted_jobs:read_run", copy, LIMITS) == []
        helper = calls._helper
        for kind, name, change in islice(everything(run, trap, count), worker, None, workers):
            spoil(copy, name, change)
            began = time.monotonic()
            job = "read_table" if name.startswith("results") else "read_run"
            try:
                found = calls.call(f"untrusted_jobs:{job}", copy, LIMITS)
            except StoreError as error:
                text, how = str(error), "refused"
                if text.endswith("do not trust this run"):
                    how = next((word for word in ("crashed", "memory", "time", "longer") if word in text), "failed")
                assert how != "failed", (kind, name, text)
            else:
                text, how = max(found, key=len, default=""), "named" if found else "harmless"
            took = time.monotonic() - began
            slowest = max(slowest, took)
            assert "\n" not in text, (kind, name, text)
            assert len(text) < 1000, (kind, name, text[:1000])
            seen.update([kind, how, "files"])
            seen["over time"] += took > LIMITS.wall_seconds + 1
            restore(run, copy)
        assert calls.call("untrusted_jobs:read_run", copy, LIMITS) == []
        assert len(calls.call("untrusted_jobs:read_table", copy, LIMITS)) == 0
        seen["helpers lost"] += calls._helper is not helper
    return seen, slowest


def check_all(run: Path, tmp_path: Path, count: int, workers: int) -> tuple[Counter[str], str]:
    began = time.monotonic()
    with ThreadPoolExecutor(workers) as pool:
        work = [
            pool.submit(read_all, run, tmp_path / f"copy-{i}", tmp_path / "trap", count, i, workers)
            for i in range(workers)
        ]
        done = [future.result() for future in work]
    seen = sum((counts for counts, _ in done), Counter())
    line = (
        f"files {seen['files']} ({', '.join(f'{kind} {seen[kind]}' for kind in KINDS)}): parent deaths 0, helpers lost "
        f"{seen['helpers lost']}, over time {seen['over time']}; harmless {seen['harmless']}, named {seen['named']}, "
        f"refused {seen['refused']}, stopped for memory {seen['memory']}, for time {seen['time'] + seen['longer']}, "
        f"crashed in the child {seen['crashed']}; slowest {max(slow for _, slow in done):.2f} s, "
        f"all {time.monotonic() - began:.0f} s"
    )
    return seen, line


KINDS = ("corpus", "bytes", "fields", "index", "metadata", "cells", "made")


@pytest.mark.slow
def test_any_file_ends_in_a_result_or_one_error(run, tmp_path, capsys):
    count = 200
    seen, line = check_all(run, tmp_path, count, 1)
    with capsys.disabled():
        print(f"\n  {line}")
    assert seen["over time"] == seen["helpers lost"] == 0
    assert min(seen["harmless"], seen["named"], seen["refused"]) > count // 7
    assert min(seen[kind] for kind in KINDS) > count // 28


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_twenty_thousand_files_end_in_a_result_or_one_error(run, tmp_path, capsys):
    seen, line = check_all(run, tmp_path, 20_000, WORKERS)
    with capsys.disabled():
        print(f"\n  {line}")
    assert seen["files"] >= 20_000
    assert seen["over time"] == seen["helpers lost"] == 0
    assert min(seen["harmless"], seen["named"], seen["refused"]) > 1000
