"""Tables for the report's tests."""

from __future__ import annotations

import json

import numpy as np

from infoplane.results import ResultTable, Row

LAYERS = ("act1", "act2", "out")
STEPS = (0, 1, 10, 100, 1000)
H_Y = 0.99915712


def rows(
    *, run: str = "first", estimator: str = "binning", n_bins: int = 30, subset: str = "all", layers=LAYERS, steps=STEPS
) -> list[Row]:
    rng = np.random.default_rng([n_bins, len(run), len(subset)])
    out = []
    config = json.dumps({"n_bins": n_bins, "null_draws": 20, "seed": 0}, sort_keys=True, separators=(",", ":"))
    for step in steps:
        for depth, layer in enumerate(layers):
            xt = 12.0 if depth == 0 else float(11 - 2 * depth + rng.normal(0, 0.1))
            ty = float(0.9 - 0.2 * depth + 0.02 * np.log10(step + 1) + rng.normal(0, 0.01))
            common = {
                "run": run, "step": step, "epoch": step / 10, "layer": layer, "depth": depth, "subset": subset,
                "estimator": estimator, "config": config, "n_samples": 4096, "n_units": 5, "source": "0" * 32,
            }  # fmt: skip
            out.append(Row(**common, quantity="I(X;T)", estimand="binned", value=xt, ceiling=12.0,
                           flags="saturated" if depth == 0 else ""))  # fmt: skip
            out.append(Row(**common, quantity="I(T;Y)", value=ty, low=ty - 0.01, high=ty + 0.01, ceiling=H_Y))
            out.append(Row(**common, quantity="I(T;Y) null", value=0.1, low=0.08, high=0.12, ceiling=H_Y))
    return out


def metric_rows(*, run: str = "first", steps=STEPS) -> list[Row]:
    return [
        Row(run=run, step=step, epoch=step / 10, layer="", depth=-1, subset="all", estimator="recorded", config="{}",
            n_samples=0, n_units=0, quantity=name, value=value / (1 + step), unit="")
        for step in steps for name, value in (("loss", 0.7), ("test accuracy", 0.5))
    ]  # fmt: skip


def meta(*runs: str, layers=LAYERS) -> dict:
    described = [
        {"key": k, "name": k, "depth": i, "unit_shape": [5], "role": "activation"} for i, k in enumerate(layers)
    ]
    return {
        "infoplane": "0.1.0",
        "versions": {"torch": "2.13.0", "numpy": np.__version__},
        "runs": {run: {"path": f"runs/{run}", "layers": described, "chain": True} for run in runs},
    }


def table() -> ResultTable:
    """Two runs, two settings of one estimator, recorded metrics."""
    every = [row for run in ("first", "second") for n in (30, 60) for row in rows(run=run, n_bins=n)]
    every += [row for run in ("first", "second") for row in metric_rows(run=run)]
    return ResultTable.from_rows(every, meta("first", "second"))
