"""How far apart two samples of one layer are, such as train and test: Wasserstein distances with their nulls."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from scipy.special import gammaln

from infoplane.core.records import FloatArray
from infoplane.diagnostics._place import Entry, Measured, digest
from infoplane.diagnostics._samples import LEAST_DRAWS, against_null, equal_rows, random_splits, two_layers

UNIT = "distance in T"
"""Unit of the distances: that of the activations."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Wasserstein(Measured):
    """Distances between two samples, and those between two samples of one law.

    Its rows: "W1" and "sliced W1", each with its " null" and its " excess" over the mean of the null.

    Attributes
    ----------
    exact : float
        Distance by optimal assignment, in the units of T; NaN where `exact_rows` is 0.
    sliced : float
        Mean distance along random directions, over the same mean for a shift of length 1.
    exact_null, sliced_null : (null_draws,) float64
        The same distances between random halves of the pooled rows.
    spread : float
        Root mean square distance of two pooled rows: divide a distance by it before layers are compared.
    n_samples : int
        Rows of either sample that were compared.
    """

    estimator: ClassVar[str] = "two-samples"

    exact: float
    sliced: float
    exact_null: FloatArray
    sliced_null: FloatArray
    spread: float

    def _entries(self) -> list[Entry]:
        """Return each distance that was computed, with its null and how far it lies above that."""
        pairs = [("W1", self.exact, self.exact_null), ("sliced W1", self.sliced, self.sliced_null)]
        return [entry for name, value, null in pairs if null.size for entry in against_null(name, value, null, UNIT)]


def wasserstein(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    *,
    directions: int = 256,
    exact_rows: int = 1000,
    null_draws: int = 20,
    seed: int = 0,
) -> Wasserstein:
    """1-Wasserstein distance between two samples of a layer, exact and sliced, each with its null.

    How it misleads: two samples of one law have a distance, too, which grows with fewer rows and with more units (500
    rows of standard normals: 0.2, 2.2 and 7.7 in 2, 10 and 50 units). So look at "W1 excess" and at the spread of the
    null. Both distances are in the units of T and grow with its scale: divide by `spread` before layers are compared,
    as `funnel_layer` does. The sliced distance equals the exact one for a shift and is smaller for other changes.

    Parameters
    ----------
    a, b : (N, units), (M, units) array
        Activations; further axes are flattened. From the longer sample as many random rows are taken as the other one
        has; where both are equally long, the same rows are taken from both.
    directions : int
        Random directions of the sliced distance.
    exact_rows : int
        Rows of either sample for the assignment, whose cost grows with their cube: at most 1000; 0 leaves it out.
    null_draws : int
        Random splits of the pooled rows, at least 5.
    seed : int
        Seeds the choice of rows, the directions and the splits.

    Raises
    ------
    ValueError
        For different units, fewer than two rows, non-finite values, or a number out of its range.

    References
    ----------
    Bonneel, Rabin, Peyre and Pfister, "Sliced and Radon Wasserstein barycenters of measures", 2015. For layers: He, Yu
    and Goldfeld, "Information-theoretic generalization bounds for deep neural networks", 2024.

    Examples
    --------
    >>> a = np.random.default_rng(0).normal(size=(100, 2))
    >>> round(wasserstein(a, a + [3.0, 4.0]).exact, 6)
    5.0
    """
    # The cost of an exact assignment grows with the cube of the rows.
    if not 0 <= exact_rows <= 1000 or directions < 1 or null_draws < LEAST_DRAWS:
        raise ValueError(
            f"exact_rows must be 0 to 1000, directions at least 1, null_draws at least {LEAST_DRAWS}; "
            f"got {exact_rows}, {directions}, {null_draws}"
        )
    left, right = two_layers(a, b)
    rng = np.random.default_rng(seed)
    lines = random_directions(left.shape[1], directions, rng)
    size = min(len(left), len(right))
    assigned = min(size, exact_rows)  # rows of either sample; 0 leaves the exact distance out
    one, two = equal_rows(left, right, size, rng)

    def both(p: FloatArray, q: FloatArray) -> tuple[float, float]:
        """Return the sliced distance, and the exact one of the first rows; NaN where no rows are to be assigned."""
        exact = exact_distance(p[:assigned], q[:assigned]) if assigned else math.nan
        return sliced_distance(p, q, lines), exact

    null = np.array([both(*pair) for pair in random_splits(one, two, null_draws, rng)])
    return Wasserstein(
        exact=exact_distance(*equal_rows(left, right, assigned, rng)) if assigned else math.nan,
        sliced=sliced_distance(one, two, lines),
        exact_null=null[:, 1] if assigned else null[:0, 1],
        sliced_null=null[:, 0],
        spread=root_mean_square_distance(left, right),
        n_samples=size,
        n_units=left.shape[1],
        config={"directions": directions, "exact_rows": exact_rows, "null_draws": null_draws, "seed": seed},
        source=digest(left, right),
    )


def random_directions(units: int, count: int, rng: np.random.Generator) -> FloatArray:
    """Draw directions (units, count), uniform on the sphere."""
    lines = rng.normal(size=(units, count))
    return np.asarray(lines / np.linalg.norm(lines, axis=0))


def exact_distance(a: FloatArray, b: FloatArray) -> float:
    """Return the mean distance of the pairs in the best one-to-one assignment of equally many rows (n, units)."""
    cost = cdist(a, b)
    return float(cost[linear_sum_assignment(cost)].mean())


def sliced_distance(a: FloatArray, b: FloatArray, lines: FloatArray) -> float:
    """Return the mean distance along `lines` (units, count), as a multiple of that of a shift of length 1."""
    units = len(lines)
    # A shift of length 1 has on average the distance E|u_1|, u uniform on the sphere, along a random direction.
    of_shift = math.exp(gammaln(units / 2) - gammaln((units + 1) / 2)) / math.sqrt(math.pi)
    return float(np.abs(np.sort(a @ lines, axis=0) - np.sort(b @ lines, axis=0)).mean() / of_shift)


def root_mean_square_distance(a: FloatArray, b: FloatArray) -> float:
    """Return the root mean square distance of two pooled rows: the root of twice the variance of all units."""
    return math.sqrt(2 * float(np.concatenate([a, b]).var(axis=0, ddof=1).sum()))
