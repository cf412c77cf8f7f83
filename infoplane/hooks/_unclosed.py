"""Recordings of this process that were started and not closed: where the name of a recorder is lost, say."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path

from infoplane.core.errors import StoreError
from infoplane.core.text import printable
from infoplane.hooks._destination import Destination, close_all

_unclosed: list[tuple[int, weakref.ref[object], list[Destination]]] = []


def remember(recorder: object, destinations: Iterable[Destination]) -> None:
    """Keep what has to be closed, but neither the recorder nor its model."""
    _unclosed.append((os.getpid(), weakref.ref(recorder), list(destinations)))


def forget(recorder: object) -> None:
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
    return [d.run for d in destinations if d.run is not None]
