"""A block of many units as a few principal coordinates, its repeated values told apart from its continuous part."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from infoplane.estimators._scaling import normal_numbers, numbered_rows

DENSE = 2048
"""Samples or units up to which a Gram matrix is decomposed whole."""
RANK = 1e-10
"""Variance of a direction, over the largest one, below which it has no volume."""
ATOM, SMALL_ATOM = 50, 20
"""Rows of one value from which it is an atom, with entropies of its own."""

_DROPPED, _SPARE = 60, 8
"""Coordinates beyond those kept: for the checks, and those that subspace iteration carries along for its accuracy."""
_ATOM_SHARE = 0.05
"""Share of rows that makes a value on a line an atom, and of rows with rarer repeats below which small atoms serve."""
_FEW = 0.01
"""Share of rows with an equal that is left as it is: chance in float32, and no loss with k neighbours."""
_GRID = 2.0**36
"""Steps per unit to which coordinates are rounded before they are compared."""


@dataclass(frozen=True)
class Code:
    """A block of many units as a few coordinates.

    Attributes
    ----------
    rows : (N, d) float64
        The coordinates kept, each of variance 1; on a grid, spread over its cells.
    index : (N,) int64
        From 1 the atom that a row belongs to, 0 for rows of the continuous part.
    crowded : (N,) bool
        Rows that come more often than there are neighbours, neither spread nor in an atom: they have no entropy.
    dropped : (N, r) float64
        The next principal coordinates, which are not used but for checks.
    kept : float
        Share of the variance that `rows` keep.
    tied : float
        Share of rows whose value comes again, or, with no more units than coordinates, the value of a unit often.
    spread, loose : float
        Shares of rows that were spread; and that come again, but are neither spread nor in an atom.
    """

    rows: Tensor
    index: Tensor
    crowded: Tensor
    dropped: Tensor
    kept: float = 0.0
    tied: float = 0.0
    spread: float = 0.0
    loose: float = 0.0

    def part(self, chosen: Tensor) -> Code:
        """Return the code of the `chosen` rows (N,) bool only, without the dropped coordinates."""
        return Code(self.rows[chosen], self.index[chosen], self.crowded[chosen], self.dropped[chosen, :0])


def coded(block: Tensor, dims: int, k: int, seed: int) -> Code:
    """Return the first `dims` principal coordinates of a block (N, D), and which of its rows repeat.

    Whichever values count as atoms, the index of the atom is a function of the value, so that information splits
    into that of the index and that of the rest without an error. Rows are equal if their coordinates are. Values
    that repeat, but too rarely for an atom, are taken to lie on a grid: a single coordinate is then replaced by normal
    scores, ties in random order; of several units all values are spread over the cells of the grid. Neither changes the
    information. `k` is the neighbour whose distance will give entropies; `seed` is for what is random.
    """
    rows, dropped, kept = _split(block, dims, seed)
    index, times = _repeats(rows)
    # Loose rows repeat without being an atom. Where they are more than chance makes, they are ranked (one coordinate)
    # or spread over their cells (several); a spread block is then split into coordinates anew.
    tied = max(_share(times > 1), _frequent_share(block) if block.shape[1] <= dims else 0.0)
    loose, spread = (times > 1) & (index == 0), 0.0
    if rows.shape[1] == 1 and (_share(loose) > _FEW or bool((times[loose] > k).any())):
        rows, spread = _normal_scores(rows, index == 0, seed), _share(loose)
        loose = torch.zeros_like(loose)
    elif rows.shape[1] > 1 and _share(loose) > _FEW:
        moved = spread_grid(block, seed)
        if moved is not None:
            rows, dropped, _ = _split(moved, dims, seed)
            spread, index, times = _share(times > 1), torch.zeros_like(index), _repeats(rows)[1]
            loose = times > 1
    return Code(rows, index, loose & (times > k), dropped, kept, tied, spread, _share(loose))


def _split(block: Tensor, dims: int, seed: int) -> tuple[Tensor, Tensor, float]:
    """Return the first `dims` principal coordinates (N, d), the next (N, r), and the share of variance in the first."""
    white, share = _principal(block, dims, _DROPPED, seed)
    # Rounding may bring the sum of the shares above 1.
    return white[:, :dims], white[:, dims:], min(float(share[:dims].sum()), 1.0)


def _share(rows: Tensor) -> float:
    """Return the share of rows (N,) for which a condition holds."""
    return float(rows.double().mean())


def _frequent_share(block: Tensor) -> float:
    """Return, of that unit of (N, D) where it is largest, the share of rows whose value at least `ATOM` rows have."""
    numbered = (numbered_rows(unit[:, None].double()) for unit in block.T)
    return max(_share(counts[number] >= ATOM) for number, counts in numbered)


def _repeats(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return (N,) the atom of each row, from 1, or 0 for none; and (N,) how many rows have the row's value."""
    # Rounded to a grid, since equal rows may differ by rounding after a projection.
    number, counts = numbered_rows((rows * _GRID).round())
    times = counts[number]
    if rows.shape[1] == 1:  # rarer values can be ranked, which needs no entropy for each
        heavy = times >= max(ATOM, int(_ATOM_SHARE * len(rows)))
    else:  # values of fewer rows will do where that leaves none but a few
        heavy = times >= (SMALL_ATOM if _share((times > 1) & (times < SMALL_ATOM)) < _ATOM_SHARE else ATOM)
    index = torch.zeros_like(number)
    index[heavy] = torch.unique(number[heavy], return_inverse=True)[1] + 1
    return index, times


