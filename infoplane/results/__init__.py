"""The results table: what an analysis found, one row per quantity. Needs numpy, and pandas for its frames alone."""

from infoplane.results._csv import COLUMNS, KEY, Row
from infoplane.results._files import TableWriter, csv_path
from infoplane.results.names import run_names
from infoplane.results.summary import CurveSummary, Summary, over_runs, summarize
from infoplane.results.table import ResultTable, read_table, user_settings
from infoplane.results.trajectories import Curve, DataProcessing, Plane

__all__ = [
    "COLUMNS",
    "KEY",
    "Curve",
    "CurveSummary",
    "DataProcessing",
    "Plane",
    "ResultTable",
    "Row",
    "Summary",
    "TableWriter",
    "csv_path",
    "over_runs",
    "read_table",
    "run_names",
    "summarize",
    "user_settings",
]
