"""Leave a model and its surroundings exactly as they were found: modes, random states, buffers.

Each part reads what is there and returns the function that puts it back. Nothing is changed before all parts have
been read, and putting back can be repeated: an interrupt at any line then leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from infoplane.core.interrupts import surely
from infoplane.hooks._ranks import is_sharded
from infoplane.hooks.noise import noise_hooks

SMALL_BUFFER_BYTES = 1 << 20
"""Buffers up to this size are copied at every pass."""

COPIED_PARAMETER_BYTES = 1 << 30
"""Parameters up to this size are all copied at the first pass, to see which of them a forward pass changes."""

Restore = Callable[[], None]
T = TypeVar("T")


def _put_back(restores: list[Callable[[], object]]) -> None:
    """Call the functions that undo changes, the last one first; what has been undone leaves the list."""
    failed: Exception | None = None
    for restore in reversed(list(restores)):
        try:
            restore()
        except Exception as error:
            failed = error  # the others are put back all the same; `restore` stays in the list for a second try
        else:
            restores.remove(restore)
    if failed is not None:
        raise failed


def keep_random_state(device: torch.device) -> Restore:
    """Return a function that restores the present state of the generators of torch (CPU, CUDA), NumPy and `random`."""
    parts: list[Callable[[], object]] = [partial(torch.set_rng_state, torch.get_rng_state())]
    parts += [partial(torch.cuda.set_rng_state, torch.cuda.get_rng_state(d), d) for d in _cuda_devices(device)]
    parts += [partial(np.random.set_state, np.random.get_state())]  # noqa: NPY002 - what a training loop draws from
    parts += [partial(random.setstate, random.getstate())]
    return lambda: _put_back(list(parts))  # a copy: the function may be called again


def _cuda_devices(device: torch.device) -> list[torch.device]:
    """The CUDA devices whose random numbers a forward pass may draw; none before CUDA is in use."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return []
    indices = {torch.cuda.current_device()}
    if device.type == "cuda" and device.index is not None:  # without an index it is the current one
        indices.add(device.index)
    return [torch.device("cuda", i) for i in sorted(indices)]


def keep_attribute(owners: Iterable[Any], name: str) -> Restore:
    """Return a function that gives each owner back the object that its attribute `name` is now."""
    # Used for modes, which users may have set for single modules, for gradients and for sources of noise.
    before = [(owner, getattr(owner, name)) for owner in owners]

    def restore() -> None:
        for owner, value in before:
            if getattr(owner, name) is not value:
                setattr(owner, name, value)

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
    """Return a function that puts each module's present parameters back: functional_call swaps them for others."""
    before = [(module._parameters, name, p) for module in model.modules() for name, p in module._parameters.items()]

    def restore() -> None:
        for held, name, parameter in before:
            held[name] = parameter

    return restore


class Changes(NamedTuple):
    """Names of the tensors that a pass `changed` in any way, and of those alone that it `replaced` or made."""

    changed: set[str]
    replaced: set[str]


