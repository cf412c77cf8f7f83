"""Mutual information from nearest neighbours: Ross 2014 for classes, Kraskov et al. 2004 for targets, Gao 2017."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy.typing as npt
import torch
from torch import Tensor

from infoplane.core.units import BITS_PER_NAT
from infoplane.estimators._checks import above_ceiling, content_halves, kept_of_gaussian, normal_scores
from infoplane.estimators._distances import Metric
from infoplane.estimators._driver import Given, Method, Number, Problem, report
from infoplane.estimators._labels import entropy_of_counts
from infoplane.estimators._neighbor_formulas import (
    Formula,
    NeighborValue,
    Scale,
    class_information,
    digamma,
    pair_information,
    scaled_block,
)
from infoplane.estimators._neighbors import Points, intrinsic_dimension
from infoplane.estimators._protocol import Quantity, only_values, values_only
from infoplane.estimators._registry import preset, register
from infoplane.estimators._settings import Domain, at_least, listed, setting

Values = Tensor | npt.NDArray[Any]
_DISCRETE, _CONTINUOUS = ("auto", "ross", "gao"), ("auto", "ksg1", "ksg2", "gao")

TIED = 0.05
"""Share of rows with equals, or with tied neighbours, from which `ties` is raised."""
CROWDED = 0.75
"""Intrinsic dimension over log2 N from which neighbours are far: mean errors above 0.1 nat, measured at 2,000."""
_HARDLY, _FAR = 0.05, 1.25
"""A value below so many nats is let stand up to this share: on generated problems none of them hid 0.3 nats."""
SPARED = 0.2
"""Nats below H(Y) within which a value is no worse than that, however far the neighbours are."""
GROWN, RANKED, LOST = 0.08, 0.15, 0.15
"""Nats that a value may gain from a half of the rows to all, or from ranks, or lose on Gaussians.

