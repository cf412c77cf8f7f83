"""Rows of cells -> 64-bit keys: exact where a mixed radix fits, linear hashes where it does not.

Two rows get the same key exactly when they are equal, with one reservation. A row of `units` cells out of
`radix` possible ones has `radix**units` states. Where these fit the free bits of the key, the key is the row
written in base `radix` and no collision is possible. Otherwise the key is a tuple of h hashes

    h_i(q) = sum_d m_id q_d  mod p,      m_id uniform in [0, p),   p prime, p > radix, p**h <= 2**free_bits.

Two given rows that differ have h_i(q) = h_i(q') for exactly one value of the multiplier of a unit in which
they differ, so all hashes agree with probability p**-h, and among N rows

    P(any collision) <= N (N - 1) / 2 / p**h,

which is 1e-11 at N = 4096 and 1.2e-9 at N = 50,000 for up to 8 classes. Multipliers come from a fixed seed: the
same rows always give the same keys, and the bound is over the choice of that seed, not against an adversary.

Every partial sum is a whole number below the precision of its floating-point type, so the arithmetic is exact in
any order and on any device.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from infoplane.core.device import on_accelerator

_SEED = 20170302
_EXACT = {torch.float32: 2**24, torch.float64: 2**53}
"""Whole numbers up to which each type is exact."""
_SMALL_HASHES, _SMALL_SLAB = 6, 32
"""Hashes of 10 bits that take the place of two of 30, and units of a product from which they are faster."""


@functools.lru_cache(maxsize=64)
def prime_below(limit: int) -> int:
    """Return the largest prime not above `limit` (at least 2)."""
    candidate = limit
    while any(candidate % d == 0 for d in range(2, math.isqrt(candidate) + 1)):
        candidate -= 1
    return candidate


def label_bits(classes: int) -> int:
    """Return how many low bits hold a label in [0, classes)."""
    return max(classes - 1, 0).bit_length()


def collision_bound(samples: int, units: int, radix: int, classes: int = 1) -> float:
    """Return an upper bound on the probability that any two different rows of one problem share a key."""
    free = 63 - label_bits(classes)  # of a positive int64
    if radix**units <= 2**free:
        return 0.0
    states: int = min(_prime(free, h) ** h for h in (2, _SMALL_HASHES))
    return samples * (samples - 1) / 2 / states


def _prime(free: int, hashes: int) -> int:
    """Return the largest prime p with p**hashes <= 2**free: the modulus if `hashes` hashes have to fit `free` bits."""
    return prime_below(int(2 ** (free / hashes)))


def _multipliers(limit: int, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Return random whole numbers of this shape in [0, limit), the same at every call, in the type of `like`."""
    generator = torch.Generator().manual_seed(_SEED)
    return torch.randint(0, limit, shape, generator=generator, device="cpu", dtype=torch.int64).to(like)


class RowKeys(ABC):
    """Keys for rows of `units` whole numbers in [low, low + radix), with `reserved` low bits for a label.

    Attributes
    ----------
    dtype : torch.dtype
        Of the cells it takes.
    bits : int
        Length of the key with its label.
    offset : float
        Taken off every base.
    """

    dtype = torch.float64
    base_dtype = torch.float64
    bits = 63
    offset = 0.0
    units: int

    def base(self, label: Tensor) -> Tensor:
        """Return what the keys of rows with these labels (rows,) start from: the `base` (rows,) of every call."""
        return label.to(self.base_dtype) - self.offset

    @abstractmethod
    def __call__(self, cells: Tensor, base: Tensor, out: Tensor) -> None:
        """Write key * 2**reserved + label of each row of `cells` (rows, units) to `out`, int64 or int32 (rows,)."""


def row_keys(units: int, radix: int, low: int, reserved: int, device: torch.device) -> RowKeys:
    """Return the fastest keys for rows of `units` cells in [low, low + radix): exact where they fit, else hashes.

    `reserved` low bits are left for a label. Raises ValueError if there are too many different cells for a hash.
    """
    radix = max(radix, 2)
    # Hashes multiply cells as they are, which may be negative: `magnitude` is the largest size of a cell.
    free = 63 - reserved
    if radix**units <= 2**free:
        return RadixKeys(units, radix, low, reserved, device)
    magnitude = max(abs(low), abs(low + radix - 1), 1)
    if not on_accelerator(device) and radix < _prime(free, _SMALL_HASHES):
        small = HashedKeys(units, magnitude, reserved, device, _SMALL_HASHES, torch.float32)
        if small.width >= _SMALL_SLAB:
            return small
    if radix >= _prime(free, 2):
        raise ValueError(f"cells must number less than {_prime(free, 2)}, got {radix}")
    return HashedKeys(units, magnitude, reserved, device, 2, torch.float64)


