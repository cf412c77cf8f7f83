"""The layers that can be recorded and their cost: the table of layers and the plan of sizes."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from infoplane.core.records import Layer
from infoplane.core.text import aligned, printable
from infoplane.hooks._pass.blocks import is_activation, is_free
from infoplane.hooks._pass.checks import refuse_lazy
from infoplane.hooks._pass.observe import Flow, ModuleCall, Observation, Watcher, look
from infoplane.hooks._pass.state import Surroundings, model_device
from infoplane.hooks._ranks import is_sharded
from infoplane.hooks.probe import as_inputs
from infoplane.hooks.select import named_modules, unwrap

_SHOWN = 24  # layers that the printed plan lists


@dataclass(frozen=True)
class LayerRow:
    """One module of a model: its output's shape (with the batch), calls in a forward pass, bytes of a snapshot."""

    name: str
    type: str
    output: str
    calls: int
    bytes: int
    role: str
    note: str = ""


@dataclass(frozen=True)
class LayerTable:
    """Every module of a model that ran, in forward order; prints as a table."""

    model: str
    rows: tuple[LayerRow, ...]
    samples: int

    def __iter__(self) -> Iterator[LayerRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def names(self) -> list[str]:
        return [r.name for r in self.rows]

    def __str__(self) -> str:
        """The name of the model, and a line for each module."""
        head = ("layer", "type", "output", "calls", f"bytes for {self.samples}", "role", "")
        body = [
            (r.name or "@out", r.type, r.output, str(r.calls) if r.calls else "-", size(r.bytes), r.role, r.note)
            for r in self.rows
        ]
        return "\n".join([printable(self.model), *aligned([head, *body])])

    __repr__ = __str__


def layers(model: nn.Module, batch: Any, *, samples: int | None = None) -> LayerTable:
    """The layers of a model that can be recorded, from one forward pass over a batch.

    Parameters
    ----------
    model : nn.Module
        Left exactly as it was: mode, random state, buffers.
    batch : Tensor, tuple of tensors, or dict of tensors
        What the model is called with; a tuple gives positional, a dict keyword arguments.
    samples : int, optional
        Size of the probe for which bytes are given; the batch's own by default.

    Returns
    -------
    LayerTable
        Prints name, type, shape, bytes of one snapshot without reduction, and calls. Of a module that runs several
        times each call is a layer, or one has to be chosen where it has weights. Modules that do not run are listed
        last, with a note.
    """
    inner = unwrap(model)
    refuse_lazy(inner)
    modules = named_modules(inner)
    inputs = as_inputs(batch)
    dtypes = frozenset(p.dtype for p in inner.parameters() if p.is_floating_point())
    surroundings = Surroundings(inner)

    def once(flow: Flow | None, ops: bool) -> Observation:
        """Run the model on the batch, and return what ran; `flow` follows tensors, `ops` lists functions as well."""
        moved = inputs.to(model_device(inner), dtypes)

        def forward() -> Any:
            """The output of the model."""
            if flow is not None:
                flow.start(moved.tensors)
            return inner(*moved.args, **moved.kwargs)

        return surroundings.undisturbed(lambda: Watcher(modules, flow, ops=ops).watch(forward), model_device(inner))

    seen = look(once, ops=False, follow=not is_sharded(inner))
    n = len(inputs)
    rows = [_row(calls, n, samples or n, seen) for calls in sorted(seen.calls.values(), key=lambda calls: calls[0].end)]
    silent = [named for name, named in modules.items() if name not in seen.calls and named.has_forward]
    rows += [LayerRow(named.name, named.type_name, "-", 0, 0, "", "never ran") for named in silent]
    return LayerTable(type(inner).__name__, tuple(rows), samples or n)


def _row(calls: Sequence[ModuleCall], n: int, samples: int, seen: Observation) -> LayerRow:
    """Return the table's row for one module, from its calls in a pass over `n` rows.

    The bytes in it are for `samples` rows. `seen` is the whole pass.
    """
    named, last = calls[-1].named, calls[-1]
    held = sum(math.prod(t.shape) * t.dtype.itemsize for t in last.outputs.values())
    role = "block"
    if seen.output is not None and named.name == seen.output[0].named.name:
        role = "output"
    elif all(c.leaf for c in calls):
        role = "activation" if is_activation(named.module) else "other"
    # By default a recording takes each call of a module without weights as a layer. Of a module with weights the user
    # has to choose the call.
    each_call = is_free(named.module)
    notes = {
        "passes its input on": all(c.passes_through for c in calls),
        "part of the layer around it": all(c.part for c in calls),
        f"a layer at each call: {named.name}#0 to #{len(calls) - 1}": len(calls) > 1 and each_call,
        f"choose a call: {named.name}#0": len(calls) > 1 and not each_call,
        f"choose a tensor: {named.name}@out{next(iter(last.outputs), '')}": len(last.outputs) > 1,
    }
    # As `[0]2x3`: the place of a tensor in what the module returned, and its shape.
    shapes = [f"{place}{'x'.join(map(str, t.shape)) or 'scalar'}" for place, t in last.outputs.items()]
    output, note = ", ".join(shapes) or last.output_type, "; ".join(text for text, holds in notes.items() if holds)
    return LayerRow(named.name, named.type_name, output, len(calls), held * samples // n, role, note)


@dataclass(frozen=True)
class SizePlan:
    """The bytes that one snapshot and the whole run need, and those that the disk has free.

    `snapshots` is their number, None where the schedule has no end. `free` are the free bytes of the disk that holds
    the folder `where`, None where no activations are kept. `note` is text that the printed plan shows as it is.
    """

    layers: tuple[Layer, ...]
    samples: int
    snapshots: int | None
    free: int | None
    where: str
    members: int = 1
    note: str = ""

    def bytes_of(self, layer: Layer) -> int:
        return self.samples * layer.units * int(getattr(torch, layer.dtype).itemsize)

    @property
    def per_snapshot(self) -> int:
        return self.members * sum(self.bytes_of(layer) for layer in self.layers)

    @property
    def total(self) -> int:
        """Bytes of the planned snapshots, or of two (the first and the last) where the schedule has no end."""
        return self.per_snapshot * (2 if self.snapshots is None else self.snapshots)

    def __str__(self) -> str:
        """A table of the layers, the notes, and a line of totals."""
        rows = [("layer", "shape", "stored", "a snapshot")]
        for la in self.layers[:_SHOWN]:
            stored = f"{la.units} {la.dtype}, {la.reduction}"
            rows.append((la.key, "x".join(map(str, la.raw_shape)) or "1", stored, size(self.bytes_of(la))))
        text = "\n".join(aligned(rows))
        if len(self.layers) > _SHOWN:
            text += f"\n... and {len(self.layers) - _SHOWN} more layers"
        text += f"\n{self.note}" if self.note else ""
        free = "" if self.free is None else f", {size(self.free)} free in {printable(self.where)}"
        much = f"{self.snapshots} snapshots: {size(self.total)}"
        if self.snapshots is None:
            room = f", room for {self.free // self.per_snapshot}" if self.free and self.per_snapshot else ""
            much = f"number of snapshots open (pass total=){room}"
        of = f" of {self.members} members" if self.members > 1 else ""
        return f"{text}\n{self.samples} samples{of}, {size(self.per_snapshot)} a snapshot; {much}{free}"

    def check(self) -> None:
        """Raise OSError if the planned snapshots need more bytes than the disk has free."""
        if self.free is not None and self.total > self.free:
            count = "the first and the last snapshot" if self.snapshots is None else f"{self.snapshots} snapshots"
            raise OSError(
                f"{count} of {size(self.per_snapshot)} need {size(self.total)}, and {size(self.free)} are free in "
                f"{self.where}; reduce layers (layers=, reduce=, dtype=), take fewer snapshots (schedule=), or "
                "pass allow_full_disk=True"
            )


def free_bytes(path: Path) -> int:
    """Return the free bytes of the disk that a path is on, or will be on once it has been made."""
    path = path.absolute()
    return shutil.disk_usage(next(place for place in (path, *path.parents) if place.exists())).free


def size(n: int) -> str:
    """A byte count as text, such as "1.5 MiB"."""
    value = float(n)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{n} B" if unit == "B" else f"{value:.{0 if value >= 99.5 else 1}f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
