"""Matrix-based Renyi entropy: the spectrum of a kernel matrix in the place of a distribution."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from infoplane.estimators._driver import Given, report
from infoplane.estimators._gram import Distances, KernelMethod, KernelProblem, same_class, silverman, submatrix
from infoplane.estimators._labels import entropy_of_counts
from infoplane.estimators._protocol import Quantity
from infoplane.estimators._registry import preset, register
from infoplane.estimators._scaling import (
    drawn_rows,
    eigenvalues,
    is_constant,
    positive_part,
    renyi_bits,
    shares,
    zscore,
)
from infoplane.estimators._settings import POSITIVE, at_least, positive_or, setting

UNIT = "Renyi bit"
GRID = 300
"""Widths that "alignment" tries."""
ALIGNED_ROWS = 256
"""Samples that "alignment" looks at."""


@register
@dataclass(frozen=True, kw_only=True)
class MatrixRenyi(KernelMethod):
    """Matrix-based Renyi entropy and information of kernel matrices. No Shannon information.

    S(A) = log2(sum eigenvalue^alpha) / (1 - alpha) of A = K/N with a Gaussian K; S(A, B) that of the entrywise
    product at trace 1; I = S(A) + S(B) - S(A, B). Two tight clusters far apart give the entropy of their sizes; samples
    that the kernel all tells apart give (log2 N, H(Y)) whatever the layer has learned (flag `saturated`).
    The kernel width sets the answer: published choices move I(T;Y) of one data set from 2.3 to 0.2. The value
    grows with N, so compare equal N only.

    :measures: matrix-based Renyi entropy and information; not Shannon
    :assumes: a kernel width
    :errs: with kernel width and N
    :cost: N² D + N³
    :memory: 7 N²
    :gives: S(T), I(T;Y), I(X;T) of kernel matrices
    :unit: Renyi bit
    :ceiling: log2 N, S(Y)
    :source: Giraldo et al. 2015

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
        Seeds the drawn samples.

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
    shannon: ClassVar[bool] = False

    copies: ClassVar[int] = 3
    matrices: ClassVar[int] = 7

    alpha: float = setting(1.01, POSITIVE)
    width: float | Literal["silverman", "alignment"] = setting("silverman", positive_or("silverman", "alignment"))
    gamma: float = setting(1.0, POSITIVE)
    standardize: bool = True
    x_width: float | Literal["silverman"] = setting("silverman", positive_or("silverman"))
    max_samples: int = setting(1000, at_least(2))

    def start(self, given: Given) -> _Spectra:
        """Return the problem of one call, with kernels of the labels and inputs of the samples used."""
        return _Spectra(self, given.drawn(self.max_samples, self.seed))


