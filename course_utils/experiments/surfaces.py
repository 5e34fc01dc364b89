"""Loss surfaces of two weights, and the paths that PyTorch's own optimizers take over them."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from course_utils.errors import check_name, decay_rate, positive_integer, positive_number

# The length of a path, and the distance from a minimum within which a path counts as having arrived.
NUM_STEPS = 40
RING_RADIUS = 0.25

Position = tuple[float, float]


@dataclass(frozen=True)
class Surface:
    """A loss of two weights with its gradient written out, so that a path of a few dozen steps takes milliseconds.

    Attributes:
        name, formula: how a picture labels the surface.
        loss: the loss at (x, y), for floats, arrays and tensors alike. Its lowest value is 0.
        gradient: the gradient of the loss at two floats.
        start: where every path begins.
        minima: the points of loss 0.
        x_range, y_range: the part that a picture shows.
    """

    name: str
    formula: str
    loss: Callable[[Any, Any], Any]
    gradient: Callable[[float, float], Position]
    start: Position
    minima: tuple[Position, ...]
    x_range: Position = (-3.0, 3.0)
    y_range: Position = (-2.0, 2.0)

    def contains(self, x: float, y: float) -> bool:
        """Return whether the point is within the picture; NaN is not."""
        return self.x_range[0] <= x <= self.x_range[1] and self.y_range[0] <= y <= self.y_range[1]

    def distance(self, x: float, y: float) -> float:
        """Return the distance from the point to the nearest minimum."""
        return min(math.dist((x, y), minimum) for minimum in self.minima)

    def arrival(self, path: list[Position]) -> int | None:
        """Return the step from which on a whole path stays close to a minimum, or None if it does not end there."""
        if len(path) <= NUM_STEPS:
            return None
        outside = [step for step, point in enumerate(path) if not self.distance(*point) <= RING_RADIUS]
        since = outside[-1] + 1
        return since if since <= NUM_STEPS else None


SURFACES = {
    surface.name: surface
    for surface in (
        Surface(
            "narrow valley",
            "0.05 x² + 3 y²",
            lambda x, y: 0.05 * x**2 + 3 * y**2,
            lambda x, y: (0.1 * x, 6 * y),
            start=(-2.4, 0.8),
            minima=((0.0, 0.0),),
        ),
        Surface(
            "round bowl",
            "0.25 x² + 0.25 y²",
            lambda x, y: 0.25 * x**2 + 0.25 * y**2,
            lambda x, y: (0.5 * x, 0.5 * y),
            start=(-2.4, 1.2),
            minima=((0.0, 0.0),),
        ),
        Surface(
            "bent valley",
            "0.2 (1 − x)² + (y + 1 − 0.5 x²)²",
            lambda x, y: 0.2 * (1 - x) ** 2 + (y + 1 - 0.5 * x**2) ** 2,
            lambda x, y: (-0.4 * (1 - x) - 2 * x * (y + 1 - 0.5 * x**2), 2 * (y + 1 - 0.5 * x**2)),
            start=(-2.0, 1.5),
            minima=((1.0, -0.5),),
        ),
        Surface(
            "saddle",
            "0.5 x² + 0.25 (y² − 1)²",
            lambda x, y: 0.5 * x**2 + 0.25 * (y**2 - 1) ** 2,
            lambda x, y: (x, y * (y**2 - 1)),
            start=(-2.4, 0.02),
            minima=((0.0, 1.0), (0.0, -1.0)),
        ),
    )
}

# Adam's running mean of the gradients is its momentum, so one setting serves both.
OPTIMIZERS: dict[str, Callable[[list[Tensor], float, float], torch.optim.Optimizer]] = {
    "SGD": lambda weights, lr, momentum: torch.optim.SGD(weights, lr=lr),
    "momentum": lambda weights, lr, momentum: torch.optim.SGD(weights, lr=lr, momentum=momentum),
    "RMSprop": lambda weights, lr, momentum: torch.optim.RMSprop(weights, lr=lr),
    "Adam": lambda weights, lr, momentum: torch.optim.Adam(weights, lr=lr, betas=(momentum, 0.999)),
}


def walk(
    surface: Surface, optimizer: str, lr: float, momentum: float = 0.9, num_steps: int = NUM_STEPS
) -> list[Position]:
    """Take steps over a surface with one of `torch.optim`'s classes, and return the start and every later point.

    A path that leaves the picture, or becomes NaN, ends with its first point outside.

    Args:
        optimizer: a name in `OPTIMIZERS`.
        momentum: the momentum of "momentum", and Adam's β₁; the other two ignore it.

    Raises:
        ValueError: an unknown optimizer (the nearest name is suggested), or a number out of range.

    >>> walk(SURFACES["round bowl"], "SGD", lr=1.0, num_steps=2)
    [(-2.4, 1.2), (-1.2, 0.6), (-0.6, 0.3)]
    """
    check_name("optimizer", optimizer, OPTIMIZERS)
    lr, num_steps = positive_number("lr", lr), positive_integer("num_steps", num_steps)
    momentum = decay_rate("momentum", momentum)
    weights = torch.tensor(surface.start, dtype=torch.float64)
    weights.grad = torch.zeros_like(weights)
    # Views of the same memory: reading and writing a tensor's numbers this way takes a tenth of the time.
    position, gradient = weights.numpy(), weights.grad.numpy()
    stepper = OPTIMIZERS[optimizer]([weights], lr, momentum)
    path = [surface.start]
    for _ in range(num_steps):
        gradient[:] = surface.gradient(*path[-1])
        stepper.step()
        path.append((float(position[0]), float(position[1])))
        if not surface.contains(*path[-1]):
            break
    return path
