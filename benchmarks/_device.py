"""The estimators on a device, beside our CPU, plain torch on the same device and the device's own bandwidth."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from infoplane.estimators import parse

SAMPLES, UNITS, SNAPSHOTS = (4096, 50_000), (10, 128, 1024), 100
SPECS = (
    "binning:n_bins=30,null_draws=0",
    "adaptive:n_bins=30,null_draws=0",
    "kde:variance=0.01,null_draws=0",
    "noise:std=0.1,null_draws=0",
    "knn",
)
SECONDS = 5.0
"""What one row may take on the device: fewer snapshots are timed where all of them would take longer."""
STD = 0.1


@dataclass(frozen=True, kw_only=True)
class Line:
    """One estimator at one size, milliseconds for `SNAPSHOTS` snapshots; nan where there was no memory."""

    estimator: str
    samples: int
    units: int
    timed: int
    device_ms: float
    cpu_ms: float
    plain_ms: float
    copy_ms: float

    def __str__(self) -> str:
        against = (self.cpu_ms / self.device_ms, self.plain_ms / self.device_ms, self.device_ms / self.copy_ms)
        name = f"{self.estimator} {self.samples} x {self.units}, {self.timed} timed"
        return f"{name:<36} {self.device_ms:10.1f} {self.cpu_ms:12.0f} " + " ".join(f"{a:10.3g}" for a in against)


HEAD = f"{f'{SNAPSHOTS} snapshots':<36} {'ms':>10} {'CPU ms':>12} {'x CPU':>10} {'x plain':>10} {'copies':>10}"


def layer(snapshots: int, samples: int, units: int, device: torch.device) -> Tensor:
    """(S, N, U) float32 in [-1, 1], made on the device."""
    g = torch.Generator(device).manual_seed(samples + units)
    return torch.rand((snapshots, samples, units), generator=g, device=device).mul_(2).sub_(1)


def labels(samples: int, device: torch.device) -> Tensor:
    return torch.arange(samples, device=device) % 10


def entropy_of_rows(codes: Tensor) -> Tensor:
    counts = torch.unique(codes, dim=0, return_counts=True)[1]
    p = counts / counts.sum()
    return -(p * p.log2()).sum()


def plain_binning(t: Tensor, y: Tensor) -> Tensor:
    codes = ((t + 1) * 15).floor().to(torch.int16)
    return entropy_of_rows(codes) - entropy_of_rows(torch.cat([codes, y[:, None].to(torch.int16)], 1))


def plain_adaptive(t: Tensor, y: Tensor) -> Tensor:
    """Edges of equal mass for each unit, from its sorted values."""
    edges = t.sort(0).values[:: max(1, len(t) // 30)][1:30].T.contiguous()
    codes = torch.searchsorted(edges, t.T.contiguous()).T.to(torch.int16)
    return entropy_of_rows(codes) - entropy_of_rows(torch.cat([codes, y[:, None].to(torch.int16)], 1))


def mixture_bits(a: Tensor, b: Tensor, variance: float) -> Tensor:
    """-mean_i log2 mean_j exp(-|a_i - b_j|^2 / 2 variance), all pairs at once."""
    distances = a.square().sum(1, keepdim=True) + b.square().sum(1) - 2 * a @ b.T
    return -(torch.logsumexp(-distances / (2 * variance), 1) - math.log(len(b))).mean() / math.log(2)


def plain_kde(t: Tensor, y: Tensor) -> Tensor:
    bits = [mixture_bits(t, t, variance) for variance in (STD**2, 4 * STD**2)]
    for k in range(10):
        part = t[y == k]
        bits += [mixture_bits(part, part, variance) for variance in (STD**2, 4 * STD**2)]
    return torch.stack(bits)


def plain_noise(t: Tensor, y: Tensor) -> Tensor:
    noisy = t + STD * torch.randn_like(t)
    within = [mixture_bits(noisy[y == k], t[y == k], STD**2) for k in range(10)]
    # less the entropy of the noise, whose |z|^2 / 2 variance is half the number of units in the mean
    return torch.stack([mixture_bits(noisy, t, STD**2), *within]) - t.shape[1] / 2 / math.log(2)


def plain_knn(t: Tensor, y: Tensor) -> Tensor:
    """Ross (2014): the distance to the third neighbour of the class, and the samples within it."""
    distances = torch.cdist(t, t)
    other = distances.masked_fill(y[:, None] != y, math.inf).fill_diagonal_(math.inf)
    radius = other.kthvalue(3, dim=1, keepdim=True).values
    inside = (distances < radius).sum(1)
    counts = torch.bincount(y)[y]
    terms = [torch.digamma(torch.as_tensor(v, dtype=torch.float64, device=t.device)) for v in (len(t), 3)]
    return terms[0] + terms[1] - torch.digamma(counts.double()).mean() - torch.digamma(inside.double()).mean()


PLAIN: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "binning": plain_binning,
    "adaptive": plain_adaptive,
    "kde": plain_kde,
    "noise": plain_noise,
    "knn": plain_knn,
}


def wall_ms(call: Callable[[], Any], device: torch.device) -> float:
    """Milliseconds until the device has done what the call asked for."""
    start = time.perf_counter()
    call()
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return 1e3 * (time.perf_counter() - start)


def timed(call: Callable[[], Any], device: torch.device, rounds: int = 3) -> float:
    """The median of some calls after one to warm up; nan where the device has not the memory."""
    try:
        wall_ms(call, device)
        return statistics.median(wall_ms(call, device) for _ in range(rounds))
    except torch.OutOfMemoryError:
        return math.nan


def measure(spec: str, samples: int, units: int, device: torch.device) -> Line:
    estimator, y, cpu = parse(spec), labels(samples, device), torch.device("cpu")
    one = layer(1, samples, units, device)
    first = timed(lambda: estimator.estimate(one, y), device, rounds=1)
    fit = SNAPSHOTS if math.isnan(first) or device.type == "cpu" else int(1e3 * SECONDS / first)
    count = max(1, min(SNAPSHOTS, fit, (16 << 30) // (4 * samples * units)))
    t, factor = layer(count, samples, units, device), SNAPSHOTS / count
    there, target = one.cpu(), torch.empty_like(t)
    there_y = y.cpu()
    return Line(
        estimator=spec.partition(":")[0],
        samples=samples,
        units=units,
        timed=count,
        device_ms=factor * timed(lambda: estimator.estimate(t, y), device),
        cpu_ms=SNAPSHOTS * timed(lambda: estimator.estimate(there, there_y), cpu, rounds=1),
        plain_ms=SNAPSHOTS * timed(lambda: PLAIN[estimator.name](one[0], y), device),
        copy_ms=factor * timed(lambda: target.copy_(t), device),
    )


def lines(device: torch.device, sizes: Sequence[tuple[int, int]] = ()) -> Iterator[Line]:
    for samples, units in sizes or [(n, d) for n in SAMPLES for d in UNITS]:
        for spec in SPECS:
            yield measure(spec, samples, units, device)


def main(name: str, sizes: Sequence[tuple[int, int]] = ()) -> int:
    """Print the table; exit code 2 with one line where there is no such device."""
    device = torch.device(name)
    there = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if device.type != "cpu" and (there is None or device.type != there.type):
        print(f"benchmarks: torch finds no device {name!r} on this machine; leave --device out for the CPU's rows")
        return 2
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    threads = torch.get_num_threads()
    print(f"{card}, torch {torch.__version__}; CPU: one snapshot on {threads} threads, times {SNAPSHOTS}")
    print(HEAD)
    for line in lines(device, sizes):
        print(line, flush=True)
    return 0
