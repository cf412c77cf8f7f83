"""One forward pass watched from outside: which modules run, in which order, and what passes through them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from infoplane.hooks._pass.attached import Attached, watch_ops, with_hooks
from infoplane.hooks._pass.flow import INPUT, Flow, trace
from infoplane.hooks._pass.structure import TensorInfo, call_value, info, tensors_in, tensors_of, type_name
from infoplane.hooks.select import Named

Identity = tuple[StorageWeakRef, int, int]

LINEAR = (
    nn.Linear,
    nn.Bilinear,
    nn.Embedding,
    nn.EmbeddingBag,
    nn.modules.conv._ConvNd,
)
"""Modules of which a layer with adapters is made."""

MAPPING_OPS = frozenset({"linear", "matmul", "mm", "bmm", "addmm", "einsum", "conv1d", "conv2d", "conv3d", "embedding"})

AFFINE_OPS = MAPPING_OPS | frozenset(
    {
        "add", "sub", "rsub", "mul", "div", "true_divide", "neg", "lerp", "addcmul", "sum", "cat", "stack",
        "dropout", "to", "type", "type_as", "float", "double", "half", "bfloat16", "contiguous", "clone", "detach",
        "t", "transpose", "permute", "movedim", "reshape", "view", "flatten", "unflatten", "squeeze", "unsqueeze",
        "expand", "expand_as", "chunk", "split", "index_select", "narrow",
    }
)  # fmt: skip
"""Functions with which such a layer puts its parts together."""


@dataclass(frozen=True, eq=False)
class ModuleCall:
    """One call of a module: order of its beginning and end among all events, tensors in and out.

    A `leaf` is a layer: what goes on is its output alone. No module ran inside, or none whose output depends on the
    model's input (a parametrised weight), or only parts of a linear map (`_wrapped`). `part` says that a layer around
    it stands for the call, `depends` that the output depends on the model's input, as far as that was followed.
    """

    begin: int
    end: int
    inputs: Mapping[str, TensorInfo]
    outputs: Mapping[str, TensorInfo]
    output_type: str
    leaf: bool
    passes_through: bool
    depends: bool = True
    part: bool = False
    same: Mapping[Identity, str] = field(default_factory=dict)
    """Places in the output by what tells its tensors from others."""


@dataclass
class Observation:
    """Calls of every module that ran, by its name; of functions, by the calling module's name and their own.

    `output` is where the model's output comes from: module, number of the call, place in what the call returned.
    """

    calls: dict[str, list[ModuleCall]] = field(default_factory=dict)
    ops: dict[tuple[str, str], list[ModuleCall]] = field(default_factory=dict)
    output: tuple[str, int, str] | None = None
    followed: bool = False
    """Whether the model's output was seen to depend on its input; else what `depends` says is worth nothing."""
    undecided: bool = False
    """Whether functions have to be watched to tell layers from blocks."""

    @property
    def leaves(self) -> list[str]:
        """Modules that are layers, in the order in which they first ended."""
        leaves = [n for n, calls in self.calls.items() if all(c.leaf for c in calls) and not all(c.part for c in calls)]
        return sorted(leaves, key=lambda n: self.calls[n][0].end)

    @property
    def last_leaf(self) -> str | None:
        leaves = self.leaves
        return max(leaves, key=lambda n: self.calls[n][-1].end) if leaves else None


@dataclass(eq=False)
class _Running:
    named: Named
    begin: int
    inputs: dict[str, TensorInfo]
    storages: dict[int, tuple[int, int]]
    inner: list[tuple[Named, ModuleCall, list[Any]]] = field(default_factory=list)
    functions: set[str] = field(default_factory=set)


def observe(
    forward: Callable[[], Any], modules: Mapping[str, Named], *, ops: bool = False, flow: Flow | None = None
) -> Observation:
    """Run `forward` with a pair of hooks on every module, and on request with an eye on every function.

    With `flow`, in whose mode this must run, layers are told from blocks, and the layer whose output the model
    returns from one that only ended last.
    """
    watcher = _Watcher(flow, ops)

    def watched(attached: Attached) -> Any:
        for named in modules.values():
            attached.let_stop(named.module)
            _watch(attached, named, watcher.before, watcher.after)
        return watch_ops(attached, modules, watcher.op, forward) if ops else forward()

    watcher.find_output(with_hooks(watched))
    return watcher.seen


def look(once: Callable[[Flow | None, bool], Observation], *, ops: bool, follow: bool) -> Observation:
    """`once(flow, ops)`: with a flow where all operations can be followed, again with functions where they decide."""
    found: list[Observation] = []

    def run(flow: Flow | None) -> None:
        found[:] = [once(flow, ops)]

    if follow:
        trace(run)
    if not found:
        run(None)
    if found[0].undecided and not ops:
        return look(once, ops=True, follow=follow)
    return found[0]


