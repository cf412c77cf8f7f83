"""The probe pass: hooks for its duration only; each value is taken, reduced, and copied into its buffer at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from infoplane.core.records import Layer
from infoplane.core.warn import warn
from infoplane.hooks._pass.calls import (
    Attached,
    call_value,
    choose,
    dense,
    tensors_of,
    type_name,
    watch_ops,
    with_hooks,
)
from infoplane.hooks._pass.members import Members
from infoplane.hooks._problems import Failed, NotCalled, outcome, raise_any
from infoplane.hooks.noise import noise_of
from infoplane.hooks.probe import Inputs
from infoplane.hooks.reduce import Flatten, Function, Reduction, ReductionError, keeps_values
from infoplane.hooks.select import Named

HALF_MAX = 65504.0

Chunk = tuple[int, int, Inputs, int]
"""First row, one past the last, inputs, and which pass."""
Mark = Callable[[Tensor, Layer], None]


@dataclass(frozen=True, eq=False)
class Capture:
    """One tensor to record: where it is found, and what is done to it before the copy.

    `runs` is how often the module, or the function `op` in it, is called in one forward pass; `owner` is the
    module's name.
    """

    layer: Layer
    module: nn.Module
    reduction: Reduction
    owner: str = ""
    op: str = ""
    runs: int = 1
    batch_dim: int | None = None  # the first axis, where the user has not given it
    dtype: torch.dtype | None = None


@dataclass(eq=False)
class Slot:
    """Collects one capture over the chunks of a pass.

    With `members` the buffer has their axis first. `member_axis` is where the captured tensor has it; under vmap
    it has none, each hook seeing one member.
    """

    capture: Capture
    rows: int
    allocate: Callable[[tuple[int, ...], torch.dtype], Tensor]
    members: int = 0
    member_axis: int | None = None
    buffer: Tensor | None = None
    raw_shape: tuple[int, ...] = ()
    unreduced: Tensor | None = None
    """The buffer in the output's own shape, where values go in as they are."""
    clean: bool = False
    """Whether values are taken ahead of the noise that their layer has."""

    def __post_init__(self) -> None:
        self.expected = self._expected()

    def _expected(self) -> tuple[torch.Size, torch.dtype] | None:
        """Shape of a sample and dtype, as in the pass before; None where values are not stored as they come."""
        layer, wanted = self.capture.layer, self.capture.dtype
        elsewhere = layer.path or self.members or self.capture.batch_dim
        if elsewhere or not layer.unit_shape or not isinstance(self.capture.reduction, Flatten):
            return None
        dtype: torch.dtype = getattr(torch, layer.dtype)
        cast = wanted not in (None, dtype) and dtype.is_floating_point
        return None if cast else (torch.Size(layer.raw_shape), dtype)

    def copy_unreduced(self, value: Any, start: int, stop: int) -> bool:
        """Copy an output that comes as expected, and tell whether it did; `extract` and `store` take any other."""
        # This runs once per layer and chunk, and is what a small network's probe costs.
        if self.unreduced is None:
            if self.expected is None or self.buffer is not None or not isinstance(value, Tensor):
                return False
            shape, dtype = self.expected
            if value.dtype is not dtype or value.shape[1:] != shape or value.layout is not torch.strided:
                return False
            self.raw_shape = tuple(shape)
            self.buffer = self.allocate((self.rows, *self.capture.layer.unit_shape), dtype)
            self.unreduced = self.buffer.view(self.rows, *shape)
        place = self.unreduced[start:stop]
        # Models that take gradients inside switch autograd on again: what is stored has no history even then.
        value = value.detach() if isinstance(value, Tensor) and value.requires_grad else value
        if type(value) is not Tensor or value.shape != place.shape or value.dtype is not place.dtype:
            return False
        place.copy_(value, non_blocking=True)
        return True

    def is_clean(self, output: Tensor) -> bool:
        """Whether noise of this output is the same noise in every stored value, so that it can be left to analysis."""
        self.clean = keeps_values(self.capture.reduction, tuple(output.shape[1 if self.member_axis is None else 2 :]))
        return self.clean

    def extract(self, value: Any, rows: int, mask: Tensor | None, mark: Mark | None) -> Tensor:
        """The reduced values of one chunk, (rows, *units) or (members, rows, *units)."""
        key = self.capture.layer.key
        tensor = self._tensor(value).detach()
        if mark is not None:
            mark(tensor, self.capture.layer)
        if self.member_axis is not None:
            return self._reduce_members(tensor, rows, mask)
        if self.capture.batch_dim:
            tensor = tensor.movedim(self.capture.batch_dim, 0)
        if tensor.ndim == 0 or len(tensor) != rows:
            raise ValueError(wrong_rows(key, tuple(tensor.shape), rows))
        self.raw_shape = tuple(tensor.shape[1:])
        return self._reduce(tensor, mask)

    def _reduce_members(self, tensor: Tensor, rows: int, mask: Tensor | None) -> Tensor:
        tensor = tensor.movedim(self.member_axis or 0, 0)
        tensor = tensor.movedim((self.capture.batch_dim or 0) + 1, 1)
        if tuple(tensor.shape[:2]) != (self.members, rows):
            raise ValueError(
                f"layer {self.capture.layer.key!r} should have {self.members} members at axis {self.member_axis} and "
                f"{rows} rows, got shape {tuple(tensor.shape)} with these two axes first"
            )
        self.raw_shape = tuple(tensor.shape[2:])
        repeated = None if mask is None else mask.repeat(self.members, 1)
        reduced = self._reduce(tensor.reshape(self.members * rows, *self.raw_shape), repeated)
        return reduced.reshape(self.members, rows, *reduced.shape[1:])

    def store(self, values: Tensor, start: int, stop: int) -> None:
        """Copy the values of rows start to stop into the buffer."""
        values = values.detach()  # a reduction may have brought in weights
        key = self.capture.layer.key
        lead = 1 if self.members else 0
        shape = tuple(values.shape[lead + 1 :])
        dtype = (self.capture.dtype or values.dtype) if values.dtype.is_floating_point else values.dtype
        if dtype.is_complex:
            raise TypeError(f"layer {key!r} is complex; record a real reduction of it, as reduce=torch.view_as_real")
        if self.buffer is None:
            self.buffer = self.allocate((*values.shape[:lead], self.rows, *shape), dtype)
        elif shape != tuple(self.buffer.shape[lead + 1 :]):
            raise ValueError(
                f"layer {key!r} has shape {shape} for samples {start} to {stop - 1} and "
                f"{tuple(self.buffer.shape[lead + 1 :])} before; pad the probe to one length, or reduce with a mask "
                "(reduce='mean' or 'last' with mask=)"
            )
        elif dtype != self.buffer.dtype:
            raise ValueError(f"layer {key!r} changes its dtype within the probe: {self.buffer.dtype}, then {dtype}")
        if dtype is torch.float16 and values.dtype is not torch.float16:
            _check_half(values, key)
        self.buffer.narrow(lead, start, stop - start).copy_(values, non_blocking=True)

    def _tensor(self, value: Any) -> Tensor:
        layer = self.capture.layer
        found = tensors_of(value)
        if layer.path not in found:
            choose(found, layer.path, f"the {layer.site}put of layer {layer.key}", type_name(value))
        return dense(found[layer.path], f"layer {layer.key!r}")

    def _reduce(self, tensor: Tensor, mask: Tensor | None) -> Tensor:
        try:
            return self.capture.reduction(tensor, mask)
        except ReductionError as error:
            raise ValueError(f"layer {self.capture.layer.key!r} {error}") from None
        except Exception as error:
            if isinstance(self.capture.reduction, Function):
                error.add_note(f"in the reduction of layer {self.capture.layer.key!r}")
            raise

    def result(self) -> tuple[Layer, Tensor]:
        assert self.buffer is not None  # a layer that did not run was reported before
        noise = noise_of(self.capture.module) if self.capture.layer.site == "out" and not self.capture.op else None
        noise = None if noise is None else replace(noise, clean=self.clean)
        if self.unreduced is not None and noise == self.capture.layer.noise:
            return self.capture.layer, self.buffer
        layer = replace(
            self.capture.layer,
            unit_shape=tuple(self.buffer.shape[2 if self.members else 1 :]),
            raw_shape=self.raw_shape,
            dtype=str(self.buffer.dtype).removeprefix("torch."),
            reduction=self.capture.reduction.label(self.raw_shape),
            noise=noise,
        )
        return layer, self.buffer


