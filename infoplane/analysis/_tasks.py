"""Units of work of an analysis: references to data, never tensors, so that any process can do them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from infoplane.analysis._positions import at_token, token_units
from infoplane.analysis._reading import Refusal, no_units, read_alike, read_one_by_one, to_tensor, units_of
from infoplane.analysis._subsets import Subset, wants_repeats
from infoplane.core.errors import StoreError
from infoplane.core.exact import extremes, fits_float64
from infoplane.core.records import Layer, Noise
from infoplane.core.tokens import token_key
from infoplane.estimators import Quantity, blank_intervals, config_json
from infoplane.results import Row
from infoplane.store import ActivationStore, open_run


@dataclass(frozen=True)
class Source:
    """Snapshots of one layer of one run, or of one of its tokens, by content.

    `digests` are those of the content of each step: a process that finds others stops instead of mixing
    two states of a run. `bad` are the steps with NaN or infinite values. `token` is a position, None all of the layer.
    """

    path: str
    fingerprint: str
    run: str
    layer: str
    steps: tuple[int, ...]
    digests: tuple[str, ...]
    bad: frozenset[int]
    token: int | None = None

    @property
    def name(self) -> str:
        """The layer as it stands in the table."""
        return self.layer if self.token is None else token_key(self.layer, self.token)

    def record(self, store: ActivationStore) -> Layer:
        """What is estimated on: the layer, or its token as a layer."""
        return at_token(store.layer(self.layer), self.token)

    def units(self, store: ActivationStore) -> slice | None:
        """Its units in the flattened layer; None means all."""
        return None if self.token is None else token_units(store.layer(self.layer))[self.token]

    def part(self, steps: Sequence[int]) -> Source:
        """The same layer at some of the steps."""
        wanted = set(steps)
        kept = [(s, d) for s, d in zip(self.steps, self.digests, strict=True) if s in wanted]
        return Source(
            self.path,
            self.fingerprint,
            self.run,
            self.layer,
            tuple(s for s, _ in kept),
            tuple(d for _, d in kept),
            self.bad & wanted,
            self.token,
        )

    @property
    def keys(self) -> list[tuple[int, str]]:
        return list(zip(self.steps, self.digests, strict=True))


@dataclass(frozen=True)
class Task:
    """Prepare an estimator on a layer (`snapshots` a read at a time), or estimate one block of it."""

    source: Source
    subset: Subset
    estimator: Any
    device: str
    snapshots: int

    def describe(self) -> str:
        steps = self.source.steps
        return (
            f"run {self.source.run}, layer {self.source.name}, subset {self.subset.name}, steps "
            f"{steps[0]} to {steps[-1]}, {self.estimator.name} {config_json(self.estimator)}"
        )


@dataclass(frozen=True)
class Outcome:
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


def _store_of(source: Source) -> ActivationStore:
    key = (source.path, source.fingerprint)
    store = _stores.get(key)
    if store is None:
        # Opening reads an index; a worker serves one run after the other, so the last few are enough.
        while len(_stores) >= 4:
            _stores.pop(next(iter(_stores)))
        store = _stores[key] = open_run(Path(source.path))
    held = set(store.steps(source.layer))
    for step, expected in source.keys:
        if step in held and store.source(source.layer, step) != expected:
            raise StoreError(
                f"{source.path}: layer {source.layer!r} at step {step} changed during the analysis; analyse again"
            )
    return store


def single_thread() -> None:
    """One torch thread: sums then have one order, and processes do not fight for cores."""
    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)


def run_prepare(task: Task) -> Any | Refusal:
    """The estimator, prepared on the whole of the source; or why it refuses it."""
    single_thread()
    with _noted(task):
        store = _store_of(task.source)
        y, x, _, rows = _inputs(task, store)
        blocks = LayerBlocks(task, store, rows)
        try:
            return task.estimator.prepare(blocks, y, x)
        except ValueError as error:
            damaged = [refusal for refusal in blocks.refused if refusal.damages]
            if damaged and not blocks.read_any:  # with nothing to look at, its own reason says nothing
                reasons = "; ".join(refusal.reason for refusal in damaged[:3])
                return Refusal(task.source.steps, reasons, tuple(d for each in damaged for d in each.damages))
            return Refusal(task.source.steps, blocks.empty or str(error))


def run_estimate(task: Task) -> Outcome:
    """Rows of one block of snapshots, in step order."""
    single_thread()
    with _noted(task):
        store = _store_of(task.source)
        y, x, x_ids, rows = _inputs(task, store)
        refused: list[Refusal] = []
        found: dict[int, list[Row]] = {}
        names: list[str] = []
        make = _RowMaker(task, store, len(y))
        blocks = LayerBlocks(task, store, rows)
        for steps, array in blocks.read(task.source.steps, refused):
            try:
                t = blocks.tensor(array)
                quantities = task.estimator.estimate(t, y, x=x, x_ids=x_ids)
            except ValueError as error:
                refused.append(Refusal(tuple(steps), str(error)))
                continue
            names = names or list(quantities)
            found.update(make.rows(steps, t.shape[2], quantities))
        for step in task.source.steps:
            if step in task.source.bad and step in make.digests:
                found[step] = [make.refused(step, name) for name in names or ["I(X;T)"]]
        return Outcome([row for step in task.source.steps for row in found.get(step, [])], refused)


@contextlib.contextmanager
def _noted(task: Task) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        error.add_note(task.describe())
        raise


def _inputs(task: Task, store: ActivationStore) -> tuple[Tensor, Tensor | None, Tensor, npt.NDArray[np.int64] | None]:
    """Labels, inputs and input ids of the subset, and its rows; None for all rows."""
    probe = store.probe
    rows = task.subset.rows(probe, repeats=wants_repeats(task.estimator, probe))
    y = torch.from_numpy(probe.labels[rows]).to(task.device)
    x_ids = torch.from_numpy(probe.input_ids[rows]).to(task.device)
    x = None
    if probe.inputs is not None:
        x = features(probe.inputs[rows].reshape(len(rows), -1)).to(task.device)
    return y, x, x_ids, None if len(rows) == probe.samples else rows


def features(x: npt.NDArray[Any]) -> Tensor:
    """Inputs (N, F) as floats; whole numbers that float64 would mix up stay what they are, for estimators to refuse."""
    t = torch.from_numpy(x)
    exact = x.dtype.kind not in "iu" or fits_float64(*extremes(x))
    return t.to(torch.float64) if exact and not t.is_floating_point() else t


class LayerBlocks:
    """The finite snapshots of a layer, block by block, as (S, N, U) tensors on the device."""

    def __init__(self, task: Task, store: ActivationStore, rows: npt.NDArray[np.int64] | None) -> None:
        self._task, self._store, self._rows = task, store, rows
        self._layer = task.source.record(store)
        self._units = task.source.units(store)
        self.noise: Noise | None = self._layer.noise
        self.empty = ""  # why no snapshot that was read could be used, where all lacked units
        self.passes = int(store.probe.repeats.max(initial=0))
        self.refused: list[Refusal] = []  # by the last pass over all of them
        self.read_any = False

    def __iter__(self) -> Iterator[Tensor]:
        self.refused = []
        for _, array in self.read(self._task.source.steps, self.refused):
            self.read_any = True
            yield self.tensor(array)

    def tensor(self, array: npt.NDArray[Any]) -> Tensor:
        """What `read` gave as (S, N, U) on the device."""
        return to_tensor(array, self._layer.dtype, self._task.device)

    def read(self, steps: Sequence[int], refused: list[Refusal]) -> Iterator[tuple[list[int], npt.NDArray[Any]]]:
        """Finite snapshots in order, as they are stored; damaged ones go to `refused`."""
        source = self._task.source
        good = [s for s in steps if s not in source.bad]
        used = False
        for i in range(0, len(good), self._task.snapshots):
            for kept, array in self._arrays(good[i : i + self._task.snapshots], refused):
                if 0 in array.shape[2:]:
                    self.empty = self.empty if used else no_units(array.shape[2:])
                    refused.append(Refusal(tuple(kept), no_units(array.shape[2:])))
                    continue
                self.empty, used = "", True
                if self._rows is not None:
                    array = array[:, self._rows]
                yield kept, array

    def _arrays(self, steps: Sequence[int], refused: list[Refusal]) -> list[tuple[list[int], npt.NDArray[Any]]]:
        """The steps in groups of one shape and dtype."""
        layer = self._task.source.layer
        if self._units is None:
            return read_alike(self._store, layer, steps, refused)
        kept, parts = [], []
        for step, whole in read_one_by_one(self._store, layer, steps, refused):
            if whole.shape[2:] != self._store.layer(layer).unit_shape:
                refused.append(Refusal((step,), f"its shape is {whole.shape[2:]}, that of other tokens"))
                continue
            kept.append(step)
            parts.append(units_of(whole, self._units).copy())
        return [(kept, np.concatenate(parts))] if kept else []


class _RowMaker:
    """Rows of one task: what is the same in all of them is looked up once."""

    def __init__(self, task: Task, store: ActivationStore, samples: int) -> None:
        self.layer = task.source.record(store)
        self.store, self.task, self.samples = store, task, samples
        self.config = config_json(task.estimator)
        held = set(store.steps(task.source.layer))
        self.digests = {step: digest for step, digest in task.source.keys if step in held}

    def _row(self, step: int, units: int, **fields: Any) -> Row:
        return Row(
            run=self.task.source.run,
            step=step,
            epoch=self.store.epoch(step),
            layer=self.layer.key,
            depth=self.layer.depth,
            subset=self.task.subset.name,
            estimator=self.task.estimator.name,
            config=self.config,
            n_samples=self.samples,
            n_units=units,
            source=self.digests[step],
            **fields,
        )

    def refused(self, step: int, quantity: str) -> Row:
        return self._row(step, self.layer.units, quantity=quantity, flags="nonfinite")

    def rows(self, steps: Sequence[int], units: int, quantities: dict[str, Quantity]) -> dict[int, list[Row]]:
        count = len(steps)
        columns = []
        for name, q in blank_intervals(quantities).items():  # estimators that nobody registered come here too
            numbers = [_numbers(v, count) for v in (q.value, q.low, q.high, q.ceiling)]
            flags = [(flag, mask.tolist()) for flag, mask in sorted(q.flags.items())]
            columns.append((name, q, numbers, flags))
        out: dict[int, list[Row]] = {}
        for i, step in enumerate(steps):
            out[step] = [
                self._row(
                    step,
                    units,
                    quantity=name,
                    estimand=q.estimand,
                    value=value[i],
                    low=low[i],
                    high=high[i],
                    bound=q.bound,
                    ceiling=ceiling[i],
                    unit=q.unit,
                    flags=";".join(flag for flag, mask in flags if mask[i]),
                )
                for name, q, (value, low, high, ceiling), flags in columns
            ]
        return out


def _numbers(value: Tensor | None, count: int) -> list[float]:
    if value is None:
        return [float("nan")] * count
    numbers: list[float] = value.to(torch.float64).expand(count).tolist()
    return numbers
