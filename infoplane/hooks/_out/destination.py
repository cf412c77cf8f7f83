"""Where the snapshots of one run go: its directory, its store and the further sinks."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

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
    """Where the snapshots of one run go: its directory `run`, if it has one, its sinks, and the `writer` of its store.

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
        """Open the store and call `begin` of the sinks; return (last step, counter shift) of a resumed run.

        Both are None for a new run. `run` has `probe`, `settings` and `resume`, as store and sinks take them. `store`
        are further options of the writer, None for no store.
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
        for resumed in self.call_sinks("begin", **run, run=self.run, run_id=run_id):
            if store is None and resumed is not None:  # without a store, only a sink can know the run so far
                last_step, shift = resumed
        return last_step, shift

    @property
    def unwritten(self) -> list[Problem]:
        """Problems, one for each reason, with the steps that the disk did not take."""
        steps: dict[str, list[int]] = {}  # by reason
        for step, reason in {} if self.writer is None else self.writer.dropped.items():
            steps.setdefault(reason, []).append(step)
        return [Problem("", f"not written while recording: {reason}", tuple(s)) for reason, s in steps.items()]

    def take(self, snapshot: Snapshot, problems: Problems) -> None:
        """Hand a snapshot to each sink; one that fails does not keep it from the others."""
        for sink in self.sinks:
            problems.attempt(f"{_name(sink)} of this snapshot", partial(_hand, sink, snapshot), snapshot.step)

    def call_sinks(self, method: str, **arguments: Any) -> list[Any]:
        """Call the method of this name of each sink that has it; return what each returned."""
        return [getattr(sink, method)(**arguments) for sink in self.sinks if hasattr(sink, method)]


def _name(sink: Sink) -> str:
    """`sink Live`, for messages: the name of a function, or of an object's class."""
    return f"sink {getattr(sink, '__qualname__', type(sink).__qualname__)}"


@interruptible
def _hand(sink: Sink, snapshot: Snapshot) -> None:
    """Give a snapshot to a sink.

    Before that, wait until its arrays hold their numbers, unless the sink waits itself or reads only the tensors.
    """
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
    failed: list[BaseException] = [] if ending is None else [ending]
    _close([sink for d in destinations for sink in d.sinks], failed)
    for error in failed[1:]:
        failed[0].add_note(f"closing the recording failed, too: {type(error).__name__}: {error}")
    if failed and ending is None:
        raise failed[0]


def _close(sinks: list[Sink], failed: list[BaseException]) -> None:
    """Close the sinks, the last one first, and append their exceptions to `failed`.

    An interrupt, as Ctrl-C, is raised when all are closed.
    """
    while sinks:
        try:
            getattr(sinks[-1], "close", lambda: None)()
        except Exception as error:
            kept = error  # a second name, since Python deletes `error` here; the caller raises it
            failed.append(kept)
        except BaseException:  # an interrupt: give up this sink, close the others, and raise it on
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
    """Open the store of a run; return (this process's writer, last step, counter shift).

    The writer is None on a rank that does not write, the others are None for a new run; `options` are the writer's.
    Rank 0 makes or resumes the run, then the others that write join it; what rank 0 raises, all raise.
    """
    each_writes = ranks.share == "rows"
    place: dict[str, Any] = {"rank": ranks.rank, "world_size": ranks.world_size} if each_writes else {}
    writer: StoreWriter | None = None

    def begin() -> tuple[int, int | None, int | None]:
        """Make or resume the run, on rank 0 alone; return its (session, last step, counter shift)."""
        nonlocal writer
        if options["resume"] and (path / RUN_FILE).exists():
            _refuse_other_network(path, layers)
        writer = StoreWriter(path, **options, **place)
        return writer.session, writer.last_step, _stored_shift(path, writer.last_step)

    session, last_step, shift = ranks.from_first(begin)
    if each_writes and writer is None:  # not rank 0
        writer = StoreWriter(path, **options, **place, session=session)
    return writer, last_step, shift


