"""I(X;T) where the network is random: taking over its noise, drawing it, and refusing layers that have none."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from torch import Tensor

from infoplane.estimators._driver import Given, Method
from infoplane.estimators._protocol import Blocks, Quantities, Quantity
from infoplane.estimators._scaling import normal_numbers
from infoplane.estimators._settings import one_of, prepared, setting

BELOW = 0.1
"""Bits by which I(X;T) may be less than I(T;Y)."""


@dataclass(frozen=True, kw_only=True)
class NoisyMethod(Method):
    """A method that also estimates I(X;T) where the network is random, that is, adds noise to the layer.

    `noise` says where the noise comes from. What `prepare` found about it is in `network_std`, its standard deviation,
    `network_kind`, and `network_clean`: whether the layer was recorded without the noise.
    """

    noise: Literal["network", "recorded", "off"] = setting("network", one_of("network", "recorded", "off"))
    seed: int = 0
    network_std: float | None = prepared()
    network_kind: str | None = prepared()
    network_clean: bool | None = prepared()

    def __post_init__(self) -> None:
        """Check the settings, and accept classes where the layer is random."""
        super().__post_init__()
        if is_random(self):  # then there is I(X;T), whatever the labels are
            object.__setattr__(self, "targets", self.targets | {"discrete"})

    def prepare(self, blocks: Blocks, y: Tensor, x: Tensor | None = None) -> Self:
        """Return a copy that knows the noise which the network itself adds to the layer, None where it adds none.

        The activations of `blocks` are not read.
        """
        found = getattr(blocks, "noise", None)
        if found is None or found.std <= 0:
            return replace(self, network_std=None, network_kind=None, network_clean=None)
        return replace(self, network_std=found.std, network_kind=found.kind, network_clean=found.clean)

    def estimate(self, t: Tensor, y: Tensor, *, x: Tensor | None = None, x_ids: Tensor | None = None) -> Quantities:
        """Return what `Method.estimate` does, with I(X;T) flagged `unreliable` if more than 0.1 bit below I(T;Y).

        That cannot be true, since T knows of Y only through X; except where Y is another layer with noise.
        """
        return checked_by_labels(super().estimate(t, y, x=x, x_ids=x_ids))


def checked_by_labels(found: dict[str, Quantity]) -> dict[str, Quantity]:
    """Return the quantities of one call, with I(X;T) or both flagged `unreliable` where I(X;T) is less than I(T;Y)."""
    of_x, of_y = found.get("I(X;T)"), found.get("I(T;Y)")
    if of_x is None or of_y is None:
        return found
    less, lower = of_x.value < of_y.value - BELOW, found.get("I(T;Y) lower")
    # Either of two point estimates may be wrong, so both are flagged; if even a lower bound of I(T;Y) is above I(X;T),
    # it is I(X;T) that is wrong.
    either = less if lower is None else less & (lower.value < of_x.value)
    doubts = {"I(X;T)": less, "I(T;Y)": either}  # (S,)
    for name, quantity in found.items():
        pair = name.split(" ")[0]  # as in "I(T;Y) inside"
        if quantity.bound == "point" and pair in doubts:
            flags = {**quantity.flags, "unreliable": quantity.flags["unreliable"] | doubts[pair]}
            found = {**found, name: replace(quantity, flags=flags)}
    return found


def is_random(config: NoisyMethod) -> bool:
    """Return whether T has noise, so that I(X;T) is finite."""
    return config.noise == "recorded" or (config.noise == "network" and config.network_std is not None)


def random_inputs(config: NoisyMethod, given: Given) -> Tensor | None:
    """Return the inputs (N, F) for I(X;T), None for a layer without noise; raise ValueError if inputs or noise lack."""
    if not is_random(config):
        return None
    x = given.features(keep=True)
    if x is None:
        raise ValueError(
            f"{config.name} needs the inputs x for I(X;T) of a layer with noise; pass x=..., record a probe small "
            "enough for its inputs to be kept, or set noise='off'"
        )
    if config.noise == "recorded":
        _refuse_deterministic(given.t, given.x_ids)
    return x


def other_sides(config: NoisyMethod, given: Given) -> dict[str, Tensor]:
    """Return what T is paired with: real targets (N, ...) for "I(T;Y)", and inputs (N, F) for "I(X;T)" of noisy T."""
    x = random_inputs(config, given)
    sides = {"I(T;Y)": given.y if given.y.is_floating_point() else None, "I(X;T)": x}
    return {name: side.detach() for name, side in sides.items() if side is not None}


def with_noise(layer: Tensor, config: NoisyMethod) -> Tensor:
    """Return the layer (N, U) as the network has it: noise is drawn and added if the value was recorded without it."""
    if config.noise != "network" or not config.network_clean or config.network_std is None:
        return layer
    z = normal_numbers(layer.shape, config.seed, layer.device)
    clean = layer.double()
    return clean + config.network_std * (z * clean.abs() if config.network_kind == "multiplicative" else z)


def _refuse_deterministic(t: Tensor, x_ids: Tensor) -> None:
    """Raise ValueError if inputs in `x_ids` (N,) repeat and all rows of one input are equal in `t` (S, N, U)."""
    order = torch.argsort(x_ids, stable=True)
    same_input = x_ids[order][1:] == x_ids[order][:-1]
    if not bool(same_input.any()):
        return
    ordered = t[:, order]
    if bool((ordered[:, 1:] == ordered[:, :-1]).all(2)[:, same_input].all()):
        raise ValueError(
            "rows of the same input are equal: the layer is deterministic, and its I(X;T) is infinite or log2 of the "
            "number of inputs whatever it has learned; use noise='off', or the estimator 'noise'"
        )
