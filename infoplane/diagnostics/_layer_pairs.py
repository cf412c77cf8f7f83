"""Lists of layers, each as the matrix of its measure, and the similarities of all pairs of two lists."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, cast

import numpy as np
import numpy.typing as npt

from infoplane.core.errors import choices
from infoplane.core.records import FloatArray, IntArray
from infoplane.diagnostics._measures import DEFAULTS, KINDS, Measure, MeasureSettings, Side, compared, permuted
from infoplane.diagnostics._place import centred, class_labels, digest, units_float64

LEAST_SAMPLES = 4
"""The unbiased HSIC divides by N - 3."""


class Layers:
    """The matrices of a list of layers, made on the same rows: all, or `limit` drawn ones where there are more."""

    def __init__(
        self,
        layers: Iterable[npt.ArrayLike],
        make_side: Callable[[FloatArray], Side],
        limit: int,
        seed: int,
        count: int = 0,
    ) -> None:
        """Make the matrix of each layer by `make_side`, from at most `limit` rows, which are drawn with `seed`.

        `count` is the number of rows that the layers must have, as those of a first list; 0 for the first list itself.
        """
        name = "others" if count else "layers"
        self.limit, self.seed, self.count = limit, seed, count
        self.used: IntArray | slice = slice(None)
        self.sides: list[Side] = []
        self.units: list[int] = []
        self.digests: list[str] = []
        for i, layer in enumerate(layers):
            a = units_float64(layer, f"{name}[{i}]")
            self._choose_rows(len(a))
            rows = a[self.used]
            self.sides.append(make_side(centred(rows)))
            self.units.append(rows.shape[1])
            self.digests.append(digest(rows))

    def _choose_rows(self, count: int) -> None:
        """Check that a layer has as many rows as those before, and draw `limit` rows where it has more."""
        self.count = self.count or count
        if count != self.count:
            raise ValueError(f"all layers must see the same samples, got {self.count} and {count}")
        if count < LEAST_SAMPLES:
            raise ValueError(f"similarity needs at least {LEAST_SAMPLES} samples, got {count}")
        if count > self.limit:
            drawn = np.random.default_rng(self.seed).choice(count, self.limit, replace=False)
            self.used = np.sort(drawn).astype(np.int64)


def settings_of(measure: Measure, given: MeasureSettings) -> MeasureSettings:
    """Return all settings of a measure, given or default; ValueError for one that it does not have, or a bad value."""
    if measure not in KINDS:
        raise ValueError(f"no measure named {measure!r}; {choices(measure, KINDS)}")
    known = KINDS[measure].settings
    for name, value in given.items():
        if name not in known:
            raise ValueError(f"measure {measure!r} has no setting {name!r}; it has {', '.join(known) or 'none'}")
        if name == "n_neighbors" and not isinstance(value, int | np.integer):
            raise ValueError(f"n_neighbors must be a whole number, got {value}")
        if not cast(float, value) > 0 or (name == "variance" and cast(float, value) > 1):
            raise ValueError(f"{name} must be positive{', at most 1' if name == 'variance' else ''}, got {value}")
    return cast(MeasureSettings, {name: {**DEFAULTS, **given}[name] for name in known})


def orders_of(
    left: Layers, labels: npt.ArrayLike | None, within: Literal["all", "class"], draws: int, seed: int
) -> list[IntArray]:
    """Draw `draws` permutations (N,) of the used rows: of all, or with within="class" of the rows of each class apart.

    ValueError where the labels are missing or no class has two rows.
    """
    count = len(np.arange(left.count)[left.used])  # `used` is a slice of all rows, or the numbers of some
    groups = [np.arange(count)]  # of rows that change places
    if within == "class":
        if labels is None:
            raise ValueError("within='class' needs labels=")
        y = class_labels(labels, left.count, "labels")[left.used]
        groups = [np.flatnonzero(y == label) for label in np.unique(y)]
        if max(map(len, groups)) < 2:
            raise ValueError("within='class' needs a class with two rows; every row has a class of its own")
    elif within != "all":
        raise ValueError(f"within must be 'all' or 'class', got {within!r}")
    rng, orders = np.random.default_rng(seed), []
    for _ in range(draws):
        order = np.arange(count)
        for group in groups:
            order[group] = rng.permutation(group)
        orders.append(order)
    return orders


def all_pairs(left: Layers, right: Layers, measure: Measure, orders: Sequence[IntArray]) -> FloatArray:
    """Return the similarities (1 + draws, A, B) of A layers with B layers, then of A with B in each of the `orders`."""
    found = np.full((1 + len(orders), len(left.sides), len(right.sides)), np.nan)
    for b, second in enumerate(right.sides):
        for draw in range(len(found)):
            matrix = permuted(measure, second.matrix, orders[draw - 1]) if draw else second.matrix
            # In a list compared with itself, (b, a) is the same as (a, b): only half of the pairs are computed.
            for a, first in enumerate(left.sides[: b + 1] if right is left else left.sides):
                found[draw, a, b] = compared(measure, first.matrix, matrix)
                if right is left:
                    found[draw, b, a] = found[draw, a, b]
    return found
