"""The probe pass: hooks for its duration only, values copied inside them into buffers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from infoplane.core.records import Layer
from infoplane.hooks._pass.attached import Attached, watch_ops, with_hooks
from infoplane.hooks._pass.members import Members
from infoplane.hooks._pass.slot import Capture, Slot
from infoplane.hooks._pass.structure import call_value
from infoplane.hooks._problems import Failed, NotCalled, all_of, outcome
from infoplane.hooks.noise import noise_of
from infoplane.hooks.probe import Inputs
from infoplane.hooks.select import Named

Chunk = tuple[int, int, Inputs, int]


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
                self.current.take(slot, output)

    def after(self, module: nn.Module, args: Any, output: Any) -> None:
        for call, slot in self._outs:
            if call == self.ended and not slot.clean:
                self.current.take(slot, output)
        self.ended += 1

    def function(self, output: Any) -> None:
        self.begun += 1
        self.after(self.slots[0].capture.module, (), output)


class _Pass:
    """The chunk under way, and the layers that are lost."""

    def __init__(self, slots: list[Slot], mark: Callable[[Tensor, Layer], None] | None, *, batched: bool) -> None:
        self.slots = slots
        self.stations: list[_Station] = []
        self.lost: dict[Slot, Exception] = {}
        self._mark = mark
        self._batched = batched
        self._kept: dict[Slot, Tensor] = {}  # until the batched function returns them
        self._direct = mark is None and not batched
        self._start = self._stop = 0
        self._mask: Tensor | None = None

    def take(self, slot: Slot, output: Any) -> None:
        """Take an output, the short way if that can be."""
        if not (self._direct and slot.copy_unreduced(output, self._start, self._stop)):
            self.put(slot, output)

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
        mark, layer = self._mark, slot.capture.layer
        rows = self._stop - self._start
        values = slot.extract(value, rows, self._mask, None if mark is None else lambda t: mark(t, layer))
        if self._batched:
            self._kept[slot] = values.clone()  # what runs later may work in place on the output
        else:
            slot.store(values, self._start, self._stop)

    def run(self, forward: Callable[..., Any], chunk: Chunk, mask: Tensor | None) -> None:
        """Run the model on one chunk."""
        self._start, self._stop, inputs, which = chunk
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
            self._attempt(slot, partial(slot.store, values, self._start, self._stop))

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
    count, axis = (0, None) if members is None else (members.count, members.axis)
    slots = [Slot(one, rows, allocate, count, axis) for one in captures]
    current = _Pass(slots, mark, batched=members is not None and members.state is not None)
    by_module: dict[tuple[int, str], list[Slot]] = {}
    for slot in slots:
        by_module.setdefault((id(slot.capture.module), slot.capture.op), []).append(slot)

    def run(attached: Attached) -> None:
        functions: dict[tuple[str, str], _Station] = {}
        for named in modules.values():
            attached.let_stop(named.module)
        for group in by_module.values():
            station, first = _Station(group, current), group[0].capture
            current.stations.append(station)
            if first.op:
                functions[first.owner, first.op] = station
            else:
                station.attach(attached)

        def called(module: str, op: str, args: Any, out: Any) -> None:
            if (module, op) in functions:
                functions[module, op].function(out)

        if functions:
            watch_ops(attached, modules, called, passes)
        else:
            passes()

    def passes() -> None:
        for chunk in chunks:
            current.run(forward, chunk, mask(chunk[2]))

    with_hooks(run)
    lost = {slot.capture.layer.key: error for slot, error in current.lost.items()}
    return Captured([slot.result() for slot in slots if slot not in current.lost], lost)
