"""What a running loss shows: the same batch losses, added up, divided and logged in different ways."""

from dataclasses import dataclass

import torch
from torch import nn

from course_utils import data, models
from course_utils.devices import seed_everything
from course_utils.errors import positive_integer, unknown_name
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
    """One training run, recorded: what each batch's loss was, so that every way to report it can be tried.

    Attributes:
        losses: the mean loss of each batch, in the order of training.
        sizes: the samples of each batch.
        epoch_length: batches in an epoch.

    Raises:
        ValueError: no losses, another number of sizes, or no whole number of epochs.
    """

    losses: list[float]
    sizes: list[int]
    epoch_length: int

    def __post_init__(self) -> None:
        positive_integer("epoch_length", self.epoch_length)
        if not self.losses or len(self.losses) != len(self.sizes):
            raise ValueError(
                f"there must be a size for each loss, got {len(self.losses)} losses and {len(self.sizes)} sizes"
            )
        if len(self.losses) % self.epoch_length:
            raise ValueError(f"{len(self.losses)} losses are no whole number of epochs of {self.epoch_length} batches")

    @property
    def samples(self) -> int:
        """Samples in an epoch."""
        return sum(self.sizes[: self.epoch_length])

    def epoch_means(self) -> list[float]:
        """The mean loss per sample of each epoch: every sample counts once, whatever the size of its batch."""
        return [value for _, value in plotted(self, reset="each epoch", divisor="samples added", log="each epoch")]


def record(num_epochs: int = 10, *, lr: float = 0.1, seed: int = 0) -> Recording:
    """Train the small MLP on the digits with plain SGD, batches of 64, and keep the loss of each batch."""
    positive_integer("num_epochs", num_epochs)
    digits = data.load("digits", batch_size=64, seed=seed)
    with torch.random.fork_rng(devices=[]):
        seed_everything(seed)
        model = models.MLP()
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
    """Give the points `(step, value)` that a loop with these habits would plot of a recorded run.

    As in most loops, a window is counted from the beginning of its epoch: batches 10, 20 and so on.

    Args:
        reset: when the sum is set to zero, one of `RESETS`; an epoch's end comes after the point that it logs.
        divisor: what the sum is divided by, one of `DIVISORS`; for "samples added" each loss is multiplied by its
            batch's size before it is added.
        log: when a point is plotted, one of `LOGS`.
        window: batches in a window.

    Raises:
        ValueError: an unknown word, or a window that is no whole number of at least 1.
    """
    for kind, word, known in (("reset", reset, RESETS), ("divisor", divisor, DIVISORS), ("log", log, LOGS)):
        if word not in known:
            raise unknown_name(kind, word, known)
    positive_integer("window", window)
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
    """Say in a sentence what a number is that was added up and divided like this."""
    since = RESETS[reset]
    if divisor == "samples added":
        return f"the mean loss per sample since {since}"
    if divisor == "batches added":
        return f"the mean of all batch losses since {since}, each batch counted alike"
    total = f"the sum of all batch losses since {since}"
    by = {
        "window length": f"{window}, the length of a window",
        "batches in an epoch": f"{recording.epoch_length}, the batches in an epoch",
        "samples in an epoch": f"{recording.samples:,}, the samples in an epoch",
    }
    return total if divisor == "nothing" else f"{total}, divided by {by[divisor]}"
