"""Small recorded runs and estimators for the tests of the analysis; importable in spawned processes."""

from __future__ import annotations

import math
import os
import signal
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from infoplane.analysis import analyze
from infoplane.core import Layer, Probe, Snapshot
from infoplane.estimators import Quantity, check_inputs, prepared
from infoplane.store import StoreWriter

SAMPLES = 60
STOP = {"after": math.inf}
"""Calls in the log of `Spread` after which it presses Ctrl-C."""


def probe(n=SAMPLES, classes=3, seed=0, **changes):
    rng = np.random.default_rng(seed)
    fields: dict[str, Any] = {
        "sample_ids": np.arange(n),
        "input_ids": np.arange(n),
        "repeats": np.zeros(n, np.int64),
        "labels": rng.integers(0, classes, n),
        "part": (np.arange(n) >= 2 * n // 3).astype(np.int64),
        "part_names": ("train", "test"),
        "inputs": rng.normal(size=(n, 4)).astype(np.float32),
    }
    return Probe(**{**fields, **changes})


def layer_of(i, units, dtype="float32", **changes):
    shape = units if isinstance(units, tuple) else (units,)
    fields = {"key": f"fc{i}", "name": f"fc{i}", "depth": i, "unit_shape": shape, "dtype": dtype, "role": "activation"}
    return Layer(**{**fields, **changes})


def activations(seed, step, i, units, n=SAMPLES):
    shape = units if isinstance(units, tuple) else (units,)
    rng = np.random.default_rng([seed, step, i])
    return np.tanh(rng.normal(size=(n, *shape)) * (1 + step / 4)).astype(np.float32)


def make_run(path, *, steps=range(6), units=(4, 2), seed=0, bad=(), on=None, resume=False, settings=None, **writer):
    """A run of tanh layers `fc0`, `fc1`, ...; `bad` are (layer, step) pairs that hold one NaN."""
    on = on or probe()
    layers = tuple(layer_of(i, u) for i, u in enumerate(units))
    with StoreWriter(
        path, probe=on, settings=settings or {"chain": True}, background=False, resume=resume, **writer
    ) as write:
        for step in steps:
            arrays = {}
            for i, u in enumerate(units):
                arrays[f"fc{i}"] = activations(seed, step, i, u, on.samples)
                if (i, step) in bad:
                    arrays[f"fc{i}"][7, 0] = np.nan
            write(
                Snapshot(
                    step=step,
                    epoch=step / 2,
                    time=float(step),
                    layers=layers,
                    arrays=arrays,
                    metrics={"loss": 1.0 / (1 + step)},
                )
            )
    return Path(path)


@dataclass(frozen=True, kw_only=True)
class Spread:
    """No information at all, but cheap and exact: mean square of a layer over its largest square in the run.

    `refuse_units` makes it refuse layers of that many units; `log` names a file that gets a "p" for every call
    of prepare and an "e" for every snapshot estimated.
    """

    name: ClassVar[str] = "spread"
    targets: ClassVar[frozenset[str]] = frozenset({"discrete", "continuous"})
    guarantees: ClassVar[frozenset[str]] = frozenset({"blocks"})
    scale: float = 1.0
    refuse_units: int = 0
    top: float | None = prepared()
    log: str = ""

    def bytes_per_snapshot(self, samples: int, units: int) -> int:
        return 1000

    def prepare(self, blocks, y, x=None):
        self._note("p")
        return replace(self, top=max(float(t.abs().max()) for t in blocks))

    def estimate(self, t, y, *, x=None, x_ids=None):
        t, y, x_ids = check_inputs(t, y, x_ids, targets=self.targets, name=self.name)
        if t.shape[2] == self.refuse_units:
            raise ValueError(f"spread wants no layers of {self.refuse_units} units")
        self._note("e" * len(t))
        mean = t.double().square().mean((1, 2))
        full = torch.full_like(mean, 2.0)
        low = torch.zeros(len(t), dtype=torch.bool)
        return {
            "I(X;T)": Quantity(
                value=self.scale * mean / (self.top or 1.0) ** 2, ceiling=full, flags={"saturated": low}
            ),
            "I(T;Y)": Quantity(value=mean * y.double().mean(), ceiling=torch.tensor(1.0, dtype=torch.float64)),
            "H(T)": Quantity(value=mean, low=mean - 0.1, high=mean + 0.1),
        }

    def _note(self, what: str) -> None:
        if self.log:
            with Path(self.log).open("a") as file:
                file.write(what)
            if len(Path(self.log).read_text()) >= STOP["after"]:
                raise KeyboardInterrupt


@dataclass(frozen=True, kw_only=True)
class Apart(Spread):
    """The same as what it is, no Shannon information: it takes any pair."""

    name: ClassVar[str] = "apart"
    shannon: ClassVar[bool] = False


@dataclass(frozen=True, kw_only=True)
class Deadly(Spread):
    """The same, but the first process that estimates the layer of 2 units, before the file `fuse` exists, is killed."""

    name: ClassVar[str] = "deadly"
    fuse: str = ""

    def estimate(self, t, y, *, x=None, x_ids=None):
        if t.shape[2] == 2 and not Path(self.fuse).exists():
            Path(self.fuse).touch()
            die(0)
        return super().estimate(t, y, x=x, x_ids=x_ids)


@dataclass(frozen=True, kw_only=True)
class Broken:
    """Raises what no estimator should."""

    name: ClassVar[str] = "broken"
    targets: ClassVar[frozenset[str]] = frozenset({"discrete"})
    guarantees: ClassVar[frozenset[str]] = frozenset()
    chunk: ClassVar[int] = 6
    kind: str = "RuntimeError"

    def bytes_per_snapshot(self, samples: int, units: int) -> int:
        return 1000

    def estimate(self, t, y, *, x=None, x_ids=None):
        raise {"RuntimeError": RuntimeError, "ZeroDivisionError": ZeroDivisionError}[self.kind]("no such luck")


@dataclass(frozen=True, kw_only=True)
class Together:
    """Estimates four snapshots as one program: each value depends on all of them, and on how many there are."""

    name: ClassVar[str] = "together"
    targets: ClassVar[frozenset[str]] = frozenset({"discrete", "continuous"})
    guarantees: ClassVar[frozenset[str]] = frozenset()
    chunk: ClassVar[int] = 4

    def bytes_per_snapshot(self, samples: int, units: int) -> int:
        return 1000

    def estimate(self, t, y, *, x=None, x_ids=None):
        mean = t.double().square().mean((1, 2))
        value = mean / mean.sum() + len(t)
        return {"I(X;T)": Quantity(value=value), "I(T;Y)": Quantity(value=value * y.double().mean())}


def request(path, table=None, jobs=1, **changes):
    """The request that the resume tests make: several layers, subsets, blocks, and a snapshot with a NaN."""
    return analyze(
        path,
        [Spread(**changes), "binning:n_bins=4,null_draws=2"],
        subsets=("all", "train", "class=*"),
        block_bytes=2500,
        progress=False,
        jobs=jobs,
        table=table,
    )


def child(path, table, started):
    """One analysis in a process that is going to be killed."""
    torch.set_num_threads(1)
    started.set()
    request(path, table)


def die(number, *_):
    os.kill(os.getpid(), signal.SIGKILL)
    return number
