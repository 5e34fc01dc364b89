"""The figures of a run, and means weighted by samples, over a window and over an epoch, read seldom."""

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import reduce
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    import pandas

Point = tuple[int, float]
Reduce = Callable[[list[list[float]]], list[list[float]]]


@dataclass
class History:
    """The figures of a run: lists of `(step, value)`, where `step` counts optimizer steps from 1.

    Attributes:
        step_loss: mean loss per sample over each full window of `log_every` steps, at the window's last step.
        epoch_loss: mean loss per sample over each epoch, at the epoch's last step.
        valid_loss: loss per sample on the validation data after each epoch.
        valid_accuracy: share of correct answers on it, 0 to 1; empty when the targets are not class indices.
        lr: learning rate of the first parameter group in the window's last step.
        grad_norm: norm of all gradients, before clipping, in the window's last step; empty unless asked for.
        samples_per_second: training speed over each window, without validation and saving; the comparison of two
            histories leaves it out, because no two runs take the same time.
    """

    step_loss: list[Point] = field(default_factory=list)
    epoch_loss: list[Point] = field(default_factory=list)
    valid_loss: list[Point] = field(default_factory=list)
    valid_accuracy: list[Point] = field(default_factory=list)
    lr: list[Point] = field(default_factory=list)
    grad_norm: list[Point] = field(default_factory=list)
    samples_per_second: list[Point] = field(default_factory=list, compare=False)

    def state_dict(self) -> dict[str, list[Point]]:
        """Return copies of the lists as a dict that a checkpoint can hold."""
        return {each.name: list(getattr(self, each.name)) for each in fields(self)}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Sequence[Point]]) -> "History":
        """Return the history that `state_dict` copied."""
        return cls(**{name: [(step, value) for step, value in points] for name, points in state.items()})

    def to_frame(self) -> "pandas.DataFrame":
        """Return a pandas DataFrame with a row for each step and a column for each figure; a missing value is NaN.

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
    """A mean weighted by samples: the sum of their losses, and their number."""

    total: float = 0.0
    count: float = 0.0

    @property
    def value(self) -> float:
        """The mean per sample; NaN before anything is added."""
        return self.total / self.count if self.count else math.nan


class LossMeter:
    """Keeps each step's loss on its device and reads many at once, so that the program rarely waits for a GPU.

    Reading a loss (`.item()`) makes the program wait until the device has computed it. `add` never reads;
    `read` waits once for everything since the last read.

    Args:
        reduction: how the loss function joins a batch, "mean" or "sum". The means here are per sample with both.

    Attributes:
        window, epoch: the means since `reset_window` and since `reset_epoch`, as of the last `read`.
    """

    def __init__(self, reduction: str = "mean"):
        self.reduction = reduction
        self.window, self.epoch = Mean(), Mean()
        self._losses: list[Tensor] = []
        self._counts: list[float] = []

    def add(self, losses: Sequence[Tensor], counts: Sequence[int]) -> None:
        """Add a step: the loss of each of its micro-batches, one number without a graph, and their sample counts.

        The losses are joined into the loss of one batch of all the samples.
        """
        num_samples = sum(counts)
        if len(losses) == 1:
            loss = losses[0]
        elif self.reduction == "mean":
            parts = [each * (count / num_samples) for each, count in zip(losses, counts, strict=True)]
            loss = reduce(operator.add, parts)
        else:
            loss = reduce(operator.add, losses)
        self._losses.append(loss)
        self._counts.append(num_samples)

    def read(self, all_reduce_sum: Reduce | None = None) -> list[float]:
        """Read what was added since the last read and move it into `window` and `epoch`.

        Args:
            all_reduce_sum: adds up rows of numbers over several processes.

        Returns the loss of each of those steps, as the loss function returned it. If one is not finite, both means
        stay as they are.
        """
        if not self._losses:
            return []
        losses = torch.stack(self._losses).tolist()
        counts = self._counts
        self._losses, self._counts = [], []
        per_sample = self.reduction == "mean"
        totals = [loss * count for loss, count in zip(losses, counts, strict=True)] if per_sample else losses
        if all_reduce_sum is not None:
            totals, counts = all_reduce_sum([totals, counts])
            losses = [t / count for t, count in zip(totals, counts, strict=True)] if per_sample else totals
        if all(map(math.isfinite, losses)):
            # One after the other, in double precision: the sums do not depend on how often they are read.
            window, epoch = self.window, self.epoch
            for total, count in zip(totals, counts, strict=True):
                window.total += total
                epoch.total += total
                window.count += count
                epoch.count += count
        return losses

    def reset_window(self) -> None:
        """Start a new window."""
        self.window = Mean()

    def reset_epoch(self) -> None:
        """Start a new epoch."""
        self.epoch = Mean()

    def state_dict(self) -> dict[str, list[float]]:
        """Return both means as of the last read, for a checkpoint."""
        return {name: [mean.total, mean.count] for name, mean in (("window", self.window), ("epoch", self.epoch))}

    def load_state_dict(self, state: dict[str, list[float]]) -> None:
        """Restore the means that `state_dict` returned."""
        self.window, self.epoch = Mean(*state["window"]), Mean(*state["epoch"])
