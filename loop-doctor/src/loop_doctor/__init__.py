"""The loop doctor watches any PyTorch training loop while it runs, and names the mistakes in it."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loop_doctor.doctor import LoopDoctor, load_ipython_extension
    from loop_doctor.explain import Finding

__all__ = ["Finding", "LoopDoctor", "load_ipython_extension"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: pytest imports this package at every start, also without PyTorch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module("loop_doctor.doctor"), name)
    return value
