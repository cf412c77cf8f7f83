"""A recording from start to close: the probe set runs at scheduled steps, sinks get the snapshots."""

from __future__ import annotations

import copy
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, Self, TypeVar

import torch
from torch import Tensor

from infoplane.core.interrupts import deferred
from infoplane.core.records import Layer, Snapshot
from infoplane.core.text import printable
from infoplane.core.warn import warn
from infoplane.hooks._about import About
from infoplane.hooks._out.destination import SHIFT, Destination, close_all, forget, refuse_unclosed, remember
from infoplane.hooks._out.host import HostMemory
from infoplane.hooks._pass.prober import Prober
from infoplane.hooks._problems import Done, Failed, NonFiniteError, Problems, outcome
from infoplane.hooks._ranks import Ranks, find_ranks, share_buffers
from infoplane.hooks.metrics import GradientMoments, LayerMetrics, as_numbers, number, to_numbers, weight_norms
from infoplane.hooks.probe import ProbeSet
from infoplane.hooks.schedule import Schedule, StepCounter, whole_number

T = TypeVar("T")


@dataclass(frozen=True)
class Call:
    """What one call of `snapshot` said, kept for the exit when the schedule skipped it."""

    step: int
    epoch: float
    metrics: Sequence[Mapping[str, float]] = ()
    layer_metrics: LayerMetrics = field(default_factory=dict)


