"""Open the store of a run: on one process, or on all that write, which then agree on run and session."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infoplane.core.errors import StoreError
from infoplane.core.records import Probe
from infoplane.hooks._ranks import Ranks
from infoplane.store import StoreWriter, open_run

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
) -> Opened:
    """Make or resume the run on rank 0, then on the others that write; what rank 0 raises, all raise."""
    together = ranks.share == "rows"

    def new_writer(session: int | None = None) -> StoreWriter:
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


def _stored_shift(path: Path, last_step: int | None) -> int | None:
    """The shift in the newest session that made one known."""
    if last_step is None:
        return None
    shifts = [s.get("notes", {}).get(SHIFT) for s in open_run(path).sessions]
    known = [s for s in shifts if s is not None]
    return int(known[-1]) if known else None
