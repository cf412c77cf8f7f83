"""A network with one hidden layer on top of linear probes: those of all folds and snapshots are trained together."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from infoplane.estimators._held_out import Classes, Targets
from infoplane.estimators._scaling import ROTATION_LIMIT, principal_coordinates
from infoplane.estimators._trained import Batches, Stack, TrainingPlan, rows_of, train

MOST_INPUTS, HIDDEN, POWERS = 256, 64, 2
"""Inputs and hidden units of a network, and steps of the power method that finds the inputs of very many units."""
PLAN = TrainingPlan(rate=3e-3, decay=1e-2, batch=256, steps=2000, every=25, patience=6)
MOST_CHECKED, AT_ONCE = 2048, 512
"""Rows of a fold that choose the step at most, and rows whose scores are found at once."""
FIRST_RANDOM, SPEED = -6.0, 30.0
"""The logit of the share of labels that are taken to be random, at first, and how many times the rate it moves by."""


class Folds(NamedTuple):
    """What every fold's network is trained on, by row number, and where it starts.

    Attributes
    ----------
    fitted : tuple of (n_f,) int64
        Training rows.
    checked : (F, V) int64
        Rows that choose the step.
    seeds : tuple of int
        One for each fold, for first weights and batches.
    """

    fitted: tuple[Tensor, ...]
    checked: Tensor
    seeds: tuple[int, ...]

    @classmethod
    def of(cls, fitted: Tensor, validation: Tensor, seed: int) -> Folds:
        """From the rows (F, N) bool that are trained on and those that choose the step."""
        seeds = tuple(seed + fold for fold in range(len(fitted)))
        known, rows = ([each.nonzero()[:, 0] for each in part.cpu()] for part in (fitted, validation))
        most = min(max(map(len, rows)), MOST_CHECKED)
        # Of many rows some are drawn, at random for they may be in the order of their classes; of few all are taken and
        # repeated up to `most`.
        generators = (torch.Generator().manual_seed(each) for each in seeds)
        mixed = [
            own[torch.randperm(len(own), generator=g, device="cpu")] for own, g in zip(rows, generators, strict=True)
        ]
        checked = torch.stack([own[torch.arange(most, device="cpu") % len(own)].sort().values for own in mixed])
        return cls(tuple(known), checked.to(validation.device), seeds)


def bytes_of_network(samples: int, units: int, outputs: int, folds: int) -> int:
    """Memory of one snapshot: the activations of a batch in every fold, and the scores of all rows."""
    a_row = 4 * (3 * min(units, MOST_INPUTS) + 8 * HIDDEN + 6 * outputs)
    return folds * (AT_ONCE * a_row + 32 * samples * outputs) + 24 * samples * units


class _Networks:
    """Scores of linear probes, and what the networks add to them: a linear skip and a perceptron, at first nothing."""

    # For classes the softmax is mixed with the prior, as if a share of the labels were random: the perceptron need not
    # learn that log p(y|t) is bounded.

    def __init__(self, task: Classes | Targets, z: Tensor, linear: Tensor, folds: Folds) -> None:
        """Make the networks for units `z` (S, N, U), which start from the scores `linear` (S, F, K, N)."""
        self.task, self.folds, self.shape = task, folds, linear.shape
        snapshots, count, outputs, _ = linear.shape
        # (S, 1, N, P), (S, F, N, K)
        self.x, self.start = network_inputs(z)[:, None].contiguous(), linear.mT.contiguous().float()
        inputs = self.x.shape[3]
        sizes = (inputs, outputs), (inputs, HIDDEN, outputs)
        self.stacks = [Stack(folds.seeds, snapshots, each, z.device) for each in sizes]
        self.random = self.x.new_zeros(snapshots * count, 1).requires_grad_()

    @property
    def parameters(self) -> list[Tensor]:
        """Weights and biases of all networks, and what gives the share of random labels."""
        return [p for stack in self.stacks for p in stack.parameters] + [self.random]

    def added(self, rows: Tensor) -> Tensor:
        """(S, F, B, K) the scores of the linear probes at the rows (F, B), with what the networks add."""
        batch = rows_of(self.x, rows)
        skip, bent = (stack(batch.flatten(0, 1)) for stack in self.stacks)
        return (skip + bent).view(*batch.shape[:3], -1) + rows_of(self.start, rows)

    def mixed(self, log_p: Tensor, log_priors: Tensor) -> Tensor:
        """log[(1 - s) p + s prior] from log p (S, F, ...), with s (S, F) the share of labels that are random."""
        share = (FIRST_RANDOM + SPEED * self.random).view(*self.shape[:2], *[1] * (log_p.ndim - 2))
        sigmoid = torch.nn.functional.logsigmoid
        return torch.logaddexp(log_p + sigmoid(-share), log_priors.float() + sigmoid(share))

    def scores(self, rows: Tensor) -> Tensor:
        """Scores (S, F, B, K) of the rows (F, B)."""
        out = self.added(rows)
        return self.mixed(out.log_softmax(3), self.task.log_priors) if isinstance(self.task, Classes) else out

    def loss(self, rows: Tensor) -> Tensor:
        """Mean loss (S F,) over the rows (F, B): cross-entropy of classes, or half the squared error."""
        out = self.added(rows)
        if not isinstance(self.task, Classes):
            return self.task.batch_loss(out, rows).flatten()
        y = self.task.y[rows]
        own = out.gather(3, y.expand(out.shape[:3])[..., None])[..., 0]
        return -self.mixed(own - out.logsumexp(3), self.task.log_priors[y]).mean(2).flatten()

    def criterion(self) -> Tensor:
        """(S F,) the loss on the rows that choose the step."""
        checked = self.folds.checked
        parts = [self.loss(rows) * rows.shape[1] for rows in torch.split(checked, AT_ONCE, 1)]
        return torch.stack(parts).sum(0) / checked.shape[1]


def network_scores(task: Classes | Targets, z: Tensor, linear: Tensor, folds: Folds) -> tuple[Tensor, Tensor]:
    """Scores of the networks, and whether their training is in doubt: it diverged, or had not come to its end.

    Parameters
    ----------
    task : Classes or Targets
    z : (S, N, U)
    linear : (S, F, K, N)
        Scores of each fold's linear probe, fitted to the rows that its network is trained on.
    folds : Folds

    Returns
    -------
    (S, F, K, N) float64, (S,) bool
    """
    networks = _Networks(task, z, linear, folds)
    size = min(PLAN.batch, *map(len, folds.fitted))
    batches = Batches(folds.fitted, folds.seeds, size, z.device)
    trained = train(networks.parameters, networks.loss, networks.criterion, batches, PLAN)
    rows = torch.arange(z.shape[1], device=z.device).expand(linear.shape[1], -1)
    with torch.no_grad():
        scores = torch.cat([networks.scores(some) for some in torch.split(rows, AT_ONCE, 1)], 2)
    return scores.mT.double(), (trained.unfinished | trained.diverged).view(linear.shape[:2]).any(1)


def network_inputs(z: Tensor) -> Tensor:
    """Inputs (S, N, P) float32, of mean square 1: the units (S, N, U) themselves; of many their leading components."""
    if min(z.shape[1:]) > ROTATION_LIMIT:
        z = _leading(z)
    elif z.shape[2] > MOST_INPUTS:
        coordinates, squares = principal_coordinates(z)
        # The components of largest variance, in the order in which they come.
        places = squares.topk(min(MOST_INPUTS, squares.shape[1]), dim=1).indices.sort(1).values
        z = coordinates.gather(2, places[:, None].expand(-1, z.shape[1], -1))
    scale = z.square().mean((1, 2), keepdim=True).sqrt()
    return (z / torch.where(scale > 0, scale, 1.0)).float()


def _leading(z: Tensor) -> Tensor:
    """(S, N, P) coordinates of rows (S, N, U) in nearly the space of their leading components."""
    # The power method needs no matrix of N x N or U x U and no eigenvectors of one.
    generator = torch.Generator().manual_seed(0)
    axes = torch.randn(z.shape[2], MOST_INPUTS, generator=generator, device="cpu", dtype=z.dtype).to(z.device)
    for _ in range(POWERS):
        axes = torch.linalg.qr(z.mT @ (z @ axes))[0]
    return z @ axes
