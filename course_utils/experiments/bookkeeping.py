"""What a running loss reports: the same batch losses, added up, divided and logged in different ways."""

import math
from dataclasses import dataclass

import torch
from torch import nn

from course_utils import data, models
from course_utils.errors import check_name, positive_integer
from course_utils.experiments.digits import seeded_model
from course_utils.training.history import Mean, Point

RESETS = {
    "never": "training began",
    "each epoch": "the epoch began",
    "each window": "the last full window",
    "each window and epoch": "the last full window, or the epoch's beginning",
}
DIVISORS = (
    "nothing",
    "batches added",
    "samples added",
    "window length",
    "batches in an epoch",
    "samples in an epoch",
)
LOGS = ("each batch", "each window", "each epoch")


@dataclass(frozen=True)
class Recording:
    """The batch losses of one training run, kept so that every way to report them can be tried.

    Attributes:
        losses: the mean loss of each batch, in the order of training.
        sizes: the number of samples in each batch.
        epoch_length: the number of batches in an epoch.

    Raises:
        ValueError: there are no losses, the number of sizes differs, or the last epoch is incomplete.
    """

    losses: list[float]
    sizes: list[int]
    epoch_length: int

    def __post_init__(self) -> None:
        positive_integer("epoch_length", self.epoch_length)
        if not self.losses or len(self.losses) != len(self.sizes):
            raise ValueError(
                f"losses and sizes must have the same length, at least 1, got {len(self.losses)} and {len(self.sizes)}"
            )
        if len(self.losses) % self.epoch_length:
            raise ValueError(
                f"the number of losses must be a multiple of epoch_length, got {len(self.losses)} losses and "
                f"epoch_length {self.epoch_length}"
            )

    @property
    def samples(self) -> int:
        """The number of samples in an epoch."""
        return sum(self.sizes[: self.epoch_length])

    def epoch_means(self) -> list[float]:
        """Return the mean loss per sample of each epoch: every sample counts once, whatever the size of its batch."""
        return [value for _, value in plotted(self, reset="each epoch", divisor="samples added", log="each epoch")]

    def epoch_of(self, step: int) -> int:
        """Return the epoch that a step belongs to, counted from 0; steps count from 1."""
        return (step - 1) // self.epoch_length

    def ratios(self, points: list[Point]) -> list[float]:
        """Return each point's value divided by the mean loss of its epoch.

        Raises:
            ValueError: the mean loss of an epoch is not a finite number above 0.
        """
        means = self.epoch_means()
        for epoch, mean in enumerate(means, start=1):
            if not (math.isfinite(mean) and mean > 0):
                raise ValueError(
                    f"the mean loss of epoch {epoch} is {mean!r}: points are divided by it, so it must be a finite "
                    "number above 0"
                )
        return [value / means[self.epoch_of(step)] for step, value in points]


def record(num_epochs: int = 10, *, lr: float = 0.1, seed: int = 0) -> Recording:
    """Train the small MLP on the digits with plain SGD and batches of 64, and return the loss of each batch."""
    num_epochs = positive_integer("num_epochs", num_epochs)
    digits = data.load("digits", batch_size=64, seed=seed)
    model = seeded_model(models.MLP, seed)
    optimizer, loss_fn = torch.optim.SGD(model.parameters(), lr=lr), nn.CrossEntropyLoss()
    losses, sizes = [], []
    for epoch in range(num_epochs):
        digits.train.set_epoch(epoch)
        for x, y in digits.train:
            optimizer.zero_grad()
            loss = loss_fn(model(x), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            sizes.append(len(y))
    return Recording(losses, sizes, len(digits.train))


def plotted(recording: Recording, *, reset: str, divisor: str, log: str, window: int = 10) -> list[Point]:
    """Return the points `(step, value)` that a loop would plot if it reported a recorded run in this way.

    As in most loops, windows are counted from the beginning of the epoch: batches 10, 20 and so on.

    Args:
        reset: when the sum is set to zero, one of `RESETS`; at the end of an epoch, after its point is logged.
        divisor: what the sum is divided by, one of `DIVISORS`; for "samples added" each loss is multiplied by its
            batch's size before it is added.
        log: when a point is plotted, one of `LOGS`.
        window: the number of batches in a window.

    Raises:
        ValueError: an unknown name, or a window that is not a whole number of at least 1.
    """
    for kind, word, known in (("reset", reset, RESETS), ("divisor", divisor, DIVISORS), ("log", log, LOGS)):
        check_name(kind, word, known)
    window = positive_integer("window", window)
    fixed = {
        "nothing": 1,
        "window length": window,
        "batches in an epoch": recording.epoch_length,
        "samples in an epoch": recording.samples,
    }
    points, kept = [], Mean()
    for index, (loss, size) in enumerate(zip(recording.losses, recording.sizes, strict=True)):
        weight = size if divisor == "samples added" else 1
        kept.total += loss * weight
        kept.count += weight
        turn = index % recording.epoch_length + 1
        window_ends, epoch_ends = turn % window == 0, turn == recording.epoch_length
        if log == "each batch" or (log == "each window" and window_ends) or (log == "each epoch" and epoch_ends):
            points.append((index + 1, kept.total / fixed.get(divisor, kept.count)))
        if (window_ends and "window" in reset) or (epoch_ends and "epoch" in reset):
            kept = Mean()
    return points


def meaning(recording: Recording, *, reset: str, divisor: str, window: int = 10) -> str:
    """Describe in words the number that results from this reset and divisor."""
    since = RESETS[reset]
    meanings = {
        "nothing": f"the sum of all batch losses since {since}",
        "batches added": f"the mean of all batch losses since {since}, each batch counted alike",
        "samples added": f"the mean loss per sample since {since}",
        "window length": f"the sum of all batch losses since {since}, divided by {window}, the length of a window",
        "batches in an epoch": (
            f"the sum of all batch losses since {since}, divided by {recording.epoch_length}, the batches in an epoch"
        ),
        "samples in an epoch": (
            f"the sum of all batch losses since {since}, divided by {recording.samples:,}, the samples in an epoch"
        ),
    }
    return meanings[divisor]
