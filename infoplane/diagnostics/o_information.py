"""O-information: do several variables share what they know (redundancy), or know it only together (synergy)?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.special import digamma

from infoplane.core.brief import Brief
from infoplane.core.units import BIT, BITS_PER_NAT, Z_95
from infoplane.diagnostics._codes import FloatArray, codes, entropy_bits
from infoplane.diagnostics._place import Entry, Place, around, digest, rows, units_float64
from infoplane.results import Row

ESTIMATOR = "o-information"
PARTS = 20
CONSTANT, SINGULAR = 1e-12, 1e-8
"""Spread over size, below which a unit counts as constant, and the smallest eigenvalue of the correlations, below which
variables count as copies."""
Information = Callable[[FloatArray, FloatArray], float]


@dataclass(frozen=True, eq=False, kw_only=True)
class OInformation(Brief):
    """O-information in bits: above 0 redundancy prevails, below it synergy.

    Attributes
    ----------
    value : float
    low, high : float
        95 % interval of the whole sum, from estimates without a twentieth of the samples each; NaN where an
        `information` was given, or where a variable is constant in such a part.
    variables : int
    flags : tuple of str
    """

    value: float
    low: float
    high: float
    variables: int
    n_samples: int
    flags: tuple[str, ...]
    config: dict[str, Any]
    source: str

    def rows(self, where: Place) -> list[Row]:
        """One row, "O-information", for the results table."""
        entry = Entry("O-information", self.value, BIT, self.low, self.high, flags=self.flags)
        return rows(where, ESTIMATOR, self.config, [entry], n_samples=self.n_samples, source=self.source)


def o_information(
    variables: Sequence[npt.ArrayLike],
    *,
    method: Literal["gaussian", "codes"] = "gaussian",
    information: Information | None = None,
) -> OInformation:
    """O-information of n variables, (n - 2) H(X) + sum_i [H(X_i) - H(X without i)].

    Three copies of a bit have 1 bit, two bits and their XOR -1. It is a balance: a layer that has as much of both reads
    0. "gaussian" takes entropies from log-determinants, less their known bias; "codes" takes those of equal rows, whose
    bias with few samples is towards synergy. With `information`, such as `infoplane.estimators.knn.ksg`, it is made of
    informations alone,

        O_n = O_{n-1} + (2 - n) I(X_n; X_1..X_{n-1}) + sum_{j<n} I(X_n; X_1..X_{n-1} without j),   O_2 = 0.

    How it misleads: it is a difference of large terms, each with its own error, and the interval is that of the sum.
    Of dependence that is not Gaussian "gaussian" sees the correlations only: XOR reads 0. Continuous copies have
    infinite information, which is refused.

    Parameters
    ----------
    variables : sequence of n >= 3 arrays (N,) or (N, units)
        Units, layers or sources of the same samples.
    method : "gaussian" or "codes"
    information : callable, optional
        Bits between two arrays (N, a) and (N, b).

    Raises
    ------
    ValueError
        Fewer than three variables, different numbers of samples, fewer samples than twice the units, or copies.

    References
    ----------
    Rosas, Mediano, Gastpar and Jensen, "Quantifying high-order interdependencies via multivariate extensions of the
    mutual information", Physical Review E, 2019.

    Examples
    --------
    >>> a, b = np.indices((2, 2)).reshape(2, -1).repeat(25, axis=1)
    >>> round(o_information([a, b, a ^ b], method="codes").value, 6)
    -1.0
    """
    if method not in ("gaussian", "codes"):
        raise ValueError(f"method must be 'gaussian' or 'codes', got {method!r}")
    if len(variables) < 3:
        raise ValueError(f"O-information needs at least 3 variables, got {len(variables)}")
    blocks = _blocks(variables)
    samples = len(blocks[0])
    low = high = math.nan
    if information is not None:
        value = _from_informations(blocks, information)
    else:
        if method == "gaussian":
            _refuse_singular(_of_one_size(np.hstack(blocks)))
        of: Callable[[list[FloatArray]], float] = _gaussian if method == "gaussian" else _plug_in
        value = of(blocks)
        low, high = around(value, Z_95 * _jackknife(of, blocks))
    few = information is None and method == "codes" and samples < 10 * len(np.unique(np.hstack(blocks), axis=0))
    return OInformation(
        value=value,
        low=low,
        high=high,
        variables=len(blocks),
        n_samples=samples,
        flags=("few_samples",) * few,
        config={"method": method if information is None else getattr(information, "__name__", "given")},
        source=digest(*blocks),
    )


def _blocks(variables: Sequence[npt.ArrayLike]) -> list[FloatArray]:
    """Every variable as (N, units)."""
    blocks = [
        units_float64(a[:, None] if a.ndim == 1 else a, f"variable {i}")
        for i, a in enumerate(map(np.asarray, variables))
    ]
    if len({len(b) for b in blocks}) > 1:
        raise ValueError(f"all variables must have the same samples, got {', '.join(str(len(b)) for b in blocks)}")
    return blocks


def _balance(blocks: list[FloatArray], entropy: Callable[[FloatArray], float]) -> float:
    """(n - 2) H(X) + sum_i [H(X_i) - H(X without i)]."""
    without = [np.hstack(blocks[:i] + blocks[i + 1 :]) for i in range(len(blocks))]
    each = sum(entropy(block) - entropy(rest) for block, rest in zip(blocks, without, strict=True))
    return (len(blocks) - 2) * entropy(np.hstack(blocks)) + each


def _plug_in(blocks: list[FloatArray]) -> float:
    return _balance(blocks, lambda block: entropy_bits(np.bincount(codes(block, "a variable"))))


def _of_one_size(block: FloatArray) -> FloatArray:
    """Units about their means, at most 1 in size, which changes no O-information; 0 where only rounding varies."""
    largest = np.abs(block).max(axis=0)
    z = block / np.where(largest > 0, largest, 1.0)
    z = z - z.mean(axis=0)
    spread = np.abs(z).max(axis=0)
    return np.asarray(np.where(spread > CONSTANT, z / np.where(spread > CONSTANT, spread, 1.0), 0.0))


def _refuse_singular(whole: FloatArray) -> None:
    """Raise ValueError where log-determinants are infinite, or too few samples leave them so."""
    samples, units = whole.shape
    if samples < 2 * units:
        raise ValueError(f"{units} units need at least {2 * units} samples, got {samples}")
    if not np.ptp(whole, axis=0).all() or np.linalg.eigvalsh(np.corrcoef(whole, rowvar=False))[0] < SINGULAR:
        raise ValueError("a variable is constant or a linear function of the others: the O-information is infinite")


def _gaussian(blocks: list[FloatArray]) -> float:
    return _balance([_of_one_size(block) for block in blocks], _gaussian_entropy)


def _gaussian_entropy(block: FloatArray) -> float:
    """Entropy in bits but for a number for each unit, which the balance does not see."""
    samples, units = block.shape
    covariance = np.atleast_2d(np.cov(block, rowvar=False))
    # E log det of a Wishart matrix exceeds that of its mean by this sum, which is negative.
    bias = digamma((samples - np.arange(1, units + 1)) / 2).sum() + units * math.log(2 / (samples - 1))
    return float(0.5 * (np.linalg.slogdet(covariance)[1] - bias) * BITS_PER_NAT)


def _from_informations(blocks: list[FloatArray], information: Information) -> float:
    """The recursion over variables, from informations between two blocks."""
    value = 0.0
    for n in range(3, len(blocks) + 1):
        last, before = blocks[n - 1], blocks[: n - 1]
        value += (2 - n) * information(last, np.hstack(before))
        value += sum(information(last, np.hstack(before[:j] + before[j + 1 :])) for j in range(n - 1))
    return float(value)


def _jackknife(of: Callable[[list[FloatArray]], float], blocks: list[FloatArray]) -> float:
    """Standard error of `of` from the samples without each of `PARTS` parts."""
    part = np.random.default_rng(0).permutation(len(blocks[0])) % PARTS
    values = np.array([of([block[part != i] for block in blocks]) for i in range(PARTS)])
    # A unit that varies in one part alone leaves no interval.
    return float(math.sqrt((PARTS - 1) * values.var())) if np.isfinite(values).all() else math.nan
