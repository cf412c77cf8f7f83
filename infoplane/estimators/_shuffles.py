"""Shuffles of labels between inputs: drawn ones, and the mean over all of them."""

from __future__ import annotations

import torch
from torch import Tensor


def shuffles_of_inputs(rows: Tensor, draws: int, seed: int) -> Tensor:
    """Permutations (draws, inputs) that move inputs between those with the same number of `rows` (inputs,) only.

    The classes then keep their numbers of rows. Labels shuffled between the rows themselves would be no null: an
    input's rows are no independent draws of its label, and a layer that tells inputs apart would seem to know
    labels that are chance. An input whose number of rows no other has keeps its label, which can only raise
    the null.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.stack([torch.randperm(len(rows), generator=generator) for _ in range(draws)]).to(rows.device)
    alike = drawn.gather(1, torch.argsort(rows[drawn], dim=1, stable=True))
    permuted = torch.empty_like(drawn)
    permuted[:, torch.argsort(rows, stable=True)] = alike
    return permuted


def shuffles_of_rows(x_ids: Tensor, draws: int, seed: int) -> Tensor:
    """Permutations (draws, N) of rows that move whole inputs: row k of one takes the place of row k of another.

    Where every input has one row these are plain permutations; where it has one label, `shuffles_of_inputs` of that.
    """
    counts, rank, order = _places(x_ids)
    start = torch.cumsum(counts, 0) - counts
    moved = shuffles_of_inputs(counts, draws, seed)
    rows: Tensor = order[start[moved[:, x_ids]] + rank]
    return rows


def _places(x_ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of each input (inputs,), the number of each row within its input (N,), and the rows in input order (N,)."""
    counts = torch.bincount(x_ids)
    order = torch.argsort(x_ids, stable=True)
    first = (torch.cumsum(counts, 0) - counts)[x_ids[order]]
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device) - first
    return counts, rank, order


class AllShuffles:
    """The mean of sum_ij A_ij B_s(i)s(j) over all shuffles s of whole inputs, for matrices over rows.

    Inputs meet those with the same number of rows only. Let D[k, l] be the sum of A over pairs of rows k and l of one
    input, S[k, l] that over rows k and l of any two inputs; inputs of n_g and n_h with as many rows then give, class of
    equal inputs by class, D D' / n_g + (S - D)(S' - D') / n_g (n_g - 1) within one and S S' / n_g n_h between two.
    """

    def __init__(self, x_ids: Tensor) -> None:
        counts, rank, _ = _places(x_ids)
        self.samples, self.distinct = len(x_ids), len(counts) == len(x_ids)
        sizes, kind = torch.unique(counts, return_inverse=True)
        n = torch.bincount(kind).double()
        of = torch.arange(len(sizes), device=n.device).repeat_interleave(sizes)  # (M,) of columns (kind, k)
        column = (torch.cumsum(sizes, 0) - sizes)[kind[x_ids]] + rank
        self.places = torch.zeros(len(x_ids), len(of), dtype=torch.float64, device=n.device)
        self.places.scatter_(1, column[:, None], 1.0)
        self.same = x_ids[:, None] == x_ids
        within = of[:, None] == of
        pairs = torch.where(within, n[of] * (n[of] - 1), n[of, None] * n[of])
        self.apart = 1.0 / pairs.clamp(min=1.0)
        self.own = within / n[of, None]

    def sums(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """D and S (..., M, M) of `a` (..., N, N); for distinct inputs its trace and the sum of its entries."""
        if self.distinct:
            own, whole = a.diagonal(dim1=-2, dim2=-1).sum(-1), a.sum((-2, -1))
            return own[..., None, None], whole[..., None, None]
        return self.places.T @ (a * self.same) @ self.places, self.places.T @ a @ self.places

    def mean(self, a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> Tensor:
        """(...) the mean, from the `sums` of both matrices."""
        (own_a, all_a), (own_b, all_b) = a, b
        found: Tensor = (own_a * own_b * self.own + (all_a - own_a) * (all_b - own_b) * self.apart).sum((-2, -1))
        return found
