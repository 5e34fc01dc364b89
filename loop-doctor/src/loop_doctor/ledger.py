"""Work out what a logged number is: add up batch losses as they come, and compare each logged value with the sums.

Only running sums are kept: the last few thousand of them, and one for each point at which a user may have started to
add. So the memory is the same after ten steps and after a million.
"""

import ctypes
import math
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from loop_doctor.call_sites import Location

WINDOWS = 4096  # the longest "mean over the last N steps" that is looked for
MATCHES = 8  # windows that one logged value may fit
AT_ONCE = 64  # losses on an accelerator are fetched together, so that watching does not wait at each step
MAX_SERIES = 12
MAX_TAGS = 64
MAX_SHOWN = 32
LOSS_NAMES = re.compile(r"loss|nll|elbo|error|mse|objective", re.IGNORECASE)


class Sums(NamedTuple):
    """The sums over some batches: of the losses, of the losses times their batch sizes, and of the batch sizes."""

    batches: int = 0
    losses: float = 0.0
    weighted: float = 0.0
    samples: int = 0


class Series:
    """The batch losses of one line of code, in the order in which they were seen.

    Args:
        phase: "train" or "valid".
        reduction: "mean" or "sum", as in the loss function; None if it is not known.
        rounded: whether the values were computed back from others, and so are rounded.
    """

    def __init__(self, phase: str, reduction: str | None, *, rounded: bool = False):
        self.phase, self.reduction, self.rounded = phase, reduction, rounded
        self._waiting: list[tuple[Tensor | float, int]] = []
        self._now = self._previous = self._epoch = Sums()
        self._past = deque([Sums()], maxlen=WINDOWS + 1)
        self.num_epochs = 1
        self.epoch_size = Sums()
        self.knows_epochs = False
        self.first: list[float] = []
        self.last: deque[float] = deque(maxlen=20)
        self.largest = -math.inf
        self.nonfinite_at: int | None = None
        self.num_nonfinite = 0
        self.location: Location | None = None
        self.scale = 1.0  # the least factor below 1 with which a loss went into backward()
        self.smallest = math.inf
        self.is_root = False  # whether these are the very numbers that backward() started from
        self.is_by_hand = False  # whether a mean() made them, and not one of PyTorch's loss functions
        self.from_loader = False  # whether a DataLoader's passes are the epochs
        self.per_row = 1  # over how many elements of one row the loss function takes its mean
        self.has_several = False  # whether one batch gave several values, such as one for each time step
        self.turn = -1  # a number that changes from batch to batch

    def append(self, loss: Tensor | float, samples: int) -> None:
        """Add one batch's loss; `samples` is the size of the batch, or 0 if it is not known."""
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
        if self._now.batches > self._epoch.batches:
            self.epoch_size = Sums(
                self._now.batches - self._epoch.batches, 0.0, 0.0, self._now.samples - self._epoch.samples
            )
            self._epoch = self._now
            self.num_epochs += 1

    def fold(self) -> None:
        """Add the waiting values to the sums."""
        waiting, self._waiting = self._waiting, []
        tensors = [loss for loss, _ in waiting if isinstance(loss, Tensor)]
        fetched = iter(torch.stack([t.double() for t in tensors]).tolist() if tensors else [])
        for loss, samples in waiting:
            self._add(next(fetched) if isinstance(loss, Tensor) else loss, samples)

    def _add(self, loss: float, samples: int) -> None:
        before = self._now
        count = before.batches + 1
        if not math.isfinite(loss):
            self.num_nonfinite += 1
            self.nonfinite_at = self.nonfinite_at or count
        else:
            if loss > self.largest:
                self.largest = loss
            if loss < self.smallest:
                self.smallest = loss
        if len(self.first) < 10:
            self.first.append(loss)
        self.last.append(loss)
        self._previous = before
        sums = count, before.losses + loss, before.weighted + loss * samples, before.samples + samples
        self._now = tuple.__new__(Sums, sums)  # Sums(…) takes three times as long, at each loss
        self._past.append(self._now)

    def varies(self) -> bool:
        """Return whether the losses differ enough to distinguish their sums from a counter."""
        return self.largest - self.smallest > 1e-3 * abs(self.largest)

    @property
    def epoch_start(self) -> Sums:
        """Return the sums at the beginning of this epoch."""
        return self._epoch

    @property
    def now(self) -> Sums:
        """Return the sums over every batch seen so far."""
        return self._now

    def since(self, origin: str, tag: "Tag", window: int = 0) -> Sums:
        """Return the sums since one of the points at which a user may start to add.

        Args:
            origin: "batch" (this batch alone), "epoch", "log" (since this tag was logged last), "window" or "start".
            tag: whose logs "log" means.
            window: the number of batches for "window".
        """
        if origin == "window":
            past = self._past[-1 - min(window, self._now.batches)]
        else:
            past = {
                "batch": self._previous,
                "epoch": self._epoch,
                "log": tag.at.get(id(self), Sums()),
                "start": Sums(),
            }[origin]
        now = self._now
        return Sums(
            now.batches - past.batches,
            now.losses - past.losses,
            now.weighted - past.weighted,
            now.samples - past.samples,
        )

    def windows(self, value: float, tolerance: float) -> Iterator[int]:
        """Yield the lengths N of two or more for which `value` is the mean of the last N losses."""
        tolerance = max(tolerance, 1e-6 if self.rounded else 0.0)
        longest, total = min(self._now.batches, WINDOWS), self._now.losses
        found = 0
        for length, past in enumerate(islice(reversed(self._past), 2, longest + 1), 2):
            losses = total - past.losses
            if abs(losses - value * length) <= tolerance * abs(losses) + 1e-300:
                yield length
                found += 1
                if found == MATCHES:
                    return


