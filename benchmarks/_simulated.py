"""Pairs of known information that networks are trained on in `benchmarks.mist`; the tested ones are of other laws.

A pair is one law or two side by side, each side bent, sheared, mixed and padded by maps that keep information. No
tested law but the Gaussian and the t law is among them: no cubes, normal cdfs, tanh of mixtures, swirls, circles or
repeated values.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import special

from benchmarks._problems import Array, Rng, t_excess, turned

MOST_NATS = 8.0


class Pair(NamedTuple):
    """Samples of two sides (N, D) and (N, k), and their information in nats."""

    x: Array
    y: Array
    nats: float


# Laws of known information -----------------------------------------------------------------------------------------
def gaussian(rng: Rng, n: int) -> Pair:
    """Correlated Gaussian units, each pair with a share of its own."""
    dims = int(rng.integers(1, 5))
    nats = rng.uniform(0, min(3.0 * dims, MOST_NATS)) * rng.dirichlet(np.full(dims, 2.0))
    rho = np.sqrt(1 - np.exp(-2 * nats))
    x, z = rng.standard_normal((2, n, dims))
    return Pair(x, rho * x + np.sqrt(1 - rho**2) * z, float(nats.sum()))


def student(rng: Rng, n: int) -> Pair:
    """A multivariate t law: even without correlation both sides know of their common scale."""
    x, y, nats = gaussian(rng, n)
    dims, nu = x.shape[1], float(rng.uniform(4, 15))
    scale = np.sqrt(nu / rng.chisquare(nu, (n, 1)))
    return Pair(x * scale, y * scale, nats + 2 * t_excess(dims, nu) - t_excess(2 * dims, nu))


WIDTH = 3.4
WAVES: dict[str, Callable[[Array], Array]] = {
    "line": lambda x: x,
    "wave": lambda x: np.sin(2 * x),
    "waves": lambda x: np.sin(4 * x),
    "bowl": lambda x: x**2,
    "roof": np.abs,
    "step": lambda x: np.tanh(4 * x),
}


@functools.cache
def channel_nats(wave: str, uniform: bool, laplace: bool, std: float) -> float:
    """I(X; f(X) + noise) = h(Y) - h(noise), the density of Y a mean over a thousand quantiles of X."""
    share = (np.arange(1000) + 0.5) / 1000
    centres = WAVES[wave](WIDTH * (share - 0.5) if uniform else special.ndtri(share))[:, None]
    grid, step = np.linspace(centres.min() - 12 * std, centres.max() + 12 * std, 1200, retstep=True)
    off = (grid - centres) / std
    density = np.exp(-np.abs(off) if laplace else -0.5 * off**2).mean(0)
    total = 2.0 if laplace else math.sqrt(2 * math.pi)  # of the noise, unscaled; its entropy is log total + 1 or 1/2
    density /= total * std
    own = math.log(total) + (1.0 if laplace else 0.5)
    return float(special.entr(density).sum() * step - own - math.log(std))


def channel(rng: Rng, n: int) -> Pair:
    """Y = f(X) + noise in one to three units, f monotone or not."""
    wave, std = str(rng.choice(list(WAVES))), float(rng.choice([0.05, 0.1, 0.2, 0.4, 0.8, 1.5]))
    uniform, laplace, size = rng.random() < 0.5, rng.random() < 0.5, (n, int(rng.integers(1, 4)))
    x = WIDTH * (rng.random(size) - 0.5) if uniform else rng.standard_normal(size)
    y = WAVES[wave](x) + std * (rng.laplace(size=size) if laplace else rng.standard_normal(size))
    return Pair(x, y, size[1] * channel_nats(wave, uniform, laplace, std))


class Clusters(NamedTuple):
    """Weights (K,), centres (K, D) and (K, k), and a std for each cluster and side: independent sides in a cluster."""

    weights: Array
    x: Array
    y: Array
    stds: Array

    def draw(self, rng: Rng, n: int) -> tuple[Array, Array]:
        c = rng.choice(len(self.weights), n, p=self.weights)
        x, y = (m[c] + self.stds[c, i, None] * rng.standard_normal(m[c].shape) for i, m in enumerate((self.x, self.y)))
        return x, y

    def log_ratios(self, x: Array, y: Array) -> Array:
        """log p(x,y)/p(x)p(y) of each row; their mean is the information."""
        logs = [
            -0.5 * ((z[:, None] - m) ** 2).sum(2) / s**2 - m.shape[1] * np.log(s)
            for z, m, s in zip((x, y), (self.x, self.y), self.stds.T, strict=True)
        ]
        both, one, two = (special.logsumexp(part + np.log(self.weights), 1) for part in (logs[0] + logs[1], *logs))
        return np.asarray(both - one - two)


def mixture(rng: Rng, n: int) -> Pair:
    """Gaussian clusters that both sides share; the truth is a mean over 2,000 fresh draws, error about .02 nat."""
    k, dims = int(rng.integers(2, 9)), rng.integers(1, 4, 2)
    centres = [rng.uniform(1, 4) * rng.standard_normal((k, d)) for d in dims]
    law = Clusters(rng.dirichlet(np.full(k, 3.0)), *centres, rng.uniform(0.3, 1.2, (k, 2)))
    return Pair(*law.draw(rng, n), float(law.log_ratios(*law.draw(rng, 2000)).mean()))


def unrelated(rng: Rng, n: int) -> Pair:
    """One to four units a side that know nothing of each other."""
    draws = (rng.standard_normal, lambda s: rng.standard_t(4, s), rng.random, rng.standard_exponential)
    x, y = (draws[rng.integers(len(draws))]((n, int(rng.integers(1, 5)))) for _ in range(2))
    return Pair(x, y, 0.0)


LAWS = (gaussian, student, channel, mixture, unrelated)


# Maps that keep information ----------------------------------------------------------------------------------------
def bent(z: Array, rng: Rng) -> Array:
    """Every unit through one increasing map."""
    power, maps = float(rng.uniform(0.5, 1.8)), int(rng.integers(4))
    z = z / z.std(0)
    return (z, np.arcsinh(3 * z), np.sign(z) * np.abs(z) ** power, np.exp(0.7 * z))[maps]


def sheared(z: Array, rng: Rng) -> Array:
    """The last unit moved by a wave of the first: one-to-one."""
    if z.shape[1] > 1:
        z = z.copy()
        z[:, -1] += rng.uniform(0.3, 2) * z[:, -1].std() * np.sin(rng.uniform(1, 3) * z[:, 0] / z[:, 0].std())
    return z


def mixed(z: Array, rng: Rng) -> Array:
    """Units turned and stretched, at times into up to 32 units."""
    dims = z.shape[1]
    wide = max(dims, int(2 ** rng.uniform(1, 5.04))) if rng.random() < 0.3 else dims
    return turned(z / z.std(0) * rng.uniform(0.4, 1, dims), wide, rng)


def padded(z: Array, rng: Rng) -> Array:
    """One to 24 units of noise more, few of them more often."""
    return np.concatenate([z / z.std(0), rng.standard_normal((len(z), int(2 ** rng.uniform(0, 4.6))))], 1)


def drawn(rng: Rng, n: int) -> Pair:
    """One law, or two side by side, each side through maps."""
    parts = [LAWS[rng.integers(len(LAWS))](rng, n) for _ in range(1 + (rng.random() < 0.3))]
    sides = [np.concatenate([getattr(p, side) for p in parts], 1) for side in ("x", "y")]
    for i in range(2):
        for change, chance in ((padded, 0.2), (bent, 0.5), (sheared, 0.25), (mixed, 0.5), (bent, 0.3)):
            if rng.random() < chance:
                sides[i] = change(sides[i], rng)
    return Pair(*sides, sum(p.nats for p in parts))
