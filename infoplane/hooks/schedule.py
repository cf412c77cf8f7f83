"""Which steps are recorded. A decision depends on step numbers alone, so all ranks of a job agree on it."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from infoplane.core.steps import MAX_STEP, whole_step


@runtime_checkable
class Schedule(Protocol):
    """Decides which of the steps that a loop visits are recorded.

    A loop need not visit every step. `due` therefore asks whether a planned step lies in
    (previous, step], where `previous` is the step of the call before: a loop that calls every 7 steps
    under `every(10)` records 14, 21, 35, ... rather than 70, 140, ...
    """

    def due(self, step: int, previous: int) -> bool: ...

    def plan(self, total: int) -> Plan: ...


@dataclass(frozen=True)
class Plan:
    """The steps that a schedule takes in a run of `total` steps, with the first and the last, which it always takes.

    Iterates over the steps and prints them.
    """

    schedule: str
    total: int
    steps: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[int]:
        return iter(self.steps)

    def __str__(self) -> str:
        shown = [str(s) for s in self.steps]
        if len(shown) > 24:  # the beginning and the end are enough
            shown = [*shown[:16], "...", *shown[-6:]]
        return f"{self.schedule}: {len(self.steps)} snapshots in {self.total} steps: {' '.join(shown)}"


@dataclass(frozen=True)
class _Named:
    """A schedule with a name."""

    label: str

    def __str__(self) -> str:
        return self.label

    def _plan(self, total: int, steps: Iterable[int]) -> Plan:
        """Return the plan of 0, `total` and those of `steps` that lie between; ValueError for a negative total."""
        if total < 0:
            raise ValueError(f"total must be the number of steps of the run, got {total}")
        taken = {0, total, *(s for s in steps if 0 <= s <= total)}
        return Plan(self.label, total, tuple(sorted(taken)))


@dataclass(frozen=True)
class _Every(_Named):
    """Every n-th step."""

    n: int

    def due(self, step: int, previous: int) -> bool:
        return step // self.n > previous // self.n

    def plan(self, total: int) -> Plan:
        return self._plan(total, range(0, total + 1, self.n))


def every(n: int) -> Schedule:
    """Every n-th step.

    Raises
    ------
    ValueError
        If `n` is below 1.
    """
    check_positive("n", n)
    return _Every(f"every({n})", n)


def epochs(n: int = 1, *, steps_per_epoch: int = 1) -> Schedule:
    """Every n-th epoch, for a loop that calls `snapshot` once per optimizer step.

    Parameters
    ----------
    n : int
        Epochs between snapshots.
    steps_per_epoch : int
        Calls of `snapshot` in one epoch: `len(loader)` in a loop over batches, 1 in a loop over epochs.

    Raises
    ------
    ValueError
        If either is below 1.
    """
    check_positive("n", n)
    check_positive("steps_per_epoch", steps_per_epoch)
    return _Every(f"epochs({n}, steps_per_epoch={steps_per_epoch})", n * steps_per_epoch)


@dataclass(frozen=True)
class _Steps(_Named):
    """Steps of a list."""

    steps: tuple[int, ...]

    def due(self, step: int, previous: int) -> bool:
        return bisect.bisect_right(self.steps, step) > bisect.bisect_right(self.steps, previous)

    def plan(self, total: int) -> Plan:
        return self._plan(total, self.steps)


def log_spaced(points: int | None = None, total: int | None = None, *, per_decade: int | None = None) -> Schedule:
    """Steps at equal ratios: dense early, where information planes move, and sparse late.

    Either `points` steps between 1 and `total`, or without an end `per_decade` (default 20) steps for each
    factor of ten. Rounding to whole steps merges the first ones: 200 points give 154 distinct steps of
    10,000, 131 of 1000 and 79 of 100; `plan(total)` prints them.

    Raises
    ------
    ValueError
        If only one of `points` and `total` is given, if they come with `per_decade`, or if any is below 1
        (`points` below 2).
    """
    if points is None and total is None:
        per_decade = 20 if per_decade is None else per_decade
        check_positive("per_decade", per_decade)
        powers = (10.0 ** (k / per_decade) for k in range(int(per_decade * math.log10(MAX_STEP)) + 1))
        return _Steps(f"log_spaced(per_decade={per_decade})", tuple(sorted({round(power) for power in powers})))
    if points is None or total is None or per_decade is not None:
        raise ValueError(
            "log_spaced takes points and total, or per_decade alone; "
            f"got points={points}, total={total}, per_decade={per_decade}"
        )
    check_positive("total", total)
    if points < 2:
        raise ValueError(f"points must be at least 2, got {points}")
    steps = sorted({round(math.exp(math.log(total) * k / (points - 1))) for k in range(points)})
    return _Steps(f"log_spaced({points}, {total})", tuple(steps))


@dataclass(frozen=True)
class _ByFunction(_Named):
    """Steps for which a function says True."""

    function: Callable[[int], bool]

    def due(self, step: int, previous: int) -> bool:
        return bool(self.function(step))

    def plan(self, total: int) -> Plan:
        return self._plan(total, (s for s in range(total + 1) if self.function(s)))


def as_schedule(schedule: object) -> Schedule:
    """A Schedule from what users write: None (log-spaced), n (every n), a list of steps, or step -> bool.

    Raises
    ------
    TypeError
        For anything else.
    """
    if schedule is None:
        return log_spaced()
    if isinstance(schedule, Schedule):
        return schedule
    if isinstance(schedule, int) and not isinstance(schedule, bool):
        return every(schedule)
    if callable(schedule):
        name = getattr(schedule, "__qualname__", type(schedule).__name__)
        return _ByFunction(f"callable {name}", schedule)
    if isinstance(schedule, Iterable) and not isinstance(schedule, str):
        steps = tuple(sorted({int(s) for s in schedule}))
        return _Steps(f"{len(steps)} listed steps", steps)
    raise TypeError(
        f"schedule must be every(n), epochs(n), log_spaced(...), a list of steps or a function of the step, "
        f"got {schedule!r}"
    )


def check_positive(name: str, value: int) -> None:
    """Raise ValueError, which names the argument, for a number below 1."""
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")


class StepCounter:
    """Steps are completed units of training, and step 0 is the untrained model.

    Where step 0 is taken on entry, a loop whose first counter is 0 calls after its first unit of training: its
    counters are shifted by one.
    """

    def __init__(self, schedule: Schedule, *, initial: bool) -> None:
        """Count for this schedule; `initial` says that step 0 is taken on entry."""
        self.schedule = schedule
        self.shift: int | None = None if initial else 0  # step minus counter; None until the first call tells
        self._previous = 0 if initial else -1  # the last step; -1 where step 0 is still to come
        self._resumed: int | None = None  # the last step of the stored run, until the first call

    def resume(self, last_step: int, shift: int | None) -> None:
        """Go on after a stored run with this last step; `shift` is the one it noted, None if it noted none."""
        self.shift = shift
        self._resumed = last_step

    def call(self, value: Any, *, force: bool = False) -> tuple[int, bool]:
        """Return (the step of this call, whether it is due); `value` is the loop's counter, `force` makes it due.

        A restarted training may go back before the last stored step: its first call sets where it goes on.

        Raises
        ------
        TypeError
            If the counter is no whole number from 0, of any kind that `whole_step` takes.
        ValueError
            If it does not grow.
        """
        try:
            counter = whole_step(value)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"step must be a whole number, got {value!r:.80}; counters start from 0, fractional epochs go into "
                "epoch="
            ) from error
        if self.shift is None:
            self.shift = 1 if counter == 0 else 0
        step = counter + self.shift
        if self._resumed is not None:
            self._previous = min(self._resumed, step - 1)
            self._resumed = None
        if step <= self._previous:
            raise ValueError(
                f"step {counter} comes after step {self._previous - self.shift}; steps must grow, and a restarted "
                "training needs a recorder with resume=True"
            )
        due = force or step == 0 or self.schedule.due(step, self._previous)
        self._previous = step
        return step, due
