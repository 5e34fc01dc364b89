"""The figures of a run, and means weighted by samples, over a window and over an epoch, read seldom."""

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import reduce
from itertools import accumulate, pairwise
from numbers import Real
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from course_utils.errors import quoted

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
        metrics: figures that callbacks add, by name.
        interrupted: whether the run was ended early, by Ctrl-C or a signal; neither compared nor saved.
    """

    step_loss: list[Point] = field(default_factory=list)
    epoch_loss: list[Point] = field(default_factory=list)
    valid_loss: list[Point] = field(default_factory=list)
    valid_accuracy: list[Point] = field(default_factory=list)
    lr: list[Point] = field(default_factory=list)
    grad_norm: list[Point] = field(default_factory=list)
    samples_per_second: list[Point] = field(default_factory=list, compare=False)
    metrics: dict[str, list[Point]] = field(default_factory=dict)
    interrupted: bool = field(default=False, compare=False)

    def add(self, step: int, figures: Mapping[str, float]) -> None:
        """Add figures of a step; those whose names are not attributes above are metrics."""
        for name, value in figures.items():
            points = getattr(self, name) if name in FIGURES else self.metrics.setdefault(name, [])
            points.append((step, value))

    def lists(self) -> dict[str, list[Point]]:
        """Return all lists of points by the names of their figures, also of those that callbacks add."""
        return {name: getattr(self, name) for name in FIGURES} | self.metrics

    def state_dict(self) -> dict[str, Any]:
        """Return copies of the lists as a dict that a checkpoint can hold."""
        figures = {name: list(getattr(self, name)) for name in FIGURES}
        return figures | {"metrics": {name: list(points) for name, points in self.metrics.items()}}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> "History":
        """Return the history that `state_dict` copied; metrics may be missing."""
        history = cls(metrics={name: _points(points) for name, points in state.get("metrics", {}).items()})
        for name in FIGURES:
            setattr(history, name, _points(state[name]))
        return history

    def to_frame(self) -> "pandas.DataFrame":
        """Return a pandas DataFrame with a row for each step and a column for each figure; a missing value is NaN.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError("History.to_frame needs pandas: pip install pandas") from error
        columns = {name: pandas.Series(dict(points), dtype="float64") for name, points in self.lists().items()}
        return pandas.DataFrame(columns).rename_axis("step").sort_index()


# The attributes of a history that are lists of points.
FIGURES = tuple(each.name for each in fields(History) if each.name not in ("metrics", "interrupted"))
# What an epoch can have of these; the others are of a window, or are not figures.
OF_EPOCH = ("epoch_loss", "valid_loss", "valid_accuracy")


def as_numbers(figures: Mapping[str, object]) -> dict[str, float]:
    """Return the figures of an epoch as plain numbers; callbacks may have added tensors of one element.

    Raises:
        TypeError: a figure is not one real number, or its name is not text.
        ValueError: a figure has the name of something else in a `History`.
    """
    plain = {}
    for name, value in figures.items():
        if not isinstance(name, str):
            raise TypeError(f"the name of a figure must be text, got {quoted(name)}")
        if name not in OF_EPOCH and name in (each.name for each in fields(History)):
            raise ValueError(f"a figure of an epoch cannot be called {name!r}, which is another attribute of History")
        number = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
        if not isinstance(number, Real):
            raise TypeError(f"the figure {name!r} must be one number, got {quoted(value)}")
        plain[name] = float(number)
    return plain


def _points(points: Sequence[Point]) -> list[Point]:
    return [(step, value) for step, value in points]


@dataclass
class Mean:
    """A mean weighted by what the means of its parts divide by: the sum of the losses, and of what they divide by."""

    total: float = 0.0
    count: float = 0.0

    @property
    def value(self) -> float:
        """The mean; NaN before anything is added."""
        return self.total / self.count if self.count else math.nan


class Labels(NamedTuple):
    """The labels of a batch, to be counted with those of other batches: one by one that takes many times longer.

    Attributes:
        y: class indices, shape (rows,).
        ignored: the index that does not count.
    """

    y: Tensor
    ignored: int


Count = float | Tensor | Labels


