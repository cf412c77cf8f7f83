"""The probe pass: hooks for its duration only, values copied inside them into buffers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
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


@dataclass(eq=False)
class _Station:
    """The hooks of one module: counts its calls and passes values on to the slots of that call."""

    slots: list[Slot]
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
    kept: dict[Slot, Tensor] | None = None
    start: int = 0
    stop: int = 0
    mask: Tensor | None = None
    stations: list[_Station] = field(default_factory=list)
    lost: dict[Slot, Exception] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.direct = self.mark is None and self.kept is None

    def put(self, slot: Slot, value: Any) -> None:
        """Take a value. An error is kept, and ends neither the forward pass nor the other layers."""
        if slot not in self.lost:
            found = outcome(lambda: self._take(slot, value))
            if isinstance(found, Failed):
                self.lost[slot] = found.error

    def _take(self, slot: Slot, value: Any) -> None:
        mark = self.mark
        layer = slot.capture.layer
        rows = self.stop - self.start
        values = slot.extract(value, rows, self.mask, None if mark is None else lambda t: mark(t, layer))
        if self.kept is None:
            slot.store(values, self.start, self.stop)
        else:
            self.kept[slot] = values.clone()  # what runs later may work in place on the output

    def store(self, slot: Slot, values: Tensor) -> None:
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
    slots = [Slot(c, rows, allocate, many, None if members is None else members.axis) for c in captures]
    batched = members is not None and members.state is not None
    current = _Pass(mark, {} if batched else None)
    by_module: dict[tuple[int, str], list[Slot]] = {}
    for slot in slots:
        by_module.setdefault((id(slot.capture.module), slot.capture.op), []).append(slot)

    def run(attached: Attached) -> None:
        functions: dict[tuple[str, str], _Station] = {}
        for named in modules.values():
            attached.let_stop(named.module)
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
            kept, there = current.kept, list[Slot]()

            def outputs(kept: dict[Slot, Tensor] = kept, there: list[Slot] = there) -> list[Tensor]:
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
