"""Shards and the probe file: from snapshots to the bytes of a file, and from a file to a checked index."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from infoplane.core import files
from infoplane.core.errors import StoreError
from infoplane.core.files import digest
from infoplane.core.records import IntArray, Layer, Probe, Snapshot
from infoplane.core.strict import canonical_json
from infoplane.core.text import printable
from infoplane.store import _h5
from infoplane.store._records import ShardMeta, check_version, get_hex, get_shapes, get_strings, load_json
from infoplane.store.layout import (
    ARRAY_DTYPES,
    FIRST_VERSION,
    FORMAT_VERSION,
    INPUTS,
    MAX_INPUT_BYTES,
    MAX_LAYERS,
    MAX_PROBE_FILE_BYTES,
    MAX_STEP,
    PROBE_INDEX,
    SEAL,
    SHARD_INDEX,
    ShardName,
    act_name,
    count_nonfinite,
    cut_ranges,
    file_type,
    ranges_size,
    row_ranges,
    type_name,
)

_INDEX_DTYPES: dict[str, np.dtype[Any]] = {"u1": np.dtype("u1"), "i8": np.dtype("<i8"), "f8": np.dtype("<f8")}


@dataclass(frozen=True, eq=False)
class Frame:
    """One snapshot, or the part of it that goes into one file, as it waits for the disk."""

    snapshot: Snapshot
    rows: IntArray  # (R, 2) half-open ranges of probe rows
    metrics: Mapping[tuple[str, str], float]  # (name, layer or "")
    nbytes: int  # bytes that the whole snapshot takes in a file: its arrays and their share of the index
    begin: int = 0  # the frame has the samples begin:end of the snapshot's arrays
    end: int | None = None

    @classmethod
    def of(cls, snapshot: Snapshot, *, samples: int, last_step: int | None, max_sample_bytes: int) -> Frame:
        """Return a frame of a snapshot; ValueError if it cannot be stored, TypeError if a metric is no number.

        The probe has `samples` rows. `last_step` is the step recorded before, `max_sample_bytes` the most that one
        sample may have.
        """
        _check_step(snapshot.step, last_step)
        rows, n = np.array([[0, samples]], np.int64), samples
        if snapshot.rows is not None:
            listed = np.asarray(snapshot.rows)
            _check_rows(listed, samples)
            rows, n = row_ranges(listed.astype(np.int64)), len(listed)
        _check_layers(snapshot, n)
        metrics = _metrics(snapshot)
        nbytes = sum(snapshot.arrays[layer.key].nbytes for layer in snapshot.layers)
        per_sample = nbytes // n
        if per_sample > max_sample_bytes:
            most = f"more than the {max_sample_bytes} of a file"
            raise ValueError(f"one sample of step {snapshot.step} has {per_sample} bytes, {most}; reduce the layers")
        # step, epoch, time (8 each); digest (16) and count (8) of each layer; value (8) and mark (1) of each metric
        index = 24 + 24 * len(snapshot.layers) + 9 * len(metrics) + rows.nbytes
        return cls(snapshot, rows, metrics, nbytes + index)

    @property
    def step(self) -> int:
        return int(self.snapshot.step)

    @property
    def layers(self) -> tuple[Layer, ...]:
        return self.snapshot.layers

    @cached_property
    def arrays(self) -> tuple[npt.NDArray[Any], ...]:
        """The arrays of the layers in order, contiguous. Ask for them only after `snapshot.wait()` has returned."""
        found = ((self.snapshot.arrays[layer.key], ARRAY_DTYPES[layer.dtype]) for layer in self.layers)
        return tuple(np.ascontiguousarray(array[self.begin : self.end], dtype) for array, dtype in found)

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
        """Return the frame in parts of at most `limit` bytes, cut between samples."""
        if self.nbytes <= limit:
            return [self]
        samples = ranges_size(self.rows)
        n = limit * samples // self.nbytes  # samples in a part
        # The first part has the metrics.
        return [
            replace(self, rows=cut_ranges(self.rows, a, a + n), metrics={} if a else self.metrics, begin=a, end=a + n)
            for a in range(0, samples, n)
        ]


def _check_step(step: int, last_step: int | None) -> None:
    """Raise ValueError for a step that is negative or does not come after the last one."""
    if not 0 <= step <= MAX_STEP:
        raise ValueError(f"step must be 0 or above, got {step}")
    if last_step is not None and step <= last_step:
        advice = "to go back, open the run again with resume=True"
        raise ValueError(f"step {step} does not come after step {last_step}, the last one of this session; {advice}")


def _check_rows(rows: npt.NDArray[Any], samples: int) -> None:
    """Raise ValueError unless these are distinct rows of the probe, which has `samples` of them."""
    if rows.ndim != 1 or rows.dtype.kind not in "iu" or not len(rows):
        raise ValueError(f"rows must be a vector of probe rows, got {rows.dtype} {rows.shape}")
    if rows.min() < 0 or rows.max() >= samples or len(np.unique(rows)) != len(rows):
        raise ValueError(f"rows must be distinct and lie in 0..{samples - 1}")


def _check_layers(snapshot: Snapshot, n: int) -> None:
    """Raise ValueError unless the layers can be stored, and each array holds `n` samples of its layer."""
    if len(snapshot.layers) > MAX_LAYERS:
        raise ValueError(f"at most {MAX_LAYERS} layers can be stored, got {len(snapshot.layers)}")
    if len({layer.key for layer in snapshot.layers}) < len(snapshot.layers):
        keys = [layer.key for layer in snapshot.layers]
        raise ValueError(f"two layers have the key {max(keys, key=keys.count)!r}")
    for layer in snapshot.layers:
        if layer.dtype not in ARRAY_DTYPES:
            known = ", ".join(ARRAY_DTYPES)
            raise ValueError(f"layer {layer.key!r} has dtype {layer.dtype!r}, which cannot be stored; known: {known}")
        if layer.key not in snapshot.arrays:
            raise ValueError(f"snapshot {snapshot.step} has no array for layer {layer.key!r}")
        array, needed = snapshot.arrays[layer.key], ARRAY_DTYPES[layer.dtype]
        if array.shape != (n, *layer.unit_shape):
            raise ValueError(f"layer {layer.key!r} must have shape {(n, *layer.unit_shape)}, got {array.shape}")
        if array.dtype.newbyteorder("<") != needed:
            raise ValueError(f"layer {layer.key!r} is {layer.dtype} and needs {needed} arrays, got {array.dtype}")


def _metrics(snapshot: Snapshot) -> dict[tuple[str, str], float]:
    """Return the value of each metric by (name, layer); the layer is "" for what belongs to the whole model."""
    found = {}
    for key, value in [*snapshot.metrics.items(), *snapshot.layer_metrics.items()]:
        layer, name = ("", key) if isinstance(key, str) else key
        try:
            found[name, layer] = float(value)
        except (TypeError, ValueError) as error:
            raise type(error)(f"metric {key!r} must be a number, got {value!r:.60}") from error
    return found


def encode_shard(meta: ShardMeta, frames: Sequence[Frame]) -> Iterator[memoryview]:
    """Yield the bytes of a shard of these frames, which belong together; activations are passed on, not copied."""
    count, layers = len(frames), frames[0].layers
    column = {pair: m for m, pair in enumerate(meta.metrics)}
    metrics = np.full((count, len(column)), np.nan)
    recorded = np.zeros((count, len(column)), np.uint8)  # 1 where a frame has the metric, which may be NaN itself
    for s, frame in enumerate(frames):
        for pair, value in frame.metrics.items():
            metrics[s, column[pair]], recorded[s, column[pair]] = value, 1
    digests = b"".join(found for frame in frames for found in frame.digests)
    index: dict[str, npt.NDArray[Any]] = {
        "meta": np.frombuffer(canonical_json(meta.to_json(), "shard meta"), np.uint8),
        "step": np.array([frame.step for frame in frames], np.int64),
        "epoch": np.array([frame.snapshot.epoch for frame in frames], np.float64),
        "time": np.array([frame.snapshot.time for frame in frames], np.float64),
        "rows": frames[0].rows,
        "metrics": metrics,
        "recorded": recorded,
        "digests": np.frombuffer(digests, np.uint8).reshape(count, len(layers), 16),
        "nonfinite": np.array([frame.nonfinite for frame in frames], np.int64).reshape(count, len(layers)),
    }
    acts, rows = {}, ranges_size(frames[0].rows)
    for i, layer in enumerate(layers):
        buffers: list[Any] = [frame.arrays[i].reshape(-1).view("u1") for frame in frames]
        acts[act_name(i)] = (file_type(layer.dtype), (count, rows, *layer.unit_shape), buffers)
    return _encode(index, acts)


def _encode(
    index: Mapping[str, npt.NDArray[Any]], acts: Mapping[str, tuple[str, tuple[int, ...], list[Any]]]
) -> Iterator[memoryview]:
    """Yield the bytes of a file with these index arrays, a digest of them all (the seal), and these activations.

    `acts` has (type, shape, buffers with the bytes in order) for the name of each array of activations.
    """
    index = {name: np.ascontiguousarray(array) for name, array in index.items()}
    index[SEAL] = np.frombuffer(digest(*(array.tobytes() for array in index.values())), np.uint8)
    arrays: dict[str, tuple[str, tuple[int, ...], list[Any]]] = {
        name: (type_name(array.dtype), array.shape, [array.reshape(-1).view("u1")]) for name, array in index.items()
    }
    arrays |= acts
    shapes = {name: (kind, shape) for name, (kind, shape, _) in arrays.items()}
    return _h5.plan(*shapes.items()).pieces({name: buffers for name, (_, _, buffers) in arrays.items()})


def _read_index(
    source: _h5.Source, extents: Mapping[str, _h5.Extent], names: Sequence[str]
) -> dict[str, npt.NDArray[Any]]:
    """Return the index arrays of these names; StoreError where one is missing or they do not match their digest."""
    missing = [name for name in (*names, SEAL) if name not in extents]
    if missing:
        raise StoreError(f"object {missing[0]!r} is missing")
    data = {name: extents[name].read(source) for name in (*names, SEAL)}
    if digest(*(data[name] for name in names)) != data[SEAL]:
        raise StoreError("its index does not match its seal; the file was altered")
    out: dict[str, npt.NDArray[Any]] = {}
    for name in names:
        extent = extents[name]
        if extent.type not in _INDEX_DTYPES:
            raise StoreError(f"{name!r} has the type {extent.type}")
        out[name] = np.frombuffer(data[name], _INDEX_DTYPES[extent.type]).reshape(extent.shape)
    return out


def _refuse_others(extents: Mapping[str, _h5.Extent], names: Sequence[str]) -> None:
    """Raise StoreError where a file holds arrays of other names."""
    extra = sorted(set(extents) - set(names) - {SEAL})
    if extra:
        raise StoreError(f"unexpected object {extra[0]!r}")


@dataclass(frozen=True, eq=False)
class Shard:
    """The checked index of one shard; activations stay on the disk until they are asked for."""

    name: ShardName
    size: int
    meta: ShardMeta
    step: IntArray  # (S,)
    epoch: npt.NDArray[np.float64]
    time: npt.NDArray[np.float64]
    rows: IntArray  # (R, 2)
    metrics: npt.NDArray[np.float64]  # (S, M)
    recorded: npt.NDArray[np.uint8]
    digests: npt.NDArray[np.uint8]  # (S, L, 16)
    nonfinite: IntArray  # (S, L)
    acts: tuple[_h5.Extent, ...]

    @cached_property
    def samples(self) -> int:
        return ranges_size(self.rows)

    @cached_property
    def layer_number(self) -> dict[str, int]:
        """The place of each layer in `meta.layers` and `acts`, by its key."""
        return {layer.key: i for i, layer in enumerate(self.meta.layers)}


def decode_shard(source: _h5.Source, name: ShardName) -> Shard:
    """Return the checked index of the shard file called `name`; StoreError for damage, without that name in it."""
    extents, raw = _h5.parse(source, lambda text: _load_meta(text, str(name)))
    meta = ShardMeta.read(raw)
    arrays = _read_index(source, extents, SHARD_INDEX)
    count, layers, columns = len(arrays["step"]), len(meta.layers), len(meta.metrics)
    rows, step = arrays["rows"], arrays["step"]
    expected = {
        "step": ("i8", (count,)),
        "epoch": ("f8", (count,)),
        "time": ("f8", (count,)),
        "metrics": ("f8", (count, columns)),
        "recorded": ("u1", (count, columns)),
        "digests": ("u1", (count, layers, 16)),
        "nonfinite": ("i8", (count, layers)),
        "rows": ("i8", (len(rows), 2)),
    }
    for index, (kind, shape) in expected.items():
        found = arrays[index]
        if type_name(found.dtype) != kind or found.shape != shape:
            raise StoreError(f"{index!r} must be {kind} {shape}, got {type_name(found.dtype)} {found.shape}")
    if rows.min(initial=0) < 0 or not (rows[:, 0] < rows[:, 1]).all() or not len(rows):
        raise StoreError("'rows' must list half-open ranges of probe rows")
    if not count or step[0] < 0 or not (np.diff(step) > 0).all():
        raise StoreError("'step' must ascend")
    own_name = meta.shard_name(int(step[0]), int(step[-1]))
    if own_name != name:
        raise StoreError(f"its content belongs to {own_name}; the file was renamed or copied")
    _refuse_others(extents, (*SHARD_INDEX, *(act_name(i) for i in range(layers))))
    acts = []
    for i, layer in enumerate(meta.layers):
        extent = extents.get(act_name(i))
        shape = (count, ranges_size(rows), *layer.unit_shape)
        if extent is None or extent.shape != shape or extent.type != file_type(layer.dtype):
            raise StoreError(f"{act_name(i)} must be {file_type(layer.dtype)} {shape}, got {extent}")
        acts.append(extent)
    return Shard(name=name, size=source.size, meta=meta, acts=tuple(acts), **{k: arrays[k] for k in expected})


def _load_meta(text: bytes, name: str) -> dict[str, Any]:
    """Return the JSON object in `meta`; StoreError for a format that this release does not know."""
    raw = load_json(text)
    check_version(raw, name)
    return raw


def probe_digest(probe: Probe, inputs_digest: str | None) -> str:
    """Return the XXH3-128 of ids, labels, parts, names and the digest of the inputs: one value for one probe."""
    arrays = _probe_arrays(probe)
    labels = [type_name(arrays["labels"].dtype), list(arrays["labels"].shape)]
    names = {"label_names": list(probe.label_names), "part_names": list(probe.part_names)}
    head = canonical_json({"inputs": inputs_digest, "labels": labels, **names})
    return digest(head, *(arrays[name].tobytes() for name in PROBE_INDEX[1:])).hex()


def inputs_digest(probe: Probe) -> str | None:
    """Return the digest of type, shape and bytes of the inputs; None where there are none."""
    if probe.inputs is None:
        return None
    inputs = np.ascontiguousarray(probe.inputs)
    head = canonical_json([type_name(inputs.dtype), list(inputs.shape)])
    return digest(head, inputs.reshape(-1).view("u1")).hex()


def _probe_arrays(probe: Probe) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of a probe by name, in the types in which they are stored."""
    kinds: dict[str, Any] = dict.fromkeys(PROBE_INDEX[1:], np.int64)
    if np.asarray(probe.labels).dtype.kind == "f":
        kinds["labels"] = np.float64
    return {name: np.ascontiguousarray(getattr(probe, name), kind) for name, kind in kinds.items()}


