"""The loop doctor watches any training loop and names the mistakes in it. It knows nothing of the course's own loop."""

from loop_doctor.doctor import LoopDoctor, has_problems, load_ipython_extension, run_script
from loop_doctor.explain import Finding

__all__ = ["Finding", "LoopDoctor", "has_problems", "load_ipython_extension", "run_script"]
