"""Hooks on a model for as long as a piece of work lasts, and the tensors in what they see."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from infoplane.core.interrupts import checkpoint, surely
from infoplane.core.text import listed, printable
from infoplane.hooks.select import Named

T = TypeVar("T")


class Attached:
    """Hooks on modules that `remove` takes off again: each is noted before it is attached, then found by identity."""

    def __init__(self) -> None:
        self._hooks: list[tuple[nn.Module, Callable[..., Any]]] = []  # each with its module

    def before(self, module: nn.Module, hook: Callable[..., Any], *, first: bool = False) -> None:
        """Have `hook(module, args, kwargs)` called ahead of each forward pass: `first` or last among the hooks."""
        self._hooks.append((module, hook))
        module.register_forward_pre_hook(hook, with_kwargs=True, prepend=first)

    def after(self, module: nn.Module, hook: Callable[..., Any], *, first: bool = False) -> None:
        """Have `hook(module, args, output)` called after each forward pass: `first` or last among the hooks."""
        self._hooks.append((module, hook))
        module.register_forward_hook(hook, prepend=first)

    def remove(self) -> None:
        """Take every hook off its module again."""
        # Not by the handles of torch: an interrupt could come between attaching a hook and keeping its handle.
        for module, hook in self._hooks:
            for hooks, flags in (
                (module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs),
                (module._forward_hooks, module._forward_hooks_with_kwargs),
            ):
                for key in [key for key, registered in hooks.items() if registered is hook]:
                    flags.pop(key, None)
                    del hooks[key]


class Installed:
    """Something that stays attached to a model until it is removed, or until the end of its `with` block."""

    def __init__(self) -> None:
        self._removals: list[Callable[[], None]] = []

    def remove(self) -> None:
        """Detach it from the model; calling this again does nothing."""
        for remove in self._removals:
            remove()
        self._removals = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()


def with_hooks(work: Callable[[Attached], T], modules: Iterable[Named] = ()) -> T:
    """Return `work(attached)`; the hooks that it attaches are taken off afterwards, also when it is cut short.

    Ctrl-C may end the work at each call of one of the `modules`.
    """
    attached = Attached()

    def run() -> T:
        """Do the work, with a hook for Ctrl-C on each of the modules."""
        for named in modules:
            # Where a module is called, no code of torch is half way through anything.
            attached.before(named.module, lambda *_: checkpoint(), first=True)
        return work(attached)

    return surely(attached.remove, run)


class _FunctionMode(TorchFunctionMode):
    """While it is on, calls `seen(module name, function name, result)` after every function that gives a tensor."""

    def __init__(self, stack: list[str], seen: Callable[[str, str, Any], None]) -> None:
        """Call `seen` from now on; `stack` holds the names of the modules that are running, the innermost last."""
        super().__init__()
        self._stack = stack
        self._seen = seen

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call a function of torch, tell `seen` of it if it gives a tensor, and return its result."""
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and (name := op_name(func)):
            self._seen(self._stack[-1] if self._stack else "", name, out)  # "" is the model itself
        return out


def op_name(func: Any) -> str:
    """`relu` for torch.relu, functional.relu, Tensor.relu and their in-place forms; "" for access to attributes."""
    name = str(getattr(func, "__name__", ""))
    return "" if name.startswith("_") else name.rstrip("_")


def watch_ops(
    attached: Attached, modules: Mapping[str, Named], seen: Callable[[str, str, Any], None], work: Callable[[], T]
) -> T:
    """Return `work()`; call `seen(module name, function name, result)` after every function of torch in it.

    A function that another one calls is not reported: of `functional.softmax`, which calls `Tensor.softmax`, the former
    alone is.
    """
    stack: list[str] = []

    def push(name: str, *_: Any) -> None:
        stack.append(name)

    def pop(*_: Any) -> None:
        stack.pop()

    for named in modules.values():
        attached.before(named.module, partial(push, named.name))
        attached.after(named.module, pop)
    with _FunctionMode(stack, seen):
        return work()


