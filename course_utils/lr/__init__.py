"""Learning rates: a finder, sweeps that train many rates at once, and schedules."""

from course_utils.lr import schedules
from course_utils.lr.finder import LRFinderResult, Suggestion, find_lr
from course_utils.lr.sweep import Sweep, descend, iter_sweep_lr, sweep_lr

__all__ = [
    "LRFinderResult",
    "Suggestion",
    "Sweep",
    "descend",
    "find_lr",
    "iter_sweep_lr",
    "schedules",
    "sweep_lr",
]