class RadixKeys(RowKeys):
    """The row as a number in base `radix`."""

    def __init__(self, units: int, radix: int, low: int, reserved: int, device: torch.device) -> None:
        """Choose the type of the products and cut the units into slabs whose sums are exact in it."""
        self.units, self.reserved = units, reserved
        self.bits = ((radix**units << reserved) - 1).bit_length()
        magnitude = max(abs(low), abs(low + radix - 1), 1)
        # Units are taken in slabs whose sum stays exact; a single slab takes the label with it.
        largest = (magnitude * (radix**units - 1) // (radix - 1) + 1) << reserved
        # Cells mostly are float32: those of few units need no wider copy. An accelerator may round products of float32.
        if largest < _EXACT[torch.float32] and not on_accelerator(device):
            self.dtype = self.base_dtype = torch.float32
        exact = _EXACT[self.dtype]
        self.single = largest < exact
        width = units if self.single else 1
        while width < units and magnitude * (radix ** (width + 1) - 1) < exact * (radix - 1):
            width += 1
        self.slabs = [slice(a, min(a + width, units)) for a in range(0, units, width)]
        shift = reserved if self.single else 0
        powers = [[float(radix**k << shift) for k in range(s.stop - s.start)] for s in self.slabs]
        self.weights = torch.tensor([w for part in powers for w in part], dtype=self.dtype, device=device)
        self.scales = [radix ** len(part) for part in powers]
        self.offsets = [float(low) * sum(part) for part in powers]
        self.offset = self.offsets[0] if self.single else 0.0

    def __call__(self, cells: Tensor, base: Tensor, out: Tensor) -> None:
        """Write the key of each row: cells are digits, slab (block of columns) by slab; the label is its low bits."""
        if self.single:
            out.copy_(torch.addmv(base, cells, self.weights))
            return
        for k, slab in enumerate(self.slabs):
            value = torch.mv(cells[:, slab], self.weights[slab]).sub_(self.offsets[k])
            if k == 0:
                out.copy_(value)
            else:
                out.mul_(self.scales[k]).add_(value.to(torch.int64))
        if self.reserved:
            out.bitwise_left_shift_(self.reserved).add_(base.to(torch.int64))


class HashedKeys(RowKeys):
    """A tuple of linear hashes modulo a prime, as one number.

    Two hashes of 30 bits need float64; six of 10 bits fit float32, which needs neither a wider copy of the
    cells nor more multiplications than a product with few columns leaves idle.
    """

    def __init__(
        self, units: int, magnitude: int, reserved: int, device: torch.device, hashes: int, dtype: torch.dtype
    ) -> None:
        """Choose prime and multipliers; `magnitude` is the largest absolute value of a cell."""
        self.units, self.reserved, self.hashes, self.dtype = units, reserved, hashes, dtype
        self.prime = _prime(63 - reserved, hashes)
        # A tensor: a CUDA kernel multiplies by the reciprocal of a Python number.
        self.divisor = torch.tensor(float(self.prime), dtype=dtype, device=device)
        self.width = _EXACT[dtype] // (self.prime * magnitude)  # units of a product whose sum stays exact
        self.slabs = [slice(a, a + self.width) for a in range(0, units, max(self.width, 1))]
        self.weights = _multipliers(self.prime, (hashes, units), self.divisor)

    def __call__(self, cells: Tensor, base: Tensor, out: Tensor) -> None:
        """Write the key of each row: its hashes as digits of one number, and the label as its low bits."""
        # (hashes, rows), reduced after each slab so that the sums stay exact.
        total = self._product(cells, self.slabs[0])
        for slab in self.slabs[1:]:
            total = self._residue(total.add_(self._product(cells, slab)))
        whole = total.to(torch.int64)
        out.copy_(whole[0])
        for k in range(1, self.hashes):
            out.mul_(self.prime).add_(whole[k])
        if self.reserved:
            out.bitwise_left_shift_(self.reserved).add_(base.to(torch.int64))

    def _product(self, cells: Tensor, slab: slice) -> Tensor:
        """Return what the units of a slab (a block of columns) add to each hash, (hashes, rows), modulo the prime."""
        return self._residue(torch.mm(self.weights[:, slab], cells[:, slab].T))

    def _residue(self, value: Tensor) -> Tensor:
        """Return the value modulo the prime, in place."""
        # |value| is exact, so the rounded quotient never reaches the next whole number: its floor is right.
        return value.sub_(torch.div(value, self.divisor).floor_().mul_(self.divisor))


class OneHash(RowKeys):
    """One linear hash of full width: different keys mean different rows, equal keys may be chance."""

    def __init__(self, units: int, radix: int, low: int, device: torch.device) -> None:
        """Draw multipliers as large as keep the sum over all units exact."""
        self.units = units
        magnitude = max(abs(low), abs(low + radix - 1), 1)
        limit = max(_EXACT[self.dtype] // (units * magnitude), 2)
        self.weights = _multipliers(limit, (units,), torch.empty(0, dtype=self.dtype, device=device))

    def __call__(self, cells: Tensor, base: Tensor, out: Tensor) -> None:
        """Write the hash of each row to `out`; `base` is not used, for these keys hold no label."""
        out.copy_(torch.mv(cells, self.weights))
