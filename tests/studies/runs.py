"""Results tables of many runs, without the runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from infoplane.results import ResultTable, Row

Curves = Mapping[tuple[str, str], Sequence[float]]
"""By layer and quantity: the value at each step."""


def a_run(
    run: str,
    curves: Curves,
    *,
    steps: Iterable[int] = (0, 1, 3, 7),
    metrics: Mapping[str, Sequence[float]] | None = None,
    about: Mapping[str, Any] | None = None,
    config: str = '{"n_bins":30}',
    **meta: Any,
) -> ResultTable:
    """The table of one run; layers are activations but for `out`, and as deep as they come."""
    steps, rows = list(steps), []
    for name, values in (metrics or {}).items():
        rows += [Row(run, s, s, "", -1, "all", "recorded", "{}", 0, 0, name, value=v, unit="")
                 for s, v in zip(steps, values, strict=True)]  # fmt: skip
    layers = list(dict.fromkeys(layer for layer, _ in curves))
    for (layer, quantity), values in curves.items():
        place = (layer, layers.index(layer), "all", "binning", config, 100, 3, quantity)
        rows += [Row(run, s, s, *place, value=v) for s, v in zip(steps, values, strict=True)]
    entry = {
        "path": f"runs/{run}",
        "layers": [{"key": layer, "role": "output" if layer == "out" else "activation"} for layer in layers],
        "settings": {} if about is None else {"about": dict(about)},
    }
    return ResultTable.from_rows(rows, {"runs": {run: entry | meta}})
