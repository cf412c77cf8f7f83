"""Gaussian Gram matrices in float64 and the rules for their width.

A Gram matrix has N^2 entries a snapshot, so its users take at most a stated number of rows (`max_samples`),
drawn with a recorded seed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from infoplane.estimators._driver import Given, Method, Problem
from infoplane.estimators._protocol import Blocks, last_finite
from infoplane.estimators._scaling import drawn_rows
from infoplane.estimators._settings import at_least, positive_or, prepared, setting

WidthRule = float | Literal["median", "snapshot"]
"""A width itself; "median", the median distance at the last snapshot of the run; "snapshot", that of each snapshot."""


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
        """Return the distances between the rows of `t` (S, N, U)."""
        z = t.double()
        size = z.abs().amax((1, 2), keepdim=True)
        z = z / torch.where(size > 0, size, 1.0)
        # Less the first row a constant unit is exactly 0.
        z = z - z[:, :1]
        z = z - z.mean(1, keepdim=True)
        spread = z.abs().amax((1, 2), keepdim=True)
        z = z / torch.where(spread > 0, spread, 1.0)
        # (S, N, N) |a|^2 - 2 a.b + |b|^2 as one product, of rows [-2a, |a|^2, 1] and [b, 1, |b|^2].
        norms = z.square().sum(2, keepdim=True)
        one = torch.ones_like(norms)
        squared = torch.cat([-2.0 * z, norms, one], 2) @ torch.cat([z, one, norms], 2).mT
        # What is left of two equal rows is rounding: below 1e-7 of the largest distance.
        rounding = 32 * torch.finfo(torch.float64).eps * norms.amax(1, keepdim=True)
        squared.masked_fill_(squared <= rounding, 0.0)
        squared.diagonal(dim1=1, dim2=2).zero_()
        return cls(squared, (spread * size)[:, 0, 0])

    def gaussian(self, sigma: Tensor | float) -> Tensor:
        """Return the Gaussian kernels (S, N, N), exp(-d^2 / 2 sigma^2); the width `sigma` > 0 is a number or (S,)."""
        ratio = (self.scale / sigma).clamp(max=1e150).square()[:, None, None]  # 1e150: its square is finite
        return torch.mul(self.squared, -0.5 * ratio).exp_()

    def median(self) -> Tensor:
        """Return the median distance (S,) of the pairs of rows that differ; 1 where all rows are equal."""
        samples = self.squared.shape[1]
        row, column = torch.triu_indices(samples, samples, 1, device=self.squared.device)
        found = []
        for squared, scale in zip(self.squared, self.scale, strict=True):
            pairs = squared[row, column]  # each pair once
            pairs = pairs[pairs > 0]
            found.append(pairs.median().sqrt() * scale if len(pairs) else torch.ones_like(scale))
        return torch.stack(found)

    def mean(self) -> Tensor:
        """Return the mean (S,) of all N x N distances, those of a row to itself included."""
        return self.squared.sqrt().mean((1, 2)) * self.scale

    def rows(self, index: Tensor) -> Distances:
        """Return the distances between the rows `index` (n,) alone."""
        return Distances(submatrix(self.squared, index), self.scale)


def silverman(gamma: float, samples: int, units: int) -> float:
    """Return Silverman's kernel width, gamma sqrt(units) samples^(-1 / (4 + units))."""
    return gamma * math.sqrt(units) * math.pow(samples, -1.0 / (4 + units))


def centred(gram: Tensor) -> Tensor:
    """Return Gram matrices K (..., N, N) centred in rows and columns, H K H with H = I - 1/N."""
    rows = gram.mean(-1, keepdim=True)
    return gram - rows - gram.mean(-2, keepdim=True) + rows.mean(-2, keepdim=True)


