"""The order of an analysis: what is asked of each run, which tasks that takes, and what became of them."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from infoplane.analysis.index import CONDITIONAL, Content, Estimate, TableIndex, open_table
from infoplane.analysis.pairs import Pairs, refusal
from infoplane.analysis.record import (
    ADVICE,
    RECORDED,
    describe_estimators,
    losses,
    recorded_rows,
    run_meta,
    words_of_losses,
)
from infoplane.analysis.source import LayerSteps, Names, Refusal, at_token, bad_steps, choose_layers, contents
from infoplane.analysis.subsets import ClassMean, Subset, resolve, wants_repeats, without_labels
from infoplane.analysis.tasks import Outcome, Prepared, Task, estimate, opened, prepare, run_task
from infoplane.analysis.workers import done
from infoplane.core.files import fingerprint
from infoplane.core.steps import step_words
from infoplane.estimators import Estimator, Preparing, config_json
from infoplane.results import ResultTable, Row, csv_path
from infoplane.store import ActivationStore, Problem

if TYPE_CHECKING:
    from tqdm import tqdm

MAX_BLOCK_SNAPSHOTS = 256
"""A stop loses at most the block in hand, so a block is not made larger than this even where it would fit."""

_ABOUT = ("layer", "subset", "estimator", "settings", "reason")
"""Fields of what the meta says of a refusal, beside its steps."""
_log = logging.getLogger("infoplane")


class RunPlan:
    """One run within an analysis: what is to be estimated on it, and what was estimated.

    `order` are the numbers of the rows of the result. `described` says whether the recorded metrics are among them,
    `estimated` whether any estimates are.
    """

    index: TableIndex

    def __init__(
        self, store: ActivationStore, layers: Names | None, subsets: Names, steps: Any, pairs: Pairs | None = None
    ) -> None:
        """Resolve layers, subsets, steps and pairs of one run; ValueError for any that the run does not have."""
        if not store.steps():
            problems = "; ".join(map(str, store.problems[:3]))
            raise ValueError(f"{store.path} has no complete snapshot{': ' + problems if problems else ''}")
        self.store, known = store, store.steps()
        self.steps = frozenset(known if steps is None else map(int, steps))
        if unknown := sorted(self.steps.difference(known)):
            raise ValueError(f"{store.path} has no snapshot of {step_words(unknown)}; it has {step_words(known)}")
        self.subsets, self.means = resolve(subsets, store.probe)
        self.path = os.path.abspath(store.path)  # noqa: PTH100 - keeps symbolic links as the user wrote them
        self.other = store if pairs is None or pairs.other is None else pairs.other
        if pairs is None:
            self.layers = _layer_steps(store, self.path, choose_layers(store, layers))
        else:
            self.layers = pairs.layer_steps(store, self.path, layers, self.subsets)
        self.order: list[int] = []
        self.described = self.estimated = False
        self.refusals: dict[tuple[str, ...], list[int]] = {}  # what `_ABOUT` names -> steps
        self.damages: list[tuple[str, Problem]] = []  # (layer, what took a step away)
        self._held = ExitStack()

    def work(self, estimators: Iterable[Estimator]) -> float:
        """Return the number of values that all estimates would read, as the total of the progress bar."""
        plans = [LayerPlan(self, layer, e) for e in estimators for layer in self.layers]
        return sum(plan.work(subset, plan.layer) for plan in plans for subset in self.subsets)

    def begin(self, estimators: Iterable[Estimator], shared: TableIndex | None) -> None:
        """Open the run's own table, unless there is one for all, and let the tasks of this process use its stores."""
        with ExitStack() as held:
            self.index = shared or TableIndex(held.enter_context(open_table(csv_path(self.store.path))))
            for each in self.layers:
                held.enter_context(opened(each.path, each.fingerprint, self.store))
                if each.partner is not None:
                    held.enter_context(opened(each.partner.path, each.partner.fingerprint, self.other))
            self.describe(estimators)
            self._held = held.pop_all()

    def table(self) -> ResultTable:
        """The rows of this request."""
        return self.index.table(sorted(set(self.order)))

    def describe(self, estimators: Iterable[Estimator]) -> None:
        """Put layers, labels, settings and versions into the table's meta; what was skipped before stays."""
        meta = self.index.writer.meta
        known = meta.setdefault("runs", {}).get(self.store.run_id, {})
        kept = {"skipped": [], "lost": []} | {key: known[key] for key in ("skipped", "lost", ADVICE) if key in known}
        meta["runs"][self.store.run_id] = run_meta(self.store, self.index.writer.path) | kept
        describe_estimators(meta, estimators)

    def refuse(self, layer: LayerSteps, subset: Subset, estimator: Estimator, refusal: Refusal) -> None:
        """Note what could not be estimated, and log it; damage is logged at the end, once for all estimators."""
        about = (layer.title, subset.name, estimator.name, config_json(estimator), refusal.reason)
        self.damages += [(layer.layer, damage) for damage in refusal.damages]
        if about not in self.refusals and not refusal.damages:
            _log.warning("%s skipped layer %s, subset %s: %s", estimator.name, layer.title, subset.name, refusal.reason)
        self.refusals.setdefault(about, []).extend(refusal.steps)

    def end(self, estimators: Iterable[Estimator]) -> None:
        """Put refusals and losses into the table's meta, then close the table and let go of the stores.

        They replace those that earlier analyses noted of the same estimates, or of the same layers; others stay.
        """
        with self._held:
            entry = self.index.writer.meta["runs"][self.store.run_id]
            pairs = {(e.name, config_json(e)) for e in estimators}
            asked = {(la.title, subset.name, *pair) for la in self.layers for subset in self.subsets for pair in pairs}
            kept = [r for r in entry["skipped"] if tuple(r[name] for name in _ABOUT[:4]) not in asked]
            refused = [dict(zip(_ABOUT, about, strict=True)) | {"steps": s} for about, s in self.refusals.items()]
            entry["skipped"] = kept + refused
            layers = {each.layer for each in self.layers}
            kept = [loss for loss in entry.get("lost", []) if loss["layer"] and loss["layer"] not in layers]
            entry["problems"] = [str(problem) for problem in self.store.problems]
            entry["lost"] = kept + losses(self.store, self.damages)
            for line in words_of_losses(self.store, entry["lost"], sorted(layers)):
                _log.warning("%s: %s", self.path, line)

    def take(self, key: Estimate, contents: Iterable[Content]) -> None:
        """Make the rows of these steps a part of the result."""
        for content in contents:
            numbers = self.index.numbers(key, content).values()
            self.order += numbers
            self.estimated |= bool(numbers) and key.estimator != RECORDED

    def write_recorded(self) -> None:
        """Put the recorded metrics into the table, and into the result."""
        rows = recorded_rows(self.store)
        self.index.add(rows)
        for r in {(r.layer, r.step, r.source): r for r in rows}.values():
            self.take(Estimate(r.run, r.layer, r.subset, r.estimator, r.config), [(r.step, r.source)])