def stored_reductions(path: Path | None) -> dict[str, str]:
    """Key -> name of the reduction for each layer of a run; empty where there is no run that can be read."""
    found: Any = None
    with contextlib.suppress(OSError, StoreError):  # the writer will say what is wrong
        if path is not None and (path / RUN_FILE).exists():
            found = open_run(path).settings.get("reductions")
    return {str(key): str(label) for key, label in found.items()} if isinstance(found, Mapping) else {}


def last_numbered(path: Path) -> Path | None:
    """The directory of this name with the highest number, as `run-007` for `run`; None where there is none."""
    numbers = _numbers(path)
    return path.with_name(f"{path.name}-{max(numbers):03d}") if numbers else None


def choose_numbered(path: Path, ranks: Ranks, *, resume: bool) -> Path:
    """Return the directory NAME-001, NAME-002, ... to record into, the same on every rank; `path` has the NAME.

    It is made, with the number after the highest; with `resume` it is the last one, if there is one.
    """
    return Path(ranks.from_first(lambda: (last_numbered(path) if resume else None) or _make_next(path)))


def _make_next(path: Path) -> Path:
    """Make the directory with the next number, or the one after where another process is faster; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        directory = path.with_name(f"{path.name}-{max(_numbers(path), default=0) + 1:03d}")
        with contextlib.suppress(FileExistsError):  # another process was faster
            directory.mkdir()
            return directory


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
        before = store.layer(layer.key, steps[-1]) if steps else layer  # a new one is compared with itself
        was, now = _type_and_shape(before), _type_and_shape(layer)
        if was != now:
            raise StoreError(
                f"{path} has layer {layer.key!r} as {was} at step {steps[-1]}, now it is {now}: another "
                "network; take the one of the run, or record into another directory"
            )


def _type_and_shape(layer: Layer) -> str:
    """Type, shape and dtype of a layer, for a message."""
    # A layer without axes has one number for each sample.
    shape, units = ("x".join(map(str, axes)) or "1" for axes in (layer.raw_shape, layer.unit_shape))
    stored = "" if units == shape else f", stored as {units}"
    return printable(f"{layer.module_type} of {shape} units{stored}, {layer.dtype}")


def _stored_shift(path: Path, last_step: int | None) -> int | None:
    """The counter shift that the newest session with such a note has; None without one, or for a new run."""
    sessions = [] if last_step is None else open_run(path).sessions
    shifts = [session.get("notes", {}).get(SHIFT) for session in sessions]
    return next((int(shift) for shift in reversed(shifts) if shift is not None), None)


class _Unclosed(NamedTuple):
    """A recording that was started and not closed: its process, its session if that still exists, its destinations."""

    pid: int
    session: weakref.ref[Any]
    destinations: list[Destination]


_unclosed: list[_Unclosed] = []


def remember(session: object, destinations: Iterable[Destination]) -> None:
    """Enter a session into the list of those that have to be closed, by a weak reference: its model may be freed."""
    _unclosed.append(_Unclosed(os.getpid(), weakref.ref(session), list(destinations)))


def forget(session: object) -> None:
    """Forget a session that was closed."""
    _unclosed[:] = [entry for entry in _unclosed if entry.session() is not session]


def refuse_unclosed(runs: Iterable[Path | None]) -> None:
    """Raise StoreError where one of these directories is still recorded into by a recorder of this process."""
    wanted = {run.absolute() for run in runs if run is not None}
    for run in _runs(d for entry in _unclosed if entry.pid == os.getpid() for d in entry.destinations):
        if run.absolute() in wanted:
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
    for entry in [e for e in _unclosed if e.pid == os.getpid()]:  # what a forked process inherited is not its own
        closed += _runs(entry.destinations)
        session = entry.session()
        if session is not None:
            session.close(take_last=False)
        else:  # the recorder was lost: its files are still open
            close_all(entry.destinations)
            _unclosed.remove(entry)
    return closed


def _runs(destinations: Iterable[Destination]) -> list[Path]:
    """The directories among these destinations."""
    return [d.run for d in destinations if d.run is not None]
