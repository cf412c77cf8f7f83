"""Which runs belong together (seeds of one configuration, configurations of one stratum), and their random orders."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from infoplane.core.records import FloatArray, IntArray
from infoplane.studies.frame import Study


def configurations(study: Study, repetitions: Sequence[str] | None) -> IntArray:
    """(R,) the number of each run's configuration: runs that differ in nothing but `repetitions` share one.

    Each run has a number of its own with None, where no hyper-parameters are known, and where all are of one
    configuration.
    """
    told = [study[name].tolist() for name in study.hyper if repetitions is not None and name not in repetitions]
    keys = list(zip(*told, strict=True))
    number = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    return np.array([number[key] for key in keys]) if len(number) > 1 else np.arange(len(study))


def strata_of(groups: IntArray, control: FloatArray | None) -> IntArray:
    """(R,) the stratum of each run: which value of the control it has, where the control is swept; else 0 for all.

    A control counts as swept if it is the same for all runs of a configuration, and has two configurations or more for
    each value on average. A measured one, such as a number of weights, differs between almost all configurations.
    """
    single = np.zeros(len(groups), dtype=np.int64)
    if control is None:
        return single
    values, strata = np.unique(control, return_inverse=True)
    pairs = list(zip(groups.tolist(), strata.tolist(), strict=True))
    of_group = dict(pairs)  # the stratum of a configuration, which is that of all its runs where they are alike
    alike = all(of_group[group] == stratum for group, stratum in pairs)
    return strata if alike and 2 * len(values) <= len(of_group) else single


def exchangeable(groups: IntArray, strata: IntArray) -> Iterator[IntArray]:
    """Yield each set of K configurations that may change places: the indices (K, size) of their runs.

    They are of the same stratum and have the same number (size) of runs.
    """
    order = np.argsort(groups, kind="stable")
    _, first, size = np.unique(groups, return_index=True, return_counts=True)
    start, stratum = np.cumsum(size) - size, strata[first]
    for one_stratum, one_size in np.unique(np.stack([stratum, size]), axis=1).T:
        yield order[start[(stratum == one_stratum) & (size == one_size)][:, None] + np.arange(one_size)]


def orders_of(groups: IntArray, strata: IntArray, count: int, random: np.random.Generator) -> tuple[IntArray, float]:
    """(B, R) permuted orders of the runs, and how many orders there are at all, the given one included.

    Configurations change places, each with all its runs. `count` orders are drawn at random; where there are no more
    than that, each is taken once.
    """
    sets = list(exchangeable(groups, strata))
    # A product of factorials; beyond e^700, near the end of float64, it is enough to know that it is large.
    possible = math.exp(min(sum(math.lgamma(len(rows) + 1) for rows in sets), 700.0))
    # `moves` says for each set in which order its configurations come; the first product of permutations, which leaves
    # all in place, is left out.
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
    """(draws, R) how often each run comes in each bootstrap draw; runs of one configuration are drawn together."""
    _, place = np.unique(groups, return_inverse=True)
    count = int(place.max()) + 1  # configurations
    # Numbers of draw d are moved up by d * count, so that one count of all numbers keeps the draws apart.
    drawn = random.integers(count, size=(draws, count)) + count * np.arange(draws)[:, None]
    times = np.bincount(drawn.ravel(), minlength=draws * count).reshape(draws, count)
    return times[:, place].astype(np.float64)
