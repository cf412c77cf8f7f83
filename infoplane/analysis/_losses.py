"""What an analysis could not use of a run: for the table, so that figures say it, and for the screen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from infoplane.core.steps import step_words
from infoplane.core.text import printable
from infoplane.store import ActivationStore, Problem

MOST = 10


def losses(store: ActivationStore, found: Iterable[tuple[str, Problem]]) -> list[dict[str, Any]]:
    """What is missing or damaged, as JSON: `file`, `what`, `steps`, and `layer` where one alone is concerned.

    `found` is what reading the layers has found, in this process or in another one.
    """
    layers: dict[tuple[str, str], str] = {(p.file, p.what): layer for layer, p in found}
    steps: dict[tuple[str, str], set[int]] = {}
    for problem in [*store.lost, *(p for _, p in found)]:
        steps.setdefault((problem.file, problem.what), set()).update(problem.steps)
    return [
        {"file": file, "what": what, "steps": sorted(gone), "layer": layers.get((file, what), "")}
        for (file, what), gone in steps.items()
    ]


def words_of_losses(store: ActivationStore, lost: Sequence[dict[str, Any]], layers: Sequence[str]) -> Iterator[str]:
    """One line for each thing that is lost, then for each layer that was not recorded at every step."""
    for loss in lost[:MOST]:
        yield str(Problem(loss["file"], loss["what"], tuple(loss["steps"])))
    if len(lost) > MOST:
        yield f"{len(lost) - MOST} more are missing or damaged; `infoplane verify` names all of them"
    said = {(loss["file"], loss["what"]) for loss in lost}
    others = [p for p in (*store.problems, *store.unrecorded) if (p.file, p.what) not in said]
    yield from map(str, others[:MOST])
    if len(others) > MOST:
        yield f"{len(others) - MOST} more remarks; `infoplane verify` has all of them"
    spoken = {step for problem in store.unrecorded for step in problem.steps}
    absent = {layer: _absent(store, layer, spoken) for layer in layers}
    known = [(layer, steps) for layer, steps in absent.items() if steps]
    for layer, steps in known[:MOST]:
        yield f"note: layer {printable(layer)} was not called, or not asked for, at {step_words(steps)}"
    if len(known) > MOST:
        yield f"note: {len(known) - MOST} more layers were not recorded at some of the steps"


def _absent(store: ActivationStore, layer: str, spoken: set[int]) -> list[int]:
    """Steps with a whole snapshot that does not hold the layer, but those of which the recorder has `spoken`."""
    have = spoken.union(store.steps(layer))
    return [step for step in store.steps() if step not in have and store.why(layer, step) is None]
