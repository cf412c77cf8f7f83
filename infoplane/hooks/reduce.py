"""Reductions of a layer's output to what is stored, applied on its device before the copy.

A reduction takes (rows, *shape) and returns (rows, *units). Each has a name that goes into the layer's
record: a number computed from reduced activations is about the reduction as much as about the layer.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from infoplane.core.exact import extremes, fits_float64
from infoplane.hooks.schedule import check_positive

MAX_UNITS = 65536
"""A layer of more units is not flattened unless the user raises this limit."""


class ReductionError(ValueError):
    """A layer does not fit its reduction; the message goes on from the layer's name."""


@runtime_checkable
class Reduction(Protocol):
    """A name for a given shape of one sample, and the operation.

    `mask` is (rows, tokens), true where a token is no padding, or None.
    """

    def label(self, shape: tuple[int, ...]) -> str:
        """The name of the reduction of samples of this shape, as the layer's record has it."""

    def __call__(self, t: Tensor, mask: Tensor | None) -> Tensor:
        """(rows, *shape) -> (rows, *units)."""


@dataclass(frozen=True)
class Flatten:
    """All values of a sample in one row; lossless, and refused above `max_units`."""

    max_units: int = MAX_UNITS

    def label(self, shape: tuple[int, ...]) -> str:
        return "flatten"

    def __call__(self, t: Tensor, mask: Tensor | None) -> Tensor:
        """(rows, *shape) -> (rows, units); ReductionError for more than `max_units`."""
        units = math.prod(t.shape[1:])
        if units > self.max_units:
            raise ReductionError(
                f"has {'x'.join(map(str, t.shape[1:]))} = {units} units, more than {self.max_units}; reduce it "
                "(reduce='mean', 'cls', units(n), projection(n)), or raise the limit with reduce=Flatten(max_units)"
            )
        return t.reshape(len(t), -1)


@dataclass(frozen=True)
class Mean:
    """Average over tokens (rows, tokens, units) or over space (rows, channels, height, width, ...).

    A three-dimensional output is read as tokens; `over="space"` averages its last axis instead, as for
    Conv1d, and `over="positions"` all axes but the last, as of (rows, height, width, channels). Tokens that `mask`
    marks as padding do not count, unless `masked` is False. A (rows, units) output is left as it is.
    The mean forgets where things are: I(X;T) of it says nothing about the full map.
    """

    over: str = "auto"
    masked: bool = True

    def __post_init__(self) -> None:
        if self.over not in ("auto", "space", "tokens", "positions"):
            raise ValueError(f"mean is over 'auto', 'space', 'tokens' or 'positions', got {self.over!r}")

    def _tokens(self, ndim: int) -> bool:
        """Whether an output of so many axes is averaged over tokens."""
        return self.over == "tokens" or (self.over == "auto" and ndim == 3)

    def label(self, shape: tuple[int, ...]) -> str:
        """Return the name, which says over what the mean is; "flatten" for samples (units,), which stay as they are."""
        if len(shape) < 2:
            return "flatten"
        if self._tokens(len(shape) + 1):
            return "mean over tokens" if self.masked else "mean over tokens, padding too"
        return "mean over positions" if self.over == "positions" else "mean over space"

    def __call__(self, t: Tensor, mask: Tensor | None) -> Tensor:
        """(rows, *shape) -> (rows, units), the mean over tokens that the mask (rows, tokens) keeps, or over space."""
        if t.ndim < 3:
            return t.reshape(len(t), -1)
        t = _floating(t)
        if not self._tokens(t.ndim):
            first = 1 if self.over == "positions" else 2  # the channels come last, else right after the rows
            return t.mean(dim=tuple(range(first, first + t.ndim - 2)))
        if mask is None or not self.masked:
            return t.mean(dim=1).reshape(len(t), -1)
        _check_mask(t, mask)
        kept = mask.bool().reshape(*mask.shape, *([1] * (t.ndim - 2)))  # (rows, tokens, 1, ...)
        count = kept.sum(dim=1).clamp_min(1)  # a row of padding alone gives zeros
        # Not a product with 0 and 1: padding may be infinite or NaN, and 0 times that is NaN.
        return (torch.where(kept, t, 0).sum(dim=1) / count).reshape(len(t), -1)


