"""Numbers recorded beside activations: the loop's, gradient moments, norms of weights, distance from the start."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from infoplane.core.errors import closest
from infoplane.hooks._pass.calls import Installed
from infoplane.hooks.select import as_table, by_pattern, check_patterns, named_modules, unwrap

LayerMetrics = dict[tuple[str, str], Tensor]

DISTANCE = "weight_distance"


@dataclass
class _Moments:
    """Of one parameter's gradients: their number, their mean, and the sum of their squared distances from the mean."""

    count: int
    mean: Tensor
    squares: Tensor


class GradientMoments(Installed):
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
    members : int, optional
        Number of networks in a hand-stacked model; each then has its own norms. Their losses have to be summed:
        under a mean over members every gradient is that of its network divided by their number.
    parameter_dim : int, or mapping from pattern of parameter names to int
        Axis of the members in the parameters.

    Raises
    ------
    ValueError
        If a parameter does not hold the members along its axis.

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

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | None = None,
        *,
        members: int | None = None,
        parameter_dim: int | Mapping[str, int] = 0,
    ) -> None:
        self._start(Parameters(unwrap(model), members, parameter_dim))
        parameters = [p for group in self._parameters.by_module.values() for p in group if p.requires_grad]
        self._parameters.check(parameters)

        def add_all(*_: Any) -> None:
            """Hook of the optimizer: add the gradients with which it steps."""
            for p in parameters:
                self._add(p)

        if optimizer is None:
            handles = [p.register_post_accumulate_grad_hook(self._add) for p in parameters]  # type: ignore[no-untyped-call]
        else:
            handles = [optimizer.register_step_pre_hook(add_all)]
        self._removals = [handle.remove for handle in handles]

    @classmethod
    def functional(cls, model: nn.Module, *, members: int | None = None) -> Self:
        """Make moments whose gradients come by `add`, called at each step, as for gradients of `torch.func`.

        These are in no parameter's `.grad`. `model` is the module that `functional_call` runs; nothing is attached to
        it.

        Examples
        --------
        >>> w = nn.Linear(2, 1, bias=False)
        >>> moments = GradientMoments.functional(w, members=2)
        >>> for x in (1.0, 3.0):
        ...     moments.add({"weight": torch.tensor([[[x, 0.0]], [[0.0, 5.0]]])})
        >>> moments.take()["@out", "gradient_mean_norm"].tolist()
        [2.0, 5.0]
        """
        moments = cls.__new__(cls)
        moments._start(Parameters(unwrap(model), members))
        moments.reads_parameters = False
        return moments

    def _start(self, parameters: Parameters) -> None:
        """Set up moments of these parameters, without gradients so far."""
        super().__init__()
        self._parameters = parameters
        self.members, self.parameter_dim = parameters.members, parameters.dims
        self.reads_parameters = True
        self._moments: dict[Tensor, _Moments] = {}

    def add(self, gradients: Mapping[str, Tensor | None]) -> None:
        """Add the gradients of one step, by parameter name, as `torch.func.grad` gives them.

        With members, their axis is every tensor's first. A name that is left out, or None, counts as frozen.

        Raises
        ------
        ValueError
            For a name that the model does not have, or another shape.
        RuntimeError
            If the gradients are read from the model's own parameters.
        """
        if self.reads_parameters:
            raise RuntimeError(
                "these moments read the gradients of the model's own parameters; those of torch.func are added to "
                "GradientMoments.functional(model)"
            )
        lead = () if self.members is None else (self.members,)
        known = self._parameters.by_name
        for name, gradient in gradients.items():
            if name not in known:
                raise ValueError(f"the model has no parameter {name!r}; closest: {', '.join(closest(name, known))}")
            expected = (*lead, *known[name].shape)
            if gradient is not None and tuple(gradient.shape) != expected:
                raise ValueError(f"the gradient of {name!r} must have shape {expected}, got {tuple(gradient.shape)}")
        for name, gradient in gradients.items():
            if gradient is not None:
                self._update(known[name], gradient)

    def _add(self, parameter: Tensor) -> None:
        """Add the gradient that a parameter has now; none, or a sparse one, is left out."""
        gradient = parameter.grad
        if gradient is not None and gradient.layout is torch.strided:
            self._update(parameter, gradient)

    @torch.no_grad()
    def _update(self, parameter: Tensor, gradient: Tensor) -> None:
        """Add one gradient by Welford's update, which is stable in the gradient's own precision."""
        # A gradient that is sharded over processes is not gathered here: `root_of_sums` gathers the sums at the end.
        gradient = gradient.detach().float()
        seen = self._moments.get(parameter)
        if seen is None:
            self._moments[parameter] = _Moments(1, gradient.clone(), torch.zeros_like(gradient))
            return
        seen.count += 1
        delta = gradient - seen.mean
        seen.mean += delta / seen.count
        seen.squares.addcmul_(delta, gradient - seen.mean)

    @torch.no_grad()
    def take(self) -> LayerMetrics:
        """Return the norms over the steps since the last call, by (module name, metric), and start over.

        Each is a scalar, or (members,). "@out" is the model itself. `gradient_steps` is the number of steps;
        `gradient_std_norm` is absent where there was only one.
        """
        metrics: LayerMetrics = {}
        for name, parameters in self._parameters.by_module.items():
            seen = [(p, self._moments[p]) for p in parameters if p in self._moments]
            if not seen:
                continue
            steps = max(m.count for _, m in seen)
            add_up = self._parameters.sum
            norm = metrics[name, "gradient_mean_norm"] = root_of_sums([add_up(p, m.mean.square()) for p, m in seen])
            if steps > 1:
                variances = [add_up(p, m.squares) / (m.count - 1) for p, m in seen if m.count > 1]
                metrics[name, "gradient_std_norm"] = root_of_sums(variances)
            metrics[name, "gradient_steps"] = torch.full(norm.shape, float(steps), device="cpu")
        self._moments = {}
        return metrics


