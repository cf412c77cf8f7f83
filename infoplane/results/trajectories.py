"""Rows of a table joined into points of the plane, curves over training and data-processing counts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from infoplane.core.errors import closest

Array = npt.NDArray[Any]
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

SAME_ESTIMATE = ("run", "step", "layer", "subset", "estimator", "config", "source")


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
        yield from self._groups(("run", "estimator", "settings", "subset", "layer"), ("step", "depth"))

    def steps(self) -> Iterator[tuple[tuple[str, str, str, str, int], IntArray]]:
        """((run, estimator, settings, subset, step), indices in depth order): the layers of one network."""
        yield from self._groups(("run", "estimator", "settings", "subset", "step"), ("depth", "step"))

    def _groups(self, names: Sequence[str], order: Sequence[str]) -> Iterator[tuple[Any, IntArray]]:
        return groups({name: getattr(self, name) for name in (*names, *order)}, names, order)


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


def groups(
    columns: Mapping[str, Array] | pd.DataFrame, names: Sequence[str], order: Sequence[str]
) -> Iterator[tuple[Any, IntArray]]:
    """Rows that are equal in `names`, each group sorted by `order`; groups in the order of their first rows."""
    frame = pd.DataFrame({name: columns[name] for name in names})
    number = frame.groupby(list(names), sort=False).ngroup().to_numpy()
    index = np.lexsort([*(columns[name] for name in reversed(order)), number])
    # One cut where the number of the group changes.
    parts = np.split(index, np.flatnonzero(np.diff(number[index])) + 1) if index.size else []
    keys = frame.iloc[[part[0] for part in parts]].itertuples(index=False, name=None)
    yield from zip(keys, parts, strict=True)


def pair(rows: pd.DataFrame) -> Plane:
    """Join I(X;T), I(T;Y) and the null of the same estimate on the same data."""
    keys = list(SAME_ESTIMATE)
    names = {"I(X;T)": "i_xt", "I(T;Y)": "i_ty", "I(T;Y) null": "i_ty_null"}
    parts = {name: rows[rows["quantity"] == quantity] for quantity, name in names.items()}
    numbers = ["value", "low", "high", "ceiling", "bound", "flags"]
    points = parts["i_xt"].rename(columns={n: f"i_xt_{n}" for n in numbers})
    for name in ("i_ty", "i_ty_null"):
        part = parts[name][keys + numbers].rename(columns={n: f"{name}_{n}" for n in numbers})
        points = points.merge(part, on=keys, how="inner" if name == "i_ty" else "left")
    points = points.rename(columns={f"{name}_value": name for name in names.values()})
    return Plane(**{field.name: points[field.name].to_numpy() for field in fields(Plane)})


def curves(rows: pd.DataFrame) -> list[Curve]:
    """One curve for each run, layer, subset, estimator, settings and quantity, in the order of their first rows."""
    names = ("run", "layer", "subset", "estimator", "settings", "quantity")
    columns = {name: rows[name].to_numpy() for name in rows.columns}
    out = []
    for key, index in groups(columns, names, ("step",)):
        alike = {name: columns[name][index[0]] for name in ("estimand", "bound", "unit")}
        along = ("step", "epoch", "value", "low", "high", "ceiling", "flags", "n_samples")
        arrays: dict[str, Any] = {name: columns[name][index] for name in along}
        own = dict(zip(names, key, strict=True))
        out.append(Curve(depth=int(columns["depth"][index[0]]), **own, **alike, **arrays))
    return out


Chain = Sequence[str] | Mapping[str, Sequence[str]] | None


def data_processing(rows: pd.DataFrame, meta: Mapping[str, Any], chain: Chain, slack: float) -> list[DataProcessing]:
    """See `ResultTable.dpi`; `rows` are the current ones of I(X;T)."""
    check_chain(chain, rows)
    names = ("run", "estimator", "settings", "subset")
    out = []
    for key, index in groups(rows, names, ("step", "depth")):
        mine = rows.iloc[index]
        layers = _chain_of(key[0], mine, meta, chain)
        if layers is None:
            continue
        rises = _rises(mine, layers)
        if rises.size:
            own = dict(zip(names, key, strict=True))
            out.append(
                DataProcessing(
                    **own,
                    pairs=rises.size,
                    violations=int((rises > slack).sum()),
                    worst=float(rises.max()),
                    chain=tuple(layers),
                    slack=slack,
                )
            )
    return out


def check_chain(chain: Chain, rows: pd.DataFrame) -> None:
    """Raise where `chain` is no sequence, or names a layer that the rows do not have."""
    if isinstance(chain, str):
        raise TypeError(f"chain must be a sequence of layer keys, got the text {chain!r}")
    if chain is None or isinstance(chain, Mapping) or rows.empty:
        return
    known = list(dict.fromkeys(rows["layer"]))
    for layer in chain:
        if layer not in known:
            raise ValueError(f"no I(X;T) of a layer {layer!r}; closest: {', '.join(closest(layer, known)) or 'none'}")


def _rises(rows: pd.DataFrame, layers: Sequence[str]) -> FloatArray:
    """By how much I(X;T) rises from each layer of the chain to the next one that has a value at the same step."""
    rank = {layer: i for i, layer in enumerate(layers)}
    rows = rows[rows["layer"].isin(rank) & rows["value"].notna()]
    step, value = rows["step"].to_numpy(), rows["value"].to_numpy()
    order = np.lexsort([[rank[layer] for layer in rows["layer"]], step])
    with np.errstate(invalid="ignore"):
        rises = np.diff(value[order])
    return np.asarray(rises[np.diff(step[order]) == 0])


def _chain_of(run: str, rows: pd.DataFrame, meta: Mapping[str, Any], chain: Chain) -> list[str] | None:
    """The layers of a run in the order in which each feeds the next only; None where that is not known."""
    if isinstance(chain, Mapping):
        return list(chain[run]) if run in chain else None
    if chain is not None:
        return list(chain)
    recorded = meta.get("runs", {}).get(run, {}).get("chain")
    if isinstance(recorded, list):
        return [str(layer) for layer in recorded]
    if recorded is True:
        depth = dict(zip(rows["layer"], rows["depth"], strict=True))
        return sorted(depth, key=lambda layer: depth[layer])
    return None
