"""One estimator at several settings: which of them is a scale, and the series at each of its values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

from infoplane.results.overview import TECHNICAL
from infoplane.results.table import ResultTable
from infoplane.results.views import Selection, Series, choose, options, varying

NO_SCALE = frozenset({"seed", "null_seed", "null_draws"})
"""Settings that are numbers and no scale at which a layer is looked at."""


def by_scale(
    table: ResultTable, scale: str | None = None, **select: Unpack[Selection]
) -> tuple[str, dict[float, Series]]:
    """Return the name of the setting that varies, and {its value: the series at that value}, in ascending order.

    All series have the same layers: those that the estimates at every value have.

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
        choose(table, **fixed)  # nothing fits: this raises an error that says what the table has
    configs = [json.loads(text) for text in known]
    name = the_scale(next(iter(known.values())).estimator, configs, scale)
    found = {float(config[name]): series for config, series in zip(configs, known.values(), strict=True)}
    if len(found) < len(known):
        others = ", ".join(n for n in varying(configs) if n != name)
        raise ValueError(f"settings of one {name} differ in {others} as well; choose with settings=...")
    layers = [layer for layer in known.popitem()[1].layers if all(layer in one.layers for one in found.values())]
    return name, {at: series.of_run(series.runs[0], layers) for at, series in sorted(found.items())}


def the_scale(estimator: str, configs: Sequence[Mapping[str, Any]], asked: str | None) -> str:
    """Return the name of the setting that is the scale: `asked`, or without it the only number that varies.

    `configs` has the settings of each estimate. ValueError where the one asked for is no number that varies, or where
    none is asked for and not exactly one varies.
    """
    able = [name for name in varying(configs) if name not in NO_SCALE]
    numeric = [name for name in able if all(type(config.get(name)) in (int, float) for config in configs)]
    have = ", ".join(numeric) or "none"
    if asked is not None and asked not in numeric:
        raise ValueError(f"{asked!r} is no number that varies between settings of {estimator}; such are: {have}")
    if asked is None and len(numeric) > 1:
        raise ValueError(f"settings of {estimator} differ in {have}; choose the axis with scale=...")
    if not numeric:
        # As an example of another scale the error shows a setting at twice its value.
        had = [(n, v) for n, v in configs[0].items() if type(v) in (int, float) and n not in {*NO_SCALE, *TECHNICAL}]
        other = f", as {estimator}:{had[0][0]}={2 * had[0][1]:g}" if had else ""
        raise ValueError(f"{estimator} was estimated at one scale; estimate it at others{other}, to compare them")
    return asked or numeric[0]
