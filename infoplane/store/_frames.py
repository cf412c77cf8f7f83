"""A snapshot on its way to the disk: checked when it is handed over, then made ready and cut to size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from infoplane.core.files import digest
from infoplane.core.records import IntArray, Layer, Snapshot
from infoplane.store.layout import (
    ARRAY_DTYPES,
    MAX_LAYERS,
    MAX_STEP,
    count_nonfinite,
    cut_ranges,
    ranges_size,
    row_ranges,
)


def snapshot_bytes(snapshot: Snapshot) -> int:
    return sum(snapshot.arrays[layer.key].nbytes for layer in snapshot.layers)


def check_snapshot(snapshot: Snapshot, *, samples: int, last_step: int | None, max_sample_bytes: int) -> None:
    """Raise ValueError, or TypeError for a metric that is no number, when it cannot be stored."""
    step = snapshot.step
    if not 0 <= step <= MAX_STEP:
        raise ValueError(f"step must be 0 or above, got {step}")
    if last_step is not None and step <= last_step:
        raise ValueError(
            f"step {step} does not come after step {last_step}, the last one of this session; "
            "to go back, open the run again with resume=True"
        )
    n = samples if snapshot.rows is None else _check_rows(np.asarray(snapshot.rows), samples)
    if len(snapshot.layers) > MAX_LAYERS:
        raise ValueError(f"at most {MAX_LAYERS} layers can be stored, got {len(snapshot.layers)}")
    if len({layer.key for layer in snapshot.layers}) < len(snapshot.layers):
        keys = [layer.key for layer in snapshot.layers]
        raise ValueError(f"two layers have the key {max(keys, key=keys.count)!r}")
    for layer in snapshot.layers:
        if layer.dtype not in ARRAY_DTYPES:
            raise ValueError(
                f"layer {layer.key!r} has dtype {layer.dtype!r}, which cannot be stored; "
                f"known: {', '.join(ARRAY_DTYPES)}"
            )
        if layer.key not in snapshot.arrays:
            raise ValueError(f"snapshot {step} has no array for layer {layer.key!r}")
        array = snapshot.arrays[layer.key]
        expected = (n, *layer.unit_shape)
        if array.shape != expected:
            raise ValueError(f"layer {layer.key!r} must have shape {expected}, got {array.shape}")
        if array.dtype.newbyteorder("<") != ARRAY_DTYPES[layer.dtype]:
            raise ValueError(
                f"layer {layer.key!r} is {layer.dtype} and needs {ARRAY_DTYPES[layer.dtype]} arrays, got {array.dtype}"
            )
    for name, value in [*snapshot.metrics.items(), *snapshot.layer_metrics.items()]:
        try:
            float(value)
        except (TypeError, ValueError) as error:
            raise type(error)(f"metric {name!r} must be a number, got {value!r:.60}") from error
    per_sample = snapshot_bytes(snapshot) // n
    if per_sample > max_sample_bytes:
        raise ValueError(
            f"one sample of step {step} has {per_sample} bytes, more than the {max_sample_bytes} of a file; "
            "reduce the layers"
        )


def _check_rows(rows: npt.NDArray[Any], samples: int) -> int:
    if rows.ndim != 1 or rows.dtype.kind not in "iu" or not len(rows):
        raise ValueError(f"rows must be a vector of probe rows, got {rows.dtype} {rows.shape}")
    if rows.min() < 0 or rows.max() >= samples or len(np.unique(rows)) != len(rows):
        raise ValueError(f"rows must be distinct and lie in 0..{samples - 1}")
    return len(rows)


@dataclass(frozen=True, eq=False)
class Frame:
    """One snapshot, or the part of it that goes into one file, ready to be written."""

    snapshot: Snapshot
    arrays: tuple[npt.NDArray[Any], ...]  # contiguous, of the layers in order
    rows: IntArray  # (R, 2) half-open ranges of probe rows
    metrics: Mapping[tuple[str, str], float]  # (name, layer or "")

    @classmethod
    def of(cls, snapshot: Snapshot, samples: int) -> Frame:
        whole = np.array([[0, samples]], np.int64)
        rows = whole if snapshot.rows is None else row_ranges(np.asarray(snapshot.rows, np.int64))
        arrays = tuple(
            np.ascontiguousarray(snapshot.arrays[layer.key], ARRAY_DTYPES[layer.dtype]) for layer in snapshot.layers
        )
        metrics = {(name, ""): float(value) for name, value in snapshot.metrics.items()}
        metrics |= {(name, layer): float(value) for (layer, name), value in snapshot.layer_metrics.items()}
        return cls(snapshot, arrays, rows, metrics)

    @property
    def step(self) -> int:
        return int(self.snapshot.step)

    @property
    def layers(self) -> tuple[Layer, ...]:
        return self.snapshot.layers

    @cached_property
    def nbytes(self) -> int:
        """Bytes in a file: the arrays and their share of the index."""
        index = 24 + 24 * len(self.layers) + 9 * len(self.metrics) + self.rows.nbytes
        return sum(array.nbytes for array in self.arrays) + index

    @cached_property
    def digests(self) -> tuple[bytes, ...]:
        return tuple(digest(array.reshape(-1).view("u1")) for array in self.arrays)

    @cached_property
    def nonfinite(self) -> tuple[int, ...]:
        return tuple(count_nonfinite(array, layer.dtype) for layer, array in zip(self.layers, self.arrays, strict=True))

    def belongs_with(self, other: Frame) -> bool:
        """Whether both fit into one shard: the same layers, shapes, dtypes and rows."""
        return self.layers == other.layers and np.array_equal(self.rows, other.rows)

    def split(self, limit: int) -> list[Frame]:
        """Parts of at most `limit` bytes, cut by samples."""
        if self.nbytes <= limit:
            return [self]
        samples = ranges_size(self.rows)
        per_part = limit * samples // self.nbytes
        return [
            replace(
                self,
                arrays=tuple(array[a : a + per_part] for array in self.arrays),
                rows=cut_ranges(self.rows, a, a + per_part),
                metrics=self.metrics if a == 0 else {},
            )
            for a in range(0, samples, per_part)
        ]
