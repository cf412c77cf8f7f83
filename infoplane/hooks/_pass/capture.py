"""The probe pass: hooks for its duration only; each value is taken, reduced, and copied into its buffer at once."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from infoplane.core.records import Layer
from infoplane.core.warn import warn
from infoplane.hooks._out.host import Allocate
from infoplane.hooks._pass.calls import (
    Attached,
    choose,
    dense,
    tensors_in,
    type_name,
    watch_ops,
    with_hooks,
)
from infoplane.hooks._pass.members import Members
from infoplane.hooks._pass.observe import Flow
from infoplane.hooks._problems import Failed, NotCalled, outcome, raise_any
from infoplane.hooks.noise import noise_of
from infoplane.hooks.probe import Inputs
from infoplane.hooks.reduce import Flatten, Function, Reduction, ReductionError, is_lossless, keeps_values
from infoplane.hooks.select import Named

HALF_MAX = 65504.0
"""The largest number that float16 has."""

Chunk = tuple[int, int, Inputs, int]
"""First row, one past the last, inputs, and the number of the pass over the probe (0, or that of a repeat)."""


@dataclass(eq=False)
class Capture:
    """One tensor to record: where it is found, and what is done to it before the copy.

    `runs` is how often the module, or the function `op` in it, is called in one forward pass. `layer` and `named` are
    those of the newest pass, which may have found another shape, or another module under the name.
    """

    layer: Layer
    named: Named
    reduction: Reduction
    op: str = ""
    runs: int = 1
    batch_dim: int | None = None  # axis of the samples in the output as the user gave it; None for the first
    dtype: torch.dtype | None = None


@dataclass(frozen=True)
class Captured:
    """The result of one pass: the layers as they came, their values by key, and the errors of those that are `lost`.

    Values are (rows, *units), or (members, rows, *units). `outputs` are the tensors that the model returned, where
    they were asked for.
    """

    layers: tuple[Layer, ...]
    values: Mapping[str, Tensor]
    lost: Mapping[str, Exception]
    outputs: Mapping[str, Tensor] = field(default_factory=dict)

    def whole(self) -> Captured:
        """Return this result if no layer is missing; otherwise raise an error that stands for the missing ones."""
        raise_any(self.lost)
        return self


@dataclass(eq=False)
class Pass:
    """A pass over `rows` rows of the probe with hooks on all captures, and the chunk that is under way.

    A chunk is a piece of the rows that the model gets at once. `allocate` gives memory by shape and dtype, and `flow`
    follows what layers depend on. With `members` every buffer has their axis first. Where they are `batched`, under
    vmap, a hook sees one member, which stands for all.
    """

    captures: Sequence[Capture]
    rows: int
    allocate: Allocate
    device: torch.device
    members: Members | None = None
    flow: Flow | None = None

    def __post_init__(self) -> None:
        """Take memory for the layers that are stored as they come."""
        self.batched = self.members is not None and self.members.state is not None
        self.row_axis = 0 if self.members is None else 1  # of a buffer
        self.start = self.stop = 0  # rows of the chunk under way
        self.mask: Tensor | None = None  # (rows of the chunk, tokens), true where a token is no padding
        self.held: dict[Slot, Tensor] = {}  # values of one member, until the batched function returns those of all
        self._slots = [Slot(capture, self) for capture in self.captures]

    def run(self, forward: Callable[..., Any], chunks: Iterable[Chunk], modules: Mapping[str, Named]) -> Captured:
        """Run `forward(inputs, pass)` over the chunks, and return what was captured.

        Members with a stacked state run as `forward(inputs, pass, outputs)`, which calls `outputs()` under vmap, after
        the model, and returns its tensors with the axis of the members first. A layer that ran another number of times
        than was planned, or whose values cannot be taken, is among the lost.
        """
        slots = self._slots
        of_functions = defaultdict[tuple[str, str], list[Slot]](list)  # by the names of module and function
        for slot in slots:
            if slot.capture.op:
                of_functions[slot.capture.named.name, slot.capture.op].append(slot)

        def called(module: str, op: str, out: Any) -> None:
            """Give the result of a function to the slots that record it."""
            for slot in of_functions.get((module, op), ()):
                slot.after(slot.capture.named.module, (), out)

        def run_chunks() -> None:
            """Run all chunks, one after the other."""
            for chunk in chunks:
                self._run_chunk(forward, chunk)

        def run(attached: Attached) -> None:
            """Attach the hooks of all slots, and run the chunks; functions are watched only where one is recorded."""
            for slot in slots:
                slot.attach(attached)
            if of_functions:
                watch_ops(attached, modules, called, run_chunks)
            else:
                run_chunks()

        with_hooks(run, modules.values())
        self._slots = []  # they refer to this pass: the cycle would keep a device's memory until it is collected
        recorded = [slot for slot in slots if slot.lost is None]
        values = {slot.capture.layer.key: slot.buffer for slot in recorded if slot.buffer is not None}
        lost = {slot.capture.layer.key: slot.lost for slot in slots if slot.lost is not None}
        return Captured(tuple(slot.layer() for slot in recorded), values, lost)

    def _run_chunk(self, forward: Callable[..., Any], chunk: Chunk) -> None:
        """Run one chunk, and store what the hooks took or what a batched function returns."""
        self.start, self.stop, inputs, pass_number = chunk
        self.mask = None if inputs.mask is None else inputs.mask.to(self.device)
        recorded: list[Slot] = []

        def outputs() -> list[Tensor]:
            """End the chunk: check how often modules ran; return the values that a batched function has to return."""
            for slot in self._slots:
                slot.count_calls()
            recorded[:] = [slot for slot in self._slots if slot.lost is None]
            values = [self.held[slot] for slot in recorded if self.batched]
            self.held.clear()
            return values

        for slot in self._slots:
            slot.ran = 0
        if not self.batched:
            forward(inputs, pass_number)
            outputs()
            return
        # What a batched function gives, (members, rows, *units) for each slot, is stored when it has returned.
        for slot, values in zip(recorded, forward(inputs, pass_number, outputs), strict=True):
            slot.attempt(partial(slot.store, values))


class Slot:
    """Collects one capture over the chunks of a pass: its hooks count the calls of a module and take the value of one.

    The buffer has shape (rows, *units), or (members, rows, *units).
    """

    def __init__(self, capture: Capture, current: Pass) -> None:
        """Collect `capture` in the pass `current`; memory is taken at once for a layer that is stored as it comes."""
        self.capture, self.current = capture, current
        self.call = capture.layer.call
        self.ran = 0  # calls within the chunk
        self.lost: Exception | None = None
        self.clean = False  # whether values are taken ahead of the noise that their layer has
        self.raw_shape = capture.layer.raw_shape
        self.buffer: Tensor | None = None
        self.unreduced: Tensor | None = None  # the buffer in the output's own shape, where values go in as they are
        if self._stores_as_it_comes():
            self.buffer = self._allocate(capture.layer.unit_shape, getattr(torch, capture.layer.dtype))
            self.unreduced = self.buffer.view(current.rows, *self.raw_shape)

    def _stores_as_it_comes(self) -> bool:
        """Whether an output like that of the pass before goes into the buffer unchanged."""
        layer = self.capture.layer
        dtype: torch.dtype = getattr(torch, layer.dtype)
        cast = self.capture.dtype not in (None, dtype) and dtype.is_floating_point
        plain = isinstance(self.capture.reduction, Flatten) and not (cast or layer.path or self.capture.batch_dim)
        # Before the first pass `unit_shape` is ().
        return bool(plain and layer.unit_shape) and self.current.members is None

    def _allocate(self, unit_shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Memory for all rows of the pass, and for all members where there are some."""
        members = self.current.members
        lead = () if members is None else (members.count,)
        return self.current.allocate((*lead, self.current.rows, *unit_shape), dtype)

    # -- hooks -----------------------------------------------------------------------------------------

    def attach(self, attached: Attached) -> None:
        """Attach the hooks that count the module's calls and take the value of one; a function takes no hooks."""
        module = self.capture.named.module
        if self.capture.layer.site == "in":
            attached.before(module, self.before)
        elif not self.capture.op:
            # `after` comes last, as other hooks may change the output; `ahead_of_noise` first, before noise is added.
            if noise_of(module) is not None:
                attached.after(module, self.ahead_of_noise, first=True)
            attached.after(module, self.after)

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Hook: take the input of the call that is recorded."""
        if self.ran == self.call:
            self._take(tensors_in(args) | tensors_in(kwargs))
        self.ran += 1

    def ahead_of_noise(self, module: nn.Module, args: Any, output: Tensor) -> None:
        """Hook: take the output before the network's noise is added, where analysis can add that noise."""
        if self.ran == self.call:
            # Where each stored value is one value of the output, with noise of its own, analysis can add that noise.
            row_axis = 0 if self.current.batched else self.current.row_axis  # vmap hides the axis of the members
            self.clean = keeps_values(self.capture.reduction, tuple(output.shape[row_axis + 1 :]))
            if self.clean:
                self._take(output)

    def after(self, module: nn.Module, args: Any, output: Any) -> None:
        """Hook: take the output of the call that is recorded."""
        if self.ran == self.call and not self.clean:
            self._take(output)
        self.ran += 1

    def count_calls(self) -> None:
        """After a chunk, give up the layer if its module ran more or less often than planned."""
        # Whichever call was to be recorded: with another number of calls it is not known which of them is which.
        ran, runs = self.ran, self.capture.runs
        if ran != runs and self.lost is None:
            often = "was not called" if ran == 0 else f"was called {ran} times instead of {runs}"
            self.lost = NotCalled(often, f"{self.capture.layer.key} ({ran} instead of {runs})")

    # -- values ----------------------------------------------------------------------------------------

    def _copied(self, value: Any) -> bool:
        """Copy an output into the buffer if that stores outputs as they are and shape and type fit; return whether."""
        if self.unreduced is None:
            return False
        place = self.unreduced[self.current.start : self.current.stop]
        # Models that take gradients inside switch autograd on again: what is stored has no history even then.
        value = value.detach() if isinstance(value, Tensor) and value.requires_grad else value
        # A subclass of Tensor may copy in a way of its own.
        same = type(value) is Tensor and value.shape == place.shape and value.dtype is place.dtype
        if same and value.layout is torch.strided:
            place.copy_(value, non_blocking=True)
            return True
        return False

    def _take(self, value: Any) -> None:
        """Store a value that a hook was given: by a mere copy where that will do, else reduced."""
        # In a small network most of a probe's time goes into these copies: so nothing is done before the copy.
        if not self._copied(value) and self.lost is None:
            self.attempt(lambda: self._keep(self._extract(value)))

    def attempt(self, work: Callable[[], None]) -> None:
        """Do `work`; keep its error in `lost`, so that it ends neither the forward pass nor the other layers."""
        result = outcome(work)
        if isinstance(result, Failed):
            self.lost = result.error

    def _keep(self, values: Tensor) -> None:
        """Store values, or hold them until the batched function returns those of all members."""
        if self.current.batched:
            self.current.held[self] = values.clone()  # what runs later may work in place on the output
        else:
            self.store(values)

    def _extract(self, value: Any) -> Tensor:
        """The reduced values of one chunk: (rows, *units), or (members, rows, *units) where the model stacks them."""
        current, layer = self.current, self.capture.layer
        tensor = self._tensor(value).detach()
        rows, lead = current.stop - current.start, tuple[int, ...]()  # lead: (members,) where the model stacks them
        if current.members is not None and current.members.axis is not None:
            lead = (current.members.count,)
            tensor = tensor.movedim(current.members.axis, 0)
        if self.capture.batch_dim:
            tensor = tensor.movedim(self.capture.batch_dim + len(lead), len(lead))
        first = (*lead, rows)  # the first axes of a tensor (rows, *shape) or (members, rows, *shape)
        if tuple(tensor.shape[: len(first)]) != first:
            raise ValueError(wrong_rows(layer.key, tuple(tensor.shape), rows, current.members if lead else None))
        self.raw_shape = tuple(tensor.shape[len(first) :])
        if current.flow is not None:
            current.flow.mark(tensor, layer.depth, cuts=is_lossless(self.capture.reduction, self.raw_shape))
        # A reduction knows of rows alone: those of all members, one member after the other.
        mask = current.mask if current.mask is None or not lead else current.mask.repeat(*lead, 1)
        reduced = self._reduce(tensor.reshape(math.prod(first), *self.raw_shape), mask)
        return reduced.reshape(*first, *reduced.shape[1:])

    def _tensor(self, value: Any) -> Tensor:
        """The tensor to record, out of the output of a module or of the tensors in its input by path."""
        layer = self.capture.layer
        tensors = value if layer.site == "in" else tensors_in(value)
        if layer.path not in tensors:  # `choose` raises an error that says what there is
            choose(tensors, layer.path, f"the {layer.site}put of layer {layer.key}", type_name(value))
        return dense(tensors[layer.path], f"layer {layer.key!r}")

    def _reduce(self, tensor: Tensor, mask: Tensor | None) -> Tensor:
        """The tensor (rows, *shape) after its reduction, (rows, *units); errors name the layer."""
        try:
            return self.capture.reduction(tensor, mask)
        except ReductionError as error:
            raise ValueError(f"layer {self.capture.layer.key!r} {error}") from None
        except Exception as error:
            if isinstance(self.capture.reduction, Function):
                error.add_note(f"in the reduction of layer {self.capture.layer.key!r}")
            raise

    def store(self, values: Tensor) -> None:
        """Copy values ([members,] rows, *units) into the buffer; TypeError or ValueError for what does not fit it."""
        values = values.detach()  # a reduction may have brought in weights
        key, row_axis = self.capture.layer.key, self.current.row_axis
        start, stop = self.current.start, self.current.stop
        shape = tuple(values.shape[row_axis + 1 :])
        dtype = (self.capture.dtype or values.dtype) if values.dtype.is_floating_point else values.dtype
        if dtype.is_complex:
            raise TypeError(f"layer {key!r} is complex; record a real reduction of it, as reduce=torch.view_as_real")
        if self.buffer is None or start == 0:  # the first chunk says anew which shape and type the layer has
            self.buffer, self.unreduced = self._allocate(shape, dtype), None
        elif shape != (before := tuple(self.buffer.shape[row_axis + 1 :])):
            advice = "pad the probe to one length, or reduce with a mask (reduce='mean' or 'last' with mask=)"
            found = f"{shape} for samples {start} to {stop - 1} and {before} before"
            raise ValueError(f"layer {key!r} has shape {found}; {advice}")
        elif dtype != self.buffer.dtype:
            raise ValueError(f"layer {key!r} changes its dtype within the probe: {self.buffer.dtype}, then {dtype}")
        if dtype is torch.float16 and values.dtype is not torch.float16:
            _check_half(values, key)
        self.buffer.narrow(row_axis, start, stop - start).copy_(values, non_blocking=True)

    def layer(self) -> Layer:
        """The record of the layer with the shapes, type and noise that this pass found."""
        assert self.buffer is not None  # a layer that did not run was reported before
        capture = self.capture
        noise = noise_of(capture.named.module) if capture.layer.site == "out" and not capture.op else None
        noise = None if noise is None else replace(noise, clean=self.clean)
        if self.unreduced is not None and noise == capture.layer.noise:
            return capture.layer  # it went into the buffer unchanged, so it is as before
        shape = tuple(self.buffer.shape[self.current.row_axis + 1 :])
        dtype, label = str(self.buffer.dtype).removeprefix("torch."), capture.reduction.label(self.raw_shape)
        return replace(
            capture.layer, unit_shape=shape, raw_shape=self.raw_shape, dtype=dtype, reduction=label, noise=noise
        )


