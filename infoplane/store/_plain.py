"""An array of plain numbers in a file of another program, before it is read."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from infoplane.core.errors import StoreError
from infoplane.core.text import shorten

Key = tuple[str, ...]
Block = tuple[Sequence[int], npt.NDArray[Any]]
Skipped = list[tuple[Key, str]]


@dataclass(frozen=True)
class PlainArray:
    """An array that may be read.

    Attributes
    ----------
    key : tuple of str
        Names of the groups around it, and its own.
    shape : tuple of int
    dtype : dtype
        In the byte order of this machine.
    blocks : function
        Gives all of the array in parts, each with the place of its first element, in the stored order of axes.
    reversed : bool
        Whether the axes are stored in the opposite order.
    """

    key: Key
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    blocks: Callable[[], Iterator[Block]]
    reversed: bool = False

    @property
    def nbytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape)


def named(key: Key) -> str:
    """A key as messages show it."""
    return repr(shorten("/".join(map(str, key)), 80))


def refuse_complex(key: Key) -> NoReturn:
    """Raise StoreError for an array of complex numbers."""
    raise StoreError(f"{named(key)} holds complex numbers; save its real and imaginary parts, or its modulus")


def refuse_sparse(key: Key) -> NoReturn:
    """Raise StoreError for a sparse array of MATLAB's."""
    raise StoreError(f"{named(key)} is sparse; save full({shorten(key[-1], 40)})")


def not_plain(kind: str) -> str:
    """What a MATLAB class is that is left out."""
    if kind == "struct":
        return "a struct; save(..., '-struct', ...) saves its fields as variables"
    return {"char": "text", "cell": "a cell array"}.get(kind, f"of class {shorten(kind, 32)}")
