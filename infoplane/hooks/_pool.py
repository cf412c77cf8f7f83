"""Buffers for snapshots, used again once nobody holds their numbers.

A fresh large buffer costs four times a copy into one that is mapped already. Sinks may keep the arrays they
are given: a buffer comes back when the last reference to its array is gone, from whatever thread.
"""

from __future__ import annotations

import weakref
from collections import deque
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

KEPT_PER_SHAPE = 4


class Pool:
    """Tensors in host memory, page-locked where copies from an accelerator should overlap."""

    def __init__(self, *, pinned: bool = False) -> None:
        self._pinned = pinned
        self._free: dict[tuple[tuple[int, ...], torch.dtype], deque[Tensor]] = {}

    def take(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A buffer with arbitrary content."""
        free = self._free.setdefault((shape, dtype), deque(maxlen=KEPT_PER_SHAPE))
        try:
            return free.pop()
        except IndexError:
            return torch.empty(shape, dtype=dtype, pin_memory=self._pinned)

    def lend(self, buffer: Tensor) -> npt.NDArray[Any]:
        """The buffer as an array (bfloat16 as uint16 bits); it returns to the pool when the array is gone.

        NumPy views of the array keep the array itself, since its memory belongs to a tensor.
        """
        array: npt.NDArray[Any] = as_array(buffer)
        weakref.finalize(array, self._give_back, buffer).atexit = False
        return array

    def _give_back(self, buffer: Tensor) -> None:
        self._free[tuple(buffer.shape), buffer.dtype].append(buffer)


def as_array(tensor: Tensor) -> npt.NDArray[Any]:
    """A host tensor as an array that shares its memory; dtypes that NumPy lacks as their bits."""
    if tensor.dtype is torch.bfloat16:
        tensor = tensor.view(torch.uint16)
    elif tensor.is_floating_point() and tensor.element_size() == 1:
        tensor = tensor.view(torch.uint8)
    array: npt.NDArray[Any] = tensor.numpy()
    return array
