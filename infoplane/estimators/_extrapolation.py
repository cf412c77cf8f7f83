"""`+extrapolate`: what an estimator would read of infinitely many samples, from what it reads of parts of them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor

from infoplane.core.records import FloatArray
from infoplane.core.units import BIT
from infoplane.estimators._checks import above_ceiling
from infoplane.estimators._driver import on_rows, report
from infoplane.estimators._protocol import Quantities, Quantity
from infoplane.estimators._registry import register_wrapper
from infoplane.estimators._settings import Domain, at_least, setting
from infoplane.estimators._wrappers import Wrapper, input_ids, rows_of_inputs, without_null

MOST, LEAST, LINE = 10, 5, 3
"""Sizes of parts (gammas) that are tried at most; below the second, `few_samples`; below the third, no value."""
CURVED, BENT = 0.1, 0.02
"""Share of the slope that the quadratic term may have, and bits by which it may move the value."""
MOVED, NEAR_ZERO = 0.2, 0.25
"""Share of the value by which it may move without gamma = 1; values below so many bits count as that many."""
OF_THE_PROBE = ("binned", "noisy-finite", "softmax-output")
"""Estimands that are of the recorded samples themselves: there is nothing beyond them to continue to."""


@register_wrapper("extrapolate")
@dataclass(frozen=True, kw_only=True)
class Extrapolation(Wrapper):
    """An estimate of a population quantity, continued to 1/N = 0 from estimates on parts of the samples.

    One random order of the inputs is cut into gamma = 1, 2, ... 10 equal parts. With m(gamma) the mean of the estimates
    on gamma parts of N / gamma samples, and an error of a / N,

        m(gamma) = I + a gamma / N,

    and the value is the intercept of the line by least squares, in which each gamma counts once. Parts have at least
    `min_inputs` inputs, so there are 10 gammas from 2,000 samples and 5 from 1,000; with fewer than 5 the value is
    flagged `few_samples`, with fewer than 3 there is none.

    **It removes an error that falls as 1/N and nothing else**: that of `knn` falls as N^(-2/D) in D dimensions of both
    sides, and from some 6 on little of it goes. Two checks look for another law. While a quadratic fit bends, by more
    than its standard error explains, and by more than a tenth of its slope or so that the value would move by 0.02 bit,
    the largest gamma is left out; and without gamma = 1 the value must not move by more than a fifth (of 0.25 bit,
    where it is smaller). `unreliable` says that 5 gammas still bend by a tenth of the slope, or that the value moved.
    Flags of the estimate on all samples stay, and where all samples or any part are `saturated` there is no value.

    `low` and `high` are 95 % of the intercept: from the scatter between parts of one size, brought to N samples (what
    the whole sample errs by, which all parts share), and from that of the means about the line, with Student's t; then
    extended by the intercept of the quadratic fit, on its side. An error that shows in neither is not in it. The value
    is a `point`, also where the estimator gives a bound.

    Beside the value: "I(T;Y) plain" on all samples, "I(T;Y) curvature", the quadratic term with its interval, "gammas
    of I(T;Y) kept", and with `draws` above 1 "I(T;Y) spread", the standard deviation of the value between orders.
    What else the estimator gives is of all samples.

    A null is made around it, `knn+extrapolate+null`, of values continued in the same way. Inputs with equal `x_ids`
    stay in one part. Costs 54 further estimates on parts for each of `draws`; where one costs of order N, ten times
    that on all samples.

    Parameters
    ----------
    estimator : estimator, spec or settings
    min_inputs : int
        Inputs of a part, at least.
    draws : int
        Random orders, of whose means the line is made. 5 show the scatter that belongs to the order alone.
    seed : int
        Seeds the orders, which are the same for every snapshot.

    Raises
    ------
    ValueError
        A parameter is out of its domain; the estimator is a wrapper, says in `not_extrapolated` why not, or gives only
        quantities of the recorded samples themselves, or no Shannon information.

    References
    ----------
    Strong, Koberle, de Ruyter van Steveninck and Bialek, "Entropy and information in neural spike trains", 1998.
    Holmes and Nemenman, "Estimation of mutual information for real-valued data with error bars and controlled bias",
    2019. Abdelaleem, Martini and Nemenman, "Accurate estimation of mutual information in high dimensional data", 2025:
    there the interval is of 68 %, and of the regression alone.
    """

    name: ClassVar[str] = "extrapolate"
    # The line is fitted on the host.
    keeps: ClassVar[frozenset[str]] = Wrapper.keeps - {"device_exact"}

    estimator: Any = "knn"
    min_inputs: int = setting(200, at_least(2))
    draws: int = setting(1, Domain("a whole number of 1 or more", 1, whole=True))
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the settings; ValueError for a wrapper inside, or an estimator that says why it is not extrapolated."""
        super().__post_init__()
        inner = self.estimator
        if isinstance(inner, Wrapper):
            raise ValueError(
                f"'+extrapolate' stands next to the estimator, other wrappers behind it, as in 'knn+extrapolate+null'; "
                f"got {self.name!r}"
            )
        if reason := getattr(inner, "not_extrapolated", ""):
            raise ValueError(f"{inner.name} is not extrapolated: {reason}")

    def bytes_per_snapshot(self, samples: int, units: int) -> int:
        """Return the bytes that the estimator inside needs, a part of the snapshot, and the estimates."""
        return int(self.estimator.bytes_per_snapshot(samples, units)) + 8 * samples * (units + 1) + 500 * self.draws

    def estimate(self, t: Tensor, y: Tensor, *, x: Tensor | None = None, x_ids: Tensor | None = None) -> Quantities:
        """Return the quantities of the estimator inside, with each information continued to 1/N = 0."""
        inner = without_null(self.estimator)
        whole: dict[str, Quantity] = inner.estimate(t, y, x=x, x_ids=x_ids)
        names = _of_a_population(inner.name, whole)
        ids = input_ids(y, x_ids)
        inputs = int(ids.max()) + 1
        gammas = min(MOST, max(1, inputs // self.min_inputs))
        seen = {name: _Parts(whole[name], gammas, self.draws) for name in names}
        generator = torch.Generator().manual_seed(self.seed)
        for draw in range(self.draws):
            for gamma, rows in _parts(ids, inputs, gammas, generator):
                found = on_rows(inner, rows, t, y, x=x, x_ids=None if x_ids is None else ids)
                for name in names:
                    seen[name].add(draw, gamma, found[name])
        out: dict[str, Quantity] = {}
        for name, q in whole.items():
            out |= _continued(name, q, seen[name], y.is_floating_point()) if name in seen else {name: q}
        return out


def extrapolate(estimator: Any, *, min_inputs: int = 200, draws: int = 1, seed: int = 0) -> Extrapolation:
    """Return any estimator of a population quantity, or its spec, continued to 1/N = 0: see `Extrapolation`."""
    return Extrapolation(estimator=estimator, min_inputs=min_inputs, draws=draws, seed=seed)


def _of_a_population(name: str, found: dict[str, Quantity]) -> list[str]:
    """Return the names of the quantities that can be continued to 1/N = 0; ValueError, with the reason, if none can."""
    # Nulls are left out: "I(T;Y) null" does not match.
    bits = {key: q for key, q in found.items() if q.unit == BIT and re.fullmatch(r"I\([^()]*\)", key)}
    names = [key for key, q in bits.items() if q.estimand not in OF_THE_PROBE]
    if not bits:
        raise ValueError(f"{name} gives no Shannon information to extrapolate; see 'knn', 'gaussian' or 'compressed'")
    if not names:
        estimands = ", ".join(sorted({q.estimand for q in bits.values()}))
        raise ValueError(
            f"{name} is not extrapolated: its values ({estimands}) are of the recorded samples themselves, and more "
            "samples would be another question"
        )
    return names


def _parts(ids: Tensor, inputs: int, gammas: int, generator: torch.Generator) -> Iterator[tuple[int, Tensor]]:
    """Yield (gamma, rows (n,)) of each part: for gamma = 2, 3, ... one order of the inputs is cut into gamma parts."""
    order = torch.randperm(inputs, generator=generator, device="cpu")
    for gamma in range(2, gammas + 1):
        for part in order.tensor_split(gamma):
            yield gamma, rows_of_inputs(ids, inputs, part)


class _Parts:
    """The estimates of one quantity on the whole sample and on its parts, and whether parts were flagged."""

    def __init__(self, whole: Quantity, gammas: int, draws: int) -> None:
        """Begin with the estimate on the whole sample, in every draw."""
        # values[draw][gamma - 1]: one estimate (S,) for each of the gamma parts; gamma = 1 is the whole sample.
        self.values = [[[whole.value], *([] for _ in range(gammas - 1))] for _ in range(draws)]
        self.saturated = _raised(whole, "saturated")  # (S,) on the whole or any part
        # (S,) whether some part was too small: flags that say so were up there.
        self.too_small = torch.zeros_like(self.saturated)

    def add(self, draw: int, gamma: int, quantity: Quantity) -> None:
        """Add the estimate on one of the gamma parts of one random order (`draw`)."""
        self.values[draw][gamma - 1].append(quantity.value)
        self.saturated = self.saturated | _raised(quantity, "saturated")
        self.too_small = self.too_small | _raised(quantity, "few_samples", "degenerate", "single_class")

    def by_snapshot(self) -> list[list[FloatArray]]:
        """Return for each snapshot a list over gamma = 1, 2, ... of the estimates (draws, gamma) on that many parts."""
        # stacked[gamma - 1] is (S, draws, gamma).
        stacked = [
            torch.stack([torch.stack(draw[i], -1) for draw in self.values], 1).cpu().numpy()
            for i in range(len(self.values[0]))
        ]
        return [[array[i] for array in stacked] for i in range(len(stacked[0]))]


def _raised(quantity: Quantity, *flags: str) -> Tensor:
    """Return whether one of these flags of the quantity is up, (S,); a flag that it does not have is not."""
    up = torch.zeros(quantity.value.shape, dtype=torch.bool, device=quantity.value.device)
    for flag in flags:
        up = up | quantity.flags.get(flag, up)
    return up


class _Line(NamedTuple):
    """The fit of a line to the means over parts, for one snapshot; without a fit the numbers are NaN."""

    value: float = math.nan  # the intercept
    low: float = math.nan
    high: float = math.nan
    curvature: float = math.nan  # quadratic term of a parabola
    curvature_half: float = math.nan  # half the width of its 95 % interval
    gammas: float = 0.0  # how many were kept
    spread: float = math.nan  # standard deviation of the value between random orders
    moved: bool = False  # whether the means still bend, or the value is another without the whole sample


def _continued(name: str, quantity: Quantity, parts: _Parts, targets: bool) -> dict[str, Quantity]:
    """Return the quantity continued to 1/N = 0 by its name, and its "plain", "curvature", "gammas", "spread".

    `quantity` is the estimate on all samples; `targets` says whether Y are real targets.
    """
    # One snapshot after the other, so that cutting a run into blocks changes nothing.
    lines = [_line(values) for values in parts.by_snapshot()]
    # A column (S,) for each field of the lines.
    columns = {key: quantity.value.new_tensor([getattr(line, key) for line in lines]) for key in _Line._fields}
    value = torch.where(parts.saturated, math.nan, columns["value"])
    few = len(parts.values[0]) < LEAST
    # With targets the ceiling is log2 of the number of samples, which says nothing about infinitely many.
    ceiling = None if targets else quantity.ceiling
    unsure = columns["moved"].bool() | ~torch.isfinite(value)
    if ceiling is not None:
        unsure = unsure | above_ceiling(value, ceiling)
    # A flag that is up for the whole sample already says nothing about the size of the parts.
    too_small = parts.too_small & ~_raised(quantity, "few_samples", "degenerate", "single_class")
    flags = {
        **quantity.flags,
        "saturated": parts.saturated,
        "few_samples": _raised(quantity, "few_samples") | too_small | few,
        "unreliable": _raised(quantity, "unreliable") | (unsure & ~parts.saturated & (columns["gammas"] > 0)),
    }
    same: dict[str, Any] = {"estimand": quantity.estimand, "flags": flags}
    line = Quantity(value=value, low=columns["low"], high=columns["high"], ceiling=ceiling, **same)
    out = {name: line, f"{name} plain": quantity}
    out |= report(f"{name} curvature", columns["curvature"], half=columns["curvature_half"], **same)
    out |= report(f"gammas of {name} kept", columns["gammas"], unit="gammas")
    if len(parts.values) > 1:
        out |= report(f"{name} spread", columns["spread"], **same)
    return out


def _line(values: list[FloatArray]) -> _Line:
    """Fit a line to the means of one snapshot's estimates (draws, gamma), one array for each gamma = 1, 2, ..."""
    count = len(values)
    if count < LINE:
        return _Line()
    means = np.array([v.mean() for v in values])
    # Leave out the largest gammas, the smallest parts, until the rest lie on a line.
    kept = count
    while kept >= LEAST and _bends(means[:kept]):
        kept -= 1
    straight = kept >= min(LEAST, count)
    kept = max(kept, min(LEAST, count))
    values, means = values[:kept], means[:kept]
    line, quadratic = _polynomial(means, 1), _polynomial(means, 2)
    value = float(line.terms[0])
    other = float(_polynomial(means[1:], 1, first=2).terms[0])  # what the parts say without the whole
    # An estimate on N / gamma samples has gamma times the variance s^2 of one on N: squares of gamma estimates about
    # their mean, over gamma, come to (gamma - 1) s^2 in each draw.
    squares = sum(float(np.square(v - v.mean(1, keepdims=True)).sum()) / v.shape[1] for v in values)
    sampling = squares / (len(values[0]) * sum(range(kept)))
    half = _student(kept - 1) * math.sqrt(sampling + float(line.errors[0]) ** 2)
    # The interval holds what a parabola says as well: whether the points lie on a line is not known for certain.
    ends = (value, float(quadratic.terms[0])) if kept > LINE else (value,)
    intercepts = [_polynomial(np.array([v[d].mean() for v in values]), 1).terms[0] for d in range(len(values[0]))]
    return _Line(
        value=value,
        low=min(ends) - half,
        high=max(ends) + half,
        curvature=float(quadratic.terms[2]),
        curvature_half=_student(kept - 3) * float(quadratic.errors[2]) if kept > LINE else math.nan,
        gammas=float(kept),
        spread=float(np.std(intercepts, ddof=1)) if len(intercepts) > 1 else math.nan,
        moved=not straight or abs(other - value) > MOVED * max(abs(value), NEAR_ZERO),
    )


class _Polynomial(NamedTuple):
    """Coefficients in rising order, their standard errors, and the degrees of freedom left."""

    terms: FloatArray
    errors: FloatArray
    free: int


def _polynomial(means: FloatArray, degree: int, first: int = 1) -> _Polynomial:
    """Return the least-squares polynomial through the means (G,) at gamma = first, first + 1, ..."""
    # terms = (P'P)^-1 P'm with P the powers of gamma; their variances: the diagonal of (P'P)^-1, times the residual's.
    powers = np.vander(np.arange(first, first + len(means), dtype=np.float64), degree + 1, increasing=True)
    inverse = np.linalg.inv(powers.T @ powers)
    terms = inverse @ (powers.T @ means)
    left, free = means - powers @ terms, len(means) - degree - 1
    return _Polynomial(terms, np.sqrt(float(left @ left) / max(free, 1) * inverse.diagonal()), free)


def _bends(means: FloatArray) -> bool:
    """Return whether the means (G,) at gamma = 1, 2, ... bend off a line, by more than chance and enough to matter."""
    line, (terms, errors, free) = _polynomial(means, 1), _polynomial(means, 2)
    if abs(terms[2]) <= _student(free) * errors[2]:
        return False
    # How far the value moves counts only while there are more than `LEAST` means, so that one can be left out.
    moves = len(means) > LEAST and abs(terms[0] - line.terms[0]) > BENT
    return bool(moves or abs(terms[2]) > CURVED * abs(terms[1]))


def _student(free: int) -> float:
    """Return the 97.5 % point of Student's t with `free` degrees of freedom."""
    return float(stdtrit(free, 0.975))
