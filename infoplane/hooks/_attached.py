"""Hooks on a model for as long as a piece of work lasts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

from infoplane.core.interrupts import checkpoint, surely

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
