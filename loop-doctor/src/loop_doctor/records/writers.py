"""What was seen of the writers and of the values that were logged."""

import weakref
from dataclasses import dataclass, field
from typing import Any

from loop_doctor.call_sites import Location
from loop_doctor.records.parts import Tally

STEPS = 64  # the steps of one tag that are compared: the first ones


@dataclass(eq=False)
class StepLog:
    """The first steps at which one tag of one writer was logged, and whether they came again with other values.

    Attributes:
        library: where it was logged: "tensorboard", "wandb" or "mlflow".
        tag: its name.
        num_compared: how many values were compared.
        num_without_step: how many of them were logged without a step.
        most: the largest number of values at one step, and that step.
        repeats: the values at a step that already had another one.
    """

    library: str
    tag: str
    num_compared: int = 0
    num_without_step: int = 0
    most: tuple[int, int] = (1, 0)
    repeats: Tally = field(default_factory=Tally)
    _seen: dict[int, tuple[float, int, object]] = field(default_factory=dict)

    def log(self, step: int | None, value: float, progress: object, location: Location | None) -> None:
        """Compare a value with those that were logged at the same step.

        Args:
            step: the step, or None if none was given.
            value: the value.
            progress: something that changes as the training goes on. Values that are logged at once, such as the
                learning rates of several groups, or the returns of several games, belong to one moment.
            location: the line that logged it.
        """
        where = step or 0
        seen = self._seen.get(where)
        if seen is None:
            if len(self._seen) == STEPS:
                return
            self._seen[where] = value, 1, progress
        else:
            last, count, before = seen
            if value != last and progress != before and not (value != value and last != last):
                count += 1
                self.repeats.note(location)
                self.most = max(self.most, (count, where), key=lambda pair: pair[0])
            self._seen[where] = value, count, progress
        self.num_compared += 1
        self.num_without_step += step is None


@dataclass(eq=False)
class WriterRecord:
    """One TensorBoard writer."""

    ref: "weakref.ref[Any]"
    folder: str
    made_inside: bool
    location: Location | None
    num_written: int = 0
    closed_at: Location | None = None
    num_closes: int = 0
    written_after_close: Tally = field(default_factory=Tally)
    closed_again: Tally = field(default_factory=Tally)
    num_since_close: int = 0

    def open(self) -> bool:
        """Return whether it is open now, or was when it was last seen."""
        writer = self.ref()
        if writer is None:
            return self.closed_at is None or self.num_since_close > 0
        return writer.all_writers is not None
