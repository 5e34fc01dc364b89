"""The labs: the only part of the course that needs ipywidgets."""

from course_utils.labs.learning_rate import LearningRateLab
from course_utils.labs.prediction import Prediction
from course_utils.labs.quadratic import QuadraticLab

__all__ = ["LearningRateLab", "Prediction", "QuadraticLab"]
