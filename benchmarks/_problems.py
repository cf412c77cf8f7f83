"""Random problems of known information for `benchmarks.silent`: samples, truths in nats, and what kind they are.

Every truth is a closed form, a quadrature, or, for a mixture of one Gaussian per sample, a sum over draws of its own
noise. A truth belongs to an estimand: `nats` is I(T;Y) of the law; other estimands have theirs in `truths`.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import special, stats
from torch import Tensor

from infoplane import datasets

Array = npt.NDArray[np.float64]
Rng = np.random.Generator
SIZES, SIZE_WEIGHTS = (500, 1000, 2000, 4000, 8000), (0.25, 0.3, 0.25, 0.12, 0.08)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Samples of T and Y, and what is known of them.

    Attributes
    ----------
    kind : "classes", "pairs", "codes", "noise" or "logits"
    family : str
        Which law within the kind.
    settings : dict
        Of the law, for the list of what went wrong: sizes, information, shape.
    t : (N, D) tensor
    y : (N,) int64 or float64, or (N, k) float64
    nats : float
        I(T;Y) of the law; nan where no estimator is asked for it.
    x, x_ids, noise_std
        Inputs, their ids, and the std of the noise that the network adds after the layer, where there is one.
    truths : dict from (estimator, quantity) to nats
        Truths of other estimands: of the cells of a binning, of the layer seen through noise.
    """

    kind: str
    family: str
    settings: dict[str, Any]
    t: Tensor
    y: Tensor
    nats: float = math.nan
    x: Tensor | None = None
    x_ids: Tensor | None = None
    noise_std: float | None = None
    truths: dict[tuple[str, str], float] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        return len(self.t)

    @property
    def units(self) -> int:
        return self.t.shape[1]


# Quadrature --------------------------------------------------------------------------------------------------------
def class_nats(density: Array, p: Array, weight: Array | float = 1.0) -> float:
    """I between class and point: class densities (G, K) at points of quadrature weight (G,), class weights (K,)."""
    mixture = density @ p
    ratio = density / np.where(mixture > 0, mixture, 1.0)[:, None]
    terms = (p * density * np.log(np.where(ratio > 0, ratio, 1.0))).sum(1)
    return float((weight * terms).sum())


def flipped(density: Array, p: Array, share: float) -> tuple[Array, Array]:
    """Densities and weights of labels of which a `share` is redrawn from all classes alike."""
    k = len(p)
    channel = (1 - share) * np.eye(k) + share / k  # P(y' | y)
    weights = p @ channel
    return density @ (channel * p[:, None] / weights), weights


def redrawn(y: Array, classes: int, share: float, rng: Rng) -> Array:
    return np.where(rng.random(len(y)) < share, rng.integers(classes, size=len(y)), y)


def mixture_nats(t: Tensor, y: Tensor, std: float, seed: int, draws: int = 4) -> tuple[float, float]:
    """I(X;T+Z) and I(T+Z;Y) of X uniform on the rows: log-densities at draws of the noise, error about .02 nat."""
    t = t.double()
    g = torch.Generator().manual_seed(seed)
    whole = within = own = 0.0
    same = y[:, None] == y
    size = same.sum(1).double().log()
    for _ in range(draws):
        z = t + std * torch.randn(t.shape, generator=g, dtype=torch.float64)
        log = -0.5 * torch.cdist(z, t).square() / std**2
        whole += float((log.logsumexp(1) - math.log(len(t))).mean())
        within += float((log.where(same, torch.tensor(-math.inf)).logsumexp(1) - size).mean())
        own += float(log.diagonal().mean())
    return (own - whole) / draws, (within - whole) / draws


# Maps that keep information ----------------------------------------------------------------------------------------
def turned(z: Array, units: int, rng: Rng) -> Array:
    return z @ datasets.orthonormal(z.shape[1], units, rng)


def curved(z: Array, units: int, rng: Rng) -> Array:
    """tanh of as many random mixtures as there are units: one-to-one for units >= dimensions."""
    return np.tanh(z @ rng.standard_normal((z.shape[1], units)) / math.sqrt(z.shape[1]))


def swirled(z: Array, turn: float) -> Array:
    """Points of the plane turned by an angle that grows with their radius."""
    r = np.hypot(z[:, 0], z[:, 1]) * turn
    return np.stack([np.cos(r) * z[:, 0] - np.sin(r) * z[:, 1], np.sin(r) * z[:, 0] + np.cos(r) * z[:, 1]], 1)


