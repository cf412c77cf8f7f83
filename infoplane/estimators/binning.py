"""Equal-width binning: the estimator of the first information planes, without its traps."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from infoplane.estimators._corrections import check_corrections
from infoplane.estimators._counts import CHUNK_ELEMENTS, Labels
from infoplane.estimators._discrete import plug_in, quantities
from infoplane.estimators._protocol import (
    ALL_GUARANTEES,
    Blocks,
    Quantity,
    check_inputs,
    prepared,
    refuse_nonfinite,
)
from infoplane.estimators._registry import preset, register

# A per-unit range of more units than this is recorded by its digest.
RECORDED_UNITS = 32
_MAX_RADIX = 65_536


@register
@dataclass(frozen=True, kw_only=True)
class Binning:
    """Plug-in mutual information after equal-width binning of every unit.

    A sample's code is its row of cells. A deterministic layer then has I(X;T) = H(code), a property of the
    binning as much as of the network: finer bins or more units raise it until every sample has a code of its
    own, where it is log2 N and I(T;Y) is H(Y) whatever the layer has learned (flag `saturated`). The null, the
    same I(T;Y) with shuffled labels, shows how much of it that is.

    Cell of a value: floor((t - lo) / width) in the layer's own floating-point type (float16 and bfloat16 are
    widened to float32 first), width = (hi - lo) / n_bins; `hi` belongs to the last cell. A value within one
    rounding of an edge may fall on either side of it.

    Parameters
    ----------
    n_bins : int
        Cells per unit between the outer edges, at least 2.
    width : float or None
        Instead of `n_bins` and `range`: cells floor(t / width), unbounded, in the units of T.
    range : (float, float), "layer", "snapshot" or "unit"
        Outer edges in the units of T: fixed; the layer's smallest and largest value over the run, found by
        `prepare` (without it, over the block given); those of each snapshot, which makes growth of the
        activations invisible; those of each unit over the run. Values beyond the edges have one cell below
        and one above, and raise the flag `out_of_range`.
    top : "closed" or "open"
        Whether `hi` itself belongs to the last cell, or with everything above it to a cell of its own, as
        saturated units have in Shwartz-Ziv and Tishby's code.
    rounding : "floor" or "nearest"
        "nearest" places n_bins + 1 cells around the levels lo + k width: for an activation quantised to
        these levels the counts are exact (Lorenzen et al.).
    corrections : tuple of str
        Bias-corrected entropies as further quantities ("I(T;Y) miller-madow"): miller-madow, jackknife,
        grassberger, chao-shen, chao-wang-jost. I(X;T) is corrected where every row has its own input.
    null_draws : int
        Shuffles of the labels for "I(T;Y) null"; 0 switches it off.
    seed : int
        Of the shuffles.
    run_range
        Found by `prepare` for "layer" and "unit": (lo, hi); one pair per unit; or the digest of those pairs
        for more than 32 units (the pairs themselves stay with the object).

    Raises
    ------
    ValueError
        For settings or input outside what is stated here.

    Notes
    -----
    Rows with equal `x_ids` are the same input: I(X;T) = H(X) + H(T) - H(X,T). Repeated passes of a noisy layer
    enter this way; every input then needs the same number of passes for H(X) to be that of the probe.

    References
    ----------
    Shwartz-Ziv and Tishby, "Opening the black box of deep neural networks via information", 2017.
    Saxe et al., "On the information bottleneck theory of deep learning", 2018.
    Lorenzen, Igel and Nielsen, "Information bottleneck: exact analysis of (quantized) neural networks", 2022.

    Examples
    --------
    >>> y = torch.tensor([0, 1]).repeat(50)
    >>> t = (2.0 * y - 1.0)[None, :, None]        # 1 snapshot, 100 samples, 1 unit
    >>> float(Binning(n_bins=2, range=(-1, 1)).estimate(t, y)["I(T;Y)"].value)
    1.0
    """

    name: ClassVar[str] = "binning"
    targets: ClassVar[frozenset[str]] = frozenset({"discrete"})
    guarantees: ClassVar[frozenset[str]] = ALL_GUARANTEES
    uses_repeats: ClassVar[bool] = True

    n_bins: int | None = 30
    width: float | None = None
    range: tuple[float, float] | Literal["layer", "snapshot", "unit"] | None = "layer"
    top: Literal["closed", "open"] = "closed"
    rounding: Literal["floor", "nearest"] = "floor"
    corrections: tuple[str, ...] = ()
    null_draws: int = 20
    seed: int = 0
    run_range: tuple[float, float] | tuple[tuple[float, float], ...] | str | None = prepared()

    def __post_init__(self) -> None:
        if self.width is not None:
            if not (self.width > 0 and math.isfinite(self.width)):
                raise ValueError(f"width must be positive and finite, got {self.width}")
            if self.range not in ("layer", None) or self.n_bins not in (30, None):
                raise ValueError(
                    f"width takes the place of n_bins and range, got width={self.width} with "
                    f"n_bins={self.n_bins}, range={self.range}; give one or the other"
                )
            if self.top != "closed" or self.rounding != "floor":
                raise ValueError("cells of fixed width are unbounded: top and rounding do not apply to them")
            object.__setattr__(self, "n_bins", None)
            object.__setattr__(self, "range", None)
        else:
            if not isinstance(self.n_bins, int) or not 2 <= self.n_bins <= _MAX_RADIX - 3:
                raise ValueError(f"n_bins must be from 2 to {_MAX_RADIX - 3}, got {self.n_bins}")
            if not isinstance(self.range, str):
                object.__setattr__(self, "range", _fixed_range(self.range))
            elif self.range not in ("layer", "snapshot", "unit"):
                raise ValueError(f"range must be (lo, hi), 'layer', 'snapshot' or 'unit', got {self.range!r}")
        if self.top not in ("closed", "open"):
            raise ValueError(f"top must be 'closed' or 'open', got {self.top!r}")
        if self.rounding not in ("floor", "nearest"):
            raise ValueError(f"rounding must be 'floor' or 'nearest', got {self.rounding!r}")
        if self.rounding == "nearest" and self.top == "open":
            raise ValueError("rounding='nearest' has a cell around hi: top must be 'closed'")
        if self.null_draws < 0:
            raise ValueError(f"null_draws must be 0 or more, got {self.null_draws}")
        object.__setattr__(self, "corrections", tuple(self.corrections))
        check_corrections(self.corrections)

    def bytes_per_snapshot(self, samples: int, units: int) -> int:
        """Bytes one snapshot needs: its values, widened, and a few 64-bit numbers per row."""
        return 8 * samples * units + 64 * samples

    def prepare(self, blocks: Blocks, y: Tensor, x: Tensor | None = None) -> Self:
        """Find the range over the run. Snapshots with NaN or infinite values are passed over."""
        if self.range not in ("layer", "unit"):
            return self
        low: Tensor | None = None
        high: Tensor | None = None
        for block in blocks:
            lo, hi = _extremes(_widen(block), dim=(1,) if self.range == "unit" else (1, 2))
            finite = (torch.isfinite(lo) & torch.isfinite(hi)).flatten(1).all(1)
            if not bool(finite.any()):
                continue
            lo, hi = lo[finite].amin(0).double().flatten(), hi[finite].amax(0).double().flatten()
            low = lo if low is None else torch.minimum(low, lo)
            high = hi if high is None else torch.maximum(high, hi)
        if low is None or high is None:
            raise ValueError("binning found no finite snapshot to take its range from; did training diverge?")
        pairs = torch.stack([low, high], dim=1).cpu()
        if self.range == "layer":
            return replace(self, run_range=(float(pairs[0, 0]), float(pairs[0, 1])))
        if len(pairs) <= RECORDED_UNITS:
            return replace(self, run_range=tuple((float(a), float(b)) for a, b in pairs.tolist()))
        digest = hashlib.sha256(pairs.numpy().tobytes()).hexdigest()[:32]
        found = replace(self, run_range=f"sha256:{digest}")
        found.__dict__["_unit_range"] = pairs
        return found

    def estimate(
        self, t: Tensor, y: Tensor, *, x: Tensor | None = None, x_ids: Tensor | None = None
    ) -> dict[str, Quantity]:
        """Estimate I(X;T), I(T;Y), H(T), I(X;T|Y) and the null for `t` (S, N, U), integer `y` (N,)."""
        t, y, x_ids = check_inputs(t, y, x_ids, targets=self.targets, name=self.name, finite=False)
        lo, hi = _extremes(t, dim=(1,) if self.range == "unit" else (1, 2))
        if not bool((torch.isfinite(lo) & torch.isfinite(hi)).all()):
            refuse_nonfinite(t)
        outside = torch.zeros(len(t), dtype=torch.bool, device=t.device)
        digitize: _FixedWidth | _Cells
        if self.width is not None:
            digitize = _FixedWidth(self.width, lo, hi)
        else:
            low, high = self._edges(t, lo, hi)
            outside = ((lo < low) | (hi > high)).flatten(1).any(1)
            digitize = _Cells(self, low, high, lo, hi)
        labels = Labels.of(y, x_ids)
        found = plug_in(t, labels, digitize, null_draws=self.null_draws, seed=self.seed, corrections=self.corrections)
        return quantities(found, labels, {"out_of_range": outside})

    def _edges(self, t: Tensor, lo: Tensor, hi: Tensor) -> tuple[Tensor, Tensor]:
        """Outer edges that broadcast against (S, 1, 1) or (S, 1, U), in the dtype of `t`."""
        if self.range == "snapshot":
            return lo, hi
        if self.range == "layer" and self.run_range is None:
            return lo.amin(0, keepdim=True), hi.amax(0, keepdim=True)
        if self.range == "unit":
            if self.run_range is None:
                return lo.amin(0, keepdim=True), hi.amax(0, keepdim=True)
            pairs = self._unit_pairs(t.shape[2]).to(t)
            return pairs[None, None, :, 0], pairs[None, None, :, 1]
        found = self.run_range if self.range == "layer" else self.range
        bounds = torch.tensor(found, dtype=t.dtype, device=t.device).view(2, 1, 1, 1)
        return bounds[0], bounds[1]

    def _unit_pairs(self, units: int) -> Tensor:
        if isinstance(self.run_range, str):
            pairs = self.__dict__.get("_unit_range")
            if pairs is None:
                raise ValueError(
                    f"the per-unit range {self.run_range} is known by its digest only; call prepare on the run"
                )
        else:
            pairs = torch.tensor(self.run_range, dtype=torch.float64)
        if pairs.shape != (units, 2):
            raise ValueError(f"the prepared range has {len(pairs)} units, t has {units}; call prepare on this run")
        return pairs


def _fixed_range(bounds: object) -> tuple[float, float]:
    if isinstance(bounds, tuple | list) and len(bounds) == 2:
        lo, hi = (float(b) for b in bounds)
        if math.isfinite(lo) and math.isfinite(hi) and lo < hi:
            return lo, hi
    raise ValueError(f"range must be two finite numbers lo < hi, got {bounds!r}")


def _widen(t: Tensor) -> Tensor:
    if t.dtype in (torch.float32, torch.float64):
        return t
    return t.to(torch.float32 if t.is_floating_point() else torch.float64)


def _extremes(t: Tensor, dim: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Smallest and largest value over `dim`, kept as axes of length 1. NaN propagates."""
    return t.amin(dim, keepdim=True), t.amax(dim, keepdim=True)


