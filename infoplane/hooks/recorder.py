"""The recorder: runs the probe set at scheduled steps and hands snapshots to sinks."""

from __future__ import annotations

import copy
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

import infoplane
from infoplane.core.records import Layer, Probe, Sink, Snapshot
from infoplane.hooks._destination import Destination, close_all
from infoplane.hooks._names import named_modules, unwrap
from infoplane.hooks._plan import Calls, Options
from infoplane.hooks._pool import Pool
from infoplane.hooks._prober import Prober
from infoplane.hooks._ranks import Ranks, find_ranks, share_buffers
from infoplane.hooks._state import model_device
from infoplane.hooks._steps import StepCounter
from infoplane.hooks._watch import Watch
from infoplane.hooks.metrics import GradientMoments, LayerMetrics, as_numbers, numbers, weight_norms
from infoplane.hooks.overview import SizePlan, free_bytes
from infoplane.hooks.probe import as_probe_set
from infoplane.hooks.reduce import Reduction, as_reduction
from infoplane.hooks.schedule import Plan, Schedule, as_schedule
from infoplane.hooks.select import Layers, OpTarget, Target, select

Reduce = Reduction | str | Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Call:
    """What one call of `snapshot` said, kept for the exit when the schedule skipped it."""

    step: int
    epoch: float
    metrics: Sequence[Mapping[str, float]] = ()
    layer_metrics: LayerMetrics = field(default_factory=dict)


