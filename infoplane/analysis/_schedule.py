"""The order of an analysis: what is planned, in flight, written, and what was refused."""

from __future__ import annotations

import itertools
import logging
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any

from infoplane.analysis._index import CONDITIONAL, Group, TableIndex
from infoplane.analysis._losses import losses, words_of_losses
from infoplane.analysis._positions import choose_layers
from infoplane.analysis._progress import Progress
from infoplane.analysis._reading import Refusal, bad_at
from infoplane.analysis._record import RECORDED, estimator_meta, recorded_rows, run_meta, versions
from infoplane.analysis._request import device_memory
from infoplane.analysis._subsets import Conditional, Subset, resolve, wants_repeats
from infoplane.analysis._tasks import Outcome, Source, Task, run_estimate, run_prepare
from infoplane.core import files
from infoplane.core.tokens import split_token
from infoplane.estimators import config_json
from infoplane.results import Row
from infoplane.store import ActivationStore, Problem

MAX_BLOCK_SNAPSHOTS = 256
"""A stop loses at most the block in hand, so a block is not made larger than this even where it would fit."""

_log = logging.getLogger("infoplane")


@dataclass(eq=False)
class RunWork:
    """One run within an analysis: what is to be estimated on, and what was."""

    store: ActivationStore
    path: str
    fingerprint: str
    sources: list[Source]
    subsets: list[Subset]
    conditionals: list[Conditional]
    index: TableIndex = field(init=False)
    order: list[int] = field(default_factory=list)
    refusals: list[dict[str, Any]] = field(default_factory=list)
    damages: list[tuple[str, Problem]] = field(default_factory=list)
    estimated: bool = False

    @classmethod
    def plan(
        cls,
        store: ActivationStore,
        layers: str | Sequence[str] | None,
        subsets: str | Sequence[str],
    ) -> RunWork:
        if not store.steps():
            problems = "; ".join(map(str, store.problems[:3]))
            raise ValueError(f"{store.path} has no complete snapshot{': ' + problems if problems else ''}")
        chosen, conditionals = resolve([subsets] if isinstance(subsets, str) else subsets, store.probe)
        places = choose_layers(store, layers)
        content = {key: [(s, store.source(key, s)) for s in store.steps(key)] for key in dict(places)}
        bad = {key: frozenset(s for s, _ in found if store.nonfinite(key, s)) for key, found in content.items()}
        fingerprint = files.fingerprint(repr(content).encode())
        path = os.path.abspath(store.path)  # noqa: PTH100 - keeps symbolic links as the user wrote them
        sources = [
            Source(
                path=path,
                fingerprint=fingerprint,
                run=store.run_id,
                layer=key,
                steps=tuple(s for s, _ in content[key]),
                digests=tuple(d for _, d in content[key]),
                bad=bad[key] if token is None else bad_at(store, key, bad[key], token),
                token=token,
            )
            for key, token in places
            if content[key]
        ]
        return cls(store, path, fingerprint, sources, chosen, conditionals)

    def describe(self, estimators: Iterable[Any]) -> None:
        """Put layers, labels, settings and versions into the table's meta; what was skipped before stays."""
        meta = self.index.writer.meta
        known = meta.setdefault("runs", {}).get(self.store.run_id, {})
        kept = {name: known.get(name, []) for name in ("skipped", "lost")}
        meta["runs"][self.store.run_id] = run_meta(self.store, self.index.writer.path) | kept
        meta.setdefault("estimators", {}).update(estimator_meta(estimators))
        meta["versions"] = versions()
        meta["infoplane"] = meta["versions"]["infoplane"]

    def note_refusals(self, estimators: Iterable[Any]) -> None:
        """Replace what earlier analyses noted about the same estimates."""
        asked = {
            (source.name, subset.name, e.name, config_json(e))
            for source in self.sources
            for subset in self.subsets
            for e in estimators
        }
        entry = self.index.writer.meta["runs"][self.store.run_id]
        old = [r for r in entry["skipped"] if (r["layer"], r["subset"], r["estimator"], r["settings"]) not in asked]
        entry["skipped"] = old + self.refusals

    def note_losses(self) -> None:
        """Put what is missing or damaged into the table's meta, and say it; what reading has found included."""
        entry = self.index.writer.meta["runs"][self.store.run_id]
        asked = {source.layer for source in self.sources}
        kept = [loss for loss in entry.get("lost", []) if loss["layer"] and loss["layer"] not in asked]
        entry["problems"] = [str(problem) for problem in self.store.problems]
        entry["lost"] = kept + losses(self.store, self.damages)
        for line in words_of_losses(self.store, entry["lost"], sorted(asked)):
            _log.warning("%s: %s", self.path, line)

    def refuse(self, layer: str, subset: Subset, estimator: Any, refusal: Refusal) -> None:
        about = {
            "layer": layer,
            "subset": subset.name,
            "estimator": estimator.name,
            "settings": config_json(estimator),
            "reason": refusal.reason,
        }
        self.damages += [(split_token(layer)[0], damage) for damage in refusal.damages]
        for known in self.refusals:
            if all(known[k] == v for k, v in about.items()):
                known["steps"] += refusal.steps
                return
        self.refusals.append({**about, "steps": list(refusal.steps)})
        if refusal.damages:  # said at the end, once for all estimators and subsets
            return
        _log.warning("%s skipped layer %s, subset %s: %s", estimator.name, layer, subset.name, refusal.reason)

    def take(self, group: Group, keys: Iterable[tuple[int, str]]) -> None:
        """Put the rows of these steps into the result."""
        for key in keys:
            numbers = self.index.numbers(group, key).values()
            self.order += numbers
            self.estimated |= bool(numbers) and group.estimator != RECORDED


