"""The package that the notebooks share. Importing it costs PyTorch and nothing else."""

from course_utils.data import Batches, Data, load, resolve_device, seed_everything
from course_utils.lr import OPTIMIZERS, Sweep, iter_sweep_lr, make_optimizer, sweep_lr
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
    "History",
    "NonFiniteError",
    "RunCompleteError",
    "Sweep",
    "Trainer",
    "iter_sweep_lr",
    "load",
    "make_model",
    "make_optimizer",
    "resolve_device",
    "seed_everything",
    "sweep_lr",
]
