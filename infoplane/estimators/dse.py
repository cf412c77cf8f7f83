"""Diffusion spectral entropy and what a class or an input cluster takes away from it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from infoplane.core.files import fingerprint
from infoplane.estimators._checks import entropy_of_ids
from infoplane.estimators._clusters import spectral_clusters
from infoplane.estimators._gram import Distances, WidthRule, check_width, kernel_width, median_of_last
from infoplane.estimators._parts import in_parts
from infoplane.estimators._protocol import Blocks, Quantity, as_floats, check_inputs, input_features, prepared
from infoplane.estimators._registry import preset, register
from infoplane.estimators._scaling import drawn_rows, is_constant
from infoplane.estimators._spectra import eigenvalues, shannon_bits, shares
from infoplane.estimators._targets import bin_targets

UNIT = "spectral bit"
# Below this ratio of median distance to kernel width, all samples look like one to the kernel.
NARROWEST = 0.25


@register
@dataclass(frozen=True, kw_only=True)
class DiffusionSpectralEntropy:
    """Entropy of the spectrum of a diffusion operator on the samples (DSE), and DSMI. No Shannon information.

    DSE = -sum q_i log2 q_i with q_i in proportion to |eigenvalue_i|^power of the row-normalised Gaussian
    kernel matrix: 0 for one tight cluster, log2 k for k distant tight ones of whatever sizes, log2 N once
    the kernel tells all samples apart. It depends on the scale of T: with a fixed width, growth of the
    activations alone raises it (the published rise of DSE in training is largely that), and a width far beyond all
    distances gives 0 whatever the data (flag `out_of_domain`).

    DSMI(T;Y) = sum_b p(b) [mean DSE of random subsets of size n_b - DSE of class b], which is not zero only when
    classes are more compact than random subsets. It may be negative, is not bounded by H(Y), and DSMI(T;T) is
    not DSE(T). DSMI(X;T) does the same with clusters of the inputs, found once.

    Parameters
    ----------
    sigma : float, "median" or "snapshot"
        Width in the units of T: fixed (10 in the paper); the median distance at the last snapshot of the
        run, found by `prepare` (without it, the last of the block given); the median of each snapshot,
        which removes the scale.
    normalization : "rw" or "anisotropic"
        Spectrum of D^-1 G, as in the authors' code; or of D_K^-1 K with K = D^-1/2 G D^-1/2, as in their paper.
    power : int
        Diffusion time: 1 or more.
    subsets : int
        Random subsets for each class.
    clusters : int
        Groups of X, and of vector targets, by spectral clustering; scalar targets get so many equal-width bins.
    max_samples : int
        More samples than this are drawn from, with `seed`: the cost is of order N^3, the memory N^2.
    seed : int
    run_sigma, x_clusters
        Found by `prepare`: the frozen width, and the digest of the clusters.

    Notes
    -----
    Returns "DSE" (ceiling log2 N), "DSMI(T;Y)", and with `x` "DSMI(X;T)", in a unit of their own, "spectral bit".

    Raises
    ------
    ValueError
        For settings or input outside what is stated here.

    References
    ----------
    Liao, Liu et al., "Assessing neural network representations during training using noise-resilient diffusion
    spectral entropy", 2024.

    Examples
    --------
    >>> y = torch.arange(4).repeat(25)
    >>> t = 100.0 * torch.nn.functional.one_hot(y)[None].double()        # four tight clusters
    >>> float(DiffusionSpectralEntropy(sigma=10.0).estimate(t, y)["DSE"].value.round(decimals=6))
    2.0
    """

    name: ClassVar[str] = "dse"
    targets: ClassVar[frozenset[str]] = frozenset({"discrete", "continuous"})
    guarantees: ClassVar[frozenset[str]] = frozenset({"blocks", "unit_order"})

    sigma: WidthRule = "median"
    normalization: Literal["rw", "anisotropic"] = "rw"
    power: int = 1
    subsets: int = 5
    clusters: int = 10
    max_samples: int = 2000
    seed: int = 0
    run_sigma: float | None = prepared()
    x_clusters: str | None = prepared()

    def __post_init__(self) -> None:
        check_width("sigma", self.sigma)
        if self.normalization not in ("rw", "anisotropic"):
            raise ValueError(f"normalization must be 'rw' or 'anisotropic', got {self.normalization!r}")
        for name, least in (("power", 1), ("subsets", 1), ("clusters", 2), ("max_samples", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")

    def bytes_per_snapshot(self, samples: int, units: int) -> int:
        """Bytes one snapshot needs: its values in float64 and six matrices of the samples used."""
        used = min(samples, self.max_samples)
        return 16 * samples * units + 48 * used * used

    def prepare(self, blocks: Blocks, y: Tensor, x: Tensor | None = None) -> Self:
        """Find the width of the last snapshot and the clusters of `x`."""
        found = self
        if self.sigma == "median":
            found = replace(found, run_sigma=median_of_last(blocks, self.max_samples, self.seed))
        if x is not None:
            x = as_floats(x, "x").flatten(1)
            rows = drawn_rows(len(x), self.max_samples, self.seed)
            labels = spectral_clusters(_rows(x, rows), self.clusters)
            found = replace(found, x_clusters=f"sha256:{_digest(labels)}")
            found.__dict__["_found"] = (_digest(x), labels)
        return found

    def estimate(
        self, t: Tensor, y: Tensor, *, x: Tensor | None = None, x_ids: Tensor | None = None
    ) -> dict[str, Quantity]:
        """Estimate DSE and DSMI of `t` (S, N, U); `y` as for every estimator, `x` (N, F) for DSMI(X;T)."""
        t, y, x_ids = check_inputs(t, y, x_ids, targets=self.targets, name=self.name)
        x = None if x is None else input_features(x, t, keep=True)
        rows = drawn_rows(t.shape[1], self.max_samples, self.seed)
        groups = {"DSMI(T;Y)": self._classes(_rows(y, rows))}
        if x is not None:
            groups["DSMI(X;T)"] = self._input_clusters(x, rows).to(t.device)
        used = t if rows is None else t[:, rows.to(t.device)]
        ids = torch.unique(_rows(x_ids, rows), return_inverse=True)[1]
        ready = self
        # The width of an unprepared "median" is that of the last snapshot, whatever part it falls into.
        if self.sigma == "median" and self.run_sigma is None and len(t):
            ready = replace(self, run_sigma=median_of_last([used[-1:]], self.max_samples, self.seed))
        return in_parts(used, 48 * used.shape[1] ** 2, lambda part: ready._part(part, groups, ids))

    def _classes(self, y: Tensor) -> Tensor:
        if not y.is_floating_point():
            return y
        if y.ndim == 1 or y.shape[1] == 1:
            return bin_targets(y, self.clusters, rule="width")
        return spectral_clusters(y, self.clusters)

    def _input_clusters(self, x: Tensor, rows: Tensor | None) -> Tensor:
        known = self.__dict__.get("_found")
        if known is not None and known[0] == _digest(x):
            labels: Tensor = known[1]
            return labels
        return spectral_clusters(_rows(x, rows), self.clusters)

    def _part(self, t: Tensor, groups: dict[str, Tensor], ids: Tensor) -> dict[str, Quantity]:
        distances = Distances.of(t)
        width = kernel_width(self.sigma, self.run_sigma, distances)
        kernel = distances.gaussian(width)
        whole = self._entropy(kernel)
        ceiling = math.log2(t.shape[1])
        constant = is_constant(t)
        flags = {"degenerate": constant, "out_of_domain": distances.median() < NARROWEST * width}
        out = {
            "DSE": Quantity(
                value=whole,
                ceiling=whole.new_tensor(ceiling),
                unit=UNIT,
                flags={**flags, "saturated": whole >= 0.99 * entropy_of_ids(ids)},
            )
        }
        for name, labels in groups.items():
            counts = torch.bincount(labels)
            same = torch.ones_like(constant)
            out[name] = Quantity(
                value=self._difference(kernel, labels, whole, ids),
                unit=UNIT,
                flags={
                    **flags,
                    "single_class": same & (int((counts > 0).sum()) == 1),
                    "few_samples": same & (int(counts[counts > 0].min()) < 10),
                },
            )
        return out

    def _entropy(self, kernel: Tensor) -> Tensor:
        """(S,) DSE of Gaussian kernels (S, n, n)."""
        matrix = _normalized(kernel)
        if self.normalization == "anisotropic":
            matrix = _normalized(matrix)
        return shannon_bits(shares(eigenvalues(matrix).abs().pow(self.power)))

    def _difference(self, kernel: Tensor, labels: Tensor, whole: Tensor, ids: Tensor) -> Tensor:
        samples = len(labels)
        total = torch.zeros_like(whole)
        drawn: dict[int, Tensor] = {samples: whole}
        for label in torch.unique(labels).tolist():
            own = (labels == label).nonzero()[:, 0]
            size = len(own)
            if size not in drawn:
                generator = torch.Generator().manual_seed(self.seed)
                subsets = [_drawn_by_input(ids, size, generator) for _ in range(self.subsets)]
                parts = [self._entropy(_submatrix(kernel, s)) for s in subsets]
                drawn[size] = torch.stack(parts).mean(0)
            if size < samples:
                total += size / samples * (drawn[size] - self._entropy(_submatrix(kernel, own)))
        return total


def _normalized(kernel: Tensor) -> Tensor:
    """D^-1/2 G D^-1/2, which has the spectrum of D^-1 G."""
    half = kernel.sum(2).rsqrt()
    return kernel * half[:, :, None] * half[:, None, :]


def _drawn_by_input(ids: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """`size` random rows, all rows of one input before those of the next: a class holds whole inputs too."""
    place = torch.randperm(int(ids.max()) + 1, generator=generator).argsort().to(ids.device)
    return torch.argsort(place[ids], stable=True)[:size]


def _submatrix(kernel: Tensor, index: Tensor) -> Tensor:
    return kernel[:, index][:, :, index]


def _rows(a: Tensor, rows: Tensor | None) -> Tensor:
    return a if rows is None else a[rows.to(a.device)]


def _digest(a: Tensor) -> str:
    return fingerprint(a.detach().cpu().double().contiguous().numpy().tobytes(), method="sha256")


preset("dse", "liao-2024", sigma=10.0, max_samples=10_000)