class Recorder:
    """Record a model's activations on a fixed probe set while it trains.

    Between snapshots nothing is attached to the model. A snapshot runs the probe set in evaluation mode,
    without gradients, through hooks that are removed at its end; modes, random states, buffers and gradients
    are left as they were, so training with and without recording is equal bit for bit.

    Parameters
    ----------
    model : nn.Module
        Wrappers of DDP and torch.compile are looked through.
    probe : (x, y), or mapping from part name to (x, y)
        x is a tensor, a tuple of tensors (positional arguments) or a dict of tensors (keywords), with samples
        along the first axis. y are classes (integers) or regression targets (floats). A loader that does not
        shuffle may stand for the pair. Parts, as in `{"train": (x, y), "test": (x, y)}`, are recorded one after
        the other.
    run : path, optional
        Directory of the activation store. Needed unless `keep_activations` is False.
    layers : name, glob, regular expression, type, predicate, module, or list of them, optional
        See `infoplane.hooks.select`. By default every leaf module that ran and does more than pass its input on.
    schedule : Schedule, int, list of steps or function of the step, optional
        See `infoplane.hooks.schedule`; log-spaced by default. The first and the last step are always taken.
    reduce : reduction, or mapping from layer pattern to reduction ("*" for all others)
        What is stored of an output: see `infoplane.hooks.reduce`. All values by default.
    calls : "last", "all" or int, optional
        Which calls of a module that runs several times in one forward pass.
    logits : bool
        Record the output of the last leaf module also where `layers` does not name it.
    functional : bool
        Record activation functions that modules call without an activation module, too, as `block.0::relu`.
    dtype : torch.dtype, optional
        Store floating values as this; by default as they come.
    autocast : torch.dtype, optional
        Run the probe under autocast to this dtype. Off by default, also inside a caller's autocast region.
    mode : "eval" or "train"
        "train" keeps each module's mode: dropout acts, batch statistics are used (their buffers are restored).
    batch_dim : int, or mapping from layer pattern to int
        Axis of the samples in an output, where it is not the first.
    mask : (samples, tokens) tensor, or name of a keyword input, optional
        True where a token is no padding, for reductions over tokens; "attention_mask" is found by itself.
    probe_batch_size : int
        Samples of one forward pass. The same at every snapshot: results may depend on it in the last bit.
    sample_ids, input_ids, label_names : optional
        See `infoplane.core.Probe`; inputs that are equal in every number share an input id by default.
    repeats : (m, n_x), optional
        n_x further passes over m of the inputs, for networks with noise: the first m, or m drawn with
        `repeat_seed`.
    sinks : callables that take a Snapshot
        Further receivers, such as `infoplane.live("kde")`. Each may have `begin(probe=, settings=, run=, run_id=,
        resume=)`, `annotate(**notes)`, `flush()` and `close()`.
    keep_activations : bool
        False writes no activations, for runs that are estimated as they go.
    initial : bool
        Take step 0 on entry. A loop that counts from 0 then has its counters shifted by one, since its first call
        comes after one unit of training; the user's counter stays in `epoch`. With False the counters are steps
        as they are.
    total : int, optional
        Steps that the loop will make, for the size plan.
    gradients : GradientMoments, optional
        Record mean and standard deviation of each layer's gradients over the steps since the previous call of
        `snapshot`, and weight norms with them.
    weight_norms : bool
        Record the Frobenius norm of each layer's parameters.
    nonfinite : "warn" or "raise"
        What to do when NaN or infinite values are recorded.
    forward : function of (model, *args, **kwargs), optional
        How to run the model, where it is not called directly.
    seed : int
        Of the noise that the network draws at a snapshot.
    shard_probe : bool
        In a distributed job, give each rank its own contiguous part of the probe. By default rank 0 runs all of
        it while the others go on, except for models whose parameters are sharded: their forward pass needs
        every rank, and rank 0 writes. Every rank makes the same calls in each case.
    allow_full_disk, quiet : bool
        Start although the plan exceeds the free disk; do not print the plan.
    resume : bool
        Continue the run in this directory.
    writer : mapping
        Further arguments of `infoplane.store.StoreWriter`.

    Raises
    ------
    ValueError, TypeError
        For a probe, a layer or an option that cannot be recorded, at construction or on entry and before any
        file is written.

    Examples
    --------
    >>> with Recorder(model, probe=(x, y), run="runs/a") as recorder:
    ...     for epoch in range(100):
    ...         train_one_epoch(model)
    ...         recorder.snapshot(epoch, metrics={"loss": loss})
    """

    def __init__(
        self,
        model: nn.Module,
        probe: Any,
        run: str | Path | None = None,
        *,
        layers: Layers = None,
        schedule: Schedule | Callable[[int], bool] | Iterable[int] | int | None = None,
        reduce: Reduce | Mapping[str, Reduce] = "flatten",
        calls: Calls = None,
        logits: bool = True,
        functional: bool = False,
        dtype: torch.dtype | None = None,
        autocast: torch.dtype | None = None,
        mode: Literal["eval", "train"] = "eval",
        batch_dim: int | Mapping[str, int] = 0,
        mask: Tensor | str | None = None,
        probe_batch_size: int = 256,
        sample_ids: Any = None,
        input_ids: Any = None,
        label_names: Sequence[str] = (),
        repeats: tuple[int, int] | None = None,
        repeat_seed: int | None = None,
        sinks: Iterable[Sink] = (),
        keep_activations: bool = True,
        initial: bool = True,
        total: int | None = None,
        gradients: GradientMoments | None = None,
        weight_norms: bool = False,
        nonfinite: Literal["warn", "raise"] = "warn",
        forward: Callable[..., Any] | None = None,
        seed: int = 0,
        shard_probe: bool = False,
        allow_full_disk: bool = False,
        quiet: bool = False,
        resume: bool = False,
        writer: Mapping[str, Any] | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {type(model).__qualname__}")
        if probe_batch_size < 1:
            raise ValueError(f"probe_batch_size must be at least 1, got {probe_batch_size}")
        if mode not in ("eval", "train"):
            raise ValueError(f"mode must be 'eval' or 'train', got {mode!r}")
        if nonfinite not in ("warn", "raise"):
            raise ValueError(f"nonfinite must be 'warn' or 'raise', got {nonfinite!r}")
        self._destinations = [Destination(None if run is None else Path(run), list(sinks))]
        self._keep = keep_activations
        self._check_destinations()
        self.schedule = as_schedule(schedule)
        self._model = unwrap(model)
        table = reduce if isinstance(reduce, Mapping) else {"*": reduce}
        self._prober = Prober(
            model=self._model,
            targets=_select(layers, self._model),
            probe=as_probe_set(
                probe,
                sample_ids=sample_ids,
                input_ids=input_ids,
                label_names=label_names,
                mask=mask if isinstance(mask, Tensor) else None,
                repeats=repeats,
                repeat_seed=repeat_seed,
            ),
            options=Options(
                reduce={"*": as_reduction("flatten"), **{k: as_reduction(r) for k, r in table.items()}},
                batch_dim=batch_dim if isinstance(batch_dim, Mapping) else {"*": batch_dim},
                calls=calls,
                dtype=dtype,
            ),
            batch_size=probe_batch_size,
            logits=logits,
            functional=functional,
            autocast=autocast,
            evaluation=mode == "eval",
            mask_name=mask if isinstance(mask, str) else None,
            forward=forward,
            seed=seed,
        )
        self._initial, self._total = initial, total
        self._gradients = gradients
        self._weight_norms = weight_norms or gradients is not None
        self._allow_full_disk, self._quiet, self._resume = allow_full_disk, quiet, resume
        self._writer_options = dict(writer or {})
        self._shard_probe = shard_probe
        self._ranks = Ranks(0, 1, "first")
        self._pool = Pool(pinned=model_device(self._model).type == "cuda")
        self._state: Literal["new", "open", "closed"] = "new"
        self._pid = os.getpid()
        self._steps = StepCounter(self.schedule, initial=initial)
        self._noted_shift = not initial
        self._pending: Call | None = None
        self._watch = Watch(nonfinite)

    @property
    def run(self) -> Path | None:
        """The run's directory."""
        return self._destinations[0].run

    @property
    def is_open(self) -> bool:
        """Whether `snapshot` can be called."""
        return self._state == "open"

    # -- what it is ------------------------------------------------------------------------------------

    @property
    def probe(self) -> Probe:
        """Ids, labels and parts of the recorded rows."""
        return self._prober.probe.record

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The recorded layers in forward order; empty before entry."""
        return self._prober.layers

    @property
    def chain(self) -> bool | list[str]:
        """Whether the layers form a Markov chain from the input on; else the keys of those that do, or False.

        Found by following one forward pass: a layer belongs to the chain when every path from the input to the
        last layer goes through it and its stored values determine its output.
        """
        return self._prober.chain

    @property
    def skipped(self) -> Mapping[str, str]:
        """Layers that were selected by a pattern or by default and are not recorded, with the reason."""
        return self._prober.skipped

    @property
    def sizes(self) -> SizePlan:
        """Bytes per layer, snapshot and run, and the free disk; after entry."""
        plan = None if self._total is None else len(self.schedule.plan(self._total))
        where = self.run if self._keep else None
        return SizePlan(
            layers=self.layers,
            samples=self.probe.samples,
            snapshots=plan,
            free=None if where is None else free_bytes(where),
            where="" if where is None else str(where.absolute().parent),
            members=len(self._destinations),
        )

    def plan(self, total: int) -> Plan:
        """The steps that a run of `total` steps records; prints them."""
        return self.schedule.plan(total)

    def __repr__(self) -> str:
        return (
            f"Recorder({type(self._model).__name__}, {self.probe.samples} rows of {self.probe.target} labels, "
            f"{len(self.layers)} layers, {self.schedule}, {self._state})"
        )

    def _check_destinations(self) -> None:
        for destination in self._destinations:
            if self._keep and destination.run is None:
                raise ValueError('run must name a directory for the activations, as run="runs/a"')
            if not self._keep and not destination.sinks:
                raise ValueError("keep_activations=False without a sink would record nothing; pass sinks=[...]")

    # -- life ------------------------------------------------------------------------------------------

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
        if self._ranks.takes_part:
            self._prober.prepare()
        try:
            last_step = self._open_sinks()
            self._state = "open"
            if last_step is None and self._initial:
                self._take(Call(0, math.nan))
        except BaseException:
            self._state = "closed"
            close_all(self._destinations)
            raise
        return self

    def _open_sinks(self) -> int | None:
        """Open the stores and begin the sinks; the last step of a run that is resumed."""
        if self._keep and self._ranks.rank == 0:
            if not self._quiet:
                print(f"infoplane: recording into {self.run}\n{self.sizes}", file=sys.stderr)
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
        self.close(take_last=exc is None)

    def close(self, *, take_last: bool = True) -> None:
        """Take the last step if the schedule had skipped it, and close all sinks.

        After an exception `with` takes nothing: the model may be in the middle of a step.
        """
        if self._state != "open":
            self._state = "closed"
            return
        try:
            if take_last and self._pending is not None:
                self._take(self._pending)
        finally:
            self._state = "closed"
            close_all(self._destinations)

    def flush(self) -> None:
        """Make every snapshot so far durable, as before the user's own checkpoint."""
        for destination in self._destinations:
            destination.flush()

    def snapshot(
        self,
        step: int,
        *,
        epoch: float | None = None,
        metrics: Mapping[str, Any] | None = None,
        force: bool = False,
    ) -> bool:
        """Record the model now if the schedule takes this step; tell whether this process did.

        Parameters
        ----------
        step : int
            The loop's counter: completed epochs or iterations, or an index from 0 (see `initial`).
        epoch : float, optional
            Stored beside the step; the counter itself by default.
        metrics : mapping from name to number, optional
            Loss, accuracy, ...: stored with the snapshot.
        force : bool
            Take it whatever the schedule says.

        Raises
        ------
        ValueError
            If the step does not grow.
        """
        if self._state != "open":
            raise RuntimeError("snapshot() needs an open recorder: use it inside `with Recorder(...) as recorder:`")
        if os.getpid() != self._pid:
            raise RuntimeError(f"this recorder belongs to process {self._pid}, not to its child {os.getpid()}")
        if isinstance(step, bool) or not isinstance(step, int | np.integer):
            raise TypeError(f"step must be an integer counter, got {step!r}; fractional epochs go into epoch=")
        counter = int(step)
        step, due = self._steps.call(counter, force=force)
        if not self._noted_shift:
            for destination in self._destinations:
                destination.note_shift(self._steps.shift)
        self._noted_shift = True
        call = Call(
            step,
            float(counter if epoch is None else epoch),
            self._numbers(metrics or {}),
            {} if self._gradients is None else self._gradients.take(),
        )
        self._pending = None if due else call
        if due:
            self._take(call)
        return due and self._ranks.takes_part

    def due(self, step: int) -> bool:
        """Whether `snapshot(step)` would record: for metrics that are worth computing only then."""
        if self._state != "open":
            raise RuntimeError("due() needs an open recorder: use it inside `with Recorder(...) as recorder:`")
        return copy.copy(self._steps).call(int(step))[1]

    def settings(self) -> dict[str, Any]:
        """What a reader has to know about how the run was recorded; goes into `run.json`."""
        prober = self._prober
        passes = int(self.probe.repeats.max())
        return {
            "model": f"{type(self._model).__module__}.{type(self._model).__qualname__}",
            "layers": [la.key for la in self.layers],
            "chain": self.chain,
            "skipped": dict(self.skipped),
            "schedule": str(self.schedule),
            "reductions": {la.key: la.reduction for la in self.layers},
            "dtype": _dtype_name(prober.options.dtype),
            "autocast": _dtype_name(prober.autocast),
            "mode": "eval" if prober.evaluation else "train",
            "probe_batch_size": prober.batch_size,
            "repeats": [int((self.probe.repeats == 1).sum()), passes] if passes else None,
            "seed": prober.seed,
            "target": self.probe.target,
            "versions": {
                "infoplane": infoplane.__version__,
                "torch": str(torch.__version__),
                "numpy": np.__version__,
                "python": platform.python_version(),
            },
        }

    # -- one snapshot ----------------------------------------------------------------------------------

    def _take(self, call: Call) -> None:
        self._pending = None
        if not self._ranks.takes_part:
            return
        results = self._prober.measure(call.step, self._memory())
        layers = tuple(layer for layer, _ in results)
        prober = self._prober
        self._watch.look(call.step, prober.layers, results, prober.probe, members=prober.members is not None)
        self._prober.layers = layers
        self._emit(call, layers, {layer.key: values for layer, values in results})

    def _numbers(self, metrics: Mapping[str, Any]) -> list[dict[str, float]]:
        """The metrics of each run."""
        return [numbers(metrics)]

    def _emit(self, call: Call, layers: tuple[Layer, ...], values: Mapping[str, Tensor]) -> None:
        """Hand one snapshot to the sinks."""
        layer_metrics = {**call.layer_metrics, **(weight_norms(self._model) if self._weight_norms else {})}
        (destination,) = self._destinations
        snapshot = Snapshot(
            step=call.step,
            epoch=call.epoch,
            time=time.time(),
            layers=layers,
            arrays=self._arrays(values) if destination.needs_arrays else {},
            metrics=call.metrics[0] if call.metrics else {},
            layer_metrics=as_numbers(layer_metrics),
            tensors=values,
            rows=self._prober.probe.rows,
        )
        destination.take(snapshot)

    def _memory(self) -> Callable[[tuple[int, ...], torch.dtype], Tensor]:
        """Pooled host memory, or the model's device where a sink computes there."""
        device = self._prober.device
        if device.type == "cpu" or not any(d.needs_tensors for d in self._destinations):
            return self._pool.take
        return lambda shape, dtype: torch.empty(shape, dtype=dtype, device=device)

    def _arrays(self, values: Mapping[str, Tensor]) -> dict[str, npt.NDArray[Any]]:
        """As arrays in host memory, once the device has finished its copies."""
        hosted = {key: v if v.device.type == "cpu" else self._to_host(v) for key, v in values.items()}
        if self._prober.device.type != "cpu":
            torch.accelerator.synchronize(self._prober.device)
        return {key: self._pool.lend(v) for key, v in hosted.items()}

    def _to_host(self, values: Tensor) -> Tensor:
        return self._pool.take(tuple(values.shape), values.dtype).copy_(values, non_blocking=True)


def _select(layers: Layers, model: nn.Module) -> list[Target | OpTarget] | None:
    return None if layers is None else select(layers, named_modules(model), type(model).__name__)


def _dtype_name(dtype: torch.dtype | None) -> str | None:
    return None if dtype is None else str(dtype).removeprefix("torch.")
