"""Distance of two discrete variables: 0 where each tells the other, 1 where neither says anything of the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy.typing as npt

from infoplane.core.brief import Brief
from infoplane.diagnostics._codes import joint_entropy_bits, same_samples
from infoplane.diagnostics._place import Entry, Place, digest, rows
from infoplane.results import Row

ESTIMATOR = "rajski"


@dataclass(frozen=True, eq=False, kw_only=True)
class Rajski(Brief):
    """Rajski distance of two codes.

    Attributes
    ----------
    distance : float
        Between 0 and 1.
    flags : tuple of str
        `saturated` where every sample has a code of its own, `degenerate` where both are constant.
    """

    distance: float
    flags: tuple[str, ...]
    n_samples: int
    source: str

    def rows(self, where: Place) -> list[Row]:
        """One row, "Rajski distance(T;T')"; `where.partner` names T'."""
        entry = Entry("Rajski distance(T;T')", self.distance, "distance", ceiling=1.0, flags=self.flags)
        return rows(where, ESTIMATOR, {}, [entry], n_samples=self.n_samples, source=self.source)


def rajski_distance(s: npt.ArrayLike, t: npt.ArrayLike) -> Rajski:
    """1 - I(S;T) / H(S,T) of two codes of the same samples, which is a metric.

    It may be asked of two layers of one deterministic network on the same inputs, of which no Shannon information of
    continuous values exists.

    How it misleads: it is of the codes. Where every sample has one of its own, any two layers have distance 0 (flag
    `saturated`): bin more coarsely, or take more samples. Independent codes of few samples share plug-in bits and read
    as nearer than 1.

    Parameters
    ----------
    s, t : (N,) or (N, units) array
        Codes: equal rows are one value. Bin activations first.

    Raises
    ------
    ValueError
        Different numbers of samples, or non-finite values.

    References
    ----------
    Rajski, "A metric space of discrete probability distributions", Information and Control, 1961.

    Examples
    --------
    >>> rajski_distance([0, 0, 1, 1], [5, 5, 7, 7]).distance
    0.0
    """
    first, second = same_samples({"s": s, "t": t})
    together = joint_entropy_bits(first, second)
    information = joint_entropy_bits(first) + joint_entropy_bits(second) - together
    apart = max(int(first.max()), int(second.max())) + 1 == len(first)
    return Rajski(
        distance=min(1.0, 1.0 - information / together) if together else 0.0,
        flags=("saturated",) * apart + ("degenerate",) * (not together),
        n_samples=len(first),
        source=digest(first, second),
    )