class Surroundings:
    """A model with all that a forward pass, or the preparation of one, changes; training never sees it.

    Observers, counters and caches change buffers, in evaluation mode too; embeddings with `max_norm` and weights that
    are set at the first call change parameters. The first pass copies all of them and learns which change; later passes
    copy those and the small buffers. A change shows in the tensor's version, except for writes through `.data`, batch
    statistics in training mode and collectives. So the values of copied parameters are compared as well; if `exact`,
    buffers are all copied, at every pass, and compared.

    `first` and `last` are the changes made by these passes. With `swaps`, parameters that the work swaps are put back.
    Models that swap their own in a forward pass (sharded ones) must not have this.
    """

    def __init__(
        self, model: nn.Module, *, autocast: torch.dtype | None = None, evaluation: bool = True, swaps: bool = False
    ) -> None:
        """`autocast` is the dtype in which the work runs, if any; without `evaluation` modules keep their modes."""
        self.model = model
        self.exact = not evaluation
        self._autocast, self._evaluation, self._swaps = autocast, evaluation, swaps
        self.first: Changes | None = None
        self.last: Changes | None = None
        self._changing: set[str] = set()

    def undisturbed(self, work: Callable[[], T], device: torch.device) -> T:
        """Return `work()`, run without gradients and in evaluation mode; then all is put back, bit for bit."""
        model = self.model

        def prepared() -> T:
            """Make the changes that a pass needs, and do the work."""
            torch.set_grad_enabled(False)
            if self._evaluation:
                evaluate(model)
            run_eagerly()
            set_precision(device.type, self._autocast)
            try:
                return work()
            except BaseException as error:
                if not isinstance(error, Exception):
                    # Ctrl-C while inference mode is entered can leave its guard alive in a frame of the traceback. When
                    # freed, it resets the mode: that has to be before everything is put back.
                    traceback.clear_frames(error.__traceback__)
                raise

        # Inference tensors can be worked on in inference mode only, and what is made in that mode stays one of them.
        inference = any(t.is_inference() for t in _tensors_of(model))
        same = torch.is_inference_mode_enabled() is inference
        with contextlib.nullcontext() if same else torch.inference_mode(inference):
            return surely(partial(_put_back, self._keep(device)), prepared)

    def _keep(self, device: torch.device) -> list[Callable[[], object]]:
        """Note all that a forward pass changes; return the functions that put it back."""
        model = self.model
        sharded = is_sharded(model)  # such a model swaps its parameters in every pass
        return [
            partial(torch.set_grad_enabled, torch.is_grad_enabled()),
            keep_random_state(device),
            keep_attribute(model.modules(), "training"),
            keep_attribute([] if sharded else model.parameters(), "grad"),
            self._keep_tensors(sharded=sharded),
            keep_attribute(noise_hooks(model), "measuring"),
            keep_compilation(),
            keep_precision(device.type),
            keep_torch_stacks(),
            *([keep_parameters(model)] if self._swaps else []),
        ]

    def _keep_tensors(self, *, sharded: bool) -> Restore:
        """Return a function that puts the tensors back; it raises RuntimeError for a change of one not copied."""
        model = self.model
        noted = self._tensors(parameters=not sharded)
        buffers = [(p, m._buffers, dict(m._buffers)) for p, m in model.named_modules() if type(m._buffers) is dict]
        replaced: set[str] = set()  # not made in `restore`, which finds none any more when it is called again
        for name, parameter in () if sharded else model.named_parameters():
            gradient = parameter.grad
            if gradient is not None and gradient.layout is torch.strided:
                noted.append(_Tensor("gradient", name, {"": gradient}, "", copied=False, compared=False))

        @torch.no_grad()
        def restore() -> None:
            """Put tensors and their numbers back, and note in `first` and `last` what has changed."""
            changed = [tensor for tensor in noted if tensor.is_changed()]
            names = {tensor.name for tensor in changed}  # a parameter and its gradient share their name
            replaced.update(tensor.name for tensor in noted if tensor.is_replaced())
            for prefix, held, before in buffers:
                # Buffers that the pass has made: their place was empty, or was not there.
                for key in [k for k, buffer in held.items() if buffer is not None and before.get(k) is None]:
                    replaced.add(_dotted(prefix, key))
                    held[key] = None
                    if key not in before:
                        del held[key]
            self._changing |= names
            self.last = Changes(names | replaced, set(replaced))
            self.first = self.first or self.last
            lost = [tensor for tensor in noted if not tensor.restore(changed=tensor in changed)]
            if lost:
                raise RuntimeError(
                    f"the probe pass changed the {lost[0].kind} {lost[0].name!r}, which no earlier pass had changed "
                    "and which is not copied at every snapshot; keep it fixed in evaluation mode"
                )

        return restore

    def _tensors(self, *, parameters: bool) -> list[_Tensor]:
        """Note the model's buffers, and with `parameters` its parameters; copy those that a pass may change."""
        model, exact, is_first = self.model, self.exact, self.first is None
        # The first pass copies all parameters where they are not too large.
        copies_all = parameters and is_first and sum(p.nbytes for p in model.parameters()) <= COPIED_PARAMETER_BYTES
        noted = []
        for prefix, module in model.named_modules():
            copies_parameters = copies_all or getattr(module, "max_norm", None) is not None  # of embeddings
            for kind, held in (("buffer", module._buffers), ("parameter", module._parameters if parameters else {})):
                for key, tensor in ((key, tensor) for key, tensor in held.items() if tensor is not None):
                    name = _dotted(prefix, key)
                    small = exact or is_first or tensor.nbytes <= SMALL_BUFFER_BYTES
                    copied = (small if kind == "buffer" else copies_parameters) or name in self._changing
                    compared = exact or kind == "parameter"
                    noted.append(_Tensor(kind, name, held, key, copied, compared))
        return noted


def _dotted(prefix: str, key: str) -> str:
    """The full name of what the module `prefix` (`` for the model itself) holds under `key`."""
    return f"{prefix}.{key}" if prefix else key


class _Tensor:
    """One tensor of a module as it was ahead of a pass."""

    def __init__(self, kind: str, name: str, held: dict[str, Any], key: str, copied: bool, compared: bool) -> None:
        """Note the tensor `held[key]`, with a copy of its numbers if `copied`.

        A change shows in the tensor's version; `compared` looks for one in the numbers, too. A gradient stands in a
        dict of its own, where nothing replaces it: `keep_attribute` puts it back.
        """
        tensor: Tensor = held[key]
        self.kind, self.name = kind, name
        self._held, self._key, self._tensor = held, key, tensor
        inference = tensor.is_inference()  # which has no version
        self._version = None if inference else tensor._version
        self._copy = tensor.detach().clone() if copied or inference else None
        self._compared = (compared or inference) and not tensor.is_meta  # which has no numbers

    def is_changed(self) -> bool:
        """Whether the tensor's numbers were written to."""
        if self._version is not None and self._tensor._version != self._version:
            return True
        return self._compared and self._copy is not None and not torch.equal(self._tensor, self._copy)

    def is_replaced(self) -> bool:
        """Whether the module now holds another tensor in the place of this one, or none."""
        return self._key not in self._held or self._held[self._key] is not self._tensor

    def restore(self, *, changed: bool) -> bool:
        """Put the old tensor and, if they were `changed`, its numbers back; return False if these are not known."""
        if changed and self._copy is not None:
            # Through `.data` the version stays, and with it what autograd holds for the training step.
            (self._tensor.data if self.kind == "parameter" else self._tensor).copy_(self._copy)
        if self.is_replaced():
            self._held[self._key] = self._tensor
        return not changed or self._copy is not None


