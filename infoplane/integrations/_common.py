"""Parts that the callbacks share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

By = Literal["epoch", "step"]


def check_by(by: str) -> None:
    if by not in ("epoch", "step"):
        raise ValueError(f"by must be 'epoch' or 'step', got {by!r}")


def only_numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The entries of a framework's metrics that are single numbers."""
    numbers = {}
    for name, value in values.items():
        if isinstance(value, Tensor) and value.numel() == 1:
            numbers[name] = float(value.detach())
        elif isinstance(value, int | float) and not isinstance(value, bool):
            numbers[name] = float(value)
    return numbers


def autocast_of(precision: str) -> torch.dtype | None:
    """The autocast dtype of names like "bf16-mixed", "16-mixed", "bf16", "fp16"; None for full precision."""
    mixed = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16, "bf16": torch.bfloat16, "fp16": torch.float16}
    return mixed.get(precision)