class _Watcher:
    """Collects what the hooks of `observe` see."""

    def __init__(self, flow: Flow | None, ops: bool) -> None:
        self.seen = Observation()
        self._flow, self._ops = flow, ops
        self._stack: list[_Running] = []
        self._counter = iter(range(1 << 62))

    def before(self, named: Named, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        value = tensors_of(call_value(args, kwargs))
        storages = {_storage(t): (_version(t), t.numel()) for t in value.values() if _has_storage(t)}
        self._stack.append(_Running(named, next(self._counter), {p: info(t) for p, t in value.items()}, storages))

    def after(self, named: Named, output: Any) -> None:
        opened = self._stack.pop()
        outputs = tensors_in(output)
        known = {p: t for p, t in outputs.items() if _has_storage(t)}
        depends = self._flow is None or len(known) < len(outputs) or any(map(self._flow.sources, known.values()))
        leaf = not any(c.depends for _, c, _ in opened.inner) if depends else not opened.inner
        leaf = leaf or (depends and self._wrapped(opened, outputs))
        call = ModuleCall(
            begin=opened.begin,
            end=next(self._counter),
            inputs=opened.inputs,
            outputs={p: info(t) for p, t in outputs.items()},
            output_type=type_name(output),
            leaf=leaf,
            passes_through=_passes_through(opened, list(outputs.values())),
            depends=depends,
            same={_identity(t): p for p, t in known.items()},
        )
        if leaf:
            for part in _calls_in(opened.inner):
                object.__setattr__(part, "part", True)
            if self._flow is not None and depends:
                for t in known.values():
                    self._flow.mark(t, call.begin)
        self.seen.calls.setdefault(named.name, []).append(call)
        if self._stack:
            self._stack[-1].inner.append((named, call, opened.inner))

    def op(self, module: str, name: str, args: tuple[Any, ...], out: Any) -> None:
        if self._stack and (self._flow is None or (_has_storage(out) and self._flow.sources(out))):
            self._stack[-1].functions.add(name)
        now = next(self._counter)
        call = ModuleCall(now, now, {}, {p: info(t) for p, t in tensors_in(out).items()}, type_name(out), True, False)
        self.seen.ops.setdefault((module, name), []).append(call)

    def _wrapped(self, opened: _Running, outputs: Mapping[str, Tensor]) -> bool:
        """Whether a module adds to a linear map, or scales it: low-rank adapters and their kin."""
        # Inside run linear maps and nothing else, the output is that of none of them, and one alone (or a weight of
        # the module's own) leads directly from its input to its output: not so in attention or a gated unit.
        if self._flow is None or not opened.named.name or len(outputs) != 1 or not opened.inner:
            return False
        (output,) = outputs.values()
        inside = [(n, c) for n, c in _leaves_in(opened.inner) if c.depends and not c.passes_through]
        if not inside or not _has_storage(output) or not all(isinstance(n.module, LINEAR) for n, _ in inside):
            return False
        if any(_identity(output) in c.same for c in _calls_in(opened.inner)):
            return False
        nodes = {c.begin for _, c in inside}
        last = self._flow.sources(output) & nodes
        direct = [n for n in last if not self._flow.parents.get(n, frozenset()) & nodes]
        if not last or len(direct) > 1 or not (direct or any(p is not None for p in _own(opened.named))):
            return False
        if not self._ops:
            self.seen.undecided = True
            return False
        return opened.functions <= AFFINE_OPS and bool(direct or opened.functions & MAPPING_OPS)

    def find_output(self, returned: Any) -> None:
        """The layer whose output the model returns; else the block or model that computes it out of several."""
        seen = self.seen
        last = seen.last_leaf
        seen.output = None if last is None else (last, len(seen.calls[last]) - 1, "")
        found = tensors_in(returned)
        path = next((p for p in found if p.rpartition(".")[2] == "logits"), next(iter(found), None))
        if path is None or not _has_storage(found[path]):
            return
        seen.followed = self._flow is not None and bool(self._flow.sources(found[path]))
        calls = [(n, i, c) for n, some in seen.calls.items() for i, c in enumerate(some) if not c.part]
        leaves = [(n, i, c) for n, i, c in calls if c.leaf]
        key = _identity(found[path])
        made = max((f for f in leaves if key in f[2].same), key=lambda f: f[2].end, default=None)
        if made is None and self._flow is not None:
            nodes = self._flow.sources(found[path]) - {INPUT}
            if len(nodes) == 1:  # functions of one layer's output, as log_softmax: that layer has the logits
                made = next((f for f in leaves if f[2].begin in nodes), None)
            elif nodes:
                made = min((f for f in calls if key in f[2].same), key=lambda f: f[2].end, default=None)
        if made is not None:
            name, index, call = made
            seen.output = (name, index, call.same.get(key, "") if len(call.outputs) > 1 else "")


def _passes_through(opened: _Running, outputs: list[Tensor]) -> bool:
    if len(outputs) != 1 or not _has_storage(outputs[0]):
        return False
    if outputs[0].is_inference() and getattr(opened.named.module, "inplace", False):
        return False  # no version tells that it was written to
    return opened.storages.get(_storage(outputs[0])) == (_version(outputs[0]), outputs[0].numel())


def _calls_in(inner: list[tuple[Named, ModuleCall, list[Any]]]) -> list[ModuleCall]:
    return [c for _, call, within in inner for c in (call, *_calls_in(within))]


def _leaves_in(inner: list[tuple[Named, ModuleCall, list[Any]]]) -> list[tuple[Named, ModuleCall]]:
    found = []
    for named, call, within in inner:
        found += [(named, call)] if call.leaf else _leaves_in(within)
    return found


def _own(named: Named) -> list[nn.Parameter | None]:
    return list(named.module._parameters.values())


def _watch(
    attached: Attached,
    named: Named,
    before: Callable[[Named, tuple[Any, ...], Mapping[str, Any]], None],
    after: Callable[[Named, Any], None],
) -> None:
    def pre(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        before(named, args, kwargs)

    def post(module: nn.Module, args: Any, output: Any) -> None:
        after(named, output)

    attached.before(named.module, pre)
    attached.after(named.module, post)


def _has_storage(tensor: Tensor) -> bool:
    return not tensor.is_nested and tensor.layout is torch.strided and not hasattr(tensor, "full_tensor")


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _identity(tensor: Tensor) -> Identity:
    """Equal for a tensor and its views of all values; a weak reference keeps the address from being used again."""
    return StorageWeakRef(tensor.untyped_storage()), _version(tensor), tensor.numel()  # type: ignore[no-untyped-call]
