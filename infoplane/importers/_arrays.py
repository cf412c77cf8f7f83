"""Arrays in memory as a run, checked as a whole before the first byte is written."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import torch

from infoplane.core.about import plain_about
from infoplane.core.errors import StoreError, closest
from infoplane.core.globs import across_parts, name_matches
from infoplane.core.labels import as_array, as_labels, as_sample_ids, check_label_names, doubts
from infoplane.core.records import Layer, Probe, Role, Snapshot
from infoplane.core.steps import whole_step
from infoplane.core.tokens import doubt_positions
from infoplane.core.warn import warn
from infoplane.store import ActivationStore, StoreWriter, check_run, open_run
from infoplane.store.layout import ARRAY_DTYPES, RUN_FILE

Arrays = Mapping[str, Any]
Taken = dict[int, dict[str, torch.Tensor]]
AS_CLASSES = ", or say classes=True"


def from_arrays(
    run: str | os.PathLike[str],
    activations: Mapping[int, Arrays],
    labels: Any,
    *,
    inputs: Any = None,
    sample_ids: Any = None,
    label_names: Sequence[str] = (),
    parts: Sequence[str] | None = None,
    metrics: Mapping[int, Mapping[str, float]] | None = None,
    roles: Mapping[str, Role] | None = None,
    chain: bool = False,
    classes: bool = False,
    name: str | None = None,
    about: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> ActivationStore:
    """Write activations in memory as a run, and open it.

    Parameters
    ----------
    run : path
        A directory that does not exist yet, or is empty.
    activations : mapping from step to mapping from layer to array `(N, *units)`
        numpy arrays or torch tensors; every step has the same layers in the same shapes and dtypes, listed in forward
        order. A layer without units is left out, with a warning.
    labels : (N,) or (N, positions) integers, or (N,) or (N, k) floats
        Classes, of the sample or of each position of its sequence (-100: none there), or regression targets.
    inputs : (N, ...) array, optional
        For methods that need X; rows that are equal share an input id.
    sample_ids : (N,) integers, optional
        The identifiers of the rows, unique; 0, 1, 2, ... by default.
    label_names : sequence of str, optional
        Names of the classes.
    parts : sequence of N names, optional
        Which part of the data each row belongs to ("train", "test").
    metrics : mapping from step to mapping from name to number, optional
    roles : mapping from layer or glob to "activation", "output", "input" or "other", optional
        Plots draw activations and the output by default. A name goes before a glob, and a later glob before an earlier.
    chain : bool
        Whether each layer is computed from the one before alone, so that the data-processing inequality binds them.
    classes : bool
        Whether labels that are whole numbers stored as floats are classes; they are targets otherwise.
    name : str, optional
        What figures, tables and reports call the run; the name of its directory by default.
    about : mapping from name to number, text, bool or None, optional
        Hyper-parameters, as `Recorder(about=)` takes them.
    overwrite : bool
        Replace the run that is there, and its results; only one that was closed and that no process writes.

    Returns
    -------
    ActivationStore

    Raises
    ------
    ValueError, TypeError
        For arrays that do not fit together, before any file is written.
    StoreError
        If the directory holds a run or anything else.
    """
    taken = _taken(activations)
    y = _labels(labels, taken, label_names, classes)
    samples = len(y)
    x, input_ids = _inputs(inputs, samples)
    names, part = _parts(parts, samples)
    probe = Probe(
        sample_ids=as_sample_ids(sample_ids, samples),
        input_ids=input_ids,
        repeats=np.zeros(samples, np.int64),
        labels=y,
        part=part,
        part_names=names,
        inputs=x,
        input_shapes=() if inputs is None else (np.shape(inputs)[1:],),
        label_names=tuple(str(s) for s in label_names),
    )
    layers = _layers(taken, roles or {}, samples)
    doubt_positions(probe, layers)  # raises where none has as many
    numbers = _metrics(metrics or {}, taken)
    snapshots = []
    for step, own in taken.items():
        arrays, said = {layer.key: _stored(own[layer.key]) for layer in layers}, numbers.get(step, {})
        now, epoch = time.time(), float(step)
        snapshots.append(Snapshot(step=step, epoch=epoch, time=now, layers=layers, arrays=arrays, metrics=said))
    check_run(probe, snapshots)
    _check_free(Path(run), overwrite)
    settings = {
        "model": "unknown: activations were imported",
        "layers": [layer.key for layer in layers],
        "target": probe.target,
        "imported": True,
        "versions": {"torch": str(torch.__version__), "numpy": np.__version__},
        "chain": bool(chain),
        **({} if name is None else {"name": str(name)}),
        **({} if about is None else {"about": plain_about(about)}),
    }
    how: dict[str, Any] = {"on_error": "raise", "background": False, "overwrite": overwrite}
    with StoreWriter(run, probe=probe, settings=settings, **how) as writer:
        for snapshot in snapshots:
            writer(snapshot)
    return open_run(run)


def _check_free(run: Path, overwrite: bool) -> None:
    """Raise StoreError unless the directory is new, empty, or holds a run that may be replaced."""
    is_run = (run / RUN_FILE).exists()
    if is_run and not overwrite:
        advice = "choose another directory, or delete this one"
        raise StoreError(f"{run} already holds a run, which an import replaces with overwrite=True alone; {advice}")
    held = next(run.iterdir(), None) if run.is_dir() else None
    if held is not None and not is_run:
        raise StoreError(f"{run} is not empty, it holds {held.name!r}; choose a directory that does not exist yet")


def _by_step(mapping: Mapping[Any, Any], what: str) -> dict[int, Any]:
    """The entries by step in rising order; ValueError or TypeError for a key that is no step or comes twice."""
    if not isinstance(mapping, Mapping):
        raise TypeError(f"{what} must map steps to arrays or numbers by name, got {type(mapping).__name__}")
    found: dict[int, Any] = {}
    for key, value in mapping.items():
        try:
            step = whole_step(key)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{what}: steps must be integers from 0, got {key!r:.60}") from error
        if step in found:
            raise ValueError(f"{what}: step {step} comes twice")
        if not isinstance(value, Mapping):
            raise TypeError(f"{what}: step {step} must map names to values, got {type(value).__name__}")
        bad = next((name for name in value if not isinstance(name, str) or not name), None)
        if bad is not None:
            raise TypeError(f"{what}: names at step {step} must be text, got {bad!r:.60}")
        found[step] = value
    return dict(sorted(found.items()))


def _taken(activations: Mapping[Any, Arrays]) -> Taken:
    """Return {step: {layer: tensor (N, ...)}} in rising order; ValueError where no step or no layer is left.

    A layer without units is left out, with a warning.
    """
    by_step = _by_step(activations, "activations")
    if not by_step:
        raise ValueError("activations is empty; expected {step: {layer: array}}")
    taken = {step: {name: _tensor(name, a) for name, a in arrays.items()} for step, arrays in by_step.items()}
    first = next(iter(taken.values()))
    if not first:
        raise ValueError(f"step {next(iter(taken))} has no layers; expected {{step: {{layer: array}}}}")
    empty = [name for name, t in first.items() if t.ndim > 1 and 0 in t.shape[1:]]  # (N, 0): no estimator takes them
    if len(empty) == len(first):
        raise ValueError(f"no layer has units: {', '.join(map(repr, empty))}")
    for name in empty:
        if not all(arrays.get(name, first[name]).shape == first[name].shape for arrays in taken.values()):
            raise ValueError(f"layer {name!r} has no units at step {next(iter(taken))}, and some at another")
        warn(f"layer {name!r} has no units, shape {tuple(first[name].shape)}; it is left out")
    return {step: {n: t for n, t in arrays.items() if n not in empty} for step, arrays in taken.items()}


def _tensor(name: str, values: Any) -> torch.Tensor:
    """The values of a layer as a dense tensor on the CPU; TypeError for a type that cannot be stored."""
    if isinstance(values, torch.Tensor):
        if values.layout is not torch.strided or values.is_nested or values.is_meta:
            raise TypeError(f"layer {name!r} must be a dense tensor, got layout {values.layout}; pass .to_dense()")
        tensor: torch.Tensor = values.detach().cpu().contiguous()
    else:
        array = as_array(values, f"values of layer {name!r}")
        if array.dtype.kind not in "fiub":
            raise TypeError(f"layer {name!r} must hold real numbers, got {array.dtype}")
        if array.dtype.itemsize > 8:
            raise TypeError(f"layer {name!r} must hold numbers of at most 64 bits, got {array.dtype}")
        tensor = torch.from_numpy(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")))
    if _dtype(tensor) not in ARRAY_DTYPES:
        raise TypeError(f"layer {name!r} has {tensor.dtype}; expected one of {', '.join(ARRAY_DTYPES)}")
    return tensor


def _dtype(t: torch.Tensor) -> str:
    """`float32` for a tensor of torch.float32."""
    return str(t.dtype).removeprefix("torch.")


def _stored(t: torch.Tensor) -> npt.NDArray[Any]:
    """The array (N, ...) that the store writes for a tensor; for bfloat16 its bits."""
    # By way of bytes: numpy has no bfloat16 and no float8, which are stored as their bits.
    stored = t.reshape(-1).view(torch.uint8).numpy().view(ARRAY_DTYPES[_dtype(t)])
    return np.asarray(stored.reshape(t.shape))


def _layers(taken: Taken, roles: Mapping[str, Role], samples: int) -> tuple[Layer, ...]:
    """Records of the layers at the first step; ValueError where another step has others, or other shapes or types."""
    first, arrays = next(iter(taken.items()))
    role_of = _roles(roles, arrays)
    for step, own in taken.items():
        if sorted(own) != sorted(arrays):
            raise ValueError(f"step {step} has the layers {', '.join(own)}; the first step has {', '.join(arrays)}")
        for name, t in arrays.items():
            shape, dtype, expected = tuple(own[name].shape), own[name].dtype, (samples, *t.shape[1:])
            if shape != expected:
                raise ValueError(f"layer {name!r} at step {step} must have shape {expected}, got {shape}")
            if dtype != t.dtype:
                where = f"{t.dtype} at step {first} and {dtype} at step {step}"
                raise ValueError(f"layer {name!r} is {where}; bring all steps to one dtype")
    return tuple(_layer(depth, name, t, role_of.get(name, "other")) for depth, (name, t) in enumerate(arrays.items()))


def _layer(depth: int, name: str, t: torch.Tensor, role: Role) -> Layer:
    """The record of one layer."""
    shape = tuple(t.shape[1:])
    return Layer(key=name, name=name, depth=depth, unit_shape=shape, raw_shape=shape, dtype=_dtype(t), role=role)


def _roles(roles: Mapping[str, Role], known: Collection[str]) -> dict[str, Role]:
    """The role of each layer that a name or a glob names; a name goes before a glob; ValueError for an unknown one."""
    found: dict[str, Role] = {}
    # Globs first, names last: what comes later replaces what came before.
    for pattern, role in sorted(roles.items(), key=lambda item: item[0] in known):
        hits = [pattern] if pattern in known else [name for name in known if name_matches(name, str(pattern))]
        if not hits:
            near = ", ".join(closest(str(pattern), known)) + across_parts(str(pattern), known)
            raise ValueError(f"roles: there is no layer {pattern!r}; closest: {near}")
        if role not in get_args(Role):
            raise ValueError(f"roles: layer {pattern!r} must be one of {', '.join(get_args(Role))}, got {role!r}")
        found |= dict.fromkeys(hits, role)
    return found


def _metrics(metrics: Mapping[Any, Mapping[str, Any]], taken: Taken) -> dict[int, dict[str, float]]:
    """Metrics by step as floats; ValueError for a step without activations, TypeError for a value that is no number."""
    found = _by_step(metrics, "metrics")
    for step, numbers in found.items():
        if step not in taken:
            raise ValueError(f"metrics: no activations at step {step}; steps are {', '.join(map(str, taken))}")
        for name, value in numbers.items():
            if not _is_number(value):
                raise TypeError(f"metric {name!r} at step {step} must be one number, got {value!r:.60}")
    return {step: {name: float(value) for name, value in numbers.items()} for step, numbers in found.items()}


def _is_number(value: Any) -> bool:
    """Whether a value is a number of Python or numpy, or an array or tensor with a single number."""
    if isinstance(value, int | float):
        return True
    if isinstance(value, torch.Tensor):
        return value.numel() == 1 and not value.is_complex()
    return isinstance(value, np.generic | np.ndarray) and value.size == 1 and value.dtype.kind in "fiub"


def _labels(labels: Any, taken: Taken, label_names: Sequence[str], classes: bool) -> npt.NDArray[Any]:
    """Labels (N,) or (N, positions or k); ValueError where they do not fit the layers, a warning for odd ones."""
    y = as_array(labels, "labels")
    if y.ndim == 0:
        raise ValueError(f"labels must be one for each row, got the single value {y.tolist()!r:.60}")
    step, first = next(iter(taken.items()))
    for name, t in first.items():
        rows = len(t) if t.ndim else 0
        if t.ndim == 0 or rows != len(y):
            raise ValueError(f"layer {name!r} at step {step} has {rows} rows, there are {len(y)} labels")
    y = as_labels(y, len(y))
    if classes and y.dtype.kind == "f":
        y = _numbered(y)
    if len(y) < 2:
        raise ValueError(f"a run needs at least 2 samples, got {len(y)}")
    try:
        check_label_names(y, label_names)
    except ValueError as error:
        raise ValueError(f"{error}{AS_CLASSES if y.dtype.kind == 'f' else ''}") from None
    for doubt in doubts(y):
        warn(f"{doubt}{AS_CLASSES}" if y.dtype.kind == "f" else doubt)
    return y


def _numbered(labels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Integer classes of labels that are whole numbers stored as floats; ValueError where some are not whole."""
    broken = np.flatnonzero((labels != np.round(labels)) | (abs(labels) > 2**53))
    if len(broken):
        got = f"got {labels.flat[broken[0]]}; for targets leave out classes=True"
        raise ValueError(f"labels that are classes must be whole numbers, {got}")
    return as_labels(labels.astype(np.int64), len(labels))


