"""Hilbert-Schmidt independence criterion, plain and normalised."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from infoplane.estimators._gram import (
    Distances,
    WidthRule,
    centred,
    check_width,
    kernel_width,
    median_of_last,
    same_class,
)
from infoplane.estimators._parts import in_parts
from infoplane.estimators._protocol import Blocks, Quantity, check_inputs, input_features, prepared
from infoplane.estimators._registry import preset, register
from infoplane.estimators._scaling import drawn_rows, is_constant
from infoplane.estimators._shuffles import AllShuffles

NORMALISED, PLAIN = "nHSIC", "HSIC"


@register
@dataclass(frozen=True, kw_only=True)
class Hsic:
    """HSIC = tr(K~ L~) / (N-1)^2 and nHSIC = tr(R_T R_Y), R = K~ (K~ + epsilon N)^-1. No Shannon information.

    K~ is the centred Gaussian kernel matrix of T, L~ that of X or of real targets, or the kernel of classes.
    HSIC is small for weakly spread kernels, and not comparable between widths. nHSIC is a sum of squared
    regularised canonical correlations: at most the number of directions that R_Y has (classes - 1; its ceiling),
    and biased upwards, to that ceiling once the kernel tells all samples apart. Its exact mean over all
    permutations of the labels between inputs, tr(R_T) tr(R_Y) / (N - 1) where every row is an input of its own, is
    returned beside it: only what exceeds it is dependence. Rows with equal `x_ids` (duplicates, repeated noisy
    passes) keep their labels together.

    Parameters
    ----------
    sigma : float, "median" or "snapshot"
        Kernel exp(-d^2 / 2 w^2): w = sigma sqrt(units) for a number (50 in the paper); the median distance at the
        last snapshot of the run, found by `prepare` (without it, the last of the block given); that of each
        snapshot. X and real targets follow the same rule, with their own median distance.
    epsilon : float
        Regularisation of nHSIC, positive.
    max_samples : int
        More samples than this are drawn from, with `seed`: the cost is of order N^3, the memory N^2.
    seed : int
    run_sigma
        Found by `prepare` for "median".

    Notes
    -----
    Returns "nHSIC(T;Y)", "nHSIC(T;Y) null", "HSIC(T;Y)", "HSIC(T;Y) null", and with `x` the same of (X;T). HSIC is the
    biased estimate; its null is the mean over the same permutations, tr(K~) tr(L~) / (N-1)^3 for distinct inputs.

    Raises
    ------
    ValueError
        For settings or input outside what is stated here.

    References
    ----------
    Gretton, Bousquet, Smola and Schoelkopf, "Measuring statistical dependence with Hilbert-Schmidt norms", 2005.
    Fukumizu et al., "Kernel measures of conditional dependence", 2007 (the normalised form).
    Qian et al., "Demystifying reasoning dynamics with mutual information: thinking tokens are information peaks in
    LLM reasoning", 2025 (preset `qian-2025`).

    Examples
    --------
    >>> y = torch.tensor([0, 1]).repeat(50)
    >>> t = 100.0 * y[None, :, None].double()                  # T is the label
    >>> found = Hsic(sigma=1.0).estimate(t, y)
    >>> [round(float(found[q].value), 3) for q in ("nHSIC(T;Y)", "HSIC(T;Y)")]
    [1.0, 0.255]
    """

    name: ClassVar[str] = "hsic"
    targets: ClassVar[frozenset[str]] = frozenset({"discrete", "continuous"})
    guarantees: ClassVar[frozenset[str]] = frozenset({"blocks", "sample_order", "unit_order"})

    sigma: WidthRule = "median"
    epsilon: float = 1e-5
    max_samples: int = 2000
    seed: int = 0
    run_sigma: float | None = prepared()

    def __post_init__(self) -> None:
        check_width("sigma", self.sigma)
        if not 0 < self.epsilon < 1:
            raise ValueError(f"epsilon must be between 0 and 1, got {self.epsilon}")
        if self.max_samples < 3:
            raise ValueError(f"max_samples must be at least 3, got {self.max_samples}")

    def bytes_per_snapshot(self, samples: int, units: int) -> int:
        """Bytes one snapshot needs: its values in float64 and seven matrices of the samples used."""
        used = min(samples, self.max_samples)
        return 16 * samples * units + 56 * used * used

    def prepare(self, blocks: Blocks, y: Tensor, x: Tensor | None = None) -> Self:
        """Find the width of the last snapshot."""
        if self.sigma != "median":
            return self
        return replace(self, run_sigma=median_of_last(blocks, self.max_samples, self.seed))

    def estimate(
        self, t: Tensor, y: Tensor, *, x: Tensor | None = None, x_ids: Tensor | None = None
    ) -> dict[str, Quantity]:
        """Estimate HSIC and nHSIC of `t` (S, N, U) with `y` and, where given, `x` (N, F)."""
        t, y, x_ids = check_inputs(t, y, x_ids, targets=self.targets, name=self.name, min_samples=3)
        x = None if x is None else input_features(x, t)
        rows = drawn_rows(t.shape[1], self.max_samples, self.seed)
        if rows is not None:
            rows = rows.to(t.device)
            t, y, x_ids = t[:, rows], y[rows], torch.unique(x_ids[rows], return_inverse=True)[1]
        shuffles = AllShuffles(x_ids)
        others = {"T;Y": self._side(y, shuffles)}
        if x is not None:
            others["X;T"] = self._side(x if rows is None else x[rows], shuffles)
        ready = self
        if self.sigma == "median" and self.run_sigma is None and len(t):
            ready = replace(self, run_sigma=median_of_last([t[-1:]], self.max_samples, self.seed))
        single = not y.is_floating_point() and int(y.max()) == 0
        return in_parts(t, 56 * t.shape[1] ** 2, lambda part: ready._part(part, others, shuffles, single))

    def _side(self, a: Tensor, shuffles: AllShuffles) -> _Side:
        if not a.is_floating_point():
            return _Side(centred(same_class(a))[None], self.epsilon, shuffles)
        a = a.view(len(a), -1)
        distances = Distances.of(a[None])
        sigma = distances.median() if isinstance(self.sigma, str) else self.sigma * a.shape[1] ** 0.5
        return _Side(centred(distances.gaussian(sigma)), self.epsilon, shuffles)

    def _part(self, t: Tensor, others: dict[str, _Side], shuffles: AllShuffles, single: bool) -> dict[str, Quantity]:
        samples, constant = t.shape[1], is_constant(t)
        distances = Distances.of(t)
        width = kernel_width(self.sigma, self.run_sigma, distances)
        if not isinstance(self.sigma, str):
            width = width * t.shape[2] ** 0.5
        layer = _Side(centred(distances.gaussian(width)), self.epsilon, shuffles)
        out = {}
        for pair, other in others.items():
            null = shuffles.mean(layer.smooth_sums, other.smooth_sums)
            value = (layer.smooth * other.smooth).sum((1, 2))
            flags = {"degenerate": constant}
            if pair == "T;Y":
                flags["single_class"] = torch.full_like(constant, single)
            ceiling = other.trace_smooth[0]
            # When chance alone reaches nine tenths of the ceiling, there is no room left to show dependence.
            full = {**flags, "saturated": null >= 0.9 * ceiling}
            out[f"nHSIC({pair})"] = Quantity(
                value=value, ceiling=ceiling, unit=NORMALISED, flags={**full, "below_null": value <= null}
            )
            out[f"nHSIC({pair}) null"] = Quantity(value=null, ceiling=ceiling, unit=NORMALISED, flags=full)
            plain = (layer.kernel * other.kernel).sum((1, 2)) / (samples - 1) ** 2
            plain_null = shuffles.mean(layer.sums, other.sums) / (samples - 1) ** 2
            out[f"HSIC({pair})"] = Quantity(value=plain, unit=PLAIN, flags={**flags, "below_null": plain <= plain_null})
            out[f"HSIC({pair}) null"] = Quantity(value=plain_null, unit=PLAIN, flags=flags)
        return out


class _Side:
    """A centred kernel (S, N, N), its smoother R = K~ (K~ + epsilon N)^-1, the trace of R, and what shuffles need."""

    def __init__(self, kernel: Tensor, epsilon: float, shuffles: AllShuffles) -> None:
        samples = kernel.shape[1]
        self.kernel = kernel
        identity = torch.eye(samples, dtype=kernel.dtype, device=kernel.device)
        weight = epsilon * samples
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(kernel + weight * identity))
        self.smooth = identity - weight * inverse
        self.trace_smooth = self.smooth.diagonal(dim1=1, dim2=2).sum(1)
        self.sums, self.smooth_sums = shuffles.sums(self.kernel), shuffles.sums(self.smooth)


preset("hsic", "qian-2025", sigma=50.0)
