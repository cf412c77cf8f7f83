"""Hilbert-Schmidt independence criterion, plain and normalised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from infoplane.estimators._driver import Given, Null, report
from infoplane.estimators._gram import KernelOfRun, KernelProblem, centred
from infoplane.estimators._labels import AllShuffles
from infoplane.estimators._protocol import Quantity
from infoplane.estimators._registry import preset, register
from infoplane.estimators._scaling import is_constant
from infoplane.estimators._settings import at_least, between, setting

NORMALISED, PLAIN = "nHSIC", "HSIC"


@register
@dataclass(frozen=True, kw_only=True)
class Hsic(KernelOfRun):
    """HSIC = tr(K~ L~) / (N-1)^2 and nHSIC = tr(R_T R_Y), R = K~ (K~ + epsilon N)^-1. No Shannon information.

    K~ is the centred Gaussian kernel matrix of T, L~ that of X or of real targets, or the kernel of classes.
    HSIC is small for weakly spread kernels, and not comparable between widths. nHSIC is a sum of squared
    regularised canonical correlations: at most the number of directions that R_Y has (classes - 1; its ceiling),
    and biased upwards, to that ceiling once the kernel tells all samples apart. Its exact mean over all
    permutations of the labels between inputs, tr(R_T) tr(R_Y) / (N - 1) where every row is an input of its own, is
    returned beside it: only what exceeds it is dependence. Rows with equal `x_ids` (duplicates, repeated noisy
    passes) keep their labels together.

    :measures: Hilbert-Schmidt dependence; not Shannon
    :assumes: a kernel width
    :errs: up, by the null
    :cost: N² D + N³
    :memory: 7 N²
    :gives: HSIC, nHSIC and their nulls
    :unit: HSIC, nHSIC
    :ceiling: rank of R_Y
    :source: Gretton et al. 2005

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
        Seeds the drawn samples.
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
    shannon: ClassVar[bool] = False

    matrices: ClassVar[int] = 7
    min_samples = 3

    epsilon: float = setting(1e-5, between(0, 1, open=True))
    max_samples: int = setting(2000, at_least(3))

    def fixed(self, sigma: float, units: int) -> float:
        """Return the kernel width where `sigma` is a number: it grows with the root of the units, as distances do."""
        return float(sigma * units**0.5)

    def start(self, given: Given) -> _Dependence:
        """Return the problem of one call, with kernels of the labels and inputs of the samples used."""
        return _Dependence(self, given.drawn(self.max_samples, self.seed))


class _Dependence(KernelProblem):
    """The kernels of Y and X, which every snapshot is compared with."""

    config: Hsic

    def __init__(self, config: Hsic, given: Given) -> None:
        """Make the kernels of Y and X, which all snapshots share, and what shuffles need of them."""
        super().__init__(config, given)
        self.config = config.ready(given.t)
        self.shuffles = AllShuffles(given.x_ids)
        self.single = not self.continuous and int(given.y.max()) == 0  # classes count from 0
        self.sides = {pair: self._side(self.config.kernel_beside(a)) for pair, a in given.sides().items()}

    def _side(self, kernel: Tensor) -> _Side:
        """Return one variable with this kernel (S, N, N), and what HSIC and its null need of it."""
        return _Side(centred(kernel), self.config.epsilon, self.shuffles)

    def chunk(self, t: Tensor) -> dict[str, Tensor]:
        """Return HSIC, nHSIC and their nulls (S,) of some snapshots (S, N, U) with Y, and with X if given."""
        layer = self._side(self.config.kernel(t))
        # tr(K~ L~) / (N - 1)^2; for symmetric matrices the trace of a product is the sum of products of entries.
        out, scale = {"degenerate": is_constant(t)}, (t.shape[1] - 1) ** 2
        for pair, other in self.sides.items():
            out[f"nHSIC({pair})"] = (layer.smooth * other.smooth).sum((1, 2))
            out[f"nHSIC({pair}) null"] = self.shuffles.mean(layer.smooth_sums, other.smooth_sums)
            out[f"HSIC({pair})"] = (layer.kernel * other.kernel).sum((1, 2)) / scale
            out[f"HSIC({pair}) null"] = self.shuffles.mean(layer.sums, other.sums) / scale
        return out

    def finish(self, found: dict[str, Tensor]) -> dict[str, Quantity]:
        """Return the quantities with their nulls and flags; nHSIC has a ceiling, HSIC none."""
        out: dict[str, Quantity] = {}
        for pair, other in self.sides.items():
            flags: dict[str, Tensor | bool] = {"degenerate": found["degenerate"]}
            if pair == "T;Y":
                flags["single_class"] = self.single
            name, ceiling = f"nHSIC({pair})", other.trace_smooth[0]  # of the one kernel that all snapshots share
            null = Null(found[f"{name} null"])
            # When chance alone reaches nine tenths of the ceiling, there is no room left to show dependence.
            full = flags | {"saturated": null.mean >= 0.9 * ceiling}
            out |= report(name, found[name], ceiling=ceiling, null=null, flags=full, null_flags=full, unit=NORMALISED)
            name = f"HSIC({pair})"
            out |= report(name, found[name], null=Null(found[f"{name} null"]), flags=flags, unit=PLAIN)
        return out


class _Side:
    """T, X or Y: a centred kernel K~ (S, N, N), R = K~ (K~ + epsilon N)^-1, the trace (S,) of R, and sums for nulls."""

    def __init__(self, kernel: Tensor, epsilon: float, shuffles: AllShuffles) -> None:
        """Find R of the centred `kernel` as I - epsilon N (K~ + epsilon N)^-1, the inverse by Cholesky factors."""
        samples = kernel.shape[1]
        self.kernel = kernel
        identity = torch.eye(samples, dtype=kernel.dtype, device=kernel.device)
        weight = epsilon * samples
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(kernel + weight * identity))
        self.smooth = identity - weight * inverse
        self.trace_smooth = self.smooth.diagonal(dim1=1, dim2=2).sum(1)
        self.sums, self.smooth_sums = shuffles.sums(self.kernel), shuffles.sums(self.smooth)


preset("hsic", "qian-2025", sigma=50.0)
