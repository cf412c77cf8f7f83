"""Cauchy-Schwarz quadratic mutual information, and the conditional divergence between targets and outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from infoplane.estimators._driver import Given, report
from infoplane.estimators._gram import Distances, KernelOfRun, KernelProblem
from infoplane.estimators._labels import entropy_of_counts
from infoplane.estimators._protocol import Quantity
from infoplane.estimators._registry import preset, register
from infoplane.estimators._scaling import is_constant, zscore
from infoplane.estimators._settings import at_least, setting

UNIT = "CS bit"


@register
@dataclass(frozen=True, kw_only=True)
class CauchySchwarz(KernelOfRun):
    """Cauchy-Schwarz divergence between the joint law of T and Y and the product of its margins. Not Shannon.

    I_CS = log2 mean_ij(K L) + log2 (mean_ij K mean_ij L) - 2 log2 mean_i(mean_j K mean_j L) with Gaussian kernels K of
    T and L of X or Y (1 within a class, 0 between): not negative, 0 for independent variables up to order 1/N upwards,
    log2 C for C distant balanced classes. Numbers are small where kernels are wide (a Gaussian pair of
    correlation 0.9 has 0.2 at width 1) and set by the width: never on one axis with Shannon bits. Too narrow a
    kernel gives log2 N whatever the layer (flag `saturated`).

    For real targets, a layer with as many units as the target (the output) also has the conditional divergence
    D_CS(p(y|x); p(t|x)), 0 for a perfect output. The released code weighs samples by 1 / sum_j K_ij^2; this
    follows the derivation, 1 / (sum_j K_ij)^2.

    :measures: Cauchy-Schwarz dependence; not Shannon
    :assumes: a kernel width
    :errs: up, by about 1/N
    :cost: N² D
    :memory: 5 N²
    :gives: CS-QMI, conditional divergence
    :unit: CS bit
    :ceiling: log2 N
    :source: Principe 2010; Yu et al. 2024

    Parameters
    ----------
    sigma : float, "median" or "snapshot"
        Kernel exp(-d^2 / 2 sigma^2) of T and X: fixed (1 in the paper); the median distance, for T at the last
        snapshot of the run, found by `prepare` (without it, the last of the block given); that of each snapshot.
        Real targets follow the same rule with their own distances.
    standardize : bool
        Scale units, X and real targets to mean 0 and variance 1 first. The conditional divergence keeps outputs on
        the scale of the targets.
    max_samples : int
        More samples than this are drawn from, with `seed`: the cost is of order N^2 U, the memory N^2.
    seed : int
        Seeds the drawn samples.
    run_sigma
        Found by `prepare` for "median".

    Notes
    -----
    Returns "CS-QMI(T;Y)" and, divided by the geometric mean of the two self-informations, "normalized CS-QMI(T;Y)"
    (unit "1"); with `x` the same of (X;T) and, for the output of a regression, "conditional CS divergence".

    Raises
    ------
    ValueError
        For settings or input outside what is stated here.

    References
    ----------
    Principe, "Information theoretic learning", 2010.
    Yu et al., "Cauchy-Schwarz divergence information bottleneck for regression", 2024 (preset `yu-2024`).

    Examples
    --------
    >>> y = torch.arange(4).repeat(25)
    >>> t = 100.0 * torch.nn.functional.one_hot(y)[None].double()
    >>> float(CauchySchwarz(sigma=1.0, standardize=False).estimate(t, y)["CS-QMI(T;Y)"].value.round(decimals=6))
    2.0
    """

    name: ClassVar[str] = "cs-qmi"
    shannon: ClassVar[bool] = False

    copies: ClassVar[int] = 3
    matrices: ClassVar[int] = 5

    standardize: bool = True
    max_samples: int = setting(4000, at_least(2))

    def start(self, given: Given) -> _Divergence:
        """Return the problem of one call, with kernels of the labels and inputs of the samples used."""
        return _Divergence(self, given.drawn(self.max_samples, self.seed))

    def scaled(self, a: Tensor) -> Tensor:
        """Return the rows (..., N, U) between which distances are measured: z-scored where `standardize` says so."""
        return zscore(a) if self.standardize else a.double()


class _Divergence(KernelProblem):
    """The kernels of Y and X, which every snapshot is compared with."""

    config: CauchySchwarz

    def __init__(self, config: CauchySchwarz, given: Given) -> None:
        """Make the kernels of Y and X, and see whether the layer can be the output of a regression."""
        super().__init__(config, given)
        self.config = config.ready(given.t)
        self.h_x = entropy_of_counts(torch.bincount(given.x_ids))
        self.sides = {pair: self._side(a) for pair, a in given.sides().items()}
        self.targets = given.y.view(len(given.y), -1)  # (N, k)
        self.of_output = "X;T" in self.sides and self.continuous and self.targets.shape[1] == self.units

    def _side(self, a: Tensor) -> _Side:
        """Return X or Y, `a` (N, ...), with its kernel; the kernel of classes is one-hot rows times themselves."""
        factor = None if a.is_floating_point() else torch.nn.functional.one_hot(a).double()
        return _Side(self.config.kernel_beside(a), factor)

    def chunk(self, t: Tensor) -> dict[str, Tensor]:
        """Return CS-QMI, plain and normalised, and for an output layer its divergence from the targets, (S,) each."""
        scaled = self.config.scaled(t)
        layer = _Side(self.config.kernel(scaled))
        self_t = layer.information(layer)
        out = {"degenerate": is_constant(scaled), "self": self_t}
        for pair, other in self.sides.items():
            value = out[f"CS-QMI({pair})"] = other.information(layer)
            # Rounding may make a self-information of 0 negative; where it is 0, so is the normalised value.
            norm = (self_t * other.information(other)).clamp(min=0.0).sqrt()
            out[f"normalized CS-QMI({pair})"] = torch.where(norm > 0, value / torch.where(norm > 0, norm, 1.0), 0.0)
        if self.of_output:
            kernel_x = self.sides["X;T"].kernel
            out["divergence"], out["never_meet"] = self._conditional(t.double(), self.targets, kernel_x)
        return out

    def finish(self, found: dict[str, Tensor]) -> dict[str, Quantity]:
        """Return the quantities with their units and flags."""
        out: dict[str, Quantity] = {}
        degenerate = found["degenerate"]
        for pair, other in self.sides.items():
            # A self-information near H(X): the kernel tells (nearly) all inputs apart.
            flags: dict[str, Tensor | bool] = {"degenerate": degenerate, "saturated": found["self"] >= 0.9 * self.h_x}
            if pair == "T;Y":
                flags["single_class"] = other.factor is not None and other.factor.shape[1] == 1
            for name, unit in ((f"CS-QMI({pair})", UNIT), (f"normalized CS-QMI({pair})", "1")):
                out |= report(name, found[name], unit=unit, flags=flags)
        if self.of_output:
            flags = {"degenerate": degenerate, "out_of_domain": found["never_meet"]}
            out |= report("conditional CS divergence", found["divergence"], unit=UNIT, flags=flags)
        return out

    def _conditional(self, t: Tensor, y: Tensor, kernel_x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the divergence (S,) in bits of outputs `t` (S, N, k) from targets `y` (N, k) given X, and doubts (S,).

        This is the Cauchy-Schwarz divergence D_CS(p(y|x); p(t|x)) with the kernel of X (1, N, N). It is doubtful where
        outputs are so far from all targets that every kernel between them is 0.
        """
        samples = len(y)
        if self.config.standardize:
            scale = y.std(0, correction=0)
            scale = torch.where(scale > 0, scale, 1.0)
            t, y = (t - y.mean(0)) / scale, (y - y.mean(0)) / scale
        sigma = self.config.widths(Distances.of(y[None]), y.shape[1])
        # (S, 2 N, 2 N): kernels between targets (yy), outputs (tt), and both (yt) are blocks of one kernel.
        both = Distances.of(torch.cat([y.expand_as(t), t], dim=1)).gaussian(sigma)
        # A row sum of the kernel is the density of X there: divided by its square, joint laws become laws given X.
        weight = kernel_x / kernel_x.sum(2, keepdim=True).square()
        yy, tt, yt = both[:, :samples, :samples], both[:, samples:, samples:], both[:, :samples, samples:]
        sums = torch.stack([(weight * part).sum((1, 2)) for part in (yy, tt, yt)])
        least = torch.finfo(sums.dtype).tiny  # a kernel of outputs far from all targets is 0, whose logarithm is not
        log = sums.clamp(min=least).log2()
        return log[0] + log[1] - 2 * log[2], sums[2] <= least


class _Side:
    """T, X or Y: a kernel (S, N, N) with its row means; of classes also `factor` (N, C), kernel = factor factor'."""

    def __init__(self, kernel: Tensor, factor: Tensor | None = None) -> None:
        """Keep the kernel, and find its row means (S, N) and the log2 (S,) of its mean."""
        self.kernel, self.factor = kernel, factor
        self.row_means = kernel.mean(2)
        self.log_mean = self.row_means.mean(1).log2()

    def information(self, other: _Side) -> Tensor:
        """Return the Cauchy-Schwarz information (S,) in bits between this variable and another, from their kernels."""
        samples = self.kernel.shape[1]
        # sum_ij K_ij L_ij of both kernels; a product with the factor of classes takes no further N^2 matrix.
        if self.factor is not None:
            joint = ((other.kernel @ self.factor) * self.factor).sum((1, 2))
        else:
            joint = (self.kernel.flatten(1)[:, None] @ other.kernel.flatten(1)[:, :, None])[:, 0, 0]
        cross = (self.row_means * other.row_means).mean(1).log2()
        return (joint / samples**2).log2() + self.log_mean + other.log_mean - 2 * cross


preset("cs-qmi", "yu-2024", sigma=1.0)
