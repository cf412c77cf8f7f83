"""Buffers for snapshots, used again once nobody holds their numbers.

A fresh large buffer costs four times a copy into one that is mapped already. Sinks may keep the arrays they
are given: a buffer comes back when the last reference to its array is gone, from whatever thread.
"""

from __future__ import annotations

import math
import weakref
from collections import deque
from typing import Any, Protocol

import numpy.typing as npt
import torch
from torch import Tensor

KEPT_PER_SHAPE = 4


class Copied(Protocol):
    """Tells when a device has finished copying, as torch.cuda.Event does; both raise what went wrong there."""

    def query(self) -> bool: ...

    def synchronize(self) -> None: ...


class Pool:
    """Tensors in host memory; up to `pinned_bytes` of it page-locked, so that a device copies into it by itself."""

    def __init__(self, *, pinned_bytes: int = 0) -> None:
        self._unpinned = pinned_bytes
        self._free: dict[tuple[tuple[int, ...], torch.dtype], deque[tuple[Tensor, Copied | None]]] = {}

    def take(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A buffer with arbitrary content that no device is still writing to."""
        free = self._free.setdefault((shape, dtype), deque())
        for _ in range(len(free)):
            buffer, copied = free.pop()
            if copied is None or copied.query():
                return buffer
            free.appendleft((buffer, copied))
        nbytes = math.prod(shape) * dtype.itemsize
        pinned = 0 < nbytes <= self._unpinned
        if pinned:
            self._unpinned -= nbytes
        with torch.inference_mode(False):  # such memory could not be written to outside that mode
            return torch.empty(shape, dtype=dtype, pin_memory=pinned)

    def lend(self, buffer: Tensor, copied: Copied | None = None) -> npt.NDArray[Any]:
        """The buffer as an array (bfloat16 as uint16 bits); it returns to the pool when the array is gone.

        Before `copied`, if given, the array holds no numbers yet. NumPy views of the array keep the array itself,
        since its memory belongs to a tensor.
        """
        array: npt.NDArray[Any] = as_array(buffer)
        weakref.finalize(array, self._give_back, buffer, copied).atexit = False
        return array

    def _give_back(self, buffer: Tensor, copied: Copied | None) -> None:
        free = self._free[tuple(buffer.shape), buffer.dtype]
        if len(free) < KEPT_PER_SHAPE or buffer.is_pinned():
            free.append((buffer, copied))


def as_array(tensor: Tensor) -> npt.NDArray[Any]:
    """A host tensor as an array that shares its memory; dtypes that NumPy lacks as their bits."""
    if tensor.dtype is torch.bfloat16:
        tensor = tensor.view(torch.uint16)
    elif tensor.is_floating_point() and tensor.element_size() == 1:
        tensor = tensor.view(torch.uint8)
    array: npt.NDArray[Any] = tensor.numpy()
    return array
