"""What a table on disk holds already, so that an analysis goes on where an earlier one stopped."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from infoplane.analysis._tasks import Source
from infoplane.core.strict import canonical_json
from infoplane.results import COLUMNS, ResultTable, Row, TableWriter

CONDITIONAL = "I(X;T|Y)"


class Group(NamedTuple):
    """Rows of one estimate over the steps of a run: the key of the table without step, quantity and source."""

    run: str
    layer: str
    subset: str
    estimator: str
    config: str


class TableIndex:
    """Rows by key, on disk and added since; `add` appends what is not there yet.

    Rows are named by their number: those that were on disk first, then the added ones in order.
    """

    def __init__(self, writer: TableWriter) -> None:
        self.writer = writer
        self._disk = ResultTable(writer.columns)
        self._added: list[Row] = []
        self._groups: dict[Group, dict[tuple[int, str], dict[str, int]]] = {}
        self._configs: dict[tuple[str, str, str, str], list[str]] = {}
        names = ("run", "layer", "subset", "estimator", "config", "step", "source", "quantity")
        last: tuple[Group, tuple[int, str]] | None = None
        for i, (*group, step, source, quantity) in enumerate(
            zip(*(writer.columns[n].tolist() for n in names), strict=True)
        ):
            last = Group(*group), (step, source)
            self._insert(*last, quantity, i)
        self._tail = last if writer.unsealed else None

    def _insert(self, group: Group, key: tuple[int, str], quantity: str, number: int) -> bool:
        steps = self._groups.get(group)
        if steps is None:
            steps = self._groups[group] = {}
            self._configs.setdefault(group[:4], []).append(group.config)
        row = steps.setdefault(key, {})
        return row.setdefault(quantity, number) == number

    def add(self, rows: Iterable[Row]) -> None:
        """Append the rows whose key is new, in one synced write."""
        fresh: list[Row] = []
        for row in rows:
            group = Group(row.run, row.layer, row.subset, row.estimator, row.config)
            number = len(self._disk) + len(self._added) + len(fresh)
            if self._insert(group, (row.step, row.source), row.quantity, number):
                fresh.append(row)
        self.writer.append(fresh)
        self._added += fresh

    def numbers(self, group: Group, key: tuple[int, str]) -> dict[str, int]:
        """Numbers of the rows of a step, by quantity, in the order they were written."""
        return self._groups.get(group, {}).get(key, {})

    def row(self, number: int) -> Row:
        if number >= len(self._disk):
            return self._added[number - len(self._disk)]
        return Row(*(self._disk[c][number] for c in COLUMNS))

    def table(self, numbers: list[int]) -> ResultTable:
        """The rows of these numbers, with the table's meta."""
        meta = {k: v for k, v in self.writer.meta.items() if k != "table"}
        table = ResultTable.concat([self._disk, ResultTable.from_rows(self._added)])
        table = table.take(np.array(numbers, dtype=np.int64))
        table.meta = meta
        return table

    def missing(self, group: Group, source: Source, *, whole: bool) -> list[int]:
        """Steps of a block that are still to be estimated; with `whole`, all of them or none.

        Where the writer was killed or the file was cut, the rows at its end may be a part of their block. The
        block counts as done when its last step has the quantities of its first.
        """
        steps = self._groups.get(group, {})
        missing = [step for step, d in source.keys if not _estimated(steps.get((step, d), {}))]
        if self._tail is not None and self._tail[0] == group and self._tail[1] in source.keys:
            first, last = source.keys[0], source.keys[-1]
            if missing or first == last or list(steps[first]) != list(steps[last]):
                return list(source.steps)
        return list(source.steps) if missing and whole else missing

    def known_config(self, group: Group, subsets: Iterable[str], source: Source) -> str | None:
        """The prepared form of `group.config` under which every step of these subsets is estimated already.

        The steps and contents must be the very ones: what `prepare` finds depends on all of them.
        """
        wanted = set(source.keys)
        for config in self._configs.get(group[:4], ()):
            if _settings(config) != group.config:
                continue
            groups = [group._replace(subset=name, config=config) for name in subsets]
            if all(self._complete(g, wanted) for g in groups):
                return config
        return None

    def _complete(self, group: Group, wanted: set[tuple[int, str]]) -> bool:
        steps = self._groups.get(group, {})
        if self._tail is not None and self._tail[0] == group:
            return False
        return {key for key, row in steps.items() if _estimated(row)} == wanted


def _estimated(row: dict[str, int]) -> bool:
    """Whether a step has rows of an estimator, not only the mean over classes derived from other rows."""
    return any(not quantity.startswith(CONDITIONAL) for quantity in row)


def _settings(config: str) -> str:
    fields = json.loads(config)
    fields.pop("prepared", None)
    return canonical_json(fields).decode()
