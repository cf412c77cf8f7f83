"""What is recorded beside activations: the loop's numbers, gradient moments, norms of weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from infoplane.hooks._names import named_modules, unwrap

LayerMetrics = dict[tuple[str, str], Tensor]


class GradientMoments:
    """Stream the gradients of every optimizer step into their mean and variance, until removed.

    For a module with parameters W and gradients g_b of steps b = 1..B, `take` gives the Frobenius norms
    ||mean_b g_b|| and ||std_b g_b|| (with B - 1), whose ratio is the gradient's signal-to-noise ratio
    (Shwartz-Ziv and Tishby, "Opening the black box of deep neural networks via information", 2017). No gradient
    is stored: two running tensors per parameter. The weights move during the B steps, so over long stretches
    the standard deviation also holds the drift of the mean.

    Parameters
    ----------
    model : nn.Module
    optimizer : Optimizer, optional
        Read the gradients when it steps: needed with gradient accumulation, clipping or a gradient scaler, whose
        result is what counts. Without it, after every backward pass as they then stand in `.grad`.

    Examples
    --------
    >>> w = nn.Linear(2, 1, bias=False)
    >>> with GradientMoments(w) as moments:
    ...     for x in (torch.tensor([1.0, 0.0]), torch.tensor([3.0, 0.0])):
    ...         w.zero_grad()
    ...         w(x).sum().backward()
    ...     taken = moments.take()
    >>> float(taken["@out", "gradient_mean_norm"]), round(float(taken["@out", "gradient_std_norm"]) ** 2, 6)
    (2.0, 2.0)
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer | None = None) -> None:
        self._layers = own_parameters(unwrap(model))
        self._count: dict[Tensor, int] = {}
        self._mean: dict[Tensor, Tensor] = {}
        self._squares: dict[Tensor, Tensor] = {}
        self._remove: list[Callable[[], None]] = []
        parameters = [p for group in self._layers.values() for p in group if p.requires_grad]
        if optimizer is not None:
            handle: Any = optimizer.register_step_pre_hook(lambda *_: self._add_all(parameters))
            self._remove.append(handle.remove)
        else:
            for p in parameters:
                handle = p.register_post_accumulate_grad_hook(self._add)  # type: ignore[no-untyped-call]
                self._remove.append(handle.remove)

    @torch.no_grad()
    def _add(self, parameter: Tensor) -> None:
        """Welford's update: stable in the gradient's own precision."""
        gradient = parameter.grad
        if gradient is None or gradient.layout is not torch.strided:
            return
        if hasattr(gradient, "to_local"):
            gradient = gradient.to_local()
        gradient = gradient.detach().float()
        n = self._count[parameter] = self._count.get(parameter, 0) + 1
        if n == 1:
            self._mean[parameter] = gradient.clone()
            self._squares[parameter] = torch.zeros_like(gradient)
            return
        delta = gradient - self._mean[parameter]
        self._mean[parameter] += delta / n
        self._squares[parameter].addcmul_(delta, gradient - self._mean[parameter])

    def _add_all(self, parameters: list[nn.Parameter]) -> None:
        for p in parameters:
            self._add(p)

    @torch.no_grad()
    def take(self) -> LayerMetrics:
        """Norms since the last call, by (module name, metric), and start over ("@out" is the model itself).

        `gradient_std_norm` is absent where there was one step only; `gradient_steps` is their number.
        """
        metrics: LayerMetrics = {}
        for name, parameters in self._layers.items():
            seen = [p for p in parameters if self._count.get(p)]
            if not seen:
                continue
            steps = max(self._count[p] for p in seen)
            metrics[name, "gradient_mean_norm"] = _norm([self._mean[p].square().sum() for p in seen])
            if steps > 1:
                variances = [self._squares[p].sum() / (self._count[p] - 1) for p in seen if self._count[p] > 1]
                metrics[name, "gradient_std_norm"] = _norm(variances)
            metrics[name, "gradient_steps"] = torch.tensor(float(steps))
        self._count, self._mean, self._squares = {}, {}, {}
        return metrics

    def remove(self) -> None:
        """Stop; calling it again does nothing."""
        for remove in self._remove:
            remove()
        self._remove = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()


@torch.no_grad()
def weight_norms(model: nn.Module) -> LayerMetrics:
    """Frobenius norm of each module's own parameters together, by (module name, "weight_norm")."""
    return {
        (name, "weight_norm"): _norm([p.detach().float().square().sum() for p in parameters])
        for name, parameters in own_parameters(model).items()
    }


def own_parameters(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Parameters of each module that has some of its own; one shared by several counts for the first."""
    owned: dict[str, list[nn.Parameter]] = {}
    seen: set[nn.Parameter] = set()
    for name, named in named_modules(model).items():
        own = [p for p in named.module.parameters(recurse=False) if p not in seen]
        seen.update(own)
        if own:
            owned[name or "@out"] = own
    return owned


def _norm(squares: list[Tensor]) -> Tensor:
    total = torch.stack([s.to(squares[0].device) for s in squares]).sum()
    if hasattr(total, "full_tensor"):
        total = total.full_tensor()
    return total.sqrt()


def numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    numbers = {}
    for name, value in metrics.items():
        if not isinstance(name, str) or not name:
            raise TypeError(f"metrics map names to numbers, got the name {name!r}")
        try:
            numbers[name] = float(value.detach() if isinstance(value, Tensor) else value)
        except (TypeError, ValueError) as error:
            raise TypeError(f"metric {name!r} must be one number, got {value!r}") from error
    return numbers


def as_numbers(metrics: LayerMetrics) -> dict[tuple[str, str], float]:
    """To Python numbers, with one wait for the device."""
    if not metrics:
        return {}
    device = next(iter(metrics.values())).device
    values = torch.stack([v.to(device) for v in metrics.values()]).tolist()
    return {key: value for key, value in zip(metrics, values, strict=True)}
