"""Labels, inputs and ids that several files give for the same samples: which axis they lie on, and in which order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from infoplane.core.labels import as_array, as_sample_ids
from infoplane.core.records import Array, IntArray
from infoplane.importers._read import Key

LABELS, INPUTS, IDS, STEPS = ("labels", "y"), ("inputs", "x"), ("sample_ids", "ids"), ("steps", "step")
"""Names of arrays that are no layers."""
ALIGN = "put 'sample_ids' into each file, and their rows are brought to one order"


@dataclass(eq=False)
class Rows:
    """Labels, inputs and ids of one source: a file, a step of it, an argument.

    Attributes
    ----------
    name : str
        For messages.
    labels, inputs : array (N, ...) or None
    ids : (N,) int64 or None
    layers : bool
        Whether activations come in the same rows.
    order : (N,) integers or None
        Numbers of its rows in the common order of all sources, which `agree` sets; None where that is their own order.
    """

    name: str
    labels: Array | None = None
    inputs: Array | None = None
    ids: IntArray | None = None
    layers: bool = False
    order: npt.NDArray[np.intp] | None = None

    @classmethod
    def of(cls, name: str, *, labels: Any = None, inputs: Any = None, ids: Any = None, layers: bool = False) -> Rows:
        """Rows of a source, whose arrays may be of any kind; ValueError, with its name, for what is no array or id."""
        try:
            labels = None if labels is None else _column(as_array(labels, "labels"))
            inputs = None if inputs is None else as_array(inputs, "inputs")
            ids = None if ids is None else as_sample_ids(ids, np.size(as_array(ids, "ids")))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        return cls(name, labels, inputs, ids, layers)


def _column(labels: Array) -> Array:
    """Labels (N, 1) as (N,), which say the same."""
    return labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels


def agree(sources: Sequence[Rows]) -> Rows:
    """Return the labels, inputs and ids of all sources together, in the order of the first source that has ids.

    Sets the `order` of each source, by which its rows are brought into that order.

    Raises
    ------
    ValueError
        Where two sources give one sample different labels or inputs, or hold different samples; where a source has no
        ids although others have their rows in several orders, or although it has layers and two others have ids. The
        message names two sources.
    """
    with_ids = [rows for rows in sources if rows.ids is not None]
    for rows in with_ids:
        rows.order = _order(rows, with_ids[0])
    moved = next((rows for rows in with_ids if rows.order is not None), None)
    for rows in sources:
        if rows.ids is None and (moved is not None or (rows.layers and len(with_ids) > 1)):
            other = moved or with_ids[0]
            raise ValueError(f"{other.name} has sample_ids, {rows.name} has none, so its order is not known; {ALIGN}")
    ids = with_ids[0].ids if with_ids else None
    return Rows("all files", _agreed("labels", sources, ids), _agreed("inputs", sources, ids), ids)


def _order(rows: Rows, first: Rows) -> npt.NDArray[np.intp] | None:
    """Numbers (N,) of the rows in the order of `first`; None where that is their own; ValueError for other samples."""
    if rows.ids is None or first.ids is None or np.array_equal(rows.ids, first.ids):
        return None
    missing = np.setxor1d(rows.ids, first.ids)
    if len(missing):
        without = (rows if missing[0] in first.ids else first).name
        what = f"{without} has no sample id {missing[0]} ({len(missing)} ids are in one only)"
        both = f"{first.name} and {rows.name}"
        raise ValueError(f"{both} hold different samples: {what}; save the same samples at every step")
    # place[k] is the row with the k-th smallest id; each id of the first source is looked up among them.
    place = np.argsort(rows.ids, kind="stable")
    return place[np.searchsorted(rows.ids[place], first.ids)]


def _agreed(what: str, sources: Sequence[Rows], ids: IntArray | None) -> Array | None:
    """Labels or inputs (`what`) of the first source that has them, None for none; ValueError where others differ."""
    said = [rows for rows in sources if getattr(rows, what) is not None]
    if not said:
        return None
    values = _sorted(what, said[0])
    for rows in said[1:]:
        other, differ = _sorted(what, rows), f"{said[0].name} and {rows.name} differ in their {what}"
        if other.shape != values.shape:
            raise ValueError(f"{differ}: shapes {values.shape} and {other.shape}")
        same = _equal(values, other)
        if not same.all():
            row = int(np.flatnonzero(~same)[0])
            where = f"row {row}; {ALIGN}" if ids is None else f"sample id {ids[row]}; a sample has one, at every step"
            raise ValueError(f"{differ}, first at {where}")
    return values


def _sorted(what: str, rows: Rows) -> Array:
    """Labels or inputs (`what`) of a source in the common order; ValueError where it has another number of ids."""
    values: Array = getattr(rows, what)
    if rows.ids is not None and values.shape[:1] != rows.ids.shape:
        raise ValueError(f"{rows.name} has {len(rows.ids)} sample_ids, but {what} of shape {values.shape}")
    return values if rows.order is None else values[rows.order]


def _equal(a: Array, b: Array) -> npt.NDArray[np.bool_]:
    """Which rows (N,) of two arrays of one shape are equal, NaN counting as equal to NaN."""
    same = np.asarray((a == b) | ((a != a) & (b != b)))  # NaN is unequal to itself
    return np.asarray(same.reshape(len(a) if a.ndim else 1, -1).all(axis=1))


def in_order(layer: Any, rows: Rows, name: str) -> Any:
    """A layer (N, ...) with its rows in the common order; ValueError where they are not as many as the ids."""
    if rows.ids is not None and len(layer) != len(rows.ids):
        raise ValueError(f"{rows.name}: layer {name!r} has {len(layer)} rows, there are {len(rows.ids)} sample_ids")
    if rows.order is None:
        return layer
    return layer[torch.from_numpy(rows.order)] if isinstance(layer, torch.Tensor) else layer[rows.order]


# MATLAB's arrays have two axes or more, in the user's order: which one holds the samples is told by its length.


def is_mat(file: Path) -> bool:
    """Whether MATLAB's rules for axes hold in a file."""
    return file.suffix.lower() == ".mat"


