"""How often a gradient of the loss turns for and against a second one, such as that of an entropy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.signal import lfilter

from infoplane.core.brief import Brief
from infoplane.diagnostics._place import Entry, Place, digest, finite_float64, rows
from infoplane.diagnostics._samples import LEAST_DRAWS, null_entry
from infoplane.results import Row

ESTIMATOR = "sign-cycles"
FloatArray = npt.NDArray[np.float64]
FEW_BLOCKS = 20


@dataclass(frozen=True, eq=False, kw_only=True)
class SignCycles(Brief):
    """Cycles + - + or - + - of a series of cosines.

    Attributes
    ----------
    cycles : int
        Whole ones, end to end.
    turns : (R,) int64
        Points at which the smoothed series is first clear of the dead band on a new side; the first begins the first
        run. They lag behind the series by the memory of the mean.
    signs : (R,) int64
        1 or -1 of the run that begins there.
    smoothed : (P,) float64
    null : (draws,) float64
        Cycles of the same series in shuffled blocks.
    flags : tuple of str
        `below_null`: no other number than shuffled blocks give, fewer and more alike; `few_samples`: under 20 blocks.
    """

    cycles: int
    turns: npt.NDArray[np.int64]
    signs: npt.NDArray[np.int64]
    smoothed: FloatArray
    null: FloatArray
    flags: tuple[str, ...]
    config: dict[str, Any]
    source: str

    def rows(self, where: Place) -> list[Row]:
        """Rows "sign cycles" and "sign cycles null"; `where` names the last step."""
        entries = [
            Entry("sign cycles", self.cycles, "cycles", flags=self.flags),
            null_entry("sign cycles", self.null, "cycles"),
        ]
        return rows(where, ESTIMATOR, self.config, entries, n_samples=len(self.smoothed), source=self.source)


def sign_cycles(
    cosines: npt.ArrayLike,
    *,
    decay: float = 0.9,
    dead_band: float = 0.05,
    block: int | None = None,
    null_draws: int = 100,
    seed: int = 0,
) -> SignCycles:
    """Count how often a series of cosines between two gradients turns its sign and back.

    Above 0 a step that lowers the loss lowers the other quantity, too; below 0 it raises it. Cosines are smoothed by an
    exponential mean, c_t <- decay c_{t-1} + (1 - decay) c_t, and have a sign where that leaves the dead band. A cycle
    is + - + or - + -.

    How it misleads: the mean of noise turns as well, and noise with a memory turns slowly. So the number stands beside
    that of the same series cut into blocks, in random order and turned around a circle: what is shorter than a block
    stays. A number within the null's interval is what noise with that memory gives; another one, fewer or more, is of
    an order that such noise does not have. `block=1` is noise without a memory, which training never has: of random
    series with correlations of .8 from step to step it finds three of four remarkable, blocks of 10 one of eight. Then
    again, even a regular wave whose period is four blocks has no other number than they give in any order. Nor does a
    cycle say what it is good for.

    Parameters
    ----------
    cosines : (P,) array
        Of the gradients of two quantities of the same parameters and batch, in the order of steps.
    decay : float
        Of the mean; its memory is 1 / (1 - decay) points.
    dead_band : float
        Smoothed cosines this near to 0 have no sign.
    block : int, optional
        Points that stay together in the null; the memory of the mean where it is not given.
    null_draws, seed : int

    Raises
    ------
    ValueError
        For values that are no cosines, fewer points than two blocks, or a number out of its range.

    References
    ----------
    After Yu, "Memorization-compression cycles improve generalization", 2025, whose thresholds were not taken over:
    mean, dead band, the rule for a cycle and the null are ours.

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
    cycles, beside = _cycles(smoothed, dead_band), null_entry("", null, "")
    return SignCycles(
        cycles=cycles,
        turns=turns,
        signs=np.sign(smoothed[turns]).astype(np.int64),
        smoothed=smoothed,
        null=null,
        flags=("below_null",) * (beside.low <= cycles <= beside.high) + ("few_samples",) * (len(c) < FEW_BLOCKS * size),
        config={"block": size, "dead_band": dead_band, "decay": decay, "null_draws": null_draws, "seed": seed},
        source=digest(c),
    )


def _mean(c: FloatArray, decay: float) -> FloatArray:
    """The exponential mean, which starts at the first value."""
    return np.asarray(lfilter([1 - decay], [1, -decay], c, zi=[decay * c[0]])[0], np.float64)


def _turns(smoothed: FloatArray, dead_band: float) -> npt.NDArray[np.int64]:
    """The first point of every run of one sign."""
    clear = np.flatnonzero(np.abs(smoothed) > dead_band)
    return clear[np.flatnonzero(np.diff(np.sign(smoothed[clear]), prepend=0))]


def _cycles(smoothed: FloatArray, dead_band: float) -> int:
    """Three runs are a cycle, and the last of them begins the next."""
    return max(0, (len(_turns(smoothed, dead_band)) - 1) // 2)


def _shuffled(c: FloatArray, size: int, rng: np.random.Generator) -> FloatArray:
    """The series in blocks of another order, begun anywhere."""
    blocks = np.split(c, np.arange(size, len(c), size))
    return np.roll(np.concatenate([blocks[i] for i in rng.permutation(len(blocks))]), rng.integers(len(c)))
