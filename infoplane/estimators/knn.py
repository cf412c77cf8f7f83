"""Mutual information from nearest neighbours: Ross 2014 for classes, Kraskov et al. 2004 for targets, Gao 2017."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy.typing as npt
import torch
from torch import Tensor

from infoplane.core.units import BITS_PER_NAT
from infoplane.estimators._distances import TIE, Metric
from infoplane.estimators._mixture import entropy_of_counts
from infoplane.estimators._neighbors import Points, intrinsic_dimension, pair_counts
from infoplane.estimators._protocol import Quantity, check_inputs
from infoplane.estimators._registry import preset, register
from infoplane.estimators._scaling import zscore
from infoplane.estimators._ties import equal_rows, mean_digamma_of_rank

Formula = Literal["auto", "ross", "ksg1", "ksg2", "gao"]
Scale = Literal["unit", "block"]
_DISCRETE, _CONTINUOUS = ("auto", "ross", "gao"), ("auto", "ksg1", "ksg2", "gao")

TIED = 0.05
"""Share of rows with equals, or with tied neighbours, from which `ties` is raised."""
_REPEATED = 0.01
CROWDED = 0.75
"""Intrinsic dimension over log2 N from which neighbours are far: mean errors above 0.1 nat, measured at 2,000."""


@register
@dataclass(frozen=True, kw_only=True)
class KNN:
    """I(T;Y) from distances to nearest neighbours: no bins and no noise, accurate in few dimensions.

    Classes, formula `ross` (the default for them): with r_i the distance from t_i to its k-th neighbour of the
    same class, and m_i the samples of any class within r_i,

        I(T;Y) = psi(N) + psi(k) - <psi(N_y)> - <psi(m)>.

    Targets, formula `ksg1` (default) or `ksg2`: with the k-th neighbour in the joint space, where a distance is
    the larger of those in T and in Y, n_t and n_y the samples closer than it in each,

        I(T;Y) = psi(k) + psi(N) - <psi(n_t + 1) + psi(n_y + 1)>.

    Formula `gao` serves both and mixtures of atoms and densities: k becomes the number of equal samples where
    r_i = 0, and psi(n + 1) becomes log(n + 1), as the paper has it (its published code has psi instead).
    It needs no rule for ties and is the more biased: by -0.1 to -0.2 nats where `ross` errs by 0.02.

    **I(X;T) is not offered.** In a deterministic layer it is infinite for continuous X, and such an estimate
    grows with log N: a property of the sample. See `noise`, or `compressed` for a network with noise.

    How it misleads: in more than about 3/4 log2 N intrinsic dimensions neighbours are no longer near, and the value
    falls far below the truth (flag `unreliable`, with the dimension from the same distances). With targets it
    cannot exceed psi(N) - psi(k), its ceiling, and above half of that it falls short (`unreliable`
    as well). Units are scaled alike, so noise in an unimportant unit counts as much as signal.

    Ties, stated: with classes, samples at equal distance could come in any order, and psi(m) is its mean over
    all orders, in closed form: what a vanishing jitter gives on average, without its scatter. With targets a
    Gaussian jitter of `jitter` times the std of each unit (computed in float64, large enough to survive
    float32) is added to T and to Y where a unit repeats values in more than 1 % of the samples; it belongs to the
    place of a sample, so there permuted samples give a slightly different value. `ties` says that
    more than 5 % of the samples have an equal or a tied neighbour: prefer `binning` if T takes few values.
    A constant layer has 0 bits, flag `degenerate`. Classes with at most k samples use fewer
    neighbours, those with one sample add 0: flag `few_samples`.

    Parameters
    ----------
    n_neighbors : int
        k. More neighbours: less scatter, more bias.
    formula : {"auto", "ross", "ksg1", "ksg2", "gao"}
    metric : {"euclidean", "max"}
        Norm in T and in a vector of targets. Neighbours come from a tree up to 10 units, from blocked products
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
    targets: ClassVar[frozenset[str]] = frozenset({"discrete", "continuous"})
    guarantees: ClassVar[frozenset[str]] = frozenset({"blocks", "sample_order", "unit_order", "constant_zero"})

    n_neighbors: int = 3
    formula: Formula = "auto"
    metric: Metric = "euclidean"
    scale: Scale = "unit"
    jitter: float = 1e-4
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n_neighbors < 1:
            raise ValueError(f"n_neighbors must be at least 1, got {self.n_neighbors}")
        known = tuple(dict.fromkeys(_DISCRETE + _CONTINUOUS))
        for field, allowed in (("formula", known), ("metric", ("euclidean", "max")), ("scale", ("unit", "block"))):
            if getattr(self, field) not in allowed:
                raise ValueError(f"{field} must be one of {', '.join(allowed)}, got {getattr(self, field)!r}")
        if not 0 <= self.jitter < 0.1:
            raise ValueError(f"jitter must be at least 0 and below 0.1, got {self.jitter}")

    def bytes_per_snapshot(self, samples: int, units: int) -> int:
        """The scaled snapshot in float64 and its factors for the products."""
        return 40 * samples * units + 400 * samples

    def estimate(
        self, t: Tensor, y: Tensor, *, x: Tensor | None = None, x_ids: Tensor | None = None
    ) -> dict[str, Quantity]:
        """I(T;Y) of every snapshot of `t` (S, N, U), one after another."""
        t, y, _ = check_inputs(
            t, y, x_ids, targets=self.targets, name=self.name, min_samples=max(self.n_neighbors + 2, 10)
        )
        continuous = y.is_floating_point()
        allowed = _CONTINUOUS if continuous else _DISCRETE
        if self.formula not in allowed:
            kind = "continuous targets" if continuous else "classes"
            raise ValueError(f"formula {self.formula!r} does not take {kind}; choose from {', '.join(allowed)}")
        found = [self._with_targets(layer, y) if continuous else self._with_classes(layer, y) for layer in t]

        def flag(name: str, on: list[bool]) -> dict[str, Tensor]:
            return {name: torch.tensor(on, device=t.device)}

        value = torch.stack([f.nats for f in found]) * BITS_PER_NAT
        flags = {
            **flag("degenerate", [f.degenerate for f in found]),
            **flag("ties", [f.tied > TIED for f in found]),
            **flag("unreliable", [f.dimension > CROWDED * math.log2(len(y)) for f in found]),
        }
        if continuous:
            top = (torch.tensor(float(len(y))).double().digamma() - _psi(self.n_neighbors)) * BITS_PER_NAT
            ceiling = top.to(t.device)
            flags["saturated"] = value > 0.9 * ceiling
            flags["unreliable"] = flags["unreliable"] | (value > 0.5 * ceiling)
        else:
            counts = torch.bincount(y)
            ceiling = entropy_of_counts(counts)
            flags |= flag("single_class", [len(counts) == 1] * len(t))
            flags |= flag("few_samples", [int(counts.min()) <= self.n_neighbors] * len(t))
        return {"I(T;Y)": Quantity(value=value, ceiling=ceiling, flags=flags)}

    def _scaled(self, block: Tensor) -> Tensor:
        """(N, D) the varying units of (N, U), scaled, float64."""
        return scaled_block(block, self.scale)

    def _with_classes(self, layer: Tensor, y: Tensor) -> _Found:
        rows = self._scaled(layer)
        if rows.shape[1] == 0:
            return _Found(nats=y.new_zeros((), dtype=torch.float64), degenerate=True)
        return class_information(rows, y, self.n_neighbors, self.metric, mixed=self.formula == "gao")

    def _with_targets(self, layer: Tensor, y: Tensor) -> _Found:
        a, b = self._scaled(layer), self._scaled(y[:, None] if y.ndim == 1 else y)
        if a.shape[1] == 0 or b.shape[1] == 0:
            return _Found(nats=y.new_zeros(()), degenerate=True)
        return pair_information(
            a, b, self.n_neighbors, self.metric, formula=self.formula, jitter=self.jitter, seed=self.seed
        )


