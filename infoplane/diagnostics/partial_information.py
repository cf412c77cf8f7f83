"""Partial information decomposition: what two sources say of Y together, each alone, and only jointly."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from infoplane.core.records import FloatArray, IntArray
from infoplane.core.units import BIT, BITS_PER_NAT
from infoplane.diagnostics._codes import entropy_bits, information_bits, joint_counts, same_samples
from infoplane.diagnostics._place import Entry, Measured, digest, raised
from infoplane.diagnostics._samples import LEAST_DRAWS, null_entry

PARTS = ("redundancy", "unique 1", "unique 2", "synergy")
FEW_PER_CELL = 10
"""Samples for each cell of the table below which the parts are flagged `few_samples`."""
MOST_PARAMETERS = 4000
"""Unknowns of the minimum: Newton's method solves with a matrix of this size."""
GAP, SHRINK, MOST_STEPS = 1e-8, 0.1, 30
"""Nats within which the minimum is proven, the factor from one barrier weight to the next, and Newton steps at each."""


@dataclass(frozen=True, eq=False, kw_only=True)
class PartialInformation(Measured):
    """The four parts of I(X1 X2;Y), in bits.

    Its rows: "redundancy (X1,X2;Y)", "unique 1 ...", "unique 2 ..." and "synergy ...", each behind its null if there is
    one.

    Attributes
    ----------
    redundancy, unique1, unique2, synergy : float
        They add up to I(X1 X2;Y); redundancy and unique1 to I(X1;Y).
    null : (draws, 4) float64
        The four parts where Y is shuffled.
    gap : float
        Bits within which the minimum that they follow from is proven.
    flags : tuple of str
        `few_samples` with fewer than 10 samples for each cell of the joint table, `single_class`.
    """

    estimator: ClassVar[str] = "partial-information"

    redundancy: float
    unique1: float
    unique2: float
    synergy: float
    null: FloatArray
    gap: float

    @property
    def parts(self) -> tuple[float, float, float, float]:
        """Redundancy, unique 1, unique 2 and synergy."""
        return self.redundancy, self.unique1, self.unique2, self.synergy

    def _entries(self) -> list[Entry]:
        """Return the four parts, each behind its null, if one was made."""
        entries = []
        for i, (name, value) in enumerate(zip(PARTS, self.parts, strict=True)):
            flags = self.flags
            if len(self.null):
                of_null = null_entry(f"{name} (X1,X2;Y)", self.null[:, i], BIT)
                entries.append(of_null)
                flags += raised(below_null=value <= of_null.high)
            entries.append(Entry(f"{name} (X1,X2;Y)", value, BIT, flags=flags))
        return entries


