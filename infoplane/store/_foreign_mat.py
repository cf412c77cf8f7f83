"""The arrays of plain numbers in a `.mat` file up to version 7, by way of scipy; for the child with limits."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import IO, Any

import numpy as np

from infoplane.core.errors import StoreError
from infoplane.store._plain import Block, Key, PlainArray, Skipped, named, not_plain, refuse_complex, refuse_sparse

_MAX_VARIABLES = 10_000
_CLASSES: dict[str, np.dtype[Any]] = {f"{s}int{n}": np.dtype(f"{s}int{n}") for s in ("", "u") for n in (8, 16, 32, 64)}
_CLASSES |= {"double": np.dtype("f8"), "single": np.dtype("f4"), "logical": np.dtype(bool)}


def find(stream: IO[bytes]) -> tuple[list[PlainArray], Skipped]:
    """Every array that may be read, and what is left out with the reason; StoreError for one that is refused."""
    from scipy.io import whosmat
    from scipy.io.matlab import MatReadError, matfile_version

    stream.seek(0)
    try:
        version, _ = matfile_version(stream)
        variables = whosmat(stream, appendmat=False)
    except MatReadError as error:
        raise StoreError(f"it is no .mat file: {error}") from error
    if len(variables) > _MAX_VARIABLES:
        raise StoreError(f"it holds more than {_MAX_VARIABLES:,} variables")
    found: list[PlainArray] = []
    skipped: Skipped = []
    for name, shape, kind in variables:
        key = (str(name),)
        if kind == "sparse":
            refuse_sparse(key)
        if kind in _CLASSES:
            # Version 4 knows doubles alone; whole numbers among them are stored as shorter ones.
            dtype = _CLASSES["double"] if version == 0 else _CLASSES[kind]
            found.append(PlainArray(key, tuple(map(int, shape)), dtype, _reader(stream, key, shape, dtype)))
        elif not name.startswith("__"):
            skipped.append((key, not_plain(kind)))
    _refuse_twice(found)
    return found, skipped


def _reader(stream: IO[bytes], key: Key, shape: Any, dtype: np.dtype[Any]) -> Any:
    """A function that reads one variable, all at once: a file of these versions holds at most 2 GiB in each."""

    def blocks() -> Iterator[Block]:
        from scipy.io import loadmat
        from scipy.sparse import issparse

        stream.seek(0)
        try:
            # mat_dtype: doubles that are whole numbers are stored as bytes, and are doubles all the same. It would also
            # make complex numbers real, with a warning.
            with warnings.catch_warnings(action="error", category=np.exceptions.ComplexWarning):
                array = loadmat(stream, variable_names=list(key), mat_dtype=True, appendmat=False).get(key[0])
        except np.exceptions.ComplexWarning:
            refuse_complex(key)
        if issparse(array):  # booleans, which the list of variables calls logical
            refuse_sparse(key)
        if not isinstance(array, np.ndarray) or array.shape != tuple(shape):
            raise StoreError(f"{named(key)} cannot be read as an array {tuple(shape)}")
        if array.dtype.kind == "c":
            refuse_complex(key)
        yield (0,) * array.ndim, array.astype(dtype)

    return blocks


def _refuse_twice(found: list[PlainArray]) -> None:
    keys = [one.key for one in found]
    twice = next((key for i, key in enumerate(keys) if key in keys[:i]), None)
    if twice is not None:
        raise StoreError(f"it holds {named(twice)} twice")
