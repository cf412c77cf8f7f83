"""A recording from start to close: the probe set runs at scheduled steps, sinks get the snapshots."""

from __future__ import annotations

import copy
import math
import os
import platform
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

import infoplane
from infoplane.core.interrupts import deferred
from infoplane.core.records import Layer, Snapshot
from infoplane.core.text import printable
from infoplane.core.warn import warn
from infoplane.hooks._out.destination import (
    SHIFT,
    Destination,
    choose_numbered,
    close_all,
    forget,
    last_numbered,
    refuse_unclosed,
    remember,
    stored_reductions,
)
from infoplane.hooks._out.host import HostMemory
from infoplane.hooks._pass.capture import Captured
from infoplane.hooks._pass.members import Members, State
from infoplane.hooks._pass.prober import Prober
from infoplane.hooks._problems import Failed, NonFiniteError, Problems, outcome
from infoplane.hooks._settings import Settings
from infoplane.hooks.metrics import LayerMetrics, WeightDistance, as_numbers, numbers, to_numbers, weight_norms
from infoplane.hooks.overview import SizePlan, free_bytes
from infoplane.hooks.probe import ProbeSet, label_words
from infoplane.hooks.schedule import StepCounter, as_schedule


@dataclass(frozen=True)
class Visit:
    """The arguments of one call of `snapshot`. Those of a skipped last call are kept: closing records that step."""

    step: int
    epoch: float
    metrics: Sequence[Mapping[str, float]] = ()
    """One mapping for each run."""
    layer_metrics: LayerMetrics = field(default_factory=dict)


