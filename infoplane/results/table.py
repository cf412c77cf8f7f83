"""ResultTable: one row per quantity, in columns."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypedDict, Unpack, cast

import numpy as np
import numpy.typing as npt

from infoplane.core.errors import closest
from infoplane.core.globs import across_parts
from infoplane.core.records import Array
from infoplane.core.strict import canonical_json
from infoplane.core.text import listed
from infoplane.core.tokens import layer_matches
from infoplane.results._csv import ADDED, COLUMNS, Row, by_value, format_rows, typed_columns, visible
from infoplane.results._files import TableWriter, csv_path, read_files, write_files
from infoplane.results.branches import choice_of
from infoplane.results.names import is_glob, matches, run_names, runs_called
from infoplane.results.overview import PLANE, overview
from infoplane.results.trajectories import Chain, Curve, DataProcessing, Plane, curves, data_processing, pair

if TYPE_CHECKING:
    import pandas as pd

Selector = str | Iterable[str] | None
"""A name, a glob, several of these, or None for all."""


_SHOWN = ("run", "step", "layer", "subset", "estimator", "quantity", "value", "bound", "ceiling", "unit", "flags")
"""The columns that a notebook shows."""


_DERIVED = ("settings", "branch", "reason")
"""Names that can be used like columns, whose values are found in the columns `config` and `quantity`."""
_NAMES = ("layer", "quantity", "estimator", "subset")
"""Columns in which a name that no row has is an error, since it is likely to be misspelt."""


class Where(TypedDict, total=False):
    """Which rows `ResultTable.plane` and `curves` take, besides what they name themselves."""

    layer: Selector
    run: Selector
    step: int | Iterable[int] | npt.NDArray[np.integer[Any]] | None
    settings: Selector


class Rows(Where, total=False):
    """Which rows `ResultTable.select` takes."""

    quantity: Selector
    estimator: Selector
    subset: Selector
    config: Selector
    unit: Selector
    partner: Selector


class Column:
    """A column of a table as an array (rows,)."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, table: ResultTable | None, owner: type) -> Any:
        """Return the column of this table; on the class, as `ResultTable.value`, the `Column` itself."""
        # `help` and documentation tools read attributes of the class, where there is no table.
        return self if table is None else table[self.name]


