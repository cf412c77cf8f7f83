"""What a network forgets for a while when it goes on to the next task, and how deep it falls on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from infoplane.core.records import FloatArray
from infoplane.diagnostics._place import Entry, Measured, digest, finite_float64, raised


@dataclass(frozen=True, eq=False, kw_only=True)
class StabilityGap(Measured):
    """Worst accuracies while several tasks are trained one after the other.

    Its rows: "min-ACC", "WC-ACC" and "windowed forgetting", a mean over tasks; `where` names the last step.

    Attributes
    ----------
    min_acc : float
        Mean over all tasks but the last of their lowest accuracy since their training ended.
    wc_acc : float
        Mean of these lowest accuracies and the final accuracy of the last task, each task with the same weight.
    final : float
        Mean of the final accuracies of all tasks: all that is seen where nobody looks in between.
    lowest : (K - 1,) float64
        The lowest accuracy of each task but the last since its training ended.
    forgetting : (K,) float64
        The largest fall of each task within `window` steps.
    widest : int
        Most steps between two evaluations that follow each other, from the end of the first task on.
    flags : tuple of str
        `few_samples` where these are more than the window: a dip can have come and gone between the evaluations.
    n_samples : int
        Evaluations that count.
    """

    estimator: ClassVar[str] = "stability-gap"

    min_acc: float
    wc_acc: float
    final: float
    lowest: FloatArray
    forgetting: FloatArray
    widest: int

    def _entries(self) -> list[Entry]:
        """Return the three worst-case measures, as bounds where some steps were not evaluated."""
        # Where steps were not evaluated, the true minimum may be lower and the true fall larger.
        values = {
            "min-ACC": (self.min_acc, "upper"),
            "WC-ACC": (self.wc_acc, "upper"),
            "windowed forgetting": (float(self.forgetting.mean()), "lower"),
        }
        return [
            Entry(name, value, "accuracy", bound=bound if self.widest > 1 else "point", flags=self.flags)
            for name, (value, bound) in values.items()
        ]


def stability_gap(
    steps: npt.ArrayLike, accuracy: npt.ArrayLike, ends: Sequence[int], *, window: int = 10
) -> StabilityGap:
    """How far accuracy on earlier tasks falls while later ones are trained, at its worst and within a window.

    K tasks are trained one after the other. min-ACC is the mean, over all tasks but the last, of the lowest accuracy
    since the training of the task ended. WC-ACC = A_K / K + (1 - 1/K) min-ACC, with A_K the final accuracy of the last
    task. The windowed forgetting of a task is its largest fall, over all of training, from any evaluation to one at
    most `window` steps later.

    How it misleads: a dip lasts a few steps, and evaluations further apart than that do not see it: minima are then
    upper bounds and falls are lower bounds, and the rows say so. The lowest of many noisy accuracies is low by chance,
    the lower the more evaluations there are and the fewer test samples: compare with the spread within one task. A fall
    of a task that has not been trained yet is chance, too.

    Parameters
    ----------
    steps : (P,) array
        Steps of the evaluations, ascending.
    accuracy : (P, K) array
        Accuracy of every task at each evaluation.
    ends : sequence of K int
        Last step of each task, in the order of training. Evaluations after the last are left out.
    window : int
        Most steps between both ends of a fall.

    Raises
    ------
    ValueError
        For one task, steps that do not rise, ends between which nothing was evaluated, or bad arrays.

    References
    ----------
    De Lange, van de Ven and Tuytelaars, "Continual evaluation for lifelong learning: identifying the stability gap",
    2023.

    Examples
    --------
    >>> steps = np.arange(0, 21)
    >>> first = np.where(steps > 10, 0.5 + 0.04 * (steps - 11), 0.9)          # falls, and comes back
    >>> second = np.where(steps > 10, 0.8, 0.1)
    >>> found = stability_gap(steps, np.stack([first, second], axis=1), ends=[10, 20], window=5)
    >>> round(found.min_acc, 3), round(found.final, 3), found.forgetting.round(3).tolist()
    (0.5, 0.83, [0.4, 0.0])
    """
    t, a = finite_float64(steps, "steps have", "values"), finite_float64(accuracy, "accuracy has", "values")
    tasks = len(ends)
    if t.ndim != 1 or a.shape != (len(t), tasks) or tasks < 2:
        raise ValueError(
            f"accuracy must be (evaluations, tasks) of the {len(ends)} tasks in ends, two at least, with a step each; "
            f"got {a.shape} and steps {t.shape}"
        )
    if (np.diff(t) <= 0).any() or window < 1:
        raise ValueError(f"steps must rise and window be at least 1, got window {window}")
    done = np.searchsorted(t, np.array(ends), side="right")  # evaluations up to the end of each task, (K,)
    if (np.diff(done, prepend=0) <= 0).any():
        raise ValueError(f"every task needs an evaluation between its start and its end, got ends {list(ends)}")
    t, a = t[: done[-1]], a[: done[-1]]
    lowest = np.array([a[done[i] :, i].min() for i in range(tasks - 1)])
    widest = int(np.diff(t[done[0] - 1 :]).max())  # from the last evaluation of the first task on
    return StabilityGap(
        min_acc=float(lowest.mean()),
        wc_acc=float(a[-1, -1] / tasks + (1 - 1 / tasks) * lowest.mean()),
        final=float(a[-1].mean()),
        lowest=lowest,
        forgetting=_falls(t, a, window),
        widest=widest,
        flags=raised(few_samples=widest > window),
        config={"ends": [int(end) for end in ends], "window": window},
        n_samples=len(t),
        source=digest(t, a),
    )


def _falls(steps: FloatArray, accuracy: FloatArray, window: int) -> FloatArray:
    """Return the largest fall of each task (K,) between evaluations at most `window` steps apart, at least 0."""
    largest = np.zeros(accuracy.shape[1])
    for apart in range(1, len(steps)):
        near = steps[apart:] - steps[:-apart] <= window
        if not near.any():
            break
        largest = np.maximum(largest, (accuracy[:-apart] - accuracy[apart:])[near].max(axis=0))
    return largest
