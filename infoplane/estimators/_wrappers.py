"""What any estimator can be given from outside: a null of shuffled labels, and an interval from subsamples.

`permutation_null(KNN())` and `subsample_interval(KNN())` are estimators themselves; as specs they are written
`knn:n_neighbors=5+null` and `knn+interval:level=0.9`, and can be stacked: `knn+null+interval`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from scipy.special import stdtrit
from torch import Tensor

from infoplane.estimators._driver import Null, on_rows, with_null
from infoplane.estimators._labels import interval_95, shuffle_labels
from infoplane.estimators._protocol import Blocks, Estimator, Quantities, Quantity, values_only
from infoplane.estimators._registry import build_named, parse, register_wrapper
from infoplane.estimators._settings import at_least, between, check_settings, setting

DEPENDENCE = "(T;Y)"
"""End of the names of quantities that shuffled labels are a null for."""


class Wrapper:
    """Takes name, targets and promises from the estimator inside, which may be given as object, spec or settings."""

    name: ClassVar[str]
    targets: ClassVar[frozenset[str]] = frozenset({"discrete", "continuous"})
    guarantees: ClassVar[frozenset[str]] = frozenset({"blocks"})
    # Which promises of the estimator a wrapper keeps. Shuffles and parts are drawn by the places of samples, so that
    # permuted samples give other values.
    keeps: ClassVar[frozenset[str]] = frozenset({"blocks", "unit_order", "constant_zero", "device_exact"})
    # Quantities for which less than chance is a finding as much as more.
    signed: ClassVar[frozenset[str]] = frozenset()

    estimator: Any

    def __post_init__(self) -> None:
        """Build the estimator inside from a spec, settings or class, and take over its name, targets and promises.

        Raises TypeError for anything else.
        """
        check_settings(self)
        inner = self.estimator
        if isinstance(inner, str):
            inner = parse(inner)
        elif isinstance(inner, Mapping):
            inner = build_named(inner)
        elif isinstance(inner, type):
            inner = inner()
        if not isinstance(inner, Estimator):
            raise TypeError(f"expected an estimator or its spec such as 'knn', got {type(inner).__name__}")
        for name, value in (
            ("estimator", inner),
            ("name", f"{inner.name}+{type(self).name}"),
            ("targets", inner.targets),
            ("guarantees", inner.guarantees & self.keeps),
            ("uses_repeats", getattr(inner, "uses_repeats", False)),
            ("chunk", getattr(inner, "chunk", None)),
            ("shannon", getattr(inner, "shannon", True)),
            ("signed", getattr(inner, "signed", frozenset()) | type(self).signed),
        ):
            object.__setattr__(self, name, value)  # the dataclass is frozen

    def prepare(self, blocks: Blocks, y: Tensor, x: Tensor | None = None) -> Self:
        """Return this wrapper around the estimator prepared on the run; itself if the estimator has no `prepare`."""
        if not hasattr(self.estimator, "prepare"):
            return self
        return dataclasses.replace(self, estimator=self.estimator.prepare(blocks, y, x))  # type: ignore[type-var]


@register_wrapper("null")
@dataclass(frozen=True, kw_only=True)
class PermutationNull(Wrapper):
    """What an estimator reads when the labels are shuffled, as "<quantity> null" beside every quantity of (T;Y).

    Value, low and high of the null are mean, 2.5 and 97.5 % points over the shuffles; the flag `below_null` says
    that a value does not exceed the high one. The null replaces one that the estimator makes itself. It
    is a test, not a correction: where every sample is told apart, shuffled labels read H(Y) too, and subtracting
    the null would make 0 of full information. With few draws the points are rough: 20 shuffles give about
    their extremes.

    Labels move between inputs with the same number of rows, those of all rows of an input (duplicates, repeated noisy
    passes) together. What `prepare` finds is found with the true labels. Costs `draws`
    further estimates.

    Parameters
    ----------
    estimator : estimator, spec or settings
    draws : int
        Shuffles of the labels.
    seed : int
        Seeds the shuffles, which are the same for every snapshot.

    Raises
    ------
    ValueError
        `draws` below 2, or an estimator without a quantity of (T;Y).
    """

    name: ClassVar[str] = "null"

    estimator: Any = "binning"
    draws: int = setting(20, at_least(2))
    seed: int = 0

    def bytes_per_snapshot(self, samples: int, units: int) -> int:
        """Return the bytes that the estimator inside needs, which runs one shuffle at a time."""
        return int(self.estimator.bytes_per_snapshot(samples, units)) + 8 * (samples + self.draws)

    def estimate(self, t: Tensor, y: Tensor, *, x: Tensor | None = None, x_ids: Tensor | None = None) -> Quantities:
        """Return the inner quantities, each of (T;Y) with its null: mean and 95 % interval on shuffled labels."""
        inner = without_null(settled(self.estimator, t, y, x, x_ids))
        out: dict[str, Quantity] = inner.estimate(t, y, x=x, x_ids=x_ids)
        names = [name for name in out if name.endswith(DEPENDENCE)]
        if not names:
            raise ValueError(f"{inner.name} gives no quantity of {DEPENDENCE} to compare with shuffled labels")
        drawn: dict[str, list[Tensor]] = {name: [] for name in names}
        for labels in shuffled_targets(y, x_ids, self.draws, self.seed):
            with values_only():
                found = inner.estimate(t, labels, x=x, x_ids=x_ids)
            for name in names:
                drawn[name].append(found[name].value)
        for name in names:
            # The null replaces one of the estimator's own, and its flag. 1e-9: by so little a value may exceed its null
            # through rounding.
            flags = {flag: on for flag, on in out[name].flags.items() if flag != "below_null"}
            null = Null(*interval_95(torch.stack(drawn[name], dim=-1)), slack=1e-9)
            signed = name in getattr(inner, "signed", ())
            out |= with_null(name, dataclasses.replace(out[name], flags=flags), null, flags, signed=signed)
        return out


@register_wrapper("interval")
@dataclass(frozen=True, kw_only=True)
class SubsampleInterval(Wrapper):
    """`low` and `high` of every quantity from estimates on random parts of the samples.

    A part holds a share f of the samples, drawn without repetition: the bootstrap's repeated rows are
    ties that upset neighbours and counts. With v the variance over the parts, f / (1 - f) v estimates the
    variance of the value on all samples (the delete-d jackknife), and Student's t with draws - 1 degrees of
    freedom gives the width.

    Most estimators also err by about a/N; then the parts lie off by a (1/f - 1)/N, and the interval is
    extended by the error seen that way, on its side. It always contains the value. An error that does not shrink
    with N (a probe too weak, a kernel too wide, neighbours in many dimensions) is not seen, so the interval is
    one of sampling, never a bound.

    Samples with equal `x_ids` stay together. Nulls keep their own points. Where T is a fixed set of inputs,
    the interval is that of drawing other inputs. Costs `draws` estimates on parts.

    Parameters
    ----------
    estimator : estimator, spec or settings
    draws : int
        Parts, at least 5.
    fraction : float
        f, between 0.1 and 0.9.
    level : float
        Nominal coverage, 0.95 by default as everywhere in the results.
    seed : int
        Seeds the parts, which are the same for every snapshot.

    Raises
    ------
    ValueError
        A parameter is out of its domain.

    References
    ----------
    Politis, Romano and Wolf, "Subsampling", 1999. Shao and Wu, "A general theory for jackknife variance
    estimation", 1989. Holmes and Nemenman, "Estimation of mutual information for real-valued data with error
    bars and controlled bias", 2019.
    """

    name: ClassVar[str] = "interval"

    estimator: Any = "binning"
    draws: int = setting(20, at_least(5))
    fraction: float = setting(0.5, between(0.1, 0.9))
    level: float = setting(0.95, between(0, 1, open=True))
    seed: int = 0

    def bytes_per_snapshot(self, samples: int, units: int) -> int:
        """Return the bytes that the estimator inside needs, and a part of the snapshot."""
        return int(self.estimator.bytes_per_snapshot(samples, units)) + 8 * samples * (units + 1)

    def estimate(self, t: Tensor, y: Tensor, *, x: Tensor | None = None, x_ids: Tensor | None = None) -> Quantities:
        """Return the quantities of the estimator inside, with their intervals."""
        whole = settled(self.estimator, t, y, x, x_ids)
        out = whole.estimate(t, y, x=x, x_ids=x_ids)
        inner = without_null(whole)  # a null has points of its own, and would be found anew on each part
        ids = input_ids(y, x_ids)
        inputs = int(ids.max()) + 1
        size = max(1, round(self.fraction * inputs))  # inputs of a part, which has all their rows
        generator = torch.Generator().manual_seed(self.seed)
        drawn: dict[str, list[Tensor]] = {}
        for _ in range(self.draws):
            chosen = torch.randperm(inputs, generator=generator, device="cpu")[:size]
            rows = rows_of_inputs(ids, inputs, chosen)
            found = on_rows(inner, rows, t, y, x=x, x_ids=None if x_ids is None else ids)
            for name, q in found.items():
                drawn.setdefault(name, []).append(q.value)
        odds = size / max(inputs - size, 1)  # f / (1 - f), with the share that was really drawn
        for name, values in drawn.items():
            if name in out and not name.endswith(" null"):  # nulls keep their own points
                out[name] = interval_of_parts(out[name], torch.stack(values), odds, self.level)
        return dict(out)


def interval_of_parts(q: Quantity, parts: Tensor, odds: float, level: float = 0.95) -> Quantity:
    """Return `q` with `low` and `high` from the same quantity on random parts of the inputs: see `SubsampleInterval`.

    Parameters
    ----------
    q : Quantity
    parts : (draws, S) float64
        Values on parts drawn without repetition.
    odds : float
        Inputs in a part over inputs that are not.
    level : float
        Nominal coverage.
    """
    half = float(stdtrit(len(parts) - 1, 0.5 + 0.5 * level)) * math.sqrt(odds) * parts.std(dim=0)
    offset = odds * (parts.mean(dim=0) - q.value)  # how far the value itself is off, if errors fall as 1/N
    return dataclasses.replace(q, low=q.value - half - offset.clamp(min=0), high=q.value + half - offset.clamp(max=0))


def permutation_null(estimator: Any, *, draws: int = 20, seed: int = 0) -> PermutationNull:
    """Return any estimator (object, class or spec) with a null of shuffled labels: see `PermutationNull`."""
    return PermutationNull(estimator=estimator, draws=draws, seed=seed)


def subsample_interval(
    estimator: Any, *, draws: int = 20, fraction: float = 0.5, level: float = 0.95, seed: int = 0
) -> SubsampleInterval:
    """Return any estimator (object, class or spec) with intervals from subsamples: see `SubsampleInterval`."""
    return SubsampleInterval(estimator=estimator, draws=draws, fraction=fraction, level=level, seed=seed)


def without_null(estimator: Any) -> Any:
    """Return the estimator without a null: the wrapper `+null` taken off, its own null off (`null_draws=0`)."""
    if isinstance(estimator, PermutationNull):
        return without_null(estimator.estimator)
    if isinstance(estimator, Wrapper):
        return dataclasses.replace(estimator, estimator=without_null(estimator.estimator))  # type: ignore[type-var]
    fields = {f.name for f in dataclasses.fields(estimator)} if dataclasses.is_dataclass(estimator) else set()
    if "null_draws" in fields and estimator.null_draws:
        return dataclasses.replace(estimator, null_draws=0)
    return estimator


def settled(estimator: Any, t: Tensor, y: Tensor, x: Tensor | None, x_ids: Tensor | None) -> Any:
    """Return the estimator; one that chooses between methods is fixed to its choice for these arguments."""
    if isinstance(estimator, Wrapper):
        return dataclasses.replace(estimator, estimator=settled(estimator.estimator, t, y, x, x_ids))  # type: ignore[type-var]
    return estimator.settled(t, y, x=x, x_ids=x_ids) if hasattr(estimator, "settled") else estimator


def shuffled_targets(y: Tensor, x_ids: Tensor | None, draws: int, seed: int) -> list[Tensor]:
    """Return `draws` shuffles of labels or targets (N, ...) between inputs; the rows of one input move together."""
    return list(shuffle_labels(y, input_ids(y, x_ids), draws, seed))


def input_ids(y: Tensor, x_ids: Tensor | None) -> Tensor:
    """Return the input (N,) of each sample, numbered from 0, on the device of `y`; without `x_ids` each has its own."""
    if x_ids is None:
        return torch.arange(len(y), device=y.device)
    ids: Tensor = torch.unique(x_ids, return_inverse=True)[1]
    return ids.to(y.device)


def rows_of_inputs(ids: Tensor, inputs: int, chosen: Tensor) -> Tensor:
    """Return the rows (n,), ascending, whose input is one of `chosen`; `ids` (N,) are numbers below `inputs`."""
    is_chosen = torch.zeros(inputs, dtype=torch.bool, device="cpu").index_fill_(0, chosen, True)
    return is_chosen.to(ids.device)[ids].nonzero()[:, 0]
