"""Learning rates: an optimizer by its name, many rates trained at once, one that is looked for, and schedules."""

from course_utils.lr import schedules
from course_utils.lr.finder import Found, Suggestion, find_lr
from course_utils.lr.sweep import OPTIMIZERS, Sweep, descend, iter_sweep_lr, make_optimizer, sweep_lr

__all__ = [
    "OPTIMIZERS",
    "Found",
    "Suggestion",
    "Sweep",
    "descend",
    "find_lr",
    "iter_sweep_lr",
    "make_optimizer",
    "schedules",
    "sweep_lr",
]
