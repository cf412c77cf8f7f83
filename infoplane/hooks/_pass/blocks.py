"""Which calls of a forward pass are the layers of a model that nobody named: its leaves, its blocks, or a depth."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules import activation

from infoplane.core.text import listed, printable
from infoplane.hooks._pass.observe import ModuleCall, Observation, output_path
from infoplane.hooks.reduce import Flatten, Mean, Reduction

MOST_LEAVES = 16
"""A model of more leaf layers than this is recorded by its blocks."""

ACTIVATIONS: tuple[type[nn.Module], ...] = tuple(
    getattr(activation, name) for name in activation.__all__ if name != "MultiheadAttention"
)

# Where a module says how many channels it gives, and at which axis of its output they are.
_WIDTHS = dict.fromkeys(("out_channels", "num_channels", "num_features"), 1)
# nf is the width of GPT-2's linear map in the transformers library.
_WIDTHS |= dict.fromkeys(("out_features", "normalized_shape", "embedding_dim", "nf"), -1)


@dataclass(frozen=True)
class Choice:
    """Calls of modules, in the order of the forward pass.

    `by` says how they were chosen ("leaves", "blocks", "depth 2"), `words` what they are, for the printed plan.
    """

    by: str
    calls: Sequence[ModuleCall]
    words: str = ""


def choose_calls(seen: Observation, *, blocks: bool, depth: int | None) -> Choice:
    """Choose the calls to record: those at `depth`, if that is given; else those of the leaves, or of the blocks.

    The blocks are taken if `blocks` asks for them, or the model has more than MOST_LEAVES leaves.
    """
    if depth is not None:
        return _at_depth(seen, depth)
    calls = [call for name in seen.leaves for call in seen.calls[name]]
    several = len({call.named.name for call in calls if not call.passes_through}) > MOST_LEAVES
    return _blocks(seen) if blocks or several else Choice("leaves", calls)


def _at_depth(seen: Observation, depth: int) -> Choice:
    """The calls that lie `depth` levels inside the call of the model, and the leaves above them."""
    found = _top(seen)
    for _ in range(depth - 1):
        found = [inner for call in found for inner in ([call] if call.leaf else call.inner)]
    return Choice(f"depth {depth}", found, f"modules at depth {depth}")


def _blocks(seen: Observation) -> Choice:
    """Choose the outermost modules of each kind that the model repeats, and the last layer in each gap around them.

    A model that repeats no kind of module gets its activations instead.
    """
    top = _top(seen)
    is_block = _block_test([c for call in top for c in (call, *call.calls_inside()) if not c.leaf])
    if is_block is None:
        return _activations(seen)

    def units(call: ModuleCall) -> Iterator[ModuleCall]:
        """Yield the blocks in a call, and between them the calls that hold no block."""
        if is_block(call) or not any(map(is_block, call.calls_inside())):
            yield call
        else:
            for inner in call.inner:
                yield from units(inner)

    found: list[ModuleCall] = []
    every = [call for outer in top for call in units(outer) if call.depends and not call.passes_through]
    for block, group in itertools.groupby(every, is_block):
        run = list(group)
        found += run if block else run[-1:]
    shown = Counter(printable(call.named.type_name) for call in found if is_block(call))
    words = f"{listed([f'{n} {kind}' for kind, n in shown.items()], 4)}, and the last layer before, between and after"
    return Choice("blocks", found, words)


def _block_test(calls: Sequence[ModuleCall]) -> Callable[[ModuleCall], bool] | None:
    """A function that tells whether a call is that of a block; None for a model that repeats no kind of module."""
    count = Counter(type(call.named.module) for call in calls)
    kinds = {kind for kind, n in count.items() if n > 1 and kind is not nn.Sequential}
    if not kinds and count[nn.Sequential] > 2:  # stages without a class of their own
        kinds = {nn.Sequential}

    def is_block(call: ModuleCall) -> bool:
        """Whether a call is that of a block."""
        kind = type(call.named.module)
        if kind not in kinds or call.leaf:
            return False
        # Two of a kind that hold blocks are an encoder and a decoder, or the two halves of a twin network: no blocks.
        # A Sequential that holds blocks is a stage of the model: no block either.
        may_hold_blocks = count[kind] == 2 or kind is nn.Sequential
        return not (may_hold_blocks and any(type(c.named.module) in kinds for c in call.calls_inside()))

    return is_block if kinds else None


def _activations(seen: Observation) -> Choice:
    """The outputs of a model's activation modules, or all its leaves where it has few; for models without blocks."""
    leaves = sorted((c for name in seen.leaves for c in seen.calls[name]), key=lambda call: call.end)
    acts = [c for c in leaves if is_activation(c.named.module)]
    words = "the model repeats no module"
    if len(acts) < 3:  # too few to stand for the model
        return Choice("all leaves", leaves, f"{words}: all its leaves")
    return Choice("activations", acts, f"{words}: its {len(acts)} activations")