@dataclass(frozen=True)
class Tokens:
    """Chosen positions of (rows, tokens, ...), flattened; negative ones count from the end."""

    positions: tuple[int, ...]

    def label(self, shape: tuple[int, ...]) -> str:
        return "tokens " + ",".join(map(str, self.positions))

    def __call__(self, t: Tensor, mask: Tensor | None) -> Tensor:
        """(rows, tokens, ...) -> (rows, units); ReductionError where there is no such position."""
        _need_tokens(t, self.label(()))
        tokens = t.shape[1]
        if bad := [p for p in self.positions if not -tokens <= p < tokens]:
            raise ReductionError(f"has {tokens} tokens, so there is none at position {bad[0]}")
        return t[:, list(self.positions)].reshape(len(t), -1)


@dataclass(frozen=True)
class Last:
    """The last token, or with a mask the last that is no padding."""

    def label(self, shape: tuple[int, ...]) -> str:
        return "last token"

    def __call__(self, t: Tensor, mask: Tensor | None) -> Tensor:
        """(rows, tokens, ...) -> (rows, units), of the last token that `mask` (rows, tokens) marks as true."""
        _need_tokens(t, "last token")
        if mask is None:
            return t[:, -1].reshape(len(t), -1)
        _check_mask(t, mask)
        # -1, the last token, for a row of padding alone.
        position = torch.arange(t.shape[1], device=t.device).masked_fill(~mask.bool(), -1).amax(dim=1)
        return t[torch.arange(len(t), device=t.device), position].reshape(len(t), -1)


@dataclass(frozen=True)
class Units:
    """The same n units of the flattened output at every snapshot, drawn without replacement by `seed`."""

    n: int
    seed: int = 0

    def label(self, shape: tuple[int, ...]) -> str:
        total = math.prod(shape)
        return "flatten" if total <= self.n else f"{self.n} of {total} units, seed {self.seed}"

    def __call__(self, t: Tensor, mask: Tensor | None) -> Tensor:
        """(rows, *shape) -> (rows, n), or all units where there are no more than n."""
        flat = t.reshape(len(t), -1)
        if flat.shape[1] <= self.n:
            return flat
        return flat.index_select(1, _unit_indices(flat.shape[1], self.n, self.seed, t.device))


@dataclass(frozen=True)
class Projection:
    """n fixed Gaussian projections of the flattened output, of variance 1/n: distances are kept within
    about sqrt(log(rows) / n) (Johnson and Lindenstrauss, 1984), single units are not."""

    n: int
    seed: int = 0

    def label(self, shape: tuple[int, ...]) -> str:
        return f"{self.n} Gaussian projections of {math.prod(shape)} units, seed {self.seed}"

    def __call__(self, t: Tensor, mask: Tensor | None) -> Tensor:
        """(rows, *shape) -> (rows, n)."""
        flat = _floating(t.reshape(len(t), -1))
        return flat @ _projection_matrix(flat.shape[1], self.n, self.seed, t.device).to(flat.dtype)


@dataclass(frozen=True)
class Function:
    """A user's function of (rows, *shape), named by itself."""

    function: Callable[[Tensor], Tensor]

    def label(self, shape: tuple[int, ...]) -> str:
        return f"callable {getattr(self.function, '__qualname__', type(self.function).__name__)}"

    def __call__(self, t: Tensor, mask: Tensor | None) -> Tensor:
        """(rows, *shape) -> (rows, *units); ReductionError where the function gives another number of rows."""
        out = self.function(t)
        if not isinstance(out, Tensor) or out.ndim == 0 or len(out) != len(t):
            got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__qualname__
            raise ReductionError(f"must stay a tensor of {len(t)} rows under {self.label(())}, got {got}")
        return out.reshape(len(t), -1) if out.ndim == 1 else out


