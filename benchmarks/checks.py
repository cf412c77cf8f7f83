"""F1 and F2: what the checks of `gaussian` and `knn` cost, the flags that say that a model does not hold.

The opponent is the value alone: the ratio is its time over that of the value with its checks.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks._data import labels, tanh_network
from benchmarks._harness import Case
from infoplane.estimators import parse
from infoplane.estimators._protocol import values_only


def case(id: str, spec: str, samples: int, units: int, classes: int, rounds: int) -> Case:
    """Two snapshots; without classes the target is a noisy sum of the inputs."""
    (t,) = tanh_network(samples, (units,), 2)
    g = torch.Generator().manual_seed(2)
    y = (
        labels(samples, classes)
        if classes
        else t[0] @ torch.randn(units, generator=g) + torch.randn(samples, generator=g)
    )
    estimator = parse(spec)

    def value() -> None:
        with values_only():
            estimator.estimate(t, y)

    what = f"{classes} classes" if classes else "target"
    return Case(
        id=id, case=f"{spec}, 2 x {samples} x {units}, {what}", against="the value without its checks", must=1 / 3,
        aim=0.5, candidate=lambda: estimator.estimate(t, y), reference=value, rounds=rounds,
    )  # fmt: skip


def cases(quick: bool = False) -> Iterator[Case]:
    rounds = 3 if quick else 5
    for id, spec in (("F1", "gaussian"), ("F2", "knn")):
        for samples, units in ((1000, 10),) if quick else ((1000, 10), (2000, 128), (4000, 512)):
            for classes in (10, 0):
                yield case(id, spec, samples, units, classes, rounds)
