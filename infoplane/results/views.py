"""From a results table to the one series that a figure or a report shows: which run, estimator, settings, layers.

A figure that mixed two estimators or two subsets would be read as one; so where the table leaves a choice
and the caller made none, the error names what there is to choose from.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, TypedDict, Unpack

import numpy as np
import numpy.typing as npt

from infoplane.core.brief import Brief
from infoplane.core.errors import closest
from infoplane.core.globs import across_parts
from infoplane.core.records import BoolArray, FloatArray, IntArray
from infoplane.core.tokens import layer_matches, split_token, token_position
from infoplane.core.units import BIT
from infoplane.results._csv import COLUMNS, by_value
from infoplane.results.branches import MARKS, by_method
from infoplane.results.names import PAIR, pair_name, run_names, runs_called
from infoplane.results.overview import advice_words as advice_words
from infoplane.results.overview import settings_words as settings_words
from infoplane.results.overview import unlabelled_words, words_of
from infoplane.results.table import ResultTable
from infoplane.results.trajectories import MISSING, POINT, DataProcessing, Grid, Plane, groups, pair

RECORDED = "recorded"
"""The estimator of rows that hold training metrics."""


class Selection(TypedDict, total=False):
    """What to show where a table has several: the keywords of `choose`, and of every figure.

    Keys
    ----
    estimator : str
        A name, with settings after a colon if wished: "binning" or "binning:n_bins=30".
    settings : mapping or str
        Settings that the rows must have: {"n_bins": 30} or "n_bins=30".
    run, subset : str
        A run by its name, its path or its id. Without `subset`, "all" is taken where the table has it.
    layers : sequence of str
        Names or globs. By default the outputs of activation modules and the model's output, where the
        table's meta tells the roles, else all.
    against : {"step", "epoch"}
        The time that a figure shows. With "epoch", snapshots without one are left out and counted: the one
        before training, and all where the loop counted none.
    """

    estimator: str | None
    settings: Mapping[str, Any] | str | None
    run: str | None
    subset: str | None
    layers: Sequence[str] | None
    against: Literal["step", "epoch"]


@dataclass(frozen=True, eq=False)
class Series(Brief):
    """Rows of one estimator, one set of settings and one subset, of one run unless several were allowed.

    Attributes
    ----------
    table : ResultTable
        The rows, without the recorded metrics.
    runs : list of str
    layers : list of str
        Chosen layers, in the order of the forward pass.
    estimator, settings, subset : str
        `settings` is canonical JSON.
    against : {"step", "epoch"}
    whole : ResultTable
        The table that was chosen from, current rows only.
    left_out : int
        Snapshots without the time that was asked for.
    hidden : list of str
        Layers that have rows and are not shown, since nobody chose layers.
    """

    table: ResultTable
    runs: list[str]
    layers: list[str]
    estimator: str
    settings: str
    subset: str
    against: str
    whole: ResultTable
    left_out: int = 0
    hidden: Sequence[str] = ()

    @cached_property
    def _names(self) -> dict[str, str]:
        """{id: name} of all runs of the table."""
        return run_names(self.whole)

    def name(self, run: str) -> str:
        """Return the name of a run, given its id."""
        return self._names[run]

    @cached_property
    def steps(self) -> FloatArray:
        """(S,): the steps at which any quantity has a row, so that all grids of a series have the same steps."""
        return np.unique(self.table["step"]).astype(np.float64)

    @cached_property
    def epochs(self) -> FloatArray:
        """(S,): the epochs at these steps."""
        return _filled(self.steps.shape, np.searchsorted(self.steps, self.table["step"]), self.table["epoch"])

    @property
    def times(self) -> FloatArray:
        """(S,): the steps or the epochs, as `against` says."""
        return self.steps if self.against == "step" else self.epochs

    @property
    def n_samples(self) -> list[int]:
        """The numbers of samples met in the rows, ascending."""
        return [int(n) for n in np.unique(self.table["n_samples"])]

    @property
    def layers_of_runs(self) -> dict[str, list[str]]:
        """The chosen layers that each run has."""
        rows = set(zip(self.table["run"].tolist(), self.table["layer"].tolist(), strict=True))
        return {run: [layer for layer in self.layers if (run, layer) in rows] for run in self.runs}

    @property
    def words(self) -> list[str]:
        """The settings that change what a number means, and the std of the network's own noise."""
        return words_of(self.settings, self.table["config"].tolist())

    @property
    def unlabelled(self) -> list[str]:
        """Words on samples left out since they have no label at a position, as a list; [] where all have labels."""
        return unlabelled_words(self.table, self.subset, self.runs)

    @property
    def quantities(self) -> list[str]:
        """The names of what the estimator gave, in the order of the table."""
        return list(dict.fromkeys(self.table["quantity"].tolist()))

    def by_method(self, *quantities: str) -> dict[str, list[str]]:
        """Return {words for methods: the layers with these}, as `branches.by_method`; by default for all quantities."""
        return by_method(self.table, quantities or None)

    def marks(self, *quantities: str) -> dict[str, str]:
        """Return {layer: mark} for the layers where another method than for most layers gave these quantities."""
        others = list(self.by_method(*quantities).values())[1:]
        return {layer: mark for mark, layers in zip(MARKS, others, strict=False) for layer in layers}

    def method_words(self, *quantities: str) -> list[str]:
        """Return ["by flow; † by knn"], the methods and their marks for a caption; [] where no method was chosen."""
        methods = [words if " by " in words else f"by {words}" for words in self.by_method(*quantities)]
        # The method of most layers comes first, and has no mark.
        parts = [f"{mark} {words}".strip() for mark, words in zip(f" {MARKS}", methods, strict=False)]
        return ["; ".join(parts)] if parts else []

    def of_run(self, run: str, layers: Sequence[str] | None = None) -> Series:
        """Return the series of one of its runs; with `layers`, only these, given in the order of the forward pass."""
        rows = self.table.take(is_in(self.table["run"], [run]))
        if layers is None:
            return replace(self, table=rows, runs=[run])
        return replace(self, table=rows.take(is_in(rows["layer"], layers)), runs=[run], layers=list(layers))

    def grid(self, quantity: str) -> Grid:
        """Return one quantity of the only run as arrays (steps, layers).

        Raises
        ------
        ValueError
            There are several runs or quantities, or the rows have several units.
        """
        if not isinstance(quantity, str):
            raise ValueError(f"this figure takes one quantity, got {', '.join(quantity) or 'none'}")
        if len(self.runs) != 1:
            raise ValueError(f"a grid holds one run, got {len(self.runs)}: {', '.join(map(self.name, self.runs))}")
        rows = self.table.take(is_in(self.table["quantity"], [quantity]))
        units = {str(u) for u in rows["unit"] if u}
        if len(units) > 1:
            raise ValueError(f"{quantity} has several units in this table: {', '.join(sorted(units))}")
        shape, at = self._cells(rows)
        names = sorted({name for flags in set(rows["flags"]) for name in flags.split(";") if name})
        numbers: dict[str, Any] = {c: _filled(shape, at, rows[c]) for c in ("value", "low", "high", "ceiling")}
        return Grid(
            **numbers,
            quantity=quantity,
            steps=self.steps,
            epochs=self.epochs,
            times=self.times,
            layers=list(self.layers),
            flags={name: _filled(shape, at, rows.flag(name), False) for name in names},
            bounds=frozenset(str(b) for b in set(rows["bound"]) if b),
            estimands=frozenset(str(e) for e in set(rows["estimand"]) if e),
            unit=next(iter(units), BIT),
            n_samples=self.n_samples,
            real_targets=self.table.meta.get("runs", {}).get(self.runs[0], {}).get("target") == "continuous",
        )

    def plane(self) -> Plane:
        """Return the points of the plane of the only run, as arrays (steps, layers)."""
        points = pair(self.table)
        shape, at = self._cells(points)
        columns: dict[str, npt.NDArray[Any]] = {name: getattr(points, name) for name in POINT}
        filled: dict[str, Any] = {n: _filled(shape, at, c, MISSING[c.dtype.kind]) for n, c in columns.items()}
        return Plane(**filled, layers=list(self.layers), steps=self.steps, times=self.times)

    def _cells(self, rows: ResultTable | Plane) -> tuple[tuple[int, int], tuple[IntArray, IntArray]]:
        """Return the shape (S, L) of a grid, and for each row the indices of its step and its layer, both (rows,)."""
        place = {layer: i for i, layer in enumerate(self.layers)}
        columns = by_value(rows.layer.tolist(), place.__getitem__, np.int64)
        return (self.steps.size, len(place)), (np.searchsorted(self.steps, rows.step), columns)

    def dpi(self) -> list[DataProcessing]:
        """Return what `ResultTable.dpi` counts for this estimate and these runs, over all layers, chosen or not."""
        same = {"estimator": [self.estimator], "settings": [self.settings], "subset": [self.subset], "run": self.runs}
        rows = np.logical_and.reduce([is_in(self.whole[name], values) for name, values in same.items()])
        return self.whole.take(rows).dpi()

    def metrics(self) -> dict[str, tuple[FloatArray, FloatArray]]:
        """Return {name: (times, values)} of the metrics recorded for the model in the first run, in step order."""
        return metrics(self.whole, run=self.runs[0], against=self.against)


