"""Gaussian Gram matrices in float64 and the rules for their width.

A Gram matrix has N^2 entries a snapshot, so its users take at most a stated number of rows (`max_samples`),
drawn with a recorded seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from infoplane.estimators._driver import Given, Method, Problem
from infoplane.estimators._protocol import Blocks, last_finite
from infoplane.estimators._scaling import drawn_rows
from infoplane.estimators._settings import at_least, positive_or, prepared, setting

WidthRule = float | Literal["median", "snapshot"]
"""A width itself; the median distance at the last snapshot of the run; that of each snapshot."""


@dataclass(frozen=True)
class Distances:
    """Squared Euclidean distances between the rows of each snapshot.

    Attributes
    ----------
    squared : (S, N, N) float64
        In units of `scale`^2; symmetric up to rounding, with 0 between equal rows.
    scale : (S,) float64
        The largest |value - mean| of a unit, so that neither 1e300 nor 1e-300 is squared.
    """

    squared: Tensor
    scale: Tensor

    @classmethod
    def of(cls, t: Tensor) -> Distances:
        """The distances between the rows of `t` (S, N, U)."""
        z = t.double()
        size = z.abs().amax((1, 2), keepdim=True)
        z = z / torch.where(size > 0, size, 1.0)
        # Less the first row a constant unit is exactly 0.
        z = z - z[:, :1]
        z = z - z.mean(1, keepdim=True)
        spread = z.abs().amax((1, 2), keepdim=True)
        z = z / torch.where(spread > 0, spread, 1.0)
        norms = z.square().sum(2, keepdim=True)
        one = torch.ones_like(norms)
        squared = torch.cat([-2.0 * z, norms, one], 2) @ torch.cat([z, one, norms], 2).mT
        # What is left of two equal rows is rounding: below 1e-7 of the largest distance.
        rounding = 32 * torch.finfo(torch.float64).eps * norms.amax(1, keepdim=True)
        squared.masked_fill_(squared <= rounding, 0.0)
        squared.diagonal(dim1=1, dim2=2).zero_()
        return cls(squared, (spread * size)[:, 0, 0])

    def gaussian(self, sigma: Tensor | float) -> Tensor:
        """(S, N, N) exp(-d^2 / 2 sigma^2), sigma > 0 a number or (S,)."""
        ratio = (self.scale / sigma).clamp(max=1e150).square()[:, None, None]  # 1e150: its square is finite
        return torch.mul(self.squared, -0.5 * ratio).exp_()

    def median(self) -> Tensor:
        """(S,) median distance of pairs that are apart; 1 where no pair is."""
        samples = self.squared.shape[1]
        above = torch.triu_indices(samples, samples, 1, device=self.squared.device)
        found = []
        for squared, scale in zip(self.squared, self.scale, strict=True):
            pairs = squared[above[0], above[1]]
            pairs = pairs[pairs > 0]
            found.append(pairs.median().sqrt() * scale if len(pairs) else torch.ones_like(scale))
        return torch.stack(found) if found else self.scale

    def mean(self) -> Tensor:
        """(S,) mean distance of all pairs, a row with itself included."""
        return self.squared.sqrt().mean((1, 2)) * self.scale

    def rows(self, index: Tensor) -> Distances:
        """The distances between some of the rows."""
        return Distances(submatrix(self.squared, index), self.scale)


def median_of_last(
    blocks: Iterable[Tensor], max_samples: int, seed: int, scaled: Callable[[Tensor], Tensor] | None = None
) -> float:
    """Median distance at the last snapshot of a run without NaN or infinity; blocks are (S, N, U).

    Raises
    ------
    ValueError
        Where there is no such snapshot.
    """
    last = last_finite(blocks)
    if last is None:
        raise ValueError("no finite snapshot to take the kernel width from; did training diverge?")
    rows = drawn_rows(len(last), max_samples, seed)
    last = (last if rows is None else last[rows.to(last.device)])[None]
    return Distances.of(last if scaled is None else scaled(last)).median().item()


def kernel_width(rule: WidthRule, run_width: float | None, distances: Distances) -> Tensor:
    """(S,) kernel widths: a number as it is, "median" of the run (else of the last snapshot), "snapshot" of each."""
    if not isinstance(rule, str):
        return torch.full_like(distances.scale, rule)
    if rule == "median" and run_width is not None:
        return torch.full_like(distances.scale, run_width)
    found = distances.median()
    return found[-1:].expand_as(found) if rule == "median" else found


def silverman(gamma: float, samples: int, units: int) -> float:
    """Silverman's kernel width, gamma sqrt(units) samples^(-1 / (4 + units))."""
    return gamma * math.sqrt(units) * math.pow(samples, -1.0 / (4 + units))


