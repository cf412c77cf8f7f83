"""What the mixture estimators share: labels and shuffles of a call, common flags, a loop over snapshots."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from infoplane.estimators._driver import Given, Null, Problem
from infoplane.estimators._labels import Grouping, entropy_of_counts, interval_95, shuffles_of_rows, standard_targets
from infoplane.estimators._settings import listed

DTYPES = {"auto": None, "float32": torch.float32, "float64": torch.float64}
PRECISIONS = listed(*DTYPES)
Precision = Literal["auto", "float32", "float64"]
ESTIMAND = "noisy-finite"
SATURATED = 0.99
"""Share of its ceiling from which a value says more about the sample than about the layer."""


class MixtureProblem(Problem):
    """Labels, inputs and shuffles of one call, and one snapshot after the other as a mixture of its rows.

    Attributes
    ----------
    x_ids : (N,) int64
    head : (n,) int64
        Rows that the mixture is made of: all, or the first of each input.
    classes : Grouping
        Of these rows; one class where targets are continuous.
    pairs : (n,) int64
        Number of each row's pair of input and class.
    targets : (n, k) or None
        Continuous targets in units of their noise; None for classes, and where no target varies.
    h_x, h_y, given_y : () float64
        H(X), H(Y) and H(X|Y).
    shuffled : (draws, n) int64 or None
        Shuffled labels in the order of the classes, or rows of shuffled targets; None without draws or with one class.
    one_class, class_per_input, several_labels : bool
        Whether there is a single label; every input has a label of its own; rows of one input have several labels.
    """

    several_labels = False

    def __init__(self, config: Any, given: Given, head: Tensor | None = None) -> None:
        """Group the rows `head` by class and find the entropies of Y and X and the shuffles."""
        super().__init__(config, given)
        self.x_ids, self.dtype = given.x_ids, DTYPES[config.dtype]
        self.head = torch.arange(len(given.y), device=given.y.device) if head is None else head
        y, ids = given.y[self.head], given.x_ids[self.head]
        # Continuous targets leave one class.
        labels = torch.zeros_like(ids) if self.continuous else torch.unique(y, return_inverse=True)[1]
        self.classes, inputs = Grouping.of(labels), torch.bincount(ids)
        count = len(self.classes.counts)
        self.pairs, self.h_x, self.h_y, self.given_y = ids, entropy_of_counts(inputs), self.zero(), self.zero()
        if not self.continuous:
            self.pairs = torch.unique(ids * count + labels, return_inverse=True)[1]
            self.h_y = entropy_of_counts(torch.bincount(labels))
            pair_counts = torch.bincount(self.pairs)
            self.given_y = entropy_of_counts(pair_counts) - self.h_y
            self.several_labels = len(pair_counts) > len(inputs)
        self.targets = standard_targets(y, config.target_scale) if self.continuous else None
        self.one_class = self.targets is None if self.continuous else count == 1
        self.class_per_input = count > 1 and count == len(inputs)
        self.repeated = Grouping.of_repeated(given.x_ids)
        self.shuffled: Tensor | None = None
        if config.null_draws and (self.continuous or count > 1):
            rows = shuffles_of_rows(ids, config.null_draws, config.seed)
            self.shuffled = rows if self.continuous else labels[rows][:, self.classes.order]

    def zero(self) -> Tensor:
        """Return 0, () float64, on the device of the layer."""
        return torch.zeros((), dtype=torch.float64, device=self.t.device)

    def null_of(self, found: dict[str, Tensor]) -> Null | None:
        """Return the null of I(T;Y) from "null" (S, draws); None where labels were not shuffled."""
        return Null(*interval_95(found["null"]), slack=1e-9) if "null" in found else None

    def saturated(self, found: dict[str, Tensor], i_xt: str, i_ty: str, ceiling: Tensor) -> Tensor:
        """Return (S,) whether I(T;Y) is at its `ceiling` only because all samples are told apart: any labels would do.

        It is always taken to be where every input has a class of its own. `i_xt` and `i_ty` are the keys of I(X;T) and
        I(T;Y) in `found`.
        """
        return (at_ceiling(found[i_xt], self.h_x) & at_ceiling(found[i_ty], ceiling)) | self.class_per_input


class NullColumns:
    """Within-class sums for shuffled labels by a product of the kernel with indicator columns.

    Each draw has a column for every class but the last, whose sum is what remains of the whole.
    """

    def __init__(self, shuffled: Tensor, classes: int) -> None:
        """Make the columns from shuffled labels (R, N), R draws, of K classes."""
        self._label, self._classes = shuffled, classes
        with_column = torch.arange(classes - 1, device=shuffled.device)
        # (R (K - 1), N)
        self.columns = (shuffled[:, None] == with_column[None, :, None]).flatten(0, 1).to(torch.float32)

    def own_sums(self, product: Tensor, whole: Tensor) -> Tensor:
        """Return each row's sum (R, N) of the kernel over the rows of its own shuffled class.

        `product` (R (K - 1), N) is that of the columns with the kernel, `whole` (N,) each row's sum over all rows.
        """
        by_class = product.view(len(self._label), self._classes - 1, -1)
        own = whole - by_class.sum(1)  # the class without a column has the rest
        for k in range(self._classes - 1):
            own = torch.where(self._label == k, by_class[:, k], own)
        # The row's own term is 1, whatever cancelled in the difference.
        return own.clamp_(min=1.0)


def columns_pay(classes: int, samples: int, units: int, draws: int) -> bool:
    """Return whether `NullColumns` cost less than a pass over the pairs within the shuffled classes for each draw.

    Times of one draw in ns as measured on one core: a column 0.035 per pair of rows; a pair within a class
    1.5 + D / 15 of which symmetry saves up to a half, and 0.1 ms for each class.
    """
    if 16 * draws * (classes - 1) * samples > 32 << 20:  # columns and their products would take more than 32 MiB
        return False
    pairs = samples**2 / classes * min(1.0, 0.5 + 256 * classes / samples)
    return 0.035 * (classes - 1) * samples**2 <= (1.5 + units / 15) * pairs + 1e5 * classes


def at_ceiling(value: Tensor, ceiling: Tensor) -> Tensor:
    """Return whether values are at 99 % of their ceiling or above; never where the ceiling is 0."""
    return (value >= SATURATED * ceiling) & (ceiling > 0)


def log2_ratio_mean(size: Tensor | float, sums: Tensor) -> Tensor:
    """Return mean_i log2(size_i / sums_i) over the last axis of `sums` (..., n); exactly 0 where sums are sizes."""
    log_size = size.log2() if isinstance(size, Tensor) else math.log2(size)
    return (log_size - sums.log2()).mean(-1)


def positive_std(std: float, layer: Tensor) -> float:
    """Return `std`, or for 0 a divisor so small beside the values of `layer` that only equal rows overlap."""
    if std > 0:
        return std
    largest = float(torch.maximum(layer.max(), -layer.min()))
    return max(largest * 1e-150, 1e-300)