def choose(
    table: ResultTable,
    *,
    several_runs: bool = False,
    quantity: Sequence[str] | None = None,
    shows: Sequence[str] | str | None = None,
    **select: Unpack[Selection],
) -> Series:
    """Narrow a table to the one series that a figure or a report shows: all of them read tables by this function.

    Parameters
    ----------
    several_runs : bool
        Whether several runs may stay.
    quantity : sequence of str, optional
        Leave all other quantities aside; layers and steps are then those of these quantities.
    shows : str or sequence of str, optional
        What the figure is to show. Pairs of layers are left out unless one of these is a quantity of pairs: then each
        pair stands as a layer of its own name.
    **select
        See `Selection`. With estimator="recorded" the metrics that were recorded for layers or parameters are chosen.

    Returns
    -------
    Series
        `series.grid("I(X;T)")` has the arrays.

    Raises
    ------
    ValueError
        If nothing is left, or more than one estimator, setting, run or subset: the line names them.
    """
    whole = _with_pairs(table, shows).current()
    run, subset, layers = select.get("run"), select.get("subset"), select.get("layers")
    against = select.get("against", "step")
    rows = of_layers(whole, recorded=select.get("estimator") == RECORDED)
    if quantity is not None:
        rows = rows.take(is_in(rows["quantity"], quantity))
    _refuse_pairs_alone(rows, whole, (select.get("estimator") or "").partition(":")[0])
    rows, wanted = _of_estimator(rows, select)
    rows = _only(rows, "estimator")
    if run is not None or not several_runs:
        rows = _one_run(rows, run)
    if subset is None and "all" in set(rows["subset"]):
        subset = "all"
    rows = _only(rows, "subset", subset)
    rows = _one_setting(rows, wanted)
    rows, left_out = with_times(rows, against)
    known = ordered_layers(rows)
    keys = default_layers(rows) if not layers else match_layers(layers, known)
    rows = rows.take(is_in(rows["layer"], keys))
    return Series(
        table=rows,
        runs=list(dict.fromkeys(rows["run"])),
        layers=keys,
        estimator=str(rows["estimator"][0]),
        settings=str(rows["settings"][0]),
        subset=str(rows["subset"][0]),
        against=against,
        whole=whole,
        left_out=left_out,
        hidden=() if layers else [layer for layer in known if layer not in keys],
    )


