"""What plots need of a table, as plain arrays: plane points, curves, data-processing counts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from infoplane.core.errors import closest

if TYPE_CHECKING:
    from infoplane.results.table import ResultTable

Array = npt.NDArray[Any]
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False, kw_only=True)
class Plane:
    """Points of the information plane, arrays (points,) in table order; information in bits.

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

    def __len__(self) -> int:
        return len(self.run)

    def trajectories(self) -> Iterator[tuple[tuple[str, str, str, str, str], IntArray]]:
        """((run, estimator, settings, subset, layer), indices in step order), layers by depth."""
        names = ("run", "estimator", "settings", "subset", "layer")
        yield from _groups([getattr(self, n) for n in names], order=(self.step, self.depth))

    def steps(self) -> Iterator[tuple[tuple[str, str, str, str, int], IntArray]]:
        """((run, estimator, settings, subset, step), indices in depth order): the layers of one network."""
        names = ("run", "estimator", "settings", "subset", "step")
        yield from _groups([getattr(self, n) for n in names], order=(self.depth, self.step))


@dataclass(frozen=True, eq=False, kw_only=True)
class Curve:
    """One quantity of one layer of one run against step, ascending; arrays (steps,)."""

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

    def __len__(self) -> int:
        return len(self.step)


@dataclass(frozen=True, kw_only=True)
class DataProcessing:
    """Violations of the data-processing inequality I(X;T_{l+1}) <= I(X;T_l) + slack of one run and estimate.

    `pairs` counts neighbouring layers with both values, over all steps; `worst` is the largest rise in bits
    (negative where every layer fell).
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

    @property
    def share(self) -> float:
        return self.violations / self.pairs


def _groups(columns: Sequence[Array], order: Sequence[Array]) -> Iterator[tuple[Any, IntArray]]:
    """Rows with equal entries in `columns`, each sorted by `order`; groups as they first appear by depth."""
    found: dict[Any, list[int]] = {}
    for i, key in enumerate(zip(*(c.tolist() for c in columns), strict=True)):
        found.setdefault(key, []).append(i)
    for key, rows in found.items():
        index = np.array(rows, dtype=np.int64)
        yield key, index[np.lexsort([o[index] for o in reversed(order)])]


def pair(table: ResultTable) -> Plane:
    """Join I(X;T), I(T;Y) and the null of the same estimate on the same data."""
    keys = ("run", "step", "layer", "subset", "estimator", "config", "source")
    quantity = table["quantity"].tolist()
    rows: dict[str, dict[Any, int]] = {"I(X;T)": {}, "I(T;Y)": {}, "I(T;Y) null": {}}
    for i, key in enumerate(zip(*(table[k].tolist() for k in keys), strict=True)):
        if quantity[i] in rows:
            rows[quantity[i]][key] = i
    shared = [key for key in rows["I(X;T)"] if key in rows["I(T;Y)"]]
    xt = np.array([rows["I(X;T)"][key] for key in shared], dtype=np.int64)
    ty = np.array([rows["I(T;Y)"][key] for key in shared], dtype=np.int64)
    null = np.array([rows["I(T;Y) null"].get(key, -1) for key in shared], dtype=np.int64)

    def of_null(column: str) -> FloatArray:
        out = np.full(len(null), np.nan)
        out[null >= 0] = table[column][null[null >= 0]]
        return out

    same = ("run", "step", "epoch", "layer", "depth", "subset", "estimator", "settings", "config")
    return Plane(
        **{name: table[name][xt] for name in (*same, "n_samples", "n_units", "estimand")},
        i_xt=table["value"][xt],
        i_ty=table["value"][ty],
        **{f"i_xt_{name}": table[name][xt] for name in ("low", "high", "ceiling", "bound", "flags")},
        **{f"i_ty_{name}": table[name][ty] for name in ("low", "high", "ceiling", "bound", "flags")},
        i_ty_null=of_null("value"),
        i_ty_null_high=of_null("high"),
    )


def curves(table: ResultTable) -> list[Curve]:
    """Group rows into curves, in table order of their first row."""
    names = ("run", "layer", "subset", "estimator", "settings", "quantity")
    out = []
    for key, index in _groups([table[n] for n in names], order=(table["step"],)):
        first = int(index[0])
        fields: dict[str, Any] = dict(zip(names, key, strict=True))
        for name in ("estimand", "bound", "unit"):
            fields[name] = table[name][first]
        for name in ("step", "epoch", "value", "low", "high", "ceiling", "flags", "n_samples"):
            fields[name] = table[name][index]
        out.append(Curve(depth=int(table["depth"][first]), **fields))
    return out


def data_processing(
    table: ResultTable,
    meta: Mapping[str, Any],
    chain: Sequence[str] | Mapping[str, Sequence[str]] | None,
    slack: float,
) -> list[DataProcessing]:
    """See `ResultTable.dpi`; `table` holds current I(X;T) rows."""
    if isinstance(chain, str):
        raise TypeError(f"chain must be a sequence of layer keys, got the text {chain!r}")
    if chain is not None and not isinstance(chain, Mapping):
        known = list(dict.fromkeys(table["layer"].tolist()))
        for layer in chain:
            if layer not in known and len(table):
                raise ValueError(
                    f"no I(X;T) of a layer {layer!r}; closest: {', '.join(closest(layer, known)) or 'none'}"
                )
    out = []
    names = ("run", "estimator", "settings", "subset")
    for key, index in _groups([table[n] for n in names], order=(table["step"], table["depth"])):
        layers = _chain_of(key[0], table.take(index), meta, chain)
        if layers is None:
            continue
        rank = {layer: i for i, layer in enumerate(layers)}
        steps: dict[int, dict[int, float]] = {}
        for i in index.tolist():
            place = rank.get(table["layer"][i])
            value = float(table["value"][i])
            if place is not None and value == value:
                steps.setdefault(int(table["step"][i]), {})[place] = value
        rises = [
            values[b] - values[a]
            for values in steps.values()
            for a, b in zip(sorted(values), sorted(values)[1:], strict=False)
        ]
        if rises:
            out.append(
                DataProcessing(
                    **dict(zip(names, key, strict=True)),
                    pairs=len(rises),
                    violations=sum(rise > slack for rise in rises),
                    worst=max(rises),
                    chain=tuple(layers),
                    slack=slack,
                )
            )
    return out


def _chain_of(
    run: str,
    table: ResultTable,
    meta: Mapping[str, Any],
    chain: Sequence[str] | Mapping[str, Sequence[str]] | None,
) -> list[str] | None:
    if isinstance(chain, Mapping):
        return list(chain[run]) if run in chain else None
    if chain is not None:
        return list(chain)
    recorded = meta.get("runs", {}).get(run, {}).get("chain")
    if isinstance(recorded, list):
        return [str(layer) for layer in recorded]
    if recorded is True:
        depth = dict(zip(table["layer"].tolist(), table["depth"].tolist(), strict=True))
        return sorted(depth, key=lambda layer: depth[layer])
    return None