def keep_compilation() -> Restore:
    """Return a function that restores the present stance of torch.compile and attention's fused path."""
    dynamo: Any = sys.modules.get("torch._dynamo.eval_frame")  # None while nothing has been compiled
    stance = getattr(dynamo, "_stance", None)
    fused = torch.backends.mha.get_fastpath_enabled()

    def restore() -> None:
        torch.backends.mha.set_fastpath_enabled(fused)
        if stance is not None and dynamo._stance is not stance:
            dynamo._set_stance(stance)

    return restore


def run_eagerly() -> None:
    """Run compiled modules uncompiled, with attention's fused path off: hooks do not fire in either.

    Nothing can be compiled before torch._dynamo was imported, and importing it costs seconds.
    """
    if "torch._dynamo" in sys.modules:
        torch.compiler.set_stance("force_eager")
    torch.backends.mha.set_fastpath_enabled(False)


def keep_precision(device_type: str) -> Restore:
    """Return a function that restores the caller's autocast region, on the CPU and on the model's device."""
    types = sorted({"cpu", device_type})
    before = [(t, torch.is_autocast_enabled(t), torch.get_autocast_dtype(t)) for t in types]
    caches_weights = torch.is_autocast_cache_enabled()
    depth = _autocast_depth()

    def restore() -> None:
        for device_type, enabled, dtype in before:
            torch.set_autocast_enabled(device_type, enabled)
            torch.set_autocast_dtype(device_type, dtype)
        torch.set_autocast_cache_enabled(caches_weights)
        while _autocast_depth() > depth:
            torch.autocast_decrement_nesting()

    return restore


def _autocast_depth() -> int:
    """How many autocast regions are open."""
    # There is no other way to read it; on one line, since nothing may come between the two.
    _, depth = torch.autocast_increment_nesting(), torch.autocast_decrement_nesting()
    return int(depth)


def set_precision(device_type: str, autocast: torch.dtype | None) -> None:
    """Enter an autocast region of the probe's own, whatever region the caller is in; None is one without autocast.

    The weight cache stays off: filled under no_grad, it would hand weights without history to the training step.
    """
    region: Any = torch.autocast(device_type, dtype=autocast, enabled=autocast is not None, cache_enabled=False)
    region.__enter__()  # what it changes is put back by `keep_precision`


def keep_torch_stacks() -> Restore:
    """Return a function that takes off torch's modes and levels of vmap that an interrupt has left standing."""
    functorch: Any = getattr(torch._C, "_functorch", None)
    function_modes, dispatch_modes = torch._C._len_torch_function_stack(), torch._C._len_torch_dispatch_stack()
    vmap_levels = functorch.get_dynamic_layer_stack_depth()

    def restore() -> None:
        while torch._C._len_torch_function_stack() > function_modes:
            torch._C._pop_torch_function_stack()
        while (n := torch._C._len_torch_dispatch_stack()) > dispatch_modes:
            torch._C._get_dispatch_stack_at(n - 1).__exit__(None, None, None)
        if functorch.get_dynamic_layer_stack_depth() > vmap_levels:
            functorch.pop_dynamic_layer_stack_and_undo_to_depth(vmap_levels)

    return restore


def seed_generators(device: torch.device, seed: int) -> torch.Generator:
    """Seed the global generators, which `keep_random_state` restores, and return one of the same seed on `device`.

    `torch.manual_seed` would also seed accelerators that are not in use yet, for good.
    """
    torch.default_generator.manual_seed(seed)
    for used in _cuda_devices(device):
        torch.cuda.default_generators[used.index].manual_seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)  # noqa: NPY002 - which takes 32 bits
    random.seed(seed)
    return torch.Generator(device).manual_seed(seed)


def model_device(model: nn.Module) -> torch.device:
    """The device of the first parameter (or buffer); the CPU for a model without any."""
    return next((tensor.device for tensor in _tensors_of(model)), torch.device("cpu"))


def _tensors_of(model: nn.Module) -> Iterator[Tensor]:
    """Yield the parameters and then the buffers of a model."""
    return itertools.chain(model.parameters(), model.buffers())
