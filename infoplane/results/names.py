"""What runs and pairs of recorded arrays are called. Ids of runs are for keys and files, not for people."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from infoplane.core.errors import closest
from infoplane.core.text import printable

if TYPE_CHECKING:
    from infoplane.results.table import ResultTable

PAIR = "(T;T')"
"""What the name of a quantity between two recorded arrays ends with, before a suffix such as " null"."""
PREVIOUS = "previous"
"""The partner that is the same layer at the step before."""
_AT_STEP = re.compile(r"@step=\d+$")


def lasting(partner: str) -> str:
    """Return `fc1@previous` for a partner `fc1@step=900`, and any other name unchanged.

    A layer compared with itself at the step before has another partner at every step; by this name they are one curve.
    """
    return _AT_STEP.sub(f"@{PREVIOUS}", partner)


def pair_name(layer: str, partner: str) -> str:
    """Return the name of a pair of a layer and its partner, `fc1 with fc4`; the layer's own name without a partner."""
    return f"{layer} with {lasting(partner)}" if partner else layer


def run_names(table: ResultTable) -> dict[str, str]:
    """Return {id: name} of all runs in a table or its meta.

    The name is the one that the user gave (`Recorder(..., name="seed 1")`), else that of the run's directory. Where
    several runs have the same, as much of the path is put before it as tells them apart ("tanh/seed-1"), or a number
    is added. A run of which the meta says nothing is called by its id.
    """
    about = table.meta.get("runs")
    return names_of(table["run"].tolist(), about if isinstance(about, Mapping) else {})


def names_of(runs: Iterable[str], about: Mapping[str, Any]) -> dict[str, str]:
    """Return {id: name} of `runs` and of those in `about`, the entries of runs in the meta of a table.

    A name is the shortest end of the run's path that no other run's path has; where there is none, the last part of
    the path with a number.
    """
    # The ends of each run's path from the shortest on: ("seed-1",), ("tanh", "seed-1"), ...
    ends = {run: _path_ends(run, about.get(run)) for run in dict.fromkeys((*runs, *about))}
    n_runs = Counter(end for ends_of_run in ends.values() for end in ends_of_run)
    names: dict[str, str] = {}
    taken: Counter[str] = Counter()
    for run, ends_of_run in ends.items():
        name = "/".join(next((end for end in ends_of_run if n_runs[end] == 1), ends_of_run[0]))
        taken[name] += 1
        names[run] = name if taken[name] == 1 else f"{name} ({taken[name]})"
    return names


def _path_ends(run: str, about: Any) -> list[tuple[str, ...]]:
    """Return all ends of the path of a run, each a tuple of parts, the shortest first.

    The last part is the user's name for the run, or the name of its folder; the only part is the id where neither is
    known. `about` is the run's entry in the meta.
    """
    given, path = _name_and_path(about)
    folders = PurePath(os.path.abspath(path)).parts[1:] if path else ()  # noqa: PTH100 - does not read the disk
    parts = (*folders, given) if given else folders or (run,)
    return [parts[-k:] for k in range(1, len(parts) + 1)]


def _name_and_path(about: Any) -> tuple[str, str]:
    """Return the user's name of a run and its path, from the run's entry in the meta; "" for one that is missing.

    The meta may be written by anybody: what is not a text counts as missing.
    """
    entry = about if isinstance(about, Mapping) else {}
    settings = entry.get("settings")
    given = settings.get("name") if isinstance(settings, Mapping) else None
    path = entry.get("path")
    return given if isinstance(given, str) else "", path if isinstance(path, str) else ""


def runs_called(table: ResultTable, wanted: str | Iterable[str]) -> list[str]:
    """Return the ids of the runs in a table that `wanted` stands for: names, paths, ids, or globs of these.

    Raises
    ------
    ValueError
        A name without a glob is that of no run.
    """
    about, names = table.meta.get("runs", {}), run_names(table)
    called = {run: _all_names(run, names[run], about.get(run)) for run in dict.fromkeys(table["run"].tolist())}
    found: set[str] = set()
    for pattern in [wanted] if isinstance(wanted, str) else wanted:
        runs = [run for run, known in called.items() if any(matches(name, pattern) for name in known)]
        if called and not runs and not is_glob(pattern):
            near = ", ".join(closest(pattern, [names[run] for run in called]))
            raise ValueError(f"the table has no run {printable(pattern)!r}; closest: {near}")
        found.update(runs)
    return [run for run in called if run in found]


def _all_names(run: str, name: str, about: Any) -> set[str]:
    """Return all names by which a user may ask for a run.

    These are its id, its `name` in figures, its path, and the name that the user gave it or else that of its folder.
    """
    given, path = _name_and_path(about)
    folder = PurePath(os.path.abspath(path)).name if path else ""  # noqa: PTH100 - as in _path_ends
    return {run, name} | ({path, given or folder} - {""})


def matches(name: str, pattern: str) -> bool:
    """Return whether a name equals the pattern or matches it as a glob.

    Equality is tested, too: brackets in a glob stand for a set of characters, so a name with brackets may not match
    itself.
    """
    return name == pattern or fnmatchcase(name, pattern)


def is_glob(pattern: str) -> bool:
    """Return whether a pattern holds a character by which it may match other names than itself."""
    return any(char in pattern for char in "*?[")


def placed(meta: Mapping[str, Any], table: Path) -> dict[str, Any]:
    """Return the meta of a table with the paths of its runs joined to the table's folder.

    In the file they are relative to that folder. `table` is the path of the table.
    """
    return with_paths(meta, lambda path: os.path.normpath(table.parent / path))


def with_paths(meta: Mapping[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """Return the meta with the path of each run replaced by `change(path)`; an entry without a path stays as it is."""
    out, runs = dict(meta), meta.get("runs")
    if isinstance(runs, Mapping):
        out["runs"] = {
            run: {**about, "path": change(path)} if (path := _name_and_path(about)[1]) else about
            for run, about in runs.items()
        }
    return out