@torch.no_grad()
def weight_norms(
    model: nn.Module,
    *,
    members: int | None = None,
    parameter_dim: int | Mapping[str, int] = 0,
    values: Mapping[str, Tensor] | None = None,
) -> LayerMetrics:
    """Return the Frobenius norm of all own parameters of each module, by (module name, "weight_norm").

    Without `members` a norm is a scalar; with them it is (members,). Their axis in each parameter is `parameter_dim`.
    `values` (parameter name -> tensor), as `torch.func` stacks them with the members first, are used in the place of
    the model's parameters.
    """
    parameters = Parameters(model, members, parameter_dim)
    if values is None:
        parameters.check(parameters.names)

    def square(p: Tensor) -> Tensor:
        """Return the sum of squares of `p`, or of its entry in `values`; without an entry all members share `p`."""
        name = parameters.names[p]
        value = p if values is None else values[name] if name in values else p.expand(members or 1, *p.shape)
        return parameters.sum(p, value.detach().float().square())

    return {(name, "weight_norm"): root_of_sums([square(p) for p in own]) for name, own in parameters.by_module.items()}


def root_of_sums(squares: list[Tensor]) -> Tensor:
    """Return the square root of the sum of `squares`, which are scalars or (members,) and may lie on many devices."""
    total = torch.stack([s.to(squares[0].device) for s in squares]).sum(0)
    if hasattr(total, "full_tensor"):
        total = total.full_tensor()  # of parameters sharded over processes: the sum over all of these
    return total.sqrt()


def numbers(name: Any, value: Any, members: int | None = None) -> list[float]:
    """Return a metric as a list of one float, or with `members` of one for each; TypeError for what is no number."""
    if not isinstance(name, str) or not name:
        raise TypeError(f"metrics map names to numbers, got the name {name!r:.80}")
    value = value.detach().cpu() if isinstance(value, Tensor) else value
    if members is not None:
        array = np.asarray(value, dtype=np.float64)
        if array.ndim > 1 or (array.ndim == 1 and len(array) != members):
            raise TypeError(f"metric {name!r} must be one number or {members} of them, got shape {array.shape}")
        return [float(number) for number in np.broadcast_to(array, (members,))]
    refusal = f"metric {name!r} must be one number, got "
    if isinstance(value, Tensor) and value.numel() != 1:
        raise TypeError(f"{refusal}a tensor of shape {tuple(value.shape)}")
    try:
        return [float(value)]
    except (TypeError, ValueError) as error:
        raise TypeError(f"{refusal}{value!r:.80}") from error