def _refuse_pairs_alone(rows: ResultTable, whole: ResultTable, estimator: str) -> None:
    """Raise ValueError if `rows` is empty, or of this estimator the `whole` table has nothing but pairs of layers.

    `estimator` is "" where none was chosen: then all estimators count.
    """
    by_estimator = whole.take(is_in(whole["estimator"], [estimator])) if estimator else whole
    pairs = [quantity for quantity in dict.fromkeys(by_estimator["quantity"].tolist()) if PAIR in quantity]
    if pairs and not set(rows["estimator"]) & set(by_estimator["estimator"]):
        whose = f" of {estimator}" if estimator else ""
        raise ValueError(f"the table has pairs alone{whose}, which are asked for by quantity={pairs[0]!r}")
    if len(rows) == 0:
        raise ValueError("the table has no estimates; run infoplane.analyze(run) first")


def with_times(rows: ResultTable, against: str) -> tuple[ResultTable, int]:
    """Return the rows that have the time that `against` names, and the number of snapshots left out.

    Every row has a step; an epoch may be missing. ValueError for another `against`, and where no row has an epoch.
    """
    if against not in ("step", "epoch"):
        raise ValueError(f"against must be step or epoch, got {against!r}")
    if against == "step":
        return rows, 0
    known = np.isfinite(rows["epoch"])
    if not known.any():
        raise ValueError("the run recorded no epochs, its loop counted none; use against='step'")
    lost = {(run, int(step)) for run, step in zip(rows["run"][~known], rows["step"][~known], strict=True)}
    return rows.take(known), len(lost)


