"""Files of other programs as plain arrays: nothing in them is executed, and what cannot be read is named."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from infoplane.core.errors import StoreError
from infoplane.core.pickles import one_line, refuse_compressed, why_refused
from infoplane.store import FOREIGN, read_foreign

Key = tuple[str | int, ...]
"""Where a value stands in a file: its name, or the keys of nested dicts from the outermost."""

KINDS = (".npz", ".npy", ".safetensors", ".pt", ".pth", *FOREIGN)
_DEEPEST = 20


def read_arrays(file: str | os.PathLike[str]) -> Mapping[str, Any]:
    """The arrays, tensors and numbers of one file, by name; keys of nested dicts and groups are joined by "/".

    `.h5`, `.hdf5` and `.mat` are read in a child process with limits, which leaves out, with a warning, what is no
    array of numbers.

    Raises
    ------
    ValueError
        For another kind of file, or one with anything else in it: in one line, with the name of what it is.
    OSError
        If the file cannot be read.
    """
    return {"/".join(map(str, key)): value for key, value in read_entries(Path(file)).items()}


def read_entries(file: Path) -> dict[Key, Any]:
    """Return the arrays, tensors and numbers of a file by key, a tuple of nested names.

    ValueError for another kind of file, or with anything else in it; the message says what.
    """
    kind = file.suffix.lower()
    if kind not in KINDS:
        raise ValueError(f"{file.name}: expected .npz, .npy, .safetensors, .pt, .h5 or .mat")
    try:
        if kind in FOREIGN:
            return {(*key,): value for key, value in read_foreign(file).items()}
        if kind == ".npz":
            return {(name,): value for name, value in _numpy_archive(file)}
        if kind == ".npy":
            return {(file.stem,): _numpy_array(file)}
        if kind == ".safetensors":
            from safetensors.torch import load_file

            return {(name,): value for name, value in load_file(file).items()}
        loaded = _load_torch(file)
    except ModuleNotFoundError as error:
        raise ValueError(f"{file.name}: reading it needs {error.name}; pip install infoplane[safetensors]") from error
    except StoreError as error:
        raise ValueError(str(error)) from error
    except OSError:  # the disk, not the content
        raise
    except Exception as error:
        raise ValueError(f"{file.name} cannot be read as plain arrays: {one_line(error)}") from error
    return dict(_plain(file, loaded))


def _numpy_archive(file: Path) -> Iterator[tuple[str, Any]]:
    """Yield name and array of each entry of a `.npz`; ValueError where one is a pickle or damaged."""
    # Opened here: numpy leaves a file open that it could not read.
    with file.open("rb") as stream:
        if stream.read(2) != b"PK":
            raise ValueError("it is no zip archive, as numpy.savez writes")
        stream.seek(0)
        with np.load(stream, allow_pickle=False) as archive:
            for name in archive.files:
                try:
                    yield name, archive[name]
                except ValueError as error:
                    raise ValueError(f"{name!r} {_numpy_reason(error)}") from error


def _numpy_array(file: Path) -> Any:
    """The array in a `.npy`; ValueError where it is a pickle or damaged."""
    with file.open("rb") as stream:
        if stream.read(6) != b"\x93NUMPY":
            raise ValueError("it is no array that numpy.save wrote (a pickle, as of a masked array, is not read)")
        stream.seek(0)
        try:
            return np.load(stream, allow_pickle=False)
        except ValueError as error:
            raise ValueError(f"it {_numpy_reason(error)}") from error


def _numpy_reason(error: ValueError) -> str:
    """Why an array cannot be read, without numpy's advice to unpickle it."""
    if "allow_pickle" in str(error):
        return "is an array of objects, which only unpickling reads; save numbers, as a.astype(int) or float"
    return f"cannot be read: {one_line(error)}"


def _load_torch(file: Path) -> Any:
    """The content of a torch file, of which nothing is executed; ValueError where it holds more than tensors."""
    refuse_compressed(file)
    try:
        # Indices of sparse tensors come from the file: torch looks at them only when asked to.
        with warnings.catch_warnings(), torch.sparse.check_sparse_tensor_invariants():  # type: ignore[no-untyped-call]
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        refused = why_refused(file, error)
        if refused is None:
            raise
        raise ValueError(refused) from error


def _plain(file: Path, value: Any, key: Key = ()) -> Iterator[tuple[Key, Any]]:
    """Yield key and value of each tensor, number, and list of numbers or text in nested dicts; else ValueError."""
    if len(key) > _DEEPEST:
        raise ValueError(f"{file.name}: {_shown(key)} lies more than {_DEEPEST} dicts deep; does one hold itself?")
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if isinstance(name, bool) or not isinstance(name, str | int):
                raise ValueError(f"{file.name}: {_shown(key, name)} is a key of type {type(name).__name__}, not text")
            yield from _plain(file, inner, (*key, name))
    elif isinstance(value, torch.Tensor):
        yield key or (file.stem,), _dense(file, value, key)
    elif isinstance(value, int | float):
        yield key or (file.stem,), value
    elif isinstance(value, list | tuple) and value and all(type(v) in (int, float, str) for v in value):
        yield key or (file.stem,), np.asarray(value)
    else:
        stack = "; torch.stack it" if isinstance(value, list | tuple) else "; leave it out"
        what = f"{_shown(key)} is a {type(value).__name__}"
        raise ValueError(f"{file.name}: {what}; expected tensors, numbers or dicts of them{stack}")


def _dense(file: Path, tensor: torch.Tensor, key: Key) -> torch.Tensor:
    """The tensor made dense; ValueError where it is nested, quantized or without data, or too large for that."""
    if tensor.is_nested or tensor.is_quantized or tensor.is_meta:
        kind = "nested" if tensor.is_nested else "quantized" if tensor.is_quantized else "without data"
        raise ValueError(f"{file.name}: {_shown(key)} is a tensor that is {kind}; save a dense one")
    if tensor.layout is torch.strided:
        return tensor
    try:
        return tensor.to_dense()
    except RuntimeError as error:
        what = f"{file.name}: {_shown(key)} of shape {tuple(tensor.shape)}"
        raise ValueError(f"{what} cannot be made dense: {one_line(error)}") from error


def _shown(key: Key, *more: object) -> str:
    """The place of a value in a file, as messages name it."""
    return repr("/".join(map(str, (*key, *more))))[:120] if key or more else "its content"
