"""Noisy samples of every row through a channel, summed against all rows: sample propagation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from infoplane.estimators._channel import AdditiveChannel, Channel
from infoplane.estimators._spans import Span


@dataclass
class Samples:
    """log2 sums of ratios for every draw, and what belongs to them.

    Attributes
    ----------
    whole, within : (2 pairs, n) float64
        Over all rows, and over the rows of the own class.
    control : (2, pairs, n)
        Control variates.
    null : (shuffles, n) or None
        Over the rows of the own shuffled class, for the first draw.
    """

    whole: Tensor
    within: Tensor
    control: Tensor
    null: Tensor | None


def propagate(
    channel: Channel,
    spans: list[Span],
    label: Tensor,
    generator: torch.Generator,
    *,
    pairs: int,
    within_only: bool = False,
    shuffled: Tensor | None = None,
    columns: Tensor | None = None,
) -> Samples:
    """Sums of ratios over all rows and within classes, for `2 * pairs` noisy samples of every row.

    Parameters
    ----------
    spans, label
        Rows sorted by class, as `class_spans` cuts them, and the class of each row.
    shuffled : (R, N) int64 or None
        Shuffled labels in the sorted order, for the null.
    columns : (C, N) or None
        With `columns`, `null` is their product with the ratios, (C, N), not yet logarithms.
    """
    n, device = channel.count, label.device
    across = torch.zeros(2 * pairs, n, dtype=torch.float64, device=device)
    within = torch.zeros_like(across)
    control = torch.zeros(2, pairs, n, dtype=torch.float64, device=device)
    null = None
    if columns is not None:
        columns = columns.to(channel.dtype)
        null = torch.zeros(len(columns), n, dtype=torch.float64, device=device)
    elif shuffled is not None:
        null = torch.zeros(len(shuffled), n, dtype=torch.float64, device=device)
    for a in spans:
        start = channel.start(a, generator)
        control[:, :, a.rows] = start.control
        for b in spans:
            related = b.low <= a.high and a.low <= b.high
            if within_only and not related:
                continue
            one = a.is_one_class_with(b)
            same = None
            if related and not one:
                same = (label[a.rows, None] == label[None, b.rows]).to(channel.dtype)
            for s, ratio in enumerate(channel.ratios(a, start, b)):
                if null is not None and s == 0:
                    if columns is not None:
                        null[:, a.rows].add_(columns[:, b.rows] @ ratio.T)
                    elif shuffled is not None:
                        for r, drawn in enumerate(shuffled):
                            own = drawn[a.rows, None] == drawn[None, b.rows]
                            null[r, a.rows].add_((ratio * own).sum(1))
                if same is not None:
                    part = ratio * same
                    within[s, a.rows].add_(part.sum(1))
                    if within_only:
                        continue
                    ratio.sub_(part)
                (within if one else across)[s, a.rows].add_(ratio.sum(1))
    return Samples(
        whole=across.add_(within).log2_(),
        within=within.log2(),
        control=control,
        null=null,
    )


@dataclass
class JointSamples:
    """log2 sums of ratios of T, of Y and of both together, (2 pairs, n); `null_*` (shuffles, n), first draw."""

    t: Tensor
    y: Tensor
    joint: Tensor
    control: Tensor  # (4, pairs, n)
    null_y: Tensor
    null_joint: Tensor


def propagate_jointly(
    t: Channel,
    y: Channel,
    spans: list[Span],
    generator: torch.Generator,
    *,
    pairs: int,
    shuffled: list[AdditiveChannel],
) -> JointSamples:
    """As `propagate` for a mixture in (T, Y); `shuffled` holds channels of the targets in shuffled order."""
    n, device = t.count, t.device
    sums = torch.zeros(3, 2 * pairs, n, dtype=torch.float64, device=device)
    control = torch.zeros(4, pairs, n, dtype=torch.float64, device=device)
    null = torch.zeros(2, len(shuffled), n, dtype=torch.float64, device=device)
    for a in spans:
        start_t, start_y = t.start(a, generator), y.start(a, generator)
        control[:, :, a.rows] = torch.cat([start_t.control, start_y.control])
        drawn = [channel.start(a, generator) for channel in shuffled]
        for b in spans:
            both = zip(t.ratios(a, start_t, b), y.ratios(a, start_y, b), strict=True)
            for s, (ratio_t, ratio_y) in enumerate(both):
                if s == 0:
                    for r, (channel, start) in enumerate(zip(shuffled, drawn, strict=True)):
                        other = next(iter(channel.ratios(a, start, b)))
                        null[0, r, a.rows].add_(other.sum(1))
                        null[1, r, a.rows].add_(other.mul_(ratio_t).sum(1))
                sums[0, s, a.rows].add_(ratio_t.sum(1))
                sums[1, s, a.rows].add_(ratio_y.sum(1))
                sums[2, s, a.rows].add_(ratio_y.mul_(ratio_t).sum(1))
    found, null = sums.log2(), null.log2()
    return JointSamples(found[0], found[1], found[2], control, null[0], null[1])


def weigh_draws(values: Tensor, control: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over draws and rows, and its standard error.

    Parameters
    ----------
    values : (2 pairs, n)
        Draws 2 m and 2 m + 1 have opposite noise.
    control : (k, pairs, n)
        Of known mean 0; a multiple of each is taken off, fitted on the other half of the rows,
        which keeps the mean unbiased.

    Notes
    -----
    Every row has the same number of draws, so only the spread of the pairs about their own row's mean counts;
    with a single pair the spread over rows stands in for it, which is too large.
    """
    pairs = values.view(len(values) // 2, 2, -1).mean(1)
    count, n = pairs.shape
    axis = (0,) if count > 1 else (0, 1)
    halves = [slice(0, None, 2), slice(1, None, 2)] if n > 1 else [slice(None)]
    total = square = torch.zeros((), dtype=torch.float64, device=values.device)
    for fitted, half in zip(reversed(halves), halves, strict=True):
        rest = _without(pairs[:, half], control[:, :, half], pairs[:, fitted], control[:, :, fitted], axis)
        total = total + rest.sum(1).sum()
        square = square + (rest - rest.mean(axis, keepdim=True)).square().sum(1).sum()
    freedom = max(count * n - (n if count > 1 else len(halves)), 1)
    return total / pairs.numel(), (square / freedom / pairs.numel()).sqrt()


def _without(value: Tensor, control: Tensor, fit_value: Tensor, fit_control: Tensor, axis: tuple[int, ...]) -> Tensor:
    """Take off what a least-squares fit on `fit_*`, about their means over `axis`, ascribes to the controls.

    Gram-Schmidt in plain sums by row, which are the same wherever the numbers lie and whoever adds them.
    """
    residual = fit_value - fit_value.mean(axis, keepdim=True)
    spread = [c - c.mean(axis, keepdim=True) for c in fit_control]
    left = list(control)
    for k, (direction, known) in enumerate(zip(spread, left, strict=True)):
        norm = direction.square().sum(1).sum()
        norm = torch.where(norm > 0, norm, torch.ones_like(norm))
        weight = (direction * residual).sum(1).sum() / norm
        residual, value = residual - weight * direction, value - weight * known
        for later in range(k + 1, len(spread)):
            share = (direction * spread[later]).sum(1).sum() / norm
            spread[later] = spread[later] - share * direction
            left[later] = left[later] - share * known
    return value