def centred(gram: Tensor) -> Tensor:
    """Gram matrices (..., N, N) centred in rows and columns: H K H with H = I - 1/N."""
    rows = gram.mean(-1, keepdim=True)
    return gram - rows - gram.mean(-2, keepdim=True) + rows.mean(-2, keepdim=True)


@dataclass(frozen=True, kw_only=True)
class KernelMethod(Method):
    """The base of methods on N x N matrices: at most `max_samples` samples, drawn with `seed`, and their memory."""

    guarantees: ClassVar[frozenset[str]] = frozenset({"blocks", "sample_order", "unit_order"})
    copies: ClassVar[int] = 2
    """Copies of a snapshot in float64."""
    matrices: ClassVar[int]
    """Matrices of the samples used, for each snapshot."""

    max_samples: int = setting(2000, at_least(2))
    seed: int = 0

    def bytes_per_snapshot(self, samples: int, units: int) -> int:
        """Bytes one snapshot needs: its values in float64, and matrices of the samples used."""
        used = min(samples, self.max_samples)
        return 8 * (self.copies * samples * units + self.matrices * used * used)


@dataclass(frozen=True, kw_only=True)
class KernelOfRun(KernelMethod):
    """A kernel method whose width may be that of the whole run."""

    sigma: WidthRule = setting("median", positive_or("median", "snapshot"))
    run_sigma: float | None = prepared()

    def scaled(self, a: Tensor) -> Tensor:
        """The rows (..., N, U) as the kernel takes them: as they are, unless a method scales them first."""
        return a

    def fixed(self, sigma: float, units: int) -> float:
        """The kernel width for rows with this many units, where `sigma` is a number."""
        return sigma

    def width_of(self, distances: Distances, units: int) -> Tensor:
        """(S,) kernel widths of a layer."""
        rule = self.sigma if isinstance(self.sigma, str) else self.fixed(self.sigma, units)
        return kernel_width(rule, self.run_sigma, distances)

    def kernel(self, t: Tensor) -> Tensor:
        """(S, N, N) Gaussian kernels of a layer, as `scaled` gives it."""
        distances = Distances.of(t)
        return distances.gaussian(self.width_of(distances, t.shape[2]))

    def kernel_beside(self, a: Tensor) -> Tensor:
        """(1, N, N) kernel of X or Y, `a` (N, ...): of classes, or Gaussian with a width by the rule for T."""
        if not a.is_floating_point():
            return same_class(a)[None]
        a = a.view(len(a), -1)
        distances = Distances.of(self.scaled(a)[None])
        sigma = self.sigma
        return distances.gaussian(distances.median() if isinstance(sigma, str) else self.fixed(sigma, a.shape[1]))

    def prepare(self, blocks: Blocks, y: Tensor, x: Tensor | None = None) -> Self:
        """Find the width of the last snapshot."""
        return replace(self, run_sigma=self._median(blocks)) if self.sigma == "median" else self

    def ready(self, t: Tensor) -> Self:
        """This estimator, with the width of the last snapshot of `t` (S, N, U) where `prepare` has found none."""
        if self.sigma != "median" or self.run_sigma is not None:
            return self
        return replace(self, run_sigma=self._median([t[-1:]]))

    def _median(self, blocks: Iterable[Tensor]) -> float:
        """The median distance at the last finite snapshot, with the rows scaled as the kernel takes them."""
        return median_of_last(blocks, self.max_samples, self.seed, self.scaled)


class KernelProblem(Problem):
    """Snapshots of a kernel method, as many at a time as their matrices leave room for."""

    def __init__(self, config: KernelMethod, given: Given) -> None:
        """Note what one snapshot's matrices take, which decides how many snapshots go together."""
        super().__init__(config, given)
        self.bytes_each = 8 * config.matrices * self.samples**2


def submatrix(a: Tensor, index: Tensor) -> Tensor:
    """The rows `index` (n,) and the same columns of `a` (S, N, N), (S, n, n)."""
    return a[:, index][:, :, index]


def same_class(y: Tensor) -> Tensor:
    """(N, N) float64 kernel of classes: 1 where two samples share theirs."""
    return (y[:, None] == y[None, :]).double()
