"""Labels and ids as a record holds them: one set of rules for probes and for arrays from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from infoplane.core.records import NO_LABEL, IntArray

_FOR_CLASSES = "for classes pass y.long(), or y.astype(int)"
_ROUNDING = 5e-3  # by which the sum of probabilities in bfloat16 may miss 1
_FEW = 20  # different whole numbers: floats with no more look like classes
_VOID, _SMALL = 255, 200  # segmentation masks mark void pixels with 255; their class counts stay well below


def as_array(values: Any, what: str) -> npt.NDArray[Any]:
    """Return values as a numpy array: of a tensor on any device, or of whatever numpy takes.

    Raises
    ------
    ValueError
        For masked entries, which numpy would give out as numbers, and for rows of different lengths.
    """
    if np.ma.isMaskedArray(values):
        if masked := int(np.ma.getmaskarray(values).sum()):
            raise ValueError(f"{what} have {masked} masked entries; leave those rows out")
        values = values.data
    if hasattr(values, "detach"):  # a tensor; core does not import torch
        values = values.detach().cpu()
        # numpy knows no bfloat16 and no float8
        values = (values.double() if values.is_floating_point() else values).numpy()
    try:
        array = np.asarray(values)
        # A column of a table comes as objects.
        return np.asarray(array.tolist()) if array.dtype == object and array.ndim == 1 and len(array) else array
    except ValueError as error:
        raise ValueError(f"{what} must be one array, got rows of different lengths") from error


def as_labels(y: Any, samples: int) -> npt.NDArray[Any]:
    """Return classes as int64 (samples,) or (samples, positions), targets as float64 (samples,) or (samples, k).

    Classes of positions may be -100, which marks a position without a label; there must be one somewhere.

    Raises
    ------
    ValueError
        With what to do: another length, text, negative classes, one-hot rows, several labels or class probabilities
        per sample, targets that are not finite.
    """
    labels = as_array(y, "labels")
    if labels.ndim == 0 or len(labels) != samples:
        got = "a scalar" if labels.ndim == 0 else f"{len(labels)} labels"
        raise ValueError(f"the probe has {samples} inputs but {got}; pass one label per input")
    if labels.ndim > 1 and labels.shape[1:] == (1,) * (labels.ndim - 1):
        labels = labels.reshape(samples)
    kind = labels.dtype.kind
    if kind in "US":  # text and bytes
        raise ValueError(
            f"labels are text ({str(labels.flat[0])!r:.20}, ...); number the classes with names, y = "
            "numpy.unique(labels, return_inverse=True), pass y, and the names as label_names"
        )
    if kind not in "fiub":  # floats, integers with and without sign, booleans
        got = "complex numbers" if kind == "c" else str(labels.dtype)
        raise ValueError(f"labels must be integers (classes) or floats (regression targets), got {got}")
    if labels.ndim > 1 and labels.size:
        _refuse_rows_of_classes(labels)
    return _targets(labels) if kind == "f" else _classes(labels)


def _refuse_rows_of_classes(labels: npt.NDArray[Any]) -> None:
    """Raise ValueError for rows (N, k) that say which class a sample has: one-hot, several labels, probabilities."""
    rows = labels.reshape(len(labels), -1)
    if ((rows == 0) | (rows == 1)).all():
        if (rows.sum(1) == 1).all():
            raise ValueError(f"labels are one-hot rows {labels.shape}; for the classes pass y.argmax(1)")
        raise ValueError(
            f"labels are rows of 0 and 1 {labels.shape}, several labels for a sample; pass one column, y[:, j], or "
            "number the combinations: numpy.unique(y, axis=0, return_inverse=True)[1]; where they are two classes for "
            "each position of a sequence, pass integers y + 1"
        )
    if labels.dtype.kind == "f" and (rows >= 0).all() and (abs(rows.sum(1) - 1) < _ROUNDING).all():
        raise ValueError(
            f"labels are soft, rows {labels.shape} that sum to 1; for classes pass y.argmax(1), for targets leave out "
            "one column, which the others determine: y[:, :-1]"
        )


def _classes(labels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return class labels (N,) or (N, positions) as int64; ValueError for negative ones and for more axes."""
    if labels.ndim > 2:
        raise ValueError(
            f"class labels must have shape (samples,) or (samples, positions), got {labels.shape}; for one-hot rows "
            "pass y.argmax(-1), of several labels per sample one column, y[:, j]"
        )
    labels = _as_int64(labels, "class labels", "; number them from 0")
    if labels.ndim == 2:
        return _position_classes(labels)
    negative = np.flatnonzero(labels < 0)
    if len(negative):
        value = int(labels[negative[0]])
        mark = ", which losses ignore" if value == -100 else ""
        raise ValueError(
            f"class labels must not be negative, got {value} at sample {negative[0]}{mark}; leave these "
            f"{len(negative)} samples out, or number the classes from 0"
        )
    return labels


