"""Bounds on mixture entropy from pairwise distances (Kolchinsky and Tracey 2017), fixed or adaptive noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from infoplane.estimators._driver import Given, Method, Null, report
from infoplane.estimators._labels import Grouping
from infoplane.estimators._mixture import (
    ESTIMAND,
    PRECISIONS,
    MixtureProblem,
    NullColumns,
    Precision,
    at_ceiling,
    columns_pay,
    log2_ratio_mean,
    positive_std,
)
from infoplane.estimators._pairwise import CentredRows, KernelSums, kernel_sums
from infoplane.estimators._protocol import Bound, Quantity
from infoplane.estimators._registry import preset, register
from infoplane.estimators._settings import COUNT, POSITIVE, POSITIVE_OR_NONE, one_of, setting

WIDE_BRACKET = 0.25
"""Share of the ceiling: bounds of I(X;T) further apart than this leave the value open (`unreliable`)."""

Rule = Literal["max", "std", "iqr"]


@register
@dataclass(frozen=True, kw_only=True)
class KDE(Method):
    """Pairwise-distance bounds on the information of a layer seen through Gaussian noise.

    T + Z, with Z ~ N(0, s^2 I) added at analysis only, is a mixture of one Gaussian per sample. For X uniform
    on the samples (estimand `noisy-finite`),

        -mean_i log2 mean_j exp(-|t_i - t_j|^2 / 8 s^2)  <=  I(X;T+Z)  <=  the same with 2 s^2.

    `I(X;T)` is the upper, `I(X;T) lower` the lower of them; `I(X;T|Y)` and its lower bound hold within
    classes. `I(T;Y)` and `I(T;Y) lower` are differences of two upper and of two lower bounds of an entropy:
    **neither is a bound of I(T;Y)**, and either may lie on the wrong side of it.

    The values are of the layer *and* of the noise: at small s every layer reads (H(X), H(Y)), flag
    `saturated`, and shuffled labels read the same (`I(T;Y) null`, flag `below_null`). The gap between the
    bounds grows with overlap; where it exceeds a quarter of H(X) both values are flagged `unreliable`. With
    fixed variance a layer that merely grows gains information; with the adaptive one a layer that merely
    scales does not change, but one outlier, or an offset common to all samples, blurs the rest.

    Rows that share an input (`x_ids`) and differ, as in a stochastic layer, take their part of the entropy
    from I(X;T), bound against bound, so that its bounds stay bounds. With one row per input of a network that has
    noise of its own, what is bounded is the information about that one pass; for the input use `noise`.

    :measures: bounds on the information seen through Gaussian noise
    :assumes: the noise std is the scale that matters
    :errs: I(X;T) upper and lower bound; I(T;Y) a point between neither
    :cost: N² D
    :memory: N D
    :gives: bounds on I(X;T), points for I(T;Y)
    :unit: bit
    :ceiling: H(X), H(Y)
    :source: Kolchinsky and Tracey 2017

    Parameters
    ----------
    variance : float or None
        s^2 in the units of T squared; None (default) makes the noise adaptive.
    scale, rule : float, {"max", "std", "iqr"}
        Adaptive noise: s = scale * rule(T) over all values of the layer in that snapshot, with "max" for
        max |T|. The quantity `noise std` records it. A rule of 0 (all values equal; more than three quarters
        of them under "iqr") means the limit of vanishing noise, flag `degenerate`.
    target_scale : float
        Continuous targets: I(T+Z;Y+W) of the joint mixture, with W Gaussian of `target_scale` times the std
        of each target; constant targets have none. Its ceiling is the upper bound of I(Y;Y+W).
    null_draws : int
        Label shuffles of `I(T;Y) null` (mean, and 2.5 and 97.5 % points); 0 leaves it out.
    seed : int
        Seeds the label shuffles.
    dtype : {"auto", "float32", "float64"}
        Of the kernel blocks. "auto" takes float64 for float64 layers and wherever float32 could err by
        1e-3 nats.

    Raises
    ------
    ValueError
        If a parameter is out of its domain, or the inputs do not fit (see `check_inputs`).

    References
    ----------
    Kolchinsky and Tracey, "Estimating mixture entropy with pairwise distances", Entropy, 2017.
    Saxe et al., "On the information bottleneck theory of deep learning", 2018 (fixed variance).
    Chelombiev, Houghton and O'Donnell, "Adaptive estimators show information compression in deep neural
    networks", 2019 (noise that follows the layer's largest activation).

    Examples
    --------
    >>> t = torch.tensor([[-1.0], [1.0]]).double()[None]
    >>> found = KDE(variance=1.0, null_draws=0).estimate(t, torch.tensor([0, 1]))
    >>> round(float(found["I(X;T) lower"].value), 6), round(float(found["I(X;T)"].value), 6)
    (0.316051, 0.816882)
    """

    name: ClassVar[str] = "kde"
    guarantees: ClassVar[frozenset[str]] = frozenset({"blocks", "constant_zero"})

    variance: float | None = setting(None, POSITIVE_OR_NONE)
    scale: float = setting(0.01, POSITIVE)
    rule: Rule = setting("max", one_of("max", "std", "iqr"))
    target_scale: float = setting(0.1, POSITIVE)
    null_draws: int = setting(20, COUNT)
    seed: int = 0
    dtype: Precision = setting("auto", PRECISIONS)

    def __post_init__(self) -> None:
        """Check that a fixed variance and an adaptive one are not both given."""
        super().__post_init__()
        if self.variance is not None and (self.scale, self.rule) != (0.01, "max"):
            raise ValueError(
                f"a fixed variance takes the place of scale and rule, got variance={self.variance} with "
                f"scale={self.scale}, rule={self.rule}; give one or the other"
            )

    def bytes_per_snapshot(self, samples: int, units: int) -> int:
        """Return the bytes of a snapshot and its centred copy in float64, and some fifty numbers for each sample."""
        return 16 * samples * units + 8 * samples * (10 + 2 * self.null_draws)

    def start(self, given: Given) -> _Bounds:
        """Return the problem of one call, with labels and shuffles, and for continuous targets their own bounds."""
        return _Bounds(self, given)


def noise_std(layer: Tensor, config: KDE) -> float:
    """Return the noise std of one snapshot (N, U), in the units of T."""
    if config.variance is not None:
        return math.sqrt(config.variance)
    largest = float(torch.maximum(layer.max(), -layer.min()))
    spread = 1.0 if config.rule == "max" or largest == 0.0 else _spread_of_values(layer, largest, config.rule)
    return config.scale * largest * spread


def _spread_of_values(layer: Tensor, largest: float, rule: str) -> float:
    """Return std ("std") or interquartile range ("iqr") of all values of a layer (N, U), divided by the `largest`."""
    # Divided before it is squared, no value leaves the range.
    flat = layer.flatten()
    if rule == "iqr":
        quartiles = [flat.kthvalue(1 + (k * (len(flat) - 1)) // 4).values.double() / largest for k in (1, 3)]
        return float(quartiles[1] - quartiles[0])
    first = flat[0].double() / largest
    total = square = torch.zeros((), dtype=torch.float64, device=layer.device)
    for part in torch.split(flat, 1 << 18):  # float64 copies of 2 MiB
        shifted = part.double() / largest - first
        total, square = total + shifted.sum(), square + shifted.square().sum()
    mean = total / len(flat)
    return math.sqrt(max(float(square / len(flat) - mean * mean), 0.0))  # rounding may leave less than 0


class _Bounds(MixtureProblem):
    """Upper and lower bounds of information, from sums over rows of a narrow and of a wide Gaussian kernel."""

    config: KDE

    def __init__(self, config: KDE, given: Given) -> None:
        """Prepare labels and shuffles; for real targets find the bounds of I(X;Y+W), which all snapshots share."""
        super().__init__(config, given)
        # Rows of one input and label, where inputs have several labels.
        self.pair_rows = Grouping.of_repeated(self.pairs) if self.several_labels else self.repeated
        self.null: NullColumns | None = None
        count, draws = len(self.classes.counts), config.null_draws
        if self.shuffled is not None and count > 1 and columns_pay(count, len(self.head), self.t.shape[2], draws):
            self.null = NullColumns(self.shuffled, count)
        self.upper_alone = self.lower_alone = self.zero()
        if self.targets is not None:
            alone = CentredRows(self.targets, 1.0, wide=True)
            self.upper_alone, self.lower_alone = self._bounds(kernel_sums(alone, [len(self.head)]))

    def snapshot(self, layer: Tensor) -> dict[str, Tensor]:
        """Return bounds and differences in bits, the null and the noise std for one layer (N, U)."""
        std = noise_std(layer, self.config)
        noise = positive_std(std, layer)  # by which distances are divided: never 0
        out = self._continuous(layer, noise) if self.continuous else self._discrete(layer, noise)
        spread = out.pop("spread")  # of the rows: 0 where T is constant
        out["std"] = torch.full_like(spread, std)
        return out | {"degenerate": (spread == 0.0) | (std == 0.0)}

    def _bounds(self, sums: KernelSums) -> tuple[Tensor, Tensor]:
        """Return upper and lower bound, () in bits, of I(X;T+Z), from the rows' sums of the narrow and wide kernel."""
        return log2_ratio_mean(self.samples, sums.narrow), log2_ratio_mean(self.samples, sums.wide)

    def _within(self, layer: Tensor, noise: float, groups: Grouping | None) -> tuple[Tensor, Tensor]:
        """Return upper and lower bound, () in bits, of what T+Z tells of a row within its group: means over all rows.

        Rows that are alone in their group are not in `groups` and add 0.
        """
        if groups is None:  # every row is alone in its group
            return self.zero(), self.zero()
        rows = CentredRows(layer, noise, order=groups.order, wide=True, dtype=self.dtype)
        sums = kernel_sums(rows, groups.counts, within_only=True)
        share = len(groups) / self.samples
        upper = log2_ratio_mean(groups.size, sums.narrow_within)
        return share * upper, share * log2_ratio_mean(groups.size, sums.wide_within)

    def _discrete(self, layer: Tensor, noise: float) -> dict[str, Tensor]:
        """Return, for class labels, bounds of I(X;T) and I(X;T|Y) from one pass over the pairs, and I(T;Y) by both."""
        groups, columns = self.classes, None if self.null is None else self.null.columns
        rows = CentredRows(layer, noise, order=groups.order, wide=True, dtype=self.dtype)
        sums = kernel_sums(rows, groups.counts, columns=columns)
        upper, lower = self._bounds(sums)
        upper_given_y = log2_ratio_mean(groups.size, sums.narrow_within)
        lower_given_y = log2_ratio_mean(groups.size, sums.wide_within)
        upper_given_x, lower_given_x = upper_given_xy, lower_given_xy = self._within(layer, noise, self.repeated)
        if self.pair_rows is not self.repeated:
            upper_given_xy, lower_given_xy = self._within(layer, noise, self.pair_rows)
        # What rows of one input differ by is no information about X: it is taken off, of an upper bound the lower one.
        out = {
            "upper": upper - lower_given_x,
            "lower": lower - upper_given_x,
            "upper_y": upper_given_y - lower_given_xy,
            "lower_y": lower_given_y - upper_given_xy,
            # Differences of two upper and of two lower bounds: neither is a bound itself.
            "i_ty": upper - upper_given_y,
            "i_ty_lower": lower - lower_given_y,
            "spread": torch.full_like(upper, rows.spread),
        }
        if self.config.null_draws:
            out["null"] = upper - self._shuffled_within(layer, noise, sums, rows.dtype)
        return out

    def _shuffled_within(self, layer: Tensor, noise: float, sums: KernelSums, dtype: torch.dtype) -> Tensor:
        """Return the upper bound (R,) of what T+Z tells of a row within its shuffled class, for each of R shuffles."""
        groups = self.classes
        if self.shuffled is None:  # one class
            return log2_ratio_mean(groups.size, sums.narrow_within).expand(self.config.null_draws)
        if self.null is not None and sums.columns is not None:  # sums by class are there already
            own = self.null.own_sums(sums.columns, sums.narrow)
            size = torch.tensor(groups.counts, device=own.device).double()[self.shuffled]
            return log2_ratio_mean(size, own)
        centred = CentredRows(layer, noise, order=groups.order, dtype=dtype)
        orders = (torch.argsort(labels, stable=True) for labels in self.shuffled)
        drawn = [kernel_sums(centred.reordered(order), groups.counts, within_only=True) for order in orders]
        return torch.stack([log2_ratio_mean(groups.size, within.narrow_within) for within in drawn])

    def _continuous(self, layer: Tensor, noise: float) -> dict[str, Tensor]:
        """Return, for real targets, I(T+Z;Y+W) = I(X;T+Z) + I(X;Y+W) - I(X;T+Z,Y+W) for rows X, bound by bound."""
        whole = [len(layer)]  # all rows in one class
        rows = CentredRows(layer, noise, wide=True, dtype=self.dtype)
        upper, lower = self._bounds(kernel_sums(rows, whole))
        upper_x, lower_x = self._within(layer, noise, self.repeated)
        out = {"upper": upper - lower_x, "lower": lower - upper_x, "i_ty": self.zero(), "i_ty_lower": self.zero()}
        out["spread"] = torch.full_like(upper, rows.spread)
        if self.shuffled is not None:
            out["null"] = self.zero().expand(len(self.shuffled))
        if self.targets is None or rows.spread == 0.0:
            return out
        rows = CentredRows(layer, noise, extra=self.targets, wide=True, dtype=self.dtype)
        joint = self._bounds(kernel_sums(rows, whole))
        out["i_ty"] = upper + self.upper_alone - joint[0]
        out["i_ty_lower"] = lower + self.lower_alone - joint[1]
        if self.shuffled is not None:
            shuffled = (CentredRows(layer, noise, extra=self.targets[s], dtype=self.dtype) for s in self.shuffled)
            drawn = [kernel_sums(rows, whole).narrow for rows in shuffled]
            out["null"] = upper + self.upper_alone - log2_ratio_mean(self.samples, torch.stack(drawn))
        return out

    def finish(self, found: dict[str, Tensor]) -> dict[str, Quantity]:
        """Return the bounds of informations about X, the values for Y with their null, and the noise std."""
        degenerate = found["degenerate"]
        common = {"degenerate": degenerate, "unreliable": found["upper"] - found["lower"] > WIDE_BRACKET * self.h_x}
        of_labels: dict[str, Tensor | bool] = {**common, "single_class": self.one_class}
        if not self.continuous:
            of_labels["few_samples"] = min(self.classes.counts) < 2
        ceiling = self.upper_alone if self.continuous else self.h_y

        def i_x(name: str, key: str, bound: Bound, top: Tensor) -> dict[str, Quantity]:
            """Return the bound `name` of an information about X, from the numbers `key`; `top` is its ceiling."""
            flags = {**common, "saturated": at_ceiling(found[key], top)}
            return report(name, found[key], bound=bound, ceiling=top, estimand=ESTIMAND, flags=flags)

        def i_y(name: str, key: str, null: Null | None = None) -> dict[str, Quantity]:
            """Return the information `name` about Y, from the numbers `key`: a difference of bounds, so none itself."""
            flags = {**of_labels, "saturated": self.saturated(found, "upper", key, ceiling)}
            return report(name, found[key], ceiling=ceiling, estimand=ESTIMAND, flags=flags, null=null)

        out = i_x("I(X;T)", "upper", "upper", self.h_x) | i_x("I(X;T) lower", "lower", "lower", self.h_x)
        value = i_y("I(T;Y)", "i_ty", self.null_of(found))
        # The null comes after both values: this is the order of rows in a table.
        out |= {"I(T;Y)": value.pop("I(T;Y)"), **i_y("I(T;Y) lower", "i_ty_lower"), **value}
        if not self.continuous:
            out |= i_x("I(X;T|Y)", "upper_y", "upper", self.given_y)
            out |= i_x("I(X;T|Y) lower", "lower_y", "lower", self.given_y)
        return out | report("noise std", found["std"], unit="units of T", flags={"degenerate": degenerate})


preset("kde", "saxe-2018", variance=1e-3)
preset("kde", "saxe-2018-mnist", variance=1e-1)
preset("kde", "chelombiev-2019", scale=0.01, rule="max")
