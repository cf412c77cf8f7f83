"""Units of work of an analysis: references to data, never tensors, so that any process can do them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from infoplane.analysis.source import (
    LayerSteps,
    Refusal,
    SnapshotSource,
    at_token,
    features,
    no_units,
    read_place,
    to_tensor,
)
from infoplane.analysis.subsets import Subset, labels_of, not_of_labels, views, wants_repeats, without_labels
from infoplane.core.errors import StoreError
from infoplane.estimators import Estimator, Preparing, Quantity, assume_finite, blank_intervals, config_json
from infoplane.results import Row
from infoplane.results.names import PAIR
from infoplane.store import ActivationStore, open_run

T = TypeVar("T")
OF_LABELS = "(T;Y)"
"""What the name of a quantity between a layer and the labels ends with."""


@dataclass(frozen=True)
class Task:
    """A unit of work: prepare an estimator on all steps of a layer, or estimate one block of steps.

    At most `snapshots` of the steps are read at a time.
    """

    layer: LayerSteps
    subset: Subset
    estimator: Estimator
    device: str
    snapshots: int

    def describe(self) -> str:
        """What the task is about, for the note on its errors."""
        steps = self.layer.steps
        return (
            f"run {self.layer.run}, layer {self.layer.title}, subset {self.subset.name}, steps "
            f"{steps[0]} to {steps[-1]}, {self.estimator.name} {config_json(self.estimator)}"
        )


class Prepared(NamedTuple):
    """What `prepare` gives: the config to record, and the prepared estimator.

    The estimator is None where it refuses the snapshots (then `refusal` says why), or all is in the table already.
    """

    config: str
    estimator: Estimator | None = None
    refusal: Refusal | None = None


class Outcome(NamedTuple):
    """Rows in step order, and what could not be estimated."""

    rows: list[Row]
    refused: list[Refusal]


_stores: dict[tuple[str, str], ActivationStore] = {}
"""Stores that are open in this process, by path and fingerprint."""


@contextlib.contextmanager
def opened(path: str, fingerprint: str, store: ActivationStore) -> Iterator[None]:
    """Let the tasks of this process use a store that is open already, until the block ends."""
    _stores[path, fingerprint] = store
    try:
        yield
    finally:
        _stores.pop((path, fingerprint), None)


def _opened(path: str, fingerprint: str) -> ActivationStore:
    """Return the store at this path, which stays open in this process for the next tasks of the same fingerprint."""
    store = _stores.get((path, fingerprint))
    if store is None:
        # Opening reads an index; a worker serves one run after the other, so the last few are enough.
        while len(_stores) >= 4:
            _stores.pop(next(iter(_stores)))
        store = _stores[path, fingerprint] = open_run(Path(path))
    return store


def _other(layer: LayerSteps, source: SnapshotSource) -> SnapshotSource:
    """Return the run of the partner; `source`, the run of the layer, where both are of one run or there is no pair."""
    partner = layer.partner
    if partner is None or partner.path == layer.path:
        return source
    return _opened(partner.path, partner.fingerprint)


def _store_of(layer: LayerSteps) -> ActivationStore:
    """Return the run of this layer; StoreError where what was recorded has changed since the task was made."""
    store = _opened(layer.path, layer.fingerprint)
    held = layer.held(store, _other(layer, store))
    for step, expected in layer.keys:
        if held.get(step, expected) != expected:  # steps that can no longer be read are refused when they are read
            raise StoreError(
                f"{layer.path}: layer {layer.title!r} at step {step} changed during the analysis; analyse again"
            )
    return store


def single_thread() -> None:
    """Use one torch thread: sums then have one order, and processes do not fight for cores."""
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
    """Return the estimator with what its `prepare` finds in these snapshots, or the reason why it refuses them."""
    if not isinstance(task.estimator, Preparing):
        return Prepared(config_json(task.estimator), task.estimator)
    blocks = LayerBlocks(task, source)
    try:
        ready = task.estimator.prepare(blocks, blocks.y, blocks.x)
    except ValueError as error:
        # Where nothing could be read, the estimator refused for want of data: why reading failed is the true reason.
        unread = [] if blocks.read_any else blocks.refused
        reasons = list(dict.fromkeys(each.reason for each in unread)) or [str(error)]
        damages = tuple(damage for each in unread for damage in each.damages)
        refusal = Refusal(task.layer.steps, "; ".join(reasons[:3]), damages)
        return Prepared(config_json(task.estimator), refusal=refusal)
    return Prepared(config_json(ready), ready)


def estimate(task: Task, source: SnapshotSource) -> Outcome:
    """Return the rows of one block of snapshots of this source, in step order, and what could not be estimated."""
    blocks = LayerBlocks(task, source)
    whole = source.layer(task.layer.layer)
    layer, partner = at_token(whole, task.layer.token), task.layer.partner
    unlabelled = partner is None and without_labels(source.probe, whole, task.layer.token)
    same: dict[str, Any] = {"run": task.layer.run, "layer": layer.key, "depth": layer.depth}
    same |= {"subset": task.subset.name, "estimator": task.estimator.name, "config": config_json(task.estimator)}
    same |= {"n_samples": len(blocks.x_ids)}
    refused: list[Refusal] = []
    found: dict[int, list[dict[str, Any]]] = {}
    names: list[str] = []
    for steps, t, y in blocks.pieces(refused):
        try:
            with assume_finite():  # steps with NaN or infinite values are known from the recording and left out
                quantities = task.estimator.estimate(t, y, x=blocks.x, x_ids=blocks.x_ids)
            if partner is not None:
                quantities = _of_pair(quantities, task.estimator.name)
        except ValueError as error:
            refused.append(Refusal(tuple(steps), str(error)))
            continue
        if unlabelled:
            quantities = not_of_labels(quantities)
        names = names or list(quantities)
        found.update(zip(steps, fields_of(quantities, *t.shape[::2]), strict=True))
    bad = task.layer.bad.intersection(source.steps(task.layer.layer))
    rows: list[Row] = []
    for step, digest in task.layer.keys:
        if step in bad:
            # Where no step gave a quantity, one row by this name says that the step is bad.
            none = ["I(X;T)" if partner is None else f"I{PAIR}"]
            found[step] = [{"quantity": q, "n_units": layer.units, "flags": "nonfinite"} for q in names or none]
        if step in found:
            same |= {"step": step, "epoch": source.epoch(step), "source": digest}
            same |= {"partner": "" if partner is None else partner.called(step)}
            rows += [Row(**same, **fields) for fields in found[step]]
    return Outcome(rows, refused)


def _of_pair(quantities: Mapping[str, Quantity], name: str) -> dict[str, Quantity]:
    """Return the quantities named I(T;Y) and the like, renamed as those of a pair of layers; ValueError for none."""
    # What the estimator says of T alone is left out: it stands in the rows of the layer itself.
    found = {q.replace(OF_LABELS, PAIR): value for q, value in quantities.items() if OF_LABELS in q}
    if not found:
        raise ValueError(f"{name} gives no quantity of {OF_LABELS}, so none of a pair")
    return found


def fields_of(quantities: Mapping[str, Quantity], count: int, units: int) -> list[list[dict[str, Any]]]:
    """Return the fields of rows that come from the estimator: for each of `count` snapshots one dict a quantity.

    `units` is the number of units of the layer.
    """
    out: list[list[dict[str, Any]]] = [[] for _ in range(count)]
    for name, q in blank_intervals(quantities).items():  # done here for estimators of users, who may not have done it
        columns = [_numbers(v, count) for v in (q.value, q.low, q.high, q.ceiling)]
        flags = [(flag, mask.tolist()) for flag, mask in sorted(q.flags.items())]
        for i, (value, low, high, ceiling) in enumerate(zip(*columns, strict=True)):
            raised = ";".join(flag for flag, mask in flags if mask[i])
            fields = {"quantity": name, "estimand": q.estimand, "n_units": units, "bound": q.bound, "unit": q.unit}
            out[i].append(fields | {"value": value, "low": low, "high": high, "ceiling": ceiling, "flags": raised})
    return out


def _numbers(value: Tensor | None, count: int) -> list[float]:
    """One number for each of `count` snapshots, NaN where there is no value."""
    return [float("nan")] * count if value is None else [*value.to(torch.float64).expand(count).tolist()]


class LayerBlocks:
    """The finite snapshots of a layer on one subset, block by block, as (S, N, U) tensors on the device.

    `y`, `x` and `x_ids` are the labels, inputs and input ids of these samples. In a pair `y` is the second array, which
    differs from step to step, and there is no `x`. `noise` is then None: no estimator may draw the layer's noise anew,
    since the second array was recorded with that which the network drew.
    """

    def __init__(self, task: Task, source: SnapshotSource) -> None:
        """Find the rows of the subset, with their ids and inputs; no activations are read yet."""
        probe, partner = source.probe, task.layer.partner
        if partner is None:
            repeats = wants_repeats(task.estimator, probe)
            rows = task.subset.rows(probe, repeats=repeats, token=task.layer.token)
            self._target_rows = rows  # whose labels, or values in a pair's second array, belong to `rows`
        elif partner.view == 1:
            rows = self._target_rows = task.subset.rows(probe, repeats=False)
        else:
            rows, self._target_rows = views(probe, task.subset, partner.view)
        self.x_ids = torch.from_numpy(probe.input_ids[rows]).to(task.device)
        self.x: Tensor | None = None
        if probe.inputs is not None and partner is None:
            self.x = features(probe.inputs[rows].reshape(len(rows), -1)).to(task.device)
        whole = np.array_equal(rows, np.arange(probe.samples))
        self._task, self._source, self._rows = task, source, None if whole else rows
        self._layer = source.layer(task.layer.layer)
        self.noise = self._layer.noise if partner is None else None
        self.passes = int(probe.repeats.max(initial=0))  # further noisy passes over an input, 0 for none
        self.refused: list[Refusal] = []  # what the latest iteration over all snapshots could not read
        self.read_any = False

    def __iter__(self) -> Iterator[Tensor]:
        """Yield the finite snapshots as blocks (S, N, U); what cannot be read is then in `refused`."""
        self.refused = []
        for _, t in self.read(self.refused):
            self.read_any = True
            yield t

    def with_targets(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield blocks (S, N, U) with their targets (N,) or (N, k), which in a pair change from step to step."""
        self.refused = []
        for _, t, y in self.pieces(self.refused):
            self.read_any = True
            yield t, y

    @cached_property
    def y(self) -> Tensor:
        """(N,) or (N, k): the labels; in a pair the second array at the last step that has one."""
        if self._task.layer.partner is None:
            labels = labels_of(self._source.probe, self._target_rows, self._task.layer.token)
            return torch.from_numpy(labels).to(self._task.device)
        found = (self._second_array(step, []) for step in reversed(self._finite_steps()))
        nothing = torch.zeros(len(self._target_rows), 1, device=self._task.device)  # where no step has a second array
        return next((y for y in found if y is not None), nothing)

    def pieces(self, refused: list[Refusal]) -> Iterator[tuple[list[int], Tensor, Tensor]]:
        """Yield (steps, values, targets); in a pair one step at a time, with its second array as targets."""
        for steps, t in self.read(refused):
            if self._task.layer.partner is None:
                yield steps, t, self.y
                continue
            for i, step in enumerate(steps):
                y = self._second_array(step, refused)
                if y is not None:
                    yield [step], t[i : i + 1], y

    def _second_array(self, step: int, refused: list[Refusal]) -> Tensor | None:
        """Return a pair's second array (N, U') at this step of the layer as real targets; None where it is lost."""
        partner, lost = self._task.layer.partner, list[Refusal]()
        assert partner is not None
        other = _other(self._task.layer, self._source)
        layer = other.layer(partner.layer)
        y: Tensor | None = None
        for _, values in read_place(other, layer, partner.token, [partner.steps[step]], lost):
            if 0 in values.shape[2:]:
                lost.append(Refusal((step,), f"{partner.called(step)}: {no_units(values.shape[2:])}"))
                continue
            y = to_tensor(values[:, self._target_rows], layer.dtype, self._task.device)[0]
            y = y if y.is_floating_point() else features(y.cpu().numpy()).to(self._task.device)
        refused += [replace(each, steps=(step,)) for each in lost]
        return y

    def _finite_steps(self) -> list[int]:
        """Return the steps of the task at which no value is NaN or infinite."""
        return [s for s in self._task.layer.steps if s not in self._task.layer.bad]

    def read(self, refused: list[Refusal]) -> Iterator[tuple[list[int], Tensor]]:
        """Yield (steps, values (S, N, U)) in order; damaged steps and those without units go to `refused`."""
        good = self._finite_steps()
        for i in range(0, len(good), self._task.snapshots):
            steps = good[i : i + self._task.snapshots]
            for found, values in read_place(self._source, self._layer, self._task.layer.token, steps, refused):
                if 0 in values.shape[2:]:
                    refused.append(Refusal(tuple(found), no_units(values.shape[2:])))
                    continue
                if self._rows is not None:
                    values = values[:, self._rows]
                yield found, to_tensor(values, self._layer.dtype, self._task.device)
