"""Lesson 02's checks: gradient descent by hand, the largest learning rate of a bowl, naming loss curves."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from course_utils.checks.runner import Answer, exercise
from course_utils.checks.values import Wrong, choice, compare, first_difference, number, numbers, same


def _path(value: Any, start: float, length: int) -> list[float]:
    """Return the learner's path as a list of `length` floats that begins with `start`."""
    if isinstance(value, int | float) or getattr(value, "ndim", 1) == 0:
        raise Wrong(f"Your function returned one number, {value!r}. Return the whole path, beginning with the start.")
    path = numbers(value)
    if len(path) == length - 1 and path[:1] == [start]:
        raise Wrong(f"The last value is missing: {length - 1} steps make {length} values. Append w after each step.")
    if len(path) == length - 1:
        raise Wrong("The first value is missing: the path begins with the start itself.")
    if len(path) != length:
        raise Wrong(f"Your list has length {len(path)}; the start and one value per step make {length}.")
    return path


def _walk(start: float, num_steps: int, change: Callable[[float], float]) -> list[float]:
    path = [start]
    for _ in range(num_steps):
        path.append(path[-1] + change(path[-1]))
    return path


def _mistaken_paths(start: float, lr: float, curvature: float, num_steps: int) -> list[tuple[list[float], str]]:
    """Return the paths of typical wrong steps, each with its misconception."""
    return [
        (
            _walk(start, num_steps, lambda w: lr * curvature * w),
            "Your ball climbs. The step goes against the gradient: new = old − lr × gradient.",
        ),
        (
            _walk(start, num_steps, lambda w: -lr * w),
            "Your gradient is w, but the gradient of ½ λ w² is λ × w: multiply by the curvature.",
        ),
        (
            _walk(start, num_steps, lambda w: -lr * curvature * 0.5 * w * w),
            "You subtract lr × loss. The step is lr × gradient; here the gradient is λ × w.",
        ),
        (
            _walk(start, num_steps, lambda w: -lr * curvature * 2 * w),
            "Your gradient is 2 λ w. The function is ½ λ w², and the ½ cancels the 2.",
        ),
        (
            _walk(start, num_steps, lambda w: -lr * curvature * 0.5 * w),
            "Your gradient is ½ λ w. The derivative of the square has a factor 2, which cancels the "
            "½: the gradient is λ × w.",
        ),
        (
            _walk(start, num_steps, lambda w: lr * curvature * w - w),
            "Your new w is lr × gradient alone. Subtract the step from the old w: new = old − lr × gradient.",
        ),
        (
            [start - lr * curvature * start * step for step in range(num_steps + 1)],
            "You use the gradient at the start for every step. Compute it again at the current position.",
        ),
        (
            [start, *[start - lr * curvature * start] * num_steps],
            "Your ball takes one step and then stays. Take each step from the latest w, not from the start.",
        ),
    ]


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
        step = first_difference(path, right)
        compare(
            path,
            right,
            _mistaken_paths(start, lr, curvature, num_steps),
            f"From {start:.3f} with lr {lr:.3f} and λ {curvature:.3f}, step {step} should lead to {right[step]:.4f}; "
            f"yours leads to {path[step]:.4f}.",
        )


@exercise(
    "02-largest-rate",
    "Find the wall",
    praise="Just below your rate the loss falls; just above it, the loss grows without bound.",
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
            raise Wrong(
                f"Your function returned {len(given)} numbers. One curvature sets the limit: return "
                "the limit for the largest."
            )
        given = number(given)
        total, smallest = curvatures.sum().item(), curvatures[0].item()
        wrong = [
            (largest, "That is the largest curvature λ itself. The limit of the learning rate is 2/λ."),
            (1 / largest, "That is 1/λ, the rate that reaches the minimum in one step. The limit is twice that: 2/λ."),
            (
                2 / smallest,
                "You took the smallest curvature. The steepest direction diverges first: take the largest.",
            ),
            (
                2 / total,
                "You took the sum of all curvatures. A single direction sets the limit, the one "
                "with the largest curvature.",
            ),
            (
                4 / largest,
                "Your limit is 2 times too high. The loss is a mean of squares, so its Hessian has a factor 2.",
            ),
            (8 / largest, "Your limit is 4 times too high. The square gives the Hessian a factor 2, not ½."),
            (
                2 / (largest * rows),
                f"Your limit is {rows} times too low. The loss is a mean, so divide the Hessian by the number of rows.",
            ),
            (
                4 / (largest * rows),
                f"Your limit is {rows / 2:g} times too low: the mean divides by the number of rows, and the "
                "square gives a factor 2.",
            ),
            (
                2 * columns / largest,
                f"Your limit is {columns} times too high. Divide by the number of rows, not by all numbers in x.",
            ),
            (
                2 / math.sqrt(largest * rows / 2),
                "That is 2 divided by a singular value of x. The curvature is an eigenvalue of 2/n XᵀX.",
            ),
        ]
        limit = f"For {rows} random rows of {columns} columns the limit is {2 / largest:.4f}; yours is {given:.4f}."
        compare(given, 2 / largest, wrong, limit, rel_tol=1e-5)


@exercise("02-diagnose", "Read the curve", praise="Two flat curves with opposite remedies, and you tell them apart.")
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
            "This loss is flat and never rose: the rate is too slow. Noise decides nothing here; compare means.",
        ),
        (
            jump,
            "diverges",
            "This loss jumped to 11, then stayed flat at 2.3. The end alone looks like a rate that is too small; look "
            "at the largest loss too.",
        ),
        (
            at_once,
            "diverges",
            "This loss jumped to 625 in the first steps, then stayed flat at 2.3. Compare the end with the very "
            "first loss, before the jump.",
        ),
        (recovered, "works", "This loss jumped to 6 and then fell to 0.2: a jump alone does not make a run bad."),
        (lucky, "too slow", "One lucky batch made you call a flat run good. Take the mean of the last losses."),
        (
            broken,
            "diverges",
            "This loss rose a little and became NaN. A comparison with NaN is always false: check math.isfinite first.",
        ),
        (
            unlucky,
            "works",
            "One unlucky last batch made you call a good run bad. Compare means over several "
            "steps, not two single losses.",
        ),
    ]
    given = [choice(answer(run.tolist()), ("too slow", "works", "diverges")) for run, _, _ in runs]
    if len(set(given)) == 1:
        raise Wrong(f"Your function returns {given[0]!r} for every list.")
    for value, (_, right, why) in zip(given, runs, strict=True):
        if value != right:
            raise Wrong(f"{why} Your function returned {value!r}.")
