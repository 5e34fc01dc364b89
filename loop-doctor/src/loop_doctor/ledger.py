"""What a logged number is: batch losses added up as they come, and the sums that a logged value agrees with.

Nothing is kept but running sums, the last few thousand of them and one state for each place from which a learner may
have begun to add. So the memory is the same after ten steps and after a million.
"""

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

WINDOWS = 4096  # the longest "mean over the last N steps" that is looked for
AT_ONCE = 64  # losses on an accelerator are fetched together, so that watching does not wait at each step
MAX_SERIES = 12
MAX_TAGS = 64


class State(NamedTuple):
    """The sums after `count` batches: of the losses, of the losses times their batch sizes, and of the batch sizes."""

    count: int = 0
    losses: float = 0.0
    weighted: float = 0.0
    samples: int = 0


class Series:
    """The batch losses of one line of code, in the order in which they were seen.

    Args:
        phase: "train" or "valid".
        reduction: "mean" or "sum": what the loss function makes of a batch; None where that is not known.
        rounded: whether the values were worked back from others and so are rounded.
    """

    def __init__(self, phase: str, reduction: str | None, *, rounded: bool = False):
        self.phase, self.reduction, self.rounded = phase, reduction, rounded
        self._waiting: list[tuple[Tensor | float, int]] = []
        self._now = self._previous = self._epoch = State()
        self._past = deque([State()], maxlen=WINDOWS + 1)
        self.num_epochs = 1
        self.epoch_size = State()
        self.knows_epochs = False
        self.first: list[float] = []
        self.last: deque[float] = deque(maxlen=20)
        self.largest, self.largest_at = -math.inf, 0
        self.nonfinite_at: int | None = None
        self.num_nonfinite = 0
        self.place: object = None
        self.scale = 1.0  # the least factor below 1 with which a loss went into backward()

    def append(self, loss: Tensor | float, samples: int) -> None:
        """Add one batch's loss; `samples` is the size of the batch, or 0 where it is not known."""
        if isinstance(loss, float) and not self._waiting:
            self._add(loss, samples)
            return
        self._waiting.append((loss, samples))
        if len(self._waiting) >= AT_ONCE or isinstance(loss, float):
            self.fold()

    def begin_epoch(self) -> None:
        """Note that the next batch is the first of a pass over the data."""
        self.fold()
        self.knows_epochs = True
        if self._now.count > self._epoch.count:
            self.epoch_size = State(
                self._now.count - self._epoch.count, 0.0, 0.0, self._now.samples - self._epoch.samples
            )
            self._epoch = self._now
            self.num_epochs += 1

    def fold(self) -> None:
        """Take the values that wait into the sums."""
        waiting, self._waiting = self._waiting, []
        tensors = [loss for loss, _ in waiting if isinstance(loss, Tensor)]
        fetched = iter(torch.stack([t.double() for t in tensors]).tolist() if tensors else [])
        for loss, samples in waiting:
            self._add(next(fetched) if isinstance(loss, Tensor) else loss, samples)

    def _add(self, loss: float, samples: int) -> None:
        before = self._now
        count = before.count + 1
        if not math.isfinite(loss):
            self.num_nonfinite += 1
            self.nonfinite_at = self.nonfinite_at or count
        elif loss > self.largest:
            self.largest, self.largest_at = loss, count
        if len(self.first) < 10:
            self.first.append(loss)
        self.last.append(loss)
        self._previous = before
        self._now = State(count, before.losses + loss, before.weighted + loss * samples, before.samples + samples)
        self._past.append(self._now)

    @property
    def now(self) -> State:
        """The sums over every batch seen so far."""
        return self._now

    def since(self, origin: str, tag: "Tag", window: int = 0) -> State:
        """The sums since one of the places from which a learner may add up.

        Args:
            origin: "batch" (this batch alone), "epoch", "log" (since this tag was logged last), "window" or "start".
            tag: whose logs "log" means.
            window: the number of batches for "window".
        """
        if origin == "window":
            past = self._past[-1 - min(window, self._now.count)]
        else:
            past = {
                "batch": self._previous,
                "epoch": self._epoch,
                "log": tag.at.get(id(self), State()),
                "start": State(),
            }[origin]
        now = self._now
        return State(
            now.count - past.count, now.losses - past.losses, now.weighted - past.weighted, now.samples - past.samples
        )

    def windows(self, value: float, tolerance: float) -> Iterator[int]:
        """Give the lengths N of two or more for which `value` is the mean of the last N losses."""
        tolerance = max(tolerance, 1e-6 if self.rounded else 0.0)
        longest = min(self._now.count, WINDOWS)
        lengths = np.arange(2, longest + 1)
        sums = self._now.losses - np.array([state.losses for state in self._past])[-1 - lengths]
        yield from lengths[np.abs(sums - value * lengths) <= tolerance * np.abs(sums) + 1e-300][:8].tolist()