class _FixedWidth:
    """floor(t / width), in the dtype of t."""

    def __init__(self, width: float, lo: Tensor, hi: Tensor) -> None:
        # A tensor: CUDA kernels multiply by the reciprocal of a Python number, which moves edges.
        self.width = torch.tensor(width, dtype=lo.dtype, device=lo.device)
        first, last = float((lo.min() / self.width).floor()), float((hi.max() / self.width).floor())
        if not (math.isfinite(first) and math.isfinite(last)):
            raise ValueError(
                f"width={width} is too fine for values from {float(lo.min()):g} to {float(hi.max()):g} in {lo.dtype}"
            )
        self.scratch = _Scratch()
        # Cells too many for one whole number each are told apart by the 16-bit digits of their float code.
        self.wide = last - first >= _MAX_RADIX or max(abs(first), abs(last)) >= 2**24
        self.digits = (lo.element_size() // 2) if self.wide else 1
        self.low, self.radix = (0, _MAX_RADIX) if self.wide else (int(first), int(last - first) + 1)

    def __call__(self, values: Tensor, snapshots: slice, units: slice) -> Tensor:
        cells = torch.div(values, self.width, out=self.scratch.like(values)).floor_()
        if not self.wide:
            return cells
        code = cells.add_(0.0)  # -0.0 and 0.0 are one cell
        whole = code.view(torch.int32 if code.dtype == torch.float32 else torch.int64)
        return torch.cat([(whole >> (16 * k)) & 0xFFFF for k in range(self.digits)], dim=2)


class _Cells:
    """Equal-width cells 0..n-1 between low and high, -1 below, n above."""

    def __init__(self, config: Binning, low: Tensor, high: Tensor, lo: Tensor, hi: Tensor) -> None:
        assert config.n_bins is not None
        self.n, self.nearest, self.open = config.n_bins, config.rounding == "nearest", config.top == "open"
        # Span and width must be normal numbers; where they are not, that snapshot is scaled in float64.
        tiny = torch.finfo(low.dtype).tiny
        span = high - low
        step = span / self.n
        self.odd = ~torch.isfinite(span) | ((step < tiny) & (span > 0))
        self.any_odd = bool(self.odd.any())
        self.low_edge, self.high_edge = low, high
        self.step = torch.where(span > 0, step, torch.ones_like(step))
        self.below = bool((lo < low).any())
        self.above = bool(((hi >= high) if self.open else (hi > high)).any())
        self.low = -1 if self.below else 0
        self.radix = self.n + int(self.nearest) + int(self.above) - self.low
        self.digits = 1
        self.scratch = _Scratch()

    def __call__(self, values: Tensor, snapshots: slice, units: slice) -> Tensor:
        low, high, step, odd = (
            _part(a, snapshots, units) for a in (self.low_edge, self.high_edge, self.step, self.odd)
        )
        cells = torch.sub(values, low, out=self.scratch.like(values)).div_(step)
        cells = cells.round_() if self.nearest else cells.floor_()
        if self.any_odd and bool(odd.any()):
            cells = torch.where(odd, _scaled_cells(values, low, high, self.n, self.nearest), cells)
        last = self.n if self.nearest else self.n - 1
        if not (self.below or self.above):
            # Only `hi` itself can reach past the last cell, and with it all of a constant layer is at `lo`.
            return cells if self.nearest else cells.clamp_(max=last)
        cells.clamp_(min=0, max=last)
        if self.below:
            cells.masked_fill_(values < low, -1)
        if self.above:
            cells.masked_fill_(values >= high if self.open else values > high, last + 1)
        return cells


def _scaled_cells(values: Tensor, low: Tensor, high: Tensor, n: int, nearest: bool) -> Tensor:
    """Cells where high - low overflows or underflows in the values' type."""
    scale = torch.where(torch.isfinite(high - low), 2.0**100, 0.25).double()
    low, high = low.double() * scale, high.double() * scale
    cells = (values.double() * scale - low) / ((high - low) / n)
    return (cells.round_() if nearest else cells.floor_()).to(values.dtype)


def _part(a: Tensor, snapshots: slice, units: slice) -> Tensor:
    a = a[snapshots] if a.shape[0] > 1 else a
    return a[:, :, units] if a.shape[2] > 1 else a


class _Scratch:
    """One reused buffer: fresh large allocations cost more than the arithmetic."""

    def __init__(self) -> None:
        self.buffer: Tensor | None = None

    def like(self, values: Tensor) -> Tensor:
        size = values.numel()
        if self.buffer is None or self.buffer.numel() < size:
            self.buffer = torch.empty(max(size, CHUNK_ELEMENTS), dtype=values.dtype, device=values.device)
        return self.buffer[:size].view(values.shape)


preset("binning", "shwartz-ziv-2017", n_bins=29, range=(-1.0, 1.0), top="open")
preset("binning", "saxe-2018", width=0.07)
preset("binning", "saxe-2018-mnist", width=0.5)
for _n in (30, 100, 256):
    preset("binning", f"lorenzen-2022-layer-{_n}", n_bins=_n, range="layer")
    preset("binning", f"lorenzen-2022-unit-{_n}", n_bins=_n, range="unit")
for _bits in (4, 8):
    preset("binning", f"lorenzen-2022-quantized-{_bits}bit", n_bins=2**_bits, range="layer", rounding="nearest")