def partial_information(
    x1: npt.ArrayLike, x2: npt.ArrayLike, y: npt.ArrayLike, *, null_draws: int = 20, seed: int = 0
) -> PartialInformation:
    """Split I(X1 X2;Y) of discrete variables into redundant, unique and synergistic information.

    Over all laws Q that have the pairs (X1, Y) and (X2, Y) of the samples,

        U1 = min I_Q(Y;X1|X2),   R = I(Y;X1) - U1,   U2 = I(Y;X2) - R,   S = I(Y;X1 X2) - min I_Q(Y;X1 X2),

    and one Q attains all minima. It is a convex program, solved by Newton's method on its dual with a barrier, which
    proves the value to within `gap`.

    How it misleads: the plug-in bias of the joint table goes into the synergy, so independent variables with few
    samples a cell read as synergy (flag `few_samples`, and the null of each part). The numbers depend on how finely
    layers were binned: state the bins. Another definition of redundancy gives other numbers.

    Parameters
    ----------
    x1, x2, y : (N,) or (N, units) array
        Codes: equal rows are one value. Bin activations first.
    null_draws : int
        Shuffles of Y, 0 or at least 5.
    seed : int
        Seeds the shuffles.

    Raises
    ------
    ValueError
        Different numbers of samples, or more than 4,000 pairs of values (x1, y) and (x2, y).

    References
    ----------
    Bertschinger, Rauh, Olbrich, Jost and Ay, "Quantifying unique information", Entropy, 2014.

    Examples
    --------
    >>> a, b = np.indices((2, 2)).reshape(2, -1).repeat(25, axis=1)
    >>> round(partial_information(a, b, a ^ b).synergy, 4)
    1.0
    """
    if null_draws != 0 and null_draws < LEAST_DRAWS:
        raise ValueError(f"null_draws must be 0 or at least {LEAST_DRAWS}, got {null_draws}")
    one, two, labels = same_samples({"x1": x1, "x2": x2, "y": y})
    values = [int(each.max()) + 1 for each in (one, two, labels)]
    pairs = values[2] * (values[0] + values[1])
    if pairs > MOST_PARAMETERS:
        raise ValueError(f"at most {MOST_PARAMETERS} pairs of a source's and Y's values, got {pairs}; use fewer bins")
    counts = joint_counts(one, two, labels)
    parts, gap = _parts(counts)
    rng = np.random.default_rng(seed)
    null = [_parts(joint_counts(one, two, rng.permutation(labels)))[0] for _ in range(null_draws)]
    redundancy, unique1, unique2, synergy = parts
    return PartialInformation(
        redundancy=redundancy,
        unique1=unique1,
        unique2=unique2,
        synergy=synergy,
        null=np.reshape(null, (-1, 4)),
        gap=gap,
        flags=raised(few_samples=len(labels) < FEW_PER_CELL * counts.size, single_class=counts.shape[2] == 1),
        n_samples=len(labels),
        config={"null_draws": null_draws, "seed": seed, "values": values},
        source=digest(one, two, labels),
    )


def _parts(counts: IntArray) -> tuple[tuple[float, float, float, float], float]:
    """Return the four parts of a table (x1, x2, y) in bits, in the order of `PARTS`, and the gap of their minimum."""
    first, second, both = (information_bits(each) for each in (counts.sum(1), counts.sum(0), counts))
    least, gap = least_joint_information(counts / counts.sum())
    unique1, unique2 = least - second, least - first
    return (first - unique1, unique1, unique2, both - least), gap


def least_joint_information(p: FloatArray) -> tuple[float, float]:
    """Return the least I(Y;X1 X2) in bits over laws with the p(x1, y) and p(x2, y) of `p` (K1, K2, C), and its gap.

    The gap is the number of bits by which the value may lie above the true minimum.
    """
    # It is reached at the largest H_Q(Y|X1 X2), the dual of which is to maximise <p, a(x1,y) + b(x2,y)> with
    # sum_y exp(a + b) <= 1 for all (x1, x2). With a barrier of weight t the optimum has
    # Q(x1,x2,y) = t exp(a + b) / (1 - sum_y exp(a + b)), and the gap is t for each cell. Pairs of values that do not
    # occur have no a or b.
    dual = _Dual(p)
    weight = 1.0 / dual.cells
    theta = dual.minimiser(dual.start, weight)
    while weight * dual.cells > GAP:
        weight *= SHRINK
        theta = dual.minimiser(theta, weight)
    q = dual.feasible(theta, weight)
    value = information_bits(q)
    # By duality no law with these p(x1, y) and p(x2, y) has less information than this.
    proven = entropy_bits(p.sum((0, 1))) + float(dual.target @ theta) * BITS_PER_NAT
    return value, max(value - proven, 0.0)


