"""Bias-corrected entropies from the counts of codes.

All of them estimate the entropy of the law that the samples were drawn from, of which the plug-in value is
too low: by (codes - 1) / 2N nats while counts are large, by much more once most codes are seen once. There the
first three fail with it; Chao-Shen and Chao-Wang-Jost estimate the mass of the unseen codes from those seen
once and twice. None of them helps where the N samples are the whole population (all 4096 patterns): the
plug-in value is exact then.

Sums run over rounded 64-bit integers, so they do not depend on the order of codes.

References
----------
Miller, "Note on the bias of information estimates", 1955 (miller-madow).
Zahl, "Jackknifing an index of diversity", 1977 (jackknife).
Grassberger, "Entropy estimates from insufficient samplings", 2003 (grassberger).
Chao and Shen, "Nonparametric estimation of Shannon's index of diversity when there are unseen species in
sample", 2003 (chao-shen).
Chao, Wang and Jost, "Entropy and the species accumulation curve", 2013 (chao-wang-jost).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

import numpy as np
import scipy.special
import torch
from torch import Tensor

from infoplane.core.units import BITS_PER_NAT
from infoplane.estimators._counting.counts import Runs, segment_sums, weigh

CORRECTIONS: tuple[str, ...] = ("miller-madow", "jackknife", "grassberger", "chao-shen", "chao-wang-jost")


def check_corrections(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names as a tuple, for a single name a tuple of one; ValueError for a name that is no correction."""
    names = (names,) if isinstance(names, str) else tuple(names)
    for name in names:
        if name not in CORRECTIONS:
            raise ValueError(f"corrections are {', '.join(CORRECTIONS)}; got {name!r}")
    return names


@functools.lru_cache(maxsize=16)
def log_table(samples: int, name: str = "plug-in") -> tuple[Tensor, int]:
    """Return what a code that is seen c times adds to the sum of the method `name`: int64 (N + 1,), c = 0..N, and k.

    The numbers are whole multiples of 2**-k bit; for the plug-in entropy they are c log2 c.
    """
    # The formulas are those of the papers above, for sums over codes that are divided by N later.
    c = np.arange(samples + 1, dtype=np.float64)
    log = np.zeros_like(c)
    np.log2(c, out=log, where=c > 0)
    values = c * log
    if name == "jackknife":
        values[1:] = c[1:] * np.diff(values)
    elif name == "grassberger":
        n = c[1:]
        half = scipy.special.digamma((n + 1) / 2) - scipy.special.digamma(n / 2)
        sign = np.where(n % 2 == 0, 0.5, -0.5)
        values[1:] = n * (scipy.special.digamma(n) + sign * half) * BITS_PER_NAT
    elif name == "chao-wang-jost":
        n = c[1:]
        values[1:] = n * (scipy.special.digamma(n) - scipy.special.digamma(samples)) * BITS_PER_NAT
    # Four sums of at most N log2 N bits must fit 63 bits.
    k = 60 - max(int(samples * np.log2(max(samples, 2))), 1).bit_length()
    return torch.from_numpy(np.rint(np.ldexp(values, k)).astype(np.int64)), k


def corrected_entropy(runs: Runs, samples: int, name: str) -> Tensor:
    """Return the entropy (G,) in bits by each snapshot's counts `runs` of `samples` rows, corrected by `name`."""
    device = runs.codes.device
    runs = Runs(runs.lengths.cpu(), runs.offsets.cpu(), runs.codes.cpu())
    if name == "chao-shen":
        return _chao_shen(runs, samples).to(device)
    table, k = log_table(samples, "plug-in" if name == "miller-madow" else name)
    mean = weigh(runs, table).to(torch.float64) / float(samples * 2**k)
    # The entropy is a constant, or a term for unseen codes, less the mean of what codes add.
    value = torch.full_like(mean, float(np.log2(samples)))
    if name == "jackknife":
        # N H - (N - 1) mean H_(-i) with H = log N - sum / N: what no code adds is N log N - (N - 1) log (N - 1).
        plain = log_table(samples)[0]
        value = torch.full_like(mean, float(plain[-1] - plain[-2]) / 2.0**k)
    elif name == "chao-wang-jost":
        value = _unseen_tail(runs, samples)
    value = value - mean
    if name == "miller-madow":
        value = value + (runs.codes.to(torch.float64) - 1) * (BITS_PER_NAT / (2 * samples))
    return value.to(device)


def _chao_shen(runs: Runs, samples: int) -> Tensor:
    """Return Chao and Shen's entropy (G,): a Horvitz-Thompson sum that leaves probability for unseen codes."""
    runs = runs.repeated()
    # With singletons alone the estimated coverage would be 0: count one of them as seen twice.
    singles = torch.where(runs.singles == samples, samples - 1, runs.singles)
    coverage = 1.0 - singles.to(torch.float64) / samples

    def term(p: Tensor) -> Tensor:
        """Return -p log2 p of a code, over the probability 1 - (1 - p)^N that N samples show it at all."""
        return -p * torch.log2(p) / -torch.expm1(samples * torch.log1p(-p.clamp(max=1.0 - 2.0**-53)))

    k = 40  # terms are rounded to multiples of 2**-40 bit, whose sum does not depend on their order
    owner = runs.snapshot_of_run()
    values = term(coverage[owner] * runs.lengths / samples)
    total = segment_sums(torch.round(values * 2.0**k).to(torch.int64), runs.offsets)
    entropy: Tensor = total.to(torch.float64) / 2.0**k + runs.singles * term(coverage / samples)
    return entropy


def _unseen_tail(runs: Runs, samples: int) -> Tensor:
    """Return the bits (G,) that unseen codes add to the entropy, from the numbers of codes seen once and twice."""
    once = runs.singles.numpy().astype(np.float64)
    twice = segment_sums((runs.lengths == 2).to(torch.int64), runs.offsets).numpy().astype(np.float64)
    rest = samples - 1.0
    # A of Chao, Wang and Jost: the mean probability of codes seen once; the second form serves if none is seen twice.
    some = 2.0 * twice / np.maximum(rest * once + 2.0 * twice, 1.0)
    none = 2.0 / np.maximum(rest * (once - 1.0) + 2.0, 2.0)
    a = np.where(twice > 0, some, none)
    return torch.from_numpy(np.where(once > 0, once / samples * _rest_of_log(a, samples), 0.0) * BITS_PER_NAT)


def _rest_of_log(a: np.ndarray, n: int) -> np.ndarray:
    """Return what is left of the series -log A = sum_(r>=1) q^r / r, q = 1 - A, from term N = `n` on, over q^(N-1).

    A is `a` (G,), and so is the result. Taking the first terms from the logarithm would lose all digits.
    """
    # So an integral is taken: q sum_(r>=N) q^(r-N) / r = q int_0^inf e^-v / (N (1 - q e^(-v/N))) dv. In the variable w
    # of v = N A (e^w - 1) the integrand hardly changes up to where e^-v cuts it off, so few nodes are enough.
    # The integral over w is cut at v = 60, from where e^-v is nothing.
    nodes, weights = np.polynomial.legendre.leggauss(128)
    a = a[:, None]
    q, scale = 1.0 - a, n * a
    half = np.log1p(60.0 / scale) / 2.0
    w = half * (nodes + 1.0)
    v = scale * np.expm1(w)
    integrand = np.exp(w - v) * scale / (n * (a - q * np.expm1(-v / n)))
    return np.asarray((q * half * (integrand * weights).sum(axis=1, keepdims=True))[:, 0])
