"""Snapshots on their way into host memory; from a CUDA device while it goes on computing."""

from __future__ import annotations

import math
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor, cuda

from infoplane.core.device import on_accelerator

Allocate = Callable[[tuple[int, ...], torch.dtype], Tensor]
"""Gives memory with arbitrary content, by shape and dtype."""

AT_ONCE = 2
"""Snapshots whose copies may be under way; a third waits for the first."""

DEVICE_BYTES = 1 << 30
"""Part of a snapshot held on the device until it is copied; the rest goes into host memory, and is waited for."""

PINNED_BYTES = 1 << 30
"""Page-locked memory, or two snapshots where they are larger: as much as waits in the store's queue."""

KEPT_PER_SHAPE = 4
"""Free buffers of one shape and dtype that are kept."""


class Copies:
    """Copies off a CUDA device, on a stream of their own, while the device goes on computing."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._running: deque[cuda.Event] = deque()  # one event for each batch of copies, set when it is done

    def start(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> cuda.Event:
        """Start to copy each (source, target in page-locked memory); return the event for which readers wait."""
        if len(self._running) == AT_ONCE:
            self._running.popleft().synchronize()
        # Wait for the work that the device was given so far, which computes the sources. Later work does not wait for
        # this stream, so it must not write into the sources.
        self._stream.wait_stream(cuda.current_stream(self._device))
        with cuda.stream(self._stream):
            for source, target in pairs:
                target.copy_(source, non_blocking=True)
                source.record_stream(self._stream)  # the allocator may use its memory again once it has been read
        copied = cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        copied.record(self._stream)
        self._running.append(copied)
        return copied


class HostMemory:
    """The memory into which a pass over the probe puts its values, and from which they become arrays.

    On the CPU they are captured in pooled memory, which the arrays share. On an accelerator they are captured there,
    each by a copy that no later operation in the model can change, and copied to the host when the pass is over.
    """

    def __init__(self, device: torch.device, snapshot_bytes: int = 0) -> None:
        """Make memory for values on `device`.

        For a CUDA device up to 1 GiB of it, or two snapshots of `snapshot_bytes` if that is more, is page-locked.
        """
        self.device = device
        has_streams = device.type == "cuda"
        self._copies = Copies(device) if has_streams else None
        self._pool = Pool(pinned_bytes=max(PINNED_BYTES, 2 * snapshot_bytes) if has_streams else 0)

    def allocator(self, *, on_device: bool) -> Allocate:
        """A function that gives memory for one pass, by shape and dtype; with `on_device` all of it on the device."""
        if not on_accelerator(self.device):
            return self._pool.take
        room = math.inf if on_device else DEVICE_BYTES

        def allocate(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
            """Memory on the device while there is room for it, then in the host."""
            nonlocal room
            nbytes = math.prod(shape) * dtype.itemsize
            if nbytes > room:
                return self._pool.take(shape, dtype)
            room -= nbytes
            return _writable(shape, dtype, device=self.device)

        return allocate

    def arrays(self, values: Mapping[str, Tensor]) -> tuple[dict[str, npt.NDArray[Any]], Callable[[], None] | None]:
        """Return (key -> array in host memory, function that waits until the arrays are filled).

        The function is None where they are filled already.
        """
        targets = {k: self._pool.take(tuple(v.shape), v.dtype) for k, v in values.items() if not self._is_here(v)}
        copied = None
        if self._copies is not None:
            copied = self._copies.start((values[key], target) for key, target in targets.items())
        else:
            for key, target in targets.items():
                target.copy_(values[key])
        # What lies in host memory already becomes an array as it is.
        arrays = {key: self._pool.lend(targets.get(key, v), copied) for key, v in values.items()}
        return arrays, None if copied is None else copied.synchronize

    def _is_here(self, values: Tensor) -> bool:
        """Whether values lie in host memory."""
        return not on_accelerator(values.device)


def _writable(shape: tuple[int, ...], dtype: torch.dtype, **where: Any) -> Tensor:
    """Memory with arbitrary content, which can be written to outside of inference mode too."""
    with torch.inference_mode(False):
        return torch.empty(shape, dtype=dtype, **where)


class Pool:
    """Buffers in host memory, used again once nobody holds their numbers.

    Up to `pinned_bytes` of it is page-locked, so that a device copies into it by itself. A fresh large buffer costs
    four times a copy into one that is mapped already. Sinks may keep the arrays they are given: a buffer comes back
    when the last reference to its array is gone, from whatever thread.
    """

    def __init__(self, *, pinned_bytes: int = 0) -> None:
        self._may_pin = pinned_bytes  # bytes that may still be page-locked
        # Free buffers by shape and dtype, each with the event of the last copy into it, None for no copy of a device.
        self._free: dict[tuple[tuple[int, ...], torch.dtype], deque[tuple[Tensor, cuda.Event | None]]] = {}

    def take(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A buffer with arbitrary content that no device is still writing to."""
        free = self._free.setdefault((shape, dtype), deque())
        for _ in range(len(free)):
            buffer, copied = free.pop()
            if copied is None or copied.query():  # type: ignore[no-untyped-call]
                return buffer
            free.appendleft((buffer, copied))
        nbytes = math.prod(shape) * dtype.itemsize
        pinned = 0 < nbytes <= self._may_pin
        self._may_pin -= nbytes if pinned else 0
        return _writable(shape, dtype, pin_memory=pinned, device="cpu")

    def lend(self, buffer: Tensor, copied: cuda.Event | None = None) -> npt.NDArray[Any]:
        """Return the buffer as an array (bfloat16 as uint16 bits); it goes back to the pool when the array is freed.

        Before the event `copied`, if given, the array holds no numbers yet. NumPy views of the array keep the array
        itself, since its memory belongs to a tensor.
        """
        array: npt.NDArray[Any] = as_array(buffer)
        weakref.finalize(array, self._give_back, buffer, copied).atexit = False
        return array

    def _give_back(self, buffer: Tensor, copied: cuda.Event | None) -> None:
        """Keep a buffer for the next array of its shape: a page-locked one always, others up to `KEPT_PER_SHAPE`."""
        free = self._free[tuple(buffer.shape), buffer.dtype]
        if len(free) < KEPT_PER_SHAPE or buffer.is_pinned():
            free.append((buffer, copied))


def as_array(tensor: Tensor) -> npt.NDArray[Any]:
    """A host tensor as an array that shares its memory; bfloat16 and 8-bit floats, which NumPy lacks, as their bits."""
    if tensor.dtype is torch.bfloat16:
        tensor = tensor.view(torch.uint16)
    elif tensor.is_floating_point() and tensor.element_size() == 1:
        tensor = tensor.view(torch.uint8)
    array: npt.NDArray[Any] = tensor.numpy()
    return array
