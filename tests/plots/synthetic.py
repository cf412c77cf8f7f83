"""A results table such as a run of a small network gives, without the run."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence

import numpy as np
import pytest

from infoplane import plots
from infoplane.results import ResultTable
from infoplane.results.table import Row

LAYERS = ("act1", "act2", "act3", "act4", "act5", "out")
N = 4096
H_Y = 0.99915712

# (figure, file format): the formats differ in the writer, not in what is drawn, so the second figure has one of them
EVERY_FORMAT = [
    *((plots.plane, kind) for kind in ("png", "svg", "pdf")),
    (plots.curves, "svg"),
    *(pytest.param(plots.curves, kind, marks=pytest.mark.slow) for kind in ("png", "pdf")),
]


def log_steps(n: int = 60, last: int = 8000) -> list[int]:
    return sorted({0, *(round(s) for s in np.geomspace(1, last, n))})


def layer_rows(
    *,
    run: str = "a1b2c3",
    layers: Sequence[str] = LAYERS,
    steps: Sequence[int] | None = None,
    estimator: str = "binning",
    config: dict | None = None,
    subset: str = "all",
    seed: int = 0,
    bounds: bool = False,
    null: bool = True,
) -> list[Row]:
    """Fast fitting, then slow compression of the deeper layers; the first layers tell all inputs apart."""
    rng = np.random.default_rng(seed)
    steps = log_steps() if steps is None else steps
    text = json.dumps(
        config or {"n_bins": 30, "null_draws": 20, "range": "layer", "seed": 0}, sort_keys=True, separators=(",", ":")
    )
    rows = []
    shift = rng.normal(0, 0.12, (len(layers), 2))
    for step in steps:
        fit = 1 / (1 + np.exp(-(np.log10(step + 0.1) - 1.7) * 2.4))
        squeeze = 1 / (1 + np.exp(-(np.log10(step + 0.1) - 3.1) * 3.2))
        for depth, layer in enumerate(layers):
            share = depth / max(1, len(layers) - 1)
            start = 12 - 5.5 * share**1.3 + shift[depth, 0] * (share > 0)
            xt = start + (11.6 - start) * 0.75 * fit * (share > 0) - (2.0 + 4.5 * share) * squeeze * share
            xt = min(12.0, xt + rng.normal(0, 0.03) * (share > 0))
            low = 0.95 - 0.85 * share**0.8
            ty = low + (H_Y - 0.02 * share - low) * fit - 0.03 * squeeze * share + rng.normal(0, 0.004)
            ty = float(np.clip(ty + 0.1 * shift[depth, 1] * share * (1 - fit), 0.01, H_Y))
            flags = "saturated" if xt > 11.95 else ""
            common = {
                "run": run, "step": step, "epoch": float(step), "layer": layer, "depth": depth, "subset": subset,
                "estimator": estimator, "config": text, "n_samples": N, "n_units": 10, "source": f"{seed:032x}",
            }  # fmt: skip
            rows.append(Row(**common, quantity="I(X;T)", estimand="binned", value=xt, ceiling=12.0, flags=flags,
                            bound="upper" if bounds else "point"))  # fmt: skip
            rows.append(Row(**common, quantity="I(T;Y)", value=ty, low=ty - 0.02, high=ty + 0.02, ceiling=H_Y))
            if bounds:
                rows.append(Row(**common, quantity="I(X;T) lower", estimand="binned", value=0.8 * xt - 0.4,
                                bound="lower", ceiling=12.0))  # fmt: skip
            if null:
                chance = 0.9 * max(0.0, (xt - 4.5) / 7.5) ** 3
                rows.append(Row(**common, quantity="I(T;Y) null", value=chance, low=chance - 0.015,
                                high=chance + 0.015, ceiling=H_Y))  # fmt: skip
    return rows


def metric_rows(*, run: str = "a1b2c3", steps: Sequence[int] | None = None, layers: Sequence[str] = ()) -> list[Row]:
    rows = []
    for step in log_steps() if steps is None else steps:
        fit = 1 / (1 + np.exp(-(np.log10(step + 0.1) - 1.7) * 2.4))
        common = {"run": run, "step": step, "epoch": float(step), "depth": -1, "subset": "all", "estimator": "recorded",
                  "config": "{}", "n_samples": 0, "n_units": 0, "unit": ""}  # fmt: skip
        for name, value in (("loss", 0.7 * (1 - fit) + 0.02), ("train accuracy", 0.52 + 0.47 * fit),
                            ("test accuracy", 0.52 + 0.43 * fit)):  # fmt: skip
            rows.append(Row(**common, layer="", quantity=name, value=float(value)))
        for depth, layer in enumerate(layers):
            mean = 0.4 * np.exp(-0.2 * depth) * (1.02 - fit)
            for name, value in (("gradient_mean_norm", mean), ("gradient_std_norm", 0.05 + 0.1 * (1 - fit)),
                                ("weight_norm", 1 + depth + 2 * fit)):  # fmt: skip
                rows.append(Row(**common, layer=layer, quantity=name, value=float(value)))
    return rows


def about_runs(*runs: str, layers: Sequence[str] = LAYERS, steps: Sequence[int] | None = None) -> dict:
    """The part of the meta that names each run's layers."""
    described = [
        {
            "key": key,
            "name": key,
            "depth": i,
            "unit_shape": [10],
            "role": "output" if i == len(layers) - 1 else "activation",
        }
        for i, key in enumerate(layers)
    ]
    return {"infoplane": "0.1.0", "runs": {run: {"path": f"runs/{run}", "layers": described, "chain": True, "n": N}
                                           for run in runs}}  # fmt: skip


def table(**how: object) -> ResultTable:
    run = str(how.get("run", "a1b2c3"))
    steps = how.get("steps")
    rows = layer_rows(**how) + metric_rows(run=run, steps=steps, layers=how.get("layers", LAYERS))  # type: ignore[arg-type]
    return ResultTable.from_rows(rows, about_runs(run, layers=how.get("layers", LAYERS)))  # type: ignore[arg-type]


def as_pairs(table: ResultTable) -> ResultTable:
    """I(X;T) of each layer as its similarity with the next."""
    after = dict(itertools.pairwise(dict.fromkeys(table["layer"].tolist())))
    rows = [row for row in table if row.quantity == "I(X;T)" and row.layer in after]
    change = {"quantity": "CKA(T;T') calibrated", "unit": "CKA above null", "ceiling": 1.0}
    return ResultTable.from_rows(
        (row._replace(**change, value=row.value / 12, partner=after[row.layer]) for row in rows), table.meta
    )
