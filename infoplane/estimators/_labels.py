"""Labels and targets: classes of real targets, rows grouped and cut by label, shuffles between inputs for a null."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor

from infoplane.core.device import on_accelerator
from infoplane.estimators._protocol import finite_targets


def bin_targets(y: Tensor, n_bins: int = 10, rule: Literal["quantile", "width"] = "quantile") -> Tensor:
    """Return classes made of real targets, for estimators that take discrete labels.

    I(T;Y) of the binned target is a lower bound on that of the target itself, and depends on `n_bins`:
    state it with the result.

    Parameters
    ----------
    y : (N,) or (N, 1) float or integer tensor
    n_bins : int
        Number of classes, at least 2. Ties may leave some of them empty.
    rule : "quantile" or "width"
        Classes of equal size, equal values always sharing one, or of equal width between minimum and maximum.

    Returns
    -------
    (N,) int64 tensor of classes in [0, n_bins).

    Raises
    ------
    ValueError
        Other shapes, non-finite values, unknown rule, fewer than two bins.

    Examples
    --------
    >>> bin_targets(torch.tensor([0.0, 1.0, 2.0, 10.0]), n_bins=2).tolist()
    [0, 0, 1, 1]
    >>> bin_targets(torch.tensor([0.0, 1.0, 2.0, 10.0]), n_bins=2, rule="width").tolist()
    [0, 0, 0, 1]
    """
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1 or len(y) == 0:
        raise ValueError(f"y must have shape (samples,), got {tuple(y.shape)}; bin columns of a target one by one")
    if n_bins < 2:
        raise ValueError(f"n_bins must be at least 2, got {n_bins}")
    values = finite_targets(y)
    if rule == "width":
        low, high = values.min(), values.max()
        edges = low + (high - low) * torch.arange(1, n_bins, device=y.device, dtype=torch.float64) / n_bins
        return torch.bucketize(values, edges, right=True)
    if rule != "quantile":
        raise ValueError(f"rule must be 'quantile' or 'width', got {rule!r}")
    ordered = values.sort().values
    # The class of a value is that of its first occurrence: a tie never straddles two classes.
    rank = torch.searchsorted(ordered, values)
    return torch.div(rank * n_bins, len(values), rounding_mode="floor")


def standard_targets(y: Tensor, scale: float) -> Tensor | None:
    """Return targets (N, k) centred, in units of their noise (`scale` times the std), or None if all are constant."""
    y = y.reshape(len(y), -1)
    # Subtracting row 0 makes constant targets exactly 0; dividing by the largest value keeps squares in range.
    y = y - y[:1]
    largest = y.abs().amax(0)
    y = y[:, largest > 0] / largest[largest > 0]  # constant targets are dropped
    if y.shape[1] == 0:
        return None
    return (y - y.mean(0)) / (scale * y.std(0, correction=0))


def entropy_of_counts(counts: Tensor) -> Tensor:
    """Return the plug-in entropy in bits, () float64, of the distribution with these counts (K,)."""
    # log2(1 / p) rather than -log2(p): one class gives 0.0, not -0.0.
    p = counts[counts > 0].double() / counts.sum()
    return (p * p.reciprocal().log2()).sum()


@dataclass(frozen=True)
class Grouping:
    """Rows sorted by group, groups numbered from 0 without gaps.

    Attributes
    ----------
    order : (n,) int64
        Rows in the order of their groups.
    counts : list of int
        Rows of each group.
    label : (n,) int64
        Group of each row, in this order: rising.
    size : (n,) float64
        How many rows the group of each row has, in this order.
    """

    order: Tensor
    counts: list[int]
    label: Tensor
    size: Tensor

    @classmethod
    def of(cls, groups: Tensor, rows: Tensor | None = None) -> Self:
        """Group all rows, or only `rows` (n,), by their number in `groups` (N,) int64, which may have gaps."""
        chosen = groups if rows is None else groups[rows]
        ordered, order = torch.sort(chosen, stable=True)
        label, counts = torch.unique_consecutive(ordered, return_inverse=True, return_counts=True)[1:]
        return cls(order if rows is None else rows[order], counts.tolist(), label, counts[label].double())

    @classmethod
    def of_repeated(cls, groups: Tensor) -> Self | None:
        """Group the rows whose group in `groups` (N,) has more than one row; None if all are alone."""
        rows = (torch.bincount(groups)[groups] > 1).nonzero()[:, 0]
        return cls.of(groups, rows) if len(rows) else None

    def __len__(self) -> int:
        return len(self.order)


@functools.lru_cache(maxsize=2)
def permutations(count: int, draws: int, seed: int) -> Tensor:
    """Return random permutations (draws, count) int64, kept from call to call: not to be written to."""
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(count, generator=generator, device="cpu") for _ in range(draws)])


def shuffles_of_inputs(rows: Tensor, draws: int, seed: int) -> Tensor:
    """Return permutations (draws, inputs) that move inputs between those with the same number of `rows` (inputs,) only.

    The classes then keep their numbers of rows. Labels shuffled between the rows themselves would be no null: an
    input's rows are no independent draws of its label, and a layer that tells inputs apart would seem to know
    labels that are chance. An input whose number of rows no other has keeps its label, which can only raise
    the null.
    """
    drawn = permutations(len(rows), draws, seed).to(rows.device)
    # The inputs in a random order, then sorted by their number of rows: inputs with one number stay in random order.
    # These take the places of the inputs with that number, which `argsort(rows)` lists in rising order.
    alike = drawn.gather(1, torch.argsort(rows[drawn], dim=1, stable=True))
    permuted = torch.empty_like(drawn)
    permuted[:, torch.argsort(rows, stable=True)] = alike
    return permuted


def shuffles_of_rows(x_ids: Tensor, draws: int, seed: int) -> Tensor:
    """Return permutations (draws, N) of rows that move whole inputs: entry i is the row that takes the place of row i.

    Row k of one input takes the place of row k of another with as many rows. Where every input has one row these are
    plain permutations; where all rows of an input have one label, labels move as with `shuffles_of_inputs`.
    """
    counts, rank, order = _places(x_ids)
    start = torch.cumsum(counts, 0) - counts
    moved = shuffles_of_inputs(counts, draws, seed)
    rows: Tensor = order[start[moved[:, x_ids]] + rank]
    return rows


def _places(x_ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return how many rows each input has (inputs,), each row's place in its input (N,), and rows by input (N,)."""
    counts = torch.bincount(x_ids)
    order = torch.argsort(x_ids, stable=True)
    first = (torch.cumsum(counts, 0) - counts)[x_ids[order]]
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device) - first
    return counts, rank, order


