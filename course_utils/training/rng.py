"""Random numbers: where a run draws them from, taken down and put back."""

import random
import sys
from collections.abc import Iterable

import torch

from course_utils.data import Batches
from course_utils.training.distributed import Shard


class RandomStates:
    """The sources of random numbers that a run draws from, so that a resumed run draws the same.

    A loader fixes its order when a pass begins. So the states at the epoch's start are kept as well: a resumed run
    begins the pass from those, lets the batches go by that were done, and takes up the states at the break.

    Args:
        loaders: those of training and validation; generators of their own are kept too.
        kept: False where nothing is saved and nothing needs to be taken down.
    """

    def __init__(self, *loaders: object, kept: bool = True):
        self.own, self.kept = _generators(loaders), kept
        self._epoch: dict | None = None
        self._resume: dict | None = None

    def now(self) -> dict | None:
        """Take down the state of each source: Python, NumPy if in use, PyTorch, CUDA, and the loaders' own."""
        if not self.kept:
            return None
        state = {"python": random.getstate(), "torch": torch.get_rng_state()}
        state["own"] = [each.get_state() for each in self.own]
        if "numpy" in sys.modules:
            name, keys, position, has_gauss, gauss = sys.modules["numpy"].random.get_state()
            state["numpy"] = [name, torch.from_numpy(keys.astype("int64")), position, has_gauss, gauss]
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            state["cuda"] = torch.cuda.get_rng_state_all()
        return state

    def put_back(self, state: dict | None) -> None:
        """Put each source back to a state from `now()`; None leaves all as they are."""
        if state is None:
            return
        random.setstate(state["python"])
        torch.set_rng_state(state["torch"])
        for generator, each in zip(self.own, state["own"], strict=True):
            generator.set_state(each)
        if "numpy" in state:
            import numpy

            name, keys, position, has_gauss, gauss = state["numpy"]
            numpy.random.set_state((name, keys.numpy().astype("uint32"), position, has_gauss, gauss))
        if "cuda" in state and torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["cuda"])

    def before_a_pass(self, loader: object) -> dict | None:
        """Take down the states before a pass over the data, if the loader draws from them: `data.Batches` do not."""
        return None if isinstance(loader, Batches | Shard) else self.now()

    def epoch_begins(self, train: object) -> None:
        """Take down the states before a pass over the training data, or put them there after a resume."""
        if self._resume is None:
            self._epoch = self.before_a_pass(train)
        else:
            self.put_back(self._epoch)

    def caught_up(self) -> None:
        """After a resume, take up the states at the break; else do nothing."""
        self.put_back(self._resume)
        self._resume = None

    def state_dict(self) -> dict:
        """What a checkpoint holds: the states at the epoch's start and now."""
        return {"epoch": self._epoch, "now": self.now()}

    def load_state_dict(self, state: dict, *, in_epoch: bool) -> None:
        """Take over what a checkpoint held; `in_epoch` where the run broke off within a pass over the data."""
        self._epoch = state["epoch"]
        if in_epoch:
            self._resume = state["now"]
        else:
            self.put_back(state["now"])


def _generators(loaders: Iterable[object]) -> list[torch.Generator]:
    """Find the random generators that loaders draw their orders from, each once, in a fixed order."""
    found = []
    for loader in loaders:
        batch_sampler = getattr(loader, "batch_sampler", None)
        samplers = (getattr(loader, "sampler", None), batch_sampler, getattr(batch_sampler, "sampler", None))
        for holder in (loader, *samplers):
            generator = getattr(holder, "generator", None)
            if isinstance(generator, torch.Generator) and not any(generator is each for each in found):
                found.append(generator)
    return found
