"""`+units` and `+synergy`: what single units know of Y, and what they know only together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from infoplane.estimators._codes import ATOM
from infoplane.estimators._driver import Null, report
from infoplane.estimators._labels import entropy_of_counts, interval_95
from infoplane.estimators._protocol import Quantities, Quantity, check_inputs, values_only
from infoplane.estimators._registry import register_wrapper
from infoplane.estimators._scaling import numbered_rows
from infoplane.estimators._settings import at_least, setting
from infoplane.estimators._wrappers import Wrapper, settled, shuffled_targets, without_null

I_TY = "I(T;Y)"
LEAST_DRAWS = 5
"""Shuffles from which a largest unit by chance is known at all."""


class UnitTable(NamedTuple):
    """What every unit knows of Y, in bits.

    Attributes
    ----------
    value : (S, D) float64
    null : (draws, S, D) float64
        The same under shuffled labels, one shuffle for all units.
    top : (S,) float64
        97.5 % point, over the shuffles, of the largest of all units: a unit above it is no chance find among D units.
    flags : mapping from flag name to (S, D) bool
        What the estimator says of each unit.
    """

    value: Tensor
    null: Tensor
    top: Tensor
    flags: dict[str, Tensor]


@register_wrapper("units")
@dataclass(frozen=True, kw_only=True)
class PerUnit(Wrapper):
    """I(unit;Y) of every unit by itself, by any estimator of I(T;Y), beside what the best unit reads by chance.

    Quantities: "I(unit 0;Y)" and on, for the first `most` units, with the flag `below_null` at or under the 97.5 %
    point of the largest unit under shuffled labels; "largest I(unit;Y)" over all units, with that null; "units above
    null".

    Values that a unit takes often (zeros of a ReLU) are atoms A, and with classes

        I(T;Y) = I(A;Y) + P(none) I(T;Y|none):

    the first term is counted, the estimator gets the other samples; fewer than 50 of them are taken to add nothing
    (flag `few_samples`).

    How it misleads: units may be blind one by one and know all together (XOR), or all know the same bit; a sum over
    units is no I(T;Y). With 20 shuffles the 97.5 % point is about the largest of them.

    Parameters
    ----------
    estimator : estimator, spec or settings
    draws : int
        Shuffles of the labels, the same for all units; at least 5.
    most : int
        Units that have a row each.
    seed : int
        Seeds the shuffles.

    References
    ----------
    Westfall and Young, "Resampling-based multiple testing", 1993: the largest statistic under permutation.
    """

    name: ClassVar[str] = "units"
    keeps: ClassVar[frozenset[str]] = frozenset({"blocks", "constant_zero"})

    estimator: Any = "knn"
    draws: int = setting(20, at_least(LEAST_DRAWS))
    most: int = setting(64, at_least(0))
    seed: int = 0

    def bytes_per_snapshot(self, samples: int, units: int) -> int:
        """Return the bytes that the estimator inside needs for one unit at a time, and the values of the shuffles."""
        inner = int(self.estimator.bytes_per_snapshot(samples, 1))
        return inner + 8 * (self.draws * (units + samples) + units * samples)

    def table(self, t: Tensor, y: Tensor, *, x: Tensor | None = None, x_ids: Tensor | None = None) -> UnitTable:
        """Return what every unit of t (S, N, D) knows of Y, with its null; further axes of t are flattened."""
        # The counts of atoms see samples before the estimator does.
        units, y, _ = check_inputs(t.flatten(2) if t.ndim > 3 else t, y, x_ids, targets=self.targets, name=self.name)
        inner = without_null(settled(self.estimator, units, y, x, x_ids))
        single = _SingleUnits(inner, units, x, x_ids)
        shuffled = shuffled_targets(y, x_ids, self.draws, self.seed)
        # (draws, S, D); the threshold is a percentile of the largest unit of each shuffle.
        with values_only():
            null = torch.stack([single.bits(labels)[0] for labels in shuffled])
        value, flags = single.bits(y)
        return UnitTable(value, null, interval_95(null.amax(2).movedim(0, -1))[2], flags)

    def estimate(self, t: Tensor, y: Tensor, *, x: Tensor | None = None, x_ids: Tensor | None = None) -> Quantities:
        """Return the information of single units, the largest of them, and how many are above chance."""
        found = self.table(t, y, x=x, x_ids=x_ids)
        best = found.value.argmax(1, keepdim=True)
        flags = {name: on.gather(1, best)[:, 0] for name, on in found.flags.items()}
        null = Null(*interval_95(found.null.amax(2).movedim(0, -1)))
        out = report("largest I(unit;Y)", found.value.amax(1), null=null, flags=flags)
        above = (found.value > found.top[:, None]).double().sum(1)
        out |= report("units above null", above, unit="units", ceiling=float(found.value.shape[1]))
        for i, value in enumerate(found.value[:, : self.most].unbind(1)):
            of_unit = {name: on[:, i] for name, on in found.flags.items()}
            out |= report(f"I(unit {i};Y)", value, flags={**of_unit, "below_null": value <= found.top})
        return out


@register_wrapper("synergy")
@dataclass(frozen=True, kw_only=True)
class UnitSynergy(Wrapper):
    """What units know of Y only together: mean over units i of I(T;Y) - I(T without i;Y) - I(T_i;Y).

    XOR of two bits has +1 bit, two copies of a bit -1 (redundancy), a layer of which one unit alone tells Y 0: without
    the last term that would read as synergy. All terms are of one estimator at one setting, its folds and seeds too.
    Quantities: "synergy(T;Y)", and its null with `+null` behind, as in `probe:family=mlp+synergy+null`, whose flag
    `below_null` says that it is as near 0 as chance.

    How it misleads: it is a difference of three estimates, and has the error of each. A bias that grows with the
    number of units reads as synergy, one that falls (kNN in many units) as redundancy: read it against the null, and
    against an estimator with another bias. A lower bound of each term is no bound of the difference.

    Costs two estimates a unit, so `most` units are drawn at random in a wider layer.

    Parameters
    ----------
    estimator : estimator, spec or settings
    most : int
        Units that the mean is over.
    seed : int
        Seeds the choice of units.

    References
    ----------
    Westphal, Hailes and Musolesi, "A generalized information bottleneck theory of deep learning", 2025. Which features
    the paper means was not checked against it; here they are the units of the layer.
    """

    name: ClassVar[str] = "synergy"
    keeps: ClassVar[frozenset[str]] = frozenset({"blocks", "constant_zero"})
    signed: ClassVar[frozenset[str]] = frozenset({"synergy(T;Y)"})

    estimator: Any = "probe"
    most: int = setting(32, at_least(2))
    seed: int = 0

    def bytes_per_snapshot(self, samples: int, units: int) -> int:
        """Return the bytes that the estimator inside needs, and a copy of the snapshot."""
        return int(self.estimator.bytes_per_snapshot(samples, units)) + 8 * samples * units

    def estimate(self, t: Tensor, y: Tensor, *, x: Tensor | None = None, x_ids: Tensor | None = None) -> Quantities:
        """Return the quantities of the estimator inside, and the synergy of its I(T;Y)."""
        chosen = settled(self.estimator, t, y, x, x_ids)
        out: dict[str, Quantity] = dict(chosen.estimate(t, y, x=x, x_ids=x_ids))
        inner, units = without_null(chosen), t.flatten(2)
        whole = _information(inner, out)
        order = torch.randperm(units.shape[2], generator=torch.Generator().manual_seed(self.seed), device="cpu")
        terms = []
        for i in order[: self.most].sort().values.tolist():
            rest = torch.cat([units[..., :i], units[..., i + 1 :]], 2)
            # Without the only unit nothing is left.
            parts = [units[..., i : i + 1], rest] if units.shape[2] > 1 else [units]
            with values_only():
                found = [_information(inner, inner.estimate(part, y, x=x, x_ids=x_ids)) for part in parts]
            terms.append(whole.value - sum(each.value for each in found))
        flags = {name: on for name, on in whole.flags.items() if name != "below_null"}
        return out | report("synergy(T;Y)", torch.stack(terms).mean(0), flags=flags)


class _SingleUnits:
    """The units of a block, each as a layer of its own; values that repeat (atoms) are counted where Y are classes."""

    def __init__(self, inner: Any, units: Tensor, x: Tensor | None, x_ids: Tensor | None) -> None:
        """Cut `units` (S, N, D) into lines (N, 1) of one unit and find their atoms; `inner` estimates the rest."""
        self.inner, self.x, self.x_ids = inner, x, x_ids
        self.shape = units.shape
        self.lines = units.movedim(2, 1).reshape(-1, units.shape[1], 1)  # (S D, N, 1)
        self.atoms = [_atoms(line) for line in self.lines]
        self.whole = torch.tensor([not bool(atom.any()) for atom in self.atoms])  # lines without atoms

    def bits(self, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the information (S, D) of each unit about these labels, and the estimator's flags, (S, D) each."""
        if y.is_floating_point() or bool(self.whole.all()):
            return self._together(y)
        out = self.lines.new_zeros(len(self.lines), dtype=torch.float64)
        flags: dict[str, Tensor] = {}
        for i in range(len(out)):
            out[i], raised = self._split(i, y)
            for name, on in raised.items():
                flags.setdefault(name, torch.zeros(len(out), dtype=torch.bool, device=out.device))[i] = on[0]
        return self._by_unit(out), {name: self._by_unit(on) for name, on in flags.items()}

    def _together(self, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return what `bits` does, by one call of the estimator, which is given the units as if they were snapshots."""
        q = _information(self.inner, self.inner.estimate(self.lines, y, x=self.x, x_ids=self.x_ids))
        flags = {name: self._by_unit(on) for name, on in q.flags.items() if name != "below_null"}
        return self._by_unit(q.value), flags

    def _by_unit(self, numbers: Tensor) -> Tensor:
        """Return numbers (S D,) as (S, D)."""
        return numbers.view(self.shape[0], self.shape[2])

    def _split(self, i: int, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return I(A;Y) + P(none) I(T;Y|none) of line `i`, () float64, and the flags (1,) of the second term."""
        # A (N,) is the atom that a sample's value is, or none (0).
        atom = self.atoms[i]
        labels = y.to(atom.device)
        table = torch.bincount(atom * (labels.max() + 1) + labels)
        h_a, h_y, h_ay = (entropy_of_counts(n) for n in (torch.bincount(atom), torch.bincount(labels), table))
        i_ay = h_a + h_y - h_ay
        rest = (atom == 0).nonzero()[:, 0]
        if len(torch.unique(labels[rest])) < 2:  # samples of one class tell nothing more
            return i_ay, {}
        if len(rest) < ATOM:  # what they add is left out
            return i_ay, {"few_samples": torch.ones(1, dtype=torch.bool, device=atom.device)}
        classes = torch.unique(labels[rest], return_inverse=True)[1]
        x, x_ids = (None if each is None else each[rest.to(each.device)] for each in (self.x, self.x_ids))
        q = _information(self.inner, self.inner.estimate(self.lines[i : i + 1, rest], classes, x=x, x_ids=x_ids))
        flags = {name: on for name, on in q.flags.items() if name != "below_null"}
        return i_ay + len(rest) / len(atom) * q.value[0], flags


def _atoms(line: Tensor) -> Tensor:
    """Return (N,) a number from 1 for each value of (N, 1) that comes often enough to be counted, 0 for others."""
    number, counts = numbered_rows(line)
    often = counts >= ATOM
    return torch.where(often, often.cumsum(0), 0)[number]


def _information(inner: Any, found: dict[str, Quantity]) -> Quantity:
    """Return I(T;Y) among the quantities that the estimator `inner` gave; ValueError where it is missing."""
    if I_TY not in found:
        raise ValueError(f"{inner.name} gives no {I_TY} of single units; see 'knn', 'binning' or 'probe'")
    return found[I_TY]


def per_unit(estimator: Any, *, draws: int = 20, most: int = 64, seed: int = 0) -> PerUnit:
    """Return an estimator of what every unit by itself knows of Y, by any estimator, class or spec: see `PerUnit`."""
    return PerUnit(estimator=estimator, draws=draws, most=most, seed=seed)


def unit_synergy(estimator: Any, *, most: int = 32, seed: int = 0) -> UnitSynergy:
    """Return an estimator of what units know of Y only together, by any estimator, class or spec: see `UnitSynergy`."""
    return UnitSynergy(estimator=estimator, most=most, seed=seed)
