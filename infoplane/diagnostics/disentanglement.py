"""Is each attribute in one unit? Mutual information gaps, MIG and its form for attributes that depend on each other."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from infoplane.core.brief import Brief
from infoplane.diagnostics._codes import FloatArray, IntArray, codes, entropy_bits, information_bits, joint_counts
from infoplane.diagnostics._place import Entry, Place, digest, rows, units_float64
from infoplane.results import Row

ESTIMATOR = "disentanglement"
DETERMINED = 1e-9
Information = Callable[[FloatArray, IntArray], float]


@dataclass(frozen=True, eq=False, kw_only=True)
class Disentanglement(Brief):
    """Gaps of every attribute.

    Attributes
    ----------
    information : (A, D) float64
        Bits between attributes and units.
    mig : (A,) float64
    dmig : (A,) float64
        NaN where the other attribute determines this one.
    units : (A, 2) int64
        The units that know most and second most of each attribute.
    flags : tuple of str
        `saturated` where, without `information`, a unit has a value of its own in every sample: it then knows all.
    """

    information: FloatArray
    mig: FloatArray
    dmig: FloatArray
    units: IntArray
    flags: tuple[str, ...]
    n_samples: int
    config: dict[str, Any]
    source: str

    def rows(self, where: Place) -> list[Row]:
        """Rows "MIG", "DMIG" (means over attributes) and each attribute's own, for the results table."""
        flags = self.flags
        entries = [Entry("MIG", float(self.mig.mean()), "share", ceiling=1.0, flags=flags)]
        known = self.dmig[np.isfinite(self.dmig)]
        if known.size:
            entries.append(Entry("DMIG", float(known.mean()), "share", flags=flags))
        for i, (mig, dmig) in enumerate(zip(self.mig.tolist(), self.dmig.tolist(), strict=True)):
            entries.append(Entry(f"MIG attribute {i}", mig, "share", ceiling=1.0, flags=flags))
            entries += [Entry(f"DMIG attribute {i}", dmig, "share", flags=flags)] * math.isfinite(dmig)
        size = {"n_samples": self.n_samples, "n_units": self.information.shape[1]}
        return rows(where, ESTIMATOR, self.config, entries, source=self.source, **size)


def disentanglement(
    t: npt.ArrayLike, attributes: npt.ArrayLike, *, information: Information | None = None
) -> Disentanglement:
    """Mutual information gap of each attribute: of the unit that knows most of it over the second, in its entropy.

        MIG_a = (I(a;z_j) - I(a;z_k)) / H(a),    DMIG_a = (I(a;z_j) - I(a;z_k)) / H(a|a_l),

    z_j and z_k the units that know most and second most of a, a_l the attribute that z_k knows most of. Where
    attributes depend on each other the second unit must know some of a, and MIG stays below 1 for a perfect code, DMIG
    does not. Where z_k knows most of a itself, both are equal.

    How it misleads: all informations must come from one estimator at one setting, and a bias that all share falls out
    of the difference but not of the ratio. One attribute split evenly over two units reads 0, like one that no unit
    knows. DMIG is absent where the other attribute determines this one, and may exceed 1 by what estimates err.

    Parameters
    ----------
    t : (N, D) array, D of at least 2
        Units. Without `information` each of their different values is a code: bin them first, since a unit with a
        value for each sample would know every attribute (flag `saturated`).
    attributes : (N, A) array
        Whole numbers or names.
    information : callable, optional
        Bits between a unit (N,) and an attribute's codes (N,), such as `infoplane.estimators.knn.ross`.

    Raises
    ------
    ValueError
        Different numbers of samples, one unit, or an attribute with one value.

    References
    ----------
    Chen, Li, Grosse and Duvenaud, "Isolating sources of disentanglement in variational autoencoders", 2018.
    Watcharasupat and Lerch, "Evaluation of latent space disentanglement in the presence of interdependent attributes",
    2021.

    Examples
    --------
    >>> a = np.indices((2, 2)).reshape(2, -1).T
    >>> disentanglement(a, a).mig.tolist()
    [1.0, 1.0]
    """
    units = units_float64(t, "t")
    columns = [codes(column, f"attribute {i}") for i, column in enumerate(np.asarray(attributes).T)]
    if units.shape[1] < 2 or any(len(column) != len(units) for column in columns):
        raise ValueError(
            f"expected at least 2 units and attributes of the same samples, got {units.shape} and "
            f"{np.shape(attributes)}"
        )
    of = information or _plug_in
    own = information is None and any(len(np.unique(unit)) == len(units) for unit in units.T)
    bits = np.array([[of(unit, column) for unit in units.T] for column in columns])
    best = np.argsort(-bits, axis=1, kind="stable")[:, :2]
    gap = np.take_along_axis(bits, best, 1) @ [1.0, -1.0]
    entropy = np.array([entropy_bits(np.bincount(column)) for column in columns])
    if not entropy.all():
        raise ValueError(f"attribute {int(entropy.argmin())} has one value, of which no unit can know anything")
    left = np.array([_left(columns, a, int(bits[:, k].argmax())) for a, k in enumerate(best[:, 1])])
    return Disentanglement(
        information=bits,
        mig=gap / entropy,
        dmig=np.divide(gap, left, out=np.full(len(gap), np.nan), where=left > DETERMINED),
        units=best,
        flags=("saturated",) * own,
        n_samples=len(units),
        config={"information": "codes" if information is None else getattr(information, "__name__", "given")},
        source=digest(units, *columns),
    )


def _plug_in(unit: FloatArray, attribute: IntArray) -> float:
    return information_bits(joint_counts(codes(unit, "a unit"), attribute))


def _left(columns: list[IntArray], a: int, other: int) -> float:
    """Bits that attribute `a` leaves open to who knows attribute `other`: H(a|a_l), or H(a) where both are one."""
    alone = entropy_bits(np.bincount(columns[a]))
    return alone if a == other else alone - information_bits(joint_counts(columns[a], columns[other]))
