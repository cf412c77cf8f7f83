"""Correlations of many columns with one, their bootstrap and their permutation null, all columns at once.

Shapes: R runs, M columns, D bootstrap draws, B permutations. `x` (R, M) are the columns and `y` (R,) the one that they
are correlated with. Pearson's and Spearman's correlations are inner products of standardised values or ranks: these are
called `of_x`, `of_y` and, for the control, `of_z`. In a bootstrap draw a run occurs as often as its weight says, and
ranks are those within the draw. Kendall's tau is the sum of w_i w_j sign(x_i - x_j) sign(y_i - y_j) over pairs of runs,
scaled.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from infoplane.core.records import FloatArray, IntArray

Method = Literal["pearson", "spearman", "kendall"]
METHODS: tuple[Method, ...] = ("pearson", "spearman", "kendall")
BLOCK_BYTES, BLOCK_DRAWS = 16 << 20, 128
"""Bytes of signs that are in memory at a time; draws at a time, so few that they stay in the processor's cache."""


def ranks(x: FloatArray) -> FloatArray:
    """Return the ranks (R, M) within each column of x (R, M), from 1; equal values have their mean rank."""
    out = np.empty_like(x)
    for column, place in zip(x.T, out.T, strict=True):
        ordered = np.sort(column)
        place[:] = (np.searchsorted(ordered, column) + np.searchsorted(ordered, column, side="right") + 1) / 2
    return out


def unit(x: FloatArray) -> FloatArray:
    """Return values (R, ...) minus their mean over the first axis, scaled to length 1; 0 where they are constant."""
    centred = x - x.mean(axis=0)
    length = np.linalg.norm(centred, axis=0)
    # A spread that is this small compared with the values comes from rounding: the values count as constant.
    varies = length > 1e-10 * np.maximum(np.abs(x).max(axis=0), np.finfo(np.float64).tiny)
    return np.where(varies, centred / np.where(varies, length, 1.0), 0.0)


def signs(x: FloatArray) -> npt.NDArray[np.float32]:
    """Return sign(x_i - x_j) for all pairs of runs, (R, R) of values (R,), or (B, R, R) of values (B, R)."""
    # float32 takes half the memory, and holds the sums of signs exactly.
    return np.sign(x[..., :, None] - x[..., None, :]).astype(np.float32)


def scores(x: FloatArray, method: Method) -> FloatArray:
    """Return columns (R, M) whose inner products are the correlations of the columns of x (R, M).

    They are the standardised values for Pearson's method, else the standardised ranks.
    """
    return unit(x if method == "pearson" else ranks(x))


def correlations(x: FloatArray, y: FloatArray, method: Method) -> FloatArray:
    """Return the correlation of each column of x (R, M) with y (R,), as (M,); Kendall's is tau-b."""
    if method == "kendall":
        return np.asarray(kendall(x, y[None])[0])
    return np.asarray(scores(y[:, None], method)[:, 0] @ scores(x, method), dtype=np.float64)


