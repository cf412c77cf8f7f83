"""A network with one hidden layer on top of linear probes: those of all folds and snapshots are trained together."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from infoplane.estimators._held_out import Classes, Targets
from infoplane.estimators._scaling import ROTATION_LIMIT, principal_coordinates
from infoplane.estimators._trained import AT_ONCE, Batches, Stack, TrainingPlan, mean_loss, rows_of, train

MOST_INPUTS, HIDDEN, POWERS = 256, 64, 2
"""Inputs and hidden units of a network, and steps of the power method that finds the inputs of very many units."""
PLAN = TrainingPlan(rate=3e-3, decay=1e-2, batch=256, steps=2000, every=25, patience=6)
MOST_CHECKED = 2048
"""Rows of a fold that choose the step at most."""
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
        """Take rows (F, N) bool of each fold: `fitted` to train on, 2,048 of `validation` at most to choose a step."""
        seeds = tuple(seed + fold for fold in range(len(fitted)))
        training, checking = ([rows.nonzero()[:, 0] for rows in fold_rows.cpu()] for fold_rows in (fitted, validation))
        place = torch.arange(min(max(map(len, checking)), MOST_CHECKED), device="cpu")
        checked = []
        # Of many rows some are drawn, at random since they may be in the order of their classes. A fold that has fewer
        # rows than another takes all of its own, and the first ones again.
        for rows, fold_seed in zip(checking, seeds, strict=True):
            order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(fold_seed), device="cpu")
            checked.append(rows[order][place % len(rows)].sort().values)
        return cls(tuple(training), torch.stack(checked).to(validation.device), seeds)


def bytes_of_network(samples: int, units: int, outputs: int, folds: int) -> int:
    """Return the bytes of one snapshot: the activations of a batch in every fold, and the scores of all rows."""
    a_row = 4 * (3 * min(units, MOST_INPUTS) + 8 * HIDDEN + 6 * outputs)  # bytes of the activations of a row
    return folds * (AT_ONCE * a_row + 32 * samples * outputs) + 24 * samples * units


class _Networks:
    """Scores of linear probes, and what the networks add to them: a linear skip and a perceptron, at first nothing.

    S are snapshots, F folds, N samples, B rows of a batch, K classes or targets; "(S F,)" has one axis for snapshots
    and folds.
    """

    # For classes the softmax is mixed with the prior, as if a share of the labels were random: the perceptron need not
    # learn that log p(y|t) is bounded.

    def __init__(self, task: Classes | Targets, z: Tensor, linear: Tensor, folds: Folds) -> None:
        """Make the networks for units `z` (S, N, U), which start from the scores `linear` (S, F, K, N)."""
        self.task, self.folds, self.shape = task, folds, linear.shape
        snapshots, fold_count, outputs, _ = linear.shape
        # (S, 1, N, P), (S, F, N, K)
        self.x, self.start = network_inputs(z)[:, None].contiguous(), linear.mT.contiguous().float()
        inputs = self.x.shape[3]
        sizes = (inputs, outputs), (inputs, HIDDEN, outputs)
        self.stacks = [Stack(folds.seeds, snapshots, each, z.device) for each in sizes]
        # Trained with the weights: the logit of the share of random labels is FIRST_RANDOM + SPEED * this.
        self.random = self.x.new_zeros(snapshots * fold_count, 1).requires_grad_()

    @property
    def parameters(self) -> list[Tensor]:
        """Weights and biases of all networks, and what gives the share of random labels."""
        return [p for stack in self.stacks for p in stack.parameters] + [self.random]

    def unmixed(self, rows: Tensor) -> Tensor:
        """Return scores (S, F, B, K) of the rows (F, B): those of the linear probes, and what the networks add."""
        batch = rows_of(self.x, rows)
        skip, bent = (stack(batch.flatten(0, 1)) for stack in self.stacks)
        return (skip + bent).view(*batch.shape[:3], -1) + rows_of(self.start, rows)

    def mixed(self, log_p: Tensor, log_priors: Tensor) -> Tensor:
        """Return log[(1 - s) p + s prior] from `log_p` (S, F, ...); s (S, F) is the share of labels that are random."""
        logit = (FIRST_RANDOM + SPEED * self.random).view(*self.shape[:2], *[1] * (log_p.ndim - 2))
        log_sigmoid = torch.nn.functional.logsigmoid
        return torch.logaddexp(log_p + log_sigmoid(-logit), log_priors.float() + log_sigmoid(logit))

    def scores(self, rows: Tensor) -> Tensor:
        """Return the scores (S, F, B, K) of the rows (F, B): log probabilities of classes, or predicted targets."""
        out = self.unmixed(rows)
        return self.mixed(out.log_softmax(3), self.task.log_priors) if isinstance(self.task, Classes) else out

    def loss(self, rows: Tensor) -> Tensor:
        """Return the mean loss (S F,) over the rows (F, B): cross-entropy of classes, or half the squared error."""
        out = self.unmixed(rows)
        if not isinstance(self.task, Classes):
            return self.task.batch_loss(out, rows).flatten()
        y = self.task.y[rows]
        of_label = out.gather(3, y.expand(out.shape[:3])[..., None])[..., 0]
        return -self.mixed(of_label - out.logsumexp(3), self.task.log_priors[y]).mean(2).flatten()

    def criterion(self) -> Tensor:
        """Return the loss (S F,) on the held-out rows by which the step to keep is chosen."""
        return mean_loss(self.loss, self.folds.checked)


def network_scores(task: Classes | Targets, z: Tensor, linear: Tensor, folds: Folds) -> tuple[Tensor, Tensor]:
    """Train networks on top of linear probes; return their scores, and whether some fold diverged or needs more steps.

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
    batches = Batches(folds.fitted, folds.seeds, PLAN.batch, z.device)
    trained = train(networks.parameters, networks.loss, networks.criterion, batches, PLAN)
    rows = torch.arange(z.shape[1], device=z.device).expand(linear.shape[1], -1)
    with torch.no_grad():
        scores = torch.cat([networks.scores(some) for some in torch.split(rows, AT_ONCE, 1)], 2)
    return scores.mT.double(), (trained.unfinished | trained.diverged).view(linear.shape[:2]).any(1)


def network_inputs(z: Tensor) -> Tensor:
    """Return inputs (S, N, P) of a network, float32 and of mean square 1, from units (S, N, U).

    They are the units themselves or, where there are many, their leading components.
    """
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
    """Return coordinates (S, N, P) of rows (S, N, U) along axes that nearly span their leading principal components."""
    # The power method needs no N x N or U x U matrix, whose eigenvectors would take too long.
    generator = torch.Generator().manual_seed(0)
    axes = torch.randn(z.shape[2], MOST_INPUTS, generator=generator, device="cpu", dtype=z.dtype).to(z.device)
    for _ in range(POWERS):
        axes = torch.linalg.qr(z.mT @ (z @ axes))[0]
    return z @ axes
