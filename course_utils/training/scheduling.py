"""When a scheduler is stepped, and whether it fits the length of the run."""

import inspect
import math
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from copy import deepcopy
from itertools import pairwise
from typing import Any, NamedTuple

from torch.optim import Optimizer, lr_scheduler, swa_utils
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from course_utils.errors import check_name, quoted, unknown_name

EVERY = ("step", "epoch")
# The rates of these do not depend on the length of the run, and they go on without an end.
ENDLESS = (
    lr_scheduler.ConstantLR,
    lr_scheduler.CosineAnnealingWarmRestarts,
    lr_scheduler.CyclicLR,
    lr_scheduler.ExponentialLR,
    lr_scheduler.LinearLR,
    lr_scheduler.MultiStepLR,
    lr_scheduler.ReduceLROnPlateau,
    lr_scheduler.StepLR,
    swa_utils.SWALR,
)


def best_mode(metric: str) -> str | None:
    """Return "min" if smaller values of a metric are better, as of a loss, "max" as of an accuracy; None if unknown.

    >>> best_mode("valid_loss"), best_mode("valid_accuracy"), best_mode("f1")
    ('min', 'max', None)
    """
    return "min" if metric.endswith("loss") else "max" if metric.endswith("accuracy") else None


class Scheduling:
    """Steps a scheduler after each step or after each epoch, and checks that it fits the run.

    Args:
        scheduler: made from `optimizer`; None changes nothing.
        every: "step" or "epoch", the unit that the scheduler counts in. ReduceLROnPlateau always counts epochs.
        metric: the figure for ReduceLROnPlateau: "valid_loss", "valid_accuracy", "epoch_loss", or one that a callback
            adds.

    Raises:
        TypeError: it is not a scheduler, or `metric` is not a name.
        ValueError: it was made for another optimizer, `every` is unknown, or its mode does not fit the metric.
    """

    def __init__(
        self, scheduler: LRScheduler | None, optimizer: Optimizer, *, every: str = "step", metric: str = "valid_loss"
    ):
        check_name("scheduler_every", every, EVERY)
        if not isinstance(metric, str):
            raise TypeError(
                f"scheduler_metric must be the name of a figure, such as 'valid_loss', got {quoted(metric)}"
            )
        if scheduler is not None:
            _check_scheduler(scheduler, optimizer)
        self.scheduler, self.every, self.metric = scheduler, every, metric
        if isinstance(scheduler, ReduceLROnPlateau):
            self.every = "epoch"
            _check_mode(scheduler.mode, metric)

    def after_step(self) -> None:
        """Step a scheduler that counts steps; called after each step of the optimizer."""
        if self.scheduler is not None and self.every == "step":
            self.scheduler.step()

    def after_epoch(self, figures: Mapping[str, float]) -> None:
        """Step a scheduler that counts epochs; called after each epoch with its figures.

        Raises:
            ValueError: the figure that ReduceLROnPlateau needs is not among them.
        """
        if isinstance(self.scheduler, ReduceLROnPlateau):
            if self.metric not in figures:
                raise unknown_name("scheduler_metric", self.metric, figures)
            self.scheduler.step(figures[self.metric])
        elif self.scheduler is not None and self.every == "epoch":
            with warnings.catch_warnings():
                # A run that was stopped at the end of an epoch has taken its steps, but not in this process.
                warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
                self.scheduler.step()

    def check_plan(self, num_steps: int, num_epochs: int, planned: Mapping[str, int] | None) -> None:
        """Check that the scheduler fits the whole run; called when `fit` starts, after a checkpoint was loaded.

        Args:
            num_steps, num_epochs: what the run will have at its end, counted from its start.
            planned: `{"num_steps": …, "num_epochs": …}` of the run when it was last started; None for a new run, or
                if they are not known.

        Warns:
            RuntimeWarning: before the end of a run that was always planned so, the rate climbs again
                (CosineAnnealingLR), or becomes 0 and stays there.

        Raises:
            ValueError: OneCycleLR ends before the run does; or the run was planned with another length, and the
                scheduler would not reach the new end, or may depend on the length.
        """
        if self.scheduler is None:
            return
        now = {"num_steps": num_steps, "num_epochs": num_epochs}
        before = now if planned is None else planned
        unit = f"num_{self.every}s"
        parts = zip(_parts(self.scheduler, now[unit]), _parts(self.scheduler, before[unit]), strict=True)
        for (part, count), (_, count_before) in parts:
            name, end = type(part).__name__, _end_of(part)
            if end is None:
                problem = None if count == count_before else _other_length(part, count_before, count)
                if problem is not None:
                    raise _other_plan(before, now, f"{name} {problem}")
            elif count > end.last_count:
                made = f"{name} has {end.setting}={end.length}"
                if count_before <= end.last_count:
                    raise _other_plan(before, now, f"{made}, which is saved with the run, and then {end.fate}")
                problem = (
                    f"{made}, but this run has {count} {self.every}s for it, and after its end it {end.fate}: "
                    f"make it with {end.setting}={count}"
                )
                if type(part) is lr_scheduler.OneCycleLR:
                    raise ValueError(problem)
                warnings.warn(problem, RuntimeWarning, stacklevel=3)

    def state_dict(self) -> dict[str, Any]:
        """Return the scheduler's state; without a scheduler, an empty dict."""
        return {} if self.scheduler is None else self.scheduler.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned.

        PyTorch's schedulers keep their settings in their state, so a scheduler that was made with other settings, such
        as a longer `T_max`, continues with those of the state.
        """
        if self.scheduler is None:
            return
        # Some schedulers empty the dict that they load, and keep its lists as their own.
        self.scheduler.load_state_dict(deepcopy(dict(state)))
        for part, _ in _parts(self.scheduler, 0):
            if isinstance(part, lr_scheduler.MultiStepLR):
                part.milestones = Counter(part.milestones)  # a checkpoint holds a plain dict


class _End(NamedTuple):
    """The end of a schedule: the setting that puts it there, the last useful count, and what happens after it."""

    setting: str
    length: int
    last_count: int
    fate: str


def _end_of(scheduler: LRScheduler) -> _End | None:
    """Return the end of a schedule that is made for one length, and None for others.

    A run of n steps uses the rates of the counts 0 to n - 1, so with one step more than T_max it ends at the minimum.
    """
    if type(scheduler) is lr_scheduler.OneCycleLR:
        return _End("total_steps", scheduler.total_steps, scheduler.total_steps, "raises an error")
    if type(scheduler) is lr_scheduler.CosineAnnealingLR:
        return _End("T_max", scheduler.T_max, scheduler.T_max + 1, "climbs again")
    if type(scheduler) is lr_scheduler.PolynomialLR or (
        type(scheduler) is lr_scheduler.LinearLR and scheduler.end_factor == 0
    ):
        return _End("total_iters", scheduler.total_iters, scheduler.total_iters + 1, "stays 0")
    return None


def _other_length(scheduler: LRScheduler, before: int, now: int) -> str | None:
    """Return why a scheduler may not fit a run that has another length than planned; None if it does.

    LambdaLR is a function of the count, so its rates are computed: at the place of the run, they must be those of the
    run, and beyond the planned end they must not climb.
    """
    if type(scheduler) in ENDLESS:
        return None
    if type(scheduler) is not lr_scheduler.LambdaLR:
        return "may depend on that"
    for function, base, rate in zip(scheduler.lr_lambdas, scheduler.base_lrs, scheduler.get_last_lr(), strict=True):
        here = base * function(scheduler.last_epoch)
        if not math.isclose(here, rate, rel_tol=1e-9, abs_tol=1e-12):
            return f"has the rate {here:.4g} at this point, and the run had {rate:.4g}"
        later = [base * function(count) for count in range(min(before, now) - 1, now)]
        if any(second > first for first, second in pairwise(later)):
            return "climbs again after the planned end"
    return None


def _parts(scheduler: LRScheduler, count: int) -> Iterator[tuple[LRScheduler, int]]:
    """Yield the schedulers that a scheduler is made of, each with its own share of `count` steps or epochs."""
    if type(scheduler) is lr_scheduler.SequentialLR:
        starts, ends = [0, *scheduler._milestones], [*scheduler._milestones, count]
        for part, start, end in zip(scheduler._schedulers, starts, ends, strict=True):
            yield from _parts(part, max(0, min(end, count) - start))
    elif type(scheduler) is lr_scheduler.ChainedScheduler:
        for part in scheduler._schedulers:
            yield from _parts(part, count)
    else:
        yield scheduler, count


def _other_plan(before: Mapping[str, int], now: Mapping[str, int], why: str) -> ValueError:
    """Return the error for a run that was planned with another length than it would have now."""
    planned, asked = (f"{plan['num_epochs']} epochs ({plan['num_steps']} steps)" for plan in (before, now))
    return ValueError(
        f"the run was planned with {planned} and would now have {asked}, but {why}. "
        f"Keep num_epochs={before['num_epochs']}, or start a new run with a scheduler for its length"
    )


def _check_mode(mode: str, metric: str) -> None:
    """Check that ReduceLROnPlateau waits for improvement in the right direction."""
    fitting = best_mode(metric)
    if fitting not in (None, mode):
        better = "smaller" if fitting == "min" else "larger"
        raise ValueError(
            f"ReduceLROnPlateau has mode={mode!r}, but {metric!r} is better when it is {better}, so the rate would "
            f"fall while the model improves: make it with mode={fitting!r}"
        )


def _check_scheduler(scheduler: object, optimizer: Optimizer) -> None:
    """Check that it is a scheduler, made from this optimizer."""
    example = "StepLR(optimizer, step_size=1000) from torch.optim.lr_scheduler"
    if inspect.isclass(scheduler):
        raise TypeError(
            f"scheduler is the class {scheduler.__name__}: make one from the optimizer, for example {example}"
        )
    if not isinstance(scheduler, LRScheduler):
        if callable(scheduler):
            raise TypeError(
                f"scheduler is the function {getattr(scheduler, '__name__', quoted(scheduler))}: wrap it, as in "
                "torch.optim.lr_scheduler.LambdaLR(optimizer, function)"
            )
        raise TypeError(
            f"scheduler must be a scheduler, got {quoted(scheduler)}: make one from the optimizer, for example "
            f"{example}"
        )
    if scheduler.optimizer is not optimizer:
        raise ValueError(
            f"{type(scheduler).__name__} was made for another optimizer, so it would never change this one's lr: "
            "make it from the optimizer that the Trainer gets (lesson 03_choosing_the_learning_rate)"
        )