@dataclass(frozen=True)
class Ready:
    """An estimator as it goes into tasks: its recorded config, and itself unless everything is done already."""

    config: str
    estimator: Any = None
    refusal: Refusal | None = None


@dataclass(eq=False)
class LayerJob:
    """One estimator on one layer: prepared once for each surrounding subset, then estimated block by block."""

    run: RunWork
    source: Source
    estimator: Any
    ready: dict[Subset, Ready | Future[Any]] = field(default_factory=dict)

    def group(self, subset: Subset, config: str) -> Group:
        return Group(self.source.run, self.source.name, subset.name, self.estimator.name, config)


@dataclass(eq=False)
class Step:
    """The next thing to happen in order: rows of a task arrive, are found, or are derived."""

    job: LayerJob
    group: Group
    subset: Subset
    source: Source
    work: float
    outcome: Future[Outcome] | None = None
    conditional: Conditional | None = None


class Schedule:
    """Keeps tasks in flight and writes their rows in order."""

    def __init__(
        self, estimators: list[Any], device: str, block_bytes: int, executor: Executor, window: int, shown: Progress
    ) -> None:
        self.estimators, self.device, self.block_bytes = estimators, device, block_bytes
        self.executor, self.window, self.shown = executor, window, shown
        self.memory = device_memory(device)
        self.queue: deque[Step] = deque()

    def go(self, runs: list[RunWork]) -> None:
        jobs = [LayerJob(run, source, e) for run in runs for e in self.estimators for source in run.sources]
        for job in jobs:
            self.shown.plan(sum(self._work(job, subset, job.source.steps) for subset in job.run.subsets))
        ahead: deque[LayerJob] = deque()
        todo = iter(jobs)
        described: set[int] = set()
        try:
            while True:
                for job in itertools.islice(todo, self.window - len(ahead)):
                    self._prepare(job)
                    ahead.append(job)
                if not ahead:
                    break
                job = ahead.popleft()
                if id(job.run) not in described:
                    self._drain(0)
                    described.add(id(job.run))
                    self._recorded(job.run)
                for step in self._steps(job):
                    self.queue.append(step)
                    self._drain(self.window - 1)
            self._drain(0)
        finally:
            for step in self.queue:
                if step.outcome is not None:
                    step.outcome.cancel()

    # Planning

    def _sizes(self, job: LayerJob, subset: Subset) -> tuple[int, int]:
        rows = subset.rows(job.run.store.probe, repeats=wants_repeats(job.estimator, job.run.store.probe))
        return len(rows), job.source.record(job.run.store).units

    def _work(self, job: LayerJob, subset: Subset, steps: Sequence[int]) -> float:
        samples, units = self._sizes(job, subset)
        return float(len(steps)) * samples * units

    def _block(self, job: LayerJob, subset: Subset) -> int:
        """Snapshots of one block; depends on sizes alone, never on what is done or on who does it."""
        samples, units = self._sizes(job, subset)
        need = int(job.estimator.bytes_per_snapshot(samples, units))
        return max(1, min(MAX_BLOCK_SNAPSHOTS, self.block_bytes // max(need, 1)))

    def _task(self, job: LayerJob, subset: Subset, estimator: Any, source: Source) -> Task:
        return Task(source, subset, estimator, self.device, self._block(job, subset))

    def _prepare(self, job: LayerJob) -> None:
        """Start what `prepare` has to find on each surrounding subset, unless all that needs it is done."""
        config = config_json(job.estimator)
        for base in dict.fromkeys(subset.base for subset in job.run.subsets):
            too_much = self._too_large(job, base)
            names = [s.name for s in job.run.subsets if s.base == base]
            known = job.run.index.known_config(job.group(Subset(), config)._replace(subset=names[0]), names, job.source)
            if too_much is not None:
                job.ready[base] = Ready(config, refusal=too_much)
            elif not hasattr(job.estimator, "prepare"):
                job.ready[base] = Ready(config, job.estimator)
            elif known is not None:
                job.ready[base] = Ready(known)
            else:
                job.ready[base] = self.executor.submit(run_prepare, self._task(job, base, job.estimator, job.source))

    def _too_large(self, job: LayerJob, base: Subset) -> Refusal | None:
        need = int(job.estimator.bytes_per_snapshot(*self._sizes(job, base)))
        if need <= self.memory:
            return None
        return Refusal(
            job.source.steps,
            f"one snapshot needs {need:,} bytes, the {self.device.partition(':')[0]} device has {self.memory:,}; "
            "record fewer samples or reduce the layer",
        )

    def _ready(self, job: LayerJob, base: Subset) -> Ready:
        ready = job.ready[base]
        if not isinstance(ready, Ready):
            found = ready.result()
            config = config_json(job.estimator)
            ready = Ready(config, refusal=found) if isinstance(found, Refusal) else Ready(config_json(found), found)
            job.ready[base] = ready
        return ready

    def _steps(self, job: LayerJob) -> Iterator[Step]:
        for subset in job.run.subsets:
            ready = self._ready(job, subset.base)
            if ready.refusal is not None:
                self.shown.skip(self._work(job, subset, job.source.steps))
                job.run.refuse(job.source.name, subset, job.estimator, ready.refusal)
                continue
            group = job.group(subset, ready.config)
            size = self._block(job, subset)
            for i in range(0, len(job.source.steps), size):
                block = job.source.part(job.source.steps[i : i + size])
                whole = "blocks" not in job.estimator.guarantees
                missing = job.run.index.missing(group, block, whole=whole)
                self.shown.skip(self._work(job, subset, block.steps) - self._work(job, subset, missing))
                step = Step(job, group, subset, block, self._work(job, subset, missing))
                if missing:
                    task = self._task(job, subset, ready.estimator, block.part(missing))
                    step.outcome = self.executor.submit(run_estimate, task)
                yield step
        for conditional in job.run.conditionals:
            ready = self._ready(job, conditional.base)
            if ready.refusal is None:
                group = job.group(conditional.base, ready.config)
                yield Step(job, group, conditional.base, job.source, 0.0, conditional=conditional)

    # Writing

    def _recorded(self, run: RunWork) -> None:
        rows = recorded_rows(run.store)
        run.index.add(rows)
        for group, key in dict.fromkeys(
            (Group(r.run, r.layer, r.subset, r.estimator, r.config), (r.step, r.source)) for r in rows
        ):
            run.take(group, [key])

    def _drain(self, allowed: int) -> None:
        """Write what has arrived at the head of the queue; wait for it while more than `allowed` are in it."""
        while self.queue:
            head = self.queue[0]
            if len(self.queue) <= allowed and head.outcome is not None and not head.outcome.done():
                return
            self._write(head)
            self.queue.popleft()

    def _write(self, step: Step) -> None:
        run, job = step.job.run, step.job
        if step.conditional is not None:
            derived = list(_derive(step, step.conditional))
            run.index.add(derived)
            for row in derived:
                run.order.append(run.index.numbers(step.group, (row.step, row.source))[row.quantity])
            return
        if step.outcome is not None:
            outcome = step.outcome.result()
            run.index.add(outcome.rows)
            for refusal in outcome.refused:
                run.refuse(job.source.name, step.subset, job.estimator, refusal)
            self.shown.done(step.work, f"{job.estimator.name} {job.source.name}")
        run.take(step.group, step.source.keys)


def _derive(step: Step, conditional: Conditional) -> Iterator[Row]:
    """sum_y p(y) I(X;T|Y=y) for every step at which each class has a row; nothing for what the estimator returns."""
    index = step.job.run.index
    groups = [step.group._replace(subset=c.name) for c in conditional.classes]
    probe = step.job.run.store.probe
    weights = conditional.weights(probe, repeats=wants_repeats(step.job.estimator, probe))
    own = {name for key in step.source.keys for name in index.numbers(groups[0], key) if name.startswith(CONDITIONAL)}
    for key in step.source.keys:
        numbers = [index.numbers(group, key) for group in groups]
        for name in numbers[0]:
            conditioned = name.replace("I(X;T)", CONDITIONAL, 1)
            if not (name == "I(X;T)" or name.startswith("I(X;T) ")) or conditioned in own:
                continue
            if not all(name in found for found in numbers):
                continue
            rows = [index.row(found[name]) for found in numbers]
            yield rows[0]._replace(
                subset=conditional.base.name,
                quantity=conditioned,
                n_samples=sum(r.n_samples for r in rows),
                value=sum(w * r.value for w, r in zip(weights, rows, strict=True)),
                ceiling=sum(w * r.ceiling for w, r in zip(weights, rows, strict=True)),
                low=float("nan"),
                high=float("nan"),
                flags=";".join(sorted({flag for r in rows for flag in r.flags.split(";") if flag})),
            )
