"""The package that the notebooks share. Importing it costs PyTorch and nothing else."""

from course_utils.data import Batches, Data, load, resolve_device, seed_everything
from course_utils.lr import (
    OPTIMIZERS,
    Found,
    Suggestion,
    Sweep,
    find_lr,
    iter_sweep_lr,
    make_optimizer,
    schedules,
    sweep_lr,
)
from course_utils.meters import History
from course_utils.models import CNN, MLP, MODELS, make_model
from course_utils.training import Evaluation, NonFiniteError, RunCompleteError, Trainer

__all__ = [
    "CNN",
    "MLP",
    "MODELS",
    "OPTIMIZERS",
    "Batches",
    "Data",
    "Evaluation",
    "Found",
    "History",
    "NonFiniteError",
    "RunCompleteError",
    "Suggestion",
    "Sweep",
    "Trainer",
    "find_lr",
    "iter_sweep_lr",
    "load",
    "make_model",
    "make_optimizer",
    "resolve_device",
    "schedules",
    "seed_everything",
    "sweep_lr",
]