# What a user divides by: the number of batches added, the number of samples added, or always the same number.
BATCHES, SAMPLES, FIXED = "batches", "samples", "fixed"


@dataclass
class Reading:
    """One thing that a tag's values may be; it is dropped as soon as one of them does not agree.

    Attributes:
        series: the losses that are added up.
        origin: where the sum starts: "batch", "epoch", "log", "window" or "start".
        weighted: whether each loss is multiplied by the size of its batch first.
        divisor: BATCHES, SAMPLES or FIXED.
        fixed: the number for FIXED; 1 means that the sum is not divided.
        window: the number of batches for "window".
        counts: the smallest and the largest number of batches in one logged value.
        farthest: how many times too large (above 1) or too small the worst logged value was.
        used, proper: by what the worst logged value was divided, and by what it should have been.
        agreed: how many logged values it fitted.
        num_off: how many of them were too large or too small.
        by_samples: whether the divisor was always the number of samples in the sum.
        by_one: whether the divisor was always one more or one less than the number of batches in the sum.
        by_epoch: whether exactly one whole epoch lies between any two logged values, and before the first.
        last: the last logged value.
        alone: the mean of its epoch alone.
    """

    series: Series
    origin: str
    weighted: bool
    divisor: str
    fixed: float = 0.0
    window: int = 0
    counts: tuple[int, int] = (0, 0)
    farthest: float = 1.0
    used: float = 0.0
    proper: int = 0
    agreed: int = 0
    num_off: int = 0
    by_samples: bool = True
    by_one: bool = True
    by_epoch: bool = True
    last: float = 0.0
    alone: float = 0.0

    def is_whole_mean(self) -> bool:
        """Return whether each batch, or each sample, counts the same in it."""
        if self.weighted or (self.series.reduction == "sum" and self.divisor == SAMPLES):
            return self.divisor == SAMPLES
        return self.divisor == BATCHES

    def is_mean_since_start(self) -> bool:
        """Return whether this is the mean of every batch loss so far."""
        return self.origin == "start" and self.divisor == BATCHES and not self.weighted

    def agrees(self, value: float, tolerance: float, tag: "Tag") -> bool:
        """Return whether a logged value is what this reading would have logged now."""
        tolerance = max(tolerance, 1e-6 if self.series.rounded else 0.0)
        part = self.series.since(self.origin, tag, self.window)
        total = part.weighted if self.weighted else part.losses
        if part.batches == 0 or not math.isfinite(total) or not math.isfinite(value):
            return False
        if self.divisor == FIXED and self.fixed == 0.0:
            found = total / value if value else 0.0
            self.fixed = float(round(found)) if math.isfinite(found) else 0.0  # a quotient can be too large
            if self.fixed < 1 or abs(found - self.fixed) > tolerance * abs(found):
                # Only a sum that goes on growing shows that it is one, whatever it is divided by.
                if self.origin != "start" or found <= 0 or not math.isfinite(found):
                    return False
                self.fixed = found
        by = {BATCHES: part.batches, SAMPLES: part.samples, FIXED: self.fixed}[self.divisor]
        if by == 0 or abs(total - value * by) > tolerance * abs(total) + 1e-300:
            return False
        self.agreed += 1
        low, high = self.counts
        self.counts = (min(low or part.batches, part.batches), max(high, part.batches))
        proper = part.samples if self.weighted or self.series.reduction == "sum" else part.batches
        self.num_off += proper not in (0, by)
        if proper and abs(math.log(proper / by)) > abs(math.log(self.farthest)):
            self.farthest, self.used, self.proper = proper / by, by, proper
        self.by_samples = self.by_samples and by == part.samples
        self.by_one = self.by_one and abs(by - part.batches) == 1
        if self.origin == "start":
            self._compare_with_epoch(value, tag)
        return True

    def _compare_with_epoch(self, value: float, tag: "Tag") -> None:
        """Note whether this value ends an epoch, and what that epoch's own mean is."""
        series = self.series
        before, epoch = tag.at.get(id(series), Sums()), series.since("epoch", tag)
        self.by_epoch = self.by_epoch and before.batches == series.epoch_start.batches and epoch.batches > 1
        self.last = value
        if self.weighted and epoch.samples:
            self.alone = epoch.weighted / epoch.samples
        elif epoch.batches:
            count = epoch.samples if self.divisor == SAMPLES and epoch.samples else epoch.batches
            self.alone = epoch.losses / count


