"""The information bottleneck frontier of a known p(x, y): how much of Y any T of a given rate can keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from infoplane.core.brief import Brief
from infoplane.core.records import FloatArray
from infoplane.core.units import BIT
from infoplane.diagnostics._codes import entropy_bits, information_bits
from infoplane.diagnostics._place import Entry, Place, raised, rows
from infoplane.results import Row

ESTIMATOR = "ib-frontier"


@dataclass(frozen=True, eq=False, kw_only=True)
class Frontier(Brief):
    """Corner points of the frontier from (0, 0) to (H(X), I(X;Y)); the frontier is the line that joins them.

    Attributes
    ----------
    i_xt, i_ty : (P,) float64
        In bits, ascending; I(T;Y) is a concave function of I(X;T).
    beta : (P,) float64
        Multiplier at which a point was found, d I(X;T) / d I(T;Y); NaN for the two ends.
    h_x, i_xy : float
        H(X) and I(X;Y) in bits.
    exact : bool
        True where Y is a function of X: the frontier is then min(I(X;T), H(Y)), with nothing iterated. Else
        every point is attained by a T, so the frontier lies on or above the line, by less as `betas` are denser.
    converged : bool
        Whether every iteration came to rest within `max_iter`.
    """

    i_xt: FloatArray
    i_ty: FloatArray
    beta: FloatArray
    h_x: float
    i_xy: float
    exact: bool
    converged: bool

    def at(self, i_xt: npt.ArrayLike) -> FloatArray:
        """Largest I(T;Y) for these I(X;T), in bits; I(X;Y) beyond H(X)."""
        rate = np.asarray(i_xt, dtype=np.float64)
        if (rate < 0).any():
            raise ValueError(f"I(X;T) must not be negative, got {float(rate.min())}")
        return np.asarray(np.interp(rate, self.i_xt, self.i_ty))

    def rows(self, run: str = "", layer: str = "") -> list[Row]:
        """Rows of a results table: point k stands at step k, so that `table.plane("ib-frontier")` is the frontier."""
        flags = raised(unreliable=not self.converged)
        bound = "point" if self.exact else "lower"
        out = []
        for k, (i_xt, i_ty) in enumerate(zip(self.i_xt.tolist(), self.i_ty.tolist(), strict=True)):
            point = [
                Entry("I(X;T)", i_xt, BIT, ceiling=self.h_x, flags=flags),
                Entry("I(T;Y)", i_ty, BIT, bound=bound, ceiling=self.i_xy, flags=flags),
            ]
            out += rows(Place(run=run, step=k, layer=layer), ESTIMATOR, {"exact": self.exact}, point)
        return out


def ib_frontier(
    p_xy: npt.ArrayLike,
    betas: Sequence[float] | FloatArray | None = None,
    *,
    tol: float = 1e-12,
    max_iter: int = 20_000,
) -> Frontier:
    """The largest I(T;Y) for every I(X;T): the information bottleneck of a known joint distribution.

    Iterates p(t|x) = p(t) exp(-beta KL(p(y|x) || p(y|t))) / Z(x), p(t) = sum_x p(x) p(t|x),
    p(y|t) = sum_x p(y|x) p(x|t), first from T = X at the largest beta, then at each smaller beta from the result
    before. Inputs with the same p(y|x) are merged, which leaves the frontier unchanged. The points are joined by their
    concave hull: T that chooses at random between two others, and says which, reaches every point on the line between
    them.

    How it misleads: where Y is a function of X, as for a data set of distinct inputs, the frontier is
    min(I(X;T), H(Y)). All its points but two belong to beta = 1, no iteration finds them, and a plane drawn against it
    says little. The curved frontier needs noisy labels.

    Parameters
    ----------
    p_xy : (X, Y) array
        Joint distribution; nonnegative, any positive sum.
    betas : sequence of float, optional
        Multipliers, at least 1; below 1 the best T is independent of X. By default 240 from 1 to 1000.
    tol : float
        An iteration stops when I(X;T) - beta I(T;Y) changes by less than this, in nats.
    max_iter : int
        Most iterations for each beta; near a phase transition many are needed.

    Returns
    -------
    Frontier

    Raises
    ------
    ValueError
        If p_xy is no distribution (negative entries or a sum of 0), or a beta is below 1.

    References
    ----------
    Tishby, Pereira and Bialek, "The information bottleneck method", 1999. Kolchinsky, Tracey and Van Kuyk, "Caveats for
    information bottleneck in deterministic scenarios", 2019. Witsenhausen and Wyner, "A conditional entropy bound for
    a pair of discrete random variables", 1975.
    """
    p = _distribution(p_xy)
    p_x, p_y_x = _merged(p)
    h_x, h_y, i_xy = entropy_bits(p.sum(axis=1)), entropy_bits(p.sum(axis=0)), information_bits(p)
    exact = bool(((p_y_x == 0) | (p_y_x == 1)).all())
    converged = True
    if exact:
        # (I(X;T), I(T;Y), beta) where T knows nothing, Y, or all of X; of points at one place the last stays.
        corners = np.array([(0.0, 0.0, 1.0), (h_y, h_y, 1.0), (h_x, h_y, np.nan)])
        corners = corners[np.append(np.diff(corners[:, 0]) > 1e-12, True)]
    else:
        # T = nothing, T = the merged X, T = X.
        found = [(0.0, 0.0, np.nan), (entropy_bits(p_x), i_xy, np.nan), (h_x, i_xy, np.nan)]
        p_t_x = np.eye(len(p_x))
        for beta in _falling(betas):
            p_t_x, reached = _iterate(p_t_x, p_x, p_y_x, beta, tol, max_iter)
            converged &= reached
            joint = p_t_x * p_x[:, None]  # p(x, t)
            found.append((information_bits(joint), information_bits(joint.T @ p_y_x), beta))
        corners = _concave_hull(np.array(found))
    i_xt, i_ty, beta_of = corners.T
    return Frontier(i_xt=i_xt, i_ty=i_ty, beta=beta_of, h_x=h_x, i_xy=i_xy, exact=exact, converged=converged)


def _distribution(p_xy: npt.ArrayLike) -> FloatArray:
    """Return the joint distribution (X, Y) scaled to sum to 1; ValueError where it is none."""
    p = np.asarray(p_xy, dtype=np.float64)
    if p.ndim != 2 or p.size == 0:
        raise ValueError(f"p_xy must have shape (X, Y), got {p.shape}")
    if not np.isfinite(p).all() or (p < 0).any() or p.sum() <= 0:
        raise ValueError(f"p_xy must be nonnegative with a positive sum, got a smallest entry of {p.min()}")
    return np.asarray(p / p.sum())


def _falling(betas: Sequence[float] | FloatArray | None) -> list[float]:
    """Return the multipliers from the largest to the smallest, or the default ones; ValueError for any below 1."""
    if betas is None:  # dense both in the multiplier and in the slope 1 / beta of the frontier
        betas = np.concatenate([np.geomspace(1.0, 1000.0, 120), 120.0 / np.arange(1, 121)])
    steps = np.unique(np.asarray(betas, dtype=np.float64))[::-1]
    if steps.size == 0 or not np.isfinite(steps).all() or steps[-1] < 1.0:
        raise ValueError(f"betas must be finite numbers of at least 1, got {steps}")
    return [float(beta) for beta in steps]


def _merged(p: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return p(x), (X',), and p(y|x), (X', Y), once inputs with equal p(y|x) are merged into one."""
    p = p[p.sum(axis=1) > 0]
    p_y_x = p / p.sum(axis=1, keepdims=True)
    # Equal up to rounding.
    kinds, index = np.unique(np.round(p_y_x, 12), axis=0, return_inverse=True)
    joint = np.zeros((len(kinds), p.shape[1]))
    np.add.at(joint, index.reshape(-1), p)
    p_x = joint.sum(axis=1)
    return p_x, joint / p_x[:, None]


