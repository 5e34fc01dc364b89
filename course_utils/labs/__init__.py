"""The labs: the only part of the course that needs ipywidgets."""

from course_utils.labs.item import ItemLab
from course_utils.labs.learning_rate import LearningRateLab
from course_utils.labs.machine import MachineCard
from course_utils.labs.optimizer import OptimizerLab
from course_utils.labs.prediction import Prediction
from course_utils.labs.quadratic import QuadraticLab
from course_utils.labs.running_loss import RunningLossLab
from course_utils.labs.schedule import ScheduleLab
from course_utils.labs.tensorboard_panel import TensorBoardPanel
from course_utils.labs.training import TrainingLab
from course_utils.labs.writer import WriterLab
from course_utils.labs.zero_grad import ZeroGradLab

__all__ = [
    "ItemLab",
    "LearningRateLab",
    "MachineCard",
    "OptimizerLab",
    "Prediction",
    "QuadraticLab",
    "RunningLossLab",
    "ScheduleLab",
    "TensorBoardPanel",
    "TrainingLab",
    "WriterLab",
    "ZeroGradLab",
]
