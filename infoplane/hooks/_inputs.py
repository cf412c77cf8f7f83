"""What a model is called with: tensors that share their first axis, copied from the caller's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import xxhash
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Inputs:
    """What the model is called with: positional and keyword tensors that share their first axis.

    `mask` is for reductions over tokens and does not reach the model.
    """

    args: tuple[Tensor, ...]
    kwargs: Mapping[str, Tensor]
    mask: Tensor | None = None

    @property
    def tensors(self) -> list[Tensor]:
        return [*self.args, *self.kwargs.values()]

    def __len__(self) -> int:
        return len(self.tensors[0])

    def take(self, rows: slice | Tensor) -> Inputs:
        mask = None if self.mask is None else self.mask[rows]
        return Inputs(tuple(t[rows] for t in self.args), {k: t[rows] for k, t in self.kwargs.items()}, mask)

    def to(self, device: torch.device, dtypes: frozenset[torch.dtype]) -> Inputs:
        """A copy on the model's device; floating inputs of a dtype the model has none of take its dtype.

        A copy in any case: a model that works in place on its input would otherwise change the probe itself.
        """

        def move(t: Tensor) -> Tensor:
            if t.is_floating_point() and len(dtypes) == 1 and t.dtype not in dtypes:
                return t.to(device, next(iter(dtypes)), copy=True)
            return t.to(device, copy=True)

        return Inputs(tuple(move(t) for t in self.args), {k: move(t) for k, t in self.kwargs.items()})


def as_inputs(x: Any) -> Inputs:
    """A tensor, a tuple of tensors (positional) or a dict of tensors (keywords); arrays are taken as tensors.

    The tensors are copied: later changes of the caller's do not reach the probe.
    """
    if isinstance(x, Mapping):
        inputs = Inputs((), {str(k): _tensor(v, f"probe input {k!r}") for k, v in x.items()})
    elif isinstance(x, tuple | list):
        inputs = Inputs(tuple(_tensor(v, f"probe input {i}") for i, v in enumerate(x)), {})
    else:
        inputs = Inputs((_tensor(x, "the probe input"),), {})
    if not inputs.tensors:
        raise ValueError("the probe has no inputs; pass probe=(x, y)")
    for t in inputs.tensors:
        if t.ndim == 0:
            raise ValueError("probe inputs need a first axis of samples, got a scalar")
    lengths = {len(t) for t in inputs.tensors}
    if len(lengths) > 1:
        raise ValueError(f"probe inputs must have the same number of samples, got {sorted(lengths)}")
    return inputs


def _tensor(value: Any, what: str) -> Tensor:
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value)
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{what} must be a tensor (or a tuple or dict of tensors), got {type(value).__qualname__}; "
            "collect a loader's batches once and pass torch.cat of them"
        )
    return value.detach().clone()


def concatenated(names: Sequence[str], parts: Sequence[Inputs]) -> Inputs:
    """The parts of a probe one after the other.

    Raises
    ------
    ValueError
        If they differ in names, shape or dtype.
    """
    if len(parts) == 1:
        return parts[0]
    head = parts[0]
    for name, part in zip(names[1:], parts[1:], strict=True):
        shapes = [(t.shape[1:], t.dtype) for t in part.tensors]
        if list(part.kwargs) != list(head.kwargs) or shapes != [(t.shape[1:], t.dtype) for t in head.tensors]:
            raise ValueError(
                f"inputs of probe parts {names[0]!r} and {name!r} differ in names, shape or dtype: "
                f"{[tuple(t.shape) for t in head.tensors]} and {[tuple(t.shape) for t in part.tensors]}"
            )
    return Inputs(
        tuple(torch.cat(column) for column in zip(*(p.args for p in parts), strict=True)),
        {k: torch.cat([p.kwargs[k] for p in parts]) for k in head.kwargs},
    )


def equal_input_ids(inputs: Inputs) -> npt.NDArray[np.int64]:
    """Ids in order of first appearance; rows share one where all their numbers are equal.

    Rows are compared by the 128-bit hash of their bytes (-0.0 counts as 0.0).
    """
    columns = [_row_bytes(t) for t in inputs.tensors]
    first: dict[bytes, int] = {}
    ids = np.empty(len(inputs), dtype=np.int64)
    for i, row in enumerate(zip(*columns, strict=True)):
        digest = xxhash.xxh3_128(row[0])
        for part in row[1:]:
            digest.update(part)
        ids[i] = first.setdefault(digest.digest(), len(first))
    return ids


def _row_bytes(t: Tensor) -> npt.NDArray[np.uint8]:
    t = t.detach().cpu()
    if t.is_floating_point():
        t = t + 0.0
    flat = t.reshape(len(t), -1).contiguous()
    return flat.view(torch.uint8).numpy() if flat.numel() else np.zeros((len(t), 0), np.uint8)
