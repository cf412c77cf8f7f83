"""From what ran to what is captured: one Capture per tensor, in forward order, or the reason why not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from torch import nn

from infoplane.core.errors import closest
from infoplane.core.globs import name_matches
from infoplane.core.records import Layer, Role
from infoplane.core.text import listed, printable
from infoplane.hooks._pass.blocks import ACTIVATIONS, Choice, is_activation, is_free, output_of, pooling
from infoplane.hooks._pass.calls import TensorInfo, choose, refuse_odd
from infoplane.hooks._pass.capture import Capture, wrong_rows
from infoplane.hooks._pass.observe import ModuleCall, Observation
from infoplane.hooks._settings import Settings
from infoplane.hooks.reduce import Flatten, Last, Reduction, Tokens
from infoplane.hooks.select import Named, OpTarget, Site, Target, by_pattern, check_patterns

# relu, leaky_relu, log_softmax ... are named like the modules ReLU, LeakyReLU, LogSoftmax.
_ACTIVATION_NAMES = frozenset(kind.__name__.lower() for kind in ACTIVATIONS)
_FIRST_OUTPUT = (nn.MultiheadAttention, nn.RNNBase)
_NEVER = (
    "it may be on a branch that this input does not take, be called through .forward() or through functions that "
    "use its weights (fused attention, nn.MultiheadAttention.out_proj), or not be called at all"
)


@dataclass(frozen=True)
class Planner:
    """Plans the captures of a model, from a forward pass over `rows` samples that was `seen`.

    `targets` are what the user named, and never skipped. Without them the calls of `choice` are captured; of those,
    the ones that cannot be recorded or that only pass their input on are skipped, with the reason. `resumed` are the
    reductions of a run that goes on, by key.
    """

    targets: Sequence[Target | OpTarget] | None
    choice: Choice
    modules: Mapping[str, Named]
    seen: Observation
    rows: int
    settings: Settings
    member_axis: int | None
    n_tokens: int | None = None
    resumed: Mapping[str, str] | None = None
    skipped: dict[str, str] = field(default_factory=dict)

    def captures(self) -> tuple[Capture, ...]:
        """The tensors to record, in forward order.

        Raises
        ------
        ValueError
            If a named layer never ran (all of them are listed), runs several times without a choice of call, or has
            no tensor with one row per sample.
        """
        placed: dict[tuple[str, Site, int, str], tuple[int, Capture]] = {}
        asked, output = self._that_ran(self._asked()), self._output()
        if output is not None:
            # Where the leaves are recorded, the output is added if none of them gives it (`hidden`). Otherwise it is
            # added if `logits` is set.
            hidden = output.named.name not in self.seen.leaves
            by_leaves = self.targets is None and self.choice.by == "leaves"
            asked += [output] if (hidden if by_leaves else self.settings.logits) else []
        for target in asked:
            for call, planned in self._of_target(target, output):
                # A place that was named twice, or that the output has as well, is recorded once: as first asked for.
                layer, order = planned.layer, call.end if target.site == "out" else call.begin
                placed.setdefault((layer.name, layer.site, layer.call, layer.path), (order, planned))
        if not placed:
            reasons = "; ".join(f"{printable(n)}: {why}" for n, why in list(self.skipped.items())[:5])
            raise ValueError(f"no layer can be recorded{': ' + reasons if reasons else ''}")
        ordered = [c for _, c in sorted(placed.values(), key=lambda pair: pair[0])]
        names = list(dict.fromkeys(n for c in ordered for n in (c.layer.key, c.layer.name)))
        check_patterns("reduce", self.settings.reductions, names, "recorded layer")
        check_patterns("batch_dim", self.settings.batch_dims, names, "recorded layer")
        for depth, one in enumerate(ordered):
            one.layer = replace(one.layer, depth=depth)
        return tuple(ordered)

    def _asked(self) -> list[Target]:
        """Return what is to be recorded: the modules and functions that the user named, or those chosen by default."""
        if self.targets is None:
            asked = self._chosen()
        else:
            asked = [t for t in self.targets if isinstance(t, Target)]
            asked += [found for t in self.targets if isinstance(t, OpTarget) for found in self._ops(t)]
        # If `functional`, also activation functions called in modules that are no activations (attention's softmax).
        return asked + [
            Target(self.modules[module], exact=False, op=op)
            for module, op in self.seen.ops
            if self.settings.functional and _is_activation_op(op) and not is_activation(self.modules[module].module)
        ]

    def _chosen(self) -> list[Target]:
        """Default targets: whole modules if the choice is by leaves, else one target for each chosen call."""
        modules = dict.fromkeys(call.named.name for call in self.choice.calls)
        if self.choice.by == "leaves":
            return [Target(self.modules[name], exact=False) for name in modules]
        # Where the model returns only a part of a layer, as one token, that part is recorded as the model's output, and
        # the call of the layer is left out.
        output = output_of(self.seen, self.choice) if self.settings.logits else None
        instead = self.seen.output if output and not output[0].named.name else None
        return [
            Target(self.modules[name], call=i, exact=False)
            for name in modules
            for i, call in enumerate(self.seen.calls[name])
            if call in self.choice.calls and not (instead and call is instead[0])
        ]

    def _ops(self, wanted: OpTarget) -> list[Target]:
        """Targets for the functions, called inside modules, that a pattern names; ValueError where there are none."""
        names = {f"{module}::{op}": (module, op) for module, op in self.seen.ops}
        matched = [n for n in names if n == wanted.pattern] or [n for n in names if name_matches(n, wanted.pattern)]
        if not matched:
            near = ", ".join(closest(wanted.pattern, names))
            raise ValueError(f"no function call of the forward pass matches {wanted.pattern!r}; closest: {near}")
        return [Target(self.modules[names[n][0]], call=wanted.call, exact=False, op=names[n][1]) for n in matched]

    def _that_ran(self, targets: list[Target]) -> list[Target]:
        """The targets whose modules ran; ValueError where a named one did not, or none did."""
        silent = [t for t in targets if not t.op and t.named.name not in self.seen.calls]
        exact = [t for t in silent if t.exact]
        if exact or (silent and len(silent) == len(targets)):
            shown = listed([repr(t.named.name) for t in exact or silent], 8)
            raise ValueError(f"selected but never run in the probe's forward pass: {shown}; {_NEVER}")
        self.skipped.update((t.named.name or "@out", "never ran") for t in silent)
        return [t for t in targets if t not in silent]

    def _output(self) -> Target | None:
        """The target that gives the model's output; None where no call is known to give it."""
        found = self.seen.output if self.targets is not None else output_of(self.seen, self.choice)
        if found is None:
            return None
        call, path = found
        index = self.seen.calls[call.named.name].index(call)
        return Target(call.named, call=index, path=path or None, exact=False)

    def _of_target(self, target: Target, output: Target | None) -> Iterator[tuple[ModuleCall, Capture]]:
        """Yield the calls of one target that are captured; for others the reason goes into `skipped`."""
        name, default = target.name, self.targets is None
        calls = self.seen.ops[target.named.name, target.op] if target.op else self.seen.calls[target.named.name]
        if default and all(c.passes_through for c in calls) and (output is None or name != output.name):
            self.skipped[name or "@out"] = f"{printable(target.named.type_name)} passes its input on unchanged"
            return
        for index in _call_indices(target, calls, self.settings.calls):
            try:
                shape, planned = self._capture(target, index, calls, output)
            except (TypeError, ValueError) as error:
                if not (default or target is output):
                    raise
                self.skipped[name or "@out"] = str(error)
                continue
            if 0 in shape:
                self.skipped[planned.layer.key] = f"it has no units, its shape is {shape}"
            elif self.seen.followed and not target.exact and not calls[index].depends:
                self.skipped[planned.layer.key] = "its output does not depend on the model's input"
            else:
                yield calls[index], planned

    def _capture(
        self, target: Target, index: int, calls: list[ModuleCall], output: Target | None
    ) -> tuple[tuple[int, ...], Capture]:
        """Shape (all axes) and Capture of the tensor of call `index`; TypeError or ValueError where there is none."""
        named = target.named
        key, path, tensor = self._tensor(target, index, calls)
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
        batch_dim = by_pattern(self.settings.batch_dims, [key, named.name], None)
        shape = self._check_rows(key, tensor, batch_dim or 0)
        reduction = self._reduction(target, key, calls[index], shape)
        return tensor.shape, Capture(layer, named, reduction, target.op, len(calls), batch_dim, self.settings.dtype)

    def _reduction(self, target: Target, key: str, call: ModuleCall, shape: Sequence[int]) -> Reduction:
        """The reduction of a layer of this shape (rows, ...): the user's, that of the resumed run, or the default."""
        table, pooled = self.settings.reductions, pooling(self.seen, call, shape, self.n_tokens)
        given = by_pattern(table, [key, target.named.name], None)
        if given is not None:
            # A reduction of tokens for all layers leaves one without tokens, which nobody named, as it is.
            misfit = isinstance(given, Tokens | Last) and len(shape) < 3 and not target.exact
            return Flatten() if misfit and given is table.get("*") else given
        if self.resumed is not None:
            return Flatten() if self.resumed.get(key) == "flatten" else pooled
        # Maps and sequences of blocks are stored as means where the user has not said otherwise, those of leaves whole.
        return pooled if self.targets is None and self.choice.by != "leaves" else Flatten()

    def _tensor(self, target: Target, index: int, calls: list[ModuleCall]) -> tuple[str, str, TensorInfo]:
        """Key of the layer, and path and description of the tensor to record among those of call `index`."""
        call, site, path = calls[index], target.site, target.path
        found = call.outputs if site == "out" else call.inputs
        key = target.name + (f"#{index}" if len(calls) > 1 else "") + ("@in" if site == "in" else "")
        key = key or "@out"  # the model itself
        # Attention returns (output, weights), recurrent layers (output, state): the layer is the first of them.
        # So do blocks of the transformers library, and models of it (.last_hidden_state is first).
        first = self.choice.by != "leaves" or isinstance(target.named.module, _FIRST_OUTPUT)
        if path is None and self.targets is None and len(found) > 1 and first:
            path = next(iter(found))
        kind = call.output_type if site == "out" else "nothing"
        path = choose(found, path, f"the {site}put of layer {key}", kind)
        if len(found) > 1:
            key = key.removesuffix("@in").removesuffix("@out") + f"@{site}{path}"
        return key, path, found[path]

    def _check_rows(self, key: str, tensor: TensorInfo, batch_dim: int) -> list[int]:
        """The shape of a layer of one member, rows first; ValueError where these are not the samples."""
        if tensor.odd:
            refuse_odd(tensor.odd, f"layer {key!r}")
        shape = list(tensor.shape)
        if self.member_axis is not None and -len(shape) <= self.member_axis < len(shape):
            del shape[self.member_axis]
        if len(shape) <= batch_dim or shape[batch_dim] != self.rows:
            raise ValueError(wrong_rows(key, tensor.shape, self.rows))
        return [shape.pop(batch_dim), *shape]