def version_of(probe: Probe) -> int:
    """Return the format that a run with this probe needs: readers of version 1 know no labels for each position."""
    labels = np.asarray(probe.labels)  # what is no float is stored as integers
    return FORMAT_VERSION if labels.ndim == 2 and labels.dtype.kind != "f" else FIRST_VERSION


def check_probe(probe: Probe) -> None:
    """Raise ValueError for a probe whose arrays do not fit together."""
    n = probe.samples
    if n < 1:
        raise ValueError("the probe has no samples")
    for name, array in _probe_arrays(probe).items():
        if len(array) != n or (name != "labels" and array.ndim != 1) or array.ndim > 2:
            raise ValueError(f"probe.{name} must have {n} rows, got shape {array.shape}")
    part, names = np.asarray(probe.part), len(probe.part_names)
    if part.min() < 0 or part.max() >= names:
        raise ValueError(f"probe.part must index the {names} names in part_names, got {part.min()}..{part.max()}")
    if probe.inputs is not None and len(probe.inputs) != n:
        raise ValueError(f"probe.inputs must have {n} rows, got shape {probe.inputs.shape}")
    if probe.inputs is not None and probe.input_shapes:
        width = sum(math.prod(shape) for shape in probe.input_shapes)
        if probe.inputs.shape[1:] != (width,):
            raise ValueError(f"probe.input_shapes make {width} values a row, got inputs of shape {probe.inputs.shape}")


