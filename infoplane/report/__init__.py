"""The interactive report: one HTML file with warnings, plane, curves and settings. Needs numpy."""

from infoplane.report.doubts import Doubt, doubts
from infoplane.report.page import report_html, write_report

__all__ = ["Doubt", "doubts", "report_html", "write_report"]
