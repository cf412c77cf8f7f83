"""The one way from `estimate` to its quantities: `start` what snapshots share, a `chunk` at a time, `finish`.

An estimator's `estimate` is `return run(self, t, y, x, x_ids)`. It has a method `start` that takes the checked inputs
and returns a `Problem`, which holds the formula and names its numbers through `report`. The driver checks, cuts and
puts together; the registry then looks at what holds for every estimator (`checked`).
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from infoplane.core.units import BIT
from infoplane.estimators._protocol import Bound, Quantity, check_inputs, input_features
from infoplane.estimators._scaling import drawn_rows

PART_BYTES = 256 << 20
"""Memory that one chunk of a method that takes several snapshots at once may use."""

Number = Tensor | float | bool
Flags = Mapping[str, Tensor | bool]


class Given(NamedTuple):
    """The checked arguments of one call: `t` (S, N, U), `y` and `x_ids` (N,), and the inputs as they came."""

    t: Tensor
    y: Tensor
    x: Tensor | None
    x_ids: Tensor

    def features(self, *, keep: bool = False) -> Tensor | None:
        """The inputs (N, F) as `input_features` gives them, for methods that read them; None without."""
        return None if self.x is None else input_features(self.x, self.t, keep=keep)

    def drawn(self, limit: int, seed: int) -> Given:
        """At most `limit` samples of all, drawn with `seed`; the ids are numbered anew."""
        rows = drawn_rows(self.t.shape[1], limit, seed)
        if rows is None:
            return self
        rows = rows.to(self.t.device)
        x = self.features(keep=True)
        x_ids = torch.unique(self.x_ids[rows], return_inverse=True)[1]
        return Given(self.t[:, rows], self.y[rows], None if x is None else x[rows], x_ids)


class Problem(ABC):
    """What all snapshots of one call share, and the formula of the method on some of them.

    Attributes
    ----------
    t : (S, N, U)
        The layer as the method uses it: as given, or some of its samples.
    bytes_each : int
        Memory of one snapshot in a chunk; 0 for methods that loop over snapshots, whose chunk is all of them.
    part_bytes : int
        Memory that a chunk may use.
    """

    t: Tensor
    bytes_each: int = 0
    part_bytes: ClassVar[int] = PART_BYTES

    @abstractmethod
    def chunk(self, t: Tensor) -> dict[str, Tensor]:
        """The numbers (S_c, ...) of some consecutive snapshots (S_c, N, U), by keys of the method's own."""

    @abstractmethod
    def finish(self, found: dict[str, Tensor]) -> dict[str, Quantity]:
        """The quantities, from the numbers (S, ...) of all snapshots."""


class Started(Protocol):
    """An estimator that the driver can run."""

    @property
    def name(self) -> str: ...

    @property
    def targets(self) -> frozenset[str]: ...

    def start(self, given: Given) -> Problem: ...


def run(
    estimator: Started,
    t: Tensor,
    y: Tensor,
    x: Tensor | None,
    x_ids: Tensor | None,
    *,
    min_samples: int = 2,
    finite: bool = True,
    widen: bool = True,
) -> dict[str, Quantity]:
    """Check the arguments of `estimate` as `check_inputs` does, then run `start`, every `chunk`, and `finish`."""
    t, y, x_ids = check_inputs(
        t,
        y,
        x_ids,
        targets=estimator.targets,
        name=estimator.name,
        min_samples=min_samples,
        finite=finite,
        widen=widen,
    )
    problem = estimator.start(Given(t, y, x, x_ids))
    size, whole = _snapshots_at_once(estimator, problem), len(problem.t)
    if size >= whole:
        return problem.finish(problem.chunk(problem.t))
    parts = [problem.chunk(problem.t[i : i + size]) for i in range(0, whole, size)]
    return problem.finish({key: torch.cat([part[key] for part in parts]) for key in parts[0]})


