"""What the runs of a table have lost: said by figures, reports and the command line beside the numbers."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from infoplane.core.steps import step_words
from infoplane.core.text import listed, printable, shorten
from infoplane.core.tokens import split_token
from infoplane.results._files import csv_path, meta_path, read_meta
from infoplane.results.names import names_of, placed, run_names
from infoplane.results.table import ResultTable

_NAMED = 2
"""About as many runs, layers and files are named in a caption; the rest is counted."""


@dataclass(frozen=True)
class Loss:
    """Steps of one run that are missing or damaged, so that the table has no numbers of them.

    Attributes
    ----------
    run : str
    file : str
        Path within the run directory; "" where a step as a whole is concerned.
    what : str
        What was expected and what was found.
    steps : tuple of int
    layer : str
        The layer that alone is concerned; "" for all.
    name : str
        What the run is called; "" where that is its id.
    """

    run: str
    file: str
    what: str
    steps: tuple[int, ...]
    layer: str = ""
    name: str = ""

    def __str__(self) -> str:
        """Return the loss in one line that is safe to print."""
        place = f"{self.file}: " if self.file else ""
        steps = f" ({step_words(self.steps)})" if self.steps else ""
        return printable(f"run {shorten(self.called, 40)}: {place}{shorten(self.what, 400)}{steps}")

    @property
    def called(self) -> str:
        """The name of the run, or its id where it has no name."""
        return self.name or self.run


def losses(table: ResultTable, runs: Iterable[str] | None = None, layers: Iterable[str] | None = None) -> list[Loss]:
    """Return the losses that the table's meta lists for these runs and layers.

    By default the runs are all that have rows, and all layers count. A loss that concerns a whole step counts for every
    layer.
    """
    about, names = table.meta.get("runs", {}), run_names(table)
    wanted = names if runs is None else dict.fromkeys(runs)
    known = about if isinstance(about, Mapping) else {}
    with_rows = set(table["run"].tolist()) if runs is None else wanted
    found = [one for run in wanted if run in with_rows for one in _of_run(run, known.get(run), names.get(run, ""))]
    whole = None if layers is None else {"", *(split_token(layer)[0] for layer in layers)}
    return [loss for loss in found if whole is None or loss.layer in whole]


def read_losses(paths: Sequence[str | os.PathLike[str]]) -> list[Loss]:
    """Return the losses that tables on disk (CSV files or run directories) list, without reading their rows."""
    known: dict[str, Any] = {}
    for path in map(csv_path, paths):
        about = placed(read_meta(meta_path(path)), path).get("runs")
        known |= about if isinstance(about, Mapping) else {}
    names = names_of((), known)
    return [loss for run, about in known.items() for loss in _of_run(run, about, names[run])]


def _of_run(run: str, about: Any, name: str) -> list[Loss]:
    """Return the losses of one run, from its entry `about` in the meta of a table; `name` is what the run is called.

    The meta may be written by anybody: what has not the expected form is left out.
    """
    entries = about.get("lost") if isinstance(about, Mapping) else None
    out = []
    for entry in entries if isinstance(entries, list) else ():
        if not isinstance(entry, Mapping):
            continue
        steps = entry.get("steps")
        file, what, layer = (str(entry.get(name, "")) for name in ("file", "what", "layer"))
        numbers = tuple(s for s in steps if type(s) is int) if isinstance(steps, list) else ()
        out.append(Loss(run, file, what, numbers, layer, name))
    return out


def loss_words(found: Sequence[Loss]) -> list[str]:
    """Return parts of a caption that tell the losses, one for each run.

    Such as `missing or damaged: steps 5-8 (00000005-00000008.s0001.r000.h5)`. Beyond the first few, runs, layers and
    files are only counted or left out.
    """
    out = []
    runs = list(dict.fromkeys(loss.called for loss in found))
    for run in runs[: _NAMED + 1]:
        mine = [loss for loss in found if loss.called == run]
        words = []
        for layer in list(dict.fromkeys(loss.layer for loss in mine))[: _NAMED + 1]:
            steps = {step for loss in mine if loss.layer == layer for step in loss.steps}
            words.append(f"{f'of layer {shorten(layer, 24)} ' if layer else ''}{step_words(steps)}")
        shards = list(dict.fromkeys(PurePosixPath(loss.file).name for loss in mine if loss.file.startswith("shards/")))
        places = f" ({listed([shorten(name, 48) for name in shards], _NAMED, 'shards')})" if shards else ""
        whose = f" in run {shorten(run, 24)}" if len(runs) > 1 else ""
        out.append(printable(f"missing or damaged{whose}: {', '.join(words)}{places}"))
    rest = len(runs) - _NAMED - 1
    return out + ([f"{rest} more runs have lost steps"] if rest > 0 else [])
