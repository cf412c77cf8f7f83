"""Studies of given numbers and results tables of many runs, without the runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from infoplane.results import ResultTable, Row
from infoplane.studies import Measure, Study

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


def of(x, y, *, flags=None, **hyper) -> Study:
    """A study of columns x (R, M) with gap y, each column the final value of a layer of its own."""
    names = [f"c{m}" for m in range(x.shape[1])]
    columns = {"run": objects(f"run {r}" for r in range(len(y))), "gap": np.asarray(y, dtype=float)}
    columns |= {name: objects(cells) for name, cells in hyper.items()}
    columns |= {name: x[:, m] for m, name in enumerate(names)}
    settings = ('{"n_bins":30}', '{"n_bins":60}')
    measures = {n: Measure(f"fc{i // 2}", "all", "binning", settings[i % 2], "I(X;T)", "fall", "bit")
                for i, n in enumerate(names)}  # fmt: skip
    return Study(columns, measures, tuple(hyper), {"gap": "test loss - train loss, final"}, flags or {})


def objects(cells):
    cells = list(cells)
    out = np.empty(len(cells), dtype=object)
    out[:] = cells
    return out
