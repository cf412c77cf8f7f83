"""What an accelerator would make a program wait for, and how much memory it would take, watched on CPU tensors."""

from __future__ import annotations

import weakref
from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten

# Calls that give the host a number, or an array: they end when the device has done all that it was given so far.
READING = ("item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__", "__index__", "__array__")
# Operations whose result has a shape that only the device knows, and checks of what it computed.
SIZING = {
    aten.nonzero: "nonzero",
    aten.masked_select: "masked_select",
    aten._unique: "unique",
    aten._unique2: "unique",
    aten.unique_dim: "unique",
    aten.unique_consecutive: "unique",
    aten.bincount: "bincount",
    aten.equal: "equal",
    aten._linalg_check_errors: "linalg",
    aten._local_scalar_dense: "item",
}


class _Calls(TorchFunctionMode):
    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self._waits = waits

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        # A torch.device stands for the accelerator here: only the word names the host.
        to_host = name == "to" and "cpu" in [a for a in (*args, kwargs.get("device")) if isinstance(a, str)]
        if not to_host and not (name in READING and args and isinstance(args[0], Tensor)):
            return func(*args, **kwargs)
        self._waits.found[name] += 1
        self._waits.within += 1
        try:
            return func(*args, **kwargs)
        finally:
            self._waits.within -= 1


class Waits(TorchDispatchMode):
    """Counts in `found`, by kind, what would wait for the device within the context."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()
        self.within = 0  # of a call that is counted already
        self._calls = _Calls(self)

    def __enter__(self) -> Any:
        self._calls.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._calls.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        kind = SIZING.get(func.overloadpacket)
        if func.overloadpacket in (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_):
            masks = [i for i in args[1] if i is not None and i.dtype in (torch.bool, torch.uint8)]
            kind = "mask" if masks else None
        if func is aten.repeat_interleave.Tensor and kwargs.get("output_size") is None:
            kind = "repeat_interleave"
        if kind is not None and not self.within:
            self.found[kind] += 1
        return func(*args, **kwargs)


class Allocations(TorchDispatchMode):
    """The most bytes that tensors made within the context held at once, `peak`."""

    def __init__(self) -> None:
        super().__init__()
        self.held = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        out = func(*args, **(kwargs or {}))
        for t in tree_leaves(out):
            if isinstance(t, Tensor):
                self._hold(t, before)
        return out

    def _hold(self, t: Tensor, before: set[int]) -> None:
        storage = t.untyped_storage()
        place = storage.data_ptr()
        if place in before or place in self._seen or not place:
            return
        self._seen.add(place)
        self.held += storage.nbytes()
        self.peak = max(self.peak, self.held)
        weakref.finalize(storage, self._free, place, storage.nbytes()).atexit = False

    def _free(self, place: int, nbytes: int) -> None:
        self._seen.discard(place)
        self.held -= nbytes
