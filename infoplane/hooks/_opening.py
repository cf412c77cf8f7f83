"""Open the store of a run: on one process, or on all that write, which then agree on run and session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infoplane.core.errors import StoreError
from infoplane.core.records import Layer, Probe
from infoplane.core.text import printable
from infoplane.hooks._ranks import Ranks
from infoplane.store import StoreWriter, open_run
from infoplane.store.layout import RUN_FILE

SHIFT = "counter_shift"
"""Name under which a session's file remembers by how much the loop's counters were shifted."""

MAY_DIFFER = ("versions", "schedule", "skipped")
"""Settings that a resumed run need not share with what is stored."""


@dataclass(frozen=True)
class Opened:
    """The writer of this process, if it writes; the last step and shift of the run that is resumed."""

    writer: StoreWriter | None
    last_step: int | None
    shift: int | None


def open_store(
    path: Path,
    *,
    probe: Probe,
    settings: Mapping[str, Any],
    ranks: Ranks,
    resume: bool,
    options: Mapping[str, Any],
    layers: Sequence[Layer],
) -> Opened:
    """Make or resume the run on rank 0, then on the others that write; what rank 0 raises, all raise."""
    together = ranks.share == "rows"

    def new_writer(session: int | None = None) -> StoreWriter:
        if resume and session is None and (path / RUN_FILE).exists():
            _refuse_other_network(path, layers)
        return StoreWriter(
            path,
            probe=probe,
            settings=settings,
            rank=ranks.rank if together else 0,
            world_size=ranks.world_size if together else 1,
            resume=resume,
            session=session,
            **{"may_differ": MAY_DIFFER, **options},
        )

    if ranks.share == "first":
        if ranks.rank > 0:
            return Opened(None, None, None)
        writer = new_writer()
        return Opened(writer, writer.last_step, _stored_shift(path, writer.last_step))

    told: dict[str, Any] = {}
    mine: StoreWriter | None = None
    if ranks.rank == 0:
        try:
            mine = new_writer()
            told = {
                "session": mine.session,
                "last_step": mine.last_step,
                "shift": _stored_shift(path, mine.last_step),
            }
        except (OSError, ValueError, StoreError) as error:
            told = {"error": error}
    told = ranks.broadcast(told)
    if "error" in told:
        raise told["error"]
    if together and ranks.rank > 0:
        mine = new_writer(told["session"])
    return Opened(mine, told["last_step"], told["shift"])


def _refuse_other_network(path: Path, layers: Sequence[Layer]) -> None:
    """Raise StoreError where a layer is of another type or shape than when it was last recorded under its name."""
    store = open_run(path)
    known = {layer.key for layer in store.layers}
    for layer in layers:
        steps = store.steps(layer.key) if layer.key in known else []
        if not steps:
            continue
        was, now = _what_it_is(store.layer(layer.key, steps[-1])), _what_it_is(layer)
        if was != now:
            raise StoreError(
                f"run {store.run_id} has layer {layer.key!r} as {was} at step {steps[-1]}, now it is {now}: another "
                "network; take the one of the run, or record into another directory"
            )


def _what_it_is(layer: Layer) -> str:
    shape = "x".join(map(str, layer.raw_shape)) or "1"
    stored = "" if layer.unit_shape == layer.raw_shape else f", stored as {'x'.join(map(str, layer.unit_shape))}"
    return printable(f"{layer.module_type} of {shape} units{stored}, {layer.dtype}")


def _stored_shift(path: Path, last_step: int | None) -> int | None:
    """The shift in the newest session that made one known."""
    if last_step is None:
        return None
    shifts = [s.get("notes", {}).get(SHIFT) for s in open_run(path).sessions]
    known = [s for s in shifts if s is not None]
    return int(known[-1]) if known else None
