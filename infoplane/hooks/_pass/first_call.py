"""Models that make or set their weights when they are first called: a recording must not be that call."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from infoplane.core.text import printable
from infoplane.hooks.select import is_scripted, named_modules

_REMEDY = (
    "the probe must not be its first call, which would draw weights from the recorder's random state; run one forward "
    "pass first (model(x[:2])), before the optimizer is made"
)


def refuse_lazy(model: nn.Module) -> None:
    """Raise ValueError where a lazy module has not seen an input yet."""
    lazy = [
        (named.name, named.type_name)
        for named in named_modules(model).values()
        if any(t is not None and is_lazy(t) for part in _parts(named.module)[1:3] for t in part.values())
    ]
    if lazy:
        name, kind = lazy[0]
        more = f" and {len(lazy) - 1} more layers" if len(lazy) > 1 else ""
        which = printable(f"layer {name!r} ({kind}){more} of {type(model).__name__}")
        raise ValueError(f"{which} has no weights yet; {_REMEDY}")


class FirstCall:
    """The content of all modules, noted ahead of the first pass, to be put back where that pass is refused."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._found = [
            (module, [dict(part) for part in _parts(module)]) for module in model.modules() if not is_scripted(module)
        ]
        self._weights = set(_weights(model))

    def refuse_new_weights(self) -> None:
        """Raise ValueError where the pass has made parameters, as layers sized by their first input do."""
        made = [name for name in _weights(self._model) if name not in self._weights]
        if made:
            self._refuse(f"{_listed(made)} first appeared in the probe's forward pass")

    def refuse_set_once(self, first: Iterable[str], second: Iterable[str]) -> None:
        """Raise ValueError for what the first pass set and the second did not, although it had been put back."""
        once = sorted(set(first) - set(second))
        if once:
            self._refuse(f"{_listed(once)} is set by the first forward pass only")

    @contextlib.contextmanager
    def blamed_for(self, first: set[str], second: Callable[[], set[str]]) -> Iterator[None]:
        """Raise ValueError where the second pass fails on buffers put back: the model remembers that it made them."""
        try:
            yield
        except (RuntimeError, AttributeError, TypeError, IndexError) as error:
            made = sorted(first - second())
            if not made or isinstance(error, torch.OutOfMemoryError):
                raise
            self._refuse(f"{_listed(made)} is set by the first forward pass only")

    def _refuse(self, what: str) -> None:
        for module, held in self._found:
            for now, before in zip(_parts(module), held, strict=True):
                now.clear()
                now.update(before)
        raise ValueError(f"{what} of {printable(type(self._model).__name__)}; {_REMEDY}")


def _parts(module: nn.Module) -> tuple[dict[str, Any], ...]:
    return module.__dict__, module._parameters, module._buffers, module._modules


def _weights(model: nn.Module) -> list[str]:
    return [name for name, _ in model.named_parameters(remove_duplicate=False)]


def _listed(names: list[str]) -> str:
    return repr(names[0]) + (f" and {len(names) - 1} more" if len(names) > 1 else "")
