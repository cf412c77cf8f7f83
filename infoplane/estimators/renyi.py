"""Matrix-based Renyi entropy: the spectrum of a kernel matrix in the place of a distribution."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from infoplane.estimators._checks import entropy_of_ids
from infoplane.estimators._gram import Distances, same_class, silverman
from infoplane.estimators._parts import in_parts
from infoplane.estimators._protocol import Quantity, check_inputs, input_features
from infoplane.estimators._registry import preset, register
from infoplane.estimators._scaling import drawn_rows, is_constant, zscore
from infoplane.estimators._spectra import eigenvalues, positive_part, renyi_bits, shares

UNIT = "Renyi bit"
GRID = 300
ALIGNED_ROWS = 256


@register
@dataclass(frozen=True, kw_only=True)
class MatrixRenyi:
    """Matrix-based Renyi entropy and information of kernel matrices. No Shannon information.

    S(A) = log2(sum eigenvalue^alpha) / (1 - alpha) of A = K/N with a Gaussian K; S(A, B) that of the entrywise
    product at trace 1; I = S(A) + S(B) - S(A, B). Two tight clusters far apart give the entropy of their sizes; samples
    that the kernel all tells apart give (log2 N, H(Y)) whatever the layer has learned (flag `saturated`).
    The kernel width sets the answer: published choices move I(T;Y) of one data set from 2.3 to 0.2. The value
    grows with N, so compare equal N only.

    Parameters
    ----------
    alpha : float
        Order, positive; 1 is the limit -sum eigenvalue log2 eigenvalue.
    width : float, "silverman" or "alignment"
        Kernel exp(-d^2 / 2 width^2): fixed; gamma sqrt(U) N^(-1/(4+U)); or for each snapshot the one of
        300 widths, evenly from 0.1 to 10 mean distances, whose kernel aligns best with that of Y. The
        published alignments also average the width over training iterations; here each snapshot is on its own.
    gamma : float
        Factor of "silverman".
    standardize : bool
        Scale units (and X, and real targets) to mean 0 and variance 1 first.
    x_width : float or "silverman"
        Kernel width of X.
    max_samples : int
        More samples than this are drawn from, with `seed`: the cost is of order N^3, the memory N^2.
    seed : int

    Notes
    -----
    Returns "Renyi S(T)", "Renyi I(T;Y)", with `x` "Renyi I(X;T)", and under "alignment" the "kernel width", in
    the units of T. Classes have the kernel 1 (same class) or 0; real targets a Gaussian one of Silverman's width.

    Raises
    ------
    ValueError
        For settings or input outside what is stated here.

    References
    ----------
    Sanchez Giraldo, Rao and Principe, "Measures of entropy from data using infinitely divisible kernels", 2014.
    Wickstrom et al., "Information plane analysis of deep neural networks via matrix-based Renyi's entropy and
    tensor kernels", 2019 (preset `wickstrom-2019`).
    Tapia and Estevez, "On the information plane of autoencoders", 2020 (preset `tapia-2020`).
    IPDL, "Information plane and deep learning" library, its Silverman rule (preset `ipdl`).

    Examples
    --------
    >>> y = torch.tensor([0, 1]).repeat(50)
    >>> t = 100.0 * y[None, :, None].double()
    >>> found = MatrixRenyi(width=1.0, standardize=False).estimate(t, y)
    >>> [round(float(found[q].value), 6) for q in ("Renyi S(T)", "Renyi I(T;Y)")]
    [1.0, 1.0]
    """

    name: ClassVar[str] = "renyi"
    targets: ClassVar[frozenset[str]] = frozenset({"discrete", "continuous"})
    guarantees: ClassVar[frozenset[str]] = frozenset({"blocks", "sample_order", "unit_order"})

    alpha: float = 1.01
    width: float | Literal["silverman", "alignment"] = "silverman"
    gamma: float = 1.0
    standardize: bool = True
    x_width: float | Literal["silverman"] = "silverman"
    max_samples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        for name, words in (("width", ("silverman", "alignment")), ("x_width", ("silverman",))):
            value = getattr(self, name)
            if not (value in words or (isinstance(value, int | float) and 0 < value < math.inf)):
                raise ValueError(f"{name} must be a positive number or {' or '.join(map(repr, words))}, got {value!r}")
        for name in ("alpha", "gamma"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name)}")
        if self.max_samples < 2:
            raise ValueError(f"max_samples must be at least 2, got {self.max_samples}")

    def bytes_per_snapshot(self, samples: int, units: int) -> int:
        """Bytes one snapshot needs: its values in float64 twice and seven matrices of the samples used."""
        used = min(samples, self.max_samples)
        return 24 * samples * units + 56 * used * used

    def estimate(
        self, t: Tensor, y: Tensor, *, x: Tensor | None = None, x_ids: Tensor | None = None
    ) -> dict[str, Quantity]:
        """Estimate S(T), I(T;Y) and, with `x` (N, F), I(X;T) of `t` (S, N, U)."""
        t, y, x_ids = check_inputs(t, y, x_ids, targets=self.targets, name=self.name)
        x = None if x is None else input_features(x, t)
        rows = drawn_rows(t.shape[1], self.max_samples, self.seed)
        if rows is not None:
            rows = rows.to(t.device)
            t, y, x_ids = t[:, rows], y[rows], x_ids[rows]
        kernel_x = None
        if x is not None:
            kernel_x = self._kernel(x if rows is None else x[rows], self.x_width)
        kernel_y = self._kernel(y.view(len(y), -1), "silverman") if y.is_floating_point() else same_class(y)
        h_x = entropy_of_ids(x_ids)
        bytes_each = 56 * t.shape[1] ** 2
        return in_parts(t, bytes_each, lambda part: self._part(part, y, kernel_y, kernel_x, h_x))

    def _kernel(self, a: Tensor, width: float | str) -> Tensor:
        """(N, N) kernel of X or of real targets."""
        a = zscore(a) if self.standardize else a
        sigma = silverman(self.gamma, *a.shape) if isinstance(width, str) else width
        return Distances.of(a[None]).gaussian(sigma)[0]

    def _part(
        self, t: Tensor, y: Tensor, kernel_y: Tensor, kernel_x: Tensor | None, h_x: Tensor
    ) -> dict[str, Quantity]:
        scaled = zscore(t) if self.standardize else t
        constant, samples = is_constant(scaled), t.shape[1]
        distances = Distances.of(scaled)
        widths = self._widths(distances, kernel_y, t.shape[2])
        kernel = distances.gaussian(widths)
        s_t = self._entropy(kernel)
        ceiling = s_t.new_tensor(math.log2(samples))
        flags = {"degenerate": constant, "saturated": s_t >= 0.99 * h_x}
        out = {"Renyi S(T)": Quantity(value=s_t, ceiling=ceiling, unit=UNIT, flags=flags)}
        if y.is_floating_point():
            s_y, s_ty = self._entropy(kernel_y[None])[0], self._entropy(kernel * kernel_y)
        else:
            # Blocks of one class each: the eigenvalues are those of the blocks.
            s_y = renyi_bits(shares(torch.bincount(y).double()), self.alpha)
            parts = [eigenvalues(_within(kernel, y == k)) for k in range(int(y.max()) + 1)]
            s_ty = renyi_bits(shares(positive_part(torch.cat(parts, dim=1))), self.alpha)
            flags = {**flags, "single_class": torch.full_like(constant, len(parts) == 1)}
        out["Renyi I(T;Y)"] = Quantity(value=s_t + s_y - s_ty, ceiling=s_y, unit=UNIT, flags=flags)
        if kernel_x is not None:
            s_x = self._entropy(kernel_x[None])[0]
            value = s_t + s_x - self._entropy(kernel * kernel_x)
            out["Renyi I(X;T)"] = Quantity(value=value, ceiling=s_x, unit=UNIT, flags=out["Renyi S(T)"].flags)
        if self.width == "alignment":
            out["kernel width"] = Quantity(value=widths, unit="units of T", flags={"degenerate": constant})
        return out

    def _entropy(self, kernel: Tensor) -> Tensor:
        return renyi_bits(shares(positive_part(eigenvalues(kernel))), self.alpha)

    def _widths(self, distances: Distances, kernel_y: Tensor, units: int) -> Tensor:
        """(S,) kernel widths."""
        samples = distances.squared.shape[1]
        if self.width == "silverman":
            return torch.full_like(distances.scale, silverman(self.gamma, samples, units))
        if self.width != "alignment":
            return torch.full_like(distances.scale, float(self.width))
        rows = drawn_rows(samples, ALIGNED_ROWS, self.seed)
        if rows is not None:
            rows = rows.to(kernel_y.device)
            distances, kernel_y = distances.rows(rows), kernel_y[rows][:, rows]
        mean = distances.mean()
        mean = torch.where(mean > 0, mean, torch.ones_like(mean))
        best, chosen = torch.full_like(mean, -math.inf), mean
        for factor in torch.linspace(0.1, 10.0, GRID).tolist():
            kernel = distances.gaussian(factor * mean)
            score = (kernel * kernel_y).sum((1, 2)) / kernel.square().sum((1, 2)).sqrt()
            chosen = torch.where(score > best, factor * mean, chosen)
            best = torch.maximum(best, score)
        return chosen


def _within(kernel: Tensor, rows: Tensor) -> Tensor:
    index = rows.nonzero()[:, 0]
    return kernel[:, index][:, :, index]


# Wickstrom's kernel is exp(-d^2 / sigma^2) with sigma = 8 for X.
preset("renyi", "wickstrom-2019", alpha=1.0, width="alignment", standardize=False, x_width=8.0 / math.sqrt(2.0))
preset("renyi", "tapia-2020", alpha=1.01, width="silverman", gamma=1.0, standardize=True)
preset("renyi", "ipdl", alpha=1.0, width="silverman", gamma=0.8, standardize=False)
