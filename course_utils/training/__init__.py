"""The training loop: `Trainer`, and what it is made of."""

from course_utils.training.callbacks import BestCheckpoint, Callback, EarlyStopping
from course_utils.training.evaluation import Evaluation
from course_utils.training.history import History
from course_utils.training.trainer import Trainer
from course_utils.training.validation import NonFiniteError, RunCompleteError

__all__ = [
    "BestCheckpoint",
    "Callback",
    "EarlyStopping",
    "Evaluation",
    "History",
    "NonFiniteError",
    "RunCompleteError",
    "Trainer",
]
