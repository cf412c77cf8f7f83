"""Ridge-penalised linear models, many at once: softmax and squared loss by truncated Newton steps.

All snapshots S and all F subsets of the rows (folds of a cross-fit, prefixes of a sequence) are one problem:
the scores (S, F, K, N) of K outputs are a single product of the weights of every subset, one below the other, with
the design, and a row outside a subset has weight 0. Newton directions come from conjugate gradients, whose
preconditioner is diagonal because the design comes in principal coordinates. A problem that has converged is
frozen, so that its weights do not depend on its neighbours in the block. Objective and gradient are float64;
directions are found in float32, since an inexact Newton step changes the path and not the minimum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

MAX_STEPS = 60
MAX_DIRECTIONS = 60
# Newton's estimate of how far the objective is above its minimum, in nats a row.
TOLERANCE = 1e-12


class Loss(Protocol):
    """Sum of a convex loss over the rows of each subset; `scores` are (S, F, K, N).

    `outputs` is K and `rows` (F, N) bool. `slope` returns the derivative by the scores and a state, with
    which `curve` applies the second derivative to a direction and `curvature` gives its mean diagonal (S, F).
    """

    outputs: int
    rows: Tensor

    def value(self, scores: Tensor) -> Tensor: ...

    def slope(self, scores: Tensor) -> tuple[Tensor, Tensor]: ...

    def curve(self, state: Tensor, direction: Tensor) -> Tensor: ...

    def curvature(self, state: Tensor) -> Tensor: ...


class SoftmaxLoss:
    """Multinomial cross-entropy in nats.

    Parameters
    ----------
    y : (N,) int64
        Classes from 0.
    classes : int
    rows : (F, N) bool
        Which rows each problem is fitted to.
    """

    def __init__(self, y: Tensor, classes: int, rows: Tensor) -> None:
        self.outputs, self.rows = classes, rows
        self._outside = ~rows[:, None, :]
        self._index = y[None, None, None, :]
        self._onehot = torch.nn.functional.one_hot(y, classes).T.double()

    def value(self, scores: Tensor) -> Tensor:
        own = scores.gather(2, self._index.expand(*scores.shape[:2], 1, -1))[:, :, 0]
        return ((torch.logsumexp(scores, 2) - own) * self.rows).sum(2)

    def slope(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        p = torch.softmax(scores, 2)
        return (p - self._onehot).masked_fill_(self._outside, 0.0), p.masked_fill(self._outside, 0.0)

    def curve(self, state: Tensor, direction: Tensor) -> Tensor:
        out = state * direction
        return out.sub_(state * out.sum(2, keepdim=True))

    def curvature(self, state: Tensor) -> Tensor:
        return (state - state.square()).mean(2).sum(2) / self.rows.sum(1)


class SquaredLoss:
    """Half the squared error against `targets` (N, k), over the rows (F, N) of each problem."""

    def __init__(self, targets: Tensor, rows: Tensor) -> None:
        self.outputs, self.rows = targets.shape[1], rows
        self._outside = ~rows[:, None, :]
        self._targets = targets.T.double()

    def value(self, scores: Tensor) -> Tensor:
        return 0.5 * self.slope(scores)[0].square().sum((2, 3))

    def slope(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        error = (scores - self._targets).masked_fill_(self._outside, 0.0)
        return error, error

    def curve(self, state: Tensor, direction: Tensor) -> Tensor:
        return direction.masked_fill(self._outside, 0.0)

    def curvature(self, state: Tensor) -> Tensor:
        return state.new_ones(state.shape[:2])


@dataclass(frozen=True)
class Fit:
    """Minimisers of every problem.

    Attributes
    ----------
    weights : (S, F, K, r)
    scores : (S, F, K, N)
        Of all rows, those outside the subset included.
    converged : (S, F) bool
    """

    weights: Tensor
    scores: Tensor
    converged: Tensor

    def where(self, chosen: Tensor, other: Fit) -> Fit:
        """This fit for the problems of `chosen` (S, F) bool, `other` for the rest."""
        wide = chosen[:, :, None, None]
        return Fit(
            torch.where(wide, self.weights, other.weights),
            torch.where(wide, self.scores, other.scores),
            torch.where(chosen, self.converged, other.converged),
        )


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((2, 3))


def _wide(per_problem: Tensor) -> Tensor:
    return per_problem[:, :, None, None]


def fit(
    design: Tensor,
    squares: Tensor,
    loss: Loss,
    penalty: Tensor,
    *,
    start: Fit | None = None,
    active: Tensor | None = None,
    tolerance: float = TOLERANCE,
) -> Fit:
    """Minimise loss + 1/2 sum penalty * weights^2 for every snapshot and subset.

    Parameters
    ----------
    design : (S, N, r) float64
        Columns nearly orthogonal (principal coordinates): the preconditioner takes them to be.
    squares : (S, r)
        Squared norms of the columns.
    penalty : broadcastable to (S, F, 1, r)
        Positive: it makes the minimum unique.
    start : Fit or None
        Where to begin; zero by default.
    active : (S, F) bool or None
        Problems to work on; the others keep their start.
    tolerance : float
        In nats a row, how far above the minimum is near enough.
    """
    snapshots, samples, columns = design.shape
    subsets, outputs = len(loss.rows), loss.outputs
    coarse = design.float()

    def scores_of(weights: Tensor) -> Tensor:
        matrix = coarse if weights.dtype == torch.float32 else design
        flat = weights.reshape(snapshots, subsets * outputs, columns) @ matrix.mT
        return flat.view(snapshots, subsets, outputs, samples)

    def back(per_row: Tensor) -> Tensor:
        matrix = coarse if per_row.dtype == torch.float32 else design
        flat = per_row.reshape(snapshots, subsets * outputs, samples) @ matrix
        return flat.view(snapshots, subsets, outputs, columns)

    def objective(scores: Tensor, weights: Tensor) -> Tensor:
        return loss.value(scores) + 0.5 * (penalty * weights.square()).sum((2, 3))

    if start is None:
        weights = design.new_zeros(snapshots, subsets, outputs, columns)
        scores = design.new_zeros(snapshots, subsets, outputs, samples)
    else:
        weights, scores = start.weights, start.scores
    working = design.new_ones((snapshots, subsets), dtype=torch.bool) if active is None else active.clone()
    converged = ~working
    count = loss.rows.sum(1)  # (F,)
    ridge = penalty.float()
    current = objective(scores, weights)
    for _ in range(MAX_STEPS):
        slope, state = loss.slope(scores)
        gradient = back(slope) + penalty * weights
        scale = loss.curvature(state) * (count / samples)
        coarse_state = state.float()

        def hessian(v: Tensor, state: Tensor = coarse_state) -> Tensor:
            return back(loss.curve(state, scores_of(v))) + ridge * v

        step = _conjugate_gradients(
            hessian,
            gradient.float(),
            (1.0 / (squares[:, None, None, :] * _wide(scale) + penalty)).float(),
            working,
            count,
        ).double()
        descent = -_dot(gradient, step)
        done = working & (0.5 * descent <= tolerance * count)
        move = scores_of(step)
        length = working.double()
        new_scores, new_weights = scores + _wide(length) * move, weights + _wide(length) * step
        trial = objective(new_scores, new_weights)
        for _ in range(30):
            # Within the tolerance rounding decides whether the objective falls; the whole step is right there.
            bad = working & ~done & ~(trial <= current - 1e-4 * length * descent)
            if not bool(bad.any()):
                break
            length = torch.where(bad, 0.5 * length, length)
            new_scores, new_weights = scores + _wide(length) * move, weights + _wide(length) * step
            trial = objective(new_scores, new_weights)
        stuck = working & ~done & ~(trial <= current)
        scores = torch.where(_wide(stuck), scores, new_scores)
        weights = torch.where(_wide(stuck), weights, new_weights)
        current = torch.where(stuck, current, trial)
        converged = converged | done
        working = working & ~done & ~stuck
        if not bool(working.any()):
            break
    return Fit(weights, scores, converged)


def _conjugate_gradients(
    hessian: Callable[[Tensor], Tensor], gradient: Tensor, inverse: Tensor, working: Tensor, count: Tensor
) -> Tensor:
    """Approximate -H^-1 gradient for the working problems: the nearer the minimum, the closer."""
    step = torch.zeros_like(gradient)
    residual = torch.where(_wide(working), -gradient, 0.0)
    z = inverse * residual
    direction = z
    product = start = _dot(residual, z)
    accuracy = (start / count).sqrt().clamp(1e-3, 0.1)
    busy = working & (start > 0)
    for _ in range(MAX_DIRECTIONS):
        if not bool(busy.any()):
            break
        h = hessian(direction)
        bend = _dot(direction, h)
        busy = busy & (bend > 0)
        length = _wide(torch.where(busy, product / bend, 0.0))
        step = step + length * direction
        residual = residual - length * h
        z = inverse * residual
        new = _dot(residual, z)
        busy = busy & (new > accuracy.square() * start)
        direction = torch.where(_wide(busy), z + _wide(new / product) * direction, direction)
        product = torch.where(busy, new, product)
    return step
