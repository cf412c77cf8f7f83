"""Where the snapshots of one run go: its directory, its store and the further sinks."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from infoplane.core.errors import StoreError
from infoplane.core.interrupts import interruptible
from infoplane.core.records import Layer, Sink, Snapshot
from infoplane.core.text import printable
from infoplane.hooks._problems import Problems
from infoplane.hooks._ranks import Ranks
from infoplane.store import Problem, StoreWriter, open_run
from infoplane.store.layout import RUN_FILE


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
        self, run: Mapping[str, Any], layers: Sequence[Layer], ranks: Ranks, *, store: Mapping[str, Any] | None
    ) -> tuple[int | None, int | None]:
        """Open the store and begin the sinks; return last step and counter shift of a resumed run, else None for both.

        Both get probe, settings and resume from `run`; `store` are further options of the writer, None for no store.
        """
        last_step, shift = None, None
        if store is not None and ranks.takes_part and self.run is not None:
            options = {**run, "may_differ": MAY_DIFFER, **store}
            self.writer, last_step, shift = open_store(self.run, options, layers, ranks)
        if not ranks.writes:
            self.sinks = []
        elif self.writer is not None:
            self.sinks.insert(0, self.writer)
        run_id = secrets.token_hex(6) if self.writer is None else self.writer.run_id
        for begin in self._methods("begin"):
            found = begin(**run, run=self.run, run_id=run_id)
            if store is None and found is not None:
                last_step, shift = found
        return last_step, shift

    @property
    def unwritten(self) -> list[Problem]:
        """Problems, one for each reason, with the steps that the disk did not take."""
        reasons: dict[str, list[int]] = {}
        for step, why in {} if self.writer is None else self.writer.dropped.items():
            reasons.setdefault(why, []).append(step)
        return [Problem("", f"not written while recording: {why}", tuple(s)) for why, s in reasons.items()]

    def take(self, snapshot: Snapshot, problems: Problems) -> None:
        """Hand a snapshot to each sink; one that fails does not keep it from the others."""
        for sink in self.sinks:
            problems.attempt(f"{_name(sink)} of this snapshot", partial(_hand, sink, snapshot), snapshot.step)

    def annotate(self, notes: Mapping[str, Any]) -> None:
        """Have every sink that can do so note something about the run, as by how much counters were shifted."""
        for annotate in self._methods("annotate"):
            annotate(**notes)

    def flush(self) -> None:
        for flush in self._methods("flush"):
            flush()

    def _methods(self, name: str) -> list[Callable[..., Any]]:
        """The method of this name of each sink that has it."""
        return [getattr(sink, name) for sink in self.sinks if hasattr(sink, name)]


def _name(sink: Sink) -> str:
    """Words for a sink in messages."""
    return f"sink {getattr(sink, '__qualname__', type(sink).__qualname__)}"


@interruptible
def _hand(sink: Sink, snapshot: Snapshot) -> None:
    """Give a snapshot to a sink, once its arrays can be read unless the sink waits for that itself."""
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
    """Close sinks, the last one first; an interrupt ends the wait for one, and the others are closed all the same."""
    while sinks:
        try:
            close = getattr(sinks[-1], "close", None)
            if close is not None:
                close()
        except Exception as error:
            kept = error  # raised by the caller, when all are closed
            failed.append(kept)
        except BaseException:
            _close(sinks[:-1], failed)
            raise
        sinks.pop()


SHIFT = "counter_shift"
"""Name under which a session's file remembers by how much the loop's counters were shifted."""

MAY_DIFFER = ("versions", "schedule", "skipped", "selection", "name")
"""Settings that a resumed run need not share with what is stored."""


def open_store(
    path: Path, options: Mapping[str, Any], layers: Sequence[Layer], ranks: Ranks
) -> tuple[StoreWriter | None, int | None, int | None]:
    """The writer of this process, if it writes; the last step and the counter shift of the run that is resumed.

    Rank 0 makes or resumes the run, then the others that write join it; what rank 0 raises, all raise.
    """
    place: dict[str, Any] = {"rank": ranks.rank, "world_size": ranks.world_size} if ranks.share == "rows" else {}
    mine: StoreWriter | None = None

    def begin() -> tuple[int, int | None, int | None]:
        """Make or resume the run, on rank 0; its session, last step and counter shift."""
        nonlocal mine
        if options["resume"] and (path / RUN_FILE).exists():
            _refuse_other_network(path, layers)
        mine = StoreWriter(path, **options, **place)
        return mine.session, mine.last_step, _stored_shift(path, mine.last_step)

    session, last_step, shift = ranks.from_first(begin)
    if place and mine is None:
        mine = StoreWriter(path, **options, **place, session=session)
    return mine, last_step, shift


def stored_reductions(path: Path | None) -> dict[str, str]:
    """Key and reduction of each layer of a run; empty where there is no run that can be read."""
    if path is None or not (path / RUN_FILE).exists():
        return {}
    with contextlib.suppress(OSError, StoreError):  # the writer says what is wrong
        found = open_run(path).settings.get("reductions", {})
        return {str(key): str(label) for key, label in found.items()} if isinstance(found, Mapping) else {}
    return {}


def last_numbered(path: Path) -> Path | None:
    """The directory of this name with the highest number, if there is one."""
    found = _numbers(path)
    return path.with_name(f"{path.name}-{max(found):03d}") if found else None


def choose_numbered(path: Path, ranks: Ranks, *, resume: bool) -> Path:
    """A new directory with the number after the highest, or the last one to resume it; on every rank the same."""
    found = ranks.from_first(lambda: (last_numbered(path) if resume else None) or _make(path))
    return Path(found)


def _make(path: Path) -> Path:
    """Make the directory with the next number, or the one after where another process is faster; its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        made = path.with_name(f"{path.name}-{max(_numbers(path), default=0) + 1:03d}")
        try:
            made.mkdir()
        except FileExistsError:
            continue  # another process was faster
        return made