def _iterate(
    p_t_x: FloatArray, p_x: FloatArray, p_y_x: FloatArray, beta: float, tol: float, max_iter: int
) -> tuple[FloatArray, bool]:
    """Iterate the equations of `ib_frontier` for one beta: return p(t|x), (X, T), and whether it came to rest."""
    negative_entropy = (p_y_x * np.log(np.where(p_y_x > 0, p_y_x, 1.0))).sum(axis=1)
    before = np.inf
    for _ in range(max_iter):
        p_t = p_x @ p_t_x
        alive = p_t > 1e-300  # values of T that are no longer used are dropped
        p_t, p_t_x = p_t[alive], p_t_x[:, alive]
        p_y_t = (p_t_x * p_x[:, None]).T @ p_y_x / p_t[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            # KL(p(y|x) || p(y|t)) = sum_y p(y|x) log p(y|x) - cross; -1e300 stands for log 0.
            cross = p_y_x @ np.where(p_y_t > 0, np.log(p_y_t), -1e300).T  # (X, T)
        exponent = np.log(p_t) - beta * (negative_entropy[:, None] - cross)
        top = exponent.max(axis=1, keepdims=True)
        weight = np.exp(exponent - top)
        total = weight.sum(axis=1, keepdims=True)
        p_t_x = weight / total
        # -sum_x p(x) log Z(x): the functional I(X;T) - beta I(T;Y) up to the constant beta I(X;Y), never rising.
        value = -float(p_x @ (top + np.log(total))[:, 0])
        if abs(before - value) < tol:
            return p_t_x, True
        before = value
    return p_t_x, False


def _concave_hull(points: FloatArray) -> FloatArray:
    """Return the upper hull of points (x, y, beta) from left to right; of points with one x the highest counts."""
    order = np.lexsort((points[:, 1], points[:, 0]))
    hull: list[FloatArray] = []
    for point in points[order]:
        # Of points with one x the highest comes last and takes the place of the others; the first corner (0, 0) stays.
        if hull and point[0] - hull[-1][0] <= 1e-12 and len(hull) > 1:
            hull.pop()
        while len(hull) > 1 and _below(hull[-2], hull[-1], point):
            hull.pop()
        if not hull or point[0] - hull[-1][0] > 1e-12:
            hull.append(point)
    return np.array(hull)


def _below(a: FloatArray, b: FloatArray, c: FloatArray) -> bool:
    """Return whether b lies on or below the line from a to c."""
    return bool((b[1] - a[1]) * (c[0] - a[0]) <= (c[1] - a[1]) * (b[0] - a[0]))
