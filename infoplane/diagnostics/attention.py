"""How widely do attention heads look? Their entropy as a share of the most possible."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from infoplane.core.records import FloatArray
from infoplane.diagnostics._place import Entry, Measured, digest, finite_float64, raised

OVERLOAD, COLLAPSE = 0.75, 0.05
"""Shares above and below which a head is flagged; the limits are our choice."""
SUM_TOLERANCE = 1e-2
"""How far the weights of a query may sum to another number than 1: half precision rounds that much."""


@dataclass(frozen=True, eq=False, kw_only=True)
class AttentionEntropy(Measured):
    """Entropy of attention weights over the log of the number of keys allowed, for each head.

    Its rows: "attention entropy", the mean over heads, and "attention entropy head h" of each head.

    Attributes
    ----------
    mean : (H,) float64
        Mean over samples and queries with at least two keys; NaN for a head that has none.
    by_query : (H, Q) float64
        Mean over samples; NaN for queries with fewer than two keys.
    queries : int
        How many queries of how many samples the means are over, all counted together.
    """

    estimator: ClassVar[str] = "attention-entropy"

    mean: FloatArray
    by_query: FloatArray
    queries: int

    def _entries(self) -> list[Entry]:
        """Return the mean entropy of all heads, then that of each head with flags for wide and narrow ones."""
        entries = [Entry("attention entropy", float(np.nanmean(self.mean)), "share", ceiling=1.0)]
        for head, value in enumerate(self.mean.tolist()):
            wide, narrow = value > OVERLOAD, value < COLLAPSE
            flags = raised(attention_overload=wide, attention_collapse=narrow, degenerate=math.isnan(value))
            entries.append(Entry(f"attention entropy head {head}", value, "share", ceiling=1.0, flags=flags))
        return entries


def attention_entropy(weights: npt.ArrayLike, *, mask: npt.ArrayLike | None = None) -> AttentionEntropy:
    """How widely each head looks: the mean over queries of -sum_k a_k log a_k / log(keys allowed); 0 is a single key.

    A query that may see a single key says nothing and is left out. With a causal mask query i may see i + 1 keys.

    How it misleads: a head that looks at the first token alone ("sink") has entropy 0 and may be idle; uniform
    attention over repeated tokens reads as wide. Fused kernels return no weights: load the model with
    `attn_implementation="eager"` and ask for `output_attentions=True`, or `need_weights=True,
    average_attn_weights=False` in `nn.MultiheadAttention`; they are not computed again here.

    Parameters
    ----------
    weights : (N, H, Q, K) array
        After softmax, before dropout: each row sums to 1.
    mask : bool array that broadcasts to (N, H, Q, K), optional
        True where a key may be seen. Without it keys with weight above 0 for some sample and head are allowed, which
        recognises a causal mask, not padding.

    Raises
    ------
    ValueError
        Weights that are negative or do not sum to 1 (dropout leaves such), weight where the mask allows none, or no
        query with two keys.

    References
    ----------
    Jha and Reagen, "Entropy-guided attention for private LLMs", 2025. The limits of the flags are not from there.

    Examples
    --------
    >>> attention_entropy(np.full((1, 2, 3, 3), 1 / 3)).mean.round(6).tolist()
    [1.0, 1.0]
    """
    a = finite_float64(weights, "weights has")
    if a.ndim != 4 or a.size == 0:
        raise ValueError(f"weights must have shape (samples, heads, queries, keys), got {a.shape}")
    if (a < 0).any() or np.abs(a.sum(3) - 1).max() > SUM_TOLERANCE:
        raise ValueError(
            f"attention weights must be positive and sum to 1 over keys, got sums from {a.sum(3).min():.4g} to "
            f"{a.sum(3).max():.4g}; take them before dropout (model.eval()) and without rows that are masked whole"
        )
    allowed = (a > 0).any((0, 1), keepdims=True) if mask is None else np.asarray(mask, dtype=bool)
    try:
        allowed = np.broadcast_to(allowed, a.shape)
    except ValueError:
        raise ValueError(
            f"mask must broadcast to (samples, heads, queries, keys) {a.shape}, got {allowed.shape}; of padding by "
            "sample pass mask[:, None, None, :]"
        ) from None
    if a[~allowed].any():
        raise ValueError("there is attention to keys that the mask does not allow; True marks a key that may be seen")
    keys = allowed.sum(3)
    several = keys >= 2
    if not several.any():
        raise ValueError("no query may see two keys, so there is nothing to choose")
    # Entropy of each query (N, H, Q), then as a share of the largest possible one, log(keys).
    nats = -(a * np.log(np.where(a > 0, a, 1.0))).sum(3)
    share = np.divide(nats, np.log(keys), out=np.zeros_like(nats), where=several)
    total, queries = share.sum((0, 2)), several.sum((0, 2))  # of each head, (H,)
    by_query = np.divide(share.sum(0), several.sum(0), out=np.full(a.shape[1:3], np.nan), where=several.any(0))
    return AttentionEntropy(
        mean=np.divide(total, queries, out=np.full(len(queries), np.nan), where=queries > 0),
        by_query=by_query,
        queries=int(several.any(1).sum()),
        n_samples=len(a),
        n_units=len(total),
        config={"mask": "given" if mask is not None else "from weights"},
        source=digest(a) if mask is None else digest(a, allowed),
    )