@dataclass
class Tag:
    """The values logged under one name, and what they may be.

    Attributes:
        num_logs: how often it was logged.
        readings: what fits every value so far.
        at: for each series, its sums at the last log.
    """

    name: str
    location: Location | None
    num_logs: int = 0
    readings: list[Reading] | None = None
    at: dict[int, Sums] = field(default_factory=dict)
    exact: bool = True
    has_window: bool = False  # whether the user's variables hold a window that was not full yet

    def is_nothing(self) -> bool:
        """Return whether it is certain by now that these values are not losses."""
        return self.num_logs > 4 and self.readings is not None and not self.readings

    def log(self, value: float, every: list[Series]) -> None:
        """Compare a logged value with everything it may still be."""
        self.num_logs += 1
        # A value that fits into 32 bits was added up in 32 bits, so its last digits are rounding.
        single = ctypes.c_float(value).value == value
        self.exact = self.exact and not single
        tolerance = 1e-5 if single else 1e-9
        if self.readings is None and any(series.now.batches for series in every):
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
            else:  # until its window is full, a moving mean is the mean since the start; then its length shows
                self.readings += [
                    reading
                    for old in before
                    if old.is_mean_since_start() and old not in self.readings
                    for reading in _windows(old.series, value, tolerance, agreed=old.agreed)
                    if reading.window >= self.at[id(old.series)].batches and reading.agrees(value, tolerance, self)
                ]
        for series in every:
            self.at[id(series)] = series.now

    def meaning(self) -> Reading | None:
        """Return the simplest reading that fits every logged value, or None."""
        return min(filter(self._is_shown, self.readings or []), key=_simplicity, default=None)

    def possible_windows(self) -> set[int]:
        """Return how many losses a window would hold if the values, now means of everything so far, came from it."""
        means = [reading for reading in self.readings or [] if reading.origin == "start" and reading.is_whole_mean()]
        return {reading.series.now.batches for reading in means}

    def is_of_whole_loss(self, reading: Reading) -> bool:
        """Return whether a reading is of the very loss that went into backward(), and not of a part of it."""
        return any(
            other.series.is_root
            and (other.origin, other.weighted, other.divisor, other.fixed)
            == (reading.origin, reading.weighted, reading.divisor, reading.fixed)
            for other in self.readings or []
        )

    def _is_shown(self, reading: Reading) -> bool:
        """Return whether enough values agree with a reading."""
        if reading.origin == "epoch" and not reading.series.knows_epochs:
            return False
        if reading.fixed != round(reading.fixed):
            low, high = reading.counts
            return reading.agreed >= 3 and low < high and reading.series.varies()
        # One rounded value agrees with some whole divisor, or some window, by chance; three do not.
        certain = (self.exact and not reading.series.rounded) or reading.agreed >= 3
        return certain or not (reading.window or reading.fixed > 1)