def _normal_scores(line: Tensor, chosen: Tensor, seed: int) -> Tensor:
    """Replace the `chosen` values of a line (N, 1) by normal numbers in the same order, ties in a random order."""
    # In the limit of many rows such a number tells the value, and nothing that the value does not tell: no information
    # is lost or made, and no holes are left where atoms were. Quantiles of the ranks would lie too evenly.
    value = (line[chosen, 0] * _GRID).round()
    generator = torch.Generator().manual_seed(seed)
    # A stable sort of shuffled rows leaves ties in a random order.
    shuffled = torch.randperm(len(value), generator=generator, device="cpu").to(line.device)
    order = shuffled[torch.argsort(value[shuffled], stable=True)]
    out, score = line.clone(), torch.empty_like(value)
    score[order] = normal_numbers(value.shape, generator, line.device).sort().values
    out[chosen, 0] = score
    return out


def spread_grid(block: Tensor, seed: int) -> Tensor | None:
    """Move the units of (N, D) that lie on a grid to uniform places in their cells; None where no unit does.

    A cell reaches half way to the nearer neighbouring value. The place in it is random, and each cell has one value: no
    information is lost or made, whatever the width of the cells. A unit is a grid where most of its values come more
    than once.
    """
    out, generator, found = block.double(), torch.Generator().manual_seed(seed), False
    for j in range(block.shape[1]):
        values, place, counts = torch.unique(out[:, j], return_inverse=True, return_counts=True)
        if len(values) < 2 or _share(counts > 1) <= 0.5:
            continue
        if not found:
            out, found = out.clone(), True  # `out` may be the caller's block
        gap = values.diff()
        # The smaller of the gaps to the value before and after; the first and the last value have one gap.
        cell = torch.minimum(torch.cat([gap[:1], gap]), torch.cat([gap, gap[-1:]]))[place]
        u = torch.rand(len(cell), generator=generator, device="cpu", dtype=torch.float64).to(cell.device)
        out[:, j] += (u - 0.5) * cell
    return out if found else None


def principal_code(block: Tensor, dims: int) -> tuple[Tensor, float]:
    """Return the first principal components (N, d) of (N, D), each of variance 1, and the share of variance kept.

    d is at most `dims`, and less where the variance of a component is within 1e-10 of the first one's.
    """
    white, share = _principal(block, dims, 0, seed=0)
    return white, min(float(share.sum()), 1.0)


def _principal(block: Tensor, dims: int, more: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return `dims` principal components and up to `more` (N, d), of variance 1, and their shares of variance (d,)."""
    eps = torch.finfo(torch.float32 if block.dtype == torch.float32 else torch.float64).eps
    largest = block.double().abs().max()
    z = block.double() / (largest if largest > 0 else 1.0)  # so that no square leaves the range of float64
    z = z - z.mean(0)
    total = float(z.square().sum())
    if total <= z.numel() * (4 * eps) ** 2:  # no more than rounding of the type
        return z[:, :0], z[0, :0]
    coordinates = _components(z, dims, more, seed)
    square = coordinates.square().sum(0)
    kept = square > RANK * square.max()
    return coordinates[:, kept] * (len(z) / square[kept]).sqrt(), square[kept] / total


def _components(z: Tensor, dims: int, more: int, seed: int) -> Tensor:
    """Return coordinates (N, up to dims + more) of `z` (N, U) along its principal axes, the largest variance first."""
    samples, units = z.shape
    wanted = min(dims + more, samples, units)
    # Exact from the smaller of the Gram matrices z'z and zz' where that is small; `eigh` gives ascending order.
    if units <= min(samples, DENSE):
        return torch.matmul(z, torch.linalg.eigh(z.T @ z)[1][:, -wanted:].flip(1))
    if samples <= DENSE:
        values, vectors = torch.linalg.eigh(z @ z.T)
    else:
        # By subspace iteration from random directions. `_SPARE` directions more than `dims` let the first `dims`
        # converge; where `more` is asked for they are returned, too. Each of the 12 rounds multiplies by zz'.
        basis = torch.linalg.qr(z @ normal_numbers((units, dims + _SPARE), seed, z.device))[0]
        for _ in range(12):
            basis = torch.linalg.qr(z @ torch.linalg.qr(z.T @ basis)[0])[0]
        values, small = torch.linalg.eigh(basis.T @ z @ (z.T @ basis))
        vectors = basis @ small
    return torch.flip(vectors[:, -wanted:] * values[-wanted:].clamp(min=0).sqrt(), (1,))
