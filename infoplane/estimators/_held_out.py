"""What held-out predictions of a linear model say about I(T;Y): for classes, and for real targets."""

from __future__ import annotations

import math
from statistics import NormalDist

import torch
from torch import Tensor

from infoplane.core.units import BITS_PER_NAT, Z_95
from infoplane.estimators._checks import excess_over_gaussian, normal_scores, whitened
from infoplane.estimators._linear_model import SoftmaxLoss, SquaredLoss
from infoplane.estimators._protocol import Bound
from infoplane.estimators._scaling import zscore

# The fitted samples may look this much better than the held-out ones, as a share of H(Y), or in bits a target.
OVERFIT_SHARE, OVERFIT_BITS = 0.1, 0.25
# A score test of features against residuals: random signs that give its law, standard scores from which it is no
# chance, and bits from which it matters.
WITNESS_DRAWS = 24
WITNESS_Z = 4.0
WITNESS_BITS = 0.02
# Products of units: how many residual directions and units are tried, how many products are kept, and the chance that
# any of them passes without structure.
PRODUCT_DIRECTIONS, PRODUCT_UNITS, PRODUCTS_KEPT, PRODUCT_CHANCE = 4, 512, 16, 1e-4
LEAST_TARGET = 0.01
"""Variance of a direction of the targets, as a share of the largest, from which it is predicted."""
NOT_GAUSSIAN = 0.1
NOT_GAUSSIAN_EACH = 0.005
"""Nats of non-Gaussian structure among the targets that are let pass, and more for each: the scatter of that check."""


class Classes(SoftmaxLoss):
    """Integer classes `y` (N,) from 0, predicted by a softmax."""

    def __init__(self, y: Tensor) -> None:
        """Count the classes: priors, H(Y), and whether one has few samples."""
        super().__init__(y, int(y.max()) + 1)
        counts = torch.bincount(y)
        self.log_priors = (counts.double() / len(y)).log()  # (K,)
        self.log_prior = self.log_priors[y]  # (N,)
        self.h_y = -self.log_prior.mean() * BITS_PER_NAT
        self.bound: Bound = "lower"
        self.ceiling = self.h_y
        self.few = len(y) < 10 * self.outputs or int(counts.min()) < 5  # each fold needs some of every class

    def row_loss(self, scores: Tensor) -> Tensor:
        """Return the cross-entropy (S, F, N) in nats of each row, from scores (S, F, K, N).

        One part in N of the prediction is uniform, so that no sample costs more than ln(N K).
        """
        samples = scores.shape[3]
        if self.outputs == 1:  # a single class is predicted without error
            return torch.zeros_like(scores[:, :, 0])
        log_p = self.own_score(scores) - torch.logsumexp(scores, 2)  # of the row's own class
        uniform = torch.full_like(log_p, -math.log(samples * self.outputs))
        return -torch.logaddexp(log_p + math.log1p(-1.0 / samples), uniform)

    def pointwise(self, scores: Tensor, rows: Tensor) -> Tensor:
        """Return each row's pointwise information in bits, (S, N): log2 p(y|t) - log2 p(y), the mean over folds.

        `scores` (S, F, K, N) are those of K classes by each fold's model, and `rows` (F, N) bool the rows of which the
        fold's prediction counts, such as those that it was not fitted to.
        """
        gain = (-self.row_loss(scores) - self.log_prior) * BITS_PER_NAT  # (S, F, N)
        # A row that counts in no fold has the value 0.
        return (gain * rows).sum(1) / rows.sum(0).clamp(min=1)

    def overfitted(self, fitted: Tensor, held_out: Tensor) -> Tensor:
        """Return (S,) whether fitted rows show much more information, `fitted` (S,) bits, than `held_out` (S,) ones."""
        return (fitted - held_out > OVERFIT_SHARE * self.h_y) & (self.outputs > 1)

    def missed(self, held_out: Tensor, features: Tensor, seed: int) -> Tensor:
        """Tell for each snapshot, (S,), whether `features` (S, N, M) predict what held-out predictions have missed.

        That is label less probability of each class, from the logits `held_out` (S, K, N) of K classes.

        `seed` is that of the random signs which show what chance would do.
        """
        p = torch.softmax(held_out, 1)
        slope, z, direction = _score_test(self.residuals(held_out), features, seed)
        # Variance of the direction under p(y|t): the second derivative of the cross-entropy along it.
        curvature = ((p * direction.square()).sum(1) - (p * direction).sum(1).square()).mean(1)
        return _material(slope, z, curvature)

    def residuals(self, held_out: Tensor) -> Tensor:
        """Return (S, K, N): indicators of the classes less the probabilities of `held_out` scores (S, K, N)."""
        return self._onehot - torch.softmax(held_out, 1)

    def flags(self, constant: Tensor) -> dict[str, Tensor | bool]:
        """Return the flags that hold whatever is estimated; `constant` (S,) says where nothing varies."""
        return {"degenerate": constant, "single_class": self.outputs == 1, "few_samples": self.few}

    def information(self, held_out: Tensor, fitted: Tensor) -> dict[str, Tensor]:
        """Return "value", I(T;Y) in bits, "half", half its interval, and "loose", whether models overfit, (S,) each.

        They are found from held-out scores (S, K, N), and from the mean loss `fitted` (S,), in nats, of the rows that
        models were fitted to: these must not look much better.
        """
        gain = (-self.row_loss(held_out[:, None])[:, 0] - self.log_prior) * BITS_PER_NAT  # (S, N)
        value, half = gain.mean(1), Z_95 * gain.std(1) / math.sqrt(gain.shape[1])
        return {"value": value, "half": half, "loose": self.overfitted(self.h_y - fitted * BITS_PER_NAT, value)}


