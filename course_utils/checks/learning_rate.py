"""Lesson 02's checks: gradient descent by hand, the largest learning rate of a bowl, a judge of loss curves."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from course_utils.checks.runner import Answer, exercise
from course_utils.checks.values import Wrong, choice, number, numbers, same, tell


def _path(value: Any, start: float, length: int) -> list[float]:
    """The learner's path as a list of `length` floats that begins with `start`."""
    if isinstance(value, int | float) or getattr(value, "ndim", 1) == 0:
        raise Wrong(f"Your function gave one number, {value!r}. Return the whole path, from the start on.")
    path = numbers(value)
    if len(path) == length - 1 and path[:1] == [start]:
        raise Wrong(f"The last value is missing: {length - 1} steps make {length} values. Append w after each step.")
    if len(path) == length - 1:
        raise Wrong("The first value is missing: the path begins with the start itself.")
    if len(path) != length:
        raise Wrong(f"Your list has length {len(path)}; the start and one value for each step make {length}.")
    return path


def _walk(start: float, num_steps: int, change: Callable[[float], float]) -> list[float]:
    path = [start]
    for _ in range(num_steps):
        path.append(path[-1] + change(path[-1]))
    return path


@exercise("02-descend", "Write this step", praise="Your path is the one that torch.optim.SGD takes, number by number.")
def descend(answer: Answer) -> None:
    """Check exercise 1 of lesson 02: the path of gradient descent on ½ λ w², compared with `torch.optim.SGD`."""
    generator = torch.Generator().manual_seed(0)
    for num_steps in (3, 1, 6):
        start, lr, curvature = (0.2 + torch.rand(3, generator=generator, dtype=torch.float64)).tolist()
        w = torch.tensor(start, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.SGD([w], lr=lr)
        right = [start]
        for _ in range(num_steps):
            optimizer.zero_grad()
            (0.5 * curvature * w**2).backward()
            optimizer.step()
            right.append(w.item())
        path = _path(answer(start, lr, curvature, num_steps), start, num_steps + 1)
        if same(path, right):
            continue
        first = start - lr * curvature * start
        wrong = [
            (
                _walk(start, num_steps, lambda w, a=lr * curvature: a * w),
                "Your ball climbs. The step goes against the gradient: new = old − lr × gradient.",
            ),
            (
                _walk(start, num_steps, lambda w, a=lr: -a * w),
                "Your gradient is w, but the gradient of ½ λ w² is λ × w: the curvature belongs in it.",
            ),
            (
                _walk(start, num_steps, lambda w, a=lr * curvature: -a * 0.5 * w * w),
                "You subtract lr × loss. The step is lr × gradient; here the gradient is λ × w.",
            ),
            (
                _walk(start, num_steps, lambda w, a=lr * curvature: -a * 2 * w),
                "Your gradient is 2 λ w. The function is ½ λ w², and the ½ takes the 2 away.",
            ),
            (
                _walk(start, num_steps, lambda w, a=lr * curvature: -a * 0.5 * w),
                "Your gradient is ½ λ w. The square brings a 2, which takes the ½ away: the gradient is λ × w.",
            ),
            (
                _walk(start, num_steps, lambda w, a=lr * curvature: a * w - w),
                "Your new w is lr × gradient alone. The step is taken from the old w: new = old − lr × gradient.",
            ),
            (
                [start - lr * curvature * start * step for step in range(num_steps + 1)],
                "You use the gradient of the start at every step. Work it out anew where the ball is now.",
            ),
            (
                [start, *[first] * num_steps],
                "Your ball takes one step and stays. Begin each step from the newest w, not from the start.",
            ),
        ]
        step = next(step for step in range(num_steps + 1) if not same(path[step], right[step]))
        tell(
            path,
            right,
            wrong,
            (
                f"From {start:.3f} with lr {lr:.3f} and λ {curvature:.3f}, step {step} should lead to "
                f"{right[step]:.4f}; yours leads to {path[step]:.4f}."
            ),
        )


@exercise(
    "02-largest-rate",
    "Find the wall",
    praise="Just below your rate the loss falls, just above it grows without end.",
)
def largest_rate(answer: Answer) -> None:
    """Check exercise 2 of lesson 02: the limit 2/λ of linear regression on data x, λ from the true Hessian."""
    generator = torch.Generator().manual_seed(0)
    for rows, columns in ((40, 3), (25, 6), (100, 10)):
        x = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
        weights = torch.zeros(columns, dtype=torch.float64)
        hessian = torch.autograd.functional.hessian(lambda w, x=x: ((x @ w) ** 2).mean(), weights)
        curvatures = torch.linalg.eigvalsh(hessian)
        largest = curvatures[-1].item()
        given = answer(x)
        if getattr(given, "ndim", 0) or isinstance(given, list | tuple):
            raise Wrong(f"Your function gave {len(given)} numbers. One curvature sets the limit: choose the largest.")
        given = number(given)
        total, smallest = curvatures.sum().item(), curvatures[0].item()
        wrong = [
            (largest, "That is the largest curvature λ itself. The limit of the learning rate is 2/λ."),
            (1 / largest, "That is 1/λ, the rate that lands in one step. The limit is twice as far: 2/λ."),
            (
                2 / smallest,
                "You took the smallest curvature. The steepest direction diverges first: take the largest.",
            ),
            (2 / total, "You took the sum of all curvatures. One direction alone sets the limit: the largest."),
            (4 / largest, "You are 2 times too high. The loss is a mean of squares: its Hessian has a factor 2."),
            (8 / largest, "You are 4 times too high. The square brings a factor 2 into the Hessian, not a ½."),
            (2 / (largest * rows), f"You are {rows} times too low. The loss is a mean, and a mean divides."),
            (4 / (largest * rows), f"You are {rows / 2:g} times too low: the mean divides, the square gives a 2."),
            (
                2 * columns / largest,
                f"You are {columns} times too high. Divide by the rows, not by all numbers in x.",
            ),
            (
                2 / math.sqrt(largest * rows / 2),
                "That is 2 over a singular value of x. The curvature comes from XᵀX.",
            ),
        ]
        limit = f"For {rows} random rows of {columns} columns the limit is {2 / largest:.4f}; yours is {given:.4f}."
        tell(given, 2 / largest, wrong, limit, rel_tol=1e-5)


@exercise("02-diagnose", "Read the curve", praise="Two flat curves with opposite cures, and you tell them apart.")
def diagnose(answer: Answer) -> None:
    """Check exercise 3 of lesson 02: name what a list of batch losses shows."""
    steps = torch.arange(200, dtype=torch.float64)
    noise = 0.08 * torch.randn(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    flat = math.log(10) + 0.3 * noise
    falling = 0.2 + 2.1 * torch.exp(-steps / 30) + noise
    jump = flat + 9 * torch.exp(-(((steps - 6) / 3) ** 2))
    at_once = flat.clone()
    at_once[1:8] = torch.tensor([3.3, 35.6, 134.0, 625.0, 80.0, 12.0, 4.0], dtype=torch.float64)
    recovered = falling + 4 * torch.exp(-(((steps - 6) / 2) ** 2))
    lucky = flat.clone()
    lucky[120] = 1.2
    unlucky = falling.clone()
    unlucky[-1] = 2.6
    broken = torch.where(steps < 12, 2.3 * 1.02**steps, torch.nan)
    runs: list[tuple[Tensor, str, str]] = [
        (falling, "works", "This loss falls from 2.3 to 0.2: the run works."),
        (
            flat,
            "too slow",
            "This loss lies flat and never rose: the rate is too slow. Its noise decides nothing; compare means.",
        ),
        (
            jump,
            "diverges",
            "This loss jumped to 11, then lay flat at 2.3. The end alone looks like a rate that is too small; look at "
            "the largest loss too.",
        ),
        (
            at_once,
            "diverges",
            "This loss jumped to 625 in the first steps, then lay flat at 2.3. Measure the end against the very first "
            "loss, before the jump.",
        ),
        (recovered, "works", "This loss jumped to 6 and then fell to 0.2: a jump alone does not make a bad run."),
        (lucky, "too slow", "One lucky batch made you call a flat run good. Take the mean of the last losses."),
        (
            broken,
            "diverges",
            "This loss rose a little and became NaN. A comparison with NaN is always false: ask math.isfinite first.",
        ),
        (
            unlucky,
            "works",
            "One unlucky last batch made you call a good run bad. Compare means over several steps, not two single "
            "ones.",
        ),
    ]
    given = [choice(answer(run.tolist()), ("too slow", "works", "diverges")) for run, _, _ in runs]
    if len(set(given)) == 1:
        raise Wrong(f"Your function answers {given[0]!r} whatever it is given.")
    for value, (_, right, why) in zip(given, runs, strict=True):
        if value != right:
            raise Wrong(f"{why} You answered {value!r}.")
