"""Gaussian noise that a network carries itself, in training and when it is measured."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from infoplane.core.records import Noise
from infoplane.hooks._pass.calls import Installed, choose, tensors_in, type_name
from infoplane.hooks.select import Layers, OpTarget, named_modules, select, unwrap

Kind = Literal["additive", "multiplicative"]


class NoiseInjection(Installed):
    """Add independent Gaussian noise to the outputs of chosen layers, until removed.

    With T the layer's output and Z standard normal, the next layer gets T + std Z (additive) or
    T (1 + std Z) (multiplicative). I(X;T) of such a network is finite and a property of the network, not of an
    analysis setting (Goldfeld et al., "Estimating information flow in deep neural networks", 2019). The
    noise acts in evaluation mode too: it is part of the network that is measured.

    A Recorder sees the value before the noise and writes std and kind into the layer's record. Under a reduction
    that mixes values (a mean, a projection, a function) the noise would have another law: there the noisy value is
    reduced, and the record says that it is not clean. At a snapshot the Recorder draws the noise from a generator
    of its own, so recording leaves the training noise as it was.

    Parameters
    ----------
    model : nn.Module
    layers : as in Recorder
        Modules whose output is one tensor.
    std : float
        Standard deviation, in the units of the layer or relative to it; positive.
    kind : "additive" or "multiplicative"
    seed : int, optional
        For a generator of its own during training; without it the noise is drawn from torch's global one, like
        dropout's.

    Raises
    ------
    ValueError
        If `std` is not positive, `kind` is unknown, or a layer is not found or has noise already.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    >>> with NoiseInjection(model, "1", std=0.1):
    ...     noisy = model(torch.zeros(5, 4))
    >>> noisy.shape
    torch.Size([5, 2])
    """

    def __init__(
        self, model: nn.Module, layers: Layers, std: float, kind: Kind = "additive", *, seed: int | None = None
    ) -> None:
        super().__init__()
        if not std > 0:
            raise ValueError(f"std must be positive, got {std}")
        if kind not in ("additive", "multiplicative"):
            raise ValueError(f"kind must be 'additive' or 'multiplicative', got {kind!r}")
        inner = unwrap(model)
        places = []
        for target in select(layers, named_modules(inner), type(inner).__name__):
            if isinstance(target, OpTarget):
                raise ValueError(f"noise goes on modules, not on functions like {target.pattern!r}")
            if target.site != "out" or target.call is not None or target.path:
                raise ValueError(f"noise goes on a module's whole output, not on one place of {target.named.name!r}")
            if noise_of(target.named.module) is not None:
                raise ValueError(f"layer {target.named.name!r} has noise already; remove() it first")
            places.append(target.named)
        self.layers = tuple(named.name for named in places)
        self.noise = Noise(std=float(std), kind=kind)
        for named in places:
            handle = named.module.register_forward_hook(_NoiseHook(self.noise, named.name, seed))
            self._removals.append(handle.remove)


class _NoiseHook:
    """A forward hook; an object rather than a closure so that models with noise can be pickled and copied."""

    def __init__(self, noise: Noise, name: str, seed: int | None) -> None:
        """Noise for the layer `name`; without a seed it is drawn from torch's global generator."""
        self.noise = noise
        self.name = name
        self.seed = seed
        self.generator: torch.Generator | None = None
        # While a probe runs, the generator to draw from, or "off" for no noise; None in training.
        self.measuring: torch.Generator | Literal["off"] | None = None

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Tensor:
        """Return the output with noise added; ValueError or TypeError where it is not one tensor."""
        if not isinstance(output, Tensor):
            # Raises where the output holds several tensors, or none, and says which; one alone is refused below.
            choose(tensors_in(output), None, f"the output of layer {self.name}", type_name(output))
            raise TypeError(f"noise needs a layer whose output is a tensor, got {type_name(output)} from {self.name!r}")
        if self.measuring == "off":
            return output
        source = self._source(output.device)
        z = torch.empty_like(output, memory_format=torch.contiguous_format).normal_(generator=source)
        if self.noise.kind == "additive":
            return output + self.noise.std * z
        return output * (1 + self.noise.std * z)

    def _source(self, device: torch.device) -> torch.Generator | None:
        """Return the generator to draw from, None for torch's global one; a seed starts one anew on each device."""
        if isinstance(self.measuring, torch.Generator):
            return self.measuring
        if self.seed is not None and (self.generator is None or self.generator.device != device):
            self.generator = torch.Generator(device).manual_seed(self.seed)
        return self.generator

    def __getstate__(self) -> dict[str, Any]:
        """What a copy or a pickle takes over: all but the generators."""
        return {**self.__dict__, "generator": None, "measuring": None}


def noise_of(module: nn.Module) -> Noise | None:
    """The noise that is added to a module's output, if any."""
    return next((hook.noise for hook in module._forward_hooks.values() if isinstance(hook, _NoiseHook)), None)


def draw_noise_from(model: nn.Module, generator: torch.Generator | Literal["off"]) -> None:
    """Have all layers draw noise from `generator`, or add none ("off"), until the hooks' `measuring` is set back."""
    for hook in noise_hooks(model):
        hook.measuring = generator


def noise_hooks(model: nn.Module) -> list[_NoiseHook]:
    """All hooks in a model that add noise."""
    return [h for m in model.modules() for h in m._forward_hooks.values() if isinstance(h, _NoiseHook)]