def _simplicity(reading: Reading) -> tuple[int, int, int]:
    origins = ["batch", "epoch", "log", "start", "window"]
    if reading.divisor == FIXED:
        divisor = 3 if reading.fixed == 1 else 4 if not reading.weighted else 5
    elif reading.weighted == (reading.divisor == SAMPLES):
        divisor = 2 if reading.weighted else 1
    else:
        divisor = 2 if reading.series.reduction == "sum" and not reading.weighted else 4
    # A constant divisor that is right at every log gives the mean; a wrong divisor comes after it.
    return (0 if reading.origin == "batch" else 1 if divisor < 3 else 2, origins.index(reading.origin), divisor)


def _readings(series: Series) -> Iterator[Reading]:
    if series.now.batches == 0:
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
    """All loss series and all tags of one watch."""

    def __init__(self) -> None:
        self.series: dict[object, Series] = {}
        self.tags: dict[str, Tag] = {}
        self.shown: dict[str, Tag] = {}  # what was only printed
        self.weights: set[float] = set()  # constants by which the terms of the losses were multiplied

    def of(self, key: object, phase: str, reduction: str | None, *, rounded: bool = False) -> Series | None:
        """Return the series of one line of code, or None if too many lines have one already."""
        found = self.series.get(key)
        if found is None and len(self.series) < MAX_SERIES:
            found = self.series[key] = Series(phase, reduction, rounded=rounded)
        return found

    def fold(self) -> None:
        """Add all waiting values to the sums."""
        for series in self.series.values():
            series.fold()

    def log(self, tag: str, value: float, location: Location | None) -> None:
        """Note that `value` was logged as `tag`."""
        self._compare(self.tags, MAX_TAGS, tag, value, location)

    def show(self, tag: str, value: float, location: Location | None) -> None:
        """Note that `value` was printed; what it is called is `tag`."""
        self._compare(self.shown, MAX_SHOWN, tag, value, location)

    def curves(self) -> dict[str, Tag]:
        """Return the tags that were logged, and what was printed if it is made of losses."""
        return {**{name: tag for name, tag in self.shown.items() if tag.meaning() is not None}, **self.tags}

    def _compare(self, tags: dict[str, Tag], most: int, name: str, value: float, location: Location | None) -> None:
        tag = tags.get(name)
        if tag is None:
            if len(tags) >= most:
                return
            tag = tags[name] = Tag(name, location)
        if tag.is_nothing():  # then nothing has to be fetched for it either
            tag.num_logs += 1
            return
        self.fold()
        every = [series for series in self.series.values() if not series.is_by_hand or self._is_loss(series, name)]
        tag.log(value, every)

    def _is_loss(self, series: Series, tag: str) -> bool:
        """Return whether a mean that the user took is the loss: it is as large as in training, and called a loss."""
        if not LOSS_NAMES.search(tag):
            return False
        roots = [other for other in self.series.values() if other.is_root and other.varies()]
        return any(
            other.smallest - spread <= series.smallest and series.largest <= other.largest + spread
            for other in roots
            for spread in [0.5 * (other.largest - other.smallest)]
        )
