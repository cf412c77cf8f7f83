"""Entropy-based adaptive binning: bins that hold equally many distinct activation values."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from infoplane.core.device import on_accelerator
from infoplane.estimators._counting import CellCounts, Counting
from infoplane.estimators._counting.edges import EdgeCells, HalfCells, Rule, row_edges, run_edges
from infoplane.estimators._driver import Given
from infoplane.estimators._protocol import Blocks, refuse_unless_finite, widened
from infoplane.estimators._registry import register
from infoplane.estimators._settings import COUNT, Domain, one_of, prepared, setting

_HALF_VALUES = 2**17
"""From so many values in a snapshot of 16-bit floats on, a table of all 65,536 bit patterns is faster than sorting."""
_BELOW_TANH = -1.000001
"""The sentinel (the first edge) of layers that are never below -1: just below it, so that saturated tanh is above."""


@register
@dataclass(frozen=True, kw_only=True)
class Adaptive(Counting):
    """Plug-in mutual information after binning at equal counts of distinct values (EBAB).

    For one layer and snapshot let u be the sorted distinct values of all its units above a sentinel `low`,
    U of them. The edges are

        low, u[0], u[floor(U / n)], ..., u[floor((n - 1) U / n)], u[U - 1]

    and a value's cell is the number of edges at or below it. So the values at the sentinel (the zeros of
    ReLU) sit alone in the first cell, the layer's maximum alone in the last, and duplicates move no edge.

    Cells depend on the order of the values only: any strictly increasing map of the layer that fixes `low`
    leaves the result as it is, and with `low="min"` any strictly increasing map at all. A fall of I(X;T) over
    training is then no effect of scale; it is one of rank, and the bins move with every snapshot. The bound
    log2 N and the singletons of a wide layer remain (flag `saturated`, and the null).

    :measures: as `binning`, with bins of equal counts of distinct values
    :assumes: ranks matter, scale does not
    :errs: up, as `binning`
    :cost: N D log(N D)
    :memory: N D
    :gives: I(X;T), I(T;Y), H(T), I(X;T|Y)
    :unit: bit
    :ceiling: H(X), H(Y)
    :source: Chelombiev et al. 2019

    Parameters
    ----------
    n_bins : int
        n above, at least 2. Fewer distinct values than that give every value its cell, and the flag `ties`.
    low : "auto", "min" or float
        The sentinel. "auto": 0 where the layer is never negative over the run, -1.000001 where it is never
        below -1 (tanh, ELU), else as "min". "min": each snapshot's own smallest value. Values below a number
        share a cell of their own and raise `out_of_range`.
    quantile : "distinct" or "equal_count"
        "equal_count": n bins of equally many values with their multiplicity (Lorenzen et al.); ties then
        empty some bins. It has no sentinel.
    separate_saturated : bool
        The layer's smallest value has a cell of its own as the largest has, and neither counts for the other
        edges. A variant for tanh, whose values at -1 the original puts together with others.
    per_unit : bool
        Edges of each unit apart: unchanged also under different increasing maps of each unit.
    whole_run : bool
        Edges from all snapshots of the run together (`prepare`), the same for each; without `prepare`, from
        the block given. Values beyond those of the run have cells of their own and raise `out_of_range`.
    corrections, null_draws, seed
        As for `binning`.
    sentinel
        Found by `prepare`: what "auto" stands for.
    run_edges
        Found by `prepare` for `whole_run`: the edges, for up to 4 units apart, or their digest.
    edges
        Found by `prepare`: the edges that `run_edges` is the digest of. Neither compared nor recorded.

    Raises
    ------
    ValueError
        For settings or input outside what is stated here.

    Notes
    -----
    Edges are compared in the layer's own type. The authors' code rounds them to float32, which for float64
    activations merges cells and breaks the invariance; for float32 activations nothing differs.

    References
    ----------
    Chelombiev, Houghton and O'Donnell, "Adaptive estimators show information compression in deep neural
    networks", 2019.
    Lorenzen, Igel and Nielsen, "Information bottleneck: exact analysis of (quantized) neural networks", 2022.

    Examples
    --------
    >>> t = torch.tensor([[0.0, 0.0, 1.0, 5.0]])[:, :, None]
    >>> y = torch.tensor([0, 0, 1, 1])
    >>> float(Adaptive(n_bins=2).estimate(t, y)["H(T)"].value)
    1.5
    """

    name: ClassVar[str] = "adaptive"
    recorded_units: ClassVar[int] = 4

    n_bins: int = setting(30, Domain("from 2 to 65000", 2, 65_000, whole=True))
    low: float | Literal["auto", "min"] = "auto"
    quantile: Literal["distinct", "equal_count"] = setting("distinct", one_of("distinct", "equal_count"))
    separate_saturated: bool = False
    per_unit: bool = False
    whole_run: bool = False
    corrections: tuple[str, ...] = ()
    null_draws: int = setting(20, COUNT)
    seed: int = 0
    sentinel: float | Literal["min"] | None = prepared()
    run_edges: tuple[tuple[float, ...], ...] | str | None = prepared()
    edges: Tensor | None = prepared(recorded=False)

    def __post_init__(self) -> None:
        """Check the settings, `low` and `quantile` together, and make a number of `low` a float."""
        super().__post_init__()
        if self.low not in ("auto", "min"):
            if isinstance(self.low, str) or not math.isfinite(self.low):
                raise ValueError(f"low must be 'auto', 'min' or a finite number, got {self.low!r}")
            object.__setattr__(self, "low", float(self.low))
        if self.quantile == "equal_count" and (self.separate_saturated or self.low != "auto"):
            raise ValueError("quantile='equal_count' has no sentinel: low and separate_saturated do not apply")

    @property
    def rule(self) -> Rule:
        """Return which values become edges."""
        return Rule(self.n_bins, self.quantile == "distinct", self.separate_saturated)

    def bytes_per_snapshot(self, samples: int, units: int) -> int:
        """Return the bytes one snapshot needs: its values, a sorted copy, and a few 64-bit numbers per row."""
        return 18 * samples * units + 64 * samples

    def prepare(self, blocks: Blocks, y: Tensor, x: Tensor | None = None) -> Self:
        """Return this estimator with the sentinel that `low="auto"` stands for, and with `whole_run` the run's edges.

        Snapshots with NaN or infinite values are left out; ValueError if none is left to find these from.
        """
        found = self
        if self.low == "auto" and self.quantile == "distinct":
            least = min((float(b.amin()) for b in _finite(blocks) if b.numel()), default=math.nan)
            if math.isnan(least):
                raise ValueError("adaptive found no finite snapshot in the run; did training diverge?")
            found = replace(self, sentinel=_auto(least))
        if not self.whole_run:
            return found
        edges = run_edges(lambda: _finite(blocks), found._low(), self.rule, self.per_unit)
        return found.remembering("run_edges", edges)

    def start(self, given: Given) -> CellCounts:
        """Return the problem of one block: how its values become cells, and its labels and inputs counted."""
        if not self._table_pays(given.t):
            given = given._replace(t=widened(given.t))
        digitize, outside, few = self._digitizer(given.t)
        return CellCounts(self, given, digitize, {"out_of_range": outside, "ties": few})

    def _table_pays(self, t: Tensor) -> bool:
        """Return whether a table of all 16-bit patterns beats sorting: in large snapshots of pooled edges, on a CPU."""
        # Pooled: all units of a snapshot share their edges. The table holds cells as bytes, which limits the edges. For
        # a layer in wider floats the answer changes nothing.
        pooled = not (self.per_unit or self.whole_run or on_accelerator(t.device)) and self.quantile == "distinct"
        return pooled and t[:1].numel() >= _HALF_VALUES and self.rule.edges < 255

    def _digitizer(self, t: Tensor) -> tuple[EdgeCells | HalfCells, Tensor, Tensor]:
        """Return what makes cells of the values of `t` (S, N, U), and the flags `out_of_range` and `ties`, (S,) each.

        `ties` says that a row has fewer values than there are bins: distinct ones above the sentinel, or with
        quantile="equal_count" all. Edges of a whole run never raise it.
        """
        low = self._low(t)
        if self.whole_run:
            edges = self._edges_of_run(t, low)
            least, most = t.amin(1), t.amax(1)
            refuse_unless_finite(t, least, most)
            outside = ((least < edges[:, :, 0]) | (most >= edges[:, :, -1])).any(1)
            return EdgeCells(edges), outside, torch.zeros_like(outside)
        digitize: EdgeCells | HalfCells
        if t.dtype.itemsize == 2:
            digitize = HalfCells(t, low, self.rule)
            found = digitize.found
        else:
            rows = t.transpose(1, 2).flatten(0, 1) if self.per_unit else t.flatten(1)
            found = row_edges(rows, low, self.rule)
            digitize = EdgeCells(found.edges.view(len(t), -1, found.edges.shape[1]))
        refuse_unless_finite(t, found.least, found.most)
        outside = (found.least < found.sentinel).view(len(t), -1).any(1)
        return digitize, outside, (found.number < self.n_bins).view(len(t), -1).any(1)

    def _low(self, t: Tensor | None = None) -> float | None:
        """Return the sentinel (the first edge) as a number; None where it is each row's own minimum, or there is none.

        For `low="auto"` the values of `t` decide where `prepare` was not called.
        """
        low: float | str | None = self.low if self.quantile == "distinct" else None
        if low == "auto":
            low = self.sentinel if self.sentinel is not None or t is None else _auto(float(t.amin()))
        return None if isinstance(low, str) else low

    def _edges_of_run(self, t: Tensor, low: float | None) -> Tensor:
        """Return the edges (1, 1 or U, E) that `prepare` found, else those of `t` and the sentinel `low`."""
        if self.run_edges is None:
            return run_edges(lambda: iter([t]), low, self.rule, self.per_unit).to(t)[None]
        return self.remembered("run_edges", "edges", t.shape[2] if self.per_unit else 1).to(t)[None]


def _auto(least: float) -> float | Literal["min"]:
    """Return the sentinel that "auto" stands for if `least` is the smallest value of the run."""
    if least >= 0:
        return 0.0
    return _BELOW_TANH if least >= -1 else "min"


def _finite(blocks: Blocks) -> Iterator[Tensor]:
    """Yield each block (S, N, U) of a run widened, without its snapshots that have NaN or infinity."""
    for block in blocks:
        wide = widened(block)
        yield wide[torch.isfinite(wide.flatten(1)).all(1)]