def _position_classes(labels: IntArray) -> IntArray:
    """Return the same classes (N, positions); ValueError for negative ones but -100 (no label), or -100 everywhere."""
    bad = np.argwhere((labels < 0) & (labels != NO_LABEL))
    if len(bad):
        sample, position = bad[0].tolist()
        raise ValueError(
            f"class labels must not be negative, got {labels[sample, position]} at sample {sample}, position "
            f"{position}; {NO_LABEL} marks a position without a label, classes are numbered from 0"
        )
    if (labels == NO_LABEL).all():
        raise ValueError(f"labels {labels.shape} are {NO_LABEL} everywhere: no position has a label")
    return labels


def unlabelled(labels: IntArray) -> IntArray:
    """Return the number of samples without a label at each position, (positions,), of labels (N, positions)."""
    return np.asarray((labels == NO_LABEL).sum(axis=0), dtype=np.int64)


def position_words(positions: int, samples: int, missing: int) -> str:
    """Return `a label for each of 12 positions, 300 of 3,600 without (-100)`, where 300 labels are missing."""
    without = f", {missing:,} of {positions * samples:,} without ({NO_LABEL})" if missing else ""
    return f"a label for each of {positions} positions{without}"


def _targets(targets: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return targets (N,) or (N, k) as float64; ValueError where one is not finite, and for more axes."""
    if targets.ndim > 2:
        raise ValueError(f"regression targets must have shape (samples,) or (samples, k), got {targets.shape}")
    targets = np.ascontiguousarray(targets, dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(targets).reshape(len(targets), -1).all(1))
    if len(bad):
        got = targets[bad[0]].tolist()
        raise ValueError(f"labels must be finite, got {got} at sample {bad[0]}; leave these {len(bad)} out")
    return targets


def doubts(labels: npt.NDArray[Any]) -> list[str]:
    """Return warnings, a line each, on labels that `as_labels` has accepted but that are seldom meant so."""
    if labels.dtype.kind == "f" and labels.ndim == 2 and (labels == NO_LABEL).any():
        return [
            f"labels {labels.shape} are floats, so they are targets of {labels.shape[1]} columns, and {NO_LABEL} is a "
            "number like others; for classes of positions pass y.long(), or y.astype(int)"
        ]
    values = np.unique(labels) if labels.ndim == 1 else labels[:0]  # ascending; none for labels with two axes
    if not len(values):
        return []
    if labels.dtype.kind == "f":
        # Numbers 0, 1, ..., K without gaps, each for two samples or more on average, look like classes.
        dense = values[0] == 0 and len(values) == values[-1] + 1 and 2 * len(values) <= len(labels)
        if (values == np.round(values)).all() and (len(values) <= _FEW or dense):
            return [f"float labels are regression targets, but these are whole numbers with few values; {_FOR_CLASSES}"]
    elif values[-1] == _VOID and len(values) > 1 and values[-2] < _SMALL:
        count = int((labels == _VOID).sum())
        return [
            f"class {_VOID} stands beside classes up to {values[-2]}: where it marks samples without a label, or is -1 "
            f"kept in a byte, leave these {count} samples out"
        ]
    return []


def as_ids(ids: Any, samples: int) -> IntArray:
    """Return ids (samples,) as int64.

    Raises
    ------
    ValueError
        If they are no integers, of another number, or beyond int64.
    """
    array = as_array(ids, "ids")
    if array.shape != (samples,) or array.dtype.kind not in "iu":
        raise ValueError(f"ids must be {samples} integers, got shape {array.shape} of {array.dtype}")
    return _as_int64(array, "ids")


def _as_int64(array: npt.NDArray[Any], what: str, advice: str = "") -> IntArray:
    """Return whole numbers as int64; ValueError, which says `what` they are and ends in `advice`, for one too large."""
    if array.dtype.kind == "u" and array.size and int(array.max()) >= 2**63:
        raise ValueError(f"{what} must be below 2**63, got {int(array.max())}{advice}")
    return array.astype(np.int64)


def as_sample_ids(ids: Any, samples: int) -> IntArray:
    """Return ids (samples,) as int64, 0, 1, 2, ... for None.

    Raises
    ------
    ValueError
        As for `as_ids`, and if two are equal.
    """
    if ids is None:
        return np.arange(samples, dtype=np.int64)
    array = as_ids(ids, samples)
    values, first, counts = np.unique(array, return_index=True, return_counts=True)
    if len(values) < samples:
        at = int(first[counts > 1].min())
        raise ValueError(f"sample ids must be unique, but {(counts > 1).sum()} occur more than once, first {array[at]}")
    return array


def check_label_names(labels: npt.NDArray[Any], names: Sequence[str]) -> None:
    """Raise ValueError for a class that has no name, and for targets, which are no classes, where there are names."""
    if names and labels.dtype.kind == "f":
        raise ValueError(
            f"names of {len(names)} classes were given, and float labels are regression targets; {_FOR_CLASSES}"
        )
    if names and labels.dtype.kind == "i" and int(labels.max()) >= len(names):
        raise ValueError(f"label {int(labels.max())} has no name: label_names has {len(names)} entries")
