"""Information of a sample's law from that of the sample and of its halves: 2 I(N) - <I(N/2)>."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from scipy.special import stdtrit
from torch import Tensor

from infoplane.core.units import BIT
from infoplane.estimators._protocol import Quantities, Quantity
from infoplane.estimators._scaling import numbered_rows

SPLITS = 4
"""Random splits into halves."""
GROWN = 0.1
"""Bits that a value may grow from halves of the sample to all of it: beyond, its error is no longer of order 1/N."""
REPEATED = 0.01
"""Share of inputs that may equal another."""
WHOLE = 0.1
"""Share of all possible inputs from which a probe is no small sample of them."""
ESTIMAND = "noisy-population"


def halves(samples: int, seed: int) -> Iterator[Tensor]:
    """Yield sorted row numbers of both halves of each of `SPLITS` random splits."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(SPLITS):
        order = torch.randperm(samples, generator=generator, device="cpu")
        for part in (order[: samples // 2], order[samples // 2 :]):
            yield part.sort().values


def continued(found: Mapping[str, Quantity], parts: Sequence[Quantities], *, classes: bool) -> Quantities:
    """Return the quantities `found`, with 2 I(N) - mean I(N / 2) for each information I: its value for the law itself.

    `parts` are the quantities of `halves`, in their order; `classes` says whether Y are classes. Where an information
    moves too much between halves and the whole, or is saturated, the value is NaN with the flag `saturated`. Nulls are
    left out.
    """
    # Where I(X;T), or I(X;T|Y), is too close to saturation, so is their difference I(T;Y).
    names = [name for name, q in found.items() if q.unit == BIT and not name.endswith((" null", " upper", " lower"))]
    grown = {name: found[name].value - _mean([part[name].value for part in parts]) for name in names}
    full = {name: (grown[name].abs() > GROWN) | found[name].flags["saturated"] for name in names}
    full["I(T;Y)"] = torch.stack([*full.values()]).any(0)
    out: dict[str, Quantity] = {}
    for name, quantity in found.items():
        if name not in names:
            out |= {} if name.endswith(" null") else {name: quantity}  # bounds are of the law already
            continue
        value = torch.where(full[name], float("nan"), quantity.value + grown[name])
        half = _half_width(quantity, [part[name].value for part in parts])
        out[name] = dataclasses.replace(
            quantity,
            value=value,
            low=value - half,
            high=value + half,
            ceiling=quantity.ceiling if name == "I(T;Y)" and classes else None,
            estimand=ESTIMAND,
            flags={**quantity.flags, "saturated": full[name]},
        )
    return out


def _mean(values: Sequence[Tensor]) -> Tensor:
    """Return the mean of tensors, added in their order: bit for bit the same for a snapshot alone and in a block."""
    return sum(values[1:], values[0]) / len(values)


def _half_width(quantity: Quantity, parts: Sequence[Tensor]) -> Tensor:
    """Return half the width (S,) of the 95 % interval, by differences of halves and Monte Carlo errors."""
    # The two halves of a split are independent and each has twice the variance: their difference has four times it.
    squares = [(a - b).square() / 4.0 for a, b in zip(parts[::2], parts[1::2], strict=True)]
    sampling = float(stdtrit(SPLITS, 0.975)) ** 2 * _mean(squares)
    # 2 value - mean of the halves: the Monte Carlo error of the value counts twice.
    drawn = torch.zeros_like(quantity.value) if quantity.high is None else 2.0 * (quantity.high - quantity.value)
    return (sampling + drawn.square()).sqrt()


def refuse_whole_population(x_ids: Tensor, x: Tensor | None) -> None:
    """Raise ValueError if inputs repeat, or are a tenth or more of all combinations of the values of their features.

    `x_ids` (N,) count from 0, `x` is (N, F).
    """
    samples, inputs = len(x_ids), int(x_ids.max()) + 1
    if x is not None and x.shape[1] and inputs == samples:
        distinct = len(numbered_rows(x)[1])
        inputs = distinct if distinct < (1 - REPEATED) * samples else inputs  # a few equal inputs may be chance
    if inputs < samples:
        raise ValueError(
            f"population=True takes every input once, got {samples} samples of {inputs} inputs: no sample of a law "
            "whose error falls as 1/N; use population=False, which is exact for the inputs of the probe"
        )
    possible = _combinations(x, samples) if x is not None and x.shape[1] else math.inf
    if WHOLE * possible <= samples:
        raise ValueError(
            f"population=True continues from a sample to its law, got {samples} of at most {possible} inputs that the "
            "features can make: the probe is (nearly) the whole population; use population=False, which is exact for it"
        )


def _combinations(x: Tensor, samples: int) -> float:
    """Return how many inputs the values of the features `x` (N, F) combine to.

    It is infinite if not known, or if above ten times `samples`, where the exact number plays no part.
    """
    possible = 1
    for column in x.T:
        values = len(torch.unique(column))
        possible *= values
        # A feature that hardly repeats a value may have others, nobody knows how many.
        if 2 * values > samples or WHOLE * possible > samples:
            return math.inf
    return possible