def as_numbers(metrics: LayerMetrics) -> list[dict[tuple[str, str], float]]:
    """Return one dict of numbers for each network: one dict from scalars, `members` dicts from metrics (members,).

    Waits for the device once.
    """
    columns = to_numbers([values.reshape(-1) for values in metrics.values()])
    return [dict(zip(metrics, row, strict=True)) for row in zip(*columns, strict=True)]


def to_numbers(values: Sequence[Tensor]) -> list[Any]:
    """Return tensors that have one shape as Python numbers, or lists of them; waits for the device once."""
    if not values:
        return []
    return list(torch.stack([v.to(values[0].device) for v in values]).tolist())


class Parameters:
    """The parameters of a model, by module and by name, and sums over them: a scalar, or with `members` (members,).

    `dim` is the axis of the members, for all parameters or by patterns of their names ("*" for all others).
    """

    def __init__(self, model: nn.Module, members: int | None = None, dim: int | Mapping[str, int] = 0) -> None:
        """Find the model's parameters; ValueError for a pattern in `dim` that names none of them."""
        self.by_module: dict[str, list[nn.Parameter]] = {}
        """Own parameters of each module that has some; "@out" is the model itself."""
        self.names: dict[Tensor, str] = {p: n for n, p in model.named_parameters()}
        self.by_name = {n: p for p, n in self.names.items()}
        left = set(self.names)  # parameters that no module has yet
        for name, named in named_modules(model).items():
            # A parameter that several modules share counts for the first of them only.
            if own := [p for p in named.module.parameters(recurse=False) if p in left]:
                self.by_module[name or "@out"] = own
            left.difference_update(own)
        self.members = members
        self.dims = as_table(dim)
        check_patterns("parameter_dim", self.dims, list(self.by_name), "parameter of the model")

    def sum(self, parameter: Tensor, values: Tensor) -> Tensor:
        """Return the sum of `values`, which have the parameter's shape: a scalar, or with members (members,)."""
        if self.members is None:
            return values.sum()
        return values.movedim(self._dim(parameter), 0).reshape(self.members, -1).sum(1)  # (members, rest) -> (members,)

    def check(self, parameters: Iterable[Tensor]) -> None:
        """Raise ValueError for a parameter that does not hold the members along its axis."""
        for p in parameters if self.members is not None else ():
            dim = self._dim(p)
            if not -p.ndim <= dim < p.ndim or p.shape[dim] != self.members:
                raise ValueError(
                    f"parameter {self.names[p]!r} should have {self.members} members at axis {dim}, got shape "
                    f"{tuple(p.shape)}; state their axis, as parameter_dim={{{self.names[p]!r}: 1, '*': 0}}"
                )

    def _dim(self, parameter: Tensor) -> int:
        """The axis of the members in a parameter."""
        return by_pattern(self.dims, [self.names[parameter]], 0)


class WeightDistance:
    """Measures |w_t - w_0|, over the parameters that are trained, for the model and for each module.

    w_t are the weights at the time of `take`. w_0 are those in `start`, by parameter name as in a state dict; without
    it, a copy of the weights as they are now.
    """

    @torch.no_grad()
    def __init__(self, model: nn.Module, start: Any = None) -> None:
        """Copy w_0. TypeError where `start` is no mapping; ValueError where it does not fit, or nothing is trained."""
        if not isinstance(start, Mapping | None):
            kind = type(start).__name__
            raise TypeError(f"weight_distance must be True, or the weights of the start by parameter name, got {kind}")
        parameters = Parameters(model)
        trained = {m: [p for p in own if p.requires_grad] for m, own in parameters.by_module.items()}
        self._by_module = {
            m: [(p, _at_start(parameters.names[p], p, start)) for p in own] for m, own in trained.items() if own
        }
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
        return {(name, DISTANCE): root_of_sums(own) for name, own in {"": everything, **squares}.items()}


def _at_start(name: str, parameter: nn.Parameter, start: Mapping[str, Tensor] | None) -> Tensor:
    """Return a copy of a parameter's weights w_0; ValueError where `start` lacks them, or has another shape."""
    if start is None:
        return parameter.detach().clone()
    if name not in start:
        near = ", ".join(closest(name, start))
        raise ValueError(f"weight_distance has no start of parameter {name!r}; closest: {near}")
    shape, own = tuple(start[name].shape), tuple(parameter.shape)
    if shape != own:
        raise ValueError(f"weight_distance has {name!r} of shape {shape}, the model {own}")
    return start[name].detach().clone()
