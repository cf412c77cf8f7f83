"""Ridge-penalised linear models, many at once: softmax and squared loss by truncated Newton steps.

All snapshots S and all F subsets of the rows (folds of a cross-fit, prefixes of a sequence) are one problem:
the scores (S, F, K, N) of K outputs are a single product of the weights of every subset, one below the other, with
the design, and a row outside a subset has weight 0. Newton directions come from conjugate gradients. As the design
comes in principal coordinates, their preconditioner needs the second derivative among a few leading columns only, and
its diagonal for the others. A problem that has converged is frozen, so that its weights do not depend on its
neighbours in the block, and a snapshot or subset without a working problem is left out of the products. A fit works in
float32 down to `SINGLE` and from there with objective and gradient in float64; directions are always found in float32,
since an inexact Newton step changes the path and not the minimum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

# Newton steps of a fit, and conjugate directions of a step, at most.
MAX_STEPS = 60
MAX_DIRECTIONS = 60
# Newton's estimate of how far the objective is above its minimum, in nats a row.
TOLERANCE = 1e-12
# Far from the minimum, directions stop where one more of them gives less than this share of the mean gain of all so
# far; nearer than `NEAR` nats a row the residual decides, so that the last steps of an exact fit are exact.
SMALL_GAIN = 0.25
NEAR = 1e-8
# Nats a row above the minimum down to which a fit works in float32.
SINGLE = 1e-6
# Columns, the last and largest, whose second derivatives the preconditioner takes as they are.
LEADING = 16
# Products of two columns that are held at a time.
_PAIRS = 1 << 20


class SoftmaxLoss:
    """Multinomial cross-entropy in nats of classes `y` (N,) int64 from 0.

    As for every convex loss here: `value` (S, F) sums it over the rows (F, N) bool of each subset, for scores
    (S, F, K, N) of `outputs` K. `slope` returns the derivative by the scores and a state, with which `curve` applies
    the second derivative to a direction and `curvature` gives its diagonal (S, F, K, N); `curved` says whether that
    changes with the scores.
    """

    curved = True

    def __init__(self, y: Tensor, classes: int) -> None:
        """Keep the classes, and as indicators (K, N)."""
        self.y, self.outputs = y, classes
        self._onehot = torch.nn.functional.one_hot(y, classes).T.double()

    def own_score(self, scores: Tensor) -> Tensor:
        """Return the scores (S, F, N) of the class that each row has."""
        return scores.gather(2, self.y.expand(*scores.shape[:2], 1, -1))[:, :, 0]

    def value(self, scores: Tensor, rows: Tensor) -> Tensor:
        """Return the cross-entropy (S, F) in nats, summed over the rows of each subset."""
        return ((torch.logsumexp(scores, 2) - self.own_score(scores)) * rows).sum(2, dtype=torch.float64)

    def slope(self, scores: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the derivative p - y (S, F, K, N) by the scores, and p as the state: both 0 outside the subsets."""
        p, outside = torch.softmax(scores, 2), ~rows[:, None]
        return (p - self._onehot.to(p)).masked_fill_(outside, 0.0), p.masked_fill(outside, 0.0)

    def curve(self, state: Tensor, direction: Tensor, rows: Tensor) -> Tensor:
        """Return the second derivative, diag(p) - p p' for each row, times a direction (S, F, K, N)."""
        out = state * direction
        return out.sub_(state * out.sum(2, keepdim=True))

    def curvature(self, state: Tensor, rows: Tensor) -> Tensor:
        """Return the diagonal (S, F, K, N) of the second derivative, p - p^2: 0 outside the subsets."""
        return state - state.square()


