"""Similarity of the layers or the steps of a recorded run, or of two runs on the same probe, as rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, Unpack

import numpy as np

from infoplane.core.errors import closest
from infoplane.core.globs import across_parts, name_matches
from infoplane.core.records import Array, Layer, Probe
from infoplane.core.steps import step_words
from infoplane.diagnostics._place import Place, finite_float64
from infoplane.diagnostics.similarity import SimilarityOptions, similarity_matrix
from infoplane.results import ResultTable

Pairs = list[tuple[str, int]]
"""Layers and steps that are compared: layers at one step, or steps of one layer."""


class RecordedRun(Protocol):
    """The part of a run that is read here; `infoplane.open_run` gives such a run."""

    run_id: str
    path: Path
    settings: dict[str, Any]
    probe: Probe

    @property
    def layers(self) -> tuple[Layer, ...]: ...
    def layer(self, key: str, step: int | None = None) -> Layer: ...
    def steps(self, key: str | None = None) -> list[int]: ...
    def epoch(self, step: int) -> float: ...
    def read(self, key: str, steps: Sequence[int]) -> Array: ...


def run_similarity(
    run: RecordedRun,
    against: RecordedRun | None = None,
    *,
    layers: str | Sequence[str] | None = None,
    steps: int | Sequence[int] | None = None,
    **options: Unpack[SimilarityOptions],
) -> ResultTable:
    """Similarity of every two layers of a run at one step, or of every two steps of one layer, or of two runs.

    A single layer is compared over its steps; several layers are compared at one step, by default the last. With
    `against`, layers (or steps) of `run` are compared with those of the other run, whose probe must have the same
    sample ids in the same order; its labels are not read.

    Parameters
    ----------
    run, against : from `infoplane.open_run`
    layers : str or sequence of str, optional
        Names or globs; by default all.
    steps : int or sequence of int, optional
        By default all steps of a single layer, or the last step that all of several layers have.
    **options
        Options of `similarity`; `labels` are by default those of the probe.

    Returns
    -------
    ResultTable
        The rows of `Similarity.rows`; the partner is a layer ("fc2"), a step ("step=900"), or one of these in the other
        run ("fc2@run=...").

    Raises
    ------
    ValueError
        Nothing matches, several layers at several steps, steps that are not recorded, another probe, or as in
        `similarity`.

    Examples
    --------
    >>> table = run_similarity(infoplane.open_run("runs/digits"))                     # doctest: +SKIP
    >>> infoplane.plots.similarity(table)                                             # doctest: +SKIP
    """
    own = _chosen(run, layers, steps)
    names, others = _names(own), None
    if against is not None:
        if not np.array_equal(run.probe.sample_ids, against.probe.sample_ids):
            raise ValueError(
                f"runs {run.run_id} and {against.run_id} have other probes: their sample ids differ, so rows do not "
                "belong together; record both with the same inputs in the same order"
            )
        other = _chosen(against, layers, steps)
        names, others = [f"{name}@run={against.run_id}" for name in _names(other)], _arrays(against, other)
    if options.get("within") == "class":
        options.setdefault("labels", run.probe.labels)
    found = similarity_matrix(_arrays(run, own), others, **options)
    places = [
        Place(run=run.run_id, step=step, epoch=run.epoch(step), layer=key, depth=run.layer(key, step).depth)
        for key, step in own
    ]
    named = {one.run_id: {"path": str(one.path), "settings": one.settings} for one in (run, against) if one is not None}
    return ResultTable.from_rows(found.rows(places, names), {"runs": named})


def _chosen(run: RecordedRun, layers: str | Sequence[str] | None, steps: int | Sequence[int] | None) -> Pairs:
    """Return the layers and steps that the caller named, in the order of the forward pass and as the steps were given.

    ValueError for steps that not all layers have, or for several layers at several steps.
    """
    keys = _keys(run, [layers] if isinstance(layers, str) else layers)
    common = sorted(set.intersection(*(set(run.steps(key)) for key in keys)))
    if not common:
        raise ValueError(f"run {run.run_id} has no step with all of {', '.join(keys[:6])}; name fewer layers")
    usual = common if len(keys) == 1 else common[-1:]
    wanted = usual if steps is None else [steps] if isinstance(steps, int | np.integer) else list(steps)
    missing = [step for step in wanted if step not in common]
    if missing or not wanted:
        raise ValueError(f"steps must be of {step_words(common)}, got {step_words(missing) if missing else 'none'}")
    if len(keys) > 1 and len(wanted) > 1:
        raise ValueError(f"{len(keys)} layers at {len(wanted)} steps: name one layer, or one step")
    return [(key, int(step)) for key in keys for step in wanted]


def _arrays(run: RecordedRun, pairs: Pairs) -> Iterator[Array]:
    """Yield the activations (N, ...) of each layer and step, read only when they are asked for."""
    for key, step in pairs:
        values = _floats(run.read(key, [step])[0], run.layer(key, step))
        yield finite_float64(values, f"{key} at step {step} of run {run.run_id} has", "values")


def _names(pairs: Pairs) -> list[str]:
    """Return names for the column `partner`: layers, or the steps where there is one layer at several steps."""
    by_step = len({key for key, _ in pairs}) == 1 and len(pairs) > 1
    return [f"step={step}" if by_step else key for key, step in pairs]


def _keys(run: RecordedRun, wanted: Sequence[str] | None) -> list[str]:
    """Return the layers that match the names or globs, in forward order; all of them for None."""
    known = [layer.key for layer in run.layers]
    found = set(known if wanted is None else ())
    for pattern in wanted or ():
        hits = {pattern} if pattern in known else {key for key in known if name_matches(key, pattern)}
        if not hits:
            near = ", ".join(closest(pattern, known)) + across_parts(pattern, known)
            raise ValueError(f"no layer of run {run.run_id} matches {pattern!r}; closest: {near}")
        found |= hits
    if not found:
        raise ValueError("layers must name at least one layer, got none; leave it out for all")
    return [key for key in known if key in found]


def _floats(values: Array, layer: Layer) -> Array:
    """Return the stored values of a layer as floats that numpy knows; ValueError for float8."""
    # bfloat16 is stored as 16 bits, the upper half of a float32.
    if layer.dtype == "bfloat16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    if layer.dtype.startswith("float8"):
        raise ValueError(f"layer {layer.key!r} holds {layer.dtype}, which numpy cannot read; record it as float16")
    return values