class ResultTable:
    """Results of one or several runs: numpy columns of equal length and the settings beside them.

    A row is one quantity of one layer at one step. `value`, `low`, `high` and `ceiling` are in `unit` (bits
    for every Shannon information); NaN is "no value", and `flags` says why. `low` and `high` are the
    estimator's own 95 % sampling interval, never bounds; a bound says so in `bound`. Rows with
    `estimator == "recorded"` are the training metrics that the run recorded.

    Parameters
    ----------
    columns : mapping from column name to array (rows,)
        All of `infoplane.results.COLUMNS`; integers as int64, numbers as float64, text as object. `partner` is ""
        where it is missing.
    meta : mapping
        Settings, versions, layers of each run; what `results.json` holds.

    Attributes
    ----------
    df : pandas.DataFrame
        The rows in the order of the table, a copy of them. A column is there as an array, `table.value` or
        `table["value"]`.
    meta : dict

    Notes
    -----
    Data change under a table: a layer measured again, or a range found over more steps, adds rows beside
    the old ones. `current()` keeps the last written of those, and `plane`, `curves` and `dpi` use it.
    """

    run = Column()
    step = Column()
    epoch = Column()
    layer = Column()
    depth = Column()
    subset = Column()
    estimator = Column()
    config = Column()
    n_samples = Column()
    n_units = Column()
    quantity = Column()
    estimand = Column()
    value = Column()
    low = Column()
    high = Column()
    bound = Column()
    ceiling = Column()
    unit = Column()
    flags = Column()
    source = Column()
    partner = Column()

    def __init__(self, columns: Mapping[str, Any] | pd.DataFrame, meta: Mapping[str, Any] | None = None) -> None:
        """Take the columns, which must all be there, with the types of the table."""
        if missing := [c for c in COLUMNS if c not in columns and c not in ADDED]:
            raise ValueError(f"a results table needs the columns {', '.join(COLUMNS)}; missing: {', '.join(missing)}")
        self._columns = typed_columns(columns)
        self.meta: dict[str, Any] = dict(meta or {})

    @classmethod
    def _of(cls, columns: dict[str, Array], meta: Mapping[str, Any]) -> Self:
        """Return a table of columns that were taken from other tables, whose types need no further check."""
        table = cls.__new__(cls)
        table._columns, table.meta = columns, dict(meta)
        return table

    # Making, reading, writing

    @classmethod
    def from_rows(cls, rows: Iterable[Row], meta: Mapping[str, Any] | None = None) -> Self:
        """Make a table from rows in memory, each a `Row`."""
        cells = list(zip(*rows, strict=True)) or [()] * len(COLUMNS)
        return cls(dict(zip(COLUMNS, cells, strict=True)), meta)

    @classmethod
    def read(cls, path: str | os.PathLike[str], *, verify: bool = True) -> Self:
        """Read a CSV, or `results.csv` of a run directory, with the JSON beside it.

        A torn last line is dropped. `verify=False` reads a table that was edited by hand.

        Raises
        ------
        FileNotFoundError
            There is no table.
        ValueError
            A column is missing, a line is damaged, or the file was changed after it was written.
        """
        return cls._of(*read_files(csv_path(path), verify=verify))

    @classmethod
    def concat(cls, tables: Sequence[ResultTable]) -> Self:
        """Return one table with the rows of several below one another; ValueError for no tables.

        Its meta has the entries of all: mappings, such as `runs`, and lists are joined; of anything else the value of
        the last table holds.
        """
        if not tables:
            raise ValueError("concat needs at least one table")
        meta: dict[str, Any] = {}
        for table in tables:
            for name, value in table.meta.items():
                known = meta.get(name)
                if isinstance(known, dict) and isinstance(value, Mapping):
                    meta[name] = {**known, **value}
                elif isinstance(known, list) and isinstance(value, list):
                    meta[name] = known + [v for v in value if v not in known]
                else:
                    meta[name] = value
        meta.pop("table", None)  # the digest of one file, which fits no table of several
        return cls._of({c: np.concatenate([t[c] for t in tables]) for c in COLUMNS}, meta)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write CSV and JSON, each replaced atomically. Reading gives every number and name back exactly."""
        write_files(csv_path(path), format_rows(self), self.meta)

    @staticmethod
    def append(path: str | os.PathLike[str], rows: Iterable[Row]) -> None:
        """Add rows to a table on disk under an exclusive lock; a torn last line is cut off first.

        Raises
        ------
        BlockingIOError
            Another process is writing the table.
        """
        with TableWriter(path) as writer:
            writer.append(rows)

    # Columns and rows

    def __len__(self) -> int:
        return len(self._columns["run"])

    def __getitem__(self, column: str) -> Array:
        """Return a column by name, or `settings`, `branch` or `reason`; KeyError for any other name."""
        if column in _DERIVED:
            return getattr(self, column)  # type: ignore[no-any-return]
        if column not in COLUMNS:
            raise KeyError(f"no column {column!r}; available: {', '.join((*COLUMNS, *_DERIVED))}")
        return self._columns[column]

    if not TYPE_CHECKING:  # a type checker is to know the columns alone

        def __getattr__(self, name: str) -> NoReturn:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}; columns: {', '.join(COLUMNS)}")

    def __iter__(self) -> Iterator[Row]:
        return map(Row._make, zip(*(self[c].tolist() for c in COLUMNS), strict=True))

    def take(self, rows: Array | Sequence[int]) -> ResultTable:
        """Return a table of the rows that a boolean mask or an array of row numbers chooses, in the order of these."""
        index = np.asarray(rows)
        if index.size == 0:
            index = index.astype(np.int64)
        return ResultTable._of({name: column[index] for name, column in self._columns.items()}, self.meta)

    @cached_property
    def settings(self) -> Array:
        """The user's own settings: `config` without what `prepare` found. The same for all steps and layers."""
        return by_value(self.config.tolist(), user_settings)

    @cached_property
    def branch(self) -> Array:
        """The method that each value is by, where its estimator chose one, as `auto` does; "" elsewhere."""
        return self._choices(0)

    @cached_property
    def reason(self) -> Array:
        """Why `branch` was chosen, in words; "" elsewhere."""
        return self._choices(1)

    def _choices(self, which: int) -> Array:
        """Return for each row what `choice_of` finds: the method if `which` is 0, the reason if it is 1."""
        cells = list(zip(self.config.tolist(), self.quantity.tolist(), strict=True))
        return by_value(cells, lambda cell: choice_of(*cell)[which])

    def flag(self, name: str) -> npt.NDArray[np.bool_]:
        """Return a mask (rows,) of the rows that carry the flag `name`."""
        return by_value(self.flags.tolist(), lambda text: name in text.split(";"), bool)

    def select(self, **rows: Unpack[Rows]) -> ResultTable:
        """Return the rows that match in all of the given columns.

        Text matches exactly or as a glob (`layer="fc*"`, `subset="class=*"`, and `layer="block2[token=*]"` for the
        positions of a layer); a list matches what any of its entries matches; None leaves the column alone. A glob
        that matches nothing gives an empty table. In names of layers `*` stays within one part (`encoder.*.act`) and
        `**` stands for any number of parts (`encoder.**`), as in the recorder.

        Parameters
        ----------
        layer, quantity, estimator, subset, run, settings, config, unit, partner : str or several
            A run by its name, its path or its id.
        step : int or several

        Raises
        ------
        ValueError
            A layer, quantity, estimator, subset or run that is no glob is in no row; the line has the closest. A glob
            matches no layer only because its `*` does not stand for dots; the line has the one with `**`.
        """
        mask = np.ones(len(self), dtype=bool)
        for name, selector in rows.items():
            if name not in Rows.__annotations__:
                raise TypeError(f"select takes {', '.join(Rows.__annotations__)}, got {name!r}")
            if selector is not None:
                chosen = runs_called(self, cast(Any, selector)) if name == "run" else selector
                mask &= _selected(name, self[name], chosen)
        return self.take(mask)

    def current(self) -> ResultTable:
        """Return the table with only the last written of rows that replace each other.

        These are rows that differ only in `source` (the recorded data) or in what `prepare` found in them.
        """
        names = ["run", "step", "layer", "subset", "estimator", "settings", "quantity", "partner"]
        last = {key: i for i, key in enumerate(zip(*(self[n].tolist() for n in names), strict=True))}
        return self if len(last) == len(self) else self.take(sorted(last.values()))

    # Views

    def plane(self, estimator: Selector = None, subset: Selector = "all", **rest: Unpack[Where]) -> Plane:
        """Return the points of the information plane: I(X;T) and I(T;Y) of the same layer, step, subset and estimate.

        Parameters
        ----------
        estimator, subset, layer, run, step, settings
            As in `select`.

        Raises
        ------
        ValueError
            Nothing matches; the line says what the table has.
        """
        chosen = self.select(estimator=estimator, subset=subset, **rest).current()
        plane = pair(chosen)
        if len(plane) == 0:
            have = visible(", ".join(dict.fromkeys(chosen.quantity.tolist()))) or "no rows"
            place = f"in what was asked for, which has {have}" if len(self) else "in an empty table"
            raise ValueError(f"no pair of I(X;T) and I(T;Y) {place}")
        return plane

    def curves(
        self, quantity: Selector = PLANE, *, estimator: Selector = None, subset: Selector = "all", **rest: Unpack[Where]
    ) -> list[Curve]:
        """Return each quantity against step, one `Curve` per run, layer, subset, estimator, settings and quantity.

        Parameters
        ----------
        quantity, estimator, subset, layer, run, step, settings
            As in `select`. None takes every quantity but those of pairs, which are to be asked for by name.
        """
        if quantity is None:
            return self.select(partner="").curves("*", estimator=estimator, subset=subset, **rest)
        if quantity == PLANE:
            # By default, only those of the two that the table has: a name that no row has would be an error.
            quantity = [name for name in PLANE if name in self.quantity]
        return curves(self.select(quantity=quantity, estimator=estimator, subset=subset, **rest).current())

    def dpi(self, chain: Chain = None, slack: float = 0.02) -> list[DataProcessing]:
        """Count the neighbouring layers where I(X;T_{l+1}) > I(X;T_l) + slack, which no true value can show.

        Counted over steps for each run, estimator, settings and subset. A share above zero says that the
        estimates of different layers are not of one common quantity (their bins, noise or kernel widths differ), or
        that their errors exceed `slack` bits.

        Parameters
        ----------
        chain : sequence of layer keys from input to output, or one such sequence per run, or None
            By default the runs of which `meta` says that each layer feeds the next only; others are left
            out, since with a branch the inequality need not hold.
        slack : float
            In bits.
        """
        return data_processing(self.take(self.quantity == PLANE[0]).current(), chain, slack)

    # Other containers

    @cached_property
    def df(self) -> pd.DataFrame:
        """The rows as a DataFrame, made when it is first asked for; texts are Python strings, of dtype object."""
        import pandas as pd  # here, since most uses of a table need no frame and need not wait for pandas

        # Given as a Series, a column keeps its dtype; a DataFrame might convert texts to pandas' own string dtype.
        return pd.DataFrame({name: pd.Series(array, dtype=array.dtype) for name, array in self._columns.items()})

    def to_dataframe(self) -> pd.DataFrame:
        """Return a copy of the rows as a DataFrame, with texts in the dtype that pandas chooses for them."""
        import pandas as pd

        return pd.DataFrame(self._columns)

    def to_xarray(self) -> Any:
        """Return an xarray Dataset of the current estimates, without those of pairs. Needs the extra `xarray`.

        Variables `value`, `low`, `high`, `ceiling` over (run, estimator, settings, subset, quantity, layer,
        step), NaN where there is no row; `epoch` over (run, step).
        """
        current = self.select(partner="").current()
        frame = current.df.assign(settings=current.settings)
        dims = ["run", "estimator", "settings", "subset", "quantity", "layer", "step"]
        # Steps are sorted; names keep the order of the table, which for layers is the forward order.
        labels = {d: sorted(set(frame[d])) if d == "step" else list(dict.fromkeys(frame[d])) for d in dims}
        data = frame.set_index(dims)[["value", "low", "high", "ceiling"]].to_xarray().reindex(labels)
        epochs = frame.drop_duplicates(["run", "step"], keep="last").set_index(["run", "step"])["epoch"]
        return data.assign_coords(epoch=epochs.to_xarray().reindex(run=labels["run"], step=labels["step"]))

    # Display

    def __repr__(self) -> str:
        """Return rows, runs and estimators in one line, then the first table of the overview."""
        called = run_names(self)
        runs = [called[run] for run in dict.fromkeys(self.run.tolist())]
        known = {"runs": runs, "estimators": [name for name in dict.fromkeys(self.estimator.tolist()) if name]}
        what = "; ".join(f"{column}: {listed([visible(name) for name in names], 6)}" for column, names in known.items())
        return f"ResultTable: {len(self)} rows; {what}\n{overview(self, most=1)}"

    def _repr_html_(self) -> str:
        """Return the HTML that a notebook shows: the overview, then the first and the last ten rows."""
        rows = list(range(len(self))) if len(self) <= 20 else [*range(10), *range(len(self) - 10, len(self))]
        called = run_names(self)
        shown = _SHOWN + (("partner",) if any(self.partner) else ())
        lines = ["<tr>" + "".join(f"<th>{c}</th>" for c in shown) + "</tr>"]
        for i in rows:
            if len(self) > 20 and i == len(self) - 10:
                lines.append(f'<tr><td colspan="{len(shown)}">… {len(self) - 20} rows …</td></tr>')
            cells = (called[self[c][i]] if c == "run" else self[c][i] for c in shown)
            text = (f"{v:.4g}" if isinstance(v, float) else visible(str(v)) for v in cells)
            lines.append("<tr>" + "".join(f"<td>{html.escape(t)}</td>" for t in text) + "</tr>")
        return f"<pre>{html.escape(repr(self))}</pre><table>{''.join(lines)}</table>"


