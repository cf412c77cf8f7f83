"""Which samples of the probe an estimate is made on, and their labels: all, a part, a class, or a class within a part.

Everything that is estimated on less than the whole probe goes through here; no estimator knows of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from infoplane.core.records import NO_LABEL, Layer, Probe
from infoplane.core.tokens import token_units
from infoplane.estimators import Estimator, Quantity

# Quantities with Y in their name, as I(T;Y) or H(Y|T).
_OF_Y = re.compile(r"\bY\b")


@dataclass(frozen=True)
class Subset:
    """Samples of one probe part (None: all parts) and of one class (None: all classes)."""

    part: str | None = None
    label: int | None = None

    @property
    def name(self) -> str:
        """The subset's name in the table: `all`, `train`, `class=3`, `train&class=3`."""
        if self.label is None:
            return self.part or "all"
        return f"class={self.label}" if self.part is None else f"{self.part}&class={self.label}"

    @property
    def base(self) -> Subset:
        """The same part with every class.

        What an estimator finds in `prepare` (outer bin edges, a scale) it finds there: conditioning on Y = y
        must not change what T is, or I(X;T|Y) would be no property of one T.
        """
        return Subset(self.part)

    def rows(self, probe: Probe, *, repeats: bool, token: int | None = None) -> npt.NDArray[np.int64]:
        """Return the row numbers (n,) of the samples in the probe, ascending.

        With `repeats` further noisy passes over an input are rows too. Where positions have labels of their own, only
        samples with a label at the position `token` are.
        """
        mask = np.ones(probe.samples, dtype=bool) if repeats else probe.repeats == 0
        if probe.positions is not None and token is not None:
            mask &= probe.labels[:, token] != NO_LABEL
        if self.part is not None:
            mask &= probe.part == probe.part_names.index(self.part)
        if self.label is not None:
            mask &= probe.labels == self.label
        return np.flatnonzero(mask)


