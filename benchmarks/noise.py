"""S1 and S2: sample propagation against drawing, N x N distances and log-sum-exp, own code: no package has it."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks._data import labels, tanh_network
from benchmarks._harness import Case, Row, cpu_ms
from infoplane.estimators.noise import SamplePropagation

DRAWS = 8


def plain_entropy(t: Tensor, std: float, z: Tensor) -> float:
    """Entropy in nats of the mixture around the rows of t (N, D), from draws z (M, N, D), less the noise's."""
    n, d = t.shape
    total = 0.0
    for noise in z:
        samples = t + std * noise
        square = (samples**2).sum(1, keepdim=True) + (t**2).sum(1) - 2 * samples @ t.T
        log_p = torch.logsumexp(-(square / (2 * std**2)), dim=1) - math.log(n)
        total += float(-log_p.mean()) / len(z)
    return total - d / 2


def plain(t: Tensor, y: Tensor, std: float, seed: int) -> tuple[float, float]:
    """I(X;T) and I(T;Y) in bits: one entropy for the whole and one for each class, each with its own draws."""
    g = torch.Generator().manual_seed(seed)

    def entropy(rows: Tensor) -> float:
        return plain_entropy(rows, std, torch.randn(DRAWS, *rows.shape, generator=g))

    whole = entropy(t)
    parts = sum(float((y == k).double().mean()) * entropy(t[y == k]) for k in range(int(y.max()) + 1))
    return whole / math.log(2), (whole - parts) / math.log(2)


def clusters(samples: int, units: int, classes: int) -> tuple[Tensor, Tensor]:
    """A random tanh layer over 12 inputs: class means of std 1, spread of 1/2 within a class."""
    g = torch.Generator().manual_seed(0)
    y = torch.randint(0, classes, (samples,), generator=g)
    x = torch.randn(classes, 12, generator=g)[y] + 0.5 * torch.randn(samples, 12, generator=g)
    return torch.tanh(1.5 * x @ torch.randn(12, units, generator=g) / 12**0.5), y


def ours(t: Tensor, y: Tensor, std: float, seed: int) -> tuple[float, float]:
    estimator = SamplePropagation(std=std, n_draws=DRAWS, null_draws=0, seed=seed)
    found = estimator.estimate(t[None], y)
    return float(found["I(X;T)"].value), float(found["I(T;Y)"].value)


def same_draws(samples: int, units: int, classes: int, std: float, must: float, aim: float, rounds: int) -> Case:
    """S1: the same number of draws."""
    t, y = tanh_network(samples, (units,), 1)[0][0], labels(samples, classes)

    def check() -> None:
        found, expected = ours(t, y, std, 0), plain(t, y, std, 0)
        error = 8 * math.sqrt(units / 2 / DRAWS / samples) / math.log(2)
        if max(abs(a - b) for a, b in zip(found, expected, strict=True)) > error:
            raise AssertionError(f"S1: {found} against {expected}, more than {error} bit apart")

    return Case(
        id="S1", case=f"{samples}x{units}, {classes} classes, std {std:g}, {DRAWS} draws",
        against="torch N x N (own code)", must=must, aim=aim, candidate=lambda: ours(t, y, std, 0),
        reference=lambda: plain(t, y, std, 0), check=check, rounds=rounds,
    )  # fmt: skip


def variance_times_time(
    samples: int, units: int, classes: int, std: float, must: tuple[float, float], aim: tuple[float, float],
    repeats: int,
) -> Case:  # fmt: skip
    """S2: how much less time the same standard error takes. The means of both must agree."""
    t, y = clusters(samples, units, classes)

    def measure(case: Case) -> Iterator[Row]:
        values: dict[str, list[tuple[float, float]]] = {"plain": [], "ours": []}
        times: dict[str, list[float]] = {"plain": [], "ours": []}
        for seed in range(repeats):
            for name, method in (("plain", plain), ("ours", ours)):
                times[name].append(
                    cpu_ms(lambda method=method, name=name, seed=seed: values[name].append(method(t, y, std, seed)))  # type: ignore[misc]
                )
        ms = {name: sorted(found)[repeats // 2] for name, found in times.items()}
        for k, quantity in enumerate(("I(X;T)", "I(T;Y)")):
            column = {name: torch.tensor([v[k] for v in found], dtype=torch.float64) for name, found in values.items()}
            error = float(column["plain"].std()) / math.sqrt(repeats)
            if abs(float(column["plain"].mean() - column["ours"].mean())) > 5 * error:
                raise AssertionError(f"S2: the means of {quantity} differ by more than 5 standard errors")
            gain = float(column["plain"].var() / column["ours"].var()) * ms["plain"] / ms["ours"]
            yield case.row(
                case=f"{case.case}, {quantity}, variance x time", must=must[k], aim=aim[k], candidate_ms=ms["ours"],
                reference_ms=ms["plain"], ratio=gain,
            )  # fmt: skip

    return Case(
        id="S2", case=f"{samples}x{units}, std {std:g}", against="torch N x N (own code)", measure=measure,
        candidate=lambda: ours(t, y, std, 0),
    )  # fmt: skip


def cases(quick: bool = False) -> Iterator[Case]:
    if not quick:
        yield same_draws(4096, 10, 2, 0.1, 25.0, 50.0, 5)
    repeats = 8 if quick else 24
    yield variance_times_time(1000, 10, 2, 0.3, (25.0, 1000.0), (50.0, 2000.0), repeats)
    yield variance_times_time(1000, 128, 10, 1.0, (1000.0, 50_000.0), (2000.0, 100_000.0), repeats)
