"""A model's parameters by the module that owns them, and where the members of a collection lie in each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from infoplane.core.errors import closest
from infoplane.hooks._names import named_modules
from infoplane.hooks.select import matches


class Parameters:
    """Sums over parameters, one for each of the `members` where there are several, (members,).

    `dim` is the axis of the members, for all parameters or by patterns of their names ("*" for all others).
    """

    def __init__(self, model: nn.Module, members: int | None = None, dim: int | Mapping[str, int] = 0) -> None:
        self.by_module = own_parameters(model)
        self.names: dict[Tensor, str] = {p: n for n, p in model.named_parameters()}
        self.by_name = {n: p for p, n in self.names.items()}
        self.members = members
        self.dims = dim if isinstance(dim, Mapping) else {"*": dim}
        for pattern in self.dims:
            if pattern != "*" and not any(_fits(n, pattern) for n in self.by_name):
                near = ", ".join(closest(pattern, self.by_name))
                raise ValueError(f"parameter_dim names {pattern!r}, no parameter of the model; closest: {near}")

    def sum(self, parameter: Tensor, values: Tensor) -> Tensor:
        """Sum of values that lie as the parameter does."""
        if self.members is None:
            return values.sum()
        return values.movedim(self._dim(parameter), 0).reshape(self.members, -1).sum(1)

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
        name = self.names[parameter]
        fitting = (d for pattern, d in self.dims.items() if pattern != "*" and _fits(name, pattern))
        return self.dims[name] if name in self.dims else next(fitting, self.dims.get("*", 0))


def _fits(name: str, pattern: str) -> bool:
    return name == pattern or matches(name, pattern)


def own_parameters(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Parameters of each module that has some of its own; one shared by several counts for the first.

    The model itself is called "@out".
    """
    owned: dict[str, list[nn.Parameter]] = {}
    seen: set[nn.Parameter] = set()
    for name, named in named_modules(model).items():
        own = [p for p in named.module.parameters(recurse=False) if p not in seen]
        seen.update(own)
        if own:
            owned[name or "@out"] = own
    return owned
