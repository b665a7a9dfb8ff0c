"""Pages for people: one HTML file that needs nothing else, made of plain values."""

from pituning.report.examples import Answer, ExampleShown
from pituning.report.page import Report, report_page, write_report
from pituning.report.plane import Plane, Point, grid

__all__ = ["Answer", "ExampleShown", "Plane", "Point", "Report", "grid", "report_page", "write_report"]
