"""What a results table says about a run beside the rows: its layers, labels, settings and versions."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from infoplane import __version__
from infoplane.core.files import fingerprint
from infoplane.results import Row
from infoplane.store import ActivationStore

RECORDED = "recorded"


def entropy_bits(labels: npt.NDArray[Any]) -> float:
    """Plug-in entropy of what occurs in `labels`."""
    counts = np.unique(labels, return_counts=True)[1]
    p = counts / counts.sum()
    return float(-(p * np.log2(p)).sum()) + 0.0


def run_meta(store: ActivationStore, table: Path) -> dict[str, Any]:
    """JSON of one run for `ResultTable.meta["runs"][run_id]`; the path is relative to the table."""
    probe = store.probe
    first = probe.repeats == 0
    discrete = probe.target == "discrete"
    steps = store.steps()
    metrics = dict.fromkeys((name, layer) for _, _, name, layer, _ in store.metrics())
    return {
        "path": os.path.relpath(store.path, table.parent),
        "layers": [layer.to_json() for layer in store.layers],
        "chain": store.settings.get("chain", False),
        "n": int(first.sum()),
        "passes": int(probe.repeats.max()) + 1 if probe.samples else 0,
        "parts": {name: int((first & (probe.part == i)).sum()) for i, name in enumerate(probe.part_names)},
        "target": probe.target,
        "label_names": list(probe.label_names),
        "classes": len(np.unique(probe.labels[first])) if discrete else None,
        "h_x": entropy_bits(probe.input_ids[first]),
        "h_y": entropy_bits(probe.labels[first]) if discrete else None,
        "steps": {"count": len(steps), "first": steps[0] if steps else None, "last": steps[-1] if steps else None},
        "metrics": [{"name": name, "layer": layer} for name, layer in metrics],
        "settings": store.settings,
        "problems": [str(problem) for problem in store.problems],
    }


def versions() -> dict[str, str]:
    return {
        "infoplane": __version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def estimator_meta(estimators: Iterable[Any]) -> dict[str, Any]:
    """By name: the class, what it is in one line, and what it promises."""
    out: dict[str, Any] = {}
    for e in estimators:
        text = (type(e).__doc__ or "").strip().splitlines()
        out[e.name] = {
            "class": f"{type(e).__module__}.{type(e).__qualname__}",
            "summary": text[0] if text else "",
            "targets": sorted(e.targets),
            "guarantees": sorted(e.guarantees),
        }
    return out


def recorded_rows(store: ActivationStore) -> list[Row]:
    """Training metrics as rows: a plot never reopens the store. `source` is a digest of the value itself."""
    depth = {layer.key: layer.depth for layer in store.layers}
    rows = []
    for step, epoch, name, layer, value in store.metrics():
        found = fingerprint(f"{epoch!r} {value!r}".encode())
        rows.append(
            Row(
                run=store.run_id,
                step=step,
                epoch=epoch,
                layer=layer,
                depth=depth.get(layer, -1),
                subset="all",
                estimator=RECORDED,
                config="{}",
                n_samples=0,
                n_units=0,
                quantity=name,
                value=value,
                unit="",
                flags="" if np.isfinite(value) else "nonfinite",
                source=found,
            )
        )
    return rows
