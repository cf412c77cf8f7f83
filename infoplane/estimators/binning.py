"""Equal-width binning: the estimator of the first information planes, without its traps."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from infoplane.core.device import on_accelerator
from infoplane.estimators._counting import CellCounts, Counting
from infoplane.estimators._counting.counts import Scratch, far_apart
from infoplane.estimators._driver import Given
from infoplane.estimators._protocol import (
    Blocks,
    assumed_finite,
    refuse_nonfinite,
    refuse_unless_finite,
    whole_cells,
    widened,
)
from infoplane.estimators._registry import preset, register
from infoplane.estimators._settings import COUNT, Domain, one_of, prepared, setting

_MAX_RADIX = 65_536
"""Most different cells of a unit that are told apart by one whole number."""
_RANGES = ("layer", "unit", "snapshot", "snapshot_unit")
_ONE_PASS = 2**15
"""Values of a snapshot from which its extremes are found in one pass over memory."""
_SAMPLE = 2**15
"""Values of the last snapshot that cells of fixed width look at first, to guess their bounds."""


@register
@dataclass(frozen=True, kw_only=True)
class Binning(Counting):
    """Plug-in mutual information after equal-width binning of every unit.

    A sample's code is its row of cells. A deterministic layer then has I(X;T) = H(code), a property of the
    binning as much as of the network: finer bins or more units raise it until every sample has a code of its
    own, where it is log2 N and I(T;Y) is H(Y) whatever the layer has learned (flag `saturated`). The null, the
    same I(T;Y) with shuffled labels, shows how much of it that is.

    Cell of a value: floor((t - lo) / width) in the layer's own floating-point type (float16 and bfloat16 are
    widened to float32 first), width = (hi - lo) / n_bins; `hi` belongs to the last cell. A value within one
    rounding of an edge may fall on either side of it.

    :measures: H of equal-width cells, I(T;Y) of the cells
    :assumes: the bin width is the scale that matters
    :errs: up: towards log2 N and H(Y)
    :cost: N D + N log N
    :memory: N D
    :gives: I(X;T), I(T;Y), H(T), I(X;T|Y)
    :unit: bit
    :ceiling: H(X), H(Y)
    :source: Shwartz-Ziv and Tishby 2017; Saxe et al. 2018

    Parameters
    ----------
    n_bins : int
        Cells per unit between the outer edges, at least 2.
    width : float or None
        Instead of `n_bins` and `range`: cells floor(t / width), unbounded, in the units of T.
    range : (float, float), "layer", "unit", "snapshot" or "snapshot_unit"
        Outer edges in the units of T: fixed (so is a range over several layers); the smallest and largest value
        of the layer or of each unit over the run, found by `prepare` (without it, over the block given); or
        those of the layer or of each unit in each snapshot, which makes growth of the activations invisible.
        Values beyond the edges have one cell below and one above, and raise the flag `out_of_range`.
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
        Seeds the label shuffles.
    run_range
        Found by `prepare` for "layer" and "unit": (lo, hi); one pair per unit; or the digest of those pairs
        for more than 32 units.
    edges
        Found by `prepare`: the pairs that `run_range` is the digest of. Neither compared nor recorded.

    Raises
    ------
    ValueError
        For settings or input outside what is stated here.

    Notes
    -----
    Codes that do not fit 63 bits are told apart by hashes: the probability that any two of N different codes of
    one snapshot are taken for one is at most N^2 / 2^60 for up to 8 classes, 1e-11 at N = 4096.

    Rows with equal `x_ids` are the same input: I(X;T) = H(X) + H(T) - H(X,T). Repeated passes of a noisy layer
    enter this way; every input then needs the same number of passes for H(X) to be that of the probe. Where the
    numbers differ and so do the codes of one input, I(X;T) is too high, for an input seen once counts as noiseless:
    flag `unreliable`.

    Lorenzen et al. take the range of a layer or neuron anew in every snapshot (presets `lorenzen-2022-layer-30`,
    `lorenzen-2022-neuron-30`, ...), or one of all snapshots and layers together. The presets
    `lorenzen-2022-run-30`, ... take that of the one layer over the run: the same cells where all layers span the same
    range; otherwise give it as `range=(lo, hi)`.

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
    recorded_units: ClassVar[int] = 32

    n_bins: int | None = 30
    width: float | None = setting(None, Domain("positive and finite", 0.0, open=True, named=(None,)))
    range: tuple[float, float] | Literal["layer", "unit", "snapshot", "snapshot_unit"] | None = "layer"
    top: Literal["closed", "open"] = setting("closed", one_of("closed", "open"))
    rounding: Literal["floor", "nearest"] = setting("floor", one_of("floor", "nearest"))
    corrections: tuple[str, ...] = ()
    null_draws: int = setting(20, COUNT)
    seed: int = 0
    run_range: tuple[float, float] | tuple[tuple[float, float], ...] | str | None = prepared()
    edges: Tensor | None = prepared(recorded=False)

    def __post_init__(self) -> None:
        """Check that the settings fit together; `width` takes the place of `n_bins` and `range`: both become None."""
        super().__post_init__()
        if self.width is not None:
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
            elif self.range not in _RANGES:
                raise ValueError(f"range must be (lo, hi) or one of {', '.join(_RANGES)}, got {self.range!r}")
        if self.rounding == "nearest" and self.top == "open":
            raise ValueError("rounding='nearest' has a cell around hi: top must be 'closed'")

    def bytes_per_snapshot(self, samples: int, units: int) -> int:
        """Return the bytes one snapshot needs: its values, widened, their cells, and a few 64-bit numbers per row."""
        return 16 * samples * units + 64 * samples

    def prepare(self, blocks: Blocks, y: Tensor, x: Tensor | None = None) -> Self:
        """Return this estimator with the extremes over the run, of the layer or of each unit, as its outer edges.

        With a fixed range, or one of each snapshot, it is returned as it is. Snapshots with NaN or infinite values are
        left out; ValueError if none is left.
        """
        if self.range not in ("layer", "unit"):
            return self
        lows: list[Tensor] = []  # of every finite snapshot, (1 or U,)
        highs: list[Tensor] = []
        for block in blocks:
            low, high = _extremes(widened(block), self.range == "unit")
            finite = (torch.isfinite(low) & torch.isfinite(high)).flatten(1).all(1)
            lows += low[finite, 0].double()
            highs += high[finite, 0].double()
        if not lows:
            raise ValueError("binning found no finite snapshot to take its range from; did training diverge?")
        pairs = torch.stack([torch.stack(lows).amin(0), torch.stack(highs).amax(0)], dim=1).cpu()
        if self.range == "layer":
            return replace(self, run_range=(float(pairs[0, 0]), float(pairs[0, 1])))
        return self.remembering("run_range", pairs)

    def values(self, t: Tensor) -> Tensor:
        """Return `t`; with a fixed width, whole numbers too large for float64 become floats in the same cells."""
        return t if self.width is None else whole_cells(t, self.width)

    def start(self, given: Given) -> CellCounts:
        """Return the problem of one block: how its values become cells, and its labels and inputs counted."""
        given = given._replace(t=widened(given.t))
        digitize = self._cells(given.t) if self.width is None else _FixedWidth(given.t, self.width)
        return CellCounts(self, given, digitize, {"out_of_range": digitize.outside})

    def _cells(self, t: Tensor) -> _Cells:
        """Return what makes cells of `t` (S, N, U), with outer edges (1 or S, 1, 1 or U) in the dtype of `t`."""
        assert self.n_bins is not None  # there is no `width`
        of_snapshot = self.range in ("snapshot", "snapshot_unit")
        # Known: the edges are the extremes of `t` itself, so that no value lies beyond them.
        known = of_snapshot or (isinstance(self.range, str) and self.run_range is None)
        if known:
            low, high = _extremes(t, self.range in ("unit", "snapshot_unit"))
            refuse_unless_finite(t, low, high)
            if not of_snapshot:
                low, high = low.amin(0, keepdim=True), high.amax(0, keepdim=True)
        elif self.range == "unit":
            pairs = self.remembered("run_range", "ranges", t.shape[2]).to(t)
            low, high = pairs[None, None, :, 0], pairs[None, None, :, 1]
        else:
            bounds = self.run_range if self.range == "layer" else self.range
            low, high = torch.tensor(bounds, dtype=t.dtype, device=t.device).view(2, 1, 1, 1)
        return _Cells(t, low, high, self.n_bins, nearest=self.rounding == "nearest", top=self.top, known=known)


