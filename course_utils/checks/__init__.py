"""The exercises' checks: each compares with an oracle and names the misconception behind a wrong answer."""

from course_utils.checks.item import count_nodes, lean_validation, read_once_a_window, what_comes_back
from course_utils.checks.learning_rate import descend, diagnose, largest_rate
from course_utils.checks.optimizers import adam_step, forgotten, make_groups, momentum_step, new_head, sgd_step
from course_utils.checks.report import report
from course_utils.checks.running_loss import books, name_curve, predict_curve, recover, window_means
from course_utils.checks.schedules import cured_schedule, even_ratios, read_finder, try_rate, warmup_cosine
from course_utils.checks.start import beside_script, follow_path, train_one_epoch, what_changes
from course_utils.checks.whole_loop import drawn_points, remembers_gradients, save_state, two_curves
from course_utils.checks.writer import log_image, log_losses, survivors, train_and_log
from course_utils.checks.zero_grad import accumulate, ball_without_clearing, cured_loop, grad_after

__all__ = [
    "accumulate",
    "adam_step",
    "ball_without_clearing",
    "beside_script",
    "books",
    "count_nodes",
    "cured_loop",
    "cured_schedule",
    "descend",
    "diagnose",
    "drawn_points",
    "even_ratios",
    "follow_path",
    "forgotten",
    "grad_after",
    "largest_rate",
    "lean_validation",
    "log_image",
    "log_losses",
    "make_groups",
    "momentum_step",
    "name_curve",
    "new_head",
    "predict_curve",
    "read_finder",
    "read_once_a_window",
    "recover",
    "remembers_gradients",
    "report",
    "save_state",
    "sgd_step",
    "survivors",
    "train_and_log",
    "train_one_epoch",
    "try_rate",
    "two_curves",
    "warmup_cosine",
    "what_changes",
    "what_comes_back",
    "window_means",
]
