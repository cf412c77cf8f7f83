"""`python -m benchmarks.mist`: a network trained on simulated pairs (MIST), against `knn` and `auto` on few samples.

Gritsai et al. 2025 train one network on simulated samples of known information and read a new sample in one pass, with
quantiles for an interval. This trains one that is small enough to be shipped (a third of a megabyte) on the laws of
`benchmarks._simulated`, and compares it on the first rows of the pairs of `benchmarks.silent`, whose laws it has not
seen, but for Gaussian ones and t laws. A few minutes of CPU to train it and half an hour for `auto`.
Weights are kept nowhere unless `--save FILE` asks for them.

The network reads nothing that depends on the number of units: how many rows lie on either side within the distance of
a row's k-th neighbour in both, for several k and coordinates; leading canonical coordinates; canonical correlations.
So the formula of nearest neighbours and that of a Gaussian pair are both within its reach.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy import special
from torch import Tensor, nn

from benchmarks._estimates import alone, said
from benchmarks._problems import FAMILIES, Array, Problem, named, problem
from benchmarks._simulated import Pair, drawn

SIZES = (64, 128, 256)
QUANTILES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
NEIGHBORS = (1, 2, 4, 8, 16)
LEADING = 5
WRONG = 0.3
HOME, SEEN = "its own laws, fresh draws", ("gaussian", "embedded", "diluted", "heavy, t")


# What the network reads --------------------------------------------------------------------------------------------
def whitened(z: Array, most: int) -> Array:
    """At most so many principal components, of 99.5 % of the variance, each of std 1."""
    u, s, _ = np.linalg.svd(z - z.mean(0), full_matrices=False)
    keep = 1 + int(np.searchsorted(np.cumsum(s**2) / (s**2).sum(), 0.995))
    return np.asarray(u[:, : min(keep, most, len(s))]) * math.sqrt(len(z))


def canonical(x: Array, y: Array, most: int) -> tuple[Array, Array, Array]:
    """Leading canonical coordinates of both sides (N, LEADING), and what their correlations say of a Gaussian pair."""
    x, y = whitened(x, most), whitened(y, most)
    n, p = len(x), x.shape[1] + y.shape[1] - 1
    a, rho, b = np.linalg.svd(x.T @ y / n, full_matrices=False)
    square = np.minimum(rho**2, 1 - 1e-6)
    fair = np.maximum(0, 1 - (1 - square) * (n - 1) / max(n - p - 1, 1))
    nats = -0.5 * np.stack([np.log1p(-square), np.log1p(-fair)])
    leading = np.zeros((2, LEADING))
    leading[:, : len(rho)] = nats[:, :LEADING]
    facts = np.concatenate([nats.sum(1), leading.ravel(), [x.shape[1], y.shape[1]]])
    return x @ a[:, :LEADING], y @ b.T[:, :LEADING], facts


def scores(z: Array, seed: int) -> Array:
    """Normal scores of every unit's ranks; equal values in an order that is random, and another on the other side."""
    tie = np.random.default_rng(seed).random(z.shape)
    return np.asarray(special.ndtri((np.lexsort((tie, z), axis=0).argsort(0) + 0.5) / len(z)))


def repeats(z: Array) -> Array:
    """Which units have more than 5 % of values that others have too."""
    return np.asarray((np.diff(np.sort(z, 0), axis=0) == 0).mean(0) > 0.05)


def neighbors(x: Array, y: Array) -> Tensor:
    """(N, 16): log share of rows nearer than the k-th neighbour in both, on each side; growth of three distances."""
    sides = [torch.cdist(z, z).fill_diagonal_(math.inf) for z in (torch.from_numpy(x), torch.from_numpy(y))]
    n, most = len(x), NEIGHBORS[-1]
    near = [torch.from_numpy(np.sort(d.numpy(), 1)[:, :most]) for d in (torch.maximum(*sides), *sides)]
    counts = [(d < near[0][:, k - 1, None]).sum(1).clamp(min=1) for k in NEIGHBORS for d in sides]
    logs = [d[:, [0, 3, 15]].clamp(min=1e-6).log().diff(dim=1) for d in near]
    return torch.cat([torch.stack(counts, 1).float().digamma() - math.log(n), *logs], 1)