Chosen on generated pairs: with `CROWDED` they raise the flag on 98 % of values off by more than 0.3 nats."""
_SCATTER = 2.2
"""Times 1 / sqrt N, the nats by which estimates on halves differ from that on all by chance, at most."""
_ALIKE = 0.995
"""Correlation of a unit with its normal scores from which they are as good as equal."""
_DIMENSION_ROWS, _DIMENSION_NEIGHBORS = 1000, 4
"""Rows and neighbours that the dimension of one side is found from."""


@register
@dataclass(frozen=True, kw_only=True)
class KNN(Method):
    """I(T;Y) from distances to nearest neighbours: no bins and no noise, accurate in few dimensions.

    Classes, formula `ross` (the default for them): with r_i the distance from t_i to its k-th neighbour of the
    same class, and m_i the samples of any class within r_i,

        I(T;Y) = psi(N) + psi(k) - <psi(N_y)> - <psi(m)>.

    Targets, formula `ksg1` (default) or `ksg2`: with the k-th neighbour in the joint space, where a distance is
    the larger of those in T and in Y, n_t and n_y the samples closer than it in each,

        I(T;Y) = psi(k) + psi(N) - <psi(n_t + 1) + psi(n_y + 1)>.

    Formula `gao` serves both and mixtures of atoms and densities: k becomes the number of equal samples where
    r_i = 0, and psi(n + 1) becomes log(n + 1), as the paper has it (its published code has psi instead).
    It needs no rule for ties and is the more biased. For classes by the mean of log(m + 1) - psi(m), whatever N: at
    k = 3 from -0.13 nats (5 classes, independent) to -0.46 (classes apart), flag `unreliable` beyond 0.2. For targets
    by -0.03 to -0.1 nats more than `ksg1` at N = 2,000, and -0.05 to -0.17 at 500.

    **I(X;T) is not offered.** In a deterministic layer it is infinite for continuous X, and such an estimate
    grows with log N: a property of the sample. See `noise`, or `compressed` for a network with noise.

    How it misleads: where the density changes between a sample and its k-th neighbour the value falls below the
    truth, by nats. `unreliable` is raised where

    - neighbours are far: more than about 3/4 log2 N intrinsic dimensions (5/4, where the value is below 0.05 nat),
      measured on the same distances;
    - the value still grows by more than 0.08 nat (2.2 / sqrt N below 750 samples) from halves of the samples to all;
    - with targets, normal scores of the units give more by 0.15 nat than the units (heavy or bounded tails), or
      Gaussian pairs of as many samples and intrinsic dimensions lose more than 0.15 nat of as much information;
    - there are too few samples to look (below 4 k + 8).

    Classes within 0.2 nat of H(Y) are spared. *Own ground*: up to three intrinsic dimensions of T and targets
    together (of T, with classes: six), and up to 2 nats from 1,000 samples; there it errs by 0.02 to 0.05 nats. With
    targets it cannot exceed psi(N) - psi(k), its ceiling. Units are scaled alike, so noise in an unimportant unit
    counts as much as signal.

    Ties, stated: with classes, samples at equal distance could come in any order, and psi(m) is its mean over
    all orders, in closed form: what a vanishing jitter gives on average, without its scatter. With targets a
    Gaussian jitter of `jitter` times the std of each unit (computed in float64, large enough to survive
    float32) is added to T and to Y where a unit repeats values in more than 1 % of the samples; it belongs to the
    place of a sample, so there permuted samples give a slightly different value. `ties` says that
    more than 5 % of the samples have an equal or a tied neighbour: prefer `binning` if T takes few values.
    A constant layer has 0 bits, flag `degenerate`. Classes with at most k samples use fewer
    neighbours, those with one sample add 0: flag `few_samples`.

    :measures: I(T;Y) from nearest neighbours
    :assumes: few dimensions: T and targets about 3 together, more for classes
    :errs: down in many dimensions, and with much information for N
    :cost: N log N, or N² D
    :memory: N D
    :gives: I(T;Y)
    :unit: bit
    :ceiling: ψ(N) − ψ(k) for targets
    :source: Kraskov 2004; Ross 2014; Gao 2017

    Parameters
    ----------
    n_neighbors : int
        k. More neighbours: less scatter, more bias.
    formula : {"auto", "ross", "ksg1", "ksg2", "gao"}
    metric : {"euclidean", "max"}
        Norm in T and in a vector of targets. Neighbours come from a tree in few units, from blocked products
        beyond; the values are the same.
    scale : {"unit", "block"}
        Every unit to variance 1, or the layer as a whole. Either makes the value independent of the units of
        T and Y; "block" also leaves the Euclidean one unchanged under rotations.
    jitter : float
        See above; 0 switches it off.
    seed : int
        Of the jitter.

    Raises
    ------
    ValueError
        If a parameter is out of its domain, a formula does not fit the targets, or the inputs do not fit.

    References
    ----------
    Ross, "Mutual information between discrete and continuous data sets", PLoS ONE, 2014.
    Kraskov, Stoegbauer and Grassberger, "Estimating mutual information", Physical Review E, 2004.
    Gao, Kannan, Oh and Viswanath, "Estimating mutual information for discrete-continuous mixtures", 2017.

    Examples
    --------
    >>> y = torch.arange(200) % 2
    >>> t = (y + 0.1 * torch.rand(200, generator=torch.Generator().manual_seed(0)))[None, :, None]
    >>> round(float(KNN().estimate(t, y)["I(T;Y)"].value), 2)
    1.0
    """

    name: ClassVar[str] = "knn"
    guarantees: ClassVar[frozenset[str]] = frozenset({"blocks", "sample_order", "unit_order", "constant_zero"})

    n_neighbors: int = setting(3, at_least(1))
    formula: Formula = setting("auto", listed(*_DISCRETE, *_CONTINUOUS[1:3]))
    metric: Metric = setting("euclidean", listed("euclidean", "max"))
    scale: Scale = setting("unit", listed("unit", "block"))
    jitter: float = setting(1e-4, Domain("at least 0 and below 0.1", 0.0, math.nextafter(0.1, 0.0)))
    seed: int = 0

    def bytes_per_snapshot(self, samples: int, units: int) -> int:
        """Return the bytes of the scaled snapshot in float64, and of its factors for products of rows."""
        return 40 * samples * units + 400 * samples

    @property
    def min_samples(self) -> int:
        """Return the least number of samples: k neighbours for every sample and one more, or ten."""
        return max(self.n_neighbors + 2, 10)

    def start(self, given: Given) -> _Neighbors:
        """Return the problem of one call: scaled targets, or classes; ValueError if the formula takes no such Y."""
        kind, allowed = ("continuous targets", _CONTINUOUS) if given.y.is_floating_point() else ("classes", _DISCRETE)
        if self.formula not in allowed:
            raise ValueError(f"formula {self.formula!r} does not take {kind}; choose from {', '.join(allowed)}")
        return _Neighbors(self, given)


class _Neighbors(Problem):
    """Neighbours in each snapshot against one Y; `side` are its scaled targets (N, D'), or its classes (N,)."""

    config: KNN

    def __init__(self, config: KNN, given: Given) -> None:
        """Scale the targets, or keep the classes."""
        super().__init__(config, given)
        self.side = scaled_block(self.y.reshape(len(self.y), -1), config.scale) if self.continuous else self.y

    def finish(self, found: dict[str, Tensor]) -> dict[str, Quantity]:
        """Return I(T;Y) in bits with its ceiling and flags."""
        value = found["nats"] * BITS_PER_NAT
        flags: dict[str, Tensor | bool] = {"degenerate": found["degenerate"], "ties": found["tied"] > TIED}
        if self.continuous:
            top = (digamma(len(self.y)) - digamma(self.config.n_neighbors)) * BITS_PER_NAT
            flags |= {"saturated": value > 0.9 * top, "unreliable": found["off"]}
            return report("I(T;Y)", value, ceiling=top.to(value.device), flags=flags)
        counts = torch.bincount(self.y)
        ceiling = entropy_of_counts(counts)
        # Neighbours too far lower a value, and from H(Y) no further than that.
        off = found["off"] & (ceiling - value > SPARED * BITS_PER_NAT)
        flags["unreliable"] = off | (found["short"] > SPARED) | above_ceiling(value, ceiling)
        few = int(counts.min()) <= self.config.n_neighbors
        flags |= {"single_class": len(counts) == 1, "few_samples": few}
        return report("I(T;Y)", value, ceiling=ceiling, flags=flags)

    def snapshot(self, layer: Tensor) -> dict[str, Number]:
        """Return the fields of `NeighborValue` for a layer (N, U), and "off": whether neighbours are too far."""
        rows = scaled_block(layer, self.config.scale)
        if rows.shape[1] == 0 or (self.continuous and self.side.shape[1] == 0):
            found = NeighborValue(nats=rows.new_zeros(()), degenerate=True)
        else:
            found = _information(self.config, rows, self.side)
        # The costly checks of `_off` are made only where the intrinsic dimension raises no doubt.
        off = _crowded(found, len(rows)) or (not only_values() and self._off(layer, rows, found))
        return {**found._asdict(), "off": off}

    def _off(self, layer: Tensor, rows: Tensor, found: NeighborValue) -> bool:
        """Return whether further estimates show that neighbours are not near enough, by the rules in `KNN`.

        `rows` are the scaled layer, and `found` its value.
        """
        n, nats, scale = len(rows), float(found.nats), self.config.scale
        # With so few samples nothing can be checked; the value of a constant side is right as it is.
        if found.degenerate or n < 4 * (self.config.n_neighbors + 2):
            return not found.degenerate
        halves = [self._half(rows, part) for part in content_halves(layer, self.y, n)]
        of_halves = [_nats(self.config, *half) for half in halves]
        if nats - 0.5 * sum(of_halves) > _limit(GROWN, n):
            return True
        if not self.continuous:
            return False
        ranked = [scaled_block(normal_scores(side)[0], scale) for side in halves[0]]
        # Ranks have a value of their own only where they differ from the units.
        alike = all(map(_alike, halves[0], ranked))
        if not alike and _nats(self.config, *ranked) - of_halves[0] > _limit(RANKED, n):
            return True
        return self._loses(halves[0], n, nats)

    def _half(self, rows: Tensor, part: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows `part` (n,) of the layer, and their targets or their classes, numbered anew from 0."""
        side = self.side[part]
        return rows[part], side if self.continuous else torch.unique(side, return_inverse=True)[1]

    def _loses(self, half: tuple[Tensor, Tensor], samples: int, nats: float) -> bool:
        """Return whether this method finds too little in Gaussian pairs of as much information, rows and dimensions.

        Too little is by more than `LOST` nats. The dimensions are those of `half`, some rows and their targets.
        """
        units = [_dimension(side[:_DIMENSION_ROWS], self.config.metric) for side in half]
        rows = min(samples, max(1000, min(samples // 2, 2000)))
        kept = _kept(self.config, rows, (units[0], units[1]), math.ceil(10.0 * nats), str(half[0].device))
        # What is lost falls about as the square of the distance to a neighbour, N^(-2/d) in d dimensions together.
        return bool((nats / kept - nats) * (rows / samples) ** (2.0 / sum(units)) > LOST)


def _information(config: KNN, rows: Tensor, side: Tensor) -> NeighborValue:
    """Return the information in nats of scaled rows (N, D) and scaled targets (N, D') or classes (N,)."""
    k, metric, formula = config.n_neighbors, config.metric, config.formula
    if side.is_floating_point():
        return pair_information(rows, side, k, metric, formula=formula, jitter=config.jitter, seed=config.seed)
    return class_information(rows, side, k, metric, mixed=formula == "gao")


def _nats(config: KNN, rows: Tensor, side: Tensor) -> float:
    """Return the information in nats as a float."""
    return float(_information(config, rows, side).nats)


@functools.lru_cache(maxsize=1024)
def _kept(config: KNN, rows: int, units: tuple[int, int], tenths: int, device: str) -> float:
    """Return the share of a Gaussian pair's information that is found: remembered, as all snapshots ask for it.

    The pair has so many `tenths` of a nat, and `units` dimensions on its two sides.
    """
    value = functools.partial(_nats, config)
    return kept_of_gaussian(value, rows, units, 0.1 * tenths, like=torch.empty(0, device=device))


def _alike(raw: Tensor, ranked: Tensor) -> bool:
    """Return whether every unit of `raw` (N, D) hardly differs from its normal scores `ranked` (N, D), both scaled."""
    if raw.shape != ranked.shape:
        return False
    raw = raw - raw.mean(0)
    along = (raw * ranked).sum(0) / (raw.square().sum(0) * ranked.square().sum(0)).sqrt().clamp(min=1e-300)
    return bool((along > _ALIKE).all())


def _crowded(found: NeighborValue, samples: int) -> bool:
    """Return whether neighbours are far: the intrinsic dimension is large beside log2 of the samples."""
    return found.dimension > (CROWDED if float(found.nats) > _HARDLY else _FAR) * math.log2(samples)


def _limit(nats: float, samples: int) -> float:
    """Return the limit `nats`, or the scatter of halves by chance where few samples make that larger."""
    return max(nats, _SCATTER / math.sqrt(samples))


def _dimension(rows: Tensor, metric: Metric) -> int:
    """Return the intrinsic dimension of scaled rows (N, D) as a whole number from 1 to D."""
    found = intrinsic_dimension(Points(rows, metric).nearest(min(_DIMENSION_NEIGHBORS, len(rows) - 1))[0])
    return min(rows.shape[1], max(1, round(found)))


def ksg(
    x: Values,
    y: Values,
    k: int = 3,
    *,
    formula: Literal["ksg1", "ksg2", "gao"] = "ksg1",
    metric: Metric = "euclidean",
    scale: Scale = "unit",
    jitter: float = 1e-4,
    seed: int = 0,
) -> float:
    """Return the mutual information in bits of two arrays (N,) or (N, D) of real numbers, as `KNN` has it for targets.

    Nothing checks that it exists: for two variables of which one is a function of the other it is infinite, and
    the value grows with log2 N.

    >>> x = torch.randn(2000, 2, generator=torch.Generator().manual_seed(0))
    >>> abs(ksg(x[:, 0], x[:, 1])) < 0.1
    True
    """
    estimator = KNN(n_neighbors=k, formula=formula, metric=metric, scale=scale, jitter=jitter, seed=seed)
    t, target = _columns(x, "x"), _columns(y, "y").double()
    with values_only():
        return float(estimator.estimate(t[None], target)["I(T;Y)"].value)


def ross(t: Values, y: Values, k: int = 3, *, metric: Metric = "euclidean", scale: Scale = "unit") -> float:
    """Return mutual information in bits of an array (N,) or (N, D) and classes (N,), as `KNN` has it for classes."""
    estimator = KNN(n_neighbors=k, formula="ross", metric=metric, scale=scale)
    with values_only():
        return float(estimator.estimate(_columns(t, "t")[None], torch.as_tensor(y))["I(T;Y)"].value)


class Entropy(NamedTuple):
    """A differential entropy and its standard error, in bits."""

    bits: float
    standard_error: float


def kozachenko_leonenko(t: Values, k: int = 3, *, metric: Metric = "euclidean") -> Entropy:
    """Return the differential entropy of an array (N,) or (N, D): psi(N) - psi(k) + log V_D + D <log r_k>, in bits.

    It depends on the units of T, may be negative, and is minus infinity for a law with atoms. Differences of
    such entropies keep their errors: trust them in up to about four dimensions.

    Raises
    ------
    ValueError
        More than k equal rows.

    References
    ----------
    Kozachenko and Leonenko, "Sample estimate of the entropy of a random vector", 1987.
    """
    rows = _columns(t, "t").double()
    if not bool(torch.isfinite(rows).all()):
        raise ValueError("t has non-finite values; remove these samples")
    local = kozachenko_terms(Points(rows, metric).nearest(k)[0][:, -1], k, rows.shape[1], metric)
    if not bool(torch.isfinite(local).all()):
        raise ValueError(f"t has more than {k} equal rows: its differential entropy is minus infinity")
    error = float(local.std()) / math.sqrt(len(local))
    return Entropy(float(local.mean()) * BITS_PER_NAT, error * BITS_PER_NAT)


def kozachenko_terms(radius: Tensor, k: int, units: int, metric: Metric = "euclidean") -> Tensor:
    """Return terms (N,) in nats whose mean is the entropy, from distances (N,) to the k-th neighbour in D units."""
    volume = units * math.log(2.0)  # of the unit cube [-1, 1]^D
    if metric == "euclidean":
        volume = 0.5 * units * math.log(math.pi) - math.lgamma(0.5 * units + 1.0)
    return digamma(len(radius)) - digamma(k) + volume + units * radius.log()


def _columns(array: Values, name: str) -> Tensor:
    """Return an array (N,) or (N, D) as a tensor (N, D); ValueError, with its `name`, for other shapes."""
    out = torch.as_tensor(array)
    if out.ndim not in (1, 2):
        raise ValueError(f"{name} must have shape (samples,) or (samples, units), got {tuple(out.shape)}")
    return out[:, None] if out.ndim == 1 else out


preset("knn", "ross-2014", formula="ross", n_neighbors=3, metric="max")
preset("knn", "kraskov-2004", formula="ksg1", n_neighbors=4, metric="max")
preset("knn", "kraskov-2004-2", formula="ksg2", n_neighbors=4, metric="max")
preset("knn", "gao-2017", formula="gao", n_neighbors=5, metric="max")
