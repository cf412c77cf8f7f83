"""What the mixture estimators share: rows grouped by class and by input, shuffled labels, common flags."""

from __future__ import annotations

import math

import torch
from torch import Tensor

SATURATED = 0.99
"""Share of its ceiling from which a value says more about the sample than about the layer."""


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