def on_circle(z: Array, rng: Rng) -> Array:
    """The first coordinate as an angle on most of a circle, the others as they are: a folded dimension."""
    angle = 1.9 * math.pi * special.ndtr(z[:, :1])
    return np.concatenate([np.cos(angle), np.sin(angle), z[:, 1:]], 1)


# Classes -----------------------------------------------------------------------------------------------------------
def _size(rng: Rng, most: int = 8000) -> int:
    sizes = [s for s in SIZES if s <= most]
    weights = np.array(SIZE_WEIGHTS[: len(sizes)])
    return int(rng.choice(sizes, p=weights / weights.sum()))


def _classes(family: str, settings: dict[str, Any], t: Array, y: Array, nats: float, **more: Any) -> Problem:
    tensor = torch.from_numpy(np.ascontiguousarray(t, np.float64)).float()
    labels = torch.from_numpy(np.asarray(y, np.int64))
    settings = {"N": len(t), "D": t.shape[1], "K": int(labels.max()) + 1, "nats": round(nats, 3), **settings}
    return Problem(kind="classes", family=family, settings=settings, t=tensor, y=labels, nats=nats, **more)


def gaussian_classes(rng: Rng) -> Problem:
    """Classes on a line or in a plane, among units of noise, turned or not; balanced or not; labels redrawn or not."""
    n, k = _size(rng), int(rng.choice([2, 3, 5, 10, 20]))
    gap, share = float(rng.choice([0.5, 1.0, 2.0, 4.0])), float(rng.choice([0.0, 0.0, 0.1, 0.3]))
    dims = 1 if k < 5 else int(rng.integers(1, 3))
    side = math.ceil(math.sqrt(k))
    mu = gap * (np.arange(k)[:, None] if dims == 1 else np.stack(np.divmod(np.arange(k), side), 1)).astype(float)
    p = np.full(k, 1.0 / k) if rng.random() < 0.6 else rng.dirichlet(np.full(k, 3.0))
    units = max(dims, int(rng.choice([1, 2, 4, 16, 64, 256])))
    axes = [np.arange(m.min() - 8, m.max() + 8.05, 0.1) for m in mu.T]
    grid = np.stack([a.ravel() for a in np.meshgrid(*axes, indexing="ij")], 1)
    density = np.exp(-0.5 * ((grid[:, None] - mu) ** 2).sum(2)) / (2 * math.pi) ** (dims / 2)
    noisy, weights = flipped(density, p, share)
    y = rng.choice(k, n, p=p)
    t = np.concatenate([mu[y] + rng.standard_normal((n, dims)), rng.standard_normal((n, units - dims))], 1)
    y = redrawn(y, k, share, rng)
    settings = {"gap": gap, "redrawn": share, "balanced": bool(np.ptp(p) == 0)}
    nats = class_nats(noisy, weights, 0.1**dims)
    if units > dims and rng.random() < 0.7:
        t = turned(t, units, rng)
        return _classes("gaussian", settings, t, y, nats)
    edges = {
        "binning": np.linspace(np.float32(t.min()), np.float32(t.max()), 31)[1:-1],
        "adaptive": np.quantile(t, np.linspace(0, 1, 31))[1:-1],
    }
    truths = {(name, "I(T;Y)"): _cell_truth(inner, mu, p, share) for name, inner in edges.items()}
    return _classes("gaussian", settings, t, y, nats, truths=truths)


def _cell_truth(edges: Array, mu: Array, p: Array, share: float) -> float:
    """I(cells;Y) of the law for cells between these edges in every unit: units without signal are independent."""
    edges = np.concatenate([[-np.inf], edges, [np.inf]])
    mass = [np.diff(special.ndtr(edges[:, None] - m), axis=0) for m in mu.T]  # (cells, K) for each dimension
    joint = mass[0] if len(mass) == 1 else (mass[0][:, None] * mass[1][None]).reshape(-1, len(p))
    return class_nats(*flipped(joint, p, share))


def bit_classes(rng: Rng) -> Problem:
    """One unit per bit of the class, turned among units of noise."""
    bits, gain = int(rng.integers(2, 5)), float(rng.choice([0.3, 0.6, 1.0, 2.0, 3.0]))
    units = max(bits, int(rng.choice([4, 16, 64, 256])))
    known = datasets.signed_bits(_size(rng), gains=[gain] * bits, units=units, seed=int(rng.integers(2**31)))
    return _classes("bits", {"gain": gain}, known.t, known.y, known.bits * math.log(2))


