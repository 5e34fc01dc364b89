"""Learning rates: an optimizer by its name, many rates trained at once, one that is looked for, and schedules."""

from course_utils.lr.sweep import OPTIMIZERS, Sweep, descend, iter_sweep_lr, make_optimizer, sweep_lr

__all__ = ["OPTIMIZERS", "Sweep", "descend", "iter_sweep_lr", "make_optimizer", "sweep_lr"]
