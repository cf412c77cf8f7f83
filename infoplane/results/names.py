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
    """{id: name} for `runs` and those in `about`: the shortest end of the path that no other has, else numbered."""
    parts = {run: _parts(run, about.get(run)) for run in dict.fromkeys((*runs, *about))}
    # How many runs have a path with this end.
    tails = Counter(own[-k:] for own in parts.values() for k in range(1, len(own) + 1))
    names: dict[str, str] = {}
    taken: Counter[str] = Counter()
    for run, own in parts.items():
        tail = next((own[-k:] for k in range(1, len(own) + 1) if tails[own[-k:]] == 1), own[-1:])
        name = "/".join(tail)
        taken[name] += 1
        names[run] = name if taken[name] == 1 else f"{name} ({taken[name]})"
    return names


def _parts(run: str, about: Any) -> tuple[str, ...]:
    """The path of a run with its given name at the end, in parts; its id where neither is known."""
    given, path = _known(about)
    where = PurePath(os.path.abspath(path)).parts[1:] if path else ()  # noqa: PTH100 - asks no disk about a stranger's path
    return (*where, given) if given else where or (run,)


def _known(about: Any) -> tuple[str, str]:
    """The user's name of a run and its path, "" where the meta, which anybody may have written, has no such text."""
    entry = about if isinstance(about, Mapping) else {}
    settings = entry.get("settings")
    given = settings.get("name") if isinstance(settings, Mapping) else None
    path = entry.get("path")
    return given if isinstance(given, str) else "", path if isinstance(path, str) else ""


def runs_called(table: ResultTable, wanted: str | Iterable[str]) -> list[str]:
    """The ids of the runs in a table that `wanted` stands for: names, paths, ids, or globs of these.

    Raises
    ------
    ValueError
        A name without a glob is that of no run.
    """
    about, names = table.meta.get("runs", {}), run_names(table)
    known = {run: _callings(run, names[run], about.get(run)) for run in dict.fromkeys(table["run"].tolist())}
    patterns = [wanted] if isinstance(wanted, str) else list(wanted)
    found = {
        pattern: [run for run, own in known.items() if any(matches(n, pattern) for n in own)] for pattern in patterns
    }
    for pattern, runs in found.items():
        if known and not runs and not is_glob(pattern):
            near = ", ".join(closest(pattern, [names[run] for run in known]))
            raise ValueError(f"the table has no run {printable(pattern)!r}; closest: {near}")
    return [run for run in known if any(run in runs for runs in found.values())]


def _callings(run: str, name: str, about: Any) -> set[str]:
    """Everything by which a run may be asked for: id, name, path, folder."""
    given, path = _known(about)
    folder = PurePath(os.path.abspath(path)).name if path else ""  # noqa: PTH100 - as above
    return {run, name} | ({path} if path else set()) | ({given or folder} - {""})


def matches(name: str, pattern: str) -> bool:
    """Whether a name is the pattern, which may hold brackets, or matches it as a glob."""
    return name == pattern or fnmatchcase(name, pattern)


def is_glob(pattern: str) -> bool:
    """Whether a pattern may stand for other names than itself."""
    return any(char in pattern for char in "*?[")


def placed(meta: Mapping[str, Any], table: Path) -> dict[str, Any]:
    """The meta of a table with the paths of its runs as seen from here; in its file they begin at the table."""
    return with_paths(meta, lambda path: os.path.normpath(table.parent / path))


def with_paths(meta: Mapping[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """The meta with the path of every run changed; what has no path, or another shape, is left as it is."""
    out, runs = dict(meta), meta.get("runs")
    if isinstance(runs, Mapping):
        out["runs"] = {
            run: {**about, "path": change(about["path"])} if _has_path(about) else about for run, about in runs.items()
        }
    return out


def _has_path(about: Any) -> bool:
    """Whether what the meta says of a run, which anybody may have written, has a path."""
    path = about.get("path") if isinstance(about, Mapping) else None
    return isinstance(path, str) and path != ""
