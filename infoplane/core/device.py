"""The one place that chooses between code for CPU memory and code for an accelerator."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Protocol


class Device(Protocol):
    """A torch.device, as far as it matters here."""

    @property
    def type(self) -> str: ...


_forced = False


def on_accelerator(device: Device) -> bool:
    """Whether values on `device` take the branch for accelerators: no numpy, and few large operations in torch."""
    return _forced or device.type != "cpu"


@contextlib.contextmanager
def accelerator_branches() -> Iterator[None]:
    """Take the accelerator's branches on the CPU as well, as tests do on a machine without one."""
    global _forced
    before, _forced = _forced, True
    try:
        yield
    finally:
        _forced = before
