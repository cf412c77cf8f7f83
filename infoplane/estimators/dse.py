"""Diffusion spectral entropy and what a class or an input cluster takes away from it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

import numpy as np
import scipy.linalg
import scipy.sparse
import scipy.sparse.linalg
import torch
from torch import Tensor

from infoplane.core.files import fingerprint
from infoplane.estimators._driver import Given, report
from infoplane.estimators._gram import Distances, KernelOfRun, KernelProblem, submatrix
from infoplane.estimators._labels import bin_targets, entropy_of_counts
from infoplane.estimators._neighbors import Points
from infoplane.estimators._protocol import Blocks, Quantity, as_floats
from infoplane.estimators._registry import preset, register
from infoplane.estimators._scaling import drawn_rows, eigenvalues, is_constant, shannon_bits, shares
from infoplane.estimators._settings import at_least, one_of, prepared, setting

UNIT = "spectral bit"
# Below this ratio of median distance to kernel width, all samples look like one to the kernel.
NARROWEST = 0.25
# Neighbours in the graph that is clustered, and rows up to which all eigenvectors are found.
NEIGHBORS, _DENSE = 10, 512


@register
@dataclass(frozen=True, kw_only=True)
class DiffusionSpectralEntropy(KernelOfRun):
    """Entropy of the spectrum of a diffusion operator on the samples (DSE), and DSMI. No Shannon information.

    DSE = -sum q_i log2 q_i with q_i in proportion to |eigenvalue_i|^power of the row-normalised Gaussian
    kernel matrix: 0 for one tight cluster, log2 k for k distant tight ones of whatever sizes, log2 N once
    the kernel tells all samples apart. It depends on the scale of T: with a fixed width, growth of the
    activations alone raises it (the published rise of DSE in training is largely that), and a width far beyond all
    distances gives 0 whatever the data (flag `out_of_domain`).

    DSMI(T;Y) = sum_b p(b) [mean DSE of random subsets of size n_b - DSE of class b], which is not zero only when
    classes are more compact than random subsets. It may be negative, is not bounded by H(Y), and DSMI(T;T) is
    not DSE(T). DSMI(X;T) does the same with clusters of the inputs, found once.

    :measures: entropy of a diffusion spectrum, DSMI; not Shannon
    :assumes: a kernel width
    :errs: with kernel width and N
    :cost: N² D + N³
    :memory: 6 N²
    :gives: DSE, DSMI
    :unit: spectral bit
    :ceiling: log2 N
    :source: Liao et al. 2024

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
        Seeds the drawn samples and the random subsets.
    run_sigma, x_clusters, clusters_found
        Found by `prepare`: the frozen width, the digest of the clusters, and the clusters themselves, which are neither
        compared nor recorded.

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
    shannon: ClassVar[bool] = False
    guarantees: ClassVar[frozenset[str]] = frozenset({"blocks", "unit_order"})

    matrices: ClassVar[int] = 6

    normalization: Literal["rw", "anisotropic"] = setting("rw", one_of("rw", "anisotropic"))
    power: int = setting(1, at_least(1))
    subsets: int = setting(5, at_least(1))
    clusters: int = setting(10, at_least(2))
    x_clusters: str | None = prepared()
    clusters_found: tuple[str, Tensor] | None = prepared(recorded=False)

    def prepare(self, blocks: Blocks, y: Tensor, x: Tensor | None = None) -> Self:
        """Return this estimator with the clusters of `x`, and for sigma="median" the width of the last snapshot."""
        found = KernelOfRun.prepare(self, blocks, y, x)
        if x is None:
            return found
        x = as_floats(x, "x").flatten(1)
        labels = self._clusters_of(x)
        return replace(found, x_clusters=f"sha256:{_digest(labels)}", clusters_found=(_digest(x), labels))

    def start(self, given: Given) -> _Diffusion:
        """Return the problem of one call, with groups of samples: the classes, and clusters of the inputs."""
        return _Diffusion(self, given)

    def groups_of_inputs(self, x: Tensor) -> Tensor:
        """Return the cluster (n,) of each drawn input of `x` (N, F); known if `prepare` has seen the same inputs."""
        digest, labels = self.clusters_found or (None, x)  # None: `prepare` was not called, or without inputs
        return labels if digest is not None and digest == _digest(x) else self._clusters_of(x)

    def _clusters_of(self, x: Tensor) -> Tensor:
        """Return the cluster (n,) of each of the inputs (N, F) that are drawn: all, or `max_samples` of them."""
        rows = drawn_rows(len(x), self.max_samples, self.seed)
        return spectral_clusters(x if rows is None else x[rows.to(x.device)], self.clusters)