def shell_classes(rng: Rng) -> Problem:
    """Classes that differ in their spread only."""
    stds = [1.0, float(rng.choice([1.5, 3.0]))] if rng.random() < 0.6 else [1.0, 2.0, 4.0]
    dims = int(rng.choice([1, 2, 4, 8, 16]))
    known = datasets.gaussian_shells(_size(rng), stds=stds, dims=dims, seed=int(rng.integers(2**31)))
    return _classes("shells", {"stds": stds}, known.t, known.y, known.bits * math.log(2))


def uniform_classes(rng: Rng) -> Problem:
    """Overlapping uniform classes in one unit."""
    known = datasets.uniform_classes(_size(rng), classes=int(rng.choice([2, 4, 8])), seed=int(rng.integers(2**31)))
    return _classes("uniform", {}, known.t, known.y, known.bits * math.log(2))


def rectified_classes(rng: Rng) -> Problem:
    """A ReLU unit that the class moves, beside units of rectified noise."""
    k = int(rng.choice([2, 3, 5]))
    means = np.linspace(-1.0, float(rng.choice([0.0, 1.5, 4.0])), k)
    known = datasets.zero_inflated(
        _size(rng), means=means, units=int(rng.choice([1, 2, 8])), seed=int(rng.integers(2**31))
    )
    return _classes("rectified", {"means": means.round(2).tolist()}, known.t, known.y, known.bits * math.log(2))


def curved_classes(rng: Rng) -> Problem:
    """Classes in the plane seen through tanh units: few latents in many units."""
    k, gap = int(rng.choice([3, 6, 10])), float(rng.choice([0.7, 1.5, 3.0]))
    angle = 2 * math.pi * np.arange(k) / k
    known = datasets.gaussian_classes(
        _size(rng), means=gap * np.stack([np.cos(angle), np.sin(angle)], 1), seed=int(rng.integers(2**31))
    )
    t = curved(known.t, int(rng.choice([2, 8, 32, 128])), rng)
    return _classes("curved", {"gap": gap}, t, known.y, known.bits * math.log(2))


def heavy_classes(rng: Rng) -> Problem:
    """Classes on a line whose one unit is cubed: tails that lengths do not follow."""
    k, gap = int(rng.choice([2, 3, 5])), float(rng.choice([0.7, 1.5, 3.0]))
    means = gap * (np.arange(k) - (k - 1) / 2)
    known = datasets.gaussian_classes(_size(rng), means=means, seed=int(rng.integers(2**31)))
    t = np.concatenate([known.t**3, rng.standard_t(2, (len(known.t), int(rng.integers(0, 3))))], 1)
    return _classes("heavy", {"gap": gap}, t, known.y, known.bits * math.log(2))


def parity_classes(rng: Rng) -> Problem:
    """The parity of the signs of two units among others: no unit, and no line, knows anything of it."""
    n, share = _size(rng), float(rng.choice([0.0, 0.2]))
    t = rng.standard_normal((n, int(rng.choice([2, 4, 20, 64]))))
    y = redrawn(((t[:, 0] > 0) ^ (t[:, 1] > 0)).astype(int), 2, share, rng)
    nats = math.log(2) - float(stats.entropy([share / 2, 1 - share / 2]))
    return _classes("parity", {"redrawn": share}, t, y, nats)


# Pairs -------------------------------------------------------------------------------------------------------------
def _pairs(family: str, settings: dict[str, Any], t: Array, y: Array, nats: float) -> Problem:
    settings = {"N": len(t), "D": t.shape[1], "k": y.shape[1], "nats": round(nats, 3), **settings}
    t, y = np.ascontiguousarray(t, np.float64), np.ascontiguousarray(y, np.float64)
    return Problem(
        kind="pairs", family=family, settings=settings, t=torch.from_numpy(t), y=torch.from_numpy(y), nats=nats
    )


def _latents(rng: Rng, dims: int, most: float = 8.0) -> tuple[Array, Array, float]:
    """Two Gaussian vectors of `dims` correlated pairs, 0 to `most` nats spread evenly, at most 3 nats a pair."""
    nats = float(rng.choice([0.0, 0.3, 1.0, 2.0, 3.0, 5.0, 8.0]))
    nats = min(nats, most, 3.0 * dims)
    rho = math.sqrt(1.0 - math.exp(-2.0 * nats / dims))
    a, b = rng.standard_normal((2, _size(rng, 4000 if dims > 16 else 8000), dims))
    return a, rho * a + math.sqrt(1.0 - rho**2) * b, nats


