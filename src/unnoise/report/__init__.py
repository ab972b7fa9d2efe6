"""report.html: what was measured of a run, with pictures and charts, in one file."""

from unnoise.report.page import Report, write
from unnoise.report.pictures import Pairs
from unnoise.report.run import of_run

__all__ = ["Pairs", "Report", "of_run", "write"]
