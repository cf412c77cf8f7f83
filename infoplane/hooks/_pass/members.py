"""Many networks run as one batched program: by torch.func.vmap, or with an axis of members in every tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call, vmap

from infoplane.core.text import printable
from infoplane.hooks.metrics import GradientMoments, LayerMetrics, weight_norms
from infoplane.hooks.probe import Inputs

State = tuple[Mapping[str, Tensor], Mapping[str, Tensor]]


@dataclass(eq=False)
class Members:
    """How the members of a collection lie.

    Either `state` gives parameters and buffers with the members along their first axis, as
    `torch.func.stack_module_state` makes them; or the model runs all members by itself, and `axis` is where
    they are in the captured tensors, and `parameter_dim` where they are in its parameters.
    """

    count: int
    state: State | Callable[[], State] | None = None
    axis: int | None = None
    parameter_dim: int | Mapping[str, int] = 0

    def use(self, state: State) -> None:
        """Take another state from now on; ValueError unless it has as many members."""
        if self.state is None:
            raise ValueError("this collection runs its members by itself and takes no state")
        if (found := count_members(state)) != self.count:
            raise ValueError(f"the state has {found} members, not {self.count}")
        self.state = state

    def current(self) -> State:
        """Parameters and buffers of all members, as they are now."""
        assert self.state is not None
        parameters, buffers = self.state() if callable(self.state) else self.state
        return parameters, buffers

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors of a stacked state; none for a model that runs its members by itself."""
        return [] if self.state is None else [t for part in self.current() for t in part.values()]

    def check_gradients(self, moments: GradientMoments) -> None:
        """Raise ValueError unless the moments are of as many members, and made for the way these have gradients.

        Gradients of a stacked state are handed to `moments.add`; others are read from the model's parameters.
        """
        stacked = self.state is not None
        if moments.members == self.count and moments.reads_parameters != stacked:
            return
        way = f".functional(model, members={self.count})" if stacked else f"(model, optimizer, members={self.count})"
        got = f"{moments.members or 'one network'}{'' if moments.reads_parameters else ', functional'}"
        raise ValueError(f"gradients must be GradientMoments{way}, got those of {got}")

    def weight_norms(self, model: nn.Module) -> LayerMetrics:
        """Norms of each member's weights, (members,) each, by (module name, "weight_norm")."""
        if self.state is not None:
            return weight_norms(model, members=self.count, values=self.current()[0])
        return weight_norms(model, members=self.count, parameter_dim=self.parameter_dim)

    def run_first(self, model: nn.Module, inputs: Inputs) -> Any:
        """The output of the first member alone, run as an ordinary module."""
        parameters, buffers = self.current()
        own = {k: v[0] for k, v in parameters.items()}, {k: v[0] for k, v in buffers.items()}
        return functional_call(model, own, inputs.args, dict(inputs.kwargs))

    def run_all(self, model: nn.Module, inputs: Inputs, outputs: Callable[[], list[Tensor]]) -> list[Tensor]:
        """Run all members at once; return what hooks kept inside, as `outputs` lists it, (members, ...) each.

        Under vmap a hook sees a tensor of one member that stands for all: it must not outlive the call.
        """

        def one(parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> list[Tensor]:
            """Run one member, which under vmap stands for all; what the hooks kept of it."""
            functional_call(model, (dict(parameters), dict(buffers)), inputs.args, dict(inputs.kwargs))
            return outputs()

        # Each member draws random numbers of its own.
        result: list[Tensor] = vmap(one, randomness="different")(*self.current())
        return result


def count_members(state: State) -> int:
    """The number of members: the length that the first axes of all tensors in `state` have in common.

    Raises
    ------
    ValueError
        If these lengths differ, or are 0, or there is no tensor.
    """
    lengths = {name: len(t) if t.ndim else 0 for part in state for name, t in part.items()}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        shown = ", ".join(f"{printable(k)}: {n}" for k, n in list(lengths.items())[:5])
        raise ValueError(f"every parameter and buffer needs the members along its first axis, got {shown or 'none'}")
    return next(iter(lengths.values()))