def _fixed_range(bounds: object) -> tuple[float, float]:
    """Return the bounds as floats (lo, hi); ValueError unless they are two finite numbers, the smaller first."""
    if isinstance(bounds, tuple | list) and len(bounds) == 2:
        lo, hi = (float(b) for b in bounds)
        if math.isfinite(lo) and math.isfinite(hi) and lo < hi:
            return lo, hi
    raise ValueError(f"range must be two finite numbers lo < hi, got {bounds!r}")


def _extremes(t: Tensor, per_unit: bool) -> tuple[Tensor, Tensor]:
    """Return the smallest and largest values of `t` (S, N, U): (S, 1, 1), or of each unit (S, 1, U); NaN stays NaN."""
    if per_unit:
        return t.amin(1, keepdim=True), t.amax(1, keepdim=True)
    if on_accelerator(t.device) or t[0].numel() < _ONE_PASS:
        return t.amin((1, 2), keepdim=True), t.amax((1, 2), keepdim=True)
    # `aminmax` finds both in one pass over memory, but only without an axis: it is called for each snapshot.
    found = torch.stack([torch.stack(torch.aminmax(snapshot)) for snapshot in t])
    return found[:, 0, None, None], found[:, 1, None, None]


class _FixedWidth:
    """Makes cells of values: floor(t / width), in the dtype of t; their bounds follow from the values seen so far."""

    def __init__(self, t: Tensor, width: float) -> None:
        """Guess the bounds of the cells from some values of the last snapshot of `t` (S, N, U)."""
        # A tensor: CUDA kernels multiply by the reciprocal of a Python number, which moves edges.
        self.t, self.width = t, torch.tensor(width, dtype=t.dtype, device=t.device)
        self.outside = torch.zeros(len(t), dtype=torch.bool, device=t.device)
        self.scratch = Scratch()
        self.digits, self.low, self.radix = 1, 0, 1
        self.first, self.last = 0, 0  # lowest and highest cell so far
        # The last snapshot mostly reaches furthest: with bounds from it fewer groups have to be counted anew.
        if len(t):
            self(t[-1:, : max(1, _SAMPLE // t.shape[2])], 0, False)

    def __call__(self, values: Tensor, first: int, probing: bool) -> Tensor:
        """Return the cells of `values` (s, n, U), or their digits (s, n, digits U); `first`, `probing` are not used."""
        cells = torch.div(values, self.width, out=self.scratch.view(values.shape, values.dtype, values.device)).floor_()
        low, high = (float(v) for v in torch.aminmax(cells))
        if not self.first <= low <= high <= self.last:
            self._widen(low, high)
        if self.digits == 1:
            return cells
        # Cells too many for one whole number each: the bits of the float are cut into whole numbers of 16 bits.
        code = cells.add_(0.0)  # -0.0 and 0.0 are one cell
        whole = code.view(torch.int32 if code.dtype == torch.float32 else torch.int64)
        return torch.cat([(whole >> (16 * k)) & 0xFFFF for k in range(self.digits)], dim=-1)

    def _widen(self, low: float, high: float) -> None:
        """Widen the bounds of the cells to the cells `low` and `high`; far apart, each cell gets several digits.

        ValueError for NaN and infinity, and for a width so small that dividing by it overflows.
        """
        if not (math.isfinite(low) and math.isfinite(high)):
            refuse_nonfinite(self.t)
            raise ValueError(f"width={float(self.width):g} is too fine for the largest values in {self.t.dtype}")
        self.first, self.last = min(self.first, int(low)), max(self.last, int(high))
        # 2**24: from there float32 holds not every whole number.
        if self.last - self.first >= _MAX_RADIX or max(-self.first, self.last) >= 2**24:
            self.digits, self.low, self.radix = self.t.element_size() // 2, 0, _MAX_RADIX
        elif self.digits == 1:
            if (self.last - self.first + 1) ** self.t.shape[2] > 2**63:
                # Cells of all units do not fit one 64-bit key: keys are hashes, to which wider bounds cost little. With
                # twice the bounds they are seldom widened again.
                self.first, self.last = 2 * self.first, 2 * self.last
            self.low, self.radix = self.first, self.last - self.first + 1

    def inspect(self, values: Tensor, first: int) -> None:
        """Raise ValueError for NaN and infinity; no value is out of range."""
        if not assumed_finite():
            refuse_unless_finite(self.t, *torch.aminmax(values))


class _Cells:
    """Makes equal cells of values: 0 to n - 1 (n with `nearest`) between the outer edges, -1 below, one more above."""

    def __init__(self, t: Tensor, low: Tensor, high: Tensor, n: int, *, nearest: bool, top: str, known: bool) -> None:
        """Take the outer edges `low` and `high` (1 or S, 1, 1 or U); `known` says that all of `t` lies within."""
        self.t, self.low_edge, self.high_edge, self.n = t, low, high, n
        self.nearest, self.open = nearest, top == "open"
        self.known = known and not self.open  # every value lies within the edges
        self.last = n if nearest else n - 1
        # Span and width must be normal numbers; where they are not, that snapshot or unit is scaled in float64.
        span = high - low
        step = span / n
        self.odd = ~torch.isfinite(span) | ((step < torch.finfo(t.dtype).tiny) & (span > 0))
        self.any_odd = bool(self.odd.any())
        # Where both edges are one value, a tiny step puts every other value far beyond them.
        self.step = torch.where(span > 0, step, torch.finfo(t.dtype).tiny)
        self.low, self.radix, self.digits = 0, self.last + 1, 1
        self.outside = torch.zeros(len(t), dtype=torch.bool, device=t.device)
        self.scratch = Scratch()

    def __call__(self, values: Tensor, first: int, probing: bool) -> Tensor:
        """Return the cells of `values` (s, n, U), whose first snapshot is number `first`.

        With `probing` the values are of a few units alone, those that `far_apart` takes.
        """
        snapshots = slice(first, first + len(values))
        low, high, step = (_part(a, snapshots, probing) for a in (self.low_edge, self.high_edge, self.step))
        place = torch.sub(values, low, out=self.scratch.view(values.shape, values.dtype, values.device)).div_(step)
        if self.any_odd:
            odd = _part(self.odd, snapshots, probing)
            place = torch.where(odd, _scaled_place(values, low, high, self.n), place)
        if not self.known:
            least, most = (float(v) for v in torch.aminmax(place))
            if not (math.isfinite(least) and math.isfinite(most)):
                refuse_nonfinite(self.t)
            # With a margin: rounding may bring a value just above `high` to a place just below n.
            if least < 0 or most > self.n * (1 - 1e-5):
                return self._bounded(place, values, low, high, snapshots)
        cells = place.round_() if self.nearest else place.floor_()
        return cells.clamp_(max=self.last) if self.known else cells

    def _bounded(self, place: Tensor, values: Tensor, low: Tensor, high: Tensor, snapshots: slice) -> Tensor:
        """Return cells 0 to `last`, -1 below and last + 1 above the edges, and note which snapshots are out of range.

        `place` holds the `values` in cell widths above the lower edge; it is overwritten.
        """
        cells = place.round_() if self.nearest else place.floor_()
        cells.clamp_(min=0, max=self.last)
        below, above = values < low, (values >= high if self.open else values > high)
        for beyond, cell in ((below, -1), (above, self.last + 1)):
            if bool(beyond.any()):
                cells.masked_fill_(beyond, cell)
                # The bounds of the cells, `low` and `radix`, widen to include this one.
                top = max(self.low + self.radix - 1, cell)
                self.low = min(self.low, cell)
                self.radix = top - self.low + 1
        # With an open top a value at `high` has the cell above, but is in range.
        self.outside[snapshots] |= (below | (values > high)).flatten(1).any(1)
        return cells

    def inspect(self, values: Tensor, first: int) -> None:
        """Note which snapshots have values out of range; ValueError for NaN and infinity."""
        if self.known:
            return
        snapshots = slice(first, first + len(values))
        low, high = (_part(a, snapshots, False) for a in (self.low_edge, self.high_edge))
        least, most = _extremes(values, high.shape[2] > 1)
        refuse_unless_finite(self.t, least, most)
        self.outside[snapshots] |= ((least < low) | (most > high)).flatten(1).any(1)


def _scaled_place(values: Tensor, low: Tensor, high: Tensor, n: int) -> Tensor:
    """Return (values - low) / ((high - low) / n) in the type of `values`, which may be too narrow for high - low."""
    # In float64, with small numbers made larger and large ones smaller.
    scale = torch.where(torch.isfinite(high - low), 2.0**100, 0.25).double()
    low, high = low.double() * scale, high.double() * scale
    return ((values.double() * scale - low) / ((high - low) / n)).to(values.dtype)


def _part(a: Tensor, snapshots: slice, probing: bool) -> Tensor:
    """Return edges `a` (1 or S, 1, 1 or U) of some snapshots; with `probing`, of the units that `far_apart` takes."""
    a = a[snapshots] if a.shape[0] > 1 else a
    return far_apart(a) if probing and a.shape[2] > 1 else a


preset("binning", "shwartz-ziv-2017", n_bins=29, range=(-1.0, 1.0), top="open")
preset("binning", "saxe-2018", width=0.07)
preset("binning", "saxe-2018-mnist", width=0.5)
for _name, _range in (("run", "layer"), ("layer", "snapshot"), ("neuron", "snapshot_unit")):
    for _n in (30, 100, 256):
        preset("binning", f"lorenzen-2022-{_name}-{_n}", n_bins=_n, range=_range)
    for _bits in (4, 8) if _name != "run" else ():
        preset("binning", f"lorenzen-2022-{_name}-{_bits}bit", n_bins=2**_bits, range=_range, rounding="nearest")
