"""What a study keeps of each run: its hyper-parameters, metrics, gaps, and summaries of its curves."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from infoplane.core.about import Scalar, plain_about
from infoplane.core.errors import closest
from infoplane.core.records import FloatArray
from infoplane.core.text import printable
from infoplane.results import Curve, ResultTable
from infoplane.results.losses import losses
from infoplane.results.overview import named_way, settings_words
from infoplane.results.summary import at_common_steps, compression
from infoplane.results.views import default_layers, match_layers, metric_group, metrics, of_layers, ordered_layers

By = Literal["name", "depth", "role"]
Moment = Literal["final", "best"]
Pair = tuple[str, str] | None
"""Names of the held-out metric and the training metric whose difference is the gap."""
Timed = tuple[FloatArray, FloatArray]
"""Steps and values."""
Recorded = Mapping[str, Timed]

SUMMARIES = {"final": "", "max": "", "max_step": "step", "fall": "", "fall_share": "1", "area": ""}
"""Names of the summaries of a curve, with their unit where that is not the unit of the curve."""
WORDS = {"max_step": "step of max", "fall_share": "fall / max"}
"""Plain words for summaries whose names a reader would have to look up."""
_TRAIN = frozenset({"train", "training"})
"""Words for training rows in names of metrics."""
_HELD_OUT = ("test", "val", "valid", "validation", "eval", "dev", "held", "heldout")
"""Words for held-out rows in names of metrics: the gap takes the first that was recorded, the best step the last."""
_BESIDE = (" null", " lower", " upper")
"""Ends of the names of nulls and bounds, which stand beside another quantity."""


@dataclass(frozen=True)
class Measure:
    """What a column of a study holds for each run: one summary of one curve.

    Attributes
    ----------
    layer : str
        The name of the layer, or its place from the end.
    subset, estimator, settings, quantity : str
        As in the results table; `settings` is canonical JSON.
    summary : str
        "final", "max", "max_step", "fall", "fall_share" or "area".
    unit : str
    """

    layer: str
    subset: str
    estimator: str
    settings: str
    quantity: str
    summary: str
    unit: str

    @property
    def way(self) -> str:
        """How the curve was estimated, in words: `binning, n_bins = 30 (test)`."""
        return named_way(self.estimator, settings_words(self.settings), self.subset)

    @property
    def what(self) -> str:
        """The summary in words: `fall`, `step of max`."""
        return WORDS.get(self.summary, self.summary)


@dataclass(eq=False)
class OfRun:
    """What is kept of one run.

    Attributes
    ----------
    run : str
    place : dict
        The part of the table's meta that names the run.
    about : dict
        Hyper-parameters.
    metrics : dict
        Numbers such as `train loss_final`, `train loss_best`, `gap`, `error_gap`, `gap_step`.
    gaps : dict
        What each gap is the difference of, in words.
    values : dict of Measure to float
    flags : dict of Measure to set of str
        The flags of the values that the summary was made of.
    lost : bool
        Whether steps are missing or damaged.
    """

    run: str
    place: dict[str, Any]
    about: dict[str, Scalar]
    metrics: dict[str, float] = field(default_factory=dict)
    gaps: dict[str, str] = field(default_factory=dict)
    values: dict[Measure, float] = field(default_factory=dict)
    flags: dict[Measure, frozenset[str]] = field(default_factory=dict)
    lost: bool = False


def runs_of(table: ResultTable) -> Iterator[ResultTable]:
    """Yield the rows of each run as a table of its own."""
    runs = list(dict.fromkeys(table.run.tolist()))
    for run in runs:
        yield table if len(runs) == 1 else table.take(table.run == run)


def ends_of(recorded: Recorded) -> dict[str, float]:
    """Return the last value of each metric (`NAME_final`), and the best of losses, errors, accuracies (`NAME_best`)."""
    out = {}
    for name, (_, values) in recorded.items():
        kind = kind_of(name)
        if values.size:
            out[f"{name}_final"] = float(values[-1])
        if kind and np.isfinite(values).any():
            out[f"{name}_best"] = float((np.nanmin if kind != "accuracy" else np.nanmax)(values))
    return out


def kind_of(name: str) -> str:
    """Return the kind of a metric by its name: "loss", "accuracy", "error", or "" for any other.

    Of others it is not known whether large or small values are better.
    """
    group = metric_group(name)
    return group if group in ("loss", "accuracy") else "error" if "err" in name.lower() else ""


def sides_of(names: Iterable[str], kind: str) -> dict[str, dict[tuple[str, ...], str]]:
    """Return the metrics of a kind by the data that they are of: {"test": {("loss",): "test loss"}, "train": ...}.

    The words in a metric's name say which data these are; the inner keys are its other words.
    """
    found: dict[str, dict[tuple[str, ...], str]] = {}
    for name in names:
        if kind_of(name) == kind:
            words = re.findall(r"[a-z0-9]+", name.lower())
            # A metric without a word for held-out data, such as "loss", is one of training.
            rows = next((word for word in words if word in _HELD_OUT), "train")
            rest = tuple(word for word in words if word not in (*_TRAIN, *_HELD_OUT))
            found.setdefault(rows, {}).setdefault(rest, name)
    return found


def pair_of(names: Iterable[str], kind: str) -> Pair:
    """Return (held-out, training) metric of a kind, None where one is missing; ValueError where several pairs fit."""
    # A pair agrees in all words but those for the data: "test loss" and "train loss".
    sides = sides_of(names, kind)
    train = sides.get("train", {})
    for side in _HELD_OUT:
        pairs = [(held, train[rest]) for rest, held in sides.get(side, {}).items() if rest in train]
        if len(pairs) > 1:
            words = "; ".join(f"{held!r} and {train!r}" for held, train in pairs)
            raise ValueError(f"several pairs fit a gap of {kind}: {words}; choose with gap=(held-out, train)")
        if pairs:
            return pairs[0]
    return None


def best_step(recorded: Recorded) -> float:
    """Return the step with the best value of a held-out metric; NaN where none was recorded.

    That is the least loss, else the least error, else the largest accuracy; of each, validation goes before test.
    """
    for kind in ("loss", "error", "accuracy"):
        sides = sides_of(recorded, kind)
        for side in reversed(_HELD_OUT):  # validation rows before test rows
            for name in sides.get(side, {}).values():
                steps, values = recorded[name]
                if np.isfinite(values).any():
                    best = np.nanargmax if kind == "accuracy" else np.nanargmin
                    return float(steps[best(values)])
    return math.nan


def gaps_of(recorded: Recorded, at: Moment, gap: Pair) -> tuple[dict[str, float], dict[str, str]]:
    """Return the gaps of a run at one step: their numbers by name, and in words what each is the difference of.

    Names are "gap", "error_gap" and "gap_step". `gap` names the two metrics; with None they are found by their names.
    ValueError where `gap` names a metric that was not recorded, or several pairs fit.
    """
    if gap is not None and (missing := [name for name in gap if name not in recorded]):
        near = ", ".join(closest(missing[0], recorded)) or "none"
        raise ValueError(f"no recorded metric {printable(missing[0])!r}; closest: {near}")
    kinds = ("loss", "error", "accuracy") if gap is None else (kind_of(gap[0]),)
    numbers: dict[str, float] = {}
    words: dict[str, str] = {}
    for kind in kinds:
        pair = pair_of(recorded, kind) if gap is None else gap
        name = "error_gap" if kind in ("error", "accuracy") else "gap"
        if pair is not None and name not in numbers:
            numbers |= _difference(name, [recorded[each] for each in pair], at, recorded, flip=kind == "accuracy")
            first, second = reversed(pair) if kind == "accuracy" else pair
            words[name] = f"{first} - {second}, {'final' if at == 'final' else 'at the best held-out step'}"
    return numbers, words


def _difference(name: str, pair: Sequence[Timed], at: Moment, recorded: Recorded, *, flip: bool) -> dict[str, float]:
    """Return {name: held-out minus training metric, "gap_step": step} at the last or the best step, as `at` says.

    `pair` has steps and values of both metrics. With `flip` the difference is training minus held-out: of accuracies,
    this is the gap of the errors. It is NaN where the two metrics were not both recorded at the step.
    """
    steps, values = at_common_steps([steps for steps, _ in pair], [values for _, values in pair])
    if not steps.size:
        return {name: math.nan}
    step = steps[-1] if at == "final" else best_step(recorded)
    here = np.flatnonzero(steps == step)
    if not here.size:
        return {name: math.nan, "gap_step": step}
    held, train = values[:, here[0]]
    return {name: float(train - held if flip else held - train), "gap_step": float(step)}


def labels_of(rows: ResultTable, by: By, wanted: Sequence[str] | None) -> dict[str, str]:
    """Return {layer: its name in a study} for the `wanted` layers, by default those that figures show.

    The name is its own, or its place from the end among these layers ("layer -1") or among those of its role
    ("activation -1", "output").
    """
    shown = match_layers(wanted, ordered_layers(rows)) if wanted else default_layers(rows)
    if by == "name":
        return {layer: layer for layer in shown}
    about = rows.meta.get("runs", {}).get(str(rows.run[0]), {}).get("layers", ())
    roles = {str(one.get("key")): str(one.get("role")) for one in about} if by == "role" else {}
    role = [roles.get(layer, "layer") for layer in shown]
    places = [f"{name} -{role[i:].count(name)}" for i, name in enumerate(role)]
    # The last output is called "output", without a number, since most networks have only one.
    return {layer: "output" if place == "output -1" else place for layer, place in zip(shown, places, strict=True)}


def curves_of(table: ResultTable, by: By, layers: Sequence[str] | None, select: Mapping[str, Any]) -> Iterator[Curve]:
    """Yield the curves of a run that a study summarises, each with the name that its layer has in the study.

    `select` chooses estimator, quantity and subset; by default all estimators, the subset "all" if there is one, and
    all quantities but nulls and bounds.
    """
    rows = of_layers(table)
    rows = rows.select(**{name: value for name, value in select.items() if value is not None})
    if select.get("subset") is None and "all" in set(rows.subset.tolist()):
        rows = rows.select(subset="all")
    if select.get("quantity") is None:
        rows = rows.take(np.array([not q.endswith(_BESIDE) for q in rows.quantity.tolist()], dtype=bool))
    if len(rows):
        names = labels_of(rows, by, layers)
        for curve in rows.curves("*", subset="*"):
            if curve.layer in names:
                yield replace(curve, layer=names[curve.layer])


def summaries_of(curve: Curve) -> dict[str, float]:
    """Return {name of a summary: its value}, over the finite values of a curve; {} where it has none."""
    known = np.isfinite(curve.value)
    if not known.any():
        return {}
    step, value = curve.step[known].astype(np.float64), curve.value[known]
    top, time, score = int(np.argmax(value)), np.log1p(step), compression(step, value)
    wide = time[-1] > time[0]
    # The area is the mean of the curve over log(1 + step), by the trapezoid rule.
    return {
        "final": float(value[-1]),
        "max": float(value[top]),
        "max_step": float(step[top]),
        "fall": score.fall,
        "fall_share": score.share,
        "area": float(np.trapezoid(value, time) / (time[-1] - time[0])) if wide else float(value[-1]),
    }


def read_run(table: ResultTable, *, by: By, layers: Sequence[str] | None, at: Moment, gap: Pair, **rows: Any) -> OfRun:
    """Return what a study keeps of the only run in `table`; `rows` are choices of its rows, as `select` in `curves_of`.

    ValueError or TypeError where its hyper-parameters are malformed, or `gap` or `layers` do not fit.
    """
    # The meta of a table comes from a file, and any part of it may be missing.
    run = str(table.run[0])
    known = table.meta.get("runs")
    entry = known.get(run) if isinstance(known, Mapping) else None
    about = entry if isinstance(entry, Mapping) else {}
    settings = about["settings"] if isinstance(about.get("settings"), Mapping) else {}
    said = settings.get("about")
    recorded = metrics(table, run=run)
    gaps, words = gaps_of(recorded, at, gap)
    found = OfRun(
        run=run,
        place={"path": about.get("path"), "settings": {"name": settings.get("name")}},
        about=plain_about({} if said is None else said),
        metrics={**ends_of(recorded), **gaps},
        gaps=words,
        lost=bool(losses(table)),
    )
    for curve in curves_of(table, by, layers, rows):
        last = np.flatnonzero(np.isfinite(curve.value))[-1:]
        flags = [frozenset(";".join(texts).split(";")) - {""} for texts in (curve.flags.tolist(), curve.flags[last])]
        for summary, value in summaries_of(curve).items():
            what = (curve.layer, curve.subset, curve.estimator, curve.settings, curve.quantity, summary)
            measure = Measure(*what, SUMMARIES[summary] or curve.unit)
            found.values[measure] = value
            # `final` has the flags of the last value only, other summaries those of all values.
            found.flags[measure] = flags[summary == "final"]
    return found
