"""What the mixture estimators share: rows grouped by class and by input, shuffled labels, common flags."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from infoplane.estimators._shuffles import shuffles_of_rows

SATURATED = 0.99
"""Share of its ceiling from which a value says more about the sample than about the layer."""


def entropy_of_counts(counts: Tensor) -> Tensor:
    """Entropy in bits of the distribution with these counts, () float64."""
    p = counts[counts > 0].double() / counts.sum()
    return (p * p.reciprocal().log2()).sum()


@dataclass(frozen=True)
class Grouping:
    """Rows sorted by group, groups numbered from 0 without gaps.

    Attributes
    ----------
    order : (n,) int64
        Rows in the order of their groups.
    counts : list of int
        Rows of each group.
    label : (n,) int64
        Group of each row, sorted.
    size : (n,) float64
        Rows in the group of each row.
    """

    order: Tensor
    counts: list[int]
    label: Tensor
    size: Tensor

    @classmethod
    def of(cls, groups: Tensor, rows: Tensor | None = None) -> Self:
        """Group all rows, or the given ones, by `groups` (N,) int64."""
        chosen = groups if rows is None else groups[rows]
        label, order = torch.sort(chosen, stable=True)
        label, counts = torch.unique_consecutive(label, return_inverse=True, return_counts=True)[1:]
        return cls(
            order=order if rows is None else rows[order],
            counts=counts.tolist(),
            label=label,
            size=counts[label].double(),
        )

    @classmethod
    def of_repeated(cls, groups: Tensor) -> Self | None:
        """Only the groups with more than one row; None where there are none."""
        rows = (torch.bincount(groups)[groups] > 1).nonzero()[:, 0]
        return cls.of(groups, rows) if len(rows) else None

    def __len__(self) -> int:
        return len(self.order)


def shuffle_labels(y: Tensor, x_ids: Tensor, draws: int, seed: int) -> Tensor:
    """Labels (N,) under `draws` random permutations between inputs, (draws, N); those of one input move together."""
    return y[shuffles_of_rows(x_ids, draws, seed)]


class NullColumns:
    """Within-class sums for shuffled labels by a product of the kernel with indicator columns.

    Each draw has a column for every class but the last, whose sum is what remains of the whole.
    """

    def __init__(self, shuffled: Tensor, classes: int) -> None:
        self._label, self._classes = shuffled, classes  # (R, N)
        kept = torch.arange(classes - 1, device=shuffled.device)
        # (R (K - 1), N)
        self.columns = (shuffled[:, None] == kept[None, :, None]).flatten(0, 1).to(torch.float32)

    def own_sums(self, product: Tensor, whole: Tensor) -> Tensor:
        """Sum of the row's own shuffled class, (R, N), from the product with the columns."""
        by_class = product.view(len(self._label), self._classes - 1, -1)
        rest = whole - by_class.sum(1)
        own = rest.clone()
        for k in range(self._classes - 1):
            own = torch.where(self._label == k, by_class[:, k], own)
        # The row's own term is 1, whatever cancelled in the difference.
        return own.clamp_(min=1.0)


def columns_pay(classes: int, samples: int, units: int, draws: int) -> bool:
    """Whether indicator columns cost less than passes over the pairs within the shuffled classes.

    Times of one draw in ns as measured on one core: a column 0.035 per pair of rows; a pair within a class
    1.5 + D / 15 of which symmetry saves up to a half, and 0.1 ms for each class.
    """
    if 16 * draws * (classes - 1) * samples > 32 << 20:
        return False
    pairs = samples**2 / classes * min(1.0, 0.5 + 256 * classes / samples)
    return 0.035 * (classes - 1) * samples**2 <= (1.5 + units / 15) * pairs + 1e5 * classes


def interval_95(draws: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, 2.5 % and 97.5 % points over the last axis."""
    points = torch.tensor([0.025, 0.975], dtype=draws.dtype, device=draws.device)
    low, high = torch.quantile(draws, points, dim=-1)
    return draws.mean(-1), low, high


def at_ceiling(value: Tensor, ceiling: Tensor) -> Tensor:
    return (value >= SATURATED * ceiling) & (ceiling > 0)


def log2_ratio_mean(size: Tensor | float, sums: Tensor) -> Tensor:
    """mean_i log2(size / sums_i) over the last axis; exactly 0 where every sum is its size."""
    log_size = size.log2() if isinstance(size, Tensor) else math.log2(size)
    return (log_size - sums.log2()).mean(-1)


def positive_std(std: float, layer: Tensor) -> float:
    """The std as a divisor: no noise is its limit, at which only equal rows overlap."""
    if std > 0:
        return std
    largest = float(torch.maximum(layer.max(), -layer.min()))
    return max(largest * 1e-150, 1e-300)


def standard_targets(y: Tensor, scale: float) -> Tensor | None:
    """Targets (N, k) float64 in units of their noise, `scale` times the std of each; None if none varies."""
    y = y.reshape(len(y), -1)
    y = y - y[:1]
    largest = y.abs().amax(0)
    y = y[:, largest > 0] / largest[largest > 0]
    if y.shape[1] == 0:
        return None
    return (y - y.mean(0)) / (scale * y.std(0, correction=0))
