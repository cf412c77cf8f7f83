"""Units of work of an analysis: references to data, never tensors, so that any process can do them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from infoplane.analysis.source import (
    LayerSteps,
    Refusal,
    SnapshotSource,
    Values,
    at_token,
    features,
    no_units,
    read_alike,
    read_token,
    to_tensor,
)
from infoplane.analysis.subsets import Subset, labels_of, not_of_labels, wants_repeats, without_labels
from infoplane.core.errors import StoreError
from infoplane.estimators import Estimator, Preparing, Quantity, assume_finite, blank_intervals, config_json
from infoplane.results import Row
from infoplane.store import ActivationStore, open_run

T = TypeVar("T")


@dataclass(frozen=True)
class Task:
    """Prepare an estimator on a layer, `snapshots` a read at a time, or estimate one block of at most as many."""

    layer: LayerSteps
    subset: Subset
    estimator: Estimator
    device: str
    snapshots: int

    def describe(self) -> str:
        steps = self.layer.steps
        return (
            f"run {self.layer.run}, layer {self.layer.name}, subset {self.subset.name}, steps "
            f"{steps[0]} to {steps[-1]}, {self.estimator.name} {config_json(self.estimator)}"
        )


class Prepared(NamedTuple):
    """An estimator as it goes into tasks: its recorded config, and itself unless it refuses or all is done already."""

    config: str
    estimator: Estimator | None = None
    refusal: Refusal | None = None


class Outcome(NamedTuple):
    """Rows in step order, and what could not be estimated."""

    rows: list[Row]
    refused: list[Refusal]


_stores: dict[tuple[str, str], ActivationStore] = {}


@contextlib.contextmanager
def opened(path: str, fingerprint: str, store: ActivationStore) -> Iterator[None]:
    """Let the tasks of this process use a store that is open already."""
    _stores[path, fingerprint] = store
    try:
        yield
    finally:
        _stores.pop((path, fingerprint), None)


def _store_of(layer: LayerSteps) -> ActivationStore:
    """The run of this layer, opened once in a process, and still as it was when the task was made."""
    key = (layer.path, layer.fingerprint)
    store = _stores.get(key)
    if store is None:
        # Opening reads an index; a worker serves one run after the other, so the last few are enough.
        while len(_stores) >= 4:
            _stores.pop(next(iter(_stores)))
        store = _stores[key] = open_run(Path(layer.path))
    held = set(store.steps(layer.layer))
    for step, expected in layer.keys:
        if step in held and store.source(layer.layer, step) != expected:
            raise StoreError(
                f"{layer.path}: layer {layer.layer!r} at step {step} changed during the analysis; analyse again"
            )
    return store


def single_thread() -> None:
    """One torch thread: sums then have one order, and processes do not fight for cores."""
    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)


def run_task(work: Callable[[Task, SnapshotSource], T], task: Task) -> T:
    """Do the work of a task (`prepare`, `estimate`) in this process; its errors say where they happened."""
    single_thread()
    try:
        return work(task, _store_of(task.layer))
    except Exception as error:
        error.add_note(task.describe())
        raise


def prepare(task: Task, source: SnapshotSource) -> Prepared:
    """The estimator, prepared on these snapshots where it looks for anything in them; or why it refuses them."""
    if not isinstance(task.estimator, Preparing):
        return Prepared(config_json(task.estimator), task.estimator)
    blocks = LayerBlocks(task, source)
    try:
        ready = task.estimator.prepare(blocks, blocks.y, blocks.x)
    except ValueError as error:
        # With nothing to look at, its own reason says nothing.
        unread = [] if blocks.read_any else blocks.refused
        reasons = list(dict.fromkeys(each.reason for each in unread)) or [str(error)]
        damages = tuple(damage for each in unread for damage in each.damages)
        refusal = Refusal(task.layer.steps, "; ".join(reasons[:3]), damages)
        return Prepared(config_json(task.estimator), refusal=refusal)
    return Prepared(config_json(ready), ready)


def estimate(task: Task, source: SnapshotSource) -> Outcome:
    """Rows of one block of snapshots of this source, in step order."""
    blocks = LayerBlocks(task, source)
    whole = source.layer(task.layer.layer)
    layer, unlabelled = at_token(whole, task.layer.token), without_labels(source.probe, whole, task.layer.token)
    same: dict[str, Any] = {"run": task.layer.run, "layer": layer.key, "depth": layer.depth}
    same |= {"subset": task.subset.name, "estimator": task.estimator.name, "config": config_json(task.estimator)}
    same |= {"n_samples": len(blocks.y)}
    refused: list[Refusal] = []
    found: dict[int, list[dict[str, Any]]] = {}
    names: list[str] = []
    for steps, t in blocks.read(refused):
        try:
            with assume_finite():  # the steps that are not were found when they were recorded
                quantities = task.estimator.estimate(t, blocks.y, x=blocks.x, x_ids=blocks.x_ids)
        except ValueError as error:
            refused.append(Refusal(tuple(steps), str(error)))
            continue
        if unlabelled:
            quantities = not_of_labels(quantities)
        names = names or list(quantities)
        found.update(zip(steps, _fields(quantities, *t.shape[::2]), strict=True))
    bad = task.layer.bad.intersection(source.steps(task.layer.layer))
    rows: list[Row] = []
    for step, digest in task.layer.keys:
        if step in bad:
            found[step] = [{"quantity": q, "n_units": layer.units, "flags": "nonfinite"} for q in names or ["I(X;T)"]]
        if step in found:
            same |= {"step": step, "epoch": source.epoch(step), "source": digest}
            rows += [Row(**same, **fields) for fields in found[step]]
    return Outcome(rows, refused)


def _fields(quantities: Mapping[str, Quantity], count: int, units: int) -> list[list[dict[str, Any]]]:
    """For each snapshot a row's fields of every quantity, as far as they are the estimator's."""
    out: list[list[dict[str, Any]]] = [[] for _ in range(count)]
    for name, q in blank_intervals(quantities).items():  # estimators that nobody registered come here too
        columns = [_numbers(v, count) for v in (q.value, q.low, q.high, q.ceiling)]
        flags = [(flag, mask.tolist()) for flag, mask in sorted(q.flags.items())]
        for i, (value, low, high, ceiling) in enumerate(zip(*columns, strict=True)):
            raised = ";".join(flag for flag, mask in flags if mask[i])
            fields = {"quantity": name, "estimand": q.estimand, "n_units": units, "bound": q.bound, "unit": q.unit}
            out[i].append(fields | {"value": value, "low": low, "high": high, "ceiling": ceiling, "flags": raised})
    return out


def _numbers(value: Tensor | None, count: int) -> list[float]:
    """One number for each snapshot, NaN where there is none."""
    return [float("nan")] * count if value is None else [*value.to(torch.float64).expand(count).tolist()]


class LayerBlocks:
    """The finite snapshots of a layer on one subset, block by block, as (S, N, U) tensors on the device.

    `y`, `x` and `x_ids` are the labels, inputs and input ids of these samples.
    """

    def __init__(self, task: Task, source: SnapshotSource) -> None:
        probe = source.probe
        token = task.layer.token
        rows = task.subset.rows(probe, repeats=wants_repeats(task.estimator, probe), token=token)
        self.y = torch.from_numpy(labels_of(probe, rows, token)).to(task.device)
        self.x_ids = torch.from_numpy(probe.input_ids[rows]).to(task.device)
        self.x: Tensor | None = None
        if probe.inputs is not None:
            self.x = features(probe.inputs[rows].reshape(len(rows), -1)).to(task.device)
        self._task, self._source, self._rows = task, source, None if len(rows) == probe.samples else rows
        self._layer = source.layer(task.layer.layer)
        self.noise = self._layer.noise
        self.passes = int(probe.repeats.max(initial=0))
        self.refused: list[Refusal] = []  # by the last pass over all of them
        self.read_any = False

    def __iter__(self) -> Iterator[Tensor]:
        self.refused = []
        for _, t in self.read(self.refused):
            self.read_any = True
            yield t

    def read(self, refused: list[Refusal]) -> Iterator[tuple[list[int], Tensor]]:
        """Finite snapshots in order; damaged ones and those without units go to `refused`."""
        good = [s for s in self._task.layer.steps if s not in self._task.layer.bad]
        for i in range(0, len(good), self._task.snapshots):
            for kept, values in self._alike(good[i : i + self._task.snapshots], refused):
                if 0 in values.shape[2:]:
                    refused.append(Refusal(tuple(kept), no_units(values.shape[2:])))
                    continue
                if self._rows is not None:
                    values = values[:, self._rows]
                yield kept, to_tensor(values, self._layer.dtype, self._task.device)

    def _alike(self, steps: Sequence[int], refused: list[Refusal]) -> list[tuple[list[int], Values]]:
        """The steps in groups of one shape and dtype."""
        token = self._task.layer.token
        if token is None:
            return read_alike(self._source, self._layer.key, steps, refused)
        found = list(read_token(self._source, self._layer, token, steps, refused))
        return [([step for step, _ in found], np.concatenate([values for _, values in found]))] if found else []
