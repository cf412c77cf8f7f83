"""Leave a model and its surroundings exactly as they were found: modes, random states, buffers."""

from __future__ import annotations

import contextlib
import itertools
import random
import sys
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

SMALL_BUFFER_BYTES = 1 << 20


@contextlib.contextmanager
def random_state(device: torch.device) -> Iterator[None]:
    """Restore the generators of torch (CPU and accelerators in use), NumPy and `random` on leaving."""
    cpu = torch.get_rng_state()
    devices = _cuda_devices(device)
    cuda = [torch.cuda.get_rng_state(d) for d in devices]
    legacy = np.random.get_state()  # noqa: NPY002 - the global generator is what a training loop draws from
    python = random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(cpu)
        for device, state in zip(devices, cuda, strict=True):
            torch.cuda.set_rng_state(state, device)
        np.random.set_state(legacy)  # noqa: NPY002
        random.setstate(python)


def _cuda_devices(device: torch.device) -> list[torch.device]:
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return []
    indices = {torch.cuda.current_device()}
    if device.type == "cuda":
        indices.add(torch.cuda.current_device() if device.index is None else device.index)
    return [torch.device("cuda", i) for i in sorted(indices)]


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Switch every module to evaluation and give each its own mode back.

    The flag is set directly: users freeze single modules, and an overridden `train` or `eval` may have side
    effects (adapters that merge their weights).
    """
    training = [m for m in model.modules() if m.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


class Buffers:
    """Restores buffers that a forward pass changes even in evaluation mode (observers, counters, caches).

    The first pass under `kept` copies all of them and learns which change; later passes copy those and the
    small ones. A change shows in the tensor's version, except for batch statistics in training mode and for
    collectives: there values are compared (`exact`, which also copies all).
    """

    def __init__(self) -> None:
        self._changing: set[tuple[int, str]] = set()
        self._first = True

    @contextlib.contextmanager
    def kept(self, model: nn.Module, *, exact: bool = False) -> Iterator[None]:
        held: list[tuple[nn.Module, str, Tensor, int, Tensor | None]] = []
        for module in model.modules():
            for name, buffer in module._buffers.items():
                if buffer is None:
                    continue
                copied = (
                    exact
                    or self._first
                    or (id(module), name) in self._changing
                    or buffer.numel() * buffer.element_size() <= SMALL_BUFFER_BYTES
                )
                held.append((module, name, buffer, buffer._version, buffer.clone() if copied else None))
        try:
            yield
        finally:
            lost = []
            for module, name, buffer, version, copy in held:
                if buffer._version != version or (exact and copy is not None and not torch.equal(buffer, copy)):
                    self._changing.add((id(module), name))
                    if copy is None:
                        lost.append(name)
                    else:
                        buffer.copy_(copy)
                if module._buffers.get(name) is not buffer:
                    module._buffers[name] = buffer
            self._first = False
            if lost:
                raise RuntimeError(
                    f"the probe pass changed the buffer {lost[0]!r}, which no earlier pass had changed and which is "
                    "too large to be copied at every snapshot; keep it fixed in evaluation mode"
                )


@contextlib.contextmanager
def eager() -> Iterator[None]:
    """Run compiled modules uncompiled, with attention's fused path off: hooks do not fire in either.

    Nothing can be compiled before torch._dynamo was imported, and importing it costs seconds.
    """
    with contextlib.ExitStack() as stack:
        if "torch._dynamo" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast)
        yield


@contextlib.contextmanager
def precision(device_type: str, autocast: torch.dtype | None) -> Iterator[None]:
    """An autocast region of the probe's own, whatever region the caller is in.

    The weight cache stays off: filled under no_grad, it would hand weights without history to the training step.
    """
    with torch.autocast(device_type, dtype=autocast, enabled=autocast is not None, cache_enabled=False):
        yield


@contextlib.contextmanager
def undisturbed(
    model: nn.Module,
    buffers: Buffers,
    device: torch.device,
    *,
    autocast: torch.dtype | None = None,
    evaluation: bool = True,
    exact_buffers: bool = False,
) -> Iterator[None]:
    """All of the above, without gradients: training with and without a pass inside is equal bit for bit."""
    with (
        torch.no_grad(),
        random_state(device),
        evaluation_mode(model) if evaluation else contextlib.nullcontext(),
        buffers.kept(model, exact=exact_buffers or not evaluation),
        eager(),
        precision(device.type, autocast),
    ):
        yield


def seed_generators(device: torch.device, seed: int) -> torch.Generator:
    """Seed the global generators, inside `random_state` only, and return one of the same seed on `device`.

    `torch.manual_seed` would also seed accelerators that are not in use yet, for good.
    """
    torch.default_generator.manual_seed(seed)
    for used in _cuda_devices(device):
        torch.cuda.default_generators[used.index].manual_seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)  # noqa: NPY002
    random.seed(seed)
    return torch.Generator(device).manual_seed(seed)


def model_device(model: nn.Module) -> torch.device:
    """Where the first parameter (or buffer) lives; the CPU for a model without any."""
    for tensor in itertools.chain(model.parameters(), model.buffers()):
        return tensor.device
    return torch.device("cpu")
