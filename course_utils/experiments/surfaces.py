"""Landscapes of two weights, and the paths that PyTorch's own optimizers take over them."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from course_utils.errors import positive_integer, positive_number, unknown_name

Point = tuple[float, float]


@dataclass(frozen=True)
class Surface:
    """A loss of two weights with its slope written out, so that a path of some dozen steps takes milliseconds.

    Attributes:
        name, formula: the words that a picture shows.
        loss: the loss at (x, y); works on floats, arrays and tensors alike. Its lowest value is 0.
        slope: the gradient of the loss at two floats.
        start: where every path begins.
        bottoms: the points of loss 0.
        x_range, y_range: the part that a picture shows.
    """

    name: str
    formula: str
    loss: Callable[[Any, Any], Any]
    slope: Callable[[float, float], Point]
    start: Point
    bottoms: tuple[Point, ...]
    x_range: Point = (-3.0, 3.0)
    y_range: Point = (-2.0, 2.0)

    def holds(self, x: float, y: float) -> bool:
        """Whether the point is in the picture; NaN is not."""
        return self.x_range[0] <= x <= self.x_range[1] and self.y_range[0] <= y <= self.y_range[1]

    def distance(self, x: float, y: float) -> float:
        """How far the point is from the nearest bottom."""
        return min(math.dist((x, y), bottom) for bottom in self.bottoms)


SURFACES = {
    surface.name: surface
    for surface in (
        Surface(
            "narrow valley",
            "0.05 x² + 3 y²",
            lambda x, y: 0.05 * x**2 + 3 * y**2,
            lambda x, y: (0.1 * x, 6 * y),
            start=(-2.4, 0.8),
            bottoms=((0.0, 0.0),),
        ),
        Surface(
            "round bowl",
            "0.25 x² + 0.25 y²",
            lambda x, y: 0.25 * x**2 + 0.25 * y**2,
            lambda x, y: (0.5 * x, 0.5 * y),
            start=(-2.4, 1.2),
            bottoms=((0.0, 0.0),),
        ),
        Surface(
            "bent valley",
            "0.2 (1 − x)² + (y + 1 − 0.5 x²)²",
            lambda x, y: 0.2 * (1 - x) ** 2 + (y + 1 - 0.5 * x**2) ** 2,
            lambda x, y: (-0.4 * (1 - x) - 2 * x * (y + 1 - 0.5 * x**2), 2 * (y + 1 - 0.5 * x**2)),
            start=(-2.0, 1.5),
            bottoms=((1.0, -0.5),),
        ),
        Surface(
            "saddle",
            "0.5 x² + 0.25 (y² − 1)²",
            lambda x, y: 0.5 * x**2 + 0.25 * (y**2 - 1) ** 2,
            lambda x, y: (x, y * (y**2 - 1)),
            start=(-2.4, 0.02),
            bottoms=((0.0, 1.0), (0.0, -1.0)),
        ),
    )
}

# Adam's running mean of the gradients is its momentum, so one number serves both.
WALKERS: dict[str, Callable[[list[Tensor], float, float], torch.optim.Optimizer]] = {
    "SGD": lambda weights, lr, momentum: torch.optim.SGD(weights, lr=lr),
    "momentum": lambda weights, lr, momentum: torch.optim.SGD(weights, lr=lr, momentum=momentum),
    "RMSprop": lambda weights, lr, momentum: torch.optim.RMSprop(weights, lr=lr),
    "Adam": lambda weights, lr, momentum: torch.optim.Adam(weights, lr=lr, betas=(momentum, 0.999)),
}


def walk(surface: Surface, optimizer: str, lr: float, momentum: float = 0.9, num_steps: int = 40) -> list[Point]:
    """Let one of `torch.optim`'s classes take steps over a surface, and return the start and every point after.

    A path that leaves the picture, or stops being a number, ends with its first point outside.

    Args:
        optimizer: a name in `WALKERS`.
        momentum: the momentum of "momentum" and Adam's β₁; the other two have none.

    Raises:
        ValueError: an unknown optimizer (the nearest is suggested), or a number that makes no sense.

    >>> walk(SURFACES["round bowl"], "SGD", lr=1.0, num_steps=2)
    [(-2.4, 1.2), (-1.2, 0.6), (-0.6, 0.3)]
    """
    if optimizer not in WALKERS:
        raise unknown_name("optimizer", optimizer, WALKERS)
    positive_number("lr", lr)
    positive_integer("num_steps", num_steps)
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum must be at least 0 and below 1, got {momentum!r}")
    weights = torch.tensor(surface.start, dtype=torch.float64)
    weights.grad = torch.zeros_like(weights)
    # Views on the same memory: numbers get in and out of a tensor this way in a tenth of the time.
    place, slope = weights.numpy(), weights.grad.numpy()
    walker = WALKERS[optimizer]([weights], lr, momentum)
    path = [surface.start]
    for _ in range(num_steps):
        slope[:] = surface.slope(*path[-1])
        walker.step()
        path.append((float(place[0]), float(place[1])))
        if not surface.holds(*path[-1]):
            break
    return path
