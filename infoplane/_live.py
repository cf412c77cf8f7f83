"""Estimating while a network trains: a recorder's sink that appends to a results table.

For runs that are too big to store, and for curves that can be looked at before training ends.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import numpy.typing as npt
import torch
from torch import Tensor

from infoplane.analysis._index import TableIndex
from infoplane.analysis._reading import no_units
from infoplane.analysis._record import estimator_meta, recorded_rows, run_meta, versions
from infoplane.analysis._request import build_estimators
from infoplane.analysis._subsets import Subset, resolve, wants_repeats
from infoplane.analysis._tasks import Source, Task, _RowMaker, features, single_thread
from infoplane.core.device import on_accelerator
from infoplane.core.exact import extremes, fits_float64
from infoplane.core.files import digest
from infoplane.core.records import Layer, Noise, Probe, Snapshot
from infoplane.core.strict import canonical_json
from infoplane.estimators import config_json
from infoplane.results import ResultTable, Row, TableWriter
from infoplane.results._files import csv_path
from infoplane.store import ActivationStore
from infoplane.store._shard import inputs_digest, probe_digest

_SHIFT = "counter_shift"


def live(
    estimators: Any = "binning:range=snapshot",
    *,
    subsets: str | Sequence[str] = ("all",),
    table: str | os.PathLike[str] | None = None,
    prepare: Literal["refuse", "first"] = "refuse",
    on_rows: Callable[[Sequence[Row]], None] | None = None,
) -> Live:
    """A sink for `Recorder(..., sinks=[live("kde")])` that estimates every snapshot when it is taken.

    Numbers are those that `analyze` would give for the same snapshot, on the device where the model is. With
    `keep_activations=False` nothing but the table is written.

    Parameters
    ----------
    estimators : as in analyze
    subsets : as in analyze, without the conditional I(X;T|Y) that it derives
    table : path, optional
        By default `results.csv` in the run's directory.
    prepare : "refuse" or "first"
        What to do with an estimator that has to see the whole run before it estimates, as outer bin edges of the
        layer's own range: refuse it, or let it see the first snapshot only. Values beyond that range are
        then flagged `out_of_range`.

    on_rows : function of the rows of a snapshot, optional
        Called when they are written; see `infoplane.integrations.tensorboard.scalars`.

    Raises
    ------
    ValueError
        At the first snapshot, for an estimator that needs the whole run, when that is refused.
    """
    return Live(estimators, subsets=subsets, table=table, prepare=prepare, on_rows=on_rows)


class _NeedsRun(ValueError):
    """An estimator that cannot work on one snapshot after the other."""


class Live:
    """See `live`. `table` holds the rows so far."""

    on_device = True

    def __init__(
        self,
        estimators: Any,
        *,
        subsets: str | Sequence[str],
        table: str | os.PathLike[str] | None,
        prepare: Literal["refuse", "first"],
        on_rows: Callable[[Sequence[Row]], None] | None,
    ) -> None:
        if prepare not in ("refuse", "first"):
            raise ValueError(f"prepare must be 'refuse' or 'first', got {prepare!r}")
        self._estimators = build_estimators(estimators)
        self._subset_names = subsets
        self._path = table
        self._prepare = prepare
        self._on_rows = on_rows
        self._prepared: dict[tuple[int, str, str], Any] = {}
        self._refused: set[tuple[str, str, str]] = set()
        self._index: TableIndex | None = None
        self._rows: list[Row] = []

    def begin(
        self, *, probe: Probe, settings: Mapping[str, Any], run: Path | None, run_id: str, resume: bool
    ) -> tuple[int, int | None] | None:
        """Open the table; the last step and counter shift of the live run that is resumed, if any."""
        if self._path is None and run is None:
            raise ValueError("live needs table=PATH where the recorder has no run")
        self._subsets, _ = resolve(self._subset_names, probe)
        if self._path is None:
            cast(Path, run).mkdir(parents=True, exist_ok=True)
        path = csv_path(cast(Path, run) if self._path is None else self._path)
        writer = TableWriter(path)
        self._index = TableIndex(writer)
        meta = writer.meta
        known = {i: r for i, r in meta.get("runs", {}).items() if r.get("live")}
        last: tuple[int, int | None] | None = None
        if resume and known:
            run_id = next(reversed(known))
            steps = [int(s) for s, r in zip(writer.columns["step"], writer.columns["run"], strict=True) if r == run_id]
            last = (max(steps), known[run_id].get(_SHIFT)) if steps else None
        self._run = _OneRun(run_id, path.parent if run is None else Path(run), probe, settings)
        self._probe_digest = probe_digest(probe, inputs_digest(probe))
        meta.setdefault("runs", {})[run_id] = {**known.get(run_id, {}), "live": True}
        meta.setdefault("estimators", {}).update(estimator_meta(self._estimators))
        meta["versions"] = versions()
        meta["infoplane"] = meta["versions"]["infoplane"]
        return last

    def annotate(self, **notes: Any) -> None:
        self._meta().update(notes)

    def _meta(self) -> dict[str, Any]:
        assert self._index is not None
        entry: dict[str, Any] = self._index.writer.meta["runs"][self._run.run_id]
        return entry

    def __call__(self, snapshot: Snapshot) -> None:
        if self._index is None:
            raise RuntimeError("a live sink is used through a recorder: Recorder(..., sinks=[live(...)])")
        if snapshot.rows is not None:
            raise ValueError("live estimation needs the whole probe on one rank; leave shard_probe out")
        assert snapshot.tensors is not None
        self._run.take(snapshot)
        rows = recorded_rows(cast(ActivationStore, self._run))
        with _as_analysed(snapshot):
            for layer in snapshot.layers:
                rows += self._estimate(snapshot, layer, snapshot.tensors[layer.key])
        self._index.add(rows)
        self._rows += rows
        if self._on_rows is not None:
            self._on_rows(rows)

    def _estimate(self, snapshot: Snapshot, layer: Layer, values: Tensor) -> list[Row]:
        t = _widened(values).reshape(1, len(values), -1)
        bad = t.is_floating_point() and not bool(torch.isfinite(t).all())
        found = self._content(layer, values)
        source = Source("", "", self._run.run_id, layer.key, (snapshot.step,), (found,), frozenset())
        rows: list[Row] = []
        for subset in self._subsets:
            for number, estimator in enumerate(self._estimators):
                if t.shape[2] == 0:
                    self._refuse(layer, subset, estimator, no_units(tuple(values.shape[1:])))
                    continue
                inputs = self._inputs(subset, estimator, t)
                try:
                    if not bad:
                        estimator = self._ready(number, estimator, layer, subset, t)
                    task = Task(source, subset, estimator, str(t.device), 1)
                    make = _RowMaker(task, cast(ActivationStore, self._run), len(inputs.y))
                    if bad:
                        rows.append(make.refused(snapshot.step, "I(X;T)"))
                        continue
                    quantities = estimator.estimate(inputs.t, inputs.y, x=inputs.x, x_ids=inputs.x_ids)
                except _NeedsRun:
                    raise
                except ValueError as error:
                    self._refuse(layer, subset, estimator, str(error))
                    continue
                rows += make.rows([snapshot.step], t.shape[2], quantities)[snapshot.step]
        return rows

    def _inputs(self, subset: Subset, estimator: Any, t: Tensor) -> _Inputs:
        probe = self._run.probe
        rows = subset.rows(probe, repeats=wants_repeats(estimator, probe))
        x = None if probe.inputs is None else features(probe.inputs[rows].reshape(len(rows), -1))
        return _Inputs(
            t if len(rows) == t.shape[1] else t[:, torch.from_numpy(rows).to(t.device)],
            torch.from_numpy(probe.labels[rows]).to(t.device),
            None if x is None else x.to(t.device),
            torch.from_numpy(probe.input_ids[rows]).to(t.device),
        )

    def _ready(self, number: int, estimator: Any, layer: Layer, subset: Subset, t: Tensor) -> Any:
        """The estimator, prepared on the first snapshot of this layer where it has to be.

        What it finds in other numbers tells whether it depends on them, or on the layer's noise alone.
        """
        if not hasattr(estimator, "prepare"):
            return estimator
        key = (number, layer.key, subset.base.name)
        if key not in self._prepared:
            base = self._inputs(subset.base, estimator, t)
            passes = int(self._run.probe.repeats.max(initial=0))
            ready = estimator.prepare(_OneBlock(base.t, layer.noise, passes), base.y, base.x)
            if self._prepare == "refuse":
                other = estimator.prepare(_OneBlock(2 * base.t + 1, layer.noise, passes), base.y, base.x)
                if config_json(other) != config_json(ready):
                    raise _NeedsRun(
                        f"{estimator.name} with {config_json(estimator)} has to see the whole run before it estimates; "
                        "choose settings that need not (as range=snapshot or a fixed range), or prepare='first'"
                    )
            self._prepared[key] = ready
        return self._prepared[key]

    def _refuse(self, layer: Layer, subset: Subset, estimator: Any, reason: str) -> None:
        key = (layer.key, subset.name, config_json(estimator))
        if key in self._refused:
            return
        self._refused.add(key)
        logging.getLogger("infoplane").warning(
            "%s is not estimated on layer %s, subset %s: %s", estimator.name, layer.key, subset.name, reason
        )
        entry = {"layer": layer.key, "subset": subset.name, "estimator": estimator.name, "settings": key[2]}
        self._meta().setdefault("skipped", []).append(entry | {"reason": reason})

    def _content(self, layer: Layer, values: Tensor) -> str:
        """What `ActivationStore.source` gives for them in one shard: a later analysis of the run finds the rows."""
        host = values.contiguous().cpu()
        stored: npt.NDArray[Any] = host.reshape(-1).view(torch.uint8).numpy()
        parts = [[[[0, len(values)]], digest(stored).hex()]]
        return digest(canonical_json([self._probe_digest, layer.dtype, list(layer.unit_shape), parts])).hex()

    @property
    def table(self) -> ResultTable:
        """The rows that this sink has written so far."""
        return ResultTable.from_rows(self._rows, {} if self._index is None else self._index.writer.meta)

    def close(self) -> None:
        """Write the meta data and let the table go."""
        if self._index is None:
            return
        if self._run.seen:
            about = run_meta(cast(ActivationStore, self._run), self._index.writer.path)
            self._meta().update(about)
        self._index.writer.close()


@dataclass(frozen=True, eq=False)
class _Inputs:
    t: Tensor
    y: Tensor
    x: Tensor | None
    x_ids: Tensor


@dataclass(frozen=True, eq=False)
class _OneBlock:
    """The first snapshot, in the place of a run."""

    t: Tensor
    noise: Noise | None
    passes: int

    def __iter__(self) -> Iterator[Tensor]:
        yield self.t


@dataclass(eq=False)
class _OneRun:
    """What rows and meta data need of a store, for a run of which one snapshot is at hand."""

    run_id: str
    path: Path
    probe: Probe
    settings: Mapping[str, Any]
    problems: tuple[str, ...] = ()
    seen: list[int] = field(default_factory=list)
    _names: dict[tuple[str, str], None] = field(default_factory=dict)

    def take(self, snapshot: Snapshot) -> None:
        self._now = snapshot
        self.seen.append(snapshot.step)

    @property
    def layers(self) -> tuple[Layer, ...]:
        return self._now.layers

    def layer(self, key: str) -> Layer:
        return next(la for la in self._now.layers if la.key == key)

    def steps(self, key: str | None = None) -> list[int]:
        return self.seen

    def epoch(self, step: int) -> float:
        return self._now.epoch

    def metrics(self) -> list[tuple[int, float, str, str, float]]:
        now = self._now
        model = [(now.step, now.epoch, name, "", value) for name, value in now.metrics.items()]
        return model + [(now.step, now.epoch, name, layer, v) for (layer, name), v in now.layer_metrics.items()]


def _widened(values: Tensor) -> Tensor:
    """As `analyze` reads it: narrow floats exactly as float32, unsigned integers as float64 where that is exact."""
    if values.is_floating_point() and values.element_size() < 4:
        return values.float()
    if values.dtype == torch.uint64 and not fits_float64(*extremes(values.cpu().numpy())):
        return values
    return values.double() if values.dtype in (torch.uint16, torch.uint32, torch.uint64) else values


@contextlib.contextmanager
def _as_analysed(snapshot: Snapshot) -> Iterator[None]:
    """On the CPU with one thread, as in `analyze`: sums then have one order."""
    before = torch.get_num_threads()
    if not any(on_accelerator(t.device) for t in (snapshot.tensors or {}).values()):
        single_thread()
    try:
        with torch.no_grad():
            yield
    finally:
        torch.set_num_threads(before)