def _call_indices(target: Target, made: Sequence[ModuleCall], calls: Literal["last", "all"] | int | None) -> list[int]:
    """Return the numbers of the calls of a target that are captured; ValueError where the user has to choose.

    `made` are the calls in the pass, in order, and `calls` is the user's setting.
    """
    name, ran = target.name, len(made)
    if target.call is not None:
        if target.call >= ran:
            raise ValueError(f"layer {name!r} runs {ran} times, so there is no call #{target.call}")
        return [target.call]
    # A module without weights, as a ReLU, that runs in several places is a layer in each. One with weights is a single
    # layer that runs again.
    several = calls is None and not target.exact and not target.op and is_free(target.named.module)
    if ran == 1 or calls == "all" or several:  # where all pass their input on, the last is taken
        return [i for i in range(ran) if not (several and made[i].passes_through)] or [ran - 1]
    if calls is None:
        ways = f"calls='last', calls='all' or an index, or name one call as '{name}#0'"
        raise ValueError(f"layer {name!r} runs {ran} times in one forward pass; choose with {ways}")
    index = -1 if calls == "last" else calls
    if not isinstance(index, int) or not -ran <= index < ran:
        raise ValueError(f"calls must be 'last', 'all' or an index below {ran} for layer {name!r}, got {calls!r}")
    return [index % ran]


def _role(target: Target, *, last: bool) -> Role:
    """A layer's role: input, output, activation or other."""
    if target.site == "in":
        return "input"
    if last and not target.op:
        return "output"
    activates = _is_activation_op(target.op) if target.op else is_activation(target.named.module)
    return "activation" if activates else "other"


def _is_activation_op(op: str) -> bool:
    """Whether a function is named like an activation module, as `leaky_relu` is."""
    return op.replace("_", "") in _ACTIVATION_NAMES