def wrong_rows(key: str, shape: tuple[int, ...], rows: int) -> str:
    """The error for an output whose first axis is not the samples."""
    others = [i for i, n in enumerate(shape) if n == rows and i > 0]
    advice = (
        f"its samples may be axis {others[0]}: pass batch_dim={{{key!r}: {others[0]}}}"
        if others
        else "leave it out, or reduce inside the model to one row per sample"
    )
    return f"layer {key!r} should have {rows} rows, one per sample, got shape {shape}; {advice}"


def _check_half(values: Tensor, key: str) -> None:
    """Float16 must not make infinities; where it makes many zeros, say so."""
    finite = values[torch.isfinite(values)]
    largest = float(finite.abs().max()) if finite.numel() else 0.0
    if largest > HALF_MAX:
        raise ValueError(
            f"layer {key!r} reaches {largest:.6g}, beyond float16 (65504); store it as bfloat16 or float32"
        )
    nonzero = int(torch.count_nonzero(values))
    lost = nonzero - int(torch.count_nonzero(values.half()))
    if lost > 1e-3 * nonzero:
        warn(f"float16 makes {lost} of {nonzero} nonzero values of layer {key!r} zero; store it as bfloat16 or float32")


class _Station:
    """The hooks of one module, or of one function in it: counts the calls and passes values on to their slots."""

    def __init__(self, slots: list[Slot], current: _Pass) -> None:
        self.slots = slots
        self.current = current
        self.begun = self.ended = 0
        self._ins = [(s.capture.layer.call, s) for s in slots if s.capture.layer.site == "in"]
        self._outs = [(s.capture.layer.call, s) for s in slots if s.capture.layer.site == "out"]

    def attach(self, attached: Attached) -> None:
        module = self.slots[0].capture.module
        if self._ins:
            attached.before(module, self.before)
        if self._outs:
            # After everything else that changes the output, but for the noise.
            if noise_of(module) is not None:
                attached.after(module, self.ahead_of_noise, first=True)
            attached.after(module, self.after)

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for call, slot in self._ins:
            if call == self.begun:
                self.current.put(slot, call_value(args, kwargs))
        self.begun += 1

    def ahead_of_noise(self, module: nn.Module, args: Any, output: Any) -> None:
        for call, slot in self._outs:
            if call == self.ended and slot.is_clean(output):
                self.current.put(slot, output)

    def after(self, module: nn.Module, args: Any, output: Any) -> None:
        current = self.current
        for call, slot in self._outs:
            if call != self.ended or slot.clean:
                continue
            # A small network's probe consists of such lines: no further call stands between a hook and its copy.
            if not (current.direct and slot.copy_unreduced(output, current.start, current.stop)):
                current.put(slot, output)
        self.ended += 1

    def function(self, output: Any) -> None:
        self.begun += 1
        self.after(self.slots[0].capture.module, (), output)


