"""Random numbers: the generators that a run draws from, and their states."""

import random
import sys
from collections.abc import Iterable
from typing import Any

import torch

from course_utils.data import Batches
from course_utils.training.distributed import Shard
from course_utils.training.loaders import samplers

State = dict[str, Any]


class RandomStates:
    """The states of all generators that a run draws from, so that a resumed run draws the same numbers.

    A loader fixes its order when a pass begins, so the states at the start of the epoch are kept as well. A resumed
    run begins the pass from those, skips the batches that were done, and then continues from the states at the break.

    Args:
        loaders: those of training and validation; their own generators are included.
        enabled: False when nothing is saved; then no states are read.
    """

    def __init__(self, *loaders: object, enabled: bool = True):
        self.generators, self.enabled = _generators(loaders), enabled
        self._epoch: State | None = None
        self._at_break: State | None = None

    def get_state(self) -> State | None:
        """Return the state of Python, NumPy if it is imported, PyTorch, CUDA, and the loaders' own generators."""
        if not self.enabled:
            return None
        state: State = {"python": random.getstate(), "torch": torch.get_rng_state()}
        state["own"] = [generator.get_state() for generator in self.generators]
        if "numpy" in sys.modules:
            name, keys, position, has_gauss, gauss = sys.modules["numpy"].random.get_state()
            state["numpy"] = [name, torch.from_numpy(keys.astype("int64")), position, has_gauss, gauss]
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            state["cuda"] = torch.cuda.get_rng_state_all()
        return state

    def set_state(self, state: State | None) -> None:
        """Set each generator to its state from `get_state`; None leaves all of them as they are."""
        if state is None:
            return
        random.setstate(state["python"])
        torch.set_rng_state(state["torch"])
        for generator, saved in zip(self.generators, state["own"], strict=True):
            generator.set_state(saved)
        if "numpy" in state:
            import numpy

            name, keys, position, has_gauss, gauss = state["numpy"]
            numpy.random.set_state((name, keys.numpy().astype("uint32"), position, has_gauss, gauss))
        if "cuda" in state and torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["cuda"])

    def state_before_pass(self, loader: object) -> State | None:
        """Return the state before a pass; None for `data.Batches`, whose order depends on seed and epoch alone."""
        return None if isinstance(loader, Batches | Shard) else self.get_state()

    def begin_epoch(self, train: object) -> None:
        """Keep the states at the start of an epoch or, after a resume, restore them."""
        if self._at_break is None:
            self._epoch = self.state_before_pass(train)
        else:
            self.set_state(self._epoch)

    def end_skipping(self) -> None:
        """Restore the states at the break after a resume has skipped the batches that were done; else do nothing."""
        self.set_state(self._at_break)
        self._at_break = None

    def state_dict(self) -> State:
        """Return the states at the start of the epoch and now, for a checkpoint."""
        return {"epoch": self._epoch, "now": self.get_state()}

    def load_state_dict(self, state: State, *, in_epoch: bool) -> None:
        """Restore what `state_dict` returned; `in_epoch` if the run broke off within a pass over the data."""
        self._epoch = state["epoch"]
        if in_epoch:
            self._at_break = state["now"]
        else:
            self.set_state(state["now"])


def _generators(loaders: Iterable[object]) -> list[torch.Generator]:
    """Return the generators that loaders and their samplers draw from, each once, in a fixed order."""
    found: list[torch.Generator] = []
    for loader in loaders:
        for holder in (loader, *samplers(loader)):
            generator = getattr(holder, "generator", None)
            if isinstance(generator, torch.Generator) and not any(generator is each for each in found):
                found.append(generator)
    return found