def _inputs(inputs: Any, samples: int) -> tuple[npt.NDArray[Any] | None, npt.NDArray[np.int64]]:
    """Flat inputs (N, features), or None, and the input id of each row (N,), which equal rows share."""
    if inputs is None:
        return None, np.arange(samples, dtype=np.int64)
    x = as_array(inputs, "inputs")
    if x.dtype.kind not in "fiub":
        raise TypeError(f"inputs must hold real numbers, got {x.dtype}")
    if x.ndim == 0 or len(x) != samples:
        raise ValueError(f"inputs has {len(x) if x.ndim else 0} rows, there are {samples} labels")
    x = np.ascontiguousarray(x.reshape(samples, -1))  # (N, features)
    return x, np.unique(x, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)


def _parts(parts: Sequence[str] | None, samples: int) -> tuple[tuple[str, ...], npt.NDArray[np.int64]]:
    """Names of the parts, and the number of each row's part (N,); ValueError unless each row has a name."""
    if parts is None:
        return ("all",), np.zeros(samples, np.int64)
    if isinstance(parts, str) or len(parts) != samples:
        got = "one text" if isinstance(parts, str) else f"{len(parts)} names"
        raise ValueError(f"parts has {got}, there are {samples} labels; pass a name for each row")
    numbers: dict[str, int] = {}
    part = [numbers.setdefault(str(p), len(numbers)) for p in parts]
    return tuple(numbers), np.array(part, dtype=np.int64)
