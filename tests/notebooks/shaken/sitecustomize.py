"""Let every model begin a rounding error away: in each Python that finds this file on its PYTHONPATH, or runs it.

Another processor adds up in another order, and its sums end a rounding error away. What PyTorch draws for fresh weights
is moved by about as much here.
"""

import functools
import importlib.abc
import importlib.machinery
import sys

INIT = "torch.nn.init"


def shake(init):
    for name in ("kaiming_uniform_", "normal_", "uniform_"):
        setattr(init, name, shaken(getattr(init, name)))


def shaken(fill):
    @functools.wraps(fill)
    def fill_and_shake(*args, **kwargs):
        filled = fill(*args, **kwargs)
        filled.detach().mul_(1 + 2**-22)
        return filled

    return fill_and_shake


class Shaking(importlib.abc.MetaPathFinder):
    """Shakes what is imported later: torch takes seconds, and not every program needs it."""

    def find_spec(self, name, path, target=None):
        if name != INIT:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        load = spec.loader.exec_module

        def load_and_shake(module):
            load(module)
            shake(module)

        spec.loader.exec_module = load_and_shake
        return spec


if INIT in sys.modules:
    shake(sys.modules[INIT])
else:
    sys.meta_path.insert(0, Shaking())
