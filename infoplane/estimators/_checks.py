"""Checks that several estimators share: whether a value, or what stands beside it, means what it seems to."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from infoplane.estimators._protocol import Quantity

VOIDING: tuple[str, ...] = ("saturated", "degenerate", "few_samples", "out_of_domain", "unreliable")
"""Flags under which the error of a value is not that of sampling: an interval beside it would promise too much."""

Estimate = Callable[..., dict[str, Quantity]]


def blank_intervals(quantities: Mapping[str, Quantity]) -> dict[str, Quantity]:
    """The quantities with `low` and `high` NaN wherever a flag of `VOIDING` is up.

    An interval is of sampling error. A value that is only `below_null`, `ties` or `out_of_range` keeps it, and so does
    every null ("... null"), whose points are what shuffled labels gave.
    """
    return {name: q if name.endswith(" null") else _blanked(q) for name, q in quantities.items()}


def _blanked(q: Quantity) -> Quantity:
    raised = [q.flags[flag].to(q.value.device) for flag in VOIDING if flag in q.flags]
    if not raised or (q.low is None and q.high is None):
        return q
    void = torch.stack([flag.expand(q.value.shape) for flag in raised]).any(0)

    def blanked(end: Tensor | None) -> Tensor | None:
        return None if end is None else torch.where(void, float("nan"), end)

    return dataclasses.replace(q, low=blanked(q.low), high=blanked(q.high))


def entropy_of_ids(ids: Tensor) -> Tensor:
    """H(X) in bits of input ids (N,), () float64: what telling all inputs apart is worth, log2 N for distinct ones.

    An entropy of T at this height says that inputs are told apart; repeated rows must not lift the bar.
    """
    p = torch.unique(ids, return_counts=True)[1].double() / len(ids)
    bits: Tensor = -(p * p.log2()).sum()
    return bits


def with_blanked_intervals(estimate: Estimate) -> Estimate:
    """The method `estimate`, its result through `blank_intervals`; as it is where that has been done."""
    if getattr(estimate, "blanks_intervals", False):
        return estimate

    @functools.wraps(estimate)
    def blanking(self: object, t: Tensor, y: Tensor, **more: Tensor | None) -> dict[str, Quantity]:
        return blank_intervals(estimate(self, t, y, **more))

    blanking.blanks_intervals = True  # type: ignore[attr-defined]
    return blanking
