"""One forward pass watched from outside: which modules run, in which order, and on what their outputs depend."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from infoplane.hooks._pass.calls import (
    Attached,
    TensorInfo,
    info,
    tensors_in,
    type_name,
    watch_ops,
    with_hooks,
)
from infoplane.hooks.select import Named

T = TypeVar("T")
Identity = tuple[StorageWeakRef, int, int]

INPUT = -1
"""The node of a flow that stands for the model's input."""

LINEAR = (nn.Linear, nn.Bilinear, nn.Embedding, nn.EmbeddingBag, nn.modules.conv._ConvNd)
"""Modules of which a layer with adapters is made."""

MAPPING_OPS = frozenset({"linear", "matmul", "mm", "bmm", "addmm", "einsum", "conv1d", "conv2d", "conv3d", "embedding"})
"""Functions that apply a weight, as these modules do."""

AFFINE_OPS = MAPPING_OPS.union(
    ["add", "sub", "rsub", "mul", "div", "true_divide", "neg", "lerp", "addcmul", "sum", "cat", "stack", "dropout"],
    ["to", "type", "type_as", "float", "double", "half", "bfloat16", "contiguous", "clone", "detach"],
    ["t", "transpose", "permute", "movedim", "reshape", "view", "flatten", "unflatten", "squeeze", "unsqueeze"],
    ["expand", "expand_as", "chunk", "split", "index_select", "narrow"],
)
"""Functions with which such a layer puts its parts together."""


