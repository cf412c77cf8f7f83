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
    """The partner's name without its step, equal along a curve: `fc1@previous` for each `fc1@step=900`."""
    return _AT_STEP.sub(f"@{PREVIOUS}", partner)


def pair_name(layer: str, partner: str) -> str:
    """What the pair of a layer and its partner is called where layers have names: `fc1 with fc4`."""
    return f"{layer} with {lasting(partner)}" if partner else layer


def run_names(table: ResultTable) -> dict[str, str]:
    """The name of each run that a table or its meta knows, by its id.

    A run is called as its user said (`Recorder(..., name="seed 1")`), else as its directory. Of runs of one name each
    gets as much of its path as tells it from the others ("tanh/seed-1"), and a number where the path does not. A
    run of which the meta says nothing is called by its id.
    """
    about = table.meta.get("runs")
    return names_of(table["run"].tolist(), about if isinstance(about, Mapping) else {})


def names_of(runs: Iterable[str], about: Mapping[str, Any]) -> dict[str, str]:
    """Return {id: name} of `runs` and those in `about`: the shortest end of the path that no other has, or a number."""
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
    """Return all ends of the path of a run, its last part being the user's name; of its id where neither is known."""
    given, path = _name_and_path(about)
    folders = PurePath(os.path.abspath(path)).parts[1:] if path else ()  # noqa: PTH100 - asks no disk about a stranger's path
    parts = (*folders, given) if given else folders or (run,)
    return [parts[-k:] for k in range(1, len(parts) + 1)]


def _name_and_path(about: Any) -> tuple[str, str]:
    """Return the user's name of a run and its path; "" for what is no text: anybody may have written the meta."""
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
    """Return all by which a run may be asked for: id, name in figures, path, and the user's name or else the folder."""
    given, path = _name_and_path(about)
    folder = PurePath(os.path.abspath(path)).name if path else ""  # noqa: PTH100 - as above
    return {run, name} | ({path, given or folder} - {""})


def matches(name: str, pattern: str) -> bool:
    """Whether a name is the pattern, which may hold brackets, or matches it as a glob."""
    return name == pattern or fnmatchcase(name, pattern)


def is_glob(pattern: str) -> bool:
    """Whether a pattern may stand for other names than itself."""
    return any(char in pattern for char in "*?[")


def placed(meta: Mapping[str, Any], table: Path) -> dict[str, Any]:
    """Return the meta of a table with the paths of its runs as seen from here; in its file they begin at the table."""
    return with_paths(meta, lambda path: os.path.normpath(table.parent / path))


def with_paths(meta: Mapping[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """Return the meta with the path of every run changed; what has no path, or another shape, is left as it is."""
    out, runs = dict(meta), meta.get("runs")
    if isinstance(runs, Mapping):
        out["runs"] = {
            run: {**about, "path": change(path)} if (path := _name_and_path(about)[1]) else about
            for run, about in runs.items()
        }
    return out
