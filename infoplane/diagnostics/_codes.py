"""Discrete variables as codes: the code of each row, tables of joint counts, and plug-in entropies of tables."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from infoplane.core.records import IntArray
from infoplane.core.units import BITS_PER_NAT
from infoplane.diagnostics._place import finite_float64

MOST_CELLS = 50_000_000
"""Cells of a table of joint counts that are held in memory."""


def codes(values: npt.ArrayLike, name: str) -> IntArray:
    """Return a code (N,), a whole number from 0, for each row of (N,) or (N, ...): equal rows have equal codes.

    ValueError, with `name`, where there are no samples or a value is not finite; TypeError for other things than
    numbers and names.
    """
    array = np.asarray(values)
    if array.ndim == 0 or array.size == 0:
        raise ValueError(f"{name} must have shape (samples,) or (samples, units), got {array.shape}")
    if array.dtype.kind == "f":
        array = finite_float64(array, f"{name} has", "values")
    elif array.dtype.kind not in "iubU":
        raise TypeError(f"{name} must hold whole numbers, names or real numbers, got {array.dtype}")
    rows = array if array.ndim == 1 else array.reshape(len(array), -1)
    return np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)


def same_samples(named: Mapping[str, npt.ArrayLike]) -> list[IntArray]:
    """Return the codes (N,) of each variable; raise ValueError, with their names, if numbers of samples differ."""
    found = {name: codes(values, name) for name, values in named.items()}
    sizes = {name: len(each) for name, each in found.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"all must have the same samples, got {', '.join(f'{n} {k}' for n, k in sizes.items())}")
    return list(found.values())


def joint_counts(*variables: IntArray) -> IntArray:
    """Count how many samples have each combination of codes (N,): a table with an axis for each variable.

    ValueError where it would have more than `MOST_CELLS` cells.
    """
    shape = tuple(int(each.max()) + 1 for each in variables)
    if math.prod(shape) > MOST_CELLS:
        raise ValueError(f"a table of {' x '.join(map(str, shape))} values has too many cells; bin them more coarsely")
    flat = np.bincount(np.ravel_multi_index(variables, shape), minlength=math.prod(shape))
    return flat.reshape(shape).astype(np.int64)


def entropy_bits(table: npt.NDArray[np.generic]) -> float:
    """Return the plug-in entropy in bits of counts or probabilities of any shape."""
    p = np.asarray(table, np.float64).ravel()
    p = p[p > 0] / p.sum()
    return float(-(p * np.log(p)).sum() * BITS_PER_NAT) + 0.0  # which makes 0 of -0, for a single value


def joint_entropy_bits(*variables: IntArray) -> float:
    """Return the plug-in entropy in bits of several variables together, without a table of all combinations."""
    return entropy_bits(np.unique(np.stack(variables), axis=1, return_counts=True)[1])


def information_bits(table: npt.NDArray[np.generic]) -> float:
    """Return the plug-in information in bits between the last axis of a table and all others together."""
    p = np.asarray(table, np.float64).reshape(-1, np.shape(table)[-1])
    p = p / p.sum()
    apart, some = p.sum(1, keepdims=True) * p.sum(0, keepdims=True), p > 0
    # Of a plug-in information only rounding is below 0.
    return max(0.0, float((p[some] * np.log(p[some] / apart[some])).sum()) * BITS_PER_NAT)