class Session(About):
    """A model, its probe and the destinations of its snapshots, all of them known; `Recorder` makes them."""

    def __init__(
        self,
        prober: Prober,
        destinations: Sequence[Destination],
        schedule: Schedule,
        *,
        keep_activations: bool,
        initial: bool,
        total: int | None,
        gradients: GradientMoments | None,
        weight_norms: bool,
        nonfinite: Literal["warn", "raise"],
        on_error: Literal["warn", "raise"],
        shard_probe: bool,
        allow_full_disk: bool,
        quiet: bool,
        resume: bool,
        writer: Mapping[str, Any] | None,
    ) -> None:
        self._prober = prober
        self._model = prober.model
        self._destinations = list(destinations)
        self._keep = keep_activations
        self._check_destinations()
        self.schedule = schedule
        self._initial, self._total = initial, total
        self._gradients = gradients
        self._check_gradients()
        self._weight_norms = weight_norms or gradients is not None
        self._allow_full_disk, self._quiet, self._resume = allow_full_disk, quiet, resume
        self._writer_options = {"on_error": on_error, **(writer or {})}
        self._problems = Problems(on_error)
        self._shard_probe = shard_probe
        self._ranks = Ranks(0, 1, "first")
        self._host: HostMemory | None = None
        self._state: Literal["new", "open", "closed"] = "new"
        self._pid = os.getpid()
        self._steps = StepCounter(self.schedule, initial=initial)
        self._noted_shift = not initial
        self._pending: Call | None = None
        self._watch = Watch(nonfinite)

    def _check_destinations(self) -> None:
        for destination in self._destinations:
            if self._keep and destination.run is None:
                raise ValueError('run must name a directory for the activations, as run="runs/a"')
            if not self._keep and not destination.sinks:
                raise ValueError("keep_activations=False without a sink would record nothing; pass sinks=[...]")

    def _check_gradients(self) -> None:
        if self._gradients is not None and self._gradients.members is not None:
            raise ValueError(
                f"these GradientMoments are of {self._gradients.members} members; give them to a CollectionRecorder, "
                "or leave members= out"
            )

    # -- life ------------------------------------------------------------------------------------------

    @deferred
    def start(self) -> Self:
        """Find the layers, open the sinks and take step 0; `with` calls it.

        Everything that can be wrong with model, probe and layers is found here, before any file is written.
        """
        if self._state != "new":
            raise RuntimeError(f"this recorder is {self._state}; make a new one for another run")
        self._ranks = find_ranks(self._model, shard_probe=self._shard_probe)
        if self._ranks.share == "rows":
            self._prober.probe = self._prober.probe.share(self._ranks.rank, self._ranks.world_size)
            self._prober.before_pass = share_buffers
        if self._ranks.share != "first":
            self._prober.agree = self._ranks.check
        if self._ranks.takes_part:
            self._ranks.together(self._prepared)
        try:
            last_step, _ = self._ranks.together(lambda: (self._open_sinks(), {}))
            self._problems.save_with(self._save_problems)
            self._state = "open"
            remember(self, self._destinations)
            if last_step is None and self._initial:
                self._take(Call(0, math.nan))
        except BaseException as error:
            self._state = "closed"
            forget(self)
            close_all(self._destinations, error)
            raise
        return self

    def _prepared(self) -> tuple[None, dict[str, Exception]]:
        self._prober.prepare()
        return None, {}

    def _open_sinks(self) -> int | None:
        """Open the stores and begin the sinks; the last step of a run that is resumed."""
        if self._keep:
            refuse_unclosed(d.run for d in self._destinations)
        if self._keep and self._ranks.rank == 0:
            if not self._quiet:
                print(f"infoplane: recording into {printable(self.run)}\n{self.sizes}", file=sys.stderr)
            if not self._allow_full_disk:
                self.sizes.check()
        found = [
            destination.open(
                store=self._keep,
                probe=self.probe,
                settings=self.settings() | ({"member": i} if len(self._destinations) > 1 else {}),
                ranks=self._ranks,
                resume=self._resume,
                options=self._writer_options,
                layers=self.layers,
            )
            for i, destination in enumerate(self._destinations)
        ]
        if any(last is None for last, _ in found):
            return None
        last_step, shift = min((last, shift) for last, shift in found if last is not None)
        self._steps.resume(last_step, shift)
        self._noted_shift = False
        return last_step

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, traceback: object) -> None:
        self._close(take_last=exc is None, ending=exc)

    def close(self, *, take_last: bool = True) -> None:
        """Take the last step if the schedule had skipped it, and close all sinks.

        After an exception `with` takes nothing: the model may be in the middle of a step. That exception is what
        leaves the block; what fails on closing becomes a note of it.
        """
        self._close(take_last=take_last)

    @deferred
    def _close(self, *, take_last: bool, ending: BaseException | None = None) -> None:
        if self._state != "open":
            self._state = "closed"
            return
        try:
            if take_last and self._pending is not None:
                self._take(self._pending)
            self._problems.save(now=True)
            self._problems.warn_of_new()
        finally:
            self._state = "closed"
            forget(self)
            close_all(self._destinations, ending)
        if take_last and self._prober.state:
            warn(self._prober.state)  # what the numbers are read under; the start was long ago

    def flush(self) -> None:
        """Make every snapshot so far durable, as before the user's own checkpoint."""
        self._problems.save(now=True)
        for destination in self._destinations:
            destination.flush()

    @deferred
    def snapshot(
        self,
        step: int,
        *,
        epoch: float | None = None,
        metrics: Mapping[str, Any] | None = None,
        force: bool = False,
    ) -> bool:
        """Record the model now if the schedule takes this step; tell whether this process did.

        Once a first snapshot has been taken, what fails is listed in `problems` and warned of, and training goes on
        (`on_error="raise"` raises it): what is missing is missing by name, and all else of the snapshot is there.

        Parameters
        ----------
        step : int
            The loop's counter: completed epochs or iterations, or an index from 0 (see `initial`). NumPy integers,
            tensors of one element and 3.0 are whole numbers as well.
        epoch : float, optional
            Stored beside the step; the counter itself by default.
        metrics : mapping from name to number, optional
            Loss, accuracy, ...: stored with the snapshot.
        force : bool
            Take it whatever the schedule says.

        Raises
        ------
        TypeError
            At the first snapshot, or with `on_error="raise"`: if the step is no whole number, or a metric none.
        ValueError
            Then: if the step does not grow.
        RuntimeError
            If the recorder is not open.

        Out of memory and errors of the accelerator are raised in any case.
        """
        if self._state != "open":
            raise RuntimeError("snapshot() needs an open recorder: use it inside `with Recorder(...) as recorder:`")
        if os.getpid() != self._pid:
            raise RuntimeError(f"this recorder belongs to process {self._pid}, not to its child {os.getpid()}")
        counted = self._problems.attempt(
            "a call of snapshot", lambda: (whole_number(step), *self._steps.call(whole_number(step), force=force))
        )
        if counted is None:
            self._problems.warn_of_new()
            return False
        counter, step, due = counted
        if not self._noted_shift:
            self._annotate({SHIFT: self._steps.shift})
        self._noted_shift = True
        given: Mapping[str, Any] = {} if metrics is None else metrics
        call = Call(
            step,
            self._epoch(counter, epoch, step),
            self._problems.attempt("metrics", lambda: self._numbers(given, step), step) or (),
            self._moments(step),
        )
        self._pending = None if due else call
        taken = self._take(call) if due else False
        self._problems.warn_of_new()
        return taken

    def _annotate(self, notes: Mapping[str, Any]) -> None:
        for destination in self._destinations:
            self._problems.attempt("notes of the session", partial(destination.annotate, notes))

    def _save_problems(self, listed: list[dict[str, Any]]) -> None:
        for destination in self._destinations:
            destination.annotate({"problems": listed})

    def _epoch(self, counter: int, epoch: Any, step: int) -> float:
        given = None if epoch is None else self._problems.attempt("epoch", lambda: number("epoch", epoch), step)
        return float(counter) if given is None else given

    def _moments(self, step: int) -> LayerMetrics:
        moments = self._gradients
        return {} if moments is None else self._problems.attempt("gradient moments", moments.take, step) or {}

    def due(self, step: int) -> bool:
        """Whether `snapshot(step)` would record: for metrics that are worth computing only then."""
        if self._state != "open":
            raise RuntimeError("due() needs an open recorder: use it inside `with Recorder(...) as recorder:`")
        found = outcome(lambda: copy.copy(self._steps).call(whole_number(step))[1])
        if isinstance(found, Done):
            return found.value
        if not self._problems.forgiving:
            raise found.error
        return False  # `snapshot` lists it

    # -- one snapshot ----------------------------------------------------------------------------------

    def _take(self, call: Call) -> bool:
        """Take one snapshot, and tell whether this process did; the first one that is whole begins the recording."""
        self._pending = None
        taken = None
        if self._ranks.takes_part:
            taken = self._problems.attempt("a whole snapshot", lambda: self._record(call), call.step)
        self._problems.begun = True
        return bool(taken)

    def _record(self, call: Call) -> bool:
        def measured() -> tuple[list[tuple[Layer, Tensor]], dict[str, Exception]]:
            before = prober.layers
            on_device = any(d.needs_tensors for d in self._destinations)
            captured = prober.measure(call.step, self._memory().allocator(on_device=on_device))
            whole = captured.layers
            self._watch.look(call.step, before, whole, prober.probe, members=prober.members is not None)
            return whole, {f"layer {key!r}": error for key, error in captured.lost.items()}

        prober = self._prober
        found, lost = self._ranks.together(measured)
        self._problems.refuse(lost, call.step)
        there = [(layer, values) for layer, values in found if f"layer {layer.key!r}" not in lost]
        if not there:
            raise ValueError("none of the recorded layers could be recorded")
        self._emit(call, tuple(layer for layer, _ in there), {layer.key: values for layer, values in there})
        return True

    def _numbers(self, metrics: Mapping[str, Any], step: int) -> list[dict[str, float]]:
        """The metrics of each run."""
        return [self._each_metric(metrics, number, step)]

    def _each_metric(self, metrics: Mapping[str, Any], read: Callable[[Any, Any], T], step: int) -> dict[str, T]:
        """What `read(name, value)` makes of each metric; those that it refuses are missing."""
        if not isinstance(metrics, Mapping):
            raise TypeError(f"metrics must map names to numbers, as {{'loss': 0.3}}, got {metrics!r:.80}")
        found = {name: outcome(partial(read, name, value)) for name, value in metrics.items()}
        self._problems.refuse({f"metric {n!r:.80}": f.error for n, f in found.items() if isinstance(f, Failed)}, step)
        return {name: f.value for name, f in found.items() if isinstance(f, Done)}

    def _emit(self, call: Call, layers: tuple[Layer, ...], values: Mapping[str, Tensor]) -> None:
        """Hand one snapshot to the sinks."""
        (destination,) = self._destinations
        # This waits for the device, so it comes ahead of the long copies.
        layer_metrics = self._attempt_metrics(call, as_numbers) or {}
        arrays, pending = self._memory().arrays(values) if destination.needs_arrays else ({}, None)
        snapshot = Snapshot(
            step=call.step,
            epoch=call.epoch,
            time=time.time(),
            layers=layers,
            arrays=arrays,
            metrics=call.metrics[0] if call.metrics else {},
            layer_metrics=layer_metrics,
            tensors=values,
            pending=pending,
            rows=self._prober.probe.rows,
        )
        destination.take(snapshot, self._problems)

    def _attempt_metrics(self, call: Call, read: Callable[[LayerMetrics], T]) -> T | None:
        return self._problems.attempt("metrics of layers", lambda: read(self._layer_metrics(call)), call.step)

    def _layer_metrics(self, call: Call) -> LayerMetrics:
        return {**call.layer_metrics, **(self._norms() if self._weight_norms else {})}

    def _norms(self) -> LayerMetrics:
        return weight_norms(self._model)

    def _memory(self) -> HostMemory:
        device = self._prober.device
        if self._host is None or self._host.device != device:
            self._host = HostMemory(device, self.sizes.per_snapshot)
        return self._host


