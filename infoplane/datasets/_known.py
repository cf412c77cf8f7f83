"""Random problems whose mutual information is known, to test estimators on fresh data."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from infoplane.core.records import FloatArray
from infoplane.core.units import BITS_PER_NAT


class Known(NamedTuple):
    """Samples of two variables and their mutual information.

    Attributes
    ----------
    t : (N, units) float64, or (N,) int64 codes
    y : (N,) int64 classes, or (N, k) float64
    bits : float
        I(T;Y) of the law the samples come from, in bits: closed form, or quadrature with an error below 1e-6.
    """

    t: npt.NDArray[Any]
    y: npt.NDArray[Any]
    bits: float


def gaussian_pair(
    samples: int, *, bits: float, dims: int = 1, units: int | None = None, noise: float = 0.0, seed: int = 0
) -> Known:
    """Draw two Gaussian vectors with `bits` of information, spread evenly over `dims` pairs of coordinates.

    Each pair of unit-variance coordinates has correlation sqrt(1 - 2^(-2 bits / dims)).

    Parameters
    ----------
    units : int or None
        Both are turned by random orthonormal maps into this many coordinates, without loss; None keeps `dims`.
    noise : float
        Std of isotropic noise added to both after that: it takes some information, and `bits` of the result
        says what is left.
    """
    require(bits >= 0, f"bits must not be negative, got {bits}")
    require(units is None or units >= dims, f"units must be at least dims ({dims}), got {units}")
    require(noise >= 0, f"noise must not be negative, got {noise}")
    rng = np.random.default_rng(seed)
    rho = math.sqrt(1.0 - 2.0 ** (-2.0 * bits / dims))
    a = rng.standard_normal((samples, dims))
    b = rho * a + math.sqrt(1.0 - rho**2) * rng.standard_normal((samples, dims))
    sides = []
    for side in (a, b):
        turned = side if units is None else side @ orthonormal(dims, units, rng)
        sides.append(turned + noise * rng.standard_normal(turned.shape))
    # The noise within the span of the signal lowers the correlation, the rest of it is independent of all.
    rho /= 1.0 + noise**2  # I = -dims / 2 log2(1 - rho^2)
    return Known(sides[0], sides[1], -0.5 * dims * math.log2(1.0 - rho**2))


def gaussian_classes(
    samples: int,
    *,
    means: npt.ArrayLike,
    stds: npt.ArrayLike = 1.0,
    weights: npt.ArrayLike | None = None,
    units: int | None = None,
    seed: int = 0,
) -> Known:
    """Draw classes that are isotropic Gaussians on a line or in a plane, turned into `units` coordinates.

    Parameters
    ----------
    means : (K,) or (K, 2)
        The middle of each class.
    stds : float or (K,)
    weights : (K,) or None
        Probabilities of the classes; None makes them equal.
    units : int or None
        The remaining coordinates are standard normal noise that says nothing of the class; all are turned by a
        random rotation.
    """
    mu = np.atleast_2d(np.asarray(means, np.float64).T).T  # (K,) becomes (K, 1)
    classes, dims = mu.shape
    require(dims in (1, 2), f"means must have shape (classes,) or (classes, 2), got {np.shape(means)}")
    sigma = np.broadcast_to(np.asarray(stds, np.float64), (classes,))
    require(bool((sigma > 0).all()), f"stds must be positive, got {sigma.tolist()}")
    p, rng, y = _classes(weights, classes, samples, seed)
    t = mu[y] + sigma[y, None] * rng.standard_normal((samples, dims))
    reach = 9.0 * sigma[:, None]  # of the integral: a Gaussian has 1e-18 of its mass beyond
    step = float(sigma.min()) / (40.0 if dims == 1 else 6.0)
    density = partial(_gaussians, means=mu, stds=sigma)
    bits = _class_information(density, p, (mu - reach).min(0), (mu + reach).max(0), step)
    return Known(_turn(t, units, rng), y, bits)


def gaussian_shells(
    samples: int, *, stds: npt.ArrayLike, dims: int, weights: npt.ArrayLike | None = None, seed: int = 0
) -> Known:
    """Draw classes that differ in their spread only: T given Y = k is N(0, stds[k]^2) in `dims` dimensions.

    Means, and so linear methods, see nothing. The information is that of the radius, by quadrature.
    """
    sigma = np.asarray(stds, np.float64)
    p, rng, y = _classes(weights, len(sigma), samples, seed)
    t = sigma[y, None] * rng.standard_normal((samples, dims))

    def density(log_radius: FloatArray) -> FloatArray:
        """Return the densities (n, K) of log r in each class at points (n, 1)."""
        # Up to the factor that all classes share: r^dims / sigma^dims exp(-r^2 / 2 sigma^2).
        scaled = log_radius - np.log(sigma)
        log = dims * scaled - 0.5 * np.exp(2.0 * scaled)
        return np.asarray(np.exp(log - (0.5 * dims - 1.0) * math.log(2.0) - math.lgamma(0.5 * dims)))

    # Near the most likely log r of a class of std 1. Downwards the density of log r falls as r^dims, upwards faster: at
    # these ends it is below e^-40 of its peak.
    centre = 0.5 * math.log(dims)
    low, high = math.log(sigma.min()) + centre - 40.0 / dims - 4.0, math.log(sigma.max()) + centre + 4.0
    bits = _class_information(density, p, np.array([low]), np.array([high]), 1.0 / (40.0 * math.sqrt(dims)))
    return Known(t, y, bits)


def uniform_classes(samples: int, *, classes: int, seed: int = 0) -> Known:
    """Draw T uniform on [Y, Y + 2] with Y uniform on 0 ... classes - 1 (Gao et al., 2017).

    I = log2 m - (m - 1) / m bits for m classes.
    """
    require(classes >= 1, f"classes must be positive, got {classes}")
    rng = np.random.default_rng(seed)
    y = rng.integers(classes, size=samples)
    t = y + 2.0 * rng.random(samples)
    return Known(t[:, None], y, math.log2(classes) - (classes - 1) / classes)


def signed_bits(samples: int, *, gains: npt.ArrayLike, units: int | None = None, seed: int = 0) -> Known:
    """Draw one unit per bit of the class: T_j = gains[j] * (+1 or -1) + standard normal noise, then turned.

    Y has 2^m classes for m gains, so the information lies in m dimensions; it is the sum of m binary-input
    Gaussian channels, by quadrature. Further `units` are noise.
    """
    gain = np.atleast_1d(np.asarray(gains, np.float64))
    rng = np.random.default_rng(seed)
    y = rng.integers(2 ** len(gain), size=samples)
    sign = 2.0 * ((y[:, None] >> np.arange(len(gain))) & 1) - 1.0  # (N, m), bit j of the class as -1 or +1
    t = gain * sign + rng.standard_normal(sign.shape)
    return Known(_turn(t, units, rng), y, sum(binary_channel(1.0 / g) if g else 0.0 for g in np.abs(gain)))


def zero_inflated(
    samples: int, *, means: npt.ArrayLike, weights: npt.ArrayLike | None = None, units: int = 1, seed: int = 0
) -> Known:
    """Draw a ReLU unit: T = max(0, Z) with Z ~ N(means[Y], 1), so T has an atom at 0 and a density above.

    The information is that of the atom and of the density, by quadrature. Further `units` are rectified noise.
    """
    mu = np.asarray(means, np.float64)
    p, rng, y = _classes(weights, len(mu), samples, seed)
    t = rng.standard_normal((samples, units))
    t[:, 0] += mu[y]
    at_zero = np.array([0.5 * math.erfc(m / math.sqrt(2.0)) for m in mu])  # P(T = 0 | y) = Phi(-m)
    atom = _sum_log_ratio(at_zero[None], p)
    density = partial(_gaussians, means=mu[:, None], stds=np.ones(len(mu)))
    above = _class_information(density, p, np.array([0.0]), np.array([max(float(mu.max()), 0.0) + 9.0]), 1e-3)
    return Known(np.maximum(t, 0.0), y, atom + above)


def code_table(samples: int, *, codes: int, classes: int, concentration: float = 1.0, seed: int = 0) -> Known:
    """Draw codes and classes from a random joint table; with fewer samples than codes it is undersampled.

    The table is drawn from a Dirichlet law with the given concentration per cell: below 1 few cells carry
    most of the mass. `bits` is exact for the table. `t` is (N,) int64.
    """
    rng = np.random.default_rng(seed)
    mass = rng.gamma(concentration, size=(codes, classes))
    table = mass / mass.sum()
    drawn = rng.choice(codes * classes, samples, p=table.ravel())
    t, y = np.divmod(drawn, classes)
    return Known(t, y, table_information(table))


def discrete_codes(
    samples: int, *, words: int, ways: int, classes: int, concentration: float = 0.3, seed: int = 0
) -> Known:
    """Draw codes of `words` places with one of `ways` values each, place by place from a law of the class.

    The laws come from a Dirichlet law with the given concentration per value: the smaller, the more a place says.
    Given the class the places are independent, so the table of all ways ** words codes, and with it `bits`, is exact:
    the form of discrete infomax codes (Lee et al., 2020). Classes are equally likely. `t` is (N, words) float64, whole
    numbers from 0 to ways - 1, which `binning` with as many bins as ways reads without loss.
    """
    codes = ways**words
    require(codes * classes <= 1 << 22, f"ways ** words * classes must be at most {1 << 22}, got {codes * classes}")
    rng = np.random.default_rng(seed)
    mass = rng.gamma(concentration, size=(classes, words, ways))
    laws = mass / mass.sum(2, keepdims=True)
    table = np.full((1, classes), 1.0 / classes)
    for place in range(words):  # (codes of the places so far, classes) -> (ways times as many, classes)
        table = (table[:, None] * laws[:, place].T).reshape(-1, classes)
    y = rng.integers(classes, size=samples)
    # The value of a place: how many of its cumulative probabilities a uniform number has passed.
    below = rng.random((samples, words, 1)) >= laws[y].cumsum(2)[:, :, :-1]
    return Known(below.sum(2).astype(np.float64), y, table_information(table))


def table_information(table: FloatArray) -> float:
    """Return the mutual information in bits of a joint probability table (codes, classes)."""
    outer = table.sum(1, keepdims=True) * table.sum(0, keepdims=True)  # p(t) p(y)
    positive = table > 0
    return float((table[positive] * np.log2(table[positive] / outer[positive])).sum())


def noise_channel(samples: int, *, dims: int, noise: float, units: int | None = None, seed: int = 0) -> Known:
    """Draw corners of a cube through Gaussian noise: T = turn(X) + noise * Z, X uniform on {-1, 1}^dims.

    `y` holds the corner of each row, (N,) int64; `bits` is I(X;T), the sum of `dims` binary-input channels.
    """
    require(noise > 0, f"noise must be positive, got {noise}")
    units = dims if units is None else units
    rng = np.random.default_rng(seed)
    corner = rng.integers(2**dims, size=samples)
    x = 2.0 * ((corner[:, None] >> np.arange(dims)) & 1) - 1.0
    clean = x @ orthonormal(dims, units, rng)
    return Known(clean + noise * rng.standard_normal(clean.shape), corner, dims * binary_channel(noise))


def binary_channel(noise: float) -> float:
    """Return the bits that T = X + noise * Z tells of X uniform on {-1, 1}, by quadrature."""
    # I = 1 - E[log2(1 + exp(-2 gain (gain + Z)))] with Z standard normal.
    gain = 1.0 / noise
    z = np.linspace(-12.0, 12.0, 4801)
    weight = np.exp(-0.5 * z**2) / math.sqrt(2.0 * math.pi) * (z[1] - z[0])
    return float(1.0 - (weight * np.logaddexp(0.0, -2.0 * gain * (gain + z))).sum() * BITS_PER_NAT)


def orthonormal(dims: int, units: int, rng: np.random.Generator) -> FloatArray:
    """Draw random orthonormal rows (dims, units)."""
    require(units >= dims, f"units must be at least {dims}, got {units}")
    q, r = np.linalg.qr(rng.standard_normal((units, dims)))
    # With a positive diagonal of r the rows have no preferred orientation.
    return np.asarray((q * np.sign(np.diag(r))).T)


def _turn(t: FloatArray, units: int | None, rng: np.random.Generator) -> FloatArray:
    """Add standard normal coordinates to `t` (N, dims) until it has `units`, and rotate all at random: (N, units).

    Return `t` as it is for None, and for one coordinate, which cannot be rotated.
    """
    if units is None or units == t.shape[1] == 1:
        return t
    require(units >= t.shape[1], f"units must be at least {t.shape[1]}, got {units}")
    whole = np.concatenate([t, rng.standard_normal((len(t), units - t.shape[1]))], axis=1)
    return whole @ orthonormal(units, units, rng)


def _classes(
    weights: npt.ArrayLike | None, classes: int, samples: int, seed: int
) -> tuple[FloatArray, np.random.Generator, npt.NDArray[np.int64]]:
    """Return probabilities (K,) of the classes, the generator of the problem, and classes (N,) that it has drawn."""
    p = np.full(classes, 1.0 / classes) if weights is None else np.asarray(weights, np.float64)
    valid = p.shape == (classes,) and bool((p > 0).all()) and abs(float(p.sum()) - 1.0) < 1e-9
    require(valid, f"weights must be {classes} positive numbers that sum to 1, got {p.tolist()}")
    rng = np.random.default_rng(seed)
    return p, rng, rng.choice(classes, samples, p=p)


def _gaussians(points: FloatArray, means: FloatArray, stds: FloatArray) -> FloatArray:
    """Return the densities (n, K) of isotropic Gaussians with means (K, dims) and stds (K,) at points (n, dims)."""
    square = ((points[:, None] - means) ** 2).sum(2)  # (n, K)
    return np.asarray(np.exp(-0.5 * square / stds**2) / (math.sqrt(2.0 * math.pi) * stds) ** means.shape[1])


def _class_information(
    density: Callable[[FloatArray], FloatArray], p: FloatArray, low: FloatArray, high: FloatArray, step: float
) -> float:
    """Return the information in bits between a class and a point, by integration over the point.

    `density` gives, for points (n, dims), their densities (n, K) in each class; `p` (K,) are the probabilities of the
    classes. The points fill the box from `low` to `high`, (dims,) each, at distances of at most `step`; dims is 1 or 2.
    """
    # In the plane the trapezoid rule converges exponentially for Gaussians that vanish at the edges; in one dimension
    # Simpson's rule also serves densities that end at an edge. It needs an odd number of points, hence the 2 and + 1.
    axes = [np.linspace(a, b, 2 * math.ceil((b - a) / step / 2.0) + 1) for a, b in zip(low, high, strict=True)]
    if len(axes) == 1:
        x = axes[0]
        simpson = np.ones(len(x))
        simpson[1:-1:2], simpson[2:-1:2] = 4.0, 2.0
        return _sum_log_ratio(density(x[:, None]), p, simpson * (x[1] - x[0]) / 3.0)
    u, v = axes
    area = (u[1] - u[0]) * (v[1] - v[0])
    total = 0.0
    for value in u:
        line = np.stack([np.full(len(v), value), v], axis=1)
        total += _sum_log_ratio(density(line), p, np.full(len(v), area))
    return total


def _sum_log_ratio(density: FloatArray, p: FloatArray, weight: FloatArray | None = None) -> float:
    """Return sum_n w_n sum_k p_k f_k(n) log2 (f_k(n) / f(n)), with `density` f (n, K) and f(n) = sum_k p_k f_k(n).

    `weight` has the w_n, (n,), as those of a quadrature; they are 1 by default.
    """
    mixture = density @ p
    ratio = density / np.where(mixture > 0, mixture, 1.0)[:, None]
    # Where a density is 0 its term is 0: the logarithm of 1 stands for that of 0.
    terms = (p * density * np.log2(np.where(ratio > 0, ratio, 1.0))).sum(1)
    return float(terms.sum() if weight is None else (weight * terms).sum())


def require(condition: bool, message: str) -> None:
    """Raise ValueError with this message unless the condition holds."""
    if not condition:
        raise ValueError(message)
