"""Shuffles of labels between inputs."""

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