class _Found(NamedTuple):
    """One value in nats, the share of tied rows, and the intrinsic dimension seen."""

    nats: Tensor
    tied: float = 0.0
    dimension: float = 0.0
    degenerate: bool = False


def scaled_block(block: Tensor, scale: Scale) -> Tensor:
    """The varying units of a block (N, U), centred, each or all together of variance 1, float64."""
    z = zscore(block)
    varies = (z != 0).any(0)
    if scale == "unit" or not bool(varies.any()):
        return z[:, varies]
    chosen = block[:, varies].double()
    chosen = chosen / chosen.abs().max()
    chosen = chosen - chosen.mean(0)
    return chosen / chosen.square().mean().sqrt()


def class_information(rows: Tensor, y: Tensor, k: int, metric: Metric = "euclidean", *, mixed: bool = False) -> _Found:
    """Ross (2014), or with `mixed` Gao et al. (2017), for scaled rows (N, D) and classes (N,) from 0."""
    whole, n = Points(rows, metric), len(rows)
    radius = torch.zeros(n, dtype=torch.float64, device=rows.device)
    neighbors = torch.zeros(n, dtype=torch.int64, device=rows.device)
    counts = torch.bincount(y)
    alone = counts[y] == 1
    # Others of the own class within the radius, ties included and left out.
    own_closed, own_open = torch.zeros_like(neighbors), torch.zeros_like(neighbors)
    distances, tied = [], torch.zeros_like(alone)
    for label in range(len(counts)):
        members = (y == label).nonzero()[:, 0]
        kk = min(k, len(members) - 1)
        if kk == 0:
            continue
        points = Points(rows[members], metric, tree=whole.uses_tree)
        found = points.nearest(min(kk + 1, len(members) - 1))[0]
        radius[members], neighbors[members] = found[:, kk - 1], kk
        if kk == k > 1:
            distances.append(found[:, :k])
        here = found[:, kk - 1]
        repeated = (found[:, 1:] <= found[:, :-1] * (1 + TIE)).any(1)
        own_closed[members], own_open[members] = kk, kk - 1
        if bool(repeated.any()):
            own_closed[members], own_open[members] = points.within(here)
            tied[members] = repeated
    closed, opened = whole.within(radius)
    in_class = counts[y]
    if mixed:
        equal = (radius == 0) & ~alone
        kept = torch.where(equal, own_closed, neighbors)
        local = kept.clamp(min=1).double().digamma() + math.log(n)
        local = local - in_class.double().log() - (closed + 1).double().log()
    else:
        # Among the tied samples, those of the own class fill the places up to k in any order.
        rank = mean_digamma_of_rank(opened, closed - opened, own_closed - own_open, neighbors - own_open)
        local = neighbors.clamp(min=1).double().digamma() - rank
        local = local + float(_psi(n)) - in_class.double().digamma()
    nats = torch.where(alone, torch.zeros_like(local), local).sum() / n
    if len(counts) == 1:
        nats = torch.zeros_like(nats)
    equal_share = max(float((equal_rows(rows) > 0).double().mean()), float(tied.double().mean()))
    dimension = intrinsic_dimension(torch.cat(distances)) if distances else 0.0
    return _Found(nats=nats, tied=equal_share, dimension=dimension)


