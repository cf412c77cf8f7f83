"""How similar are two representations of the same inputs? Layers, steps or runs, against what shuffled rows give."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Unpack, cast

import numpy as np
import numpy.typing as npt

from infoplane.core.brief import Brief
from infoplane.core.errors import choices
from infoplane.core.files import fingerprint
from infoplane.diagnostics._measures import DEFAULTS, KINDS, Measure, MeasureSettings, Side, centred, compared, permuted
from infoplane.diagnostics._place import Entry, Place, class_labels, digest, rows, units_float64
from infoplane.results import Row
from infoplane.results.names import PAIR

ESTIMATOR = "similarity"
LEAST_SAMPLES = 4
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


class SimilarityOptions(MeasureSettings, total=False):
    """The keywords of `similarity`."""

    measure: Measure
    labels: npt.ArrayLike | None
    within: Literal["all", "class"]
    null_draws: int
    max_samples: int
    seed: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Similarity(Brief):
    """One similarity with its null.

    Attributes
    ----------
    value : float
        Unbiased estimates may be below 0. NaN where a layer does not vary.
    null : (null_draws,) float64
        The same with the rows of T permuted.
    measure : str
    flags : tuple of str
        `below_null` where the value is no larger than the null's 97.5 % point; `ties`, `few_samples`, `degenerate`.
    n_samples : int
    n_units : int
        Of the first layer.
    config : dict
    source : str
    """

    value: float
    null: FloatArray
    measure: Measure
    flags: tuple[str, ...]
    n_samples: int
    n_units: int
    config: dict[str, Any]
    source: str

    @property
    def level(self) -> tuple[float, float, float]:
        """Mean, 2.5 and 97.5 % points of the null; NaN without one."""
        if not self.null.size:
            return math.nan, math.nan, math.nan
        return float(self.null.mean()), *np.quantile(self.null, (0.025, 0.975)).tolist()

    @property
    def calibrated(self) -> tuple[float, float, float]:
        """(value - level) / (1 - level), not clipped: at the null's mean, and at its 97.5 and 2.5 % points.

        0 is what rows without any relation give, 1 what equal layers give. NaN where the null leaves no room below 1.
        """
        mean, low, high = self.level
        one, two, three = ((self.value - at) / (1.0 - at) if at < 1.0 - 1e-9 else math.nan for at in (mean, high, low))
        return one, two, three

    def rows(self, where: Place) -> list[Row]:
        """Rows for the results table: "CKA(T;T')", its "null" and what is "calibrated"; `where.partner` names T'."""
        kind, flags = KINDS[self.measure], self.flags
        name = f"{kind.title}{PAIR}"
        entries = [Entry(name, self.value, kind.unit, ceiling=1.0, flags=flags)]
        if self.null.size:
            mean, low, high = self.level
            own = tuple(flag for flag in flags if flag != "below_null")
            entries.append(Entry(f"{name} null", mean, kind.unit, low, high, ceiling=1.0, flags=own))
            mean, low, high = self.calibrated
            entries.append(Entry(f"{name} calibrated", mean, f"{kind.unit} above null", low, high, "point", 1.0, flags))
        size = {"n_samples": self.n_samples, "n_units": self.n_units}
        return rows(where, ESTIMATOR, self.config, entries, source=self.source, **size)


@dataclass(frozen=True, eq=False, kw_only=True)
class SimilarityMatrix(Brief):
    """Similarities of every layer of one list with every layer of another, or of one list with itself.

    Attributes
    ----------
    value : (A, B) float64
    null : (null_draws, A, B) float64
    pairs : dict from (a, b) to Similarity
        Of a list with itself those with a < b.
    """

    value: FloatArray
    null: FloatArray
    pairs: dict[tuple[int, int], Similarity]

    @property
    def calibrated(self) -> FloatArray:
        """(A, B) calibrated values; 1 for a layer with itself."""
        out = np.where(np.isfinite(self.value), np.eye(*self.value.shape), np.nan)
        for (a, b), pair in self.pairs.items():
            out[a, b] = pair.calibrated[0]
            if len(self.pairs) < self.value.size:
                out[b, a] = out[a, b]
        return out

    def rows(self, places: Sequence[Place], partners: Sequence[str]) -> list[Row]:
        """Rows for the results table; `places` (A of them) of the first layers, `partners` (B) the second's names."""
        return [
            row for (a, b), pair in self.pairs.items() for row in pair.rows(replace(places[a], partner=partners[b]))
        ]


