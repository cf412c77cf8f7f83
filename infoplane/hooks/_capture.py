"""The probe pass: hooks for its duration only, values copied inside them into buffers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from infoplane.core.records import Layer
from infoplane.hooks._attached import Attached, with_hooks
from infoplane.hooks._inputs import Inputs
from infoplane.hooks._members import Members
from infoplane.hooks._names import Named
from infoplane.hooks._ops import watch_ops
from infoplane.hooks._problems import Failed, NotCalled, all_of, outcome
from infoplane.hooks._structure import call_value, choose, dense, tensors_of, type_name
from infoplane.hooks.noise import noise_of
from infoplane.hooks.reduce import Flatten, Function, Reduction, ReductionError, keeps_values

Chunk = tuple[int, int, Inputs, int]
HALF_MAX = 65504.0


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
    batch_dim: int = 0
    batch_dim_given: bool = False
    dtype: torch.dtype | None = None


@dataclass(eq=False)
class _Slot:
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
    clean: bool = True
    """Whether values are taken before the noise of their layer, where it has one."""

    def __post_init__(self) -> None:
        layer = self.capture.layer
        # Shape and dtype are those of the pass before; None where the usual way has to be taken.
        self.usual: tuple[torch.Size, torch.dtype] | None = None
        plain = isinstance(self.capture.reduction, Flatten) and not (
            layer.path or self.members or self.capture.batch_dim
        )
        if plain and layer.unit_shape:
            dtype: torch.dtype = getattr(torch, layer.dtype)
            if self.capture.dtype in (None, dtype) or not dtype.is_floating_point:
                self.usual = torch.Size(layer.raw_shape), dtype

    def put_as_usual(self, value: Any, start: int, stop: int) -> bool:
        """Copy an output that comes as in the pass before, without the checks of the long way; else say False.

        This runs once per layer and chunk, and is what a small network's probe costs.
        """
        if self.unreduced is None:
            if self.usual is None or self.buffer is not None or not isinstance(value, Tensor):
                return False
            shape, dtype = self.usual
            if value.dtype is not dtype or value.shape[1:] != shape or value.layout is not torch.strided:
                return False
            self.raw_shape = tuple(shape)
            self.buffer = self.allocate((self.rows, *self.capture.layer.unit_shape), dtype)
            self.unreduced = self.buffer.view(self.rows, *shape)
        place = self.unreduced[start:stop]
        if type(value) is not Tensor or value.shape != place.shape or value.dtype is not place.dtype:
            return False
        place.copy_(value, non_blocking=True)
        return True

    def before_noise(self, output: Tensor) -> bool:
        """Whether noise of this output is the same noise in every stored value, so that it can be left to analysis."""
        self.clean = keeps_values(self.capture.reduction, tuple(output.shape[1 if self.member_axis is None else 2 :]))
        return self.clean

    def extract(self, value: Any, rows: int, mask: Tensor | None, mark: Callable[[Tensor], None] | None) -> Tensor:
        """The reduced values of one chunk, (rows, *units) or (members, rows, *units)."""
        key = self.capture.layer.key
        tensor = self._tensor(value)
        if mark is not None:
            mark(tensor)
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
        tensor = tensor.movedim(self.capture.batch_dim + 1, 1)
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
        if isinstance(value, Tensor) and not layer.path:
            return dense(value, f"layer {layer.key!r}")
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
        reduction = self.capture.reduction.label(self.raw_shape)
        layer = replace(
            self.capture.layer,
            unit_shape=tuple(self.buffer.shape[2 if self.members else 1 :]),
            raw_shape=self.raw_shape,
            dtype=str(self.buffer.dtype).removeprefix("torch."),
            reduction=reduction,
            noise=noise,
        )
        return layer, self.buffer


@dataclass(eq=False)
class _Station:
    """The hooks of one module: counts its calls and passes values on to the slots of that call."""

    slots: list[_Slot]
    current: _Pass
    begun: int = 0
    ended: int = 0

    def __post_init__(self) -> None:
        places = [(s.capture.layer.site, s.capture.layer.call, s) for s in self.slots]
        self._ins = [(call, slot) for site, call, slot in places if site == "in"]
        self._outs = [(call, slot) for site, call, slot in places if site == "out"]

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for call, slot in self._ins:
            if call == self.begun:
                self.current.put(slot, call_value(args, kwargs))
        self.begun += 1

    def after(self, module: nn.Module, args: Any, output: Any) -> None:
        current = self.current
        for call, slot in self._outs:
            if call == self.ended and not (current.direct and slot.put_as_usual(output, current.start, current.stop)):
                current.put(slot, output)
        self.ended += 1

    def after_clean(self, module: nn.Module, args: Any, output: Any) -> None:
        """Ahead of the noise hook; `after_noise` does the rest."""
        for call, slot in self._outs:
            if call != self.ended or not slot.before_noise(output):
                continue
            if not (self.current.direct and slot.put_as_usual(output, self.current.start, self.current.stop)):
                self.current.put(slot, output)

    def after_noise(self, module: nn.Module, args: Any, output: Any) -> None:
        for call, slot in self._outs:
            if call == self.ended and not slot.clean:
                self.current.put(slot, output)
        self.ended += 1

    def function(self, output: Any) -> None:
        self.begun += 1
        self.after(self.slots[0].capture.module, (), output)


@dataclass(eq=False)
class _Pass:
    """The chunk under way. Values are stored at once, or `kept` until the batched function returns them."""

    mark: Callable[[Tensor, Layer], None] | None
    kept: dict[_Slot, Tensor] | None = None
    start: int = 0
    stop: int = 0
    mask: Tensor | None = None
    stations: list[_Station] = field(default_factory=list)
    lost: dict[_Slot, Exception] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.direct = self.mark is None and self.kept is None

    def put(self, slot: _Slot, value: Any) -> None:
        """Take a value. An error is kept, and ends neither the forward pass nor the other layers."""
        if slot not in self.lost:
            found = outcome(lambda: self._take(slot, value))
            if isinstance(found, Failed):
                self.lost[slot] = found.error

    def _take(self, slot: _Slot, value: Any) -> None:
        mark = self.mark
        layer = slot.capture.layer
        rows = self.stop - self.start
        values = slot.extract(value, rows, self.mask, None if mark is None else lambda t: mark(t, layer))
        if self.kept is None:
            slot.store(values, self.start, self.stop)
        else:
            self.kept[slot] = values.clone()  # what runs later may work in place on the output

    def store(self, slot: _Slot, values: Tensor) -> None:
        """The values of a chunk, of all members, that left the batched function."""
        found = outcome(lambda: slot.store(values, self.start, self.stop))
        if isinstance(found, Failed):
            self.lost[slot] = found.error

    def count_calls(self) -> None:
        """After a chunk: layers of modules that ran more or less often are lost.

        All of a module are: which of its calls is which cannot be known then.
        """
        for station in self.stations:
            ran = max(station.begun, station.ended)
            for slot in station.slots:
                if ran != slot.capture.runs:
                    self.lost.setdefault(slot, NotCalled.counted(slot.capture.layer.key, ran, slot.capture.runs))


@dataclass(frozen=True)
class Captured:
    """The layers of one pass with their values, and those that are missing by name, with the reason."""

    layers: list[tuple[Layer, Tensor]]
    lost: dict[str, Exception]

    def whole(self) -> list[tuple[Layer, Tensor]]:
        """All layers; raises where one is missing."""
        if self.lost:
            raise all_of(self.lost)
        return self.layers


def capture(
    forward: Callable[..., Any],
    captures: Iterable[Capture],
    chunks: Iterable[Chunk],
    rows: int,
    allocate: Callable[[tuple[int, ...], torch.dtype], Tensor],
    modules: Mapping[str, Named],
    mask: Callable[[Inputs], Tensor | None] = lambda inputs: None,
    mark: Callable[[Tensor, Layer], None] | None = None,
    members: Members | None = None,
) -> Captured:
    """Run `forward(inputs, pass)` over the chunks and return each layer as it came, with its values (rows, *units).

    With `members` the values are (members, rows, *units); those with a stacked state run as
    `forward(inputs, pass, outputs=...)`, which returns what `outputs` gave inside. A layer that ran another number
    of times than was planned, or whose values cannot be taken, is among the lost, with the reason.
    """
    many = 0 if members is None else members.count
    slots = [_Slot(c, rows, allocate, many, None if members is None else members.axis) for c in captures]
    batched = members is not None and members.state is not None
    current = _Pass(mark, {} if batched else None)
    by_module: dict[tuple[int, str], list[_Slot]] = {}
    for slot in slots:
        by_module.setdefault((id(slot.capture.module), slot.capture.op), []).append(slot)

    def run(attached: Attached) -> None:
        functions: dict[tuple[str, str], _Station] = {}
        for group in by_module.values():
            station = _Station(group, current)
            current.stations.append(station)
            first = group[0].capture
            if first.op:
                functions[first.owner, first.op] = station
            else:
                _attach(attached, first.module, station, {s.capture.layer.site for s in group})
        if functions:
            watch_ops(attached, modules, _to_stations(functions), passes)
        else:
            passes()

    def passes() -> None:
        for chunk in chunks:
            current.start, current.stop = chunk[0], chunk[1]
            current.mask = mask(chunk[2])
            for station in current.stations:
                station.begun = station.ended = 0
            if current.kept is None:
                forward(chunk[2], chunk[3])
                current.count_calls()
                continue
            kept, there = current.kept, list[_Slot]()

            def outputs(kept: dict[_Slot, Tensor] = kept, there: list[_Slot] = there) -> list[Tensor]:
                current.count_calls()
                there[:] = [slot for slot in slots if slot not in current.lost]
                values = [kept[slot] for slot in there]
                kept.clear()
                return values

            for slot, values in zip(there, forward(chunk[2], chunk[3], outputs=outputs), strict=True):
                current.store(slot, values)

    with_hooks(run)
    lost = {slot.capture.layer.key: error for slot, error in current.lost.items()}
    return Captured([slot.result() for slot in slots if slot not in current.lost], lost)


def _attach(attached: Attached, module: nn.Module, station: _Station, sites: set[str]) -> None:
    if "in" in sites:
        attached.before(module, station.before)
    if "out" in sites:
        # Before the noise and after everything else that changes the output.
        noisy = noise_of(module) is not None
        if noisy:
            attached.after(module, station.after_clean, first=True)
        attached.after(module, station.after_noise if noisy else station.after)


def _to_stations(functions: Mapping[tuple[str, str], _Station]) -> Callable[[str, str, Any, Any], None]:
    def seen(module: str, op: str, args: Any, out: Any) -> None:
        station = functions.get((module, op))
        if station is not None:
            station.function(out)

    return seen


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
        warnings.warn(
            f"float16 makes {lost} of {nonzero} nonzero values of layer {key!r} zero; store it as bfloat16 or float32",
            stacklevel=8,
        )
