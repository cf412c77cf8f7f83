"""How far the weights have moved from where they started."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from infoplane.core.errors import closest
from infoplane.hooks.metrics import LayerMetrics, Parameters, root_of_sums

METRIC = "weight_distance"


class WeightDistance:
    """|w_t - w_0| over the parameters that are trained, of the model and of each module.

    `start` has w_0 by parameter name, as a state dict; without it the weights as they are now, copied, are the start.
    """

    @torch.no_grad()
    def __init__(self, model: nn.Module, start: Any = None) -> None:
        if not isinstance(start, Mapping | None):
            kind = type(start).__name__
            raise TypeError(f"weight_distance must be True, or the weights of the start by parameter name, got {kind}")
        self._by_module: dict[str, list[tuple[nn.Parameter, Tensor]]] = {}
        parameters = Parameters(model)
        for module, own in parameters.by_module.items():
            pairs = [(p, _at_start(parameters.names[p], p, start)) for p in own if p.requires_grad]
            if pairs:
                self._by_module[module] = pairs
        if not self._by_module:
            raise ValueError("weight_distance is over parameters that are trained, and none of the model is")

    @torch.no_grad()
    def take(self) -> LayerMetrics:
        """The distances by (module name, "weight_distance"); "" is the whole model."""
        squares = {
            module: [(p.detach().float() - start.to(p.device).float()).square().sum() for p, start in pairs]
            for module, pairs in self._by_module.items()
        }
        everything = [one for own in squares.values() for one in own]
        return {(name, METRIC): root_of_sums(own) for name, own in {"": everything, **squares}.items()}


def _at_start(name: str, parameter: nn.Parameter, start: Mapping[str, Tensor] | None) -> Tensor:
    """The parameter at the start; ValueError where that is not known."""
    if start is None:
        return parameter.detach().clone()
    if name not in start:
        raise ValueError(
            f"weight_distance has no start of parameter {name!r}; closest: {', '.join(closest(name, start))}"
        )
    if start[name].shape != parameter.shape:
        raise ValueError(
            f"weight_distance has {name!r} of shape {tuple(start[name].shape)}, the model {tuple(parameter.shape)}"
        )
    return start[name].detach().clone()
