"""Likelihood ratios p_j(T) / p_i(T) of samples T of mixture component i, block by block.

With T drawn from component i of a mixture of N Gaussians, the information about the component is

    I = log2 N - E log2 sum_j p_j(T) / p_i(T):

the term j = i is 1, and what the noise of the own component adds to the variance, |z|^2 / 2 s^2, has cancelled.
The noise comes in pairs +z, -z. Since E[p_j / p_i] <= 1, a ratio above 2^100 has a probability below 2^-100:
exponents are cut there, and below where float32 and float64 leave the normal numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from infoplane.core.units import BITS_PER_NAT
from infoplane.estimators._pairwise import (
    CACHED_BYTES,
    CentredRows,
    direct_exponents,
    left_factor,
    right_factor,
)
from infoplane.estimators._spans import Span

_LOWEST = {torch.float32: -125.0, torch.float64: -1020.0}
_HIGHEST = 100.0
# Direct distances carry the noise term -z . (x_i - x_j) to this spread; beyond, unequal rows are apart.
_TILT_REACH = 1e24


@dataclass(frozen=True)
class Start:
    """What the noisy samples of one span of rows need: factors of the products, and the control variate.

    `control` is of known mean 0, (2, pairs, n): polynomials of |z|^2, which the ratios have cancelled.
    """

    base: Tensor
    tilts: list[Tensor]
    control: Tensor


def _control(square: Tensor, dimensions: Tensor | int) -> Tensor:
    """The first two Laguerre polynomials of |z|^2 / 2, orthogonal under its law Gamma(D / 2)."""
    half = dimensions / 2
    c = square / 2 - half
    return torch.stack([c, c * (c - 2) - half])


class Channel(Protocol):
    """Draws noise for a span of rows, then yields the ratios of its samples to the rows of another span."""

    count: int
    dtype: torch.dtype
    device: torch.device
    spread: float

    def start(self, a: Span, generator: torch.Generator) -> Start: ...

    def ratios(self, a: Span, start: Start, b: Span) -> Iterator[Tensor]: ...


class AdditiveChannel:
    """T = x_i + s Z: log p_j / p_i = -(|x_i - x_j|^2 + 2 z . (x_i - x_j)) / 2 s^2."""

    def __init__(
        self,
        rows: Tensor,
        std: float,
        pairs: int,
        *,
        order: Tensor | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self._rows = CentredRows(rows, std, order=order, dtype=dtype, rotate=True)
        self._pairs = pairs
        self.count, self.dtype = self._rows.count, self._rows.dtype
        self.device, self.spread = rows.device, self._rows.spread
        self._apart = self._rows.direct and self.spread > _TILT_REACH
        small = self.dtype.itemsize * self.count * (self._rows.units + 2) <= CACHED_BYTES
        self._right = None
        if small and not self._rows.direct:
            self._right = right_factor(self._rows.take(slice(0, self.count)))
        self._buffers: dict[tuple[int, int], tuple[Tensor, Tensor, Tensor]] = {}

    def _vectors(self, a: Span) -> Tensor:
        v = self._rows.take(a.rows)
        if not self._rows.direct:
            return v
        return torch.zeros_like(v) if self._apart else v * self._rows.ratio

    def start(self, a: Span, generator: torch.Generator) -> Start:
        v = self._vectors(a)
        z = torch.randn((self._pairs, *v.shape), generator=generator, device="cpu").to(v)
        control = _control(z.double().square().sum(2), v.shape[1])
        z *= BITS_PER_NAT**0.5
        shift = (z * v).sum(2, keepdim=True)
        # Times the right factor [w, 1, -|w|^2/2] this is z . (v - w).
        tilts = torch.cat([-z, shift, torch.zeros_like(shift)], dim=2)
        base = self._rows.take(a.rows) if self._rows.direct else left_factor(v)
        return Start(base=base, tilts=list(tilts), control=control)

    def ratios(self, a: Span, start: Start, b: Span) -> Iterator[Tensor]:
        shape = len(a), len(b)
        if shape not in self._buffers:
            new = torch.empty(3, *shape, dtype=self.dtype, device=start.base.device)
            self._buffers[shape] = (new[0], new[1], new[2])
        base, tilt, out = self._buffers[shape]
        right = right_factor(self._vectors(b)) if self._right is None else self._right[b.rows]
        equal = None
        if self._rows.direct:
            direct_exponents(self._rows, start.base, self._rows.take(b.rows), base)
            equal = base == 0
        else:
            torch.mm(start.base, right.T, out=base)
        if a.start == b.start:
            base.fill_diagonal_(0.0)
        low = _LOWEST[self.dtype]
        for factor in start.tilts:
            torch.mm(factor, right.T, out=tilt)
            if equal is not None:
                tilt.masked_fill_(equal, 0.0)
            if a.start == b.start:
                tilt.fill_diagonal_(0.0)
            for combine in (torch.sub, torch.add):
                combine(base, tilt, out=out)
                out.clamp_(low, _HIGHEST)
                yield torch.exp2(out, out=out)


class MultiplicativeChannel:
    """T_d = x_d (1 + s Z_d): components have their own variance in every unit, s^2 x_d^2.

    A unit that is exactly zero stays zero, an atom: samples and components with different zeros never meet,
    those with equal ones are compared over the other units. With u = t / x_j,

        log p_j / p_i = sum_d [z_d^2 - (u_d - 1)^2 / s^2] / 2 - log |x_jd / x_id|.

    Computed in float64; the rounding error is about 1e-16 D / s^2 nats.
    """

    _CUT = 1e75

    def __init__(self, rows: Tensor, std: float, pairs: int, *, order: Tensor | None = None) -> None:
        chosen = (rows if order is None else rows[order]).double()
        largest = float(chosen.abs().max())
        chosen = chosen / largest if largest > 0 else chosen
        self._rows, self._std, self._pairs = chosen, std, pairs
        self.count, self.dtype, self.device = len(chosen), torch.float64, rows.device
        self._alive = (chosen != 0).double()
        self._sparse = bool((self._alive == 0).any())
        inverse = torch.where(chosen != 0, 1 / chosen, 0.0).clamp_(-self._CUT, self._CUT)
        logs = torch.where(chosen != 0, chosen.abs().log(), 0.0).sum(1, keepdim=True)
        scale = -0.5 * BITS_PER_NAT / std**2
        # Times the left factor [t^2, t, 1, offset] this is the exponent.
        self._right = torch.cat(
            [
                scale * inverse.square(),
                -2 * scale * inverse,
                scale * self._alive.sum(1, keepdim=True) - BITS_PER_NAT * logs,
                torch.ones_like(logs),
            ],
            dim=1,
        )
        self._logs = BITS_PER_NAT * logs
        self.spread = float((chosen - chosen[:1]).abs().max())

    def start(self, a: Span, generator: torch.Generator) -> Start:
        x, alive = self._rows[a.rows], self._alive[a.rows]
        z = torch.randn((self._pairs, *x.shape), generator=generator, device="cpu").to(x)
        square = (z.square() * alive).sum(2, keepdim=True)
        offset = 0.5 * BITS_PER_NAT * square + self._logs[a.rows]
        samples = torch.stack([x * (1 + self._std * z), x * (1 - self._std * z)], dim=1).flatten(0, 1)
        offset = offset.repeat_interleave(2, dim=0)
        lefts = torch.cat([samples.square(), samples, torch.ones_like(offset), offset], dim=2)
        control = _control(square[:, :, 0], alive.sum(1))
        return Start(base=alive, tilts=list(lefts), control=control)

    def ratios(self, a: Span, start: Start, b: Span) -> Iterator[Tensor]:
        apart = None
        if self._sparse:
            other = self._alive[b.rows]
            common = start.base @ other.T
            apart = (common != start.base.sum(1, keepdim=True)) | (common != other.sum(1))
        low = _LOWEST[self.dtype]
        for left in start.tilts:
            out = left @ self._right[b.rows].T
            if apart is not None:
                out.masked_fill_(apart, low)
            if a.start == b.start:
                out.fill_diagonal_(0.0)
            out.clamp_(low, _HIGHEST)
            yield torch.exp2(out, out=out)
