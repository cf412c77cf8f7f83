"""Leave a model and its surroundings exactly as they were found: modes, random states, buffers.

Each part reads what is there and returns the function that puts it back. Nothing is changed before all parts have
been read, and putting back can be repeated: an interrupt at any line then leaves nothing behind.
"""

from __future__ import annotations

import itertools
import random
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from infoplane.hooks._interrupts import surely
from infoplane.hooks.noise import keep_noise

SMALL_BUFFER_BYTES = 1 << 20

Restore = Callable[[], None]
T = TypeVar("T")


def undisturbed(
    work: Callable[[], T],
    model: nn.Module,
    buffers: Buffers,
    device: torch.device,
    *,
    autocast: torch.dtype | None = None,
    evaluation: bool = True,
    exact_buffers: bool = False,
    parameters: bool = False,
) -> T:
    """`work()` without gradients and in evaluation mode; training with and without it is equal bit for bit.

    With `parameters`, those that the work swaps are put back too. Models that swap their own in a forward pass
    (sharded ones) must not have this.
    """
    restores = [
        keep_gradient_mode(),
        keep_random_state(device),
        keep_modes(model),
        buffers.keep(model, exact=exact_buffers or not evaluation),
        keep_noise(model),
        keep_compilation(),
        keep_precision(device.type),
        keep_torch_stacks(),
    ]
    if parameters:
        restores.append(keep_parameters(model))

    def restore() -> None:
        failed: Exception | None = None
        for part in reversed(list(restores)):
            try:
                part()
            except Exception as error:
                failed = error  # what is left is put back all the same, and this tried again
            else:
                restores.remove(part)
        if failed is not None:
            raise failed

    def changed() -> T:
        torch.set_grad_enabled(False)
        if evaluation:
            evaluate(model)
        run_eagerly()
        set_precision(device.type, autocast)
        return work()

    return surely(restore, changed)


def keep_gradient_mode() -> Restore:
    found = torch.is_grad_enabled()

    def restore() -> None:
        torch.set_grad_enabled(found)

    return restore


def keep_random_state(device: torch.device) -> Restore:
    """The generators of torch (CPU and accelerators in use), NumPy and `random`."""
    cpu = torch.get_rng_state()
    cuda = [(d, torch.cuda.get_rng_state(d)) for d in _cuda_devices(device)]
    legacy = np.random.get_state()  # noqa: NPY002 - the global generator is what a training loop draws from
    python = random.getstate()

    def restore() -> None:
        torch.set_rng_state(cpu)
        for used, state in cuda:
            torch.cuda.set_rng_state(state, used)
        np.random.set_state(legacy)  # noqa: NPY002
        random.setstate(python)

    return restore


def _cuda_devices(device: torch.device) -> list[torch.device]:
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return []
    indices = {torch.cuda.current_device()}
    if device.type == "cuda":
        indices.add(torch.cuda.current_device() if device.index is None else device.index)
    return [torch.device("cuda", i) for i in sorted(indices)]


def keep_modes(model: nn.Module) -> Restore:
    """Each module's own mode: users freeze single ones."""
    found = [(module, module.training) for module in model.modules()]

    def restore() -> None:
        for module, training in found:
            if module.training is not training:
                module.training = training

    return restore


def evaluate(model: nn.Module) -> None:
    """Switch every module to evaluation.

    The flag is set directly: an overridden `train` or `eval` may have side effects (adapters that merge their
    weights).
    """
    for module in model.modules():
        if module.training:
            module.training = False


def keep_parameters(model: nn.Module) -> Restore:
    """Which tensors the parameters are, not their numbers: functional_call swaps them."""
    found = [(module._parameters, name, p) for module in model.modules() for name, p in module._parameters.items()]

    def restore() -> None:
        for own, name, parameter in found:
            if own.get(name) is not parameter:
                own[name] = parameter

    return restore


class Buffers:
    """Restores buffers that a forward pass changes even in evaluation mode (observers, counters, caches).

    The first pass under `keep` copies all of them and learns which change; later passes copy those and the
    small ones. A change shows in the tensor's version, except for batch statistics in training mode and for
    collectives: there values are compared (`exact`, which also copies all).
    """

    def __init__(self) -> None:
        self._changing: set[tuple[int, str]] = set()
        self._first = True

    def keep(self, model: nn.Module, *, exact: bool = False) -> Restore:
        """Raises RuntimeError on restoring where a buffer has changed that was not copied."""
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

        @torch.no_grad()
        def restore() -> None:
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

        return restore


def keep_compilation() -> Restore:
    """The stance of torch.compile, and attention's fused path."""
    frames: Any = sys.modules.get("torch._dynamo.eval_frame")
    stance = getattr(frames, "_stance", None)
    fast = torch.backends.mha.get_fastpath_enabled()

    def restore() -> None:
        torch.backends.mha.set_fastpath_enabled(fast)
        if stance is not None and frames._stance is not stance:
            frames._set_stance(stance)

    return restore


def run_eagerly() -> None:
    """Run compiled modules uncompiled, with attention's fused path off: hooks do not fire in either.

    Nothing can be compiled before torch._dynamo was imported, and importing it costs seconds.
    """
    if "torch._dynamo" in sys.modules:
        torch.compiler.set_stance("force_eager")
    torch.backends.mha.set_fastpath_enabled(False)


def keep_precision(device_type: str) -> Restore:
    """The autocast region of the caller, on the devices that a forward pass may open one for."""
    types = sorted({"cpu", device_type})
    found = [(t, torch.is_autocast_enabled(t), torch.get_autocast_dtype(t)) for t in types]
    cached = torch.is_autocast_cache_enabled()
    depth = _autocast_depth()

    def restore() -> None:
        for kind, enabled, dtype in found:
            torch.set_autocast_enabled(kind, enabled)
            torch.set_autocast_dtype(kind, dtype)
        torch.set_autocast_cache_enabled(cached)
        while _autocast_depth() > depth:
            torch.autocast_decrement_nesting()

    return restore


def _autocast_depth() -> int:
    # There is no other way to read it; on one line, since nothing may come between the two.
    _, depth = torch.autocast_increment_nesting(), torch.autocast_decrement_nesting()
    return int(depth)


def set_precision(device_type: str, autocast: torch.dtype | None) -> None:
    """An autocast region of the probe's own, whatever region the caller is in.

    The weight cache stays off: filled under no_grad, it would hand weights without history to the training step.
    """
    region: Any = torch.autocast(device_type, dtype=autocast, enabled=autocast is not None, cache_enabled=False)
    region.__enter__()  # what it changes is put back by `keep_precision`


def keep_torch_stacks() -> Restore:
    """Modes that watch functions, and levels of vmap: an interrupt may come before torch takes them off again."""
    functorch: Any = getattr(torch._C, "_functorch", None)
    functions, dispatch = torch._C._len_torch_function_stack(), torch._C._len_torch_dispatch_stack()
    levels = functorch.get_dynamic_layer_stack_depth()

    def restore() -> None:
        while torch._C._len_torch_function_stack() > functions:
            torch._C._pop_torch_function_stack()
        while (n := torch._C._len_torch_dispatch_stack()) > dispatch:
            torch._C._get_dispatch_stack_at(n - 1).__exit__(None, None, None)
        if functorch.get_dynamic_layer_stack_depth() > levels:
            functorch.pop_dynamic_layer_stack_and_undo_to_depth(levels)

    return restore


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
