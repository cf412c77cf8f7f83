"""Everything about one model and one probe set: which tensors, and how a pass over the probe is made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from infoplane.core.device import on_accelerator
from infoplane.core.interrupts import stepwise
from infoplane.core.records import Layer
from infoplane.core.text import printable
from infoplane.core.warn import warn
from infoplane.hooks._out.host import Allocate
from infoplane.hooks._pass import checks
from infoplane.hooks._pass.capture import Capture, Captured, Chunk, Mark, capture
from infoplane.hooks._pass.members import Members
from infoplane.hooks._pass.observe import Flow, Observation, look, markov_chain, observe, trace
from infoplane.hooks._pass.plan import plan_captures
from infoplane.hooks._pass.state import Held, model_device, seed_generators, undisturbed
from infoplane.hooks._ranks import is_sharded
from infoplane.hooks._settings import Settings
from infoplane.hooks.noise import draw_noise_from
from infoplane.hooks.probe import Inputs
from infoplane.hooks.reduce import is_lossless
from infoplane.hooks.select import Named, OpTarget, Target, named_modules, scripted_modules, select, unwrap

Run = Callable[..., Any]
T = TypeVar("T")


class Prober:
    """Runs a probe set through a model and collects what was selected.

    `prepare` finds the layers with two passes over the first chunk; `measure` makes a full pass.
    """

    def __init__(self, settings: Settings, members: Members | None = None) -> None:
        self.settings = settings
        self.members = members
        self.model = unwrap(settings.model)
        self.targets: list[Target | OpTarget] | None = None
        if settings.layers is not None:
            self.targets = select(settings.layers, named_modules(self.model), type(self.model).__name__)
        self.probe = settings.probe_set()
        self.batch_size = settings.probe_batch_size
        # What the ranks of a distributed job do together ahead of each pass.
        self.agree: Callable[[], object] | None = None
        self.before_pass: Callable[[nn.Module], None] | None = None
        # Found by `prepare`.
        self.captures: tuple[Capture, ...] = ()
        self.layers: tuple[Layer, ...] = ()
        self.skipped: Mapping[str, str] = {}
        self.chain: bool | list[str] = False
        self.state = ""  # the warning that the forward pass keeps state, where it was said
        self._held = Held()
        settings.reductions  # noqa: B018 - an unknown one is refused here

    @property
    def device(self) -> torch.device:
        """Where the forward pass runs."""
        for tensor in () if self.members is None else self.members.tensors:
            return tensor.device
        return model_device(self.model)

    def prepare(self) -> None:
        """As `_prepare`, once more with chunks of half the size where the device has too little memory."""
        try:
            self._prepare()
        except torch.OutOfMemoryError:
            if self.batch_size == 1 or self.agree is not None:  # ranks make the same number of passes
                raise
            self.batch_size = (self.batch_size + 1) // 2
            warn(f"out of memory in the probe pass; goes on with probe_batch_size={self.batch_size}")
            self._prepare()

    def _prepare(self) -> None:
        """Find what runs and plan the captures; then their shapes, and which of them form a chain."""
        checks.refuse_lazy(self.model)
        # The first pass shows which modules run, the second what the captures of the plan give, and, with a flow,
        # which of them lies on every path from the input to the output.
        first = next(self.probe.chunks(self.batch_size))
        start, stop, inputs, _ = first
        first_call = checks.FirstCall(self.model)
        modules = named_modules(self.model)
        seen, changed_first, replaced_first = self._observe(inputs, modules)
        first_call.refuse_new_weights()
        self.captures, skipped = plan_captures(
            self.targets,
            modules,
            seen,
            stop - start,
            self.settings,
            member_axis=None if self.members is None else self.members.axis,
        )
        scripted = dict.fromkeys(scripted_modules(self.model), "it is a TorchScript module, which takes no hooks")
        self.skipped = {**skipped, **scripted}
        self._warn_skipped()
        self._warn_batch_statistics()
        reductions = [c.reduction for c in self.captures]
        results: list[tuple[Layer, Tensor]] = []

        def once(flow: Flow | None) -> None:
            def mark(tensor: Tensor, layer: Layer) -> None:
                if flow is not None:
                    shape = tuple(tensor.shape[1 if self._axis_only() is None else 2 :])
                    flow.mark(tensor, layer.depth, cuts=is_lossless(reductions[layer.depth], shape))

            def work(run: Run) -> Captured:
                return self._capture(partial(run, flow=flow), [first], stop - start, mark=mark)

            results[:] = self._undisturbed(0, work).whole()

        with first_call.blamed_for(replaced_first, lambda: self._held.replaced):
            parents = {} if is_sharded(self.model) else trace(once)
            if not parents:
                once(None)
        first_call.refuse_set_once(changed_first, self._held.changed)
        self.layers = tuple(layer for layer, _ in results)
        self.captures = tuple(replace(c, layer=la) for c, la in zip(self.captures, self.layers, strict=True))
        self.chain = self._markov(parents)
        self._look_at_rows(stop - start)

    def _observe(self, inputs: Inputs, modules: Mapping[str, Named]) -> tuple[Observation, set[str], set[str]]:
        """Find what runs, and what the first pass changed, or replaced."""
        changed: list[tuple[set[str], set[str]]] = []

        def once(flow: Flow | None, ops: bool) -> Observation:
            def work(run: Run) -> Observation:
                return observe(lambda: run(inputs, flow=flow), modules, ops=ops, flow=flow)

            try:
                return self._undisturbed(0, work)
            finally:
                changed.append((self._held.changed, self._held.replaced))

        seen = look(once, ops=self._wants_ops(), follow=not is_sharded(self.model))
        return seen, *changed[0]

    def _look_at_rows(self, rows: int) -> None:
        def once(inputs: Inputs, which: int, jolt: int | None = None, /) -> checks.PassValues:
            output: dict[str, Tensor] = {}

            def forward(run: Run, inputs: Inputs) -> Any:
                if jolt is None:
                    return run(inputs, which)
                return checks.with_jolted_embeddings(self.model, jolt, lambda: run(inputs, which))

            def watched(run: Run) -> Captured:
                chunk = 0, len(inputs), inputs, which
                return self._capture(
                    lambda inputs, _: output.update(checks.returned(forward(run, inputs))), [chunk], len(inputs)
                )

            found = self._undisturbed(0, watched, noise_on=False)
            rows_first = [(la, v if self._axis_only() is None else v.movedim(1, 0)) for la, v in found.layers]
            return checks.PassValues({la.key: checks.thinned(v) for la, v in rows_first}, output, found.lost)

        kinds = [getattr(torch, la.dtype) for la in self.layers] + [p.dtype for p in self.model.parameters()]
        if self.settings.autocast is not None:
            kinds.append(self.settings.autocast)
        allowed = checks.tolerance(kinds, self.device)
        alone = self.before_pass is None and not is_sharded(self.model)
        self.state = checks.look_at_rows(once, self.probe, rows, self.captures, allowed, alone=alone)

    def measure(self, step: int, allocate: Allocate) -> Captured:
        """One pass over the whole probe: each layer, as it is now, with values (rows, *units)."""
        modules = named_modules(self.model)
        gone = self._resolve_again(modules)
        there = [c for c in self.captures if c.layer.key not in gone]
        chunks, rows = self.probe.chunks(self.batch_size), self.probe.samples

        def work(run: Run) -> Captured:
            return capture(run, there, chunks, rows, allocate, modules, self._chunk_mask, members=self.members)

        captured = self._undisturbed(step, work)
        if on_accelerator(self.device) and any(not on_accelerator(values.device) for _, values in captured.layers):
            torch.accelerator.synchronize(self.device)  # the copies into host memory
        found = {layer.key: layer for layer, _ in captured.layers}
        self.layers = tuple(found.get(layer.key, layer) for layer in self.layers)
        return replace(captured, lost=gone | captured.lost)

    def _capture(self, run: Run, chunks: Iterable[Chunk], rows: int, mark: Mark | None = None) -> Captured:
        """Run the chunks with hooks on all captures; of stacked members only the first runs."""
        modules = named_modules(self.model)
        return capture(run, self.captures, chunks, rows, _fresh, modules, self._chunk_mask, mark, self._axis_only())

    def _axis_only(self) -> Members | None:
        """For a pass with one member: members with a stacked state are then not there."""
        return None if self.members is None or self.members.state is not None else self.members

    def _wants_ops(self) -> bool:
        return self.settings.functional or any(isinstance(t, OpTarget) for t in self.targets or ())

    def _resolve_again(self, modules: Mapping[str, Named]) -> dict[str, Exception]:
        """Modules may have been replaced since the last pass; layers whose module is gone, with the error."""
        type_ = printable(type(self.model).__name__)
        gone: dict[str, Exception] = {}
        captures = list(self.captures)
        for i, c in enumerate(captures):
            key = c.layer.key
            if c.owner not in modules:
                gone[key] = ValueError(f"recorded layer {printable(repr(key))} is no longer part of {type_}")
            elif modules[c.owner].module is not c.module:
                captures[i] = replace(c, module=modules[c.owner].module)
        self.captures = tuple(captures)
        return gone

    def _undisturbed(self, step: int, work: Callable[[Run], T], *, noise_on: bool = True) -> T:
        """`work(run)`, where run(inputs, pass) is a forward pass of the model, with all else undisturbed."""
        device = self.device

        def started() -> T:
            if self.agree is not None:
                self.agree()
            if self.before_pass is not None:
                self.before_pass(self.model)
            return work(self._run(step, device, noise_on))

        try:
            return undisturbed(
                started,
                self.model,
                self._held,
                device,
                autocast=self.settings.autocast,
                evaluation=self.settings.mode == "eval",
                exact_buffers=self.before_pass is not None,
                parameters=self.members is not None and self.members.state is not None,
            )
        except Exception as error:
            note = f"while recording step {step} on the probe set"
            if isinstance(error, torch.OutOfMemoryError):
                note += (
                    f" in chunks of {self.batch_size} samples; take a smaller probe_batch_size, or reduce large layers"
                )
            error.add_note(note)
            raise

    def _run(self, step: int, device: torch.device, noise_on: bool) -> Run:
        """A function that runs the model on inputs of the `which`-th pass, with random numbers of its own."""
        weights = self.model.parameters() if self.members is None else self.members.tensors or self.model.parameters()
        dtypes = frozenset(p.dtype for p in weights if p.is_floating_point())
        current: int | None = None

        @stepwise
        def run(
            inputs: Inputs,
            which: int = 0,
            flow: Flow | None = None,
            outputs: Callable[[], list[Tensor]] | None = None,
        ) -> Any:
            nonlocal current
            if which != current:
                current = which
                seed = np.random.SeedSequence([self.settings.seed, step, which]).generate_state(1, np.uint32)[0]
                generator = seed_generators(device, int(seed))
                draw_noise_from(self.model, generator if noise_on else "off")
            moved = inputs.to(device, dtypes)
            if flow is not None:
                flow.start(moved.tensors)
            if self.members is not None and self.members.state is not None:
                if outputs is None:
                    return self.members.run_first(self.model, moved)
                return self.members.run_all(self.model, moved, outputs)
            if self.settings.forward is not None:
                return self.settings.forward(self.model, *moved.args, **moved.kwargs)
            return self.model(*moved.args, **moved.kwargs)

        return run

    def _chunk_mask(self, inputs: Inputs) -> Tensor | None:
        name = self.settings.mask if isinstance(self.settings.mask, str) else "attention_mask"
        mask = inputs.mask if inputs.mask is not None else inputs.kwargs.get(name)
        return None if mask is None else mask.to(self.device)

    def _markov(self, parents: dict[int, frozenset[int]]) -> bool | list[str]:
        order = range(len(self.layers))
        cutting = [i for i in order if is_lossless(self.captures[i].reduction, self.layers[i].raw_shape)]
        chained = markov_chain(parents, cutting)
        if len(chained) < 2:
            return False
        return len(chained) == len(self.layers) or [self.layers[i].key for i in chained]

    def _warn_skipped(self) -> None:
        lost = {n: why for n, why in self.skipped.items() if "passes its input on" not in why}
        if lost:
            name, why = next(iter(lost.items()))
            warn(f"{len(lost)} layers are not recorded (all in recorder.skipped), first {name!r}: {why}")

    def _warn_batch_statistics(self) -> None:
        for name, named in named_modules(self.model).items():
            if isinstance(named.module, _BatchNorm) and named.module.running_mean is None:
                warn(
                    f"layer {name!r} normalises by the statistics of each batch: activations depend on "
                    f"probe_batch_size={self.batch_size}"
                )
                return


def _fresh(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="cpu")