def similarity(s: npt.ArrayLike, t: npt.ArrayLike, **options: Unpack[SimilarityOptions]) -> Similarity:
    """Similarity of two representations of the same inputs, with what permuted rows give and the value above that.

    - "cka": unbiased linear CKA, HSIC_u(K, L) / sqrt(HSIC_u(K, K) HSIC_u(L, L)) with K = S S'. It may be negative.
    - "kernel-cka": the same with Gaussian kernels of width `scale` times the layer's own median distance.
    - "knn": the mean share of a row's `n_neighbors` nearest others that are the same in both layers. Its null is
      k / (N - 1). Where the next neighbour is as near as the last, which are taken is arbitrary (flag `ties`).
    - "rsa": Spearman correlation of the Euclidean distances of all pairs. For correlation distance, take the mean off
      each row and scale it to length 1 first: the ranks are the same.
    - "svcca": mean canonical correlation of the directions that hold `variance` of the variance of each side.

    How it misleads: a few directions of large variance decide linear CKA and RSA, the other measures do not see size.
    SVCCA needs many more rows than it keeps directions: two unrelated layers of 512 units read .96 on 200 rows (flag
    `few_samples` below five rows a direction); the calibrated value is what to read. Labels alone make layers similar:
    with `within="class"` rows are permuted inside their class, and what is left is similarity beyond the labels. The
    null says whether rows belong together, and nothing about two seeds that share the data: for that compare with
    other pairs of runs.

    Parameters
    ----------
    s, t : (N, D1), (N, D2) array
        Activations of the same inputs in the same order; further axes are flattened.
    measure : {"cka", "kernel-cka", "knn", "rsa", "svcca"}
    labels : (N,) integers
        Classes, for `within="class"`.
    within : {"all", "class"}
        Among which rows those of T are permuted.
    null_draws : int
        Permutations, 20 by default; 0 for none.
    max_samples : int
        Of more rows so many are drawn, with `seed`, 2000 by default: memory and time grow with the square of them.
    seed : int
        Seeds the permutations and the draw.
    scale, n_neighbors, variance : float, int, float
        1.0, 10 and .99: settings of the measures that name them.

    Returns
    -------
    Similarity

    Raises
    ------
    ValueError
        For different numbers of samples, fewer than four, values that are not finite, an unknown measure, a setting
        that the measure does not have, or classes that leave nothing to permute.

    References
    ----------
    Kornblith et al., "Similarity of neural network representations revisited", 2019; Nguyen, Raghu and Kornblith, "Do
    wide and deep networks learn the same things?", 2021 (unbiased CKA); Song et al., 2012 (unbiased HSIC); Huh et al.,
    "The platonic representation hypothesis", 2024 (mutual neighbours); Kriegeskorte, Mur and Bandettini, 2008 (RSA);
    Raghu et al., "SVCCA", 2017.

    Examples
    --------
    >>> s = np.random.default_rng(0).normal(size=(100, 8))
    >>> found = similarity(s, 3.0 * s[:, ::-1])
    >>> round(found.value, 6), round(found.calibrated[0], 6), "below_null" in found.flags
    (1.0, 1.0, False)
    """
    return similarity_matrix([s], [t], **options).pairs[0, 0]


def similarity_matrix(
    layers: Iterable[npt.ArrayLike],
    others: Iterable[npt.ArrayLike] | None = None,
    *,
    measure: Measure = "cka",
    labels: npt.ArrayLike | None = None,
    within: Literal["all", "class"] = "all",
    null_draws: int = 20,
    max_samples: int = 2000,
    seed: int = 0,
    **settings: Unpack[MeasureSettings],
) -> SimilarityMatrix:
    """Similarity of all pairs of a list of layers (or steps), or of two lists; see `similarity`.

    The matrix of each layer is made once, 8 N^2 bytes, and all pairs share the permutations.

    Parameters
    ----------
    layers, others : iterable of (N, D) arrays
        Read one at a time; without `others`, all pairs of `layers`.
    measure, labels, within, null_draws, max_samples, seed, scale, n_neighbors, variance
        As in `similarity`.

    Raises
    ------
    ValueError
        As in `similarity`, or for a list of fewer than two layers with itself.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> a = rng.normal(size=(60, 5))
    >>> similarity_matrix([a, -a, a**2]).value.shape
    (3, 3)
    """
    full = _settings(measure, settings)
    if null_draws < 0 or max_samples < LEAST_SAMPLES:
        raise ValueError(f"need null_draws >= 0 and max_samples >= {LEAST_SAMPLES}, got {null_draws} and {max_samples}")
    left = _Layers(layers, "layers", measure, full, max_samples, seed)
    right = left if others is None else _Layers(others, "others", measure, full, max_samples, seed, left.count)
    if right is left and len(left.sides) < 2:
        raise ValueError(f"a list with itself needs at least two layers, got {len(left.sides)}; pass others= too")
    orders = _orders(left, labels, within, null_draws, seed)
    config = {"measure": measure, **full, "within": within, "null_draws": null_draws}
    config |= {"max_samples": max_samples, "seed": seed}
    found = _all_pairs(left, right, measure, orders)
    wanted = [(a, b) for b in range(found.shape[2]) for a in range(found.shape[1]) if right is not left or a < b]
    pairs = {(a, b): _pair(left, right, found[:, a, b], a, b, config) for a, b in wanted}
    return SimilarityMatrix(value=found[0], null=found[1:], pairs=dict(sorted(pairs.items())))


