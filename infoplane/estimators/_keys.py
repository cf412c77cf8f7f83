"""Rows of cells -> 64-bit keys: exact where a mixed radix fits, two linear hashes where it does not.

Two rows get the same key exactly when they are equal, with one reservation. A row of `units` cells out of
`radix` possible ones has `radix**units` states. Where these fit the free bits of the key, the key is the row
written in base `radix` and no collision is possible. Otherwise the key is the pair (h1, h2) of

    h_i(q) = sum_d m_id q_d  mod p,      m_id uniform in [0, p),   p prime, p**2 <= 2**free_bits.

Two given rows that differ have h(q) = h(q') for exactly one value of the multiplier of a unit in which they
differ, so both hashes agree with probability p**-2, and among N rows

    P(any collision) <= N (N - 1) / 2 / p**2,

which is 7e-12 at N = 4096 and 1e-9 at N = 50,000 for up to 8 classes. Multipliers come from a fixed seed: the
same rows always give the same keys, and the bound is over the choice of that seed, not against an adversary.

Every partial sum is a whole number below 2**53, so float64 arithmetic is exact in any order and on any
device: CPU and GPU produce equal keys.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

EXACT = 2**53
_SEED = 20170302


@functools.lru_cache(maxsize=64)
def prime_below(limit: int) -> int:
    """The largest prime not above `limit` (at least 2)."""
    candidate = limit
    while any(candidate % d == 0 for d in range(2, math.isqrt(candidate) + 1)):
        candidate -= 1
    return candidate


def label_bits(classes: int) -> int:
    """Low bits that hold a label in [0, classes)."""
    return max(classes - 1, 0).bit_length()


def collision_bound(samples: int, units: int, radix: int, classes: int = 1) -> float:
    """Upper bound on the probability that any two different rows of one problem share a key."""
    free = 63 - label_bits(classes)
    if radix**units <= 2**free:
        return 0.0
    return samples * (samples - 1) / 2 / prime_below(math.isqrt(2**free)) ** 2


class RowKeys:
    """Keys for rows of `units` whole numbers in [low, low + radix), with `reserved` low bits for a label.

    Parameters
    ----------
    units, radix, low : int
    reserved : int
        Bits of the label.
    device : torch.device

    Attributes
    ----------
    exact : bool
        No two different rows can share a key.
    bits : int
        Length of the key with its label.
    """

    def __init__(self, units: int, radix: int, low: int, reserved: int, device: torch.device) -> None:
        self.units, self.reserved = units, reserved
        free = 63 - reserved
        radix = max(radix, 2)
        magnitude = max(abs(low), abs(low + radix - 1), 1)
        self.exact = radix**units <= 2**free
        self.bits = ((radix**units << reserved) - 1).bit_length() if self.exact else 63
        # Units are taken in slabs whose sum stays below 2**53; a single slab takes the label with it.
        self.single = self.exact and (magnitude * (radix**units - 1) // (radix - 1) + 1) << reserved < EXACT
        if self.exact:
            width = units if self.single else 1
            while width < units and magnitude * (radix ** (width + 1) - 1) < EXACT * (radix - 1):
                width += 1
            counts = [min(width, units - a) for a in range(0, units, width)]
            shift = reserved if self.single else 0
            powers = [[float(radix**k << shift) for k in range(n)] for n in counts]
            self.weights = torch.tensor([w for part in powers for w in part], dtype=torch.float64, device=device)[None]
            self.scales = [radix**n for n in counts]
            self.offsets = [float(low) * sum(part) for part in powers]
        else:
            self.prime = prime_below(math.isqrt(2**free))
            if radix > self.prime:
                raise ValueError(f"cells must number at most {self.prime}, got {radix}")
            width = EXACT // (self.prime * magnitude)
            self.divisor = torch.tensor(float(self.prime), dtype=torch.float64, device=device)
            generator = torch.Generator().manual_seed(_SEED)
            multipliers = torch.randint(0, self.prime, (2, units), generator=generator, dtype=torch.int64)
            self.weights = multipliers.to(torch.float64).to(device)
        self.slabs = [slice(a, min(a + width, units)) for a in range(0, units, width)]

    def base(self, label: Tensor) -> Tensor:
        """(rows,) float64 to give to every call for rows with these labels."""
        return label.to(torch.float64) - (self.offsets[0] if self.single else 0.0)

    def __call__(self, cells: Tensor, base: Tensor, out: Tensor) -> None:
        """Write key * 2**reserved + label of each row of `cells` (rows, units) float64 to `out` (rows,).

        `out` is int64, or int32 for keys of at most 31 bits.
        """
        if self.single:
            out.copy_(torch.addmv(base, cells, self.weights[0]))
            return
        if self.exact:
            for k, slab in enumerate(self.slabs):
                value = torch.mv(cells[:, slab], self.weights[0, slab]).sub_(self.offsets[k])
                if k == 0:
                    out.copy_(value)
                else:
                    out.mul_(self.scales[k]).add_(value.to(torch.int64))
        else:
            out.copy_(self._hash(cells, 0))
            out.mul_(self.prime).add_(self._hash(cells, 1).to(torch.int64))
        if self.reserved:
            out.bitwise_left_shift_(self.reserved).add_(base.to(torch.int64))

    def _hash(self, cells: Tensor, i: int) -> Tensor:
        total = self._residue(torch.mv(cells[:, self.slabs[0]], self.weights[i, self.slabs[0]]))
        for slab in self.slabs[1:]:
            total = self._residue(total.add_(self._residue(torch.mv(cells[:, slab], self.weights[i, slab]))))
        return total

    def _residue(self, value: Tensor) -> Tensor:
        # |value| <= 2**53, so the rounded quotient never reaches the next whole number: its floor is exact.
        # The divisor is a tensor because a CUDA kernel multiplies by the reciprocal of a Python number.
        return value.sub_(torch.div(value, self.divisor).floor_().mul_(self.divisor))