class Targets(SquaredLoss):
    """Real targets `y` (N,) or (N, k), made normal scores and whitened: k' uncorrelated targets of variance 1."""

    def __init__(self, y: Tensor, seed: int = 0) -> None:
        """Rank and whiten the targets, and see whether they are jointly Gaussian; `seed` spreads tied values."""
        scores, repeated = normal_scores(y[:, None] if y.ndim == 1 else y, torch.Generator().manual_seed(seed))
        self.tied = bool(repeated.double().mean() > 0.01)  # a few repeats may be chance
        # Directions of hardly any variance, as from targets that repeat one another, hold little but the rounding of
        # ranks to scores. They are left out, which can only lower a bound.
        super().__init__(whitened(scores, LEAST_TARGET))
        # The residuals give a lower bound only where the targets are jointly Gaussian, as one normal score always is.
        excess = excess_over_gaussian(self.targets.T) if self.outputs > 1 else 0.0
        self.gaussian = excess < NOT_GAUSSIAN + NOT_GAUSSIAN_EACH * self.outputs
        self.bound: Bound = "lower" if self.gaussian else "point"
        self.ceiling = None
        self.few = len(y) < 30

    def row_loss(self, scores: Tensor) -> Tensor:
        """Return the squared error (S, F, N) of each row, summed over the targets, from predictions (S, F, k', N)."""
        return torch.sum((scores - self.targets).square(), 2)

    def batch_loss(self, scores: Tensor, rows: Tensor) -> Tensor:
        """Return (S, F) the mean over rows (F, B) of half the squared error of predictions (S, F, B, k')."""
        found: Tensor = 0.5 * (scores - self.targets.T[rows].to(scores)).square().sum(3).mean(2)
        return found

    def pointwise(self, scores: Tensor, rows: Tensor) -> Tensor:
        """Return each row's pointwise information in bits, (S, N), the mean over folds.

        It is the log density of the row's targets y given their prediction, minus that without it, both Gaussian:
        -1/2 log det C + 1/2 (|y|^2 - r' C^-1 r) nats, where y has covariance 1, r is the row's residual, and C the
        covariance of the residuals of all folds together.

        `scores` (S, F, k', N) are predictions of the k' whitened targets by each fold's model, and `rows` (F, N) bool
        the rows of which the fold's prediction counts, such as those that it was not fitted to.
        """
        residual = (self.targets - scores) * rows[:, None]
        flat = residual.transpose(1, 2).flatten(2)  # (S, k', F N)
        covariance = _covariance(flat, int(rows.sum()))
        length = (flat * torch.linalg.solve(covariance, flat)).sum(1).view(len(scores), *rows.shape).sum(1)
        gain = self.targets.square().sum(0) - length / rows.sum(0).clamp(min=1)
        found: Tensor = 0.5 * BITS_PER_NAT * (gain - torch.linalg.slogdet(covariance)[1][:, None])
        return found

    def overfitted(self, fitted: Tensor, held_out: Tensor) -> Tensor:
        """Return (S,) whether fitted rows show much more information, `fitted` (S,) bits, than `held_out` (S,) ones."""
        return fitted - held_out > OVERFIT_BITS * self.outputs

    def missed(self, held_out: Tensor, features: Tensor, seed: int) -> Tensor:
        """Return (S,) whether `features` (S, N, M) predict the residuals of predictions `held_out` (S, k', N).

        `seed` is that of the random signs which show what chance would do.
        """
        slope, z, direction = _score_test(self.residuals(held_out), features, seed)
        # The last is the second derivative of half the squared error along the direction.
        return _material(slope, z, direction.square().sum(1).mean(1))

    def residuals(self, held_out: Tensor) -> Tensor:
        """Return (S, k', N): the targets less `held_out` predictions (S, k', N), each scaled to variance 1."""
        residual = self.targets - held_out
        return residual / residual.square().mean(2, keepdim=True).sqrt().clamp(min=1e-150)

    def flags(self, constant: Tensor) -> dict[str, Tensor | bool]:
        """Return the flags that hold whatever is estimated; `constant` (S,) says where nothing varies."""
        flags: dict[str, Tensor | bool] = {"degenerate": constant | (self.outputs == 0), "ties": self.tied}
        return flags | {"few_samples": self.few, "out_of_domain": not self.gaussian}

    def information(self, held_out: Tensor, fitted: Tensor) -> dict[str, Tensor]:
        """Return "value", I(T;Y) in bits, "half", half its interval, and "loose", whether models overfit, (S,) each.

        They are found from held-out predictions (S, k', N), and from the mean squared error `fitted` (S,) of the rows
        that models were fitted to: these must not look much better.
        """
        outputs, samples = held_out.shape[1:]
        value, half, loose = (torch.zeros_like(fitted) for _ in range(3))
        if outputs:
            residual = self.targets - held_out
            covariance = _covariance(residual, samples)
            value = -0.5 * BITS_PER_NAT * torch.linalg.slogdet(covariance)[1]
            gain = self.targets.square().sum(0) - (residual * torch.linalg.solve(covariance, residual)).sum(1)
            # 1.96 standard errors of half the gain.
            half = 0.98 * BITS_PER_NAT * gain.std(1) / math.sqrt(samples)
            # Bits a target of the fitted rows, by their mean squared error, less those of held-out ones and the limit.
            loose = -0.5 * BITS_PER_NAT * (fitted / outputs + 2.0**-104).log() - value / outputs - OVERFIT_BITS
        return {"value": value, "half": half, "loose": loose > 0}