class _Spectra(KernelProblem):
    """The kernels of Y and X with their entropies, for the products with the kernel of every snapshot."""

    config: MatrixRenyi

    def __init__(self, config: MatrixRenyi, given: Given) -> None:
        """Make the kernels of Y and X, and the entropy of Y."""
        super().__init__(config, given)
        self.h_x = entropy_of_counts(torch.bincount(given.x_ids))  # where S(T) comes near it, it is saturated
        x = given.features()
        self.kernel_x = None if x is None else self._kernel(x, config.x_width)
        if not self.continuous:
            self.classes = int(given.y.max()) + 1
            self.kernel_y = same_class(given.y)
            # The kernel has one eigenvalue for each class, the class's number of samples.
            self.s_y = renyi_bits(shares(torch.bincount(given.y).double()), config.alpha)
        else:
            self.kernel_y = self._kernel(given.y.view(len(given.y), -1), "silverman")
            self.s_y = self._entropy(self.kernel_y[None])[0]

    def _kernel(self, a: Tensor, width: float | str) -> Tensor:
        """Return the Gaussian kernel (N, N) of X or real targets, `a` (N, F): of this width, or "silverman"."""
        a = zscore(a) if self.config.standardize else a
        return Distances.of(a[None]).gaussian(self._fixed_width(width, *a.shape))[0]

    def _fixed_width(self, width: float | str, samples: int, units: int) -> float:
        """Return the width as a number: as it is, or Silverman's for so many samples and units where it is a word."""
        return silverman(self.config.gamma, samples, units) if isinstance(width, str) else width

    def chunk(self, t: Tensor) -> dict[str, Tensor]:
        """Return entropies (S,) of some snapshots (S, N, U): alone, with Y, and with X if given."""
        scaled = zscore(t) if self.config.standardize else t
        distances = Distances.of(scaled)
        widths = self._widths(distances, t.shape[2])
        kernel = distances.gaussian(widths)
        out = {"degenerate": is_constant(scaled), "width": widths, "s_t": self._entropy(kernel)}
        out["s_ty"] = self._entropy(kernel * self.kernel_y) if self.continuous else self._with_classes(kernel)
        if self.kernel_x is not None:
            out["s_xt"] = self._entropy(kernel * self.kernel_x)
        return out

    def finish(self, found: dict[str, Tensor]) -> dict[str, Quantity]:
        """Return the quantities, sums and differences of entropies, with ceilings and flags."""
        s_t = found["s_t"]
        # From 99 % of H(X) the kernel tells (nearly) all inputs apart.
        flags: dict[str, Tensor | bool] = {"degenerate": found["degenerate"], "saturated": s_t >= 0.99 * self.h_x}
        of_labels = flags | ({} if self.continuous else {"single_class": self.classes == 1})
        out = report("Renyi S(T)", s_t, ceiling=math.log2(self.samples), unit=UNIT, flags=flags)
        out |= report("Renyi I(T;Y)", s_t + self.s_y - found["s_ty"], ceiling=self.s_y, unit=UNIT, flags=of_labels)
        if self.kernel_x is not None:
            s_x = self._entropy(self.kernel_x[None])[0]
            out |= report("Renyi I(X;T)", s_t + s_x - found["s_xt"], ceiling=s_x, unit=UNIT, flags=flags)
        if self.config.width == "alignment":
            flags = {"degenerate": found["degenerate"]}
            out |= report("kernel width", found["width"], unit="units of T", flags=flags)
        return out

    def _with_classes(self, kernel: Tensor) -> Tensor:
        """Return the joint entropy (S,) of kernels (S, N, N) and the classes."""
        # Between classes the product with the kernel of classes is 0: its eigenvalues are those of each class's block.
        blocks = [submatrix(kernel, (self.y == label).nonzero()[:, 0]) for label in range(self.classes)]
        return self._of_eigenvalues(torch.cat([eigenvalues(block) for block in blocks], dim=1))

    def _entropy(self, kernel: Tensor) -> Tensor:
        """Return the entropies (S,) of kernels (S, N, N)."""
        return self._of_eigenvalues(eigenvalues(kernel))

    def _of_eigenvalues(self, values: Tensor) -> Tensor:
        """Return the entropies (S,) of kernels with these eigenvalues (S, N)."""
        return renyi_bits(shares(positive_part(values)), self.config.alpha)

    def _widths(self, distances: Distances, units: int) -> Tensor:
        """Return the kernel widths (S,) of the layer, by the rule in the settings."""
        samples, width, kernel_y = distances.squared.shape[1], self.config.width, self.kernel_y
        if width != "alignment":
            return torch.full_like(distances.scale, self._fixed_width(width, samples, units))
        rows = drawn_rows(samples, ALIGNED_ROWS, self.config.seed)
        if rows is not None:
            rows = rows.to(kernel_y.device)
            distances, kernel_y = distances.rows(rows), submatrix(kernel_y[None], rows)[0]
        mean = distances.mean()
        mean = torch.where(mean > 0, mean, torch.ones_like(mean))  # of equal rows any width gives the same kernel
        # Alignment: <K, K_Y> / |K|, where |K_Y| is the same for all widths. Of equals the narrowest is taken.
        best, chosen = torch.full_like(mean, -math.inf), mean
        for factor in torch.linspace(0.1, 10.0, GRID, device="cpu").tolist():
            kernel = distances.gaussian(factor * mean)
            score = (kernel * kernel_y).sum((1, 2)) / kernel.square().sum((1, 2)).sqrt()
            chosen = torch.where(score > best, factor * mean, chosen)
            best = torch.maximum(best, score)
        return chosen


# Wickstrom's kernel is exp(-d^2 / sigma^2) with sigma = 8 for X.
preset("renyi", "wickstrom-2019", alpha=1.0, width="alignment", standardize=False, x_width=8.0 / math.sqrt(2.0))
preset("renyi", "tapia-2020", alpha=1.01, width="silverman", gamma=1.0, standardize=True)
preset("renyi", "ipdl", alpha=1.0, width="silverman", gamma=0.8, standardize=False)
