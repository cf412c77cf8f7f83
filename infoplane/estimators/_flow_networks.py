"""Networks that carry one side of a pair, at a fixed other side, from its marginal law to its conditional one: those of
all snapshots and folds are trained together.

S are snapshots, F folds, N samples, B draws, R rows that are read; k and m are the coordinates of the side that moves
and of the one that stays; q is the number of values that a method reads.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
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
    """What networks are trained on and read at: rows, each with another row that its way begins at, and a place on it.

    Attributes
    ----------
    rows, others : (F, B) int64
        Row numbers.
    place : (F, B) float32
        Of the way from `others` to `rows`, the share that is behind, in [0, 1).
    """

    rows: Tensor
    others: Tensor
    place: Tensor


class PairNetworks(ABC):
    """Perceptrons on top of the solution for a Gaussian pair, at first adding nothing to it."""

    extra: ClassVar[int]
    """Inputs of the networks beside both sides: where on its way a row is."""
    exact: ClassVar[bool]
    """Whether `read` leaves out the information of the Gaussian start, which is then added exactly."""

    def __init__(self, sides: Sides, rows: Rows, gaussian: bool) -> None:
        """Make networks on top of the solution for a Gaussian pair or, without `gaussian`, for independent sides."""
        self.sides, self.rows, device = sides, rows, sides.moving.device
        snapshots, folds, _, self.width = sides.moving.shape
        self.shape = (snapshots, folds)
        # Moving coordinate i goes with still coordinate i, its partner; 0 where there are fewer still ones.
        partner = sides.still[..., : self.width]
        partner = torch.nn.functional.pad(partner, (0, self.width - partner.shape[3]))
        rho = sides.correlations if gaussian else torch.zeros_like(sides.correlations)
        # Of a Gaussian moving side at the still one: variance 1 - rho^2 (S, F, 1, k), mean rho x (S, F, N, k).
        self.rest = (1 - rho.square())[:, :, None]
        self.mean = rho[:, :, None] * partner
        self.off_mean = sides.moving - self.mean
        self.gaussian = gaussian
        sizes = (self.width + sides.still.shape[3] + self.extra, HIDDEN, HIDDEN, self.width)
        self.stack = Stack(rows.seeds, snapshots, sizes, device)
        with torch.no_grad():
            for first in (self.stack.weights[0], self.stack.biases[0]):
                first.mul_(SHARP)
        self.generators = [torch.Generator().manual_seed(seed + 1) for seed in rows.seeds]
        self.checks = self.drawn(rows.checked, CHECK_DRAWS)

    def added(self, inputs: Tensor) -> Tensor:
        """Return what the networks add to the Gaussian solution, (S, F, B, k), for inputs (S, F, B, in)."""
        return torch.unflatten(self.stack(inputs.flatten(0, 1)), 0, self.shape)

    def places(self, count: int) -> Tensor:
        """Draw places (F, `count`) in [0, 1), one in each of `count` equal parts: means over them err little."""
        u = torch.cat([torch.rand(1, generator=g, device="cpu", dtype=torch.float32) for g in self.generators])
        places: Tensor = (torch.arange(count, device="cpu") + u[:, None]) / count
        return places.to(self.sides.moving.device)

    def drawn(self, rows: Tensor, draws: int) -> Draws:
        """Draw every row of `rows` (F, B) `draws` times, each time with a random other row and another place."""
        count = rows.shape[1]
        shuffles = [
            torch.stack([torch.randperm(count, generator=g, device="cpu") for g in self.generators])
            for _ in range(draws)
        ]
        others = torch.cat([rows.gather(1, s.to(rows.device)) for s in shuffles], 1)
        first = self.places(count)
        # The draws of a row stand at equal distances along the way.
        places = torch.cat([(first + i / draws) % 1 for i in range(draws)], 1)
        return Draws(rows.repeat(1, draws), others, places)

    def loss(self, rows: Tensor) -> Tensor:
        """Return the mean squared error (S F,) over the rows (F, B) of a batch."""
        # Batches come in random order: the row before is a random other one.
        return self.squares(Draws(rows, rows.roll(1, 1), self.places(rows.shape[1]))).mean(2).flatten()

    def criterion(self) -> Tensor:
        """Return the mean squared error (S F,) on the held-out rows by which the step to keep is chosen."""
        return self.mean_squares(self.checks).flatten()

    def mean_squares(self, draws: Draws) -> Tensor:
        """Return the mean squared error (S, F) over draws, found for some of them at a time."""
        return torch.cat([self.squares(part) for part in _parts(draws)], 2).mean(2)

    def overfitted(self) -> Tensor:
        """Return (S,) whether the error is much smaller on rows that were trained on than on those that are read."""
        fewest = min(map(len, self.rows.fitted))
        fitted = torch.stack([rows[:fewest] for rows in self.rows.fitted]).to(self.rows.read.device)
        of_fitted, of_read = (
            self.mean_squares(self.drawn(rows, CHECK_DRAWS)).sum(1) for rows in (fitted, self.rows.read)
        )
        return of_fitted < (1 - LOOSE) * of_read

    @abstractmethod
    def squares(self, draws: Draws) -> Tensor:
        """Return the squared error (S, F, B) of each draw, summed over coordinates."""

    @abstractmethod
    def nats(self, draws: Draws) -> Tensor:
        """Return the nats (S, F, B, q) beyond the Gaussian start that each draw shows, in q ways."""

    def read(self) -> Tensor:
        """Return the nats (S, F, R, q) beyond the Gaussian start of each row that is read: the mean over its draws."""
        draws = self.drawn(self.rows.read, READ_DRAWS)
        # All rows once, then all rows again: (S, F, draws R, q).
        nats = torch.cat([self.nats(part) for part in _parts(draws)], 2)
        return nats.view(*self.shape, READ_DRAWS, -1, nats.shape[3]).mean(2)

    def train(self, plan: TrainingPlan) -> Trained:
        """Train the networks, each to its best step; return what became of them."""
        batches = Batches(self.rows.fitted, self.rows.seeds, plan.batch, self.sides.moving.device)
        return train(self.stack.parameters, self.loss, self.criterion, batches, plan)


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
        """Return the squared error (S, F, B) of the velocity of each draw."""
        t, first, last = self.way(draws)
        if self.gaussian:
            # The networks learn only what the Gaussian velocity leaves, with D the denominator of c:
            #     last - first - rho x - c (z - t rho x) = ((1 - t) (last - rho x) - t q first) / D.
            tq = t * self.rest
            target = ((1 - t) * rows_of(self.off_mean, draws.rows) - tq * first) / ((1 - t).square() + t * tq)
        else:
            target = last - first
        return (self.added(self.inputs(torch.lerp(first, last, t), draws)) - target).square().sum(3)

    def way(self, draws: Draws) -> tuple[Tensor, Tensor, Tensor]:
        """Return the time (F, B, 1), and the moving side (S, F, B, k) where its way begins and where it ends."""
        first, last = (rows_of(self.sides.moving, rows) for rows in (draws.others, draws.rows))
        return draws.place[..., None], first, last

    def inputs(self, z: Tensor, draws: Draws) -> Tensor:
        """Return inputs (S, F, B, k + 2 + m) of the networks: z (S, F, B, k), time, its cosine, and the still side."""
        t = draws.place[..., None].expand(*z.shape[:3], 1)
        return torch.cat([z, t, (math.pi * t).cos(), rows_of(self.sides.still, draws.rows)], 3)

    def nats(self, draws: Draws) -> Tensor:
        """Return minus the divergence (S, F, B, 1) of what networks add: exact in few dimensions, else estimated."""
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
            else:  # (F, B, k), the same for all snapshots
                bits = [torch.randint(2, z.shape[2:], generator=g, device="cpu") for g in self.generators]
                direction = (2 * torch.stack(bits) - 1).to(z).expand_as(z)
            # Time and the still side do not move.
            wide = torch.nn.functional.pad(direction, (0, inputs.shape[2] - self.width))
            slope = torch.unflatten(self.stack.along(wide.flatten(0, 1), slopes), 0, self.shape)
            total += (slope * direction).sum(3)
        return -(total if exact else total / PROBES)[..., None]


class Scores(PairNetworks):
    """Denoising at every ratio of signal to noise: what knowing x takes off the error of a prediction (I-MMSE).

    With l the log of that ratio, y_l = sqrt(sigmoid(l)) y + sqrt(sigmoid(-l)) e. One network predicts e with x and
    without it, and I is half the integral over l of the difference of both errors ("outside"), or of the squared
    difference of both predictions ("inside"), which are equal for the best predictions.
    """

    extra = 3
    exact = False

    def noise(self, draws: Draws, generators: list[torch.Generator]) -> Tensor:
        """Draw standard normal noise (F, B, k) for these draws, the same for all snapshots."""
        shape = (draws.rows.shape[1], self.width)
        drawn = torch.stack([torch.randn(shape, generator=g, device="cpu", dtype=torch.float32) for g in generators])
        return drawn.to(self.sides.moving.device)

    def fixed_noise(self, draws: Draws) -> Tensor:
        """Return noise (F, B, k) that is the same at every call, so that values of two calls can be compared."""
        return self.noise(draws, [torch.Generator().manual_seed(seed + 2) for seed in self.rows.seeds])

    def loss(self, rows: Tensor) -> Tensor:
        """Return the mean squared error (S F,) over the rows (F, B) of a batch, with new noise."""
        draws = Draws(rows, rows, self.places(rows.shape[1]))
        return self._squares(draws, self.noise(draws, self.generators)).mean(2).flatten()

    def squares(self, draws: Draws) -> Tensor:
        """Return the squared error (S, F, B) of the predicted noise, the same noise at every call."""
        return self._squares(draws, self.fixed_noise(draws))

    def _squares(self, draws: Draws, noise: Tensor) -> Tensor:
        """Return the squared error (S, F, B) of the predicted noise; every other draw does not see the still side."""
        shown = (torch.arange(draws.rows.shape[1], device=noise.device) % 2)[:, None].float()
        return (self.predicted(draws, noise, shown) - noise).square().sum(3)

    def predicted(self, draws: Draws, noise: Tensor, shown: Tensor) -> Tensor:
        """Return predictions (S, F, B, k) of the noise; `shown` (B, 1) is 1 for draws that see the still side."""
        ratio = LOG_SNR[0] + (LOG_SNR[1] - LOG_SNR[0]) * draws.place[..., None]  # l, the log of signal to noise
        signal, rest = ratio.sigmoid(), (-ratio).sigmoid()
        y = signal.sqrt() * rows_of(self.sides.moving, draws.rows) + rest.sqrt() * noise
        # Of a Gaussian y with this mean and variance `left` the best prediction of the noise is linear in y_l.
        mean, left = rows_of(self.mean, draws.rows) * shown, 1 - (1 - self.rest) * shown
        start = rest.sqrt() * (y - signal.sqrt() * mean) / (signal * left + rest)
        still = rows_of(self.sides.still, draws.rows) * shown
        level = torch.cat([2 * draws.place[..., None] - 1, signal, shown.expand_as(signal)], 2)
        return start + self.added(torch.cat([y, level.expand(*y.shape[:3], 3), still], 3))

    def nats(self, draws: Draws) -> Tensor:
        """Return nats (S, F, B, 2) from predictions with and without the still side.

        [..., 0] is by the squared difference of both ("inside"), [..., 1] by that of their squared errors ("outside").
        """
        noise = self.fixed_noise(draws)
        shown = noise.new_ones(draws.rows.shape[1], 1)
        known, unknown = self.predicted(draws, noise, shown), self.predicted(draws, noise, 0 * shown)
        inside = (known - unknown).square().sum(3)
        outside = ((unknown - noise).square() - (known - noise).square()).sum(3)
        # Half the integral over the log ratio: its length times the mean over uniform places.
        return 0.5 * (LOG_SNR[1] - LOG_SNR[0]) * torch.stack([inside, outside], 3)


def _parts(draws: Draws) -> list[Draws]:
    """Cut the draws into parts that fit into the cache."""
    return [Draws(*part) for part in zip(*(torch.split(each, _AT_ONCE, 1) for each in draws), strict=True)]