def fold_of_row(x_ids: Tensor, folds: int, seed: int) -> Tensor:
    """Return the fold (N,) of each sample, one for all samples of an input; ValueError for more folds than inputs."""
    inputs = int(x_ids.max()) + 1
    if inputs < folds:
        raise ValueError(f"a cross-fit over {folds} folds needs as many different inputs, got {inputs}")
    # Each seed stands for four generators, of which this is the first; `probe` draws from the others.
    generator = torch.Generator().manual_seed(4 * seed)
    place = torch.randperm(inputs, generator=generator, device="cpu").to(x_ids.device)
    return (place % folds)[x_ids]


def shuffle_labels(y: Tensor, x_ids: Tensor, draws: int, seed: int) -> Tensor:
    """Return labels or targets (N, ...) under `draws` shuffles between inputs, (draws, N, ...)."""
    return y[shuffles_of_rows(x_ids, draws, seed)]


def percentiles_95(draws: Tensor) -> tuple[Tensor, Tensor]:
    """Return the 2.5 % and 97.5 % points of `draws` (..., draws), interpolated, with the same bits on every device."""
    ordered, last = draws.sort(dim=-1).values, draws.shape[-1] - 1

    def point(share: float) -> Tensor:
        """Return the value below which this share of the draws lies."""
        below = int(share * last)
        low, high = ordered[..., below], ordered[..., min(below + 1, last)]
        return low + (high - low) * (share * last - below)

    return point(0.025), point(0.975)


