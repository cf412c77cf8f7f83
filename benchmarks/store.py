"""The activation store against raw input and output of the same bytes, in memory-backed or page-cached files.

Ratios are of CPU time, raw over ours: the share of raw speed that is left. The sync to disk is on both sides of the
write rows; reading is warm, and includes the check of every digest.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks._harness import Row, compare
from infoplane.core import Layer, Probe, Snapshot
from infoplane.store import StoreWriter, open_run


def probe(samples: int) -> Probe:
    rows = np.arange(samples)
    return Probe(sample_ids=rows, input_ids=rows, repeats=0 * rows, labels=rows % 2, part=0 * rows)


def snapshots(count: int, samples: int, units: int) -> list[Snapshot]:
    layer = Layer(key="relu", name="relu", depth=0, unit_shape=(units,))
    rng = np.random.default_rng(0)
    arrays = [np.maximum(rng.standard_normal((samples, units), dtype=np.float32), 0) for _ in range(count)]
    return [
        Snapshot(step=i, epoch=float(i), time=0.0, layers=(layer,), arrays={"relu": a}) for i, a in enumerate(arrays)
    ]


def raw_write(folder: Path, arrays: list[np.ndarray]) -> None:
    """The same bytes in one file, synced and renamed, and nothing else."""
    fd = os.open(folder / "raw.tmp", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    try:
        for a in arrays:
            view = memoryview(a).cast("B")
            while view:
                view = view[os.write(fd, view) :]
        os.fsync(fd)
    finally:
        os.close(fd)
    (folder / "raw.tmp").replace(folder / "raw")


def store_write(folder: Path, taken: list[Snapshot], samples: int) -> None:
    shutil.rmtree(folder / "run", ignore_errors=True)
    with StoreWriter(
        folder / "run", probe=probe(samples), settings={}, background=False, seal_seconds=60.0, on_error="raise"
    ) as writer:
        for snapshot in taken:
            writer(snapshot)


def raw_read(path: Path, out: np.ndarray) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        view, offset = memoryview(out).cast("B"), 0
        while offset < len(view):
            offset += os.preadv(fd, [view[offset:]], offset)
    finally:
        os.close(fd)


def rows(*, quick: bool = False) -> Iterator[Row]:
    cases = (
        [(16, 2000, 512, "4 MiB", 0.7)] if quick else [(16, 2000, 512, "4 MiB", 0.7), (4, 8192, 1024, "32 MiB", 0.9)]
    )
    rounds = 3 if quick else 7
    for count, samples, units, size, must in cases:
        taken = snapshots(count, samples, units)
        arrays = [s.arrays["relu"] for s in taken]
        with tempfile.TemporaryDirectory() as directory:
            folder = Path(directory)
            timing = compare(
                lambda f=folder, t=taken, n=samples: store_write(f, t, n),
                lambda f=folder, a=arrays: raw_write(f, a),
                rounds=rounds,
            )
            gib = sum(a.nbytes for a in arrays) / 1e9
            yield Row(
                id="W1", case=f"write {count} snapshots of {size}", against="os.write, fsync, rename", must=must,
                aim=1.0, candidate_ms=timing.candidate_ms, reference_ms=timing.reference_ms, ratio=timing.ratio,
                low=timing.low, high=timing.high, limit=timing.candidate_ms / 1e3 / gib, limit_of="CPU s a GB",
            )  # fmt: skip
            steps = list(range(count))
            out = np.empty((count, samples, units), np.float32)
            store = open_run(folder / "run")
            assert all((store.read("relu", [i])[0] == a).all() for i, a in enumerate(arrays))
            timing = compare(
                lambda s=store, st=steps: s.read("relu", st),
                lambda f=folder, o=out: raw_read(f / "raw", np.empty_like(o)),
                rounds=rounds,
            )
            yield Row(
                id="R1", case=f"read {count} snapshots of {size}, digests checked", against="preadv, fresh memory",
                must=0.7, aim=0.9, candidate_ms=timing.candidate_ms, reference_ms=timing.reference_ms,
                ratio=timing.ratio, low=timing.low, high=timing.high, limit=timing.candidate_ms / 1e3 / gib,
                limit_of="CPU s a GB",
            )  # fmt: skip
