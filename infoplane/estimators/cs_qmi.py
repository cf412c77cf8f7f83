"""Cauchy-Schwarz quadratic mutual information, and the conditional divergence between targets and outputs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from infoplane.estimators._checks import entropy_of_ids
from infoplane.estimators._gram import (
    Distances,
    WidthRule,
    check_width,
    kernel_width,
    median_of_last,
    same_class,
)
from infoplane.estimators._parts import in_parts
from infoplane.estimators._protocol import Blocks, Quantity, check_inputs, input_features, prepared
from infoplane.estimators._registry import preset, register
from infoplane.estimators._scaling import drawn_rows, is_constant, zscore

UNIT = "CS bit"


@register
@dataclass(frozen=True, kw_only=True)
class CauchySchwarz:
    """Cauchy-Schwarz divergence between the joint law of T and Y and the product of its margins. Not Shannon.

    I_CS = log2 mean_ij(K L) + log2 (mean_ij K mean_ij L) - 2 log2 mean_i(mean_j K mean_j L) with Gaussian kernels K of
    T and L of X or Y (1 within a class, 0 between): not negative, 0 for independent variables up to order 1/N upwards,
    log2 C for C distant balanced classes. Numbers are small where kernels are wide (a Gaussian pair of
    correlation 0.9 has 0.2 at width 1) and set by the width: never on one axis with Shannon bits. Too narrow a
    kernel gives log2 N whatever the layer (flag `saturated`).

    For real targets, a layer with as many units as the target (the output) also has the conditional divergence
    D_CS(p(y|x); p(t|x)), 0 for a perfect output. The released code weighs samples by 1 / sum_j K_ij^2; this
    follows the derivation, 1 / (sum_j K_ij)^2.

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
    targets: ClassVar[frozenset[str]] = frozenset({"discrete", "continuous"})
    guarantees: ClassVar[frozenset[str]] = frozenset({"blocks", "sample_order", "unit_order"})

    sigma: WidthRule = "median"
    standardize: bool = True
    max_samples: int = 4000
    seed: int = 0
    run_sigma: float | None = prepared()

    def __post_init__(self) -> None:
        check_width("sigma", self.sigma)
        if self.max_samples < 2:
            raise ValueError(f"max_samples must be at least 2, got {self.max_samples}")

    def bytes_per_snapshot(self, samples: int, units: int) -> int:
        """Bytes one snapshot needs: its values in float64 twice and five matrices of the samples used."""
        used = min(samples, self.max_samples)
        return 24 * samples * units + 40 * used * used

    def prepare(self, blocks: Blocks, y: Tensor, x: Tensor | None = None) -> Self:
        """Find the width of the last snapshot."""
        if self.sigma != "median":
            return self
        return replace(self, run_sigma=median_of_last(blocks, self.max_samples, self.seed, self._scaled))

    def estimate(
        self, t: Tensor, y: Tensor, *, x: Tensor | None = None, x_ids: Tensor | None = None
    ) -> dict[str, Quantity]:
        """Estimate CS-QMI of `t` (S, N, U) with `y` and, where given, `x` (N, F)."""
        t, y, x_ids = check_inputs(t, y, x_ids, targets=self.targets, name=self.name)
        x = None if x is None else input_features(x, t)
        ready = self
        if self.sigma == "median" and self.run_sigma is None and len(t):
            width = median_of_last([t[-1:]], self.max_samples, self.seed, self._scaled)
            ready = replace(self, run_sigma=width)
        rows = drawn_rows(t.shape[1], self.max_samples, self.seed)
        if rows is not None:
            rows = rows.to(t.device)
            t, y, x_ids = t[:, rows], y[rows], x_ids[rows]
        sides = {"T;Y": self._side(y)}
        if x is not None:
            sides["X;T"] = self._side(x if rows is None else x[rows])
        return in_parts(t, 40 * t.shape[1] ** 2, lambda part: ready._part(part, y, sides, entropy_of_ids(x_ids)))

    def _scaled(self, a: Tensor) -> Tensor:
        return zscore(a) if self.standardize else a.double()

    def _side(self, a: Tensor) -> _Side:
        """The kernel of X or Y."""
        if not a.is_floating_point():
            return _Side.of_classes(a)
        distances = Distances.of(self._scaled(a.view(len(a), -1))[None])
        sigma = distances.median() if isinstance(self.sigma, str) else self.sigma
        return _Side(distances.gaussian(sigma))

    def _part(self, t: Tensor, y: Tensor, sides: dict[str, _Side], h_x: Tensor) -> dict[str, Quantity]:
        scaled = self._scaled(t)
        constant = is_constant(scaled)
        distances = Distances.of(scaled)
        kernel = distances.gaussian(kernel_width(self.sigma, self.run_sigma, distances))
        layer = _Side(kernel)
        self_t = layer.information(layer)
        flags = {"degenerate": constant, "saturated": self_t >= 0.9 * h_x}
        out = {}
        for pair, other in sides.items():
            value = other.information(layer)
            norm = (self_t * other.information(other)).clamp(min=0.0).sqrt()
            ratio = torch.where(norm > 0, value / torch.where(norm > 0, norm, 1.0), 0.0)
            single = other.factor is not None and other.factor.shape[1] == 1
            more = {**flags, "single_class": torch.full_like(constant, single)} if pair == "T;Y" else flags
            out[f"CS-QMI({pair})"] = Quantity(value=value, unit=UNIT, flags=more)
            out[f"normalized CS-QMI({pair})"] = Quantity(value=ratio, unit="1", flags=more)
        targets = y.view(len(y), -1)
        if "X;T" in sides and y.is_floating_point() and targets.shape[1] == t.shape[2]:
            divergence, apart = self._conditional(t.double(), targets, sides["X;T"].kernel)
            flags = {"degenerate": constant, "out_of_domain": apart}
            out["conditional CS divergence"] = Quantity(value=divergence, unit=UNIT, flags=flags)
        return out

    def _conditional(self, t: Tensor, y: Tensor, kernel_x: Tensor) -> tuple[Tensor, Tensor]:
        """(S,) D_CS(p(y|x); p(t|x)) of targets `y` (N, k) and outputs `t` (S, N, k), and whether these do not meet."""
        samples = len(y)
        if self.standardize:
            scale = y.std(0, correction=0)
            scale = torch.where(scale > 0, scale, 1.0)
            t, y = (t - y.mean(0)) / scale, (y - y.mean(0)) / scale
        of_y = Distances.of(y[None])
        sigma = of_y.median() if isinstance(self.sigma, str) else of_y.scale.new_full((1,), float(self.sigma))
        both = Distances.of(torch.cat([y.expand_as(t), t], dim=1)).gaussian(sigma)
        weight = kernel_x / kernel_x.sum(2, keepdim=True).square()
        yy, tt, yt = both[:, :samples, :samples], both[:, samples:, samples:], both[:, :samples, samples:]
        sums = torch.stack([(weight * part).sum((1, 2)) for part in (yy, tt, yt)])
        log = sums.clamp(min=torch.finfo(sums.dtype).tiny).log2()
        return log[0] + log[1] - 2 * log[2], sums[2] <= torch.finfo(sums.dtype).tiny


class _Side:
    """A kernel (S, N, N) with its row means; of classes also `factor` (N, C) with kernel = factor factor'."""

    def __init__(self, kernel: Tensor, factor: Tensor | None = None) -> None:
        self.kernel, self.factor = kernel, factor
        self.rows = kernel.mean(2)
        self.log_mean = self.rows.mean(1).log2()

    @classmethod
    def of_classes(cls, y: Tensor) -> _Side:
        return cls(same_class(y)[None], torch.nn.functional.one_hot(y).double())

    def information(self, other: _Side) -> Tensor:
        """(S,) I_CS in bits of this kernel and another."""
        samples = self.kernel.shape[1]
        if self.factor is not None:
            joint = ((other.kernel @ self.factor) * self.factor).sum((1, 2))
        else:
            joint = (self.kernel.flatten(1)[:, None] @ other.kernel.flatten(1)[:, :, None])[:, 0, 0]
        cross = (self.rows * other.rows).mean(1).log2()
        return (joint / samples**2).log2() + self.log_mean + other.log_mean - 2 * cross


preset("cs-qmi", "yu-2024", sigma=1.0)
