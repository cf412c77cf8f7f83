"""From the loop's own counter to stored steps, and which of them are due."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from infoplane.hooks.schedule import Schedule

_ARRAYS = (np.ndarray, np.generic)


def whole_number(value: Any) -> int:
    """The loop's counter: an integer of Python, NumPy or torch, a tensor or array of one element, or 3.0.

    Raises
    ------
    TypeError
        For anything else, truth values among it.
    """
    one = (isinstance(value, Tensor) and value.numel() == 1) or (isinstance(value, _ARRAYS) and value.size == 1)
    number = value.item() if one else value
    if isinstance(number, bool) or not isinstance(number, int | float) or number != number // 1:
        raise TypeError(f"step must be a whole number, got {value!r:.80}; fractional epochs go into epoch=")
    return int(number)


class StepCounter:
    """Steps are completed units of training, and step 0 is the untrained model.

    Where step 0 is taken on entry, a loop whose first counter is 0 calls after its first unit of training: its
    counters are shifted by one.
    """

    def __init__(self, schedule: Schedule, *, initial: bool) -> None:
        self.schedule = schedule
        self.shift: int | None = None if initial else 0
        self._previous = 0 if initial else -1
        self._resumed: int | None = None

    def resume(self, last_step: int, shift: int | None) -> None:
        """Go on after a stored run whose last step is known, with the shift that it had."""
        self.shift = shift
        self._resumed = last_step

    def call(self, counter: int, *, force: bool = False) -> tuple[int, bool]:
        """The step of one call, and whether it is due.

        A restarted training may go back before the last stored step: its first call sets where it goes on.

        Raises
        ------
        ValueError
            If the counter is negative or does not grow.
        """
        if counter < 0:
            raise ValueError(f"step must not be negative, got {counter}")
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
