"""The funnel layer: where the representations of train and test lie closest, on the scale of the layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from infoplane.core.brief import Brief
from infoplane.core.records import FloatArray
from infoplane.core.units import Z_95
from infoplane.diagnostics._place import Entry, Place, digest, raised, rows
from infoplane.diagnostics._samples import LEAST_DRAWS, equal_rows, random_splits, two_layers
from infoplane.diagnostics.wasserstein import (
    exact_distance,
    random_directions,
    root_mean_square_distance,
    sliced_distance,
)
from infoplane.results import Row

ESTIMATOR = "funnel"
MOST_EXACT = 1000
"""Rows a side that an exact assignment takes at most: its cost grows with their cube."""
Samples = tuple[FloatArray, FloatArray]


@dataclass(frozen=True, eq=False, kw_only=True)
class Funnel(Brief):
    """The distance of train from test in every layer, and how certain it is which layer has the smallest.

    Attributes
    ----------
    layer : str
        The layer with the smallest value.
    layers : tuple of str
    value, low, high : (L,) float64
        (W1 minus its null's mean) over the root mean square distance of two rows, with 95 % intervals over rows; NaN
        where all rows of a layer are equal.
    share : (L,) float64
        Share of the draws in which the layer has the smallest value.
    n_samples : int
        Rows on either side that were compared.
    """

    layer: str
    layers: tuple[str, ...]
    value: FloatArray
    low: FloatArray
    high: FloatArray
    share: FloatArray
    n_samples: int
    n_units: tuple[int, ...]
    config: Mapping[str, object]
    sources: tuple[str, ...]

    def rows(self, where: Place) -> list[Row]:
        """Two rows for each layer, "scaled W1 excess" and "funnel share"; `where` gives run, step and subset."""
        found: list[Row] = []
        for i, layer in enumerate(self.layers):
            value, low, high = (float(numbers[i]) for numbers in (self.value, self.low, self.high))
            flags = raised(degenerate=not math.isfinite(value))
            entries = [
                Entry("scaled W1 excess", value, "rms distance", low, high, flags=flags),
                Entry("funnel share", float(self.share[i]), "share", ceiling=1.0, flags=flags),
            ]
            size = {"n_samples": self.n_samples, "n_units": self.n_units[i]}
            at = replace(where, layer=layer, depth=i)
            found += rows(at, ESTIMATOR, self.config, entries, source=self.sources[i], **size)
        return found


def funnel_layer(
    layers: Mapping[str, tuple[npt.ArrayLike, npt.ArrayLike]],
    *,
    exact: bool = False,
    draws: int = 100,
    null_draws: int = 20,
    directions: int = 256,
    seed: int = 0,
) -> Funnel:
    """The layer in which train and test are closest, and the share of random half samples that agree.

    From each layer's W1 the mean of its null is subtracted, and the rest is divided by the layer's own scale: without
    that, the narrowest layer or the one with the smallest values always wins. Each draw takes half of the rows of
    either side, the same rows in all layers, without repetition. Values of such halves spread as those of bootstrap
    samples do, whose repeated rows would lie at distance 0 in the null.

    How it misleads: some layer always has the smallest value. Where `share` is spread over layers, or the intervals
    overlap, no layer stands out; where all values are about 0, test is like train everywhere.

    Parameters
    ----------
    layers : mapping from name to (train, test)
        In forward order; (N, units) and (M, units) arrays of the same inputs in all layers, further axes are flattened.
    exact : bool
        W1 by assignment, on at most 1000 rows a side, in place of the sliced distance.
    draws : int
        At least 20.
    null_draws : int
        Random splits of the pooled rows, at least 5.
    directions : int
        Random directions of the sliced distance.
    seed : int
        Seeds rows, directions and splits.

    Raises
    ------
    ValueError
        For fewer than two layers, layers of different numbers of rows, fewer than four rows, no layer that varies, or
        bad arrays.

    References
    ----------
    He, Yu and Goldfeld, "Information-theoretic generalization bounds for deep neural networks", 2024.
    """
    if draws < 20 or null_draws < LEAST_DRAWS:
        raise ValueError(f"draws must be at least 20 and null_draws at least {LEAST_DRAWS}, got {draws}, {null_draws}")
    if directions < 1:
        raise ValueError(f"directions must be at least 1, got {directions}")
    known = _checked(layers)
    train, test = next(iter(known.values()))
    size = min(len(train), len(test), MOST_EXACT if exact else len(train))
    found = np.array([_scores(*pair, exact, directions, size, draws, null_draws, seed) for pair in known.values()])
    value, of_draws = found[:, 0], found[:, 1:]  # (L,), (L, draws)
    if not np.isfinite(value).any():
        raise ValueError("no layer varies over these rows; did training diverge?")
    # How often each layer has the smallest value; layers that do not vary never win.
    winner = np.nanargmin(np.where(np.isfinite(value)[:, None], of_draws, np.inf), axis=0)  # (draws,)
    winners = np.bincount(winner, minlength=len(known))
    # Values of halves spread as those of whole samples do: the factor of the delete-d jackknife, n / d - 1, is 1.
    half = Z_95 * of_draws.std(axis=1, ddof=1)
    return Funnel(
        layer=list(known)[int(np.nanargmin(value))],
        layers=tuple(known),
        value=value,
        low=value - half,
        high=value + half,
        share=winners / draws,
        n_samples=size,
        n_units=tuple(a.shape[1] for a, _ in known.values()),
        config={"directions": None if exact else directions, "draws": draws, "exact": exact}
        | {"null_draws": null_draws, "seed": seed},
        sources=tuple(digest(*pair) for pair in known.values()),
    )


def _checked(layers: Mapping[str, tuple[npt.ArrayLike, npt.ArrayLike]]) -> dict[str, Samples]:
    """Return both samples of each layer as (rows, units); ValueError unless all have the same rows, at least four."""
    known = {name: two_layers(*pair, names=(f"{name} of a", f"{name} of b")) for name, pair in layers.items()}
    sizes = {name: (len(a), len(b)) for name, (a, b) in known.items()}
    if len(known) < 2 or len(set(sizes.values())) > 1:
        raise ValueError(f"a funnel layer is one of several layers of the same rows, got {sizes or 'none'}")
    size = next(iter(sizes.values()))
    if min(size) < 4:
        raise ValueError(f"a funnel layer needs at least 4 rows a side, got {size}")
    return known


def _scores(
    a: FloatArray, b: FloatArray, exact: bool, directions: int, size: int, draws: int, null_draws: int, seed: int
) -> list[float]:
    """Return the score of a layer (scaled distance above the null) on `size` rows a side, then on each draw of half.

    All are NaN where no row differs from another.
    """
    # `by_rows` draws rows, `rng` directions and splits. Both start anew for every layer: all are compared on the same
    # rows.
    by_rows, rng = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1])
    lines = random_directions(a.shape[1], directions, rng)
    spread = root_mean_square_distance(a, b)
    if not spread:  # all rows are equal: the layer has no scale
        return [math.nan] * (draws + 1)

    def distance(p: FloatArray, q: FloatArray) -> float:
        """Return the distance of two samples: by assignment of rows, or sliced along the directions."""
        return exact_distance(p, q) if exact else sliced_distance(p, q, lines)

    def excess(pairs: list[Samples], count: int) -> list[float]:
        """Return the distance of each pair of samples of `count` rows, less the mean of pairs split at random."""
        null = np.mean([distance(p[:count], q[:count]) for p, q in random_splits(a, b, null_draws, rng)])
        return [float(distance(*pair) - null) for pair in pairs]

    whole = excess([equal_rows(a, b, size, by_rows)], size)
    halves = excess([equal_rows(a, b, size // 2, by_rows) for _ in range(draws)], size // 2)
    return [score / spread for score in (*whole, *halves)]
