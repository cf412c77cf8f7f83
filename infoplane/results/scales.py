"""One estimator at several settings: which of them is a scale, and the series at each of its values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

from infoplane.results.overview import TECHNICAL
from infoplane.results.table import ResultTable
from infoplane.results.views import Selection, Series, choose, options

NO_SCALE = frozenset({"seed", "null_seed", "null_draws"})
"""Settings that are numbers and no scale at which a layer is looked at."""


def by_scale(
    table: ResultTable, scale: str | None = None, **select: Unpack[Selection]
) -> tuple[str, dict[float, Series]]:
    """The setting that varies, and the series of each of its values in ascending order, with the same layers.

    Parameters
    ----------
    scale : str, optional
        The setting; by default the one number that varies.
    **select
        As in `infoplane.results.views.choose`; `settings` are those that do not vary.

    Raises
    ------
    ValueError
        There is one setting only, or several differ in more than the scale.
    """
    table = table.current()
    fixed: dict[str, Any] = {**select}
    if fixed.get("subset") is None and "all" in options(table, "subset"):
        fixed["subset"] = "all"
    known = {text: choose(table, **{**fixed, "settings": text}) for text in options(table, "settings", **fixed)}
    if not known:
        choose(table, **fixed)  # raises, saying what there is
    name = the_scale(known, scale)
    found = {float(json.loads(text)[name]): series for text, series in known.items()}
    if len(found) < len(known):
        others = ", ".join(n for n in varying(known) if n != name)
        raise ValueError(f"settings of one {name} differ in {others} as well; choose with settings=...")
    layers = [layer for layer in known.popitem()[1].layers if all(layer in one.layers for one in found.values())]
    return name, {at: series.of_run(series.runs[0], layers) for at, series in sorted(found.items())}


def varying(settings: Sequence[str] | Mapping[str, Any]) -> list[str]:
    """The settings in which configurations, as JSON, differ."""
    configs = [json.loads(text) for text in settings]
    names = dict.fromkeys(name for config in configs for name in config)
    return [n for n in names if len({json.dumps(c.get(n)) for c in configs}) > 1]


def the_scale(settings: Mapping[str, Series], asked: str | None) -> str:
    """The one setting that is a number and varies, or the one that was asked for."""
    configs = [json.loads(text) for text in settings]
    numeric = [
        name
        for name in varying(settings)
        if name not in NO_SCALE and all(type(config.get(name)) in (int, float) for config in configs)
    ]
    have, estimator = ", ".join(numeric) or "none", next(iter(settings.values())).estimator
    if asked is not None and asked not in numeric:
        raise ValueError(f"{asked!r} is no number that varies between settings of {estimator}; such are: {have}")
    if asked is None and len(numeric) > 1:
        raise ValueError(f"settings of {estimator} differ in {have}; choose the axis with scale=...")
    if not numeric:
        had = [(n, v) for n, v in configs[0].items() if type(v) in (int, float) and n not in {*NO_SCALE, *TECHNICAL}]
        other = f", as {estimator}:{had[0][0]}={2 * had[0][1]:g}" if had else ""
        raise ValueError(f"{estimator} was estimated at one scale; estimate it at others{other}, to compare them")
    return asked or numeric[0]
