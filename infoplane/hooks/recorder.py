"""The recorder: what the user says about model, probe, layers and run, and the recording that it drives."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Self

from infoplane.core.records import Layer, Probe
from infoplane.core.text import printable
from infoplane.hooks._out.destination import Destination
from infoplane.hooks._session import Session
from infoplane.hooks._settings import Settings
from infoplane.hooks.overview import SizePlan
from infoplane.hooks.schedule import Plan, Schedule
from infoplane.store import Problem

P = ParamSpec("P")


def _with_arguments_of(
    settings: Callable[P, Settings],
) -> Callable[[Callable[[Recorder, Settings], None]], Callable[Concatenate[Recorder, P], None]]:
    """Return a decorator for a constructor that takes one Settings object.

    The decorated constructor is called with the arguments of `settings`, which `help` shows too.
    """

    def decorate(make: Callable[[Recorder, Settings], None]) -> Callable[Concatenate[Recorder, P], None]:
        """Return the constructor `make` with the arguments, and for `help` the signature, of `settings`."""

        @functools.wraps(make)
        def init(self: Recorder, /, *args: P.args, **kwargs: P.kwargs) -> None:
            make(self, settings(*args, **kwargs))

        own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        given = inspect.signature(settings)
        parameters = [own, *given.parameters.values()]
        init.__signature__ = given.replace(parameters=parameters, return_annotation=None)  # type: ignore[attr-defined]
        return init

    return decorate


class Recorder:
    """Record a model's activations on a fixed probe set while it trains.

    Between snapshots nothing is attached to the model. A snapshot runs the probe set in evaluation mode,
    without gradients, through hooks that are removed at its end; modes, random states, buffers and gradients
    are left as they were, so training with and without recording is equal bit for bit. Not so what `forward` writes
    into other attributes (a kept hidden state, a generator of its own): where that shows in the recorded values of
    two equal passes at the start, a warning names the layers.

    The keywords come in groups: what is recorded (`layers` to `weight_distance`), the probe set (`sample_ids` to
    `repeats`), when (`schedule`, `initial`, `total`), where to (`sinks` to `writer`), how the probe runs
    (`probe_batch_size` to `shard_probe`), and what happens when something is wrong (`nonfinite` and all after it).

    Parameters
    ----------
    model : nn.Module
        Wrappers of DDP and torch.compile are looked through.
    probe : (x, y), or mapping from part name to (x, y)
        x is a tensor, a tuple of tensors (positional arguments) or a dict of tensors (keywords), with samples
        along the first axis. y are classes (integers) or regression targets (floats); integers (samples, positions)
        are a class for each position of a sequence, -100 where there is none (`infoplane.hooks.next_tokens`). A loader
        that does not shuffle may stand for the pair. Parts, as in `{"train": (x, y), "test": (x, y)}`, are recorded
        one after the other.
    run : path, optional
        Directory of the activation store. Needed unless `keep_activations` is False.
    name : str, optional
        What figures, tables and reports call the run; the name of its directory by default.
    about : mapping from name to number, text, bool or None, optional
        Hyper-parameters, `{"lr": 0.1, "width": 10, "seed": 0}`: kept in `run.json`, and a column each of
        `infoplane.study`. A run that is continued must have the same.
    layers : name, glob, regular expression, type, predicate, module, or list of them, optional
        See `infoplane.hooks.select`. By default every leaf module that ran and does more than pass its input on; a
        linear layer made of parts (parametrised weights, low-rank adapters) is one. `"blocks"`, and the default of
        models of more than 16 leaves: the modules of which the model has several of a kind (residual blocks, encoder
        layers, stages in a Sequential), outermost first, and the last layer of what lies before, between and after
        them; of a model that repeats none, the outputs of its activation modules.
    depth : int, optional
        In place of `layers`: the modules that are called this many calls inside the model, and the leaves above.
    logits : bool
        Record the model's output also where `layers` does not name it: the layer whose output it returns, or
        functions of it; the block or the model that adds several up.
    functional : bool
        Record activation functions that modules call without an activation module, too, as `block.0::relu`.
    calls : "last", "all" or int, optional
        Which calls of a module that runs several times in one forward pass. By default one with weights needs a
        choice; each call of one without, as a ReLU in two places, is a layer, unless it was named.
    reduce : reduction, or mapping from layer pattern to reduction (`"*"` for all others)
        What is stored of an output: see `infoplane.hooks.reduce`. All values by default; of blocks, and at a `depth`,
        maps and sequences as their mean over positions or tokens. A reduction of tokens for all (`"*"`) leaves layers
        without tokens that nobody named as they are.
    dtype : torch.dtype, optional
        Store floating values as this; by default as they come.
    batch_dim : int, or mapping from layer pattern to int, optional
        Axis of the samples in an output, where it is not the first. At the start one chunk is run with its rows in
        another order: a layer whose rows do not follow is refused, but only warned of where its axis was given here.
        Rows follow where each value is the same within 1,000 rounding units (eps of the coarsest floating format in
        use) of the layer's largest, at most a tenth of it, in all but 1 % of the rows.
    mask : (samples, tokens) tensor, or name of a keyword input, optional
        True where a token is no padding, for reductions over tokens; "attention_mask" is found by itself.
    gradients : GradientMoments, optional
        Record mean and standard deviation of each layer's gradients over the steps since the previous call of
        `snapshot`, and weight norms with them.
    weight_norms : bool
        Record the Frobenius norm of each layer's parameters.
    weight_distance : bool or mapping from parameter name to tensor
        Record |w - w_0| over the parameters that are trained, of the model and of each layer. True takes the weights at
        the start and keeps a copy of them; a run that goes on is given those of its start, as a state dict.
    sample_ids, input_ids, label_names : optional
        See `infoplane.core.Probe`; inputs that are equal in every number share an input id by default.
    repeats : (m, n_x), optional
        n_x further passes over m of the inputs, for networks with noise: the first m, or m drawn with
        `repeat_seed`.
    schedule : Schedule, int, list of steps or function of the step, optional
        See `infoplane.hooks.schedule`; log-spaced by default. The first and the last step are always taken.
    initial : bool
        Take step 0 on entry. A loop that counts from 0 then has its counters shifted by one, since its first call
        comes after one unit of training; the user's counter stays in `epoch`. With False the counters are steps
        as they are.
    total : int, optional
        Steps that the loop will make, for the size plan.
    sinks : callables that take a Snapshot
        Further receivers, such as `infoplane.live("kde")`. Each may have `begin(probe=, settings=, run=, run_id=,
        resume=)`, `annotate(**notes)`, `flush()` and `close()`.
    keep_activations : bool
        False writes no activations, for runs that are estimated as they go.
    resume : bool
        Continue the run in this directory, with its layers where none are named.
    overwrite : bool
        Replace the run in this directory, and its results, when this one starts; other files there stay. Only a run
        that was closed and that no process writes.
    number : bool
        Record into `run-001`, `run-002`, ... of the name in `run`; with `resume` into the last of them. The property
        `run` has the directory.
    writer : mapping
        Further arguments of `infoplane.store.StoreWriter`.
    probe_batch_size : int
        Samples of one forward pass. The same at every snapshot: results may depend on it in the last bit.
    mode : "eval" or "train"
        "train" keeps each module's mode: dropout acts, batch statistics are used (their buffers are restored).
    autocast : torch.dtype, optional
        Run the probe under autocast to this dtype. Off by default, also inside a caller's autocast region.
    forward : function of `(model, *args, **kwargs)`, optional
        How to run the model, where it is not called directly.
    seed : int
        Seeds the noise that the network draws at a snapshot.
    shard_probe : bool
        In a distributed job, give each rank its own contiguous part of the probe. By default rank 0 runs all of
        it while the others go on, except for models whose parameters are sharded: their forward pass needs
        every rank, and rank 0 writes. Every rank makes the same calls in each case.
    nonfinite : "warn" or "raise"
        What to do when NaN or infinite values are recorded.
    on_error : "warn" or "raise"
        What a failure does once a first snapshot has been taken. "warn": training goes on; what is missing (a layer
        that was not called, a metric that is no number, a sink that raises, a whole step) is warned of, once for
        each kind and again at its 10th, 100th ... time, and listed in `problems`, in the session's file and by
        `verify`. "raise": it is raised, as everything before is in any case. Handed to the writer, too.
    allow_full_disk, quiet : bool
        Start although the plan exceeds the free disk; do not print the plan.

    Raises
    ------
    ValueError, TypeError
        For a probe, a layer or an option that cannot be recorded, at construction or on entry and before any
        file is written.

    Examples
    --------
    >>> import tempfile, torch
    >>> from torch import nn
    >>> from infoplane.store import open_run
    >>> folder = tempfile.TemporaryDirectory()
    >>> x, y = torch.randn(32, 4), torch.arange(32) % 2
    >>> model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> with Recorder(model, probe=(x, y), run=folder.name + "/run", schedule=[10, 20], quiet=True) as recorder:
    ...     for epoch in range(20):
    ...         loss = nn.functional.cross_entropy(model(x), y)
    ...         optimizer.zero_grad()
    ...         loss.backward()
    ...         optimizer.step()
    ...         taken = recorder.snapshot(epoch, metrics={"loss": loss})
    >>> open_run(folder.name + "/run").steps()
    [0, 10, 20]
    >>> folder.cleanup()
    """

    @_with_arguments_of(Settings)
    def __init__(self, settings: Settings) -> None:
        run = None if settings.run is None else Path(settings.run)
        self._hold(Session(settings, [Destination(run, list(settings.sinks))]))

    def _hold(self, session: Session) -> None:
        """Keep the session that does the recording."""
        self._session = session
        self.schedule: Schedule = session.schedule

    def start(self) -> Self:
        """Find the layers, open the sinks and take step 0; `with` calls it.

        Model, probe and layers are checked here, before any file is written.
        """
        self._session.start()
        return self

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, traceback: object) -> None:
        self._session.close(take_last=exc is None, ending=exc)

    def close(self, *, take_last: bool = True) -> None:
        """Take the last step if the schedule had skipped it, and close all sinks.

        After an exception `with` takes nothing: the model may be in the middle of a step. That exception is what
        leaves the block; what fails on closing becomes a note of it.
        """
        self._session.close(take_last=take_last)

    def flush(self) -> None:
        """Make every snapshot so far durable, as before the user's own checkpoint."""
        self._session.flush()

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
            At the first snapshot, or with `on_error="raise"`: if the step is no whole number, or a metric no number.
        ValueError
            In the same cases: if the step does not grow.
        RuntimeError
            If the recorder is not open.

        Out of memory and errors of the accelerator are raised in any case.
        """
        return self._session.snapshot(step, epoch, metrics, force=force)

    def due(self, step: int) -> bool:
        """Whether `snapshot(step)` would record: for metrics that are worth computing only then."""
        return self._session.due(step)

    @property
    def run(self) -> Path | None:
        """The run's directory."""
        return self._session.destinations[0].run

    @property
    def is_open(self) -> bool:
        """Whether `snapshot` can be called."""
        return self._session.state == "open"

    @property
    def probe(self) -> Probe:
        """Ids, labels and parts of the recorded rows."""
        return self._session.prober.probe.record

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The recorded layers in forward order; empty before entry."""
        return self._session.prober.layers

    @property
    def chain(self) -> bool | list[str]:
        """True where the layers form a Markov chain from the input on; else the keys of those that do, or False.

        Found by following one forward pass: a layer belongs to the chain when every path from the input to the
        last layer goes through it and its stored values determine its output.
        """
        return self._session.prober.chain

    @property
    def skipped(self) -> Mapping[str, str]:
        """Layers that were selected by a pattern or by default and are not recorded, with the reason."""
        return self._session.prober.skipped

    @property
    def problems(self) -> tuple[Problem, ...]:
        """All that could not be recorded so far, with reason and steps: missing layers, metrics and steps, sinks.

        Last come the steps that could not be written. The list stands in the session's file too, and `verify` shows it.
        A layer that the model did not call is a `note`.
        """
        return (*self._session.problems.listed, *(p for d in self._session.destinations for p in d.unwritten))

    @property
    def sizes(self) -> SizePlan:
        """Bytes per layer, snapshot and run, and the free disk; after entry."""
        return self._session.sizes

    def plan(self, total: int) -> Plan:
        """The steps that a run of `total` steps records; prints them."""
        return self.schedule.plan(total)

    def settings(self) -> dict[str, Any]:
        """Settings under which the run is recorded, for its readers; goes into `run.json`."""
        return self._session.describe()

    def __repr__(self) -> str:
        return (
            f"Recorder({printable(type(self._session.model).__name__)}, {self.probe.samples} rows of "
            f"{self.probe.target} labels, {len(self.layers)} layers, {self.schedule}, {self._session.state})"
        )
