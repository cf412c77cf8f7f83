"""Study: a row for each run, with hyper-parameters, metrics, the generalisation gap and summaries of its curves."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from infoplane.core.errors import closest
from infoplane.core.files import publish
from infoplane.core.records import FloatArray
from infoplane.core.text import listed, printable
from infoplane.results import ResultTable
from infoplane.results.cells import csv_bytes
from infoplane.results.names import names_of
from infoplane.results.overview import named_way, settings_words
from infoplane.results.table import Selector
from infoplane.studies.association import Association, Claim
from infoplane.studies.correlation import Method
from infoplane.studies.reading import By, Measure, Moment, OfRun, Pair, read_run, runs_of

if TYPE_CHECKING:
    import pandas as pd

Raised = Mapping[Measure, Counter[str]]
"""In how many runs the values that a measure summarises carry each flag."""
Runs = ResultTable | str | os.PathLike[str] | Sequence[ResultTable | str | os.PathLike[str]]


@dataclass(frozen=True, eq=False)
class Study:
    """Runs as rows of numbers: what `infoplane.study` returns.

    Attributes
    ----------
    columns : dict from name to array (runs,)
        `run` (the name in figures) and `id`; hyper-parameters by their names; `NAME_final` and `NAME_best` of each
        recorded metric; `gap` (held-out minus training loss), `error_gap` (held-out minus training error) and
        `gap_step`; then the columns of `measures`. Missing numbers are NaN.
    measures : dict from column to Measure
        Which summary of which curve a column holds, for columns that summarise a curve.
    hyper : tuple of str
        The columns that are hyper-parameters.
    gaps : dict from "gap", "error_gap" to str
        What each gap is the difference of, in words.
    flags : dict from column to Counter
        In how many runs the values that the column summarises carry a flag.
    lost : tuple of str
        Runs with steps that are missing or damaged.
    """

    columns: Mapping[str, npt.NDArray[Any]]
    measures: Mapping[str, Measure] = field(default_factory=dict)
    hyper: tuple[str, ...] = ()
    gaps: Mapping[str, str] = field(default_factory=dict)
    flags: Mapping[str, Counter[str]] = field(default_factory=dict)
    lost: tuple[str, ...] = ()

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The columns as a pandas frame, a row for each run, with the names of the runs as its index."""
        import pandas as pd  # here, since a study printed or written needs no frame

        columns = {name: pd.Series(column.tolist()) for name, column in self.columns.items() if name != "run"}
        return pd.DataFrame(columns).set_index(pd.Index(self.columns["run"].tolist(), name="run"))

    def __len__(self) -> int:
        return len(self.columns["run"])

    def __getitem__(self, column: str) -> npt.NDArray[Any]:
        """Return a column by name; KeyError for an unknown name."""
        if column not in self.columns:
            near = ", ".join(closest(column, self.columns))
            raise KeyError(f"the study has no column {printable(column)!r}; closest: {near}")
        return self.columns[column]

    def take(self, rows: npt.NDArray[Any] | Sequence[int]) -> Study:
        """Return a study of the runs that a boolean mask or an array of indices chooses; the rest stays as it is."""
        return replace(self, columns={name: column[rows] for name, column in self.columns.items()})

    def association(
        self,
        target: str = "gap",
        *,
        control: str | None = None,
        method: Method = "spearman",
        permutations: int = 1999,
        draws: int = 1000,
        seed: int = 0,
        repetitions: str | Sequence[str] | None = ("seed",),
        **choice: str | Sequence[str] | None,
    ) -> Association:
        """Correlate the summaries of all curves with one column, and say how many were tried.

        Parameters
        ----------
        target : str
            A column of numbers: "gap", "error_gap", "test accuracy_final", ...
        control : str, optional
            A column of numbers that may explain both. Then also the partial correlations are given: those of what a fit
            by the ranks of the control leaves of both ranks.
        method : {"spearman", "pearson", "kendall"}
            Which of the three gets interval and p; with a control it is always ranks.
        permutations : int
            Random orders of the target, the same for all columns; each possible order once, where there are no more.
            Configurations change places, each with all its runs, and only with others that have as many runs. Where the
            control is swept (each value in two configurations or more), only configurations with the same value of it
            change places; else the residuals given the control do (Freedman and Lane).
        draws : int
            Bootstrap draws of configurations, each with all its runs; 0 for no interval. A draw in which nothing varies
            counts as a correlation of 0.
        seed : int
            Seeds orders and draws.
        repetitions : str or sequence of str, optional
            Hyper-parameters that only tell runs of one configuration apart. With None, where no hyper-parameters are
            known, and where all runs are of one configuration, each run counts as a configuration.
        **choice
            `summary`, `layer`, `quantity`, `estimator`, `settings`, `subset`: names or globs of the columns to try. p
            is adjusted for the columns that are tried here: leave columns out before looking at them, not after.

        Returns
        -------
        Association
            Print it; `.frame` is a pandas frame with a row for each column that was tried.

        Raises
        ------
        ValueError
            There is no such column, or it is text; fewer than five configurations have all numbers; the target or
            control is constant; no column is left.

        Notes
        -----
        A column that is missing in more than a tenth of the runs is not tried. Runs that miss a number of another
        column are left out. Both are said. Seeds of one configuration are no independent runs: drawn one by one they
        would make intervals too narrow.
        """
        from infoplane.studies.associate import associate  # here, since it imports this module

        how: Any = {"control": control, "method": method, "repetitions": repetitions, **choice}
        return associate(self, target, permutations=permutations, draws=draws, seed=seed, **how)

    def claim(self, sign: int | str, target: str = "gap", *, within: str | Sequence[str] = (), **how: Any) -> Claim:
        """Count in how many settings the correlation with the target has the claimed sign.

        Parameters
        ----------
        sign : {"+", "-", 1, -1}
            The claimed sign.
        target : str
            A column of numbers, as in `association`.
        within : hyper-parameters, optional
            Count each column once for the runs of each combination of their values, instead of once for all runs.
        **how
            As in `association`, but for `permutations`, since a claim has no p. With `control` the sign is that of the
            partial correlation. A claim is about one thing: choose it, as by `summary="fall", quantity="I(X;T)"`.

        Returns
        -------
        Claim
            `holds`: the share of settings with this sign; `clear`: the share that also has an interval without 0.
        """
        from infoplane.studies.associate import claim_of  # here, since it imports this module

        return claim_of(self, sign, target, within=within, **how)

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write the columns as CSV, whole or not at all, and return the path; the same runs give the same bytes.

        Raises
        ------
        ValueError
            The name does not end in .csv.
        """
        target = Path(path)
        if target.suffix.lower() != ".csv":
            raise ValueError(f"a study is written as CSV, so its file ends in .csv, got {target.name!r}")
        publish(target.parent, target.name, [csv_bytes({n: c.tolist() for n, c in self.columns.items()})])
        return target

    def __repr__(self) -> str:
        """Return runs, hyper-parameters, gaps, layers and estimates in words, a line for each."""
        layers = list(dict.fromkeys(m.layer for m in self.measures.values()))
        gaps = [f"{name}: {printable(words)}" for name, words in self.gaps.items()]
        hyper = listed([printable(name) for name in self.hyper], 8) or "none: Recorder(about={'lr': 0.1})"
        lines = [
            f"Study of {len(self)} runs, {len(self.columns)} columns",
            f"  hyper-parameters  {hyper}",
            f"  gaps              {'; '.join(gaps) or 'none: no run has a held-out and a training loss'}",
            f"  layers            {listed([printable(layer) for layer in layers], 8) or 'none'}",
            f"  estimates         {listed(list(dict.fromkeys(m.way for m in self.measures.values())), 4) or 'none'}",
        ]
        lines += [f"  steps lost in     {listed([printable(run) for run in self.lost], 4)}"] if self.lost else []
        return "\n".join(lines)


def study(
    runs: Runs,
    *,
    by: By = "name",
    at: Moment = "final",
    gap: Pair = None,
    layers: Sequence[str] | None = None,
    estimator: Selector = None,
    quantity: Selector = None,
    subset: Selector = None,
) -> Study:
    """Read the results of many runs as one frame with a row for each run.

    Tables are read one after the other, and each is summarised before the next, so that memory holds one at a time.

    Parameters
    ----------
    runs : run directories, CSV files or tables, one or a sequence; a table may hold several runs
    by : {"name", "depth", "role"}
        Which layers of different runs share columns: those with the same name; with the same place from the end
        ("layer -1" is the last); or with the same place from the end among layers of their role ("activation -1",
        "output").
    at : {"final", "best"}
        The step at which the gap is taken: the last, or the one with the least validation loss (else test loss).
    gap : (held-out, training) metric, optional
        By default metrics of loss, and of accuracy or error, with words such as "test" and "train" in their names.
    layers : names or globs, optional
        By default those that figures show: outputs of activation modules and of the model.
    estimator, quantity, subset : name, glob or several, optional
        As in `ResultTable.select`. By default every estimator, the subset "all", and every quantity that is no null
        and no bound beside another.

    Returns
    -------
    Study
        `study.frame` is the pandas frame. Each curve has six columns: `final`; `max` and its `max_step`; `fall`, the
        maximum of the 3-point median minus the final value, and `fall_share`, over that maximum; `area`, the mean
        over log(1 + step). Values that are not finite are left out.

    Raises
    ------
    ValueError
        There are no runs or no estimates, a run comes twice, several metrics fit the gap, a hyper-parameter has the
        name of another column, or no two runs have a column in common.
    FileNotFoundError
        A run has no results table.

    Notes
    -----
    Hyper-parameters are what was given as `Recorder(about={"lr": 0.1})`.

    Examples
    --------
    >>> from infoplane.results import ResultTable, Row
    >>> rows = [Row(run, step, step, "fc", 0, "all", "kde", "{}", 100, 3, "I(X;T)", value=value)
    ...         for run in "ab" for step, value in [(0, 1.0), (1, 3.0), (2, 3.0), (9, 2.0)]]
    >>> study(ResultTable.from_rows(rows))["I(X;T) of fc, kde: fall"].tolist()
    [1.0, 1.0]
    """
    if by not in ("name", "depth", "role"):
        raise ValueError(f"by must be name, depth or role, got {by!r}")
    if at not in ("final", "best"):
        raise ValueError(f"at must be final or best, got {at!r}")
    found: dict[str, OfRun] = {}
    measures: dict[Measure, int] = {}
    values: list[FloatArray] = []
    flags: dict[Measure, Counter[str]] = {}
    choice: dict[str, Any] = {"estimator": estimator, "quantity": quantity, "subset": subset}
    for source in [runs] if isinstance(runs, ResultTable | str | os.PathLike) else runs:
        table = source if isinstance(source, ResultTable) else ResultTable.read(source)
        for one in runs_of(table):
            of_run = _read(one, source, by=by, at=at, gap=gap, layers=layers, **choice)
            if of_run.run in found:
                raise ValueError(f"the run {of_run.run} comes twice, the second time in {_source(source)}")
            found[of_run.run] = of_run
            values.append(_row(of_run, measures))
            for measure, names in of_run.flags.items():
                flags.setdefault(measure, Counter()).update(names)
            of_run.values, of_run.flags = {}, {}  # frees memory: both are now in the array and the counts
    if not found:
        raise ValueError("a study needs at least one run, got none")
    if not measures:
        raise ValueError("the tables have no estimates of these layers; run infoplane.analyze(run) first")
    return _study_of(list(found.values()), measures, values, flags, by)


def _read(table: ResultTable, source: object, **how: Any) -> OfRun:
    """Return what a study keeps of the only run in a table; an error gets a note that names the run and its source."""
    try:
        return read_run(table, **how)
    except (ValueError, TypeError) as error:
        error.add_note(f"in {_source(source)}, run {printable(str(table.run[0]))}")
        raise


def _source(source: object) -> str:
    """Return where a table comes from, for an error line."""
    return "a table in memory" if isinstance(source, ResultTable) else printable(source)


def _row(of_run: OfRun, measures: dict[Measure, int]) -> FloatArray:
    """Return the values of one run (M,), each at the index that `measures` has for its measure.

    Measures that no earlier run had are added to `measures`.
    """
    places = [measures.setdefault(measure, len(measures)) for measure in of_run.values]
    row = np.full(len(measures), np.nan)
    row[places] = list(of_run.values.values())
    return row


def _study_of(
    found: Sequence[OfRun], measures: Mapping[Measure, int], values: Sequence[FloatArray], flags: Raised, by: By
) -> Study:
    """Return the study of these R runs. `measures` has the index of each of M measures in the rows of `values`.

    ValueError where no two runs have a measure in common, and for a hyper-parameter with the name of another column.
    """
    ids = [one.run for one in found]
    run_names = names_of(ids, {one.run: one.place for one in found})
    # (R, M). Rows of earlier runs are shorter, since they lack the measures that later runs added.
    table = np.stack([np.pad(row, (0, len(measures) - len(row)), constant_values=np.nan) for row in values])
    if len(found) > 1 and (np.isfinite(table).sum(axis=0) < 2).all():
        layers = listed([printable(layer) for layer in dict.fromkeys(m.layer for m in measures)], 6)
        other = "; by='depth' counts layers from the end" if by == "name" else ""
        raise ValueError(f"no two runs have a layer and an estimate in common (layers {layers}){other}")
    columns: dict[str, npt.NDArray[Any]] = {"run": _objects([run_names[run] for run in ids]), "id": _objects(ids)}
    hyper = tuple(dict.fromkeys(name for one in found for name in one.about))
    metrics = tuple(dict.fromkeys(name for one in found for name in one.metrics))
    names = names_of_measures(measures)
    if taken := [name for name in hyper if name in {*columns, *metrics, *names}]:
        raise ValueError(f"the hyper-parameter {printable(taken[0])!r} has the name of another column; rename it")
    columns |= {name: _objects([one.about.get(name) for one in found]) for name in hyper}
    columns |= {name: np.array([one.metrics.get(name, np.nan) for one in found]) for name in metrics}
    columns |= {name: table[:, place] for name, place in zip(names, measures.values(), strict=True)}
    return Study(
        columns,
        dict(zip(names, measures, strict=True)),
        hyper,
        _gap_words(found),
        {name: flags[measure] for name, measure in zip(names, measures, strict=True)},
        tuple(run_names[one.run] for one in found if one.lost),
    )


def _gap_words(found: Sequence[OfRun]) -> dict[str, str]:
    """Return {gap: in words what it is the difference of}; ValueError where this differs between runs."""
    gaps: dict[str, str] = {}
    for name, words in (item for one in found for item in one.gaps.items()):
        if gaps.setdefault(name, words) != words:
            raise ValueError(
                f"{name} is {printable(gaps[name])} in one run and {printable(words)} in another; "
                "choose with gap=(held-out, train)"
            )
    return gaps


def _objects(cells: Sequence[object]) -> npt.NDArray[Any]:
    """Return cells of any kind as an array, without numpy turning them into numbers or text."""
    out = np.empty(len(cells), dtype=object)
    out[:] = cells
    return out


def names_of_measures(measures: Iterable[Measure]) -> list[str]:
    """Return the names of columns, such as `I(X;T) of fc1, binning, n_bins = 30: fall`.

    Where two would be equal, they get all their settings.
    """

    def name(measure: Measure, way: str) -> str:
        """Return the name of a column; `way` says how its curve was estimated."""
        return f"{measure.quantity} of {measure.layer}, {way}: {measure.summary}"

    known = list(measures)
    names = [name(m, m.way) for m in known]
    # Equal names are made longer: first by all settings in words, and if they are still equal by the settings as JSON.
    for longer in (_whole_way, lambda m: f"{m.estimator} {m.settings}"):
        count = Counter(names)
        names = [n if count[n] == 1 else name(m, longer(m)) for n, m in zip(names, known, strict=True)]
    return names


def _whole_way(measure: Measure) -> str:
    """Return how a measure was estimated, in words, with every setting."""
    return named_way(measure.estimator, settings_words(measure.settings, every=True), measure.subset)
