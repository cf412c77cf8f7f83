"""I(T;Y) of real targets, and I(X;T) of noisy networks, from a trained critic that tells pairs from strangers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from infoplane.core.units import BITS_PER_NAT, Z_95
from infoplane.estimators._canonical import LEAST_SAMPLES, pairs_off_ground, side, white_basis
from infoplane.estimators._coordinates import Coordinates, Marginal, is_steep
from infoplane.estimators._critics import (
    AT_ONCE,
    CHECKED,
    NEGATIVES,
    READ,
    Critics,
    Loss,
    Setup,
    infonce,
    log_mean_apart,
    nwj,
    own,
    smile,
)
from infoplane.estimators._driver import Given, Problem, report
from infoplane.estimators._labels import fold_of_row
from infoplane.estimators._network_noise import NoisyMethod, other_sides, with_noise
from infoplane.estimators._protocol import Quantity, only_values
from infoplane.estimators._registry import preset, register
from infoplane.estimators._settings import POSITIVE, at_least, between, one_of, setting
from infoplane.estimators._trained import TrainingPlan, in_stacks

CHUNK = 4
"""Snapshots trained as one program."""
PRODUCTS = 16
"""Outputs of each of the networks f and g, whose inner product f(x).g(y) is the learned part of a score."""
RATIO_LOSSES = ("anchor", "js")
"""Losses whose optimum is the log ratio itself."""
OVERSHOOT = 0.5
"""Nats by which the log-mean of a density ratio over strangers, rows of other pairs, may differ from 0."""
NEAR_CEILING = 0.9
"""Share of log2 n, of n rows that are read, from which "lower" is flagged `saturated`."""
FEW_STRANGERS = 0.5
"""Nats between the two ways to normalise, from which too few strangers are near enough to tell."""
ROWS_A_DIMENSION = 20
"""Training rows for each dimension, below which there are few samples."""
LOOSE, LOOSE_SHARE = 0.25, 0.25
"""Bits, and share of the value, by which rows trained on may look better than held-out ones."""
# First of the seeds of what is drawn apart: places of ties, networks, rows.
_TIES_T, _TIES_OTHER, _NETWORKS, _ROWS = 1 << 42, 1 << 43, 1 << 44, 1 << 45


@register
@dataclass(frozen=True, kw_only=True)
class Critic(NoisyMethod):
    """Information of two vectors from a critic: the log ratio of a Gaussian, and a network that learns the rest.

    Units without atoms become normal scores (I does not change, heavy tails go), each side at most `dims` principal
    components, both together canonical coordinates, fitted to the training rows of each fold. The critic starts as
    the log ratio of the Gaussian with these correlations; the network f(x).g(y) + a(x) + b(y) starts at 0, and is
    trained by `loss` on three fifths of the rows. One fold chooses the step, 0 included, and another is read.

    "I(T;Y)" is the **middle** ("point"): half of what held-out rows give and half of what own rows give, each as the
    mean log ratio, normalised over all training rows, half without the own pair (too high where near strangers are
    rare) and half with it (too low there). What a fit loses on new rows and gains on its own cancels to first order; it
    is **no bound**. "I(T;Y) lower" is InfoNCE on held-out rows (NWJ with `loss="nwj"`), a lower bound in expectation,
    which saturates at log2 n of the n rows of a fold.

    **It misleads** where the Gaussian start does: on pairs that curve around one another (swirls, rotated heavy tails)
    values are a third too low, and `out_of_domain` says that the start failed the checks that `gaussian` makes; use
    `knn` there in two or three dimensions. SMILE overshoots by 30 % once the truth is above `tau`, and DV scatters
    by nats.

    Losses: `infonce` (both ways), `anchor` (InfoNCE with "none of these" of weight 16 among the candidates: its optimum
    is the log ratio), `js`, `nwj`, `dv` (with MINE's gradient over a running mean). `anchor` and `js` also give "I(T;Y)
    ratio", the mean score of held-out pairs. What other combinations read means nothing: an InfoNCE critic is free up
    to any function of x, so its DV, SMILE or ratio are refused.

    Classes are refused for I(T;Y): over all classes as candidates InfoNCE is cross-entropy, which is
    `probe:family=mlp`. I(X;T) is estimated only where the network has noise, as in `compressed`; for the inputs of
    the probe themselves `noise` is exact and the better choice.

    :measures: log density ratio of a trained critic, started at the Gaussian one
    :assumes: near-Gaussian dependence after ranks; I(X;T) needs noise in the network
    :errs: down where pairs curve around one another; "lower" at most log2 n
    :cost: steps folds (B² + B D)
    :memory: N D + B²
    :gives: I(T;Y) of real targets, I(X;T) of noisy networks
    :unit: bit
    :ceiling: none; log2 n of "lower"
    :source: van den Oord et al. 2018; Belghazi et al. 2018; Song and Ermon 2020

    Parameters
    ----------
    loss : "infonce", "anchor", "js", "nwj" or "dv"
        What is minimised in training.
    base : "gaussian" or "off"
        What the critic starts from. The Gaussian one is dropped in folds where it is worse than knowing nothing.
    reading : "middle", "dv" or "smile"
        What "I(T;Y)" is. "dv" (with `loss="dv"`, as MINE): Donsker and Varadhan's value of the rows it was trained on,
        beside "running std", that of the batches of the last hundred steps. "smile" (with `js` or `anchor`):
        E F - log E clip(e^F, e^-tau, e^tau) of held-out rows.
    tau : float
        Nats at which SMILE clips.
    ranks : bool
        Whether units become normal scores; of more than four, those that are normal already are only scaled.
    dims : int
        Principal components of each side.
    hidden, batch, steps : int
        Width of the two hidden layers, rows of a batch, and the most steps of training.
    rate, dropout : float
        Learning rate, and share of hidden units that drop out.
    folds : int
        Parts of the samples, at least 3: one is read, one chooses the step, the others are trained on.
    noise : {"network", "recorded", "off"}
        Where the randomness of T is; "off" leaves I(X;T) out.
    seed : int
        Seeds folds, first weights, batches, places of repeated values and added noise.

    Notes
    -----
    `unreliable`: own rows look better by more than 0.25 bit and a quarter of the value, more steps would help, or it
    diverged. `saturated`: the two ways to normalise differ by more than 0.5 nat, above about 5 nats for 2,000 rows, or
    one pair of coordinates tells log n - 1 nats and more, near what the ranks of n training rows can; "lower": also
    above 0.9 log n. `few_samples`: fewer than 20 training rows a dimension. `ties`: a unit has atoms (ReLU zeros) and
    is scaled only. The interval is that of the held-out mean and says nothing of the training. Snapshots are trained
    four at a time; alone or together they agree within 0.02 bit.

    Raises
    ------
    ValueError
        For settings that mean nothing together, class labels, a deterministic layer asked for I(X;T).

    References
    ----------
    van den Oord, Li and Vinyals, "Representation learning with contrastive predictive coding", 2018.
    Belghazi et al., "Mutual information neural estimation", 2018.
    Poole, Ozair, van den Oord, Alemi and Tucker, "On variational bounds of mutual information", 2019.
    Song and Ermon, "Understanding the limitations of variational mutual information estimators", 2020.

    Examples
    --------
    >>> g = torch.Generator().manual_seed(0)
    >>> y = torch.randn(600, 2, generator=g)
    >>> t = (y + torch.randn(600, 2, generator=g))[None]
    >>> abs(float(Critic(steps=50).estimate(t, y)["I(T;Y)"].value) - 1.0) < 0.15
    True
    """

    name: ClassVar[str] = "critic"
    targets: ClassVar[frozenset[str]] = frozenset({"continuous"})
    guarantees: ClassVar[frozenset[str]] = frozenset()
    chunk: ClassVar[int] = CHUNK

    loss: Loss = setting("infonce", one_of("infonce", "anchor", "js", "nwj", "dv"))
    base: Literal["gaussian", "off"] = setting("gaussian", one_of("gaussian", "off"))
    reading: Literal["middle", "dv", "smile"] = setting("middle", one_of("middle", "dv", "smile"))
    tau: float = setting(5.0, POSITIVE)
    ranks: bool = True
    dims: int = setting(64, at_least(1))
    hidden: int = setting(64, at_least(1))
    batch: int = setting(256, at_least(2))
    steps: int = setting(1000, at_least(25))
    rate: float = setting(2e-3, POSITIVE)
    dropout: float = setting(0.2, between(0, 0.9))
    folds: int = setting(5, at_least(3))

    def __post_init__(self) -> None:
        """Check that the value can be read from a critic trained by this loss."""
        super().__post_init__()
        needed = {"dv": ("dv",), "smile": RATIO_LOSSES}.get(self.reading)
        if needed and self.loss not in needed:
            raise ValueError(
                f"reading={self.reading!r} means nothing of a critic trained by {self.loss!r}, whose scores are no log "
                f"ratios; set loss={' or '.join(map(repr, needed))}"
            )

    def bytes_per_snapshot(self, samples: int, units: int) -> int:
        """Return the bytes of the coordinates of every fold, of scores with gradients, and of the layer in float64."""
        sides = 8 * self.folds * samples * min(self.dims, units)
        rows, read = max(self.batch, CHECKED), min(samples, NEGATIVES)
        batches = 4 * self.folds * (8 * rows**2 + 24 * rows * self.hidden)
        return 24 * samples * units + sides + batches + 4 * self.folds * 6 * AT_ONCE * read

    @property
    def min_samples(self) -> int:
        """Return the least number of samples: four for every fold."""
        return 4 * self.folds

    def start(self, given: Given) -> _Contrasts:
        """Return the problem of one call: the other sides, and the rows to train on, to choose the step and to read."""
        return _Contrasts(self, given)


class _Contrasts(Problem):
    """A layer with the targets, the inputs or both: one stack of critics for each pair of sides."""

    config: Critic

    @torch.inference_mode(False)
    def __init__(self, config: Critic, given: Given) -> None:
        """Take targets and inputs as other sides, and choose the rows of each fold."""
        super().__init__(config, given)
        self.others = {name: self._marginal(side, _TIES_OTHER) for name, side in other_sides(config, given).items()}
        fold = fold_of_row(given.x_ids, config.folds, config.seed)
        outside = torch.arange(config.folds, device=fold.device)[:, None] != fold  # (F, N)
        validation = ~outside.roll(-1, 0)  # (F, N) rows of the next fold
        fitted = outside & ~validation
        self.fitted = tuple(rows.nonzero()[:, 0] for rows in fitted.cpu())
        self.checked, self.read, self.negatives = (
            self._drawn(rows, most) for rows, most in ((validation, CHECKED), (~outside, READ), (fitted, NEGATIVES))
        )
        # Two of each fold, one for each network of a critic; no two folds or values of `seed` share one.
        self.seeds = tuple(_NETWORKS + 2 * (config.folds * config.seed + fold) for fold in range(config.folds))

    def _marginal(self, block: Tensor, offset: int) -> Marginal:
        """Scale one side (N, D), or rank it if the settings say so; `offset` makes seeds of two sides differ."""
        return Marginal.of(block, offset + self.config.seed, ranks=self.config.ranks, all_ranks=False)

    def _drawn(self, rows: Tensor, most: int) -> Tensor:
        """Draw the numbers (F, n) of rows out of (F, N) bool, at most `most` and equally many of every fold."""
        generator = torch.Generator().manual_seed(_ROWS + self.config.seed)
        numbers = [chosen.nonzero()[:, 0] for chosen in rows.cpu()]
        size = min(most, *map(len, numbers))
        drawn = [each[torch.randperm(len(each), generator=generator, device="cpu")[:size]] for each in numbers]
        return torch.stack(drawn).to(rows.device)

    def at_once(self) -> int:
        """Return that all snapshots are given to `chunk` at once."""
        return len(self.t)  # which `chunk` cuts into stacks

    def chunk(self, t: Tensor) -> dict[str, Tensor]:
        """Train critics for snapshots `t` (S, N, U), as many at a time as memory takes; return what `_stack` does."""
        return in_stacks(t, self.config.bytes_per_snapshot(self.samples, self.units), self._stack)

    def _stack(self, t: Tensor) -> dict[str, Tensor]:
        """Train critics of snapshots `t` (S, N, U) together; return numbers (S,): for each pair those of `_pair`."""
        layers = [self._marginal(with_noise(layer, self.config), _TIES_T) for layer in t]
        out = {
            "degenerate": torch.tensor([layer.columns.shape[1] == 0 for layer in layers], device=t.device),
            "tied": torch.tensor([layer.tied for layer in layers], device=t.device),
        }
        for name, other in self.others.items():
            found = self._pair(layers, other)
            if self.config.base == "gaussian" and not only_values():
                middle = (0.5 * (found["held out"] + found["own"])).tolist()
                off = [_off_ground(layer, other, nats) for layer, nats in zip(layers, middle, strict=True)]
                found["off ground"] = torch.tensor(off, device=t.device)
            out |= {f"{name} {key}": value for key, value in found.items()}
        return out

    def _pair(self, layers: list[Marginal], other: Marginal) -> dict[str, Tensor]:
        """Train critics for the layers with one other side, and return numbers (S,) in nats, by name.

        "held out" and "own" are the information read from rows that the critics were not trained on and that they
        were, "half" is half of a 95 % interval, "gap" what the two ways to normalise differ by; the other readings are
        those of `Critic`, and "z" is the log-mean of the ratio over strangers. "steep" and "doubtful" are bool.
        """
        config, shape = self.config, (len(layers), self.config.folds)
        critics = self._critics(layers, other)
        steep = is_steep(critics.correlations, len(self.fitted[0])).any(1)
        doubtful = critics.train(self.fitted, self.checked, self.seeds)
        # (2, S, F, n) log ratios, normalised by strangers alone, and with a row's own partner among them. Where these
        # two differ much, few strangers are near.
        ratios = critics.log_ratios(self.read, self.negatives).double().view(2, *shape, -1)
        held_out, gap = ratios.mean(0), ratios[0] - ratios[1]
        trained_on = self.negatives[:, :READ]
        own_rows = critics.log_ratios(trained_on, self.negatives).mean(0).double().view(*shape, -1)
        with torch.no_grad():
            scores = critics.scores(self.read, self.read)  # held out (S F, n, n); those of own rows only for "dv"
            fitted = critics.scores(trained_on, trained_on) if config.reading == "dv" else scores
        lower = -nwj(scores) if config.loss == "nwj" else math.log(scores.shape[1]) - infonce(scores)
        found = {
            "held out": held_out.mean((1, 2)),
            "own": own_rows.mean((1, 2)),
            "half": Z_95 * held_out.flatten(1).std(1) / math.sqrt(held_out[0].numel()),
            "gap": gap.mean((1, 2)),
            "steep": steep,
            "doubtful": doubtful.any(1),
        }
        of_slices = {  # (S F,) each
            "lower": lower,
            "ratio": own(scores).mean(1),
            "z": log_mean_apart(scores).abs(),
            "smile": smile(scores, config.tau),
            "dv": own(fitted).mean(1) - log_mean_apart(fitted),
            "running std": critics.running_std(),
        }
        return found | {name: value.view(shape).double().mean(1) for name, value in of_slices.items()}

    def _critics(self, layers: list[Marginal], other: Marginal) -> Critics:
        """Return the critics of every layer and fold, in coordinates that are filled up with zeros to one width."""
        config, count = self.config, self.config.folds
        p, q = (max(1, min(config.dims, width)) for width in (self.units, other.columns.shape[1]))
        device = self.t.device
        shapes = (self.samples, p), (self.samples, q), (min(p, q),)
        u, v, rho = (torch.zeros(len(layers), count, *each, device=device, dtype=torch.float32) for each in shapes)
        for s, layer in enumerate(layers):
            for f, rows in enumerate(self.fitted):
                found = Coordinates.of(layer, other, rows.to(device), (p, q))
                u[s, f, :, : found.u.shape[1]] = found.u
                v[s, f, :, : found.v.shape[1]] = found.v
                if config.base == "gaussian":
                    rho[s, f, : len(found.correlations)] = found.correlations
        plan = TrainingPlan(config.rate, 1e-2, config.batch, config.steps, every=25, patience=8, cosine=True)
        return Critics(u, v, rho, Setup(config.loss, config.hidden, PRODUCTS, config.dropout, plan), self.seeds)

    def finish(self, found: dict[str, Tensor]) -> dict[str, Quantity]:
        """Return the quantities of every pair of sides."""
        return {key: q for name in self.others for key, q in self._reported(name, found).items()}

    def _reported(self, name: str, found: dict[str, Tensor]) -> dict[str, Quantity]:
        """Return the quantities of one pair of sides, in bits, with their flags."""
        config, estimand = self.config, "noisy-population" if name == "I(X;T)" else ""
        constant = found["degenerate"] | (self.others[name].columns.shape[1] == 0)

        def bits(key: str) -> Tensor:
            """Return the number `key` of this pair in bits (S,); 0 where a side is constant."""
            return torch.where(constant, 0.0, found[f"{name} {key}"] * BITS_PER_NAT)

        held_out, own_rows, lower = bits("held out"), bits("own"), bits("lower")
        most = math.log2(self.read.shape[1])  # bits that InfoNCE can show with so many rows
        middle = 0.5 * (held_out + own_rows)
        overfitted = own_rows - held_out > LOOSE + LOOSE_SHARE * middle.clamp(min=0)
        dims = max(min(config.dims, self.units), min(config.dims, self.others[name].columns.shape[1]))
        flags: dict[str, Tensor | bool] = {
            "degenerate": constant,
            "ties": found["tied"] | self.others[name].tied,
            "few_samples": len(self.fitted[0]) < ROWS_A_DIMENSION * dims,
            "unreliable": found[f"{name} doubtful"] | overfitted,
            "saturated": (bits("gap") > FEW_STRANGERS * BITS_PER_NAT) | (found[f"{name} steep"] & ~constant),
        }
        # Doubts of the bound "lower" alone, of the scores as log ratios, and of the Gaussian as a start.
        near_most = flags["saturated"] | (lower > NEAR_CEILING * most)
        no_ratios = bits("z") > OVERSHOOT * BITS_PER_NAT
        not_gaussian = found.get(f"{name} off ground", torch.zeros_like(constant)) & ~constant
        value = {"middle": middle, "dv": bits("dv"), "smile": bits("smile")}[config.reading]
        out = report(name, value, half=bits("half"), flags={**flags, "out_of_domain": not_gaussian}, estimand=estimand)
        ceiling = None if config.loss == "nwj" else most
        of_lower = flags if ceiling is None else {**flags, "saturated": near_most}
        out |= report(f"{name} lower", lower, bound="lower", ceiling=ceiling, flags=of_lower, estimand=estimand)
        if config.loss in RATIO_LOSSES:
            of_ratio = {**flags, "out_of_domain": no_ratios}
            out |= report(f"{name} ratio", bits("ratio"), flags=of_ratio, estimand=estimand)
        if config.reading == "dv":
            out |= report("running std", bits("running std"), flags={"degenerate": constant})
        return out


def _off_ground(t: Marginal, other: Marginal, nats: float) -> bool:
    """Return whether two sides, whose information is `nats`, fail the checks that `gaussian` makes of its model."""
    # Of a constant side there is nothing to check, and of few rows nothing can be.
    if min(t.columns.shape[1], other.columns.shape[1]) == 0 or len(t.columns) < LEAST_SAMPLES:
        return False
    sides = [side(z.columns, z.columns, white_basis(z.columns, "auto")) for z in (t, other)]
    return pairs_off_ground(sides[0], sides[1], nats, "auto")


_PLAIN: dict[str, Any] = {"base": "off", "ranks": False, "dropout": 0.0}  # a network alone, on units as they are
preset("critic", "mine-2018", loss="dv", reading="dv", **_PLAIN)
preset("critic", "smile-2020", loss="js", reading="smile", tau=5.0, **_PLAIN, hidden=256, batch=64, rate=5e-4)
