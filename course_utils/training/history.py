"""Means that are right: weighted by samples, over a window and over an epoch, read from the device seldom."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

Point = tuple[int, float]
Reduce = Callable[[list[list[float]]], list[list[float]]]


@dataclass
class History:
    """The figures of a run: lists of `(step, value)`, where `step` counts optimizer steps from 1.

    Attributes:
        step_loss: mean loss per sample over each full window of `log_every` steps, at the window's last step.
        epoch_loss: mean loss per sample over each epoch, at the epoch's last step.
        valid_loss: loss per sample on the validation data after each epoch.
        valid_accuracy: share of right answers there, 0 to 1; empty where the labels are no classes.
        lr: learning rate of the first parameter group in the window's last step.
        grad_norm: norm of all gradients, before clipping, in the window's last step; empty unless asked for.
        samples_per_second: training speed over each window, without validation and saving; it is left out
            when two histories are compared, since no two runs take the same time.
    """

    step_loss: list[Point] = field(default_factory=list)
    epoch_loss: list[Point] = field(default_factory=list)
    valid_loss: list[Point] = field(default_factory=list)
    valid_accuracy: list[Point] = field(default_factory=list)
    lr: list[Point] = field(default_factory=list)
    grad_norm: list[Point] = field(default_factory=list)
    samples_per_second: list[Point] = field(default_factory=list, compare=False)

    def state_dict(self) -> dict[str, list[Point]]:
        """Copy the lists into a dict that a checkpoint can hold."""
        return {each.name: list(getattr(self, each.name)) for each in fields(self)}

    @classmethod
    def from_state_dict(cls, state: dict[str, list[Point]]) -> "History":
        """Make a history from `state_dict()`'s dict."""
        return cls(**{name: [tuple(point) for point in points] for name, points in state.items()})

    def to_frame(self):
        """Return a pandas DataFrame, one row a step and one column a figure, NaN where a step has none.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError("History.to_frame needs pandas: pip install pandas") from error
        columns = {name: pandas.Series(dict(points), dtype="float64") for name, points in self.state_dict().items()}
        return pandas.DataFrame(columns).rename_axis("step").sort_index()


@dataclass
class Mean:
    """A mean weighted by samples: the sum of all losses, and of how many samples."""

    total: float = 0.0
    count: float = 0.0

    @property
    def value(self) -> float:
        """The mean per sample; NaN before anything was added."""
        return self.total / self.count if self.count else math.nan


class LossMeter:
    """Keeps each step's loss on its device and reads all of them at once, so that a GPU is not waited for each step.

    Reading a loss (`.item()`) makes the program wait until the device has computed it. `add` never reads;
    `read` waits once for everything since the last read.

    Args:
        reduction: what the loss function does with a batch, "mean" or "sum". Means come out per sample with both.

    Attributes:
        window, epoch: the means since `reset_window` and since `reset_epoch`, as of the last `read`.
    """

    def __init__(self, reduction: str = "mean"):
        self.reduction = reduction
        self.window, self.epoch = Mean(), Mean()
        self._losses: list[Tensor] = []
        self._counts: list[int] = []

    def add(self, losses: Sequence[Tensor], counts: Sequence[int]) -> None:
        """Note a step: the loss of each of its micro-batches, one number without a graph, and how many samples each is.

        Several are joined, as the loss of one batch of all their samples.
        """
        num_samples = sum(counts)
        if len(losses) == 1:
            loss = losses[0]
        elif self.reduction == "mean":
            loss = sum(each * (count / num_samples) for each, count in zip(losses, counts, strict=True))
        else:
            loss = sum(losses)
        self._losses.append(loss)
        self._counts.append(num_samples)

    def read(self, reduce: Reduce | None = None) -> list[float]:
        """Read what was added since the last read and move it into `window` and `epoch`.

        Args:
            reduce: adds up rows of numbers over several processes.

        Returns the loss of each of those steps, as the loss function gave it. Where one is not finite,
        neither mean takes anything in.
        """
        if not self._losses:
            return []
        losses = torch.stack(self._losses).tolist()
        counts: list[float] = self._counts
        self._losses, self._counts = [], []
        per_sample = self.reduction == "mean"
        totals = [loss * count for loss, count in zip(losses, counts, strict=True)] if per_sample else losses
        if reduce is not None:
            totals, counts = reduce([totals, counts])
            losses = [t / count for t, count in zip(totals, counts, strict=True)] if per_sample else totals
        if all(map(math.isfinite, losses)):
            # One after the other, and in double precision: the same sums however often they are read.
            window, epoch = self.window, self.epoch
            for total, count in zip(totals, counts, strict=True):
                window.total += total
                epoch.total += total
                window.count += count
                epoch.count += count
        return losses

    def reset_window(self) -> None:
        """Begin a new window."""
        self.window = Mean()

    def reset_epoch(self) -> None:
        """Begin a new epoch."""
        self.epoch = Mean()

    def state_dict(self) -> dict[str, list[float]]:
        """What a checkpoint holds: both means as of the last read."""
        return {name: [mean.total, mean.count] for name, mean in (("window", self.window), ("epoch", self.epoch))}

    def load_state_dict(self, state: dict[str, list[float]]) -> None:
        """Take over `state_dict()`'s means."""
        self.window, self.epoch = Mean(*state["window"]), Mean(*state["epoch"])