def _numbers(path: Path) -> list[int]:
    """The numbers of the directories `NAME-001`, `NAME-002`, ... beside `path`, whose name is NAME."""
    pattern = re.compile(re.escape(path.name) + r"-(\d{3,9})")
    names = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    return [int(match[1]) for match in map(pattern.fullmatch, names) if match]


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
                f"{path} has layer {layer.key!r} as {was} at step {steps[-1]}, now it is {now}: another "
                "network; take the one of the run, or record into another directory"
            )


def _what_it_is(layer: Layer) -> str:
    """Type and shape of a layer, for a message."""
    shape = "x".join(map(str, layer.raw_shape)) or "1"
    stored = "" if layer.unit_shape == layer.raw_shape else f", stored as {'x'.join(map(str, layer.unit_shape))}"
    return printable(f"{layer.module_type} of {shape} units{stored}, {layer.dtype}")


def _stored_shift(path: Path, last_step: int | None) -> int | None:
    """The counter shift that the newest session noted, None where none did."""
    if last_step is None:
        return None
    shifts = [s.get("notes", {}).get(SHIFT) for s in open_run(path).sessions]
    known = [s for s in shifts if s is not None]
    return int(known[-1]) if known else None


# Process, recorder and destinations of every recording that was started and not closed.
_unclosed: list[tuple[int, weakref.ref[object], list[Destination]]] = []


def remember(recorder: object, destinations: Iterable[Destination]) -> None:
    """Note that a recorder has to be closed, without keeping it or its model in memory."""
    _unclosed.append((os.getpid(), weakref.ref(recorder), list(destinations)))


def forget(recorder: object) -> None:
    """Forget a recorder that was closed."""
    _unclosed[:] = [entry for entry in _unclosed if entry[1]() is not recorder]


def refuse_unclosed(runs: Iterable[Path | None]) -> None:
    """Raise StoreError where one of these directories is still recorded into by a recorder of this process."""
    wanted = {run.absolute() for run in runs if run is not None}
    for pid, _, destinations in _unclosed:
        for run in _runs(destinations):
            if pid == os.getpid() and run.absolute() in wanted:
                raise StoreError(
                    f"{printable(run)} is still recorded into by a recorder of this process that was never closed; "
                    "call its close(), or infoplane.hooks.close_recorders() where its name is lost"
                )


def close_recorders() -> list[Path]:
    """Close every recorder of this process that was started and not closed, as after an exception.

    For notebooks, where running a cell again may have lost the name of an open recorder. No last step is taken.

    Returns
    -------
    list of Path
        The directories whose recordings were closed.
    """
    closed: list[Path] = []
    for entry in [e for e in _unclosed if e[0] == os.getpid()]:
        _, recorder, destinations = entry
        closed += _runs(destinations)
        close: Callable[..., None] | None = getattr(recorder(), "close", None)
        if close is not None:
            close(take_last=False)
        else:
            close_all(destinations)
        if entry in _unclosed:
            _unclosed.remove(entry)
    return closed


def _runs(destinations: Iterable[Destination]) -> list[Path]:
    """The directories among these destinations."""
    return [d.run for d in destinations if d.run is not None]