def wrong_rows(key: str, shape: tuple[int, ...], rows: int, members: Members | None = None) -> str:
    """The message for an output whose first axis is not that of `rows` samples, or first two with `members`."""
    if members is not None:
        expected = f"{members.count} members at axis {members.axis} and {rows} rows"
        return f"layer {key!r} should have {expected}, got shape {shape} with these two axes first"
    others = [i for i, n in enumerate(shape) if n == rows and i > 0]
    advice = axis_advice(key, others, "leave it out, or reduce inside the model to one row per sample")
    return f"layer {key!r} should have {rows} rows, one per sample, got shape {shape}; {advice}"


def axis_advice(key: str, axes: Sequence[int], otherwise: str) -> str:
    """The end of a message about wrong rows: that the samples may lie on the first of `axes`, or else `otherwise`."""
    return f"its samples may be axis {axes[0]}: pass batch_dim={{{key!r}: {axes[0]}}}" if axes else otherwise


def _check_half(values: Tensor, key: str) -> None:
    """Raise ValueError where float16 would make infinities; warn where it would make many zeros."""
    finite = values[torch.isfinite(values)]
    largest = float(finite.abs().max()) if finite.numel() else 0.0
    if largest > HALF_MAX:
        raise ValueError(f"layer {key!r} reaches {largest:.6g}, beyond float16 (65504); store bfloat16 or float32")
    nonzero = int(torch.count_nonzero(values))
    lost = nonzero - int(torch.count_nonzero(values.half()))
    if lost > 1e-3 * nonzero:  # one in a thousand
        warn(f"float16 makes {lost} of {nonzero} nonzero values of layer {key!r} zero; store it as bfloat16 or float32")
