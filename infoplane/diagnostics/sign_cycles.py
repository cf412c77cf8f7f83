"""How often the gradient of the loss turns towards and against a second gradient, such as that of an entropy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from scipy.signal import lfilter

from infoplane.core.records import FloatArray, IntArray
from infoplane.diagnostics._place import Entry, Measured, digest, finite_float64, raised
from infoplane.diagnostics._samples import LEAST_DRAWS, null_entry

FEW_BLOCKS = 20
"""Blocks of the null below which a series is flagged `few_samples`."""


@dataclass(frozen=True, eq=False, kw_only=True)
class SignCycles(Measured):
    """Cycles + - + or - + - in the signs of a series of cosines.

    Its rows: "sign cycles" and "sign cycles null"; `where` names the last step.

    Attributes
    ----------
    cycles : int
        Whole cycles, one after the other: the end of one begins the next.
    turns : (R,) int64
        Points at which the smoothed series first leaves the dead band with a new sign; each begins a run of one sign.
        They lag behind the series by the memory of the mean.
    signs : (R,) int64
        1 or -1, the sign of each run.
    smoothed : (P,) float64
        The series after the exponential mean.
    null : (draws,) float64
        Cycles of the same series cut into blocks and shuffled.
    flags : tuple of str
        `below_null` where shuffled blocks give this number too (neither fewer nor more), `few_samples` below 20 blocks.
    """

    estimator: ClassVar[str] = "sign-cycles"

    cycles: int
    turns: IntArray
    signs: IntArray
    smoothed: FloatArray
    null: FloatArray

    def _entries(self) -> list[Entry]:
        """Return the number of cycles, and its null."""
        cycles = Entry("sign cycles", self.cycles, "cycles", flags=self.flags)
        return [cycles, null_entry("sign cycles", self.null, "cycles")]


def sign_cycles(
    cosines: npt.ArrayLike,
    *,
    decay: float = 0.9,
    dead_band: float = 0.05,
    block: int | None = None,
    null_draws: int = 100,
    seed: int = 0,
) -> SignCycles:
    """Count how often a series of cosines between two gradients changes its sign and changes it back.

    Where the cosine is above 0, a step that lowers the loss also lowers the other quantity; below 0 it raises it.
    Cosines are smoothed by an exponential mean, c_t <- decay c_{t-1} + (1 - decay) c_t, and have a sign where the mean
    is outside the dead band. A cycle is + - + or - + -.

    How it misleads: the smoothed mean of pure noise changes its sign as well, and noise with a memory does so slowly.
    So the number stands beside that of the same series cut into blocks, which are put in random order and shifted in a
    circle: patterns shorter than a block stay. A number within the null's interval is what noise with that memory
    gives; a number outside it, below or above, speaks of an order that such noise does not have. `block=1` is noise
    without a memory, which training never has: of random series with correlations of .8 from step to step it calls
    three of four remarkable, blocks of 10 call one of eight so. On the other hand, even a regular wave whose period is
    four blocks has a number that its blocks give in any order. Nor does a cycle say what it is good for.

    Parameters
    ----------
    cosines : (P,) array
        Cosines between the gradients of two quantities by the same parameters on the same batch, in the order of
        steps.
    decay : float
        Decay of the exponential mean, whose memory is 1 / (1 - decay) points.
    dead_band : float
        Smoothed cosines this near to 0 have no sign.
    block : int, optional
        Points that stay together in the null; by default as many as the memory of the mean.
    null_draws : int
        Shuffles for the null, at least 5.
    seed : int
        Seeds the shuffles.

    Raises
    ------
    ValueError
        For values that are no cosines, fewer points than two blocks, or a number out of its range.

    References
    ----------
    After Yu, "Memorization-compression cycles improve generalization", 2025, whose thresholds were not taken over: the
    mean, the dead band, the rule for a cycle and the null are ours.

    Examples
    --------
    >>> wave = np.where(np.arange(820) // 20 % 2 == 0, 1.0, -1.0)   # periods of 40, and half of one
    >>> sign_cycles(wave).cycles
    20
    """
    c = finite_float64(cosines, "cosines have", "values")
    if not (0 <= decay < 1 and 0 <= dead_band < 1 and null_draws >= LEAST_DRAWS):
        raise ValueError(
            f"decay and dead_band must be from 0 to below 1, null_draws at least {LEAST_DRAWS}, "
            f"got {decay}, {dead_band}, {null_draws}"
        )
    size = round(1 / (1 - decay)) if block is None else block
    if c.ndim != 1 or size < 1 or len(c) < 2 * size:
        raise ValueError(f"cosines must have shape (points,) with two blocks of {size} or more, got {c.shape}")
    if np.abs(c).max() > 1 + 1e-6:
        raise ValueError(f"cosines lie from -1 to 1, got {c.min():.4g} to {c.max():.4g}")
    smoothed = _mean(c, decay)
    turns = _turns(smoothed, dead_band)
    rng = np.random.default_rng(seed)
    null = np.array([_cycles(_mean(_shuffled(c, size, rng), decay), dead_band) for _ in range(null_draws)], np.float64)
    cycles, of_null = _cycles(smoothed, dead_band), null_entry("", null, "")
    return SignCycles(
        cycles=cycles,
        turns=turns,
        signs=np.sign(smoothed[turns]).astype(np.int64),
        smoothed=smoothed,
        null=null,
        flags=raised(below_null=of_null.low <= cycles <= of_null.high, few_samples=len(c) < FEW_BLOCKS * size),
        n_samples=len(c),
        config={"block": size, "dead_band": dead_band, "decay": decay, "null_draws": null_draws, "seed": seed},
        source=digest(c),
    )


def _mean(series: FloatArray, decay: float) -> FloatArray:
    """Return the exponential mean (P,) of the series, which starts at the first value."""
    # The initial state of the filter, `zi`, is that after a long time at the first value.
    return np.asarray(lfilter([1 - decay], [1, -decay], series, zi=[decay * series[0]])[0], np.float64)


def _turns(smoothed: FloatArray, dead_band: float) -> IntArray:
    """Return the index of the first point of each run of one sign; points inside the dead band have no sign."""
    outside = np.flatnonzero(np.abs(smoothed) > dead_band)
    return outside[np.flatnonzero(np.diff(np.sign(smoothed[outside]), prepend=0))]  # 0: the first begins a run, too


def _cycles(smoothed: FloatArray, dead_band: float) -> int:
    """Return the number of whole cycles: three runs of one sign each make one, and the last of them begins the next."""
    return max(0, (len(_turns(smoothed, dead_band)) - 1) // 2)


def _shuffled(series: FloatArray, block: int, rng: np.random.Generator) -> FloatArray:
    """Return the series (P,) with blocks of `block` points in random order, shifted in a circle at random."""
    blocks = np.split(series, np.arange(block, len(series), block))  # the last one may be shorter
    return np.roll(np.concatenate([blocks[i] for i in rng.permutation(len(blocks))]), rng.integers(len(series)))
