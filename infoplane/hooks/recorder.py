"""The recorder: what the user says about model, probe, layers and run, checked and made into a recording."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from infoplane.core.records import Sink
from infoplane.hooks._out.destination import Destination
from infoplane.hooks._pass.plan import Calls, Options
from infoplane.hooks._pass.prober import Prober
from infoplane.hooks._session import Session
from infoplane.hooks.metrics import GradientMoments
from infoplane.hooks.probe import as_probe_set
from infoplane.hooks.reduce import Reduction, as_reduction
from infoplane.hooks.schedule import Schedule, as_schedule
from infoplane.hooks.select import Layers, OpTarget, Target, named_modules, select, unwrap

Reduce = Reduction | str | Callable[[Tensor], Tensor]


class Recorder(Session):
    """Record a model's activations on a fixed probe set while it trains.

    Between snapshots nothing is attached to the model. A snapshot runs the probe set in evaluation mode,
    without gradients, through hooks that are removed at its end; modes, random states, buffers and gradients
    are left as they were, so training with and without recording is equal bit for bit. Not so what `forward` writes
    into other attributes (a kept hidden state, a generator of its own): where that shows in the recorded values of
    two equal passes at the start, a warning names the layers.

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
        See `infoplane.hooks.select`. By default every leaf module that ran and does more than pass its input on; a
        linear layer made of parts (parametrised weights, low-rank adapters) is one.
    schedule : Schedule, int, list of steps or function of the step, optional
        See `infoplane.hooks.schedule`; log-spaced by default. The first and the last step are always taken.
    reduce : reduction, or mapping from layer pattern to reduction ("*" for all others)
        What is stored of an output: see `infoplane.hooks.reduce`. All values by default.
    calls : "last", "all" or int, optional
        Which calls of a module that runs several times in one forward pass.
    logits : bool
        Record the model's output also where `layers` does not name it: the layer whose output it returns, or
        functions of it; the block or the model that adds several up.
    functional : bool
        Record activation functions that modules call without an activation module, too, as `block.0::relu`.
    dtype : torch.dtype, optional
        Store floating values as this; by default as they come.
    autocast : torch.dtype, optional
        Run the probe under autocast to this dtype. Off by default, also inside a caller's autocast region.
    mode : "eval" or "train"
        "train" keeps each module's mode: dropout acts, batch statistics are used (their buffers are restored).
    batch_dim : int, or mapping from layer pattern to int, optional
        Axis of the samples in an output, where it is not the first. At the start one chunk is run with its rows in
        another order: a layer whose rows do not follow is refused, but only warned of where its axis was given here.
        Rows follow where each value is the same within 1,000 rounding units (eps of the coarsest floating format in
        use) of the layer's largest, at most a tenth of it, in all but 1 % of the rows.
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
    on_error : "warn" or "raise"
        What a failure does once a first snapshot has been taken. "warn": training goes on; what is missing (a layer
        that was not called, a metric that is no number, a sink that raises, a whole step) is warned of, once for
        each kind and again at its 10th, 100th ... time, and listed in `problems`, in the session's file and by
        `verify`. "raise": it is raised, as everything before is in any case. Handed to the writer, too.
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
    >>> import tempfile
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
        batch_dim: int | Mapping[str, int] | None = None,
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
        on_error: Literal["warn", "raise"] = "warn",
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
        if on_error not in ("warn", "raise"):
            raise ValueError(f"on_error must be 'warn' or 'raise', got {on_error!r}")
        unwrapped = unwrap(model)
        table = reduce if isinstance(reduce, Mapping) else {"*": reduce}
        prober = Prober(
            model=unwrapped,
            targets=_select(layers, unwrapped),
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
                batch_dim=_batch_dims(batch_dim),
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
        super().__init__(
            prober,
            [Destination(None if run is None else Path(run), list(sinks))],
            as_schedule(schedule),
            keep_activations=keep_activations,
            initial=initial,
            total=total,
            gradients=gradients,
            weight_norms=weight_norms,
            nonfinite=nonfinite,
            on_error=on_error,
            shard_probe=shard_probe,
            allow_full_disk=allow_full_disk,
            quiet=quiet,
            resume=resume,
            writer=writer,
        )


def _batch_dims(given: int | Mapping[str, int] | None) -> Mapping[str, int]:
    if given is None:
        return {}
    return given if isinstance(given, Mapping) else {"*": given}


def _select(layers: Layers, model: nn.Module) -> list[Target | OpTarget] | None:
    return None if layers is None else select(layers, named_modules(model), type(model).__name__)
