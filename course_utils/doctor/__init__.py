"""The loop doctor watches any training loop and names the mistakes in it. It knows nothing of the course's own loop."""

from course_utils.doctor.explain import Finding
from course_utils.doctor.loop_doctor import LoopDoctor, has_problems, load_ipython_extension, run_script

__all__ = ["Finding", "LoopDoctor", "has_problems", "load_ipython_extension", "run_script"]
