"""What needs more than one layer at one step: functions over results and known distributions that return rows."""

from infoplane.diagnostics.compression import compression_score
from infoplane.diagnostics.ib_frontier import Frontier, ib_frontier

__all__ = ["Frontier", "compression_score", "ib_frontier"]
