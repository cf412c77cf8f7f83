"""Everything about one model and one probe set: which tensors, and how a pass over the probe is made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from infoplane.core.device import on_accelerator
from infoplane.core.interrupts import stepwise
from infoplane.core.records import Layer
from infoplane.core.text import printable
from infoplane.core.tokens import doubt_positions
from infoplane.core.warn import warn
from infoplane.hooks._out.host import Allocate, Pool
from infoplane.hooks._pass import checks
from infoplane.hooks._pass.blocks import Choice, choose_calls
from infoplane.hooks._pass.capture import Capture, Captured, Chunk, Pass
from infoplane.hooks._pass.members import Members
from infoplane.hooks._pass.observe import Flow, Observation, Watcher, followed, look, markov_chain
from infoplane.hooks._pass.plan import Planner
from infoplane.hooks._pass.state import Surroundings, model_device, seed_generators
from infoplane.hooks._ranks import Ranks, find_ranks, is_sharded
from infoplane.hooks._settings import Settings
from infoplane.hooks.noise import draw_noise_from
from infoplane.hooks.probe import Inputs
from infoplane.hooks.reduce import is_lossless
from infoplane.hooks.select import Layers, Named, OpTarget, Target, named_modules, scripted_modules, select, unwrap

Run = Callable[..., Any]
T = TypeVar("T")


class Prober:
    """Runs a probe set through a model and collects what was selected.

    `prepare` finds the layers with two passes over the first chunk; `measure` makes a full pass.
    """

    def __init__(self, settings: Settings, members: Members | None = None) -> None:
        """Read the probe set and look up layers that are named; nothing runs before `prepare`."""
        self.settings = settings
        self.members = members
        self.stacked = members is not None and members.state is not None  # members run under vmap
        self.model = unwrap(settings.model)
        self.targets: list[Target | OpTarget] | None = None
        self.resumed: Mapping[str, str] | None = None  # of a run that goes on: key -> name of the reduction
        if settings.named is not None:
            self._target(settings.named)
        self.probe = settings.probe_set()
        self.batch_size = settings.probe_batch_size
        self.ranks = Ranks(0, 1, "first")  # this process alone, until `join_ranks`
        # Found by `prepare`.
        self.captures: tuple[Capture, ...] = ()
        self.choice = Choice("named", ())
        self.skipped: Mapping[str, str] = {}
        self.chain: bool | list[str] = False
        self.state = ""  # the warning that the forward pass keeps state, where it was said
        evaluation, autocast = settings.mode == "eval", settings.autocast
        self._surroundings = Surroundings(self.model, autocast=autocast, evaluation=evaluation, swaps=self.stacked)
        settings.reductions  # noqa: B018 - an unknown one is refused here

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The recorded layers, as they last came."""
        return tuple(c.layer for c in self.captures)

    def _target(self, layers: Layers) -> None:
        """Set the targets to these layers; ValueError where the model has none of a name."""
        self.targets = select(layers, named_modules(self.model), type(self.model).__name__)

    def keep(self, reductions: Mapping[str, str]) -> None:
        """Choose the layers of a run that is resumed (key -> reduction), unless the user named some.

        What is chosen by default today may differ from what was chosen when the run was started.
        """
        if self.settings.named is None and reductions:
            self.resumed = reductions
            self._target(list(reductions))

    def join_ranks(self) -> Ranks:
        """Find the ranks and return them; this process then runs its part of the probe, in step with the others."""
        self.ranks = ranks = find_ranks(self.model, shard_probe=self.settings.shard_probe)
        if ranks.share == "rows":
            self._surroundings.exact = True  # collectives change buffers
            self.probe = self.probe.share(ranks.rank, ranks.world_size)
        return ranks

    @property
    def note(self) -> str:
        """A line of the printed plan that says how the layers were chosen, where nobody named them."""
        if self.resumed is not None:
            return "layers: those that the run was started with"
        if not self.choice.words:
            return ""
        pooled = self.choice.by != "leaves" and any(layer.reduction.startswith("mean") for layer in self.layers)
        means = "; maps and sequences as means, since reduce= says nothing" if pooled else ""
        return f"layers: {self.choice.words}{means}; layers=, depth= for others"

    @property
    def device(self) -> torch.device:
        """The device on which the forward pass runs: that of the members' state, if there is one, else the model's."""
        state = [] if self.members is None else self.members.tensors
        return state[0].device if state else model_device(self.model)

    def prepare(self) -> None:
        """Call `_prepare`, and once more with chunks of half the size where the device has too little memory."""
        try:
            self._prepare()
        except torch.OutOfMemoryError:
            if self.batch_size == 1 or self.ranks.share != "first":  # ranks make the same number of passes
                raise
            self.batch_size = (self.batch_size + 1) // 2
            warn(f"out of memory in the probe pass; goes on with probe_batch_size={self.batch_size}")
            self._prepare()

    def _prepare(self) -> None:
        """Find what runs and plan the captures; then their shapes, and which of them form a chain."""
        checks.refuse_lazy(self.model)
        # The first pass shows which modules run, the second what the captures of the plan give, and, with a flow,
        # which of them lies on every path from the input to the output.
        chunk = next(self.probe.chunks(self.batch_size))
        inputs = chunk[2]
        first_call = checks.FirstCall(self._surroundings)
        modules, rows = named_modules(self.model), len(inputs)
        follow = not is_sharded(self.model)

        # The 0 in what follows stands for the step, from which a pass has its random numbers.
        def watched(flow: Flow | None, ops: bool) -> Observation:
            """What runs in one pass over the chunk."""
            watcher = Watcher(modules, flow, ops=ops)
            return self._undisturbed(0, lambda run: watcher.watch(lambda: run(inputs)), flow=flow)

        ops = self.settings.functional or any(isinstance(t, OpTarget) for t in self.targets or ())
        seen = look(watched, ops=ops, follow=follow)
        first_call.refuse_new_weights()
        if self.targets is None:
            blocks = self.settings.layers is not None  # without targets it can be "blocks" alone
            self.choice = choose_calls(seen, blocks=blocks, depth=self.settings.depth)
        axis = None if self.members is None else self.members.axis
        n_tokens = None if inputs.mask is None else inputs.mask.shape[1]
        planner = Planner(self.targets, self.choice, modules, seen, rows, self.settings, axis, n_tokens, self.resumed)
        captures = planner.captures()
        scripted = dict.fromkeys(scripted_modules(self.model), "it is a TorchScript module, which takes no hooks")
        self.skipped = {**planner.skipped, **scripted}
        self._warn_of_layers(modules)

        def captured(flow: Flow | None) -> Captured:
            """What the planned captures give on the chunk; raises where one cannot be taken."""
            return self._undisturbed(0, lambda run: self._capture_first(run, captures, chunk, flow), flow=flow).whole()

        with first_call.watch_second():
            found, parents = followed(captured, possible=follow)
        self.captures = captures
        self._update(found.layers)
        for doubt in doubt_positions(self.probe.record, self.layers):
            warn(doubt)
        self.chain = self._markov(parents)
        self._look_at_rows(rows)

    def _look_at_rows(self, rows: int) -> None:
        """Check on one chunk that a layer's rows follow their samples; ValueError where they do not."""

        def once(inputs: Inputs, random_state: int, perturb_seed: int | None = None, /) -> Captured:
            """A pass over the inputs without injected noise: layers and outputs, rows first, thinned for comparison."""
            outputs: dict[str, Tensor] = {}

            def watched(run: Run) -> Captured:
                """What the captures give, and into `outputs` what the model returns."""

                def forward(inputs: Inputs, pass_number: int) -> None:
                    """Run the model, and keep what it returned."""
                    value = checks.with_perturbed_embeddings(self.model, perturb_seed, lambda: run(inputs, pass_number))
                    outputs.update(checks.returned(value))

                return self._capture_first(forward, self.captures, (0, len(inputs), inputs, random_state))

            captured = self._undisturbed(0, watched, noise=False)
            # Of a model that runs its members by itself, (members, rows, ...) becomes (rows, members, ...).
            members_first = self.members is not None and not self.stacked
            rows_first = {k: v.movedim(1, 0) if members_first else v for k, v in captured.values.items()}
            return replace(captured, values={k: checks.thinned(v) for k, v in rows_first.items()}, outputs=outputs)

        dtypes = [getattr(torch, la.dtype) for la in self.layers] + [p.dtype for p in self.model.parameters()]
        dtypes += [] if self.settings.autocast is None else [self.settings.autocast]
        rel_tol = checks.tolerance(dtypes, self.device)
        # In a job whose ranks pass together, none may make a pass more than the others.
        alone = self.ranks.share != "rows" and not is_sharded(self.model)
        self.state = checks.look_at_rows(once, self.probe, rows, self.captures, rel_tol, alone=alone)

    def measure(self, step: int, allocate: Allocate) -> Captured:
        """A pass over the whole probe: each layer as it is now, with values (rows, *units), or why it is lost."""
        modules = named_modules(self.model)
        chunks = self.probe.chunks(self.batch_size)
        gone: dict[str, Exception] = {}
        for c in self.captures:
            c.named = modules.get(c.named.name, c.named)  # a module may have been replaced since the last pass
            if c.named.name not in modules:
                text = f"{printable(repr(c.layer.key))} is no longer part of {printable(type(self.model).__name__)}"
                gone[c.layer.key] = ValueError(f"recorded layer {text}")
        present = [c for c in self.captures if c.layer.key not in gone]
        current = Pass(present, self.probe.samples, allocate, self.device, self.members)
        captured = self._undisturbed(step, lambda run: current.run(run, chunks, modules))
        if on_accelerator(self.device) and any(not on_accelerator(v.device) for v in captured.values.values()):
            torch.accelerator.synchronize(self.device)  # the copies into host memory
        self._update(captured.layers)
        return replace(captured, lost={**gone, **captured.lost})

    def _update(self, layers: Iterable[Layer]) -> None:
        """Remember the layers with the shapes and types that they had in this pass."""
        now = {layer.key: layer for layer in layers}
        for c in self.captures:
            c.layer = now.get(c.layer.key, c.layer)

    def _capture_first(self, run: Run, captures: Sequence[Capture], chunk: Chunk, flow: Flow | None = None) -> Captured:
        """What the captures give on one chunk; of members with a stacked state only the first runs."""
        members = None if self.stacked else self.members
        current = Pass(captures, len(chunk[2]), Pool().take, self.device, members, flow)
        return current.run(run, [chunk], named_modules(self.model))

    def _undisturbed(self, step: int, work: Callable[[Run], T], *, noise: bool = True, flow: Flow | None = None) -> T:
        """Return `work(run)`, leaving model and random state as they were; run(inputs, pass number) is a forward pass.

        Without `noise` layers add none of the noise that was injected; `flow` follows what depends on the inputs.
        """
        device = self.device

        def started() -> T:
            """Do the work, once all ranks are there."""
            self.ranks.enter_pass(self.model)
            return work(self._run(step, device, noise, flow))

        try:
            return self._surroundings.undisturbed(started, device)
        except Exception as error:
            advice = f" in chunks of {self.batch_size} samples; take a smaller probe_batch_size, or reduce large layers"
            no_memory = isinstance(error, torch.OutOfMemoryError)
            error.add_note(f"while recording step {step} on the probe set{advice if no_memory else ''}")
            raise

    def _run(self, step: int, device: torch.device, noise: bool, flow: Flow | None) -> Run:
        """Return the function `run(inputs, pass number)` that runs the model; each pass has its own random numbers."""
        weights = self.model.parameters() if self.members is None else self.members.tensors or self.model.parameters()
        dtypes = frozenset(p.dtype for p in weights if p.is_floating_point())
        current: int | None = None  # number of the pass under way, whose random numbers are seeded at its first chunk

        @stepwise
        def run(inputs: Inputs, pass_number: int = 0, outputs: Callable[[], list[Tensor]] | None = None) -> Any:
            """Run the model, and return its output.

            With members under vmap return what `outputs()` gave in it, for all members; without `outputs` run the first
            member alone.
            """
            nonlocal current
            if pass_number != current:
                current = pass_number
                seed = np.random.SeedSequence([self.settings.seed, step, pass_number]).generate_state(1, np.uint32)[0]
                generator = seed_generators(device, int(seed))
                draw_noise_from(self.model, generator if noise else "off")
            moved = inputs.to(device, dtypes)
            if flow is not None:
                flow.start(moved.tensors)
            if self.members is not None and self.stacked:
                if outputs is None:
                    return self.members.run_first(self.model, moved)
                return self.members.run_all(self.model, moved, outputs)
            forward = self.model if self.settings.forward is None else partial(self.settings.forward, self.model)
            return forward(*moved.args, **moved.kwargs)

        return run

    def _markov(self, parents: dict[int, frozenset[int]]) -> bool | list[str]:
        """True if all layers form a Markov chain, else the keys of two or more that do, or False.

        `parents` has the layers, by their number, on which each depends directly.
        """
        lossless = [i for i, c in enumerate(self.captures) if is_lossless(c.reduction, c.layer.raw_shape)]
        chained = markov_chain(parents, lossless)
        if len(chained) < 2:
            return False
        return len(chained) == len(self.layers) or [self.layers[i].key for i in chained]

    def _warn_of_layers(self, modules: Mapping[str, Named]) -> None:
        """Warn of layers that are not recorded, and of those that depend on the size of the chunks."""
        missing = {n: why for n, why in self.skipped.items() if "passes its input on" not in why}
        if missing:
            name, why = next(iter(missing.items()))
            warn(f"{len(missing)} layers are not recorded (all in recorder.skipped), first {name!r}: {why}")
        norms = [n for n, m in modules.items() if isinstance(m.module, _BatchNorm) and m.module.running_mean is None]
        if norms:
            depends = f"activations depend on probe_batch_size={self.batch_size}"
            warn(f"layer {norms[0]!r} normalises by the statistics of each batch: {depends}")