def _layer_steps(store: ActivationStore, path: str, places: Sequence[tuple[str, int | None]]) -> list[LayerSteps]:
    """Return each of these (layer, token) at all steps that have it, with the steps at which it is not finite.

    Layers that no step has are left out. `path` is what the result calls the run.
    """
    found = contents(store, dict(places))
    mark = fingerprint(repr(found).encode())  # by which a process tells this state of the run from others
    steps = [LayerSteps(path, mark, store.run_id, key, found[key], token=token) for key, token in places if found[key]]
    return [replace(each, bad=bad_steps(store, each.layer, each.token, labelled=True)) for each in steps]


class LayerPlan:
    """One estimator on one layer: prepared once for each part of the probe, then estimated block by block.

    `sizes` are the samples and units of one snapshot on each subset, `chunk` the snapshots that a block must have.
    """

    def __init__(self, run: RunPlan, layer: LayerSteps, estimator: Estimator) -> None:
        """Count samples and units of each subset, and see whether a snapshot's value depends on others of its block."""
        self.run, self.layer, self.estimator = run, layer, estimator
        self.ready: dict[Subset, Future[Prepared]] = {}
        probe = run.store.probe
        self.repeats = wants_repeats(estimator, probe)
        whole, token = run.store.layer(layer.layer), layer.token
        units = at_token(whole, token).units
        self.unlabelled = without_labels(probe, whole, token)
        if layer.partner is not None:  # which stands where labels are
            units += at_token(run.other.layer(layer.partner.layer), layer.partner.token).units
            self.unlabelled, token = "", None
        wanted = {*run.subsets, *(subset.base for subset in run.subsets)}
        rows = {subset: subset.rows(probe, repeats=self.repeats, token=token) for subset in wanted}
        self.sizes = {subset: (len(found), units) for subset, found in rows.items()}
        # Where a value depends on the other snapshots of its block, the block must be the same in each analysis: a new
        # one begins every `chunk` snapshots and is estimated whole. `chunk` is None where each value depends on its own
        # snapshot alone; so it does in pairs, which are estimated one at a time, each with its own second array.
        independent = "blocks" in estimator.guarantees or layer.partner is not None
        self.chunk = None if independent else int(getattr(estimator, "chunk", None) or 1)

    def key(self, subset: Subset, config: str) -> Estimate:
        """Return the part of the key that the estimator's rows on this subset have in common at all steps."""
        layer = self.layer
        return Estimate(layer.run, layer.name, subset.name, self.estimator.name, config, layer.partner_name)

    def work(self, subset: Subset, layer: LayerSteps) -> float:
        """Return the number of values to be read, by which progress is measured: tasks differ much in size."""
        samples, units = self.sizes[subset]
        return float(len(layer.keys)) * samples * units

    def need(self, subset: Subset) -> int:
        """Return the bytes that one snapshot takes, as the estimator says; at least 1, since they are divided by."""
        return max(1, int(self.estimator.bytes_per_snapshot(*self.sizes[subset])))

    def write(self, subset: Subset, key: Estimate, block: LayerSteps, arriving: Future[Outcome] | None) -> None:
        """Add the rows that were estimated, and take all rows of the block into the result.

        `arriving` is the task that estimates them, or None where the table has all of them already.
        """
        if arriving is not None:
            outcome = arriving.result()
            self.run.index.add(outcome.rows)
            for refusal in outcome.refused:
                self.run.refuse(self.layer, subset, self.estimator, refusal)
        self.run.take(key, block.keys)


