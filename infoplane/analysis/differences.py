"""Is a quantity another on test than on train? Its difference between two parts of a probe, at equal N."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from infoplane.analysis.plan import RunPlan
from infoplane.analysis.source import LayerSteps, Refusal
from infoplane.analysis.subsets import not_of_labels, without_labels
from infoplane.analysis.tasks import LayerBlocks, Task, fields_of
from infoplane.core.records import Noise
from infoplane.core.steps import step_words
from infoplane.core.strict import canonical_json
from infoplane.estimators import (
    Estimator,
    Preparing,
    Quantity,
    assume_finite,
    config_json,
    interval_of_parts,
    without_null,
)
from infoplane.results import ResultTable, Row
from infoplane.store import ActivationStore

SUFFIX = " difference"
"""End of the names of quantities that are differences."""
Draw = list[Mapping[str, Quantity]]
"""The quantities on one random draw of inputs: those of the first side, then those of the second."""
LEAST_DRAWS, LEAST_INPUTS = 5, 8
"""Fewest random draws, and fewest inputs on each side, from which a spread is taken."""
_log = logging.getLogger("infoplane")


def difference(
    run: str | os.PathLike[str] | ActivationStore | Sequence[str | os.PathLike[str] | ActivationStore],
    estimators: Any = "binning",
    *,
    between: tuple[str, str] = ("train", "test"),
    layers: str | Sequence[str] | None = None,
    steps: Sequence[int] | None = None,
    device: str | torch.device | None = None,
    draws: int = 20,
    fraction: float = 0.5,
    seed: int = 0,
) -> ResultTable:
    """Every quantity on one part of the probe minus the same on another, at equal numbers of inputs.

    Bias and ceilings (log2 N, H(Y)) depend on N, so where the parts differ in N the larger one is thinned to the
    smaller, `draws` times, and the value is the mean. What an estimator finds over the run (edges, a scale) it finds on
    both parts together: T is the same for both.

    The interval is of drawing other inputs: the difference on random shares of the inputs, drawn without repetition,
    since the repeated rows of a bootstrap are ties that upset neighbours and counts. Inputs that both parts share are
    drawn together, so what they have in common is no part of the interval.

    How it misleads: equal N does not make equal bias where the parts differ in kind (more classes, a wider spread), and
    where both sides are saturated the difference is 0 whatever the network does (flags of either side stand). Two upper
    bounds subtracted are no bound. Compare with the difference before training: what is there already is of the data.

    Parameters
    ----------
    run : path, ActivationStore, or a sequence of these
    estimators : spec, instance, or a sequence of these
        As in `analyze`.
    between : (str, str)
        Two subsets without a common row: parts ("train", "test"), classes ("class=3"), or both.
    layers, steps, device : optional
        As in `analyze`.
    draws : int
        Thinned samples of the larger part, and parts for the interval; at least 5.
    fraction : float
        Share of the inputs in a part, 0.1 to 0.9.
    seed : int

    Returns
    -------
    ResultTable
        Rows "I(T;Y) difference" and so on, of subset "train-test", with the estimator's settings and the three above;
        `n_samples` are those of one side. Nothing is written to the run's own table.

    Raises
    ------
    ValueError
        For subsets that share rows or have fewer than 8 inputs, and where an estimator takes none of the layers.

    Notes
    -----
    One layer at one step costs up to 3 `draws` estimates, half of them on the smaller share.
    """
    from infoplane.analysis import build_estimators, device_of, open_runs

    if draws < LEAST_DRAWS or not 0.1 <= fraction <= 0.9:
        raise ValueError(f"draws must be at least {LEAST_DRAWS} and fraction from 0.1 to 0.9, got {draws}, {fraction}")
    drawing = {"draws": draws, "fraction": fraction, "seed": seed}
    where, built, stores = device_of(device), build_estimators(estimators), open_runs(run)
    rows: list[Row] = []
    refused: list[Refusal] = []
    for store in stores:
        plan = RunPlan(store, layers, between, steps)
        taken = [set(subset.rows(store.probe, repeats=True).tolist()) for subset in plan.subsets]
        if len(taken) != 2 or taken[0] & taken[1]:
            raise ValueError(f"between must name two subsets that share no row of the probe, got {between!r}")
        for estimator in map(without_null, built):
            for layer in (each.at(plan.steps) for each in plan.layers):
                sides = [LayerBlocks(Task(layer, subset, estimator, where, 1), store) for subset in plan.subsets]
                rows += _TwoParts(layer, sides, store, drawing).rows("-".join(between), estimator, refused)
    reasons = list(dict.fromkeys(one.reason for one in refused))
    if not rows:
        raise ValueError(f"nothing could be estimated: {'; '.join(reasons[:3]) or 'no layer has a snapshot'}")
    for reason in reasons:
        _log.warning("difference left out some layers or steps: %s", reason)
    return ResultTable.from_rows(rows, {"runs": {store.run_id: {"path": str(store.path)} for store in stores}})


class _TwoParts:
    """One layer on two subsets, the sides, whose quantities are subtracted; `prepare` reads the samples of both."""

    def __init__(self, layer: LayerSteps, sides: Sequence[LayerBlocks], store: ActivationStore, how: Any) -> None:
        """Count the inputs of both sides; ValueError where one has too few. `how` has `draws`, `fraction`, `seed`."""
        self.layer, self.sides, self.store, self.how = layer, sides, store, how
        self.draws, self.fraction, self.seed = how["draws"], how["fraction"], how["seed"]
        self.noise: Noise | None = sides[0].noise
        self.passes = sides[0].passes
        found = [torch.unique(side.x_ids, return_inverse=True) for side in sides]
        self.inputs = [len(ids) for ids, _ in found]
        self.size = min(self.inputs)
        if self.size < LEAST_INPUTS:
            raise ValueError(f"a difference needs at least {LEAST_INPUTS} inputs on both sides, got {self.inputs}")

    def __iter__(self) -> Iterator[Tensor]:
        """Yield blocks (S, N1 + N2, U) with the samples of both subsets, for `prepare`."""
        for one, two in zip(*self.sides, strict=True):
            yield torch.cat([one, two], dim=1)

    def rows(self, subset: str, estimator: Estimator, refused: list[Refusal]) -> list[Row]:
        """Return a row for each step and quantity; what could not be estimated goes to `refused`.

        `subset` is what the table calls the two sides, "train-test".
        """
        layer = self.layer
        if bad := sorted(layer.bad.intersection(layer.steps)):
            refused.append(Refusal(tuple(bad), f"{layer.name} has NaN or infinite values at {step_words(bad)}"))
        try:
            if isinstance(estimator, Preparing):
                x = None if self.sides[0].x is None else torch.cat([side.x for side in self.sides])  # type: ignore[misc]
                estimator = estimator.prepare(self, torch.cat([side.y for side in self.sides]), x)
        except ValueError as error:
            refused.append(Refusal(layer.steps, str(error)))
            return []
        settings = json.loads(config_json(estimator)) | {f"difference_{k}": v for k, v in self.how.items()}
        record = self.store.layer(layer.layer)
        same: dict[str, Any] = {"run": layer.run, "layer": layer.name, "depth": record.depth, "subset": subset}
        same |= {"estimator": estimator.name, "config": canonical_json(settings, "settings").decode()}
        unlabelled, sources, out = without_labels(self.store.probe, record, layer.token), dict(layer.keys), list[Row]()
        # Each piece is of one step: `one` (1, N1, U) and `two` (1, N2, U).
        for (steps, one, _), (_, two, _) in zip(*(side.pieces(refused) for side in self.sides), strict=True):
            try:
                found = self.quantities(estimator, one, two)
            except ValueError as error:
                refused.append(Refusal(tuple(steps), str(error)))
                continue
            found = not_of_labels(found) if unlabelled else found
            (fields,) = fields_of(found, 1, one.shape[2])
            same |= {"step": steps[0], "epoch": self.store.epoch(steps[0]), "source": sources[steps[0]]}
            out += [Row(**same, n_samples=self.size, **field) for field in fields]
        return out

    def quantities(self, estimator: Estimator, one: Tensor, two: Tensor) -> dict[str, Quantity]:
        """Return the difference of each quantity that both sides have at one step, with its interval.

        `one` and `two` are the activations of the two sides, (1, N, U) each.
        """
        generator = torch.Generator(device="cpu").manual_seed(self.seed)
        part = max(4, round(self.fraction * self.size))
        # The larger side is thinned at random to the size of the smaller, so the mean of many draws is taken.
        thinned = self.draws if self.inputs[0] != self.inputs[1] else 1
        whole: list[Draw] = []
        for _ in range(thinned):
            whole.append(self._drawn(estimator, (one, two), self.size, generator, whole))
        parts = [self._drawn(estimator, (one, two), part, generator) for _ in range(self.draws)]
        # The spread over parts is scaled by this to that of the whole: see `interval_of_parts`.
        odds = part / (self.size - part)
        return {
            name + SUFFIX: interval_of_parts(_mean(name, whole), _values(name, parts), odds)
            for name in whole[0][0]
            if all(name in side for draw in whole + parts for side in draw)
        }

    def _drawn(
        self,
        estimator: Estimator,
        values: Sequence[Tensor],
        size: int,
        generator: torch.Generator,
        before: Sequence[Draw] = (),
    ) -> Draw:
        """Return the quantities of both sides, each on `size` random inputs; `values` are their (1, N, U).

        A side that is taken whole is the same in each draw: its quantities are those of `before[0]`, where there is
        such an earlier draw.
        """
        ids = torch.unique(torch.cat([side.x_ids for side in self.sides]))
        # One random order for both sides: an input on both is drawn early on both, or late on both.
        order = torch.randperm(len(ids), generator=generator, device="cpu").to(ids.device)
        out: Draw = []
        for i, (side, t) in enumerate(zip(self.sides, values, strict=True)):
            if before and size == self.inputs[i]:
                out.append(before[0][i])
                continue
            side_ids, input_of_row = torch.unique(side.x_ids, return_inverse=True)
            places = order[torch.searchsorted(ids, side_ids)]  # the place of each of this side's inputs in that order
            drawn = places <= places.sort().values[size - 1]  # the `size` first
            rows = drawn[input_of_row].nonzero()[:, 0]
            x = None if side.x is None else side.x[rows]
            with assume_finite():
                out.append(estimator.estimate(t[:, rows], side.y[rows], x=x, x_ids=side.x_ids[rows]))
        return out


def _values(name: str, draws: Sequence[Draw]) -> Tensor:
    """The differences (draws, 1) of a quantity: the first side minus the second."""
    return torch.stack([one[name].value - two[name].value for one, two in draws]).to(torch.float64)


def _mean(name: str, draws: Sequence[Draw]) -> Quantity:
    """The mean difference of a quantity, with every flag that either side has in any draw."""
    first = draws[0][0][name]
    flags: dict[str, Tensor] = {}
    for side in (side for draw in draws for side in draw):
        for flag, raised in side[name].flags.items():
            flags[flag] = flags.get(flag, torch.zeros_like(raised)) | raised
    value = _values(name, draws).mean(dim=0)
    return replace(first, value=value, low=None, high=None, ceiling=None, bound="point", flags=flags)