def _top(seen: Observation) -> list[ModuleCall]:
    """Return the calls directly inside the call of the model.

    Where the model itself was not called as a whole, or holds no modules, these are the outermost calls.
    """
    calls = [call for some in seen.calls.values() for call in some]
    inside = {id(inner) for call in calls for inner in call.inner}
    outermost = sorted((call for call in calls if id(call) not in inside), key=lambda call: call.begin)
    if len(outermost) == 1 and not outermost[0].leaf and not outermost[0].named.name:
        return outermost[0].inner
    return outermost


def output_of(seen: Observation, choice: Choice) -> tuple[ModuleCall, str] | None:
    """Return the call that gives the model's output and the path of the output in what the call returned.

    It is a call of the choice if one returns that tensor. None where no call is known to give the output.
    """
    whole, made = seen.calls.get("", [])[-1:], seen.output  # the last call of the model itself, if there is one
    path = output_path(whole[0].outputs) if whole else None
    if path is None or made is None or choice.by == "leaves":
        return made
    keys = {key for key, place in whole[0].same.items() if place == path}  # the identity of the output tensor
    for call in choice.calls:
        for key in keys & call.same.keys():
            return call, call.same[key] if len(call.outputs) > 1 else ""
    # The model may return only a part of a layer, as one token or an average: the output is that part.
    given = made[0].outputs.get(made[1]) or next(iter(made[0].outputs.values()))
    part = math.prod(whole[0].outputs[path].shape) < math.prod(given.shape)
    return (whole[0], path if len(whole[0].outputs) > 1 else "") if part else made


def is_activation(module: nn.Module) -> bool:
    """Whether a module is an elementwise nonlinearity or a softmax, of torch or of the transformers library."""
    return isinstance(module, ACTIVATIONS) or type(module).__module__ == "transformers.activations"


def is_free(module: nn.Module) -> bool:
    """Whether a module has no weights, or is an activation, which may have a slope."""
    return is_activation(module) or not any(True for _ in itertools.chain(module.parameters(), module.buffers()))


def pooling(seen: Observation, call: ModuleCall, shape: Sequence[int], n_tokens: int | None) -> Reduction:
    """The reduction of a layer of this shape (rows, ...) where nobody chose one: a mean over positions or tokens.

    `n_tokens` is the number of tokens of the mask, if there is one.
    """
    if len(shape) < 3:
        return Flatten()
    if _channels(seen, call, shape) == 1:
        return Mean("space")
    if len(shape) > 3:
        return Mean("positions")
    return Mean("tokens", masked=n_tokens in (None, shape[1]))  # a mask of another length is not of these tokens


def _channels(seen: Observation, call: ModuleCall, shape: Sequence[int]) -> int:
    """Return the axis of the channels, 1 or -1, of a layer that `call` gave, from its shape (rows, ...).

    It is the axis whose length is the number of channels that a module declares (`out_features` and the like): the
    latest module, up to `call`, whose number fits an axis. Where none fits, it is the axis usual in torch.
    """
    before = [c for some in seen.calls.values() for c in some if c.end <= call.end]
    for one in sorted(before, key=lambda c: c.end, reverse=True):
        for name, axis in _WIDTHS.items():
            width: Any = getattr(one.named.module, name, None)
            width = width[-1] if isinstance(width, tuple) and width else width
            # Try the axis usual for this module first: there may be as many positions as channels.
            for place in (axis, -axis if axis == 1 else 1):
                if isinstance(width, int) and shape[place] == width:
                    return place
    # As torch has them: (rows, tokens, channels), but (rows, channels, height, width).
    return -1 if len(shape) == 3 else 1