def gaussian_pairs(rng: Rng) -> Problem:
    """Jointly Gaussian vectors of 1 to 64 units a side."""
    dims = int(rng.choice([1, 2, 3, 4, 8, 16, 64]))
    a, b, nats = _latents(rng, dims)
    return _pairs("gaussian", {"latents": dims}, turned(a, dims, rng), turned(b, dims, rng), nats)


def embedded_pairs(rng: Rng) -> Problem:
    """Few latents, turned into many units without loss."""
    dims, units = int(rng.choice([1, 2, 3, 4])), int(rng.choice([8, 32, 64]))
    a, b, nats = _latents(rng, dims)
    return _pairs("embedded", {"latents": dims}, turned(a, units, rng), turned(b, units, rng), nats)


def diluted_pairs(rng: Rng) -> Problem:
    """Few latents among units of noise that know nothing, all of one variance."""
    dims, units = int(rng.choice([1, 2, 3])), int(rng.choice([4, 12, 32]))
    a, b, nats = _latents(rng, dims)
    a, b = (np.concatenate([z, rng.standard_normal((len(z), units - dims))], 1) for z in (a, b))
    return _pairs("diluted", {"latents": dims}, turned(a, units, rng), turned(b, units, rng), nats)


def heavy_pairs(rng: Rng) -> Problem:
    """A multivariate t law, or cubes of a Gaussian pair."""
    dims = int(rng.choice([1, 2, 4]))
    a, b, nats = _latents(rng, dims)
    if rng.random() < 0.5:
        return _pairs("heavy", {"latents": dims, "law": "cubes"}, a**3, b**3, nats)
    nu = float(rng.choice([2.0, 3.0, 5.0]))
    scale = np.sqrt(nu / rng.chisquare(nu, (len(a), 1)))
    nats += 2 * t_excess(dims, nu) - t_excess(2 * dims, nu)
    return _pairs("heavy", {"latents": dims, "law": f"t{nu:.0f}"}, a * scale, b * scale, nats)


def t_excess(dims: int, nu: float) -> float:
    """Entropy of a multivariate t law of unit scale matrix (Guerrero-Cusumano 1996), in nats."""
    half = 0.5 * (nu + dims)
    return float(
        0.5 * dims * math.log(nu * math.pi)
        + math.lgamma(0.5 * nu)
        - math.lgamma(half)
        + half * (special.digamma(half) - special.digamma(0.5 * nu))
    )


def curved_pairs(rng: Rng) -> Problem:
    """Few latents behind tanh in as many or more units, on one side or both."""
    dims = int(rng.choice([1, 2, 3]))
    a, b, nats = _latents(rng, dims, 5.0)
    t = curved(a, int(rng.choice([dims, 8, 32])), rng)
    y = b if rng.random() < 0.5 else curved(b, int(rng.choice([dims, 8, 32])), rng)
    return _pairs("curved", {"latents": dims}, t, y, nats)


def bounded_pairs(rng: Rng) -> Problem:
    """A Gaussian pair with uniform marginals."""
    dims = int(rng.choice([1, 2, 4, 8]))
    a, b, nats = _latents(rng, dims)
    return _pairs("bounded", {"latents": dims}, special.ndtr(a), special.ndtr(b), nats)


def swirled_pairs(rng: Rng) -> Problem:
    """Planes turned by an angle that grows with the radius: dependence without correlation."""
    a, b, nats = _latents(rng, 2, 4.0)
    turn = float(rng.choice([0.5, 1.0, 2.0]))
    return _pairs("swirled", {"turn": turn}, swirled(a, turn), swirled(b, -turn), nats)


def folded_pairs(rng: Rng) -> Problem:
    """A target that runs on most of a circle."""
    dims = int(rng.choice([1, 2]))
    a, b, nats = _latents(rng, dims, 4.0)
    return _pairs("folded", {"latents": dims}, a, on_circle(b, rng), nats)


