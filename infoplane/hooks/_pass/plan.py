"""From what ran to what is captured: one Capture per tensor, in forward order, or the reason why not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from torch import nn
from torch.nn.modules import activation

from infoplane.core.errors import closest
from infoplane.core.records import Layer, Role
from infoplane.core.text import listed, printable
from infoplane.hooks._pass.calls import TensorInfo, choose, refuse_odd
from infoplane.hooks._pass.capture import Capture, wrong_rows
from infoplane.hooks._pass.observe import ModuleCall, Observation
from infoplane.hooks._settings import Settings
from infoplane.hooks.select import Named, OpTarget, Site, Target, by_pattern, check_patterns, matches

ACTIVATIONS: tuple[type[nn.Module], ...] = tuple(
    getattr(activation, name) for name in activation.__all__ if name != "MultiheadAttention"
)
# relu, leaky_relu, log_softmax ... are named like the modules ReLU, LeakyReLU, LogSoftmax.
_ACTIVATION_NAMES = frozenset(kind.__name__.lower() for kind in ACTIVATIONS)
_FIRST_OUTPUT = (nn.MultiheadAttention, nn.RNNBase)
_NEVER = (
    "it may be on a branch that this input does not take, be called through .forward() or through functions that "
    "use its weights (fused attention, nn.MultiheadAttention.out_proj), or not be called at all"
)


def plan_captures(
    targets: Sequence[Target | OpTarget] | None,
    modules: Mapping[str, Named],
    seen: Observation,
    rows: int,
    settings: Settings,
    *,
    member_axis: int | None = None,
) -> tuple[tuple[Capture, ...], dict[str, str]]:
    """Captures in forward order, and what is skipped, with the reason.

    `targets` of None stands for every leaf module that ran; of those, the ones that cannot be recorded or that
    only pass their input on are skipped, with the reason. What the user named is never skipped.

    Raises
    ------
    ValueError
        If a named layer never ran (all of them are listed), runs several times without a choice of call, or has
        no tensor with one row per sample.
    """
    skipped: dict[str, str] = {}
    placed: dict[tuple[str, Site, int, str], tuple[int, Capture]] = {}
    default = targets is None
    asked = _that_ran(_asked(targets, modules, seen, functional=settings.functional), seen, skipped)
    output = _output(seen)
    if output is not None and (output.named.name not in seen.leaves if default else settings.logits):
        asked = [*asked, output]
    for target in asked:
        name = target.name
        calls = seen.ops[target.named.name, target.op] if target.op else seen.calls[target.named.name]
        passes_through = all(c.passes_through for c in calls)
        if default and passes_through and (output is None or name != output.name):
            skipped[name or "@out"] = f"{printable(target.named.type_name)} passes its input on unchanged"
            continue
        for index in _call_indices(target, len(calls), settings.calls):
            try:
                tensor, planned = _capture(target, index, calls, settings, output=output, default=default)
                _check_tensor(tensor, planned, rows, member_axis)
            except (TypeError, ValueError) as error:
                if not (default or target is output):
                    raise
                skipped[name or "@out"] = str(error)
                continue
            layer, call = planned.layer, calls[index]
            if 0 in tensor.shape:
                skipped[layer.key] = f"it has no units, its shape is {tensor.shape}"
                continue
            if seen.followed and not target.exact and not call.depends:
                skipped[layer.key] = "its output does not depend on the model's input"
                continue
            order = call.end if target.site == "out" else call.begin
            # A place that was named twice, or that the output has as well, is recorded once: as first asked for.
            placed.setdefault((layer.name, layer.site, layer.call, layer.path), (order, planned))
    if not placed:
        reasons = "; ".join(f"{printable(n)}: {why}" for n, why in list(skipped.items())[:5])
        raise ValueError(f"no layer can be recorded{': ' + reasons if reasons else ''}")
    ordered = [c for _, c in sorted(placed.values(), key=lambda pair: pair[0])]
    names = list(dict.fromkeys(n for c in ordered for n in (c.layer.key, c.layer.name)))
    check_patterns("reduce", settings.reductions, names, "recorded layer")
    check_patterns("batch_dim", settings.batch_dims, names, "recorded layer")
    for depth, one in enumerate(ordered):
        one.layer = replace(one.layer, depth=depth)
    return tuple(ordered), skipped


def _asked(
    targets: Sequence[Target | OpTarget] | None, modules: Mapping[str, Named], seen: Observation, *, functional: bool
) -> list[Target]:
    """The selected modules and functions, or every layer that ran."""
    if targets is None:
        asked = [Target(modules[name], exact=False) for name in seen.leaves]
    else:
        asked = [t for t in targets if isinstance(t, Target)]
        asked += [found for t in targets if isinstance(t, OpTarget) for found in _ops(t, modules, seen)]
    return asked + (_activation_ops(modules, seen) if functional else [])


def _output(seen: Observation) -> Target | None:
    """Where the model's output is found: recorded in any case, unless `logits` is False."""
    if seen.output is None:
        return None
    call, path = seen.output
    index = seen.calls[call.named.name].index(call)
    return Target(call.named, call=index, path=path or None, exact=False)


