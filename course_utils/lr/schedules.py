"""Schedules: plain functions that return a fraction of the base learning rate for each step.

The argument is the number of the next step, counted from 0. The learning rate of that step is the returned factor times
the base rate. PyTorch accepts such a function as it is:

    shape = functools.partial(warmup_cosine, num_steps=1000, num_warmup=100)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, shape)

Or call it yourself, `group["lr"] = base * shape(step)`. After the last step the value stays the same.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise

from course_utils.errors import finite_number, non_negative_integer, positive_integer, positive_number, quoted


def _fraction(name: str, value: float) -> float:
    return finite_number(name, value, "a fraction of the base rate, from 0 to 1", lambda number: 0 <= number <= 1)


def _power(factor: float, times: int) -> float:
    """Return `factor` to the power of `times`.

    Raises:
        ValueError: the factor is not above 0, or the power is larger than any float.
    """
    factor = positive_number("factor", factor)
    try:
        return factor**times
    except OverflowError as error:
        raise ValueError(f"factor must be smaller, got {factor!r}: its power of {times} is infinite") from error


def constant(step: int) -> float:
    """Return 1: the base rate at every step.

    >>> constant(1000)
    1.0
    """
    non_negative_integer("step", step)
    return 1.0


def step_decay(step: int, *, every: int, factor: float = 0.1) -> float:
    """Multiply by `factor` every `every` steps, as `torch.optim.lr_scheduler.StepLR` does.

    >>> [step_decay(step, every=100, factor=0.5) for step in (0, 99, 100, 250)]
    [1.0, 1.0, 0.5, 0.25]
    """
    return _power(factor, non_negative_integer("step", step) // positive_integer("every", every))


def multistep(step: int, *, milestones: Sequence[int], factor: float = 0.1) -> float:
    """Multiply by `factor` at each milestone, a step number, as `torch.optim.lr_scheduler.MultiStepLR` does.

    >>> [multistep(step, milestones=[50, 75], factor=0.5) for step in (49, 50, 75)]
    [1.0, 0.5, 0.25]
    """
    if not isinstance(milestones, list | tuple):
        raise ValueError(f"milestones must be a list of steps, got {quoted(milestones)}")
    milestones = [positive_integer(f"milestones[{index}]", each) for index, each in enumerate(milestones)]
    if any(later <= earlier for earlier, later in pairwise(milestones)):
        raise ValueError(f"milestones must rise, got {quoted(milestones)}: sort them, each once")
    return _power(factor, bisect_right(milestones, non_negative_integer("step", step)))


def exponential(step: int, *, factor: float) -> float:
    """Multiply by `factor` at every step, as `torch.optim.lr_scheduler.ExponentialLR` does.

    >>> exponential(3, factor=0.5)
    0.125
    """
    return _power(factor, non_negative_integer("step", step))


def linear(step: int, num_steps: int, *, start: float = 1.0, final: float = 0.0) -> float:
    """Follow a straight line from `start` to `final` over `num_steps` steps, as in `torch.optim.lr_scheduler.LinearLR`.

    With `start` below `final` it is a warm-up. Unlike PyTorch's it may start at 0; the first step then does nothing.

    >>> [linear(step, 4) for step in range(6)]
    [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    >>> [linear(step, 4, start=0.5, final=1.0) for step in (0, 2, 4)]
    [0.5, 0.75, 1.0]
    """
    step, num_steps = non_negative_integer("step", step), positive_integer("num_steps", num_steps)
    start, final = _fraction("start", start), _fraction("final", final)
    return start + (final - start) * min(step, num_steps) / num_steps


def cosine(step: int, num_steps: int, *, final: float = 0.0) -> float:
    """Follow half a cosine from 1 down to `final` over `num_steps` steps, and stay there.

    `torch.optim.lr_scheduler.CosineAnnealingLR` is the same up to `num_steps` and rises again after it.
    Source: Loshchilov and Hutter, SGDR, 2017, equation 5.

    >>> [round(cosine(step, 4), 4) for step in range(6)]
    [1.0, 0.8536, 0.5, 0.1464, 0.0, 0.0]
    """
    step, num_steps = non_negative_integer("step", step), positive_integer("num_steps", num_steps)
    final = _fraction("final", final)
    angle = math.pi * min(step, num_steps) / num_steps
    return final + (1 - final) * (1 + math.cos(angle)) / 2


def warmup_cosine(step: int, num_steps: int, *, num_warmup: int, start: float = 0.1, final: float = 0.0) -> float:
    """Follow a straight line from `start` up to 1 over `num_warmup` steps, then half a cosine down to `final`.

    `SequentialLR` of `LinearLR` and `CosineAnnealingLR` with the milestone `num_warmup` does the same.

    >>> [round(warmup_cosine(step, 6, num_warmup=2), 4) for step in range(7)]
    [0.1, 0.55, 1.0, 0.8536, 0.5, 0.1464, 0.0]
    """
    step, num_steps = non_negative_integer("step", step), positive_integer("num_steps", num_steps)
    start, final = _fraction("start", start), _fraction("final", final)
    num_warmup = non_negative_integer("num_warmup", num_warmup)
    if num_warmup >= num_steps:
        raise ValueError(f"num_warmup must be a whole number below num_steps={num_steps}, got {num_warmup!r}")
    if step < num_warmup:
        return linear(step, num_warmup, start=start, final=1.0)
    return cosine(step - num_warmup, num_steps - num_warmup, final=final)


def one_cycle(
    step: int, num_steps: int, *, warmup: float = 0.3, start: float = 1 / 25, final: float = 1 / 25e4
) -> float:
    """Follow half a cosine from `start` up to 1 over the fraction `warmup` of the steps, then one down to `final`.

    The last of the `num_steps` steps is taken at `final`. `torch.optim.lr_scheduler.OneCycleLR` does the same with its
    defaults, and also changes the momentum unless `cycle_momentum=False`. The base rate here is its `max_lr`.
    Source: Smith, A disciplined approach to neural network hyper-parameters, 2018.

    >>> [round(one_cycle(step, 11), 4) for step in (0, 2, 6, 10)]
    [0.04, 0.9603, 0.5306, 0.0]
    """
    step, num_steps = non_negative_integer("step", step), positive_integer("num_steps", num_steps)
    warmup = finite_number("warmup", warmup, "a fraction of the steps, between 0 and 1", lambda number: 0 < number < 1)
    start, final = _fraction("start", start), _fraction("final", final)
    peak, last = warmup * num_steps - 1, num_steps - 1
    step = min(step, last)
    if step <= peak:
        return _half_cosine(start, 1.0, step / peak if peak else 1.0)
    return _half_cosine(1.0, final, (step - peak) / (last - peak))


def _half_cosine(first: float, last: float, done: float) -> float:
    return last + (first - last) / 2 * (1 + math.cos(math.pi * done))