class Session:
    """One recording: of a model, or of the `members` of a collection that one program runs together.

    `destinations` say where the snapshots go: one for the model, or one for each member.
    """

    def __init__(self, settings: Settings, destinations: Sequence[Destination], members: Members | None = None) -> None:
        """Check the settings; nothing runs and no file is written before `start`."""
        self.settings = settings
        self.prober = Prober(settings, members)
        self.model = self.prober.model
        self.destinations = list(destinations)
        self.schedule = as_schedule(settings.schedule)
        self.state: Literal["new", "open", "closed"] = "new"
        self.problems = Problems(settings.on_error)
        self._members = members
        self._check(settings)
        self._ranks = self.prober.ranks
        self._host: HostMemory | None = None
        self._pid = os.getpid()  # a forked child must not record
        self._steps = StepCounter(self.schedule, initial=settings.initial)
        self._noted_shift = not settings.initial  # whether the session's file has the shift of the counters
        self._skipped: Visit | None = None  # the last call, where the schedule skipped it
        self._watch = Watch(settings.nonfinite)
        self._distance: WeightDistance | None = None

    def _check(self, settings: Settings) -> None:
        """Raise ValueError for settings that contradict each other, or that the members cannot have."""
        if settings.keep_activations and any(d.run is None for d in self.destinations):
            raise ValueError('run must name a directory for the activations, as run="runs/a"')
        if not settings.keep_activations and not all(d.sinks for d in self.destinations):
            raise ValueError("keep_activations=False without a sink would record nothing; pass sinks=[...]")
        if len(settings.abouts) not in (0, 1, len(self.destinations)):
            each = f", or {len(self.destinations)}, one for each member" if self._members else ""
            raise ValueError(f"about takes one mapping{each}; got {len(settings.abouts)}")
        members, moments = self._members, settings.gradients
        if members is not None and moments is not None:
            members.check_gradients(moments)
        elif moments is not None and moments.members is not None:
            raise ValueError(
                f"these GradientMoments are of {moments.members} members; give them to a CollectionRecorder, "
                "or leave members= out"
            )
        if settings.weight_distance and members is not None:
            raise ValueError("weight_distance is of one network; record the members with a Recorder each")
        if settings.keeps_norms and members is not None:
            members.weight_norms(self.model)  # raises where a parameter does not hold the members

    @property
    def sizes(self) -> SizePlan:
        """Bytes per layer, snapshot and run, and the free disk."""
        settings = self.settings
        where = self.destinations[0].run if settings.keep_activations else None
        return SizePlan(
            layers=self.prober.layers,
            samples=self.prober.probe.record.samples,
            snapshots=None if settings.total is None else len(self.schedule.plan(settings.total)),
            free=None if where is None else free_bytes(where),
            where="" if where is None else str(where.absolute().parent),
            members=len(self.destinations),
            note="\n".join(filter(None, [self.prober.note, label_words(self.prober.probe.record, self.prober.layers)])),
        )

    def describe(self) -> dict[str, Any]:
        """The settings of the run, for its `run.json`."""
        prober, settings, probe = self.prober, self.settings, self.prober.probe.record
        passes = int(probe.repeats.max())  # further passes: the first pass is 0, and they are counted from 1
        return {
            "model": f"{type(self.model).__module__}.{type(self.model).__qualname__}",
            "layers": [la.key for la in prober.layers],
            "selection": prober.choice.by,
            "chain": prober.chain,
            "skipped": dict(prober.skipped),
            "schedule": str(self.schedule),
            "reductions": {la.key: la.reduction for la in prober.layers},
            "dtype": _dtype_name(settings.dtype),
            "autocast": _dtype_name(settings.autocast),
            "mode": settings.mode,
            "probe_batch_size": prober.batch_size,
            "repeats": [int((probe.repeats == 1).sum()), passes] if passes else None,
            "seed": settings.seed,
            "target": probe.target,
            "versions": {m.__name__: str(m.__version__) for m in (infoplane, torch, np)}
            | {"python": platform.python_version()},
            **({} if settings.name is None else {"name": settings.name}),
            **({"about": settings.abouts[0]} if len(settings.abouts) == 1 else {}),
            **({} if self._members is None else {"members": self._members.count}),
        }

    # -- life ------------------------------------------------------------------------------------------

    @deferred
    def start(self) -> None:
        """Find the layers, open the sinks and take step 0."""
        if self.state != "new":
            raise RuntimeError(f"this recorder is {self.state}; make a new one for another run")
        self._ranks = self.prober.join_ranks()
        if self._ranks.takes_part:
            if self.settings.resume and self.settings.keep_activations:
                named = self.destinations[0].run
                run = last_numbered(named) if self.settings.number and named is not None else named
                self.prober.keep(stored_reductions(run))
            self._ranks.together(self.prober.prepare)
            if (start := self.settings.weight_distance) is not False:
                self._distance = WeightDistance(self.model, None if start is True else start)
        try:
            last_step, _ = self._ranks.together(self._open_sinks)
            self._check_start(last_step)
            self.problems.save_with = self._save_problems
            self.state = "open"
            remember(self, self.destinations)
            if last_step is None and self.settings.initial:
                self._take(Visit(0, math.nan))
        except BaseException as error:
            self.state = "closed"
            forget(self)
            close_all(self.destinations, error)
            raise

    def _open_sinks(self) -> int | None:
        """Open the stores and begin the sinks; return the last step of a run that is resumed, None for a new one."""
        settings, sizes, first = self.settings, self.sizes, self.destinations[0]
        if settings.number and first.run is not None and self._ranks.takes_part:
            first.run = choose_numbered(first.run, self._ranks, resume=settings.resume)
        writer = {"on_error": settings.on_error, "overwrite": settings.overwrite, **(settings.writer or {})}
        store = writer if settings.keep_activations else None
        if store is not None:
            refuse_unclosed(d.run for d in self.destinations)
            if self._ranks.rank == 0 and not settings.quiet:
                print(f"infoplane: recording into {printable(self.destinations[0].run)}\n{sizes}", file=sys.stderr)
            if self._ranks.rank == 0 and not settings.allow_full_disk:
                sizes.check()
        found = []
        for i, destination in enumerate(self.destinations):
            described = self.describe() | ({"member": i} if len(self.destinations) > 1 else {})
            if self._members is not None and settings.name is not None:
                described["name"] = settings.name.format(member=i)
            if len(settings.abouts) > 1:
                described["about"] = settings.abouts[i]
            run = {"probe": self.prober.probe.record, "settings": described, "resume": settings.resume}
            found.append(destination.open(run, self.prober.layers, self._ranks, store=store))
        resumed = [(last, shift) for last, shift in found if last is not None]
        if len(resumed) < len(found):
            return None  # unless all members have steps already, this starts as a new run does
        # Where members stopped at different steps, go on from the earliest. Among members that stopped there, take the
        # shift of the counters from one that noted it.
        last_step, shift = min(resumed, key=lambda ends: (ends[0], ends[1] is None))
        self._steps.resume(last_step, shift)
        self._noted_shift = False  # this session has a file of its own, and needs the note too
        return last_step

    @deferred
    def close(self, *, take_last: bool, ending: BaseException | None = None) -> None:
        """Take the last step if the schedule had skipped it, and close all sinks."""
        if self.state != "open":
            self.state = "closed"
            return
        try:
            if take_last and self._skipped is not None:
                self._take(self._skipped)
            self.problems.save(now=True)
            self.problems.warn_of_new()
        finally:
            self.state = "closed"
            forget(self)
            close_all(self.destinations, ending)
        if take_last and self.prober.state:
            warn(self.prober.state)  # that the model keeps state: given at the start too, which may be long ago

    def flush(self) -> None:
        """Save the list of problems, and let every sink put on the disk what it has."""
        self.problems.save(now=True)
        for destination in self.destinations:
            destination.call_sinks("flush")

    @deferred
    def snapshot(
        self, step: Any, epoch: Any, metrics: Mapping[str, Any] | None, *, force: bool, state: State | None = None
    ) -> bool:
        """Record the step if it is due or `force` is set, and tell whether this process recorded it.

        `state` replaces the (parameters, buffers) of the members. RuntimeError where the recorder is not open, or was
        opened in another process.
        """
        if self.state != "open":
            raise RuntimeError("snapshot() needs an open recorder: use it inside `with Recorder(...) as recorder:`")
        if os.getpid() != self._pid:
            raise RuntimeError(f"this recorder belongs to process {self._pid}, not to its child {os.getpid()}")

        def count() -> tuple[int, bool]:
            """Put a new state of the members in place; return the step of this call, and whether it is due."""
            if state is not None and self._members is not None:
                self._members.use(state)
            return self._steps.call(step, force=force)

        counted = self.problems.attempt("a call of snapshot", count)
        taken = False
        if counted is not None:
            visit = self._visit(counted[0], epoch, {} if metrics is None else metrics)
            self._skipped = None if counted[1] else visit
            taken = counted[1] and self._take(visit)
        self.problems.warn_of_new()
        return taken

    def _visit(self, step: int, epoch: Any, metrics: Any) -> Visit:
        """Return the arguments of one call of `snapshot`, with metrics as numbers, and gradient moments.

        The first call also writes into the session's file by how much the loop's counters are shifted.
        """
        attempt, moments = self.problems.attempt, self.settings.gradients
        notes = {SHIFT: self._steps.shift}
        for destination in () if self._noted_shift else self.destinations:
            attempt("notes of the session", partial(destination.call_sinks, "annotate", **notes))
        self._noted_shift = True
        at = None if epoch is None else attempt("epoch", lambda: numbers("epoch", epoch), step)
        return Visit(
            step,
            float(step - (self._steps.shift or 0)) if at is None else at[0],  # the counter where no epoch is given
            attempt("metrics", lambda: self._numbers(metrics, step), step) or (),
            {} if moments is None else attempt("gradient moments", moments.take, step) or {},
        )

    def _save_problems(self, listed: list[dict[str, Any]]) -> None:
        """Write the list of problems into the session's file."""
        for destination in self.destinations:
            destination.call_sinks("annotate", problems=listed)

    def due(self, step: Any) -> bool:
        """Whether `snapshot(step)` would record."""
        if self.state != "open":
            raise RuntimeError("due() needs an open recorder: use it inside `with Recorder(...) as recorder:`")
        found = outcome(lambda: copy.copy(self._steps).call(step)[1])  # a copy: asking counts no step
        if isinstance(found, Failed) and not self.problems.forgiving:
            raise found.error
        return not isinstance(found, Failed) and found  # False for a failure: `snapshot` will meet and list it

    # -- one snapshot ----------------------------------------------------------------------------------

    def _take(self, visit: Visit) -> bool:
        """Take one snapshot, and tell whether this process did. Once the first is taken, failures may be forgiven."""
        self._skipped = None
        attempt, take = self.problems.attempt, partial(self._record, visit)
        taken = self._ranks.takes_part and attempt("a whole snapshot", take, visit.step)
        self.problems.begun = True
        return bool(taken)

    def _record(self, visit: Visit) -> bool:
        """Run the probe and give the sinks the layers that no rank lost; return True. ValueError where none is left."""

        def measured() -> Captured:
            """Run this rank's part of the probe; warn of what `Watch` finds in it, as NaN."""
            before = self.prober.layers
            captured = self.prober.measure(visit.step, self._memory().allocator(on_device=any(self._on_device())))
            self._watch.look(visit.step, before, captured, self.prober.probe, axis=0 if self._members is None else 1)
            return captured

        found, lost = self._ranks.together(
            measured, lambda captured: {f"layer {key!r}": error for key, error in captured.lost.items()}
        )
        self.problems.refuse(lost, visit.step)
        layers = tuple(layer for layer in found.layers if f"layer {layer.key!r}" not in lost)
        if not layers:
            raise ValueError("none of the recorded layers could be recorded")
        self._emit(visit, layers, {layer.key: found.values[layer.key] for layer in layers})
        return True

    def _numbers(self, metrics: Any, step: int) -> list[dict[str, float]]:
        """Return the metrics of each run by name, as floats.

        One that is no number is left out and listed as a problem, or raises where failures are not forgiven.
        """
        if not isinstance(metrics, Mapping):
            raise TypeError(f"metrics must map names to numbers, as {{'loss': 0.3}}, got {metrics!r:.80}")
        runs = len(self.destinations)
        members = None if self._members is None else runs
        found = {name: outcome(partial(numbers, name, value, members)) for name, value in metrics.items()}
        self.problems.refuse({f"metric {n!r:.80}": f.error for n, f in found.items() if isinstance(f, Failed)}, step)
        return [{name: f[i] for name, f in found.items() if not isinstance(f, Failed)} for i in range(runs)]

    def _emit(self, visit: Visit, layers: tuple[Layer, ...], values: Mapping[str, Tensor]) -> None:
        """Give each run's sinks its snapshot; `values` are those of `layers` by key, members first if there are any."""
        alone = self._members is None

        # Reading numbers waits for the device, so do it before the long copies of `values` are started.
        layer_metrics = self.problems.attempt(
            "metrics of layers", lambda: as_numbers({**visit.layer_metrics, **self._norms()}), visit.step
        )
        # No arrays where every sink reads the tensors. `pending`, if not None, waits until the arrays are filled.
        arrays, pending = ({}, None) if all(self._on_device()) else self._memory().arrays(values)
        now = time.time()
        for i, destination in enumerate(self.destinations):
            snapshot = Snapshot(
                step=visit.step,
                epoch=visit.epoch,
                time=now,
                layers=layers,
                arrays=arrays if alone else {key: a[i] for key, a in arrays.items()},
                metrics=visit.metrics[i] if visit.metrics else {},
                layer_metrics=layer_metrics[i] if layer_metrics else {},
                tensors=values if alone else {key: v[i] for key, v in values.items()},
                rows=self.prober.probe.rows,
                pending=pending,
            )
            destination.take(snapshot, self.problems)

    def _norms(self) -> LayerMetrics:
        """Return norms of weights, and their distances from the start, as far as the settings ask for them."""
        moved = {} if self._distance is None else self._distance.take()
        if not self.settings.keeps_norms:
            return moved
        norms = weight_norms(self.model) if self._members is None else self._members.weight_norms(self.model)
        return {**norms, **moved}

    def _check_start(self, last_step: int | None) -> None:
        """Raise ValueError for `weight_distance=True` in a resumed run: the weights of its start are gone."""
        if self.settings.weight_distance is True and last_step is not None:
            raise ValueError(
                f"weight_distance=True takes the weights at the start, and this run goes on after step {last_step}; "
                "give those of its start, weight_distance=torch.load('start.pt', weights_only=True)"
            )

    def _on_device(self) -> list[bool]:
        """For each sink whether it reads the tensors on the model's device, and needs no arrays."""
        return [getattr(sink, "on_device", False) for d in self.destinations for sink in d.sinks]

    def _memory(self) -> HostMemory:
        """Return the memory for copies of snapshots; a new one where the model has moved to another device."""
        device = self.prober.device
        if self._host is None or self._host.device != device:
            self._host = HostMemory(device, self.sizes.per_snapshot)
        return self._host


