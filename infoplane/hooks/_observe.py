"""One forward pass watched from outside: which modules run, in which order, and what passes through them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from infoplane.hooks._attached import Attached, with_hooks
from infoplane.hooks._names import Named
from infoplane.hooks._ops import watch_ops
from infoplane.hooks._structure import TensorInfo, call_value, info, tensors_in, tensors_of, type_name


@dataclass(frozen=True)
class Call:
    """One call of a module: order of its beginning and end among all events, tensors in and out."""

    begin: int
    end: int
    inputs: Mapping[str, TensorInfo]
    outputs: Mapping[str, TensorInfo]
    output_type: str
    leaf: bool
    passes_through: bool


@dataclass
class Observation:
    """Calls of every module that ran, by its name; of functions, by the calling module's name and their own."""

    calls: dict[str, list[Call]] = field(default_factory=dict)
    ops: dict[tuple[str, str], list[Call]] = field(default_factory=dict)

    @property
    def leaves(self) -> list[str]:
        """Modules inside which no other module ran, in the order in which they first ended."""
        leaves = [n for n, calls in self.calls.items() if all(c.leaf for c in calls)]
        return sorted(leaves, key=lambda n: self.calls[n][0].end)

    @property
    def last_leaf(self) -> str | None:
        leaves = self.leaves
        return max(leaves, key=lambda n: self.calls[n][-1].end) if leaves else None


@dataclass
class _Open:
    begin: int
    inputs: dict[str, TensorInfo]
    storages: dict[int, tuple[int, int]]
    inner: bool = False


def observe(forward: Callable[[], Any], modules: Mapping[str, Named], *, ops: bool = False) -> Observation:
    """Run `forward` with a pair of hooks on every module, and on request with an eye on every function."""
    seen = Observation()
    stack: list[_Open] = []
    counter = iter(range(1 << 62))

    def before(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if stack:
            stack[-1].inner = True
        value = tensors_of(call_value(args, kwargs))
        storages = {_storage(t): (t._version, t.numel()) for t in value.values() if _has_storage(t)}
        stack.append(_Open(next(counter), {p: info(t) for p, t in value.items()}, storages))

    def after(name: str, output: Any) -> None:
        opened = stack.pop()
        outputs = tensors_in(output)
        tensors = list(outputs.values())
        same = (
            len(tensors) == 1
            and _has_storage(tensors[0])
            and opened.storages.get(_storage(tensors[0])) == (tensors[0]._version, tensors[0].numel())
        )
        call = Call(
            begin=opened.begin,
            end=next(counter),
            inputs=opened.inputs,
            outputs={p: info(t) for p, t in outputs.items()},
            output_type=type_name(output),
            leaf=not opened.inner,
            passes_through=same,
        )
        seen.calls.setdefault(name, []).append(call)

    def op(module: str, name: str, args: tuple[Any, ...], out: Any) -> None:
        now = next(counter)
        call = Call(now, now, {}, {p: info(t) for p, t in tensors_in(out).items()}, type_name(out), True, False)
        seen.ops.setdefault((module, name), []).append(call)

    def watched(attached: Attached) -> None:
        for named in modules.values():
            _watch(attached, named, before, after)
        if ops:
            watch_ops(attached, modules, op, forward)
        else:
            forward()

    with_hooks(watched)
    return seen


def _watch(
    attached: Attached,
    named: Named,
    before: Callable[[str, tuple[Any, ...], Mapping[str, Any]], None],
    after: Callable[[str, Any], None],
) -> None:
    def pre(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        before(named.name, args, kwargs)

    def post(module: nn.Module, args: Any, output: Any) -> None:
        after(named.name, output)

    attached.before(named.module, pre)
    attached.after(named.module, post)


def _has_storage(tensor: Tensor) -> bool:
    return not tensor.is_nested and tensor.layout is torch.strided and not hasattr(tensor, "full_tensor")


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
