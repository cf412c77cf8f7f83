"""Bounds on mixture entropy from pairwise distances (Kolchinsky and Tracey 2017), fixed or adaptive noise."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from infoplane.estimators._labels import Grouping, entropy_of_counts, interval_95, shuffle_labels, standard_targets
from infoplane.estimators._mixture import (
    NullColumns,
    at_ceiling,
    columns_pay,
    log2_ratio_mean,
    positive_std,
)
from infoplane.estimators._pairwise import CentredRows, KernelSums, centred_sums, kernel_sums
from infoplane.estimators._protocol import Quantity, check_inputs
from infoplane.estimators._registry import preset, register

WIDE_BRACKET = 0.25
"""Share of the ceiling: bounds of I(X;T) further apart than this leave the value open (`unreliable`)."""

Rule = Literal["max", "std", "iqr"]
_DTYPES = {"auto": None, "float32": torch.float32, "float64": torch.float64}


@register
@dataclass(frozen=True, kw_only=True)
class KDE:
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
        Of the shuffles.
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
    targets: ClassVar[frozenset[str]] = frozenset({"discrete", "continuous"})
    guarantees: ClassVar[frozenset[str]] = frozenset({"blocks", "constant_zero"})

    variance: float | None = None
    scale: float = 0.01
    rule: Rule = "max"
    target_scale: float = 0.1
    null_draws: int = 20
    seed: int = 0
    dtype: Literal["auto", "float32", "float64"] = "auto"

    def __post_init__(self) -> None:
        if self.variance is not None:
            if not isinstance(self.variance, int | float) or not 0 < self.variance < math.inf:
                raise ValueError(f"variance must be positive and finite, or None, got {self.variance!r}")
            if (self.scale, self.rule) != (0.01, "max"):
                raise ValueError(
                    f"a fixed variance takes the place of scale and rule, got variance={self.variance} with "
                    f"scale={self.scale}, rule={self.rule}; give one or the other"
                )
        for field in ("scale", "target_scale"):
            if not 0 < getattr(self, field) < math.inf:
                raise ValueError(f"{field} must be positive and finite, got {getattr(self, field)}")
        if self.rule not in ("max", "std", "iqr"):
            raise ValueError(f"rule must be 'max', 'std' or 'iqr', got {self.rule!r}")
        if not isinstance(self.null_draws, int) or self.null_draws < 0:
            raise ValueError(f"null_draws must be a whole number of 0 or more, got {self.null_draws!r}")
        if self.dtype not in _DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(_DTYPES)}, got {self.dtype!r}")

    def bytes_per_snapshot(self, samples: int, units: int) -> int:
        """The snapshot and its centred copy in float64, and some fifty numbers for each sample."""
        return 16 * samples * units + 8 * samples * (10 + 2 * self.null_draws)

    def estimate(
        self, t: Tensor, y: Tensor, *, x: Tensor | None = None, x_ids: Tensor | None = None
    ) -> dict[str, Quantity]:
        """Bounds for every snapshot of `t` (S, N, U); snapshots are computed one by one."""
        t, y, x_ids = check_inputs(t, y, x_ids, targets=self.targets, name=self.name)
        problem = _Continuous(self, y, x_ids) if y.is_floating_point() else _Discrete(self, y, x_ids, t.shape[2])
        rows = [problem.snapshot(layer, noise_std(layer, self)) for layer in t]
        return problem.finish({key: torch.stack([row[key] for row in rows]) for key in rows[0]})


def noise_std(layer: Tensor, config: KDE) -> float:
    """The noise std of one snapshot (N, U), in the units of T."""
    if config.variance is not None:
        return math.sqrt(config.variance)
    largest = float(torch.maximum(layer.max(), -layer.min()))
    if config.rule == "max" or largest == 0.0:
        return config.scale * largest
    return config.scale * largest * _spread_of_values(layer, largest, config.rule)


def _spread_of_values(layer: Tensor, largest: float, rule: str) -> float:
    """Std or interquartile range of all values over the largest, so that no square leaves the range."""
    flat = layer.flatten()
    if rule == "iqr":
        quartiles = [flat.kthvalue(1 + (k * (len(flat) - 1)) // 4).values.double() / largest for k in (1, 3)]
        return float(quartiles[1] - quartiles[0])
    first = flat[0].double() / largest
    total = square = torch.zeros((), dtype=torch.float64, device=layer.device)
    for part in torch.split(flat, 1 << 18):
        shifted = part.double() / largest - first
        total, square = total + shifted.sum(), square + shifted.square().sum()
    mean = total / len(flat)
    return math.sqrt(max(float(square / len(flat) - mean * mean), 0.0))


class _Problem(ABC):
    """What every snapshot of a block shares; `snapshot` gives the numbers of one, `quantities` names them."""

    def __init__(self, config: KDE, y: Tensor, x_ids: Tensor) -> None:
        self.config, self.dtype = config, _DTYPES[config.dtype]
        self.samples = len(y)
        self.inputs = Grouping.of_repeated(x_ids)
        self.h_x = entropy_of_counts(torch.bincount(x_ids))

    @abstractmethod
    def snapshot(self, layer: Tensor, std: float) -> dict[str, Tensor]:
        """The numbers of one snapshot (N, D) under noise of this std."""

    def common(self, sums: KernelSums, std: float, device: torch.device) -> dict[str, Tensor]:
        return {
            "std": torch.tensor(std, dtype=torch.float64, device=device),
            "degenerate": torch.tensor(sums.spread == 0.0 or std == 0.0, device=device),
        }

    def within(self, layer: Tensor, noise: float, groups: Grouping | None) -> tuple[Tensor, Tensor]:
        """Upper and lower bound of what the rows of one group say apart, averaged over all rows."""
        if groups is None:
            zero = torch.zeros((), dtype=torch.float64, device=layer.device)
            return zero, zero
        sums = kernel_sums(layer, noise, groups.counts, order=groups.order, within_only=True, dtype=self.dtype)
        share = len(groups) / self.samples
        upper = log2_ratio_mean(groups.size, sums.narrow_within)
        return share * upper, share * log2_ratio_mean(groups.size, sums.wide_within)

    def quantities(
        self,
        found: dict[str, Tensor],
        *,
        ceiling: Tensor,
        always: Mapping[str, bool],
        h_x_given_y: Tensor | None = None,
        saturated: bool = False,
    ) -> dict[str, Quantity]:
        """Name the stacked numbers; `always` holds flags of the labels, `ceiling` is that of I(T;Y)."""
        degenerate = found["degenerate"]
        open_bracket = found["upper"] - found["lower"] > WIDE_BRACKET * self.h_x
        apart = at_ceiling(found["upper"], self.h_x)
        label_flags = {"degenerate": degenerate, "unreliable": open_bracket}
        label_flags |= {name: torch.full_like(degenerate, on) for name, on in always.items()}

        def i_x(key: str, bound: Literal["upper", "lower"], top: Tensor) -> Quantity:
            at_top = at_ceiling(found[key], top)
            flags = {"degenerate": degenerate, "saturated": at_top, "unreliable": open_bracket}
            return Quantity(value=found[key], bound=bound, ceiling=top, estimand="noisy-finite", flags=flags)

        def i_y(value: Tensor, **flags: Tensor) -> Quantity:
            # The ceiling is what any labels read once every sample is apart from every other.
            at_top = (apart & at_ceiling(value, ceiling)) | saturated
            return Quantity(
                value=value,
                ceiling=ceiling,
                estimand="noisy-finite",
                flags={**label_flags, "saturated": at_top, **flags},
            )

        out = {
            "I(X;T)": i_x("upper", "upper", self.h_x),
            "I(X;T) lower": i_x("lower", "lower", self.h_x),
            "I(T;Y)": i_y(found["i_ty"]),
            "I(T;Y) lower": i_y(found["i_ty_lower"]),
        }
        if "null" in found:
            mean, low, high = interval_95(found["null"])
            out["I(T;Y)"] = i_y(found["i_ty"], below_null=found["i_ty"] <= high + 1e-9)
            out["I(T;Y) null"] = Quantity(
                value=mean, low=low, high=high, ceiling=ceiling, estimand="noisy-finite", flags=label_flags
            )
        if h_x_given_y is not None:
            out["I(X;T|Y)"] = i_x("upper_y", "upper", h_x_given_y)
            out["I(X;T|Y) lower"] = i_x("lower_y", "lower", h_x_given_y)
        out["noise std"] = Quantity(value=found["std"], unit="units of T", flags={"degenerate": degenerate})
        return out

    @abstractmethod
    def finish(self, found: dict[str, Tensor]) -> dict[str, Quantity]:
        """The quantities, from the numbers of all snapshots."""


class _Discrete(_Problem):
    """Class labels: within-class sums from the same blocks as the whole."""

    def __init__(self, config: KDE, y: Tensor, x_ids: Tensor, units: int) -> None:
        super().__init__(config, y, x_ids)
        self.classes = Grouping.of(y)
        n_classes = len(self.classes.counts)
        pairs = torch.unique(x_ids * n_classes + y, return_inverse=True)[1]
        n_inputs = int(x_ids.max()) + 1
        self.pairs = self.inputs if int(pairs.max()) + 1 == n_inputs else Grouping.of_repeated(pairs)
        self.h_y = entropy_of_counts(torch.bincount(y))
        self.h_x_given_y = entropy_of_counts(torch.bincount(pairs)) - self.h_y
        self.class_per_input = n_classes == n_inputs and n_classes > 1
        self.shuffled: Tensor | None = None
        self.null: NullColumns | None = None
        if config.null_draws and n_classes > 1:
            shuffled = shuffle_labels(y, x_ids, config.null_draws, config.seed)[:, self.classes.order]
            if columns_pay(n_classes, self.samples, units, config.null_draws):
                self.null = NullColumns(shuffled, n_classes)
            self.shuffled = shuffled

    def snapshot(self, layer: Tensor, std: float) -> dict[str, Tensor]:
        noise = positive_std(std, layer)
        groups, n = self.classes, float(self.samples)
        sums = kernel_sums(
            layer,
            noise,
            groups.counts,
            order=groups.order,
            columns=None if self.null is None else self.null.columns,
            dtype=self.dtype,
        )
        upper, lower = log2_ratio_mean(n, sums.narrow), log2_ratio_mean(n, sums.wide)
        upper_y = log2_ratio_mean(groups.size, sums.narrow_within)
        lower_y = log2_ratio_mean(groups.size, sums.wide_within)
        upper_x, lower_x = self.within(layer, noise, self.inputs)
        upper_xy, lower_xy = upper_x, lower_x
        if self.pairs is not self.inputs:
            upper_xy, lower_xy = self.within(layer, noise, self.pairs)
        out = {
            "upper": upper - lower_x,
            "lower": lower - upper_x,
            "upper_y": upper_y - lower_xy,
            "lower_y": lower_y - upper_xy,
            "i_ty": upper - upper_y,
            "i_ty_lower": lower - lower_y,
            **self.common(sums, std, layer.device),
        }
        if self.config.null_draws:
            out["null"] = upper - self._shuffled_within(layer, noise, sums)
        return out

    def _shuffled_within(self, layer: Tensor, noise: float, sums: KernelSums) -> Tensor:
        """The upper bound within classes for each draw, (R,)."""
        groups = self.classes
        if self.shuffled is None:  # one class
            return log2_ratio_mean(groups.size, sums.narrow_within).expand(self.config.null_draws)
        if self.null is not None and sums.columns is not None:
            own = self.null.own_sums(sums.columns, sums.narrow)
            size = torch.tensor(groups.counts, device=own.device).double()[self.shuffled]
            return log2_ratio_mean(size, own)
        values = []
        centred = CentredRows(layer, noise, order=groups.order, dtype=sums.dtype)
        for labels in self.shuffled:
            rows = centred.reordered(torch.argsort(labels, stable=True))
            drawn = centred_sums(rows, groups.counts, wide=False, within_only=True)
            values.append(log2_ratio_mean(groups.size, drawn.narrow_within))
        return torch.stack(values)

    def finish(self, found: dict[str, Tensor]) -> dict[str, Quantity]:
        counts = self.classes.counts
        return self.quantities(
            found,
            ceiling=self.h_y,
            always={"single_class": len(counts) == 1, "few_samples": min(counts) < 2},
            h_x_given_y=self.h_x_given_y,
            saturated=self.class_per_input,
        )


class _Continuous(_Problem):
    """Targets with noise of their own: I(T+Z;Y+W) = I(X;T+Z) + I(X;Y+W) - I(X;T+Z,Y+W) for rows X."""

    def __init__(self, config: KDE, y: Tensor, x_ids: Tensor) -> None:
        super().__init__(config, y, x_ids)
        self.targets = standard_targets(y, config.target_scale)
        self.upper_alone = self.lower_alone = torch.zeros((), dtype=torch.float64, device=y.device)
        if self.targets is not None:
            sums = kernel_sums(self.targets, 1.0, [self.samples])
            self.upper_alone, self.lower_alone = self._bounds(sums)
        self.shuffled: Tensor | None = None
        if config.null_draws:
            rows = torch.arange(self.samples, device=y.device)
            self.shuffled = shuffle_labels(rows, x_ids, config.null_draws, config.seed)

    def _bounds(self, sums: KernelSums) -> tuple[Tensor, Tensor]:
        n = float(self.samples)
        return log2_ratio_mean(n, sums.narrow), log2_ratio_mean(n, sums.wide)

    def snapshot(self, layer: Tensor, std: float) -> dict[str, Tensor]:
        noise, whole = positive_std(std, layer), [self.samples]
        sums = kernel_sums(layer, noise, whole, dtype=self.dtype)
        upper, lower = self._bounds(sums)
        upper_x, lower_x = self.within(layer, noise, self.inputs)
        zero = torch.zeros_like(upper)
        out = {"upper": upper - lower_x, "lower": lower - upper_x, "i_ty": zero, "i_ty_lower": zero}
        out |= self.common(sums, std, layer.device)
        if self.shuffled is not None:
            out["null"] = zero.expand(len(self.shuffled))
        if self.targets is None or sums.spread == 0.0:
            return out
        joint = self._bounds(kernel_sums(layer, noise, whole, extra=self.targets, dtype=self.dtype))
        out["i_ty"] = upper + self.upper_alone - joint[0]
        out["i_ty_lower"] = lower + self.lower_alone - joint[1]
        if self.shuffled is not None:
            drawn = [
                kernel_sums(layer, noise, whole, extra=self.targets[rows], wide=False, dtype=self.dtype).narrow
                for rows in self.shuffled
            ]
            out["null"] = upper + self.upper_alone - log2_ratio_mean(float(self.samples), torch.stack(drawn))
        return out

    def finish(self, found: dict[str, Tensor]) -> dict[str, Quantity]:
        return self.quantities(found, ceiling=self.upper_alone, always={"single_class": self.targets is None})


preset("kde", "saxe-2018", variance=1e-3)
preset("kde", "saxe-2018-mnist", variance=1e-1)
preset("kde", "chelombiev-2019", scale=0.01, rule="max")
