"""Epochs: when a pass over the data begins, by the DataLoader or by the loop's own counters."""

import inspect
import weakref
from collections.abc import Iterator
from types import FrameType
from typing import Any

from torch.optim import Optimizer

from loop_doctor.ledger import Series

SURE = 8  # looks after which only the names that held whole numbers are looked at


class LoopVariables:
    """The user's own loop variables, which often show when an epoch begins if there is no DataLoader.

    A counter that falls back (`for i, batch in enumerate(...)`) starts again; one that changes rarely and by one
    (`for epoch in range(...)`) has moved on.
    """

    def __init__(self) -> None:
        self.epoch: object = None
        self.num_epochs = 0
        self._last: dict[tuple[str, int, str], int] = {}
        self._still: dict[tuple[str, int, str], int] = {}
        self._names: dict[tuple[str, int], tuple[str, ...]] = {}
        self._looks = 0
        self._falls = False

    def _variables(self, frame: FrameType) -> Iterator[tuple[str, Any]]:
        code = frame.f_code
        function = code.co_filename, code.co_firstlineno
        names = self._names.get(function)
        if names is None:
            inside = code.co_flags & inspect.CO_OPTIMIZED
            names = code.co_varnames + code.co_cellvars + code.co_freevars if inside else code.co_names
            self._names[function] = names
        if not names:
            return
        values = frame.f_locals
        for name in names:
            if name in values:
                yield name, values[name]

    def look(self, frames: list[FrameType]) -> None:
        """Compare the whole numbers in these frames with those at the last look."""
        self._looks += 1
        fell = grew = False
        if self._looks == SURE:  # by now every counter of the loop has been seen
            self._names = {
                function: tuple(name for name in names if (*function, name) in self._last)
                for function, names in self._names.items()
            }
        for frame in frames:
            for name, value in self._variables(frame):
                if type(value) is not int:
                    continue
                key = (frame.f_code.co_filename, frame.f_code.co_firstlineno, name)
                last = self._last.get(key)
                self._last[key] = value
                if last is None or value == last:
                    self._still[key] = self._still.get(key, 0) + 1
                    continue
                still, self._still[key] = self._still.get(key, 0), 0
                if value < last and still == 0 and self._looks > 2:
                    fell = True
                elif value == last + 1 and still >= 2:
                    grew = True
        self._falls = self._falls or fell
        if self.epoch is None or fell or (grew and not self._falls):
            self.epoch = object()
            self.num_epochs += 1

    def optimizers(self, frames: list[FrameType]) -> list[Optimizer]:
        """Return the optimizers that the user's own variables hold."""
        # isinstance() would touch the object, and a dead weak proxy raises then.
        values = (value for frame in frames for _, value in self._variables(frame))
        return [value for value in values if issubclass(type(value), Optimizer) and _is_optimizer(value)]


def _is_optimizer(value: Any) -> bool:
    """Return whether a value is an optimizer itself, and not the wrapper of a library that passes for one."""
    return "param_groups" in vars(value)


class EpochWatcher:
    """Watches which iterator delivers the batches.

    Attributes:
        iterator: the DataLoader's iterator that delivered the last batch, or None without a DataLoader.
        num_delivered: how many batches all DataLoaders have delivered.
        variables: the user's loop variables.
    """

    def __init__(self) -> None:
        self.iterator: Any = None
        self.num_delivered = 0
        self.variables = LoopVariables()
        self._num_iterators = 0
        self._epochs: dict[int, object] = {}

    def finish(self) -> None:
        """Release what belongs to the user."""
        self.iterator, self.variables = None, LoopVariables()

    @property
    def num_passes(self) -> int:
        """How many passes over the data have begun, by iterators of a DataLoader or, without one, by the counters."""
        return self._num_iterators if self.iterator is not None else self.variables.num_epochs

    def dataset(self) -> "weakref.ref[Any] | None":
        """Return a weak reference to the dataset of the current iterator, if it has one that allows it."""
        dataset = getattr(self.iterator, "_dataset", None)
        return weakref.ref(dataset) if hasattr(dataset, "__weakref__") else None

    def begin_epoch_if_due(self, series: Series) -> None:
        """Begin an epoch if a DataLoader began a new pass or, without one, if the loop's own counters show it."""
        series.from_loader = self.iterator is not None
        source = self.iterator if self.iterator is not None else self.variables.epoch
        if self._epochs.setdefault(id(series), source) is not source:
            self._epochs[id(series)] = source
            series.begin_epoch()
        elif self.iterator is not None:
            series.knows_epochs = True

    def delivered(self, iterator: object) -> None:
        """Note that a DataLoader's iterator delivered a batch."""
        self.num_delivered += 1
        if self.iterator is not iterator:
            self.iterator = iterator
            self._num_iterators += 1