def options(
    table: ResultTable, column: str, *, shows: Sequence[str] | str | None = None, **select: Unpack[Selection]
) -> list[str]:
    """Return what there is to choose in a column (estimator, settings, run, subset): its values, each once.

    Only estimates count that fit the other choices in `select`. `shows` is as in `choose`.
    """
    rows, wanted = _of_estimator(of_layers(_with_pairs(table, shows).current()), select)
    if (run := select.get("run")) is not None:
        rows = _one_run(rows, run)
    if (subset := select.get("subset")) is not None:
        rows = _only(rows, "subset", subset)
    if wanted:
        fit = by_value(rows["settings"].tolist(), lambda text: wanted.items() <= parse_settings(text).items(), bool)
        rows = rows.take(fit)
    return list(dict.fromkeys(rows[column].tolist()))


def of_layers(table: ResultTable, *, recorded: bool = False) -> ResultTable:
    """Return the estimates of single layers, or with `recorded` the metrics that were recorded for layers.

    Pairs of layers and metrics of the whole model are left out.
    """
    return table.take(((table.estimator == RECORDED) == recorded) & (table.layer != "") & (table.partner == ""))


def _with_pairs(table: ResultTable, shows: Sequence[str] | str | None) -> ResultTable:
    """Return the table; but if a quantity in `shows` is one of pairs of layers, only its pairs and recorded metrics.

    In that case each pair counts as a layer, named `fc1 with fc4`.
    """
    names = [shows] if isinstance(shows, str) else shows or ()
    if not any(PAIR in name for name in names):
        return table
    table = table.take((table["partner"] != "") | (table["estimator"] == RECORDED))
    columns = {name: table[name] for name in COLUMNS}
    pairs = zip(columns["layer"].tolist(), columns["partner"].tolist(), strict=True)
    columns["layer"] = by_value(list(pairs), lambda pair: pair_name(*pair))
    return ResultTable({**columns, "partner": np.full(len(table), "", object)}, table.meta)


def _filled(shape: tuple[int, ...], at: Any, values: npt.NDArray[Any], missing: Any = np.nan) -> npt.NDArray[Any]:
    """Return an array of this shape with `values` at the indices `at` and `missing` elsewhere."""
    out = np.full(shape, missing, values.dtype)
    out[at] = values
    return out


def metrics(
    table: ResultTable, *, run: str | None = None, layer: str = "", against: str = "step"
) -> dict[str, tuple[FloatArray, FloatArray]]:
    """Return {name: (steps or epochs, values)} of the metrics recorded in a run, in step order.

    With `layer` these are the metrics recorded for that layer, without it those of the model. Without `run` all rows
    count. Rows without the time that `against` names are left out.
    """
    rows = table.current()
    of_run = True if run is None else is_in(rows["run"], [run])
    rows = rows.take(is_in(rows["estimator"], [RECORDED]) & is_in(rows["layer"], [layer]) & of_run)
    out = {}
    for (name,), index in groups([rows["quantity"]], [rows["step"]]):
        when = rows[against][index].astype(np.float64)
        known = np.isfinite(when)
        out[name] = (when[known], rows["value"][index][known])
    return out


