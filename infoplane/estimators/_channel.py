"""Sample propagation: likelihood ratios p_j(T) / p_i(T) of samples T of mixture component i, block by block, summed.

With T drawn from component i of a mixture of N Gaussians, the information about the component is

    I = log2 N - E log2 sum_j p_j(T) / p_i(T):

the term j = i is 1, and what the noise of the own component adds to the variance, |z|^2 / 2 s^2, has cancelled.
The noise comes in pairs +z, -z. Since E[p_j / p_i] <= 1, a ratio above 2^100 has a probability below 2^-100:
exponents are cut there, and below where float32 and float64 leave the normal numbers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from infoplane.core.units import BITS_PER_NAT
from infoplane.estimators._counting.counts import Scratch
from infoplane.estimators._labels import Span
from infoplane.estimators._pairwise import CentredRows, right_factor

# Limits of log2 of a ratio.
_LOWEST = {torch.float32: -125.0, torch.float64: -1020.0}
_HIGHEST = 100.0
# Direct distances carry the noise term -z . (x_i - x_j) to this spread; beyond, unequal rows are apart.
_TILT_REACH = 1e24


@dataclass(frozen=True)
class Start:
    """What the noisy samples of one span of rows need: factors of the products, and the control variate."""

    base: Tensor  # what all draws have in common
    tilts: list[Tensor]  # of each draw, the left factor of its product with other rows
    control: Tensor  # (2, pairs, n) polynomials of |z|^2 with mean 0: what they err by in these draws is taken off


def _control(square: Tensor, dimensions: Tensor | int) -> Tensor:
    """Return control variates (2, pairs, n) from |z|^2 (pairs, n): Laguerre polynomials of |z|^2 / 2, of mean 0."""
    # Orthogonal under its law, Gamma(D / 2), and scaled by what does not matter.
    half = dimensions / 2
    c = square / 2 - half
    return torch.stack([c, c * (c - 2) - half])


class Channel(ABC):
    """Draws noise for a span of rows, then yields the ratios of its samples to the rows of another span.

    It has `count` rows and makes `pairs` pairs of noisy samples of each; `spread` is 0 exactly if all rows are equal.
    """

    count: int
    pairs: int
    dtype: torch.dtype
    device: torch.device
    spread: float

    @abstractmethod
    def start(self, a: Span, generator: torch.Generator) -> Start:
        """Draw `pairs` pairs of noisy samples (+z and -z) of each row of a span, and return their factors."""

    @abstractmethod
    def exponents(self, a: Span, start: Start, b: Span) -> Iterator[Tensor]:
        """Yield for each draw log2 of the ratios (len(a), len(b)), which the caller may overwrite."""

    def ratios(self, a: Span, start: Start, b: Span) -> Iterator[Tensor]:
        """Yield the ratios (len(a), len(b)) of each draw; asking for the next draw overwrites them."""
        for out in self.exponents(a, start, b):
            if a.start == b.start:
                out.fill_diagonal_(0.0)  # the ratio to the own component is 1
            out.clamp_(_LOWEST[self.dtype], _HIGHEST)
            yield torch.exp2(out, out=out)


class AdditiveChannel(Channel):
    """T = x_i + s Z: log p_j / p_i = -(|x_i - x_j|^2 + 2 z . (x_i - x_j)) / 2 s^2.

    Channels that are not asked for ratios at the same time may share their memory, `scratch`.
    """

    def __init__(
        self,
        rows: Tensor,
        std: float,
        pairs: int,
        *,
        order: Tensor | None = None,
        dtype: torch.dtype | None = None,
        scratch: Scratch | None = None,
    ) -> None:
        """Prepare rows (N, D) in an `order`, with noise of this std, for `pairs` pairs of draws of each."""
        self._rows = CentredRows(rows, std, order=order, dtype=dtype, rotate=True)
        self.pairs = pairs
        self.count, self.dtype = self._rows.count, self._rows.dtype
        self.device, self.spread = rows.device, self._rows.spread
        self._apart = self._rows.direct and self.spread > _TILT_REACH
        self._scratch = scratch or Scratch()

    def _vectors(self, a: Span) -> Tensor:
        """Return rows (n, D) in units of the noise, for z . (x_i - x_j) / s; 0 if unequal rows are too far apart."""
        v = self._rows.take(a.rows)
        if not self._rows.direct:
            return v
        return torch.zeros_like(v) if self._apart else v * self._rows.ratio

    def start(self, a: Span, generator: torch.Generator) -> Start:
        """Draw the noise z of the rows v of a span, and return it as factors [-z, z . v, 0] of products."""
        v = self._vectors(a)
        z = torch.randn((self.pairs, *v.shape), generator=generator, device="cpu").to(v)
        control = _control(z.double().square().sum(2), v.shape[1])
        z *= BITS_PER_NAT**0.5  # as v has this factor, too, products are in log2
        shift = (z * v).sum(2, keepdim=True)
        # Times the right factor [w, 1, -|w|^2/2] this is z . (v - w).
        tilts = torch.cat([-z, shift, torch.zeros_like(shift)], dim=2)
        return Start(base=self._rows.left(a.rows), tilts=list(tilts), control=control)

    def exponents(self, a: Span, start: Start, b: Span) -> Iterator[Tensor]:
        """Yield log2 of the ratios (len(a), len(b)) for +z and -z of each pair of draws."""
        base, tilt, out = self._scratch.view((3, len(a), len(b)), self.dtype, start.base.device)
        right = self._rows.right(b.rows)
        # In log2: base = -|x_i - x_j|^2 / 2 s^2 is the same for every draw, tilt = z . (x_i - x_j) / s is its own.
        self._rows.exponents(start.base, right, base)
        equal = None
        # Distances taken directly are 0 for equal rows; their tilt, a difference of large products, is not.
        if self._rows.direct:
            right, equal = right_factor(self._vectors(b)), base == 0
        for factor in start.tilts:
            torch.mm(factor, right.T, out=tilt)
            if equal is not None:
                tilt.masked_fill_(equal, 0.0)
            for combine in (torch.sub, torch.add):  # the draws z and -z
                yield combine(base, tilt, out=out)


class MultiplicativeChannel(Channel):
    """T_d = x_d (1 + s Z_d): components have their own variance in every unit, s^2 x_d^2.

    A unit that is exactly zero stays zero, an atom: samples and components with different zeros never meet,
    those with equal ones are compared over the other units. With u = t / x_j,

        log p_j / p_i = sum_d [z_d^2 - (u_d - 1)^2 / s^2] / 2 - log |x_jd / x_id|.

    Computed in float64; the rounding error is about 1e-16 D / s^2 nats.
    """

    _CUT = 1e75  # largest 1 / x, whose square is finite

    def __init__(self, rows: Tensor, std: float, pairs: int, *, order: Tensor | None = None) -> None:
        """Prepare the right factors of all rows (N, D); `std` is relative to each value."""
        chosen = (rows if order is None else rows[order]).double()
        largest = float(chosen.abs().max())
        chosen = chosen / largest if largest > 0 else chosen
        self._rows, self._std, self.pairs = chosen, std, pairs
        self.count, self.dtype, self.device = len(chosen), torch.float64, rows.device
        self._alive = (chosen != 0).double()
        self._sparse = bool((self._alive == 0).any())
        inverse = torch.where(chosen != 0, 1 / chosen, 0.0).clamp_(-self._CUT, self._CUT)
        logs = torch.where(chosen != 0, chosen.abs().log(), 0.0).sum(1, keepdim=True)
        scale = -0.5 * BITS_PER_NAT / std**2
        # Times the left factor [t^2, t, 1, offset] this is the exponent.
        self._logs = BITS_PER_NAT * logs
        fixed = scale * self._alive.sum(1, keepdim=True) - self._logs
        self._right = torch.cat([scale * inverse.square(), -2 * scale * inverse, fixed, torch.ones_like(logs)], dim=1)
        self.spread = float((chosen - chosen[:1]).abs().max())

    def start(self, a: Span, generator: torch.Generator) -> Start:
        """Draw noisy samples t, x (1 + s z) and x (1 - s z), of a span; return them as factors [t^2, t, 1, offset]."""
        x, alive = self._rows[a.rows], self._alive[a.rows]
        z = torch.randn((self.pairs, *x.shape), generator=generator, device="cpu").to(x)
        square = (z.square() * alive).sum(2, keepdim=True)
        offset = 0.5 * BITS_PER_NAT * square + self._logs[a.rows]
        samples = torch.stack([x * (1 + self._std * z), x * (1 - self._std * z)], dim=1).flatten(0, 1)
        offset = offset.repeat_interleave(2, dim=0)
        lefts = torch.cat([samples.square(), samples, torch.ones_like(offset), offset], dim=2)
        control = _control(square[:, :, 0], alive.sum(1))
        return Start(base=alive, tilts=list(lefts), control=control)

    def exponents(self, a: Span, start: Start, b: Span) -> Iterator[Tensor]:
        """Yield log2 of the ratios (len(a), len(b)) for each draw; -inf for rows with other zeros."""
        never_meet = None
        if self._sparse:
            # Rows with the same units alive (not 0) have as many in common as each has.
            other = self._alive[b.rows]
            common = start.base @ other.T
            never_meet = (common != start.base.sum(1, keepdim=True)) | (common != other.sum(1))
        for left in start.tilts:
            out = left @ self._right[b.rows].T
            yield out if never_meet is None else out.masked_fill_(never_meet, -torch.inf)


@dataclass
class Samples:
    """log2 sums of ratios for every draw of every row (n), and what belongs to them.

    Attributes
    ----------
    whole, within : (2 pairs, n) float64
        Over all rows, and over the rows of the own class.
    control : (2, pairs, n)
        Control variates.
    null : (shuffles, n) or None
        Over the rows of the own shuffled class, for the first draw.
    """

    whole: Tensor
    within: Tensor
    control: Tensor
    null: Tensor | None


def propagate(
    channel: Channel,
    spans: list[Span],
    label: Tensor,
    generator: torch.Generator,
    *,
    within_only: bool = False,
    shuffled: Tensor | None = None,
    columns: Tensor | None = None,
) -> Samples:
    """Return sums of ratios over all rows and within classes, for `2 * channel.pairs` noisy samples of every row.

    Parameters
    ----------
    spans, label
        Rows sorted by class, as `class_spans` cuts them, and the class of each row.
    within_only : bool
        Leave out pairs of rows of different classes: both sums are then those within classes.
    shuffled : (R, N) int64 or None
        Shuffled labels in the sorted order, for the null.
    columns : (C, N) or None
        In the place of `shuffled`: `null` is then the product of these columns with the ratios, (C, N), no logarithm.
    """
    n, pairs, device = channel.count, channel.pairs, label.device
    # Sums over rows of other classes and of the own one: `within` is needed by itself, both together are the whole.
    across = torch.zeros(2 * pairs, n, dtype=torch.float64, device=device)
    within = torch.zeros_like(across)
    control = torch.zeros(2, pairs, n, dtype=torch.float64, device=device)
    columns = None if columns is None else columns.to(channel.dtype)
    drawn = shuffled if columns is None else columns
    null = None if drawn is None else torch.zeros(len(drawn), n, dtype=torch.float64, device=device)
    for a in spans:
        start = channel.start(a, generator)
        control[:, :, a.rows] = start.control
        for b in spans:
            related = b.low <= a.high and a.low <= b.high  # some row of one span may have the class of one of the other
            if within_only and not related:
                continue
            one_class = a.is_one_class_with(b)
            same = None
            if related and not one_class:
                same = (label[a.rows, None] == label[None, b.rows]).to(channel.dtype)
            for s, ratio in enumerate(channel.ratios(a, start, b)):
                if s == 0 and null is not None and drawn is not None:  # the null is of the first draw
                    if columns is not None:
                        null[:, a.rows].add_(columns[:, b.rows] @ ratio.T)
                    else:
                        own = (ratio * (labels[a.rows, None] == labels[None, b.rows]) for labels in drawn)
                        null[:, a.rows].add_(torch.stack([part.sum(1) for part in own]))
                if same is not None:
                    part = ratio * same
                    within[s, a.rows].add_(part.sum(1))
                    if within_only:
                        continue
                    ratio.sub_(part)
                (within if one_class else across)[s, a.rows].add_(ratio.sum(1))
    return Samples(whole=across.add_(within).log2_(), within=within.log2(), control=control, null=null)


def left_out(channel: Channel, spans: list[Span], generator: torch.Generator) -> Tensor:
    """Return log2 of the sums of ratios to all other rows, (2 pairs, n) float64; -inf where no other row is met."""
    # Sums without the own ratio of 1 may be as small as they like. So exponents are not cut from below, which would
    # enlarge the sums and lower a bound.
    sums = torch.full((2 * channel.pairs, channel.count), -torch.inf, dtype=torch.float64, device=channel.device)
    for a in spans:
        start = channel.start(a, generator)
        for b in spans:
            for s, out in enumerate(channel.exponents(a, start, b)):
                if a.start == b.start:
                    out.fill_diagonal_(-torch.inf)
                part = torch.logsumexp(out.clamp_(max=_HIGHEST).double() / BITS_PER_NAT, 1) * BITS_PER_NAT
                sums[s, a.rows] = torch.logaddexp2(sums[s, a.rows], part)
    return sums


@dataclass
class JointSamples:
    """log2 sums of ratios of T, of Y and of both, (2 pairs, n); `null_*` (shuffles, n) are of the first draw alone."""

    t: Tensor
    y: Tensor
    joint: Tensor
    control: Tensor  # (4, pairs, n)
    null_y: Tensor
    null_joint: Tensor


def propagate_jointly(
    t: Channel, y: Channel, spans: list[Span], generator: torch.Generator, *, shuffled: list[AdditiveChannel]
) -> JointSamples:
    """Return sums of ratios of T, Y and both for noisy samples of every row; `shuffled` are channels of shuffled Y."""
    n, pairs, device = t.count, t.pairs, t.device
    sums = torch.zeros(3, 2 * pairs, n, dtype=torch.float64, device=device)
    control = torch.zeros(4, pairs, n, dtype=torch.float64, device=device)
    null = torch.zeros(2, len(shuffled), n, dtype=torch.float64, device=device)
    for a in spans:
        start_t, start_y = t.start(a, generator), y.start(a, generator)
        control[:, :, a.rows] = torch.cat([start_t.control, start_y.control])
        drawn = [channel.start(a, generator) for channel in shuffled]
        for b in spans:
            both = zip(t.ratios(a, start_t, b), y.ratios(a, start_y, b), strict=True)
            for s, (ratio_t, ratio_y) in enumerate(both):
                if s == 0:  # the null is of the first draw alone
                    for r, (channel, start) in enumerate(zip(shuffled, drawn, strict=True)):
                        other = next(iter(channel.ratios(a, start, b)))
                        null[0, r, a.rows].add_(other.sum(1))
                        null[1, r, a.rows].add_(other.mul_(ratio_t).sum(1))
                sums[0, s, a.rows].add_(ratio_t.sum(1))
                sums[1, s, a.rows].add_(ratio_y.sum(1))
                sums[2, s, a.rows].add_(ratio_y.mul_(ratio_t).sum(1))
    found, null = sums.log2(), null.log2()
    return JointSamples(found[0], found[1], found[2], control, null[0], null[1])


def weigh_draws(values: Tensor, control: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean over draws and rows, and its standard error, () float64 each.

    Parameters
    ----------
    values : (2 pairs, n)
        Draws 2 m and 2 m + 1 have opposite noise.
    control : (k, pairs, n)
        Of known mean 0; a multiple of each is taken off, fitted on the other half of the rows,
        which keeps the mean unbiased.

    Notes
    -----
    Every row has the same number of draws, so only the spread of the pairs about their own row's mean counts;
    with a single pair the spread over rows stands in for it, which is too large.
    """
    pairs = values.view(len(values) // 2, 2, -1).mean(1)
    count, n = pairs.shape
    axis = (0,) if count > 1 else (0, 1)  # about the mean of their row; a single pair about the mean of all rows
    halves = [slice(0, None, 2), slice(1, None, 2)] if n > 1 else [slice(None)]
    total = square = torch.zeros((), dtype=torch.float64, device=values.device)
    for fitted, half in zip(reversed(halves), halves, strict=True):
        rest = _without(pairs[:, half], control[:, :, half], pairs[:, fitted], control[:, :, fitted], axis)
        total = total + rest.sum(1).sum()
        square = square + (rest - rest.mean(axis, keepdim=True)).square().sum(1).sum()
    freedom = max(count * n - (n if count > 1 else len(halves)), 1)  # less one for each mean that was taken off
    return total / pairs.numel(), (square / freedom / pairs.numel()).sqrt()


def _without(value: Tensor, control: Tensor, fit_value: Tensor, fit_control: Tensor, axis: tuple[int, ...]) -> Tensor:
    """Return `value` (pairs, n) less what `control` (k, pairs, n) explains of it.

    The weights are found by least squares on other rows, `fit_value` and `fit_control`, less their means over `axis`.
    """
    # One control after the other is taken off the value and off the controls that follow (Gram-Schmidt), in plain sums
    # by row, which give the same bits on every device and in every block.
    residual = fit_value - fit_value.mean(axis, keepdim=True)
    spread = [c - c.mean(axis, keepdim=True) for c in fit_control]
    left = list(control)
    for k, (direction, known) in enumerate(zip(spread, left, strict=True)):
        norm = direction.square().sum(1).sum()
        norm = torch.where(norm > 0, norm, torch.ones_like(norm))
        weight = (direction * residual).sum(1).sum() / norm
        residual, value = residual - weight * direction, value - weight * known
        for later in range(k + 1, len(spread)):
            share = (direction * spread[later]).sum(1).sum() / norm
            spread[later] = spread[later] - share * direction
            left[later] = left[later] - share * known
    return value
