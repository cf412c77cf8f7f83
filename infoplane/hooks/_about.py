"""What a recorder says about itself: its probe, layers, sizes and settings."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

import infoplane
from infoplane.core.records import Layer, Probe
from infoplane.core.text import printable
from infoplane.hooks._out.destination import Destination
from infoplane.hooks._pass.prober import Prober
from infoplane.hooks._problems import Problems
from infoplane.hooks.overview import SizePlan, free_bytes
from infoplane.hooks.schedule import Plan, Schedule
from infoplane.store import Problem


class About:
    """The part of a session that changes nothing."""

    schedule: Schedule
    _prober: Prober
    _model: nn.Module
    _destinations: list[Destination]
    _problems: Problems
    _keep: bool
    _total: int | None
    _state: Literal["new", "open", "closed"]

    @property
    def run(self) -> Path | None:
        """The run's directory."""
        return self._destinations[0].run

    @property
    def is_open(self) -> bool:
        """Whether `snapshot` can be called."""
        return self._state == "open"

    @property
    def probe(self) -> Probe:
        """Ids, labels and parts of the recorded rows."""
        return self._prober.probe.record

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The recorded layers in forward order; empty before entry."""
        return self._prober.layers

    @property
    def chain(self) -> bool | list[str]:
        """Whether the layers form a Markov chain from the input on; else the keys of those that do, or False.

        Found by following one forward pass: a layer belongs to the chain when every path from the input to the
        last layer goes through it and its stored values determine its output.
        """
        return self._prober.chain

    @property
    def skipped(self) -> Mapping[str, str]:
        """Layers that were selected by a pattern or by default and are not recorded, with the reason."""
        return self._prober.skipped

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What could not be recorded so far, with reason and steps: missing layers, metrics and steps, sinks.

        Last come the steps that the disk did not take. It stands in the session's file too, and `verify` lists it. What
        the model did not call is a `note`.
        """
        return (*self._problems.listed, *(p for d in self._destinations for p in d.unwritten))

    @property
    def sizes(self) -> SizePlan:
        """Bytes per layer, snapshot and run, and the free disk; after entry."""
        plan = None if self._total is None else len(self.schedule.plan(self._total))
        where = self.run if self._keep else None
        return SizePlan(
            layers=self.layers,
            samples=self.probe.samples,
            snapshots=plan,
            free=None if where is None else free_bytes(where),
            where="" if where is None else str(where.absolute().parent),
            members=len(self._destinations),
        )

    def plan(self, total: int) -> Plan:
        """The steps that a run of `total` steps records; prints them."""
        return self.schedule.plan(total)

    def __repr__(self) -> str:
        return (
            f"Recorder({printable(type(self._model).__name__)}, {self.probe.samples} rows of {self.probe.target} "
            f"labels, {len(self.layers)} layers, {self.schedule}, {self._state})"
        )

    def settings(self) -> dict[str, Any]:
        """What a reader has to know about how the run was recorded; goes into `run.json`."""
        prober = self._prober
        passes = int(self.probe.repeats.max())
        return {
            "model": f"{type(self._model).__module__}.{type(self._model).__qualname__}",
            "layers": [la.key for la in self.layers],
            "chain": self.chain,
            "skipped": dict(self.skipped),
            "schedule": str(self.schedule),
            "reductions": {la.key: la.reduction for la in self.layers},
            "dtype": _dtype_name(prober.options.dtype),
            "autocast": _dtype_name(prober.autocast),
            "mode": "eval" if prober.evaluation else "train",
            "probe_batch_size": prober.batch_size,
            "repeats": [int((self.probe.repeats == 1).sum()), passes] if passes else None,
            "seed": prober.seed,
            "target": self.probe.target,
            "versions": {
                "infoplane": infoplane.__version__,
                "torch": str(torch.__version__),
                "numpy": np.__version__,
                "python": platform.python_version(),
            },
        }


def _dtype_name(dtype: torch.dtype | None) -> str | None:
    return None if dtype is None else str(dtype).removeprefix("torch.")
