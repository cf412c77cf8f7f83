"""Does a distance grow with the logarithm of time? The fit of ultra-slow diffusion, beside that of an ordinary one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from infoplane.core.brief import Brief
from infoplane.diagnostics._place import Entry, Place, digest, finite_float64, rows
from infoplane.results import Row

ESTIMATOR = "log-time"
FloatArray = npt.NDArray[np.float64]
FEW = 5


@dataclass(frozen=True, eq=False, kw_only=True)
class LogTime(Brief):
    """distance = intercept + slope log(step), by least squares over the steps of a window.

    Attributes
    ----------
    intercept, slope : float
        The slope for each factor e in steps.
    r2 : float
        Share of the variance that the fit explains.
    r2_root : float
        The same of intercept + slope sqrt(step), the law of an ordinary random walk, on the same points.
    steps : (P,) float64
        The points that were fitted.
    window : (int, int)
        First and last step asked for.
    """

    intercept: float
    slope: float
    r2: float
    r2_root: float
    steps: FloatArray
    window: tuple[int, int]
    source: str

    def rows(self, where: Place) -> list[Row]:
        """Rows "log-time slope", "log-time R2" and "root-time R2"; `unreliable` where the root fits no worse."""
        flags = (
            *(("unreliable",) if self.r2 <= self.r2_root else ()),
            *(("few_samples",) if len(self.steps) < FEW else ()),
        )
        entries = [
            Entry("log-time slope", self.slope, "distance for each factor e in steps", flags=flags),
            Entry("log-time R2", self.r2, "R2", ceiling=1.0, flags=flags),
            Entry("root-time R2", self.r2_root, "R2", ceiling=1.0),
        ]
        return rows(
            where, ESTIMATOR, {"window": list(self.window)}, entries, n_samples=len(self.steps), source=self.source
        )


def log_time_fit(steps: npt.ArrayLike, distance: npt.ArrayLike, *, window: tuple[int, int]) -> LogTime:
    """Fit a + b log(step) to the distance of the weights from their start, on a stated window of steps.

    How it misleads: any curve that rises and bends fits a logarithm well, so an R2 of .95 says little by itself; beside
    it stands that of the square root of time, which has as many parameters. The window decides: state it before
    looking. The points are one trajectory, not independent, so there is no interval; take several seeds. Layers that
    normalise leave the scale of the weights before them free: they can move far while the function stays.

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
    if len(np.unique(t[inside])) < 3 or not np.ptp(d[inside]):
        raise ValueError(
            f"a fit needs at least 3 points that differ, got {len(np.unique(t[inside]))} from step {first} to {last}"
        )
    t, d = t[inside], d[inside]
    intercept, slope, r2 = _line(np.log(t), d)
    return LogTime(
        intercept=intercept,
        slope=slope,
        r2=r2,
        r2_root=_line(np.sqrt(t), d)[2],
        steps=t,
        window=(first, last),
        source=digest(t, d),
    )


def _line(x: FloatArray, y: FloatArray) -> tuple[float, float, float]:
    """Intercept, slope and R2 of the least-squares line."""
    slope, intercept = np.polyfit(x, y, 1).tolist()
    return intercept, slope, 1 - float(np.square(y - intercept - slope * x).sum() / np.square(y - y.mean()).sum())
