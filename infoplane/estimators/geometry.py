"""Geometry of a layer: effective ranks, decay of the spectrum, nuclear norms and distances of class manifolds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from infoplane.estimators._driver import Flags, Given, Method, Problem, report
from infoplane.estimators._protocol import Quantity
from infoplane.estimators._registry import register
from infoplane.estimators._scaling import (
    drawn_rows,
    eigenvalues,
    is_constant,
    positive_part,
    renyi_bits,
    shannon_bits,
    shares,
)
from infoplane.estimators._settings import POSITIVE, at_least, setting

FIRST_RANK, LAST_RANK = 6, 100
"""Ranks of the eigenvalues that the power law is fitted to."""
LEAST_DIMENSIONS, LEAST_FIT = 12, 0.8
"""Dimensions from which the power law is fitted, and R2 from which its exponent is given."""
PAIRS_OF_A_BLOCK = 1 << 18
"""Distances that are held at a time."""
RANKS = ("RankMe", "RankMe (singular, centred)", "RankMe (eigen, uncentred)", "RankMe (eigen, centred)")


@register
@dataclass(frozen=True, kw_only=True)
class Geometry(Method):
    """How many directions a layer uses, and how fast their variance decays. No information about X or Y.

    Names differ between papers, and so do the answers: singular values or their squares, centred or not. In one
    grokking run RankMe falls while the exponential of the von Neumann entropy rises. So every variant has its name.
    With singular values s_k of T (N, U) and p their shares:

    - "RankMe": exp(-sum p log p), p of s_k, not centred, as in its paper; "RankMe (singular, centred)";
      "RankMe (eigen, uncentred)" with p of s_k^2; "RankMe (eigen, centred)", of the covariance, as in reptrix.
    - "von Neumann entropy": -sum p log2 p over eigenvalues of the covariance, log2 of the last.
    - "matrix-based entropy": Renyi entropy of order `alpha` of T T' / tr(T T'), not centred.
    - "participation ratio": (sum lambda)^2 / sum lambda^2 and "top-k variance share", of the covariance.
    - "alpha-ReQ": minus the slope of log eigenvalue against log rank over ranks 6 to 100, weighted by 1/rank, and
      "alpha-ReQ R2", the quality of that fit. Below R2 = 0.8 the spectrum is no power law and the exponent is
      not given (NaN, flag `unreliable`); with fewer than 12 dimensions both are absent.
    - "centroid nuclear norm" of the class means of rows scaled to length 1, large when classes point in many
      directions; "class nuclear norm", the mean over classes of the norm divided by sqrt(n): 1 for a class that points
      in one direction. Classes only.
    - "class distance ratio": mean Euclidean distance of two samples of one class over that of two samples of different
      classes; 0 where each class is a point, 1 where they are not told apart or all samples are equal (`degenerate`).
      The mean over all pairs weighs classes by the square of their size. Absent without pairs of both kinds. Of a
      layer with noise the values before it count.

    All are unchanged by rotations and by a common factor, and changed by other invertible maps. The uncentred ones are
    ruled by the mean where it is large (ReLU layers). With few samples a unit, effective ranks come out too small
    (flag `few_samples` below three).

    :measures: effective ranks, power law of the spectrum, class manifolds and distances; no information
    :assumes: second moments matter
    :errs: down with few samples
    :cost: N D m + m³, m = min(N, D)
    :memory: 3 N D + m²
    :gives: ranks, spectral decay, nuclear norms, distances
    :unit: dimensions, exponent, ...
    :ceiling: min(N, D)
    :source: Garrido et al. 2023; Agrawal et al. 2022

    Parameters
    ----------
    alpha : float
        Order of the matrix-based entropy, positive.
    top : int
        k of the "top-k variance share".
    max_samples : int
        If both samples and units exceed it, so many samples are drawn, with `seed`: the cost is of order
        N U m + m^3 with m the smaller of both.
    pair_samples : int
        The class distance ratio takes so many samples, drawn with `seed`, where there are more: its cost grows with
        their square.
    seed : int
        Seeds the drawn samples.

    Raises
    ------
    ValueError
        For settings or input outside what is stated here.

    References
    ----------
    Garrido et al., "RankMe: assessing the downstream performance of pretrained self-supervised representations by
    their rank", 2023.
    Agrawal et al., "alpha-ReQ: assessing representation quality in self-supervised learning by measuring eigenspectrum
    decay", 2022.
    Li et al., "Tracing the representation geometry of language models from pretraining to post-training", 2025.
    Yerxa et al., "Learning efficient coding of natural images with maximum manifold capacity representations", 2023.
    Goldfeld et al., "Estimating information flow in deep neural networks", 2019 (distances within and between classes).

    Examples
    --------
    >>> t = torch.eye(8).repeat(10, 1)[None]                       # 8 directions, equally used
    >>> found = Geometry().estimate(t, torch.arange(80) % 8)
    >>> [round(float(found[n].value), 6) for n in ("RankMe", "matrix-based entropy", "centroid nuclear norm")]
    [8.0, 3.0, 8.0]
    """

    name: ClassVar[str] = "geometry"
    shannon: ClassVar[bool] = False
    guarantees: ClassVar[frozenset[str]] = frozenset({"blocks", "sample_order", "unit_order"})

    alpha: float = setting(1.0, POSITIVE)
    top: int = setting(10, at_least(1))
    max_samples: int = setting(4096, at_least(2))
    pair_samples: int = setting(1000, at_least(2))
    seed: int = 0

    def bytes_per_snapshot(self, samples: int, units: int) -> int:
        """Return the bytes one snapshot needs: its values in float64 thrice, four Gram matrices of its smaller side."""
        used = samples if min(samples, units) <= self.max_samples else self.max_samples
        return 24 * used * units + 32 * min(used, units) ** 2

    def start(self, given: Given) -> _Spectrum:
        """Return the problem of one call, on the samples used."""
        if min(given.t.shape[1:]) > self.max_samples:
            given = given._replace(x=None).drawn(self.max_samples, self.seed)
        return _Spectrum(self, given)


class _Spectrum(Problem):
    """Spectra of snapshots, and of the classes within them."""

    config: Geometry

    def __init__(self, config: Geometry, given: Given) -> None:
        """Draw the samples of the class distance ratio, and count the dimensions that a spectrum can have."""
        super().__init__(config, given)
        self.bytes_each = config.bytes_per_snapshot(self.samples, self.units)
        rows = drawn_rows(self.samples, config.pair_samples, config.seed)
        self.pair_rows = slice(None) if rows is None else rows.to(given.t.device)
        self.dimensions = min(self.samples - 1, self.units)  # centred rows span one dimension less than they are
        self.share = f"top-{config.top} variance share"

    def chunk(self, t: Tensor) -> dict[str, Tensor]:
        """Return ranks, entropies, power law and class geometry (S,) of some snapshots (S, N, U)."""
        constant = is_constant(t)
        # Divided by the largest value, no square leaves the range.
        z = t.double()
        size = z.abs().amax((1, 2), keepdim=True)
        z = z / torch.where(size > 0, size, 1.0)
        centred = torch.where(constant[:, None, None], 0.0, z - z.mean(1, keepdim=True))
        raw, spread = _squares(z), _squares(centred)  # ascending: the largest come last
        p = shares(spread)
        square = p.square().sum(1)
        weights = raw.sqrt(), spread.sqrt(), raw, spread  # in the order of RANKS
        out = {
            "degenerate": constant,
            **{name: torch.exp2(shannon_bits(shares(w))) for name, w in zip(RANKS, weights, strict=True)},
            "von Neumann entropy": shannon_bits(p),
            "matrix-based entropy": renyi_bits(_shares_or_one(raw), self.config.alpha),
            "participation ratio": torch.where(square > 0, 1.0 / torch.where(square > 0, square, 1.0), 0.0),
            self.share: p[:, -self.config.top :].sum(1),
        }
        if self.dimensions >= LEAST_DIMENSIONS:
            out["exponent"], out["fit"] = _power_law(spread.flip(1)[:, : self.dimensions])
        if not self.continuous:
            out["centroid"], out["within"] = _nuclear_norms(z, self.y)
            ratio = _distance_ratio(centred[:, self.pair_rows], self.y[self.pair_rows])
            if ratio is not None:
                out["distance_ratio"] = ratio
        return out

    def finish(self, found: dict[str, Tensor]) -> dict[str, Quantity]:
        """Return the quantities with ceilings, units and flags; a poor power law has no exponent."""
        constant = found["degenerate"]
        flags: Flags = {"degenerate": constant, "few_samples": self.samples < 3 * self.units}
        limit = float(min(self.samples, self.units))
        spectral = {
            **dict.fromkeys(RANKS, (limit, "dimensions")),
            "von Neumann entropy": (math.log2(limit), "von Neumann bit"),
            "matrix-based entropy": (math.log2(limit), "matrix-based bit"),
            "participation ratio": (limit, "dimensions"),
            self.share: (1.0, "share"),
        }
        out: dict[str, Quantity] = {}
        for name, (ceiling, unit) in spectral.items():
            out |= report(name, found[name], ceiling=ceiling, unit=unit, flags=flags)
        if "fit" in found:
            poor = ~(found["fit"] >= LEAST_FIT)  # NaN is poor, too
            of_fit = {**flags, "unreliable": poor}
            out |= report("alpha-ReQ", torch.where(poor, math.nan, found["exponent"]), unit="exponent", flags=of_fit)
            out |= report("alpha-ReQ R2", found["fit"], ceiling=1.0, unit="R2", flags=of_fit)
        return out if self.continuous else out | self._of_classes(found, flags, int(self.y.max()) + 1)

    def _of_classes(self, found: dict[str, Tensor], flags: Flags, classes: int) -> dict[str, Quantity]:
        """Return the nuclear norms and the distance ratio; `classes` is their number."""
        flags = {**flags, "single_class": classes == 1}
        most = math.sqrt(classes * min(classes, self.units))  # centroids no longer than 1, in so many directions
        out = report("centroid nuclear norm", found["centroid"], ceiling=most, unit="nuclear norm", flags=flags)
        out |= report("class nuclear norm", found["within"], unit="nuclear norm", flags=flags)
        if "distance_ratio" in found:
            out |= report("class distance ratio", found["distance_ratio"], unit="ratio", flags=flags)
        return out


def _squares(z: Tensor) -> Tensor:
    """Return the squared singular values (S, min(N, U)) of `z` (S, N, U), ascending."""
    gram = z.mT @ z if z.shape[2] <= z.shape[1] else z @ z.mT
    return positive_part(eigenvalues(gram))


def _shares_or_one(weights: Tensor) -> Tensor:
    """Return weights (..., n) as shares of their sum; where all are 0 the last share is 1, so that entropy is 0."""
    p = shares(weights)
    p[..., -1] = torch.where(p.sum(-1) > 0, p[..., -1], 1.0)
    return p


def _power_law(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return exponent and R2 (S,) of eigenvalues (S, d) in falling order; R2 is 0 if fewer than six are positive."""
    # A line of log eigenvalue over log rank, by least squares with weights 1 / rank.
    last = min(LAST_RANK, values.shape[1])
    rank = torch.arange(FIRST_RANK, last + 1, dtype=torch.float64, device=values.device)
    used = values[:, FIRST_RANK - 1 : last]
    weight = torch.where(used > 0, 1.0 / rank, 0.0)
    enough = (used > 0).sum(1) >= 6  # fewer points lie on a line too easily
    weight = weight / weight.sum(1, keepdim=True).clamp(min=1e-300)  # without positive values the sum is 0
    log_rank = rank.log().expand_as(used)
    log_value = torch.where(used > 0, used, 1.0).log()
    dx = log_rank - (weight * log_rank).sum(1, keepdim=True)
    dy = log_value - (weight * log_value).sum(1, keepdim=True)
    xx, xy, yy = ((weight * a * b).sum(1) for a, b in ((dx, dx), (dx, dy), (dy, dy)))
    slope = xy / torch.where(xx > 0, xx, 1.0)
    # A flat spectrum is the power law of exponent 0.
    flat = yy <= 1e-20
    fit = torch.where(flat, 1.0, xy.square() / torch.where(flat | (xx <= 0), 1.0, xx * yy))
    return -slope, torch.where(enough, fit, 0.0)


