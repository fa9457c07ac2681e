"""Studies: grids of networks computed point by point, kept in a file that survives an interruption, and drawn."""

from gnfast.study.grid import Family, Point, Study
from gnfast.study.jobs import Record
from gnfast.study.results import Results
from gnfast.study.runner import run
from gnfast.study.store import Store

__all__ = ["Family", "Point", "Record", "Results", "Store", "Study", "run"]