class _Pass:
    """The chunk under way, and the layers that are lost."""

    def __init__(self, slots: list[Slot], mark: Mark | None, *, batched: bool) -> None:
        self.slots = slots
        self.stations: list[_Station] = []
        self.lost: dict[Slot, Exception] = {}
        self._mark = mark
        self._batched = batched
        self._kept: dict[Slot, Tensor] = {}  # until the batched function returns them
        self.direct = mark is None and not batched
        self.start = self.stop = 0
        self._mask: Tensor | None = None

    def put(self, slot: Slot, value: Any) -> None:
        """Take a value with all checks."""
        if slot not in self.lost:
            self._attempt(slot, lambda: self._extract(slot, value))

    def _attempt(self, slot: Slot, work: Callable[[], None]) -> None:
        """An error is kept, and ends neither the forward pass nor the other layers."""
        found = outcome(work)
        if isinstance(found, Failed):
            self.lost[slot] = found.error

    def _extract(self, slot: Slot, value: Any) -> None:
        values = slot.extract(value, self.stop - self.start, self._mask, self._mark)
        if self._batched:
            self._kept[slot] = values.clone()  # what runs later may work in place on the output
        else:
            slot.store(values, self.start, self.stop)

    def run(self, forward: Callable[..., Any], chunk: Chunk, mask: Tensor | None) -> None:
        """Run the model on one chunk."""
        self.start, self.stop, inputs, which = chunk
        self._mask = mask
        for station in self.stations:
            station.begun = station.ended = 0
        if not self._batched:
            forward(inputs, which)
            self._count_calls()
            return
        there: list[Slot] = []

        def outputs() -> list[Tensor]:
            self._count_calls()
            there[:] = [slot for slot in self.slots if slot not in self.lost]
            values = [self._kept[slot] for slot in there]
            self._kept.clear()
            return values

        for slot, values in zip(there, forward(inputs, which, outputs=outputs), strict=True):
            self._attempt(slot, partial(slot.store, values, self.start, self.stop))

    def _count_calls(self) -> None:
        """After a chunk: layers of modules that ran more or less often are lost."""
        for station in self.stations:
            ran = max(station.begun, station.ended)
            for slot in station.slots:  # all of them: which of the module's calls is which cannot be known then
                if ran != slot.capture.runs:
                    self.lost.setdefault(slot, NotCalled.counted(slot.capture.layer.key, ran, slot.capture.runs))