# What a learner divides by: the number of batches added, the number of samples added, or always the same number.
BATCHES, SAMPLES, FIXED = "batches", "samples", "fixed"


@dataclass
class Reading:
    """One thing that a tag's numbers may be; it is dropped as soon as one of them does not agree.

    Attributes:
        series: the losses that are added up.
        origin: where the sum begins: "batch", "epoch", "log", "window" or "start".
        weighted: whether each loss is multiplied by the size of its batch first.
        divisor: BATCHES, SAMPLES or FIXED.
        fixed: the number for FIXED; 1 means that nothing is divided.
        window: the number of batches for "window".
        counts: the least and the largest number of batches that went into one logged number.
        farthest: how many times too large (above 1) or too small the logged number was, where it was worst.
        agreed: how many logged numbers it fitted.
        num_off: how many of them were too large or too small.
    """

    series: Series
    origin: str
    weighted: bool
    divisor: str
    fixed: float = 0.0
    window: int = 0
    counts: tuple[int, int] = (0, 0)
    farthest: float = 1.0
    agreed: int = 0
    num_off: int = 0

    def is_mean_since_start(self) -> bool:
        """Whether this is the mean of every batch loss so far."""
        return self.origin == "start" and self.divisor == BATCHES and not self.weighted

    def agrees(self, value: float, tolerance: float, tag: "Tag") -> bool:
        """Say whether a logged value is what this reading would have logged now."""
        tolerance = max(tolerance, 1e-6 if self.series.rounded else 0.0)
        part = self.series.since(self.origin, tag, self.window)
        total = part.weighted if self.weighted else part.losses
        if part.count == 0 or not math.isfinite(total):
            return False
        if self.divisor == FIXED and self.fixed == 0.0:
            found = total / value if value else 0.0
            self.fixed = float(round(found))
            if self.fixed < 1 or abs(found - self.fixed) > tolerance * abs(found):
                return False
        by = {BATCHES: part.count, SAMPLES: part.samples, FIXED: self.fixed}[self.divisor]
        if by == 0 or abs(total - value * by) > tolerance * abs(total) + 1e-300:
            return False
        self.agreed += 1
        low, high = self.counts
        self.counts = (min(low or part.count, part.count), max(high, part.count))
        proper = part.samples if self.weighted or self.series.reduction == "sum" else part.count
        self.num_off += proper not in (0, by)
        if proper and abs(math.log(proper / by)) > abs(math.log(self.farthest)):
            self.farthest = proper / by
        return True


