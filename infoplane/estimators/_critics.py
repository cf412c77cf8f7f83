"""Critics of all folds and snapshots, trained together: scores of pairs, what is minimised, and what is read.

S are snapshots, F folds, N samples, B rows of a batch; "(S F, ...)" has one axis for snapshots and folds, which losses
write (S, ...). Scores (S, n, m) are those of n rows of x with m rows of y; where both are the same rows, the pairs that
belong together stand on the diagonal, and all others are strangers.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from infoplane.core.device import on_accelerator
from infoplane.estimators._canonical import ratio_terms
from infoplane.estimators._trained import Batches, Stack, TrainingPlan, rows_of, train

Loss = Literal["infonce", "anchor", "js", "nwj", "dv"]

NU = 16.0
"""Prior weight of "none of these" beside the candidates of `anchor`."""
RUNNING = 0.05
"""Rate of the running mean of e^F in the gradient of `dv`."""
CHECKED, READ, NEGATIVES, AT_ONCE = 512, 2000, 4096, 256
"""Rows of a fold that choose the step, that are read, that are strangers to them, and how many are read at once."""
CACHE = 1 << 20
"""Bytes of scores that are worked on at a time on a CPU."""
LEAST_SUM = 1e-30
"""Sum of exponentials from which it has all its digits: float32 ends at 1e-38."""
TRACED = 100
"""Steps over whose batches the values of `dv` are compared."""


class Setup(NamedTuple):
    """What a stack of critics is made of: sizes of its networks, the loss, and how it is trained."""

    loss: Loss
    hidden: int  # units of each of two hidden layers
    products: int  # length of f and g, whose inner product is part of the score
    dropout: float
    plan: TrainingPlan


class Critics:
    """F(x, y) = f(x).g(y) + a(x) + b(y) + log r(x, y) for every slice, with the Gaussian ratio r where there is one.

    Parameters
    ----------
    u, v : (S, F, N, P), (S, F, N, Q) float32
        Both sides in the coordinates of each snapshot and fold.
    correlations : (S, F, r)
        0 where no Gaussian ratio is wanted.
    setup : Setup
    seeds : sequence of int
        One for each fold.
    """

    def __init__(self, u: Tensor, v: Tensor, correlations: Tensor, setup: Setup, seeds: tuple[int, ...]) -> None:
        """Make the networks f, with a as its last output, and g, with b."""
        self.u, self.v, self.correlations, self.setup = u, v, correlations, setup
        self.shape, device = u.shape[:2], u.device
        # Only f starts at 0: of a product f(x).g(y) that starts at 0 on both sides nothing would learn.
        of_f, of_g = ((side.shape[3], setup.hidden, setup.hidden, setup.products + 1) for side in (u, v))
        self.f = Stack(seeds, len(u), of_f, device, dropout=setup.dropout)
        seeds_of_g = [seed + 1 for seed in seeds]
        self.g = Stack(seeds_of_g, len(u), of_g, device, random_outputs=setup.products, dropout=setup.dropout)
        # Of the loss "dv" alone: the running mean (S F,) of e^F over strangers, and the values of the last batches.
        self.running: Tensor | None = None
        self.trace: list[Tensor] = []

    @property
    def parameters(self) -> list[Tensor]:
        """Weights and biases of f and g."""
        return [*self.f.parameters, *self.g.parameters]

    def factors(self, left: Tensor, right: Tensor, *, training: bool = False) -> tuple[Tensor, Tensor]:
        """Return factors (S F, p, n) and (S F, p, m), whose products over p are the scores.

        The scores are those of the rows `left` (F, n) of x with the rows `right` (F, m) of y.
        """
        x, y = rows_of(self.u, left).flatten(0, 1), rows_of(self.v, right).flatten(0, 1)
        f, g = self.f(x, training=training).mT, self.g(y, training=training).mT
        rho = self.correlations.flatten(0, 1)
        r = rho.shape[-1]  # how many coordinates of x have a partner in y
        terms = ratio_terms(x[..., :r], y[..., :r], rho)
        # F = [f, a, 1, scaled x] . [g, 1, b, y]: as part of the one product, a(x) and b(y) need no pass over n x m.
        of_x = f[:, -1:] - terms.of_u[:, None] - terms.constant[:, None, None]
        of_y = g[:, -1:] - terms.of_v[:, None]
        scale = 1 / math.sqrt(self.setup.products)
        first = [f[:, :-1] * scale, of_x, torch.ones_like(of_x), terms.scaled.mT]
        second = [g[:, :-1], torch.ones_like(of_y), of_y, y[..., :r].mT]
        return torch.cat(first, 1), torch.cat(second, 1)

    def scores(self, left: Tensor, right: Tensor) -> Tensor:
        """Return the scores (S F, n, m) of rows `left` (F, n) of x with rows `right` (F, m) of y."""
        first, second = self.factors(left, right)
        return first.mT @ second

    def loss(self, rows: Tensor) -> Tensor:
        """Return the loss (S F,) over the rows (F, B) of a batch."""
        first, second = self.factors(rows, rows, training=True)
        if self.setup.loss == "dv":  # which remembers the batches before
            return self._running_dv(first.mT @ second)
        found: Tensor = LossOfProducts.apply(first, second, self.setup.loss)  # type: ignore[no-untyped-call]  # of torch
        return found

    def criterion(self, rows: Tensor) -> Tensor:
        """Return the loss (S F,) of rows (F, V) that are held out."""
        return LOSSES[self.setup.loss](self.scores(rows, rows))

    def _running_dv(self, scores: Tensor) -> Tensor:
        """Return numbers (S F,) with the gradient of "dv" over many batches, from scores (S F, B, B) of one batch."""
        # The gradient of log E e^F is that of E e^F divided by E e^F, for which a running mean over batches stands.
        self.trace = [*self.trace[1 - TRACED :], -donsker_varadhan(scores).detach()]
        mean = apart(scores).flatten(1).logsumexp(1).exp() / pairs_apart(scores)
        now = mean.detach()
        self.running = now if self.running is None else (1 - RUNNING) * self.running + RUNNING * now
        return mean / self.running - own(scores).mean(1)

    def running_std(self) -> Tensor:
        """Return the standard deviation (S F,) of the value of "dv" over the last 100 batches; 0 for other losses."""
        if not self.trace:
            return self.u.new_zeros(self.shape).flatten()
        return torch.stack(self.trace).std(0)

    def train(self, fitted: tuple[Tensor, ...], checked: Tensor, seeds: tuple[int, ...]) -> Tensor:
        """Train on the rows `fitted` of each fold; return (S, F) whether a critic diverged or needs more steps."""
        # The Gaussian ratio is dropped where it is worse on `checked` (F, V) than a critic that is 0 everywhere.
        with torch.no_grad():
            start = self.criterion(checked).view(self.shape)
            of_zeros = LOSSES[self.setup.loss](start.new_zeros(1, checked.shape[1], checked.shape[1]))
            self.correlations = torch.where((start < of_zeros)[..., None], self.correlations, 0.0)
        plan = self.setup.plan
        batches = Batches(fitted, seeds, plan.batch, self.u.device)
        trained = train(self.parameters, self.loss, lambda: self.criterion(checked), batches, plan)
        return (trained.unfinished | trained.diverged).view(self.shape)

    @torch.no_grad()
    def log_ratios(self, rows: Tensor, negatives: Tensor) -> Tensor:
        """Return log ratios (2, S F, n) of pairs `rows` (F, n), normalised over rows `negatives` (F, m) as strangers.

        F is a log ratio up to a function of x and one of y. With F_own the score of the pair, the mean over strangers
        of x and strangers of y is normalised in two ways:

            [0]: F_own - log mean e^F over strangers,               too high where near strangers are rare,
            [1]: F_own - log mean e^F over strangers and the pair,  at most log (m + 1).
        """
        found = []
        for some in torch.split(rows, AT_ONCE, 1):
            same = (some[:, :, None] == negatives[:, None]).repeat(self.shape[0], 1, 1)
            # A row is no stranger to itself.
            strangers = (~same).sum(2)
            first, second = self.factors(some, some)
            of_pair = (first * second).sum(1)  # F of each row of x with its own y
            both = self.scores(some, negatives), self.scores(negatives, some).mT  # strangers of x, strangers of y
            sums = torch.stack([scores.masked_fill(same, -math.inf).logsumexp(2) for scores in both])
            without = of_pair - (sums - strangers.log()).mean(0)
            within = of_pair - (torch.logaddexp(sums, of_pair) - (strangers + 1).log()).mean(0)
            found.append(torch.stack([without, within]))
        return torch.cat(found, 2)


class LossOfProducts(torch.autograd.Function):
    """A loss (S,) of the scores first.mT @ second (S, n, n), with its gradient by both factors (S, p, n)."""

    # The gradient is taken at once, while the scores of a few slices are in the cache; no score is kept for `backward`.
    # A product with few rows takes half the time of one with few columns.

    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor, loss: Loss) -> Tensor:
        """Return the loss (S,), found for some slices at a time; both gradients are kept for `backward`."""
        bytes_each = first.shape[2] * second.shape[2] * first.element_size()
        at_once = len(first) if on_accelerator(first.device) else max(1, CACHE // bytes_each)
        parts = []
        for a, b in zip(torch.split(first, at_once), torch.split(second, at_once), strict=True):
            value, slope = with_slope(loss, a.mT @ b)
            parts.append((value, b @ slope.mT, a @ slope))
        value, of_first, of_second = (torch.cat(part) for part in zip(*parts, strict=True))
        ctx.save_for_backward(of_first, of_second)
        return value

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        """Return the gradients that `forward` kept, times the gradient (S,) of the loss; none for the loss's name."""
        of_first, of_second = ctx.saved_tensors
        grad = grads[0][:, None, None]
        return grad * of_first, grad * of_second, None