@dataclass(frozen=True, kw_only=True)
class KernelMethod(Method):
    """The base of methods on N x N matrices: at most `max_samples` samples, drawn with `seed`, and their memory."""

    guarantees: ClassVar[frozenset[str]] = frozenset({"blocks", "sample_order", "unit_order"})
    copies: ClassVar[int] = 2
    """Copies of a snapshot in float64."""
    matrices: ClassVar[int]
    """Matrices (N, N) that one snapshot needs, for the N samples used."""

    max_samples: int = setting(2000, at_least(2))
    seed: int = 0

    def bytes_per_snapshot(self, samples: int, units: int) -> int:
        """Return the bytes that one snapshot needs: its values in float64, and matrices of the samples used."""
        used = min(samples, self.max_samples)
        return 8 * (self.copies * samples * units + self.matrices * used * used)


@dataclass(frozen=True, kw_only=True)
class KernelOfRun(KernelMethod):
    """A kernel method whose width may be that of the whole run."""

    sigma: WidthRule = setting("median", positive_or("median", "snapshot"))
    run_sigma: float | None = prepared()

    def scaled(self, a: Tensor) -> Tensor:
        """Return the rows (..., N, U) between which distances are measured: `a`, or what a subclass scales it to."""
        return a

    def fixed(self, sigma: float, units: int) -> float:
        """Return the kernel width for rows with this many units, where `sigma` is a number."""
        return sigma

    def widths(self, distances: Distances, units: int, run_width: float | None = None) -> Tensor:
        """Return the kernel widths (S,): by `sigma` if it is a number, else `run_width`, else median distances."""
        width = run_width if isinstance(self.sigma, str) else self.fixed(self.sigma, units)
        return distances.median() if width is None else torch.full_like(distances.scale, width)

    def kernel(self, t: Tensor) -> Tensor:
        """Return the Gaussian kernels (S, N, N) of a layer that `scaled` has scaled, `t` (S, N, U)."""
        distances = Distances.of(t)
        return distances.gaussian(self.widths(distances, t.shape[2], self.run_sigma))

    def kernel_beside(self, a: Tensor) -> Tensor:
        """Return the kernel (1, N, N) of X or Y, `a` (N, ...): by classes, or Gaussian with the width that `a` has."""
        if not a.is_floating_point():
            return same_class(a)[None]
        a = a.view(len(a), -1)
        distances = Distances.of(self.scaled(a)[None])
        return distances.gaussian(self.widths(distances, a.shape[1]))

    def prepare(self, blocks: Blocks, y: Tensor, x: Tensor | None = None) -> Self:
        """Return this estimator with the kernel width of the last finite snapshot of the run, for the rule "median"."""
        return self._with_width_of_last(blocks)

    def ready(self, t: Tensor) -> Self:
        """Return this estimator, with the width of the last snapshot of `t` (S, N, U) if `prepare` has found none."""
        return self if self.run_sigma is not None else self._with_width_of_last([t[-1:]])

    def _with_width_of_last(self, blocks: Iterable[Tensor]) -> Self:
        """Return a copy with the median distance of the last finite snapshot; itself if `sigma` is not "median".

        Raises ValueError if no snapshot of `blocks` (S, N, U) is finite.
        """
        if self.sigma != "median":
            return self
        last = last_finite(blocks)
        if last is None:
            raise ValueError("no finite snapshot to take the kernel width from; did training diverge?")
        rows = drawn_rows(len(last), self.max_samples, self.seed)
        last = (last if rows is None else last[rows.to(last.device)])[None]
        return replace(self, run_sigma=Distances.of(self.scaled(last)).median().item())


class KernelProblem(Problem):
    """Snapshots of a kernel method, as many at a time as their matrices leave room for."""

    def __init__(self, config: KernelMethod, given: Given) -> None:
        """Note the bytes that one snapshot's matrices take, which decide how many snapshots go together."""
        super().__init__(config, given)
        self.bytes_each = 8 * config.matrices * self.samples**2


def submatrix(a: Tensor, index: Tensor) -> Tensor:
    """Return the rows `index` (n,) and the same columns of matrices `a` (S, N, N), (S, n, n)."""
    return a[:, index][:, :, index]


def same_class(y: Tensor) -> Tensor:
    """Return the kernel (N, N) float64 of classes `y` (N,): 1 where two samples share their class, else 0."""
    return (y[:, None] == y[None, :]).double()