def pair_information(
    a: Tensor, b: Tensor, k: int, metric: Metric, *, formula: Formula, jitter: float, seed: int
) -> _Found:
    """Kraskov et al. (2004) or Gao et al. (2017) for two scaled blocks (N, D), (N, D')."""
    n = len(a)
    equal = max(float((equal_rows(rows) > 0).double().mean()) for rows in (a, b))
    if formula != "gao" and jitter > 0 and max(repeated_share(a), repeated_share(b)) > _REPEATED:
        generator = torch.Generator().manual_seed(seed)
        a, b = (rows + jitter * _normal(rows, generator) for rows in (a, b))
    found = pair_counts(Points(a, metric), Points(b, metric), k, rectangle=formula == "ksg2")
    if formula == "gao":
        kept = torch.full_like(found.x_closed, k)
        at_atom = found.distances[:, -1] == 0
        kept = torch.where(at_atom, equal_rows(torch.cat([a, b], dim=1)), kept)
        local = kept.double().digamma() + math.log(n)
        local = local - (found.x_closed + 1).double().log() - (found.y_closed + 1).double().log()
    elif formula == "ksg2":
        local = float(_psi(k)) - 1.0 / k + float(_psi(n)) - found.x_rectangle.double().digamma()
        local = local - found.y_rectangle.double().digamma()
    else:
        local = float(_psi(k)) + float(_psi(n)) - (found.x_open + 1).double().digamma()
        local = local - (found.y_open + 1).double().digamma()
    dimension = intrinsic_dimension(found.distances) if k > 1 else 0.0
    return _Found(nats=local.mean(), tied=equal, dimension=dimension)


