"""Training under a learning-rate schedule of a few parameters, beside the best of many constant rates."""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from course_utils import data, models
from course_utils.experiments.digits import seeded_model
from course_utils.experiments.recorded_sweeps import log_rates
from course_utils.lr import schedules, sweep_lr
from course_utils.optimizers import make_optimizer

SHAPES = ("constant", "linear", "cosine", "exponential", "steps")
WARMUP_START = 0.1
RATES_PER_DECADE = 8
EXPONENTS = (-3, 0)
CONSTANT_RATES = log_rates(*EXPONENTS, RATES_PER_DECADE)


def lr_factor(step: int, num_steps: int, *, shape: str, warmup: float, final: float) -> float:
    """Return lr / base lr at a step: a linear warm-up from a tenth, then one of `SHAPES` down to `final`.

    Args:
        warmup: the share of the steps that warm up.
        final: lr / base lr at the end of the shape; "constant" ignores it.

    >>> [round(lr_factor(step, 10, shape="linear", warmup=0.2, final=0.0), 3) for step in (0, 1, 2, 6, 9)]
    [0.1, 0.55, 1.0, 0.5, 0.125]
    """
    num_warmup = int(warmup * num_steps)
    if step < num_warmup:
        return schedules.linear(step, num_warmup, start=WARMUP_START, final=1.0)
    step, rest = step - num_warmup, num_steps - num_warmup
    if shape == "linear":
        return schedules.linear(step, rest, final=final)
    if shape == "cosine":
        return schedules.cosine(step, rest, final=final)
    if shape == "exponential":
        return schedules.exponential(step, factor=final ** (1 / rest))
    if shape == "steps":
        return schedules.multistep(step, milestones=[rest // 2, rest * 3 // 4], factor=math.sqrt(final))
    return schedules.constant(step)


@dataclass(frozen=True)
class ScheduleConfig:
    """An optimizer's name and the parameters of `lr_factor`."""

    optimizer: str
    lr: float
    shape: str
    warmup: float
    final: float

    def factor(self, step: int, num_steps: int) -> float:
        """Return lr / base lr at a step."""
        return lr_factor(step, num_steps, shape=self.shape, warmup=self.warmup, final=self.final)

    def rates(self, num_steps: int) -> list[float]:
        """Return the learning rate of each step."""
        return [self.lr * self.factor(step, num_steps) for step in range(num_steps)]


@dataclass
class ScheduledRun:
    """One run, as far as it is trained.

    Attributes:
        rates, losses: the learning rate and the loss of each step so far.
        accuracy: the share of validation images classified correctly, 0 to 1, after the last step; NaN before.
    """

    rates: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    accuracy: float = math.nan


@dataclass(frozen=True)
class ConstantRun:
    """The best run with a constant rate: its rate, the loss of each step, and the mean loss of the last epoch."""

    lr: float
    losses: list[float]
    final_loss: float


class ScheduledTraining:
    """Trains the MLP on the digits under any schedule, each run from the same weights and with the same batches.

    Attributes:
        num_epochs, steps_per_epoch, num_steps: the length of each run.
    """

    def __init__(self, *, num_epochs: int = 10, seed: int = 0):
        self.num_epochs, self.seed = num_epochs, seed
        self._digits = data.load("digits", batch_size=64, seed=seed)
        self.steps_per_epoch = len(self._digits.train)
        self.num_steps = num_epochs * self.steps_per_epoch
        self._model = seeded_model(models.MLP, seed)

    def iter_run(self, config: ScheduleConfig) -> Iterator[ScheduledRun]:
        """Train with PyTorch's optimizer and `LambdaLR`, and yield the same run after every step."""
        model = copy.deepcopy(self._model)
        optimizer = make_optimizer(config.optimizer, model.parameters(), config.lr)
        scheduler = LambdaLR(optimizer, partial(config.factor, num_steps=self.num_steps))
        loss_fn, run = nn.CrossEntropyLoss(), ScheduledRun()
        for epoch in range(self.num_epochs):
            self._digits.train.set_epoch(epoch)
            for x, y in self._digits.train:
                optimizer.zero_grad()
                loss = loss_fn(model(x), y)
                loss.backward()
                run.rates.append(optimizer.param_groups[0]["lr"])
                optimizer.step()
                scheduler.step()
                run.losses.append(loss.item())
                if len(run.losses) == self.num_steps:
                    run.accuracy = self._accuracy(model)
                yield run

    def best_constant(self, optimizer: str) -> ConstantRun:
        """Train at each of `CONSTANT_RATES`, and return the run with the lowest mean loss of the last epoch."""
        x, y = self._digits.train.dataset.tensors
        sweep = sweep_lr(
            lambda: self._model,
            x,
            y,
            CONSTANT_RATES,
            optimizer=optimizer,
            num_epochs=self.num_epochs,
            seed=self.seed,
        )
        finals = sweep.final_losses.nan_to_num(math.inf).tolist()
        index = finals.index(min(finals))
        return ConstantRun(sweep.lrs[index], sweep.losses[index].tolist(), finals[index])

    def final_loss(self, losses: list[float]) -> float:
        """Return the mean loss of the last epoch's steps."""
        last = losses[-self.steps_per_epoch :]
        return sum(last) / len(last)

    @torch.no_grad()
    def _accuracy(self, model: nn.Module) -> float:
        x, y = self._digits.valid.dataset.tensors
        return (model(x).argmax(1) == y).float().mean().item()