@dataclass
class Tag:
    """The numbers logged under one name, and what they may be.

    Attributes:
        num_logs: how often it was logged.
        readings: what fits every number so far.
        at: for each series, the state at the last log.
    """

    name: str
    place: object
    num_logs: int = 0
    readings: list[Reading] | None = None
    at: dict[int, State] = field(default_factory=dict)
    exact: bool = True

    def log(self, value: float, every: list[Series]) -> None:
        """Compare a logged number with all that it may still be."""
        self.num_logs += 1
        # A number that fits into 32 bits was added up in 32 bits, so its last digits are rounding.
        single = float(np.float32(value)) == value
        self.exact = self.exact and not single
        tolerance = 1e-5 if single else 1e-9
        if self.readings is None and any(series.now.count for series in every):
            self.readings = [reading for series in every for reading in _readings(series)]
        if self.readings is not None:
            before = self.readings
            self.readings = [reading for reading in before if reading.agrees(value, tolerance, self)]
            if self.num_logs <= 4:
                self.readings += [
                    reading
                    for series in every
                    for reading in _windows(series, value, tolerance)
                    if all((reading.series, reading.window) != (old.series, old.window) for old in self.readings)
                    and reading.agrees(value, tolerance, self)
                ]
            else:  # a moving mean is the mean since the start until it is full; then it shows its length
                self.readings += [
                    reading
                    for old in before
                    if old.is_mean_since_start() and old not in self.readings
                    for reading in _windows(old.series, value, tolerance, agreed=old.agreed)
                    if reading.window >= self.at[id(old.series)].count and reading.agrees(value, tolerance, self)
                ]
        for series in every:
            self.at[id(series)] = series.now

    def meaning(self) -> Reading | None:
        """The plainest reading that fits every number logged, or None."""
        fitting = [
            reading
            for reading in self.readings or []
            if reading.origin != "epoch" or reading.series.knows_epochs
            # One rounded number agrees with some whole divisor, or some window, by chance; three do not.
            if (self.exact and not reading.series.rounded)
            or reading.agreed >= 3
            or not (reading.window or reading.fixed > 1)
        ]
        return min(fitting, key=_plainness, default=None)


def _plainness(reading: Reading) -> tuple[int, int, int]:
    origins = ["batch", "epoch", "log", "start", "window"]
    if reading.divisor == FIXED:
        divisor = 3 if reading.fixed == 1 else 4 if not reading.weighted else 5
    elif reading.weighted == (reading.divisor == SAMPLES):
        divisor = 2 if reading.weighted else 1
    else:
        divisor = 2 if reading.series.reduction == "sum" and not reading.weighted else 4
    # A constant divisor that is the right one at each log is the mean; whichever wrong one is tried comes after it.
    return (0 if reading.origin == "batch" else 1 if divisor < 3 else 2, origins.index(reading.origin), divisor)


def _readings(series: Series) -> Iterator[Reading]:
    if series.now.count == 0:
        return
    yield Reading(series, "batch", False, BATCHES)
    if series.reduction == "sum" and series.now.samples:
        yield Reading(series, "batch", False, SAMPLES)
    for origin in ("epoch", "log", "start"):
        yield Reading(series, origin, False, BATCHES)
        yield Reading(series, origin, False, FIXED, 1.0)
        yield Reading(series, origin, False, FIXED)
        if series.now.samples:
            yield Reading(series, origin, True, SAMPLES)
            yield Reading(series, origin, False, SAMPLES)
            yield Reading(series, origin, True, BATCHES)
            yield Reading(series, origin, True, FIXED, 1.0)
            yield Reading(series, origin, True, FIXED)


def _windows(series: Series, value: float, tolerance: float, *, agreed: int = 0) -> Iterator[Reading]:
    for window in series.windows(value, tolerance):
        yield Reading(series, "window", False, BATCHES, window=window, agreed=agreed)


class Ledger:
    """All series of losses and all tags of one watch."""

    def __init__(self) -> None:
        self.series: dict[object, Series] = {}
        self.tags: dict[str, Tag] = {}

    def of(self, key: object, phase: str, reduction: str | None, *, rounded: bool = False) -> Series | None:
        """The series of one line of code; None where too many lines have one already."""
        found = self.series.get(key)
        if found is None and len(self.series) < MAX_SERIES:
            found = self.series[key] = Series(phase, reduction, rounded=rounded)
        return found

    def fold(self) -> None:
        """Take all waiting values into the sums."""
        for series in self.series.values():
            series.fold()

    def log(self, tag: str, value: float, place: object) -> None:
        """Note that `value` was logged as `tag`."""
        if tag not in self.tags and len(self.tags) >= MAX_TAGS:
            return
        self.fold()
        self.tags.setdefault(tag, Tag(tag, place)).log(value, list(self.series.values()))
