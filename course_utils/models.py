"""The two models of the course: each has a `base` that computes features and a `classifier` that computes logits."""

import itertools
import math
from collections.abc import Sequence

from torch import Tensor, nn

from course_utils.errors import check_name, positive_integer, quoted

# 4 GB of float32. A typing error in a shape must not freeze the machine.
MOST_WEIGHTS = 10**9


def _sizes(name: str, values: object) -> tuple[int, ...]:
    """Return a shape or a list of widths as ints.

    Raises:
        ValueError: it is not a list or a tuple of whole numbers of at least 1.
    """
    if not isinstance(values, tuple | list):
        raise ValueError(f"{name} must be a tuple of whole numbers, such as (1, 8, 8), got {quoted(values)}")
    return tuple(positive_integer(f"{name}[{index}]", value) for index, value in enumerate(values))


def _check_num_weights(name: str, num_weights: int) -> None:
    if num_weights > MOST_WEIGHTS:
        raise ValueError(
            f"the {name} would have {num_weights:.3g} weights, and {MOST_WEIGHTS:.0e} is the most: "
            "give a smaller shape, num_classes or layers"
        )


class MLP(nn.Module):
    """A multilayer perceptron: flatten, then Linear and ReLU for each hidden width, then a Linear classifier.

    Args:
        shape: the shape of one input, for example (1, 8, 8).
        num_classes: the number of logits.
        hidden: the widths of the hidden layers.

    Shapes: input (batch, *shape), logits (batch, num_classes).

    Raises:
        ValueError: a size is not a whole number of at least 1, or there would be too many weights.
    """

    def __init__(self, shape: Sequence[int] = (1, 8, 8), num_classes: int = 10, hidden: Sequence[int] = (64, 64)):
        super().__init__()
        num_classes = positive_integer("num_classes", num_classes)
        widths = [math.prod(_sizes("shape", shape)), *_sizes("hidden", hidden)]
        _check_num_weights("MLP", sum(a * b for a, b in itertools.pairwise([*widths, num_classes])))
        layers: list[nn.Module] = [nn.Flatten()]
        for width_in, width_out in itertools.pairwise(widths):
            layers += [nn.Linear(width_in, width_out), nn.ReLU()]
        self.base = nn.Sequential(*layers)
        self.classifier = nn.Linear(widths[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.base(x))


class CNN(nn.Module):
    """A small convolutional network: two 3×3 convolutions, each with ReLU and 2×2 pooling, then a Linear classifier.

    Args:
        shape: the shape of one input: (channels, height, width), height and width at least 4.
        num_classes: the number of logits.
        channels: the output channels of the two convolutions.

    Shapes: input (batch, *shape), logits (batch, num_classes).

    Raises:
        ValueError: the shape is not that of an image, the image is too small, a size is not a whole number of at least
            1, or there would be too many weights.
    """

    def __init__(self, shape: Sequence[int] = (1, 8, 8), num_classes: int = 10, channels: Sequence[int] = (16, 32)):
        super().__init__()
        shape, channels = _sizes("shape", shape), _sizes("channels", channels)
        num_classes = positive_integer("num_classes", num_classes)
        if len(shape) != 3:
            raise ValueError(f"the CNN needs images of shape (channels, height, width), got {quoted(shape)}")
        if len(channels) != 2:
            raise ValueError(
                f"channels must be those of the two convolutions, such as (16, 32), got {quoted(channels)}"
            )
        depth, height, width = shape
        if min(height, width) < 4:
            raise ValueError(f"the CNN halves its images twice: height and width must be at least 4, got shape {shape}")
        first, second = channels
        features = second * (height // 4) * (width // 4)
        _check_num_weights("CNN", 9 * (depth * first + first * second) + features * num_classes)
        self.base = nn.Sequential(
            nn.Conv2d(depth, first, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(first, second, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
        )
        self.classifier = nn.Linear(features, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.base(x))


MODELS: dict[str, type[MLP] | type[CNN]] = {"mlp": MLP, "cnn": CNN}


def make_model(name: str, shape: Sequence[int] = (1, 8, 8), num_classes: int = 10) -> nn.Module:
    """Return a new model by its name, "mlp" or "cnn", with weights drawn from PyTorch's global generator.

    Raises:
        ValueError: the name is unknown (the nearest one is suggested), or the sizes do not make a model.
    """
    check_name("model", name, MODELS)
    return MODELS[name](shape, num_classes)
