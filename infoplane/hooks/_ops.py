"""Functions that a forward pass calls (relu, softmax, ...), as seen from the modules that call them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from infoplane.hooks._names import Named

ACTIVATION_OPS = frozenset(
    {
        "relu",
        "relu6",
        "leaky_relu",
        "prelu",
        "rrelu",
        "elu",
        "selu",
        "celu",
        "gelu",
        "silu",
        "mish",
        "tanh",
        "sigmoid",
        "hardtanh",
        "hardswish",
        "hardsigmoid",
        "softplus",
        "softsign",
        "softmax",
        "log_softmax",
        "softmin",
        "glu",
        "logsigmoid",
        "threshold",
        "hardshrink",
        "softshrink",
        "tanhshrink",
    }
)


class _Calls(TorchFunctionMode):
    def __init__(self, stack: list[str], seen: Callable[[str, str, tuple[Any, ...], Any], None]) -> None:
        super().__init__()
        self._stack = stack
        self._seen = seen

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            name = op_name(func)
            if name:
                self._seen(self._stack[-1] if self._stack else "", name, args, out)
        return out


def op_name(func: Any) -> str:
    """`relu` for torch.relu, functional.relu, Tensor.relu and their in-place forms; "" for accessors."""
    name = str(getattr(func, "__name__", ""))
    return "" if name.startswith("_") else name.rstrip("_")


@contextlib.contextmanager
def watch_ops(modules: Mapping[str, Named], seen: Callable[[str, str, tuple[Any, ...], Any], None]) -> Iterator[None]:
    """Call `seen(module name, op name, arguments, result)` after every function called inside.

    Functions that others call are theirs: `functional.softmax` shows, the `Tensor.softmax` in it does not.
    """
    stack: list[str] = []
    with contextlib.ExitStack() as hooks:
        for named in modules.values():
            hooks.enter_context(_on_stack(named, stack))
        hooks.enter_context(_Calls(stack, seen))
        yield


@contextlib.contextmanager
def _on_stack(named: Named, stack: list[str]) -> Iterator[None]:
    def push(module: nn.Module, args: Any) -> None:
        stack.append(named.name)

    def pop(module: nn.Module, args: Any, output: Any) -> None:
        stack.pop()

    handles = [named.module.register_forward_pre_hook(push)]
    try:
        handles.append(named.module.register_forward_hook(pop))
        yield
    finally:
        for handle in handles:
            handle.remove()