def kendall(x: FloatArray, ys: FloatArray) -> FloatArray:
    """Return Kendall's tau-b (B, M) of each column of x (R, M) with each row of `ys` (B, R).

    All rows of `ys` must hold the same values, in different orders.
    """
    # tau-b = sum of products of signs / sqrt(pairs that differ in x * pairs that differ in y).
    above = np.triu_indices(len(x), 1)  # each pair of runs once
    block = max(1, BLOCK_BYTES // (4 * len(x) ** 2))
    out = np.empty((len(ys), x.shape[1]))
    for m in range(0, x.shape[1], block):
        of_x = signs(x.T[m : m + block])[:, *above]
        for b in range(0, len(ys), block):
            of_y = signs(ys[b : b + block])[:, *above]
            # All rows of ys have the same ties: the first gives the number of untied pairs.
            pairs = np.outer(np.abs(of_y[:1]).sum(axis=1), np.abs(of_x).sum(axis=1))
            out[b : b + block, m : m + block] = of_y @ of_x.T / np.sqrt(np.maximum(pairs, 1))
    return out


def residuals(x: FloatArray, control: FloatArray) -> FloatArray:
    """Return the standardised residuals (R, M) of the ranks of x, fitted linearly by the ranks of the control (R,)."""
    of_x, of_z = unit(ranks(x)), unit(ranks(control[:, None]))
    left = of_x - of_z @ (of_z.T @ of_x)
    # Where the control determines a column, its residuals are rounding errors: they count as 0.
    return np.where(np.linalg.norm(left, axis=0) > 1e-9, unit(left), 0.0)


def null(x: FloatArray, y: FloatArray, orders: IntArray, method: Method) -> FloatArray:
    """Return the correlations (B, M) of x with y put into each of the permuted `orders` (B, R)."""
    if method == "kendall":
        return kendall(x, y[orders])
    return np.asarray(scores(y[:, None], method)[:, 0][orders] @ scores(x, method))


def partial_null(x: FloatArray, y: FloatArray, control: FloatArray, orders: IntArray) -> FloatArray:
    """Return the partial correlations (B, M) given the control, with the residuals of y put into each order (B, R).

    This is the method of Freedman and Lane (1983).
    """
    of_x, of_y = residuals(x, control), residuals(y[:, None], control)[:, 0]
    of_z = unit(ranks(control[:, None]))[:, 0]
    moved = of_y[orders]
    moved = moved - np.outer(moved @ of_z, of_z)
    return np.asarray(unit(moved.T).T @ of_x)


def p_values(observed: FloatArray, null: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the two-sided p (M,) of each column, and p (M,) adjusted for all (max-T; Westfall and Young, 1993).

    `observed` (M,) are the correlations, `null` (B, M) those in permuted orders. Each column is standardised by the
    mean and the spread of its own null, so that columns are comparable though their nulls have different widths. The
    observed order counts as one more of the null, so that p is never 0.
    """
    every = np.concatenate([observed[None], null])
    spread = every.std(axis=0)  # a column without spread has t = 0 in every order
    t = np.abs(every - every.mean(axis=0)) / np.where(spread > 1e-12, spread, np.inf)
    # A little is taken off, so that an order with the same value counts in spite of rounding.
    seen, highest = t[0] - 1e-9, t.max(axis=1)
    ordered = np.sort(highest)  # sorted for `searchsorted`, which counts the orders whose largest t is below `seen`
    return (t >= seen).mean(axis=0), (len(ordered) - np.searchsorted(ordered, seen)) / len(ordered)


def weighted_ranks(x: FloatArray, weights: FloatArray) -> FloatArray:
    """Return the rank of each run by x (R,) within each draw, minus the mean rank, as (D, R).

    Draw d holds run i `weights[d, i]` times; equal values share their mean rank.
    """
    values, place = np.unique(x, return_inverse=True)
    order = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[order], np.arange(len(values)))
    times = np.add.reduceat(weights[:, order], starts, axis=1)  # how often each value occurs in each draw
    up_to = np.cumsum(times, axis=1)  # how many runs of the draw have this value or a lower one
    # Equal values share their mean rank, up_to - (times - 1) / 2; the mean of all ranks is (runs drawn + 1) / 2.
    return np.asarray((up_to - (times + up_to[:, -1:]) / 2)[:, place])


def bootstrap(x: FloatArray, y: FloatArray, weights: FloatArray, method: Method) -> FloatArray:
    """Return the correlation of each column of `x` (R, M) with `y` (R,) in each bootstrap draw of the runs, (D, M).

    `weights` (D, R) says how often draw d holds run i. A correlation is 0 where x or y is constant in a draw.
    """
    if method == "pearson":
        return _weighted_pearson(unit(x), unit(y[:, None])[:, 0], weights)
    correlate = _spearman if method == "spearman" else _kendall
    blocks = [correlate(x, y, weights[d : d + BLOCK_DRAWS]) for d in range(0, len(weights), BLOCK_DRAWS)]
    return np.concatenate([np.empty((0, x.shape[1])), *blocks])  # the empty array gives the shape (0, M) without draws


def _spearman(x: FloatArray, y: FloatArray, weights: FloatArray) -> FloatArray:
    """Return Spearman's correlations (D, M) in draws with these weights (D, R), by the ranks within each draw."""
    of_y = weighted_ranks(y, weights)
    variance_y = np.einsum("dr,dr,dr->d", weights, of_y, of_y)
    columns = []
    for column in x.T:
        of_x = weighted_ranks(column, weights)
        weighted = weights * of_x
        covariance, variance_x = (np.einsum("dr,dr->d", weighted, other) for other in (of_y, of_x))
        columns.append(_ratio(covariance, variance_x, variance_y))
    return np.stack(columns, axis=1)


def _kendall(x: FloatArray, y: FloatArray, weights: FloatArray) -> FloatArray:
    """Return Kendall's tau-b (D, M) in draws with these weights (D, R), from the pairs of runs in each draw."""
    weights32, of_y = weights.astype(np.float32), signs(y)

    def summed(terms: npt.NDArray[np.float32]) -> FloatArray:
        """Return the sum (D,) of w_i w_j terms_ij over pairs of runs in each draw, of `terms` (R, R)."""
        return np.asarray(np.einsum("dr,dr->d", weights32 @ terms, weights))

    untied_y = summed(np.abs(of_y))
    return np.stack([_ratio(summed(s * of_y), summed(np.abs(s)), untied_y) for s in map(signs, x.T)], axis=1)


def partial_bootstrap(x: FloatArray, y: FloatArray, control: FloatArray, weights: FloatArray) -> FloatArray:
    """Return the partial correlation of the ranks of x and y given the control, in each draw, as (D, M).

    It follows from the three correlations between x, y and the control.
    """
    xy, xz = (bootstrap(x, other, weights, "spearman") for other in (y, control))
    yz = bootstrap(y[:, None], control, weights, "spearman")
    left = (1 - xz**2) * (1 - yz**2)
    # Where the control determines x or y in a draw, the partial correlation is undefined: it counts as 0.
    return np.where(left > 1e-9, (xy - xz * yz) / np.sqrt(np.maximum(left, 1e-9)), 0.0)


def _weighted_pearson(x: FloatArray, y: FloatArray, weights: FloatArray) -> FloatArray:
    """Return Pearson's correlations (D, M) in draws with these weights (D, R), from weighted moments."""
    w = weights / weights.sum(axis=1, keepdims=True)
    mean_x, mean_y = w @ x, w @ y
    covariance = (w * y) @ x - mean_x * mean_y[:, None]
    return _ratio(covariance, w @ x**2 - mean_x**2, (w @ y**2 - mean_y**2)[:, None])


def _ratio(covariance: FloatArray, variance_x: FloatArray, variance_y: FloatArray) -> FloatArray:
    """Return a correlation: a covariance over the root of the product of two variances, or 0 where one of them is 0."""
    square = np.maximum(variance_x, 0) * np.maximum(variance_y, 0)  # rounding may leave them below 0
    return np.where(square > 1e-14, covariance / np.sqrt(np.where(square > 1e-14, square, 1.0)), 0.0)
