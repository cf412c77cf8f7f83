"""Rows of a table as arrays: points of the plane, grids of steps and layers, curves, data-processing counts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from infoplane.core.brief import Brief, span
from infoplane.core.errors import closest
from infoplane.core.records import Array, BoolArray, FloatArray, IntArray
from infoplane.core.text import listed, printable
from infoplane.core.tokens import token_position
from infoplane.core.units import BIT
from infoplane.results._csv import by_value
from infoplane.results.names import PAIR, lasting, pair_name, run_names
from infoplane.results.overview import named_way, settings_words

if TYPE_CHECKING:
    from infoplane.results.table import ResultTable


MISSING = {"f": np.nan, "i": 0, "O": ""}
"""What an array (steps, layers) holds where there is no point, by the kind of its dtype: float, integer, text."""
SAME_ESTIMATE = ("run", "step", "layer", "subset", "estimator", "config", "source")
"""Columns in which the rows of one estimate on one snapshot agree."""


@dataclass(frozen=True)
class Ceiling:
    """The largest value a quantity can take here, and what it is called."""

    value: float
    name: str

    def __str__(self) -> str:
        return f"{self.name} = {self.value:.3g}"


@dataclass(frozen=True, eq=False, kw_only=True)
class Plane:
    """Points of the information plane, as arrays of one shape; information in bits.

    `ResultTable.plane` gives points (P,), in table order, of all runs and estimates that were asked for;
    `plots.plane_data` gives (S, L), steps and layers, of one run and one estimate, with the words of their figure. NaN,
    0 or "" stand where such an array has no point.

    Attributes
    ----------
    run, layer, subset, estimator, settings, config : text
    step, depth, n_samples, n_units : int64
    epoch : float64, NaN where the loop counted none
    i_xt, i_ty : I(X;T) and I(T;Y); NaN where the snapshot was refused
    i_xt_low, i_xt_high, i_ty_low, i_ty_high : 95 % sampling intervals, NaN where there are none
    i_xt_ceiling, i_ty_ceiling : the largest possible value, H(X) or log2 N and H(Y)
    i_xt_bound, i_ty_bound : "point", "upper" or "lower"
    estimand : what a value means, "binned", "noisy-finite", ...
    i_xt_flags, i_ty_flags : names joined by ";"
    i_ty_null, i_ty_null_high : mean and 97.5 % point of I(T;Y) on shuffled labels, NaN without a null
    saturated : bool, where either number is only its ceiling
    layers : list of str, L of them; in (S, L) the columns, in the order of the forward pass
    steps, times : (S,) float64
        `times` are the steps, or the epochs where a figure was asked for these.
    ceiling_xt, ceiling_ty : the largest ceilings of a figure with their names, None where there are none
    labels, caption : what a figure writes at its axes and below them
    marks : mapping from layer to mark, of layers by another method than most
    """

    run: Array
    step: IntArray
    epoch: FloatArray
    layer: Array
    depth: IntArray
    subset: Array
    estimator: Array
    settings: Array
    config: Array
    n_samples: IntArray
    n_units: IntArray
    i_xt: FloatArray
    i_ty: FloatArray
    i_xt_low: FloatArray
    i_xt_high: FloatArray
    i_ty_low: FloatArray
    i_ty_high: FloatArray
    i_xt_ceiling: FloatArray
    i_ty_ceiling: FloatArray
    i_xt_bound: Array
    i_ty_bound: Array
    estimand: Array
    i_xt_flags: Array
    i_ty_flags: Array
    i_ty_null: FloatArray
    i_ty_null_high: FloatArray

    layers: list[str]
    steps: FloatArray
    times: FloatArray
    ceiling_xt: Ceiling | None = None
    ceiling_ty: Ceiling | None = None
    labels: tuple[str, str] = ("I(X;T) [bits]", "I(T;Y) [bits]")
    caption: list[str] = field(default_factory=list)
    marks: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return int(self.known.sum())

    def __repr__(self) -> str:
        """Return the number of points, the runs, steps, estimates and layers, and the ranges of values, in words."""
        ways = dict.fromkeys(zip(*(getattr(self, name)[self.known] for name in WAY), strict=True))
        runs = len(set(self.run[self.known]))
        return (
            f"Plane: {len(self)} points of {runs} run{'s' if runs != 1 else ''}, steps {span(self.step[self.known])}; "
            f"{listed([named_way(e, settings_words(s), subset) for e, s, subset in ways], 3)}; "
            f"layers {listed(list(map(printable, self.layers)), 6)}\n"
            f"I(X;T) {span(self.i_xt)} bits, I(T;Y) {span(self.i_ty)} bits; {self.saturated.sum()} points saturated"
        )

    @property
    def known(self) -> BoolArray:
        """A mask of the entries that are a point, even one whose numbers could not be estimated."""
        return np.asarray(self.estimator != "")

    @property
    def present(self) -> BoolArray:
        """A mask of the entries that are a point with both numbers."""
        return np.isfinite(self.i_xt) & np.isfinite(self.i_ty)

    @property
    def points(self) -> FloatArray:
        """(P, 2): all points that are `present`."""
        return np.column_stack([self.i_xt[self.present], self.i_ty[self.present]])

    def flag(self, of: Literal["i_xt", "i_ty"], name: str) -> BoolArray:
        """Return a mask of the points at which the number `of` ("i_xt" or "i_ty") carries the flag `name`."""
        texts: Array = getattr(self, f"{of}_flags")
        return by_value(texts.ravel().tolist(), lambda text: name in text.split(";"), bool).reshape(texts.shape)

    @cached_property
    def saturated(self) -> BoolArray:
        """A mask of the points that have both numbers and of which at least one is flagged as saturated."""
        return (self.flag("i_xt", "saturated") | self.flag("i_ty", "saturated")) & self.present

    @cached_property
    def cornered(self) -> BoolArray:
        """(L,): which layers have, at every step with a point, both numbers flagged as saturated.

        All their points lie in the corner of the plane that both ceilings form.
        """
        both = self.flag("i_xt", "saturated") & self.flag("i_ty", "saturated")
        return np.asarray((both | ~self.present).all(axis=0) & self.present.any(axis=0))

    @property
    def drawn(self) -> BoolArray:
        """(S, L): which points get a marker: all, but of a layer that is `cornered` only the last."""
        # The last point of a layer: counted from the end, the number of its points is 1 there.
        last = self.present & (np.cumsum(self.present[::-1], axis=0)[::-1] == 1)
        return np.where(self.cornered, last, self.present)

    @property
    def paths(self) -> list[FloatArray]:
        """For each of the S steps, the points (k, 2) of the k layers that have one, in the order of the layers."""
        return [np.column_stack([self.i_xt[s, at], self.i_ty[s, at]]) for s, at in enumerate(self.present)]

    def path(self, layer: int) -> tuple[FloatArray, FloatArray, BoolArray]:
        """Return I(X;T), I(T;Y) and a mask of what is saturated, each (k,): the drawn points of layer number `layer`.

        They are in step order, of a plane whose arrays are (S, L).
        """
        at = self.drawn[:, layer]
        return self.i_xt[at, layer], self.i_ty[at, layer], self.saturated[at, layer]

    def only_layers(self, layers: Sequence[str]) -> Plane:
        """Return a plane with only these layers; the arrays of this one must be (S, L)."""
        at = [self.layers.index(layer) for layer in layers]
        return replace(self, layers=list(layers), **{name: getattr(self, name)[:, at] for name in POINT})

    def trajectories(self) -> Iterator[tuple[tuple[str, str, str, str, str], IntArray]]:
        """Yield the points of each layer: ((run, estimator, settings, subset, layer), indices in step order).

        Indices are those of `i_xt.flat`, which counts the points of arrays (S, L) row by row.
        """
        return self._groups("layer", ("step", "depth"))

    def networks(self) -> Iterator[tuple[tuple[str, str, str, str, int], IntArray]]:
        """Yield the layers of a network at each step: ((run, estimator, settings, subset, step), indices by depth)."""
        return self._groups("step", ("depth", "step"))

    def _groups(self, last: str, order: Sequence[str]) -> Iterator[tuple[Any, IntArray]]:
        """Yield (key, indices) for each set of points that agree in run, estimate and the field `last`.

        The key has their values; indices are sorted by the fields in `order`, the first of them first.
        """
        columns = [[getattr(self, name).ravel() for name in names] for names in (("run", *WAY, last), order)]
        # key[1] is the estimator, an empty text where an array (S, L) has no point.
        return ((key, index) for key, index in groups(*columns) if key[1])


WAY = ("estimator", "settings", "subset")
"""The fields that tell one estimate of a run from another."""
POINT = tuple(takewhile(lambda name: name != "layers", (one.name for one in fields(Plane))))
"""The fields of a plane that have an entry for each point."""


@dataclass(frozen=True, eq=False)
class Grid(Brief):
    """One quantity of one run as arrays (steps, layers), NaN where the table has no row.

    Attributes
    ----------
    steps, epochs, times : (S,) float64
        `times` is the one of the two that was asked for with `against`.
    layers : list of str, L of them
    value, low, high, ceiling : (S, L) float64
    flags : mapping from flag name to (S, L) bool
    bounds, estimands : set of str
        Those met in the rows: "point", "upper", "lower"; "binned", ...
    unit : str
    n_samples : list of int
        The numbers of samples met in the rows of all quantities, ascending.
    real_targets : bool
        Whether Y is real-valued, so that H(Y) is no ceiling.
    """

    quantity: str
    steps: FloatArray
    epochs: FloatArray
    times: FloatArray
    layers: list[str]
    value: FloatArray
    low: FloatArray
    high: FloatArray
    ceiling: FloatArray
    flags: Mapping[str, BoolArray]
    bounds: frozenset[str]
    estimands: frozenset[str]
    unit: str
    n_samples: list[int]
    real_targets: bool = False

    def flag(self, name: str) -> BoolArray:
        """Return a mask (S, L) of the values that carry the flag `name`; a flag that is never raised gives no True."""
        return self.flags.get(name, np.zeros(self.value.shape, dtype=bool))

    @property
    def top(self) -> float | None:
        """The largest ceiling, None where no row has one."""
        known = self.ceiling[np.isfinite(self.ceiling)]
        return float(known.max()) if known.size else None

    def named_ceiling(self, n_samples: Sequence[int] | None = None) -> Ceiling | None:
        """Return the largest ceiling with its name, None where no row has one; `n_samples` as in `ceiling_name`."""
        return None if self.top is None else Ceiling(self.top, self.ceiling_name(n_samples))

    def ceiling_name(self, n_samples: Sequence[int] | None = None) -> str:
        """Return the name of the ceiling of this quantity.

        Of I(X;T) it is "log₂ N" where the ceiling is the logarithm of the number of samples, else "H(X)". Of I(T;Y) it
        is "H(Y)" for classes. Real targets, and pairs of layers, have no H(Y): there it is "largest estimate", the
        largest number that the estimator can give for the sample. The ceiling of a quantity that is not in bits is no
        entropy: its name is "maximum".

        Parameters
        ----------
        n_samples : sequence of int, optional
            All numbers of samples that occur; by default those of this grid. Give those of several runs where the
            ceiling is shown for all of them.
        """
        if self.unit != BIT:
            return "maximum"
        if PAIR in self.quantity:
            return "largest estimate"
        if self.quantity.startswith("I(T;Y)"):
            return "largest estimate" if self.real_targets else "H(Y)"
        top, sizes = self.top, self.n_samples if n_samples is None else n_samples
        if top is not None and len(sizes) == 1 and math.isclose(top, math.log2(sizes[0]), abs_tol=1e-6):
            return "log₂ N"
        return "H(X)"


@dataclass(frozen=True, eq=False, kw_only=True)
class Curve:
    """One quantity of one layer of one run against step, ascending; arrays (steps,). `name` is that of the run.

    `partner` is "" but for quantities of pairs; `fc1@previous` where it is the layer at the step before.
    """

    run: str
    layer: str
    depth: int
    subset: str
    estimator: str
    settings: str
    quantity: str
    estimand: str
    bound: str
    unit: str
    step: IntArray
    epoch: FloatArray
    value: FloatArray
    low: FloatArray
    high: FloatArray
    ceiling: FloatArray
    flags: Array
    n_samples: IntArray
    name: str = ""
    partner: str = ""

    def __len__(self) -> int:
        return len(self.step)

    def __repr__(self) -> str:
        """Return what the curve shows, its steps and its range, in words."""
        way = named_way(self.estimator, settings_words(self.settings), self.subset)
        pair = printable(pair_name(self.layer, self.partner))
        what = f"{printable(self.quantity)} of {pair}, run {printable(self.name or self.run)}, {way}"
        return f"Curve({what}: {len(self)} steps {span(self.step)}, {span(self.value)} {printable(self.unit)})"


@dataclass(frozen=True, kw_only=True)
class DataProcessing:
    """Violations of the data-processing inequality I(X;T_{l+1}) <= I(X;T_l) + slack of one run and estimate.

    `pairs` counts neighbouring layers with both values, over all steps; `worst` is the largest rise in bits
    (negative where every layer fell). `name` is that of the run.
    """

    run: str
    estimator: str
    settings: str
    subset: str
    pairs: int
    violations: int
    worst: float
    chain: tuple[str, ...]
    slack: float
    name: str = field(default="", compare=False)

    def __repr__(self) -> str:
        """Return in words which run and estimate this is about, and how many pairs violate the inequality."""
        way = named_way(self.estimator, settings_words(self.settings), self.subset)
        rises = f"{self.violations} of {self.pairs} pairs rise by more than {self.slack:g} bits"
        return f"DataProcessing(run {printable(self.name or self.run)}, {way}: {rises}, worst {self.worst:.3g})"

    @property
    def share(self) -> float:
        """The violations as a share of the pairs."""
        return self.violations / self.pairs


def groups(columns: Sequence[Array], order: Sequence[Array]) -> Iterator[tuple[Any, IntArray]]:
    """Yield (key, row numbers) for each set of rows that are equal in all `columns`.

    Sets come in the order of their first rows. The key has their values in `columns`; row numbers are sorted by the
    columns in `order`, the first of which is the main one.
    """
    found: dict[Any, list[int]] = {}
    for row, key in enumerate(zip(*(column.tolist() for column in columns), strict=True)):
        found.setdefault(key, []).append(row)
    for key, rows in found.items():
        index = np.array(rows, dtype=np.int64)
        yield key, index[np.lexsort([column[index] for column in reversed(order)])]


def pair(table: ResultTable) -> Plane:
    """Return the points of the plane as arrays (P,): I(X;T) and I(T;Y) of the same estimate on the same snapshot.

    An estimate that lacks one of the two gives no point; the null is NaN where there is none.
    """
    # {quantity: {estimate on a snapshot: number of the row that holds it}}
    rows: dict[str, dict[Any, int]] = {"I(X;T)": {}, "I(T;Y)": {}, "I(T;Y) null": {}}
    estimates = zip(*(table[name].tolist() for name in SAME_ESTIMATE), strict=True)
    for row, (quantity, estimate) in enumerate(zip(table["quantity"].tolist(), estimates, strict=True)):
        if quantity in rows:
            rows[quantity][estimate] = row
    xt, ty, null = rows.values()
    # An estimate without a null gets a row number beyond the end, where NaN is appended below.
    joined = [(row, ty[estimate], null.get(estimate, len(table))) for estimate, row in xt.items() if estimate in ty]
    at_xt, at_ty, at_null = np.array(joined, dtype=np.int64).reshape(-1, 3).T
    same = [name for name in POINT if not name.startswith("i_")]
    steps = np.unique(table["step"][at_xt]).astype(np.float64)
    own = ("low", "high", "ceiling", "bound", "flags")
    columns: dict[str, Any] = {name: table[name][at_xt] for name in same}
    for of, at in (("i_xt", at_xt), ("i_ty", at_ty)):
        columns |= {of: table["value"][at]} | {f"{of}_{name}": table[name][at] for name in own}
    return Plane(
        **columns,
        i_ty_null=np.append(table["value"], np.nan)[at_null],
        i_ty_null_high=np.append(table["high"], np.nan)[at_null],
        layers=list(dict.fromkeys(table["layer"][at_xt].tolist())),
        steps=steps,
        times=steps,
    )


def curves(table: ResultTable) -> list[Curve]:
    """Return a curve for each run, layer, subset, estimator, settings, quantity and partner, as the table has them."""
    names = ("run", "layer", "subset", "estimator", "settings", "quantity", "partner")
    alike = ("depth", "estimand", "bound", "unit")
    along = ("step", "epoch", "value", "low", "high", "ceiling", "flags", "n_samples")
    columns = {name: table[name] for name in (*names, *alike, *along)}
    columns["partner"] = by_value(table["partner"].tolist(), lasting)
    called = run_names(table)
    out = []
    for key, index in groups([columns[name] for name in names], [columns["step"]]):
        own: dict[str, Any] = dict(zip(names, key, strict=True))
        own |= {name: columns[name].item(index[0]) for name in alike}
        own |= {name: columns[name][index] for name in along}
        out.append(Curve(**own, name=called[own["run"]]))
    return out


Chain = Sequence[str] | Mapping[str, Sequence[str]] | None


def data_processing(table: ResultTable, chain: Chain, slack: float) -> list[DataProcessing]:
    """Return how often I(X;T) rises from a layer to the next by more than `slack` bits, for each run and estimate.

    Only runs with a known chain of layers are counted, and pairs with both values. `table` has the current rows of
    I(X;T).
    """
    check_chain(chain, table["layer"].tolist())
    names = ("run", "estimator", "settings", "subset")
    called = run_names(table)
    out = []
    for key, index in groups([table[name] for name in names], [table["step"], table["depth"]]):
        own: dict[str, Any] = dict(zip(names, key, strict=True))
        layers = _chain_of(own["run"], table, index, chain)
        rises = _rises(table, index, layers)
        if rises.size:
            own |= {"pairs": rises.size, "violations": int((rises > slack).sum()), "worst": float(rises.max())}
            out.append(DataProcessing(**own, chain=layers, slack=slack, name=called[own["run"]]))
    return out


def check_chain(chain: Chain, layers: Sequence[str]) -> None:
    """Raise TypeError where `chain` is a text, ValueError where it names a layer that is not in `layers`.

    A mapping with a chain for each run is not checked.
    """
    if isinstance(chain, str):
        raise TypeError(f"chain must be a sequence of layer keys, got the text {chain!r}")
    if chain is None or isinstance(chain, Mapping) or not layers:
        return
    known = list(dict.fromkeys(layers))
    for layer in chain:
        if layer not in known:
            raise ValueError(f"no I(X;T) of a layer {layer!r}; closest: {', '.join(closest(layer, known)) or 'none'}")


def _rises(table: ResultTable, rows: IntArray, layers: Sequence[str]) -> FloatArray:
    """Return the rises (P,) of I(X;T) in bits from each layer of the chain to the next one that has a value, per step.

    `layers` is the chain, `rows` are the numbers of the rows of one run and estimate.
    """
    rank = {layer: i for i, layer in enumerate(layers)}
    place = np.array([rank.get(layer, -1) for layer in table["layer"][rows].tolist()])
    step, value, branch = (table[name][rows] for name in ("step", "value", "branch"))
    known = (place >= 0) & ~np.isnan(value)
    step, value, place, branch = step[known], value[known], place[known], branch[known]
    order = np.lexsort([place, step])
    with np.errstate(invalid="ignore"):
        rises = np.diff(value[order])
    # Left out where two methods gave the values: the difference may then come from the methods.
    alike = branch[order][1:] == branch[order][:-1]
    return np.asarray(rises[(np.diff(step[order]) == 0) & alike])


def _chain_of(run: str, table: ResultTable, rows: IntArray, chain: Chain) -> tuple[str, ...]:
    """Return the layers of a run, in order, that form a chain: each feeds only the next. () where none is known.

    A `chain` that the caller gave comes first, then what the run recorded about its layers.
    """
    if isinstance(chain, Mapping):
        return tuple(chain.get(run, ()))
    if chain is not None:
        return tuple(chain)
    recorded = table.meta.get("runs", {}).get(run, {}).get("chain")
    if recorded is True:
        depth = dict(zip(table["layer"][rows].tolist(), table["depth"][rows].tolist(), strict=True))
        # A single position of a sequence is no link of the chain: the next layer depends on other positions, too.
        whole = [layer for layer in depth if token_position(layer) is None]
        return tuple(sorted(whole, key=lambda layer: depth[layer]))
    return tuple(map(str, recorded)) if isinstance(recorded, list) else ()