def _selected(name: str, cells: Array, selector: Any) -> npt.NDArray[np.bool_]:
    """Return a mask (rows,): which cells of the column `name` the selector matches.

    ValueError for a layer, quantity, estimator or subset that is in no row.
    """
    if name == "step":
        steps = selector if isinstance(selector, int | np.integer | np.ndarray) else list(selector)
        return np.isin(cells, np.atleast_1d(np.asarray(steps)))
    patterns = [selector] if isinstance(selector, str) else list(selector)
    if name in _NAMES:
        _check_known(name, cells, patterns)
    match = layer_matches if name == "layer" else matches
    return by_value(cells.tolist(), lambda cell: any(match(cell, p) for p in patterns), bool)


def _check_known(name: str, cells: Array, patterns: Iterable[str]) -> None:
    """Raise ValueError for a pattern that no cell can match, unless there are no rows.

    A name that is no glob must be in `cells`, those of the column `name`. A glob may match nothing, except a glob of
    layers that would match if its `*` stood for several parts of a name, as `**` does.
    """
    known = list(dict.fromkeys(cells.tolist()))
    for pattern in patterns:
        if known and pattern not in known and not is_glob(pattern):
            near = ", ".join(closest(pattern, known))
            raise ValueError(f"the table has no {name} {visible(pattern)!r}; closest: {near}")
        hint = across_parts(pattern, known) if name == "layer" else ""
        if hint and not any(layer_matches(one, pattern) for one in known):
            raise ValueError(f"the table has no layer that matches {visible(pattern)!r}{hint}")


def user_settings(config: str) -> str:
    """Return the user's own settings in a cell of `config`, as JSON: all but what `prepare` found in the data."""
    if '"prepared"' not in config:
        return config
    fields = json.loads(config)
    fields.pop("prepared", None)
    return canonical_json(fields).decode()


def read_table(path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], *, verify: bool = True) -> ResultTable:
    """Read one table, or several below one another: CSV files or run directories. See `ResultTable.read`."""
    if isinstance(path, str | os.PathLike):
        return ResultTable.read(path, verify=verify)
    return ResultTable.concat([ResultTable.read(p, verify=verify) for p in path])