def repeated_share(rows: Tensor) -> float:
    """The largest share, over the units of (N, D), of samples whose value another sample has as well."""
    ordered = rows.sort(dim=0).values
    same = ordered[1:] == ordered[:-1]
    edge = torch.zeros_like(same[:1])
    return float((torch.cat([same, edge]) | torch.cat([edge, same])).double().mean(0).max())


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like.device)


def _psi(n: int) -> Tensor:
    return torch.tensor(float(n), dtype=torch.float64).digamma()


def ksg(
    x: Tensor | npt.NDArray[Any],
    y: Tensor | npt.NDArray[Any],
    k: int = 3,
    *,
    formula: Literal["ksg1", "ksg2", "gao"] = "ksg1",
    metric: Metric = "euclidean",
    scale: Scale = "unit",
    jitter: float = 1e-4,
    seed: int = 0,
) -> float:
    """Mutual information in bits of two arrays (N,) or (N, D) of real numbers, as `KNN` has it for targets.

    Nothing checks that it exists: for two variables of which one is a function of the other it is infinite, and
    the value grows with log2 N.

    >>> x = torch.randn(2000, 2, generator=torch.Generator().manual_seed(0))
    >>> abs(ksg(x[:, 0], x[:, 1])) < 0.1
    True
    """
    estimator = KNN(n_neighbors=k, formula=formula, metric=metric, scale=scale, jitter=jitter, seed=seed)
    t, target = _columns(x, "x"), _columns(y, "y").double()
    return float(estimator.estimate(t[None], target)["I(T;Y)"].value)


def ross(
    t: Tensor | npt.NDArray[Any],
    y: Tensor | npt.NDArray[Any],
    k: int = 3,
    *,
    metric: Metric = "euclidean",
    scale: Scale = "unit",
) -> float:
    """Mutual information in bits of an array (N,) or (N, D) and classes (N,), as `KNN` has it for classes."""
    estimator = KNN(n_neighbors=k, formula="ross", metric=metric, scale=scale)
    return float(estimator.estimate(_columns(t, "t")[None], torch.as_tensor(y))["I(T;Y)"].value)


class Entropy(NamedTuple):
    """A differential entropy and its standard error, in bits."""

    bits: float
    standard_error: float


def kozachenko_leonenko(t: Tensor | npt.NDArray[Any], k: int = 3, *, metric: Metric = "euclidean") -> Entropy:
    """Differential entropy of an array (N,) or (N, D): psi(N) - psi(k) + log V_D + D <log r_k>, in bits.

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
    local = local_entropies(rows, k, metric)
    if not bool(torch.isfinite(local).all()):
        raise ValueError(f"t has more than {k} equal rows: its differential entropy is minus infinity")
    error = float(local.std()) / math.sqrt(len(local))
    return Entropy(float(local.mean()) * BITS_PER_NAT, error * BITS_PER_NAT)


def local_entropies(rows: Tensor, k: int, metric: Metric = "euclidean") -> Tensor:
    """The terms (N,) in nats whose mean is the Kozachenko-Leonenko entropy of rows (N, D)."""
    return kozachenko_terms(Points(rows, metric).nearest(k)[0][:, -1], k, rows.shape[1], metric)


def kozachenko_terms(radius: Tensor, k: int, units: int, metric: Metric = "euclidean") -> Tensor:
    """The same terms from distances (N,) to the k-th neighbour, in `units` coordinates."""
    volume = units * math.log(2.0)  # of the unit cube [-1, 1]^D
    if metric == "euclidean":
        volume = 0.5 * units * math.log(math.pi) - math.lgamma(0.5 * units + 1.0)
    return float(_psi(len(radius)) - _psi(k)) + volume + units * radius.log()


def _columns(array: Tensor | npt.NDArray[Any], name: str) -> Tensor:
    out = torch.as_tensor(array)
    if out.ndim not in (1, 2):
        raise ValueError(f"{name} must have shape (samples,) or (samples, units), got {tuple(out.shape)}")
    return out[:, None] if out.ndim == 1 else out


preset("knn", "ross-2014", formula="ross", n_neighbors=3, metric="max")
preset("knn", "kraskov-2004", formula="ksg1", n_neighbors=4, metric="max")
preset("knn", "kraskov-2004-2", formula="ksg2", n_neighbors=4, metric="max")
preset("knn", "gao-2017", formula="gao", n_neighbors=5, metric="max")
