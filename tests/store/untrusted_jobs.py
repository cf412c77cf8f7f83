"""What limited calls read, and what they find wrong."""

from __future__ import annotations

from infoplane.core import StoreError
from infoplane.results import ResultTable
from infoplane.store import open_run, summarize


def read_run(path: str) -> list[str]:
    """Everything that a reader can ask for; what is wrong."""
    store = open_run(path)
    str(summarize(store))
    for layer in store.layers:
        for step in store.steps(layer.key):
            try:
                store.read(layer.key, [step])
            except StoreError:
                assert store.problems
    return [str(problem) for problem in [*store.problems, *store.verify()]]


def verify(path: str) -> list[str]:
    return [str(problem) for problem in open_run(path).verify()]


def read_table(path: str) -> list[str]:
    table = ResultTable.read(path)
    table.plane()
    return []
