"""Which runs belong together (seeds of one configuration, configurations of one stratum), and their random orders."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from infoplane.core.records import FloatArray, IntArray
from infoplane.studies.frame import Study


def configurations(study: Study, repetitions: Sequence[str] | None) -> IntArray:
    """Return the number of each run's configuration, (R,): runs that differ only in the hyper-parameters `repetitions`.

    Each run is a configuration of its own if `repetitions` is None, if no other hyper-parameters are known, and if all
    runs would be of one configuration.
    """
    told = [study[name].tolist() for name in study.hyper if repetitions is not None and name not in repetitions]
    keys = list(zip(*told, strict=True))
    number = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    return np.array([number[key] for key in keys]) if len(number) > 1 else np.arange(len(study))


def strata_of(groups: IntArray, control: FloatArray | None) -> IntArray:
    """Return the stratum of each run, (R,): the number of its value of the control if the control is swept, else 0.

    `groups` (R,) has the configuration of each run. A control counts as swept, and not measured, if it is the same for
    all runs of a configuration, and each value belongs to two configurations or more on average. Measured values differ
    between almost all configurations.
    """
    single = np.zeros(len(groups), dtype=np.int64)
    if control is None:
        return single
    values, strata = np.unique(control, return_inverse=True)
    pairs = list(zip(groups.tolist(), strata.tolist(), strict=True))
    of_group = dict(pairs)  # {configuration: stratum}, of its last run; `alike` tests that its runs agree
    alike = all(of_group[group] == stratum for group, stratum in pairs)
    return strata if alike and 2 * len(values) <= len(of_group) else single


def exchangeable(groups: IntArray, strata: IntArray) -> Iterator[IntArray]:
    """Yield the sets of configurations that a permutation may exchange: for each set the indices (K, size) of its runs.

    The K configurations of a set are of the same stratum and have the same number of runs, `size`.
    """
    order = np.argsort(groups, kind="stable")
    _, first, size = np.unique(groups, return_index=True, return_counts=True)
    start, stratum = np.cumsum(size) - size, strata[first]
    for one_stratum, one_size in np.unique(np.stack([stratum, size]), axis=1).T:
        yield order[start[(stratum == one_stratum) & (size == one_size)][:, None] + np.arange(one_size)]


def orders_of(groups: IntArray, strata: IntArray, count: int, random: np.random.Generator) -> tuple[IntArray, float]:
    """Return permuted orders of the runs (B, R), and the number of possible orders, the given one included.

    Configurations change places, each with all its runs. `count` orders are drawn at random; if no more than that are
    possible beside the given one, each is taken once.
    """
    sets = list(exchangeable(groups, strata))
    # A product of factorials, from its logarithm; it is cut at e^700, since float64 ends soon after.
    possible = math.exp(min(sum(math.lgamma(len(rows) + 1) for rows in sets), 700.0))
    # `moves` has for each set the new orders (B, K) of its configurations. Of all products of permutations the first
    # one, which leaves everything in place, is left out.
    if few := possible < count + 1.5:
        count = round(possible) - 1
        each = itertools.product(*(itertools.permutations(range(len(rows))) for rows in sets))
        moves = [np.array(moved) for moved in zip(*itertools.islice(each, 1, None), strict=True)]
    else:
        moves = [np.argsort(random.random((count, len(rows))), axis=1) for rows in sets]
    orders = np.tile(np.arange(len(groups)), (count, 1))
    for rows, moved in zip(sets, moves, strict=not few):
        orders[:, rows.ravel()] = rows[moved].reshape(count, -1)
    return orders, possible


def weights_of(groups: IntArray, draws: int, random: np.random.Generator) -> FloatArray:
    """Return how often each run is in each bootstrap draw, (draws, R); runs of one configuration are drawn together."""
    _, place = np.unique(groups, return_inverse=True)
    count = int(place.max()) + 1  # configurations
    # d * count is added to the numbers of draw d, so that one call of `bincount` counts each draw apart.
    drawn = random.integers(count, size=(draws, count)) + count * np.arange(draws)[:, None]
    times = np.bincount(drawn.ravel(), minlength=draws * count).reshape(draws, count)
    return times[:, place].astype(np.float64)
