"""Usable information I(T;Y): what a linear probe can read out of a layer, on samples it was not fitted to."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from infoplane.core.units import BITS_PER_NAT, Z_95
from infoplane.estimators._driver import Flags, Given, Method, Problem, report
from infoplane.estimators._held_out import Classes, Targets, telling_products
from infoplane.estimators._labels import fold_of_row
from infoplane.estimators._linear_model import TOLERANCE, Fit, Loss, fit
from infoplane.estimators._network_probe import Folds, bytes_of_network, network_scores
from infoplane.estimators._protocol import Bound, Quantity, only_values
from infoplane.estimators._registry import preset, register
from infoplane.estimators._scaling import is_constant, normal_numbers, principal_coordinates, zscore
from infoplane.estimators._settings import Domain, added, at_least, one_of, positive_or, setting
from infoplane.estimators._trained import in_stacks

RIDGES: tuple[float, ...] = (100.0, 10.0, 1.0, 0.1, 0.01, 0.001)
# A small penalty on the intercept makes the minimum unique.
INTERCEPT_RIDGE = 0.01
# Least labels that a code length begins with, and the ridge of its first probe, as a place in RIDGES.
FIRST_BLOCK, FIRST_RIDGE = 16, RIDGES.index(1.0)
# Random features that look for what the linear probe does not read.
WITNESS_FEATURES = 64
# Accuracy of the fits that only choose a ridge, in nats a row.
COARSE = 1e-6
ESTIMAND, FEATURE_ESTIMAND, NETWORK_ESTIMAND = "linear-probe", "feature-probe", "mlp-probe"
# Snapshots whose networks are trained as one program.
CHUNK = 8
# Bits below H(Y) from which a value says no more than that Y is known.
SATURATED = 0.02
# First of the seeds that spread tied targets, and of networks: apart from those of folds, features and signs.
_DITHER, _NETWORK = 1 << 40, 1 << 41
# Elementwise work on the scores of one part of a block stays within this.
_SCORE_BYTES = 64 << 20


@register
@dataclass(frozen=True, kw_only=True)
class LinearProbe(Method):
    """V-information of a linear probe or a small network: H(Y) minus held-out cross-entropy, a bound on I(T;Y).

    Classes: multinomial logistic regression. The cross-entropy of any q(y|t) is at least H(Y|T), and each
    sample is predicted by a model of the other folds, so the bound needs no assumption; H(Y) is the plug-in
    value, which errs downwards too. It is tight where log p(y|t) is linear in t.

    Targets: ridge regression of their normal scores (ranks mapped to Gaussian quantiles, which leaves I(T;Y) as
    it is), and -1/2 log2 det of the held-out residual covariance relative to the scores' own. Rows with equal targets
    get random places within their ranks (flag `ties`), so the scores are Gaussian whatever the target. That makes it a
    lower bound for one target; for a vector, where the scores are Gaussian together. They are compared with Gaussian
    samples by the distances between neighbours: where they fall short in entropy by more than 0.1 nat, and 0.005 for
    each target, the bound is "point" with the flag `out_of_domain`, for then the value can be too high. Directions
    with less than 1 % of the variance of the largest one are left out.

    **The value is what a linear probe reads**, and `estimand` says so: "linear-probe", or "feature-probe" with
    `random_features`. Classes placed like XOR give 0 bits however far apart. `unreliable` is raised where
    that shows: random Fourier features, or products of two units, predict the held-out residuals, by more than
    0.02 bit; the probe does better on its own samples than on held-out ones by a tenth of H(Y); or the optimiser did
    not converge. No flag sees what three or more of many units say only together (the parity of three bits in 20).

    `family="mlp"` starts from the linear probe of each fold and adds a network (one hidden layer of 64, a linear skip,
    and for classes a share of labels that is random): all folds and snapshots are trained as one program. A fold is
    read by the network of the others but one, which chooses the step, 0 included. "I(T;Y) lower" is what it reads of
    held-out samples, a lower bound in expectation. "I(T;Y)" is the mean of that and of the value on its own samples
    ("point", **no bound**): what a fit loses on new samples and gains on its own cancel to first order. It still reads
    too little of parities in many units, of few samples, and of sharp edges in one unit. "gain over linear" is what is
    not linearly readable. `unreliable`: own samples look better by a tenth of H(Y), more steps would help, or it
    diverged. `saturated`: within 0.02 bit of H(Y).

    Nothing is clipped: where T says nothing, the value is slightly negative.

    :measures: what a linear probe can use of Y (`family=mlp`: a small network)
    :assumes: classes separate linearly (`mlp`: not)
    :errs: down: a lower bound in expectation; either side for a vector of targets that is not jointly Gaussian
        (flagged)
    :cost: N D min(N, D) + steps N D K
    :memory: 3 N D
    :gives: I(T;Y) as a probe reads it, code length; of `mlp` also its lower bound and the gain over linear
    :unit: bit
    :ceiling: H(Y)
    :source: Xu et al. 2020

    Parameters
    ----------
    folds : int
        Parts of the cross-fit, at least 3. Samples with equal `x_ids` stay together.
    ridge : "auto" or float
        Penalty 1/2 ridge |w|^2 on the coefficients of units scaled to mean 0 and variance 1/U. "auto" takes
        for each fold the first local minimum along 100, 10, ..., 0.001 on another held-out fold, and refits.
    random_features : int
        Random Fourier features appended to the units: a non-linear family, whose value is a lower bound still.
    code_length : bool
        Also encode the classes block after block (Voita and Titov). Absent for real targets.
    seed : int
        Seeds folds, blocks, random features and networks.
    family : "linear" or "mlp"
        What predicts. Of `mlp` snapshots are trained eight at a time, and alone or together agree within 0.02 bit; more
        than 256 units are seen through their leading components.

    Notes
    -----
    Returns "I(T;Y)" in bits, with ceiling H(Y) for classes; low and high are the 95 % interval of the held-out
    mean. "prequential code length" in bit/label has blocks that end at N/2^k, k = ..., 1, 0, each coded by the
    probe of all before it and the first uniformly: an upper bound on H(Y|T) that also charges for the
    samples a probe needs. With `family="mlp"` also "I(T;Y) lower" and "gain over linear"; the code is that of the
    linear probe. `pointwise` gives what each sample contributes.

    Raises
    ------
    ValueError
        For settings or input outside what is stated here.

    References
    ----------
    Xu, Zhao, Song, Stewart and Ermon, "A theory of usable information under computational constraints", 2020.
    Voita and Titov, "Information-theoretic probing with minimum description length", 2020.
    Ethayarajh, Choi and Swayamdipta, "Understanding dataset difficulty with V-usable information", 2022.
    Lee et al., "NetInfoF framework: measuring and exploiting network usable information", 2024.

    Examples
    --------
    >>> y = torch.tensor([0, 1]).repeat(100)
    >>> t = torch.stack([10.0 * y, torch.zeros(200)])[:, :, None]     # informative, then constant
    >>> [round(v, 2) for v in LinearProbe().estimate(t, y)["I(T;Y)"].value.tolist()]
    [1.0, -0.01]
    """

    name: ClassVar[str] = "probe"
    guarantees: ClassVar[frozenset[str]] = frozenset({"blocks", "unit_order"})

    folds: int = setting(5, at_least(3))
    ridge: float | Literal["auto"] = setting("auto", positive_or("auto"))
    random_features: int = setting(0, Domain("0 or more", 0))
    code_length: bool = False
    seed: int = 0
    family: Literal["linear", "mlp"] = added("linear", one_of("linear", "mlp"))

    def __post_init__(self) -> None:
        """Check the settings; networks have none of the guarantees, and are trained in chunks."""
        super().__post_init__()
        if self.family == "mlp":  # networks that are trained together differ by rounding from those trained alone
            object.__setattr__(self, "guarantees", frozenset())
            object.__setattr__(self, "chunk", CHUNK)

    def bytes_per_snapshot(self, samples: int, units: int) -> int:
        """Return the bytes one snapshot needs: units in float64 three times, their Gram matrix, scores of ten classes.

        How many classes there are is not known here; networks of more are trained in smaller stacks, and of linear
        probes fewer subsets at a time.
        """
        columns = units + self.random_features
        networks = bytes_of_network(samples, units, 10, self.folds) if self.family == "mlp" else 0
        return networks + 8 * (3 * samples * columns + 3 * min(samples, columns) ** 2) + 640 * samples * self.folds

    @property
    def min_samples(self) -> int:
        """Return the least number of samples: one in each fold."""
        return self.folds

    def pointwise(self, t: Tensor, y: Tensor, *, x_ids: Tensor | None = None) -> Tensor:
        """Return the bits (S, N) that the probe reads of each sample, log2 p(y|t) - log2 p(y), whose mean is "I(T;Y)".

        Arguments and errors are those of `estimate`. Samples below 0 are those that mislead the probe: rare, hard or
        wrongly labelled (Ethayarajh, Choi and Swayamdipta 2022). For real targets it is the log ratio of the Gaussian
        of the residuals to that of the targets.
        """
        problem = self.start(self._given(t, y, None, x_ids))
        problem.pointwise = True
        return problem.numbers()["rows"]

    def start(self, given: Given) -> _CrossFit:
        """Return the problem of one call: the folds of the samples, and the classes or targets to be predicted."""
        return _CrossFit(self, given) if self.family == "linear" else _NetworkCrossFit(self, given)


class _CrossFit(Problem):
    """Classes or targets, each predicted by the probe of the other folds."""

    config: LinearProbe
    part_bytes = _SCORE_BYTES
    pointwise = False  # whether the numbers have "rows" (S, N), what each row contributes

    def __init__(self, config: LinearProbe, given: Given) -> None:
        """Draw the folds, and prepare classes or targets."""
        super().__init__(config, given)
        self.fold = fold_of_row(given.x_ids, config.folds, config.seed)
        self.task = Targets(self.y, _DITHER + config.seed) if self.continuous else Classes(self.y)
        self.bytes_each = 64 * self.samples * config.folds * max(self.task.outputs, 1)

    def _generator(self, purpose: int) -> torch.Generator:
        """Return a random generator for one purpose: 1 features, 2 features that only check, 3 order of the code."""
        # 0 is for the folds; the signs of `_missed` have 3, too.
        return torch.Generator().manual_seed(4 * self.config.seed + purpose)

    def chunk(self, t: Tensor) -> dict[str, Tensor]:
        """Return what probes of snapshots (S, N, U) read of held-out rows, with flags (S,) and the code length."""
        z, constant, design = self._designed(t)
        task, folds = self.task, self.config.folds
        outside, validation = self._parts()
        held_out = z.new_empty(len(t), task.outputs, t.shape[1])  # (S, K, N)
        fitted, doubtful = z.new_zeros(len(t)), torch.zeros_like(constant)
        for some in design.at_once(folds, task.outputs):
            model = self._cross_fit(design, outside[some], validation[some])
            # Each row has the scores (S, K) of the fold whose probe was not fitted to it.
            for rows, scores in zip(~outside[some], model.scores.unbind(1), strict=True):
                held_out[:, :, rows] = scores[:, :, rows]
            # The mean loss on rows that were fitted, to compare with that on held-out ones.
            fitted += (task.row_loss(model.scores) * outside[some]).sum((1, 2)) / outside.sum()
            doubtful |= ~model.converged.all(1)
        if task.outputs and not only_values():
            doubtful |= self._missed(held_out, z)
        found = {"constant": constant, "doubtful": doubtful, **task.information(held_out, fitted)}
        if self.pointwise:
            found["rows"] = task.pointwise(held_out[:, None], torch.ones_like(outside[:1]))
        return found | self._code(design, task, constant)

    def _designed(self, t: Tensor) -> tuple[Tensor, Tensor, _Design]:
        """Return units (S, N, U) of variance 1/U, whether none varies (S,), and the design to fit probes to."""
        z = zscore(t) / math.sqrt(t.shape[2])
        features = z
        if self.config.random_features:
            features = torch.cat([z, _fourier(z, self.config.random_features, self._generator(1))], dim=2)
        return z, is_constant(z), _Design(features)  # constant as the probe sees it: a spread within rounding is none

    def _parts(self) -> tuple[Tensor, Tensor]:
        """Return the rows (F, N) outside of each fold, that its probe may see, and those of them that choose a fit."""
        # Those that choose are the rows of the next fold.
        outside = torch.arange(self.config.folds, device=self.fold.device)[:, None] != self.fold
        return outside, ~outside.roll(-1, 0)

    def finish(self, found: dict[str, Tensor]) -> dict[str, Quantity]:
        """Return I(T;Y) as the probe reads it, with its interval and flags, and the code length if asked for."""
        task, flags = self.task, self.task.flags(found["constant"])
        # With a single class, or no target that varies, nothing is fitted that could be in doubt.
        doubtful = (found["doubtful"] & (task.outputs > int(isinstance(task, Classes)))) | found["loose"]
        value, half, up = found["value"], found["half"], {**flags, "unreliable": doubtful}
        estimand = FEATURE_ESTIMAND if self.config.random_features else ESTIMAND
        out = report("I(T;Y)", value, half=half, bound=task.bound, ceiling=task.ceiling, flags=up, estimand=estimand)
        return out | self._reported_code(found, flags)

    def _missed(self, held_out: Tensor, z: Tensor) -> Tensor:
        """Return (S,) whether random features or products of units of `z` (S, N, U) predict what the probe leaves.

        `held_out` are the scores or predictions (S, K, N) of each row by the probe that was not fitted to it.
        """
        seed = 4 * self.config.seed + 3  # of the signs that tell chance
        curved = self.task.missed(held_out, _fourier(z, WITNESS_FEATURES, self._generator(2)), seed)
        products = telling_products(self.task.residuals(held_out), z)
        return curved | self.task.missed(held_out, products, seed)

    def _cross_fit(self, design: _Design, outside: Tensor, validation: Tensor) -> Fit:
        """Fit the probe of each fold to the rows `outside` it (F, N), with the ridge that is best on `validation`."""
        ridge = self.config.ridge
        if ridge != "auto":
            return design.fit(self.task, outside, design.ones * ridge)
        chosen, start = _choose_ridge(design, self.task, outside & ~validation, validation)
        return design.fit(self.task, outside, chosen, start=start)

    def _code(self, design: _Design, task: Classes | Targets, constant: Tensor) -> dict[str, Tensor]:
        """Return {"code": bits a label (S,)} for sending the labels block after block, each by a probe of those before.

        This is the prequential code of Voita and Titov (2020). Return {} where it is not asked for or there are no
        classes.
        """
        if not (self.config.code_length and isinstance(task, Classes)):
            return {}
        samples, device = design.samples, constant.device
        # `place` (N,) is where a row comes in a random order; blocks end at N, N / 2, N / 4, ... of it.
        order = torch.randperm(samples, generator=self._generator(3), device="cpu")
        place = torch.empty_like(order).index_put_((order,), torch.arange(samples, device="cpu")).to(device)
        ends = [samples]
        while ends[0] >= 2 * FIRST_BLOCK:
            ends.insert(0, -(-ends[0] // 2))
        stop = torch.tensor(ends, device=device)[:, None]
        before, block = place < stop[:-1], (place >= stop[:-1]) & (place < stop[1:])  # (J, N)
        # The first block is sent without a probe: log K nats for each label.
        total = torch.full((len(constant),), ends[0] * math.log(task.outputs), dtype=torch.float64, device=device)
        if len(before):
            parts = []
            for some in design.at_once(len(before), task.outputs):
                lengths, model = [], None
                for ridge in RIDGES if self.config.ridge == "auto" else (float(self.config.ridge),):
                    model = design.fit(task, before[some], design.ones * ridge, start=model)
                    lengths.append((task.row_loss(model.scores) * block[some]).sum(2))
                parts.append(torch.stack(lengths, dim=2))
            cost = torch.cat(parts, dim=1)  # (S, J, ridges)
            # Sender and receiver know what every ridge has cost so far and use the cheapest. On the first block none
            # has cost anything: there it is FIRST_RIDGE, or the only ridge.
            past = cost.cumsum(1) - cost
            past[:, 0, FIRST_RIDGE % cost.shape[2]] = -1.0  # less than the 0 of the others
            total = total + cost.gather(2, past.argmin(2, keepdim=True)).sum((1, 2))
        return {"code": total * (BITS_PER_NAT / samples)}

    def _reported_code(self, found: dict[str, Tensor], flags: Flags) -> dict[str, Quantity]:
        """Return the code length as a quantity; {} where it was not asked for."""
        if "code" not in found:
            return {}
        return report("prequential code length", found["code"], bound="upper", unit="bit/label", flags=flags)


class _NetworkCrossFit(_CrossFit):
    """A network on top of the linear probe of each fold."""

    @torch.inference_mode(False)  # networks are trained: tensors must take gradients
    def __init__(self, config: LinearProbe, given: Given) -> None:
        """Choose the rows that each fold's network is fitted to, and its seeds."""
        super().__init__(config, given)
        outside, validation = self._parts()
        self.fitted = outside & ~validation  # the rows that choose a step are not those that are read, nor these
        self.folds = Folds.of(self.fitted, validation, _NETWORK + config.folds * config.seed)

    def at_once(self) -> int:
        """Return that all snapshots are given to `chunk` at once."""
        return len(self.t)  # which `chunk` cuts into stacks

    def chunk(self, t: Tensor) -> dict[str, Tensor]:
        """Return the numbers of `_stack` for all snapshots (S, N, U), as many at a time as networks leave room for."""
        each = bytes_of_network(self.samples, self.units, max(self.task.outputs, 1), self.config.folds)
        return in_stacks(t, each, self._stack)

    def _stack(self, t: Tensor) -> dict[str, Tensor]:
        """Return bits (S, N) by networks on top of linear probes, "rows", "held out" and "gain", with flags and code.

        "held out" is by networks not fitted to the row, "gain" what that exceeds the linear probe by, and "rows" the
        mean of "held out" and of the bits by networks that were fitted to the row.
        """
        z, constant, design = self._designed(t)
        task, (outside, validation) = self.task, self._parts()
        found = {"constant": constant, **self._code(design, task, constant)}
        if task.outputs <= int(isinstance(task, Classes)):  # a single class, or no target that varies
            none = z.new_zeros(z.shape[:2])
            return found | {"doubtful": torch.zeros_like(constant), "rows": none, "held out": none, "gain": none}
        linear = self._linear(design, validation)
        scores, doubtful = network_scores(task, z, linear, self.folds)
        # What a fit loses on new rows and gains on its own cancels to first order: the value is their mean.
        held_out, own = task.pointwise(scores, ~outside), task.pointwise(scores, self.fitted)
        return found | {
            "doubtful": doubtful | task.overfitted(own.mean(1), held_out.mean(1)),
            "rows": 0.5 * (held_out + own),
            "held out": held_out,
            "gain": held_out - task.pointwise(linear, ~outside),
        }

    def _linear(self, design: _Design, validation: Tensor) -> Tensor:
        """Return the scores (S, F, K, N) of linear probes fitted to the rows that the networks are fitted to."""
        ridge, parts = self.config.ridge, []
        for some in design.at_once(self.config.folds, self.task.outputs):
            if ridge == "auto":
                fit = _choose_ridge(design, self.task, self.fitted[some], validation[some])[1]
            else:
                fit = design.fit(self.task, self.fitted[some], design.ones * ridge, tolerance=COARSE)
            parts.append(fit.scores)
        return torch.cat(parts, 1)

    def finish(self, found: dict[str, Tensor]) -> dict[str, Quantity]:
        """Return I(T;Y), its lower bound and the gain over the linear probe, with intervals and flags."""
        task = self.task
        flags = {**task.flags(found["constant"]), "unreliable": found["doubtful"]}
        if task.ceiling is not None:
            flags["saturated"] = found["rows"].mean(1) > task.ceiling - SATURATED

        def mean_of(name: str, key: str, bound: Bound, ceiling: Tensor | None) -> dict[str, Quantity]:
            """Return the quantity `name`: the mean over rows of the numbers `key` (S, N), with its 95 % interval."""
            rows = found[key]
            half = Z_95 * rows.std(1) / math.sqrt(self.samples)
            value = rows.mean(1)
            return report(name, value, half=half, bound=bound, ceiling=ceiling, flags=flags, estimand=NETWORK_ESTIMAND)

        return {
            **mean_of("I(T;Y)", "rows", "point", task.ceiling),
            **mean_of("I(T;Y) lower", "held out", task.bound, task.ceiling),
            **mean_of("gain over linear", "gain", "point", None),
            **self._reported_code(found, task.flags(found["constant"])),
        }


