"""What each estimator must say of problems that are solved in closed form: one row for each, and why it may be off.

`test_truths.py` tries every row: the value on both branches, in float32, of permuted and renamed samples, of snapshots
alone, with shuffled labels, and whether its interval holds the truth.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from truths import (
    BINOMIAL_H,
    BINOMIAL_I_TY,
    FIRST_COLUMNS,
    LAST_COLUMNS,
    TWELVE_BIT_H_Y,
    copied_label,
    exclusive_or,
    from_counts,
    twelve_bit,
)

from infoplane import datasets


@dataclass(frozen=True)
class Problem:
    """Snapshots t (S, N, U) in float64 with their labels or targets, and inputs where a method looks at them."""

    t: Tensor
    y: Tensor
    x: Tensor | None = None
    x_ids: Tensor | None = None


@dataclass(frozen=True)
class Truth:
    """One row.

    `values` maps quantities to their true value, one for all snapshots or one for each; `tolerance` is how far an
    estimate may be from it and `why` the reason for just so much, `errors` how many standard errors of the estimate's
    own 95 % interval it may be off beyond that. `widest` is the most that such an interval may span, where there must
    be one. `shuffled` is the most that remains of the first quantity when the labels are shuffled; None where it
    does not depend on labels, "null" where it must be flagged `below_null`. A problem that is `large` is not tried in
    every way that must change nothing: smaller ones of the same estimator are.
    """

    spec: str
    label: str
    problem: Callable[[], Problem]
    values: Mapping[str, float | Sequence[float]]
    tolerance: float
    why: str
    errors: float = 0.0
    widest: float | None = None
    shuffled: float | str | None = None
    large: bool = False

    @property
    def name(self) -> str:
        return self.spec.partition(":")[0]

    def __str__(self) -> str:
        return f"{self.spec}-{self.label}"


# --- problems ---------------------------------------------------------------------------------------


def words() -> Problem:
    t, y = twelve_bit()
    return Problem(t[None], y)


def columns(last: bool) -> Problem:
    """Snapshot k - 1 has the first or the last k columns of the 12-bit words, and constants beside them."""
    t, y = twelve_bit()
    at = torch.arange(12)
    kept = torch.stack([at >= 12 - k if last else at < k for k in range(1, 13)])
    return Problem(t * kept[:, None], y)


def sums() -> Problem:
    t, y = twelve_bit()
    return Problem(t.sum(1)[None, :, None], y)


def two_states() -> Problem:
    """X = (0, 0, 1, 1), T = (0, 1, 2, 2): the first input is seen in two states."""
    ids = torch.tensor([0, 0, 1, 1])
    return Problem(points([0.0, 1.0, 2.0, 2.0]).t, ids, x_ids=ids)


def symmetric_channel() -> Problem:
    return Problem(*from_counts([[450, 50], [50, 450]]))


def copied() -> Problem:
    return Problem(*copied_label()[:2])


def parity(unit: slice = slice(None)) -> Problem:
    t, y = exclusive_or()
    return Problem(t[:, :, unit], y)


def points(values: Sequence[float], classes: int = 2) -> Problem:
    """Numbers on a line, with the classes in turn."""
    t = torch.tensor(values, dtype=torch.float64)[None, :, None]
    return Problem(t, torch.arange(len(values)) % classes)


def halves(values: Sequence[float]) -> Problem:
    """Numbers on a line, of one class in the lower half and of another in the upper."""
    return Problem(points(values).t, (torch.arange(len(values)) >= len(values) // 2).long())


def square() -> Problem:
    return Problem(torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]]).double()[None], torch.arange(4))


def many_times(problem: Problem, copies: int) -> Problem:
    """Every point so many times under one id."""
    ids = torch.arange(problem.t.shape[1]).repeat(copies)
    return Problem(problem.t.repeat(1, copies, 1), problem.y.repeat(copies), x_ids=ids)


def blobs(sizes: Sequence[int], gap: float = 1e3) -> Problem:
    """Classes of the given sizes, each at one point and far from the others."""
    y = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    return Problem(gap * torch.nn.functional.one_hot(y).double()[None], y)


def circle(samples: int) -> Problem:
    angle = 2 * math.pi * torch.arange(samples, dtype=torch.float64) / samples
    return Problem(torch.stack([angle.cos(), angle.sin()], 1)[None], torch.zeros(samples, dtype=torch.long))


def correlated(samples: int, correlations: Sequence[float], seed: int = 0) -> Problem:
    """Normal targets and one unit, which has another correlation with them in each snapshot."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randn(samples, generator=g, dtype=torch.float64)
    noise = torch.randn(samples, generator=g, dtype=torch.float64)
    t = torch.stack([rho * y + math.sqrt(1 - rho**2) * noise for rho in correlations])
    return Problem(t[:, :, None], y, x=y[:, None])


