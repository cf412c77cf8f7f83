"""The class under test, and the data that most checks try it on."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from infoplane.core.records import Noise
from infoplane.estimators import Quantity

SNAPSHOTS, SAMPLES, UNITS, CLASSES = 3, 64, 4, 3
SAME = 1e-9


class InMemory:
    """A whole run of one layer held in memory, as `prepare` reads it: two snapshots at a time.

    Parameters
    ----------
    t : (S, N, U) Tensor
    """

    noise: Noise | None = None

    def __init__(self, t: Tensor) -> None:
        self.t = t

    def __iter__(self) -> Iterator[Tensor]:
        for start in range(0, len(self.t), 2):
            yield self.t[start : start + 2]


def ready(estimator: Any, t: Tensor, y: Tensor, x: Tensor | None = None) -> Any:
    """The estimator, prepared on the run `t` where it can be prepared.

    Parameters
    ----------
    estimator : Estimator
    t : (S, N, U) Tensor
        The whole run of one layer.
    y : (N,) or (N, K) Tensor
        Classes or targets.
    x : (N, F) Tensor, optional
        Inputs.

    Returns
    -------
    Estimator
        What `prepare` gives, or the estimator itself where it has no `prepare`.
    """
    return estimator.prepare(InMemory(t), y, x) if hasattr(estimator, "prepare") else estimator


@dataclasses.dataclass
class Subject:
    """The class under test with its settings, and the data it is tried on."""

    cls: type[Any]
    config: dict[str, Any]

    def __post_init__(self) -> None:
        """Make the data: activations (S, N, U) that tell of classes (N,) and of inputs (N, 3), with noise."""
        g = torch.Generator().manual_seed(0)
        self._classes = torch.arange(SAMPLES) % CLASSES
        self._x = torch.randn(SAMPLES, 3, generator=g)
        noise = torch.randn(SNAPSHOTS, SAMPLES, UNITS, generator=g)
        gain = torch.tensor([0.5, 1.0, 3.0])[:, None, None]  # of each snapshot: nearly linear to saturated
        # Quarters below 8 are exact in every floating type the suite tries, and contain ties.
        signal = 0.5 * self._classes[:, None] + self._x[:, :1]
        self._t = torch.round(4 * torch.tanh(gain * (signal + 0.7 * noise))) / 4
        self._t[:, :, 0] += 1.25  # one unit of positive values alone

    # A fresh copy each time: an estimator that writes to its input must not spoil the next check.
    @property
    def classes(self) -> Tensor:
        return self._classes.clone()

    @property
    def x(self) -> Tensor:
        return self._x.clone()

    @property
    def t(self) -> Tensor:
        return self._t.clone()

    @property
    def discrete(self) -> bool:
        return "discrete" in self.cls.targets

    @property
    def y(self) -> Tensor:
        """Classes, or targets for an estimator that takes no classes."""
        return self.classes if self.discrete else self.x.double().sum(1)

    def make(self) -> Any:
        """The estimator with its settings."""
        return self.cls(**self.config)

    def ready(self, t: Tensor, y: Tensor, x: Tensor) -> Any:
        """An estimator, prepared on the run `t` where it can be prepared."""
        return ready(self.make(), t, y, x)

    @functools.cached_property
    def found(self) -> dict[str, Quantity]:
        """The estimates on the data of most checks, made once."""
        return self.run()

    def run(
        self, t: Tensor | None = None, y: Tensor | None = None, x: Tensor | None = None, **more: Any
    ) -> dict[str, Quantity]:
        """Estimates on the data that are given, and on the subject's own for the rest."""
        t, y, x = self.t if t is None else t, self.y if y is None else y, self.x if x is None else x
        found: dict[str, Quantity] = self.ready(t, y, x).estimate(t, y, x=x, **more)
        return found


def require(condition: bool, message: str) -> None:
    """Raise AssertionError with this message unless the condition holds."""
    if not condition:
        raise AssertionError(message)


def require_finite(found: dict[str, Quantity], what: str) -> None:
    """Require finite values of every quantity."""
    for name, q in found.items():
        require(bool(torch.isfinite(q.value).all()), f"{name} {what}")


def require_zero(found: dict[str, Quantity], what: str) -> None:
    """Require finite values of every quantity, and 0 bits of I(T;Y) where it is estimated."""
    require_finite(found, f"{what} must be finite")
    if "I(T;Y)" in found:
        value = found["I(T;Y)"].value
        require(bool((value.abs() < SAME).all()), f"I(T;Y) {what} must be 0, got {value.tolist()}")
