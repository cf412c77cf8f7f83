"""Activations that somebody else saved, made into a run: numpy, safetensors and torch files, or arrays in memory.

Nothing is unpickled: `.npz` and `.npy` without object arrays, `.pt` as weights only.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from infoplane.core.records import Layer, Probe, Role, Snapshot
from infoplane.store import ActivationStore, StoreWriter, open_run

LABELS, INPUTS, STEPS = ("labels", "y"), ("inputs", "x"), ("steps",)
_DTYPES = {
    str(d).removeprefix("torch."): d
    for d in (
        torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int8, torch.int16, torch.int32, torch.int64,
        torch.uint8, torch.bool,
    )
}  # fmt: skip

Arrays = Mapping[str, Any]


def from_arrays(
    run: str | os.PathLike[str],
    activations: Mapping[int, Arrays],
    labels: Any,
    *,
    inputs: Any = None,
    parts: Sequence[str] | None = None,
    metrics: Mapping[int, Mapping[str, float]] | None = None,
    roles: Mapping[str, Role] | None = None,
    chain: bool = False,
) -> ActivationStore:
    """Write activations in memory as a run, and open it.

    Parameters
    ----------
    run : path
        A directory that does not exist yet, or is empty.
    activations : mapping from step to mapping from layer to array (N, *units)
        numpy arrays or torch tensors; every step has the same layers, listed in forward order.
    labels : (N,) integers, or (N,) or (N, k) floats
        Classes or regression targets.
    inputs : (N, ...) array, optional
        For methods that need X; rows that are equal share an input id.
    parts : sequence of N names, optional
        Which part of the data each row belongs to ("train", "test").
    metrics : mapping from step to mapping from name to number, optional
    roles : mapping from layer to "activation", "output", "input" or "other", optional
        Plots draw activations and the output by default.
    chain : bool
        Whether each layer is computed from the one before alone, so that the data-processing inequality binds them.

    Returns
    -------
    ActivationStore

    Raises
    ------
    ValueError, TypeError
        For arrays that do not fit together, before any file is written.
    StoreError
        If the directory holds a run.
    """
    if not activations:
        raise ValueError("activations is empty; expected {step: {layer: array}}")
    steps = sorted(activations)
    if any(isinstance(s, bool) or not isinstance(s, int | np.integer) or s < 0 for s in steps):
        raise TypeError(f"steps must be integers from 0, got {steps[0]!r}")
    taken = {step: {name: _tensor(name, a) for name, a in activations[step].items()} for step in steps}
    first = taken[steps[0]]
    probe = _probe(labels, inputs, parts, first, steps[0])
    layers = tuple(_layer(name, t, depth, roles or {}) for depth, (name, t) in enumerate(first.items()))
    for step in steps:
        _check_step(step, taken[step], layers, probe.samples)
    settings = {
        "model": "unknown: activations were imported",
        "layers": [la.key for la in layers],
        "chain": chain,
        "target": probe.target,
        "imported": True,
        "versions": {"torch": str(torch.__version__), "numpy": np.__version__},
    }
    with StoreWriter(run, probe=probe, settings=settings, on_error="raise", background=False) as writer:
        for step in steps:
            writer(
                Snapshot(
                    step=int(step),
                    epoch=float(step),
                    time=time.time(),
                    layers=layers,
                    arrays={name: _bits(t) for name, t in taken[step].items()},
                    metrics=dict((metrics or {}).get(step, {})),
                )
            )
    return open_run(run)


def from_files(
    run: str | os.PathLike[str],
    files: Sequence[str | os.PathLike[str]],
    *,
    labels: str | os.PathLike[str] | None = None,
    **options: Any,
) -> ActivationStore:
    """Make a run of saved activations: `.npz`, `.npy`, `.safetensors` or `.pt`.

    A file holds one step, `{layer: (N, ...)}`, and its step is the last number in its name (`step-0100.npz`); or, when
    it has an array `steps` (S,), many: `{layer: (S, N, ...)}`. A `.npy` holds one layer, named by the file's folder or,
    for a single one, by the file. Arrays named `labels` or `y`, and `inputs` or `x`, are what their names say; labels
    may also come from a file of their own.

    Parameters
    ----------
    run, options
        As for `from_arrays`.
    files : sequence of paths
    labels : path, optional
        A file with one array.

    Raises
    ------
    ValueError
        A file of another kind, with objects in it, without a step, or no labels anywhere.
    OSError
        A file cannot be read.
    """
    activations: dict[int, dict[str, Any]] = {}
    found: dict[str, Any] = {}
    for file in map(Path, files):
        arrays = dict(read_arrays(file))
        for kind, names in (("labels", LABELS), ("inputs", INPUTS)):
            for name in names:
                if name in arrays:
                    found.setdefault(kind, arrays.pop(name))
        stacked = arrays.pop(STEPS[0], None)
        if stacked is None:
            activations.setdefault(_step_of(file), {}).update(arrays)
            continue
        for i, step in enumerate(np.asarray(stacked).tolist()):
            for name, a in arrays.items():
                if len(a) != len(stacked):
                    raise ValueError(f"{file.name}: {name!r} has {len(a)} steps, the array 'steps' has {len(stacked)}")
                activations.setdefault(int(step), {})[name] = a[i]
    if labels is not None:
        (found["labels"],) = _one(Path(labels))
    if "labels" not in found:
        raise ValueError("no labels: expected an array named 'labels' or 'y' in a file, or a file of their own")
    return from_arrays(run, activations, found["labels"], inputs=found.get("inputs"), **options)


def read_arrays(file: str | os.PathLike[str]) -> Mapping[str, Any]:
    """The arrays of one file, by name; see `from_files`."""
    file = Path(file)
    kind = file.suffix.lower()
    try:
        if kind == ".npz":
            with np.load(file, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
        if kind == ".npy":
            return {file.stem: np.load(file, allow_pickle=False)}
        if kind == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(file))
        if kind in (".pt", ".pth"):
            loaded = torch.load(file, map_location="cpu", weights_only=True)
            loaded = {file.stem: loaded} if isinstance(loaded, torch.Tensor) else loaded
            if not isinstance(loaded, dict) or not all(isinstance(v, torch.Tensor) for v in loaded.values()):
                raise ValueError("expected a tensor or a dict of tensors")
            return {str(name): tensor for name, tensor in loaded.items()}
    except ModuleNotFoundError as error:
        raise ValueError(f"{file.name}: reading it needs {error.name}; pip install infoplane[safetensors]") from error
    except OSError:
        raise
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{file.name} cannot be read as plain arrays: {reason}") from error
    raise ValueError(f"{file.name}: expected .npz, .npy, .safetensors or .pt")


def _one(file: Path) -> list[Any]:
    arrays = read_arrays(file)
    if len(arrays) != 1:
        raise ValueError(f"{file.name} should hold one array, it has {len(arrays)}: {', '.join(arrays)}")
    return list(arrays.values())


def _step_of(file: Path) -> int:
    numbers = re.findall(r"\d+", file.stem)
    if not numbers:
        raise ValueError(f"{file.name} tells no step: put it into the name (step-0100), or add an array 'steps'")
    return int(numbers[-1])


def _tensor(name: str, values: Any) -> torch.Tensor:
    if isinstance(values, torch.Tensor):
        tensor: torch.Tensor = values.detach().cpu().contiguous()
    else:
        array = np.asarray(values)
        if array.dtype.kind not in "fiub":
            raise TypeError(f"layer {name!r} must hold real numbers, got {array.dtype}")
        tensor = torch.from_numpy(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")))
    if str(tensor.dtype).removeprefix("torch.") not in _DTYPES:
        raise TypeError(f"layer {name!r} has {tensor.dtype}; expected one of {', '.join(_DTYPES)}")
    return tensor


def _bits(t: torch.Tensor) -> npt.NDArray[Any]:
    return t.view(torch.uint16).numpy() if t.dtype is torch.bfloat16 else np.asarray(t.numpy())


def _layer(name: str, t: torch.Tensor, depth: int, roles: Mapping[str, Role]) -> Layer:
    shape = tuple(t.shape[1:])
    return Layer(
        key=name,
        name=name,
        depth=depth,
        unit_shape=shape,
        raw_shape=shape,
        dtype=str(t.dtype).removeprefix("torch."),
        role=roles.get(name, "other"),
    )


def _check_step(step: int, arrays: Mapping[str, torch.Tensor], layers: Sequence[Layer], samples: int) -> None:
    known = [la.key for la in layers]
    if sorted(arrays) != sorted(known):
        raise ValueError(f"step {step} has the layers {', '.join(arrays)}; the first step has {', '.join(known)}")
    for layer in layers:
        shape = tuple(arrays[layer.key].shape)
        if shape != (samples, *layer.unit_shape):
            raise ValueError(
                f"layer {layer.key!r} at step {step} must have shape {(samples, *layer.unit_shape)}, got {shape}"
            )


def _probe(
    labels: Any, inputs: Any, parts: Sequence[str] | None, first: Mapping[str, torch.Tensor], step: int
) -> Probe:
    y = labels.detach().cpu().numpy() if isinstance(labels, torch.Tensor) else np.asarray(labels)
    samples = len(y) if y.ndim else 0
    for name, t in first.items():
        if t.ndim == 0 or len(t) != samples:
            raise ValueError(
                f"layer {name!r} at step {step} has {len(t) if t.ndim else 0} rows, there are {samples} labels"
            )
    if y.dtype.kind == "f":
        if not np.isfinite(y).all():
            raise ValueError(f"labels must be finite, first bad one at row {int(np.argwhere(~np.isfinite(y))[0, 0])}")
        y = y.astype(np.float64)
    elif y.dtype.kind in "iub" and y.ndim == 1:
        y = y.astype(np.int64)
    else:
        raise TypeError(f"labels must be (N,) integers or floats, got {y.dtype} of shape {y.shape}")
    ids = np.arange(samples, dtype=np.int64)
    x = None
    input_ids = ids
    if inputs is not None:
        x = inputs.detach().cpu().numpy() if isinstance(inputs, torch.Tensor) else np.asarray(inputs)
        if len(x) != samples:
            raise ValueError(f"inputs has {len(x)} rows, there are {samples} labels")
        x = np.ascontiguousarray(x.reshape(samples, -1))
        input_ids = np.unique(x, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)
    names: tuple[str, ...] = ("all",)
    part = np.zeros(samples, np.int64)
    if parts is not None:
        if len(parts) != samples:
            raise ValueError(f"parts has {len(parts)} names, there are {samples} labels")
        names = tuple(dict.fromkeys(map(str, parts)))
        part = np.array([names.index(str(p)) for p in parts], dtype=np.int64)
    return Probe(
        sample_ids=ids,
        input_ids=input_ids,
        repeats=np.zeros(samples, np.int64),
        labels=y,
        part=part,
        part_names=names,
        inputs=x,
    )