def atomic_pairs(rng: Rng) -> Problem:
    """Ratings as targets, rounded values, or a rectified layer: values that repeat."""
    n, law = _size(rng), str(rng.choice(["ratings", "rounded", "rectified"]))
    if law == "ratings":
        k, std = int(rng.choice([3, 5, 10])), float(rng.choice([0.3, 1.0, 2.0]))
        y = rng.integers(1, k + 1, n).astype(float)
        points = np.arange(1 - 8 * std, k + 8 * std, 0.02 * std)
        density = stats.norm.pdf(points[:, None], np.arange(1, k + 1), std)
        nats = class_nats(density, np.full(k, 1 / k), 0.02 * std)
        return _pairs("atomic", {"law": law, "std": std}, (y + std * rng.standard_normal(n))[:, None], y[:, None], nats)
    rho = float(rng.choice([0.5, 0.9, 0.99]))
    a, z = rng.standard_normal((2, n))
    y = rho * a + math.sqrt(1 - rho**2) * z
    if law == "rounded":
        step = float(rng.choice([0.25, 1.0]))
        nats = _cut_nats(rho, (np.arange(-40, 41) + 0.5) * step)
        y = np.round(y / step) * step
        return _pairs("atomic", {"law": law, "step": step, "rho": rho}, a[:, None], y[:, None], nats)
    return _pairs("atomic", {"law": law, "rho": rho}, np.maximum(a, 0)[:, None], y[:, None], _rectified_nats(rho))


def _cut_nats(rho: float, edges: Array) -> float:
    """I(A; cell of Y) of a Gaussian pair with correlation rho, Y cut at edges."""
    a = np.arange(-8.0, 8.005, 0.01)
    edges = np.concatenate([[-np.inf], edges, [np.inf]])
    mass = np.diff(special.ndtr((edges - rho * a[:, None]) / math.sqrt(1 - rho**2)), axis=1)  # (points, cells)
    total = np.diff(special.ndtr(edges))
    ratio = mass / np.where(total > 0, total, 1.0)
    return float((stats.norm.pdf(a)[:, None] * 0.01 * mass * np.log(np.where(ratio > 0, ratio, 1.0))).sum())


def _rectified_nats(rho: float) -> float:
    """I(max(A, 0); Y) of a Gaussian pair: the atom at 0 and the density above it."""
    y, a = np.arange(-8.0, 8.005, 0.02), np.arange(0.001, 8.0, 0.002)
    spread = math.sqrt(1 - rho**2)
    atom = special.ndtr(-rho * y / spread)
    at = np.where(atom > 0, atom * np.log(np.maximum(2 * atom, 1e-300)), 0.0)
    density = stats.norm.pdf(a, rho * y[:, None], spread)
    ratio = density / stats.norm.pdf(a)
    above = (density * np.log(np.where(ratio > 0, ratio, 1.0))).sum(1) * 0.002
    return float((stats.norm.pdf(y) * (at + above)).sum() * 0.02)


# Codes and noise ---------------------------------------------------------------------------------------------------
def coded(rng: Rng) -> Problem:
    """Codes from random tables with half a sample to five a cell."""
    classes, per_cell = int(rng.choice([2, 4, 10])), float(rng.choice([0.5, 1.0, 2.0, 5.0]))
    n = int(rng.choice([500, 1000, 2000]))
    codes = max(2, round(n / per_cell / classes))
    spread = float(rng.choice([0.3, 1.0]))
    known = datasets.code_table(n, codes=codes, classes=classes, concentration=spread, seed=int(rng.integers(2**31)))
    nats = known.bits * math.log(2)
    settings = {"N": n, "codes": codes, "K": classes, "per cell": per_cell, "spread": spread, "nats": round(nats, 3)}
    return Problem(
        kind="codes", family="table", settings=settings, t=torch.from_numpy(known.t[:, None]).double(),
        y=torch.from_numpy(known.y), nats=nats,
    )  # fmt: skip


def seen_through_noise(rng: Rng) -> Problem:
    """A deterministic layer and Gaussian noise of stated std at analysis: X uniform on the samples."""
    n, units, k = int(rng.choice([500, 1000, 2000])), int(rng.choice([1, 2, 8, 32])), int(rng.choice([2, 5, 10]))
    std = float(rng.choice([0.05, 0.2, 0.5, 1.0, 2.0]))
    y = torch.from_numpy(rng.integers(k, size=n))
    centres = torch.from_numpy(2.0 * rng.standard_normal((k, units)) / math.sqrt(units))
    t = centres[y] + torch.from_numpy(rng.standard_normal((n, units)))
    if rng.random() < 0.5:
        t = torch.tanh(t)
    t = t.float()
    i_xt, i_ty = mixture_nats(t, y, std, int(rng.integers(2**31)))
    truths = {(name, q): v for name in ("noise", "kde") for q, v in (("I(X;T)", i_xt), ("I(T;Y)", i_ty))}
    truths |= {("kde", "I(X;T) lower"): i_xt, ("kde", "I(T;Y) lower"): i_ty}
    settings = {"N": n, "D": units, "K": k, "std": std, "nats": round(i_xt, 3)}
    return Problem(kind="noise", family="added", settings=settings, t=t, y=y, truths=truths)