def read(pair: Pair | Problem) -> tuple[Tensor, Tensor]:
    """Of each row (N, F), and of the whole sample (G,)."""
    x, y = (pair.x, pair.y) if isinstance(pair, Pair) else (pair.t.double().numpy(), pair.y.double().numpy())
    x, y = (z[:, z.std(0) > 0] for z in (x, y))
    ranks = scores(x, 0), scores(y, 1)
    x, y = (np.where(repeats(z), r, z / z.std(0)) for z, r in zip((x, y), ranks, strict=True))
    u, v, facts = canonical(*ranks, min(24, len(x) // 5))
    parts = [neighbors(*(z.astype(np.float32) for z in sides)) for sides in ((x, y), ranks, (u, v))]
    leading = [np.pad(z, ((0, 0), (0, LEADING - z.shape[1])))[:, :3] for z in (u, v)]
    rows = torch.cat([*parts, *(torch.from_numpy(z).float() for z in leading)], 1)
    units = np.log([len(x), x.shape[1], y.shape[1]])
    return rows, torch.from_numpy(np.concatenate([facts, canonical(x, y, min(8, len(x) // 8))[2], units])).float()


# The network -------------------------------------------------------------------------------------------------------
class Standardised(nn.Module):
    """Columns less their mean over their std, of what it is fitted on."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))

    def fit(self, values: Tensor) -> None:
        self.mean.copy_(values.mean(0))
        self.std.copy_(values.std(0).clamp(min=1e-3))

    def forward(self, values: Tensor) -> Tensor:
        return ((values - self.mean) / self.std).clamp(-6, 6)


class SetNetwork(nn.Module):
    """Rows (B, N, F) and facts (B, G) to quantiles (B, Q) that never cross; the order of the rows does not matter."""

    def __init__(self, rows: int, facts: int, width: int = 64) -> None:
        super().__init__()
        self.own = nn.Sequential(nn.Linear(rows, width), nn.GELU(), nn.Linear(width, width), nn.GELU())
        self.of_row, self.of_set = nn.Linear(width, width), nn.Linear(2 * width, width)
        self.among = nn.Sequential(nn.GELU(), nn.Linear(width, width), nn.GELU())
        self.whole = nn.Sequential(
            nn.Linear(2 * width + 2 * rows + facts, 128), nn.GELU(), nn.Linear(128, 128), nn.GELU(),
            nn.Linear(128, len(QUANTILES)),
        )  # fmt: skip
        self.rows, self.facts = Standardised(rows), Standardised(facts)

    def forward(self, rows: Tensor, facts: Tensor) -> Tensor:
        rows, facts = self.rows(rows), self.facts(facts)
        h = self.own(rows)
        h = self.among(self.of_row(h) + self.of_set(torch.cat([h.mean(1), h.amax(1)], 1))[:, None])
        summary = torch.cat([h.mean(1), h.amax(1), rows.mean(1), rows.std(1), facts], 1)
        first, *steps = self.whole(summary).split([1, len(QUANTILES) - 1], 1)
        return torch.cat([first, first + nn.functional.softplus(steps[0] - 2).cumsum(1)], 1)


def batch(seed: int, i: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, facts and truths (B,) of drawn pairs of one size, 32 to 256."""
    rng = np.random.default_rng([seed, i])
    n = round(float(np.exp(rng.uniform(math.log(32), math.log(257)))))
    pairs = [drawn(rng, n) for _ in range(count)]
    rows, facts = (torch.stack(each) for each in zip(*map(read, pairs), strict=True))
    return rows, facts, torch.tensor([p.nats for p in pairs], dtype=torch.float32)


def pinball(found: Tensor, truth: Tensor) -> Tensor:
    """The loss whose least value is at the quantiles."""
    miss = truth[:, None] - found
    q = torch.tensor(QUANTILES)
    return torch.maximum(q * miss, (q - 1) * miss).mean()


def trained(batches: int, epochs: int, count: int = 64, seed: int = 1) -> SetNetwork:
    """A network trained on batches of drawn pairs, each read once an epoch."""
    torch.manual_seed(seed)
    pool = [batch(seed, i, count) for i in range(batches)]
    network = SetNetwork(pool[0][0].shape[2], pool[0][1].shape[1])
    network.rows.fit(torch.cat([rows.flatten(0, 1) for rows, _, _ in pool]))
    network.facts.fit(torch.cat([facts for _, facts, _ in pool]))
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=batches * epochs, pct_start=0.05)
    order = np.random.default_rng(seed)
    for i in np.concatenate([order.permutation(batches) for _ in range(epochs)]):
        rows, facts, truth = pool[i]
        optimizer.zero_grad()
        pinball(network(rows, facts), truth).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return network.eval()


# Against the estimators --------------------------------------------------------------------------------------------
class Result(NamedTuple):
    """What a method says of one sample, in nats; `quantiles` where it has them, else whether a flag is up."""

    method: str
    family: str
    samples: int
    units: int
    truth: float
    value: float
    flagged: bool = False
    quantiles: Sequence[float] = ()

    @property
    def error(self) -> float:
        return abs(self.value - self.truth)

    def within(self, share: float) -> bool:
        """Whether the truth lies in the central interval of this share."""
        low, high = (self.quantiles[QUANTILES.index(round(0.5 + s * share / 2, 3))] for s in (-1, 1))
        return low - 1e-3 <= self.truth <= high + 1e-3


def by_network(network: SetNetwork, sample: Pair | Problem, family: str) -> Result:
    """The middle quantile, and all of them."""
    rows, facts = read(sample)
    with torch.no_grad():
        found = network(rows[None], facts[None])[0].tolist()
    units = round(math.exp(float(facts[-2:].max())))
    return Result("network", family, len(rows), units, sample.nats, found[len(found) // 2], quantiles=found)


def by_method(sample: Problem, method: str, family: str) -> Iterator[Result]:
    """An estimator of this package; nothing where it refuses."""
    with contextlib.suppress(ValueError):
        line = next(v for v in said(sample, method) if v["quantity"] == "I(T;Y)")
        flagged = bool(set(line["flags"]) - {"below_null"})
        units = max(sample.units, sample.y.shape[1])
        yield Result(method, family, sample.samples, units, sample.nats, line["value"], flagged)


def family_of(p: Problem) -> str:
    """The two heavy laws apart, for one of them is among those trained on."""
    return f"heavy, {p.settings['law'].rstrip('0123456789')}" if p.family == "heavy" else p.family


def compared(network: SetNetwork, seeds: range, methods: Sequence[str], quick: bool = False) -> Iterator[Result]:
    """All methods on the first rows of the pairs of `benchmarks.silent`; `quick` takes one of each family."""
    for seed in seeds:
        for name, i in named([f.__name__ for f in FAMILIES if f.__name__.endswith("pairs")]):
            whole = problem(seed, name, i)
            for n in SIZES if not (quick and i) else ():
                few = replace(whole, t=whole.t[:n], y=whole.y[:n])
                yield by_network(network, few, family_of(few))
                for method in methods:
                    yield from by_method(few, method, family_of(few))


def at_home(network: SetNetwork, count: int, seed: int = 2) -> Iterator[Result]:
    """The network and `knn` on fresh pairs of the laws that it was trained on."""
    rng = np.random.default_rng(seed)
    for n in SIZES:
        for pair in (drawn(rng, n) for _ in range(count)):
            yield by_network(network, pair, HOME)
            t, y = (torch.from_numpy(np.ascontiguousarray(z)) for z in (pair.x, pair.y))
            yield from by_method(Problem(kind="pairs", family=HOME, settings={}, t=t, y=y, nats=pair.nats), "knn", HOME)


GROUPS: dict[str, Callable[[Result], bool]] = {
    "all tested": lambda r: r.family != HOME,
    "of laws it was trained on": lambda r: r.family in SEEN,
    "of other laws": lambda r: r.family not in (*SEEN, HOME),
    "up to 5 units a side": lambda r: r.family != HOME and r.units <= 5,
    "more units": lambda r: r.family != HOME and r.units > 5,
    "up to 3 nats": lambda r: r.family != HOME and r.truth <= 3,
    "independent": lambda r: r.family != HOME and r.truth == 0,
}


def errors(rows: Sequence[Result], of: int) -> str:
    """Mean and median absolute error, and of how many where fewer than `of`."""
    off = [r.error for r in rows]
    few = f" (of {len(off)})" if len(off) < of else ""
    return f"{statistics.fmean(off):.2f} / {statistics.median(off):.2f}{few}" if off else "-"


def table(results: Sequence[Result], methods: Sequence[str]) -> str:
    """Mean and median error in nats of each method by family and size, and how often the network's intervals hold."""
    names = ("network", *methods)
    families = sorted({r.family for r in results} - {HOME})
    groups = GROUPS | {f: lambda r, f=f: r.family == f for f in (*families, HOME)}
    lines = [f"| pairs | N | samples | {' | '.join(names)} | in 50 % | in 90 % |", "|" + "---|" * (len(names) + 5)]
    for title, belongs in groups.items():
        for sizes in (SIZES, *((n,) for n in SIZES)):
            rows = [r for r in results if belongs(r) and r.samples in sizes]
            own = [r for r in rows if r.quantiles]
            off = (errors([r for r in rows if r.method == name], len(own)) for name in names)
            held = (f"{statistics.fmean(r.within(share) for r in own):.2f}" if own else "-" for share in (0.5, 0.9))
            size = "all" if len(sizes) > 1 else str(sizes[0])
            lines.append(f"| {' | '.join([title, size, str(len(own)), *off, *held])} |")
    return "\n".join(lines)


def silent(results: Sequence[Result]) -> Iterator[str]:
    """How often each method is wrong without a word: no flag is up, or its 90 % interval leaves the truth out."""
    for name in dict.fromkeys(r.method for r in results):
        rows = [r for r in results if r.method == name and r.family != HOME]
        wrong = [r for r in rows if r.error > WRONG]
        quiet = [r for r in wrong if (not r.within(0.9) if r.quantiles else not r.flagged)]
        yield f"{name}: off by more than {WRONG} nat {len(wrong)} of {len(rows)} times, {len(quiet)} without a word"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.mist", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", default="100-109", help="first-last of the tested pairs")
    parser.add_argument("--methods", default="knn,auto", help="estimators with commas")
    parser.add_argument("--batches", type=int, default=400, help="of 64 pairs to train on")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="hardly trained, few pairs, only knn: does it run?")
    parser.add_argument("--save", type=Path, help="file for the weights")
    options = parser.parse_args()
    first, _, last = options.seeds.partition("-")
    seeds = range(int(first), int(last or first) + 1)
    methods = tuple(options.methods.split(","))
    alone()
    if options.quick:
        options.batches, options.epochs, seeds, methods = 2, 2, seeds[:1], ("knn",)
    network = trained(options.batches, options.epochs, count=8 if options.quick else 64)
    count = sum(p.numel() for p in network.parameters())
    print(f"{count} parameters, {time.process_time():.0f} CPU seconds", flush=True)
    if options.save:
        torch.save(network.state_dict(), options.save)
    results = [*compared(network, seeds, methods, options.quick), *at_home(network, 3 if options.quick else 300)]
    print(table(results, methods))
    print("\n".join(silent(results)))


if __name__ == "__main__":
    main()
