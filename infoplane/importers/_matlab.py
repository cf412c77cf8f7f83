"""MATLAB's arrays have two axes or more, in the user's order: which one holds the samples is told by its length."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from infoplane.core.labels import as_array
from infoplane.importers._read import Key
from infoplane.importers._rows import IDS, INPUTS, LABELS, STEPS


def is_mat(file: Path) -> bool:
    """Whether MATLAB's rules for axes hold in a file."""
    return file.suffix.lower() == ".mat"


def column(values: Any) -> npt.NDArray[Any]:
    """A row or a column of numbers as one axis; anything else as it is."""
    array = as_array(values, "labels")
    return array.reshape(-1) if array.ndim and array.size == max(array.shape) > 1 else array


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


def _turned(file: Path, key: Key, array: npt.NDArray[Any], samples: int | None, steps: int) -> Any:
    """An array with its axes in our order: steps, then samples, then the rest."""
    name = str(key[-1])
    if array.size == 1:
        return array.reshape(())
    if name in (*LABELS, *IDS, *STEPS):
        return _whole(column(array)) if name in IDS else column(array)
    by_step = steps > 1 and name not in INPUTS
    if by_step:
        array = _first(file, name, array, steps, "steps")
        if array.size == steps:
            return array.reshape(-1)
    return array if samples is None else _first(file, name, array, samples, "labels", after=int(by_step))


def _first(
    file: Path, name: str, array: npt.NDArray[Any], count: int, what: str, *, after: int = 0
) -> npt.NDArray[Any]:
    """The one axis of this length moved to the front, or behind the first `after`; ValueError where it is not one."""
    axes = [axis for axis in range(after, array.ndim) if array.shape[axis] == count]
    if len(axes) == 1:
        return np.moveaxis(array, axes[0], after)
    shape = array.shape[after:] if after else array.shape
    how_many = "none of its axes has" if not axes else f"{len(axes)} of its axes have"
    remedy = "save the values of all samples" if not axes else "pass from_arrays the array with that axis first"
    if what == "steps" and axes:
        remedy = "save a file for each step"
    raise ValueError(
        f"{file.name}: {name!r:.60} has shape {shape}, and {how_many} the length of the {count} {what}; {remedy}"
    )


def _whole(ids: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Ids that are doubles, as MATLAB's numbers are by default, as integers where they are whole and exact."""
    if ids.dtype.kind == "f" and (abs(ids) <= 2**53).all() and (ids == np.round(ids)).all():
        return ids.astype(np.int64)
    return ids
