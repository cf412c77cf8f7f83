"""Functions that a forward pass calls (relu, softmax, ...), as seen from the modules that call them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from infoplane.hooks._attached import Attached
from infoplane.hooks._names import Named

T = TypeVar("T")

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


def watch_ops(
    attached: Attached,
    modules: Mapping[str, Named],
    seen: Callable[[str, str, tuple[Any, ...], Any], None],
    work: Callable[[], T],
) -> T:
    """`work()`, calling `seen(module name, op name, arguments, result)` after every function called inside.

    Functions that others call are theirs: `functional.softmax` shows, the `Tensor.softmax` in it does not.
    """
    stack: list[str] = []
    for named in modules.values():
        _keep_on_stack(attached, named, stack)
    with _Calls(stack, seen):
        return work()


def _keep_on_stack(attached: Attached, named: Named, stack: list[str]) -> None:
    def push(module: nn.Module, args: Any, kwargs: Any) -> None:
        stack.append(named.name)

    def pop(module: nn.Module, args: Any, output: Any) -> None:
        stack.pop()

    attached.before(named.module, push)
    attached.after(named.module, pop)
