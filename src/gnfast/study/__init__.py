"""Studies: a grid of networks computed point by point, kept in a file that survives an interruption, and drawn."""

from gnfast.study.grid import Family, Point, Study
from gnfast.study.runner import compute, run
from gnfast.study.store import Outcome, Record, Store

__all__ = ["Family", "Outcome", "Point", "Record", "Store", "Study", "compute", "run"]
