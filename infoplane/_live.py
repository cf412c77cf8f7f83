"""Estimating while a network trains: a recorder's sink that appends to a results table.

For runs that are too big to store, and for curves that can be looked at before training ends.
"""

from __future__ import annotations

import copy
import itertools
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from infoplane.analysis import build_estimators
from infoplane.analysis.index import TableIndex
from infoplane.analysis.record import describe_estimators, recorded_rows, run_meta
from infoplane.analysis.source import LayerSteps, widened
from infoplane.analysis.subsets import Subset, resolve, without_labels
from infoplane.analysis.tasks import Prepared, Task, estimate, prepare, single_thread
from infoplane.core.device import on_accelerator
from infoplane.core.files import digest
from infoplane.core.records import Layer, Probe, Snapshot
from infoplane.estimators import Estimator, config_json
from infoplane.results import ResultTable, Row, TableWriter
from infoplane.results.names import placed
from infoplane.store import Problem, inputs_digest, probe_digest, source_digest

_SHIFT = "counter_shift"
"""Entry of a run in the table's meta: by how much the counters of its loop were shifted when it was resumed."""


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
    if prepare not in ("refuse", "first"):
        raise ValueError(f"prepare must be 'refuse' or 'first', got {prepare!r}")
    built = build_estimators(estimators)
    # Refuse an estimator that takes several snapshots at once (`chunk`), unless it guarantees the same numbers for
    # snapshots one by one ("blocks").
    for each in built:
        together = getattr(each, "chunk", None) or 1
        if together > 1 and "blocks" not in each.guarantees:
            why = f"{each.name} estimates {together} snapshots together, live has one at a time"
            raise ValueError(f"{why}; record the run and analyse it afterwards")
    return Live(built, subsets, table, prepare, on_rows)


@dataclass(eq=False)
class Live:
    """See `live`. `table` holds the rows so far."""

    on_device: ClassVar[bool] = True

    estimators: list[Estimator]
    subsets: str | Sequence[str]
    path: str | os.PathLike[str] | None
    prepare: Literal["refuse", "first"]
    on_rows: Callable[[Sequence[Row]], None] | None
    _index: TableIndex | None = None
    _rows: list[Row] = field(default_factory=list)
    _prepared: dict[tuple[int, str, Subset], Prepared] = field(default_factory=dict)
    _refused: set[tuple[str, str, str]] = field(default_factory=set)

    def begin(
        self, *, probe: Probe, settings: Mapping[str, Any], run: Path | None, run_id: str, resume: bool
    ) -> tuple[int, int | None] | None:
        """Open the table, and the run's entry in it; called by the recorder, whose arguments these are.

        Where a live run in the table is resumed, return (its last step, its counter shift), else None.
        """
        self._subsets, _ = resolve(self.subsets, probe)
        path = self.path
        if path is None:
            if run is None:
                raise ValueError("live needs table=PATH where the recorder has no run")
            run.mkdir(parents=True, exist_ok=True)
            path = run
        writer = TableWriter(path)
        self._index = TableIndex(writer)
        runs = writer.meta.setdefault("runs", {})
        earlier = [known for known, about in runs.items() if about.get("live")]
        last: tuple[int, int | None] | None = None
        if resume and earlier:
            run_id = earlier[-1]
            steps = writer.columns["step"][writer.columns["run"] == run_id]
            last = (int(steps.max()), runs[run_id].get(_SHIFT)) if len(steps) else None
        runs[run_id] = (runs[run_id] if run_id in earlier else {}) | {"live": True}
        self._run = _LiveRun(run_id, writer.path.parent if run is None else run, probe, settings)
        describe_estimators(writer.meta, self.estimators)
        return last

    def annotate(self, **notes: Any) -> None:
        """Enter notes, by name, into this run's entry in the table's meta."""
        self._meta().update(notes)

    def _meta(self) -> dict[str, Any]:
        """Return this run's entry in the table's meta; the caller may change it in place."""
        assert self._index is not None
        entry: dict[str, Any] = self._index.writer.meta["runs"][self._run.run_id]
        return entry

    def __call__(self, snapshot: Snapshot) -> None:
        """Estimate everything on one snapshot and append the rows to the table."""
        if self._index is None:
            raise RuntimeError("a live sink is used through a recorder: Recorder(..., sinks=[live(...)])")
        if snapshot.rows is not None:
            raise ValueError("live estimation needs the whole probe on one rank; leave shard_probe out")
        self._run.take(snapshot)
        rows = recorded_rows(self._run)
        threads = torch.get_num_threads()
        if not any(on_accelerator(t.device) for t in (snapshot.tensors or {}).values()):
            single_thread()  # sums then have the same order, and so the same last bit, as in `analyze`
        try:
            with torch.no_grad():
                for layer in snapshot.layers:
                    rows += self._estimate(layer, snapshot.step)
        finally:
            torch.set_num_threads(threads)
        self._index.add(rows)
        self._rows += rows
        if self.on_rows is not None:
            self.on_rows(rows)

    def _estimate(self, layer: Layer, step: int) -> list[Row]:
        """Return the rows of one layer at a step, for every subset and estimator.

        An estimator that refuses the layer gives no rows; its reason goes into the table's meta.
        """
        (t,) = self._run.read(layer.key, [step])
        bad = frozenset({step} if t.is_floating_point() and not bool(torch.isfinite(t).all()) else ())
        # Path and fingerprint stay empty: tasks read this very snapshot, and open no run.
        steps = LayerSteps("", "", self._run.run_id, layer.key, ((step, self._run.source(layer.key, step)),), bad)
        rows: list[Row] = []
        for subset, (number, estimator) in itertools.product(self._subsets, enumerate(self.estimators)):
            task = Task(steps, subset, estimator, str(t.device), snapshots=1)
            # A layer with NaN gets rows without values: do not prepare the estimator on it.
            ready = self._ready(number, task) if not bad else Prepared("", estimator)
            refused = [] if ready.refusal is None else [ready.refusal]
            if ready.estimator is not None:
                found, refused = estimate(replace(task, estimator=ready.estimator), self._run)
                rows += found
            of_labels = without_labels(self._run.probe, layer, None)
            for reason in [*(refusal.reason for refusal in refused), *([of_labels] if of_labels else [])]:
                self._refuse(layer, subset, estimator, reason)
        return rows

    def _ready(self, number: int, task: Task) -> Prepared:
        """Return the estimator as prepared on the first snapshot of this layer, or the reason why it refuses.

        `number` is its place in `estimators`. ValueError where it has to see the whole run and `prepare` is "refuse".
        """
        # For one class of a part of the probe (as train), prepare on the whole part: all classes then share one scale.
        base = replace(task, subset=task.subset.base)
        key = (number, task.layer.layer, base.subset)
        if key not in self._prepared:
            ready = prepare(base, self._run)
            if ready.refusal is not None:
                return ready
            # Prepare again on other values: where the settings come out different they depend on the data, and so on
            # the snapshots that are still to come.
            other = prepare(base, self._run.altered()) if self.prepare == "refuse" else ready
            if other.refusal is None and other.config != ready.config:
                raise ValueError(
                    f"{task.estimator.name} with {config_json(task.estimator)} has to see the whole run before it "
                    "estimates; choose settings that need not (as range=snapshot or a fixed range), or prepare='first'"
                )
            self._prepared[key] = ready
        return self._prepared[key]

    def _refuse(self, layer: Layer, subset: Subset, estimator: Estimator, reason: str) -> None:
        """Enter into the meta, and log, why an estimator gives nothing on this layer and subset; once for each."""
        key = (layer.key, subset.name, config_json(estimator))
        if key in self._refused:
            return
        self._refused.add(key)
        what = f"{estimator.name} is not estimated on layer {layer.key}, subset {subset.name}"
        logging.getLogger("infoplane").warning("%s: %s", what, reason)
        entry = {"layer": layer.key, "subset": subset.name, "estimator": estimator.name, "settings": key[2]}
        self._meta().setdefault("skipped", []).append(entry | {"reason": reason})

    @property
    def table(self) -> ResultTable:
        """The rows that this sink has written so far."""
        known = None if self._index is None else placed(self._index.writer.meta, self._index.writer.path)
        return ResultTable.from_rows(self._rows, known)

    def close(self) -> None:
        """Write the table's meta data and close its file, so that other processes may write it."""
        if self._index is None:
            return
        if self._run.steps():
            self._meta().update(run_meta(self._run, self._index.writer.path))
        self._index.writer.close()


