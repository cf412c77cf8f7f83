"""What goes with the gap: correlations over runs, with intervals, p, and how many columns were tried."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from infoplane.core.brief import Brief
from infoplane.core.records import FloatArray, IntArray
from infoplane.core.text import aligned, printable
from infoplane.studies.correlation import Method
from infoplane.studies.reading import Measure

if TYPE_CHECKING:
    import pandas as pd

MOST_ROWS = 12
"""Columns that the printed table shows."""
LEVEL = 0.05
"""Adjusted p from which on a correlation counts as weak."""


@dataclass(frozen=True, eq=False, kw_only=True)
class AssociationMap(Brief):
    """Correlations as a table: a row for each layer, a column for each measure that was tried.

    Attributes
    ----------
    layers, across : list of str
        Names of the L rows and the C columns; `across` says in what the columns differ.
    alike : list of str
        What all columns have in common.
    value, p_adjusted : (L, C) float64
        NaN where a cell was not tried.
    """

    layers: list[str]
    across: list[str]
    alike: list[str]
    value: FloatArray
    p_adjusted: FloatArray

    @property
    def weak(self) -> npt.NDArray[np.bool_]:
        """(L, C): which cells have an adjusted p of 0.05 or more."""
        return self.p_adjusted >= LEVEL


@dataclass(frozen=True, eq=False, kw_only=True)
class Association:
    """Correlations of every summary with one column over runs.

    Attributes
    ----------
    target, control : str
        Columns of the study; "" without a control.
    method : {"pearson", "spearman", "kendall"}
        The correlation that `low`, `high`, `p` and `p_adjusted` belong to.
    measures : dict from column to Measure
        The columns that were tried, M of them.
    numbers : dict from name to (M,) float64
        `pearson`, `spearman`, `kendall`; `low`, `high`: the 95 % percentile interval; `p` by permutation, two-sided,
        and `p_adjusted` for the largest of all M (max-T). With a control also `partial`, the correlation of what a fit
        by the ranks of the control leaves of both ranks, with `partial_low` and so on.
    runs : tuple of str
        Names of the R runs that count.
    x, y, z : (R, M), (R,), (R,) float64
        The summaries, the target, the control (None without one).
    configurations : (R,) int64
        The configuration of each run: all its seeds are drawn, and change places, together.
    left_out : dict from column to str
        Why a column was not tried.
    words : list of str
        What was done, for captions.
    flags : dict from column to mapping from flag to int
        In how many of the study's runs the values that the column summarises carry a flag.
    """

    target: str
    control: str
    method: Method
    measures: Mapping[str, Measure]
    numbers: Mapping[str, FloatArray]
    runs: tuple[str, ...]
    x: FloatArray
    y: FloatArray
    z: FloatArray | None
    configurations: IntArray
    left_out: Mapping[str, str]
    words: Sequence[str]
    flags: Mapping[str, Mapping[str, int]]

    @property
    def columns(self) -> list[str]:
        """The columns that were tried."""
        return list(self.measures)

    @property
    def value(self) -> FloatArray:
        """(M,) the correlation by `method`, or the partial one where there is a control."""
        return self.numbers["partial" if self.control else self.method]

    @property
    def interval(self) -> tuple[FloatArray, FloatArray]:
        """Both ends (M,) of the interval of `value`."""
        before = "partial_" if self.control else ""
        return self.numbers[f"{before}low"], self.numbers[f"{before}high"]

    @property
    def p_adjusted(self) -> FloatArray:
        """(M,) the adjusted p of `value`."""
        return self.numbers["partial_p_adjusted" if self.control else "p_adjusted"]

    @property
    def label(self) -> str:
        """The name of `value`, such as `Spearman with gap, given n_weights`."""
        if self.control:
            return printable(f"Spearman with {self.target}, given {self.control}")
        return printable(f"{self.method.capitalize()} with {self.target}")

    def layer_map(self) -> AssociationMap:
        """Return the correlations as a table with a row for each layer and a column for each quantity and summary."""
        measures = list(self.measures.values())
        parts = [(m.quantity, m.way, m.what) for m in measures]
        tried, layers = list(dict.fromkeys(parts)), list(dict.fromkeys(m.layer for m in measures))
        value, p = np.full((2, len(layers), len(tried)), np.nan)
        at = [layers.index(m.layer) for m in measures], [tried.index(part) for part in parts]
        value[at], p[at] = self.value, self.p_adjusted
        alike = [len(set(column)) == 1 for column in zip(*tried, strict=True)]
        words = [", ".join(w for w, same in zip(one, alike, strict=True) if not same) or one[-1] for one in tried]
        shared = [word for word, same in zip(tried[0], alike, strict=True) if same]
        return AssociationMap(layers=layers, across=words, alike=shared, value=value, p_adjusted=p)

    def value_words(self, m: int) -> str:
        """Return the value of column number `m` with its interval and adjusted p, in words."""
        low, high = (ends[m] for ends in self.interval)
        interval = "" if math.isnan(low) else f" ({low:.2f} to {high:.2f})"
        return f"{self.label}: {self.value[m]:.2f}{interval}, adjusted p {self.p_adjusted[m]:.2g}"

    def strongest(self) -> list[int]:
        """Return the numbers of all columns, sorted by adjusted p; of equal p the larger correlation comes first."""
        return sorted(range(len(self.measures)), key=lambda m: (self.p_adjusted[m], -abs(self.value[m])))

    @cached_property
    def frame(self) -> pd.DataFrame:
        """A pandas frame with a row for each column that was tried: the fields of its `Measure`, and its numbers."""
        import pandas as pd  # here, since a printed association needs no frame

        told = {name: [getattr(m, name) for m in self.measures.values()] for name in Measure.__annotations__}
        return pd.DataFrame({**told, **self.numbers}, index=pd.Index(self.columns, name="column"))

    def __str__(self) -> str:
        """Return the strongest columns as a table, and below it what was done, in words."""
        return "\n".join([*aligned(self.rows(MOST_ROWS)), "", *self.words])

    __repr__ = __str__

    def rows(self, most: int) -> list[list[str]]:
        """Return the rows of the printed table, each a list of cells: its head, then the `most` strongest columns."""
        given = ["given " + printable(self.control), "95 %", "p", "adjusted"] if self.control else []
        head = ["", self.method, "95 %", "p", "adjusted", *given, "doubts"]
        return [head, *(self._row(m) for m in self.strongest()[:most])]

    def _row(self, m: int) -> list[str]:
        """Return the cells of column number `m`: its name, its correlation with interval and p, and its flags.

        With a control the partial correlation follows. Flags come with the number of runs that have them.
        """
        cells = [self.columns[m]]
        for before in ("", "partial_") if self.control else ("",):
            low, high, p, adjusted = (self.numbers[before + n][m] for n in ("low", "high", "p", "p_adjusted"))
            value = self.numbers["partial" if before else self.method][m]
            interval = "" if math.isnan(low) else f"{low:+.2f} to {high:+.2f}"
            cells += [f"{value:+.2f}", interval, f"{p:.2g}", f"{adjusted:.2g}"]
        doubts = [f"{flag} in {n} run{'s' * (n > 1)}" for flag, n in self.flags.get(self.columns[m], {}).items() if n]
        return [*cells, "; ".join(doubts)]


@dataclass(frozen=True, eq=False, kw_only=True)
class Claim:
    """In how many settings a claim about a sign holds.

    Attributes
    ----------
    sign : int
        +1 or -1.
    cells : list of str, C of them
        The column of each cell, with the group of runs where there are several groups.
    value, low, high : (C,) float64
        Correlation and interval in each cell.
    skipped : dict from group to str
        Why a group of runs has no cells.
    words : str
        What is claimed.
    """

    sign: int
    cells: Sequence[str]
    value: FloatArray
    low: FloatArray
    high: FloatArray
    skipped: Mapping[str, str]
    words: str

    @property
    def holds(self) -> float:
        """The share of cells that have the claimed sign."""
        return float(np.mean(self.sign * self.value > 0))

    @property
    def clear(self) -> float:
        """The share of cells that have the claimed sign and an interval without 0."""
        return float(np.mean(self.sign * np.where(self.sign > 0, self.low, self.high) > 0))

    def __str__(self) -> str:
        """Return in words in how many settings the claim holds, and which groups were left out."""
        of = len(self.cells)
        counts = [round(share * of) for share in (self.holds, self.clear)]
        return "\n".join(
            [
                f"{self.words}: the sign holds in {counts[0]} of {of} settings ({self.holds:.0%}), "
                f"with an interval without 0 in {counts[1]} ({self.clear:.0%})",
                *(f"{printable(group)} left out: {why}" for group, why in self.skipped.items()),
            ]
        )

    __repr__ = __str__
