"""A study of given numbers, without runs and tables."""

from __future__ import annotations

import numpy as np

from infoplane.studies import Measure, Study


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