class _Layers:
    """The matrices of a list of layers on the rows that are used."""

    def __init__(
        self,
        layers: Iterable[npt.ArrayLike],
        name: str,
        measure: Measure,
        settings: MeasureSettings,
        limit: int,
        seed: int,
        count: int = 0,
    ) -> None:
        self.limit, self.seed, self.count = limit, seed, count
        self.used: IntArray | slice = slice(None)
        self.sides: list[Side] = []
        self.units: list[int] = []
        self.digests: list[str] = []
        for i, layer in enumerate(layers):
            a = units_float64(layer, f"{name}[{i}]")
            self._rows_of(len(a))
            rows = a[self.used]
            self.sides.append(KINDS[measure].side(centred(rows), settings))
            self.units.append(rows.shape[1])
            self.digests.append(digest(rows))

    def _rows_of(self, count: int) -> None:
        """Check the number of rows against the layers before, and draw those that are used."""
        self.count = self.count or count
        if count != self.count:
            raise ValueError(f"all layers must see the same samples, got {self.count} and {count}")
        if count < LEAST_SAMPLES:
            raise ValueError(f"similarity needs at least {LEAST_SAMPLES} samples, got {count}")
        if count > self.limit:
            drawn = np.random.default_rng(self.seed).choice(count, self.limit, replace=False)
            self.used = np.sort(drawn).astype(np.int64)


def _settings(measure: Measure, given: MeasureSettings) -> MeasureSettings:
    """The settings of a measure; ValueError for those that it does not have, or that mean nothing."""
    if measure not in KINDS:
        raise ValueError(f"no measure named {measure!r}; {choices(measure, KINDS)}")
    own = KINDS[measure].settings
    for name, value in given.items():
        if name not in own:
            raise ValueError(f"measure {measure!r} has no setting {name!r}; it has {', '.join(own) or 'none'}")
        if not cast(float, value) > 0 or (name == "variance" and cast(float, value) > 1):
            raise ValueError(f"{name} must be positive{', at most 1' if name == 'variance' else ''}, got {value}")
    return cast(MeasureSettings, {name: {**DEFAULTS, **given}[name] for name in own})


def _orders(
    left: _Layers, labels: npt.ArrayLike | None, within: Literal["all", "class"], draws: int, seed: int
) -> list[IntArray]:
    """Permutations of the rows that are used, of all or inside classes."""
    count = len(np.arange(left.count)[left.used])
    groups = [np.arange(count)]
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


def _all_pairs(left: _Layers, right: _Layers, measure: Measure, orders: Sequence[IntArray]) -> FloatArray:
    """(1 + draws, A, B): the values, and below them those with the rows of the second layer permuted."""
    found = np.full((1 + len(orders), len(left.sides), len(right.sides)), np.nan)
    for b, second in enumerate(right.sides):
        for draw in range(len(found)):
            matrix = permuted(measure, second.matrix, orders[draw - 1]) if draw else second.matrix
            for a, first in enumerate(left.sides[: b + 1] if right is left else left.sides):
                found[draw, a, b] = compared(measure, first.matrix, matrix)
                if right is left:
                    found[draw, b, a] = found[draw, a, b]
    return found


def _pair(left: _Layers, right: _Layers, found: FloatArray, a: int, b: int, config: dict[str, Any]) -> Similarity:
    """One pair from its value and, behind it, those of its null."""
    one, two = left.sides[a], right.sides[b]
    flags = one.flags | two.flags
    if len(found) > 1 and found[0] <= np.quantile(found[1:], 0.975) + 1e-12:
        flags |= {"below_null"}
    known = [side.found for side in (one, two)]
    # What was found in the layers: kernel widths in units of the largest deviation, numbers of directions.
    config = {**config, "prepared": known} if all(map(math.isfinite, known)) else config
    return Similarity(
        value=float(found[0]),
        null=found[1:],
        measure=config["measure"],
        flags=tuple(sorted(flags)),
        n_samples=len(one.matrix),
        n_units=left.units[a],
        config=config,
        source=fingerprint(left.digests[a].encode(), right.digests[b].encode()),
    )
