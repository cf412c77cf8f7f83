"""O-information: do several variables share what they know (redundancy), or know it only together (synergy)?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
from scipy.special import digamma

from infoplane.core.records import FloatArray
from infoplane.core.units import BIT, BITS_PER_NAT, Z_95
from infoplane.diagnostics._codes import codes, entropy_bits
from infoplane.diagnostics._place import Entry, Measured, around, centred, digest, raised, units_float64

PARTS = 20
"""Parts of the samples that are left out in turn for the interval (jackknife)."""
SINGULAR = 1e-8
"""Smallest eigenvalue of the correlations below which variables count as copies of each other."""
Information = Callable[[FloatArray, FloatArray], float]


@dataclass(frozen=True, eq=False, kw_only=True)
class OInformation(Measured):
    """O-information in bits: above 0 redundancy prevails, below 0 synergy.

    Its row: "O-information".

    Attributes
    ----------
    value : float
    low, high : float
        95 % interval of the whole sum, from estimates that leave out one twentieth of the samples each; NaN where
        `information` was given, or where a variable is constant without such a part.
    variables : int
        How many there are.
    flags : tuple of str
        `few_samples` for "codes" with fewer than ten samples for each combination that occurs.
    """

    estimator: ClassVar[str] = "o-information"

    value: float
    low: float
    high: float
    variables: int

    def _entries(self) -> list[Entry]:
        """Return the O-information with its interval."""
        return [Entry("O-information", self.value, BIT, self.low, self.high, flags=self.flags)]


def o_information(
    variables: Sequence[npt.ArrayLike],
    *,
    method: Literal["gaussian", "codes"] = "gaussian",
    information: Information | None = None,
) -> OInformation:
    """O-information of n variables, (n - 2) H(X) + sum_i [H(X_i) - H(X without i)].

    Three copies of a bit have 1 bit, two bits and their XOR -1. It is a balance: a layer with as much redundancy as
    synergy reads 0. "gaussian" takes entropies from log-determinants, less their known bias. "codes" takes plug-in
    entropies, with equal rows as one value; their bias with few samples is towards synergy. With `information`, such as
    `infoplane.estimators.knn.ksg`, it is made of informations alone,

        O_n = O_{n-1} + (2 - n) I(X_n; X_1..X_{n-1}) + sum_{j<n} I(X_n; X_1..X_{n-1} without j),   O_2 = 0.

    How it misleads: it is a difference of large terms, each with its own error; the interval is that of the whole sum.
    "gaussian" sees nothing but correlations: XOR reads 0. Continuous variables that are copies of each other have
    infinite information and are refused.

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
            _refuse_singular(centred(np.hstack(blocks), axis=0))
        estimate: Callable[[list[FloatArray]], float] = _gaussian if method == "gaussian" else _plug_in
        value = estimate(blocks)
        low, high = around(value, Z_95 * _jackknife(estimate, blocks))
    # Entropies of codes need about ten samples for each combination that occurs.
    few = information is None and method == "codes" and samples < 10 * len(np.unique(np.hstack(blocks), axis=0))
    return OInformation(
        value=value,
        low=low,
        high=high,
        variables=len(blocks),
        n_samples=samples,
        flags=raised(few_samples=few),
        config={"method": method if information is None else getattr(information, "__name__", "given")},
        source=digest(*blocks),
    )


def _blocks(variables: Sequence[npt.ArrayLike]) -> list[FloatArray]:
    """Return every variable as (N, units), checked to have the same number of samples."""
    arrays = map(np.asarray, variables)
    blocks = [units_float64(a[:, None] if a.ndim == 1 else a, f"variable {i}") for i, a in enumerate(arrays)]
    if len({len(b) for b in blocks}) > 1:
        raise ValueError(f"all variables must have the same samples, got {', '.join(str(len(b)) for b in blocks)}")
    return blocks


def _balance(blocks: list[FloatArray], entropy: Callable[[FloatArray], float]) -> float:
    """Return (n - 2) H(X) + sum_i [H(X_i) - H(X without i)] of n blocks (N, units), from any entropy of a block."""
    without = [np.hstack(blocks[:i] + blocks[i + 1 :]) for i in range(len(blocks))]
    differences = sum(entropy(block) - entropy(rest) for block, rest in zip(blocks, without, strict=True))
    return (len(blocks) - 2) * entropy(np.hstack(blocks)) + differences


def _plug_in(blocks: list[FloatArray]) -> float:
    """Return the O-information by plug-in entropies, with equal rows as one value."""
    return _balance(blocks, lambda block: entropy_bits(np.bincount(codes(block, "a variable"))))


def _refuse_singular(whole: FloatArray) -> None:
    """Raise ValueError where log-determinants would be infinite, by too few samples or by variables that are copies."""
    samples, units = whole.shape
    if samples < 2 * units:
        raise ValueError(f"{units} units need at least {2 * units} samples, got {samples}")
    if not np.ptp(whole, axis=0).all() or np.linalg.eigvalsh(np.corrcoef(whole, rowvar=False))[0] < SINGULAR:
        raise ValueError("a variable is constant or a linear function of the others: the O-information is infinite")


def _gaussian(blocks: list[FloatArray]) -> float:
    """Return the O-information of Gaussians with the same covariances."""
    # The scale of a unit changes no O-information.
    return _balance([centred(block, axis=0) for block in blocks], _gaussian_entropy)


def _gaussian_entropy(block: FloatArray) -> float:
    """Return the Gaussian entropy in bits, without the constant of each unit, which cancels in the balance."""
    samples, units = block.shape
    covariance = np.atleast_2d(np.cov(block, rowvar=False))
    # What log det of a sample covariance (a Wishart matrix) has more on average than log det of its mean: less than 0.
    bias = digamma((samples - np.arange(1, units + 1)) / 2).sum() + units * math.log(2 / (samples - 1))
    return float(0.5 * (np.linalg.slogdet(covariance)[1] - bias) * BITS_PER_NAT)


def _from_informations(blocks: list[FloatArray], information: Information) -> float:
    """Return the O-information by its recursion over variables, from informations between two blocks of columns."""
    # O_n = O_{n-1} + (2 - n) I(X_n; X_1..X_{n-1}) + sum_{j<n} I(X_n; X_1..X_{n-1} without j), and O_2 = 0.
    value = 0.0
    for n in range(3, len(blocks) + 1):
        last, before = blocks[n - 1], blocks[: n - 1]
        value += (2 - n) * information(last, np.hstack(before))
        value += sum(information(last, np.hstack(before[:j] + before[j + 1 :])) for j in range(n - 1))
    return float(value)


def _jackknife(estimate: Callable[[list[FloatArray]], float], blocks: list[FloatArray]) -> float:
    """Return the standard error of `estimate`, from its values without one of `PARTS` parts of the samples; or NaN."""
    part = np.random.default_rng(0).permutation(len(blocks[0])) % PARTS  # of each sample, (N,)
    values = np.array([estimate([block[part != i] for block in blocks]) for i in range(PARTS)])
    # Without the only part in which a unit varies, the value is not finite, and there is no interval.
    return float(math.sqrt((PARTS - 1) * values.var())) if np.isfinite(values).all() else math.nan