def metric_group(name: str) -> str:
    """Return the name of the axis of a recorded metric: accuracies share one, losses another, any other has its own."""
    return "accuracy" if "acc" in name.lower() else "loss" if "loss" in name.lower() else name


def parse_settings(text: Mapping[str, Any] | str | None) -> dict[str, Any]:
    """Return settings as {name: value}, from `n_bins=30,range=layer`, canonical JSON or a mapping; {} for None or "".

    A value is read as JSON where that can be, with round brackets as square ones, else as a string. ValueError for a
    part without "=".
    """
    if not text:
        return {}
    if isinstance(text, str) and text.startswith("{"):
        return dict(json.loads(text))
    if not isinstance(text, str):
        return {str(k): list(v) if isinstance(v, tuple) else v for k, v in text.items()}
    out: dict[str, Any] = {}
    # Split at commas outside brackets: at those with no closing bracket behind them before the next opening one.
    for part in re.split(r",(?![^\[(]*[\])])", text):
        name, equals, value = part.partition("=")
        if not equals:
            raise ValueError(f"settings read name=value, separated by commas; got {part!r}")
        try:
            out[name.strip()] = json.loads(value.replace("(", "[").replace(")", "]"))
        except json.JSONDecodeError:
            out[name.strip()] = value.strip()
    return out


def ordered_layers(rows: ResultTable) -> list[str]:
    """Return the names of the layers in the order of the forward pass; positions of one layer in ascending order."""
    # `dict` keeps the last entry of a key: in reversed order, the first row of a layer says how deep it is.
    depth = dict(zip(rows["layer"][::-1].tolist(), rows["depth"][::-1].tolist(), strict=True))
    return sorted(depth, key=lambda layer: (depth[layer], split_token(layer)[0], token_position(layer) or 0, layer))


def default_layers(rows: ResultTable) -> list[str]:
    """Return the layers that figures show by default, in the order of the forward pass.

    Of a run that recorded all leaves of its model (modules without submodules) these are the outputs of activation
    functions and of the model; of any other run all layers. They are joined over the runs.
    """
    about = rows.meta.get("runs", {})
    shown: set[str] = set()
    for run in dict.fromkeys(rows["run"].tolist()):
        layers = set(rows["layer"][is_in(rows["run"], [run])].tolist())
        # Layers that the user named, and blocks, are all shown. A run that does not say how its layers were chosen is
        # taken for one with leaves.
        leaves = about.get(run, {}).get("settings", {}).get("selection", "leaves") == "leaves"
        described = about.get(run, {}).get("layers", ()) if leaves else ()
        telling = {str(layer["key"]) for layer in described if layer.get("role") in ("activation", "output")}
        shown |= layers & telling or layers  # all layers of the run where none is known to have such a role
    return [layer for layer in ordered_layers(rows) if layer in shown]


def match_layers(patterns: Sequence[str], known: Sequence[str]) -> list[str]:
    """Return the layers, in the order of `known`, that match any of the patterns; ValueError for one without match."""
    if isinstance(patterns, str):
        patterns = [patterns]
    for pattern in patterns:
        if not any(layer_matches(layer, pattern) for layer in known):
            near = ", ".join(closest(pattern, known)) + across_parts(pattern, known)
            raise ValueError(f"no layer of the table matches {pattern!r}; closest: {near}")
    return [layer for layer in known if any(layer_matches(layer, pattern) for pattern in patterns)]


def is_in(column: npt.NDArray[Any], values: Iterable[str]) -> BoolArray:
    """Return a mask (rows,) of the cells of a text column that equal one of `values`.

    Texts are compared by Python, since numpy's `==` would lose trailing NUL characters.
    """
    wanted = set(values)
    return by_value(column.tolist(), wanted.__contains__, bool)