@dataclass(frozen=True)
class Captured:
    """The layers of one pass with their values, and those that are missing by name, with the reason."""

    layers: list[tuple[Layer, Tensor]]
    lost: dict[str, Exception]

    def whole(self) -> list[tuple[Layer, Tensor]]:
        """All layers; raises where one is missing."""
        raise_any(self.lost)
        return self.layers


def capture(
    forward: Callable[..., Any],
    captures: Iterable[Capture],
    chunks: Iterable[Chunk],
    rows: int,
    allocate: Callable[[tuple[int, ...], torch.dtype], Tensor],
    modules: Mapping[str, Named],
    mask: Callable[[Inputs], Tensor | None] = lambda inputs: None,
    mark: Mark | None = None,
    members: Members | None = None,
) -> Captured:
    """Run `forward(inputs, pass)` over the chunks and return each layer as it came, with its values (rows, *units).

    With `members` the values are (members, rows, *units); those with a stacked state run as
    `forward(inputs, pass, outputs=...)`, which returns what `outputs` gave inside. A layer that ran another number
    of times than was planned, or whose values cannot be taken, is among the lost, with the reason.
    """
    count, axis = (0, None) if members is None else (members.count, members.axis)
    slots = [Slot(one, rows, allocate, count, axis) for one in captures]
    current = _Pass(slots, mark, batched=members is not None and members.state is not None)
    by_place: dict[tuple[str, str], list[Slot]] = {}
    for slot in slots:
        by_place.setdefault((slot.capture.owner, slot.capture.op), []).append(slot)
    stations = {place: _Station(group, current) for place, group in by_place.items()}
    current.stations = list(stations.values())

    def run(attached: Attached) -> None:
        for named in modules.values():
            attached.let_stop(named.module)
        for (_, op), station in stations.items():
            if not op:
                station.attach(attached)
        if any(op for _, op in stations):
            watch_ops(attached, modules, called, passes)
        else:
            passes()

    def called(module: str, op: str, args: Any, out: Any) -> None:
        if (module, op) in stations:
            stations[module, op].function(out)

    def passes() -> None:
        for chunk in chunks:
            current.run(forward, chunk, mask(chunk[2]))

    with_hooks(run)
    lost = {slot.capture.layer.key: error for slot, error in current.lost.items()}
    return Captured([slot.result() for slot in slots if slot not in current.lost], lost)