def _nuclear_norms(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the nuclear norm of the class means of `z` (S, N, U), and the mean of those of the classes: (S,) each."""
    # Of rows scaled to length 1; the norm of a class of n rows is divided by sqrt(n).
    length = z.norm(dim=2, keepdim=True)
    z = z / torch.where(length > 0, length, 1.0)
    counts = torch.bincount(y).double()
    sums = z.new_zeros(len(z), len(counts), z.shape[2]).index_add_(1, y, z)
    centroids = sums / counts[:, None]
    within = torch.stack([_squares(z[:, y == k]).sqrt().sum(1) / counts[k].sqrt() for k in range(len(counts))])
    return _squares(centroids).sqrt().sum(1), within.mean(0)


def _distance_ratio(z: Tensor, y: Tensor) -> Tensor | None:
    """Return the mean distance (S,) of rows `z` (S, N, U) of one class, divided by that of rows of different classes.

    It is None if there are no pairs of one kind, and 1 where all rows are equal.
    """
    n = len(y)
    counts = torch.bincount(y)
    pairs_within = int((counts * (counts - 1)).sum()) // 2
    pairs_between = n * (n - 1) // 2 - pairs_within
    if not pairs_within or not pairs_between:
        return None
    within = z.new_zeros(len(z))
    total = z.new_zeros(len(z))
    height = max(1, PAIRS_OF_A_BLOCK // n)  # rows of a block, at least one
    for start in range(0, n, height):
        stop = min(start + height, n)
        # Each pair once: the later samples, and of the block itself what lies above the diagonal.
        same = (y[start:stop, None] == y[None, start:]).double()
        for s, rows in enumerate(z):
            distance = torch.cdist(rows[start:stop], rows[start:]).triu_(1)
            total[s] += distance.sum()
            within[s] += distance.mul_(same).sum()
    mean_within, mean_between = within / pairs_within, (total - within) / pairs_between
    return torch.where(total > 0, mean_within / mean_between, 1.0)
