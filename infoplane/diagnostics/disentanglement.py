"""Is each attribute in one unit? Mutual information gaps, MIG and its form for attributes that depend on each other."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from infoplane.core.records import FloatArray, IntArray
from infoplane.diagnostics._codes import codes, entropy_bits, information_bits, joint_counts
from infoplane.diagnostics._place import Entry, Measured, digest, raised, units_float64

DETERMINED = 1e-9
"""Bits: an attribute with no more entropy than this given another one is determined by it."""
Information = Callable[[FloatArray, IntArray], float]


@dataclass(frozen=True, eq=False, kw_only=True)
class Disentanglement(Measured):
    """Mutual information gaps of every attribute.

    Its rows: "MIG" and "DMIG", the means over attributes, then "MIG attribute i" and "DMIG attribute i".

    Attributes
    ----------
    information : (A, D) float64
        Bits between attributes and units.
    mig, dmig : (A,) float64
        As in `disentanglement`; DMIG is NaN where the other attribute determines this one.
    units : (A, 2) int64
        The units that know most and second most of each attribute.
    flags : tuple of str
        `saturated` where, without `information`, a unit has a different value in every sample: it then knows all.
    """

    estimator: ClassVar[str] = "disentanglement"

    information: FloatArray
    mig: FloatArray
    dmig: FloatArray
    units: IntArray

    def _entries(self) -> list[Entry]:
        """Return the mean gaps MIG and DMIG, then both of each attribute; DMIG only where it is defined."""
        flags = self.flags
        entries = [Entry("MIG", float(self.mig.mean()), "share", ceiling=1.0, flags=flags)]  # DMIG may exceed 1
        known = self.dmig[np.isfinite(self.dmig)]
        if known.size:
            entries.append(Entry("DMIG", float(known.mean()), "share", flags=flags))
        for i, (mig, dmig) in enumerate(zip(self.mig.tolist(), self.dmig.tolist(), strict=True)):
            entries.append(Entry(f"MIG attribute {i}", mig, "share", ceiling=1.0, flags=flags))
            entries += [Entry(f"DMIG attribute {i}", dmig, "share", flags=flags)] if math.isfinite(dmig) else []
        return entries


def disentanglement(
    t: npt.ArrayLike, attributes: npt.ArrayLike, *, information: Information | None = None
) -> Disentanglement:
    """Mutual information gap of each attribute: how much more the best unit knows of it than the second best.

        MIG_a = (I(a;z_j) - I(a;z_k)) / H(a),    DMIG_a = (I(a;z_j) - I(a;z_k)) / H(a|a_l),

    with z_j and z_k the units that know most and second most of a, and a_l the attribute that z_k knows most of. Where
    attributes depend on each other, the second unit must know something of a, so MIG stays below 1 even for a perfect
    code, but DMIG does not. Where z_k knows more of a than of any other attribute, both are equal.

    How it misleads: all informations must come from one estimator at one setting, and a bias that all of them share
    cancels in the difference but not in the ratio. An attribute split evenly over two units reads 0, like one that no
    unit knows. DMIG is absent where the other attribute determines this one, and may exceed 1 by estimation errors.

    Parameters
    ----------
    t : (N, D) array, D of at least 2
        Activations of a layer. Without `information` each different value of a unit is a code: bin them first, since a
        unit with a different value for each sample would know every attribute (flag `saturated`).
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
    bits_between = information or _plug_in
    all_differ = information is None and any(len(np.unique(unit)) == len(units) for unit in units.T)
    bits = np.array([[bits_between(unit, column) for unit in units.T] for column in columns])  # (A, D)
    best = np.argsort(-bits, axis=1, kind="stable")[:, :2]
    gap = np.take_along_axis(bits, best, 1) @ [1.0, -1.0]  # of the best unit over the second best, (A,)
    entropy = np.array([entropy_bits(np.bincount(column)) for column in columns])
    if not entropy.all():
        raise ValueError(f"attribute {int(entropy.argmin())} has one value, of which no unit can know anything")
    # H(a|a_l) of each attribute a: a_l is the attribute that the second best unit of a knows most of.
    left_open = np.array([_open_bits(columns, a, int(bits[:, k].argmax())) for a, k in enumerate(best[:, 1])])
    return Disentanglement(
        information=bits,
        mig=gap / entropy,
        dmig=np.divide(gap, left_open, out=np.full(len(gap), np.nan), where=left_open > DETERMINED),
        units=best,
        flags=raised(saturated=all_differ),
        n_samples=len(units),
        n_units=units.shape[1],
        config={"information": "codes" if information is None else getattr(information, "__name__", "given")},
        source=digest(units, *columns),
    )


def _plug_in(unit: FloatArray, attribute: IntArray) -> float:
    """Return the bits that a unit (N,) has about an attribute (N,), each different value of the unit being a code."""
    return information_bits(joint_counts(codes(unit, "a unit"), attribute))


def _open_bits(columns: list[IntArray], a: int, other: int) -> float:
    """Return the bits of attribute `a` that `other` leaves open: H(a | other), or H(a) where both are one attribute."""
    alone = entropy_bits(np.bincount(columns[a]))
    return alone if a == other else alone - information_bits(joint_counts(columns[a], columns[other]))
