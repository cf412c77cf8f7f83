"""For comparisons of two samples of one layer: equal numbers of rows, random splits, a value beside its null."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from infoplane.core.records import FloatArray
from infoplane.diagnostics._place import Entry, units_float64

LEAST_DRAWS = 5
"""Fewest random draws from which a null has a spread."""
LARGEST = 1e150
"""Largest value whose square, summed over many units, float64 holds."""


def against_null(name: str, value: float, null: FloatArray, unit: str, flags: tuple[str, ...] = ()) -> list[Entry]:
    """Return three entries: a value, its null, and how far the value lies above the null's mean."""
    of_null = null_entry(name, null, unit)
    flags += ("below_null",) if value <= of_null.high else ()
    excess = Entry(f"{name} excess", value - of_null.value, unit, flags=flags)
    return [Entry(name, value, unit, flags=flags), of_null, excess]


def null_entry(name: str, null: FloatArray, unit: str) -> Entry:
    """Return the entry of a null: its mean, with its 2.5 and 97.5 % points as low and high."""
    low, high = np.quantile(null, (0.025, 0.975)).tolist()
    return Entry(f"{name} null", float(null.mean()), unit, low=low, high=high)


def two_layers(
    a: npt.ArrayLike, b: npt.ArrayLike, names: tuple[str, str] = ("a", "b")
) -> tuple[FloatArray, FloatArray]:
    """Return both samples as (rows, units); ValueError for different units, fewer than 2 rows or values above 1e150."""
    left, right = (units_float64(each, name) for each, name in zip((a, b), names, strict=True))
    if left.shape[1] != right.shape[1]:
        raise ValueError(f"both samples must be of one layer, got {left.shape[1]} and {right.shape[1]} units")
    if min(len(left), len(right)) < 2:
        raise ValueError(f"two samples need at least 2 rows each, got {len(left)} and {len(right)}")
    largest = max(float(np.abs(each).max()) for each in (left, right))
    if largest > LARGEST:
        raise ValueError(f"values reach {largest:.3g}, whose squares float64 cannot hold; divide both samples by it")
    return left, right


def equal_rows(a: FloatArray, b: FloatArray, size: int, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Draw `size` rows of each sample; the same rows where both have equally many, since these may be pairs."""
    of_a = np.sort(rng.permutation(len(a))[:size])
    of_b = of_a if len(a) == len(b) else np.sort(rng.permutation(len(b))[:size])
    return a[of_a], b[of_b]


def random_splits(
    a: FloatArray, b: FloatArray, draws: int, rng: np.random.Generator
) -> Iterator[tuple[FloatArray, FloatArray]]:
    """Yield `draws` random splits of the pooled rows into two samples of the sizes of `a` and `b`."""
    pooled = np.concatenate([a, b])
    for _ in range(draws):
        order = rng.permutation(len(pooled))
        yield pooled[order[: len(a)]], pooled[order[len(a) :]]
