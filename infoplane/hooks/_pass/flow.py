"""Which recorded layers form a Markov chain: the data-processing inequality holds along those alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

INPUT = -1


class Flow(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows through every operation on which recorded layers, or on the input, a tensor depends directly.

    Dependence is kept per storage, so views and in-place operations are followed. A weak reference keeps a
    storage's address from being used again without keeping its memory.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.parents: dict[int, frozenset[int]] = {}
        self._sources: dict[StorageWeakRef, frozenset[int]] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """The probe runs uncompiled anyway; True would import torch._dynamo, which takes seconds."""
        return False

    def mark(self, tensor: Tensor, node: int, *, cuts: bool = True) -> None:
        """A recorded layer's tensor: note on what it depends; later ones depend on it instead, if it `cuts`."""
        self.parents[node] = self.parents.get(node, frozenset()) | self.sources(tensor)
        if cuts:
            self._sources[_reference(tensor)] = frozenset({node})

    def start(self, tensors: Iterable[Tensor]) -> None:
        for t in tensors:
            self._sources[_reference(t)] = frozenset({INPUT})

    def sources(self, tensor: Tensor) -> frozenset[int]:
        """On what a tensor depends directly: recorded layers, or the input."""
        return self._sources.get(_reference(tensor), frozenset())

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        read = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        sources = frozenset[int]().union(*(self.sources(t) for t in read))
        out = func(*args, **kwargs)
        if sources and not _takes_shape_only(func):
            for t in (*_written(func, args, kwargs), *tree_leaves(out)):
                if isinstance(t, Tensor):
                    reference = _reference(t)
                    self._sources[reference] = self._sources.get(reference, frozenset()) | sources
        return out


def _takes_shape_only(func: Any) -> bool:
    """zeros_like, new_empty, ...: the result does not depend on the argument's values."""
    name = func._schema.name.removeprefix("aten::")
    return bool(name.endswith("_like") or name.startswith("new_"))


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    written: list[Any] = []
    for i, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[i] if i < len(args) else kwargs.get(argument.name)
            written.extend(tree_leaves(value))
    return written


def _reference(tensor: Tensor) -> StorageWeakRef:
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]


def markov_chain(parents: dict[int, frozenset[int]], order: Sequence[int]) -> list[int]:
    """The layers through which every path from the input to the last layer goes, in forward order.

    These are the dominators of the last layer: X -> T1 -> T2 -> ... holds for them and their successors. The
    list is empty where no path from the input was seen.
    """
    if not order:
        return []
    last = order[-1]
    if not _reaches_input(last, parents, without=None):
        return []
    return [n for n in order if n == last or not _reaches_input(last, parents, without=n)]


def _reaches_input(node: int, parents: dict[int, frozenset[int]], without: int | None) -> bool:
    stack, seen = [node], set[int]()
    while stack:
        current = stack.pop()
        if current == INPUT:
            return True
        if current in seen or current == without:
            continue
        seen.add(current)
        stack.extend(parents.get(current, ()))
    return False


def trace(forward: Callable[[Flow], None]) -> dict[int, frozenset[int]]:
    """Parents of every marked node; empty where an operation cannot be followed (higher-order operators)."""
    flow = Flow()
    try:
        with flow:
            forward(flow)
    except NotImplementedError:
        return {}
    return flow.parents
