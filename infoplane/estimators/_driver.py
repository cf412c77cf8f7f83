"""The one way from `estimate` to its quantities: `start` what snapshots share, a `chunk` at a time, `finish`.

An estimator inherits `estimate` from `Method`. Its `start` takes the checked inputs and returns a `Problem`, which
holds the formula and names its numbers through `report`. The driver checks, cuts and puts together; the registry then
looks at what holds for every estimator (`checked`).
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from infoplane.core.units import BIT
from infoplane.estimators._protocol import Bound, Quantities, Quantity, as_floats, check_inputs, values_only
from infoplane.estimators._scaling import drawn_rows
from infoplane.estimators._settings import check_settings

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
        """Return the inputs (N, F) on the device of `t`, or None: as float64, with `keep` in their own float type."""
        if self.x is None:
            return None
        if self.x.shape[:1] != self.t.shape[1:2]:
            raise ValueError(f"x must have one row per sample ({self.t.shape[1]}), got shape {tuple(self.x.shape)}")
        x = self.x if self.x.ndim > 1 else self.x[:, None]
        floats = as_floats(x, "x").to(self.t.device).flatten(1)
        return floats if keep else floats.to(torch.float64)

    def sides(self) -> dict[str, Tensor]:
        """Return what T is compared with, by the pair: {"T;Y": labels or targets, "X;T": inputs if given}."""
        x = self.features()
        return {"T;Y": self.y} if x is None else {"T;Y": self.y, "X;T": x}

    def drawn(self, limit: int, seed: int) -> Given:
        """Return these arguments for at most `limit` samples, drawn with `seed`; `x_ids` are numbered anew from 0."""
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
    config : Method
    t : (S, N, U)
        The layer as the method uses it: as given, or some of its samples.
    y : (N,) or (N, k)
    samples, units : int
        N and U.
    continuous : bool
        Whether `y` are real targets; else they are classes.
    bytes_each : int
        Memory of one snapshot in a chunk; 0 for methods that loop over snapshots, whose chunk is all of them.
    part_bytes : int
        Memory that a chunk may use.
    """

    config: Method
    bytes_each: int = 0
    part_bytes: ClassVar[int] = PART_BYTES

    def __init__(self, config: Any, given: Given) -> None:
        """Keep the layer, the labels and their sizes; an estimator's own class adds what it needs once a call."""
        self.config, self.t, self.y = config, given.t, given.y
        self.samples, self.units = given.t.shape[1:]
        self.continuous = given.y.is_floating_point()

    def chunk(self, t: Tensor) -> dict[str, Tensor]:
        """Return the numbers (S_c, ...) of some consecutive snapshots (S_c, N, U), by keys of the method's own."""
        return side_by_side([self.snapshot(layer) for layer in t], t.device)

    def snapshot(self, layer: Tensor) -> Mapping[str, Number]:
        """Return the numbers of one snapshot (N, U), for methods that take them one by one."""
        raise NotImplementedError

    @abstractmethod
    def finish(self, found: dict[str, Tensor]) -> dict[str, Quantity]:
        """Return the quantities by name, from the numbers (S, ...) of all snapshots."""

    def numbers(self) -> dict[str, Tensor]:
        """Return the numbers (S, ...) of all snapshots, found a chunk at a time."""
        size, t = self.at_once(), self.t
        return joined([self.chunk(t[i : i + size]) for i in range(0, len(t), size)])

    def at_once(self) -> int:
        """Return how many snapshots make one chunk."""
        fixed: int | None = getattr(self.config, "chunk", None)
        # Some methods have a fixed number: their results depend on which snapshots share a chunk, so that memory must
        # not decide it.
        if fixed is not None:
            return fixed
        return max(1, self.part_bytes // self.bytes_each) if self.bytes_each else len(self.t)


class Method(ABC):
    """An estimator that the driver runs: its settings, checked against their domains, and the `start` of a call."""

    name: ClassVar[str]
    targets: ClassVar[frozenset[str]] = frozenset({"discrete", "continuous"})
    shannon: ClassVar[bool] = True
    """Whether what it gives of (T;Y) is a Shannon information, in bits."""
    as_given: ClassVar[bool] = False
    """Whether the method itself widens narrow floats and refuses what is not finite."""

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def min_samples(self) -> int:
        """Return the least number of samples that the method needs."""
        return 2

    def values(self, t: Tensor) -> Tensor:
        """Return the activations that are checked and used: `t`, or what a method makes of it first."""
        return t

    @abstractmethod
    def start(self, given: Given) -> Problem:
        """Return the problem of one call: what its snapshots share, and the formula on them."""

    def estimate(self, t: Tensor, y: Tensor, *, x: Tensor | None = None, x_ids: Tensor | None = None) -> Quantities:
        """Return every quantity by its name, for each snapshot of a layer.

        Parameters
        ----------
        t : (S, N, U)
            Activations of S snapshots on N samples.
        y : (N,) integer classes, or (N,) or (N, k) float targets
        x : (N, ...)
            Inputs, for methods that read them.
        x_ids : (N,) integers
            Which input each sample is; without them every sample is an input of its own.

        Raises
        ------
        ValueError, TypeError
            With what was expected, what came, and what to do.
        """
        problem = self.start(self._given(t, y, x, x_ids))
        return problem.finish(problem.numbers())

    def _given(self, t: Tensor, y: Tensor, x: Tensor | None, x_ids: Tensor | None) -> Given:
        """Return the arguments of one call, checked and normalised as the attributes of this method say."""
        t, least = self.values(t), self.min_samples
        t, y, x_ids = check_inputs(
            t, y, x_ids, targets=self.targets, name=self.name, min_samples=least, as_given=self.as_given
        )
        return Given(t, y, x, x_ids)


def on_rows(
    estimator: Any, rows: Tensor, t: Tensor, y: Tensor, *, x: Tensor | None, x_ids: Tensor | None
) -> Quantities:
    """Return the quantities of an estimator on the samples `rows` (n,) alone, without flags that cost extra work."""
    part_y, part_x, part_ids = (None if a is None else a[rows.to(a.device)] for a in (y, x, x_ids))
    with values_only():
        found: Quantities = estimator.estimate(t[:, rows.to(t.device)], part_y, x=part_x, x_ids=part_ids)
    return found


def joined(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return one mapping with the numbers (S, ...) of all snapshots, from `parts`, a mapping for each chunk of them."""
    if len(parts) == 1:
        return dict(parts[0])
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


def side_by_side(rows: Sequence[Mapping[str, Number]], device: torch.device) -> dict[str, Tensor]:
    """Return one mapping with the numbers of all snapshots as (S, ...), from `rows`, a mapping for each snapshot."""
    return {key: _stacked([row[key] for row in rows], device) for key in rows[0]}


def _stacked(numbers: list[Number], device: torch.device) -> Tensor:
    """Return a tensor (S, ...) of one number for each snapshot: tensors stacked, bools as bool, others as float64."""
    if isinstance(numbers[0], Tensor):  # then all are
        return torch.stack([n for n in numbers if isinstance(n, Tensor)])
    dtype = torch.bool if isinstance(numbers[0], bool) else torch.float64
    return torch.tensor(numbers, dtype=dtype, device=device)


class Null(NamedTuple):
    """What an estimate reads by chance: its mean, 2.5 and 97.5 % points (S,) over shuffles of the labels.

    Without points the mean is exact, over all shuffles. A value that exceeds the upper point by no more than `slack`
    exceeds it by rounding.
    """

    mean: Tensor
    low: Tensor | None = None
    high: Tensor | None = None
    slack: float = 0.0

    @property
    def top(self) -> Tensor:
        """Return the 97.5 % point (S,), which a value must exceed to say anything; with an exact mean, the mean."""
        top = self.mean if self.high is None else self.high
        return top + self.slack


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
    """Return one quantity by its name, and behind it "<name> null" where there is a null, which sets `below_null`.

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
    # Filled on the device of the value: a copy from the host would make an accelerator wait.
    top = value.new_full((), ceiling) if isinstance(ceiling, int | float) else ceiling
    low, high = (None, None) if half is None else (value - half, value + half)
    up = expanded(flags or {}, value)
    q = Quantity(value=value, low=low, high=high, bound=bound, ceiling=top, unit=unit, estimand=estimand, flags=up)
    if null is None:
        return {name: q}
    own = {flag: on for flag, on in up.items() if flag != "saturated"}
    return with_null(name, q, null, own if null_flags is None else expanded(null_flags, value))


def expanded(flags: Flags, value: Tensor) -> dict[str, Tensor]:
    """Return the flags as (S,) bool each, the shape of `value`; one bool stands for all snapshots."""
    return {
        name: on if isinstance(on, Tensor) else torch.full(value.shape, on, dtype=torch.bool, device=value.device)
        for name, on in flags.items()
    }


def with_null(name: str, q: Quantity, null: Null, flags: Mapping[str, Tensor], *, signed: bool = False) -> Quantities:
    """Return the quantity `q` by its name with the flag `below_null`, and "<name> null" with the given flags.

    For a `signed` quantity, which may lie on either side of 0, the flag says that it lies between both points.
    """
    chance = q.value <= null.top
    if signed and null.low is not None:
        chance &= q.value >= null.low
    flagged = dataclasses.replace(q, flags={**q.flags, "below_null": chance})
    shuffled = dataclasses.replace(q, value=null.mean, low=null.low, high=null.high, bound="point", flags=flags)
    return {name: flagged, f"{name} null": shuffled}
