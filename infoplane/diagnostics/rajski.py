"""Distance of two discrete variables: 0 where each tells the other, 1 where neither says anything of the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy.typing as npt

from infoplane.diagnostics._codes import joint_entropy_bits, same_samples
from infoplane.diagnostics._place import Entry, Measured, digest, raised


@dataclass(frozen=True, eq=False, kw_only=True)
class Rajski(Measured):
    """Rajski distance of two codes.

    Its row: "Rajski distance(T;T')"; `where.partner` names T'.

    Attributes
    ----------
    distance : float
        Between 0 and 1.
    flags : tuple of str
        `saturated` where all samples differ in one of the codes, `degenerate` where both codes are constant.
    """

    estimator: ClassVar[str] = "rajski"

    distance: float

    def _entries(self) -> list[Entry]:
        """Return the distance, which is at most 1."""
        return [Entry("Rajski distance(T;T')", self.distance, "distance", ceiling=1.0, flags=self.flags)]


def rajski_distance(s: npt.ArrayLike, t: npt.ArrayLike) -> Rajski:
    """1 - I(S;T) / H(S,T) of two codes of the same samples, which is a metric.

    It compares also two layers of one deterministic network on the same inputs, whose continuous values have no finite
    Shannon information.

    How it misleads: it is the distance of the codes. Where the codes of all samples differ, any two layers have
    distance 0 (flag `saturated`): bin more coarsely, or take more samples. Independent codes of few samples seem to
    share information, by the plug-in bias, and read less than 1.

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
    all_differ = max(int(first.max()), int(second.max())) + 1 == len(first)
    return Rajski(
        distance=min(1.0, 1.0 - information / together) if together else 0.0,
        flags=raised(saturated=all_differ, degenerate=not together),
        n_samples=len(first),
        source=digest(first, second),
    )
