"""Which runs belong together: seeds of one configuration, configurations of one stratum, and their random orders."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from infoplane.studies.correlation import FloatArray, IntArray
from infoplane.studies.frame import Study


def configurations(study: Study, repetitions: Sequence[str] | None) -> IntArray:
    """(R,): runs that differ in `repetitions` alone share a number.

    With None, where nothing was said about the runs, and where all are of one configuration, each has its own.
    """
    told = [study[name].tolist() for name in study.hyper if repetitions is not None and name not in repetitions]
    keys = list(zip(*told, strict=True))
    number = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    return np.array([number[key] for key in keys]) if len(number) > 1 else np.arange(len(study))


def strata_of(groups: IntArray, control: FloatArray | None) -> IntArray:
    """(R,): where the control is swept, which of its values a run has; else 0 for all.

    A control is swept that is the same for all runs of a configuration, with two configurations or more for each value
    on average. One that is measured, as a number of weights, has a value of its own for almost every configuration.
    """
    one = np.zeros(len(groups), dtype=np.int64)
    if control is None:
        return one
    values, strata = np.unique(control, return_inverse=True)
    first = dict(zip(groups.tolist(), strata.tolist(), strict=True))
    alike = all(first[group] == own for group, own in zip(groups.tolist(), strata.tolist(), strict=True))
    return strata if alike and 2 * len(values) <= len(first) else one


def exchangeable(groups: IntArray, strata: IntArray) -> Iterator[IntArray]:
    """The rows (K, size) of each set of K configurations that may change places: of one stratum and one size."""
    order = np.argsort(groups, kind="stable")
    _, first, size = np.unique(groups, return_index=True, return_counts=True)
    start, stratum = np.cumsum(size) - size, strata[first]
    for own, count in np.unique(np.stack([stratum, size]), axis=1).T:
        yield order[start[(stratum == own) & (size == count)][:, None] + np.arange(count)]


def orders_of(groups: IntArray, strata: IntArray, count: int, random: np.random.Generator) -> tuple[IntArray, float]:
    """(B, R) permuted orders of the runs, and the number of all there are, the one as it is among them.

    Configurations change places with all their runs. `count` orders are drawn; where there are no more, each is taken
    once.
    """
    sets = list(exchangeable(groups, strata))
    # A product of factorials, which would overflow beyond e^700: then it is only known to be large.
    possible = math.exp(min(sum(math.lgamma(len(rows) + 1) for rows in sets), 700.0))
    # Each set lists the rows of its configurations, which change places: the first of all products leaves all in place.
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
    """(draws, R): how often each run comes in a bootstrap draw of configurations, all runs of one together."""
    _, place = np.unique(groups, return_inverse=True)
    count = int(place.max()) + 1
    drawn = random.integers(count, size=(draws, count)) + count * np.arange(draws)[:, None]
    times = np.bincount(drawn.ravel(), minlength=draws * count).reshape(draws, count)
    return times[:, place].astype(np.float64)
