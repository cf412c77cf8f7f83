"""A block worked on in parts of bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from infoplane.estimators._protocol import Quantity

PART_BYTES = 256 << 20


def in_parts(
    t: Tensor, bytes_each: int, estimate: Callable[[Tensor], dict[str, Quantity]], limit: int = PART_BYTES
) -> dict[str, Quantity]:
    """`estimate` of consecutive snapshots of `t` (S, N, U), as many at a time as fit `limit`, put together.

    Every quantity must have a value of each snapshot; a ceiling without snapshot axis is that of the first part.
    """
    step = max(1, limit // max(bytes_each, 1))
    parts = [estimate(t[i : i + step]) for i in range(0, len(t), step)] or [estimate(t)]
    if len(parts) == 1:
        return parts[0]
    return {name: _joined([part[name] for part in parts]) for name in parts[0]}


def _joined(quantities: list[Quantity]) -> Quantity:
    def cat(tensors: list[Tensor | None]) -> Tensor | None:
        present = [x for x in tensors if x is not None]
        if not present or present[0].ndim == 0:
            return present[0] if present else None
        return torch.cat(present)

    first = quantities[0]
    return replace(
        first,
        value=torch.cat([q.value for q in quantities]),
        low=cat([q.low for q in quantities]),
        high=cat([q.high for q in quantities]),
        ceiling=cat([q.ceiling for q in quantities]),
        flags={name: torch.cat([q.flags[name] for q in quantities]) for name in first.flags},
    )
