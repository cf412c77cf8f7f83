"""Small probes, layers and snapshots whose every value follows from the step."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from infoplane.core import Layer, Probe, Snapshot
from infoplane.store import ActivationStore, StoreWriter, open_run
from infoplane.store.layout import ARRAY_DTYPES

SAMPLES = 24


def probe(samples: int = SAMPLES, **changes: Any) -> Probe:
    ids = np.arange(samples)
    fields = {
        "sample_ids": ids,
        "input_ids": ids // 2,
        "repeats": ids * 0,
        "labels": ids % 3,
        "part": ids % 2,
        "part_names": ("train", "test"),
        "label_names": ("a", "b", "c"),
        "inputs": np.linspace(0, 1, samples * 4, dtype=np.float32).reshape(samples, 4),
    }
    return Probe(**(fields | changes))


def layer(key: str = "fc", shape: tuple[int, ...] = (3,), dtype: str = "float32", depth: int = 0) -> Layer:
    return Layer(key=key, name=key, depth=depth, unit_shape=shape, dtype=dtype, module_type="Linear")


LAYERS = (layer("fc1", (5,)), layer("fc2", (2, 3), "bfloat16", 1), layer("out", (), "float64", 2))


def values(spec: Layer, step: int, samples: int = SAMPLES) -> np.ndarray:
    """Any bits that the dtype allows, NaN payloads included."""
    kind = ARRAY_DTYPES[spec.dtype]
    random = np.random.default_rng([step, spec.depth, samples])
    shape = (samples, *spec.unit_shape)
    if kind == np.bool_:
        return random.integers(0, 2, shape).astype(bool)
    return np.frombuffer(random.bytes(int(np.prod(shape)) * kind.itemsize), kind).reshape(shape)


def snapshot(
    step: int,
    layers: tuple[Layer, ...] = LAYERS,
    samples: int = SAMPLES,
    rows: np.ndarray | None = None,
    **changes: Any,
) -> Snapshot:
    arrays = {spec.key: values(spec, step, samples) for spec in layers}
    if rows is not None:
        arrays = {key: array[rows] for key, array in arrays.items()}
    fields = {
        "step": step,
        "epoch": step / 2,
        "time": 1e9 + step,
        "layers": layers,
        "arrays": arrays,
        "metrics": {"loss": 1.0 / (step + 1)},
        "rows": rows,
    }
    return Snapshot(**(fields | changes))


def writer(path: Path, **options: Any) -> StoreWriter:
    """A writer in the calling thread that seals at `flush` and `close` only."""
    defaults = {"probe": probe(), "settings": {"model": "mlp"}, "background": False, "seal_seconds": 1e9}
    return StoreWriter(path, **(defaults | options))


def record(path: Path, groups: list[list[int]], **options: Any) -> None:
    """One shard for each group of steps."""
    with writer(path, **options) as out:
        for group in groups:
            for step in group:
                out(snapshot(step))
            assert out.flush()


def bits(array: np.ndarray) -> bytes:
    return np.ascontiguousarray(array).tobytes()


def check(store: ActivationStore, steps: list[int], layers: tuple[Layer, ...] = LAYERS) -> None:
    """Exactly these steps are there, and every value of them is what was recorded."""
    assert store.steps() == steps
    for spec in layers if steps else ():
        assert store.steps(spec.key) == steps
        got = store.read(spec.key, steps)
        samples = store.probe.samples
        assert got.shape == (len(steps), samples, *spec.unit_shape)
        assert store.nbytes(spec.key) == got[0].nbytes
        for s, step in enumerate(steps):
            assert bits(got[s]) == bits(values(spec, step, samples)), (spec.key, step)


def check_clean(path: Path, steps: list[int]) -> None:
    store = open_run(path)
    assert store.problems == ()
    check(store, steps)
    assert store.verify() == []


def copy_run(source: Path, target: Path) -> Path:
    shutil.copytree(source, target, symlinks=True)
    return target


def shards(path: Path) -> list[Path]:
    return sorted((path / "shards").glob("*.h5"))
