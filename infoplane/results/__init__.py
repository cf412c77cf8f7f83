"""The results table: what an analysis found, one row per quantity. Needs numpy only."""

from infoplane.results._csv import COLUMNS, KEY, Row
from infoplane.results._files import TableWriter
from infoplane.results._views import Curve, DataProcessing, Plane
from infoplane.results.table import ResultTable, read_table

__all__ = [
    "COLUMNS",
    "KEY",
    "Curve",
    "DataProcessing",
    "Plane",
    "ResultTable",
    "Row",
    "TableWriter",
    "read_table",
]
