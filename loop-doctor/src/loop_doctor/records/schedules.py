"""What was seen of one learning-rate schedule."""

from collections import Counter
from dataclasses import dataclass, field

from loop_doctor.call_sites import Location
from loop_doctor.ledger import Tag
from loop_doctor.records.optimizers import OptimizerRecord

LOW = 1e-3  # the share of the highest rate at which nothing is learned any more
MAX_GAPS = 32
FIRST = 32  # calls of a plateau scheduler whose metrics are looked at


@dataclass(eq=False)
class PassCount:
    """The passes over the data in which one optimizer made its steps.

    Attributes:
        num: how many passes have begun.
        steps: the optimizer's steps in the current pass.
        per_pass: its steps in the first pass that another one followed, or 0.
        batches: how many batches the DataLoader delivers in a pass, or 0 if that is not known.
    """

    num: int = 0
    steps: int = 0
    per_pass: int = 0
    batches: int = 0

    def begin(self) -> None:
        """Note that a pass begins."""
        if self.num == 1:
            self.per_pass = self.steps
        self.num, self.steps = self.num + 1, 0


@dataclass(eq=False)
class ScheduleRecord:
    """One scheduler that the user's own code stepped.

    Attributes:
        name: its class.
        argument: the argument that says how long it is, or "" if it has none.
        numbers: the values of that argument, or for a function the whole numbers that it uses.
        source: the text of the call that made it, and of the assignments to the names in it; "" if it is not known.
        gaps: how many optimizer steps came between two steps of the schedule.
        function: whether its length is not an argument of its own, so that the numbers are only likely.
        lowered: the share of the highest rate that was left after the first pass.
        ended: whether a step was refused because the schedule was over.
        num_seen: optimizer steps whose rate is known.
        num_low: how many of them were made at a rate of almost nothing, after a higher one.
        num_zero: and how many at a rate of zero.
    """

    name: str
    optimizer: OptimizerRecord
    passes: PassCount
    argument: str = ""
    numbers: tuple[int, ...] = ()
    source: str = ""
    function: bool = False
    location: Location | None = None
    num_steps: int = 0
    given_epoch: bool = False
    gaps: Counter[int] = field(default_factory=Counter)
    optimizer_steps: int = 0
    rate: float = 0.0
    highest: float = 0.0
    lowest: float = 0.0
    lowered: float = 1.0
    num_seen: int = 0
    num_low: int = 0
    num_zero: int = 0
    ended: bool = False

    def note_rate(self, rate: float) -> None:
        """Note the rate that the next optimizer steps use."""
        if not self.highest:
            self.highest = self.lowest = rate
        self.rate = rate
        if rate > self.highest:
            self.highest = self.lowest = rate
        elif rate < self.lowest:
            self.lowest = rate
        if self.passes.num <= 1 and self.highest:
            self.lowered = rate / self.highest

    def count_steps(self) -> int:
        """Count the optimizer steps since the last step of the schedule, and return their number."""
        gap = self.optimizer.num_steps - self.optimizer_steps
        self.optimizer_steps = self.optimizer.num_steps
        self.num_seen += gap
        if self.rate <= LOW * self.highest:
            self.num_low += gap
            self.num_zero += gap if self.rate == 0.0 else 0
        return gap

    def step(self, gap: int, location: Location | None) -> None:
        """Note one step of the schedule."""
        self.num_steps += 1
        self.location = self.location or location
        if gap in self.gaps or len(self.gaps) < MAX_GAPS:
            self.gaps[gap] += 1

    def usual_gap(self) -> int:
        """Return how many optimizer steps usually come between two steps of the schedule, or -1 if it varies."""
        gap, count = self.gaps.most_common(1)[0] if self.gaps else (-1, 0)
        return gap if count >= 0.8 * (self.num_steps - 1) else -1


@dataclass(eq=False)
class PlateauRecord:
    """One ReduceLROnPlateau, and the metrics that it was given.

    Attributes:
        tag: compares each metric with the losses that the doctor saw.
        metrics: the first metrics.
        losses: for each of them, the mean training loss since the last one, or None if it is not known.
        rows: on how many rows each model was evaluated or trained.
    """

    mode: str
    tag: Tag
    location: Location | None = None
    num_steps: int = 0
    whole: bool = True  # every metric was a Python int
    metrics: list[float] = field(default_factory=list)
    losses: list[float | None] = field(default_factory=list)
    rows: list[tuple[int, ...]] = field(default_factory=list)
    num_right: int = 0  # metrics that were a share of right answers
    num_wrong: int = 0  # and of wrong ones
    num_lowered: int = 0
    rates: list[float] = field(default_factory=list)  # the first rate, and the last one

    def note_rate(self, rate: float | None) -> None:
        """Note the rate after a metric."""
        if rate is not None:
            self.num_lowered += bool(self.rates) and rate < self.rates[-1]
            self.rates = [*self.rates[:1], rate]


@dataclass
class Schedules:
    """All schedules of one block."""

    schedules: list[ScheduleRecord] = field(default_factory=list)
    plateaus: list[PlateauRecord] = field(default_factory=list)