def column(values: Any) -> Array:
    """Numbers (1, N) or (N, 1) as (N,); any other array as it is."""
    array = as_array(values, "labels")
    return array.reshape(-1) if array.size == max(array.shape, default=0) > 1 else array


def samples_of(entries: Mapping[Key, Any]) -> int | None:
    """How many samples the labels say there are; None where no labels are among them."""
    labels = next((column(value) for key, value in entries.items() if key[-1] in LABELS), None)
    return None if labels is None or not labels.ndim else len(labels)


def samples_first(file: Path, entries: Mapping[Key, Any], elsewhere: int | None) -> dict[Key, Any]:
    """Entries of a file with the axis of the steps first, where there is one, and then that of the samples.

    `elsewhere` is the number of labels outside the file, for one without; None where there are none.
    """
    own = samples_of(entries)
    samples = elsewhere if own is None else own
    stated = next((column(value) for key, value in entries.items() if key[-1] in STEPS), np.empty(()))
    return {key: _turned(file, key, np.asarray(value), samples, stated.size) for key, value in entries.items()}


def _turned(file: Path, key: Key, array: Array, samples: int | None, steps: int) -> Any:
    """An array with its axes in our order: steps where there are several, then samples, then the rest."""
    name = str(key[-1])
    if array.size == 1:  # MATLAB's numbers are arrays (1, 1)
        return array.reshape(())
    if name in (*LABELS, *IDS, *STEPS):
        return _whole(column(array)) if name in IDS else column(array)
    by_step = steps > 1 and name not in INPUTS
    if by_step:
        array = _first(file, name, array, steps, "steps")
        if array.size == steps:  # a metric: one number for each step
            return array.reshape(-1)
    return array if samples is None else _first(file, name, array, samples, "labels", after=int(by_step))


def _first(file: Path, name: str, array: Array, count: int, what: str, *, after: int = 0) -> Array:
    """The array with its one axis of length `count` moved to place `after`; ValueError for none, or several.

    `what` is what lies along that axis, for the message: "steps" or "labels". Axes ahead of `after` are not looked at.
    """
    axes = [axis for axis in range(after, array.ndim) if array.shape[axis] == count]
    if len(axes) == 1:
        return np.moveaxis(array, axes[0], after)
    how_many, remedy = "none of its axes has", "save the values of all samples"
    if axes:
        how_many = f"{len(axes)} of its axes have"
        remedy = "save a file for each step" if what == "steps" else "pass from_arrays the array with that axis first"
    given = f"{file.name}: {name!r:.60} has shape {array.shape[after:]}"
    raise ValueError(f"{given}, and {how_many} the length of the {count} {what}; {remedy}")


def _whole(ids: Array) -> Array:
    """Ids as integers where all are whole and exact, else as they are: numbers of MATLAB are doubles by default."""
    if ids.dtype.kind == "f" and (abs(ids) <= 2**53).all() and (ids == np.round(ids)).all():
        return ids.astype(np.int64)
    return ids
