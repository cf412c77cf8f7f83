"""Regression targets -> classes, by a stated rule."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from infoplane.estimators._protocol import as_floats


def bin_targets(y: Tensor, n_bins: int = 10, rule: Literal["quantile", "width"] = "quantile") -> Tensor:
    """Classes from real targets, for estimators that take discrete labels.

    I(T;Y) of the binned target is a lower bound on that of the target itself, and depends on `n_bins`:
    state it with the result.

    Parameters
    ----------
    y : (N,) or (N, 1) float or integer tensor
    n_bins : int
        Number of classes, at least 2. Ties may leave some of them empty.
    rule : "quantile" or "width"
        Classes of equal size, equal values always sharing one, or of equal width between minimum and maximum.

    Returns
    -------
    (N,) int64 tensor of classes in [0, n_bins).

    Raises
    ------
    ValueError
        Other shapes, non-finite values, unknown rule, fewer than two bins.

    Examples
    --------
    >>> bin_targets(torch.tensor([0.0, 1.0, 2.0, 10.0]), n_bins=2).tolist()
    [0, 0, 1, 1]
    >>> bin_targets(torch.tensor([0.0, 1.0, 2.0, 10.0]), n_bins=2, rule="width").tolist()
    [0, 0, 0, 1]
    """
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1 or len(y) == 0:
        raise ValueError(
            f"y must have shape (samples,), got {tuple(y.shape)}; bin the columns of a vector target one by one"
        )
    if n_bins < 2:
        raise ValueError(f"n_bins must be at least 2, got {n_bins}")
    values = as_floats(y, "y").to(torch.float64)
    if not bool(torch.isfinite(values).all()):
        bad = int((~torch.isfinite(values)).nonzero()[0, 0])
        raise ValueError(f"y has non-finite values, first at sample {bad}; remove these samples")
    if rule == "width":
        low, high = values.min(), values.max()
        edges = low + (high - low) * torch.arange(1, n_bins, device=y.device, dtype=torch.float64) / n_bins
        return torch.bucketize(values, edges, right=True)
    if rule != "quantile":
        raise ValueError(f"rule must be 'quantile' or 'width', got {rule!r}")
    ordered = values.sort().values
    # The class of a value is that of its first occurrence: a tie never straddles two classes.
    rank = torch.searchsorted(ordered, values)
    return torch.div(rank * n_bins, len(values), rounding_mode="floor")
