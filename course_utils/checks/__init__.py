"""The exercises' checks: each compares with an oracle and names the misconception behind a wrong answer."""

from course_utils.checks.learning_rate import descend, diagnose, largest_rate
from course_utils.checks.results import report

__all__ = [
    "descend",
    "diagnose",
    "largest_rate",
    "report",
]
