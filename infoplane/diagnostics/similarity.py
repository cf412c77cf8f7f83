"""How similar are two representations of the same inputs, compared with what shuffled rows give?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Unpack

import numpy as np
import numpy.typing as npt

from infoplane.core.brief import Brief
from infoplane.core.files import fingerprint
from infoplane.core.records import FloatArray
from infoplane.diagnostics._layer_pairs import LEAST_SAMPLES, Layers, all_pairs, orders_of, settings_of
from infoplane.diagnostics._measures import KINDS, Measure, MeasureSettings, Side
from infoplane.diagnostics._place import Entry, Measured, Place, digest
from infoplane.diagnostics._samples import null_entry
from infoplane.results import Row
from infoplane.results.names import PAIR


class SimilarityOptions(MeasureSettings, total=False):
    """The keywords of `similarity`."""

    measure: Measure
    labels: npt.ArrayLike | None
    within: Literal["all", "class"]
    null_draws: int
    max_samples: int
    seed: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Similarity(Measured):
    """One similarity with its null.

    Its rows: for "cka" the quantities "CKA(T;T')", "CKA(T;T') null" and "CKA(T;T') calibrated"; other measures have
    their own names. `where.partner` names T'.

    Attributes
    ----------
    value : float
        Unbiased estimates may be below 0. NaN where a layer does not vary.
    null : (null_draws,) float64
        The similarity where the rows of T are permuted.
    measure : str
    flags : tuple of str
        `below_null` where the value is no larger than the null's 97.5 % point; `ties`, `few_samples`, `degenerate`.
    n_units : int
        Units of the first layer.
    """

    estimator: ClassVar[str] = "similarity"

    value: float
    null: FloatArray
    measure: Measure

    @property
    def level(self) -> tuple[float, float, float]:
        """Mean, 2.5 and 97.5 % points of the null; NaN where there is no null."""
        if not self.null.size:
            return math.nan, math.nan, math.nan
        of_null = null_entry("", self.null, "")
        return of_null.value, of_null.low, of_null.high

    @property
    def calibrated(self) -> tuple[float, float, float]:
        """(value - level) / (1 - level), not clipped: at the null's mean, and at its 97.5 and 2.5 % points.

        0 is what rows without any relation give, 1 what equal layers give. NaN where the null is 1 already.
        """
        mean, low, high = self.level

        def above(level: float) -> float:
            """Return the value above this level of the null, as a share of the most that there can be."""
            return (self.value - level) / (1.0 - level) if level < 1.0 - 1e-9 else math.nan

        # The larger the null, the smaller what is left above it: its high point gives the low end.
        return above(mean), above(high), above(low)

    def _entries(self) -> list[Entry]:
        """Return the similarity, then its null and the calibrated value where there are draws of the null."""
        kind, flags = KINDS[self.measure], self.flags
        name = f"{kind.title}{PAIR}"
        entries = [Entry(name, self.value, kind.unit, ceiling=1.0, flags=flags)]
        if self.null.size:
            of_null = tuple(flag for flag in flags if flag != "below_null")  # which says nothing of the null itself
            entries.append(replace(null_entry(name, self.null, kind.unit), ceiling=1.0, flags=of_null))
            mean, low, high = self.calibrated
            unit = f"{kind.unit} above null"
            entries.append(Entry(f"{name} calibrated", mean, unit, low, high, ceiling=1.0, flags=flags))
        return entries


@dataclass(frozen=True, eq=False, kw_only=True)
class SimilarityMatrix(Brief):
    """Similarities of every layer of one list with every layer of another, or of one list with itself.

    Attributes
    ----------
    value : (A, B) float64
    null : (null_draws, A, B) float64
    pairs : dict from (a, b) to Similarity
        Only those with a < b where a list is compared with itself.
    """

    value: FloatArray
    null: FloatArray
    pairs: dict[tuple[int, int], Similarity]

    @property
    def calibrated(self) -> FloatArray:
        """The calibrated values (A, B); 1 for a layer with itself."""
        out = np.where(np.isfinite(self.value), np.eye(*self.value.shape), np.nan)
        for (a, b), pair in self.pairs.items():
            out[a, b] = pair.calibrated[0]
            if len(self.pairs) < self.value.size:  # a list with itself, which is symmetric
                out[b, a] = out[a, b]
        return out

    def rows(self, places: Sequence[Place], partners: Sequence[str]) -> list[Row]:
        """Rows of the results table; `places` are those of the A first layers, `partners` the names of the B second."""
        return [
            row for (a, b), pair in self.pairs.items() for row in pair.rows(replace(places[a], partner=partners[b]))
        ]


def similarity(s: npt.ArrayLike, t: npt.ArrayLike, **options: Unpack[SimilarityOptions]) -> Similarity:
    """Similarity of two representations of the same inputs, with its null from permuted rows and its value above that.

    - "cka": unbiased linear CKA, HSIC_u(K, L) / sqrt(HSIC_u(K, K) HSIC_u(L, L)) with K = S S'. It may be negative.
    - "kernel-cka": the same with Gaussian kernels whose bandwidth is `scale` times the layer's own median distance.
    - "knn": the mean share of a row's `n_neighbors` nearest other rows that are the same in both layers. Its null is
      k / (N - 1). Where neighbour k + 1 is as near as neighbour k, which one counts is arbitrary (flag `ties`).
    - "rsa": Spearman correlation of the Euclidean distances of all pairs. For correlation distance, take the mean off
      each row and scale it to length 1 first: the ranks are the same.
    - "svcca": mean canonical correlation of the directions that hold the share `variance` of the variance of each side.

    How it misleads: a few directions of large variance decide linear CKA and RSA; the other measures do not see how
    large a direction is. SVCCA needs many more rows than it keeps directions: two unrelated layers of 512 units read
    .96 on 200 rows (flag `few_samples` below five rows a direction), so read the calibrated value. Labels alone make
    layers similar: with `within="class"` rows are permuted inside their class, and what is left is similarity beyond
    the labels. The null says whether rows belong together. It says nothing about two seeds that share the data: for
    that compare with other pairs of runs.

    Parameters
    ----------
    s, t : (N, D1), (N, D2) array
        Activations of the same inputs in the same order; further axes are flattened.
    measure : {"cka", "kernel-cka", "knn", "rsa", "svcca"}
    labels : (N,) integers
        Classes, for `within="class"`.
    within : {"all", "class"}
        Whether the rows of T are permuted among all rows or inside their class.
    null_draws : int
        Permutations, 20 by default; 0 for none.
    max_samples : int
        Where there are more rows, this many are drawn, 2000 by default: memory and time grow with their square.
    seed : int
        Seeds the permutations and the drawn rows.
    scale, n_neighbors, variance : float, int, float
        Settings of the measures that name them, by default 1.0, 10 and .99.

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

    The matrix of each layer, of 8 N^2 bytes, is made once, and all pairs share the permutations.

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
    all_settings = settings_of(measure, settings)
    if null_draws < 0 or max_samples < LEAST_SAMPLES:
        raise ValueError(f"need null_draws >= 0 and max_samples >= {LEAST_SAMPLES}, got {null_draws} and {max_samples}")

    def side(rows: FloatArray) -> Side:
        """Return the layer as the measure compares it, with these settings."""
        return KINDS[measure].side(rows, all_settings)

    left = Layers(layers, side, max_samples, seed)
    right = left if others is None else Layers(others, side, max_samples, seed, left.count)
    if right is left and len(left.sides) < 2:
        raise ValueError(f"a list with itself needs at least two layers, got {len(left.sides)}; pass others= too")
    orders = orders_of(left, labels, within, null_draws, seed)
    config = {"measure": measure, **all_settings, "within": within, "null_draws": null_draws}
    config |= {"max_samples": max_samples, "seed": seed}
    found = all_pairs(left, right, measure, orders)  # (1 + draws, A, B)
    of_labels = (digest(np.asarray(labels)).encode(),) if within == "class" else ()
    pairs = {
        (a, b): _pair(left, right, found[:, a, b], a, b, config, of_labels)
        for a, b in np.ndindex(found.shape[1:])
        if right is not left or a < b
    }
    return SimilarityMatrix(value=found[0], null=found[1:], pairs=pairs)


def _pair(
    left: Layers, right: Layers, found: FloatArray, a: int, b: int, config: dict[str, Any], of_labels: tuple[bytes, ...]
) -> Similarity:
    """Return the result for layers `a` and `b`; `found` (1 + draws,) is their similarity, then those of its null."""
    # `of_labels` is the digest of the labels, where rows were permuted within classes.
    one, two = left.sides[a], right.sides[b]
    flags = one.flags | two.flags
    # 1e-12 for rounding: a value that equals the null's upper point is not above it.
    if len(found) > 1 and found[0] <= null_entry("", found[1:], "").high + 1e-12:
        flags |= {"below_null"}
    known = [side.found for side in (one, two)]
    # What was found in both layers: bandwidths in units of the largest deviation, or numbers of directions.
    config = {**config, "prepared": known} if all(map(math.isfinite, known)) else config
    return Similarity(
        value=float(found[0]),
        null=found[1:],
        measure=config["measure"],
        flags=tuple(sorted(flags)),
        n_samples=len(one.matrix),
        n_units=left.units[a],
        config=config,
        source=fingerprint(left.digests[a].encode(), right.digests[b].encode(), *of_labels),
    )