class _Diffusion(KernelProblem):
    """The groups of samples whose spectra are compared with those of random subsets."""

    config: DiffusionSpectralEntropy

    def __init__(self, config: DiffusionSpectralEntropy, given: Given) -> None:
        """Draw the samples used and group them, by class and by cluster of the inputs."""
        used = given.drawn(config.max_samples, config.seed)
        super().__init__(config, used)
        self.x_ids = used.x_ids
        self.h_x = entropy_of_counts(torch.bincount(self.x_ids))
        self.groups = {"DSMI(T;Y)": self._classes(used.y)}
        x = given.features(keep=True)  # all inputs: their digest tells whether clusters are known
        if x is not None:
            self.groups["DSMI(X;T)"] = config.groups_of_inputs(x).to(self.t.device)
        self.config = config.ready(self.t)

    def _classes(self, y: Tensor) -> Tensor:
        """Return the group (N,) of each sample: its class, the bin of one target, or the cluster of several."""
        if not y.is_floating_point():
            return y
        if y.ndim == 1 or y.shape[1] == 1:
            return bin_targets(y, self.config.clusters, rule="width")
        return spectral_clusters(y, self.config.clusters)

    def chunk(self, t: Tensor) -> dict[str, Tensor]:
        """Return DSE and DSMI (S,) of some snapshots (S, N, U), and whether the kernel is far too wide for them."""
        distances = Distances.of(t)
        width = self.config.widths(distances, self.units, self.config.run_sigma)
        kernel = distances.gaussian(width)
        whole = self._entropy(kernel)
        out = {"DSE": whole, "degenerate": is_constant(t), "too_wide": distances.median() < NARROWEST * width}
        return out | {name: self._difference(kernel, labels, whole) for name, labels in self.groups.items()}

    def finish(self, found: dict[str, Tensor]) -> dict[str, Quantity]:
        """Return DSE with its ceiling and the differences DSMI, with flags."""
        flags: dict[str, Tensor | bool] = {"degenerate": found["degenerate"], "out_of_domain": found["too_wide"]}
        # From 99 % of H(X) the kernel tells (nearly) all inputs apart.
        full = {**flags, "saturated": found["DSE"] >= 0.99 * self.h_x}
        out = report("DSE", found["DSE"], ceiling=math.log2(self.samples), unit=UNIT, flags=full)
        for name, labels in self.groups.items():
            counts = torch.bincount(labels)
            counts = counts[counts > 0]
            of_groups = {"single_class": len(counts) == 1, "few_samples": int(counts.min()) < 10}
            out |= report(name, found[name], unit=UNIT, flags={**flags, **of_groups})
        return out

    def _entropy(self, kernel: Tensor) -> Tensor:
        """Return the DSE (S,) of Gaussian kernels (S, n, n)."""
        matrix = _normalized(kernel)
        if self.config.normalization == "anisotropic":
            matrix = _normalized(matrix)
        return shannon_bits(shares(eigenvalues(matrix).abs().pow(self.config.power)))

    def _difference(self, kernel: Tensor, labels: Tensor, whole: Tensor) -> Tensor:
        """Return DSMI (S,): by how much the DSE of random subsets exceeds that of the groups `labels`, on average."""
        # `kernel` is (S, N, N), and `whole` (S,) its DSE.
        samples = len(labels)
        total = torch.zeros_like(whole)
        of_subsets: dict[int, Tensor] = {samples: whole}  # mean DSE of random subsets, by their size
        for label in torch.unique(labels).tolist():
            members = (labels == label).nonzero()[:, 0]
            size = len(members)
            if size == samples:  # one group of all samples, which no subset differs from
                break
            if size not in of_subsets:
                generator = torch.Generator().manual_seed(self.config.seed)
                subsets = [_drawn_by_input(self.x_ids, size, generator) for _ in range(self.config.subsets)]
                parts = [self._entropy(submatrix(kernel, rows)) for rows in subsets]
                of_subsets[size] = torch.stack(parts).mean(0)
            total += size / samples * (of_subsets[size] - self._entropy(submatrix(kernel, members)))
        return total