@dataclass(eq=False)
class Piece:
    """The next rows of the table in order: `write` puts them there once the result `arriving` is there.

    `work` is the number of values that they take, for the progress bar, and `what` the words that it shows. The piece
    that is `last` marks the end of a run and writes nothing.
    """

    write: Callable[[], None] | None = None
    arriving: Future[Outcome] | None = None
    work: float = 0.0
    what: str = ""
    last: bool = False


class Analysis:
    """Keeps tasks in flight, up to `window` of them, and writes their rows in the order of runs, estimators, layers."""

    def __init__(self, device: str, block_bytes: int, executor: Executor, window: int, bar: tqdm[Any]) -> None:
        self.device, self.block_bytes, self.memory = device, block_bytes, device_memory(device)
        self.executor, self.window, self.bar = executor, window, bar

    def run(self, runs: Iterable[RunPlan], estimators: list[Estimator], shared: TableIndex | None) -> Iterator[RunPlan]:
        """Estimate what is missing and write it; yield each run when that is done.

        `shared` is the table of all runs, None for one in each run. ValueError at the end if nothing was estimated.
        """
        begun: deque[RunPlan] = deque()
        in_flight: deque[Piece] = deque()
        any_estimated, reasons = False, dict[str, None]()
        try:
            for _ in self._ends(self._pieces(self._pending(runs, estimators, shared, begun)), in_flight):
                run = begun.popleft()
                run.end(estimators)
                any_estimated |= run.estimated
                reasons |= dict.fromkeys(reason for *_, reason in run.refusals)
                yield run
        finally:
            for piece in in_flight:
                if piece.arriving is not None:
                    piece.arriving.cancel()
            for run in begun:
                run.end(estimators)
        if not any_estimated:
            raise ValueError(f"nothing could be estimated: {'; '.join(list(reasons)[:3]) or 'no layer has a snapshot'}")

    def _pending(
        self, runs: Iterable[RunPlan], estimators: list[Estimator], shared: TableIndex | None, begun: deque[RunPlan]
    ) -> Iterator[LayerPlan | None]:
        """Open each run in turn and append it to `begun`; yield its plans in order, then None for its end."""
        for run in runs:
            run.begin(estimators, shared)
            begun.append(run)
            yield from [LayerPlan(run, layer, e) for e in estimators for layer in run.layers]
            yield None

    def _ends(self, pieces: Iterable[Piece], in_flight: deque[Piece]) -> Iterator[None]:
        """Keep pieces in flight and write them in order; yield each time that a run has ended."""
        for piece in pieces:
            in_flight.append(piece)
            yield from self._written(in_flight, self.window - 1)
        yield from self._written(in_flight, 0)

    def _written(self, in_flight: deque[Piece], allowed: int) -> Iterator[None]:
        """Write the first pieces, waiting while more than `allowed` are in flight; yield where a run ends."""
        while in_flight:
            head = in_flight[0]
            if len(in_flight) <= allowed and head.arriving is not None and not head.arriving.done():
                return  # its result is not there yet, and there is room for more tasks
            if head.write is not None:
                head.write()
            in_flight.popleft()
            if head.what:
                self.bar.set_postfix_str(head.what, refresh=False)
            self.bar.update(head.work)
            if head.last:
                yield

    def _pieces(self, pending: Iterable[LayerPlan | None]) -> Iterator[Piece]:
        """Yield all rows as pieces, in order; a task is submitted when its piece is asked for, not before."""
        for plan in self._prepared(pending):
            if plan is None:
                yield Piece(last=True)
                continue
            if not plan.run.described:
                plan.run.described = True
                yield Piece(plan.run.write_recorded)
            for subset in plan.run.subsets:
                yield from self._blocks(plan, subset)
            for mean in plan.run.means:
                ready = plan.ready[mean.base].result()
                if ready.refusal is None:
                    yield Piece(partial(_write_mean, plan, mean, plan.key(mean.base, ready.config)))

    # Preparing

    def _prepared(self, pending: Iterable[LayerPlan | None]) -> Iterator[LayerPlan | None]:
        """Yield the plans in order; `prepare` has begun for `window` of them when the first is given out."""
        ahead: deque[LayerPlan | None] = deque()
        for plan in pending:
            if plan is not None:
                for base in dict.fromkeys(subset.base for subset in plan.run.subsets):
                    plan.ready[base] = self._begin(plan, base)
            ahead.append(plan)
            if len(ahead) == self.window:
                yield ahead.popleft()
        yield from ahead

    def _begin(self, plan: LayerPlan, base: Subset) -> Future[Prepared]:
        """Submit `prepare` on the samples of `base`, which has all classes, and return the future of its result.

        It is done already where nothing can be estimated, the estimator has no `prepare`, or the table has all rows.
        """
        config = config_json(plan.estimator)
        if reason := self._obstacle(plan, base):
            return done(Prepared(config, refusal=Refusal(plan.layer.steps, reason)))
        if not isinstance(plan.estimator, Preparing):
            return done(Prepared(config, plan.estimator))
        names = [subset.name for subset in plan.run.subsets if subset.base == base]
        known = plan.run.index.known_config(plan.key(base, config), names, plan.layer)
        if known is not None:
            return done(Prepared(known))
        task = Task(plan.layer, base, plan.estimator, self.device, self._fitting(plan, base))
        return self.executor.submit(run_task, prepare, task)

    def _obstacle(self, plan: LayerPlan, base: Subset) -> str | None:
        """Why nothing can be estimated: the pair says nothing, no sample has a label, or memory is too small."""
        if plan.layer.partner is not None:
            if why := refusal(plan.layer.at(plan.run.steps), plan.estimator, plan.run.store, plan.run.other):
                return why
        elif not plan.sizes[base][0] and plan.layer.token is not None:
            return f"no sample has a label at position {plan.layer.token}"
        together = plan.chunk or 1
        need = together * plan.need(base)
        if need <= self.memory:
            return None
        what = f"{together} snapshots at once need" if together > 1 else "one snapshot needs"
        has = f"the {self.device.partition(':')[0]} device has {self.memory:,}"
        return f"{what} {need:,} bytes, {has}; record fewer samples or reduce the layer"

    # Estimating

    def _fitting(self, plan: LayerPlan, subset: Subset) -> int:
        """Return how many snapshots fit into a block: by sizes alone, so that each analysis cuts the same blocks."""
        return max(1, min(MAX_BLOCK_SNAPSHOTS, self.block_bytes // plan.need(subset)))

    def _blocks(self, plan: LayerPlan, subset: Subset) -> Iterator[Piece]:
        """Yield the rows of one subset, block by block; only steps that the table lacks become tasks."""
        ready = plan.ready[subset.base].result()
        if ready.refusal is not None:
            self.bar.total -= plan.work(subset, plan.layer)
            plan.run.refuse(plan.layer, subset, plan.estimator, ready.refusal)
            return
        if plan.unlabelled:
            asked_for = plan.layer.at(plan.run.steps).steps
            plan.run.refuse(plan.layer, subset, plan.estimator, Refusal(asked_for, plan.unlabelled))
        key = plan.key(subset, ready.config)
        size = plan.chunk or self._fitting(plan, subset)
        for whole in plan.layer.blocks(size):
            asked = whole.at(plan.run.steps)
            # Where a value depends on its whole block, all of it is estimated if any of its steps is asked for.
            block = whole if plan.chunk is not None and asked.keys else asked
            missing = plan.run.index.missing(key, block, whole=plan.chunk is not None)
            self.bar.total -= plan.work(subset, whole) - plan.work(subset, missing)  # the rest needs no work
            arriving: Future[Outcome] | None = None
            if missing.keys:
                assert ready.estimator is not None  # None means that the table has all rows
                task = Task(missing, subset, ready.estimator, self.device, size)
                arriving = self.executor.submit(run_task, estimate, task)
            write = partial(plan.write, subset, key, asked, arriving)
            yield Piece(write, arriving, plan.work(subset, missing), f"{plan.estimator.name} {plan.layer.title}")


def _write_mean(plan: LayerPlan, mean: ClassMean, key: Estimate) -> None:
    """Add rows of sum_y p(y) I(X;T|Y=y) to the table, and their numbers to the result of the request."""
    index = plan.run.index
    rows = list(_class_means(plan, mean, key))
    index.add(rows)
    plan.run.order += [index.numbers(key, (row.step, row.source))[row.quantity] for row in rows]


def _class_means(plan: LayerPlan, mean: ClassMean, key: Estimate) -> Iterator[Row]:
    """Yield rows of the mean over classes of each I(X;T), at each step where every class has it.

    A mean that the estimator returns itself is left out. `key` is that of the rows on `mean.base`.
    """
    index = plan.run.index
    weights = mean.weights(plan.run.store.probe, repeats=plan.repeats)
    classes = [key._replace(subset=subset.name) for subset in mean.classes]
    contents = plan.layer.keys
    quantities = {name for content in contents for name in index.numbers(classes[0], content)}
    returned = {name for name in quantities if name.startswith(CONDITIONAL)}  # means from the estimator itself
    for content in contents:
        numbers = [index.numbers(each, content) for each in classes]
        for name in numbers[0]:
            conditioned = name.replace("I(X;T)", CONDITIONAL, 1)
            information = name == "I(X;T)" or name.startswith("I(X;T) ")  # or a bound, as "I(X;T) lower"
            if information and conditioned not in returned and all(name in found for found in numbers):
                rows = [index.row(found[name]) for found in numbers]
                yield rows[0]._replace(
                    subset=mean.base.name,
                    quantity=conditioned,
                    n_samples=sum(r.n_samples for r in rows),
                    value=sum(w * r.value for w, r in zip(weights, rows, strict=True)),
                    ceiling=sum(w * r.ceiling for w, r in zip(weights, rows, strict=True)),
                    low=float("nan"),
                    high=float("nan"),
                    flags=";".join(sorted({flag for r in rows for flag in r.flags.split(";") if flag})),
                )


def device_memory(device: str) -> int:
    """Return the bytes of memory that the device has in all, used or not."""
    if device.startswith("cuda"):
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