class Flow(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows all operations of a pass, to tell on which recorded layers, or the input, a tensor depends directly.

    Dependence is kept per storage, so views and in-place operations are followed. A weak reference keeps a
    storage's address from being used again without keeping its memory.
    """

    def __init__(self) -> None:
        """Follow what runs while this mode is on; `start` then says what the input is."""
        super().__init__()  # type: ignore[no-untyped-call]
        # Nodes are numbers that the caller of `mark` chooses for its layers, and INPUT.
        self.parents: dict[int, frozenset[int]] = {}  # node of a layer -> the nodes on which it depends directly
        self._sources: dict[StorageWeakRef, frozenset[int]] = {}  # the same for the memory of each tensor

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """The probe runs uncompiled anyway; True would import torch._dynamo, which takes seconds."""
        return False

    def mark(self, tensor: Tensor, node: int, *, cuts: bool = True) -> None:
        """Note on which nodes the tensor of the layer `node` depends directly.

        With `cuts`, whatever is computed from the tensor later counts as depending on `node` alone.
        """
        self.parents[node] = self.parents.get(node, frozenset()) | self.sources(tensor)
        if cuts:
            self._sources[_reference(tensor)] = frozenset({node})

    def start(self, tensors: Iterable[Tensor]) -> None:
        """Note that these tensors are the model's input."""
        for t in tensors:
            self._sources[_reference(t)] = frozenset({INPUT})

    def sources(self, tensor: Tensor) -> frozenset[int]:
        """The recorded layers, or the input, on which a tensor depends directly."""
        return self._sources.get(_reference(tensor), frozenset())

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation; note that what it returns and writes depends on all that its arguments depend on."""
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
    """Whether an operation uses only the shape of its argument, not the values, as `zeros_like` and `new_empty` do."""
    name = func._schema.name.removeprefix("aten::")
    return bool(name.endswith("_like") or name.startswith("new_"))


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """The arguments that an operation writes to."""
    parameters = func._schema.arguments
    given = kwargs | {parameter.name: value for parameter, value in zip(parameters, args, strict=False)}
    written = [p.name for p in parameters if p.alias_info is not None and p.alias_info.is_write]
    return tree_leaves([given.get(name) for name in written])


def _reference(tensor: Tensor) -> StorageWeakRef:
    """Return a key for the memory of a tensor; the key does not keep that memory alive."""
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]


@dataclass(eq=False)
class ModuleCall:
    """One call of a module, or of a function: order of its beginning and end among all events, tensors in and out.

    A `leaf` is a layer, inside of which nothing is looked for: no module ran there, or none whose output depends on
    the model's input (a parametrised weight), or only parts of a linear map (`_wrapped`). `part` says that a layer
    around it stands for the call, `depends` that the output depends on the model's input, as far as that was followed.
    """

    named: Named
    begin: int
    end: int = -1
    inputs: Mapping[str, TensorInfo] = field(default_factory=dict)
    outputs: Mapping[str, TensorInfo] = field(default_factory=dict)
    output_type: str = ""
    leaf: bool = True
    passes_through: bool = False
    depends: bool = True
    part: bool = False
    given: set[Identity] = field(default_factory=set)
    """Keys of the tensors in the input."""
    same: Mapping[Identity, str] = field(default_factory=dict)
    """The place of each tensor in the output, by its key."""
    inner: list[ModuleCall] = field(default_factory=list)
    """Calls of modules directly inside."""
    functions: set[str] = field(default_factory=set)
    """Names of the functions called directly inside."""

    def calls_inside(self) -> list[ModuleCall]:
        """All calls of modules inside, at any depth."""
        return [c for call in self.inner for c in (call, *call.calls_inside())]

    def leaves_inside(self) -> list[ModuleCall]:
        """The layers inside, at any depth."""
        return [c for call in self.inner for c in ([call] if call.leaf else call.leaves_inside())]


@dataclass
class Observation:
    """Calls of every module that ran, by its name; of functions, by the calling module's name and their own.

    `output` is where the model's output comes from: the call, and the place in what it returned.
    """

    calls: dict[str, list[ModuleCall]] = field(default_factory=dict)
    ops: dict[tuple[str, str], list[ModuleCall]] = field(default_factory=dict)
    output: tuple[ModuleCall, str] | None = None
    followed: bool = False
    """Whether the model's output was seen to depend on its input; else what `depends` says is worth nothing."""
    undecided: bool = False
    """Whether functions have to be watched to tell layers from blocks."""

    @property
    def leaves(self) -> list[str]:
        """Modules that are layers, in the order in which they first ended."""
        leaves = [n for n, calls in self.calls.items() if all(c.leaf for c in calls) and not all(c.part for c in calls)]
        return sorted(leaves, key=lambda n: self.calls[n][0].end)


def look(once: Callable[[Flow | None, bool], Observation], *, ops: bool, follow: bool) -> Observation:
    """Return what `once(flow, ops)` observed in a pass, with a flow to follow tensors if `follow`.

    If `ops`, functions are watched as well. Where the observation cannot tell layers from blocks without that, a second
    pass is made with it.
    """
    seen, _ = followed(lambda flow: once(flow, ops), possible=follow)
    return look(once, ops=True, follow=follow) if seen.undecided and not ops else seen


class Watcher:
    """Watches one forward pass by a pair of hooks on every module, and with `ops` every function as well.

    With `flow`, in whose mode this must run, layers are told from blocks, and the layer whose output the model
    returns from one that only ended last.
    """

    def __init__(self, modules: Mapping[str, Named], flow: Flow | None, *, ops: bool) -> None:
        """Watch these modules, by their names."""
        self.seen = Observation()
        self._modules, self._flow, self._ops = modules, flow, ops
        self._stack: list[ModuleCall] = []  # calls under way, the innermost last
        self._counter = iter(range(1 << 62))  # numbers all beginnings and ends in their order

    def watch(self, forward: Callable[[], Any]) -> Observation:
        """Run `forward()`, and return what ran in it."""

        def watched(attached: Attached) -> Any:
            """Attach the hooks, and return the output of the pass."""
            for named in self._modules.values():
                attached.before(named.module, partial(self.before, named))
                attached.after(named.module, partial(self.after, named))
            return watch_ops(attached, self._modules, self.op, forward) if self._ops else forward()

        self._find_output(with_hooks(watched, self._modules.values()))
        return self.seen

    def before(self, named: Named, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Note the beginning of a module's call, with its inputs."""
        found = tensors_in(args) | tensors_in(kwargs)
        call = ModuleCall(named, next(self._counter), inputs={p: info(t) for p, t in found.items()})
        call.given = {_identity(t) for t in found.values() if _has_storage(t)}
        self._stack.append(call)

    def after(self, named: Named, module: nn.Module, args: Any, output: Any) -> None:
        """Note the end of a module's call: its outputs, and whether it is a layer."""
        call = self._stack.pop()
        found = tensors_in(output)
        known = {p: t for p, t in found.items() if _has_storage(t)}
        call.outputs, call.output_type = {p: info(t) for p, t in found.items()}, type_name(output)
        call.same = {_identity(t): p for p, t in known.items()}
        call.passes_through = _passes_through(call, list(found.values()))
        call.depends = self._flow is None or len(known) < len(found) or any(map(self._flow.sources, known.values()))
        # Inner calls that do not depend on the model's input make weights, and a module with no other inner calls is a
        # layer. Where the module's own output does not depend on the input, it is one only without any inner call.
        call.leaf = not any(c.depends for c in call.inner) if call.depends else not call.inner
        call.leaf = call.leaf or (call.depends and self._wrapped(call, found))
        if call.leaf:
            for part in call.calls_inside():
                part.part = True
            if self._flow is not None and call.depends:
                for t in known.values():
                    self._flow.mark(t, call.begin)
        call.end = next(self._counter)
        self.seen.calls.setdefault(named.name, []).append(call)
        if self._stack:
            self._stack[-1].inner.append(call)

    def op(self, module: str, name: str, out: Any) -> None:
        """Note the call of a function inside a module."""
        if self._stack and (self._flow is None or (_has_storage(out) and self._flow.sources(out))):
            self._stack[-1].functions.add(name)
        now, outputs = next(self._counter), {p: info(t) for p, t in tensors_in(out).items()}
        call = ModuleCall(self._modules[module], now, now, outputs=outputs, output_type=type_name(out))
        self.seen.ops.setdefault((module, name), []).append(call)

    def _wrapped(self, call: ModuleCall, outputs: Mapping[str, Tensor]) -> bool:
        """Whether a module is a linear map with something added or scaled: low-rank adapters and the like."""
        # Inside run linear maps and nothing else, the output is that of none of them, and one alone (or a weight of
        # the module's own) leads directly from its input to its output: not so in attention or a gated unit.
        if self._flow is None or not call.named.name or len(outputs) != 1 or not call.inner:
            return False
        (output,) = outputs.values()
        inside = [c for c in call.leaves_inside() if c.depends and not c.passes_through]
        if not inside or not _has_storage(output) or not all(isinstance(c.named.module, LINEAR) for c in inside):
            return False
        if any(_identity(output) in c.same for c in call.calls_inside()):
            return False
        # Of the linear maps inside: those from which the output comes directly, and of these the ones fed by no other.
        nodes = {c.begin for c in inside}
        last = self._flow.sources(output) & nodes
        direct = [n for n in last if not self._flow.parents.get(n, frozenset()) & nodes]
        own = any(p is not None for p in call.named.module._parameters.values())
        if not last or len(direct) > 1 or not (direct or own):
            return False
        if not self._ops:  # which functions put the parts together decides, and they were not watched
            self.seen.undecided = True
            return False
        return call.functions <= AFFINE_OPS and bool(direct or call.functions & MAPPING_OPS)

    def _find_output(self, returned: Any) -> None:
        """Set `seen.output` to the call that gave what the model `returned`, and the place in what that call returned.

        This is the layer that returned it, or from whose output functions alone made it; where several layers enter,
        the innermost call that returned it; where neither is known, the layer that ended last.
        """
        seen = self.seen
        last = max((seen.calls[name][-1] for name in seen.leaves), key=lambda c: c.end, default=None)
        seen.output = None if last is None else (last, "")
        found = tensors_in(returned)
        path = output_path(found)
        if path is None or not _has_storage(found[path]):
            return
        seen.followed = self._flow is not None and bool(self._flow.sources(found[path]))
        calls = [c for some in seen.calls.values() for c in some if not c.part]
        leaves = [c for c in calls if c.leaf]
        key = _identity(found[path])
        made = max((c for c in leaves if key in c.same), key=lambda c: c.end, default=None)
        if made is None and self._flow is not None:
            nodes = self._flow.sources(found[path]) - {INPUT}
            if len(nodes) == 1:  # functions of one layer's output, as log_softmax: that layer has the logits
                made = next((c for c in leaves if c.begin in nodes), None)
            elif nodes:
                made = min((c for c in calls if key in c.same), key=lambda c: c.end, default=None)
        if made is not None:
            seen.output = made, made.same.get(key, "") if len(made.outputs) > 1 else ""


def output_path(found: Iterable[str]) -> str | None:
    """Which of the tensors that a model returns is its output: the logits, or the first."""
    found = list(found)
    return next((path for path in found if path.rpartition(".")[2] == "logits"), next(iter(found), None))


def _passes_through(call: ModuleCall, outputs: list[Tensor]) -> bool:
    """Whether a call returns the tensor that it was given, unchanged."""
    if len(outputs) != 1 or not _has_storage(outputs[0]):
        return False
    if outputs[0].is_inference() and getattr(call.named.module, "inplace", False):
        return False  # no version tells that it was written to
    return _identity(outputs[0]) in call.given


def _has_storage(tensor: Tensor) -> bool:
    """Whether a tensor lies in ordinary memory of its own process."""
    return not tensor.is_nested and tensor.layout is torch.strided and not hasattr(tensor, "full_tensor")


def _identity(tensor: Tensor) -> Identity:
    """Return a key that is equal for a tensor and for views of all its values, until these are written to.

    The weak reference in it keeps the address from being used again.
    """
    return _reference(tensor), 0 if tensor.is_inference() else tensor._version, tensor.numel()


def markov_chain(parents: dict[int, frozenset[int]], order: Sequence[int]) -> list[int]:
    """The layers through which every path from the input to the last layer goes, in forward order.

    These are the dominators of the last layer in the graph of `parents` (node -> those it depends on directly), and
    X -> T1 -> T2 -> ... is a Markov chain for them. The list is empty where no path from the input was seen.
    """
    if not order or not _reaches_input(order[-1], parents, without=None):
        return []
    last = order[-1]
    return [n for n in order if n == last or not _reaches_input(last, parents, without=n)]


def _reaches_input(node: int, parents: dict[int, frozenset[int]], without: int | None) -> bool:
    """Whether a path leads from `node` back to the input, without passing `without`."""
    todo, seen = [node], {without}
    while todo:
        current = todo.pop()
        if current == INPUT:
            return True
        if current not in seen:
            seen.add(current)
            todo.extend(parents.get(current, ()))
    return False


def followed(work: Callable[[Flow | None], T], *, possible: bool) -> tuple[T, dict[int, frozenset[int]]]:
    """Return (`work(flow)`, `flow.parents`), where `work` makes a pass that the flow follows.

    Where an operation cannot be followed, or it is not `possible`, return (`work(None)`, {}).
    """
    flow = Flow()
    try:
        if possible:
            with flow:
                return work(flow), flow.parents
    except NotImplementedError:
        pass  # a higher-order operator
    return work(None), {}