def _covariance(residual: Tensor, samples: int) -> Tensor:
    """Return the covariance (S, k, k) of residuals (S, k, N), over `samples` rows (others are 0); never singular."""
    # A target has 52 bits: by this least variance an exact prediction tells so many, and not infinitely many.
    least = 2.0**-104 * torch.eye(residual.shape[1], dtype=residual.dtype, device=residual.device)
    return residual @ residual.mT / samples + least


def _score_test(residuals: Tensor, features: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Test whether features (S, N, M) predict residuals (S, K, N): return slope (S,), z (S,), direction (S, K, N)."""
    # The score test of the model with these features as well. |g|^2 of g = mean_i features_i residuals_i, without the
    # terms i = j that it has by chance, is the slope of the loss along the direction features . g. Random signs of
    # the residuals give the law of the slope where there is nothing to predict; z is the slope in units of its spread.
    samples = residuals.shape[2]
    of_same_row = (features.square().sum(2) * residuals.square().sum(1)).sum(1)  # the terms i = j

    def slope(residuals: Tensor) -> tuple[Tensor, Tensor]:
        """Return |g|^2 (S,) without the terms i = j, and g (S, K, M), for residuals (S, K, N)."""
        g = residuals @ features / samples
        return g.square().sum((1, 2)) - of_same_row / samples**2, g

    found, g = slope(residuals)
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (WITNESS_DRAWS, samples), generator=generator, device="cpu").to(residuals) * 2 - 1
    null = torch.stack([slope(residuals * s)[0] for s in signs])
    spread = null.square().mean(0).sqrt()
    return found, found / spread.clamp(min=1e-300), g @ features.mT  # 1e-300: constant features have no spread


def _material(slope: Tensor, z: Tensor, curvature: Tensor) -> Tensor:
    """Return (S,) whether a Newton step lowers the loss by more than chance (its score is `z`) and `WITNESS_BITS`."""
    gain = slope.square() / (2 * curvature.clamp(min=1e-300)) * BITS_PER_NAT
    return (z > WITNESS_Z) & (gain > WITNESS_BITS) & (slope > 0)


def telling_products(residuals: Tensor, z: Tensor) -> Tensor:
    """Return (S, N, M) centred products of two units, or squares of one, that go with the residuals beyond chance.

    For XOR each unit alone says nothing, and among many units random features of all of them see too little of any
    two; their product says all. With residuals r along their leading directions, units a and b are tried by

        sum r z_a z_b / sqrt(sum (r z_a z_b)^2),

    about a standard normal without structure, against the largest that so many draws would reach. `residuals` are
    (S, K, N), `z` (S, N, U), of which at most `PRODUCT_UNITS` units are taken, evenly. Products that do not pass
    are 0.
    """
    z = z[:, :, :: math.ceil(z.shape[2] / PRODUCT_UNITS)]
    out = z.new_zeros(len(z), z.shape[1], PRODUCTS_KEPT)
    for s, (r, units) in enumerate(zip(residuals, z, strict=True)):
        vectors = torch.linalg.eigh(r @ r.T)[1].flip(1)[:, :PRODUCT_DIRECTIONS]
        along = (vectors.T @ r).float()  # scores need no more digits, and this is most of the work
        found = torch.stack([_product_scores(d, units.float()) for d in along]).amax(0).triu()  # (U, U)
        tests = min(len(r), PRODUCT_DIRECTIONS) * units.shape[1] * (units.shape[1] + 1) / 2
        limit = -NormalDist().inv_cdf(0.5 * PRODUCT_CHANCE / tests)  # the scores have no sign
        score, place = found.flatten().topk(min(PRODUCTS_KEPT, found.numel()))
        passed = place[score > limit]
        first, second = passed // units.shape[1], passed % units.shape[1]  # row and column of `found`
        out[s, :, : len(passed)] = zscore(units[:, first] * units[:, second])
    return out / math.sqrt(PRODUCTS_KEPT)  # so that all products together have variance 1 at most


def _product_scores(r: Tensor, z: Tensor) -> Tensor:
    """Return absolute standard scores (U, U) of how products of two units of `z` (N, U) go with residuals `r` (N,)."""
    square = z.square()
    variance = (r.square()[:, None] * square).T @ square
    scores: Tensor = ((r[:, None] * z).T @ z).abs() / variance.clamp(min=1e-30).sqrt()
    return scores