Results = Sequence[tuple[Layer, Tensor]]


class Watch:
    """Looks at every snapshot; each kind of finding is told once."""

    def __init__(self, nonfinite: Literal["warn", "raise"]) -> None:
        self._nonfinite = nonfinite
        self._told: set[str] = set()
        self._seen_repeats = False

    def look(self, step: int, before: Sequence[Layer], results: Results, probe: ProbeSet, *, members: bool) -> None:
        """Raise ValueError for NaN or infinite values where that was asked for; warn of the rest."""
        self._changes(step, before, results)
        self._finite(step, results)
        if probe.passes and not self._seen_repeats:
            self._seen_repeats = True
            self._repeats(results, probe, axis=1 if members else 0)

    def _changes(self, step: int, before: Sequence[Layer], results: Results) -> None:
        known = {layer.key: layer for layer in before}
        for new, _ in results:
            old = known[new.key]
            if (old.unit_shape, old.dtype) != (new.unit_shape, new.dtype):
                self._tell(
                    f"change of {new.key}",
                    f"layer {new.key!r} changed from {old.unit_shape} {old.dtype} to {new.unit_shape} {new.dtype} "
                    f"at step {step}; steps before and after cannot be analysed together",
                )

    def _finite(self, step: int, results: Results) -> None:
        floating = [(layer, values) for layer, values in results if values.is_floating_point()]
        # The sum is sixteen times faster than a look at every value, and finite when all are.
        sums = to_numbers([values.sum(dtype=torch.float32) for _, values in floating])
        for (layer, values), total in zip(floating, sums, strict=True):
            if math.isfinite(total):
                continue
            bad = int((~torch.isfinite(values)).sum())
            if not bad:
                continue
            text = f"layer {layer.key!r} has {bad} NaN or infinite values at step {step}; did training diverge?"
            if self._nonfinite == "raise":
                raise NonFiniteError(text)
            self._tell("nonfinite", f"{text} Later ones are counted without a warning.")

    def _repeats(self, results: Results, probe: ProbeSet, axis: int) -> None:
        """Further passes over a network without noise are the first one again."""
        start, again = probe.first_pass, probe.passes[0]
        for _, values in results:
            first = values.index_select(axis, again.to(values.device))
            if not torch.equal(first, values.narrow(axis, start, len(again))):
                return
        self._tell(
            "repeats",
            "repeats asks for further noisy passes, but the network gives the same values again; install "
            "NoiseInjection, or record with mode='train'",
        )

    def _tell(self, kind: str, text: str) -> None:
        if kind not in self._told:
            self._told.add(kind)
            warn(text)
