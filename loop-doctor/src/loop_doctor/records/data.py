"""What was seen of the data: which DataLoader delivered it, at which line, and what it was used for."""

from collections import Counter
from dataclasses import dataclass, field

from loop_doctor.call_sites import Location

MAX_CLASSES = 1024


@dataclass(eq=False)
class LabelRuns:
    """Whether the labels come sorted: all rows of a class in a row. The first label that comes back says no."""

    sorted: bool = True
    counts: Counter[int] = field(default_factory=Counter)
    batch_size: int = 0
    last: int | None = None

    def look(self, labels: list[int]) -> None:
        """Follow the labels of one more batch."""
        self.batch_size = max(self.batch_size, len(labels))
        for label in labels:
            if label != self.last and (label in self.counts or len(self.counts) == MAX_CLASSES):
                self.sorted = False
                return
            self.counts[label] += 1
            self.last = label

    def large(self) -> int:
        """Return how many classes fill a whole batch."""
        return sum(count >= max(self.batch_size, 8) for count in self.counts.values())


@dataclass(eq=False)
class SourceRecord:
    """One dataset that DataLoaders deliver."""

    num_passes: int = 0
    num_trained: int = 0  # batches that a backward call followed
    num_evaluated: int = 0  # batches that only a model was called on
    num_later_trained: int = 0  # the same, without the first batch of each pass
    num_later: int = 0


@dataclass(eq=False)
class SiteRecord:
    """One line that begins passes over one dataset."""

    location: Location
    source: SourceRecord
    num_batches: int = 0  # of one pass, if the order is fixed; else 0
    batch_size: int | None = None
    num_passes: int = 0
    num_trained: int = 0
    num_evaluated: int = 0
    num_steps: int = 0  # that followed the batches
    num_first_trained: int = 0  # first batches, each with a step of its own
    num_repeats: int = 0  # first batches evaluated again with the same weights
    evaluated_at: int = -1  # the number of backward calls at the last evaluation of a first batch
    same: set[int] | None = None  # what was the same in all first batches that were looked at
    labels: LabelRuns = field(default_factory=LabelRuns)
    looked_around: bool = False
    unused: str = ""  # the name of a loader that was there for this evaluation, and that nothing iterates over


@dataclass(eq=False)
class DataRecord:
    """The lines that begin passes over data."""

    sites: list[SiteRecord] = field(default_factory=list)
    num_sources_only_evaluated: int = 0
