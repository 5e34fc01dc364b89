"""The loop doctor watches any PyTorch training loop while it runs, and names the mistakes in it."""

from loop_doctor.doctor import LoopDoctor, load_ipython_extension
from loop_doctor.explain import Finding

__all__ = ["Finding", "LoopDoctor", "load_ipython_extension"]