def with_slope(loss: Loss, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss (S,) of scores (S, n, n), and its derivative by them (S, n, n)."""
    if loss != "infonce":
        with torch.enable_grad():
            value = LOSSES[loss](scores.requires_grad_())
            return value.detach(), torch.autograd.grad(value.sum(), scores)[0]  # the sum keeps slices apart
    # InfoNCE, the default, written out, which is faster.
    # dL/dF = (half the sum of the softmax along rows and that along columns, less the identity) / n.
    sums, slope = _softmaxes(scores)
    slope.mul_(0.5 / scores.shape[1])
    own(slope).sub_(1 / scores.shape[1])
    return 0.5 * sums - own(scores).mean(1), slope


def _softmaxes(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean log-sum-exp (S,) of rows plus that of columns, and the softmax (S, n, n) of both added up."""
    row_top, row_sums, exponentials = _exponentials(scores, 2)
    # The exponentials of a row, relative to its largest score r_i, serve for columns too: these sum e^(r_i - r) of
    # them, with r = max r_i. Where all of a column lies far below r nothing is left of it: then columns get their own.
    # An accelerator always gives them their own: it would have to wait for a look at the sums.
    column_top = row_top.amax(1, keepdim=True)
    factor = (row_top - column_top).exp_()
    column_sums = factor.mT @ exponentials
    if on_accelerator(scores.device) or not float(column_sums.amin()) > LEAST_SUM:
        column_top, column_sums, of_columns = _exponentials(scores, 1)
        slope = exponentials.div_(row_sums).add_(of_columns.div_(column_sums))
    else:
        slope = exponentials.mul_(1 / row_sums + factor / column_sums)
    of_rows, of_columns = row_sums.log() + row_top, column_sums.log() + column_top
    return of_rows.flatten(1).mean(1) + of_columns.flatten(1).mean(1), slope


def _exponentials(scores: Tensor, axis: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the largest scores along `axis`, the sums of e^(F - largest), and these exponentials (S, n, n)."""
    top = scores.amax(axis, keepdim=True)
    # A CPU finds 2^x in a quarter of the time of e^x.
    exponentials = (scores - top).mul_(1 / math.log(2)).exp2_()
    return top, exponentials.sum(axis, keepdim=True), exponentials


def own(scores: Tensor) -> Tensor:
    """Return the scores (S, n) of the pairs that belong together, the diagonal of (S, n, n)."""
    return scores.diagonal(dim1=1, dim2=2)


def apart(scores: Tensor) -> Tensor:
    """Return the scores (S, n, n) with -inf for pairs that belong together, so that a log-sum-exp leaves them out."""
    return scores.masked_fill(torch.eye(scores.shape[1], dtype=torch.bool, device=scores.device), -math.inf)


def pairs_apart(scores: Tensor) -> int:
    """Return how many pairs of one slice of scores (S, n, n) do not belong together: all but the diagonal."""
    return scores.shape[1] * (scores.shape[1] - 1)


def log_mean_apart(scores: Tensor) -> Tensor:
    """Return log E e^F (S,) over pairs that do not belong together: 0 for the true log ratio."""
    return apart(scores).flatten(1).logsumexp(1) - math.log(pairs_apart(scores))


def smile(scores: Tensor, tau: float) -> Tensor:
    """Return E F - log E clip(e^F, e^-tau, e^tau), (S,) (Song and Ermon 2020, equation 13).

    The first mean is over pairs that belong together, the second over strangers.
    """
    return own(scores).mean(1) - log_mean_apart(scores.clamp(-tau, tau))


def infonce(scores: Tensor) -> Tensor:
    """Return log n - I_NCE (S,), the cross-entropy of choosing y for x and x for y (van den Oord et al. 2018)."""
    return 0.5 * (scores.logsumexp(1).mean(1) + scores.logsumexp(2).mean(1)) - own(scores).mean(1)


def anchor(scores: Tensor) -> Tensor:
    """Return the InfoNCE loss (S,) with "none of these" among the candidates: its optimum is the log ratio itself."""
    # "None" has the score log nu. In n of n + nu cases one of n candidates is the partner, in nu cases all are
    # strangers and "none" is right; n - 1 strangers of the batch then stand for n.
    n = scores.shape[1]
    log_nu = scores.new_full((), math.log(NU))
    with_own = torch.logaddexp(log_nu, scores.logsumexp(2)) - own(scores)
    without = torch.logaddexp(log_nu, apart(scores).logsumexp(2) + math.log(n / (n - 1))) - log_nu
    return (n * with_own.mean(1) + NU * without.mean(1)) / (n + NU)


def jensen_shannon(scores: Tensor) -> Tensor:
    """Return the loss (S,) of a classifier that tells pairs that belong together from others (Nowozin et al. 2016)."""
    of_strangers = torch.nn.functional.softplus(apart(scores)).flatten(1).sum(1) / pairs_apart(scores)
    return torch.nn.functional.softplus(-own(scores)).mean(1) + of_strangers


def nwj(scores: Tensor) -> Tensor:
    """Return -(E F - E e^(F - 1)), (S,): minus the bound of Nguyen, Wainwright and Jordan (2010)."""
    return (log_mean_apart(scores) - 1).exp() - own(scores).mean(1)


def donsker_varadhan(scores: Tensor) -> Tensor:
    """Return -(E F - log E e^F), (S,): minus the bound of Donsker and Varadhan (1983; Belghazi et al. 2018)."""
    return log_mean_apart(scores) - own(scores).mean(1)


LOSSES = {"infonce": infonce, "anchor": anchor, "js": jensen_shannon, "nwj": nwj, "dv": donsker_varadhan}
