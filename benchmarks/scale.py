"""A study of many small runs: the same bytes from processes and from a cluster, in memory that does not grow.

    python -m benchmarks.scale                 500 runs of 10 layers and 40 steps, and the first 100; ten minutes
    python -m benchmarks.scale --runs 60 --few 30

Each way is a process of its own: `-j 2`, and a Dask LocalCluster of two workers of which one is killed on the way. It
estimates every run, writes the frame of the study, and says the largest memory that it had. Exit code 1 where a frame
or a table differs, or where the memory of all runs is more than 1.1 of that of a few.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np

import infoplane
from infoplane.analysis import analyze_each
from infoplane.core import Layer, Probe, Snapshot
from infoplane.store import StoreWriter

LAYERS, STEPS, SAMPLES, UNITS = 10, 40, 100, 3
ESTIMATORS = ["binning:n_bins=8,null_draws=2"]
MOST = 1.1
"""Memory of all runs over that of a few."""


def make_run(path: Path, seed: int) -> Path:
    """A run whose layers drift from their inputs to their labels, at a pace of its own."""
    rng = np.random.default_rng(seed)
    labels = np.arange(SAMPLES) % 4
    ids, zeros = np.arange(SAMPLES), np.zeros(SAMPLES, np.int64)
    probe = Probe(sample_ids=ids, input_ids=ids, repeats=zeros, labels=labels, part=zeros, part_names=("all",))
    keys = [f"layer{i}" for i in range(LAYERS)]
    layers = tuple(
        Layer(key=key, name=key, depth=i, unit_shape=(UNITS,), dtype="float32", role="activation")
        for i, key in enumerate(keys)
    )
    inputs, classes = rng.normal(size=(LAYERS, SAMPLES, UNITS)), rng.normal(size=(LAYERS, 4, UNITS))[:, labels]
    pace = rng.uniform(0.2, 1)
    settings = {"chain": True, "about": {"pace": round(pace, 6)}}
    with StoreWriter(path, probe=probe, settings=settings, background=False) as write:
        for step in range(STEPS):
            share = 1 - np.exp(-pace * step / 10)
            values = np.tanh((1 - share) * inputs + share * classes).astype(np.float32)
            loss = {"train_loss": float(1 - share), "test_loss": float(1 - share / 2)}
            arrays = dict(zip(keys, values, strict=True))
            write(Snapshot(step=step, epoch=step, time=step, layers=layers, arrays=arrays, metrics=loss))
    return path


@contextlib.contextmanager
def cluster(workers: int = 2) -> Iterator[tuple[Any, Executor]]:
    """A Dask cluster on this machine, and what `analyze` takes of it."""
    import distributed

    with (
        distributed.LocalCluster(workers, threads_per_worker=1, dashboard_address=None) as local,
        distributed.Client(local) as client,
    ):
        yield client, client.get_executor(pure=False)


def kill_a_worker(client: Any) -> int:
    """End one process of a cluster as the system does that has no more memory; another one is started for it."""
    pid: int = next(iter(client.run(os.getpid).values()))
    os.kill(pid, signal.SIGKILL)
    return pid


def estimate(runs: Sequence[Path], way: str) -> None:
    """Estimate all runs in this way, table by table; a worker of the cluster dies when a third of them is done."""
    if way == "jobs":
        for _ in analyze_each(list(runs), ESTIMATORS, device="cpu", progress=False, jobs=2):
            pass
        return
    with cluster() as (client, executor):
        done = analyze_each(list(runs), ESTIMATORS, device="cpu", progress=False, jobs=executor)
        for i, _ in enumerate(done):
            if i == len(runs) // 3:
                kill_a_worker(client)


def measure(folder: Path, count: int, way: str) -> dict[str, Any]:
    """Seconds, peak memory in MiB, and digests of the frame and the tables of the first runs."""
    runs = sorted(folder.glob("run*"))[:count]
    for run in runs:
        for name in ("results.csv", "results.json"):
            (run / name).unlink(missing_ok=True)
    start = time.perf_counter()
    estimate(runs, way)
    estimated = time.perf_counter()
    study = infoplane.study(runs)
    frame = study.write(folder / f"{way}-{count}.csv").read_bytes()
    tables = hashlib.sha256()
    for run in runs:
        tables.update((run / "results.csv").read_bytes())
    peaks = [resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    digests = {"frame": hashlib.sha256(frame).hexdigest(), "tables": tables.hexdigest(), "rows": len(study)}
    seconds = [round(estimated - start, 1), round(time.perf_counter() - estimated, 1)]
    return digests | {"seconds": seconds, "peaks": peaks}


def in_a_process(folder: Path, count: int, way: str) -> dict[str, Any]:
    """The same in a process that has done nothing before."""
    command = [sys.executable, "-m", "benchmarks.scale", "--one", str(folder), str(count), way]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    estimated, studied = found["seconds"]
    peak, worker = found["peaks"]
    print(
        f"{way:5} {count:4} runs: estimated in {estimated} s, study in {studied} s, "
        f"at most {peak:.0f} MiB here, {worker:.0f} MiB in a worker",
        flush=True,
    )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--few", type=int, default=100)
    parser.add_argument("--one", nargs=3, metavar=("FOLDER", "COUNT", "WAY"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        folder, count, way = options.one
        print(json.dumps(measure(Path(folder), int(count), way)))
        return 0
    wrong = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for i in range(options.runs):
            make_run(folder / f"run{i:04}", i)
        found = {(w, n): in_a_process(folder, n, w) for w in ("jobs", "dask") for n in (options.few, options.runs)}
    for n in (options.few, options.runs):
        a, b = found["jobs", n], found["dask", n]
        wrong += [f"{what} of {n} runs differ" for what in ("frame", "tables") if a[what] != b[what]]
    for way in ("jobs", "dask"):
        few, many = (max(found[way, n]["peaks"]) for n in (options.few, options.runs))
        print(f"{way:5} memory of {options.runs} runs over that of {options.few}: {many / few:.3f}")
        wrong += [f"{way}: memory grows with the number of runs"] if many / few > MOST else []
    print("\n".join(wrong) or "the same frame and the same tables, byte for byte")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
