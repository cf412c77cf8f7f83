"""Does a distance grow with the logarithm of time, as in ultra-slow diffusion, or with its root, as a random walk?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from infoplane.core.records import FloatArray
from infoplane.diagnostics._place import Entry, Measured, digest, finite_float64, raised

FEW = 5
"""Points below which a fit is flagged `few_samples`."""


@dataclass(frozen=True, eq=False, kw_only=True)
class LogTime(Measured):
    """distance = intercept + slope log(step), by least squares over the steps of a window.

    Its rows: "log-time slope", "log-time R2" and "root-time R2".

    Attributes
    ----------
    intercept, slope : float
        The slope is the distance gained while the number of steps grows by the factor e.
    r2 : float
        Share of the variance that the fit explains.
    r2_root : float
        The same for intercept + slope sqrt(step), the law of an ordinary random walk, on the same points.
    steps : (P,) float64
        The points that were fitted.
    window : (int, int)
        First and last step asked for.
    flags : tuple of str
        `unreliable` where the root fits no worse than the logarithm, `few_samples` for fewer than 5 points.
    """

    estimator: ClassVar[str] = "log-time"

    intercept: float
    slope: float
    r2: float
    r2_root: float
    steps: FloatArray
    window: tuple[int, int]

    def _entries(self) -> list[Entry]:
        """Return the slope against log time, and how well the line in log time and that in its root fit."""
        return [
            Entry("log-time slope", self.slope, "distance for each factor e in steps", flags=self.flags),
            Entry("log-time R2", self.r2, "R2", ceiling=1.0, flags=self.flags),
            Entry("root-time R2", self.r2_root, "R2", ceiling=1.0),
        ]


def log_time_fit(steps: npt.ArrayLike, distance: npt.ArrayLike, *, window: tuple[int, int]) -> LogTime:
    """Fit a + b log(step) to the distance of the weights from their start, on a stated window of steps.

    How it misleads: any curve that rises and bends fits a logarithm well, so an R2 of .95 says little by itself; beside
    it stands the R2 of the square root of time, a law with as many parameters. The window decides: state it before
    looking. The points belong to one trajectory and are not independent, so there is no interval; take several seeds.
    The scale of weights before a normalising layer is free: they can move far while the function stays the same.

    Parameters
    ----------
    steps, distance : (P,) array
        As `Recorder(weight_distance=True)` records them, of the model or of a layer.
    window : (first, last)
        Steps to fit, both included; the first at least 1.

    Raises
    ------
    ValueError
        For a window with fewer than three steps, a distance that is constant in it, or bad arrays.

    References
    ----------
    Hoffer, Hubara and Soudry, "Train longer, generalize better: closing the generalization gap in large batch training
    of neural networks", 2017.

    Examples
    --------
    >>> steps = np.array([0, 1, 10, 100, 1000])
    >>> found = log_time_fit(steps, 2.0 + 0.5 * np.log(np.maximum(steps, 1)), window=(1, 1000))
    >>> round(found.slope, 6), round(found.r2, 6)
    (0.5, 1.0)
    """
    t, d = finite_float64(steps, "steps have"), finite_float64(distance, "distance has")
    if t.ndim != 1 or t.shape != d.shape:
        raise ValueError(f"steps and distance must have one shape (points,), got {t.shape} and {d.shape}")
    if len(window) != 2 or not 1 <= window[0] < window[1]:
        raise ValueError(f"window must be (first, last) steps from 1 on, since log 0 is not finite; got {window}")
    first, last = window
    inside = (t >= first) & (t <= last)
    t, d = t[inside], d[inside]
    # Steps that are equal are one point for a line, and a constant has no variance to explain.
    count = len(np.unique(t))
    if count < 3 or not np.ptp(d):
        raise ValueError(f"a fit needs at least 3 points that differ, got {count} from step {first} to {last}")
    intercept, slope, r2 = _line(np.log(t), d)
    r2_root = _line(np.sqrt(t), d)[2]
    return LogTime(
        intercept=intercept,
        slope=slope,
        r2=r2,
        r2_root=r2_root,
        steps=t,
        window=(first, last),
        flags=raised(unreliable=r2 <= r2_root, few_samples=len(t) < FEW),
        n_samples=len(t),
        config={"window": [first, last]},
        source=digest(t, d),
    )


def _line(x: FloatArray, y: FloatArray) -> tuple[float, float, float]:
    """Return the intercept, slope and R2 of the least-squares line."""
    slope, intercept = np.polyfit(x, y, 1).tolist()
    return intercept, slope, 1 - float(np.square(y - intercept - slope * x).sum() / np.square(y - y.mean()).sum())