def tokens(positions: Sequence[int]) -> Reduction:
    """Keep the tokens at these positions."""
    return Tokens(tuple(int(p) for p in positions))


def units(n: int, seed: int = 0) -> Reduction:
    """Keep n units, drawn by `seed`; ValueError if `n` is below 1."""
    check_positive("n", n)
    return Units(n, seed)


def projection(n: int, seed: int = 0) -> Reduction:
    """Keep n Gaussian projections, drawn by `seed`; ValueError if `n` is below 1."""
    check_positive("n", n)
    return Projection(n, seed)


_NAMED: dict[str, Reduction] = {
    "flatten": Flatten(),
    "mean": Mean(),
    "mean-space": Mean("space"),
    "mean-tokens": Mean("tokens"),
    "mean-positions": Mean("positions"),
    "cls": Tokens((0,)),
    "last": Last(),
}


def as_reduction(value: Reduction | str | Callable[[Tensor], Tensor]) -> Reduction:
    """A Reduction from its name, itself, or any function of the output.

    Raises
    ------
    ValueError
        For an unknown name.
    """
    if isinstance(value, str):
        if value not in _NAMED:
            raise ValueError(f"unknown reduction {value!r}; available: {', '.join(_NAMED)}, or a function")
        return _NAMED[value]
    if isinstance(value, Reduction):
        return value
    if callable(value):
        return Function(value)
    raise TypeError(f"a reduction is a name, a Reduction or a function, got {type(value).__qualname__}")


def is_lossless(reduction: Reduction, shape: tuple[int, ...]) -> bool:
    """Whether the stored values determine a layer's whole output of this shape per sample."""
    return reduction.label(shape) == "flatten"


def keeps_values(reduction: Reduction, shape: tuple[int, ...]) -> bool:
    """Whether every stored value is one value of the output of this shape per sample, as it came."""
    return isinstance(reduction, Units | Tokens | Last) or is_lossless(reduction, shape)


def _floating(t: Tensor) -> Tensor:
    """Return the tensor as floats, whole numbers as float64; ReductionError where float64 would round these."""
    if t.is_floating_point() or t.is_complex():
        return t
    if t.dtype in (torch.int64, torch.uint64) and not fits_float64(*extremes(t.detach().cpu().numpy())):
        raise ReductionError("has whole numbers beyond 2**53, which float64 mixes up; record it with reduce='flatten'")
    return t.double()


def _need_tokens(t: Tensor, label: str) -> None:
    """Raise ReductionError for an output without an axis of tokens; `label` names the reduction in the message."""
    if t.ndim < 3:
        raise ReductionError(f"has shape {tuple(t.shape)}, no axis of tokens for '{label}'")


def _check_mask(t: Tensor, mask: Tensor) -> None:
    """Raise ReductionError for a mask of another shape than the tokens."""
    if mask.shape != t.shape[:2]:
        raise ReductionError(f"has {t.shape[1]} tokens, the mask {mask.shape[1]}")


@functools.lru_cache(maxsize=64)
def _unit_indices(total: int, n: int, seed: int, device: torch.device) -> Tensor:
    """Indices (n,) of the units that are kept, in rising order."""
    chosen = torch.randperm(total, generator=torch.Generator().manual_seed(seed), device="cpu")[:n]
    return chosen.sort().values.to(device)


@functools.lru_cache(maxsize=16)
def _projection_matrix(total: int, n: int, seed: int, device: torch.device) -> Tensor:
    """The Gaussian projections, (total, n), of variance 1/n."""
    matrix = torch.randn(total, n, generator=torch.Generator().manual_seed(seed), device="cpu")
    return (matrix / math.sqrt(n)).to(device)