class _Dual:
    """The barrier problem of one table (K1, K2, C).

    Of all laws Q (K1, K2, C) with the table's p(x1, y) and p(x2, y), the solution is that of least information of
    both sources about y. The problem is solved by its dual, whose limit is sum_y exp(a(x1, y) + b(x2, y)) <= 1 for
    all x1 and x2. `theta` (P,) holds the a(x1, y), then the b(x2, y), of the P pairs of values that occur; `weight` is
    the barrier's.
    """

    def __init__(self, p: FloatArray) -> None:
        """Find the pairs of values that occur in p (K1, K2, C), and a theta to start from."""
        self.one, self.two = p.sum(1), p.sum(0)
        self.shape, self.cells = p.shape, p.shape[0] * p.shape[1]
        self.possible = (self.one > 0)[:, None] & (self.two > 0)[None]  # cells in which Q may be above 0
        pairs = np.concatenate([self.one.ravel(), self.two.ravel()])
        self.occurs = pairs > 0
        self.target = pairs[self.occurs]  # the probabilities that Q must have, (P,)
        # exp(a + b) = p(y) / 2 to begin with, whose sum over y is well below the limit of 1.
        half = 0.5 * np.log(0.5 * np.maximum(p.sum((0, 1)), 1e-300))
        self.start = np.tile(half, p.shape[0] + p.shape[1])[self.occurs]

    def exponentials(self, theta: FloatArray) -> FloatArray:
        """Return exp(a(x1, y) + b(x2, y)), (K1, K2, C)."""
        whole = np.full(len(self.occurs), -math.inf)
        whole[self.occurs] = theta
        a, b = np.split(whole, [self.one.size])
        return np.asarray(np.exp(a.reshape(self.one.shape)[:, None] + b.reshape(self.two.shape)[None]))

    def barrier(self, theta: FloatArray, weight: float) -> float:
        """Return what Newton's method minimises at theta; infinite where sum_y exp(a + b) is 1 or more."""
        with np.errstate(over="ignore"):
            used = self.exponentials(theta).sum(2)
        return float(-self.target @ theta - weight * np.log1p(-used).sum()) if (used < 1).all() else math.inf

    def law(self, theta: FloatArray, weight: float) -> FloatArray:
        """Return the law Q (K1, K2, C) that belongs to theta at a barrier of this weight."""
        e = self.exponentials(theta)
        return np.asarray(weight * e / (1.0 - e.sum(2, keepdims=True)))

    def minimiser(self, theta: FloatArray, weight: float) -> FloatArray:
        """Return the theta that minimises the barrier function, by Newton's method from `theta`."""
        for _ in range(MOST_STEPS):
            q = self.law(theta, weight)
            slope = np.concatenate([q.sum(1).ravel(), q.sum(0).ravel()])[self.occurs] - self.target
            step = -np.linalg.solve(self._curvature(q, weight), slope)
            # The step is halved until it brings a small part of the fall that the slope promises (Armijo's rule).
            fall, size, now = float(-slope @ step), 1.0, self.barrier(theta, weight)
            if fall < 1e-4 * weight:  # near enough for the next weight, or for the proof at the last one
                break
            while self.barrier(theta + size * step, weight) > now - 1e-4 * size * fall and size > 1e-8:
                size *= 0.5
            theta = theta + size * step
        return theta

    def _curvature(self, q: FloatArray, weight: float) -> FloatArray:
        """Return the second derivatives of the barrier function, with a little added to the diagonal."""
        # Without that it would be singular: a + c(y) and b - c(y) give the same function for any c.
        k1, k2, c = self.shape
        pairs = q[..., :, None] * q[..., None, :] / weight
        pairs[..., range(c), range(c)] += q
        out = np.zeros((k1 + k2, c, k1 + k2, c))
        out[range(k1), :, range(k1), :] = pairs.sum(1)
        out[range(k1, k1 + k2), :, range(k1, k1 + k2), :] = pairs.sum(0)
        out[:k1, :, k1:, :] = pairs.transpose(0, 2, 1, 3)
        out[k1:, :, :k1, :] = pairs.transpose(1, 3, 0, 2)
        square = out.reshape((k1 + k2) * c, -1)[np.ix_(self.occurs, self.occurs)]
        square[np.diag_indices_from(square)] *= 1.0 + 1e-9
        return np.asarray(square)

    def feasible(self, theta: FloatArray, weight: float) -> FloatArray:
        """Return a law close to `law` that has the table's p(x1, y) and p(x2, y), by iterative proportional fitting."""
        # Only what is above 0 can be scaled to the sums that are wanted.
        q = np.where(self.possible, np.maximum(self.law(theta, weight), 1e-300), 0.0)
        for _ in range(100):
            for axis, wanted in ((1, self.one), (0, self.two)):
                found = q.sum(axis)
                ratio = np.divide(wanted, found, out=np.zeros_like(wanted), where=found > 0)
                q *= np.expand_dims(ratio, axis)
        return q
