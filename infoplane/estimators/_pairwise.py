"""Sums of Gaussian kernels over all pairs of rows, block by block: nothing N x N is ever stored.

For rows x_1 .. x_N and a noise std s, the entropy bounds of Kolchinsky and Tracey need, for every row i,

    narrow_i = sum_j exp(-|x_i - x_j|^2 / 2 s^2)       (KL, upper bound)
    wide_i   = sum_j exp(-|x_i - x_j|^2 / 8 s^2)       (Bhattacharyya, lower bound)

over all rows and over the rows of the same class. One power of two per pair serves both, for the narrow
kernel is the fourth power of the wide one. Every sum holds its own term 1, so no running maximum is needed.
Rows come sorted by class and in blocks cut at class borders, so that most blocks lie within or outside a
class as a whole; blocks (a, b) and (b, a) are one block. Exponents are Gram products of centred rows,

    [v, -|v|^2/2, 1] . [w, 1, -|w|^2/2] = -|v - w|^2 / 2.

Their rounding error grows with the spread q = max |x - mean|^2 / 8 s^2: float32 errs by less than 1e-6 q nats and is
used for float32 rows up to q = 1e3; float64 by less than 1e-16 q, used up to q = 1e12; beyond, the
distances are taken directly.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from infoplane.core.units import BITS_PER_NAT
from infoplane.estimators._counting.counts import Scratch
from infoplane.estimators._labels import Span, block_size, class_spans

FLOAT32_REACH = 1e3
GRAM_REACH = 1e12
"""Largest spread q for products in float32, and for products at all."""
# Powers of two below these would leave the normal numbers at their fourth power; denormals are many times
# slower, and what is cut off is below 4e-10 (float32) and 1e-76 (float64) beside a sum of at least 1.
_FLOOR = {torch.float32: -31.0, torch.float64: -252.0}
CACHED_BYTES = 16 << 20
"""Up to this size centred rows are kept, beyond it they are made anew for each block."""


def float32_is_exact(device: torch.device) -> bool:
    """Return whether float32 products keep all digits: they do not where a script has allowed TF32 or bfloat16."""
    backend = torch.backends.cuda.matmul if device.type == "cuda" else getattr(torch.backends.mkldnn, "matmul", None)
    precision = getattr(backend, "fp32_precision", None)
    if precision is None:  # torch before 2.9
        return torch.get_float32_matmul_precision() == "highest"
    return precision not in ("tf32", "bf16")


class CentredRows:
    """Rows of one snapshot in units of the noise, centred, in the precision that their spread asks for.

    Parameters
    ----------
    rows : (N, D) float32 or float64
    std : float
        Noise std in the units of the rows, positive.
    order : (N',) int64 or None
        Which rows, in which order.
    extra : (N, k) float64 or None
        Further coordinates, already in units of their noise: the targets of a joint mixture.
    wide : bool
        Whether the wide kernel is wanted beside the narrow one: with f = 1/2, else 1, `take` gives
        v = sqrt(log2 e) * f * (x - centre) / std, so that 2^(-|v - v'|^2 / 2) is exp(-f^2 |x - x'|^2 / 2 std^2).
    dtype : torch.float32, torch.float64 or None
        None chooses: float64 for float64 rows, otherwise by the spread.
    rotate : bool
        Turn at least twice as many units as rows into the span of the rows: as many units as rows.

    Attributes
    ----------
    spread : float
        q = f^2 max |x - mean|^2 / 2 std^2; 0 exactly when all rows are equal.
    direct : bool
        Distances cannot be Gram products: `take` leaves the multiplication with `ratio` to its user.
    keeps_right : bool
        Whether the right factors of all rows are made once.
    """

    def __init__(
        self,
        rows: Tensor,
        std: float,
        *,
        order: Tensor | None = None,
        extra: Tensor | None = None,
        wide: bool = False,
        dtype: torch.dtype | None = None,
        rotate: bool = False,
    ) -> None:
        """Centre and scale the rows, and choose the precision by their spread."""
        self._rows, self._order, self.wide = rows, order, wide
        factor = 0.5 if wide else 1.0  # f
        self.count = len(rows) if order is None else len(order)
        self.device = rows.device
        # A power of two brings the largest value to [0.5, 1), so that 1e300 and denormals are ordinary
        # numbers; two factors, for the smallest denormal needs 2^1074.
        exponent = -math.frexp(float(torch.maximum(rows.max(), -rows.min())))[1]
        self._scale = (math.ldexp(1.0, exponent // 2), math.ldexp(1.0, exponent - exponent // 2))
        # The std on the same scale, within limits by which all divisions stay in the range of float64.
        noise = min(max(std * self._scale[0] * self._scale[1], 1e-290), 1e150)
        self._extra = None if extra is None else extra * noise
        self.units = rows.shape[1] + (0 if extra is None else extra.shape[1])
        cached = 8 * self.count * self.units <= CACHED_BYTES
        self._step = self.count if cached else max(1, (1 << 20) // (8 * self.units))  # rows in 1 MiB
        # Centring on a row first makes a constant unit exactly zero.
        self._centre = torch.zeros(self.units, dtype=torch.float64, device=rows.device)
        self._centre = self._raw(slice(0, 1))[0].clone()
        total = torch.zeros_like(self._centre)
        for part in self._parts():
            total += self._raw(part).sum(0)
        self._centre += total / self.count
        largest = max(float(self._raw(part).square().sum(1).max()) for part in self._parts())
        root = factor * math.sqrt(largest / 2) / noise
        self.spread = root**2 if root < 1e150 else math.inf  # the square of more would overflow
        self.direct = self.spread > GRAM_REACH
        if self.direct:
            dtype = torch.float64
        elif dtype is None:
            fine = rows.dtype == torch.float64 or self.spread > FLOAT32_REACH
            dtype = torch.float64 if fine or not float32_is_exact(rows.device) else torch.float32
        self.dtype = dtype
        self.ratio = math.sqrt(BITS_PER_NAT) * factor / noise
        self._cache = None
        if rotate and self.units >= 2 * self.count and not self.direct:
            self._cache = self._turned().mul_(self.ratio).to(self.dtype)
            self.units = self.count
        elif cached:
            self._cache = self._scaled(slice(0, self.count))
        self.keeps_right = not self.direct and self.dtype.itemsize * self.count * (self.units + 2) <= CACHED_BYTES
        self._right: Tensor | None = None

    def _turned(self) -> Tensor:
        """Return coordinates (count, count) of the rows in an orthonormal basis of their span."""
        # R of the QR decomposition of the transposed rows, which takes in `count` units at a time.
        r = self._centre.new_zeros(0, self.count)
        for start in range(0, self.units, self.count):
            part = self._raw(slice(0, self.count), slice(start, start + self.count))
            r = torch.linalg.qr(torch.cat([r, part.T]), mode="r").R
        return r.T.contiguous()

    def _parts(self) -> Iterator[slice]:
        """Yield slices of all rows, each of as many as are made in float64 at a time."""
        return (slice(i, min(i + self._step, self.count)) for i in range(0, self.count, self._step))

    def _raw(self, part: slice, units: slice = slice(None)) -> Tensor:
        """Return some rows (n, D), in the order asked for, brought near 1 and centred, in float64."""
        chosen = part if self._order is None else self._order[part]
        raw = self._rows[:, units][chosen].double() * self._scale[0] * self._scale[1]
        if self._extra is not None:
            raw = torch.cat([raw, self._extra[chosen]], dim=1)
        return raw - self._centre[units]

    def _scaled(self, part: slice) -> Tensor:
        """Return centred rows (n, D) times `ratio` (not where distances are `direct`), in the type of the products."""
        raw = self._raw(part)
        return (raw if self.direct else raw.mul_(self.ratio)).to(self.dtype)

    def reordered(self, order: Tensor) -> CentredRows:
        """Return these rows in another order: `order` (count,) says which one stands at each place."""
        other = copy.copy(self)
        other._order = order if self._order is None else self._order[order]
        other._cache, other._right = None if self._cache is None else self._cache[order], None
        return other

    def take(self, part: slice) -> Tensor:
        """Return the centred and scaled rows `part` (n, D), kept from before or made anew."""
        return self._scaled(part) if self._cache is None else self._cache[part]

    def left(self, part: slice) -> Tensor:
        """Return the left factor (n, D + 2) of some rows v, [v, -|v|^2/2, 1]; the rows where distances are `direct`."""
        v = self.take(part)
        if self.direct:
            return v
        norms = half_norms(v)
        return torch.cat([v, -norms, torch.ones_like(norms)], dim=1)

    def right(self, part: slice) -> Tensor:
        """Return the right factor (n, D + 2) of some rows v, [v, 1, -|v|^2/2]; the rows if distances are `direct`."""
        if not self.keeps_right:
            return self.take(part) if self.direct else right_factor(self.take(part))
        if self._right is None:
            self._right = right_factor(self.take(slice(0, self.count)))
        return self._right[part]

    def exponents(self, left: Tensor, right: Tensor, out: Tensor) -> Tensor:
        """Write -|v - w|^2 / 2 to `out` (n, m), for the rows v of a `left` factor and w of a `right` one."""
        if not self.direct:
            return torch.mm(left, right.T, out=out)
        distances = torch.cdist(left, right, compute_mode="donot_use_mm_for_euclid_dist")
        return torch.mul(distances, self.ratio, out=out).square_().mul_(-0.5)


def half_norms(v: Tensor) -> Tensor:
    """Return half of the squared length (n, 1) of rows v (n, D), which are rounded to their type already."""
    return v.double().square().sum(1, keepdim=True).mul_(0.5).to(v.dtype)


def right_factor(v: Tensor) -> Tensor:
    """Return the right factor (n, D + 2) of rows v (n, D), [v, 1, -|v|^2/2], for products that are exponents."""
    norms = half_norms(v)
    return torch.cat([v, torch.ones_like(norms), -norms], dim=1)


class PairKernel:
    """Blocks of the wide and narrow kernel over centred rows, in buffers that the next block overwrites.

    The wide kernel is 2^(-|v_i - v_j|^2 / 2) of the given rows and the narrow one its fourth power; for rows that are
    not `wide` the first is called narrow and is the only one.
    """

    def __init__(self, rows: CentredRows, largest: int) -> None:
        """Make a buffer for spans of at most `largest` rows, and find the least exponent that is let in."""
        self._rows, self.kinds, self._scratch = rows, 2 if rows.wide else 1, Scratch()
        # Made at its full size now, since a buffer that grows takes up memory twice while it does.
        self._scratch.view((self.kinds, largest, largest), rows.dtype, rows.device)
        # The fourth power of what is above this floor is a normal number; the narrow kernel alone needs no such power.
        self._floor = _FLOOR[rows.dtype] * (1.0 if rows.wide else 4.0)

    def block(self, a: Span, left: Tensor, b: Span, right: Tensor) -> Tensor:
        """Return the kernels (2 or 1, len(a), len(b)), wide before narrow, of rows of two spans by their factors."""
        both = self._scratch.view((self.kinds, len(a), len(b)), self._rows.dtype, self._rows.device)
        out = self._rows.exponents(left, right, both[0]).clamp_(self._floor, 0.0)
        if a.start == b.start:
            out.fill_diagonal_(0.0)  # a row and itself, whose distance rounding may have moved
        torch.exp2(out, out=out)
        if self.kinds == 2:
            torch.mul(out, out, out=both[1])
            both[1].mul_(both[1])
        return both


@dataclass
class KernelSums:
    """Row sums of the two kernels, float64, in the order of the rows that were asked for.

    Attributes
    ----------
    narrow, wide : (N,)
        Over all rows; over the own class where only pairs within classes were asked for.
    narrow_within, wide_within : (N,)
        Over the rows of the own class. Of rows that are not `wide` the wide ones are the narrow ones.
    columns : (C, N) or None
        The given columns times the narrow kernel.
    """

    narrow: Tensor
    narrow_within: Tensor
    wide: Tensor
    wide_within: Tensor
    columns: Tensor | None


def kernel_sums(
    rows: CentredRows,
    counts: Sequence[int],
    *,
    columns: Tensor | None = None,
    within_only: bool = False,
    size: int | None = None,
) -> KernelSums:
    """Return sums over j of the narrow and wide kernels between rows i and j, over all rows and within classes.

    Parameters
    ----------
    counts : sequence of int
        Rows of each class, in the order of the rows; one class is `[N]`.
    columns : (C, N) or None
        In the order of the rows; `columns` of the result is their product with the narrow kernel, (C, N).
    within_only : bool
        Visit pairs within classes only.
    size : int or None
        Rows of a block.
    """
    n, device, spans = rows.count, rows.device, class_spans(counts, size or block_size(rows.device))
    kernel = PairKernel(rows, max(map(len, spans)))
    across = torch.zeros(kernel.kinds, n, dtype=torch.float64, device=device)
    within = torch.zeros_like(across)
    product = None
    if columns is not None:
        product = torch.zeros(len(columns), n, dtype=torch.float64, device=device)
        columns = columns.to(rows.dtype)
    label = torch.repeat_interleave(torch.tensor(list(counts), device=device), output_size=n)
    # `across` has the sums over pairs of unlike classes, `within` those of one class: each pair goes into one of them.
    for a, left, b, right in _pairs_of_spans(rows, spans, within_only):
        k = kernel.block(a, left, b, right)
        if product is not None and columns is not None:
            product[:, a.rows].add_(columns[:, b.rows] @ k[-1].T)
            if a is not b:
                product[:, b.rows].add_(columns[:, a.rows] @ k[-1])
        one_class = a.is_one_class_with(b)
        if a.meets(b) and not one_class:  # several classes in one block
            part = k * (label[a.rows, None] == label[None, b.rows]).to(k.dtype)
            _add_sums(within, part, a, b)
            if within_only:
                continue
            k.sub_(part)
        _add_sums(within if one_class else across, k, a, b)
    whole = across.add_(within)
    return KernelSums(whole[-1], within[-1], whole[0], within[0], product)


def _add_sums(sums: Tensor, block: Tensor, a: Span, b: Span) -> None:
    """Add a block (kinds, len(a), len(b)) to the `sums` (kinds, N): over columns for rows of `a`, and back for `b`."""
    sums[:, a.rows].add_(block.sum(2))
    if a is not b:
        sums[:, b.rows].add_(block.sum(1))


def _pairs_of_spans(
    rows: CentredRows, spans: Sequence[Span], within_only: bool
) -> Iterator[tuple[Span, Tensor, Span, Tensor]]:
    """Yield every pair of spans once, the first not after the second: a, its left factor, b, its right factor.

    With `within_only`, pairs of spans without a common class are left out.
    """
    # Rows whose right factors are not kept make them once for as many left factors as can be held.
    held_bytes = rows.dtype.itemsize * (rows.units + 2) * max(len(span) for span in spans)
    step = 1 if rows.keeps_right else max(1, CACHED_BYTES // 2 // held_bytes)
    for i in range(0, len(spans), step):
        held = [(a, rows.left(a.rows)) for a in spans[i : i + step]]
        for b in spans[i:]:
            if within_only and not held[-1][0].meets(b):
                break
            right = rows.right(b.rows)
            for a, left in held:
                if a.start <= b.start and (a.meets(b) or not within_only):
                    yield a, left, b, right