def _ops(wanted: OpTarget, modules: Mapping[str, Named], seen: Observation) -> list[Target]:
    names = {f"{module}::{op}": (module, op) for module, op in seen.ops}
    matched = [n for n in names if n == wanted.pattern] or [n for n in names if matches(n, wanted.pattern)]
    if not matched:
        raise ValueError(
            f"no function call of the forward pass matches {wanted.pattern!r}; closest: "
            f"{', '.join(closest(wanted.pattern, names))}"
        )
    return [Target(modules[names[n][0]], call=wanted.call, exact=False, op=names[n][1]) for n in matched]


def _activation_ops(modules: Mapping[str, Named], seen: Observation) -> list[Target]:
    """Activation functions called by modules that are no activations themselves (attention's softmax counts)."""
    return [
        Target(modules[module], exact=False, op=op)
        for module, op in seen.ops
        if _is_activation_op(op) and not is_activation(modules[module].module)
    ]


def _that_ran(targets: Sequence[Target], seen: Observation, skipped: dict[str, str]) -> list[Target]:
    silent = [t for t in targets if not t.op and t.named.name not in seen.calls]
    exact = [t for t in silent if t.exact]
    if exact or (silent and len(silent) == len(targets)):
        shown = listed([repr(t.named.name) for t in exact or silent], 8)
        raise ValueError(f"selected but never run in the probe's forward pass: {shown}; {_NEVER}")
    for t in silent:
        skipped[t.named.name or "@out"] = "never ran"
    return [t for t in targets if t not in silent]


def _call_indices(target: Target, ran: int, calls: Literal["last", "all"] | int | None) -> list[int]:
    name = target.name
    if target.call is not None:
        if target.call >= ran:
            raise ValueError(f"layer {name!r} runs {ran} times, so there is no call #{target.call}")
        return [target.call]
    if ran == 1 or calls == "all":
        return list(range(ran))
    if calls is None:
        raise ValueError(
            f"layer {name!r} runs {ran} times in one forward pass; choose with calls='last', calls='all' or an index, "
            f"or name one call as '{name}#0'"
        )
    index = -1 if calls == "last" else calls
    if not isinstance(index, int) or not -ran <= index < ran:
        raise ValueError(f"calls must be 'last', 'all' or an index below {ran} for layer {name!r}, got {calls!r}")
    return [index % ran]


def _capture(
    target: Target, index: int, calls: list[ModuleCall], settings: Settings, *, output: Target | None, default: bool
) -> tuple[TensorInfo, Capture]:
    """One tensor of a call: its shape with all axes, and what is done to it."""
    named = target.named
    key, path, tensor = _tensor(target, index, calls, default=default)
    last = output is not None and (output.name, output.call) == (target.name, index) and output.path in (path, None)
    layer = Layer(
        key=key,
        name=target.name,
        depth=0,
        unit_shape=(),  # found by the next pass, as the depth is when all layers are known
        dtype=str(tensor.dtype).removeprefix("torch."),
        module_type=target.op or named.type_name,
        role=_role(target, last=last),
        site=target.site,
        call=index,
        path=path,
        aliases=named.aliases,
    )
    return tensor, Capture(
        layer=layer,
        named=named,
        op=target.op,
        reduction=by_pattern(settings.reductions, [key, named.name], settings.reductions["*"]),
        runs=len(calls),
        batch_dim=by_pattern(settings.batch_dims, [key, named.name], None),
        dtype=settings.dtype,
    )


def _tensor(target: Target, index: int, calls: list[ModuleCall], *, default: bool) -> tuple[str, str, TensorInfo]:
    """The layer's key, and the tensor to record among those of one call, by its path."""
    call, site, path = calls[index], target.site, target.path
    found = call.outputs if site == "out" else call.inputs
    key = target.name + (f"#{index}" if len(calls) > 1 else "") + ("@in" if site == "in" else "")
    key = key or "@out"
    # Attention returns (output, weights), recurrent layers (output, state): the layer is the first of them.
    if path is None and default and len(found) > 1 and isinstance(target.named.module, _FIRST_OUTPUT):
        path = "[0]"
    kind = call.output_type if site == "out" else "nothing"
    path = choose(found, path, f"the {site}put of layer {key}", kind)
    if len(found) > 1:
        key = key.removesuffix("@in").removesuffix("@out") + f"@{site}{path}"
    return key, path, found[path]


def _check_tensor(tensor: TensorInfo, planned: Capture, rows: int, member_axis: int | None) -> None:
    key, batch_dim = planned.layer.key, planned.batch_dim or 0
    if tensor.odd:
        refuse_odd(tensor.odd, f"layer {key!r}")
    shape = list(tensor.shape)
    if member_axis is not None and -len(shape) <= member_axis < len(shape):
        del shape[member_axis]
    if len(shape) <= batch_dim or shape[batch_dim] != rows:
        raise ValueError(wrong_rows(key, tensor.shape, rows))


def _role(target: Target, *, last: bool) -> Role:
    if target.site == "in":
        return "input"
    if last and not target.op:
        return "output"
    activates = _is_activation_op(target.op) if target.op else is_activation(target.named.module)
    return "activation" if activates else "other"


def _is_activation_op(op: str) -> bool:
    return op.replace("_", "") in _ACTIVATION_NAMES


def is_activation(module: nn.Module) -> bool:
    """An elementwise nonlinearity or a softmax: torch's own, and those of the transformers library."""
    return isinstance(module, ACTIVATIONS) or type(module).__module__ == "transformers.activations"