class LossMeter:
    """Keeps each step's loss on its device and reads many at once, so that the program rarely waits for a GPU.

    Reading a loss (`.item()`) makes the program wait until the device has computed it. `add` never reads;
    `read` waits for everything since the last read.

    Args:
        reduction: how the loss function joins a batch, "mean" or "sum". The means here are per sample with both, or
            per whatever the loss function's own mean divides by.

    Attributes:
        window, epoch: the means since `reset_window` and since `reset_epoch`, as of the last `read`.
        rows: number of rows since `reset_window`, as of the last `read`; it is not saved.
    """

    def __init__(self, reduction: str = "mean"):
        self.reduction = reduction
        self.window, self.epoch, self.rows = Mean(), Mean(), 0
        self._losses: list[Tensor] = []
        self._counts: list[Count] = []
        self._rows: list[float] = []

    def add(self, losses: Sequence[Tensor], counts: Sequence[Count], rows: int) -> None:
        """Add a step; its micro-batches are joined into one batch.

        Args:
            losses: of each micro-batch, one number without a graph.
            counts: what the mean of each divides by (`BatchLoss.count`), numbers or tensors of shape ().
            rows: of all of them.
        """
        loss, count = (losses[0], counts[0]) if len(losses) == 1 else _joined(losses, counts, self.reduction)
        self._losses.append(loss)
        self._counts.append(count)
        self._rows.append(rows)

    def read(self, all_reduce_sum: Reduce | None = None) -> list[float]:
        """Read what was added since the last read and move it into `window` and `epoch`.

        Args:
            all_reduce_sum: adds up rows of numbers over several processes.

        Returns the loss of each of those steps, as the loss function returned it. If one is not finite, both means
        stay as they are.
        """
        if not self._losses:
            return []
        losses, counts, rows = numbers(self._losses), numbers(self._counts), self._rows
        self._losses, self._counts, self._rows = [], [], []
        per_sample = self.reduction == "mean"
        totals = [total_of(loss, count) for loss, count in zip(losses, counts, strict=True)] if per_sample else losses
        if all_reduce_sum is not None:
            totals, counts, rows = all_reduce_sum([totals, counts, rows])
            losses = [Mean(*each).value for each in zip(totals, counts, strict=True)] if per_sample else totals
        self.rows += int(sum(rows))
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
        self.window, self.rows = Mean(), 0

    def reset_epoch(self) -> None:
        """Start a new epoch."""
        self.epoch = Mean()

    def state_dict(self) -> dict[str, list[float]]:
        """Return both means as of the last read, for a checkpoint."""
        return {name: [mean.total, mean.count] for name, mean in (("window", self.window), ("epoch", self.epoch))}

    def load_state_dict(self, state: Mapping[str, Sequence[float]]) -> None:
        """Restore the means that `state_dict` returned."""
        self.window, self.epoch = Mean(*state["window"]), Mean(*state["epoch"])


def numbers(values: Sequence[Count]) -> list[float]:
    """Return numbers as they are, tensors of shape () as numbers, and labels as how many count, waiting once."""
    tensors = [value for value in values if isinstance(value, Tensor)]
    labels = [value for value in values if isinstance(value, Labels)]
    read = iter(torch.stack(tensors).tolist() if tensors else [])
    counted = iter(_counted(labels) if labels else [])
    return [
        next(read) if isinstance(value, Tensor) else next(counted) if isinstance(value, Labels) else value
        for value in values
    ]


def _counted(labels: Sequence[Labels]) -> list[float]:
    """Return how many labels of each batch are not ignored."""
    up_to = [0, *(torch.cat([each.y for each in labels]) != labels[0].ignored).cumsum(0).tolist()]
    ends = [0, *accumulate(len(each.y) for each in labels)]
    return [float(up_to[end] - up_to[start]) for start, end in pairwise(ends)]


def total_of(mean: float, count: float) -> float:
    """Return the sum that a mean comes from; 0 if it is over nothing, such as a batch of ignored labels, and so NaN."""
    return mean * count if count else 0.0


def _joined(losses: Sequence[Tensor], counts: Sequence[Any], reduction: str) -> tuple[Tensor, float | Tensor]:
    """Return the loss and the count of the batch that micro-batches make; those with count 0 add nothing to a mean."""
    total = sum(counts)
    if reduction == "sum":
        return reduce(operator.add, losses), total
    if isinstance(total, Tensor):
        on_device = [torch.as_tensor(count, device=total.device) for count in counts]
        counted = [torch.where(count > 0, loss, 0) for loss, count in zip(losses, on_device, strict=True)]
        parts = [loss * (count / total) for loss, count in zip(counted, on_device, strict=True)]
    else:
        parts = [loss * (count / total) for loss, count in zip(losses, counts, strict=True) if count]
    return (reduce(operator.add, parts) if parts else losses[0]), total
