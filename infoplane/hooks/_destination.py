"""Where the snapshots of one run go: its store and the further sinks."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from infoplane.core.interrupts import interruptible
from infoplane.core.records import Layer, Probe, Sink, Snapshot
from infoplane.hooks._opening import open_store
from infoplane.hooks._problems import Problems
from infoplane.hooks._ranks import Ranks
from infoplane.store import Problem, StoreWriter


@dataclass(eq=False)
class Destination:
    """One run's sinks.

    A sink is a callable that takes a Snapshot. It may have `begin(probe=, settings=, run=, run_id=, resume=)`, called
    before the first snapshot, `annotate(**notes)`, `flush()` and `close()`. Where no activations are kept,
    `begin` may return the last step of a resumed run and its counter shift. One that has `on_device = True`
    takes its numbers from `Snapshot.tensors` and needs no arrays. One that has `reads_later = True` calls
    `Snapshot.wait` before it reads the arrays, and never reads the tensors; others are called when the arrays hold
    their numbers.
    """

    run: Path | None
    sinks: list[Sink] = field(default_factory=list)
    writer: StoreWriter | None = None

    def open(
        self,
        *,
        store: bool,
        probe: Probe,
        settings: Mapping[str, Any],
        ranks: Ranks,
        resume: bool,
        options: Mapping[str, Any],
        layers: Sequence[Layer],
    ) -> tuple[int | None, int | None]:
        """Open the store if there is to be one, begin the sinks; last step and counter shift of a resumed run."""
        last_step, shift = None, None
        if store and ranks.takes_part and self.run is not None:
            opened = open_store(
                self.run, probe=probe, settings=settings, ranks=ranks, resume=resume, options=options, layers=layers
            )
            self.writer, last_step, shift = opened.writer, opened.last_step, opened.shift
        if not ranks.writes:
            self.sinks = []
        elif self.writer is not None:
            self.sinks.insert(0, self.writer)
        run_id = secrets.token_hex(6) if self.writer is None else self.writer.run_id
        for sink in self.sinks:
            if not hasattr(sink, "begin"):
                continue
            found = sink.begin(probe=probe, settings=settings, run=self.run, run_id=run_id, resume=resume)
            if not store and found is not None:
                last_step, shift = found
        return last_step, shift

    @property
    def needs_arrays(self) -> bool:
        return not all(getattr(s, "on_device", False) for s in self.sinks)

    @property
    def needs_tensors(self) -> bool:
        return any(getattr(s, "on_device", False) for s in self.sinks)

    @property
    def unwritten(self) -> list[Problem]:
        """The steps that the disk did not take, by reason."""
        reasons: dict[str, list[int]] = {}
        for step, why in {} if self.writer is None else self.writer.dropped.items():
            reasons.setdefault(why, []).append(step)
        return [Problem("", f"not written while recording: {why}", tuple(s)) for why, s in reasons.items()]

    def take(self, snapshot: Snapshot, problems: Problems) -> None:
        """Hand a snapshot to each sink; one that fails does not keep it from the others."""
        for sink in self.sinks:
            problems.attempt(f"{_name(sink)} of this snapshot", partial(_hand, sink, snapshot), snapshot.step)

    def annotate(self, notes: Mapping[str, Any]) -> None:
        """Let the store and others remember something about the run, as how counters became steps."""
        for sink in self.sinks:
            if hasattr(sink, "annotate"):
                sink.annotate(**notes)

    def flush(self) -> None:
        for sink in self.sinks:
            if hasattr(sink, "flush"):
                sink.flush()


def _name(sink: Sink) -> str:
    return f"sink {getattr(sink, '__qualname__', type(sink).__qualname__)}"


@interruptible
def _hand(sink: Sink, snapshot: Snapshot) -> None:
    if snapshot.pending is not None:
        if getattr(sink, "reads_later", False):
            snapshot = replace(snapshot, tensors=None)  # a queue must not hold the device's memory
        elif not getattr(sink, "on_device", False):
            snapshot.wait()
    sink(snapshot)


@interruptible
def close_all(destinations: Iterable[Destination], ending: BaseException | None = None) -> None:
    """Close every sink, the stores last, also when one fails; the first failure is raised.

    Where the recording ends by an exception, that one is what the user has to see: failures become its notes.
    """
    failed: list[Exception] = []
    _close([s for d in destinations for s in d.sinks], failed)
    for error in failed if ending is not None else failed[1:]:
        (ending or failed[0]).add_note(f"closing the recording failed, too: {type(error).__name__}: {error}")
    if failed and ending is None:
        raise failed[0]


def _close(sinks: list[Sink], failed: list[Exception]) -> None:
    """The last one first. An interrupt ends the wait for one sink; the others are closed all the same."""
    while sinks:
        try:
            close = getattr(sinks[-1], "close", None)
            if close is not None:
                close()
        except Exception as error:
            kept = error
            failed.append(kept)
        except BaseException:
            _close(sinks[:-1], failed)
            raise
        sinks.pop()