class _Design:
    """Principal coordinates of a block, with a column of ones behind them for the intercept."""

    def __init__(self, features: Tensor) -> None:
        """Turn features (S, N, M) into principal coordinates: `columns` (S, N, r + 1), `squares` (S, r + 1)."""
        coordinates, squares = principal_coordinates(features)
        self.samples = coordinates.shape[1]
        self.columns = torch.cat([coordinates, torch.ones_like(coordinates[:, :, :1])], dim=2)
        self.squares = torch.cat([squares, torch.full_like(squares[:, :1], self.samples)], dim=1)
        self.ones = coordinates.new_ones(1, 1)

    def at_once(self, subsets: int, outputs: int) -> Iterator[slice]:
        """Return slices of so many subsets whose scores fit `_SCORE_BYTES`: mostly one slice; more for many classes."""
        each = 64 * len(self.columns) * self.samples * max(outputs, 1)
        step = max(1, _SCORE_BYTES // each)
        return (slice(i, i + step) for i in range(0, subsets, step))

    def fit(
        self,
        loss: Loss,
        rows: Tensor,
        ridge: Tensor,
        *,
        start: Fit | None = None,
        active: Tensor | None = None,
        tolerance: float = TOLERANCE,
    ) -> Fit:
        """Return the fit to each subset `rows` (F, N) bool of each snapshot, with a `ridge` that broadcasts to (S, F).

        It begins at `start`, works only on the problems `active` (S, F), and ends within `tolerance` nats a row.
        """
        penalty = ridge[:, :, None, None].repeat(1, 1, 1, self.columns.shape[2])
        penalty[..., -1] = INTERCEPT_RIDGE
        return fit(self.columns, self.squares, loss, rows, penalty, start=start, active=active, tolerance=tolerance)


def _choose_ridge(design: _Design, task: Classes | Targets, rows: Tensor, validation: Tensor) -> tuple[Tensor, Fit]:
    """Return the ridge (S, F) at the first minimum of the validation loss, going from large to small, and its fits.

    Probes are fitted to `rows`, and their loss is summed over `validation`, (F, N) bool both.
    """
    kept = design.fit(task, rows, design.ones * RIDGES[0], tolerance=COARSE)
    best = (task.row_loss(kept.scores) * validation).sum(2)
    chosen, falling = torch.full_like(best, RIDGES[0]), torch.ones_like(best, dtype=torch.bool)
    for ridge in RIDGES[1:]:
        model = design.fit(task, rows, design.ones * ridge, start=kept, active=falling, tolerance=COARSE)
        score = (task.row_loss(model.scores) * validation).sum(2)
        falling = falling & (score < best)
        if not bool(falling.any()):
            break
        best = torch.where(falling, score, best)
        chosen = torch.where(falling, ridge, chosen)
        kept = model.where(falling, kept)
    return chosen, kept


def _fourier(z: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return centred random Fourier features (S, N, count) of `z` (S, N, U), for a Gaussian kernel of width 1."""
    # cos(w.z + b); as units have variance 1/U, the width is the root mean square radius of `z`.
    w = normal_numbers((z.shape[2], count), generator, z.device)
    b = 2 * math.pi * torch.rand(count, generator=generator, device="cpu", dtype=torch.float64).to(z.device)
    phi = torch.cos(z @ w + b) * math.sqrt(2.0 / count)
    return phi - phi.mean(1, keepdim=True)


preset("probe", "voita-titov-2020", code_length=True)