def logits(rng: Rng) -> Problem:
    """The output of a classifier: the class drawn from its softmax, X uniform on the probe."""
    n, k = int(rng.choice([500, 2000])), int(rng.choice([2, 5, 10]))
    y = rng.integers(k, size=n)
    t = float(rng.choice([0.3, 2.0, 8.0])) * (np.eye(k)[y] + rng.standard_normal((n, k)))
    drawn = special.softmax(t, 1)
    of_class = np.stack([drawn[y == c].mean(0) for c in range(k)])
    within = np.bincount(y, minlength=k) / n @ special.entr(of_class).sum(1)
    whole, own = special.entr(drawn.mean(0)).sum(), special.entr(drawn).sum(1).mean()
    truths = {("softmax", "I(X;T)"): float(whole - own), ("softmax", "I(T;Y)"): float(whole - within)}
    return Problem(
        kind="logits", family="softmax", settings={"N": n, "D": k, "K": k, "nats": round(float(whole - own), 3)},
        t=torch.from_numpy(t), y=torch.from_numpy(y), truths=truths,
    )  # fmt: skip


def noisy_network(rng: Rng) -> Problem:
    """A linear layer of a network that adds Gaussian noise: inputs continuous, or corners of a cube."""
    n, dims = _size(rng, 4000), int(rng.choice([1, 2, 3, 4]))
    std = float(rng.choice([0.2, 0.5, 1.0, 2.0]))
    units = dims if rng.random() < 0.5 else int(rng.choice([8, 32]))
    corners = bool(rng.random() < 0.5)
    corner = rng.integers(2**dims, size=n)
    x = 2.0 * ((corner[:, None] >> np.arange(dims)) & 1) - 1.0 if corners else rng.standard_normal((n, dims))
    clean = torch.from_numpy(turned(x, units, rng))
    y = torch.from_numpy((x[:, 0] > 0).astype(np.int64))
    law = dims * datasets.binary_channel(std) * math.log(2) if corners else 0.5 * dims * math.log1p(std**-2)
    truths = {("compressed", "I(X;T)"): law}
    ids = torch.from_numpy(corner) if corners else torch.arange(n)
    finite = law if corners else mixture_nats(clean[:2000], y[:2000], std, int(rng.integers(2**31)))[0]
    if corners or n <= 2000:
        truths["noise", "I(X;T)"] = finite
    family = "network, corners" if corners else "network, continuous"
    settings = {"N": n, "D": units, "latents": dims, "std": std, "nats": round(law, 3)}
    return Problem(
        kind="noise", family=family, settings=settings, t=clean, y=y, x=torch.from_numpy(x), x_ids=ids,
        noise_std=std, truths=truths,
    )  # fmt: skip


FAMILIES: dict[Callable[[Rng], Problem], int] = {
    gaussian_classes: 10,
    bit_classes: 4,
    shell_classes: 3,
    uniform_classes: 1,
    rectified_classes: 2,
    curved_classes: 3,
    heavy_classes: 2,
    parity_classes: 2,
    gaussian_pairs: 6,
    embedded_pairs: 3,
    diluted_pairs: 3,
    heavy_pairs: 3,
    curved_pairs: 4,
    bounded_pairs: 3,
    swirled_pairs: 2,
    folded_pairs: 2,
    atomic_pairs: 5,
    coded: 4,
    seen_through_noise: 4,
    noisy_network: 4,
    logits: 1,
}
"""How many problems of each family a seed has."""


def problem(seed: int, family: str, i: int) -> Problem:
    """The i-th problem of a family; each has its own stream, so a changed family leaves the others as they were."""
    make = next(f for f in FAMILIES if f.__name__ == family)
    return make(np.random.default_rng([seed, i, zlib.crc32(family.encode())]))


def named(families: Sequence[str] = ()) -> Iterator[tuple[str, int]]:
    """Family and number of each problem of a seed."""
    for family, count in FAMILIES.items():
        if not families or family.__name__ in families:
            yield from ((family.__name__, i) for i in range(count))


def problems(seed: int, families: Sequence[str] = ()) -> Iterator[Problem]:
    """The problems of one seed."""
    yield from (problem(seed, *name) for name in named(families))