def _dtype_name(dtype: torch.dtype | None) -> str | None:
    """`float32` for torch.float32."""
    return None if dtype is None else str(dtype).removeprefix("torch.")


class Watch:
    """Looks at every snapshot, and warns of each kind of finding once."""

    def __init__(self, nonfinite: Literal["warn", "raise"]) -> None:
        """Watch; `nonfinite` says what happens at NaN and infinite values."""
        self._nonfinite = nonfinite
        self._told: set[str] = set()
        self._seen_repeats = False

    def look(self, step: int, before: Sequence[Layer], found: Captured, probe: ProbeSet, *, axis: int) -> None:
        """Look at what a pass found, with rows along `axis`, against the layers as they were `before`.

        Raise NonFiniteError for NaN and infinite values where that was asked for; warn of all else.
        """
        self._changes(step, before, found.layers)
        self._finite(step, found.values)
        if probe.passes and not self._seen_repeats:
            self._seen_repeats = True
            self._repeats(found.values.values(), probe, axis)

    def _changes(self, step: int, before: Sequence[Layer], now: Sequence[Layer]) -> None:
        """Warn of a layer whose shape or type is another than before."""
        known = {layer.key: layer for layer in before}
        for new in now:
            old = known[new.key]
            if (old.unit_shape, old.dtype) != (new.unit_shape, new.dtype):
                self._tell(
                    f"change of {new.key}",
                    f"layer {new.key!r} changed from {old.unit_shape} {old.dtype} to {new.unit_shape} {new.dtype} "
                    f"at step {step}; steps before and after cannot be analysed together",
                )

    def _finite(self, step: int, found: Mapping[str, Tensor]) -> None:
        """Raise for NaN and infinite values, or warn of them, as the user has chosen."""
        floating = {key: values for key, values in found.items() if values.is_floating_point()}
        # Look at each value only where the sum is not finite, as with any NaN or infinite value: a sum is sixteen
        # times faster. The sum of finite values may overflow; then `bad` is 0.
        sums = to_numbers([values.sum(dtype=torch.float32) for values in floating.values()])
        for (key, values), total in zip(floating.items(), sums, strict=True):
            bad = 0 if math.isfinite(total) else int((~torch.isfinite(values)).sum())
            if not bad:
                continue
            text = f"layer {key!r} has {bad} NaN or infinite values at step {step}; did training diverge?"
            if self._nonfinite == "raise":
                raise NonFiniteError(text)
            self._tell("nonfinite", f"{text} Later ones are counted without a warning.")

    def _repeats(self, found: Iterable[Tensor], probe: ProbeSet, axis: int) -> None:
        """Warn where the second pass gives the values of the first in all layers: the network has no noise."""
        # Rows from `start` on are the second pass, over the inputs `again`.
        start, again = probe.first_pass, probe.passes[0]
        pairs = ((v.index_select(axis, again.to(v.device)), v.narrow(axis, start, len(again))) for v in found)
        if all(torch.equal(first, second) for first, second in pairs):
            self._tell(
                "repeats",
                "repeats asks for further noisy passes, but the network gives the same values again; install "
                "NoiseInjection, or record with mode='train'",
            )

    def _tell(self, kind: str, text: str) -> None:
        """Warn, at the first of its kind."""
        if kind not in self._told:
            self._told.add(kind)
            warn(text)
