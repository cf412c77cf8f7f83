"""What a table on disk holds already, so that an analysis goes on where an earlier one stopped."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

from infoplane.analysis.source import LayerSteps
from infoplane.results import COLUMNS, ResultTable, Row, TableWriter, user_settings
from infoplane.results.names import lasting, placed

CONDITIONAL = "I(X;T|Y)"
"""Beginning of the names of means over classes."""

Content = tuple[int, str]  # a step and the digest of what was recorded there


class Estimate(NamedTuple):
    """What the rows of one estimate have in common at all steps: the key of a row without step, quantity and source.

    `partner` is the second layer of a pair, by a name that is the same at all steps; "" for a single layer.
    """

    run: str
    layer: str
    subset: str
    estimator: str
    config: str
    partner: str = ""

    @property
    def settled(self) -> tuple[str, ...]:
        """All fields but the config, which may hold what `prepare` found and so is not known beforehand."""
        return (*self[:4], self.partner)


def open_table(path: Path) -> TableWriter:
    """The table opened for writing; where that is not permitted, the error has a note on what to do."""
    try:
        return TableWriter(path)
    except PermissionError as error:
        error.add_note("give table=PATH to keep the results elsewhere")
        raise


class TableIndex:
    """The rows of a table by key: those that were on disk, and those added since. `add` appends what is new.

    Rows are named by their number: first those that were on disk, then the added ones in order.
    """

    def __init__(self, writer: TableWriter) -> None:
        """Note the key of every row on disk, and whether the rows at its end may be cut short."""
        self.writer = writer
        self._disk = ResultTable(writer.columns)
        self._columns = [self._disk[c] for c in COLUMNS]
        self._added: list[Row] = []
        self._numbers: dict[Estimate, dict[Content, dict[str, int]]] = {}
        self._configs: dict[tuple[str, ...], list[str]] = {}
        # The fields of `Estimate`, then those of `Content` and the quantity: together the key of a row.
        names = ("run", "layer", "subset", "estimator", "config", "partner", "step", "source", "quantity")
        last: tuple[Estimate, Content] | None = None
        columns = {name: writer.columns[name].tolist() for name in names}
        columns["partner"] = list(map(cache(lasting), columns["partner"]))
        for i, (*key, step, source, quantity) in enumerate(zip(*columns.values(), strict=True)):
            last = Estimate(*key), (step, source)
            self._insert(*last, quantity, i)
        # Estimate and content of the last row, where the table was cut short: the block that it is of may lack rows.
        self._tail = last if writer.unsealed else None

    def _insert(self, estimate: Estimate, content: Content, quantity: str, number: int) -> bool:
        """Note the row's number under its key, unless the key has one already; return whether the key is new."""
        steps = self._numbers.get(estimate)
        if steps is None:
            steps = self._numbers[estimate] = {}
            self._configs.setdefault(estimate.settled, []).append(estimate.config)
        return steps.setdefault(content, {}).setdefault(quantity, number) == number

    def add(self, rows: Iterable[Row]) -> None:
        """Append the rows whose key is new, in one synced write."""
        fresh: list[Row] = []
        for row in rows:
            estimate = Estimate(row.run, row.layer, row.subset, row.estimator, row.config, lasting(row.partner))
            number = len(self._disk) + len(self._added) + len(fresh)
            if self._insert(estimate, (row.step, row.source), row.quantity, number):
                fresh.append(row)
        self.writer.append(fresh)
        self._added += fresh

    def numbers(self, estimate: Estimate, content: Content) -> dict[str, int]:
        """Return {quantity: number of its row} at a step, in the order they were written; empty where there is none."""
        return self._numbers.get(estimate, {}).get(content, {})

    def row(self, number: int) -> Row:
        """The row of this number."""
        if number >= len(self._disk):
            return self._added[number - len(self._disk)]
        return Row(*(column[number] for column in self._columns))

    def table(self, numbers: list[int]) -> ResultTable:
        """The rows of these ascending numbers, with the table's meta."""
        old = len(self._disk)
        disk = self._disk.take([n for n in numbers if n < old])
        table = ResultTable.concat([disk, ResultTable.from_rows(self._added[n - old] for n in numbers if n >= old)])
        table.meta = placed(self.writer.meta, self.writer.path)
        table.meta.pop("table", None)  # the digest of the file, which does not fit a part of its rows
        return table

    def missing(self, estimate: Estimate, block: LayerSteps, *, whole: bool) -> LayerSteps:
        """Return the steps of a block that are still to be estimated; with `whole`, all of them or none.

        Where the writer was killed or the file was cut, the rows at its end may be only a part of their block. This
        last block counts as done when it has several steps and the last has the quantities of the first, else all of
        it is returned.
        """
        steps = self._numbers.get(estimate, {})
        missing = [step for step, d in block.keys if not _estimated(steps.get((step, d), {}))]
        if self._tail is not None and self._tail[0] == estimate and self._tail[1] in block.keys:
            first, last = block.keys[0], block.keys[-1]
            if missing or first == last or list(steps[first]) != list(steps[last]):
                return block
        return block if missing and whole else block.at(missing)

    def known_config(self, estimate: Estimate, subsets: Iterable[str], layer: LayerSteps) -> str | None:
        """Return the config, with what `prepare` found, under which all these subsets are estimated at every step.

        None where the table has no such config. Steps and contents must be exactly those of the layer now: what
        `prepare` finds depends on all of them. `estimate.config` is the config without what `prepare` found.
        """
        wanted = set(layer.keys)
        for config in self._configs.get(estimate.settled, ()):
            if user_settings(config) != estimate.config:
                continue
            if all(self._complete(estimate._replace(subset=name, config=config), wanted) for name in subsets):
                return config
        return None

    def _complete(self, estimate: Estimate, wanted: set[Content]) -> bool:
        """Whether exactly the steps `wanted` are estimated; False where the file was cut short in their rows."""
        if self._tail is not None and self._tail[0] == estimate:
            return False
        return {c for c, numbers in self._numbers.get(estimate, {}).items() if _estimated(numbers)} == wanted


def _estimated(numbers: dict[str, int]) -> bool:
    """Whether a step has rows of the estimator itself, not only the mean over classes derived from others."""
    return any(not quantity.startswith(CONDITIONAL) for quantity in numbers)