def _normalized(kernel: Tensor) -> Tensor:
    """Return D^-1/2 G D^-1/2 of kernels G (S, n, n) with row sums D: symmetric, with the spectrum of D^-1 G."""
    half = kernel.sum(2).rsqrt()
    return kernel * half[:, :, None] * half[:, None, :]


def _drawn_by_input(x_ids: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Draw `size` row numbers (size,): all rows of one random input of `x_ids` (N,) after the other, as in a class."""
    place = torch.randperm(int(x_ids.max()) + 1, generator=generator, device="cpu").argsort().to(x_ids.device)
    return torch.argsort(place[x_ids], stable=True)[:size]


def _digest(a: Tensor) -> str:
    """Return the SHA-256 of the values as float64."""
    return fingerprint(a.detach().cpu().double().contiguous().numpy().tobytes(), method="sha256")


def spectral_clusters(x: Tensor, count: int) -> Tensor:
    """Return the group (N,) int64 of each row of `x` (N, F), one of at most `count`.

    Eigenvectors of the normalised graph of ten nearest neighbours, assigned by a pivoted QR factorisation
    (Damle, Minden and Ying, "Simple, direct and efficient multi-way spectral clustering", 2019), which has
    no random start.
    """
    rows = x.detach().double().cpu()
    count = min(count, len(rows))
    if count < 2 or bool((rows == rows[:1]).all()):  # equal rows have no neighbours to tell apart
        return torch.zeros(len(rows), dtype=torch.int64, device=x.device)
    graph = _neighbor_graph(rows)
    degree = np.asarray(graph.sum(1)).ravel()
    half = scipy.sparse.diags(1.0 / np.sqrt(degree))
    matrix = half @ graph @ half
    if len(rows) <= max(_DENSE, 2 * count):
        vectors = scipy.linalg.eigh(matrix.toarray())[1][:, -count:]
    else:
        # A fixed start, in place of the random one that Lanczos iterations take: the same clusters every time.
        start = np.sqrt(degree) + np.cos(np.arange(len(rows)))
        vectors = scipy.sparse.linalg.eigsh(matrix, k=count, which="LA", v0=start)[1]
    # The pivots are one row of each cluster; the vectors (N, count) are turned so that these rows lie on the axes.
    pivots = scipy.linalg.qr(vectors.T, pivoting=True, mode="r")[1][:count]
    left, _, right = scipy.linalg.svd(vectors[pivots].T)
    labels = np.abs(vectors @ (left @ right)).argmax(1)
    return torch.from_numpy(labels.astype(np.int64)).to(x.device)


def _neighbor_graph(rows: Tensor) -> scipy.sparse.csr_matrix:
    """Return weights (N, N) of rows (N, F): 1 where each is among the other's ten nearest, 1/2 where only one is."""
    samples = len(rows)
    itself = torch.arange(samples, device="cpu")[:, None]  # which counts as one of the ten
    others = Points(rows).nearest(min(NEIGHBORS, samples) - 1)[1]
    columns = torch.cat([itself, others], 1).sort(1).values.numpy()  # (N, 10)
    # Every row of the matrix has as many ones: where it begins follows from their number.
    starts = np.arange(0, columns.size + 1, columns.shape[1])
    ones = scipy.sparse.csr_matrix((np.ones(columns.size), columns.ravel(), starts), shape=(samples, samples))
    return (0.5 * (ones + ones.T)).tocsr()


preset("dse", "liao-2024", sigma=10.0, max_samples=10_000)
