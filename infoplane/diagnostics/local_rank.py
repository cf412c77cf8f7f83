"""Local rank: in how many directions a layer responds to a small change of its input."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from infoplane.core.records import FloatArray, IntArray
from infoplane.diagnostics._place import Entry, Measured, around, digest, finite_float64, mean_and_half, raised


@dataclass(frozen=True, eq=False, kw_only=True)
class LocalRank(Measured):
    """Numerical ranks of Jacobians.

    Its row: "local rank", in dimensions.

    Attributes
    ----------
    ranks : (N,) int64
        The rank at each sample.
    mean, low, high : float
        Mean over samples and its 95 % interval.
    limit : int
        min(outputs, inputs), the largest possible rank.
    epsilon : float
        Singular values above epsilon times the largest of the same Jacobian count.
    flags : tuple of str
        `degenerate` where all ranks are 0.
    source : str
        Digest of the singular values.
    """

    estimator: ClassVar[str] = "local-rank"

    ranks: IntArray
    mean: float
    low: float
    high: float
    limit: int
    epsilon: float

    def _entries(self) -> list[Entry]:
        """Return the mean rank with its interval; no rank exceeds the smaller side of the Jacobian."""
        most = float(self.limit)
        return [Entry("local rank", self.mean, "dimensions", self.low, self.high, ceiling=most, flags=self.flags)]


def local_rank(jacobians: npt.ArrayLike | Iterable[npt.ArrayLike], epsilon: float = 1e-3) -> LocalRank:
    """Mean numerical rank of the Jacobians dz/dx of a layer, over inputs.

    The rank of a linear layer is that of its matrix; units that do not respond (dead or saturated) lower it.

    How it misleads: it depends on `epsilon`, which must be quoted with every value, and for epsilon below 1e-6 on
    float32 rounding. A falling local rank is compression of the map near the data; it is no information, and need not
    follow I(X;T).

    Parameters
    ----------
    jacobians : (N, outputs, inputs) array, or an iterable of such batches
        Jacobians of the pre-activation, one a sample: `torch.func.vmap(torch.func.jacrev(f))(x)` for the part f of the
        network up to that layer.
    epsilon : float
        Relative threshold, between 0 and 1.

    Raises
    ------
    ValueError
        For an epsilon or shapes outside this, non-finite entries, or no samples.

    References
    ----------
    Patel and Shwartz-Ziv, "Learning to compress: local rank and information compression in deep neural networks", 2024.

    Examples
    --------
    >>> local_rank([[[1.0, 0.0], [0.0, 1e-6]], [[1.0, 0.0], [0.0, 1.0]]]).ranks.tolist()
    [1, 2]
    """
    if not 0 < epsilon < 1:
        raise ValueError(f"epsilon must be between 0 and 1, got {epsilon}")
    values = _singular_values(jacobians)
    ranks = ((values > epsilon * values[:, :1]) & (values > 0)).sum(1)
    mean, half = mean_and_half(ranks)
    low, high = around(mean, half)
    return LocalRank(
        ranks=ranks.astype(np.int64),
        mean=mean,
        low=low,
        high=high,
        limit=int(values.shape[1]),
        epsilon=epsilon,
        flags=raised(degenerate=not ranks.any()),
        n_samples=len(ranks),
        config={"epsilon": epsilon},
        source=digest(values),
    )


def _singular_values(jacobians: npt.ArrayLike | Iterable[npt.ArrayLike]) -> FloatArray:
    """Return the singular values (N, min(outputs, inputs)) of all batches, falling; ValueError if shapes do not fit."""
    found: list[FloatArray] = []
    for batch in _batches(jacobians):
        a = finite_float64(batch, "jacobians have")
        if a.ndim != 3:
            raise ValueError(f"jacobians must have shape (samples, outputs, inputs), got {a.shape}")
        if found and min(a.shape[1:]) != found[0].shape[1]:
            raise ValueError(f"batches of one layer must agree in shape, got {a.shape[1:]} after another")
        found.append(np.asarray(np.linalg.svd(a, compute_uv=False), dtype=np.float64))
    if not sum(map(len, found)):
        raise ValueError("local rank needs at least one Jacobian, got none")
    return np.concatenate(found)


def _batches(jacobians: npt.ArrayLike | Iterable[npt.ArrayLike]) -> Iterable[npt.ArrayLike]:
    """Return the batches (N, outputs, inputs): one array is a batch of its own, a list of arrays a list of batches."""
    if isinstance(jacobians, list | tuple):
        # A list of matrices is one batch, given sample by sample.
        arrays = [np.asarray(j) for j in jacobians]
        return [np.stack(arrays)] if arrays and arrays[0].ndim == 2 else arrays
    return [jacobians] if isinstance(jacobians, np.ndarray) else jacobians  # type: ignore[return-value]
