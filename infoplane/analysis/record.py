"""What a results table says about a run beside the estimates: its layers, settings, metrics, and what it has lost."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Iterator, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from infoplane import __version__
from infoplane.analysis.source import SnapshotSource
from infoplane.core.files import fingerprint
from infoplane.core.labels import unlabelled
from infoplane.core.records import NO_LABEL, Probe
from infoplane.core.steps import step_words
from infoplane.core.text import first_lines, printable
from infoplane.estimators import Estimator
from infoplane.results import Row
from infoplane.store import ActivationStore, Problem

RECORDED = "recorded"
"""The estimator of rows that hold training metrics."""
ADVICE = "advice"
"""Where scale advice stands in the JSON of a table, under its run."""


def entropy_bits(labels: npt.NDArray[Any]) -> float:
    """Plug-in entropy of `labels`, in bits."""
    counts = np.unique(labels, return_counts=True)[1]
    p = counts / counts.sum()
    return float(-(p * np.log2(p)).sum()) + 0.0  # + 0.0 turns -0.0, which one class gives, into 0.0


def run_meta(source: SnapshotSource, table: Path) -> dict[str, Any]:
    """Return what a table says of one run, as JSON for `ResultTable.meta["runs"][run_id]`.

    `table` is the path of the table's file, to which the run's path is made relative.
    """
    probe = source.probe
    first = probe.repeats == 0  # (N,): the row of each input that is no further noisy pass
    labels = probe.labels[first]
    one_class = probe.target == "discrete" and probe.positions is None  # one for each sample
    steps = source.steps()
    metrics = dict.fromkeys((name, layer) for _, _, name, layer, _ in source.metrics())
    return {
        "path": os.path.relpath(source.path, table.parent),
        "layers": [layer.to_json() for layer in source.layers],
        "chain": source.settings.get("chain", False),
        "n": int(first.sum()),
        "passes": int(probe.repeats.max()) + 1 if probe.samples else 0,
        "parts": {name: int((first & (probe.part == i)).sum()) for i, name in enumerate(probe.part_names)},
        "target": probe.target,
        "label_names": list(probe.label_names),
        "classes": len(np.unique(labels[labels != NO_LABEL])) if probe.target == "discrete" else None,
        "h_x": entropy_bits(probe.input_ids[first]),
        "h_y": entropy_bits(labels) if one_class else None,
        **({} if probe.positions is None else {"unlabelled": _unlabelled(probe)}),
        "steps": {"count": len(steps), "first": steps[0] if steps else None, "last": steps[-1] if steps else None},
        "metrics": [{"name": name, "layer": layer} for name, layer in metrics],
        "settings": source.settings,
        "problems": [str(problem) for problem in source.problems],
    }


def _unlabelled(probe: Probe) -> dict[str, list[int]]:
    """Return {part of the probe, and `all`: how many of its samples have no label at each position}."""
    first = probe.repeats == 0
    parts = {name: first & (probe.part == i) for i, name in enumerate(probe.part_names)}
    return {name: unlabelled(probe.labels[rows]).tolist() for name, rows in {**parts, "all": first}.items()}


def describe_estimators(meta: MutableMapping[str, Any], estimators: Iterable[Estimator]) -> None:
    """Put into a table's meta each estimator's class, its summary in one line and its guarantees, and the versions."""
    for e in estimators:
        text = (type(e).__doc__ or "").strip().splitlines()
        meta.setdefault("estimators", {})[e.name] = {
            "class": f"{type(e).__module__}.{type(e).__qualname__}",
            "summary": text[0] if text else "",
            "targets": sorted(e.targets),
            "guarantees": sorted(e.guarantees),
        }
    meta["versions"] = {"infoplane": __version__, "torch": str(torch.__version__), "numpy": np.__version__}
    meta["versions"]["python"] = platform.python_version()
    meta["infoplane"] = __version__


def recorded_rows(source: SnapshotSource) -> list[Row]:
    """Return the recorded training metrics as rows of a table, so that a plot need not reopen the store.

    Their column `source` has a digest of the metric's value, not one of activations.
    """
    depth = {layer.key: layer.depth for layer in source.layers}
    # `same` are the fields that rows have in common, first those of all rows, then of those of one metric.
    same: dict[str, Any] = {"run": source.run_id, "subset": "all", "estimator": RECORDED, "config": "{}", "unit": ""}
    same |= {"n_samples": 0, "n_units": 0}
    rows = []
    for step, epoch, name, layer, value in source.metrics():
        same |= {"step": step, "epoch": epoch, "layer": layer, "depth": depth.get(layer, -1)}
        # Another value recorded at the same step has another digest, and so is a row of its own.
        found = fingerprint(f"{epoch!r} {value!r}".encode())
        flags = "" if np.isfinite(value) else "nonfinite"
        rows.append(Row(**same, quantity=name, value=value, flags=flags, source=found))
    return rows


def losses(store: ActivationStore, found: Iterable[tuple[str, Problem]]) -> list[dict[str, Any]]:
    """Return what is missing or damaged, as JSON: `file`, `what`, `steps`, and `layer` ("" for no single one).

    That is what the store lists as lost, and `found`: (layer, problem) for each damage that came to light when layers
    were read, in this process or in another one.
    """
    entries: dict[tuple[str, str], dict[str, Any]] = {}
    for layer, problem in [*(("", p) for p in store.lost), *found]:
        entry: dict[str, Any] = {"file": problem.file, "what": problem.what, "steps": [], "layer": ""}
        entry = entries.setdefault((problem.file, problem.what), entry)
        entry["steps"] = sorted({*entry["steps"], *problem.steps})
        entry["layer"] = layer or entry["layer"]
    return list(entries.values())


def words_of_losses(store: ActivationStore, lost: Sequence[dict[str, Any]], layers: Sequence[str]) -> Iterator[str]:
    """Yield the lines in which an analysis says what a run lacks.

    There is one for each entry of `lost` (as from `losses`), for each other remark of the store, and for each of the
    `layers` that was not recorded at every step; of many lines the first ones and a count.
    """
    yield from first_lines(
        [str(Problem(loss["file"], loss["what"], tuple(loss["steps"]))) for loss in lost],
        "{} more are missing or damaged; `infoplane verify` names all of them",
    )
    said = {(loss["file"], loss["what"]) for loss in lost}
    remarks = [str(p) for p in (*store.problems, *store.unrecorded) if (p.file, p.what) not in said]
    yield from first_lines(remarks, "{} more remarks; `infoplane verify` has all of them")
    # Steps with a complete snapshot that does not hold the layer, though nothing is known to be wrong with it.
    remarked = {step for problem in store.unrecorded for step in problem.steps}
    notes = []
    for layer in layers:
        accounted = remarked.union(store.steps(layer))
        absent = [step for step in store.steps() if step not in accounted and store.why(layer, step) is None]
        if absent:
            notes.append(f"note: layer {printable(layer)} was not called, or not asked for, at {step_words(absent)}")
    yield from first_lines(notes, "note: {} more layers were not recorded at some of the steps")