def views(probe: Probe, subset: Subset, number: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the row numbers of two views of each input: of its first row (n,), and of its `number`-th (n,).

    Inputs with fewer than `number` rows in the subset are left out.
    """
    rows = subset.rows(probe, repeats=True)
    # Sorted by input, then by noisy pass, then by place.
    rows = rows[np.lexsort([rows, probe.repeats[rows], probe.input_ids[rows]])]
    first = np.unique(probe.input_ids[rows], return_index=True)[1]  # where each input begins in `rows`
    # The same of the inputs that have at least `number` rows.
    enough = first[np.diff(first, append=len(rows)) >= number]
    order = np.argsort(rows[enough])
    return rows[enough][order], rows[enough + number - 1][order]


def labels_of(probe: Probe, rows: npt.NDArray[np.int64], token: int | None) -> npt.NDArray[Any]:
    """Return the labels (n,) or targets (n, k) of these rows; where positions have labels, those at position `token`.

    For a whole layer (`token` None) no position is meant: all labels are 0, and what depends on them is dropped later.
    """
    if probe.positions is None:
        return probe.labels[rows]
    return np.zeros(len(rows), np.int64) if token is None else probe.labels[rows, token]


def without_labels(probe: Probe, layer: Layer, token: int | None) -> str:
    """Return why nothing can be said of Y on a whole layer of a probe with a label for each position; else ""."""
    if probe.positions is None or token is not None:
        return ""
    why = f"no I(T;Y) nor anything else of Y: the probe has a label for each of {probe.positions} positions, "
    if token_units(layer):
        return f"{why}which would it be? estimate LAYER[token=*]"
    return (
        f"{why}and what was recorded ({layer.reduction}, shape {layer.unit_shape}) has no axis of them; record with "
        "reduce='flatten' or tokens([...]), and estimate LAYER[token=*]"
    )


def not_of_labels(quantities: Mapping[str, Quantity]) -> dict[str, Quantity]:
    """Return the quantities that do not depend on Y, from an estimate in which all labels were the same.

    A quantity depends on Y if Y is in its name, or if its flag says that it saw a single class.
    """

    def single(q: Quantity) -> bool:
        """Whether the quantity says by its flag that it saw a single class."""
        return "single_class" in q.flags and bool(q.flags["single_class"].any())

    return {name: q for name, q in quantities.items() if not _OF_Y.search(name) and not single(q)}


def wants_repeats(estimator: Estimator, probe: Probe) -> bool:
    """Whether an estimator is given the further noisy passes of this probe as samples.

    One that weighs all samples alike (`uses_repeats = True`) gets them only where every input has as many: otherwise
    the inputs that were repeated would weigh more, and H(X) would not be that of the probe. One with
    `uses_repeats = "partial"` always gets them.
    """
    asked = getattr(estimator, "uses_repeats", False)
    if not asked or asked == "partial":
        return bool(asked)
    # Each input that has further passes, and in how many rows; each input, and in how many rows of the first pass.
    repeated, further = np.unique(probe.input_ids[probe.repeats > 0], return_counts=True)
    inputs, first = np.unique(probe.input_ids[probe.repeats == 0], return_counts=True)
    return len(repeated) == len(inputs) and len(np.unique(further / first)) == 1


@dataclass(frozen=True)
class ClassMean:
    """A weighted mean over classes: sum_y p(y) I(X;T|Y=y), p(y) the share of the class in `base`."""

    base: Subset
    classes: tuple[Subset, ...]

    def weights(self, probe: Probe, *, repeats: bool) -> list[float]:
        """p(y) of each class: its share of the samples."""
        counts = [len(s.rows(probe, repeats=repeats)) for s in self.classes]
        return [n / sum(counts) for n in counts]


def resolve(wanted: str | Iterable[str], probe: Probe) -> tuple[list[Subset], list[ClassMean]]:
    """Subsets in the order asked for, each once, and the means over classes that follow from `class=*`.

    Parameters
    ----------
    wanted : name or names
        "all"; a part of the probe ("train"); "class=3" or "class=NAME"; "class=*" for every class;
        "train&class=3" or "train&class=*".
    probe : Probe

    Raises
    ------
    ValueError
        A name that fits none of these, a class that the probe does not have, or classes of a probe with
        regression targets.
    """
    subsets: dict[Subset, None] = {}
    means: dict[ClassMean, None] = {}
    for name in [wanted] if isinstance(wanted, str) else wanted:
        part, label = _split(name, probe)
        if label is None:
            subsets[Subset(part)] = None
            continue
        classes = _classes(name, part, probe)
        if label == "*":
            subsets.update(dict.fromkeys(classes))
            means[ClassMean(Subset(part), tuple(classes))] = None
        else:
            subsets[_of_class(label, name, classes, probe)] = None
    if not subsets:
        raise ValueError("subsets must name at least one subset, got none; 'all' is the whole probe")
    return list(subsets), list(means)


def _split(name: str, probe: Probe) -> tuple[str | None, str | None]:
    """Return (part, class) from a subset's name: part None for all parts, class None for all classes together."""
    if name == "all":
        return None, None
    if name in probe.part_names:
        return name, None
    if name.startswith("class="):
        return None, name.removeprefix("class=")
    part, found, label = name.rpartition("&class=")
    if found and (part in probe.part_names or part == "all"):
        return (None if part == "all" else part), label
    parts = ", ".join(p for p in probe.part_names if p != "all")
    raise ValueError(
        f"no subset {name!r}; expected all, {parts + ', ' if parts else ''}class=* or class=LABEL"
        f"{', or a part with &class=*' if parts else ''}"
    )


def _classes(name: str, part: str | None, probe: Probe) -> list[Subset]:
    """Return a subset for each class that occurs in this part; ValueError where samples have no class."""
    if probe.target != "discrete":
        raise ValueError(
            f"subset {name!r} needs class labels, the probe has regression targets; "
            "infoplane.estimators.bin_targets makes classes of them"
        )
    if probe.positions is not None:
        raise ValueError(
            f"subset {name!r} needs one label for each sample, the probe has one for each of {probe.positions} "
            "positions; for classes at position p record with the labels y[:, p] and without the samples of -100"
        )
    labels = probe.labels[Subset(part).rows(probe, repeats=True)]
    return [Subset(part, int(c)) for c in np.unique(labels)]


def _of_class(label: str, name: str, classes: list[Subset], probe: Probe) -> Subset:
    """Return the one of `classes` whose class has the name or number `label`; ValueError where there is none."""
    number = probe.label_names.index(label) if label in probe.label_names else None
    if number is None and label.lstrip("-").isdecimal():
        number = int(label)
    for subset in classes:
        if subset.label == number:
            return subset
    known = ", ".join(str(subset.label) for subset in classes[:20]) + (", ..." if len(classes) > 20 else "")
    raise ValueError(f"no class for subset {name!r}; the probe has {known}")
