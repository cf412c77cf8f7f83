"""Surprisal of tokens: how unexpected each is after those before it, and how evenly that is spread."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from infoplane.core.records import NO_LABEL, BoolArray, FloatArray, IntArray
from infoplane.core.tokens import token_key
from infoplane.core.units import BIT, BITS_PER_NAT, Z_95
from infoplane.diagnostics._place import Entry, Measured, Place, around, digest, mean_and_half, raised, rows
from infoplane.results import Row


@dataclass(frozen=True, eq=False, kw_only=True)
class Surprisal(Measured):
    """-log2 p(token | those before) of N sequences of L tokens.

    Attributes
    ----------
    bits : (N, L - 1) float64
        Column t is the surprisal of token t + 1, which position t predicts; NaN where it is left out.
    mean, mean_half : float
        Mean over all tokens, in bits, and half the width of its 95 % interval over sequences.
    variance, variance_half : float
        Variance along a sequence in bit^2, mean over sequences of at least two tokens, and half the width of its 95 %
        interval: 0 is uniform information density.
    counted, without_label, padding : int
        Tokens that count; that are left out since they are -100; and that are left out as padding or after it.
    n_samples : int
        Sequences.
    source : str
        Digest of `bits`.
    """

    estimator: ClassVar[str] = "surprisal"

    bits: FloatArray
    mean: float
    mean_half: float
    variance: float
    variance_half: float
    counted: int
    without_label: int
    padding: int

    def _entries(self) -> list[Entry]:
        """Return mean and variance of the surprisal with intervals, and how many tokens count and do not."""
        few = raised(few_samples=not math.isfinite(self.variance))
        variance = self.variance, "bit^2", *around(self.variance, self.variance_half)
        return [
            Entry("surprisal", self.mean, BIT, *around(self.mean, self.mean_half)),
            Entry("surprisal variance", *variance, flags=few),
            Entry("tokens", float(self.counted), "tokens"),
            Entry("tokens left out", float(self.without_label + self.padding), "tokens"),
        ]

    def rows(self, where: Place, *, positions: bool = False) -> list[Row]:
        """Rows "surprisal", "surprisal variance", "tokens" and "tokens left out".

        With `positions` also "surprisal" of `layer[token=t]` for each position t: that of the token after it.
        """
        found = super().rows(where)
        for t in np.flatnonzero(~np.isnan(self.bits).all(axis=0)).tolist() if positions else ():
            known = self.bits[~np.isnan(self.bits[:, t]), t]
            at = replace(where, layer=token_key(where.layer, t))
            value, half = mean_and_half(known)
            entry = Entry("surprisal", value, BIT, *around(value, half))
            found += rows(at, self.estimator, {}, [entry], n_samples=len(known), source=self.source)
        return found


def surprisal(
    logits: npt.ArrayLike | Iterable[npt.ArrayLike], tokens: npt.ArrayLike, *, mask: npt.ArrayLike | None = None
) -> Surprisal:
    """Surprisal in bits of each token given those before it, with its mean and its variance along the sequence.

    Position t predicts token t + 1. The shift is made here, so give logits and tokens of one forward pass as they are.

    How it misleads: it is a property of the model, not of the language, and values per token can be compared between
    models with the same tokenizer only. Early positions have fewer tokens before them and higher surprisal, which adds
    to the variance along a sequence.

    Parameters
    ----------
    logits : (N, L, V) array, or an iterable of batches of it
        The model's output; -infinity is a token that is ruled out.
    tokens : (N, L) integers
        The inputs; -100 where a token is not to count.
    mask : (N, L) array, optional
        True (1) where a token is no padding: the tokenizer's attention mask. A token right after padding has nothing
        before it and is left out, too.

    Raises
    ------
    ValueError
        For shapes that do not fit, NaN or +infinity, tokens outside the vocabulary, a token of probability 0, or none
        that counts.

    References
    ----------
    Hale, "A probabilistic Earley parser as a psycholinguistic model", 2001. Levy and Jaeger, "Speakers optimize
    information density through syntactic reduction", 2007.

    Examples
    --------
    >>> found = surprisal(np.zeros((1, 5, 8)), [[0, 3, 1, 7, 2]])
    >>> round(found.mean, 6), round(found.variance, 6)
    (3.0, 0.0)
    """
    ids = np.asarray(tokens)
    if ids.ndim != 2 or ids.shape[1] < 2 or ids.dtype.kind not in "iu":
        raise ValueError(f"tokens must be integers (samples, 2 positions or more), got {ids.dtype} {ids.shape}")
    real = np.ones(ids.shape, bool) if mask is None else np.asarray(mask).astype(bool)
    if real.shape != ids.shape:
        raise ValueError(f"mask must have the shape of tokens {ids.shape}, got {real.shape}")
    inside = real[:, 1:] & real[:, :-1]
    counts = inside & (ids[:, 1:] != NO_LABEL)
    if not counts.any():
        raise ValueError(f"no token counts: of {counts.size} all are padding, follow it, or are {NO_LABEL}")
    bits = np.full(counts.shape, np.nan)
    bits[counts] = np.concatenate(list(_of_batches(logits, ids, counts))) * BITS_PER_NAT
    mean = float(bits[counts].mean())
    # Tokens of one sequence are not independent. The interval is over sequences, each of which counts with the sum of
    # its deviations from the mean.
    sums = np.where(counts, bits - mean, 0.0).sum(axis=1)
    spread = math.sqrt(len(sums) * float(np.square(sums).sum()) / (len(sums) - 1)) if len(sums) > 1 else math.nan
    variances = [row[counted].var() for row, counted in zip(bits, counts, strict=True) if counted.sum() > 1]
    variance, variance_half = mean_and_half(np.array(variances))
    return Surprisal(
        bits=bits,
        mean=mean,
        mean_half=Z_95 * spread / int(counts.sum()),
        variance=variance,
        variance_half=variance_half,
        counted=int(counts.sum()),
        without_label=int((inside & ~counts).sum()),
        padding=int((~inside).sum()),
        n_samples=len(ids),
        source=digest(bits),
    )


def _of_batches(
    logits: npt.ArrayLike | Iterable[npt.ArrayLike], ids: npt.NDArray[np.generic], counts: BoolArray
) -> Iterator[FloatArray]:
    """Yield the surprisals in nats of the tokens that count, (T,) for each sequence, in order."""
    start = 0
    for batch in [logits] if hasattr(logits, "shape") else logits:  # type: ignore[union-attr]
        a = np.asarray(batch)
        if a.ndim != 3 or a.shape[1] != ids.shape[1] or start + len(a) > len(ids):
            got = f"{a.shape} after {start} samples"
            raise ValueError(f"logits must have shape {ids.shape} and the vocabulary, got {got}")
        for row, row_ids, counted in zip(a, ids[start:], counts[start:], strict=False):
            # The logits at one position predict the token at the next.
            yield _of_sequence(row[:-1][counted], row_ids[1:][counted].astype(np.int64))
        start += len(a)
    if start < len(ids):
        raise ValueError(f"tokens has {len(ids)} samples, logits have {start}")


def _of_sequence(logits: npt.NDArray[np.generic], following: IntArray) -> FloatArray:
    """Return the surprisals in nats (T,) of the tokens `following` from the logits (T, V) that predict them.

    ValueError for tokens outside the vocabulary, or with a surprisal that is not finite.
    """
    size = logits.shape[1]
    if len(following) and not 0 <= following.min() <= following.max() < size:
        raise ValueError(
            f"tokens must be 0 to {size - 1}, the vocabulary of the logits, got {following.min()} to {following.max()}"
        )
    a = logits.astype(np.result_type(logits, np.float32))
    chosen = np.take_along_axis(a, following[:, None], axis=1)
    with np.errstate(invalid="ignore"):
        # log sum exp(a) - a[token], with the largest logit taken off both so that nothing overflows.
        top = a.max(axis=1, keepdims=True)
        nats = np.log(np.exp(a - top).sum(axis=1, dtype=np.float64)) - (chosen - top)[:, 0]
    if not np.isfinite(nats).all():
        raise ValueError("logits have NaN or +infinity, or give a token of the text the probability 0")
    return np.asarray(nats, dtype=np.float64)
