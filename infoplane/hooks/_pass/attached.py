"""Hooks on a model for as long as a piece of work lasts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from infoplane.core.interrupts import checkpoint, surely
from infoplane.hooks.select import Named

T = TypeVar("T")


class Attached:
    """Hooks that all go again. Each is noted before it is attached, and found by identity when it is taken off."""

    def __init__(self) -> None:
        self._mine: list[tuple[nn.Module, Callable[..., Any]]] = []

    def before(self, module: nn.Module, hook: Callable[..., Any], *, first: bool = False) -> None:
        """Call `hook(module, args, kwargs)` ahead of the forward pass, and after or ahead of the other hooks."""
        self._mine.append((module, hook))
        module.register_forward_pre_hook(hook, with_kwargs=True, prepend=first)

    def after(self, module: nn.Module, hook: Callable[..., Any], *, first: bool = False) -> None:
        """Call `hook(module, args, output)` after the forward pass, and after or ahead of the other hooks."""
        self._mine.append((module, hook))
        module.register_forward_hook(hook, prepend=first)

    def let_stop(self, module: nn.Module) -> None:
        """Let Ctrl-C end the pass where the module is called: no code of torch is half way through anything there."""
        self.before(module, _between_modules, first=True)

    def remove(self) -> None:
        for module, hook in self._mine:
            for hooks, flags in (
                (module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs),
                (module._forward_hooks, module._forward_hooks_with_kwargs),
            ):
                for key in [key for key, found in hooks.items() if found is hook]:
                    flags.pop(key, None)
                    del hooks[key]


def _between_modules(module: nn.Module, args: Any, kwargs: Any) -> None:
    checkpoint()


def with_hooks(work: Callable[[Attached], T]) -> T:
    """`work` with hooks that it attaches and that are gone afterwards, also when it is cut short."""
    attached = Attached()
    return surely(attached.remove, lambda: work(attached))


class _FunctionMode(TorchFunctionMode):
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

    def push(name: str, *_: Any) -> None:
        stack.append(name)

    def pop(*_: Any) -> None:
        stack.pop()

    for named in modules.values():
        attached.before(named.module, partial(push, named.name))
        attached.after(named.module, pop)
    with _FunctionMode(stack, seen):
        return work()
