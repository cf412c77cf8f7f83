"""Sample propagation (Goldfeld et al. 2019): I(X;T) and I(T;Y) of a layer with Gaussian noise."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from infoplane.core.units import Z_95
from infoplane.estimators._channel import (
    AdditiveChannel,
    Channel,
    MultiplicativeChannel,
    left_out,
    propagate,
    propagate_jointly,
    weigh_draws,
)
from infoplane.estimators._counting.counts import Scratch
from infoplane.estimators._driver import Given, Method, on_rows, report
from infoplane.estimators._labels import block_size, class_spans
from infoplane.estimators._mixture import (
    ESTIMAND,
    PRECISIONS,
    MixtureProblem,
    NullColumns,
    Precision,
    at_ceiling,
    positive_std,
)
from infoplane.estimators._population import ESTIMAND as POPULATION
from infoplane.estimators._population import continued, halves, refuse_whole_population
from infoplane.estimators._protocol import Blocks, Bound, Quantities, Quantity, as_floats, last_finite
from infoplane.estimators._registry import preset, register
from infoplane.estimators._scaling import first_rows
from infoplane.estimators._settings import COUNT, POSITIVE, POSITIVE_OR_NONE, SWITCH, added, prepared, setting

COLUMN_CLASSES = 14
"""Up to this many classes the null is a product with indicator columns; more are masked draw by draw."""
WIDE_INTERVAL = 0.1
"""Share of the ceiling: a 95 % interval wider than this leaves the value open (`unreliable`)."""


@register
@dataclass(frozen=True, kw_only=True)
class SamplePropagation(Method):
    """Monte Carlo information of a layer seen through Gaussian noise, with its standard error.

    *Noise added at analysis.* T = f(X) is deterministic and Z ~ N(0, s^2 I) is added to the recorded value.
    T + Z is a mixture of one Gaussian per sample x_1 .. x_N, and

        I(X;T+Z) = log2 N - mean_i E_z log2 sum_j exp(-(|t_i - t_j|^2 + 2 z . (t_i - t_j)) / 2 s^2).

    The value belongs to the layer *and* to s. The default s is a tenth of the layer's root mean square (about
    the mean of each unit) at the last snapshot of the run, the same s for every snapshot, so that a layer
    that grows is seen to gain and one that shrinks to lose.

    *Noise in the network.* Where the recorder saw a `NoiseInjection`, `prepare` takes its std and kind, and `std`
    and `relative_std` are not used. The recorded value is the clean one, S. h(T) is that of the mixture around
    one S per input; h(T|X) that around the further noisy passes of one input, averaged over the inputs that
    have some. In the first noisy layer all passes agree and h(T|X) is exactly that of the noise. In a later
    layer it is not: without further passes (`repeats` of the Recorder) only an upper bound of I(X;T) is known,
    and is returned as one with the flag `unreliable`. Layers that only follow noisy ones are treated alike,
    with s added at analysis. Rows with the same `x_ids` are then passes of one input, the first of which
    enters h(T) and I(T;Y), and X is uniform on the distinct inputs; otherwise every row counts.
    Multiplicative noise has its own variance in every component and unit; units that are exactly zero are
    atoms.

    X is uniform on the recorded inputs (estimand `noisy-finite`), so I(X;T) saturates at log2 N. As an estimate
    of I(X;T) for X from its law (`noisy-population`) the mixture is biased, downwards near log2 N, by
    up to c^D / sqrt(N); a mixture of n_x conditional passes likewise understates h(T|X), and I(X;T) comes out
    too high where its passes hardly overlap (flag `unreliable` from 99 % of log2 n_x).

    *The population.* With `population=true` the inputs are a sample of their law, and the values are
    2 I(N) - <I(N/2)>, the mean over both halves of 4 random splits: that removes the error of order 1/N and
    nothing else (estimand `noisy-population`, no ceiling but H(Y)). Where I(N) - <I(N/2)> is above 0.1 bit the
    mixture is too sparse for that: at log2 N it would give log2 N + 1. Such values are left out, `saturated`. Refused
    where inputs repeat, and where `x` shows that the probe is a tenth or more of all there is (every feature has few
    values, and N is a tenth of their combinations, as of the 4,096 patterns of 12 bits); what else is no
    sample, nobody can see. `low` and `high` are then of the choice of the inputs, too, from the differences of
    halves. `below_null` is that of I(N); for a null of the continued value take `noise:population=true+null`.

    *Bounds for the population.* `bracket=true` beside `population=true` adds "I(X;T) upper" and "I(X;T) lower", between
    which the information of the law lies in expectation over samples (Poole et al. 2019): with p(t|x) the Gaussian
    around x,

        upper = mean_i E [log2 p(t_i|x_i) - log2 1/(N-1) sum_{j != i} p(t_i|x_j)],

    and lower with j = i and 1/N, which is I(N), at most log2 N. Both are also there where 2 I(N) - <I(N/2)> is
    `saturated`; a wide gap says how little the sample knows. They need the true conditional: the noise has to be
    recorded with the network, or stated as `std`; one relative to the sample is refused. In a noisy network the
    conditional of a layer may hold earlier noise, too: there is the upper bound only. `low` and `high` are of the
    choice of the inputs and the noise: a single pair of bounds may miss the truth by that much.

    `low` and `high` cover the Monte Carlo error and, with network noise, the choice of the repeated inputs;
    not these biases. All snapshots get the same noise, so a trajectory is smoother than its intervals.

    :measures: the information of `kde`, sampled, with its standard error
    :assumes: as `kde`, or noise in the network itself
    :errs: unbiased for the probe's inputs; down for the population, at most log2 N
    :cost: draws N² D
    :memory: N D
    :gives: I(X;T), I(T;Y), I(X;T|Y)
    :unit: bit
    :ceiling: H(X), H(Y)
    :source: Goldfeld et al. 2019

    Parameters
    ----------
    std : float or None
        s in the units of T; None takes `relative_std`.
    relative_std : float
        s as a share of the layer's root mean square deviation at the last finite snapshot, found by `prepare`.
    n_draws : int
        Noise samples for each row, in pairs of opposite sign: even.
    target_scale : float
        Continuous targets: I(T;Y+W), W Gaussian of `target_scale` times the std of each target; constant targets
        have none. Its ceiling is I(Y;Y+W).
    null_draws : int
        Label shuffles of `I(T;Y) null` (mean, and 2.5 and 97.5 % points), taken with the first noise sample, whose
        own error is estimated from the others; 0 leaves it out.
    seed : int
        Seeds the noise and the label shuffles.
    dtype : {"auto", "float32", "float64"}
        Of the blocks. "auto" takes float64 for float64 layers and wherever float32 could err by 1e-3 nats.
    population : bool
        Whether the inputs are a sample, and the law they come from is asked for. Three times the cost.
    bracket : bool
        With `population`: the bounds of I(X;T), too. Four times the cost.

    Raises
    ------
    ValueError
        If a parameter is out of its domain, the inputs do not fit (see `check_inputs`), s is neither given nor
        prepared, a layer with network noise was recorded after its noise, `population` is asked of inputs that
        are no sample, or `bracket` without `population` or without known noise.

    References
    ----------
    Goldfeld, van den Berg, Greenewald, Melnyk, Nguyen, Kingsbury and Polyanskiy, "Estimating information flow
    in deep neural networks", 2019.
    Goldfeld, Greenewald, Niles-Weed and Polyanskiy, "Convergence of smoothed empirical measures with
    applications to entropy estimation", 2020.
    Poole, Ozair, van den Oord, Alemi and Tucker, "On variational bounds of mutual information", 2019.

    Examples
    --------
    Two points two noise std apart: 0.4859 bit by quadrature.

    >>> t = torch.tensor([[-1.0], [1.0]]).double().repeat(500, 1)[None]
    >>> ids = torch.tensor([0, 1]).repeat(500)
    >>> found = SamplePropagation(std=1.0).estimate(t, ids, x_ids=ids)["I(X;T)"]
    >>> bool(found.low <= 0.4859 <= found.high), round(float(found.value), 2)
    (True, 0.49)
    """

    name: ClassVar[str] = "noise"
    guarantees: ClassVar[frozenset[str]] = frozenset({"blocks", "constant_zero"})
    uses_repeats: ClassVar[str] = "partial"
    not_extrapolated: ClassVar[str] = "its values are of the probe's inputs; 'noise:population=true' goes beyond them"

    std: float | None = setting(None, POSITIVE_OR_NONE)
    relative_std: float = setting(0.1, POSITIVE)
    n_draws: int = 8
    target_scale: float = setting(0.1, POSITIVE)
    null_draws: int = setting(20, COUNT)
    seed: int = 0
    dtype: Precision = setting("auto", PRECISIONS)
    population: bool = added(False, SWITCH)
    bracket: bool = added(False, SWITCH)
    reference_rms: float | None = prepared()
    network_std: float | None = prepared()
    network_kind: str | None = prepared()
    passes: int | None = prepared()

    def __post_init__(self) -> None:
        """Check that the settings fit together: one std, an even number of draws, `bracket` with `population`."""
        super().__post_init__()
        if self.std is not None and self.relative_std != 0.1:
            raise ValueError(
                f"std takes the place of relative_std, got {self.std} and {self.relative_std}; give one or the other"
            )
        if not isinstance(self.n_draws, int) or self.n_draws < 2 or self.n_draws % 2:
            raise ValueError(f"n_draws must be even and at least 2, got {self.n_draws!r}")
        if self.bracket and not self.population:
            raise ValueError("bracket=True bounds the population, got population=False; give population=True, too")

    def bytes_per_snapshot(self, samples: int, units: int) -> int:
        """Return the bytes of a snapshot and its centred copy in float64, and of the sums of every draw by sample."""
        return 16 * samples * units + 8 * samples * (4 * self.n_draws + 2 * self.null_draws)

    def prepare(self, blocks: Blocks, y: Tensor, x: Tensor | None = None) -> Self:
        """Return this estimator with the network's own noise, or else the scale of the last finite snapshot.

        `blocks.passes`, where given, is the number of further noisy passes that the recorder took of some inputs.
        ValueError if the layer was recorded after its noise.
        """
        passes = getattr(blocks, "passes", 0) or None
        noise = getattr(blocks, "noise", None)
        if noise is not None and noise.std > 0:
            if not noise.clean:
                raise ValueError(
                    "the layer was recorded after its noise; sample propagation needs the value before it "
                    "(install NoiseInjection through infoplane.hooks and record again)"
                )
            return dataclasses.replace(self, network_std=noise.std, network_kind=noise.kind, passes=passes)
        rms = self.reference_rms
        if self.std is None:
            last = last_finite(blocks)
            rms = rms if last is None else rms_deviation(last)
        return dataclasses.replace(self, reference_rms=rms, passes=passes)

    def noise_std(self) -> float:
        """Return the noise std s: in the units of T, or for multiplicative network noise as a share of each value.

        Raises
        ------
        ValueError
            If it is neither given nor prepared.
        """
        if self.network_std is not None:
            return self.network_std
        if self.std is not None:
            return self.std
        if self.reference_rms is None:
            raise ValueError(
                "the noise std is relative to the last snapshot of the run, which is not known here; give "
                "std=..., or call prepare(blocks, y) first"
            )
        return self.relative_std * self.reference_rms

    def estimate(self, t: Tensor, y: Tensor, *, x: Tensor | None = None, x_ids: Tensor | None = None) -> Quantities:
        """Return every quantity for each snapshot.

        With `population` they are those of the law of the inputs, from the values of all samples and of halves.
        """
        found = super().estimate(t, y, x=x, x_ids=x_ids)
        if not self.population:
            return found
        plain = dataclasses.replace(self, population=False, bracket=False, null_draws=0)
        parts = [on_rows(plain, rows, t, y, x=x, x_ids=x_ids) for rows in halves(t.shape[1], self.seed)]
        return continued(found, parts, classes=not y.is_floating_point())

    def start(self, given: Given) -> _Propagation:
        """Return the problem of one call: the rows that the mixture is made of, with labels, shuffles and blocks.

        ValueError where the inputs do not allow `population`, or the noise does not allow `bracket`.
        """
        if self.population:
            refuse_whole_population(given.x_ids, given.features(keep=True))
        if self.bracket and self.network_std is None and self.std is None:
            raise ValueError(
                "bracket=True needs noise that is recorded with the network or stated, got a std relative to the "
                "sample; record with NoiseInjection of infoplane.hooks, or give std=..."
            )
        return _Propagation(self, given)


def rms_deviation(layer: Tensor) -> float:
    """Return the root mean square deviation of all values of a layer (N, U) from the mean of their unit."""
    layer = as_floats(layer, "the layer")
    largest = float(torch.maximum(layer.max(), -layer.min()))
    if largest == 0.0:
        return 0.0
    total = torch.zeros((), dtype=torch.float64, device=layer.device)
    step = max(1, (1 << 18) // len(layer))  # units whose float64 copies take 2 MiB
    for start in range(0, layer.shape[1], step):
        part = layer[:, start : start + step].double() / largest  # so that no square leaves the range
        part = part - part[:1]  # then a constant unit is exactly 0
        total += (part - part.mean(0)).square().sum()
    return largest * math.sqrt(float(total) / layer.numel())


def _error_of_first_draw(null: Tensor, whole: Tensor) -> Tensor:
    """Return how much the noise of the first draw adds to the mean of the null of I(T;Y), in bits, () float64.

    `null` (n,) is each row's share of it, which is known for that draw only; `whole` (draws, n) is each row's share of
    I(X;T), which is known for all draws.
    """
    # The null is `whole` less a term within classes, which takes away a share of its noise: none with a class for every
    # row, all with one class. The share that is left is fitted over the rows.
    error = whole[0] - whole.mean(0)  # (n,) of the first draw
    spread = error - error.mean()
    norm = spread.square().sum()
    share = (spread * null).sum() / torch.where(norm > 0, norm, torch.ones_like(norm))
    return share.clamp(0.0, 1.0) * error.mean()


class _Propagation(MixtureProblem):
    """Sums of likelihood ratios for noisy samples of every row."""

    config: SamplePropagation

    def __init__(self, config: SamplePropagation, given: Given) -> None:
        """Choose the rows of the mixture, cut them into spans by class, and prepare shuffled labels."""
        self.std, self.pairs_drawn = config.noise_std(), config.n_draws // 2
        # Whether rows of one input are noisy passes of it.
        self.passes = config.network_std is not None or config.passes is not None
        # With network noise the mixture has one component for each input: its first row.
        super().__init__(config, given, first_rows(given.x_ids, int(given.x_ids.max()) + 1) if self.passes else None)
        self.order = self.head[self.classes.order]  # rows of the mixture, class after class
        self.inputs_of_head = torch.bincount(self.x_ids[self.head])  # how many rows of the mixture each input has
        # Rows of a span, fewer where its noise would take more than 8 MiB.
        self.size = min(block_size(self.t.device), max(64, (1 << 20) // (self.pairs_drawn * self.units)))
        self.spans = class_spans(self.classes.counts, self.size)
        count = len(self.classes.counts)
        few = not self.continuous and count <= COLUMN_CLASSES
        self.null = NullColumns(self.shuffled, count) if few and self.shuffled is not None else None

    def channel(self, layer: Tensor, order: Tensor) -> Channel:
        """Return the channel from rows of a layer (N, U), in this order (n,), to their noisy samples."""
        if self.config.network_kind == "multiplicative":
            return MultiplicativeChannel(layer, self.std, self.pairs_drawn, order=order)
        std = positive_std(self.std, layer)
        return AdditiveChannel(layer, std, self.pairs_drawn, order=order, dtype=self.dtype)

    def snapshot(self, layer: Tensor) -> dict[str, Tensor]:
        """Return informations in bits, their standard errors ("..._se") and nulls for one layer (N, U)."""
        generator = torch.Generator().manual_seed(self.config.seed)
        channel = self.channel(layer, self.order)
        out = self._continuous(channel, generator) if self.continuous else self._discrete(channel, generator)
        # What passes of one input differ by is no information about X.
        within, error, passes_apart = self._within_inputs(layer, generator)
        for key in ("i_xt", "i_xt_y"):
            if key in out:
                out[key] = out[key] - within
                out[key + "_se"] = (out[key + "_se"].square() + error.square()).sqrt()
        if self.config.bracket:
            out |= self._bracket(layer)
        degenerate = torch.tensor(channel.spread == 0.0 or self.std == 0.0, device=channel.device)
        return out | {"passes_apart": passes_apart, "degenerate": degenerate}

    def _discrete(self, channel: Channel, generator: torch.Generator) -> dict[str, Tensor]:
        """Return I(X;T+Z), I(X;T+Z|Y) and I(T+Z;Y) for classes, with errors and the null, from one propagation."""
        groups, columns = self.classes, None if self.null is None else self.null.columns
        draws = propagate(channel, self.spans, groups.label, generator, shuffled=self.shuffled, columns=columns)
        whole = math.log2(len(self.order)) - draws.whole
        within = groups.size.log2() - draws.within
        out = self._weighed({"i_xt": whole, "i_xt_y": within, "i_ty": whole - within}, draws.control)
        if self.config.null_draws:
            if self.shuffled is None or draws.null is None:  # one class
                out["null"] = self.zero().repeat(self.config.null_draws)
            elif self.class_per_input:  # every shuffle only renames the classes
                out["null"] = out["i_ty"].expand(self.config.null_draws)
            else:
                own = draws.null  # (R, n) sums over the rows of the own shuffled class, or by `columns`
                if self.null is not None:
                    own = self.null.own_sums(own, draws.whole[0].exp2())
                size = torch.tensor(groups.counts, device=own.device).double()[self.shuffled]
                drawn = whole[0] - (size.log2() - own.log2())
                out["null"] = drawn.mean(1) - _error_of_first_draw(drawn.mean(0), whole)
        return out

    def _continuous(self, channel: Channel, generator: torch.Generator) -> dict[str, Tensor]:
        """Return I(X;T+Z), I(T+Z;Y+W) and its ceiling for real targets with noise W, with errors and the null."""
        log_n = math.log2(len(self.order))
        zero = self.zero()
        if self.targets is None:  # all are constant
            draws = propagate(channel, self.spans, self.classes.label, generator)
            out = self._weighed({"i_xt": log_n - draws.whole}, draws.control)
            out |= {"i_ty": zero, "i_ty_se": zero, "ceiling": zero}
            if self.shuffled is not None:
                out["null"] = zero.expand(len(self.shuffled))
            return out
        shuffled = [] if self.shuffled is None else [self.targets[rows] for rows in self.shuffled]
        scratch = Scratch()
        targets = AdditiveChannel(self.targets, 1.0, self.pairs_drawn, dtype=channel.dtype)
        others = [AdditiveChannel(rows, 1.0, 1, dtype=channel.dtype, scratch=scratch) for rows in shuffled]
        joint = propagate_jointly(channel, targets, self.spans, generator, shuffled=others)
        values = {"i_xt": log_n - joint.t, "i_ty": log_n - joint.t - joint.y + joint.joint, "ceiling": log_n - joint.y}
        out = self._weighed(values, joint.control)
        if self.shuffled is not None:
            out["null"] = (log_n - joint.t[0] - joint.null_y + joint.null_joint).mean(1)
        if channel.spread == 0.0:  # T is constant
            out |= {key: torch.zeros_like(out[key]) for key in ("i_ty", "i_ty_se", "null") if key in out}
        return out

    def _weighed(self, values: dict[str, Tensor], control: Tensor) -> dict[str, Tensor]:
        """Return mean and standard error ("..._se") of each of the values (draws, n), less what `control` explains."""
        out = {}
        for key, draws in values.items():
            out[key], out[key + "_se"] = weigh_draws(draws, control)
        return out

    def _bracket(self, layer: Tensor) -> dict[str, Tensor]:
        """Return both bounds for the law of the inputs, and their standard errors ("..._se") over the rows."""
        # The upper one leaves a row's own component out of the mixture.
        generator = torch.Generator().manual_seed(self.config.seed)
        others, n, out = left_out(self.channel(layer, self.order), self.spans, generator), len(self.order), {}
        bounds = {"upper": math.log2(n - 1) - others, "lower": math.log2(n) - torch.logaddexp2(others, self.zero())}
        for key, draws in bounds.items():
            rows = draws.mean(0)
            out[key], out[key + "_se"] = rows.mean(), rows.std() / math.sqrt(n)
        return out

    def _within_inputs(self, layer: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return the bits by which h(T|X) exceeds the entropy of the noise, their error, and whether passes never meet.

        Passes are the rows of one input, which `propagate` compares with each other; () each, the last bool.
        """
        # The mean is over inputs. Without network noise an input with a single row counts as deterministic. With it
        # nothing is known of such an input, and the m inputs with several rows stand for `all_inputs` of them.
        zero = self.zero()
        never = zero > 0
        groups = self.repeated
        if groups is None:  # no input has several rows
            return zero, zero, never
        channel, spans = self.channel(layer, groups.order), class_spans(groups.counts, self.size)
        draws = propagate(channel, spans, groups.label, generator, within_only=True)
        apart = groups.size.log2() - draws.within  # (draws, rows) bits by which passes of one input are told apart
        counts = torch.tensor(groups.counts, device=layer.device)
        indicators = torch.zeros(len(counts), len(groups), dtype=torch.float64, device=layer.device)
        by_input = indicators.scatter_(0, groups.label[None], 1.0) @ apart.mean(0) / counts  # mean over its rows
        if not self.passes:  # all rows stand for themselves, and those that are alone in their input add 0
            value, error = weigh_draws(apart, draws.control)
            share = len(groups) / len(self.x_ids)
            return share * value, share * error, never
        inputs = self.x_ids[groups.order][torch.cumsum(counts, 0) - 1]
        weight = self.inputs_of_head[inputs].double()
        weight = weight / weight.sum()
        value = (weight * by_input).sum()
        _, noise = weigh_draws(apart, draws.control)
        # `between` is the variance of a weighted mean over m of all inputs, drawn without repetition.
        m, all_inputs = len(counts), int((self.inputs_of_head > 0).sum())
        between = ((weight * (by_input - value)).square().sum() * m / max(m - 1, 1)) * (1 - m / all_inputs)
        passes_apart = value >= 0.99 * (weight * counts.double().log2()).sum()
        return value, (noise.square() + between).sqrt(), passes_apart

    def finish(self, found: dict[str, Tensor]) -> dict[str, Quantity]:
        """Return the quantities with intervals, ceilings and flags, and the noise std."""
        degenerate = found["degenerate"]
        # Whether h(T|X) is known: network noise needs several rows of some inputs for that.
        resolved = self.repeated is not None or not self.passes
        ceiling_y = found["ceiling"] if self.continuous else self.h_y

        def quantity(name: str, key: str, ceiling: Tensor, unsure: Tensor | bool, **more: Any) -> dict[str, Quantity]:
            """Return the quantity `name` with its interval, `unreliable` where that is wide or the value `unsure`."""
            half = Z_95 * found[key + "_se"]
            wide = (2 * half > WIDE_INTERVAL * ceiling) & (ceiling > 0)
            more["flags"] = {"degenerate": degenerate, **more["flags"], "unreliable": wide | unsure}
            return report(name, found[key], half=half, ceiling=ceiling, estimand=ESTIMAND, **more)

        def of_x(name: str, key: str, ceiling: Tensor) -> dict[str, Quantity]:
            """Return an information about X: an upper bound, and unsure, where h(T|X) is not known."""
            flags = {"saturated": at_ceiling(found[key], ceiling)}
            unsure = found["passes_apart"] if resolved else True
            return quantity(name, key, ceiling, unsure, flags=flags, bound="point" if resolved else "upper")

        out = of_x("I(X;T)", "i_xt", self.h_x)
        full = self.saturated(found, "i_xt", "i_ty", ceiling_y)
        flags: dict[str, Tensor | bool] = {"single_class": self.one_class, "saturated": full}
        if not self.continuous:
            out |= of_x("I(X;T|Y)", "i_xt_y", self.given_y)
            flags["few_samples"] = min(self.classes.counts) < 2
        alone = {"degenerate": degenerate, "single_class": self.one_class}
        value = quantity("I(T;Y)", "i_ty", ceiling_y, False, flags=flags, null=self.null_of(found), null_flags=alone)
        # The null comes before the value: this is the order of rows in a table.
        out |= dict(reversed(value.items()))
        if self.config.bracket:
            out |= self._bounds(found, resolved)
        unit = "relative to T" if self.config.network_kind == "multiplicative" else "units of T"
        return out | report("noise std", torch.full_like(found["i_ty"], self.std), unit=unit)

    def _bounds(self, found: dict[str, Tensor], resolved: bool) -> dict[str, Quantity]:
        """Return upper and lower bound of I(X;T) of the law; the lower one where h(T|X) is known (`resolved`)."""
        out: dict[str, Quantity] = {}
        kinds: tuple[Bound, ...] = ("upper", "lower") if resolved else ("upper",)
        for bound in kinds:
            value = found[bound]
            # An upper bound is infinite where some row meets no other.
            ceiling = None if bound == "upper" else self.h_x
            full = ~value.isfinite() if ceiling is None else at_ceiling(value, ceiling)
            value = torch.where(value.isfinite(), value, torch.nan)
            flags = {"degenerate": found["degenerate"], "saturated": full}
            more: dict[str, Any] = {"ceiling": ceiling, "estimand": POPULATION, "flags": flags}
            out |= report(f"I(X;T) {bound}", value, bound=bound, half=Z_95 * found[bound + "_se"], **more)
        return out


preset("noise", "goldfeld-2019", std=0.005)
