"""How far apart are two samples of one layer: train and test, before and after? Wasserstein distance with its null."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from scipy.special import gammaln

from infoplane.core.brief import Brief
from infoplane.diagnostics._place import Place, digest, rows
from infoplane.diagnostics._samples import LEAST_DRAWS, against_null, equal_rows, random_splits, two_layers
from infoplane.results import Row

ESTIMATOR, UNIT = "two-samples", "distance in T"
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class Wasserstein(Brief):
    """Distances between two samples, and what two samples of one law have.

    Attributes
    ----------
    exact : float
        By optimal assignment, in the units of T; NaN where `exact_rows` is 0.
    sliced : float
        Mean over random directions, divided by what a unit shift gives.
    exact_null, sliced_null : (null_draws,) float64
        The same between random halves of the pooled rows.
    spread : float
        Root mean square distance of two pooled rows: what a distance may be compared with across layers.
    n_samples : int
        Rows a side.
    """

    exact: float
    sliced: float
    exact_null: FloatArray
    sliced_null: FloatArray
    spread: float
    n_samples: int
    n_units: int
    config: dict[str, object]
    source: str

    def rows(self, where: Place) -> list[Row]:
        """Rows "W1" and "sliced W1", each with its " null", and " excess": the value minus the mean of the null."""
        pairs = [("W1", self.exact, self.exact_null), ("sliced W1", self.sliced, self.sliced_null)]
        entries = [entry for name, value, null in pairs if null.size for entry in against_null(name, value, null, UNIT)]
        size = {"n_samples": self.n_samples, "n_units": self.n_units}
        return rows(where, ESTIMATOR, self.config, entries, source=self.source, **size)


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

    How it misleads: two samples of one law are apart as well, the more so the fewer rows and the more units there are
    (500 rows of standard normals: 0.2, 2.2 and 7.7 in 2, 10 and 50 units). So look at "W1 excess", and at the null's
    spread. Both are in the units of T and grow with its scale: divide by `spread` before layers are compared, as
    `funnel_layer` does. The sliced distance equals the exact one for a shift and is less for other changes.

    Parameters
    ----------
    a, b : (N, units), (M, units) array
        Activations; further axes are flattened. Of the longer one as many random rows as the other has are taken, the
        same in both where they are equally long.
    directions : int
        Random directions of the sliced distance.
    exact_rows : int
        Rows a side for the assignment, whose cost grows with their cube: at most 1000; 0 leaves it out.
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
    if not 0 <= exact_rows <= 1000 or directions < 1 or null_draws < LEAST_DRAWS:
        raise ValueError(
            f"exact_rows must be 0 to 1000, directions at least 1, null_draws at least {LEAST_DRAWS}; "
            f"got {exact_rows}, {directions}, {null_draws}"
        )
    left, right = two_layers(a, b)
    rng = np.random.default_rng(seed)
    lines = random_directions(left.shape[1], directions, rng)
    size = min(len(left), len(right))
    few = min(size, exact_rows)
    one, two = equal_rows(left, right, size, rng)
    null = np.array(
        [
            (sliced_distance(p, q, lines), exact_distance(p[:few], q[:few]) if few else math.nan)
            for p, q in random_splits(one, two, null_draws, rng)
        ]
    )
    less = equal_rows(left, right, few, rng) if few else (one[:0], two[:0])
    return Wasserstein(
        exact=exact_distance(*less) if few else math.nan,
        sliced=sliced_distance(one, two, lines),
        exact_null=null[:, 1] if few else null[:0, 1],
        sliced_null=null[:, 0],
        spread=root_mean_square_distance(left, right),
        n_samples=size,
        n_units=left.shape[1],
        config={"directions": directions, "exact_rows": exact_rows, "null_draws": null_draws, "seed": seed},
        source=digest(left, right),
    )


def random_directions(units: int, count: int, rng: np.random.Generator) -> FloatArray:
    """(units, count) directions, uniform on the sphere."""
    lines = rng.normal(size=(units, count))
    return np.asarray(lines / np.linalg.norm(lines, axis=0))


def exact_distance(a: FloatArray, b: FloatArray) -> float:
    """Mean distance under the best one-to-one assignment of equally many rows."""
    cost = cdist(a, b)
    return float(cost[linear_sum_assignment(cost)].mean())


def sliced_distance(a: FloatArray, b: FloatArray, lines: FloatArray) -> float:
    """Mean over directions of the distance along each, over that of a shift of length 1."""
    units = len(lines)
    # E|u_1| on the sphere: what a shift of length 1 reads along a random direction.
    of_shift = math.exp(gammaln(units / 2) - gammaln((units + 1) / 2)) / math.sqrt(math.pi)
    return float(np.abs(np.sort(a @ lines, axis=0) - np.sort(b @ lines, axis=0)).mean() / of_shift)


def root_mean_square_distance(a: FloatArray, b: FloatArray) -> float:
    """Between two different pooled rows: twice the variances of all units."""
    return math.sqrt(2 * float(np.concatenate([a, b]).var(axis=0, ddof=1).sum()))
