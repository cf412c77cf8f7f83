"""Writes the small run that is kept for every released format: `python make_format_run.py tests/data/format-1`.

Two sessions, the first by two ranks; every kind of dtype; a split snapshot; NaN; metrics; odd names; from version 2
on labels for each position. It is written once per format version and never again: `test_old_formats.py` reads all.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from store_cases import layer, probe, snapshot, writer

from infoplane.store import ActivationStore, open_run

SAMPLES = 10
FIRST = (layer("fc1", (4,)), layer("a/b ß", (2, 3), "bfloat16", 1), layer("", (), "bool", 2))
SECOND = (layer("fc1", (4,)), layer("codes", (2,), "int64", 1), layer("half", (3,), "float16", 2))


def describe(store: ActivationStore) -> dict[str, Any]:
    """Everything that a reader gets, with the activations as SHA-256."""
    return {
        "run_id": store.run_id,
        "settings": store.settings,
        "probe_digest": store.probe_digest,
        "labels": store.probe.labels.tolist(),
        "inputs": store.probe.inputs.tolist(),
        "parts": [store.probe.part.tolist(), list(store.probe.part_names)],
        "layers": [spec.to_json() for spec in store.layers],
        "steps": [[s, store.epoch(s), store.time(s), store.session(s)] for s in store.steps()],
        "metrics": [[*row[:-1], repr(row[-1])] for row in store.metrics()],
        "activations": {
            spec.key: {
                str(s): [
                    hashlib.sha256(store.read(spec.key, [s]).tobytes()).hexdigest(),
                    store.nonfinite(spec.key, s),
                    store.source(spec.key, s),
                ]
                for s in store.steps(spec.key)
            }
            for spec in store.layers
        },
        "sessions": [[s["session"], s["rank"], s["resumed_from"], s["notes"]] for s in store.sessions],
        "problems": [str(problem) for problem in store.problems],
    }


def labels(version: int) -> np.ndarray:
    ids = np.arange(SAMPLES)
    return ids % 3 if version == 1 else np.stack([ids % 3, np.where(ids % 4, (ids + 1) % 3, -100)], 1)


def make(path: Path, version: int) -> None:
    on = probe(SAMPLES, labels=labels(version))
    options: dict[str, Any] = {"probe": on, "settings": {"model": "mlp", "versions": {"torch": "2"}}}
    both = [
        writer(path / "run", world_size=2, **options),
        writer(path / "run", rank=1, world_size=2, session=1, **options),
    ]
    for rank, out in enumerate(both):
        for step in range(4):
            out(snapshot(step, FIRST, SAMPLES, np.arange(rank, SAMPLES, 2)))
        out.annotate(shift=1)
    for out in both[::-1]:
        out.close()
    with writer(path / "run", resume=True, max_file_bytes=600, **options) as out:
        for step in (2, 5):
            metrics = {"loss": float("nan"), "accuracy": 0.5}
            out(snapshot(step, SECOND, SAMPLES, metrics=metrics, layer_metrics={("fc1", "norm"): 2.0}))
    (path / "expected.json").write_text(json.dumps(describe(open_run(path / "run")), indent=1) + "\n")


if __name__ == "__main__":
    make(Path(sys.argv[1]), int(sys.argv[1].rpartition("-")[2]))