class SquaredLoss:
    """Half the squared error against `targets` (N, k), over the rows (F, N) of each problem."""

    curved = False

    def __init__(self, targets: Tensor) -> None:
        """Keep the targets as (k, N)."""
        self.outputs, self.targets = targets.shape[1], targets.T.double().contiguous()

    def value(self, scores: Tensor, rows: Tensor) -> Tensor:
        """Return half the squared error (S, F), summed over targets and the rows of each subset."""
        return 0.5 * self.slope(scores, rows)[0].square().sum((2, 3), dtype=torch.float64)

    def slope(self, scores: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return errors (S, F, k, N), the derivative by the scores, 0 outside the subsets; and again, as the state."""
        error = (scores - self.targets.to(scores)).masked_fill_(~rows[:, None], 0.0)
        return error, error

    def curve(self, state: Tensor, direction: Tensor, rows: Tensor) -> Tensor:
        """Return the second derivative, 1, times a direction (S, F, k, N): 0 outside the subsets."""
        return direction.masked_fill(~rows[:, None], 0.0)

    def curvature(self, state: Tensor, rows: Tensor) -> Tensor:
        """Return the diagonal (S, F, k, N) of the second derivative, 1: 0 outside the subsets."""
        return rows[:, None].to(state.dtype).expand_as(state)


Loss = SoftmaxLoss | SquaredLoss


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
        """Return a fit made of this one for the problems `chosen` (S, F) bool, and of `other` for the rest."""
        wide = chosen[:, :, None, None]
        return Fit(
            torch.where(wide, self.weights, other.weights),
            torch.where(wide, self.scores, other.scores),
            torch.where(chosen, self.converged, other.converged),
        )

    def widened(self, design: Tensor) -> Fit:
        """Return this fit in float64, its scores found anew from the `design` (S, N, r)."""
        weights = self.weights.double()
        return Fit(weights, _scores(weights, design), self.converged)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the inner products (S, F) of weights (S, F, K, r)."""
    return (a * b).sum((2, 3))


def _scores(weights: Tensor, design: Tensor) -> Tensor:
    """Return scores (S, F, K, N) from weights (S, F, K, r) and a design (S, N, r) of the same float type."""
    return (weights.flatten(1, 2) @ design.mT).view(*weights.shape[:3], design.shape[1])


def _wide(per_problem: Tensor) -> Tensor:
    """Return a number of each problem (S, F) as (S, F, 1, 1), to be combined with weights and scores."""
    return per_problem[:, :, None, None]


def fit(
    design: Tensor,
    squares: Tensor,
    loss: Loss,
    rows: Tensor,
    penalty: Tensor,
    *,
    start: Fit | None = None,
    active: Tensor | None = None,
    tolerance: float = TOLERANCE,
) -> Fit:
    """Minimise loss + 1/2 sum penalty * weights^2 for every snapshot and subset of rows, and return the minimisers.

    Parameters
    ----------
    design : (S, N, r) float64
        Columns nearly orthogonal (principal coordinates): the preconditioner takes them to be.
    squares : (S, r)
        Squared norms of the columns.
    rows : (F, N) bool
        Which rows each problem is fitted to.
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
    shape = snapshots, len(rows), loss.outputs
    exact = tolerance < SINGLE
    if exact:
        start = fit(design, squares, loss, rows, penalty, start=start, active=active, tolerance=SINGLE)
    elif start is None:
        none = design.new_zeros(shape[:2], dtype=torch.bool)
        start = Fit(design.new_zeros(*shape, columns), design.new_zeros(*shape, samples), none)
    working = design.new_ones(shape[:2], dtype=torch.bool) if active is None else active
    place = torch.arange(shape[0], device=design.device)[:, None], torch.arange(shape[1], device=design.device)

    def cast(numbers: Tensor) -> Tensor:
        """Return the numbers in the type that this fit works in: float64 if it is exact, else float32."""
        return numbers if exact else numbers.float()

    penalty, weights, scores = cast(penalty.expand(*shape[:2], 1, columns)), cast(start.weights), cast(start.scores)
    left = _Working(
        cast(design), cast(squares), penalty, weights, scores, loss, rows, ~working, working, tolerance, place
    )
    found = Fit(left.weights.clone(), left.scores.clone(), ~working)
    for _ in range(MAX_STEPS):
        if not bool(left.working.any()):
            break
        left = left.shrunk(found)
        left.step()
    left.store(found)
    return found if exact else found.widened(design).where(working, start)


@dataclass
class _Working:
    """The problems of a fit that are still worked on, and the frozen ones of the same snapshots and subsets.

    Fields are those of `fit`, for S' snapshots and F' subsets. `working` (S', F') bool marks problems that are not yet
    frozen, `converged` those that have reached the minimum.
    """

    design: Tensor
    squares: Tensor
    penalty: Tensor
    weights: Tensor
    scores: Tensor
    loss: Loss
    rows: Tensor
    converged: Tensor
    working: Tensor
    tolerance: float
    # Where each snapshot and subset here stands in the whole: (S', 1) and (F',).
    place: tuple[Tensor, Tensor]

    def __post_init__(self) -> None:
        """Add the design in float32, the rows of each subset and the objective at these weights."""
        self.coarse = self.design.float()
        self.mean_square = self.squares.float()[:, None, None] / self.design.shape[1]
        self.count = self.rows.sum(1)  # (F,)
        self.current = self._objective(self.scores, self.weights)

    def store(self, found: Fit) -> None:
        """Write weights, scores and what has converged to their places in `found`, the fits of all problems."""
        found.weights[self.place], found.scores[self.place] = self.weights, self.scores
        found.converged[self.place] = self.converged

    def shrunk(self, found: Fit) -> _Working:
        """Return the problems of snapshots and subsets that still have work; store the others in `found`."""
        snapshots, subsets = self.working.any(1), self.working.any(0)
        if bool(snapshots.all()) and bool(subsets.all()):
            return self
        self.store(found)
        rows, columns = snapshots.nonzero(), subsets.nonzero()[:, 0]
        parts = ("weights", "scores", "converged", "working", "penalty")
        return replace(
            self,
            design=self.design if bool(snapshots.all()) else self.design[snapshots],  # no copy if all are kept
            squares=self.squares[snapshots],
            rows=self.rows[columns],
            place=(self.place[0][snapshots], self.place[1][columns]),
            **{name: getattr(self, name)[rows, columns] for name in parts},
        )

    def step(self) -> None:
        """Make one Newton step of the working problems, shortened until the objective falls."""
        slope, state = self.loss.slope(self.scores, self.rows)
        gradient = self._back(slope) + self.penalty * self.weights
        coarse_state, ridge = state.float(), self.penalty.float()

        def hessian(v: Tensor) -> tuple[Tensor, Tensor]:
            """Return the second derivative of the objective times weights `v` (S, F, K, r), and the scores of `v`."""
            scores = self._scores_of(v)
            return self._back(self.loss.curve(coarse_state, scores, self.rows)) + ridge * v, scores

        exact, inverse = gradient.dtype == torch.float64, self._preconditioner(coarse_state, ridge)
        least = 0.0 if exact else 0.01 * self.tolerance
        step, move = _conjugate_gradients(hessian, gradient.float(), inverse, self.working, self.count, least)
        if exact:
            step = step.double()
            move = self._scores_of(step)
        descent = -_dot(gradient, step)
        done = self.working & (0.5 * descent <= self.tolerance * self.count)
        length = self.working.to(gradient.dtype)
        # Steps are halved until the objective falls by 1e-4 of what the slope promises (Armijo), 30 times at most.
        for _ in range(31):
            scores, weights = self.scores + _wide(length) * move, self.weights + _wide(length) * step
            trial = self._objective(scores, weights)
            # Within the tolerance rounding decides whether the objective falls; the whole step is right there.
            bad = self.working & ~done & ~(trial <= self.current - 1e-4 * length * descent)
            if not bool(bad.any()):
                break
            length = torch.where(bad, 0.5 * length, length)
        # Where even the shortest step helps nothing, the weights stay and the problem ends without having converged.
        stuck = self.working & ~done & ~(trial <= self.current)
        self.scores = torch.where(_wide(stuck), self.scores, scores)
        self.weights = torch.where(_wide(stuck), self.weights, weights)
        self.current = torch.where(stuck, self.current, trial)
        self.converged = self.converged | done
        self.working = self.working & ~done & ~stuck

    def _preconditioner(self, state: Tensor, ridge: Tensor) -> Callable[[Tensor], Tensor]:
        """Return a function that multiplies by about the inverse of the second derivative.

        It takes each class by itself: the leading columns with all their products, the other columns one by one.
        """
        curvature = self.loss.curvature(state, self.rows)  # (S, F, K, N)
        far = (curvature.sum(3, keepdim=True) * self.mean_square + ridge).reciprocal_()
        if not self.loss.curved:  # the columns are orthogonal, and every row counts alike
            return lambda residual: residual * far
        block, d = self._leading_block(curvature), min(LEADING, far.shape[3])
        # A thousandth more on the diagonal: then float32 is enough to factor it.
        block.diagonal(dim1=-2, dim2=-1).add_(ridge[..., -d:]).mul_(1.001)
        lower = torch.linalg.cholesky_ex(block)[0]
        one = torch.eye(d, dtype=block.dtype, device=block.device)
        root = torch.linalg.solve_triangular(lower, one.expand_as(lower), upper=False)
        near = root.mT @ root

        def inverse(residual: Tensor) -> Tensor:
            """Return the residual (S, F, K, r) times about the inverse of the second derivative, as a direction."""
            # What all classes share changes no probability.
            residual = residual - residual.mean(2, keepdim=True)
            out = residual * far
            out[..., -d:] = (near @ residual[..., -d:, None])[..., 0]
            return out.sub_(out.mean(2, keepdim=True))

        return inverse

    def _leading_block(self, curvature: Tensor) -> Tensor:
        """Return (S, F, K, d, d) the sum over rows of x x' times `curvature` (S, F, K, N), x the d leading columns."""
        lead = self.coarse[:, :, -LEADING:].mT.contiguous()  # (S, d, N)
        snapshots, d, samples = lead.shape
        out = curvature.new_zeros(snapshots, curvature[0, :, :, 0].numel(), d * d)
        step = max(1, _PAIRS // (snapshots * d * d))
        for rows in (slice(i, i + step) for i in range(0, samples, step)):
            pairs = (lead[:, :, None, rows] * lead[:, None, :, rows]).flatten(1, 2)  # (S, d d, rows)
            out.baddbmm_(curvature[..., rows].flatten(1, 2), pairs.mT)
        return out.view(*curvature.shape[:3], d, d)

    def _scores_of(self, weights: Tensor) -> Tensor:
        """Return scores (S, F, K, N) of all rows from weights (S, F, K, r)."""
        return _scores(weights, self.coarse if weights.dtype == torch.float32 else self.design)

    def _back(self, per_row: Tensor) -> Tensor:
        """Return gradients (S, F, K, r) by the weights from those by the scores, `per_row` (S, F, K, N)."""
        matrix = self.coarse if per_row.dtype == torch.float32 else self.design
        return (per_row.flatten(1, 2) @ matrix).view(*per_row.shape[:3], matrix.shape[2])

    def _objective(self, scores: Tensor, weights: Tensor) -> Tensor:
        """Return the sum of loss and penalty (S, F)."""
        stiff = (self.penalty * weights.square()).sum((2, 3), dtype=torch.float64)
        return self.loss.value(scores, self.rows) + 0.5 * stiff


def _conjugate_gradients(
    hessian: Callable[[Tensor], tuple[Tensor, Tensor]],
    gradient: Tensor,
    inverse: Callable[[Tensor], Tensor],
    working: Tensor,
    count: Tensor,
    least: float,
) -> tuple[Tensor, Tensor]:
    """Return the Newton step (S, F, K, r), -H^-1 gradient, of the working problems, and what it adds to their scores.

    It is found by conjugate gradients, more exactly the nearer the minimum, down to about `least` nats a row.
    `hessian` returns the second derivative times weights, and the scores of these; `inverse` is the preconditioner,
    `count` (F,) the number of rows in each subset.
    """
    step, move = torch.zeros_like(gradient), gradient.new_zeros(())
    residual = torch.where(_wide(working), -gradient, 0.0)
    z = inverse(residual)
    direction = z
    product = start = _dot(residual, z)
    accuracy = (start / count).sqrt().clamp(1e-3, 0.1)  # share of the residual that may be left
    enough = (accuracy.square() * start).maximum(least * count)
    busy = working & (start > 0)
    fall = torch.zeros_like(start)  # twice what the quadratic model falls by the step so far
    for steps in range(1, MAX_DIRECTIONS + 1):
        if not bool(busy.any()):
            break
        # Go along the direction to the minimum of the quadratic model, for which it must bend upwards.
        h, scores = hessian(direction)
        bend = _dot(direction, h)
        busy = busy & (bend > 0)
        along = torch.where(busy, product / bend, 0.0)
        fall = fall + along * product
        length = _wide(along)
        step.addcmul_(length, direction)
        move = scores.mul_(length).add_(move)
        residual.addcmul_(length, h, value=-1.0)
        z = inverse(residual)
        new = _dot(residual, z)
        # Stop where the residual is small enough, or, far from the minimum, where one more direction gains little.
        far = fall > NEAR * count
        busy = busy & (new > enough) & ~(far & (steps * along * product < SMALL_GAIN * fall))
        direction = z.addcmul_(_wide(torch.where(busy, new / product, 0.0)), direction)
        product = torch.where(busy, new, product)
    return step, move