def _of_estimator(rows: ResultTable, select: Selection) -> tuple[ResultTable, dict[str, Any]]:
    """Return the rows of the estimator in `select`, or all rows without one, and the settings asked for as a dict.

    Settings may stand after a colon in the estimator's name and under `settings`; the latter holds where both give one.
    """
    wanted, estimator = parse_settings(select.get("settings")), select.get("estimator")
    if estimator is None:
        return rows, wanted
    name, _, rest = estimator.partition(":")
    return _only(rows, "estimator", name), {**parse_settings(rest), **wanted}


def _only(rows: ResultTable, column: str, value: str | None = None) -> ResultTable:
    """Return the rows with this value in a column; without a value, all rows, which must then agree in the column.

    ValueError where no row has the value, or, without one, rows differ.
    """
    known = list(dict.fromkeys(rows[column].tolist()))
    if value is not None and value not in known:
        raise ValueError(f"the table has no {column} {value!r}; available: {', '.join(known[:12])}")
    if value is None and len(known) > 1:
        raise ValueError(f"the table has {len(known)} {column}s, choose one with {column}=...: {', '.join(known[:12])}")
    return rows if value is None or len(known) == 1 else rows.take(is_in(rows[column], [value]))


def _one_run(rows: ResultTable, value: str | None = None) -> ResultTable:
    """Return the rows of the one run that `value` names; without it all rows, which must then be of one run.

    ValueError where no run or several runs fit.
    """
    called = run_names(rows)
    known = list(dict.fromkeys(rows["run"].tolist()))
    found = known if value is None else runs_called(rows, value)
    have = ", ".join(called[run] for run in (found or known)[:12])
    if not found:
        raise ValueError(f"no run of the table matches {value!r}; available: {have}")
    if len(found) > 1:
        what = f"{len(found)} runs" + ("" if value is None else f" that match {value!r}")
        raise ValueError(f"the table has {what}, choose one with run=...: {have}")
    return rows if len(known) == 1 else rows.take(is_in(rows["run"], found))


def varying(configs: Collection[Mapping[str, Any]]) -> list[str]:
    """Return the names of the settings in which configurations differ; one that is missing counts as None."""
    names = dict.fromkeys(name for config in configs for name in config)
    return [n for n in names if len({json.dumps(config.get(n)) for config in configs}) > 1]


def _one_setting(rows: ResultTable, wanted: Mapping[str, Any]) -> ResultTable:
    """Return the rows of the one configuration that has all `wanted` settings; ValueError where none or several fit."""
    # {canonical JSON, as in the column "settings": the configuration as a dict}
    configs = {text: json.loads(text or "{}") for text in dict.fromkeys(rows["settings"].tolist())}
    estimator, fields = rows["estimator"][0], sorted({field for config in configs.values() for field in config})
    for name in wanted:
        if name not in fields:
            raise ValueError(f"{estimator} has no setting {name!r}; it has {', '.join(fields)}")
    fitting = [text for text, config in configs.items() if all(_has(config, *setting) for setting in wanted.items())]
    # Another configuration may have the wanted settings and further ones: the one with just these is meant.
    fitting = [text for text in fitting if configs[text] == wanted] or fitting
    differing = sorted(varying(configs.values()))
    shown = [_as_typed({name: configs[text].get(name) for name in differing}) for text in fitting[:12] or configs]
    have = "; ".join(text or "(default)" for text in shown)
    if not fitting:
        raise ValueError(f"the table has no {estimator} with {_as_typed(wanted)}; available: {have}")
    if len(fitting) > 1:
        raise ValueError(f"the table has {len(fitting)} settings of {estimator}, choose with settings=...: {have}")
    return rows.take(is_in(rows["settings"], fitting))


def _has(config: Mapping[str, Any], name: str, value: Any) -> bool:
    """Return whether a configuration has this value of a setting."""
    # Settings added by a later release are not written while they have their default, null or false: one that is
    # missing has that value.
    return config[name] == value if name in config else value is None or value is False


def _as_typed(settings: Mapping[str, Any]) -> str:
    """Return settings as a user would type them: `n_bins=30,range="layer"`."""
    return ",".join(f"{name}={json.dumps(value)}" for name, value in settings.items())
