"""Every figure by name, from results on disk to a file: what the command line and the report call."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from infoplane import plots
from infoplane.core.errors import closest
from infoplane.results import ResultTable


def figures() -> dict[str, Callable[..., Any]]:
    """Name -> function of a results table, for every figure of `infoplane.plots`."""
    return {
        name: getattr(plots, name)
        for name in plots.__all__
        if callable(getattr(plots, name)) and _takes_table(getattr(plots, name)) and not name.endswith("_data")
    }


def figures() -> list[str]:
    """Names of the static figures."""
    return list(FIGURES)


def draw_file(
    runs: Sequence[str | os.PathLike[str]], kind: str, out: str | os.PathLike[str], *, dpi: int = 200, **options: Any
) -> Path:
    """Draw the figure `kind` from the results of run directories or CSV files, and write it to `out`.

    Options that are None are left out; one that the figure does not take is an error.

    Raises
    ------
    ValueError
        Unknown figure or option.
    """
    known = figures()
    if kind not in known:
        raise ValueError(f"no figure named {kind!r}; closest: {', '.join(closest(kind, known))}")
    taken = inspect.signature(known[kind]).parameters
    given = {name: value for name, value in options.items() if value not in (None, (), [])}
    for name in given:
        if name not in taken:
            raise ValueError(f"the figure {kind!r} takes no {name!r}; it takes {', '.join(list(taken)[1:])}")
    table = ResultTable.concat([ResultTable.read(run) for run in runs])
    drawn = known[kind](table, **given)
    plots.save(drawn, out, dpi=dpi)
    return Path(out)


def _takes_table(function: Callable[..., Any]) -> bool:
    names = list(inspect.signature(function).parameters)
    return bool(names) and names[0] == "table"
