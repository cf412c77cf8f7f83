"""Module names as the user wrote them: wrappers of DDP, torch.compile, FSDP and checkpointing left out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

_WRAPPED = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside DataParallel, DistributedDataParallel and torch.compile.

    The probe calls this one: the DDP wrapper broadcasts buffers, which on one rank alone hangs the job.
    """
    while True:
        if is_scripted(model):  # which has not all the ways of a dict
            return model
        if isinstance(model, DistributedDataParallel | DataParallel):
            model = model.module
        elif isinstance(inner := model._modules.get("_orig_mod"), nn.Module):
            model = inner
        else:
            return model


def is_scripted(module: nn.Module) -> bool:
    """A TorchScript module: it takes no hooks, and calls none inside."""
    return isinstance(module, torch.jit.ScriptModule)


@dataclass(frozen=True, eq=False)
class Named:
    """One module with its name and the further names under which it is also reached."""

    name: str
    module: nn.Module
    aliases: tuple[str, ...] = ()

    @property
    def has_forward(self) -> bool:
        """False for containers that only hold modules (ModuleList, ModuleDict)."""
        return type(self.module).forward is not nn.Module.forward

    @property
    def type_name(self) -> str:
        return type(self.module).__name__


def named_modules(model: nn.Module) -> dict[str, Named]:
    """Every module of an unwrapped model by its first name; "" is the model itself. Scripted ones are left out.

    Raises
    ------
    TypeError
        If the model itself is scripted.
    """
    if is_scripted(unwrap(model)):
        raise TypeError("the model is a TorchScript module, which takes no hooks; record the one that it was made of")
    names: dict[int, list[str]] = {}
    modules: dict[int, nn.Module] = {}
    for name, module in _walk(unwrap(model), ""):
        if is_scripted(module):
            continue
        modules[id(module)] = module
        if name not in names.setdefault(id(module), []):
            names[id(module)].append(name)
    return {n[0]: Named(n[0], modules[i], tuple(n[1:])) for i, n in names.items()}


def scripted_modules(model: nn.Module) -> list[str]:
    """Names of the parts that are scripted."""
    return [name for name, module in _walk(unwrap(model), "") if is_scripted(module)]


def _walk(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    yield prefix, module
    if is_scripted(module):
        return
    for child_name, child in module._modules.items():
        if child is None:
            continue
        yield from _walk(unwrap_inner(child), f"{prefix}.{child_name}" if prefix else child_name)


def unwrap_inner(module: nn.Module) -> nn.Module:
    """A child without wrappers; FSDP's and checkpointing's stay in the forward pass, only their name goes."""
    module = unwrap(module)
    for wrapped in () if is_scripted(module) else _WRAPPED:
        inner = module._modules.get(wrapped)
        if isinstance(inner, nn.Module):
            return unwrap_inner(inner)
    return module
