"""The activation store against raw input and output of the same bytes, in memory-backed or page-cached files.

Ratios are of CPU time, raw over ours: the share of raw speed that is left. The sync to disk is on both sides of the
write rows; reading is warm, and includes the check of every digest.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np

from benchmarks._harness import Case, package
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


def sizes(quick: bool) -> list[tuple[int, int, int, str, float]]:
    """Snapshots, samples, units, bytes of a snapshot, and the share of raw speed that must be left."""
    return [(16, 2000, 512, "4 MiB", 0.7), (4, 8192, 1024, "32 MiB", 0.9)][: 1 if quick else 2]


def cases(quick: bool = False) -> Iterator[Case]:
    rounds = 3 if quick else 7
    for count, samples, units, size, must in sizes(quick):
        taken = snapshots(count, samples, units)
        arrays = [s.arrays["relu"] for s in taken]
        gigabytes = sum(a.nbytes for a in arrays) / 1e9
        with tempfile.TemporaryDirectory() as directory:
            folder = Path(directory)
            common = {"rounds": rounds, "limit": lambda ms, gb=gigabytes: (ms / 1e3 / gb, "CPU s a GB")}
            yield Case(
                id="W1", case=f"write {count} snapshots of {size}", against="os.write, fsync, rename (own code)",
                must=must, aim=1.0, candidate=lambda f=folder, t=taken, n=samples: store_write(f, t, n),
                reference=lambda f=folder, a=arrays: raw_write(f, a), **common,
            )  # fmt: skip
            yield from by_packages(
                folder, arrays, lambda f=folder, t=taken, n=samples: store_write(f, t, n), size, rounds
            )
            store_write(folder, taken, samples)
            raw_write(folder, arrays)
            steps, out = list(range(count)), np.empty((count, samples, units), np.float32)
            store = open_run(folder / "run")
            assert all((store.read("relu", [i])[0] == a).all() for i, a in enumerate(arrays))
            yield Case(
                id="R1", case=f"read {count} snapshots of {size}, digests checked",
                against="preadv, fresh memory (own code)", must=0.7, aim=0.9,
                candidate=lambda s=store, st=steps: s.read("relu", st),
                reference=lambda f=folder, o=out: raw_read(f / "raw", np.empty_like(o)), **common,
            )  # fmt: skip


def by_packages(folder: Path, arrays: list[np.ndarray], ours: Callable, size: str, rounds: int) -> Iterator[Case]:
    """The same arrays as users write them: one HDF5 data set or zarr array, a snapshot at a time, nothing synced."""

    def plain_h5py() -> None:
        with h5py.File(folder / "plain.h5", "w") as file:
            data = file.create_dataset("relu", (len(arrays), *arrays[0].shape), "f4")
            for i, a in enumerate(arrays):
                data[i] = a

    def plain_zarr() -> None:
        import zarr

        options = {"shape": (len(arrays), *arrays[0].shape), "chunks": (1, *arrays[0].shape), "dtype": "f4"}
        data = zarr.create_array(folder / "plain.zarr", compressors=None, overwrite=True, **options)
        for i, a in enumerate(arrays):
            data[i] = a

    for name, reference in (("h5py", plain_h5py), ("zarr", plain_zarr)):
        case = f"write {len(arrays)} snapshots of {size}"
        yield Case(id="W2", case=case, against=package(name), candidate=ours, reference=reference, rounds=rounds)