class TensorInfo(NamedTuple):
    """Shape and dtype of one tensor in a forward pass; `odd` names a layout without dense rows ("a nested tensor")."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    odd: str = ""


def info(tensor: Tensor) -> TensorInfo:
    """Shape, dtype and layout of a tensor."""
    return TensorInfo(() if tensor.is_nested else tuple(tensor.shape), tensor.dtype, _odd(tensor))


def tensors_in(value: Any) -> dict[str, Tensor]:
    """Every tensor in a value by its path: "" for the value itself, "[0]", ".last_hidden_state", "[1][0]"."""
    if isinstance(value, Tensor):
        return {"": value}
    return {place + path: t for place, item in _items(value).items() for path, t in tensors_in(item).items()}


def _items(value: Any) -> dict[str, Any]:
    """What a container holds, by its place "[0]" or ".name"; nothing for any other value."""
    if isinstance(value, torch.nn.utils.rnn.PackedSequence):
        return {}  # its rows are no samples
    if isinstance(value, Mapping):
        return {f".{key}" if isinstance(key, str) else f"[{key!r}]": item for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):  # a named tuple
        return {f".{name}": getattr(value, name) for name in value._fields}
    if isinstance(value, tuple | list):
        return {f"[{i}]": item for i, item in enumerate(value)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f".{field.name}": getattr(value, field.name) for field in dataclasses.fields(value)}
    return {}


def choose(found: Mapping[str, Tensor] | Mapping[str, TensorInfo], path: str | None, what: str, kind: str) -> str:
    """Return the path of the one tensor at or below `path`, or, where that is None, of the only one there is.

    `found` are the tensors by path, of something that messages call `what` ("the output of layer fc1").

    Raises
    ------
    TypeError
        If there is no tensor at all; `kind` names what came instead.
    ValueError
        If several fit, or none: what there is, is listed with shapes.
    """
    what = printable(what)
    if not found:
        raise TypeError(f"{what} is {kind}, which holds no dense tensor; record a module that gives one, or omit it")
    # Below `[1]` lie `[1][0]` and `[1].name`, but not `[10]`.
    below = {p: t for p, t in found.items() if not path or p == path or (p.startswith(path) and p[len(path)] in ".[")}
    if not below:
        raise ValueError(f"{what} has no tensor at {path!r}; it has {_listed(found)}")
    if len(below) > 1:
        example = f"{what.split()[-1].partition('@')[0]}@{'in' if '@in' in what else 'out'}{next(iter(below))}"
        raise ValueError(f"{what} has {len(below)} tensors: {_listed(below)}; name one, as in {example!r}")
    return next(iter(below))


def dense(tensor: Tensor, what: str) -> Tensor:
    """Return the tensor with ordinary rows; one that is sharded is gathered, for which all processes must call this.

    TypeError for a sparse, nested or quantized tensor; `what` names its layer in the message.
    """
    if hasattr(tensor, "full_tensor"):
        tensor = tensor.full_tensor()
    if odd := _odd(tensor):
        refuse_odd(odd, what)
    return tensor


def refuse_odd(odd: str, what: str) -> None:
    """Raise TypeError for a tensor without ordinary rows: `odd` are the words of `_odd`, `what` names its layer."""
    raise TypeError(f"{what} is {odd}; make it dense inside the model (to_dense, dequantize, padding)")


def _odd(tensor: Tensor) -> str:
    """Words for a tensor without ordinary rows; "" for a dense one."""
    layout = "" if tensor.layout is torch.strided else str(tensor.layout).removeprefix("torch.")
    kind = "nested" if tensor.is_nested else "quantized" if tensor.is_quantized else layout
    return f"a {kind} tensor" if kind else ""


def type_name(value: Any) -> str:
    """Words for a value in messages: `None`, or `a Tensor`."""
    return "None" if value is None else f"a {printable(type(value).__qualname__)}"


def _listed(found: Mapping[str, Any]) -> str:
    """The paths of tensors with their shapes, for a message."""
    return listed([f"{printable(path) or 'itself'} {tuple(t.shape)}" for path, t in found.items()], 8)
