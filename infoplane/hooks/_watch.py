"""What is worth a warning in the values of a snapshot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from infoplane.core.records import Layer
from infoplane.core.warn import warn
from infoplane.hooks._problems import NonFiniteError
from infoplane.hooks.metrics import to_numbers
from infoplane.hooks.probe import ProbeSet

Results = Sequence[tuple[Layer, Tensor]]


class Watch:
    """Looks at every snapshot; each kind of finding is told once."""

    def __init__(self, nonfinite: Literal["warn", "raise"]) -> None:
        self._nonfinite = nonfinite
        self._told: set[str] = set()
        self._seen_repeats = False

    def look(self, step: int, before: Sequence[Layer], results: Results, probe: ProbeSet, *, members: bool) -> None:
        """Raise ValueError for NaN or infinite values where that was asked for; warn of the rest."""
        self._changes(step, before, results)
        self._finite(step, results)
        if probe.passes and not self._seen_repeats:
            self._seen_repeats = True
            self._repeats(results, probe, axis=1 if members else 0)

    def _changes(self, step: int, before: Sequence[Layer], results: Results) -> None:
        known = {layer.key: layer for layer in before}
        for new, _ in results:
            old = known[new.key]
            if (old.unit_shape, old.dtype) != (new.unit_shape, new.dtype):
                self._tell(
                    f"change of {new.key}",
                    f"layer {new.key!r} changed from {old.unit_shape} {old.dtype} to {new.unit_shape} {new.dtype} "
                    f"at step {step}; steps before and after cannot be analysed together",
                )

    def _finite(self, step: int, results: Results) -> None:
        floating = [(layer, values) for layer, values in results if values.is_floating_point()]
        # The sum is sixteen times faster than a look at every value, and finite when all are.
        sums = to_numbers([values.sum(dtype=torch.float32) for _, values in floating])
        for (layer, values), total in zip(floating, sums, strict=True):
            if math.isfinite(total):
                continue
            bad = int((~torch.isfinite(values)).sum())
            if not bad:
                continue
            text = f"layer {layer.key!r} has {bad} NaN or infinite values at step {step}; did training diverge?"
            if self._nonfinite == "raise":
                raise NonFiniteError(text)
            self._tell("nonfinite", f"{text} Later ones are counted without a warning.")

    def _repeats(self, results: Results, probe: ProbeSet, axis: int) -> None:
        """Further passes over a network without noise are the first one again."""
        start, again = probe.first_pass, probe.passes[0]
        for _, values in results:
            first = values.index_select(axis, again.to(values.device))
            if not torch.equal(first, values.narrow(axis, start, len(again))):
                return
        self._tell(
            "repeats",
            "repeats asks for further noisy passes, but the network gives the same values again; install "
            "NoiseInjection, or record with mode='train'",
        )

    def _tell(self, kind: str, text: str) -> None:
        if kind not in self._told:
            self._told.add(kind)
            warn(text)
