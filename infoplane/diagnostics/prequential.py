"""Code length and epiplexity from a log of losses: what a training has learned, and what stays random."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from infoplane.core.records import FloatArray
from infoplane.core.units import BIT, BITS_PER_NAT, Z_95
from infoplane.diagnostics._place import Entry, Measured, around, digest, finite_float64

FINAL_ON = ("held-out", "first-pass")
"""What the last losses may be of: other examples, or those of the first pass again."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Prequential(Measured):
    """A code of N labels, split into what was learned while they came and what stays random; all in bits.

    Its rows: "prequential code length", "epiplexity" and "time-bounded entropy", each of all labels together.

    Attributes
    ----------
    code_length : float
        Sum over examples of -log2 p(y|x) before the step that uses them.
    epiplexity, epiplexity_half : float
        Sum over examples of their loss above the final loss, and half the width of its 95 % interval.
    entropy, entropy_half : float
        Time-bounded entropy, N times the mean final loss, and half the width of its 95 % interval.
    final_on : str
        What the final losses were read on.
    source : str
        Digest of both arrays of losses.
    """

    estimator: ClassVar[str] = "prequential"

    code_length: float
    epiplexity: float
    epiplexity_half: float
    entropy: float
    entropy_half: float
    final_on: str

    def _entries(self) -> list[Entry]:
        """Return the code length, and the two parts of it with their intervals."""
        return [
            Entry("prequential code length", self.code_length, BIT),
            Entry("epiplexity", self.epiplexity, BIT, *around(self.epiplexity, self.epiplexity_half)),
            Entry("time-bounded entropy", self.entropy, BIT, *around(self.entropy, self.entropy_half)),
        ]


def prequential(
    losses: npt.ArrayLike, ids: npt.ArrayLike, final: npt.ArrayLike, *, final_on: Literal["held-out", "first-pass"]
) -> Prequential:
    """Prequential code length, epiplexity and time-bounded entropy of the labels that a training has seen once.

    The loss of an example before the model has learned from it is the length of a code for its label. The part of it
    above the final loss is what was learned on the way (structure, epiplexity); the final loss is what the model takes
    for chance.

    How it misleads: only the first pass over the data is a code. After a second pass a network that memorises has a
    final loss of 0, and random labels would give a large epiplexity: ids that repeat are refused. The numbers belong to
    the training as much as to the data: with too small a learning rate there seems to be little structure, with too
    large a one much. Losses under dropout, or with the batch statistics of the other examples, are those of another
    code.

    Parameters
    ----------
    losses : (N,) array
        -log p of the label in nats, as `cross_entropy(..., reduction="none")` gives it in the forward pass of the step,
        in training order.
    ids : (N,) array
        The example that each loss belongs to.
    final : (M,) array
        The same loss under the final model.
    final_on : "held-out" or "first-pass"
        The examples of `final`: M others, or the same N in the same order.

    Raises
    ------
    ValueError
        For ids that repeat, fewer than two losses, losses that are negative or not finite, or lengths that do not fit.

    Notes
    -----
    The intervals say how much other examples would change the values. The scatter of `losses` is taken from neighbours
    in the log, so that the fall of the loss does not count as scatter.

    References
    ----------
    Dawid, "Statistical theory: the prequential approach", 1984. Blier and Ollivier, "The description length of deep
    learning models", 2018. Finzi, Qiu, Jiang, Izmailov, Kolter and Wilson, "From entropy to epiplexity: rethinking
    information for computationally bounded intelligence", 2026.

    Examples
    --------
    >>> found = prequential([2.0, 1.0, 0.5, 0.5], ids=[3, 1, 2, 0], final=[0.5, 0.5, 0.5], final_on="held-out")
    >>> round(found.epiplexity * math.log(2), 6), round(found.entropy * math.log(2), 6)
    (2.0, 2.0)
    """
    if final_on not in FINAL_ON:
        raise ValueError(f"final_on must be one of {', '.join(FINAL_ON)}: what was final read on? got {final_on!r}")
    seen, last = _losses(losses, "losses"), _losses(final, "final")
    _refuse_repeats(np.asarray(ids), len(seen))
    same = final_on == "first-pass"
    if same and len(last) != len(seen):
        raise ValueError(f"final losses of the first pass must be {len(seen)}, one for each example, got {len(last)}")
    count, variance = len(seen), float(last.var(ddof=1))
    entropy_variance = count**2 * variance / len(last)
    # Where both losses are of the same examples, the scatter of their differences counts.
    above = count * _scatter(seen - last) if same else count * _scatter(seen) + entropy_variance
    entropy = count * float(last.mean())
    return Prequential(
        code_length=float(seen.sum()) * BITS_PER_NAT,
        epiplexity=(float(seen.sum()) - entropy) * BITS_PER_NAT,
        epiplexity_half=Z_95 * math.sqrt(above) * BITS_PER_NAT,
        entropy=entropy * BITS_PER_NAT,
        entropy_half=Z_95 * math.sqrt(entropy_variance) * BITS_PER_NAT,
        final_on=final_on,
        n_samples=count,
        config={"final_on": final_on},
        source=digest(seen, last),
    )


def _losses(values: npt.ArrayLike, name: str) -> FloatArray:
    """Return the losses as float64; ValueError for fewer than two, or for values that are no losses."""
    array = finite_float64(values, f"{name} has", "values")
    if array.ndim != 1 or len(array) < 2:
        raise ValueError(f"{name} must have shape (examples,) with at least 2 of them, got {array.shape}")
    if (array < 0).any():
        raise ValueError(f"{name} must be -log p of labels, which is never negative, got {array.min():.6g}")
    return array


def _refuse_repeats(ids: npt.NDArray[np.generic], count: int) -> None:
    """Raise ValueError where an example comes twice, so that the log is of more than one pass."""
    if ids.shape != (count,):
        raise ValueError(f"ids must be {count}, one for each loss, got shape {ids.shape}")
    found, times = np.unique(ids, return_counts=True)
    if len(found) < count:
        raise ValueError(
            f"example {found[times.argmax()]} was seen {times.max()} times, and only the first pass is a code: keep "
            "the losses of the first epoch"
        )


def _scatter(values: FloatArray) -> float:
    """Return the variance of values about a slow trend, from the differences of neighbours."""
    return float(np.square(np.diff(values)).mean()) / 2  # a difference has the variance of two values