def interval_95(draws: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean, 2.5 % and 97.5 % points of `draws` (..., draws); the last bits depend on the device."""
    low, high = torch.quantile(draws, draws.new_tensor([0.025, 0.975]), dim=-1)
    return draws.mean(-1), low, high


class AllShuffles:
    """The exact mean of sum_ij A_ij B_s(i)s(j) over all shuffles s of whole inputs, for matrices A and B over rows.

    Inputs are shuffled among those with the same number of rows: a kind, of which there are n_g inputs. For rows k and
    l, each of inputs of some kind, let D[k, l] be the sum of A over pairs of one input (the k-th row of it with the
    l-th), S[k, l] that over all pairs of inputs; D' and S' are those of B. The mean is the sum over all k and l of
    D D' / n_g + (S - D)(S' - D') / n_g (n_g - 1) for inputs of one kind, and of S S' / n_g n_h for inputs of two.
    """

    def __init__(self, x_ids: Tensor) -> None:
        """Number the rows within the inputs `x_ids` (N,), and find the weights of these sums."""
        counts, rank, _ = _places(x_ids)
        self.samples, self.distinct = len(x_ids), len(counts) == len(x_ids)
        sizes, kind = torch.unique(counts, return_inverse=True)  # rows of each kind, and the kind of each input
        n = torch.bincount(kind).double()
        # (M,) the kind of each column: a kind whose inputs have m rows has m columns, one for each k.
        kinds = torch.arange(len(sizes), device=n.device).repeat_interleave(sizes)
        column = (torch.cumsum(sizes, 0) - sizes)[kind[x_ids]] + rank
        # (N, M) with a 1 in the column (kind, k) of each row: products with it are sums over the inputs of a kind.
        self.places = torch.zeros(len(x_ids), len(kinds), dtype=torch.float64, device=n.device)
        self.places.scatter_(1, column[:, None], 1.0)
        self.same = x_ids[:, None] == x_ids
        alike = kinds[:, None] == kinds
        pairs = torch.where(alike, n[kinds] * (n[kinds] - 1), n[kinds, None] * n[kinds])
        self.apart = 1.0 / pairs.clamp(min=1.0)  # of pairs of two inputs; one input alone of its kind has none
        self.within = alike / n[kinds, None]  # of pairs within one input

    def sums(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """Return D and S (..., M, M) of a matrix `a` (..., N, N): sums over pairs of one input, and over all pairs."""
        if self.distinct:  # its trace and the sum of its entries
            within, whole = a.diagonal(dim1=-2, dim2=-1).sum(-1), a.sum((-2, -1))
            return within[..., None, None], whole[..., None, None]
        return self.places.T @ (a * self.same) @ self.places, self.places.T @ a @ self.places

    def mean(self, a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> Tensor:
        """Return the mean (...) over all shuffles, from the `sums` of both matrices."""
        (d_a, s_a), (d_b, s_b) = a, b
        return torch.sum(d_a * d_b * self.within + (s_a - d_a) * (s_b - d_b) * self.apart, (-2, -1))


def block_size(device: torch.device) -> int:
    """Return the rows of a block: 512 x 512 float32 (1 MiB) stay in a CPU's L2 cache, an accelerator needs more."""
    return 4096 if on_accelerator(device) else 512


@dataclass(frozen=True)
class Span:
    """Consecutive rows, with the first and the last class among them."""

    start: int
    stop: int
    low: int
    high: int

    @property
    def rows(self) -> slice:
        """Return the rows as a slice."""
        return slice(self.start, self.stop)

    def __len__(self) -> int:
        return self.stop - self.start

    def meets(self, other: Span) -> bool:
        """Return whether this span shares a class with `other`, which is a later span or itself."""
        return other.low <= self.high

    def is_one_class_with(self, other: Span) -> bool:
        """Return whether all rows of both spans are of one class."""
        return self.low == self.high == other.low == other.high


def class_spans(counts: Sequence[int], size: int) -> list[Span]:
    """Cut rows sorted by class, `counts` of each, into spans of at most `size` rows, and return these in order.

    A class of at least size / 4 rows has spans of its own, of nearly equal length; smaller ones share.
    """
    spans: list[Span] = []
    stop, shared = 0, False  # where the rows so far end, and whether the last span may take further classes
    for label, count in enumerate(counts):
        small = 4 * count < size
        if small and shared and stop - spans[-1].start + count <= size:
            spans[-1] = Span(spans[-1].start, stop + count, spans[-1].low, label)
        else:
            pieces = -(-count // size)  # rounded up
            ends = [stop + k * count // pieces for k in range(pieces + 1)]
            spans += [Span(first, last, label, label) for first, last in itertools.pairwise(ends)]
        stop, shared = stop + count, small
    return spans
