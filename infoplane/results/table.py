"""ResultTable: one row per quantity, in columns."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from infoplane.core.errors import closest
from infoplane.core.strict import canonical_json
from infoplane.core.tokens import layer_matches
from infoplane.results._csv import COLUMNS, FLOATS, INTEGERS, Row, format_rows, visible
from infoplane.results._files import TableWriter, columns_of, csv_path, read_files, write_files
from infoplane.results._views import Curve, DataProcessing, Plane, curves, data_processing, pair

Array = npt.NDArray[Any]
Selector = Any  # a value, a glob for text, or an iterable of these


class ResultTable:
    """Results of one or several runs: numpy columns of equal length and the settings beside them.

    A row is one quantity of one layer at one step. `value`, `low`, `high` and `ceiling` are in `unit` (bits
    for every Shannon information); NaN is "no value", and `flags` says why. `low` and `high` are the
    estimator's own 95 % sampling interval, never bounds; a bound says so in `bound`. Rows with
    `estimator == "recorded"` are the training metrics that the run recorded.

    Parameters
    ----------
    columns : mapping from column name to array (rows,)
        Reached as `table.value` or `table["value"]`. All of `infoplane.results.COLUMNS`; integers as int64,
        numbers as float64, text as object.
    meta : mapping
        Settings, versions, layers of each run; what `results.json` holds.

    Notes
    -----
    Data change under a table: a layer measured again, or a range found over more steps, adds rows beside
    the old ones. `current()` keeps the last written of those, and `plane`, `curves` and `dpi` use it.
    """

    def __init__(self, columns: Mapping[str, Array], meta: Mapping[str, Any] | None = None) -> None:
        missing = [c for c in COLUMNS if c not in columns]
        if missing:
            raise ValueError(f"a results table needs the columns {', '.join(COLUMNS)}; missing: {', '.join(missing)}")
        self._columns: dict[str, Array] = {}
        rows = len(columns["run"])
        for name in COLUMNS:
            kind = np.int64 if name in INTEGERS else np.float64 if name in FLOATS else object
            column = np.asarray(columns[name], dtype=kind)
            if column.shape != (rows,):
                raise ValueError(f"column {name} must have shape ({rows},) as run has, got {column.shape}")
            self._columns[name] = column
        self.meta: dict[str, Any] = dict(meta or {})

    # Making, reading, writing

    @classmethod
    def from_rows(cls, rows: Iterable[Row], meta: Mapping[str, Any] | None = None) -> Self:
        """A table from `Row`s in memory."""
        return cls(columns_of(rows), meta)

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
        return cls(*read_files(csv_path(path), verify=verify))

    @classmethod
    def concat(cls, tables: Sequence[ResultTable]) -> Self:
        """Rows of several tables below one another; the runs of their meta side by side."""
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
        meta.pop("table", None)
        return cls({c: np.concatenate([t[c] for t in tables]) for c in COLUMNS}, meta)

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
        if column == "settings":
            return self.settings
        if column not in self._columns:
            raise KeyError(f"no column {column!r}; available: {', '.join((*COLUMNS, 'settings'))}")
        return self._columns[column]

    def __getattr__(self, name: str) -> Array:
        if name in COLUMNS:
            return self._columns[name]
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}; columns: {', '.join(COLUMNS)}")

    def __iter__(self) -> Iterator[Row]:
        return map(Row._make, zip(*(self._columns[c].tolist() for c in COLUMNS), strict=True))

    def take(self, rows: Array | Sequence[int]) -> ResultTable:
        """The rows of a boolean mask or of indices, in that order."""
        index = np.asarray(rows)
        if index.size == 0:
            index = index.astype(np.int64)
        return ResultTable({c: a[index] for c, a in self._columns.items()}, self.meta)

    @property
    def settings(self) -> Array:
        """The user's own settings: `config` without what `prepare` found. The same for all steps and layers."""
        config = self._columns["config"]
        known = {text: _settings(text) for text in set(config.tolist())}
        out: Array = np.empty(len(config), object)
        out[:] = [known[text] for text in config.tolist()]
        return out

    def flag(self, name: str) -> npt.NDArray[np.bool_]:
        """Which rows carry a flag."""
        flags = self._columns["flags"].tolist()
        hit = {text: name in text.split(";") for text in set(flags)}
        return np.array([hit[text] for text in flags], dtype=bool)

    def select(
        self,
        *,
        layer: Selector = None,
        quantity: Selector = None,
        estimator: Selector = None,
        subset: Selector = None,
        run: Selector = None,
        step: Selector = None,
        settings: Selector = None,
        config: Selector = None,
        unit: Selector = None,
    ) -> ResultTable:
        """Rows that match all of the given columns.

        Text matches exactly or as a glob (`layer="fc*"`, `subset="class=*"`, and `layer="block2[token=*]"` for the
        positions of a layer); a list matches what any of its entries matches; None leaves the column alone. What
        matches nothing gives an empty table.
        """
        mask = np.ones(len(self), dtype=bool)
        wanted = {
            "layer": layer,
            "quantity": quantity,
            "estimator": estimator,
            "subset": subset,
            "run": run,
            "step": step,
            "settings": settings,
            "config": config,
            "unit": unit,
        }
        for name, selector in wanted.items():
            if selector is None:
                continue
            if name == "step":
                mask &= np.isin(self._columns["step"], np.atleast_1d(np.asarray(_plain_steps(selector))))
                continue
            patterns = [selector] if isinstance(selector, str) else list(selector)
            cells = self[name].tolist()
            match = layer_matches if name == "layer" else _matches
            hit = {c: any(match(c, p) for p in patterns) for c in set(cells)}
            mask &= np.fromiter((hit[c] for c in cells), dtype=bool, count=len(cells))
        return self.take(mask)

    def current(self) -> ResultTable:
        """Of rows that differ only in `source` or in what `prepare` found, the last written one."""
        names = ("run", "step", "layer", "subset", "estimator", "settings", "quantity")
        last = {key: i for i, key in enumerate(zip(*(self[n].tolist() for n in names), strict=True))}
        return self if len(last) == len(self) else self.take(np.sort(np.fromiter(last.values(), np.int64, len(last))))

    # Views

    def plane(
        self,
        estimator: Selector = None,
        subset: Selector = "all",
        *,
        layer: Selector = None,
        run: Selector = None,
        step: Selector = None,
        settings: Selector = None,
    ) -> Plane:
        """Points of the information plane: I(X;T) and I(T;Y) of the same layer, step, subset and estimate.

        Raises
        ------
        ValueError
            Nothing matches; the line says what the table has.
        """
        chosen = self.select(
            estimator=estimator, subset=subset, layer=layer, run=run, step=step, settings=settings
        ).current()
        plane = pair(chosen)
        if len(plane) == 0:
            raise ValueError(f"no pair of I(X;T) and I(T;Y) {self._why_empty(estimator, subset, layer, run)}")
        return plane

    def curves(
        self,
        quantity: Selector = ("I(X;T)", "I(T;Y)"),
        *,
        estimator: Selector = None,
        subset: Selector = "all",
        layer: Selector = None,
        run: Selector = None,
        settings: Selector = None,
    ) -> list[Curve]:
        """Each quantity against step, one `Curve` per run, layer, subset, estimator, settings and quantity."""
        return curves(
            self.select(
                quantity=quantity, estimator=estimator, subset=subset, layer=layer, run=run, settings=settings
            ).current()
        )

    def dpi(
        self, chain: Sequence[str] | Mapping[str, Sequence[str]] | None = None, slack: float = 0.02
    ) -> list[DataProcessing]:
        """Share of neighbouring layers where I(X;T_{l+1}) > I(X;T_l) + slack, which no true value can show.

        Counted over steps for each run, estimator, settings and subset. A share above zero says that the
        estimates of different layers are not of one common quantity (their bins or bandwidths differ), or
        that their errors exceed `slack` bits.

        Parameters
        ----------
        chain : sequence of layer keys from input to output, or one such sequence per run, or None
            By default the runs of which `meta` says that each layer feeds the next only; others are left
            out, since with a branch the inequality need not hold.
        slack : float
            In bits.
        """
        return data_processing(self.select(quantity="I(X;T)").current(), self.meta, chain, slack)

    def _why_empty(self, estimator: Selector, subset: Selector, layer: Selector, run: Selector) -> str:
        parts = []
        for name, selector in (("estimator", estimator), ("subset", subset), ("layer", layer), ("run", run)):
            known = sorted({c for c in self._columns[name].tolist() if c not in ("", "recorded")})
            if selector is None:
                continue
            shown = closest(str(selector), known) if len(known) > 5 else known
            parts.append(f"{name} {selector!r} (available: {visible(', '.join(shown)) or 'none'})")
        return f"for {', '.join(parts)}" if len(self) else "in an empty table"

    # Other containers

    def to_dataframe(self) -> Any:
        """A pandas DataFrame with the same columns. Needs the extra `pandas`."""
        import pandas as pd

        return pd.DataFrame({c: self._columns[c] for c in COLUMNS})

    def to_xarray(self) -> Any:
        """An xarray Dataset of the current estimates. Needs the extra `pandas`.

        Variables `value`, `low`, `high`, `ceiling` over (run, estimator, settings, subset, quantity, layer,
        step), NaN where there is no row; `epoch` over (run, step).
        """
        import xarray as xr

        table = self.current()
        dims = ("run", "estimator", "settings", "subset", "quantity", "layer", "step")
        labels, codes = {}, {}
        for d in dims:
            column = table[d].tolist()
            # Steps are sorted; names keep the order of the table, which for layers is the forward order.
            known = {v: i for i, v in enumerate(sorted(set(column)) if d == "step" else dict.fromkeys(column))}
            labels[d] = list(known)
            codes[d] = np.array([known[v] for v in column], dtype=np.int64)
        shape = tuple(len(labels[d]) for d in dims)
        where = tuple(codes[d] for d in dims)
        data: dict[str, Any] = {}
        for name in ("value", "low", "high", "ceiling"):
            array = np.full(shape, np.nan)
            array[where] = table[name]
            data[name] = (dims, array)
        epoch = np.full((shape[0], shape[-1]), np.nan)
        epoch[codes["run"], codes["step"]] = table["epoch"]
        return xr.Dataset(data, coords={**labels, "epoch": (("run", "step"), epoch)})

    # Display

    def __repr__(self) -> str:
        def names(column: str) -> str:
            known = list(dict.fromkeys(c for c in self._columns[column].tolist() if c))
            shown = ", ".join(visible(k) for k in known[:6])
            return shown + (f", ... ({len(known)})" if len(known) > 6 else "")

        return (
            f"ResultTable: {len(self)} rows; runs: {names('run')}; layers: {names('layer')}; "
            f"estimators: {names('estimator')}; quantities: {names('quantity')}"
        )

    def _repr_html_(self) -> str:
        shown = (
            "run",
            "step",
            "layer",
            "subset",
            "estimator",
            "quantity",
            "value",
            "bound",
            "ceiling",
            "unit",
            "flags",
        )
        rows = list(range(len(self))) if len(self) <= 20 else [*range(10), *range(len(self) - 10, len(self))]
        lines = ["<tr>" + "".join(f"<th>{c}</th>" for c in shown) + "</tr>"]
        for i in rows:
            if len(self) > 20 and i == len(self) - 10:
                lines.append(f'<tr><td colspan="{len(shown)}">… {len(self) - 20} rows …</td></tr>')
            cells = (self._columns[c][i] for c in shown)
            text = (f"{v:.4g}" if isinstance(v, float) else visible(str(v)) for v in cells)
            lines.append("<tr>" + "".join(f"<td>{html.escape(t)}</td>" for t in text) + "</tr>")
        return f"<p>{html.escape(repr(self))}</p><table>{''.join(lines)}</table>"


def _matches(cell: str, pattern: str) -> bool:
    return cell == pattern or fnmatchcase(cell, pattern)


def _plain_steps(selector: Any) -> Any:
    return selector if isinstance(selector, int | np.integer | np.ndarray) else list(selector)


def _settings(config: str) -> str:
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
