"""Networks that carry one side of a pair, at a fixed other side, from its marginal law to its conditional one: those of
all snapshots and folds are trained together."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from infoplane.estimators._trained import Batches, Rows, Stack, Trained, TrainingPlan, rows_of, train

HIDDEN, SHARP = 128, 3.0
"""Width, and how much steeper than usual the first layer begins: folded and swirled pairs bend within a unit."""
EXACT, PROBES = 8, 8
"""Dimensions up to which a divergence is exact, and the random directions that it is the mean over beyond."""
CHECK_DRAWS, READ_DRAWS = 8, 16
"""Draws for each row that chooses the step, and that is read."""
LOOSE = 0.25
"""Share of the squared error that own rows may be better by: it scatters by 6 % with 500 rows."""
LOG_SNR = (-6.0, 12.0)
"""Logs of the ratio of signal to noise between which `Scores` integrates."""
_AT_ONCE = 2048
"""Draws that are worked on at a time."""


class Sides(NamedTuple):
    """Both sides of a pair in the coordinates of each snapshot and fold.

    Attributes
    ----------
    moving : (S, F, N, k) float32
    still : (S, F, N, m) float32
    correlations : (S, F, k) float32
        Of moving coordinate i with still coordinate i; 0 where there is no still one.
    """

    moving: Tensor
    still: Tensor
    correlations: Tensor


class Draws(NamedTuple):
    """Draws: numbers of rows (F, B), of other rows that they start from (F, B), and places along the way (F, B)."""

    rows: Tensor
    others: Tensor
    place: Tensor  # in [0, 1)


class PairNetworks(ABC):
    """Perceptrons on top of the solution for a Gaussian pair, at first adding nothing to it."""

    extra: ClassVar[int]
    """Inputs of the networks beside both sides: where on its way a row is."""
    exact: ClassVar[bool]
    """Whether `read` leaves out the information of the Gaussian start, which is then added exactly."""

    def __init__(self, sides: Sides, rows: Rows, start: bool) -> None:
        """Make the networks: with `start` on top of the solution for a Gaussian pair, else for independent sides."""
        self.sides, self.rows, device = sides, rows, sides.moving.device
        snapshots, folds, _, self.width = sides.moving.shape
        self.shape = (snapshots, folds)
        partner = sides.still[..., : self.width]
        partner = torch.nn.functional.pad(partner, (0, self.width - partner.shape[3]))
        rho = sides.correlations if start else torch.zeros_like(sides.correlations)
        # Of a Gaussian moving side at the still one: variance 1 - rho^2 (S, F, 1, k), mean rho x (S, F, N, k).
        self.rest = (1 - rho.square())[:, :, None]
        self.mean = rho[:, :, None] * partner
        self.off_mean = sides.moving - self.mean
        self.start = start
        sizes = (self.width + sides.still.shape[3] + self.extra, HIDDEN, HIDDEN, self.width)
        self.stack = Stack(rows.seeds, snapshots, sizes, device)
        with torch.no_grad():
            for first in (self.stack.weights[0], self.stack.biases[0]):
                first.mul_(SHARP)
        self.generators = [torch.Generator().manual_seed(seed + 1) for seed in rows.seeds]
        self.checks = self.drawn(rows.checked, CHECK_DRAWS)

    def net(self, inputs: Tensor) -> Tensor:
        """What the networks add, (S, F, B, k), from their inputs (S, F, B, in)."""
        return self.apart(self.stack(inputs.flatten(0, 1)))

    def apart(self, out: Tensor) -> Tensor:
        """Numbers (S F, ...) with snapshots and folds as axes of their own, (S, F, ...)."""
        return out.view(*self.shape, *out.shape[1:])

    def places(self, count: int) -> Tensor:
        """Random places (F, `count`) in [0, 1), one in each of `count` equal parts: their mean errs little."""
        u = torch.cat([torch.rand(1, generator=g, device="cpu", dtype=torch.float32) for g in self.generators])
        places: Tensor = (torch.arange(count, device="cpu") + u[:, None]) / count
        return places.to(self.sides.moving.device)

    def drawn(self, rows: Tensor, draws: int) -> Draws:
        """Every row of `rows` (F, B) `draws` times, each time with a random other row and another place."""
        count = rows.shape[1]
        shuffles = [
            torch.stack([torch.randperm(count, generator=g, device="cpu") for g in self.generators])
            for _ in range(draws)
        ]
        others = torch.cat([rows.gather(1, s.to(rows.device)) for s in shuffles], 1)
        first = self.places(count)
        # The draws of a row stand at equal distances along the way.
        turn = torch.cat([(first + i / draws) % 1 for i in range(draws)], 1)
        return Draws(rows.repeat(1, draws), others, turn)

    def loss(self, rows: Tensor) -> Tensor:
        """(S F,) mean squared error over the rows (F, B) of a batch."""
        # Batches come in random order: the row before is a random other one.
        return self.squares(Draws(rows, rows.roll(1, 1), self.places(rows.shape[1]))).mean(2).flatten()

    def criterion(self) -> Tensor:
        """(S F,) mean squared error over the rows that choose the step."""
        return self.mean_of(self.squares, self.checks).flatten()

    def mean_of(self, values: Callable[[Draws], Tensor], draws: Draws) -> Tensor:
        """(S, F) the mean over draws of what the function `values` gives for them, (S, F, B)."""
        return torch.cat([values(part) for part in _parts(draws)], 2).mean(2)

    def loose(self) -> Tensor:
        """(S,) whether the error is much smaller on rows that were trained on than on those that are read."""
        fewest = min(map(len, self.rows.fitted))
        own = torch.stack([rows[:fewest] for rows in self.rows.fitted]).to(self.rows.read.device)
        small, large = (self.mean_of(self.squares, self.drawn(r, CHECK_DRAWS)).sum(1) for r in (own, self.rows.read))
        return small < (1 - LOOSE) * large

    @abstractmethod
    def squares(self, draws: Draws) -> Tensor:
        """(S, F, B) squared error of each draw, summed over coordinates."""

    @abstractmethod
    def read(self) -> Tensor:
        """(S, F, R, q) nats beyond the Gaussian start, of the rows that are read."""

    def train(self, plan: TrainingPlan) -> Trained:
        """Train the networks, each to its best step; returns what became of them."""
        size = min(plan.batch, *map(len, self.rows.fitted))
        batches = Batches(self.rows.fitted, self.rows.seeds, size, self.sides.moving.device)
        return train(self.stack.parameters, self.loss, self.criterion, batches, plan)

    def over_reads(self, draws: Draws, values: list[Tensor]) -> Tensor:
        """(S, F, R, q) means over the draws of each row, from values (S, F, B, q) of all draws, part by part."""
        whole = torch.cat(values, 2)  # all rows once, then all rows again: (S, F, draws R, q)
        return whole.view(*self.shape, -1, self.rows.read.shape[1], whole.shape[3]).mean(2)


class Velocities(PairNetworks):
    """Conditional flow matching: z goes straight from y' of another sample to y, and v is its mean velocity.

    The entropy of z at x grows by E div v, so I = h(Y) - h(Y|X) = - E div v over the way. For a Gaussian pair, where
    each coordinate has correlation rho with its partner x and rest q = 1 - rho^2, the mean velocity is

        rho x + c (z - t rho x),    c = (t q - (1 - t)) / ((1 - t)^2 + t^2 q),    - int c dt = -1/2 log q,

    which is the start; what the networks add to it is read apart, so that the integral has no error of draws.
    """

    extra = 2
    exact = True

    def squares(self, draws: Draws) -> Tensor:
        """(S, F, B) squared error of the velocity of each draw."""
        t, first, last = self.way(draws)
        if self.start:
            # The networks learn only what the Gaussian velocity leaves, with D the denominator of c:
            #     last - first - rho x - c (z - t rho x) = ((1 - t) (last - rho x) - t q first) / D.
            tq = t * self.rest
            target = ((1 - t) * rows_of(self.off_mean, draws.rows) - tq * first) / ((1 - t).square() + t * tq)
        else:
            target = last - first
        return (self.net(self.inputs(torch.lerp(first, last, t), draws)) - target).square().sum(3)

    def way(self, draws: Draws) -> tuple[Tensor, Tensor, Tensor]:
        """Time (F, B, 1), and the moving side (S, F, B, k) where its way begins, and where it ends."""
        of_others, of_rows = (rows_of(self.sides.moving, rows) for rows in (draws.others, draws.rows))
        return draws.place[..., None], of_others, of_rows

    def inputs(self, z: Tensor, draws: Draws) -> Tensor:
        """Inputs (S, F, B, k + 2 + m) of the networks: z (S, F, B, k), time, its cosine, and the still side."""
        t = draws.place[..., None].expand(*z.shape[:3], 1)
        return torch.cat([z, t, (math.pi * t).cos(), rows_of(self.sides.still, draws.rows)], 3)

    def read(self) -> Tensor:
        """(S, F, R, 1) nats of each row: minus the divergence of what the networks add, over the way."""
        draws = self.drawn(self.rows.read, READ_DRAWS)
        return self.over_reads(draws, [-self.divergence(part) for part in _parts(draws)])

    def divergence(self, draws: Draws) -> Tensor:
        """(S, F, B, 1) divergence of what the networks add: exact in few dimensions, else an estimate."""
        t, first, last = self.way(draws)
        z = torch.lerp(first, last, t)
        inputs = self.inputs(z, draws).flatten(0, 1)
        slopes, total = self.stack.slopes(inputs), z.new_zeros(z.shape[:3])
        # div v is the sum of e_i . J e_i over axes e_i, or the mean of d . J d over random directions d of +-1.
        exact = self.width <= EXACT
        for i in range(self.width if exact else PROBES):
            if exact:
                direction = torch.zeros_like(z)
                direction[..., i] = 1.0
            else:
                shape = (*z.shape[2:],)  # (B, k), the same for all snapshots
                bits = [torch.randint(2, shape, generator=g, device="cpu") for g in self.generators]
                direction = (2 * torch.stack(bits) - 1).to(z).expand_as(z)
            # Time and the still side do not move.
            wide = torch.nn.functional.pad(direction, (0, inputs.shape[2] - self.width))
            slope = self.apart(self.stack.along(wide.flatten(0, 1), slopes))
            total += (slope * direction).sum(3)
        return (total if exact else total / PROBES)[..., None]


class Scores(PairNetworks):
    """Denoising at every ratio of signal to noise: what knowing x takes off the error of a prediction (I-MMSE).

    With l the log of that ratio, y_l = sqrt(sigmoid(l)) y + sqrt(sigmoid(-l)) e. One network predicts e with x and
    without it, and I is half the integral over l of the difference of both errors ("outside"), or of the squared
    difference of both predictions ("inside"), which are equal for the best predictions.
    """

    extra = 3
    exact = False

    def noise(self, draws: Draws, generators: list[torch.Generator]) -> Tensor:
        """Standard normal noise (F, B, k) for these draws, the same for all snapshots."""
        shape = (draws.rows.shape[1], self.width)
        drawn = torch.stack([torch.randn(shape, generator=g, device="cpu", dtype=torch.float32) for g in generators])
        return drawn.to(self.sides.moving.device)

    def fixed(self, draws: Draws) -> Tensor:
        """(F, B, k) the same noise at every call."""
        return self.noise(draws, [torch.Generator().manual_seed(seed + 2) for seed in self.rows.seeds])

    def loss(self, rows: Tensor) -> Tensor:
        """(S F,) mean squared error over the rows (F, B) of a batch, with new noise."""
        draws = Draws(rows, rows, self.places(rows.shape[1]))
        return self._squares(draws, self.noise(draws, self.generators)).mean(2).flatten()

    def squares(self, draws: Draws) -> Tensor:
        """(S, F, B) squared error of the predicted noise, the same noise at every call."""
        return self._squares(draws, self.fixed(draws))

    def _squares(self, draws: Draws, noise: Tensor) -> Tensor:
        """(S, F, B) squared error of the predicted noise."""
        # Every other row is denoised with the still side, the rest without.
        shown = (torch.arange(draws.rows.shape[1], device=noise.device) % 2)[:, None].float()
        return (self.predicted(draws, noise, shown) - noise).square().sum(3)

    def predicted(self, draws: Draws, noise: Tensor, shown: Tensor) -> Tensor:
        """(S, F, B, k) predictions of the noise; `shown` (B, 1) says which see the still side."""
        ratio = LOG_SNR[0] + (LOG_SNR[1] - LOG_SNR[0]) * draws.place[..., None]
        signal, rest = ratio.sigmoid(), (-ratio).sigmoid()
        y = signal.sqrt() * rows_of(self.sides.moving, draws.rows) + rest.sqrt() * noise
        # Of a Gaussian y with this mean and variance `left` the best prediction of the noise is linear in y_l.
        mean, left = rows_of(self.mean, draws.rows) * shown, 1 - (1 - self.rest) * shown
        start = rest.sqrt() * (y - signal.sqrt() * mean) / (signal * left + rest)
        still = rows_of(self.sides.still, draws.rows) * shown
        level = torch.cat([2 * draws.place[..., None] - 1, signal, shown.expand_as(signal)], 2)
        return start + self.net(torch.cat([y, level.expand(*y.shape[:3], 3), still], 3))

    def read(self) -> Tensor:
        """(S, F, R, 2) nats of each row, inside and outside."""
        draws = self.drawn(self.rows.read, READ_DRAWS)
        return self.over_reads(draws, [self._both(part) for part in _parts(draws)])

    def _both(self, draws: Draws) -> Tensor:
        """(S, F, B, 2) nats of each draw: from both predictions ("inside"), and from both errors ("outside")."""
        noise = self.fixed(draws)
        ones = noise.new_ones(draws.rows.shape[1], 1)
        known, unknown = self.predicted(draws, noise, ones), self.predicted(draws, noise, 0 * ones)
        inside = (known - unknown).square().sum(3)
        outside = ((unknown - noise).square() - (known - noise).square()).sum(3)
        # Half the integral over the log ratio: its length times the mean over uniform places.
        return 0.5 * (LOG_SNR[1] - LOG_SNR[0]) * torch.stack([inside, outside], 3)


def _parts(draws: Draws) -> list[Draws]:
    """The draws in parts that fit into the cache."""
    return [Draws(*part) for part in zip(*(torch.split(each, _AT_ONCE, 1) for each in draws), strict=True)]