class _LiveRun:
    """The run being recorded as a `SnapshotSource`, as an analysis reads runs; only its newest snapshot can be read."""

    problems: tuple[Problem, ...] = ()

    def __init__(self, run_id: str, path: Path, probe: Probe, settings: Mapping[str, Any]) -> None:
        """Keep what is the same at all snapshots; the first snapshot comes with `take`."""
        self.run_id, self.path, self.probe, self.settings = run_id, path, probe, settings
        self._probe_digest = probe_digest(probe, inputs_digest(probe))
        self._taken: list[int] = []
        self._altered = False

    def take(self, snapshot: Snapshot) -> None:
        """Make this snapshot the one that can be read."""
        self._now = snapshot
        self._taken.append(snapshot.step)

    def altered(self) -> _LiveRun:
        """Return a copy of this run that reads 2 t + 1 in the place of each layer's values t."""
        other = copy.copy(self)
        other._altered = True
        return other

    @property
    def layers(self) -> tuple[Layer, ...]:
        return self._now.layers

    def layer(self, key: str) -> Layer:
        return next(layer for layer in self.layers if layer.key == key)

    def steps(self, key: str | None = None) -> list[int]:
        return self._taken if key is None else [self._now.step]

    def why(self, key: str, step: int) -> Problem | None:
        return None

    def epoch(self, step: int) -> float:
        return self._now.epoch

    def metrics(self) -> list[tuple[int, float, str, str, float]]:
        """(step, epoch, name, layer, value) of each metric at the newest snapshot."""
        now = self._now
        model = [(now.step, now.epoch, name, "", value) for name, value in now.metrics.items()]
        return model + [(now.step, now.epoch, name, layer, v) for (layer, name), v in now.layer_metrics.items()]

    def source(self, key: str, step: int) -> str:
        """Return the digest that the store would give this layer and step.

        By it a later analysis of the stored run finds that these rows are done.
        """
        values = self._values(key)
        host = values.contiguous().cpu().reshape(-1).view(torch.uint8).numpy()
        # The list has one entry, for all rows: a store has one for each process that recorded rows.
        return source_digest(self._probe_digest, self.layer(key), [([[0, len(values)]], digest(host))])

    def read(self, key: str, steps: Sequence[int]) -> Tensor:
        """Return the newest values of a layer, (1, N, *unit_shape), in a type that estimators take; not moved."""
        t = widened(self._values(key))[None]
        return 2 * t + 1 if self._altered else t

    def _values(self, key: str) -> Tensor:
        """The values (N, *unit_shape) of a layer as captured at the newest snapshot."""
        assert self._now.tensors is not None
        values: Tensor = self._now.tensors[key]
        return values