def _snapshots_at_once(estimator: Started, problem: Problem) -> int:
    """Snapshots of one chunk."""
    fixed: int | None = getattr(estimator, "chunk", None)
    if fixed is not None:  # their numbers depend on who is in the chunk: memory must not decide
        return fixed
    return max(1, problem.part_bytes // problem.bytes_each) if problem.bytes_each else len(problem.t)


def over_snapshots(t: Tensor, of_one: Callable[[Tensor], Mapping[str, Number]]) -> dict[str, Tensor]:
    """A chunk of a method that takes snapshots one by one: its numbers of each (N, U), as tensors (S, ...)."""
    rows = [of_one(layer) for layer in t]
    return {key: _stacked([row[key] for row in rows], t.device) for key in rows[0]}


def _stacked(numbers: list[Number], device: torch.device) -> Tensor:
    if isinstance(numbers[0], Tensor):
        return torch.stack([n for n in numbers if isinstance(n, Tensor)])
    dtype = torch.bool if isinstance(numbers[0], bool) else torch.float64
    return torch.tensor(numbers, dtype=dtype, device=device)


class Null(NamedTuple):
    """The same estimate where there is nothing to know: mean, 2.5 and 97.5 % points (S,) over shuffled labels.

    Without points the mean is exact, over all shuffles. A value that exceeds the upper one by no more than `slack`
    does so by rounding.
    """

    mean: Tensor
    low: Tensor | None = None
    high: Tensor | None = None
    slack: float = 0.0

    @property
    def top(self) -> Tensor:
        """(S,) what a value must exceed to say anything."""
        top = self.mean if self.high is None else self.high
        return top + self.slack if self.slack else top


def report(
    name: str,
    value: Tensor,
    *,
    ceiling: Tensor | float | None = None,
    half: Tensor | None = None,
    null: Null | None = None,
    flags: Flags | None = None,
    null_flags: Flags | None = None,
    bound: Bound = "point",
    unit: str = BIT,
    estimand: str = "",
) -> dict[str, Quantity]:
    """One quantity by its name, and behind it "<name> null" where there is a null, which also sets `below_null`.

    Parameters
    ----------
    value : (S,) float64
    ceiling : number, () or (S,)
        The largest value possible.
    half : (S,)
        Half the width of the 95 % interval around the value.
    flags : mapping to (S,) bool, or to one bool for all snapshots
    null_flags : the same
        Flags of the null; those of the value without `saturated` when not given.
    """
    top = value.new_tensor(ceiling) if isinstance(ceiling, int | float) else ceiling
    low, high = (None, None) if half is None else (value - half, value + half)
    quantity = Quantity(
        value=value,
        low=low,
        high=high,
        bound=bound,
        ceiling=top,
        unit=unit,
        estimand=estimand,
        flags=expanded(flags or {}, value),
    )
    if null is None:
        return {name: quantity}
    own = {flag: on for flag, on in quantity.flags.items() if flag != "saturated"}
    return with_null(name, quantity, null, own if null_flags is None else expanded(null_flags, value))


def expanded(flags: Flags, value: Tensor) -> dict[str, Tensor]:
    """Flags (S,) where some are one bool for all snapshots."""
    return {
        name: on if isinstance(on, Tensor) else torch.full(value.shape, on, dtype=torch.bool, device=value.device)
        for name, on in flags.items()
    }


def with_null(name: str, quantity: Quantity, null: Null, flags: Mapping[str, Tensor]) -> dict[str, Quantity]:
    """The quantity with its flag `below_null`, and its null with these flags."""
    below = {**quantity.flags, "below_null": quantity.value <= null.top}
    beside = Quantity(
        value=null.mean,
        low=null.low,
        high=null.high,
        ceiling=quantity.ceiling,
        unit=quantity.unit,
        estimand=quantity.estimand,
        flags=flags,
    )
    return {name: dataclasses.replace(quantity, flags=below), f"{name} null": beside}
