"""Curves of a running training in TensorBoard, through the writer that the user has."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from infoplane.core.deprecation import renamed


class ScalarWriter(Protocol):
    """`torch.utils.tensorboard.SummaryWriter`, tensorboardX, or anything with this method."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> Any: ...


@renamed("quantities", "quantity")
def scalars(
    writer: ScalarWriter, quantity: str | Sequence[str] = ("I(X;T)", "I(T;Y)")
) -> Callable[[Iterable[Any]], None]:
    """Return a function for `infoplane.live(..., on_rows=scalars(writer))` that writes rows of a `quantity` as scalars.

    Tags are `I(X;T)/estimator/layer`, with the subset in front of the layer where it is not the whole probe. The
    writer is used, never opened or closed. Values that are refused (NaN) are left out.
    """

    wanted = (quantity,) if isinstance(quantity, str) else tuple(quantity)

    def log(rows: Iterable[Any]) -> None:
        """Write a scalar for each row of results that has a wanted quantity and a finite value."""
        for row in rows:
            if row.quantity in wanted and math.isfinite(row.value):
                subset = "" if row.subset == "all" else f"{row.subset}/"
                tag = f"{row.quantity}/{row.estimator}/{subset}{row.layer}"
                writer.add_scalar(tag, float(row.value), int(row.step))

    return log