def encode_probe(probe: Probe, run_id: str) -> Iterator[memoryview]:
    """Yield the bytes of probe.h5.

    Inputs above MAX_INPUT_BYTES, or of a type that is not in `_h5.TYPES`, are left out; only their digest is stored.
    """
    meta: dict[str, Any] = {"kind": "probe", "format_version": version_of(probe), "run_id": run_id}
    meta |= {"part_names": list(probe.part_names), "label_names": list(probe.label_names)}
    meta["inputs_digest"] = inputs_digest(probe)
    if probe.input_shapes:
        # No digest covers this field, so that a run recorded without it can be resumed.
        meta["input_shapes"] = [list(shape) for shape in probe.input_shapes]
    index = {"meta": np.frombuffer(canonical_json(meta, "probe names"), np.uint8), **_probe_arrays(probe)}
    acts = {}
    if probe.inputs is not None:
        inputs = np.ascontiguousarray(probe.inputs)
        kind = type_name(inputs.dtype)
        if kind in _h5.TYPES and 0 < inputs.nbytes <= MAX_INPUT_BYTES:
            acts[INPUTS] = (kind, inputs.shape, [inputs.reshape(-1).view("u1")])
    return _encode(index, acts)


def decode_probe(fd: int, run_id: str) -> tuple[Probe, str]:
    """Return the probe in an open probe.h5 of this run, and its digest; StoreError with a reason for a damaged one."""
    source = files.PagedFile(fd, MAX_PROBE_FILE_BYTES)
    if source.size > MAX_PROBE_FILE_BYTES:
        raise StoreError(f"{source.size} bytes, at most {MAX_PROBE_FILE_BYTES} expected")
    extents, raw = _h5.parse(source, lambda text: _load_meta(text, "probe.h5"))
    if raw.get("kind") != "probe" or raw.get("run_id") != run_id:
        raise StoreError(f"it is not the probe of run {printable(run_id)[:40]}")
    arrays = _read_index(source, extents, PROBE_INDEX)
    _refuse_others(extents, (*PROBE_INDEX, INPUTS))
    for name in PROBE_INDEX[1:]:
        if name != "labels" and arrays[name].dtype != np.int64:
            raise StoreError(f"{name!r} must be i8")
    expected = None if raw.get("inputs_digest") is None else get_hex(raw, "inputs_digest")
    inputs = None
    if INPUTS in extents:
        if extents[INPUTS].nbytes > MAX_INPUT_BYTES:
            raise StoreError(f"inputs of {extents[INPUTS].nbytes} bytes, at most {MAX_INPUT_BYTES} are kept")
        inputs = read_array(fd, extents[INPUTS])
    values: dict[str, Any] = {name: arrays[name] for name in PROBE_INDEX[1:]}
    values |= {name: get_strings(raw, name) for name in ("part_names", "label_names")}
    probe = Probe(inputs=inputs, input_shapes=get_shapes(raw, "input_shapes"), **values)
    try:
        check_probe(probe)
    except ValueError as error:
        raise StoreError(str(error)) from error
    if version_of(probe) > raw["format_version"]:
        raise StoreError(f"labels {probe.labels.shape} for each position need format_version {version_of(probe)}")
    if inputs is not None and inputs_digest(probe) != expected:
        raise StoreError("the inputs do not match their digest; the file was altered")
    return probe, probe_digest(probe, expected)


def read_array(fd: int, extent: _h5.Extent) -> npt.NDArray[Any]:
    """Return the array at this place of an open file; bfloat16 as its uint16 bits."""
    kind = "u2" if extent.type == "bfloat16" else extent.type
    out = np.empty(extent.shape, np.dtype(kind).newbyteorder("<"))
    if out.nbytes:
        files.read_into(fd, files.byte_view(out), extent.offset)
    return out