def normal_inputs() -> Problem:
    """2,000 samples of a unit normal law, as the clean side of a Gaussian channel."""
    t = torch.randn(1, 2000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Problem(t, torch.arange(2000) % 2)


def known(made: datasets.Known) -> Problem:
    """A problem of the package with stated information."""
    t = torch.from_numpy(np.asarray(made.t, np.float64).reshape(len(made.t), -1))
    return Problem(t[None], torch.from_numpy(made.y))


def linear_channel() -> tuple[Problem, float]:
    """T = A y + noise in 60 units, and 1/2 log2 det(I + A'A / s^2)."""
    rng = np.random.default_rng(2)
    y = rng.standard_normal((2000, 3))
    a = rng.standard_normal((3, 60)) / 8
    t = y @ a + 0.5 * rng.standard_normal((2000, 60))
    bits = 0.5 * np.linalg.slogdet(np.eye(3) + a @ a.T / 0.25)[1] / math.log(2)
    return Problem(torch.from_numpy(t)[None], torch.from_numpy(y)), float(bits)


def normal_classes(means: Sequence[float], samples: int) -> Problem:
    g = torch.Generator().manual_seed(0)
    y = torch.randint(len(means), (samples,), generator=g)
    t = torch.tensor(means, dtype=torch.float64)[y] + torch.randn(samples, generator=g, dtype=torch.float64)
    return Problem(t[None, :, None], y)


def stretched_classes() -> tuple[Problem, float]:
    """Three classes on a line in 30 units, along which the units are stretched so that its variance is the largest."""
    made = datasets.gaussian_classes(3000, means=[-1.0, 0.5, 2.0], units=30, seed=2)
    centres = np.array([made.t[made.y == c].mean(0) for c in range(3)])
    axis = centres[2] - centres[0]
    t = made.t + 4 * np.outer(made.t @ axis, axis) / (axis @ axis)
    return Problem(torch.from_numpy(t)[None], torch.from_numpy(made.y)), made.bits


def spectrum(values: Sequence[Sequence[float]], samples: int = 600) -> Problem:
    """Snapshots whose centred singular values are exactly those given."""
    g = torch.Generator().manual_seed(0)
    d = len(values[0])
    a = torch.randn(samples, d, generator=g, dtype=torch.float64)
    left = torch.linalg.qr(a - a.mean(0))[0]
    right = torch.linalg.qr(torch.randn(d, d, generator=g, dtype=torch.float64))[0]
    t = torch.stack([left * torch.tensor(v, dtype=torch.float64) @ right.T for v in values])
    return Problem(t, torch.arange(samples) % 3)


def logits(share: float, classes: int, samples: int) -> Problem:
    """Outputs that give the right class the probability `share`, and the others equal ones."""
    y = torch.arange(samples) % classes
    odds = math.log(share * (classes - 1) / (1 - share)) if share < 1 else 1e4
    return Problem(odds * torch.nn.functional.one_hot(y, classes)[None].double(), y)


# --- closed forms -----------------------------------------------------------------------------------


def entropy(p: Sequence[float]) -> float:
    return -sum(v * math.log2(v) for v in p if v > 0)


def two_points(gap: float, variance: float) -> dict[str, float]:
    """Both mixture bounds of two points: the lower one has four times the variance."""
    at = {"I(X;T)": 2 * variance, "I(X;T) lower": 8 * variance}
    return {name: -math.log2((1 + math.exp(-(gap**2) / v)) / 2) for name, v in at.items()}


def pair_bits(rho: float) -> float:
    return -0.5 * math.log2(1 - rho**2)


def gaussian_hsic(rho: float) -> float:
    """E[kl] + E[k]E[l] - 2 E[E[k|x] E[l|y]] at width 1: differences of independent pairs are Gaussian."""

    def moment(cov: list[list[float]]) -> float:
        return float(np.linalg.det(np.eye(2) + np.array(cov)) ** -0.5)

    return moment([[2, 2 * rho], [2 * rho, 2]]) + moment([[2, 0], [0, 2]]) - 2 * moment([[2, rho], [rho, 2]])


def gaussian_cs(rho: float) -> float:
    """I_CS of a unit Gaussian pair under kernels of width 1; each mean is det(I + C)^(-1/2)."""
    joint, apart, cross = (
        np.linalg.det(np.eye(2) + np.array([[2, 2 * r], [2 * r, 2]])) ** -0.5 for r in (rho, 0.0, rho / 2)
    )
    return math.log2(joint * apart / cross**2)


def distant_cs(sizes: Sequence[int]) -> float:
    p = np.array(sizes) / sum(sizes)
    return math.log2((p**2).sum() ** 3 / (p**3).sum() ** 2)


def renyi(weights: Sequence[float], alpha: float) -> float:
    p = np.asarray(weights, dtype=float)
    p = p[p > 1e-15] / p.sum()
    return entropy(p) if alpha == 1 else float(np.log2((p**alpha).sum()) / (1 - alpha))


def kernel_spectrum(problem: Problem, width: float) -> np.ndarray:
    """Eigenvalues of a circulant Gaussian kernel: the Fourier transform of its first row."""
    t = problem.t[0]
    row = np.exp(-(np.linalg.norm(t - t[0], axis=1) ** 2) / (2 * width**2))
    return np.fft.fft(row).real


def diffusion_entropy(problem: Problem, width: float, power: int) -> float:
    q = np.abs(kernel_spectrum(problem, width)) ** power
    return entropy(q / q.sum())


# --- the table --------------------------------------------------------------------------------------

EXACT = "counts are exact; rounding of a sum of logarithms"
SIX_DIGITS = "the truth is given with six digits"
TEN_DIGITS = "the truth is given with ten digits"
ROUNDED = "exact in real numbers; rounding of a kernel and its spectrum"
DRAWN = "a million to one by the standard error of the draws"
FAR_CLASSES = (10, 20, 30, 40)
CORRELATIONS = (0.0, 0.5, 0.9)
ONE_BIT_LESS_H2 = 0.5310044064107188  # 1 - H2(0.1)

MIXTURES = (  # centres, variance, lower bound, exact, upper bound
    ((-1, 1), 1.0, 0.316051, 0.485944, 0.816882),
    ((-1, 1), 0.25, 0.816882, 0.912822, 0.999516),
    ((0, 1), 0.1, 0.636543, 0.792911, 0.990312),
    ((-3, -1, 1, 3), 1.0, 0.979259, 1.219413, 1.735242),
    ((0, 0, 1, 3), 0.25, 0.945178, 1.098440, 1.366155),
)
LINE = (-3, -1, 1, 3)


def counted(spec: str) -> list[Truth]:
    """Truths of plug-in counts, which any bins that tell the given values apart must reach."""
    k = [float(n) for n in range(1, 13)]
    none = f"{spec}{',' if ':' in spec else ':'}null_draws=0"
    states = {"I(X;T)": 1.0, "H(T)": 1.5}
    whole = {"I(T;Y)": TWELVE_BIT_H_Y, "I(X;T)": 12.0, "H(T)": 12.0}
    total = {"I(T;Y)": BINOMIAL_I_TY, "H(T)": BINOMIAL_H}
    return [
        Truth(spec, "words", words, whole, 1e-9, EXACT, shuffled="null", large=True),
        Truth(none, "first columns", lambda: columns(False), {"I(T;Y)": FIRST_COLUMNS}, 1e-9, TEN_DIGITS),
        Truth(none, "last columns", lambda: columns(True), {"I(T;Y)": LAST_COLUMNS}, 1e-9, TEN_DIGITS),
        Truth(none, "bits of first columns", lambda: columns(False), {"I(X;T)": k}, 0.0, EXACT, large=True),
        Truth(none, "bits of last columns", lambda: columns(True), {"I(X;T)": k}, 0.0, EXACT, large=True),
        Truth(spec, "sums", sums, total, 1e-9, EXACT, shuffled=0.01),
        Truth(none, "one input in two states", two_states, states, 1e-9, EXACT),
        Truth(spec, "channel", symmetric_channel, {"I(T;Y)": 0.5310044064}, 1e-9, TEN_DIGITS, shuffled=0.02),
        Truth(spec, "copied label", copied, {"I(T;Y)": 2.0}, 1e-9, EXACT, shuffled=0.03),
        Truth(spec, "exclusive or", parity, {"I(T;Y)": 1.0}, 1e-9, EXACT, shuffled=0.02),
        Truth(spec, "one bit of two", lambda: parity(slice(1)), {"I(T;Y)": 0.0}, 1e-9, EXACT, shuffled=0.02),
    ]


def mixtures() -> list[Truth]:
    """Bounds (kde) and the sampled value between them (noise) on the same points."""
    rows = []
    for centres, variance, lower, exact, upper in MIXTURES:
        few, label = points(centres), f"points {centres}"
        bounds = {"I(X;T)": upper, "I(X;T) lower": lower}
        rows += [
            Truth(f"kde:variance={variance},null_draws=0", label, lambda p=few: p, bounds, 1e-6, SIX_DIGITS),
            *sampled(variance**0.5, label, few, {"I(X;T)": exact}),
        ]
    for gap, variance in ((2.0, 1.0), (0.3, 0.01), (1e-3, 0.1), (50.0, 0.1)):
        spec, at = f"kde:variance={variance},null_draws=0", functools.partial(points, (0.0, gap))
        rows.append(Truth(spec, f"two points {gap}", at, two_points(gap, variance), 1e-12, ROUNDED))
    # The corners of a square, from published bounds in nats.
    for variance, upper, lower in ((0.1, 1.372864, 0.882436), (1.0, 0.438140, 0.121096)):
        bounds = {"I(X;T)": upper / math.log(2), "I(X;T) lower": lower / math.log(2)}
        rows.append(Truth(f"kde:variance={variance},null_draws=0", "square", square, bounds, 1e-6, SIX_DIGITS))
    line, told = halves(LINE), {"I(T;Y)": 0.918361, "I(T;Y) lower": 0.663208}
    exact = {"I(T;Y)": 0.733469, "I(X;T|Y)": 1.219413 - 0.733469}
    return [
        *rows,
        Truth("kde:variance=1,null_draws=0", "labels on a line", lambda: line, told, 1e-6, SIX_DIGITS),
        *sampled(1.0, "labels on a line", line, exact),
        Truth("noise:std=0.5,null_draws=0", "channel", normal_inputs, GAUSSIAN, 0.03, CHANNEL, widest=0.01, large=True),
        Truth("kde:variance=0.25,null_draws=0", "channel", normal_inputs, CHANNEL_BOUNDS, 0.05, CHANNEL, large=True),
        *(Truth(spec, "far classes", far, {"I(T;Y)": 2.0}, 1e-6, ROUNDED, shuffled=0.1) for spec in NOISY),
    ]


CHANNEL_BOUNDS = {"I(X;T)": 1.737, "I(X;T) lower": 0.861}
GAUSSIAN = {"I(X;T)": 1.160964}
CHANNEL = "the law of 2,000 inputs is not the normal law; the spread over seeds is 0.01"
NOISY = ("kde:variance=0.04", "noise:std=0.2")


def far() -> Problem:
    return blobs((50,) * 4, gap=3.0)


def sampled(std: float, label: str, few: Problem, values: Mapping[str, float]) -> list[Truth]:
    """Rows of `noise`: 400 copies of each point under one id make the interval a hundredth wide, 60 a thirtieth."""
    spec = f"noise:std={std},null_draws=0"
    return [
        Truth(spec, label, lambda: many_times(few, 400), values, 0.0, DRAWN, errors=4.9, widest=0.02, large=True),
        Truth(spec, f"few {label}", lambda: many_times(few, 60), values, 0.0, DRAWN, errors=4.9, widest=0.06),
    ]


def pairs() -> list[Truth]:
    """Normal and linear problems: -1/2 log2 (1 - rho^2) and what follows from it."""
    rows = []
    for bits, dims in ((0.0, 1), (1.197964, 1), (2.0, 4), (6.0, 8)):
        made = datasets.gaussian_pair(4000, bits=bits, dims=dims, seed=1)
        tolerance, why = 4 * math.sqrt(dims / 4000) / math.log(2), "4 standard errors of sqrt(dims / N) nats, no bias"
        rows.append(
            Truth("gaussian", f"{dims} pairs", lambda m=made: known(m), {"I(T;Y)": bits}, tolerance, why, shuffled=0.1)
        )
    made = known(datasets.gaussian_pair(4000, bits=2.0, dims=4, seed=1))
    why = "as `gaussian`; cubes of units have the same ranks"
    cubes = Problem(made.t**3, made.y)
    rows += [
        Truth(
            "flow:steps=0", label, lambda m=p: m, {"I(T;Y)": 2.0}, 0.19, why, widest=0.3, shuffled=0.1, large=p is made
        )
        for label, p in (("4 pairs", made), ("4 cubed pairs", cubes))
    ]
    channel, bits = linear_channel()
    wide = known(datasets.gaussian_pair(2000, bits=2.0, dims=4, units=100, seed=3))
    few = known(datasets.gaussian_pair(2000, bits=1.0, dims=2, seed=12))
    lost, near = "what shrinkage loses", "3 standard errors of 0.04 bit; alone or trained among others: its own tests"
    one = known(datasets.gaussian_pair(2000, bits=1.0, dims=1, seed=12))
    rows.append(Truth("auto", "one pair", lambda: one, {"I(T;Y)": 1.0}, 0.12, "as `knn`, its branch", shuffled=0.12))
    rows.append(Truth("critic:steps=50", "pairs", lambda: few, {"I(T;Y)": 1.0}, 0.12, near, shuffled=0.07, large=True))
    rows += [
        Truth("gaussian", "linear channel", lambda: channel, {"I(T;Y)": bits}, 0.15, lost, shuffled=0.1),
        # Rank 4 in 100 units each: the naive inverse gives +148 nats.
        Truth("gaussian", "embedded pairs", lambda: wide, {"I(T;Y)": 2.0}, 0.2, lost, shuffled=0.1),
    ]
    for formula, metric in itertools.product(("ksg1", "ksg2"), ("euclidean", "max")):
        spec, why = f"knn:formula={formula},metric={metric}", "3 standard errors of 0.04 bit"
        rows.append(Truth(spec, "pairs", lambda: few, {"I(T;Y)": 1.0}, 0.12, why, shuffled=0.12, large=True))
    gao = "log(n + 1) in the place of psi: Gao's is the more biased"
    rows.append(Truth("knn:formula=gao", "pairs", lambda: few, {"I(T;Y)": 1.0}, 0.4, gao, large=True))
    targets = functools.partial(correlated, 4000, CORRELATIONS, seed=1)
    by_error, bits = "4 of its own standard errors, and the cost of a coefficient", [pair_bits(r) for r in CORRELATIONS]
    rows.append(
        Truth("probe", "pairs", targets, {"I(T;Y)": bits}, 0.001, by_error, errors=4.0, widest=0.2, shuffled=0.01)
    )
    spread = "4 of the standard deviations over repeated samples"
    hsic, cs = functools.partial(correlated, 1000, CORRELATIONS), functools.partial(correlated, 1200, CORRELATIONS)
    bits = [gaussian_hsic(r) for r in CORRELATIONS]
    rows.append(
        Truth(
            "hsic:sigma=1",
            "pairs",
            hsic,
            {"HSIC(T;Y)": bits},
            4 * 0.085 / math.sqrt(1000),
            spread,
            shuffled=0.005,
            large=True,
        )
    )
    bits = [gaussian_cs(r) for r in CORRELATIONS]
    values = {"CS-QMI(T;Y)": bits, "CS-QMI(X;T)": bits}
    rows.append(
        Truth("cs-qmi:sigma=1", "pairs", cs, values, 4 * 0.27 / math.sqrt(1200), spread, shuffled=0.01, large=True)
    )
    return rows


def classes() -> list[Truth]:
    """I(T;Y) of classes whose laws are known."""
    rows = []
    for means in ((-1.0, 1.0), (-0.3, 0.3), (0.0, 2.0, 5.0)):
        bits = datasets.gaussian_classes(10, means=means).bits
        why = "4 of its own standard errors, and K (U + 1) coefficients, each 1/(2N) nats"
        cost, at = 2 * len(means) / (2 * 4000) / math.log(2), functools.partial(normal_classes, means, 4000)
        rows.append(
            Truth("probe", f"normal {means}", at, {"I(T;Y)": bits}, cost, why, errors=4.0, widest=0.1, shuffled=0.01)
        )
    rng = np.random.default_rng(13)
    cloud, label = torch.from_numpy(rng.standard_normal((1, 1000, 3))), torch.from_numpy(rng.integers(4, size=1000))
    apart = cloud + 50 * label[:, None]
    h_y = entropy((torch.bincount(label) / 1000).tolist())
    table = datasets.code_table(1000, codes=4, classes=3, seed=5)
    relu = datasets.zero_inflated(2000, means=[-1.0, 0.0, 1.5], units=2, seed=6)
    stretched, bits = stretched_classes()
    nothing, codes = "4 standard deviations of an estimate of nothing", "a bias of 0.004 bit, 3 standard errors of 0.02"
    kept = "3 standard errors, and what the other components know"
    return [
        *rows,
        Truth("knn", "nothing", lambda: Problem(cloud, label), {"I(T;Y)": 0.0}, 0.08, nothing, shuffled=0.08),
        Truth("knn", "apart", lambda: Problem(apart, label), {"I(T;Y)": h_y}, 0.01, "log n for psi", shuffled=0.08),
        Truth("knn", "codes", lambda: known(table), {"I(T;Y)": table.bits}, 0.06, codes, shuffled=0.08),
        Truth("knn", "relu", lambda: known(relu), {"I(T;Y)": relu.bits}, 0.06, codes, shuffled=0.08),
        Truth("compressed", "stretched", lambda: stretched, {"I(T;Y)": bits}, 0.1, kept, widest=0.3, shuffled=0.1),
        Truth("softmax", "certain", lambda: logits(1.0, 4, 8), CERTAIN, 1e-12, ROUNDED),
        Truth("softmax", "channel", lambda: logits(0.9, 2, 400), SYMMETRIC, 1e-12, ROUNDED, shuffled=0.02),
    ]


CERTAIN = {"I(X;T)": 2.0, "I(T;Y)": 2.0, "I(X;T|Y)": 0.0, "H(T)": 2.0}
SYMMETRIC = {"I(T;Y)": ONE_BIT_LESS_H2, "I(X;T|Y)": 0.0}


def spectra() -> list[Truth]:
    """Kernels and covariances whose eigenvalues are known."""
    rows = []
    for normalization in ("rw", "anisotropic"):
        for power in (1, 3):
            spec, ring = f"dse:sigma=0.5,power={power},normalization={normalization}", functools.partial(circle, 40)
            rows.append(Truth(spec, "circle", ring, {"DSE": diffusion_entropy(ring(), 0.5, power)}, 1e-10, ROUNDED))
        # Kernel [[1, g], [g, 1]]: eigenvalues 1 and (1 - g) / (1 + g).
        second = (1 - math.exp(-0.5)) / (1 + math.exp(-0.5))
        value = entropy([1 / (1 + second), second / (1 + second)])
        spec, two = (
            f"dse:sigma=1,normalization={normalization}",
            lambda: Problem(points([0.0, 1.0]).t, torch.tensor([0, 0])),
        )
        rows.append(Truth(spec, "two points", two, {"DSE": value}, 1e-12, ROUNDED))
    for sizes in ((10, 10), (30, 5, 5, 2), (1, 1, 1)):
        at = functools.partial(blobs, sizes)
        rows.append(Truth("dse:sigma=1", f"clusters {sizes}", at, {"DSE": math.log2(len(sizes))}, 1e-9, ROUNDED))
    met = {"DSMI(T;Y)": 2.0, "DSE": 2.0}  # every random subset of a class's size meets all clusters
    rows.append(Truth("dse:sigma=1", "classes", lambda: blobs((25,) * 4), met, 1e-9, ROUNDED, shuffled=1e-9))
    for alpha in (0.5, 1.0, 1.01, 2.0):
        value = renyi(FAR_CLASSES, alpha)
        spec, values = f"renyi:alpha={alpha},width=1,standardize=false", {"Renyi I(T;Y)": value, "Renyi S(T)": value}
        rows.append(Truth(spec, "clusters", lambda: blobs(FAR_CLASSES), values, 1e-9, ROUNDED, shuffled=0.3))
    for alpha in (1.0, 1.01, 2.0):
        value, spec = renyi(kernel_spectrum(circle(30), 0.4), alpha), f"renyi:alpha={alpha},width=0.4,standardize=false"
        rows.append(Truth(spec, "circle", lambda: circle(30), {"Renyi S(T)": value}, 1e-9, ROUNDED))
    for sizes in ((25, 25, 25, 25), (10, 30)):
        values, at = {"CS-QMI(T;Y)": distant_cs(sizes), "normalized CS-QMI(T;Y)": 1.0}, functools.partial(blobs, sizes)
        rows.append(
            Truth("cs-qmi:sigma=1,standardize=false", f"classes {sizes}", at, values, 1e-9, ROUNDED, shuffled=0.3)
        )
    # K~ = L~ has C - 1 eigenvalues N/C, so nHSIC = (C - 1) / (1 + epsilon C)^2.
    values = {"nHSIC(T;Y)": 4 / (1 + 0.01 * 5) ** 2, "HSIC(T;Y)": 4 * 20**2 / 99**2}
    rows.append(
        Truth("hsic:sigma=1,epsilon=0.01", "classes", lambda: blobs((20,) * 5), values, 1e-9, ROUNDED, shuffled=0.3)
    )
    return rows


def geometries() -> list[Truth]:
    laws, flat = (0.3, 1.0, 2.5), (1, 7, 50)
    power = functools.partial(spectrum, [[i ** (-a / 2) for i in range(1, 121)] for a in laws])
    equal = functools.partial(spectrum, [[3.0] * k + [0.0] * (50 - k) for k in flat])
    ranks = dict.fromkeys(
        (
            "RankMe",
            "RankMe (singular, centred)",
            "RankMe (eigen, uncentred)",
            "RankMe (eigen, centred)",
            "participation ratio",
        ),
        flat,
    )
    logs = dict.fromkeys(("von Neumann entropy", "matrix-based entropy"), tuple(math.log2(k) for k in flat))
    shares = {"top-10 variance share": [min(1.0, 10 / k) for k in flat]}
    return [
        Truth("geometry", "power law", power, {"alpha-ReQ": laws}, 1e-6, ROUNDED),
        Truth("geometry", "fit of a power law", power, {"alpha-ReQ R2": 1.0}, 1e-9, ROUNDED),
        Truth("geometry", "equal directions", equal, {**ranks, **logs, **shares}, 1e-9, ROUNDED),
    ]


def dimensions() -> list[Truth]:
    """Cubes that lie slanted in more units: what the boundary costs, by dimension."""

    def cube(d: int) -> Problem:
        rng = np.random.default_rng(d)
        slanted = np.linalg.qr(rng.normal(size=(d + 3, d)))[0].T
        return Problem(torch.from_numpy(rng.uniform(size=(1, 1000, d)) @ slanted), torch.arange(1000) % 2)

    why = "the boundary and sampling: 10 % up to dimension 2"
    both = ("TwoNN dimension", "ML dimension")
    return [Truth("dimension", f"{d}-cube", functools.partial(cube, d), dict.fromkeys(both, float(d)), d / 10, why)
            for d in (1, 2)]  # fmt: skip


TRUTHS = [
    *counted("binning"),
    *counted("adaptive"),
    *mixtures(),
    *pairs(),
    *classes(),
    *spectra(),
    *geometries(),
    *dimensions(),
]
