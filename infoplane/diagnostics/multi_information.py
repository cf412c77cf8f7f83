"""Multi-information: how much several variables share beyond each by itself, over chosen groups of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from infoplane.core.records import FloatArray, IntArray
from infoplane.core.units import BIT
from infoplane.diagnostics._codes import joint_entropy_bits, same_samples
from infoplane.diagnostics._place import Entry, Measured, digest, raised
from infoplane.diagnostics._samples import LEAST_DRAWS, against_null

MOST_GROUPS = 1000
"""Groups that are summed over, at most."""


@dataclass(frozen=True, eq=False, kw_only=True)
class MultiInformation(Measured):
    """Sum over groups of sum_i H(X_i) - H(X_group), in bits.

    Its rows: "multi-information", its " null", and its " excess" over the mean of the null.

    Attributes
    ----------
    value : float
    groups : tuple of tuples of int
        Places of the variables in each group.
    parts : (G,) float64
        Multi-information of each group.
    null : (draws,) float64
        The value where the samples of each variable are shuffled separately.
    flags : tuple of str
        `saturated` where all samples differ in some group, `few_samples` where it has fewer than ten samples for each
        combination that occurs.
    """

    estimator: ClassVar[str] = "multi-information"

    value: float
    groups: tuple[tuple[int, ...], ...]
    parts: FloatArray
    null: FloatArray

    def _entries(self) -> list[Entry]:
        """Return the multi-information with its null, and how far it lies above that."""
        return against_null("multi-information", self.value, self.null, BIT, self.flags)


def multi_information(
    variables: Sequence[npt.ArrayLike],
    *,
    groups: int | Sequence[Sequence[int]] | None = None,
    null_draws: int = 20,
    seed: int = 0,
) -> MultiInformation:
    """Multi-information of discrete variables, summed over groups: 0 where the variables of each group are independent.

    For one group of all variables it is the total correlation. For all groups of two (`groups=2`) it is the sum of the
    informations of all pairs, which needs far fewer samples and sees less: for two bits and their XOR all pairs have 0
    and the three together have 1 bit.

    How it misleads: plug-in entropies of combinations that were hardly seen are too low, so independent variables read
    above 0, the more the larger a group is. Compare with the null, in which each variable is shuffled separately. Once
    every sample is a different combination (`saturated`) the value is the sum of H(X_i) less log2 N, whatever depends
    on what. Groups that overlap count what they share more than once: a sum over pairs is no information of all.

    Parameters
    ----------
    variables : sequence of n >= 2 arrays (N,) or (N, units)
        Codes: equal rows are one value. Bin activations first.
    groups : int, or sequence of groups of places, optional
        All groups of this size, or these groups; by default one group of all variables.
    null_draws : int
        Shuffles for the null, at least 5.
    seed : int
        Seeds the shuffles.

    Raises
    ------
    ValueError
        Fewer than two variables, different numbers of samples, a group with one variable or with one that does not
        exist, or more than 1000 groups.

    References
    ----------
    Watanabe, "Information theoretical analysis of multivariate correlation", 1960. Over groups: Merkh and Montufar,
    "Factorized mutual information maximization", 2019.

    Examples
    --------
    >>> a, b = np.indices((2, 2)).reshape(2, -1).repeat(25, axis=1)
    >>> round(multi_information([a, b, a ^ b]).value, 6), round(multi_information([a, b, a ^ b], groups=2).value, 6)
    (1.0, 0.0)
    """
    if null_draws < LEAST_DRAWS:
        raise ValueError(f"null_draws must be at least {LEAST_DRAWS}, got {null_draws}")
    known = same_samples({f"variable {i}": each for i, each in enumerate(variables)})
    chosen = _groups(groups, len(known))
    parts = _parts(known, chosen)
    rng = np.random.default_rng(seed)
    null = [float(_parts([rng.permutation(x) for x in known], chosen).sum()) for _ in range(null_draws)]
    samples = len(known[0])
    # The largest number of different combinations in any group.
    seen = max(len(np.unique(np.stack([known[i] for i in group]), axis=1).T) for group in chosen)
    return MultiInformation(
        value=float(parts.sum()),
        groups=chosen,
        parts=parts,
        null=np.array(null),
        # Plug-in entropies need about ten samples for each combination.
        flags=raised(saturated=seen == samples, few_samples=samples < 10 * seen),
        n_samples=samples,
        config={"groups": [list(group) for group in chosen], "null_draws": null_draws, "seed": seed},
        source=digest(*known),
    )


def _groups(groups: int | Sequence[Sequence[int]] | None, count: int) -> tuple[tuple[int, ...], ...]:
    """Return the groups as places of variables, counted from 0; ValueError for groups that mean nothing."""
    if count < 2:
        raise ValueError(f"multi-information needs at least 2 variables, got {count}")
    size = count if groups is None else groups
    # One more than is allowed is enough to see that there are too many.
    offered = itertools.combinations(range(count), max(size, 0)) if isinstance(size, int) else map(tuple, size)
    chosen = tuple(itertools.islice(offered, MOST_GROUPS + 1))
    bad = [g for g in chosen if len(g) < 2 or len(set(g)) < len(g) or not set(g) <= set(range(count))]
    if not chosen or bad or len(chosen) > MOST_GROUPS:
        raise ValueError(
            f"groups must be 1 to {MOST_GROUPS}, each of 2 or more different places from 0 to {count - 1}, got {groups}"
        )
    return chosen


def _parts(known: Sequence[IntArray], groups: Sequence[Sequence[int]]) -> FloatArray:
    """Return the multi-information (G,) in bits of every group, from the codes (N,) of all variables."""
    alone = [joint_entropy_bits(x) for x in known]
    return np.array([sum(alone[i] for i in group) - joint_entropy_bits(*(known[i] for i in group)) for group in groups])
